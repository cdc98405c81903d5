// What one owner may make the gateway hold, and that the others have their part whatever they do.
#include "gateway/budgets.hpp"
#include "gateway/memory_bound.hpp"
#include "gateway/output_spill.hpp"
#include "gateway_support.hpp"
#include "net/sizes.hpp"
#include "protocol/exec_stream.hpp"
#include "support/catch.hpp"

#include <algorithm>
#include <functional>
#include <set>

using namespace gateway_test;
using Catch::Matchers::Contains;

namespace {

constexpr std::uint8_t kStatus = 3, kStart = 5, kWindow = 6, kSignal = 7;
constexpr std::size_t kKiB = 1024, kMiB = 1024 * kKiB;
constexpr const char* kOther = "another-token-9876543210";

std::map<std::string, std::string> as_other() { return {{"Authorization", std::string("Bearer ") + kOther}}; }

void two_owners(Server& server) { server.set_tokens({gateway::Token(kToken), gateway::Token(kOther)}); }

/// Makes sandboxes of an owner's until one is refused; how many were made, and the refusal.
struct Filled {
  std::vector<std::string> ids;
  Answer refusal;
};
Filled fill(Server& server, const std::map<std::string, std::string>& headers) {
  Filled out;
  for (int i = 0; i < 100; ++i) {
    out.refusal = server.call("CreateSandbox", {{"sandbox", {{"spec", Json::object()}}}}, headers);
    if (out.refusal.status != 200) break;
    out.ids.push_back(out.refusal.json()["sandboxId"]);
  }
  return out;
}

/// Says which budget is used up, and what sets it.
void check_exhausted(const Answer& answer, const std::string& budget, const std::string& option) {
  CHECK(answer.status == 429);
  CHECK(answer.headers.count("retry-after") == 1);
  const Json error = answer.json();
  CHECK(error["code"] == "resource_exhausted");
  CHECK_THAT(error["message"].get<std::string>(), Contains(option));
  const auto told = detail_strings(error, "ErrorInfo");
  const auto tells = [&told](const std::string& text) { return std::find(told.begin(), told.end(), text) != told.end(); };
  CHECK(tells("budget"));
  CHECK(tells(budget));
  CHECK(tells(option));
}

Json with_environment(std::size_t bytes, const Json& more = Json::object()) {
  Json container = more;
  container["environmentVariables"] = {{"LARGE", std::string(bytes, 'x')}};
  return {{"sandbox", {{"spec", {{"containers", {container}}}}}}};
}

Json asks_for_windows(Json request, std::size_t bytes) {
  request["window"] = {{"stdout", bytes}, {"stderr", bytes}};
  return request;
}

}  // namespace

TEST_CASE("what is asked for a sandbox is bounded, and so is a page of a list", "[gateway][P10][LC-15]") {
  Server server;
  const Answer refused = server.call("CreateSandbox", with_environment(300 * kKiB));
  CHECK(refused.status == 400);
  CHECK(refused.json()["code"] == "invalid_argument");
  CHECK_THAT(refused.body, Contains("sandbox.spec") && Contains("at most 262144"));

  std::vector<std::string> ids, seen;
  for (int i = 0; i < 12; ++i) {
    const Answer made = server.call("CreateSandbox", with_environment(120 * kKiB));
    REQUIRE(made.status == 200);
    ids.push_back(made.json()["sandboxId"]);
  }
  std::string token;
  int pages = 0;
  do {
    const Answer page = server.call("ListSandboxes", {{"pageSize", 1000}, {"pageToken", token}});
    REQUIRE(page.status == 200);
    CHECK(page.body.size() < kMiB + 256 * kKiB);
    const Json list = page.json();
    for (const auto& sandbox : list["sandboxes"]) seen.push_back(sandbox["sandboxId"]);
    token = list.value("nextPageToken", "");
  } while (!token.empty() && ++pages < 20);
  CHECK(seen == ids);
  CHECK(pages >= 1);
}

