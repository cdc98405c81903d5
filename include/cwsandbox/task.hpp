/// \file
/// An operation under way with its result: task<T>.
#pragma once

#include <cwsandbox/duration.hpp>
#include <cwsandbox/errors.hpp>
#include <cwsandbox/export.hpp>
#include <cwsandbox/loop_manager.hpp>

#include <boost/asio/any_completion_handler.hpp>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/system/error_code.hpp>

#include <atomic>
#include <chrono>
#include <coroutine>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

namespace cwsandbox {

namespace detail {

using WaitHandler = asio::any_completion_handler<void(boost::system::error_code)>;
using Deadline = std::optional<std::chrono::steady_clock::time_point>;

/// What all tasks share, whatever their result. Thread safe.
class CWSANDBOX_EXPORT TaskStateBase : public std::enable_shared_from_this<TaskStateBase> {
 public:
  explicit TaskStateBase(std::shared_ptr<Loop> loop);
  TaskStateBase(const TaskStateBase&) = delete;
  TaskStateBase& operator=(const TaskStateBase&) = delete;
  virtual ~TaskStateBase();

  // the consumer's side
  [[nodiscard]] bool done() const noexcept { return done_.load(std::memory_order_acquire); }
  /// Blocks until done. False: the deadline passed first. Throws std::logic_error where blocking would never end.
  [[nodiscard]] bool wait(Deadline deadline);
  [[nodiscard]] std::exception_ptr error() const noexcept {
    if (!done()) return nullptr;
    try {
      if (error_) note_look();
    } catch (...) {  // what goes wrong there is for who asks for a value
    }
    return error_;
  }
  void rethrow_error() const {
    note_look();
    if (error_) std::rethrow_exception(error_);
  }
  /// The same for whoever passes it on: that is no look.
  [[nodiscard]] std::exception_ptr peek_error() const noexcept { return done() ? error_ : nullptr; }
  /// Whether anybody has looked at the outcome, which is more than to wait for it.
  [[nodiscard]] bool looked_at() const noexcept { return looked_at_.load(std::memory_order_acquire); }
  bool cancel();
  /// `handler` is posted to `executor` once done; its cancellation slot drops the wait. `keep` is kept as long as it waits.
  void add_waiter(WaitHandler handler, asio::any_io_executor executor, std::shared_ptr<void> keep = nullptr);
  /// The same for a plain function, on the default executor: a user's file then has no handler of Asio's to compile for it.
  void add_waiter(std::function<void()> function, std::shared_ptr<void> keep = nullptr);
  /// Where handlers go that have no executor of their own: the loop.
  [[nodiscard]] asio::any_io_executor default_executor() const;
  /// The same, or the system's where the loop has ended.
  [[nodiscard]] asio::any_io_executor home() const noexcept;
  /// For coroutines that have no executor: resumed by the completing thread. False: done already, not kept.
  [[nodiscard]] bool add_resumer(std::coroutine_handle<> coroutine);
  /// Called by the completing thread, ahead of every waiter; at once when done already.
  void add_continuation(std::function<void()> continuation);
  /// Somebody waits, by a continuation say: calls the wait hook.
  void note_wait();

  // the producer's side
  /// The first to claim completes the task; false: somebody has.
  [[nodiscard]] bool claim() noexcept { return !claimed_.exchange(true, std::memory_order_acq_rel); }
  void publish(std::exception_ptr error) noexcept;
  /// The same in two steps: in between, only this thread may have the outcome, by `result()`.
  void announce(std::exception_ptr error, const std::function<void()>& first) noexcept;
  void set_cancel_hook(std::function<bool()> hook);
  /// Called once, outside locks, when somebody first waits.
  void set_wait_hook(std::function<void()> hook);
  [[nodiscard]] const std::shared_ptr<Loop>& loop() const noexcept { return loop_; }

 protected:
  void note_look() const {
    if (looked_at()) return;
    first_look();
    looked_at_.store(true, std::memory_order_release);
  }
  /// Ahead of the first look at the outcome, perhaps on several threads at once.
  virtual void first_look() const {}

