// Requests whose body is written, and whose answer is read, piece by piece.
#pragma once

#include "net/http_client.hpp"
#include "net/http_client_state.hpp"

#include <boost/asio/awaitable.hpp>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>

namespace cwsandbox::net {

/// See `HttpClient::open`.
[[nodiscard]] asio::awaitable<std::unique_ptr<ClientExchange>> open_exchange(
    std::shared_ptr<ClientState> client, HttpRequest request, std::optional<std::uint64_t> body_length, bool expect_continue,
    std::chrono::steady_clock::time_point connect_deadline, std::chrono::steady_clock::duration idle_timeout);

}  // namespace cwsandbox::net
