// A program on a terminal: a pty of which the test holds both ends.
#pragma once

#include "support.hpp"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

extern char** environ;

namespace support {

/// A program on a terminal of its own. The test's end of the other side stays open, so that the terminal's modes can be seen.
class OnTerminal {
 public:
  OnTerminal(std::vector<std::string> command, const std::vector<std::string>& env = {}) {
    winsize size{};
    size.ws_col = 101, size.ws_row = 31;
    if (::openpty(&master_, &slave_, nullptr, nullptr, &size) != 0) throw std::runtime_error("openpty");
    ::fcntl(master_, F_SETFD, FD_CLOEXEC);
    ::fcntl(slave_, F_SETFD, FD_CLOEXEC);
    before_ = modes();
    std::vector<char*> arguments, variables;
    for (auto& part : command) arguments.push_back(part.data());
    arguments.push_back(nullptr);
    for (char** v = environ; *v; ++v)
      if (std::strncmp(*v, "TERM=", 5) != 0) variables.push_back(*v);
    std::string term = "TERM=xterm";
    variables.push_back(term.data());
    for (const auto& v : env) variables.push_back(const_cast<char*>(v.c_str()));
    variables.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      // Tests may run where some are ignored, as under nohup or behind a shell's `&`; what is ignored stays so.
      for (int number = 1; number < NSIG; ++number) ::signal(number, SIG_DFL);
      ::setsid();
      ::ioctl(slave_, TIOCSCTTY, 0);
      for (const int fd : {0, 1, 2}) ::dup2(slave_, fd);
      ::execve(arguments[0], arguments.data(), variables.data());
      ::_exit(99);
    }
  }
  ~OnTerminal() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    ::close(master_);
    ::close(slave_);
  }
  OnTerminal(const OnTerminal&) = delete;
  OnTerminal& operator=(const OnTerminal&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  void type(const std::string& keys) const {
    if (::write(master_, keys.data(), keys.size()) != static_cast<ssize_t>(keys.size())) throw std::runtime_error("cannot type");
  }
  void resize(unsigned short columns, unsigned short rows) const {
    winsize size{};
    size.ws_col = columns, size.ws_row = rows;
    ::ioctl(master_, TIOCSWINSZ, &size);
  }
  /// Reads on until `what` has come, from where the last call ended.
  void expect(const std::string& what) {
    const auto deadline = std::chrono::steady_clock::now() + 60s;
    for (;;) {
      if (const auto at = screen_.find(what); at != std::string::npos) {
        screen_.erase(0, at + what.size());
        return;
      }
      if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error("no '" + what + "' came; but: " + screen_);
      read_some();
    }
  }
  /// How it ended, as a shell says it.
  int wait() {
    const auto deadline = std::chrono::steady_clock::now() + 60s;
    int status = 0;
    while (::waitpid(pid_, &status, WNOHANG) == 0) {
      if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error("it does not end: " + screen_ + threads());
      read_some();
    }
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  /// The same when it has, else -1, a moment later.
  int ended() {
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) == 0) {
      read_some();
      return -1;
    }
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  /// Until it has stopped as by Ctrl-Z.
  bool wait_stopped() const {
    int status = 0;
    return ::waitpid(pid_, &status, WUNTRACED) == pid_ && WIFSTOPPED(status);
  }
  [[nodiscard]] bool raw() const { return (modes().c_lflag & (ICANON | ECHO | ISIG)) == 0; }
  bool becomes_raw() {
    const auto deadline = std::chrono::steady_clock::now() + 60s;
    while (!raw()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      read_some();
    }
    return true;
  }
  [[nodiscard]] bool restored() const {
    const termios now = modes();
    return now.c_iflag == before_.c_iflag && now.c_oflag == before_.c_oflag && now.c_cflag == before_.c_cflag &&
           now.c_lflag == before_.c_lflag && std::memcmp(now.c_cc, before_.c_cc, sizeof now.c_cc) == 0;
  }
  [[nodiscard]] std::string rest() {
    read_some();
    return screen_;
  }

 private:
  /// What its threads are at, for whoever looks for the reason why it hangs.
  [[nodiscard]] std::string threads() const {
    std::string found;
    for (const auto& thread : std::filesystem::directory_iterator("/proc/" + std::to_string(pid_) + "/task")) {
      for (const char* name : {"wchan", "syscall", "status"}) {
        std::ifstream file(thread.path() / name);
        found += "\n" + std::string(std::istreambuf_iterator<char>(file), {});
      }
    }
    return found;
  }
  [[nodiscard]] termios modes() const {
    termios now{};
    ::tcgetattr(slave_, &now);
    return now;
  }
  void read_some() {
    pollfd ready{master_, POLLIN, 0};
    if (::poll(&ready, 1, 20) <= 0) return;
    char buffer[4096];
    const ssize_t n = ::read(master_, buffer, sizeof buffer);
    if (n > 0) screen_.append(buffer, static_cast<std::size_t>(n));
  }

  int master_ = -1, slave_ = -1;
  pid_t pid_ = -1;
  termios before_{};
  std::string screen_;
};

/// The command line of a session on a terminal.
inline std::vector<std::string> sh(std::vector<std::string> rest = {}) {
  rest.insert(rest.begin(), {environment("CWSANDBOX_CLI"), "sh"});
  return rest;
}
/// A shell with a prompt of its own, and nothing of anybody's configuration.
inline std::vector<std::string> plain_shell() { return sh({"-e", "PS1=box> ", "--", "/bin/bash", "--norc", "--noprofile"}); }

}  // namespace support
