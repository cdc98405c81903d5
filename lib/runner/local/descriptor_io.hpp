// A process's ends of its pipes as byte sources and sinks. Its terminal: terminal_io.hpp.
#pragma once

#include <boost/asio/posix/stream_descriptor.hpp>

#include <memory>
#include <optional>

#include "runner/local/unique_fd.hpp"
#include "runner/runner.hpp"
#include "runner/waiting.hpp"

namespace cwsandbox::runner::local {

/// A descriptor that the event loop hears of only when somebody has to wait: what a short process writes is often there at the
/// first try.
class WaitableFd {
 public:
  WaitableFd(asio::any_io_executor executor, UniqueFd fd) : executor_(std::move(executor)), fd_(std::move(fd)) {}
  [[nodiscard]] int get() noexcept { return descriptor_ ? descriptor_->native_handle() : fd_.get(); }
  [[nodiscard]] const asio::any_io_executor& executor() const noexcept { return executor_; }
  [[nodiscard]] bool is_open() const noexcept { return descriptor_ ? descriptor_->is_open() : static_cast<bool>(fd_); }
  void async_wait(asio::posix::stream_descriptor::wait_type what, IoHandler handler);
  void close() noexcept;

 private:
  asio::any_io_executor executor_;
  UniqueFd fd_;
  std::optional<asio::posix::stream_descriptor> descriptor_;
};

/// A pipe through which much passes gets a larger one.
class PipeGrowth {
 public:
  void count(int fd, std::size_t bytes);

 private:
  std::size_t seen_ = 0;
  bool grown_ = false;
};

/// What a process writes into a pipe.
class FdSource final : public ByteSource {
 public:
  explicit FdSource(std::shared_ptr<WaitableFd> fd) : fd_(std::move(fd)) {}
  std::size_t try_read(asio::mutable_buffer into, error_code& ec) override;
  void async_wait(IoHandler handler) override;
  void close() noexcept override;
  [[nodiscard]] std::uint64_t unread() const noexcept override;
  /// Bytes that have been read.
  [[nodiscard]] std::uint64_t taken() const noexcept { return taken_; }

 private:
  std::shared_ptr<WaitableFd> fd_;
  std::uint64_t taken_ = 0;
  bool closed_ = false;
  PipeGrowth growth_;
};

/// What a process reads from a pipe.
class FdSink final : public ByteSink {
 public:
  explicit FdSink(std::shared_ptr<WaitableFd> fd) : fd_(std::move(fd)) {}
  std::size_t try_write(asio::const_buffer from, error_code& ec) override;
  void async_wait(IoHandler handler) override;
  void close() noexcept override;
  std::uint64_t arrived() const noexcept override { return written_; }
  void async_wait_arrived(IoHandler handler) override;
  void async_wait_broken(IoHandler handler) override;

 private:
  std::shared_ptr<WaitableFd> fd_;
  bool closed_ = false;
  std::uint64_t written_ = 0;
  PipeGrowth growth_;
};

}  // namespace cwsandbox::runner::local
