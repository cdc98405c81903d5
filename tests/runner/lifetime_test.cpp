// What a local sandbox leaves behind: nothing, in whatever way it ends.
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

#include "harness.hpp"
#include "runner/local/local_runner.hpp"
#include "runner/local/unique_fd.hpp"
#include "runner/work_queue.hpp"
#include "support/catch.hpp"

namespace cwsandbox::test {

namespace fs = std::filesystem;
using runner::RunnerError;
using runner::local::LocalRunnerOptions;
using runner::local::make_local_runner;
using runner::local::UniqueFd;

namespace {

// Empty when there is none: processes come and go while this looks.
std::string read_file(const fs::path& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text(64 << 10, '\0');
  const ssize_t n = ::read(file.get(), text.data(), text.size());
  text.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  return text;
}

std::vector<pid_t> numbers_in(const fs::path& path) {
  std::istringstream text(read_file(path));
  std::vector<pid_t> numbers;
  for (pid_t number = 0; text >> number;) numbers.push_back(number);
  return numbers;
}

std::vector<pid_t> processes_with(const std::string& marker) {
  std::vector<pid_t> pids;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const pid_t pid = std::atoi(entry.path().filename().c_str());
    if (pid <= 0) continue;
    if (read_file(entry.path() / "cmdline").find(marker) != std::string::npos) pids.push_back(pid);
  }
  return pids;
}

// A program's command line shows a moment after it has been executed.
bool appear(const std::string& marker, std::size_t count) {
  const auto deadline = std::chrono::steady_clock::now() + kHang;
  while (processes_with(marker).size() < count) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    ::poll(nullptr, 0, 5);
  }
  return true;
}

// By the name of the thread that has made them: any may have.
std::multimap<std::string, pid_t> children_by_thread(const std::string& process = "self") {
  std::multimap<std::string, pid_t> found;
  for (const auto& task : fs::directory_iterator("/proc/" + process + "/task")) {
    std::string thread = read_file((task.path() / "comm").string());
    if (thread.ends_with('\n')) thread.pop_back();
    for (const pid_t pid : numbers_in(task.path() / "children")) found.emplace(thread, pid);
  }
  return found;
}

std::vector<pid_t> children(const std::string& process = "self") {
  std::vector<pid_t> pids;
  for (const auto& [thread, pid] : children_by_thread(process)) pids.push_back(pid);
  return pids;
}

std::size_t open_descriptors() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

UniqueFd pidfd_of(pid_t pid) { return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))); }

bool ends(const UniqueFd& pidfd) {
  pollfd wait{pidfd.get(), POLLIN, 0};
  return ::poll(&wait, 1, 60000) == 1;
}

std::string refusal(LocalRunnerOptions options, std::string image = {}) {
  asio::io_context loop;
  const auto runner = make_local_runner(loop.get_executor(), std::move(options));
  runner::SandboxSpec spec = sandbox_spec();
  spec.image = std::move(image);
  try {
    const auto sandbox = run(loop, runner->create(std::move(spec)));
  } catch (const RunnerError& error) {
    return std::string(base::to_string(error.code())) + " " + error.reason() + " " + error.what();
  }
  return {};
}

bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

// A stand-in for bubblewrap, for what cannot be provoked here.
class FakeBwrap {
 public:
  explicit FakeBwrap(const std::string& script) {
    if (::mkdtemp(directory_) == nullptr) throw std::runtime_error("mkdtemp");
    ::chmod(directory_, 0755);  // the user that sandboxes run as must get in
    std::ofstream(path()) << "#!/bin/sh\n" << script << "\n";
    ::chmod(path().c_str(), 0755);
  }
  FakeBwrap(const FakeBwrap&) = delete;
  FakeBwrap& operator=(const FakeBwrap&) = delete;
  ~FakeBwrap() { fs::remove_all(directory_); }
  [[nodiscard]] std::string path() const { return std::string(directory_) + "/bwrap"; }
  [[nodiscard]] LocalRunnerOptions options() const {
    LocalRunnerOptions options;
    options.bwrap = path();
    return options;
  }

