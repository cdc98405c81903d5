// How long to wait before trying again.
#pragma once

#include <algorithm>
#include <chrono>
#include <random>
#include <utility>

namespace cwsandbox::runner::kubernetes {

/// Doubles from `base` to `max`, of which a random half to the whole is waited, so that many clients do not come back at once.
class Backoff {
 public:
  Backoff(std::chrono::milliseconds base, std::chrono::milliseconds max) : base_(base), max_(max), next_(base) {}
  [[nodiscard]] std::chrono::milliseconds next() {
    static thread_local std::minstd_rand generator{std::random_device{}()};
    const auto whole = std::exchange(next_, std::min(max_, next_ * 2)).count();
    return std::chrono::milliseconds(std::uniform_int_distribution<std::chrono::milliseconds::rep>(whole / 2, whole)(generator));
  }
  void reset() noexcept { next_ = base_; }

 private:
  std::chrono::milliseconds base_, max_, next_;
};

}  // namespace cwsandbox::runner::kubernetes
