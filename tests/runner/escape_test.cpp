// Hostile programs in real sandboxes: each tries to get out, or to reach what is not its own, and must not. docs/security.md names
// these tests.
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <csignal>
#include <cstring>
#include <fstream>
#include <map>

#include "room.hpp"
#include "runner/local/child.hpp"
#include "support/catch.hpp"

namespace cwsandbox::test {

namespace fs = std::filesystem;
using runner::ExitInfo;
using runner::local::UniqueFd;

namespace {

template <class... Numbers>
std::string call(Room& in, long call, Numbers... arguments) {
  return in.hostile("call", std::to_string(call), std::to_string(arguments)...).out;
}

bool is_there(Room& in, const std::string& program) { return in("command -v " + program).exit.value == 0; }

std::vector<pid_t> children_of(pid_t pid) {
  std::vector<pid_t> all;
  for (const auto& task : fs::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
    std::istringstream text(content_of(task.path() / "children"));
    for (pid_t child = 0; text >> child;) all.push_back(child);
  }
  return all;
}

std::map<int, std::string> descriptors_of(pid_t pid) {
  std::map<int, std::string> all;
  for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string(pid) + "/fd")) {
    std::error_code closed_meanwhile;
    const fs::path target = fs::read_symlink(entry.path(), closed_meanwhile);
    if (!closed_meanwhile) all[std::atoi(entry.path().filename().c_str())] = target.native();
  }
  return all;
}

// Something of the host's that listens, at an address that `make` fills in.
struct Listener {
  template <class Address, class Make>
  Listener(Address& address, socklen_t size, Make make) : fd(::socket(make(address), SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    auto* any = reinterpret_cast<sockaddr*>(&address);
    REQUIRE(::bind(fd.get(), any, size) == 0);
    REQUIRE(::listen(fd.get(), 8) == 0);
    REQUIRE(::getsockname(fd.get(), any, &size) == 0);
  }
  UniqueFd fd;
};

}  // namespace

// ---- System calls ----

TEST_CASE("both filters bind every process of a sandbox, the agent too", "[runner][escape][seccomp]") {
  Room in;
  for (const char* process : {"self", "1"}) {
    const std::set<std::string> status = lines_of(in(std::string("cat /proc/") + process + "/status").out);
    CHECK(status.count("Seccomp:\t2") == 1);
    CHECK(status.count("Seccomp_filters:\t2") == 1);
    CHECK(status.count("NoNewPrivs:\t1") == 1);
  }
}

TEST_CASE("what only an administrator asks of the kernel is not permitted", "[runner][escape][seccomp]") {
  Room in;
  for (const long number : {SYS_mount,         SYS_umount2,         SYS_pivot_root,     SYS_chroot,      SYS_setns,
                            SYS_bpf,           SYS_perf_event_open, SYS_kexec_load,     SYS_init_module, SYS_finit_module,
                            SYS_delete_module, SYS_swapon,          SYS_swapoff,        SYS_reboot,      SYS_settimeofday,
                            SYS_clock_settime, SYS_adjtimex,        SYS_acct,           SYS_quotactl,    SYS_open_by_handle_at,
                            SYS_syslog,        SYS_sethostname,     SYS_setdomainname,  SYS_vhangup,     SYS_pidfd_getfd,
                            SYS_fanotify_init,
#ifdef __x86_64__
                            SYS_iopl,          SYS_ioperm,          SYS_kexec_file_load
#endif
       }) {
    INFO(number);
    CHECK(call(in, number, 10, 0, 0) == "-1 EPERM\n");
  }
}

