// Files of this machine, at the near end of a copy. What goes wrong with them is a std::filesystem::filesystem_error.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace cwsandbox::client::files {

[[noreturn]] void local_error(const char* what, const std::string& path, int error);

/// Closes it at the end of its life.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor();
  [[nodiscard]] int get() const noexcept { return fd_; }

 private:
  int fd_;
};

/// A local file that takes its name when it is whole, and else was never there.
class LocalFile {
 public:
  /// \param preserve `mode` is exact, whatever the umask and the file that is there already.
  LocalFile(const std::string& path, std::uint32_t mode, bool preserve = false);
  LocalFile(const LocalFile&) = delete;
  LocalFile& operator=(const LocalFile&) = delete;
  ~LocalFile();

  void write(std::string_view bytes) const;
  /// When its content is to have changed. After the last `write`.
  void set_modified(std::chrono::system_clock::time_point time) const;
  void commit();

 private:
  std::string path_, temporary_;
  int fd_ = -1;
};

/// A local file on its way. What it gives is what is sent, whatever its size is said to be: files of /proc say 0, those of /sys
/// 4096.
class LocalSource {
 public:
  /// \param small up to so many bytes, all of it is read at once.
  LocalSource(std::string its_path, std::size_t small);

  /// Bytes from `offset`, fewer than asked for only at the file's end.
  std::size_t read(std::uint64_t offset, char* into, std::size_t wanted) const;
  /// All of it, but no more than one byte beyond `most`.
  [[nodiscard]] std::string read_all(std::size_t most) const;

  std::string path;
  Descriptor file;
  std::uint32_t mode = 0;              ///< permission bits
  std::optional<std::string> content;  ///< of a small file, all of it
  std::optional<std::uint64_t> size;   ///< of a large one that ends where it says; else its end is where it is
};

}  // namespace cwsandbox::client::files
