// One process from its start to its outcome, whoever watches it: pipes, time limit, cancel, exit.
//
// It reads a pipe only as far as its watcher has room, so that memory is bounded by the watcher's window; and it reports the
// outcome only once both outputs have ended, so that nothing that the process wrote is lost. When that is: process_end.hpp.
#pragma once

#include "gateway/context.hpp"
#include "gateway/process_end.hpp"
#include "gateway/sandboxes.hpp"
#include "protocol/exec_stream.hpp"
#include "runner/output_pace.hpp"
#include "runner/runner.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace cwsandbox::gateway {

class ProcessRun : public std::enable_shared_from_this<ProcessRun> {
 public:
  enum class Output : std::uint8_t { std_out = 0, std_err = 1 };

  struct Limits {
    std::chrono::milliseconds timeout{0};  ///< 0: none; counted from the moment it has started
    std::chrono::milliseconds grace{0};    ///< between SIGTERM and SIGKILL
    std::chrono::milliseconds drain{0};    ///< for outputs that others hold after the end; 0: until the last lets go
  };

  ProcessRun(std::shared_ptr<Context> context, std::shared_ptr<SandboxRecord> sandbox, std::string id, std::string program,
             Limits limits);
  virtual ~ProcessRun();
  ProcessRun(const ProcessRun&) = delete;
  ProcessRun& operator=(const ProcessRun&) = delete;

  /// Once. The outcome comes through `on_refused` or `on_finished`.
  void start(runner::ProcessSpec spec);

  void write_stdin(std::string_view bytes);
  void end_stdin();
  /// What is written has reached the process's pipe, or never will: `on_stdin_consumed` or `on_stdin_closed` say it soon.
  void want_arrival();
  void signal(int number);
  void resize(std::uint16_t width, std::uint16_t height);
  /// SIGTERM to the group now, SIGKILL after `grace`; outcome cancelled. Harmless when it has finished.
  void cancel(std::chrono::milliseconds grace) { kill(Why::cancel, grace); }
  /// The same, for a gateway that stops: how it ended is told as it was.
  void shut_down(std::chrono::milliseconds grace) { kill(Why::shutdown, grace); }
  /// The watcher has more room.
  void pump();
  /// The sandbox is gone and everything in it: what does not report in by itself is lost.
  void sandbox_ended();
  /// Forgets everything at once; the watcher hears nothing more. What runs is killed.
  void drop() noexcept;

  [[nodiscard]] bool finished() const noexcept { return phase_ == Phase::finished; }
  [[nodiscard]] const std::string& run_id() const noexcept { return id_; }
  [[nodiscard]] const std::shared_ptr<SandboxRecord>& sandbox() const noexcept { return record_; }
  [[nodiscard]] std::chrono::milliseconds grace() const noexcept { return limits_.grace; }

 protected:
  using Why = ProcessEnd::Why;
  void kill(Why why, std::chrono::milliseconds grace);

  // What the watcher must say and hear. Never called after `drop`.
  /// Bytes of this output that may be read now.
  virtual std::size_t room(Output output) = 0;
  virtual void on_started(std::uint64_t pid) = 0;
  virtual void on_output(Output output, std::string chunk) = 0;
  /// `abandoned`: more may have come, but nobody made room for it after a cancel.
  virtual void on_output_end(Output output, bool abandoned) = 0;
  /// The leader has ended, and output is still to come. `on_finished` follows.
  virtual void on_ended(const protocol::ExitStatus&) {}
  /// `bytes` more have gone on, or nobody wants them; of all that came, the process's pipe has taken `arrived`.
  virtual void on_stdin_consumed(std::size_t bytes, std::uint64_t arrived) = 0;
  /// Nobody reads it any more: `arrived` is final.
  virtual void on_stdin_closed(std::uint64_t arrived) = 0;
  /// There was never a process, for a reason that is not the command's.
  virtual void on_refused(const protocol::ConnectError& error) = 0;
  virtual void on_finished(const protocol::ExitStatus& status) = 0;

 private:
  enum class Phase : std::uint8_t { waiting, launching, running, finished };
  struct OutputState {
    runner::ByteSource* source = nullptr;
    bool waiting = false;  // for the pipe; otherwise, unless ended, for room
    bool ended = false;
    bool untold = false;     // its end comes with the exit
    bool left_open = false;  // somebody else held it when it was ended here
    std::uint64_t bytes = 0;
    std::uint64_t last = 0;  // where it ends, once it is settled
    runner::OutputPace pace;
    std::optional<asio::steady_timer> gather;
  };

  static asio::awaitable<void> run(std::shared_ptr<ProcessRun> self, runner::ProcessSpec spec);
  void began(std::unique_ptr<runner::Process> process);
  void pump(Output output);
  void wait_for_more(Output output);
  void wait_readable(Output output);
  void on_readable(Output output, error_code ec);
  void end_output(Output output, bool abandoned);
  void flush_stdin();
  void watch_stdin();
  void wait_arrival();
  [[nodiscard]] std::uint64_t arrived() const noexcept;
  void stdin_broken();
  void leader_exited(const runner::ExitInfo& info);
  void note_exit(const runner::ExitInfo& info);
  void take(const ProcessEnd::Steps& steps);
  void settle();
  void abandon();
  void finish_if_done();
  [[nodiscard]] protocol::ExitStatus status() const;
  void finish(const protocol::ExitStatus& status);
  void refuse(const protocol::ConnectError& error);
  void retire();
  void leave() noexcept;
  void log_end(const std::string& outcome) const;
  [[nodiscard]] OutputState& state(Output output) noexcept { return outputs_[static_cast<std::size_t>(output)]; }

  std::shared_ptr<Context> context_;
  std::shared_ptr<SandboxRecord> record_;
  BudgetShare counted_, descriptors_;  // of its owner's, until it has ended
  std::string id_, program_;
  Limits limits_;
  Phase phase_ = Phase::waiting;
  ProcessEnd end_;
  std::optional<std::pair<Why, std::chrono::milliseconds>> early_kill_;  // asked for while it was being launched
  bool stdin_wanted_ = false, stdin_ended_ = false, stdin_closed_ = false, sink_waiting_ = false;
  bool stdin_broken_ = false, arrival_wanted_ = false, arrival_waiting_ = false;
  std::shared_ptr<runner::Sandbox> sandbox_;  // before process_: destroyed after it
  std::unique_ptr<runner::Process> process_;
  std::array<OutputState, 2> outputs_;
  std::deque<std::string> stdin_;  // blocks of BufferPool::kSize, so that single bytes cost no block each
  std::size_t stdin_front_ = 0;
  std::uint64_t stdin_bytes_ = 0;
  std::vector<int> early_signals_;
  std::optional<std::pair<std::uint16_t, std::uint16_t>> early_size_;
  std::optional<runner::ExitInfo> exit_;
  EndReason reason_ = EndReason::none;  // as things stood when it ended
  std::chrono::system_clock::time_point start_time_{};
  std::chrono::steady_clock::time_point begin_;
  asio::steady_timer timeout_timer_, end_timer_;
};

}  // namespace cwsandbox::gateway
