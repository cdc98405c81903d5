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
  std::uint64_t memory = 0;     ///< bytes, files in memory included; 0: no limit
  std::uint32_t cpu = 0;        ///< thousandths of a core; 0: no limit
  std::uint32_t cpu_share = 0;  ///< what it weighs when others want the CPU too, as the same; 0: each of its processes by itself
  std::uint32_t pids = 4096;    ///< processes and threads; 0: no limit
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
  /// Where there are that many more users than this process knows of, each sandbox is one of `own_uids` from `first_own_uid` on
  /// instead of `uid`: then what the kernel counts for a user is counted for a sandbox. Beyond what systemd, SSSD and FreeIPA give
  /// out.
  std::uint32_t first_own_uid = 0x7c000000, own_uids = 1u << 25;
  /// How many sandboxes are kept ready at most, in which nothing runs yet: as many as were asked for within the last minute, with
  /// the same resources. They are started behind what is asked for, and given away at once.
  std::size_t ready = 0;
  std::function<void(const std::string&)> log;  ///< a line for the operator, on the executor; may be empty
};

/// Throws RunnerError ("failed_precondition", "CWSANDBOX_RUNNER_UNAVAILABLE") when bubblewrap is missing or user namespaces are
/// forbidden; the text says how to mend it. The check is made at the first `create`, not here.
[[nodiscard]] std::unique_ptr<Runner> make_local_runner(asio::any_io_executor executor, LocalRunnerOptions options = {});

}  // namespace cwsandbox::runner::local
