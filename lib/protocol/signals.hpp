// Signal names as Linux has them. The wire carries names, because numbers differ between kernels.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace cwsandbox::protocol {

/// "SIGKILL" for 9, "SIGRTMIN+2" for 36; empty when there is no such signal.
[[nodiscard]] std::string signal_name(int number);

/// From "SIGKILL", "KILL" or "9".
[[nodiscard]] std::optional<int> signal_number(std::string_view name);

}  // namespace cwsandbox::protocol
