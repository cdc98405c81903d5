// What one sandbox may use, and that its neighbour does not notice.
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <fstream>
#include <map>
#include <set>

#include "room.hpp"
#include "runner/local/control_groups.hpp"
#include "support/catch.hpp"

namespace cwsandbox::test {

namespace fs = std::filesystem;
using runner::ExitInfo;
using runner::ResourceSpec;
using runner::RunnerError;
using runner::SandboxSpec;
using runner::local::ControlGroups;
using runner::local::GroupLimits;
using runner::local::LocalRunnerOptions;
using runner::local::make_local_runner;
using runner::local::UniqueFd;

namespace {

// Does something that needs processes, memory and files, as a bystander would.
void works(Room& neighbour) {
  for (int i = 0; i < 2; ++i) {
    const Outcome outcome =
        neighbour("head -c 1000000 /dev/zero > /tmp/x && seq 2000 | sort -n | tail -n 1 && wc -c < /tmp/x && rm /tmp/x");
    CHECK(outcome.out == "2000\n1000000\n");
    CHECK(outcome.exit.value == 0);
  }
}

// What a command that goes on says before.
std::vector<std::string> first_lines(Room& in, runner::Process& process, int count) {
  std::vector<std::string> lines;
  for (int i = 0; i < count; ++i) lines.push_back(run(in.loop, read_line(process.std_out())));
  return lines;
}

std::size_t processes_with(const std::string& marker) {
  std::size_t count = 0;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    if (std::atoi(entry.path().filename().c_str()) > 0 && content_of(entry.path() / "cmdline").find(marker) != std::string::npos)
      ++count;
  }
  return count;
}

// Groups of the process with this number, wherever on this machine.
// Directory by directory: others make and remove groups meanwhile, and one iterator over all of them ends at the first that is
// gone.
void find_groups(const fs::path& directory, const std::string& mark, std::vector<fs::path>& found) {
  std::error_code ec;
  for (fs::directory_iterator at(directory, ec), end; !ec && at != end; at.increment(ec)) {
    std::error_code gone;
    if (at->is_symlink(gone) || !at->is_directory(gone)) continue;
    const std::string name = at->path().filename().native();
    if (name.starts_with("cwsandbox-") && name.find(mark) != std::string::npos) found.push_back(at->path());
    find_groups(at->path(), mark, found);
  }
}

std::vector<fs::path> groups_of(pid_t pid) {
  std::vector<fs::path> found;
  find_groups("/sys/fs/cgroup", "-" + std::to_string(pid) + "-", found);
  return found;
}

// Whoever knows that control groups can be had says so, and then no test leaves out what they are needed for.
bool can_limit(ControlGroups::Controller controller) {
  const std::string why = ControlGroups().why_not(controller);
  if (!why.empty() && std::getenv("CWSANDBOX_TEST_CONTROL_GROUPS") != nullptr) FAIL(why);
  return why.empty();
}

// The group of version 2 that this process has been started in; empty where there is none, or none in which others can be made.
fs::path own_group() {
  if (!fs::exists("/sys/fs/cgroup/cgroup.controllers") || !can_limit(ControlGroups::memory)) return {};
  const std::string text = content_of("/proc/self/cgroup");
  const auto path = text.find("0::");
  if (path == std::string::npos) return {};
  const fs::path group = "/sys/fs/cgroup" + text.substr(path + 3, text.find('\n', path) - path - 3);
  return group.filename() == "cwsandbox-gateway" ? group.parent_path() : group;
}

void join(const fs::path& group) { std::ofstream(group / "cgroup.procs") << "0" << std::flush; }

runner::SandboxSpec spec_with(ResourceSpec resources) {
  runner::SandboxSpec spec = sandbox_spec();
  spec.resources = resources;
  return spec;
}

ResourceSpec memory_of(std::uint64_t bytes) {
  ResourceSpec resources;
  resources.memory_limit = bytes;
  return resources;
}

}  // namespace

