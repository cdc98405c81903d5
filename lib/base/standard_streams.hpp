// The first thing that a program does.
#pragma once

#include <fcntl.h>

#include <cerrno>

namespace cwsandbox::base {

/// Puts /dev/null where descriptor 0, 1 or 2 is closed, so that nothing else that is opened gets the number, and with it a
/// program's input or output. A closed stdin is an empty one. What is written to a closed stdout is an error (EBADF), as with other
/// programs: somebody may count on it; what is written to a closed stderr is lost. False: there is no /dev/null. Needs no C++
/// runtime.
[[nodiscard]] inline bool fill_standard_streams() noexcept {
  constexpr int kModes[3] = {O_RDONLY, O_RDONLY, O_WRONLY};
  for (int fd = 0; fd < 3; ++fd) {
    // The lowest that is free is this one.
    if (::fcntl(fd, F_GETFD) < 0 && errno == EBADF && ::open("/dev/null", kModes[fd] | O_NOCTTY) != fd) return false;
  }
  return true;
}

}  // namespace cwsandbox::base
