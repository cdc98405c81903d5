// Commands in real sandboxes on this machine, through the embedded gateway.
#include "support.hpp"
#include "support/patience.hpp"

#include <coroutine>
#include <future>
#include <numeric>
#include <set>
#include <thread>

using namespace support;
using cwsandbox::CancelledError;
using cwsandbox::Outcome;
using cwsandbox::ProcessStatus;
using cwsandbox::SandboxExecutionError;

TEST_CASE("a command's output and exit code", "[EX-8][RES-2][PR-2][PR-3][PR-5][PR-6]") {
  const auto process = shared_sandbox().exec(shell("echo out; echo err >&2; exit 3"));
  const auto& result = process.result();
  CHECK(result.std_out == "out\n");
  CHECK(result.std_err == "err\n");
  CHECK(result.returncode == 3);
  CHECK(result.outcome == Outcome::exited);
  CHECK(process.wait() == 3);
  CHECK(process.returncode() == 3);
  CHECK(process.command() == shell("echo out; echo err >&2; exit 3"));
  CHECK(process.status() == ProcessStatus::exited);
  CHECK(&process.result() == &process.result());  // RES-5
  CHECK(result.started_at.time_since_epoch().count() > 0);
  CHECK(process.std_in() == nullptr);  // PR-14
}

TEST_CASE("what can be seen to be wrong is refused at the call", "[EX-1][EX-2]") {
  const auto& sandbox = shared_sandbox();
  CHECK_THROWS_AS(sandbox.exec({}), std::invalid_argument);
  CHECK_THROWS_AS(sandbox.exec({""}), std::invalid_argument);
  CHECK_THROWS_AS(sandbox.exec({"true"}, ExecOptions().with_cwd("")), std::invalid_argument);
  CHECK_THROWS_AS(sandbox.exec({"true"}, ExecOptions().with_cwd("tmp")), std::invalid_argument);
  CHECK_THROWS_AS(sandbox.exec({"echo", std::string("a\0b", 3)}), std::invalid_argument);
  CHECK_THROWS_AS(sandbox.exec({"true"}, ExecOptions().with_env("A=B", "c")), std::invalid_argument);
  CHECK_THROWS_AS(sandbox.exec({"true"}, ExecOptions().with_env("", "c")), std::invalid_argument);
  CHECK_THROWS_AS(sandbox.exec({"true"}, ExecOptions().with_timeout(0ms)), std::invalid_argument);
  CHECK_THROWS_AS(sandbox.exec({"echo", std::string(5 * 1024 * 1024, 'x')}), std::invalid_argument);
}

TEST_CASE("what cannot be started says why, to result, readers and writer", "[EX-2][EX-9][EX-20][PR-10]") {
  const auto& sandbox = shared_sandbox();
  const auto error_name = [&](std::vector<std::string> command, ExecOptions options = ExecOptions()) {
    const auto process = sandbox.exec(std::move(command), std::move(options));
    try {
      process.result();
    } catch (const SandboxExecutionError& error) {
      CHECK(process.status() == ProcessStatus::failed);
      REQUIRE(error.result() != nullptr);
      CHECK(error.result()->outcome == Outcome::failed);
      CHECK_FALSE(process.returncode().has_value());
      CHECK_THROWS_AS(process.std_out().next().result(), SandboxExecutionError);
      CHECK_FALSE(process.std_out().next().result().has_value());
      CHECK_THROWS_AS(process.std_err().next().result(), SandboxExecutionError);
      if (process.std_in()) CHECK_THROWS_AS(process.std_in()->write("x"), SandboxExecutionError);
      return error.error_name();
    }
    return std::string("started");
  };
  CHECK(error_name({"no-such-program"}) == "ENOENT");
  CHECK(error_name({"/etc/passwd"}, ExecOptions().with_stdin()) == "EACCES");
  CHECK(error_name({"true"}, ExecOptions().with_cwd("/no/such/place")) == "ENOENT");
  CHECK(error_name({"true", std::string(200 * 1024, 'x')}) == "E2BIG");
}

