// A hostile client of the gateway's HTTP server: any bytes, in any pieces, over a real socket. Whatever it sends, what comes back
// is a sequence of well-formed answers, the connection ends, and nothing of it is left. No deadline plays a part: the client ends
// first.
#include "net/http_server.hpp"
#include "net/http_wire.hpp"

#include <boost/asio/io_context.hpp>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "script.hpp"

using namespace cwsandbox::net;

namespace {

// Answers by the path: /s streams, /w is a WebSocket that echoes, /e is answered early, /t throws, anything else is echoed.
class Handler final : public HttpHandler {
 public:
  bool streams(const HttpRequest& request) override { return request.target.starts_with("/s"); }
  asio::awaitable<void> stream(ServerExchange& exchange) override {
    std::array<char, 512> block;
    const auto into = asio::buffer(block);
    std::size_t total = 0;
    for (;;) {
      const std::size_t n = co_await exchange.read(into);
      if (n == 0) break;
      total += n;
    }
    HttpResponse head;
    head.body = std::to_string(total);
    std::optional<std::uint64_t> length;
    if (exchange.request().target == "/s") length = head.body.size();
    co_await exchange.start(std::move(head), length);
    co_await exchange.finish();
  }
  asio::awaitable<HttpResponse> handle(const HttpRequest& request) override {
    check(request);
    if (request.target.starts_with("/t")) throw std::runtime_error("thrown");
    HttpResponse out;
    out.body = request.body;
    co_return out;
  }
  std::optional<HttpResponse> early_answer(const HttpRequest& request) override {
    check(request);
    if (!request.target.starts_with("/e")) return std::nullopt;
    return error_response(401, cwsandbox::base::ErrorCode::unauthenticated, "no");
  }
  UpgradeDecision on_upgrade(const HttpRequest& request, const std::vector<std::string>& offered) override {
    check(request);
    UpgradeDecision out;
    if (!request.target.starts_with("/w")) out.refusal = error_response(404, cwsandbox::base::ErrorCode::unimplemented, "no");
    if (!offered.empty()) out.subprotocol = offered.front();
    out.limits.max_message = 4096;
    return out;
  }
  void on_websocket(const HttpRequest&, std::unique_ptr<WebSocket> socket) override { Echo::start(std::move(socket)); }

 private:
  // What a request may hold once it is here, whatever was sent.
  static void check(const HttpRequest& request) {
    FUZZ_CHECK(!request.method.empty() && !request.target.empty());
    FUZZ_CHECK(request.target.front() == '/' || request.target == "*");
    for (const auto& [name, value] : request.headers) {
      FUZZ_CHECK(!name.empty());
      for (const char c : value) FUZZ_CHECK(c != '\r' && c != '\n' && c != '\0');
    }
  }
  struct Echo : std::enable_shared_from_this<Echo> {
    std::unique_ptr<WebSocket> socket;
    IncomingMessage message;
    std::string body;
    static void start(std::unique_ptr<WebSocket> s) {
      auto echo = std::make_shared<Echo>();
      echo->socket = std::move(s);
      echo->read();
    }
    void read() {
      socket->async_read(message, [self = shared_from_this()](error_code ec) {
        if (ec) return;
        FUZZ_CHECK(self->message.payload().size() < 4096);
        self->body = self->message.take();
        self->socket->async_write("e", self->body, [self](error_code failed) {
          if (!failed) self->read();
        });
      });
    }
  };
};

struct Fixture {
  Fixture() : server(loop.get_executor(), handler, limits()) {
    std::string folder = "/tmp/cwsandbox-fuzz-XXXXXX";
    FUZZ_CHECK(::mkdtemp(folder.data()) != nullptr);
    address.is_unix = true;
    address.path = folder + "/socket";
    server.listen(address);
    to.sun_family = AF_UNIX;
    std::strncpy(to.sun_path, address.path.c_str(), sizeof to.sun_path - 1);
  }
  ~Fixture() {
    ::unlink(address.path.c_str());
    ::rmdir(address.path.substr(0, address.path.rfind('/')).c_str());
  }
  static ServerLimits limits() {
    ServerLimits out;
    out.max_header = 4096;
    out.max_body = 8192;
    return out;
  }
  void turn() {
    loop.restart();
    loop.poll();
  }
  asio::io_context loop{1};
  Handler handler;
  HttpServer server;
  ListenAddress address;
  sockaddr_un to{};
};

class Client {
 public:
  explicit Client(Fixture& fixture) : fixture_(fixture), fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    FUZZ_CHECK(::connect(fd_, reinterpret_cast<const sockaddr*>(&fixture.to), sizeof fixture.to) == 0);
    ::fcntl(fd_, F_SETFL, O_NONBLOCK);
  }
  ~Client() { ::close(fd_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  // Takes what there is; false at the end of the stream.
  bool drain() {
    char block[4096];
    for (;;) {
      const ssize_t n = ::recv(fd_, block, sizeof block, 0);
      if (n > 0) answers.append(block, static_cast<std::size_t>(n));
      if (n == 0) return false;
      if (n < 0) return errno == EAGAIN;
    }
  }
  void send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n < 0 && errno != EAGAIN) return;  // the server has had enough
      if (n > 0) bytes.remove_prefix(static_cast<std::size_t>(n));
      fixture_.turn();
      if (!drain()) return;
    }
  }
  void finish() {
    ::shutdown(fd_, SHUT_WR);
    // Everything is ready at once, since nobody waits for a clock: a few turns suffice.
    for (int i = 0; i < 1000; ++i) {
      fixture_.turn();
      if (!drain()) return;
    }
    FUZZ_CHECK(!"the connection does not end");
  }
  std::string answers;

 private:
  Fixture& fixture_;
  int fd_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Fixture fixture;
  Script script(data, size);
  const std::size_t piece = 1U + script.word();
  std::string_view bytes = script.rest();
  std::string answers;
  {
    Client client(fixture);
    while (!bytes.empty()) {
      const auto part = bytes.substr(0, piece);
      bytes.remove_prefix(part.size());
      client.send(part);
    }
    client.finish();
    answers = std::move(client.answers);
  }
  for (int i = 0; i < 1000 && fixture.server.connections() != 0; ++i) fixture.turn();
  FUZZ_CHECK(fixture.server.connections() == 0);

  if (answers.empty()) return 0;
  FUZZ_CHECK(answers.starts_with("HTTP/1.1 "));
  ResponseReader reader(1024 * 1024, false);
  reader.header_only();
  std::size_t consumed = 0;
  const ParseResult result = reader.put(answers, consumed);
  FUZZ_CHECK(result == ParseResult::progress && reader.header_done());
  const unsigned status = reader.take().status;
  FUZZ_CHECK(status == 100 || status == 101 || (status >= 200 && status < 600));
  return 0;
}
