// Points in time as text.
#include "base/time.hpp"
#include "support/catch.hpp"

#include <string>

using namespace cwsandbox::base;
using namespace std::chrono;

TEST_CASE("a time is read as RFC 3339 has it, and nothing else is", "[base]") {
  const auto noon = sys_days(year(2024) / 2 / 29) + hours(12);
  CHECK(parse_timestamp("2024-02-29T12:00:00Z") == noon);
  CHECK(parse_timestamp("2024-02-29t13:30:00+01:30") == noon);
  CHECK(parse_timestamp("2024-02-29T07:00:00-05:00") == noon);
  CHECK(parse_timestamp("2024-02-29T12:00:00.123456789z") == noon + nanoseconds(123456789));
  CHECK(parse_timestamp("1969-12-31T23:59:59.5Z") == sys_days(year(1970) / 1 / 1) - milliseconds(500));
  for (const char* bad : {"", "2024", "2023-02-29T12:00:00Z", "2024-13-01T12:00:00Z", "2024-01-01T24:00:00Z",
                          "2024-01-01T12:60:00Z", "2024-01-01T12:00:00", "2024-01-01 12:00:00Z", "2024-01-01T12:00:00.Z",
                          "2024-01-01T12:00:00.1234567890Z", "2024-01-01T12:00:00+1:00", "2024-01-01T12:00:00Zx",
                          "9999-01-01T12:00:00Z", "0001-01-01T00:00:00Z", "2024-01-01T12:00:00+24:00", "-024-01-01T12:00:00Z"}) {
    INFO(bad);
    CHECK(!parse_timestamp(bad));
  }
}

TEST_CASE("a time is written with as many digits as it has, or with nine", "[base]") {
  const sys_time<nanoseconds> noon = sys_days(year(2024) / 2 / 29) + hours(12);
  CHECK(format_timestamp(noon) == "2024-02-29T12:00:00Z");
  CHECK(format_timestamp(noon + milliseconds(120)) == "2024-02-29T12:00:00.120Z");
  CHECK(format_timestamp(noon + microseconds(1)) == "2024-02-29T12:00:00.000001Z");
  CHECK(format_timestamp(noon + nanoseconds(1)) == "2024-02-29T12:00:00.000000001Z");
  CHECK(format_timestamp(noon, Fraction::nine) == "2024-02-29T12:00:00.000000000Z");
  CHECK(format_timestamp(noon + milliseconds(120), Fraction::nine) == "2024-02-29T12:00:00.120000000Z");
  const auto before = sys_days(year(1970) / 1 / 1) - milliseconds(500);
  CHECK(format_timestamp(before) == "1969-12-31T23:59:59.500Z");
  CHECK(parse_timestamp(format_timestamp(before)) == before);
}