 private:
  char directory_[32] = "/tmp/cwsandbox-fake-XXXXXX";
};

}  // namespace

TEST_CASE("fifty sandboxes leave no descriptor, no child and no signal", "[runner]") {
  asio::io_context loop;
  const auto runner = make_local_runner(loop.get_executor());
  // The first one makes what is kept for all.
  run(loop, [](runner::Runner& r) -> asio::awaitable<void> { auto s = co_await r.create(sandbox_spec()); }(*runner));
  run_until(loop, [&] { return loop.stopped(); });
  const std::size_t before = open_descriptors();
  for (int i = 0; i < 50; ++i) {
    auto sandbox = run(loop, runner->create(sandbox_spec()));
    const Outcome outcome = run(loop, exec_sh(*sandbox, "echo x"));
    REQUIRE(outcome.out == "x\n");
    if (i % 2 == 0) run(loop, sandbox->stop(std::chrono::milliseconds(i % 4 == 0 ? 0 : 5000)));
    sandbox.reset();
  }
  run_until(loop, [&] { return loop.stopped(); });
  CHECK(open_descriptors() == before);
  CHECK(children().empty());
}

TEST_CASE("the event loop makes no child, for which it would stand still", "[runner][EV-17]") {
  asio::io_context loop;
  const auto runner = make_local_runner(loop.get_executor());
  std::vector<std::unique_ptr<runner::Sandbox>> sandboxes;
  for (int i = 0; i < 3; ++i) sandboxes.push_back(run(loop, runner->create(sandbox_spec())));
  const auto made = children_by_thread();
  CHECK(made.size() == 3);
  CHECK(made.count(runner::kLaunchWork.thread_name) == made.size());
  for (auto& sandbox : sandboxes) run(loop, sandbox->stop(std::chrono::milliseconds(0)));
}

TEST_CASE("a loop that goes away while a sandbox is being made leaves nothing", "[runner][EV-17]") {
  // However far it has come: bubblewrap is being started, or has been, or its agent has spoken.
  for (int turns = 0; turns < 30; ++turns) {
    const std::size_t before = open_descriptors();
    {
      asio::io_context loop;
      const auto runner = make_local_runner(loop.get_executor());
      asio::co_spawn(loop, runner->create(sandbox_spec()), [](std::exception_ptr, std::unique_ptr<runner::Sandbox>) {});
      for (int i = 0; i < turns; ++i) loop.run_one();
    }
    CHECK(children().empty());
    CHECK(open_descriptors() == before);
  }
}

TEST_CASE("a loop that goes away with sandboxes in it leaves nothing", "[runner]") {
  const std::string marker = "31415" + std::to_string(::getpid());
  const std::size_t before = open_descriptors();
  {
    asio::io_context loop;
    const auto runner = make_local_runner(loop.get_executor());
    auto spec = sandbox_spec();
    spec.command = sh("exec sleep " + marker);
    const auto sandbox = run(loop, runner->create(spec));
    REQUIRE(appear(marker, 1));
    const auto other = run(loop, runner->create(spec));
  }
  CHECK(processes_with(marker).empty());
  CHECK(children().empty());
  CHECK(open_descriptors() == before);
}

