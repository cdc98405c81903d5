// The control plane: HTTP, tokens, sandboxes and unary Exec.
#include "gateway_support.hpp"
#include "support/catch.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <cstdlib>

using namespace gateway_test;
using Catch::Matchers::Contains;

namespace {

bool has(const std::vector<std::string>& all, const std::string& one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

std::string state_of(const Server& server, const std::string& id) {
  return server.call("GetSandbox", {{"sandboxId", id}}).json()["status"]["state"];
}

// A runner whose creations wait until they are let go, and can fail.
struct FakeState {
  explicit FakeState(const asio::any_io_executor& executor)
      : gate(std::in_place, executor, std::chrono::steady_clock::time_point::max()) {}
  std::optional<asio::steady_timer> gate;  // ends with the runner: the test keeps the state longer than the loop lives
  bool open = false;
  std::string failure;
  int created = 0, destroyed = 0, stopped = 0;
  bool does_all = false;           // nothing is refused
  std::size_t at_once = 0;         // creations that do not get into each other's way; 0: any number
  runner::SandboxSpec wanted;      // what was to be created last
  std::vector<std::string> asked;  // ids, in order
  std::function<void(const runner::ExitInfo&)> on_exit;
};

class ClosedSource final : public runner::ByteSource {
 public:
  std::size_t try_read(asio::mutable_buffer, boost::system::error_code& ec) override {
    ec = asio::error::eof;
    return 0;
  }
  void async_wait(runner::IoHandler) override {}
  void close() noexcept override {}
};

class FakeSandbox final : public runner::Sandbox {
 public:
  runner::ByteSource& main_stdout() noexcept override { return out_; }
  runner::ByteSource& main_stderr() noexcept override { return err_; }
  runner::Files& files() noexcept override { std::abort(); }  // nobody asks for them here
  explicit FakeSandbox(std::shared_ptr<FakeState> state) : state_(std::move(state)) { ++state_->created; }
  ~FakeSandbox() override { ++state_->destroyed; }
  asio::awaitable<std::unique_ptr<runner::Process>> start(runner::ProcessSpec) override {
    throw runner::RunnerError(runner::ErrorCode::unavailable, "CWSANDBOX_RUNNER_UNAVAILABLE", "no processes here");
    co_return nullptr;
  }
  void on_exit(std::function<void(const runner::ExitInfo&)> handler) override { state_->on_exit = std::move(handler); }
  asio::awaitable<void> stop(std::chrono::milliseconds) override {
    ++state_->stopped;
    co_return;
  }

 private:
  std::shared_ptr<FakeState> state_;
  ClosedSource out_, err_;
};

class FakeRunner final : public runner::Runner {
 public:
  explicit FakeRunner(std::shared_ptr<FakeState> state) : state_(std::move(state)) {}
  ~FakeRunner() override { state_->gate.reset(); }
  std::size_t creations_at_once() const noexcept override { return state_->at_once; }
  FakeRunner(const FakeRunner&) = delete;
  FakeRunner& operator=(const FakeRunner&) = delete;
  std::string_view name() const noexcept override { return "fake"; }
  asio::awaitable<std::unique_ptr<runner::Sandbox>> create(runner::SandboxSpec spec) override {
    state_->asked.push_back(spec.id);
    state_->wanted = std::move(spec);
    return create_with(state_);
  }
  std::vector<std::string> refuses(const runner::SandboxSpec& spec) const override {
    return state_->does_all ? std::vector<std::string>() : Runner::refuses(spec);
  }

 private:
  static asio::awaitable<std::unique_ptr<runner::Sandbox>> create_with(std::shared_ptr<FakeState> state) {
    constexpr auto token = asio::as_tuple(asio::use_awaitable);
    while (!state->open) co_await state->gate->async_wait(token);
    if (!state->failure.empty())
      throw runner::RunnerError(runner::ErrorCode::failed_precondition, "CWSANDBOX_RUNNER_UNAVAILABLE", state->failure);
    co_return std::make_unique<FakeSandbox>(state);
  }
  std::shared_ptr<FakeState> state_;
};

struct Fake {
  std::shared_ptr<FakeState> state;
  std::size_t at_once = 0;
  Server::MakeRunner maker() {
    return [this](const asio::any_io_executor& executor) {
      state = std::make_shared<FakeState>(executor);
      state->at_once = at_once;
      return std::make_unique<FakeRunner>(state);
    };
  }
  void open(Server& server, const std::string& failure = "") {
    server.on_loop([&] {
      state->failure = failure;
      state->open = true;
      state->gate->cancel();
    });
  }
};

}  // namespace

TEST_CASE("only /healthz is served without a token, and a token is never repeated", "[gateway]") {
  Server server;
  const Answer health = http(server.address(), "GET", "/healthz", {}, "");
  CHECK(health.status == 200);
  CHECK(health.body == R"({"status":"ok"})");
  CHECK(http(server.address(), "POST", "/healthz", {}, "").status == 405);

  const std::string target = "/coreweave.sandbox.v1.SandboxService/ListSandboxes";
  for (const std::string value : {"", "Bearer", "Bearer ", "Bearer wrong-secret-9", "Basic dGVzdA==", "test-token-0123456789",
                                  "Bearer test-token-012345678", "Bearer test-token-01234567890"}) {
    std::map<std::string, std::string> headers = {{"Content-Type", "application/json"}};
    if (!value.empty()) headers["Authorization"] = value;
    const Answer answer = http(server.address(), "POST", target, headers, "{}");
    CHECK(answer.status == 401);
    CHECK(answer.json()["code"] == "unauthenticated");
    CHECK_THAT(answer.body, !Contains("wrong-secret"));
  }
  const std::map<std::string, std::string> good = {{"Content-Type", "application/json; charset=utf-8"},
                                                   {"Authorization", std::string("bearer ") + kToken}};
  CHECK(http(server.address(), "POST", target, good, "{}").status == 200);
  // A body that is never sent does not keep the answer back: the token is checked before.
  Socket socket(server.address());
  socket.write("POST " + target + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n");
  CHECK_THAT(socket.read_until("\r\n\r\n"), Contains("401"));
  CHECK_THAT(server.log(), !Contains(kToken) && !Contains("wrong-secret") && Contains("401"));
}

TEST_CASE("a sandbox is created, seen, listed and deleted", "[gateway][LC-1][LC-9][ST-1]") {
  Server server;
  const Json spec = {{"tags", {"blue", "big"}}, {"annotations", {{"k", "v"}}}, {"maxLifetimeSeconds", 3600}};
  const Answer created = server.call("CreateSandbox", {{"sandbox", {{"spec", spec}}}, {"unknownField", {1, 2}}});
  REQUIRE(created.status == 200);
  CHECK(created.json()["status"]["state"] == "STATE_CREATING");
  CHECK(created.json()["spec"]["tags"] == spec["tags"]);
  CHECK(created.json()["spec"]["annotations"] == spec["annotations"]);
  const std::string id = created.json()["sandboxId"];
  CHECK(id.substr(0, 3) == "sb-");
  REQUIRE(server.wait_state(id, "STATE_RUNNING") == "STATE_RUNNING");
  const Json running = server.call("GetSandbox", {{"sandbox_id", id}}).json();
  CHECK(running["status"]["runnerId"] == "local");
  CHECK(running["status"].contains("startTime"));
  CHECK(running["status"]["effectiveMaxLifetimeSeconds"] == 3600);
  CHECK(server.counts().sandboxes == 1);

  // It runs before its shell has set the trap that makes it end by itself; its child comes after that.
  const Json until_set = {{"sandboxId", id}, {"command", {"sh", "-c", "until grep -qs '^sleep$' /proc/[0-9]*/comm; do :; done"}}};
  REQUIRE(server.call("Exec", until_set).status == 200);
  const Answer deleted = server.call("DeleteSandbox", {{"sandboxId", id}});
  REQUIRE(deleted.status == 200);
  CHECK(deleted.json()["sandbox"]["status"]["state"] == "STATE_TERMINATING");
  CHECK(server.call("DeleteSandbox", {{"sandboxId", id}}).status == 200);
  CHECK(server.wait_state(id, "STATE_TERMINATED") == "STATE_TERMINATED");
  const Json after = server.call("GetSandbox", {{"sandboxId", id}}).json();
  CHECK(after["status"].contains("endTime"));
  CHECK(after["status"]["exitCode"] == 0);  // the default command ends itself on SIGTERM
  CHECK(server.call("DeleteSandbox", {{"sandboxId", id}}).json()["sandbox"]["status"]["state"] == "STATE_TERMINATED");
  CHECK(server.counts().sandboxes == 0);
}

TEST_CASE("a sandbox that nobody knows", "[gateway][LC-14][LC-16]") {
  Server server;
  const Answer got = server.call("GetSandbox", {{"sandboxId", "sb-nope"}});
  CHECK(got.status == 404);
  CHECK(got.json()["code"] == "not_found");
  const auto info = detail_strings(got.json(), "ErrorInfo");
  CHECK(has(info, "CWSANDBOX_SANDBOX_NOT_FOUND"));
  CHECK(has(info, "cwsandbox.com"));
  CHECK(has(info, "sb-nope"));
  CHECK(server.call("DeleteSandbox", {{"sandboxId", "sb-nope"}}).status == 404);
  const Answer allowed = server.call("DeleteSandbox", {{"sandboxId", "sb-nope"}, {"allowMissing", true}});
  CHECK(allowed.status == 200);
  CHECK(!allowed.json().contains("sandbox"));
  CHECK(server.call("Exec", {{"sandboxId", "sb-nope"}, {"command", {"true"}}}).status == 404);
}

TEST_CASE("a request id makes one sandbox, also while it is being created", "[gateway][LC-2]") {
  Fake fake;
  Server server({}, fake.maker());
  const Json body = {{"sandbox", {{"spec", {{"tags", {"a"}}}}}}, {"requestId", "req-1"}};
  const std::string id = server.call("CreateSandbox", body).json()["sandboxId"];
  CHECK(server.call("CreateSandbox", body).json()["sandboxId"] == id);
  const Json other = {{"sandbox", {{"spec", {{"tags", {"b"}}}}}}, {"requestId", "req-1"}};
  const Answer conflict = server.call("CreateSandbox", other);
  CHECK(conflict.status == 409);
  CHECK(conflict.json()["code"] == "already_exists");
  fake.open(server);
  CHECK(server.wait_state(id, "STATE_RUNNING") == "STATE_RUNNING");
  CHECK(server.call("CreateSandbox", body).json()["sandboxId"] == id);
  CHECK(fake.state->created == 1);
}

TEST_CASE("a creation that fails, one that is deleted, and one too many", "[gateway][LC-9]") {
  Fake fake;
  Server server([](auto& options) { options.max_sandboxes = 2; }, fake.maker());
  const Json body = {{"sandbox", {{"spec", Json::object()}}}};
  const std::string a = server.call("CreateSandbox", body).json()["sandboxId"];
  const std::string b = server.call("CreateSandbox", body).json()["sandboxId"];
  const Answer full = server.call("CreateSandbox", body);
  CHECK(full.status == 429);
  CHECK(full.json()["code"] == "resource_exhausted");
  CHECK(full.headers.count("retry-after") == 1);
  CHECK(has(detail_strings(full.json(), "ErrorInfo"), "CWSANDBOX_RUNNER_CAPACITY_EXHAUSTED"));

  SECTION("failure") {
    fake.open(server, "bubblewrap is missing");
    CHECK(server.wait_state(a, "STATE_FAILED") == "STATE_FAILED");
    CHECK(server.call("GetSandbox", {{"sandboxId", a}}).json()["status"]["stateReason"] == "bubblewrap is missing");
    CHECK(eventually([&] { return server.counts().sandboxes == 0; }));
  }
  SECTION("deleted while it is being created") {
    CHECK(server.call("DeleteSandbox", {{"sandboxId", a}}).json()["sandbox"]["status"]["state"] == "STATE_TERMINATING");
    fake.open(server);
    CHECK(eventually([&] { return state_of(server, a) == "STATE_TERMINATED"; }));
    CHECK(server.wait_state(b, "STATE_RUNNING") == "STATE_RUNNING");
    CHECK(server.on_loop([&] { return fake.state->stopped; }) == 1);
    CHECK(eventually([&] { return server.on_loop([&] { return fake.state->destroyed; }) == 1; }));
  }
  SECTION("the gateway goes while both are being created") {
    // The creations come back afterwards, to nobody: ~Server shows that nothing stays.
    server.on_loop([&] {
      auto later = std::make_shared<asio::steady_timer>(fake.state->gate->get_executor(), std::chrono::milliseconds(50));
      later->async_wait([later, state = fake.state](const boost::system::error_code&) {
        state->open = true;
        state->gate->cancel();
      });
    });
  }
}

TEST_CASE("who asks for many sandboxes keeps another waiting for one", "[gateway][EV-15]") {
  Fake fake;
  fake.at_once = 1;
  Server server({}, fake.maker());
  server.set_tokens({gateway::Token(kToken), gateway::Token("another-token-9876543210")});
  const Json one = {{"sandbox", {{"spec", Json::object()}}}};
  std::vector<std::string> ids;
  for (int i = 0; i < 20; ++i) ids.push_back(server.call("CreateSandbox", one).json()["sandboxId"]);
  const std::map<std::string, std::string> as_other = {{"Authorization", "Bearer another-token-9876543210"}};
  const std::string others = server.call("CreateSandbox", one, as_other).json()["sandboxId"];
  // One that is deleted before its turn is never made, and nobody waits for it.
  CHECK(server.call("DeleteSandbox", {{"sandboxId", ids[2]}}).json()["sandbox"]["status"]["state"] == "STATE_TERMINATING");
  CHECK(server.on_loop([&] { return fake.state->asked; }) == std::vector<std::string>{ids[0]});
  fake.open(server);
  for (const std::string& id : ids) {
    const char* wanted = id == ids[2] ? "STATE_TERMINATED" : "STATE_RUNNING";
    CHECK(server.wait_state(id, wanted) == wanted);
  }
  const auto asked = server.on_loop([&] { return fake.state->asked; });
  REQUIRE(asked.size() == 20);
  CHECK(asked[1] == ids[1]);
  CHECK(asked[2] == others);
  CHECK(std::find(asked.begin(), asked.end(), ids[2]) == asked.end());
}

TEST_CASE("the main command's end is the sandbox's", "[gateway][LC-7][LC-9]") {
  Fake fake;
  Server server({}, fake.maker());
  const std::string id = server.call("CreateSandbox", {{"sandbox", {{"spec", Json::object()}}}}).json()["sandboxId"];
  fake.open(server);
  REQUIRE(server.wait_state(id, "STATE_RUNNING") == "STATE_RUNNING");
  runner::ExitInfo info;
  std::string state = "STATE_FAILED";
  Json code;
  SECTION("0") {
    info.kind = runner::ExitInfo::Kind::exited;
    state = "STATE_COMPLETED";
    code = 0;
  }
  SECTION("another code") {
    info.kind = runner::ExitInfo::Kind::exited;
    info.value = 7;
    code = 7;
  }
  SECTION("a signal") {
    info.kind = runner::ExitInfo::Kind::signaled;
    info.value = 9;
    code = 137;
  }
  SECTION("lost") {}
  server.on_loop([&] { std::exchange(fake.state->on_exit, nullptr)(info); });
  const Json status = server.call("GetSandbox", {{"sandboxId", id}}).json()["status"];
  CHECK(status["state"] == state);
  CHECK(status.value("exitCode", Json()) == code);
  // Nothing moves it any more.
  CHECK(server.call("DeleteSandbox", {{"sandboxId", id}}).json()["sandbox"]["status"]["state"] == state);
  CHECK(eventually([&] { return server.on_loop([&] { return fake.state->destroyed; }) == 1; }));
}

TEST_CASE("real main commands: exit code, lifetime, grace", "[gateway]") {
  Server server;
  const auto create = [&](const Json& args, int lifetime) {
    Json spec = {{"containers", {{{"command", "/bin/sh"}, {"args", args}}}}};
    if (lifetime > 0) spec["maxLifetimeSeconds"] = lifetime;
    return server.call("CreateSandbox", {{"sandbox", {{"spec", spec}}}}).json()["sandboxId"].get<std::string>();
  };
  const std::string failed = create({"-c", "exit 5"}, 0);
  const std::string completed = create({"-c", "exit 0"}, 0);
  const std::string short_lived = create({"-c", "sleep 1000"}, 1);
  const std::string stubborn = create({"-c", "trap '' TERM; while :; do sleep 1000; done"}, 0);
  CHECK(server.wait_state(failed, "STATE_FAILED") == "STATE_FAILED");
  CHECK(server.call("GetSandbox", {{"sandboxId", failed}}).json()["status"]["exitCode"] == 5);
  CHECK(server.wait_state(completed, "STATE_COMPLETED") == "STATE_COMPLETED");
  CHECK(server.wait_state(stubborn, "STATE_RUNNING") == "STATE_RUNNING");
  server.call("DeleteSandbox", {{"sandboxId", stubborn}, {"gracePeriodSeconds", 1}});
  CHECK(eventually([&] { return state_of(server, stubborn) == "STATE_TERMINATED"; }));
  CHECK(eventually([&] { return state_of(server, short_lived) == "STATE_TERMINATED"; }));
  CHECK_THAT(server.call("GetSandbox", {{"sandboxId", short_lived}}).json()["status"]["stateReason"].get<std::string>(),
             Contains("lifetime"));
}

TEST_CASE("lists are filtered and paged", "[gateway][LC-15]") {
  Fake fake;
  Server server([](auto& options) { options.max_remembered = 2; }, fake.maker());
  std::vector<std::string> ids;
  for (int i = 0; i < 5; ++i) {
    const Json spec = {{"tags", i % 2 == 0 ? Json{"even", "all"} : Json{"odd", "all"}}};
    ids.push_back(server.call("CreateSandbox", {{"sandbox", {{"spec", spec}}}}).json()["sandboxId"]);
  }
  fake.open(server);
  const auto list = [&](const Json& body) {
    const Answer answer = server.call("ListSandboxes", body);
    REQUIRE(answer.status == 200);
    return answer.json();
  };
  const auto count = [&](const Json& body) { return list(body).value("sandboxes", Json::array()).size(); };
  CHECK(count(Json::object()) == 5);
  CHECK(count({{"tags", {"even"}}}) == 3);
  CHECK(count({{"tags", {"even", "all"}}}) == 3);
  CHECK(count({{"tags", {"even", "odd"}}}) == 0);
  CHECK(count({{"runnerIds", {"fake"}}}) == 5);
  CHECK(count({{"runnerIds", {"elsewhere"}}}) == 0);
  CHECK(count({{"state", "STATE_RUNNING"}}) == 5);
  CHECK(count({{"state", "STATE_COMPLETED"}}) == 0);
  CHECK(count({{"volumeIds", {"vol"}}}) == 0);

  std::vector<std::string> seen;
  std::string token;
  int pages = 0;
  do {
    const Json page = list({{"pageSize", 2}, {"pageToken", token}});
    for (const auto& sandbox : page["sandboxes"]) seen.push_back(sandbox["sandboxId"]);
    token = page.value("nextPageToken", "");
  } while (!token.empty() && ++pages < 10);
  CHECK(seen == ids);
  const std::string next = list({{"pageSize", 2}})["nextPageToken"];
  for (const Json& bad : {Json{{"pageToken", "rubbish"}}, Json{{"pageToken", next + "zz"}},
                          Json{{"pageToken", next}, {"tags", {"odd"}}}, Json{{"pageSize", -1}}}) {
    const Answer answer = server.call("ListSandboxes", bad);
    CHECK(answer.status == 400);
    CHECK(answer.json()["code"] == "invalid_argument");
  }

  for (const auto& id : ids) server.call("DeleteSandbox", {{"sandboxId", id}});
  CHECK(eventually([&] { return server.counts().sandboxes == 0; }));
  CHECK(count(Json::object()) == 0);
  CHECK(count({{"showTerminated", true}}) == 2);  // the rest is forgotten
  CHECK(count({{"state", "STATE_TERMINATED"}}) == 2);
}

TEST_CASE("a lifetime is bounded by the gateway's", "[gateway]") {
  Fake fake;
  Server server([](auto& options) { options.max_lifetime = std::chrono::seconds(100); }, fake.maker());
  for (const auto& [asked, effective] : std::vector<std::pair<int, int>>{{0, 100}, {50, 50}, {100, 100}, {100'000, 100}}) {
    const Json spec = {{"maxLifetimeSeconds", asked}};
    const Json made = server.call("CreateSandbox", {{"sandbox", {{"spec", spec}}}}).json();
    CHECK(made["status"]["effectiveMaxLifetimeSeconds"] == effective);
    CHECK(made["spec"].value("maxLifetimeSeconds", 0) == asked);
  }
  fake.open(server);
  Server short_lived([](auto& options) { options.max_lifetime = std::chrono::seconds(1); });
  const std::string id = short_lived.sandbox();
  CHECK(eventually([&] { return state_of(short_lived, id) == "STATE_TERMINATED"; }));
}

TEST_CASE("what cannot be given is refused by its name", "[gateway]") {
  Fake fake;
  Server server({}, fake.maker());
  const std::map<std::string, Json> of_spec = {
      {"volumes", {{{"name", "v"}, {"scratch", Json::object()}}}},
      {"services", {{{"port", 80}}}},
      {"networkIds", {"n"}},
      {"objectStorageAccess", {{"readOnly", true}}},
      {"network", {{"denyEgress", true}}},
      {"initContainers", {{{"name", "i"}}}},
      {"instanceType", "big"},
      {"mode", "SANDBOX_MODE_SERVERLESS"},
      {"runtimeClass", "kata"},
  };
  const std::map<std::string, Json> of_container = {
      {"volumeMounts", {{{"volume", "v"}, {"mountPath", "/v"}}}},
      {"secretStores", {{{"storeName", "kubernetes"}, {"secrets", {{{"path", "p"}, {"field", "f"}}}}}}},
      {"securityContext", {{"privileged", true}}},
      {"imagePullCredentials", {{"registry", "r"}}},
  };
  const auto refused = [&](const Json& spec, const std::string& field) {
    const Answer answer = server.call("CreateSandbox", {{"sandbox", {{"spec", spec}}}});
    INFO(field << " " << answer.body);
    CHECK(answer.status == 501);
    CHECK(answer.json()["code"] == "unimplemented");
    CHECK_THAT(answer.json()["message"].get<std::string>(), Contains(field));
    CHECK(has(detail_strings(answer.json(), "ErrorInfo"), field));
  };
  for (const auto& [name, value] : of_spec) refused({{name, value}}, "sandbox.spec." + name);
  const Json gpu = {{"gpu", {{"count", 1}}}};
  refused({{"network", {{"denyEgress", false}}}}, "sandbox.spec.network");
  // Parts of them that no runner has, and parts that nobody knows.
  refused({{"volumes", {{{"name", "v"}}}}}, "sandbox.spec.volumes[0]");
  refused({{"volumes", {{{"name", "v"}, {"volumeId", "vol-1"}}}}}, "sandbox.spec.volumes[0].volumeId");
  refused({{"network", {{"allowEgress", true}}}}, "sandbox.spec.network.allowEgress");
  refused({{"containers", {{{"resources", gpu}}}}}, "sandbox.spec.containers[0].resources.gpu");
  refused({{"containers", {{{"resourceRequirements", {{"limits", gpu}}}}}}},
          "sandbox.spec.containers[0].resourceRequirements.limits.gpu");
  for (const auto& [name, value] : of_container) refused({{"containers", {{{name, value}}}}}, "sandbox.spec.containers[0]." + name);
  CHECK(server.counts().sandboxes == 0);
}

TEST_CASE("what a runner can give reaches it", "[gateway][LC-20]") {
  Fake fake;
  Server server([](auto& options) { options.max_lifetime = std::chrono::seconds(100); }, fake.maker());
  server.on_loop([&] { fake.state->does_all = true; });
  fake.open(server);
  const Json spec =
      Json::parse(R"({"containers":[{"resourceRequirements":{"limits":{"memory":"1Gi","gpu":{"count":2,"type":"h100"}},
      "requests":{"memory":"512Mi","cpu":"250m"}},
      "secretStores":[{"storeName":"kubernetes","secrets":[{"path":"db","field":"PASSWORD"},{"path":"db","field":"user","envVar":"DB_USER"}]}],
      "volumeMounts":[{"volume":"data","mountPath":"/data/","subPath":"in/out"},{"volume":"fast","mountPath":"/fast","readOnly":true}]}],
    "volumes":[{"name":"data","scratch":{"size":"2Gi"}},{"name":"fast","scratch":{"medium":"STORAGE_MEDIUM_MEMORY"}}],
    "services":[{"port":80,"name":"web"},{"port":80,"protocol":"SERVICE_PROTOCOL_UDP"}],
    "network":{"egress":[{"any":true,"ports":[{"port":443},{"protocol":"UDP","port":5000,"endPort":5010}]},
      {"cidr":{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}},{"cidr":{"cidr":"fd00::/8"}}]},
    "runtimeClass":"kata","tags":["a"],"annotations":{"team":"x"}})");
  const Answer made = server.call("CreateSandbox", {{"sandbox", {{"spec", spec}}}});
  INFO(made.body);
  REQUIRE(made.status == 200);
  CHECK(made.json()["spec"]["volumes"] == spec["volumes"]);
  CHECK(made.json()["spec"]["network"] == spec["network"]);
  CHECK(made.json()["status"]["effectiveRuntimeClass"] == "kata");
  REQUIRE(eventually([&] { return state_of(server, made.json()["sandboxId"]) == "STATE_RUNNING"; }));
  runner::SandboxSpec wanted;
  server.on_loop([&] { wanted = fake.state->wanted; });
  CHECK(wanted.id == made.json()["sandboxId"].get<std::string>());
  CHECK(wanted.resources.memory_limit == 1u << 30);
  CHECK(wanted.resources.memory_request == 512u << 20);
  CHECK(wanted.resources.cpu_request == 250u);
  CHECK(wanted.resources.gpus == 2);
  CHECK(wanted.resources.gpu_type == "h100");
  REQUIRE(wanted.volumes.size() == 2);
  CHECK(wanted.volumes[0].size_limit == 2ull << 30);
  CHECK_FALSE(wanted.volumes[0].in_memory);
  CHECK_FALSE(wanted.volumes[1].size_limit);
  CHECK(wanted.volumes[1].in_memory);
  REQUIRE(wanted.mounts.size() == 2);
  CHECK(wanted.mounts[0].path == "/data");
  CHECK(wanted.mounts[0].sub_path == "in/out");
  CHECK(wanted.mounts[1].read_only);
  REQUIRE(wanted.secrets.size() == 2);
  CHECK(wanted.secrets[0].env_var == "PASSWORD");
  CHECK(wanted.secrets[1].env_var == "DB_USER");
  CHECK(wanted.secrets[1].secret == "db");
  CHECK(wanted.secrets[1].key == "user");
  REQUIRE(wanted.ports.size() == 2);
  CHECK(wanted.ports[0].name == "web");
  CHECK(wanted.ports[1].protocol == runner::PortProtocol::udp);
  REQUIRE(wanted.egress);
  REQUIRE(wanted.egress->size() == 3);
  CHECK((*wanted.egress)[0].cidr.empty());
  REQUIRE((*wanted.egress)[0].ports.size() == 2);
  CHECK((*wanted.egress)[0].ports[0].last == 443);
  CHECK((*wanted.egress)[0].ports[1].protocol == runner::PortProtocol::udp);
  CHECK((*wanted.egress)[0].ports[1].last == 5010);
  CHECK((*wanted.egress)[1].except == std::vector<std::string>{"10.1.0.0/16"});
  CHECK(wanted.runtime_class == "kata");
  CHECK(wanted.max_lifetime == std::chrono::seconds(100));
  CHECK(wanted.tags == std::vector<std::string>{"a"});
  CHECK(wanted.annotations.at("team") == "x");

