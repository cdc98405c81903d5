// What the runner and the agent in the sandbox say to each other, over one SOCK_STREAM socket.
//
// Both ends run on one machine and come from one build, so numbers travel in the machine's own byte order. A frame is a 32-bit
// length, a type byte and a payload; the length counts the type and the payload. The runner never trusts what it reads here:
// every reader checks bounds, and a frame that does not fit its type exactly is an error. No allocation, no exceptions: the agent
// is built without them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace cwsandbox::runner::local::agent {

inline constexpr std::int32_t kVersion = 4;

// Descriptors that the agent inherits.
inline constexpr int kControlFd = 3;  ///< this protocol
inline constexpr int kGatewayFd = 4;  ///< a pidfd of the process that the runner lives in: readable when that has ended
inline constexpr int kImageFd = 5;    ///< the agent's own program, which it closes; then its own oom_score_adj

// Arguments of the agent's program for what comes before a sandbox (agent/launch.hpp). The first of each is the descriptor to which
// a LaunchFailure is written; it is closed with nothing written when all went well.
inline constexpr char kBecome[] =
    "--become";  ///< REPORT UID GID PROGRAM ARGV0 ARGV…: that user with no other groups, then that program
inline constexpr char kRemount[] = "--remount";  ///< REPORT OPTIONS PLACE…: in the namespaces behind the next two
inline constexpr int kUserNamespaceFd = 3;
inline constexpr int kMountNamespaceFd = 4;

/// What went wrong: an errno value, and where.
struct LaunchFailure {
  std::int32_t error = 0;
  std::int32_t step = 0;
};
inline constexpr std::int32_t kStepGroups = 0, kStepGroup = 1, kStepUser = 2, kStepExec = 3, kStepNamespaces = 4;
inline constexpr std::int32_t kStepFirstPlace = 5;  ///< and so on

inline constexpr std::uint32_t kMaxRequest =
    4u << 20;  ///< a whole frame to the agent; the kernel's own limit on argv and env is below

enum class Type : std::uint8_t {
  // To the agent.
  start = 1,
  signal = 2,
  stop = 3,
  file = 4,
  commit = 5,   ///< the file of the `create` with this number takes its name
  abort = 6,    ///< it never will; no answer
  reserve = 7,  ///< memory for as many of its next bytes
  // From the agent.
  hello = 65,
  started = 66,  ///< carries descriptors: [stdin,] stdout, stderr; or the terminal's master
  start_failed = 67,
  exited = 68,
  file_done = 69,   ///< of `file`, `commit` and `reserve`; carries a descriptor where one was asked for
  group_gone = 70,  ///< nobody is left of the group of a process whose exit was told
};

/// What could not be had when a process did not start.
enum class Stage : std::uint8_t { program, cwd, stdio, fork, stopping };

inline constexpr std::uint8_t kWithStdin = 1;
inline constexpr std::uint8_t kWithTty = 2;
inline constexpr std::uint8_t kMain = 4;  ///< when it ends, so does the sandbox
inline constexpr std::uint8_t kAllStartFlags = 7;

/// What is done with a file, and what comes with the answer.
enum class FileOp : std::uint8_t {
  open,            ///< a regular file's descriptor, for reading
  create,          ///< the descriptor of a new file beside `path`, for writing; `commit` or `abort` ends it
  stat,            ///< an O_PATH descriptor
  list,            ///< a directory's descriptor
  make_directory,  ///< nothing, as the others below
  remove,
  rename,  ///< `path` to `second`
  watch,   ///< an inotify descriptor with one watch
};
inline constexpr std::uint8_t kFileOps = 8;

inline constexpr std::uint8_t kFollow = 1;     ///< stat: a symlink in the last place is followed
inline constexpr std::uint8_t kParents = 2;    ///< create, make_directory
inline constexpr std::uint8_t kRecursive = 4;  ///< remove
inline constexpr std::uint8_t kKeepMode = 8;   ///< create: `mode` is only for a file that does not replace one
inline constexpr std::uint8_t kSetTime = 16;   ///< create: `modified` is when its content is to have changed
inline constexpr std::uint8_t kAppend = 32;    ///< create: the file itself, to be written to at its end; commit changes nothing
inline constexpr std::uint8_t kAllFileFlags = 63;

inline constexpr std::size_t kFrameHead = 5;
inline constexpr std::size_t kMaxDescriptors = 3;

/// Bytes of a new file in memory for which memory is taken when it is made: a small one needs no `reserve`.
inline constexpr std::int32_t kFirstReserved = 16 * 1024;

/// Reads numbers and stops for good at the first one that is not there.
class Reader {
 public:
  explicit Reader(std::string_view bytes) noexcept : bytes_(bytes) {}
  template <class Number>
  Number number() noexcept {
    Number value{};
    if (!ok_ || bytes_.size() < sizeof value) {
      ok_ = false;
      return Number{};
    }
    std::memcpy(&value, bytes_.data(), sizeof value);
    bytes_.remove_prefix(sizeof value);
    return value;
  }
  [[nodiscard]] bool ok() const noexcept { return ok_; }
  [[nodiscard]] std::string_view rest() const noexcept { return bytes_; }

 private:
  std::string_view bytes_;
  bool ok_ = true;
};

struct Frame {
  std::uint8_t type = 0;
  std::string_view payload;
};

