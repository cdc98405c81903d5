// The local sandbox's agent as a thread of PID 1.
#pragma once

#include "runner/local/unique_fd.hpp"

namespace cwsandbox::runner::pod {

struct AgentThread {
  local::UniqueFd control;   ///< the socket to the agent
  local::UniqueFd finished;  ///< hangs up when the agent has left and nothing of what it started is there any more
};

/// Starts it, once in a process: what it knows of its children is the process's. After `agent::prepare_process`. Throws
/// std::system_error.
[[nodiscard]] AgentThread start_agent_thread();

}  // namespace cwsandbox::runner::pod
