/// \file
/// Duration: how options take a length of time.
#pragma once

#include <cwsandbox/export.hpp>

#include <chrono>

namespace cwsandbox {

/// A length of time in any unit, whole or not: `std::chrono::minutes(2)`, `1500ms`, `0.5s`. Options keep it in milliseconds, a
/// fraction of one counted as a whole one (TY-6). More than 100 years, infinity too, counts as 100 years.
///
/// \par Errors
/// Whatever takes one throws std::invalid_argument, which names the option, for a negative one and for what is not a number.
using Duration = std::chrono::duration<double, std::milli>;

namespace detail {
[[nodiscard]] CWSANDBOX_EXPORT std::chrono::milliseconds to_milliseconds(Duration duration, const char* option);
/// In whole seconds, in the same way.
[[nodiscard]] CWSANDBOX_EXPORT std::chrono::seconds to_seconds(Duration duration, const char* option);
/// \throws std::invalid_argument for seconds that are not a number.
CWSANDBOX_EXPORT void check_time_limit(double seconds);
}  // namespace detail

}  // namespace cwsandbox
