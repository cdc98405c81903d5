#include <cwsandbox/task.hpp>

#include "core/loop.hpp"

#include <boost/asio/append.hpp>
#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/prefer.hpp>
#include <boost/asio/system_executor.hpp>
#include <boost/system/system_error.hpp>

#include <algorithm>
#include <condition_variable>
#include <list>
#include <mutex>
#include <stdexcept>
#include <vector>

namespace cwsandbox::detail {

namespace {

/// A handler that waits, with what keeps its executor from running out of work meanwhile.
struct Waiter {
  Waiter(WaitHandler h, asio::any_io_executor e, std::shared_ptr<TaskStateBase> s, std::shared_ptr<void> k)
      : handler(std::move(h)), executor(std::move(e)), state(std::move(s)), keep(std::move(k)) {}

  /// Names the wait for its cancellation, also when it is not in the list any more: an address would be another's by then.
  struct Ticket {
    std::atomic<bool> cancelled{false};
  };
  WaitHandler handler;  // move-constructed only: moving by assignment corrupts it in Boost 1.81
  asio::any_io_executor executor;
  // Whoever waits keeps the operation: its last handle may be gone by now.
  std::shared_ptr<TaskStateBase> state;
  std::shared_ptr<void> keep;
  std::shared_ptr<Ticket> ticket;  // null where nobody can cancel

