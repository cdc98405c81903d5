#include "net/http_client.hpp"

#include "net/any_byte_stream.hpp"
#include "net/http_wire.hpp"
#include "net/tls.hpp"
#include "net/watchdog.hpp"
#include "net/websocket_stream.hpp"

#include <boost/asio/bind_executor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl/error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>

#include <algorithm>
#include <array>
#include <list>
#include <mutex>
#include <optional>

namespace cwsandbox::net {

namespace {

using Clock = std::chrono::steady_clock;
using Kind = TransportError::Kind;

// A connection of the pool. It has a strand of its own on the pool's executor: calls come from any executor, one after the
// other, and none of them needs to outlive the connection.
struct Connection {
  std::shared_ptr<Transport> transport;
  boost::beast::flat_buffer buffer;
  Clock::time_point idle_since;
};

// One request or upgrade under way. Everything on `executor`.
struct Call : std::enable_shared_from_this<Call> {
  Call(asio::any_io_executor ex, Clock::time_point until) : executor(std::move(ex)), deadline(until) {}

  asio::any_io_executor executor;
  Clock::time_point deadline;
  std::shared_ptr<void> owner;  // the client's state: the work may outlive the caller's coroutine
  std::optional<Watchdog> watchdog;
  std::shared_ptr<Transport> transport;     // what a deadline or a cancellation closes
  Socket* connecting = nullptr;             // likewise, before there is a transport
  asio::steady_timer* resolving = nullptr;  // likewise, before there is an address
  bool cancelled = false, timed_out = false, sent = false;

  // The result.
  HttpResponse response;
  std::unique_ptr<WebSocket> socket;

  void stop() noexcept {
    error_code ignored;
    if (transport) transport->close();
    if (connecting != nullptr) connecting->close(ignored);
    if (resolving != nullptr) resolving->cancel();
  }
  void cancel() noexcept {
    cancelled = true;
    stop();
  }
};

// What name resolution answers into. It cannot be interrupted, so a call that gives up leaves it behind.
struct Resolution {
  explicit Resolution(const asio::any_io_executor& executor)
      : resolver(executor), ready(executor, asio::steady_timer::time_point::max()) {}
  asio::ip::tcp::resolver resolver;
  asio::steady_timer ready;
  std::vector<asio::ip::tcp::endpoint> found;
  error_code error;
  bool done = false;
};

}  // namespace

struct HttpClient::Impl : std::enable_shared_from_this<HttpClient::Impl> {
  Impl(asio::any_io_executor ex, Endpoint where, HttpClientOptions opts)
      : executor(std::move(ex)), endpoint(std::move(where)), options(std::move(opts)), name(endpoint.to_string()) {
    if (endpoint.tls()) tls = make_tls_client_context(options.tls);
  }

  const asio::any_io_executor executor;
  const Endpoint endpoint;
  const HttpClientOptions options;
  const std::string name;
  std::shared_ptr<TlsContext> tls;

  std::mutex mutex;
  std::list<std::unique_ptr<Connection>> idle;  // the youngest last
  bool closed = false;

  // An idle connection that still looks alive, or null.
  std::unique_ptr<Connection> borrow() {
    std::list<std::unique_ptr<Connection>> dead;  // destroyed outside the lock
    std::unique_ptr<Connection> out;
    const std::lock_guard lock(mutex);
    prune(dead);
    while (!idle.empty() && !out) {
      if (idle.back()->transport->quiet()) {
        out = std::move(idle.back());
        idle.pop_back();
      } else {
        dead.splice(dead.end(), idle, std::prev(idle.end()));
      }
    }
    return out;
  }

  void give_back(std::unique_ptr<Connection> connection) {
    std::list<std::unique_ptr<Connection>> dead;
    connection->idle_since = Clock::now();
    connection->buffer.shrink_to_fit();
    const std::lock_guard lock(mutex);
    prune(dead);
    if (closed || options.max_idle_connections == 0) {
      dead.push_back(std::move(connection));
      return;
    }
    idle.push_back(std::move(connection));
    if (idle.size() > options.max_idle_connections) dead.splice(dead.end(), idle, idle.begin());
  }

