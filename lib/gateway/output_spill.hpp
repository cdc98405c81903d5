// Output that nobody takes for now, kept on disk: what a process writes while no client is connected to it.
#pragma once

#include "gateway/budgets.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace cwsandbox::gateway {

/// A queue of bytes in a file without a name, which is there while it holds any. Everything on the gateway's executor; reads and
/// writes go through the page cache.
class OutputSpill {
 public:
  /// \param budgets whose `capture` it counts in
  /// \param capacity bytes that it may hold
  OutputSpill(std::shared_ptr<Budgets> budgets, std::uint64_t capacity, std::string directory);
  ~OutputSpill();
  OutputSpill(const OutputSpill&) = delete;
  OutputSpill& operator=(const OutputSpill&) = delete;

  [[nodiscard]] bool empty() const noexcept { return size() == 0; }
  [[nodiscard]] std::uint64_t size() const noexcept { return end_ - begin_ + rest_.size(); }
  /// How much may be appended. 0 after the disk has refused bytes, until what is held was read.
  [[nodiscard]] std::uint64_t room() const noexcept;
  /// At most `room()` bytes, and not more than a chunk at a time: what the disk does not take stays in memory, so that no byte that
  /// was read from a process is lost.
  void append(std::string_view bytes);
  /// Takes from the front. 0: nothing is held, or it could not be read (`error()`).
  [[nodiscard]] std::size_t read(char* into, std::size_t size);
  [[nodiscard]] int error() const noexcept { return read_error_; }
  void clear() noexcept;

 private:
  [[nodiscard]] std::size_t write(std::string_view bytes) noexcept;

  const std::shared_ptr<Budgets> budgets_;
  const std::uint64_t capacity_;
  const std::string directory_;
  int fd_ = -1;
  std::uint64_t begin_ = 0, end_ = 0;  // of what is in the file, a ring
  std::string rest_;                   // behind it
  bool refused_ = false;
  int read_error_ = 0;
};

}  // namespace cwsandbox::gateway
