#include "runner/work_queue.hpp"

#include <boost/asio/async_result.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "base/descriptor_limit.hpp"
#include "base/errno_text.hpp"
#include "runner/local/unique_fd.hpp"

namespace cwsandbox::runner {

/// Queues that have something to do take turns.
class Workers {
 public:
  static std::shared_ptr<Workers> shared(const WorkKind& kind) {
    // Never destroyed: the last queue may outlive static objects.
    static auto& mutex = *new std::mutex;
    static auto& all = *new std::map<const WorkKind*, std::weak_ptr<Workers>>;
    const std::scoped_lock lock(mutex);
    std::weak_ptr<Workers>& known = all[&kind];
    std::shared_ptr<Workers> threads = known.lock();
    if (!threads || threads->process_ != ::getpid()) known = threads = std::make_shared<Workers>(kind);
    return threads;
  }

  explicit Workers(const WorkKind& kind) : kind_(kind) {}
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;
  /// Nothing is under way any more: every item belongs to an object that holds this one.
  ~Workers() {
    if (process_ != ::getpid()) {
      // A child of fork() has none of them.
      static_cast<void>(new std::vector<std::thread>(std::move(threads_)));
      return;
    }
    {
      const std::scoped_lock lock(mutex_);
      ending_ = true;
    }
    work_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void submit(WorkQueue& of, WorkItem& item) {
    const std::scoped_lock lock(mutex_);
    of.waiting_.push_back(&item);
    item.waiting_ = true;
    list(of);
    if (!of.listed_) return;
    if (ready_.size() > idle_ && threads_.size() < kind_.threads) start_thread();
    if (threads_.empty()) {
      of.waiting_.pop_back();
      item.waiting_ = false;
      std::erase(ready_, &of);
      of.listed_ = false;
      throw RunnerError(ErrorCode::resource_exhausted, kUnavailable, "cannot start a thread: " + std::string(kind_.thread_name));
    }
    work_.notify_one();
  }

  /// Afterwards nothing refers to the item.
  void forget(WorkQueue& of, WorkItem& item) noexcept {
    std::unique_lock lock(mutex_);
    if (item.waiting_) {
      std::erase(of.waiting_, &item);
      item.waiting_ = false;
      if (of.waiting_.empty() && of.listed_) {
        std::erase(ready_, &of);
        of.listed_ = false;
      }
      return;
    }
    done_.wait(lock, [&item] { return item.done_; });
    std::erase(of.finished_, &item);
  }

  [[nodiscard]] std::vector<WorkItem*> take_finished(WorkQueue& of) {
    const std::scoped_lock lock(mutex_);
    return std::exchange(of.finished_, {});
  }

 private:
  // Puts it behind the others that have something to do, if it has and may.
  void list(WorkQueue& of) {
    if (of.listed_ || of.waiting_.empty() || of.running_ >= kind_.at_once) return;
    ready_.push_back(&of);
    of.listed_ = true;
  }

  void start_thread() {
    // The signals are for the threads of the program that we are a part of.
    sigset_t all, before;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      threads_.emplace_back([this] { run(); });
    } catch (const std::exception&) {  // there are as many as there can be
    }
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void run() {
    ::pthread_setname_np(::pthread_self(), kind_.thread_name);
    std::unique_lock lock(mutex_);
    for (;;) {
      ++idle_;
      work_.wait(lock, [this] { return ending_ || !ready_.empty(); });
      --idle_;
      if (ready_.empty()) return;
      WorkQueue& of = *ready_.front();
      ready_.pop_front();
      of.listed_ = false;
      WorkItem& item = *of.waiting_.front();
      of.waiting_.pop_front();
      item.waiting_ = false;
      ++of.running_;
      list(of);
      lock.unlock();
      item.work();
      lock.lock();
      --of.running_;
      item.done_ = true;
      of.finished_.push_back(&item);
      list(of);
      if (of.listed_) work_.notify_one();
      // Under the lock, without which none of them may go.
      constexpr std::uint64_t kOne = 1;
      static_cast<void>(!::write(of.event_fd_, &kOne, sizeof kOne));
      done_.notify_all();
    }
  }

  const WorkKind& kind_;
  std::mutex mutex_;
  std::condition_variable work_, done_;
  std::deque<WorkQueue*> ready_;  // each once
  std::vector<std::thread> threads_;
  std::size_t idle_ = 0;
  bool ending_ = false;
  const pid_t process_ = ::getpid();
};

/// An item from when it is handed over until nothing refers to it any more.
class WorkQueue::Submitted {
 public:
  Submitted(WorkQueue& of, WorkItem& item) : of_(of), item_(item) {
    of_.threads_->submit(of_, item_);
    ++of_.under_way_;
  }
  Submitted(const Submitted&) = delete;
  Submitted& operator=(const Submitted&) = delete;
  ~Submitted() {
    if (item_.told_) return;
    of_.threads_->forget(of_, item_);
    if (--of_.under_way_ > 0) return;
    error_code ignored;
    of_.event_.cancel(ignored);
  }

 private:
  WorkQueue& of_;
  WorkItem& item_;
};

WorkQueue::WorkQueue(const asio::any_io_executor& executor, const WorkKind& kind)
    : threads_(Workers::shared(kind)), executor_(executor), event_(executor) {
  local::UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  int error = errno;
  if (event) {
    error_code ec;
    event_.assign(event.get(), ec);
    error = ec.value();
  }
  if (!event || error != 0) {
    throw RunnerError(ErrorCode::resource_exhausted, kUnavailable,
                      "cannot wait for a thread: " + base::error_text(error) + base::descriptor_hint(error));
  }
  event_fd_ = event.release();
}

WorkQueue::~WorkQueue() = default;

asio::awaitable<void> WorkQueue::run(std::shared_ptr<WorkQueue> self, WorkItem& item) {
  asio::steady_timer wake(self->executor_, asio::steady_timer::time_point::max());
  item.wake_ = &wake;
  const Submitted submitted(*self, item);
  self->wait_finished();
  // The timer owns what resumes this coroutine, so that it goes with the event loop; no cancellation reaches it.
  auto initiate = [&wake](auto handler) {
    wake.async_wait([h = std::move(handler)](const error_code&) mutable { std::move(h)(); });
  };
  while (!item.told_) {
    auto told = asio::async_initiate<const asio::use_awaitable_t<>, void()>(initiate, asio::use_awaitable);
    co_await std::move(told);
  }
}

void WorkQueue::wait_finished() {
  if (listening_ || under_way_ == 0) return;
  listening_ = true;
  event_.async_wait(asio::posix::stream_descriptor::wait_read, [weak = weak_from_this()](const error_code& ec) {
    const auto self = weak.lock();
    if (!self) return;
    self->listening_ = false;
    if (!ec) self->take_finished();
    self->wait_finished();
  });
}

void WorkQueue::take_finished() {
  std::uint64_t count = 0;
  static_cast<void>(!::read(event_fd_, &count, sizeof count));
  for (WorkItem* item : threads_->take_finished(*this)) {
    item->told_ = true;
    --under_way_;
    item->wake_->cancel();
  }
}

}  // namespace cwsandbox::runner
