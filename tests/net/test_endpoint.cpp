#include "net/endpoint.hpp"
#include "net_support.hpp"

#include <stdexcept>

using namespace cwsandbox::net;
using cwsandbox::net::test::holds;

namespace {

std::string complaint(std::string_view text) {
  try {
    (void)parse_base_url(text);
  } catch (const std::invalid_argument& e) {
    return e.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("base URLs of each scheme", "[NW-1]") {
  auto e = parse_base_url("http://example.org");
  CHECK(e.scheme == Endpoint::Scheme::http);
  CHECK(e.host == "example.org");
  CHECK(e.port == 80);
  CHECK(e.authority() == "example.org");
  CHECK(e.to_string() == "http://example.org");

  e = parse_base_url("HTTPS://Example.org:8443/");
  CHECK(e.tls());
  CHECK(e.host == "example.org");
  CHECK(e.port == 8443);
  CHECK(e.authority() == "example.org:8443");
  CHECK(parse_base_url("https://x").port == 443);
  CHECK(parse_base_url("https://x:443").authority() == "x");

  e = parse_base_url("http://[::1]:8080");
  CHECK(e.host == "::1");
  CHECK(e.authority() == "[::1]:8080");

  CHECK(parse_base_url("unix:/run/x.sock").path == "/run/x.sock");
  CHECK(parse_base_url("unix:///run/with space.sock").path == "/run/with space.sock");
  CHECK(parse_base_url("unix:/a").to_string() == "unix:/a");
  CHECK(parse_base_url("unix:////a").path == "//a");
  CHECK(parse_base_url("unix:////a").to_string() == "unix:////a");
  CHECK(parse_base_url("local:").scheme == Endpoint::Scheme::local);
}

TEST_CASE("base URLs that are refused, and why", "[NW-1]") {
  CHECK(holds(complaint(""), "empty"));
  CHECK(holds(complaint("example.org"), "scheme is missing"));
  CHECK(holds(complaint("localhost:8080"), "unknown scheme \"localhost\""));
  CHECK(holds(complaint("ftp://example.org"), "unknown scheme \"ftp\""));
  CHECK(holds(complaint("http://example.org/api"), "path"));
  CHECK(holds(complaint("http://example.org?x=1"), "query"));
  CHECK(holds(complaint("http://example.org#x"), "fragment"));
  CHECK(holds(complaint("http://"), "host"));
  CHECK(holds(complaint("http:example.org"), "//"));
  CHECK(holds(complaint("http://example.org:0"), "port"));
  CHECK(holds(complaint("http://example.org:65536"), "port"));
  CHECK(holds(complaint("http://example.org:80x"), "port"));
  CHECK(holds(complaint("http://example.org:"), "port"));
  CHECK(holds(complaint("http://exa mple.org"), "malformed"));
  CHECK(holds(complaint("http://exa%0ample.org"), "character"));
  // A colon that is only there once decoded would make another host and port of the text.
  CHECK(holds(complaint("http://example%3a8080"), "character"));
  CHECK(holds(complaint("http://a%3Ab:80"), "character"));
  CHECK(holds(complaint("http://%3a%3A1"), "character"));
  CHECK(holds(complaint("http://[v1.a:b]"), "character"));
  CHECK(holds(complaint("unix:run/x"), "absolute"));
  CHECK(holds(complaint("unix://host/x"), "host"));
  CHECK(holds(complaint("unix:/" + std::string(200, 'x')), "107"));
  CHECK(holds(complaint("local:x"), "local:"));
}

TEST_CASE("user information is refused and not repeated", "[NW-1]") {
  for (const auto* text : {"http://user:hunter2@host", "https://hunter2@host:1", "hunter2:hunter2@host",
                           "http://user:hun ter2@host", "http://hunter2@host/path?hunter2"}) {
    const auto why = complaint(text);
    CHECK(why != "accepted");
    CHECK_FALSE(holds(why, "hunter2"));
    CHECK_FALSE(holds(why, "ter2"));
  }
}

TEST_CASE("listen addresses", "[NW-1]") {
  auto a = parse_listen("tcp:127.0.0.1:8080");
  CHECK_FALSE(a.is_unix);
  CHECK(a.host == "127.0.0.1");
  CHECK(a.port == 8080);
  CHECK(a.loopback());
  CHECK(parse_listen("tcp:[::1]:0").loopback());
  CHECK(parse_listen("tcp:localhost:1").loopback());
  CHECK_FALSE(parse_listen("tcp:0.0.0.0:1").loopback());
  CHECK_FALSE(parse_listen("tcp:[::]:1").loopback());
  CHECK(parse_listen("unix:relative.sock").path == "relative.sock");
  CHECK(parse_listen("unix:/x").loopback());
  for (const auto* text : {"", "127.0.0.1:80", "tcp:127.0.0.1", "tcp::80", "tcp:127.0.0.1:", "tcp:127.0.0.1:x",
                           "tcp:127.0.0.1:70000", "tcp:::1:80", "tcp:[::1]", "tcp:example.org:80", "unix:"}) {
    INFO(text);
    CHECK_THROWS_AS(parse_listen(text), std::invalid_argument);
  }
}
