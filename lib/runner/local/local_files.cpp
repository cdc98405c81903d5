#include "runner/local/local_files.hpp"

#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <exception>
#include <utility>

#include "base/errno_text.hpp"
#include "base/text.hpp"
#include "runner/local/local_watch.hpp"

namespace cwsandbox::runner::local {

namespace {

using agent::FileOp;

// What one call may copy, and how many entries of a directory it may look at: a sandbox's calls take turns.
constexpr std::size_t kCallBytes = 1u << 20;
constexpr std::size_t kCallEntries = 256;
// Memory that is taken ahead for a file that is being written.
constexpr std::uint64_t kMostAhead = 8u << 20;

// The sandbox's user and group, as it sees them; all others are nobody there.
constexpr std::uint32_t kInside = 1000;
constexpr std::uint32_t kNobody = 65534;

[[nodiscard]] FileFailed failed(int error, const char* what, const std::string& path) {
  return {error, path, std::string("cannot ") + what + " '" + base::printable_utf8(path) + "': " + base::error_text(error)};
}

void check_path(const std::string& path, const char* what) {
  if (path.empty()) throw RunnerError(ErrorCode::invalid_argument, "CWSANDBOX_INVALID_REQUEST", "the path is empty");
  if (path.find('\0') != std::string::npos) {
    throw RunnerError(ErrorCode::invalid_argument, "CWSANDBOX_INVALID_REQUEST", "the path holds a NUL byte");
  }
  if (path.size() >= PATH_MAX) throw failed(ENAMETOOLONG, what, path);
}

[[nodiscard]] std::string last_part(const std::string& path) {
  const std::size_t end = path.find_last_not_of('/');
  if (end == std::string::npos) return "/";
  const std::size_t slash = path.find_last_of('/', end);
  return path.substr(slash == std::string::npos ? 0 : slash + 1, end - (slash == std::string::npos ? 0 : slash + 1) + 1);
}

[[nodiscard]] FileType file_type(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG:
      return FileType::regular;
    case S_IFDIR:
      return FileType::directory;
    case S_IFLNK:
      return FileType::symlink;
    case S_IFIFO:
      return FileType::fifo;
    case S_IFSOCK:
      return FileType::socket;
    case S_IFBLK:
      return FileType::block_device;
    case S_IFCHR:
      return FileType::character_device;
    default:
      return FileType::unknown;
  }
}

// How the numbers of users and groups here are those in the sandbox.
struct Users {
  explicit Users(const FileAgent& agent) : same(agent.shares_users()), uid(agent.uid()), gid(agent.gid()) {}
  bool same;
  uid_t uid;
  gid_t gid;
};

[[nodiscard]] FileInfo file_info(const Users& users, std::string name, const struct stat& status) {
  FileInfo info;
  info.name = std::move(name);
  info.type = file_type(status.st_mode);
  info.size = static_cast<std::uint64_t>(std::max<off_t>(status.st_size, 0));
  info.mode = status.st_mode & 07777;
  info.uid = users.same ? status.st_uid : status.st_uid == users.uid ? kInside : kNobody;
  info.gid = users.same ? status.st_gid : status.st_gid == users.gid ? kInside : kNobody;
  const auto since = std::chrono::seconds(status.st_mtim.tv_sec) + std::chrono::nanoseconds(status.st_mtim.tv_nsec);
  info.modified = std::chrono::system_clock::time_point(std::chrono::duration_cast<std::chrono::system_clock::duration>(since));
  return info;
}

// What links in /proc lead to depends on who asks, and this process is not who should.
[[nodiscard]] bool is_proc(int fd) {
  struct statfs system{};
  return ::fstatfs(fd, &system) != 0 || system.f_type == PROC_SUPER_MAGIC;
}

[[nodiscard]] std::string link_target(int directory, const char* name) {
  std::string target(PATH_MAX, '\0');
  const ssize_t n = ::readlinkat(directory, name, target.data(), target.size());
  target.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  return target;
}

// Reading and writing it waits for nobody but the kernel.
[[nodiscard]] bool is_plain_file(int fd, int unwanted_access) {
  struct stat status{};
  const int flags = ::fcntl(fd, F_GETFL);
  return flags >= 0 && (flags & O_PATH) == 0 && (flags & O_ACCMODE) != unwanted_access && ::fstat(fd, &status) == 0 &&
         S_ISREG(status.st_mode) && !is_proc(fd);
}

// Then its bytes are there at once, and reading them takes no lock that whoever writes the file could hold.
[[nodiscard]] bool is_in_memory(int fd) {
  struct statfs system{};
  return ::fstatfs(fd, &system) == 0 && system.f_type == TMPFS_MAGIC;
}

// A call whose result is a number of bytes or an errno.
class BytesCall : public WorkItem {
 public:
  ssize_t bytes = -1;
  int error = 0;

