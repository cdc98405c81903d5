// Bodies piece by piece, both ways, over every transport: framing, back-pressure, early answers, cuts, ends.
#include "net_support.hpp"
#include "support/certs.hpp"

#include <boost/asio/steady_timer.hpp>

#include <fcntl.h>

#include <cstdio>
#include <fstream>
#include <thread>

using namespace cwsandbox::net;
using namespace cwsandbox::net::test;

namespace {

constexpr std::size_t kPiece = 256 * 1024;

/// Byte `n` of every long body here: a shift or a loss anywhere is seen.
char byte_at(std::uint64_t n) { return static_cast<char>((n * 0x9E3779B97F4A7C15ULL) >> 56U); }

void fill(std::string& piece, std::uint64_t from) {
  for (std::size_t i = 0; i < piece.size(); ++i) piece[i] = byte_at(from + i);
}

bool matches(const char* data, std::size_t size, std::uint64_t from) {
  for (std::size_t i = 0; i < size; ++i)
    if (data[i] != byte_at(from + i)) return false;
  return true;
}

/// What the server does with a streamed request.
class Streams final : public HttpHandler {
 public:
  using Action = std::function<asio::awaitable<void>(ServerExchange&)>;
  Action action;
  int ended = 0;

  bool streams(const HttpRequest& request) override { return request.target != "/plain"; }
  asio::awaitable<void> stream(ServerExchange& exchange) override {
    struct Count {
      int* n;
      ~Count() { ++*n; }
    };
    const Count count{&ended};
    co_await action(exchange);
  }
  asio::awaitable<HttpResponse> handle(const HttpRequest& /*request*/) override {
    HttpResponse out;
    out.body = "plain";
    co_return out;
  }
  std::optional<HttpResponse> early_answer(const HttpRequest& /*request*/) override { return std::nullopt; }
  UpgradeDecision on_upgrade(const HttpRequest& /*request*/, const std::vector<std::string>& /*offered*/) override { return {}; }
  void on_websocket(const HttpRequest& /*request*/, std::unique_ptr<WebSocket> /*socket*/) override {}
};

enum class Kind { unix_socket, tcp, tls };

struct StreamSite {
  explicit StreamSite(Kind kind = Kind::tcp, ServerLimits limits = {}) {
    limits.max_body = 1024;  // does not apply to streams
    server = std::make_unique<HttpServer>(context.get_executor(), handler, limits);
    TlsServerOptions tls;
    if (kind == Kind::tls) {
      tls.certificate_file = folder / "server.pem";
      cwsandbox::test::Authority().issue(tls.certificate_file, "IP:127.0.0.1");
    }
    address = server->listen(kind == Kind::unix_socket ? unix_socket(folder / "s") : any_tcp_port(), tls);
    HttpClientOptions options;
    options.tls.verify = false;
    client = std::make_unique<HttpClient>(context.get_executor(), endpoint_of(address, kind == Kind::tls), options);
  }

  asio::awaitable<std::unique_ptr<ClientExchange>> open(std::string method, std::optional<std::uint64_t> length,
                                                        bool expect = false, Clock::duration idle = 30s) {
    HttpRequest request;
    request.method = std::move(method);
    request.target = "/stream";
    co_return co_await client->open(std::move(request), length, expect, soon(), idle);
  }

