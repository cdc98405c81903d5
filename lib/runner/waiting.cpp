#include "runner/waiting.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <iterator>
#include <utility>

namespace cwsandbox::runner {

void Waiters::resume_all(const asio::any_io_executor& executor) {
  std::list<Handler> handlers = std::move(handlers_);
  handlers_.clear();
  for (Handler& handler : handlers) asio::post(executor, asio::bind_executor(executor, std::move(handler)));
}

asio::awaitable<void> wait_for(Waiters& waiters) {
  auto initiate = [&waiters](auto handler) { waiters.add(Waiters::Handler(std::move(handler))); };
  auto operation = asio::async_initiate<const asio::use_awaitable_t<>, void()>(initiate, asio::use_awaitable);
  co_await std::move(operation);
}

asio::awaitable<void> TimedWaiters::wait_until(std::chrono::steady_clock::time_point deadline) {
  asio::steady_timer timer(executor_, deadline);
  // Leaves the list however the wait ends, also when the coroutine is destroyed in the middle of it.
  struct Entry {
    std::list<asio::steady_timer*>& list;
    std::list<asio::steady_timer*>::iterator at;
    ~Entry() { list.erase(at); }
  };
  timers_.push_back(&timer);
  Entry entry{timers_, std::prev(timers_.end())};
  constexpr auto token = asio::as_tuple(asio::use_awaitable);
  co_await timer.async_wait(token);
}

void IoWaiters::resume_all(const asio::any_io_executor& executor, error_code ec) {
  std::list<IoHandler> handlers = std::move(handlers_);
  handlers_.clear();
  for (IoHandler& handler : handlers) post(executor, std::move(handler), ec);
}

void IoWaiters::post(const asio::any_io_executor& executor, IoHandler handler, error_code ec) {
  auto call = [h = std::move(handler), ec]() mutable { std::move(h)(ec); };
  asio::post(executor, std::move(call));
}

ExitInfo lost_now() {
  ExitInfo info;
  info.time = std::chrono::system_clock::now();
  return info;
}

void ExitEvent::fire() {
  if (!info_ || !handler_) return;
  const auto handler = std::exchange(handler_, nullptr);
  handler(*info_);
}

}  // namespace cwsandbox::runner
