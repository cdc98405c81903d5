// What travels over a link: a 32-bit length of what follows, a 32-bit stream, a channel byte and a payload, all big-endian.
//
// Stream 0 is the tunnel's own: control on channel 0, requests and answers on 1 and 2. Stream 1 is the main command, every other
// one a process: they carry the messages of the exec stream (docs/exec-stream.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace cwsandbox::runner::remote {

inline constexpr std::uint32_t kTunnelStream = 0, kMainStream = 1, kFirstProcess = 2;
inline constexpr std::uint8_t kControlChannel = 0, kRequestChannel = 1, kAnswerChannel = 2;

inline constexpr std::size_t kFrameHeader = 9;  ///< with the channel
inline constexpr std::size_t kMaxTunnelControl = 64 * 1024;
inline constexpr std::size_t kMaxCall = 4 * 1024 * 1024 + 128 * 1024;  ///< a request or an answer, with its bytes

/// The other end broke the rules: the link is closed, and not taken up again. The text says how.
class Violation : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The first eight bytes of a frame: what follows them is the channel and the payload, of `size` bytes in all.
void write_frame_header(char* to, std::size_t size, std::uint32_t stream) noexcept;

/// The largest payload that a frame may have; 0 for a channel that there is not.
[[nodiscard]] std::size_t max_frame_payload(std::uint32_t stream, std::uint8_t channel) noexcept;

/// A frame that came. Of a process's data, which has no boundaries, a frame may be told of in several pieces as they arrive.
struct Frame {
  std::uint32_t stream = 0;
  std::uint8_t channel = 0;
  std::string_view payload;
};

/// Cuts what comes into frames, without a copy where one came whole.
class FrameReader {
 public:
  /// What came, which must stay until `next` has given nothing. Precondition: it has.
  void feed(std::string_view bytes) noexcept { input_ = bytes; }
  /// Valid until the next call. Throws Violation before anything larger than allowed is kept.
  [[nodiscard]] std::optional<Frame> next();
  /// Whether the stream may end here.
  [[nodiscard]] bool between_frames() const noexcept { return input_.empty() && header_size_ == 0; }

 private:
  std::string_view input_;
  char header_[kFrameHeader] = {};
  std::size_t header_size_ = 0;
  std::size_t missing_ = 0;  // of the payload, once the header is whole
  Frame frame_;
  std::string stored_;
};

}  // namespace cwsandbox::runner::remote
