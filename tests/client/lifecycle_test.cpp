// From run() to stop(): real sandboxes where they can show it, a scripted server for what only a fault can.
#include "scripted_server.hpp"
#include "support.hpp"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

using namespace support;
using namespace cwsandbox;
using nlohmann::json;

namespace {

template <typename Error, typename T>
std::string error_of(const task<T>& operation) {
  try {
    static_cast<void>(operation.result(30s));
  } catch (const Error& error) {
    return error.what();
  }
  return "(no such error)";
}

/// A server with one sandbox that goes through the states given, one for each time it is asked; the last for ever.
struct OneSandbox {
  ScriptedServer server;
  Client client{server.options().with_retry_budget(0ms)};

  explicit OneSandbox(const std::vector<std::string>& states) {
    server.reply("CreateSandbox", ScriptedServer::sandbox("sb-1", "STATE_CREATING"));
    std::vector<ScriptedServer::Answer> answers;
    for (const auto& state : states) answers.push_back(ScriptedServer::ok(ScriptedServer::sandbox("sb-1", state)));
    server.reply_each("GetSandbox", std::move(answers));
    server.reply("DeleteSandbox", json::object());
  }
  Sandbox run() {
    auto sandbox = Sandbox::run(client);
    sandbox.release();  // the server goes first
    return sandbox;
  }
};

}  // namespace

TEST_CASE("run gives an id before the sandbox runs; start is done once", "[LC-1][LC-2]") {
  ScriptedServer server;
  server.reply_each("CreateSandbox", {ScriptedServer::error("unavailable", "busy", "", 1ms),
                                      ScriptedServer::ok(ScriptedServer::sandbox("sb-1", "STATE_CREATING"))});
  const auto sandbox = Sandbox::run(Client(server.options()));
  sandbox.release();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back([&] { sandbox.start().result(); });
  for (auto& thread : threads) thread.join();
  CHECK(sandbox.sandbox_id() == "sb-1");
  CHECK(sandbox.status() == SandboxStatus::creating);
  const auto requests = server.requests("CreateSandbox");
  REQUIRE(requests.size() == 2);
  CHECK(requests[0].json()["requestId"] == requests[1].json()["requestId"]);
  CHECK(requests[0].json()["requestId"].get<std::string>().size() == 36);
}

TEST_CASE("wait ends with each state as it should", "[LC-4]") {
  for (const char* good : {"STATE_RUNNING", "STATE_PAUSED", "STATE_COMPLETED"}) {
    OneSandbox one({"STATE_CREATING", good});
    CHECK_NOTHROW(one.run().wait().result());
  }
  OneSandbox failed({"STATE_PENDING", "STATE_FAILED"});
  CHECK_THROWS_AS(failed.run().wait().result(), SandboxFailedError);
  OneSandbox terminated({"STATE_TERMINATED"});
  CHECK_THROWS_AS(terminated.run().wait().result(), SandboxTerminatedError);
}

TEST_CASE("many who wait, one poll; a wait that is cancelled is dropped alone", "[LC-5]") {
  ScriptedServer server;
  std::atomic<bool> running{false};
  std::atomic<int> at_once{0}, most{0};
  server.reply("CreateSandbox", ScriptedServer::sandbox("sb-1", "STATE_CREATING"));
  server.on("GetSandbox", [&](const auto&) {
    const int now = ++at_once;
    for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
    }
    auto answer = ScriptedServer::ok(ScriptedServer::sandbox("sb-1", running ? "STATE_RUNNING" : "STATE_CREATING"));
    --at_once;
    return answer;
  });
  const auto sandbox = Sandbox::run(Client(server.options()));
  sandbox.release();
  std::vector<task<void>> waits;
  for (int i = 0; i < 50; ++i) waits.push_back(sandbox.wait());
  CHECK(eventually([&] { return server.count("GetSandbox") >= 2; }));
  CHECK(waits.front().cancel());
  CHECK_THROWS_AS(waits.front().result(), CancelledError);
  running = true;
  for (std::size_t i = 1; i < waits.size(); ++i) CHECK_NOTHROW(waits[i].result(30s));
  CHECK(most == 1);
  CHECK(server.count("GetSandbox") < 20);  // and not fifty times as many
}