  void work() noexcept final {
    do bytes = call();
    while (bytes < 0 && errno == EINTR);
    if (bytes < 0) error = errno;
  }

 private:
  virtual ssize_t call() noexcept = 0;
};

// ---- Reading ----

struct OpenFile {
  std::shared_ptr<FileAgent> agent;
  UniqueFd fd;
  std::string path;
  FileInfo info;
  bool in_memory = false;
  std::size_t in_turn = 0;  // bytes, of those that were read on the event loop
};

class ReadCall final : public BytesCall {
 public:
  ReadCall(int fd, asio::mutable_buffer into, off_t offset) : fd_(fd), into_(into), offset_(offset) {}

 private:
  ssize_t call() noexcept override { return ::pread(fd_, into_.data(), std::min(into_.size(), kCallBytes), offset_); }

  int fd_;
  asio::mutable_buffer into_;
  off_t offset_;
};

class LocalFileReader final : public FileReader {
 public:
  explicit LocalFileReader(std::shared_ptr<OpenFile> file) : file_(std::move(file)) {}
  const FileInfo& info() const noexcept override { return file_->info; }
  // Whoever has it reads on the event loop.
  int native_handle() const noexcept override { return file_->in_memory ? file_->fd.get() : -1; }
  asio::awaitable<std::size_t> read(std::uint64_t offset, asio::mutable_buffer into) override {
    return read_from(file_, offset, into);
  }

 private:
  static asio::awaitable<std::size_t> read_from(std::shared_ptr<OpenFile> file, std::uint64_t offset, asio::mutable_buffer into) {
    if (offset > static_cast<std::uint64_t>(INT64_MAX)) co_return 0;
    ReadCall call(file->fd.get(), into, static_cast<off_t>(offset));
    if (file->in_memory) {
      if (file->in_turn >= kCallBytes) {
        file->in_turn = 0;
        co_await asio::post(file->agent->executor(), asio::use_awaitable);
      }
      call.work();
      if (call.bytes > 0) file->in_turn += static_cast<std::size_t>(call.bytes);
    } else {
      auto called = WorkQueue::run(file->agent->calls(), call);
      co_await std::move(called);
    }
    if (call.error != 0) throw failed(call.error, "read", file->path);
    co_return static_cast<std::size_t>(call.bytes);
  }

  std::shared_ptr<OpenFile> file_;
};

// ---- Writing ----

struct NewFile {
  std::shared_ptr<FileAgent> agent;
  std::uint64_t seq = 0;
  UniqueFd fd;
  std::string path;
  std::uint64_t offset = 0;
  std::uint64_t reserved = agent::kFirstReserved;
  bool in_memory = false;
  bool append = false;  // to a file that others may write to, too
  int error = 0;        // of the first write that failed
  bool ended = false;   // committed or given up
};

class WriteCall final : public BytesCall {
 public:
  WriteCall(int fd, asio::const_buffer from, off_t offset) : fd_(fd), from_(from), offset_(offset) {}

