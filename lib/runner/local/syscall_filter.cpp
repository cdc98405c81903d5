#include "runner/local/syscall_filter.hpp"

#include <fcntl.h>
#include <linux/sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/socket.h>

#include <seccomp.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

#include "base/descriptor_limit.hpp"
#include "runner/runner.hpp"

namespace cwsandbox::runner::local {

namespace {

// What ordinary programs call, by the names of all architectures; what one of them does not have is skipped. A call that is new in
// the kernel is refused until it is added here; programs then do as on an older kernel.
constexpr const char* kAllowed[] = {
    // Files.
    "access", "chdir", "chmod", "chown", "chown32", "close", "close_range", "copy_file_range", "creat", "dup", "dup2", "dup3",
    "faccessat", "faccessat2", "fadvise64", "fadvise64_64", "arm_fadvise64_64", "fallocate", "fchdir", "fchmod", "fchmodat",
    "fchown", "fchown32", "fchownat", "fcntl", "fcntl64", "fdatasync", "fgetxattr", "flistxattr", "flock", "fremovexattr",
    "fsetxattr", "fstat", "fstat64", "fstatat64", "fstatfs", "fstatfs64", "fsync", "ftruncate", "ftruncate64", "futimesat",
    "getcwd", "getdents", "getdents64", "getxattr", "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch",
    "ioctl", "lchown", "lchown32", "lgetxattr", "link", "linkat", "listxattr", "llistxattr", "_llseek", "lremovexattr", "lseek",
    "lsetxattr", "lstat", "lstat64", "memfd_create", "mkdir", "mkdirat", "mknod", "mknodat", "name_to_handle_at", "newfstatat",
    "open", "openat", "openat2", "pread64", "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readlink",
    "readlinkat", "readv", "removexattr", "rename", "renameat", "renameat2", "rmdir", "sendfile", "sendfile64", "setxattr",
    "splice", "stat", "stat64", "statfs", "statfs64", "statx", "symlink", "symlinkat", "sync", "sync_file_range",
    "sync_file_range2", "syncfs", "tee", "truncate", "truncate64", "umask", "unlink", "unlinkat", "utime", "utimensat",
    "utimensat_time64", "utimes", "vmsplice", "write", "writev",
    // Waiting and pipes. Not the old asynchronous files (io_setup and its kind): their contexts are counted for the whole machine
    // (fs.aio-max-nr), so one sandbox could take them from everybody.
    "epoll_create", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait", "eventfd", "eventfd2", "pipe",
    "pipe2", "poll", "ppoll", "ppoll_time64", "pselect6", "pselect6_time64", "select", "_newselect", "signalfd", "signalfd4",
    // Sockets; which families is in the other filter.
    "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recv", "recvfrom", "recvmmsg",
    "recvmmsg_time64", "recvmsg", "send", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown", "socket", "socketcall",
    "socketpair",
    // Memory.
    "brk", "get_mempolicy", "madvise", "membarrier", "mincore", "mlock", "mlock2", "mlockall", "mmap", "mmap2", "mprotect",
    "mremap", "msync", "munlock", "munlockall", "munmap", "pkey_alloc", "pkey_free", "pkey_mprotect",
    // Processes and threads; clone3 is left out because its flags cannot be looked at, and the C library then uses clone.
    "arch_prctl", "capget", "capset", "clone", "execve", "execveat", "exit", "exit_group", "fork", "futex", "futex_time64",
    "get_robust_list", "get_thread_area", "getcpu", "getegid", "getegid32", "geteuid", "geteuid32", "getgid", "getgid32",
    "getgroups", "getgroups32", "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getresgid", "getresgid32", "getresuid",
    "getresuid32", "getrlimit", "getrusage", "getsid", "gettid", "getuid", "getuid32", "ioprio_get", "ioprio_set", "kill",
    "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "pidfd_open", "pidfd_send_signal", "prctl",
    "prlimit64", "riscv_flush_icache", "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn",
    "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_tgsigqueueinfo", "sched_get_priority_max",
    "sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam", "sched_getscheduler", "sched_rr_get_interval",
    "sched_rr_get_interval_time64", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler", "sched_yield",
    "seccomp", "set_robust_list", "set_thread_area", "set_tid_address", "set_tls", "setfsgid", "setfsgid32", "setfsuid",
    "setfsuid32", "setgid", "setgid32", "setgroups", "setgroups32", "setpgid", "setpriority", "setregid", "setregid32", "setresgid",
    "setresgid32", "setresuid", "setresuid32", "setreuid", "setreuid32", "setrlimit", "setsid", "setuid", "setuid32", "sigaltstack",
    "sigprocmask", "sigreturn", "sigsuspend", "tgkill", "tkill", "ugetrlimit", "unshare", "vfork", "wait4", "waitid", "waitpid",
    // Debuggers: within the sandbox alone, which is a PID namespace of its own.
    "process_vm_readv", "process_vm_writev", "ptrace",
    // Time.
    "alarm", "clock_getres", "clock_getres_time64", "clock_gettime", "clock_gettime64", "clock_nanosleep", "clock_nanosleep_time64",
    "getitimer", "gettimeofday", "nanosleep", "pause", "restart_syscall", "setitimer", "time", "timer_create", "timer_delete",
    "timer_getoverrun", "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64", "timerfd_create", "timerfd_gettime",
    "timerfd_gettime64", "timerfd_settime", "timerfd_settime64", "times",
    // System V and POSIX IPC, in a namespace of the sandbox's own.
    "ipc", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64", "mq_timedsend",
    "mq_timedsend_time64", "mq_unlink", "msgctl", "msgget", "msgrcv", "msgsnd", "semctl", "semget", "semop", "semtimedop",
    "semtimedop_time64", "shmat", "shmctl", "shmdt", "shmget",
    // The rest.
    "getrandom", "sysinfo", "uname"};

// The administrator's: refused as the kernel itself refuses them to whoever has no privileges, which is what programs know how to
// deal with.
constexpr const char* kNotPermitted[] = {"acct",
                                         "adjtimex",
                                         "bpf",
                                         "chroot",
                                         "clock_adjtime",
                                         "clock_adjtime64",
                                         "clock_settime",
                                         "clock_settime64",
                                         "delete_module",
                                         "fanotify_init",
                                         "finit_module",
                                         "init_module",
                                         "ioperm",
                                         "iopl",
                                         "kexec_file_load",
                                         "kexec_load",
                                         "mount",
                                         "open_by_handle_at",
                                         "perf_event_open",
                                         "pidfd_getfd",
                                         "pivot_root",
                                         "quotactl",
                                         "reboot",
                                         "setdomainname",
                                         "sethostname",
                                         "setns",
                                         "settimeofday",
                                         "stime",
                                         "swapoff",
                                         "swapon",
                                         "syslog",
                                         "umount",
                                         "umount2",
                                         "vhangup"};

// A shell's `setarch -R`, gdb and ThreadSanitizer turn the randomisation of addresses off; nothing else of it is ordinary.
constexpr std::uint32_t kPersonalities[] = {PER_LINUX, PER_LINUX32, ADDR_NO_RANDOMIZE, 0xffffffff /* says which it is */};

constexpr std::uint32_t kNamespaces[] = {CLONE_NEWNS,   CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC,
                                         CLONE_NEWUSER, CLONE_NEWPID,    CLONE_NEWNET};

// The kernel knows 46 families, and 32 protocols of netlink.
constexpr int kFamilies = 64;
constexpr int kNetlinkProtocols = 32;
constexpr int kNetlinkRoute = 0;

// Not all of the argument, for the kernel looks at no more: what is in its upper half must not hide the lower.
[[nodiscard]] scmp_arg_cmp low_half(unsigned argument, std::uint32_t value) {
  return {argument, SCMP_CMP_MASKED_EQ, 0xffffffff, value};
}
[[nodiscard]] scmp_arg_cmp has_bit(unsigned argument, std::uint32_t bit) { return {argument, SCMP_CMP_MASKED_EQ, bit, bit}; }

[[noreturn]] void fail(const std::string& what, int error) {
  throw RunnerError(error == EMFILE || error == ENFILE ? ErrorCode::resource_exhausted : ErrorCode::internal, kUnavailable,
                    "cannot make the filter of system calls: " + what + ": " + std::strerror(error) + base::descriptor_hint(error));
}

class Filter {
 public:
  explicit Filter(std::uint32_t otherwise) : context_(::seccomp_init(otherwise), &::seccomp_release) {
    if (!context_) fail("seccomp_init", ENOMEM);
    // A program of another architecture (i386 or x32 on x86-64, 32-bit ARM on 64-bit) would pass by the numbers of this one.
    check("SCMP_FLTATR_ACT_BADARCH", ::seccomp_attr_set(context_.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS));
    // A search tree, not a list. Where the library is too old for it, the filter is merely slower.
    ::seccomp_attr_set(context_.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);
  }