TEST_CASE("a fork bomb is held to its number of processes while a neighbour works", "[runner][limits]") {
  LocalRunnerOptions options;
  options.limits.pids = 64;
  Room neighbour(options);
  Room in(options);
  run(in.loop, put_hostile(*in.sandbox, kHostile));
  {
    const auto counter = run(in.loop, in.sandbox->start(command({kHostile, "fork-until-refused"})));
    const std::vector<std::string> said = first_lines(in, *counter, 2);
    CHECK(said[0] == "-1 EAGAIN");
    // The main command's two, and the one that counts.
    CHECK(std::stoi(said[1]) == 64 - 3);
    // It is the sandbox that is full, and it says so.
    try {
      const Outcome outcome = in("true");
      FAIL("there was room for another: " << outcome.exit.value);
    } catch (const runner::StartFailed& error) {
      CHECK(error.error() == EAGAIN);
      CHECK(error.what_failed() == "fork");
    }
    works(neighbour);
    counter->signal_group(SIGKILL);
    run(in.loop, wait_exit(*counter));
  }
}

TEST_CASE("a fork bomb goes off in its sandbox alone, and ends with it", "[runner][limits][P22]") {
  LocalRunnerOptions options;
  options.limits.pids = 512;
  options.limits.cpu_share = 1000;
  Room neighbour(options);
  const std::string marker = "bomb-" + std::to_string(::getpid());
  {
    Room in(options);
    run(in.loop, put_hostile(*in.sandbox, kHostile));
    // On a busy machine its agent may get too little of the sandbox's part to answer: then the sandbox is given up, nobody else's.
    bool given_up = false;
    std::unique_ptr<runner::Process> bomb;
    const auto in_there = [&](const auto& step) {
      try {
        step();
      } catch (const runner::RunnerError& error) {
        given_up = true;
        CHECK(std::string(error.what()).find("the sandbox has ended") != std::string::npos);
      }
    };
    in_there([&] { bomb = run(in.loop, in.sandbox->start(command({kHostile, "fork-bomb", marker}))); });
    CHECK((given_up || test_support::eventually([&] { return processes_with(marker) >= 500; })));
    CHECK(processes_with(marker) <= 512);
    works(neighbour);
    // What goes on is not held up by a sandbox that comes or goes beside it.
    Room later(options);
    works(later);
    in_there([&] { run(in.loop, in.sandbox->stop(std::chrono::milliseconds(0))); });
    const auto all_gone = [&] { return processes_with(marker) == 0; };
    CHECK((given_up ? test_support::eventually(all_gone) : all_gone()));
  }
  works(neighbour);
}

TEST_CASE("a memory hog is killed at its limit while a neighbour works", "[runner][limits]") {
  if (!can_limit(ControlGroups::memory)) return;  // what happens then is in the test below
  Room neighbour({}, spec_with(memory_of(256u << 20)));
  Room in({}, spec_with(memory_of(64u << 20)));
  const Outcome hog = in.hostile("memory");
  CHECK(hog.exit.kind == ExitInfo::Kind::signaled);
  CHECK(hog.exit.value == SIGKILL);
  works(neighbour);
  // The rest of its sandbox lives on.
  CHECK(in("echo alive").out == "alive\n");
  // What a file in memory takes counts.
  for (const char* place : {"/tmp", "/workspace"}) {
    const std::string filled = in.hostile("fill", std::string(place) + "/full").out;
    CHECK(filled == "-1 ENOSPC\n" + std::to_string(32 << 20) + "\n");
    works(neighbour);
    in(std::string("rm ") + place + "/full");
  }
}

TEST_CASE("who fills the memory with files ends itself and not its sandbox", "[runner][limits]") {
  if (!can_limit(ControlGroups::memory)) {
    WARN("SKIPPED: there are no limits on memory here");
    return;
  }
  Room in({}, spec_with(memory_of(64u << 20)));
  const auto remove = [&in](const std::string& path) {
    try {
      run(in.loop, in.sandbox->files().remove(path, false));
    } catch (const runner::FileFailed& failure) {
      CHECK(failure.error() == ENOENT);
    }
  };
  const std::array<const char*, 2> pairs[] = {{"/tmp", "/var/tmp"}, {"/dev/shm", "/workspace"}, {"/home/sandbox", "/tmp"}};
  for (const auto& places : pairs) {
    // Two of them are all the memory there is.
    for (const char* place : places) {
      const Outcome filled = in.hostile("fill", std::string(place) + "/full");
      const bool told = filled.out.starts_with("-1 ENOSPC\n");
      const bool killed = filled.exit.kind == ExitInfo::Kind::signaled && filled.exit.value == SIGKILL;
      INFO(place << ": " << filled.out << ' ' << filled.exit.value);
      CHECK((told || killed));
    }
    // Its owner makes room again.
    for (const char* place : places) remove(std::string(place) + "/full");
    CHECK(in("echo alive").out == "alive\n");
  }
}

