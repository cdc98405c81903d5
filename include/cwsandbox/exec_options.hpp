/// \file
/// How to run a command: argv, ExecOptions, Capture.
#pragma once

#include <cwsandbox/duration.hpp>
#include <cwsandbox/export.hpp>

#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace cwsandbox {

namespace detail {

/// The shortest text that reads back as the same number, in no locale.
[[nodiscard]] CWSANDBOX_EXPORT std::string number_text(float number);
[[nodiscard]] CWSANDBOX_EXPORT std::string number_text(double number);

template <typename Part>
std::string argv_part(Part&& part) {
  using Plain = std::remove_cv_t<std::remove_reference_t<Part>>;
  // What is an integer only by its representation is none: 'a' would be "97", true "1".
  constexpr bool is_letter = std::is_same_v<Plain, bool> || std::is_same_v<Plain, char> || std::is_same_v<Plain, wchar_t> ||
                             std::is_same_v<Plain, char8_t> || std::is_same_v<Plain, char16_t> || std::is_same_v<Plain, char32_t>;
  if constexpr (std::is_constructible_v<std::string, Part> && !std::is_null_pointer_v<Plain>)
    return std::string(std::forward<Part>(part));
  else if constexpr (std::is_same_v<Plain, float> || std::is_same_v<Plain, double>)
    return number_text(part);
  else if constexpr (std::is_integral_v<Plain> && !is_letter)
    return std::to_string(part);
  else
    static_assert(sizeof(Plain) == 0, "cwsandbox::argv: every part is a string, an integer, a float or a double");
}

}  // namespace detail

/// A command from its parts, strings and numbers: `argv("sleep", 0.5)`. Numbers are written in no locale, a float or double by the
/// shortest text that reads back as the same. The same as a braced list, and works inside `co_await` with GCC 12, which does not
/// compile a braced list there.
template <typename... Parts>
[[nodiscard]] std::vector<std::string> argv(Parts&&... parts) {
  std::vector<std::string> command;
  command.reserve(sizeof...(parts));
  (command.push_back(detail::argv_part(std::forward<Parts>(parts))), ...);
  return command;
}

/// What `result()` keeps of the output, and so how much memory it takes. A cap never cuts what is streamed.
///
/// | | not read by anybody | read by somebody | held by `result()` |
/// | --- | --- | --- | --- |
/// | all() | flows, is kept | flows, is kept, one copy in all | everything |
/// | head_tail(h, t) | flows, at most h + t bytes kept | a slow reader slows the process | head, tail, the count between |
/// | none() | see below | a slow reader slows the process | nothing |
///
/// With `none()`, a stream that nobody reads waits in the window until somebody reads or waits for the result; then it flows and is
/// dropped, and counted.
class CWSANDBOX_EXPORT Capture {
 public:
  /// All of both streams: the default.
  [[nodiscard]] static Capture all() { return Capture(Kind::all, 0, 0); }
  /// The beginning and the end of each stream; what is between is counted.
  /// \param head,tail bytes of each stream
  [[nodiscard]] static Capture head_tail(std::uint64_t head, std::uint64_t tail) { return Capture(Kind::head_tail, head, tail); }
  /// Nothing; what is received is counted.
  [[nodiscard]] static Capture none() { return Capture(Kind::none, 0, 0); }

  /// Which of the three it is.
  enum class Kind : std::uint8_t {
    all,        ///< all()
    head_tail,  ///< head_tail()
    none        ///< none()
  };
  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] Kind kind() const noexcept { return kind_; }
  [[nodiscard]] std::uint64_t head() const noexcept { return head_; }
  [[nodiscard]] std::uint64_t tail() const noexcept { return tail_; }
  ///@}

 private:
  Capture(Kind kind, std::uint64_t head, std::uint64_t tail) : kind_(kind), head_(head), tail_(tail) {}
  Kind kind_;
  std::uint64_t head_, tail_;
};

class ProcessResult;

/// Told how a process ended: its result, or null and the error (PR-12).
using StatsCallback = std::function<void(const ProcessResult*, std::exception_ptr)>;

/// Options of `Sandbox::exec`. A class with setters, not an aggregate: GCC 12 destroys aggregates inside `co_await` twice.
class CWSANDBOX_EXPORT ExecOptions {
 public:
  ExecOptions() {}

