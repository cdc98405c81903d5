/// \file
/// TerminalSession, ShellOptions and TerminalResult: a command on a terminal of its own.
#pragma once

#include <cwsandbox/process.hpp>

#include <map>

namespace cwsandbox {

/// How a terminal session ended. What it printed is nowhere kept: it went to whoever read `output()`.
class CWSANDBOX_EXPORT TerminalResult {
 public:
  TerminalResult() {}
  /// The exit code; 128 + n after death by signal n. Empty when nobody knows: never invented.
  std::optional<int> returncode;
  Outcome outcome = Outcome::lost;     ///< how it ended
  EndReason reason = EndReason::none;  ///< what ended it, when that was not its own doing
  std::optional<int> signal;           ///< the signal that ended it, when one did
  std::vector<std::string> command;    ///< what was asked to run
  /// For one that was attached to: bytes of output behind the offset asked for that were no longer held.
  std::uint64_t skipped = 0;
};

/// Options of `Sandbox::shell`.
class CWSANDBOX_EXPORT ShellOptions {
 public:
  ShellOptions() {}

  /// Program and arguments; default `/bin/bash` (TS-6).
  ShellOptions& with_command(std::vector<std::string> command) & { return command_ = std::move(command), *this; }
  /// Working directory, absolute.
  ShellOptions& with_cwd(std::string cwd) & { return cwd_ = std::move(cwd), *this; }
  /// Adds a variable to the sandbox's environment. `TERM` given here wins over `with_term`.
  ShellOptions& with_env(std::string name, std::string value) & {
    return env_.insert_or_assign(std::move(name), std::move(value)), *this;
  }
  /// These, instead of what was added so far.
  ShellOptions& with_env(std::map<std::string, std::string> env) & { return env_ = std::move(env), *this; }
  /// The first size in characters, default 80 by 24; each from 1 to 65535.
  ShellOptions& with_size(int width, int height) & { return width_ = width, height_ = height, *this; }
  /// The kind of terminal, for the variable `TERM`; default `xterm-256color`.
  ShellOptions& with_term(std::string term) & { return term_ = std::move(term), *this; }
  /// Between SIGHUP with SIGTERM, and SIGKILL, when the session is ended from here; default 10 s.
  ShellOptions& with_grace_period(Duration grace) & { return grace_ = detail::to_milliseconds(grace, "grace period"), *this; }
  /// Bytes of output that may be under way unread; default 1 MiB, at least 64 KiB.
  ShellOptions& with_window(std::uint64_t bytes) & { return window_ = bytes, *this; }
  /// How long a lost connection may stay lost; unset: the client's (ClientOptions::with_resume_grace).
  ShellOptions& with_resume_grace(Duration grace) & {
    return resume_grace_ = detail::to_milliseconds(grace, "resume grace"), *this;
  }

  ShellOptions&& with_command(std::vector<std::string> command) && { return std::move(with_command(std::move(command))); }
  ShellOptions&& with_cwd(std::string cwd) && { return std::move(with_cwd(std::move(cwd))); }
  ShellOptions&& with_env(std::string name, std::string value) && { return std::move(with_env(std::move(name), std::move(value))); }
  ShellOptions&& with_env(std::map<std::string, std::string> env) && { return std::move(with_env(std::move(env))); }
  ShellOptions&& with_size(int width, int height) && { return std::move(with_size(width, height)); }
  ShellOptions&& with_term(std::string term) && { return std::move(with_term(std::move(term))); }
  ShellOptions&& with_grace_period(Duration grace) && { return std::move(with_grace_period(grace)); }
  ShellOptions&& with_window(std::uint64_t bytes) && { return std::move(with_window(bytes)); }
  ShellOptions&& with_resume_grace(Duration grace) && { return std::move(with_resume_grace(grace)); }

  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] const std::vector<std::string>& command() const noexcept { return command_; }
  [[nodiscard]] const std::optional<std::string>& cwd() const noexcept { return cwd_; }
  [[nodiscard]] const std::map<std::string, std::string>& env() const noexcept { return env_; }
  [[nodiscard]] int width() const noexcept { return width_; }
  [[nodiscard]] int height() const noexcept { return height_; }
  [[nodiscard]] const std::string& term() const noexcept { return term_; }
  [[nodiscard]] std::chrono::milliseconds grace_period() const noexcept { return grace_; }
  [[nodiscard]] std::uint64_t window() const noexcept { return window_; }
  [[nodiscard]] const std::optional<std::chrono::milliseconds>& resume_grace() const noexcept { return resume_grace_; }
  ///@}