TEST_CASE("wait_until_complete", "[LC-6]") {
  OneSandbox completed({"STATE_RUNNING", "STATE_COMPLETED"});
  CHECK(completed.run().wait_until_complete().result() == SandboxStatus::completed);
  OneSandbox failed({"STATE_RUNNING", "STATE_FAILED"});
  CHECK_THROWS_AS(failed.run().wait_until_complete(WaitOptions().with_raise_on_termination(false)).result(), SandboxFailedError);
  OneSandbox terminated({"STATE_RUNNING", "STATE_TERMINATING", "STATE_TERMINATED"});
  const auto sandbox = terminated.run();
  CHECK_THROWS_AS(sandbox.wait_until_complete().result(), SandboxTerminatedError);
  CHECK(sandbox.wait_until_complete(WaitOptions().with_raise_on_termination(false)).result() == SandboxStatus::terminated);
}

TEST_CASE("completed because we stopped it is terminated", "[LC-6]") {
  OneSandbox one({"STATE_RUNNING"});
  one.server.on("DeleteSandbox", [&](const auto&) {
    one.server.reply("GetSandbox", ScriptedServer::sandbox("sb-1", "STATE_COMPLETED"));
    return ScriptedServer::ok(json::object());
  });
  const auto sandbox = one.run();
  sandbox.wait().result();
  const auto raises = sandbox.wait_until_complete();
  const auto accepts = sandbox.wait_until_complete(WaitOptions().with_raise_on_termination(false));
  sandbox.stop().result();
  CHECK_THROWS_AS(raises.result(30s), SandboxTerminatedError);
  CHECK(accepts.result(30s) == SandboxStatus::completed);
}

TEST_CASE("states only move forward, and an unknown one is no state", "[LC-9][LC-10]") {
  OneSandbox one({"STATE_OF_THE_ART", "STATE_RUNNING", "STATE_CREATING", "STATE_PAUSED", "STATE_RUNNING", "STATE_TERMINATING",
                  "STATE_RUNNING"});
  const auto sandbox = one.run();
  sandbox.start().result();
  std::vector<SandboxStatus> seen;
  for (int i = 0; i < 7; ++i) seen.push_back(sandbox.get_status().result());
  CHECK(seen == std::vector<SandboxStatus>{SandboxStatus::creating, SandboxStatus::running, SandboxStatus::running,
                                           SandboxStatus::paused, SandboxStatus::running, SandboxStatus::terminating,
                                           SandboxStatus::terminating});
  ScriptedServer server;
  server.reply("GetSandbox", ScriptedServer::sandbox("sb-2", "STATE_NEWS"));
  CHECK(Sandbox::from_id(Client(server.options()), "sb-2").result().status() == SandboxStatus::unspecified);
}

TEST_CASE("what has ended is not asked about again", "[LC-11]") {
  OneSandbox one({"STATE_COMPLETED"});
  const auto sandbox = one.run();
  CHECK(sandbox.get_status().result() == SandboxStatus::completed);
  CHECK(sandbox.status_updated_at() > std::chrono::system_clock::now() - 1h);
  const int asked = one.server.count("GetSandbox");
  CHECK(sandbox.get_status().result() == SandboxStatus::completed);
  CHECK_NOTHROW(sandbox.wait().result());
  CHECK(sandbox.wait_until_complete().result() == SandboxStatus::completed);
  CHECK_NOTHROW(sandbox.stop().result());
  CHECK(one.server.count("GetSandbox") == asked);
  CHECK(one.server.count("DeleteSandbox") == 0);
  CHECK_FALSE(sandbox.returncode().has_value());  // completed, but nobody has seen how
}

