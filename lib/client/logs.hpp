// The log of a sandbox as lines: parts of the stream are joined, and a follow goes on where it broke.
#pragma once

#include <cwsandbox/logs.hpp>
#include <cwsandbox/stream_reader.hpp>

#include "client/fed_queue.hpp"
#include "client/sandbox_state.hpp"

#include <boost/asio/awaitable.hpp>

#include <deque>
#include <functional>
#include <string>

namespace cwsandbox::client {

/// A piece of the log, as the server sent it.
struct LogPart {
  std::string bytes;
  std::size_t at = 0;
  std::optional<std::chrono::system_clock::time_point> timestamp;
  std::uint64_t lost = 0;
  bool gap = false, whole = true;  ///< whole: every line has its '\n'
};

/// Lines between the stream and the reader, bounded by bytes, taken apart when they are read.
class LineQueue final : public FedQueue<LogLine, LogPart> {
 public:
  using Time = std::optional<std::chrono::system_clock::time_point>;

  /// \param on_close called once when the reader closes the stream.
  LineQueue(LoopManager loop, std::function<void()> on_close) : FedQueue(std::move(on_close)), loop_(std::move(loop)) {}

  /// Whole lines, each with its '\n'.
  void put(std::string lines, Time timestamp);
  /// A last line that nothing ends; or a place where `lost` bytes are missing.
  void put_line(std::string text, Time timestamp);
  void put_gap(std::uint64_t lost);
  /// Completes when there is room for more. One at a time.
  [[nodiscard]] task<void> room();

 private:
  void add(LogPart part);
  bool take(std::deque<LogPart>& parts, std::optional<LogLine>& item) override;

  const LoopManager loop_;
  std::size_t held_ = 0;
};

/// Feeds `into` until the log ends or this coroutine is cancelled.
[[nodiscard]] asio::awaitable<void> stream_logs(std::shared_ptr<detail::SandboxState> state, LogOptions options,
                                                std::shared_ptr<LineQueue> into);

}  // namespace cwsandbox::client
