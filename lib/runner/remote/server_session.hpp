// The agent's end in its parts: the sandbox, the sessions of those who use it, and their processes.
#pragma once

#include <boost/asio/steady_timer.hpp>

#include <array>
#include <deque>
#include <map>
#include <set>
#include <unordered_map>

#include "runner/output_pace.hpp"
#include "runner/remote/sandbox_server.hpp"
#include "runner/remote/wire.hpp"
#include "runner/waiting.hpp"

namespace cwsandbox::runner::remote {

class Session;

[[nodiscard]] protocol::ExitStatus exit_status(const ExitInfo& info);

/// A stream of a session as the server has it: its machine outlives links.
class ServerStream : public Sender {
 public:
  ServerStream(std::uint32_t stream, const protocol::StartRequest& request, std::uint64_t stdin_window)
      : Sender(stream), machine_(request, stdin_window) {}
  std::optional<protocol::OutMessage> next_message() override {
    return linked_ ? machine_.next_message() : std::nullopt;  // not before the other end has taken it up
  }
  void on_sent() override { machine_.on_sent(); }
  /// What comes for it. Throws Violation.
  void on_message(const Frame& frame);
  void on_link_gone() noexcept { linked_ = false; }
  [[nodiscard]] protocol::ExecServerStream& machine() noexcept { return machine_; }

 protected:
  virtual void on_event(const protocol::ServerEvent& event) = 0;
  protocol::ExecServerStream machine_;
  bool linked_ = false;
};

/// The main command's output, as one session is given it.
class MainStream final : public ServerStream {
 public:
  MainStream(const std::shared_ptr<Session>& session, const protocol::StartRequest& request)
      : ServerStream(kMainStream, request, 0), session_(session) {}

 private:
  void on_event(const protocol::ServerEvent& event) override;
  std::weak_ptr<Session> session_;
};

/// A process that a session has started.
class ServerProcess final : public ServerStream, public std::enable_shared_from_this<ServerProcess> {
 public:
  ServerProcess(const std::shared_ptr<Session>& session, asio::any_io_executor executor, std::uint32_t stream,
                const protocol::StartRequest& request, std::uint64_t stdin_window);
  /// Has the sandbox start it.
  static asio::awaitable<void> run(std::shared_ptr<ServerProcess> self, std::shared_ptr<Sandbox> sandbox, ProcessSpec spec);
  void refuse(const protocol::StatusError& error);
  void on_sent() override;
  void signal(int number);
  void close_output(protocol::Channel channel);
  /// The session has been given up: SIGKILL, and nobody looks any more.
  void kill() noexcept;

 private:
  struct Output {
    ByteSource* source = nullptr;
    bool ended = false, waiting = false;
    OutputPace pace;
    std::optional<asio::steady_timer> gather;
  };
  void on_event(const protocol::ServerEvent& event) override;
  void pump();
  [[nodiscard]] bool pump(protocol::Channel channel);
  void wait_for_more(protocol::Channel channel);
  void feed(std::string_view bytes);
  void drain();
  void watch_input();
  void arrived();
  void close_input();
  void break_input();
  void end_output(protocol::Channel channel);
  void hold_ends();
  void finish_when_over();
  void wake();

