// When a process is over: the rules by themselves, then with real processes that do what keeps others from ending.
#include "gateway/process_end.hpp"
#include "gateway_support.hpp"
#include "runner/local/local_runner.hpp"
#include "runner/remote_harness.hpp"
#include "support/catch.hpp"

#include <csignal>
#include <filesystem>

using namespace gateway_test;
using Catch::Matchers::Contains;
using gateway::ProcessEnd;
using Ms = std::chrono::milliseconds;
using Why = ProcessEnd::Why;

namespace {

constexpr std::uint8_t kStdin = 0, kStatus = 3, kStart = 5, kSignal = 7, kClose = 255;
const Json kNone = Json::array();

/// Sandboxes of this machine, behind a byte stream as those in pods are.
class Behind final : public runner::Runner {
 public:
  explicit Behind(const asio::any_io_executor& executor)
      : local_(runner::local::make_local_runner(executor)), remote_(executor, *local_) {}
  std::string_view name() const noexcept override { return remote_.name(); }
  asio::awaitable<std::unique_ptr<runner::Sandbox>> create(runner::SandboxSpec spec) override {
    return remote_.create(std::move(spec));
  }

 private:
  std::unique_ptr<runner::Runner> local_;
  cwsandbox::test::RemoteRunner remote_;
};

/// Of each kind of runner one.
Server::MakeRunner each_runner() {
  if (GENERATE(false, true)) return [](const asio::any_io_executor& executor) { return std::make_unique<Behind>(executor); };
  return {};
}

std::size_t open_descriptors() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

Json started(Peer& peer, const Json& request) {
  peer.send(kStart, request);
  return peer.expect_status("started");
}

// The next word about the end of the process, whatever output comes before.
Json next_status(Peer& peer) {
  for (;;) {
    const auto message = peer.receive();
    if (!message) throw std::runtime_error("closed: " + peer.close_reason);
    if (message->channel == kStatus) return message->json();
    peer.take(*message);
  }
}

Peer::Outcome run(Server& server, const Json& request) {
  Peer peer(server.address());
  peer.send(kStart, request);
  return peer.to_exit();
}

Json names(const Json& exit) { return exit.value("open", Json::array()); }

Json terminal(const std::string& sandbox, const std::string& script) {
  Json request = start(sandbox, {"sh", "-c", script});
  request["tty"] = true;
  request["stdin"] = true;
  return request;
}

}  // namespace

TEST_CASE("the rules: a drain", "[gateway][EX-19]") {
  ProcessEnd end(Ms(700));
  CHECK(end.leader_ended(true).arm == Ms(700));
  const auto over = end.timer();
  CHECK(over.settle);
  CHECK(over.signal == 0);
  CHECK_FALSE(over.abandon);
  CHECK(end.settled());
  CHECK(end.why() == Why::none);
  CHECK_FALSE(end.must_kill());
  // Whoever reads slowly gets all the same; only when nobody wants it any more it is given up.
  CHECK(end.end(Why::cancel, Ms(5000), Ms(0)).arm == ProcessEnd::kAbandon);
  CHECK(end.timer().abandon);

  ProcessEnd until_the_last(Ms(0));
  CHECK(until_the_last.leader_ended(true).arm < Ms(0));
  ProcessEnd unknown(Ms(700));
  CHECK(unknown.leader_ended(false).arm < Ms(0));  // it cannot be told what the leader wrote
}

