#include "runner/remote/frames.hpp"

#include <algorithm>

#include "protocol/exec_stream.hpp"

namespace cwsandbox::runner::remote {

namespace {

// A larger buffer is not kept for the small frames that follow.
constexpr std::size_t kKeptStorage = 4096;

void put32(char* to, std::uint32_t value) noexcept {
  for (int i = 0; i < 4; ++i) to[i] = static_cast<char>(value >> (24 - 8 * i));
}

[[nodiscard]] std::uint32_t get32(const char* from) noexcept {
  std::uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value = value << 8 | static_cast<unsigned char>(from[i]);
  return value;
}

[[nodiscard]] bool is_data(std::uint32_t stream, std::uint8_t channel) noexcept {
  return stream != kTunnelStream && channel <= static_cast<std::uint8_t>(protocol::Channel::std_err);
}

}  // namespace

void write_frame_header(char* to, std::size_t size, std::uint32_t stream) noexcept {
  put32(to, static_cast<std::uint32_t>(4 + size));
  put32(to + 4, stream);
}

std::size_t max_frame_payload(std::uint32_t stream, std::uint8_t channel) noexcept {
  if (stream != kTunnelStream) return protocol::max_payload(channel);
  if (channel == kControlChannel) return kMaxTunnelControl;
  return channel == kRequestChannel || channel == kAnswerChannel ? kMaxCall : 0;
}

std::optional<Frame> FrameReader::next() {
  if (stored_.capacity() > kKeptStorage && header_size_ == 0) stored_ = std::string();
  if (header_size_ < kFrameHeader) {
    const std::size_t n = std::min(kFrameHeader - header_size_, input_.size());
    std::copy_n(input_.data(), n, header_ + header_size_);
    header_size_ += n;
    input_.remove_prefix(n);
    if (header_size_ < kFrameHeader) return std::nullopt;
    const std::uint32_t length = get32(header_);
    frame_.stream = get32(header_ + 4);
    frame_.channel = static_cast<std::uint8_t>(header_[8]);
    const std::size_t most = max_frame_payload(frame_.stream, frame_.channel);
    const auto where = [this] { return "stream " + std::to_string(frame_.stream) + ", channel " + std::to_string(frame_.channel); };
    if (most == 0) throw Violation(where() + ": no such channel");
    if (length < 5) throw Violation("a frame of " + std::to_string(length) + " bytes");
    missing_ = length - 5;
    if (missing_ > most) throw Violation(where() + ": " + std::to_string(missing_) + " bytes, at most " + std::to_string(most));
    stored_.clear();
  }
  const std::size_t n = std::min(missing_, input_.size());
  if (n == missing_ && stored_.empty()) {
    frame_.payload = input_.substr(0, n);
  } else if (is_data(frame_.stream, frame_.channel)) {
    if (n == 0) return std::nullopt;
    frame_.payload = input_.substr(0, n);
  } else {
    stored_.append(input_.substr(0, n));
    frame_.payload = stored_;
  }
  input_.remove_prefix(n);
  missing_ -= n;
  if (missing_ == 0) {
    header_size_ = 0;
  } else if (!is_data(frame_.stream, frame_.channel)) {
    return std::nullopt;
  }
  return frame_;
}

}  // namespace cwsandbox::runner::remote
