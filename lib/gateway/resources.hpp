// From the quantities of a request to what a runner is asked for.
#pragma once

#include "gateway/errors.hpp"
#include "gateway/gateway.hpp"
#include "messages/sandbox.hpp"
#include "protocol/connect.hpp"
#include "runner/runner.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace cwsandbox::gateway {

/// A quantity as Kubernetes writes it ("500m", "1.5", "512Mi", "4e9"), in parts of 1/`scale`, rounded up. Empty for what is none,
/// for 0, and for what is too large to count.
[[nodiscard]] std::optional<std::uint64_t> parse_quantity(std::string_view text, unsigned scale);

/// What the container asks for; `field` is its name in the JSON. What is wrong goes to `violations`.
[[nodiscard]] runner::ResourceSpec check_resources(const messages::Container& container, const GatewayOptions& options,
                                                   const std::string& field, Violations& violations);

}  // namespace cwsandbox::gateway
