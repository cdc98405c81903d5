#include "client/logs.hpp"

#include "base/text.hpp"
#include "client/errors.hpp"
#include "client/rpc.hpp"
#include "client/server_stream.hpp"
#include "core/spawn.hpp"
#include "messages/json.hpp"
#include "messages/logs.hpp"

#include <array>
#include <string_view>
#include <utility>

namespace cwsandbox::client {

namespace {

constexpr std::size_t kMaxLine = 1024 * 1024;
constexpr std::size_t kMaxHeld = 1024 * 1024;         // before the server waits
constexpr std::size_t kPartCost = 128;                // of a part, beside its bytes
constexpr std::size_t kMaxMessage = 8 * 1024 * 1024;  // of JSON; our own gateway sends 64 KiB of data at most
constexpr std::array kDelays{std::chrono::milliseconds(500), std::chrono::milliseconds(1000), std::chrono::milliseconds(2000)};

}  // namespace

// ---- LineQueue ----

void LineQueue::add(LogPart part) {
  feed([this, &part](std::deque<LogPart>& parts) {
    held_ += part.bytes.size() + kPartCost;
    parts.push_back(std::move(part));
    return true;
  });
}

void LineQueue::put(std::string lines, Time timestamp) {
  LogPart part;
  part.bytes = std::move(lines);
  part.timestamp = timestamp;
  add(std::move(part));
}

void LineQueue::put_line(std::string text, Time timestamp) {
  LogPart part;
  part.bytes = std::move(text);
  part.timestamp = timestamp;
  part.whole = false;
  add(std::move(part));
}

void LineQueue::put_gap(std::uint64_t lost) {
  LogPart part;
  part.lost = lost;
  part.gap = true;
  add(std::move(part));
}

task<void> LineQueue::room() {
  return FedQueue::room(loop_, [this] { return held_ >= kMaxHeld; });
}

bool LineQueue::take(std::deque<LogPart>& parts, std::optional<LogLine>& item) {
  LogPart& part = parts.front();
  LogLine line;
  line.gap = part.gap;
  line.lost_bytes = part.lost;
  line.timestamp = part.timestamp;
  bool last = true;
  if (part.whole && !part.gap) {
    const auto end = part.bytes.find('\n', part.at);
    line.text.assign(part.bytes, part.at, end - part.at);
    part.at = end + 1;
    last = part.at == part.bytes.size();
  } else {
    line.text = std::move(part.bytes);
  }
  if (last) {
    held_ -= (part.whole && !part.gap ? part.bytes.size() : line.text.size()) + kPartCost;
    parts.pop_front();
  }
  item.emplace(std::move(line));
  return last && held_ < kMaxHeld / 2;
}

// ---- the stream ----

namespace {

enum class InBand : std::uint8_t { afresh, resume, terminal };

InBand kind_of(std::string_view code) {
  if (code == "STREAM_INTERRUPTED") return InBand::resume;
  for (const std::string_view one : {"SESSION_NOT_FOUND", "REPLAY_GAP", "RUNNER_UNAVAILABLE", "RUNNER_DRAINING"})
    if (code == one) return InBand::afresh;
  return InBand::terminal;
}

std::exception_ptr in_band_error(const messages::LogStreamError& said) {
  protocol::ConnectError error;
  error.message = "The log stream: " + (said.message.empty() ? base::printable(said.code, 80) : said.message);
  error.info.emplace();
  error.info->domain = std::string(protocol::kErrorDomain);
  error.info->metadata.emplace("stream_code", said.code);
  if (said.code == "SANDBOX_NOT_FOUND") {
    error.code = ErrorCode::not_found;
    error.info->reason = "CWSANDBOX_SANDBOX_NOT_FOUND";
  } else if (said.code == "PERMISSION_DENIED") {
    error.code = ErrorCode::permission_denied;
  } else if (kind_of(said.code) != InBand::terminal) {
    error.code = ErrorCode::unavailable;
  }
  return make_error(error);
}

/// Whether another connection may do better.
bool may_go_on(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const SandboxUnavailableError&) {
    return true;
  } catch (const SandboxRequestTimeoutError&) {
    return true;
  } catch (const SandboxResourceExhaustedError&) {
    return true;
  } catch (...) {
    return false;
  }
}

/// LG-7: the cause stays visible, in the text and nested.
std::exception_ptr gave_up(const std::exception_ptr& cause) {
  try {
    try {
      std::rethrow_exception(cause);
    } catch (const CWSandboxError& error) {
      std::throw_with_nested(SandboxUnavailableError(
          "The log stream broke, and " + std::to_string(kDelays.size()) + " attempts to go on brought nothing: " + error.what(),
          error.fields()));
    }
  } catch (...) {
    return std::current_exception();
  }
}

/// What is known of the log, from one connection to the next.
class Tail {
 public:
  Tail(std::shared_ptr<LineQueue> into, bool timestamps) : into_(std::move(into)), timestamps_(timestamps) {}