TEST_CASE("cwd and env go over the wire", "[EX-2]") {
  const auto result = shared_sandbox()
                          .exec(shell("pwd; echo \"$GREETING\"; env | grep -c SECRET_OF_THE_HOST"),
                                ExecOptions().with_cwd("/tmp").with_env("GREETING", "h\xc3\xa9llo $(x)"))
                          .result();
  CHECK(result.std_out == "/tmp\nh\xc3\xa9llo $(x)\n0\n");
}

TEST_CASE("exec starts a sandbox and keeps it", "[EX-4][LC-1]") {
  const auto process = Sandbox::run().exec({"echo", "here"});  // the process is all that holds the sandbox
  CHECK(process.result().std_out == "here\n");
}

TEST_CASE("exec in a stopped sandbox", "[EX-5][ST-1][ST-2][ST-3]") {
  const auto sandbox = Sandbox::run();
  sandbox.wait().result();
  CHECK(sandbox.status() == cwsandbox::SandboxStatus::running);
  const auto first = sandbox.stop();
  const auto second = sandbox.stop();
  first.result();
  second.result();
  CHECK(is_terminal(sandbox.status()));
  CHECK_THROWS_AS(sandbox.exec({"true"}).result(), cwsandbox::SandboxNotRunningError);
  // The gateway says the same to a handle that does not know.
  const cwsandbox::Client client;
  const auto other = Sandbox::from_id(client, *sandbox.sandbox_id()).result();
  CHECK_THROWS_AS(other.exec({"true"}).result(), cwsandbox::SandboxNotRunningError);
}

TEST_CASE("check turns an exit into an error that holds the result", "[EX-6]") {
  const auto process = shared_sandbox().exec(shell("echo partial; exit 4"), ExecOptions().with_check());
  CHECK(process.std_out().read_all().result() == "partial\n");  // the stream ends in order
  try {
    process.result();
    FAIL("no error");
  } catch (const SandboxExecutionError& error) {
    CHECK(std::string(error.what()).find("failed with exit code 4") != std::string::npos);
    REQUIRE(error.result() != nullptr);
    CHECK(error.result()->std_out == "partial\n");
    CHECK(error.result()->returncode == 4);
  }
  CHECK(process.returncode() == 4);
}

TEST_CASE("death by a signal is visible", "[EX-16]") {
  const auto result = shared_sandbox().exec(shell("kill -9 $$")).result();
  CHECK(result.outcome == Outcome::signaled);
  CHECK(result.signal == 9);
  CHECK(result.returncode == 137);
}

TEST_CASE("the timeout kills where it runs and keeps the output", "[EX-12][EX-13]") {
  const auto process =
      shared_sandbox().exec(shell("echo before; sleep 1000"), ExecOptions().with_timeout(300ms).with_grace_period(1s));
  try {
    process.result();
    FAIL("no error");
  } catch (const cwsandbox::SandboxCommandTimeoutError& error) {
    REQUIRE(error.result() != nullptr);
    CHECK(error.result()->std_out == "before\n");
    CHECK(error.result()->outcome == Outcome::timed_out);
  }
  CHECK(process.status() == ProcessStatus::timed_out);
}

TEST_CASE("what a command leaves in the background is said, and does not keep it", "[EX-19]") {
  const auto left = shared_sandbox().exec(shell("sleep 1000 & echo done; exit 3"), ExecOptions().with_drain(50ms)).result();
  CHECK(left.std_out == "done\n");
  CHECK(left.returncode == 3);
  CHECK(left.outcome == Outcome::exited);
  CHECK(left.reason == cwsandbox::EndReason::none);
  CHECK(left.stdout_left_open);
  CHECK(left.stderr_left_open);
  const auto half = shared_sandbox().exec(shell("sleep 1000 2>/dev/null & echo done"), ExecOptions().with_drain(50ms)).result();
  CHECK(half.stdout_left_open);
  CHECK_FALSE(half.stderr_left_open);
  const auto last = shared_sandbox().exec(shell("(sleep 1.5; echo late) & echo done"), ExecOptions().with_drain(0ms)).result();
  CHECK(last.std_out == "done\nlate\n");
  CHECK_FALSE(last.stdout_left_open);
  // With the default, and with a timeout that passes meanwhile: the command itself was in time.
  const auto in_time = shared_sandbox().exec(shell("sleep 1000 & echo done"), ExecOptions().with_timeout(200ms)).result();
  CHECK(in_time.returncode == 0);
  CHECK(in_time.stdout_left_open);
  CHECK_THROWS_AS(shared_sandbox().exec({"true"}, ExecOptions().with_drain(-1ms)), std::invalid_argument);
}