  /// Opens stdin for a StreamWriter; without it the process reads the end of its input at once (IO-5).
  ExecOptions& with_stdin(bool on = true) & { return use_stdin_ = on, *this; }
  /// Working directory, absolute.
  ExecOptions& with_cwd(std::string cwd) & { return cwd_ = std::move(cwd), *this; }
  /// Adds a variable to the sandbox's environment.
  ExecOptions& with_env(std::string name, std::string value) & {
    return env_.insert_or_assign(std::move(name), std::move(value)), *this;
  }
  /// These, instead of what was added so far.
  ExecOptions& with_env(std::map<std::string, std::string> env) & { return env_ = std::move(env), *this; }
  /// An exit other than 0 becomes SandboxExecutionError (EX-6).
  ExecOptions& with_check(bool on = true) & { return check_ = on, *this; }
  /// Kills the process, with its group, where it runs after this long, counted from its start (EX-12). At least 1 ms. One that has
  /// ended by itself before is not touched: the timeout then only ends the drain.
  ExecOptions& with_timeout(Duration timeout) & { return timeout_ = detail::to_milliseconds(timeout, "timeout"), *this; }
  /// What the result keeps of the output; default: all.
  ExecOptions& with_capture(Capture capture) & { return capture_ = capture, *this; }
  /// Between SIGTERM and SIGKILL when it is cancelled or timed out; default 10 s.
  ExecOptions& with_grace_period(Duration grace) & { return grace_ = detail::to_milliseconds(grace, "grace period"), *this; }
  /// How long outputs are still read that others, processes in the background, hold after the command's own end; default 1 s. What
  /// the command itself wrote is never cut. What they write later is lost, and they get SIGPIPE for it: redirect the output of
  /// what shall go on. 0: until the last of them lets go; a timeout then is theirs, too (EX-19).
  ExecOptions& with_drain(Duration drain) & { return drain_ = detail::to_milliseconds(drain, "drain time"), *this; }
  /// Bytes of each output stream that may be under way unread; 64 KiB to 8 MiB. Default 1 MiB; a gateway may refuse more than that.
  ExecOptions& with_window(std::uint64_t bytes) & { return window_ = bytes, *this; }
  /// How long a lost connection may stay lost; unset: the client's (ClientOptions::with_resume_grace). 0: the process is lost with
  /// it.
  ExecOptions& with_resume_grace(Duration grace) & { return resume_grace_ = detail::to_milliseconds(grace, "resume grace"), *this; }
  /// Called once per process, however it ends and whoever waits, ahead of all who wait for the result: on the client's loop, so it
  /// should not take long. In there `result()` of the process gives the result at once. What it throws is dropped: an accounting
  /// that fails must not take the result from everybody else (PR-12).
  ExecOptions& with_stats_callback(StatsCallback callback) & { return stats_callback_ = std::move(callback), *this; }

  ExecOptions&& with_stats_callback(StatsCallback callback) && { return std::move(with_stats_callback(std::move(callback))); }
  ExecOptions&& with_stdin(bool on = true) && { return std::move(with_stdin(on)); }
  ExecOptions&& with_cwd(std::string cwd) && { return std::move(with_cwd(std::move(cwd))); }
  ExecOptions&& with_env(std::string name, std::string value) && { return std::move(with_env(std::move(name), std::move(value))); }
  ExecOptions&& with_env(std::map<std::string, std::string> env) && { return std::move(with_env(std::move(env))); }
  ExecOptions&& with_check(bool on = true) && { return std::move(with_check(on)); }
  ExecOptions&& with_timeout(Duration timeout) && { return std::move(with_timeout(timeout)); }
  ExecOptions&& with_capture(Capture capture) && { return std::move(with_capture(capture)); }
  ExecOptions&& with_grace_period(Duration grace) && { return std::move(with_grace_period(grace)); }
  ExecOptions&& with_drain(Duration drain) && { return std::move(with_drain(drain)); }
  ExecOptions&& with_window(std::uint64_t bytes) && { return std::move(with_window(bytes)); }
  ExecOptions&& with_resume_grace(Duration grace) && { return std::move(with_resume_grace(grace)); }

  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] bool use_stdin() const noexcept { return use_stdin_; }
  [[nodiscard]] const std::optional<std::string>& cwd() const noexcept { return cwd_; }
  [[nodiscard]] const std::map<std::string, std::string>& env() const noexcept { return env_; }
  [[nodiscard]] bool check() const noexcept { return check_; }
  [[nodiscard]] const std::optional<std::chrono::milliseconds>& timeout() const noexcept { return timeout_; }
  [[nodiscard]] const Capture& capture() const noexcept { return capture_; }
  [[nodiscard]] std::chrono::milliseconds grace_period() const noexcept { return grace_; }
  [[nodiscard]] std::chrono::milliseconds drain() const noexcept { return drain_; }
  [[nodiscard]] std::uint64_t window() const noexcept { return window_; }
  [[nodiscard]] const std::optional<std::chrono::milliseconds>& resume_grace() const noexcept { return resume_grace_; }
  [[nodiscard]] const StatsCallback& stats_callback() const noexcept { return stats_callback_; }
  ///@}

 private:
  bool use_stdin_ = false;
  bool check_ = false;
  std::optional<std::string> cwd_;
  std::map<std::string, std::string> env_;
  std::optional<std::chrono::milliseconds> timeout_;
  Capture capture_ = Capture::all();
  std::chrono::milliseconds grace_ = std::chrono::seconds(10), drain_ = std::chrono::seconds(1);
  std::uint64_t window_ = 1024 * 1024;
  std::optional<std::chrono::milliseconds> resume_grace_;
  StatsCallback stats_callback_;
};