 private:
  ssize_t call() noexcept override { return ::pwrite(fd_, from_.data(), from_.size(), offset_); }

  int fd_;
  asio::const_buffer from_;
  off_t offset_;
};

class LocalFileWriter final : public FileWriter {
 public:
  explicit LocalFileWriter(std::shared_ptr<NewFile> file) : file_(std::move(file)) {}
  LocalFileWriter(const LocalFileWriter&) = delete;
  LocalFileWriter& operator=(const LocalFileWriter&) = delete;
  ~LocalFileWriter() override {
    if (!std::exchange(file_->ended, true)) file_->agent->abort(file_->seq);
  }
  asio::awaitable<void> write(asio::const_buffer from) override { return write_to(file_, from); }
  asio::awaitable<void> commit() override { return commit_it(file_); }

 private:
  static void check(const NewFile& file) {
    if (file.error != 0) throw failed(file.error, "write", file.path);
    if (file.ended) throw std::logic_error("a file is written on after its commit");
  }

  static asio::awaitable<void> write_to(std::shared_ptr<NewFile> file, asio::const_buffer from) {
    while (from.size() > 0) {
      check(*file);
      // Beyond this process's own limit the kernel sends a signal that ends it.
      rlimit limit{};
      const bool limited = ::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
      if (limited && file->offset >= limit.rlim_cur) {
        file->error = EFBIG;
        continue;  // into the check
      }
      const asio::const_buffer part(from.data(), std::min(from.size(), kCallBytes));
      auto reserved = reserve(file, part.size());
      co_await std::move(reserved);
      if (file->error != 0) continue;
      WriteCall call(file->fd.get(), part, static_cast<off_t>(file->offset));
      auto called = WorkQueue::run(file->agent->calls(), call);
      co_await std::move(called);
      if (call.bytes <= 0) {
        file->error = call.error != 0 ? call.error : EIO;
        continue;
      }
      from += static_cast<std::size_t>(call.bytes);
      file->offset += static_cast<std::size_t>(call.bytes);
    }
    check(*file);
  }

  // The kernel counts memory for whoever touches it first, and that is to be the sandbox. More than is needed now where much has
  // come already, so that not every piece costs a question.
  static asio::awaitable<void> reserve(std::shared_ptr<NewFile> file, std::size_t bytes) {
    if (!file->in_memory || file->offset + bytes <= file->reserved) co_return;
    const std::size_t needed = static_cast<std::size_t>(file->offset + bytes - file->reserved);
    const std::size_t ahead = file->append ? 0 : static_cast<std::size_t>(std::min(file->offset, kMostAhead));
    for (std::size_t want = std::max(needed, ahead);; want = needed) {
      int error = ENOSPC;
      if (file->agent->has_room(want)) {
        auto asked = file->agent->reserve(file->seq, static_cast<std::int32_t>(want));
        const FileAgent::Answer answer = co_await std::move(asked);
        if (answer.fd) file->agent->refuse();
        error = answer.error;
      }
      if (error == 0) file->reserved += want;
      if (error != 0 && want > needed) continue;
      if (error != 0) file->error = error;
      co_return;
    }
  }

  static asio::awaitable<void> commit_it(std::shared_ptr<NewFile> file) {
    check(*file);
    file->ended = true;
    file->fd.reset();
    auto asked = file->agent->commit(file->seq);
    const FileAgent::Answer answer = co_await std::move(asked);
    if (answer.fd) file->agent->refuse();
    if (answer.error != 0) throw failed(answer.error, "write", file->path);
  }

  std::shared_ptr<NewFile> file_;
};

// ---- Listing ----

struct OpenDirectory {
  std::shared_ptr<FileAgent> agent;
  UniqueFd fd;
  std::string path;
  bool proc = false;
  // What the kernel gave and nobody has taken yet.
  std::array<char, 32 << 10> entries;
  std::size_t at = 0, end = 0;
};

class ListCall final : public WorkItem {
 public:
  ListCall(OpenDirectory& directory, std::size_t limit) : directory_(directory), users_(*directory.agent), limit_(limit) {}
  std::vector<FileInfo> found;
  bool at_end = false;
  int error = 0;

