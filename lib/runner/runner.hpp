// What a runner must do: the seam between the gateway and the place where sandboxes run. This page and the comments below are the
// whole of what the two know of each other, so that another runner needs no change outside lib/runner/.
//
// A runner knows nothing of the gateway's HTTP, tokens or messages; the gateway knows nothing of namespaces, pods or pids.
//
// Where it runs. Everything here is called on, and calls back on, the one serialised executor that the runner was made with.
// Nothing blocks it: a runner waits asynchronously, and work that it does itself comes in bounded turns (a mebibyte copied, some
// hundred entries of a directory), after each of which it lets others run. Nothing is thread safe. Every wait for something outside
// this process has a deadline of the runner's own, and every buffer a bound; with full buffers the sandbox waits, not the gateway's
// memory.
//
// Who keeps what. The gateway owns the objects that it gets. A coroutine that is under way keeps what it needs by itself, so the
// object that it was called on may be destroyed meanwhile; buffers passed to it must stay. A handler that was given (`on_exit`,
// `async_wait`) is called once or, after its object has been destroyed, never, and not from inside the call that gave it.
// Destroying a Sandbox ends it with all that is in it and leaves nothing behind: no process, no descriptor, no file. Runner,
// sandboxes and processes may be destroyed in any order, and with the event loop.
//
// Who else is there. A runner may be durable: its sandboxes outlive this process, and several gateways may share the place where
// they run. It then tells of those that it did not create itself (`find`), keeps for each what the gateway wants kept
// (`record`), and creating one with an id that is there already is how a creation is repeated.
//
// Life. `create` completes when the initial files are there and the main command runs; until then an error leaves nothing behind.
// The end of the main command is the end of the sandbox, whose other processes are then ended; each process gets its ExitInfo
// before the sandbox gets its own. Whoever's end nobody can tell any more gets Kind::lost. Streams can be read to their end after
// the process and the sandbox have ended.
//
// What it tells. Refusals are RunnerErrors that can be shown to whoever asked: they name what is wrong and hold nothing secret.
// `invalid_argument` for requests that no sandbox could do; StartFailed and FileFailed, with the errno of the sandbox's system, for
// what this one refused; `unavailable` when the sandbox has gone; `resource_exhausted` when the place is full.
//
// Whom it trusts. Nobody in the sandbox: programs there may do all that their system lets them, while any operation here is under
// way, and neither make the gateway wait for them (a FIFO, a device, a file that is never whole) nor lead it out of the sandbox (a
// symlink, a directory that is swapped for one). Paths are resolved in the sandbox, with its user's rights, and what was looked at
// is what is used.
//
// How it is shown. tests/runner/conformance.hpp holds checks over this seam alone: a runner is done when it passes them.
#pragma once

#include "base/error_code.hpp"

