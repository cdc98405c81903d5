// task<T>: one operation, many waiters of every kind.
#include "support/catch.hpp"

#include <cwsandbox/asio.hpp>
#include <cwsandbox/task.hpp>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/deferred.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/experimental/coro.hpp>
#include <boost/asio/experimental/parallel_group.hpp>
#include <boost/asio/experimental/promise.hpp>
#include <boost/asio/experimental/use_coro.hpp>
#include <boost/asio/experimental/use_promise.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>

#include <future>
#include <latch>
#include <memory>
#include <thread>
#include <vector>

using namespace cwsandbox;
using namespace std::chrono_literals;

namespace {

struct Custom : std::runtime_error {
  using std::runtime_error::runtime_error;
  int number = 42;
};

/// A coroutine type that has nothing to do with Asio.
struct Plain {
  struct promise_type {
    std::promise<int> result;
    Plain get_return_object() { return Plain{result.get_future()}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_value(int value) { result.set_value(value); }
    void unhandled_exception() { result.set_exception(std::current_exception()); }
  };
  std::future<int> future;
};

Plain plain_await(task<int> t) { co_return co_await t; }

}  // namespace

TEST_CASE("result() blocks until a value is there, for any T", "[OR-1][OR-5]") {
  task_source<std::string> source;
  auto t = source.get_task();
  CHECK_FALSE(t.done());
  std::thread other([source] { source.set_value("done"); });
  CHECK(t.result() == "done");
  other.join();
  CHECK(t.done());
  CHECK(t.result() == "done");
  CHECK(&t.result() == &t.result());

  task_source<void> nothing;
  std::thread other2([nothing] { nothing.set_value(); });
  nothing.get_task().result();
  other2.join();

  task_source<std::unique_ptr<int>> moved;
  moved.set_value(std::make_unique<int>(7));
  CHECK(*moved.get_task().result() == 7);
}

TEST_CASE("a waiter's timeout cancels nothing and may be repeated", "[OR-2][RES-7]") {
  task_source<int> source;
  auto t = source.get_task();
  CHECK_THROWS_AS(t.result(1ms), TimeoutError);
  CHECK_THROWS_AS(t.result(0s), TimeoutError);
  CHECK_FALSE(t.done());
  source.set_value(3);
  CHECK(t.result(0s) == 3);
  CHECK(t.result(std::chrono::hours(24 * 365 * 10'000)) == 3);
}

TEST_CASE("an exception keeps its type, every time", "[OR-3]") {
  task_source<int> source;
  source.set_exception(std::make_exception_ptr(Custom("broken")));
  auto t = source.get_task();
  for (int i = 0; i < 3; ++i) {
    try {
      (void)t.result();
      FAIL("no exception");
    } catch (const Custom& error) {
      CHECK(error.number == 42);
    }
  }
  CHECK(t.error() != nullptr);
  CHECK_FALSE(source.set_value(1));
}

TEST_CASE("co_await resumes on the awaiter's executor whichever thread completes", "[OR-4][OR-5]") {
  asio::io_context io;
  task_source<std::string> source;
  std::thread::id resumed_on;
  std::string got;
  asio::co_spawn(
      io,
      [&]() -> asio::awaitable<void> {
        auto t = source.get_task();
        got = co_await t;
        resumed_on = std::this_thread::get_id();
        got += co_await source.get_task();  // an rvalue, already done
        const auto constant = t;
        got += co_await constant;
      },
      asio::detached);
  std::thread completer([&] { source.set_value("x"); });
  io.run();  // tracked work: run() waits for the completion although nothing else is pending
  completer.join();
  CHECK(resumed_on == std::this_thread::get_id());
  CHECK(got == "xxx");
}

TEST_CASE("co_await rethrows the original exception", "[OR-3][OR-4]") {
  asio::io_context io;
  task_source<void> source;
  bool caught = false;
  asio::co_spawn(
      io,
      [&]() -> asio::awaitable<void> {
        try {
          co_await source.get_task();
        } catch (const Custom& error) {
          caught = error.number == 42;
        }
      },
      asio::detached);
  io.poll();
  source.set_exception(std::make_exception_ptr(Custom("later")));
  io.run();
  CHECK(caught);
}

TEST_CASE("a strand's awaiter resumes on its strand", "[OR-4]") {
  asio::thread_pool pool(4);
  auto strand = asio::make_strand(pool.get_executor());
  task_source<int> source;
  std::promise<bool> on_strand;
  asio::co_spawn(
      strand,
      [&]() -> asio::awaitable<void> {
        (void)co_await source.get_task();
        on_strand.set_value(strand.running_in_this_thread());
      },
      asio::detached);
  source.set_value(1);
  CHECK(on_strand.get_future().get());
  pool.join();
}

TEST_CASE("cancel ends an operation with CancelledError, once", "[OR-6][OR-7]") {
  task_source<int> source;
  auto t = source.get_task();
  CHECK(t.cancel());
  CHECK_THROWS_AS(t.result(), CancelledError);
  CHECK_FALSE(t.cancel());
  CHECK_FALSE(source.set_value(1));

  task_source<int> hooked;
  int asked = 0;
  hooked.on_cancel([&] { return ++asked, true; });
  CHECK(hooked.get_task().cancel());
  CHECK(asked == 1);
  CHECK_FALSE(hooked.get_task().done());  // the hook decides when it ends
  hooked.set_value(5);
  CHECK_FALSE(hooked.get_task().cancel());
}

TEST_CASE("an abandoned source ends its task", "[OR-6]") {
  task<int> t;
  {
    task_source<int> source;
    t = source.get_task();
  }
  CHECK_THROWS_AS(t.result(), CancelledError);
}

TEST_CASE("completion tokens: futures, callbacks, tuples", "[OR-7]") {
  task_source<int> source;
  auto t = source.get_task();
  auto future = t.async_wait(asio::use_future);
  std::promise<boost::system::error_code> called;
  t.async_wait([&](boost::system::error_code error) { called.set_value(error); });
  CHECK_THROWS_AS(t.get(), std::logic_error);
  source.set_value(9);
  future.get();
  CHECK_FALSE(called.get_future().get());
  CHECK(t.get() == 9);

  asio::io_context io;
  bool ok = false;
  asio::co_spawn(
      io,
      [&]() -> asio::awaitable<void> {
        auto [error] = co_await t.async_wait(asio::as_tuple(asio::use_awaitable));
        ok = !error && t.get() == 9;
      },
      asio::detached);
  io.run();
  CHECK(ok);

  asio::any_completion_handler<void(boost::system::error_code)> erased =
      asio::bind_executor(io.get_executor(), [&](boost::system::error_code) { ok = false; });
  t.async_wait(std::move(erased));
  std::this_thread::yield();
  io.restart();
  asio::steady_timer guard(io, 5s);
  guard.async_wait([](auto) {});
  while (ok && io.run_one() > 0) {
  }
  CHECK_FALSE(ok);
}

TEST_CASE("many waiters of all kinds and threads get one result", "[OR-8]") {
  asio::thread_pool pool(2);
  asio::io_context io;
  task_source<int> source;
  auto t = source.get_task();
  std::atomic<int> sum{0};
  std::latch ready(4);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      ready.count_down();
      sum += t.result();
      sum += t.result(10s);
    });
  for (int i = 0; i < 8; ++i) {
    const bool odd = i % 2 == 1;
    auto waiter = [](task<int> awaited, std::atomic<int>* total) -> asio::awaitable<void> { *total += co_await awaited; };
    if (odd)
      asio::co_spawn(io, waiter(t, &sum), asio::detached);
    else
      asio::co_spawn(pool, waiter(t, &sum), asio::detached);
  }
  auto plain = plain_await(t);
  auto future = t.async_wait(asio::use_future);
  std::thread runner([&] { io.run(); });
  ready.wait();
  source.set_value(1);
  for (auto& thread : threads) thread.join();
  CHECK(plain.future.get() == 1);
  future.get();
  runner.join();
  pool.join();
  CHECK(sum == 16);
}

TEST_CASE("a waiter that gives up leaves no trace and cancels nothing", "[OR-8]") {
  using namespace asio::experimental::awaitable_operators;
  asio::io_context io;
  task_source<int> source;
  auto t = source.get_task();
  bool gave_up = false;
  int later = 0;
  asio::co_spawn(
      io,
      [&]() -> asio::awaitable<void> {
        auto waiting = [](task<int> awaited) -> asio::awaitable<int> { co_return co_await awaited; };
        asio::steady_timer timer(io, 1ms);
        auto either = co_await (waiting(t) || timer.async_wait(asio::use_awaitable));
        gave_up = either.index() == 1;
        source.set_value(4);
        later = co_await t;
      },
      asio::detached);
  io.run();
  CHECK(gave_up);
  CHECK(later == 4);

  asio::cancellation_signal signal;
  task_source<int> second;
  boost::system::error_code seen;
  second.get_task().async_wait(asio::bind_cancellation_slot(
      signal.slot(), asio::bind_executor(io.get_executor(), [&](boost::system::error_code error) { seen = error; })));
  signal.emit(asio::cancellation_type::terminal);
  io.restart();
  io.run();
  CHECK(seen == asio::error::operation_aborted);
  CHECK_FALSE(second.get_task().done());
}

TEST_CASE("a wait that is cancelled twice is the only one that is cancelled", "[OR-8]") {
  asio::io_context io;
  task_source<int> source;
  const auto t = source.get_task();
  asio::cancellation_signal first, second;
  std::optional<boost::system::error_code> first_saw, second_saw;
  const auto wait = [&](asio::cancellation_signal& signal, std::optional<boost::system::error_code>& saw) {
    t.async_wait(asio::bind_cancellation_slot(
        signal.slot(), asio::bind_executor(io.get_executor(), [&saw](boost::system::error_code error) { saw = error; })));
  };
  wait(first, first_saw);
  first.emit(asio::cancellation_type::terminal);
  wait(second, second_saw);  // where the first one was, as far as memory goes
  first.emit(asio::cancellation_type::terminal);
  source.set_value(1);
  io.run();
  REQUIRE(first_saw);
  REQUIRE(second_saw);
  CHECK(*first_saw == asio::error::operation_aborted);
  CHECK_FALSE(*second_saw);
}

TEST_CASE("a wait that is cancelled before its handler has run is cancelled", "[OR-8]") {
  asio::io_context io;
  task_source<int> source;
  asio::cancellation_signal signal;
  std::optional<boost::system::error_code> saw;
  source.get_task().async_wait(asio::bind_cancellation_slot(
      signal.slot(), asio::bind_executor(io.get_executor(), [&](boost::system::error_code error) { saw = error; })));
  source.set_value(1);
  signal.emit(asio::cancellation_type::terminal);
  io.run();
  REQUIRE(saw);
  CHECK(*saw == asio::error::operation_aborted);
}

TEST_CASE("a wait may be completed by another thread while it begins", "[OR-8]") {
  // No strand: the handler may run, and clear its slot, before the call that began the wait has returned.
  asio::thread_pool pool(2);
  for (int round = 0; round < 300; ++round) {
    task_source<int> source;
    const auto t = source.get_task();
    asio::cancellation_signal signal;
    std::promise<boost::system::error_code> called;
    std::latch start(2);
    std::thread completer([&] {
      start.arrive_and_wait();
      source.set_value(1);
    });
    start.arrive_and_wait();
    t.async_wait(asio::bind_cancellation_slot(
        signal.slot(),
        asio::bind_executor(pool.get_executor(), [&](boost::system::error_code error) { called.set_value(error); })));
    CHECK_FALSE(called.get_future().get());
    completer.join();
  }
  pool.join();
}

TEST_CASE("waiting with a temporary keeps the operation", "[OR-8]") {
  asio::io_context io;
  int got = 0;
  std::optional<task_source<int>> source(std::in_place);
  source->get_task().async_wait(
      asio::bind_executor(io.get_executor(), [&](boost::system::error_code error) { got = error ? -1 : 1; }));
  source->set_value(1);
  source.reset();
  io.run();
  CHECK(got == 1);
}

TEST_CASE("the wait hook runs once, at the first wait of any kind", "[OR-1]") {
  task_source<int> source;
  int waits = 0;
  source.on_wait([&] { ++waits; });
  auto t = source.get_task();
  CHECK(t.done() == false);
  CHECK(waits == 0);
  CHECK_THROWS_AS(t.result(0ms), TimeoutError);
  CHECK_THROWS_AS(t.result(0ms), TimeoutError);
  CHECK(waits == 1);
}

TEST_CASE("racing completion, cancellation and waiting stay consistent", "[OR-8]") {
  for (int round = 0; round < 300; ++round) {
    task_source<int> source;
    auto t = source.get_task();
    std::latch start(4);
    std::atomic<int> outcomes{0};
    std::thread a([&] {
      start.arrive_and_wait();
      source.set_value(1);
    });
    std::thread b([&] {
      start.arrive_and_wait();
      t.cancel();
    });
    std::thread c([&] {
      start.arrive_and_wait();
      try {
        outcomes += t.result();
      } catch (const CancelledError&) {
        outcomes += 100;
      }
    });
    auto future = t.async_wait(asio::use_future);
    start.arrive_and_wait();
    a.join();
    b.join();
    c.join();
    future.get();
    CHECK((outcomes == 1 || outcomes == 100));
  }
}

TEST_CASE("a null exception and an empty task are misuse, not a crash", "[OR-1]") {
  const task_source<int> source;
  CHECK_THROWS_AS(source.set_exception(nullptr), std::invalid_argument);
  CHECK_FALSE(source.get_task().done());
  const task<int> empty;
  CHECK_FALSE(empty.done());
  CHECK_FALSE(empty.error());
  CHECK_THROWS_AS(empty.result(), std::invalid_argument);
  CHECK_THROWS_AS(empty.result(1s), std::invalid_argument);
  CHECK_THROWS_AS(empty.cancel(), std::invalid_argument);
  CHECK_THROWS_AS(empty.async_wait(asio::detached), std::invalid_argument);
  CHECK_THROWS_AS(LoopManager(asio::any_io_executor()), std::invalid_argument);
}

TEST_CASE("whatever waits keeps what it waits for, with its owner", "[OR-8][OR-9]") {
  asio::io_context io;
  task_source<int> source(LoopManager(io.get_executor()));
  auto owner = std::make_shared<int>(0);
  const std::weak_ptr<int> kept = owner;
  // A handle with its owner; it is a temporary in all of these.
  const auto handle = [&] { return task<int>(source.state(), owner); };
  SECTION("deferred") {
    auto operation = handle().async_wait(asio::deferred);
    owner.reset();
    REQUIRE_FALSE(kept.expired());
    bool called = false;
    std::move(operation)(asio::bind_executor(io.get_executor(), [&](boost::system::error_code error) { called = !error; }));
    CHECK_FALSE(kept.expired());
    source.set_value(1);
    io.run();
    CHECK(called);
  }
  SECTION("a future") {
    auto future = handle().async_wait(asio::use_future);
    owner.reset();
    CHECK_FALSE(kept.expired());
    source.set_value(1);
    io.run();
    future.get();
  }
  SECTION("a callback") {
    bool called = false;
    handle().async_wait([&](boost::system::error_code error) { called = !error; });
    owner.reset();
    CHECK_FALSE(kept.expired());
    source.set_value(1);
    io.run();
    CHECK(called);
  }
  SECTION("a coroutine") {
    int got = 0;
    asio::co_spawn(
        io,
        [&]() -> asio::awaitable<void> {
          auto waits = [](task<int> awaited) -> asio::awaitable<int> { co_return co_await std::move(awaited); };
          got = co_await waits(handle());
        },
        asio::detached);
    io.poll();
    owner.reset();
    CHECK_FALSE(kept.expired());
    source.set_value(7);
    io.run();
    CHECK(got == 7);
  }
  SECTION("a coroutine without an executor") {
    auto plain = [](task<int> awaited) -> Plain { co_return co_await std::move(awaited); }(handle());
    owner.reset();
    CHECK_FALSE(kept.expired());
    source.set_value(7);
    CHECK(plain.future.get() == 7);
  }
  CHECK(kept.expired());
}

namespace {

asio::experimental::coro<void, int> wait_in_coro(asio::io_context&, task<int> t) {
  co_await t;  // coro asks any object with async_wait for a void(error_code)
  co_await t.async_wait(asio::experimental::use_coro);
  co_return t.get();
}

}  // namespace

TEST_CASE("the coroutines and tokens of Asio's that are experimental", "[OR-4]") {
  asio::io_context io;
  const task_source<int> source(LoopManager(io.get_executor()));
  const auto t = source.get_task();
  SECTION("coro") {
    std::optional<int> got;
    auto coro = wait_in_coro(io, t);
    coro.async_resume([&](const std::exception_ptr& error, int value) {
      if (!error) got = value;
    });
    io.poll();
    CHECK_FALSE(got);
    source.set_value(3);
    io.restart();
    io.run();
    CHECK(got == 3);
  }
  SECTION("promise") {
    auto promise = t.async_wait(asio::experimental::use_promise);
    source.set_value(3);
    std::optional<boost::system::error_code> saw;
    std::move(promise)([&](boost::system::error_code error) { saw = error; });
    io.run();
    REQUIRE(saw);
    CHECK_FALSE(*saw);
  }
  SECTION("a group that is known only when the program runs") {
    const task_source<int> other(LoopManager(io.get_executor()));
    using Operation = decltype(t.async_wait(asio::deferred));
    std::vector<Operation> operations;
    operations.push_back(t.async_wait(asio::deferred));
    operations.push_back(other.get_task().async_wait(asio::deferred));
    std::vector<std::size_t> order;
    std::vector<boost::system::error_code> errors;
    asio::experimental::make_parallel_group(std::move(operations))
        .async_wait(
            asio::experimental::wait_for_one(),
            asio::bind_executor(io.get_executor(), [&](std::vector<std::size_t> o, std::vector<boost::system::error_code> e) {
              order = std::move(o);
              errors = std::move(e);
            }));
    other.set_value(1);
    io.run();
    REQUIRE(order.size() == 2);
    CHECK(order[0] == 1);
    CHECK_FALSE(errors[1]);
    CHECK(errors[0] == asio::error::operation_aborted);
    CHECK_FALSE(t.done());
  }
  SECTION("an executor of its own type") {
    using Awaitable = asio::awaitable<int, asio::io_context::executor_type>;
    int got = 0;
    asio::co_spawn(
        io.get_executor(), [](task<int> awaited) -> Awaitable { co_return co_await awaited; }(t),
        [&](const std::exception_ptr&, int value) { got = value; });
    source.set_value(5);
    io.run();
    CHECK(got == 5);
  }
}
