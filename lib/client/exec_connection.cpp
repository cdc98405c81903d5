#include "client/exec_connection.hpp"

#include "base/text.hpp"

#include <boost/asio/bind_executor.hpp>
#include <boost/asio/post.hpp>
#include <boost/beast/websocket/error.hpp>

#include <algorithm>

namespace cwsandbox::client {

using protocol::CloseCode;

namespace {
constexpr std::chrono::seconds kCloseTimeout{1};
}

struct ExecConnection::ReadHandler {
  explicit ReadHandler(std::shared_ptr<ExecConnection> s) : self(std::move(s)) {}
  ReadHandler(ReadHandler&&) = default;
  ReadHandler& operator=(ReadHandler&&) = delete;
  // Never called: the caller's io_context was destroyed with us in it. What keeps each other alive has to let go.
  ~ReadHandler() {
    if (self) self->forget();
  }
  std::shared_ptr<ExecConnection> self;
  using executor_type = asio::any_io_executor;
  [[nodiscard]] executor_type get_executor() const noexcept { return self->strand_; }
  void operator()(net::error_code ec) { std::exchange(self, nullptr)->on_read(ec); }
};
struct ExecConnection::WriteHandler {
  std::shared_ptr<ExecConnection> self;
  using executor_type = asio::any_io_executor;
  [[nodiscard]] executor_type get_executor() const noexcept { return self->strand_; }
  void operator()(net::error_code ec) const { self->on_written(ec); }
};

void ExecConnection::attach(std::shared_ptr<protocol::ExecClientStream> machine, std::shared_ptr<ExecOwner> owner) {
  machine_ = std::move(machine);
  owner_ = std::move(owner);
  pump();
  read();
}

void ExecConnection::read() {
  if (reading_ || dead_) return;
  reading_ = true;
  socket_->async_read(message_, net::IoHandler(ReadHandler(shared_from_this())));
}

void ExecConnection::on_read(net::error_code ec) {
  reading_ = false;
  if (dead_) return;
  if (ec) return lost(describe(ec));
  if (message_.is_text() || message_.empty()) {
    const bool text = message_.is_text();
    close(text ? CloseCode::unsupported : CloseCode::protocol_error, text ? "text message" : "empty message");
    return lost({ConnectionLoss::Kind::fault, text ? "the server sent a text message" : "the server sent an empty message"});
  }
  if (!machine_) {
    close(CloseCode::protocol_error, "message without a process");
    return lost({ConnectionLoss::Kind::fault, "the server spoke without a process"});
  }
  const auto machine = machine_;  // the owner may let go
  const auto owner = owner_;
  const auto event = machine->on_message(message_.channel(), message_.payload());
  if (const auto* fault = std::get_if<protocol::ProtocolError>(&event)) {
    const std::string reason = fault->reason;
    close(fault->code, reason);
    return lost({ConnectionLoss::Kind::fault, "the server broke the protocol: " + reason});
  }
  owner->on_event(event, message_);
  pump();
  read();
}

void ExecConnection::forget() noexcept {
  dead_ = true;
  machine_.reset();
  leaving_.reset();
  owner_.reset();
}

void ExecConnection::pump() {
  if (writing_for_ || dead_) return;
  std::optional<protocol::OutMessage> out;
  if (leaving_) {
    out = leaving_->next_message();
    if (out)
      writing_for_ = leaving_;
    else
      leaving_.reset();
  }
  if (!out && machine_) {
    out = machine_->next_message();
    if (out) writing_for_ = machine_;
  }
  if (out) socket_->async_write(out->head, out->body, net::IoHandler(WriteHandler{shared_from_this()}));
}

void ExecConnection::on_written(net::error_code ec) {
  const auto machine = std::exchange(writing_for_, nullptr);
  machine->on_sent();
  if (dead_) {
    if (const auto owner = unpins_.lock()) owner->on_unpinned();
    return;
  }
  if (ec) return lost(describe(ec));
  pump();
}

void ExecConnection::let_go() {
  leaving_ = std::exchange(machine_, nullptr);
  owner_.reset();
  if (dead_) return;
  if (const auto pool = pool_.lock())
    pool->put(shared_from_this());
  else
    close(CloseCode::normal, "");
}

void ExecConnection::close(CloseCode code, const std::string& reason) {
  if (dead_) return;
  dead_ = true;
  machine_.reset();
  leaving_.reset();
  unpins_ = owner_;
  const auto keep = shared_from_this();
  socket_->async_close(static_cast<std::uint16_t>(code), reason, kCloseTimeout,
                       net::IoHandler(asio::bind_executor(strand_, [keep](net::error_code) {
                         keep->owner_.reset();
                         keep->socket_->abort();
                       })));
}

void ExecConnection::lost(const ConnectionLoss& loss) {
  const bool idle = !owner_ && !dead_;
  if (!dead_) {
    dead_ = true;
    socket_->abort();
  }
  const auto owner = std::exchange(owner_, nullptr);
  unpins_ = owner;
  machine_.reset();
  leaving_.reset();
  if (idle)
    if (const auto pool = pool_.lock()) pool->remove(shared_from_this());
  if (owner) owner->on_connection_lost(loss);
}

ConnectionLoss ExecConnection::describe(net::error_code ec) const {
  namespace websocket = boost::beast::websocket;
  ConnectionLoss loss;
  const auto code = socket_->close_code();
  if (code == 0) {
    if (ec == websocket::error::message_too_big || ec == websocket::condition::protocol_violation)
      loss.kind = ConnectionLoss::Kind::fault;
    loss.why = ec.message();
    return loss;
  }
  loss.why = "closed by the server with code " + std::to_string(code);
  const auto reason = socket_->close_reason();
  if (!reason.empty()) loss.why += " (" + base::printable(reason, 123) + ")";
  switch (static_cast<CloseCode>(code)) {
    case CloseCode::superseded:
      loss.kind = ConnectionLoss::Kind::taken_over;
      break;
    case CloseCode::protocol_error:
    case CloseCode::unsupported:
    case CloseCode::too_big:
      loss.kind = ConnectionLoss::Kind::fault;
      break;
    case CloseCode::normal:
    case CloseCode::going_away:
    case CloseCode::policy:  // a new connection is told what is wrong with the token
      break;
  }
  return loss;
}

std::shared_ptr<ExecConnection> ExecPool::take() {
  const std::lock_guard lock(mutex_);
  if (idle_.empty()) return nullptr;
  auto connection = std::move(idle_.back());
  idle_.pop_back();
  return connection;
}

void ExecPool::put(std::shared_ptr<ExecConnection> connection) {
  std::shared_ptr<ExecConnection> surplus;
  bool arm_timer = false;
  {
    const std::lock_guard lock(mutex_);
    if (closed_) {
      surplus = std::move(connection);
    } else {
      connection->idle_since_ = std::chrono::steady_clock::now();
      idle_.push_back(std::move(connection));
      if (idle_.size() > kMaxIdle) {
        surplus = std::move(idle_.front());
        idle_.pop_front();
      }
      arm_timer = !std::exchange(armed_, true);
    }
  }
  if (surplus) close_later(surplus);
  if (arm_timer) asio::post(strand_, [self = shared_from_this()] { self->arm(); });
}

void ExecPool::remove(const std::shared_ptr<ExecConnection>& connection) {
  const std::lock_guard lock(mutex_);
  idle_.remove(connection);
}

void ExecPool::close() {
  std::list<std::shared_ptr<ExecConnection>> all;
  bool was_armed = false;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    all.swap(idle_);
    was_armed = armed_;
  }
  for (const auto& connection : all) close_later(connection);
  if (was_armed) asio::post(strand_, [self = shared_from_this()] { self->timer_.cancel(); });
}

void ExecPool::close_later(const std::shared_ptr<ExecConnection>& connection) {
  asio::post(connection->strand(), [connection] { connection->close(CloseCode::normal, ""); });
}

void ExecPool::arm() {
  {
    const std::lock_guard lock(mutex_);
    if (closed_ || idle_.empty()) {
      armed_ = false;
      return;
    }
    timer_.expires_at(idle_.front()->idle_since_ + idle_lifetime_);
  }
  // Weak: an idle pool must not keep itself.
  timer_.async_wait(asio::bind_executor(strand_, [weak = weak_from_this()](net::error_code) {
    if (const auto self = weak.lock()) self->sweep();
  }));
}

void ExecPool::sweep() {
  std::list<std::shared_ptr<ExecConnection>> old;
  {
    const std::lock_guard lock(mutex_);
    const auto limit = std::chrono::steady_clock::now() - idle_lifetime_;
    while (!idle_.empty() && idle_.front()->idle_since_ <= limit) old.splice(old.end(), idle_, idle_.begin());
  }
  for (const auto& connection : old) close_later(connection);
  arm();
}

}  // namespace cwsandbox::client