TEST_CASE("files that are sent are the sandbox's memory, and it is full before anybody is killed", "[runner][limits][files]") {
  if (!can_limit(ControlGroups::memory)) {
    WARN("SKIPPED: there are no limits on memory here");
    return;
  }
  constexpr std::size_t kLimit = 64u << 20;
  Room in({}, spec_with(memory_of(kLimit)));
  const std::string data((3 << 20) + 5000, 'x');
  std::size_t sent = 0;
  int refused = 0;
  for (const char* place : {"/tmp", "/var/tmp", "/dev/shm", "/workspace", "/home/sandbox"}) {
    for (int i = 0; i < 11; ++i) {
      runner::FileWriteSpec spec;
      spec.path = std::string(place) + "/" + std::to_string(i);
      try {
        const auto writer = run(in.loop, in.sandbox->files().create(spec));
        run(in.loop, writer->write(asio::buffer(data)));
        run(in.loop, writer->commit());
        sent += data.size();
      } catch (const runner::FileFailed& failure) {
        CHECK(failure.error() == ENOSPC);
        ++refused;
      }
    }
  }
  CHECK(refused > 0);
  CHECK(sent < kLimit);
  CHECK(sent > kLimit / 2);
  // It is the sandbox's group that has them.
  const std::vector<fs::path> groups = groups_of(::getpid());
  const auto used = [&groups]() -> std::uint64_t {
    for (const fs::path& group : groups) {
      for (const char* name : {"memory.current", "memory.usage_in_bytes"}) {
        if (fs::exists(group / name)) return std::stoull(content_of(group / name));
      }
    }
    return 0;
  };
  CHECK(used() >= sent);
  CHECK(in("echo alive").out == "alive\n");
  // What was taken beyond its end has been given back.
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t blocks = (data.size() + page - 1) / page * (page / 512);
  CHECK(in("stat -c '%s %b' /tmp/0").out == std::to_string(data.size()) + " " + std::to_string(blocks) + "\n");
}

TEST_CASE("what nobody reads of connections to itself is held to a sandbox's memory", "[runner][limits]") {
  if (!can_limit(ControlGroups::memory)) {
    WARN("SKIPPED: there are no limits on memory here");
    return;
  }
  Room in({}, spec_with(memory_of(32u << 20)));
  const Outcome unread = in.hostile("unread");
  const bool killed = unread.exit.kind == ExitInfo::Kind::signaled && unread.exit.value == SIGKILL;
  INFO(unread.out);
  if (!killed) CHECK(std::stol(unread.out.substr(unread.out.find('\n') + 1)) < (32 << 20));
  CHECK(in("echo alive").out == "alive\n");
}

TEST_CASE("a main command that is killed for its memory says so", "[runner][limits]") {
  if (!can_limit(ControlGroups::memory)) return;
  asio::io_context loop;
  const auto runner = make_local_runner(loop.get_executor());
  runner::SandboxSpec spec = spec_with(memory_of(64u << 20));
  spec.command = {"/run/start"};
  runner::InitialFile start;
  start.path = "/run/start";
  spec.command = sh("while [ ! -x /run/hostile ]; do sleep 0.01; done; exec /run/hostile memory");
  const auto sandbox = run(loop, runner->create(spec));
  run(loop, put_hostile(*sandbox, kHostile));
  const ExitInfo end = run(loop, wait_exit(*sandbox));
  CHECK(end.kind == ExitInfo::Kind::signaled);
  CHECK(end.value == SIGKILL);
  CHECK(end.out_of_memory);
  // One that was killed otherwise does not.
  const auto other = run(loop, runner->create(spec_with(memory_of(64u << 20))));
  run(loop, exec_sh(*other, "kill -KILL -1"));
  CHECK_FALSE(run(loop, wait_exit(*other)).out_of_memory);
}

