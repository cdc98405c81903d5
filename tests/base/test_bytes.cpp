// Bytes as text: base64, hexadecimal, percent signs, and bytes that nobody can foresee.
#include "base/base64.hpp"
#include "base/hex.hpp"
#include "base/random.hpp"
#include "support/catch.hpp"

#include <array>
#include <set>
#include <string>

using namespace cwsandbox::base;

namespace {

std::string all_bytes() {
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  return all;
}

}  // namespace

TEST_CASE("base64 takes both alphabets, padded or not, and nothing else", "[base]") {
  CHECK(base64_encode("") == "");
  CHECK(base64_encode("f") == "Zg==");
  CHECK(base64_encode("fo") == "Zm8=");
  CHECK(base64_encode("foo") == "Zm9v");
  CHECK(base64_encode("f", false) == "Zg");
  CHECK(base64_encode("\xfb\xff") == "+/8=");
  CHECK(base64_decode("+/8=") == std::string("\xfb\xff"));
  CHECK(base64_decode("-_8") == std::string("\xfb\xff"));
  CHECK(base64_decode("") == std::string());
  CHECK(!base64_decode("Z"));
  CHECK(!base64_decode("Zg="));
  CHECK(!base64_decode("Zg==Zg=="));
  CHECK(!base64_decode("===="));
  CHECK(!base64_decode("Z g="));
  CHECK(base64_decode(base64_encode(all_bytes())) == all_bytes());
}

TEST_CASE("hexadecimal digits are written in lower case and read in either", "[base]") {
  CHECK(to_hex(std::string_view()) == "");
  CHECK(to_hex(std::string_view("\x00\x7f\x80\xff", 4)) == "007f80ff");
  constexpr std::array<unsigned char, 2> bytes = {0xab, 0x01};
  CHECK(to_hex(bytes) == "ab01");
  CHECK(hex_value('0') == 0);
  CHECK(hex_value('9') == 9);
  CHECK(hex_value('a') == 10);
  CHECK(hex_value('F') == 15);
  int known = 0;
  for (const char c : all_bytes()) known += hex_value(c) >= 0 ? 1 : 0;
  CHECK(known == 22);
}

TEST_CASE("a part of a URL holds unreserved characters and percent signs", "[base]") {
  CHECK(percent_encode("aZ09-._~") == "aZ09-._~");
  CHECK(percent_encode("a b/\xc3\xa4+%") == "a%20b%2F%C3%A4%2B%25");
  CHECK(percent_encode("/tmp/a b", "/") == "/tmp/a%20b");
  CHECK(percent_decode("") == std::string());
  CHECK(percent_decode("a%2fb%2F+") == std::string("a/b/+"));
  CHECK(percent_decode(percent_encode(all_bytes())) == all_bytes());
  for (const char* bad : {"%", "%2", "a%2", "%g0", "%0g", "%%20"}) {
    INFO(bad);
    CHECK(!percent_decode(bad));
  }
}

TEST_CASE("random bytes are as many as were asked for, and other ones each time", "[base]") {
  CHECK(random_hex(0).empty());
  std::set<std::string> seen;
  for (int i = 0; i < 100; ++i) {
    const std::string text = random_hex(16);
    CHECK(text.size() == 32);
    CHECK(text.find_first_not_of("0123456789abcdef") == std::string::npos);
    seen.insert(text);
  }
  CHECK(seen.size() == 100);
}
