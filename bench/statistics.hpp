// Clocks and medians of the benchmarks.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <utility>
#include <vector>

namespace cwsandbox::bench {

using Clock = std::chrono::steady_clock;

inline double micros_since(Clock::time_point began) {
  return std::chrono::duration<double, std::micro>(Clock::now() - began).count();
}

inline double seconds_since(Clock::time_point began) { return std::chrono::duration<double>(Clock::now() - began).count(); }

/// The value below which `part` (0 to 1) of them lie. Precondition: not empty.
inline double percentile(std::vector<double> values, double part) {
  const auto index = std::min(static_cast<std::size_t>(part * static_cast<double>(values.size())), values.size() - 1);
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(index);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

/// Precondition: not empty.
inline double median(std::vector<double> values) { return percentile(std::move(values), 0.5); }

}  // namespace cwsandbox::bench
