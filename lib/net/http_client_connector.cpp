#include "net/http_client_connector.hpp"

#include "net/proxy.hpp"
#include "net/websocket_stream.hpp"

#include <boost/asio/bind_executor.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl/error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <utility>

namespace cwsandbox::net {

namespace {

using Kind = TransportError::Kind;

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

asio::awaitable<error_code> connect_one(std::shared_ptr<ClientCall> call, Socket& socket,
                                        asio::generic::stream_protocol::endpoint to) {
  error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  if (socket.open(to.protocol(), ec); ec) co_return ec;
  call->connecting = &socket;
  co_await socket.async_connect(to, token);
  call->connecting = nullptr;
  co_return ec;
}

// The first of these addresses that can be had.
asio::awaitable<error_code> connect_any(std::shared_ptr<ClientCall> call, Socket& socket,
                                        std::vector<asio::ip::tcp::endpoint> addresses, ClientCall::Clock::time_point until) {
  error_code ec = asio::error::host_not_found;
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    // An address that swallows packets may only use its share of the time.
    const auto now = ClientCall::Clock::now();
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
  co_return ec;
}

}  // namespace

Connector::Connector(const Endpoint& endpoint, const HttpClientOptions& options) : endpoint_(endpoint), options_(options) {
  if (options.proxy) proxy_name_ = "the proxy " + options.proxy->address.to_string();
  if (endpoint.tls()) tls_ = make_tls_client_context(options.tls);
}

// Of the proxy when there is one: the endpoint's name is its business then.
asio::awaitable<Connector::Addresses> Connector::resolve(std::shared_ptr<ClientCall> call) const {
  const Endpoint& next = options_.proxy ? options_.proxy->address : endpoint_;
  const std::string what = options_.proxy ? "resolving the name of " + proxy_name_ : "resolving the host's name";
  Addresses out;
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
  if (!resolution->done || call->cancelled || call->timed_out) call->fail(Kind::resolve, what);
  if (resolution->error) call->fail(Kind::resolve, what, resolution->error);
  out.swap(resolution->found);
  co_return out;
}

asio::awaitable<std::shared_ptr<Transport>> Connector::connect(std::shared_ptr<ClientCall> call) const {
  const auto until = std::min(call->deadline, ClientCall::Clock::now() + options_.connect_timeout);
  call->watchdog->expires_at(until);
  Socket socket(call->executor);
  error_code ec;
  switch (endpoint_.scheme) {
    case Endpoint::Scheme::local:
      call->fail(Kind::connect, "this endpoint has no address");
    case Endpoint::Scheme::unix_socket: {
      const asio::generic::stream_protocol::endpoint to = asio::local::stream_protocol::endpoint(endpoint_.path);
      ec = co_await connect_one(call, socket, to);
      break;
    }
    case Endpoint::Scheme::http:
    case Endpoint::Scheme::https: {
      auto addresses = co_await resolve(call);
      ec = co_await connect_any(call, socket, std::move(addresses), until);
      break;
    }
  }
  const bool through_proxy = options_.proxy && endpoint_.scheme != Endpoint::Scheme::unix_socket;
  if (ec || call->cancelled || call->timed_out)
    call->fail(Kind::connect, through_proxy ? "connecting to " + proxy_name_ : "connecting", ec);
  if (through_proxy) co_await tunnel(call, socket);

  if (!tls_) {
    call->transport = make_plain_transport(std::move(socket));
  } else {
    auto transport = make_tls_transport(std::move(socket), tls_);
    call->transport = transport;
    ec = co_await tls_handshake(transport);
    if (ec) {
      const auto why = transport->refusal();
      // A proxy may open a tunnel before it knows that nobody is at the other end.
      if (why.empty() && through_proxy && (peer_went_away(ec) || ec == asio::ssl::error::stream_truncated))
        call->fail(Kind::closed, proxy_name_ + " closed the connection within the TLS handshake");
      if (why.empty()) call->fail(Kind::tls, "TLS handshake", ec);
      call->fail(Kind::tls, "TLS handshake: the server's certificate is refused: " + why);
    }
  }
  if (call->cancelled || call->timed_out) call->fail(Kind::connect, "connecting");
  call->watchdog->expires_at(call->deadline);
  co_return call->transport;
}

// Has the proxy connect the socket to the endpoint.
asio::awaitable<void> Connector::tunnel(std::shared_ptr<ClientCall> call, Socket& socket) const {
  const Proxy& proxy = *options_.proxy;
  call->connecting = &socket;
  const TunnelAnswer answer = co_await ask_for_tunnel(socket, endpoint_, proxy);
  call->connecting = nullptr;
  if (call->cancelled || call->timed_out) call->fail(Kind::timeout, "waiting for the answer of " + proxy_name_);
  if (peer_went_away(answer.error))
    call->fail(Kind::closed, proxy_name_ + (answer.begun ? " closed the connection within its answer"
                                                         : " closed the connection without an answer"));
  if (answer.error) call->fail(Kind::closed, "asking " + proxy_name_ + " for a connection", answer.error);
  if (answer.fault == TunnelAnswer::Fault::not_http)
    call->fail(Kind::protocol, "the answer of " + proxy_name_ + " is not HTTP/1.1");
  if (answer.fault == TunnelAnswer::Fault::too_large)
    call->fail(Kind::protocol, "the header of the answer of " + proxy_name_ + " is too large");
  if (answer.status >= 200 && answer.status < 300) co_return;
  const std::string status = ": HTTP status " + std::to_string(answer.status);
  if (answer.status != 407)
    call->fail(answer.status >= 500 ? Kind::connect : Kind::proxy_refused, proxy_name_ + " refused a connection" + status);
  call->fail(Kind::proxy_refused,
             proxy_name_ +
                 (proxy.authorization.empty() ? " wants a user and a password, and there are none in " + proxy.source
                                              : " refused the user and password of " + proxy.source) +
                 status);
}

asio::awaitable<error_code> Connector::tls_handshake(std::shared_ptr<TlsTransport> transport) const {
  error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  const std::string& host = options_.tls.server_name.empty() ? endpoint_.host : options_.tls.server_name;
  auto initiate = [&transport, &host](auto handler) { transport->async_handshake(host, IoHandler(std::move(handler))); };
  co_await asio::async_initiate<decltype(token)&, void(error_code)>(initiate, token);
  co_return ec;
}

}  // namespace cwsandbox::net
