#include "net/endpoint.hpp"

#include "base/ascii.hpp"
#include "base/numbers.hpp"

#include <boost/asio/ip/address.hpp>
#include <boost/url/parse.hpp>
#include <boost/url/url_view.hpp>

#include <stdexcept>

namespace cwsandbox::net {

namespace {

[[noreturn]] void refuse(const std::string& why) { throw std::invalid_argument(why); }

// sun_path holds 108 bytes with the terminating zero.
void check_unix_path(const std::string& path, const char* what) {
  if (path.empty()) refuse(std::string(what) + ": the socket's path is missing");
  if (path.find('\0') != std::string::npos) refuse(std::string(what) + ": the socket's path holds a zero byte");
  if (path.size() > 107) refuse(std::string(what) + ": the socket's path is longer than the 107 bytes that the system allows");
}

bool parse_port(std::string_view text, std::uint16_t& port) {
  const auto number = base::parse_number<std::uint16_t>(text);
  port = number.value_or(0);
  return number.has_value();
}

bool plain_name(std::string_view name) { return base::only_letters_digits_and(".-_", name); }

std::string bracketed(const std::string& host) { return host.find(':') != std::string::npos ? "[" + host + "]" : host; }

}  // namespace

std::string Endpoint::authority() const {
  if (scheme == Scheme::unix_socket || scheme == Scheme::local) return "localhost";
  const auto default_port = tls() ? 443 : 80;
  return port == default_port ? bracketed(host) : bracketed(host) + ":" + std::to_string(port);
}

std::string Endpoint::host_and_port() const { return bracketed(host) + ":" + std::to_string(port); }

std::string Endpoint::to_string() const {
  switch (scheme) {
    case Scheme::http:
      return "http://" + authority();
    case Scheme::https:
      return "https://" + authority();
    case Scheme::unix_socket:
      // A path of two slashes at the front would be read as a host's name.
      return (path.starts_with("//") ? "unix://" : "unix:") + path;
    case Scheme::local:
      return "local:";
  }
  return {};
}

Endpoint parse_base_url(std::string_view text) {
  constexpr auto kKnown = "http://HOST[:PORT], https://HOST[:PORT], unix:/PATH or local:";
  const auto colon = text.find(':');
  if (text.empty()) refuse("base URL: it is empty; expected " + std::string(kKnown));
  if (colon == std::string_view::npos || colon == 0) refuse("base URL: the scheme is missing; expected " + std::string(kKnown));
  const auto scheme = base::to_lower(text.substr(0, colon));

  Endpoint out;
  if (scheme == "local") {
    const auto rest = text.substr(colon + 1);
    if (!rest.empty() && rest != "//") refuse("base URL: nothing may follow \"local:\"");
    return out;
  }
  if (scheme == "unix") {
    auto path = text.substr(colon + 1);
    if (path.starts_with("//")) {
      path.remove_prefix(2);
      if (!path.starts_with('/')) refuse("base URL: a unix: URL names no host; expected unix:/PATH or unix:///PATH");
    }
    if (!path.starts_with('/')) refuse("base URL: the path of a unix: URL must be absolute");
    out.scheme = Endpoint::Scheme::unix_socket;
    out.path = std::string(path);
    check_unix_path(out.path, "base URL");
    return out;
  }
  if (scheme != "http" && scheme != "https") {
    // What stands before the colon may be a user's name or worse when there is an '@'.
    const bool repeat = text.find('@') == std::string_view::npos && scheme.size() <= 32 && plain_name(scheme);
    refuse("base URL: unknown scheme" + (repeat ? " \"" + scheme + "\"" : std::string()) + "; expected " + kKnown);
  }

  const auto parsed = boost::urls::parse_uri(text);
  if (parsed.has_error()) {
    // The port is the usual mistake; Boost.URL does not say which part it stumbled over.
    const auto rest = text.substr(colon + 1);
    const auto authority = rest.starts_with("//") ? rest.substr(2, rest.find_first_of("/?#", 2) - 2) : std::string_view();
    const auto last = authority.rfind(':');
    if (authority.find('@') != std::string_view::npos) refuse("base URL: user information is not allowed");
    if (!rest.starts_with("//")) refuse("base URL: \"//\" is missing after the scheme");
    if (last != std::string_view::npos && authority.find_first_not_of("0123456789", last + 1) != std::string_view::npos &&
        authority.find(']', last) == std::string_view::npos)
      refuse("base URL: the port is not a number from 1 to 65535");
    refuse("base URL: malformed host or path");
  }
  const auto& url = *parsed;
  if (!url.has_authority()) refuse("base URL: \"//\" is missing after the scheme");
  if (url.has_userinfo()) refuse("base URL: user information is not allowed");
  if (url.has_query()) refuse("base URL: a query is not allowed");
  if (url.has_fragment()) refuse("base URL: a fragment is not allowed");
  if (!url.encoded_path().empty() && url.encoded_path() != "/")
    refuse("base URL: a path is not allowed, only scheme, host and port");
  const std::string host(url.host_address());
  if (host.empty()) refuse("base URL: the host is missing");
  // Only an address in brackets has colons: in a name one can only stand percent-encoded, and would part it from the port.
  if (url.host_type() != boost::urls::host_type::ipv6 && !plain_name(host))
    refuse("base URL: the host holds a character that is not allowed");
  out.scheme = scheme == "https" ? Endpoint::Scheme::https : Endpoint::Scheme::http;
  out.host = base::to_lower(host);
  out.port = out.tls() ? 443 : 80;
  if (url.has_port()) {
    const std::string port(url.port());
    if (!parse_port(port, out.port) || out.port == 0) refuse("base URL: the port is not a number from 1 to 65535");
  }
  return out;
}

namespace {

bool is_loopback_address(const std::string& host) {
  boost::system::error_code ec;
  const auto address = boost::asio::ip::make_address(host, ec);
  return !ec &&
         (address.is_loopback() || (address.is_v6() && address.to_v6().is_v4_mapped() &&
                                    boost::asio::ip::make_address_v4(boost::asio::ip::v4_mapped, address.to_v6()).is_loopback()));
}

}  // namespace

bool Endpoint::loopback() const {
  if (scheme == Scheme::unix_socket || scheme == Scheme::local) return true;
  return host == "localhost" || host.ends_with(".localhost") || is_loopback_address(host);
}

bool ListenAddress::loopback() const { return is_unix || is_loopback_address(host); }

ListenAddress parse_listen(std::string_view text) {
  ListenAddress out;
  if (text.starts_with("unix:")) {
    out.is_unix = true;
    out.path = std::string(text.substr(5));
    check_unix_path(out.path, "listen address");
    return out;
  }
  if (!text.starts_with("tcp:")) refuse("listen address: unknown kind; expected tcp:ADDRESS:PORT or unix:PATH");
  auto rest = text.substr(4);
  const auto colon = rest.rfind(':');
  if (colon == std::string_view::npos || rest.ends_with(']'))
    refuse("listen address: the port is missing; expected tcp:ADDRESS:PORT");
  auto host = rest.substr(0, colon);
  if (!parse_port(rest.substr(colon + 1), out.port)) refuse("listen address: the port is not a number from 0 to 65535");
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    refuse("listen address: an IPv6 address must stand in brackets");
  }
  if (host.empty()) refuse("listen address: the address is missing");
  out.host = host == "localhost" ? "127.0.0.1" : std::string(host);
  boost::system::error_code ec;
  boost::asio::ip::make_address(out.host, ec);
  if (ec) refuse("listen address: \"" + out.host + "\" is not an IP address");
  return out;
}

}  // namespace cwsandbox::net