TEST_CASE("a disk filler is held to its places while a neighbour works", "[runner][limits]") {
  LocalRunnerOptions options;
  options.limits.disk = 4 << 20;
  Room neighbour(options);
  Room in(options);
  for (const char* place : {"/dev/shm", "/tmp", "/var/tmp", "/home/sandbox", "/workspace"}) {
    INFO(place);
    CHECK(in.hostile("fill", std::string(place) + "/full").out == "-1 ENOSPC\n" + std::to_string(4 << 20) + "\n");
    works(neighbour);
  }
  CHECK(in("echo alive").out == "alive\n");
  for (const char* place : {"/", "/usr", "/etc", "/dev", "/proc", "/home", "/var"}) {
    INFO(place);
    CHECK(in.hostile("fill", std::string(place) + "/full").out.find("\n0\n") != std::string::npos);
  }
}

TEST_CASE("an inode filler is held to its number of files while a neighbour works", "[runner][limits]") {
  std::string said;
  LocalRunnerOptions options;
  options.limits.files = 1000;
  options.log = [&said](const std::string& text) { said += text; };
  Room neighbour(options);
  Room in(options);
  for (const char* place : {"/dev/shm", "/tmp", "/var/tmp", "/home/sandbox", "/workspace"}) {
    INFO(place);
    const Outcome outcome = in.hostile("inodes", place);
    CHECK(outcome.out.starts_with("-1 ENOSPC\n"));
    const int count = std::stoi(outcome.out.substr(outcome.out.find('\n') + 1));
    CHECK(count <= 1000);
    CHECK(count > 990);  // the place itself is one
    works(neighbour);
  }
  CHECK(said.empty());
}

TEST_CASE("a process may open so many files", "[runner][limits]") {
  LocalRunnerOptions options;
  options.limits.open_files = 200;
  Room in(options);
  const Outcome outcome = in.hostile("open-until-refused");
  CHECK(outcome.out == "-1 EMFILE\n" + std::to_string(200 - 3) + "\n");
  CHECK(in("ulimit -Hn; ulimit -n 201").out == "200\n");
  // No dump goes to whoever the host has for them.
  CHECK(lines_of(in("grep 'core file' /proc/self/limits | tr -s ' '").out) ==
        std::set<std::string>{"Max core file size 1 1 bytes "});
}

TEST_CASE("who sends as many descriptors as there may be on their way stops no other sandbox", "[runner][limits]") {
  Room neighbour;
  Room in;
  run(in.loop, put_hostile(*in.sandbox, kHostile));
  const auto sender = run(in.loop, in.sandbox->start(command({kHostile, "descriptors-in-flight"})));
  const auto lines = first_lines(in, *sender, 2);
  CHECK(lines.front() == "-1 ETOOMANYREFS");
  rlimit files{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &files) == 0);
  CHECK(std::stoul(lines.back()) <= files.rlim_max / 2 + 2 * 253);
  works(neighbour);
  works(in);
  Room later;  // creating one takes descriptors of the same user
  works(later);
}

TEST_CASE("a busy loop is held to its part of the CPU", "[runner][limits]") {
  if (!can_limit(ControlGroups::cpu)) return;
  ResourceSpec resources;
  // Its share of a busy machine is more than it may have: it is the limit that it meets, whoever else works here.
  resources.cpu_limit = 20;
  resources.cpu_request = 2000;
  Room neighbour;
  Room in({}, spec_with(resources));
  run(in.loop, put_hostile(*in.sandbox, kHostile));
  const auto burner = run(in.loop, in.sandbox->start(command({kHostile, "burn"})));
  REQUIRE(first_lines(in, *burner, 1).front() == "ready");
  const std::vector<fs::path> groups = groups_of(::getpid());
  REQUIRE(groups.size() == 1);
  // The kernel says that it has held it back, which it does a tenth of a second after the start.
  const auto deadline = std::chrono::steady_clock::now() + kHang;
  const auto throttled = [&] {
    const std::string text = content_of(groups.front() / "cpu.stat");
    const auto at = text.find("nr_throttled ");
    return at != std::string::npos && text[at + 13] != '0';
  };
  while (!throttled() && std::chrono::steady_clock::now() < deadline) ::poll(nullptr, 0, 20);
  CHECK(throttled());
  works(neighbour);
}

