// A deadline that moves often: one timer, re-armed only when it goes off too early.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>

#include <chrono>
#include <functional>
#include <memory>

namespace cwsandbox::net {

/// Calls `fire` when the deadline passes, once for each deadline. Not thread safe: everything on the executor. Destroying the
/// owner's handle disarms it.
class Watchdog {
 public:
  using Clock = std::chrono::steady_clock;

  Watchdog(const boost::asio::any_io_executor& executor, std::function<void()> fire)
      : state_(std::make_shared<State>(executor, std::move(fire))) {}
  ~Watchdog() { disarm(); }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  void expires_at(Clock::time_point when) {
    state_->deadline = when;
    state_->fired = false;
    if (state_->waiting && state_->timer.expiry() <= when) return;  // it looks again when it goes off
    state_->timer.expires_at(when);
    wait(state_);
  }
  void expires_after(Clock::duration delay) {
    const auto now = Clock::now();
    expires_at(delay > Clock::time_point::max() - now ? Clock::time_point::max() : now + delay);
  }
  /// No deadline for now. Unlike `disarm` it may leave the timer to go off for nothing, so that arming anew soon costs nothing.
  void rest() noexcept { state_->deadline = Clock::time_point::max(); }
  /// Leaves nothing pending on the executor.
  void disarm() noexcept {
    state_->deadline = Clock::time_point::max();
    if (!state_->waiting) return;
    state_->waiting = false;
    ++state_->generation;
    state_->timer.cancel();
  }
  [[nodiscard]] bool fired() const noexcept { return state_->fired; }

 private:
  struct State {
    State(const boost::asio::any_io_executor& executor, std::function<void()> f) : timer(executor), fire(std::move(f)) {}
    boost::asio::steady_timer timer;
    std::function<void()> fire;
    Clock::time_point deadline = Clock::time_point::max();
    unsigned generation = 0;  // waits that were given up belong to an older one
    bool waiting = false, fired = false;
  };

  static void wait(const std::shared_ptr<State>& state) {
    state->waiting = true;
    const auto generation = ++state->generation;
    state->timer.async_wait([state, generation](boost::system::error_code) {
      if (state->generation != generation) return;
      state->waiting = false;
      if (state->deadline == Clock::time_point::max()) return;
      if (Clock::now() < state->deadline) {
        state->timer.expires_at(state->deadline);
        wait(state);
        return;
      }
      state->fired = true;
      state->fire();
    });
  }

  std::shared_ptr<State> state_;
};

}  // namespace cwsandbox::net
