// A pod without the agent: each process is a pods/exec of its own, and the main command is the container's. For clusters that allow
// neither our init container nor its volume. What such an exec cannot do is refused, never pretended: docs/kubernetes.md has the
// list.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runner/kubernetes/api_client.hpp"
#include "runner/runner.hpp"

namespace cwsandbox::runner::kubernetes {

/// What a shell in the container reads from its standard input (or, with a terminal, is given) to become the process: it answers
/// one line on its standard output, "=PID" or "!WHAT" for what keeps it from starting ("cwd", "program"). POSIX sh.
[[nodiscard]] std::string start_script(const ProcessSpec& spec);

/// Not thread safe: everything on the ApiClient's executor.
class PlainSandbox final : public Sandbox {
 public:
  /// The container runs, or has ended. `log` is told of output that nobody will see.
  PlainSandbox(std::shared_ptr<ApiClient> client, std::string name_space, std::string pod,
               std::function<void(const std::string&)> log);
  ~PlainSandbox() override;
  PlainSandbox(const PlainSandbox&) = delete;
  PlainSandbox& operator=(const PlainSandbox&) = delete;

  /// The container has ended, or its pod has gone; nobody is left in it.
  void place_gone(const std::optional<ExitInfo>& exit);

  ByteSource& main_stdout() noexcept override;
  /// Always at its end: the cluster keeps one log of both.
  ByteSource& main_stderr() noexcept override;
  /// Every call throws RunnerError ("failed_precondition").
  Files& files() noexcept override;
  /// Throws RunnerError ("unimplemented") for an input where the cluster only speaks v4.channel.k8s.io, which cannot end one, and
  /// for an environment with a terminal: it would be part of a URL.
  asio::awaitable<std::unique_ptr<Process>> start(ProcessSpec spec) override;
  void on_exit(std::function<void(const ExitInfo&)> handler) override;
  /// Whoever calls it deletes the pod; completes when that has ended.
  asio::awaitable<void> stop(std::chrono::milliseconds grace) override;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace cwsandbox::runner::kubernetes
