// Small text tools of the protocol room: base64, UTF-8, and text made safe for a reason or a log.
#pragma once

#include <cstddef>
#include <cstdint>
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

/// What a cheap look at JSON text finds before a parser allocates for each level and value.
enum class JsonShape : std::uint8_t {
  fits,
  too_deep,
  /// Its values would take more memory than six times the text, and more than 4 MiB: `[{},{},{},…` takes thirty times.
  too_many_values,
};
[[nodiscard]] JsonShape shape_of(std::string_view json, std::size_t max_depth) noexcept;

/// Whether JSON text nests deeper than `max` levels.
[[nodiscard]] inline bool nests_deeper(std::string_view json, std::size_t max) noexcept {
  return shape_of(json, max) == JsonShape::too_deep;
}

}  // namespace cwsandbox::protocol
