// One process, from the call of exec to its result: the client's side of the exec stream with its user-facing ends.
#pragma once

#include <cwsandbox/process.hpp>
#include <cwsandbox/terminal.hpp>

#include "client/backend.hpp"
#include "client/exec_connection.hpp"
#include "client/rpc.hpp"
#include "core/output_buffer.hpp"
#include "messages/exec.hpp"
#include "protocol/exec_stream.hpp"

#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/steady_timer.hpp>

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace cwsandbox::client {

/// How the processes of one sandbox ended; one snapshot is consistent (PR-13).
class ExecCounters {
 public:
  void started();
  void ended(Outcome outcome, std::optional<int> code, bool failed);
  struct Snapshot {
    std::uint64_t exec_count = 0, completed_ok = 0, completed_nonzero = 0, failures = 0;
  };
  [[nodiscard]] Snapshot snapshot() const;

 private:
  mutable std::mutex mutex_;
  Snapshot counts_;
};

class ExecProcess final : public detail::ProcessControl, public ExecOwner, public std::enable_shared_from_this<ExecProcess> {
 public:
  /// Throws std::invalid_argument for what can be seen to be wrong without asking anybody.
  [[nodiscard]] static std::shared_ptr<ExecProcess> create(LoopManager loop, std::vector<std::string> command, ExecOptions options,
                                                           std::shared_ptr<ExecCounters> counters);
  /// The same for a terminal.
  [[nodiscard]] static std::shared_ptr<ExecProcess> create_shell(LoopManager loop, const ShellOptions& options);
  /// One that somebody else has started.
  [[nodiscard]] static std::shared_ptr<ExecProcess> create_attached(LoopManager loop, std::string process_id,
                                                                    const AttachOptions& options, bool terminal);

  /// The user's handle. `keeps` (the sandbox) lives as long as any handle to the process or its streams.
  [[nodiscard]] Process handle(std::shared_ptr<void> keeps);
  [[nodiscard]] TerminalSession terminal_handle(std::shared_ptr<void> keeps);

  /// A warm connection to be used: decides the strand. Before `handle`.
  void reserve(std::shared_ptr<ExecConnection> connection);
  /// The sandbox is there: start the process. Any thread, once.
  void launch(std::shared_ptr<Backend> backend, std::string sandbox_id);
  /// There is no sandbox to start it in. Any thread.
  void refuse(std::exception_ptr error);

  // ProcessControl: any thread
  [[nodiscard]] ProcessStatus status() const override { return status_.load(std::memory_order_acquire); }
  void signal(std::string_view name) override;
  [[nodiscard]] task<std::uint64_t> pid() override;
  [[nodiscard]] const std::string& id() const noexcept override { return request_id_; }
  [[nodiscard]] const std::vector<std::string>* told_command() const noexcept override;
  void detach(Detach how) override;
  void resize(std::uint16_t width, std::uint16_t height) override;

  ExecProcess(LoopManager loop, ExecOptions options, std::shared_ptr<ExecCounters> counters);

 private:
  struct Guard;
  class TerminalOutput;
  void check_loop() const;
  using MakeError = std::function<std::exception_ptr(std::shared_ptr<const ProcessResult>)>;

  [[nodiscard]] static std::shared_ptr<ExecProcess> prepare(LoopManager loop, std::vector<std::string> command, ExecOptions options,
                                                            std::shared_ptr<ExecCounters> counters);
  /// Readers, writer and the task of the result.
  void make_ends();
  [[nodiscard]] std::shared_ptr<Guard> guard(std::shared_ptr<void> keeps);
  [[nodiscard]] std::exception_ptr has_ended() const;
  [[nodiscard]] std::string name() const;  // for messages

  // ExecOwner: on the strand
  void on_event(const protocol::ClientEvent& event, net::IncomingMessage& message) override;
  void on_connection_lost(const ConnectionLoss& loss) override;
  void on_unpinned() override { pump(); }

  void connect();
  static asio::awaitable<void> open(std::shared_ptr<ExecProcess> self);
  void on_open_failed(const std::exception_ptr& error);
  void use(std::shared_ptr<ExecConnection> connection, bool warm);
  /// Another attempt after the delay that the retry rule gives; false: no more.
  [[nodiscard]] bool try_again(const std::exception_ptr& error);
  /// The server knows no exec stream.
  void start_unary();
  void on_unary(const messages::ExecResponse& response);
  void on_unary_failed(const std::exception_ptr& error);
  void set_pid(std::uint64_t pid);
  void set_no_pid(const std::exception_ptr& why);
  [[nodiscard]] std::chrono::milliseconds resume_grace() const;
  [[nodiscard]] protocol::ResumeRequest resume_request();
  /// The process has been ours and goes on somewhere: a new connection, within the grace time.
  void resume(const std::string& why);
  void on_resumed(const protocol::Resumed& resumed);
  /// For whoever looks on at the client.
  void tell(TraceEvent::Kind kind, std::chrono::steady_clock::time_point since, std::string_view outcome = {},
            const std::exception_ptr& failure = nullptr) const;
  /// An attached process's readers begin where it was attached to.
  void begin_outputs();
  [[nodiscard]] bool take_what_is_held(const protocol::StatusError& refusal);
  /// Nobody will know how it ended.
  void lose(const std::string& why, const std::string& reason = "");
  void pump();

  [[nodiscard]] bool is_terminal() const noexcept { return request_.tty; }
  [[nodiscard]] core::OutputBuffer& output(protocol::Channel stream) noexcept {
    return stream == protocol::Channel::std_err ? *err_ : *out_;
  }
  void on_data(const protocol::Data& data, net::IncomingMessage& message);
  void on_consumed(protocol::Channel stream, std::size_t n);  // any thread
  void take_consumed();
  void let_rest_come();
  void pump_stdin();
  void acknowledge_stdin();
  /// What the server has said of stdin: flushes that are done, room, or that nobody reads it any more.
  void stdin_moved();
  void ask_for_acknowledgement();

  void on_exited(const protocol::ExitStatus& status);
  void on_refused(const protocol::StatusError& error);
  void let_connection_go();
  /// The gateway keeps it from here on: once it has started.
  void leave();
  void cancel(bool abandoned);
  void end_unconfirmed(const std::string& why);
  [[nodiscard]] bool request_cancel();  // any thread

  /// The one way to the end: fails or finishes readers and writer, counts, lets the connection go, then gives the result.
  /// `error` null: a result. `breaks`: the error reaches the readers too.
  void end(Outcome outcome, const protocol::ExitStatus* status, const MakeError& error, bool breaks);
  void fail(const std::exception_ptr& error);

  const LoopManager loop_;
  ExecOptions options_;  // as given, but for the stats callback, which goes once it has run
  asio::any_io_executor strand_;
  std::shared_ptr<ExecCounters> counters_;
  const std::chrono::steady_clock::time_point made_at_ = std::chrono::steady_clock::now();
  protocol::StartRequest request_;
  std::string request_id_;
  std::vector<std::string> command_;  // of a process that was attached to: set on the strand, before command_told_
  std::shared_ptr<core::OutputBuffer> out_, err_;
  std::shared_ptr<ByteChannel> stdin_;
  std::optional<StreamWriter> writer_;
  std::optional<task_source<ProcessResult>> source_;
  std::optional<task_source<TerminalResult>> terminal_source_;  // instead of source_, where this is a terminal

  // on the strand
  std::shared_ptr<Backend> backend_;
  std::shared_ptr<protocol::ExecClientStream> machine_;
  std::shared_ptr<ExecConnection> connection_, reserved_;
  std::optional<Retries> retries_;
  std::optional<asio::steady_timer> retry_timer_, cancel_timer_, grace_timer_;
  struct Attach {
    Attach() {}  // clang wants one: default initializers are complete only behind the class around this one
    std::uint64_t stdout_from = 0, stderr_from = 0, skipped = 0;
    bool from_held = false;
    int tries = 0;  // the edge of what is held moves while we ask
  };
  std::optional<Attach> attach_;  // not started here
  asio::cancellation_signal unary_cancel_;
  bool signalled_ = false;
  std::optional<std::chrono::steady_clock::time_point> lost_since_, resumed_at_;
  std::uint64_t stdin_from_ = 0;  // of the process's stdin, what others have written
  bool ours_ = false;             // started or resumed at least once: what can be lost
  bool progressed_ = false;       // since the last connection began
  std::optional<asio::steady_timer> flush_timer_;
  std::vector<std::string> early_signals_;  // asked for before there was a machine
  std::uint64_t rest_granted_ = 0;          // output of a terminal that was let come after its command's end
  bool attached_ = false;                   // a start may have reached the server
  bool warm_ = false;                       // the connection had been used before and nothing has come over it yet
  bool cancelling_ = false, finished_ = false, opening_ = false;
  bool leaving_ = false;  // detached, and the connection is to go
  bool stdin_armed_ = false, stdin_done_ = false, stdin_cut_ = false, flush_armed_ = false;

  // any thread
  std::atomic<ProcessStatus> status_{ProcessStatus::starting};
  std::atomic<bool> over_{false}, detached_{false};
  std::atomic<bool> unary_{false};  // runs as a request
  std::atomic<bool> command_told_{false};
  std::array<std::atomic<std::size_t>, 2> consumed_{};
  std::atomic<bool> consume_posted_{false};
  std::size_t consume_step_ = 0;
  std::mutex mutex_;  // the rest
  std::optional<std::uint64_t> pid_;
  std::exception_ptr no_pid_;
  std::optional<task_source<std::uint64_t>> pid_source_;
  std::weak_ptr<void> keeps_;
  std::shared_ptr<void> kept_;  // what a detached process still needs
};

}  // namespace cwsandbox::client
