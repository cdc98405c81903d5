// The request that makes a sandbox, from the options of a program.
#pragma once

#include <cwsandbox/sandbox.hpp>

#include "client/backend.hpp"

#include <string>

namespace cwsandbox::client {

/// The JSON of CreateSandbox with a request id of its own. Throws std::invalid_argument that names the option at fault.
[[nodiscard]] std::string make_create_request(const SandboxOptions& options, const Settings& settings);

}  // namespace cwsandbox::client
