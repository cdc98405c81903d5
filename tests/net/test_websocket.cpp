#include "net_support.hpp"
#include "support/certs.hpp"

#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/error.hpp>
#include <boost/beast/websocket/error.hpp>

#include <openssl/evp.h>

using namespace cwsandbox::net;
using namespace cwsandbox::net::test;

namespace {

constexpr auto kHandshake =
    "GET /v1/exec HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

template <typename... Values>
std::string bytes(Values... values) {
  return {static_cast<char>(values)...};
}

std::string pattern(std::size_t n) {
  std::string out(n, '\0');
  for (std::size_t i = 0; i < n; ++i) out[i] = static_cast<char>((i * 131 + i / 251) & 0xFF);
  return out;
}

// What the server of RFC 6455, section 4.2.2, answers to this key.
std::string accept_of(const std::string& request) {
  const std::string name = "Sec-WebSocket-Key: ";
  const auto at = request.find(name) + name.size();
  const auto text = request.substr(at, request.find("\r\n", at) - at) + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int n = 0;
  EVP_Digest(text.data(), text.size(), digest, &n, EVP_sha1(), nullptr);
  unsigned char out[64];
  const int length = EVP_EncodeBlock(out, digest, static_cast<int>(n));
  return {out, out + length};
}

std::string switching(const std::string& request, const std::string& more = {}) {
  return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
         accept_of(request) + "\r\n" + more + "\r\n";
}

asio::awaitable<std::unique_ptr<WebSocket>> open(asio::io_context& context, HttpClient& client, std::string subprotocol = {},
                                                 WebSocket::Limits limits = {4 * 1024 * 1024, 30s}) {
  asio::any_io_executor executor = context.get_executor();
  Headers headers;
  co_return co_await client.upgrade(executor, "/v1/exec", headers, std::move(subprotocol), limits, soon());
}

// The server's end of a connection, with the client's: for tests that want both in hand.
struct Pair {
  explicit Pair(WebSocket::Limits server_limits = {4 * 1024 * 1024, 30s},
                WebSocket::Limits client_limits = {4 * 1024 * 1024, 30s}) {
    site.hooks.limits = server_limits;
    site.hooks.opened = [this](std::unique_ptr<WebSocket> socket) { server = std::move(socket); };
    HttpClient http(site.context.get_executor(), endpoint_of(site.address), {});
    auto body = [&]() -> asio::awaitable<void> { client = co_await open(site.context, http, {}, client_limits); };
    run(site.context, body);
    while (!server) site.context.run_one();
  }
  ~Pair() {
    client.reset();
    server.reset();
    settle(site.context);
  }
  Site site;
  std::unique_ptr<WebSocket> client, server;
};

void echo_sizes(asio::io_context& context, HttpClient& http) {
  auto body = [&]() -> asio::awaitable<void> {
    auto socket = co_await open(context, http, "a.test");
    CHECK(socket->subprotocol() == "a.test");
    IncomingMessage message;
    for (const std::size_t size :
         {0UL, 1UL, 2UL, 125UL, 126UL, 4096UL, 4097UL, 65535UL, 65536UL, 65537UL, 1024UL * 1024, 1UL, 3UL}) {
      const auto sent = pattern(size);
      const auto view = std::string_view(sent);
      INFO(size);
      const std::size_t first = std::min<std::size_t>(1, size);
      const auto got0 = co_await write(*socket, view.substr(0, first), view.substr(first));
      CHECK_FALSE(got0);
      const auto got1 = co_await read(*socket, message);
      CHECK_FALSE(got1);
      CHECK(message.empty() == (size == 0));
      CHECK_FALSE(message.is_text());
      if (size == 0) continue;
      CHECK(message.channel() == static_cast<std::uint8_t>(sent[0]));
      CHECK(message.payload() == view.substr(1));
      CHECK(message.take() == view.substr(1));
    }
    const auto got2 = co_await close(*socket, 1000, "done");
    CHECK_FALSE(got2);
    CHECK(socket->close_code() == 1000);
  };
  run(context, body);
}

}  // namespace

