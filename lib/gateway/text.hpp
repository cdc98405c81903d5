// Small pieces of text: what may go into a log line, random ids, digests.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace cwsandbox::gateway {

/// `text` with control characters and bytes that are not ASCII escaped, cut to about `max` bytes: what a peer sent may not forge
/// a log line.
[[nodiscard]] std::string printable(std::string_view text, std::size_t max);

/// `bytes` random bytes of the operating system, in hexadecimal.
[[nodiscard]] std::string random_hex(std::size_t bytes);

[[nodiscard]] std::string to_hex(std::string_view bytes);

using Digest = std::array<unsigned char, 32>;

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
