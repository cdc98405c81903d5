#include "net/websocket.hpp"

#include "net/http_wire.hpp"
#include "net/sizes.hpp"
#include "net/storage.hpp"
#include "net/websocket_stream.hpp"

#include <boost/asio/post.hpp>
#include <boost/asio/recycling_allocator.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/websocket/stream.hpp>

#include <algorithm>
#include <array>
#include <utility>

namespace cwsandbox::net {

namespace beast = boost::beast;
namespace ws = boost::beast::websocket;

std::string IncomingMessage::take() {
  std::string out;
  if (size_ * 2 >= storage_.capacity()) {
    storage_.resize(size_);
    out = std::move(storage_);
    storage_ = std::string();
  } else {
    out.assign(storage_.data(), size_);
  }
  size_ = 0;
  return out;
}

namespace {

// After so many small messages in a row, storage and write buffer shrink again.
constexpr unsigned kSmallRun = 8;
// Beast uses it for its own part of closing, should nobody call async_close with a deadline.
constexpr std::chrono::seconds kHandshakeTimeout{30};

// At most `limit` bytes, cut before a character of UTF-8 that would not fit whole.
std::string_view cut_utf8(std::string_view text, std::size_t limit) {
  if (text.size() <= limit) return text;
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xC0U) == 0x80U) --limit;
  return text.substr(0, limit);
}

class State : public std::enable_shared_from_this<State> {
 public:
  using Stream = ws::stream<AnyByteStream, false>;

  State(const std::shared_ptr<Transport>& transport, const WebSocket::Limits& limits, bool client)
      : transport_(transport), executor_(transport->executor()), stream_(AnyByteStream(transport)), client_(client) {
    stream_.binary(true);
    stream_.auto_fragment(false);
    if (limits.max_message != 0) stream_.read_message_max(limits.max_message);
    max_message_ = limits.max_message;
    memory_ = limits.memory;
    ws::stream_base::timeout timeout{};
    timeout.handshake_timeout = kHandshakeTimeout;
    timeout.idle_timeout = limits.idle_timeout > limits.idle_timeout.zero() ? limits.idle_timeout : ws::stream_base::none();
    timeout.keep_alive_pings = true;
    stream_.set_option(timeout);
    stream_.write_buffer_bytes(kSmallWriteBuffer);
  }
  ~State() {
    give_back();
    transport_->close();
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  Stream& stream() noexcept { return stream_; }
  const asio::any_io_executor& executor() const noexcept { return executor_; }
  void abort() noexcept {
    aborted_ = true;
    transport_->close();
  }
  bool aborted() const noexcept { return aborted_; }

  void set_subprotocol(std::string name) { subprotocol_ = std::move(name); }
  const std::string& subprotocol() const noexcept { return subprotocol_; }
  std::uint16_t close_code() const { return close_code_ != 0 ? close_code_ : static_cast<std::uint16_t>(stream_.reason().code); }
  std::string close_reason() const {
    const auto& reason = stream_.reason().reason;
    return {reason.data(), reason.size()};
  }

  // The message is read into our own storage, borrowed from the caller's, so that a caller who goes away (with the WebSocket)
  // while a read is under way leaves nothing behind that is written to.
  void start_read(IncomingMessage& into, std::string& storage, IoHandler handler);
  void next_read(IncomingMessage* into, IoHandler handler);
  void start_write(std::string_view head, std::string_view body, IoHandler handler);
  void start_close(std::uint16_t code, std::string_view reason, std::chrono::steady_clock::duration deadline, IoHandler handler);

  // Makes room for `more` bytes of the message. False when there is no memory for it.
  bool grow(std::size_t more) {
    if (memory_) {
      if (!memory_->take(more)) return false;
      taken_ += more;
    }
    storage_.resize(size_ + more);
    return true;
  }
  void give_back() noexcept {
    if (memory_) memory_->give(std::exchange(taken_, 0));
  }

  std::array<asio::mutable_buffer, 2> read_buffers() {
    return {asio::buffer(&channel_, have_channel_ ? 0 : 1), asio::buffer(storage_.data() + size_, storage_.size() - size_)};
  }

  std::shared_ptr<Transport> transport_;
  asio::any_io_executor executor_;
  Stream stream_;
  std::string subprotocol_;
  std::size_t max_message_ = 0;
  std::shared_ptr<MemoryPool> memory_;
  std::size_t taken_ = 0;  // of it

  // The message that is being read.
  std::string storage_;
  std::size_t size_ = 0;
  std::uint8_t channel_ = 0;
  bool have_channel_ = false;

  const bool client_;
  bool aborted_ = false, closing_ = false, detached_ = false;
  std::uint16_t close_code_ = 0;
  unsigned small_reads_ = 0, small_writes_ = 0;
  std::size_t write_buffer_ = kSmallWriteBuffer;
};

// What Beast and Asio see of our handlers: the connection's executor, and memory that is recycled.
struct OpBase {
  std::shared_ptr<State> state;
  using executor_type = asio::any_io_executor;
  [[nodiscard]] executor_type get_executor() const noexcept { return state->executor(); }
  using allocator_type = asio::recycling_allocator<void>;
  [[nodiscard]] allocator_type get_allocator() const noexcept { return {}; }
};

// Gives the private parts of a message to code that is not the WebSocket class.
struct MessageAccess : WebSocket {
  using WebSocket::channel;
  using WebSocket::set_kind;
  using WebSocket::size;
  using WebSocket::storage;
};

struct ReadOp : OpBase {
  IncomingMessage* into;
  IoHandler handler;

