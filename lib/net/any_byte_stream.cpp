#include "net/any_byte_stream.hpp"

#include <boost/asio/bind_executor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <vector>

namespace cwsandbox::net {

namespace {

// How long a peer may take to close after us before its connection is dropped.
constexpr std::chrono::seconds kLinger{2};

class PlainTransport final : public Transport {
 public:
  explicit PlainTransport(Socket socket) : socket_(std::move(socket)), executor_(socket_.get_executor()) {}

  asio::any_io_executor executor() override { return executor_; }
  void read_some(const MutableBuffers& into, SizeHandler handler) override {
    socket_.async_read_some(into, asio::bind_executor(executor_, std::move(handler)));
  }
  void write_some(const ConstBuffers& from, SizeHandler handler) override {
    socket_.async_write_some(from, asio::bind_executor(executor_, std::move(handler)));
  }
  void close() noexcept override {
    error_code ignored;
    socket_.close(ignored);
  }
  void cancel() noexcept override {
    error_code ignored;
    socket_.cancel(ignored);
  }
  bool quiet() noexcept override { return socket_is_quiet(socket_); }

 protected:
  asio::awaitable<void> farewell() override { co_return; }
  Socket& socket() noexcept override { return socket_; }

 private:
  Socket socket_;
  asio::any_io_executor executor_;
};

}  // namespace

bool socket_is_quiet(Socket& socket) noexcept {
  if (!socket.is_open()) return false;
  char byte = 0;
  const auto n = ::recv(socket.native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

std::shared_ptr<Transport> make_plain_transport(Socket socket) { return std::make_shared<PlainTransport>(std::move(socket)); }

void Transport::async_linger(IoHandler handler) {
  auto self = shared_from_this();
  auto ex = executor();
  auto done = [self, handler = std::move(handler)](const std::exception_ptr&) mutable {
    self->close();
    std::move(handler)(error_code{});
  };
  asio::co_spawn(ex, linger(self), asio::bind_executor(ex, std::move(done)));
}

asio::awaitable<void> Transport::linger(std::shared_ptr<Transport> self) {
  asio::steady_timer deadline(self->executor(), kLinger);
  std::weak_ptr<Transport> weak = self;
  deadline.async_wait([weak](error_code ec) {
    if (ec) return;
    if (auto transport = weak.lock()) transport->close();
  });
  co_await self->farewell();
  error_code ec;
  Socket& socket = self->socket();
  socket.shutdown(Socket::shutdown_send, ec);
  std::vector<char> dropped(16 * 1024);
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  const auto buffer = asio::buffer(dropped);
  while (!ec) co_await socket.async_read_some(buffer, token);
}

void beast_close_socket(AnyByteStream& stream) { stream.transport()->close(); }

void teardown(boost::beast::role_type /*role*/, AnyByteStream& stream, error_code& ec) {
  stream.transport()->close();
  ec = {};
}

}  // namespace cwsandbox::net