TEST_CASE("what ended a process from outside is in its result", "[EX-18]") {
  const auto sandbox = Sandbox::run();
  const auto process = sandbox.exec(shell("echo up; exec sleep 1000"));
  REQUIRE(process.std_out().next().result(60s));
  sandbox.stop().result();
  const auto& result = process.result(60s);
  CHECK(result.outcome == Outcome::signaled);
  CHECK(result.reason == cwsandbox::EndReason::sandbox_stopped);
  CHECK(to_string(result.reason) == "sandbox_stopped");
  const auto timed = shared_sandbox().exec(shell("sleep 1000"), ExecOptions().with_timeout(100ms));
  try {
    timed.result();
    FAIL("no error");
  } catch (const cwsandbox::SandboxCommandTimeoutError& error) {
    REQUIRE(error.result() != nullptr);
    CHECK(error.result()->reason == cwsandbox::EndReason::timeout);
  }
}

TEST_CASE("all output precedes the exit", "[EX-17][RES-3][IO-8]") {
  // Every byte value, and more than any window, with no reader at all.
  const auto process = shared_sandbox().exec(
      shell("i=0; while [ $i -lt 256 ]; do printf \"\\\\$(printf %03o $i)\"; i=$((i+1)); done; head -c 5000000 /dev/zero"));
  const auto result = process.result();
  std::string expected(256, '\0');
  std::iota(reinterpret_cast<unsigned char*>(expected.data()), reinterpret_cast<unsigned char*>(expected.data()) + 256, 0);
  REQUIRE(result.std_out.size() == 5000256);
  CHECK(result.std_out.view().substr(0, 256) == expected);
  CHECK(result.std_out.view().find_first_not_of('\0', 256) == std::string_view::npos);
}

TEST_CASE("without stdin the child sees the end at once", "[IO-5]") {
  CHECK(shared_sandbox().exec({"cat"}).result().returncode == 0);
}

TEST_CASE("stdin: half-close, counts, order", "[IO-6][SW-3][SW-7][SW-16]") {
  const auto& sandbox = shared_sandbox();
  const auto count = sandbox.exec({"wc", "-c"}, ExecOptions().with_stdin());
  count.std_in()->write(std::string(200 * 1024, 'x')).result();
  count.std_in()->close().result();
  CHECK(count.result().std_out == "204800\n");

  const auto sort = sandbox.exec({"sort"}, ExecOptions().with_stdin());
  sort.std_in()->writeline("pear").result();
  sort.std_in()->writeline("apple").result();
  sort.std_in()->close().result();
  CHECK(sort.result().std_out == "apple\npear\n");
}

TEST_CASE("a child that exits without reading gives its own status", "[IO-4][IO-9][SW-12][SW-14]") {
  const auto process =
      shared_sandbox().exec(shell("trap 'exit 5' USR1; echo ready; while :; do sleep 0.05; done"), ExecOptions().with_stdin());
  static_cast<void>(process.std_out().next().result());
  // Far more than fits anywhere: some of it waits when the process ends.
  const auto write = process.std_in()->write(std::string(8 * 1024 * 1024, 'x'));
  process.signal("USR1");
  CHECK(process.result().returncode == 5);
  CHECK_THROWS_AS(write.result(), SandboxExecutionError);
  try {
    process.std_in()->write("more");
    FAIL("no error");
  } catch (const SandboxExecutionError& error) {
    CHECK(std::string(error.what()) == "Cannot write to stdin: stream has failed");
    try {
      std::rethrow_if_nested(error);
      FAIL("no cause");
    } catch (const SandboxExecutionError& cause) {
      CHECK(std::string(cause.what()) == "Process has exited");
    }
  }
  CHECK_NOTHROW(process.std_in()->close().result());  // SW-13
}

