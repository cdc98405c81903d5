/// \file
/// Process and ProcessResult: a command under way in a sandbox, and how it ended.
#pragma once

#include <cwsandbox/exec_options.hpp>
#include <cwsandbox/stream_reader.hpp>
#include <cwsandbox/stream_writer.hpp>

#include <cstdint>
#include <iosfwd>
#include <vector>

namespace cwsandbox {

/// How a process ended.
enum class Outcome : std::uint8_t {
  exited,     ///< with an exit code
  signaled,   ///< by a signal
  timed_out,  ///< its timeout passed and it was killed
  cancelled,  ///< it was asked to end
  failed,     ///< it could not be started
  lost,       ///< the connection or the sandbox went and nobody knows
};
/// "exited", "signaled" and so on.
[[nodiscard]] CWSANDBOX_EXPORT std::string_view to_string(Outcome outcome) noexcept;
/// The same text.
CWSANDBOX_EXPORT std::ostream& operator<<(std::ostream& out, Outcome outcome);

/// What ended a process, where that was not its own doing: not to be scored as the program's.
enum class EndReason : std::uint8_t {
  none,              ///< itself, or a signal of somebody's; or nobody knows
  timeout,           ///< its timeout
  sandbox_stopped,   ///< its sandbox was stopped
  lifetime,          ///< its sandbox's maximum lifetime passed
  out_of_memory,     ///< its sandbox used all the memory that it may have, and it was killed for that
  main_ended,        ///< the main command of its sandbox ended, and so did the sandbox
  gateway_shutdown,  ///< the gateway was shut down
  other              ///< one that this version of the library does not know
};
/// "none", "timeout", "sandbox_stopped" and so on.
[[nodiscard]] CWSANDBOX_EXPORT std::string_view to_string(EndReason reason) noexcept;
/// The same text.
CWSANDBOX_EXPORT std::ostream& operator<<(std::ostream& out, EndReason reason);

/// Where a process is (PR-10).
enum class ProcessStatus : std::uint8_t {
  starting,   ///< not confirmed yet, or its sandbox is still coming up
  running,    ///< started
  exited,     ///< Outcome::exited
  signaled,   ///< Outcome::signaled
  timed_out,  ///< Outcome::timed_out
  cancelled,  ///< Outcome::cancelled
  failed,     ///< Outcome::failed
  lost        ///< Outcome::lost
};
/// "starting", "running" and so on.
[[nodiscard]] CWSANDBOX_EXPORT std::string_view to_string(ProcessStatus status) noexcept;
/// The same text.
CWSANDBOX_EXPORT std::ostream& operator<<(std::ostream& out, ProcessStatus status);

namespace detail {
class OutputStorage;
}

/// What is kept of one output stream. A cheap handle to bytes that are held once and never change.
///
/// \par Thread safety
/// Shared objects: safe.
class CWSANDBOX_EXPORT Output {
 public:
  Output();
  /// An output that holds `text`, for fakes.
  Output(std::string_view text);  // NOLINT(google-explicit-constructor): stands in for a string

  /// The bytes kept: all of them, or head and tail one after the other when `dropped()` is not 0.
  [[nodiscard]] std::string_view view() const noexcept;
  /// The bytes kept, as a string of your own.
  [[nodiscard]] std::string str() const { return std::string(view()); }
  /// The same as `view()`.
  operator std::string_view() const noexcept { return view(); }  // NOLINT(google-explicit-constructor)
  /// The same as `str()`: `std::string text = result.std_out`.
  operator std::string() const { return str(); }  // NOLINT(google-explicit-constructor)
  ///@{
  /// As those of `std::string_view`, over the bytes kept.
  static constexpr std::size_t npos = std::string_view::npos;
  [[nodiscard]] std::size_t find(std::string_view text, std::size_t from = 0) const noexcept { return view().find(text, from); }
  [[nodiscard]] bool contains(std::string_view text) const noexcept { return find(text) != npos; }
  [[nodiscard]] bool starts_with(std::string_view text) const noexcept { return view().starts_with(text); }
  [[nodiscard]] bool ends_with(std::string_view text) const noexcept { return view().ends_with(text); }
  [[nodiscard]] std::string substr(std::size_t from, std::size_t count = npos) const {
    return std::string(view().substr(from, count));
  }
  ///@}
  /// Bytes kept.
  [[nodiscard]] std::size_t size() const noexcept { return view().size(); }
  /// Whether nothing is kept.
  [[nodiscard]] bool empty() const noexcept { return view().empty(); }
  [[nodiscard]] std::string_view head() const noexcept;  ///< the bytes before the gap; all of them when there is none
  [[nodiscard]] std::string_view tail() const noexcept;  ///< the bytes after the gap; empty when there is none
  /// Bytes that were received but not kept, between head and tail.
  [[nodiscard]] std::uint64_t dropped() const noexcept;
  /// Bytes that this side received.
  [[nodiscard]] std::uint64_t received() const noexcept;
  /// Bytes that the process is known to have written; more than `received()` when the connection was lost, a cap cut it, or
  /// the process was attached to behind the first byte.
  [[nodiscard]] std::uint64_t produced() const noexcept;