  ReadOp(std::shared_ptr<State> s, IncomingMessage* i, IoHandler h) : OpBase{std::move(s)}, into(i), handler(std::move(h)) {}

  void operator()(error_code ec, std::size_t n) {
    State& s = *state;
    if (n > 0 && !s.have_channel_) {
      s.have_channel_ = true;
      --n;
    }
    s.size_ += n;
    if (!ec && !s.stream_.is_message_done()) {
      if (s.size_ == s.storage_.size()) {
        // At least what this frame still holds, as far as it may be trusted.
        const auto hint = s.stream_.read_size_hint(std::size_t{1});
        if (!s.grow(std::min(hint, std::max(kLargeStorage, s.size_)))) {
          ec = asio::error::no_buffer_space;
          s.transport_->close();
        }
      }
      if (!ec) {
        auto keep = std::move(state);
        keep->next_read(into, std::move(handler));
        return;
      }
    }
    if (ec == ws::error::closed && s.stream_.reason().code == ws::close_code::none)
      s.close_code_ = 1005;  // the peer closed and said no more
    if (!s.detached_) {
      MessageAccess::storage(*into) = std::move(s.storage_);
      MessageAccess::size(*into) = ec ? 0 : s.size_;
      MessageAccess::channel(*into) = s.channel_;
      MessageAccess::set_kind(*into, ec || !s.have_channel_, !ec && s.stream_.got_text());
    }
    if (ec && s.aborted_) ec = asio::error::operation_aborted;
    std::move(handler)(ec);
  }
};

void State::start_read(IncomingMessage& into, std::string& storage, IoHandler handler) {
  small_reads_ = size_ > kSmallStorage ? 0 : small_reads_ + 1;
  storage_ = std::move(storage);
  // After a large message another one is likely: it is read in one piece.
  const std::size_t least = small_reads_ == 0 ? kLargeStorage : kSmallStorage;
  if (storage_.size() < least || (storage_.size() > kSmallStorage && small_reads_ > kSmallRun)) storage_ = make_storage(least);
  give_back();
  size_ = 0;
  channel_ = 0;
  have_channel_ = false;
  next_read(&into, std::move(handler));
}

void State::next_read(IncomingMessage* into, IoHandler handler) {
  stream_.async_read_some(read_buffers(), ReadOp(shared_from_this(), into, std::move(handler)));
}

struct WriteOp : OpBase {
  IoHandler handler;
  WriteOp(std::shared_ptr<State> s, IoHandler h) : OpBase{std::move(s)}, handler(std::move(h)) {}
  void operator()(error_code ec, std::size_t /*n*/) {
    if (ec && state->aborted_) ec = asio::error::operation_aborted;
    std::move(handler)(ec);
  }
};

void State::start_write(std::string_view head, std::string_view body, IoHandler handler) {
  if (client_) {
    // Beast takes a change of the option when the next message starts: it allocates a buffer of that size and frees the old.
    const bool small = head.size() + body.size() <= kSmallWriteBuffer;
    small_writes_ = small ? small_writes_ + 1 : 0;
    const auto wanted = !small ? kLargeWriteBuffer : small_writes_ > kSmallRun ? kSmallWriteBuffer : write_buffer_;
    if (wanted != write_buffer_) {
      write_buffer_ = wanted;
      stream_.write_buffer_bytes(wanted);
    }
  }
  const std::array<asio::const_buffer, 2> buffers{asio::buffer(head), asio::buffer(body)};
  stream_.async_write(buffers, WriteOp(shared_from_this(), std::move(handler)));
}

struct CloseOp : OpBase {
  IoHandler handler;
  std::shared_ptr<asio::steady_timer> timer;
  CloseOp(std::shared_ptr<State> s, IoHandler h, std::shared_ptr<asio::steady_timer> t)
      : OpBase{std::move(s)}, handler(std::move(h)), timer(std::move(t)) {}
  void operator()(error_code ec) {
    const bool late = timer->expiry() <= std::chrono::steady_clock::now();
    timer->cancel();
    state->transport_->close();
    // A read under way may have seen the peer's close frame and finished the handshake in our place.
    if (state->stream_.reason().code != ws::close_code::none || state->close_code_ != 0) {
      ec = {};
    } else if (ec && late) {
      ec = beast::error::timeout;
    }
    std::move(handler)(ec);
  }
};

void State::start_close(std::uint16_t code, std::string_view reason, std::chrono::steady_clock::duration deadline,
                        IoHandler handler) {
  if (closing_ || aborted_ || !stream_.is_open()) {
    // Beast must not be asked twice.
    transport_->close();
    const error_code ec = asio::error::not_connected;
    CloseOp op(shared_from_this(), std::move(handler), std::make_shared<asio::steady_timer>(executor_));
    op.timer->expires_at(std::chrono::steady_clock::time_point::max());
    asio::post(executor_, [op = std::move(op), ec]() mutable { op(ec); });
    return;
  }
  closing_ = true;
  auto timer = std::make_shared<asio::steady_timer>(executor_, deadline);
  std::weak_ptr<Transport> weak = transport_;
  timer->async_wait([weak](error_code ec) {
    if (ec) return;
    if (auto transport = weak.lock()) transport->close();
  });
  ws::close_reason why;
  if (code != 0) {
    why.code = static_cast<ws::close_code>(code);
    const auto text = cut_utf8(reason, 123);
    why.reason.assign(text.data(), text.size());
  }
  stream_.async_close(why, CloseOp(shared_from_this(), std::move(handler), std::move(timer)));
}

class WebSocketImpl final : public WebSocket {
 public:
  WebSocketImpl(std::shared_ptr<State> state, std::shared_ptr<void> guard) : state_(std::move(state)), guard_(std::move(guard)) {}
  ~WebSocketImpl() override {
    state_->detached_ = true;
    state_->abort();
  }