TEST_CASE("sandboxes that have ended are remembered by bytes, and each owner has its own to lose", "[gateway][P10][LC-15]") {
  Server server([](auto& options) {
    options.max_remembered = 6;
    options.max_remembered_bytes = 300 * kKiB;
  });
  two_owners(server);
  const auto end = [&server](const Json& request, const std::map<std::string, std::string>& headers) {
    const Answer made = server.call("CreateSandbox", request, headers);
    REQUIRE(made.status == 200);
    const std::string id = made.json()["sandboxId"];
    server.call("DeleteSandbox", {{"sandboxId", id}, {"gracePeriodSeconds", 1}}, headers);
    REQUIRE(eventually([&] {
      const Answer got = server.call("GetSandbox", {{"sandboxId", id}}, headers);
      return got.status == 404 || got.json()["status"]["state"] == "STATE_TERMINATED";
    }));
    return id;
  };
  const Json small = with_environment(10);
  const std::string kept = end(small, as_other());
  std::vector<std::string> mine;
  for (int i = 0; i < 9; ++i) mine.push_back(end(small, {}));
  const auto known = [&server](const std::string& id, const std::map<std::string, std::string>& headers) {
    return server.call("GetSandbox", {{"sandboxId", id}}, headers).status == 200;
  };
  CHECK(known(kept, as_other()));
  CHECK_FALSE(known(mine.front(), {}));
  CHECK(known(mine.back(), {}));
  // Large ones give way sooner.
  std::vector<std::string> large;
  for (int i = 0; i < 3; ++i) large.push_back(end(with_environment(120 * kKiB), {}));
  CHECK_FALSE(known(large.front(), {}));
  CHECK(known(large.back(), {}));
  CHECK(known(kept, as_other()));
}

TEST_CASE("the outputs of Exec count in their owner's part", "[gateway][P10]") {
  Server server([](auto& options) { options.limits.max_client_memory = 16 * kMiB; });
  two_owners(server);
  const std::string id = server.sandbox();
  const auto exec = [&server](const std::string& sandbox, std::size_t bytes, const std::map<std::string, std::string>& headers) {
    return server.call(
        "Exec",
        {{"sandboxId", sandbox}, {"command", {"head", "-c", std::to_string(bytes), "/dev/zero"}}, {"maxOutputBytes", 16 * kMiB}},
        headers);
  };
  // Three quarters of 16 MiB are one owner's.
  for (int i = 0; i < 3; ++i) {
    const Answer refused = exec(id, 14 * kMiB, {});
    CHECK(refused.status == 429);
    CHECK(refused.json()["code"] == "resource_exhausted");
    CHECK_THAT(refused.body, Contains("memory"));
    const Answer fits = exec(id, 4 * kMiB, {});
    REQUIRE(fits.status == 200);
    CHECK(fits.json()["stdoutBytesProduced"] == std::to_string(4 * kMiB));
  }
  CHECK(eventually([&] { return server.counts().processes == 0; }));
}

TEST_CASE("a window that is larger than the usual counts in its owner's part", "[gateway][P2][P10]") {
  Server server([](auto& options) { options.limits.max_client_memory = 16 * kMiB; });
  const std::string id = server.sandbox();
  const Json request = asks_for_windows(start(id, {"sleep", "1000"}), 4 * kMiB);
  std::vector<std::unique_ptr<Peer>> peers;
  // Twice 3 MiB more than the usual for each, of 12.
  for (int i = 0; i < 2; ++i) {
    peers.push_back(std::make_unique<Peer>(server.address()));
    peers.back()->send(kStart, asks_for_windows(start(id, {"sleep", "1000"}), 4 * kMiB));
    peers.back()->expect_status("started");
  }
  Peer refused(server.address());
  refused.send(kStart, request);
  const Json error = refused.expect_status("error");
  CHECK(error["code"] == "resource_exhausted");
  CHECK_THAT(error["message"].get<std::string>(), Contains("window"));
  // The usual is always there, and what one has had is free when it has ended.
  refused.release();
  refused.send(kStart, start(id, {"echo", "usual"}));
  CHECK(refused.to_exit().out == "usual\n");
  peers.front()->send(kSignal, Json{{"type", "cancel"}});
  CHECK(peers.front()->to_exit().exit["outcome"] == "cancelled");
  peers.front()->send(kStart, asks_for_windows(start(id, {"echo", "large"}), 4 * kMiB));
  CHECK(peers.front()->to_exit().out == "large\n");
}

