// The agent as the program that is PID 1 of a local sandbox. Linked statically and without the C++ runtime, because it runs on
// whatever files the sandbox has.
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>

#include "base/standard_streams.hpp"
#include "runner/local/agent/agent.hpp"
#include "runner/local/agent/launch.hpp"
#include "runner/local/agent_protocol.hpp"

using namespace cwsandbox;
using namespace cwsandbox::runner::local::agent;

void cwsandbox::runner::local::agent::leave(int status) {
  // The kernel kills whatever else there is in the PID namespace when its first process ends.
  _exit(status);
}

// The arguments: how many files a program may have open, and how many processes there may be (0: any number).
int main(int argc, char** argv) {
  if (is_launch_step(argc, argv)) take_launch_step(argc, argv);
  // Before it is closed to everybody, this process too. Nothing else runs yet.
  const int oom_score = open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC);
  // Then, first of all: programs in the sandbox run as the same user, and must neither trace this process nor open its descriptors.
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 || !base::fill_standard_streams()) leave(3);
  prctl(PR_SET_NAME, "cwsandbox-agent", 0, 0, 0);
  if (!prepare_process()) leave(3);
  AgentOptions options;
  int first_free = kImageFd;
  if (oom_score >= 0) {
    options.oom_score = first_free++;
    if (oom_score != options.oom_score && dup3(oom_score, options.oom_score, O_CLOEXEC) < 0) leave(3);
  }
  if (syscall(SYS_close_range, static_cast<unsigned>(first_free), ~0u, 0u) != 0) leave(3);
  fcntl(kControlFd, F_SETFD, FD_CLOEXEC);
  fcntl(kGatewayFd, F_SETFD, FD_CLOEXEC);
  options.control = kControlFd;
  options.watched = kGatewayFd;
  if (argc > 1) options.open_files = strtoull(argv[1], nullptr, 10);
  const rlim_t most_processes = argc > 2 ? strtoull(argv[2], nullptr, 10) : 0;
  const rlimit processes{most_processes + 1, most_processes + 1};  // and this one
  if (most_processes > 0 && setrlimit(RLIMIT_NPROC, &processes) != 0) leave(3);
  serve(options);
}
