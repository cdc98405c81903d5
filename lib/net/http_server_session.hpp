// A connection of the HTTP server: its requests, one after the other, each with its answer.
#pragma once

#include "net/any_byte_stream.hpp"
#include "net/client_turns.hpp"
#include "net/http_body.hpp"
#include "net/http_server.hpp"
#include "net/http_server_admission.hpp"
#include "net/tls.hpp"
#include "net/watchdog.hpp"

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/beast/core/flat_buffer.hpp>

#include <cstddef>
#include <memory>
#include <optional>
#include <string>

namespace cwsandbox::net {

// What is read and dropped of a request that was answered early, so that its connection can be kept.
inline constexpr std::size_t kMaxSkippedBody = 64 * 1024;

/// What the sessions of one server share. They keep it beyond the server's end. Everything on `executor`.
struct ServerState {
  ServerState(asio::any_io_executor its_executor, HttpHandler& its_handler, const ServerLimits& its_limits)
      : executor(std::move(its_executor)), limits(its_limits), handler(&its_handler) {}

  const asio::any_io_executor executor;
  const ServerLimits limits;
  HttpHandler* handler;   // null once the server is gone
  bool stopping = false;  // no request after the one under way
  const std::shared_ptr<Admission> admission = std::make_shared<Admission>(limits);
  ClientTurns stranger_turns;  // they share one
};

struct ServerSession final : Admission::Connection {
  ServerSession(const asio::any_io_executor& executor, std::shared_ptr<Transport> its_transport);
  void drop() noexcept override;
  /// How an answer's bytes go out.
  [[nodiscard]] BodySink sink(const ServerState& server);

  std::shared_ptr<Transport> transport;  // null once a WebSocket has taken it along, or the session has ended
  std::optional<Watchdog> watchdog;
  boost::beast::flat_buffer buffer;
  asio::cancellation_signal cancel;
  bool idle = false;    // between requests: may be closed without loss
  bool gentle = false;  // a deadline ends the read under way, not the connection
};

/// Serves the connection until it ends or becomes a WebSocket, after the TLS handshake where it is `secure`.
[[nodiscard]] asio::awaitable<void> serve(std::shared_ptr<ServerState> server, std::shared_ptr<ServerSession> session,
                                          std::shared_ptr<TlsTransport> secure);

/// Tells a plain connection that there is no room for it: 503.
[[nodiscard]] asio::awaitable<void> refuse(std::shared_ptr<Transport> transport, std::string why);

}  // namespace cwsandbox::net