  asio::any_io_executor executor() override { return state_->executor(); }
  void async_read(IncomingMessage& into, IoHandler handler) override {
    state_->start_read(into, storage(into), std::move(handler));
  }
  void async_write(std::string_view head, std::string_view body, IoHandler handler) override {
    state_->start_write(head, body, std::move(handler));
  }
  void async_close(std::uint16_t code, std::string_view reason, std::chrono::steady_clock::duration deadline,
                   IoHandler handler) override {
    state_->start_close(code, reason, deadline, std::move(handler));
  }
  void abort() noexcept override { state_->abort(); }
  std::uint16_t close_code() const override { return state_->close_code(); }
  std::string close_reason() const override { return state_->close_reason(); }
  std::string subprotocol() const override { return state_->subprotocol(); }

 private:
  std::shared_ptr<State> state_;
  std::shared_ptr<void> guard_;
};

}  // namespace

asio::awaitable<HandshakeResult> connect_websocket(std::shared_ptr<Transport> transport, std::string host, std::string target,
                                                   Headers headers, std::string subprotocols, WebSocket::Limits limits) {
  auto state = std::make_shared<State>(transport, limits, true);
  check_target(target);
  for (const auto& [name, value] : headers) check_header(name, value);
  check_header("Sec-WebSocket-Protocol", subprotocols);
  state->stream().set_option(ws::stream_base::decorator([&headers, &subprotocols](ws::request_type& request) {
    for (const auto& [name, value] : headers) request.insert(name, value);
    if (!subprotocols.empty()) request.set(beast::http::field::sec_websocket_protocol, subprotocols);
  }));
  HandshakeResult out;
  ws::response_type response;
  auto token = asio::redirect_error(asio::use_awaitable, out.error);
  co_await state->stream().async_handshake(response, host, target, token);
  state->stream().set_option(ws::stream_base::decorator([](ws::request_type&) {}));
  out.response.status = response.result_int();
  for (const auto& field : response) {
    const auto name = field.name_string();
    const auto value = field.value();
    out.response.headers.emplace_back(std::string(name.data(), name.size()), std::string(value.data(), value.size()));
  }
  constexpr std::size_t kMaxRefusalBody = 64 * 1024;
  out.response.body = std::move(response.body());
  if (out.response.body.size() > kMaxRefusalBody) out.response.body.resize(kMaxRefusalBody);
  if (!out.error) {
    state->set_subprotocol(std::string(find_header(out.response.headers, "Sec-WebSocket-Protocol")));
    out.socket = std::make_unique<WebSocketImpl>(std::move(state), nullptr);
  }
  co_return out;
}

