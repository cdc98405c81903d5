// The loop behind a LoopManager, for the rest of the library.
#pragma once

#include <cwsandbox/loop_manager.hpp>

namespace cwsandbox::detail {

class Loop {
 public:
  virtual ~Loop() = default;
  [[nodiscard]] virtual asio::any_io_executor executor() = 0;
  [[nodiscard]] virtual bool running_in_this_thread() const noexcept = 0;
  [[nodiscard]] virtual bool adopted() const noexcept = 0;
  /// Throws where waiting for this loop's work would never end: after exit has begun, in the child of a fork, on its own thread,
  /// and on a process's only thread when the loop is the caller's.
  virtual void check_may_block() const = 0;
};

}  // namespace cwsandbox::detail
