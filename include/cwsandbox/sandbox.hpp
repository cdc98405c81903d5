/// \file
/// Sandbox: a place where commands run, apart from the machine around it.
#pragma once

#include <cwsandbox/client.hpp>
#include <cwsandbox/exec_options.hpp>
#include <cwsandbox/files.hpp>
#include <cwsandbox/logs.hpp>
#include <cwsandbox/process.hpp>
#include <cwsandbox/sandbox_options.hpp>
#include <cwsandbox/stream_reader.hpp>
#include <cwsandbox/terminal.hpp>
#include <cwsandbox/watch.hpp>

namespace cwsandbox {

namespace detail {
class SandboxState;
}

/// Where a sandbox is. States only move forward; one that this version does not know is `unspecified` (LC-9, LC-10).
enum class SandboxStatus : std::uint8_t {
  unspecified,  ///< a state that this version does not know
  pending,      ///< taken on, and waiting for a place
  creating,     ///< coming up
  running,      ///< commands can run in it
  paused,       ///< held by the service, and coming back
  terminating,  ///< being ended
  completed,    ///< its main command has exited with 0
  failed,       ///< it did not come up, its main command failed, or it was lost
  terminated    ///< it was stopped, or its lifetime has passed
};
/// "running", "completed" and so on.
[[nodiscard]] CWSANDBOX_EXPORT std::string_view to_string(SandboxStatus status) noexcept;
/// The same text.
CWSANDBOX_EXPORT std::ostream& operator<<(std::ostream& out, SandboxStatus status);
/// completed, failed or terminated: it changes no more.
[[nodiscard]] constexpr bool is_terminal(SandboxStatus status) noexcept { return status >= SandboxStatus::completed; }

/// How to stop a sandbox.
class CWSANDBOX_EXPORT StopOptions {
 public:
  StopOptions() {}
  /// Between SIGTERM and SIGKILL, default 10 s; rounded up to seconds, at least one (ST-9).
  StopOptions& with_grace_period(Duration grace) & { return grace_ = detail::to_milliseconds(grace, "grace period"), *this; }
  /// A sandbox that the server does not know counts as stopped (ST-6).
  StopOptions& with_missing_ok(bool on = true) & { return missing_ok_ = on, *this; }
  StopOptions&& with_grace_period(Duration grace) && { return std::move(with_grace_period(grace)); }
  StopOptions&& with_missing_ok(bool on = true) && { return std::move(with_missing_ok(on)); }
  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] std::chrono::milliseconds grace_period() const noexcept { return grace_; }
  [[nodiscard]] bool missing_ok() const noexcept { return missing_ok_; }
  ///@}

 private:
  std::chrono::milliseconds grace_ = std::chrono::seconds(10);
  bool missing_ok_ = false;
};

/// How to wait for a sandbox's end.
class CWSANDBOX_EXPORT WaitOptions {
 public:
  WaitOptions() {}
  /// Off: one that was terminated, or that this handle stopped, is an end like any other.
  WaitOptions& with_raise_on_termination(bool on) & { return raise_on_termination_ = on, *this; }
  WaitOptions&& with_raise_on_termination(bool on) && { return std::move(with_raise_on_termination(on)); }
  /// What was asked for, or the default.
  [[nodiscard]] bool raise_on_termination() const noexcept { return raise_on_termination_; }

 private:
  bool raise_on_termination_ = true;
};

