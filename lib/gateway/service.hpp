// The methods of coreweave.sandbox.v1.SandboxService over the Connect protocol.
#pragma once

#include "gateway/context.hpp"
#include "gateway/sandboxes.hpp"
#include "net/http.hpp"

#include <boost/asio/awaitable.hpp>

#include <memory>
#include <optional>
#include <string_view>

namespace cwsandbox::gateway {

inline constexpr std::string_view kServicePath = "/coreweave.sandbox.v1.SandboxService/";

[[nodiscard]] net::HttpResponse error_response(const protocol::ConnectError& error);

/// What can be said about a request to the service before its body is read; nothing when the body is wanted.
[[nodiscard]] std::optional<net::HttpResponse> check_service_request(const net::HttpRequest& request);

/// Answers a request that `check_service_request` let pass. Throws nothing.
[[nodiscard]] asio::awaitable<net::HttpResponse> serve(std::shared_ptr<Context> context, std::shared_ptr<Sandboxes> sandboxes,
                                                       const net::HttpRequest& request);

}  // namespace cwsandbox::gateway
