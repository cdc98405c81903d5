// Work that takes long, or may wait in the kernel, on threads of its own, so that the event loop never does.
#pragma once

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>

#include <cstddef>
#include <deque>
#include <memory>
#include <vector>

#include "runner/runner.hpp"

namespace cwsandbox::runner {

class WorkQueue;
class Workers;

/// Each kind has threads of its own: what waits for files keeps no message waiting.
struct WorkKind {
  const char* thread_name;  ///< at most 15 bytes
  std::size_t threads;      ///< in this process
  std::size_t at_once;      ///< of one queue
};
inline constexpr WorkKind kFileWork{"cwsandbox-file", 64, 2};
inline constexpr WorkKind kLaunchWork{"cwsandbox-spawn", 8, 4};
inline constexpr WorkKind kMessageWork{"cwsandbox-json", 2, 1};

/// What is to be done, and its result.
class WorkItem {
 public:
  WorkItem(const WorkItem&) = delete;
  WorkItem& operator=(const WorkItem&) = delete;
  /// Runs on another thread, and touches only what stays as it is until it has been done.
  virtual void work() noexcept = 0;

 protected:
  WorkItem() = default;
  virtual ~WorkItem() = default;

 private:
  friend class WorkQueue;
  friend class Workers;
  bool waiting_ = false, done_ = false;  // under the threads' lock
  bool told_ = false;
  asio::steady_timer* wake_ = nullptr;
};

/// What one sandbox or owner has to be done. The threads are shared by all queues of a kind in this process, are started when they
/// are needed and end with the last of these queues. A queue has so few of them at one time that one whose work takes long holds up
/// none but itself; its further items wait for their turn. Not thread safe: used on its executor alone.
class WorkQueue : public std::enable_shared_from_this<WorkQueue> {
 public:
  /// \param kind one of those above. Throws RunnerError("resource_exhausted").
  explicit WorkQueue(const asio::any_io_executor& executor, const WorkKind& kind = kFileWork);
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;
  ~WorkQueue();

  /// Completes on the executor, when `item` has been done; not before, whoever cancels. A coroutine that is destroyed meanwhile
  /// waits, on the thread that destroys it, for one that is being done, and one that has not begun is not done: what `item`
  /// touches need not live longer than the coroutine. Throws RunnerError("resource_exhausted").
  [[nodiscard]] static asio::awaitable<void> run(std::shared_ptr<WorkQueue> self, WorkItem& item);

 private:
  friend class Workers;
  class Submitted;
  void wait_finished();
  void take_finished();

  std::shared_ptr<Workers> threads_;
  asio::any_io_executor executor_;
  asio::posix::stream_descriptor event_;  // readable when one has been done
  int event_fd_ = -1;
  std::size_t under_way_ = 0;
  bool listening_ = false;

  // Under the threads' lock.
  std::deque<WorkItem*> waiting_;
  std::vector<WorkItem*> finished_;
  std::size_t running_ = 0;
  bool listed_ = false;
};

}  // namespace cwsandbox::runner