  template <class... Conditions>
  void add(std::uint32_t action, const char* name, Conditions... conditions) {
    const int call = ::seccomp_syscall_resolve_name(name);
    if (call == __NR_SCMP_ERROR) return;  // newer than the library
    const std::array<scmp_arg_cmp, sizeof...(conditions)> all = {conditions...};
    check(name, ::seccomp_rule_add_array(context_.get(), action, call, static_cast<unsigned>(all.size()), all.data()));
  }

  [[nodiscard]] UniqueFd compile(const char* name) const {
    UniqueFd fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!fd) fail("memfd_create", errno);
    check("seccomp_export_bpf", ::seccomp_export_bpf(context_.get(), fd.get()));
    if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) fail("F_ADD_SEALS", errno);
    return fd;
  }

 private:
  static void check(const char* what, int result) {
    if (result < 0) fail(what, -result);
  }
  std::unique_ptr<void, decltype(&::seccomp_release)> context_;
};

[[nodiscard]] UniqueFd compile_calls() {
  Filter filter(SCMP_ACT_ERRNO(ENOSYS));
  for (const char* name : kAllowed) filter.add(SCMP_ACT_ALLOW, name);
  for (const char* name : kNotPermitted) filter.add(SCMP_ACT_ERRNO(EPERM), name);
  for (const std::uint32_t persona : kPersonalities) filter.add(SCMP_ACT_ALLOW, "personality", low_half(0, persona));
  return filter.compile("cwsandbox-calls");
}