  std::weak_ptr<Session> session_;
  asio::any_io_executor executor_;
  std::unique_ptr<Process> process_;
  std::array<Output, 2> outputs_;
  std::string input_;  // taken from the stream, not yet by the process
  std::size_t input_at_ = 0;
  std::uint64_t input_written_ = 0;
  bool input_waiting_ = false, input_ended_ = false, input_closed_ = false, input_broken_ = false, arrival_waited_ = false;
  std::optional<protocol::ExitStatus> exit_;
  std::vector<int> early_signals_;
  asio::steady_timer hold_timer_;
  bool holding_ = false, over_ = false, killed_ = false, pumping_ = false;
};

/// A request that was taken, until it is acknowledged that its answer has come.
struct Taken {
  std::uint64_t id = 0;
  bool answered = false;
  std::string head, tail;  // of the answer
};

/// What a session has open.
struct OpenHandle {
  std::unique_ptr<FileReader> reader;
  std::unique_ptr<FileWriter> writer;
  std::unique_ptr<DirectoryReader> directory;
  std::unique_ptr<FileWatch> watch;
  std::vector<FileEvent> events;  // that did not fit into an answer
  struct Asked {
    Request request;
    std::string bytes;
    std::shared_ptr<Taken> taken;
  };
  std::deque<Asked> waiting;  // one after the other
  bool busy = false;
};

class ServerState;

/// What belongs to one gateway's object, over all its links.
class Session final : public Peer, public std::enable_shared_from_this<Session> {
 public:
  Session(std::shared_ptr<ServerState> server, std::string id, std::chrono::milliseconds grace);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// A link whose hello named this session. It has it once nothing of an older one is under way.
  void take_over(const std::shared_ptr<Wire>& wire, const Control& hello);
  void begin_main();
  void on_ended();
  /// Given up, or over.
  void drop(const char* why);
  void wake(const std::shared_ptr<Sender>& sender);
  void forget(std::uint32_t stream);

  [[nodiscard]] const std::shared_ptr<MainStream>& main() const noexcept { return main_; }
  [[nodiscard]] const std::string& id() const noexcept { return id_; }
  [[nodiscard]] bool dropped() const noexcept { return dropped_; }
  [[nodiscard]] std::chrono::milliseconds grace() const noexcept { return grace_; }
  [[nodiscard]] std::shared_ptr<ServerState> server() const { return server_.lock(); }
  void pump_main();

  void on_control(Wire& wire, Control control) override;
  void on_frame(Wire& wire, const Frame& frame) override;
  std::optional<OutFrame> next_frame(Wire& wire) override;
  void on_frame_sent(Wire& wire) noexcept override;
  void on_gone(Wire& wire, const std::string& why, bool violated) override;

 private:
  class AnswerSender;

  void attach(std::shared_ptr<Wire> wire, Control hello);
  void on_stream_frame(const Frame& frame);
  void on_request(std::string_view payload);
  void start_process(std::uint32_t stream, const Frame& frame);
  void perform(const std::shared_ptr<Taken>& taken, Request request, std::string_view bytes);
  void perform_on_handle(const std::shared_ptr<Taken>& taken, Request request, std::string_view bytes);
  void stage(Request request, std::string_view bytes);
  static asio::awaitable<void> create(std::shared_ptr<Session> self, std::shared_ptr<Taken> taken, Request request);
  static asio::awaitable<void> stop(std::shared_ptr<Session> self, std::shared_ptr<Taken> taken, std::chrono::milliseconds grace);
  static asio::awaitable<void> answer_after(std::shared_ptr<Session> self, std::shared_ptr<Taken> taken,
                                            asio::awaitable<void> work);
  static asio::awaitable<void> look_after(std::shared_ptr<Session> self, std::shared_ptr<Taken> taken, Request request);
  static asio::awaitable<void> work_off(std::shared_ptr<Session> self, std::uint64_t number, std::shared_ptr<OpenHandle> handle);
  std::uint64_t keep(std::shared_ptr<OpenHandle> handle);
  void check_handles() const;
  void answer(const std::shared_ptr<Taken>& taken, Answer answer, std::string tail = {});
  void fail(const std::shared_ptr<Taken>& taken, const std::exception_ptr& error);
  [[nodiscard]] std::shared_ptr<Sandbox> sandbox() const;  ///< throws when there is none

