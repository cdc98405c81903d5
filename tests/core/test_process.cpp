// Process and ProcessResult made from parts, as users build fakes.
#include "support/catch.hpp"

#include <cwsandbox/asio.hpp>
#include <cwsandbox/exec_options.hpp>
#include <cwsandbox/process.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>

#include <future>
#include <sstream>
#include <thread>

using namespace cwsandbox;
using namespace std::chrono_literals;

namespace {

struct Fake {
  task_source<ProcessResult> source;
  std::shared_ptr<Channel<std::string>> out = std::make_shared<Channel<std::string>>();
  std::shared_ptr<Channel<std::string>> err = std::make_shared<Channel<std::string>>();
  std::shared_ptr<ByteChannel> in = std::make_shared<ByteChannel>();

  [[nodiscard]] Process process(bool use_stdin = false, Process::StatsCallback stats = nullptr) const {
    return Process(source.get_task(), argv("sort", "-r"), StreamReader<std::string>(out), StreamReader<std::string>(err),
                   use_stdin ? std::optional<StreamWriter>(StreamWriter(in)) : std::nullopt, std::move(stats));
  }
  void exit(int code, const char* text = "") {
    out->finish();
    err->finish();
    source.set_value(result(code, text));
  }
  static ProcessResult result(int code, const char* text = "") {
    ProcessResult made;
    made.std_out = Output(text);
    made.returncode = code;
    made.outcome = Outcome::exited;
    made.command = argv("sort", "-r");
    return made;
  }
};

}  // namespace

TEST_CASE("poll, returncode and status never block", "[PR-1][PR-5][PR-10]") {
  Fake fake;
  auto process = fake.process();
  CHECK_FALSE(process.poll());
  CHECK_FALSE(process.returncode());
  CHECK(process.status() == ProcessStatus::running);
  fake.exit(3);
  CHECK(process.poll() == 3);
  CHECK(process.returncode() == 3);
  CHECK(process.status() == ProcessStatus::exited);
}

TEST_CASE("wait gives the code, result the whole", "[PR-2][PR-3]") {
  Fake fake;
  auto process = fake.process();
  std::thread other([&] { fake.exit(7, "text"); });
  CHECK(process.wait() == 7);
  CHECK(process.wait(1s) == 7);
  CHECK(process.result().std_out == "text");
  CHECK(process.result(1s).returncode == 7);
  other.join();
}

TEST_CASE("a waiter's timeout is not cached and kills nothing", "[PR-4][RES-7]") {
  Fake fake;
  auto process = fake.process();
  CHECK_THROWS_AS(process.wait(1ms), TimeoutError);
  CHECK_THROWS_AS(process.result(1ms), TimeoutError);
  CHECK(process.status() == ProcessStatus::running);
  fake.exit(0);
  CHECK(process.wait(0s) == 0);
}

TEST_CASE("command is what the caller asked for", "[PR-6]") {
  CHECK(Fake().process().command() == std::vector<std::string>{"sort", "-r"});
}

TEST_CASE("cancel takes effect once and wakes waiters and writers", "[PR-7][PR-8]") {
  Fake fake;
  auto process = fake.process(true);
  auto write = process.std_in()->write(std::string(ByteChannel::SLOT_SIZE * 20, 'x'));
  auto waiting = std::async(std::launch::async, [&] { (void)process.wait(); });
  CHECK(process.cancel());
  CHECK_THROWS_AS(waiting.get(), CancelledError);
  CHECK_THROWS_AS(write.result(), SandboxExecutionError);
  CHECK_FALSE(process.cancel());
  CHECK(process.status() == ProcessStatus::cancelled);

  Fake ended;
  auto completed = ended.process();
  ended.exit(0);
  CHECK_FALSE(completed.cancel());
  CHECK(completed.wait() == 0);
}

TEST_CASE("every outcome has its status", "[PR-10]") {
  const auto status_of = [](Outcome outcome) {
    Fake fake;
    auto process = fake.process();
    ProcessResult result;
    result.outcome = outcome;
    fake.source.set_value(result);
    return process.status();
  };
  CHECK(status_of(Outcome::signaled) == ProcessStatus::signaled);
  CHECK(status_of(Outcome::lost) == ProcessStatus::lost);
  ErrorFields fields;
  auto partial = std::make_shared<ProcessResult>();
  partial->outcome = Outcome::timed_out;
  partial->std_out = Output("so far");
  partial->returncode = 143;
  fields.result = partial;
  Fake fake;
  auto process = fake.process();
  fake.source.set_exception(std::make_exception_ptr(SandboxCommandTimeoutError("too slow", fields)));
  CHECK(process.status() == ProcessStatus::timed_out);
  CHECK(process.returncode() == 143);
  try {
    (void)process.result();
    FAIL("no exception");
  } catch (const SandboxCommandTimeoutError& error) {
    REQUIRE(error.result());
    CHECK(error.result()->std_out == "so far");
  }
  Fake failing;
  auto failed = failing.process();
  failing.source.set_exception(std::make_exception_ptr(SandboxExecutionError("no such program")));
  CHECK(failed.status() == ProcessStatus::failed);
}

TEST_CASE("an exit status that nobody knows is not invented", "[EX-11]") {
  Fake fake;
  auto process = fake.process();
  ProcessResult unknown;  // outcome lost
  fake.source.set_value(unknown);
  CHECK_FALSE(process.returncode());
  CHECK_THROWS_AS(process.wait(), SandboxExecutionError);
}

