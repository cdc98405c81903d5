// A pooled HTTP/1.1 client for one endpoint, and the WebSocket upgrade over the same transport.
#pragma once

#include "net/endpoint.hpp"
#include "net/http.hpp"
#include "net/proxy.hpp"
#include "net/websocket.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>

#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string_view>

namespace cwsandbox::net {

/// Why a request did not get an answer. `sent` tells whether the server may have seen it. `proxy_refused`: asking the proxy again
/// would not help, where with `connect` it might.
class TransportError : public std::runtime_error {
 public:
  enum class Kind { resolve, connect, tls, timeout, closed, protocol, upgrade_refused, proxy_refused };
  TransportError(Kind kind, bool sent, const std::string& what) : std::runtime_error(what), kind_(kind), sent_(sent) {}
  [[nodiscard]] Kind kind() const noexcept { return kind_; }
  [[nodiscard]] bool sent() const noexcept { return sent_; }

 private:
  Kind kind_;
  bool sent_;
};

/// The server answered an upgrade with something else than 101.
class UpgradeRefused : public TransportError {
 public:
  UpgradeRefused(HttpResponse response, const std::string& what)
      : TransportError(Kind::upgrade_refused, true, what), response_(std::move(response)) {}
  [[nodiscard]] const HttpResponse& response() const noexcept { return response_; }

 private:
  HttpResponse response_;
};

struct TlsClientOptions {
  bool verify = true;
  std::string ca_file;           ///< PEM; empty: the system's store
  std::string certificate_file;  ///< PEM, for client certificates
  std::string key_file;
  // The same as text instead of files, of which one may not be given too.
  std::string ca, certificate, key;
  std::string server_name;  ///< sent (SNI) and checked instead of the endpoint's host
};

/// How a request went, for whoever looks on.
struct RequestReport {
  std::string_view method, path;  ///< without the query
  unsigned status = 0;            ///< of the answer; 0: none has come
  std::chrono::steady_clock::duration duration{};
  std::exception_ptr error;  ///< null: none
};

struct HttpClientOptions {
  std::chrono::steady_clock::duration connect_timeout = std::chrono::seconds(10);  ///< resolve, connect, proxy and TLS, together
  std::size_t max_idle_connections = 8;
  std::chrono::steady_clock::duration idle_lifetime = std::chrono::seconds(30);
  std::size_t max_response_body = 64 * 1024 * 1024;
  TlsClientOptions tls;
  std::optional<Proxy> proxy;  ///< of http and https endpoints: each connection is a tunnel through it, WebSockets' too
  /// Called when the header of an answer has come, or the request has failed before that. On whatever thread does the work.
  std::function<void(const RequestReport&)> on_answer;
};

/// A request whose body is written, and whose answer is read, piece by piece, in constant memory. One operation at a time, on any
/// executor. An operation that makes no progress for `idle_timeout` fails with TransportError (timeout). Destroying it before the
/// answer's end closes the connection; after it, the connection is used again.
class ClientExchange {
 public:
  virtual ~ClientExchange() = default;
  /// Sends a piece of the body. False: the server has answered before it had it all; go on with `head()`.
  [[nodiscard]] virtual asio::awaitable<bool> write(asio::const_buffer from) = 0;
  /// `length` bytes of a regular file, by sendfile where the transport allows it. Returns the bytes sent: fewer when the file ended
  /// before or the server has answered.
  [[nodiscard]] virtual asio::awaitable<std::uint64_t> write_file(int fd, std::uint64_t offset, std::uint64_t length) = 0;
  /// The body is complete (short of the announced length it is an error: the connection is closed). Then the header of the answer;
  /// 1xx answers are skipped. `body` is empty.
  [[nodiscard]] virtual asio::awaitable<HttpResponse> head() = 0;
  /// Bytes of the answer's body when announced.
  [[nodiscard]] virtual std::optional<std::uint64_t> content_length() const noexcept = 0;
  /// The next bytes of the answer; 0 at its end. TransportError (closed) when it was cut.
  [[nodiscard]] virtual asio::awaitable<std::size_t> read(asio::mutable_buffer into) = 0;
  /// What is left of the answer, at most `limit` bytes (for an error's body).
  [[nodiscard]] virtual asio::awaitable<std::string> read_rest(std::size_t limit) = 0;
  /// Ends it from any thread: the operation under way fails with operation_aborted.
  virtual void abort() noexcept = 0;
};

struct ClientState;

/// Thread safe: any number of calls at once, on any executor. Idle connections are kept and reused; each runs on a strand of its
/// own on the client's executor, so that it need not stay with the executor of the call that opened it. An idle connection past its
/// lifetime is closed when the client is next used: a timer would keep the user's `io_context::run()` from returning.
class HttpClient {
 public:
  /// `executor` does the I/O of requests and must be running while one is awaited; it must outlive the client. Throws
  /// std::runtime_error that names the TLS file, or the text, that cannot be used.
  HttpClient(asio::any_io_executor executor, Endpoint endpoint, HttpClientOptions options);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  /// One request, one answer. A request that dies on a reused connection before any byte of the answer is tried once more on a new
  /// one. `deadline` covers everything. Throws TransportError, and std::invalid_argument for a method, target or header that would
  /// break the framing. Cancelling the coroutine closes that connection and throws operation_aborted.
  [[nodiscard]] asio::awaitable<HttpResponse> request(HttpRequest request, std::chrono::steady_clock::time_point deadline);

  /// Opens an exchange: connects (or takes an idle connection) and sends the header. `body_length`: of the body that `write` will
  /// send, 0 for none; unset: it goes out in chunks. `request.body` must be empty. With `expect_continue` the header asks for "100
  /// Continue", and the first write waits for it (or for the refusal), so that a refused upload costs nothing. Throws as `request`
  /// does.
  [[nodiscard]] asio::awaitable<std::unique_ptr<ClientExchange>> open(HttpRequest request, std::optional<std::uint64_t> body_length,
                                                                      bool expect_continue,
                                                                      std::chrono::steady_clock::time_point connect_deadline,
                                                                      std::chrono::steady_clock::duration idle_timeout);

  /// Opens a WebSocket on a new connection whose executor is `executor` (serialised: a strand, or a context that one thread runs).
  /// `subprotocol` may name several, separated by commas; the server must select one of them. Throws TransportError,
  /// UpgradeRefused, std::invalid_argument.
  [[nodiscard]] asio::awaitable<std::unique_ptr<WebSocket>> upgrade(asio::any_io_executor executor, std::string target,
                                                                    Headers headers, std::string subprotocol,
                                                                    WebSocket::Limits limits,
                                                                    std::chrono::steady_clock::time_point deadline);

  [[nodiscard]] const Endpoint& endpoint() const noexcept;
  /// Closes idle connections now.
  void close_idle() noexcept;

 private:
  std::shared_ptr<ClientState> state_;
};

}  // namespace cwsandbox::net