TEST_CASE("flush completes when the gateway has it", "[SW-18]") {
  const auto process = shared_sandbox().exec({"cat"}, ExecOptions().with_stdin());
  process.std_in()->write("ping").result();
  process.std_in()->flush().result(30s);
  CHECK(*process.std_out().next().result() == "ping");
  process.std_in()->close().result();
  CHECK(process.wait() == 0);
}

TEST_CASE("chunks arrive while the command runs, lines whole", "[SR-1][SR-2][SR-7][SR-8][SR-11]") {
  const auto process = shared_sandbox().exec({"cat"}, ExecOptions().with_stdin());
  process.std_in()->write("h\xc3").result();
  CHECK(*process.std_out().next().result() == "h\xc3");
  process.std_in()->write("\xa9\nsecond\nlast").result();
  process.std_in()->close().result();
  std::vector<std::string> lines;
  for (const std::string_view line : process.std_out().lines()) lines.emplace_back(line);
  CHECK(lines == std::vector<std::string>{"\xa9", "second", "last"});
  CHECK_FALSE(process.std_out().next().result().has_value());
}

TEST_CASE("closing a reader does not stop the command", "[SR-4][SR-5][SR-6][SR-9]") {
  const auto process =
      shared_sandbox().exec(shell("head -c 3000000 /dev/zero; exit 6"), ExecOptions().with_capture(Capture::none()));
  process.std_out().close();
  CHECK_FALSE(process.std_out().next().result().has_value());
  CHECK(process.wait() == 6);

  const auto silent = shared_sandbox().exec({"sleep", "1000"});
  const auto next = silent.std_out().next();
  std::thread closer([reader = silent.std_out()] { reader.close(); });
  CHECK_FALSE(next.result().has_value());
  closer.join();
}

TEST_CASE("cancel kills the group and reports it", "[PR-7][PR-8][PR-9][PR-10]") {
  const auto& sandbox = shared_sandbox();
  const auto process = sandbox.exec(shell("echo $$; sleep 1000 & wait"), ExecOptions().with_stdin().with_grace_period(5s));
  const auto group = *process.std_out().next().result();
  const auto blocked = process.std_in()->write(std::string(8 * 1024 * 1024, 'x'));
  CHECK(process.cancel());
  CHECK_THROWS_AS(process.result(), CancelledError);
  CHECK_THROWS_AS(blocked.result(), SandboxExecutionError);
  CHECK(process.status() == ProcessStatus::cancelled);
  CHECK_FALSE(process.cancel());
  // Whoever sees the error knows that nothing is left.
  CHECK(sandbox.exec(shell("kill -0 -" + group)).result().returncode != 0);
}

TEST_CASE("cancel of one that ignores SIGTERM", "[PR-9]") {
  const auto process =
      shared_sandbox().exec(shell("trap '' TERM; echo ready; while :; do sleep 1; done"), ExecOptions().with_grace_period(200ms));
  static_cast<void>(process.std_out().next().result());
  CHECK(process.cancel());
  try {
    process.result();
    FAIL("no error");
  } catch (const CancelledError& error) {
    REQUIRE(error.result() != nullptr);
    CHECK(error.result()->signal == 9);
  }
}

TEST_CASE("the last handle that goes cancels, unless detached", "[PR-9]") {
  const auto& sandbox = shared_sandbox();
  std::string pid, detached_pid;
  {
    const auto process = sandbox.exec({"sleep", "1001"}, ExecOptions().with_grace_period(5s));
    pid = std::to_string(process.pid().result());
    const auto detached = sandbox.exec({"sleep", "1002"});
    detached_pid = std::to_string(detached.pid().result());
    detached.detach();
  }
  // Waits for its end without a clock of our own.
  CHECK(sandbox.exec(shell("while kill -0 " + pid + " 2>/dev/null; do sleep 0.05; done"), ExecOptions().with_timeout(60s)).wait() ==
        0);
  CHECK(sandbox.exec(shell("kill -0 " + detached_pid)).wait() == 0);
  CHECK(sandbox.exec(shell("kill -9 " + detached_pid)).wait() == 0);
}