TEST_CASE("the stats callback runs once, before anybody sees the result", "[PR-12]") {
  Fake fake;
  std::atomic<int> calls{0};
  int code = -1;
  auto process = fake.process(false, [&](const ProcessResult* result, std::exception_ptr error) {
    ++calls;
    code = result && !error ? result->returncode.value() : -2;
  });
  CHECK_THROWS_AS(process.result(1ms), TimeoutError);
  auto copy = process;
  std::thread other([&] { fake.exit(5); });
  (void)process.result();
  CHECK(calls == 1);
  CHECK(code == 5);
  (void)copy.result();
  other.join();
  CHECK(calls == 1);

  Fake failing;
  bool got_error = false;
  auto failed =
      failing.process(false, [&](const ProcessResult* result, std::exception_ptr error) { got_error = !result && error; });
  failing.source.set_exception(std::make_exception_ptr(SandboxExecutionError("x")));
  CHECK_THROWS_AS(failed.result(), SandboxExecutionError);
  CHECK(got_error);

  Fake unread;
  int unread_calls = 0;
  auto only_streams = unread.process(false, [&](const ProcessResult*, std::exception_ptr) { ++unread_calls; });
  unread.exit(0);
  CHECK_FALSE(only_streams.std_out().next().result());
  CHECK(unread_calls == 1);
}

TEST_CASE("stdin is there only when asked for, and fails with the process", "[PR-14][SW-12]") {
  Fake fake;
  CHECK(fake.process().std_in() == nullptr);
  auto process = fake.process(true);
  REQUIRE(process.std_in());
  (void)process.std_in()->write("x");
  fake.exit(0);
  try {
    (void)process.std_in()->write("late");
    FAIL("no exception");
  } catch (const SandboxExecutionError& error) {
    CHECK(std::string(error.what()) == "Cannot write to stdin: stream has failed");
    try {
      std::rethrow_if_nested(error);
      FAIL("nothing nested");
    } catch (const SandboxExecutionError& cause) {
      CHECK(std::string(cause.what()) == "Process has exited");
    }
  }
}

TEST_CASE("the result is the same object each time and cheap to copy", "[RES-5]") {
  Fake fake;
  auto process = fake.process();
  fake.exit(0, "some text");
  CHECK(&process.result() == &process.result());
  const ProcessResult copy = process.result();
  CHECK(copy.std_out.view().data() == process.result().std_out.view().data());
  std::ostringstream printed;
  printed << copy.std_out;
  CHECK(printed.str() == "some text");
}

TEST_CASE("co_await process gives its result", "[PR-3][OR-4]") {
  asio::io_context io;
  Fake fake;
  auto process = fake.process();
  int code = -1;
  asio::co_spawn(
      io,
      [&]() -> asio::awaitable<void> {
        auto result = co_await process;
        code = result.returncode.value();
      },
      asio::detached);
  io.poll();
  fake.exit(11);
  io.run();
  CHECK(code == 11);
}

TEST_CASE("a Process made from a plain task has no pid to signal", "[PR-10]") {
  auto process = Fake().process();
  CHECK_THROWS_AS(process.signal(15), SandboxExecutionError);
  CHECK_THROWS_AS(process.pid().result(), SandboxExecutionError);
  CHECK(process.id().empty());
}

TEST_CASE("a stats callback may ask for the result that it is told of", "[PR-12]") {
  Fake fake;
  std::optional<Process> process;
  int code = 0, failures = 0;
  const auto stats = [&](const ProcessResult* result, const std::exception_ptr& error) {
    CHECK_FALSE(process->done());  // for everybody else it goes on
    try {
      code = process->result().returncode.value();
      CHECK(result->returncode == code);
    } catch (const CancelledError&) {
      CHECK(error);
      ++failures;
    }
    throw std::runtime_error("an accounting that fails");  // is dropped
  };
  process = fake.process(false, stats);
  SECTION("a result") {
    fake.exit(4);
    CHECK(code == 4);
    CHECK(process->wait() == 4);
  }
  SECTION("an error") {
    fake.source.set_exception(std::make_exception_ptr(CancelledError("gone")));
    CHECK(failures == 1);
    CHECK_THROWS_AS(process->result(), CancelledError);
  }
}

TEST_CASE("poll ends also where there is no code", "[PR-1][PR-15]") {
  Fake fake;
  const auto process = fake.process();
  CHECK_FALSE(process.poll());
  SECTION("an error") {
    fake.source.set_exception(std::make_exception_ptr(SandboxExecutionError("could not be started")));
    CHECK_THROWS_AS(process.poll(), SandboxExecutionError);
  }
  SECTION("a result without one") {
    auto result = Fake::result(0);
    result.returncode.reset();
    result.outcome = Outcome::lost;
    fake.source.set_value(result);
    CHECK_THROWS_AS(process.poll(), SandboxExecutionError);
  }
  CHECK_FALSE(process.returncode());
}

TEST_CASE("a Process of nothing is misuse, not a crash", "[PR-1]") {
  const Fake fake;
  const StreamReader<std::string> out(fake.out), err(fake.err);
  CHECK_THROWS_AS(Process(task<ProcessResult>(), argv("x"), out, err), std::invalid_argument);
  CHECK_THROWS_AS(Process(fake.source.get_task(), argv("x"), StreamReader<std::string>(), err), std::invalid_argument);
}
