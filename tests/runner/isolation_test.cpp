// What a local sandbox must not be able to see or do.
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <sstream>

#include "room.hpp"
#include "runner/local/child.hpp"
#include "support/catch.hpp"

namespace cwsandbox::test {

namespace fs = std::filesystem;

namespace {

bool has_python(Room& in) { return in("command -v python3").exit.value == 0; }

}  // namespace

TEST_CASE("a process has exactly three descriptors open, and no terminal", "[runner][isolation]") {
  // A descriptor of the program's own that nobody marked close-on-exec.
  const runner::local::UniqueFd leaky(::dup(2));
  REQUIRE(static_cast<bool>(leaky));
  Room in;
  // The loop is the shell's own, and has no pattern to expand: nothing that would open anything.
  const Outcome outcome = in("i=0; while [ $i -lt 1100 ]; do [ -e /proc/$$/fd/$i ] && echo $i; i=$((i+1)); done");
  std::set<std::string> fds = lines_of(outcome.out);
  CHECK(fds == std::set<std::string>{"0", "1", "2"});
  CHECK(in("echo x >/dev/tty").exit.value != 0);
  CHECK(in("readlink /proc/$$/fd/0").out == "/dev/null\n");
}

TEST_CASE("a process has no privileges and can get none", "[runner][isolation]") {
  Room in;
  const std::set<std::string> status = lines_of(in("cat /proc/self/status").out);
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"})
    CHECK(status.count(std::string(set) + ":\t0000000000000000") == 1);
  CHECK(status.count("NoNewPrivs:\t1") == 1);
  CHECK(status.count("Uid:\t1000\t1000\t1000\t1000") == 1);
  CHECK(status.count("Gid:\t1000\t1000\t1000\t1000") == 1);
  for (const std::string& line : status) {
    if (line.starts_with("SigBlk:") || line.starts_with("SigIgn:")) CHECK(line.ends_with("\t0000000000000000"));
  }
  CHECK(in("id -un; hostname").out == "sandbox\nsandbox\n");
  CHECK(in("unshare -U true").exit.value != 0);
  // On the host's side it is never root.
  std::istringstream map(in("cat /proc/self/uid_map").out);
  std::string inside, outside, count;
  map >> inside >> outside >> count;
  CHECK(inside == "1000");
  CHECK(count == "1");
}

TEST_CASE("even under root, a sandbox is not root", "[runner][isolation]") {
  if (::geteuid() != 0 || runner::local::try_to_become(65534, 65534).error != 0) {
    WARN("SKIPPED: this is not root, or a root that cannot change users");
    return;
  }
  Room in;
  Room other;
  const std::string marker = "4242" + std::to_string(::getpid());
  // It says so when its command line can be seen.
  const auto process = run(in.loop, in.sandbox->start(command(sh("echo ready; read x < /dev/zero # " + marker))));
  REQUIRE(run(in.loop, read_line(process->std_out())) == "ready");
  bool found = false;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string line = content_of(entry.path() / "cmdline");
    if (line.find(marker) == std::string::npos || !line.starts_with("/bin/sh")) continue;
    found = true;
    const std::string text = content_of(entry.path() / "status");
    const std::size_t at = text.find("Uid:\t") + 5;
    std::istringstream uids(text.substr(at, text.find('\n', at) - at));
    std::set<unsigned> users;
    for (unsigned uid = 0; uids >> uid;) users.insert(uid);
    REQUIRE(users.size() == 1);
    CHECK(*users.begin() != 0);
    // One of its own, where there are that many.
    const runner::local::LocalRunnerOptions standard;
    const unsigned last = standard.first_own_uid + standard.own_uids - 1;
    const bool own = runner::local::try_to_become(last, standard.gid).error == 0;
    CHECK((*users.begin() == 65534) != own);
    CHECK((*users.begin() >= standard.first_own_uid && *users.begin() <= last) == own);
    CHECK((user_of(in) != user_of(other)) == own);
    CHECK(text.find("Gid:\t65534\t65534\t65534\t65534\n") != std::string::npos);
    CHECK(text.find("Groups:\t \n") != std::string::npos);
  }
  CHECK(found);
}