  /// Sets where the next connection is to begin.
  void ask(messages::StreamLogsRequest& request) const {
    request.resume_log_session_id.clear();
    request.resume_log_offset = 0;
    if (!session_.empty()) {
      request.tail_lines = 0;
      request.since_time.reset();
      request.resume_log_session_id = session_;
      request.resume_log_offset = offset_;
    } else if (last_time_) {
      // Another log than the one so far. What had been read then may come again: better than to lose what was written since.
      request.tail_lines = 0;
      request.since_time = last_time_;
    }
  }

  /// Bytes as they come. Throws for a line that is too long (LG-2).
  void data(messages::LogEntry&& entry) {
    position(entry);
    if (entry.timestamp) last_time_ = entry.timestamp;
    if (entry.data.empty()) return;
    received_ = true;
    const LineQueue::Time time = timestamps_ ? entry.timestamp : LineQueue::Time();
    const auto last = entry.data.rfind('\n');
    if (last == std::string::npos) {
      if (partial_.empty()) partial_time_ = time;
      partial_ += entry.data;
      return check(partial_.size());
    }
    if (!partial_.empty()) {
      const auto first = entry.data.find('\n');
      partial_.append(entry.data, 0, first + 1);
      check(partial_.size() - 1);
      into_->put(std::exchange(partial_, {}), partial_time_);
      entry.data.erase(0, first + 1);
    }
    const auto whole = entry.data.rfind('\n') == std::string::npos ? 0 : entry.data.rfind('\n') + 1;
    partial_.assign(entry.data, whole);
    partial_time_ = time;
    entry.data.resize(whole);
    // Only a server that sends large entries can have such a line within one.
    if (whole > kMaxLine)
      for (std::size_t at = 0; at < whole;) {
        const auto end = entry.data.find('\n', at);
        check(end - at);
        at = end + 1;
      }
    if (whole > 0) into_->put(std::move(entry.data), time);
    check(partial_.size());
  }

  /// The server no longer has what comes next. True: it says where it goes on, and does.
  [[nodiscard]] bool gap(const messages::LogEntry& entry) {
    const auto lost_from = entry.log_session_id.empty() || entry.log_session_id == session_ || session_.empty() ? offset_ : 0;
    if (entry.next_log_offset <= lost_from) return false;
    end_line();
    into_->put_gap(entry.next_log_offset - lost_from);
    position(entry);
    return true;
  }

  /// Forgets where it was: the log begins anew, and what lies between is lost.
  void afresh() {
    end_line();
    if (received_) into_->put_gap(0);
    received_ = false;
    session_.clear();
    offset_ = 0;
  }

  /// What has no end yet has none.
  void end_line() {
    if (!partial_.empty()) into_->put_line(std::exchange(partial_, {}), partial_time_);
  }

 private:
  void check(std::size_t length) {
    if (length <= kMaxLine) return;
    partial_.clear();  // half a line would look like a whole one
    ErrorFields fields;
    fields.metadata.emplace("stream_code", "STREAM_TRUNCATED");
    throw SandboxStreamTruncatedError("The log has a line of more than " + std::to_string(kMaxLine) + " bytes", fields);
  }
  void position(const messages::LogEntry& entry) {
    if (!entry.log_session_id.empty()) session_ = entry.log_session_id;
    if (entry.next_log_offset > 0) offset_ = entry.next_log_offset;
  }

