#include <cwsandbox/duration.hpp>

#include <cmath>
#include <stdexcept>
#include <string>

namespace cwsandbox::detail {

namespace {

// Far beyond what is meant, and far within what clocks and the wire can hold.
constexpr std::chrono::hours kMost{24 * 365 * 100};

}  // namespace

std::chrono::milliseconds to_milliseconds(Duration duration, const char* option) {
  const double count = duration.count();
  const auto refuse = [option](const char* why) {
    throw std::invalid_argument(std::string("cwsandbox: the ") + option + " is " + why);
  };
  if (std::isnan(count)) refuse("not a number");
  if (count < 0) refuse("negative");
  if (count >= static_cast<double>(std::chrono::milliseconds(kMost).count())) return kMost;
  // A product that should be whole, 1.1 s for one, may be off by its last bit: that is no fraction.
  const double nearest = std::round(count);
  const bool whole = std::abs(count - nearest) <= nearest * 1e-12;
  return std::chrono::milliseconds(static_cast<std::chrono::milliseconds::rep>(whole ? nearest : std::ceil(count)));
}

std::chrono::seconds to_seconds(Duration duration, const char* option) {
  return std::chrono::ceil<std::chrono::seconds>(to_milliseconds(duration, option));
}

void check_time_limit(double seconds) {
  if (std::isnan(seconds)) throw std::invalid_argument("cwsandbox: the time limit is not a number");
}

}  // namespace cwsandbox::detail