TEST_CASE("a sandbox whose user is the gateway's changes nothing of the machine's", "[runner][isolation][one-user]") {
  runner::local::LocalRunnerOptions options;
  std::vector<std::string> said;
  options.log = [&said](const std::string& line) { said.push_back(line); };
  Room in(options);
  // Opened only: where that goes, the machine is not to be changed by a test.
  for (const char* path : {"/proc/sys/kernel/core_pattern", "/proc/sys/vm/swappiness", "/proc/sys/fs/file-max"}) {
    INFO(path);
    CHECK(in(std::string("(: >>") + path + ")").exit.value != 0);
  }
  // A root that cannot become somebody else is said to be what sandboxes run as, when it is the machine's own.
  struct stat status{};
  REQUIRE(::stat("/proc/sys", &status) == 0);
  const bool as_root = status.st_uid == ::geteuid() && (::geteuid() != 0 || runner::local::try_to_become(65534, 65534).error != 0);
  const auto says = [](const std::string& line) { return line.find("root's user id") != std::string::npos; };
  CHECK(std::any_of(said.begin(), said.end(), says) == as_root);
  CHECK(in("echo kept >/tmp/f && stat -c '%u %g' /tmp/f").out == "1000 1000\n");
}

TEST_CASE("the host's files are not there", "[runner][isolation]") {
  Room in;
  CHECK(lines_of(in("ls -A /home").out) == std::set<std::string>{"sandbox"});
  for (const char* path : {"/root", "/etc/shadow", "/etc/ssh", "/sys", "/boot", "/var/lib", "/mnt", "/media", "/srv",
                           "/var/run/docker.sock", "/run/systemd"}) {
    INFO(path);
    CHECK(in(std::string("test -e ") + path).exit.value == 1);
  }
  CHECK(in("ls -A /tmp /workspace /var/tmp /run /home/sandbox | grep -v : | grep .").out.empty());
  // Any top-level folder that is not part of a system is the host's own.
  const std::set<std::string> allowed = {"bin",  "dev", "etc",  "home", "lib", "lib32", "lib64",    "libx32",
                                         "proc", "run", "sbin", "tmp",  "usr", "var",   "workspace"};
  for (const std::string& name : lines_of(in("ls -A /").out)) {
    INFO(name);
    CHECK(allowed.count(name) == 1);
  }
  for (const char* place : {"/", "/usr", "/etc", "/dev", "/etc/passwd", "/usr/bin/env"}) {
    INFO(place);
    CHECK(in(std::string("if [ -d ") + place + " ]; then touch " + place + "/x; else echo >> " + place + "; fi").exit.value != 0);
  }
  CHECK(in("cat /etc/resolv.conf").out.empty());
  CHECK(in("for d in /tmp /workspace /home/sandbox /var/tmp /run /dev/shm; do echo x > $d/x && cat $d/x || exit 1; done").out ==
        "x\nx\nx\nx\nx\nx\n");
  CHECK(in("pwd; echo $HOME").out == "/workspace\n/home/sandbox\n");
}

TEST_CASE("writable places are bounded", "[runner][isolation]") {
  asio::io_context loop;
  runner::local::LocalRunnerOptions options;
  options.limits.disk = 1 << 20;
  const auto runner = runner::local::make_local_runner(loop.get_executor(), options);
  auto sandbox = run(loop, runner->create(sandbox_spec()));
  const Outcome outcome =
      run(loop, exec_sh(*sandbox,
                        "for d in /tmp /workspace /home/sandbox /var/tmp /run /dev/shm; do head -c 2M /dev/zero > $d/x "
                        "&& echo $d; done 2>/dev/null"));
  CHECK(outcome.out.empty());
}

