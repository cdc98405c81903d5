// Strings to read into.
#pragma once

#include <cstddef>
#include <string>

namespace cwsandbox::net {

/// A string of `size` bytes whose content is of no interest: not zeroed where the standard library can do without, which for
/// 64 KiB costs about as much as receiving them.
[[nodiscard]] std::string make_storage(std::size_t size);

}  // namespace cwsandbox::net
