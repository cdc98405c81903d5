#include "gateway/text.hpp"

#include <openssl/sha.h>
#include <sys/random.h>

#include <cerrno>
#include <system_error>

namespace cwsandbox::gateway {

namespace {
constexpr char kHex[] = "0123456789abcdef";
}

std::string printable(std::string_view text, std::size_t max) {
  std::string out;
  for (const char c : text) {
    if (out.size() >= max) return out + "...";
    const auto u = static_cast<unsigned char>(c);
    if (u < 0x20 || u >= 0x7f || c == '"' || c == '\\') {
      out += "\\x";
      out += kHex[u >> 4];
      out += kHex[u & 15];
    } else {
      out += c;
    }
  }
  return out;
}

std::string to_hex(std::string_view bytes) {
  std::string out;
  out.reserve(2 * bytes.size());
  for (const char c : bytes) {
    const auto u = static_cast<unsigned char>(c);
    out += kHex[u >> 4];
    out += kHex[u & 15];
  }
  return out;
}

std::string random_hex(std::size_t bytes) {
  std::string raw(bytes, '\0');
  std::size_t have = 0;
  while (have < raw.size()) {
    const ssize_t n = ::getrandom(raw.data() + have, raw.size() - have, 0);
    if (n < 0) {
      if (errno == EINTR) continue;
      throw std::system_error(errno, std::generic_category(), "getrandom");
    }
    have += static_cast<std::size_t>(n);
  }
  return to_hex(raw);
}

Fingerprint& Fingerprint::add(std::string_view value) {
  add(static_cast<std::uint64_t>(value.size()));
  text_.append(value);
  return *this;
}

Fingerprint& Fingerprint::add(std::uint64_t value) {
  for (int shift = 0; shift < 64; shift += 8) text_ += static_cast<char>((value >> shift) & 0xff);
  return *this;
}

Digest Fingerprint::digest() const {
  Digest out{};
  ::SHA256(reinterpret_cast<const unsigned char*>(text_.data()), text_.size(), out.data());
  return out;
}

}  // namespace cwsandbox::gateway
