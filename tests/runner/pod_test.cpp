// The program in a pod, with its parts as they are there: PID 1 in namespaces of its own, relays put there from outside, and a
// RemoteSandbox at the other end.
#include <boost/asio/io_context.hpp>

#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "conformance.hpp"
#include "pod_room.hpp"
#include "room.hpp"
#include "support/catch.hpp"

namespace cwsandbox::test {

namespace fs = std::filesystem;
using runner::ExitInfo;
using runner::RunnerError;
using runner::remote::RemoteSandbox;
using std::chrono::milliseconds;

namespace {

// A container with a sandbox in it.
struct Pod {
  explicit Pod(std::vector<std::string> arguments = {}, runner::SandboxSpec spec = sandbox_spec())
      : container(std::make_shared<PodContainer>(std::move(arguments))), sandbox(remote_sandbox(loop.get_executor(), container)) {
    run(loop, sandbox->create(std::move(spec)));
  }
  Pod(const Pod&) = delete;
  Pod& operator=(const Pod&) = delete;
  ~Pod() {
    sandbox.reset();
    run_until(loop, [this] { return loop.stopped(); });
  }
  Outcome operator()(std::string script) { return run(loop, exec_sh(*sandbox, std::move(script))); }

  asio::io_context loop;
  std::shared_ptr<PodContainer> container;
  std::unique_ptr<RemoteSandbox> sandbox;
};

[[nodiscard]] runner::SandboxSpec with_main(std::string script) {
  runner::SandboxSpec spec = sandbox_spec();
  spec.command = sh(std::move(script));
  return spec;
}

[[nodiscard]] std::string code_of(asio::io_context& loop, asio::awaitable<void> work) {
  try {
    run(loop, std::move(work));
  } catch (const RunnerError& error) {
    CAPTURE(error.what());
    CHECK(std::string(error.what()).find(kPodKey) == std::string::npos);
    return std::string(base::to_string(error.code()));
  }
  return "done";
}

[[nodiscard]] int error_of(Pod& pod, std::string path) {
  try {
    static_cast<void>(run(pod.loop, pod.sandbox->files().open(std::move(path))));
  } catch (const runner::FileFailed& error) {
    return error.error();
  }
  return 0;
}

// As seen by a program in the sandbox.
constexpr const char* kRelays =
    "for p in /proc/[0-9]*; do case \"$(tr '\\0' ' ' <$p/cmdline 2>/dev/null)\" in "
    "'/run/cwsandbox-agent connect '*) echo ${p#/proc/};; esac; done";

// Starts `count` relays that nobody talks to. `ended` counts those that have ended, `asleep` those that wait.
[[nodiscard]] std::string relays(int count) {
  return "mkfifo /tmp/held; exec 3<>/tmp/held; mkdir /tmp/ended; i=0; while [ $i -lt " + std::to_string(count) +
         " ]; do (/run/cwsandbox-agent connect <&3 >&3 2>/tmp/err-$i; echo $? >/tmp/code-$i; mkdir /tmp/ended/$i) "
         ">/dev/null 2>&1 & i=$((i+1)); done; ended() { ls /tmp/ended | wc -l; }; "
         "asleep() { for p in $(" +
         kRelays + "); do cat /proc/$p/stat; done | grep -c ') S '; }; ";
}
// Every relay that has ended has said why, with an exit code that tells it. How many of them because there was no place.
std::size_t check_refused(Pod& pod, std::size_t least) {
  std::istringstream said(pod("for i in $(ls /tmp/ended); do echo \"$(cat /tmp/code-$i) $(cat /tmp/err-$i)\"; done").out);
  std::size_t ended = 0, refused = 0;
  for (std::string line; std::getline(said, line);) {
    CAPTURE(line);
    CHECK(line.starts_with("1 cwsandbox-agent: "));
    ++ended;
    if (line == "1 cwsandbox-agent: there are too many connections") ++refused;
  }
  CHECK(ended >= least);
  return refused;
}

// Whatever the directory of the tests is.
struct Directory {
  std::string path = (fs::temp_directory_path() / "cwsandbox-install-XXXXXX").string();
  Directory() {
    if (::mkdtemp(path.data()) == nullptr) throw std::runtime_error("no directory");
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() { fs::remove_all(path); }
};

[[nodiscard]] int run_here(const std::string& arguments) {
  const int status = std::system((std::string(std::getenv("CWSANDBOX_POD_AGENT")) + " " + arguments).c_str());
  return WEXITSTATUS(status);
}

}  // namespace

TEST_CASE("a pod's sandbox does what every runner must", "[pod]") {
  for (const RunnerCheck& check : runner_checks()) {
    DYNAMIC_SECTION(check.name) {
      asio::io_context loop;
      PodTestRunner runner(loop.get_executor());
      run(loop, check.run(runner));
      run_until(loop, [&] { return loop.stopped(); });
    }
  }
}

TEST_CASE("a pod's sandbox handles files as every runner must", "[pod][files]") {
  for (const RunnerCheck& check : file_checks()) {
    DYNAMIC_SECTION(check.name) {
      asio::io_context loop;
      PodTestRunner runner(loop.get_executor());
      run(loop, check.run(runner));
      run_until(loop, [&] { return loop.stopped(); });
    }
  }
}

TEST_CASE("programs in a pod learn neither the key nor anything else of PID 1", "[pod][hostile]") {
  Pod pod;
  const Outcome line = pod("tr '\\0' ' ' </proc/1/cmdline");
  CHECK(line.out.find("serve --key") != std::string::npos);  // it is PID 1's
  CHECK(line.out.find(kPodKey) == std::string::npos);
  CHECK(pod("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").out.find(kPodKey) == std::string::npos);
  CHECK(pod("env").out.find(kPodKey) == std::string::npos);
  for (const char* closed : {"environ", "mem", "maps", "fd/3", "auxv"}) {
    CAPTURE(closed);
    CHECK(pod(std::string("head -c 1 /proc/1/") + closed).exit.value != 0);
  }
  // Nor by the agent, whose own they are: each of its threads has a place in /proc.
  const Outcome threads = pod("ls /proc/1/task");
  std::size_t seen = 0;
  for (const std::string& thread : lines_of(threads.out)) {
    ++seen;
    CHECK(error_of(pod, "/proc/" + thread + "/environ") == EACCES);
    CHECK(error_of(pod, "/proc/1/task/" + thread + "/environ") == EACCES);
  }
  CHECK(seen == 2);
}

TEST_CASE("a pod is served to nobody without its key", "[pod][hostile]") {
  asio::io_context loop;
  const auto container = std::make_shared<PodContainer>();
  auto stranger = remote_sandbox(loop.get_executor(), container, std::string(32, 'f'));
  const std::string code = code_of(loop, stranger->create(with_main("touch /tmp/stranger; sleep infinity")));
  CHECK(code != "done");
  stranger.reset();
  auto owner = remote_sandbox(loop.get_executor(), container);
  run(loop, owner->create(sandbox_spec()));
  CHECK(run(loop, exec_sh(*owner, "ls /tmp")).out.empty());
  owner.reset();
  run_until(loop, [&] { return loop.stopped(); });
}

TEST_CASE("a killed relay is a resume", "[pod][hostile]") {
  Pod pod;
  runner::ProcessSpec counting = command(sh("seq 1 200000; echo end"));
  auto counts = run(pod.loop, pod.sandbox->start(counting));
  runner::ProcessSpec echoing = command({"cat"});
  echoing.use_stdin = true;
  auto echo = run(pod.loop, pod.sandbox->start(echoing));
  for (int i = 0; i < 3; ++i) {
    const std::string said = "before " + std::to_string(i);
    run(pod.loop, write_all(*echo->std_in(), said + "\n"));
    REQUIRE(run(pod.loop, read_line(echo->std_out())) == said);
    // A link holds on for a moment when its relay has gone, so the next one may still be on its way, and one that was seen gone.
    const Outcome killed =
        pod(std::string("until k=$(") + kRelays + ") && [ -n \"$k\" ] && kill -9 $k; do sleep 0.05; done; echo killed");
    CHECK(killed.out == "killed\n");
    run(pod.loop, write_all(*echo->std_in(), "after\n"));
    REQUIRE(run(pod.loop, read_line(echo->std_out())) == "after");
  }
  std::string expected;
  for (int i = 1; i <= 200000; ++i) expected += std::to_string(i) + "\n";
  const Outcome all = run(pod.loop, communicate(*counts));
  CHECK((all.out == expected + "end\n"));
  CHECK(all.exit.value == 0);
  echo->std_in()->close();
  CHECK(run(pod.loop, communicate(*echo)).exit.value == 0);
}

TEST_CASE("a relay outlives what asks everybody to end", "[pod]") {
  Pod pod;
  const std::string before = pod(kRelays).out;
  REQUIRE(!before.empty());
  CHECK(pod(std::string("for p in $(") + kRelays + "); do kill -TERM $p; kill -INT $p; kill -HUP $p; done").exit.value == 0);
  CHECK(pod(kRelays).out == before);
}

TEST_CASE("programs in a pod cannot keep its gateway out", "[pod][hostile]") {
  Pod pod;
  runner::ProcessSpec spec = command(sh(relays(40) + "until [ $(ended) -ge 32 ]; do sleep 0.05; done; echo full; wait"));
  auto attack = run(pod.loop, pod.sandbox->start(spec));
  REQUIRE(run(pod.loop, read_line(attack->std_out())) == "full");
  // Those that were let in are put out when they have said nothing for a while, which this may have taken: of all, on a slow day.
  static_cast<void>(check_refused(pod, 32));
  auto other = remote_sandbox(pod.loop.get_executor(), pod.container);
  run(pod.loop, other->attach(kHang));
  CHECK(run(pod.loop, exec_sh(*other, "echo in")).out == "in\n");
  other->let_go();
  other.reset();
  attack->signal_group(SIGKILL);
}

TEST_CASE("a relay that is not let in says why, whatever comes first", "[pod]") {
  Pod pod;
  // Every relay has said all that it has to say before PID 1 sees the first of them.
  pod.container->signal(SIGSTOP);
  const Finished all = pod.container->enter(
      sh(relays(12) + "until [ $(grep -c ' 02 .* @cwsandbox-agent' /proc/net/unix) -ge 12 ] && [ $(asleep) -ge 12 ]; do "
                      "sleep 0.01; done; kill -CONT 1; until [ $(ended) -ge 4 ]; do sleep 0.01; done"));
  CHECK(all.code == 0);
  CHECK(check_refused(pod, 4) > 0);
}

TEST_CASE("another gateway finds a pod's sandbox as it is", "[pod]") {
  Pod pod({}, with_main("echo first; trap 'exit 4' TERM; sleep infinity & wait"));
  REQUIRE(run(pod.loop, read_line(pod.sandbox->main_stdout())) == "first");
  CHECK(pod("echo kept > /tmp/file").exit.value == 0);
  pod.sandbox->let_go();
  pod.sandbox = remote_sandbox(pod.loop.get_executor(), pod.container);
  run(pod.loop, pod.sandbox->attach(kHang));
  CHECK(pod("cat /tmp/file").out == "kept\n");
  CHECK(run(pod.loop, read_line(pod.sandbox->main_stdout())) == "first");
}

TEST_CASE("PID 1 ends as the main command does", "[pod]") {
  struct Way {
    std::string script;
    int code;
    std::string message;
  };
  const std::vector<Way> ways{{"read line </tmp/go; exit 0", 0, R"({"kind":"exited","value":0,)"},
                              {"read line </tmp/go; exit 7", 7, R"({"kind":"exited","value":7,)"},
                              {"read line </tmp/go; kill -9 $$", 137, R"({"kind":"signaled","value":9,)"}};
  for (const Way& way : ways) {
    CAPTURE(way.script);
    Pod pod({}, with_main("mkfifo /tmp/go; " + way.script));
    CHECK(pod("until [ -p /tmp/go ]; do sleep 0.01; done; echo >/tmp/go").exit.kind != ExitInfo::Kind::lost);
    const ExitInfo exit = run(pod.loop, wait_exit(*pod.sandbox));
    CHECK(exit.value == (way.code > 128 ? way.code - 128 : way.code));
    pod.sandbox.reset();
    run_until(pod.loop, [&] { return pod.loop.stopped(); });
    CHECK(pod.container->wait() == way.code);
    const std::string message = pod.container->termination_message();
    CAPTURE(message);
    CHECK(message.starts_with(way.message));
    CHECK(message.find("\"timeMs\":") != std::string::npos);
  }
}

TEST_CASE("SIGTERM to PID 1 stops its sandbox", "[pod]") {
  SECTION("gracefully") {
    Pod pod({}, with_main("trap 'exit 5' TERM; touch /tmp/ready; sleep infinity & wait"));
    CHECK(pod("until [ -e /tmp/ready ]; do sleep 0.01; done").exit.value == 0);
    auto process =
        run(pod.loop, pod.sandbox->start(command(sh("trap 'echo bye; exit 6' TERM; echo ready; sleep infinity & wait"))));
    REQUIRE(run(pod.loop, read_line(process->std_out())) == "ready");
    pod.container->signal(SIGTERM);
    const Outcome outcome = run(pod.loop, communicate(*process));
    CHECK(outcome.out == "bye\n");
    CHECK(outcome.exit.value == 6);
    CHECK(run(pod.loop, wait_exit(*pod.sandbox)).value == 5);
    pod.sandbox.reset();
    run_until(pod.loop, [&] { return pod.loop.stopped(); });
    CHECK(pod.container->wait() == 5);
    CHECK(pod.container->termination_message().starts_with(R"({"kind":"exited","value":5,)"));
  }
  SECTION("with a bound") {
    Pod pod({"--stop-grace", "100"}, with_main("trap '' TERM; touch /tmp/ready; while :; do sleep 1; done"));
    CHECK(pod("until [ -e /tmp/ready ]; do sleep 0.01; done").exit.value == 0);
    pod.container->signal(SIGTERM);
    const ExitInfo exit = run(pod.loop, wait_exit(*pod.sandbox));
    CHECK(exit.kind == ExitInfo::Kind::signaled);
    CHECK(exit.value == SIGKILL);
    pod.sandbox.reset();
    run_until(pod.loop, [&] { return pod.loop.stopped(); });
    CHECK(pod.container->wait() == 137);
  }
  SECTION("or one that never began") {
    PodContainer container;
    // When it listens, signals wait for it; before, what is PID 1 does not get them.
    container.wait_until_served();
    container.signal(SIGTERM);
    CHECK(container.wait() == 255);
    CHECK(container.termination_message().starts_with(R"({"kind":"lost")"));
  }
}

TEST_CASE("PID 1 reaps orphans, and they end with the sandbox", "[pod]") {
  Pod pod({}, with_main("trap 'exit 0' TERM; touch /tmp/ready; sleep infinity & wait"));
  CHECK(pod("until [ -e /tmp/ready ]; do sleep 0.01; done").exit.value == 0);
  CHECK(pod("for i in 1 2 3 4 5; do (sh -c 'exit 3' &) ; done; "
            "until ! grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null; do sleep 0.01; done")
            .exit.value == 0);
  CHECK(pod("setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' >/dev/null 2>&1 &").exit.value == 0);
  pod.container->signal(SIGTERM);
  CHECK(run(pod.loop, wait_exit(*pod.sandbox)).kind == ExitInfo::Kind::exited);
  pod.sandbox.reset();
  run_until(pod.loop, [&] { return pod.loop.stopped(); });
  CHECK(pod.container->wait() == 0);
}

TEST_CASE("the program for pods says what is wrong", "[pod]") {
  CHECK(run_here("connect </dev/null 2>/dev/null") == 1);
  CHECK(run_here("nonsense 2>/dev/null") == 2);
  CHECK(run_here("serve 2>/dev/null") == 2);
  CHECK(run_here("serve --key short 2>/dev/null") == 2);
  CHECK(run_here(std::string("serve --key ") + kPodKey + " --stop-grace x 2>/dev/null") == 2);
  CHECK(run_here(std::string("serve --key ") + kPodKey + " 2>/dev/null") == 255);  // it is not PID 1
  PodContainer container;
  container.wait_until_served();
  const Finished refused = container.enter({kAgentInPod, "connect"});
  CHECK(refused.code == 1);
  CHECK(refused.err == "cwsandbox-agent: stdin and stdout must be pipes or sockets\n");
  const Directory directory;
  const std::string errors = directory.path + "/errors";
  CHECK(run_here("connect <&- >&- 2>" + errors) == 1);  // its own socket must not stand where stdin should
  CHECK(content_of(errors) == "cwsandbox-agent: stdin and stdout must be pipes or sockets\n");
  CHECK(run_here("connect 2>" + errors + " </dev/null | cat") == 0);
  CHECK(std::system(("echo | " + std::string(std::getenv("CWSANDBOX_POD_AGENT")) + " connect 2>" + errors + " | cat").c_str()) ==
        0);
  CHECK(content_of(errors).starts_with("cwsandbox-agent: there is no agent here"));
}

TEST_CASE("the program for pods installs itself", "[pod]") {
  const Directory directory;
  CHECK(run_here("install " + directory.path) == 0);
  const fs::path installed = directory.path + "/cwsandbox-agent";
  CHECK((content_of(installed) == content_of(std::getenv("CWSANDBOX_POD_AGENT"))));
  struct stat status{};
  REQUIRE(::stat(installed.c_str(), &status) == 0);
  CHECK((status.st_mode & 07777) == 0755);
  // An init container that was killed half way is run again.
  CHECK(std::system(("echo half >" + directory.path + "/.cwsandbox-agent.new").c_str()) == 0);
  CHECK(run_here("install " + directory.path) == 0);
  CHECK((content_of(installed) == content_of(std::getenv("CWSANDBOX_POD_AGENT"))));
  CHECK(std::distance(fs::directory_iterator(directory.path), fs::directory_iterator()) == 1);
  CHECK(run_here("install " + directory.path + "/none 2>/dev/null") == 1);
}

}  // namespace cwsandbox::test
