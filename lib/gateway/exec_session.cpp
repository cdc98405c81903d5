#include "gateway/exec_session.hpp"

#include "base/text.hpp"
#include "gateway/errors.hpp"
#include "gateway/large_messages.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/beast/websocket/error.hpp>

#include <algorithm>
#include <cstring>

namespace cwsandbox::gateway {

using protocol::Channel;
using protocol::CloseCode;

namespace {

// Read from the pipe and not yet given to the socket: enough to keep the socket busy while the next chunk is read.
constexpr std::uint64_t kReadAhead = 64 * 1024;
// How long a message under way may hold up the close of a connection.
constexpr std::chrono::seconds kFinishWrite{1};
constexpr std::chrono::milliseconds kHoldEnds{5};
constexpr std::uint64_t kMaxTimeoutMs = 365ull * 24 * 3600 * 1000;
// A start message may be large; storage of more than this is not kept for the small ones that follow.
constexpr std::size_t kKeptMessage = 128 * 1024;

Channel channel_of(ProcessRun::Output output) noexcept {
  return output == ProcessRun::Output::std_out ? Channel::std_out : Channel::std_err;
}

ProcessRun::Limits limits_of(const Context& context, const protocol::StartRequest& request) {
  ProcessRun::Limits limits;
  limits.timeout = std::chrono::milliseconds(std::min(request.timeout_ms, kMaxTimeoutMs));
  limits.grace = std::min(std::chrono::milliseconds(std::min(request.grace_ms, kMaxTimeoutMs)), context.options.max_grace);
  limits.drain = std::chrono::milliseconds(std::min(request.drain_ms, kMaxTimeoutMs));
  return limits;
}

// Ids are their owner's: what others call theirs is nobody's business.
std::string table_key(const Owner& owner, const std::string& id) { return owner.key + "\n" + id; }

Digest fingerprint_of(const protocol::StartRequest& request) {
  Fingerprint f;
  f.add(request.sandbox_id).add(std::uint64_t{request.command.size()});
  for (const auto& argument : request.command) f.add(argument);
  f.add(std::uint64_t{request.env.size()});
  for (const auto& [name, value] : request.env) f.add(name).add(value);
  f.add(request.cwd).add(std::uint64_t{request.use_stdin}).add(std::uint64_t{request.tty});
  f.add(request.timeout_ms).add(request.grace_ms).add(request.drain_ms);
  return f.digest();
}

}  // namespace

// ---- ids ----

void UsedIds::insert(const std::string& id, std::size_t most) {
  if (!ids_.insert(id).second) return;
  order_.push_back(id);
  if (order_.size() <= most) return;
  ids_.erase(order_.front());
  order_.pop_front();
}

// ---- refusal ----

Refusal::Refusal(const protocol::StartRequest& request, const protocol::StatusError& error) : StreamHost(request) {
  stream_.on_stdin_closed();
  stream_.on_refused(error);
}

void Refusal::on_message(ExecConnection& connection, std::uint8_t channel, std::string_view payload) {
  const protocol::ServerEvent event = stream_.on_message(channel, payload);
  if (const auto* violation = std::get_if<protocol::ProtocolError>(&event)) {
    connection.close(violation->code, violation->reason);
  } else if (const auto* data = std::get_if<protocol::Data>(&event)) {
    stream_.on_stdin_consumed(data->bytes.size());  // sent before the refusal arrived
  } else if (std::holds_alternative<protocol::Released>(event)) {
    connection.drop_host();
  }
}

// ---- process ----

ExecProcess::ExecProcess(std::shared_ptr<Context> context, ExecTable& table, std::shared_ptr<SandboxRecord> sandbox,
                         const protocol::StartRequest& request)
    : ProcessRun(context, std::move(sandbox), request.id, request.command.front(), limits_of(*context, request)),
      StreamHost(request),
      context_(std::move(context)),
      table_(&table),
      windows_(std::shared_ptr<net::MemoryPool>(this->sandbox()->owner(), &this->sandbox()->owner()->memory)),
      attempt_(request.attempt),
      orphan_timer_(context_->executor),
      hold_timer_(context_->executor),
      spills_{OutputSpill(budgets_of(this->sandbox()->owner()), context_->options.capture_bytes, context_->options.log_directory),
              OutputSpill(budgets_of(this->sandbox()->owner()), context_->options.capture_bytes, context_->options.log_directory)} {
  for (const auto stream : {protocol::Channel::std_out, protocol::Channel::std_err})
    stream_.outbound(stream).keep_spares(BufferPool::kKept);
}

ExecProcess::~ExecProcess() = default;

void ExecProcess::wake() {
  if (connection_) connection_->pump();
}

std::optional<protocol::StatusError> ExecProcess::reserve(const protocol::ResumeRequest& request) {
  const auto more = [this](Channel channel, std::uint64_t limit, std::uint64_t received) {
    return std::max(stream_.outbound(channel).window(), limit - std::min(limit, received)) - protocol::kDefaultWindow;
  };
  const std::uint64_t bytes = more(Channel::std_out, request.stdout_limit, request.stdout_received) +
                              more(Channel::std_err, request.stderr_limit, request.stderr_received);
  if (windows_.grow_to(static_cast<std::size_t>(bytes))) return std::nullopt;
  return to_status_error(sandbox()
                             ->owner()
                             ->budgets
                             .exhausted(Budget::memory, {},
                                        "window: there is no memory for more than " + std::to_string(protocol::kDefaultWindow) +
                                            " bytes of an output, with what else is held for you here")
                             .error());
}

void ExecProcess::attach_first(const std::shared_ptr<ExecConnection>& connection) {
  connection_ = connection;
  connection->set_host(self());
}

void ExecProcess::attach(const std::shared_ptr<ExecConnection>& connection, const Attach& how) {
  const auto keep = self();
  if (how.request.attempt < attempt_) {  // an old connection's words that arrive late
    connection->close(CloseCode::superseded, "a newer connection has this process");
    return;
  }
  if (how.resume) {
    // Found out before the connection that it has is closed: who cannot go on must not end it for who can.
    if (const auto error = stream_.refuses(how.request)) {
      refuse(*connection, *error);
      return;
    }
  }
  if (const auto error = reserve(how.request)) {
    refuse(*connection, *error);
    return;
  }
  attempt_ = how.request.attempt;
  if (!connection_) {
    attach_now(connection, how);
    return;
  }
  if (next_) next_->close(CloseCode::superseded, "a newer connection took this process over");
  connection->pause();
  next_ = connection;
  next_how_ = how;
  connection_->close(CloseCode::superseded, "a newer connection took this process over");
}

void ExecProcess::attach_now(const std::shared_ptr<ExecConnection>& connection, const Attach& how) {
  const auto keep = self();
  if (!connection->open()) {
    become_orphan();
    return;
  }
  std::optional<protocol::StatusError> error;
  if (how.resume) {
    error = stream_.on_reconnected(how.request);
  } else {
    error = stream_.on_reconnected(0, 0, false);
    if (!error) stream_.grant(how.request.stdout_limit, how.request.stderr_limit);
  }
  if (error) {
    refuse(*connection, *error);
    connection->resume_reading();
    become_orphan();
    return;
  }
  orphan_timer_.cancel();
  if (table_ != nullptr) table_->remove_orphan(*this);
  connection_ = connection;
  connection->set_host(keep);
  advance();
  connection->resume_reading();
}

void ExecProcess::refuse(ExecConnection& connection, const protocol::StatusError& error) const {
  protocol::StartRequest request;
  request.id = run_id();
  connection.set_host(std::make_shared<Refusal>(request, error));
}

void ExecProcess::become_orphan() {
  if (table_ == nullptr || orphan_at_) return;
  orphan_timer_.expires_after(context_->options.orphan_grace);
  std::weak_ptr<ProcessRun> weak = weak_from_this();
  orphan_timer_.async_wait([weak](error_code ec) {
    const auto run = weak.lock();
    if (ec || !run) return;
    auto& process = static_cast<ExecProcess&>(*run);
    if (process.connection_ || process.table_ == nullptr) return;  // somebody came in the last moment
    process.context_->log(LogLevel::info, "process " + base::escaped(process.run_id(), 64) + ": its client did not come back");
    process.table_->forget(process, false);
    process.cancel(process.grace());
  });
  table_->add_orphan(*this);
  advance();  // from now on onto disk
}

void ExecProcess::orphaned_for_good() noexcept {
  table_ = nullptr;
  orphan_timer_.cancel();
  hold_timer_.cancel();
  connection_.reset();
  next_.reset();
}

void ExecProcess::on_message(ExecConnection& connection, std::uint8_t channel, std::string_view payload) {
  const auto keep = self();
  const protocol::ServerEvent event = stream_.on_message(channel, payload);
  if (const auto* data = std::get_if<protocol::Data>(&event)) {
    write_stdin(data->bytes);
  } else if (std::holds_alternative<protocol::Acknowledged>(event)) {
    // What was freed goes back to be read into: storage that goes round stays warm, and costs no page faults.
    for (const auto stream : {protocol::Channel::std_out, protocol::Channel::std_err})
      for (auto spare = stream_.outbound(stream).recycle(); !spare.empty(); spare = stream_.outbound(stream).recycle())
        context_->buffers.put(std::move(spare));
    advance();
  } else if (std::holds_alternative<protocol::EndOfStream>(event)) {
    end_stdin();
  } else if (const auto* wanted = std::get_if<protocol::SignalRequest>(&event)) {
    signal(wanted->number);
  } else if (const auto* cancelled = std::get_if<protocol::CancelRequest>(&event)) {
    std::chrono::milliseconds patience = grace();
    if (cancelled->grace_ms) patience = std::chrono::milliseconds(std::min(*cancelled->grace_ms, kMaxTimeoutMs));
    cancel(patience);
  } else if (const auto* size = std::get_if<protocol::ResizeRequest>(&event)) {
    resize(size->width, size->height);
  } else if (std::holds_alternative<protocol::Released>(event)) {
    connection_.reset();
    connection.drop_host();
    if (table_ != nullptr) table_->forget(*this, true);
    if (next_) {  // somebody else still wants it; there is nothing left to give
      const auto late = std::move(next_);
      next_.reset();
      late->close(CloseCode::superseded, "the process was released");
    }
    cancel(std::chrono::milliseconds(0));
    if (context_->stopping) connection.close(CloseCode::going_away, "the gateway is shutting down");
    return;
  } else if (const auto* violation = std::get_if<protocol::ProtocolError>(&event)) {
    on_violation();
    connection.close(violation->code, violation->reason);
    return;
  }
  if (stream_.stdin_awaited()) want_arrival();
  wake();
}

void ExecProcess::on_violation() {
  const auto keep = self();
  if (table_ != nullptr) table_->forget(*this, false);
  cancel(std::chrono::milliseconds(0));
}

void ExecProcess::on_connection_gone(ExecConnection& connection) {
  const auto keep = self();
  if (next_.get() == &connection) next_.reset();
  if (connection_.get() != &connection) return;
  connection_.reset();
  if (next_) {
    const auto next = std::move(next_);
    next_.reset();
    if (table_ == nullptr) {
      next->close(CloseCode::protocol_error, "the process was killed: its connection broke the rules");
    } else {
      attach_now(next, next_how_);
    }
    return;
  }
  become_orphan();
}

std::uint64_t ExecProcess::stream_room(Output output) {
  const protocol::OutboundStream& out = stream_.outbound(channel_of(output));
  if (out.end_offset() - out.sent_offset() >= kReadAhead) return 0;
  return std::min<std::uint64_t>(out.room(), BufferPool::kSize);
}

std::size_t ExecProcess::room(Output output) {
  const std::uint64_t in_stream = spill(output).empty() ? stream_room(output) : 0;
  if (in_stream > 0 || connection_ || table_ == nullptr) return static_cast<std::size_t>(in_stream);
  // Nobody is there to take it yet: the disk does, within the bounds of this process and of all together.
  const std::uint64_t held = spills_[0].size() + spills_[1].size(), most = context_->options.capture_bytes;
  return static_cast<std::size_t>(
      std::min<std::uint64_t>({most - std::min(most, held), spill(output).room(), std::uint64_t{BufferPool::kSize}}));
}

void ExecProcess::advance() {
  const auto keep = self();
  bool waits = exit_waits_.has_value();
  for (const Output output : {Output::std_out, Output::std_err}) {
    if (!connection_ || spill(output).empty()) continue;
    waits = true;
    if (!refill(output)) return;
  }
  if (exit_waits_ && spills_[0].empty() && spills_[1].empty()) {
    hold_timer_.cancel();
    stream_.on_exited(*exit_waits_);
    exit_waits_.reset();
  }
  if (waits) wake();
  pump();
}

bool ExecProcess::refill(Output output) {
  OutputSpill& from = spill(output);
  while (!from.empty()) {
    const auto space = static_cast<std::size_t>(stream_room(output));
    if (space == 0) return true;
    std::string buffer = context_->buffers.get();
    const std::size_t n = from.read(buffer.data(), space);
    if (n == 0) {
      give_up(from.error());
      return false;
    }
    buffer.resize(n);
    stream_.outbound(channel_of(output)).push(std::move(buffer));
  }
  if (std::exchange(end_waits_[static_cast<std::size_t>(output)], false)) stream_.outbound(channel_of(output)).finish();
  return true;
}

// The disk does not give back what it took. A stream with a hole must not look whole: the process is given up, and whoever asks is
// told that it is not known.
void ExecProcess::give_up(int error) {
  context_->log(LogLevel::error, "process " + base::escaped(run_id(), 64) +
                                     ": given up, its output cannot be read back from disk: " + std::strerror(error));
  exit_waits_.reset();
  if (table_ != nullptr) table_->forget(*this, false);
  cancel(std::chrono::milliseconds(0));
  if (const auto connection = connection_) connection->close(CloseCode::going_away, "output of the process was lost on disk");
}

void ExecProcess::on_started(std::uint64_t pid) {
  stream_.on_started(pid);
  wake();
}

void ExecProcess::on_output(Output output, std::string chunk) {
  // One decision for both: `room` looked at the same.
  if (!spill(output).empty() || stream_room(output) == 0) {
    spill(output).append(chunk);
    context_->buffers.put(std::move(chunk));
    return;
  }
  stream_.outbound(channel_of(output)).push(std::move(chunk));
  wake();
}

void ExecProcess::on_output_end(Output output, bool abandoned) {
  if (abandoned) {
    spill(output).clear();
    stream_.outbound(channel_of(output)).abandon();
  } else if (spill(output).empty()) {
    stream_.outbound(channel_of(output)).finish();
  } else {
    end_waits_[static_cast<std::size_t>(output)] = true;
  }
  hold_ends();
  wake();
}

// Most processes close their streams by ending: the exit, which follows at once, then says all of it in one message.
void ExecProcess::hold_ends() {
  if (std::exchange(holding_ends_, true)) return;
  stream_.hold_ends(true);
  hold_timer_.expires_after(kHoldEnds);
  hold_timer_.async_wait([weak = weak_from_this()](error_code ec) {
    const auto run = weak.lock();
    if (ec || !run) return;
    auto& process = static_cast<ExecProcess&>(*run);
    process.holding_ends_ = false;
    process.stream_.hold_ends(false);
    process.wake();
  });
}

void ExecProcess::on_ended(const protocol::ExitStatus& status) {
  stream_.on_ended(status);
  wake();
}

void ExecProcess::on_stdin_consumed(std::size_t bytes, std::uint64_t arrived) {
  stream_.on_stdin_consumed(bytes);
  stream_.on_stdin_taken(arrived);
  wake();
}

void ExecProcess::on_stdin_closed(std::uint64_t arrived) {
  stream_.on_stdin_taken(arrived);
  stream_.on_stdin_closed();
  hold_ends();
  wake();
}

void ExecProcess::on_refused(const protocol::ConnectError& error) {
  stream_.on_refused(to_status_error(error));
  wake();
}

void ExecProcess::on_finished(const protocol::ExitStatus& status) {
  if (spills_[0].empty() && spills_[1].empty()) {
    hold_timer_.cancel();
    stream_.on_exited(status);
  } else {
    exit_waits_ = status;
    stream_.on_ended(status);
  }
  wake();
}

// ---- connection ----

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
  if (table_ != nullptr && !context_->dropped) table_->remove(*this);
  context_->changed.notify();
}

