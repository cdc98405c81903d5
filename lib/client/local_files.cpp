#include "client/local_files.hpp"

#include "base/random.hpp"
#include "client/rpc.hpp"

#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace cwsandbox::client::files {

[[noreturn]] void local_error(const char* what, const std::string& path, int error) {
  throw std::filesystem::filesystem_error(std::string("cwsandbox: cannot ") + what, path,
                                          std::error_code(error, std::generic_category()));
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

// ---- to be written ----

LocalFile::LocalFile(const std::string& path, std::uint32_t mode, bool preserve) : path_(path) {
  // A symlink stays, and what it points to is replaced; who may read that is not for the sandbox to say.
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  // Before a byte has come: a name that is too long, a directory that may not be looked into.
  if (error && status.type() != std::filesystem::file_type::not_found) local_error("write", path, error.value());
  if (std::filesystem::exists(status)) {
    if (std::filesystem::is_directory(status)) local_error("write", path, EISDIR);
    if (!std::filesystem::is_regular_file(status)) local_error("replace what is no regular file", path, EINVAL);
    path_ = std::filesystem::canonical(path).string();
    if (!preserve) mode = static_cast<std::uint32_t>(status.permissions());
  }
  const std::filesystem::path target(path_);
  temporary_ = (target.parent_path() / ("." + target.filename().string().substr(0, 200) + "." + base::random_hex(6))).string();
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, static_cast<mode_t>(mode & 0777U));
  if (fd_ < 0) local_error("write", path_, errno);
  if (preserve || std::filesystem::exists(status))
    static_cast<void>(::fchmod(fd_, static_cast<mode_t>(mode & 0777U)));  // less the umask, else
}

LocalFile::~LocalFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void LocalFile::write(std::string_view bytes) const {
  while (!bytes.empty()) {
    const auto n = ::write(fd_, bytes.data(), bytes.size());
    if (n >= 0)
      bytes.remove_prefix(static_cast<std::size_t>(n));
    else if (errno != EINTR)
      local_error("write", path_, errno);
  }
}

void LocalFile::set_modified(std::chrono::system_clock::time_point time) const {
  const auto whole = std::chrono::floor<std::chrono::seconds>(time);
  timespec times[2] = {};
  times[0].tv_nsec = UTIME_OMIT;
  times[1].tv_sec = static_cast<time_t>(whole.time_since_epoch().count());
  times[1].tv_nsec = static_cast<long>(std::chrono::nanoseconds(time - whole).count());
  if (::futimens(fd_, times) != 0) local_error("set the time of", path_, errno);
}

void LocalFile::commit() {
  // Some file systems say only now that there was no room.
  if (::close(std::exchange(fd_, -1)) != 0) local_error("write", path_, errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) local_error("write", path_, errno);
  temporary_.clear();
}

// ---- to be read ----

// O_NONBLOCK: opening a FIFO would wait for somebody who writes to it.
LocalSource::LocalSource(std::string its_path, std::size_t small)
    : path(std::move(its_path)), file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  struct stat status{};
  if (file.get() < 0 || ::fstat(file.get(), &status) != 0) local_error("read", path, errno);
  if (S_ISDIR(status.st_mode)) local_error("read", path, EISDIR);
  if (!S_ISREG(status.st_mode)) local_error("send what is no regular file", path, EINVAL);
  mode = static_cast<std::uint32_t>(status.st_mode & 0777U);
  const auto said = static_cast<std::uint64_t>(status.st_size);
  if (said <= small) {
    content = read_all(small);
    if (content->size() > small) content.reset();
    return;
  }
  char end[2];
  if (read(said - 1, end, sizeof end) == 1) size = said;
}

std::size_t LocalSource::read(std::uint64_t offset, char* into, std::size_t wanted) const {
  std::size_t got = 0;
  while (got < wanted) {
    const auto n = ::pread(file.get(), into + got, wanted - got, static_cast<off_t>(offset + got));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) local_error("read", path, errno);
    if (n == 0) break;
    got += static_cast<std::size_t>(n);
  }
  return got;
}

std::string LocalSource::read_all(std::size_t most) const {
  std::string bytes(most + 1, '\0');
  bytes.resize(read(0, bytes.data(), bytes.size()));
  return bytes;
}

}  // namespace cwsandbox::client::files
