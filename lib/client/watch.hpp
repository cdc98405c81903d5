// What happens to a file of a sandbox, on its way to a reader.
#pragma once

#include <cwsandbox/watch.hpp>

#include "client/fed_queue.hpp"

#include <deque>
#include <functional>
#include <optional>

namespace cwsandbox::client {

/// Events between the connection and the reader. It never makes the connection wait: a reader that is held up for long would lose
/// it, and with it the place in what happens. Of what does not fit it says that it is missing.
class EventQueue final : public FedQueue<FileEvent, FileEvent> {
 public:
  static constexpr std::size_t kMost = 4096;  // some 250 bytes each, 512 with the longest names

  /// \param on_close called once when the reader closes the stream.
  explicit EventQueue(std::function<void()> on_close) : FedQueue(std::move(on_close)) {}

  void put(FileEvent event);

 private:
  bool take(std::deque<FileEvent>& events, std::optional<FileEvent>& item) override;

  bool full_ = false;  // an overflow stands at the end, and nothing is taken before there is room again
};

}  // namespace cwsandbox::client
