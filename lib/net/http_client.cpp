#include "net/http_client.hpp"

#include "net/any_byte_stream.hpp"
#include "net/http_client_call.hpp"
#include "net/http_client_exchange.hpp"
#include "net/http_client_state.hpp"
#include "net/http_wire.hpp"
#include "net/tls.hpp"
#include "net/websocket_stream.hpp"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl/error.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

namespace cwsandbox::net {

// ---- What the calls share ---------------------------------------------------------------------------------------------------

ClientState::ClientState(asio::any_io_executor its_executor, Endpoint its_endpoint, HttpClientOptions its_options)
    : executor(std::move(its_executor)),
      endpoint(std::move(its_endpoint)),
      options(std::move(its_options)),
      name(endpoint.to_string()),
      connector(endpoint, options),
      pool(options.max_idle_connections, options.idle_lifetime) {}

asio::any_io_executor ClientState::executor_of(const ClientConnection* reused) const {
  return reused != nullptr ? reused->transport->executor() : asio::any_io_executor(asio::make_strand(executor));
}

void ClientState::report(std::string_view head, std::chrono::steady_clock::time_point since, unsigned status,
                         std::exception_ptr error) const noexcept {
  if (!options.on_answer) return;
  RequestReport report;
  report.method = head.substr(0, head.find(' '));
  head.remove_prefix(std::min(head.size(), report.method.size() + 1));
  report.path = head.substr(0, head.find_first_of("? \r\n"));
  report.status = status;
  report.duration = std::chrono::steady_clock::now() - since;
  report.error = std::move(error);
  try {
    options.on_answer(report);
  } catch (...) {  // whoever only looks on must not break what is looked at
  }
}

namespace {

using Kind = TransportError::Kind;

// ---- One request ------------------------------------------------------------------------------------------------------------

// Sends the request and reads the answer. False: a reused connection has turned out to be dead before anything of the answer came.
asio::awaitable<bool> attempt(std::shared_ptr<ClientState> client, std::shared_ptr<ClientCall> call,
                              std::shared_ptr<const std::string> head, std::shared_ptr<const HttpRequest> request,
                              std::unique_ptr<ClientConnection> connection, bool reused) {
  AnyByteStream stream(connection->transport);
  error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  call->sent = true;
  const std::array<asio::const_buffer, 2> message{asio::buffer(*head), asio::buffer(request->body)};
  co_await asio::async_write(stream, message, token);
  const error_code write_error = ec;
  // A server may answer and close without reading all: look for its answer even when the write has failed.
  bool any = false;
  auto& buffer = connection->buffer;
  std::optional<ResponseReader> reader;
  reader.emplace(client->options.max_response_body, request->method == "HEAD");
  std::size_t chunk = 4 * 1024;
  for (;;) {
    if (call->cancelled || call->timed_out) call->fail(Kind::timeout, "waiting for the answer to " + request->method);
    ec = {};
    const auto space = buffer.prepare(chunk);
    const std::size_t n = co_await stream.async_read_some(space, token);
    buffer.commit(n);
    any = any || n > 0;
    if (call->cancelled || call->timed_out) call->fail(Kind::timeout, "waiting for the answer to " + request->method);
    if (n == chunk) chunk = 64 * 1024;
    ParseResult result = ParseResult::need_more;
    if (ec && n == 0) {
      // Only an orderly end completes a body that lasts until the end: under TLS a cut is an error of its own.
      if (any && ec == asio::error::eof) result = reader->put_eof();
      if (!reader->done()) {
        if (!any && reused) co_return false;
        if (!any && is_tls_alert(ec)) call->fail(Kind::tls, "the server refused the TLS connection", ec);
        const auto& cause = write_error && !any ? write_error : ec;
        if (cause == asio::error::eof || cause.category() == asio::error::get_ssl_category())
          call->fail(Kind::closed, any ? "the server closed the connection within its answer"
                                       : "the server closed the connection without an answer");
        call->fail(Kind::closed, any ? "reading the answer" : "sending the request", cause);
      }
    }
    while (buffer.size() > 0 && !reader->done()) {
      std::size_t consumed = 0;
      const auto data = buffer.cdata();
      result = reader->put({static_cast<const char*>(data.data()), data.size()}, consumed);
      buffer.consume(consumed);
      if (result != ParseResult::progress) break;
      if (consumed == 0) break;
      if (reader->done() && reader->interim()) reader.emplace(client->options.max_response_body, request->method == "HEAD");
    }
    if (result == ParseResult::body_too_large)
      call->fail(Kind::protocol, "the answer is larger than " + std::to_string(client->options.max_response_body) + " bytes");
    if (result == ParseResult::header_too_large) call->fail(Kind::protocol, "the answer's header is too large");
    if (result == ParseResult::malformed) call->fail(Kind::protocol, "the answer is not HTTP/1.1");
    if (reader->done()) break;
  }
  call->response = reader->take();
  const bool reusable = reader->keep_alive() && buffer.size() == 0 && !write_error && !ec;
  call->watchdog->disarm();
  call->transport.reset();
  if (reusable) {
    client->pool.give_back(std::move(connection));
  } else {
    connection->transport->close();
  }
  co_return true;
}

asio::awaitable<void> run_request(std::shared_ptr<ClientState> client, std::shared_ptr<ClientCall> call,
                                  std::shared_ptr<const std::string> head, std::shared_ptr<const HttpRequest> request,
                                  std::unique_ptr<ClientConnection> reused) {
  const EndOfCall end{call};
  call->arm();
  if (reused) {
    call->transport = reused->transport;
    if (call->cancelled) call->fail(Kind::closed, "cancelled");
    if (co_await attempt(client, call, head, request, std::move(reused), true)) co_return;
    call->transport.reset();
    call->sent = false;
  }
  if (call->cancelled) call->fail(Kind::closed, "cancelled");
  auto fresh = std::make_unique<ClientConnection>();
  fresh->transport = co_await client->connector.connect(call);
  co_await attempt(client, call, head, request, std::move(fresh), false);
}

asio::awaitable<void> run_upgrade(std::shared_ptr<ClientState> client, std::shared_ptr<ClientCall> call, std::string target,
                                  Headers headers, std::string subprotocol, WebSocket::Limits limits) {
  const EndOfCall end{call};
  call->arm();
  if (call->cancelled) call->fail(Kind::closed, "cancelled");
  auto transport = co_await client->connector.connect(call);
  call->sent = true;
  auto result = co_await connect_websocket(std::move(transport), client->endpoint.authority(), std::move(target),
                                           std::move(headers), subprotocol, limits);
  if (call->cancelled || call->timed_out) call->fail(Kind::timeout, "the WebSocket handshake");
  if (upgrade_declined(result.error)) {
    const auto what = client->name + ": the server refused the WebSocket: HTTP status " + std::to_string(result.response.status);
    throw UpgradeRefused(std::move(result.response), what);
  }
  if (result.error) {
    if (is_tls_alert(result.error)) call->fail(Kind::tls, "the server refused the TLS connection", result.error);
    call->fail(peer_went_away(result.error) ? Kind::closed : Kind::protocol, "the WebSocket handshake", result.error);
  }
  const auto selected = result.socket->subprotocol();
  const Headers offer{{"offer", subprotocol}};
  const auto offered = header_list(offer, "offer");
  if (offered.empty() ? !selected.empty() : std::find(offered.begin(), offered.end(), selected) == offered.end())
    call->fail(Kind::protocol, selected.empty() ? "the server selected no WebSocket subprotocol"
                                                : "the server selected another WebSocket subprotocol than asked for");
  call->transport.reset();
  call->socket = std::move(result.socket);
}
}  // namespace

HttpClient::HttpClient(asio::any_io_executor executor, Endpoint endpoint, HttpClientOptions options)
    : state_(std::make_shared<ClientState>(std::move(executor), std::move(endpoint), std::move(options))) {}

HttpClient::~HttpClient() { state_->pool.clear(true); }

asio::awaitable<HttpResponse> HttpClient::request(HttpRequest request, std::chrono::steady_clock::time_point deadline) {
  auto client = state_;
  auto head = std::make_shared<const std::string>(write_request_head(request, client->endpoint.authority()));
  auto shared = std::make_shared<const HttpRequest>(std::move(request));
  auto reused = shared->repeatable ? client->pool.borrow() : nullptr;
  auto call = std::make_shared<ClientCall>(client->executor_of(reused.get()), deadline, client, client->name);
  auto work = run_request(client, call, head, std::move(shared), std::move(reused));
  const auto begun = ClientCall::Clock::now();
  std::exception_ptr error;
  try {
    co_await drive(call, std::move(work));
  } catch (...) {
    error = std::current_exception();
  }
  client->report(*head, begun, error ? 0 : call->response.status, error);
  if (error) std::rethrow_exception(error);
  co_return std::move(call->response);
}

asio::awaitable<std::unique_ptr<ClientExchange>> HttpClient::open(HttpRequest request, std::optional<std::uint64_t> body_length,
                                                                  bool expect_continue,
                                                                  std::chrono::steady_clock::time_point connect_deadline,
                                                                  std::chrono::steady_clock::duration idle_timeout) {
  return open_exchange(state_, std::move(request), body_length, expect_continue, connect_deadline, idle_timeout);
}

asio::awaitable<std::unique_ptr<WebSocket>> HttpClient::upgrade(asio::any_io_executor executor, std::string target, Headers headers,
                                                                std::string subprotocol, WebSocket::Limits limits,
                                                                std::chrono::steady_clock::time_point deadline) {
  auto client = state_;
  auto call = std::make_shared<ClientCall>(std::move(executor), deadline, client, client->name);
  const std::string line = "GET " + target;
  auto work = run_upgrade(client, call, std::move(target), std::move(headers), std::move(subprotocol), limits);
  const auto begun = ClientCall::Clock::now();
  unsigned status = 101;
  std::exception_ptr error;
  try {
    co_await drive(call, std::move(work));
  } catch (const UpgradeRefused& refused) {
    status = refused.response().status;
    error = std::current_exception();
  } catch (...) {
    status = 0;
    error = std::current_exception();
  }
  client->report(line, begun, status, error);
  if (error) std::rethrow_exception(error);
  co_return std::move(call->socket);
}

const Endpoint& HttpClient::endpoint() const noexcept { return state_->endpoint; }

void HttpClient::close_idle() noexcept { state_->pool.clear(false); }

}  // namespace cwsandbox::net
