// What a client holds while it is in use: connections to its endpoint and, for `local:`, the gateway in this process.
#pragma once

#include <cwsandbox/client.hpp>
#include <cwsandbox/task.hpp>

#include "client/embedded_gateway.hpp"
#include "net/http_client.hpp"

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace cwsandbox::client {

struct RetryPolicy;
class ExecPool;
class Observer;

struct Settings {
  net::Endpoint endpoint;
  std::string api_key;
  std::chrono::milliseconds request_timeout{}, connect_timeout{}, retry_budget{}, resume_grace{}, idle_timeout{};
  net::TlsClientOptions tls;
  std::optional<net::Proxy> proxy;
  std::string auth_mode;
  std::shared_ptr<const AuthProvider> auth_provider;  // instead of the key
  std::shared_ptr<const Observer> observer;           // null: nobody looks on
};

/// Kept by sandboxes, processes and calls under way. On an adopted loop the last of them ends it: connections are closed and the
/// embedded gateway stops, so that nothing is left to run; on the default loop it stays until exit.
class Backend {
 public:
  /// Throws std::runtime_error for a certificate file that cannot be used, SandboxUnavailableError where there is no local runner.
  Backend(std::shared_ptr<const Settings> settings, LoopManager loop);
  ~Backend();
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;

  [[nodiscard]] const Settings& settings() const noexcept { return *settings_; }
  [[nodiscard]] const LoopManager& loop() const noexcept { return loop_; }
  [[nodiscard]] net::HttpClient& http() noexcept { return *http_; }
  [[nodiscard]] const std::shared_ptr<ExecPool>& pool() const noexcept { return pool_; }
  /// Completes when requests can be sent: the embedded gateway listens.
  [[nodiscard]] task<void> ready() const;
  /// Adds what says who asks. Throws whatever a registered auth mode throws (AU-1).
  void authorize(net::Headers& headers) const;
  [[nodiscard]] RetryPolicy retry_policy() const;
  /// Null when nobody looks on.
  [[nodiscard]] const Observer* observer() const noexcept { return settings_->observer.get(); }
  /// The server has turned out to know no exec stream. Found out once, for as long as this is in use.
  [[nodiscard]] bool lacks_exec_stream() const noexcept { return lacks_exec_stream_; }
  void note_no_exec_stream() noexcept { lacks_exec_stream_ = true; }
  /// The same of the path where files are plain bodies.
  [[nodiscard]] bool lacks_file_endpoint() const noexcept { return lacks_file_endpoint_; }
  void note_no_file_endpoint() noexcept { lacks_file_endpoint_ = true; }

 private:
  friend class Exit;
  std::shared_ptr<const Settings> settings_;
  LoopManager loop_;
  std::shared_ptr<EmbeddedGateway> embedded_;
  std::string token_;
  mutable std::mutex auth_mutex_;
  mutable std::optional<AuthHeaders> auth_headers_;  // as long as they hold
  std::unique_ptr<net::HttpClient> http_;
  std::shared_ptr<ExecPool> pool_;
  std::atomic<bool> lacks_exec_stream_{false}, lacks_file_endpoint_{false};
};

/// Work that exit waits for, up to 10 s: a sandbox that is being made or stopped. Counts on the default loop only.
class PendingWork {
 public:
  explicit PendingWork(const LoopManager& loop);
  ~PendingWork();
  PendingWork(const PendingWork&) = delete;
  PendingWork& operator=(const PendingWork&) = delete;

 private:
  bool counted_;
};

/// What wants to be closed when the process ends.
class ExitHook {
 public:
  virtual ~ExitHook() = default;
  [[nodiscard]] virtual task<void> close_at_exit() = 0;
};
/// Exit has those of the default loop closed, and a signal all of them.
void add_exit_hook(const LoopManager& loop, const std::weak_ptr<ExitHook>& hook);
[[nodiscard]] std::vector<std::shared_ptr<ExitHook>> exit_hooks();
/// What exit does with the default loop, now. Not on a thread that runs some loop.
void end_default_loop();

/// Waits for a task inside a coroutine of this library.
[[nodiscard]] asio::awaitable<void> wait_for(task<void> ready);

}  // namespace cwsandbox::client

namespace cwsandbox::detail {

/// The state behind a Client.
class ClientCore {
 public:
  ClientCore(std::shared_ptr<const client::Settings> settings, LoopManager loop)
      : settings_(std::move(settings)), loop_(std::move(loop)) {}
  [[nodiscard]] const client::Settings& settings() const noexcept { return *settings_; }
  [[nodiscard]] const LoopManager& loop() const noexcept { return loop_; }
  /// The backend in use, or a new one.
  [[nodiscard]] std::shared_ptr<client::Backend> backend();

 private:
  std::shared_ptr<const client::Settings> settings_;
  LoopManager loop_;
  std::mutex mutex_;
  std::weak_ptr<client::Backend> backend_;
};

}  // namespace cwsandbox::detail