namespace {

/// A coroutine type that has nothing to do with Asio: it goes on where the task is completed.
struct Plain {
  struct promise_type {
    std::promise<void> ended;
    Plain get_return_object() { return Plain{ended.get_future()}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() { ended.set_value(); }
    void unhandled_exception() { ended.set_exception(std::current_exception()); }
  };
  std::future<void> ended;
};

Plain detach_when_started(cwsandbox::Process process) {
  static_cast<void>(co_await process.pid());
  process.detach();
  static_cast<void>(process.pid());
}

}  // namespace

TEST_CASE("whoever hears of the pid may use the process at once", "[PR-9][EV-2]") {
  const auto sandbox = Sandbox::run();
  const auto started = sandbox.exec({"sleep", "1000"});
  const auto waits = detach_when_started(started);
  REQUIRE(waits.ended.wait_for(test_support::patience(60s)) == std::future_status::ready);
  CHECK(started.cancel());
  CHECK_THROWS_AS(started.result(), CancelledError);
  // One that never has a pid.
  auto never = detach_when_started(sandbox.exec({"no-such-program"}));
  REQUIRE(never.ended.wait_for(test_support::patience(60s)) == std::future_status::ready);
  CHECK_THROWS_AS(never.ended.get(), SandboxExecutionError);
}

TEST_CASE("a waiter's timeout concerns that waiter alone", "[PR-1][PR-4][RES-7][EX-13]") {
  const auto process = shared_sandbox().exec({"cat"}, ExecOptions().with_stdin());
  CHECK_FALSE(process.poll().has_value());
  CHECK_THROWS_AS(process.wait(1ms), cwsandbox::TimeoutError);
  CHECK_THROWS_AS(process.result(1ms), cwsandbox::TimeoutError);
  process.std_in()->close().result();
  CHECK(process.wait() == 0);
  CHECK(process.poll() == 0);
}

TEST_CASE("signals pass while stdin is stuck", "[PR-10][P3]") {
  const auto process =
      shared_sandbox().exec(shell("trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done"), ExecOptions().with_stdin());
  static_cast<void>(process.std_out().next().result());
  const auto blocked = process.std_in()->write(std::string(8 * 1024 * 1024, 'x'));
  CHECK_THROWS_AS(process.signal("SIGNONSENSE"), std::invalid_argument);
  process.signal("SIGUSR1");
  CHECK(process.wait() == 9);
  CHECK_THROWS_AS(process.signal("TERM"), SandboxExecutionError);
  CHECK_THROWS_AS(blocked.result(), SandboxExecutionError);
}

TEST_CASE("counts", "[PR-13]") {
  const auto sandbox = Sandbox::run();
  CHECK(sandbox.exec({"true"}).wait() == 0);
  CHECK(sandbox.exec({"false"}).wait() == 1);
  CHECK_THROWS_AS(sandbox.exec({"no-such-program"}).result(), SandboxExecutionError);
  const auto stats = sandbox.exec_stats();
  CHECK(stats.exec_count == 3);
  CHECK(stats.completed_ok == 1);
  CHECK(stats.completed_nonzero == 1);
  CHECK(stats.failures == 1);
}

TEST_CASE("the capture rule", "[RES-3][P2]") {
  const auto& sandbox = shared_sandbox();
  const auto big = shell("printf start; head -c 10000000 /dev/zero; printf end");
  const auto some = sandbox.exec(big, ExecOptions().with_capture(Capture::head_tail(5, 3))).result();
  CHECK(some.std_out.head() == "start");
  CHECK(some.std_out.tail() == "end");
  CHECK(some.std_out.received() == 10000008);
  CHECK(some.std_out.dropped() == 10000000);
  const auto nothing = sandbox.exec(big, ExecOptions().with_capture(Capture::none())).result();
  CHECK(nothing.std_out.empty());
  CHECK(nothing.std_out.received() == 10000008);
  // Streamed whole, kept nowhere.
  const auto streamed = sandbox.exec(big, ExecOptions().with_capture(Capture::none()));
  std::uint64_t total = 0;
  for (const auto& chunk : streamed.std_out()) total += chunk.size();
  CHECK(total == 10000008);
  CHECK(streamed.wait() == 0);
}

TEST_CASE("64 MiB there and back through cat", "[P1][IO-8]") {
  const auto process = shared_sandbox().exec({"cat"}, ExecOptions().with_stdin().with_capture(Capture::none()));
  constexpr std::size_t kTotal = 64 * 1024 * 1024, kBlock = 100 * 1000;
  const auto fill = [](std::string& block, std::uint64_t& state) {
    for (char& c : block) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      c = static_cast<char>(state >> 56u);
    }
  };
  std::thread writer([&] {
    std::uint64_t state = 1;
    std::string block;
    for (std::size_t sent = 0; sent < kTotal; sent += block.size()) {
      block.resize(std::min(kBlock, kTotal - sent));
      fill(block, state);
      process.std_in()->write(std::string_view(block)).result();
    }
    process.std_in()->close().result();
  });
  std::uint64_t state = 1, received = 0, wrong = 0;
  std::string expected;
  std::size_t used = 0;
  for (const auto& chunk : process.std_out()) {
    for (const char c : chunk) {
      if (used == expected.size()) {
        expected.resize(std::min<std::size_t>(kBlock, kTotal - received));
        fill(expected, state);
        used = 0;
      }
      wrong += c != expected[used++];
      ++received;
    }
  }
  writer.join();
  CHECK(received == kTotal);
  CHECK(wrong == 0);
  CHECK(process.wait() == 0);
}

