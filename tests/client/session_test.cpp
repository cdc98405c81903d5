#include "scripted_server.hpp"
#include "support.hpp"

#include <cwsandbox/session.hpp>

#include <atomic>
#include <csignal>
#include <map>
#include <mutex>
#include <set>

#include <sys/wait.h>
#include <unistd.h>

using namespace support;
using namespace cwsandbox;
using nlohmann::json;

namespace {

/// A server where every sandbox runs until it is deleted, or does not want to be.
struct Fleet {
  std::mutex mutex;
  std::map<std::string, std::string> states;
  std::set<std::string> stubborn;
  std::atomic<int> deleting{0}, most_deleting{0};
  ScriptedServer server;

  Fleet() {
    server.on("CreateSandbox", [this](const auto& request) {
      const std::lock_guard lock(mutex);
      const auto id = "sb-" + std::to_string(states.size() + 1) + request.json()["sandbox"]["spec"].value("runtimeClass", "");
      states[id] = "STATE_RUNNING";
      return ScriptedServer::ok(ScriptedServer::sandbox(id, "STATE_RUNNING"));
    });
    server.on("GetSandbox", [this](const auto& request) {
      const std::lock_guard lock(mutex);
      const std::string id = request.json()["sandboxId"];
      if (!states.count(id)) return ScriptedServer::error("not_found", "no such sandbox");
      return ScriptedServer::ok(ScriptedServer::sandbox(id, states[id]));
    });
    server.on("ListSandboxes", [this](const auto&) {
      const std::lock_guard lock(mutex);
      json all = json::array();
      for (const auto& [id, state] : states) all.push_back(ScriptedServer::sandbox(id, state));
      return ScriptedServer::ok({{"sandboxes", all}});
    });
    server.on("DeleteSandbox", [this](const auto& request) {
      const std::string id = request.json()["sandboxId"];
      const std::lock_guard lock(mutex);
      if (stubborn.count(id)) return ScriptedServer::error("internal", id + " does not want to go");
      states[id] = "STATE_TERMINATED";
      return ScriptedServer::ok(json::object());
    });
  }
  Client client() { return Client(server.options().with_retry_budget(0ms)); }
  std::string state(const std::string& id) {
    const std::lock_guard lock(mutex);
    return states[id];
  }
  void set_stubborn(std::set<std::string> ids) {
    const std::lock_guard lock(mutex);
    stubborn = std::move(ids);
  }
};

}  // namespace

TEST_CASE("session.sandbox() asks nobody, and inherits the defaults", "[SE-1]") {
  Fleet fleet;
  const Session session(fleet.client(), SandboxDefaults().with_image("img").with_env("A", "1").with_tag("all"));
  const auto sandbox = session.sandbox(SandboxOptions().with_env("B", "2").with_tag("one"));
  CHECK_FALSE(sandbox.sandbox_id().has_value());
  CHECK(sandbox.image() == "img");
  CHECK(sandbox.tags() == std::vector<std::string>{"all", "one"});
  CHECK(session.size() == 1);
  CHECK(fleet.server.count("CreateSandbox") == 0);
  sandbox.wait().result();
  REQUIRE(fleet.server.count("CreateSandbox") == 1);
  const auto spec = fleet.server.requests("CreateSandbox")[0].json()["sandbox"]["spec"];
  CHECK(spec["containers"][0]["image"] == "img");
  CHECK(spec["containers"][0]["environmentVariables"] == json({{"A", "1"}, {"B", "2"}}));
  session.close().result();
}

TEST_CASE("real sandboxes of a session: the first exec starts one, close stops all", "[SE-1][SE-3]") {
  const Client client;
  const Session session(client, SandboxDefaults().with_env("GREETING", "hello"));
  std::vector<Sandbox> sandboxes;
  for (int i = 0; i < 3; ++i) sandboxes.push_back(session.sandbox());
  CHECK(sandboxes[0].exec({"/bin/sh", "-c", "echo $GREETING"}).result().std_out == "hello\n");
  sandboxes[1].wait().result();
  session.close(StopOptions().with_grace_period(1s)).result();
  CHECK(is_terminal(sandboxes[0].status()));
  CHECK(is_terminal(sandboxes[1].status()));
  CHECK(session.size() == 0);
}

