#include "gateway/fingerprint.hpp"

#include <openssl/sha.h>

namespace cwsandbox::gateway {

Digest sha256(std::string_view bytes) {
  Digest out{};
  ::SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), out.data());
  return out;
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

Digest Fingerprint::digest() const { return sha256(text_); }

}  // namespace cwsandbox::gateway
