// Drives a runner from a test: an event loop with a bound, and a process from its start to its end.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include <chrono>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "runner/runner.hpp"
#include "support/patience.hpp"

namespace cwsandbox::test {

namespace asio = boost::asio;

/// Long enough for any machine; it is there so that a hang is a failure.
inline const std::chrono::seconds kHang = test_support::patience(std::chrono::seconds(60));

template <class Done>
void run_until(asio::io_context& loop, Done done) {
  const auto deadline = std::chrono::steady_clock::now() + kHang;
  while (!done()) {
    if (loop.stopped()) loop.restart();
    if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error("the test hangs");
    loop.run_one_for(std::chrono::seconds(1));
  }
}

template <class T>
T run(asio::io_context& loop, asio::awaitable<T> work) {
  std::optional<T> value;
  std::exception_ptr error;
  asio::co_spawn(loop, std::move(work), [&](std::exception_ptr e, T v) {
    error = e;
    value.emplace(std::move(v));
  });
  run_until(loop, [&] { return value.has_value(); });
  if (error) std::rethrow_exception(error);
  return std::move(*value);
}

inline void run(asio::io_context& loop, asio::awaitable<void> work) {
  bool done = false;
  std::exception_ptr error;
  asio::co_spawn(loop, std::move(work), [&](std::exception_ptr e) {
    error = e;
    done = true;
  });
  run_until(loop, [&] { return done; });
  if (error) std::rethrow_exception(error);
}

struct Outcome {
  std::string out, err;
  runner::ExitInfo exit;
};

[[nodiscard]] std::vector<std::string> sh(std::string script);
[[nodiscard]] runner::ProcessSpec command(std::vector<std::string> words);
[[nodiscard]] runner::SandboxSpec sandbox_spec(std::string id = "test");
/// The same for what is to be seen to end by itself: it does on SIGTERM, once `main_is_ready` has completed.
[[nodiscard]] runner::SandboxSpec graceful_spec();
[[nodiscard]] asio::awaitable<void> main_is_ready(runner::Sandbox& sandbox);

/// Waits for the end of the process. At most one at a time per process.
[[nodiscard]] asio::awaitable<runner::ExitInfo> wait_exit(runner::Process& process);
[[nodiscard]] asio::awaitable<runner::ExitInfo> wait_exit(runner::Sandbox& sandbox);
[[nodiscard]] asio::awaitable<std::string> read_all(runner::ByteSource& source);
/// Up to and without the next newline; what lies behind it stays unread.
[[nodiscard]] asio::awaitable<std::string> read_line(runner::ByteSource& source);
[[nodiscard]] asio::awaitable<void> write_all(runner::ByteSink& sink, std::string data);
/// Until what was written has arrived, or never will; until nobody reads any more.
[[nodiscard]] asio::awaitable<runner::error_code> wait_arrived(runner::ByteSink& sink);
[[nodiscard]] asio::awaitable<runner::error_code> wait_broken(runner::ByteSink& sink);
/// Feeds `input`, closes the input, reads both outputs at once, waits for the end.
[[nodiscard]] asio::awaitable<Outcome> communicate(runner::Process& process, std::string input = {});
[[nodiscard]] asio::awaitable<Outcome> exec(runner::Sandbox& sandbox, runner::ProcessSpec spec, std::string input = {});
[[nodiscard]] asio::awaitable<Outcome> exec_sh(runner::Sandbox& sandbox, std::string script);

}  // namespace cwsandbox::test