TEST_CASE("what ordinary programs do not need is as on a kernel that lacks it", "[runner][escape][seccomp]") {
  Room in;
  for (const long number : {long{SYS_clone3},
                            long{SYS_keyctl},
                            long{SYS_add_key},
                            long{SYS_request_key},
                            long{SYS_userfaultfd},
                            425l,
                            426l,
                            427l /* io_uring */,
                            428l,
                            429l,
                            430l,
                            431l,
                            432l,
                            433l,
                            442l /* mounts by descriptor */,
                            long{SYS_kcmp},
                            long{SYS_move_pages},
                            long{SYS_migrate_pages},
                            long{SYS_mbind},
                            440l,
                            447l,
                            448l,
#ifdef __x86_64__
                            long{SYS_modify_ldt},
                            long{SYS_uselib},
                            long{SYS_ustat},
                            long{SYS_sysfs},
#endif
                            long{SYS_io_setup},
                            long{SYS_io_submit},
                            470l,
                            600l,
                            9999l}) {
    INFO(number);
    CHECK(call(in, number, 0, 0, 0) == "-1 ENOSYS\n");
  }
}

TEST_CASE("no namespace can be made, in whatever way it is asked for", "[runner][escape][seccomp]") {
  Room in;
  for (const long flag : {CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET}) {
    INFO(flag);
    CHECK(in.hostile("clone", std::to_string(flag)).out == "-1 EPERM\n");
    CHECK(in.hostile("clone", std::to_string(flag | 0x700000000)).out == "-1 EPERM\n");
    CHECK(call(in, SYS_unshare, flag) == "-1 EPERM\n");
    CHECK(call(in, SYS_unshare, flag | CLONE_FS) == "-1 EPERM\n");
  }
  CHECK(call(in, SYS_unshare, 0x80 /* CLONE_NEWTIME */) == "-1 EPERM\n");
  // What has no namespace in it works.
  CHECK(in.hostile("clone", "0").out == "0 -\n");
  CHECK(call(in, SYS_unshare, CLONE_FS | CLONE_FILES) == "0 -\n");
}

TEST_CASE("a program of another architecture ends at its first call", "[runner][escape][seccomp]") {
#ifdef __x86_64__
  Room in;
  const auto killed = [](const Outcome& outcome) {
    return outcome.exit.kind == ExitInfo::Kind::signaled && outcome.out.empty() &&
           // By the filter, or by a kernel that has not even the way in.
           (outcome.exit.value == SIGSYS || outcome.exit.value == SIGSEGV);
  };
  CHECK(killed(in.hostile("int80")));
  CHECK(killed(in.hostile("call", std::to_string(0x40000000 | SYS_getpid))));
#endif
}

TEST_CASE("only the families of sockets that stay in the sandbox can be had", "[runner][escape][seccomp][network]") {
  Room in;
  for (const long family : {long{AF_VSOCK}, long{AF_PACKET}, long{AF_ALG}, long{AF_KEY}, long{AF_BLUETOOTH}, long{AF_CAN},
                            long{AF_TIPC}, long{AF_RDS}, long{AF_NFC}, 44l /* XDP */, AF_VSOCK | 0x100000000}) {
    INFO(family);
    CHECK(call(in, SYS_socket, family, SOCK_STREAM, 0) == "-1 EAFNOSUPPORT\n");
    CHECK(call(in, SYS_socketpair, family, SOCK_STREAM, 0) == "-1 EAFNOSUPPORT\n");
  }
  for (const long protocol : {4, 6, 9, 12, 16}) {  // sock_diag, xfrm, audit, netfilter, generic
    INFO(protocol);
    CHECK(call(in, SYS_socket, AF_NETLINK, SOCK_RAW, protocol) == "-1 EPROTONOSUPPORT\n");
  }
  CHECK(call(in, SYS_socket, AF_INET, SOCK_RAW, 1) == "-1 EPERM\n");
  for (const long family : {AF_UNIX, AF_INET, AF_NETLINK}) CHECK(call(in, SYS_socket, family, SOCK_DGRAM, 0) == "3 -\n");
}

