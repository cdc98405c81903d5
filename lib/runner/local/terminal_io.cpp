#include "runner/local/terminal_io.hpp"

#include <boost/asio/error.hpp>

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace cwsandbox::runner::local {

namespace {

// The kernel says when something comes, but not when somebody opens a terminal that nobody had open: it is looked at so often.
constexpr std::chrono::milliseconds kReopened{20};
// A terminal holds less than that between its two ends, so what comes after it was not written by a leader that has ended.
constexpr std::size_t kMostHeld = 64 * 1024;
// How soon, and how often at least, a terminal whose input has ended is looked at for a reader who has not met the end.
constexpr std::chrono::milliseconds kFirstEnd{2}, kLastEnd{250};

}  // namespace

Terminal::Terminal(asio::any_io_executor executor, std::shared_ptr<WaitableFd> master)
    : executor_(std::move(executor)),
      master_(std::move(master)),
      reopened_(executor_),
      writable_(executor_),
      end_timer_(executor_) {}

void Terminal::resize(std::uint16_t width, std::uint16_t height) noexcept {
  if (!master_->is_open()) return;
  const winsize size{height, width, 0, 0};
  ::ioctl(master_->get(), TIOCSWINSZ, &size);
}

void Terminal::leader_ended() {
  leader_ended_ = true;
  end_timer_.cancel();
  readers_.resume_all(executor_);
  writers_.resume_all(executor_);
  break_waiters_.resume_all(executor_, asio::error::broken_pipe);
}

void Terminal::close() noexcept {
  reopened_.cancel();
  writable_.cancel();
  end_timer_.cancel();
  master_->close();
  for (IoWaiters* waiters : {&readers_, &writers_, &break_waiters_}) waiters->resume_all(executor_, asio::error::operation_aborted);
}

// ---- output ----

std::size_t Terminal::try_read(asio::mutable_buffer into, error_code& ec) {
  ec = {};
  if (!master_->is_open() || rest_ >= kMostHeld) {
    ec = asio::error::eof;
    return 0;
  }
  if (into.size() == 0) return 0;
  for (;;) {
    const ssize_t n = ::read(master_->get(), into.data(), into.size());
    if (n < 0 && errno == EINTR) continue;
    nobody_ = n == 0 || (n < 0 && errno == EIO);
    if (n > 0) {
      if (leader_ended_) rest_ += static_cast<std::size_t>(n);
      return static_cast<std::size_t>(n);
    }
    if (!nobody_ && errno != EAGAIN) {
      ec = error_code(errno, boost::system::system_category());
    } else {
      // Nothing is there, and the kernel has looked for what was under way before it said so.
      ec = leader_ended_ ? error_code(asio::error::eof) : error_code(asio::error::would_block);
    }
    return 0;
  }
}

void Terminal::wait_readable(IoHandler handler) {
  if (!master_->is_open()) return IoWaiters::post(executor_, std::move(handler), asio::error::operation_aborted);
  if (leader_ended_) return IoWaiters::post(executor_, std::move(handler), {});
  readers_.add(std::move(handler));
  if (!looking_) look();
}

void Terminal::look() {
  looking_ = true;
  const auto done = [weak = weak_from_this()](const error_code&) {
    const auto self = weak.lock();
    if (!self) return;
    self->looking_ = false;
    self->readers_.resume_all(self->executor_);
  };
  // To wait for a terminal that nobody has open would be over at once, again and again.
  if (!nobody_) return master_->async_wait(asio::posix::stream_descriptor::wait_read, done);
  reopened_.expires_after(kReopened);
  reopened_.async_wait(done);
}

// ---- input ----

std::size_t Terminal::try_write(asio::const_buffer from, error_code& ec) {
  ec = {};
  if (input_ended_ || leader_ended_ || !master_->is_open()) {
    ec = asio::error::broken_pipe;
    return 0;
  }
  if (from.size() == 0) return 0;
  for (;;) {
    const ssize_t n = ::write(master_->get(), from.data(), from.size());
    if (n < 0 && errno == EINTR) continue;
    nobody_ = n < 0 && errno == EIO;
    if (n > 0) {
      written_ += static_cast<std::uint64_t>(n);
      return static_cast<std::size_t>(n);
    }
    if (n == 0 || nobody_ || errno == EAGAIN) {
      ec = asio::error::would_block;
    } else {
      ec = error_code(errno, boost::system::system_category());
    }
    return 0;
  }
}

void Terminal::wait_writable(IoHandler handler) {
  if (!master_->is_open()) return IoWaiters::post(executor_, std::move(handler), asio::error::operation_aborted);
  if (leader_ended_ || input_ended_) return IoWaiters::post(executor_, std::move(handler), {});
  writers_.add(std::move(handler));
  if (std::exchange(looking_to_write_, true)) return;
  const auto done = [weak = weak_from_this()](const error_code&) {
    const auto self = weak.lock();
    if (!self) return;
    self->looking_to_write_ = false;
    self->writers_.resume_all(self->executor_);
  };
  if (!nobody_) return master_->async_wait(asio::posix::stream_descriptor::wait_write, done);
  writable_.expires_after(kReopened);
  writable_.async_wait(done);
}

void Terminal::wait_broken(IoHandler handler) {
  if (!master_->is_open() || input_ended_) return IoWaiters::post(executor_, std::move(handler), asio::error::operation_aborted);
  if (leader_ended_) return IoWaiters::post(executor_, std::move(handler), asio::error::broken_pipe);
  break_waiters_.add(std::move(handler));
}

void Terminal::end_input() noexcept {
  if (input_ended_) return;
  input_ended_ = true;
  for (IoWaiters* waiters : {&writers_, &break_waiters_}) waiters->resume_all(executor_, asio::error::operation_aborted);
  end_pause_ = kFirstEnd;
  give_end();
}

// A terminal has no half-close. Its end of input is a character, which its line discipline turns into one for a single read: behind
// an unfinished line it only hands out that line, and in raw mode it is a byte as any other. So it is given again whenever all that
// was given before has been read. A raw terminal is made one of lines for it, since there is nothing left that could be typed; but
// a read that began before must first get a byte, or the kernel takes the end for no reason to return. That is the one that the key
// would have given.
void Terminal::give_end() {
  constexpr cc_t key = 4, end_behind_it = 5;
  if (leader_ended_ || !master_->is_open()) return;
  termios settings{};
  if (!input_is_unread() && ::tcgetattr(master_->get(), &settings) == 0) {
    cc_t bytes[2] = {key, end_behind_it};
    std::size_t count = 2;
    if ((settings.c_lflag & ICANON) == 0) {
      settings.c_lflag |= ICANON;
      settings.c_cc[VEOL] = key;
      settings.c_cc[VEOF] = end_behind_it;
      ::tcsetattr(master_->get(), TCSANOW, &settings);
    } else {
      if (settings.c_cc[VEOF] == _POSIX_VDISABLE) {
        settings.c_cc[VEOF] = key;
        ::tcsetattr(master_->get(), TCSANOW, &settings);
      }
      bytes[0] = settings.c_cc[VEOF];
      count = 1;
    }
    static_cast<void>(::write(master_->get(), bytes, count) > 0);  // where there is no room for it, it is tried again
  }
  end_timer_.expires_after(end_pause_);
  end_pause_ = std::min(2 * end_pause_, kLastEnd);
  end_timer_.async_wait([weak = weak_from_this()](const error_code& ec) {
    const auto self = weak.lock();
    if (self && !ec) self->give_end();
  });
}

// Seen from the other side, which is opened for it: input, or an end of it, for which nobody has asked yet. When it cannot be
// opened, it is taken for read: too many ends do less harm than none.
bool Terminal::input_is_unread() const noexcept {
  const UniqueFd slave(::ioctl(master_->get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
  if (!slave) return false;
  pollfd ready{slave.get(), POLLIN, 0};
  return ::poll(&ready, 1, 0) > 0 && (ready.revents & POLLIN) != 0;
}

}  // namespace cwsandbox::runner::local