  friend bool operator==(const Output& a, std::string_view b) noexcept { return a.view() == b; }
  friend bool operator==(const Output& a, const Output& b) noexcept { return a.view() == b.view(); }
  friend CWSANDBOX_EXPORT std::ostream& operator<<(std::ostream& out, const Output& output);

  // The bytes kept, put together with other text.
  friend std::string operator+(const Output& a, std::string_view b) { return a.str().append(b); }
  friend std::string operator+(std::string_view a, const Output& b) { return std::string(a).append(b.view()); }
  friend std::string operator+(const Output& a, const Output& b) { return a.str().append(b.view()); }

  /// For the library's own parts:
  /// what they have kept.
  explicit Output(std::shared_ptr<const detail::OutputStorage> storage) noexcept;

 private:
  std::shared_ptr<const detail::OutputStorage> storage_;
};

/// How a process ended and what it wrote. Cheap to copy.
class CWSANDBOX_EXPORT ProcessResult {
 public:
  ProcessResult() {}

  Output std_out;  ///< what it wrote to stdout, as far as it was kept
  Output std_err;  ///< what it wrote to stderr, apart
  /// The exit code; 128 + n after death by signal n, as shells say it. Empty when nobody knows: never invented (EX-11).
  std::optional<int> returncode;
  Outcome outcome = Outcome::lost;  ///< how it ended
  /// What ended it, when that was not its own doing. Also of one that took the end of its sandbox for a reason to exit (EX-18).
  EndReason reason = EndReason::none;
  /// The signal that ended it, when one did (EX-16).
  std::optional<int> signal;
  /// Somebody else, a process in the background, still held stdout when the drain time was over (ExecOptions::with_drain): it may
  /// write more, which nobody gets (EX-19).
  bool stdout_left_open = false;
  bool stderr_left_open = false;                     ///< the same of stderr
  std::vector<std::string> command;                  ///< the caller's argv (PR-6)
  std::chrono::system_clock::time_point started_at;  ///< by the gateway's clock; the epoch when unknown
  std::chrono::system_clock::time_point ended_at;    ///< by the same clock; the epoch when unknown

  /// It exited by itself, with 0.
  [[nodiscard]] bool ok() const noexcept { return outcome == Outcome::exited && returncode == 0; }
  /// One line for people: "exited, exit code 3", "signaled by 9 (out_of_memory)", "lost, no exit code". Its form may change.
  [[nodiscard]] std::string summary() const;
  // Prints `summary()`.
  friend CWSANDBOX_EXPORT std::ostream& operator<<(std::ostream& out, const ProcessResult& result);
};

/// What becomes of the connection of a process that is detached from.
enum class Detach : std::uint8_t {
  /// It stays: output is received and dropped as the capture rule has it, and the result comes here, while this program runs.
  keep_connection,
  /// It is let go of as soon as the process has started: from there on the gateway keeps output and exit for whoever attaches. Here
  /// the process ends with SandboxConnectionLostError, reason CWSANDBOX_PROCESS_DETACHED.
  let_go
};

namespace detail {

/// What a Process can do beyond waiting. Null for a Process made from a plain task.
class ProcessControl {
 public:
  virtual ~ProcessControl() = default;
  [[nodiscard]] virtual ProcessStatus status() const = 0;
  virtual void signal(std::string_view name) = 0;
  [[nodiscard]] virtual task<std::uint64_t> pid() = 0;
  [[nodiscard]] virtual const std::string& id() const noexcept = 0;
  /// What the server has said that it runs; null: nothing yet.
  [[nodiscard]] virtual const std::vector<std::string>* told_command() const noexcept { return nullptr; }
  virtual void detach(Detach how) = 0;
  /// For a terminal.
  virtual void resize(std::uint16_t width, std::uint16_t height) = 0;
};

}  // namespace detail

/// A command under way. It is a task of its ProcessResult: `result()`, `co_await process`, `cancel()`, and so on.
///
/// \par Lifetime
/// A handle; the last one that goes (with those of its streams, and what waits for it or for one of them) cancels the process,
/// unless `detach()` was called.
///
/// \par Errors of `result()`, `wait()` and `co_await`
/// SandboxCommandTimeoutError (its timeout), CancelledError (cancelled), SandboxExecutionError (could not be started, or `check`),
/// SandboxConnectionLostError (nobody knows), SandboxNotRunningError, SandboxNotFoundError, … Each holds the output so far.
///
/// \par Cancellation
/// `cancel()` has the process group sent SIGTERM, and SIGKILL after the grace time, where it runs. Writers that wait wake at
/// once; waits end with CancelledError when the gateway has confirmed the end, so that whoever sees it knows that nothing is left
/// (PR-7 to PR-9).
///
/// \par Thread safety
/// Shared objects: safe.
///
/// Source: the published client's %Process; conformance PR-*, EX-*.
class CWSANDBOX_EXPORT Process : public task<ProcessResult> {
 public:
  /// Called once per process, before anybody sees the result: see ExecOptions::with_stats_callback (PR-12).
  using StatsCallback = cwsandbox::StatsCallback;