TEST_CASE("the main command's exit, as it was observed", "[LC-7]") {
  const auto sandbox = Sandbox::run(SandboxOptions().with_command({"/bin/sh", "-c", "exit 7"}));
  CHECK_THROWS_AS(sandbox.wait_until_complete().result(), SandboxFailedError);
  CHECK(sandbox.returncode() == 7);
  CHECK(sandbox.command() == std::vector<std::string>{"/bin/sh", "-c", "exit 7"});
  CHECK(sandbox.started_at() >= sandbox.created_at());
  CHECK(sandbox.ended_at() >= sandbox.started_at());
  const auto good = Sandbox::run(SandboxOptions().with_command({"true"}));
  CHECK(good.wait_until_complete().result() == SandboxStatus::completed);
  CHECK(good.returncode() == 0);
}

TEST_CASE("the end of a scope stops it and masks nothing", "[LC-12]") {
  const Client client;
  std::string id;
  try {
    const auto sandbox = Sandbox::run(client);
    sandbox.start().result();
    id = *sandbox.sandbox_id();
    throw std::domain_error("on the way");
  } catch (const std::domain_error& error) {
    CHECK(std::string(error.what()) == "on the way");
  }
  const auto same = Sandbox::from_id(client, id).result();
  CHECK(is_terminal(same.wait_until_complete(WaitOptions().with_raise_on_termination(false)).result(30s)));
  // The same where stopping fails.
  ScriptedServer server;
  server.reply("CreateSandbox", ScriptedServer::sandbox("sb-1", "STATE_RUNNING"));
  server.on("DeleteSandbox", [](const auto&) { return ScriptedServer::error("internal", "no"); });
  CHECK_THROWS_AS(
      [&] {
        const auto sandbox = Sandbox::run(Client(server.options().with_retry_budget(0ms)));
        sandbox.start().result();
        throw std::domain_error("on the way");
      }(),
      std::domain_error);
  CHECK(eventually([&] { return server.count("DeleteSandbox") == 1; }));
}

TEST_CASE("what is not there is named", "[LC-14][LC-16]") {
  ScriptedServer server;
  const auto missing = [](const auto&) { return ScriptedServer::error("not_found", "nothing here"); };
  server.on("GetSandbox", missing);
  server.on("DeleteSandbox", missing);
  const Client client(server.options());
  CHECK(error_of<SandboxNotFoundError>(Sandbox::from_id(client, "sb-77")).find("sb-77") != std::string::npos);
  CHECK_THROWS_AS(Sandbox::remove(client, "sb-77").result(), SandboxNotFoundError);
  CHECK_NOTHROW(Sandbox::remove(client, "sb-77", true).result());
  CHECK(server.requests("DeleteSandbox")[1].json()["allowMissing"] == true);
  CHECK_THROWS_AS(Sandbox::remove(client, ""), std::invalid_argument);
  CHECK_THROWS_AS(Sandbox::from_id(client, ""), std::invalid_argument);
}

TEST_CASE("remove stops a sandbox by its id, and from_id finds it stopped", "[LC-14][LC-16]") {
  const Client client;
  const auto sandbox = Sandbox::run(client);
  sandbox.start().result();
  const auto id = *sandbox.sandbox_id();
  Sandbox::remove(client, id).result();
  CHECK(is_terminal(sandbox.wait_until_complete(WaitOptions().with_raise_on_termination(false)).result(30s)));
  CHECK(is_terminal(Sandbox::from_id(client, id).result().status()));
}

