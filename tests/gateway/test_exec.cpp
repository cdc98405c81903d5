// The exec stream as the gateway speaks it, by a peer that knows the protocol's text and nothing of this tree's machines.
#include "gateway_support.hpp"
#include "support/catch.hpp"

#include <fstream>

using namespace gateway_test;
using Catch::Matchers::Contains;

namespace {

// channels
constexpr std::uint8_t kStdin = 0, kStdout = 1, kStatus = 3, kResize = 4, kStart = 5, kWindow = 6, kSignal = 7, kResume = 8,
                       kClose = 255;

Json started(Peer& peer, const Json& request) {
  peer.send(kStart, request);
  return peer.expect_status("started");
}

[[maybe_unused]] std::size_t resident_kib() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("VmRSS:", 0) == 0) return static_cast<std::size_t>(std::stoul(line.substr(6)));
  }
  return 0;
}

// The next message that is neither a window nor the end of a stream.
Message next_content(Peer& peer) {
  for (;;) {
    const auto message = peer.receive();
    if (!message) throw std::runtime_error("closed: " + peer.close_reason);
    if (message->channel != kWindow && message->channel != kClose) return *message;
  }
}

// Reads until the connection is closed and says how.
std::uint16_t closed_with(Peer& peer) {
  while (peer.receive()) {
  }
  return peer.close_code;
}

Json window(std::uint64_t out_received, std::uint64_t out_limit) {
  Json json = {{"type", "window"}};
  json["stdout"] = {{"received", out_received}, {"limit", out_limit}};
  return json;
}

}  // namespace

TEST_CASE("output, error output and exit code; then the next process on the same connection", "[gateway][EX-8][EX-17][P9]") {
  Server server;
  const std::string id = server.sandbox();
  Peer peer(server.address());
  Json first = start(id, {"sh", "-c", "echo out; echo err >&2; exit 3"});
  peer.send(kStart, first);
  Peer::Outcome outcome = peer.to_exit();
  CHECK(outcome.started);
  CHECK(outcome.out == "out\n");
  CHECK(outcome.err == "err\n");
  CHECK(outcome.exit["outcome"] == "exited");
  CHECK(outcome.exit["code"] == 3);
  CHECK(outcome.exit["startTimeMs"] <= outcome.exit["endTimeMs"]);

  // stdin without waiting for `started`, all in one go
  Json second = start(id, {"sort"});
  second["stdin"] = true;
  peer.send(kStart, second);
  peer.send(kStdin, "pear\napple\n");
  peer.send(kClose, std::string_view("\0", 1));
  outcome = peer.to_exit();
  CHECK(outcome.out == "apple\npear\n");
  CHECK(outcome.exit["code"] == 0);

  Json third = start(id, {"sh", "-c", "echo $VAR; pwd"});
  third["env"] = {{"VAR", "value"}};
  third["cwd"] = "/usr";
  peer.send(kStart, third);
  CHECK(peer.to_exit().out == "value\n/usr\n");
  Json fourth = start(id, {"sh", "-c", "kill -TERM $$"});
  peer.send(kStart, fourth);
  outcome = peer.to_exit();
  CHECK(outcome.exit["outcome"] == "signaled");
  CHECK(outcome.exit["signal"] == "SIGTERM");
  CHECK(eventually([&] { return server.counts().processes == 0; }));
  CHECK(server.counts().orphans == 0);
}

TEST_CASE("stdin: none at all, every byte value, not read, half-closed", "[gateway][P5][IO-4][IO-5][IO-6][IO-8][IO-9]") {
  Server server;
  const std::string id = server.sandbox();
  Peer peer(server.address());
  peer.send(kStart, start(id, {"wc", "-c"}));
  CHECK(peer.to_exit().out == "0\n");

  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  Json cat = start(id, {"cat"});
  cat["stdin"] = true;
  peer.send(kStart, cat);
  peer.send(kStdin, "");  // nothing, and not the end
  peer.send(kStdin, all);
  while (peer.out.size() < all.size()) {  // output goes on before the end of input
    const auto message = peer.receive();
    REQUIRE(message);
    peer.take(*message);
  }
  CHECK(peer.out == all);
  peer.send(kClose, std::string_view("\0", 1));
  CHECK(peer.to_exit().exit["code"] == 0);

  for (const char* program : {"true", "exec <&-; echo open >&2; exit 4"}) {
    Json request = start(id, {"sh", "-c", program});
    request["stdin"] = true;
    peer.send(kStart, request);
    peer.send(kStdin, std::string(60000, 'x'));
    const Peer::Outcome outcome = peer.to_exit();
    CHECK(outcome.exit["outcome"] == "exited");
    CHECK(outcome.exit["code"] == (std::string(program) == "true" ? 0 : 4));
  }
}

