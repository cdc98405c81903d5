#include "runner/local/child.hpp"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <new>
#include <string>
#include <vector>

#include "runner/local/agent_protocol.hpp"

#if defined(__clang__) || defined(__GNUC__)
#define CWSANDBOX_NOT_INSTRUMENTED __attribute__((no_sanitize("address", "undefined", "thread"), noinline))
#endif

// ThreadSanitizer's `clone` takes every child for a copy, and goes on in it as it does after fork: also in one that shares our
// memory. The C library's other name for the same call is left alone.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CWSANDBOX_CLONE __clone
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define CWSANDBOX_CLONE __clone
#endif
#ifdef CWSANDBOX_CLONE
extern "C" int __clone(int (*function)(void*), void* stack, int flags, void* argument, ...) noexcept;
#else
#define CWSANDBOX_CLONE ::clone
#endif

namespace cwsandbox::runner::local {

namespace {

// ---- In the child: only system calls ----

struct KernelSigaction {
  void* handler;
  unsigned long flags;
  void* restorer;
  std::uint64_t mask;
};

// The bare calls: the C library's own would make every thread of this process change its user. Null, or the step that failed.
CWSANDBOX_NOT_INSTRUMENTED const char* become(uid_t uid, gid_t gid) {
  if (::syscall(SYS_setgroups, 0, nullptr) != 0) return "setgroups";
  if (::syscall(SYS_setresgid, gid, gid, gid) != 0) return "setresgid";
  if (::syscall(SYS_setresuid, uid, uid, uid) != 0) return "setresuid";
  return nullptr;
}

// Those that stand where others are to stand go out of the way first. Any failure means that there may not be so many.
CWSANDBOX_NOT_INSTRUMENTED bool move_descriptors(const int* fds, int count) {
  int from[kMaxInherited];
  for (int i = 0; i < count; ++i) {
    from[i] = fds[i] >= count ? fds[i] : static_cast<int>(::syscall(SYS_fcntl, fds[i], F_DUPFD, count));
    if (from[i] < 0) return false;
  }
  for (int i = 0; i < count; ++i) {
    if (::syscall(SYS_dup3, from[i], i, 0) < 0) return false;
  }
  return true;
}

struct StartArgument {
  const ChildPlan* plan = nullptr;
  ChildFailure* failure = nullptr;
};

CWSANDBOX_NOT_INSTRUMENTED int start_main(void* data) {
  const auto* argument = static_cast<const StartArgument*>(data);
  const ChildPlan& plan = *argument->plan;
  static char* const no_environment[] = {nullptr};
  const char* step = "signals";
  for (;;) {
    KernelSigaction standard{};
    for (int number = 1; number < 65; ++number) {
      if (number != SIGKILL && number != SIGSTOP) ::syscall(SYS_rt_sigaction, number, &standard, nullptr, sizeof(std::uint64_t));
    }
    // Before anything else runs, so that all of it is in there.
    step = "cgroup";
    bool joined = true;
    for (std::size_t i = 0; i < plan.door_count && joined; ++i) joined = ::syscall(SYS_write, plan.doors[i], "0", 1) == 1;
    if (!joined) break;
    // When the whole machine runs out of memory, a sandbox goes before what else runs here. Not being able to say so is no reason
    // to fail.
    if (plan.oom_score_size > 0) {
      const long score = ::syscall(SYS_openat, AT_FDCWD, "/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
      if (score >= 0) ::syscall(SYS_write, score, plan.oom_score, plan.oom_score_size);
    }
    // A Ctrl-C at the gateway's terminal is the gateway's business.
    step = "setsid";
    if (::syscall(SYS_setsid) < 0) break;
    // The program around us may live with few; bubblewrap is not that program.
    rlimit files{};
    if (::syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, nullptr, &files) == 0) {
      files.rlim_cur = files.rlim_max;
      ::syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &files, nullptr);
    }
    step = "descriptors";
    if (!move_descriptors(plan.fds, plan.fd_count)) {
      errno = EMFILE;
      break;
    }
    step = "close_range";
    if (::syscall(SYS_close_range, static_cast<unsigned>(plan.fd_count), ~0u, 0u) != 0) break;
    if (plan.drop && (step = become(plan.uid, plan.gid)) != nullptr) break;
    ::syscall(SYS_umask, 022);
    step = "chdir";
    if (::syscall(SYS_chdir, "/") != 0) break;
    std::uint64_t none = 0;
    ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, sizeof none);
    step = "exec";
    ::syscall(SYS_execve, plan.program, plan.argv, no_environment);
    break;
  }
  *argument->failure = {errno, step};
  for (;;) ::syscall(SYS_exit_group, 127);
}

struct BecomeArgument {
  uid_t uid = 0;
  gid_t gid = 0;
  ChildFailure* failure = nullptr;
};