/// Options of `Sandbox::attach` and `attach_terminal`: how to take over a process that somebody else started.
class CWSANDBOX_EXPORT AttachOptions {
 public:
  AttachOptions() {}

  /// Bytes of stdout (for a terminal: of its output) and stderr that are known already: it goes on behind them. Default: 0, the
  /// whole output. When the gateway no longer holds all that follows, the attach fails with SandboxStreamTruncatedError, which
  /// says in its metadata what is held (`stdout_from`, `stdout_to`, `stderr_from`, `stderr_to`); the process goes on, with whoever
  /// has it.
  AttachOptions& with_offsets(std::uint64_t std_out, std::uint64_t std_err = 0) & {
    return stdout_offset_ = std_out, stderr_offset_ = std_err, *this;
  }
  /// Where the bytes wanted are no longer held, takes those that are. What is missing is counted: by Output::produced() less
  /// received() in a process's result, by TerminalResult::skipped. Default: off for a process, on for a terminal.
  AttachOptions& with_from_held(bool on = true) & { return from_held_ = on, *this; }
  /// Opens stdin; it goes on where the gateway's has come to. Fails when the process was started without.
  AttachOptions& with_stdin(bool on = true) & { return use_stdin_ = on, *this; }
  ///@{
  /// As for ExecOptions.
  AttachOptions& with_check(bool on = true) & { return check_ = on, *this; }
  AttachOptions& with_capture(Capture capture) & { return capture_ = capture, *this; }
  AttachOptions& with_grace_period(Duration grace) & { return grace_ = detail::to_milliseconds(grace, "grace period"), *this; }
  AttachOptions& with_window(std::uint64_t bytes) & { return window_ = bytes, *this; }
  AttachOptions& with_resume_grace(Duration grace) & {
    return resume_grace_ = detail::to_milliseconds(grace, "resume grace"), *this;
  }
  ///@}

  AttachOptions&& with_offsets(std::uint64_t std_out, std::uint64_t std_err = 0) && {
    return std::move(with_offsets(std_out, std_err));
  }
  AttachOptions&& with_from_held(bool on = true) && { return std::move(with_from_held(on)); }
  AttachOptions&& with_stdin(bool on = true) && { return std::move(with_stdin(on)); }
  AttachOptions&& with_check(bool on = true) && { return std::move(with_check(on)); }
  AttachOptions&& with_capture(Capture capture) && { return std::move(with_capture(capture)); }
  AttachOptions&& with_grace_period(Duration grace) && { return std::move(with_grace_period(grace)); }
  AttachOptions&& with_window(std::uint64_t bytes) && { return std::move(with_window(bytes)); }
  AttachOptions&& with_resume_grace(Duration grace) && { return std::move(with_resume_grace(grace)); }

  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] std::uint64_t stdout_offset() const noexcept { return stdout_offset_; }
  [[nodiscard]] std::uint64_t stderr_offset() const noexcept { return stderr_offset_; }
  [[nodiscard]] const std::optional<bool>& from_held() const noexcept { return from_held_; }
  [[nodiscard]] bool use_stdin() const noexcept { return use_stdin_; }
  [[nodiscard]] bool check() const noexcept { return check_; }
  [[nodiscard]] const Capture& capture() const noexcept { return capture_; }
  [[nodiscard]] std::chrono::milliseconds grace_period() const noexcept { return grace_; }
  [[nodiscard]] std::uint64_t window() const noexcept { return window_; }
  [[nodiscard]] const std::optional<std::chrono::milliseconds>& resume_grace() const noexcept { return resume_grace_; }
  ///@}

 private:
  std::uint64_t stdout_offset_ = 0, stderr_offset_ = 0;
  std::optional<bool> from_held_;
  bool use_stdin_ = false, check_ = false;
  Capture capture_ = Capture::all();
  std::chrono::milliseconds grace_ = std::chrono::seconds(10);
  std::uint64_t window_ = 1024 * 1024;
  std::optional<std::chrono::milliseconds> resume_grace_;
};

}  // namespace cwsandbox
