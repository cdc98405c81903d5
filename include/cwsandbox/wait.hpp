/// \file
/// Several operations at once: results(), settle() and wait().
#pragma once

#include <cwsandbox/process.hpp>
#include <cwsandbox/sandbox.hpp>

#include <cstddef>
#include <mutex>
#include <stdexcept>
#include <type_traits>
#include <vector>

namespace cwsandbox {

/// Something to wait for: a task of anything, a process, or a sandbox (until it runs). Keeps it alive.
///
/// \par Thread safety
/// Distinct objects: safe. Shared objects: safe for const calls.
class CWSANDBOX_EXPORT WaitItem {
 public:
  /// A task of anything: waited for until it is complete.
  template <typename T>
  WaitItem(const task<T>& item)  // NOLINT(google-explicit-constructor): so that a list may mix them
      : state_(item.state()), guard_(item.guard()) {
    check();
  }
  /// A process: until it has ended.
  WaitItem(const Process& item);  // NOLINT(google-explicit-constructor)
  /// A sandbox: until it runs.
  WaitItem(const Sandbox& item);  // NOLINT(google-explicit-constructor)

  /// The sandbox that it was made from; null where it was something else.
  [[nodiscard]] const Sandbox* sandbox() const noexcept { return sandbox_.get(); }
  /// The process that it was made from; null where it was something else.
  [[nodiscard]] const Process* process() const noexcept { return process_.get(); }

  /// For the library's own parts: what completes. A sandbox starts to be waited for.
  [[nodiscard]] std::shared_ptr<detail::TaskStateBase> begin() const;

 private:
  void check() const;
  std::shared_ptr<detail::TaskStateBase> state_;
  std::shared_ptr<void> guard_;
  std::shared_ptr<const Sandbox> sandbox_;
  std::shared_ptr<const Process> process_;
};

/// What `wait` found. The objects are the caller's own, in the order of the list.
template <typename Item>
class WaitResult {
 public:
  WaitResult() {}
  std::vector<Item> done;                    ///< completed, with a value or an error: nothing is thrown for it (UT-5)
  std::vector<Item> pending;                 ///< the rest
  std::vector<std::size_t> done_indices;     ///< where those that are done stand in the list
  std::vector<std::size_t> pending_indices;  ///< where the rest stand
};

/// How long to wait, and for how many.
class CWSANDBOX_EXPORT WaitManyOptions {
 public:
  WaitManyOptions() {}
  /// As many as this; at least 1, more than there are means all. Unset: all.
  WaitManyOptions& with_num_returns(std::size_t count) & { return num_returns_ = count, *this; }
  /// One deadline over all (UT-8). What has not completed by then is pending; that is no error. One that has passed, a negative
  /// one, is as good as 0.
  WaitManyOptions& with_timeout(Duration timeout) & {
    const auto left = timeout < Duration::zero() ? Duration::zero() : timeout;
    return timeout_ = detail::to_milliseconds(left, "timeout"), *this;
  }
  WaitManyOptions&& with_num_returns(std::size_t count) && { return std::move(with_num_returns(count)); }
  WaitManyOptions&& with_timeout(Duration timeout) && { return std::move(with_timeout(timeout)); }
  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] const std::optional<std::size_t>& num_returns() const noexcept { return num_returns_; }
  [[nodiscard]] const std::optional<std::chrono::milliseconds>& timeout() const noexcept { return timeout_; }
  ///@}

 private:
  std::optional<std::size_t> num_returns_;
  std::optional<std::chrono::milliseconds> timeout_;
};

