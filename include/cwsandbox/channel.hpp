/// \file
/// Channel: a bounded queue between a producer and one consumer, the ground of StreamReader and StreamWriter.
#pragma once

#include <cwsandbox/task.hpp>

#include <deque>
#include <mutex>

namespace cwsandbox {

namespace detail {

/// What a StreamReader reads from. One consumer; `poll` and `arm` are called by it alone, `close` by anybody.
template <typename T>
class Source {
 public:
  virtual ~Source() = default;
  enum class Poll { item, end, pending };
  /// Takes the next item without waiting. Throws the stream's error once, after the last item; then it is at its end.
  [[nodiscard]] virtual Poll poll(std::optional<T>& item) = 0;
  /// Calls `wake` once, from any thread, as soon as `poll` would say something else than pending (perhaps at once).
  virtual void arm(std::function<void()> wake) = 0;
  /// Ends the stream for the consumer; what is unread is dropped; a waiting consumer is woken.
  virtual void close() = 0;
  /// Somebody reads: called before each read.
  virtual void on_read() {}
};

}  // namespace detail

/// A bounded queue of items, closed by an end or an error: what a StreamReader of your own reads from.
///
/// \par Thread safety
/// Shared objects: safe; one consumer.
template <typename T>
class Channel final : public detail::Source<T> {
 public:
  using typename detail::Source<T>::Poll;

  /// An empty queue, whose waiting senders are served on `loop`.
  /// \param capacity items that fit before `send` waits; at least 1.
  /// \param on_close called once when the consumer closes the stream (SR-5).
  explicit Channel(std::size_t capacity = 16, LoopManager loop = LoopManager(), std::function<void()> on_close = nullptr)
      : capacity_(capacity == 0 ? 1 : capacity), loop_(std::move(loop)), on_close_(std::move(on_close)) {}

  /// Queues an item; the task completes when it is queued. Items keep their order.
  /// After `finish`, `fail` or `close` the item is dropped and the task says SandboxExecutionError.
  task<void> send(T item) {
    std::unique_lock lock(mutex_);
    if (ended_ || closed_) return refused();
    if (items_.size() < capacity_ && waiting_.empty()) {
      items_.push_back(std::move(item));
      wake(lock);
      return make_ready_task();
    }
    waiting_.emplace_back(std::move(item), task_source<void>(loop_));
    return waiting_.back().second.get_task();
  }
  /// Queues an item if it fits now. False: it did not, or the stream has ended, and the item is as it was.
  bool try_send(T& item) {
    std::unique_lock lock(mutex_);
    if (ended_ || closed_ || !waiting_.empty() || items_.size() >= capacity_) return false;
    items_.push_back(std::move(item));
    wake(lock);
    return true;
  }
  /// The end, after everything queued.
  void finish() {
    std::unique_lock lock(mutex_);
    ended_ = true;
    wake(lock);
  }
  /// An error, after everything queued (SR-3).
  void fail(std::exception_ptr error) {
    std::unique_lock lock(mutex_);
    if (ended_) return;
    ended_ = true;
    error_ = std::move(error);
    wake(lock);
  }

  /// For the StreamReader: takes the next item without waiting.
  Poll poll(std::optional<T>& item) override {
    std::unique_lock lock(mutex_);
    if (closed_) return Poll::end;
    if (!items_.empty()) {
      item.emplace(std::move(items_.front()));
      items_.pop_front();
      if (!waiting_.empty()) {
        items_.push_back(std::move(waiting_.front().first));
        auto source = std::move(waiting_.front().second);
        waiting_.pop_front();
        lock.unlock();
        source.set_value();
      }
      return Poll::item;
    }
    if (!ended_) return Poll::pending;
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    return Poll::end;
  }
  /// For the StreamReader: calls once as soon as there is something.
  void arm(std::function<void()> wake_consumer) override {
    {
      std::unique_lock lock(mutex_);
      if (items_.empty() && !ended_ && !closed_) {
        wake_ = std::move(wake_consumer);
        return;
      }
    }
    wake_consumer();
  }
  /// For the StreamReader: nobody reads on.
  void close() override {
    std::unique_lock lock(mutex_);
    if (closed_) return;
    closed_ = true;
    items_.clear();
    auto waiting = std::exchange(waiting_, {});
    auto hook = std::exchange(on_close_, nullptr);
    wake(lock);
    if (lock.owns_lock()) lock.unlock();
    for (auto& [item, source] : waiting) source.set_exception(closed_error());
    if (hook) hook();
  }

 private:
  static std::exception_ptr closed_error() {
    return std::make_exception_ptr(SandboxExecutionError("Cannot send: the stream is closed"));
  }
  task<void> refused() {
    task_source<void> source(loop_);
    source.set_exception(closed_error());
    return source.get_task();
  }
  void wake(std::unique_lock<std::mutex>& lock) {
    auto wake_consumer = std::exchange(wake_, nullptr);
    lock.unlock();
    if (wake_consumer) wake_consumer();
  }

  std::mutex mutex_;
  std::size_t capacity_;
  LoopManager loop_;
  std::deque<T> items_;
  std::deque<std::pair<T, task_source<void>>> waiting_;
  std::function<void()> wake_, on_close_;
  std::exception_ptr error_;
  bool ended_ = false, closed_ = false;
};

}  // namespace cwsandbox
