// What the main command of one sandbox has written: a bounded ring on disk, with offsets and arrival times.
//
// Little output stays in memory, so that most sandboxes need no file at all. Reads and writes go through the page cache and nothing
// is ever flushed: the store ends with the gateway.
#pragma once

#include "gateway/context.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>

namespace cwsandbox::gateway {

/// Offsets count every byte that was ever appended. Everything on the gateway's executor.
class LogStore {
 public:
  using Time = std::chrono::system_clock::time_point;

  /// \param capacity bytes kept; the oldest give way
  /// \param directory where the (nameless) file is made, once there is more than a little
  LogStore(const asio::any_io_executor& executor, std::uint64_t capacity, std::string directory);
  ~LogStore();
  LogStore(const LogStore&) = delete;
  LogStore& operator=(const LogStore&) = delete;

  /// Never fails: what cannot be kept is a gap, which says why.
  void append(std::string_view bytes, Time time);
  /// Nothing more will be appended.
  void finish();
  /// Frees what is held: all of it is a gap from then on.
  void discard();

  [[nodiscard]] const std::string& session() const noexcept { return session_; }
  [[nodiscard]] bool finished() const noexcept { return finished_; }
  [[nodiscard]] std::uint64_t begin() const noexcept { return begin_; }  ///< oldest byte that may still be there
  [[nodiscard]] std::uint64_t end() const noexcept { return end_; }      ///< behind the newest
  [[nodiscard]] std::uint64_t held() const noexcept { return end_ - begin_; }
  [[nodiscard]] bool has_file() const noexcept { return fd_ >= 0; }
  /// Notified by `append`, `finish` and `discard`.
  [[nodiscard]] runner::TimedWaiters& changed() noexcept { return changed_; }

  struct Gap {
    std::uint64_t to = 0;  ///< where reading can go on: a line's start where one is near
    std::string why;
  };
  /// Whether the byte at `offset` was appended and is not held.
  [[nodiscard]] std::optional<Gap> gap_at(std::uint64_t offset);
  /// Bytes from `offset`, up to the next gap or the end; 0 in a gap and at the end. What the disk does not give back becomes a gap.
  [[nodiscard]] std::size_t read(std::uint64_t offset, char* into, std::size_t size);

  /// When the byte at `offset` arrived. Of old output only the time of its neighbourhood is known (see kMaxMarks): then the
  /// earliest.
  [[nodiscard]] Time time_of(std::uint64_t offset) const noexcept;
  /// The first offset behind `offset` that arrived at another time; `end()` when there is none.
  [[nodiscard]] std::uint64_t next_arrival(std::uint64_t offset) const noexcept;
  /// Where what arrived at `time` or later begins: a line's start, rather too early than too late.
  [[nodiscard]] std::uint64_t since(Time time);
  /// Whether a line begins at `offset`. False when nobody knows any more.
  [[nodiscard]] bool line_starts_at(std::uint64_t offset);

 private:
  // Up to this much stays in memory: a thousand quiet sandboxes need no descriptor and 16 MiB at most.
  static constexpr std::uint64_t kLittle = 16 * 1024;
  // With more arrivals than this in the ring, the older half of them is merged two by two.
  static constexpr std::size_t kMaxMarks = 4096;
  static constexpr std::size_t kMaxHoles = 64;
  // One arrival, or several neighbours once there were too many.
  struct Mark {
    std::uint64_t offset = 0;
    Time first, last;
  };
  struct Hole {
    std::uint64_t from = 0, to = 0;
    int error = 0;
  };

 public:
  /// What one holds in memory at most, whatever is written.
  static constexpr std::uint64_t kMostMemory = kLittle + (kMaxMarks + 1) * sizeof(Mark) + kMaxHoles * sizeof(Hole);

 private:
  [[nodiscard]] int open_file();
  [[nodiscard]] int write(std::uint64_t offset, std::string_view bytes);
  void add_mark(std::uint64_t offset, Time time);
  void add_hole(std::uint64_t from, std::uint64_t to, int error);
  [[nodiscard]] const Hole* hole_at(std::uint64_t offset) const noexcept;
  [[nodiscard]] std::deque<Mark>::const_iterator mark_of(std::uint64_t offset) const noexcept;
  [[nodiscard]] std::uint64_t line_start_from(std::uint64_t offset);
  void close() noexcept;

  std::uint64_t capacity_;
  std::string directory_;
  std::string session_;
  std::string little_;  // everything, until there is a file
  int fd_ = -1;
  std::uint64_t begin_ = 0, end_ = 0;
  bool finished_ = false, discarded_ = false;
  std::deque<Mark> marks_;
  std::deque<Hole> holes_;  // in order, apart from each other
  std::chrono::steady_clock::time_point next_try_{};
  int open_error_ = 0;
  runner::TimedWaiters changed_;
};

}  // namespace cwsandbox::gateway
