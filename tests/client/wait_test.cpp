// results(), settle() and wait().
#include "scripted_server.hpp"
#include "support.hpp"

#include <cwsandbox/wait.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

using namespace support;
using namespace cwsandbox;
namespace asio = boost::asio;

namespace {

task<int> failing(const std::string& what) {
  const task_source<int> source;
  source.set_exception(std::make_exception_ptr(std::runtime_error(what)));
  return source.get_task();
}

template <typename T>
std::string what_of(const task<T>& operation) {
  try {
    static_cast<void>(operation.result(30s));
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "(no error)";
}

}  // namespace

TEST_CASE("results come in the order of the list", "[UT-1]") {
  std::vector<task_source<int>> sources(5);
  std::vector<task<int>> tasks;
  for (const auto& source : sources) tasks.push_back(source.get_task());
  const auto all = results(tasks);
  for (const int i : {3, 0, 4, 1}) sources[static_cast<std::size_t>(i)].set_value(i * 10);
  CHECK_THROWS_AS(all.result(1ms), TimeoutError);
  sources[2].set_value(20);
  CHECK(all.result() == std::vector<int>{0, 10, 20, 30, 40});
  CHECK(results(std::vector<task<int>>()).result().empty());
  CHECK_NOTHROW(results(std::vector<task<void>>{make_ready_task(), make_ready_task()}).result());
  CHECK_NOTHROW(results(std::vector<task<void>>()).result());
  CHECK_THROWS_AS(results(std::vector<task<int>>(1)), std::invalid_argument);
}

TEST_CASE("results of real processes", "[UT-1]") {
  const auto& sandbox = shared_sandbox();
  std::vector<Process> processes;
  for (const char* script : {"sleep 0.3; echo a", "echo b", "sleep 0.1; echo c"}) processes.push_back(sandbox.exec(shell(script)));
  const auto all = results(processes).result();
  REQUIRE(all.size() == 3);
  CHECK(all[0].std_out == "a\n");
  CHECK(all[1].std_out == "b\n");
  CHECK(all[2].std_out == "c\n");
  // Nobody else waits for these, and their output is more than a window: waiting here lets it flow.
  std::vector<Process> silent;
  silent.push_back(sandbox.exec({"head", "-c", "5000000", "/dev/zero"}, ExecOptions().with_capture(Capture::none())));
  CHECK(results(std::move(silent)).result(60s)[0].std_out.produced() == 5000000);
}

TEST_CASE("the first failure in the list's order is thrown", "[UT-2]") {
  const task_source<int> first, last;
  const auto all = results(std::vector<task<int>>{first.get_task(), failing("second"), failing("third"), last.get_task()});
  CHECK_THROWS_AS(all.result(1ms), TimeoutError);  // the first may still fail
  first.set_value(1);
  CHECK(what_of(all) == "second");  // and the last does not matter
  CHECK_FALSE(last.get_task().done());
}

TEST_CASE("settle gathers every outcome", "[UT-2]") {
  const task_source<int> slow;
  const auto all = settle(std::vector<task<int>>{failing("one"), slow.get_task(), failing("three")});
  CHECK_THROWS_AS(all.result(1ms), TimeoutError);
  slow.set_value(2);
  const auto& outcomes = all.result();
  REQUIRE(outcomes.size() == 3);
  CHECK(what_of(outcomes[0]) == "one");
  CHECK(outcomes[1].get() == 2);
  CHECK(what_of(outcomes[2]) == "three");
}

TEST_CASE("cancelling drops the wait, not the work", "[UT-1][UT-3]") {
  const task_source<int> source;
  const auto all = results(std::vector<task<int>>{source.get_task()});
  const auto some = wait(std::vector<task<int>>{source.get_task()});
  CHECK(all.cancel());
  CHECK(some.cancel());
  CHECK_THROWS_AS(all.result(), CancelledError);
  CHECK_THROWS_AS(some.result(), CancelledError);
  CHECK(source.set_value(5));
  CHECK(source.get_task().result() == 5);
}

TEST_CASE("wait gives the caller's own objects, done and pending", "[UT-3][UT-4][UT-5]") {
  const Client client;
  const auto starting = Sandbox::run(client);
  const auto& sandbox = shared_sandbox();
  const auto endless = sandbox.exec({"sleep", "1000"});
  const auto quick = sandbox.exec({"/bin/sh", "-c", "exit 3"});
  const auto broken = sandbox.exec({"no-such-program"});
  const task_source<std::string> text;
  text.set_value("x");
  const auto found =
      wait({starting, endless, quick, broken, text.get_task(), failing("no")}, WaitManyOptions().with_num_returns(5));
  const auto& result = found.result(60s);
  CHECK(result.done_indices == std::vector<std::size_t>{0, 2, 3, 4, 5});  // an error is done, and not thrown
  CHECK(result.pending_indices == std::vector<std::size_t>{1});
  REQUIRE(result.done.size() == 5);
  REQUIRE(result.done[0].sandbox() != nullptr);
  CHECK(result.done[0].sandbox()->state() == starting.state());
  CHECK(starting.status() == SandboxStatus::running);
  REQUIRE(result.done[1].process() != nullptr);
  CHECK(result.done[1].process()->id() == quick.id());
  CHECK(result.done[1].process()->returncode() == 3);
  REQUIRE(result.pending.size() == 1);
  CHECK(result.pending[0].process()->id() == endless.id());
  endless.cancel();
}

TEST_CASE("wait on a list of one kind", "[UT-3]") {
  const auto& sandbox = shared_sandbox();
  std::vector<Process> processes{sandbox.exec({"sleep", "1000"}), sandbox.exec({"true"})};
  const auto found = wait(processes, WaitManyOptions().with_num_returns(1)).result(60s);
  REQUIRE(found.done.size() == 1);
  CHECK(found.done[0].wait() == 0);
  REQUIRE(found.pending.size() == 1);
  CHECK(found.pending[0].cancel());
}

TEST_CASE("exactly as many as asked for, at least one", "[UT-6]") {
  const std::vector<task<int>> ready{failing("a"), make_ready_task(1), make_ready_task(2)};
  const auto two = wait(ready, WaitManyOptions().with_num_returns(2)).result();
  CHECK(two.done_indices == std::vector<std::size_t>{0, 1});
  CHECK(two.pending_indices == std::vector<std::size_t>{2});
  CHECK(wait(ready, WaitManyOptions().with_num_returns(9)).result().done.size() == 3);
  CHECK_THROWS_AS(wait(ready, WaitManyOptions().with_num_returns(0)), std::invalid_argument);
  CHECK_THROWS_AS(wait(std::vector<task<int>>(), WaitManyOptions().with_num_returns(0)), std::invalid_argument);
  CHECK(wait(std::vector<task<int>>()).result().done.empty());
  CHECK_THROWS_AS(wait(std::vector<Sandbox>(1)), std::invalid_argument);
}

TEST_CASE("one deadline over all", "[UT-8]") {
  const task_source<int> never;
  std::vector<task<int>> tasks(20, never.get_task());
  tasks.push_back(make_ready_task(1));
  const auto found = wait(tasks, WaitManyOptions().with_timeout(30ms)).result(20s);
  CHECK(found.done_indices == std::vector<std::size_t>{20});
  CHECK(found.pending.size() == 20);
  CHECK(wait(tasks, WaitManyOptions().with_timeout(0ms)).result().done.size() == 1);
}

TEST_CASE("a sandbox that does not come to run in time is pending, and no longer asked about", "[UT-4][UT-8]") {
  ScriptedServer server;
  server.reply("CreateSandbox", ScriptedServer::sandbox("sb-1", "STATE_CREATING"));
  server.reply("GetSandbox", ScriptedServer::sandbox("sb-1", "STATE_CREATING"));
  asio::io_context context;
  std::size_t pending = 0;
  {
    const auto sandbox = Sandbox::run(Client(server.options().with_executor(context.get_executor())));
    sandbox.release();
    auto found = wait({sandbox}, WaitManyOptions().with_timeout(100ms));
    found.async_wait([&pending, found](boost::system::error_code) { pending = found.get().pending.size(); });
  }
  context.run();  // returns: nothing goes on
  CHECK(pending == 1);
}

namespace {
asio::awaitable<void> gather(Client client, bool& done) {
  const auto sandbox = Sandbox::run(client);
  std::vector<Process> processes{sandbox.exec(argv("echo", "1")), sandbox.exec(argv("echo", "2"))};
  const auto all = co_await results(processes);
  const auto some = co_await wait(processes);
  const auto settled = co_await settle(processes);
  done = all.size() == 2 && all[1].std_out == "2\n" && some.done.size() == 2 && settled[0].returncode() == 0;
}
}  // namespace

TEST_CASE("all of it in a coroutine, on the caller's executor", "[UT-1][UT-3]") {
  asio::io_context context;
  bool done = false;
  asio::co_spawn(context, gather(Client(context.get_executor()), done), [](const std::exception_ptr& error) {
    if (error) std::rethrow_exception(error);
  });
  context.run();
  CHECK(done);
}