CWSANDBOX_NOT_INSTRUMENTED int become_main(void* data) {
  const auto& argument = *static_cast<const BecomeArgument*>(data);
  if (const char* step = become(argument.uid, argument.gid); step != nullptr) *argument.failure = {errno, step};
  for (;;) ::syscall(SYS_exit_group, 0);
}

struct RemountArgument {
  int user_namespace = -1, mount_namespace = -1;
  const char* const* places = nullptr;
  std::size_t count = 0;
  const char* options = nullptr;
  ChildFailure* failure = nullptr;
};

CWSANDBOX_NOT_INSTRUMENTED int remount_main(void* data) {
  const auto& argument = *static_cast<const RemountArgument*>(data);
  const char* step = "setns";
  bool done = ::syscall(SYS_setns, argument.user_namespace, CLONE_NEWUSER) == 0 &&
              ::syscall(SYS_setns, argument.mount_namespace, CLONE_NEWNS) == 0;
  for (std::size_t i = 0; i < argument.count && done; ++i) {
    step = argument.places[i];
    done = ::syscall(SYS_mount, nullptr, step, nullptr, MS_REMOUNT | MS_NOSUID | MS_NODEV, argument.options) == 0;
  }
  if (!done) *argument.failure = {errno, step};
  for (;;) ::syscall(SYS_exit_group, 0);
}

// ---- In this process ----

class Mapping {
 public:
  Mapping(std::size_t size, int flags) noexcept : size_(size) {
    address_ = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (*this) ::munmap(address_, size_);
  }
  [[nodiscard]] explicit operator bool() const noexcept { return address_ != MAP_FAILED; }
  [[nodiscard]] char* begin() const noexcept { return static_cast<char*>(address_); }
  [[nodiscard]] char* end() const noexcept { return begin() + size_; }

 private:
  std::size_t size_;
  void* address_;
};

// Runs `child` until it executes a program or ends. A pidfd of it; the error, and the step where it came, in `failure`. With a
// `copy` it does not share this process's memory.
template <class Argument>
UniqueFd spawn(int (*child_function)(void*), Argument argument, bool copy, ChildFailure& failure) {
  const Mapping stack(256 << 10, MAP_PRIVATE | MAP_STACK);
  const Mapping shared(4096, MAP_SHARED);
  if (!stack || !shared) {
    failure = {errno, "mmap"};
    return {};
  }
  auto* reported = new (shared.begin()) ChildFailure;
  argument.failure = reported;
  const int flags = CLONE_VFORK | CLONE_PIDFD | SIGCHLD | (copy ? 0 : CLONE_VM);
  sigset_t all, before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  int pidfd = -1;
  const pid_t pid = CWSANDBOX_CLONE(child_function, stack.end(), flags, &argument, &pidfd);
  const int clone_error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) {
    failure = {clone_error, "clone"};
    return {};
  }
  UniqueFd child(pidfd);
  failure = *reported;
  if (failure.error != 0) {
    siginfo_t info{};
    while (::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd), &info, WEXITED) != 0 && errno == EINTR) {
    }
    return {};
  }
  return child;
}

// One that executes nothing, in memory of its own, until it has ended.
template <class Argument>
ChildFailure run_child(int (*child_function)(void*), const Argument& argument) {
  ChildFailure failure;
  const UniqueFd child = spawn(child_function, argument, true, failure);
  if (child && has_ended(child.get(), -1)) static_cast<void>(reap(child.get()));
  return failure;
}

const char* name_of(std::int32_t step, std::span<const char* const> places) {
  constexpr const char* kNames[] = {"setgroups", "setresgid", "setresuid", "exec", "setns"};
  static_assert(std::size(kNames) == agent::kStepFirstPlace);
  if (step >= 0 && step < agent::kStepFirstPlace) return kNames[step];
  const auto place = static_cast<std::size_t>(step) - agent::kStepFirstPlace;
  return step > 0 && place < places.size() ? places[place] : "a step that is not known";
}

// How long the report of a step is waited for. It comes at once, or the pipe ends; but a copy of this process that somebody makes
// meanwhile keeps the pipe open for as long as it lives.
constexpr int kReportMs = 1000;

bool read_report(int report, int timeout_ms, agent::LaunchFailure& told) noexcept {
  pollfd wait{report, POLLIN, 0};
  while (::poll(&wait, 1, timeout_ms) < 0 && errno == EINTR) {
  }
  ssize_t n = 0;
  while ((n = ::read(report, &told, sizeof told)) < 0 && errno == EINTR) {
  }
  return n == static_cast<ssize_t>(sizeof told);
}

