// How often an output is looked at.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace cwsandbox::runner {

/// Many programs write in small pieces. Whoever reads each at once spends system calls, a message and a wakeup on every few
/// kilobytes, here and at every station after it, and slows the writer down besides; so an output that is known to come fast is
/// left alone, each time it has been read empty, for as long as about 32 KiB of it take: half of what the smallest pipe holds, so
/// that the writer never waits for it. One that comes slowly is read as soon as there is something.
class OutputPace {
 public:
  using Clock = std::chrono::steady_clock;

  /// `bytes` have been read.
  void count(std::size_t bytes) noexcept { read_ += bytes; }
  /// It has been read empty: how long it is to be left alone. 0: no longer than there is nothing.
  [[nodiscard]] std::chrono::nanoseconds pause(Clock::time_point now) noexcept {
    if (read_ - mark_ >= kMeasured) {
      const auto piece = (now - mark_time_) / static_cast<Clock::rep>((read_ - mark_) / kPiece);
      pause_ = piece > kLongest ? Clock::duration(0) : std::max<Clock::duration>(piece, kShortest);
      mark_ = read_;
      mark_time_ = now;
    } else if (read_ == before_) {
      pause_ = {};  // nothing has come meanwhile
    }
    before_ = read_;
    return pause_;
  }

 private:
  static constexpr std::uint64_t kPiece = 32 * 1024, kMeasured = 8 * kPiece;
  // Less is not worth a timer, and more would be felt; 2 ms are 16 MB/s.
  static constexpr std::chrono::microseconds kShortest{50}, kLongest{2000};

  std::uint64_t read_ = 0, before_ = 0, mark_ = 0;
  Clock::time_point mark_time_{};
  Clock::duration pause_{};
};

}  // namespace cwsandbox::runner
