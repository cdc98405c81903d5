// A runner whose sandboxes are behind links in this process: RemoteSandbox, a socket pair, SandboxServer, the local runner.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "harness.hpp"
#include "runner/remote/frames.hpp"
#include "runner/remote/messages.hpp"
#include "runner/remote/remote_sandbox.hpp"
#include "runner/remote/sandbox_server.hpp"

namespace cwsandbox::test {

namespace remote = runner::remote;

/// How many bytes a link may still carry, both ways together, before it breaks in the middle; unlimited for none.
using Budget = std::function<std::uint64_t()>;
inline constexpr std::uint64_t kUnlimited = ~std::uint64_t{0};

/// The two ends of a stream; one of them breaks after `budget` bytes.
[[nodiscard]] std::pair<std::unique_ptr<remote::Link>, std::unique_ptr<remote::Link>> link_pair(asio::any_io_executor executor,
                                                                                                std::uint64_t budget = kUnlimited);

inline constexpr const char* kKey = "the key of the test";

[[nodiscard]] std::string session_name();
[[nodiscard]] remote::RemoteOptions remote_options();
[[nodiscard]] remote::ServerOptions server_options();

class RemoteRunner final : public runner::Runner {
 public:
  RemoteRunner(asio::any_io_executor executor, runner::Runner& inner, Budget budget = {});
  std::string_view name() const noexcept override { return "remote"; }
  asio::awaitable<std::unique_ptr<runner::Sandbox>> create(runner::SandboxSpec spec) override;
  [[nodiscard]] std::uint64_t links() const noexcept { return *links_; }

 private:
  asio::any_io_executor executor_;
  runner::Runner* inner_;
  Budget budget_;
  std::shared_ptr<std::uint64_t> links_ = std::make_shared<std::uint64_t>(0);
};

/// Dials `server` over links that break after what `budget` says.
[[nodiscard]] remote::Dial dial_to(asio::any_io_executor executor, std::weak_ptr<remote::SandboxServer> server, Budget budget = {},
                                   std::shared_ptr<std::uint64_t> links = nullptr);

/// One end of a link, frame by frame.
class RawEnd {
 public:
  explicit RawEnd(std::unique_ptr<remote::Link> link) : link_(std::move(link)) {}
  asio::awaitable<void> send(std::uint32_t stream, std::string message);
  asio::awaitable<void> send(const remote::Control& control);
  asio::awaitable<void> send_bytes(std::string bytes);
  /// The next frame's stream, and its channel with its payload; nothing at the end.
  asio::awaitable<std::optional<std::pair<std::uint32_t, std::string>>> receive();
  asio::awaitable<remote::Control> receive_control();
  /// Until the other end closes.
  asio::awaitable<void> drain();
  void close() { link_->close(); }

 private:
  std::unique_ptr<remote::Link> link_;
  remote::FrameReader frames_;
  std::string stored_;
};

[[nodiscard]] remote::Control hello(std::string session, std::string key = kKey);

}  // namespace cwsandbox::test
