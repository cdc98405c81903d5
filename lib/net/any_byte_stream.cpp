#include "net/any_byte_stream.hpp"

#include <boost/asio/bind_executor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <vector>

namespace cwsandbox::net {

namespace {

// How long a peer may take to close after us before its connection is dropped.
constexpr std::chrono::seconds kLinger{2};

// sendfile() to a connection that is gone raises SIGPIPE, and unlike send() it has no flag against that. The program that we are a
// part of decides about its signals, so the one that we cause is taken back before anybody sees it.
ssize_t quiet_sendfile(int to, int from, off_t offset, std::size_t count) noexcept {
  sigset_t pipe{}, before{}, pending{};
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipe, &before);
  sigpending(&pending);
  const bool another = sigismember(&pending, SIGPIPE) == 1;
  const ssize_t n = ::sendfile(to, from, &offset, count);
  const int error = errno;
  if (n < 0 && error == EPIPE && !another) {
    const timespec now{};
    while (sigtimedwait(&pipe, nullptr, &now) < 0 && errno == EINTR) {
    }
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = error;
  return n;
}

class PlainTransport final : public Transport {
 public:
  explicit PlainTransport(Socket socket) : socket_(std::move(socket)), executor_(socket_.get_executor()) {
    keep_from_children(socket_.native_handle());
  }

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

  bool sends_files() const noexcept override { return true; }
  void send_file_some(int fd, std::uint64_t offset, std::size_t count, SizeHandler handler) override {
    error_code ec;
    if (!socket_.native_non_blocking()) socket_.native_non_blocking(true, ec);
    std::size_t sent = 0;
    if (!ec) {
      ssize_t n = 0;
      do {
        n = quiet_sendfile(socket_.native_handle(), fd, static_cast<off_t>(offset), count);
      } while (n < 0 && errno == EINTR);
      if (n >= 0) {
        sent = static_cast<std::size_t>(n);
      } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
        auto again = [this, self = shared_from_this(), fd, offset, count, handler = std::move(handler)](error_code failed) mutable {
          if (failed) {
            std::move(handler)(failed, 0);
          } else {
            send_file_some(fd, offset, count, std::move(handler));
          }
        };
        socket_.async_wait(Socket::wait_write, asio::bind_executor(executor_, std::move(again)));
        return;
      } else {
        const bool unable = errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP || errno == ESPIPE;
        ec = unable ? error_code(asio::error::operation_not_supported) : error_code(errno, boost::system::system_category());
      }
    }
    auto done = [handler = std::move(handler), ec, sent]() mutable { std::move(handler)(ec, sent); };
    asio::post(executor_, std::move(done));
  }

 protected:
  asio::awaitable<void> farewell() override { co_return; }
  Socket& socket() noexcept override { return socket_; }

 private:
  Socket socket_;
  asio::any_io_executor executor_;
};

}  // namespace

void keep_from_children(int socket) noexcept { static_cast<void>(::fcntl(socket, F_SETFD, FD_CLOEXEC)); }

bool socket_is_quiet(Socket& socket) noexcept {
  if (!socket.is_open()) return false;
  char byte = 0;
  const auto n = ::recv(socket.native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

std::shared_ptr<Transport> make_plain_transport(Socket socket) { return std::make_shared<PlainTransport>(std::move(socket)); }

bool Transport::peer_gone() noexcept {
  Socket& ours = socket();
  if (!ours.is_open()) return true;
  pollfd look{ours.native_handle(), POLLRDHUP, 0};
  return ::poll(&look, 1, 0) > 0 && look.revents != 0;
}

void Transport::send_file_some(int /*fd*/, std::uint64_t /*offset*/, std::size_t /*count*/, SizeHandler handler) {
  auto done = [handler = std::move(handler)]() mutable { std::move(handler)(asio::error::operation_not_supported, 0); };
  asio::post(executor(), std::move(done));
}

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
