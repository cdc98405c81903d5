// Exec: a command whose whole output comes in one answer.
#pragma once

#include "gateway/context.hpp"
#include "gateway/sandboxes.hpp"
#include "messages/exec.hpp"

#include <boost/asio/awaitable.hpp>

#include <chrono>
#include <memory>
#include <optional>

namespace cwsandbox::gateway {

/// Runs it for as long as `timeout`, or the gateway's own limit, allows, and answers with as much of its output as was asked for.
/// Throws ServiceError. When it is destroyed before, so is the command, soon.
[[nodiscard]] asio::awaitable<messages::ExecResponse> exec_unary(std::shared_ptr<Context> context,
                                                                 std::shared_ptr<OwnSandboxes> sandboxes,
                                                                 messages::ExecRequest request,
                                                                 std::optional<std::chrono::milliseconds> timeout);

}  // namespace cwsandbox::gateway
