// A server that has no exec stream: what still works, and how honestly.
#include "scripted_server.hpp"
#include "support.hpp"

#include <atomic>
#include <thread>

using namespace support;
using namespace cwsandbox;
using nlohmann::json;

namespace {

/// A running sandbox at a server that speaks only Connect.
struct Plain {
  Plain() {
    server.reply("CreateSandbox", ScriptedServer::sandbox("sb-1", "STATE_RUNNING"));
    server.reply("GetSandbox", ScriptedServer::sandbox("sb-1", "STATE_RUNNING"));
    server.reply("DeleteSandbox", json::object());
    sandbox = Sandbox::run(Client(server.options()));
    sandbox.start().result();
  }
  ~Plain() { sandbox.release(); }
  Plain(const Plain&) = delete;
  Plain& operator=(const Plain&) = delete;
  ScriptedServer server;
  Sandbox sandbox;
};

// "out", "err" in base64
json answer(int code) {
  return {{"stdout", "b3V0"}, {"stderr", "ZXJy"}, {"exitCode", code}, {"stdoutBytesProduced", "3"}, {"stderrBytesProduced", "3"}};
}

template <typename Error, typename Action>
Error caught(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  throw std::runtime_error("nothing of that kind was thrown");
}

}  // namespace

TEST_CASE("exec without an exec stream: output, exit code, one look for the stream", "[EX-8][EX-11][PR-13]") {
  Plain plain;
  plain.server.reply("Exec", answer(3));
  for (int i = 0; i < 3; ++i) {
    const auto process = plain.sandbox.exec({"prog", "a b"}, ExecOptions().with_env("X", "1"));
    const auto& result = process.result(60s);
    CHECK(result.std_out == "out");
    CHECK(result.std_err == "err");
    CHECK(result.returncode == 3);
    CHECK(result.outcome == Outcome::exited);
    CHECK(*process.std_out().next().result() == "out");
    CHECK_FALSE(process.std_out().next().result().has_value());
    CHECK(process.status() == ProcessStatus::exited);
    CHECK_THROWS_AS(process.pid().result(60s), SandboxExecutionError);
  }
  CHECK(plain.server.count("/v1/exec") == 1);
  const auto requests = plain.server.requests("Exec");
  REQUIRE(requests.size() == 3);
  CHECK(requests[0].json() == json({{"sandboxId", "sb-1"}, {"command", {"prog", "a b"}}, {"env", {{"X", "1"}}}}));
  CHECK(plain.sandbox.exec_stats().completed_nonzero == 3);
  CHECK_THROWS_AS(plain.sandbox.exec({"prog"}, ExecOptions().with_check()).result(60s), SandboxExecutionError);
}

TEST_CASE("a directory is entered by a shell; the command stays the caller's", "[PR-6][EX-2]") {
  Plain plain;
  plain.server.reply("Exec", answer(0));
  const auto process = plain.sandbox.exec({"prog", "$x"}, ExecOptions().with_cwd("/a dir"));
  CHECK(process.result(60s).command == std::vector<std::string>{"prog", "$x"});
  CHECK(process.command() == std::vector<std::string>{"prog", "$x"});
  const auto sent = plain.server.requests("Exec").at(0).json().at("command").get<std::vector<std::string>>();
  CHECK(sent == std::vector<std::string>{"/bin/sh", "-c", "cd -- \"$1\" && shift && exec \"$@\"", "sh", "/a dir", "prog", "$x"});
}

