#include "terminal_mode.hpp"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <stdexcept>
#include <string>

#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

namespace cli {

namespace {

// A signal handler and exit() read these: written once, before `active` is set.
int terminal = -1;
termios before{};
std::atomic<bool> active{false};
static_assert(std::atomic<bool>::is_always_lock_free);

/// Async-signal-safe.
void give_back() noexcept {
  if (!active.exchange(false)) return;
  // Otherwise tcsetattr would stop a program that has been put into the background.
  sigset_t set, old;
  sigemptyset(&set);
  sigaddset(&set, SIGTTOU);
  ::pthread_sigmask(SIG_BLOCK, &set, &old);
  while (::tcsetattr(terminal, TCSADRAIN, &before) != 0 && errno == EINTR) {
  }
  ::pthread_sigmask(SIG_SETMASK, &old, nullptr);
}

constexpr int kFatal[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGQUIT, SIGTRAP, SIGSYS, SIGXCPU, SIGALRM, SIGUSR1, SIGUSR2};

struct sigaction previous[std::size(kFatal)];

extern "C" void on_fatal(int number) {
  const int error = errno;
  give_back();
  for (std::size_t i = 0; i < std::size(kFatal); ++i)
    if (kFatal[i] == number) ::sigaction(number, &previous[i], nullptr);
  ::raise(number);  // blocked until this returns; then it takes the course that it would have
  errno = error;
}

void enter() {
  termios raw = before;
  ::cfmakeraw(&raw);
  while (::tcsetattr(terminal, TCSADRAIN, &raw) != 0)
    if (errno != EINTR) throw std::runtime_error(std::string("cannot put the terminal into raw mode: ") + std::strerror(errno));
  active = true;
}

}  // namespace

TerminalMode::TerminalMode(int fd) {
  if (active) throw std::logic_error("the terminal is in raw mode already");
  terminal = fd;
  if (::tcgetattr(fd, &before) != 0) throw std::runtime_error(std::string("not a terminal: ") + std::strerror(errno));
  static const bool registered = [] {
    static_cast<void>(std::atexit([] { give_back(); }));
    struct sigaction action{};
    action.sa_handler = on_fatal;
    sigfillset(&action.sa_mask);
    for (std::size_t i = 0; i < std::size(kFatal); ++i)
      if (::sigaction(kFatal[i], nullptr, &previous[i]) == 0 && previous[i].sa_handler != SIG_IGN)
        ::sigaction(kFatal[i], &action, nullptr);
    return true;
  }();
  static_cast<void>(registered);
  enter();
}

TerminalMode::~TerminalMode() { give_back(); }

void TerminalMode::suspend() {
  give_back();
  ::raise(SIGSTOP);  // to this thread: sent to the process, it could stop after the next line
  // Continued. In the background the terminal is somebody else's: then it stays as it is.
  if (::tcgetpgrp(terminal) == ::getpgrp()) enter();
}

std::optional<std::pair<int, int>> terminal_size() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    winsize size{};
    if (::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0)
      return std::pair<int, int>(size.ws_col, size.ws_row);
  }
  return std::nullopt;
}

}  // namespace cli
