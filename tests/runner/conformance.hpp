// What every runner must do, whichever place its sandboxes run in: checks over the seam alone.
#pragma once

#include <string>
#include <vector>

#include "harness.hpp"

namespace cwsandbox::test {

struct RunnerCheck {
  std::string name;
  asio::awaitable<void> (*run)(runner::Runner&);
};

/// Each makes its own sandboxes with `runner`, on the executor that it runs on, and throws (as Catch2 does) when something is
/// wrong. The sandbox's system must have a POSIX shell and the usual small programs.
[[nodiscard]] const std::vector<RunnerCheck>& runner_checks();
/// The same for files and the main command's output.
[[nodiscard]] const std::vector<RunnerCheck>& file_checks();

}  // namespace cwsandbox::test
