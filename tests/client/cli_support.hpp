// What tests of `cwsandbox` as a program need.
#pragma once

#include "support.hpp"

#include <filesystem>
#include <fstream>

#include <sys/wait.h>

namespace support {

/// A gateway with a sandbox, and a directory of this machine.
class Place {
 public:
  explicit Place(cwsandbox::SandboxOptions options = cwsandbox::SandboxOptions()) : client(daemon.options()) {
    sandbox = Sandbox::run(client, std::move(options));
    sandbox.start().result();
    id = *sandbox.sandbox_id();
  }
  ~Place() { std::filesystem::remove_all(local.path() + "/w"); }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  Ran cli(std::vector<std::string> arguments, const std::string& input = "") const {
    arguments.insert(arguments.begin(), environment("CWSANDBOX_CLI"));
    return run_program(arguments, input, env());
  }
  /// The same within a script: $CLI, and $ID of the sandbox.
  Ran shell(const std::string& script) const {
    auto variables = env();
    variables.push_back("CLI=" + environment("CWSANDBOX_CLI"));
    variables.push_back("ID=" + id);
    return run_program({"/bin/sh", "-c", script}, "", variables);
  }
  [[nodiscard]] std::vector<std::string> env() const {
    return {"CWSANDBOX_BASE_URL=" + daemon.url(), "CWSANDBOX_API_KEY=" + daemon.token()};
  }
  /// A directory of this machine for the test.
  [[nodiscard]] std::string here(const std::string& name) const {
    std::filesystem::create_directories(local.path() + "/w");
    return local.path() + "/w/" + name;
  }
  [[nodiscard]] std::string there(const std::string& path) const { return id + ":" + path; }

  Daemon daemon;
  cwsandbox::Client client;
  TemporaryDirectory local;
  Sandbox sandbox;
  std::string id;
};

/// How it ended; less than 0 by a signal.
inline int code(const Ran& ran) { return WIFEXITED(ran.status) ? WEXITSTATUS(ran.status) : -WTERMSIG(ran.status); }
inline void write(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }
inline std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace support
