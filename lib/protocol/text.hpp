// Small text tools of the protocol room: base64, UTF-8, and text made safe for a reason or a log.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace cwsandbox::protocol {

/// Standard alphabet; `padded` as proto3 JSON writes it, unpadded as Connect writes error details.
[[nodiscard]] std::string base64_encode(std::string_view bytes, bool padded = true);

/// Either alphabet (standard or URL-safe), with or without padding, as proto3 JSON accepts it. Empty for anything else.
[[nodiscard]] std::optional<std::string> base64_decode(std::string_view text);

/// Strict: no overlong forms, no surrogates, nothing above U+10FFFF.
[[nodiscard]] bool is_utf8(std::string_view text) noexcept;

/// At most `max` bytes of printable ASCII: anything else becomes '?', what is cut off "...".
[[nodiscard]] std::string printable(std::string_view text, std::size_t max);

/// Whether JSON text nests deeper than `max` levels; a cheap look before a parser allocates for each level.
[[nodiscard]] bool nests_deeper(std::string_view json, std::size_t max) noexcept;

}  // namespace cwsandbox::protocol