TEST_CASE("messages of every size come back, over TCP, a Unix socket and TLS") {
  Site site;
  TemporaryFolder folder;
  SECTION("TCP") {
    HttpClient http(site.context.get_executor(), endpoint_of(site.address), {});
    echo_sizes(site.context, http);
  }
  SECTION("Unix socket") {
    const auto address = site.server.listen(unix_socket(folder / "s"));
    HttpClient http(site.context.get_executor(), endpoint_of(address), {});
    echo_sizes(site.context, http);
  }
  SECTION("TLS") {
    const cwsandbox::test::Authority authority;
    authority.write_certificate(folder / "ca.pem");
    authority.issue(folder / "server.pem", "IP:127.0.0.1");
    TlsServerOptions tls;
    tls.certificate_file = folder / "server.pem";
    tls.key_file = folder / "server.pem";
    const auto address = site.server.listen(any_tcp_port(), tls);
    HttpClientOptions options;
    options.tls.ca_file = folder / "ca.pem";
    HttpClient http(site.context.get_executor(), endpoint_of(address, true), options);
    echo_sizes(site.context, http);
  }
  settle(site.context);
  CHECK(site.server.connections() == 0);
}

TEST_CASE("a large message is moved out, a small one copied and its storage kept") {
  Pair pair;
  auto body = [&]() -> asio::awaitable<void> {
    IncomingMessage message;
    const auto large = pattern(65537);
    const auto got3 = co_await write(*pair.client, {}, large);
    CHECK_FALSE(got3);
    const auto got4 = co_await read(*pair.server, message);
    CHECK_FALSE(got4);
    const char* where = message.payload().data();
    auto taken = message.take();
    CHECK(taken.data() == where);
    CHECK(taken == large.substr(1));
    CHECK(message.payload().empty());

    const auto got5 = co_await write(*pair.client, "a", "small");
    CHECK_FALSE(got5);
    const auto got6 = co_await read(*pair.server, message);
    CHECK_FALSE(got6);
    where = message.payload().data();
    taken = message.take();
    CHECK(taken == "small");
    CHECK(taken.data() != where);
    const auto got7 = co_await write(*pair.client, "b", "other");
    CHECK_FALSE(got7);
    const auto got8 = co_await read(*pair.server, message);
    CHECK_FALSE(got8);
    CHECK(message.payload() == "other");
    CHECK(message.payload().data() == where);
  };
  run(pair.site.context, body);
}

TEST_CASE("storage of a connection that has become quiet is given back") {
  Pair pair;
  auto body = [&]() -> asio::awaitable<void> {
    IncomingMessage message;
    const auto large = pattern(1024 * 1024);
    const auto got9 = co_await write(*pair.client, {}, large);
    CHECK_FALSE(got9);
    const auto got10 = co_await read(*pair.server, message);
    CHECK_FALSE(got10);
    for (int i = 0; i < 32; ++i) {
      const auto got11 = co_await write(*pair.client, "a", "small");
      CHECK_FALSE(got11);
      const auto got12 = co_await read(*pair.server, message);
      CHECK_FALSE(got12);
    }
    // A message that fills half of a small storage is moved out; of a large one it would be copied.
    const auto medium = pattern(3001);
    const auto got13 = co_await write(*pair.client, {}, medium);
    CHECK_FALSE(got13);
    const auto got14 = co_await read(*pair.server, message);
    CHECK_FALSE(got14);
    const char* where = message.payload().data();
    CHECK(message.take().data() == where);
  };
  run(pair.site.context, body);
}

