// How long tests wait before they call something a hang.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

namespace test_support {

/// `time` on an ordinary machine. CWSANDBOX_TEST_SLOWER says how many times slower this one is: scripts/vm-tests sets it, for an
/// emulated one.
inline std::chrono::seconds patience(std::chrono::seconds time) {
  const char* slower = std::getenv("CWSANDBOX_TEST_SLOWER");
  return time * (slower != nullptr ? std::max(1, std::atoi(slower)) : 1);
}

/// Looks again until it holds, which another thread or process brings about; false when that takes far longer than it ever should.
template <typename Condition>
bool eventually(Condition holds) {
  const auto deadline = std::chrono::steady_clock::now() + patience(std::chrono::seconds(60));
  while (!holds()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // only how often it looks
  }
  return true;
}

}  // namespace test_support
