/// \file
/// Session: sandboxes that have options in common and are stopped together.
#pragma once

#include <cwsandbox/defaults.hpp>
#include <cwsandbox/sandbox.hpp>

namespace cwsandbox {

namespace detail {
class SessionState;
}

/// Sandboxes that have defaults in common and are stopped together.
///
/// \par Lifetime
/// A handle; copies mean the same session. `close()` stops what it holds and says what went wrong. When the last handle goes
/// without that, everything is stopped as well, without waiting; at exit too, when a handle is still around then (on the default
/// loop; up to 10 s). The session keeps its sandboxes: one whose handles are gone runs on until the session ends.
///
/// \par After `close()`
/// Everything but `close()` throws SandboxError, and a `from_id` or `list` under way that was to adopt ends with it (SE-2).
///
/// \par Thread safety
/// Distinct objects: safe. Shared objects: safe for const calls.
///
/// Source: the published client's %Session; conformance SE-*.
class CWSANDBOX_EXPORT Session {
 public:
  /// Makes no network call. Every sandbox of it is made by `client`, on top of `defaults`.
  explicit Session(Client client = Client(), SandboxDefaults defaults = SandboxDefaults());

  /// A sandbox with these options on top of the defaults. Makes no network call: it starts when something is asked of it, or with
  /// `start()` (SE-1).
  /// \throws std::invalid_argument as `Sandbox::run`; SandboxError after `close()`.
  [[nodiscard]] Sandbox sandbox(SandboxOptions options = SandboxOptions()) const;

  /// As `Sandbox::list`. \param adopt whether the session takes what is found along when it closes (SE-7).
  [[nodiscard]] task<std::vector<Sandbox>> list(ListOptions options = ListOptions(), bool adopt = false) const;
  /// As `Sandbox::from_id`. \param adopt whether the session takes it along when it closes (SE-8).
  [[nodiscard]] task<Sandbox> from_id(std::string sandbox_id, bool adopt = true) const;
  /// From now on the sandbox is stopped with the session, or with its last handle.
  void adopt(const Sandbox& sandbox) const;

  /// How many sandboxes it holds that have not ended as far as is known.
  [[nodiscard]] std::size_t size() const;
  /// What its sandboxes have in common.
  [[nodiscard]] const SandboxDefaults& defaults() const noexcept;
  /// Who makes its sandboxes.
  [[nodiscard]] const Client& client() const noexcept;
  /// Whether `close()` has been called.
  [[nodiscard]] bool closed() const noexcept;

  /// Stops all at once and waits for all; sandboxes that are not there any more count as stopped (SE-3). Concurrent calls share
  /// one. \throws SessionCloseError from the task when some could not be stopped. Those stay: call `close()` again (SE-4).
  task<void> close(StopOptions options = StopOptions()) const;

  /// From now on SIGINT and SIGTERM close every session of the process and stop the sandboxes that it owns, give them 10 s, end
  /// what runs on the default loop and let the signal take its course. A second signal ends the process at once. Signals that are
  /// ignored stay so. The library does this only for a program that asks for it (SE-11).
  static void handle_signals();

 private:
  std::shared_ptr<detail::SessionState> state_;
};

}  // namespace cwsandbox