TEST_CASE("a program cannot make its memory executable behind its back", "[runner][escape][seccomp]") {
  Room in;
  CHECK(call(in, SYS_personality, READ_IMPLIES_EXEC) == "-1 ENOSYS\n");
  CHECK(call(in, SYS_personality, MMAP_PAGE_ZERO) == "-1 ENOSYS\n");
  CHECK(call(in, SYS_personality, READ_IMPLIES_EXEC | 0x100000000) == "-1 ENOSYS\n");
  CHECK(call(in, SYS_personality, 0xffffffff).ends_with(" -\n"));
  CHECK(call(in, SYS_personality, ADDR_NO_RANDOMIZE).ends_with(" -\n"));
}

TEST_CASE("nothing can be typed into a terminal", "[runner][escape][seccomp]") {
  Room in;
  run(in.loop, put_hostile(*in.sandbox, kHostile));
  auto spec = command({kHostile, "tiocsti"});
  spec.tty = true;
  const Outcome outcome = run(in.loop, exec(*in.sandbox, spec));
  CHECK(outcome.out == "-1 EPERM\r\n-1 EPERM\r\n-1 EPERM\r\n");
}

TEST_CASE("ordinary programs know nothing of the filters", "[runner][seccomp]") {
  Room in;
  const auto works = [&in](const std::string& script) {
    const Outcome outcome = in("cd /workspace && exec 2>&1; " + script);
    INFO(script << "\n" << outcome.out);
    CHECK(outcome.exit.kind == ExitInfo::Kind::exited);
    CHECK(outcome.exit.value == 0);
  };
  if (is_there(in, "bash")) works("bash -c 'set -o pipefail; x=$(seq 1000 | sort -R | sort -n | tail -1); [ $x = 1000 ] && wait'");
  works("mkdir t && seq 9 >t/a && tar -czf t.tgz t && tar -tzf t.tgz | grep -q t/a");
  if (is_there(in, "python3")) {
    works(
        "python3 -c 'import threading, subprocess, multiprocessing as m, socket, asyncio, os\n"
        "t = [threading.Thread(target=lambda: None) for _ in range(50)]\n"
        "[x.start() for x in t]; [x.join() for x in t]\n"
        "assert subprocess.check_output([\"echo\", \"x\"]) == b\"x\\n\"\n"
        "s = socket.socket(); s.bind((\"127.0.0.1\", 0)); s.listen(); socket.create_connection(s.getsockname())\n"
        "asyncio.run(asyncio.sleep(0)); os.sched_getaffinity(0); socket.if_nameindex()\n"
        "assert m.get_context(\"fork\").Pool(2).map(abs, [-1]) == [1]'");
  }
  if (is_there(in, "perl")) works("perl -e 'fork // die; wait; print qx(echo x)'");
  if (is_there(in, "git")) {
    works(
        "git init -q r && cd r && echo x >f && git add f && git -c user.name=n -c user.email=e commit -qm m && git gc -q && git "
        "log --oneline");
  }
  if (is_there(in, "node"))
    works(
        "node -e 'require(\"fs\").readFile(\"/etc/passwd\", (e) => { new (require(\"worker_threads\").Worker)(\"1\", {eval: "
        "true}).on(\"exit\", process.exit) })'");
  if (is_there(in, "gcc")) {
    works(
        "printf '#include <pthread.h>\\nvoid* f(void* x) { return x; }\\nint main(void) { pthread_t t; return pthread_create(&t, "
        "0, f, 0) "
        "|| pthread_join(t, 0); }\\n' >p.c && gcc -g -pthread -o p p.c && ./p");
    if (is_there(in, "gdb"))
      works("gdb -nx -batch -ex 'break f' -ex run -ex bt -ex continue ./p | tee gdb.out; grep -q 'exited normally' gdb.out");
    if (is_there(in, "strace")) works("strace -f -o trace ./p && grep -q exit_group trace");
  }
}

// ---- The host's processes, and the agent ----

