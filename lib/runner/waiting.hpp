// Who waits for something, and how an end is told once: what runners and the gateway are made of.
#pragma once

#include <boost/asio/any_completion_handler.hpp>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>

#include <chrono>
#include <functional>
#include <list>
#include <optional>

#include "runner/runner.hpp"

namespace cwsandbox::runner {

/// Coroutines that wait for one thing. Whoever resumes them goes on first. Each is the event loop's, and not this object's: a loop
/// that goes takes them with it, also where they keep the owner of this object alive.
class Waiters {
 public:
  Waiters() = default;
  Waiters(const Waiters&) = delete;
  Waiters& operator=(const Waiters&) = delete;
  void resume_all() {
    for (asio::steady_timer* timer : timers_) timer->cancel();
  }

 private:
  friend asio::awaitable<void> wait_for(Waiters& waiters);
  std::list<asio::steady_timer*> timers_;
};

/// Completes on the next `resume_all`, and no cancellation reaches it. The owner of `waiters` must be kept alive by the caller.
[[nodiscard]] asio::awaitable<void> wait_for(Waiters& waiters);

/// The same with a deadline. `notify` wakes all of them; each looks again at what it waits for.
class TimedWaiters {
 public:
  explicit TimedWaiters(asio::any_io_executor executor) : executor_(std::move(executor)) {}
  TimedWaiters(const TimedWaiters&) = delete;
  TimedWaiters& operator=(const TimedWaiters&) = delete;

  /// Completes on the next `notify`, or at the deadline. The owner of this object must be kept alive by the caller.
  [[nodiscard]] asio::awaitable<void> wait_until(std::chrono::steady_clock::time_point deadline);
  void notify() {
    for (asio::steady_timer* timer : timers_) timer->cancel();
  }

 private:
  asio::any_io_executor executor_;
  std::list<asio::steady_timer*> timers_;
};

/// Those that look at a stream.
class IoWaiters {
 public:
  void add(IoHandler handler) { handlers_.push_back(std::move(handler)); }
  void resume_all(const asio::any_io_executor& executor, error_code ec = {});
  static void post(const asio::any_io_executor& executor, IoHandler handler, error_code ec);

 private:
  std::list<IoHandler> handlers_;
};

/// Of a process of which nobody will hear any more.
[[nodiscard]] ExitInfo lost_now();

/// A handler that is called at most once, whichever comes first: the event or the handler.
class ExitEvent {
 public:
  void set(const ExitInfo& info) {
    if (!info_) info_ = info;
  }
  [[nodiscard]] bool is_set() const noexcept { return info_.has_value(); }
  void listen(std::function<void(const ExitInfo&)> handler) { handler_ = std::move(handler); }
  void forget() noexcept { handler_ = nullptr; }
  void fire();

 private:
  std::optional<ExitInfo> info_;
  std::function<void(const ExitInfo&)> handler_;
};

}  // namespace cwsandbox::runner