  // Connections past their time go whenever the pool is used. There is no timer: it would keep `io_context::run()` from returning
  // after the last answer.
  void prune(std::list<std::unique_ptr<Connection>>& dead) {
    const auto oldest = Clock::now() - options.idle_lifetime;
    while (!idle.empty() && idle.front()->idle_since <= oldest) dead.splice(dead.end(), idle, idle.begin());
  }

  void clear(bool for_good) noexcept {
    std::list<std::unique_ptr<Connection>> dead;
    const std::lock_guard lock(mutex);
    closed = closed || for_good;
    dead.swap(idle);
  }

  // ---- Errors -------------------------------------------------------------------------------------------------------------

  [[noreturn]] void fail(const Call& call, Kind kind, const std::string& what, const error_code& ec = {}) const {
    if (call.cancelled) throw boost::system::system_error(asio::error::operation_aborted);
    if (call.timed_out) throw TransportError(Kind::timeout, call.sent, name + ": " + what + ": the deadline has passed");
    throw TransportError(kind, call.sent, name + ": " + what + (ec ? ": " + ec.message() : std::string()));
  }

  // ---- Connecting ---------------------------------------------------------------------------------------------------------

  asio::awaitable<std::vector<asio::ip::tcp::endpoint>> resolve(std::shared_ptr<Call> call) {
    std::vector<asio::ip::tcp::endpoint> out;
    error_code ec;
    // Literal addresses need no resolver, and so not the thread that Asio gives it.
    const auto literal = asio::ip::make_address(endpoint.host, ec);
    if (!ec) {
      out.emplace_back(literal, endpoint.port);
      co_return out;
    }
    auto resolution = std::make_shared<Resolution>(call->executor);
    resolution->resolver.async_resolve(
        endpoint.host, std::to_string(endpoint.port), asio::ip::tcp::resolver::numeric_service,
        asio::bind_executor(call->executor, [resolution](error_code e, const asio::ip::tcp::resolver::results_type& results) {
          resolution->error = e;
          for (const auto& entry : results) resolution->found.push_back(entry.endpoint());
          resolution->done = true;
          resolution->ready.cancel();
        }));
    call->resolving = &resolution->ready;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    if (!call->cancelled && !call->timed_out) co_await resolution->ready.async_wait(token);
    call->resolving = nullptr;
    if (!resolution->done || call->cancelled || call->timed_out) fail(*call, Kind::resolve, "resolving the host's name");
    if (resolution->error) fail(*call, Kind::resolve, "resolving the host's name", resolution->error);
    out.swap(resolution->found);
    co_return out;
  }

  asio::awaitable<error_code> connect_one(std::shared_ptr<Call> call, Socket& socket, asio::generic::stream_protocol::endpoint to) {
    error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    if (socket.open(to.protocol(), ec); ec) co_return ec;
    call->connecting = &socket;
    co_await socket.async_connect(to, token);
    call->connecting = nullptr;
    co_return ec;
  }