 private:
  struct Impl;
  std::shared_ptr<Loop> loop_;
  std::unique_ptr<Impl> impl_;  // waiters, lock and condition: only made when somebody has to wait
  std::atomic<bool> claimed_{false};
  std::atomic<bool> done_{false};
  mutable std::atomic<bool> looked_at_{false};
  std::exception_ptr error_;
};

template <typename T>
class TaskState : public TaskStateBase {
 public:
  using TaskStateBase::TaskStateBase;
  template <typename... Args>
  bool set_value(Args&&... args) {
    if (!claim()) return false;
    store(std::forward<Args>(args)...);
    return true;
  }
  /// Completes after a successful `claim`.
  template <typename... Args>
  void store(Args&&... args) {
    try {
      value_.emplace(std::forward<Args>(args)...);
    } catch (...) {
      publish(std::current_exception());
      return;
    }
    publish(nullptr);
  }
  /// Completes after a successful `claim` with a value or `error`, and calls `first` ahead of everybody who waits: whoever asks for
  /// the result in there gets it.
  void store_announced(std::optional<T> value, std::exception_ptr error, const std::function<void()>& first) {
    value_ = std::move(value);
    announce(std::move(error), first);
  }
  [[nodiscard]] const T& value() const {
    rethrow_error();
    return *value_;
  }
  /// For whoever gives up its handle: the value itself when nobody else can ask for it, else a copy.
  [[nodiscard]] static T take(std::shared_ptr<TaskState>&& state) {
    state->rethrow_error();
    if constexpr (std::is_copy_constructible_v<T>) {
      {
        const auto synchronised = state;
      }  // what other threads did before they let go of it happened before this
      if (state.use_count() > 1) return *state->value_;
    }
    return std::move(*state->value_);
  }

 protected:
  mutable std::optional<T> value_;  // made by the first look, perhaps
};

template <>
class TaskState<void> final : public TaskStateBase {
 public:
  using TaskStateBase::TaskStateBase;
  bool set_value() {
    if (!claim()) return false;
    publish(nullptr);
    return true;
  }
  void value() const { rethrow_error(); }
  static void take(const std::shared_ptr<TaskState>& state) { state->rethrow_error(); }
};

/// A handler that goes on to its own executor when it is called.
template <typename Handler, typename Executor>
class Dispatching {
 public:
  Dispatching(Handler handler, Executor executor) : handler_(std::move(handler)), executor_(std::move(executor)) {}
  void operator()(boost::system::error_code error) {
    asio::dispatch(executor_, [handler = std::move(handler_), error]() mutable { std::move(handler)(error); });
  }