  TemporaryFolder folder;
  asio::io_context context{1};
  Streams handler;
  std::unique_ptr<HttpServer> server;
  std::unique_ptr<HttpClient> client;
  ListenAddress address;
};

/// Reads the request and counts; answers with the count and whether it was what it should be.
asio::awaitable<void> count_body(ServerExchange& exchange) {
  std::string piece(kPiece, '\0');
  std::uint64_t total = 0;
  bool right = true;
  for (;;) {
    const auto into = asio::buffer(piece);
    const std::size_t n = co_await exchange.read(into);
    if (n == 0) break;
    right = right && matches(piece.data(), n, total);
    total += n;
  }
  HttpResponse head;
  head.body = (right ? "right " : "wrong ") + std::to_string(total);
  const std::size_t size = head.body.size();
  co_await exchange.start(std::move(head), size);
  co_await exchange.finish();
}

asio::awaitable<bool> send_body(ClientExchange& exchange, std::uint64_t total, std::size_t size) {
  std::string piece;
  for (std::uint64_t sent = 0; sent < total; sent += piece.size()) {
    piece.resize(static_cast<std::size_t>(std::min<std::uint64_t>(size, total - sent)));
    fill(piece, sent);
    const auto from = asio::buffer(piece);
    if (!co_await exchange.write(from)) co_return false;
  }
  co_return true;
}

/// Bytes that came, all as they should be; -1 when they were not.
asio::awaitable<std::int64_t> receive_body(ClientExchange& exchange, std::size_t size) {
  std::string piece(size, '\0');
  std::uint64_t total = 0;
  for (;;) {
    const auto into = asio::buffer(piece);
    const std::size_t n = co_await exchange.read(into);
    if (n == 0) co_return static_cast<std::int64_t>(total);
    if (!matches(piece.data(), n, total)) co_return -1;
    total += n;
  }
}

Streams::Action produce(std::uint64_t total, bool announced, std::size_t size) {
  return [=](ServerExchange& exchange) -> asio::awaitable<void> {
    HttpResponse head;
    std::optional<std::uint64_t> length;
    if (announced) length = total;
    co_await exchange.start(std::move(head), length);
    std::string piece;
    for (std::uint64_t sent = 0; sent < total; sent += piece.size()) {
      piece.resize(static_cast<std::size_t>(std::min<std::uint64_t>(size, total - sent)));
      fill(piece, sent);
      const auto from = asio::buffer(piece);
      co_await exchange.write(from);
    }
    co_await exchange.finish();
  };
}

/// The kind of TransportError that an operation fails with.
template <typename Operation>
asio::awaitable<std::string> failure(Operation operation) {
  try {
    co_await operation();
  } catch (const TransportError& e) {
    if (e.kind() == TransportError::Kind::closed) co_return "closed";
    if (e.kind() == TransportError::Kind::timeout) co_return "timeout";
    if (e.kind() == TransportError::Kind::protocol) co_return "protocol";
    co_return "other";
  } catch (const boost::system::system_error& e) {
    co_return e.code() == asio::error::operation_aborted ? "aborted" : "system";
  }
  co_return "none";
}

asio::awaitable<void> until(asio::io_context& context, std::function<bool()> what) {
  asio::steady_timer turn(context);
  const auto limit = soon();
  while (!what() && Clock::now() < limit) {
    turn.expires_after(1ms);
    co_await turn.async_wait(asio::use_awaitable);
  }
}

}  // namespace

TEST_CASE("long bodies go both ways, of known length and in chunks, and their connection is used again", "[FI-3]") {
  const Kind kind = GENERATE(Kind::unix_socket, Kind::tcp, Kind::tls);
  const bool announced = GENERATE(true, false);
  const std::uint64_t total = 6'000'001;
  StreamSite site(kind);
  auto body = [&]() -> asio::awaitable<void> {
    for (const std::size_t size : {std::size_t{1000}, kPiece}) {
      const std::uint64_t sent = size == 1000 ? 100'001 : total;
      std::optional<std::uint64_t> length;
      if (announced) length = sent;
      site.handler.action = count_body;
      auto up = co_await site.open("PUT", length, size == kPiece);
      const bool whole = co_await send_body(*up, sent, size);
      CHECK(whole);
      const auto answer = co_await up->head();
      CHECK(answer.status == 200);
      const auto text = co_await up->read_rest(1000);
      CHECK(text == "right " + std::to_string(sent));
      up.reset();

      site.handler.action = produce(sent, announced, size);
      auto down = co_await site.open("GET", 0);
      (void)co_await down->head();
      CHECK(down->content_length() == length);
      const auto got = co_await receive_body(*down, size == 1000 ? 777 : kPiece);
      CHECK(got == static_cast<std::int64_t>(sent));
      down.reset();
    }
    CHECK(site.server->connections() == 1);
  };
  run(site.context, body);
}

TEST_CASE("a file goes out of the kernel or by copies, and ends where it ends", "[FI-3]") {
  const Kind kind = GENERATE(Kind::unix_socket, Kind::tcp, Kind::tls);
  const bool announced = GENERATE(true, false);
  StreamSite site(kind);
  const std::string path = site.folder / "file";
  const std::uint64_t total = 5'000'003;
  {
    std::string content(total, '\0');
    fill(content, 0);
    std::ofstream(path, std::ios::binary) << content;
  }
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  REQUIRE(fd >= 0);
  auto body = [&]() -> asio::awaitable<void> {
    std::optional<std::uint64_t> length;
    if (announced) length = total;
    site.handler.action = count_body;
    auto up = co_await site.open("PUT", length);
    const auto sent = co_await up->write_file(fd, 0, total);
    CHECK(sent == total);
    (void)co_await up->head();
    const auto text = co_await up->read_rest(1000);
    CHECK(text == "right " + std::to_string(total));

    std::uint64_t moved = 0;
    site.handler.action = [&](ServerExchange& exchange) -> asio::awaitable<void> {
      HttpResponse head;
      co_await exchange.start(std::move(head), length);
      moved = co_await exchange.write_file(fd, 0, total);
      co_await exchange.finish();
    };
    auto down = co_await site.open("GET", 0);
    (void)co_await down->head();
    const auto got = co_await receive_body(*down, kPiece);
    CHECK(got == static_cast<std::int64_t>(total));
    CHECK(moved == total);

    // The file is shorter than announced: a cut.
    site.handler.action = [&](ServerExchange& exchange) -> asio::awaitable<void> {
      HttpResponse head;
      co_await exchange.start(std::move(head), total + 10);
      moved = co_await exchange.write_file(fd, 0, total + 10);
      co_await exchange.finish();
    };
    auto cut = co_await site.open("GET", 0);
    (void)co_await cut->head();
    const auto why = co_await failure([&]() -> asio::awaitable<void> { (void)co_await receive_body(*cut, kPiece); });
    CHECK(why == "closed");
    CHECK(moved == total);
  };
  run(site.context, body);
  ::close(fd);
}

