// Calls on files that may wait in the kernel, on threads of their own, so that the event loop never does.
#pragma once

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>

#include <cstddef>
#include <deque>
#include <memory>
#include <vector>

#include "runner/runner.hpp"

namespace cwsandbox::runner::local {

class FileCalls;
class FileThreads;

/// What is to be done, and its result.
class FileCall {
 public:
  FileCall(const FileCall&) = delete;
  FileCall& operator=(const FileCall&) = delete;
  /// Runs on another thread, and touches only what stays as it is until the call has completed.
  virtual void work() noexcept = 0;

 protected:
  FileCall() = default;
  virtual ~FileCall() = default;

 private:
  friend class FileCalls;
  friend class FileThreads;
  bool waiting_ = false, done_ = false;  // under the threads' lock
  bool told_ = false;
  asio::steady_timer* wake_ = nullptr;
};

/// Those of one sandbox. The threads are shared by all sandboxes of this process, are started when they are needed and end with the
/// last object of this class. A sandbox has so few of them at one time that one whose files make calls wait holds up none but
/// itself; its further calls wait for their turn. Not thread safe: used on its executor alone.
class FileCalls : public std::enable_shared_from_this<FileCalls> {
 public:
  static constexpr std::size_t kAtOnce = 2;
  static constexpr std::size_t kThreads = 64;

  /// Throws RunnerError("resource_exhausted").
  explicit FileCalls(const asio::any_io_executor& executor);
  FileCalls(const FileCalls&) = delete;
  FileCalls& operator=(const FileCalls&) = delete;
  ~FileCalls();

  /// Completes on the executor, when `call` has been done; not before, whoever cancels. A coroutine that is destroyed meanwhile
  /// waits, on the thread that destroys it, for a call that is being done, and one that has not begun is not done: what `call`
  /// touches need not live longer than the coroutine. Throws RunnerError("resource_exhausted").
  [[nodiscard]] static asio::awaitable<void> run(std::shared_ptr<FileCalls> self, FileCall& call);

 private:
  friend class FileThreads;
  class Submitted;
  void wait_finished();
  void take_finished();

  std::shared_ptr<FileThreads> threads_;
  asio::any_io_executor executor_;
  asio::posix::stream_descriptor event_;  // readable when one has been done
  int event_fd_ = -1;
  std::size_t under_way_ = 0;
  bool listening_ = false;

  // Under the threads' lock.
  std::deque<FileCall*> waiting_;
  std::vector<FileCall*> finished_;
  std::size_t running_ = 0;
  bool listed_ = false;
};

}  // namespace cwsandbox::runner::local
