#include "net/tls.hpp"
#include "net_support.hpp"
#include "support/certs.hpp"

#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>

#include <fstream>
#include <iterator>

using namespace cwsandbox::net;
using namespace cwsandbox::net::test;

namespace {

struct TlsSite : Site {
  explicit TlsSite(const std::string& names, long from = -60, long until = 3600, ServerLimits limits = {}, bool client_ca = false)
      : Site(limits) {
    authority.write_certificate(folder / "ca.pem");
    authority.issue(folder / "server.pem", names, from, until);
    tls.certificate_file = folder / "server.pem";
    tls.key_file = folder / "server.pem";
    if (client_ca) {
      users.write_certificate(folder / "users.pem");
      tls.client_ca_file = folder / "users.pem";
    }
    secure = server.listen(any_tcp_port(), tls);
  }
  // Empty: an answer came. Else the error's text.
  std::string ask(const HttpClientOptions& options, const std::string& host = "127.0.0.1", std::size_t size = 5) {
    Endpoint endpoint = endpoint_of(secure, true);
    endpoint.host = host;
    HttpClient http(context.get_executor(), endpoint, options);
    std::string text;
    auto body = [&]() -> asio::awaitable<void> {
      for (int i = 0; i < 2 && text.empty(); ++i) {
        HttpRequest request;
        request.target = "/";
        request.body.assign(size, 'x');
        try {
          const auto response = co_await http.request(std::move(request), soon());
          CHECK(response.body.size() == size);
        } catch (const TransportError& e) {
          text = e.what();
          CHECK(e.kind() == TransportError::Kind::tls);
          CHECK((!e.sent() || holds(text, "alert")));  // a server's alert may come behind the request
        }
      }
    };
    run(context, body);
    return text;
  }
  HttpClientOptions trusting() {
    HttpClientOptions out;
    out.tls.ca_file = folder / "ca.pem";
    return out;
  }
  TemporaryFolder folder;
  cwsandbox::test::Authority authority;
  cwsandbox::test::Authority users{"users"};  // who signs what clients show
  TlsServerOptions tls;
  ListenAddress secure;
};

}  // namespace

TEST_CASE("HTTPS by name and by address, small and large") {
  TlsSite site("DNS:localhost,IP:127.0.0.1");
  CHECK(site.ask(site.trusting()).empty());
  CHECK(site.ask(site.trusting(), "localhost").empty());
  CHECK(site.ask(site.trusting(), "127.0.0.1", 3 * 1024 * 1024).empty());
  CHECK(site.server.connections() <= 3);
}

TEST_CASE("a certificate that is expired, for another host, or of an unknown authority is refused") {
  {
    TlsSite site("IP:127.0.0.1", -7200, -3600);
    CHECK(holds(site.ask(site.trusting()), "expired"));
  }
  {
    TlsSite site("DNS:other.example,IP:127.0.0.2");
    CHECK(holds(site.ask(site.trusting()), "IP address mismatch"));
    CHECK(holds(site.ask(site.trusting(), "localhost"), "hostname mismatch"));
  }
  {
    TlsSite site("IP:127.0.0.1");
    CHECK(holds(site.ask({}), "certificate"));
    const cwsandbox::test::Authority stranger("stranger");
    stranger.write_certificate(site.folder / "stranger.pem");
    HttpClientOptions options;
    options.tls.ca_file = site.folder / "stranger.pem";
    CHECK(holds(site.ask(options), "certificate is refused"));
    options.tls.verify = false;
    CHECK(site.ask(options).empty());
  }
}

TEST_CASE("a certificate that has signed itself is refused, unless it is the one that is trusted") {
  TlsSite site("IP:127.0.0.1");
  cwsandbox::test::Authority::self_signed(site.folder / "self.pem", "IP:127.0.0.1");
  TlsServerOptions tls;
  tls.certificate_file = tls.key_file = site.folder / "self.pem";
  site.secure = site.server.listen(any_tcp_port(), tls);
  CHECK(holds(site.ask(site.trusting()), "self-signed certificate"));
  CHECK(holds(site.ask({}), "self-signed certificate"));
  HttpClientOptions options;
  options.tls.ca_file = site.folder / "self.pem";
  CHECK(site.ask(options).empty());
}

