#include "gateway/context.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace cwsandbox::gateway {

asio::awaitable<void> Waiters::wait_until(std::chrono::steady_clock::time_point deadline) {
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

}  // namespace cwsandbox::gateway
