// Waits that carry the value, time limits, and streams put together.
#include "support.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/deferred.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/experimental/parallel_group.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>

#include <algorithm>
#include <future>
#include <thread>

using namespace support;
using cwsandbox::CancelledError;
using cwsandbox::Channel;
using cwsandbox::Client;
using cwsandbox::expect;
using cwsandbox::Output;
using cwsandbox::pipe;
using cwsandbox::ProcessResult;
using cwsandbox::SandboxExecutionError;
using cwsandbox::ShellOptions;
using cwsandbox::StreamReader;
using cwsandbox::task;
using cwsandbox::task_source;
using cwsandbox::TimeoutError;
using cwsandbox::with_timeout;
namespace asio = boost::asio;

namespace {

using Chunk = std::optional<std::string>;

std::string text_of(const std::exception_ptr& error) {
  try {
    rethrow(error);
  } catch (const std::exception& caught) {
    return caught.what();
  }
  return "";
}

template <typename Call>
std::string thrown_by(Call call) {
  try {
    call();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// A stream of a test's own.
struct Made {
  std::shared_ptr<Channel<std::string>> channel = std::make_shared<Channel<std::string>>(64);
  StreamReader<std::string> reader{channel};
  void send(const std::string& text) const { channel->send(text).result(); }
};

}  // namespace

TEST_CASE("async_get gives a future of the value, or of the error", "[OR-11]") {
  std::future<ProcessResult> result = shared_sandbox().exec(shell("echo value; exit 3")).async_get(asio::use_future);
  const auto ended = result.get();
  CHECK(ended.std_out == "value\n");
  CHECK(ended.returncode == 3);

  std::future<Chunk> chunk = shared_sandbox().exec({"echo", "chunk"}).std_out().next().async_get(asio::use_future);
  CHECK(chunk.get() == "chunk\n");

  auto failed = shared_sandbox().exec(shell("exit 3"), ExecOptions().with_check()).async_get(asio::use_future);
  CHECK_THROWS_AS(failed.get(), SandboxExecutionError);

  std::future<void> nothing = Made().channel->send("x").async_get(asio::use_future);
  nothing.get();
  const task_source<void> broken;
  std::future<void> error = broken.get_task().async_get(asio::use_future);
  broken.set_exception(std::make_exception_ptr(TimeoutError("of a test")));
  CHECK_THROWS_AS(error.get(), TimeoutError);
}

TEST_CASE("async_get keeps what it waits for", "[OR-11][OR-9]") {
  auto later = shared_sandbox().exec(shell("sleep 0.2; echo kept")).async_get(asio::deferred);
  auto moved = std::move(later);
  CHECK(std::move(moved)(asio::use_future).get().std_out == "kept\n");
}

TEST_CASE("awaitable operators and groups get values from async_get", "[OR-11][SR-14]") {
  using namespace asio::experimental::awaitable_operators;
  asio::io_context context;
  std::string seen;
  const auto read = [&seen](cwsandbox::Process from) -> asio::awaitable<void> {
    asio::steady_timer timer(co_await asio::this_coro::executor);
    for (int waits = 0;; ++waits) {
      timer.expires_after(std::chrono::milliseconds(5 + waits % 50));
      const auto first = co_await (from.std_out().next().async_get(asio::use_awaitable) || timer.async_wait(asio::use_awaitable));
      if (first.index() == 1) continue;
      const Chunk& chunk = std::get<0>(first);
      if (!chunk) break;
      seen += *chunk;
    }
  };
  asio::co_spawn(context, read(shared_sandbox().exec(shell("for i in 1 2 3 4 5; do sleep 0.05; echo $i; done"))), rethrow);
  context.run();
  CHECK(seen == "1\n2\n3\n4\n5\n");

  using Wait = decltype(std::declval<task<ProcessResult>&>().async_get(asio::deferred));
  std::vector<Wait> waits;
  for (const char* text : {"a", "b"}) waits.push_back(shared_sandbox().exec({"echo", text}).async_get(asio::deferred));
  auto all =
      asio::experimental::make_parallel_group(std::move(waits)).async_wait(asio::experimental::wait_for_all(), asio::use_future);
  const auto [order, errors, results] = all.get();
  CHECK(std::count(errors.begin(), errors.end(), nullptr) == 2);
  CHECK(results.at(0).std_out == "a\n");
  CHECK(results.at(1).std_out == "b\n");
}

TEST_CASE("async_get completes on its executor, and cancelled it takes nothing", "[OR-11][SR-14]") {
  asio::io_context context;
  const Made made;
  asio::cancellation_signal signal;
  std::string error;
  const auto next = made.reader.next();
  const auto expect_abort = [&](std::exception_ptr failure, const Chunk& chunk) {
    CHECK(context.get_executor().running_in_this_thread());
    CHECK_FALSE(chunk.has_value());
    CHECK_THROWS_AS(rethrow(failure), boost::system::system_error);
    error = text_of(failure);
  };
  next.async_get(asio::bind_cancellation_slot(signal.slot(), asio::bind_executor(context.get_executor(), expect_abort)));
  // The item is there, and its handler on the way, when the wait is cancelled.
  made.send("item");
  REQUIRE(next.done());
  signal.emit(asio::cancellation_type::terminal);
  context.run();
  CHECK(has(error, "cancel"));
  CHECK_FALSE(next.state()->looked_at());
  Chunk got;
  context.restart();
  made.reader.next().async_get(asio::bind_executor(context.get_executor(), [&](std::exception_ptr failure, Chunk chunk) {
    rethrow(failure);
    got = std::move(chunk);
  }));
  context.run();
  CHECK(got == "item");

  // The operation's own cancellation is another error.
  const auto cancelled = made.reader.next();
  auto waiting = cancelled.async_get(asio::use_future);
  CHECK(cancelled.cancel());
  CHECK_THROWS_AS(waiting.get(), CancelledError);
}

TEST_CASE("with_timeout: what ends in time wins, and the limit is in the error", "[OR-10]") {
  CHECK(with_timeout(shared_sandbox().exec({"echo", "in time"}), 60s).result().std_out == "in time\n");
  CHECK(with_timeout(cwsandbox::make_ready_task(std::string("there")), 0s).result() == "there");
  CHECK_THROWS_AS(with_timeout(shared_sandbox().exec(shell("exit 1"), ExecOptions().with_check()), 60s).result(),
                  SandboxExecutionError);

  const auto process = shared_sandbox().exec({"sleep", "1000"});
  const auto limited = with_timeout(process, 50ms);
  CHECK_THROWS_AS(limited.result(), TimeoutError);
  CHECK(has(thrown_by([&] { limited.result(); }), "0.05 s"));
  CHECK_THROWS_AS(process.result(), CancelledError);  // and not after 1000 s

  const task_source<void> never;
  CHECK_THROWS_AS(with_timeout(never.get_task(), std::chrono::duration<double>(0.01)).result(), TimeoutError);
  CHECK(never.get_task().done());
  const task_source<int> mine;
  const auto outer = with_timeout(mine.get_task(), 1h);
  CHECK(outer.cancel());
  CHECK_THROWS_AS(outer.result(), CancelledError);
  CHECK_THROWS_AS(mine.get_task().result(), CancelledError);
  CHECK_THROWS_AS(with_timeout(task<int>(), 1s), std::invalid_argument);
}

TEST_CASE("with_timeout loses no item of a stream", "[OR-10][SR-14]") {
  const Made made;
  CHECK_THROWS_AS(with_timeout(made.reader.next(), 1ms).result(), TimeoutError);
  made.send("first");
  // Completed, and dropped without a look.
  with_timeout(made.reader.next(), 1h).async_wait(asio::use_future).get();
  CHECK(with_timeout(made.reader.next(), 1h).result() == "first");
  // Dropped while it waits.
  static_cast<void>(with_timeout(made.reader.next(), 1h));
  made.send("second");
  CHECK(made.reader.next().result() == "second");
  made.channel->fail(std::make_exception_ptr(SandboxExecutionError("of a test")));
  with_timeout(made.reader.next(), 1h).async_wait(asio::use_future).get();
  CHECK_THROWS_AS(made.reader.next().result(), SandboxExecutionError);

  // Against a writer that is as fast as the limit: every item once, in order.
  const Made raced;
  std::thread writer([&] {
    for (int i = 0; i < 300; ++i) {
      std::this_thread::sleep_for(std::chrono::microseconds(i % 7 * 300));
      raced.send(std::to_string(i) + ",");
    }
    raced.channel->finish();
  });
  std::string seen, wanted;
  for (;;) {
    try {
      const auto chunk = with_timeout(raced.reader.next(), 1ms).result();
      if (!chunk) break;
      seen += *chunk;
    } catch (const TimeoutError&) {
    }
  }
  writer.join();
  for (int i = 0; i < 300; ++i) wanted += std::to_string(i) + ",";
  CHECK(seen == wanted);
}

TEST_CASE("with_timeout leaves nothing on a context that it has left", "[OR-10]") {
  asio::io_context context;
  const Client client(context.get_executor());
  const task_source<int> source(client.loop());
  bool done = false;
  with_timeout(source.get_task(), 24h).async_get([&](std::exception_ptr error, int value) {
    rethrow(error);
    done = value == 7;
  });
  static_cast<void>(with_timeout(source.get_task(), 24h));
  source.set_value(7);
  context.run();  // would go on for a day
  CHECK(done);
}

TEST_CASE("read_all that is cancelled at any time loses no byte and mixes none up", "[SR-14]") {
  const Made made;
  std::string wanted;
  for (int i = 0; i < 2000; ++i) wanted += std::to_string(i) + ",";
  std::jthread writer([&] {
    for (std::size_t at = 0; at < wanted.size(); at += 3) {
      if (at % 7 == 0) std::this_thread::sleep_for(std::chrono::microseconds(at % 5 * 20));
      made.send(wanted.substr(at, 3));
    }
    made.channel->finish();
  });
  std::string seen;
  for (int turn = 0;; ++turn) {
    const auto all = made.reader.read_all();
    std::this_thread::sleep_for(std::chrono::microseconds(turn % 11 * 30));
    if (!all.cancel()) {
      seen = all.result();
      break;
    }
  }
  writer.join();
  CHECK(seen == wanted);
}

TEST_CASE("expects that are cut short at any time lose no byte and mix none up", "[SR-15][SR-14]") {
  const Made made;
  std::string wanted, seen;
  for (int i = 0; i < 400; ++i) wanted += std::to_string(i) + (i % 10 == 9 ? "$" : ",");
  std::thread writer([&] {
    for (std::size_t at = 0; at < wanted.size(); at += 3) {
      std::this_thread::sleep_for(std::chrono::microseconds(at % 5 * 60));
      made.send(wanted.substr(at, 3));
    }
    made.channel->finish();
  });
  for (int turn = 0;; ++turn) {
    try {
      const auto waiting = expect(made.reader, "$", std::chrono::microseconds(50 + turn % 11 * 100));
      if (turn % 3 == 0) waiting.cancel();
      seen += waiting.result();
    } catch (const TimeoutError&) {
    } catch (const CancelledError&) {
    } catch (const SandboxExecutionError&) {
      break;
    }
  }
  writer.join();
  seen += made.reader.read_all().result();
  CHECK(seen == wanted);
}

TEST_CASE("expect gives what came up to the text, and leaves the rest", "[SR-15]") {
  const Made made;
  made.send("one pro");
  made.send("mpt> two\nthree\nfour");
  CHECK(expect(made.reader, "prompt> ", 60s).result() == "one prompt> ");
  CHECK(made.reader.next_line().result() == "two");
  CHECK(expect(made.reader, "r", 60s).result() == "thr");  // of what lines have left over
  CHECK(made.reader.next().result() == "ee\nfour");
  auto waiting = expect(made.reader, "aab", 60s);
  for (const char* part : {"xaa", "a", "b", "y"}) made.send(part);
  CHECK(waiting.result() == "xaaab");
  made.channel->finish();
  CHECK(made.reader.read_all().result() == "y");
}

TEST_CASE("expect that fails shows what came, and leaves it in the reader", "[SR-15]") {
  const Made made;
  made.send("login\r\n");
  const auto late = expect(made.reader, "$ ", 20ms);
  CHECK_THROWS_AS(late.result(), TimeoutError);
  const auto text = thrown_by([&] { late.result(); });
  CHECK(has(text, "\"$ \""));
  CHECK(has(text, "0.02 s"));
  CHECK(has(text, "\"login\\r\\n\""));

  const auto cancelled = expect(made.reader, "$ ", 60s);
  CHECK(cancelled.cancel());
  CHECK_THROWS_AS(cancelled.result(), CancelledError);
  static_cast<void>(expect(made.reader, "$ ", 60s));                  // dropped
  expect(made.reader, "\n", 60s).async_wait(asio::use_future).get();  // not looked at
  CHECK_THROWS_AS(expect(made.reader, "$ ", 60s, 4).result(), std::length_error);
  CHECK(has(thrown_by([&] { expect(made.reader, "$ ", 60s, 4).result(); }), "max_bytes, 4"));
  CHECK_THROWS_AS(expect(made.reader, "$ ", 0s).result(), TimeoutError);

  made.send(std::string(5000, 'x') + "last");
  made.channel->finish();
  const auto ended = thrown_by([&] { expect(made.reader, "$ ", 60s).result(); });
  CHECK(has(ended, "ended"));
  CHECK(has(ended, "xlast\""));
  CHECK(ended.size() < 500);
  CHECK_THROWS_AS(expect(made.reader, "$ ", 60s).result(), SandboxExecutionError);
  CHECK(made.reader.read_all().result() == "login\r\n" + std::string(5000, 'x') + "last");

  CHECK_THROWS_AS(expect(made.reader, "", 1s), std::invalid_argument);
  CHECK_THROWS_AS(expect(made.reader, "long", 1s, 3), std::invalid_argument);
  CHECK_THROWS_AS(expect(StreamReader<std::string>(), "x", 1s), std::invalid_argument);
}

TEST_CASE("expect gives the stream's own error, after its data has gone back", "[SR-15][SR-3]") {
  const Made made;
  made.send("data");
  made.channel->fail(std::make_exception_ptr(CancelledError("of a test")));
  CHECK_THROWS_AS(expect(made.reader, "$ ", 60s).result(), CancelledError);
  CHECK(made.reader.read_all().result() == "data");
}

TEST_CASE("a dialogue on a terminal", "[SR-15][TS-2]") {
  const auto terminal = shared_sandbox().shell(ShellOptions().with_command({"sh"}).with_env("PS1", "ready> "));
  expect(terminal.output(), "ready> ", 60s).result();
  terminal.input().write("echo $((6 * 7))\n").result();
  CHECK(has(expect(terminal.output(), "ready> ", 60s).result(), "\n42\r\n"));
  terminal.input().write("exit 4\n").result();
  CHECK(terminal.result().returncode == 4);
}

TEST_CASE("pipe connects two processes", "[SR-16]") {
  const auto first = shared_sandbox().exec(shell("head -c 5000000 /dev/zero"), ExecOptions().with_capture(Capture::none()));
  const auto second = shared_sandbox().exec({"wc", "-c"}, ExecOptions().with_stdin());
  CHECK(pipe(first.std_out(), second.std_in()).result() == 5'000'000);
  CHECK(second.result().std_out == "5000000\n");

  CHECK_THROWS_AS(pipe(first.std_out(), first.std_in()), std::invalid_argument);
  CHECK_THROWS_AS(pipe(StreamReader<std::string>(), *second.std_in()), std::invalid_argument);
}

TEST_CASE("pipe takes no more than its consumer", "[SR-16]") {
  const Made made;
  const auto sink = std::make_shared<cwsandbox::ByteChannel>(2);
  const auto piped = pipe(made.reader, cwsandbox::StreamWriter(sink));
  std::vector<task<void>> sent;
  for (int i = 0; i < 100; ++i) sent.push_back(made.channel->send(std::to_string(i) + ","));
  // 64 in the channel, 2 queued, 1 that waits to be: the rest waits, however long.
  sent.at(66).result();
  CHECK_FALSE(sent.at(67).done());
  made.channel->finish();
  std::string seen, wanted;
  while (auto chunk = sink->receive().result()) seen += *chunk;
  for (int i = 0; i < 100; ++i) wanted += std::to_string(i) + ",";
  // What was still waiting when the stream was finished went along, too.
  CHECK(seen == wanted);
  CHECK(piped.result() == wanted.size());
}

TEST_CASE("pipe that is cancelled leaves the rest in the reader and the writer open", "[SR-16][SR-14]") {
  const Made made;
  const auto sink = std::make_shared<cwsandbox::ByteChannel>(16);
  const cwsandbox::StreamWriter writer(sink);
  const auto piped = pipe(made.reader, writer);
  made.send("one");
  CHECK(sink->receive().result() == "one");
  CHECK(piped.cancel());
  CHECK_THROWS_AS(piped.result(), CancelledError);
  made.send("two");
  CHECK(made.reader.next().result() == "two");
  CHECK_FALSE(writer.closed());
}

TEST_CASE("pipe passes on the errors of both ends", "[SR-16]") {
  SECTION("the second process has enough") {
    const auto first = shared_sandbox().exec({"yes"}, ExecOptions().with_capture(Capture::none()));
    const auto second = shared_sandbox().exec({"head", "-n", "1"}, ExecOptions().with_stdin());
    CHECK_THROWS_AS(pipe(first.std_out(), second.std_in()).result(), SandboxExecutionError);
    CHECK(second.result().std_out == "y\n");
    CHECK(first.std_out().next().result().has_value());  // its reader is as good as before
    first.cancel();
  }
  SECTION("the first stream fails") {
    const Made made;
    const auto second = shared_sandbox().exec({"cat"}, ExecOptions().with_stdin());
    made.send("data");
    made.channel->fail(std::make_exception_ptr(TimeoutError("of a test")));
    CHECK_THROWS_AS(pipe(made.reader, second.std_in()).result(), TimeoutError);
    CHECK(second.result().std_out == "data");
  }
}

TEST_CASE("sh is a shell, and check_output the output of what succeeds", "[EX-20]") {
  const auto process = shared_sandbox().sh("printf '%s\n' b a | sort; exit $CODE", ExecOptions().with_env("CODE", "5"));
  CHECK(process.result().std_out == "a\nb\n");
  CHECK(process.result().returncode == 5);
  CHECK(process.command().at(0) == "sh");

  CHECK(shared_sandbox().check_output({"echo", "out"}).result() == "out\n");
  const auto failed = shared_sandbox().check_output(shell("echo out; echo err >&2; exit 2"));
  try {
    failed.result();
    FAIL("it has not thrown");
  } catch (const SandboxExecutionError& error) {
    CHECK(has(error.what(), "exit code 2"));
    REQUIRE(error.result());
    CHECK(error.result()->std_out == "out\n");
    CHECK(error.result()->std_err == "err\n");
  }
  const auto cancelled = shared_sandbox().check_output({"sleep", "1000"});
  CHECK(cancelled.cancel());
  CHECK_THROWS_AS(cancelled.result(), CancelledError);
  CHECK_THROWS_AS(shared_sandbox().check_output({}), std::invalid_argument);
}
