#include "gateway/turns.hpp"

#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>

namespace cwsandbox::gateway {

std::list<Turns::Queue>::iterator Turns::queue_of(const void* owner) {
  const auto queue = std::find_if(queues_.begin(), queues_.end(), [owner](const Queue& q) { return q.owner == owner; });
  return queue != queues_.end() ? queue : queues_.insert(queues_.end(), Queue(owner));
}

asio::awaitable<Turns::Turn> Turns::take(const void* owner, std::size_t most_of_owner) {
  const auto queue = queue_of(owner);
  queue->most = most_of_owner;
  if (most_ == 0 || (at_it_ < most_ && queue->handlers.empty() && queue->may_begin())) {
    ++at_it_;
    ++queue->at_it;
    co_return Turn(shared_from_this(), owner);
  }
  // Its place has been taken by whoever resumes it.
  co_await asio::async_initiate<decltype(asio::use_awaitable), void()>(
      [queue](Handler handler) { queue->handlers.push_back(std::move(handler)); }, asio::use_awaitable);
  co_return Turn(shared_from_this(), owner);
}

void Turns::free_one(const void* owner) {
  --at_it_;
  if (const auto queue = queue_of(owner); --queue->at_it == 0 && queue->handlers.empty()) queues_.erase(queue);
  begin_waiting();
}

void Turns::begin_waiting() {
  while (at_it_ < most_) {
    const auto queue =
        std::find_if(queues_.begin(), queues_.end(), [](const Queue& q) { return !q.handlers.empty() && q.may_begin(); });
    if (queue == queues_.end()) return;
    Handler next = std::move(queue->handlers.front());
    queue->handlers.pop_front();
    ++at_it_;
    ++queue->at_it;
    queues_.splice(queues_.end(), queues_, queue);  // behind everybody else
    asio::post(executor_, [self = shared_from_this(), next = std::move(next)]() mutable { std::move(next)(); });
  }
}

void Turns::drop() noexcept {
  most_ = 0;
  // Moved out first: what goes with a coroutine may give back its turn.
  std::list<Handler> gone;
  for (Queue& queue : queues_) gone.splice(gone.end(), queue.handlers);
}

std::size_t Turns::waiting() const noexcept {
  std::size_t n = 0;
  for (const Queue& queue : queues_) n += queue.handlers.size();
  return n;
}

}  // namespace cwsandbox::gateway
