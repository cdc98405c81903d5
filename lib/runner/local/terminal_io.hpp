// A process's terminal, from the master's side, as a byte source and sink.
#pragma once

#include <boost/asio/steady_timer.hpp>

#include <chrono>
#include <cstdint>
#include <memory>

#include "runner/local/descriptor_io.hpp"
#include "runner/waiting.hpp"

namespace cwsandbox::runner::local {

/// The master. It stays open until its session's leader has ended: that nobody has the terminal open meanwhile is no end, since the
/// leader may open it again (/dev/tty), and to close the master would kill it. When the leader has ended, what it has written is
/// read, and that is the end, whoever still has the terminal open; closing then hangs those up.
class Terminal : public std::enable_shared_from_this<Terminal> {
 public:
  Terminal(asio::any_io_executor executor, std::shared_ptr<WaitableFd> master);
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  void resize(std::uint16_t width, std::uint16_t height) noexcept;
  void leader_ended();

  [[nodiscard]] std::size_t try_read(asio::mutable_buffer into, error_code& ec);
  void wait_readable(IoHandler handler);
  [[nodiscard]] std::size_t try_write(asio::const_buffer from, error_code& ec);
  void wait_writable(IoHandler handler);
  [[nodiscard]] std::uint64_t written() const noexcept { return written_; }
  void wait_arrived(IoHandler handler) { IoWaiters::post(executor_, std::move(handler), {}); }
  /// Until the leader has ended: before, whoever reads the terminal has not gone for good.
  void wait_broken(IoHandler handler);
  /// No more input: from now on whoever reads the terminal meets the end.
  void end_input() noexcept;
  void close() noexcept;

 private:
  void look();
  void give_end();
  [[nodiscard]] bool input_is_unread() const noexcept;

  asio::any_io_executor executor_;
  std::shared_ptr<WaitableFd> master_;
  IoWaiters readers_, writers_, break_waiters_;
  asio::steady_timer reopened_, writable_, end_timer_;
  std::uint64_t written_ = 0;
  std::chrono::milliseconds end_pause_{0};
  std::size_t rest_ = 0;  // read since the leader's end
  bool leader_ended_ = false, nobody_ = false, looking_ = false, looking_to_write_ = false, input_ended_ = false;
};

class TerminalSource final : public ByteSource {
 public:
  explicit TerminalSource(std::shared_ptr<Terminal> terminal) : terminal_(std::move(terminal)) {}
  std::size_t try_read(asio::mutable_buffer into, error_code& ec) override { return terminal_->try_read(into, ec); }
  void async_wait(IoHandler handler) override { terminal_->wait_readable(std::move(handler)); }
  void close() noexcept override { terminal_->close(); }

 private:
  std::shared_ptr<Terminal> terminal_;
};

class TerminalSink final : public ByteSink {
 public:
  explicit TerminalSink(std::shared_ptr<Terminal> terminal) : terminal_(std::move(terminal)) {}
  std::size_t try_write(asio::const_buffer from, error_code& ec) override { return terminal_->try_write(from, ec); }
  void async_wait(IoHandler handler) override { terminal_->wait_writable(std::move(handler)); }
  void close() noexcept override { terminal_->end_input(); }
  std::uint64_t arrived() const noexcept override { return terminal_->written(); }
  void async_wait_arrived(IoHandler handler) override { terminal_->wait_arrived(std::move(handler)); }
  void async_wait_broken(IoHandler handler) override { terminal_->wait_broken(std::move(handler)); }

 private:
  std::shared_ptr<Terminal> terminal_;
};

}  // namespace cwsandbox::runner::local
