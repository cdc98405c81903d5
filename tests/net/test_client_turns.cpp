// One thing of a client begins in each turn of the loop, and a client that is refused again and again waits for it.
#include "net/client_turns.hpp"
#include "net_support.hpp"

#include <boost/asio/post.hpp>

#include <map>
#include <vector>

using namespace cwsandbox::net;
using namespace cwsandbox::net::test;

namespace {

asio::awaitable<void> begin(ClientTurns& turns, std::string& order, char name, asio::any_io_executor executor) {
  auto taking = turns.take(executor);
  co_await std::move(taking);
  order += name;
}

// Clients that tell their names, and what is answered in which order.
struct Named {
  explicit Named(Site& s) : site(s) {
    site.hooks.client = [this](const HttpRequest& request) -> std::shared_ptr<ClientAccount> {
      auto& account = accounts[std::string(find_header(request.headers, "X-Client"))];
      if (!account) account = std::make_shared<ClientAccount>();
      return account;
    };
    site.hooks.on_request = [this](const HttpRequest& request) { return answer(request); };
  }
  asio::awaitable<HttpResponse> answer(HttpRequest request) {
    order += find_header(request.headers, "X-Client");
    HttpResponse out;
    out.status = status;
    co_return out;
  }
  static std::string request(const std::string& name) { return "GET / HTTP/1.1\r\nHost: x\r\nX-Client: " + name + "\r\n\r\n"; }

  Site& site;
  std::map<std::string, std::shared_ptr<ClientAccount>> accounts;
  std::string order;
  unsigned status = 200;
};

}  // namespace

TEST_CASE("between two things of a client everything that is ready is done", "[net][EV-18]") {
  asio::io_context context(1);
  ClientTurns first, second;
  std::string order;
  const auto executor = asio::any_io_executor(context.get_executor());
  for (const char name : {'a', 'b', 'c', 'd'}) asio::co_spawn(context, begin(first, order, name, executor), asio::detached);
  for (const char name : {'X', 'Y'}) asio::co_spawn(context, begin(second, order, name, executor), asio::detached);
  asio::post(context, [&] { order += '.'; });
  context.poll();
  CHECK(order == "aX.bYcd");

  // In a turn of its own each begins at once.
  for (int i = 0; i < 3; ++i) {
    CHECK(first.take_now(executor));
    CHECK_FALSE(first.take_now(executor));
    settle(context);
  }
}

TEST_CASE("who waits for a turn goes with the loop", "[net][EV-18]") {
  const auto witness = std::make_shared<int>();
  {
    ClientTurns turns;
    asio::io_context context(1);
    const auto executor = asio::any_io_executor(context.get_executor());
    CHECK(turns.take_now(executor));
    turns.wait(executor, [witness] { FAIL_CHECK("a turn of a loop that is gone"); });
    CHECK(witness.use_count() == 2);
  }
  CHECK(witness.use_count() == 1);
  // Nor does it need the client.
  asio::io_context context(1);
  bool ran = false;
  {
    ClientTurns turns;
    CHECK(turns.take_now(context.get_executor()));
    turns.wait(context.get_executor(), [&ran] { ran = true; });
  }
  context.poll();
  CHECK(ran);
}

TEST_CASE("a client that sends many requests at once keeps another waiting for one", "[net][EV-18]") {
  Site site;
  Named clients(site);
  auto body = [&]() -> asio::awaitable<void> {
    std::vector<std::unique_ptr<Raw>> lines;
    for (int i = 0; i < 41; ++i) lines.push_back(std::make_unique<Raw>(co_await Raw::connect(site.context, site.address)));
    while (site.server.connections() < lines.size()) co_await asio::post(site.context, asio::use_awaitable);
    // All are there before the loop turns once more: the other client's is the last.
    for (std::size_t i = 0; i < lines.size(); ++i) {
      const std::string bytes = Named::request(i + 1 < lines.size() ? "a" : "B");
      CHECK(::send(lines[i]->socket().native_handle(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(bytes.size()));
    }
    for (auto& line : lines) {
      const auto head = co_await line->read_until("\r\n\r\n");
      CHECK(head.find("HTTP/1.1 200") == 0);
    }
  };
  run(site.context, body);
  REQUIRE(clients.order.size() == 41);
  CHECK(clients.order.find('B') <= 2);
}

TEST_CASE("a client that is refused again and again waits for it, and no other client does", "[net][EV-19]") {
  Site site;
  Named clients(site);
  clients.status = 429;
  auto body = [&]() -> asio::awaitable<void> {
    std::vector<std::unique_ptr<Raw>> lines;
    for (int i = 0; i < 400; ++i) lines.push_back(std::make_unique<Raw>(co_await Raw::connect(site.context, site.address)));
    const std::string bytes = Named::request("a");
    for (auto& line : lines) CHECK(::send(line->socket().native_handle(), bytes.data(), bytes.size(), MSG_NOSIGNAL) > 0);
    while (clients.order.size() < lines.size()) co_await asio::post(site.context, asio::use_awaitable);
    // What is not put off is on its way meanwhile.
    for (int i = 0; i < 100; ++i) co_await asio::post(site.context, asio::use_awaitable);
    std::size_t put_off = 0;
    for (auto& line : lines) {
      char byte = 0;
      if (::recv(line->socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0) ++put_off;
    }
    CHECK(put_off > 0);
    CHECK(put_off <= 300);
    // Those beyond a hundred are put off, for up to a second; meanwhile others are told at once, and so is this one what it may
    // have.
    Raw other = co_await Raw::connect(site.context, site.address);
    co_await other.send(Named::request("B"));
    const auto refused = co_await other.read_until("\r\n\r\n");
    CHECK(refused.find("HTTP/1.1 429") == 0);
    clients.status = 200;
    Raw same = co_await Raw::connect(site.context, site.address);
    co_await same.send(Named::request("a"));
    const auto served = co_await same.read_until("\r\n\r\n");
    CHECK(served.find("HTTP/1.1 200") == 0);
    for (auto& line : lines) {
      const auto head = co_await line->read_until("\r\n\r\n");
      CHECK(head.find("HTTP/1.1 429") == 0);
    }
  };
  run(site.context, body);
}
