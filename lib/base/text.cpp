#include "base/text.hpp"

#include <algorithm>

#include "base/hex.hpp"

namespace cwsandbox::base {

namespace {

constexpr std::size_t kShown = 512;

bool is_printable_ascii(char c) noexcept { return c >= ' ' && c <= '~'; }

void append_escaped(std::string& out, char c) {
  out += "\\x";
  append_hex(out, static_cast<unsigned char>(c));
}

}  // namespace

std::size_t utf8_character(std::string_view text) noexcept {
  if (text.empty()) return 0;
  const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xc2 && first <= 0xdf   ? 2
                             : first >= 0xe0 && first <= 0xef ? 3
                             : first >= 0xf0 && first <= 0xf4 ? 4
                                                              : 0;
  if (length == 0 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  const unsigned char second = byte(1);
  const bool overlong = (first == 0xe0 && second < 0xa0) || (first == 0xf0 && second < 0x90);
  const bool surrogate = first == 0xed && second > 0x9f;
  const bool too_large = first == 0xf4 && second > 0x8f;
  return overlong || surrogate || too_large ? 0 : length;
}

bool is_utf8(std::string_view text) noexcept {
  std::size_t at = 0;
  while (at < text.size()) {
    if (static_cast<unsigned char>(text[at]) < 0x80) {
      ++at;
      continue;
    }
    const std::size_t length = utf8_character(text.substr(at));
    if (length == 0) return false;
    at += length;
  }
  return true;
}

std::string repaired_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const std::size_t size = utf8_character(text);
    out += size == 0 ? std::string_view("\xEF\xBF\xBD") : text.substr(0, size);
    text.remove_prefix(std::max<std::size_t>(size, 1));
  }
  return out;
}

std::string printable(std::string_view text, std::size_t max) {
  const bool cut = text.size() > max;
  std::string out(cut ? text.substr(0, max < 3 ? 0 : max - 3) : text);
  for (char& c : out) {
    if (!is_printable_ascii(c)) c = '?';
  }
  if (cut) out += "...";
  return out;
}

std::string escaped(std::string_view text, std::size_t max) {
  std::string out;
  for (const char c : text) {
    if (out.size() >= max) return out + "...";
    if (is_printable_ascii(c) && c != '"' && c != '\\') {
      out += c;
    } else {
      append_escaped(out, c);
    }
  }
  return out;
}

std::string in_quotes(std::string_view text, std::size_t max) { return '"' + escaped(text, max) + '"'; }

std::string printable_utf8(std::string_view text) {
  // The control characters of ASCII and those that follow it, U+0080 to U+009F.
  const auto is_control = [](std::string_view character) {
    const auto byte = static_cast<unsigned char>(character.front());
    if (byte == 0xc2) return static_cast<unsigned char>(character[1]) < 0xa0;
    return byte < 0x20 || byte == 0x7f;
  };
  std::string out;
  while (!text.empty()) {
    if (out.size() >= kShown) return out + "...";
    const std::string_view character = text.substr(0, utf8_character(text));
    if (!character.empty() && !is_control(character)) {
      out += character;
      text.remove_prefix(character.size());
    } else {
      append_escaped(out, text.front());
      text.remove_prefix(1);
    }
  }
  return out;
}

}  // namespace cwsandbox::base