TEST_CASE("a stdin that nobody reads any more is told, with the byte where it was", "[gateway][SW-18][SW-19]") {
  Server server;
  const std::string id = server.sandbox();
  Peer peer(server.address());
  Json request =
      start(id, {"sh", "-c", "trap 'exec 0<&-' USR1; echo ready; while :; do (trap '' USR1; exec sleep 0.05 </dev/null); done"});
  request["stdin"] = true;
  const std::uint64_t limit = started(peer, request)["window"]["stdin"];
  peer.take(next_content(peer));
  CHECK(peer.out == "ready\n");
  // The pipe takes it: that is what a flush asks for.
  peer.send(kStdin, "abc");
  peer.send(kWindow, Json{{"type", "window"}, {"flush", 3}});
  Json word = peer.expect(kWindow).json()["stdin"];
  CHECK(word["received"] == 3);
  CHECK_FALSE(word.contains("taken"));
  // More than any pipe holds: the gateway has it, and the process has not.
  std::uint64_t sent = 3;
  while (sent + 65536 <= limit) {
    peer.send(kStdin, std::string(65536, 'x'));
    sent += 65536;
  }
  peer.send(kWindow, Json{{"type", "window"}, {"flush", sent}});
  word = peer.expect(kWindow).json()["stdin"];
  CHECK(word["received"] == sent);
  const std::uint64_t taken = word["taken"];
  CHECK(taken < sent);
  // No write, no flush: it is told by itself.
  peer.send(kSignal, Json{{"type", "signal"}, {"signal", "USR1"}});
  word = peer.expect(kWindow).json()["stdin"];
  CHECK(word["closed"] == taken);
  CHECK(word["received"] == sent);
  // A client that does not know the word goes on: it is not at fault, and not held up.
  const std::uint64_t more = word["limit"];
  CHECK(more >= sent + 65536);
  peer.send(kStdin, std::string(65536, 'x'));
  peer.send(kClose, std::string_view("\0", 1));
  peer.send(kSignal, Json{{"type", "signal"}, {"signal", "KILL"}});
  const Json exit = peer.to_exit().exit;
  CHECK(exit["signal"] == "SIGKILL");
  CHECK(exit["stdin"] == taken);

  // One that ends by itself says it with its exit, and lets nobody send more in between.
  peer.send(kStart, [&] {
    Json sleep = start(id, {"sh", "-c", "read word; exit 3"});
    sleep["stdin"] = true;
    return sleep;
  }());
  const std::uint64_t first = peer.expect_status("started")["window"]["stdin"];
  peer.send(kStdin, "word\n" + std::string(60000, 'x'));
  const Peer::Outcome outcome = peer.to_exit();
  CHECK(outcome.exit["code"] == 3);
  CHECK(outcome.exit["stdin"] == 60005);
  CHECK(first >= 65536);
}

TEST_CASE("a resume tells again that stdin is closed", "[gateway][P6][SW-19]") {
  Server server;
  const std::string id = server.sandbox();
  Json request = start(id, {"sh", "-c", "exec 0<&-; echo closed; sleep 1000"});
  request["stdin"] = true;
  {
    Peer peer(server.address());
    (void)started(peer, request);
    CHECK(next_content(peer).payload == "closed\n");
  }
  Peer peer(server.address());
  peer.send(kResume, Json{{"type", "resume"},
                          {"id", request["id"]},
                          {"sandboxId", id},
                          {"attempt", 1},
                          {"stdout", {{"received", 7}, {"limit", 1000}}},
                          {"stderr", {{"received", 0}, {"limit", 1000}}}});
  Json word = peer.expect(kResume).json()["stdin"];
  if (!word.contains("closed")) word = peer.expect(kWindow).json()["stdin"];
  CHECK(word["closed"] == 0);
  CHECK(word["received"] == 0);
}