TEST_CASE("after close everything throws, what is under way too", "[SE-2]") {
  Fleet fleet;
  const Session session(fleet.client());
  const auto never_started = session.sandbox();
  const auto other = Session(fleet.client()).sandbox();
  std::atomic<bool> asked{false}, go_on{false};
  fleet.states["sb-9"] = "STATE_RUNNING";
  fleet.server.on("GetSandbox", [&](const auto&) {
    asked = true;
    eventually([&] { return go_on.load(); });
    return ScriptedServer::ok(ScriptedServer::sandbox("sb-9", "STATE_RUNNING"));
  });
  const auto under_way = session.from_id("sb-9");
  CHECK(eventually([&] { return asked.load(); }));
  session.close().result();
  CHECK(session.closed());
  go_on = true;
  CHECK_THROWS_AS(under_way.result(), SandboxError);
  CHECK_THROWS_AS(session.sandbox(), SandboxError);
  CHECK_THROWS_AS(session.from_id("sb-9"), SandboxError);
  CHECK_THROWS_AS(session.from_id("sb-9", false), SandboxError);
  CHECK_THROWS_AS(session.list(), SandboxError);
  CHECK_THROWS_AS(session.list(ListOptions(), true), SandboxError);
  CHECK_THROWS_AS(session.adopt(other), SandboxError);
  CHECK_THROWS_AS(never_started.start().result(), SandboxNotRunningError);
  CHECK_THROWS_AS(never_started.exec({"true"}).result(), SandboxNotRunningError);
  CHECK_NOTHROW(session.close().result());
  CHECK(fleet.server.count("CreateSandbox") == 0);
  CHECK(fleet.server.count("DeleteSandbox") == 0);  // the found one was not adopted
}

TEST_CASE("close tries all at once, tells of all that failed, and can be called again", "[SE-3][SE-4]") {
  Fleet fleet;
  const Session session(fleet.client());
  std::vector<Sandbox> sandboxes;
  for (const char* name : {"-a", "-b", "-c", "-d"}) {
    sandboxes.push_back(session.sandbox(SandboxOptions().with_runtime_class(name)));
    sandboxes.back().start().result();
  }
  fleet.set_stubborn({"sb-1-a", "sb-3-c"});
  // All at once: each delete is answered only when the others have come too.
  std::atomic<int> together{0};
  fleet.server.on("DeleteSandbox", [&](const auto& request) {
    ++together;
    eventually([&] { return together >= 4; });
    const std::string id = request.json()["sandboxId"];
    const std::lock_guard lock(fleet.mutex);
    if (fleet.stubborn.count(id)) return ScriptedServer::error("internal", id + " does not want to go");
    fleet.states[id] = "STATE_TERMINATED";
    return ScriptedServer::ok(json::object());
  });
  try {
    session.close().result(60s);
    FAIL("closed");
  } catch (const SessionCloseError& error) {
    REQUIRE(error.causes().size() == 2);
    const std::string text = error.what();
    CHECK(text.find("2 of 4") != std::string::npos);
    CHECK(text.find("sb-1-a") != std::string::npos);
    CHECK(text.find("sb-3-c") != std::string::npos);
    CHECK_THROWS_AS(std::rethrow_exception(error.causes()[0]), SandboxError);
  }
  CHECK(together == 4);
  CHECK(session.size() == 2);
  CHECK(fleet.state("sb-2-b") == "STATE_TERMINATED");
  CHECK(fleet.state("sb-4-d") == "STATE_TERMINATED");
  fleet.set_stubborn({});
  const auto again = session.close();
  const auto shared = session.close();
  CHECK_NOTHROW(again.result());
  CHECK_NOTHROW(shared.result());
  CHECK(together == 6);
  CHECK(fleet.state("sb-1-a") == "STATE_TERMINATED");
  CHECK(session.size() == 0);
}