namespace detail {

/// Completes with the indices of those that completed first, in the order of the list.
[[nodiscard]] CWSANDBOX_EXPORT task<std::vector<std::size_t>> wait_many(const std::vector<WaitItem>& items,
                                                                        const WaitManyOptions& options);

/// The value of `from` for whoever asked for `to`: made when it is there. Cancelling `to` drops that and cancels `from`, which must
/// be nobody else's.
template <typename From, typename Make>
auto map_task(task<From> from, Make make) {
  using To = std::invoke_result_t<Make, const task<From>&>;
  auto state = std::make_shared<TaskState<To>>(from.state()->loop());
  state->set_cancel_hook([from, weak = std::weak_ptr(state)] {
    const auto self = weak.lock();
    if (!self || !self->claim()) return false;
    self->publish(cancelled_error());
    static_cast<void>(from.cancel());
    return true;
  });
  from.state()->add_waiter([from, state, make = std::move(make)] {
    if (!state->claim()) return;
    try {
      if constexpr (std::is_void_v<To>) {
        make(from);
        state->publish(nullptr);
      } else {
        state->store(make(from));
      }
    } catch (...) {
      state->publish(std::current_exception());
    }
  });
  return task<To>(std::move(state));
}

template <typename Item>
std::vector<WaitItem> wait_items(const std::vector<Item>& items) {
  return std::vector<WaitItem>(items.begin(), items.end());
}

/// Takes the values when somebody looks at them: what nobody has looked at, a stream's item say, stays where it is.
template <typename T>
class ResultsState final : public TaskState<std::vector<T>> {
 public:
  using TaskState<std::vector<T>>::TaskState;
  void complete(std::vector<std::shared_ptr<TaskState<T>>> sources) {
    sources_ = std::move(sources);
    this->publish(nullptr);
  }

 private:
  void first_look() const override {
    const std::lock_guard lock(mutex_);
    if (sources_.empty()) return;
    std::vector<T> values;
    values.reserve(sources_.size());
    for (auto& source : sources_) values.push_back(TaskState<T>::take(std::move(source)));
    sources_.clear();
    this->value_.emplace(std::move(values));
  }
  mutable std::mutex mutex_;
  mutable std::vector<std::shared_ptr<TaskState<T>>> sources_;
};

/// Waits for one after the other, in the order of the list: the first failure there is the one that counts (UT-2).
template <typename Item>
class InOrder : public std::enable_shared_from_this<InOrder<Item>> {
 public:
  using T = typename Item::value_type;
  using Result = std::conditional_t<std::is_void_v<T>, void, std::vector<std::conditional_t<std::is_void_v<T>, char, T>>>;

  explicit InOrder(std::vector<Item> items)
      : items_(std::make_shared<std::vector<Item>>(std::move(items))),
        state_(std::make_shared<Results>(items_->front().state()->loop())) {}

  [[nodiscard]] task<Result> start() {
    state_->set_cancel_hook([weak = this->weak_from_this(), state = std::weak_ptr(state_)] {
      const auto task = state.lock();
      if (!task || !task->claim()) return false;
      if (const auto self = weak.lock()) static_cast<void>(self->take());
      task->publish(cancelled_error());
      return true;
    });
    auto result = task<Result>(state_);
    step();
    return result;
  }

 private:
  using Items = std::shared_ptr<std::vector<Item>>;
  using Results = std::conditional_t<std::is_void_v<T>, TaskState<void>, ResultsState<T>>;

  [[nodiscard]] Items take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(items_, nullptr);
  }

  void step() {
    Items items;
    {
      const std::lock_guard lock(mutex_);
      items = items_;
    }
    if (!items) return;  // cancelled
    for (; next_ < items->size(); ++next_) {
      const Item& item = (*items)[next_];
      if (!item.done()) {
        item.state()->add_waiter([self = this->shared_from_this()] { self->step(); }, item.guard());
        return;
      }
      if (const auto error = item.error()) {
        if (!state_->claim()) return;
        static_cast<void>(take());
        return state_->publish(error);
      }
    }
    if (!state_->claim()) return;
    static_cast<void>(take());
    try {
      if constexpr (std::is_void_v<T>) {
        state_->publish(nullptr);
      } else {
        std::vector<std::shared_ptr<TaskState<T>>> sources;
        sources.reserve(items->size());
        for (Item& item : *items) sources.push_back(std::move(item).state());
        state_->complete(std::move(sources));
      }
    } catch (...) {
      state_->publish(std::current_exception());
    }
  }

  std::mutex mutex_;
  Items items_;
  std::size_t next_ = 0;  // by the one who steps
  std::shared_ptr<Results> state_;
};

}  // namespace detail