TEST_CASE("the host's processes, sockets and network are not there", "[runner][isolation]") {
  char directory[] = "/tmp/cwsandbox-test-XXXXXX";
  REQUIRE(::mkdtemp(directory) != nullptr);
  const std::string path = std::string(directory) + "/socket";
  const runner::local::UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  REQUIRE(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  {
    Room in;
    CHECK(in("test -e " + path).exit.value == 1);
    CHECK(in("kill -0 " + std::to_string(::getpid()) + " && cat /proc/" + std::to_string(::getpid()) + "/environ").exit.value != 0);
    // The first process is the agent; its name is all that can be seen of it.
    CHECK(in("cat /proc/1/comm").out == "cwsandbox-agent\n");
    CHECK(in("grep -c : /proc/net/dev").out == "1\n");  // the loopback device
    CHECK(in("kill -KILL 1; kill -STOP 1; kill -TERM 1; echo alive").out == "alive\n");
    CHECK(in("echo still").out == "still\n");
  }
  fs::remove_all(directory);
}

TEST_CASE("the agent cannot be looked into", "[runner][isolation]") {
  Room in;
  for (const char* file : {"fd", "environ", "mem", "maps", "exe", "cwd", "root"}) {
    INFO(file);
    const std::string path = std::string("/proc/1/") + file;
    CHECK(in("cat " + path + " || ls " + path + "/").out.empty());
  }
  CHECK(in("ls -l /proc/1/fd/").exit.value != 0);
  if (has_python(in)) {
    const Outcome outcome =
        in("python3 -c 'import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.ptrace(16, 1, 0, 0), ctypes.get_errno());"
           " print(c.syscall(438, c.syscall(434, 1, 0), 3, 0), ctypes.get_errno())'");
    CHECK(outcome.out == "-1 1\n-1 1\n");  // PTRACE_ATTACH and pidfd_getfd: EPERM
  }
}

TEST_CASE("the environment is minimal and never the gateway's", "[runner][isolation]") {
  ::setenv("CWSANDBOX_TEST_SECRET", "of-the-gateway", 1);
  {
    Room in;
    CHECK(in("tr '\\0' '\\n' < /proc/1/environ").out.find("of-the-gateway") == std::string::npos);
    auto spec = command({});
    spec.command.emplace_back("env");
    std::set<std::string> names;
    for (const std::string& line : lines_of(run(in.loop, exec(*in.sandbox, spec)).out))
      names.insert(line.substr(0, line.find('=')));
    CHECK(names == std::set<std::string>{"HOME", "LANG", "LOGNAME", "PATH", "PWD", "SHELL", "USER"});
  }
  ::unsetenv("CWSANDBOX_TEST_SECRET");
}

TEST_CASE("no zombies are left in the sandbox", "[runner]") {
  Room in;
  // Orphans that end after their parents.
  CHECK(in("for i in 1 2 3 4 5 6 7 8; do (sleep 0.0$i &) ; done; (sh -c 'true &' &)").exit.value == 0);
  // Only what is alive shows, or is about to be reaped: wait until the agent has.
  CHECK(in("while cat /proc/[0-9]*/stat 2>/dev/null | grep -q ') Z '; do sleep 0.01; done; echo none").out == "none\n");
}

TEST_CASE("ordinary programs work", "[runner]") {
  Room in;
  CHECK(in("printf 'b\\na\\n' | sort | tr a-z A-Z").out == "A\nB\n");
  CHECK(in("getent passwd sandbox | cut -d: -f6; getent hosts localhost | grep -c localhost").out == "/home/sandbox\n1\n");
  if (has_python(in)) {
    CHECK(in("python3 -c 'import ssl, sqlite3, multiprocessing as m; q = m.Queue(); q.put(4); print(q.get())'").out == "4\n");
  }
}

}  // namespace cwsandbox::test
