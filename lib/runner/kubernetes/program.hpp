// Runs a program of the machine's to its end and takes what it says.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace cwsandbox::runner::kubernetes {

namespace asio = boost::asio;

struct Program {
  std::vector<std::string> argv;                         ///< the first is a path, or a name that is looked for in $PATH
  std::vector<std::pair<std::string, std::string>> env;  ///< beside this process's own
  std::size_t max_output = 1024 * 1024;                  ///< bytes; a program that writes more is ended
};

struct ProgramResult {
  int start_error = 0;  ///< errno: it could not be started
  bool timed_out = false, too_long = false;
  int status = -1;  ///< its exit code, 128 and more for a signal; -1: nobody knows
  std::string output;
  std::string last_error_line;  ///< the last line on its stderr, printable
};

/// Runs it with an empty stdin, in a process group of its own, which is killed when the deadline passes, when it writes too much,
/// and when the coroutine is destroyed. What it leaves running in the background is not waited for beyond its own end. `executor`
/// is the calling coroutine's.
[[nodiscard]] asio::awaitable<ProgramResult> run_program(asio::any_io_executor executor, Program program,
                                                         std::chrono::steady_clock::time_point deadline);

}  // namespace cwsandbox::runner::kubernetes
