// The agent: starts processes, reaps, delivers signals, works on files. A program of its own in a local sandbox, a thread of PID 1
// in a pod.
#pragma once

#include <sys/resource.h>

namespace cwsandbox::runner::local::agent {

struct AgentOptions {
  int control = -1;                   ///< a blocking SOCK_STREAM socket: the protocol of agent_protocol.hpp
  int watched = -1;                   ///< it leaves when this becomes readable; -1: nothing
  int oom_score = -1;                 ///< this process's own /proc/self/oom_score_adj; -1: what runs here has all the same
  rlim_t open_files = RLIM_INFINITY;  ///< how many files a program may have open; at most this process's own limit
};

/// What the agent needs of its process: /dev/null as 0, 1 and 2, every signal at its default but SIGCHLD, all of them blocked. No
/// other thread may take SIGCHLD, and threads must be started after this. False when it cannot be had.
[[nodiscard]] bool prepare_process();

/// Runs until the other end of the socket is closed or everything that was started has been stopped and has ended; then calls
/// `leave`.
[[noreturn]] void serve(const AgentOptions& options);

/// The program's: ends everything that is left, and then the agent. `status` is not 0 when something is wrong.
[[noreturn]] void leave(int status);

}  // namespace cwsandbox::runner::local::agent
