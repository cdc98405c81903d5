#include "net_support.hpp"

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_future.hpp>

#include <atomic>
#include <future>
#include <thread>

using namespace cwsandbox::net;
using namespace cwsandbox::net::test;

namespace {

using Kind = TransportError::Kind;

HttpRequest post(std::string target, std::string body = {}) {
  HttpRequest out;
  out.target = std::move(target);
  out.body = std::move(body);
  return out;
}

HttpRequest with_method(std::string method) {
  HttpRequest out;
  out.method = std::move(method);
  out.target = "/";
  return out;
}

// What became of a request: an answer or an error.
struct Outcome {
  std::optional<HttpResponse> response;
  std::optional<Kind> kind;
  bool sent = false, cancelled = false;
  std::string text;
};

asio::awaitable<std::shared_ptr<Outcome>> ask(HttpClient& http, HttpRequest request, Clock::time_point deadline = soon()) {
  auto out = std::make_shared<Outcome>();
  try {
    out->response = co_await http.request(std::move(request), deadline);
  } catch (const TransportError& e) {
    out->kind = e.kind();
    out->sent = e.sent();
    out->text = e.what();
  } catch (const boost::system::system_error& e) {
    out->cancelled = e.code() == asio::error::operation_aborted;
  }
  co_return out;
}

std::string answer(const std::string& body, const std::string& more = {}) {
  return "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" + more + "\r\n" + body;
}

}  // namespace

TEST_CASE("a request and its answer; the connection is kept") {
  Site site;
  HttpClient http(site.context.get_executor(), endpoint_of(site.address), {});
  auto body = [&]() -> asio::awaitable<void> {
    for (int i = 0; i < 1000; ++i) {
      auto request = post("/service/Method?x=" + std::to_string(i), std::to_string(i));
      const auto got = co_await ask(http, std::move(request));
      REQUIRE(got->response);
      REQUIRE(got->response->status == 200);
      REQUIRE(got->response->body == std::to_string(i));
      REQUIRE(find_header(got->response->headers, "x-target") == "/service/Method?x=" + std::to_string(i));
    }
    CHECK(site.server.connections() == 1);
  };
  run(site.context, body);
  http.close_idle();
  auto later = [&]() -> asio::awaitable<void> {
    asio::steady_timer turn(site.context);
    while (site.server.connections() != 0) {
      turn.expires_after(1ms);
      co_await turn.async_wait(asio::use_awaitable);
    }
  };
  run(site.context, later);
}

TEST_CASE("large bodies both ways, over a Unix socket too") {
  Site site;
  TemporaryFolder folder;
  const bool over_unix = GENERATE(false, true);
  const auto address = over_unix ? site.server.listen(unix_socket(folder / "s")) : site.address;
  HttpClient http(site.context.get_executor(), endpoint_of(address), {});
  auto body = [&]() -> asio::awaitable<void> {
    const std::string large(5 * 1024 * 1024, 'x');
    auto request = post("/", large);
    const auto got = co_await ask(http, std::move(request));
    REQUIRE(got->response);
    CHECK(got->response->body == large);
  };
  run(site.context, body);
}

TEST_CASE("HEAD, 204 and 304 have no body, and the connection goes on") {
  Site site;
  site.hooks.on_request = [](const HttpRequest& request) -> asio::awaitable<HttpResponse> {
    HttpResponse out;
    out.body = "body";
    if (request.target == "/204") out.status = 204;
    if (request.target == "/304") out.status = 304;
    co_return out;
  };
  HttpClient http(site.context.get_executor(), endpoint_of(site.address), {});
  auto body = [&]() -> asio::awaitable<void> {
    auto head = with_method("HEAD");
    auto got = co_await ask(http, std::move(head));
    REQUIRE(got->response);
    CHECK(got->response->body.empty());
    for (const std::string target : {"/204", "/304"}) {
      auto request = post(target);
      got = co_await ask(http, std::move(request));
      REQUIRE(got->response);
      CHECK(got->response->body.empty());
    }
    auto last = with_method("GET");
    got = co_await ask(http, std::move(last));
    REQUIRE(got->response);
    CHECK(got->response->body == "body");
    CHECK(site.server.connections() == 1);
  };
  run(site.context, body);
}