  void work() noexcept override {
    try {
      for (std::size_t looked = 0; looked < kCallEntries && found.size() < limit_ && !at_end && error == 0; ++looked) {
        if (directory_.at < directory_.end || fill()) take();
      }
    } catch (const std::exception&) {
      error = ENOMEM;
    }
  }

 private:
  bool fill() {
    for (;;) {
      const long n = ::syscall(SYS_getdents64, directory_.fd.get(), directory_.entries.data(), directory_.entries.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno != ENOENT) error = errno;
      directory_.at = 0;
      directory_.end = n > 0 ? static_cast<std::size_t>(n) : 0;
      at_end = n <= 0;  // ENOENT: it was removed meanwhile
      return n > 0;
    }
  }

  void take() {
    const char* entry = directory_.entries.data() + directory_.at;
    std::uint16_t length = 0;
    std::memcpy(&length, entry + offsetof(dirent64, d_reclen), sizeof length);
    directory_.at += length;
    const char* name = entry + offsetof(dirent64, d_name);
    if (std::strcmp(name, ".") == 0 || std::strcmp(name, "..") == 0) return;
    struct stat status{};
    if (::fstatat(directory_.fd.get(), name, &status, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) == 0) {
      found.push_back(file_info(users_, name, status));
      if (S_ISLNK(status.st_mode) && !directory_.proc) found.back().link_target = link_target(directory_.fd.get(), name);
    } else if (errno != ENOENT) {
      FileInfo& info = found.emplace_back();
      info.name = name;
      info.type = file_type(static_cast<mode_t>(DTTOIF(static_cast<unsigned char>(entry[offsetof(dirent64, d_type)]))));
    }
  }

  OpenDirectory& directory_;
  Users users_;
  std::size_t limit_;
};

class LocalDirectoryReader final : public DirectoryReader {
 public:
  explicit LocalDirectoryReader(std::shared_ptr<OpenDirectory> directory) : directory_(std::move(directory)) {}
  asio::awaitable<std::vector<FileInfo>> next(std::size_t limit) override { return read_on(directory_, limit); }

 private:
  static asio::awaitable<std::vector<FileInfo>> read_on(std::shared_ptr<OpenDirectory> directory, std::size_t limit) {
    // An entry that has gone is none, so a call may give fewer than it looked at; none at all means the end.
    for (;;) {
      ListCall call(*directory, std::clamp(limit, std::size_t{1}, kCallEntries));
      auto called = WorkQueue::run(directory->agent->calls(), call);
      co_await std::move(called);
      if (call.error != 0) throw failed(call.error, "list", directory->path);
      if (!call.found.empty() || call.at_end) co_return std::move(call.found);
    }
  }

  std::shared_ptr<OpenDirectory> directory_;
};

// ---- All of them ----

class LocalFiles final : public Files {
 public:
  explicit LocalFiles(std::shared_ptr<FileAgent> agent) : agent_(std::move(agent)) {}
  asio::awaitable<std::unique_ptr<FileReader>> open(std::string path) override { return open_by(agent_, std::move(path)); }
  asio::awaitable<std::unique_ptr<FileWriter>> create(FileWriteSpec spec) override { return create_by(agent_, std::move(spec)); }
  asio::awaitable<FileInfo> stat(std::string path, bool follow_symlinks) override {
    return stat_by(agent_, std::move(path), follow_symlinks);
  }
  asio::awaitable<std::unique_ptr<DirectoryReader>> list(std::string path) override { return list_by(agent_, std::move(path)); }
  asio::awaitable<void> make_directory(std::string path, std::uint32_t mode, bool parents) override {
    FileAgent::Question question(FileOp::make_directory, std::move(path));
    question.flags = parents ? agent::kParents : 0;
    question.mode = mode;
    return change_by(agent_, std::move(question), "make the directory");
  }
  asio::awaitable<void> remove(std::string path, bool recursive) override {
    FileAgent::Question question(FileOp::remove, std::move(path));
    question.flags = recursive ? agent::kRecursive : 0;
    return change_by(agent_, std::move(question), "remove");
  }
  asio::awaitable<void> rename(std::string from, std::string to) override {
    FileAgent::Question question(FileOp::rename, std::move(from));
    question.second = std::move(to);
    return change_by(agent_, std::move(question), "rename");
  }
  asio::awaitable<std::unique_ptr<FileWatch>> watch(std::string path) override { return watch_by(agent_, std::move(path)); }

