#include "net/http_client_exchange.hpp"

#include "net/http_body.hpp"
#include "net/http_wire.hpp"
#include "net/tls.hpp"

#include <boost/asio/bind_executor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl/error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <atomic>
#include <exception>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace cwsandbox::net {

namespace {

using Kind = TransportError::Kind;

// How long a first piece of a body waits for "100 Continue": a server need not know about it.
constexpr std::chrono::seconds kContinueWait{2};
// What is read ahead of an answer: its header, most likely, and little of a body that could go straight to its reader.
constexpr std::size_t kHeadRead = 4 * 1024;

// One exchange under way. Everything on `executor`, except what says otherwise.
struct Stream : ClientCall {
  Stream(std::shared_ptr<ClientState> its_client, const asio::any_io_executor& its_executor, Clock::time_point until)
      : ClientCall(its_executor, until, its_client, its_client->name), client(std::move(its_client)), ready(its_executor) {}

  const std::shared_ptr<ClientState> client;
  std::string method, head;
  const Clock::time_point begun = Clock::now();
  Clock::duration idle{};
  std::unique_ptr<ClientConnection> connection;
  bool reused = false;  // a connection that had served before, of which nothing has come yet: it may turn out to be dead

  // The request's body.
  std::optional<std::uint64_t> left;  // of its announced length; unset: chunks
  bool body_ended = false;            // nothing more is sent
  bool last_chunk_sent = false;
  bool body_begun = false;
  bool awaits_continue = false;

  // The answer. While the body is written something reads already, so that an early answer is seen.
  asio::steady_timer ready;  // cancelled when there is news of the reading
  bool reading = false;
  error_code read_error;
  std::optional<ResponseReader> reader;
  bool answered = false;  // its header is complete
  bool fatal = false;     // it is no HTTP
  bool continued = false;
  std::optional<BodyReader> body;
  std::optional<std::uint64_t> length;
  bool keep_alive = false;
  std::atomic<bool> over = false;  // any thread: nothing is left to be closed

  bool operating = false;

