// What one owner may make the gateway hold, and that the others have their part whatever they do.
#include "gateway_support.hpp"
#include "support/catch.hpp"

using namespace gateway_test;
using Catch::Matchers::Contains;

namespace {

constexpr std::uint8_t kStatus = 3, kStart = 5, kWindow = 6, kSignal = 7;
constexpr std::size_t kKiB = 1024, kMiB = 1024 * kKiB;
constexpr const char* kOther = "another-token-9876543210";

std::map<std::string, std::string> as_other() { return {{"Authorization", std::string("Bearer ") + kOther}}; }

void two_owners(Server& server) { server.set_tokens({gateway::Token(kToken), gateway::Token(kOther)}); }

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
