// How many of something there are in a second, over time.
#pragma once

#include <algorithm>
#include <chrono>

namespace cwsandbox::base {

/// When the next would be due, were all until now evenly spread. Nothing is saved up: who was silent for an hour may not have an
/// hour's worth at once.
class Rate {
 public:
  using Clock = std::chrono::steady_clock;

  /// How long before its time the next one comes, now; 0 or less: in time.
  [[nodiscard]] std::chrono::nanoseconds early(Clock::time_point now) const noexcept { return next_ - now; }
  /// What takes so long at the rate. A rate that is nearly none must not pass what a clock holds.
  void took(std::chrono::duration<double> time, Clock::time_point now) noexcept {
    next_ = std::max(next_, now) + std::chrono::duration_cast<std::chrono::nanoseconds>(
                                       std::min<std::chrono::duration<double>>(time, std::chrono::hours(1)));
  }

 private:
  Clock::time_point next_{};
};

}  // namespace cwsandbox::base
