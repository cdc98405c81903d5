#include "net/proxy.hpp"

#include "base/ascii.hpp"
#include "base/base64.hpp"
#include "base/numbers.hpp"
#include "net/http_wire.hpp"

#include <boost/asio/ip/address.hpp>
#include <boost/asio/ip/network_v4.hpp>
#include <boost/asio/ip/network_v6.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/url/parse.hpp>
#include <boost/url/url_view.hpp>

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <stdexcept>
#include <utility>

namespace cwsandbox::net {

namespace {

// Of a proxy's answer, interim ones included: as much as of any answer's header.
constexpr std::size_t kMaxAnswer = 64 * 1024;

bool has_control(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; });
}

std::optional<asio::ip::address> address_of(std::string_view text) {
  error_code ec;
  const auto address = asio::ip::make_address(std::string(text), ec);
  if (ec) return std::nullopt;
  if (address.is_v6() && address.to_v6().is_v4_mapped()) return asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6());
  return address;
}

bool within(const std::string& block, const asio::ip::address& address) {
  error_code ec;
  if (address.is_v4()) {
    const auto network = asio::ip::make_network_v4(block, ec);
    return !ec && asio::ip::network_v4(address.to_v4(), network.prefix_length()).canonical() == network.canonical();
  }
  const auto network = asio::ip::make_network_v6(block, ec);
  return !ec && asio::ip::network_v6(address.to_v6(), network.prefix_length()).canonical() == network.canonical();
}

std::string_view without_end_dot(std::string_view name) {
  if (name.ends_with('.')) name.remove_suffix(1);
  return name;
}

bool is_or_is_below(std::string_view name, std::string_view domain) {
  if (name.size() < domain.size() || !base::same_but_for_case(name.substr(name.size() - domain.size()), domain)) return false;
  return name.size() == domain.size() || name[name.size() - domain.size() - 1] == '.';
}

// One entry of a NO_PROXY list.
bool excludes(std::string_view entry, const Endpoint& endpoint) {
  if (entry == "*") return true;
  const auto host = without_end_dot(endpoint.host);
  const auto address = address_of(host);
  if (entry.find('/') != std::string_view::npos) return address && within(std::string(entry), *address);
  // A port stands behind the only colon, or behind a bracket.
  const bool bracket = entry.starts_with('[');
  auto colon = bracket ? entry.find("]:") : entry.find(':');
  if (bracket && colon != std::string_view::npos) ++colon;
  if (!bracket && colon != entry.rfind(':')) colon = std::string_view::npos;
  auto name = entry.substr(0, colon);
  if (colon != std::string_view::npos) {
    if (base::parse_number<std::uint16_t>(entry.substr(colon + 1)) != endpoint.port) return false;
  }
  if (bracket && name.ends_with(']')) name = name.substr(1, name.size() - 2);
  if (address) return address_of(name) == address;
  if (name.starts_with("*.")) name.remove_prefix(1);
  if (name.starts_with('.')) name.remove_prefix(1);
  name = without_end_dot(name);
  return !name.empty() && is_or_is_below(host, name);
}

std::string connect_request(const Endpoint& endpoint, const Proxy& proxy) {
  const auto target = endpoint.host_and_port();
  std::string out = "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n";
  if (!proxy.authorization.empty()) out += "Proxy-Authorization: " + proxy.authorization + "\r\n";
  return out + "\r\n";
}

}  // namespace

Proxy parse_proxy(std::string_view url, std::string source) {
  const auto refuse = [&source](const char* why) { throw std::invalid_argument(source + ": " + why); };
  constexpr const char* kExpected = "the proxy's URL is malformed; expected http://[USER:PASSWORD@]HOST[:PORT]";
  std::string text(url);
  const auto scheme_end = text.find("://");
  if (scheme_end == std::string::npos) {
    text.insert(0, "http://");
  } else {
    const std::string_view scheme(text.data(), scheme_end);
    if (base::same_but_for_case(scheme.substr(0, 5), "socks"))
      refuse("SOCKS proxies are not supported, only those that are asked over http://");
    if (base::same_but_for_case(scheme, "https"))
      refuse("proxies over TLS (https://) are not supported, only those that are asked over http://");
    if (!base::same_but_for_case(scheme, "http")) refuse(kExpected);
  }
  const auto parsed = boost::urls::parse_uri(text);
  // A "/", "?" or "#" in the password ends the host's part, and what is left of it may pass for a URL.
  if (text.find('@') != std::string::npos && (parsed.has_error() || !parsed->has_userinfo()))
    refuse("the proxy's URL is malformed; in its user and password all but letters, digits and -._~ must be percent-encoded");
  if (parsed.has_error()) refuse(kExpected);
  if (parsed->has_query() || parsed->has_fragment() || (!parsed->encoded_path().empty() && parsed->encoded_path() != "/"))
    refuse("nothing may follow the host and port of the proxy's URL");
  Proxy out;
  try {
    std::string address = "http://" + std::string(parsed->encoded_host());
    if (parsed->has_port()) address += ":" + std::string(parsed->port());
    out.address = parse_base_url(address);
  } catch (const std::invalid_argument&) {
    refuse("the proxy's URL has a host or port that cannot be used");
  }
  const std::string user = parsed->user(), password = parsed->password();
  if (user.find(':') != std::string::npos) refuse("the user's name in the proxy's URL holds a colon");
  if (has_control(user) || has_control(password)) refuse("the user or password in the proxy's URL holds a control character");
  if (!user.empty() || !password.empty()) out.authorization = "Basic " + base::base64_encode(user + ":" + password);
  out.source = std::move(source);
  return out;
}

