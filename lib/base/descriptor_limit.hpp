// How many files this process may have open, and what to say when they are too few.
#pragma once

#include <fcntl.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstddef>
#include <string>

namespace cwsandbox::base {

/// Raises RLIMIT_NOFILE as far as this process may. For programs: a library leaves its process's limits alone.
inline void raise_descriptor_limit() noexcept {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  static_cast<void>(::setrlimit(RLIMIT_NOFILE, &limit));
}

/// Empty when `needed` more files can be opened now, else what is wrong: "N more open files are needed, …".
[[nodiscard]] inline std::string lack_of_descriptors(std::size_t needed) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return {};
  std::size_t left = 0;
  // Without opening anything, and no further than it takes.
  for (int fd = 0; static_cast<rlim_t>(fd) < limit.rlim_cur && left < needed; ++fd) {
    if (::fcntl(fd, F_GETFD) < 0 && errno == EBADF) ++left;
  }
  if (left >= needed) return {};
  return std::to_string(needed) + " more open files are needed, and of the " + std::to_string(limit.rlim_cur) +
         " that this process may have (RLIMIT_NOFILE, ulimit -n) " + std::to_string(left) + " are left";
}

/// Goes behind the text of `error`: the limit, when that is what has been reached, else nothing.
[[nodiscard]] inline std::string descriptor_hint(int error) {
  rlimit limit{};
  if (error != EMFILE || ::getrlimit(RLIMIT_NOFILE, &limit) != 0) return {};
  return " (this process may have " + std::to_string(limit.rlim_cur) + ": RLIMIT_NOFILE, ulimit -n)";
}

}  // namespace cwsandbox::base