TEST_CASE("however many want the CPU in a sandbox, they weigh what its neighbour does", "[runner][limits][P22]") {
  if (!can_limit(ControlGroups::cpu)) {
    WARN("SKIPPED: the CPU cannot be divided among sandboxes here");
    return;
  }
  const bool v2 = fs::exists("/sys/fs/cgroup/cgroup.controllers");
  LocalRunnerOptions options;
  options.limits.cpu_share = 1000;
  Room neighbour(options);
  Room in(options);
  run(in.loop, put_hostile(*in.sandbox, kHostile));
  const auto burner = run(in.loop, in.sandbox->start(command({kHostile, "burn"})));
  REQUIRE(first_lines(in, *burner, 1).front() == "ready");
  works(neighbour);
  const std::vector<fs::path> groups = groups_of(::getpid());
  CHECK(groups.size() == 2);
  for (const fs::path& group : groups) CHECK(content_of(group / (v2 ? "cpu.weight" : "cpu.shares")) == (v2 ? "100\n" : "1024\n"));
  CHECK(test_support::eventually([&] {
    return std::any_of(groups.begin(), groups.end(), [](const fs::path& group) {
      const std::string there = content_of(group / "cgroup.procs");
      return std::count(there.begin(), there.end(), '\n') >= 16;
    });
  }));
  // Who asks for less or more is given that instead.
  ResourceSpec resources;
  resources.cpu_request = 500;
  Room other(options, spec_with(resources));
  CHECK(groups_of(::getpid()).size() == 3);
}

TEST_CASE("owners weigh the same, however many sandboxes they have", "[runner][limits][EV-21]") {
  if (!can_limit(ControlGroups::cpu)) {
    WARN("SKIPPED: the CPU cannot be divided among sandboxes here");
    return;
  }
  const bool v2 = fs::exists("/sys/fs/cgroup/cgroup.controllers");
  const char* const weight = v2 ? "cpu.weight" : "cpu.shares";
  {
    asio::io_context loop;
    LocalRunnerOptions options;
    options.limits.cpu_share = 1000;
    const auto runner = make_local_runner(loop.get_executor(), options);
    std::vector<std::unique_ptr<runner::Sandbox>> sandboxes;
    for (const char* owner : {"many", "many", "one", "many", ""}) {
      SandboxSpec spec = sandbox_spec();
      spec.owner = owner;
      spec.resources.cpu_request = *owner == 'm' ? 8000 : 1000;
      sandboxes.push_back(run(loop, runner->create(std::move(spec))));
    }
    std::map<fs::path, int> together;
    for (const fs::path& group : groups_of(::getpid())) {
      if (fs::exists(group / weight) && !content_of(group / "cgroup.procs").empty()) ++together[group.parent_path()];
    }
    std::vector<int> counts;
    std::set<std::string> weights;
    for (const auto& [parent, count] : together) {
      counts.push_back(count);
      if (parent.filename().native().starts_with("cwsandbox-")) weights.insert(content_of(parent / weight));
    }
    std::sort(counts.begin(), counts.end());
    CHECK(counts == std::vector<int>{1, 1, 3});
    // Whatever their sandboxes ask for: that counts among these alone.
    CHECK(weights == std::set<std::string>{v2 ? "100\n" : "1024\n"});
    for (auto& sandbox : sandboxes) CHECK(run(loop, exec_sh(*sandbox, "echo x")).out == "x\n");
  }
  CHECK(test_support::eventually([] {
    static_cast<void>(ControlGroups());  // tries again what the kernel did not let go
    return groups_of(::getpid()).empty();
  }));
}

