#include "system.hpp"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <stdexcept>
#include <string>

#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

namespace cli {

namespace {

/// False when it went wrong for good.
bool write_some(int fd, std::string_view& bytes, std::size_t most) {
  const ssize_t n = ::write(fd, bytes.data(), std::min(bytes.size(), most));
  if (n > 0) bytes.remove_prefix(static_cast<std::size_t>(n));
  if (n == 0) errno = EIO;  // nothing waits, nothing is wrong, and nothing goes on: no endless loop
  return n > 0 || (n < 0 && (errno == EINTR || errno == EAGAIN));
}

}  // namespace

bool write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    errno = 0;
    if (!write_some(fd, bytes, bytes.size())) return false;
    if (errno != EAGAIN) continue;
    pollfd waiting{fd, POLLOUT, 0};
    ::poll(&waiting, 1, -1);
  }
  return true;
}

bool write_all(int fd, std::string_view bytes, const Event& over) {
  while (!bytes.empty()) {
    pollfd ready[2] = {{fd, POLLOUT, 0}, {over.fd(), POLLIN, 0}};
    if (::poll(ready, 2, -1) < 0 && errno != EINTR) return false;
    if (ready[0].revents != 0) {
      // No more than what a pipe that can be written takes without waiting.
      if (!write_some(fd, bytes, PIPE_BUF)) return false;
    } else if (ready[1].revents != 0) {
      errno = ECANCELED;
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

void Event::clear() const {
  std::uint64_t count = 0;
  static_cast<void>(!::read(fd_, &count, sizeof count));
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
