#include "runner/address_block.hpp"

#include "base/numbers.hpp"

#include <string_view>

#include <arpa/inet.h>

namespace cwsandbox::runner {

namespace {

bool bit(const AddressBlock& block, unsigned index) { return ((block.address[index / 8] >> (7 - index % 8)) & 1U) != 0; }

}  // namespace

std::optional<AddressBlock> parse_block(const std::string& text) {
  const auto slash = text.find('/');
  if (slash == std::string::npos || text.find('\0') != std::string::npos) return std::nullopt;
  const std::string address = text.substr(0, slash);
  const std::string_view digits = std::string_view(text).substr(slash + 1);
  AddressBlock block;
  unsigned most = 0;
  if (::inet_pton(AF_INET, address.c_str(), block.address.data()) == 1) {
    block.family = AF_INET;
    most = 32;
  } else if (::inet_pton(AF_INET6, address.c_str(), block.address.data()) == 1) {
    block.family = AF_INET6;
    most = 128;
  }
  const auto prefix = base::parse_number<unsigned>(digits);
  if (!prefix || *prefix > most || most == 0) return std::nullopt;
  block.prefix = *prefix;
  if (digits.size() > 1 && digits.front() == '0') return std::nullopt;
  for (unsigned i = block.prefix; i < most; ++i) {
    if (bit(block, i)) return std::nullopt;
  }
  return block;
}

bool is_inside(const AddressBlock& part, const AddressBlock& whole) {
  if (part.family != whole.family || part.prefix < whole.prefix) return false;
  for (unsigned i = 0; i < whole.prefix; ++i) {
    if (bit(part, i) != bit(whole, i)) return false;
  }
  return true;
}

bool is_strictly_inside(const AddressBlock& part, const AddressBlock& whole) {
  return part.prefix != whole.prefix && is_inside(part, whole);
}

}  // namespace cwsandbox::runner
