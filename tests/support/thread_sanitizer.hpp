// Included before anything else in builds for ThreadSanitizer, which does not understand fences: Asio's reference counts, of which
// the last owner passes a fence, are stated with an ordering of their own instead. Otherwise every executor that two threads have
// shared is reported when it goes.
#pragma once

#define BOOST_ASIO_DETAIL_ATOMIC_COUNT_HPP  // the header that this stands for

#include <atomic>

namespace boost::asio::detail {

using atomic_count = std::atomic<long>;
inline void increment(atomic_count& a, long b) { a += b; }
inline void decrement(atomic_count& a, long b) { a -= b; }
inline void ref_count_up(atomic_count& a) { a.fetch_add(1, std::memory_order_relaxed); }
inline bool ref_count_down(atomic_count& a) { return a.fetch_sub(1, std::memory_order_acq_rel) == 1; }

}  // namespace boost::asio::detail
