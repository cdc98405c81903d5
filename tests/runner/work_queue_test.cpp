// Calls on files that wait, and what they may hold up.
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <list>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "harness.hpp"
#include "runner/local/unique_fd.hpp"
#include "runner/work_queue.hpp"
#include "support/catch.hpp"

namespace cwsandbox::test {

using runner::kFileWork;
using runner::WorkItem;
using runner::WorkQueue;
using runner::local::UniqueFd;

namespace {

struct Pipe {
  Pipe() {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    reader.reset(ends[0]);
    writer.reset(ends[1]);
  }
  void give(std::size_t bytes) const {
    const std::string some(bytes, 'x');
    if (::write(writer.get(), some.data(), bytes) != static_cast<ssize_t>(bytes)) std::abort();
  }
  UniqueFd reader, writer;
};

// Waits for a byte, as a read of a file may for its lock.
struct ByteCall final : WorkItem {
  explicit ByteCall(const Pipe& from, std::atomic<int>* now = nullptr, std::atomic<int>* most = nullptr)
      : fd(from.reader.get()), running(now), most_running(most) {}
  void work() noexcept override {
    if (running != nullptr) {
      const int count = ++*running;
      int before = *most_running;
      while (before < count && !most_running->compare_exchange_weak(before, count)) {
      }
    }
    char byte = 0;
    bytes = ::read(fd, &byte, 1);
    if (running != nullptr) --*running;
  }
  int fd;
  std::atomic<int>*running, *most_running;
  ssize_t bytes = -1;
};

// Called with a reference to what outlives it.
asio::awaitable<void> take_byte(std::shared_ptr<WorkQueue> calls, ByteCall& call, int& done) {
  auto called = WorkQueue::run(std::move(calls), call);
  co_await std::move(called);
  if (call.bytes == 1) ++done;
}

}  // namespace

TEST_CASE("calls that wait hold up those of their own sandbox and no others", "[runner][files][FI-15]") {
  asio::io_context loop;
  const auto slow = std::make_shared<WorkQueue>(loop.get_executor());
  const auto quick = std::make_shared<WorkQueue>(loop.get_executor());
  const Pipe never, always;
  std::atomic<int> running = 0, most = 0;
  std::list<ByteCall> calls;
  constexpr int kCalls = 3 * static_cast<int>(kFileWork.at_once) + 1;
  int slow_done = 0;
  for (int i = 0; i < kCalls; ++i) {
    ByteCall& call = calls.emplace_back(never, &running, &most);
    asio::co_spawn(loop, take_byte(slow, call, slow_done), asio::detached);
  }
  always.give(100);
  int quick_done = 0;
  for (int i = 1; i <= 100; ++i) {
    ByteCall call(always);
    run(loop, take_byte(quick, call, quick_done));
    CHECK(quick_done == i);
  }
  CHECK(slow_done == 0);
  never.give(kCalls);
  run_until(loop, [&] { return slow_done == kCalls; });
  CHECK(slow_done == kCalls);
  CHECK(most <= static_cast<int>(kFileWork.at_once));
  // Nothing keeps the loop when nothing is under way.
  run_until(loop, [&] { return loop.stopped(); });
  CHECK(loop.stopped());
}

TEST_CASE("as many sandboxes as there are threads for wait, and go on", "[runner][files][FI-15]") {
  asio::io_context loop;
  const Pipe never;
  std::vector<std::shared_ptr<WorkQueue>> sandboxes;
  std::list<ByteCall> calls;
  int done = 0;
  constexpr int kCalls = 2 * static_cast<int>(kFileWork.threads);
  for (int i = 0; i < kCalls; ++i) {
    if (i % 2 == 0) sandboxes.push_back(std::make_shared<WorkQueue>(loop.get_executor()));
    asio::co_spawn(loop, take_byte(sandboxes.back(), calls.emplace_back(never), done), asio::detached);
  }
  never.give(kCalls);
  run_until(loop, [&] { return done == kCalls; });
  CHECK(done == kCalls);
}

TEST_CASE("a loop that goes while calls are under way waits for those that have begun", "[runner][files][FI-15]") {
  for (int round = 0; round < 20; ++round) {
    const Pipe never;
    std::optional<asio::io_context> loop(std::in_place);
    auto calls = std::make_shared<WorkQueue>(loop->get_executor());
    int done = 0;
    // What it touches is the coroutine's own.
    const auto own = [&]() -> asio::awaitable<void> {
      ByteCall call(never);
      co_await take_byte(calls, call, done);
    };
    for (int i = 0; i < 5; ++i) asio::co_spawn(*loop, own, asio::detached);
    loop->poll();
    std::thread giver([&never] { never.give(5); });
    calls.reset();  // the coroutines have it
    loop.reset();
    giver.join();
    CHECK(done == 0);
  }
}

}  // namespace cwsandbox::test
