// Sandboxes on this machine: bubblewrap makes the namespaces, a small agent is PID 1 inside.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "runner/runner.hpp"

namespace cwsandbox::runner::local {

/// What each sandbox may use. Those on memory and CPU hold for what asks for nothing itself, and need control groups: where there
/// are none, `log` says so once, and there is no such limit.
struct LocalLimits {
  std::uint64_t memory = 0;          ///< bytes, files in memory included; 0: no limit
  std::uint32_t cpu = 0;             ///< thousandths of a core; 0: no limit
  std::uint32_t pids = 4096;         ///< processes and threads; 0: no limit
  std::uint32_t open_files = 65536;  ///< of one process; 0: as this process
  std::uint64_t disk = 1ull << 30;   ///< bytes in each writable place (/tmp, home, /workspace, ...); at most half of the memory
  std::uint64_t files = 1ull << 18;  ///< files and directories in each writable place
};

struct LocalRunnerOptions {
  std::string bwrap = "bwrap";  ///< program name or path
  LocalLimits limits;
  /// Who runs the sandboxes when this process is root: never root, unless this process cannot change users (a user namespace of one
  /// user, no capabilities), which `log` is told when root is that of the machine.
  std::uint32_t uid = 65534, gid = 65534;
  std::function<void(const std::string&)> log;  ///< a line for the operator, on the executor; may be empty
};

/// Throws RunnerError ("failed_precondition", "CWSANDBOX_RUNNER_UNAVAILABLE") when bubblewrap is missing or user namespaces are
/// forbidden; the text says how to mend it. The check is made at the first `create`, not here.
[[nodiscard]] std::unique_ptr<Runner> make_local_runner(asio::any_io_executor executor, LocalRunnerOptions options = {});

}  // namespace cwsandbox::runner::local