TEST_CASE("64 requests at once from a pool of threads") {
  asio::io_context server_context(1);
  Hooks hooks;
  HttpServer server(server_context.get_executor(), hooks, {});
  const auto address = server.listen(any_tcp_port());
  std::thread serving([&] {
    auto work = asio::make_work_guard(server_context);
    server_context.run();
  });
  asio::thread_pool pool(4);
  std::atomic<int> good{0};
  {
    HttpClient http(pool.get_executor(), endpoint_of(address), {});
    std::vector<std::future<void>> all;
    auto one = [&](int i) -> asio::awaitable<void> {
      for (int round = 0; round < 20; ++round) {
        const auto text = std::to_string(i) + "/" + std::to_string(round);
        auto request = post("/", text);
        const auto got = co_await ask(http, std::move(request));
        if (got->response && got->response->body == text) ++good;
      }
    };
    for (int i = 0; i < 64; ++i) all.push_back(asio::co_spawn(pool, one(i), asio::use_future));
    for (auto& each : all) each.get();
  }
  pool.join();
  CHECK(good == 64 * 20);
  server_context.stop();
  serving.join();
}

TEST_CASE("a stale connection is replaced once, a fresh one is not") {
  asio::io_context context(1);
  int requests = 0;
  Scripted peer(context, [&](Raw& raw) -> asio::awaitable<void> {
    co_await raw.read_until("\r\n\r\n");
    ++requests;
    if (requests == 4) co_return;  // a fresh connection that dies
    co_await raw.send(answer("one"));
    const auto next = co_await raw.read_until("\r\n\r\n");
    if (!next.empty()) ++requests;  // swallowed: the connection ends without an answer
  });
  HttpClient http(context.get_executor(), peer.endpoint(), {});
  auto body = [&]() -> asio::awaitable<void> {
    auto first = with_method("GET");
    auto got = co_await ask(http, std::move(first));
    REQUIRE(got->response);
    CHECK(peer.connections == 1);
    // Dies on the reused connection, is answered on a new one.
    auto second = with_method("GET");
    got = co_await ask(http, std::move(second));
    REQUIRE(got->response);
    CHECK(got->response->body == "one");
    CHECK(peer.connections == 2);
    CHECK(requests == 3);
    http.close_idle();
    auto third = with_method("GET");
    got = co_await ask(http, std::move(third));
    CHECK(peer.connections == 3);
    CHECK(got->kind == Kind::closed);
    CHECK(got->sent);
  };
  run(context, body);
}

TEST_CASE("a connection that the server has closed meanwhile is not reused") {
  asio::io_context context(1);
  Scripted peer(context, [](Raw& raw) -> asio::awaitable<void> {
    co_await raw.read_until("\r\n\r\n");
    co_await raw.send(answer("one"));
  });
  HttpClient http(context.get_executor(), peer.endpoint(), {});
  auto body = [&]() -> asio::awaitable<void> {
    for (int i = 1; i <= 3; ++i) {
      auto request = with_method("GET");
      const auto got = co_await ask(http, std::move(request));
      REQUIRE(got->response);
      CHECK(peer.connections == i);
      asio::steady_timer turn(context, 5ms);
      co_await turn.async_wait(asio::use_awaitable);
    }
  };
  run(context, body);
}

