#include "runner/pod/install.hpp"

#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "runner/local/unique_fd.hpp"

namespace cwsandbox::runner::pod {

namespace {

int copy_self(const std::string& to) {
  const local::UniqueFd from(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  struct stat status{};
  if (!from || ::fstat(from.get(), &status) != 0) return errno;
  const local::UniqueFd file(::open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file) return errno;
  for (off_t left = status.st_size; left > 0;) {
    const ssize_t n = ::sendfile(file.get(), from.get(), nullptr, static_cast<std::size_t>(left));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    if (n == 0) return EIO;  // it is being replaced under us
    left -= n;
  }
  return ::fchmod(file.get(), 0755) == 0 ? 0 : errno;
}

}  // namespace

int install(const std::string& directory) {
  const std::string name = directory + "/cwsandbox-agent";
  // An init container that was killed half way is run again, so what it left is replaced.
  const std::string temporary = directory + "/.cwsandbox-agent.new";
  int error = ::unlink(temporary.c_str()) == 0 || errno == ENOENT ? copy_self(temporary) : errno;
  if (error == 0 && ::rename(temporary.c_str(), name.c_str()) != 0) error = errno;
  if (error == 0) return 0;
  ::unlink(temporary.c_str());
  std::fprintf(stderr, "cwsandbox-agent: cannot install '%s': %s\n", name.c_str(), std::strerror(error));
  return 1;
}

}  // namespace cwsandbox::runner::pod
