// The stream of a watch as lines.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace cwsandbox::runner::kubernetes {

/// Cuts a stream of bytes at its newlines; does no I/O.
class WatchLines {
 public:
  explicit WatchLines(std::size_t max_line) : max_line_(max_line) {}
  void put(std::string_view bytes) {
    // What has been taken is dropped only here, so that a line stays valid until more comes.
    buffer_.erase(0, taken_);
    looked_ -= taken_;
    taken_ = 0;
    if (buffer_.empty() && buffer_.capacity() > kKept) buffer_.shrink_to_fit();
    buffer_ += bytes;
  }
  /// The next line without its newline, valid until `put`; empty lines are skipped.
  [[nodiscard]] std::optional<std::string_view> next() {
    for (;;) {
      const auto newline = buffer_.find('\n', looked_);
      if (newline == std::string::npos) {
        looked_ = buffer_.size();
        return std::nullopt;
      }
      const std::string_view line = std::string_view(buffer_).substr(taken_, newline - taken_);
      taken_ = looked_ = newline + 1;
      if (!line.empty()) return line;
    }
  }
  /// The line that is not complete is longer than allowed.
  [[nodiscard]] bool too_long() const noexcept { return buffer_.size() - taken_ > max_line_; }
  [[nodiscard]] bool empty() const noexcept { return buffer_.size() == taken_; }

 private:
  static constexpr std::size_t kKept = 256 * 1024;  // after an event that was unusually large
  std::string buffer_;
  std::size_t taken_ = 0, looked_ = 0;
  std::size_t max_line_;
};

}  // namespace cwsandbox::runner::kubernetes
