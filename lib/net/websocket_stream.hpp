// How the HTTP client and server of this folder make WebSockets; not for others.
#pragma once

#include "net/any_byte_stream.hpp"
#include "net/http.hpp"
#include "net/websocket.hpp"

#include <boost/asio/awaitable.hpp>

#include <memory>
#include <string>
#include <vector>

namespace cwsandbox::net {

/// What came of a handshake.
struct HandshakeResult {
  error_code error;
  std::unique_ptr<WebSocket> socket;  ///< when there is no error
  HttpResponse response;              ///< client: the answer, also a refusal (error::upgrade_declined)
};

/// The client's side. The caller sees to the deadline: it closes the transport.
[[nodiscard]] asio::awaitable<HandshakeResult> connect_websocket(std::shared_ptr<Transport> transport, std::string host,
                                                                 std::string target, Headers headers, std::string subprotocols,
                                                                 WebSocket::Limits limits);

/// The server's side of a request that has been read (`headers`: all of them). `guard` lives as long as the socket.
[[nodiscard]] asio::awaitable<HandshakeResult> accept_websocket(std::shared_ptr<Transport> transport, std::string target,
                                                                Headers headers, std::string subprotocol, WebSocket::Limits limits,
                                                                std::shared_ptr<void> guard);

/// The handshake failed because the server answered with something else than 101.
[[nodiscard]] bool upgrade_declined(const error_code& ec) noexcept;

/// The peer closed or reset the connection within the handshake.
[[nodiscard]] bool peer_went_away(const error_code& ec) noexcept;

}  // namespace cwsandbox::net
