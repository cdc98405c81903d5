// Names: of errors, and of DNS.
#include "base/dns_name.hpp"
#include "base/errno_text.hpp"
#include "base/error_code.hpp"
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

TEST_CASE("a code of an error has gRPC's number and Connect's name", "[base]") {
  CHECK(static_cast<int>(ErrorCode::canceled) == 1);
  CHECK(static_cast<int>(ErrorCode::unauthenticated) == 16);
  CHECK(to_string(ErrorCode::canceled) == "canceled");
  CHECK(to_string(ErrorCode::invalid_argument) == "invalid_argument");
  CHECK(to_string(ErrorCode::failed_precondition) == "failed_precondition");
  CHECK(to_string(ErrorCode::unauthenticated) == "unauthenticated");
  for (int number = 1; number <= 16; ++number) {
    const auto code = static_cast<ErrorCode>(number);
    CHECK(parse_error_code(to_string(code)) == code);
  }
  for (const char* bad : {"", "ok", "NOT_FOUND", "not found", "not_found ", "cancelled"}) {
    INFO(bad);
    CHECK(!parse_error_code(bad));
  }
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