  asio::awaitable<std::shared_ptr<Transport>> connect(std::shared_ptr<Call> call) {
    const auto until = std::min(call->deadline, Clock::now() + options.connect_timeout);
    call->watchdog->expires_at(until);
    Socket socket(call->executor);
    error_code ec;
    switch (endpoint.scheme) {
      case Endpoint::Scheme::local:
        fail(*call, Kind::connect, "this endpoint has no address");
      case Endpoint::Scheme::unix_socket: {
        const asio::generic::stream_protocol::endpoint to = asio::local::stream_protocol::endpoint(endpoint.path);
        ec = co_await connect_one(call, socket, to);
        break;
      }
      case Endpoint::Scheme::http:
      case Endpoint::Scheme::https: {
        const auto addresses = co_await resolve(call);
        ec = asio::error::host_not_found;
        for (std::size_t i = 0; i < addresses.size(); ++i) {
          // An address that swallows packets may only use its share of the time.
          const auto now = Clock::now();
          const auto share = now + (until - now) / static_cast<int>(addresses.size() - i);
          bool slow = false;
          const asio::generic::stream_protocol::endpoint to = addresses[i];
          {
            Watchdog one(call->executor, [&socket, &slow] {
              error_code ignored;
              slow = true;
              socket.close(ignored);
            });
            if (i + 1 < addresses.size()) one.expires_at(share);
            ec = co_await connect_one(call, socket, to);
          }
          if (slow) ec = asio::error::timed_out;
          if (!ec || call->cancelled || call->timed_out) break;
          error_code ignored;
          socket.close(ignored);
        }
        if (!ec) socket.set_option(asio::ip::tcp::no_delay(true), ec);
        break;
      }
    }
    if (ec || call->cancelled || call->timed_out) fail(*call, Kind::connect, "connecting", ec);

    if (!tls) {
      call->transport = make_plain_transport(std::move(socket));
    } else {
      auto transport = make_tls_transport(std::move(socket), tls);
      call->transport = transport;
      ec = co_await tls_handshake(transport);
      if (ec) {
        const auto why = transport->refusal();
        if (why.empty()) fail(*call, Kind::tls, "TLS handshake", ec);
        fail(*call, Kind::tls, "TLS handshake: the server's certificate is refused: " + why);
      }
    }
    if (call->cancelled || call->timed_out) fail(*call, Kind::connect, "connecting");
    call->watchdog->expires_at(call->deadline);
    co_return call->transport;
  }

  asio::awaitable<error_code> tls_handshake(std::shared_ptr<TlsTransport> transport) {
    error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    const std::string& host = endpoint.host;
    auto initiate = [&transport, &host](auto handler) { transport->async_handshake(host, IoHandler(std::move(handler))); };
    co_await asio::async_initiate<decltype(token)&, void(error_code)>(initiate, token);
    co_return ec;
  }

  // ---- One request --------------------------------------------------------------------------------------------------------

  // Did a reused connection turn out to be dead before anything of the answer came?
  struct Attempt {
    bool stale = false;
  };