 private:
  Handler handler_;
  Executor executor_;
};

/// Waits with any handler: finds its executor while its type is still known.
template <typename Handler>
void add_waiter(TaskStateBase& state, Handler&& handler, std::shared_ptr<void> keep) {
  using Executor = asio::associated_executor_t<std::decay_t<Handler>, asio::any_io_executor>;
  if constexpr (std::is_constructible_v<asio::any_io_executor, Executor>) {
    asio::any_io_executor executor = asio::get_associated_executor(handler, state.default_executor());
    state.add_waiter(WaitHandler(std::forward<Handler>(handler)), std::move(executor), std::move(keep));
  } else {
    // An executor that cannot be posted to (a type-erased handler's): from the loop it is reached by dispatch.
    auto loop = state.default_executor();
    auto executor = asio::get_associated_executor(handler, loop);
    state.add_waiter(WaitHandler(Dispatching<std::decay_t<Handler>, Executor>(std::forward<Handler>(handler), executor)),
                     std::move(loop), std::move(keep));
  }
}

/// What begins a wait, and keeps what is waited for until then, with its owner.
template <typename State>
struct WaitInitiation {
  std::shared_ptr<State> state;
  std::shared_ptr<void> guard;
  template <typename Handler>
  void operator()(Handler&& handler) const {
    add_waiter(*state, std::forward<Handler>(handler), guard);
  }
  using executor_type = asio::any_io_executor;
  /// For tokens that want to know where the operation is at home (`use_coro`, `use_promise`).
  [[nodiscard]] executor_type get_executor() const noexcept { return state->home(); }
};

/// What a wait that was cut short throws.
[[nodiscard]] CWSANDBOX_EXPORT std::exception_ptr wait_error(boost::system::error_code error);

/// The signature of a handler that gets the outcome itself.
template <typename T>
struct ValueSignature {
  static_assert(std::is_default_constructible_v<T>,
                "task<T>::async_get needs a T that can be default constructed: it stands beside an error");
  using type = void(std::exception_ptr, T);
};
template <>
struct ValueSignature<void> {
  using type = void(std::exception_ptr);
};

/// Turns a handler of the outcome into one of a wait. The value is taken when it is called, and not when the wait was cut short.
template <typename State, typename T, typename Handler>
struct ValueHandler {
  Handler handler;
  std::shared_ptr<State> state;
  std::shared_ptr<void> guard;
  void operator()(boost::system::error_code error) {
    // A process that nobody else holds goes with its guard: not ahead of the look at its outcome.
    auto from = std::move(state);
    auto keep = std::move(guard);
    std::exception_ptr failure;
    if (error) failure = wait_error(error);
    if constexpr (std::is_void_v<T>) {
      if (!failure) failure = from->error();
      from.reset();
      keep.reset();
      std::move(handler)(std::move(failure));
    } else {
      std::optional<T> value;
      try {
        if (!failure) value.emplace(State::take(std::move(from)));
      } catch (...) {
        failure = std::current_exception();
      }
      from.reset();
      keep.reset();
      std::move(handler)(std::move(failure), value ? std::move(*value) : T());
    }
  }
};

/// What begins a wait for the value.
template <typename State, typename T>
struct ValueInitiation : WaitInitiation<State> {
  template <typename Handler>
  void operator()(Handler&& handler) const {
    using Wrapped = ValueHandler<State, T, std::decay_t<Handler>>;
    add_waiter(*this->state, Wrapped{std::forward<Handler>(handler), this->state, this->guard}, this->guard);
  }
};

/// An already completed task<void> that all share, so that the common case of `write` allocates nothing.
[[nodiscard]] CWSANDBOX_EXPORT const std::shared_ptr<TaskState<void>>& completed_state();

[[nodiscard]] CWSANDBOX_EXPORT std::exception_ptr abandoned_error();
[[nodiscard]] CWSANDBOX_EXPORT std::exception_ptr cancelled_error();
[[noreturn]] CWSANDBOX_EXPORT void throw_timeout();
[[noreturn]] CWSANDBOX_EXPORT void throw_empty();
/// Throws std::invalid_argument for a null pointer, which would be an error that is none.
CWSANDBOX_EXPORT void check_error(const std::exception_ptr& error);

/// Lets the integration with Asio recognise a task of any kind.
class TaskTag {};

template <typename State>
class ResumeAwaiter {
 public:
  ResumeAwaiter(std::shared_ptr<State> state, std::shared_ptr<void> guard) : state_(std::move(state)), guard_(std::move(guard)) {}
  [[nodiscard]] bool await_ready() const noexcept { return state_->done(); }
  [[nodiscard]] bool await_suspend(std::coroutine_handle<> coroutine) { return state_->add_resumer(coroutine); }
  auto await_resume() { return State::take(std::move(state_)); }

 private:
  std::shared_ptr<State> state_;
  std::shared_ptr<void> guard_;
};

}  // namespace detail

/// An operation under way. It runs whether or not anybody waits; copies share one result, which may be asked for any
/// number of times, by any number of waiters of any kind, from any thread (OR-1 to OR-8).
///
/// \par Waiting
/// - `result()` blocks. Where that would never end it throws `std::logic_error` instead: on a thread that must do the work itself,
///   and when the work is done on a caller's executor and this is the process's only thread.
/// - `co_await task` works in `asio::awaitable` (include <cwsandbox/asio.hpp>, part of <cwsandbox/cwsandbox.hpp>) and resumes on
/// the
///   awaiter's executor; in a coroutine without an executor it resumes on the completing thread.
/// - `async_wait(token)` takes any completion token with the signature `void(error_code)`, then `get()` gives the value.
///   The error_code only tells whether the wait itself was cut short (`operation_aborted`), which a wait that is cancelled before
///   its handler has run always is.
/// - `async_get(token)` is the same with the value: `void(std::exception_ptr, T)`, for `use_future`, `||`, groups and so on.
/// - A wait of any kind, and what begins one later (`deferred`), keeps what it waits for: the process of a `Process` that was a
///   temporary goes on until the wait is over.
///
/// \par Cancellation
/// Cancelling a wait (its cancellation slot, a timeout) drops that wait and nothing else. `cancel()` cancels the operation.
///
/// \par Thread safety
/// Distinct objects: safe, also when they share an operation. Shared objects: safe for const calls.
///
/// Source: the published client's OperationRef; conformance OR-*.
template <typename T>
class task : public detail::TaskTag {
 public:
  /// What it gives.
  using value_type = T;
  /// For the library's own parts.
  using state_type = detail::TaskState<T>;

 private:
  using Initiation = detail::WaitInitiation<state_type>;