/// The results of all, in the order of the list (UT-1). `items` are tasks of one type, or processes; `results(items).result()`
/// blocks, `co_await results(items)` does not.
///
/// \par Errors
/// The first failure in the order of the list, as soon as all before it have completed (UT-2). The others go on. To have every
/// outcome, `settle` them.
///
/// \par Cancellation
/// Drops the wait, not the operations.
template <typename Item, typename = typename Item::value_type>
[[nodiscard]] auto results(std::vector<Item> items) -> task<typename detail::InOrder<Item>::Result> {
  if (items.empty()) {
    if constexpr (std::is_void_v<typename Item::value_type>)
      return make_ready_task();
    else
      return make_ready_task(std::vector<typename Item::value_type>());
  }
  for (const Item& item : items)
    if (!item.valid()) throw std::invalid_argument("cwsandbox: results() of an empty task");
  auto all = std::make_shared<detail::InOrder<Item>>(std::move(items));
  return all->start();
}

/// The same: `results({p, q})`.
template <typename Item>
  requires std::is_base_of_v<detail::TaskTag, Item>
[[nodiscard]] auto results(std::initializer_list<Item> items) {
  return results(std::vector<Item>(items));
}

namespace detail {
template <typename T>
struct IsTaskVector : std::false_type {};
template <typename Item>
  requires std::is_base_of_v<TaskTag, Item>
struct IsTaskVector<std::vector<Item>> : std::true_type {};
}  // namespace detail

/// What cannot be waited for says so in one line.
template <typename... Items>
  requires(sizeof...(Items) != 1 || !(detail::IsTaskVector<std::remove_cvref_t<Items>>::value && ...))
void results(const Items&...) {
  static_assert(sizeof...(Items) < 0,  // NOLINT(bugprone-sizeof-expression)
                "cwsandbox::results: takes one list, of processes or of tasks of one type: results({p, q}), results(vector)");
}

/// Waits until `num_returns` of the items have completed, or the time is up, and says which (UT-3). `items` are sandboxes, tasks,
/// processes, or `WaitItem`s, which mix them. A sandbox is waited for until it runs, the rest until it is complete (UT-4).
///
/// Exactly `num_returns` are done, those that completed first; when more have, the rest counts as pending (UT-6).
/// \throws std::invalid_argument when `num_returns` is 0, also for an empty list; for an empty task or sandbox.
/// \par Cancellation
/// Drops the wait, not the operations.
template <typename Item>
[[nodiscard]] task<WaitResult<Item>> wait(std::vector<Item> items, WaitManyOptions options = WaitManyOptions()) {
  auto found = detail::wait_many(detail::wait_items(items), options);
  return detail::map_task(std::move(found), [items = std::move(items)](const task<std::vector<std::size_t>>& completed) {
    const auto& indices = completed.get();
    WaitResult<Item> result;
    for (std::size_t i = 0, next = 0; i < items.size(); ++i) {
      const bool is_done = next < indices.size() && indices[next] == i;
      if (is_done) ++next;
      (is_done ? result.done : result.pending).push_back(items[i]);
      (is_done ? result.done_indices : result.pending_indices).push_back(i);
    }
    return result;
  });
}
/// The same for items of several kinds: `wait({sandbox, process, task})`.
[[nodiscard]] CWSANDBOX_EXPORT task<WaitResult<WaitItem>> wait(std::initializer_list<WaitItem> items,
                                                               WaitManyOptions options = WaitManyOptions());

/// Waits until all have completed and gives them back: each holds its value or its error, and nothing is thrown for it.
/// \par Cancellation
/// Drops the wait, not the operations.
template <typename Item>
[[nodiscard]] task<std::vector<Item>> settle(std::vector<Item> items) {
  auto found = detail::wait_many(detail::wait_items(items), WaitManyOptions());
  return detail::map_task(std::move(found), [items = std::move(items)](const task<std::vector<std::size_t>>& completed) {
    static_cast<void>(completed.get());
    return items;
  });
}

}  // namespace cwsandbox