// ---- table ----

ExecTable::~ExecTable() { drop_all(); }

void ExecTable::accept(std::shared_ptr<const Credential> credential, std::unique_ptr<net::WebSocket> socket) {
  auto connection = std::make_shared<ExecConnection>(context_, *this, std::move(credential), std::move(socket));
  connections_.emplace(connection.get(), connection);
  connection->start();
}

void ExecTable::refuse(const std::shared_ptr<ExecConnection>& connection, const protocol::StartRequest& request,
                       const protocol::StatusError& error) {
  context_->log(LogLevel::info, "process " + base::escaped(request.id, 64) + " refused: " +
                                    std::string(base::to_string(error.code)) + ": " + base::escaped(error.message, 256));
  connection->set_host(std::make_shared<Refusal>(request, error));
}

void ExecTable::on_start(const std::shared_ptr<ExecConnection>& connection, const protocol::StartRequest& request) {
  try {
    if (const auto fault = protocol::validate(request)) {
      refuse(connection, request, *fault);
      return;
    }
    const std::shared_ptr<Owner>& owner = connection->credential().owner;
    const std::string key = table_key(*owner, request.id);
    if (const auto known = processes_.find(key); known != processes_.end()) {
      if (known->second->fingerprint_ != fingerprint_of(request)) {
        throw ServiceError(ErrorCode::already_exists, reason::kInvalidRequest, "this process id is in use, for a different request",
                           {{"id", request.id}});
      }
      ExecProcess::Attach how;
      how.request.stdout_limit = request.stdout_limit;
      how.request.stderr_limit = request.stderr_limit;
      how.request.attempt = request.attempt;
      const auto process = known->second;
      process->attach(connection, how);
      return;
    }
    if (const auto used = used_.find(owner); used != used_.end() && used->second.contains(request.id)) {
      throw ServiceError(ErrorCode::failed_precondition, reason::kProcessNotFound,
                         "the process with this id was given up; it is not started again", {{"id", request.id}});
    }
    if (context_->stopping) throw shutting_down();
    auto sandbox = OwnSandboxes(sandboxes_, owner).find(request.sandbox_id);
    if (!sandbox) throw sandbox_not_found(request.sandbox_id);
    if (owner->budgets.take_request(std::chrono::steady_clock::now())) throw owner->budgets.exhausted(Budget::requests);
    runner::ProcessSpec spec;
    spec.command = request.command;
    spec.env = request.env;
    spec.cwd = request.cwd;
    spec.use_stdin = request.use_stdin;
    spec.tty = request.tty;
    spec.tty_width = request.tty_width;
    spec.tty_height = request.tty_height;
    auto process = std::make_shared<ExecProcess>(context_, *this, std::move(sandbox), request);
    if (const auto error = process->reserve({})) {
      refuse(connection, request, *error);
      return;
    }
    processes_.emplace(key, process);
    process->attach_first(connection);
    process->start(std::move(spec));
    process->fingerprint_ = fingerprint_of(request);  // now that the runner is at work
  } catch (const ServiceError& e) {
    refuse(connection, request, to_status_error(e.error()));
  }
}

