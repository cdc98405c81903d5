// Names: of errors, and of DNS.
#include "base/dns_name.hpp"
#include "base/errno_text.hpp"
#include "support/catch.hpp"

#include <cerrno>
#include <string>

using namespace cwsandbox::base;

TEST_CASE("an error has a name, and the name a number", "[base]") {
  CHECK(errno_name(ENOENT) == "ENOENT");
  CHECK(errno_name(4000) == "4000");
  CHECK(errno_number("ENOENT") == ENOENT);
  CHECK(errno_number("4000") == 4000);
  for (int number = 1; number < 200; ++number) CHECK(errno_number(errno_name(number)) == number);
  for (const char* bad : {"", "ENOSUCH", "enoent", "0", "-2", "2x"}) {
    INFO(bad);
    CHECK(errno_number(bad) == EIO);
  }
  CHECK(error_text(ENOENT) == "No such file or directory (ENOENT)");
  CHECK(error_text(4000) == "unknown error (4000)");
}

TEST_CASE("a name of DNS is one of RFC 1123", "[base]") {
  CHECK(is_dns_label("a"));
  CHECK(is_dns_label("0-a"));
  CHECK(is_dns_label(std::string(63, 'a')));
  for (const std::string& bad : {std::string(), std::string("-a"), std::string("a-"), std::string("A"), std::string("a.b"),
                                 std::string("a_b"), std::string(64, 'a')}) {
    INFO(bad);
    CHECK(!is_dns_label(bad));
  }
  CHECK(is_dns_name("a"));
  CHECK(is_dns_name("a.b-c.d"));
  CHECK(!is_dns_name(""));
  CHECK(!is_dns_name("."));
  CHECK(!is_dns_name("a."));
  CHECK(!is_dns_name("a..b"));
  std::string longest;
  for (int i = 0; i < 126; ++i) longest += "a.";
  CHECK(is_dns_name(longest + "a"));  // 253
  CHECK(!is_dns_name(longest + "aa"));
}