TEST_CASE("lists: filters as they were given, pages followed, a repeated one is an error", "[LC-15]") {
  ScriptedServer server;
  server.reply_each("ListSandboxes",
                    {ScriptedServer::ok({{"sandboxes", {ScriptedServer::sandbox("a", "STATE_RUNNING")}}, {"nextPageToken", "p2"}}),
                     ScriptedServer::ok({{"sandboxes", {ScriptedServer::sandbox("b", "STATE_RUNNING")}}})});
  const Client client(server.options());
  auto options = ListOptions().with_tag("x").with_tag("y").with_runner_id("r").with_volume_id("v");
  const auto found = Sandbox::list(client, options.with_status(SandboxStatus::running)).result();
  REQUIRE(found.size() == 2);
  CHECK(found[1].sandbox_id() == "b");
  auto first = server.requests("ListSandboxes")[0].json();
  CHECK(first ==
        json({{"tags", {"x", "y"}}, {"runnerIds", {"r"}}, {"volumeIds", {"v"}}, {"state", "STATE_RUNNING"}, {"pageSize", 1000}}));
  CHECK(server.requests("ListSandboxes")[1].json()["pageToken"] == "p2");

  server.reply("ListSandboxes", {{"nextPageToken", "again"}});
  CHECK_THROWS_AS(Sandbox::list(client, ListOptions().with_include_stopped()).result(), CWSandboxError);
  CHECK(server.requests("ListSandboxes").back().json()["showTerminated"] == true);
  CHECK(server.count("ListSandboxes") == 4);
}

TEST_CASE("stop: a sandbox that is not there", "[ST-6]") {
  OneSandbox one({"STATE_RUNNING"});
  const auto missing = [](const auto&) { return ScriptedServer::error("not_found", "gone", "CWSANDBOX_SANDBOX_NOT_FOUND"); };
  one.server.on("DeleteSandbox", missing);
  const auto sandbox = one.run();
  sandbox.start().result();
  CHECK_THROWS_AS(sandbox.stop().result(), SandboxNotFoundError);
  one.server.reply("DeleteSandbox", json::object());
  one.server.on("GetSandbox", missing);
  CHECK_NOTHROW(sandbox.stop(StopOptions().with_missing_ok()).result());
  CHECK(one.server.requests("DeleteSandbox").back().json()["allowMissing"] == true);
}

TEST_CASE("stop: not found afterwards is asked again for a while", "[ST-7]") {
  OneSandbox one({});
  std::atomic<int> asked{0};
  one.server.on("GetSandbox", [&](const auto&) {
    return ++asked < 4 ? ScriptedServer::error("not_found", "not yet")
                       : ScriptedServer::ok(ScriptedServer::sandbox("sb-1", "STATE_TERMINATED"));
  });
  const auto found = one.run();
  CHECK_NOTHROW(found.stop().result());
  CHECK(found.status() == SandboxStatus::terminated);

  one.server.on("GetSandbox", [](const auto&) { return ScriptedServer::error("not_found", "never"); });
  const auto lost = one.run();
  CHECK(error_of<SandboxTerminalStateUnavailableError>(lost.stop()).find("sb-1") != std::string::npos);
}

TEST_CASE("stop: who waits for it to run hears of it", "[ST-8]") {
  OneSandbox one({"STATE_CREATING"});
  one.server.on("DeleteSandbox", [&](const auto&) {
    one.server.reply("GetSandbox", ScriptedServer::sandbox("sb-1", "STATE_TERMINATED"));
    return ScriptedServer::ok(json::object());
  });
  const auto sandbox = one.run();
  const auto wait = sandbox.wait();
  CHECK(eventually([&] { return one.server.count("GetSandbox") > 0; }));
  const auto stop = sandbox.stop();
  CHECK_THROWS_AS(wait.result(30s), SandboxNotRunningError);
  CHECK_NOTHROW(stop.result());
  CHECK_THROWS_AS(sandbox.wait().result(), SandboxNotRunningError);
  CHECK_THROWS_AS(sandbox.exec({"true"}).result(), SandboxNotRunningError);
}