TEST_CASE("a server may ask for a certificate: none, a stranger's and an expired one are refused, the right one is let in") {
  TlsSite site("IP:127.0.0.1", -60, 3600, {}, true);
  site.users.issue(site.folder / "user.pem", "DNS:user");
  site.users.issue(site.folder / "expired.pem", "DNS:user", -7200, -3600);
  site.authority.issue(site.folder / "stranger.pem", "DNS:user");
  const auto with = [&](const std::string& file) {
    HttpClientOptions options = site.trusting();
    if (!file.empty()) options.tls.certificate_file = options.tls.key_file = site.folder / file;
    return site.ask(options);
  };
  CHECK(holds(with(""), "certificate required"));
  CHECK(holds(with("stranger.pem"), "unknown ca"));
  CHECK(holds(with("expired.pem"), "certificate expired"));
  CHECK(site.hooks.requests == 0);
  CHECK(with("user.pem").empty());
  CHECK(site.hooks.requests == 2);
}

TEST_CASE("new certificates are for new connections, and broken ones change nothing") {
  TlsSite site("IP:127.0.0.1");
  auto body = [&]() -> asio::awaitable<void> {
    const auto get = [&](HttpClient& http) -> asio::awaitable<std::string> {
      HttpRequest request;
      request.target = "/";
      std::string text;
      try {
        const auto response = co_await http.request(std::move(request), soon());
      } catch (const TransportError& e) {
        text = e.what();
      }
      co_return text;
    };
    const auto options = site.trusting();
    HttpClient early(site.context.get_executor(), endpoint_of(site.secure, true), options);
    auto said = co_await get(early);
    CHECK(said.empty());

    const cwsandbox::test::Authority fresh("fresh");
    fresh.write_certificate(site.folder / "fresh-ca.pem");
    fresh.issue(site.folder / "fresh.pem", "IP:127.0.0.1");
    TlsServerOptions broken = site.tls;
    broken.certificate_file = site.folder / "missing.pem";
    CHECK_THROWS_WITH(site.server.reload(broken), Catch::Matchers::Contains("missing.pem"));
    broken.certificate_file = site.folder / "fresh.pem";  // and the key of another
    CHECK_THROWS_AS(site.server.reload(broken), std::runtime_error);
    HttpClient still(site.context.get_executor(), endpoint_of(site.secure, true), options);
    said = co_await get(still);
    CHECK(said.empty());

    TlsServerOptions tls;
    tls.certificate_file = tls.key_file = site.folder / "fresh.pem";
    site.server.reload(tls);
    said = co_await get(early);  // on the connection that it has
    CHECK(said.empty());
    HttpClient late(site.context.get_executor(), endpoint_of(site.secure, true), options);
    said = co_await get(late);
    CHECK(holds(said, "certificate is refused"));
    HttpClientOptions trusting_fresh;
    trusting_fresh.tls.ca_file = site.folder / "fresh-ca.pem";
    HttpClient knows(site.context.get_executor(), endpoint_of(site.secure, true), trusting_fresh);
    said = co_await get(knows);
    CHECK(said.empty());
  };
  run(site.context, body);
}

TEST_CASE("TLS 1.1 is refused, 1.2 and 1.3 are spoken") {
  TlsSite site("IP:127.0.0.1");
  auto body = [&]() -> asio::awaitable<void> {
    for (const int version : {TLS1_1_VERSION, TLS1_2_VERSION, TLS1_3_VERSION}) {
      asio::ssl::context context(asio::ssl::context::tls_client);
      SSL_CTX_set_security_level(context.native_handle(), 0);  // this client would speak anything
      SSL_CTX_set_min_proto_version(context.native_handle(), TLS1_VERSION);
      SSL_CTX_set_max_proto_version(context.native_handle(), version);
      asio::ssl::stream<asio::ip::tcp::socket> stream(site.context, context);
      const asio::ip::tcp::endpoint to(asio::ip::make_address(site.secure.host), site.secure.port);
      co_await stream.next_layer().async_connect(to, asio::use_awaitable);
      error_code ec;
      auto token = asio::redirect_error(asio::use_awaitable, ec);
      co_await stream.async_handshake(asio::ssl::stream_base::client, token);
      INFO(SSL_get_version(stream.native_handle()) << ": " << ec.message());
      if (version == TLS1_1_VERSION) {
        CHECK(holds(ec.message(), "protocol version"));
      } else {
        CHECK_FALSE(ec);
        CHECK(SSL_version(stream.native_handle()) == version);
      }
    }
  };
  run(site.context, body);
}