void ExecTable::on_resume(const std::shared_ptr<ExecConnection>& connection, const protocol::ResumeRequest& request) {
  const auto known = processes_.find(table_key(*connection->credential().owner, request.id));
  if (known == processes_.end() || known->second->sandbox()->id() != request.sandbox_id) {
    protocol::StartRequest named;
    named.id = request.id;
    named.sandbox_id = request.sandbox_id;
    refuse(connection, named,
           to_status_error(ServiceError(ErrorCode::not_found, reason::kProcessNotFound,
                                        "no process has this id here: it has ended and is forgotten, or it never was",
                                        {{"id", request.id}, {"sandbox_id", request.sandbox_id}})
                               .error()));
    return;
  }
  ExecProcess::Attach how;
  how.request = request;
  how.resume = true;
  const auto process = known->second;
  process->attach(connection, how);
}

void ExecTable::forget(ExecProcess& process, bool released) {
  remove_orphan(process);
  process.orphan_timer_.cancel();
  process.table_ = nullptr;
  for (OutputSpill& spill : process.spills_) spill.clear();
  const std::string id = table_key(*process.sandbox()->owner(), process.run_id());
  if (const auto at = processes_.find(id); at != processes_.end() && at->second.get() == &process) {
    const auto keep = std::move(at->second);
    processes_.erase(at);
  }
  if (released) return;
  const auto [used, fresh] = used_.try_emplace(process.sandbox()->owner());
  used->second.insert(process.run_id(), context_->options.max_used_ids);
  // Whose tokens and sandboxes have all gone cannot repeat anything.
  if (fresh) std::erase_if(used_, [](const auto& entry) { return entry.first.expired(); });
}

