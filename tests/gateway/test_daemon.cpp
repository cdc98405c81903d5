// cwsandboxd as a program: options, token file, signals, curl, and what is left when it is killed.
#include "daemon.hpp"
#include "gateway_support.hpp"
#include "support/catch.hpp"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>

using namespace gateway_test;
using Catch::Matchers::Contains;

namespace {

int run(std::vector<std::string> arguments, std::string& output) {
  TempDir dir;
  arguments.insert(arguments.begin(), program());
  Child child(arguments, dir.path("log"));
  const int code = child.wait();
  output = read_file(dir.path("log"));
  return code;
}

}  // namespace

TEST_CASE("cwsandboxd refuses what it cannot serve safely, and says why", "[gateway][daemon]") {
  TempDir dir;
  const std::string token = dir.path("token");
  std::ofstream(token) << kToken << "\n";
  ::chmod(token.c_str(), 0600);
  const std::string socket = "unix:" + dir.path("socket");
  std::string output;
  CHECK(run({"--help"}, output) == 0);
  CHECK_THAT(output, Contains("Example") && Contains("--token-file") && Contains("Exit codes"));
  CHECK(run({"--version"}, output) == 0);
  CHECK_THAT(output, Contains("."));
  CHECK(run({}, output) == 2);
  CHECK_THAT(output, Contains("--listen"));
  CHECK(run({"--listen", socket}, output) == 2);
  CHECK_THAT(output, Contains("--token-file"));
  CHECK(run({"--listen", "tcp:0.0.0.0:0", "--token-file", token}, output) == 2);
  CHECK_THAT(output, Contains("token and TLS"));
  CHECK(run({"--listen", "tcp:0.0.0.0:0", "--no-token"}, output) == 2);
  CHECK(run({"--listen", "udp:x", "--token-file", token}, output) == 2);
  CHECK(run({"--listen", socket, "--token-file", token, "--tls-cert", "x"}, output) == 2);
  CHECK(run({"--listen", socket, "--token-file", dir.path("missing")}, output) == 2);
  CHECK_THAT(output, Contains("No such file"));
  CHECK(run({"--listen", "tcp:127.0.0.1:0", "--token-file", token, "--tls-cert", "missing.pem", "--tls-key", "missing.pem"},
            output) == 1);
  CHECK_THAT(output, Contains("missing.pem"));
  CHECK(run({"--listen", "unix:/no/such/directory/socket", "--token-file", token}, output) == 1);
  CHECK_THAT(output, Contains("/no/such/directory/socket"));

  ::chmod(token.c_str(), 0644);
  CHECK(run({"--listen", socket, "--token-file", token}, output) == 2);
  CHECK_THAT(output, Contains("chmod 600") && !Contains(kToken));
  ::chmod(token.c_str(), 0600);
  std::ofstream(token) << "# nothing\n\n";
  CHECK(run({"--listen", socket, "--token-file", token}, output) == 2);
  CHECK_THAT(output, Contains("no token"));
  std::ofstream(token) << "good\nse cret\n";
  CHECK(run({"--listen", socket, "--token-file", token}, output) == 2);
  CHECK_THAT(output, Contains("line 2") && !Contains("cret"));
}

TEST_CASE("cwsandboxd stops gracefully on SIGTERM", "[gateway][daemon][P8]") {
  Daemon daemon({"--listen", "tcp:127.0.0.1:0"});
  CHECK(daemon.call("ListSandboxes", Json::object(), "second-token").status == 200);
  CHECK(daemon.call("ListSandboxes", Json::object(), "# the tokens").status == 401);
  const std::string id = daemon.sandbox();
  const std::string marker = unique_marker();
  Peer peer(daemon.address);
  peer.send(5, start(id, {"sh", "-c", "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done; : " + marker}));
  peer.expect_status("started");
  peer.out = peer.expect(1).payload;
  daemon.child->signal(SIGTERM);
  CHECK(peer.to_exit().out == "ready\nbye\n");
  CHECK(!peer.receive());
  CHECK(peer.close_code == 1001);
  CHECK(daemon.child->wait() == 0);
  CHECK(processes_with(marker) == 0);
  CHECK(processes_with(id) == 0);
  CHECK(::access(daemon.address.path.c_str(), F_OK) != 0);
  CHECK_THAT(daemon.log(),
             Contains("listening on tcp:127.0.0.1:") && Contains("stopped") && !Contains(kToken) && !Contains("trap"));
}

TEST_CASE("a second signal ends cwsandboxd at once, and its sandboxes with it", "[gateway][daemon]") {
  Daemon daemon({"--stop-grace", "300"});
  const std::string id = daemon.sandbox();
  const std::string marker = unique_marker();
  Peer peer(daemon.address);
  peer.send(5, start(id, {"sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done; : " + marker}));
  peer.expect_status("started");
  peer.expect(1);
  daemon.child->signal(SIGINT);
  CHECK(eventually([&] { return daemon.log().find("stopping") != std::string::npos; }));
  daemon.child->signal(SIGINT);
  CHECK(daemon.child->wait() == 130);
  CHECK(eventually([&] { return processes_with(marker) == 0; }));
}

