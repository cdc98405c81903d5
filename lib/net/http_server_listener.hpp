// Where the HTTP server listens: binding an address, and accepting what comes there.
#pragma once

#include "net/any_byte_stream.hpp"
#include "net/endpoint.hpp"
#include "net/http_server_admission.hpp"
#include "net/tls.hpp"

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/steady_timer.hpp>

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>

namespace cwsandbox::net {

/// One address.
class ServerListener {
 public:
  using Accepted = std::function<void(Socket socket, const std::shared_ptr<TlsContext>& tls)>;

  /// `tls` null: connections are plain.
  ServerListener(const asio::any_io_executor& executor, std::shared_ptr<TlsContext> tls);
  ServerListener(const ServerListener&) = delete;
  ServerListener& operator=(const ServerListener&) = delete;

  /// See `HttpServer::listen`.
  ListenAddress open(const ListenAddress& address);
  /// Hands on each connection that comes, until `close`. Out of descriptors, those give way who matter less; where that does not
  /// help for a while, those who wait are told so. A connection that `accepted` throws for is closed, and the next one comes.
  [[nodiscard]] static asio::awaitable<void> accept(std::shared_ptr<ServerListener> self, std::shared_ptr<Admission> admission,
                                                    Accepted accepted);
  /// Takes the file of a Unix socket away, too.
  void close() noexcept;

  [[nodiscard]] bool secure() const noexcept { return tls_ != nullptr; }
  /// For connections from here on. Precondition: `secure`.
  void use(std::shared_ptr<TlsContext> tls) noexcept { tls_ = std::move(tls); }

 private:
  void bind_tcp(ListenAddress& address, const std::string& shown);
  void bind_unix(const std::string& path, const std::string& shown);

  asio::basic_socket_acceptor<asio::generic::stream_protocol> acceptor_;
  asio::steady_timer rest_;
  std::shared_ptr<TlsContext> tls_;
  bool tcp_ = false;
  std::string path_;  // of a Unix socket, with what identifies the file as ours
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace cwsandbox::net
