#include <cwsandbox/asio.hpp>
#include <cwsandbox/io.hpp>

#include "core/spawn.hpp"

#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include <algorithm>
#include <cstdio>
#include <limits>

namespace cwsandbox {

namespace detail {

struct ReaderParts {
  static const std::shared_ptr<ReaderState<std::string>>& state(const StreamReader<std::string>& reader) {
    static_cast<void>(reader.state());
    return reader.state_;
  }
};

namespace {

using TextState = ReaderState<std::string>;
using Step = task<std::optional<std::string>>;

/// Calls `expired` on the executor, unless what it gives is gone by then.
[[nodiscard]] std::shared_ptr<void> start_timer(const asio::any_io_executor& executor, double seconds,
                                                std::function<void()> expired) {
  constexpr double kMost = 365.0 * 24 * 3600;  // further than any limit that is meant, and the clock can hold it
  const auto after = std::chrono::duration<double>(std::min(seconds, kMost));
  auto timer = std::make_shared<asio::steady_timer>(executor, std::chrono::duration_cast<asio::steady_timer::duration>(after));
  timer->async_wait([expired = std::move(expired)](boost::system::error_code error) {
    if (!error) expired();
  });
  return {nullptr, [timer](void*) {
            try {  // Where its handler runs: a timer is not for several threads.
              asio::post(timer->get_executor(), [timer] { timer->cancel(); });
            } catch (...) {  // out of memory: it comes to nothing when it expires
            }
          }};
}

std::string text_of(double seconds) {
  char text[32];
  static_cast<void>(std::snprintf(text, sizeof text, "%g s", std::max(seconds, 0.0)));
  return text;
}

}  // namespace

void limit(const std::shared_ptr<TaskStateBase>& outer, const std::shared_ptr<TaskStateBase>& inner, std::shared_ptr<void> guard,
           double seconds, void (*complete)(TaskStateBase& outer, const std::shared_ptr<TaskStateBase>& inner)) {
  check_time_limit(seconds);
  const std::weak_ptr weak_outer(outer), weak_inner(inner);
  auto expired = [weak_outer, weak_inner, seconds, complete] {
    const auto to = weak_outer.lock(), from = weak_inner.lock();
    if (!to || !from || !to->claim()) return;
    try {
      if (!from->cancel() && from->done()) return complete(*to, from);  // in time, if only just
    } catch (...) {
      return to->publish(std::current_exception());
    }
    to->publish(
        std::make_exception_ptr(TimeoutError("The operation was cancelled: it has not completed within " + text_of(seconds))));
  };
  std::shared_ptr<void> timer;
  if (seconds > 0 && !inner->done()) timer = start_timer(outer->default_executor(), seconds, expired);
  // The hook has what is waited for, and goes with the task.
  outer->set_cancel_hook([weak_outer, inner, guard = std::move(guard), timer = std::move(timer)] {
    const auto to = weak_outer.lock();
    if (!to || !to->claim()) return false;
    static_cast<void>(inner->cancel());
    to->publish(cancelled_error());
    return true;
  });
  if (!inner->done()) inner->note_wait();
  inner->add_continuation([weak_outer, weak_inner, complete] {
    const auto to = weak_outer.lock(), from = weak_inner.lock();
    if (to && from && to->claim()) complete(*to, from);
  });
  if (!(seconds > 0)) expired();
}

namespace {

constexpr std::chrono::seconds kHandover{1};
constexpr std::size_t kShown = 200;  // bytes of what came that an error shows

/// The end of `bytes`, for people: control characters as C has them.
std::string shown(std::string_view bytes) {
  std::string text = bytes.size() > kShown ? "…\"" : "\"";
  if (bytes.size() > kShown) bytes.remove_prefix(bytes.size() - kShown);
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      text += "\\n";
    } else if (c == '\r') {
      text += "\\r";
    } else if (c == '"' || c == '\\') {
      text += '\\';
      text += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      char escaped[8];
      static_cast<void>(std::snprintf(escaped, sizeof escaped, "\\x%02x", byte));
      text += escaped;
    } else {
      text += c;
    }
  }
  return text + '"';
}

constexpr double kNoLimit = std::numeric_limits<double>::infinity();

/// The task of an expect() or read_all(). One that goes without anybody having looked at it gives its bytes back.
class Gathered final : public TaskState<std::string> {
 public:
  explicit Gathered(std::shared_ptr<TextState> stream) : TaskState(stream->loop.loop()), stream_(std::move(stream)) {}
  Gathered(const Gathered&) = delete;
  Gathered& operator=(const Gathered&) = delete;
  ~Gathered() override {
    if (done() && !looked_at() && value_) stream_->give_back(std::move(*value_), nullptr);
  }

