// What the local runner holds in memory at most, beside what lies with those who asked for it.
#pragma once

#include <cstdint>

#include "runner/local/agent_connection.hpp"
#include "runner/work_queue.hpp"

namespace cwsandbox::runner::local {

// Of a thread's stack little is ever touched.
inline constexpr std::uint64_t kMostMemory = (kFileWork.threads + kLaunchWork.threads) * 256 * 1024;
inline constexpr std::uint64_t kMostMemoryPerSandbox = AgentConnection::kMaxQueued + 64 * 1024;

}  // namespace cwsandbox::runner::local