TEST_CASE("stop: grace seconds round up, and never started is no request", "[ST-3][ST-9][ST-2]") {
  OneSandbox one({"STATE_TERMINATED"});
  for (const auto& [grace, seconds] : std::vector<std::pair<std::chrono::milliseconds, int>>{{0ms, 1}, {1ms, 1}, {2001ms, 3}}) {
    const auto sandbox = one.run();
    const auto first = sandbox.stop(StopOptions().with_grace_period(grace));
    CHECK_NOTHROW(sandbox.stop().result());
    CHECK_NOTHROW(first.result());
    CHECK(one.server.requests("DeleteSandbox").back().json()["gracePeriodSeconds"] == seconds);
  }
  CHECK(one.server.count("DeleteSandbox") == 3);
  CHECK_THROWS_AS(one.run().stop(StopOptions().with_grace_period(-1ms)), std::invalid_argument);
  const Session session(one.client);
  CHECK_NOTHROW(session.sandbox().stop().result());
  CHECK(one.server.count("DeleteSandbox") == 3);
}

TEST_CASE("retries: what time mends, after the server's hint, within the budget", "[RT-1][RT-2][RT-3]") {
  ScriptedServer server;
  server.reply_each("GetSandbox", {ScriptedServer::error("unavailable", "one", "", 1ms),
                                   ScriptedServer::error("resource_exhausted", "two", "", 1ms),
                                   ScriptedServer::ok(ScriptedServer::sandbox("sb", "STATE_RUNNING"))});
  CHECK_NOTHROW(Sandbox::from_id(Client(server.options()), "sb").result());
  CHECK(server.count("GetSandbox") == 3);
  server.on("GetSandbox", [](const auto&) { return ScriptedServer::error("internal", "broken"); });
  CHECK_THROWS_AS(Sandbox::from_id(Client(server.options()), "sb").result(), SandboxError);
  CHECK(server.count("GetSandbox") == 4);
  // The hint would not fit the budget: the last error, at once.
  server.on("GetSandbox",
            [](const auto&) { return ScriptedServer::error("unavailable", "later", "CWSANDBOX_BACKEND_UNAVAILABLE", 60s); });
  try {
    static_cast<void>(Sandbox::from_id(Client(server.options().with_retry_budget(50ms)), "sb").result());
    FAIL("found");
  } catch (const SandboxUnavailableError& error) {
    CHECK(error.retry_delay() == 60s);
    CHECK(error.reason() == "CWSANDBOX_BACKEND_UNAVAILABLE");
  }
  CHECK(server.count("GetSandbox") == 5);
}

TEST_CASE("auth: a key or a registered mode, whose errors pass through", "[AU-1]") {
  ScriptedServer server;
  server.reply("GetSandbox", ScriptedServer::sandbox("sb", "STATE_RUNNING"));
  const auto ask = [](const ClientOptions& options) { static_cast<void>(Sandbox::from_id(Client(options), "sb").result()); };
  const auto last = [&](const char* header) { return server.requests("GetSandbox").back().header(header); };
  ask(server.options().with_api_key("k-1"));
  CHECK(last("authorization") == "Bearer k-1");

  std::atomic<int> asked{0};
  register_auth_mode("each", [&] { return AuthHeaders().with_header("X-Who", "me-" + std::to_string(++asked)); });
  ask(server.options().with_auth_mode("each"));
  CHECK(last("x-who") == "me-1");
  CHECK(last("authorization") == "");
  ask(server.options().with_auth_mode("each"));
  CHECK(last("x-who") == "me-2");

  register_auth_mode("kept", [&] {
    return AuthHeaders().with_header("X-Who", "kept-" + std::to_string(++asked)).with_expiry(std::chrono::system_clock::now() + 1h);
  });
  const Client kept(server.options().with_auth_mode("kept"));
  static_cast<void>(Sandbox::from_id(kept, "sb").result());
  static_cast<void>(Sandbox::from_id(kept, "sb").result());
  CHECK(last("x-who") == "kept-3");
  CHECK(asked == 3);

  register_auth_mode("broken", []() -> AuthHeaders { throw std::domain_error("no token today"); });
  ::setenv("CWSANDBOX_AUTH_MODE", "broken", 1);
  CHECK_THROWS_AS(ask(server.options()), std::domain_error);
  ::unsetenv("CWSANDBOX_AUTH_MODE");
  register_auth_mode("bad", [] { return AuthHeaders().with_header("X-Who", "se\r\ncret"); });
  try {
    ask(server.options().with_auth_mode("bad"));
    FAIL("sent");
  } catch (const CWSandboxAuthenticationError& error) {
    CHECK(std::string(error.what()).find("cret") == std::string::npos);
  }
  CHECK_THROWS_AS(Client(server.options().with_auth_mode("nobody's")), std::invalid_argument);
  CHECK_THROWS_AS(Client(server.options().with_auth_mode("each").with_api_key("k")), std::invalid_argument);
  CHECK_THROWS_AS(register_auth_mode("", [] { return AuthHeaders(); }), std::invalid_argument);
  CHECK_THROWS_AS(register_auth_mode("x", nullptr), std::invalid_argument);
}

