// cwsandboxd as a process of its own.
#pragma once

#include "gateway_support.hpp"
#include "support/catch.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

namespace gateway_test {

inline std::string read_file(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

inline std::string program() {
  const char* path = std::getenv("CWSANDBOXD");
  REQUIRE(path != nullptr);
  return path;
}

class Child {
 public:
  Child(std::vector<std::string> arguments, const std::string& log) {
    std::vector<char*> argv;
    for (auto& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      const int fd = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
      ::dup2(fd, 1);
      ::dup2(fd, 2);
      ::execvp(argv[0], argv.data());
      ::_exit(126);
    }
  }
  ~Child() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  void signal(int number) const { ::kill(pid_, number); }
  [[nodiscard]] pid_t pid() const noexcept { return pid_; }
  /// Exit code, or minus the signal.
  int wait() {
    int status = 0;
    const bool ended = eventually([&] { return ::waitpid(pid_, &status, WNOHANG) == pid_; });
    REQUIRE(ended);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  pid_t pid_ = -1;
};

struct Daemon {
  /// `shell` is run before, by sh: limits of the process, for example.
  explicit Daemon(const std::vector<std::string>& more = {}, const std::string& shell = "") {
    write_tokens(std::string("# the tokens\n\n  ") + kToken + "  \nsecond-token\n");
    address.is_unix = true;
    address.path = dir.path("socket");
    std::vector<std::string> arguments = {program(), "--listen", "unix:" + address.path, "--token-file", dir.path("token")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    if (!shell.empty()) arguments.insert(arguments.begin(), {"/bin/sh", "-c", shell + "; exec \"$@\"", "sh"});
    child = std::make_unique<Child>(arguments, dir.path("log"));
    const bool silent = shell.find("2>") != std::string::npos;
    const std::string listening = "listening on unix:" + address.path;
    REQUIRE(eventually([&] { return silent ? listens() : log().find(listening) != std::string::npos; }));
  }
  void write_tokens(const std::string& text) const {
    std::ofstream(dir.path("token")) << text;
    ::chmod(dir.path("token").c_str(), 0600);
  }
  bool listens() const {
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    address.path.copy(to.sun_path, sizeof to.sun_path - 1);
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool connected = ::connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0;
    ::close(fd);
    return connected;
  }
  std::string log() const { return read_file(dir.path("log")); }
  Answer call(const std::string& method, const Json& body, const std::string& token = kToken) const {
    return http(address, "POST", "/coreweave.sandbox.v1.SandboxService/" + method,
                {{"Authorization", "Bearer " + token}, {"Content-Type", "application/json"}}, body.dump());
  }
  std::string sandbox() const {
    const std::string id = call("CreateSandbox", {{"sandbox", {{"spec", Json::object()}}}}).json()["sandboxId"];
    REQUIRE(eventually([&] { return call("GetSandbox", {{"sandboxId", id}}).json()["status"]["state"] == "STATE_RUNNING"; }));
    return id;
  }

  TempDir dir;
  net::ListenAddress address;
  std::unique_ptr<Child> child;
};

}  // namespace gateway_test
