// How much memory peers may make this side hold.
#pragma once

#include <cstddef>
#include <limits>

namespace cwsandbox::net {

/// A number of bytes that may be taken and must be given back. Not thread safe.
class MemoryPool {
 public:
  MemoryPool() = default;
  explicit MemoryPool(std::size_t limit) : limit_(limit) {}
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  void set_limit(std::size_t limit) noexcept { limit_ = limit; }
  [[nodiscard]] bool take(std::size_t bytes) noexcept {
    if (bytes > limit_ || used_ > limit_ - bytes) return false;
    used_ += bytes;
    return true;
  }
  void give(std::size_t bytes) noexcept { used_ -= bytes; }
  [[nodiscard]] std::size_t used() const noexcept { return used_; }

 private:
  std::size_t limit_ = std::numeric_limits<std::size_t>::max();
  std::size_t used_ = 0;
};

}  // namespace cwsandbox::net