TEST_CASE("what the kernel counts for a user is counted for a sandbox: who uses it up harms nobody else",
          "[runner][limits][files][P22]") {
  Room in;
  Room neighbour;
  if (user_of(in) == user_of(neighbour)) {
    WARN("SKIPPED: there is one user for all sandboxes here");
    return;
  }
  run(in.loop, put_hostile(*in.sandbox, kHostile));
  run(neighbour.loop, put_hostile(*neighbour.sandbox, kHostile));
  const auto queues = run(in.loop, in.sandbox->start(command({kHostile, "inotify"})));
  const std::vector<std::string> said = first_lines(in, *queues, 2);
  CHECK(said[0] == "-1 EMFILE");
  CHECK(std::stoi(said[1]) > 0);
  try {
    const auto watch = run(in.loop, in.sandbox->files().watch("/tmp"));
    FAIL("there was room for another");
  } catch (const RunnerError& error) {
    CHECK(error.code() == base::ErrorCode::resource_exhausted);
    CHECK_THAT(error.what(), Catch::Matchers::Contains("max_user_instances"));
  }
  const auto watch = run(neighbour.loop, neighbour.sandbox->files().watch("/tmp"));
  CHECK(neighbour(": >/tmp/seen").exit.value == 0);
  const auto events = run(neighbour.loop, watch->next(std::chrono::steady_clock::now() + kHang));
  REQUIRE_FALSE(events.empty());
  CHECK(events.front().name == "seen");
  const auto its_own = run(neighbour.loop, neighbour.sandbox->start(command({kHostile, "inotify"})));
  CHECK(std::stoi(first_lines(neighbour, *its_own, 2)[1]) > 0);
  works(neighbour);
  works(in);
}

TEST_CASE("who asks for a core weighs what those do who ask for nothing", "[runner][limits]") {
  if (!can_limit(ControlGroups::cpu)) return;
  const bool v2 = fs::exists("/sys/fs/cgroup/cgroup.controllers");
  const auto weight = [&](std::uint32_t request) {
    ControlGroups groups;
    REQUIRE(groups.why_not(ControlGroups::cpu).empty());
    GroupLimits limits;
    limits.cpu_request = request;
    const auto made = groups.make(limits);
    const std::vector<fs::path> found = groups_of(::getpid());
    REQUIRE(found.size() == 1);
    return std::stoi(content_of(found.front() / (v2 ? "cpu.weight" : "cpu.shares")));
  };
  const int core = v2 ? 100 : 1024;
  CHECK(weight(1000) == core);
  CHECK(weight(3000) == 3 * core);
  CHECK(weight(500) == core / 2);
  CHECK(weight(1) == (v2 ? 1 : 2));
  CHECK(weight(4000000) == (v2 ? 10000 : 262144));
}

