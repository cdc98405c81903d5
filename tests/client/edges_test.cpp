// The API at its edges: waits that are given up, handles that are temporaries, handovers.
#include "support.hpp"
#include "support/patience.hpp"

#include <boost/asio/bind_executor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/deferred.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>

#include <csignal>
#include <future>

#include <sys/wait.h>

using namespace support;
using cwsandbox::Client;
using cwsandbox::ClientOptions;
using cwsandbox::CWSandboxConfigurationError;
using cwsandbox::Detach;
using cwsandbox::ListOptions;
using cwsandbox::Outcome;
using cwsandbox::ProcessResult;
using cwsandbox::ProcessStatus;
using cwsandbox::SandboxConnectionLostError;
using cwsandbox::SandboxExecutionError;
using cwsandbox::SandboxOptions;
using cwsandbox::Session;
namespace asio = boost::asio;

TEST_CASE("waits that lose against a timer lose no line", "[SR-14]") {
  using namespace asio::experimental::awaitable_operators;
  const auto process = shared_sandbox().exec(shell("for i in 1 2 3 4 5; do sleep 0.05; echo $i; done"));
  std::string seen, lines;
  const auto read = [](cwsandbox::Process from, std::string* into) -> asio::awaitable<void> {
    asio::steady_timer timer(co_await asio::this_coro::executor);
    int waits = 0;
    for (;;) {
      timer.expires_after(std::chrono::milliseconds(5 + waits++ % 50));
      static_cast<void>(co_await (from.std_out().next().async_wait(asio::use_awaitable) || timer.async_wait(asio::use_awaitable)));
      if (waits % 4 != 0) continue;
      const auto chunk = co_await from.std_out().next();
      if (!chunk) break;
      *into += *chunk;
    }
  };
  asio::io_context context;
  asio::co_spawn(context, read(process, &seen), rethrow);
  context.run();
  CHECK(seen == "1\n2\n3\n4\n5\n");

  const auto read_lines = [](cwsandbox::Process from, std::string* into) -> asio::awaitable<void> {
    asio::steady_timer timer(co_await asio::this_coro::executor);
    int waits = 0;
    for (;;) {
      timer.expires_after(std::chrono::milliseconds(5 + waits++ % 50));
      static_cast<void>(
          co_await (from.std_out().next_line().async_wait(asio::use_awaitable) || timer.async_wait(asio::use_awaitable)));
      if (waits % 4 != 0) continue;
      const auto line = co_await from.std_out().lines().next();
      if (!line) break;
      *into += *line + ",";
    }
  };
  const auto again = shared_sandbox().exec(shell("for i in 1 2 3 4 5; do sleep 0.05; echo $i; done"));
  context.restart();
  asio::co_spawn(context, read_lines(again, &lines), rethrow);
  context.run();
  CHECK(lines == "1,2,3,4,5,");
}

TEST_CASE("lines one by one, from a LineReader that is a temporary", "[SR-7][SR-14]") {
  const auto process = shared_sandbox().exec({"seq", "10"});
  std::string lines;
  for (std::string_view line : process.std_out().lines()) {
    lines += std::string(line) + ",";
    break;
  }
  while (auto line = process.std_out().lines().next().result()) lines += *line + ",";
  CHECK(lines == "1,2,3,4,5,6,7,8,9,10,");
}

TEST_CASE("lines of a process that was cancelled end in its error", "[EX-9][SR-3]") {
  const auto process = shared_sandbox().exec(shell("echo first; exec sleep 1000"));
  CHECK(process.std_out().next_line().result() == "first");
  CHECK(process.cancel());
  CHECK_THROWS_AS(process.std_out().next_line().result(), cwsandbox::CancelledError);
  CHECK_FALSE(process.std_out().next_line().result().has_value());
}

