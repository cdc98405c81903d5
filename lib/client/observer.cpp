#include "client/observer.hpp"

#include "base/text.hpp"

namespace cwsandbox {

std::string_view to_string(TraceEvent::Kind kind) noexcept {
  switch (kind) {
    case TraceEvent::Kind::request:
      return "request";
    case TraceEvent::Kind::exec:
      return "exec";
    case TraceEvent::Kind::retry:
      return "retry";
    case TraceEvent::Kind::resume:
      break;
  }
  return "resume";
}

std::string_view to_string(LogLevel level) noexcept {
  switch (level) {
    case LogLevel::debug:
      return "debug";
    case LogLevel::info:
      return "info";
    case LogLevel::warning:
      return "warning";
    case LogLevel::error:
      break;
  }
  return "error";
}

namespace client {

namespace {

constexpr std::size_t kMostText = 1000;  // of a server's text in a line

std::string in_ms(std::chrono::nanoseconds duration) {
  return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(duration).count()) + " ms";
}

std::string shown(const std::string& text) { return base::printable(text, kMostText); }

/// "process ID (program) in sandbox ID", as far as they are known.
std::string process_of(const TraceEvent& event) {
  std::string text = "process " + shown(event.process_id);
  if (!event.operation.empty()) text += " (" + shown(event.operation) + ")";
  if (!event.sandbox_id.empty()) text += " in sandbox " + shown(event.sandbox_id);
  return text;
}

std::string line_of(const TraceEvent& event) {
  switch (event.kind) {
    case TraceEvent::Kind::request: {
      std::string text = shown(event.operation) + ": ";
      if (event.http_status != 0) text += "status " + std::to_string(event.http_status) + " ";
      text += "after " + in_ms(event.duration);
      if (!event.error.empty()) text += ": " + shown(event.error);
      return text;
    }
    case TraceEvent::Kind::exec: {
      std::string text = process_of(event) + ": " + std::string(event.outcome) + " after " + in_ms(event.duration);
      if (!event.error.empty()) text += ": " + shown(event.error);
      return text;
    }
    case TraceEvent::Kind::retry: {
      std::string text = shown(event.operation);
      if (!event.process_id.empty()) text += " of process " + shown(event.process_id);
      if (!event.sandbox_id.empty()) text += " in sandbox " + shown(event.sandbox_id);
      return text + ": attempt " + std::to_string(event.attempt) + " failed, the next one comes in " + in_ms(event.delay) + ": " +
             shown(event.error);
    }
    case TraceEvent::Kind::resume:
      break;
  }
  return process_of(event) + ": connected again after " + in_ms(event.duration);
}

LogLevel level_of(TraceEvent::Kind kind) {
  switch (kind) {
    case TraceEvent::Kind::retry:
      return LogLevel::warning;
    case TraceEvent::Kind::resume:
      return LogLevel::info;
    case TraceEvent::Kind::request:
    case TraceEvent::Kind::exec:
      break;
  }
  return LogLevel::debug;
}

}  // namespace

void Observer::tell(const TraceEvent& event) const noexcept {
  try {
    if (trace_) trace_(event);
  } catch (...) {  // as documented: whoever only looks on must not break what is looked at
  }
  try {
    if (logger_) logger_(level_of(event.kind), line_of(event));
  } catch (...) {
  }
}

void Observer::log(LogLevel level, const std::string& text) const noexcept {
  try {
    if (logger_) logger_(level, text);
  } catch (...) {
  }
}

std::string text_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "unknown error";
  }
}

}  // namespace client

}  // namespace cwsandbox
