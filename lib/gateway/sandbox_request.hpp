// From what a request asks for to what a runner is asked for.
#pragma once

#include "gateway/gateway.hpp"
#include "protocol/connect.hpp"
#include "protocol/messages.hpp"
#include "runner/runner.hpp"

#include <map>
#include <string>
#include <vector>

namespace cwsandbox::gateway {

/// What `asked` is to be made from, all but the id. Gives `asked` its one container and that its name, and takes the content of the
/// initial files out of it: an answer names them only. Throws ServiceError, which names the fields that are wrong, that this
/// gateway does not know or that `runner` refuses.
[[nodiscard]] runner::SandboxSpec check_request(protocol::SandboxSpec& asked, const GatewayOptions& options,
                                                const runner::Runner& runner);

/// Rules for what may be run; the field names are those of the JSON.
void check_environment(const std::map<std::string, std::string>& env, const std::string& field,
                       std::vector<protocol::FieldViolation>& violations);
void check_command(const std::vector<std::string>& command, const std::string& field,
                   std::vector<protocol::FieldViolation>& violations);
void check_directory(const std::string& directory, const std::string& field, std::vector<protocol::FieldViolation>& violations);

}  // namespace cwsandbox::gateway
