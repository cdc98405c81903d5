#include <cwsandbox/stream_writer.hpp>

#include "core/encoding.hpp"

#include <algorithm>
#include <atomic>
#include <deque>
#include <list>
#include <mutex>
#include <stdexcept>
#include <thread>

namespace cwsandbox {

namespace {

std::exception_ptr failed_with(const std::exception_ptr& cause) {
  try {
    std::rethrow_exception(cause);
  } catch (...) {
    try {
      std::throw_with_nested(SandboxExecutionError("Cannot write to stdin: stream has failed"));
    } catch (...) {
      return std::current_exception();
    }
  }
}

}  // namespace

struct ByteChannel::Impl : std::enable_shared_from_this<ByteChannel::Impl> {
  Impl(std::size_t s, LoopManager l) : slots(s == 0 ? 1 : s), loop(std::move(l)) {}

  /// A write or close that waits for room; `data` from `offset` on is not queued yet.
  struct Waiting {
    Waiting(std::string d, std::uint64_t first, bool end, std::shared_ptr<detail::TaskState<void>> t)
        : data(std::move(d)), begin(first), is_end(end), task(std::move(t)) {}
    std::string data;
    std::uint64_t begin;  // of its first byte, in what was given to write
    std::size_t offset = 0;
    bool is_end;
    std::shared_ptr<detail::TaskState<void>> task;
  };
  struct Flush {
    std::uint64_t offset;  // done when this many bytes are acknowledged
    std::shared_ptr<detail::TaskState<void>> task;
  };
  using Tasks = std::vector<std::shared_ptr<detail::TaskState<void>>>;

  const std::size_t slots;
  const LoopManager loop;
  std::mutex mutex;
  std::deque<std::string> queue;  // each at most SLOT_SIZE: one slot
  std::list<Waiting> waiting;
  std::list<Flush> flushes;
  std::uint64_t accepted = 0;  // bytes given to write since the start
  std::uint64_t acknowledged = 0;
  std::function<void()> wake;
  std::exception_ptr failure;  // as writers get it
  std::shared_ptr<detail::TaskState<void>> close_task;
  std::weak_ptr<Received> received;  // the last receive()
  // It holds a chunk that nobody has looked at. When it is not there any more all the same, its end is under way elsewhere.
  std::atomic<bool> held{false};
  bool end_queued = false, closed = false;

  void check_writable() const {
    if (failure) std::rethrow_exception(failure);
    if (closed) throw SandboxExecutionError("Cannot write to stdin: stream is closed");
  }

  /// Moves what fits from the waiting writes into the queue; completed ones go to `done`.
  void admit(Tasks& done) {
    while (!waiting.empty()) {
      auto& first = waiting.front();
      if (first.is_end) {
        end_queued = true;
      } else {
        while (first.offset < first.data.size() && queue.size() < slots) {
          const std::size_t n = std::min(first.data.size() - first.offset, SLOT_SIZE);
          if (n == first.data.size()) {
            queue.push_back(std::exchange(first.data, {}));
            first.offset = 0;
          } else {
            queue.emplace_back(first.data, first.offset, n);
            first.offset += n;
          }
        }
        if (first.offset < first.data.size()) return;
      }
      done.push_back(std::move(first.task));
      waiting.pop_front();
    }
  }

  static void complete(const Tasks& tasks) {
    for (const auto& task : tasks) task->set_value();
  }

  task<void> write(std::string data) {
    Tasks done;
    std::function<void()> to_wake;
    task<void> result;
    {
      std::lock_guard lock(mutex);
      check_writable();
      if (data.empty()) return make_ready_task();
      const std::uint64_t begin = std::exchange(accepted, accepted + data.size());
      if (waiting.empty() && data.size() <= SLOT_SIZE && queue.size() < slots) {
        queue.push_back(std::move(data));
        result = make_ready_task();
      } else {
        auto state = std::make_shared<detail::TaskState<void>>(loop.loop());
        state->set_cancel_hook([weak = weak_from_this(), task = state.get()] {
          const auto self = weak.lock();
          return self && self->withdraw(task);
        });
        waiting.emplace_back(std::move(data), begin, false, state);
        result = task<void>(std::move(state));
        admit(done);
      }
      to_wake = std::exchange(wake, nullptr);
    }
    complete(done);
    if (to_wake) to_wake();
    return result;
  }

