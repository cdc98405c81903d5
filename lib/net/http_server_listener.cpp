#include "net/http_server_listener.hpp"

#include "base/descriptor_limit.hpp"
#include "net/http_server_session.hpp"
#include "net/watchdog.hpp"

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <optional>
#include <system_error>
#include <utility>

namespace cwsandbox::net {

namespace {

// How long accepting rests when the process or the system has run out of something, and after how long those who wait are told.
constexpr std::chrono::milliseconds kAcceptRest{100};
constexpr std::chrono::seconds kAcceptPatience{1};

[[noreturn]] void fail(int error, const std::string& what) {
  throw std::system_error(error, std::system_category(), what + base::descriptor_hint(error));
}

// A descriptor that is kept for the day when there is no other: with it, one who waits can be told so.
class SpareDescriptor {
 public:
  SpareDescriptor() { static_cast<void>(take()); }
  SpareDescriptor(const SpareDescriptor&) = delete;
  SpareDescriptor& operator=(const SpareDescriptor&) = delete;
  ~SpareDescriptor() { static_cast<void>(give()); }
  /// False when there is none.
  [[nodiscard]] bool take() noexcept {
    if (fd_ < 0) fd_ = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    return fd_ >= 0;
  }
  /// False when there is none to give.
  [[nodiscard]] bool give() noexcept {
    if (fd_ < 0) return false;
    ::close(std::exchange(fd_, -1));
    return true;
  }