TEST_CASE("an answer that is cut is an error, whatever its framing", "[FI-4]") {
  const Kind kind = GENERATE(Kind::unix_socket, Kind::tcp, Kind::tls);
  const bool announced = GENERATE(true, false);
  const bool throws = GENERATE(true, false);
  StreamSite site(kind);
  auto body = [&]() -> asio::awaitable<void> {
    site.handler.action = [&](ServerExchange& exchange) -> asio::awaitable<void> {
      HttpResponse head;
      head.body = "first";
      std::optional<std::uint64_t> length;
      if (announced) length = 100;
      co_await exchange.start(std::move(head), length);
      if (throws) throw std::runtime_error("secret");
    };
    auto down = co_await site.open("GET", 0);
    (void)co_await down->head();
    const auto why = co_await failure([&]() -> asio::awaitable<void> { (void)co_await down->read_rest(1000); });
    CHECK(why == "closed");
  };
  run(site.context, body);
}

TEST_CASE("an exception before the answer is a 500 without its text") {
  StreamSite site;
  auto body = [&]() -> asio::awaitable<void> {
    site.handler.action = [](ServerExchange&) -> asio::awaitable<void> {
      throw std::runtime_error("secret");
      co_return;
    };
    auto down = co_await site.open("GET", 0);
    const auto head = co_await down->head();
    CHECK(head.status == 500);
    const auto text = co_await down->read_rest(1000);
    CHECK(text.find("internal") != std::string::npos);
    CHECK(text.find("secret") == std::string::npos);
  };
  run(site.context, body);
}

TEST_CASE("a server that answers early ends the upload") {
  const Kind kind = GENERATE(Kind::unix_socket, Kind::tcp, Kind::tls);
  const bool announced = GENERATE(true, false);
  const bool expect = GENERATE(true, false);
  StreamSite site(kind);
  auto body = [&]() -> asio::awaitable<void> {
    site.handler.action = [](ServerExchange& exchange) -> asio::awaitable<void> {
      HttpResponse head;
      head.status = 403;
      head.body = "no";
      co_await exchange.start(std::move(head), 2);
      co_await exchange.finish();
    };
    const std::uint64_t total = 1ULL << 40U;  // would never end
    std::optional<std::uint64_t> length;
    if (announced) length = total;
    auto up = co_await site.open("PUT", length, expect);
    const bool whole = co_await send_body(*up, total, kPiece);
    CHECK_FALSE(whole);
    const auto head = co_await up->head();
    CHECK(head.status == 403);
    const auto text = co_await up->read_rest(1000);
    CHECK(text == "no");
    up.reset();
    // The next one is not disturbed.
    site.handler.action = produce(10, true, 10);
    auto down = co_await site.open("GET", 0);
    (void)co_await down->head();
    const auto got = co_await receive_body(*down, 100);
    CHECK(got == 10);
  };
  run(site.context, body);
}

TEST_CASE("a slow reader holds the writer back") {
  const Kind kind = GENERATE(Kind::unix_socket, Kind::tcp, Kind::tls);
  StreamSite site(kind);
  std::uint64_t written = 0;
  auto body = [&]() -> asio::awaitable<void> {
    const std::uint64_t total = 64 * 1024 * 1024;
    site.handler.action = [&](ServerExchange& exchange) -> asio::awaitable<void> {
      HttpResponse head;
      co_await exchange.start(std::move(head), total);
      std::string piece(kPiece, '\0');
      for (; written < total; written += piece.size()) {
        fill(piece, written);
        const auto from = asio::buffer(piece);
        co_await exchange.write(from);
      }
      co_await exchange.finish();
    };
    auto down = co_await site.open("GET", 0);
    (void)co_await down->head();
    // Nobody reads: the writer comes to rest once the kernel's buffers are full.
    std::uint64_t before = 1;
    asio::steady_timer turn(site.context);
    while (before != written) {
      before = written;
      turn.expires_after(100ms);
      co_await turn.async_wait(asio::use_awaitable);
    }
    CHECK(written < total / 2);
    const auto got = co_await receive_body(*down, kPiece);
    CHECK(got == static_cast<std::int64_t>(total));
  };
  run(site.context, body);
}