bool excluded_from_proxy(std::string_view list, const Endpoint& endpoint) {
  constexpr std::string_view kSeparators = ", \t\r\n";
  while (!list.empty()) {
    const auto end = std::min(list.find_first_of(kSeparators), list.size());
    if (end > 0 && excludes(list.substr(0, end), endpoint)) return true;
    list.remove_prefix(std::min(end + 1, list.size()));
  }
  return false;
}

std::optional<Proxy> proxy_from_environment(const Endpoint& endpoint, const std::function<std::string(const char*)>& variable) {
  if (endpoint.loopback()) return std::nullopt;
  std::string excluded = variable("no_proxy");
  if (excluded.empty()) excluded = variable("NO_PROXY");
  if (excluded_from_proxy(excluded, endpoint)) return std::nullopt;
  const char* const own = endpoint.tls() ? "https_proxy" : "http_proxy";
  const char* const upper = endpoint.tls() ? "HTTPS_PROXY" : nullptr;
  for (const char* const name : {own, upper, "all_proxy", "ALL_PROXY"}) {
    if (name == nullptr) continue;
    if (const auto url = variable(name); !url.empty()) return parse_proxy(url, name);
  }
  return std::nullopt;
}

asio::awaitable<TunnelAnswer> ask_for_tunnel(Socket& socket, const Endpoint& endpoint, const Proxy& proxy) {
  TunnelAnswer out;
  auto token = asio::redirect_error(asio::use_awaitable, out.error);
  const std::string request = connect_request(endpoint, proxy);
  const auto message = asio::buffer(request);
  co_await asio::async_write(socket, message, token);
  constexpr std::string_view kBegin = "HTTP/1.", kEnd = "\r\n\r\n";
  std::string head;
  std::size_t total = 0;
  std::array<char, 1024> seen{};
  while (!out.error) {
    co_await socket.async_wait(Socket::wait_read, token);
    if (out.error) break;
    // Looked at first and taken up to the header's end. Not through Asio's own receive: with a part left unread it would wait for
    // news of what is there already.
    const auto n = ::recv(socket.native_handle(), seen.data(), seen.size(), MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) continue;
    if (n < 0) out.error = error_code(errno, boost::system::system_category());
    if (n == 0) out.error = asio::error::eof;
    if (out.error) break;
    out.begun = true;
    const std::size_t had = head.size();
    head.append(seen.data(), static_cast<std::size_t>(n));
    const auto end = head.find(kEnd, had < kEnd.size() ? 0 : had - kEnd.size());
    if (end != std::string::npos) head.resize(end + kEnd.size());
    const std::size_t taken = head.size() - had;
    static_cast<void>(::recv(socket.native_handle(), seen.data(), taken, MSG_DONTWAIT));
    total += taken;
    // Whoever speaks something else may never come to a header's end.
    if (head.compare(0, kBegin.size(), kBegin, 0, head.size()) != 0) {
      out.fault = TunnelAnswer::Fault::not_http;
      break;
    }
    if (total > kMaxAnswer) {
      out.fault = TunnelAnswer::Fault::too_large;
      break;
    }
    if (end == std::string::npos) continue;
    ResponseReader reader(0, false);
    reader.header_only();
    std::size_t consumed = 0;
    if (reader.put(head, consumed) != ParseResult::progress || !reader.header_done()) {
      out.fault = TunnelAnswer::Fault::not_http;
      break;
    }
    if (!reader.interim()) {
      out.status = reader.take().status;
      break;
    }
    head.clear();
  }
  co_return out;
}

}  // namespace cwsandbox::net
