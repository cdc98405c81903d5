// Connections that break and processes that do not notice.
#include "resume_support.hpp"

#include <csignal>

using namespace support;
using namespace cwsandbox;

namespace {

/// The error that the process ends with.
SandboxConnectionLostError lost(const auto& process) {
  try {
    process.result(60s);
  } catch (const SandboxConnectionLostError& error) {
    return error;
  }
  throw std::runtime_error("it gave a result");
}

}  // namespace

TEST_CASE("a cut between start and started: it runs once", "[P7]") {
  Stage stage;
  stage.proxy.set_planner([](int number) {
    FaultProxy::Plan plan;
    if (number == 0) plan.bytes_to_server = 1;  // within the start
    if (number == 1) plan = after_messages(1);  // behind it
    if (number == 2) plan.bytes_to_client = 1;  // within the answer
    return plan;
  });
  const auto process = stage.through.exec(shell("echo once >> /tmp/log; cat; echo end"), ExecOptions().with_stdin());
  process.std_in()->write("through\n").result();
  process.std_in()->close().result();
  CHECK(process.result(60s).std_out == "through\nend\n");
  CHECK(stage.proxy.cuts() == 3);
  CHECK(stage.owner.exec({"cat", "/tmp/log"}).result().std_out == "once\n");
}

TEST_CASE("a connection that stalls costs time only", "[P6]") {
  Stage stage;
  const auto process = stage.through.exec({"cat"}, ExecOptions().with_stdin());
  process.std_in()->write("a\n").result();
  static_cast<void>(read_until(process.std_out(), "a\n"));
  stage.proxy.stall(true);
  process.std_in()->write("b\n").result();
  CHECK_THROWS_AS(process.std_out().next().result(200ms), TimeoutError);
  stage.proxy.stall(false);
  static_cast<void>(read_until(process.std_out(), "b\n"));
  process.std_in()->close().result();
  CHECK(process.result(60s).std_out == "a\nb\n");
}

TEST_CASE("signals and flushes that a cut swallowed arrive, once", "[P6]") {
  Stage stage;
  const auto process =
      stage.through.exec(shell("trap 'echo signal' USR1; echo ready; while :; do sleep 0.01; done"), ExecOptions().with_stdin());
  static_cast<void>(read_until(process.std_out(), "ready\n"));
  stage.proxy.refuse(true);
  stage.proxy.cut_all();
  process.signal("USR1");
  const auto written = process.std_in()->write("x");
  const auto flushed = process.std_in()->flush();
  CHECK_FALSE(flushed.done());
  stage.proxy.refuse(false);
  static_cast<void>(read_until(process.std_out(), "signal\n"));
  flushed.result(60s);
  stage.proxy.cut_all();
  process.signal("KILL");
  const auto& result = process.result(60s);
  CHECK(result.signal == 9);
  CHECK(result.std_out == "ready\nsignal\n");
}

TEST_CASE("a cancel that comes while the connection is lost is delivered and confirmed", "[P6][PR-9]") {
  Stage stage;
  const auto process = stage.through.exec(shell("echo $$; exec sleep 1000"));
  const auto pid = *process.std_out().next().result(60s);
  stage.proxy.refuse(true);
  stage.proxy.cut_all();
  process.cancel();
  CHECK_FALSE(process.done());
  stage.proxy.refuse(false);
  try {
    process.result(60s);
    FAIL("a result");
  } catch (const CancelledError& error) {
    CHECK(std::string(error.what()).find("could not be confirmed") == std::string::npos);
  }
  CHECK(stage.owner.exec(shell("kill -0 " + pid.substr(0, pid.size() - 1))).wait() != 0);
}

TEST_CASE("past the grace time it is lost, and how far each stream came is said", "[P6][EX-9]") {
  Stage stage;
  const auto process = stage.through.exec(shell("printf 12345; printf 123 >&2; exec sleep 1000"),
                                          ExecOptions().with_stdin().with_resume_grace(300ms));
  CHECK(process.std_out().next().result(60s) == "12345");
  CHECK(process.std_err().next().result(60s) == "123");
  process.std_in()->write("1234567").result();
  process.std_in()->flush().result(60s);
  stage.proxy.refuse(true);
  stage.proxy.cut_all();
  const auto error = lost(process);
  CHECK(error.metadata().at("stdout_received") == "5");
  CHECK(error.metadata().at("stderr_received") == "3");
  CHECK(error.metadata().at("stdin_acknowledged") == "7");
  REQUIRE(error.result() != nullptr);
  CHECK(error.result()->outcome == Outcome::lost);
  CHECK(error.result()->std_out == "12345");
  CHECK_FALSE(error.result()->returncode.has_value());
  CHECK(process.status() == ProcessStatus::lost);
  CHECK_THROWS_AS(process.std_in()->write("x"), SandboxExecutionError);
}