TEST_CASE("of TLS 1.2 only suites with authenticated encryption and keys that are not kept") {
  TlsSite site("IP:127.0.0.1");
  auto body = [&]() -> asio::awaitable<void> {
    const std::pair<const char*, bool> suites[] = {{"ECDHE+AESGCM", true},
                                                   {"ECDHE+CHACHA20", true},
                                                   {"ECDHE+AES:!AESGCM:!AESCCM", false},
                                                   {"kRSA+AESGCM:kRSA+AES", false},
                                                   {"3DES:ECDHE+3DES", false}};
    for (const auto& [list, spoken] : suites) {
      asio::ssl::context context(asio::ssl::context::tls_client);
      SSL_CTX_set_security_level(context.native_handle(), 0);
      SSL_CTX_set_max_proto_version(context.native_handle(), TLS1_2_VERSION);
      if (SSL_CTX_set_cipher_list(context.native_handle(), list) != 1) continue;  // not in this OpenSSL
      asio::ssl::stream<asio::ip::tcp::socket> stream(site.context, context);
      const asio::ip::tcp::endpoint to(asio::ip::make_address(site.secure.host), site.secure.port);
      co_await stream.next_layer().async_connect(to, asio::use_awaitable);
      error_code ec;
      auto token = asio::redirect_error(asio::use_awaitable, ec);
      co_await stream.async_handshake(asio::ssl::stream_base::client, token);
      INFO(list << ": " << ec.message());
      CHECK(!ec == spoken);
    }
  };
  run(site.context, body);
}

TEST_CASE("a server that does not speak TLS, or one that speaks nothing") {
  asio::io_context context(1);
  const bool speaks = GENERATE(false, true);
  Scripted peer(context, [&](Raw& raw) -> asio::awaitable<void> {
    if (speaks) co_await raw.send("HTTP/1.1 400 Bad Request\r\n\r\n");
    co_await raw.read_all();
  });
  Endpoint endpoint = peer.endpoint();
  endpoint.scheme = Endpoint::Scheme::https;
  HttpClientOptions options;
  options.connect_timeout = 100ms;
  HttpClient http(context.get_executor(), endpoint, options);
  auto body = [&]() -> asio::awaitable<void> {
    std::optional<TransportError::Kind> kind;
    HttpRequest request;
    request.target = "/";
    try {
      const auto response = co_await http.request(std::move(request), soon());
    } catch (const TransportError& e) {
      kind = e.kind();
      CHECK_FALSE(e.sent());
    }
    CHECK(kind == (speaks ? TransportError::Kind::tls : TransportError::Kind::timeout));
  };
  run(context, body);
}

TEST_CASE("a client that does not go through with the handshake is dropped") {
  ServerLimits limits;
  limits.header_timeout = 100ms;
  TlsSite site("IP:127.0.0.1", -60, 3600, limits);
  auto body = [&]() -> asio::awaitable<void> {
    Raw silent = co_await Raw::connect(site.context, site.secure);
    const auto nothing = co_await silent.read_all();
    CHECK(nothing.empty());
    Raw plain = co_await Raw::connect(site.context, site.secure);
    co_await plain.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    co_await plain.read_all();
    asio::steady_timer turn(site.context);
    while (site.server.connections() != 0) {
      turn.expires_after(1ms);
      co_await turn.async_wait(asio::use_awaitable);
    }
    CHECK(site.hooks.requests == 0);
  };
  run(site.context, body);
}

