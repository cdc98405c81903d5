#include "runner/local/descriptor_io.hpp"

#include <boost/asio/bind_executor.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>

namespace cwsandbox::runner::local {

namespace {

// A pipe holds 64 KiB. One through which this much has passed gets a larger one, because fewer and larger reads are what makes
// it fast; not from the start, and not the most that is allowed, because the kernel gives one user only 64 MiB of pipes in all
// before it begins to shrink them.
constexpr std::size_t kGrowAfter = 512u << 10;
constexpr int kLargePipe = 256 << 10;

// A pipe has no MSG_NOSIGNAL. The signal that a write to a closed pipe raises goes to the writing thread, so it is blocked for
// this thread, and taken away again when the write raised it; the program's own handling of SIGPIPE is not touched.
class WithoutSigpipe {
 public:
  WithoutSigpipe() noexcept {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
    if (sigismember(&before_, SIGPIPE) == 1) {
      sigset_t pending;
      was_pending_ = sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE) == 1;
    }
  }
  WithoutSigpipe(const WithoutSigpipe&) = delete;
  WithoutSigpipe& operator=(const WithoutSigpipe&) = delete;
  ~WithoutSigpipe() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

  void take() const noexcept {
    if (was_pending_) return;
    const timespec at_once{};
    while (sigtimedwait(&pipe_, nullptr, &at_once) < 0 && errno == EINTR) {
    }
  }

 private:
  sigset_t pipe_, before_;
  bool was_pending_ = false;
};

void fail_later(const asio::any_io_executor& executor, IoHandler handler) {
  auto fail = [h = std::move(handler)]() mutable { std::move(h)(asio::error::operation_aborted); };
  asio::post(executor, std::move(fail));
}

}  // namespace

void PipeGrowth::count(int fd, std::size_t bytes) {
  if (grown_) return;
  seen_ += bytes;
  if (seen_ < kGrowAfter) return;
  grown_ = true;
  static_cast<void>(::fcntl(fd, F_SETPIPE_SZ, kLargePipe));  // without it, everything works as before
}

void WaitableFd::async_wait(asio::posix::stream_descriptor::wait_type what, IoHandler handler) {
  if (!is_open()) return fail_later(executor_, std::move(handler));
  if (!descriptor_) {
    error_code ec;
    descriptor_.emplace(executor_);
    descriptor_->assign(fd_.get(), ec);
    if (ec) {
      descriptor_.reset();
      auto fail = [h = std::move(handler), ec]() mutable { std::move(h)(ec); };
      return asio::post(executor_, std::move(fail));
    }
    static_cast<void>(fd_.release());
  }
  descriptor_->async_wait(what, asio::bind_executor(executor_, std::move(handler)));
}

void WaitableFd::close() noexcept {
  fd_.reset();
  if (descriptor_) {
    error_code ignored;
    descriptor_->close(ignored);
  }
}

std::size_t FdSource::try_read(asio::mutable_buffer into, error_code& ec) {
  ec = {};
  if (closed_ || !fd_->is_open()) {
    ec = asio::error::eof;
    return 0;
  }
  if (into.size() == 0) return 0;
  for (;;) {
    const ssize_t n = ::read(fd_->get(), into.data(), into.size());
    if (n > 0) {
      growth_.count(fd_->get(), static_cast<std::size_t>(n));
      taken_ += static_cast<std::size_t>(n);
      return static_cast<std::size_t>(n);
    }
    if (n < 0 && errno == EINTR) continue;
    if (n == 0) {
      ec = asio::error::eof;
    } else if (errno == EAGAIN) {
      ec = asio::error::would_block;
    } else {
      ec = error_code(errno, boost::system::system_category());
    }
    return 0;
  }
}

void FdSource::async_wait(IoHandler handler) { fd_->async_wait(asio::posix::stream_descriptor::wait_read, std::move(handler)); }

void FdSource::close() noexcept {
  closed_ = true;
  fd_->close();
}

std::uint64_t FdSource::unread() const noexcept {
  int bytes = 0;
  return closed_ || !fd_->is_open() || ::ioctl(fd_->get(), FIONREAD, &bytes) != 0 || bytes < 0 ? 0
                                                                                               : static_cast<std::uint64_t>(bytes);
}

std::size_t FdSink::try_write(asio::const_buffer from, error_code& ec) {
  ec = {};
  if (closed_ || !fd_->is_open()) {
    ec = asio::error::broken_pipe;
    return 0;
  }
  if (from.size() == 0) return 0;
  const WithoutSigpipe guard;
  for (;;) {
    const ssize_t n = ::write(fd_->get(), from.data(), from.size());
    if (n >= 0) {
      written_ += static_cast<std::uint64_t>(n);
      growth_.count(fd_->get(), static_cast<std::size_t>(n));
      return static_cast<std::size_t>(n);
    }
    if (errno == EINTR) continue;
    if (errno == EAGAIN) {
      ec = asio::error::would_block;
    } else if (errno == EPIPE) {
      guard.take();
      ec = asio::error::broken_pipe;
    } else {
      ec = error_code(errno, boost::system::system_category());
    }
    return 0;
  }
}

void FdSink::async_wait(IoHandler handler) { fd_->async_wait(asio::posix::stream_descriptor::wait_write, std::move(handler)); }

void FdSink::async_wait_arrived(IoHandler handler) { IoWaiters::post(fd_->executor(), std::move(handler), {}); }

void FdSink::async_wait_broken(IoHandler handler) {
  if (closed_) return fail_later(fd_->executor(), std::move(handler));
  // Where nobody reads a pipe any more, its writing end is in error, whether somebody writes or not.
  fd_->async_wait(asio::posix::stream_descriptor::wait_error, [h = std::move(handler)](error_code ec) mutable {
    std::move(h)(ec ? ec : error_code(asio::error::broken_pipe));
  });
}

void FdSink::close() noexcept {
  closed_ = true;
  fd_->close();
}

}  // namespace cwsandbox::runner::local
