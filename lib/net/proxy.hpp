// A proxy on the way to an endpoint: its URL, the environment that names it, and the CONNECT that opens a tunnel through it (RFC
// 9110, section 9.3.6).
#pragma once

#include "net/any_byte_stream.hpp"
#include "net/endpoint.hpp"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace cwsandbox::net {

struct Proxy {
  Endpoint address;           ///< http; for messages, since it holds no credentials
  std::string authorization;  ///< the value of Proxy-Authorization, secret; empty: none
  std::string source;         ///< who has named it, for messages: "HTTPS_PROXY", "the option proxy"
  bool operator==(const Proxy&) const = default;
};

/// `[http://][USER[:PASSWORD]@]HOST[:PORT]`; user and password may be percent-encoded, the port is 80 unless given. Throws
/// std::invalid_argument that begins with `source`; nothing of the text is repeated.
[[nodiscard]] Proxy parse_proxy(std::string_view url, std::string source);

/// Whether a list as in NO_PROXY excludes the endpoint: names, with all below them (a dot or "*." in front changes nothing),
/// addresses, blocks of addresses (CIDR), each but a block perhaps with a port, and "*" for everything; separated by commas or
/// blanks. No name is resolved. What is none of these excludes nothing.
[[nodiscard]] bool excluded_from_proxy(std::string_view list, const Endpoint& endpoint);

/// What curl's variables say about the way to the endpoint: `https_proxy`, `HTTPS_PROXY`, or `http_proxy` (in upper case it may be
/// a header of a CGI's client), then `all_proxy`, `ALL_PROXY`, unless `no_proxy`, `NO_PROXY` exclude it; an empty one is as none.
/// Nothing for Unix sockets and loopback addresses. `variable` gives the value of one, or "". Throws as `parse_proxy`.
[[nodiscard]] std::optional<Proxy> proxy_from_environment(const Endpoint& endpoint,
                                                          const std::function<std::string(const char*)>& variable);

/// What came of asking a proxy for a tunnel.
struct TunnelAnswer {
  enum class Fault : std::uint8_t { none, not_http, too_large };
  error_code error;     ///< of the connection; eof: the proxy closed it
  bool begun = false;   ///< something of the answer has come
  unsigned status = 0;  ///< when there is neither an error nor a fault
  Fault fault = Fault::none;
};

/// Sends CONNECT and reads the header of the answer, and not one byte behind it: what follows a 2xx is the tunnel's. The caller
/// sees to the deadline: it closes the socket, which must outlive this.
[[nodiscard]] asio::awaitable<TunnelAnswer> ask_for_tunnel(Socket& socket, const Endpoint& endpoint, const Proxy& proxy);

}  // namespace cwsandbox::net
