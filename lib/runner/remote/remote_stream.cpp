#include <boost/asio/error.hpp>

#include <algorithm>
#include <cstring>

#include "base/errno_text.hpp"
#include "base/text.hpp"
#include "protocol/signals.hpp"
#include "runner/remote/tunnel.hpp"

namespace cwsandbox::runner::remote {

namespace {

using protocol::Channel;

// Input that has been taken and not yet written: enough to keep the link busy. What was written is kept too, until the other end
// has it.
constexpr std::uint64_t kInputAhead = 256 * 1024;
// Of a buffer that is read at its front so much may lie idle before it is moved.
constexpr std::size_t kMoveAfter = 256 * 1024;
constexpr std::size_t kMaxShown = 64;

[[nodiscard]] ExitInfo exit_info(const protocol::ExitStatus& status) {
  using Outcome = protocol::ExitStatus::Outcome;
  ExitInfo info;
  info.time = std::chrono::system_clock::time_point(std::chrono::milliseconds(status.end_time_ms));
  info.written = status.written;
  info.out_of_memory = status.reason == protocol::ExitStatus::Reason::out_of_memory;
  info.main_ended = status.reason == protocol::ExitStatus::Reason::main_ended;
  if (status.outcome == Outcome::exited && status.code) {
    info.kind = ExitInfo::Kind::exited;
    info.value = *status.code;
  } else if (status.outcome == Outcome::signaled && status.signal) {
    info.kind = ExitInfo::Kind::signaled;
    info.value = *status.signal;
  }
  check_exit(info);
  return info;
}

[[nodiscard]] std::exception_ptr start_failed(const protocol::ExitStatus& status) {
  Failure failure;
  failure.kind = Failure::Kind::start;
  failure.error = base::errno_number(status.error_name);
  failure.what = status.error_what;
  failure.message = status.message;
  return failure.to_exception();
}

}  // namespace

RemoteStream::RemoteStream(std::weak_ptr<Tunnel> tunnel, asio::any_io_executor executor, std::uint32_t stream,
                           const protocol::StartRequest& request)
    : Sender(stream),
      tunnel_(std::move(tunnel)),
      executor_(std::move(executor)),
      machine_(request),
      with_input_(request.use_stdin) {}

RemoteStream::RemoteStream(std::weak_ptr<Tunnel> tunnel, asio::any_io_executor executor, const protocol::ResumeRequest& main)
    : Sender(kMainStream), tunnel_(std::move(tunnel)), executor_(std::move(executor)), machine_(main), started_(true) {}

void RemoteStream::wake() {
  if (const auto tunnel = tunnel_.lock()) tunnel->wake(shared_from_this());
}

void RemoteStream::on_sent() {
  machine_.on_sent();
  if (input_room() > 0) input_waiters_.resume_all(executor_);
  if (!machine_.idle()) return;
  if (const auto tunnel = tunnel_.lock()) tunnel->on_stream_over(stream());
}

void RemoteStream::on_link() {
  // The first message, of whichever kind, has been queued by the machine itself.
  if (std::exchange(linked_, true)) machine_.on_reconnected();
}

// ---- What comes ----

void RemoteStream::on_message(const Frame& frame) {
  const protocol::ClientEvent event = machine_.on_message(frame.channel, frame.payload);
  if (const auto* data = std::get_if<protocol::Data>(&event)) {
    on_data(*data);
    return;
  }
  if (const auto* end = std::get_if<protocol::EndOfStream>(&event)) {
    end_output(end->stream);
  } else if (const auto* started = std::get_if<protocol::Started>(&event)) {
    pid_ = started->pid;
    started_ = true;
    start_waiters_.resume_all();
    if (failure_) machine_.request_signal("KILL");  // it was given up
  } else if (const auto* exited = std::get_if<protocol::Exited>(&event)) {
    for (const Channel channel : {Channel::std_out, Channel::std_err}) end_output(channel);
    if (!started_) {
      const protocol::ExitStatus& status = exited->status;
      failure_ = status.outcome == protocol::ExitStatus::Outcome::failed
                     ? start_failed(status)
                     : std::make_exception_ptr(RunnerError(ErrorCode::unavailable, kUnavailable, "the sandbox has ended"));
      start_waiters_.resume_all();
    }
    if (!started_ || forgotten_) machine_.release();
  } else if (const auto* refused = std::get_if<protocol::Refused>(&event)) {
    const protocol::StatusError& error = refused->error;
    if (stream() == kMainStream)
      throw Violation("the main command's output cannot be had any more: " + std::string(base::to_string(error.code)));
    lose(std::make_exception_ptr(told_error(error.code, error.reason, error.message, error.metadata)));
    machine_.release();
  } else if (const auto* violation = std::get_if<protocol::ProtocolError>(&event)) {
    throw Violation("stream " + std::to_string(stream()) + ": " + violation->reason);
  }
  if (machine_.ended() && started_) {
    set_exit(exit_info(*machine_.ended()));
    if (machine_.ended()->group_gone && !group_gone_.is_set()) {
      group_gone_.set(exit_info(*machine_.ended()));
      asio::post(executor_, [self = shared_from_this()] { self->group_gone_.fire(); });
    }
  }
  tell_input();
  if (machine_.exited()) {
    if (const auto tunnel = tunnel_.lock()) tunnel->on_stream_end();
  }
  wake();
}

void RemoteStream::on_data(const protocol::Data& data) {
  Output& out = output(data.stream);
  if (out.closed) {
    machine_.on_consumed(data.stream, data.bytes.size());
    if (machine_.inbound(data.stream).grant_due()) wake();
    return;
  }
  out.bytes.append(data.bytes);
  out.waiters.resume_all(executor_);
}

void RemoteStream::end_output(Channel channel) {
  Output& out = output(channel);
  if (std::exchange(out.ended, true)) return;
  out.waiters.resume_all(executor_);
}

void RemoteStream::set_exit(const ExitInfo& info) {
  if (exit_.is_set()) return;
  exit_.set(info);
  // Not from inside a call of the listener's own.
  asio::post(executor_, [self = shared_from_this()] { self->exit_.fire(); });
  if (const auto tunnel = tunnel_.lock()) tunnel->on_stream_end();
}

void RemoteStream::lose(const std::exception_ptr& why) {
  if (std::exchange(lost_, true)) return;
  for (const Channel channel : {Channel::std_out, Channel::std_err}) end_output(channel);
  tell_input();
  if (started_) {
    const auto tunnel = tunnel_.lock();
    set_exit(tunnel ? tunnel->lost_process() : lost_now());
  } else {
    failure_ = why;
    start_waiters_.resume_all();
  }
}

void RemoteStream::give_up(const std::exception_ptr& why) {
  if (!starting()) return;
  failure_ = why;
  start_waiters_.resume_all();
  forget();
}

asio::awaitable<void> RemoteStream::wait_started(std::shared_ptr<RemoteStream> self) {
  while (!self->started_ && !self->failure_) co_await wait_for(self->start_waiters_);
  if (self->failure_) std::rethrow_exception(self->failure_);
}

// ---- What is asked for ----

std::size_t RemoteStream::try_read(Channel channel, asio::mutable_buffer into, error_code& ec) {
  ec = {};
  Output& out = output(channel);
  if (out.closed) {
    ec = asio::error::eof;
    return 0;
  }
  if (into.size() == 0) return 0;
  const std::size_t n = std::min(into.size(), out.bytes.size() - out.at);
  if (n == 0) {
    ec = out.ended ? error_code(asio::error::eof) : error_code(asio::error::would_block);
    return 0;
  }
  std::memcpy(into.data(), out.bytes.data() + out.at, n);
  out.at += n;
  if (out.at == out.bytes.size()) {
    out.at = 0;
    out.bytes.clear();
    if (out.ended || out.bytes.capacity() > kKeptBuffer) out.bytes = std::string();
  } else if (out.at >= kMoveAfter && out.at > out.bytes.size() / 2) {
    out.bytes.erase(0, out.at);
    out.at = 0;
  }
  machine_.on_consumed(channel, n);
  if (machine_.inbound(channel).grant_due()) wake();
  return n;
}

std::uint64_t RemoteStream::unread(Channel channel) noexcept {
  const Output& out = output(channel);
  return out.bytes.size() - out.at;
}

void RemoteStream::wait_readable(Channel channel, IoHandler handler) {
  Output& out = output(channel);
  if (out.closed) return IoWaiters::post(executor_, std::move(handler), asio::error::operation_aborted);
  if (out.at < out.bytes.size() || out.ended) return IoWaiters::post(executor_, std::move(handler), {});
  out.waiters.add(std::move(handler));
}

void RemoteStream::close(Channel channel) {
  Output& out = output(channel);
  if (std::exchange(out.closed, true)) return;
  const std::size_t unread = out.bytes.size() - out.at;
  out.bytes = std::string();
  out.at = 0;
  out.waiters.resume_all(executor_, asio::error::operation_aborted);
  machine_.on_consumed(channel, unread);
  const auto tunnel = tunnel_.lock();
  if (!tunnel) return;
  if (!out.ended && stream() != kMainStream) {  // others may read what the main command writes
    Request request;
    request.op = Op::close_output;
    request.stream = stream();
    request.number = static_cast<int>(channel);
    tunnel->ask(std::move(request));
  }
  wake();
}

std::size_t RemoteStream::input_room() noexcept {
  if (!with_input_) return 0;
  const protocol::OutboundStream& in = machine_.std_in();
  const std::uint64_t unsent = in.end_offset() - in.sent_offset();
  return unsent >= kInputAhead ? 0 : static_cast<std::size_t>(std::min(in.room(), kInputAhead - unsent));
}

std::size_t RemoteStream::try_write(asio::const_buffer from, error_code& ec) {
  ec = {};
  protocol::OutboundStream& in = machine_.std_in();
  if (input_broken() || in.finished()) {
    ec = asio::error::broken_pipe;
    return 0;
  }
  if (from.size() == 0) return 0;
  const std::size_t n = std::min(from.size(), input_room());
  if (n == 0) {
    ec = asio::error::would_block;
    return 0;
  }
  in.push_copy({static_cast<const char*>(from.data()), n});
  input_written_ += n;
  wake();
  return n;
}

void RemoteStream::wait_writable(IoHandler handler) {
  if (input_broken() || machine_.std_in().finished() || input_room() > 0) {
    return IoWaiters::post(executor_, std::move(handler), {});
  }
  input_waiters_.add(std::move(handler));
}

// Whoever waits for room, for what has been written to arrive, or for the end of it, hears of it.
void RemoteStream::tell_input() {
  if (input_broken() || input_room() > 0) input_waiters_.resume_all(executor_);
  if (machine_.stdin_taken() >= arrival_wanted_) {
    arrival_waiters_.resume_all(executor_);
  } else if (input_broken()) {
    arrival_waiters_.resume_all(executor_, asio::error::broken_pipe);
  }
  if (input_broken()) break_waiters_.resume_all(executor_, asio::error::broken_pipe);
}

void RemoteStream::wait_arrived(IoHandler handler) {
  arrival_waiters_.add(std::move(handler));
  arrival_wanted_ = input_written_;
  if (input_broken() || machine_.stdin_taken() >= arrival_wanted_) return tell_input();
  // The other end tells of the last of it by itself once the input has ended.
  if (machine_.std_in().finished()) return;
  machine_.request_flush();
  wake();
}

void RemoteStream::wait_broken(IoHandler handler) {
  break_waiters_.add(std::move(handler));
  if (input_broken()) tell_input();
}

void RemoteStream::close_input() {
  if (machine_.std_in().finished()) return;
  machine_.std_in().finish();
  input_waiters_.resume_all(executor_, asio::error::operation_aborted);
  if (!input_broken()) break_waiters_.resume_all(executor_, asio::error::operation_aborted);
  wake();
}

void RemoteStream::signal(int number) {
  if (lost_ || number < 1 || protocol::signal_name(number).empty()) return;
  if (!machine_.exited()) {
    machine_.request_signal(std::to_string(number));
    wake();
    return;
  }
  // What is left of the group. As the kernel does: one that is pending is not made pending again.
  const auto tunnel = tunnel_.lock();
  auto& pending = late_signals_[number];
  if (!tunnel || (pending && !pending->done)) return;
  Request request;
  request.op = Op::signal;
  request.stream = stream();
  request.number = number;
  pending = tunnel->ask(std::move(request));
}

void RemoteStream::resize(std::uint16_t width, std::uint16_t height) {
  if (lost_ || width == 0 || height == 0) return;
  machine_.request_resize(width, height);
  wake();
}

void RemoteStream::on_exit(std::function<void(const ExitInfo&)> handler) {
  exit_.listen(std::move(handler));
  if (exit_.is_set()) asio::post(executor_, [self = shared_from_this()] { self->exit_.fire(); });
}

void RemoteStream::on_group_gone(std::function<void()> handler) {
  group_gone_.listen([handler = std::move(handler)](const ExitInfo&) { handler(); });
  if (group_gone_.is_set()) asio::post(executor_, [self = shared_from_this()] { self->group_gone_.fire(); });
}

void RemoteStream::forget() {
  exit_.forget();
  group_gone_.forget();
  forgotten_ = true;
  for (const Channel channel : {Channel::std_out, Channel::std_err}) close(channel);
  if (with_input_) close_input();
  if (machine_.exited()) machine_.release();
  wake();
  if (const auto tunnel = tunnel_.lock()) tunnel->on_stream_end();
}

}  // namespace cwsandbox::runner::remote
