// What the commands need of the system: writing all of something, waking a poll, signals as a descriptor.
#pragma once

#include <cwsandbox/task.hpp>

#include <chrono>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string_view>

#include <poll.h>
#include <csignal>

namespace cli {

class Event;

/// False: nobody reads `fd` any more, or it broke; errno says which.
bool write_all(int fd, std::string_view bytes);
/// The same; what cannot be written is left when `over` is set, which is false with ECANCELED.
bool write_all(int fd, std::string_view bytes, const Event& over);

/// Wakes threads that wait in poll.
class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void set() const;
  void clear() const;
  [[nodiscard]] int fd() const noexcept { return fd_; }

 private:
  int fd_;
};

/// Signals as a descriptor. Made first of all, so that every thread has them blocked.
class Signals {
 public:
  explicit Signals(std::initializer_list<int> numbers);
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;
  [[nodiscard]] int fd() const noexcept { return fd_; }
  /// The next one; 0 when there is none.
  [[nodiscard]] int read() const;

 private:
  int fd_ = -1;
};

/// Thrown when a signal ended the wait for something.
class Interrupted {
 public:
  explicit Interrupted(int number) : signal(number) {}
  int signal;
};

/// Throws Interrupted when a signal that ends a command has come.
void check_signals(const Signals& signals);
/// Waits until one of the two is ready, but not longer than until a signal that ends a command: then throws Interrupted.
/// `tick` is called ten times a second.
void wait_ready(int fd, const Signals& signals, const std::function<void()>& tick);

/// Waits for a call, but not longer than until Ctrl-C or SIGTERM; then the call is left alone and Interrupted is thrown.
template <typename T>
void wait_or_signal(const cwsandbox::task<T>& task, const Signals& signals, const std::function<void()>& tick = nullptr) {
  if (task.done()) return;
  auto done = std::make_shared<Event>();
  task.state()->add_continuation([done] { done->set(); });
  wait_ready(done->fd(), signals, tick);
}

template <typename T>
T result_or_signal(const cwsandbox::task<T>& task, const Signals& signals, const std::function<void()>& tick = nullptr) {
  wait_or_signal(task, signals, tick);
  return task.result();
}

}  // namespace cli