  std::shared_ptr<LineQueue> into_;
  const bool timestamps_;
  std::string session_, partial_;
  LineQueue::Time partial_time_, last_time_;
  std::uint64_t offset_ = 0;
  bool received_ = false;  // something since it last began afresh
};

/// How one connection ended.
struct Ended {
  Ended() {}
  std::exception_ptr error;  // null: the log has ended
  InBand kind = InBand::resume;
  bool progress = false;
};

asio::awaitable<Ended> stream_once(std::shared_ptr<Backend> backend, std::string json, Tail& tail,
                                   std::shared_ptr<LineQueue> into) {
  Ended ended;
  try {
    const auto stream = co_await ServerStream::open(std::move(backend), "/coreweave.sandbox.v1.SandboxService/StreamLogs",
                                                    std::move(json), kMaxMessage);
    while (auto message = co_await stream->next()) {
      auto entry = parse_answer(messages::from_json<messages::LogEntry>, *message);
      if (entry.error) {
        if (entry.error->code == "REPLAY_GAP" && tail.gap(entry)) {
          ended.progress = true;
          continue;
        }
        ended.kind = kind_of(entry.error->code);
        ended.error = in_band_error(*entry.error);
        break;
      }
      ended.progress = ended.progress || !entry.data.empty();
      tail.data(std::move(entry));
      const auto room = into->room();
      co_await wait_for(room);
    }
  } catch (...) {
    ended.error = std::current_exception();
    ended.kind = may_go_on(ended.error) ? InBand::resume : InBand::terminal;
  }
  co_return ended;
}

asio::awaitable<void> stream_all(std::shared_ptr<detail::SandboxState> state, LogOptions options, std::shared_ptr<LineQueue> into) {
  auto there = co_await detail::SandboxState::located(state);
  messages::StreamLogsRequest request;
  request.sandbox_id = there.id;
  request.follow = options.follow();
  request.tail_lines = options.tail_lines().value_or(0);
  request.since_time = options.since();
  request.timestamps = options.timestamps();
  Tail tail(into, options.timestamps());
  std::size_t failures = 0;
  for (;;) {
    auto json = messages::to_json(request);
    const auto ended = co_await stream_once(there.backend, std::move(json), tail, into);
    if (!ended.error || !options.follow() || ended.kind == InBand::terminal) {
      tail.end_line();
      if (ended.error) std::rethrow_exception(ended.error);
      co_return;
    }
    if (ended.progress) failures = 0;
    if (failures == kDelays.size()) {
      tail.end_line();
      std::rethrow_exception(gave_up(ended.error));
    }
    if (ended.kind == InBand::afresh) tail.afresh();
    tail.ask(request);
    co_await pause(kDelays[failures++]);
  }
}

}  // namespace

asio::awaitable<void> stream_logs(std::shared_ptr<detail::SandboxState> state, LogOptions options,
                                  std::shared_ptr<LineQueue> into) {
  try {
    co_await stream_all(std::move(state), std::move(options), into);
    into->finish();
  } catch (...) {
    into->finish(std::current_exception());
  }
}

}  // namespace cwsandbox::client

namespace cwsandbox {

StreamReader<LogLine> Sandbox::stream_logs(LogOptions options) const {
  if (options.tail_lines() && *options.tail_lines() < 1) throw std::invalid_argument("cwsandbox: tail_lines must be at least 1");
  if (!state_) throw std::invalid_argument("cwsandbox: an empty Sandbox");
  const auto& loop = state_->core()->loop();
  // Closing the queue cancels the stream, which is only known once it has the queue.
  auto stream = std::make_shared<task<void>>();
  auto queue = std::make_shared<client::LineQueue>(loop, [stream] { stream->cancel(); });
  *stream = core::spawn_task<void>(loop, loop.make_strand(), client::stream_logs(state_, std::move(options), queue));
  return StreamReader<LogLine>(queue, loop,
                               std::make_shared<client::QueueGuard<detail::SandboxState, client::LineQueue>>(state_, queue));
}

}  // namespace cwsandbox