TEST_CASE("whoever kills everybody kills nobody outside", "[runner][escape]") {
  Room neighbour;
  Room in;
  const auto process = run(neighbour.loop, neighbour.sandbox->start(command({"cat"})));
  const Outcome outcome = in("kill -KILL -1; i=1; while [ $i -lt 500 ]; do kill -KILL $i; i=$((i+1)); done; kill -KILL 1; echo x");
  // The shell that did it is gone, and the main command with it; the agent said so, which it could not have done dead.
  CHECK(outcome.exit.kind != ExitInfo::Kind::exited);
  const ExitInfo end = run(in.loop, wait_exit(*in.sandbox));
  CHECK(end.kind == ExitInfo::Kind::signaled);
  CHECK(end.value == SIGKILL);
  CHECK(run(neighbour.loop, exec_sh(*neighbour.sandbox, "echo alive")).out == "alive\n");
}

TEST_CASE("the agent cannot be traced, read or stopped", "[runner][escape]") {
  Room in;
  CHECK(call(in, SYS_ptrace, 16 /* ATTACH */, 1) == "-1 EPERM\n");
  CHECK(call(in, SYS_ptrace, 0x4206 /* SEIZE */, 1) == "-1 EPERM\n");
  CHECK(call(in, SYS_process_vm_readv, 1, 0, 0, 0, 0) != "-1 ENOSYS\n");  // it is there, for debuggers, ...
  // Limits and place in the queue of the agent are not a program's; its own are.
  CHECK(call(in, SYS_prlimit64, 1, RLIMIT_NOFILE, 0, 0) == "-1 EPERM\n");
  CHECK(call(in, SYS_prlimit64, 0x100000001, RLIMIT_NOFILE, 0, 0) == "-1 EPERM\n");  // the kernel looks at the lower half alone
  CHECK(call(in, SYS_prlimit64, 0, RLIMIT_NOFILE, 0, 0) == "0 -\n");
  for (const long number : {SYS_sched_setaffinity, SYS_sched_setattr, SYS_sched_setparam, SYS_sched_setscheduler}) {
    INFO(number);
    CHECK(call(in, number, 1, 0, 0) == "-1 EPERM\n");
  }
  CHECK(call(in, SYS_setpriority, PRIO_PROCESS, 1, 19) == "-1 EPERM\n");
  CHECK(call(in, SYS_setpriority, PRIO_PROCESS, 0, 19) == "0 -\n");
  CHECK(call(in, SYS_ioprio_set, 1, 1, 0) == "-1 EPERM\n");
  CHECK(in("cat /proc/1/mem").exit.value != 0);
  for (const char* file : {"environ", "maps", "mem", "auxv", "syscall", "stack", "fd/3", "fdinfo/3", "root/etc/passwd", "cwd/etc",
                           "exe", "ns/mnt", "map_files"}) {
    INFO(file);
    CHECK(in(std::string("head -c1 /proc/1/") + file + " >/dev/null || ls /proc/1/" + file + "/ || exit 7").exit.value == 7);
  }
  CHECK(in("kill -STOP 1; kill -KILL 1; kill -SEGV 1; echo alive").out == "alive\n");
  CHECK(in("echo alive").out == "alive\n");
}

TEST_CASE("every descriptor of the agent and of bubblewrap has its reason", "[runner][escape]") {
  if (::geteuid() != 0 || runner::local::try_to_become(65534, 65534).error != 0) {
    WARN("SKIPPED: only root can look into the agent");
    return;
  }
  // Of the program's own, which nobody marked close-on-exec.
  const UniqueFd leaky(::dup(2));
  REQUIRE(static_cast<bool>(leaky));
  Room in;
  const std::vector<pid_t> monitors = children_of(::getpid());
  REQUIRE(monitors.size() == 1);
  const std::vector<pid_t> agents = children_of(monitors.front());
  REQUIRE(agents.size() == 1);
  // The agent closes its ends of the main command's pipes after it has told that it runs.
  std::map<int, std::string> agent;
  const auto deadline = std::chrono::steady_clock::now() + kHang;
  do {
    agent = descriptors_of(agents.front());
  } while (agent.size() > 6 && std::chrono::steady_clock::now() < deadline);
  std::set<int> numbers;
  for (const auto& [number, target] : agent) {
    INFO(number << " " << target);
    numbers.insert(number);
    if (number <= 2) CHECK(target == "/dev/null");
    if (number == 3) CHECK(target.starts_with("socket:["));      // to the gateway
    if (number == 4) CHECK(target == "anon_inode:[pidfd]");      // of the gateway, to end with it
    if (number == 5) CHECK(target.ends_with("/oom_score_adj"));  // its own
  }
  CHECK(numbers == std::set<int>{0, 1, 2, 3, 4, 5});
  // Outside the sandbox, and nothing in it can reach it. It waits for the agent.
  for (const auto& [number, target] : descriptors_of(monitors.front())) {
    INFO(number << " " << target);
    const bool known = target == "/dev/null" || target.starts_with("pipe:[") || target == "anon_inode:[eventfd]" ||
                       target == "anon_inode:[signalfd]" || target == "anon_inode:[pidfd]" || target.starts_with("socket:[") ||
                       target.starts_with("/memfd:cwsandbox-");
    CHECK(known);
  }
}

