// Words for the system's errors.
#pragma once

#include <string>
#include <string_view>

namespace cwsandbox::base {

/// "ENOENT"; the number in decimal when it has no name here.
[[nodiscard]] std::string errno_name(int number);

/// The number that it has here, for what errno_name() says; EIO for a name that is none.
[[nodiscard]] int errno_number(std::string_view name);

/// E.g. "No such file or directory (ENOENT)".
[[nodiscard]] std::string error_text(int error);

}  // namespace cwsandbox::base
