// Characters, numbers, and text from elsewhere made safe to show.
#include "base/ascii.hpp"
#include "base/numbers.hpp"
#include "base/text.hpp"
#include "support/catch.hpp"

#include <cstdint>
#include <limits>
#include <string>

using namespace cwsandbox::base;

TEST_CASE("UTF-8 is judged strictly", "[base]") {
  CHECK(is_utf8("plain"));
  CHECK(is_utf8("\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"));
  CHECK(is_utf8(std::string_view("\0\x7f", 2)));
  CHECK(is_utf8("\xed\x9f\xbf\xee\x80\x80\xf4\x8f\xbf\xbf"));  // beside the surrogates, and the last
  CHECK(!is_utf8("\xc0\x80"));                                 // overlong
  CHECK(!is_utf8("\xe0\x80\x80"));                             // overlong
  CHECK(!is_utf8("\xf0\x8f\xbf\xbf"));                         // overlong
  CHECK(!is_utf8("\xed\xa0\x80"));                             // surrogate
  CHECK(!is_utf8("\xf4\x90\x80\x80"));                         // above U+10FFFF
  CHECK(!is_utf8("\xf5\x80\x80\x80"));
  CHECK(!is_utf8("\xe2\x82"));  // cut
  CHECK(!is_utf8("\x80"));
  CHECK(utf8_character("") == 0);
  CHECK(utf8_character("\xc3\xa4\xff") == 2);
  CHECK(utf8_character("\xff") == 0);
}

TEST_CASE("a reason is printable ASCII and never longer than its bound", "[base]") {
  CHECK(printable("as it is: \"a\\b\"", 100) == "as it is: \"a\\b\"");
  CHECK(printable("a\nb\x7f\xc3\xa4", 100) == "a?b???");
  CHECK(printable("12345678", 8) == "12345678");
  CHECK(printable("123456789", 8) == "12345...");
  CHECK(printable(std::string(1000, '\xff'), 123).size() == 123);
}

TEST_CASE("what a line of a log quotes can neither forge a line nor end its quotes", "[base]") {
  CHECK(escaped("GET /a?b=c", 100) == "GET /a?b=c");
  CHECK(escaped("a\nb\"c\\d\x7f\xc3\xa4", 100) == "a\\x0ab\\x22c\\x5cd\\x7f\\xc3\\xa4");
  CHECK(escaped("12345678", 8) == "12345678");
  CHECK(escaped("123456789", 8) == "12345678...");
  CHECK(in_quotes("a\"b", 100) == "\"a\\x22b\"");
}

TEST_CASE("a path in a text is always printable", "[base]") {
  CHECK(printable_utf8("/tmp/a b") == "/tmp/a b");
  CHECK(printable_utf8("\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80") == "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80");
  CHECK(printable_utf8("a\nb\x7f\x1b[0m") == "a\\x0ab\\x7f\\x1b[0m");
  CHECK(printable_utf8("\xff\xc3") == "\\xff\\xc3");
  CHECK(printable_utf8("\xc0\xaf\xed\xa0\x80\xc2\x85") == "\\xc0\\xaf\\xed\\xa0\\x80\\xc2\\x85");
  CHECK(printable_utf8(std::string(5000, 'x')).size() < 600);
}

TEST_CASE("letters are those of ASCII", "[base]") {
  CHECK(to_lower("aBZ-09\xc3\x84") == "abz-09\xc3\x84");
  CHECK(same_but_for_case("Content-Type", "content-tYPE"));
  CHECK(!same_but_for_case("a", "ab"));
  CHECK(!same_but_for_case("@", "`"));  // 32 apart, and no letters
  CHECK(!same_but_for_case("\xc3\x84", "\xc3\xa4"));
  CHECK(only_letters_digits_and("-_", "aZ0-_"));
  CHECK(only_letters_digits_and("", ""));
  CHECK(!only_letters_digits_and("-_", "a.b"));
  CHECK(!only_letters_digits_and("", "\xc3\xa4"));
  CHECK(trimmed(" \ta b\r\n") == "a b");
  CHECK(trimmed(" \t") == "");
  CHECK(trimmed("//a/", "/") == "a");
}

TEST_CASE("a number is all of a text or none", "[base]") {
  CHECK(parse_number<int>("-12") == -12);
  CHECK(parse_number<std::uint16_t>("65535") == 65535);
  CHECK(parse_number<std::uint64_t>("18446744073709551615") == std::numeric_limits<std::uint64_t>::max());
  CHECK(parse_number<unsigned>("0755", 8) == 0755U);
  CHECK(parse_number<unsigned>("fF", 16) == 255U);
  for (const char* bad : {"", "-", "-1", "+1", " 1", "1 ", "1a", "65536", "0x1"}) {
    INFO(bad);
    CHECK(!parse_number<std::uint16_t>(bad));
  }
  CHECK(!parse_number<unsigned>("8", 8));
  CHECK(to_octal(0) == "0");
  CHECK(to_octal(0644, 4) == "0644");
  CHECK(to_octal(07777, 4) == "7777");
  CHECK(to_octal(std::numeric_limits<std::uint64_t>::max()) == "1777777777777777777777");
}