TEST_CASE("a sandbox goes before the host when memory runs out", "[runner][escape]") {
  Room in;
  const int own = std::stoi(content_of("/proc/self/oom_score_adj"));
  const int theirs = std::stoi(in("cat /proc/self/oom_score_adj").out);
  // The agent and bubblewrap are the last of it, a program that is started there the first.
  CHECK(theirs == std::min(1000, own + 600));
  // It can go back, but not before the gateway itself.
  CHECK(in("echo " + std::to_string(std::max(-1000, own - 1)) + " >/proc/self/oom_score_adj").exit.value != 0);
}

// ---- Files ----

TEST_CASE("neither /proc nor /sys gives the kernel's inside or the host's", "[runner][escape]") {
  Room in;
  CHECK(in("ls /sys").exit.value != 0);
  // Only what is of a process can be written at all.
  const std::string found =
      in("find /proc -xdev \\( -path '/proc/[0-9]*' -o -path /proc/self -o -path /proc/thread-self \\) -prune -o -type f -writable "
         "-print 2>/dev/null")
          .out;
  // The settings of the sandbox's own IPC and PID namespaces are its user's; all else is the host's.
  const std::set<std::string> own =
      lines_of(in("ls -d /proc/sys/fs/mqueue/* /proc/sys/kernel/msg* /proc/sys/kernel/sem* /proc/sys/kernel/shm* "
                  "/proc/sys/kernel/auto_msgmni /proc/sys/kernel/pid_max")
                   .out);
  for (const std::string& path : lines_of(found)) {
    INFO(path);
    // What stands there, lest a test that fails changes the machine.
    CHECK((own.contains(path) || in("v=$(head -n 1 " + path + "); echo \"$v\" >" + path).exit.value != 0));
  }
  const std::string most = content_of("/proc/sys/kernel/pid_max");
  in("echo $(($(cat /proc/sys/kernel/pid_max) + 1)) >/proc/sys/kernel/pid_max");
  CHECK(content_of("/proc/sys/kernel/pid_max") == most);
  if (const std::string host = content_of("/proc/sys/kernel/msgmax"); !host.empty()) {
    in("echo 4242 > /proc/sys/kernel/msgmax");
    CHECK(content_of("/proc/sys/kernel/msgmax") == host);
  }
  for (const char* path :
       {"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches",
        "/proc/sys/fs/binfmt_misc/register", "/proc/sys/kernel/hostname", "/proc/sys/user/max_user_namespaces"}) {
    INFO(path);
    CHECK(in(std::string("(: >>") + path + ")").exit.value != 0);
  }
  for (const char* path : {"/proc/kcore", "/proc/kmsg", "/proc/kpageflags", "/proc/kallsyms"}) {
    INFO(path);
    // Where there are names they come without addresses.
    CHECK(in(std::string("[ ! -e ") + path + " ] || [ -z \"$(head -c 4096 " + path +
             " 2>/dev/null | grep -v '^0000000000000000 ' | head -n 1)\" ]")
              .exit.value == 0);
  }
  CHECK(in("grep cgroup /proc/self/mountinfo").out.empty());
  CHECK(in("cut -d: -f3 /proc/self/cgroup | sort -u").out.find("cwsandbox") == std::string::npos);
}

