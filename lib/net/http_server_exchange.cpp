#include "net/http_server_exchange.hpp"

#include "base/error_code.hpp"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

namespace cwsandbox::net {

SessionExchange::SessionExchange(std::shared_ptr<ServerState> server, std::shared_ptr<ServerSession> session,
                                 const RequestReader& reader, std::shared_ptr<const HttpRequest> request)
    : server_(std::move(server)),
      session_(std::move(session)),
      request_(std::move(request)),
      length_(reader.content_length()),
      body_(length_ ? BodyReader::of_length(*length_) : BodyReader::in_chunks()),
      version_(reader.version()),
      keep_(reader.keep_alive()),
      owes_continue_(reader.expects_continue() && reader.has_body()) {}

asio::awaitable<std::size_t> SessionExchange::read(asio::mutable_buffer into) {
  if (body_.done() || into.size() == 0) co_return 0;
  check();
  if (broken_) throw boost::system::system_error(asio::error::not_connected);
  if (owes_continue_ && !started_ && session_->buffer.size() == 0) {
    const BodySink sink = session_->sink(*server_);
    if (const auto ec = co_await send_raw(sink, "HTTP/1.1 100 Continue\r\n\r\n")) lose(ec);
  }
  owes_continue_ = false;
  std::size_t n = 0;
  bool sound = body_.take(session_->buffer, into, n);
  if (sound && (n != 0 || body_.done())) co_return n;
  if (const auto account = session_->account(); account && !account->turns.take_now(server_->executor)) {
    auto turn = account->turns.take(server_->executor);
    co_await std::move(turn);
    check();
  }
  AnyByteStream stream(session_->transport);
  error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  session_->gentle = true;  // a deadline ends the read only: the client is told
  while (sound && n == 0 && !body_.done()) {
    session_->watchdog->expires_after(server_->limits.body_timeout);
    const auto space = body_.space(session_->buffer, into);
    const std::size_t got = co_await stream.async_read_some(space, token);
    if (ec && got == 0) break;
    sound = body_.commit(session_->buffer, space, got, n);
    if (sound && n == 0) sound = body_.take(session_->buffer, into, n);
  }
  session_->gentle = false;
  const bool late = session_->watchdog->fired();
  session_->watchdog->rest();
  if (!sound) {
    fault_ = error_response(400, base::ErrorCode::invalid_argument, "malformed HTTP request");
    broken_ = true;
    throw boost::system::system_error(boost::system::errc::make_error_code(boost::system::errc::bad_message));
  }
  if (n == 0 && !body_.done()) {
    if (!late || server_->handler == nullptr) lose(ec);
    fault_ = error_response(408, base::ErrorCode::deadline_exceeded, "the request body came too slowly");
    broken_ = true;
    throw boost::system::system_error(asio::error::timed_out);
  }
  co_return n;
}

asio::awaitable<void> SessionExchange::start(HttpResponse head, std::optional<std::uint64_t> length) {
  if (started_) throw std::logic_error("an answer starts once");
  check();
  const bool bodiless = request_->method == "HEAD" || head.status == 204 || head.status == 304;
  if (!bodiless && length && head.body.size() > *length) throw std::logic_error("the answer is longer than announced");
  chunked_ = !length && version_ != 10;
  // What is left of the request must be read before the next one; there is a limit to that, and a client that waits for
  // "100 Continue" sends it or not.
  const auto left = body_.left();
  keep_ = keep_ && !server_->stopping && !broken_ && (length || chunked_ || bodiless) &&
          (body_.done() || (left && *left <= kMaxSkippedBody && !owes_continue_));
  std::string text = write_response_head(head, keep_, version_, length);
  const std::string body = std::move(head.body);
  started_ = true;
  if (bodiless) {
    bodiless_ = true;
  } else {
    left_ = length;
    if (left_) *left_ -= body.size();
    if (chunked_ && !body.empty()) text.append(chunk_head(body.size())).append(body).append(kChunkEnd);
    if (!chunked_) text += body;
  }
  const BodySink sink = session_->sink(*server_);
  const auto ec = co_await send_raw(sink, text);
  session_->watchdog->rest();
  if (ec) lose(ec);
}

asio::awaitable<void> SessionExchange::write(asio::const_buffer from) {
  ready_to_write(from.size());
  if (bodiless_) co_return;
  BodySink sink = session_->sink(*server_);
  sink.chunked = chunked_;
  const auto ec = co_await send_data(std::move(sink), from);
  session_->watchdog->rest();
  if (ec) lose(ec);
  if (left_) *left_ -= from.size();
}

asio::awaitable<std::uint64_t> SessionExchange::write_file(int fd, std::uint64_t offset, std::uint64_t length) {
  ready_to_write(length);
  if (bodiless_) co_return length;
  BodySink sink = session_->sink(*server_);
  sink.chunked = chunked_;
  const FileSent sent = co_await send_file(std::move(sink), fd, offset, length);
  session_->watchdog->rest();
  if (sent.connection) lose(sent.connection);
  if (left_) *left_ -= sent.bytes;
  if (sent.file != 0) throw std::system_error(sent.file, std::generic_category(), "reading the file");
  co_return sent.bytes;
}

asio::awaitable<void> SessionExchange::finish() {
  if (!started_ || finished_) throw std::logic_error("an answer ends once, after its start");
  check();
  if (left_ && *left_ != 0) {  // an answer that is shorter than announced can only be cut
    lost_ = true;
    session_->transport->close();
    co_return;
  }
  if (chunked_ && !bodiless_) {
    const BodySink sink = session_->sink(*server_);
    const auto ec = co_await send_raw(sink, kLastChunk);
    session_->watchdog->rest();
    if (ec) lose(ec);
  }
  finished_ = true;
}

bool SessionExchange::client_gone() noexcept { return lost_ || !session_->transport || session_->transport->peer_gone(); }

std::size_t SessionExchange::buffer_size(std::size_t wanted) {
  if (wanted > kLeastBuffer && server_->admission->charge(*session_, wanted)) return wanted;
  return std::min(wanted, kLeastBuffer);
}

asio::awaitable<bool> SessionExchange::skip_rest() {
  std::array<char, 4096> dropped;
  const auto into = asio::buffer(dropped);
  bool sound = true;
  try {
    while (!body_.done()) (void)co_await read(into);
  } catch (const boost::system::system_error&) {
    sound = false;
  }
  co_return sound;
}

void SessionExchange::check() const {
  if (lost_ || server_->handler == nullptr || !session_->transport) throw boost::system::system_error(asio::error::not_connected);
}

void SessionExchange::lose(error_code ec) {
  lost_ = true;
  if (session_->watchdog) {
    if (session_->watchdog->fired()) ec = asio::error::timed_out;
    session_->watchdog->rest();
  }
  if (session_->transport) session_->transport->close();
  throw boost::system::system_error(ec ? ec : error_code(asio::error::connection_reset));
}

void SessionExchange::ready_to_write(std::uint64_t size) const {
  if (!started_ || finished_) throw std::logic_error("an answer's body stands between its start and its end");
  check();
  if (left_ && size > *left_) throw std::logic_error("the answer is longer than announced");
}

}  // namespace cwsandbox::net
