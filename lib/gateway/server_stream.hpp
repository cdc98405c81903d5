// A Connect server stream: one message in, many out, and an end that says how it went.
#pragma once

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
  explicit ServerStream(net::ServerExchange& exchange) : exchange_(exchange) {}

  /// The JSON of the one message of the request. Throws ServiceError for anything else.
  [[nodiscard]] asio::awaitable<std::string> request();
  [[nodiscard]] asio::awaitable<void> send(std::string_view json);
  /// Ends the stream, well or with an error.
  [[nodiscard]] asio::awaitable<void> end(const protocol::ConnectError* error);
  [[nodiscard]] bool client_gone() noexcept { return exchange_.client_gone(); }
  [[nodiscard]] std::uint64_t sent() const noexcept { return sent_; }  ///< bytes of body

 private:
  [[nodiscard]] asio::awaitable<void> flush();

  net::ServerExchange& exchange_;
  std::string buffer_;
  std::uint64_t sent_ = 0;
  bool started_ = false;
};

}  // namespace cwsandbox::gateway
