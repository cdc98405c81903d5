// Who waits for something, and how an end is told once.
#pragma once

#include <boost/asio/any_completion_handler.hpp>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <functional>
#include <list>
#include <optional>
#include <utility>

#include "runner/runner.hpp"

namespace cwsandbox::runner::remote {

/// Coroutines that wait for one thing.
class Waiters {
 public:
  using Handler = asio::any_completion_handler<void()>;
  void add(Handler handler) { handlers_.push_back(std::move(handler)); }
  void resume_all(const asio::any_io_executor& executor) {
    std::list<Handler> handlers = std::move(handlers_);
    handlers_.clear();
    for (Handler& handler : handlers) asio::post(executor, asio::bind_executor(executor, std::move(handler)));
  }

 private:
  std::list<Handler> handlers_;  // any_completion_handler may not be move-assigned
};

[[nodiscard]] inline asio::awaitable<void> wait_for(Waiters& waiters) {
  auto initiate = [&waiters](auto handler) { waiters.add(Waiters::Handler(std::move(handler))); };
  auto operation = asio::async_initiate<const asio::use_awaitable_t<>, void()>(initiate, asio::use_awaitable);
  co_await std::move(operation);
}

/// The same for those that look at a stream.
class IoWaiters {
 public:
  void add(IoHandler handler) { handlers_.push_back(std::move(handler)); }
  void resume_all(const asio::any_io_executor& executor, error_code ec = {}) {
    std::list<IoHandler> handlers = std::move(handlers_);
    handlers_.clear();
    for (IoHandler& handler : handlers) post(executor, std::move(handler), ec);
  }
  static void post(const asio::any_io_executor& executor, IoHandler handler, error_code ec) {
    auto call = [h = std::move(handler), ec]() mutable { std::move(h)(ec); };
    asio::post(executor, std::move(call));
  }

 private:
  std::list<IoHandler> handlers_;
};

/// A handler that is called at most once, whichever comes first: the event or the handler.
class ExitEvent {
 public:
  void set(const ExitInfo& info) {
    if (!info_) info_ = info;
  }
  [[nodiscard]] bool is_set() const noexcept { return info_.has_value(); }
  void listen(std::function<void(const ExitInfo&)> handler) { handler_ = std::move(handler); }
  void forget() noexcept { handler_ = nullptr; }
  void fire() {
    if (!info_ || !handler_) return;
    const auto handler = std::exchange(handler_, nullptr);
    handler(*info_);
  }

 private:
  std::optional<ExitInfo> info_;
  std::function<void(const ExitInfo&)> handler_;
};

}  // namespace cwsandbox::runner::remote