  const auto egress = [&](const Json& network) {
    const Json of_network = {{"network", network}};
    CHECK(server.call("CreateSandbox", {{"sandbox", {{"spec", of_network}}}}).status == 200);
    std::optional<std::vector<runner::EgressRule>> out;
    server.on_loop([&] { out = fake.state->wanted.egress; });
    return out;
  };
  CHECK_FALSE(egress(Json::object()));
  CHECK_FALSE(egress({{"egress", Json::array()}}));
  REQUIRE(egress({{"denyEgress", true}}));
  CHECK(egress({{"denyEgress", true}})->empty());
  // Said to be open, whatever the runner's default is: to everything.
  REQUIRE(egress({{"denyEgress", false}}));
  CHECK(egress({{"denyEgress", false}})->size() == 1);
}

TEST_CASE("what makes no sense is named by its field", "[gateway][ER-4][LC-20]") {
  Fake fake;
  Server server({}, fake.maker());
  server.on_loop([&] { fake.state->does_all = true; });
  const auto wrong = [&](const Json& spec, const std::string& field, const std::string& text) {
    const Answer answer = server.call("CreateSandbox", {{"sandbox", {{"spec", spec}}}});
    INFO(field << " " << answer.body);
    CHECK(answer.status == 400);
    CHECK(answer.json()["code"] == "invalid_argument");
    CHECK(has(detail_strings(answer.json(), "BadRequest"), field));
    CHECK_THAT(answer.json()["message"].get<std::string>(), Contains(text));
  };
  const auto of_spec = [&](const std::string& json, const std::string& field, const std::string& text) {
    wrong(Json::parse(json), "sandbox.spec." + field, text);
  };
  const auto of_container = [&](const std::string& json, const std::string& field, const std::string& text) {
    const Json volumes = Json::parse(R"([{"name":"v","scratch":{}}])");
    wrong({{"volumes", volumes}, {"containers", {Json::parse(json)}}}, "sandbox.spec.containers[0]." + field, text);
  };
  of_spec(R"({"volumes":[{"name":"Data","scratch":{}}]})", "volumes[0].name", "Data");
  of_spec(R"({"volumes":[{"scratch":{}}]})", "volumes[0].name", "name");
  of_spec(R"({"volumes":[{"name":"a","scratch":{}},{"name":"a","scratch":{}}]})", "volumes[1].name", "twice");
  of_spec(R"({"volumes":[{"name":"a","scratch":{"size":"much"}}]})", "volumes[0].scratch.size", "quantity");
  of_container(R"({"volumeMounts":[{"volume":"w","mountPath":"/w"}]})", "volumeMounts[0].volume", "no volume");
  for (const char* path : {"", "/", "//", "v", "/a/../b", "/a//b", "/./a", "/a:b", "/a\\u0000"}) {
    of_container(std::string(R"({"volumeMounts":[{"volume":"v","mountPath":")") + path + R"("}]})", "volumeMounts[0].mountPath",
                 "absolute");
  }
  of_container(R"({"volumeMounts":[{"volume":"v","mountPath":"/v"},{"volume":"v","mountPath":"/v/"}]})",
               "volumeMounts[1].mountPath", "twice");
  for (const char* path : {"/a", "../a", "a/..", "a//b", "."}) {
    of_container(std::string(R"({"volumeMounts":[{"volume":"v","mountPath":"/v","subPath":")") + path + R"("}]})",
                 "volumeMounts[0].subPath", "relative");
  }
  of_container(R"({"secretStores":[{"storeName":"vault"}]})", "secretStores[0].storeName", "vault");
  of_container(R"({"secretStores":[{"storeName":"kubernetes","secrets":[{"path":"No","field":"f"}]}]})",
               "secretStores[0].secrets[0].path", "Secret");
  of_container(R"({"secretStores":[{"storeName":"kubernetes","secrets":[{"path":"p"}]}]})", "secretStores[0].secrets[0].field",
               "Secret");
  of_container(R"({"secretStores":[{"storeName":"kubernetes","secrets":[{"path":"p","field":"f","envVar":"A=B"}]}]})",
               "secretStores[0].secrets[0].envVar", "A=B");
  of_container(R"({"secretStores":[{"storeName":"kubernetes","secrets":[{"path":"p","field":"f"},{"path":"q","field":"f"}]}]})",
               "secretStores[0].secrets[1].envVar", "two secrets");
  of_container(
      R"({"environmentVariables":{"f":"1"},"secretStores":[{"storeName":"kubernetes","secrets":[{"path":"p","field":"f"}]}]})",
      "secretStores[0].secrets[0].envVar", "environmentVariables");
  for (const char* port : {"0", "-1", "65536"})
    of_spec(std::string(R"({"services":[{"port":)") + port + "}]}", "services[0].port", "65535");
  of_spec(R"({"services":[{"port":80},{"port":80}]})", "services[1].port", "twice");
  of_spec(R"({"services":[{"port":80,"name":"Web"}]})", "services[0].name", "Web");
  of_spec(R"({"services":[{"port":80,"name":"w"},{"port":81,"name":"w"}]})", "services[1].name", "twice");
  for (const char* block : {"", "10.0.0.0", "10.0.0.0/33", "10.0.0.1/8", "10.0.0/8", "::1/64", "::/129", "x/8", "10.0.0.0/-1",
                            "10.0.0.0/08", "10.0.0.0/8 ", "fe80::%eth0/10"}) {
    of_spec(std::string(R"({"network":{"egress":[{"cidr":{"cidr":")") + block + R"("}}]}})", "network.egress[0].cidr.cidr",
            "block");
  }
  for (const char* part : {"11.0.0.0/16", "10.0.0.0/8", "0.0.0.0/0", "fd00::/16"}) {
    of_spec(std::string(R"({"network":{"egress":[{"cidr":{"cidr":"10.0.0.0/8","except":[")") + part + R"("]}}]}})",
            "network.egress[0].cidr.except[0]", "not a part");
  }
  of_spec(R"({"network":{"egress":[{"any":true,"ports":[{"port":0}]}]}})", "network.egress[0].ports[0].port", "65535");
  of_spec(R"({"network":{"egress":[{"any":true,"ports":[{"port":9,"endPort":8}]}]}})", "network.egress[0].ports[0].endPort",
          "from 9");
  of_spec(R"({"network":{"egress":[{"any":true,"ports":[{"port":9,"protocol":"SCTP"}]}]}})", "network.egress[0].ports[0].protocol",
          "SCTP");
  of_spec(R"({"network":{"denyEgress":true,"egress":[{"any":true}]}})", "network.denyEgress", "excludes");
  of_container(R"({"resources":{"gpu":{"count":-1}}})", "resources.gpu.count", "1 or more");
  of_container(R"({"resources":{"gpu":{"type":"h100"}}})", "resources.gpu.count", "1 or more");
  of_container(R"({"resourceRequirements":{"limits":{"gpu":{"count":1}},"requests":{"gpu":{"count":2}}}})",
               "resourceRequirements.requests.gpu", "not the same");
  CHECK(server.counts().sandboxes == 0);
}

TEST_CASE("bad requests get typed errors that name what is wrong", "[gateway][ER-4]") {
  Fake fake;
  Server server(
      [](auto& options) {
        options.limits.max_body = 64 * 1024;
        options.max_initial_files = 10;
      },
      fake.maker());
  struct Case {
    std::string method, body;
    unsigned status;
    std::string code, field, text;
  };
  const auto create = [](const std::string& container) { return R"({"sandbox":{"spec":{"containers":[)" + container + "]}}}"; };
  const std::vector<Case> cases = {
      {"GetSandbox", "{", 400, "invalid_argument", "", "JSON"},
      {"GetSandbox", "", 400, "invalid_argument", "", "JSON"},
      {"GetSandbox", "[]", 400, "invalid_argument", "", ""},
      {"GetSandbox", R"({"sandboxId":3})", 400, "invalid_argument", "sandboxId", "string"},
      {"GetSandbox", "{}", 400, "invalid_argument", "sandboxId", "required"},
      {"CreateSandbox", R"({"sandbox":{"spec":{"tags":"x"}}})", 400, "invalid_argument", "sandbox.spec.tags", ""},
      {"CreateSandbox", R"({"sandbox":{"spec":{"volumes":[{"name":"v"}]}}})", 501, "unimplemented", "", "sandbox.spec.volumes"},
      {"CreateSandbox", R"({"sandbox":{"spec":{"maxLifetimeSeconds":-1}}})", 400, "invalid_argument",
       "sandbox.spec.maxLifetimeSeconds", "negative"},
      {"CreateSandbox", R"({"sandbox":{"spec":{"runnerIds":["elsewhere"]}}})", 400, "failed_precondition", "", "has fake"},
      {"CreateSandbox", create(R"({"environmentVariables":{"A=B":"1"}})"), 400, "invalid_argument",
       R"(sandbox.spec.containers[0].environmentVariables["A=B"])", "'='"},
      {"CreateSandbox", create(R"({"workingDir":"relative"})"), 400, "invalid_argument", "sandbox.spec.containers[0].workingDir",
       "absolute"},
      {"CreateSandbox", create(R"({"args":["x"]})"), 400, "invalid_argument", "sandbox.spec.containers[0].command", "without"},
      {"CreateSandbox", create(R"({"command":"a\u0000b"})"), 400, "invalid_argument", "sandbox.spec.containers[0].command[0]",
       "NUL"},
      {"CreateSandbox", create(R"({"files":[{"path":"relative"}]})"), 400, "invalid_argument",
       "sandbox.spec.containers[0].files[0].path", "absolute"},
      {"CreateSandbox", create(R"({"files":[{"path":"/a"},{}]})"), 400, "invalid_argument",
       "sandbox.spec.containers[0].files[1].path", "required"},
      {"CreateSandbox", create(R"({"files":[{"path":"/a/"}]})"), 400, "invalid_argument",
       "sandbox.spec.containers[0].files[0].path", "file"},
      {"CreateSandbox", create(R"({"files":[{"path":"/a\u0000"}]})"), 400, "invalid_argument",
       "sandbox.spec.containers[0].files[0].path", "NUL"},
      {"CreateSandbox", create(R"({"files":[{"path":"/a"},{"path":"/a"}]})"), 400, "invalid_argument",
       "sandbox.spec.containers[0].files[1].path", "twice"},
      {"CreateSandbox", create(R"({"files":[{"path":"/a","content":"?"}]})"), 400, "invalid_argument",
       "sandbox.spec.containers[0].files[0].content", "base64"},
      {"CreateSandbox", create(R"({"files":[{"path":"/a","content":"MTIzNDU="},{"path":"/b","content":"MTIzNDU2"}]})"), 400,
       "invalid_argument", "sandbox.spec.containers[0].files", "at most 10"},
      {"CreateSandbox", create("{},{}"), 501, "unimplemented", "", "one container"},
      {"Exec", R"({"sandboxId":"x","command":[]})", 400, "invalid_argument", "command", "empty"},
      {"Exec", R"({"sandboxId":"x","command":["a\u0000b"]})", 400, "invalid_argument", "command[0]", "NUL"},
      {"Exec", R"({"sandboxId":"x","command":["a"],"env":{"A=":"1"}})", 400, "invalid_argument", R"(env["A="])", "'='"},
      {"Exec", R"({"sandboxId":"x","command":["a"],"maxOutputBytes":-5})", 400, "invalid_argument", "maxOutputBytes", "negative"},
      {"Nope", "{}", 501, "unimplemented", "", "SandboxService/Nope"},
      {"StreamExec", "{}", 501, "unimplemented", "", "SandboxService/StreamExec"},
      {"GetSandbox", std::string(100 * 1024, ' '), 413, "resource_exhausted", "", ""},
  };
  for (const Case& c : cases) {
    INFO(c.method << " " << c.body.substr(0, 200));
    const Answer answer = server.call_raw(c.method, c.body);
    CHECK(answer.status == c.status);
    CHECK(answer.json()["code"] == c.code);
    CHECK_THAT(answer.json()["message"].get<std::string>(), Contains(c.text));
    if (!c.field.empty()) CHECK(has(detail_strings(answer.json(), "BadRequest"), c.field));
  }

  const std::string target = "/coreweave.sandbox.v1.SandboxService/ListSandboxes";
  const auto with = [&](const std::string& method, const std::string& path, std::map<std::string, std::string> headers) {
    headers.emplace("Authorization", std::string("Bearer ") + kToken);
    headers.emplace("Content-Type", "application/json");
    return http(server.address(), method, path, headers, "{}");
  };
  CHECK(with("GET", target, {}).status == 405);
  CHECK(with("GET", target, {}).headers["allow"] == "POST");
  CHECK(with("POST", target, {{"Content-Type", "application/grpc"}}).status == 415);
  CHECK(with("POST", target, {{"Content-Type", ""}}).status == 415);
  CHECK(with("POST", target, {{"Content-Encoding", "gzip"}}).status == 501);
  CHECK(with("POST", target, {{"Connect-Protocol-Version", "2"}}).status == 400);
  for (const std::string timeout : {"x", "-1", "0", "1.5", "99999999999"})
    CHECK(with("POST", target, {{"Connect-Timeout-Ms", timeout}}).status == 400);
  CHECK(with("POST", target, {{"Connect-Timeout-Ms", "9999999999"}, {"Connect-Protocol-Version", "1"}}).status == 200);
  CHECK(with("POST", "/nowhere", {}).status == 404);
  CHECK(with("POST", "/coreweave.sandbox.v1.VolumeService/CreateVolume", {}).status == 501);
  CHECK(with("POST", "/coreweave.sandbox.v9.VolumeService/CreateVolume", {}).status == 404);
  CHECK(with("GET", "/v1/exec", {}).status == 426);
  CHECK(server.call("ListSandboxes", Json::object()).status == 200);
}

TEST_CASE("a call is answered in the encoding that it comes in, an error in JSON", "[gateway][EV-22]") {
  Server server;
  const std::string id = server.sandbox();
  const auto call = [&](const std::string& method, const std::string& body) {
    return http(server.address(), "POST", "/coreweave.sandbox.v1.SandboxService/" + method,
                {{"Authorization", std::string("Bearer ") + kToken}, {"Content-Type", "Application/Proto; v=1"}}, body);
  };
  // Written by hand: sandbox_id, and command twice.
  const std::string named = "\x0a" + std::string(1, static_cast<char>(id.size())) + id;
  const Answer answer = call("Exec", named +
                                         "\x12\x04"
                                         "echo\x12\x02hi");
  CHECK(answer.status == 200);
  CHECK(answer.headers.at("content-type") == "application/proto");
  CHECK(answer.body == std::string("\x0a\x03hi\n\x30\x03"));  // stdout, and how much of it there was
  const Answer refused = call("Exec", named);
  CHECK(refused.status == 400);
  CHECK(refused.headers.at("content-type") == "application/json");
  CHECK(refused.json()["code"] == "invalid_argument");
  CHECK(call("GetSandbox", "\x0a\x05no").json()["message"].get<std::string>().find("is not protobuf") != std::string::npos);
}

TEST_CASE("unary Exec runs a command and tells honestly what it gives", "[gateway][EX-8][EX-16]") {
  Server server;
  const std::string id = server.sandbox(
      {{"containers", {{{"name", "box"}, {"environmentVariables", {{"WHERE", "sandbox"}}}, {"workingDir", "/tmp"}}}}});
  const auto exec = [&](const Json& command, Json more = Json::object()) {
    more["sandboxId"] = id;
    more["command"] = command;
    const Answer answer = server.call("Exec", more);
    INFO(answer.body);
    REQUIRE(answer.status == 200);
    return answer.json();
  };
  const Json both = exec({"sh", "-c", "printf out; printf err >&2; exit 3"});
  CHECK(both["stdout"] == "b3V0");
  CHECK(both["stderr"] == "ZXJy");
  CHECK(both["exitCode"] == 3);
  CHECK(exec({"sh", "-c", "printf \"$WHERE $MORE $PWD\""}, {{"env", {{"MORE", "x"}}}})["stdout"] == "c2FuZGJveCB4IC90bXA=");
  CHECK(exec({"cat"})["stdoutBytesProduced"].is_null());  // no stdin: the end of input at once
  const Json killed = exec({"sh", "-c", "kill -9 $$"}, {{"container", "box"}});
  CHECK(killed["exitCode"] == 137);
  const Json cut = exec({"sh", "-c", "head -c 3000000 /dev/zero; printf 12345 >&2"}, {{"maxOutputBytes", 4}});
  CHECK(cut["stdout"] == "AAAAAA==");
  CHECK(cut["stderr"] == "MTIzNA==");
  CHECK(cut["stdoutTruncated"] == true);
  CHECK(cut["stderrTruncated"] == true);
  CHECK(cut["stdoutBytesProduced"] == "3000000");
  CHECK(cut["stderrBytesProduced"] == "5");

  const Answer missing = server.call("Exec", {{"sandboxId", id}, {"command", {"no-such-program"}}});
  CHECK(missing.status == 400);
  CHECK(missing.json()["code"] == "failed_precondition");
  CHECK(has(detail_strings(missing.json(), "ErrorInfo"), "ENOENT"));
  CHECK(server.call("Exec", {{"sandboxId", id}, {"command", {"true"}}, {"container", "other"}}).status == 400);

  const std::string marker = unique_marker();
  const Answer late = server.call("Exec", {{"sandboxId", id}, {"command", {"sh", "-c", "sleep 1000 & sleep 1000; : " + marker}}},
                                  {{"Connect-Timeout-Ms", "300"}});
  CHECK(late.status == 504);
  CHECK(late.json()["code"] == "deadline_exceeded");
  CHECK(has(detail_strings(late.json(), "ErrorInfo"), "CWSANDBOX_COMMAND_TIMEOUT"));
  CHECK(eventually([&] { return processes_with(marker) == 0 && server.counts().processes == 0; }));

  server.call("DeleteSandbox", {{"sandboxId", id}});
  server.wait_state(id, "STATE_TERMINATED");
  const Answer stopped = server.call("Exec", {{"sandboxId", id}, {"command", {"true"}}});
  CHECK(stopped.status == 400);
  CHECK(stopped.json()["code"] == "failed_precondition");
  CHECK(has(detail_strings(stopped.json(), "ErrorInfo"), "CWSANDBOX_SANDBOX_NOT_RUNNING"));
  const std::string log = server.log();
  CHECK_THAT(log, Contains("\"sh\" exited 3") && !Contains("printf") && !Contains("WHERE"));
}

TEST_CASE("a gateway refuses addresses that others can reach unless there are a token and TLS", "[gateway]") {
  Fake fake;
  Server server({}, fake.maker());
  net::ListenAddress open;
  open.host = "0.0.0.0";
  CHECK_THROWS_AS(server.listen(open), std::invalid_argument);
  net::ListenAddress loopback;
  loopback.host = "127.0.0.1";
  const net::ListenAddress bound = server.listen(loopback);
  CHECK(bound.port != 0);
  CHECK(http(bound, "GET", "/healthz", {}, "").status == 200);

  asio::io_context io;
  const auto make = [&](const std::function<void(gateway::GatewayOptions&)>& change) {
    gateway::GatewayOptions options;
    change(options);
    Fake other;
    auto runner = other.maker()(io.get_executor());
    return std::make_unique<gateway::Gateway>(io.get_executor(), std::move(runner), options);
  };
  CHECK_THROWS_AS(make([](auto&) {}), std::invalid_argument);
  CHECK_THROWS_AS(make([](auto& o) { o.tokens = {""}; }), std::invalid_argument);
  CHECK_THROWS_AS(make([](auto& o) { o.tokens = {"two words"}; }), std::invalid_argument);
  CHECK_THROWS_AS(make([](auto& o) { o.tokens = {"a"}, o.no_token = true; }), std::invalid_argument);
  auto without = make([](auto& o) { o.no_token = true; });
  CHECK_THROWS_AS(without->listen(open), std::invalid_argument);
}

TEST_CASE("stop takes no new work, ends everything in its grace time, and then there is nothing", "[gateway][P8]") {
  Server server;
  const std::string marker = unique_marker();
  const std::string id = server.sandbox();
  Peer peer(server.address());
  Json polite = start(id, {"sh", "-c", "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done; : " + marker});
  peer.send(5, polite);
  peer.expect_status("started");
  CHECK(peer.expect(1).payload == "ready\n");
  Peer idle(server.address());
  auto stopped = std::async(std::launch::async, [&] { server.stop(std::chrono::seconds(10)); });
  peer.out = "ready\n";
  const Peer::Outcome outcome = peer.to_exit();
  CHECK(outcome.out == "ready\nbye\n");
  CHECK(outcome.exit["outcome"] == "exited");
  CHECK(!peer.receive());
  CHECK(peer.close_code == 1001);
  CHECK(!idle.receive());
  CHECK(idle.close_code == 1001);
  stopped.get();
  CHECK(processes_with(marker) == 0);
  CHECK(server.counts().sandboxes == 0);
  CHECK(server.counts().processes == 0);
}
