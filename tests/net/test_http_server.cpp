#include "net_support.hpp"

#include <boost/asio/steady_timer.hpp>

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <map>
#include <thread>

using namespace cwsandbox::net;
using namespace cwsandbox::net::test;

namespace {

const std::string kGet = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

// Sends bytes, reads until the server closes.
asio::awaitable<std::string> exchange(Site& site, std::string bytes) {
  Raw raw = co_await Raw::connect(site.context, site.address);
  co_await raw.send(std::move(bytes));
  co_return co_await raw.read_all();
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

ServerLimits short_limits() {
  ServerLimits out;
  out.header_timeout = 100ms;
  out.body_timeout = 100ms;
  out.keep_alive = 100ms;
  out.write_timeout = 100ms;
  return out;
}

asio::awaitable<void> wait_for(asio::io_context& context, std::function<bool()> what) {
  asio::steady_timer turn(context);
  while (!what()) {
    turn.expires_after(1ms);
    co_await turn.async_wait(asio::use_awaitable);
  }
}

}  // namespace

TEST_CASE("requests that are not HTTP are answered with 400 and a text") {
  Site site;
  auto body = [&]() -> asio::awaitable<void> {
    const std::vector<std::string> bad{
        "\x16\x03\x01garbage\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET x HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{}\f\n0u\r\n\r\n",  // Beast's reader asserts
                                                                                                  // otherwise
    };
    for (const auto& bytes : bad) {
      INFO(bytes);
      const auto answer = co_await exchange(site, bytes);
      CHECK(answer.find("HTTP/1.1 400") == 0);
      CHECK(answer.find("{\"code\":\"invalid_argument\",\"message\":\"") != std::string::npos);
      CHECK(answer.find("application/json") != std::string::npos);
    }
    CHECK(site.hooks.requests == 0);
    const auto good = co_await exchange(site, "GET http://x/a?b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    CHECK(good.find("X-Target: /a?b\r\n") != std::string::npos);
  };
  run(site.context, body);
}

TEST_CASE("a body whose end others could see elsewhere is refused, and what follows it is no request") {
  // Behind a proxy that takes another view of the framing, the second request would be somebody else's.
  Site site;
  auto body = [&]() -> asio::awaitable<void> {
    const std::string smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    const std::vector<std::string> framings{
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked,\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding: \x0b"
        "chunked\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: xchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
    };
    for (const auto& framing : framings) {
      INFO(framing);
      const auto answer = co_await exchange(site, "POST / HTTP/1.1\r\nHost: x\r\n" + framing + "\r\n" + smuggled);
      CHECK(answer.find("HTTP/1.1 400") == 0);
      CHECK(count(answer, "HTTP/1.1 ") == 1);
    }
    const auto old = co_await exchange(site, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + smuggled);
    CHECK(old.find("HTTP/1.1 400") == 0);
    CHECK(count(old, "HTTP/1.1 ") == 1);
    const auto fine = co_await exchange(
        site, "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\ntransfer-encoding: \t CHUNKED \r\n\r\n0\r\n\r\n");
    CHECK(fine.find("HTTP/1.1 200") == 0);
  };
  run(site.context, body);
}

TEST_CASE("pipelined requests are answered in order; bytes may come one at a time") {
  Site site;
  auto body = [&]() -> asio::awaitable<void> {
    const std::string three =
        "POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\none"
        "GET /2 HTTP/1.1\r\nHost: x\r\n\r\n"
        "POST /3 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nth\r\n3\r\nree\r\n0\r\n\r\n";
    const auto together = co_await exchange(site, three);
    Raw raw = co_await Raw::connect(site.context, site.address);
    co_await raw.drip(three);
    const auto dripped = co_await raw.read_all();
    for (const auto& answer : {together, dripped}) {
      CHECK(count(answer, "HTTP/1.1 200 OK") == 3);
      CHECK(answer.find("/1\r\n") < answer.find("/2\r\n"));
      CHECK(answer.find("/2\r\n") < answer.find("/3\r\n"));
      CHECK(answer.find("one") != std::string::npos);
      CHECK(answer.substr(answer.size() - 5) == "three");
    }
  };
  run(site.context, body);
}

TEST_CASE("HTTP/1.0 closes unless it asks not to") {
  Site site;
  auto body = [&]() -> asio::awaitable<void> {
    const auto one = co_await exchange(site, "GET / HTTP/1.0\r\n\r\n");
    CHECK(count(one, "HTTP/1.1 200") == 1);
    Raw raw = co_await Raw::connect(site.context, site.address);
    co_await raw.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    const auto kept = co_await raw.read_until("\r\n\r\n");
    CHECK(kept.find("Connection: keep-alive") != std::string::npos);
  };
  run(site.context, body);
}

TEST_CASE("limits of header and body: 431 and 413") {
  ServerLimits limits;
  limits.max_header = 1000;
  limits.max_body = 1000;
  Site site(limits);
  auto body = [&]() -> asio::awaitable<void> {
    auto answer = co_await exchange(site, "GET / HTTP/1.1\r\nHost: x\r\nX: " + std::string(2000, 'x') + "\r\n\r\n");
    CHECK(answer.find("HTTP/1.1 431") == 0);
    // A header without an end.
    answer = co_await exchange(site, "GET /" + std::string(100'000, 'x'));
    CHECK(answer.find("HTTP/1.1 431") == 0);
    answer = co_await exchange(site, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n" + std::string(1001, 'x'));
    CHECK(answer.find("HTTP/1.1 413") == 0);
    answer =
        co_await exchange(site, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" + std::string(2000, 'x'));
    CHECK(answer.find("HTTP/1.1 413") == 0);
    CHECK(answer.find("resource_exhausted") != std::string::npos);
    answer = co_await exchange(
        site, "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n" + std::string(1000, 'x'));
    CHECK(answer.find("HTTP/1.1 200") == 0);
    CHECK(site.hooks.requests == 1);
  };
  run(site.context, body);
}

TEST_CASE("slow peers: a silent one is dropped, one that is slow within its request gets 408") {
  Site site(short_limits());
  auto body = [&]() -> asio::awaitable<void> {
    auto answer = co_await exchange(site, "");
    CHECK(answer.empty());
    answer = co_await exchange(site, "GET / HTTP/1.1\r\nHost: x\r\nX-Slow");
    CHECK(answer.find("HTTP/1.1 408") == 0);
    CHECK(answer.find("deadline_exceeded") != std::string::npos);
    answer = co_await exchange(site, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nslow");
    CHECK(answer.find("HTTP/1.1 408") == 0);
    CHECK(site.hooks.requests == 0);
    // One byte now and then does not move the deadline.
    Raw raw = co_await Raw::connect(site.context, site.address);
    bool ended = false;
    auto trickle = [&]() -> asio::awaitable<void> {
      asio::steady_timer turn(site.context);
      while (!ended) {
        co_await raw.send("X");
        turn.expires_after(5ms);
        co_await turn.async_wait(asio::use_awaitable);
      }
      ended = false;
    };
    asio::co_spawn(site.context, trickle(), asio::detached);
    answer = co_await raw.read_all();
    CHECK(answer.find("HTTP/1.1 408") == 0);
    ended = true;
    co_await wait_for(site.context, [&] { return !ended; });
    // After an answer, the keep-alive time.
    answer = co_await exchange(site, kGet);
    CHECK(answer.find("HTTP/1.1 200") == 0);
    co_await wait_for(site.context, [&] { return site.server.connections() == 0; });
  };
  run(site.context, body);
}

TEST_CASE("programs that this process starts get no socket of the server's or of its connections") {
  const auto is_socket = [](int fd) {
    struct stat info{};
    return ::fstat(fd, &info) == 0 && S_ISSOCK(info.st_mode);
  };
  std::array<bool, 256> inherited{};  // from whoever runs the tests
  for (int fd = 0; fd < 256; ++fd) inherited[static_cast<std::size_t>(fd)] = is_socket(fd);
  Site site;
  auto body = [&]() -> asio::awaitable<void> {
    Raw raw = co_await Raw::connect(site.context, site.address);
    ::fcntl(raw.socket().native_handle(), F_SETFD, FD_CLOEXEC);  // the test's own
    co_await raw.send(kGet);
    const auto head = co_await raw.read_until("\r\n\r\n");
    CHECK(head.find("HTTP/1.1 200") == 0);
    std::size_t sockets = 0;
    for (int fd = 0; fd < 256; ++fd) {
      if (inherited[static_cast<std::size_t>(fd)] || !is_socket(fd)) continue;
      ++sockets;
      CHECK((::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    }
    CHECK(sockets >= 3);  // the listener, and both ends of the connection
  };
  run(site.context, body);
}

TEST_CASE("a deadline that passes while data is at hand is not lost") {
  for (const std::string& begin : {std::string("GET / HTTP/1.1\r\nHost: x\r\nX-Long: "),
                                   std::string("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")}) {
    Site site(short_limits());
    std::optional<Raw> raw;
    auto start = [&]() -> asio::awaitable<void> {
      raw.emplace(co_await Raw::connect(site.context, site.address));
      co_await raw->send(begin + "x");
    };
    run(site.context, start);
    settle(site.context);
    // The server finds both in one turn of its loop: a deadline that is over, and more than one read takes.
    std::this_thread::sleep_for(150ms);  // nobody runs the loop meanwhile
    REQUIRE(asio::write(raw->socket(), asio::buffer(std::string(10'000, 'x'))) == 10'000);
    auto rest = [&]() -> asio::awaitable<void> {
      const auto answer = co_await raw->read_all();
      CHECK(answer.find("HTTP/1.1 408") == 0);
    };
    run(site.context, rest);
  }
}

TEST_CASE("a peer that does not read its answer is dropped") {
  Site site(short_limits());
  site.hooks.on_request = [](const HttpRequest&) -> asio::awaitable<HttpResponse> {
    HttpResponse out;
    out.body.assign(64 * 1024 * 1024, 'x');
    co_return out;
  };
  auto body = [&]() -> asio::awaitable<void> {
    Raw raw = co_await Raw::connect(site.context, site.address);
    co_await raw.send(kGet);
    co_await wait_for(site.context, [&] { return site.hooks.requests == 1; });
    co_await wait_for(site.context, [&] { return site.server.connections() == 0; });
  };
  run(site.context, body);
}

TEST_CASE("Expect: 100-continue comes after the early answer had its say") {
  Site site;
  site.hooks.early = [](const HttpRequest& request) -> std::optional<HttpResponse> {
    if (request.target == "/open") return std::nullopt;
    HttpResponse out;
    out.status = 401;
    out.body = "no";
    return out;
  };
  auto body = [&]() -> asio::awaitable<void> {
    Raw raw = co_await Raw::connect(site.context, site.address);
    co_await raw.send("POST /open HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    auto answer = co_await raw.read_until("\r\n\r\n");
    CHECK(answer == "HTTP/1.1 100 Continue\r\n\r\n");
    co_await raw.send("body");
    answer = co_await raw.read_until("body");
    CHECK(answer.find("HTTP/1.1 200") == 0);
    co_await raw.send("POST /closed HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    answer = co_await raw.read_all();
    CHECK(answer.find("HTTP/1.1 401") == 0);
    CHECK(answer.find("100 Continue") == std::string::npos);
    CHECK(site.hooks.requests == 1);
  };
  run(site.context, body);
}

TEST_CASE("an early answer comes before the body, keeps the connection after a small one, and is not lost behind a large one") {
  Site site;
  site.hooks.early = [](const HttpRequest& request) -> std::optional<HttpResponse> {
    if (request.method == "GET") return std::nullopt;
    HttpResponse out;
    out.status = 404;
    out.body = "nothing";
    return out;
  };
  auto body = [&]() -> asio::awaitable<void> {
    Raw raw = co_await Raw::connect(site.context, site.address);
    co_await raw.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n");
    auto answer = co_await raw.read_until("nothing");
    CHECK(answer.find("HTTP/1.1 404") == 0);
    co_await raw.send("body" + kGet);
    answer = co_await raw.read_until("\r\n\r\n");
    CHECK(answer.find("HTTP/1.1 200") == 0);

    HttpClient http(site.context.get_executor(), endpoint_of(site.address), {});
    HttpRequest large;
    large.target = "/";
    large.body.assign(6 * 1024 * 1024, 'x');
    const auto response = co_await http.request(std::move(large), soon());
    CHECK(response.status == 404);
    CHECK(response.body == "nothing");
  };
  run(site.context, body);
}

TEST_CASE("what the owner throws becomes a 500 without its text, and a header that breaks the framing too") {
  Site site;
  site.hooks.on_request = [](const HttpRequest& request) -> asio::awaitable<HttpResponse> {
    if (request.target == "/throw") throw std::runtime_error("secret");
    HttpResponse out;
    out.headers.emplace_back("X", "secret\r\nY: 1");
    co_return out;
  };
  auto body = [&]() -> asio::awaitable<void> {
    for (const std::string target : {"/throw", "/header"}) {
      const auto answer = co_await exchange(site, "GET " + target + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
      CHECK(answer.find("HTTP/1.1 500") == 0);
      CHECK(answer.find("secret") == std::string::npos);
    }
  };
  run(site.context, body);
}

namespace {

// Clients by name, and requests to /wait that stay under way until they are let go.
struct Clients {
  explicit Clients(Site& s) : site(s), gate(s.context) {
    gate.expires_at(Clock::time_point::max());
    site.hooks.client = [this](const HttpRequest& request) -> std::shared_ptr<ClientAccount> {
      const std::string name(find_header(request.headers, "X-Client"));
      if (name.empty()) return nullptr;
      auto& account = accounts[name];
      if (!account) account = std::make_shared<ClientAccount>();
      return account;
    };
    site.hooks.on_request = [this](const HttpRequest& request) { return answer(request); };
  }
  asio::awaitable<HttpResponse> answer(HttpRequest request) {
    if (request.target == "/wait") {
      ++waiting;
      error_code ec;
      auto token = asio::redirect_error(asio::use_awaitable, ec);
      co_await gate.async_wait(token);
      --waiting;
    }
    HttpResponse out;
    out.body = std::to_string(request.body.size());
    co_return out;
  }
  static std::string request(const std::string& name, const std::string& path = "/", std::size_t body = 0) {
    return "POST " + path + " HTTP/1.1\r\nHost: x\r\nX-Client: " + name + "\r\nContent-Length: " + std::to_string(body) +
           "\r\n\r\n" + std::string(body, 'x');
  }
  // A connection whose request has been answered, or has got stuck in the handler.
  asio::awaitable<std::unique_ptr<Raw>> connect(std::string name, std::string path = "/") {
    auto raw = std::make_unique<Raw>(co_await Raw::connect(site.context, site.address));
    const int before = waiting;
    co_await raw->send(request(name, path));
    if (path == "/wait") {
      co_await wait_for(site.context, [this, before] { return waiting > before; });
    } else {
      const auto head = co_await raw->read_exactly(15);
      CHECK(head == "HTTP/1.1 200 OK");
    }
    co_return raw;
  }
  asio::awaitable<std::unique_ptr<Raw>> stranger(std::string bytes) {
    const auto before = site.server.connections();
    auto raw = std::make_unique<Raw>(co_await Raw::connect(site.context, site.address));
    co_await raw->send(std::move(bytes));
    co_await wait_for(site.context, [this, before] { return site.server.connections() > before; });
    co_return raw;
  }
  Site& site;
  asio::steady_timer gate;
  std::map<std::string, std::shared_ptr<ClientAccount>> accounts;
  int waiting = 0;
};

bool still_open(Raw& raw) {
  char byte = 0;
  const auto n = ::recv(raw.socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

}  // namespace

TEST_CASE("with too many connections strangers give way, then idle clients, the oldest first", "[P10]") {
  ServerLimits limits;
  limits.max_connections = 4;
  limits.max_client_connections = 4;
  Site site(limits);
  Clients clients(site);
  auto body = [&]() -> asio::awaitable<void> {
    auto idle = co_await clients.connect("a");
    auto silent = co_await clients.stranger("");
    auto slow = co_await clients.stranger("GET / HTTP/1.1\r\nHo");
    auto refused = co_await clients.stranger("");
    CHECK(site.server.connections() == 4);
    // The head of an answer is still in the buffer of `idle`: what shows that it is there is its seat.
    auto one = co_await clients.connect("b", "/wait");
    auto end = co_await silent->read_all();
    CHECK(end.empty());
    CHECK(still_open(*slow));
    auto two = co_await clients.connect("b", "/wait");
    end = co_await slow->read_all();
    CHECK(end.empty());
    auto three = co_await clients.connect("b", "/wait");
    end = co_await refused->read_all();
    CHECK(end.empty());
    CHECK(site.server.connections() == 4);
    CHECK(clients.accounts["a"]->connections == 1);
    auto four = co_await clients.connect("b", "/wait");
    CHECK(clients.accounts["a"]->connections == 0);
    CHECK(clients.accounts["b"]->connections == 4);
    // All are at work: nobody gives way.
    const auto answer = co_await exchange(site, kGet);
    CHECK(answer.find("HTTP/1.1 503") == 0);
    clients.gate.cancel();
    for (Raw* raw : {one.get(), two.get(), three.get(), four.get()}) {
      const auto head = co_await raw->read_exactly(15);
      CHECK(head == "HTTP/1.1 200 OK");
    }
    one.reset();
    two.reset();
    three.reset();
    four.reset();
    co_await wait_for(site.context, [&] { return site.server.connections() == 0; });
    CHECK(clients.accounts["b"]->connections == 0);
  };
  run(site.context, body);
}

TEST_CASE("one client has so many connections and no more; its own idle ones give way", "[P10]") {
  ServerLimits limits;
  limits.max_connections = 8;
  limits.max_client_connections = 2;
  Site site(limits);
  Clients clients(site);
  auto body = [&]() -> asio::awaitable<void> {
    auto one = co_await clients.connect("a", "/wait");
    auto two = co_await clients.connect("a");
    auto three = co_await clients.connect("a", "/wait");
    const auto rest = co_await two->read_all();  // it gave way
    CHECK(rest.find("HTTP/1.1") == std::string::npos);
    CHECK(clients.accounts["a"]->connections == 2);
    const auto refused = co_await exchange(site, Clients::request("a"));
    CHECK(refused.find("HTTP/1.1 429") == 0);
    CHECK(refused.find("Retry-After: 1\r\n") != std::string::npos);
    CHECK(refused.find("resource_exhausted") != std::string::npos);
    auto other = co_await clients.connect("b");
    // A connection that another client uses is that one's.
    co_await other->read_until("\r\n\r\n0");
    co_await other->send(Clients::request("c"));
    co_await other->read_until("\r\n\r\n0");
    CHECK(clients.accounts["b"]->connections == 0);
    CHECK(clients.accounts["c"]->connections == 1);
    clients.gate.cancel();
    one.reset();
    three.reset();
    co_await wait_for(site.context, [&] { return clients.accounts["a"]->connections == 0; });
    auto four = co_await clients.connect("a");
  };
  run(site.context, body);
}

TEST_CASE("headers that do not end take only so much memory, and the oldest go", "[P10]") {
  ServerLimits limits;
  limits.max_stranger_memory = 128 * 1024;
  Site site(limits);
  Clients clients(site);
  auto body = [&]() -> asio::awaitable<void> {
    std::vector<std::unique_ptr<Raw>> flood;
    const std::string half = "GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + std::string(3000, 'x');
    for (int i = 0; i < 100; ++i) {
      flood.push_back(std::make_unique<Raw>(co_await Raw::connect(site.context, site.address)));
      co_await flood.back()->send(half);
      co_await flood.back()->send(half);  // behind what is read at first
    }
    const auto end = co_await flood.front()->read_all();
    CHECK(end.empty());
    auto client = co_await clients.connect("a");
    co_await wait_for(site.context, [&] { return site.server.connections() < 60; });
    flood.clear();
    co_await wait_for(site.context, [&] { return site.server.connections() == 1; });
    auto again = co_await clients.stranger(half + half);
    CHECK(still_open(*again));
  };
  run(site.context, body);
}

TEST_CASE("the bodies of one client take only so much memory, and what was taken is given back", "[P10]") {
  ServerLimits limits;
  limits.max_client_memory = 1024 * 1024;
  Site site(limits);
  Clients clients(site);
  auto body = [&]() -> asio::awaitable<void> {
    for (int i = 0; i < 3; ++i) {
      const auto refused = co_await exchange(site, Clients::request("a", "/", 1000 * 1024));
      CHECK(refused.find("HTTP/1.1 503") == 0);
      Raw raw = co_await Raw::connect(site.context, site.address);
      co_await raw.send(Clients::request("a", "/", 600 * 1024));
      const auto answer = co_await raw.read_until("\r\n\r\n614400");
      CHECK(answer.find("HTTP/1.1 200") == 0);
    }
    // Two at once are too much together, and the one that came first is not touched.
    Raw first = co_await Raw::connect(site.context, site.address);
    co_await first.send(Clients::request("a", "/wait", 600 * 1024));
    co_await wait_for(site.context, [&] { return clients.waiting == 1; });
    CHECK(clients.accounts["a"]->memory.used() >= 600 * 1024);
    const auto second = co_await exchange(site, Clients::request("a", "/", 600 * 1024));
    CHECK(second.find("HTTP/1.1 503") == 0);
    auto other = co_await clients.connect("b");
    clients.gate.cancel();
    const auto answer = co_await first.read_until("\r\n\r\n614400");
    CHECK(answer.find("HTTP/1.1 200") == 0);
    co_await wait_for(site.context, [&] { return clients.accounts["a"]->memory.used() == 0; });
  };
  run(site.context, body);
}

TEST_CASE("messages of WebSockets that are not complete count too", "[P10]") {
  ServerLimits limits;
  limits.max_client_memory = 512 * 1024;
  Site site(limits);
  auto body = [&]() -> asio::awaitable<void> {
    asio::any_io_executor executor = site.context.get_executor();
    HttpClient http(executor, endpoint_of(site.address), {});
    const Headers headers;
    const WebSocket::Limits ws_limits;
    for (int i = 0; i < 3; ++i) {
      auto socket = co_await http.upgrade(executor, "/", headers, "", ws_limits, soon());
      const std::string large(900 * 1024, 'x'), fits(200 * 1024, 'y');
      IncomingMessage message;
      auto ec = co_await write(*socket, "m", fits);
      CHECK(!ec);
      ec = co_await read(*socket, message);
      CHECK(!ec);
      CHECK(message.payload() == fits);
      ec = co_await write(*socket, "m", large);
      if (!ec) ec = co_await read(*socket, message);
      CHECK(ec);
    }
  };
  run(site.context, body);
}

TEST_CASE("one client's unfinished messages leave the others their part", "[P10]") {
  ServerLimits limits;
  limits.max_client_memory = 1024 * 1024;
  Site site(limits);
  Clients clients(site);
  auto body = [&]() -> asio::awaitable<void> {
    // A frame of 300 KiB that lacks its last byte: masked with zeros, as RFC 6455, section 5.2 has it.
    const std::string head{'\x82', '\xff', 0, 0, 0, 0, 0, '\x04', '\xb0', 0, 0, 0, 0, 0};
    const std::string frame = head + std::string(300 * 1024 - 1, 'x');
    std::vector<std::unique_ptr<Raw>> flood;
    for (int i = 0; i < 4; ++i) {
      flood.push_back(std::make_unique<Raw>(co_await Raw::connect(site.context, site.address)));
      co_await flood.back()->send(
          "GET / HTTP/1.1\r\nHost: x\r\nX-Client: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
          "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n");
      const auto answer = co_await flood.back()->read_until("\r\n\r\n");
      REQUIRE(answer.find("HTTP/1.1 101") == 0);
      co_await flood.back()->send(frame);
    }
    // They do not fit into the part of one client, which is three quarters: at least one is at its end, and the others wait.
    co_await wait_for(site.context,
                      [&] { return !std::all_of(flood.begin(), flood.end(), [](auto& raw) { return still_open(*raw); }); });
    CHECK(clients.accounts["a"]->memory.used() > 256 * 1024);
    CHECK(clients.accounts["a"]->memory.used() <= 768 * 1024);
    Raw other = co_await Raw::connect(site.context, site.address);
    co_await other.send(Clients::request("b", "/", 240 * 1024));
    const auto answer = co_await other.read_until("\r\n\r\n245760");
    CHECK(answer.find("HTTP/1.1 200") == 0);
    flood.clear();
    co_await wait_for(site.context, [&] { return clients.accounts["a"]->memory.used() == 0; });
  };
  run(site.context, body);
}

TEST_CASE("answers that nobody reads count in their client's part", "[P10]") {
  ServerLimits limits;
  limits.max_client_memory = 64 * 1024 * 1024;
  Site site(limits);
  Clients clients(site);
  // More than the sockets between them hold.
  constexpr std::size_t kLarge = 20 * 1024 * 1024;
  site.hooks.on_request = [](const HttpRequest&) -> asio::awaitable<HttpResponse> {
    HttpResponse out;
    out.body.assign(kLarge, 'x');
    co_return out;
  };
  auto body = [&]() -> asio::awaitable<void> {
    std::vector<std::unique_ptr<Raw>> readers;
    for (int i = 0; i < 2; ++i) {
      readers.push_back(std::make_unique<Raw>(co_await Raw::connect(site.context, site.address)));
      co_await readers.back()->send(Clients::request("a"));
    }
    co_await wait_for(site.context, [&] { return clients.accounts["a"] && clients.accounts["a"]->memory.used() == 2 * kLarge; });
    Raw third = co_await Raw::connect(site.context, site.address);
    co_await third.send(Clients::request("a"));
    const auto refused = co_await third.read_until("\r\n\r\n");
    CHECK(refused.find("HTTP/1.1 429") == 0);
    Raw other = co_await Raw::connect(site.context, site.address);
    co_await other.send(Clients::request("b"));
    const auto served = co_await other.read_until("\r\n\r\n");
    CHECK(served.find("HTTP/1.1 200") == 0);
    // What was read, or whose reader has gone, is given back.
    const auto head = co_await readers[0]->read_until("\r\n\r\n");
    const auto all = co_await readers[0]->read_exactly(kLarge);
    CHECK(all.size() == kLarge);
    readers[1].reset();
    co_await wait_for(site.context, [&] { return clients.accounts["a"]->memory.used() == 0; });
  };
  run(site.context, body);
}

TEST_CASE("over the limit of connections: 503; a seat is free again when a connection ends, a WebSocket's too") {
  ServerLimits limits;
  limits.max_connections = 2;
  Site site(limits);
  Clients clients(site);
  std::unique_ptr<WebSocket> kept;
  site.hooks.opened = [&](std::unique_ptr<WebSocket> socket) { kept = std::move(socket); };
  auto body = [&]() -> asio::awaitable<void> {
    auto one = co_await clients.connect("a", "/wait");
    HttpClient http(site.context.get_executor(), endpoint_of(site.address), {});
    asio::any_io_executor executor = site.context.get_executor();
    Headers headers;
    const WebSocket::Limits ws_limits;
    auto socket = co_await http.upgrade(executor, "/", headers, "", ws_limits, soon());
    co_await wait_for(site.context, [&] { return kept != nullptr; });
    CHECK(site.server.connections() == 2);
    auto answer = co_await exchange(site, "");
    CHECK(answer.find("HTTP/1.1 503") == 0);
    CHECK(answer.find("unavailable") != std::string::npos);
    kept.reset();
    co_await wait_for(site.context, [&] { return site.server.connections() == 1; });
    clients.gate.cancel();
    one.reset();
    co_await wait_for(site.context, [&] { return site.server.connections() == 0; });
    answer = co_await exchange(site, "GET / HTTP/1.0\r\n\r\n");
    CHECK(answer.find("HTTP/1.1 200") == 0);
  };
  run(site.context, body);
}

namespace {

// No file can be opened by this process while it lives, and there is one socket that was opened before.
struct NoDescriptors {
  explicit NoDescriptors(asio::io_context& context) : spare(context) {
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
    spare.open(asio::ip::tcp::v4());
    rlimit none = before;
    none.rlim_cur = static_cast<rlim_t>(spare.native_handle()) + 1;
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &none) == 0);
  }
  ~NoDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before); }
  NoDescriptors(const NoDescriptors&) = delete;
  NoDescriptors& operator=(const NoDescriptors&) = delete;
  // Comes in all the same: its descriptor is ours, the server's is missing.
  asio::awaitable<Raw> connect(ListenAddress to) {
    const asio::generic::stream_protocol::endpoint at = asio::ip::tcp::endpoint(asio::ip::make_address(to.host), to.port);
    co_await spare.async_connect(at, asio::use_awaitable);
    co_return Raw(std::move(spare));
  }
  rlimit before{};
  RawSocket spare;
};

}  // namespace

TEST_CASE("out of descriptors, the server rests and then goes on") {
  Site site;
  Clients clients(site);
  auto body = [&]() -> asio::awaitable<void> {
    auto waiting = co_await clients.connect("a", "/wait");  // at work, so it does not give way
    auto none = std::make_unique<NoDescriptors>(site.context);
    auto late = co_await none->connect(site.address);
    co_await late.send(kGet);
    asio::steady_timer turn(site.context, 1ms);
    co_await turn.async_wait(asio::use_awaitable);
    CHECK(site.server.connections() == 1);
    none.reset();
    const auto answer = co_await late.read_until("\r\n\r\n");
    CHECK(answer.find("HTTP/1.1 200") == 0);
  };
  run(site.context, body);
}

TEST_CASE("out of descriptors for long, the server tells those who wait") {
  Site site;
  Clients clients(site);
  auto body = [&]() -> asio::awaitable<void> {
    auto waiting = co_await clients.connect("a", "/wait");
    auto none = std::make_unique<NoDescriptors>(site.context);
    auto late = co_await none->connect(site.address);
    co_await late.send(kGet);
    auto answer = co_await late.read_all();
    CHECK(answer.find("HTTP/1.1 503") == 0);
    CHECK(answer.find("as many files are open here as this gateway may have") != std::string::npos);
    CHECK(site.server.connections() == 1);
    none.reset();
    answer = co_await exchange(site, "GET / HTTP/1.0\r\n\r\n");
    CHECK(answer.find("HTTP/1.1 200") == 0);
  };
  run(site.context, body);
}

TEST_CASE("Unix sockets: mode, a stale one is replaced, a live one or a file is not, unlinked at the end") {
  asio::io_context context(1);
  Hooks hooks;
  TemporaryFolder folder;
  const auto path = folder / "server.sock";
  struct stat info{};
  {
    HttpServer server(context.get_executor(), hooks, {});
    server.listen(unix_socket(path));
    REQUIRE(::stat(path.c_str(), &info) == 0);
    CHECK((info.st_mode & 0777) == 0600);
    HttpServer second(context.get_executor(), hooks, {});
    try {
      second.listen(unix_socket(path));
      FAIL("two servers on one path");
    } catch (const std::system_error& e) {
      CHECK(e.code().value() == EADDRINUSE);
      CHECK(std::string(e.what()).find(path) != std::string::npos);
    }
  }
  CHECK(::stat(path.c_str(), &info) != 0);
  {
    // Left behind by a process that died.
    asio::local::stream_protocol::acceptor dead(context, asio::local::stream_protocol::endpoint(path));
  }
  REQUIRE(::stat(path.c_str(), &info) == 0);
  {
    HttpServer server(context.get_executor(), hooks, {});
    const auto address = server.listen(unix_socket(path));
    HttpClient http(context.get_executor(), endpoint_of(address), {});
    auto body = [&]() -> asio::awaitable<void> {
      HttpRequest request;
      request.target = "/";
      const auto response = co_await http.request(std::move(request), soon());
      CHECK(response.status == 200);
    };
    run(context, body);
    // Somebody else's file in our place stays.
    std::filesystem::remove(path);
    std::ofstream(path) << "file";
  }
  CHECK(::stat(path.c_str(), &info) == 0);
  HttpServer server(context.get_executor(), hooks, {});
  CHECK_THROWS_AS(server.listen(unix_socket(path)), std::system_error);
  CHECK(std::filesystem::is_regular_file(path));
  CHECK_THROWS_AS(server.listen(unix_socket(folder / "no/such/folder")), std::system_error);
  settle(context);
}

TEST_CASE("an address in use is refused by name") {
  Site site;
  HttpServer other(site.context.get_executor(), site.hooks, {});
  try {
    other.listen(site.address);
    FAIL("two servers on one port");
  } catch (const std::system_error& e) {
    CHECK(e.code().value() == EADDRINUSE);
    CHECK(std::string(e.what()).find("127.0.0.1:" + std::to_string(site.address.port)) != std::string::npos);
  }
}

TEST_CASE("stop: idle connections end, requests under way are finished, no new ones") {
  Site site;
  asio::steady_timer gate(site.context, asio::steady_timer::time_point::max());
  site.hooks.on_request = [&](const HttpRequest& request) -> asio::awaitable<HttpResponse> {
    if (request.target == "/slow") {
      error_code ec;
      auto token = asio::redirect_error(asio::use_awaitable, ec);
      co_await gate.async_wait(token);
    }
    HttpResponse out;
    out.body = "finished";
    co_return out;
  };
  auto body = [&]() -> asio::awaitable<void> {
    Raw idle = co_await Raw::connect(site.context, site.address);
    co_await idle.send(kGet);
    co_await idle.read_until("finished");
    Raw busy = co_await Raw::connect(site.context, site.address);
    co_await busy.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
    co_await wait_for(site.context, [&] { return site.hooks.requests == 2; });
    bool stopped = false;
    auto stopping = [&]() -> asio::awaitable<void> {
      co_await site.server.stop(20s);
      stopped = true;
    };
    asio::co_spawn(site.context, stopping(), asio::detached);
    const auto rest = co_await idle.read_all();
    CHECK(rest.empty());
    CHECK_FALSE(stopped);
    RawSocket refused(site.context);
    refused.open(asio::ip::tcp::v4());
    error_code ec;
    refused.connect(asio::ip::tcp::endpoint(asio::ip::make_address(site.address.host), site.address.port), ec);
    CHECK(ec == asio::error::connection_refused);
    gate.cancel();
    const auto answer = co_await busy.read_all();
    CHECK(answer.find("finished") != std::string::npos);
    CHECK(answer.find("Connection: close") != std::string::npos);
    co_await wait_for(site.context, [&] { return stopped; });
    CHECK(site.server.connections() == 0);
  };
  run(site.context, body);
}

TEST_CASE("stop does not wait past its deadline, and destruction cancels what is under way") {
  auto site = std::make_unique<Site>();
  int cancelled = 0;
  site->hooks.on_request = [&](const HttpRequest&) -> asio::awaitable<HttpResponse> {
    asio::steady_timer never(site->context, 1h);
    error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    co_await never.async_wait(token);
    if (ec == asio::error::operation_aborted) ++cancelled;
    HttpResponse out;
    co_return out;
  };
  auto body = [&]() -> asio::awaitable<void> {
    Raw busy = co_await Raw::connect(site->context, site->address);
    co_await busy.send(kGet);
    co_await wait_for(site->context, [&] { return site->hooks.requests == 1; });
    co_await site->server.stop(20ms);
    const auto answer = co_await busy.read_all();
    CHECK(answer.empty());
    co_await wait_for(site->context, [&] { return cancelled == 1; });
  };
  run(site->context, body);

  auto server = std::make_unique<HttpServer>(site->context.get_executor(), site->hooks, ServerLimits{});
  const auto address = server->listen(any_tcp_port());
  auto again = [&]() -> asio::awaitable<void> {
    Raw busy = co_await Raw::connect(site->context, address);
    co_await busy.send(kGet);
    co_await wait_for(site->context, [&] { return site->hooks.requests == 2; });
    server.reset();
    const auto answer = co_await busy.read_all();
    CHECK(answer.empty());
    co_await wait_for(site->context, [&] { return cancelled == 2; });
  };
  run(site->context, again);
}

TEST_CASE("a context may be destroyed with requests under way") {
  auto context = std::make_unique<asio::io_context>(1);
  Hooks hooks;
  hooks.on_request = [&](const HttpRequest&) -> asio::awaitable<HttpResponse> {
    asio::steady_timer never(*context, 1h);
    co_await never.async_wait(asio::use_awaitable);
    HttpResponse out;
    co_return out;
  };
  auto server = std::make_unique<HttpServer>(context->get_executor(), hooks, ServerLimits{});
  const auto address = server->listen(any_tcp_port());
  HttpClient http(context->get_executor(), endpoint_of(address), {});
  auto one = [&]() -> asio::awaitable<void> {
    HttpRequest request;
    request.target = "/";
    const auto response = co_await http.request(std::move(request), soon());
  };
  asio::co_spawn(*context, one(), asio::detached);
  while (hooks.requests == 0) context->run_one();
  server.reset();
  context.reset();
}

TEST_CASE("curl talks to the server") {
  if (std::system("command -v curl >/dev/null 2>&1") != 0) return;
  Site site;
  TemporaryFolder folder;
  site.server.listen(unix_socket(folder / "s"));
  const auto out = folder / "out";
  std::ofstream(folder / "body") << std::string(200'000, 'c');
  const auto url = "http://127.0.0.1:" + std::to_string(site.address.port) + "/x ";
  const std::vector<std::string> commands{
      "curl -s -m 20 -o " + out + " -d hello " + url,
      "curl -s -m 20 -o " + out + " --http2 -d hello " + url,
      "curl -s -m 20 -o " + out + " -H 'Transfer-Encoding: chunked' -d hello " + url,
      "curl -s -m 20 -o " + out + " -d hello --unix-socket " + (folder / "s") + " http://localhost/x",
      "curl -s -m 20 -o " + out + " --data-binary @" + (folder / "body") + " -H 'Expect: 100-continue' " + url,
      "curl -s -m 20 -I -o " + out + " " + url + url + url,
  };
  for (std::size_t i = 0; i < commands.size(); ++i) {
    INFO(commands[i]);
    int rc = -1;
    std::atomic<bool> ended{false};
    std::thread curl([&] {
      rc = std::system(commands[i].c_str());
      ended = true;
    });
    auto body = [&]() -> asio::awaitable<void> { co_await wait_for(site.context, [&] { return ended.load(); }); };
    run(site.context, body);
    curl.join();
    CHECK(rc == 0);
    std::ifstream in(out);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    if (i < 4) CHECK(text == "hello");
    if (i == 4) CHECK(text == std::string(200'000, 'c'));
    if (i == 5) CHECK(text.find("200 OK") != std::string::npos);
  }
}
