// Terminals: a command that talks to somebody.
#include "support.hpp"

#include <cwsandbox/terminal.hpp>

#include <atomic>
#include <thread>

using namespace support;
using namespace cwsandbox;

namespace {

/// Reads until `what` has come; everything so far.
std::string read_until(const TerminalSession& session, const std::string& what) {
  std::string seen;
  while (seen.find(what) == std::string::npos) {
    const auto chunk = session.output().next().result(60s);
    if (!chunk) throw std::runtime_error("the output ended before " + what + "; seen: " + seen);
    seen += *chunk;
  }
  return seen;
}

ShellOptions running(std::string script) { return ShellOptions().with_command(shell(std::move(script))); }

}  // namespace

TEST_CASE("a shell on a terminal: what it is, what it says, how it ends", "[TS-1][TS-2][TS-6]") {
  const auto session = shared_sandbox().shell();
  CHECK(session.command() == std::vector<std::string>{"/bin/bash"});
  CHECK(session.id().size() == 36);
  // The terminal's echo holds the expression, only the shell's answer its value.
  session.input()
      .write("echo term=$TERM size=$(stty size | tr ' ' x) on=$(tty | cut -c1-5) e$((40+2)); echo to-err >&2\n")
      .result();
  const auto seen = read_until(session, "to-err\r\n");
  CHECK(seen.find("term=xterm-256color size=24x80 on=/dev/ e42\r\n") != std::string::npos);
  CHECK(session.status() == ProcessStatus::running);
  session.input().write("exit 7\n").result();
  const auto& result = session.result(60s);
  CHECK(result.returncode == 7);
  CHECK(result.outcome == Outcome::exited);
  CHECK_FALSE(result.signal.has_value());
  CHECK(result.command == session.command());
  CHECK(session.status() == ProcessStatus::exited);
  CHECK_FALSE(session.cancel());
}

TEST_CASE("every option of a shell reaches it", "[TS-6]") {
  const auto session = shared_sandbox().shell(running("stty -opost; echo \"$X $TERM $(stty size) $(pwd)\"")
                                                  .with_env("X", "value")
                                                  .with_term("dumb")
                                                  .with_size(132, 43)
                                                  .with_cwd("/tmp"));
  CHECK(session.output().read_all().result(60s) == "value dumb 43 132 /tmp\n");
  CHECK(session.result(60s).returncode == 0);
  const auto given = shared_sandbox().shell(running("stty -opost; echo $TERM").with_env("TERM", "vt100").with_term("dumb"));
  CHECK(given.output().read_all().result(60s) == "vt100\n");
}

TEST_CASE("raw bytes go both ways unaltered", "[TS-2][IO-8]") {
  const auto session = shared_sandbox().shell(running("stty raw -echo; echo ready; exec cat"));
  static_cast<void>(read_until(session, "ready\n"));
  std::string all;
  for (int i = 0; i < 1000; ++i)
    for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  std::string back;
  std::thread writer([&] { session.input().write(all).result(60s); });
  while (back.size() < all.size()) back += *session.output().next().result(60s);
  writer.join();
  CHECK(back == all);
  session.cancel();
  CHECK_THROWS_AS(session.result(60s), CancelledError);
}

TEST_CASE("resize: from any thread, refused below 1 and after the end", "[TS-5]") {
  // A trap interrupts the read, which is no end.
  const auto session = shared_sandbox().shell(
      running("stty -echo; trap 'stty size' WINCH; echo ready; while :; do read -r line; [ \"$line\" = end ] && exit 0; done"));
  CHECK_THROWS_AS(session.resize(0, 24), std::invalid_argument);
  CHECK_THROWS_AS(session.resize(80, 0), std::invalid_argument);
  CHECK_THROWS_AS(session.resize(-1, 24), std::invalid_argument);
  CHECK_THROWS_AS(session.resize(80, 65536), std::invalid_argument);
  static_cast<void>(read_until(session, "ready"));
  std::vector<std::thread> threads;
  for (int i = 1; i <= 4; ++i) threads.emplace_back([&session, i] { session.resize(100 + i, 50); });
  for (auto& thread : threads) thread.join();
  session.resize(65535, 1);
  static_cast<void>(read_until(session, "1 65535"));
  session.input().write("end\n").result();
  CHECK(session.result(60s).returncode == 0);
  CHECK_THROWS_AS(session.resize(80, 24), SandboxExecutionError);
  CHECK_THROWS_AS(session.resize(0, 24), std::invalid_argument);
  CHECK_THROWS_AS(session.signal("INT"), SandboxExecutionError);
  CHECK_THROWS_AS(shared_sandbox().shell(ShellOptions().with_size(0, 24)), std::invalid_argument);
  CHECK_THROWS_AS(shared_sandbox().shell(ShellOptions().with_size(80, 70000)), std::invalid_argument);
}

TEST_CASE("a size that is told before the shell has started counts", "[TS-5]") {
  const auto sandbox = Sandbox::run();
  const auto session = sandbox.shell(running("stty -opost; while [ \"$(stty size)\" != '33 99' ]; do sleep 0.01; done; echo seen"));
  session.resize(99, 33);
  CHECK(session.output().read_all().result(60s) == "seen\n");
}

TEST_CASE("writing after the end says that the session has ended", "[SW-12]") {
  const auto session = shared_sandbox().shell(running("exit 3"));
  CHECK(session.result(60s).returncode == 3);
  try {
    session.input().write("x");
    FAIL("accepted");
  } catch (const SandboxExecutionError& error) {
    CHECK(std::string(error.what()) == "Cannot write to stdin: stream has failed");
    try {
      std::rethrow_if_nested(error);
      FAIL("no cause");
    } catch (const SandboxExecutionError& cause) {
      CHECK(std::string(cause.what()) == "Terminal session has ended");
    }
  }
  session.input().close().result();  // SW-13
}

