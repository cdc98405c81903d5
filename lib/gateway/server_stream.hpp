// A Connect server stream: one message in, many out, and an end that says how it went.
#pragma once

#include "messages/encoding.hpp"
#include "net/http_server.hpp"
#include "protocol/connect.hpp"

#include <boost/asio/awaitable.hpp>

#include <string>
#include <string_view>

namespace cwsandbox::gateway {

namespace asio = boost::asio;

/// Every operation throws boost::system::system_error when the connection is lost.
class ServerStream {
 public:
  ServerStream(net::ServerExchange& exchange, messages::Encoding encoding) : exchange_(exchange), encoding_(encoding) {}

  [[nodiscard]] messages::Encoding encoding() const noexcept { return encoding_; }
  /// The bytes of the one message of the request. Throws ServiceError for anything else.
  [[nodiscard]] asio::awaitable<std::string> request();
  template <class M>
  [[nodiscard]] asio::awaitable<void> send(const M& message) {
    return send_bytes(messages::encode(encoding_, message));
  }
  /// Ends the stream, well or with an error.
  [[nodiscard]] asio::awaitable<void> end(const protocol::ConnectError* error);
  [[nodiscard]] bool client_gone() noexcept { return exchange_.client_gone(); }
  [[nodiscard]] std::uint64_t sent() const noexcept { return sent_; }  ///< bytes of body

 private:
  [[nodiscard]] asio::awaitable<void> send_bytes(std::string bytes);
  [[nodiscard]] asio::awaitable<void> flush();

  net::ServerExchange& exchange_;
  const messages::Encoding encoding_;
  std::string buffer_;
  std::uint64_t sent_ = 0;
  bool started_ = false;
};

}  // namespace cwsandbox::gateway
