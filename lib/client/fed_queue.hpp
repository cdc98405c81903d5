// A queue between what feeds it, on the loop, and the one reader of a stream.
#pragma once

#include <cwsandbox/stream_reader.hpp>

#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

namespace cwsandbox::client {

/// Holds entries and gives items: one entry may be many of them. Who derives from it says what fits, and takes entries apart.
template <typename Item, typename Entry>
class FedQueue : public detail::Source<Item> {
 public:
  using typename detail::Source<Item>::Poll;

  /// The end, or an error, after everything queued.
  void finish(std::exception_ptr error = nullptr) {
    std::function<void()> wake;
    {
      const std::lock_guard lock(mutex_);
      if (ended_) return;
      ended_ = true;
      error_ = std::move(error);
      wake = std::exchange(wake_, nullptr);
    }
    if (wake) wake();
  }

  Poll poll(std::optional<Item>& item) final {
    std::optional<task_source<void>> feeder;
    {
      const std::lock_guard lock(mutex_);
      if (closed_) return Poll::end;
      if (entries_.empty()) {
        if (!ended_) return Poll::pending;
        if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
        return Poll::end;
      }
      if (take(entries_, item)) feeder_.swap(feeder);
    }
    if (feeder) feeder->set_value();
    return Poll::item;
  }

  void arm(std::function<void()> wake) final {
    {
      const std::lock_guard lock(mutex_);
      if (entries_.empty() && !ended_ && !closed_) {
        wake_.swap(wake);  // an old one goes outside the lock
        return;
      }
    }
    wake();
  }

  void close() final {
    std::function<void()> wake, hook;
    std::deque<Entry> dropped;
    std::optional<task_source<void>> feeder;
    {
      const std::lock_guard lock(mutex_);
      if (closed_) return;
      closed_ = true;
      entries_.swap(dropped);
      feeder_.swap(feeder);
      wake = std::exchange(wake_, nullptr);
      hook = std::exchange(on_close_, nullptr);
    }
    if (wake) wake();
    if (feeder) feeder->set_value();
    if (hook) hook();
  }

 protected:
  /// \param on_close called once when the reader closes the stream.
  explicit FedQueue(std::function<void()> on_close) : on_close_(std::move(on_close)) {}

  /// Calls `put(entries)` under the lock, unless nobody wants any more, and wakes the reader where it says true.
  template <typename Put>
  void feed(Put put) {
    std::function<void()> wake;
    {
      const std::lock_guard lock(mutex_);
      if (closed_ || ended_) return;
      if (put(entries_)) wake = std::exchange(wake_, nullptr);
    }
    if (wake) wake();
  }

  /// Completes when `take` says that there is room again; at once where `full` says, under the lock, that there is. One at a time.
  template <typename Full>
  [[nodiscard]] task<void> room(const LoopManager& loop, Full full) {
    std::optional<task_source<void>> source(std::in_place, loop);
    const auto room = source->get_task();
    const std::lock_guard lock(mutex_);
    if (closed_ || !full()) return make_ready_task();
    feeder_.swap(source);  // an old one ends outside the lock
    return room;
  }

 private:
  /// Under the lock, where there is an entry: gives the first item of it. True: who waits for room is woken.
  virtual bool take(std::deque<Entry>& entries, std::optional<Item>& item) = 0;

  std::function<void()> on_close_, wake_;
  std::mutex mutex_;
  std::deque<Entry> entries_;
  std::optional<task_source<void>> feeder_;
  std::exception_ptr error_;
  bool ended_ = false, closed_ = false;
};

/// Ends a stream when nobody can read it any more, and keeps what it comes from until then.
template <typename State, typename Queue>
class QueueGuard {
 public:
  QueueGuard(std::shared_ptr<State> state, std::shared_ptr<Queue> queue) : state_(std::move(state)), queue_(std::move(queue)) {}
  QueueGuard(const QueueGuard&) = delete;
  QueueGuard& operator=(const QueueGuard&) = delete;
  ~QueueGuard() {
    try {
      queue_->close();
    } catch (...) {  // nothing runs any more that could be cancelled
    }
  }

 private:
  std::shared_ptr<State> state_;
  std::shared_ptr<Queue> queue_;
};

}  // namespace cwsandbox::client