TEST_CASE("no word moves a limit farther ahead than the first", "[gateway][P2][P10]") {
  Server server;
  const std::string id = server.sandbox();
  Peer peer(server.address());
  // What does not fit into the window fits into the pipe, so that the process ends.
  const std::size_t size = kMiB + 32 * kKiB;
  peer.send(kStart, start(id, {"head", "-c", std::to_string(size), "/dev/zero"}));
  peer.expect_status("started");
  peer.send(kWindow, Json{{"type", "window"}, {"stdout", {{"received", 0}, {"limit", 8 * kMiB}}}});
  // It is said when the process has ended and what it wrote waits for the window: nothing comes after it by itself.
  for (;;) {
    const auto message = peer.receive();
    REQUIRE(message);
    if (message->channel == kStatus) {
      CHECK(message->json()["type"] == "ended");
      break;
    }
    peer.take(*message);
  }
  CHECK(peer.out.size() == kMiB);
  peer.grant();
  const Peer::Outcome outcome = peer.to_exit();
  CHECK(outcome.exit["code"] == 0);
  CHECK(outcome.out.size() == size);
}

TEST_CASE("every budget of an owner has its name and its option", "[gateway][EV-11]") {
  std::set<std::string> names, options;
  for (const gateway::BudgetEntry& entry : gateway::kBudgets) {
    CHECK(&gateway::entry_of(entry.budget) == &entry);
    CHECK(names.insert(entry.name).second);
    CHECK(options.insert(entry.option).second);
  }
}

TEST_CASE("who takes all sandboxes leaves others theirs, and has them again after", "[gateway][EV-11]") {
  Server server([](auto& options) { options.max_sandboxes = 4; });
  SECTION("an only owner may have all") {
    const Filled all = fill(server, {});
    CHECK(all.ids.size() == 4);
    CHECK_THAT(all.refusal.body, Contains("this gateway runs its maximum of 4 sandboxes"));
  }
  SECTION("one of several three quarters") {
    two_owners(server);
    const Filled mine = fill(server, {});
    REQUIRE(mine.ids.size() == 3);
    check_exhausted(mine.refusal, "sandboxes", "--max-sandboxes-per-owner");
    CHECK(fill(server, as_other()).ids.size() == 1);
    server.call("DeleteSandbox", {{"sandboxId", mine.ids[0]}, {"gracePeriodSeconds", 1}});
    CHECK(eventually([&] { return fill(server, {}).ids.size() == 1; }));
  }
}

