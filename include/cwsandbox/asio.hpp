/// \file
/// `co_await task` inside `asio::awaitable`, resuming on the awaiter's executor.
///
/// Asio up to 1.26 (Boost 1.81) accepts in `co_await` only its own awaitables and asynchronous operations, and would turn the
/// result of an operation into its completion signature. This page teaches it that awaiting a task gives the task's value or
/// rethrows its exception as it was thrown. It specialises a detail of Asio's, lives alone in this header, and was tried with
/// Asio 1.26 to 1.38; define CWSANDBOX_NO_AWAIT_INTEGRATION to leave it out and use `async_wait(use_awaitable)` followed by
/// `get()`.
#pragma once

#include <cwsandbox/task.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/version.hpp>

#include <concepts>

#if !defined(CWSANDBOX_NO_AWAIT_INTEGRATION)

#if BOOST_ASIO_VERSION < 102600
#error "cwsandbox needs Boost 1.81 (Asio 1.26) or later"
#endif

namespace cwsandbox::detail {

/// The handler of a coroutine that waits on the usual executor.
using AwaitHandler = asio::detail::awaitable_async_op_handler<void(boost::system::error_code), asio::any_io_executor>;
/// Made into a waiter once, in the library: a user's file has none of that to compile.
CWSANDBOX_EXPORT void add_waiter(TaskStateBase& state, AwaitHandler&& handler, std::shared_ptr<void> keep);

/// Starts the wait of one `co_await`; kept apart so that Asio's own implementation does the suspending.
template <typename State>
struct AwaitOperationHolder {
  template <typename Task>
  explicit AwaitOperationHolder(Task&& task) : operation{nullptr, task.guard()} {
    operation.state = std::forward<Task>(task).state();
  }
  WaitInitiation<State> operation;
};

}  // namespace cwsandbox::detail

namespace boost::asio::detail {

template <typename Operation, typename Executor>
  requires std::derived_from<Operation, cwsandbox::detail::TaskTag>
class awaitable_async_op<void(boost::system::error_code), Operation, Executor>
    : private cwsandbox::detail::AwaitOperationHolder<typename Operation::state_type>,
      private awaitable_async_op<void(boost::system::error_code), cwsandbox::detail::WaitInitiation<typename Operation::state_type>,
                                 Executor> {
  using State = typename Operation::state_type;
  using Holder = cwsandbox::detail::AwaitOperationHolder<State>;
  using Base = awaitable_async_op<void(boost::system::error_code), cwsandbox::detail::WaitInitiation<State>, Executor>;

 public:
  template <typename Task>
  awaitable_async_op(Task&& task, awaitable_frame_base<Executor>* frame)
      : Holder(std::forward<Task>(task)), Base(std::move(Holder::operation), frame) {}

  [[nodiscard]] bool await_ready() const noexcept { return Holder::operation.state->done(); }
  template <typename Handle>
  void await_suspend(Handle coroutine) {
    suspended_ = true;
    Base::await_suspend(coroutine);
  }
  auto await_resume() {
    if (suspended_) Base::await_resume();  // throws when the wait itself was cancelled
    return State::take(std::move(Holder::operation.state));
  }

 private:
  bool suspended_ = false;
};

}  // namespace boost::asio::detail

#endif
