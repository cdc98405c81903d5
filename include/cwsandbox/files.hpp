/// \file
/// Files of a sandbox: what is known of one, and how to read and write it.
#pragma once

#include <cwsandbox/export.hpp>
#include <cwsandbox/stream_writer.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace cwsandbox {

/// What an entry of a file system is.
enum class FileType : std::uint8_t {
  unspecified,      ///< what this version does not know
  regular,          ///< a file with bytes
  directory,        ///< a directory
  symlink,          ///< a symbolic link
  fifo,             ///< a named pipe
  socket,           ///< a Unix socket
  block_device,     ///< a block device
  character_device  ///< a character device
};
/// "regular", "directory", "symlink" and so on.
[[nodiscard]] CWSANDBOX_EXPORT std::string_view to_string(FileType type) noexcept;

/// One entry of a sandbox's file system. Names and paths are bytes: they need not be UTF-8.
class FileInfo {
 public:
  FileInfo() {}
  std::string path;                                               ///< as it was asked for; in a list, the directory and the name
  std::string name;                                               ///< the last part
  FileType type = FileType::unspecified;                          ///< what it is
  std::uint64_t size = 0;                                         ///< bytes
  std::uint32_t mode = 0;                                         ///< permission bits, 07777
  std::optional<std::chrono::system_clock::time_point> modified;  ///< when its content changed; empty when the server does not say
  std::string link_target;                                        ///< of a symlink, as it stands there
};

/// Told after each piece: bytes so far, and how many there will be where that is known. Called on the client's loop, never twice at
/// once; what it throws ends the transfer with that (FI-9).
using FileProgress = std::function<void(std::uint64_t done, std::optional<std::uint64_t> total)>;

/// What to read of a file.
class CWSANDBOX_EXPORT ReadFileOptions {
 public:
  ReadFileOptions() {}
  /// Begins there, in bytes; from a file that is shorter, nothing is read.
  ReadFileOptions& with_offset(std::uint64_t offset) & { return offset_ = offset, *this; }
  /// At most so many bytes; the default is all.
  ReadFileOptions& with_length(std::uint64_t length) & { return length_ = length, *this; }
  /// `download_file`: the local file gets the permission bits, whatever the umask and the file that it replaces, and the time when
  /// the content changed.
  ReadFileOptions& with_preserve(bool on = true) & { return preserve_ = on, *this; }
  /// Told how far it is.
  ReadFileOptions& with_progress(FileProgress progress) & { return progress_ = std::move(progress), *this; }
  ReadFileOptions&& with_offset(std::uint64_t offset) && { return std::move(with_offset(offset)); }
  ReadFileOptions&& with_length(std::uint64_t length) && { return std::move(with_length(length)); }
  ReadFileOptions&& with_preserve(bool on = true) && { return std::move(with_preserve(on)); }
  ReadFileOptions&& with_progress(FileProgress progress) && { return std::move(with_progress(std::move(progress))); }
  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] std::uint64_t offset() const noexcept { return offset_; }
  [[nodiscard]] const std::optional<std::uint64_t>& length() const noexcept { return length_; }
  [[nodiscard]] bool preserve() const noexcept { return preserve_; }
  [[nodiscard]] const FileProgress& progress() const noexcept { return progress_; }
  ///@}

 private:
  std::uint64_t offset_ = 0;
  std::optional<std::uint64_t> length_;
  bool preserve_ = false;
  FileProgress progress_;
};

/// How to write a file.
class CWSANDBOX_EXPORT WriteFileOptions {
 public:
  WriteFileOptions() {}
  /// Permission bits, at most 07777. The default is the server's (0644), for `upload_file` those of the local file.
  WriteFileOptions& with_mode(std::uint32_t mode) & { return mode_ = mode, *this; }
  /// When its content is to have changed; the default is when it is written.
  WriteFileOptions& with_modified(std::chrono::system_clock::time_point time) & { return modified_ = time, *this; }
  /// Makes the directories above it that are missing.
  WriteFileOptions& with_make_parents(bool on = true) & { return make_parents_ = on, *this; }
  /// Writes to the end of the file, or of a new one, instead of replacing it: what has come can be seen at once, and stays when the
  /// rest fails. Never tried again once the server may have begun. `with_mode` is then for a new file, and `with_modified` does not
  /// go with it. A server without /v1/files, or an older one, refuses it (FI-14).
  WriteFileOptions& with_append(bool on = true) & { return append_ = on, *this; }
  /// Told how far it is.
  WriteFileOptions& with_progress(FileProgress progress) & { return progress_ = std::move(progress), *this; }
  WriteFileOptions&& with_mode(std::uint32_t mode) && { return std::move(with_mode(mode)); }
  WriteFileOptions&& with_modified(std::chrono::system_clock::time_point time) && { return std::move(with_modified(time)); }
  WriteFileOptions&& with_append(bool on = true) && { return std::move(with_append(on)); }
  WriteFileOptions&& with_make_parents(bool on = true) && { return std::move(with_make_parents(on)); }
  WriteFileOptions&& with_progress(FileProgress progress) && { return std::move(with_progress(std::move(progress))); }
  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] const std::optional<std::uint32_t>& mode() const noexcept { return mode_; }
  [[nodiscard]] const std::optional<std::chrono::system_clock::time_point>& modified() const noexcept { return modified_; }
  [[nodiscard]] bool make_parents() const noexcept { return make_parents_; }
  [[nodiscard]] bool append() const noexcept { return append_; }
  [[nodiscard]] const FileProgress& progress() const noexcept { return progress_; }
  ///@}

 private:
  std::optional<std::uint32_t> mode_;
  std::optional<std::chrono::system_clock::time_point> modified_;
  bool make_parents_ = false, append_ = false;
  FileProgress progress_;
};

/// A file that is being written. Nothing of it can be seen under its name before `writer.close()`; then `done` completes as soon as
/// the file has taken its name, or says why it has not.
///
/// \par Cancellation
/// `done.cancel()`, or the last copy of `writer` going before `close()`: nothing is committed, and nothing is left behind.
///
/// \par Errors
/// What goes wrong comes out of `done`, and out of further writes with that as the nested cause.
class FileWriteStream {
 public:
  /// From parts of your own, for fakes.
  FileWriteStream(StreamWriter its_writer, task<void> its_end) : writer(std::move(its_writer)), done(std::move(its_end)) {}
  StreamWriter writer;  ///< with back-pressure: at most 16 chunks of 64 KiB wait
  task<void> done;      ///< completes when the file has its name
};

}  // namespace cwsandbox
