// The one seam between the client and a gateway in the same process (`local:`). Whatever knows both is behind it.
#pragma once

#include <cwsandbox/task.hpp>

#include <memory>
#include <string>

namespace cwsandbox::client {

/// A gateway with the local runner, on a private Unix socket. Ends with its last owner, with everything that it started.
class EmbeddedGateway {
 public:
  virtual ~EmbeddedGateway() = default;
  /// The one of this loop, started with the first use. Throws SandboxUnavailableError when this build has no local runner.
  [[nodiscard]] static std::shared_ptr<EmbeddedGateway> get(const LoopManager& loop);

  [[nodiscard]] virtual const std::string& socket_path() const noexcept = 0;
  [[nodiscard]] virtual const std::string& token() const noexcept = 0;
  /// Completes when it listens.
  [[nodiscard]] virtual task<void> ready() const = 0;
  /// Stops it now: sandboxes, connections, the socket's directory. The task completes when nothing is left.
  [[nodiscard]] virtual task<void> stop() = 0;
};

}  // namespace cwsandbox::client
