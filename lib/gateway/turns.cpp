#include "gateway/turns.hpp"

#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>

namespace cwsandbox::gateway {

asio::awaitable<Turns::Turn> Turns::take(const void* owner) {
  if (most_ == 0 || at_it_ < most_) {
    ++at_it_;
    co_return Turn(shared_from_this());
  }
  // Whoever frees a place leaves it taken: it passes to the one that is resumed.
  co_await asio::async_initiate<decltype(asio::use_awaitable), void()>(
      [this, owner](Handler handler) {
        auto queue = std::find_if(queues_.begin(), queues_.end(), [owner](const Queue& q) { return q.owner == owner; });
        if (queue == queues_.end()) queue = queues_.insert(queues_.end(), Queue{owner, {}});
        queue->handlers.push_back(std::move(handler));
      },
      asio::use_awaitable);
  co_return Turn(shared_from_this());
}

void Turns::free_one() {
  if (queues_.empty()) {
    --at_it_;
    return;
  }
  Queue& queue = queues_.front();
  Handler next = std::move(queue.handlers.front());
  queue.handlers.pop_front();
  if (queue.handlers.empty()) {
    queues_.pop_front();
  } else {
    queues_.splice(queues_.end(), queues_, queues_.begin());
  }
  asio::post(executor_, [self = shared_from_this(), next = std::move(next)]() mutable { std::move(next)(); });
}

void Turns::drop() noexcept {
  most_ = 0;
  // Moved out first: what goes with a coroutine may give back its turn.
  for (std::list<Queue> gone; !queues_.empty(); gone.clear()) gone.swap(queues_);
}

std::size_t Turns::waiting() const noexcept {
  std::size_t n = 0;
  for (const Queue& queue : queues_) n += queue.handlers.size();
  return n;
}

}  // namespace cwsandbox::gateway
