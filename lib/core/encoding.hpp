// Text encodings through iconv.
#pragma once

#include <string>
#include <string_view>

namespace cwsandbox::core {

/// UTF-8 `text` in `encoding`: a name of iconv's, or of Python's for one that iconv has. Throws std::invalid_argument that names
/// the encoding, or the offset of the first byte that is not UTF-8 or whose character `encoding` does not have.
[[nodiscard]] std::string encode(std::string_view text, const std::string& encoding);

}  // namespace cwsandbox::core
