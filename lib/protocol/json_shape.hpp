// A look at JSON text before it is parsed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace cwsandbox::protocol {

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