TEST_CASE("cwsandboxd serves and stops with its standard streams closed", "[gateway][daemon][CL-8]") {
  for (const std::string closed : {"exec <&-", "exec >&-", "exec <&- >&-", "exec 2>&-", "exec <&- >&- 2>&-"}) {
    CAPTURE(closed);
    Daemon daemon({}, closed);
    const std::string id = daemon.sandbox();
    const Answer ran = daemon.call("Exec", {{"sandboxId", id}, {"command", {"sh", "-c", "cat; echo out"}}});
    CHECK(ran.json()["stdout"] == "b3V0Cg==");
    for (const int fd : {0, 1, 2}) {
      const std::string target =
          std::filesystem::read_symlink("/proc/" + std::to_string(daemon.child->pid()) + "/fd/" + std::to_string(fd)).native();
      const bool was_closed = closed.find(fd == 0 ? "<&-" : fd == 1 ? " >&-" : "2>&-") != std::string::npos;
      if (was_closed) CHECK(target == "/dev/null");
    }
    daemon.child->signal(SIGTERM);
    CHECK(daemon.child->wait() == 0);
  }
}

TEST_CASE("cwsandboxd with few open files says what it lacks, and takes as many as it may", "[gateway][daemon][CL-9]") {
  TempDir dir;
  std::ofstream(dir.path("token")) << kToken << "\n";
  ::chmod(dir.path("token").c_str(), 0600);
  int refused = 0;
  for (const int limit : {4, 5, 6, 8, 12, 16, 24, 32, 48, 64, 96, 120}) {
    CAPTURE(limit);
    std::vector<std::string> arguments = {"/bin/sh",
                                          "-c",
                                          "ulimit -n " + std::to_string(limit) + "; exec \"$@\"",
                                          "sh",
                                          program(),
                                          "--listen",
                                          "unix:" + dir.path("socket"),
                                          "--token-file",
                                          dir.path("token")};
    const std::string log = dir.path("log-" + std::to_string(limit));
    Child child(arguments, log);
    const int code = child.wait();
    const std::string said = read_file(log);
    if (code == 127 && said.find("loading shared libraries") != std::string::npos) continue;  // it does not get as far as that
    CHECK(code == 1);
    ++refused;
    CHECK_THAT(said, Contains("cwsandboxd: 128 more open files are needed") && Contains("RLIMIT_NOFILE"));
  }
  CHECK(refused >= 6);
  rlimit limit{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
  Daemon daemon({}, "ulimit -Sn 50");
  static_cast<void>(daemon.sandbox());
  rlimit its{};
  REQUIRE(::prlimit(daemon.child->pid(), RLIMIT_NOFILE, nullptr, &its) == 0);
  CHECK(its.rlim_cur == limit.rlim_max);
}

TEST_CASE("nothing is left when cwsandboxd is killed", "[gateway][daemon][P8]") {
  Daemon daemon;
  const std::string id = daemon.sandbox();
  const std::string marker = unique_marker();
  Peer peer(daemon.address);
  peer.send(5, start(id, {"sh", "-c",
                          "trap '' TERM HUP; setsid sh -c 'sleep 1000; : " + marker + "' & echo ready; sleep 1000; : " + marker}));
  peer.expect_status("started");
  peer.expect(1);
  CHECK(eventually([&] { return processes_with(marker) >= 2; }));
  daemon.child->signal(SIGKILL);
  CHECK(daemon.child->wait() == -SIGKILL);
  CHECK(eventually([&] { return processes_with(marker) == 0; }));
}

TEST_CASE("curl drives it", "[gateway][daemon]") {
  if (std::system("command -v curl >/dev/null 2>&1") != 0) {
    WARN("curl is not installed");
    return;
  }
  Daemon daemon;
  const std::string id = daemon.sandbox();
  const std::string config = daemon.dir.path("config"), out = daemon.dir.path("out");
  std::ofstream(config) << "header = \"Authorization: Bearer " << kToken << "\"\n";
  const auto curl = [&](const std::string& more) {
    const std::string command = "curl -sS -o " + out + " --unix-socket " + daemon.address.path + " " + more;
    REQUIRE(std::system(command.c_str()) == 0);
    return read_file(out);
  };
  CHECK(curl("http://x/healthz") == R"({"status":"ok"})");
  const std::string answer = curl("-K " + config + " -H 'Content-Type: application/json' -d '{\"sandboxId\":\"" + id +
                                  "\",\"command\":[\"echo\",\"hello\"]}' http://x/coreweave.sandbox.v1.SandboxService/Exec");
  CHECK(Json::parse(answer)["stdout"] == "aGVsbG8K");
  // A body over 1 KiB: curl waits for 100 Continue first.
  std::ofstream(daemon.dir.path("body")) << R"({"sandboxId":")" << id << R"(","command":["true"],"ignored":")"
                                         << std::string(100000, 'x') << "\"}";
  const std::string large = curl("-K " + config + " -H 'Content-Type: application/json' -d @" + daemon.dir.path("body") +
                                 " http://x/coreweave.sandbox.v1.SandboxService/Exec");
  CHECK(!Json::parse(large).contains("code"));
}
