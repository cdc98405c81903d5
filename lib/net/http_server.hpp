// An HTTP/1.1 server with WebSocket upgrades, with limits and deadlines on everything.
#pragma once

#include "base/rate.hpp"
#include "net/client_turns.hpp"
#include "net/endpoint.hpp"
#include "net/http.hpp"
#include "net/memory_pool.hpp"
#include "net/websocket.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <vector>

namespace cwsandbox::net {

struct ServerLimits {
  std::size_t max_header = 64 * 1024;      ///< bytes of request line and headers; 431 above it
  std::size_t max_body = 8 * 1024 * 1024;  ///< bytes; 413 above it
  /// Over all listeners. For one more, a stranger's connection gives way, then one that is idle, the oldest first; when all are at
  /// work the new one gets 503 and is closed.
  std::size_t max_connections = 4096;
  /// Of one client (HttpHandler::client_of); a request on a further one gets 429, unless another of that client's is idle, which
  /// gives way. 0: three quarters of `max_connections`, so that nobody has all of them.
  std::size_t max_client_connections = 0;
  /// Bytes that strangers may have sent and not got an answer to, over all connections; beyond it the oldest connection is dropped.
  std::size_t max_stranger_memory = 32 * 1024 * 1024;
  /// The same for clients: requests under way with their bodies, and WebSocket messages that are not complete. Beyond it 503.
  std::size_t max_client_memory = 256 * 1024 * 1024;
  std::size_t max_one_client_memory = 0;                                          ///< of one client; 0: three quarters of it
  std::chrono::steady_clock::duration header_timeout = std::chrono::seconds(10);  ///< also the TLS handshake
  std::chrono::steady_clock::duration body_timeout = std::chrono::seconds(60);
  std::chrono::steady_clock::duration write_timeout = std::chrono::seconds(60);
  std::chrono::steady_clock::duration keep_alive = std::chrono::seconds(60);  ///< between requests
  std::chrono::steady_clock::duration close_timeout = std::chrono::seconds(5);

  /// What is in force for one client.
  [[nodiscard]] std::size_t connections_of_one() const noexcept {
    return max_client_connections != 0 ? max_client_connections : std::max<std::size_t>(1, max_connections - max_connections / 4);
  }
  [[nodiscard]] std::size_t memory_of_one() const noexcept {
    return max_one_client_memory != 0 ? std::min(max_one_client_memory, max_client_memory)
                                      : max_client_memory - max_client_memory / 4;
  }
};

struct TlsServerOptions {
  std::string certificate_file;  ///< PEM chain; both empty: plain
  std::string key_file;
  /// PEM; set: clients must show a certificate that one of these authorities has signed.
  std::string client_ca_file;
};

/// What one client takes of the server, over all its connections. The owner keeps one for each, the server counts in it.
struct ClientAccount {
  std::size_t connections = 0;
  MemoryPool memory;
  ClientTurns turns;    ///< of its requests, and of the pieces of their bodies
  base::Rate refusals;  ///< of what was refused for there being too much of it (429, 503)
};

/// A request whose body is read, and whose answer is written, piece by piece, in constant memory. Everything on the server's
/// executor; one operation at a time. Every operation has a deadline of its own (`body_timeout` for each read that makes no
/// progress, `write_timeout` for each write), and throws boost::system::system_error when the connection is lost.
class ServerExchange {
 public:
  virtual ~ServerExchange() = default;
  [[nodiscard]] virtual const HttpRequest& request() const noexcept = 0;  ///< with an empty body
  /// Bytes of the request's body when announced; unset when it comes in chunks.
  [[nodiscard]] virtual std::optional<std::uint64_t> content_length() const noexcept = 0;
  /// The next bytes of the body; 0 at its end. Says "100 Continue" first where the client waits for it. `max_body` does not apply.
  [[nodiscard]] virtual asio::awaitable<std::size_t> read(asio::mutable_buffer into) = 0;
  /// The header of the answer, once. `length` unset: the body goes out in chunks. `head.body` goes out as the body's first bytes.
  [[nodiscard]] virtual asio::awaitable<void> start(HttpResponse head, std::optional<std::uint64_t> length) = 0;
  [[nodiscard]] virtual asio::awaitable<void> write(asio::const_buffer from) = 0;
  /// `length` bytes of a regular file: by sendfile where the transport allows it, else by copies. Returns the bytes sent, fewer
  /// when the file ended before.
  [[nodiscard]] virtual asio::awaitable<std::uint64_t> write_file(int fd, std::uint64_t offset, std::uint64_t length) = 0;
  /// The answer is complete. An exchange that ends without it (or short of the announced length) has its connection dropped, so
  /// that the client sees that the answer was cut.
  [[nodiscard]] virtual asio::awaitable<void> finish() = 0;
  /// Whether the client has closed its connection; looks, never waits. For answers that may be silent for long.
  [[nodiscard]] virtual bool client_gone() noexcept = 0;
  /// How large a buffer for this body may be: `wanted` where there is memory for it, else less, but at least kLeastBuffer. What is
  /// given counts as the client's until the request is over.
  [[nodiscard]] virtual std::size_t buffer_size(std::size_t wanted) = 0;
  static constexpr std::size_t kLeastBuffer = 16 * 1024;
};

/// What the server asks of its owner. All calls come on the server's executor.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  /// Whose request it is, asked before anything else about it; null: a stranger's, whose connection is the first to go when there
  /// are too many. Always the same object for the same client.
  [[nodiscard]] virtual std::shared_ptr<ClientAccount> client_of(const HttpRequest& /*request*/) { return nullptr; }
  /// True for a request that `stream` is to answer instead of `handle`; asked after `early_answer`.
  [[nodiscard]] virtual bool streams(const HttpRequest& /*request*/) { return false; }
  /// Answers a request piece by piece. An exception before `start` becomes a 500 without its text; later it cuts the connection.
  [[nodiscard]] virtual asio::awaitable<void> stream(ServerExchange& /*exchange*/) {
    throw std::logic_error("this handler streams nothing");
  }
  /// Answers a request. An exception becomes a 500 without its text.
  [[nodiscard]] virtual asio::awaitable<HttpResponse> handle(const HttpRequest& request) = 0;
  /// Called for a request whose body has not been read: an answer here ends it early (wrong token, unknown path), nullopt goes on.
  [[nodiscard]] virtual std::optional<HttpResponse> early_answer(const HttpRequest& request) = 0;

