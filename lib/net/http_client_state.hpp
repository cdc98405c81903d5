// What the calls of one HTTP client share.
#pragma once

#include "net/endpoint.hpp"
#include "net/http_client.hpp"
#include "net/http_client_connector.hpp"
#include "net/http_client_pool.hpp"

#include <boost/asio/any_io_executor.hpp>

#include <chrono>
#include <exception>
#include <string>
#include <string_view>

namespace cwsandbox::net {

/// Any number of calls use it at once, on any thread: what is not constant is thread safe. Each holds it.
struct ClientState {
  ClientState(asio::any_io_executor executor, Endpoint endpoint, HttpClientOptions options);

  const asio::any_io_executor executor;
  const Endpoint endpoint;
  const HttpClientOptions options;
  const std::string name;  // of the endpoint, for messages
  const Connector connector;
  ConnectionPool pool;

  /// Where a call runs: with the connection that it uses again, or with the new one, on a strand of its own.
  [[nodiscard]] asio::any_io_executor executor_of(const ClientConnection* reused) const;
  /// Tells whoever looks on how a request went. `head` begins with its request line.
  void report(std::string_view head, std::chrono::steady_clock::time_point since, unsigned status,
              std::exception_ptr error) const noexcept;
};

}  // namespace cwsandbox::net
