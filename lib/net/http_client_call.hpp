// A call of the HTTP client under way, a request, an upgrade or an exchange: until when it may take, and what ends it early.
#pragma once

#include "net/any_byte_stream.hpp"
#include "net/http_client.hpp"
#include "net/watchdog.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>

#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace cwsandbox::net {

/// Everything on `executor`.
struct ClientCall {
  using Clock = Watchdog::Clock;

  /// `owner`: the client's state, since the work may outlive the caller's coroutine. It holds what `peer` refers to, the name of
  /// the endpoint for messages.
  ClientCall(asio::any_io_executor executor, Clock::time_point deadline, std::shared_ptr<const void> owner, std::string_view peer);

  const asio::any_io_executor executor;
  Clock::time_point deadline;
  const std::shared_ptr<const void> owner;
  const std::string_view peer;
  std::optional<Watchdog> watchdog;
  std::shared_ptr<Transport> transport;     // what a deadline or a cancellation closes
  Socket* connecting = nullptr;             // likewise, before there is a transport
  asio::steady_timer* resolving = nullptr;  // likewise, before there is an address
  bool cancelled = false, timed_out = false, sent = false;

  // The result.
  HttpResponse response;
  std::unique_ptr<WebSocket> socket;

  /// Has `deadline` end the call.
  void arm();
  void stop() noexcept;
  void cancel() noexcept;
  /// Throws what the caller is to see: that the call was cancelled or is too late, where it is, before anything else.
  [[noreturn]] void fail(TransportError::Kind kind, const std::string& what, const error_code& ec = {}) const;
};

/// However the coroutine ends that has it: nothing pending, and no connection that nobody owns.
struct EndOfCall {
  std::shared_ptr<ClientCall> call;
  explicit EndOfCall(std::shared_ptr<ClientCall> c) : call(std::move(c)) {}
  EndOfCall(const EndOfCall&) = delete;
  EndOfCall& operator=(const EndOfCall&) = delete;
  ~EndOfCall() {
    call->watchdog.reset();
    if (call->transport) call->transport->close();
    call->transport.reset();
  }
};

/// Starts `work` on the call's executor and waits for it from the caller's. Cancelling the caller cancels the call.
[[nodiscard]] asio::awaitable<void> drive(std::shared_ptr<ClientCall> call, asio::awaitable<void> work);

}  // namespace cwsandbox::net