TEST_CASE("a hundred processes at once", "[EV-4]") {
  std::vector<cwsandbox::Process> processes;
  for (int i = 0; i < 100; ++i) processes.push_back(shared_sandbox().exec({"echo", std::to_string(i)}));
  for (int i = 0; i < 100; ++i) CHECK(processes[static_cast<std::size_t>(i)].result().std_out == std::to_string(i) + "\n");
}

TEST_CASE("many threads use one sandbox", "[EV-4]") {
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&good] {
      for (int i = 0; i < 10; ++i)
        if (shared_sandbox().exec({"echo", "x"}).result().std_out == "x\n") ++good;
    });
  for (auto& thread : threads) thread.join();
  CHECK(good == 80);
}

TEST_CASE("list and from_id", "[LC-14][LC-15]") {
  const cwsandbox::Client client;
  const auto tagged = Sandbox::run(client, cwsandbox::SandboxOptions().with_tag("blue").with_tag("list-test"));
  tagged.start().result();
  const auto found = Sandbox::list(client, cwsandbox::ListOptions().with_tag("blue").with_tag("list-test")).result();
  REQUIRE(found.size() == 1);
  CHECK(found[0].sandbox_id() == tagged.sandbox_id());
  CHECK(found[0].tags() == std::vector<std::string>{"blue", "list-test"});
  CHECK(Sandbox::list(client, cwsandbox::ListOptions().with_tag("blue").with_tag("red")).result().empty());
  try {
    static_cast<void>(Sandbox::from_id(client, "sb-unknown").result());
    FAIL("found");
  } catch (const cwsandbox::SandboxNotFoundError& error) {
    CHECK(std::string(error.what()).find("sb-unknown") != std::string::npos);
    CHECK(error.code() == "not_found");
  }
}

TEST_CASE("an image that a local sandbox cannot have", "[LC-1]") {
  const auto sandbox = Sandbox::run(cwsandbox::SandboxOptions().with_image("python:3.11"));
  CHECK_THROWS_AS(sandbox.wait().result(), cwsandbox::CWSandboxError);
  CHECK_THROWS_AS(sandbox.exec({"true"}).result(), cwsandbox::CWSandboxError);
}

TEST_CASE("options of a sandbox", "[LC-1]") {
  const auto sandbox = Sandbox::run(cwsandbox::SandboxOptions().with_env("COLOUR", "green").with_working_dir("/tmp"));
  CHECK(sandbox.exec(shell("echo $COLOUR; pwd")).result().std_out == "green\n/tmp\n");
  CHECK_THROWS_AS(Sandbox::run(cwsandbox::SandboxOptions().with_working_dir("tmp")), std::invalid_argument);
  CHECK_THROWS_AS(Sandbox::run(cwsandbox::SandboxOptions().with_env("A=B", "c")), std::invalid_argument);
  CHECK_THROWS_AS(Sandbox::run(cwsandbox::SandboxOptions().with_tag("\xff")), std::invalid_argument);
}