TEST_CASE("a sandbox dies with the process that its gateway runs in", "[runner]") {
  const std::string marker = "27182" + std::to_string(::getpid());
  int ends_of_pipe[2];
  REQUIRE(::pipe(ends_of_pipe) == 0);
  UniqueFd reader(ends_of_pipe[0]);
  UniqueFd writer(ends_of_pipe[1]);
  const std::string program = fs::read_symlink("/proc/self/exe");
  const std::string fd = std::to_string(writer.get());
  std::string words[] = {program, "[.gateway-to-kill]"};
  char* argv[] = {words[0].data(), words[1].data(), nullptr};
  ::setenv("CWSANDBOX_TEST_MARKER", marker.c_str(), 1);
  ::setenv("CWSANDBOX_TEST_FD", fd.c_str(), 1);
  pid_t gateway = 0;
  REQUIRE(::posix_spawn(&gateway, program.c_str(), nullptr, nullptr, argv, environ) == 0);
  ::unsetenv("CWSANDBOX_TEST_MARKER");
  ::unsetenv("CWSANDBOX_TEST_FD");
  writer.reset();
  char ready = 0;
  const bool came_up = ::read(reader.get(), &ready, 1) == 1;

  std::vector<UniqueFd> pidfds;
  for (const pid_t pid : processes_with(marker)) pidfds.push_back(pidfd_of(pid));
  CHECK(pidfds.size() >= 4);  // the main command, and three more with their children
  // Bubblewrap too, which is a child of the gateway.
  std::size_t bubblewraps = 0;
  pid_t copy = 0;
  for (const pid_t pid : children(std::to_string(gateway))) {
    if (read_file("/proc/" + std::to_string(pid) + "/comm") == "bwrap\n") {
      ++bubblewraps;
      pidfds.push_back(pidfd_of(pid));
    } else {
      copy = pid;
    }
  }
  CHECK(bubblewraps == 1);
  CHECK(copy > 0);

  ::kill(gateway, SIGKILL);
  int status = 0;
  REQUIRE(::waitpid(gateway, &status, 0) == gateway);
  REQUIRE(came_up);
  CHECK(WIFSIGNALED(status));
  for (const UniqueFd& pidfd : pidfds) CHECK(ends(pidfd));
  CHECK(processes_with(marker).empty());
  // All that happened while the copy held the runner's descriptors open.
  if (copy > 0) CHECK(::kill(copy, SIGKILL) == 0);
}

// Run by the test above in a process of its own. Hidden: by itself it waits to be killed.
TEST_CASE("gateway to kill", "[.gateway-to-kill]") {
  const char* marker = std::getenv("CWSANDBOX_TEST_MARKER");
  const char* fd = std::getenv("CWSANDBOX_TEST_FD");
  if (marker == nullptr || fd == nullptr) return;
  asio::io_context loop;
  const auto runner = make_local_runner(loop.get_executor());
  auto spec = sandbox_spec();
  spec.command = sh(std::string("exec sleep ") + marker);
  const auto sandbox = run(loop, runner->create(spec));
  const std::string deaf = std::string("trap '' TERM HUP INT; echo ready; sleep ") + marker + "; true";
  std::vector<std::unique_ptr<runner::Process>> processes;
  for (int i = 0; i < 2; ++i) {
    processes.push_back(run(loop, sandbox->start(command(sh(deaf)))));
    REQUIRE(run(loop, read_line(processes.back()->std_out())) == "ready");
  }
  // One that leaves its session and its parent.
  processes.push_back(run(loop, sandbox->start(command(sh(std::string("setsid sleep ") + marker + " & echo ready")))));
  REQUIRE(run(loop, read_line(processes.back()->std_out())) == "ready");
  // A copy of this process that knows nothing of sandboxes but has all our descriptors must not keep them alive.
  if (::fork() == 0) {
    ::close(std::atoi(fd));
    ::alarm(300);
    for (;;) ::pause();
  }
  REQUIRE(appear(marker, 4));
  REQUIRE(::write(std::atoi(fd), "r", 1) == 1);
  for (;;) ::pause();
}

TEST_CASE("what is missing is said, and how to mend it", "[runner]") {
  LocalRunnerOptions options;
  options.bwrap = "/nonexistent/bwrap";
  std::string text = refusal(options);
  CHECK(has(text, "failed_precondition CWSANDBOX_RUNNER_UNAVAILABLE"));
  CHECK(has(text, "'/nonexistent/bwrap' was not found"));
  CHECK(has(text, "apt install bubblewrap"));
  options.bwrap = "no-such-bubblewrap";
  CHECK(has(refusal(options), "'no-such-bubblewrap' was not found"));

  text = refusal(LocalRunnerOptions(), "python:3.11");
  CHECK(has(text, "invalid_argument CWSANDBOX_INVALID_REQUEST"));
  CHECK(has(text, "python:3.11"));
  CHECK(has(text, "'host'"));
  CHECK(refusal(LocalRunnerOptions(), "host").empty());

  const FakeBwrap forbidden("echo 'bwrap: No permissions to create new namespace, likely because ...' >&2; exit 1");
  text = refusal(forbidden.options());
  CHECK(has(text, "failed_precondition CWSANDBOX_RUNNER_UNAVAILABLE"));
  CHECK(has(text, "user namespaces"));
  CHECK(has(text, "(bwrap: No permissions to create new namespace, likely because ...)"));

  const FakeBwrap old("echo 'bwrap: Unknown option --size' >&2; exit 1");
  CHECK(has(refusal(old.options()), "0.6 or newer"));
  const FakeBwrap loud("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1");
  CHECK(refusal(loud.options()).size() < 6000);
  const FakeBwrap nothing("exit 0");
  CHECK(has(refusal(nothing.options()), "did not start"));
  const FakeBwrap not_a_program("");
  ::chmod(not_a_program.path().c_str(), 0644);
  CHECK(has(refusal(not_a_program.options()), "was not found"));
  CHECK(children().empty());
}