  static asio::awaitable<std::unique_ptr<FileWriter>> create_by(std::shared_ptr<FileAgent> agent, FileWriteSpec spec) {
    check_path(spec.path, "write");
    if (spec.mode && *spec.mode > 07777) {
      throw RunnerError(ErrorCode::invalid_argument, "CWSANDBOX_INVALID_REQUEST", "the mode is not between 0 and 07777");
    }
    FileAgent::Question question(FileOp::create, spec.path);
    question.flags = spec.mode ? 0 : agent::kKeepMode;
    question.mode = spec.mode.value_or(0644);
    if (spec.make_parents) question.flags |= agent::kParents;
    if (spec.append) question.flags |= agent::kAppend;
    if (spec.modified) {
      question.flags |= agent::kSetTime;
      question.modified = std::chrono::nanoseconds(spec.modified->time_since_epoch()).count();
    }
    if (!agent->has_room(agent::kFirstReserved)) throw failed(ENOSPC, "write", spec.path);
    auto asked = agent->ask(question);
    FileAgent::Answer answer = co_await std::move(asked);
    if (answer.error != 0) throw failed(answer.error, "write", spec.path);
    struct stat status{};
    if (!is_plain_file(answer.fd.get(), O_RDONLY) || ::fstat(answer.fd.get(), &status) != 0) agent->refuse();
    if (spec.append && (::fcntl(answer.fd.get(), F_GETFL) & O_APPEND) == 0) agent->refuse();
    auto file = std::make_shared<NewFile>();
    file->append = spec.append;
    file->offset = static_cast<std::uint64_t>(status.st_size);  // 0, but for one that is appended to
    if (spec.append) file->reserved = file->offset;
    file->agent = std::move(agent);
    file->seq = answer.seq;
    file->in_memory = is_in_memory(answer.fd.get());
    file->fd = std::move(answer.fd);
    file->path = std::move(spec.path);
    co_return std::make_unique<LocalFileWriter>(std::move(file));
  }

 private:
  static asio::awaitable<std::unique_ptr<FileReader>> open_by(std::shared_ptr<FileAgent> agent, std::string path) {
    check_path(path, "open");
    const FileAgent::Question question(FileOp::open, path);
    auto asked = agent->ask(question);
    FileAgent::Answer answer = co_await std::move(asked);
    if (answer.error != 0) throw failed(answer.error, "open", path);
    struct stat status{};
    if (!is_plain_file(answer.fd.get(), O_WRONLY) || ::fstat(answer.fd.get(), &status) != 0) agent->refuse();
    auto file = std::make_shared<OpenFile>();
    file->info = file_info(Users(*agent), last_part(path), status);
    file->in_memory = is_in_memory(answer.fd.get());
    file->agent = std::move(agent);
    file->fd = std::move(answer.fd);
    file->path = std::move(path);
    co_return std::make_unique<LocalFileReader>(std::move(file));
  }