TEST_CASE("a handshake that fails ends in order, so that what the server says of it arrives") {
  TlsSite site("IP:127.0.0.1");
  error_code ec;
  std::string said;
  auto body = [&]() -> asio::awaitable<void> {
    auto raw = co_await Raw::connect(site.context, site.secure);
    // No hello that there is, and more behind it than the server reads of a handshake.
    std::string bytes("\x16\x03\x01\x00\x05hello", 10);
    bytes.append(300'000, 'x');
    co_await raw.send(std::move(bytes));
    raw.socket().shutdown(RawSocket::shutdown_send, ec);
    std::array<char, 512> part{};
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    const auto buffer = asio::buffer(part);
    while (!ec) {
      const std::size_t n = co_await raw.socket().async_read_some(buffer, token);
      said.append(part.data(), n);
    }
  };
  run(site.context, body);
  CHECK(ec == asio::error::eof);       // and not a reset, which may overtake it
  CHECK(said.substr(0, 1) == "\x15");  // an alert
}

TEST_CASE("certificates and keys as text are as good as files, and broken ones are named without their text") {
  TlsSite site("DNS:inside.example", -60, 3600, {}, true);
  site.users.issue(site.folder / "user.pem", "DNS:user");
  site.users.issue(site.folder / "other.pem", "DNS:user");
  const auto text = [&](const std::string& file) {
    std::ifstream in(site.folder / file, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  HttpClientOptions options;
  options.tls.ca = "\n" + text("ca.pem") + "# and another\n" + text("users.pem");
  options.tls.server_name = "inside.example";
  CHECK(holds(site.ask(options), "certificate required"));
  options.tls.certificate = options.tls.key = text("user.pem");
  CHECK(site.ask(options).empty());
  options.tls.server_name = "other.example";
  CHECK(holds(site.ask(options), "hostname mismatch"));
  options.tls.server_name.clear();
  CHECK(holds(site.ask(options), "IP address mismatch"));

  const auto refusal = [&](const TlsClientOptions& tls) -> std::string {
    try {
      (void)make_tls_client_context(tls);
    } catch (const std::runtime_error& e) {
      return e.what();
    }
    return "accepted";
  };
  TlsClientOptions tls;
  tls.ca = "secret";
  CHECK(holds(refusal(tls), "cannot use the CA certificate that is given as text"));
  CHECK_FALSE(holds(refusal(tls), "secret"));
  tls.ca_file = site.folder / "ca.pem";
  CHECK(holds(refusal(tls), "both as text and as a file"));
  tls = {};
  tls.certificate = "secret";
  CHECK(holds(refusal(tls), "cannot use the TLS certificate that is given as text"));
  tls.certificate = text("user.pem");
  CHECK(holds(refusal(tls), "cannot use the TLS key that is given as text"));
  tls.key = text("other.pem");
  CHECK(holds(refusal(tls), "cannot use the TLS key that is given as text: key values mismatch"));
  // Nobody is asked for its password.
  tls.key =
      "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: "
      "AES-128-CBC,00000000000000000000000000000000\n\nc2VjcmV0\n-----END RSA PRIVATE KEY-----\n";
  CHECK(holds(refusal(tls), "cannot use the TLS key"));
}

TEST_CASE("an authority that another one has signed is trusted when it is given as text") {
  TlsSite site("IP:127.0.0.1");
  // The server's own certificate, which is no authority at all: what is given is what is trusted.
  std::ifstream in(site.folder / "server.pem", std::ios::binary);
  HttpClientOptions options;
  options.tls.ca.assign(std::istreambuf_iterator<char>(in), {});
  CHECK(site.ask(options).empty());
}

TEST_CASE("files that cannot be used are named") {
  TlsSite site("IP:127.0.0.1");
  auto server_refuses = [&](const std::string& certificate, const std::string& key) {
    TlsServerOptions tls;
    tls.certificate_file = certificate;
    tls.key_file = key;
    try {
      site.server.listen(any_tcp_port(), tls);
    } catch (const std::runtime_error& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  const auto good = site.folder / "server.pem";
  site.authority.issue(site.folder / "other.pem", "IP:127.0.0.1");
  CHECK(holds(server_refuses(site.folder / "missing.pem", good), "missing.pem"));
  CHECK(holds(server_refuses(good, site.folder / "missing.pem"), "missing.pem"));
  CHECK(holds(server_refuses(good, site.folder / "other.pem"), "other.pem"));
  CHECK(holds(server_refuses("", good), "without a certificate"));
  HttpClientOptions options;
  options.tls.ca_file = site.folder / "missing.pem";
  CHECK_THROWS_AS(HttpClient(site.context.get_executor(), endpoint_of(site.secure, true), options), std::runtime_error);
}
