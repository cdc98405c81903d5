#include "net/http_client_call.hpp"

#include "base/descriptor_limit.hpp"

#include <boost/asio/bind_executor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <exception>
#include <utility>

namespace cwsandbox::net {

ClientCall::ClientCall(asio::any_io_executor its_executor, Clock::time_point its_deadline, std::shared_ptr<const void> its_owner,
                       std::string_view its_peer)
    : executor(std::move(its_executor)), deadline(its_deadline), owner(std::move(its_owner)), peer(its_peer) {}

void ClientCall::arm() {
  // The watchdog belongs to the call.
  watchdog.emplace(executor, [this] {
    timed_out = true;
    stop();
  });
  watchdog->expires_at(deadline);
}

void ClientCall::stop() noexcept {
  error_code ignored;
  if (transport) transport->close();
  if (connecting != nullptr) connecting->close(ignored);
  if (resolving != nullptr) resolving->cancel();
}

void ClientCall::cancel() noexcept {
  cancelled = true;
  stop();
}

void ClientCall::fail(TransportError::Kind kind, const std::string& what, const error_code& ec) const {
  if (cancelled) throw boost::system::system_error(asio::error::operation_aborted);
  std::string text = std::string(peer) + ": " + what;
  if (timed_out) throw TransportError(TransportError::Kind::timeout, sent, text + ": the deadline has passed");
  if (ec) text += ": " + ec.message();
  if (ec.category() == boost::system::system_category()) text += base::descriptor_hint(ec.value());
  throw TransportError(kind, sent, text);
}

// co_spawn's own forwarding of cancellation crosses executors through a pointer that may die meanwhile (Boost 1.81), so the call
// carries it.
asio::awaitable<void> drive(std::shared_ptr<ClientCall> call, asio::awaitable<void> work) {
  auto initiate = [&call, &work](auto handler) {
    auto slot = asio::get_associated_cancellation_slot(handler);
    auto executor = asio::get_associated_executor(handler);
    if (slot.is_connected()) {
      slot.assign([weak = std::weak_ptr<ClientCall>(call)](asio::cancellation_type /*type*/) {
        auto target = weak.lock();
        if (!target) return;
        auto on = target->executor;
        asio::post(on, [target = std::move(target)] { target->cancel(); });
      });
    }
    auto done = [handler = std::move(handler), slot](std::exception_ptr error) mutable {
      if (slot.is_connected()) slot.clear();
      std::move(handler)(std::move(error));
    };
    asio::co_spawn(call->executor, std::move(work), asio::bind_executor(executor, std::move(done)));
  };
  auto token = asio::use_awaitable;
  co_await asio::async_initiate<decltype(token)&, void(std::exception_ptr)>(initiate, token);
}

}  // namespace cwsandbox::net
