// How much memory peers may make this side hold.
#pragma once

#include <cstddef>
#include <limits>
#include <memory>
#include <utility>

namespace cwsandbox::net {

/// A number of bytes that may be taken and must be given back. It may be part of a larger pool: what is taken of the part counts in
/// the whole, too. Not thread safe.
class MemoryPool {
 public:
  MemoryPool() = default;
  explicit MemoryPool(std::size_t limit) : limit_(limit) {}
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  void set_limit(std::size_t limit) noexcept { limit_ = limit; }
  /// Precondition: nothing is taken, or it is part of that one already.
  void make_part_of(std::shared_ptr<MemoryPool> whole) noexcept { whole_ = std::move(whole); }
  [[nodiscard]] bool take(std::size_t bytes) noexcept {
    if (bytes > limit_ || used_ > limit_ - bytes) return false;
    if (whole_ && !whole_->take(bytes)) return false;
    used_ += bytes;
    return true;
  }
  void give(std::size_t bytes) noexcept {
    used_ -= bytes;
    if (whole_) whole_->give(bytes);
  }
  [[nodiscard]] std::size_t used() const noexcept { return used_; }

 private:
  std::size_t limit_ = std::numeric_limits<std::size_t>::max();
  std::size_t used_ = 0;
  std::shared_ptr<MemoryPool> whole_;
};

/// What one thing holds of a pool. It goes back when this goes.
class MemoryShare {
 public:
  MemoryShare() = default;
  explicit MemoryShare(std::shared_ptr<MemoryPool> pool) noexcept : pool_(std::move(pool)) {}
  MemoryShare(const MemoryShare&) = delete;
  MemoryShare& operator=(const MemoryShare&) = delete;
  ~MemoryShare() {
    if (pool_) pool_->give(held_);
  }
  /// Takes what is missing to `bytes`; gives nothing back. False, and nothing is taken, when the pool has not as much left.
  [[nodiscard]] bool grow_to(std::size_t bytes) noexcept {
    if (bytes <= held_) return true;
    if (pool_ && !pool_->take(bytes - held_)) return false;
    held_ = bytes;
    return true;
  }

 private:
  std::shared_ptr<MemoryPool> pool_;
  std::size_t held_ = 0;
};

}  // namespace cwsandbox::net
