#include "base/errno_text.hpp"

#include "base/numbers.hpp"

#include <cerrno>
#include <cstring>

namespace cwsandbox::base {

namespace {

constexpr int kMostErrno = 256;  // beyond the last that has a name

}  // namespace

std::string errno_name(int number) {
  if (const char* name = ::strerrorname_np(number)) return name;
  return std::to_string(number);
}

int errno_number(std::string_view name) {
  for (int number = 1; number < kMostErrno; ++number) {
    const char* known = ::strerrorname_np(number);
    if (known != nullptr && name == known) return number;
  }
  const auto number = parse_number<int>(name);
  return number && *number > 0 ? *number : EIO;
}

std::string error_text(int error) {
  const char* description = ::strerrordesc_np(error);
  return std::string(description != nullptr ? description : "unknown error") + " (" + errno_name(error) + ")";
}

}  // namespace cwsandbox::base
