// Containers without a container engine: PID 1 of lib/runner/pod in namespaces of its own, and relays that are put there from
// outside.
#pragma once

#include <sys/types.h>

#include <list>
#include <memory>
#include <string>
#include <vector>

#include "harness.hpp"
#include "runner/local/unique_fd.hpp"
#include "runner/remote/link.hpp"
#include "runner/remote/remote_sandbox.hpp"

namespace cwsandbox::test {

inline constexpr const char* kPodKey = "000102030405060708090a0b0c0d0e0f";
inline constexpr const char* kAgentInPod = "/run/cwsandbox-agent";

/// What a program wrote and how it ended.
struct Finished {
  std::string out, err;
  int code = -1;  ///< 128 and the number of the signal that ended it
};

class PodContainer {
 public:
  /// `arguments` go to `serve`, behind its key.
  explicit PodContainer(std::vector<std::string> arguments = {});
  /// Kills what is left of it.
  ~PodContainer();
  PodContainer(const PodContainer&) = delete;
  PodContainer& operator=(const PodContainer&) = delete;

  /// A relay, as pods/exec starts one.
  [[nodiscard]] std::unique_ptr<runner::remote::Link> connect(const asio::any_io_executor& executor) const;
  /// Puts a program there from outside and waits for its end.
  [[nodiscard]] Finished enter(const std::vector<std::string>& command) const;
  /// Until relays can connect.
  void wait_until_served() const;
  /// To PID 1.
  void signal(int number) const;
  /// Waits for its end; PID 1's exit code.
  [[nodiscard]] int wait();
  [[nodiscard]] std::string termination_message() const;

 private:
  std::string directory_;
  pid_t bwrap_ = -1;
  pid_t first_ = -1;  // PID 1, as seen from here
};

/// A runner whose sandboxes are containers of their own.
class PodTestRunner final : public runner::Runner {
 public:
  explicit PodTestRunner(asio::any_io_executor executor) : executor_(std::move(executor)) {}
  std::string_view name() const noexcept override { return "pod-test"; }
  asio::awaitable<std::unique_ptr<runner::Sandbox>> create(runner::SandboxSpec spec) override;

 private:
  asio::any_io_executor executor_;
  std::list<std::shared_ptr<PodContainer>> containers_;
};

/// One that is to be connected to this container.
[[nodiscard]] std::unique_ptr<runner::remote::RemoteSandbox> remote_sandbox(const asio::any_io_executor& executor,
                                                                            std::shared_ptr<PodContainer> container,
                                                                            std::string key = kPodKey);

}  // namespace cwsandbox::test
