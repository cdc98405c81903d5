// Scenarios for test_loop.cpp that need a process of their own. Exit code 0: as it should be.
#include <cwsandbox/loop_manager.hpp>
#include <cwsandbox/task.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <future>
#include <stdexcept>
#include <string_view>
#include <thread>

using namespace cwsandbox;

namespace {

std::size_t thread_count() {
  std::size_t n = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) ++n;
  return n;
}

int lazy() {
  std::thread([] {}).join();  // sanitizers start a thread of their own with the first one
  const auto before = thread_count();
  LoopManager a, b;
  if (thread_count() != before) return 1;  // a handle starts nothing
  std::promise<std::thread::id> first, second;
  asio::post(a.executor(), [&] { first.set_value(std::this_thread::get_id()); });
  asio::post(b.executor(), [&] { second.set_value(std::this_thread::get_id()); });
  if (first.get_future().get() != second.get_future().get()) return 2;
  if (thread_count() != before + 1) return 3;
  return a == b ? 0 : 4;
}

int adopt() {
  std::thread([] {}).join();
  const auto before = thread_count();
  asio::io_context io;
  LoopManager loop(io.get_executor());
  bool ran = false;
  asio::post(loop.make_strand(), [&] { ran = true; });
  io.run();
  return ran && loop.adopted() && thread_count() == before ? 0 : 1;
}

int fork_first() {
  const pid_t child = fork();
  if (child == 0) {
    LoopManager loop;
    task_source<int> source(loop);
    asio::post(loop.executor(), [&] { source.set_value(0); });
    _exit(source.get_task().result());
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

/// Uses the loop when the library's own static objects are gone.
struct LateUser {
  bool armed = false;
  ~LateUser() {
    if (!armed) return;
    try {
      LoopManager loop;
      (void)loop.executor();
      _exit(41);  // should have been refused
    } catch (const CWSandboxError&) {
    }
    _exit(40);
  }
};
LateUser late_user;  // constructed before the loop, so destroyed after it

int late_use() {
  late_user.armed = true;
  static LoopManager loop;
  asio::post(loop.executor(), [] {});
  std::exit(0);
}

int exit_on_loop() {
  LoopManager loop;
  asio::post(loop.executor(), [] { std::exit(7); });
  for (;;) pause();  // the handler ends the process
}

}  // namespace

/// A caller's loop that nobody can run: the only thread waits for it.
int nobody_runs() {
  if (thread_count() != 1) return 0;  // a sanitizer has a thread of its own
  asio::io_context io;
  const LoopManager loop(io.get_executor());
  const task_source<int> source(loop);
  asio::post(io, [source] { source.set_value(5); });
  const auto refuses = [](const auto& wait) {
    try {
      wait();
      return false;
    } catch (const std::logic_error&) {
      return true;
    }
  };
  if (!refuses([&] { return source.get_task().result(); })) return 1;
  if (!refuses([&] { return source.get_task().result(std::chrono::hours(1)); })) return 2;
  if (source.get_task().done()) return 3;
  // With another thread there is somebody who may run it.
  std::promise<void> enter;
  std::thread runner([&] {
    enter.get_future().wait();
    io.run();
  });
  enter.set_value();
  if (source.get_task().result() != 5) return 4;
  runner.join();
  // And once that has left it, there is nobody again, also for those who wait already.
  const task_source<int> never(loop);
  std::promise<void> leave;
  std::thread leaver([&] { leave.get_future().wait(); });
  std::thread([&] {}).join();
  leave.set_value();
  leaver.detach();
  return refuses([&] { return never.get_task().result(); }) ? 0 : 5;
}

int main(int argc, char** argv) {
  const std::string_view scenario = argc > 1 ? argv[1] : "";
  if (scenario == "lazy") return lazy();
  if (scenario == "adopt") return adopt();
  if (scenario == "nobody-runs") return nobody_runs();
  if (scenario == "fork-first") return fork_first();
  if (scenario == "late-use") return late_use();
  if (scenario == "exit-on-loop") return exit_on_loop();
  return 98;
}
