// The loop behind a LoopManager, for the rest of the library.
#pragma once

#include <cwsandbox/loop_manager.hpp>

#include <functional>
#include <list>
#include <mutex>

namespace cwsandbox::detail {

class Loop {
 public:
  virtual ~Loop() = default;
  [[nodiscard]] virtual asio::any_io_executor executor() = 0;
  [[nodiscard]] virtual bool running_in_this_thread() const noexcept = 0;
  [[nodiscard]] virtual bool adopted() const noexcept = 0;
  /// Throws where waiting for this loop's work would never end: after exit has begun, in the child of a fork, on its own thread.
  virtual void check_may_block() const = 0;

  /// `hook` runs on the loop, once, before a default loop ends at exit. The return value takes it back.
  using HookId = std::list<std::function<void()>>::iterator;
  [[nodiscard]] HookId add_exit_hook(std::function<void()> hook) {
    std::lock_guard lock(hooks_mutex_);
    return hooks_.insert(hooks_.end(), std::move(hook));
  }
  void remove_exit_hook(HookId id) {
    std::lock_guard lock(hooks_mutex_);
    hooks_.erase(id);
  }

 protected:
  void run_exit_hooks() {
    // One at a time, outside the lock: a hook may remove itself.
    for (;;) {
      std::function<void()> hook;
      {
        std::lock_guard lock(hooks_mutex_);
        for (auto& candidate : hooks_)
          if (candidate) {
            hook = std::exchange(candidate, nullptr);
            break;
          }
      }
      if (!hook) return;
      hook();
    }
  }

 private:
  std::mutex hooks_mutex_;
  std::list<std::function<void()>> hooks_;
};

}  // namespace cwsandbox::detail
