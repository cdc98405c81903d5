// How much of one turn of the event loop a client gets.
#pragma once

#include <boost/asio/any_completion_handler.hpp>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>

#include <deque>
#include <memory>

namespace cwsandbox::net {

namespace asio = boost::asio;

/// One thing of a client begins in each turn of the loop: a request, a start of a process, a piece of a body. The others wait for
/// their turns, in the order in which they came, and between two of them everything that is ready is done, whoever's it is: who
/// sends a thousand requests at once keeps another waiting for one of them, not for all. Alone, a client loses next to nothing.
///
/// On the loop's thread. Those that wait are the loop's: they go with it, not with this object, which may go before them.
class ClientTurns {
 public:
  using Handler = asio::any_completion_handler<void()>;

  ClientTurns() = default;
  ClientTurns(const ClientTurns&) = delete;
  ClientTurns& operator=(const ClientTurns&) = delete;

  /// Whether it may begin in this turn; then it has been counted.
  [[nodiscard]] bool take_now(const asio::any_io_executor& executor);
  /// Runs once, when its turn has come; never inline.
  void wait(const asio::any_io_executor& executor, Handler handler);
  /// The same for a coroutine; returns at once where it may begin now. No cancellation reaches it.
  [[nodiscard]] asio::awaitable<void> take(asio::any_io_executor executor);

 private:
  using Queue = std::deque<Handler>;
  static void end_turn(const asio::any_io_executor& executor, std::shared_ptr<Queue> queue);
  /// Makes this turn one in which something has begun.
  std::shared_ptr<Queue> begin_turn(const asio::any_io_executor& executor);

  // What waits in this turn; it belongs to the handler at the turn's end. Expired: nothing has begun in this turn.
  std::weak_ptr<Queue> turn_;
};

}  // namespace cwsandbox::net
