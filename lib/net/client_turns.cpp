#include "net/client_turns.hpp"

#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <utility>

namespace cwsandbox::net {

std::shared_ptr<ClientTurns::Queue> ClientTurns::begin_turn(const asio::any_io_executor& executor) {
  auto queue = std::make_shared<Queue>();
  turn_ = queue;
  end_turn(executor, queue);
  return queue;
}

// Posted, and so behind all that is ready.
void ClientTurns::end_turn(const asio::any_io_executor& executor, std::shared_ptr<Queue> queue) {
  asio::post(executor, [executor, queue = std::move(queue)]() mutable {
    if (queue->empty()) return;
    Handler next = std::move(queue->front());
    queue->pop_front();
    end_turn(executor, std::move(queue));
    std::move(next)();
  });
}

bool ClientTurns::take_now(const asio::any_io_executor& executor) {
  if (!turn_.expired()) return false;
  begin_turn(executor);
  return true;
}

void ClientTurns::wait(const asio::any_io_executor& executor, Handler handler) {
  auto queue = turn_.lock();
  if (!queue) queue = begin_turn(executor);
  queue->push_back(std::move(handler));
}

asio::awaitable<void> ClientTurns::take(asio::any_io_executor executor) {
  if (take_now(executor)) co_return;
  co_await asio::async_initiate<decltype(asio::use_awaitable), void()>(
      [this, &executor](Handler handler) { wait(executor, std::move(handler)); }, asio::use_awaitable);
}

}  // namespace cwsandbox::net