[[nodiscard]] UniqueFd compile_arguments() {
  Filter filter(SCMP_ACT_ALLOW);
  // What is put into a terminal's input, or taken from the console's screen.
  for (const unsigned request : {TIOCSTI + 0u, TIOCLINUX + 0u}) filter.add(SCMP_ACT_ERRNO(EPERM), "ioctl", low_half(1, request));
  for (const std::uint32_t flag : kNamespaces) {
    filter.add(SCMP_ACT_ERRNO(EPERM), "clone", has_bit(0, flag));
    filter.add(SCMP_ACT_ERRNO(EPERM), "unshare", has_bit(0, flag));
  }
  filter.add(SCMP_ACT_ERRNO(EPERM), "unshare", has_bit(0, CLONE_NEWTIME));  // clone has no such flag
  // The agent is process 1 and runs as the same user: its limits and its place in the queue for processors are not for programs.
  constexpr std::uint32_t kAgent = 1;
  for (const char* call : {"prlimit64", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler"})
    filter.add(SCMP_ACT_ERRNO(EPERM), call, low_half(0, kAgent));
  for (const char* call : {"setpriority", "ioprio_set"}) filter.add(SCMP_ACT_ERRNO(EPERM), call, low_half(1, kAgent));
  for (int family = 0; family < kFamilies; ++family) {
    if (family == AF_UNIX || family == AF_INET || family == AF_INET6 || family == AF_NETLINK) continue;
    // Among them vsock, which reaches the hypervisor's host from any network namespace, and the kernel's own cryptography.
    for (const char* call : {"socket", "socketpair"}) {
      filter.add(SCMP_ACT_ERRNO(EAFNOSUPPORT), call, low_half(0, static_cast<std::uint32_t>(family)));
    }
  }
  for (int protocol = 0; protocol < kNetlinkProtocols; ++protocol) {
    if (protocol == kNetlinkRoute) continue;  // by which the C library lists the interfaces
    filter.add(SCMP_ACT_ERRNO(EPROTONOSUPPORT), "socket", low_half(0, AF_NETLINK),
               low_half(2, static_cast<std::uint32_t>(protocol)));
  }
  return filter.compile("cwsandbox-arguments");
}

}  // namespace

SyscallFilters compile_syscall_filters() { return {compile_calls(), compile_arguments()}; }

}  // namespace cwsandbox::runner::local