TEST_CASE("what a killed process closes before it ends is no end of its output", "[EX-9][SR-3]") {
  // Told to go, it closes its output at once, and stays for a while.
  const auto slow = shell("trap 'exec >&- 2>&-; sleep 1; exit 0' TERM; echo first; while :; do sleep 0.05; done");
  SECTION("cancelled") {
    const auto process = shared_sandbox().exec(slow);
    CHECK(process.std_out().next_line().result() == "first");
    CHECK(process.cancel());
    CHECK_THROWS_AS(process.std_out().next_line().result(60s), cwsandbox::CancelledError);
    CHECK_THROWS_AS(process.result(60s), cwsandbox::CancelledError);
  }
  SECTION("at its time limit") {
    const auto process = shared_sandbox().exec(slow, ExecOptions().with_timeout(500ms));
    CHECK(process.std_out().next_line().result() == "first");
    CHECK_THROWS_AS(process.std_out().next_line().result(60s), cwsandbox::SandboxCommandTimeoutError);
    CHECK_THROWS_AS(process.result(60s), cwsandbox::SandboxCommandTimeoutError);
  }
}

TEST_CASE("a follow's lines are not lost to waits that were given up", "[SR-14][LG-1]") {
  const auto sandbox = Sandbox::run(SandboxOptions().with_command(shell("seq 5; exec sleep 1000")));
  const auto log = sandbox.stream_logs(cwsandbox::LogOptions().with_follow());
  for (int i = 1; i <= 5; ++i) {
    // Held until it has its item, and dropped without a look.
    {
      log.next().async_wait(asio::use_future).get();
    }
    CHECK(log.next().result()->text == std::to_string(i));
  }
}

TEST_CASE("results of reads that nobody looked at stay in their streams", "[SR-14][UT-1]") {
  const auto first = shared_sandbox().exec({"seq", "2"}), second = shared_sandbox().exec({"seq", "3", "4"});
  const auto lines = [&] { return cwsandbox::results(std::vector{first.std_out().next_line(), second.std_out().next_line()}); };
  for (int i = 0; i < 20; ++i) lines().async_wait(asio::use_future).get();
  const auto both = lines().result();
  CHECK(both[0] == "1");
  CHECK(both[1] == "3");
  CHECK(first.std_out().next_line().result() == "2");
  CHECK(second.std_out().next_line().result() == "4");
}

TEST_CASE("what waits for a process keeps it, also when its handle was a temporary", "[OR-9][PR-9]") {
  const auto& sandbox = shared_sandbox();
  const auto slow = shell("sleep 0.2; echo done");
  const auto read = sandbox.exec(slow).std_out().next();
  const auto everything = sandbox.exec(slow).std_out().read_all();
  const auto line = sandbox.exec(slow).std_out().next_line();
  auto lines = sandbox.exec(slow).std_out().lines();
  auto future = sandbox.exec(slow).async_wait(asio::use_future);
  auto operation = sandbox.exec(shell("sleep 0.2; exit 7")).async_wait(asio::deferred);
  const auto flush = [&] {
    const auto reads = sandbox.exec({"cat"}, ExecOptions().with_stdin());
    return reads.std_in()->write("x");
  }();
  std::promise<boost::system::error_code> called;
  sandbox.exec(slow).async_wait([&](boost::system::error_code error) { called.set_value(error); });
  const auto pid = sandbox.exec({"sleep", "0.2"}).pid();
  CHECK(read.result() == "done\n");
  CHECK(everything.result() == "done\n");
  CHECK(line.result() == "done");
  CHECK(lines.next().result() == "done");
  CHECK(pid.result() > 0);
  flush.result();
  future.get();
  CHECK_FALSE(called.get_future().get());
  std::move(operation)(asio::use_future).get();
  // All ended by themselves: none was killed.
  CHECK(sandbox.exec(shell("sleep 0.1; exit 5")).result().returncode == 5);
}

