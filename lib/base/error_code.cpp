#include "base/error_code.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <iterator>

namespace cwsandbox::base {

namespace {

// In the order of their numbers, from 1.
constexpr std::array<std::string_view, 16> kErrorCodes = {
    "canceled",       "unknown",           "invalid_argument",   "deadline_exceeded",   "not_found",
    "already_exists", "permission_denied", "resource_exhausted", "failed_precondition", "aborted",
    "out_of_range",   "unimplemented",     "internal",           "unavailable",         "data_loss",
    "unauthenticated"};

}  // namespace

std::string_view to_string(ErrorCode code) noexcept { return kErrorCodes[static_cast<std::size_t>(code) - 1]; }

std::optional<ErrorCode> parse_error_code(std::string_view text) noexcept {
  const auto* const at = std::find(kErrorCodes.begin(), kErrorCodes.end(), text);
  if (at == kErrorCodes.end()) return std::nullopt;
  return static_cast<ErrorCode>(std::distance(kErrorCodes.begin(), at) + 1);
}

}  // namespace cwsandbox::base
