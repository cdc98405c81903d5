#include "protocol/exec_messages.hpp"
#include "protocol/exec_stream.hpp"
#include "protocol/signals.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace cwsandbox::protocol {

ExecClientStream::ExecClientStream(const StartRequest& request)
    : request_(request),
      std_in_(request.use_stdin ? kInitialStdinWindow : 0),
      std_out_(request.stdout_limit),
      std_err_(request.stderr_limit) {}

ExecClientStream::ExecClientStream(const ResumeRequest& request)
    : std_in_(0),
      std_out_(request.stdout_limit - request.stdout_received, request.stdout_received),
      std_err_(request.stderr_limit - request.stderr_received, request.stderr_received),
      awaited_(Answer::resumed),
      hold_std_in_(true),
      started_(true),
      adopting_(true),
      describe_(request.describe) {
  request_.id = request.id;
  request_.sandbox_id = request.sandbox_id;
  request_.use_stdin = true;
  request_.attempt = request.attempt;
}

InboundStream* ExecClientStream::output(Channel stream) noexcept {
  if (stream == Channel::std_out) return &std_out_;
  if (stream == Channel::std_err) return &std_err_;
  return nullptr;
}

const InboundStream& ExecClientStream::inbound(Channel stream) const noexcept {
  return stream == Channel::std_err ? std_err_ : std_out_;
}

// ---- what the application wants ----

void ExecClientStream::on_consumed(Channel stream, std::size_t n) {
  if (InboundStream* s = output(stream)) s->on_consumed(n);
}

void ExecClientStream::request_signal(std::string_view name) {
  const auto number = signal_number(name);
  if (!number) throw std::invalid_argument("unknown signal: " + std::string(name.substr(0, 32)));
  // As the kernel does: a signal that is pending already is not made pending again. It also bounds the queue.
  for (std::size_t i = signals_sent_; i < signals_.size(); ++i) {
    if (signals_[i].number == *number) return;
  }
  signals_.push_back({next_signal_++, *number});
}

void ExecClientStream::request_cancel(std::optional<std::uint64_t> grace_ms) {
  cancel_ = CancelRequest{grace_ms};
  cancel_due_ = true;
}

void ExecClientStream::request_resize(std::uint16_t width, std::uint16_t height) {
  resize_ = ResizeRequest{width, height};
  resize_due_ = true;
}

void ExecClientStream::request_flush() { flush_wanted_ = std_in_.end_offset(); }

void ExecClientStream::release() { release_due_ = true; }

void ExecClientStream::on_reconnected() {
  if (refused_) {  // there is nothing on the other side
    released_ = true;
    return;
  }
  if (released_) release_due_ = true;  // it may not have arrived
  released_ = false;
  broken_ = false;
  exit_here_ = false;
  ++request_.attempt;
  opening_due_ = true;
  awaited_ = started_ ? Answer::resumed : Answer::started;
  hold_std_in_ = true;
  // Told again: they say what shall be, not what shall be done once more.
  cancel_due_ = cancel_.has_value();
  resize_due_ = resize_.has_value();
  signals_sent_ = 0;
  flush_sent_ = 0;
}

// ---- messages that come ----

ClientEvent ExecClientStream::on_message(std::uint8_t channel, std::string_view payload) {
  if (broken_) return Nothing{};
  try {
    return dispatch(channel, payload);
  } catch (const Fault& f) {
    broken_ = true;
    return f.error;
  }
}

ClientEvent ExecClientStream::dispatch(std::uint8_t channel, std::string_view payload) {
  check_size(channel, payload);
  if (exit_here_) fault(channel_name(channel) + ": message after the exit");
  if (opening_due_) fault(channel_name(channel) + ": message before the start");
  const auto ch = static_cast<Channel>(channel);
  const bool answer = ch == Channel::status || ch == Channel::resume;
  if (!answer && awaited_ != Answer::none) {
    fault(channel_name(channel) + ": message before " + (awaited_ == Answer::started ? "started" : "resumed"));
  }
  switch (ch) {
    case Channel::std_out:
    case Channel::std_err:
      return on_data(ch, payload);
    case Channel::status:
      return on_status(payload);
    case Channel::window:
      return on_window(payload);
    case Channel::resume:
      return on_resumed(payload);
    case Channel::close:
      return on_close(payload);
    case Channel::std_in:
    case Channel::resize:
    case Channel::start:
    case Channel::signal:
      break;
  }
  fault(channel_name(channel) + ": not for a server to send");
}

ClientEvent ExecClientStream::on_data(Channel stream, std::string_view payload) {
  if (const auto reason = output(stream)->on_data(payload.size(), channel_name(static_cast<std::uint8_t>(stream)))) fault(*reason);
  if (payload.empty()) return Nothing{};
  return Data{stream, payload};
}

