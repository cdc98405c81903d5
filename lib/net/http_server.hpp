// An HTTP/1.1 server with WebSocket upgrades, with limits and deadlines on everything.
#pragma once

#include "net/endpoint.hpp"
#include "net/http.hpp"
#include "net/websocket.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>

#include <functional>
#include <optional>
#include <stdexcept>
#include <vector>

namespace cwsandbox::net {

struct ServerLimits {
  std::size_t max_header = 64 * 1024;      ///< bytes of request line and headers; 431 above it
  std::size_t max_body = 8 * 1024 * 1024;  ///< bytes; 413 above it
  std::size_t max_connections = 4096;      ///< over all listeners; further ones get 503 and are closed
  std::chrono::steady_clock::duration header_timeout = std::chrono::seconds(10);  ///< also the TLS handshake
  std::chrono::steady_clock::duration body_timeout = std::chrono::seconds(60);
  std::chrono::steady_clock::duration write_timeout = std::chrono::seconds(60);
  std::chrono::steady_clock::duration keep_alive = std::chrono::seconds(60);  ///< between requests
  std::chrono::steady_clock::duration close_timeout = std::chrono::seconds(5);
};

struct TlsServerOptions {
  std::string certificate_file;  ///< PEM chain; both empty: plain
  std::string key_file;
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
};

/// What the server asks of its owner. All calls come on the server's executor.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
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

  /// No new connections, idle ones are closed, requests under way are finished (at most `deadline`). WebSockets are the owner's.
  [[nodiscard]] asio::awaitable<void> stop(std::chrono::steady_clock::duration deadline);
  [[nodiscard]] std::size_t connections() const noexcept;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace cwsandbox::net