TEST_CASE("frames of RFC 6455, section 5.7, one byte at a time") {
  Site site;
  std::unique_ptr<WebSocket> server;
  site.hooks.opened = [&](std::unique_ptr<WebSocket> socket) { server = std::move(socket); };
  auto body = [&]() -> asio::awaitable<void> {
    Raw raw = co_await Raw::connect(site.context, site.address);
    co_await raw.drip(kHandshake);
    const auto answer = co_await raw.read_until("\r\n\r\n");
    CHECK(answer.find("101") != std::string::npos);
    CHECK(answer.find("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") != std::string::npos);
    REQUIRE(server);
    IncomingMessage message;

    // A masked text "Hello".
    co_await raw.drip(bytes(0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58));
    const auto got15 = co_await read(*server, message);
    CHECK_FALSE(got15);
    CHECK(message.is_text());
    CHECK(message.channel() == 'H');
    CHECK(message.payload() == "ello");

    // The same as binary, in two fragments with a ping and an empty fragment between them. A mask of zeros changes nothing.
    co_await raw.drip(bytes(0x02, 0x83, 0, 0, 0, 0, 'H', 'e', 'l'));
    co_await raw.drip(bytes(0x89, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58));
    co_await raw.drip(bytes(0x00, 0x80, 1, 2, 3, 4));
    co_await raw.drip(bytes(0x80, 0x82, 0, 0, 0, 0, 'l', 'o'));
    const auto got16 = co_await read(*server, message);
    CHECK_FALSE(got16);
    CHECK_FALSE(message.is_text());
    CHECK(message.channel() == 'H');
    CHECK(message.payload() == "ello");
    const auto got17 = co_await raw.read_exactly(7);
    CHECK(got17 == bytes(0x8a, 0x05, 'H', 'e', 'l', 'l', 'o'));

    // 256 bytes and 64 KiB, with the longer lengths.
    const auto middle = pattern(256), large = pattern(65536);
    co_await raw.drip(bytes(0x82, 0xfe, 0x01, 0x00, 0, 0, 0, 0) + middle);
    const auto got18 = co_await read(*server, message);
    CHECK_FALSE(got18);
    CHECK(message.payload() == std::string_view(middle).substr(1));
    co_await raw.send(bytes(0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + large);
    const auto got19 = co_await read(*server, message);
    CHECK_FALSE(got19);
    CHECK(message.payload() == std::string_view(large).substr(1));

    // Ours are single and unmasked.
    const auto got20 = co_await write(*server, "x", "yz");
    CHECK_FALSE(got20);
    const auto got21 = co_await raw.read_exactly(5);
    CHECK(got21 == bytes(0x82, 0x03, 'x', 'y', 'z'));

    // An unmasked frame from a client breaks the protocol: 1002.
    co_await raw.drip(bytes(0x82, 0x01, 'x'));
    const auto got22 = co_await read(*server, message);
    CHECK(got22);
    const auto got23 = co_await raw.read_exactly(4);
    CHECK(got23 == bytes(0x88, 0x02, 0x03, 0xea));
  };
  run(site.context, body);
  server.reset();
  settle(site.context);
}

TEST_CASE("a text message can be refused with 1003") {
  Site site;
  auto body = [&]() -> asio::awaitable<void> {
    Raw raw = co_await Raw::connect(site.context, site.address);
    co_await raw.send(kHandshake);
    co_await raw.read_until("\r\n\r\n");
    co_await raw.send(bytes(0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58));
    const auto frame = co_await raw.read_exactly(4);
    CHECK(frame.substr(2) == bytes(0x03, 0xeb));
  };
  run(site.context, body);
  settle(site.context);
}

TEST_CASE("an oversized message fails the read, and the peer learns why") {
  Pair pair({100 * 1000, 30s}, {4 * 1024 * 1024, 30s});
  auto body = [&]() -> asio::awaitable<void> {
    IncomingMessage message;
    const auto fits = pattern(100 * 1000), large = pattern(100 * 1000 + 1);
    const auto got24 = co_await write(*pair.client, {}, fits);
    CHECK_FALSE(got24);
    const auto got25 = co_await read(*pair.server, message);
    CHECK_FALSE(got25);
    CHECK(message.payload().size() == 100 * 1000 - 1);
    bool told = false;
    auto listen = [&]() -> asio::awaitable<void> {
      IncomingMessage nothing;
      const auto got26 = co_await read(*pair.client, nothing);
      CHECK(got26);
      told = pair.client->close_code() == 1009;
    };
    asio::co_spawn(pair.site.context, listen(), asio::detached);
    co_await write(*pair.client, {}, large);
    const auto got27 = co_await read(*pair.server, message);
    CHECK(got27 == boost::beast::websocket::error::message_too_big);
    asio::steady_timer turn(pair.site.context);
    while (!told) {
      turn.expires_after(1ms);
      co_await turn.async_wait(asio::use_awaitable);
    }
  };
  run(pair.site.context, body);
}

TEST_CASE("codes and reasons of a close arrive, whoever closes") {
  Pair pair;
  const bool server_closes = GENERATE(false, true);
  WebSocket& closer = server_closes ? *pair.server : *pair.client;
  WebSocket& other = server_closes ? *pair.client : *pair.server;
  auto body = [&]() -> asio::awaitable<void> {
    bool closed = false;
    // 122 bytes, then a character of three: it does not fit into 123 and must not be cut in two.
    const std::string reason = std::string(122, 'r') + "\xe2\x82\xac" + "more";
    auto do_close = [&]() -> asio::awaitable<void> {
      const auto got28 = co_await close(closer, 4001, reason);
      CHECK_FALSE(got28);
      closed = true;
    };
    asio::co_spawn(pair.site.context, do_close(), asio::detached);
    IncomingMessage message;
    const auto got29 = co_await read(other, message);
    CHECK(got29 == boost::beast::websocket::error::closed);
    CHECK(message.empty());
    CHECK(other.close_code() == 4001);
    CHECK(other.close_reason() == std::string(122, 'r'));
    asio::steady_timer turn(pair.site.context);
    while (!closed) {
      turn.expires_after(1ms);
      co_await turn.async_wait(asio::use_awaitable);
    }
    // Everything after it fails at once.
    const auto got30 = co_await write(other, "a", "b");
    CHECK(got30);
    const auto got31 = co_await read(other, message);
    CHECK(got31);
    const auto got32 = co_await close(other, 1000, {});
    CHECK_FALSE(got32);
  };
  run(pair.site.context, body);
}

TEST_CASE("a close frame without a code is 1005") {
  Pair pair;
  auto body = [&]() -> asio::awaitable<void> {
    auto do_close = [&]() -> asio::awaitable<void> { co_await close(*pair.client, 0, {}); };
    asio::co_spawn(pair.site.context, do_close(), asio::detached);
    IncomingMessage message;
    const auto got33 = co_await read(*pair.server, message);
    CHECK(got33 == boost::beast::websocket::error::closed);
    CHECK(pair.server->close_code() == 1005);
    asio::steady_timer turn(pair.site.context, 1ms);
    co_await turn.async_wait(asio::use_awaitable);
  };
  run(pair.site.context, body);
}

TEST_CASE("a close with a read of our own under way ends both") {
  Pair pair;
  auto body = [&]() -> asio::awaitable<void> {
    bool ended = false;
    IncomingMessage message;
    auto reading = [&]() -> asio::awaitable<void> {
      const auto got34 = co_await read(*pair.client, message);
      CHECK(got34);
      ended = true;
    };
    auto peer = [&]() -> asio::awaitable<void> {
      IncomingMessage nothing;
      while (!co_await read(*pair.server, nothing)) {
      }
    };
    asio::co_spawn(pair.site.context, reading(), asio::detached);
    asio::co_spawn(pair.site.context, peer(), asio::detached);
    const auto got35 = co_await close(*pair.client, 1000, "bye");
    CHECK_FALSE(got35);
    asio::steady_timer turn(pair.site.context);
    while (!ended) {
      turn.expires_after(1ms);
      co_await turn.async_wait(asio::use_awaitable);
    }
  };
  run(pair.site.context, body);
}

TEST_CASE("a close that the peer does not answer ends at its deadline, also behind a stuck write") {
  Site site;
  std::unique_ptr<WebSocket> server;
  site.hooks.opened = [&](std::unique_ptr<WebSocket> socket) { server = std::move(socket); };
  const bool stuck = GENERATE(false, true);
  auto body = [&]() -> asio::awaitable<void> {
    Raw raw = co_await Raw::connect(site.context, site.address);
    co_await raw.send(kHandshake);
    co_await raw.read_until("\r\n\r\n");
    REQUIRE(server);
    const auto flood = std::make_shared<std::string>(pattern(32 * 1024 * 1024));
    bool write_failed = false;
    auto writing = [&]() -> asio::awaitable<void> { write_failed = static_cast<bool>(co_await write(*server, "x", *flood)); };
    if (stuck) asio::co_spawn(site.context, writing(), asio::detached);
    const auto got36 = co_await close(*server, 1000, "bye", 50ms);
    CHECK(got36 == boost::beast::error::timeout);
    asio::steady_timer turn(site.context);
    while (stuck && !write_failed) {
      turn.expires_after(1ms);
      co_await turn.async_wait(asio::use_awaitable);
    }
  };
  run(site.context, body);
  server.reset();
  settle(site.context);
}

TEST_CASE("abort ends the read and the write under way") {
  Pair pair;
  auto body = [&]() -> asio::awaitable<void> {
    int failures = 0;
    const auto flood = std::make_shared<std::string>(pattern(32 * 1024 * 1024));
    IncomingMessage message;
    auto writing = [&]() -> asio::awaitable<void> {
      failures += co_await write(*pair.client, "x", *flood) == asio::error::operation_aborted ? 1 : 100;
    };
    auto reading = [&]() -> asio::awaitable<void> {
      failures += co_await read(*pair.client, message) == asio::error::operation_aborted ? 1 : 100;
    };
    asio::co_spawn(pair.site.context, writing(), asio::detached);
    asio::co_spawn(pair.site.context, reading(), asio::detached);
    asio::steady_timer turn(pair.site.context);
    int turns = 0;
    while (failures < 2) {
      if (++turns == 3) pair.client->abort();
      turn.expires_after(1ms);
      co_await turn.async_wait(asio::use_awaitable);
    }
    CHECK(failures == 2);
    pair.client->abort();
  };
  run(pair.site.context, body);
}

TEST_CASE("a WebSocket may be destroyed with operations under way, its message too") {
  Pair pair;
  const bool data_is_there = GENERATE(false, true);
  int completions = 0;
  auto flood = std::make_shared<std::string>(pattern(8 * 1024 * 1024));
  auto message = std::make_unique<IncomingMessage>();
  if (data_is_there) {
    auto body = [&]() -> asio::awaitable<void> {
      const auto got37 = co_await write(*pair.server, "a", "some data");
      CHECK_FALSE(got37);
    };
    run(pair.site.context, body);
  }
  pair.client->async_read(*message, [&](error_code ec) {
    CHECK((ec || data_is_there));
    ++completions;
  });
  pair.client->async_write("x", *flood, [&, flood](error_code ec) {
    CHECK(ec);
    ++completions;
  });
  settle(pair.site.context);
  pair.client.reset();
  message.reset();
  pair.site.context.restart();
  while (completions < 2) pair.site.context.run_one();
  CHECK(completions == 2);
}

TEST_CASE("a context may be destroyed with operations under way") {
  auto context = std::make_unique<asio::io_context>();
  Hooks hooks;
  IncomingMessage message;
  {
    HttpServer server(context->get_executor(), hooks, {});
    const auto address = server.listen(any_tcp_port());
    HttpClient http(context->get_executor(), endpoint_of(address), {});
    std::shared_ptr<WebSocket> client;
    auto body = [&]() -> asio::awaitable<void> { client = co_await open(*context, http); };
    run(*context, body);
    client->async_read(message, [client](error_code) {});
    settle(*context);
  }
  context.reset();
}

TEST_CASE("a silent peer is pinged, then dropped") {
  Site site;
  std::unique_ptr<WebSocket> server;
  site.hooks.limits.idle_timeout = 200ms;
  site.hooks.opened = [&](std::unique_ptr<WebSocket> socket) { server = std::move(socket); };
  auto body = [&]() -> asio::awaitable<void> {
    Raw raw = co_await Raw::connect(site.context, site.address);
    co_await raw.send(kHandshake);
    co_await raw.read_until("\r\n\r\n");
    REQUIRE(server);
    IncomingMessage message;
    const auto got38 = co_await read(*server, message);
    CHECK(got38 == boost::beast::error::timeout);
    const auto got39 = co_await raw.read_exactly(2);
    CHECK(got39 == bytes(0x89, 0x00));
  };
  run(site.context, body);
  server.reset();
  settle(site.context);
}

TEST_CASE("a peer that says nothing but answers pings is kept") {
  Site site;
  std::unique_ptr<WebSocket> server;
  site.hooks.limits.idle_timeout = 200ms;
  site.hooks.opened = [&](std::unique_ptr<WebSocket> socket) { server = std::move(socket); };
  auto body = [&]() -> asio::awaitable<void> {
    Raw raw = co_await Raw::connect(site.context, site.address);
    co_await raw.send(kHandshake);
    co_await raw.read_until("\r\n\r\n");
    REQUIRE(server);
    bool lost = false;
    IncomingMessage message;
    auto reading = [&]() -> asio::awaitable<void> {
      while (!co_await read(*server, message)) {
      }
      lost = true;
    };
    asio::co_spawn(site.context, reading(), asio::detached);
    for (int i = 0; i < 4; ++i) {
      const auto got40 = co_await raw.read_exactly(2);
      CHECK(got40 == bytes(0x89, 0x00));
      CHECK_FALSE(lost);
      co_await raw.send(bytes(0x8a, 0x80, 0, 0, 0, 0));
    }
    server->abort();
    asio::steady_timer turn(site.context);
    while (!lost) {
      turn.expires_after(1ms);
      co_await turn.async_wait(asio::use_awaitable);
    }
  };
  run(site.context, body);
  server.reset();
  settle(site.context);
}

TEST_CASE("frames that come with the handshake's answer are not lost") {
  asio::io_context context(1);
  {
    Scripted peer(context, [](Raw& raw) -> asio::awaitable<void> {
      const auto request = co_await raw.read_until("\r\n\r\n");
      co_await raw.send(switching(request) + bytes(0x82, 0x03, 1, 'h', 'i', 0x88, 0x00));
      co_await raw.read_all();
    });
    HttpClient http(context.get_executor(), peer.endpoint(), {});
    auto body = [&]() -> asio::awaitable<void> {
      auto socket = co_await open(context, http);
      IncomingMessage message;
      const auto got41 = co_await read(*socket, message);
      CHECK_FALSE(got41);
      CHECK(message.payload() == "hi");
      const auto got42 = co_await read(*socket, message);
      CHECK(got42 == boost::beast::websocket::error::closed);
    };
    run(context, body);
  }
  settle(context);
}

TEST_CASE("the subprotocol must be one that was asked for") {
  asio::io_context context(1);
  const std::string selected = GENERATE("", "Sec-WebSocket-Protocol: other\r\n", "Sec-WebSocket-Protocol: second\r\n");
  const std::string asked = GENERATE("", "first", "first, second");
  const bool fits = asked.empty() ? selected.empty() : asked != "first" && selected.find("second") != std::string::npos;
  Scripted peer(context, [&](Raw& raw) -> asio::awaitable<void> {
    const auto request = co_await raw.read_until("\r\n\r\n");
    co_await raw.send(switching(request, selected));
    co_await raw.read_all();
  });
  HttpClient http(context.get_executor(), peer.endpoint(), {});
  auto body = [&]() -> asio::awaitable<void> {
    std::optional<TransportError::Kind> kind;
    try {
      auto socket = co_await open(context, http, asked);
    } catch (const TransportError& e) {
      kind = e.kind();
    }
    INFO("asked '" << asked << "', selected '" << selected << "'");
    CHECK(kind.has_value() == !fits);
    if (kind) CHECK(*kind == TransportError::Kind::protocol);
  };
  run(context, body);
}

TEST_CASE("a refused upgrade carries the answer") {
  Site site;
  site.hooks.decide = [](const HttpRequest& request, const std::vector<std::string>& offered) {
    HttpHandler::UpgradeDecision out;
    out.refusal.emplace();
    out.refusal->status = 401;
    out.refusal->headers.emplace_back(
        "X-Why", std::string(find_header(request.headers, "authorization")) + "/" + std::to_string(offered.size()));
    out.refusal->body = pattern(70'000);
    return out;
  };
  HttpClient http(site.context.get_executor(), endpoint_of(site.address), {});
  auto body = [&]() -> asio::awaitable<void> {
    bool refused = false;
    asio::any_io_executor executor = site.context.get_executor();
    Headers headers{{"Authorization", "Bearer x"}};
    const WebSocket::Limits limits;
    try {
      auto socket = co_await http.upgrade(executor, "/", headers, "a, b", limits, soon());
    } catch (const UpgradeRefused& e) {
      refused = true;
      CHECK(e.kind() == TransportError::Kind::upgrade_refused);
      CHECK(e.response().status == 401);
      CHECK(find_header(e.response().headers, "x-why") == "Bearer x/2");
      CHECK(e.response().body == pattern(64 * 1024));
      CHECK(std::string(e.what()).find("401") != std::string::npos);
      CHECK(std::string(e.what()).find("Bearer") == std::string::npos);
    }
    CHECK(refused);
  };
  run(site.context, body);
}

TEST_CASE("upgrades that are malformed or answered by something else") {
  Site site;
  auto body = [&]() -> asio::awaitable<void> {
    const std::string good = kHandshake;
    auto changed = [&](const std::string& what, const std::string& to) {
      auto out = good;
      out.replace(out.find(what), what.size(), to);
      return out;
    };
    const std::vector<std::pair<std::string, std::string>> cases{
        {changed("Version: 13", "Version: 8"), "426"},
        {changed("dGhlIHNhbXBsZSBub25jZQ==", "short"), "400"},
        {changed("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), "400"},
        {good + "early", "400"},
        {changed("Upgrade: websocket", "Upgrade: h2c"), "200"},
    };
    for (const auto& [request, status] : cases) {
      INFO(request);
      Raw raw = co_await Raw::connect(site.context, site.address);
      co_await raw.send(request);
      const auto answer = co_await raw.read_until("\r\n\r\n");
      CHECK(answer.substr(9, 3) == status);
    }
    CHECK(site.hooks.sockets == 0);
  };
  run(site.context, body);
  settle(site.context);
}

TEST_CASE("an upgrade ends at its deadline") {
  asio::io_context context(1);
  Scripted mute(context, [](Raw& raw) -> asio::awaitable<void> { co_await raw.read_all(); });
  HttpClient http(context.get_executor(), mute.endpoint(), {});
  auto body = [&]() -> asio::awaitable<void> {
    asio::any_io_executor executor = context.get_executor();
    Headers headers;
    const WebSocket::Limits limits;
    bool timed_out = false;
    try {
      auto socket = co_await http.upgrade(executor, "/", headers, "a", limits, Clock::now() + 50ms);
    } catch (const TransportError& e) {
      timed_out = e.kind() == TransportError::Kind::timeout && e.sent();
    }
    CHECK(timed_out);
  };
  run(context, body);
  settle(context);
}