TEST_CASE("much stdin is granted as it is read, and all of it arrives", "[gateway][P1][SW-16]") {
  Server server;
  const std::string id = server.sandbox();
  Peer peer(server.address());
  Json request = start(id, {"cksum"});
  request["stdin"] = true;
  std::uint64_t limit = started(peer, request)["window"]["stdin"];
  const std::size_t total = 8 * 1024 * 1024;
  std::uint64_t sent = 0, received = 0;
  const std::string chunk(64 * 1024, 'a');
  while (sent < total) {
    while (sent < total && sent + chunk.size() <= limit) {
      peer.send(kStdin, chunk);
      sent += chunk.size();
    }
    if (sent == total) break;
    const Json word = peer.expect(kWindow).json();
    CHECK(word["stdin"]["received"] >= received);
    received = word["stdin"]["received"];
    REQUIRE(word["stdin"]["limit"] > limit);
    limit = word["stdin"]["limit"];
    CHECK(limit <= sent + 8 * 1024 * 1024);
  }
  peer.send(kClose, std::string_view("\0", 1));
  CHECK_THAT(peer.to_exit().out, Contains(" 8388608\n"));
}

TEST_CASE("control passes while stdin and stdout are stuck", "[gateway][P3][P4]") {
  Server server;
  const std::string id = server.sandbox();
  Peer peer(server.address());
  Json request = start(id, {"sh", "-c", "trap 'echo signalled >&2' USR1; (trap '' USR1; exec yes) & while :; do sleep 0.01; done"});
  request["stdin"] = true;
  request["window"] = {{"stdout", 4096}, {"stderr", 4096}};
  const std::uint64_t limit = started(peer, request)["window"]["stdin"];
  for (std::uint64_t sent = 0; sent < limit; sent += 64 * 1024) peer.send(kStdin, std::string(64 * 1024, 'x'));
  while (peer.out.size() < 4096) peer.out += peer.expect(kStdout).payload;
  CHECK(peer.out.size() == 4096);  // not a byte beyond what was granted
  peer.send(kSignal, Json{{"type", "signal"}, {"signal", "SIGUSR1"}});
  while (peer.err.find("signalled") == std::string::npos) {  // stderr is not held back by stdout
    const Message message = next_content(peer);
    REQUIRE(message.channel == 2);
    peer.take(message);
  }
  peer.send(kSignal, Json{{"type", "signal"}, {"signal", 9}});
  Message message = next_content(peer);
  while (peer.take(message)) message = next_content(peer);
  const Json ended = message.json();  // how it ended is told although its output waits for us
  CHECK(ended["type"] == "ended");
  CHECK(ended["signal"] == "SIGKILL");
  peer.grant();
  const Peer::Outcome outcome = peer.to_exit();
  CHECK(outcome.exit["outcome"] == "signaled");
  CHECK(outcome.exit["signal"] == "SIGKILL");
}

TEST_CASE("a client that never reads costs no more than its window, and nobody else", "[gateway][P2][P10]") {
  Server server;
  const std::string id = server.sandbox();
  Peer stuck(server.address());
  const std::string marker = unique_marker();
  Json request = start(id, {"sh", "-c", "yes " + marker + " & yes " + marker + " >&2"});
  request["window"] = {{"stdout", 8 * 1024 * 1024}, {"stderr", 8 * 1024 * 1024}};
  request["graceMs"] = 100;
  stuck.send(kStart, request);
  Peer other(server.address());
  [[maybe_unused]] const std::size_t before = resident_kib();
  for (int i = 0; i < 50; ++i) {
    other.send(kStart, start(id, {"head", "-c", "1000000", "/dev/zero"}));
    CHECK(other.to_exit().out.size() == 1000000);
  }
#ifndef __SANITIZE_ADDRESS__                   // which keeps what was freed
  CHECK(resident_kib() < before + 24 * 1024);  // twice 8 MiB were granted
#endif
  stuck.cut();
  CHECK(eventually([&] { return server.counts().orphans == 1; }));
}

