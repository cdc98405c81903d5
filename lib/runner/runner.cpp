#include "runner/runner.hpp"

namespace cwsandbox::runner {

std::vector<std::string> asked_beyond_the_basics(const SandboxSpec& spec) {
  std::vector<std::string> names;
  if (spec.resources.gpus > 0) names.emplace_back("resources.gpus");
  if (!spec.volumes.empty()) names.emplace_back("volumes");
  if (!spec.mounts.empty()) names.emplace_back("mounts");
  if (!spec.secrets.empty()) names.emplace_back("secrets");
  if (!spec.ports.empty()) names.emplace_back("ports");
  if (spec.egress) names.emplace_back("egress");
  if (!spec.runtime_class.empty()) names.emplace_back("runtime_class");
  return names;
}

// Coroutines, and so not in the header: GCC 12 cannot link one that is inline with --gc-sections.

asio::awaitable<std::unique_ptr<FileWatch>> Files::watch(std::string /*path*/) {
  throw RunnerError(ErrorCode::unimplemented, "CWSANDBOX_NOT_IMPLEMENTED", "files cannot be watched where this sandbox runs");
  co_return nullptr;
}

asio::awaitable<void> Runner::find(std::function<void(Found)> /*handler*/) { co_return; }

asio::awaitable<std::unique_ptr<Sandbox>> Runner::adopt(std::string /*id*/) {
  throw RunnerError(ErrorCode::unimplemented, "CWSANDBOX_NOT_IMPLEMENTED", "this runner has only sandboxes of its own");
  co_return nullptr;
}

}  // namespace cwsandbox::runner
