// The way through a proxy: its URL, the variables that name it, and tunnels over real sockets.
#include "net/proxy.hpp"
#include "net_support.hpp"
#include "support/certs.hpp"
#include "support/connect_proxy.hpp"

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>

#include <map>

using namespace cwsandbox::net;
using namespace cwsandbox::net::test;
using support::ConnectProxy;
using Kind = TransportError::Kind;
using Mode = ConnectProxy::Mode;

namespace {

std::string refusal(const std::string& url) {
  try {
    static_cast<void>(parse_proxy(url, "HTTPS_PROXY"));
    return "accepted";
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
}

// What became of a request: the answer's body or an error.
struct Gotten {
  std::string body, text;
  std::optional<Kind> kind;
  bool sent = false, cancelled = false;
};

asio::awaitable<void> get(HttpClient& http, std::string target, Gotten& out) {
  HttpRequest request;
  request.target = std::move(target);
  request.body = "echo";
  try {
    const auto response = co_await http.request(std::move(request), soon());
    out.body = response.body;
  } catch (const TransportError& error) {
    out.kind = error.kind();
    out.sent = error.sent();
    out.text = error.what();
  } catch (const boost::system::system_error& error) {
    out.cancelled = error.code() == asio::error::operation_aborted;
  }
}

/// A server that only the proxy knows the name of.
struct ProxiedSite : Site {
  ProxiedSite() {
    proxy.add_host("gateway.invalid", address.port);
    endpoint.scheme = Endpoint::Scheme::http;
    endpoint.host = "gateway.invalid";
    endpoint.port = 8080;
    options.proxy = parse_proxy(proxy.url(), "HTTPS_PROXY");
  }
  ~ProxiedSite() { settle(context); }
  Gotten ask() {
    HttpClient http(context.get_executor(), endpoint, options);
    Gotten out;
    auto body = [&]() -> asio::awaitable<void> { co_await get(http, "/", out); };
    run(context, body);
    return out;
  }
  ConnectProxy proxy;
  Endpoint endpoint;
  HttpClientOptions options;
};

}  // namespace

TEST_CASE("the URL of a proxy", "[NW-2]") {
  struct Case {
    std::string url, address, authorization;
  };
  const std::vector<Case> cases = {
      {"http://proxy.example.com:3128", "http://proxy.example.com:3128", ""},
      {"HTTP://Proxy.Example.com/", "http://proxy.example.com", ""},
      {"proxy.example.com:3128", "http://proxy.example.com:3128", ""},
      {"proxy", "http://proxy", ""},
      {"10.0.0.1:8080", "http://10.0.0.1:8080", ""},
      {"http://[fd00::1]:3128", "http://[fd00::1]:3128", ""},
      {"[fd00::1]", "http://[fd00::1]", ""},
      {"http://Aladdin:open%20sesame@proxy:3128", "http://proxy:3128", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="},
      {"Aladdin:open%20sesame@proxy:3128", "http://proxy:3128", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="},
      {"http://u:%40%3A%2F%25@proxy", "http://proxy", "Basic dTpAOi8l"},
      {"http://u@proxy", "http://proxy", "Basic dTo="},
      {"http://@proxy", "http://proxy", ""},
  };
  for (const auto& each : cases) {
    INFO(each.url);
    const auto proxy = parse_proxy(each.url, "x");
    CHECK(proxy.address.to_string() == each.address);
    CHECK(proxy.authorization == each.authorization);
  }
  CHECK(holds(refusal("socks5://user:secret@proxy:1080"), "SOCKS"));
  CHECK(holds(refusal("SOCKS5h://user:secret@proxy:1080"), "SOCKS"));
  CHECK(holds(refusal("https://user:secret@proxy:443"), "TLS"));
  CHECK(holds(refusal("http://user:sec/ret@proxy"), "percent-encoded"));
  CHECK(holds(refusal("http://user:sec#ret@proxy"), "percent-encoded"));
  CHECK(holds(refusal("http://us%3Aer:secret@proxy"), "colon"));
  CHECK(holds(refusal("http://user:secret%0D%0AX:@proxy"), "control character"));
  CHECK(holds(refusal("http://user:secret%0D%0A@proxy"), "control character"));
  CHECK(holds(refusal("http://user:secret@proxy/path"), "follow"));
  CHECK(holds(refusal("http://user:secret@proxy?query"), "follow"));
  for (const char* bad : {"", "http://", "http://user:secret@", "ftp://user:secret@proxy", "http://user:secret@proxy:0",
                          "http://user:secret@proxy:65536", "http://user:secret@proxy:x", "http://user:secret@a b", "://secret",
                          "unix:/secret", "http://fd00::1"}) {
    INFO(bad);
    const auto text = refusal(bad);
    CHECK(text.starts_with("HTTPS_PROXY: "));
    CHECK_FALSE(holds(text, "secret"));
    CHECK_FALSE(holds(text, "user:"));
  }
}

TEST_CASE("what NO_PROXY excludes", "[NW-2]") {
  struct Case {
    std::string list, url;
    bool excluded;
  };
  const std::vector<Case> cases = {
      {"", "https://a.example.com", false},
      {"*", "https://a.example.com", true},
      {"x, * ,y", "https://a.example.com", true},
      {"example.com", "https://example.com", true},
      {"example.com", "https://a.example.com", true},
      {"example.com", "https://badexample.com", false},
      {"example.com", "https://example.com.evil.org", false},
      {".example.com", "https://a.example.com", true},
      {".example.com", "https://example.com", true},
      {"*.example.com", "https://a.b.example.com", true},
      {"*.example.com", "https://aexample.com", false},
      {"EXAMPLE.com.", "https://a.Example.COM", true},
      {"example.com", "https://a.example.com.", true},
      {"a.example.com", "https://example.com", false},
      {".", "https://example.com", false},
      {"*.", "https://example.com", false},
      {"com", "https://example.com", true},
      {"one,two three\ttwo.example.com", "https://two.example.com", true},
      {",,  ,", "https://two.example.com", false},
      {"example.com:443", "https://example.com", true},
      {"example.com:443", "http://example.com", false},
      {"example.com:80", "http://a.example.com", true},
      {"example.com:8443", "https://example.com:8443", true},
      {"example.com:", "https://example.com", false},
      {"example.com:x", "https://example.com", false},
      {"example.com:443x", "https://example.com", false},
      {"10.1.2.3", "https://10.1.2.3", true},
      {"10.1.2.3:443", "https://10.1.2.3", true},
      {"10.1.2.3:80", "https://10.1.2.3", false},
      {"10.1.2.3", "https://10.1.2.30", false},
      {"2.3", "https://10.1.2.3", false},
      {"10.1.2", "https://10.1.2.3", false},
      {"10.0.0.0/8", "https://10.1.2.3", true},
      {"10.7.7.7/8", "https://10.1.2.3", true},
      {"10.0.0.0/8", "https://11.1.2.3", false},
      {"10.1.2.3/32", "https://10.1.2.3", true},
      {"0.0.0.0/0", "https://10.1.2.3", true},
      {"10.0.0.0/33", "https://10.1.2.3", false},
      {"10.0.0.0/x", "https://10.1.2.3", false},
      {"10.0.0.0/", "https://10.1.2.3", false},
      {"10.0.0.0/8", "https://ten.example.com", false},
      {"fd00::/8", "https://10.1.2.3", false},
      {"fd00::/8", "https://[fd12::1]", true},
      {"fd00::/8", "https://[fe80::1]", false},
      {"fd00::1", "https://[fd00:0:0::1]", true},
      {"[fd00::1]", "https://[fd00::1]", true},
      {"[fd00::1]:443", "https://[fd00::1]", true},
      {"[fd00::1]:80", "https://[fd00::1]", false},
      {"[fd00::1", "https://[fd00::1]", false},
      {"10.1.2.3", "https://[::ffff:10.1.2.3]", true},
      {"10.0.0.0/8", "https://[::ffff:10.1.2.3]", true},
      {"http://example.com", "https://example.com", false},
  };
  for (const auto& each : cases) {
    INFO(each.list << " and " << each.url);
    CHECK(excluded_from_proxy(each.list, parse_base_url(each.url)) == each.excluded);
  }
}

TEST_CASE("which variable names the proxy", "[NW-2]") {
  using Variables = std::map<std::string, std::string>;
  const auto chosen = [](const std::string& url, const Variables& variables) {
    const auto found = proxy_from_environment(parse_base_url(url), [&](const char* name) {
      const auto value = variables.find(name);
      return value == variables.end() ? std::string() : value->second;
    });
    return found ? found->address.host + " " + found->source : std::string("none");
  };
  const std::string secure = "https://gateway.example.com", plain = "http://gateway.example.com";
  CHECK(chosen(secure, {}) == "none");
  const Variables all = {{"https_proxy", "a"}, {"HTTPS_PROXY", "b"}, {"http_proxy", "c"},
                         {"HTTP_PROXY", "d"},  {"all_proxy", "e"},   {"ALL_PROXY", "f"}};
  CHECK(chosen(secure, all) == "a https_proxy");
  CHECK(chosen(plain, all) == "c http_proxy");
  Variables some = all;
  some["https_proxy"] = some["http_proxy"] = "";  // as if it were not there
  CHECK(chosen(secure, some) == "b HTTPS_PROXY");
  CHECK(chosen(plain, some) == "e all_proxy");
  some.erase("HTTPS_PROXY");
  CHECK(chosen(secure, some) == "e all_proxy");
  some.erase("all_proxy");
  CHECK(chosen(secure, some) == "f ALL_PROXY");
  CHECK(chosen(plain, {{"HTTP_PROXY", "d"}, {"HTTPS_PROXY", "b"}}) == "none");
  CHECK(chosen(secure, {{"HTTP_PROXY", "d"}, {"http_proxy", "c"}}) == "none");

  Variables excluded = all;
  excluded["NO_PROXY"] = "example.com";
  CHECK(chosen(secure, excluded) == "none");
  excluded["no_proxy"] = "example.org";
  CHECK(chosen(secure, excluded) == "a https_proxy");

  for (const char* here : {"https://localhost", "https://LOCALHOST", "https://a.localhost:8080", "https://127.0.0.1",
                           "http://127.9.9.9", "https://[::1]", "https://[::ffff:127.0.0.1]", "unix:/socket", "local:"}) {
    INFO(here);
    CHECK(chosen(here, all) == "none");
  }
  CHECK(chosen("https://localhost.example.com", all) == "a https_proxy");
  // What is not used need not be right, and what is not right is named.
  const Variables broken = {{"HTTPS_PROXY", "socks5://user:secret@proxy"}};
  CHECK(chosen("unix:/socket", broken) == "none");
  CHECK(chosen(plain, broken) == "none");
  try {
    static_cast<void>(chosen(secure, broken));
    FAIL("accepted");
  } catch (const std::invalid_argument& error) {
    CHECK(std::string(error.what()).starts_with("HTTPS_PROXY: "));
    CHECK_FALSE(holds(error.what(), "secret"));
  }
}

TEST_CASE("requests and a WebSocket go through a proxy, which resolves the name", "[NW-2]") {
  ProxiedSite site;
  TemporaryFolder folder;
  std::string target = "gateway.invalid:8080";
  SECTION("plain") {}
  SECTION("TLS, with the gateway's certificate") {
    const cwsandbox::test::Authority authority;
    authority.write_certificate(folder / "ca.pem");
    authority.issue(folder / "server.pem", "DNS:gateway.invalid");
    TlsServerOptions tls;
    tls.certificate_file = tls.key_file = folder / "server.pem";
    site.proxy.add_host("gateway.invalid", site.server.listen(any_tcp_port(), tls).port);
    site.endpoint.scheme = Endpoint::Scheme::https;
    site.endpoint.port = 443;
    site.options.tls.ca_file = folder / "ca.pem";
    target = "gateway.invalid:443";
  }
  SECTION("with an address of version 6") {
    site.endpoint.host = "fd00::1";
    target = "[fd00::1]:8080";
    site.proxy.add_host("[fd00::1]", site.address.port);
  }
  SECTION("with credentials") {
    site.options.proxy = parse_proxy(site.proxy.url("Aladdin:open%20sesame"), "HTTPS_PROXY");
    site.proxy.require("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
  }
  SECTION("whose answer comes a byte at a time") { site.proxy.set_mode(Mode::drip); }
  HttpClient http(site.context.get_executor(), site.endpoint, site.options);
  std::string heard;
  auto body = [&]() -> asio::awaitable<void> {
    for (int i = 0; i < 20; ++i) {
      Gotten out;
      co_await get(http, "/", out);
      CHECK(out.text.empty());
      CHECK(out.body == "echo");
    }
    asio::any_io_executor executor = site.context.get_executor();
    Headers headers;
    const WebSocket::Limits limits{4 * 1024 * 1024, 30s};
    auto socket = co_await http.upgrade(executor, "/v1/exec", headers, {}, limits, soon());
    const std::string sent(1'000'000, 'x');
    const auto failed = co_await write(*socket, "x", sent);
    CHECK_FALSE(failed);
    IncomingMessage message;
    const auto lost = co_await read(*socket, message);
    CHECK_FALSE(lost);
    heard = message.take();
    co_await close(*socket, 1000, "");
  };
  run(site.context, body);
  CHECK(heard == std::string(1'000'000, 'x'));
  CHECK(site.proxy.tunnels() == 2);  // the requests' is kept
  CHECK(site.proxy.bytes() > 1'000'000);
  for (const auto& request : site.proxy.requests()) {
    CHECK(request.starts_with("CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n"));
    CHECK(holds(request, "Proxy-Authorization: ") == !site.options.proxy->authorization.empty());
  }
}

TEST_CASE("what follows the proxy's header belongs to the tunnel", "[NW-3]") {
  ProxiedSite site;
  site.proxy.set_mode(Mode::together);
  const std::string first = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst";
  for (const std::string header :
       {"HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n", "HTTP/1.1 299 Odd\r\nTransfer-Encoding: chunked\r\n\r\n"}) {
    INFO(header);
    site.proxy.set_answer(header + first);
    CHECK(site.ask().body == "first");
  }
}

TEST_CASE("what goes wrong at a proxy is told", "[NW-3]") {
  ProxiedSite site;
  const std::string user_info = "user:secret-password";
  site.options.proxy = parse_proxy(site.proxy.url(user_info), "the option proxy");
  const auto address = site.proxy.url();
  struct Case {
    Mode mode;
    std::string answer;
    Kind kind;
    std::string text;
  };
  const std::vector<Case> cases = {
      {Mode::close, "", Kind::closed, "closed the connection without an answer"},
      {Mode::answer, "HTTP/1.1 200 OK\r\nContent-Le", Kind::closed, "closed the connection within its answer"},
      {Mode::answer, "SSH-2.0-OpenSSH_9.2\r\n", Kind::protocol, "not HTTP/1.1"},
      {Mode::answer, std::string("\x15\x03\x01\x00\x02\x02\x46", 7), Kind::protocol, "not HTTP/1.1"},
      {Mode::answer, "HTTP/1.1 yes\r\n\r\n", Kind::protocol, "not HTTP/1.1"},
      {Mode::answer, "HTTP/1.1 200 OK\r\nno field\r\n\r\n", Kind::protocol, "not HTTP/1.1"},
      {Mode::endless, "", Kind::protocol, "too large"},
      {Mode::answer, "HTTP/1.1 407 Proxy Authentication Required\r\n\r\nGo away", Kind::proxy_refused,
       "refused the user and password of the option proxy: HTTP status 407"},
      {Mode::answer, "HTTP/1.1 403 secret-password\r\nContent-Length: 0\r\n\r\n", Kind::proxy_refused, "HTTP status 403"},
      {Mode::answer, "HTTP/1.1 301 Moved\r\nLocation: http://elsewhere/\r\n\r\n", Kind::proxy_refused, "HTTP status 301"},
      {Mode::answer, "HTTP/1.1 101 Switching Protocols\r\n\r\n", Kind::proxy_refused, "HTTP status 101"},
      {Mode::answer, "HTTP/1.1 502 Bad Gateway\r\n\r\n", Kind::connect, "HTTP status 502"},
      {Mode::answer, "HTTP/1.1 503 Busy\r\n\r\n", Kind::connect, "HTTP status 503"},
  };
  for (const auto& each : cases) {
    INFO(each.answer << " " << each.text);
    site.proxy.set_mode(each.mode);
    site.proxy.set_answer(each.answer);
    const auto got = site.ask();
    INFO(got.text);
    CHECK(got.kind == each.kind);
    CHECK_FALSE(got.sent);
    CHECK(got.text.starts_with("http://gateway.invalid:8080: "));
    CHECK(holds(got.text, address));
    CHECK(holds(got.text, each.text));
    CHECK_FALSE(holds(got.text, "secret"));
    CHECK_FALSE(holds(got.text, site.options.proxy->authorization.substr(6)));
  }
  // An end to interim answers, too.
  std::string interim;
  while (interim.size() < 80'000) interim += "HTTP/1.1 100 Continue\r\n\r\n";
  site.proxy.set_mode(Mode::answer);
  site.proxy.set_answer(interim);
  CHECK(holds(site.ask().text, "too large"));

  SECTION("without credentials, 407 says so") {
    site.options.proxy = parse_proxy(site.proxy.url(), "HTTPS_PROXY");
    site.proxy.set_mode(Mode::tunnel);
    site.proxy.require("Basic x");
    const auto got = site.ask();
    CHECK(got.kind == Kind::proxy_refused);
    CHECK(holds(got.text, "none in HTTPS_PROXY: HTTP status 407"));
  }
  SECTION("one that does not answer") {
    site.proxy.set_mode(Mode::stall);
    site.options.connect_timeout = 100ms;
    const auto got = site.ask();
    CHECK(got.kind == Kind::timeout);
    CHECK(holds(got.text, address));
  }
  SECTION("one that is not there") {
    Endpoint nowhere = parse_base_url("http://127.0.0.1:1");
    site.options.proxy->address = nowhere;
    auto got = site.ask();
    CHECK(got.kind == Kind::connect);
    CHECK(holds(got.text, "connecting to the proxy http://127.0.0.1:1"));
    site.options.proxy->address.host = "proxy.invalid";
    got = site.ask();
    CHECK(holds(got.text, "the name of the proxy http://proxy.invalid:1"));
  }
  SECTION("one that opens a tunnel to nobody") {
    site.endpoint.scheme = Endpoint::Scheme::https;
    site.proxy.set_mode(Mode::answer);
    site.proxy.set_answer("HTTP/1.1 200 OK\r\n\r\n");
    const auto got = site.ask();
    CHECK(got.kind == Kind::closed);
    CHECK(holds(got.text, "within the TLS handshake"));
  }
}

TEST_CASE("a request that is cancelled while the proxy is asked gives its connection up", "[NW-3]") {
  ProxiedSite site;
  site.proxy.set_mode(Mode::stall);
  HttpClient http(asio::make_strand(site.context), site.endpoint, site.options);
  Gotten outcome;
  bool done = false;
  asio::cancellation_signal cancel;
  auto one = [&]() -> asio::awaitable<void> { co_await get(http, "/", outcome); };
  asio::co_spawn(site.context, one(), asio::bind_cancellation_slot(cancel.slot(), [&](std::exception_ptr) { done = true; }));
  auto body = [&]() -> asio::awaitable<void> {
    asio::steady_timer turn(site.context);
    while (!done || site.proxy.open() != 0) {
      turn.expires_after(1ms);
      co_await turn.async_wait(asio::use_awaitable);
      if (!site.proxy.requests().empty()) cancel.emit(asio::cancellation_type::terminal);
    }
  };
  run(site.context, body);
  CHECK(outcome.cancelled);
  CHECK(site.proxy.connections() == 1);
}
