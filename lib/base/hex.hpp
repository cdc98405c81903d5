// Bytes as hexadecimal digits, alone or behind the percent signs of a URL.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace cwsandbox::base {

/// The value of a hexadecimal digit in either case; -1 for anything else.
[[nodiscard]] constexpr int hex_value(char c) noexcept {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

/// Adds the two digits of a byte, in lower case.
void append_hex(std::string& out, unsigned char byte);

/// Two digits a byte, in lower case.
[[nodiscard]] std::string to_hex(std::string_view bytes);
[[nodiscard]] std::string to_hex(std::span<const unsigned char> bytes);

/// For a part of a URL: all but the unreserved characters of RFC 3986 (letters, digits and "-._~") and those of `also_plain` as
/// %NN.
[[nodiscard]] std::string percent_encode(std::string_view bytes, std::string_view also_plain = {});

/// Empty when a '%' is not followed by two hexadecimal digits. A '+' is a '+'.
[[nodiscard]] std::optional<std::string> percent_decode(std::string_view text);

}  // namespace cwsandbox::base
