// How the HTTP client comes to a connection: name, socket, proxy, TLS.
#pragma once

#include "net/endpoint.hpp"
#include "net/http_client_call.hpp"
#include "net/tls.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>

#include <memory>
#include <string>
#include <vector>

namespace cwsandbox::net {

/// Each call's coroutines keep it through the call's owner.
class Connector {
 public:
  /// Throws what `make_tls_client_context` throws. `endpoint` and `options` must outlive it.
  Connector(const Endpoint& endpoint, const HttpClientOptions& options);

  /// A connection to the endpoint, through the proxy where there is one, that is ready for HTTP; it is the call's transport, too.
  /// Ends with the connect timeout if that is sooner than the call's deadline, which is in force again afterwards. Throws
  /// TransportError.
  [[nodiscard]] asio::awaitable<std::shared_ptr<Transport>> connect(std::shared_ptr<ClientCall> call) const;

 private:
  using Addresses = std::vector<asio::ip::tcp::endpoint>;
  [[nodiscard]] asio::awaitable<Addresses> resolve(std::shared_ptr<ClientCall> call) const;
  [[nodiscard]] asio::awaitable<void> tunnel(std::shared_ptr<ClientCall> call, Socket& socket) const;
  [[nodiscard]] asio::awaitable<error_code> tls_handshake(std::shared_ptr<TlsTransport> transport) const;

  const Endpoint& endpoint_;
  const HttpClientOptions& options_;
  std::string proxy_name_;           // for messages
  std::shared_ptr<TlsContext> tls_;  // null: plain
};

}  // namespace cwsandbox::net
