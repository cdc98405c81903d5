// What a RemoteSandbox, its processes and its files have in common: the links, one after the other, and what goes over them.
#pragma once

#include <boost/asio/steady_timer.hpp>

#include <array>
#include <chrono>
#include <deque>
#include <map>
#include <random>
#include <unordered_map>

#include "runner/remote/remote_sandbox.hpp"
#include "runner/remote/wire.hpp"
#include "runner/waiting.hpp"

namespace cwsandbox::runner::remote {

/// A request that has not been answered, or not looked at.
struct Call {
  std::uint64_t id = 0;
  Op op = Op::stat;
  std::string head, tail;
  std::size_t most = 0;  // bytes that the answer may bring
  std::chrono::steady_clock::time_point due;
  bool sent = false, done = false;
  Answer answer;
  std::string bytes;         // of the answer
  std::exception_ptr error;  // what it failed with
  Waiters waiters;
};

/// One process, or the main command, as it is here.
class RemoteStream final : public Sender, public std::enable_shared_from_this<RemoteStream> {
 public:
  RemoteStream(std::weak_ptr<Tunnel> tunnel, asio::any_io_executor executor, std::uint32_t stream,
               const protocol::StartRequest& request);
  RemoteStream(std::weak_ptr<Tunnel> tunnel, asio::any_io_executor executor, const protocol::ResumeRequest& main);

  std::optional<protocol::OutMessage> next_message() override { return machine_.next_message(); }
  void on_sent() override;

  void on_message(const Frame& frame);
  void on_link();  ///< a new one
  void lose(const std::exception_ptr& why);
  /// Nobody waits any more for it to start; should it yet, it is killed.
  void give_up(const std::exception_ptr& why);

  // What the objects of the seam do.
  std::size_t try_read(protocol::Channel output, asio::mutable_buffer into, error_code& ec);
  void wait_readable(protocol::Channel output, IoHandler handler);
  void close(protocol::Channel output);
  std::size_t try_write(asio::const_buffer from, error_code& ec);
  void wait_writable(IoHandler handler);
  void close_input();
  [[nodiscard]] std::uint64_t input_arrived() const noexcept { return machine_.stdin_taken(); }
  void wait_arrived(IoHandler handler);
  void wait_broken(IoHandler handler);
  void signal(int number);
  void resize(std::uint16_t width, std::uint16_t height);
  void on_exit(std::function<void(const ExitInfo&)> handler);
  void on_group_gone(std::function<void()> handler);
  [[nodiscard]] std::uint64_t unread(protocol::Channel output) noexcept;
  void forget();

  /// Until it has started, or never will, which throws.
  static asio::awaitable<void> wait_started(std::shared_ptr<RemoteStream> self);
  [[nodiscard]] std::uint64_t pid() const noexcept { return pid_; }
  [[nodiscard]] bool all_seen() const noexcept { return machine_.exited() || lost_; }
  [[nodiscard]] bool failed() const noexcept { return failure_ != nullptr; }
  [[nodiscard]] bool starting() const noexcept { return !started_ && !failed(); }
  [[nodiscard]] std::chrono::steady_clock::time_point asked_at() const noexcept { return asked_at_; }
  [[nodiscard]] bool with_input() const noexcept { return with_input_; }
  [[nodiscard]] bool end_known() const noexcept { return exit_.is_set() || forgotten_ || !started_; }

 private:
  struct Output {
    std::string bytes;
    std::size_t at = 0;  // of the first that was not read
    bool ended = false, closed = false;
    IoWaiters waiters;
  };
  [[nodiscard]] Output& output(protocol::Channel channel) noexcept {
    return outputs_[channel == protocol::Channel::std_err ? 1 : 0];
  }
  [[nodiscard]] std::size_t input_room() noexcept;
  [[nodiscard]] bool input_broken() const noexcept { return lost_ || machine_.exited() || machine_.stdin_closed(); }
  void tell_input();
  void on_data(const protocol::Data& data);
  void end_output(protocol::Channel channel);
  void set_exit(const ExitInfo& info);
  void wake();

  std::weak_ptr<Tunnel> tunnel_;
  asio::any_io_executor executor_;
  protocol::ExecClientStream machine_;
  std::array<Output, 2> outputs_;
  IoWaiters input_waiters_, arrival_waiters_, break_waiters_;
  ExitEvent exit_;
  ExitEvent group_gone_;  // what it is told with means nothing
  Waiters start_waiters_;
  std::exception_ptr failure_;                         // why it has not started
  std::map<int, std::shared_ptr<Call>> late_signals_;  // after its exit was told
  std::uint64_t pid_ = 0, input_written_ = 0, arrival_wanted_ = 0;
  const std::chrono::steady_clock::time_point asked_at_ = std::chrono::steady_clock::now();
  bool with_input_ = false, linked_ = false, started_ = false, lost_ = false, forgotten_ = false;
};

class Tunnel final : public Peer, public std::enable_shared_from_this<Tunnel> {
 public:
  Tunnel(asio::any_io_executor executor, Dial dial, RemoteOptions options);
  Tunnel(const Tunnel&) = delete;
  Tunnel& operator=(const Tunnel&) = delete;