  // Results of one operation, for the caller's executor.
  bool go_on = false;
  std::uint64_t moved = 0;
};

// The end of the exchange: nothing pending, and the connection is kept when it is fit for that.
void leave(Stream& s, bool reusable) {
  s.watchdog.reset();
  s.transport.reset();
  s.over = true;
  if (!s.connection) return;
  if (reusable && !s.reading && s.connection->buffer.size() == 0) {
    s.client->pool.give_back(std::move(s.connection));
  } else {
    s.connection->transport->close();
    // Its buffer may still be read into; the state keeps it until then.
  }
}

// Whatever an operation throws, the exchange is over.
struct Operation {
  Stream* stream;
  bool done = false;
  explicit Operation(Stream& s) : stream(&s) { s.operating = true; }
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;
  ~Operation() {
    stream->operating = false;
    if (stream->over) return;
    if (done) {
      stream->watchdog->rest();
    } else {
      leave(*stream, false);
    }
  }
};

void check(const Stream& s, const char* what) {
  if (s.cancelled || s.timed_out) s.fail(Kind::timeout, what);
  if (s.over || !s.connection) s.fail(Kind::closed, std::string(what) + ": the exchange has ended");
}

bool went_away(const error_code& ec) {
  return ec == asio::error::eof || ec == asio::error::connection_reset || ec == asio::error::broken_pipe ||
         ec.category() == asio::error::get_ssl_category();
}

// Takes the answer's header from what has been read.
void look(Stream& s) {
  auto& buffer = s.connection->buffer;
  while (buffer.size() > 0 && !s.answered && !s.fatal) {
    if (!s.reader) {
      s.reader.emplace(0, s.method == "HEAD");
      s.reader->header_only();
    }
    std::size_t consumed = 0;
    const auto data = buffer.cdata();
    const auto result = s.reader->put({static_cast<const char*>(data.data()), data.size()}, consumed);
    buffer.consume(consumed);
    if (result == ParseResult::need_more) return;
    if (result != ParseResult::progress) {
      s.fatal = true;
    } else if (s.reader->header_done()) {
      if (s.reader->interim()) {
        s.continued = true;
        s.reader.reset();
      } else {
        s.answered = true;
      }
    } else if (consumed == 0) {
      return;
    }
  }
}

// Reads towards the answer's header, in the background.
void read_ahead(const std::shared_ptr<Stream>& s) {
  if (s->reading || s->answered || s->fatal || s->read_error) return;
  s->reading = true;
  AnyByteStream stream(s->connection->transport);
  const auto space = s->connection->buffer.prepare(kHeadRead);
  // The operation keeps what it reads into.
  auto got = [s](error_code ec, std::size_t n) {
    s->reading = false;
    if (s->connection) {
      s->connection->buffer.commit(n);
      if (n > 0) s->reused = false;
      if (ec && n == 0) s->read_error = ec;
      look(*s);
      const bool news = s->answered || s->fatal || s->read_error;
      // A body that nobody wants any more is not sent on.
      if (news && !s->body_ended && s->body_begun && !s->over) s->connection->transport->cancel();
      if (!news && !s->over) read_ahead(s);
    }
    s->ready.cancel();
  };
  stream.async_read_some(space, asio::bind_executor(s->executor, std::move(got)));
}

// Waits for news of the reading, at most until then.
asio::awaitable<void> news(std::shared_ptr<Stream> s, Watchdog::Clock::time_point until) {
  error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  s->ready.expires_at(until);
  co_await s->ready.async_wait(token);
}

BodySink sink_of(Stream& s) {
  BodySink out;
  out.transport = s.connection->transport;
  out.watchdog = &*s.watchdog;
  out.idle = s.idle;
  out.chunked = !s.left;
  out.enough = &s.answered;
  return out;
}

// A connection of the pool that the server has closed meanwhile.
void drop_stale(Stream& s) {
  s.transport.reset();
  s.connection->transport->close();
  s.connection.reset();
  s.reused = false;
  s.sent = false;
  s.deadline = Watchdog::Clock::now() + s.client->options.connect_timeout;
}

// Connects, when there is no connection to use again, and sends the header.
asio::awaitable<void> send_head(std::shared_ptr<Stream> s) {
  for (;;) {
    if (s->cancelled || s->timed_out) s->fail(Kind::closed, "connecting");
    if (!s->connection) {
      auto fresh = std::make_unique<ClientConnection>();
      fresh->transport = co_await s->client->connector.connect(s);
      s->connection = std::move(fresh);
      s->reused = false;
    }
    s->transport = s->connection->transport;
    s->read_error = {};
    s->sent = true;
    BodySink sink = sink_of(*s);
    sink.enough = nullptr;
    const auto ec = co_await send_raw(std::move(sink), s->head);
    if (s->cancelled || s->timed_out) s->fail(Kind::timeout, "sending the request");
    if (!ec) co_return;
    if (!s->reused) s->fail(Kind::closed, "sending the request", ec);
    drop_stale(*s);
  }
}

asio::awaitable<void> run_open(std::shared_ptr<Stream> s) {
  Operation operation(*s);
  s->arm();
  co_await send_head(s);
  operation.done = true;
}

// Waits until the answer's header is there, or the reading has failed.
asio::awaitable<void> await_head(std::shared_ptr<Stream> s, const char* what, bool or_continue, Watchdog::Clock::time_point until) {
  for (;;) {
    read_ahead(s);
    while (!s->answered && !s->fatal && !s->read_error && !(or_continue && s->continued) && !s->cancelled && !s->timed_out &&
           Watchdog::Clock::now() < until)
      co_await news(s, until);
    if (s->cancelled || s->timed_out) s->fail(Kind::timeout, what);
    if (s->fatal) s->fail(Kind::protocol, "the answer is not HTTP/1.1");
    // Nothing has been lost yet when the connection was dead from the start.
    if (!s->read_error || !s->reused || s->body_begun) co_return;
    drop_stale(*s);
    co_await send_head(s);
    s->watchdog->expires_after(s->idle);
  }
}

// Before bytes of the body: false when the server has answered.
asio::awaitable<bool> may_write(std::shared_ptr<Stream> s, std::uint64_t size) {
  check(*s, "sending the request's body");
  if (s->body_ended) throw std::logic_error("the request's body has ended");
  if (s->left && size > *s->left) throw std::logic_error("the request's body is longer than announced");
  if (s->awaits_continue) {
    s->watchdog->expires_after(s->idle);
    co_await await_head(s, "waiting for the server to go on", true, Watchdog::Clock::now() + kContinueWait);
    s->awaits_continue = false;
  }
  read_ahead(s);
  s->body_begun = true;
  co_return !s->answered;
}

// After bytes of the body.
asio::awaitable<void> written(std::shared_ptr<Stream> s, error_code ec) {
  static constexpr const char* kWhat = "sending the request's body";
  if (s->cancelled || s->timed_out) s->fail(Kind::timeout, kWhat);
  s->go_on = !ec;
  if (!ec) co_return;
  // A server may answer and close without reading all: its answer may be on the way, or here already.
  if (!s->answered) {
    s->watchdog->expires_after(s->idle);
    co_await await_head(s, kWhat, false, Watchdog::Clock::time_point::max());
  }
  if (!s->answered)
    s->fail(Kind::closed, went_away(ec) || went_away(s->read_error) ? "the server closed the connection without an answer" : kWhat);
  s->body_ended = true;
}

asio::awaitable<void> run_write(std::shared_ptr<Stream> s, asio::const_buffer from) {
  Operation operation(*s);
  s->go_on = co_await may_write(s, from.size());
  if (s->go_on) {
    BodySink sink = sink_of(*s);
    const auto ec = co_await send_data(std::move(sink), from);
    if (!ec && s->left) *s->left -= from.size();
    co_await written(s, ec);
  }
  operation.done = true;
}

asio::awaitable<void> run_write_file(std::shared_ptr<Stream> s, int fd, std::uint64_t offset, std::uint64_t length) {
  Operation operation(*s);
  s->moved = 0;
  if (co_await may_write(s, length)) {
    BodySink sink = sink_of(*s);
    const FileSent sent = co_await send_file(std::move(sink), fd, offset, length);
    s->moved = sent.bytes;
    if (s->left) *s->left -= sent.bytes;
    if (sent.file != 0) throw std::system_error(sent.file, std::generic_category(), "reading the file");
    co_await written(s, sent.connection);
  }
  operation.done = true;
}

asio::awaitable<void> run_head(std::shared_ptr<Stream> s) {
  Operation operation(*s);
  static constexpr const char* kWhat = "waiting for the answer";
  check(*s, kWhat);
  if (s->body) throw std::logic_error("the answer's header is read once");
  s->watchdog->expires_after(s->idle);
  if (!s->answered && !s->body_ended) {
    if (s->left && *s->left != 0) s->fail(Kind::protocol, "the request's body is shorter than announced");
    error_code ec;
    if (!s->left) {
      BodySink sink = sink_of(*s);
      sink.enough = nullptr;
      ec = co_await send_raw(std::move(sink), kLastChunk);
      s->body_begun = true;
    }
    s->body_ended = true;
    s->last_chunk_sent = !ec;
  }
  if (!s->answered) {
    s->watchdog->expires_after(s->idle);
    co_await await_head(s, kWhat, false, Watchdog::Clock::time_point::max());
  }
  if (!s->answered) {
    if (!s->reader && is_tls_alert(s->read_error)) s->fail(Kind::tls, "the server refused the TLS connection", s->read_error);
    if (went_away(s->read_error))
      s->fail(Kind::closed, s->reader ? "the server closed the connection within its answer"
                                      : "the server closed the connection without an answer");
    s->fail(Kind::closed, kWhat, s->read_error);
  }
  s->keep_alive = s->reader->keep_alive() && (s->left ? *s->left == 0 : s->last_chunk_sent);
  s->length = s->reader->content_length();
  s->body.emplace(s->length ? BodyReader::of_length(*s->length)
                            : (s->reader->chunked() ? BodyReader::in_chunks() : BodyReader::until_end()));
  s->response = s->reader->take();
  s->reader.reset();
  operation.done = true;
  if (s->body->done()) leave(*s, s->keep_alive);
}

asio::awaitable<void> run_read(std::shared_ptr<Stream> s, asio::mutable_buffer into) {
  s->moved = 0;
  if (s->body && s->body->done()) co_return;
  Operation operation(*s);
  static constexpr const char* kWhat = "reading the answer";
  check(*s, kWhat);
  if (!s->body) throw std::logic_error("the answer's header comes first");
  auto& buffer = s->connection->buffer;
  std::size_t n = 0;
  bool sound = s->body->take(buffer, into, n);
  AnyByteStream stream(s->connection->transport);
  error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  while (sound && n == 0 && into.size() != 0 && !s->body->done()) {
    s->watchdog->expires_after(s->idle);
    const auto space = s->body->space(buffer, into);
    const std::size_t got = co_await stream.async_read_some(space, token);
    if (s->cancelled || s->timed_out) s->fail(Kind::timeout, kWhat);
    if (ec && got == 0) {
      // Only an orderly end completes a body that lasts until then: under TLS a cut is an error of its own.
      if (ec == asio::error::eof && s->body->end()) break;
      if (went_away(ec)) s->fail(Kind::closed, "the server closed the connection within its answer");
      s->fail(Kind::closed, kWhat, ec);
    }
    sound = s->body->commit(buffer, space, got, n);
    if (sound && n == 0) sound = s->body->take(buffer, into, n);
  }
  if (!sound) s->fail(Kind::protocol, "the answer's chunks are malformed");
  s->moved = n;
  operation.done = true;
  if (s->body->done()) leave(*s, s->keep_alive && !ec);
}

// An operation of an exchange that may be its last before there is an answer.
asio::awaitable<void> drive_watched(std::shared_ptr<Stream> stream, asio::awaitable<void> work) {
  std::exception_ptr error;
  try {
    co_await drive(stream, std::move(work));
    co_return;
  } catch (...) {
    error = std::current_exception();
  }
  stream->client->report(stream->head, stream->begun, 0, error);
  std::rethrow_exception(error);
}

asio::awaitable<void> watched(std::shared_ptr<Stream> stream, asio::awaitable<void> work) {
  if (!stream->client->options.on_answer) return drive(std::move(stream), std::move(work));
  return drive_watched(std::move(stream), std::move(work));
}

class Exchange final : public ClientExchange {
 public:
  explicit Exchange(std::shared_ptr<Stream> stream) : stream_(std::move(stream)) {}
  ~Exchange() override { end(false); }
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  [[nodiscard]] asio::awaitable<bool> write(asio::const_buffer from) override {
    auto stream = stream_;
    auto work = run_write(stream, from);
    co_await watched(stream, std::move(work));
    co_return stream->go_on;
  }
  [[nodiscard]] asio::awaitable<std::uint64_t> write_file(int fd, std::uint64_t offset, std::uint64_t length) override {
    auto stream = stream_;
    auto work = run_write_file(stream, fd, offset, length);
    co_await watched(stream, std::move(work));
    co_return stream->moved;
  }
  [[nodiscard]] asio::awaitable<HttpResponse> head() override {
    auto stream = stream_;
    auto work = run_head(stream);
    co_await watched(stream, std::move(work));
    stream->client->report(stream->head, stream->begun, stream->response.status, nullptr);
    co_return std::move(stream->response);
  }
  [[nodiscard]] std::optional<std::uint64_t> content_length() const noexcept override { return stream_->length; }
  [[nodiscard]] asio::awaitable<std::size_t> read(asio::mutable_buffer into) override {
    auto stream = stream_;
    auto work = run_read(stream, into);
    co_await drive(stream, std::move(work));
    co_return static_cast<std::size_t>(stream->moved);
  }
  [[nodiscard]] asio::awaitable<std::string> read_rest(std::size_t limit) override {
    std::string out;
    while (out.size() < limit) {
      const std::size_t had = out.size();
      out.resize(std::min(limit, had + 16 * 1024));
      const auto into = asio::buffer(out.data() + had, out.size() - had);
      const std::size_t n = co_await read(into);
      out.resize(had + n);
      if (n == 0) break;
    }
    co_return out;
  }
  void abort() noexcept override { end(true); }