ClientEvent ExecClientStream::on_close(std::string_view payload) {
  const Channel stream = decode_close(payload);
  InboundStream* s = output(stream);
  if (s == nullptr) fault("close: stdin is not for a server to end");
  if (!s->on_end()) return Nothing{};  // told again after a reconnect
  return EndOfStream{stream};
}

ClientEvent ExecClientStream::on_window(std::string_view payload) {
  const WindowMessage message = decode_window(payload);
  if (!message.std_in) return Nothing{};
  const std::uint64_t before = stdin_taken_, limit_before = std_in_.limit();
  const bool closed_before = stdin_closed_;
  if (!std_in_.on_window(message.std_in->received, message.std_in->limit)) {
    fault("window: stdin received " + std::to_string(message.std_in->received) + ", sent " + std::to_string(std_in_.sent_offset()));
  }
  take_word("window", *message.std_in);
  if (closed_before || (stdin_taken_ == before && !stdin_closed_ && std_in_.limit() == limit_before)) return Nothing{};
  return Acknowledged{Channel::std_in, stdin_taken_};
}

// After `received` was checked, and what it acknowledges was let go.
void ExecClientStream::take_word(const char* message, const StreamWord& word) {
  const auto differs = [&](std::uint64_t closed) {
    fault(std::string(message) + ": stdin closed at " + std::to_string(closed) + ", taken " + std::to_string(stdin_taken_));
  };
  if (stdin_closed_) {
    if (word.closed && *word.closed != stdin_taken_) differs(*word.closed);
  } else if (word.closed) {
    if (*word.closed < stdin_taken_) differs(*word.closed);
    stdin_taken_ = *word.closed;
    stdin_closed_ = true;
    std_in_.discard();
  } else {
    // A server that does not say what was taken does not know it apart from what it has received.
    stdin_taken_ = std::max(stdin_taken_, word.taken.value_or(word.received));
  }
}

void ExecClientStream::take_up(std::uint64_t stdin_received, std::uint64_t stdin_limit, std::uint64_t signals) {
  hold_std_in_ = false;
  while (!signals_.empty() && signals_.front().sequence <= signals) signals_.pop_front();
  if (exited_) return;
  if (stdin_closed_ ? stdin_received > std_in_.sent_offset() : !std_in_.rewind(stdin_received)) {
    fault("resumed: stdin received " + std::to_string(stdin_received) + ", held are " + std::to_string(std_in_.acknowledged()) +
          " to " + std::to_string(std_in_.sent_offset()));
  }
  std_in_.set_limit(stdin_limit);
}

ClientEvent ExecClientStream::on_resumed(std::string_view payload) {
  ResumedMessage message = decode_resumed(payload);
  if (awaited_ != Answer::resumed) fault("resumed: not expected");
  awaited_ = Answer::none;
  if (std::exchange(adopting_, false)) {
    std_in_.start_at(message.std_in.received);
    // What was asked for here comes after what others asked for.
    for (auto& signal : signals_) signal.sequence += message.signals;
    next_signal_ += message.signals;
  }
  take_up(message.std_in.received, message.std_in.limit, message.signals);
  if (!exited_) take_word("resumed", message.std_in);
  return Resumed{message.std_in.received, message.pid, std::move(message.command)};
}

ClientEvent ExecClientStream::on_status(std::string_view payload) {
  StatusMessage message = decode_status(payload);

  if (const auto* started = std::get_if<StartedMessage>(&message)) {
    if (awaited_ != Answer::started) fault("started: not expected");
    if (started->id != request_.id) fault("started: id is another process's");
    awaited_ = Answer::none;
    started_ = true;
    request_.command = {};
    request_.env = {};
    request_.cwd = {};
    if (hold_std_in_) {
      take_up(started->stdin_received, started->stdin_limit, started->signals);
    } else {
      if (started->stdin_received > std_in_.sent_offset()) fault("started: stdin received is more than was sent");
      std_in_.set_limit(started->stdin_limit);
    }
    stdin_taken_ = std::max(stdin_taken_, started->stdin_taken);
    return Started{started->pid, started->attached};
  }

  if (auto* error = std::get_if<StatusError>(&message)) {
    exit_here_ = true;
    awaited_ = Answer::none;
    std_in_.discard();
    if (exited_) return Nothing{};  // we know how it ended; the server has forgotten it already
    refused_ = true;
    return Refused{std::move(*error)};
  }

  if (awaited_ == Answer::resumed) fault("status: message before resumed");

  if (const auto* ended = std::get_if<EndedMessage>(&message)) {
    if (awaited_ != Answer::none) fault("ended: message before started");
    ended_ = ended->status;
    return Nothing{};
  }

  const auto& exit = std::get<ExitMessage>(message);
  // A broken stream never looks complete (EX-9).
  if (exit.stdout_total != std_out_.received()) {
    fault("exit: stdout has " + std::to_string(exit.stdout_total) + " bytes, received " + std::to_string(std_out_.received()));
  }
  if (exit.stderr_total != std_err_.received()) {
    fault("exit: stderr has " + std::to_string(exit.stderr_total) + " bytes, received " + std::to_string(std_err_.received()));
  }
  if (exit.stdin_taken) {
    const std::uint64_t taken = *exit.stdin_taken;
    if (taken > std_in_.sent_offset()) {
      fault("exit: stdin has " + std::to_string(taken) + " bytes, sent " + std::to_string(std_in_.sent_offset()));
    }
    if (stdin_closed_ ? taken != stdin_taken_ : taken < stdin_taken_) {
      fault("exit: stdin has " + std::to_string(taken) + " bytes, taken " + std::to_string(stdin_taken_));
    }
    stdin_taken_ = taken;
  }
  awaited_ = Answer::none;
  exit_here_ = true;
  (void)std_out_.on_end();
  (void)std_err_.on_end();
  std_in_.discard();
  signals_.clear();
  signals_sent_ = 0;
  ended_ = exit.status;
  if (std::exchange(exited_, true)) return Nothing{};
  return Exited{exit.status};
}

