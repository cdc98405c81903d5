// The log of a sandbox as lines: parts of the stream are joined, and a follow goes on where it broke.
#pragma once

#include <cwsandbox/logs.hpp>
#include <cwsandbox/stream_reader.hpp>

#include "client/sandbox_state.hpp"

#include <boost/asio/awaitable.hpp>

#include <deque>
#include <functional>
#include <mutex>
#include <string>

namespace cwsandbox::client {

/// Lines between the stream and the reader, bounded by bytes. Held as the server sent them, and taken apart when they are read.
class LineQueue final : public detail::Source<LogLine> {
 public:
  using Time = std::optional<std::chrono::system_clock::time_point>;

  /// \param on_close called once when the reader closes the stream.
  LineQueue(LoopManager loop, std::function<void()> on_close) : loop_(std::move(loop)), on_close_(std::move(on_close)) {}

  /// Whole lines, each with its '\n'.
  void put(std::string lines, Time timestamp);
  /// A last line that nothing ends; or a place where `lost` bytes are missing.
  void put_line(std::string text, Time timestamp);
  void put_gap(std::uint64_t lost);
  /// Completes when there is room for more. One at a time.
  [[nodiscard]] task<void> room();
  /// The end, or an error, after everything queued.
  void finish(std::exception_ptr error = nullptr);

  Poll poll(std::optional<LogLine>& item) override;
  void arm(std::function<void()> wake) override;
  void close() override;

 private:
  struct Part {
    std::string bytes;
    std::size_t at = 0;
    Time timestamp;
    std::uint64_t lost = 0;
    bool gap = false, whole = true;  ///< whole: every line has its '\n'
  };
  void add(Part part);

  const LoopManager loop_;
  std::function<void()> on_close_, wake_;
  std::mutex mutex_;
  std::deque<Part> parts_;
  std::size_t held_ = 0;
  std::optional<task_source<void>> waiting_;
  std::exception_ptr error_;
  bool ended_ = false, closed_ = false;
};

/// Feeds `into` until the log ends or this coroutine is cancelled.
[[nodiscard]] asio::awaitable<void> stream_logs(std::shared_ptr<detail::SandboxState> state, LogOptions options,
                                                std::shared_ptr<LineQueue> into);

}  // namespace cwsandbox::client