/// Which sandboxes to list (LC-15).
class CWSANDBOX_EXPORT ListOptions {
 public:
  ListOptions() {}
  /// Only those that bear all the tags given.
  ListOptions& with_tag(std::string tag) & { return tags_.push_back(std::move(tag)), *this; }
  /// Only those in this state now.
  ListOptions& with_status(SandboxStatus status) & { return status_ = status, *this; }
  /// Only those on one of the runners given.
  ListOptions& with_runner_id(std::string id) & { return runner_ids_.push_back(std::move(id)), *this; }
  /// Only those with one of the volumes given.
  ListOptions& with_volume_id(std::string id) & { return volume_ids_.push_back(std::move(id)), *this; }
  /// Also those that have ended.
  ListOptions& with_include_stopped(bool on = true) & { return include_stopped_ = on, *this; }
  ListOptions&& with_tag(std::string tag) && { return std::move(with_tag(std::move(tag))); }
  ListOptions&& with_status(SandboxStatus status) && { return std::move(with_status(status)); }
  ListOptions&& with_runner_id(std::string id) && { return std::move(with_runner_id(std::move(id))); }
  ListOptions&& with_volume_id(std::string id) && { return std::move(with_volume_id(std::move(id))); }
  ListOptions&& with_include_stopped(bool on = true) && { return std::move(with_include_stopped(on)); }
  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] const std::vector<std::string>& tags() const noexcept { return tags_; }
  [[nodiscard]] SandboxStatus status() const noexcept { return status_; }
  [[nodiscard]] bool include_stopped() const noexcept { return include_stopped_; }
  [[nodiscard]] const std::vector<std::string>& runner_ids() const noexcept { return runner_ids_; }
  [[nodiscard]] const std::vector<std::string>& volume_ids() const noexcept { return volume_ids_; }
  ///@}

 private:
  std::vector<std::string> tags_, runner_ids_, volume_ids_;
  SandboxStatus status_ = SandboxStatus::unspecified;
  bool include_stopped_ = false;
};

/// How the processes of one sandbox ended, as seen from this handle and its copies (PR-13).
class ExecStats {
 public:
  ExecStats() {}
  std::uint64_t exec_count = 0;         ///< started with exec()
  std::uint64_t completed_ok = 0;       ///< exit code 0
  std::uint64_t completed_nonzero = 0;  ///< another exit code, or death by a signal
  std::uint64_t failures = 0;           ///< timed out, cancelled, could not be started, lost, refused
};

/// A handle to a sandbox. Copies mean the same sandbox.
///
/// \par Lifetime
/// One from `run()` is owned by its handles and those of its processes (and of their streams): the last that goes has it stopped,
/// without waiting for that; `release()` gives this up. One that is still owned at exit (a static object's, or one on the stack of
/// whoever called `exit()`) is stopped then, on the default loop; these stops, and those that are under way, get up to 10 s in all.
/// One from `from_id` or `list` is not owned.
///
/// \par Errors
/// Calls return tasks; the errors of the tree in <cwsandbox/errors.hpp> come out of those. Misuse (an empty command, a relative
/// path, a NUL) throws `std::invalid_argument` from the call.
///
/// \par Files
/// The calls for files start the sandbox if need be (FI-1). A path is bytes without a NUL, not empty (else `std::invalid_argument`
/// from the call), resolved inside the sandbox by its user. Errors come out of the task: SandboxFileError with path, reason and
/// metadata for what concerns the file (FI-2). Cancelling the task ends the transfer; a write that was cancelled or failed leaves
/// what was there before (FI-6). More in docs/files.md.
///
/// \par Executor
/// The client's LoopManager.
///
/// \par Thread safety
/// Distinct objects: safe. Shared objects: safe for const calls.
class CWSANDBOX_EXPORT Sandbox {
 public:
  Sandbox() noexcept = default;  ///< empty: to be assigned to. Everything but `valid()` throws std::invalid_argument
  /// Whether it is a handle to anything.
  [[nodiscard]] bool valid() const noexcept { return state_ != nullptr; }

  /// Starts a sandbox and returns at once. Errors come out of `start()`, `wait()` and of the processes.
  [[nodiscard]] static Sandbox run(SandboxOptions options = SandboxOptions());
  /// The same, where and as whom the client says.
  [[nodiscard]] static Sandbox run(const Client& client, SandboxOptions options = SandboxOptions());
  /// One that exists, stopped ones too.
  /// \throws SandboxNotFoundError with the id in its text, from the task (LC-14).
  [[nodiscard]] static task<Sandbox> from_id(const Client& client, std::string sandbox_id);
  /// All that match, newest state included; pages are followed.
  [[nodiscard]] static task<std::vector<Sandbox>> list(const Client& client, ListOptions options = ListOptions());