TEST_CASE("answers in every shape") {
  asio::io_context context(1);
  struct Case {
    std::string bytes;
    std::optional<std::string> body;
    std::optional<Kind> kind;
  };
  std::vector<Case> cases;
  cases.push_back({answer("plain"), "plain", std::nullopt});
  cases.push_back({"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + answer("late"), "late", std::nullopt});
  cases.push_back({"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: x\r\n\r\n",
                   "abcde", std::nullopt});
  cases.push_back({"HTTP/1.1 200 OK\r\n\r\nuntil the end", "until the end", std::nullopt});
  cases.push_back({"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold", "old", std::nullopt});
  cases.push_back({"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", std::nullopt, Kind::closed});
  cases.push_back({"HTTP/1.1 200 OK\r\nContent-Le", std::nullopt, Kind::closed});
  cases.push_back({"", std::nullopt, Kind::closed});
  cases.push_back({"SSH-2.0-OpenSSH_9.2\r\n\r\n", std::nullopt, Kind::protocol});
  cases.push_back({"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", std::nullopt, Kind::protocol});
  for (const std::string coding : {"identity", "gzip, chunked", "chunked, chunked", "xchunked"})
    cases.push_back(
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + coding + "\r\n\r\n3\r\nabc\r\n0\r\n\r\n", std::nullopt, Kind::protocol});
  cases.push_back({answer(std::string(2000, 'x')), std::nullopt, Kind::protocol});
  cases.push_back({"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n800\r\n" + std::string(2048, 'x') + "\r\n0\r\n\r\n",
                   std::nullopt, Kind::protocol});
  cases.push_back({"HTTP/1.1 200 OK\r\nX: " + std::string(70'000, 'x') + "\r\n\r\n", std::nullopt, Kind::protocol});
  const bool dripping = GENERATE(false, true);
  for (const auto& each : cases) {
    if (dripping && each.bytes.size() > 1000) continue;
    INFO(each.bytes.substr(0, 100));
    Scripted peer(context, [&](Raw& raw) -> asio::awaitable<void> {
      co_await raw.read_until("\r\n\r\n");
      if (dripping) {
        co_await raw.drip(each.bytes);
      } else {
        co_await raw.send(each.bytes);
      }
    });
    HttpClientOptions options;
    options.max_response_body = 1000;
    HttpClient http(context.get_executor(), peer.endpoint(), options);
    auto body = [&]() -> asio::awaitable<void> {
      auto request = with_method("GET");
      const auto got = co_await ask(http, std::move(request));
      CHECK(got->kind == each.kind);
      CHECK(got->response.has_value() == each.body.has_value());
      if (got->response && each.body) CHECK(got->response->body == *each.body);
    };
    run(context, body);
  }
}

TEST_CASE("an answer that comes before the request has been read is seen") {
  asio::io_context context(1);
  Scripted peer(context, [](Raw& raw) -> asio::awaitable<void> {
    co_await raw.read_until("\r\n\r\n");
    co_await raw.send("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
    raw.socket().shutdown(RawSocket::shutdown_send);
    co_await raw.read_all();
  });
  HttpClient http(context.get_executor(), peer.endpoint(), {});
  auto body = [&]() -> asio::awaitable<void> {
    auto request = post("/", std::string(20 * 1024 * 1024, 'x'));
    const auto got = co_await ask(http, std::move(request));
    REQUIRE(got->response);
    CHECK(got->response->status == 413);
    CHECK(got->response->body == "big");
  };
  run(context, body);
}

TEST_CASE("deadlines: nobody answers, and nobody reads") {
  asio::io_context context(1);
  bool reads = true;
  Scripted mute(context, [&](Raw& raw) -> asio::awaitable<void> {
    if (reads) {
      co_await raw.read_all();
    } else {
      asio::steady_timer never(context, 1h);
      co_await never.async_wait(asio::use_awaitable);
    }
  });
  HttpClient http(context.get_executor(), mute.endpoint(), {});
  auto body = [&]() -> asio::awaitable<void> {
    auto request = post("/secret-path", "secret body");
    auto got = co_await ask(http, std::move(request), Clock::now() + 50ms);
    CHECK(got->kind == Kind::timeout);
    CHECK(got->sent);
    CHECK(got->text.find("127.0.0.1") != std::string::npos);
    CHECK(got->text.find("secret") == std::string::npos);
    reads = false;
    auto large = post("/", std::string(64 * 1024 * 1024, 'x'));
    got = co_await ask(http, std::move(large), Clock::now() + 50ms);
    CHECK(got->kind == Kind::timeout);
    // A deadline in the past.
    auto late = post("/");
    got = co_await ask(http, std::move(late), Clock::now() - 1s);
    CHECK(got->kind == Kind::timeout);
  };
  run(context, body);
}

TEST_CASE("a request that is cancelled ends at once and gives its connection up") {
  asio::io_context context(1);
  int ended = 0;
  Scripted mute(context, [&](Raw& raw) -> asio::awaitable<void> {
    co_await raw.read_all();
    ++ended;
  });
  // The pool's executor is another one than the caller's.
  HttpClient http(asio::make_strand(context), mute.endpoint(), {});
  std::shared_ptr<Outcome> outcome;
  bool done = false;
  asio::cancellation_signal cancel;
  auto one = [&]() -> asio::awaitable<void> {
    auto request = post("/");
    outcome = co_await ask(http, std::move(request));
  };
  asio::co_spawn(context, one(), asio::bind_cancellation_slot(cancel.slot(), [&](std::exception_ptr) { done = true; }));
  auto body = [&]() -> asio::awaitable<void> {
    asio::steady_timer turn(context);
    while (!done || ended == 0) {
      turn.expires_after(1ms);
      co_await turn.async_wait(asio::use_awaitable);
      if (mute.connections == 1) cancel.emit(asio::cancellation_type::terminal);
    }
    REQUIRE(outcome);
    CHECK(outcome->cancelled);
  };
  run(context, body);
}

TEST_CASE("connecting to nobody", "[NW-1]") {
  asio::io_context context(1);
  TemporaryFolder folder;
  auto kind_of = [&](const std::string& url) {
    HttpClient http(context.get_executor(), parse_base_url(url), {});
    std::shared_ptr<Outcome> outcome;
    auto body = [&]() -> asio::awaitable<void> {
      auto request = post("/");
      outcome = co_await ask(http, std::move(request));
    };
    run(context, body);
    CHECK_FALSE(outcome->sent);
    CHECK(outcome->text.find(parse_base_url(url).to_string()) == 0);
    return outcome->kind;
  };
  CHECK(kind_of("unix:" + (folder / "nobody")) == Kind::connect);
  CHECK(kind_of("local:") == Kind::connect);
  // A port that was free a moment ago.
  asio::ip::tcp::acceptor acceptor(context, asio::ip::tcp::endpoint(asio::ip::address_v4::loopback(), 0));
  const auto port = acceptor.local_endpoint().port();
  acceptor.close();
  CHECK(kind_of("http://127.0.0.1:" + std::to_string(port)) == Kind::connect);
  // A name goes through the resolver, and every address is tried.
  CHECK(kind_of("http://localhost:" + std::to_string(port)) == Kind::connect);
  CHECK(kind_of("http://no-such-host.invalid") == Kind::resolve);
}

TEST_CASE("a name is resolved, and an address that does not answer is followed by the next") {
  Site site;
  Endpoint endpoint = endpoint_of(site.address);
  endpoint.host = "localhost";  // perhaps ::1 first, where nobody listens
  HttpClient http(site.context.get_executor(), endpoint, {});
  auto body = [&]() -> asio::awaitable<void> {
    auto request = post("/", "x");
    const auto got = co_await ask(http, std::move(request));
    REQUIRE(got->response);
    CHECK(got->response->body == "x");
  };
  run(site.context, body);
}

TEST_CASE("headers that would break the framing are refused before anything is sent") {
  Site site;
  HttpClient http(site.context.get_executor(), endpoint_of(site.address), {});
  auto refused = [&](HttpRequest request) {
    std::string text;
    auto body = [&]() -> asio::awaitable<void> {
      try {
        auto response = co_await http.request(std::move(request), soon());
      } catch (const std::invalid_argument& e) {
        text = e.what();
      }
    };
    run(site.context, body);
    return text;
  };
  auto request = post("/");
  request.headers = {{"X-Token", "secret\r\nX-Other: 1"}};
  const auto text = refused(request);
  CHECK(text.find("X-Token") != std::string::npos);
  CHECK(text.find("secret") == std::string::npos);
  request.headers = {{"X Token", "x"}};
  CHECK_FALSE(refused(request).empty());
  CHECK_FALSE(refused(post("/a b")).empty());
  CHECK_FALSE(refused(post("no-slash")).empty());
  CHECK_FALSE(refused(with_method("GET /\r\n")).empty());
  CHECK(site.hooks.requests == 0);
}

TEST_CASE("nothing of a finished request keeps the context running") {
  auto context = std::make_unique<asio::io_context>(1);
  std::thread serving;
  asio::io_context other(1);
  Hooks hooks;
  HttpServer server(other.get_executor(), hooks, {});
  const auto address = server.listen(any_tcp_port());
  serving = std::thread([&] {
    auto work = asio::make_work_guard(other);
    other.run();
  });
  HttpClient http(context->get_executor(), endpoint_of(address), {});
  std::shared_ptr<Outcome> outcome;
  auto body = [&]() -> asio::awaitable<void> {
    auto request = post("/", "x");
    outcome = co_await ask(http, std::move(request));
  };
  asio::co_spawn(*context, body(), asio::detached);
  context->run();  // returns, although a connection is kept
  REQUIRE(outcome);
  CHECK(outcome->response);
  http.close_idle();
  other.stop();
  serving.join();
}
