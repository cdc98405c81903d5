#include <boost/asio/error.hpp>

#include <algorithm>
#include <csignal>

#include "base/errno_text.hpp"
#include "protocol/exec_messages.hpp"
#include "runner/remote/server_session.hpp"

namespace cwsandbox::runner::remote {

namespace {

using protocol::Channel;

// Read from the process and not yet written: enough to keep the link busy.
constexpr std::uint64_t kOutputAhead = 128 * 1024;
// Less than that costs less to copy than to keep apart.
constexpr std::size_t kSmall = 4096;
constexpr std::chrono::milliseconds kHoldEnds{5};

[[nodiscard]] std::uint64_t milliseconds_of(std::chrono::system_clock::time_point time) {
  const auto count = std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
  return count > 0 ? static_cast<std::uint64_t>(count) : 0;
}

}  // namespace

protocol::ExitStatus exit_status(const ExitInfo& info) {
  using Outcome = protocol::ExitStatus::Outcome;
  protocol::ExitStatus status;
  status.end_time_ms = milliseconds_of(info.time);
  status.written = info.written;
  if (info.out_of_memory) {
    status.reason = protocol::ExitStatus::Reason::out_of_memory;
  } else if (info.main_ended) {
    status.reason = protocol::ExitStatus::Reason::main_ended;
  }
  switch (info.kind) {
    case ExitInfo::Kind::exited:
      status.outcome = Outcome::exited;
      status.code = info.value;
      break;
    case ExitInfo::Kind::signaled:
      status.outcome = Outcome::signaled;
      status.signal = info.value;
      break;
    case ExitInfo::Kind::lost:
      status.outcome = Outcome::lost;
      break;
  }
  return status;
}

// ---- ServerStream ----

void ServerStream::on_message(const Frame& frame) {
  if (linked_) {
    const protocol::ServerEvent event = machine_.on_message(frame.channel, frame.payload);
    if (const auto* violation = std::get_if<protocol::ProtocolError>(&event)) {
      throw Violation("stream " + std::to_string(stream()) + ": " + violation->reason);
    }
    return on_event(event);
  }
  // The first over this link.
  const protocol::FirstMessage first = protocol::parse_first_message(frame.channel, frame.payload);
  std::optional<protocol::StatusError> error;
  if (const auto* violation = std::get_if<protocol::ProtocolError>(&first)) {
    throw Violation("stream " + std::to_string(stream()) + ": " + violation->reason);
  }
  if (const auto* start = std::get_if<protocol::StartRequest>(&first)) {
    if (start->id != machine_.id()) throw Violation("stream " + std::to_string(stream()) + ": another process's start");
    error = machine_.on_reconnected(0, 0, false);
    if (!error) machine_.grant(start->stdout_limit, start->stderr_limit);
  } else {
    error = machine_.on_reconnected(std::get<protocol::ResumeRequest>(first));
  }
  if (error) throw Violation("stream " + std::to_string(stream()) + ": " + error->message);
  linked_ = true;
  on_event(protocol::Acknowledged{Channel::std_out, 0});
}

void MainStream::on_event(const protocol::ServerEvent& event) {
  const auto session = session_.lock();
  if (!session) return;
  if (std::holds_alternative<protocol::Acknowledged>(event)) session->pump_main();
  session->wake(session->main());
}

// ---- ServerProcess ----

ServerProcess::ServerProcess(const std::shared_ptr<Session>& session, asio::any_io_executor executor, std::uint32_t stream,
                             const protocol::StartRequest& request, std::uint64_t stdin_window)
    : ServerStream(stream, request, stdin_window), session_(session), executor_(std::move(executor)), hold_timer_(executor_) {
  linked_ = true;  // by the start that it was made for
  machine_.take_late_signals();
}

void ServerProcess::wake() {
  if (const auto session = session_.lock()) session->wake(shared_from_this());
}

asio::awaitable<void> ServerProcess::run(std::shared_ptr<ServerProcess> self, std::shared_ptr<Sandbox> sandbox, ProcessSpec spec) {
  std::exception_ptr error;
  std::unique_ptr<Process> process;
  try {
    auto starting = sandbox->start(std::move(spec));
    process = co_await std::move(starting);
  } catch (const StartFailed& e) {
    protocol::ExitStatus status;
    status.outcome = protocol::ExitStatus::Outcome::failed;
    status.error_name = base::errno_name(e.error());
    status.error_what = e.what_failed();
    status.message = e.what();
    self->over_ = true;
    self->machine_.on_exited(status);
  } catch (const RunnerError& e) {
    self->refuse({e.code(), e.what(), e.reason(), e.metadata(), std::nullopt});
  } catch (const std::exception& e) {
    self->refuse({ErrorCode::internal, e.what(), "", {}, std::nullopt});
  }
  if (process && self->killed_) {
    process->signal_group(SIGKILL);
    co_return;
  }
  if (process) {
    self->process_ = std::move(process);
    self->machine_.on_started(self->process_->pid());
    self->outputs_[0].source = &self->process_->std_out();
    self->outputs_[1].source = self->process_->std_err();
    if (self->outputs_[1].source == nullptr) self->end_output(Channel::std_err);
    self->process_->on_exit([weak = std::weak_ptr(self)](const ExitInfo& info) {
      const auto me = weak.lock();
      if (!me || me->killed_) return;
      me->exit_ = exit_status(info);
      me->machine_.on_ended(*me->exit_);
      me->hold_ends();
      me->finish_when_over();
      me->wake();
    });
    self->process_->on_group_gone([weak = std::weak_ptr(self)] {
      const auto me = weak.lock();
      if (!me || me->killed_ || me->over_ || !me->exit_) return;
      me->exit_->group_gone = true;
      me->machine_.on_ended(*me->exit_);
      me->wake();
    });
    for (const int number : std::exchange(self->early_signals_, {})) self->process_->signal_group(number);
    self->watch_input();
    self->drain();
    self->pump();
  }
  self->wake();
}

void ServerProcess::refuse(const protocol::StatusError& error) {
  over_ = true;
  machine_.on_stdin_closed();
  machine_.on_refused(error);
  wake();
}

void ServerProcess::on_sent() {
  machine_.on_sent();
  pump();
}

void ServerProcess::on_event(const protocol::ServerEvent& event) {
  if (const auto* data = std::get_if<protocol::Data>(&event)) {
    feed(data->bytes);
  } else if (std::holds_alternative<protocol::EndOfStream>(event)) {
    input_ended_ = true;
    drain();
  } else if (std::holds_alternative<protocol::Acknowledged>(event)) {
    pump();
  } else if (const auto* wanted = std::get_if<protocol::SignalRequest>(&event)) {
    signal(wanted->number);
  } else if (const auto* size = std::get_if<protocol::ResizeRequest>(&event)) {
    if (process_) process_->resize(size->width, size->height);
  } else if (std::holds_alternative<protocol::CancelRequest>(event)) {
    throw Violation("stream " + std::to_string(stream()) + ": cancel is not for this end");
  } else if (std::holds_alternative<protocol::Released>(event)) {
    killed_ = true;  // nothing is to be told any more
    hold_timer_.cancel();
    if (const auto session = session_.lock()) session->forget(stream());
    return;
  }
  if (machine_.stdin_awaited()) arrived();
  wake();
}

void ServerProcess::signal(int number) {
  if (process_) return process_->signal_group(number);
  if (!over_ && early_signals_.size() < protocol::kMaxKeptSignals) early_signals_.push_back(number);
}

void ServerProcess::kill() noexcept {
  killed_ = true;
  hold_timer_.cancel();
  if (!process_) return;
  process_->signal_group(SIGKILL);
  for (Output& output : outputs_) output.source = nullptr;
  process_.reset();
}

// ---- Input ----

void ServerProcess::feed(std::string_view bytes) {
  if (input_closed_ || over_) {
    machine_.on_stdin_consumed(bytes.size());
    return;
  }
  input_.append(bytes);
  if (!input_waiting_) drain();
}

void ServerProcess::drain() {
  if (!process_ || input_waiting_ || input_closed_) return;
  ByteSink* sink = process_->std_in();
  if (sink == nullptr) return;
  while (input_at_ < input_.size()) {
    error_code ec;
    const std::size_t n = sink->try_write(asio::buffer(input_.data() + input_at_, input_.size() - input_at_), ec);
    input_at_ += n;
    input_written_ += n;
    if (n > 0) machine_.on_stdin_consumed(n);
    if (ec == asio::error::would_block) {
      input_waiting_ = true;
      sink->async_wait([weak = weak_from_this()](error_code wait_ec) {
        const auto self = weak.lock();
        if (!self || self->killed_) return;
        self->input_waiting_ = false;
        if (wait_ec) {
          self->break_input();
        } else {
          self->drain();
        }
        self->wake();
      });
      break;
    }
    if (ec) return break_input();
  }
  arrived();
  if (input_waiting_) return;
  input_at_ = 0;
  input_.clear();
  if (input_.capacity() > kKeptBuffer) input_ = std::string();
  if (input_ended_) close_input();
}

void ServerProcess::watch_input() {
  if (process_->std_in() == nullptr) return;
  process_->std_in()->async_wait_broken([weak = weak_from_this()](error_code ec) {
    const auto self = weak.lock();
    if (!self || self->killed_ || ec == asio::error::operation_aborted) return;
    self->break_input();
    self->wake();
  });
}

// What the process has by now; and whoever asked for it hears of the rest.
void ServerProcess::arrived() {
  ByteSink* sink = process_ ? process_->std_in() : nullptr;
  if (sink == nullptr || input_broken_) return;
  machine_.on_stdin_taken(sink->arrived());
  if (!machine_.stdin_awaited() || sink->arrived() >= input_written_ || std::exchange(arrival_waited_, true)) return;
  sink->async_wait_arrived([weak = weak_from_this()](error_code ec) {
    const auto self = weak.lock();
    if (!self || self->killed_) return;
    self->arrival_waited_ = false;
    if (ec) {
      self->break_input();
    } else {
      self->arrived();
    }
    self->wake();
  });
}

void ServerProcess::close_input() {
  if (std::exchange(input_closed_, true)) return;
  input_ = std::string();
  input_at_ = 0;
  if (process_ && process_->std_in() != nullptr) process_->std_in()->close();
}

// Nobody reads it any more.
void ServerProcess::break_input() {
  if (std::exchange(input_broken_, true)) return;
  if (process_ && process_->std_in() != nullptr) machine_.on_stdin_taken(process_->std_in()->arrived());
  machine_.on_stdin_closed();
  if (!exit_) hold_ends();
  close_input();
}

// ---- Output ----

void ServerProcess::pump() {
  if (!process_ || pumping_) return;
  pumping_ = true;
  bool more = false;
  for (const Channel channel : {Channel::std_out, Channel::std_err}) more = pump(channel) || more;
  pumping_ = false;
  finish_when_over();
  if (more) {
    asio::post(executor_, [weak = weak_from_this()] {
      const auto self = weak.lock();
      if (self && !self->killed_) self->pump();
    });
  }
  wake();
}

// Whether there may be more at once.
bool ServerProcess::pump(Channel channel) {
  Output& output = outputs_[channel == Channel::std_err ? 1 : 0];
  const auto session = session_.lock();
  const auto server = session ? session->server() : nullptr;
  if (output.source == nullptr || output.ended || output.waiting || !server) return false;
  protocol::OutboundStream& out = machine_.outbound(channel);
  const asio::mutable_buffer scratch = server->scratch();
  for (int i = 0; i < kPiecesPerTurn; ++i) {
    if (out.end_offset() - out.sent_offset() >= kOutputAhead) return false;
    const auto room = static_cast<std::size_t>(std::min<std::uint64_t>(out.room(), scratch.size()));
    if (room == 0) return false;
    error_code ec;
    const std::size_t n = output.source->try_read(asio::buffer(scratch, room), ec);
    output.pace.count(n);
    const std::string_view bytes(static_cast<const char*>(scratch.data()), n);
    if (n <= kSmall) {
      out.push_copy(bytes);
    } else {
      std::string chunk = out.recycle();
      chunk.assign(bytes);
      out.push(std::move(chunk));
    }
    if (ec == asio::error::would_block) {
      wait_for_more(channel);
      return false;
    }
    if (ec) {  // its end, or one that nobody can read
      end_output(channel);
      return false;
    }
  }
  return true;
}

void ServerProcess::wait_for_more(Channel channel) {
  Output& output = outputs_[channel == Channel::std_err ? 1 : 0];
  output.waiting = true;
  auto look = [weak = weak_from_this(), channel](error_code ec) {
    const auto self = weak.lock();
    if (!self || self->killed_) return;
    self->outputs_[channel == Channel::std_err ? 1 : 0].waiting = false;
    if (ec) self->end_output(channel);
    self->pump();
  };
  const auto pause = output.pace.pause(std::chrono::steady_clock::now());
  if (pause.count() == 0) return output.source->async_wait(std::move(look));
  if (!output.gather) output.gather.emplace(executor_);
  output.gather->expires_after(pause);
  output.gather->async_wait(std::move(look));
}

void ServerProcess::end_output(Channel channel) {
  Output& output = outputs_[channel == Channel::std_err ? 1 : 0];
  if (std::exchange(output.ended, true)) return;
  machine_.outbound(channel).finish();
  if (process_ && !exit_) hold_ends();
}

void ServerProcess::close_output(Channel channel) {
  Output& output = outputs_[channel == Channel::std_err ? 1 : 0];
  if (output.source == nullptr || output.ended) return;
  output.source->close();
  output.ended = true;
  machine_.outbound(channel).abandon();
  finish_when_over();
  wake();
}

// Most processes close their outputs by ending: what the exit, which follows at once, says for all of them is not said apart.
void ServerProcess::hold_ends() {
  if (over_ || std::exchange(holding_, true)) return;
  machine_.hold_ends(true);
  hold_timer_.expires_after(kHoldEnds);
  hold_timer_.async_wait([weak = weak_from_this()](const error_code& ec) {
    const auto self = weak.lock();
    if (ec || !self || self->killed_) return;
    self->machine_.hold_ends(false);
    self->machine_.tell_ended(true);
    self->wake();
  });
}

void ServerProcess::finish_when_over() {
  if (over_ || !exit_ || !outputs_[0].ended || !outputs_[1].ended) return;
  over_ = true;
  hold_timer_.cancel();
  arrived();
  machine_.on_exited(*exit_);
}

}  // namespace cwsandbox::runner::remote