  /// Has the server stop one, by its id; completes when that is accepted. The published client's `delete`.
  /// \param missing_ok one that the server does not know is no error.
  /// \throws std::invalid_argument for an empty id; SandboxNotFoundError from the task (LC-16).
  static task<void> remove(const Client& client, std::string sandbox_id, bool missing_ok = false);

  /// Runs a command; returns at once. It waits for the sandbox to start; the command's timeout does not count that (EX-4).
  /// \param command program and arguments, as the program gets them: no shell takes part.
  /// \throws std::invalid_argument for an empty command, an empty or relative cwd, a NUL, an environment name that is empty or
  /// holds '=', a timeout below 1 ms, or a command of more than 4 MiB (EX-1, EX-2).
  ///
  /// A server without the exec stream (docs/exec-stream.md), found out once, runs it as one request: output comes when it has
  /// ended, stdin and signals fail with SandboxExecutionError (reason CWSANDBOX_EXEC_STREAM_UNAVAILABLE), a cancel cannot be
  /// confirmed, the working directory is entered by /bin/sh, and without a timeout of its own the command has the request's.
  /// %Output that such a server cuts short ends for readers, and with Capture::all() for the result too, in
  /// SandboxStreamTruncatedError.
  [[nodiscard]] Process exec(std::vector<std::string> command, ExecOptions options = ExecOptions()) const;
  /// What is no command says so in one line.
  template <typename Command>
    requires(!std::is_convertible_v<const Command&, std::vector<std::string>>)
  Process exec(const Command& /*command*/, const ExecOptions& /*options*/ = ExecOptions()) const {
    static_assert(sizeof(Command) == 0,
                  "cwsandbox: exec() takes the program and each of its arguments apart, as a "
                  "std::vector<std::string>: exec({\"ls\", \"-l\"}); a line for the shell is sh(\"ls -l\")");
    return Process();
  }
  /// `exec` of `sh -c script`: pipes, globs, variables. What comes from elsewhere does not belong into `script` but into `exec`'s
  /// arguments or the environment. The sandbox must have a shell: with none, the process fails with ENOENT (EX-2).
  [[nodiscard]] Process sh(std::string script, ExecOptions options = ExecOptions()) const;
  /// Runs a command and gives what it wrote to stdout, as far as `options` keep it (by default all).
  /// \throws from the task: SandboxExecutionError for an exit other than 0, as with ExecOptions::with_check, which is on whatever
  /// `options` say; its `result()` has both outputs. Else as `exec`.
  /// \par Cancellation
  /// Of the task, or its last handle that goes: cancels the process.
  [[nodiscard]] task<Output> check_output(std::vector<std::string> command, ExecOptions options = ExecOptions()) const;
  /// Runs a shell, or another command, on a terminal of its own; returns at once, like `exec`. The client sets no timeout (TS-6).
  /// \throws std::invalid_argument for a size below 1 or above 65535, and as `exec` does.
  [[nodiscard]] TerminalSession shell(ShellOptions options = ShellOptions()) const;
  /// Takes over a process that was started elsewhere, from its `id()`; returns at once. The newest wins: for whoever had it before,
  /// it ends with SandboxConnectionLostError. `pid()` completes when it has been taken over, and `command()` is known from then on
  /// (an old gateway tells neither: `pid()` fails then). The handle owns the process as one from `exec` does.
  /// \throws std::invalid_argument for an id that can be none. From the task: SandboxExecutionError with the reason
  /// CWSANDBOX_PROCESS_NOT_FOUND, SandboxStreamTruncatedError for output that is gone (TS-14).
  [[nodiscard]] Process attach(std::string process_id, AttachOptions options = AttachOptions()) const;
  /// The same for a terminal.
  [[nodiscard]] TerminalSession attach_terminal(std::string session_id, AttachOptions options = AttachOptions()) const;