 public:
  task() noexcept = default;  ///< empty: to be assigned to. Whatever waits for it throws std::invalid_argument
  /// For producers: see task_source. `guard` lives as long as any handle does.
  explicit task(std::shared_ptr<state_type> state, std::shared_ptr<void> guard = nullptr) noexcept
      : state_(std::move(state)), guard_(std::move(guard)) {}

  /// Whether it is a task at all.
  [[nodiscard]] bool valid() const noexcept { return state_ != nullptr; }
  /// Whether it has completed, never blocks.
  [[nodiscard]] bool done() const noexcept { return state_ && state_->done(); }
  /// The exception it ended with, as thrown; null while it is under way or when it succeeded.
  [[nodiscard]] std::exception_ptr error() const noexcept { return state_ ? state_->error() : nullptr; }

  /// Blocks until it completes; returns its value or rethrows its exception, every time (OR-1, OR-3).
  /// \throws std::logic_error where it would never end (EV-2): see above.
  decltype(auto) result() const& {
    (void)checked()->wait(std::nullopt);
    return static_cast<const state_type&>(*state_).value();
  }
  /// The same for a task that is given up: moves the value out where nobody else can ask for it.
  T result() && {
    (void)checked()->wait(std::nullopt);
    return state_type::take(std::move(state_));
  }
  /// The same with a limit on the wait.
  /// \throws TimeoutError when `timeout` passes first; the operation goes on and may be asked again (OR-2).
  template <typename Rep, typename Period>
  decltype(auto) result(std::chrono::duration<Rep, Period> timeout) const& {
    wait_for(timeout);
    return static_cast<const state_type&>(*state_).value();
  }
  /// Likewise, with a limit.
  template <typename Rep, typename Period>
  T result(std::chrono::duration<Rep, Period> timeout) && {
    wait_for(timeout);
    return state_type::take(std::move(state_));
  }
  /// The value of a completed task (after `async_wait`), or its exception.
  /// \throws std::logic_error while it is under way.
  decltype(auto) get() const {
    if (!done()) throw std::logic_error("cwsandbox: task::get() before the task has completed");
    return static_cast<const state_type&>(*state_).value();
  }

  /// Cancels the operation. True if that took effect, false once it had completed (OR-7).
  bool cancel() const { return checked()->cancel(); }

  /// Completes with `void(error_code)` when the task has completed. Cancellation of the wait: terminal, partial and total; gives
  /// `operation_aborted` and leaves no trace.
  template <typename CompletionToken>
  auto async_wait(CompletionToken&& token) const {
    return asio::async_initiate<CompletionToken, void(boost::system::error_code)>(Initiation{checked(), guard_}, token);
  }
  /// Completes with `void(std::exception_ptr, T)`, or `void(std::exception_ptr)` for task<void>, when the task has completed: its
  /// value as `co_await task` gives it, or its error and a T that was default constructed, which every T must allow. Everything
  /// else is as with `async_wait`: a wait that was cancelled before its handler has run takes nothing (SR-14), and its error is
  /// then `boost::system::system_error` with `operation_aborted`, while CancelledError means that the operation was cancelled.
  template <typename CompletionToken>
  auto async_get(CompletionToken&& token) const {
    using Get = detail::ValueInitiation<state_type, T>;
    return asio::async_initiate<CompletionToken, typename detail::ValueSignature<T>::type>(Get{{checked(), guard_}}, token);
  }
  /// A task is itself an asynchronous operation of Asio's kind.
  template <typename CompletionToken>
  auto operator()(CompletionToken&& token) const
      -> decltype(asio::async_initiate<CompletionToken, void(boost::system::error_code)>(std::declval<Initiation>(), token)) {
    return async_wait(std::forward<CompletionToken>(token));
  }

  /// For a coroutine without an executor: resumes on the completing thread.
  [[nodiscard]] auto operator co_await() const& { return detail::ResumeAwaiter<state_type>(checked(), guard_); }
  /// Likewise, for a task that is given up.
  [[nodiscard]] auto operator co_await() && {
    static_cast<void>(checked());
    return detail::ResumeAwaiter<state_type>(std::move(state_), guard_);
  }

  /// For the library's own parts.
  [[nodiscard]] const std::shared_ptr<state_type>& state() const& noexcept { return state_; }
  /// For the library's own parts.
  [[nodiscard]] std::shared_ptr<state_type> state() && noexcept { return std::move(state_); }
  /// For the library's own parts.
  [[nodiscard]] const std::shared_ptr<void>& guard() const noexcept { return guard_; }

