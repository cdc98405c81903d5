#include "system.hpp"

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>

#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

namespace cli {

bool write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n > 0) {
      bytes.remove_prefix(static_cast<std::size_t>(n));
    } else if (errno == EAGAIN) {
      pollfd waiting{fd, POLLOUT, 0};
      ::poll(&waiting, 1, -1);
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

Event::Event() : fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (fd_ < 0) throw std::runtime_error(std::string("eventfd: ") + std::strerror(errno));
}
Event::~Event() { ::close(fd_); }
void Event::set() const {
  const std::uint64_t one = 1;
  static_cast<void>(!::write(fd_, &one, sizeof one));
}

Signals::Signals(std::initializer_list<int> numbers) {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : numbers) sigaddset(&set, number);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);  // write() says EPIPE instead
  fd_ = ::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (fd_ < 0) throw std::runtime_error(std::string("signalfd: ") + std::strerror(errno));
}
Signals::~Signals() { ::close(fd_); }

int Signals::read() const {
  signalfd_siginfo info{};
  return ::read(fd_, &info, sizeof info) == static_cast<ssize_t>(sizeof info) ? static_cast<int>(info.ssi_signo) : 0;
}

void check_signals(const Signals& signals) {
  while (const int number = signals.read()) {
    if (number == SIGWINCH) continue;
    if (number == SIGTSTP) {
      ::raise(SIGSTOP);
      continue;
    }
    throw Interrupted(number);
  }
}

void wait_ready(int fd, const Signals& signals, const std::function<void()>& tick) {
  for (;;) {
    pollfd ready[2] = {{fd, POLLIN, 0}, {signals.fd(), POLLIN, 0}};
    const int count = ::poll(ready, 2, tick ? 100 : -1);
    if (count < 0) {
      if (errno != EINTR) throw std::runtime_error(std::string("poll: ") + std::strerror(errno));
      continue;
    }
    if (ready[1].revents != 0) check_signals(signals);
    if (ready[0].revents != 0) return;
    if (tick) tick();
  }
}

}  // namespace cli