TEST_CASE("the rules: a timeout", "[gateway][EX-12][EX-19]") {
  SECTION("it ends a leader that runs, and lasts no longer than there is somebody in the group") {
    ProcessEnd end(Ms(700));
    auto steps = end.end(Why::timeout, Ms(5000), Ms(0));
    CHECK(steps.signal == SIGTERM);
    CHECK(steps.arm == Ms(5000));
    CHECK(end.leader_ended(true).arm < Ms(0));  // somebody else of the group may still be at it
    CHECK(end.must_kill());
    CHECK(end.group_gone().arm == ProcessEnd::kLast);
    CHECK(end.timer().settle);
    CHECK(end.why() == Why::timeout);
    CHECK_FALSE(end.must_kill());
  }
  SECTION("it kills who does not go, and then does not wait for what nobody reports") {
    ProcessEnd end(Ms(700));
    static_cast<void>(end.end(Why::timeout, Ms(5000), Ms(0)));
    auto steps = end.timer();
    CHECK(steps.signal == SIGKILL);
    CHECK(steps.arm == ProcessEnd::kLate);
    steps = end.timer();
    CHECK(steps.lost);
    CHECK(steps.settle);
  }
  SECTION("a leader that ended in time keeps its own end: only the drain is over") {
    ProcessEnd end(Ms(700));
    static_cast<void>(end.leader_ended(true));
    const auto steps = end.end(Why::timeout, Ms(5000), Ms(500));
    CHECK(steps.settle);
    CHECK(steps.signal == 0);
    CHECK(end.why() == Why::none);
  }
  SECTION("without a drain it is for all who hold the output") {
    ProcessEnd end(Ms(0));
    static_cast<void>(end.leader_ended(true));
    CHECK(end.end(Why::timeout, Ms(5000), Ms(0)).signal == SIGTERM);
    CHECK(end.why() == Why::none);
    CHECK(end.group_gone().arm == ProcessEnd::kLast);
  }
}

TEST_CASE("the rules: a cancel", "[gateway][PR-9]") {
  ProcessEnd end(Ms(0));
  CHECK(end.end(Why::cancel, Ms(5000), Ms(0)).signal == SIGTERM);
  SECTION("the shorter grace counts") {
    CHECK(end.end(Why::cancel, Ms(9000), Ms(4000)).arm < Ms(0));
    CHECK(end.end(Why::cancel, Ms(100), Ms(4000)).arm == Ms(100));
    CHECK(end.end(Why::cancel, Ms(0), Ms(90)).signal == SIGKILL);
  }
  SECTION("after a timeout it gives up what nobody reads") {
    ProcessEnd timed(Ms(0));
    static_cast<void>(timed.end(Why::timeout, Ms(0), Ms(0)));
    static_cast<void>(timed.leader_ended(true));
    static_cast<void>(timed.group_gone());
    const auto settled = timed.timer();
    CHECK(settled.settle);
    CHECK(settled.disarm);
    CHECK(timed.end(Why::cancel, Ms(0), Ms(0)).arm == ProcessEnd::kAbandon);
    CHECK(timed.timer().abandon);
    CHECK(timed.why() == Why::timeout);
  }
  SECTION("with nobody left nobody is asked") {
    ProcessEnd alone(Ms(700));
    static_cast<void>(alone.leader_ended(true));
    static_cast<void>(alone.group_gone());
    const auto steps = alone.end(Why::cancel, Ms(5000), Ms(600));
    CHECK(steps.signal == 0);
    CHECK(steps.arm == ProcessEnd::kLast);
    CHECK(alone.timer().arm == ProcessEnd::kAbandon);
  }
}

TEST_CASE("a process that nobody wants any more leaves nothing, however it ended", "[gateway][P10]") {
  Server server(
      [](auto& options) {
        options.orphan_grace = Ms(50);
        options.capture_bytes = 0;
      },
      each_runner());
  const std::string id = server.sandbox();
  run(server, start(id, {"true"}));
  REQUIRE(eventually([&] { return server.counts().connections == 0; }));
  const std::size_t before = open_descriptors();
  {
    Peer peer(server.address());
    Json request;
    SECTION("timed out with a full window, then a fault of its client's") {
      request = start(id, {"yes"});
      request["timeoutMs"] = 100;
      request["graceMs"] = 0;
      request["window"] = {{"stdout", 1000}, {"stderr", 1000}};
      started(peer, request);
      CHECK(next_status(peer)["outcome"] == "timed_out");
      peer.frame(1, "text");
    }
    SECTION("its client goes with a full window, and a child outside the group goes on writing") {
      request = start(id, {"sh", "-c", "setsid yes & exec yes"});
      request["graceMs"] = 0;
      request["window"] = {{"stdout", 1000}, {"stderr", 1000}};
      started(peer, request);
      while (peer.out.size() < 1000) peer.take(*peer.receive());
      peer.cut();
    }
    SECTION("it is over but for what it wrote, and its client goes") {
      request = start(id, {"sh", "-c", "setsid sleep 1000 & head -c 60000 /dev/zero"});
      request["drainMs"] = 1;
      request["window"] = {{"stdout", 1000}, {"stderr", 1000}};
      started(peer, request);
      CHECK(next_status(peer)["outcome"] == "exited");
      peer.cut();
    }
    CHECK(eventually([&] { return server.counts().processes == 0 && server.counts().orphans == 0; }));
  }
  CHECK(eventually([&] { return server.counts().connections == 0 && open_descriptors() == before; }));
}

