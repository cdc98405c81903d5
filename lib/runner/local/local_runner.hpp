// Sandboxes on this machine: bubblewrap makes the namespaces, a small agent is PID 1 inside.
#pragma once

#include "runner/runner.hpp"

namespace cwsandbox::runner::local {

struct LocalRunnerOptions {
  std::string bwrap = "bwrap";             ///< program name or path
  std::uint64_t tmpfs_bytes = 1ull << 30;  ///< size of each writable place (/tmp, home, /workspace)
  std::uint32_t uid = 65534, gid = 65534;  ///< who runs the sandboxes when this process is root: never root
};

/// Throws RunnerError ("failed_precondition", "CWSANDBOX_RUNNER_UNAVAILABLE") when bubblewrap is missing or user namespaces are
/// forbidden; the text says how to mend it. The check is made at the first `create`, not here.
[[nodiscard]] std::unique_ptr<Runner> make_local_runner(asio::any_io_executor executor, LocalRunnerOptions options = {});

}  // namespace cwsandbox::runner::local