 private:
  [[nodiscard]] const std::shared_ptr<state_type>& checked() const {
    if (!state_) detail::throw_empty();
    return state_;
  }
  template <typename Rep, typename Period>
  void wait_for(std::chrono::duration<Rep, Period> timeout) const {
    // A timeout that does not fit the clock means for ever.
    using Clock = std::chrono::steady_clock;
    const auto now = Clock::now();
    const auto most = std::chrono::duration<double>(Clock::time_point::max() - now).count();
    const double seconds = std::chrono::duration<double>(timeout).count();
    detail::check_time_limit(seconds);
    detail::Deadline deadline;
    if (seconds <= 0)
      deadline = now;
    else if (seconds < most / 2)
      deadline = now + std::chrono::duration_cast<Clock::duration>(timeout);
    if (!checked()->wait(deadline)) detail::throw_timeout();
  }

  std::shared_ptr<state_type> state_;
  std::shared_ptr<void> guard_;
};

/// The published client's name for the same thing.
template <typename T>
using OperationRef = task<T>;

/// The producer's end of a task: for sources and fakes of your own.
///
/// \par Thread safety
/// Shared objects: safe. The first completion wins; later ones return false. When the last copy of an uncompleted source goes
/// away, the task ends with CancelledError.
template <typename T>
class task_source {
 public:
  /// A task under way; waiters without an executor are served on `loop`.
  explicit task_source(const LoopManager& loop = LoopManager())
      : state_(std::make_shared<detail::TaskState<T>>(loop.loop())), broken_(std::make_shared<Broken>(state_)) {}

  /// The consumer's end; copies share it.
  [[nodiscard]] task<T> get_task() const { return task<T>(state_); }
  /// Completes the task with a value made from `args`. False: it had completed.
  template <typename... Args>
  bool set_value(Args&&... args) const {
    return state_->set_value(std::forward<Args>(args)...);
  }
  /// Completes the task with an error. False: it had completed.
  /// \throws std::invalid_argument for a null pointer.
  bool set_exception(std::exception_ptr error) const {
    detail::check_error(error);
    if (!state_->claim()) return false;
    state_->publish(std::move(error));
    return true;
  }
  /// What `cancel()` does; true means that it took effect. Without a hook the task ends with CancelledError at once.
  void on_cancel(std::function<bool()> hook) const { state_->set_cancel_hook(std::move(hook)); }
  /// Called once when somebody first waits for the task.
  void on_wait(std::function<void()> hook) const { state_->set_wait_hook(std::move(hook)); }
  /// For the library's own parts.
  [[nodiscard]] const std::shared_ptr<detail::TaskState<T>>& state() const noexcept { return state_; }

 private:
  struct Broken {
    explicit Broken(std::shared_ptr<detail::TaskState<T>> s) : state(std::move(s)) {}
    Broken(const Broken&) = delete;
    Broken& operator=(const Broken&) = delete;
    ~Broken() {
      if (state->claim()) state->publish(detail::abandoned_error());
    }
    std::shared_ptr<detail::TaskState<T>> state;
  };
  std::shared_ptr<detail::TaskState<T>> state_;
  std::shared_ptr<Broken> broken_;
};

/// A task that has completed.
template <typename T>
[[nodiscard]] task<std::decay_t<T>> make_ready_task(T&& value, const LoopManager& loop = LoopManager()) {
  auto state = std::make_shared<detail::TaskState<std::decay_t<T>>>(loop.loop());
  state->set_value(std::forward<T>(value));
  return task<std::decay_t<T>>(std::move(state));
}
/// The same for void.
[[nodiscard]] inline task<void> make_ready_task() { return task<void>(detail::completed_state()); }

}  // namespace cwsandbox

namespace boost::asio {

/// What is associated with a handler of a value (executor, allocator, cancellation slot) is associated with its wait.
template <template <typename, typename> class Associator, typename State, typename T, typename Handler, typename DefaultCandidate>
struct associator<Associator, cwsandbox::detail::ValueHandler<State, T, Handler>, DefaultCandidate>
    : Associator<Handler, DefaultCandidate> {
  static auto get(const cwsandbox::detail::ValueHandler<State, T, Handler>& handler) noexcept {
    return Associator<Handler, DefaultCandidate>::get(handler.handler);
  }
  static auto get(const cwsandbox::detail::ValueHandler<State, T, Handler>& handler, const DefaultCandidate& candidate) noexcept {
    return Associator<Handler, DefaultCandidate>::get(handler.handler, candidate);
  }
};

}  // namespace boost::asio
