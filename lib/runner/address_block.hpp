// Blocks of IP addresses, as "10.0.0.0/8" and "fd00::/8" name them.
#pragma once

#include <array>
#include <optional>
#include <string>

namespace cwsandbox::runner {

struct AddressBlock {
  int family = 0;  ///< AF_INET or AF_INET6
  std::array<unsigned char, 16> address{};
  unsigned prefix = 0;  ///< in bits
};

/// Empty for what is none, also for one with something behind its prefix.
[[nodiscard]] std::optional<AddressBlock> parse_block(const std::string& text);

/// Whether every address of `part` is one of `whole`; a block is inside itself.
[[nodiscard]] bool is_inside(const AddressBlock& part, const AddressBlock& whole);

/// The same, and `whole` has others too.
[[nodiscard]] bool is_strictly_inside(const AddressBlock& part, const AddressBlock& whole);

}  // namespace cwsandbox::runner