asio::awaitable<HandshakeResult> accept_websocket(std::shared_ptr<Transport> transport, std::string target, Headers headers,
                                                  std::string subprotocol, WebSocket::Limits limits, std::shared_ptr<void> guard) {
  auto state = std::make_shared<State>(transport, limits, false);
  beast::http::request<beast::http::empty_body> request(beast::http::verb::get, target, 11);
  for (const auto& [name, value] : headers) request.insert(name, value);
  state->stream().set_option(ws::stream_base::decorator([&subprotocol](ws::response_type& response) {
    response.set(beast::http::field::server, "cwsandboxd");
    if (!subprotocol.empty()) response.set(beast::http::field::sec_websocket_protocol, subprotocol);
  }));
  HandshakeResult out;
  auto token = asio::redirect_error(asio::use_awaitable, out.error);
  co_await state->stream().async_accept(request, token);
  state->stream().set_option(ws::stream_base::decorator([](ws::response_type&) {}));
  if (!out.error) {
    state->set_subprotocol(std::move(subprotocol));
    out.socket = std::make_unique<WebSocketImpl>(std::move(state), std::move(guard));
  }
  co_return out;
}

bool upgrade_declined(const error_code& ec) noexcept { return ec == ws::error::upgrade_declined; }

bool peer_went_away(const error_code& ec) noexcept {
  return ec == asio::error::eof || ec == asio::error::connection_reset || ec == asio::error::broken_pipe ||
         ec == beast::http::error::end_of_stream || ec == beast::http::error::partial_message;
}

}  // namespace cwsandbox::net
