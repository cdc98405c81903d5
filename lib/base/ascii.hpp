// Characters of ASCII, whatever the locale is: the functions of <cctype> follow it.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

namespace cwsandbox::base {

[[nodiscard]] constexpr bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }
[[nodiscard]] constexpr bool is_lower(char c) noexcept { return c >= 'a' && c <= 'z'; }
[[nodiscard]] constexpr bool is_upper(char c) noexcept { return c >= 'A' && c <= 'Z'; }
[[nodiscard]] constexpr bool is_letter(char c) noexcept { return is_lower(c) || is_upper(c); }
[[nodiscard]] constexpr bool is_letter_or_digit(char c) noexcept { return is_letter(c) || is_digit(c); }

[[nodiscard]] constexpr char to_lower(char c) noexcept { return is_upper(c) ? static_cast<char>(c - 'A' + 'a') : c; }

/// Its letters in lower case; bytes that are not ASCII stay.
[[nodiscard]] inline std::string to_lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = to_lower(c);
  return out;
}

/// Whether they are the same but for the case of letters.
[[nodiscard]] constexpr bool same_but_for_case(std::string_view a, std::string_view b) noexcept {
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(), [](char x, char y) { return to_lower(x) == to_lower(y); });
}

/// Whether it holds nothing but letters, digits and `marks`; so does an empty one.
[[nodiscard]] constexpr bool only_letters_digits_and(std::string_view marks, std::string_view text) noexcept {
  return std::all_of(text.begin(), text.end(),
                     [marks](char c) { return is_letter_or_digit(c) || marks.find(c) != std::string_view::npos; });
}

/// Without what it has of `blanks` at either end.
[[nodiscard]] constexpr std::string_view trimmed(std::string_view text, std::string_view blanks = " \t\r\n") noexcept {
  const auto first = text.find_first_not_of(blanks);
  return first == std::string_view::npos ? std::string_view() : text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

}  // namespace cwsandbox::base