TEST_CASE("processes and open files are counted for an owner, and for all", "[gateway][EV-11]") {
  Server server([](auto& options) {
    options.max_processes_per_owner = 2;
    options.max_descriptors = 20;
  });
  two_owners(server);
  const std::string id = server.sandbox();
  std::vector<std::unique_ptr<Peer>> peers;
  for (int i = 0; i < 2; ++i) {
    peers.push_back(std::make_unique<Peer>(server.address()));
    peers.back()->send(kStart, start(id, {"sleep", "1000"}));
    peers.back()->expect_status("started");
  }
  const auto exec = [&] { return server.call("Exec", {{"sandboxId", id}, {"command", {"true"}}}); };
  check_exhausted(exec(), "processes", "--max-processes-per-owner");
  Peer third(server.address());
  third.send(kStart, start(id, {"true"}));
  const Json error = third.expect_status("error");
  CHECK(error["code"] == "resource_exhausted");
  CHECK(error["metadata"]["budget"] == "processes");
  // 6 for a sandbox and 3 for each process: of the 15 that one may have, 12 are taken.
  check_exhausted(server.call("CreateSandbox", {{"sandbox", {{"spec", Json::object()}}}}), "descriptors",
                  "--max-descriptors-per-owner");
  // There are 8 more for all.
  const Filled others = fill(server, as_other());
  CHECK(others.ids.size() == 1);
  CHECK_THAT(others.refusal.body, Contains("all owners together may have at most 20"));
  // What has ended counts no longer, also while its client looks at how it ended.
  peers[0]->send(kSignal, Json{{"type", "cancel"}});
  CHECK(eventually([&] { return exec().status == 200; }));
  peers.clear();
}

TEST_CASE("requests of a second are counted for an owner", "[gateway][EV-11]") {
  using namespace std::chrono_literals;
  SECTION("by construction") {
    gateway::GatewayOptions options;
    options.max_requests_per_owner = 10;
    gateway::Budgets budgets(std::make_shared<gateway::BudgetTable>(options));
    std::chrono::steady_clock::time_point now{};
    now += 1h;
    // All of a second's at once, and then one each tenth of it.
    for (int i = 0; i < 10; ++i) CHECK_FALSE(budgets.take_request(now));
    for (int i = 0; i < 5; ++i) {
      const auto wait = budgets.take_request(now);
      REQUIRE(wait);
      CHECK(*wait == 100ms);
      CHECK(budgets.take_request(now + *wait - 1ns));
      now += *wait;
      CHECK_FALSE(budgets.take_request(now));
    }
    now += 1h;
    for (int i = 0; i < 10; ++i) CHECK_FALSE(budgets.take_request(now));
    CHECK(budgets.take_request(now));
  }
  SECTION("by a gateway") {
    Server server([](auto& options) { options.max_requests_per_owner = 1; });
    two_owners(server);
    Answer refused;
    CHECK(eventually([&] { return (refused = server.call("ListSandboxes", Json::object())).status == 429; }));
    check_exhausted(refused, "requests", "--max-requests-per-owner");
    CHECK(server.call("ListSandboxes", Json::object(), as_other()).status == 200);
    // Who only looks whether it is there is nobody's.
    CHECK(http(server.address(), "GET", "/healthz", {}, "").status == 200);
  }
  SECTION("starts of processes on a connection that is there") {
    Server server([](auto& options) { options.max_requests_per_owner = 1; });
    std::string id;
    CHECK(eventually([&] {
      const Answer made = server.call("CreateSandbox", {{"sandbox", {{"spec", Json::object()}}}});
      if (made.status == 200) id = made.json()["sandboxId"];
      return !id.empty();
    }));
    std::unique_ptr<Peer> peer;
    CHECK(eventually([&] {
      try {
        peer = std::make_unique<Peer>(server.address());
      } catch (const std::runtime_error&) {  // that is a request, too
      }
      return peer != nullptr;
    }));
    Json error;
    const auto is_refused = [&] {
      peer->send(kStart, start(id, {"true"}));
      const auto answer = peer->receive();
      REQUIRE(answer);
      REQUIRE(answer->channel == kStatus);
      if (answer->json()["type"] == "error") {
        error = answer->json();
        peer->release();
        return true;
      }
      CHECK(peer->to_exit().exit["code"] == 0);
      return false;
    };
    CHECK(eventually(is_refused));
    CHECK(error["code"] == "resource_exhausted");
    CHECK_THAT(error["message"].get<std::string>(), Contains("--max-requests-per-owner"));
    // The connection goes on, and so does the next second.
    CHECK(eventually([&] { return !is_refused(); }));
  }
}

