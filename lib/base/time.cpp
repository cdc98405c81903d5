#include "base/time.hpp"

#include "base/ascii.hpp"

namespace cwsandbox::base {

std::optional<std::chrono::system_clock::time_point> parse_timestamp(std::string_view text) {
  const auto digits = [&](std::size_t at, std::size_t count) -> std::optional<int> {
    if (text.size() < at + count) return std::nullopt;
    int value = 0;
    for (std::size_t i = at; i < at + count; ++i) {
      if (!is_digit(text[i])) return std::nullopt;
      value = value * 10 + (text[i] - '0');
    }
    return value;
  };
  const auto is = [&](std::size_t at, std::string_view any) {
    return at < text.size() && any.find(text[at]) != std::string_view::npos;
  };
  const auto year = digits(0, 4), month = digits(5, 2), day = digits(8, 2), hour = digits(11, 2), minute = digits(14, 2),
             second = digits(17, 2);
  if (!year || !month || !day || !hour || !minute || !second || !is(4, "-") || !is(7, "-") || !is(10, "Tt") || !is(13, ":") ||
      !is(16, ":")) {
    return std::nullopt;
  }
  std::size_t at = 19;
  std::int64_t nanos = 0;
  if (is(at, ".")) {
    std::int64_t scale = 100'000'000;
    const std::size_t first = ++at;
    while (at < text.size() && is_digit(text[at])) {
      nanos += (text[at++] - '0') * scale;
      scale /= 10;
    }
    if (at == first || at - first > 9) return std::nullopt;
  }
  int offset_minutes = 0;
  if (is(at, "Zz")) {
    ++at;
  } else if (is(at, "+-") && is(at + 3, ":")) {
    const auto hours = digits(at + 1, 2), minutes = digits(at + 4, 2);
    if (!hours || !minutes || *hours > 23 || *minutes > 59) return std::nullopt;
    offset_minutes = (*hours * 60 + *minutes) * (text[at] == '-' ? -1 : 1);
    at += 6;
  } else {
    return std::nullopt;
  }
  using namespace std::chrono;
  const year_month_day date{std::chrono::year(*year), std::chrono::month(static_cast<unsigned>(*month)),
                            std::chrono::day(static_cast<unsigned>(*day))};
  // system_clock counts nanoseconds in 64 bits: what it cannot hold (before 1678, after 2261) is refused, not wrapped.
  if (at != text.size() || !date.ok() || *hour > 23 || *minute > 59 || *second > 59 || *year < 1678 || *year > 2261)
    return std::nullopt;
  const auto seconds_total =
      sys_days(date).time_since_epoch() + hours(*hour) + minutes(*minute - offset_minutes) + seconds(*second);
  return system_clock::time_point(duration_cast<system_clock::duration>(seconds_total) +
                                  duration_cast<system_clock::duration>(nanoseconds(nanos)));
}

std::string format_timestamp(std::chrono::system_clock::time_point time, Fraction fraction) {
  using namespace std::chrono;
  const auto whole = floor<seconds>(time);
  const auto day = floor<days>(whole);
  const year_month_day date{day};
  const hh_mm_ss clock{whole - day};
  const auto nanos = duration_cast<nanoseconds>(time - whole).count();
  std::string out;
  const auto pad = [&](std::int64_t value, std::size_t width) {
    const std::string digits = std::to_string(value);
    if (digits.size() < width) out.append(width - digits.size(), '0');
    out += digits;
  };
  pad(static_cast<int>(date.year()), 4);
  out += '-';
  pad(static_cast<unsigned>(date.month()), 2);
  out += '-';
  pad(static_cast<unsigned>(date.day()), 2);
  out += 'T';
  pad(clock.hours().count(), 2);
  out += ':';
  pad(clock.minutes().count(), 2);
  out += ':';
  pad(clock.seconds().count(), 2);
  if (nanos != 0 || fraction == Fraction::nine) {
    out += '.';
    if (fraction == Fraction::nine || nanos % 1000 != 0) {
      pad(nanos, 9);
    } else if (nanos % 1'000'000 != 0) {
      pad(nanos / 1000, 6);
    } else {
      pad(nanos / 1'000'000, 3);
    }
  }
  return out + 'Z';
}

}  // namespace cwsandbox::base
