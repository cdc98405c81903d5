// What the tests of this room share: a loop, a server with hooks, raw peers, and the callbacks as coroutines.
#pragma once

#include "net/http_client.hpp"
#include "net/http_server.hpp"
#include "support/catch.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

#include <stdlib.h>
#include <unistd.h>

#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace cwsandbox::net::test {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using RawSocket = asio::generic::stream_protocol::socket;

inline bool holds(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

/// A deadline that only a hang reaches.
inline Clock::time_point soon() { return Clock::now() + 30s; }

// Catch's macros write their expression twice, and GCC 12 runs a co_await in the copy that should not be evaluated: await first,
// then check.

/// Runs a coroutine to its end on the context, which goes on doing everything else meanwhile. `body` outlives the coroutine.
template <typename Body>
void run(asio::io_context& context, Body&& body) {
  std::exception_ptr error;
  bool done = false;
  asio::co_spawn(context, body(), [&](std::exception_ptr e) {
    error = std::move(e);
    done = true;
  });
  const auto limit = Clock::now() + 60s;
  context.restart();
  while (!done && Clock::now() < limit) context.run_one_for(1s);
  if (error) std::rethrow_exception(error);
  REQUIRE(done);
}

/// Lets everything that is ready happen.
inline void settle(asio::io_context& context) {
  context.restart();
  while (context.poll() != 0) {
  }
}

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "cwsandbox-net-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  [[nodiscard]] std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

// ---- The WebSocket's operations as coroutines -------------------------------------------------------------------------------

inline asio::awaitable<error_code> read(WebSocket& socket, IncomingMessage& into) {
  error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  auto initiate = [&](auto handler) { socket.async_read(into, IoHandler(std::move(handler))); };
  co_await asio::async_initiate<decltype(token)&, void(error_code)>(initiate, token);
  co_return ec;
}

inline asio::awaitable<error_code> write(WebSocket& socket, std::string_view head, std::string_view body = {}) {
  error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  auto initiate = [&](auto handler) { socket.async_write(head, body, IoHandler(std::move(handler))); };
  co_await asio::async_initiate<decltype(token)&, void(error_code)>(initiate, token);
  co_return ec;
}

inline asio::awaitable<error_code> close(WebSocket& socket, std::uint16_t code, std::string reason,
                                         Clock::duration deadline = 20s) {
  error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  auto initiate = [&](auto handler) { socket.async_close(code, reason, deadline, IoHandler(std::move(handler))); };
  co_await asio::async_initiate<decltype(token)&, void(error_code)>(initiate, token);
  co_return ec;
}

// ---- A server with hooks ----------------------------------------------------------------------------------------------------

class Hooks final : public HttpHandler {
 public:
  std::function<std::shared_ptr<ClientAccount>(const HttpRequest&)> client;  // unset: all are strangers
  std::function<asio::awaitable<HttpResponse>(const HttpRequest&)> on_request;
  std::function<std::optional<HttpResponse>(const HttpRequest&)> early;
  std::function<UpgradeDecision(const HttpRequest&, const std::vector<std::string>&)> decide;
  std::function<void(std::unique_ptr<WebSocket>)> opened;

  std::shared_ptr<ClientAccount> client_of(const HttpRequest& request) override { return client ? client(request) : nullptr; }
  asio::awaitable<HttpResponse> handle(const HttpRequest& request) override {
    ++requests;
    if (on_request) co_return co_await on_request(request);
    HttpResponse echo;
    echo.headers.emplace_back("X-Target", request.target);
    echo.body = request.body;
    co_return echo;
  }
  std::optional<HttpResponse> early_answer(const HttpRequest& request) override {
    if (early) return early(request);
    return std::nullopt;
  }
  UpgradeDecision on_upgrade(const HttpRequest& request, const std::vector<std::string>& offered) override {
    if (decide) return decide(request, offered);
    UpgradeDecision out;
    if (!offered.empty()) out.subprotocol = offered.front();
    out.limits = limits;
    return out;
  }
  void on_websocket(const HttpRequest& /*request*/, std::unique_ptr<WebSocket> socket) override {
    ++sockets;
    if (opened) {
      opened(std::move(socket));
      return;
    }
    auto executor = socket->executor();
    asio::co_spawn(executor, echo(std::move(socket)), asio::detached);
  }

  static asio::awaitable<void> echo(std::unique_ptr<WebSocket> socket) {
    IncomingMessage message;
    for (;;) {
      if (co_await read(*socket, message)) co_return;
      if (message.is_text()) {
        co_await close(*socket, 1003, "binary messages only");
        co_return;
      }
      const char channel = static_cast<char>(message.channel());
      const std::string_view head(&channel, message.empty() ? 0 : 1);
      const std::string body = message.take();
      if (co_await write(*socket, head, body)) co_return;
    }
  }

  WebSocket::Limits limits{4 * 1024 * 1024, 30s};
  int requests = 0, sockets = 0;
};

inline ListenAddress any_tcp_port() {
  ListenAddress out;
  out.host = "127.0.0.1";
  return out;
}

inline ListenAddress unix_socket(const std::string& path) {
  ListenAddress out;
  out.is_unix = true;
  out.path = path;
  return out;
}

inline Endpoint endpoint_of(const ListenAddress& address, bool tls = false) {
  Endpoint out;
  if (address.is_unix) {
    out.scheme = Endpoint::Scheme::unix_socket;
    out.path = address.path;
  } else {
    out.scheme = tls ? Endpoint::Scheme::https : Endpoint::Scheme::http;
    out.host = address.host;
    out.port = address.port;
  }
  return out;
}

/// A server on a loopback port, on the test's own context.
struct Site {
  explicit Site(ServerLimits limits = {}) : server(context.get_executor(), hooks, limits) {
    address = server.listen(any_tcp_port());
  }
  asio::io_context context{1};
  Hooks hooks;
  HttpServer server;
  ListenAddress address;
};

// ---- Raw peers --------------------------------------------------------------------------------------------------------------

/// A peer that speaks bytes.
class Raw {
 public:
  explicit Raw(RawSocket socket) : socket_(std::move(socket)) {}

  static asio::awaitable<Raw> connect(asio::io_context& context, ListenAddress address) {
    RawSocket socket(context);
    asio::generic::stream_protocol::endpoint to;
    if (address.is_unix) {
      to = asio::local::stream_protocol::endpoint(address.path);
    } else {
      to = asio::ip::tcp::endpoint(asio::ip::make_address(address.host), address.port);
    }
    socket.open(to.protocol());
    co_await socket.async_connect(to, asio::use_awaitable);
    co_return Raw(std::move(socket));
  }

  asio::awaitable<void> send(std::string bytes) {
    error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    const auto buffer = asio::buffer(bytes);
    co_await asio::async_write(socket_, buffer, token);
  }
  /// One byte at a time, each a write of its own.
  asio::awaitable<void> drip(std::string bytes) {
    for (const char c : bytes) {
      std::string one(1, c);
      co_await send(std::move(one));
    }
  }
  /// Until `end` has come (or the peer has closed).
  asio::awaitable<std::string> read_until(std::string end) {
    while (seen_.find(end) == std::string::npos)
      if (!co_await more()) break;
    const auto at = seen_.find(end);
    const auto n = at == std::string::npos ? seen_.size() : at + end.size();
    std::string out = seen_.substr(0, n);
    seen_.erase(0, n);
    co_return out;
  }
  asio::awaitable<std::string> read_exactly(std::size_t n) {
    while (seen_.size() < n)
      if (!co_await more()) break;
    std::string out = seen_.substr(0, n);
    seen_.erase(0, out.size());
    co_return out;
  }
  asio::awaitable<std::string> read_all() {
    bool open = true;
    while (open) open = co_await more();
    std::string out;
    out.swap(seen_);
    co_return out;
  }
  RawSocket& socket() { return socket_; }

 private:
  asio::awaitable<bool> more() {
    error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    const auto buffer = asio::buffer(chunk_);
    const std::size_t n = co_await socket_.async_read_some(buffer, token);
    seen_.append(chunk_.data(), n);
    co_return !ec;
  }
  RawSocket socket_;
  std::array<char, 4096> chunk_{};
  std::string seen_;
};

/// A scripted server: what `script` does with each connection.
class Scripted {
 public:
  using Script = std::function<asio::awaitable<void>(Raw&)>;
  Scripted(asio::io_context& context, Script script)
      : acceptor_(context, asio::ip::tcp::endpoint(asio::ip::address_v4::loopback(), 0)), script_(std::move(script)) {
    asio::co_spawn(context, accept(), asio::detached);
  }
  [[nodiscard]] Endpoint endpoint() const {
    Endpoint out;
    out.scheme = Endpoint::Scheme::http;
    out.host = "127.0.0.1";
    out.port = acceptor_.local_endpoint().port();
    return out;
  }
  int connections = 0;

 private:
  asio::awaitable<void> accept() {
    for (;;) {
      RawSocket socket(acceptor_.get_executor());
      asio::ip::tcp::socket accepted = co_await acceptor_.async_accept(asio::use_awaitable);
      ++connections;
      asio::co_spawn(acceptor_.get_executor(), serve(Raw(RawSocket(std::move(accepted)))), asio::detached);
    }
  }
  asio::awaitable<void> serve(Raw raw) { co_await script_(raw); }

  asio::ip::tcp::acceptor acceptor_;
  Script script_;
};

}  // namespace cwsandbox::net::test