TEST_CASE("what a command leaves in the background does not keep it", "[gateway][EX-19]") {
  Server server({}, each_runner());
  const std::string id = server.sandbox();
  Json request = start(id, {"sh", "-c", "sleep 1000 & echo done; exit 3"});
  request["drainMs"] = 50;
  Peer::Outcome outcome = run(server, request);
  CHECK(outcome.out == "done\n");
  CHECK(outcome.exit["outcome"] == "exited");
  CHECK(outcome.exit["code"] == 3);
  CHECK(names(outcome.exit) == Json({"stdout", "stderr"}));

  // Nobody holds anything: no time is waited, and nothing is said.
  request = start(id, {"sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo done"});
  request["drainMs"] = 600000;
  outcome = run(server, request);
  CHECK(outcome.exit["code"] == 0);
  CHECK(names(outcome.exit) == kNone);

  // One that writes on and on, and has let go of stderr before the command ends. That nobody has it now is told on a way of its
  // own, so the drain is long for the slowest, and what is written meanwhile little.
  run(server, start(id, {"mkfifo", "/tmp/up"}));
  request = start(
      id, {"sh", "-c", "(exec 2>/dev/null; echo >/tmp/up; while :; do echo y; sleep 0.02; done) & read line </tmp/up; exit 4"});
  request["drainMs"] = 2000;
  outcome = run(server, request);
  CHECK(outcome.exit["code"] == 4);
  CHECK(names(outcome.exit) == Json({"stdout"}));

  // Without a drain time, as those ask who do not know of it: to the last.
  run(server, start(id, {"mkfifo", "/tmp/go"}));
  Peer peer(server.address());
  started(peer, start(id, {"sh", "-c", "(read line </tmp/go; echo late) & echo early"}));
  while (peer.out.find("early") == std::string::npos) peer.take(*peer.receive());
  run(server, start(id, {"sh", "-c", "echo >/tmp/go"}));
  outcome = peer.to_exit();
  CHECK(outcome.out == "early\nlate\n");
  CHECK(names(outcome.exit) == kNone);

  // The unary call has no word for it.
  const Json answer = server.call("Exec", {{"sandboxId", id}, {"command", {"sh", "-c", "sleep 1000 & echo done; exit 3"}}}).json();
  CHECK(answer["exitCode"] == 3);
  CHECK(base64_decode(answer["stdout"].get<std::string>()) == "done\n");
}

TEST_CASE("what a command wrote itself is never cut, however slowly it is read", "[gateway][EX-19]") {
  Server server({}, each_runner());
  const std::string id = server.sandbox();
  const bool held = GENERATE(false, true);
  Json request = start(id, {"sh", "-c", std::string(held ? "sleep 1000 & " : "") + "head -c 60000 /dev/zero"});
  request["drainMs"] = 1;
  request["window"] = {{"stdout", 1000}, {"stderr", 1000}};
  Peer peer(server.address());
  started(peer, request);
  Json ended = next_status(peer);
  CHECK(ended["type"] == "ended");
  run(server, start(id, {"sleep", "0.2"}));  // long after its drain
  peer.grant();
  const Peer::Outcome outcome = peer.to_exit();
  CHECK(outcome.out.size() == 60000);
  CHECK(outcome.exit["code"] == 0);
  CHECK(names(outcome.exit) == (held ? Json({"stdout", "stderr"}) : kNone));
}