  /// Decides on a WebSocket upgrade (`early_answer` and `handle` are not asked about it). `refusal`: answered instead of 101.
  /// `subprotocol`: the one to select (one of those offered).
  struct UpgradeDecision {
    std::optional<HttpResponse> refusal;
    std::string subprotocol;
    WebSocket::Limits limits;
  };
  /// A client has reached a limit of its own, and this is the answer; the owner may say more about it.
  enum class ClientLimit : std::uint8_t { connections, request, answer };
  [[nodiscard]] virtual HttpResponse at_limit(const ClientAccount& /*client*/, ClientLimit /*limit*/, HttpResponse usual) {
    return usual;
  }

  [[nodiscard]] virtual UpgradeDecision on_upgrade(const HttpRequest& request, const std::vector<std::string>& offered) = 0;
  /// The upgrade is done; the owner keeps the connection from here on. It still counts as a connection until it is destroyed.
  virtual void on_websocket(const HttpRequest& request, std::unique_ptr<WebSocket> socket) = 0;
};

/// Everything runs on one serialised executor (a strand, or an io_context that one thread runs): not thread safe otherwise; `stop`
/// must be awaited on it. Destroying the server cancels the `handle` coroutines under way: each resumes once more, later, to end.
class HttpServer {
 public:
  HttpServer(asio::any_io_executor executor, HttpHandler& handler, ServerLimits limits);
  ~HttpServer();  ///< drops every connection
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  /// Binds and starts to accept. Throws std::system_error (address in use, …) or std::runtime_error (bad certificate) with a
  /// text that names the address or file. A Unix socket gets mode 0600; a stale one (nobody listens) is replaced.
  /// Returns the address actually bound (port 0 resolved).
  ListenAddress listen(const ListenAddress& address, const TlsServerOptions& tls = {});

  /// New connections of every listener that has TLS use these; those that are there go on as they are. Throws std::runtime_error
  /// that names the file, and changes nothing then.
  void reload(const TlsServerOptions& tls);

  /// No new connections, idle ones are closed, requests under way are finished (at most `deadline`). WebSockets are the owner's.
  [[nodiscard]] asio::awaitable<void> stop(std::chrono::steady_clock::duration deadline);
  [[nodiscard]] std::size_t connections() const noexcept;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace cwsandbox::net