  bool withdraw(const detail::TaskState<void>* task) {
    std::shared_ptr<detail::TaskState<void>> withdrawn;
    Tasks done;
    {
      std::lock_guard lock(mutex);
      const auto it = std::find_if(waiting.begin(), waiting.end(), [&](const Waiting& w) { return w.task.get() == task; });
      if (it == waiting.end() || it->offset > 0) return false;
      // What was written behind it moves up, and so does where flushes wait for.
      const std::uint64_t begin = it->begin, size = it->data.size();
      accepted -= size;
      withdrawn = std::move(it->task);
      for (auto behind = waiting.erase(it); behind != waiting.end(); ++behind) behind->begin -= size;
      for (auto& flush : flushes)
        if (flush.offset > begin) flush.offset -= size;
      take_flushed(done);
    }
    complete(done);
    if (!withdrawn->claim()) return false;
    withdrawn->publish(std::make_exception_ptr(CancelledError("The write was withdrawn")));
    return true;
  }

  /// Flushes whose bytes the peer has; their order is that of their offsets.
  void take_flushed(Tasks& done) {
    while (!flushes.empty() && flushes.front().offset <= acknowledged) {
      done.push_back(std::move(flushes.front().task));
      flushes.pop_front();
    }
  }

  task<void> close() {
    Tasks done;
    std::function<void()> to_wake;
    task<void> result;
    {
      std::lock_guard lock(mutex);
      closed = true;
      if (failure || end_queued) return make_ready_task();
      if (!close_task) {
        close_task = std::make_shared<detail::TaskState<void>>(loop.loop());
        // The end of the stream is not taken back: that would leave the peer waiting for it.
        close_task->set_cancel_hook([] { return false; });
        waiting.emplace_back(std::string(), accepted, true, close_task);
        admit(done);
        to_wake = std::exchange(wake, nullptr);
      }
      result = task<void>(close_task);
    }
    complete(done);
    if (to_wake) to_wake();
    return result;
  }

  task<void> flush() {
    std::lock_guard lock(mutex);
    if (acknowledged >= accepted) return make_ready_task();
    if (failure) std::rethrow_exception(failure);
    auto state = std::make_shared<detail::TaskState<void>>(loop.loop());
    flushes.push_back({accepted, state});
    return task<void>(std::move(state));
  }

  void fail(const std::exception_ptr& error) {
    std::list<Waiting> stuck;
    std::list<Flush> unflushed;
    std::exception_ptr for_writers;
    Tasks ended;
    {
      std::lock_guard lock(mutex);
      failure = for_writers = failed_with(error);
      stuck.swap(waiting);
      unflushed.swap(flushes);
      queue.clear();
    }
    for (auto& write : stuck) {
      if (write.is_end)
        write.task->set_value();  // close never throws (SW-13)
      else if (write.task->claim())
        write.task->publish(for_writers);
    }
    for (auto& one : unflushed)
      if (one.task->claim()) one.task->publish(for_writers);
  }

  /// Puts a chunk that was taken in front again.
  void give_back(std::string chunk);

  Poll try_receive(std::string& chunk) {
    Tasks done;
    {
      std::lock_guard lock(mutex);
      if (queue.empty()) return end_queued ? Poll::end : Poll::pending;
      chunk = std::move(queue.front());
      queue.pop_front();
      admit(done);
    }
    complete(done);
    return Poll::chunk;
  }
};

ByteChannel::ByteChannel(std::size_t slots, LoopManager loop) : impl_(std::make_shared<Impl>(slots, std::move(loop))) {}
ByteChannel::~ByteChannel() = default;

ByteChannel::Poll ByteChannel::try_receive(std::string& chunk) { return impl_->try_receive(chunk); }

void ByteChannel::arm(std::function<void()> wake) {
  {
    std::lock_guard lock(impl_->mutex);
    if (impl_->queue.empty() && !impl_->end_queued) {
      impl_->wake.swap(wake);  // an old one goes outside the lock
      return;
    }
  }
  wake();
}

void ByteChannel::acknowledge(std::uint64_t bytes) {
  Impl::Tasks done;
  {
    std::lock_guard lock(impl_->mutex);
    impl_->acknowledged = std::max(impl_->acknowledged, bytes);
    impl_->take_flushed(done);
  }
  Impl::complete(done);
}

std::size_t ByteChannel::size() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->queue.size();
}

