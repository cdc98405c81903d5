#include <cwsandbox/errors.hpp>
#include <cwsandbox/loop_manager.hpp>

#include "base/descriptor_limit.hpp"
#include "core/loop.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/system/system_error.hpp>

#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>

#include <atomic>
#include <future>
#include <stdexcept>
#include <string>
#include <thread>

namespace cwsandbox {
namespace {

// Raised in the child of every fork: threads do not survive one, so nothing that was started before can still be waited for.
std::atomic<unsigned> fork_count{0};
const int fork_watch = [] { return pthread_atfork(nullptr, nullptr, [] { ++fork_count; }); }();

[[noreturn]] void throw_blocking_on_loop() {
  throw std::logic_error(
      "cwsandbox: this would block the thread that must do the work and never end; use co_await or async_wait here");
}
[[noreturn]] void throw_nobody_runs() {
  throw std::logic_error(
      "cwsandbox: this would block the only thread of this process while nobody runs the executor that the work is done on, and "
      "never end; run it in another thread, or use co_await or async_wait");
}

/// Whether the process has no thread but this one. False also where that cannot be told.
bool only_thread() noexcept {
  // A directory has a link from itself, one from above, and one from each directory in it: one for each thread.
  struct stat tasks{};
  return ::stat("/proc/self/task", &tasks) == 0 && tasks.st_nlink == 3;
}

[[noreturn]] void throw_forked() {
  throw CWSandboxError(
      "cwsandbox was in use when this process was forked and cannot be used in the child; call exec, or fork first");
}

class AdoptedLoop final : public detail::Loop {
 public:
  explicit AdoptedLoop(asio::any_io_executor executor) : executor_(std::move(executor)), forks_(fork_count) {}

  asio::any_io_executor executor() override {
    if (forks_ != fork_count) throw_forked();
    return executor_;
  }
  bool running_in_this_thread() const noexcept override { return running(executor_); }
  bool adopted() const noexcept override { return true; }
  void check_may_block() const override {
    if (forks_ != fork_count) throw_forked();
    if (running_in_this_thread()) throw_blocking_on_loop();
    if (only_thread()) throw_nobody_runs();
  }

 private:
  static bool running(const asio::any_io_executor& executor) noexcept {
    if (const auto* io = executor.target<asio::io_context::executor_type>()) return io->running_in_this_thread();
    if (const auto* pool = executor.target<asio::thread_pool::executor_type>()) return pool->running_in_this_thread();
    // A strand says only whether this thread is inside it; what must not be blocked is the context below.
    if (const auto* strand = executor.target<asio::strand<asio::any_io_executor>>())
      return strand->running_in_this_thread() || running(strand->get_inner_executor());
    if (const auto* strand = executor.target<asio::strand<asio::io_context::executor_type>>())
      return strand->get_inner_executor().running_in_this_thread();
    if (const auto* strand = executor.target<asio::strand<asio::thread_pool::executor_type>>())
      return strand->get_inner_executor().running_in_this_thread();
    return false;
  }
  const asio::any_io_executor executor_;
  const unsigned forks_;
};

/// An io_context whose pending work can be dropped while handles to it live on.
class Context : public asio::io_context {
 public:
  Context() try : asio
    ::io_context(1) {}
  catch (const boost::system::system_error& error) {
    throw CWSandboxError(std::string("cwsandbox: cannot make an event loop: ") + error.what() +
                         base::descriptor_hint(error.code().value()));
  }
  using asio::io_context::shutdown;
};

/// The process-wide loop: one thread, started with the first use.
class DefaultLoop final : public detail::Loop {
 public:
  asio::any_io_executor executor() override {
    check_alive();
    std::call_once(started_, [this] { start(); });
    return context_.get_executor();
  }
  bool running_in_this_thread() const noexcept override { return running_ && std::this_thread::get_id() == thread_.get_id(); }
  bool adopted() const noexcept override { return false; }
  void check_may_block() const override {
    check_alive();
    if (running_in_this_thread()) throw_blocking_on_loop();
  }

  void stop() noexcept {
    stopping_ = true;
    if (!running_ || forks_ != fork_count) {
      if (thread_.joinable()) thread_.detach();  // the child of a fork: the thread is not there
      return;
    }
    if (running_in_this_thread()) {  // exit() was called by a handler: its own end cannot be waited for
      thread_.detach();
      return;
    }
    context_.stop();
    thread_.join();
    running_ = false;
    context_.shutdown();  // operations that never ended: their coroutines are unwound, their tasks say cancelled
  }

 private:
  void check_alive() const {
    if (forks_ != fork_count && running_) throw_forked();
    if (stopping_) throw CWSandboxError("cwsandbox: the event loop has ended, the process is exiting");
  }
  void start() {
    forks_ = fork_count.load();
    // Signals are for the program's own threads.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    std::promise<void> go;
    thread_ = std::thread([this, ready = go.get_future()]() mutable {
      ready.wait();
      pthread_setname_np(pthread_self(), "cwsandbox");
      const auto work = asio::make_work_guard(context_);
      context_.run();
    });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    running_ = true;
    go.set_value();
  }

  Context context_;
  std::once_flag started_;
  std::thread thread_;
  std::atomic<bool> running_{false}, stopping_{false};
  std::atomic<unsigned> forks_{0};
};

const std::shared_ptr<DefaultLoop>& default_loop() {
  struct Holder {
    std::shared_ptr<DefaultLoop> loop = std::make_shared<DefaultLoop>();
    ~Holder() { loop->stop(); }
  };
  // The pointer outlives the holder, for objects whose destructors run later than it at exit.
  static auto* const pointer = new std::shared_ptr<DefaultLoop>;
  static const Holder holder;
  static const bool once = (*pointer = holder.loop, true);
  static_cast<void>(once);
  return *pointer;
}

}  // namespace

LoopManager::LoopManager() : loop_(default_loop()) {}
LoopManager::LoopManager(asio::any_io_executor executor) {
  if (!executor) throw std::invalid_argument("cwsandbox: the executor is empty");
  loop_ = std::make_shared<AdoptedLoop>(std::move(executor));
}
asio::any_io_executor LoopManager::executor() const { return loop_->executor(); }
asio::any_io_executor LoopManager::make_strand() const { return asio::make_strand(loop_->executor()); }
bool LoopManager::running_in_this_thread() const noexcept { return loop_->running_in_this_thread(); }
bool LoopManager::adopted() const noexcept { return loop_->adopted(); }

}  // namespace cwsandbox
