#include "net/http_server_session.hpp"

#include "base/error_code.hpp"
#include "base/rate.hpp"
#include "net/http_server_exchange.hpp"
#include "net/http_wire.hpp"
#include "net/sizes.hpp"
#include "net/websocket_stream.hpp"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <stdexcept>
#include <utility>

namespace cwsandbox::net {

namespace {

// A client is refused a hundred times a second without having to wait for it, and waits for a second at most.
constexpr std::chrono::milliseconds kRefusal{10};
constexpr std::chrono::nanoseconds kRefusalsAhead = std::chrono::seconds(1);

asio::awaitable<void> end_gently(std::shared_ptr<Transport> transport) {
  error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  auto initiate = [&transport](auto done) { transport->async_linger(IoHandler(std::move(done))); };
  co_await asio::async_initiate<decltype(token)&, void(error_code)>(initiate, token);
}

// Reads more; false when the connection is over.
asio::awaitable<bool> fill(std::shared_ptr<ServerSession> session, std::size_t most) {
  AnyByteStream stream(session->transport);
  error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  const auto space = session->buffer.prepare(most);
  const std::size_t n = co_await stream.async_read_some(space, token);
  session->buffer.commit(n);
  co_return !ec && n > 0;
}

asio::awaitable<bool> send_message(std::shared_ptr<ServerState> server, std::shared_ptr<ServerSession> session, std::string head,
                                   std::string body) {
  session->watchdog->expires_after(server->limits.write_timeout);
  AnyByteStream stream(session->transport);
  error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  const std::array<asio::const_buffer, 2> message{asio::buffer(head), asio::buffer(body)};
  co_await asio::async_write(stream, message, token);
  co_return !ec;
}

// What to tell a client of this connection that has reached a limit of its own.
HttpResponse at_limit(const ServerState& server, const ServerSession& session, HttpHandler::ClientLimit limit, HttpResponse usual) {
  const auto account = session.account();
  return server.handler == nullptr || !account ? usual : server.handler->at_limit(*account, limit, std::move(usual));
}

// Who is refused and asks again at once gets the answer later, when that has happened often: else it costs others as much as what
// was refused.
asio::awaitable<void> slow_down(std::shared_ptr<ServerState> server, std::shared_ptr<ServerSession> session) {
  const auto account = session->account();
  if (!account) co_return;
  const auto now = base::Rate::Clock::now();
  if (account->refusals.early(now) < 2 * kRefusalsAhead) account->refusals.took(kRefusal, now);
  const auto wait = account->refusals.early(now) - kRefusalsAhead;
  if (wait <= wait.zero()) co_return;
  session->watchdog->disarm();
  error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  asio::steady_timer timer(server->executor, std::min<std::chrono::nanoseconds>(wait, kRefusalsAhead));
  co_await timer.async_wait(token);
}

asio::awaitable<bool> answer(std::shared_ptr<ServerState> server, std::shared_ptr<ServerSession> session, HttpResponse response,
                             bool keep_alive, unsigned version, bool head_only) {
  if (response.status == 429 || response.status == 503) co_await slow_down(server, session);
  const auto bodiless = [&] { return head_only || response.status == 204 || response.status == 304; };
  // What nobody reads is held as what nobody sends the end of. Errors are small: they are always said.
  std::size_t charged = !bodiless() && response.body.size() > kSmallAnswer ? response.body.size() : 0;
  if (charged > 0 && !server->admission->charge(*session, charged)) {
    if (!session->seated()) co_return false;
    charged = 0;
    // Not "unavailable", which says that nothing was done.
    response = error_response(429, base::ErrorCode::resource_exhausted,
                              "the request was carried out, but too many answers wait here to be read");
    response = at_limit(*server, *session, HttpHandler::ClientLimit::answer, std::move(response));
  }
  std::string head;
  bool sound = true;
  try {
    head = write_response_head(response, keep_alive, version);
  } catch (const std::invalid_argument&) {
    sound = false;  // a header of the owner's would have broken the framing
  }
  if (!sound) {
    response = error_response(500, base::ErrorCode::internal, "internal error");
    head = write_response_head(response, keep_alive, version);
  }
  if (bodiless()) response.body.clear();
  const bool sent = co_await send_message(server, session, std::move(head), std::move(response.body));
  server->admission->give_back(*session, charged);
  co_return sent;
}

// The last answer on this connection.
asio::awaitable<void> answer_and_end(std::shared_ptr<ServerState> server, std::shared_ptr<ServerSession> session,
                                     HttpResponse response) {
  const bool sent = co_await answer(server, session, std::move(response), false, 11, false);
  if (sent) co_await end_gently(session->transport);
}

// Feeds the reader with what has been read; true when a complaint is due, which it stores.
bool complains(RequestReader& reader, ServerSession& session, std::optional<HttpResponse>& complaint) {
  while (session.buffer.size() > 0 && !reader.done()) {
    const bool had_header = reader.header_done();
    std::size_t consumed = 0;
    const auto data = session.buffer.cdata();
    const auto result = reader.put({static_cast<const char*>(data.data()), data.size()}, consumed);
    session.buffer.consume(consumed);
    if (result == ParseResult::malformed)
      complaint = error_response(400, base::ErrorCode::invalid_argument, "malformed HTTP request");
    if (result == ParseResult::header_too_large)
      complaint = error_response(431, base::ErrorCode::resource_exhausted, "the request header is too large");
    if (result == ParseResult::body_too_large)
      complaint = error_response(413, base::ErrorCode::resource_exhausted, "the request body is too large");
    if (result != ParseResult::progress || consumed == 0 || (!had_header && reader.header_done())) break;
  }
  return complaint.has_value();
}

// Reads the rest of a request's header or body. True when `reader` has what is asked for; else `complaint` holds the last answer
// on this connection, if there can be one.
asio::awaitable<bool> read_on(std::shared_ptr<ServerState> server, std::shared_ptr<ServerSession> session, RequestReader& reader,
                              bool whole, std::optional<HttpResponse>& complaint) {
  // A deadline here ends the read only: the peer is told.
  session->gentle = true;
  std::size_t chunk = kSmallRead;
  for (;;) {
    if (complains(reader, *session, complaint)) break;
    if (whole ? reader.done() : reader.header_done()) break;
    const auto before = session->buffer.size();
    // Between two reads there was none for the deadline to end.
    const bool late = session->watchdog->fired();
    if (late || !co_await fill(session, chunk)) {
      if (session->watchdog->fired())
        complaint = error_response(408, base::ErrorCode::deadline_exceeded,
                                   whole ? "the request body came too slowly" : "the request header came too slowly");
      session->gentle = false;
      co_return false;
    }
    std::size_t more = session->buffer.size() - before;
    if (more == chunk && chunk < kLargeRead) more += chunk = kLargeRead;  // the buffer stays that large
    if (!server->admission->charge(*session, more)) {
      if (session->seated()) {
        auto refusal = error_response(503, base::ErrorCode::unavailable, "too much is being sent here at once; try again later");
        complaint = at_limit(*server, *session, HttpHandler::ClientLimit::request, std::move(refusal));
      }
      break;
    }
    if (const auto account = session->account(); whole && account && !account->turns.take_now(server->executor)) {
      auto turn = account->turns.take(server->executor);
      co_await std::move(turn);
      if (server->handler == nullptr) break;
    }
  }
  session->gentle = false;
  co_return !complaint && session->seated();
}

// A request that is answered piece by piece. False when the connection has ended.
asio::awaitable<bool> serve_stream(std::shared_ptr<ServerState> server, std::shared_ptr<ServerSession> session,
                                   RequestReader& reader, std::shared_ptr<HttpRequest> request) {
  SessionExchange exchange(server, session, reader, request);
  session->watchdog->disarm();
  bool failed = false;
  try {
    co_await server->handler->stream(exchange);
  } catch (...) {
    failed = true;
  }
  if (server->handler == nullptr || !session->transport) co_return false;
  if (!exchange.started() && !exchange.lost()) {
    // Nothing has been said yet: the client is told what went wrong, its own fault first.
    auto response = exchange.take_fault();
    if (!response) response = error_response(500, base::ErrorCode::internal, "internal error");
    co_await answer_and_end(server, session, std::move(*response));
    co_return false;
  }
  if (failed || !exchange.finished()) {
    // Cut: the missing end is what tells the client.
    session->transport->close();
    co_return false;
  }
  if (!exchange.keep()) {
    co_await end_gently(session->transport);
    co_return false;
  }
  co_return co_await exchange.skip_rest();
}

asio::awaitable<bool> serve_upgrade(std::shared_ptr<ServerState> server, std::shared_ptr<ServerSession> session,
                                    RequestReader& reader, std::shared_ptr<HttpRequest> request) {
  std::optional<HttpResponse> refusal;
  HttpHandler::UpgradeDecision decision;
  if (find_header(request->headers, "Sec-WebSocket-Version") != "13") {
    refusal = error_response(426, base::ErrorCode::invalid_argument, "only WebSocket version 13 is spoken here");
    refusal->headers.emplace_back("Sec-WebSocket-Version", "13");
    refusal->headers.emplace_back("Upgrade", "websocket");
  } else if (find_header(request->headers, "Sec-WebSocket-Key").size() != 24) {
    refusal = error_response(400, base::ErrorCode::invalid_argument, "the WebSocket key is missing or malformed");
  } else if (reader.has_body() || session->buffer.size() != 0) {
    refusal = error_response(400, base::ErrorCode::invalid_argument, "nothing may follow a WebSocket handshake before its answer");
  } else {
    if (server->handler == nullptr) co_return false;
    const auto offered = header_list(request->headers, "Sec-WebSocket-Protocol");
    try {
      decision = server->handler->on_upgrade(*request, offered);
      refusal = std::move(decision.refusal);
    } catch (...) {
      refusal = error_response(500, base::ErrorCode::internal, "internal error");
    }
  }
  if (refusal) {
    const bool keep = reader.keep_alive() && !server->stopping && !reader.has_body();
    if (!co_await answer(server, session, std::move(*refusal), keep, 11, false)) co_return false;
    if (!keep) co_await end_gently(session->transport);
    co_return keep;
  }
  server->admission->keep(*session);  // it is the owner's now
  session->watchdog->expires_after(server->limits.header_timeout);
  decision.limits.memory = server->admission->memory_of(*session);
  auto result = co_await accept_websocket(session->transport, request->target, reader.all_headers(), decision.subprotocol,
                                          decision.limits, session->seat());
  session->watchdog->disarm();
  if (result.error || server->handler == nullptr) co_return false;
  session->transport.reset();
  try {
    server->handler->on_websocket(*request, std::move(result.socket));
  } catch (...) {
    // The socket went down with the exception; the server goes on.
  }
  co_return false;
}

// One request and its answer. False when the connection has ended or has become a WebSocket.
asio::awaitable<bool> serve_one(std::shared_ptr<ServerState> server, std::shared_ptr<ServerSession> session, bool first) {
  const auto& limits = server->limits;
  if (session->buffer.size() == 0) {
    if (server->stopping || server->handler == nullptr) co_return false;
    session->buffer.shrink_to_fit();
    session->idle = true;
    server->admission->between_requests(*session);
    session->watchdog->expires_after(first ? limits.header_timeout : limits.keep_alive);
    const bool more = co_await fill(session, kSmallRead);
    session->idle = false;
    if (!more) co_return false;
    server->admission->within_request(*session);
  }

  RequestReader reader(limits.max_header, limits.max_body);
  std::optional<HttpResponse> complaint;
  session->watchdog->expires_after(limits.header_timeout);
  if (!co_await read_on(server, session, reader, false, complaint)) {
    if (complaint) co_await answer_and_end(server, session, std::move(*complaint));
    co_return false;
  }
  if (const auto why = reader.complaint(); !why.empty()) {
    auto response = error_response(400, base::ErrorCode::invalid_argument, why);
    co_await answer_and_end(server, session, std::move(response));
    co_return false;
  }

  auto request = std::make_shared<HttpRequest>(reader.head());
  if (server->handler == nullptr) co_return false;
  const auto account = server->handler->client_of(*request);
  const bool seated = server->admission->belongs_to(*session, account);
  // Before anything is said about it, also that it is refused.
  if (ClientTurns& turns = account ? account->turns : server->stranger_turns; !turns.take_now(server->executor)) {
    session->watchdog->disarm();
    auto turn = turns.take(server->executor);
    co_await std::move(turn);
    if (server->handler == nullptr) co_return false;
    session->watchdog->expires_after(limits.header_timeout);
  }
  if (!seated) {
    auto response = error_response(429, base::ErrorCode::resource_exhausted, "this client has as many connections here as it may");
    response.headers.emplace_back("Retry-After", "1");
    response = server->handler->at_limit(*account, HttpHandler::ClientLimit::connections, std::move(response));
    co_await answer_and_end(server, session, std::move(response));
    co_return false;
  }
  // However this request ends: what it made us hold is no longer held.
  struct Held {
    std::shared_ptr<ServerState> server;
    std::shared_ptr<ServerSession> session;
    ~Held() { server->admission->give_back(*session); }
  };
  const Held held{server, session};
  if (reader.websocket_upgrade() && request->method == "GET") co_return co_await serve_upgrade(server, session, reader, request);

  const bool head_only = request->method == "HEAD";
  std::optional<HttpResponse> response;
  if (server->handler == nullptr) co_return false;
  try {
    response = server->handler->early_answer(*request);
  } catch (...) {
    response = error_response(500, base::ErrorCode::internal, "internal error");
  }
  if (response) {
    const auto length = reader.content_length();
    const bool skip = length && *length <= kMaxSkippedBody && !reader.expects_continue();
    const bool keep = reader.keep_alive() && !server->stopping && (!reader.has_body() || skip);
    if (!co_await answer(server, session, std::move(*response), keep, reader.version(), head_only)) co_return false;
    if (!keep) {
      co_await end_gently(session->transport);
      co_return false;
    }
    if (reader.done()) co_return true;
    reader.read_body();
    session->watchdog->expires_after(limits.body_timeout);
    co_return co_await read_on(server, session, reader, true, complaint);
  }

  bool streams = false;
  try {
    streams = server->handler->streams(*request);
  } catch (...) {
    complaint = error_response(500, base::ErrorCode::internal, "internal error");
  }
  if (streams) co_return co_await serve_stream(server, session, reader, request);
  if (const auto length = reader.content_length(); length && *length > limits.max_body && !complaint)
    complaint = error_response(413, base::ErrorCode::resource_exhausted, "the request body is too large");
  if (complaint) {
    co_await answer_and_end(server, session, std::move(*complaint));
    co_return false;
  }

  if (!reader.done()) {
    reader.read_body();
    if (reader.expects_continue() && session->buffer.size() == 0) {
      std::string go_on = "HTTP/1.1 100 Continue\r\n\r\n";
      std::string nothing;
      if (!co_await send_message(server, session, std::move(go_on), std::move(nothing))) co_return false;
    }
    session->watchdog->expires_after(limits.body_timeout);
    if (!co_await read_on(server, session, reader, true, complaint)) {
      if (complaint) {
        // Not held any more while the peer reads the refusal, nor while it goes on sending.
        static_cast<void>(reader.take_body());
        server->admission->give_back(*session);
        co_await answer_and_end(server, session, std::move(*complaint));
      }
      co_return false;
    }
  }
  request->body = reader.take_body();

  session->watchdog->disarm();
  if (server->handler == nullptr) co_return false;
  try {
    response = co_await server->handler->handle(*request);
  } catch (...) {
    response = error_response(500, base::ErrorCode::internal, "internal error");
  }
  if (server->handler == nullptr) co_return false;
  const bool keep = reader.keep_alive() && !server->stopping;
  if (!co_await answer(server, session, std::move(*response), keep, reader.version(), head_only)) co_return false;
  if (!keep) co_await end_gently(session->transport);
  co_return keep;
}

}  // namespace

ServerSession::ServerSession(const asio::any_io_executor& executor, std::shared_ptr<Transport> its_transport)
    : transport(std::move(its_transport)) {
  // The watchdog belongs to the session.
  watchdog.emplace(executor, [this] {
    if (!transport) return;
    if (gentle) {
      transport->cancel();
    } else {
      transport->close();
    }
  });
}

void ServerSession::drop() noexcept {
  if (transport) transport->close();
}

BodySink ServerSession::sink(const ServerState& server) {
  BodySink out;
  out.transport = transport;
  out.watchdog = &*watchdog;
  out.idle = server.limits.write_timeout;
  return out;
}

asio::awaitable<void> serve(std::shared_ptr<ServerState> server, std::shared_ptr<ServerSession> session,
                            std::shared_ptr<TlsTransport> secure) {
  if (secure) {
    session->watchdog->expires_after(server->limits.header_timeout);
    error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    const std::string no_host;
    auto initiate = [&secure, &no_host](auto handler) { secure->async_handshake(no_host, IoHandler(std::move(handler))); };
    co_await asio::async_initiate<decltype(token)&, void(error_code)>(initiate, token);
    if (ec) {
      // The alert that says what is wrong is to arrive.
      co_await end_gently(session->transport);
      co_return;
    }
    secure.reset();
  }
  bool first = true;
  for (;;) {
    if (!co_await serve_one(server, session, first)) co_return;
    first = false;
  }
}

asio::awaitable<void> refuse(std::shared_ptr<Transport> transport, std::string why) {
  const auto response = error_response(503, base::ErrorCode::unavailable, why);
  const auto text = write_response_head(response, false, 11) + response.body;
  AnyByteStream stream(transport);
  error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  const auto buffer = asio::buffer(text);
  co_await stream.async_write_some(buffer, token);  // fits a fresh socket's buffer
  co_await end_gently(transport);
}

}  // namespace cwsandbox::net