TEST_CASE("a timeout ends at its time, whoever left the group", "[gateway][EX-12][EX-19]") {
  Server server({}, each_runner());
  const std::string id = server.sandbox();
  const std::string marker = unique_marker();
  // Grace times that no test would live to see the end of.
  Json request = start(id, {"sh", "-c", "setsid sleep 1000 & echo x; sleep 1000; : " + marker});
  request["timeoutMs"] = 200;
  request["graceMs"] = 600000;
  Peer::Outcome outcome = run(server, request);
  CHECK(outcome.exit["outcome"] == "timed_out");
  CHECK(outcome.exit["reason"] == "timeout");
  CHECK(outcome.exit["signal"] == "SIGTERM");
  CHECK(outcome.out == "x\n");
  CHECK(names(outcome.exit) == Json({"stdout", "stderr"}));

  // The grace is there for who is still in the group.
  request = start(id, {"sh", "-c", "(trap 'echo bye; exit' TERM; echo up; while :; do sleep 0.01; done) & exec sleep 1000"});
  request["timeoutMs"] = 300;
  request["graceMs"] = 600000;
  outcome = run(server, request);
  CHECK(outcome.out == "up\nbye\n");
  CHECK(names(outcome.exit) == kNone);

  // A leader that ended in time has not timed out, and nobody is killed for holding its output.
  request = start(id, {"sh", "-c", "sh -c 'sleep 1000' " + marker + " & echo x"});
  request["timeoutMs"] = 200;
  request["drainMs"] = 600000;
  outcome = run(server, request);
  CHECK(outcome.exit["outcome"] == "exited");
  CHECK(outcome.exit["code"] == 0);
  CHECK_FALSE(outcome.exit.contains("reason"));
  CHECK(names(outcome.exit) == Json({"stdout", "stderr"}));
  CHECK(processes_with(marker) == 1);

  // A cancel is no later.
  Peer peer(server.address());
  started(peer, start(id, {"sh", "-c", "setsid sleep 1000 & echo x; exec sleep 1000"}));
  while (peer.out.find('x') == std::string::npos) peer.take(*peer.receive());
  peer.send(kSignal, Json{{"type", "cancel"}, {"graceMs", 600000}});
  CHECK(peer.to_exit().exit["outcome"] == "cancelled");
}

TEST_CASE("a terminal is there as long as its session's leader, and no longer", "[gateway][TS-15]") {
  Server server({}, each_runner());
  const std::string id = server.sandbox();
  Peer::Outcome outcome = run(server, terminal(id, "exec 0<&- 1>&- 2>&-; sleep 0.1; echo y >/tmp/m; echo z >/dev/tty; exit 7"));
  CHECK(outcome.exit["outcome"] == "exited");
  CHECK(outcome.exit["code"] == 7);
  CHECK(outcome.out == "z\r\n");
  CHECK(run(server, start(id, {"cat", "/tmp/m"})).out == "y\n");

  for (int i = 0; i < 20; ++i) {
    Peer peer(server.address());
    Json request = start(id, {"cat"});
    request["tty"] = request["stdin"] = true;
    peer.send(kStart, request);
    peer.send(kStdin, "hi\n");
    peer.send(kClose, std::string_view("\0", 1));
    outcome = peer.to_exit();
    CHECK(outcome.exit["code"] == 0);
    CHECK_THAT(outcome.out, Contains("hi\r\n"));
  }

  // Who stays behind is hung up, and is not waited for.
  const std::string marker = unique_marker();
  outcome = run(server, terminal(id, "trap '' HUP; sh -c 'sleep 1000; :' " + marker + " & echo up; exit 3"));
  CHECK(outcome.exit["code"] == 3);
  CHECK(outcome.out == "up\r\n");
  outcome = run(server, terminal(id, "sh -c 'yes; :' " + marker + "x & exit 4"));
  CHECK(outcome.exit["code"] == 4);
  CHECK(eventually([&] { return processes_with(marker + "x") == 0; }));
}

