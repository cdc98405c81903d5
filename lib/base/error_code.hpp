// The codes that errors have on every wire here: those of gRPC and Connect.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace cwsandbox::base {

/// The numbers are gRPC's, which has 0 for success.
enum class ErrorCode : std::uint8_t {
  canceled = 1,
  unknown = 2,  ///< also what a peer says that is none of these
  invalid_argument = 3,
  deadline_exceeded = 4,
  not_found = 5,
  already_exists = 6,
  permission_denied = 7,
  resource_exhausted = 8,
  failed_precondition = 9,
  aborted = 10,
  out_of_range = 11,
  unimplemented = 12,
  internal = 13,
  unavailable = 14,
  data_loss = 15,
  unauthenticated = 16,
};

/// As Connect writes it: "not_found".
[[nodiscard]] std::string_view to_string(ErrorCode code) noexcept;

/// Empty for what to_string() does not say.
[[nodiscard]] std::optional<ErrorCode> parse_error_code(std::string_view text) noexcept;

}  // namespace cwsandbox::base
