// coreweave.sandbox.v1, sandbox.proto: the log of the main command.
#pragma once

#include "messages/fields.hpp"

namespace cwsandbox::messages {

struct StreamLogsRequest {
  std::string sandbox_id;
  bool follow = false;
  std::int32_t tail_lines = 0;
  Timestamp since_time;
  std::string container;
  bool timestamps = false;
  std::string resume_log_session_id;
  std::uint64_t resume_log_offset = 0;

  static const Type kType;
};

struct LogStreamError {
  std::string message;
  std::string code;

  static const Type kType;
};

struct LogEntry {
  std::string data;
  Timestamp timestamp;
  std::string log_session_id;
  std::uint64_t next_log_offset = 0;
  std::optional<LogStreamError> error;

  static const Type kType;
};

}  // namespace cwsandbox::messages
