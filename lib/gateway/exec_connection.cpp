#include "gateway/exec_connection.hpp"

#include "base/text.hpp"
#include "gateway/exec_table.hpp"
#include "gateway/large_messages.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/beast/websocket/error.hpp>

#include <variant>

namespace cwsandbox::gateway {

using protocol::CloseCode;

namespace {

// How long a message under way may hold up the close of a connection.
constexpr std::chrono::seconds kFinishWrite{1};
// A start message may be large; storage of more than this is not kept for the small ones that follow.
constexpr std::size_t kKeptMessage = 128 * 1024;

}  // namespace

ExecConnection::ExecConnection(std::shared_ptr<Context> context, ExecTable& table, std::shared_ptr<const Credential> credential,
                               std::unique_ptr<net::WebSocket> socket)
    : context_(std::move(context)),
      table_(&table),
      credential_(std::move(credential)),
      socket_(std::move(socket)),
      close_timer_(context_->executor),
      begin_(std::chrono::steady_clock::now()) {}

void ExecConnection::set_host(std::shared_ptr<StreamHost> host) {
  host_ = std::move(host);
  paused_ = false;
}

void ExecConnection::resume_reading() {
  paused_ = false;
  pump();
  read();
}

void ExecConnection::read() {
  if (!open_ || reading_ || paused_) return;
  reading_ = true;
  socket_->async_read(message_, [self = shared_from_this()](error_code ec) {
    self->reading_ = false;
    self->on_read(ec);
  });
}

void ExecConnection::on_read(error_code ec) {
  namespace websocket = boost::beast::websocket;
  if (!open_) {
    settle();
    return;
  }
  if (ec) {
    if (host_ && (ec == websocket::error::message_too_big || ec == websocket::condition::protocol_violation)) host_->on_violation();
    lost();
    return;
  }
  bytes_in_ += message_.payload().size() + 1;
  if (message_.is_text() || message_.empty()) {
    if (host_) host_->on_violation();
    if (message_.is_text()) {
      close(CloseCode::unsupported, "text messages are not part of this protocol");
    } else {
      close(CloseCode::protocol_error, "a message without a channel");
    }
    return;
  }
  if (host_) {
    const auto keep = host_;
    keep->on_message(*this, message_.channel(), message_.payload());
  } else if (net::ClientTurns& turns = credential_->owner->turns; !turns.take_now(context_->executor)) {
    turns.wait(context_->executor, [self = shared_from_this()] { self->open_ ? self->on_first_message() : self->settle(); });
    return;
  } else {
    return on_first_message();
  }
  after_message();
}

void ExecConnection::after_message() {
  if (!reading_ && message_.payload().size() > kKeptMessage) message_ = net::IncomingMessage();
  pump();
  read();
}

void ExecConnection::on_first_message() {
  if (message_.payload().size() >= LargeMessages::kLarge) {
    asio::co_spawn(context_->executor, read_large_first_message(shared_from_this()), asio::detached);
    return;
  }
  act_on(protocol::parse_first_message(message_.channel(), message_.payload()));
  after_message();
}

// Nothing more is read meanwhile, so the message stays as it is.
asio::awaitable<void> ExecConnection::read_large_first_message(std::shared_ptr<ExecConnection> self) {
  const auto parse = [&message = self->message_] { return protocol::parse_first_message(message.channel(), message.payload()); };
  std::optional<protocol::FirstMessage> first;
  try {
    auto reading = LargeMessages::run(LargeMessages(self->context_->executor, self->credential_->owner),
                                      self->message_.payload().size(), parse);
    first = co_await std::move(reading);
  } catch (const runner::RunnerError&) {  // there is no thread for it: late is better than never
    first = parse();
  }
  if (!self->open_) {
    self->settle();
    co_return;
  }
  self->act_on(*first);
  self->after_message();
}

void ExecConnection::act_on(const protocol::FirstMessage& first) {
  if (const auto* start = std::get_if<protocol::StartRequest>(&first)) {
    table_->on_start(shared_from_this(), *start);
  } else if (const auto* resume = std::get_if<protocol::ResumeRequest>(&first)) {
    table_->on_resume(shared_from_this(), *resume);
  } else if (const auto* violation = std::get_if<protocol::ProtocolError>(&first)) {
    close(violation->code, violation->reason);
  }
}

void ExecConnection::pump() {
  if (!open_ || writing_ || !host_) return;
  const std::optional<protocol::OutMessage> message = host_->stream().next_message();
  if (!message) return;
  writing_ = host_;
  bytes_out_ += message->head.size() + message->body.size();
  socket_->async_write(message->head, message->body, [self = shared_from_this()](error_code ec) { self->on_written(ec); });
}

void ExecConnection::on_written(error_code ec) {
  const auto host = std::move(writing_);
  writing_.reset();
  host->stream().on_sent();
  if (!open_) {
    release_host();
    if (close_wanted_ && !closing_) issue_close();
    settle();
    return;
  }
  if (ec) {
    lost();
    return;
  }
  pump();  // what is at hand goes out before more is read
  if (host == host_) host->on_written();
}

void ExecConnection::release_host() {
  if (writing_ || !host_) return;
  const auto host = std::move(host_);
  host_.reset();
  host->on_connection_gone(*this);
}

void ExecConnection::lost() {
  if (!open_) return;
  const auto self = shared_from_this();
  open_ = false;
  closed_ = true;
  socket_->abort();
  release_host();
  settle();
}

void ExecConnection::abort() noexcept {
  open_ = false;
  closed_ = true;
  host_.reset();
  close_timer_.cancel();
  if (socket_) socket_->abort();
}

void ExecConnection::close(CloseCode code, std::string_view reason) {
  if (!open_) return;
  const auto self = shared_from_this();
  open_ = false;
  close_wanted_.emplace(code, std::string(reason.substr(0, 123)));
  if (writing_) {
    close_timer_.expires_after(kFinishWrite);
    close_timer_.async_wait([self](error_code ec) {
      if (ec || !self->writing_) return;
      self->close_wanted_.reset();
      self->closed_ = true;
      self->socket_->abort();
      self->settle();
    });
    return;
  }
  release_host();
  issue_close();
}

void ExecConnection::issue_close() {
  closing_ = true;
  close_timer_.cancel();
  const auto code = static_cast<std::uint16_t>(close_wanted_->first);
  socket_->async_close(code, close_wanted_->second, context_->options.limits.close_timeout,
                       [self = shared_from_this()](error_code) {
                         self->closed_ = true;
                         self->settle();
                       });
}

// The connection goes once nothing of it is under way any more.
void ExecConnection::settle() {
  if (!closed_ || reading_ || writing_ || !socket_) return;
  const auto self = shared_from_this();
  release_host();
  const auto elapsed = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begin_).count();
  std::string line = "GET " + std::string(protocol::kExecPath) + " 101 " + std::to_string(elapsed) + " ms, " +
                     std::to_string(bytes_in_) + " bytes in, " + std::to_string(bytes_out_) + " out";
  if (const std::string& name = credential_->owner->name; !name.empty()) line += ", for " + name;
  if (close_wanted_)
    line +=
        ", closed " + std::to_string(static_cast<unsigned>(close_wanted_->first)) + " " + base::escaped(close_wanted_->second, 128);
  context_->log(LogLevel::info, line);
  // Not destroyed here: this may be its own completion.
  asio::post(context_->executor, [socket = std::move(socket_)]() mutable { socket.reset(); });
  socket_.reset();
  if (!context_->dropped) table_->remove(*this);
  context_->changed.notify();
}

}  // namespace cwsandbox::gateway
