// When a process is over, and what is done meanwhile: its leader's end, its group, who holds its outputs, who wants them. No I/O
// and no clock: events in, steps out; one timer, which the owner runs.
#pragma once

#include <chrono>
#include <cstdint>

namespace cwsandbox::gateway {

/// The rules:
/// - A process is over when its leader has ended and so have its outputs.
/// - What its leader wrote is read to its end, whatever else holds; only where nobody wants the output is it given up.
/// - Outputs that others hold after the leader's end are read for the drain time (0: until the last lets go). Nobody is killed for
///   holding them.
/// - Whoever is to be ended gets SIGTERM, then SIGKILL when the grace is over; the grace lasts no longer than there is somebody in
///   the group. Then nothing is waited for but what has been written.
class ProcessEnd {
 public:
  using Duration = std::chrono::milliseconds;
  enum class Why : std::uint8_t { none, timeout, cancel, shutdown };

  /// What the owner is to do now, in this order.
  struct Steps {
    int signal = 0;        ///< to the group
    bool lost = false;     ///< the exit should have been reported by now: nobody knows it
    bool settle = false;   ///< outputs end where they are now, and not before what the leader wrote
    bool abandon = false;  ///< outputs end at once, read or not
    bool disarm = false;   ///< the timer
    Duration arm{-1};      ///< the timer anew, when not negative
  };

  /// How long after SIGKILL, or after the end of the sandbox, an exit report and the rest of the output may take. Both are there
  /// within milliseconds; what takes longer is held by a process outside the group.
  static constexpr Duration kLate{2000};
  /// After the last of a group has gone, the ends of its outputs may be on their way still.
  static constexpr Duration kLast{100};
  /// Output that nobody makes room for, and nobody wants any more, is given up this long after all else is over.
  static constexpr Duration kAbandon{500};

  explicit ProcessEnd(Duration drain) noexcept : drain_(drain) {}

  /// `counted`: it is known how much it had written; without that no drain can end.
  [[nodiscard]] Steps leader_ended(bool counted) noexcept;
  [[nodiscard]] Steps group_gone() noexcept;
  /// It is to be ended, or does not matter any more. `left`: of the timer, if it runs.
  [[nodiscard]] Steps end(Why why, Duration grace, Duration left) noexcept;
  [[nodiscard]] Steps sandbox_ended() noexcept;
  [[nodiscard]] Steps timer() noexcept;

  /// What it is that ended the leader, as far as that did not end by itself before.
  [[nodiscard]] Why why() const noexcept { return why_; }
  [[nodiscard]] bool settled() const noexcept { return settled_; }
  /// Somebody of the group may still be there who was to be ended.
  [[nodiscard]] bool must_kill() const noexcept { return kill_ != Kill::no && !group_gone_ && !sandbox_gone_; }

 private:
  enum class Kill : std::uint8_t { no, terminating, killed };
  enum class Timer : std::uint8_t { none, drain, grace, late, last, abandon };
  void arm(Steps& steps, Timer timer, Duration delay) noexcept;
  void settle(Steps& steps) noexcept;
  void kill(Steps& steps) noexcept;
  void check_alone(Steps& steps) noexcept;

  Duration drain_;
  Why why_ = Why::none;
  Kill kill_ = Kill::no;
  Timer timer_ = Timer::none;
  bool leader_ended_ = false, group_gone_ = false, sandbox_gone_ = false, settled_ = false, unwanted_ = false;
};

}  // namespace cwsandbox::gateway