  static asio::awaitable<FileInfo> stat_by(std::shared_ptr<FileAgent> agent, std::string path, bool follow) {
    check_path(path, "look at");
    FileAgent::Question question(FileOp::stat, path);
    question.flags = follow ? agent::kFollow : 0;
    auto asked = agent->ask(question);
    const FileAgent::Answer answer = co_await std::move(asked);
    if (answer.error != 0) throw failed(answer.error, "look at", path);
    struct stat status{};
    if (!answer.fd || ::fstat(answer.fd.get(), &status) != 0) agent->refuse();
    FileInfo info = file_info(Users(*agent), last_part(path), status);
    if (info.type == FileType::symlink && !is_proc(answer.fd.get())) info.link_target = link_target(answer.fd.get(), "");
    co_return info;
  }

  static asio::awaitable<std::unique_ptr<DirectoryReader>> list_by(std::shared_ptr<FileAgent> agent, std::string path) {
    check_path(path, "list");
    const FileAgent::Question question(FileOp::list, path);
    auto asked = agent->ask(question);
    FileAgent::Answer answer = co_await std::move(asked);
    if (answer.error != 0) throw failed(answer.error, "list", path);
    struct stat status{};
    if (!answer.fd || ::fstat(answer.fd.get(), &status) != 0 || !S_ISDIR(status.st_mode)) agent->refuse();
    auto directory = std::make_shared<OpenDirectory>();
    directory->proc = is_proc(answer.fd.get());
    directory->agent = std::move(agent);
    directory->fd = std::move(answer.fd);
    directory->path = std::move(path);
    co_return std::make_unique<LocalDirectoryReader>(std::move(directory));
  }

  static asio::awaitable<std::unique_ptr<FileWatch>> watch_by(std::shared_ptr<FileAgent> agent, std::string path) {
    check_path(path, "watch");
    const FileAgent::Question question(FileOp::watch, path);
    auto asked = agent->ask(question);
    FileAgent::Answer answer = co_await std::move(asked);
    if (answer.error == EMFILE || answer.error == ENOSPC) {
      // Of the agent's user outside, whose sandboxes share it.
      throw RunnerError(ErrorCode::resource_exhausted, "CWSANDBOX_RUNNER_CAPACITY_EXHAUSTED",
                        "cannot watch '" + base::printable_utf8(path) +
                            "': the kernel allows this user no more watches (fs.inotify." +
                            (answer.error == EMFILE ? "max_user_instances)" : "max_user_watches)"));
    }
    if (answer.error != 0) throw failed(answer.error, "watch", path);
    auto watch = make_local_watch(agent->executor(), std::move(answer.fd));
    if (!watch) agent->refuse();
    co_return watch;
  }

  static asio::awaitable<void> change_by(std::shared_ptr<FileAgent> agent, FileAgent::Question question, const char* what) {
    check_path(question.path, what);
    if (question.op == FileOp::rename) check_path(question.second, what);
    if (question.mode > 07777) {
      throw RunnerError(ErrorCode::invalid_argument, "CWSANDBOX_INVALID_REQUEST", "the mode is not between 0 and 07777");
    }
    auto asked = agent->ask(question);
    const FileAgent::Answer answer = co_await std::move(asked);
    if (answer.fd) agent->refuse();
    if (answer.error != 0) throw failed(answer.error, what, question.path);
  }

  std::shared_ptr<FileAgent> agent_;
};

}  // namespace

std::unique_ptr<Files> make_local_files(std::shared_ptr<FileAgent> agent) { return std::make_unique<LocalFiles>(std::move(agent)); }

asio::awaitable<void> write_whole_file(std::shared_ptr<FileAgent> agent, std::string path, std::string_view content) {
  FileWriteSpec spec;
  spec.path = std::move(path);
  spec.make_parents = true;
  auto made = LocalFiles::create_by(std::move(agent), std::move(spec));
  const std::unique_ptr<FileWriter> writer = co_await std::move(made);
  const asio::const_buffer all(content.data(), content.size());
  co_await writer->write(all);
  co_await writer->commit();
}

}  // namespace cwsandbox::runner::local
