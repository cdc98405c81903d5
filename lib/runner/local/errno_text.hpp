// Words for errors.
#pragma once

#include <string>
#include <string_view>

namespace cwsandbox::runner::local {

/// E.g. "No such file or directory (ENOENT)".
[[nodiscard]] std::string error_text(int error);

/// A path as it can stand in a text: what is no printable UTF-8 is written as \xNN.
[[nodiscard]] std::string printable(std::string_view path);

}  // namespace cwsandbox::runner::local
