// Where the server listens, with a server that fails.
#include "net/http_server_listener.hpp"
#include "support/catch.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>

#include <new>
#include <thread>

using namespace cwsandbox::net;

TEST_CASE("a connection for which there is no memory is closed, and the next one is served", "[net][server]") {
  asio::io_context loop;
  auto listener = std::make_shared<ServerListener>(loop.get_executor(), nullptr);
  ListenAddress address;
  address.host = "127.0.0.1";
  address = listener->open(address);
  int seen = 0;
  std::optional<Socket> kept;
  ServerListener::Accepted accepted = [&](Socket socket, const std::shared_ptr<TlsContext>&) {
    if (++seen == 1) throw std::bad_alloc();
    kept.emplace(std::move(socket));
    listener->close();
  };
  asio::co_spawn(loop, ServerListener::accept(listener, std::make_shared<Admission>(ServerLimits{}), accepted),
                 [](const std::exception_ptr& error) { CHECK_FALSE(error); });
  std::thread client([port = address.port] {
    asio::io_context own;
    asio::ip::tcp::socket first(own), second(own);
    const asio::ip::tcp::endpoint to(asio::ip::make_address("127.0.0.1"), port);
    first.connect(to);
    char byte = 0;
    boost::system::error_code ec;
    asio::read(first, asio::buffer(&byte, 1), ec);  // closed, not left
    second.connect(to, ec);
  });
  loop.run_for(std::chrono::seconds(60));
  client.join();
  CHECK(seen == 2);
  CHECK(kept);
}
