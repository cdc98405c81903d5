#include "connect_proxy.hpp"

#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

#include <array>
#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

namespace support {

namespace asio = boost::asio;
using namespace asio::experimental::awaitable_operators;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

// A client's connection and, once there is a tunnel, the one behind it.
struct Link {
  explicit Link(tcp::socket socket) : client(std::move(socket)), server(client.get_executor()) {}
  tcp::socket client, server;
  void close() {
    error_code ignored;
    client.close(ignored);
    server.close(ignored);
  }
};

asio::awaitable<bool> send(tcp::socket& to, const std::string& bytes) {
  error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  const auto buffer = asio::buffer(bytes);
  co_await asio::async_write(to, buffer, token);
  co_return !ec;
}

// Whatever still comes, until the client closes or the link is cut.
asio::awaitable<void> drain(tcp::socket& from) {
  error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  std::array<char, 4096> dropped{};
  const auto buffer = asio::buffer(dropped);
  while (!ec) co_await from.async_read_some(buffer, token);
}

asio::awaitable<void> copy(std::shared_ptr<Link> link, bool up, std::atomic<std::uint64_t>* count) {
  tcp::socket& from = up ? link->client : link->server;
  tcp::socket& to = up ? link->server : link->client;
  error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  std::array<char, 16 * 1024> bytes{};
  const auto buffer = asio::buffer(bytes);
  while (!ec) {
    const std::size_t n = co_await from.async_read_some(buffer, token);
    if (n == 0) break;
    if (up) *count += n;
    const auto part = asio::buffer(bytes.data(), n);
    co_await asio::async_write(to, part, token);
  }
  error_code ignored;
  // The other direction may go on after an orderly end, but not after a failure.
  if (ec == asio::error::eof) {
    to.shutdown(tcp::socket::shutdown_send, ignored);
  } else {
    link->close();
  }
}

}  // namespace

struct ConnectProxy::Impl {
  asio::io_context io{1};
  tcp::acceptor acceptor{io, tcp::endpoint(asio::ip::address_v4::loopback(), 0)};
  std::uint16_t port = acceptor.local_endpoint().port();
  std::set<std::shared_ptr<Link>> links;  // on the loop
  std::thread thread;
  std::atomic<int> connections{0}, tunnels{0}, open{0};
  std::atomic<std::uint64_t> bytes{0};

  mutable std::mutex mutex;
  std::map<std::string, std::uint16_t> hosts;
  Mode mode = Mode::tunnel;
  std::string answer, authorization;
  std::vector<std::string> requests;

  asio::awaitable<void> accept() {
    for (;;) {
      error_code ec;
      auto token = asio::redirect_error(asio::use_awaitable, ec);
      tcp::socket socket = co_await acceptor.async_accept(token);
      if (ec) co_return;
      ++connections;
      ++open;
      auto link = std::make_shared<Link>(std::move(socket));
      links.insert(link);
      auto serving = serve(link);
      asio::co_spawn(io, std::move(serving), [this, link](std::exception_ptr) {
        link->close();
        links.erase(link);
        --open;
      });
    }
  }

  asio::awaitable<void> serve(std::shared_ptr<Link> link) {
    std::string head;
    error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    // A byte at a time, so that what follows the header is left for the tunnel.
    while (!head.ends_with("\r\n\r\n")) {
      char c = 0;
      const auto one = asio::buffer(&c, 1);
      co_await asio::async_read(link->client, one, token);
      if (ec) co_return;
      head += c;
    }
    Mode how{};
    std::string text, wanted;
    std::uint16_t to = 0;
    {
      const std::lock_guard lock(mutex);
      requests.push_back(head);
      how = mode;
      text = answer;
      wanted = authorization;
      const auto name = head.substr(8, head.rfind(':', head.find(" HTTP/1.1\r\n")) - 8);
      const auto known = hosts.find(name);
      if (head.starts_with("CONNECT ") && known != hosts.end()) to = known->second;
    }
    switch (how) {
      case Mode::close:
        co_return;
      case Mode::stall:
        co_await drain(link->client);
        co_return;
      case Mode::answer:
        if (co_await send(link->client, text)) {
          link->client.shutdown(tcp::socket::shutdown_send, ec);
          co_await drain(link->client);
        }
        co_return;
      case Mode::endless:
        text = "HTTP/1.1 200 OK\r\n";
        while (co_await send(link->client, text)) text = "X-More: " + std::string(1000, 'x') + "\r\n";
        co_return;
      case Mode::tunnel:
      case Mode::drip:
      case Mode::together:
        break;
    }
    std::string refusal;
    if (!wanted.empty() && head.find("\r\nProxy-Authorization: " + wanted + "\r\n") == std::string::npos)
      refusal = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"test\"\r\n\r\n";
    if (refusal.empty()) {
      const tcp::endpoint target(asio::ip::address_v4::loopback(), to);
      if (to != 0) co_await link->server.async_connect(target, token);
      if (to == 0 || ec) refusal = "HTTP/1.1 502 Bad Gateway\r\n\r\n";
    }
    if (!refusal.empty()) {
      co_await send(link->client, refusal);
      co_return;
    }
    ++tunnels;
    if (how != Mode::together) text = "HTTP/1.1 200 Connection established\r\n\r\n";
    const std::size_t piece = how == Mode::drip ? 1 : text.size();
    link->client.set_option(tcp::no_delay(true), ec);
    for (std::size_t at = 0; at < text.size(); at += piece) {
      const std::string part = text.substr(at, piece);
      if (!co_await send(link->client, part)) co_return;
    }
    auto down = copy(link, false, &bytes);
    auto both = copy(link, true, &bytes) && std::move(down);
    co_await std::move(both);
  }
};

ConnectProxy::ConnectProxy() : impl_(std::make_unique<Impl>()) {
  auto accepting = impl_->accept();
  asio::co_spawn(impl_->io, std::move(accepting), asio::detached);
  impl_->thread = std::thread([impl = impl_.get()] { impl->io.run(); });
}
ConnectProxy::~ConnectProxy() {
  asio::post(impl_->io, [impl = impl_.get()] {
    impl->acceptor.close();
    for (const auto& link : impl->links) link->close();
  });
  impl_->thread.join();
}

std::uint16_t ConnectProxy::port() const { return impl_->port; }
std::string ConnectProxy::url(const std::string& user_info) const {
  return "http://" + (user_info.empty() ? "" : user_info + "@") + "127.0.0.1:" + std::to_string(impl_->port);
}

void ConnectProxy::add_host(const std::string& name, std::uint16_t port) {
  const std::lock_guard lock(impl_->mutex);
  impl_->hosts[name] = port;
}
void ConnectProxy::set_mode(Mode mode) {
  const std::lock_guard lock(impl_->mutex);
  impl_->mode = mode;
}
void ConnectProxy::set_answer(const std::string& text) {
  const std::lock_guard lock(impl_->mutex);
  impl_->answer = text;
}
void ConnectProxy::require(const std::string& authorization) {
  const std::lock_guard lock(impl_->mutex);
  impl_->authorization = authorization;
}
void ConnectProxy::cut_all() {
  asio::post(impl_->io, [impl = impl_.get()] {
    for (const auto& link : impl->links) link->close();
  });
}

int ConnectProxy::connections() const { return impl_->connections; }
int ConnectProxy::tunnels() const { return impl_->tunnels; }
int ConnectProxy::open() const { return impl_->open; }
std::uint64_t ConnectProxy::bytes() const { return impl_->bytes; }
std::vector<std::string> ConnectProxy::requests() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->requests;
}

}  // namespace support