TEST_CASE("what main commands write has a rate for each owner, and what they have written is not lost with them",
          "[gateway][LG-1][EV-11]") {
  using namespace std::chrono_literals;
  SECTION("by construction") {
    gateway::GatewayOptions options;
    options.max_log_rate_per_owner = 1000;
    gateway::Budgets budgets(std::make_shared<gateway::BudgetTable>(options));
    std::chrono::steady_clock::time_point now{};
    now += 1h;
    CHECK_FALSE(budgets.log_wait(now));
    budgets.took_log(500, now);
    const auto wait = budgets.log_wait(now);
    REQUIRE(wait);
    CHECK(*wait == 490ms);
    CHECK(budgets.log_wait(now + *wait - 1ns));
    CHECK_FALSE(budgets.log_wait(now + *wait));
    // What was not used in an hour is not there to be used at once.
    now += 1h;
    budgets.took_log(500, now);
    CHECK(budgets.log_wait(now) == 490ms);
    budgets.took_log(1ull << 60, now);
    CHECK(budgets.log_wait(now));
  }
  SECTION("by a gateway") {
    Server server([](auto& options) { options.max_log_rate_per_owner = 1; });
    two_owners(server);
    const auto begin = [&](const std::string& script, const std::map<std::string, std::string>& headers) {
      const Json container = {{"command", "/bin/sh"}, {"args", {"-c", script}}};
      const Answer made = server.call("CreateSandbox", {{"sandbox", {{"spec", {{"containers", {container}}}}}}}, headers);
      REQUIRE(made.status == 200);
      return made.json()["sandboxId"].get<std::string>();
    };
    const auto exec = [&](const std::string& id, std::vector<std::string> command) {
      return server.call("Exec", {{"sandboxId", id}, {"command", std::move(command)}});
    };
    // Far more than what is read at once and what fits into a pipe.
    const std::string flood = begin("head -c 16777216 /dev/zero; touch /tmp/written; sleep 1000", {});
    // A follower of an empty log is told that it lives.
    const auto first_of = [](StreamCall call) {
      std::string data;
      while (const auto entry = call.next())
        if (!(data = base64_decode(entry->value("data", ""))).empty()) break;
      return data;
    };
    CHECK(first_of(server.logs({{"sandboxId", flood}, {"follow", true}})).starts_with(std::string(4096, '\0')));
    for (int i = 0; i < 50; ++i) CHECK(exec(flood, {"test", "-e", "/tmp/written"}).json()["exitCode"] == 1);
    // The rate is one for all that the owner has, what a pipe holds is there in the end, and nobody else waits.
    const std::string mine = begin("echo mine", {}), theirs = begin("echo theirs; sleep 1000", as_other());
    CHECK(server.wait_state(mine, "STATE_COMPLETED") == "STATE_COMPLETED");
    CHECK(first_of(server.logs({{"sandboxId", mine}, {"follow", true}})) == "mine\n");
    CHECK(first_of(StreamCall(server.address(), "coreweave.sandbox.v1.SandboxService/StreamLogs",
                              {{"sandboxId", theirs}, {"follow", true}}, as_other())) == "theirs\n");
  }
}

TEST_CASE("output that waits on disk has a part for each owner", "[gateway][TS-14][EV-11]") {
  gateway::GatewayOptions options;
  options.total_capture_bytes = 1000;
  const auto table = std::make_shared<gateway::BudgetTable>(options);
  const auto mine = std::make_shared<gateway::Budgets>(table), other = std::make_shared<gateway::Budgets>(table);
  gateway::OutputSpill spill(mine, 10'000, "/tmp"), another(other, 10'000, "/tmp");
  CHECK(spill.room() == 1000);
  table->set_several_owners(true);
  CHECK(spill.room() == 750);
  spill.append(std::string(750, 'x'));
  CHECK(spill.room() == 0);
  CHECK(another.room() == 250);
  another.append(std::string(250, 'y'));
  CHECK(another.room() == 0);
  spill.clear();
  CHECK(spill.room() == 750);
  CHECK(another.room() == 500);
}