#include <boost/asio/any_completion_handler.hpp>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/system/error_code.hpp>

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace cwsandbox::runner {

namespace asio = boost::asio;
using base::ErrorCode;
using boost::system::error_code;

/// The reason of a RunnerError: the place where sandboxes run cannot do it, now or at all.
inline constexpr const char* kUnavailable = "CWSANDBOX_RUNNER_UNAVAILABLE";

/// An error in the words of the Connect protocol; the gateway passes it on as it is.
class RunnerError : public std::runtime_error {
 public:
  RunnerError(ErrorCode code, std::string reason, const std::string& message, std::map<std::string, std::string> metadata = {})
      : std::runtime_error(message), code_(code), reason_(std::move(reason)), metadata_(std::move(metadata)) {}
  [[nodiscard]] ErrorCode code() const noexcept { return code_; }
  [[nodiscard]] const std::string& reason() const noexcept { return reason_; }  ///< e.g. "CWSANDBOX_RUNNER_UNAVAILABLE"
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const noexcept { return metadata_; }

 private:
  ErrorCode code_;
  std::string reason_;
  std::map<std::string, std::string> metadata_;
};

/// A file that is there before the main command starts.
struct InitialFile {
  std::string path;     ///< absolute; missing directories are made, mode 0755
  std::string content;  ///< mode 0644
};

/// What was asked for of a machine's resources. Unset: as the runner gives them to everybody. What is set is kept to, or the
/// creation fails ("unimplemented") where the runner cannot. Over a limit, memory cannot be had or a process is killed; the CPU is
/// waited for.
struct ResourceSpec {
  std::optional<std::uint64_t> memory_limit;    ///< bytes, for all its processes and what the kernel keeps for them
  std::optional<std::uint64_t> memory_request;  ///< bytes that are set aside for it where sandboxes are placed by such requests
  std::optional<std::uint32_t> cpu_limit;       ///< thousandths of a core
  std::optional<std::uint32_t> cpu_request;     ///< thousandths of a core: its share while others want the CPU too
  std::uint32_t gpus = 0;
  std::string gpu_type;  ///< empty: any
  friend bool operator==(const ResourceSpec&, const ResourceSpec&) = default;
};

/// A directory of its own, empty at first, gone with the sandbox.
struct ScratchVolume {
  std::string name;                         ///< [a-z0-9-], at most 63
  std::optional<std::uint64_t> size_limit;  ///< bytes
  bool in_memory = false;
};

struct VolumeMount {
  std::string volume;  ///< the name of a ScratchVolume
  std::string path;    ///< absolute
  std::string sub_path;
  bool read_only = false;
};

/// A value that the place where sandboxes run keeps secret: it goes into the environment and never through the gateway.
struct SecretVariable {
  std::string env_var;
  std::string secret, key;  ///< the name of the secret, and of the value in it
};

enum class PortProtocol : std::uint8_t { tcp, udp };

/// A port that the sandbox serves to others.
struct ServicePort {
  std::uint16_t port = 0;
  std::string name;  ///< may be empty
  PortProtocol protocol = PortProtocol::tcp;
};

struct PortRange {
  PortProtocol protocol = PortProtocol::tcp;
  std::uint16_t first = 0, last = 0;
};

/// Connections out of the sandbox that are allowed.
struct EgressRule {
  std::string cidr;                 ///< empty: any address
  std::vector<std::string> except;  ///< blocks inside `cidr`
  std::vector<PortRange> ports;     ///< empty: all
};

/// What a sandbox is made from.
struct SandboxSpec {
  std::string id;  ///< chosen by the gateway; [a-z0-9-]
  /// Whose it is, where there are several owners: they weigh the same beside each other. For telling them apart, no more.
  std::string owner;
  std::string image;                       ///< empty: the runner's default
  std::vector<std::string> command;        ///< the main command; never empty
  std::map<std::string, std::string> env;  ///< for the main command and every process
  std::string working_dir;                 ///< empty: the image's
  std::vector<InitialFile> files;          ///< written as the sandbox's user
  ResourceSpec resources;
  // What not every runner can do, see Runner::refuses.
  std::vector<ScratchVolume> volumes;
  std::vector<VolumeMount> mounts;
  std::vector<SecretVariable> secrets;
  std::vector<ServicePort> ports;
  std::optional<std::vector<EgressRule>> egress;  ///< unset: as the runner has it; without a rule: nothing gets out
  std::string runtime_class;
  /// The gateway ends it then. A durable runner sees to it too, for the case that there is no gateway.
  std::optional<std::chrono::seconds> max_lifetime;
  std::vector<std::string> tags;                   ///< for whoever looks at the place itself
  std::map<std::string, std::string> annotations;  ///< the same
  std::string record;                              ///< what the gateway wants to have again in Found: text, at most 64 KiB
  /// Called by a durable runner as soon as the place has taken it on, so that it is there whatever becomes of this process. Once,
  /// if at all; at the latest `create` says so by completing.
  std::function<void()> on_accepted;
};

/// How a process ended.
struct ExitInfo {
  enum class Kind : std::uint8_t { exited, signaled, lost };
  Kind kind = Kind::lost;
  int value = 0;  ///< exit code or signal number
  /// Of a process that was killed, or a lost sandbox, whose processes have reached its limit on memory.
  bool out_of_memory = false;
  std::chrono::system_clock::time_point time{};
  /// Of a process: bytes of stdout and stderr, from their beginnings, that had been written when it ended. What it wrote itself
  /// lies below; what comes after is from others who hold its outputs. Unset: nobody knows.
  std::optional<std::array<std::uint64_t, 2>> written;
  /// Of a process: the main command had ended before, and the sandbox was being ended for that.
  bool main_ended = false;
};

/// A process to start.
struct ProcessSpec {
  std::vector<std::string> command;
  std::map<std::string, std::string> env;  ///< added to the sandbox's
  std::string cwd;                         ///< absolute; empty: the sandbox's
  bool use_stdin = false;
  bool tty = false;
  std::uint16_t tty_width = 0, tty_height = 0;
};

/// Why a process could not be started.
class StartFailed : public RunnerError {
 public:
  StartFailed(int error, std::string what, const std::string& message)
      : RunnerError(ErrorCode::failed_precondition, "", message), error_(error), what_(std::move(what)) {}
  [[nodiscard]] int error() const noexcept { return error_; }                      ///< an errno
  [[nodiscard]] const std::string& what_failed() const noexcept { return what_; }  ///< "program", "cwd", "stdio", "fork"

 private:
  int error_;
  std::string what_;
};

using ByteHandler = asio::any_completion_handler<void(error_code, std::size_t)>;
using IoHandler = asio::any_completion_handler<void(error_code)>;

/// One output of a process. `try_read` never waits: a number of bytes, 0 at the end (error asio::error::eof), or
/// asio::error::would_block; then `async_wait` tells when to try again. No buffer is held while waiting.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  [[nodiscard]] virtual std::size_t try_read(asio::mutable_buffer into, error_code& ec) = 0;
  virtual void async_wait(IoHandler handler) = 0;
  virtual void close() noexcept = 0;  ///< the process gets SIGPIPE or EPIPE when it writes on; a terminal is hung up
  /// Bytes that are known to be there to be read now.
  [[nodiscard]] virtual std::uint64_t unread() const noexcept { return 0; }
};