TEST_CASE("cancel ends the output, also of a shell that ignores SIGTERM", "[TS-10][PR-8]") {
  const auto session = shared_sandbox().shell(ShellOptions().with_grace_period(60s));
  session.input().write("echo e$((40+2))\n").result();
  static_cast<void>(read_until(session, "e42"));
  CHECK(session.cancel());
  CHECK_THROWS_AS(session.result(30s), CancelledError);
  CHECK(session.status() == ProcessStatus::cancelled);
  bool ended = false;
  try {
    while (session.output().next().result(60s)) {
    }
    ended = true;
  } catch (const CancelledError&) {
    ended = true;
  }
  CHECK(ended);
  CHECK_THROWS_AS(session.input().write("x"), SandboxExecutionError);
}

TEST_CASE("closing the output ends the session", "[SR-6]") {
  const auto session = shared_sandbox().shell();
  session.input().write("echo e$((40+2))\n").result();
  static_cast<void>(read_until(session, "e42"));
  session.output().close();
  CHECK_THROWS_AS(session.result(30s), CancelledError);
  CHECK_FALSE(session.output().next().result(60s).has_value());
}

TEST_CASE("a failure reaches output, input and result", "[TS-9]") {
  const auto session = shared_sandbox().shell(ShellOptions().with_command({"/no/such/shell"}));
  CHECK_THROWS_AS(session.result(60s), SandboxExecutionError);
  CHECK_THROWS_AS(session.output().next().result(60s), SandboxExecutionError);
  CHECK_FALSE(session.output().next().result(60s).has_value());
  CHECK_THROWS_AS(session.input().write("x"), SandboxExecutionError);
  CHECK(session.status() == ProcessStatus::failed);
}

TEST_CASE("the last handle that goes ends the session", "[TS-10]") {
  std::string pid;
  {
    const auto session = shared_sandbox().shell();
    pid = std::to_string(session.pid().result(60s));
  }
  CHECK(shared_sandbox()
            .exec(shell("for i in $(seq 3000); do kill -0 " + pid + " 2>/dev/null || exit 0; sleep 0.01; done; exit 1"))
            .wait() == 0);
}

TEST_CASE("a session that nobody reads ends", "[TS-1]") {
  // With more output than the window holds: waiting for the result lets it flow.
  const auto waited = shared_sandbox().shell(running("head -c 3000000 /dev/zero; exit 5").with_window(65536));
  CHECK(waited.result(60s).returncode == 5);
  // Nobody waits either, and somebody had begun to read: the command has ended, its last words come.
  const auto polled = shared_sandbox().shell(running("stty raw; echo first; head -c 66000 /dev/zero; exit 6").with_window(65536));
  static_cast<void>(read_until(polled, "first"));
  CHECK(polled.result(60s).returncode == 6);
}

TEST_CASE("a slow reader holds the session up and loses nothing", "[TS-2][SR-7]") {
  constexpr std::size_t total = 8 * 1024 * 1024;
  const auto session = shared_sandbox().shell(
      running("stty raw; head -c " + std::to_string(total) + " /dev/zero | tr '\\000' x; echo written > /tmp/slow-reader")
          .with_window(65536));
  std::size_t seen = session.output().next().result(60s)->size();
  CHECK(shared_sandbox().exec(shell("sleep 0.3; test ! -e /tmp/slow-reader")).wait() == 0);
  while (const auto chunk = session.output().next().result(60s)) seen += chunk->size();
  CHECK(seen == total);
  CHECK(session.result(60s).returncode == 0);
}

TEST_CASE("a session ends with its shell, whatever that left in the background", "[TS-15]") {
  const auto session = shared_sandbox().shell(ShellOptions().with_command({"/bin/bash", "--norc", "-i"}));
  session.input().write("sleep 100000 &\nexit 5\n").result();
  CHECK(session.result(60s).returncode == 5);
}

TEST_CASE("the end of input reaches a terminal's program", "[TS-16]") {
  const std::string script = GENERATE("cat", "stty raw; cat", "cat; cat");
  const auto session = shared_sandbox().shell(running("stty -echo; echo ready; " + script + "; echo over"));
  read_until(session, "ready");
  session.input().write("x").result();
  session.input().close().result();
  read_until(session, "over");
  CHECK(session.result(60s).returncode == 0);
}

TEST_CASE("signals reach a terminal's command", "[TS-1]") {
  const auto session = shared_sandbox().shell(running("trap 'echo got' USR1; echo ready; while :; do sleep 0.01; done"));
  static_cast<void>(read_until(session, "ready"));
  session.signal("USR1");
  static_cast<void>(read_until(session, "got"));
  session.signal("KILL");
  const auto& result = session.result(60s);
  CHECK(result.outcome == Outcome::signaled);
  CHECK(result.signal == 9);
  CHECK(result.returncode == 137);
}

TEST_CASE("a shell in a sandbox that has been stopped", "[EX-5][TS-9]") {
  const auto sandbox = Sandbox::run();
  sandbox.wait().result();
  sandbox.stop().result();
  const auto session = sandbox.shell();
  CHECK_THROWS_AS(session.result(60s), SandboxNotRunningError);
  CHECK_THROWS_AS(session.output().next().result(60s), SandboxNotRunningError);
}
