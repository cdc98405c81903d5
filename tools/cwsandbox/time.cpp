#include "time.hpp"

#include <charconv>
#include <cstdio>
#include <ctime>
#include <optional>
#include <stdexcept>

namespace cli {

namespace {

constexpr std::int64_t kMost = std::int64_t{100} * 366 * 86400;  // no log is older

std::optional<std::chrono::seconds> parse_duration(const std::string& text) {
  std::int64_t total = 0;
  const char* at = text.data();
  const char* const end = at + text.size();
  if (at == end) return std::nullopt;
  while (at != end) {
    std::int64_t number = 0;
    const auto parsed = std::from_chars(at, end, number);
    if (parsed.ec != std::errc() || number < 0 || number > kMost) return std::nullopt;
    const char unit = parsed.ptr == end ? 's' : *parsed.ptr;
    const std::int64_t seconds = unit == 's' ? 1 : unit == 'm' ? 60 : unit == 'h' ? 3600 : unit == 'd' ? 86400 : 0;
    if (seconds == 0 || number > kMost / seconds) return std::nullopt;
    total += number * seconds;
    if (total > kMost) return std::nullopt;
    at = parsed.ptr == end ? end : parsed.ptr + 1;
  }
  return std::chrono::seconds(total);
}

std::optional<std::chrono::system_clock::time_point> parse_time(const std::string& text) {
  std::tm parts{};
  int length = 0;
  if (std::sscanf(text.c_str(), "%4d-%2d-%2d%*1[Tt ]%2d:%2d:%2d%n", &parts.tm_year, &parts.tm_mon, &parts.tm_mday, &parts.tm_hour,
                  &parts.tm_min, &parts.tm_sec, &length) != 6)
    return std::nullopt;
  if (parts.tm_year < 1970 || parts.tm_mon < 1 || parts.tm_mon > 12 || parts.tm_mday < 1 || parts.tm_mday > 31 ||
      parts.tm_hour > 23 || parts.tm_min > 59 || parts.tm_sec > 60 || parts.tm_hour < 0 || parts.tm_min < 0 || parts.tm_sec < 0)
    return std::nullopt;
  parts.tm_year -= 1900;
  --parts.tm_mon;
  auto rest = text.substr(static_cast<std::size_t>(length));
  std::int64_t micros = 0;
  if (!rest.empty() && rest[0] == '.') {
    std::size_t digits = 1;
    std::int64_t scale = 100'000;
    for (; digits < rest.size() && rest[digits] >= '0' && rest[digits] <= '9'; ++digits, scale /= 10)
      micros += (rest[digits] - '0') * scale;
    if (digits == 1) return std::nullopt;
    rest = rest.substr(digits);
  }
  int offset = 0;
  if (rest != "Z" && rest != "z") {
    int hours = 0, minutes = 0, used = 0;
    char sign = 0;
    if (std::sscanf(rest.c_str(), "%c%2d:%2d%n", &sign, &hours, &minutes, &used) != 3 ||
        static_cast<std::size_t>(used) != rest.size() || (sign != '+' && sign != '-') || hours < 0 || hours > 23 || minutes < 0 ||
        minutes > 59)
      return std::nullopt;
    offset = (hours * 60 + minutes) * (sign == '-' ? -60 : 60);
  }
  return std::chrono::system_clock::from_time_t(::timegm(&parts) - offset) + std::chrono::microseconds(micros);
}

}  // namespace

std::chrono::system_clock::time_point parse_since(const std::string& text, std::chrono::system_clock::time_point now) {
  if (const auto duration = parse_duration(text)) return now - *duration;
  if (const auto time = parse_time(text)) return *time;
  throw std::invalid_argument(
      "--since takes how long ago (90s, 15m, 2h, 1d, 1h30m) or a time with its zone (2026-01-31T12:00:00Z), not '" + text + "'");
}

}  // namespace cli
