#pragma once

namespace cwsandbox::runner::pod {

/// What pods/exec runs: passes this process's stdin and stdout to PID 1, and stays for as long as they are used. An exit code; what
/// is wrong goes to stderr.
[[nodiscard]] int run_relay();

}  // namespace cwsandbox::runner::pod