TEST_CASE("a gateway that was started anew does not know the process", "[P6][EX-11]") {
  Stage stage;
  const auto process = stage.through.exec(shell("echo begun; exec sleep 1000"));
  static_cast<void>(read_until(process.std_out(), "begun\n"));
  Daemon anew;
  stage.proxy.set_target(anew.socket());
  stage.daemon.kill(SIGKILL);
  const auto error = lost(process);
  CHECK(error.reason() == "CWSANDBOX_PROCESS_NOT_FOUND");
  REQUIRE(error.result() != nullptr);
  CHECK(error.result()->outcome == Outcome::lost);
  CHECK(error.result()->std_out == "begun\n");
}

TEST_CASE("a terminal goes on after a cut", "[TS-14][P6]") {
  Stage stage;
  const auto session = stage.through.shell(ShellOptions().with_command(shell("stty -echo -onlcr; echo ready; exec cat")));
  static_cast<void>(read_until(session.output(), "ready"));
  std::string expected, seen;
  for (int round = 0; round < 5; ++round) {
    stage.proxy.cut_all();
    const auto line = "line " + std::to_string(round) + "\n";
    session.resize(100 + round, 50);
    session.input().write(line).result();
    seen += read_until(session.output(), line);
    expected += line;
  }
  CHECK(seen.substr(seen.find("line")) == expected);
  session.signal("KILL");
  CHECK(session.result(60s).signal == 9);
}

TEST_CASE("attaching: the newest wins, the older is told why", "[TS-14]") {
  Stage stage;
  const auto first = stage.owner.exec(shell("echo one; read -r line; echo \"$line\"; exit 4"), ExecOptions().with_stdin());
  static_cast<void>(read_until(first.std_out(), "one\n"));
  const auto second = stage.elsewhere().attach(first.id(), AttachOptions().with_stdin());
  CHECK(second.id() == first.id());
  // All of it: nothing had been given up yet.
  CHECK(read_until(second.std_out(), "one\n") == "one\n");
  const auto error = lost(first);
  CHECK(error.reason() == "CWSANDBOX_PROCESS_TAKEN_OVER");
  CHECK(std::string(error.what()).find("took") != std::string::npos);
  CHECK(second.status() == ProcessStatus::running);
  CHECK(second.pid().result(60s) == first.pid().result(60s));
  CHECK(second.command() == first.command());
  const auto third = stage.elsewhere().attach(first.id(), AttachOptions().with_stdin().with_offsets(4));
  CHECK(lost(second).reason() == "CWSANDBOX_PROCESS_TAKEN_OVER");
  third.std_in()->writeline("two").result();
  const auto& result = third.result(60s);
  CHECK(result.returncode == 4);
  CHECK(result.std_out == "two\n");
  CHECK(result.std_out.received() == 4);
  CHECK(result.std_out.produced() == 8);
}

TEST_CASE("who lost its connection does not take a process back from whoever has it now", "[TS-14]") {
  Stage stage;
  const auto first = stage.through.exec(shell("echo one; read -r line; echo \"$line\""), ExecOptions().with_stdin());
  static_cast<void>(read_until(first.std_out(), "one\n"));
  stage.proxy.refuse(true);
  stage.proxy.cut_all();
  const auto second = stage.elsewhere().attach(first.id(), AttachOptions().with_stdin());
  CHECK(read_until(second.std_out(), "one\n") == "one\n");
  stage.proxy.refuse(false);
  CHECK(lost(first).reason() == "CWSANDBOX_PROCESS_TAKEN_OVER");
  second.std_in()->writeline("two").result();
  CHECK(second.result(60s).std_out == "one\ntwo\n");
}

TEST_CASE("output that is no longer held is an error with counts, unless one can do without", "[TS-14]") {
  Stage stage;
  constexpr std::uint64_t early = 3'000'000;
  const auto first = stage.owner.exec(shell("head -c " + std::to_string(early) + " /dev/zero; read -r line; echo end"),
                                      ExecOptions().with_stdin());
  std::uint64_t seen = 0;
  while (seen < early) seen += first.std_out().next().result(60s)->size();
  const auto elsewhere = stage.elsewhere();
  const auto refused = elsewhere.attach(first.id());
  std::uint64_t from = 0;
  try {
    refused.result(60s);
    FAIL("a result");
  } catch (const SandboxStreamTruncatedError& error) {
    from = std::stoull(error.metadata().at("stdout_from"));
    CHECK(from > 0);
    CHECK(std::stoull(error.metadata().at("stdout_to")) == early);
    CHECK(error.metadata().at("stderr_from") == "0");
  }
  CHECK_THROWS_AS(refused.std_out().next().result(60s), SandboxStreamTruncatedError);
  // The first was not disturbed.
  CHECK_FALSE(first.done());
  first.std_in()->flush().result(60s);
  const auto second = elsewhere.attach(first.id(), AttachOptions().with_from_held().with_stdin());
  second.std_in()->writeline("go").result();
  const auto& result = second.result(60s);
  CHECK(result.returncode == 0);
  CHECK(result.std_out.produced() == early + 4);
  CHECK(result.std_out.received() == early + 4 - from);
  // An offset that lies beyond what there is.
  const auto other = stage.owner.exec({"cat"}, ExecOptions().with_stdin());
  static_cast<void>(other.pid().result(60s));
  CHECK_THROWS_AS(elsewhere.attach(other.id(), AttachOptions().with_offsets(1).with_from_held()).result(60s),
                  SandboxStreamTruncatedError);
}

