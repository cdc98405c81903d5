#include "base/random.hpp"

#include "base/hex.hpp"

#include <sys/random.h>

#include <cerrno>
#include <system_error>
#include <vector>

namespace cwsandbox::base {

void fill_random(std::span<unsigned char> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::getrandom(bytes.data(), bytes.size(), 0);
    if (n < 0) {
      if (errno == EINTR) continue;
      throw std::system_error(errno, std::generic_category(), "getrandom");
    }
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

std::string random_hex(std::size_t bytes) {
  std::vector<unsigned char> raw(bytes);
  fill_random(raw);
  return to_hex(raw);
}

}  // namespace cwsandbox::base