TEST_CASE("cancel kills the group: SIGTERM, then SIGKILL, and says how it went", "[gateway][P8][PR-9]") {
  Server server;
  const std::string id = server.sandbox();
  Peer peer(server.address());
  const std::string marker = unique_marker();
  SECTION("a group that ignores SIGTERM") {
    Json request = start(
        id,
        {"sh", "-c", "trap '' TERM; sh -c 'while :; do sleep 1000; done' " + marker + " & echo up; while :; do sleep 1000; done"});
    started(peer, request);
    peer.out = peer.expect(kStdout).payload;
    peer.send(kSignal, Json{{"type", "cancel"}, {"graceMs", 100}});
    const Json exit = peer.to_exit().exit;
    CHECK(exit["outcome"] == "cancelled");
    CHECK(exit["signal"] == "SIGKILL");
  }
  SECTION("one that goes in time, and says something") {
    Json request = start(id, {"sh", "-c", "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.01; done; : " + marker});
    started(peer, request);
    peer.out = peer.expect(kStdout).payload;
    peer.send(kSignal, Json{{"type", "cancel"}});
    const Peer::Outcome outcome = peer.to_exit();
    CHECK(outcome.exit["outcome"] == "cancelled");
    CHECK(outcome.exit["code"] == 9);
    CHECK(outcome.out == "up\nbye\n");
  }
  SECTION("output that nobody makes room for does not hold the outcome back") {
    Json request = start(id, {"sh", "-c", "yes " + marker});
    request["window"] = {{"stdout", 1000}, {"stderr", 1000}};
    started(peer, request);
    while (peer.out.size() < 1000) peer.out += peer.expect(kStdout).payload;
    peer.send(kSignal, Json{{"type", "cancel"}, {"graceMs", 100}});
    const Json exit = peer.to_exit().exit;
    CHECK(exit["outcome"] == "cancelled");
    CHECK(exit["stdout"] == 1000);
  }
  SECTION("a child that left the group and holds the output") {
    Json request = start(id, {"sh", "-c", "setsid sleep 1000 & echo up; sleep 1000; : " + marker});
    started(peer, request);
    peer.out = peer.expect(kStdout).payload;
    peer.send(kSignal, Json{{"type", "cancel"}, {"graceMs", 100}});
    CHECK(peer.to_exit().exit["outcome"] == "cancelled");
  }
  CHECK(eventually([&] { return processes_with(marker) == 0; }));
  peer.send(kStart, start(id, {"true"}));
  CHECK(peer.to_exit().exit["code"] == 0);
}

TEST_CASE("the time limit is enforced where the process runs", "[gateway][EX-12]") {
  Server server;
  const std::string id = server.sandbox();
  Peer peer(server.address());
  const std::string marker = unique_marker();
  const auto limited = [&](const std::string& script, int milliseconds) {
    Json request = start(id, {"sh", "-c", script + "; : " + marker});
    request["timeoutMs"] = milliseconds;
    request["graceMs"] = 100;
    peer.send(kStart, request);
    return peer.to_exit();
  };
  Peer::Outcome outcome = limited("echo partial; sleep 1000", 300);
  CHECK(outcome.exit["outcome"] == "timed_out");
  CHECK(outcome.exit["signal"] == "SIGTERM");
  CHECK(outcome.out == "partial\n");
  outcome = limited("trap '' TERM; while :; do sleep 1000; done", 100);
  CHECK(outcome.exit["outcome"] == "timed_out");
  CHECK(outcome.exit["signal"] == "SIGKILL");
  // The leader ends in time, a child of its group holds the output, to the last: the limit ends that as well.
  outcome = limited("sh -c 'sleep 1000' " + marker + " & echo gone", 300);
  CHECK(outcome.exit["outcome"] == "exited");
  CHECK(outcome.exit["code"] == 0);
  CHECK(outcome.out == "gone\n");
  outcome = limited("sleep 0.1 & exit 5", 20000);
  CHECK(outcome.exit["outcome"] == "exited");
  CHECK(outcome.exit["code"] == 5);
  CHECK(eventually([&] { return processes_with(marker) == 0; }));

  // A reader that takes its time is no reason: the process ended in time.
  Json request = start(id, {"head", "-c", "50000", "/dev/zero"});
  request["timeoutMs"] = 2000;
  request["window"] = {{"stdout", 1000}, {"stderr", 1000}};
  started(peer, request);
  while (peer.out.size() < 1000) peer.out += peer.expect(kStdout).payload;
  // On a busy machine the end of a stream comes by itself, and before.
  auto said = peer.receive();
  while (said && said->channel == kClose) said = peer.receive();
  REQUIRE(said);
  CHECK(said->json()["outcome"] == "exited");
  Peer clock(server.address());
  Json tick = start(id, {"sleep", "2.3"});
  clock.send(kStart, tick);
  clock.to_exit();
  peer.grant();
  outcome = peer.to_exit();
  CHECK(outcome.exit["outcome"] == "exited");
  CHECK(outcome.out.size() == 50000);
}

