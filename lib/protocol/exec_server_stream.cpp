#include "protocol/exec_messages.hpp"
#include "protocol/exec_stream.hpp"
#include "protocol/signals.hpp"

#include <algorithm>
#include <utility>

namespace cwsandbox::protocol {
namespace {

bool complete(const OutboundStream& stream) { return stream.finished() && stream.sent_offset() == stream.end_offset(); }

bool held_back(const OutboundStream& stream) { return !complete(stream) && stream.sent_offset() >= stream.limit(); }

StatusError replay_gap(const char* name, std::uint64_t wanted, const OutboundStream& stream) {
  StatusError error;
  error.code = ErrorCode::data_loss;
  error.message = std::string(name) + ": cannot go on from byte " + std::to_string(wanted) + "; held are " +
                  std::to_string(stream.acknowledged()) + " to " + std::to_string(stream.sent_offset());
  error.reason = std::string(kReplayGap);
  return error;
}

}  // namespace

ExecServerStream::ExecServerStream(const StartRequest& request, std::uint64_t stdin_window)
    : id_(request.id),
      std_in_(request.use_stdin ? std::clamp(stdin_window, kInitialStdinWindow, kMaxWindow) : 0),
      std_out_(request.stdout_limit, std::max(request.stdout_limit, kDefaultWindow)),
      std_err_(request.stderr_limit, std::max(request.stderr_limit, kDefaultWindow)),
      use_stdin_(request.use_stdin) {
  std::size_t bytes = 0;
  for (const auto& argument : request.command) bytes += argument.size() + 1;
  if (bytes <= kMaxToldCommand) command_ = request.command;
}

OutboundStream& ExecServerStream::outbound(Channel stream) noexcept { return stream == Channel::std_err ? std_err_ : std_out_; }

bool ExecServerStream::all_sent() const noexcept { return complete(std_out_) && complete(std_err_); }

// ---- what the process does ----

void ExecServerStream::on_stdin_consumed(std::size_t n) { std_in_.on_consumed(n); }

void ExecServerStream::on_stdin_taken(std::uint64_t bytes) {
  if (!stdin_closed_) stdin_taken_ = std::max(stdin_taken_, std::min(bytes, std_in_.received()));
}

void ExecServerStream::on_stdin_closed() {
  stdin_closed_ = true;
  std_in_.on_consumed(static_cast<std::size_t>(std_in_.received() - std_in_.consumed()));
}

bool ExecServerStream::stdin_awaited() const noexcept {
  if (stdin_closed_ || !use_stdin_) return false;
  return stdin_taken_ < (std_in_.ended() ? std_in_.received() : std::min(std_in_.wanted(), std_in_.received()));
}

void ExecServerStream::on_started(std::uint64_t pid) {
  pid_ = pid;
  started_due_ = true;
}

void ExecServerStream::on_refused(const StatusError& error) { refused_ = error; }

void ExecServerStream::on_ended(const ExitStatus& status) {
  if (ended_ && tell_ended_) ended_sent_ = false;  // there is more to tell
  ended_ = status;
}

void ExecServerStream::on_exited(const ExitStatus& status) {
  ended_ = status;
  exit_ = status;
  std_out_.finish();
  std_err_.finish();
  on_stdin_closed();
}

// ---- connections ----

std::optional<StatusError> ExecServerStream::on_reconnected(std::uint64_t stdout_received, std::uint64_t stderr_received,
                                                            bool is_resume) {
  if (auto error = refuses(stdout_received, stderr_received, is_resume)) return error;
  if (!refused_) {
    (void)std_out_.rewind(stdout_received);
    (void)std_err_.rewind(stderr_received);
  }
  attached_ = true;
  resumed_due_ = is_resume;
  started_due_ = !is_resume && pid_.has_value();
  ended_sent_ = false;
  last_sent_ = false;
  said_closed_ = false;
  broken_ = false;
  return std::nullopt;
}

std::optional<StatusError> ExecServerStream::refuses(const ResumeRequest& request) const {
  return refuses(request.stdout_received, request.stderr_received, true);
}

std::optional<StatusError> ExecServerStream::refuses(std::uint64_t stdout_received, std::uint64_t stderr_received,
                                                     bool is_resume) const {
  if (refused_) return std::nullopt;
  if (is_resume && !pid_) {
    return StatusError{ErrorCode::failed_precondition, "the process has not started: send start again", "", {}, std::nullopt};
  }
  const bool out_held = std_out_.can_rewind(stdout_received);
  if (out_held && std_err_.can_rewind(stderr_received)) return std::nullopt;
  auto error = out_held ? replay_gap("stderr", stderr_received, std_err_) : replay_gap("stdout", stdout_received, std_out_);
  // For whoever can do with less.
  error.metadata.emplace("stdout_from", std::to_string(std_out_.acknowledged()));
  error.metadata.emplace("stdout_to", std::to_string(std_out_.sent_offset()));
  error.metadata.emplace("stderr_from", std::to_string(std_err_.acknowledged()));
  error.metadata.emplace("stderr_to", std::to_string(std_err_.sent_offset()));
  return error;
}

std::optional<StatusError> ExecServerStream::on_reconnected(const ResumeRequest& request) {
  if (auto error = on_reconnected(request.stdout_received, request.stderr_received, true)) return error;
  describe_due_ = request.describe;
  grant(request.stdout_limit, request.stderr_limit);
  return std::nullopt;
}

void ExecServerStream::grant(std::uint64_t stdout_limit, std::uint64_t stderr_limit) noexcept {
  const auto set = [](OutboundStream& stream, std::uint64_t limit) {
    stream.widen(limit - std::min(limit, stream.acknowledged()));
    stream.set_limit(limit);
  };
  set(std_out_, stdout_limit);
  set(std_err_, stderr_limit);
}

// ---- messages that come ----

ServerEvent ExecServerStream::on_message(std::uint8_t channel, std::string_view payload) {
  if (broken_) return Nothing{};
  try {
    return dispatch(channel, payload);
  } catch (const Fault& f) {
    broken_ = true;
    return f.error;
  }
}

ServerEvent ExecServerStream::dispatch(std::uint8_t channel, std::string_view payload) {
  check_size(channel, payload);
  if (released_) fault(channel_name(channel) + ": message after the release");
  // Once the process has ended, or never was, what the client sent ahead still comes and means nothing.
  const bool over = exit_.has_value() || refused_.has_value();
  switch (static_cast<Channel>(channel)) {
    case Channel::std_in: {
      if (payload.empty() || refused_) return Nothing{};
      if (!use_stdin_) fault("stdin: the start did not ask for it");
      if (const auto reason = std_in_.on_data(payload.size(), "stdin")) fault(*reason);
      if (stdin_closed_) {
        std_in_.on_consumed(payload.size());
        return Nothing{};
      }
      return Data{Channel::std_in, payload};
    }
    case Channel::close: {
      const Channel stream = decode_close(payload);
      if (stream != Channel::std_in)
        fault("close: " + channel_name(static_cast<std::uint8_t>(stream)) + " is not for a client to end");
      if (refused_ || !use_stdin_ || !std_in_.on_end() || stdin_closed_) return Nothing{};
      return EndOfStream{Channel::std_in};
    }
    case Channel::window:
      return on_window(payload);
    case Channel::signal:
      return on_signal(payload);
    case Channel::resize: {
      const ResizeRequest request = decode_resize(payload);
      if (over) return Nothing{};
      return request;
    }
    case Channel::start:
    case Channel::resume:
      fault(channel_name(channel) + ": a process is under way on this connection");
    case Channel::std_out:
    case Channel::std_err:
    case Channel::status:
      break;
  }
  fault(channel_name(channel) + ": not for a client to send");
}

ServerEvent ExecServerStream::on_window(std::string_view payload) {
  const WindowMessage message = decode_window(payload);
  std::optional<Channel> moved;
  if (!refused_) {
    const auto apply = [&](Channel stream, const std::optional<StreamWord>& word) {
      if (!word) return;
      OutboundStream& out = outbound(stream);
      const std::uint64_t before = out.acknowledged(), limit_before = out.limit();
      if (!out.on_window(word->received, word->limit)) {
        fault("window: " + channel_name(static_cast<std::uint8_t>(stream)) + " received " + std::to_string(word->received) +
              ", sent " + std::to_string(out.sent_offset()));
      }
      if (!moved && (out.acknowledged() != before || out.limit() != limit_before)) moved = stream;
    };
    apply(Channel::std_out, message.std_out);
    apply(Channel::std_err, message.std_err);
    if (message.flush) std_in_.want_acknowledged(*message.flush);
  }
  if (message.release) {
    if (!last_sent_) fault("window: release before the exit");
    released_ = true;
    return Released{};
  }
  if (!moved) return Nothing{};
  return Acknowledged{*moved, outbound(*moved).acknowledged()};
}

ServerEvent ExecServerStream::on_signal(std::string_view payload) {
  const auto message = decode_signal(payload);
  const bool over = exit_.has_value() || refused_.has_value();
  if (const auto* cancel = std::get_if<CancelRequest>(&message)) {
    if (over) return Nothing{};
    return *cancel;
  }
  const auto& signal = std::get<SignalMessage>(message);
  if (signal.sequence != 0) {
    if (signal.sequence <= last_signal_) return Nothing{};  // told again after a reconnect
    last_signal_ = signal.sequence;
  }
  if (over && !(late_signals_ && !refused_)) return Nothing{};
  return SignalRequest{signal_name(signal.number), signal.number};
}

// ---- messages that go ----

// There are bytes that the process has not taken and never will, or the client may still send some.
bool ExecServerStream::stdin_cut() const noexcept {
  return stdin_closed_ && !(std_in_.ended() && stdin_taken_ == std_in_.received());
}

bool ExecServerStream::stdin_word_due() const noexcept {
  if (!use_stdin_) return false;
  if (stdin_cut() && !said_closed_) {
    // The exit says it too. Until one of them has, nothing may look as if there were room for more.
    return exit_ ? held_back(std_out_) || held_back(std_err_) : !hold_ends_;
  }
  if (exit_) return false;
  if (std_in_.window_due()) return true;
  if (stdin_closed_ || said_taken_ == stdin_taken_) return false;
  const bool awaited = std_in_.wanted() > said_taken_ && stdin_taken_ >= std_in_.wanted();
  return awaited || (std_in_.ended() && stdin_taken_ == std_in_.received());
}

StreamWord ExecServerStream::say_stdin() noexcept {
  const auto [received, limit] = std_in_.say();
  StreamWord word{received, limit};
  said_taken_ = stdin_taken_;
  if (stdin_cut()) {
    word.closed = stdin_taken_;
    said_closed_ = true;
  } else if (stdin_taken_ != received) {
    word.taken = stdin_taken_;
  }
  return word;
}

bool ExecServerStream::encode_control() {
  std::string& out = in_flight_control_;
  if (last_sent_) return false;
  if (refused_) {
    last_sent_ = true;
    encode_status_error(out, *refused_);
    return true;
  }
  if (resumed_due_) {
    resumed_due_ = false;
    ResumedMessage message{say_stdin(), last_signal_};
    if (std::exchange(describe_due_, false)) {
      message.pid = pid_;
      message.command = command_;
    }
    encode_resumed(out, message);
    return true;
  }
  if (started_due_) {
    started_due_ = false;
    // To a client that has just started it, the message says the limit and no more: what has been received meanwhile must not
    // count as said, or a flush would never be answered.
    const InboundStream::Word word = attached_ ? std_in_.say() : InboundStream::Word{0, std_in_.limit()};
    if (attached_) said_taken_ = stdin_taken_;
    encode_started(out, {id_, *pid_, attached_, word.limit, word.received, stdin_taken_, attached_ ? last_signal_ : 0});
    return true;
  }
  if (exit_ && all_sent()) {
    last_sent_ = true;
    ExitMessage message{*exit_, std_out_.end_offset(), std_err_.end_offset()};
    if (use_stdin_) message.stdin_taken = stdin_taken_;
    encode_exit(out, message);
    return true;
  }
  if (!pid_) return false;
  if (stdin_word_due()) {
    WindowMessage message;
    message.std_in = say_stdin();
    encode_window(out, message);
    return true;
  }
  if (ended_ && !ended_sent_ && (tell_ended_ || held_back(std_out_) || held_back(std_err_))) {
    ended_sent_ = true;
    encode_ended(out, *ended_);
    return true;
  }
  return false;
}

std::optional<OutMessage> ExecServerStream::next_message() {
  if (broken_ || released_ || control_in_flight_ || data_in_flight_) return std::nullopt;
  if (encode_control()) {
    control_in_flight_ = true;
    return OutMessage{in_flight_control_, {}};
  }
  if (last_sent_ || !pid_) return std::nullopt;
  for (int i = 0; i < 2; ++i) {
    const Channel stream = next_output_;
    next_output_ = stream == Channel::std_out ? Channel::std_err : Channel::std_out;
    OutboundStream& out = outbound(stream);
    if (!out.has_data_to_send()) continue;
    const std::string_view bytes = out.take(kMaxDataPayload);
    data_head_ = static_cast<char>(stream);
    data_in_flight_ = true;
    return OutMessage{{&data_head_, 1}, bytes};
  }
  if (hold_ends_ && !exit_) return std::nullopt;
  for (const Channel stream : {Channel::std_out, Channel::std_err}) {
    OutboundStream& out = outbound(stream);
    if (!out.has_end_to_send()) continue;
    out.mark_end_sent();
    encode_close(in_flight_control_, stream);
    control_in_flight_ = true;
    return OutMessage{in_flight_control_, {}};
  }
  return std::nullopt;
}

void ExecServerStream::on_sent() noexcept {
  if (std::exchange(data_in_flight_, false)) {
    std_out_.on_sent();
    std_err_.on_sent();
  }
  if (std::exchange(control_in_flight_, false)) in_flight_control_.clear();
}

}  // namespace cwsandbox::protocol