TEST_CASE("a terminal is left and taken up by another program", "[TS-14]") {
  Stage stage;
  std::string id;
  {
    const auto session = stage.through.shell(ShellOptions().with_command(shell("stty -echo -onlcr; echo ready; exec cat")));
    static_cast<void>(read_until(session.output(), "ready"));
    session.input().write("unread\n").result();
    session.input().flush().result(60s);
    session.detach();
    id = session.id();
  }
  stage.proxy.refuse(true);
  stage.proxy.cut_all();
  const auto session = stage.elsewhere().attach_terminal(id);
  session.resize(90, 30);
  CHECK(read_until(session.output(), "unread\n").find("unread\n") != std::string::npos);
  session.input().write("more\n").result();
  static_cast<void>(read_until(session.output(), "more\n"));
  CHECK(session.status() == ProcessStatus::running);
  session.signal("KILL");
  const auto& result = session.result(60s);
  CHECK(result.signal == 9);
  CHECK(result.skipped == 0);
  CHECK(result.command == session.command());
}

TEST_CASE("the end of a process that nobody watched is still there for whoever comes", "[TS-14]") {
  Stage stage;
  std::string id;
  {
    const auto process = stage.through.exec(shell("echo out; echo err >&2; read -r line; exit 9"), ExecOptions().with_stdin());
    static_cast<void>(read_until(process.std_out(), "out\n"));
    id = process.id();
    stage.proxy.refuse(true);
    stage.proxy.cut_all();
    process.detach();
  }
  const auto elsewhere = stage.elsewhere();
  {
    const auto nudge = elsewhere.attach(id, AttachOptions().with_stdin());
    nudge.std_in()->writeline("go").result();
    CHECK(nudge.result(60s).std_err == "err\n");
  }
  // Who has seen the end has released it.
  try {
    elsewhere.attach(id).result(60s);
    FAIL("a result");
  } catch (const SandboxExecutionError& error) {
    CHECK(error.reason() == "CWSANDBOX_PROCESS_NOT_FOUND");
  }
}

TEST_CASE("attaching to what is not there, or without stdin", "[TS-14]") {
  Stage stage;
  CHECK_THROWS_AS(stage.owner.attach(""), std::invalid_argument);
  CHECK_THROWS_AS(stage.owner.attach("no/such"), std::invalid_argument);
  CHECK_THROWS_AS(stage.owner.attach("none").result(60s), SandboxExecutionError);
  CHECK_THROWS_AS(stage.owner.attach_terminal("none").result(60s), SandboxExecutionError);
  const auto first = stage.owner.exec(shell("sleep 1000"));
  static_cast<void>(first.pid().result(60s));
  const auto second = stage.elsewhere().attach(first.id(), AttachOptions().with_stdin());
  bool failed = false;
  wait_until([&] {
    try {
      second.std_in()->write("x");
    } catch (const SandboxExecutionError&) {
      failed = true;
    }
    return failed;
  });
  second.signal("TERM");
  CHECK(second.result(60s).signal == 15);
}

TEST_CASE("where a reader stands is where another program goes on", "[SR-17][TS-14]") {
  Stage stage;
  auto first = stage.owner.exec(shell("printf 'one\\ntwo\\nthr'; printf err >&2; read -r line; printf 'ee\\nfour\\n'; exit 4"),
                                ExecOptions().with_stdin().with_capture(Capture::none()));
  CHECK(first.std_out().next_line().result(60s) == "one");
  CHECK(read_until(first.std_err(), "err") == "err");
  const auto from = first.std_out().offset(), from_err = first.std_err().offset();
  CHECK(from == 4);
  CHECK(from_err == 3);
  const auto second = stage.elsewhere().attach(first.id(), AttachOptions().with_stdin().with_offsets(from, from_err));
  CHECK(second.std_out().offset() == 4);
  CHECK(second.std_out().next_line().result(60s) == "two");
  CHECK(second.std_out().offset() == 8);
  second.std_in()->writeline("go").result();
  CHECK(second.std_out().read_all().result(60s) == "three\nfour\n");
  CHECK(second.std_out().offset() == 19);
  CHECK_FALSE(second.std_err().next().result(60s).has_value());
  CHECK(second.std_err().offset() == 3);
  CHECK(second.result(60s).returncode == 4);
}

TEST_CASE("a terminal that was attached to says what runs in it", "[TS-18]") {
  Stage stage;
  const auto session = stage.owner.shell(ShellOptions().with_command(shell("stty -echo -onlcr; echo ready; exec cat")));
  static_cast<void>(read_until(session.output(), "ready"));
  const auto at = session.output().offset();
  const auto second = stage.elsewhere().attach_terminal(session.id(), AttachOptions().with_offsets(at));
  CHECK(second.pid().result(60s) == session.pid().result(60s));
  CHECK(second.command() == session.command());
  CHECK(second.output().offset() == at);
  second.signal("KILL");
  CHECK(second.result(60s).signal == 9);
}