TEST_CASE("an exchange is aborted from another thread, and its server sees that the client has gone") {
  const Kind kind = GENERATE(Kind::unix_socket, Kind::tcp, Kind::tls);
  StreamSite site(kind);
  bool gone = false;
  auto body = [&]() -> asio::awaitable<void> {
    site.handler.action = [&](ServerExchange& exchange) -> asio::awaitable<void> {
      HttpResponse head;
      co_await exchange.start(std::move(head), std::nullopt);
      CHECK_FALSE(exchange.client_gone());
      co_await until(site.context, [&] { return exchange.client_gone(); });
      gone = exchange.client_gone();
    };
    auto down = co_await site.open("GET", 0);
    (void)co_await down->head();
    std::thread other([&] { down->abort(); });
    const auto why = co_await failure([&]() -> asio::awaitable<void> { (void)co_await down->read_rest(10); });
    other.join();
    CHECK(why == "aborted");
    co_await until(site.context, [&] { return gone; });
    CHECK(gone);
  };
  run(site.context, body);
}

TEST_CASE("an operation without progress fails at its deadline") {
  StreamSite site;
  auto body = [&]() -> asio::awaitable<void> {
    bool leave = false;
    site.handler.action = [&](ServerExchange& exchange) -> asio::awaitable<void> {
      HttpResponse head;
      co_await exchange.start(std::move(head), 10);
      co_await until(site.context, [&] { return leave; });
    };
    auto down = co_await site.open("GET", 0, false, 50ms);
    (void)co_await down->head();
    const auto why = co_await failure([&]() -> asio::awaitable<void> { (void)co_await down->read_rest(10); });
    CHECK(why == "timeout");
    leave = true;
  };
  run(site.context, body);
}

TEST_CASE("a request's body that is late or malformed is answered") {
  ServerLimits limits;
  limits.body_timeout = 100ms;
  StreamSite site(Kind::tcp, limits);
  site.handler.action = count_body;
  auto body = [&]() -> asio::awaitable<void> {
    const std::vector<std::pair<std::string, std::string>> bad{
        {"Content-Length: 10\r\n\r\nabc", "HTTP/1.1 408"},
        {"Transfer-Encoding: chunked\r\n\r\n3\r\nabc", "HTTP/1.1 408"},
        {"Transfer-Encoding: chunked\r\n\r\nx\r\n", "HTTP/1.1 400"},
        {"Transfer-Encoding: chunked\r\n\r\n3\nabc", "HTTP/1.1 400"},
        {"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", "HTTP/1.1 400"},
        {"Transfer-Encoding: chunked\r\n\r\n11112222333344445\r\n", "HTTP/1.1 400"},
        {"Transfer-Encoding: chunked\r\n\r\n\r\n", "HTTP/1.1 400"},
    };
    for (const auto& [bytes, status] : bad) {
      INFO(bytes);
      Raw raw = co_await Raw::connect(site.context, site.address);
      co_await raw.send("PUT / HTTP/1.1\r\nHost: x\r\n" + bytes);
      const auto answer = co_await raw.read_all();
      CHECK(answer.find(status) == 0);
    }
    // In pieces, with what a chunk may carry along.
    Raw raw = co_await Raw::connect(site.context, site.address);
    co_await raw.drip(
        "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3;a=\"b\"\r\nabc\r\n0\r\nX: "
        "y\r\n\r\n");
    const auto answer = co_await raw.read_all();
    CHECK(answer.find("wrong 3") != std::string::npos);
  };
  run(site.context, body);
}

TEST_CASE("stopping and destroying a server ends its streams") {
  const bool destroy = GENERATE(true, false);
  StreamSite site;
  auto body = [&]() -> asio::awaitable<void> {
    site.handler.action = [](ServerExchange& exchange) -> asio::awaitable<void> {
      char byte = 0;
      const auto into = asio::buffer(&byte, 1);
      for (;;) (void)co_await exchange.read(into);
    };
    auto up = co_await site.open("PUT", 100);
    const std::string some = "x";
    const auto from = asio::buffer(some);
    (void)co_await up->write(from);
    if (destroy) {
      site.server.reset();
    } else {
      co_await site.server->stop(10ms);
    }
    const auto why = co_await failure([&]() -> asio::awaitable<void> {
      for (;;) (void)co_await up->write(from);
    });
    CHECK((why == "closed" || why == "system"));
    co_await until(site.context, [&] { return site.handler.ended == 1; });
    CHECK(site.handler.ended == 1);
  };
  run(site.context, body);
}