 private:
  int fd_ = -1;
};

bool somebody_listens(const std::string& path, const asio::any_io_executor& executor) {
  Socket probe(executor);
  const asio::generic::stream_protocol::endpoint to = asio::local::stream_protocol::endpoint(path);
  error_code ec;
  if (probe.open(to.protocol(), ec); ec) return true;
  probe.non_blocking(true, ec);  // a full backlog would block; it means that somebody listens
  const int rc = ::connect(probe.native_handle(), to.data(), static_cast<socklen_t>(to.size()));
  return rc == 0 || (errno != ECONNREFUSED && errno != ENOENT);
}

}  // namespace

ServerListener::ServerListener(const asio::any_io_executor& executor, std::shared_ptr<TlsContext> tls)
    : acceptor_(executor), rest_(executor), tls_(std::move(tls)) {}

ListenAddress ServerListener::open(const ListenAddress& address) {
  const auto shown = address.is_unix ? "unix:" + address.path : "tcp:" + address.host + ":" + std::to_string(address.port);
  ListenAddress bound = address;
  if (address.is_unix) {
    bind_unix(address.path, shown);
  } else {
    bind_tcp(bound, shown);
  }
  error_code ec;
  if (acceptor_.listen(asio::socket_base::max_listen_connections, ec); ec) {
    close();  // with the socket's file
    fail(ec.value(), "cannot listen on " + shown);
  }
  return bound;
}

void ServerListener::bind_tcp(ListenAddress& address, const std::string& shown) {
  error_code ec;
  const auto ip = asio::ip::make_address(address.host, ec);
  if (ec) fail(EINVAL, "cannot listen on " + shown);
  const asio::generic::stream_protocol::endpoint at = asio::ip::tcp::endpoint(ip, address.port);
  if (acceptor_.open(at.protocol(), ec); ec) fail(ec.value(), "cannot listen on " + shown);
  keep_from_children(acceptor_.native_handle());
  acceptor_.set_option(asio::socket_base::reuse_address(true), ec);
  if (acceptor_.bind(at, ec); ec) fail(ec.value(), "cannot listen on " + shown);
  const auto local = acceptor_.local_endpoint(ec);
  if (ec) fail(ec.value(), "cannot listen on " + shown);
  asio::ip::tcp::endpoint exact;
  exact.resize(local.size());
  std::copy_n(static_cast<const char*>(static_cast<const void*>(local.data())), local.size(),
              static_cast<char*>(static_cast<void*>(exact.data())));
  address.port = exact.port();
  tcp_ = true;
}

void ServerListener::bind_unix(const std::string& path, const std::string& shown) {
  sockaddr_un limit{};
  if (path.empty() || path.size() >= sizeof(limit.sun_path)) fail(ENAMETOOLONG, "cannot listen on " + shown);
  struct stat info{};
  if (::lstat(path.c_str(), &info) == 0) {
    if (!S_ISSOCK(info.st_mode)) fail(EEXIST, "cannot listen on " + shown + ": the path exists and is not a socket");
    if (somebody_listens(path, acceptor_.get_executor())) fail(EADDRINUSE, "cannot listen on " + shown);
    ::unlink(path.c_str());  // left behind by a process that is gone
  }
  error_code ec;
  const asio::generic::stream_protocol::endpoint at = asio::local::stream_protocol::endpoint(path);
  if (acceptor_.open(at.protocol(), ec); ec) fail(ec.value(), "cannot listen on " + shown);
  keep_from_children(acceptor_.native_handle());
  // The file takes the socket's own mode, so there is no moment in which others could connect. Nobody can before `listen` anyway.
  ::fchmod(acceptor_.native_handle(), S_IRUSR | S_IWUSR);
  if (acceptor_.bind(at, ec); ec) fail(ec.value(), "cannot listen on " + shown);
  if (::chmod(path.c_str(), S_IRUSR | S_IWUSR) != 0 || ::lstat(path.c_str(), &info) != 0) {
    const int error = errno;
    ::unlink(path.c_str());
    fail(error, "cannot listen on " + shown);
  }
  path_ = path;
  device_ = info.st_dev;
  inode_ = info.st_ino;
}

void ServerListener::close() noexcept {
  struct stat info{};
  // Only our own file: another server may have taken the path over.
  if (!path_.empty() && ::lstat(path_.c_str(), &info) == 0 && info.st_dev == device_ && info.st_ino == inode_)
    ::unlink(path_.c_str());
  error_code ignored;
  acceptor_.close(ignored);
  rest_.cancel();
}

asio::awaitable<void> ServerListener::accept(std::shared_ptr<ServerListener> self, std::shared_ptr<Admission> admission,
                                             Accepted accepted) {
  error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  SpareDescriptor spare;
  bool given = false;  // what is accepted next takes the descriptor that was kept for it
  std::optional<Watchdog::Clock::time_point> out_since;
  while (self->acceptor_.is_open()) {
    Socket socket(self->acceptor_.get_executor());
    co_await self->acceptor_.async_accept(socket, token);
    if (!self->acceptor_.is_open()) break;
    const bool on_spare = std::exchange(given, false) && !spare.take();
    if (ec == asio::error::connection_aborted || ec == boost::system::errc::protocol_error || ec == asio::error::interrupted)
      continue;
    if (ec && admission->make_room()) continue;  // somebody who matters less gives a descriptor back
    if (ec) {
      // Out of descriptors or memory, most likely: others give some back meanwhile. Not for ever, though.
      if (!out_since) out_since = Watchdog::Clock::now();
      given = !on_spare && Watchdog::Clock::now() - *out_since >= kAcceptPatience && spare.give();
      if (given) continue;
      self->rest_.expires_after(kAcceptRest);
      co_await self->rest_.async_wait(token);
      static_cast<void>(spare.take());
      continue;
    }
    if (on_spare) {
      // Behind TLS nothing can be said before a handshake.
      if (!self->tls_) {
        auto told = refuse(make_plain_transport(std::move(socket)), "as many files are open here as this gateway may have");
        co_await std::move(told);
      }
      socket.close(ec);
      static_cast<void>(spare.take());
      continue;
    }
    out_since.reset();
    if (self->tcp_) socket.set_option(asio::ip::tcp::no_delay(true), ec);
    try {
      accepted(std::move(socket), self->tls_);
    } catch (const std::exception&) {
      // Out of memory, say. This connection is closed; the next one may find some.
    }
  }
}

}  // namespace cwsandbox::net