TEST_CASE("a wait that goes takes its process with it", "[OR-9][PR-9]") {
  const auto& sandbox = shared_sandbox();
  std::string pid;
  {
    auto operation = sandbox.exec(shell("echo $$; exec sleep 1000"));
    pid = operation.std_out().next_line().result().value();
    auto waits = operation.async_wait(asio::deferred);
    operation = sandbox.exec({"true"});
    CHECK(sandbox.exec({"test", "-d", "/proc/" + pid}).wait() == 0);
  }
  const auto gone = sandbox.exec(shell("while test -d /proc/" + pid + "; do sleep 0.05; done"));
  CHECK(gone.wait(test_support::patience(60s)) == 0);
}

TEST_CASE("a stats callback for a process in a sandbox", "[PR-12]") {
  const auto& sandbox = shared_sandbox();
  std::promise<std::optional<int>> told;
  const auto process =
      sandbox.exec(shell("exit 3"), ExecOptions().with_stats_callback([&](const ProcessResult* result, const std::exception_ptr&) {
        told.set_value(result->returncode);
        throw std::runtime_error("is dropped");
      }));
  for ([[maybe_unused]] const auto& chunk : process.std_out()) {  // only streams are read
  }
  CHECK(told.get_future().get() == 3);
  CHECK(process.wait() == 3);

  std::promise<bool> failed;
  CHECK_THROWS_AS(sandbox
                      .exec({"no-such-program"},
                            ExecOptions().with_stats_callback([&](const ProcessResult* result, const std::exception_ptr& error) {
                              failed.set_value(result == nullptr && error != nullptr);
                            }))
                      .result(),
                  SandboxExecutionError);
  CHECK(failed.get_future().get());

  // One that asks for the result gets it; the callback runs on the loop, where blocking would be refused.
  std::promise<int> asked;
  std::promise<cwsandbox::Process> handed;
  auto handle = handed.get_future().share();
  auto asks = sandbox.exec(
      {"cat"}, ExecOptions().with_stdin().with_stats_callback([&, handle](const ProcessResult*, const std::exception_ptr&) {
        asked.set_value(handle.get().result().returncode.value());
      }));
  handed.set_value(asks);
  asks.std_in()->close().result();
  CHECK(asked.get_future().get() == 0);
}

TEST_CASE("poll of a command that cannot be started ends", "[PR-15]") {
  const auto process = shared_sandbox().exec({"no-such-program"});
  const auto until_ended = [&] { static_cast<void>(eventually([&] { return process.poll().has_value(); })); };
  CHECK_THROWS_AS(until_ended(), SandboxExecutionError);
  CHECK_FALSE(process.returncode());
}

TEST_CASE("a process that was let go of is whole for the next one", "[TS-14][TS-17]") {
  const Daemon daemon;
  const Client client(daemon.options());
  const auto sandbox = Sandbox::run(client);
  const auto first = sandbox.exec(shell("echo before; while ! test -e /tmp/go; do sleep 0.02; done; echo after; exit 7"));
  CHECK(first.std_out().next().result() == "before\n");
  const auto pid = std::to_string(first.pid().result());
  first.detach(Detach::let_go);
  std::uint64_t from = 0;
  try {
    first.result();
    FAIL("it was let go of");
  } catch (const SandboxConnectionLostError& error) {
    CHECK(error.reason() == "CWSANDBOX_PROCESS_DETACHED");
    from = std::stoull(error.metadata().at("stdout_received"));
    CHECK(error.result()->std_out.size() == from);
  }
  CHECK(first.status() == ProcessStatus::lost);
  // It ends while this program goes on, and somebody else has the rest and the exit code.
  CHECK(sandbox.exec(shell("touch /tmp/go; while test -d /proc/" + pid + "; do sleep 0.02; done")).wait() == 0);
  const Client another(ClientOptions(daemon.options()).with_request_timeout(100s));
  const auto found = Sandbox::from_id(another, *sandbox.sandbox_id()).result();
  const auto second = found.attach(first.id(), cwsandbox::AttachOptions().with_offsets(from));
  const auto& result = second.result();
  CHECK(result.returncode == 7);
  CHECK(("before\n" + std::string("after\n")).substr(from) == result.std_out);

  SECTION("before it has started") {
    const auto early = Sandbox::run(client);
    const auto process = early.exec(shell("echo out; exit 8"));
    process.detach(Detach::let_go);
    CHECK_THROWS_AS(process.result(), SandboxConnectionLostError);
    const auto again = early.attach(process.id(), cwsandbox::AttachOptions().with_from_held());
    CHECK(again.result().returncode == 8);
  }
}

