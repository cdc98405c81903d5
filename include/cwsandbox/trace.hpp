/// \file
/// TraceEvent and Logger: what a client does, told as it happens.
#pragma once

#include <cwsandbox/export.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace cwsandbox {

/// Something that a client has done: ClientOptions::with_trace. It holds no key, no header field, no query, no argument of a
/// command but its program, and nothing of what is sent and received.
class TraceEvent {
 public:
  TraceEvent() {}

  /// What it was.
  enum class Kind : std::uint8_t {
    request,  ///< a request was answered, or failed; the opening of an exec stream is one, too
    exec,     ///< a process has ended, or the gateway did not start it
    retry,    ///< an attempt has failed, and there will be another one
    resume    ///< the connection of a process was lost, and has been replaced
  };

  Kind kind = Kind::request;  ///< what it was
  /// request: method and path; exec and resume: the program, as far as it is known; retry: what is tried again.
  std::string operation;
  std::string sandbox_id;                ///< exec, resume, and retry where it is for one sandbox
  std::string process_id;                ///< exec, resume, and retry where it is for a process: Process::id()
  unsigned attempt = 0;                  ///< retry: which one has failed, from 1
  unsigned http_status = 0;              ///< request: of the answer; 0 when none has come
  std::chrono::nanoseconds duration{0};  ///< request: until the answer; exec: from the call on; resume: of the loss
  std::chrono::nanoseconds delay{0};     ///< retry: before the next attempt
  std::string_view outcome;              ///< exec: `to_string` of its Outcome
  std::string error;                     ///< what went wrong; empty: nothing
};
/// "request", "exec", "retry" or "resume".
[[nodiscard]] CWSANDBOX_EXPORT std::string_view to_string(TraceEvent::Kind kind) noexcept;

/// Told of each event, on the thread that does the work (the client's loop), perhaps on several at once; it should not take long
/// and may not call `result()` or the like. What it throws is dropped.
using TraceCallback = std::function<void(const TraceEvent&)>;

/// How much a line matters.
enum class LogLevel : std::uint8_t {
  debug,    ///< every request and process
  info,     ///< what was mended
  warning,  ///< what is tried again, and what should not be as it is
  error     ///< what is given up without anybody being told otherwise
};
/// "debug", "info", "warning" or "error".
[[nodiscard]] CWSANDBOX_EXPORT std::string_view to_string(LogLevel level) noexcept;

/// Gets lines for people, without a line feed, called as a TraceCallback is. Their texts may change; control characters of others
/// are escaped in them.
using Logger = std::function<void(LogLevel, std::string_view)>;

}  // namespace cwsandbox
