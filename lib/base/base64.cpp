#include "base/base64.hpp"

#include <array>
#include <cstddef>
#include <cstdint>

namespace cwsandbox::base {

namespace {

constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr std::uint8_t kInvalid = 0xff;

constexpr std::array<std::uint8_t, 256> make_reverse() {
  std::array<std::uint8_t, 256> reverse{};
  for (auto& value : reverse) value = kInvalid;
  for (std::size_t i = 0; i < kAlphabet.size(); ++i)
    reverse[static_cast<std::uint8_t>(kAlphabet[i])] = static_cast<std::uint8_t>(i);
  reverse['-'] = 62;
  reverse['_'] = 63;
  return reverse;
}

constexpr auto kReverse = make_reverse();

}  // namespace

std::string base64_encode(std::string_view bytes, bool padded) {
  std::string out;
  append_base64(out, bytes, padded);
  return out;
}

void append_base64(std::string& out, std::string_view bytes, bool padded) {
  const std::size_t whole = bytes.size() / 3, rest = bytes.size() % 3, before = out.size();
  out.resize(before + whole * 4 + (rest == 0 ? 0 : padded ? 4 : rest + 1), '=');
  char* to = out.data() + before;
  const auto at = [&bytes](std::size_t index) { return static_cast<std::uint32_t>(static_cast<std::uint8_t>(bytes[index])); };
  for (std::size_t i = 0; i < whole * 3; i += 3) {
    const std::uint32_t group = (at(i) << 16) | (at(i + 1) << 8) | at(i + 2);
    *to++ = kAlphabet[group >> 18];
    *to++ = kAlphabet[(group >> 12) & 63];
    *to++ = kAlphabet[(group >> 6) & 63];
    *to++ = kAlphabet[group & 63];
  }
  if (rest != 0) {
    const std::uint32_t group = (at(whole * 3) << 16) | (rest == 2 ? at(whole * 3 + 1) << 8 : 0);
    *to++ = kAlphabet[group >> 18];
    *to++ = kAlphabet[(group >> 12) & 63];
    if (rest == 2) *to++ = kAlphabet[(group >> 6) & 63];
  }
}

std::optional<std::string> base64_decode(std::string_view text) {
  if (text.size() % 4 == 0) {
    for (int i = 0; i < 2 && text.ends_with('='); ++i) text.remove_suffix(1);
  }
  const std::size_t whole = text.size() / 4, rest = text.size() % 4;
  if (rest == 1) return std::nullopt;
  std::string out(whole * 3 + (rest == 0 ? 0 : rest - 1), '\0');
  char* to = out.data();
  std::uint32_t seen = 0;  // a digit that is none has a bit that no digit has
  const auto at = [&](std::size_t index) {
    const std::uint32_t value = kReverse[static_cast<std::uint8_t>(text[index])];
    seen |= value;
    return value;
  };
  const auto put = [&to](std::uint32_t byte) { *to++ = static_cast<char>(static_cast<std::uint8_t>(byte & 0xff)); };
  for (std::size_t i = 0; i < whole * 4; i += 4) {
    const std::uint32_t group = (at(i) << 18) | (at(i + 1) << 12) | (at(i + 2) << 6) | at(i + 3);
    put(group >> 16);
    put(group >> 8);
    put(group);
  }
  if (rest != 0) {
    const std::size_t i = whole * 4;
    const std::uint32_t group = (at(i) << 18) | (at(i + 1) << 12) | (rest == 3 ? at(i + 2) << 6 : 0);
    put(group >> 16);
    if (rest == 3) put(group >> 8);
  }
  if ((seen & ~std::uint32_t{63}) != 0) return std::nullopt;
  return out;
}

}  // namespace cwsandbox::base
