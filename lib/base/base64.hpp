// Bytes in base64, as RFC 4648 has it.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace cwsandbox::base {

/// Standard alphabet; `padded` as proto3 JSON writes it, unpadded as Connect writes error details.
[[nodiscard]] std::string base64_encode(std::string_view bytes, bool padded = true);
/// The same, behind what is in `out`.
void append_base64(std::string& out, std::string_view bytes, bool padded = true);

/// Either alphabet (standard or URL-safe), with or without padding, as proto3 JSON accepts it. Empty for anything else.
[[nodiscard]] std::optional<std::string> base64_decode(std::string_view text);

}  // namespace cwsandbox::base
