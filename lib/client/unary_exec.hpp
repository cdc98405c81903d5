// Exec for a server that knows no exec stream: one request, one answer (the published service's unary `Exec`).
#pragma once

#include "client/backend.hpp"
#include "messages/exec.hpp"
#include "net/http.hpp"
#include "protocol/exec_stream.hpp"

#include <boost/asio/awaitable.hpp>

#include <exception>
#include <memory>

namespace cwsandbox::client {

/// Whether this answer to the upgrade means that the server has no exec stream, rather than that it cannot serve it now.
[[nodiscard]] bool means_no_exec_stream(const net::HttpResponse& answer);

/// What is refused without the stream: `what` needs it.
[[nodiscard]] std::exception_ptr needs_exec_stream(const std::string& what);

/// Runs it. Throws an exception of the tree; SandboxRequestTimeoutError with the code `deadline_exceeded` when the server has
/// stopped the command at its timeout. Not repeated once the server may have run it.
[[nodiscard]] asio::awaitable<messages::ExecResponse> exec_unary(std::shared_ptr<Backend> backend, protocol::StartRequest request);

}  // namespace cwsandbox::client