TEST_CASE("a host that lacks something is adapted to", "[runner]") {
  // No --disable-userns.
  const FakeBwrap old(
      "for a; do [ \"$a\" = --disable-userns ] && { echo 'bwrap: Unknown option --disable-userns' >&2; exit 1; }; done\nexec bwrap "
      "\"$@\"");
  // A shell has no PATH here: it is given a clean environment, and uses its own.
  CHECK(refusal(old.options()).empty());
  // Programs in memory may not be run.
  const FakeBwrap strict(
      "for a; do [ \"$a\" = /proc/self/fd/5 ] && { echo 'bwrap: execvp /proc/self/fd/5: Permission denied' >&2; exit "
      "1; }; done\n"
      "exec bwrap \"$@\"");
  asio::io_context loop;
  const auto runner = make_local_runner(loop.get_executor(), strict.options());
  auto sandbox = run(loop, runner->create(sandbox_spec()));
  CHECK(run(loop, exec_sh(*sandbox, "echo x; touch /run/cwsandbox/y || true")).out == "x\n");
}

TEST_CASE("an agent that is not ours is harmless", "[runner]") {
  const std::size_t before = open_descriptors();
  for (const char* script :
       {"printf hello >&3", "head -c 100000 /dev/urandom >&3", "head -c 100000 /dev/zero >&3", "cat <&3 >&3",
        // A frame of the right size that says hello, then a process that nobody asked for.
        "printf '\\022\\0\\0\\0A\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\001\\0\\0\\0\\0' >&3; "
        "printf '\\022\\0\\0\\0B\\007\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\001\\0\\0\\0\\0' >&3; exec sleep 100",
        // Hello, then a main command without its descriptors being asked for, then silence.
        "printf '\\022\\0\\0\\0A\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\001\\0\\0\\0\\0' >&3; "
        "printf '\\022\\0\\0\\0B\\001\\0\\0\\0\\0\\0\\0\\0\\007\\0\\0\\0\\0\\0\\0\\0\\003' >&3; exec sleep 100"}) {
    INFO(script);
    const FakeBwrap hostile(script);
    CHECK(!refusal(hostile.options()).empty());
  }
  CHECK(open_descriptors() == before);
  CHECK(children().empty());
}

TEST_CASE("the program's own signals and children are left alone", "[runner]") {
  static volatile sig_atomic_t broken_pipes = 0;
  struct sigaction action{}, old_pipe{}, old_child{};
  action.sa_handler = [](int) { broken_pipes = broken_pipes + 1; };
  REQUIRE(::sigaction(SIGPIPE, &action, &old_pipe) == 0);
  // As some programs do: their children, and ours with them, are never to be waited for.
  struct sigaction ignore{};
  ignore.sa_handler = SIG_IGN;
  REQUIRE(::sigaction(SIGCHLD, &ignore, &old_child) == 0);
  {
    asio::io_context loop;
    const auto runner = make_local_runner(loop.get_executor());
    auto sandbox = run(loop, runner->create(sandbox_spec()));
    auto spec = command(sh("exec <&-; echo closed; read x </dev/zero; sleep infinity"));
    spec.use_stdin = true;
    const auto process = run(loop, sandbox->start(spec));
    REQUIRE(run(loop, read_line(process->std_out())) == "closed");
    runner::error_code ec;
    CHECK(process->std_in()->try_write(asio::buffer("x", 1), ec) == 0);
    CHECK(ec == asio::error::broken_pipe);
    run(loop, sandbox->stop(std::chrono::milliseconds(0)));
  }
  CHECK(broken_pipes == 0);
  sigset_t pending;
  REQUIRE(::sigpending(&pending) == 0);
  CHECK(sigismember(&pending, SIGPIPE) == 0);
  struct sigaction now{};
  REQUIRE(::sigaction(SIGCHLD, &old_child, &now) == 0);
  CHECK(now.sa_handler == SIG_IGN);
  ::sigaction(SIGPIPE, &old_pipe, nullptr);
}

