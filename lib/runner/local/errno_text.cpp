#include "runner/local/errno_text.hpp"

#include <cstring>

namespace cwsandbox::runner::local {

namespace {

// What a text shows of a path; the whole of it goes beside the text.
constexpr std::size_t kShown = 512;

// The length of the UTF-8 character that `text` begins with; 0 when it begins with none.
[[nodiscard]] std::size_t character(std::string_view text) {
  const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return first >= 0x20 && first != 0x7f ? 1 : 0;
  const std::size_t length = first >= 0xc2 && first <= 0xdf   ? 2
                             : first >= 0xe0 && first <= 0xef ? 3
                             : first >= 0xf0 && first <= 0xf4 ? 4
                                                              : 0;
  if (length == 0 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  const unsigned char second = byte(1);
  if (first == 0xc2 && second < 0xa0) return 0;  // control characters
  if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) || (first == 0xf0 && second < 0x90) ||
      (first == 0xf4 && second > 0x8f)) {
    return 0;
  }
  return length;
}

}  // namespace

std::string error_text(int error) {
  const char* name = ::strerrorname_np(error);
  const char* description = ::strerrordesc_np(error);
  return std::string(description != nullptr ? description : "unknown error") + " (" +
         (name != nullptr ? name : std::to_string(error)) + ")";
}

std::string printable(std::string_view path) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  while (!path.empty()) {
    if (text.size() >= kShown) return text + "...";
    const std::size_t length = character(path);
    if (length > 0) {
      text.append(path.substr(0, length));
    } else {
      const auto byte = static_cast<unsigned char>(path.front());
      text += "\\x";
      text += kDigits[byte >> 4];
      text += kDigits[byte & 15];
    }
    path.remove_prefix(length > 0 ? length : 1);
  }
  return text;
}

}  // namespace cwsandbox::runner::local
