// Reports turns of an event loop that last too long: whoever blocks in one of them holds up everybody whom the loop serves.
#pragma once

#include <boost/asio/io_context.hpp>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

namespace cwsandbox::core {

/// What a turn may take, where turns are watched.
inline constexpr std::chrono::milliseconds kTurnLimit{20};
#ifdef NDEBUG
inline constexpr std::chrono::milliseconds kDefaultTurnLimit{0};
#else
inline constexpr std::chrono::milliseconds kDefaultTurnLimit = kTurnLimit;
#endif

/// Tells from looks at a loop, taken by another thread, when one turn has taken too long. No clock, no thread.
class TurnJudge {
 public:
  using Duration = std::chrono::nanoseconds;
  struct Look {
    std::uint64_t turns = 0;  ///< that have ended
    bool idle = false;        ///< the loop waits for events
    bool blocked = false;     ///< its thread waits for something else
    Duration now{};
    Duration computed{};  ///< the time that its thread has had a processor
  };
  enum class Verdict : std::uint8_t { fine, too_long, ended };

  explicit TurnJudge(Duration limit) noexcept : limit_(limit) {}
  /// `too_long` once for a turn, while it is under way; `ended` once for one of which that was said.
  [[nodiscard]] Verdict look(const Look& look) noexcept;
  /// What the turn has taken, as far as it was seen: the time that it computed or was blocked, and not that in which others had the
  /// processor, which says nothing about it.
  [[nodiscard]] Duration taken() const noexcept { return taken_; }
  [[nodiscard]] Duration computed() const noexcept { return computed_; }
  /// The turns that had ended before it.
  [[nodiscard]] std::uint64_t turn() const noexcept { return last_.turns; }

 private:
  Duration limit_, taken_{}, computed_{};
  Look last_;
  bool in_turn_ = false, told_ = false;
};

/// Runs a loop, with a thread that looks at it. For programs and tests, one loop for each thread. The stack of a turn that takes
/// too long is written by the loop's own thread, in a handler of SIGURG, which nobody else may use in this process.
class LoopWatch {
 public:
  /// Called on a thread of its own, with lines that end in a newline each.
  using Report = std::function<void(const std::string& text)>;

  /// A `limit` of zero: nothing is watched.
  LoopWatch(std::chrono::milliseconds limit, Report report) : limit_(limit), report_(std::move(report)) {}
  /// Like io.run(), which no other thread may run meanwhile.
  void run(boost::asio::io_context& io);

 private:
  class Looker;
  std::chrono::milliseconds limit_;
  Report report_;
  std::atomic<std::uint64_t> turns_{0};
};

}  // namespace cwsandbox::core