  /// Completes when the server has accepted the sandbox, so that it has an id. Done once, however often it is called; one request
  /// id over all retries, so that no second sandbox is made (LC-1, LC-2).
  task<void> start() const;
  /// Completes when it is running (or paused, or completed). Starts it if need be. However many wait, the server is asked once
  /// (LC-5). Cancelling drops this wait and nothing else.
  /// \throws SandboxFailedError from the task, as the next two (LC-4).
  /// \throws SandboxTerminatedError when it was terminated.
  /// \throws SandboxNotRunningError when it was stopped meanwhile (ST-8).
  [[nodiscard]] task<void> wait() const;
  /// Completes when it has ended, with how. Starts it if need be; the rest as with `wait`.
  /// \throws SandboxFailedError from the task, as the next (LC-6).
  /// \throws SandboxTerminatedError when it was terminated or this handle stopped it, unless the options say otherwise.
  [[nodiscard]] task<SandboxStatus> wait_until_complete(WaitOptions options = WaitOptions()) const;
  /// Stops it; completes when nothing of it is left (ST-1). Concurrent calls share one stop (ST-2). One that was never accepted is
  /// left alone (ST-3).
  task<void> stop(StopOptions options = StopOptions()) const;
  /// Asks the server where it is; one that is known to have ended is not asked about (LC-11). Starts it if need be.
  [[nodiscard]] task<SandboxStatus> get_status() const;

  // ---- files: see the class's comment ----

  /// A file, or a range of one, as a string.
  /// \throws SandboxFileError from the task; with reason CWSANDBOX_FILE_TRUNCATED when fewer bytes came than announced (FI-4).
  [[nodiscard]] task<std::string> read_file(std::string path, ReadFileOptions options = ReadFileOptions()) const;
  /// Writes a file whole or not at all; completes when it has its name.
  task<void> write_file(std::string path, std::string content, WriteFileOptions options = WriteFileOptions()) const;
  /// A file in chunks of at most 256 KiB, as fast as they are read: about 1 MiB waits at most (FI-3). `close()`, or the last copy
  /// of the reader going, ends the transfer (SR-6).
  [[nodiscard]] StreamReader<std::string> read_file_stream(std::string path, ReadFileOptions options = ReadFileOptions()) const;
  /// The lines of a file, one after the other: `read_file_stream(path, options).lines(max_line)`.
  [[nodiscard]] LineReader read_lines(std::string path, ReadFileOptions options = ReadFileOptions(),
                                      std::size_t max_line = 16 * 1024 * 1024) const {
    return read_file_stream(std::move(path), std::move(options)).lines(max_line);
  }
  /// A file that is written as its bytes come, of any size, in constant memory (FI-3).
  [[nodiscard]] FileWriteStream write_file_stream(std::string path, WriteFileOptions options = WriteFileOptions()) const;
  /// Copies a file from the sandbox to this machine, in constant memory. A local file that is there is replaced when all has come,
  /// through a temporary one beside it, and keeps its permission bits; where it is a symlink, that stays. A new one gets the bits
  /// of the sandbox's less the umask.
  /// \throws std::filesystem::filesystem_error from the task for what goes wrong on this side.
  task<void> download_file(std::string path, std::string local_path, ReadFileOptions options = ReadFileOptions()) const;
  /// Copies a regular file of this machine into the sandbox, in constant memory, with its permission bits. Errors as of
  /// download_file().
  task<void> upload_file(std::string local_path, std::string path, WriteFileOptions options = WriteFileOptions()) const;
  /// What is at a path; of a symlink, the link itself.
  [[nodiscard]] task<FileInfo> stat_file(std::string path) const;
  /// The entries of a directory, without "." and "..", in no order.
  [[nodiscard]] task<std::vector<FileInfo>> list_files(std::string path) const;
  /// Makes a directory.
  /// \param parents makes those above it that are missing; one that is there already is no error then.
  /// \param mode permission bits; the default is 0755.
  task<void> make_directory(std::string path, bool parents = false, std::optional<std::uint32_t> mode = std::nullopt) const;
  /// Removes a file, a symlink or an empty directory.
  /// \param recursive a directory with all that is in it.
  /// \param missing_ok one that is not there is no error.
  task<void> remove_file(std::string path, bool recursive = false, bool missing_ok = false) const;
  /// Gives it another name, in place of what had that before.
  task<void> rename_file(std::string from, std::string to) const;