TEST_CASE("what the server cut short is never taken for all", "[EX-10][RES-2]") {
  Plain plain;
  auto cut = answer(0);
  cut["stdoutTruncated"] = true;
  cut["stdoutBytesProduced"] = "5000000000";
  plain.server.reply("Exec", cut);
  const auto all = plain.sandbox.exec({"prog"});
  const auto error = caught<SandboxStreamTruncatedError>([&] { all.result(60s); });
  REQUIRE(error.result() != nullptr);
  CHECK(error.result()->std_out == "out");
  CHECK(error.result()->std_out.produced() == 5'000'000'000U);
  CHECK(error.result()->returncode == 0);
  CHECK(error.metadata().at("produced") == "5000000000");
  CHECK(*all.std_out().next().result() == "out");
  CHECK_THROWS_AS(all.std_out().next().result(), SandboxStreamTruncatedError);
  CHECK(*all.std_err().next().result() == "err");
  CHECK_FALSE(all.std_err().next().result().has_value());
  // Who did not ask for everything gets a result that says how much there was.
  const auto part = plain.sandbox.exec({"prog"}, ExecOptions().with_capture(Capture::head_tail(2, 0)));
  const auto& result = part.result(60s);
  CHECK(result.std_out == "ou");
  CHECK(result.std_out.received() == 3);
  CHECK(result.std_out.produced() == 5'000'000'000U);
}

TEST_CASE("the command's timeout is the server's to keep", "[EX-12][EX-13]") {
  Plain plain;
  plain.server.on("Exec", [](const ScriptedServer::Request&) { return ScriptedServer::error("deadline_exceeded", "too late"); });
  CHECK_THROWS_AS(plain.sandbox.exec({"prog"}, ExecOptions().with_timeout(1500ms)).result(60s), SandboxCommandTimeoutError);
  CHECK(plain.server.requests("Exec").at(0).header("connect-timeout-ms") == "1500");
  // Without one it is the request that took too long, and nothing is run twice for it.
  CHECK_THROWS_AS(plain.sandbox.exec({"prog"}).result(60s), SandboxRequestTimeoutError);
  CHECK(plain.server.count("Exec") == 2);
}

TEST_CASE("a command is not run twice when its answer is lost", "[RT-4][EX-11]") {
  Plain plain;
  plain.server.on("Exec", [](const ScriptedServer::Request&) {
    ScriptedServer::Answer gone;
    gone.hang_up = true;
    return gone;
  });
  const auto process = plain.sandbox.exec({"prog"});
  CHECK_THROWS_AS(process.result(60s), SandboxUnavailableError);
  CHECK(plain.server.count("Exec") == 1);
  CHECK_FALSE(process.returncode().has_value());
}

TEST_CASE("an error of the server's is the process's", "[EX-9]") {
  Plain plain;
  plain.server.on("Exec", [](const ScriptedServer::Request&) {
    return ScriptedServer::error("failed_precondition", "not running", "CWSANDBOX_SANDBOX_NOT_RUNNING");
  });
  const auto process = plain.sandbox.exec({"prog"});
  CHECK_THROWS_AS(process.result(60s), SandboxNotRunningError);
  CHECK_THROWS_AS(process.std_out().next().result(60s), SandboxNotRunningError);
}

TEST_CASE("what needs the stream is refused with the reason", "[EX-9][TS-9]") {
  Plain plain;
  plain.server.reply("Exec", answer(0));
  const auto check = [](const auto& process) {
    const auto error = caught<SandboxExecutionError>([&] { process.result(60s); });
    CHECK(error.code() == "unimplemented");
    CHECK(error.reason() == "CWSANDBOX_EXEC_STREAM_UNAVAILABLE");
    CHECK(std::string(error.what()).find("/v1/exec") != std::string::npos);
  };
  const auto with_stdin = plain.sandbox.exec({"cat"}, ExecOptions().with_stdin());
  check(with_stdin);
  CHECK_THROWS_AS(with_stdin.std_in()->write("x"), SandboxExecutionError);
  const auto terminal = plain.sandbox.shell();
  check(terminal);
  CHECK_THROWS_AS(terminal.output().next().result(60s), SandboxExecutionError);
  check(plain.sandbox.attach("id"));
  check(plain.sandbox.attach_terminal("id"));
  CHECK(plain.server.count("Exec") == 0);
  CHECK(plain.server.count("/v1/exec") == 1);
}

TEST_CASE("signals and cancel of a command that runs as a request", "[PR-8][PR-9]") {
  Plain plain;
  std::atomic<bool> asked{false}, go_on{false};
  plain.server.on("Exec", [&](const ScriptedServer::Request&) {
    asked = true;
    while (!go_on) std::this_thread::sleep_for(5ms);
    return ScriptedServer::ok(answer(0));
  });
  const auto process = plain.sandbox.exec({"prog"});
  while (!asked) std::this_thread::sleep_for(5ms);
  const auto error = caught<SandboxExecutionError>([&] { process.signal("TERM"); });
  CHECK(error.reason() == "CWSANDBOX_EXEC_STREAM_UNAVAILABLE");
  CHECK(process.cancel());
  const auto cancelled = caught<CancelledError>([&] { process.result(60s); });
  CHECK(std::string(cancelled.what()).find("could not be confirmed") != std::string::npos);
  go_on = true;
}

TEST_CASE("each way to say that there is no exec stream", "[EX-8]") {
  for (const int status : {404, 405, 415, 426, 501}) {
    CAPTURE(status);
    Plain plain;
    plain.server.on("/v1/exec", [status](const ScriptedServer::Request&) {
      ScriptedServer::Answer no;
      no.status = status;
      no.body = "no";
      no.content_type = "text/plain";
      return no;
    });
    plain.server.reply("Exec", answer(0));
    CHECK(plain.sandbox.exec({"prog"}).result(60s).std_out == "out");
  }
  // A server that cannot serve it now, or not for this caller, is not one that has none.
  Plain plain;
  plain.server.on("/v1/exec",
                  [](const ScriptedServer::Request&) { return ScriptedServer::error("unauthenticated", "who are you"); });
  plain.server.reply("Exec", answer(0));
  CHECK_THROWS_AS(plain.sandbox.exec({"prog"}).result(60s), CWSandboxAuthenticationError);
  CHECK(plain.server.count("Exec") == 0);
}
