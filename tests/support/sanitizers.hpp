// Which sanitizer the tests are built with, for what it cannot run, and for what it takes itself.
#pragma once

#include <cstdint>

namespace test_support {

#if defined(__SANITIZE_THREAD__)
inline constexpr bool kThreadSanitizer = true;
#elif defined(__has_feature)
inline constexpr bool kThreadSanitizer = __has_feature(thread_sanitizer);
#else
inline constexpr bool kThreadSanitizer = false;
#endif

#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kAddressSanitizer = true;
#elif defined(__has_feature)
inline constexpr bool kAddressSanitizer = __has_feature(address_sanitizer);
#else
inline constexpr bool kAddressSanitizer = false;
#endif

/// Bytes by which a process may be larger: what is freed is kept for a while, and everything has a shadow.
inline constexpr std::uint64_t kSanitizerMemory = kAddressSanitizer || kThreadSanitizer ? 600ull << 20 : 0;

}  // namespace test_support
