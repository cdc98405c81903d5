// coreweave.sandbox.v1, sandbox.proto: running a command, with one answer (Exec) and as a stream (StreamExec).
#pragma once

#include "messages/fields.hpp"

namespace cwsandbox::messages {

enum class OutputStream : std::uint8_t { unspecified, stdout, stderr };
[[nodiscard]] const EnumType& describe(OutputStream) noexcept;

struct ExecRequest {
  std::string sandbox_id;
  std::vector<std::string> command;
  TextMap env;
  std::int32_t max_output_bytes = 0;
  std::string container;

  static const Type kType;
};

struct ExecResponse {
  std::string std_out;
  std::string std_err;
  std::int32_t exit_code = 0;
  bool stdout_truncated = false;
  bool stderr_truncated = false;
  std::int64_t stdout_bytes_produced = 0;
  std::int64_t stderr_bytes_produced = 0;

  static const Type kType;
};

struct ExecStreamInit {
  std::string sandbox_id;
  std::vector<std::string> command;
  bool tty = false;
  std::uint32_t tty_width = 0;
  std::uint32_t tty_height = 0;
  TextMap env;
  std::string container;

  static const Type kType;
};

struct ExecStreamResize {
  std::uint32_t width = 0;
  std::uint32_t height = 0;

  static const Type kType;
};

struct ExecStreamClose {
  static const Type kType;
};

struct ExecStreamRequest {
  std::optional<ExecStreamInit> init;
  std::optional<std::string> std_in;
  std::optional<ExecStreamResize> resize;
  std::optional<ExecStreamClose> close;

  static const Type kType;
};

struct ExecStreamReady {
  Timestamp ready_time;

  static const Type kType;
};

struct ExecStreamOutput {
  OutputStream stream = OutputStream::unspecified;
  std::string data;

  static const Type kType;
};

struct ExecStreamExit {
  std::int32_t exit_code = 0;
  Timestamp completed_time;

  static const Type kType;
};

struct ExecStreamError {
  std::string message;
  std::string code;

  static const Type kType;
};

struct ExecStreamResponse {
  std::optional<ExecStreamReady> ready;
  std::optional<ExecStreamOutput> output;
  std::optional<ExecStreamExit> exit;
  std::optional<ExecStreamError> error;

  static const Type kType;
};

}  // namespace cwsandbox::messages