// A child that executes the agent's program for a step with these words, and returns when that has been taken or has failed;
// `ends`: and when the child has ended after it.
UniqueFd start_step(ChildPlan plan, const char* step, std::span<const char* const> words, std::span<const char* const> places,
                    bool ends, ChildFailure& failure) {
  int pipe[2];
  if (::pipe2(pipe, O_CLOEXEC) != 0) {
    failure = {errno, "pipe"};
    return {};
  }
  const UniqueFd report(pipe[0]);
  UniqueFd theirs(pipe[1]);
  ::fcntl(report.get(), F_SETFL, O_NONBLOCK);
  std::vector<int> fds(plan.fds, plan.fds + plan.fd_count);
  fds.push_back(theirs.get());
  const std::string program = "/proc/self/fd/" + std::to_string(plan.helper), number = std::to_string(plan.fd_count);
  std::vector<char*> argv;
  for (const char* word : {"cwsandbox-agent", step, number.c_str()}) argv.push_back(const_cast<char*>(word));
  for (const char* word : words) argv.push_back(const_cast<char*>(word));
  argv.push_back(nullptr);
  plan.program = program.c_str();
  plan.argv = argv.data();
  plan.fds = fds.data();
  plan.fd_count = static_cast<int>(fds.size());
  plan.drop = false;
  StartArgument argument;
  argument.plan = &plan;
  UniqueFd child = spawn(start_main, argument, false, failure);
  if (!child) {
    if (failure.step != nullptr && std::strcmp(failure.step, "exec") == 0) failure.step = kHelperStep;
    return {};
  }
  theirs.reset();
  agent::LaunchFailure told;
  bool failed = read_report(report.get(), kReportMs, told);
  if (!failed && ends && has_ended(child.get(), -1)) failed = read_report(report.get(), 0, told);
  if (!failed) return child;
  failure = {told.error, name_of(told.step, places)};
  if (has_ended(child.get(), -1)) static_cast<void>(reap(child.get()));
  return {};
}

}  // namespace

UniqueFd start_child(const ChildPlan& plan, ChildFailure& failure) {
  if (plan.drop && plan.helper >= 0) {
    const std::string uid = std::to_string(plan.uid), gid = std::to_string(plan.gid);
    std::vector<const char*> words{uid.c_str(), gid.c_str(), plan.program};
    for (char* const* word = plan.argv; *word != nullptr; ++word) words.push_back(*word);
    return start_step(plan, agent::kBecome, words, {}, false, failure);
  }
  StartArgument argument;
  argument.plan = &plan;
  // Like vfork where nothing but the program changes. A change of user in memory that is shared would make this process
  // undumpable too.
  return spawn(start_main, argument, plan.drop, failure);
}

ChildFailure try_to_become(uid_t uid, gid_t gid) {
  BecomeArgument argument;
  argument.uid = uid;
  argument.gid = gid;
  return run_child(become_main, argument);
}

ChildFailure remount(int user_namespace, int mount_namespace, std::span<const char* const> places, const char* options,
                     int helper) {
  if (helper >= 0) {
    const int fds[] = {helper, helper, helper, user_namespace, mount_namespace};
    static_assert(agent::kUserNamespaceFd == 3 && agent::kMountNamespaceFd == 4);
    ChildPlan plan;
    plan.fds = fds;
    plan.fd_count = static_cast<int>(std::size(fds));
    plan.helper = 0;
    std::vector<const char*> words{options};
    words.insert(words.end(), places.begin(), places.end());
    ChildFailure failure;
    const UniqueFd child = start_step(plan, agent::kRemount, words, places, true, failure);
    if (child) static_cast<void>(reap(child.get()));
    if (failure.error == 0 || failure.step != kHelperStep) return failure;
  }
  RemountArgument argument;
  argument.user_namespace = user_namespace;
  argument.mount_namespace = mount_namespace;
  argument.places = places.data();
  argument.count = places.size();
  argument.options = options;
  // In memory of its own: who enters a namespace gets other rights, and the kernel would say so of all who share it.
  return run_child(remount_main, argument);
}

bool reap(int pidfd) noexcept {
  siginfo_t info{};
  for (;;) {
    if (::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd), &info, WEXITED | WNOHANG) == 0) return info.si_pid != 0;
    // ECHILD: the program that we live in has waited for all its children, ours too. So it has ended.
    if (errno != EINTR) return true;
  }
}

void kill_pidfd(int pidfd, int number) noexcept {
  if (pidfd >= 0) ::syscall(SYS_pidfd_send_signal, pidfd, number, nullptr, 0);
}

bool has_ended(int pidfd, int timeout_ms) noexcept {
  if (pidfd < 0) return true;
  pollfd wait{pidfd, POLLIN, 0};
  for (;;) {
    const int n = ::poll(&wait, 1, timeout_ms);
    if (n >= 0) return n > 0;
    if (errno != EINTR) return true;
  }
}

UniqueFd open_pidfd(pid_t pid) noexcept { return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))); }

}  // namespace cwsandbox::runner::local