TEST_CASE("what cannot be started is refused or has failed, and the connection goes on", "[gateway][EX-2][LC-14]") {
  Server server([](auto& options) { options.max_processes_per_sandbox = 1; });
  const std::string id = server.sandbox();
  Peer peer(server.address());
  const auto refused = [&](const Json& request) {
    peer.send(kStart, request);
    peer.send(kStdin, "sent ahead");  // means nothing any more
    const Json error = peer.expect_status("error");
    peer.release();
    return error;
  };
  Json request = start("sb-unknown", {"true"});
  Json error = refused(request);
  CHECK(error["code"] == "not_found");
  CHECK(error["reason"] == "CWSANDBOX_SANDBOX_NOT_FOUND");
  CHECK(error["metadata"]["sandbox_id"] == "sb-unknown");
  request = start(id, {"true"});
  request["cwd"] = "relative";
  error = refused(request);
  CHECK(error["code"] == "invalid_argument");
  CHECK(error["metadata"]["field"] == "cwd");
  request = start(id, {});
  CHECK(refused(request)["code"] == "invalid_argument");
  request = start(id, {"true"});
  request["env"] = {{"A=B", "1"}};
  CHECK(refused(request)["code"] == "invalid_argument");

  const auto failed = [&](const Json& wanted) {
    peer.send(kStart, wanted);
    const Json exit = peer.to_exit().exit;
    CHECK(exit["outcome"] == "failed");
    return exit["error"];
  };
  CHECK(failed(start(id, {"no-such-program"}))["errno"] == "ENOENT");
  CHECK(failed(start(id, {"/etc/passwd"}))["errno"] == "EACCES");
  request = start(id, {"true"});
  request["cwd"] = "/no/such/directory";
  CHECK(failed(request)["what"] == "cwd");
  request = start(id, {"true", std::string(200 * 1024, 'x')});
  CHECK(failed(request)["errno"] == "E2BIG");

  Peer busy(server.address());
  started(busy, start(id, {"sleep", "1000"}));
  error = refused(start(id, {"true"}));
  CHECK(error["code"] == "resource_exhausted");
  CHECK(error["retryDelayMs"] > 0);
  busy.send(kSignal, Json{{"type", "cancel"}});
  busy.to_exit();

  server.call("DeleteSandbox", {{"sandboxId", id}});
  server.wait_state(id, "STATE_TERMINATED");
  error = refused(start(id, {"true"}));
  CHECK(error["code"] == "failed_precondition");
  CHECK(error["reason"] == "CWSANDBOX_SANDBOX_NOT_RUNNING");
}

TEST_CASE("a start waits for a sandbox that is being created", "[gateway][EX-4]") {
  Server server;
  const std::string id = server.call("CreateSandbox", {{"sandbox", {{"spec", Json::object()}}}}).json()["sandboxId"];
  Peer peer(server.address());
  Json request = start(id, {"cat"});
  request["stdin"] = true;
  peer.send(kStart, request);
  peer.send(kStdin, "early");
  peer.send(kClose, std::string_view("\0", 1));
  CHECK(peer.to_exit().out == "early");
}

TEST_CASE("the end of a sandbox is the end of its processes", "[gateway][P8]") {
  Server server;
  const std::string id = server.sandbox();
  const std::string marker = unique_marker();
  Peer peer(server.address());
  started(peer, start(id, {"sh", "-c", "trap '' TERM; while :; do sleep 1000; done; : " + marker}));
  server.call("DeleteSandbox", {{"sandboxId", id}, {"gracePeriodSeconds", 1}});
  const Json exit = peer.to_exit().exit;
  CHECK((exit["outcome"] == "signaled" || exit["outcome"] == "lost"));
  CHECK(eventually([&] { return processes_with(marker) == 0; }));
}

