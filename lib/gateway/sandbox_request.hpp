// From what a request asks for to what a runner is asked for.
#pragma once

#include "gateway/errors.hpp"
#include "gateway/gateway.hpp"
#include "messages/sandbox.hpp"
#include "protocol/connect.hpp"
#include "runner/runner.hpp"

#include <map>
#include <string>
#include <vector>

namespace cwsandbox::gateway {

/// Throws ServiceError, which names the fields that ask for what no runner is asked for, or that are not known here and would
/// change what is given.
void check_served(const messages::CreateSandboxRequest& request);

/// What `asked` is to be made from, all but the id. Gives `asked` its one container and that its name, and takes the content of the
/// initial files out of it: an answer names them only. Throws ServiceError, which names the fields that are wrong or that `runner`
/// refuses. Precondition: check_served has passed.
[[nodiscard]] runner::SandboxSpec check_request(messages::SandboxSpec& asked, const GatewayOptions& options,
                                                const runner::Runner& runner);

/// Rules for what may be run; the field names are those of the JSON.
void check_environment(const std::map<std::string, std::string>& env, const std::string& field, Violations& violations);
void check_command(const std::vector<std::string>& command, const std::string& field, Violations& violations);
void check_directory(const std::string& directory, const std::string& field, Violations& violations);

}  // namespace cwsandbox::gateway