TEST_CASE("who waits for our children, or wants none to be waited for, changes no exit code", "[runner][EV-13]") {
  // What programs do around us: let the kernel drop children as they end, in two ways, or wait for whichever ends.
  enum class Around : std::uint8_t { ignores, does_not_wait, waits_for_all };
  for (const Around around : {Around::ignores, Around::does_not_wait, Around::waits_for_all}) {
    INFO(static_cast<int>(around));
    struct sigaction action{}, old{};
    action.sa_handler = around == Around::ignores ? SIG_IGN : SIG_DFL;
    action.sa_flags = around == Around::does_not_wait ? SA_NOCLDWAIT : 0;
    REQUIRE(::sigaction(SIGCHLD, &action, &old) == 0);
    std::atomic<bool> over{false};
    std::atomic<int> taken{0};
    std::thread thief([&] {
      while (around == Around::waits_for_all && !over) {
        if (::waitpid(-1, nullptr, 0) > 0)
          ++taken;
        else
          ::poll(nullptr, 0, 1);
      }
    });
    {
      asio::io_context loop;
      const auto runner = make_local_runner(loop.get_executor());
      for (int i = 0; i < 5; ++i) {
        auto spec = sandbox_spec();
        spec.command = sh("while [ ! -e /tmp/go ]; do sleep 0.01; done; exit 42");
        const auto sandbox = run(loop, runner->create(spec));
        CHECK(run(loop, exec_sh(*sandbox, "exit 7")).exit.value == 7);
        const Outcome killed = run(loop, exec_sh(*sandbox, "kill -KILL $$"));
        CHECK(killed.exit.kind == runner::ExitInfo::Kind::signaled);
        CHECK(killed.exit.value == SIGKILL);
        static_cast<void>(run(loop, exec_sh(*sandbox, "touch /tmp/go")));  // it may be overtaken by the end
        const runner::ExitInfo end = run(loop, wait_exit(*sandbox));
        CHECK(end.kind == runner::ExitInfo::Kind::exited);
        CHECK(end.value == 42);
      }
      // Nor does one that never comes up hang, or seem to have.
      const FakeBwrap broken("echo 'bwrap: Unknown option --size' >&2; exit 1");
      CHECK(has(refusal(broken.options()), "0.6 or newer"));
      const FakeBwrap silent("exit 0");
      CHECK(has(refusal(silent.options()), "did not start"));
    }
    over = true;
    thief.join();
    CHECK((taken > 0) == (around == Around::waits_for_all));
    REQUIRE(::sigaction(SIGCHLD, &old, nullptr) == 0);
    CHECK(children().empty());
  }
  // And the other way round: a child of the program's own is its own to wait for, whatever ends beside it.
  const pid_t own = ::fork();
  if (own == 0) ::_exit(5);
  {
    asio::io_context loop;
    const auto runner = make_local_runner(loop.get_executor());
    const auto sandbox = run(loop, runner->create(sandbox_spec()));
    CHECK(run(loop, exec_sh(*sandbox, "exit 7")).exit.value == 7);
    run(loop, sandbox->stop(std::chrono::milliseconds(0)));
  }
  int status = 0;
  REQUIRE(::waitpid(own, &status, 0) == own);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 5);
}

}  // namespace cwsandbox::test
