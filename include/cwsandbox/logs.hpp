/// \file
/// The logs of a sandbox: what its main command wrote.
#pragma once

#include <cwsandbox/export.hpp>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace cwsandbox {

/// Which lines of a log, and how.
class CWSANDBOX_EXPORT LogOptions {
 public:
  LogOptions() {}
  /// Goes on with what is written from now on, until the main command has ended (LG-3).
  LogOptions& with_follow(bool on = true) & { return follow_ = on, *this; }
  /// Only the last so many lines of what is there; at least 1.
  LogOptions& with_tail_lines(std::int32_t lines) & { return tail_lines_ = lines, *this; }
  /// Only what was written then or later.
  LogOptions& with_since(std::chrono::system_clock::time_point since) & { return since_ = since, *this; }
  /// Each line says when its first byte was written.
  LogOptions& with_timestamps(bool on = true) & { return timestamps_ = on, *this; }
  LogOptions&& with_follow(bool on = true) && { return std::move(with_follow(on)); }
  LogOptions&& with_tail_lines(std::int32_t lines) && { return std::move(with_tail_lines(lines)); }
  LogOptions&& with_since(std::chrono::system_clock::time_point since) && { return std::move(with_since(since)); }
  LogOptions&& with_timestamps(bool on = true) && { return std::move(with_timestamps(on)); }
  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] bool follow() const noexcept { return follow_; }
  [[nodiscard]] const std::optional<std::int32_t>& tail_lines() const noexcept { return tail_lines_; }
  [[nodiscard]] const std::optional<std::chrono::system_clock::time_point>& since() const noexcept { return since_; }
  [[nodiscard]] bool timestamps() const noexcept { return timestamps_; }
  ///@}

 private:
  bool follow_ = false, timestamps_ = false;
  std::optional<std::int32_t> tail_lines_;
  std::optional<std::chrono::system_clock::time_point> since_;
};

/// A line of a log, or the place where some are missing (LG-4).
class LogLine {
 public:
  LogLine() {}
  /// Here something is missing; `text` is empty.
  [[nodiscard]] bool is_gap() const noexcept { return gap; }

  std::string text;                                                ///< without its line feed; bytes as they were written
  std::optional<std::chrono::system_clock::time_point> timestamp;  ///< with LogOptions::with_timestamps
  /// Of a gap: the bytes that are missing; 0 when nobody knows how many. Then the log began afresh, and lines may come again.
  std::uint64_t lost_bytes = 0;
  bool gap = false;  ///< what `is_gap()` says
};

}  // namespace cwsandbox
