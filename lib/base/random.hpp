// Random bytes of the operating system.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace cwsandbox::base {

/// Good enough for keys and tokens. Throws std::system_error where the system has none.
void fill_random(std::span<unsigned char> bytes);

/// `bytes` of them, as twice as many hexadecimal digits.
[[nodiscard]] std::string random_hex(std::size_t bytes);

}  // namespace cwsandbox::base