  /// Tells what happens to a file, or to a directory and its direct entries, from when the task has completed: no later change is
  /// missed, and each is told in its order (FI-16). A symlink is followed. Nothing is held up by who reads slowly: of what does not
  /// fit (4096 events here, the kernel's queue there) an event says that some are missing (FI-17). The stream ends with `gone`,
  /// when what is watched has been deleted or moved (FI-18). `close()`, or the last copy of the reader and of the task going, ends
  /// the watch. More in docs/files.md.
  ///
  /// Errors, from the task: SandboxFileError for what does not exist or may not be read, and with the code "unimplemented" where
  /// the server cannot watch; SandboxResourceExhaustedError for too many watches. From the reader: SandboxUnavailableError when the
  /// connection is lost, which is not made again, since what happened meanwhile is not known (FI-19); SandboxNotRunningError once
  /// the sandbox has ended.
  [[nodiscard]] task<StreamReader<FileEvent>> watch(std::string path) const;

  /// What the main command wrote to stdout and stderr, line by line: the last one also when nothing ends it (LG-1). Without
  /// `follow`, up to now, of one that has ended, too (LG-12), and a connection that breaks is an error (LG-8). With it, until the
  /// command has ended; when the connection breaks it goes on where it was, after 0.5, 1 and 2 s (LG-3), and what could not be had
  /// any more is an item of its own (LG-4). About 1 MiB waits at most, then the server does. `close()`, or the last copy of the
  /// reader going, ends the connection (SR-6).
  ///
  /// Errors come from the reader: SandboxStreamTruncatedError for a line of more than 1 MiB (LG-2); SandboxUnavailableError with
  /// the cause nested after three attempts without data (LG-7).
  /// \throws std::invalid_argument for tail_lines below 1.
  [[nodiscard]] StreamReader<LogLine> stream_logs(LogOptions options = LogOptions()) const;

  /// Empty until `start()` has completed.
  [[nodiscard]] std::optional<std::string> sandbox_id() const;
  /// As last heard; never blocks.
  [[nodiscard]] SandboxStatus status() const;
  /// Why it is there, as the server says it; often empty.
  [[nodiscard]] std::string status_reason() const;
  /// When `status()` was last heard, by this machine's clock; the epoch before that.
  [[nodiscard]] std::chrono::system_clock::time_point status_updated_at() const;
  /// How the main command exited (128 + n: by signal n); empty unless that was observed (LC-7).
  [[nodiscard]] std::optional<int> returncode() const;
  /// The image, as asked for or as the server says.
  [[nodiscard]] std::string image() const;
  /// The main command, as asked for or as the server says; empty while neither is known.
  [[nodiscard]] std::vector<std::string> command() const;
  /// Its tags.
  [[nodiscard]] std::vector<std::string> tags() const;
  /// When the server made it; the epoch while unknown.
  [[nodiscard]] std::chrono::system_clock::time_point created_at() const;
  /// When it began to run; the epoch while unknown.
  [[nodiscard]] std::chrono::system_clock::time_point started_at() const;
  /// When it ended; the epoch while unknown.
  [[nodiscard]] std::chrono::system_clock::time_point ended_at() const;
  /// Where it runs; empty while unknown.
  [[nodiscard]] std::string runner_id() const;
  /// The group that its runner belongs to; empty while unknown.
  [[nodiscard]] std::string runner_group_id() const;
  /// How its processes ended: one snapshot.
  [[nodiscard]] ExecStats exec_stats() const;
  /// Gives up ownership: the sandbox goes on when the last handle goes.
  void release() const;

  /// For the library's own parts.
  explicit Sandbox(std::shared_ptr<detail::SandboxState> state) noexcept : state_(std::move(state)) {}
  /// For the library's own parts.
  [[nodiscard]] const std::shared_ptr<detail::SandboxState>& state() const noexcept { return state_; }

 private:
  std::shared_ptr<detail::SandboxState> state_;
};

}  // namespace cwsandbox
