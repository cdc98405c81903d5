#include "net/http_client.hpp"

#include "core/descriptor_limit.hpp"
#include "net/any_byte_stream.hpp"
#include "net/http_body.hpp"
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
#include <atomic>
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

// How long a first piece of a body waits for "100 Continue": a server need not know about it.
constexpr std::chrono::seconds kContinueWait{2};
// What is read ahead of an answer: its header, most likely, and little of a body that could go straight to its reader.
constexpr std::size_t kHeadRead = 4 * 1024;

// One exchange under way. Everything on `executor`, except what says otherwise.
struct Stream : Call {
  Stream(asio::any_io_executor ex, Clock::time_point until) : Call(ex, until), ready(std::move(ex)) {}

  std::string method, head;
  const Clock::time_point begun = Clock::now();
  Clock::duration idle{};
  std::unique_ptr<Connection> connection;
  bool reused = false;  // a connection that had served before, of which nothing has come yet: it may turn out to be dead

  // The request's body.
  std::optional<std::uint64_t> left;  // of its announced length; unset: chunks
  bool body_ended = false;            // nothing more is sent
  bool last_chunk_sent = false;
  bool body_begun = false;
  bool awaits_continue = false;

  // The answer. While the body is written something reads already, so that an early answer is seen.
  asio::steady_timer ready;  // cancelled when there is news of the reading
  bool reading = false;
  error_code read_error;
  std::optional<ResponseReader> reader;
  bool answered = false;  // its header is complete
  bool fatal = false;     // it is no HTTP
  bool continued = false;
  std::optional<BodyReader> body;
  std::optional<std::uint64_t> length;
  bool keep_alive = false;
  std::atomic<bool> over = false;  // any thread: nothing is left to be closed

  bool operating = false;