TEST_CASE("a setuid program gives no rights", "[runner][escape]") {
  Room in;
  CHECK(in.hostile("setuid", kHostile).out.starts_with("0 -\n-1 E"));
  CHECK(in.hostile("ids").out == "1000 1000 1000\n");
  // No mount of the sandbox's honours the bit at all.
  std::istringstream mounts(in("cat /proc/self/mountinfo").out);
  std::size_t count = 0;
  for (std::string line; std::getline(mounts, line); ++count) {
    INFO(line);
    CHECK(line.find("nosuid") != std::string::npos);
  }
  CHECK(count > 5);
  for (const char* program : {"/usr/bin/su", "/usr/bin/passwd", "/usr/bin/mount"}) {
    CHECK(in(std::string("[ ! -e ") + program + " ] || ! echo | " + program + " -c id | grep uid=0").exit.value == 0);
  }
}

TEST_CASE("there is no device but the harmless ones, and none can be made", "[runner][escape]") {
  Room in;
  CHECK(lines_of(in("ls -A /dev").out) == std::set<std::string>{"core", "fd", "full", "null", "ptmx", "pts", "random", "shm",
                                                                "stderr", "stdin", "stdout", "tty", "urandom", "zero"});
  for (const char* place : {"/tmp", "/dev/shm", "/workspace", "/dev"}) {
    INFO(place);
    CHECK(in(std::string("mknod ") + place + "/mem c 1 1").exit.value != 0);
    CHECK(in(std::string("mknod ") + place + "/disk b 8 0").exit.value != 0);
  }
  std::istringstream mounts(in("cat /proc/self/mountinfo").out);
  for (std::string line; std::getline(mounts, line);) {
    INFO(line);
    const std::string point = [&line] {
      std::istringstream words(line);
      std::string word;
      for (int i = 0; i < 5; ++i) words >> word;
      return word;
    }();
    const bool device = point.starts_with("/dev/");
    CHECK((device || line.find("nodev") != std::string::npos));
  }
}

TEST_CASE("a path that leads out by a link leads nowhere, however it is swapped", "[runner][escape][files]") {
  char host[] = "/tmp/cwsandbox-host-XXXXXX";
  REQUIRE(::mkdtemp(host) != nullptr);
  const std::string secret = std::string(host) + "/file";
  std::ofstream(secret) << "of the host";
  {
    Room in;
    run(in.loop, put_hostile(*in.sandbox, kHostile));
    REQUIRE(in(std::string("mkdir -p real && echo -n inside > real/file && ln -s ") + host + " out && ln -s /proc/1/root" + host +
               " agent")
                .exit.value == 0);
    for (const char* link : {"out", "agent"}) {
      INFO(link);
      const auto swapper =
          run(in.loop, in.sandbox->start(command({kHostile, "exchange", "/workspace/real", std::string("/workspace/") + link})));
      REQUIRE(run(in.loop, read_line(swapper->std_out())) == "ready");
      int read = 0, refused = 0;
      for (int i = 0; i < 300; ++i) {
        try {
          const auto reader = run(in.loop, in.sandbox->files().open("real/file"));
          std::string text(64, '\0');
          text.resize(run(in.loop, reader->read(0, asio::buffer(text))));
          CHECK(text.starts_with("inside"));
          ++read;
          runner::FileWriteSpec spec;
          spec.path = "real/file";
          const auto writer = run(in.loop, in.sandbox->files().create(spec));
          run(in.loop, writer->write(asio::buffer("inside", 6)));
          run(in.loop, writer->commit());
        } catch (const runner::RunnerError&) {
          ++refused;
        }
      }
      INFO(read << " " << refused);
      CHECK(read + refused >= 300);
      swapper->signal_group(SIGKILL);
      run(in.loop, wait_exit(*swapper));
    }
  }
  CHECK(content_of(secret) == "of the host");
  CHECK(std::distance(fs::directory_iterator(host), fs::directory_iterator()) == 1);
  fs::remove_all(host);
}