  asio::awaitable<Attempt> attempt(std::shared_ptr<Call> call, std::shared_ptr<const std::string> head,
                                   std::shared_ptr<const HttpRequest> request, std::unique_ptr<Connection> connection,
                                   bool reused) {
    Attempt out;
    AnyByteStream stream(connection->transport);
    error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    call->sent = true;
    const std::array<asio::const_buffer, 2> message{asio::buffer(*head), asio::buffer(request->body)};
    co_await asio::async_write(stream, message, token);
    const error_code write_error = ec;
    // A server may answer and close without reading all: look for its answer even when the write has failed.
    bool any = false;
    auto& buffer = connection->buffer;
    std::optional<ResponseReader> reader;
    reader.emplace(options.max_response_body, request->method == "HEAD");
    std::size_t chunk = 4 * 1024;
    for (;;) {
      if (call->cancelled || call->timed_out) fail(*call, Kind::timeout, "waiting for the answer to " + request->method);
      ec = {};
      const auto space = buffer.prepare(chunk);
      const std::size_t n = co_await stream.async_read_some(space, token);
      buffer.commit(n);
      any = any || n > 0;
      if (call->cancelled || call->timed_out) fail(*call, Kind::timeout, "waiting for the answer to " + request->method);
      if (n == chunk) chunk = 64 * 1024;
      ParseResult result = ParseResult::need_more;
      if (ec && n == 0) {
        // Only an orderly end completes a body that lasts until the end: under TLS a cut is an error of its own.
        if (any && ec == asio::error::eof) result = reader->put_eof();
        if (!reader->done()) {
          if (!any && reused) {
            out.stale = true;
            co_return out;
          }
          const auto& cause = write_error && !any ? write_error : ec;
          if (cause == asio::error::eof || cause.category() == asio::error::get_ssl_category())
            fail(*call, Kind::closed,
                 any ? "the server closed the connection within its answer" : "the server closed the connection without an answer");
          fail(*call, Kind::closed, any ? "reading the answer" : "sending the request", cause);
        }
      }
      while (buffer.size() > 0 && !reader->done()) {
        std::size_t consumed = 0;
        const auto data = buffer.cdata();
        result = reader->put({static_cast<const char*>(data.data()), data.size()}, consumed);
        buffer.consume(consumed);
        if (result != ParseResult::progress) break;
        if (consumed == 0) break;
        if (reader->done() && reader->interim()) reader.emplace(options.max_response_body, request->method == "HEAD");
      }
      if (result == ParseResult::body_too_large)
        fail(*call, Kind::protocol, "the answer is larger than " + std::to_string(options.max_response_body) + " bytes");
      if (result == ParseResult::header_too_large) fail(*call, Kind::protocol, "the answer's header is too large");
      if (result == ParseResult::malformed) fail(*call, Kind::protocol, "the answer is not HTTP/1.1");
      if (reader->done()) break;
    }
    call->response = reader->take();
    const bool reusable = reader->keep_alive() && buffer.size() == 0 && !write_error && !ec;
    call->watchdog->disarm();
    call->transport.reset();
    if (reusable) {
      give_back(std::move(connection));
    } else {
      connection->transport->close();
    }
    co_return out;
  }

  static void arm(const std::shared_ptr<Call>& call) {
    Call* raw = call.get();  // the watchdog belongs to the call
    call->watchdog.emplace(call->executor, [raw] {
      raw->timed_out = true;
      raw->stop();
    });
    call->watchdog->expires_at(call->deadline);
  }

  asio::awaitable<void> run_request(std::shared_ptr<Call> call, std::shared_ptr<const std::string> head,
                                    std::shared_ptr<const HttpRequest> request, std::unique_ptr<Connection> reused) {
    const EndOfCall end{call};
    arm(call);
    if (reused) {
      call->transport = reused->transport;
      if (call->cancelled) fail(*call, Kind::closed, "cancelled");
      const auto tried = co_await attempt(call, head, request, std::move(reused), true);
      if (!tried.stale) co_return;
      call->transport.reset();
      call->sent = false;
    }
    if (call->cancelled) fail(*call, Kind::closed, "cancelled");
    auto fresh = std::make_unique<Connection>();
    fresh->transport = co_await connect(call);
    co_await attempt(call, head, request, std::move(fresh), false);
  }

  asio::awaitable<void> run_upgrade(std::shared_ptr<Call> call, std::string target, Headers headers, std::string subprotocol,
                                    WebSocket::Limits limits) {
    const EndOfCall end{call};
    arm(call);
    if (call->cancelled) fail(*call, Kind::closed, "cancelled");
    auto transport = co_await connect(call);
    call->sent = true;
    auto result = co_await connect_websocket(std::move(transport), endpoint.authority(), std::move(target), std::move(headers),
                                             subprotocol, limits);
    if (call->cancelled || call->timed_out) fail(*call, Kind::timeout, "the WebSocket handshake");
    if (upgrade_declined(result.error)) {
      const auto what = name + ": the server refused the WebSocket: HTTP status " + std::to_string(result.response.status);
      throw UpgradeRefused(std::move(result.response), what);
    }
    if (result.error) {
      fail(*call, peer_went_away(result.error) ? Kind::closed : Kind::protocol, "the WebSocket handshake", result.error);
    }
    const auto selected = result.socket->subprotocol();
    const Headers offer{{"offer", subprotocol}};
    const auto offered = header_list(offer, "offer");
    if (offered.empty() ? !selected.empty() : std::find(offered.begin(), offered.end(), selected) == offered.end())
      fail(*call, Kind::protocol,
           selected.empty() ? "the server selected no WebSocket subprotocol"
                            : "the server selected another WebSocket subprotocol than asked for");
    call->transport.reset();
    call->socket = std::move(result.socket);
  }

