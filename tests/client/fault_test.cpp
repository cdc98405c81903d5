// What happens when the gateway or the way to it fails.
#include "support.hpp"

#include <csignal>

using namespace support;
using namespace cwsandbox;

TEST_CASE("a gateway of another process", "[EX-8][AU-1]") {
  Daemon daemon;
  const Client client(daemon.options());
  const auto sandbox = Sandbox::run(client);
  for (int i = 0; i < 20; ++i) CHECK(sandbox.exec({"echo", std::to_string(i)}).result().std_out == std::to_string(i) + "\n");
  sandbox.stop().result();
}

TEST_CASE("a wrong token is an authentication error that does not show it", "[ER-4][AU-1][EX-9]") {
  Daemon daemon;
  const std::string wrong = "wrong-token-not-to-be-seen";
  const Client client(daemon.options().with_api_key(wrong));
  const auto check = [&](const auto& action) {
    try {
      action();
      FAIL("let in");
    } catch (const CWSandboxAuthenticationError& error) {
      CHECK(std::string(error.what()).find(wrong) == std::string::npos);
      CHECK(error.code() == "unauthenticated");
    }
  };
  check([&] { static_cast<void>(Sandbox::list(client).result()); });
  const auto sandbox = Sandbox::run(client);
  check([&] { sandbox.start().result(); });
  const auto process = sandbox.exec({"true"});
  check([&] { process.result(); });
  check([&] { static_cast<void>(process.std_out().next().result()); });
}

TEST_CASE("an unknown sandbox", "[ER-3]") {
  Daemon daemon;
  const Client client(daemon.options());
  const auto first = Sandbox::run(client);
  first.start().result();
  const auto other = Sandbox::from_id(client, *first.sandbox_id()).result();
  CHECK(other.exec({"true"}).wait() == 0);
  CHECK_THROWS_AS(Sandbox::from_id(client, "sb-unknown").result(), SandboxNotFoundError);
}

TEST_CASE("nobody listens", "[RT-2]") {
  const TemporaryDirectory directory;
  const Client client(ClientOptions().with_base_url("unix:" + directory.path() + "/socket").with_retry_budget(300ms));
  const auto sandbox = Sandbox::run(client);
  CHECK_THROWS_AS(sandbox.start().result(), SandboxUnavailableError);
  CHECK_THROWS_AS(sandbox.exec({"true"}).result(), SandboxUnavailableError);
}

TEST_CASE("the gateway is killed while a process runs", "[EX-9][EX-11][SW-14]") {
  Daemon daemon;
  const Client client(daemon.options().with_retry_budget(0ms).with_resume_grace(0ms));
  const auto sandbox = Sandbox::run(client);
  const auto process = sandbox.exec(shell("echo partial; cat >/dev/null; sleep 1000"), ExecOptions().with_stdin());
  CHECK(*process.std_out().next().result() == "partial\n");
  daemon.kill(SIGKILL);
  try {
    process.result(60s);
    FAIL("a result");
  } catch (const SandboxConnectionLostError& error) {
    REQUIRE(error.result() != nullptr);
    CHECK(error.result()->outcome == Outcome::lost);
    CHECK(error.result()->std_out == "partial\n");
    CHECK_FALSE(error.result()->returncode.has_value());
    CHECK(error.metadata().at("stdout_received") == "8");
  }
  CHECK(process.status() == ProcessStatus::lost);
  CHECK_FALSE(process.returncode().has_value());
  CHECK_THROWS_AS(process.std_out().next().result(), SandboxConnectionLostError);
  CHECK_FALSE(process.std_out().next().result().has_value());
  CHECK_THROWS_AS(process.std_err().next().result(), SandboxConnectionLostError);
  CHECK_THROWS_AS(process.std_in()->write("x"), SandboxExecutionError);
}

TEST_CASE("an answer to a start that is lost: the process runs once", "[P7][RT-4]") {
  Daemon daemon;
  Proxy proxy(daemon.socket());
  const Client direct(daemon.options());
  const auto owner = Sandbox::run(direct);
  owner.wait().result();
  const Client client(daemon.options().with_base_url(proxy.url()));
  const auto sandbox = Sandbox::from_id(client, *owner.sandbox_id()).result();
  proxy.cut_answers(2);
  const auto process = sandbox.exec(shell("echo once >> /tmp/log; cat"), ExecOptions().with_stdin());
  process.std_in()->write("through").result();
  process.std_in()->close().result();
  CHECK(process.result().std_out == "through");
  CHECK(proxy.cuts() == 2);
  CHECK(owner.exec({"cat", "/tmp/log"}).result().std_out == "once\n");
}

TEST_CASE("an idle connection that was cut is not noticed by anybody", "[RT-4]") {
  Daemon daemon;
  Proxy proxy(daemon.socket());
  const Client client(daemon.options().with_base_url(proxy.url()));
  const auto sandbox = Sandbox::run(client);
  for (int i = 0; i < 10; ++i) {
    CHECK(sandbox.exec({"echo", "x"}).result().std_out == "x\n");
    proxy.cut_all();
  }
}

TEST_CASE("a connection lost in the middle", "[EX-9][EX-20][EX-11]") {
  Daemon daemon;
  Proxy proxy(daemon.socket());
  const Client client(daemon.options().with_base_url(proxy.url()).with_resume_grace(0ms));
  const auto sandbox = Sandbox::run(client);
  const auto process = sandbox.exec(shell("echo begun; sleep 1000"));
  CHECK(*process.std_out().next().result() == "begun\n");
  proxy.cut_all();
  CHECK_THROWS_AS(process.result(60s), SandboxConnectionLostError);
  // A cancel that cannot be confirmed says so.
  const auto cancelled = sandbox.exec(shell("echo begun; sleep 1000"));
  CHECK(*cancelled.std_out().next().result() == "begun\n");
  daemon.kill(SIGSTOP == 0 ? 0 : SIGKILL);
  cancelled.cancel();
  bool ended = false;
  try {
    cancelled.result(60s);
  } catch (const CancelledError&) {
    ended = true;
  } catch (const SandboxConnectionLostError&) {
    ended = true;  // the loss was seen first
  }
  CHECK(ended);
}
