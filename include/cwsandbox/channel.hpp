/// \file
/// Channel: a bounded queue between a producer and one consumer, the ground of StreamReader and StreamWriter.
#pragma once

#include <cwsandbox/task.hpp>

#include <deque>
#include <list>
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
  /// Where its first item stands in what it is a part of, in bytes. Final once there has been an item.
  [[nodiscard]] virtual std::uint64_t origin() const { return 0; }
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
      : state_(std::make_shared<State>(capacity, std::move(loop), std::move(on_close))) {}

  /// Queues an item; the task completes when it is queued. Items keep their order. `cancel()` on a task that waits withdraws the
  /// item; it is false once that has been queued.
  /// After `finish`, `fail` or `close` the item is dropped and the task says SandboxExecutionError.
  task<void> send(T item) { return state_->send(state_, std::move(item)); }
  /// Queues an item if it fits now. False: it did not, or the stream has ended, and the item is as it was.
  bool try_send(T& item) {
    std::unique_lock lock(state_->mutex);
    if (state_->over() || !state_->waiting.empty() || state_->items.size() >= state_->capacity) return false;
    state_->items.push_back(std::move(item));
    state_->wake_consumer(lock);
    return true;
  }
  /// The end, after everything queued.
  void finish() { end(nullptr); }
  /// An error, after everything queued (SR-3).
  /// \throws std::invalid_argument for a null pointer.
  void fail(std::exception_ptr error) {
    detail::check_error(error);
    end(std::move(error));
  }

  /// For the StreamReader: takes the next item without waiting.
  Poll poll(std::optional<T>& item) override {
    std::unique_lock lock(state_->mutex);
    if (state_->closed) return Poll::end;
    if (!state_->items.empty()) {
      item.emplace(std::move(state_->items.front()));
      state_->items.pop_front();
      state_->admit(lock);
      return Poll::item;
    }
    if (!state_->ended) return Poll::pending;
    if (state_->error) std::rethrow_exception(std::exchange(state_->error, nullptr));
    return Poll::end;
  }
  /// For the StreamReader: calls once as soon as there is something.
  void arm(std::function<void()> wake_consumer) override {
    {
      std::unique_lock lock(state_->mutex);
      if (state_->items.empty() && !state_->over()) {
        state_->wake.swap(wake_consumer);  // an old one goes outside the lock
        return;
      }
    }
    wake_consumer();
  }
  /// For the StreamReader: nobody reads on.
  void close() override {
    std::deque<T> dropped;
    std::list<Waiting> waiting;
    std::function<void()> hook;
    {
      std::unique_lock lock(state_->mutex);
      if (state_->closed) return;
      state_->closed = true;
      dropped.swap(state_->items);
      waiting.swap(state_->waiting);
      hook.swap(state_->on_close);
      state_->wake_consumer(lock);
    }
    for (auto& one : waiting)
      if (one.task->claim()) one.task->publish(closed_error());
    if (hook) hook();
  }

 private:
  using Sent = std::shared_ptr<detail::TaskState<void>>;
  /// An item that waits for room, and who is told when it has it.
  struct Waiting {
    Waiting(T i, Sent t) : item(std::move(i)), task(std::move(t)) {}
    T item;
    Sent task;
  };

  /// Apart from the channel, so that the task of a waiting send may outlive that.
  struct State {
    State(std::size_t c, LoopManager l, std::function<void()> hook)
        : capacity(c == 0 ? 1 : c), loop(std::move(l)), on_close(std::move(hook)) {}
    ~State() {
      for (auto& one : waiting)
        if (one.task->claim()) one.task->publish(detail::abandoned_error());
    }

    task<void> send(const std::shared_ptr<State>& self, T item) {
      std::unique_lock lock(mutex);
      if (over()) {
        lock.unlock();
        auto refused = std::make_shared<detail::TaskState<void>>(loop.loop());
        if (refused->claim()) refused->publish(closed_error());
        return task<void>(std::move(refused));
      }
      if (items.size() < capacity && waiting.empty()) {
        items.push_back(std::move(item));
        wake_consumer(lock);
        return make_ready_task();
      }
      auto sent = std::make_shared<detail::TaskState<void>>(loop.loop());
      sent->set_cancel_hook([weak = std::weak_ptr(self), task = sent.get()] {
        const auto state = weak.lock();
        return state && state->withdraw(task);
      });
      waiting.emplace_back(std::move(item), sent);
      return task<void>(std::move(sent));
    }
    bool withdraw(const detail::TaskState<void>* task) {
      std::list<Waiting> withdrawn;
      {
        std::unique_lock lock(mutex);
        for (auto it = waiting.begin(); it != waiting.end(); ++it)
          if (it->task.get() == task) {
            withdrawn.splice(withdrawn.end(), waiting, it);
            break;
          }
      }
      if (withdrawn.empty() || !withdrawn.front().task->claim()) return false;
      withdrawn.front().task->publish(detail::cancelled_error());
      return true;
    }
    /// Nothing is taken any more.
    [[nodiscard]] bool over() const noexcept { return ended || closed; }
    // These two unlock before they call anybody.
    void admit(std::unique_lock<std::mutex>& lock) {
      if (waiting.empty()) return;
      items.push_back(std::move(waiting.front().item));
      const auto sent = std::move(waiting.front().task);
      waiting.pop_front();
      lock.unlock();
      sent->set_value();
    }
    void wake_consumer(std::unique_lock<std::mutex>& lock) {
      auto consumer = std::exchange(wake, nullptr);
      lock.unlock();
      if (consumer) consumer();
    }

    std::mutex mutex;
    const std::size_t capacity;
    const LoopManager loop;
    std::deque<T> items;
    std::list<Waiting> waiting;
    std::function<void()> wake, on_close;
    std::exception_ptr error;
    bool ended = false, closed = false;
  };

  static std::exception_ptr closed_error() {
    return std::make_exception_ptr(SandboxExecutionError("Cannot send: the stream is closed"));
  }
  void end(std::exception_ptr error) {
    std::unique_lock lock(state_->mutex);
    if (state_->ended) return;
    state_->ended = true;
    state_->error = std::move(error);
    state_->wake_consumer(lock);
  }

  std::shared_ptr<State> state_;
};

}  // namespace cwsandbox