 private:
  void first_look() const override {
    if (value_ && !counted_.exchange(true)) stream_->taken += value_->size();
  }
  mutable std::atomic<bool> counted_{false};
  const std::shared_ptr<TextState> stream_;
};

/// One expect() under way, or, for an empty text, a read_all(). Owned by its task: when nobody waits for that any more, what it has
/// read goes back.
class Gathering : public std::enable_shared_from_this<Gathering> {
 public:
  Gathering(StreamReader<std::string> reader, std::string text, double seconds, std::size_t max_bytes)
      : reader_(std::move(reader)),
        stream_(ReaderParts::state(reader_)),
        text_(std::move(text)),
        seconds_(seconds),
        max_bytes_(max_bytes) {}
  Gathering(const Gathering&) = delete;
  Gathering& operator=(const Gathering&) = delete;
  ~Gathering() { stop(); }

  task<std::string> start() {
    auto result = std::make_shared<Gathered>(stream_);
    const std::weak_ptr weak_result(result);
    auto expired = [weak = weak_from_this(), weak_result] {
      const auto self = weak.lock();
      const auto waiting = weak_result.lock();
      if (!self || !waiting || !waiting->claim()) return;
      self->stop();
      waiting->publish(self->timed_out());
    };
    stepping_ = std::this_thread::get_id();  // from before the first moment when the timer's thread may look
    if (seconds_ > 0 && seconds_ < kNoLimit) timer_ = start_timer(result->default_executor(), seconds_, expired);
    result->set_cancel_hook([self = shared_from_this(), weak_result] {
      const auto waiting = weak_result.lock();
      if (!waiting || !waiting->claim()) return false;
      self->stop();
      waiting->publish(cancelled_error());
      return true;
    });
    advance(*result, reader_.next());
    if (!(seconds_ > 0)) expired();
    return task<std::string>(std::move(result));
  }

 private:
  /// The chunk. It has not been taken from the stream before somebody looks at what is gathered.
  std::optional<std::string> take(Step step) {
    auto chunk = TextState::Pending::take(std::move(step).state());
    if (chunk) stream_->taken -= chunk->size();
    return chunk;
  }

  /// Goes on with a chunk, by the one thread that steps, until there is none.
  void advance(Gathered& result, Step next) {
    std::exception_ptr error;
    try {
      while (!error) {
        if (!next.done()) {
          if (park(result, next)) return;
          reclaim(std::move(next));
          break;
        }
        error = next.error();
        if (error) break;
        auto chunk = take(std::move(next));
        next = {};
        if (!chunk) {
          if (text_.empty()) return found(result, collected_.size());
          error = std::make_exception_ptr(
              SandboxExecutionError("The stream ended before " + shown(text_) + " came; the last of it: " + shown(collected_)));
          break;
        }
        const auto from = collected_.size() < text_.size() ? 0 : collected_.size() - text_.size() + 1;
        collected_ += *chunk;
        if (text_.empty()) {
          next = reader_.next();
          continue;
        }
        if (const auto at = collected_.find(text_, from); at != std::string::npos) return found(result, at + text_.size());
        if (collected_.size() > max_bytes_) {
          error = std::make_exception_ptr(std::length_error("cwsandbox: " + shown(text_) + " has not come within max_bytes, " +
                                                            std::to_string(max_bytes_) +
                                                            "; the last of what came: " + shown(collected_)));
        } else {
          next = reader_.next();
        }
      }
    } catch (...) {
      error = std::current_exception();
    }
    const bool mine = error && result.claim();
    leave();
    if (mine) result.publish(error);
  }

  void found(Gathered& result, std::size_t end) {
    if (!result.claim()) return leave();
    std::string rest = collected_.substr(end);
    collected_.resize(end);
    std::string all;
    all.swap(collected_);
    if (!rest.empty()) stream_->give_back(std::move(rest), nullptr);
    leave();
    result.store(std::move(all));
  }

  /// Leaves it to whoever brings the chunk. False: it was stopped meanwhile.
  bool park(Gathered& result, const Step& next) {
    {
      const std::lock_guard lock(mutex_);
      if (over_) return false;
      step_ = next;
      stepping_ = {};
    }
    // From here on others may have it in hands.
    next.state()->add_continuation(
        [weak = weak_from_this(), weak_result = std::weak_ptr(std::static_pointer_cast<Gathered>(result.shared_from_this()))] {
          const auto self = weak.lock();
          const auto waiting = weak_result.lock();
          if (!self || !waiting) return;
          Step mine;
          {
            const std::lock_guard lock(self->mutex_);
            if (self->over_ || !self->step_.valid()) return;
            std::swap(mine, self->step_);
            self->stepping_ = std::this_thread::get_id();
          }
          self->advance(*waiting, std::move(mine));
        });
    return true;
  }

