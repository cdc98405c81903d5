// Sandboxes behind a proxy: the gateway's name is one that only the proxy knows.
#include "support/certs.hpp"
#include "support/connect_proxy.hpp"
#include "tcp_gateway.hpp"

#include <cstdlib>

using namespace support;
using namespace cwsandbox;

namespace {

constexpr const char* kHost = "gateway.invalid";

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// A variable of this process, for a while. The tests of this program run one after the other.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) { ::setenv(name, value.c_str(), 1); }
  ~Variable() { ::unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
};

/// A proxy and, behind it, a gateway.
struct Stage {
  explicit Stage(const std::string& certificate = "") : gateway(certificate) { proxy.add_host(kHost, gateway.port()); }
  [[nodiscard]] ClientOptions options() const { return gateway.options().with_base_url(gateway.url(kHost)); }
  TcpGateway gateway;
  ConnectProxy proxy;
};

std::string bytes(std::size_t size) {
  std::string out;
  for (std::size_t i = 0; i < size; ++i) out.push_back(static_cast<char>(i * 7 + i / 256));
  return out;
}

/// Why a call did not get through.
std::string refusal(const Client& client) {
  try {
    static_cast<void>(Sandbox::list(client).result());
    return "let in";
  } catch (const CWSandboxError& error) {
    return error.what();
  }
}

std::string malformed(const std::string& proxy) {
  try {
    const Client client(ClientOptions().with_base_url("http://gateway.invalid").with_proxy(proxy));
    return "accepted";
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE("a sandbox behind a proxy: a command with stdin, files, and connections that break", "[NW-2][P6]") {
  const TemporaryDirectory directory;
  const bool tls = GENERATE(false, true);
  const test::Authority authority;
  authority.write_certificate(directory.path() + "/ca.pem");
  authority.issue(directory.path() + "/server.pem", std::string("DNS:") + kHost);
  Stage stage(tls ? directory.path() + "/server.pem" : "");
  stage.proxy.require("Basic dXNlcjpwYXNzIHdvcmQ=");
  auto options = stage.options().with_proxy(stage.proxy.url("user:pass%20word")).with_retry_budget(30s);
  const Client client(options.with_ca_file(directory.path() + "/ca.pem"));
  const auto sandbox = Sandbox::run(client);
  const std::string data = bytes(1'000'000);

  const auto cat = sandbox.exec({"cat"}, ExecOptions().with_stdin());
  auto all = cat.std_out().read_all();
  cat.std_in()->write(std::string_view(data).substr(0, 500'000)).result();
  cat.std_in()->flush().result();
  const int before = stage.proxy.tunnels();
  stage.proxy.cut_all();
  cat.std_in()->write(std::string_view(data).substr(500'000)).result();
  cat.std_in()->close().result();
  CHECK(all.result(60s) == data);
  CHECK(cat.wait(60s) == 0);
  CHECK(stage.proxy.tunnels() > before);

  sandbox.write_file("/tmp/file", data).result();
  CHECK(sandbox.read_file("/tmp/file").result() == data);
  CHECK(stage.proxy.bytes() > 2 * data.size());
  sandbox.stop(StopOptions().with_grace_period(1s)).result();
}

TEST_CASE("a proxy that refuses is not asked again, and one that fails is", "[NW-3]") {
  Stage stage;
  const auto options = [&] { return stage.options().with_proxy(stage.proxy.url("user:secret")).with_retry_budget(60s); };
  stage.proxy.require("Basic something else");
  int before = stage.proxy.connections();
  const auto why = refusal(Client(options()));
  INFO(why);
  CHECK(has(why, "refused the user and password of the option proxy: HTTP status 407"));
  CHECK_FALSE(has(why, "secret"));
  CHECK(stage.proxy.connections() == before + 1);

  stage.proxy.require("");
  stage.proxy.set_mode(ConnectProxy::Mode::answer);
  stage.proxy.set_answer("HTTP/1.1 403 Forbidden\r\n\r\n");
  before = stage.proxy.connections();
  CHECK(has(refusal(Client(options())), "refused a connection: HTTP status 403"));
  CHECK(stage.proxy.connections() == before + 1);

  stage.proxy.set_answer("HTTP/1.1 503 Busy\r\n\r\n");
  before = stage.proxy.connections();
  const auto listing = Sandbox::list(Client(options()));
  REQUIRE(eventually([&] { return stage.proxy.connections() >= before + 2; }));
  stage.proxy.set_mode(ConnectProxy::Mode::tunnel);
  CHECK_NOTHROW(listing.result(60s));
}

TEST_CASE("the option and the environment", "[NW-2]") {
  Stage stage;
  ConnectProxy other;
  other.add_host(kHost, stage.gateway.port());
  const Variable variable("http_proxy", stage.proxy.url());
  const Variable ignored("HTTP_PROXY", "http://127.0.0.1:1");
  CHECK(refusal(Client(stage.options())) == "let in");
  CHECK(stage.proxy.tunnels() == 1);

  SECTION("the option goes first, also for excluded hosts and loopback addresses") {
    const Variable excluded("NO_PROXY", "*");
    CHECK(refusal(Client(stage.options().with_proxy(other.url()))) == "let in");
    CHECK(other.tunnels() == 1);
    other.add_host("localhost", stage.gateway.port());
    CHECK(refusal(Client(stage.gateway.options().with_proxy(other.url()))) == "let in");
    CHECK(other.tunnels() == 2);
    CHECK(stage.proxy.tunnels() == 1);
  }
  SECTION("an empty option means no proxy, and so does NO_PROXY") {
    CHECK(has(refusal(Client(stage.options().with_proxy(""))), "resolving the host's name"));
    const Variable excluded("NO_PROXY", "example.com, .invalid");
    CHECK(has(refusal(Client(stage.options())), "resolving the host's name"));
    CHECK(stage.proxy.connections() == 1);
  }
  SECTION("loopback addresses and Unix sockets need none") {
    CHECK(refusal(Client(stage.gateway.options())) == "let in");
    const Daemon daemon;
    CHECK(refusal(Client(daemon.options().with_proxy(other.url()))) == "let in");
    CHECK(stage.proxy.connections() == 1);
    CHECK(other.connections() == 0);
  }
  SECTION("the command line takes the same") {
    const auto ran = run_program({environment("CWSANDBOX_CLI"), "ls", "--output", "ids"}, "",
                                 {"CWSANDBOX_BASE_URL=" + stage.gateway.url(kHost), "CWSANDBOX_API_KEY=" + TcpGateway::kToken});
    INFO(ran.err);
    CHECK(ran.status == 0);
    CHECK(stage.proxy.tunnels() == 2);
  }
}

TEST_CASE("a proxy that cannot be used is refused by name", "[NW-2]") {
  for (const char* bad :
       {"socks5://user:secret@proxy", "https://user:secret@proxy", "http://user:secret@proxy:0", "ftp://secret@x"}) {
    const auto why = malformed(bad);
    INFO(why);
    CHECK(why.starts_with("the option proxy: "));
    CHECK_FALSE(has(why, "secret"));
  }
  const Variable variable("https_proxy", "socks5://user:secret@proxy");
  try {
    const Client client(ClientOptions().with_base_url("https://gateway.invalid"));
    FAIL("accepted");
  } catch (const std::invalid_argument& error) {
    CHECK(std::string(error.what()).starts_with("https_proxy: "));
    CHECK_FALSE(has(error.what(), "secret"));
  }
}