TEST_CASE("a repeated start attaches and never runs twice", "[gateway][P7][RT-4]") {
  Server server([](auto& options) { options.orphan_grace = std::chrono::minutes(5); });
  const std::string id = server.sandbox();
  Json request = start(id, {"sh", "-c", "echo run >> /tmp/runs; cat; echo done"});
  request["stdin"] = true;
  {
    Peer lost(server.address());
    lost.send(kStart, request);
    lost.cut();  // before the answer is seen
  }
  // Whether the first one was read before the cut or not: the second either starts or attaches.
  Peer peer(server.address());
  Json again = request;
  again["attempt"] = 1;
  const Json answer = started(peer, again);
  CHECK(answer["id"] == request["id"]);

  SECTION("it goes on over the new connection") {}
  SECTION("a different request under the same id is an error") {
    Peer other(server.address());
    Json different = request;
    different["command"] = {"true"};
    different["attempt"] = 2;
    other.send(kStart, different);
    CHECK(other.expect_status("error")["code"] == "already_exists");
    other.release();
    other.send(kStart, start(id, {"true"}));
    CHECK(other.to_exit().exit["code"] == 0);
  }
  SECTION("an old connection's start that comes late changes nothing") {
    Peer late(server.address());
    late.send(kStart, request);
    CHECK(closed_with(late) == 4001);
  }
  peer.send(kStdin, "x");
  peer.send(kClose, std::string_view("\0", 1));
  CHECK(peer.to_exit().out == "xdone\n");
  peer.send(kStart, start(id, {"cat", "/tmp/runs"}));
  CHECK(peer.to_exit().out == "run\n");
}

TEST_CASE("the newest connection wins, and the older one is told", "[gateway][P6][P7]") {
  Server server;
  const std::string id = server.sandbox();
  Json request = start(id, {"cat"});
  request["stdin"] = true;
  Peer old(server.address());
  CHECK(started(old, request)["attached"] == false);
  old.send(kStdin, "one ");
  CHECK(old.expect(kStdout).payload == "one ");
  Peer fresh(server.address());
  Json again = request;
  again["attempt"] = 1;
  CHECK(started(fresh, again)["attached"] == true);
  CHECK(closed_with(old) == 4001);
  CHECK(fresh.expect(kStdout).payload == "one ");  // never acknowledged, so it comes again
  fresh.out = "one ";
  fresh.send(kStdin, "two");
  fresh.send(kClose, std::string_view("\0", 1));
  CHECK(fresh.to_exit().out == "one two");
}

TEST_CASE("a transfer survives cuts at any byte", "[gateway][P6][P1]") {
  Server server;
  const std::string id = server.sandbox();
  const std::size_t total = 3 * 1000 * 1000;
  Json request = start(id, {"sh", "-c", "seq 1 1000000 | head -c " + std::to_string(total)});
  auto peer = std::make_unique<Peer>(server.address());
  started(*peer, request);
  std::string out;
  std::uint64_t attempt = 0;
  std::size_t cut_after = 1000;
  Json exit;
  while (exit.is_null()) {
    const auto message = peer->receive();
    REQUIRE(message);
    if (message->channel == kStdout) out += message->payload;
    if (message->channel == kStatus && message->json()["type"] == "exit") exit = message->json();
    if (exit.is_null() && out.size() > cut_after) {
      cut_after = out.size() + 40000 + attempt * 7919;
      peer->cut();
      peer = std::make_unique<Peer>(server.address());
      Json resume = {{"type", "resume"}, {"id", request["id"]}, {"sandboxId", id}, {"attempt", ++attempt}};
      resume["stdout"] = {{"received", out.size()}, {"limit", out.size() + 300000}};
      resume["stderr"] = {{"received", 0}, {"limit", 1000}};
      peer->send(kResume, resume);
      const Json resumed = peer->expect(kResume).json();
      CHECK(resumed["type"] == "resumed");
    } else if (exit.is_null()) {
      peer->send(kWindow, window(out.size(), out.size() + 300000));
    }
  }
  CHECK(attempt > 10);
  std::string expected;
  for (int i = 1; expected.size() < total; ++i) expected += std::to_string(i) + "\n";
  expected.resize(total);
  CHECK(out == expected);
  CHECK(exit["stdout"] == total);
  peer->release();

  // Released: it is forgotten.
  Peer late(server.address());
  Json resume = {{"type", "resume"}, {"id", request["id"]}, {"sandboxId", id}};
  resume["stdout"] = {{"received", 0}, {"limit", 1000}};
  resume["stderr"] = {{"received", 0}, {"limit", 1000}};
  CHECK(eventually([&] {
    late.send(kResume, resume);
    const Json answer = late.receive()->json();
    late.release();
    return answer["type"] == "error" && answer["code"] == "not_found" && answer["reason"] == "CWSANDBOX_PROCESS_NOT_FOUND";
  }));
}

