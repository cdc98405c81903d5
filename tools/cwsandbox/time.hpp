// Points in time as people write them on a command line.
#pragma once

#include <chrono>
#include <string>

namespace cli {

/// "90", "90s", "15m", "2h", "1d", "1h30m": so long before `now`; or RFC 3339, "2026-01-31T12:00:00Z".
/// \throws std::invalid_argument
[[nodiscard]] std::chrono::system_clock::time_point parse_since(const std::string& text, std::chrono::system_clock::time_point now);

}  // namespace cli
