// Where a gateway is: the parsed form of a base URL or of a --listen argument.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace cwsandbox::net {

struct Endpoint {
  enum class Scheme : std::uint8_t { http, https, unix_socket, local };
  Scheme scheme = Scheme::local;
  std::string host;        ///< http and https: name or address, no brackets
  std::uint16_t port = 0;  ///< http 80, https 443 unless given
  std::string path;        ///< unix: the socket's path

  [[nodiscard]] bool tls() const noexcept { return scheme == Scheme::https; }
  /// Whether it is this machine, as far as the text says.
  [[nodiscard]] bool loopback() const;
  /// What goes into the Host header.
  [[nodiscard]] std::string authority() const;
  /// Host and port, the port always: what a proxy is asked for.
  [[nodiscard]] std::string host_and_port() const;
  /// For messages: never holds credentials (they are refused when parsed).
  [[nodiscard]] std::string to_string() const;
  bool operator==(const Endpoint&) const = default;
};

/// `http://host[:port]`, `https://…`, `unix:/path`, `unix:///path`, `local:`.
/// Throws std::invalid_argument that names what is wrong (a path, user info, an unknown scheme, a bad port); secrets in the
/// text are not repeated.
[[nodiscard]] Endpoint parse_base_url(std::string_view text);

/// `tcp:ADDRESS:PORT` (IPv6 in brackets; port 0 picks one), `unix:PATH`.
struct ListenAddress {
  bool is_unix = false;
  std::string host;
  std::uint16_t port = 0;
  std::string path;
  [[nodiscard]] bool loopback() const;
};
[[nodiscard]] ListenAddress parse_listen(std::string_view text);

}  // namespace cwsandbox::net
