// What all handles to one sandbox share, and what the parts of the library that work in a sandbox build on.
#pragma once

#include <cwsandbox/sandbox.hpp>

#include "client/backend.hpp"
#include "client/exec_process.hpp"
#include "messages/sandbox.hpp"

#include <boost/asio/awaitable.hpp>

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace cwsandbox::detail {

/// Any thread may call any member.
class SandboxState : public client::ExitHook, public std::enable_shared_from_this<SandboxState> {
 public:
  /// Where to reach a sandbox that is there.
  class Ready {
   public:
    Ready(std::shared_ptr<client::Backend> its_backend, std::string its_id)
        : backend(std::move(its_backend)), id(std::move(its_id)) {}
    std::shared_ptr<client::Backend> backend;
    std::string id;
  };

  /// One that is yet to be made: `create_json` is the request.
  SandboxState(std::shared_ptr<ClientCore> core, std::string create_json);
  /// One that exists.
  SandboxState(std::shared_ptr<ClientCore> core, std::shared_ptr<client::Backend> backend, const messages::Sandbox& sandbox);
  SandboxState(const SandboxState&) = delete;
  SandboxState& operator=(const SandboxState&) = delete;
  ~SandboxState() override;

  /// Starts it if need be and waits until it has an id. Throws SandboxNotRunningError when it has been stopped or has ended.
  [[nodiscard]] static asio::awaitable<Ready> ready(std::shared_ptr<SandboxState> self);
  /// The same for what may be asked of a sandbox that has ended, too.
  [[nodiscard]] static asio::awaitable<Ready> located(std::shared_ptr<SandboxState> self);

  task<void> start();
  [[nodiscard]] task<void> wait();
  [[nodiscard]] task<SandboxStatus> wait_until_complete(const WaitOptions& options);
  task<void> stop(const StopOptions& options);
  /// Stops it; one that was never started never will be.
  task<void> close(const StopOptions& options);
  [[nodiscard]] task<SandboxStatus> get_status();
  [[nodiscard]] Process exec(std::vector<std::string> command, ExecOptions options);
  [[nodiscard]] TerminalSession shell(const ShellOptions& options);
  [[nodiscard]] Process attach(std::string process_id, const AttachOptions& options);
  [[nodiscard]] TerminalSession attach_terminal(std::string session_id, const AttachOptions& options);
  /// One that is still owned when the process ends is stopped, within the time that exit has.
  [[nodiscard]] task<void> close_at_exit() override;
  /// Whether the last handle's end has it stopped.
  void set_owned(bool owned);
  /// What is known of it before the server has said anything.
  void describe(const SandboxOptions& options);

  template <typename T>
  [[nodiscard]] T get(T SandboxState::* member) const {
    const std::lock_guard lock(mutex_);
    return this->*member;
  }
  /// Takes up what the server says; states only move forward.
  void learn(const messages::Sandbox& sandbox);
  [[nodiscard]] const std::shared_ptr<ClientCore>& core() const noexcept { return core_; }

 private:
  friend class cwsandbox::Sandbox;
  void check_loop() const;
  /// Has it run here as soon as there is a sandbox; `hand_out` makes the user's handle before that.
  template <typename HandOut>
  auto run(std::shared_ptr<client::ExecProcess> process, HandOut hand_out);
  friend class SessionState;

  [[nodiscard]] std::shared_ptr<client::Backend> backend();
  /// It has ended: on a caller's executor a handle to it must not keep connections, and an embedded gateway, at work.
  void let_backend_go();
  static asio::awaitable<void> complete(asio::awaitable<void> work, task_source<void> source);
  static asio::awaitable<void> create(std::shared_ptr<SandboxState> self, task_source<void> source);
  static asio::awaitable<SandboxStatus> ask_status(std::shared_ptr<SandboxState> self);
  static asio::awaitable<void> until_running(std::shared_ptr<SandboxState> self);
  static asio::awaitable<SandboxStatus> until_complete(std::shared_ptr<SandboxState> self, WaitOptions options);
  /// Completes when the server has been asked again, or at once when something has changed. One poll serves all who wait (LC-5),
  /// and goes on only while somebody does.
  [[nodiscard]] task<void> next_look();
  static asio::awaitable<void> look(std::weak_ptr<SandboxState> weak, task_source<void> source, std::chrono::milliseconds delay);
  /// Wakes all who wait for a change.
  void wake();
  static asio::awaitable<void> stop_and_confirm(std::shared_ptr<SandboxState> self, StopOptions options);
  static asio::awaitable<void> stop_quietly(std::shared_ptr<client::Backend> backend, std::string json);

  class Watching;

  const std::shared_ptr<ClientCore> core_;
  const std::shared_ptr<client::ExecCounters> counters_ = std::make_shared<client::ExecCounters>();
  std::string create_json_;
  mutable std::mutex mutex_;
  std::shared_ptr<client::Backend> backend_;
  task<void> started_, stopped_;
  std::optional<task_source<void>> look_;  // the poll that is under way
  std::chrono::milliseconds look_delay_{};
  int watchers_ = 0;
  std::optional<std::string> id_;
  SandboxStatus status_ = SandboxStatus::unspecified;
  std::chrono::system_clock::time_point status_updated_;
  std::string reason_, image_, runner_id_, runner_group_id_;
  std::vector<std::string> command_, tags_;
  std::chrono::system_clock::time_point created_, started_at_, ended_at_;
  std::optional<int> returncode_;
  bool owned_ = false, stopping_ = false;
};

}  // namespace cwsandbox::detail
