// What the tests of broken connections share.
#pragma once

#include "support.hpp"

#include "support/fault_proxy.hpp"

#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace support {

using namespace cwsandbox;

/// A gateway, a proxy before it, a sandbox that is not reached through the proxy, and the same one that is.
struct Stage {
  explicit Stage(FaultProxy::Listen listen = FaultProxy::Listen::unix_socket, const std::vector<std::string>& arguments = {})
      : daemon(arguments), proxy(daemon.socket(), listen) {
    owner.wait().result();
    through = Sandbox::from_id(Client(options()), *owner.sandbox_id()).result();
  }
  [[nodiscard]] ClientOptions options() const { return daemon.options().with_base_url(proxy.url()); }
  /// Another program's view of the sandbox: nothing shared with `owner`.
  [[nodiscard]] Sandbox elsewhere() const {
    return Sandbox::from_id(Client(daemon.options().with_retry_budget(29s)), *owner.sandbox_id()).result();
  }
  Daemon daemon;
  FaultProxy proxy;
  Sandbox owner = Sandbox::run(Client(daemon.options()));
  Sandbox through;
};

inline FaultProxy::Plan after_messages(std::uint64_t count) {
  FaultProxy::Plan plan;
  plan.messages = count;
  return plan;
}

inline std::string read_until(const StreamReader<std::string>& reader, const std::string& what) {
  std::string seen;
  while (seen.find(what) == std::string::npos) {
    const auto chunk = reader.next().result(60s);
    if (!chunk) throw std::runtime_error("the output ended before " + what + "; seen: " + seen);
    seen += *chunk;
  }
  return seen;
}

/// What no test goes on without, on whichever thread.
template <typename Condition>
void wait_until(const Condition& condition) {
  if (!eventually(condition)) throw std::runtime_error("it did not come to pass");
}

}  // namespace support
