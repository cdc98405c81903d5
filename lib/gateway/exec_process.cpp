#include "gateway/exec_process.hpp"

#include "base/text.hpp"
#include "gateway/errors.hpp"
#include "gateway/exec_connection.hpp"
#include "gateway/exec_table.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>
#include <variant>

namespace cwsandbox::gateway {

using protocol::Channel;
using protocol::CloseCode;

namespace {

// Read from the pipe and not yet given to the socket: enough to keep the socket busy while the next chunk is read.
constexpr std::uint64_t kReadAhead = 64 * 1024;
constexpr std::chrono::milliseconds kHoldEnds{5};
constexpr std::uint64_t kMaxTimeoutMs = 365ull * 24 * 3600 * 1000;

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

}  // namespace

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

}  // namespace cwsandbox::gateway
