// What all parts of one gateway share.
#pragma once

#include "gateway/gateway.hpp"

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "runner/waiting.hpp"

namespace cwsandbox::gateway {

class ProcessRun;

/// Storage for reading pipes, used again and again. What is kept while idle is bounded by kKept, not by the number of processes.
class BufferPool {
 public:
  static constexpr std::size_t kSize = 64 * 1024;
  static constexpr std::size_t kKept = 16;

  /// A string of kSize bytes whose content is of no interest.
  [[nodiscard]] std::string get() {
    std::string out;
    if (!free_.empty()) {
      out = std::move(free_.back());
      free_.pop_back();
    }
    out.resize(kSize);
    return out;
  }
  void put(std::string buffer) {
    if (buffer.capacity() >= kSize && buffer.capacity() <= 2 * kSize && free_.size() < kKept) free_.push_back(std::move(buffer));
  }

 private:
  std::vector<std::string> free_;
};

struct Context {
  Context(asio::any_io_executor ex, GatewayOptions opts) : executor(std::move(ex)), options(std::move(opts)), changed(executor) {}

  asio::any_io_executor executor;
  GatewayOptions options;
  BufferPool buffers;
  bool stopping = false;  ///< no new work
  bool dropped = false;   ///< the gateway object is gone: whatever still comes back is thrown away
  /// Every process between its start and its end, so that it goes on without a connection.
  std::unordered_map<ProcessRun*, std::shared_ptr<ProcessRun>> runs;
  runner::TimedWaiters changed;  ///< notified when a sandbox, process or connection ends

  void log(LogLevel level, const std::string& text) const {
    if (options.log) options.log(level, text);
  }
};

}  // namespace cwsandbox::gateway