  std::weak_ptr<ServerState> server_;
  asio::any_io_executor executor_;
  std::string id_;
  std::chrono::milliseconds grace_;
  std::shared_ptr<Wire> wire_, next_wire_;
  Control next_hello_;
  Outbox outbox_;
  std::string control_;
  bool control_in_flight_ = false, welcome_due_ = false, running_due_ = false, ended_due_ = false;
  bool resumed_ = false, dropped_ = false;
  asio::steady_timer grace_timer_;
  std::shared_ptr<MainStream> main_;
  std::unordered_map<std::uint32_t, std::shared_ptr<ServerProcess>> processes_;
  std::uint32_t last_stream_ = kMainStream;
  std::map<std::uint64_t, std::shared_ptr<Taken>> taken_;
  std::shared_ptr<AnswerSender> answer_sender_;
  std::unordered_map<std::uint64_t, std::shared_ptr<OpenHandle>> handles_;
  std::uint64_t next_handle_ = 1;
  std::vector<InitialFile> staged_;
  std::size_t staged_bytes_ = 0;
};

/// The sandbox, and all who use it.
class ServerState final : public Peer, public std::enable_shared_from_this<ServerState> {
 public:
  ServerState(asio::any_io_executor executor, Runner& runner, ServerOptions options);
  ServerState(const ServerState&) = delete;
  ServerState& operator=(const ServerState&) = delete;

  void accept(std::unique_ptr<Link> link);
  static asio::awaitable<ExitInfo> finished(std::shared_ptr<ServerState> self);
  void shut_down() noexcept;

  // For the sessions.
  using Phase = Control::State;
  /// Throws what the runner throws.
  static asio::awaitable<void> create(std::shared_ptr<ServerState> self, SandboxSpec spec);
  static asio::awaitable<void> stop(std::shared_ptr<ServerState> self, std::chrono::milliseconds grace);
  void over(Session& session);
  /// Its last word goes out before `finished`.
  void see_off(const std::shared_ptr<Wire>& wire, const Control& last, const char* why);
  /// A session's main stream from the oldest byte that is kept.
  [[nodiscard]] std::shared_ptr<MainStream> main_stream(const std::shared_ptr<Session>& session);
  void pump();
  [[nodiscard]] Phase phase() const noexcept { return phase_; }
  [[nodiscard]] const std::optional<ExitInfo>& exit() const noexcept { return exit_; }
  [[nodiscard]] const std::shared_ptr<Sandbox>& sandbox() const noexcept { return sandbox_; }
  [[nodiscard]] const ServerOptions& options() const noexcept { return options_; }
  [[nodiscard]] const asio::any_io_executor& executor() const noexcept { return executor_; }
  /// Storage to read into, for whoever has the turn.
  [[nodiscard]] asio::mutable_buffer scratch();
  void log(const std::string& line) const;

  void on_control(Wire& wire, Control control) override;
  void on_frame(Wire& wire, const Frame& frame) override;
  std::optional<OutFrame> next_frame(Wire& /*wire*/) override { return std::nullopt; }
  void on_frame_sent(Wire& /*wire*/) noexcept override {}
  void on_gone(Wire& wire, const std::string& why, bool violated) override;

 private:
  // What the main command has written last, of one output.
  struct Ring {
    ByteSource* source = nullptr;
    std::deque<std::string> chunks;
    std::uint64_t begin = 0, end = 0;
    bool ended = false, waiting = false;
  };
  [[nodiscard]] bool pump(protocol::Channel channel);
  void keep(Ring& ring, std::string_view bytes);
  void end_main();
  void on_exit(const ExitInfo& info);
  void refuse(Wire& wire, ErrorCode code, const std::string& message);

  asio::any_io_executor executor_;
  Runner* runner_;
  ServerOptions options_;
  std::map<Wire*, std::shared_ptr<Wire>> strangers_, leaving_;
  std::map<std::string, std::shared_ptr<Session>> sessions_;
  Phase phase_ = Phase::empty;
  std::shared_ptr<Sandbox> sandbox_;
  std::optional<ExitInfo> exit_;
  std::array<Ring, 2> rings_;
  bool pumping_ = false, main_over_ = false, down_ = false;
  asio::steady_timer end_timer_;
  Waiters changed_;
  std::string scratch_;
};

}  // namespace cwsandbox::runner::remote