/// The input of a process. Of a terminal: once closed, whoever reads it meets the end of input, whatever mode it is in;
/// in raw mode behind the byte 4 (Ctrl-D).
class ByteSink {
 public:
  virtual ~ByteSink() = default;
  /// As many bytes as go without waiting; asio::error::would_block when none do; broken_pipe when nobody reads any more.
  [[nodiscard]] virtual std::size_t try_write(asio::const_buffer from, error_code& ec) = 0;
  virtual void async_wait(IoHandler handler) = 0;
  virtual void close() noexcept = 0;  ///< end of input; what was written before still goes

  /// Bytes that the process's pipe has taken: all that were written, or fewer while some are on their way to where it runs. Final
  /// once nobody reads any more. A place that cannot tell counts what it has handed on.
  [[nodiscard]] virtual std::uint64_t arrived() const noexcept = 0;
  /// Completes when all that has been written so far has arrived, or with broken_pipe when some of it never will. Also after
  /// `close`. At most one at a time.
  virtual void async_wait_arrived(IoHandler handler) = 0;
  /// Completes with broken_pipe when nobody reads any more, which shows without a write (with a terminal, or a place that cannot
  /// tell: only when the process has ended, if at all); with operation_aborted after `close`. At most one at a time.
  virtual void async_wait_broken(IoHandler handler) = 0;
};

/// A process under way. Destroying it forgets it; it does not kill.
///
/// A pipe ends when the last who holds it lets go, however long after the process's own end. A terminal's output ends with the
/// process, once all is read that it had written; it does not end before, also when nobody has the terminal open.
class Process {
 public:
  virtual ~Process() = default;
  [[nodiscard]] virtual std::uint64_t pid() const noexcept = 0;  ///< as seen inside the sandbox
  [[nodiscard]] virtual ByteSink* std_in() noexcept = 0;         ///< null unless asked for
  [[nodiscard]] virtual ByteSource& std_out() noexcept = 0;      ///< merged output with a terminal
  [[nodiscard]] virtual ByteSource* std_err() noexcept = 0;      ///< null with a terminal
  /// Calls `handler` once, when the process has ended or nobody can know any more. At most one handler.
  virtual void on_exit(std::function<void(const ExitInfo&)> handler) = 0;
  /// Calls `handler` once, after the exit has been told, when nobody of the process group is left; maybe later than that, and never
  /// where it cannot be told, nor when all outputs have ended by then. At most one handler.
  virtual void on_group_gone(std::function<void()> /*handler*/) {}
  /// To the whole process group; after its leader ended also to what is left of it. Nothing happens when all are gone.
  virtual void signal_group(int number) = 0;
  virtual void resize(std::uint16_t width, std::uint16_t height) = 0;
};

