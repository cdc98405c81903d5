// A sandbox as its agent's socket shows it: what runs there, its files, its end. How it was made, and what there is of it beside
// the agent, is a derived class's business.
#pragma once

#include <boost/asio/steady_timer.hpp>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>

#include "runner/local/agent_protocol.hpp"
#include "runner/local/local_files.hpp"
#include "runner/local/unique_fd.hpp"
#include "runner/runner.hpp"
#include "runner/waiting.hpp"

namespace cwsandbox::runner::local {

class AgentConnection;

/// RunnerError("invalid_argument") for what no sandbox could do.
void check_spec(const SandboxSpec& spec);

/// Kept alive by its handle, its processes, and whatever operation of a derived class's waits for its end. Runs on its executor
/// alone.
class AgentSandbox : public FileAgent, public std::enable_shared_from_this<AgentSandbox> {
 public:
  struct ProcessState;
  struct PendingStart;

  explicit AgentSandbox(asio::any_io_executor executor);
  AgentSandbox(const AgentSandbox&) = delete;
  AgentSandbox& operator=(const AgentSandbox&) = delete;
  ~AgentSandbox() override;

  /// What processes have when they are given nothing else. Before `begin`.
  void set_defaults(std::map<std::string, std::string> env, std::string cwd);
  [[nodiscard]] const std::string& default_cwd() const noexcept { return cwd_; }

  /// Waits until the agent has come up, and makes the sandbox ready for a spec. False when it never came up (`why_lost`). Throws
  /// RunnerError. What is not wanted after this is to be killed.
  [[nodiscard]] static asio::awaitable<bool> come_up(std::shared_ptr<AgentSandbox> self);

  /// Comes up if it has not, writes the spec's files and starts its main command. Throws RunnerError, and gives null when the agent
  /// never came up (`why_lost`); in both cases nothing is left of the sandbox. The spec must stay until completion.
  [[nodiscard]] static asio::awaitable<std::unique_ptr<Sandbox>> begin(std::shared_ptr<AgentSandbox> self, const SandboxSpec& spec);

  [[nodiscard]] asio::awaitable<std::shared_ptr<PendingStart>> request(ProcessSpec spec, std::uint8_t flags);
  /// When nothing of it is left.
  [[nodiscard]] asio::awaitable<void> wait_ended();
  void stop(std::chrono::milliseconds grace);
  void kill();
  /// What it ends with when nobody can talk to its agent any more.
  void lose(std::string_view why);
  void signal(const ProcessState& process, int number);
  /// Nobody is to hear of its group's end any more.
  void forget_group(const ProcessState& process) noexcept;
  void on_exit(std::function<void(const ExitInfo&)> handler);
  void forget_exit() noexcept { main_exit_.forget(); }

  asio::awaitable<Answer> ask(const Question& question) override;
  asio::awaitable<Answer> commit(std::uint64_t seq) override;
  asio::awaitable<Answer> reserve(std::uint64_t seq, std::int32_t bytes) override;
  void abort(std::uint64_t seq) noexcept override;
  [[noreturn]] void refuse() override;
  const asio::any_io_executor& executor() const noexcept override { return executor_; }

  [[nodiscard]] const std::string& why_lost() const noexcept { return why_; }

 protected:
  using Clock = std::chrono::steady_clock;

  /// The socket to an agent that is to say its first word within `deadline`.
  void connect(UniqueFd control, std::chrono::milliseconds deadline);
  /// As AgentConnection::peer.
  [[nodiscard]] pid_t agent_number() const noexcept;
  [[nodiscard]] bool came_up() const noexcept { return came_up_; }
  [[nodiscard]] bool is_lost() const noexcept { return lost_; }
  [[nodiscard]] bool ended() const noexcept { return ended_; }
  void close_connection() noexcept;
  /// To be called whenever what `is_gone` says may have changed.
  void finish_when_over();
  /// Looks again then: for one that has been killed, that is `kill_again`.
  void arm_deadline(Clock::time_point when);

  /// The agent has said its first word.
  virtual void on_up() {}
  /// Before anything runs in it.
  [[nodiscard]] virtual asio::awaitable<void> prepare() { co_return; }
  /// Ends what closing the socket does not.
  virtual void end_by_force() {}
  /// What was killed has not ended in time. Calls `arm_deadline` when there is more to be waited for.
  virtual void kill_again() {}
  /// How often its limit on memory has killed.
  [[nodiscard]] virtual std::uint64_t memory_kills() const { return 0; }
  /// Whether there is nothing left beside the socket; asked when that has been lost. What is known of the main command's end can be
  /// added to.
  virtual bool is_gone(ExitInfo& main) = 0;

 private:
  struct PendingFile;

  [[nodiscard]] asio::awaitable<void> wait_up();
  void on_note(agent::Type type, const agent::Note& note, std::span<UniqueFd> fds);
  void on_started(const agent::Note& note, std::span<UniqueFd> fds);
  void on_file_done(const agent::Note& note, std::span<UniqueFd> fds);
  void on_exited(const agent::Note& note);
  void on_group_gone(const agent::Note& note);
  template <class Pending>
  void answer(Pending& pending);
  [[nodiscard]] asio::awaitable<Answer> ask_agent(std::string frame, std::uint64_t seq, bool takes_long);
  [[nodiscard]] Clock::time_point next_deadline() const;
  void check_deadlines();
  void arm_watchdog();
  [[nodiscard]] std::string encode(std::uint64_t seq, const ProcessSpec& spec, std::uint8_t flags) const;

  asio::any_io_executor executor_;
  std::shared_ptr<AgentConnection> connection_;
  asio::steady_timer deadline_;  // of coming up, then of stopping
  asio::steady_timer watchdog_;  // of what the agent was asked, one timer for all
  bool watching_ = false;
  bool came_up_ = false, prepared_ = false, lost_ = false, ended_ = false, killed_ = false;
  std::optional<Clock::time_point> stop_deadline_;
  std::string why_;

  std::map<std::string, std::string> env_;
  std::string cwd_;
  std::uint64_t next_seq_;
  std::map<std::uint64_t, std::shared_ptr<PendingStart>> pending_;  // oldest first
  std::uint64_t next_file_ = 1;
  std::unordered_map<std::uint64_t, std::shared_ptr<PendingFile>> files_;
  std::unordered_map<std::uint64_t, std::shared_ptr<ProcessState>> processes_;
  std::unordered_map<std::uint64_t, std::weak_ptr<ProcessState>> groups_;  // of those that have ended, with others left in them
  std::optional<ExitInfo> main_info_;
  std::uint64_t memory_kills_ = 0;  // when it was looked at last
  ExitEvent main_exit_;
  Waiters ended_waiters_, up_waiters_;
};

}  // namespace cwsandbox::runner::local
