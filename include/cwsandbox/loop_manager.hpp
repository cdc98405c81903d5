/// \file
/// LoopManager: owns the event loop, or adopts the caller's.
#pragma once

#include <cwsandbox/export.hpp>

#include <boost/asio/any_io_executor.hpp>

#include <functional>
#include <memory>

namespace cwsandbox {

namespace asio = boost::asio;

namespace detail {
class Loop;
}

/// A cheap handle to an event loop.
///
/// The default one is shared by the whole process: a single background thread that starts with the first use and is ended at exit.
/// A LoopManager made from an executor of the caller's starts no thread at all: work is done whenever the caller runs that
/// executor (EV-1, EV-6). Every process gets a strand of its own, so an executor that several threads run is fine.
///
/// \par fork
/// A child of `fork()` has no loop thread. Using a LoopManager that was running before the fork throws CWSandboxError in the child
/// instead of hanging (EV-7). Call `exec` in the child, or fork before the first use.
///
/// \par Exit
/// At exit (or in static destruction) the default loop ends what runs on it: embedded gateways with their sandboxes first, then the
/// thread. Later calls throw CWSandboxError.
///
/// \par Thread safety
/// Distinct objects: safe. Shared objects: safe.
class CWSANDBOX_EXPORT LoopManager {
 public:
  /// The process-wide default. Starts nothing by itself.
  LoopManager();
  /// Adopts the caller's executor.
  /// \throws std::invalid_argument for an empty one.
  explicit LoopManager(asio::any_io_executor executor);

  /// The executor that work runs on; starts the default loop's thread.
  /// \throws CWSandboxError after exit has begun, or in the child of a fork.
  [[nodiscard]] asio::any_io_executor executor() const;
  /// A new strand on that executor.
  [[nodiscard]] asio::any_io_executor make_strand() const;
  /// Whether the calling thread is one that must do the loop's work, so that blocking on it would never end (EV-2).
  [[nodiscard]] bool running_in_this_thread() const noexcept;
  /// Whether this loop adopts a caller's executor.
  [[nodiscard]] bool adopted() const noexcept;

  friend bool operator==(const LoopManager& a, const LoopManager& b) noexcept { return a.loop_ == b.loop_; }

  /// For the library's own parts.
  [[nodiscard]] const std::shared_ptr<detail::Loop>& loop() const noexcept { return loop_; }

 private:
  std::shared_ptr<detail::Loop> loop_;
};

}  // namespace cwsandbox