 private:
  // From any thread: the state is only touched on its executor.
  void end(bool aborted) noexcept {
    if (stream_->over) return;
    try {
      asio::post(stream_->executor, [stream = stream_, aborted] {
        if (stream->over) return;
        if (aborted || stream->operating) {
          stream->cancel();
          stream->ready.cancel();
        } else {
          leave(*stream, false);
        }
      });
    } catch (...) {
      // No memory for the news: the connection's deadline ends it.
    }
  }

  std::shared_ptr<Stream> stream_;
};

}  // namespace

asio::awaitable<std::unique_ptr<ClientExchange>> open_exchange(std::shared_ptr<ClientState> client, HttpRequest request,
                                                               std::optional<std::uint64_t> body_length, bool expect_continue,
                                                               std::chrono::steady_clock::time_point connect_deadline,
                                                               std::chrono::steady_clock::duration idle_timeout) {
  if (!request.body.empty()) throw std::invalid_argument("the body of an exchange is written apart");
  const bool expects = expect_continue && body_length != 0U;
  auto head = write_request_head(request, client->endpoint.authority(), body_length, expects);
  auto reused = client->pool.borrow();
  const auto executor = client->executor_of(reused.get());
  auto stream = std::make_shared<Stream>(client, executor, connect_deadline);
  stream->method = std::move(request.method);
  stream->head = std::move(head);
  stream->idle = idle_timeout;
  stream->left = body_length;
  stream->awaits_continue = expects;
  stream->reused = reused != nullptr;
  stream->connection = std::move(reused);
  // Made first: it ends the exchange when the opening fails or is given up.
  auto exchange = std::make_unique<Exchange>(stream);
  auto work = run_open(stream);
  co_await watched(stream, std::move(work));
  co_return exchange;
}

}  // namespace cwsandbox::net