void ExecTable::add_orphan(ExecProcess& process) {
  process.orphan_at_ = orphans_.insert(orphans_.end(), &process);
  if (orphans_.size() > context_->options.max_orphans) {
    // The oldest of whoever has the most, so that nobody can drive out the processes of others.
    std::unordered_map<const Owner*, std::size_t> count;
    const Owner* most = nullptr;
    for (const ExecProcess* orphan : orphans_) {
      const Owner* owner = orphan->sandbox()->owner().get();
      const std::size_t of_owner = ++count[owner];
      if (most == nullptr || of_owner > count[most]) most = owner;
    }
    const auto at = std::find_if(orphans_.begin(), orphans_.end(),
                                 [most](const ExecProcess* orphan) { return orphan->sandbox()->owner().get() == most; });
    const auto oldest = (*at)->self();
    context_->log(LogLevel::warning,
                  "process " + base::escaped(oldest->run_id(), 64) + ": given up, too many processes without a client");
    forget(*oldest, false);
    oldest->cancel(std::chrono::milliseconds(0));
  }
}

void ExecTable::remove_orphan(ExecProcess& process) {
  if (!process.orphan_at_) return;
  orphans_.erase(*process.orphan_at_);
  process.orphan_at_.reset();
}

void ExecTable::remove(ExecConnection& connection) { connections_.erase(&connection); }

std::size_t ExecTable::busy_connections() const noexcept {
  return static_cast<std::size_t>(
      std::count_if(connections_.begin(), connections_.end(), [](const auto& c) { return c.second->open() && !c.second->idle(); }));
}

void ExecTable::close_idle() {
  const auto all = connections_;
  for (const auto& [key, connection] : all) {
    if (connection->idle()) connection->close(CloseCode::going_away, "the gateway is shutting down");
  }
}

void ExecTable::close_all() {
  const auto all = connections_;
  for (const auto& [key, connection] : all) connection->close(CloseCode::going_away, "the gateway is shutting down");
}

void ExecTable::close_revoked() {
  const auto all = connections_;
  for (const auto& [key, connection] : all) {
    if (connection->credential().revoked)
      connection->close(CloseCode::policy, "the token of this connection is no longer accepted");
  }
}

void ExecTable::abort_all() noexcept {
  for (const auto& [key, connection] : connections_) connection->abort();
}

void ExecTable::drop_all() noexcept {
  orphans_.clear();
  for (const auto& [id, process] : processes_) {
    process->orphan_at_.reset();
    process->orphaned_for_good();
  }
  processes_.clear();
  abort_all();
  connections_.clear();
}

}  // namespace cwsandbox::gateway
