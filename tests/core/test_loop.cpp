// LoopManager: the lazy thread, adopting an executor, fork and exit.
#include "support/catch.hpp"
#include "support/sanitizers.hpp"

#include <cwsandbox/loop_manager.hpp>
#include <cwsandbox/task.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/thread_pool.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <future>
#include <thread>

using namespace cwsandbox;
using namespace std::chrono_literals;

namespace {

int wait_for(pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/// A fresh process that has never used the library runs a scenario of loop_child.cpp; its exit code, 0 when all is well.
int fresh(const char* scenario) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);  // a hang is a failure
    execl(CWSANDBOX_LOOP_CHILD, CWSANDBOX_LOOP_CHILD, scenario, static_cast<char*>(nullptr));
    _exit(99);
  }
  return wait_for(child);
}

/// Runs `body` in a forked child of this process, which has used the library.
template <typename Body>
int in_child(Body body) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    _exit(body());
  }
  return wait_for(child);
}

}  // namespace

TEST_CASE("the default loop is one lazy thread, shared", "[EV-1]") { CHECK(fresh("lazy") == 0); }

TEST_CASE("blocking on the loop's own thread throws", "[EV-2][SR-12]") {
  LoopManager loop;
  std::promise<bool> threw;
  task_source<int> never(loop);
  asio::post(loop.executor(), [&] {
    try {
      (void)never.get_task().result();
      threw.set_value(false);
    } catch (const std::logic_error&) {
      threw.set_value(true);
    }
  });
  CHECK(threw.get_future().get());

  SECTION("what has completed does not block and may be asked for") {
    std::promise<int> got;
    task_source<int> ready(loop);
    ready.set_value(5);
    asio::post(loop.executor(), [&] { got.set_value(ready.get_task().result()); });
    CHECK(got.get_future().get() == 5);
  }
  SECTION("an adopted io_context, directly and through strands") {
    asio::io_context io;
    int refused = 0;
    for (const asio::any_io_executor& executor :
         {asio::any_io_executor(io.get_executor()), asio::any_io_executor(asio::make_strand(io)),
          asio::any_io_executor(asio::make_strand(asio::any_io_executor(io.get_executor())))}) {
      LoopManager adopted(executor);
      asio::post(io, [&refused, adopted] {
        task_source<int> pending(adopted);
        try {
          (void)pending.get_task().result(1s);
        } catch (const std::logic_error&) {
          ++refused;
        }
      });
    }
    io.run();
    CHECK(refused == 3);
  }
  SECTION("an adopted thread_pool") {
    asio::thread_pool pool(2);
    LoopManager adopted{asio::any_io_executor(pool.get_executor())};
    std::promise<bool> pool_threw;
    asio::post(pool, [&] {
      task_source<int> pending(adopted);
      try {
        (void)pending.get_task().result(1s);
        pool_threw.set_value(false);
      } catch (const std::logic_error&) {
        pool_threw.set_value(true);
      }
    });
    CHECK(pool_threw.get_future().get());
    pool.join();
  }
}

TEST_CASE("many threads block at once", "[EV-4]") {
  LoopManager loop;
  task_source<int> source(loop);
  std::vector<std::future<int>> waiting;
  for (int i = 0; i < 32; ++i) waiting.push_back(std::async(std::launch::async, [t = source.get_task()] { return t.result(); }));
  asio::post(loop.executor(), [&] { source.set_value(2); });
  for (auto& future : waiting) CHECK(future.get() == 2);
}

TEST_CASE("adopting an executor starts no thread", "[EV-6]") { CHECK(fresh("adopt") == 0); }

TEST_CASE("blocking on an executor that nobody can run throws", "[EV-2]") {
  if (test_support::kThreadSanitizer) {
    WARN("SKIPPED: the thread sanitizer has a thread of its own, which might run the executor for all that can be known");
    return;
  }
  CHECK(fresh("nobody-runs") == 0);
}

TEST_CASE("each process gets a strand of its own", "[EV-6]") {
  asio::thread_pool pool(4);
  LoopManager loop{asio::any_io_executor(pool.get_executor())};
  auto strand = loop.make_strand();
  int unguarded = 0;  // only safe because the strand serialises
  for (int i = 0; i < 10'000; ++i) asio::post(strand, [&] { ++unguarded; });
  pool.join();
  CHECK(unguarded == 10'000);
}

TEST_CASE("the child of a fork gets a clear error, not a hang", "[EV-7]") {
  LoopManager loop;
  std::promise<void> up;
  asio::post(loop.executor(), [&] { up.set_value(); });
  up.get_future().get();
  task_source<int> pending(loop);
  CHECK(in_child([&] {
          try {
            (void)pending.get_task().result();
            return 1;
          } catch (const CWSandboxError& error) {
            if (std::string(error.what()).find("fork") == std::string::npos) return 2;
          }
          try {
            (void)loop.executor();
            return 3;
          } catch (const CWSandboxError&) {
          }
          return 0;
        }) == 0);
  // The parent goes on.
  asio::post(loop.executor(), [&] { pending.set_value(1); });
  CHECK(pending.get_task().result() == 1);
}

TEST_CASE("a fork before the first use is fine", "[EV-7]") { CHECK(fresh("fork-first") == 0); }

TEST_CASE("exit and static destruction are clean", "[EV-7]") {
  CHECK(fresh("late-use") == 40);
  CHECK(fresh("exit-on-loop") == 7);
}
