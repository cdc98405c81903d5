// Points in time as RFC 3339 writes them.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace cwsandbox::base {

/// Any offset, up to nine digits of a second's fraction, the years that system_clock holds (1678 to 2261). Empty for anything else.
[[nodiscard]] std::optional<std::chrono::system_clock::time_point> parse_timestamp(std::string_view text);

/// The digits of a second's fraction.
enum class Fraction : std::uint8_t {
  shortest,  ///< 0, 3, 6 or 9, as proto3 JSON writes them
  nine,
};

/// In UTC, with a Z.
[[nodiscard]] std::string format_timestamp(std::chrono::system_clock::time_point time, Fraction fraction = Fraction::shortest);

}  // namespace cwsandbox::base