enum class FileType : std::uint8_t { unknown, regular, directory, symlink, fifo, socket, block_device, character_device };

struct FileInfo {
  std::string name;  ///< the last part of the path; any bytes but '/' and NUL
  FileType type = FileType::unknown;
  std::uint64_t size = 0;  ///< bytes; of a symlink its target's length
  std::uint32_t mode = 0;  ///< permission bits, 07777
  std::uint32_t uid = 0, gid = 0;
  std::chrono::system_clock::time_point modified{};
  std::string link_target;  ///< of a symlink
};

/// A file operation that the sandbox's system refused. The text is printable and names the path; `path` is as it was given, bytes.
class FileFailed : public RunnerError {
 public:
  FileFailed(int error, std::string path, const std::string& message)
      : RunnerError(ErrorCode::failed_precondition, "", message), error_(error), path_(std::move(path)) {}
  [[nodiscard]] int error() const noexcept { return error_; }  ///< an errno; EISDIR, EINVAL, ... also for what is no regular file
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  int error_;
  std::string path_;
};

/// A regular file of the sandbox's, open for reading. What happens to its name afterwards does not matter.
class FileReader {
 public:
  virtual ~FileReader() = default;
  [[nodiscard]] virtual const FileInfo& info() const noexcept = 0;  ///< as it was when it was opened
  /// A descriptor of the file in this process, or -1 when it is elsewhere: then only `read` works.
  [[nodiscard]] virtual int native_handle() const noexcept { return -1; }
  /// Bytes from `offset`; 0 only at the end of the file. Throws FileFailed. The buffer stays valid until completion.
  [[nodiscard]] virtual asio::awaitable<std::size_t> read(std::uint64_t offset, asio::mutable_buffer into) = 0;
};

/// A file being written, without a name where that is possible, else under a temporary one beside its own. Destroyed without
/// `commit`, it leaves no trace and the old file as it was.
class FileWriter {
 public:
  virtual ~FileWriter() = default;
  /// All bytes, behind those before. Throws FileFailed (ENOSPC, ...), and then again at every further call: half a file is none.
  /// The buffer stays valid until completion.
  [[nodiscard]] virtual asio::awaitable<void> write(asio::const_buffer from) = 0;
  /// The file takes its name, replacing what bore it: a regular file or nothing. Once. Throws FileFailed.
  [[nodiscard]] virtual asio::awaitable<void> commit() = 0;
};

struct FileWriteSpec {
  std::string path;                   ///< of the file to be
  std::optional<std::uint32_t> mode;  ///< permission bits; unset: those of the file it replaces, else 0644
  bool make_parents = false;          ///< missing directories are made, mode 0755
  /// To the end of what is there, or of a new file, at once and for everybody to see; the mode is for a new one, and `modified`
  /// must be unset. `commit` then does nothing, and what was written stays if it never comes.
  bool append = false;
  /// When its content is to have changed; unset: when it was written. As exact as the file system keeps it.
  std::optional<std::chrono::system_clock::time_point> modified;
};

/// A directory's entries, some at a time, without "." and "..", in the directory's own order. What comes and goes meanwhile may be
/// there or not.
class DirectoryReader {
 public:
  virtual ~DirectoryReader() = default;
  /// At most `limit` entries, at least one but at the end. Throws FileFailed. Symlinks are not followed.
  [[nodiscard]] virtual asio::awaitable<std::vector<FileInfo>> next(std::size_t limit) = 0;
};

