#include "base/hex.hpp"

#include "base/ascii.hpp"

namespace cwsandbox::base {

namespace {

constexpr std::string_view kLowerDigits = "0123456789abcdef";
constexpr std::string_view kUpperDigits = "0123456789ABCDEF";  // as RFC 3986 asks for behind a '%'

}  // namespace

void append_hex(std::string& out, unsigned char byte) {
  out += kLowerDigits[byte >> 4U];
  out += kLowerDigits[byte & 15U];
}

std::string to_hex(std::span<const unsigned char> bytes) {
  std::string out;
  out.reserve(2 * bytes.size());
  for (const unsigned char byte : bytes) append_hex(out, byte);
  return out;
}

std::string to_hex(std::string_view bytes) {
  return to_hex(std::span(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()));
}

std::string percent_encode(std::string_view bytes, std::string_view also_plain) {
  constexpr std::string_view kMarks = "-._~";
  std::string out;
  out.reserve(bytes.size());
  for (const char c : bytes) {
    if (is_letter_or_digit(c) || kMarks.find(c) != std::string_view::npos || also_plain.find(c) != std::string_view::npos) {
      out += c;
      continue;
    }
    const auto byte = static_cast<unsigned char>(c);
    out += '%';
    out += kUpperDigits[byte >> 4U];
    out += kUpperDigits[byte & 15U];
  }
  return out;
}

std::optional<std::string> percent_decode(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    const int high = i + 2 < text.size() ? hex_value(text[i + 1]) : -1;
    const int low = i + 2 < text.size() ? hex_value(text[i + 2]) : -1;
    if (high < 0 || low < 0) return std::nullopt;
    out += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return out;
}

}  // namespace cwsandbox::base