TEST_CASE("of the logs of sandboxes that have ended, each owner has its own to lose", "[gateway][LG-4][EV-11]") {
  Server server([](auto& options) { options.ended_log_bytes = 64 * kKiB; });
  two_owners(server);
  const auto end = [&server](const std::map<std::string, std::string>& headers) {
    const Json container = {
        {"name", "main"}, {"command", "/usr/bin/head"}, {"args", {"-c", std::to_string(20 * kKiB), "/dev/zero"}}};
    const Answer made = server.call("CreateSandbox", {{"sandbox", {{"spec", {{"containers", {container}}}}}}}, headers);
    REQUIRE(made.status == 200);
    const std::string id = made.json()["sandboxId"];
    REQUIRE(eventually(
        [&] { return server.call("GetSandbox", {{"sandboxId", id}}, headers).json()["status"]["state"] == "STATE_COMPLETED"; }));
    return id;
  };
  const auto bytes = [&server](const std::string& id, const std::map<std::string, std::string>& headers) {
    StreamCall call(server.address(), "coreweave.sandbox.v1.SandboxService/StreamLogs", {{"sandboxId", id}}, headers);
    std::size_t sum = 0;
    for (const Json& entry : call.rest()) sum += base64_decode(entry.value("data", "")).size();
    return sum;
  };
  const std::string kept = end(as_other());
  std::vector<std::string> mine;
  for (int i = 0; i < 4; ++i) mine.push_back(end({}));
  CHECK(bytes(kept, as_other()) == 20 * kKiB);
  CHECK(bytes(mine.front(), {}) == 0);
  CHECK(bytes(mine.back(), {}) == 20 * kKiB);
}

TEST_CASE("the bound of a gateway's memory has every option that moves it, with what the code keeps to", "[gateway][EV-12]") {
  using Change = std::function<void(gateway::GatewayOptions&)>;
  const auto bound_after = [&](const Change& change, std::size_t owners = 1) {
    gateway::GatewayOptions options;
    change(options);
    return gateway::memory_bound(gateway::memory_terms(options, owners));
  };
  const std::uint64_t usual = bound_after([](auto&) {});
  const auto more = [&](const Change& change) { return bound_after(change) - usual; };
  CHECK(more([](auto& options) { options.limits.max_stranger_memory += 7; }) == 7);
  CHECK(more([](auto& options) { options.limits.max_client_memory += 7; }) == 7);
  // What one process may hold: three windows, and the storage of both outputs that is kept for more.
  const std::uint64_t process = 3 * cwsandbox::protocol::kDefaultWindow + 2 * kMiB;
  CHECK(more([](auto& options) { options.max_orphans += 3; }) == 3 * process);
  CHECK(more([](auto& options) { options.limits.max_connections += 3; }) == 3 * (process + net::kMostOfConnection));
  CHECK(more([](auto& options) { options.max_remembered_bytes += 100; }) == 400);
  const std::uint64_t log = more([](auto& options) { options.max_remembered += 1; });
  CHECK(log >= 16 * kKiB + 4096 * 24);
  // The largest that may be asked for, as text four times over, with its log.
  CHECK(more([](auto& options) { options.max_sandboxes += 1; }) == 4 * 256 * kKiB + log);
  CHECK(more([](auto& options) { options.runner_memory += 7; }) == 7);
  CHECK(more([](auto& options) { options.runner_memory_per_sandbox += 7; }) == 7 * gateway::GatewayOptions().max_sandboxes);
  CHECK(bound_after([](auto&) {}, 2) - usual == bound_after([](auto&) {}, 3) - bound_after([](auto&) {}, 2));
  CHECK(bound_after([](auto&) {}, 2) > usual);

  // And the gateway says it, to whoever runs it.
  Server server;
  CHECK_THAT(server.log(), Contains(" bytes of memory (") && Contains("4096 connections"));
}
