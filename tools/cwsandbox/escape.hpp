// How somebody gets out of a terminal session whatever happens at its other end. What is typed goes there as it is, so these are
// looked for on the way: no I/O here, and no clock.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace cli {

/// ssh's escapes: '~' where a line begins, then one more key.
class EscapeFilter {
 public:
  enum class Action { none, leave, help, suspend };

  explicit EscapeFilter(std::optional<char> escape) : escape_(escape) {}
  /// Takes bytes off the front of `typed` until an action is asked for or none are left; what is for the sandbox is appended to
  /// `out`.
  [[nodiscard]] Action take(std::string_view& typed, std::string& out);
  /// What the help action shows, for a terminal in raw mode.
  [[nodiscard]] std::string help() const;

 private:
  std::optional<char> escape_;
  bool line_begins_ = true, held_ = false;
};

/// Whether Ctrl-C is asked for in vain. It ends the session when it is typed for the third time or more, with no other key
/// between, and the first of these has not been taken by the sandbox's terminal for two seconds: the connection is lost, the server
/// does not answer, or nobody has read for so long that nothing more fits. As long as the other end takes what is typed, any number
/// of them is just typed.
class Patience {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::seconds kLongest{2};
  static constexpr unsigned kAsked = 3;

  /// \param sent bytes that were typed before these.
  /// \param taken so many of them the sandbox's terminal has.
  /// \returns true when it has been asked for in vain.
  [[nodiscard]] bool typed(std::string_view keys, std::uint64_t sent, std::uint64_t taken, Clock::time_point now);

 private:
  unsigned count_ = 0;
  std::uint64_t first_ = 0;  ///< what must be taken for the first of them to have arrived
  Clock::time_point since_{};
};

}  // namespace cli
