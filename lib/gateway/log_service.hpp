// StreamLogs: what a main command wrote, from its log to a client.
#pragma once

#include "gateway/context.hpp"
#include "gateway/sandboxes.hpp"
#include "gateway/server_stream.hpp"
#include "messages/logs.hpp"

#include <boost/asio/awaitable.hpp>

#include <chrono>
#include <memory>

namespace cwsandbox::gateway {

/// Sends entries until everything was sent (with `follow`: until the sandbox has ended), the deadline has passed or the client has
/// gone. The caller ends the stream. Throws ServiceError; boost::system::system_error when the connection is lost.
[[nodiscard]] asio::awaitable<void> stream_logs(std::shared_ptr<Context> context, std::shared_ptr<OwnSandboxes> sandboxes,
                                                messages::StreamLogsRequest request, ServerStream& stream,
                                                std::chrono::steady_clock::time_point deadline);

}  // namespace cwsandbox::gateway
