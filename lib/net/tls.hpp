// TLS (1.2 and newer) below the HTTP and WebSocket layers.
#pragma once

#include "net/any_byte_stream.hpp"
#include "net/http_client.hpp"
#include "net/http_server.hpp"

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

namespace cwsandbox::net {

/// Certificates and settings, shared by connections of any thread.
class TlsContext;

/// A file that cannot be used.
class TlsFileError : public std::runtime_error {
 public:
  enum class Role : std::uint8_t { ca, certificate, key };
  TlsFileError(Role its_role, std::string its_path, const std::string& text)
      : std::runtime_error(text), role(its_role), path(std::move(its_path)) {}
  Role role;
  std::string path;
};

/// Throws TlsFileError for a file, std::runtime_error that names the text that cannot be used.
[[nodiscard]] std::shared_ptr<TlsContext> make_tls_client_context(const TlsClientOptions& options);
[[nodiscard]] std::shared_ptr<TlsContext> make_tls_server_context(const TlsServerOptions& options);

/// Whether the peer has ended the connection with a TLS alert, which says why. With TLS 1.3 that is how a client learns, after the
/// handshake, that its certificate is missing or refused.
[[nodiscard]] bool is_tls_alert(const error_code& ec) noexcept;

class TlsTransport : public Transport {
 public:
  /// As a client `host` is sent (SNI) and checked against the certificate; as a server it is ignored.
  virtual void async_handshake(const std::string& host, IoHandler handler) = 0;
  /// After a failed handshake: why the peer's certificate was refused, or empty.
  [[nodiscard]] virtual std::string refusal() const = 0;
};

[[nodiscard]] std::shared_ptr<TlsTransport> make_tls_transport(Socket socket, std::shared_ptr<TlsContext> context);

}  // namespace cwsandbox::net
