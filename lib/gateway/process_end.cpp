#include "gateway/process_end.hpp"

#include <csignal>

namespace cwsandbox::gateway {

void ProcessEnd::arm(Steps& steps, Timer timer, Duration delay) noexcept {
  timer_ = timer;
  steps.arm = delay;
  steps.disarm = false;
}

void ProcessEnd::settle(Steps& steps) noexcept {
  settled_ = true;
  steps.settle = true;
  if (unwanted_) return arm(steps, Timer::abandon, kAbandon);
  timer_ = Timer::none;
  steps.disarm = true;
}

void ProcessEnd::kill(Steps& steps) noexcept {
  kill_ = Kill::killed;
  steps.signal = SIGKILL;
  arm(steps, Timer::late, kLate);
}

// Nobody is left who was to be ended: what still holds an output is not of the group.
void ProcessEnd::check_alone(Steps& steps) noexcept {
  if (settled_ || kill_ == Kill::no || !leader_ended_ || !group_gone_ || timer_ == Timer::last) return;
  arm(steps, Timer::last, kLast);
}

ProcessEnd::Steps ProcessEnd::leader_ended(bool counted) noexcept {
  Steps steps;
  if (leader_ended_) return steps;
  leader_ended_ = true;
  if (kill_ != Kill::no) {
    check_alone(steps);
  } else if (!counted) {
    drain_ = Duration::zero();
  } else if (drain_ > Duration::zero()) {
    arm(steps, Timer::drain, drain_);
  }
  return steps;
}

ProcessEnd::Steps ProcessEnd::group_gone() noexcept {
  Steps steps;
  group_gone_ = true;
  check_alone(steps);
  return steps;
}

ProcessEnd::Steps ProcessEnd::end(Why why, Duration grace, Duration left) noexcept {
  Steps steps;
  if (why == Why::cancel) unwanted_ = true;
  // The leader ended in time: whatever comes now is not what ended it.
  if (why_ == Why::none && !(leader_ended_ && why == Why::timeout)) why_ = why;
  if (settled_) {
    if (unwanted_ && timer_ == Timer::none) arm(steps, Timer::abandon, kAbandon);
  } else if (leader_ended_ && why == Why::timeout && drain_ > Duration::zero()) {
    settle(steps);
  } else if (kill_ == Kill::no) {
    kill_ = Kill::terminating;
    if (leader_ended_ && group_gone_) {
      check_alone(steps);
    } else if (grace <= Duration::zero()) {
      kill(steps);
    } else {
      steps.signal = SIGTERM;
      arm(steps, Timer::grace, grace);
    }
  } else if (timer_ == Timer::grace && grace < left) {
    if (grace <= Duration::zero()) {
      kill(steps);
    } else {
      arm(steps, Timer::grace, grace);
    }
  }
  return steps;
}

ProcessEnd::Steps ProcessEnd::sandbox_ended() noexcept {
  Steps steps;
  sandbox_gone_ = true;
  if (settled_) return steps;
  kill_ = Kill::killed;
  arm(steps, Timer::late, kLate);
  return steps;
}

ProcessEnd::Steps ProcessEnd::timer() noexcept {
  Steps steps;
  switch (timer_) {
    case Timer::none:
      break;
    case Timer::grace:
      kill(steps);
      break;
    case Timer::late:
      steps.lost = !leader_ended_;
      leader_ended_ = true;
      settle(steps);
      break;
    case Timer::drain:
    case Timer::last:
      settle(steps);
      break;
    case Timer::abandon:
      timer_ = Timer::none;
      steps.abandon = true;
      break;
  }
  return steps;
}

}  // namespace cwsandbox::gateway
