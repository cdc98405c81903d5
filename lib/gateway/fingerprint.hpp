// Digests: of tokens, which are not kept themselves, and of requests, which are compared.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace cwsandbox::gateway {

using Digest = std::array<unsigned char, 32>;

[[nodiscard]] Digest sha256(std::string_view bytes);

/// SHA-256 over values with their lengths, so that no two different sequences of values look alike.
class Fingerprint {
 public:
  Fingerprint& add(std::string_view value);
  Fingerprint& add(std::uint64_t value);
  [[nodiscard]] Digest digest() const;

 private:
  std::string text_;
};

}  // namespace cwsandbox::gateway
