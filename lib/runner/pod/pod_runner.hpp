// The one sandbox of a pod: this container, by PID 1's agent.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "runner/runner.hpp"

namespace cwsandbox::runner::pod {

class PodSandbox;

class PodRunner final : public Runner {
 public:
  /// Starts the agent's thread. One in a process. Throws std::system_error.
  explicit PodRunner(asio::any_io_executor executor);
  ~PodRunner() override;

  std::string_view name() const noexcept override { return "pod"; }
  /// Here, once. Of the spec, only the command, the environment, the working directory and the files are of this runner's concern:
  /// all else has been seen to by whoever made the pod. Processes have this process's environment besides.
  asio::awaitable<std::unique_ptr<Sandbox>> create(SandboxSpec spec) override;
  std::vector<std::string> refuses(const SandboxSpec& /*spec*/) const override { return {}; }

  /// Ends the sandbox as Sandbox::stop does, or keeps one from being made. Completes as `wait_ended`.
  [[nodiscard]] asio::awaitable<void> stop(std::chrono::milliseconds grace);
  /// Ends it when nobody has asked for the sandbox yet.
  void end_unless_begun();
  /// Until nothing is left of it, or of the attempt to make it.
  [[nodiscard]] asio::awaitable<void> wait_ended();
  /// How the main command ended, once the sandbox has; lost before, or when there was none.
  [[nodiscard]] ExitInfo exit() const noexcept;

 private:
  std::shared_ptr<PodSandbox> sandbox_;
};

}  // namespace cwsandbox::runner::pod
