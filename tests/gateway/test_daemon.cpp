// cwsandboxd as a program: options, token file, signals, curl, and what is left when it is killed.
#include "daemon.hpp"
#include "gateway/budgets.hpp"
#include "gateway_support.hpp"
#include "support/catch.hpp"
#include "support/sanitizers.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
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

constexpr std::uint64_t kMiB = 1024 * 1024;
constexpr std::uint64_t kSanitizer = test_support::kSanitizerMemory;

std::uint64_t resident(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("VmRSS:")) return std::stoull(line.substr(6)) * 1024;
  return 0;
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

  // Output goes to files: that there can be none is said at once. Not even root makes one in /proc.
  CHECK(run({"--listen", socket, "--token-file", token, "--log-dir", "/proc"}, output) == 1);
  CHECK_THAT(output, Contains("--log-dir /proc:"));
  for (const std::string place : {"/no/such/place", "/proc"}) {
    Child child({"/usr/bin/env", "TMPDIR=" + place, program(), "--listen", socket, "--token-file", token}, dir.path("said"));
    CHECK(child.wait() == 1);
    CHECK_THAT(read_file(dir.path("said")), Contains("TMPDIR " + place + ":") && Contains("--log-dir names another"));
  }

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

TEST_CASE("cwsandboxd says how much memory it holds at most, and has an option for every budget",
          "[gateway][daemon][EV-11][EV-12]") {
  const auto told = [](const std::string& held) {
    const Daemon daemon({"--max-held-memory", held, "--max-connections", "100", "--max-sandboxes", "10"});
    const std::string log = daemon.log(), before = "at most ";
    const auto end = log.find(" bytes of memory (");
    REQUIRE(end != std::string::npos);
    const auto at = log.rfind(before, end);
    REQUIRE(at != std::string::npos);
    return std::stoull(log.substr(at + before.size()));
  };
  CHECK(told("96MiB") - told("64MiB") == 32ull << 20);
  std::string help;
  CHECK(run({"--help"}, help) == 0);
  for (const gateway::BudgetEntry& entry : gateway::kBudgets) CHECK_THAT(help, Contains(std::string(entry.option) + " "));
}

