// What the client's tests share: sandboxes on this machine, and a cwsandboxd that can be killed.
#pragma once

#include <cwsandbox/cwsandbox.hpp>
#include <cwsandbox/sandbox.hpp>

#include "support/catch.hpp"
#include "support/patience.hpp"

#include <cstdint>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include <sys/types.h>

namespace support {

using namespace std::chrono_literals;
using cwsandbox::argv;
using cwsandbox::Capture;
using cwsandbox::ExecOptions;
using cwsandbox::Sandbox;
using test_support::eventually;

/// One sandbox for the tests that do not mind sharing it. Ends with the process.
inline const Sandbox& shared_sandbox() {
  static const Sandbox sandbox = Sandbox::run();
  return sandbox;
}

/// For co_spawn: what goes wrong ends the loop with its error.
inline void rethrow(const std::exception_ptr& error) {
  if (error) std::rethrow_exception(error);
}

inline std::vector<std::string> shell(std::string script) { return {"/bin/sh", "-c", std::move(script)}; }

/// What a shell in the sandbox says.
inline std::string say(const Sandbox& sandbox, const std::string& script) {
  return sandbox.exec(shell(script)).result(std::chrono::seconds(60)).std_out.str();
}

/// What a child process printed, and how it ended (as waitpid says it).
struct Ran {
  Ran() {}
  std::string out, err;
  int status = -1;
};
/// Runs a program with `input` on its stdin.
Ran run_program(const std::vector<std::string>& command, const std::string& input = "", const std::vector<std::string>& env = {});

/// A directory of this machine that goes with this object, and all that is in it.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  [[nodiscard]] std::size_t entries() const;

 private:
  std::string path_;
};

/// A gateway of its own process on a Unix socket.
class Daemon {
 public:
  /// `arguments` go behind those that every daemon gets.
  explicit Daemon(const std::vector<std::string>& arguments = {});
  ~Daemon();
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;
  [[nodiscard]] const std::string& socket() const noexcept { return socket_; }
  [[nodiscard]] std::string url() const { return "unix:" + socket_; }
  [[nodiscard]] const std::string& token() const noexcept { return token_; }
  [[nodiscard]] cwsandbox::ClientOptions options() const;
  /// Sends a signal that ends it, and waits for that: how it ended, as waitpid says it.
  int kill(int signal);
  [[nodiscard]] pid_t pid() const noexcept { return pid_; }
  /// What it has said so far.
  [[nodiscard]] std::string log() const;

 private:
  struct Log;
  TemporaryDirectory directory_;
  std::string socket_, token_;
  std::shared_ptr<Log> log_;
  pid_t pid_ = -1;
};

/// A Unix socket that passes bytes on to another one, until it is told to cut.
class Proxy {
 public:
  explicit Proxy(const std::string& target);
  ~Proxy();
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;
  [[nodiscard]] std::string url() const;
  /// Cuts a connection as soon as the server's answer to its first WebSocket message comes, `times` times; that answer is lost.
  void cut_answers(int times);
  /// How often that has happened.
  [[nodiscard]] int cuts() const;
  void cut_all();

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

std::string environment(const char* name);

/// How much of its full size a long test runs at: a sanitizer makes everything many times slower, and scripts/test then sets
/// CWSANDBOX_TEST_PARTS. At least `least`.
std::uint64_t part_of(std::uint64_t full, std::uint64_t least = 1);

}  // namespace support
