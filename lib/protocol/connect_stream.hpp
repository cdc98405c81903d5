// Envelopes of the Connect protocol's streams: a flag byte, a 32-bit big-endian length, that many bytes of a message, in JSON or
// the binary encoding of protocol buffers. The end of a stream is JSON in both.
#pragma once

#include "messages/encoding.hpp"
#include "protocol/connect.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace cwsandbox::protocol {

/// The content types of Connect.
[[nodiscard]] constexpr std::string_view unary_type(messages::Encoding encoding) noexcept {
  return encoding == messages::Encoding::json ? "application/json" : "application/proto";
}
[[nodiscard]] constexpr std::string_view stream_type(messages::Encoding encoding) noexcept {
  return encoding == messages::Encoding::json ? "application/connect+json" : "application/connect+proto";
}

/// Appends one message, of at most 4 GiB.
void append_envelope(std::string& out, std::string_view message);
/// Appends the end of the stream: `{}` or `{"error": ...}`.
void append_end_of_stream(std::string& out, const ConnectError* error = nullptr);

/// Takes a stream apart as its bytes come, in bounded memory.
class EnvelopeReader {
 public:
  /// \param max_message bytes of one message; more is a fault
  explicit EnvelopeReader(std::size_t max_message) : max_message_(max_message) {}

  void put(std::string_view bytes);

  struct Message {
    std::string bytes;
    bool end = false;  ///< the end of the stream: `error` tells whether it went well
    std::optional<ConnectError> error;
  };
  /// The next whole message, if there is one. Throws ParseError, which names the byte of the stream, for a flag that is unknown or
  /// means compression, a message that is too large, an end that cannot be read, and bytes behind the end.
  [[nodiscard]] std::optional<Message> next();
  /// Whether the stream has ended in good order: a connection that closes before that has cut it.
  [[nodiscard]] bool ended() const noexcept { return ended_; }

 private:
  std::size_t max_message_;
  std::string buffer_;
  std::size_t front_ = 0;
  std::uint64_t position_ = 0;
  bool ended_ = false;
};

}  // namespace cwsandbox::protocol