// ---- messages that go ----

void ExecClientStream::encode_control() {
  std::string& out = in_flight_control_;
  out.clear();
  if (opening_due_) {
    opening_due_ = false;
    if (started_) {
      const auto [out_received, out_limit] = std_out_.say();
      const auto [err_received, err_limit] = std_err_.say();
      encode_resume(out, {request_.id, request_.sandbox_id, out_received, err_received, out_limit, err_limit, request_.attempt,
                          describe_ && adopting_});
    } else {
      encode_start(out, request_);
    }
    return;
  }
  if (exit_here_) {
    if (!release_due_ || released_) return;
    released_ = true;
    WindowMessage message;
    const auto [out_received, out_limit] = std_out_.say();
    const auto [err_received, err_limit] = std_err_.say();
    message.std_out = StreamWord{out_received, out_limit};
    message.std_err = StreamWord{err_received, err_limit};
    message.release = true;
    encode_window(out, message);
    return;
  }
  if (hold_std_in_) return;  // until the other side has said where it stands
  if (cancel_due_) {
    cancel_due_ = false;
    encode_cancel(out, *cancel_);
    return;
  }
  if (signals_sent_ < signals_.size()) {
    const KeptSignal& signal = signals_[signals_sent_++];
    encode_signal(out, {signal.number, signal.sequence});
    if (signals_sent_ > kMaxKeptSignals) {
      signals_.pop_front();
      --signals_sent_;
    }
    return;
  }
  if (resize_due_) {
    resize_due_ = false;
    encode_resize(out, *resize_);
    return;
  }
  if (awaited_ != Answer::none) return;
  WindowMessage message;
  bool due = false;
  if (std_out_.grant_due()) {
    const auto [received, limit] = std_out_.say();
    message.std_out = StreamWord{received, limit};
    due = true;
  }
  if (std_err_.grant_due()) {
    const auto [received, limit] = std_err_.say();
    message.std_err = StreamWord{received, limit};
    due = true;
  }
  if (!stdin_closed_ && flush_wanted_ > flush_sent_ && flush_wanted_ > stdin_taken_) {
    flush_sent_ = flush_wanted_;
    message.flush = flush_wanted_;
    due = true;
  }
  if (due) encode_window(out, message);
}

std::optional<OutMessage> ExecClientStream::next_message() {
  if (broken_ || control_in_flight_ || data_in_flight_) return std::nullopt;
  encode_control();
  if (!in_flight_control_.empty()) {
    control_in_flight_ = true;
    return OutMessage{in_flight_control_, {}};
  }
  if (exit_here_ || hold_std_in_ || stdin_closed_ || !request_.use_stdin) return std::nullopt;
  if (std_in_.has_data_to_send()) {
    const std::string_view bytes = std_in_.take(kMaxDataPayload);
    data_head_ = static_cast<char>(Channel::std_in);
    data_in_flight_ = true;
    return OutMessage{{&data_head_, 1}, bytes};
  }
  if (std_in_.has_end_to_send()) {
    std_in_.mark_end_sent();
    encode_close(in_flight_control_, Channel::std_in);
    control_in_flight_ = true;
    return OutMessage{in_flight_control_, {}};
  }
  return std::nullopt;
}

void ExecClientStream::on_sent() noexcept {
  if (std::exchange(data_in_flight_, false)) std_in_.on_sent();
  if (std::exchange(control_in_flight_, false)) {
    in_flight_control_.clear();
    if (in_flight_control_.capacity() > 1024) in_flight_control_ = std::string();  // a start can be large, and comes once
  }
}

bool ExecClientStream::idle() const noexcept { return released_ && !control_in_flight_ && !data_in_flight_; }

}  // namespace cwsandbox::protocol