  // Results of one operation, for the caller's executor.
  bool go_on = false;
  std::uint64_t moved = 0;
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
    if (options.proxy) proxy_name = "the proxy " + options.proxy->address.to_string();
    if (endpoint.tls()) tls = make_tls_client_context(options.tls);
  }

  const asio::any_io_executor executor;
  const Endpoint endpoint;
  const HttpClientOptions options;
  const std::string name;
  std::string proxy_name;
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

  static std::string descriptor_hint(const error_code& ec) {
    return ec.category() == boost::system::system_category() ? core::descriptor_hint(ec.value()) : std::string();
  }
  /// Tells whoever looks on how a request went. `head` begins with its request line.
  void report(std::string_view head, Clock::time_point since, unsigned status, std::exception_ptr error) const noexcept {
    if (!options.on_answer) return;
    RequestReport report;
    report.method = head.substr(0, head.find(' '));
    head.remove_prefix(std::min(head.size(), report.method.size() + 1));
    report.path = head.substr(0, head.find_first_of("? \r\n"));
    report.status = status;
    report.duration = Clock::now() - since;
    report.error = std::move(error);
    try {
      options.on_answer(report);
    } catch (...) {  // whoever only looks on must not break what is looked at
    }
  }
  [[noreturn]] void fail(const Call& call, Kind kind, const std::string& what, const error_code& ec = {}) const {
    if (call.cancelled) throw boost::system::system_error(asio::error::operation_aborted);
    if (call.timed_out) throw TransportError(Kind::timeout, call.sent, name + ": " + what + ": the deadline has passed");
    throw TransportError(kind, call.sent, name + ": " + what + (ec ? ": " + ec.message() + descriptor_hint(ec) : std::string()));
  }

  // ---- Connecting ---------------------------------------------------------------------------------------------------------

  // Of the proxy when there is one: the endpoint's name is its business then.
  asio::awaitable<std::vector<asio::ip::tcp::endpoint>> resolve(std::shared_ptr<Call> call) {
    const Endpoint& next = options.proxy ? options.proxy->address : endpoint;
    const std::string what = options.proxy ? "resolving the name of " + proxy_name : "resolving the host's name";
    std::vector<asio::ip::tcp::endpoint> out;
    error_code ec;
    // Literal addresses need no resolver, and so not the thread that Asio gives it.
    const auto literal = asio::ip::make_address(next.host, ec);
    if (!ec) {
      out.emplace_back(literal, next.port);
      co_return out;
    }
    auto resolution = std::make_shared<Resolution>(call->executor);
    resolution->resolver.async_resolve(
        next.host, std::to_string(next.port), asio::ip::tcp::resolver::numeric_service,
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
    if (!resolution->done || call->cancelled || call->timed_out) fail(*call, Kind::resolve, what);
    if (resolution->error) fail(*call, Kind::resolve, what, resolution->error);
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
    const bool through_proxy = options.proxy && endpoint.scheme != Endpoint::Scheme::unix_socket;
    if (ec || call->cancelled || call->timed_out)
      fail(*call, Kind::connect, through_proxy ? "connecting to " + proxy_name : "connecting", ec);
    if (through_proxy) co_await tunnel(call, socket);

    if (!tls) {
      call->transport = make_plain_transport(std::move(socket));
    } else {
      auto transport = make_tls_transport(std::move(socket), tls);
      call->transport = transport;
      ec = co_await tls_handshake(transport);
      if (ec) {
        const auto why = transport->refusal();
        // A proxy may open a tunnel before it knows that nobody is at the other end.
        if (why.empty() && through_proxy && (peer_went_away(ec) || ec == asio::ssl::error::stream_truncated))
          fail(*call, Kind::closed, proxy_name + " closed the connection within the TLS handshake");
        if (why.empty()) fail(*call, Kind::tls, "TLS handshake", ec);
        fail(*call, Kind::tls, "TLS handshake: the server's certificate is refused: " + why);
      }
    }
    if (call->cancelled || call->timed_out) fail(*call, Kind::connect, "connecting");
    call->watchdog->expires_at(call->deadline);
    co_return call->transport;
  }

  // Has the proxy connect the socket to the endpoint.
  asio::awaitable<void> tunnel(std::shared_ptr<Call> call, Socket& socket) {
    const Proxy& proxy = *options.proxy;
    call->connecting = &socket;
    const TunnelAnswer answer = co_await ask_for_tunnel(socket, endpoint, proxy);
    call->connecting = nullptr;
    if (call->cancelled || call->timed_out) fail(*call, Kind::timeout, "waiting for the answer of " + proxy_name);
    if (peer_went_away(answer.error))
      fail(*call, Kind::closed,
           proxy_name + (answer.begun ? " closed the connection within its answer" : " closed the connection without an answer"));
    if (answer.error) fail(*call, Kind::closed, "asking " + proxy_name + " for a connection", answer.error);
    if (answer.fault == TunnelAnswer::Fault::not_http)
      fail(*call, Kind::protocol, "the answer of " + proxy_name + " is not HTTP/1.1");
    if (answer.fault == TunnelAnswer::Fault::too_large)
      fail(*call, Kind::protocol, "the header of the answer of " + proxy_name + " is too large");
    if (answer.status >= 200 && answer.status < 300) co_return;
    const std::string status = ": HTTP status " + std::to_string(answer.status);
    if (answer.status != 407)
      fail(*call, answer.status >= 500 ? Kind::connect : Kind::proxy_refused, proxy_name + " refused a connection" + status);
    fail(*call, Kind::proxy_refused,
         proxy_name +
             (proxy.authorization.empty() ? " wants a user and a password, and there are none in " + proxy.source
                                          : " refused the user and password of " + proxy.source) +
             status);
  }

  asio::awaitable<error_code> tls_handshake(std::shared_ptr<TlsTransport> transport) {
    error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    const std::string& host = options.tls.server_name.empty() ? endpoint.host : options.tls.server_name;
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
          if (!any && is_tls_alert(ec)) fail(*call, Kind::tls, "the server refused the TLS connection", ec);
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
      if (is_tls_alert(result.error)) fail(*call, Kind::tls, "the server refused the TLS connection", result.error);
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

  // ---- Exchanges ----------------------------------------------------------------------------------------------------------

  // The end of the exchange: nothing pending, and the connection is kept when it is fit for that.
  void leave(Stream& s, bool reusable) {
    s.watchdog.reset();
    s.transport.reset();
    s.over = true;
    if (!s.connection) return;
    if (reusable && !s.reading && s.connection->buffer.size() == 0) {
      give_back(std::move(s.connection));
    } else {
      s.connection->transport->close();
      // Its buffer may still be read into; the state keeps it until then.
    }
  }

  // Whatever an operation throws, the exchange is over.
  struct Operation {
    Impl* impl;
    Stream* stream;
    bool done = false;
    Operation(Impl& i, Stream& s) : impl(&i), stream(&s) { s.operating = true; }
    Operation(const Operation&) = delete;
    Operation& operator=(const Operation&) = delete;
    ~Operation() {
      stream->operating = false;
      if (stream->over) return;
      if (done) {
        stream->watchdog->rest();
      } else {
        impl->leave(*stream, false);
      }
    }
  };

  void check(const Stream& s, const char* what) const {
    if (s.cancelled || s.timed_out) fail(s, Kind::timeout, what);
    if (s.over || !s.connection) fail(s, Kind::closed, std::string(what) + ": the exchange has ended");
  }

  static bool went_away(const error_code& ec) {
    return ec == asio::error::eof || ec == asio::error::connection_reset || ec == asio::error::broken_pipe ||
           ec.category() == asio::error::get_ssl_category();
  }

  // Takes the answer's header from what has been read.
  static void look(Stream& s) {
    auto& buffer = s.connection->buffer;
    while (buffer.size() > 0 && !s.answered && !s.fatal) {
      if (!s.reader) {
        s.reader.emplace(0, s.method == "HEAD");
        s.reader->header_only();
      }
      std::size_t consumed = 0;
      const auto data = buffer.cdata();
      const auto result = s.reader->put({static_cast<const char*>(data.data()), data.size()}, consumed);
      buffer.consume(consumed);
      if (result == ParseResult::need_more) return;
      if (result != ParseResult::progress) {
        s.fatal = true;
      } else if (s.reader->header_done()) {
        if (s.reader->interim()) {
          s.continued = true;
          s.reader.reset();
        } else {
          s.answered = true;
        }
      } else if (consumed == 0) {
        return;
      }
    }
  }

  // Reads towards the answer's header, in the background.
  static void read_ahead(const std::shared_ptr<Stream>& s) {
    if (s->reading || s->answered || s->fatal || s->read_error) return;
    s->reading = true;
    AnyByteStream stream(s->connection->transport);
    const auto space = s->connection->buffer.prepare(kHeadRead);
    // The operation keeps what it reads into.
    auto got = [s](error_code ec, std::size_t n) {
      s->reading = false;
      if (s->connection) {
        s->connection->buffer.commit(n);
        if (n > 0) s->reused = false;
        if (ec && n == 0) s->read_error = ec;
        look(*s);
        const bool news = s->answered || s->fatal || s->read_error;
        // A body that nobody wants any more is not sent on.
        if (news && !s->body_ended && s->body_begun && !s->over) s->connection->transport->cancel();
        if (!news && !s->over) read_ahead(s);
      }
      s->ready.cancel();
    };
    stream.async_read_some(space, asio::bind_executor(s->executor, std::move(got)));
  }

  // Waits for news of the reading, at most until then.
  static asio::awaitable<void> news(std::shared_ptr<Stream> s, Clock::time_point until) {
    error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    s->ready.expires_at(until);
    co_await s->ready.async_wait(token);
  }

  static BodySink sink_of(Stream& s) {
    BodySink out;
    out.transport = s.connection->transport;
    out.watchdog = &*s.watchdog;
    out.idle = s.idle;
    out.chunked = !s.left;
    out.enough = &s.answered;
    return out;
  }

  // Connects, when there is no connection to use again, and sends the header.
  asio::awaitable<void> send_head(std::shared_ptr<Stream> s) {
    for (;;) {
      if (s->cancelled || s->timed_out) fail(*s, Kind::closed, "connecting");
      if (!s->connection) {
        auto fresh = std::make_unique<Connection>();
        fresh->transport = co_await connect(s);
        s->connection = std::move(fresh);
        s->reused = false;
      }
      s->transport = s->connection->transport;
      s->read_error = {};
      s->sent = true;
      BodySink sink = sink_of(*s);
      sink.enough = nullptr;
      const auto ec = co_await send_raw(std::move(sink), s->head);
      if (s->cancelled || s->timed_out) fail(*s, Kind::timeout, "sending the request");
      if (!ec) co_return;
      if (!s->reused) fail(*s, Kind::closed, "sending the request", ec);
      drop_stale(*s);
    }
  }

  // A connection of the pool that the server has closed meanwhile.
  void drop_stale(Stream& s) const {
    s.transport.reset();
    s.connection->transport->close();
    s.connection.reset();
    s.reused = false;
    s.sent = false;
    s.deadline = Clock::now() + options.connect_timeout;
  }

  asio::awaitable<void> run_open(std::shared_ptr<Stream> s) {
    Operation operation(*this, *s);
    arm(s);
    co_await send_head(s);
    operation.done = true;
  }

  // Waits until the answer's header is there, or the reading has failed.
  asio::awaitable<void> await_head(std::shared_ptr<Stream> s, const char* what, bool or_continue, Clock::time_point until) {
    for (;;) {
      read_ahead(s);
      while (!s->answered && !s->fatal && !s->read_error && !(or_continue && s->continued) && !s->cancelled && !s->timed_out &&
             Clock::now() < until)
        co_await news(s, until);
      if (s->cancelled || s->timed_out) fail(*s, Kind::timeout, what);
      if (s->fatal) fail(*s, Kind::protocol, "the answer is not HTTP/1.1");
      // Nothing has been lost yet when the connection was dead from the start.
      if (!s->read_error || !s->reused || s->body_begun) co_return;
      drop_stale(*s);
      co_await send_head(s);
      s->watchdog->expires_after(s->idle);
    }
  }

  // Before bytes of the body: false when the server has answered.
  asio::awaitable<bool> may_write(std::shared_ptr<Stream> s, std::uint64_t size) {
    check(*s, "sending the request's body");
    if (s->body_ended) throw std::logic_error("the request's body has ended");
    if (s->left && size > *s->left) throw std::logic_error("the request's body is longer than announced");
    if (s->awaits_continue) {
      s->watchdog->expires_after(s->idle);
      co_await await_head(s, "waiting for the server to go on", true, Clock::now() + kContinueWait);
      s->awaits_continue = false;
    }
    read_ahead(s);
    s->body_begun = true;
    co_return !s->answered;
  }

  // After bytes of the body.
  asio::awaitable<void> written(std::shared_ptr<Stream> s, error_code ec) {
    static constexpr const char* kWhat = "sending the request's body";
    if (s->cancelled || s->timed_out) fail(*s, Kind::timeout, kWhat);
    s->go_on = !ec;
    if (!ec) co_return;
    // A server may answer and close without reading all: its answer may be on the way, or here already.
    if (!s->answered) {
      s->watchdog->expires_after(s->idle);
      co_await await_head(s, kWhat, false, Clock::time_point::max());
    }
    if (!s->answered)
      fail(*s, Kind::closed,
           went_away(ec) || went_away(s->read_error) ? "the server closed the connection without an answer" : kWhat);
    s->body_ended = true;
  }

  asio::awaitable<void> run_write(std::shared_ptr<Stream> s, asio::const_buffer from) {
    Operation operation(*this, *s);
    s->go_on = co_await may_write(s, from.size());
    if (s->go_on) {
      BodySink sink = sink_of(*s);
      const auto ec = co_await send_data(std::move(sink), from);
      if (!ec && s->left) *s->left -= from.size();
      co_await written(s, ec);
    }
    operation.done = true;
  }

  asio::awaitable<void> run_write_file(std::shared_ptr<Stream> s, int fd, std::uint64_t offset, std::uint64_t length) {
    Operation operation(*this, *s);
    s->moved = 0;
    if (co_await may_write(s, length)) {
      BodySink sink = sink_of(*s);
      const FileSent sent = co_await send_file(std::move(sink), fd, offset, length);
      s->moved = sent.bytes;
      if (s->left) *s->left -= sent.bytes;
      if (sent.file != 0) throw std::system_error(sent.file, std::generic_category(), "reading the file");
      co_await written(s, sent.connection);
    }
    operation.done = true;
  }

  asio::awaitable<void> run_head(std::shared_ptr<Stream> s) {
    Operation operation(*this, *s);
    static constexpr const char* kWhat = "waiting for the answer";
    check(*s, kWhat);
    if (s->body) throw std::logic_error("the answer's header is read once");
    s->watchdog->expires_after(s->idle);
    if (!s->answered && !s->body_ended) {
      if (s->left && *s->left != 0) fail(*s, Kind::protocol, "the request's body is shorter than announced");
      error_code ec;
      if (!s->left) {
        BodySink sink = sink_of(*s);
        sink.enough = nullptr;
        ec = co_await send_raw(std::move(sink), kLastChunk);
        s->body_begun = true;
      }
      s->body_ended = true;
      s->last_chunk_sent = !ec;
    }
    if (!s->answered) {
      s->watchdog->expires_after(s->idle);
      co_await await_head(s, kWhat, false, Clock::time_point::max());
    }
    if (!s->answered) {
      if (!s->reader && is_tls_alert(s->read_error)) fail(*s, Kind::tls, "the server refused the TLS connection", s->read_error);
      if (went_away(s->read_error))
        fail(*s, Kind::closed,
             s->reader ? "the server closed the connection within its answer"
                       : "the server closed the connection without an answer");
      fail(*s, Kind::closed, kWhat, s->read_error);
    }
    s->keep_alive = s->reader->keep_alive() && (s->left ? *s->left == 0 : s->last_chunk_sent);
    s->length = s->reader->content_length();
    s->body.emplace(s->length ? BodyReader::of_length(*s->length)
                              : (s->reader->chunked() ? BodyReader::in_chunks() : BodyReader::until_end()));
    s->response = s->reader->take();
    s->reader.reset();
    operation.done = true;
    if (s->body->done()) leave(*s, s->keep_alive);
  }

  asio::awaitable<void> run_read(std::shared_ptr<Stream> s, asio::mutable_buffer into) {
    s->moved = 0;
    if (s->body && s->body->done()) co_return;
    Operation operation(*this, *s);
    static constexpr const char* kWhat = "reading the answer";
    check(*s, kWhat);
    if (!s->body) throw std::logic_error("the answer's header comes first");
    auto& buffer = s->connection->buffer;
    std::size_t n = 0;
    bool sound = s->body->take(buffer, into, n);
    AnyByteStream stream(s->connection->transport);
    error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    while (sound && n == 0 && into.size() != 0 && !s->body->done()) {
      s->watchdog->expires_after(s->idle);
      const auto space = s->body->space(buffer, into);
      const std::size_t got = co_await stream.async_read_some(space, token);
      if (s->cancelled || s->timed_out) fail(*s, Kind::timeout, kWhat);
      if (ec && got == 0) {
        // Only an orderly end completes a body that lasts until then: under TLS a cut is an error of its own.
        if (ec == asio::error::eof && s->body->end()) break;
        if (went_away(ec)) fail(*s, Kind::closed, "the server closed the connection within its answer");
        fail(*s, Kind::closed, kWhat, ec);
      }
      sound = s->body->commit(buffer, space, got, n);
      if (sound && n == 0) sound = s->body->take(buffer, into, n);
    }
    if (!sound) fail(*s, Kind::protocol, "the answer's chunks are malformed");
    s->moved = n;
    operation.done = true;
    if (s->body->done()) leave(*s, s->keep_alive && !ec);
  }

  class Exchange final : public ClientExchange {
   public:
    Exchange(std::shared_ptr<Impl> impl, std::shared_ptr<Stream> stream) : impl_(std::move(impl)), stream_(std::move(stream)) {}
    ~Exchange() override { end(false); }
    Exchange(const Exchange&) = delete;
    Exchange& operator=(const Exchange&) = delete;

    [[nodiscard]] asio::awaitable<bool> write(asio::const_buffer from) override {
      auto stream = stream_;
      auto work = impl_->run_write(stream, from);
      co_await watched(impl_, stream, std::move(work));
      co_return stream->go_on;
    }
    [[nodiscard]] asio::awaitable<std::uint64_t> write_file(int fd, std::uint64_t offset, std::uint64_t length) override {
      auto stream = stream_;
      auto work = impl_->run_write_file(stream, fd, offset, length);
      co_await watched(impl_, stream, std::move(work));
      co_return stream->moved;
    }
    [[nodiscard]] asio::awaitable<HttpResponse> head() override {
      auto stream = stream_;
      auto work = impl_->run_head(stream);
      co_await watched(impl_, stream, std::move(work));
      impl_->report(stream->head, stream->begun, stream->response.status, nullptr);
      co_return std::move(stream->response);
    }
    [[nodiscard]] std::optional<std::uint64_t> content_length() const noexcept override { return stream_->length; }
    [[nodiscard]] asio::awaitable<std::size_t> read(asio::mutable_buffer into) override {
      auto stream = stream_;
      auto work = impl_->run_read(stream, into);
      co_await drive(stream, std::move(work));
      co_return static_cast<std::size_t>(stream->moved);
    }
    [[nodiscard]] asio::awaitable<std::string> read_rest(std::size_t limit) override {
      std::string out;
      while (out.size() < limit) {
        const std::size_t had = out.size();
        out.resize(std::min(limit, had + 16 * 1024));
        const auto into = asio::buffer(out.data() + had, out.size() - had);
        const std::size_t n = co_await read(into);
        out.resize(had + n);
        if (n == 0) break;
      }
      co_return out;
    }
    void abort() noexcept override { end(true); }

   private:
    // From any thread: the state is only touched on its executor.
    void end(bool aborted) noexcept {
      if (stream_->over) return;
      try {
        asio::post(stream_->executor, [impl = impl_, stream = stream_, aborted] {
          if (stream->over) return;
          if (aborted || stream->operating) {
            stream->cancel();
            stream->ready.cancel();
          } else {
            impl->leave(*stream, false);
          }
        });
      } catch (...) {
        // No memory for the news: the connection's deadline ends it.
      }
    }

    std::shared_ptr<Impl> impl_;
    std::shared_ptr<Stream> stream_;
  };

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

  // An operation of an exchange that may be its last before there is an answer.
  static asio::awaitable<void> watched(std::shared_ptr<Impl> impl, std::shared_ptr<Stream> stream, asio::awaitable<void> work) {
    if (!impl->options.on_answer) return drive(std::move(stream), std::move(work));
    return drive_watched(std::move(impl), std::move(stream), std::move(work));
  }
  static asio::awaitable<void> drive_watched(std::shared_ptr<Impl> impl, std::shared_ptr<Stream> stream,
                                             asio::awaitable<void> work) {
    std::exception_ptr error;
    try {
      co_await drive(stream, std::move(work));
      co_return;
    } catch (...) {
      error = std::current_exception();
    }
    impl->report(stream->head, stream->begun, 0, error);
    std::rethrow_exception(error);
  }

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
  auto reused = shared->repeatable ? impl->borrow() : nullptr;
  const asio::any_io_executor executor =
      reused ? reused->transport->executor() : asio::any_io_executor(asio::make_strand(impl->executor));
  auto call = std::make_shared<Call>(executor, deadline);
  call->owner = impl;
  auto work = impl->run_request(call, head, std::move(shared), std::move(reused));
  const auto begun = Clock::now();
  std::exception_ptr error;
  try {
    co_await Impl::drive(call, std::move(work));
  } catch (...) {
    error = std::current_exception();
  }
  impl->report(*head, begun, error ? 0 : call->response.status, error);
  if (error) std::rethrow_exception(error);
  co_return std::move(call->response);
}

asio::awaitable<std::unique_ptr<ClientExchange>> HttpClient::open(HttpRequest request, std::optional<std::uint64_t> body_length,
                                                                  bool expect_continue,
                                                                  std::chrono::steady_clock::time_point connect_deadline,
                                                                  std::chrono::steady_clock::duration idle_timeout) {
  auto impl = impl_;
  if (!request.body.empty()) throw std::invalid_argument("the body of an exchange is written apart");
  const bool expects = expect_continue && body_length != 0U;
  auto head = write_request_head(request, impl->endpoint.authority(), body_length, expects);
  auto reused = impl->borrow();
  const asio::any_io_executor executor =
      reused ? reused->transport->executor() : asio::any_io_executor(asio::make_strand(impl->executor));
  auto stream = std::make_shared<Stream>(executor, connect_deadline);
  stream->owner = impl;
  stream->method = std::move(request.method);
  stream->head = std::move(head);
  stream->idle = idle_timeout;
  stream->left = body_length;
  stream->awaits_continue = expects;
  stream->reused = reused != nullptr;
  stream->connection = std::move(reused);
  // Made first: it ends the exchange when the opening fails or is given up.
  auto exchange = std::make_unique<Impl::Exchange>(impl, stream);
  auto work = impl->run_open(stream);
  co_await Impl::watched(impl, stream, std::move(work));
  co_return exchange;
}

asio::awaitable<std::unique_ptr<WebSocket>> HttpClient::upgrade(asio::any_io_executor executor, std::string target, Headers headers,
                                                                std::string subprotocol, WebSocket::Limits limits,
                                                                std::chrono::steady_clock::time_point deadline) {
  auto impl = impl_;
  auto call = std::make_shared<Call>(std::move(executor), deadline);
  call->owner = impl;
  const std::string line = "GET " + target;
  auto work = impl->run_upgrade(call, std::move(target), std::move(headers), std::move(subprotocol), limits);
  const auto begun = Clock::now();
  unsigned status = 101;
  std::exception_ptr error;
  try {
    co_await Impl::drive(call, std::move(work));
  } catch (const UpgradeRefused& refused) {
    status = refused.response().status;
    error = std::current_exception();
  } catch (...) {
    status = 0;
    error = std::current_exception();
  }
  impl->report(line, begun, status, error);
  if (error) std::rethrow_exception(error);
  co_return std::move(call->socket);
}

const Endpoint& HttpClient::endpoint() const noexcept { return impl_->endpoint; }

void HttpClient::close_idle() noexcept { impl_->clear(false); }

}  // namespace cwsandbox::net