TEST_CASE("the tree of errors", "[ER-1]") {
  const auto is = [](auto derived, auto base) {
    return std::is_base_of_v<typename decltype(base)::type, typename decltype(derived)::type>;
  };
#define CWSANDBOX_TEST_IS(derived, base) CHECK(is(std::type_identity<derived>(), std::type_identity<base>()))
  CWSANDBOX_TEST_IS(CWSandboxAuthenticationError, CWSandboxError);
  CWSANDBOX_TEST_IS(CWSandboxValidationError, CWSandboxError);
  CWSANDBOX_TEST_IS(SandboxError, CWSandboxError);
  CWSANDBOX_TEST_IS(SandboxNotRunningError, SandboxError);
  CWSANDBOX_TEST_IS(SandboxUnavailableError, SandboxNotRunningError);
  CWSANDBOX_TEST_IS(SandboxTimeoutError, SandboxError);
  CWSANDBOX_TEST_IS(SandboxRequestTimeoutError, SandboxTimeoutError);
  CWSANDBOX_TEST_IS(SandboxCommandTimeoutError, SandboxTimeoutError);
  CWSANDBOX_TEST_IS(SandboxTerminatedError, SandboxError);
  CWSANDBOX_TEST_IS(SandboxFailedError, SandboxError);
  CWSANDBOX_TEST_IS(SandboxNotFoundError, SandboxError);
  CWSANDBOX_TEST_IS(SandboxExecutionError, SandboxError);
  CWSANDBOX_TEST_IS(SandboxStreamBackpressureError, SandboxExecutionError);
  CWSANDBOX_TEST_IS(SandboxStreamTruncatedError, SandboxExecutionError);
  CWSANDBOX_TEST_IS(SandboxConnectionLostError, SandboxExecutionError);
  CWSANDBOX_TEST_IS(SandboxFileError, SandboxError);
  CWSANDBOX_TEST_IS(SandboxResourceExhaustedError, SandboxError);
  CWSANDBOX_TEST_IS(SandboxTerminalStateUnavailableError, SandboxError);
  CWSANDBOX_TEST_IS(SandboxSnapshotError, SandboxError);
  CWSANDBOX_TEST_IS(SessionCloseError, SandboxError);
  CWSANDBOX_TEST_IS(DiscoveryError, CWSandboxError);
  CWSANDBOX_TEST_IS(RunnerNotFoundError, DiscoveryError);
#undef CWSANDBOX_TEST_IS
  CHECK_FALSE(is(std::type_identity<TimeoutError>(), std::type_identity<CWSandboxError>()));
  CHECK_FALSE(is(std::type_identity<CancelledError>(), std::type_identity<CWSandboxError>()));
}