TEST_CASE("files with certificates that cannot be used are named at once", "[ER-6]") {
  const TemporaryDirectory directory;
  const auto refused = [](ClientOptions options) {
    try {
      const Client client(options.with_base_url("https://localhost:1"));
    } catch (const CWSandboxConfigurationError& error) {
      CHECK(std::string(error.what()).find(error.metadata().at("path")) != std::string::npos);
      CHECK(std::string(error.what()).find(error.metadata().at("option")) != std::string::npos);
      return error.metadata().at("option") + "=" + error.metadata().at("path");
    }
    return std::string("taken");
  };
  const std::string missing = directory.path() + "/missing.pem";
  CHECK(refused(ClientOptions().with_ca_file(missing)) == "ca_file=" + missing);
  CHECK(refused(ClientOptions().with_ca_file("/dev/null")) == "ca_file=/dev/null");
  CHECK(refused(ClientOptions().with_client_certificate(missing, missing)) == "certificate_file=" + missing);
  CHECK(refused(ClientOptions()) == "taken");
}

TEST_CASE("an empty Sandbox is misuse, not a crash", "[LC-1]") {
  const Sandbox empty;
  CHECK_THROWS_AS(empty.exec({"true"}), std::invalid_argument);
  CHECK_THROWS_AS(empty.sandbox_id(), std::invalid_argument);
  CHECK_THROWS_AS(empty.stop(), std::invalid_argument);
  CHECK_THROWS_AS(empty.stream_logs(), std::invalid_argument);
  CHECK_THROWS_AS(empty.read_file("/a"), std::invalid_argument);
  CHECK_THROWS_AS(empty.write_file("/a", "b"), std::invalid_argument);
  CHECK_THROWS_AS(empty.read_file_stream("/a"), std::invalid_argument);
  CHECK_THROWS_AS(empty.write_file_stream("/a"), std::invalid_argument);
  CHECK_THROWS_AS(empty.stat_file("/a"), std::invalid_argument);
  CHECK_THROWS_AS(empty.list_files("/a"), std::invalid_argument);
}

TEST_CASE("handles keep no context at work", "[EV-6][EV-8]") {
  asio::io_context context;
  SECTION("to a sandbox elsewhere") {
    const Daemon daemon;
    auto options = daemon.options();
    const Client client(options.with_executor(context.get_executor()));
    const auto sandbox = Sandbox::run(client);
    const auto process = sandbox.exec({"echo", "hi"});
    context.run();
    CHECK(process.get().std_out == "hi\n");
    context.restart();
    const auto again = sandbox.exec({"echo", "again"});
    context.run();
    CHECK(again.get().std_out == "again\n");
    context.restart();
    const auto stop = sandbox.stop();
    context.run();
    CHECK(stop.done());
  }
  SECTION("to one that was stopped") {
    const Client client(context.get_executor());
    const auto sandbox = Sandbox::run(client);
    const auto process = sandbox.exec({"echo", "hi"});
    process.async_wait(asio::bind_executor(context.get_executor(), [&](auto) { sandbox.stop(); }));
    context.run();
    CHECK(process.get().std_out == "hi\n");
    CHECK(sandbox.status() == cwsandbox::SandboxStatus::terminated);
  }
  SECTION("to a session that was closed") {
    const Client client(context.get_executor());
    const Session session(client);
    const auto sandbox = session.sandbox();
    const auto process = sandbox.exec({"echo", "hi"});
    process.async_wait(asio::bind_executor(context.get_executor(), [&](auto) { session.close(); }));
    context.run();
    CHECK(process.get().std_out == "hi\n");
  }
}