/// The task behind one receive(). One that goes without anybody having looked at it gives its chunk back.
class ByteChannel::Received final : public detail::TaskState<std::optional<std::string>> {
 public:
  explicit Received(std::shared_ptr<ByteChannel::Impl> channel) : TaskState(channel->loop.loop()), channel_(std::move(channel)) {}
  ~Received() override {
    if (!holds_unseen()) return;
    try {
      channel_->give_back(std::move(**value_));
    } catch (...) {  // out of memory
    }
  }
  Received(const Received&) = delete;
  Received& operator=(const Received&) = delete;
  [[nodiscard]] bool holds_unseen() const noexcept { return done() && !looked_at() && value_ && *value_; }

  /// Completes it with a chunk, or the end, after a claim.
  void give(std::optional<std::string> chunk) {
    if (chunk) channel_->held = true;
    store(std::move(chunk));
  }
  std::atomic<bool> moving{false};  // claimed for a chunk

 private:
  void first_look() const override { channel_->held = false; }
  const std::shared_ptr<ByteChannel::Impl> channel_;
};

void ByteChannel::Impl::give_back(std::string chunk) {
  std::function<void()> to_wake;
  {
    std::lock_guard lock(mutex);
    held = false;
    if (failure) return;
    queue.push_front(std::move(chunk));
    to_wake = std::exchange(wake, nullptr);
  }
  if (to_wake) to_wake();
}

task<std::optional<std::string>> ByteChannel::receive() {
  auto state = std::make_shared<Received>(impl_);
  for (;; std::this_thread::yield()) {
    std::shared_ptr<Received> last;  // ends outside the lock
    std::lock_guard lock(impl_->mutex);
    last = impl_->received.lock();
    if (last && (last->done() ? last->holds_unseen() : last->moving.load())) return task<std::optional<std::string>>(last);
    if (!last && impl_->held) continue;
    impl_->received = state;
    break;
  }
  // Weak both: the channel keeps this, and one that is given up while somebody waits must not keep itself. Claimed before the chunk
  // is taken: a receive() that was given up leaves it in the channel.
  arm([channel = std::weak_ptr(impl_)] {
    const auto impl = channel.lock();
    if (!impl) return;
    std::shared_ptr<Received> waiting;  // ends outside the lock
    {
      std::lock_guard lock(impl->mutex);
      waiting = impl->received.lock();
      if (!waiting || !waiting->claim()) return;
      waiting->moving = true;
    }
    std::string chunk;
    if (impl->try_receive(chunk) == Poll::chunk)
      waiting->give(std::move(chunk));
    else  // the end; or somebody else took the chunk, which breaks the contract of one consumer
      waiting->give(std::nullopt);
  });
  return task<std::optional<std::string>>(std::move(state));
}

StreamWriter::StreamWriter(std::shared_ptr<ByteChannel> channel, LoopManager, std::shared_ptr<void> guard)
    : channel_(std::move(channel)), guard_(std::move(guard)) {
  if (!channel_) throw std::invalid_argument("cwsandbox: the writer's channel is null");
}

bool StreamWriter::closed() const {
  std::lock_guard lock(channel_->impl_->mutex);
  return channel_->impl_->closed;
}

task<void> StreamWriter::kept(task<void> work) const { return task<void>(std::move(work).state(), guard_); }

task<void> StreamWriter::write(std::span<const std::byte> data) const {
  return kept(channel_->impl_->write(std::string(reinterpret_cast<const char*>(data.data()), data.size())));
}
task<void> StreamWriter::write(std::string_view data) const { return kept(channel_->impl_->write(std::string(data))); }
task<void> StreamWriter::write(const char* text) const {
  if (text == nullptr) throw std::invalid_argument("cwsandbox: the text to write is a null pointer");
  return write(std::string_view(text));
}
task<void> StreamWriter::write(std::string&& data) const { return kept(channel_->impl_->write(std::move(data))); }

task<void> StreamWriter::writeline(std::string_view text, const std::string& encoding) const {
  {
    std::lock_guard lock(channel_->impl_->mutex);
    channel_->impl_->check_writable();
  }
  std::string line(text);
  line += '\n';
  return kept(channel_->impl_->write(core::encode(line, encoding)));
}

task<void> StreamWriter::flush() const { return kept(channel_->impl_->flush()); }
task<void> StreamWriter::close() const { return kept(channel_->impl_->close()); }
void StreamWriter::set_exception(std::exception_ptr error) const {
  detail::check_error(error);
  channel_->impl_->fail(error);
}

}  // namespace cwsandbox
