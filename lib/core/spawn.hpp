// Runs a coroutine as the work of a task.
#pragma once

#include <cwsandbox/task.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>

namespace cwsandbox::core {

/// Starts `work` on `executor` (a strand, or an executor that one thread runs: cancellation is emitted there) and gives its outcome
/// as a task. `cancel()` cancels the coroutine; whatever error that causes in it, the task then ends with CancelledError.
template <typename T>
[[nodiscard]] task<T> spawn_task(const LoopManager& loop, const asio::any_io_executor& executor, asio::awaitable<T> work) {
  struct Shared {
    asio::cancellation_signal signal;
    std::atomic<bool> cancelled{false};
  };
  task_source<T> source(loop);
  auto shared = std::make_shared<Shared>();
  source.on_cancel([shared, executor, weak = std::weak_ptr(source.state())] {
    auto state = weak.lock();
    if (!state || state->done()) return false;
    shared->cancelled = true;
    asio::post(executor, [shared] { shared->signal.emit(asio::cancellation_type::terminal); });
    return true;
  });
  auto slot = shared->signal.slot();
  auto fail = [source, shared](std::exception_ptr error) {
    source.set_exception(shared->cancelled ? detail::cancelled_error() : error);
  };
  if constexpr (std::is_void_v<T>) {
    asio::co_spawn(executor, std::move(work), asio::bind_cancellation_slot(slot, [source, fail](std::exception_ptr error) {
                     if (error)
                       fail(error);
                     else
                       source.set_value();
                   }));
  } else {
    asio::co_spawn(executor, std::move(work), asio::bind_cancellation_slot(slot, [source, fail](std::exception_ptr error, T value) {
                     if (error)
                       fail(error);
                     else
                       source.set_value(std::move(value));
                   }));
  }
  return source.get_task();
}

}  // namespace cwsandbox::core
