#include "runner/pod/agent_thread.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>
#include <thread>

#include "runner/local/agent/agent.hpp"

namespace cwsandbox::runner {

namespace {

// How long the kernel may take to end what was killed.
constexpr std::int64_t kKillGraceMs = 1000;

int agent_control = -1;
int agent_finished = -1;

std::int64_t now_ms() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<std::int64_t>(t.tv_sec) * 1000 + t.tv_nsec / 1000000;
}

// False when there are none.
bool reap_all() {
  for (;;) {
    const pid_t pid = waitpid(-1, nullptr, WNOHANG);
    if (pid == 0) return true;
    if (pid < 0 && errno != EINTR) return false;
  }
}

}  // namespace

// PID 1 stays, to tell how it ended: what the kernel does when a process ends that is PID 1 is done here by hand. Nothing is killed
// when nothing is left, because everything would be a relay too.
void local::agent::leave(int /*status*/) {
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  const std::int64_t deadline = now_ms() + kKillGraceMs;
  while (reap_all()) {
    kill(-1, SIGKILL);
    const std::int64_t left = deadline - now_ms();
    if (left <= 0) break;
    const timespec wait{static_cast<time_t>(left / 1000), static_cast<long>(left % 1000) * 1000000};
    sigtimedwait(&children, nullptr, &wait);
  }
  close(agent_control);
  close(agent_finished);
  // Not the end of the thread: its stack has things that want to be destroyed, and this is called from anywhere.
  for (;;) pause();
}

pod::AgentThread pod::start_agent_thread() {
  int sockets[2];
  int pipe[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) {
    throw std::system_error(errno, std::generic_category(), "cannot make the agent's socket");
  }
  AgentThread made;
  made.control.reset(sockets[0]);
  local::UniqueFd control(sockets[1]);
  if (::pipe2(pipe, O_CLOEXEC) != 0) throw std::system_error(errno, std::generic_category(), "cannot make a pipe");
  made.finished.reset(pipe[0]);
  local::UniqueFd finished(pipe[1]);
  local::agent::AgentOptions options;
  options.control = control.get();
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0)
    options.open_files = files.rlim_max == RLIM_INFINITY ? files.rlim_max : files.rlim_max / 2;
  agent_control = control.release();
  agent_finished = finished.release();
  std::thread([options] { local::agent::serve(options); }).detach();
  return made;
}

}  // namespace cwsandbox::runner