  /// Empty: to be assigned to. `valid()` is false, and what asks for more throws std::invalid_argument.
  Process() noexcept = default;
  /// From parts of your own, for fakes.
  /// \throws std::invalid_argument for an empty task or reader.
  Process(task<ProcessResult> result, std::vector<std::string> command, StreamReader<std::string> std_out,
          StreamReader<std::string> std_err, std::optional<StreamWriter> std_in = std::nullopt,
          StatsCallback stats_callback = nullptr);
  /// For the library's own parts.
  Process(task<ProcessResult> result, std::vector<std::string> command, StreamReader<std::string> std_out,
          StreamReader<std::string> std_err, std::optional<StreamWriter> std_in, std::shared_ptr<detail::ProcessControl> control);

  /// The exit code, or empty while the process goes on; never blocks (PR-1). Once it has ended without a code it throws what
  /// `wait()` throws, so that a loop around it ends.
  [[nodiscard]] std::optional<int> poll() const;
  /// The exit code, or empty while it is not known, which may be for ever; never throws (PR-5).
  [[nodiscard]] std::optional<int> returncode() const;
  /// What the caller asked to run; nothing for an empty one. For a process that was attached to, what the gateway says that it
  /// runs, once `pid()` has completed: nothing before, nor of a command of more than 16 KiB, nor from a gateway that does not tell
  /// (TS-18).
  [[nodiscard]] const std::vector<std::string>& command() const noexcept;

  /// Blocks until it ends; the exit code. Errors as `result()` (PR-2).
  int wait() const;
  /// The same with a limit on the wait.
  /// \throws TimeoutError when `timeout` passes first; nothing is killed and it may be asked again (PR-4).
  template <typename Rep, typename Period>
  int wait(std::chrono::duration<Rep, Period> timeout) const {
    return code_of(result(timeout));
  }

  /// What it writes to stdout, as it comes.
  [[nodiscard]] const StreamReader<std::string>& std_out() const noexcept { return std_out_; }
  /// What it writes to stderr, as it comes.
  [[nodiscard]] const StreamReader<std::string>& std_err() const noexcept { return std_err_; }
  /// Null unless the process was started with stdin (PR-14).
  [[nodiscard]] const StreamWriter* std_in() const noexcept { return std_in_ ? &*std_in_ : nullptr; }

  /// Where it is now (PR-10). Never blocks.
  [[nodiscard]] ProcessStatus status() const;
  /// Sends a signal to the process group, by name ("SIGINT") or number. Fire and forget; passes while streams are stuck.
  /// \throws std::invalid_argument for a name or number that is none; SandboxExecutionError when the process has ended.
  void signal(std::string_view name) const;
  /// The same by number.
  void signal(int number) const { signal(std::to_string(number)); }
  /// The process's id inside the sandbox, once it has started.
  [[nodiscard]] task<std::uint64_t> pid() const;
  /// The name that the client gave the process (a UUID); empty for one made from a plain task.
  [[nodiscard]] const std::string& id() const noexcept;
  /// Lets the process go on when the last handle goes. Its output is then received and dropped as the capture rule has it, while
  /// this program runs; once its connection is gone, the gateway keeps it for its grace time (60 s by default) for somebody to take
  /// it over with `Sandbox::attach`.
  ///
  /// With `Detach::let_go` the connection goes at once, so that nothing more is taken from whoever attaches: not its output from
  /// here on, and not its exit. What this side had received before is not held for certain: the offsets for
  /// `AttachOptions::with_offsets` are in the metadata of the error that the process ends with here (`stdout_received`,
  /// `stderr_received`). `flush()` its stdin first; the sandbox lives on only if somebody else owns it (`Sandbox::release`).
  /// \throws SandboxExecutionError for `let_go` where the server has no exec stream.
  void detach(Detach how = Detach::keep_connection) const;

 private:
  static int code_of(const ProcessResult& result);
  std::shared_ptr<const std::vector<std::string>> command_;
  StreamReader<std::string> std_out_, std_err_;
  std::optional<StreamWriter> std_in_;
  std::shared_ptr<detail::ProcessControl> control_;
};

}  // namespace cwsandbox