  /// Completes on the waiter's own executor. A cancellation that comes before the handler has run still counts.
  static void complete(Waiter&& waiter, boost::system::error_code error) {
    const auto executor = waiter.executor;
    auto call = [handler = std::move(waiter.handler), ticket = std::move(waiter.ticket), error]() mutable {
      // Here, on the executor that the slot belongs to: no cancellation may come any more.
      if (auto slot = handler.get_cancellation_slot(); slot.is_connected()) slot.clear();
      if (ticket && ticket->cancelled) error = asio::error::operation_aborted;
      std::move(handler)(error);
    };
    asio::post(executor, std::move(call));
  }
};

}  // namespace

struct TaskStateBase::Impl {
  std::mutex mutex;
  std::condition_variable condition;
  std::list<Waiter> waiters;
  std::vector<std::coroutine_handle<>> resumers;
  std::vector<std::function<void()>> continuations;
  std::function<bool()> cancel_hook;
  std::function<void()> wait_hook;
};

TaskStateBase::TaskStateBase(std::shared_ptr<Loop> loop) : loop_(std::move(loop)), impl_(std::make_unique<Impl>()) {}
TaskStateBase::~TaskStateBase() = default;

void TaskStateBase::note_wait() {
  std::function<void()> hook;
  {
    std::lock_guard lock(impl_->mutex);
    hook = std::exchange(impl_->wait_hook, nullptr);
  }
  if (hook) hook();
}

namespace {
// Whose outcome this thread tells somebody ahead of all others.
thread_local const TaskStateBase* announced = nullptr;
// The other threads of a process may end while one waits for what they would have done.
constexpr std::chrono::seconds kLookAround{1};
}  // namespace

bool TaskStateBase::wait(Deadline deadline) {
  if (done() || announced == this) return true;
  if (loop_) loop_->check_may_block();
  note_wait();
  const auto ready = [this] { return done(); };
  for (;;) {
    auto until = deadline;
    if (loop_ && loop_->adopted()) {
      const auto next_look = std::chrono::steady_clock::now() + kLookAround;
      until = deadline ? std::min(*deadline, next_look) : next_look;
    }
    std::unique_lock lock(impl_->mutex);
    if (!until)
      impl_->condition.wait(lock, ready);
    else
      impl_->condition.wait_until(lock, *until, ready);
    if (done()) return true;
    if (deadline && std::chrono::steady_clock::now() >= *deadline) return false;
    lock.unlock();
    if (loop_) loop_->check_may_block();
  }
}

bool TaskStateBase::cancel() {
  if (done()) return false;
  std::function<bool()> hook;
  {
    std::lock_guard lock(impl_->mutex);
    hook = impl_->cancel_hook;
  }
  if (hook) return hook();
  if (!claim()) return false;
  publish(cancelled_error());
  return true;
}

asio::any_io_executor TaskStateBase::default_executor() const {
  return loop_ ? loop_->executor() : asio::any_io_executor(asio::system_executor());
}

asio::any_io_executor TaskStateBase::home() const noexcept {
  try {
    return default_executor();
  } catch (...) {  // whoever waits there is told so
    return asio::system_executor();
  }
}

void TaskStateBase::add_waiter(std::function<void()> function, std::shared_ptr<void> keep) {
  WaitHandler handler([function = std::move(function)](boost::system::error_code) { function(); });
  add_waiter(std::move(handler), default_executor(), std::move(keep));
}

void TaskStateBase::add_waiter(WaitHandler handler, asio::any_io_executor executor, std::shared_ptr<void> keep) {
  executor = asio::prefer(executor, asio::execution::outstanding_work.tracked);
  auto slot = handler.get_cancellation_slot();
  Waiter waiter(std::move(handler), executor, shared_from_this(), std::move(keep));
  // Ahead of anybody's hearing of the waiter: once it is in the list, another thread may complete it, and its handler clears the
  // slot.
  if (slot.is_connected()) {
    waiter.ticket = std::make_shared<Waiter::Ticket>();
    slot.assign([weak = weak_from_this(), ticket = waiter.ticket](asio::cancellation_type) {
      ticket->cancelled = true;
      auto self = weak.lock();
      if (!self) return;
      std::list<Waiter> dropped;
      {
        std::lock_guard lock(self->impl_->mutex);
        auto& waiters = self->impl_->waiters;
        const auto it = std::find_if(waiters.begin(), waiters.end(), [&](const Waiter& one) { return one.ticket == ticket; });
        if (it != waiters.end()) dropped.splice(dropped.end(), waiters, it);
      }
      if (!dropped.empty()) Waiter::complete(std::move(dropped.front()), asio::error::operation_aborted);
    });
  }
  if (!done()) {
    note_wait();
    std::lock_guard lock(impl_->mutex);
    if (!done()) {
      impl_->waiters.push_back(std::move(waiter));
      return;
    }
  }
  Waiter::complete(std::move(waiter), {});
}

bool TaskStateBase::add_resumer(std::coroutine_handle<> coroutine) {
  if (done()) return false;
  note_wait();
  std::lock_guard lock(impl_->mutex);
  if (done()) return false;
  impl_->resumers.push_back(coroutine);
  return true;
}

void TaskStateBase::add_continuation(std::function<void()> continuation) {
  {
    std::lock_guard lock(impl_->mutex);
    if (!done()) {
      impl_->continuations.push_back(std::move(continuation));
      return;
    }
  }
  continuation();
}

void TaskStateBase::announce(std::exception_ptr error, const std::function<void()>& first) noexcept {
  error_ = error;
  const auto* const outer = std::exchange(announced, this);
  try {
    first();
  } catch (...) {  // must not take the outcome from everybody else
  }
  announced = outer;
  publish(std::move(error));
}

void TaskStateBase::publish(std::exception_ptr error) noexcept {
  const auto keep = weak_from_this().lock();  // a waiter may drop the last handle
  std::list<Waiter> waiters;
  std::vector<std::coroutine_handle<>> resumers;
  std::vector<std::function<void()>> continuations;
  std::function<bool()> cancel_hook;
  std::function<void()> wait_hook;
  const auto self = shared_from_this();  // whoever wakes may let go of it at once
  {
    std::lock_guard lock(impl_->mutex);
    error_ = std::move(error);
    done_.store(true, std::memory_order_release);
    waiters.swap(impl_->waiters);
    resumers.swap(impl_->resumers);
    continuations.swap(impl_->continuations);
    // The hooks hold the operation, which must not live as long as its result.
    cancel_hook.swap(impl_->cancel_hook);
    wait_hook.swap(impl_->wait_hook);
  }
  // Not under the mutex: whoever wakes would only wait for that.
  impl_->condition.notify_all();
  for (auto& continuation : continuations) continuation();
  for (auto& waiter : waiters) Waiter::complete(std::move(waiter), {});
  for (auto coroutine : resumers) coroutine.resume();
}

// What a hook holds goes with it, and may complete something on its way: so the one that is replaced goes outside the lock.
void TaskStateBase::set_cancel_hook(std::function<bool()> hook) {
  std::lock_guard lock(impl_->mutex);
  if (!done()) impl_->cancel_hook.swap(hook);
}

void TaskStateBase::set_wait_hook(std::function<void()> hook) {
  std::lock_guard lock(impl_->mutex);
  if (!done()) impl_->wait_hook.swap(hook);
}

const std::shared_ptr<TaskState<void>>& completed_state() {
  // Never destroyed: handles to it may be dropped at any time during exit.
  static const auto* const state = [] {
    auto* made = new std::shared_ptr<TaskState<void>>(std::make_shared<TaskState<void>>(nullptr));
    (*made)->set_value();
    return made;
  }();
  return *state;
}

std::exception_ptr abandoned_error() {
  return std::make_exception_ptr(CancelledError("The operation was given up before it completed"));
}

std::exception_ptr wait_error(boost::system::error_code error) {
  return std::make_exception_ptr(boost::system::system_error(error));
}

std::exception_ptr cancelled_error() { return std::make_exception_ptr(CancelledError("The operation was cancelled")); }

void throw_empty() { throw std::invalid_argument("cwsandbox: an empty task"); }

void check_error(const std::exception_ptr& error) {
  if (!error) throw std::invalid_argument("cwsandbox: the exception is a null pointer");
}

void throw_timeout() { throw TimeoutError("The wait timed out; the operation goes on"); }

}  // namespace cwsandbox::detail