TEST_CASE("list does not adopt unless asked, from_id does unless told not to", "[SE-7][SE-8]") {
  Fleet fleet;
  fleet.states = {{"x-1", "STATE_RUNNING"}, {"x-2", "STATE_RUNNING"}, {"x-3", "STATE_RUNNING"}};
  {
    const Session session(fleet.client());
    CHECK(session.list().result().size() == 3);
    CHECK(session.size() == 0);
    CHECK(session.from_id("x-1", false).result().sandbox_id() == "x-1");
    CHECK(session.size() == 0);
    CHECK(session.from_id("x-1").result().sandbox_id() == "x-1");
    CHECK(session.size() == 1);
    session.close().result();
  }
  CHECK(fleet.state("x-1") == "STATE_TERMINATED");
  CHECK(fleet.state("x-2") == "STATE_RUNNING");
  {
    const Session session(fleet.client());
    CHECK(session.list(ListOptions(), true).result().size() == 3);
    CHECK(session.size() == 2);
    session.close().result();
  }
  CHECK(fleet.state("x-2") == "STATE_TERMINATED");
  CHECK(fleet.state("x-3") == "STATE_TERMINATED");
}

TEST_CASE("a session that goes out of scope stops what it holds", "[SE-3]") {
  Fleet fleet;
  std::optional<Sandbox> kept;
  {
    const Session session(fleet.client());
    kept = session.sandbox();
    kept->start().result();
    session.sandbox().start().result();  // its handle goes at once: the session keeps it
    CHECK(fleet.state("sb-2") == "STATE_RUNNING");
  }
  CHECK(eventually([&] { return fleet.state("sb-1") == "STATE_TERMINATED" && fleet.state("sb-2") == "STATE_TERMINATED"; }));
}

TEST_CASE("exit and signals close sessions, if the program wants it", "[SE-11]") {
  for (const std::string how : {"session", "signal", "no-signal"}) {
    INFO(how);
    Fleet fleet;
    const auto ran = run_program({environment("LEAK_HELPER"), "mark", how}, "", {"CWSANDBOX_BASE_URL=" + fleet.server.url()});
    CHECK(ran.out == "ready\n");
    CHECK(ran.err == "");
    if (how == "session") {
      CHECK(WIFEXITED(ran.status));
    } else {
      CHECK(WIFSIGNALED(ran.status));
      CHECK(WTERMSIG(ran.status) == SIGTERM);
    }
    CHECK(fleet.state("sb-1") == (how == "no-signal" ? "STATE_RUNNING" : "STATE_TERMINATED"));
  }
}

TEST_CASE("a second signal ends the process at once", "[SE-11]") {
  Fleet fleet;
  std::atomic<bool> over{false};
  std::atomic<int> pid{0};
  fleet.server.on("CreateSandbox", [&](const auto& request) {
    pid = std::stoi(request.json()["sandbox"]["spec"]["tags"][0].template get<std::string>());
    return ScriptedServer::ok(ScriptedServer::sandbox("sb-1", "STATE_RUNNING"));
  });
  fleet.server.on("DeleteSandbox", [&](const auto&) {  // the first signal has come this far, and here it is stuck
    ::kill(pid, SIGTERM);
    eventually([&] { return over.load(); });
    return ScriptedServer::error("internal", "too late");
  });
  const auto ran = run_program({environment("LEAK_HELPER"), "mark", "signal"}, "", {"CWSANDBOX_BASE_URL=" + fleet.server.url()});
  over = true;
  CHECK(WIFSIGNALED(ran.status));
  CHECK(WTERMSIG(ran.status) == SIGTERM);
}