 private:
  std::vector<std::string> command_{"/bin/bash"};
  std::optional<std::string> cwd_;
  std::map<std::string, std::string> env_;
  int width_ = 80, height_ = 24;
  std::string term_ = "xterm-256color";
  std::chrono::milliseconds grace_ = std::chrono::seconds(10);
  std::uint64_t window_ = 1024 * 1024;
  std::optional<std::chrono::milliseconds> resume_grace_;
};

/// A command on a terminal of its own: a task of its TerminalResult (TS-1). The client sets no timeout.
///
/// \par Output
/// `output()` gives raw bytes, stdout and stderr as one, as the terminal got them (TS-2). Nothing is kept beside: a reader that is
/// slow slows the session. When nobody reads, the session ends all the same: once somebody waits for the result, or the command has
/// ended, what comes is taken in.
///
/// \par Lifetime
/// A handle; the last one that goes (with those of its streams) ends the session, unless `detach()` was called.
///
/// \par Errors of `result()` and `co_await`
/// Those of Process. When the session fails, `output()` gives the error after the data, and `input()` throws "Cannot write to
/// stdin: stream has failed" (TS-9, SW-12).
///
/// \par Cancellation
/// `cancel()`, and closing `output()` (SR-6), hang up: SIGHUP and SIGTERM to the process group, SIGKILL after the grace time; the
/// output ends, waits end with CancelledError (TS-10).
///
/// \par Thread safety
/// Shared objects: safe.
class CWSANDBOX_EXPORT TerminalSession : public task<TerminalResult> {
 public:
  /// For the library's own parts.
  TerminalSession(task<TerminalResult> result, std::vector<std::string> command, StreamReader<std::string> output,
                  StreamWriter input, std::shared_ptr<detail::ProcessControl> control);

  /// What was asked to run; as of Process::command().
  [[nodiscard]] const std::vector<std::string>& command() const noexcept;
  /// What the terminal shows.
  [[nodiscard]] const StreamReader<std::string>& output() const noexcept { return output_; }
  /// What is typed. Closing it ends the input for good: from then on whoever reads the terminal meets the end, for which one in raw
  /// mode is taken out of it. A shell takes that as the end of the session.
  [[nodiscard]] const StreamWriter& input() const noexcept { return input_; }

  /// Tells the terminal its size in characters. Fire and forget; the last one counts (TS-5).
  /// \throws std::invalid_argument for a size below 1 or above 65535; SandboxExecutionError when the session has ended.
  void resize(int width, int height) const;
  /// Sends a signal to the process group, by name ("SIGINT") or number. Fire and forget.
  /// \throws std::invalid_argument for a name or number that is none; SandboxExecutionError when the session has ended.
  void signal(std::string_view name) const;
  /// The same by number.
  void signal(int number) const { signal(std::to_string(number)); }
  /// Where it is now. Never blocks.
  [[nodiscard]] ProcessStatus status() const { return control_->status(); }
  /// The command's id inside the sandbox, once it has started.
  [[nodiscard]] task<std::uint64_t> pid() const { return task<std::uint64_t>(control_->pid().state(), guard()); }
  /// The name that `Sandbox::attach_terminal` takes.
  [[nodiscard]] const std::string& id() const noexcept { return control_->id(); }
  /// Lets the session go on when the last handle goes (TS-14); see Process::detach.
  void detach(Detach how = Detach::keep_connection) const { control_->detach(how); }

 private:
  std::shared_ptr<const std::vector<std::string>> command_;
  StreamReader<std::string> output_;
  StreamWriter input_;
  std::shared_ptr<detail::ProcessControl> control_;
};

}  // namespace cwsandbox
