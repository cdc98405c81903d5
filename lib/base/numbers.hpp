// Numbers in text.
#pragma once

#include <array>
#include <charconv>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

namespace cwsandbox::base {

/// All of `text` as a number; none when it is empty, holds anything else (blanks, a "+", for an unsigned number a "-"), or says a
/// number that `Number` does not hold.
template <class Number>
[[nodiscard]] std::optional<Number> parse_number(std::string_view text, int base = 10) noexcept {
  Number number{};
  const char* const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, number, base);
  if (error != std::errc() || stopped != end) return std::nullopt;
  return number;
}

/// In octal, with zeros in front as far as it has fewer than `least` digits.
[[nodiscard]] inline std::string to_octal(unsigned long long number, std::size_t least = 1) {
  std::array<char, 24> digits{};
  const auto* const end = std::to_chars(digits.data(), digits.data() + digits.size(), number, 8).ptr;
  const auto size = static_cast<std::size_t>(end - digits.data());
  return std::string(size < least ? least - size : 0, '0').append(digits.data(), size);
}

}  // namespace cwsandbox::base
