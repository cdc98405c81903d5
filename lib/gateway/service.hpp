// The methods of coreweave.sandbox.v1.SandboxService and cwsandbox.v1.FileService over the Connect protocol.
#pragma once

#include "gateway/context.hpp"
#include "gateway/sandboxes.hpp"
#include "net/http_server.hpp"

#include <boost/asio/awaitable.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

namespace cwsandbox::gateway {

/// Whether the path is one of a method, known or not.
[[nodiscard]] bool is_service_path(std::string_view path) noexcept;
/// Whether the path is that of a method which answers with a stream.
[[nodiscard]] bool is_streamed_path(std::string_view path) noexcept;

[[nodiscard]] net::HttpResponse error_response(const protocol::ConnectError& error);

/// What can be said about a request to the service before its body is read; nothing when the body is wanted.
[[nodiscard]] std::optional<net::HttpResponse> check_service_request(const net::HttpRequest& request);

/// Answers a request that `check_service_request` let pass. Throws nothing.
[[nodiscard]] asio::awaitable<net::HttpResponse> serve(std::shared_ptr<Context> context, std::shared_ptr<OwnSandboxes> sandboxes,
                                                       const net::HttpRequest& request);

/// The same for a method which answers with a stream; returns the bytes sent. Throws boost::system::system_error when the
/// connection is lost.
[[nodiscard]] asio::awaitable<std::uint64_t> serve_stream(std::shared_ptr<Context> context, std::shared_ptr<OwnSandboxes> sandboxes,
                                                          net::ServerExchange& exchange);

}  // namespace cwsandbox::gateway