/// Something that has happened to what is watched, or to an entry of it.
struct FileEvent {
  enum class Kind : std::uint8_t {
    created,
    modified,
    closed,  ///< by somebody who had it open for writing
    attributes,
    deleted,
    renamed,    ///< from `old_name` to `name`, both in the directory
    moved_in,   ///< from another directory
    moved_out,  ///< to another directory
    gone,       ///< what is watched has been deleted or moved: the last event
    overflow,   ///< some events could not be kept
  };
  Kind kind = Kind::overflow;
  std::string name;  ///< of the entry, any bytes but '/' and NUL; empty: what is watched itself
  std::string old_name;
  bool directory = false;
};

/// A file, or a directory and its direct entries, whose changes are told in their order, from when it was made. What nobody takes
/// waits in the sandbox's system, which keeps so much and says when it was more. Destroying it ends the watch.
class FileWatch {
 public:
  virtual ~FileWatch() = default;
  /// The next events, some hundred at most; none at the deadline, nor behind `gone`. One at a time. It hears nothing of the
  /// end of the sandbox.
  [[nodiscard]] virtual asio::awaitable<std::vector<FileEvent>> next(std::chrono::steady_clock::time_point deadline) = 0;
};

/// The files of one sandbox. Paths are resolved inside the sandbox, by its user, with its working directory; they are any bytes but
/// NUL, not empty. Every call throws FileFailed for what the sandbox's system refuses, and RunnerError("unavailable",
/// "CWSANDBOX_RUNNER_UNAVAILABLE") when the sandbox has gone, RunnerError("invalid_argument") for a path that is none. Nothing here
/// waits for a FIFO's other end or opens a device.
class Files {
 public:
  virtual ~Files() = default;
  /// Symlinks are followed inside the sandbox. FileFailed(EISDIR) for a directory, FileFailed(EINVAL) for what else is no regular
  /// file. One whose content the kernel makes while it is read (/proc, /sys, control groups), and whose size says nothing of it,
  /// is read once, at `open`: then `info().size` is what it gave.
  [[nodiscard]] virtual asio::awaitable<std::unique_ptr<FileReader>> open(std::string path) = 0;
  /// As `open`; where the path is a symlink, the file that it leads to is replaced, beside which the new one is made. It is the
  /// directory that is written, as with rename(2): whoever may write that may replace the file, also one that may not be written
  /// itself (0444). EACCES for a directory that may not be written, even where the file may; EPERM for somebody else's file in a
  /// sticky directory that is somebody else's, too; EBUSY, at the latest from `commit`, for what is mounted there.
  [[nodiscard]] virtual asio::awaitable<std::unique_ptr<FileWriter>> create(FileWriteSpec spec) = 0;
  [[nodiscard]] virtual asio::awaitable<FileInfo> stat(std::string path, bool follow_symlinks) = 0;
  [[nodiscard]] virtual asio::awaitable<std::unique_ptr<DirectoryReader>> list(std::string path) = 0;
  /// `mode` is exact, up to 07777. `parents`: missing ones are made, mode 0755, and one that is there already is no error.
  [[nodiscard]] virtual asio::awaitable<void> make_directory(std::string path, std::uint32_t mode, bool parents) = 0;
  /// A file, a symlink (never what it points to), an empty directory; with `recursive` also what is in it. EINVAL for a path that
  /// ends in "." or "..". Stops at the first entry that cannot be removed.
  [[nodiscard]] virtual asio::awaitable<void> remove(std::string path, bool recursive) = 0;
  /// As rename(2): replaces a file, or an empty directory by a directory; EXDEV from one place to another (/tmp, /workspace, ...).
  [[nodiscard]] virtual asio::awaitable<void> rename(std::string from, std::string to) = 0;
  /// Symlinks are followed. "unimplemented" where the runner cannot; "resource_exhausted" where the system allows no more watches.
  [[nodiscard]] virtual asio::awaitable<std::unique_ptr<FileWatch>> watch(std::string path);
};

