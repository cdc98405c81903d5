// How long tests wait before they call something a hang.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdlib>

namespace test_support {

/// `time` on an ordinary machine. CWSANDBOX_TEST_SLOWER says how many times slower this one is: scripts/vm-tests sets it, for an
/// emulated one.
inline std::chrono::seconds patience(std::chrono::seconds time) {
  const char* slower = std::getenv("CWSANDBOX_TEST_SLOWER");
  return time * (slower != nullptr ? std::max(1, std::atoi(slower)) : 1);
}

}  // namespace test_support
