// A Connect call whose answer is a stream of messages.
#pragma once

#include "client/backend.hpp"
#include "protocol/connect_stream.hpp"

#include <boost/asio/awaitable.hpp>

#include <memory>
#include <optional>
#include <string>

namespace cwsandbox::client {

/// Where bytes of a transfer may stand still before it counts as broken. A server sends something at least every 15 s.
inline constexpr std::chrono::seconds kTransferIdle{60};
/// What is read of an answer that is an error, and no transfer.
inline constexpr std::size_t kMaxErrorBody = 1024 * 1024;

/// One operation at a time. Destroying it closes the connection unless the stream had come to its end.
class ServerStream {
 public:
  /// Asks once; no retry. `target` is the path of the method. Throws exceptions of the tree.
  [[nodiscard]] static asio::awaitable<std::unique_ptr<ServerStream>> open(std::shared_ptr<Backend> backend, std::string target,
                                                                           std::string json, std::size_t max_message);
  explicit ServerStream(std::unique_ptr<net::ClientExchange> exchange, std::size_t max_message)
      : exchange_(std::move(exchange)), reader_(max_message) {}

  /// The JSON of the next message; empty at the end. Throws what the server ends the stream with, and SandboxUnavailableError when
  /// the connection closes before that.
  [[nodiscard]] asio::awaitable<std::optional<std::string>> next();

 private:
  std::unique_ptr<net::ClientExchange> exchange_;
  protocol::EnvelopeReader reader_;
  std::string buffer_;
};

}  // namespace cwsandbox::client
