// The agent's end: serves the one sandbox that a runner makes to whoever knows its key, over links that may break.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "runner/remote/link.hpp"
#include "runner/runner.hpp"

namespace cwsandbox::runner::remote {

class ServerState;

struct ServerOptions {
  std::string key;  ///< who does not say it is refused; never in a log or an error
  /// The most that a session may ask for, and how long the end waits for sessions that have not seen everything.
  std::chrono::milliseconds max_grace{std::chrono::minutes(10)};
  std::chrono::milliseconds hello_deadline{std::chrono::seconds(10)};
  std::chrono::milliseconds keep_alive{std::chrono::seconds(20)};  ///< as in RemoteOptions
  std::size_t main_ring = 1024 * 1024;                             ///< bytes kept of each of the main command's outputs
  std::uint64_t stdin_window = 1024 * 1024;                        ///< of each process
  std::size_t max_strangers = 16;                                  ///< links that have not said hello
  std::size_t max_sessions = 16;
  std::size_t max_processes = 4096;             ///< of one session
  std::size_t max_handles = 1024;               ///< files and directories open for one session
  std::size_t max_initial_files = 64ull << 20;  ///< bytes
  std::function<void(const std::string&)> log;  ///< a line for the operator, on the executor; may be empty
};

class SandboxServer {
 public:
  /// `runner` must stay until this is destroyed.
  SandboxServer(asio::any_io_executor executor, Runner& runner, ServerOptions options);
  /// Ends the sandbox, with every link.
  ~SandboxServer();
  SandboxServer(const SandboxServer&) = delete;
  SandboxServer& operator=(const SandboxServer&) = delete;

  void accept(std::unique_ptr<Link> link);
  /// Completes when the sandbox has ended and every session has seen all of it, or has not come back within its grace time. Says
  /// how the main command ended. Once.
  [[nodiscard]] asio::awaitable<ExitInfo> finished();

 private:
  std::shared_ptr<ServerState> state_;
};

}  // namespace cwsandbox::runner::remote
