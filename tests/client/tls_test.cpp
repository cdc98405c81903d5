// Client and gateway over TLS, calls and streams, with certificates that are right and that are not.
#include "support/certs.hpp"
#include "tcp_gateway.hpp"

using namespace support;
using namespace cwsandbox;

namespace {

/// Why a call to the server did not get through.
std::string refusal(const Client& client) {
  try {
    static_cast<void>(Sandbox::list(client).result());
    return "let in";
  } catch (const CWSandboxError& error) {
    return error.what();
  }
}
bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("commands and streams over TLS", "[EX-8][IO-6][IO-8]") {
  const TemporaryDirectory directory;
  const test::Authority authority;
  authority.write_certificate(directory.path() + "/ca.pem");
  authority.issue(directory.path() + "/server.pem", "DNS:localhost,IP:127.0.0.1");
  const TcpGateway gateway(directory.path() + "/server.pem");

  const Client client(gateway.options().with_ca_file(directory.path() + "/ca.pem"));
  const auto sandbox = Sandbox::run(client);
  const auto echo = sandbox.exec({"cat"}, ExecOptions().with_stdin());
  std::string bytes;
  for (int i = 0; i < 3'000'000; ++i) bytes.push_back(static_cast<char>(i * 7 + i / 256));
  auto read = echo.std_out().read_all();
  echo.std_in()->write(std::string_view(bytes)).result();
  echo.std_in()->close().result();
  CHECK(read.result() == bytes);
  CHECK(echo.wait() == 0);
  sandbox.stop(StopOptions().with_grace_period(1s)).result();

  SECTION("an authority that the client does not know is refused, before any token is sent") {
    const Client stranger(gateway.options());
    const std::string why = refusal(stranger);
    CHECK(has(why, "certificate is refused"));
    CHECK_FALSE(has(why, TcpGateway::kToken));
    const Client careless(gateway.options().with_verify(false));
    CHECK_NOTHROW(Sandbox::list(careless).result());
  }
}

TEST_CASE("a certificate for another host or another time is refused", "[EX-9]") {
  const TemporaryDirectory directory;
  const test::Authority authority;
  authority.write_certificate(directory.path() + "/ca.pem");
  const auto refused = [&](const std::string& file) {
    const TcpGateway gateway(file);
    return refusal(Client(gateway.options().with_ca_file(directory.path() + "/ca.pem")));
  };
  authority.issue(directory.path() + "/other.pem", "DNS:example.org");
  CHECK(has(refused(directory.path() + "/other.pem"), "hostname mismatch"));
  authority.issue(directory.path() + "/expired.pem", "DNS:localhost", -7200, -3600);
  CHECK(has(refused(directory.path() + "/expired.pem"), "expired"));
  test::Authority::self_signed(directory.path() + "/self.pem", "DNS:localhost");
  CHECK(has(refused(directory.path() + "/self.pem"), "self-signed certificate"));
}

TEST_CASE("a gateway that asks for certificates lets in who shows the right one, calls and streams", "[EX-9]") {
  const TemporaryDirectory directory;
  const auto file = [&](const std::string& name) { return directory.path() + "/" + name; };
  const test::Authority authority, users("users");
  authority.write_certificate(file("ca.pem"));
  users.write_certificate(file("users.pem"));
  authority.issue(file("server.pem"), "DNS:localhost");
  users.issue(file("user.pem"), "DNS:user");
  authority.issue(file("stranger.pem"), "DNS:user");
  const TcpGateway gateway(file("server.pem"), file("users.pem"));
  const auto options = [&] { return gateway.options().with_ca_file(file("ca.pem")); };
  CHECK(has(refusal(Client(options())), "certificate required"));
  CHECK(has(refusal(Client(options().with_client_certificate(file("stranger.pem"), file("stranger.pem")))), "unknown ca"));
  const Client client(options().with_client_certificate(file("user.pem"), file("user.pem")));
  const auto sandbox = Sandbox::run(client);
  CHECK(sandbox.exec({"echo", "let in"}).result().std_out == "let in\n");
  sandbox.stop(StopOptions().with_grace_period(1s)).result();
}
