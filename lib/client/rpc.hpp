// Calls of the control plane: Connect over pooled HTTP connections, tried again within a budget.
#pragma once

#include <cwsandbox/errors.hpp>

#include "client/backend.hpp"
#include "client/observer.hpp"
#include "messages/fields.hpp"

#include <boost/asio/awaitable.hpp>

#include <chrono>
#include <exception>
#include <memory>
#include <optional>
#include <string>

namespace cwsandbox::client {

struct RetryPolicy {
  using Duration = std::chrono::steady_clock::duration;
  Duration budget = std::chrono::seconds(30);    ///< from the first failure (RT-2)
  Duration max_hint = std::chrono::seconds(10);  ///< a server's wish is honoured up to here (RT-3)
  Duration base = std::chrono::milliseconds(100);
  Duration max_delay = std::chrono::seconds(5);
};

struct RetryAttempt {
  RetryPolicy::Duration since_first_failure{};  ///< 0 at the first failure
  RetryPolicy::Duration previous_delay{};       ///< 0 at the first failure
  double random = 0;                            ///< in [0, 1)
};

/// How long to wait before the next attempt, or nothing: not an error that time mends (RT-1), or the budget is used up.
[[nodiscard]] std::optional<RetryPolicy::Duration> next_retry(const RetryPolicy& policy, const RetryAttempt& attempt,
                                                              const std::exception_ptr& error);

/// Keeps count of one operation's failures.
class Retries {
 public:
  explicit Retries(RetryPolicy policy) : policy_(policy) {}
  /// Tells the backend's observer of each attempt that failed. `operation`, and the ids if there are any, are for it. The backend
  /// must outlive this.
  Retries(const Backend& backend, std::string operation, std::string sandbox_id = {}, std::string process_id = {});
  /// The same within another budget.
  void set_budget(RetryPolicy::Duration budget) noexcept { policy_.budget = budget; }
  /// After a failure: the delay before the next attempt, or nothing.
  [[nodiscard]] std::optional<RetryPolicy::Duration> next(const std::exception_ptr& error);

 private:
  RetryPolicy policy_;
  const Observer* observer_ = nullptr;
  TraceEvent event_;
  std::optional<std::chrono::steady_clock::time_point> first_failure_;
  RetryPolicy::Duration previous_{};
};

/// One RPC: the JSON of the answer, or an exception of the tree. `method` is one of SandboxService, e.g. "GetSandbox", or the path
/// of another service's. With Repeat::if_unsent it is not tried again once the server may have done it. The server is told
/// `timeout`; its answer is waited for `margin` longer, so that a deadline that it keeps is told by the server.
enum class Repeat : std::uint8_t { always, if_unsent };
[[nodiscard]] asio::awaitable<std::string> call(std::shared_ptr<Backend> backend, std::string method, std::string body,
                                                std::chrono::milliseconds timeout, Repeat repeat = Repeat::always,
                                                std::chrono::milliseconds margin = std::chrono::milliseconds::zero());
[[nodiscard]] asio::awaitable<std::string> call(std::shared_ptr<Backend> backend, std::string method, std::string body);

/// What goes wrong on the server's side of a message is the server's fault, and says so.
template <typename Parse>
auto parse_answer(Parse parse, const std::string& json) {
  try {
    return parse(json);
  } catch (const messages::ParseError& error) {
    throw CWSandboxError("The server's answer cannot be read: " + (error.field.empty() ? std::string() : error.field + ": ") +
                         error.what());
  }
}

/// Between two attempts, or two looks at what changes.
[[nodiscard]] asio::awaitable<void> pause(std::chrono::steady_clock::duration delay);

/// A random UUID (version 4).
[[nodiscard]] std::string make_uuid();

}  // namespace cwsandbox::client
