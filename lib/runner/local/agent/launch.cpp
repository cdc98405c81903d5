#include "runner/local/agent/launch.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "runner/local/agent_protocol.hpp"

namespace cwsandbox::runner::local::agent {

namespace {

constexpr int kFirstWord = 3;  // after the step and the descriptor for the report

int number(const char* word) { return static_cast<int>(strtoul(word, nullptr, 10)); }

[[noreturn]] void fail(int report, std::int32_t step) {
  const LaunchFailure failure{errno, step};
  // Whoever reads it is there, and it is far smaller than a pipe.
  static_cast<void>(!write(report, &failure, sizeof failure));
  _exit(127);
}

[[noreturn]] void become(int report, char** words) {
  const int uid = number(words[0]), gid = number(words[1]);
  if (syscall(SYS_setgroups, 0, nullptr) != 0) fail(report, kStepGroups);
  if (syscall(SYS_setresgid, gid, gid, gid) != 0) fail(report, kStepGroup);
  if (syscall(SYS_setresuid, uid, uid, uid) != 0) fail(report, kStepUser);
  static char* const no_environment[] = {nullptr};
  execve(words[2], words + 3, no_environment);
  fail(report, kStepExec);
}

[[noreturn]] void remount(int report, char** words) {
  // Of the user namespace first: it gives the right to enter the other.
  if (setns(kUserNamespaceFd, CLONE_NEWUSER) != 0 || setns(kMountNamespaceFd, CLONE_NEWNS) != 0) fail(report, kStepNamespaces);
  for (std::int32_t place = 0; words[1 + place] != nullptr; ++place) {
    if (mount(nullptr, words[1 + place], nullptr, MS_REMOUNT | MS_NOSUID | MS_NODEV, words[0]) != 0)
      fail(report, kStepFirstPlace + place);
  }
  _exit(0);
}

}  // namespace

bool is_launch_step(int argc, char** argv) {
  return (argc > kFirstWord + 3 && strcmp(argv[1], kBecome) == 0) || (argc > kFirstWord && strcmp(argv[1], kRemount) == 0);
}

void take_launch_step(int, char** argv) {
  const int report = number(argv[2]);
  // The next program does not get it; that it goes is what says that all went well.
  if (fcntl(report, F_SETFD, FD_CLOEXEC) != 0) _exit(127);
  strcmp(argv[1], kBecome) == 0 ? become(report, argv + kFirstWord) : remount(report, argv + kFirstWord);
}

}  // namespace cwsandbox::runner::local::agent