TEST_CASE("a client that does not come back: the process is killed, and its id is used up", "[gateway][P6]") {
  Server server([](auto& options) { options.orphan_grace = std::chrono::milliseconds(50); });
  const std::string id = server.sandbox();
  const std::string marker = unique_marker();
  Json request = start(id, {"sh", "-c", "sleep 1000 & sleep 1000; : " + marker});
  request["graceMs"] = 100;
  {
    Peer lost(server.address());
    started(lost, request);
    CHECK(eventually([&] { return processes_with(marker) > 0; }));
  }
  CHECK(eventually([&] { return processes_with(marker) == 0 && server.counts().processes == 0; }));
  CHECK(server.counts().orphans == 0);
  Peer late(server.address());
  late.send(kStart, request);
  CHECK(late.expect_status("error")["code"] == "failed_precondition");
}

TEST_CASE("processes without a client are bounded in number", "[gateway][P10]") {
  Server server([](auto& options) { options.max_orphans = 2; });
  const std::string id = server.sandbox();
  const std::string marker = unique_marker();
  for (int i = 0; i < 5; ++i) {
    Peer peer(server.address());
    started(peer, start(id, {"sh", "-c", "sleep 1000; : " + marker}));
  }
  CHECK(eventually([&] { return server.counts().orphans == 2 && server.counts().processes == 2; }));
  CHECK(eventually([&] { return processes_with(marker) == 2; }));
}