// ---- Networks and other sandboxes ----

TEST_CASE("neither the host's loopback, its abstract sockets nor anything beyond can be reached", "[runner][escape][network]") {
  sockaddr_in tcp{};
  const Listener on_loopback(tcp, sizeof tcp, [](sockaddr_in& address) {
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return AF_INET;
  });
  const std::string name = "cwsandbox-test-" + std::to_string(::getpid());
  sockaddr_un abstract{};
  const Listener on_name(abstract, static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size()),
                         [&name](sockaddr_un& address) {
                           address.sun_family = AF_UNIX;
                           name.copy(address.sun_path + 1, name.size());
                           return AF_UNIX;
                         });
  Room in;
  CHECK(in.hostile("tcp", "127.0.0.1", std::to_string(ntohs(tcp.sin_port))).out == "-1 ECONNREFUSED\n");
  CHECK(in.hostile("abstract", name).out == "-1 ECONNREFUSED\n");
  CHECK(in.hostile("tcp", "192.0.2.1", "80").out == "-1 ENETUNREACH\n");
  CHECK(in.hostile("tcp", "169.254.169.254", "80").out == "-1 ENETUNREACH\n");
  CHECK(lines_of(in("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '").out) == std::set<std::string>{"lo"});
}

TEST_CASE("sandboxes share nothing", "[runner][escape]") {
  asio::io_context loop;
  const auto runner = runner::local::make_local_runner(loop.get_executor());
  const auto one = run(loop, runner->create(sandbox_spec("one")));
  const auto other = run(loop, runner->create(sandbox_spec("other")));
  const auto in = [&loop](const std::unique_ptr<runner::Sandbox>& sandbox, const std::string& script) {
    return run(loop, exec_sh(*sandbox, script));
  };
  CHECK(in(one,
           "for d in /tmp /var/tmp /dev/shm /run /home/sandbox /workspace; do echo x > $d/mark; done; ipcmk -M 4096 >/dev/null; "
           "ipcs -m | grep -c 0x")
            .exit.value == 0);
  CHECK(in(other, "find / -xdev -name mark 2>/dev/null; ls /tmp /var/tmp /dev/shm /run /home/sandbox /workspace | grep mark")
            .out.empty());
  CHECK(in(other, "ipcs -m | grep 0x").exit.value != 0);
  // The inodes of what they live in differ, in every kind of namespace.
  const std::string script = "for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done";
  const std::set<std::string> ones = lines_of(in(one, script).out);
  CHECK(ones.size() == 7);
  for (const std::string& theirs : lines_of(in(other, script).out)) CHECK(ones.count(theirs) == 0);
  for (const char* kind : {"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"}) {
    CHECK(ones.count(fs::read_symlink(std::string("/proc/self/ns/") + kind).native()) == 0);
  }
  // Who listens in one is not heard in the other.
  run(loop, put_hostile(*other, kHostile));
  if (in(one, "command -v python3").exit.value == 0) {
    const auto server = run(
        loop, one->start(command({"python3", "-c",
                                  "import socket\na = socket.socket(); a.bind(('127.0.0.1', 4242)); a.listen()\n"
                                  "b = socket.socket(socket.AF_UNIX); b.bind('\\0mark'); b.listen(); print('ready', flush=True)\n"
                                  "a.accept()"})));
    REQUIRE(run(loop, read_line(server->std_out())) == "ready");
    CHECK(run(loop, exec(*other, command({kHostile, "tcp", "127.0.0.1", "4242"}))).out == "-1 ECONNREFUSED\n");
    CHECK(run(loop, exec(*other, command({kHostile, "abstract", "mark"}))).out == "-1 ECONNREFUSED\n");
  }
}

}  // namespace cwsandbox::test
