#include "net/http_server.hpp"

#include "net/http_server_admission.hpp"
#include "net/http_server_listener.hpp"
#include "net/http_server_session.hpp"
#include "net/tls.hpp"

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <list>
#include <utility>
#include <vector>

namespace cwsandbox::net {

namespace {

// Connections over the limit that are being told so, at once; further ones are just closed.
constexpr std::size_t kMaxRefusals = 64;

}  // namespace

struct HttpServer::Impl : ServerState, std::enable_shared_from_this<HttpServer::Impl> {
  Impl(asio::any_io_executor ex, HttpHandler& h, const ServerLimits& l) : ServerState(std::move(ex), h, l), drained(executor) {}

  std::list<std::shared_ptr<ServerListener>> listeners;
  std::size_t refusals = 0;
  asio::steady_timer drained;  // cancelled when the last session has gone

  [[nodiscard]] std::vector<std::shared_ptr<ServerSession>> all_sessions() const {
    std::vector<std::shared_ptr<ServerSession>> out;
    for (const auto& each : admission->all()) out.push_back(std::static_pointer_cast<ServerSession>(each));
    return out;
  }

  ListenAddress listen(const ListenAddress& address, const TlsServerOptions& tls) {
    std::shared_ptr<TlsContext> context;
    if (!tls.certificate_file.empty() || !tls.key_file.empty()) context = make_tls_server_context(tls);
    auto listener = std::make_shared<ServerListener>(executor, std::move(context));
    auto bound = listener->open(address);
    listeners.push_back(listener);
    auto accepted = [self = shared_from_this()](Socket socket, const std::shared_ptr<TlsContext>& with) {
      self->admit(std::move(socket), with);
    };
    asio::co_spawn(executor, ServerListener::accept(listener, admission, std::move(accepted)), [](const std::exception_ptr&) {});
    return bound;
  }

  void reload(const TlsServerOptions& tls) const {
    const auto fresh = make_tls_server_context(tls);
    for (const auto& listener : listeners)
      if (listener->secure()) listener->use(fresh);
  }

  void close_listeners() noexcept {
    for (const auto& listener : listeners) listener->close();
    listeners.clear();
  }

  void admit(Socket socket, const std::shared_ptr<TlsContext>& tls) {
    auto self = shared_from_this();
    if (!admission->room_for_one()) {
      // Behind TLS nothing can be said before a handshake, which is what there is no room for.
      if (tls || refusals >= kMaxRefusals) return;
      ++refusals;
      asio::co_spawn(executor, refuse(make_plain_transport(std::move(socket)), "too many connections"),
                     [self](const std::exception_ptr&) { --self->refusals; });
      return;
    }
    std::shared_ptr<TlsTransport> secure;
    std::shared_ptr<Transport> transport;
    if (tls) {
      transport = secure = make_tls_transport(std::move(socket), tls);
    } else {
      transport = make_plain_transport(std::move(socket));
    }
    auto session = std::make_shared<ServerSession>(executor, std::move(transport));
    admission->enter(session);
    auto ended = [self, session](const std::exception_ptr&) {
      // A WebSocket has taken the transport along; else this is the end of it.
      session->watchdog.reset();
      if (session->transport) session->transport->close();
      session->transport.reset();
      self->admission->leave(*session);
      if (self->admission->empty()) self->drained.cancel();
    };
    asio::co_spawn(executor, serve(self, session, secure), asio::bind_cancellation_slot(session->cancel.slot(), std::move(ended)));
  }

  void drop_sessions() {
    for (const auto& session : all_sessions()) {
      session->drop();
      // co_spawn (Boost 1.81) forwards a cancellation through the executor with a pointer into the signal: the signal must be
      // emitted on the executor, and stay until what that has queued is through.
      asio::post(executor, [session, ex = executor] {
        session->cancel.emit(asio::cancellation_type::terminal);
        asio::post(ex, [session] {});
      });
    }
  }

  static asio::awaitable<void> stop(std::shared_ptr<Impl> self, Watchdog::Clock::duration deadline) {
    self->stopping = true;
    self->close_listeners();
    for (const auto& session : self->all_sessions())
      if (session->idle) session->drop();
    error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    const auto until = Watchdog::Clock::now() + deadline;
    while (!self->admission->empty() && Watchdog::Clock::now() < until) {
      self->drained.expires_at(until);
      co_await self->drained.async_wait(token);
    }
    self->drop_sessions();
  }
};

HttpServer::HttpServer(asio::any_io_executor executor, HttpHandler& handler, ServerLimits limits)
    : impl_(std::make_shared<Impl>(std::move(executor), handler, limits)) {}

HttpServer::~HttpServer() {
  impl_->close_listeners();
  impl_->handler = nullptr;
  impl_->drop_sessions();
  impl_->admission->forget();
  impl_->drained.cancel();
}

ListenAddress HttpServer::listen(const ListenAddress& address, const TlsServerOptions& tls) { return impl_->listen(address, tls); }

void HttpServer::reload(const TlsServerOptions& tls) { impl_->reload(tls); }

asio::awaitable<void> HttpServer::stop(std::chrono::steady_clock::duration deadline) { return Impl::stop(impl_, deadline); }

std::size_t HttpServer::connections() const noexcept { return impl_->admission->seats(); }

}  // namespace cwsandbox::net
