// What programs in a sandbox may ask of the kernel. See docs/security.md and docs/decisions/0004-syscall-filter.md.
#pragma once

#include "runner/local/unique_fd.hpp"

namespace cwsandbox::runner::local {

/// Two programs for the kernel, each in a sealed file in memory. A call must be let through by both; bubblewrap loads them in
/// this order, just before it executes the agent, so they bind everything in the sandbox.
struct SyscallFilters {
  UniqueFd calls;      ///< which system calls there are: what is not on the list is ENOSYS, as on a kernel that lacks it
  UniqueFd arguments;  ///< what some of them may not be asked for
};

/// Throws RunnerError.
[[nodiscard]] SyscallFilters compile_syscall_filters();

}  // namespace cwsandbox::runner::local