/// A running sandbox. Destroying it ends it at once, with everything in it.
class Sandbox {
 public:
  virtual ~Sandbox() = default;
  /// What the main command writes. The gateway reads both to their ends; what it leaves unread stops the main command. They stay
  /// readable after the sandbox has ended, for as long as this object lives.
  [[nodiscard]] virtual ByteSource& main_stdout() noexcept = 0;
  [[nodiscard]] virtual ByteSource& main_stderr() noexcept = 0;
  /// Usable for as long as this object lives; operations under way keep what they need.
  [[nodiscard]] virtual Files& files() noexcept = 0;
  /// Throws StartFailed, or RunnerError("unavailable", "CWSANDBOX_RUNNER_UNAVAILABLE") when the sandbox has gone.
  [[nodiscard]] virtual asio::awaitable<std::unique_ptr<Process>> start(ProcessSpec spec) = 0;
  /// Calls `handler` once, when the main command (and so the sandbox) has ended. At most one handler.
  virtual void on_exit(std::function<void(const ExitInfo&)> handler) = 0;
  /// SIGTERM to everything, SIGKILL after `grace`; completes when nothing is left. A second call shares the first's end,
  /// with the shorter grace.
  [[nodiscard]] virtual asio::awaitable<void> stop(std::chrono::milliseconds grace) = 0;
};

/// What `spec` asks for beyond an image, a command, an environment, a working directory, files, memory and CPU limits: the answer
/// of a runner that can do no more than these.
[[nodiscard]] std::vector<std::string> asked_beyond_the_basics(const SandboxSpec& spec);

/// A sandbox that this runner object has not created, or any that others stop (told before its end) or that has gone. Told again
/// when something of it changes.
struct Found {
  enum class State : std::uint8_t { creating, running, stopping, ended, gone };  ///< gone: the place no longer knows it
  std::string id;
  std::string record;  ///< as it was given
  State state = State::creating;
  std::optional<ExitInfo> exit;  ///< when ended, as far as known
  std::string reason;            ///< for people: why it is as it is; may be empty
};

class Runner {
 public:
  virtual ~Runner() = default;
  [[nodiscard]] virtual std::string_view name() const noexcept = 0;  ///< becomes status.runnerId
  /// Completes when the sandbox runs its main command. Throws RunnerError; nothing is left behind then. A durable runner that has a
  /// sandbox of that id already: the same record means a repeated creation, which completes as the first does; another one is
  /// "already_exists".
  [[nodiscard]] virtual asio::awaitable<std::unique_ptr<Sandbox>> create(SandboxSpec spec) = 0;
  /// What `spec` asks for and this runner cannot do or its operator does not allow: members of SandboxSpec ("resources.gpus", ...)
  /// or elements of them ("egress[0]", "secrets[0]", "volumes[0].name", "volumes[0].size_limit"). Empty: it will try.
  [[nodiscard]] virtual std::vector<std::string> refuses(const SandboxSpec& spec) const { return asked_beyond_the_basics(spec); }

  /// More than so many creations at one time only get into each other's way; 0: any number.
  [[nodiscard]] virtual std::size_t creations_at_once() const noexcept { return 0; }

  // ---- durable runners only ----

  /// Whether sandboxes outlive this process.
  [[nodiscard]] virtual bool durable() const noexcept { return false; }
  /// Calls `handler` for every sandbox that is there and that this object has not created, and whenever one changes; not from
  /// inside the call. Set once, before anything is created. Completes when all that are there have been told of, so that whoever
  /// waits for it does not take a sandbox for missing; throws RunnerError when the place cannot be asked, and may be called again
  /// then.
  [[nodiscard]] virtual asio::awaitable<void> find(std::function<void(Found)> handler);
  /// A sandbox that was found. Completes when it runs its main command; throws as `create` does, and when nobody creates it any
  /// more.
  [[nodiscard]] virtual asio::awaitable<std::unique_ptr<Sandbox>> adopt(std::string id);
  /// From now on destroying a Sandbox, or this object, only lets go of it: it runs on, to be found by another.
  virtual void let_go() noexcept {}
};

}  // namespace cwsandbox::runner