  static asio::awaitable<void> create(std::shared_ptr<Tunnel> self, SandboxSpec spec);
  static asio::awaitable<void> attach(std::shared_ptr<Tunnel> self, std::chrono::milliseconds deadline);
  static asio::awaitable<std::shared_ptr<RemoteStream>> start(std::shared_ptr<Tunnel> self, ProcessSpec spec);
  static asio::awaitable<void> stop(std::shared_ptr<Tunnel> self, std::chrono::milliseconds grace);
  void place_gone(std::string why, std::optional<ExitInfo> exit);
  void on_exit(std::function<void(const ExitInfo&)> handler);
  /// Its handle has gone: the sandbox is ended, or let go.
  void abandon(bool let_go);

  /// A request on its way. Nobody needs to wait for it.
  std::shared_ptr<Call> ask(Request request, std::string tail = {}, std::size_t most = 0);
  /// Until it is answered; throws what it failed with.
  static asio::awaitable<void> wait(std::shared_ptr<Call> call);

  void wake(const std::shared_ptr<Sender>& sender);
  void on_stream_end();
  void on_stream_over(std::uint32_t stream);
  [[nodiscard]] const std::shared_ptr<RemoteStream>& main();
  [[nodiscard]] const asio::any_io_executor& executor() const noexcept { return executor_; }
  [[nodiscard]] bool connected() const noexcept { return welcomed_; }
  /// Whether the other end can append to files; known once it has been connected.
  [[nodiscard]] bool appends() const noexcept { return appends_; }
  /// Whether the other end can watch files; known once it has been connected.
  [[nodiscard]] bool watches() const noexcept { return watches_; }
  /// Of a process of which nobody will hear any more.
  [[nodiscard]] ExitInfo lost_process() const;
  [[nodiscard]] const std::string& trouble() const noexcept { return trouble_; }

  void on_control(Wire& wire, Control control) override;
  void on_frame(Wire& wire, const Frame& frame) override;
  std::optional<OutFrame> next_frame(Wire& wire) override;
  void on_frame_sent(Wire& wire) noexcept override;
  void on_gone(Wire& wire, const std::string& why, bool violated) override;

 private:
  using Clock = std::chrono::steady_clock;
  class CallSender;

  void connect();
  static asio::awaitable<void> keep_connected(std::shared_ptr<Tunnel> self);
  static asio::awaitable<void> stage(std::shared_ptr<Tunnel> self, const std::vector<InitialFile>& files);
  static asio::awaitable<void> end_it(std::shared_ptr<Tunnel> self);
  void arm(std::chrono::milliseconds patience, const char* why);
  void watch_answers();
  void look_for_overdue();
  void on_welcome(Wire& wire, const Control& welcome);
  void on_answer(std::string_view payload);
  void begin_main(const Offsets& offsets);
  void on_ended(const ExitInfo& exit);
  void tell_end();
  void say_bye_when_done();
  void leave();
  [[nodiscard]] bool done_with_links() const noexcept { return finished_ || (over_ && !leaving_); }
  void lose(std::string why, std::optional<RunnerError> error = std::nullopt);
  [[nodiscard]] RunnerError gone() const;

  asio::any_io_executor executor_;
  Dial dial_;
  RemoteOptions options_;
  std::shared_ptr<Wire> wire_;
  Outbox outbox_;
  std::string control_;
  bool control_in_flight_ = false, hello_due_ = false, bye_due_ = false, bye_said_ = false;
  asio::steady_timer pause_;     // between two attempts
  asio::steady_timer patience_;  // until nobody believes in another link
  asio::steady_timer overdue_;   // for answers
  asio::steady_timer ends_;      // for the processes' ends, once the sandbox has its own
  std::string trouble_;
  Waiters changed_;  // link, state, end
  std::minstd_rand random_;

  bool watching_answers_ = false;
  bool connecting_ = false, known_ = false, welcomed_ = false, useful_ = false, appends_ = false, watches_ = false;
  bool created_ = false, over_ = false, place_gone_ = false, end_lost_ = false, finished_ = false, abandoned_ = false,
       leaving_ = false;
  std::optional<RunnerError> over_error_;

  std::uint64_t next_call_ = 1;
  std::map<std::uint64_t, std::shared_ptr<Call>> calls_;  // not answered
  std::shared_ptr<CallSender> call_sender_;
  std::vector<std::uint64_t> acks_;

  std::uint32_t next_stream_ = kFirstProcess;
  std::unordered_map<std::uint32_t, std::shared_ptr<RemoteStream>> streams_;
  std::shared_ptr<RemoteStream> main_;
  std::optional<ExitInfo> ended_;
  ExitEvent main_exit_;
  std::shared_ptr<Call> stop_call_;
  Clock::time_point stop_deadline_;
};

[[nodiscard]] std::unique_ptr<Files> make_remote_files(std::shared_ptr<Tunnel> tunnel);

}  // namespace cwsandbox::runner::remote