TEST_CASE("the end of input reaches a terminal's program in every mode", "[gateway][TS-16]") {
  Server server({}, each_runner());
  const std::string id = server.sandbox();
  const auto feed = [&](const std::string& script, const std::string& input) {
    Peer peer(server.address());
    started(peer, terminal(id, script + "; echo over"));
    while (peer.out.find("ready") == std::string::npos) peer.take(*peer.receive());
    if (!input.empty()) peer.send(kStdin, input);
    peer.send(kClose, std::string_view("\0", 1));
    const Peer::Outcome outcome = peer.to_exit();
    CHECK(outcome.exit["code"] == 0);
    CHECK_THAT(outcome.out, Contains("over"));
    return outcome.out;
  };
  CHECK_THAT(feed("stty -echo; echo ready; cat", "x"), Contains("x"));      // an unfinished line
  feed("stty -echo; echo ready; cat; cat; cat", "x\n");                     // several who read
  CHECK_THAT(feed("stty raw -echo; echo ready; cat", "x"), Contains("x"));  // no lines at all
  feed("stty raw -echo; echo ready; cat", "");
  feed("stty eof ^-; echo ready; cat", "x\n");                                       // no character for it
  feed("stty -echo; echo ready; read line; stty raw; cat; stty -raw; cat", "x\ny");  // modes that change
  // Into a terminal that takes no more: nothing is lost, and the end comes when there is room. In raw mode it is the key's byte,
  // then the end.
  CHECK_THAT(feed("stty raw -echo; echo ready; sleep 0.3; wc -c", std::string(50000, 'x')), Contains("50001"));
}

TEST_CASE("who ended a process with its sandbox is said", "[gateway][EX-18]") {
  const auto quick = [](auto& options) { options.default_grace = Ms(100); };
  const auto make_runner = each_runner();
  SECTION("stopped") {
    Server server(quick, make_runner);
    const std::string id = server.sandbox();
    Peer peer(server.address());
    const std::string how = GENERATE("exec sleep 1000", "trap 'exit 0' TERM; while :; do sleep 0.01; done");
    Json request = start(id, {"sh", "-c", "echo up; " + how});
    started(peer, request);
    while (peer.out.find("up") == std::string::npos) peer.take(*peer.receive());
    server.call("DeleteSandbox", {{"sandboxId", id}, {"gracePeriodSeconds", 1}});
    CHECK(peer.to_exit().exit["reason"] == "sandbox_stopped");
  }
  SECTION("its lifetime") {
    Server server(quick, make_runner);
    const std::string id = server.sandbox({{"maxLifetimeSeconds", 1}});
    Peer peer(server.address());
    peer.send(kStart, start(id, {"sleep", "1000"}));
    CHECK(peer.to_exit().exit["reason"] == "lifetime");
  }
  SECTION("its main command") {
    Server server(quick, make_runner);
    Json spec;
    spec["containers"] = {{{"command", "/bin/sh"}, {"args", {"-c", "while [ ! -e /tmp/go ]; do sleep 0.01; done"}}}};
    const std::string id = server.sandbox(spec);
    Peer peer(server.address());
    started(peer, start(id, {"sleep", "1000"}));
    run(server, start(id, {"touch", "/tmp/go"}));
    CHECK(peer.to_exit().exit["reason"] == "main_ended");
  }
  SECTION("the gateway") {
    Server server(quick, make_runner);
    const std::string id = server.sandbox();
    Peer peer(server.address());
    started(peer, start(id, {"sleep", "1000"}));
    std::thread stopping([&] { server.stop(Ms(100)); });
    CHECK(peer.to_exit().exit["reason"] == "gateway_shutdown");
    stopping.join();
  }
  SECTION("nobody: what ended before has nothing to do with it") {
    Server server(quick, make_runner);
    const std::string id = server.sandbox();
    Peer peer(server.address());
    Json request = start(id, {"sh", "-c", "head -c 50000 /dev/zero; kill -TERM $$"});
    request["window"] = {{"stdout", 1000}, {"stderr", 1000}};
    started(peer, request);
    CHECK(next_status(peer)["type"] == "ended");
    server.call("DeleteSandbox", {{"sandboxId", id}, {"gracePeriodSeconds", 1}});
    server.wait_state(id, "STATE_TERMINATED");
    peer.grant();
    const Json exit = peer.to_exit().exit;
    CHECK(exit["outcome"] == "signaled");
    CHECK_FALSE(exit.contains("reason"));
  }
}
