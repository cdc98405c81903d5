#include "gateway/log_service.hpp"

#include "gateway/errors.hpp"
#include "gateway/log_store.hpp"
#include "messages/json.hpp"
#include "messages/sandbox.hpp"

#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/system/system_error.hpp>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string_view>

namespace cwsandbox::gateway {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kPiece = 64 * 1024;  // most bytes of an entry
// How long the beginning of a line is kept back so that its rest can come along. Then it goes out alone: it may be a prompt.
constexpr std::chrono::milliseconds kLineWait{200};
// How often a silent follow looks whether its client is still there.
constexpr std::chrono::seconds kLook{1};
// Blocks searched in one go for the start of a tail.
constexpr int kBlocksPerTurn = 16;

/// Storage of the pool's that goes back however a stream ends.
class Block {
 public:
  explicit Block(std::shared_ptr<Context> context) : context_(std::move(context)), bytes_(context_->buffers.get()) {}
  ~Block() { context_->buffers.put(std::move(bytes_)); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  [[nodiscard]] char* data() noexcept { return bytes_.data(); }

 private:
  std::shared_ptr<Context> context_;
  std::string bytes_;
};

/// Where the last `lines` lines begin. 0 when the log no longer holds so many.
asio::awaitable<std::uint64_t> tail_start(std::shared_ptr<Context> context, std::shared_ptr<LogStore> store, std::int32_t lines) {
  Block block(context);
  const std::uint64_t end = store->end();
  std::uint64_t at = end;
  for (int turn = 1; at > store->begin(); ++turn) {
    const std::uint64_t from = std::max(store->begin(), at > kPiece ? at - kPiece : 0);
    const std::size_t n = store->read(from, block.data(), static_cast<std::size_t>(at - from));
    if (n < at - from) co_return from + n;  // a gap: the reader finds it there and says so
    for (std::size_t left = n; left > 0;) {
      const void* found = ::memrchr(block.data(), '\n', left);
      if (found == nullptr) break;
      left = static_cast<std::size_t>(static_cast<const char*>(found) - block.data());
      const std::uint64_t start = from + left + 1;
      if (start != end && --lines == 0) co_return start;  // the last newline ends a line and begins none
    }
    at = from;
    if (turn % kBlocksPerTurn == 0) co_await asio::post(context->executor, asio::use_awaitable);
  }
  co_return 0;
}

/// How many of the bytes at `offset` make the next entry; 0: the rest of the line may come soon.
std::size_t cut(LogStore& store, std::uint64_t offset, std::string_view bytes, bool timestamps, bool more) {
  if (timestamps) {
    // A line belongs to the arrival of its first byte.
    std::size_t from = 0;
    if (store.line_starts_at(offset)) from = static_cast<std::size_t>(store.next_arrival(offset) - offset);
    if (from < bytes.size() && (from == 0 || bytes[from - 1] != '\n')) {
      const std::size_t newline = bytes.find('\n', from);
      from = newline == std::string_view::npos ? bytes.size() : newline + 1;
    }
    bytes = bytes.substr(0, from);
  }
  const std::size_t newline = bytes.rfind('\n');
  if (newline != std::string_view::npos) return newline + 1;
  return more && bytes.size() < kPiece ? 0 : bytes.size();
}

asio::awaitable<void> send_error(ServerStream& stream, const LogStore& store, std::uint64_t offset, std::string code,
                                 std::string message) {
  messages::LogEntry entry;
  entry.log_session_id = store.session();
  entry.next_log_offset = offset;
  entry.error.emplace();
  entry.error->code = std::move(code);
  entry.error->message = std::move(message);
  co_await stream.send(entry);
}

}  // namespace

asio::awaitable<void> stream_logs(std::shared_ptr<Context> context, std::shared_ptr<OwnSandboxes> sandboxes,
                                  messages::StreamLogsRequest request, ServerStream& stream, Clock::time_point deadline) {
  if (request.sandbox_id.empty()) throw invalid_field("sandboxId", "is required");
  if (request.tail_lines < 0) throw invalid_field("tailLines", "is negative");
  if (request.resume_log_offset != 0 && request.resume_log_session_id.empty())
    throw invalid_field("resumeLogOffset", "needs resumeLogSessionId");
  std::shared_ptr<LogStore> store;
  {
    const std::shared_ptr<SandboxRecord> sandbox = sandboxes->find(request.sandbox_id);
    if (!sandbox) throw sandbox_not_found(request.sandbox_id);
    if (!request.container.empty() && request.container != sandbox->view().spec.containers[0].name)
      throw invalid_field("container", "the sandbox has no container of this name");
    store = sandbox->logs();
    if (sandbox->state() == messages::State::running) {
      // What is behind another gateway's sandbox comes once it has been taken up; without that there is still what was heard
      // before.
      const auto until = std::min(deadline, Clock::now() + context->options.start_wait);
      try {
        auto there = SandboxRecord::running(sandbox, until);
        static_cast<void>(co_await std::move(there));
      } catch (const ServiceError&) {
      }
    }
  }

  std::uint64_t at = 0;
  if (!request.resume_log_session_id.empty()) {
    if (request.resume_log_session_id != store->session()) {
      co_await send_error(stream, *store, 0, "SESSION_NOT_FOUND", "this log has another session id: start afresh");
      co_return;
    }
    at = request.resume_log_offset;
    if (at > store->end()) {
      co_await send_error(stream, *store, store->end(), "INVALID_RESUME_OFFSET",
                          "the log has " + std::to_string(store->end()) + " bytes so far");
      co_return;
    }
  } else {
    if (request.since_time) at = store->since(*request.since_time);
    if (request.tail_lines > 0) at = std::max(at, co_await tail_start(context, store, request.tail_lines));
  }
  const std::uint64_t until = request.follow ? ~std::uint64_t{0} : store->end();

  Block block(context);
  auto keep_alive = Clock::now();  // a stream that has to wait says at once that it is there, and of which log
  std::optional<Clock::time_point> line_deadline;
  while (at < until) {
    if (context->dropped) throw boost::system::system_error(asio::error::operation_aborted);
    if (const auto gap = store->gap_at(at)) {
      at = gap->to;
      co_await send_error(stream, *store, at, "REPLAY_GAP", gap->why);
      continue;
    }
    const std::size_t most = static_cast<std::size_t>(std::min<std::uint64_t>(kPiece, until - at));
    const std::size_t n = store->read(at, block.data(), most);
    if (n == 0 && at < store->end()) continue;  // a gap after all
    if (n == 0 && store->finished()) break;
    if (n > 0) {
      const auto now = Clock::now();
      const bool last = at + n == until || (store->finished() && at + n == store->end());
      const bool more = !last && at + n == store->end() && !(line_deadline && *line_deadline <= now);
      const std::size_t take = cut(*store, at, std::string_view(block.data(), n), request.timestamps, more);
      if (take > 0) {
        messages::LogEntry entry;
        entry.data.assign(block.data(), take);
        entry.timestamp = store->time_of(at);
        entry.log_session_id = store->session();
        at += take;
        entry.next_log_offset = at;
        line_deadline.reset();
        co_await stream.send(entry);
        keep_alive = Clock::now() + context->options.log_keep_alive;
        continue;
      }
      if (!line_deadline) line_deadline = now + kLineWait;
    }
    if (stream.client_gone()) throw boost::system::system_error(asio::error::connection_reset);
    const auto now = Clock::now();
    if (now >= deadline) throw ServiceError(ErrorCode::deadline_exceeded, nullptr, "the time that the request allows has passed");
    if (now >= keep_alive) {
      messages::LogEntry entry;
      entry.log_session_id = store->session();
      entry.next_log_offset = at;
      co_await stream.send(entry);
      keep_alive = Clock::now() + context->options.log_keep_alive;
      continue;
    }
    auto wake = std::min({deadline, keep_alive, now + kLook});
    if (line_deadline) wake = std::min(wake, *line_deadline);
    co_await store->changed().wait_until(wake);
  }
}

}  // namespace cwsandbox::gateway
