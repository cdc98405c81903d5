// Watch: what happens to a file of a sandbox, as it happens.
#pragma once

#include "gateway/context.hpp"
#include "gateway/sandboxes.hpp"
#include "gateway/server_stream.hpp"
#include "messages/files.hpp"

#include <boost/asio/awaitable.hpp>

#include <chrono>
#include <memory>

namespace cwsandbox::gateway {

/// Sends events until what is watched has gone, the sandbox has ended, the deadline has passed or the client has gone. The caller
/// ends the stream. Throws ServiceError; boost::system::system_error when the connection is lost.
///
/// No event waits here: while the client does not take what is being sent, they stay with the sandbox's system, whose queue has an
/// end of its own.
[[nodiscard]] asio::awaitable<void> watch_file(std::shared_ptr<Context> context, std::shared_ptr<OwnSandboxes> sandboxes,
                                               messages::WatchFileRequest request, ServerStream& stream,
                                               std::chrono::steady_clock::time_point deadline);

}  // namespace cwsandbox::gateway