enum class Parse : std::uint8_t { frame, incomplete, violation };

/// Takes one frame off the front of `bytes`, which stay where they are.
inline Parse take_frame(std::string_view& bytes, std::size_t limit, Frame& frame) noexcept {
  std::uint32_t length = 0;
  if (bytes.size() < sizeof length) return Parse::incomplete;
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length < 1 || length > limit - sizeof length) return Parse::violation;
  if (bytes.size() - sizeof length < length) return Parse::incomplete;
  frame.type = static_cast<std::uint8_t>(bytes[sizeof length]);
  frame.payload = {bytes.data() + kFrameHead, length - 1};  // not substr: it may throw, and the agent has no library that could
  bytes.remove_prefix(sizeof length + length);
  return Parse::frame;
}

/// The fixed part of every message but `start` and `stop`; what a field means depends on the type.
struct Note {
  std::uint64_t seq = 0;   ///< the process or the file operation, as the runner counts them
  std::uint32_t pid = 0;   ///< started, exited, group_gone, signal
  std::int32_t value = 0;  ///< hello: version; start_failed, file_done: errno; exited: wait status; signal: number; stop: grace in
                           ///< milliseconds; reserve: bytes
  std::uint8_t detail =
      0;  ///< started, file_done: number of descriptors; start_failed: Stage; exited: 1 when others of its group are left
};
inline constexpr std::size_t kNotePayload = 8 + 4 + 4 + 1;
inline constexpr std::size_t kNoteFrame = kFrameHead + kNotePayload;

inline void write_note(char (&to)[kNoteFrame], Type type, const Note& note) noexcept {
  const std::uint32_t length = 1 + kNotePayload;
  std::memcpy(to, &length, 4);
  to[4] = static_cast<char>(type);
  std::memcpy(to + 5, &note.seq, 8);
  std::memcpy(to + 13, &note.pid, 4);
  std::memcpy(to + 17, &note.value, 4);
  to[21] = static_cast<char>(note.detail);
}

[[nodiscard]] inline bool read_note(std::string_view payload, Note& note) noexcept {
  if (payload.size() != kNotePayload) return false;
  Reader reader(payload);
  note.seq = reader.number<std::uint64_t>();
  note.pid = reader.number<std::uint32_t>();
  note.value = reader.number<std::int32_t>();
  note.detail = reader.number<std::uint8_t>();
  return reader.ok();
}

/// Whether `strings` are `count` NUL-terminated ones and nothing else.
[[nodiscard]] inline bool holds_strings(std::string_view strings, std::uint64_t count) noexcept {
  for (; count > 0; --count) {
    const std::size_t end = strings.find('\0');
    if (end == std::string_view::npos) return false;
    strings.remove_prefix(end + 1);
  }
  return strings.empty();
}

/// A process to start. `strings` are NUL-terminated, so that the kernel can have them where they lie: the working directory, then
/// `argc` arguments, then `envc` settings.
struct Start {
  std::uint64_t seq = 0;
  std::uint8_t flags = 0;
  std::uint16_t width = 0, height = 0;
  std::uint32_t argc = 0, envc = 0;
  std::string_view strings;
};
inline constexpr std::size_t kStartHead = 8 + 1 + 2 + 2 + 4 + 4;

[[nodiscard]] inline bool read_start(std::string_view payload, Start& start) noexcept {
  Reader reader(payload);
  start.seq = reader.number<std::uint64_t>();
  start.flags = reader.number<std::uint8_t>();
  start.width = reader.number<std::uint16_t>();
  start.height = reader.number<std::uint16_t>();
  start.argc = reader.number<std::uint32_t>();
  start.envc = reader.number<std::uint32_t>();
  if (!reader.ok() || start.argc < 1 || (start.flags & ~kAllStartFlags) != 0) return false;
  start.strings = reader.rest();
  return holds_strings(start.strings, 1ull + start.argc + start.envc);
}

/// A file operation. The paths are NUL-terminated where they lie; a relative one begins at `cwd`.
struct FileRequest {
  std::uint64_t seq = 0;
  FileOp op = FileOp::open;
  std::uint8_t flags = 0;
  std::uint32_t mode = 0;
  std::int64_t modified = 0;  ///< nanoseconds since 1970
  const char* cwd = nullptr;
  const char* path = nullptr;
  const char* second = nullptr;
};
inline constexpr std::size_t kFileHead = 8 + 1 + 1 + 4 + 8;

[[nodiscard]] inline bool read_file(std::string_view payload, FileRequest& request) noexcept {
  Reader reader(payload);
  request.seq = reader.number<std::uint64_t>();
  const auto op = reader.number<std::uint8_t>();
  request.flags = reader.number<std::uint8_t>();
  request.mode = reader.number<std::uint32_t>();
  request.modified = reader.number<std::int64_t>();
  if (!reader.ok() || op >= kFileOps || (request.flags & ~kAllFileFlags) != 0 || request.mode > 07777) return false;
  request.op = static_cast<FileOp>(op);
  if (!holds_strings(reader.rest(), 3)) return false;
  request.cwd = reader.rest().data();
  request.path = request.cwd + std::strlen(request.cwd) + 1;
  request.second = request.path + std::strlen(request.path) + 1;
  return true;
}

}  // namespace cwsandbox::runner::local::agent
