// The messages of the exec stream as bytes: what both machines share. Normative: docs/exec-stream.md.
//
// Encoders write a whole message, channel byte included. Decoders throw Fault, which the machines turn into ProtocolError.
#pragma once

#include "protocol/exec_stream.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

namespace cwsandbox::protocol {

/// A peer's fault on its way up to `on_message`. Never leaves this room.
struct Fault {
  ProtocolError error;
};

/// `reason` is made printable and cut to what fits a close frame.
[[noreturn]] void fault(std::string_view reason, CloseCode code = CloseCode::protocol_error);

/// "stdin", "stdout", "stderr", "status", ...; "channel 42" for an unknown one.
[[nodiscard]] std::string channel_name(std::uint8_t channel);

/// What comes before any look into a message: the channel is known and the payload not too large.
void check_size(std::uint8_t channel, std::string_view payload);

struct StreamWord {
  std::uint64_t received = 0, limit = 0;
  /// Of stdin only: bytes that the process's pipe has taken, while they are fewer than `received`.
  std::optional<std::uint64_t> taken = std::nullopt;
  /// Of stdin only: nobody reads it any more, and the pipe had taken so many bytes.
  std::optional<std::uint64_t> closed = std::nullopt;
};

struct WindowMessage {
  std::optional<StreamWord> std_in, std_out, std_err;
  std::optional<std::uint64_t> flush;  ///< client: acknowledge stdin as soon as this much is there
  bool release = false;                ///< client: its last word for this process
};

void encode_window(std::string& out, const WindowMessage& message);
[[nodiscard]] WindowMessage decode_window(std::string_view payload);

void encode_start(std::string& out, const StartRequest& request);
[[nodiscard]] StartRequest decode_start(std::string_view payload);

void encode_resume(std::string& out, const ResumeRequest& request);
[[nodiscard]] ResumeRequest decode_resume(std::string_view payload);

struct ResumedMessage {
  StreamWord std_in;
  std::uint64_t signals = 0;  ///< the highest sequence number taken
  // For a client that has asked for them.
  std::optional<std::uint64_t> pid = std::nullopt;
  std::vector<std::string> command = {};  ///< left out where the message would be longer than one may be
};
void encode_resumed(std::string& out, const ResumedMessage& message);
[[nodiscard]] ResumedMessage decode_resumed(std::string_view payload);

struct StartedMessage {
  std::string id;
  std::uint64_t pid = 0;
  bool attached = false;
  std::uint64_t stdin_limit = kInitialStdinWindow;
  std::uint64_t stdin_received = 0, stdin_taken = 0, signals = 0;  ///< on the wire only when attached
};
struct ExitMessage {
  ExitStatus status;
  std::uint64_t stdout_total = 0, stderr_total = 0;
  std::optional<std::uint64_t> stdin_taken = std::nullopt;  ///< none: it had no stdin, or the server does not say
};
struct EndedMessage {
  ExitStatus status;
};
using StatusMessage = std::variant<StartedMessage, EndedMessage, ExitMessage, StatusError>;
void encode_started(std::string& out, const StartedMessage& message);
void encode_ended(std::string& out, const ExitStatus& status);
void encode_exit(std::string& out, const ExitMessage& message);
void encode_status_error(std::string& out, const StatusError& error);
[[nodiscard]] StatusMessage decode_status(std::string_view payload);

struct SignalMessage {
  int number = 0;
  std::uint64_t sequence = 0;  ///< 0: none given, never taken for a repetition
};
void encode_signal(std::string& out, const SignalMessage& message);
void encode_cancel(std::string& out, const CancelRequest& request);
[[nodiscard]] std::variant<SignalMessage, CancelRequest> decode_signal(std::string_view payload);

void encode_resize(std::string& out, const ResizeRequest& request);
[[nodiscard]] ResizeRequest decode_resize(std::string_view payload);

void encode_close(std::string& out, Channel stream);
/// One of the three data streams.
[[nodiscard]] Channel decode_close(std::string_view payload);

}  // namespace cwsandbox::protocol
