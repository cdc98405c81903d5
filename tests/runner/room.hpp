// A sandbox of a local runner's, with what tests do in one, and what they see of it from outside.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "harness.hpp"
#include "runner/local/local_runner.hpp"
#include "runner/local/unique_fd.hpp"

namespace cwsandbox::test {

[[nodiscard]] inline std::set<std::string> lines_of(const std::string& text) {
  std::set<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.insert(line);
  return lines;
}

/// Of files of any kind. Empty when there is none: processes come and go while a test looks.
[[nodiscard]] inline std::string content_of(const std::filesystem::path& path) {
  const runner::local::UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  std::string part(64 << 10, '\0');
  for (;;) {
    const ssize_t n = file ? ::read(file.get(), part.data(), part.size()) : 0;
    if (n <= 0) return text;
    text.append(part, 0, static_cast<std::size_t>(n));
  }
}

inline constexpr const char* kHostile = "/run/hostile";

/// The program of tests/hostile/, at `path` in the sandbox.
inline asio::awaitable<void> put_hostile(runner::Sandbox& sandbox, std::string path) {
  const char* program = std::getenv("CWSANDBOX_HOSTILE");
  const std::string bytes = program != nullptr ? content_of(program) : std::string();
  if (bytes.empty()) throw std::runtime_error("CWSANDBOX_HOSTILE must name the program of tests/hostile");
  runner::FileWriteSpec spec;
  spec.path = std::move(path);
  spec.mode = 0755;
  auto made = sandbox.files().create(std::move(spec));
  const auto writer = co_await std::move(made);
  const asio::const_buffer all(bytes.data(), bytes.size());
  co_await writer->write(all);
  co_await writer->commit();
}

struct Room {
  explicit Room(runner::local::LocalRunnerOptions options = {}, runner::SandboxSpec spec = sandbox_spec())
      : runner(runner::local::make_local_runner(loop.get_executor(), std::move(options))),
        sandbox(run(loop, runner->create(std::move(spec)))) {}
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;
  ~Room() {
    sandbox.reset();
    run_until(loop, [this] { return loop.stopped(); });
  }
  Outcome operator()(std::string script) { return run(loop, exec_sh(*sandbox, std::move(script))); }
  /// Runs the hostile program.
  template <class... Words>
  Outcome hostile(Words... words) {
    if (!put_) run(loop, put_hostile(*sandbox, kHostile));
    put_ = true;
    return run(loop, exec(*sandbox, command({kHostile, std::string(words)...})));
  }

  asio::io_context loop;
  std::unique_ptr<runner::Runner> runner;
  std::unique_ptr<runner::Sandbox> sandbox;

 private:
  bool put_ = false;
};

/// Who its user is outside it.
[[nodiscard]] inline uid_t user_of(Room& room) {
  static int number = 0;
  const std::string marker = "room-" + std::to_string(::getpid()) + "-" + std::to_string(++number);
  const auto process = run(room.loop, room.sandbox->start(command(sh("echo ready; read x < /dev/zero # " + marker))));
  if (run(room.loop, read_line(process->std_out())) != "ready") throw std::runtime_error("it does not run");
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    struct stat status{};
    if (content_of(entry.path() / "cmdline").find(marker) != std::string::npos && ::stat(entry.path().c_str(), &status) == 0) {
      process->signal_group(SIGKILL);
      return status.st_uid;
    }
  }
  throw std::runtime_error("it cannot be seen");
}

}  // namespace cwsandbox::test
