// LoopManager: the lazy thread, adopting an executor, fork and exit.
#include "core/loop_watch.hpp"
#include "support/catch.hpp"
#include "support/patience.hpp"
#include "support/sanitizers.hpp"

#include <cwsandbox/loop_manager.hpp>
#include <cwsandbox/task.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/thread_pool.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <future>
#include <mutex>
#include <string>
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

namespace {

/// What a watch has reported; its own thread writes it.
class Reports {
 public:
  void add(const std::string& text) {
    const std::lock_guard lock(mutex_);
    text_ += text;
  }
  std::string text() {
    const std::lock_guard lock(mutex_);
    return text_;
  }

 private:
  std::mutex mutex_;
  std::string text_;
};

bool awaited(Reports& reports, std::chrono::steady_clock::time_point until) {
  return reports.text().find("\n  ") == std::string::npos && std::chrono::steady_clock::now() < until;
}

/// Blocks until it has been reported. Not inlined: the report is to name it.
[[gnu::noinline]] void hold_up_the_loop(Reports& reports) {
  const auto until = std::chrono::steady_clock::now() + test_support::patience(60s);
  while (awaited(reports, until)) std::this_thread::sleep_for(1ms);
}
[[gnu::noinline]] void keep_the_loop_busy(Reports& reports) {
  const auto until = std::chrono::steady_clock::now() + test_support::patience(60s);
  while (awaited(reports, until)) continue;
}

#ifdef __x86_64__
// Some time in code that has no word on how to unwind it, as the jumps into other libraries have.
asm(".text\n"
    ".type cwsandbox_test_spin, @function\n"
    "cwsandbox_test_spin:\n"
    "  dec %rdi\n"
    "  jnz cwsandbox_test_spin\n"
    "  ret\n"
    ".size cwsandbox_test_spin, . - cwsandbox_test_spin\n");
extern "C" void cwsandbox_test_spin(std::uint64_t rounds);
[[gnu::noinline]] void keep_it_busy_out_of_sight(Reports& reports, std::uint64_t rounds, std::chrono::milliseconds in_sight) {
  const auto until = std::chrono::steady_clock::now() + test_support::patience(60s);
  while (awaited(reports, until)) {
    cwsandbox_test_spin(rounds);
    const auto seen = std::chrono::steady_clock::now() + in_sight;
    while (std::chrono::steady_clock::now() < seen) continue;
  }
}
#endif

}  // namespace

TEST_CASE("a turn of the loop that takes too long is told once, and no other", "[EV-9]") {
  using core::TurnJudge;
  using Verdict = TurnJudge::Verdict;
  TurnJudge judge(20ms);
  TurnJudge::Look look;
  const auto next = [&](std::chrono::nanoseconds later, std::chrono::nanoseconds computed) {
    look.now += later;
    look.computed += computed;
    return judge.look(look);
  };
  // Idle for an hour.
  look.idle = look.blocked = true;
  for (int i = 0; i < 3; ++i) CHECK(next(1h, 0ns) == Verdict::fine);
  // Busy for an hour, a turn after the other.
  look.idle = look.blocked = false;
  for (int i = 0; i < 1000; ++i) {
    ++look.turns;
    CHECK(next(3600ms, 3600ms) == Verdict::fine);
  }
  // In one turn, without a processor.
  ++look.turns;
  for (int i = 0; i < 3; ++i) CHECK(next(1h, 1ms) == Verdict::fine);

  SECTION("it computes") {
    ++look.turns;
    CHECK(next(1ms, 1ms) == Verdict::fine);
    CHECK(next(20ms, 20ms) == Verdict::fine);
    CHECK(next(1ms, 1ms) == Verdict::too_long);
    CHECK(next(1h, 1h) == Verdict::fine);
    CHECK(judge.taken() == 1h + 21ms);
    ++look.turns;
    CHECK(next(1ms, 1ms) == Verdict::ended);
    CHECK(judge.taken() == 1h + 21ms);
    CHECK(next(1ms, 1ms) == Verdict::fine);
  }
  SECTION("it waits for something else than events") {
    ++look.turns;
    look.blocked = true;
    CHECK(next(1ms, 1ms) == Verdict::fine);
    CHECK(next(21ms, 0ns) == Verdict::too_long);
    CHECK(judge.computed() == 0ns);
    look.idle = true;
    CHECK(next(1ms, 0ns) == Verdict::ended);
    CHECK(next(1h, 0ns) == Verdict::fine);
  }
}

TEST_CASE("a turn that blocks the loop is reported with its place", "[EV-9]") {
  const bool waits = GENERATE(true, false);
  // A sanitizer of threads hands a signal on when the thread calls something, which a loop that computes does not.
  if (!waits && test_support::kThreadSanitizer) return;
  Reports reports;
  asio::io_context io(1);
  asio::post(io, [&] { waits ? hold_up_the_loop(reports) : keep_the_loop_busy(reports); });
  core::LoopWatch watch(core::kTurnLimit, [&](const std::string& text) { reports.add(text); });
  watch.run(io);
  CAPTURE(reports.text());
  CHECK(reports.text().starts_with("a turn of the event loop has taken "));
  CHECK(reports.text().find(waits ? "hold_up_the_loop(" : "keep_the_loop_busy(") != std::string::npos);
  CHECK(reports.text().find("test-core+0x") != std::string::npos);
}

#ifdef __x86_64__
TEST_CASE("the place is had too where half of the time nobody can tell it", "[EV-9]") {
  if (test_support::kThreadSanitizer) return;  // as above
  for (int i = 0; i < 8; ++i) {
    Reports reports;
    asio::io_context io(1);
    asio::post(io, [&] { keep_it_busy_out_of_sight(reports, 3'000'000, 1ms); });  // a millisecond each
    core::LoopWatch watch(core::kTurnLimit, [&](const std::string& text) { reports.add(text); });
    watch.run(io);
    CAPTURE(reports.text());
    CHECK(reports.text().find("keep_it_busy_out_of_sight(") != std::string::npos);
  }
}

TEST_CASE("where a thread was at the beginning of a function, that one is named and not the one before it", "[EV-9]") {
  if (test_support::kThreadSanitizer) return;  // as above
  for (int i = 0; i < 4; ++i) {
    Reports reports;
    asio::io_context io(1);
    asio::post(io, [&] { keep_it_busy_out_of_sight(reports, 300'000'000, 0ms); });  // half of the time at its first instruction
    core::LoopWatch watch(core::kTurnLimit, [&](const std::string& text) { reports.add(text); });
    watch.run(io);
    const std::string text = reports.text();
    CAPTURE(text);
    const bool named =
        text.find("cwsandbox_test_spin") != std::string::npos || text.find("keep_it_busy_out_of_sight(") != std::string::npos;
    CHECK(named);
  }
}
#endif

TEST_CASE("of a loop that waits for events nothing is reported", "[EV-9]") {
  Reports reports;
  asio::io_context io(1);
  asio::steady_timer timer(io, 10 * core::kTurnLimit);
  timer.async_wait([](const boost::system::error_code&) {});
  core::LoopWatch watch(core::kTurnLimit, [&](const std::string& text) { reports.add(text); });
  watch.run(io);
  CHECK(reports.text().empty());
}
