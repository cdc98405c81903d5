#include "runner/waiting.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <utility>

namespace cwsandbox::runner {

namespace {

// Leaves the list however the wait ends, also when the coroutine is destroyed in the middle of it.
class Entry {
 public:
  Entry(std::list<asio::steady_timer*>& list, asio::steady_timer& timer) : list_(list), at_(list.insert(list.end(), &timer)) {}
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;
  ~Entry() { list_.erase(at_); }

 private:
  std::list<asio::steady_timer*>& list_;
  std::list<asio::steady_timer*>::iterator at_;
};

}  // namespace

asio::awaitable<void> wait_for(Waiters& waiters) {
  const auto executor = co_await asio::this_coro::executor;
  asio::steady_timer timer(executor, asio::steady_timer::time_point::max());
  const Entry entry(waiters.timers_, timer);
  auto initiate = [&timer](auto handler) {
    timer.async_wait([h = std::move(handler)](const error_code&) mutable { std::move(h)(); });
  };
  auto operation = asio::async_initiate<const asio::use_awaitable_t<>, void()>(initiate, asio::use_awaitable);
  co_await std::move(operation);
}

asio::awaitable<void> TimedWaiters::wait_until(std::chrono::steady_clock::time_point deadline) {
  asio::steady_timer timer(executor_, deadline);
  const Entry entry(timers_, timer);
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