  // However the coroutine ends: nothing pending, and no connection that nobody owns.
  struct EndOfCall {
    std::shared_ptr<Call> call;
    explicit EndOfCall(std::shared_ptr<Call> c) : call(std::move(c)) {}
    EndOfCall(const EndOfCall&) = delete;
    EndOfCall& operator=(const EndOfCall&) = delete;
    ~EndOfCall() {
      call->watchdog.reset();
      if (call->transport) call->transport->close();
      call->transport.reset();
    }
  };

  // Starts `work` on the call's executor and waits for it from the caller's. co_spawn's own forwarding of cancellation crosses
  // executors through a pointer that may die meanwhile (Boost 1.81), so the call carries it.
  static asio::awaitable<void> drive(std::shared_ptr<Call> call, asio::awaitable<void> work) {
    auto initiate = [&call, &work](auto handler) {
      auto slot = asio::get_associated_cancellation_slot(handler);
      auto executor = asio::get_associated_executor(handler);
      if (slot.is_connected()) {
        slot.assign([weak = std::weak_ptr<Call>(call)](asio::cancellation_type /*type*/) {
          auto target = weak.lock();
          if (!target) return;
          auto on = target->executor;
          asio::post(on, [target = std::move(target)] { target->cancel(); });
        });
      }
      auto done = [handler = std::move(handler), slot](std::exception_ptr error) mutable {
        if (slot.is_connected()) slot.clear();
        std::move(handler)(std::move(error));
      };
      asio::co_spawn(call->executor, std::move(work), asio::bind_executor(executor, std::move(done)));
    };
    auto token = asio::use_awaitable;
    co_await asio::async_initiate<decltype(token)&, void(std::exception_ptr)>(initiate, token);
  }
};

HttpClient::HttpClient(asio::any_io_executor executor, Endpoint endpoint, HttpClientOptions options)
    : impl_(std::make_shared<Impl>(std::move(executor), std::move(endpoint), std::move(options))) {}

HttpClient::~HttpClient() { impl_->clear(true); }

asio::awaitable<HttpResponse> HttpClient::request(HttpRequest request, std::chrono::steady_clock::time_point deadline) {
  auto impl = impl_;
  auto head = std::make_shared<const std::string>(write_request_head(request, impl->endpoint.authority()));
  auto shared = std::make_shared<const HttpRequest>(std::move(request));
  auto reused = impl->borrow();
  const asio::any_io_executor executor =
      reused ? reused->transport->executor() : asio::any_io_executor(asio::make_strand(impl->executor));
  auto call = std::make_shared<Call>(executor, deadline);
  call->owner = impl;
  auto work = impl->run_request(call, std::move(head), std::move(shared), std::move(reused));
  co_await Impl::drive(call, std::move(work));
  co_return std::move(call->response);
}

asio::awaitable<std::unique_ptr<WebSocket>> HttpClient::upgrade(asio::any_io_executor executor, std::string target, Headers headers,
                                                                std::string subprotocol, WebSocket::Limits limits,
                                                                std::chrono::steady_clock::time_point deadline) {
  auto impl = impl_;
  auto call = std::make_shared<Call>(std::move(executor), deadline);
  call->owner = impl;
  auto work = impl->run_upgrade(call, std::move(target), std::move(headers), std::move(subprotocol), limits);
  co_await Impl::drive(call, std::move(work));
  co_return std::move(call->socket);
}

const Endpoint& HttpClient::endpoint() const noexcept { return impl_->endpoint; }

void HttpClient::close_idle() noexcept { impl_->clear(false); }

}  // namespace cwsandbox::net
