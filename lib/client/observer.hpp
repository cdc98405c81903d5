// Tells whoever asked for it what a client does: traces, and the log's lines that are made of them.
#pragma once

#include <cwsandbox/trace.hpp>

#include <exception>
#include <string>

namespace cwsandbox::client {

/// Thread safe. The callbacks run on the caller's thread: never under a lock.
class Observer {
 public:
  /// One of them may be empty.
  Observer(TraceCallback trace, Logger logger) : trace_(std::move(trace)), logger_(std::move(logger)) {}
  void tell(const TraceEvent& event) const noexcept;
  void log(LogLevel level, const std::string& text) const noexcept;

 private:
  TraceCallback trace_;
  Logger logger_;
};

/// The text of an exception.
[[nodiscard]] std::string text_of(const std::exception_ptr& error);

}  // namespace cwsandbox::client