TEST_CASE("hostile connections get one clean close with a reason, and nobody else is affected", "[gateway][P10]") {
  Server server;
  const std::string id = server.sandbox();
  const std::string marker = unique_marker();

  CHECK(Peer::refused(server.address(), "v1.other", kToken).status == 400);
  CHECK(Peer::refused(server.address(), "", kToken).status == 400);
  CHECK(Peer::refused(server.address(), "v1.exec.cwsandbox", "wrong").status == 401);
  CHECK(Peer::refused(server.address(), "v1.exec.cwsandbox", "").status == 401);
  CHECK(Peer::refused(server.address(), "v1.exec.cwsandbox", kToken, "/v1/other").status == 404);

  struct Case {
    const char* name;
    std::uint16_t code;
    const char* reason;
    std::function<void(Peer&)> act;
  };
  const auto raw = [](std::uint8_t channel, std::string payload) {
    return [=](Peer& peer) { peer.send(channel, std::string_view(payload)); };
  };
  const std::vector<Case> cases = {
      {"text", 1003, "text", [](Peer& peer) { peer.frame(1, "hello"); }},
      {"empty", 1002, "channel", [](Peer& peer) { peer.frame(2, ""); }},
      {"unknown channel", 1002, "channel 42", raw(42, "x")},
      {"a server's channel", 1002, "stdout", raw(1, "x")},
      {"unknown type", 1002, "strange", raw(kSignal, R"({"type":"strange"})")},
      {"unknown signal", 1002, "SIGNOPE", raw(kSignal, R"({"type":"signal","signal":"SIGNOPE"})")},
      {"no JSON", 1002, "JSON", raw(kWindow, "{")},
      {"wrong type of field", 1002, "limit", raw(kWindow, R"({"type":"window","stdout":{"received":0,"limit":"x"}})")},
      {"acknowledges what was never sent", 1002, "stdout",
       raw(kWindow, R"({"type":"window","stdout":{"received":99,"limit":100}})")},
      {"resize to nothing", 1002, "width", raw(kResize, R"({"type":"resize","width":0,"height":5})")},
      {"a second start", 1002, "start", raw(kStart, R"({"type":"start","id":"a","sandboxId":"b","command":["c"]})")},
      {"ends our stream", 1002, "stdout", raw(kClose, "\x01")},
      {"release before the exit", 1002, "release", raw(kWindow, R"({"type":"window","release":true})")},
      {"data beyond the limit", 1002, "limit",
       [](Peer& peer) {
         for (int i = 0; i < 40; ++i) static_cast<void>(peer.try_frame(2, std::string(1, '\0') + std::string(64 * 1024, 'x')));
       }},
      {"a data message too large", 1009, "stdin", raw(kStdin, std::string(64 * 1024 + 1, 'x'))},
      {"a message too large for anything", 1009, "",
       [](Peer& peer) { static_cast<void>(peer.try_frame(2, std::string(5 * 1024 * 1024, 'x'))); }},
      {"a reserved opcode", 1002, "", [](Peer& peer) { peer.frame(3, "x"); }},
  };
  for (const Case& c : cases) {
    INFO(c.name);
    {
      Peer peer(server.address());
      Json request = start(id, {"sh", "-c", "sleep 1000 & sleep 1000; : " + marker});
      request["stdin"] = true;
      started(peer, request);
      c.act(peer);
      CHECK(closed_with(peer) == c.code);
      CHECK_THAT(peer.close_reason, Contains(c.reason));
      CHECK(eventually([&] { return processes_with(marker) == 0; }));
    }
    Peer next(server.address());
    next.send(kStart, start(id, {"echo", "fine"}));
    CHECK(next.to_exit().out == "fine\n");
  }

  // The same before any start.
  for (const auto& [channel, payload] :
       std::vector<std::pair<std::uint8_t, std::string>>{{kStdin, "x"},
                                                         {kWindow, R"({"type":"window"})"},
                                                         {kStart, "{}"},
                                                         {kStart, R"({"type":"start","id":"no spaces"})"},
                                                         {200, ""}}) {
    Peer peer(server.address());
    peer.send(channel, std::string_view(payload));
    CHECK(closed_with(peer) == 1002);
    CHECK(!peer.close_reason.empty());
  }
  CHECK(eventually([&] { return server.counts().processes == 0 && server.counts().connections == 0; }));
  CHECK(server.counts().orphans == 0);
}

TEST_CASE("a terminal", "[gateway]") {
  Server server;
  const std::string id = server.sandbox();
  Peer peer(server.address());
  Json request = start(id, {"sh", "-c", "stty size; read line; stty size; echo got $line"});
  request["tty"] = true;
  request["stdin"] = true;
  request["width"] = 100;
  request["height"] = 30;
  started(peer, request);
  while (peer.out.find("30 100") == std::string::npos) peer.take(next_content(peer));
  peer.send(kResize, Json{{"type", "resize"}, {"width", 90}, {"height", 20}});
  peer.send(kStdin, "hello\n");
  const Peer::Outcome outcome = peer.to_exit();
  CHECK_THAT(outcome.out, Contains("20 90") && Contains("got hello"));
  CHECK(outcome.exit["code"] == 0);
}

TEST_CASE("many processes at once over one gateway", "[gateway][P4]") {
  Server server;
  const std::string id = server.sandbox();
  std::vector<std::unique_ptr<Peer>> peers;
  for (int i = 0; i < 50; ++i) {
    peers.push_back(std::make_unique<Peer>(server.address()));
    Json request = start(id, {"cat"});
    request["stdin"] = true;
    peers.back()->send(kStart, request);
  }
  for (std::size_t i = 0; i < peers.size(); ++i) {
    peers[i]->send(kStdin, std::to_string(i));
    peers[i]->send(kClose, std::string_view("\0", 1));
  }
  for (std::size_t i = 0; i < peers.size(); ++i) CHECK(peers[i]->to_exit().out == std::to_string(i));
  peers.clear();
  CHECK(eventually([&] { return server.counts().connections == 0 && server.counts().processes == 0; }));
}