TEST_CASE("cwsandboxd waits for nobody who reads its log", "[gateway][daemon][EV-10]") {
  const TempDir dir;
  const std::string pipe = dir.path("log");
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  const int reader = ::open(pipe.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC);
  REQUIRE(reader >= 0);
  REQUIRE(::fcntl(reader, F_SETPIPE_SZ, 4096) > 0);
  Daemon daemon({}, "exec 2>" + pipe);
  const std::string lines = "/" + std::string(200, 'x');
  const auto ask = [&](int number) {
    return http(daemon.address, "GET", lines + std::to_string(number), {{"Authorization", std::string("Bearer ") + kToken}}, "")
        .status;
  };
  // Many times what the pipe holds.
  constexpr int kRequests = 400;
  for (int i = 0; i < kRequests; ++i) REQUIRE(ask(i) == 404);
  // Nothing of it is lost, and it is in order.
  std::string log;
  char part[4096];
  std::size_t last = 0, found = 0;
  REQUIRE(eventually([&] {
    for (ssize_t n = 0; (n = ::read(reader, part, sizeof part)) > 0;) log.append(part, static_cast<std::size_t>(n));
    for (std::size_t at = 0; (at = log.find(" GET /xxx", last)) != std::string::npos && log.find('\n', at) != std::string::npos;
         ++found)
      last = log.find('\n', at);
    return found == kRequests;
  }));
  // Nor does it end when the reader does.
  ::close(reader);
  for (int i = 0; i < 3; ++i) CHECK(ask(i) == 404);
  daemon.child->signal(SIGTERM);
  CHECK(daemon.child->wait() == 0);
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

TEST_CASE("a jump of the wall clock ends nothing early and holds nothing up", "[gateway][daemon][P21]") {
  TempDir dir;
  const std::string file = dir.path("clock");
  const auto set_clock = [&file](long seconds) {
    const int fd = ::open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    REQUIRE(::pwrite(fd, &seconds, sizeof seconds, 0) == sizeof seconds);
    ::close(fd);
  };
  set_clock(0);
  const char* preload = std::getenv("CWSANDBOX_WALL_CLOCK");
  REQUIRE(preload != nullptr);
  // A sanitizer's library wants to be the first.
  const Daemon daemon(
      {"--idle-timeout", "600"},
      "export ASAN_OPTIONS=$ASAN_OPTIONS:verify_asan_link_order=0 CWSANDBOX_TEST_CLOCK=" + file + " LD_PRELOAD=" + preload);
  const auto make = [&daemon](const Json& spec) { return daemon.call("CreateSandbox", {{"sandbox", {{"spec", spec}}}}).json(); };
  const auto year_of = [](const Json& made) { return std::stoi(made["status"]["createTime"].get<std::string>().substr(0, 4)); };
  const std::string script = "i=0; while [ ! -e /tmp/go ]; do echo $i; i=$((i+1)); sleep 0.05; done; echo end";
  const Json first =
      make({{"maxLifetimeSeconds", 3600}, {"containers", {{{"name", "main"}, {"command", "/bin/sh"}, {"args", {"-c", script}}}}}});
  const std::string id = first["sandboxId"];
  REQUIRE(eventually([&] { return daemon.call("GetSandbox", {{"sandboxId", id}}).json()["status"]["state"] == "STATE_RUNNING"; }));
  Peer held(daemon.address);
  Json cat = start(id, {"cat"});
  cat["stdin"] = true;
  cat["timeoutMs"] = 600'000;
  held.send(5, cat);
  held.expect_status("started");
  StreamCall log(daemon.address, "coreweave.sandbox.v1.SandboxService/StreamLogs", {{"sandboxId", id}, {"follow", true}},
                 {{"Authorization", std::string("Bearer ") + kToken}});
  REQUIRE(log.next());

  constexpr long kTenYears = 3653L * 24 * 3600;
  const int now = year_of(first);
  for (const long jump : {kTenYears, -kTenYears, 0L}) {
    INFO("the clock is off by " << jump << " s");
    // One that is to end in a second, and the clock jumps meanwhile.
    Peer timed(daemon.address);
    Json sleep = start(id, {"sleep", "1000"});
    sleep["timeoutMs"] = 1000;
    sleep["graceMs"] = 1000;
    timed.send(5, sleep);
    timed.expect_status("started");
    set_clock(jump);
    CHECK(timed.to_exit().exit["outcome"] == "timed_out");
    const Json made = make(Json::object());
    CHECK(daemon.call("GetSandbox", {{"sandboxId", id}}).json()["status"]["state"] == "STATE_RUNNING");
    CHECK(daemon.call("GetSandbox", {{"sandboxId", made["sandboxId"]}}).status == 200);
    // The gateway has seen the jump; its list is in the order of creation all the same.
    if (jump > 0) CHECK(year_of(made) >= now + 9);
    CHECK(daemon.call("DeleteSandbox", {{"sandboxId", made["sandboxId"]}, {"gracePeriodSeconds", 1}}).status == 200);
    held.send(0, "here\n");
    held.expect(1);
    CHECK(log.next());
  }
  CHECK(daemon.call("Exec", {{"sandboxId", id}, {"command", {"touch", "/tmp/go"}}}).status == 200);
  std::string last;
  for (const Json& entry : log.rest()) last += base64_decode(entry.value("data", ""));
  CHECK(log.end == Json::object());
  CHECK_THAT(last, Catch::Matchers::EndsWith("end\n"));
}

TEST_CASE("slow followers of logs and readers of lists cost a bounded memory, and others go on", "[gateway][daemon][P10][LG-4]") {
  Daemon daemon({"--log-size", "1MiB"});
  const std::string main =
      "while [ ! -e /tmp/go ]; do sleep 0.05; done; seq 1 2000000; while [ ! -e /tmp/over ]; do sleep 0.05; done; echo end";
  const Json spec = {{"containers", {{{"name", "main"}, {"command", "/bin/sh"}, {"args", {"-c", main}}}}}};
  const std::string id = daemon.call("CreateSandbox", {{"sandbox", {{"spec", spec}}}}).json()["sandboxId"];
  REQUIRE(eventually([&] { return daemon.call("GetSandbox", {{"sandboxId", id}}).json()["status"]["state"] == "STATE_RUNNING"; }));
  const auto exec = [&](const std::string& script, const std::string& token = kToken) {
    const Answer answer = daemon.call("Exec", {{"sandboxId", id}, {"command", {"sh", "-c", script}}}, token);
    REQUIRE(answer.status == 200);
    return base64_decode(answer.json().value("stdout", ""));
  };
  CHECK(exec("mkdir /tmp/many; cd /tmp/many; seq 1 30000 | sed 's/.*/a-rather-long-name-of-a-file-&/' | xargs touch; ls | wc -l") ==
        "30000\n");
  const std::map<std::string, std::string> headers{{"Authorization", std::string("Bearer ") + kToken}};
  const auto follow = [&] {
    return StreamCall(daemon.address, "coreweave.sandbox.v1.SandboxService/StreamLogs", {{"sandboxId", id}, {"follow", true}},
                      headers);
  };
  const std::uint64_t before = resident(daemon.child->pid());
  // 200 that read nothing after the head of the answer: of a log that is written many times over, and of a list of some MiB.
  std::vector<StreamCall> slow;
  for (int i = 0; i < 100; ++i) {
    slow.push_back(follow());
    slow.emplace_back(daemon.address, "cwsandbox.v1.FileService/List", Json{{"sandboxId", id}, {"path", "/tmp/many"}}, headers);
  }
  StreamCall quick = follow();
  exec("touch /tmp/go");
  std::uint64_t most = 0, offset = 0;
  constexpr std::uint64_t kWritten = 14'888'896;  // of seq
  while (offset < kWritten) {
    const auto entry = quick.next();
    REQUIRE(entry);
    offset = std::stoull(entry->value("nextLogOffset", std::to_string(offset)));
    most = std::max(most, resident(daemon.child->pid()));
  }
  CHECK(offset == kWritten);
  CHECK(most - std::min(before, most) < 64 * kMiB + kSanitizer);
  StreamCall list(daemon.address, "cwsandbox.v1.FileService/List", {{"sandboxId", id}, {"path", "/tmp/many"}}, headers);
  std::size_t listed = 0;
  for (const Json& part : list.rest()) listed += part["files"].size();
  CHECK(listed == 30000);
  CHECK(list.end == Json::object());
  CHECK(exec("echo served") == "served\n");
  // One that has slept goes on with what is left, and hears the end.
  exec("touch /tmp/over");
  std::string tail;
  while (const auto entry = slow.front().next()) tail = base64_decode(entry->value("data", ""));
  CHECK(slow.front().end == Json::object());
  CHECK_THAT(tail, Catch::Matchers::EndsWith("end\n"));
}
