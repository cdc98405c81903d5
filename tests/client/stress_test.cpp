// One object of each class, hammered from eight threads. Made for the thread sanitizer; without it, it shows that nothing hangs.
#include "scripted_server.hpp"
#include "support.hpp"

#include <atomic>
#include <functional>
#include <mutex>
#include <thread>

using namespace support;
using namespace cwsandbox;

namespace {

constexpr int kThreads = 8;

/// Runs the work on all threads at once; the first error comes out at the end.
void hammer(const std::function<void(int)>& work) {
  std::atomic<int> ready{0};
  std::mutex mutex;
  std::exception_ptr error;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i)
    threads.emplace_back([&, i] {
      ++ready;
      while (ready < kThreads) std::this_thread::yield();
      try {
        work(i);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
      }
    });
  for (auto& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);
}

void expect(bool condition, const char* what) {  // the checks of the test framework are not for several threads
  if (!condition) throw std::runtime_error(what);
}

}  // namespace

TEST_CASE("one client, from eight threads", "[EV-4][threads]") {
  const Client client;
  const auto sandbox = Sandbox::run(client);
  sandbox.start().result();
  hammer([&](int) {
    for (int i = 0; i < 5; ++i) {
      const Client copy = client;
      expect(copy.base_url() == "local:", "the URL");
      expect(Sandbox::from_id(copy, *sandbox.sandbox_id()).result().sandbox_id() == sandbox.sandbox_id(), "from_id");
      expect(!Sandbox::list(client).result().empty(), "list");
    }
  });
}

TEST_CASE("one sandbox, from eight threads", "[EV-4][LC-2][LC-5][ST-2][threads]") {
  const auto sandbox = Sandbox::run();
  hammer([&](int thread) {
    sandbox.start().result();
    const auto wait = sandbox.wait();
    if (thread % 2 == 0) wait.cancel();
    for (int i = 0; i < 4; ++i) {
      static_cast<void>(sandbox.status());
      static_cast<void>(sandbox.runner_id());
      static_cast<void>(sandbox.exec_stats());
      expect(!is_terminal(sandbox.get_status().result()), "the status");
      expect(sandbox.exec({"/bin/sh", "-c", "echo $0", std::to_string(thread)}).result().std_out == std::to_string(thread) + "\n",
             "the output");
    }
  });
  CHECK(sandbox.exec_stats().completed_ok == kThreads * 4);
  hammer([&](int thread) {
    const auto ended = sandbox.wait_until_complete(WaitOptions().with_raise_on_termination(false));
    if (thread % 2 == 0) sandbox.stop(StopOptions().with_grace_period(1s)).result();
    expect(is_terminal(ended.result()), "the end");
    expect(is_terminal(sandbox.status()), "the status at the end");
  });
}

TEST_CASE("one process and its writer, from eight threads", "[EV-4][threads]") {
  const auto& sandbox = shared_sandbox();
  const auto process = sandbox.exec({"cat"}, ExecOptions().with_stdin());
  const std::string line(99, 'x');
  hammer([&](int thread) {
    for (int i = 0; i < 50; ++i) {
      process.std_in()->writeline(line).result();
      if (i % 10 == 0) process.std_in()->flush().result();
      static_cast<void>(process.status());
      expect(!process.poll(), "too early");
    }
    expect(process.pid().result() > 0, "the pid");
    if (thread == 0) process.signal("SIGCONT");
  });
  hammer([&](int) { process.std_in()->close().result(); });
  hammer([&](int) { expect(process.result().std_out.size() == kThreads * 50 * 100, "all that was written"); });
  const auto endless = sandbox.exec({"sleep", "1000"});
  hammer([&](int thread) {
    if (thread % 2 == 0) endless.cancel();
    try {
      static_cast<void>(endless.result());
      expect(false, "cancelled");
    } catch (const CancelledError&) {
    }
  });
}

TEST_CASE("one session, from eight threads", "[EV-4][SE-2][SE-3][threads]") {
  ScriptedServer server;
  std::atomic<int> made{0};
  std::mutex mutex;
  std::map<std::string, std::string> states;
  server.on("CreateSandbox", [&](const auto&) {
    const auto id = "sb-" + std::to_string(++made);
    const std::lock_guard lock(mutex);
    states[id] = "STATE_RUNNING";
    return ScriptedServer::ok(ScriptedServer::sandbox(id, "STATE_RUNNING"));
  });
  server.on("GetSandbox", [&](const auto& request) {
    const std::lock_guard lock(mutex);
    const std::string id = request.json()["sandboxId"];
    return ScriptedServer::ok(ScriptedServer::sandbox(id, states[id]));
  });
  server.on("DeleteSandbox", [&](const auto& request) {
    const std::lock_guard lock(mutex);
    states[request.json()["sandboxId"]] = "STATE_TERMINATED";
    return ScriptedServer::ok(nlohmann::json::object());
  });
  const Session session(Client(server.options()));
  hammer([&](int thread) {
    try {
      for (int i = 0; i < 10; ++i) {
        const auto sandbox = session.sandbox(SandboxOptions().with_tag("t"));
        if (i % 2 == 0) sandbox.start().result();
        session.adopt(sandbox);
        static_cast<void>(session.size());
        if (i == 8 && thread % 4 == 0) session.close().result();
      }
    } catch (const SandboxError&) {  // another thread has closed it
    }
    session.close().result();
  });
  CHECK(session.closed());
  CHECK(session.size() == 0);
  const std::lock_guard lock(mutex);
  for (const auto& [id, state] : states) CHECK(state == "STATE_TERMINATED");
}

TEST_CASE("one wait and one list of results, from eight threads", "[UT-1][UT-3][threads]") {
  for (int round = 0; round < 20; ++round) {
    std::vector<task_source<int>> sources(kThreads);
    std::vector<task<int>> tasks;
    for (const auto& source : sources) tasks.push_back(source.get_task());
    const auto all = results(tasks);
    const auto some = wait(tasks, WaitManyOptions().with_num_returns(3).with_timeout(20s));
    const auto dropped = wait(tasks, WaitManyOptions().with_timeout(1ms));
    hammer([&](int thread) {
      sources[static_cast<std::size_t>(thread)].set_value(thread);
      if (thread == 1) dropped.cancel();
      expect(all.result().size() == kThreads, "all");
      expect(some.result().done.size() == 3, "three");
    });
  }
}