  /// The one that steps is done with it: what it has goes back, ahead of anybody's hearing of the end.
  void leave() noexcept {
    put_back(std::exchange(collected_, std::string()));
    const std::lock_guard lock(mutex_);
    over_ = true;
    stepping_ = {};
  }

  /// By whoever gives it up. When this returns, what was read is back, unless it was called by the step itself, which then does
  /// that.
  void stop() noexcept {
    Step last;
    for (;; std::this_thread::yield()) {
      const std::lock_guard lock(mutex_);
      over_ = true;
      if (stepping_ == std::this_thread::get_id()) return;
      if (stepping_ != std::thread::id()) continue;
      std::swap(last, step_);
      break;
    }
    reclaim(std::move(last));
    put_back(std::exchange(collected_, std::string()));
  }

  /// What was waited for. When it cannot be cancelled it has a chunk, which comes behind those that were collected.
  void reclaim(Step last) noexcept {
    try {
      if (!last.valid() || last.cancel()) return;
      // Whoever has the chunk in hands is about to publish it; the limit is for a cancel() from within that.
      for (const auto until = std::chrono::steady_clock::now() + kHandover; !last.done(); std::this_thread::yield())
        if (std::chrono::steady_clock::now() > until) return;
      if (const auto error = last.error())
        stream_->give_back(std::nullopt, error);
      else if (auto chunk = take(std::move(last)))
        collected_ += *chunk;
    } catch (...) {  // out of memory
    }
  }

  void put_back(std::string bytes) noexcept {
    if (bytes.empty()) return;
    try {
      tail_ = bytes.substr(bytes.size() - std::min(bytes.size(), kShown + 1));
    } catch (...) {  // then it is not shown
    }
    stream_->give_back(std::move(bytes), nullptr);
  }

  std::exception_ptr timed_out() const {
    return std::make_exception_ptr(
        TimeoutError(shown(text_) + " has not come within " + text_of(seconds_) + "; the last of what came: " + shown(tail_)));
  }

  const StreamReader<std::string> reader_;
  const std::shared_ptr<TextState> stream_;
  const std::string text_;
  const double seconds_;
  const std::size_t max_bytes_;
  std::shared_ptr<void> timer_;
  std::string collected_, tail_;  // by the one that steps, or by who stops it when nobody does
  std::mutex mutex_;
  Step step_;                 // waited for
  std::thread::id stepping_;  // the thread that has a chunk in hands
  bool over_ = false;
};

}  // namespace

task<std::string> expect(const StreamReader<std::string>& reader, std::string text, double seconds, std::size_t max_bytes) {
  if (text.empty()) throw std::invalid_argument("cwsandbox: expect(): the text is empty");
  check_time_limit(seconds);
  if (text.size() > max_bytes) throw std::invalid_argument("cwsandbox: expect(): the text is longer than max_bytes");
  return std::make_shared<Gathering>(reader, std::move(text), seconds, max_bytes)->start();
}

task<std::string> read_all(StreamReader<std::string> reader, std::shared_ptr<ReaderState<std::string>> /*state*/) {
  constexpr auto kAnySize = std::numeric_limits<std::size_t>::max();
  return std::make_shared<Gathering>(std::move(reader), std::string(), kNoLimit, kAnySize)->start();
}

namespace {

asio::awaitable<std::uint64_t> copy(StreamReader<std::string> from, StreamWriter to) {
  std::uint64_t bytes = 0;
  std::exception_ptr read_error;
  for (;;) {
    std::optional<std::string> chunk;
    try {
      auto next = from.next();
      chunk = co_await std::move(next);
    } catch (...) {
      read_error = std::current_exception();
    }
    if (!chunk) break;
    const auto size = chunk->size();
    auto written = to.write(std::move(*chunk));
    co_await std::move(written);
    bytes += size;
  }
  const auto state = co_await asio::this_coro::cancellation_state;
  if (read_error && state.cancelled() != asio::cancellation_type::none) std::rethrow_exception(read_error);
  auto closed = to.close();
  co_await std::move(closed);
  if (read_error) std::rethrow_exception(read_error);
  co_return bytes;
}

}  // namespace

}  // namespace detail

task<std::uint64_t> pipe(const StreamReader<std::string>& from, const StreamWriter& to) {
  static_cast<void>(detail::ReaderParts::state(from));
  return core::spawn_task<std::uint64_t>(from.loop(), from.loop().make_strand(), detail::copy(from, to));
}

task<std::uint64_t> pipe(const StreamReader<std::string>& from, const StreamWriter* to) {
  if (!to) throw std::invalid_argument("cwsandbox: pipe() into a process that was started without stdin");
  return pipe(from, *to);
}

}  // namespace cwsandbox
