// A file that nobody else can open and that goes with its descriptor, however the process ends.
#pragma once

#include <string>

namespace cwsandbox::gateway {

/// Opens one for reading and writing in `directory`. Its descriptor, or -1 with errno set.
[[nodiscard]] int open_nameless(const std::string& directory);

}  // namespace cwsandbox::gateway