TEST_CASE("with version 2, a gateway that is alone in its group moves aside, and one that is not moves nobody",
          "[runner][limits]") {
  const fs::path own = own_group();
  if (own.empty()) return;
  // The kernel itself lets groups with a word on the CPU alone be made beside processes, which nobody can join then.
  const bool memory = GENERATE(true, false);
  const ControlGroups::Controller controller = memory ? ControlGroups::memory : ControlGroups::cpu;
  const fs::path unit = own / ("test-unit-" + std::to_string(::getpid()));
  REQUIRE(fs::create_directory(unit));
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  const pid_t other = ::fork();
  if (other == 0) {
    join(unit);
    static_cast<void>(!::write(writer.get(), "r", 1));
    ::alarm(300);
    for (;;) ::pause();
  }
  writer.reset();
  char ready = 0;
  CHECK(::read(reader.get(), &ready, 1) == 1);
  // What a process says that has been started in this group, as the bits of its exit code.
  const auto started_there = [&] {
    const pid_t gateway = ::fork();
    if (gateway == 0) {
      int said = 1;
      try {
        join(unit);
        ControlGroups groups;
        const std::string why = groups.why_not(controller);
        if (why.empty()) said |= 2;
        if (why.find("other processes share the control group " + unit.native()) != std::string::npos) said |= 4;
        const std::string now = "0::" + unit.native().substr(std::string("/sys/fs/cgroup").size());
        const std::string text = content_of("/proc/self/cgroup");
        if (text.find(now + "\n") != std::string::npos) said |= 8;
        if (text.find(now + "/cwsandbox-gateway\n") != std::string::npos) said |= 16;
        // Whoever it starts, or it itself when it looks again, has come to the same place.
        if (why.empty() && ControlGroups().why_not(controller).empty()) said |= 32;
        if (why.empty()) {
          GroupLimits limits;
          if (memory) limits.memory = 64u << 20;
          if (!memory) limits.cpu_request = 1000;
          const auto made = groups.make(limits);
          if (::write(made->doors().front().get(), "0", 1) == 1) said |= 64;
          join(unit / "cwsandbox-gateway");
        }
      } catch (...) {
        said = 0;
      }
      ::_exit(said);
    }
    int status = 0;
    ::waitpid(gateway, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  };
  CHECK(started_there() == (1 | 4 | 8));
  CHECK(content_of(unit / "cgroup.procs") == std::to_string(other) + "\n");
  ::kill(other, SIGKILL);
  CHECK(::waitpid(other, nullptr, 0) == other);
  CHECK(started_there() == (1 | 2 | 16 | 32 | 64));
  fs::remove(unit / "cwsandbox-gateway");
  CHECK(fs::remove(unit));
}

TEST_CASE("a sandbox's group is gone when the sandbox is", "[runner][limits]") {
  if (!can_limit(ControlGroups::memory)) return;
  REQUIRE(groups_of(::getpid()).empty());
  asio::io_context loop;
  const auto runner = make_local_runner(loop.get_executor());
  {
    const auto stopped = run(loop, runner->create(spec_with(memory_of(64u << 20))));
    const auto killed = run(loop, runner->create(spec_with(memory_of(64u << 20))));
    CHECK(groups_of(::getpid()).size() == 2);
    run(loop, stopped->stop(std::chrono::milliseconds(100)));
    CHECK(groups_of(::getpid()).size() == 1);
  }
  run_until(loop, [&] { return loop.stopped(); });
  CHECK(groups_of(::getpid()).empty());
  // Nor does a program that cannot be run leave one.
  auto spec = spec_with(memory_of(64u << 20));
  spec.command = {"/no/such/program"};
  CHECK_THROWS_AS(run(loop, runner->create(spec)), runner::StartFailed);
  CHECK(groups_of(::getpid()).empty());
  {
    asio::io_context short_lived;
    const auto another = make_local_runner(short_lived.get_executor());
    const auto sandbox = run(short_lived, another->create(spec_with(memory_of(64u << 20))));
    CHECK(groups_of(::getpid()).size() == 1);
  }
  CHECK(groups_of(::getpid()).empty());
}

TEST_CASE("a group that was given up with somebody in it is gone when the next one is made", "[runner][limits]") {
  if (!can_limit(ControlGroups::memory)) return;
  ControlGroups groups;
  REQUIRE(groups.why_not(ControlGroups::memory).empty());
  GroupLimits limits;
  limits.memory = 64u << 20;
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  pid_t inside = -1;
  {
    const auto group = groups.make(limits);
    inside = ::fork();
    if (inside == 0) {
      const bool joined = ::write(group->doors().front().get(), "0", 1) == 1;
      static_cast<void>(!::write(writer.get(), joined ? "j" : "-", 1));
      ::alarm(300);
      for (;;) ::pause();
    }
    char said = 0;
    CHECK(::read(reader.get(), &said, 1) == 1);
    CHECK(said == 'j');
    CHECK_FALSE(group->remove());
  }
  CHECK(groups_of(::getpid()).size() == 1);
  ::kill(inside, SIGKILL);
  CHECK(::waitpid(inside, nullptr, 0) == inside);
  const auto deadline = std::chrono::steady_clock::now() + kHang;
  // Each is gone with its own end, so that what stays can only be the first.
  const auto gone = [&] {
    static_cast<void>(groups.make(limits));
    return groups_of(::getpid()).empty();
  };
  bool all_gone = gone();
  while (!all_gone && std::chrono::steady_clock::now() < deadline) all_gone = gone();
  CHECK(all_gone);
}

TEST_CASE("what a killed gateway leaves of groups, the next one removes", "[runner][limits]") {
  if (!can_limit(ControlGroups::memory)) return;
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  const pid_t gateway = ::fork();
  if (gateway == 0) {
    try {
      asio::io_context loop;
      LocalRunnerOptions options;
      options.limits.cpu_share = 1000;  // with an owner's group around it
      const auto runner = make_local_runner(loop.get_executor(), options);
      SandboxSpec spec = spec_with(memory_of(64u << 20));
      spec.owner = "somebody";
      const auto sandbox = run(loop, runner->create(std::move(spec)));
      static_cast<void>(!::write(writer.get(), "r", 1));
      ::alarm(300);
      for (;;) ::pause();
    } catch (...) {
    }
    ::_exit(1);
  }
  writer.reset();
  char ready = 0;
  const bool came_up = ::read(reader.get(), &ready, 1) == 1;
  const std::size_t while_alive = groups_of(gateway).size();
  // It lives: its groups are nobody else's to remove.
  static_cast<void>(ControlGroups());
  CHECK(groups_of(gateway).size() == while_alive);
  ::kill(gateway, SIGKILL);
  REQUIRE(::waitpid(gateway, nullptr, 0) == gateway);
  REQUIRE(came_up);
  CHECK(while_alive >= (can_limit(ControlGroups::cpu) ? 2u : 1u));
  const auto deadline = std::chrono::steady_clock::now() + kHang;
  while (!groups_of(gateway).empty() && std::chrono::steady_clock::now() < deadline) {
    static_cast<void>(ControlGroups());  // what every runner begins with; the sandbox may still be ending
    ::poll(nullptr, 0, 10);
  }
  CHECK(groups_of(gateway).empty());
}

TEST_CASE("without control groups a limit that is asked for is refused, and one that is not is said once", "[runner][limits]") {
  // A kernel's view in which this process has none.
  char directory[] = "/tmp/cwsandbox-proc-XXXXXX";
  REQUIRE(::mkdtemp(directory) != nullptr);
  const fs::path proc = directory;
  fs::create_directories(proc / "self");
  const auto write = [](const fs::path& path, const std::string& text) { std::ofstream(path) << text; };
  write(proc / "self/cgroup", "0::/\n");
  write(proc / "self/mountinfo", "30 22 0:27 / /nowhere rw - tmpfs tmpfs rw\n");
  ControlGroups none(proc);
  CHECK_THAT(none.why_not(ControlGroups::memory),
             Catch::Matchers::Contains("no controller 'memory'") && Catch::Matchers::Contains("Delegate=yes"));

  // Version 2, whose files cannot be written; a path with a space, below the mount's root.
  const fs::path mount = proc / "the mount";
  fs::create_directories(mount / "unit");
  std::string shown = mount.native();
  shown.replace(shown.find(' '), 1, "\\040");
  write(proc / "self/cgroup", "0::/slice/unit\n");
  write(proc / "self/mountinfo", "30 22 0:27 /slice " + shown + " rw - cgroup2 cgroup2 rw\n");
  write(mount / "unit/cgroup.controllers", "cpu memory\n");
  ControlGroups bare(proc);
  CHECK_THAT(bare.why_not(ControlGroups::memory), Catch::Matchers::Contains("cgroup.subtree_control"));
  CHECK_THAT(bare.why_not(ControlGroups::pids), Catch::Matchers::Contains("no controller 'pids'"));
  write(mount / "unit/cgroup.subtree_control", "cpu memory\n");
  // A directory that is no control group: nothing appears in what is made there.
  ControlGroups fake(proc);
  CHECK_THAT(fake.why_not(ControlGroups::memory), Catch::Matchers::Contains("memory.max"));
  CHECK(std::distance(fs::directory_iterator(mount / "unit"), fs::directory_iterator()) == 2);
  fs::remove_all(proc);
}

}  // namespace cwsandbox::test
