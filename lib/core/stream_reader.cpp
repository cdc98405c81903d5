#include <cwsandbox/stream_reader.hpp>

#include <algorithm>
#include <cstring>

namespace cwsandbox {

namespace detail {

namespace {

/// One read_all under way. Owned by the task that somebody waits for: when nobody does any more, it reads no further.
struct ReadAll {
  explicit ReadAll(StreamReader<std::string> r) : reader(std::move(r)) {}
  using Result = TaskState<std::string>;
  StreamReader<std::string> reader;
  std::string collected;
  std::mutex mutex;
  task<std::optional<std::string>> step;

  static void run(const std::shared_ptr<ReadAll>& self, const std::shared_ptr<Result>& result) {
    try {
      while (!result->done()) {
        auto next = self->reader.next();
        if (!next.done()) {
          {
            std::lock_guard lock(self->mutex);
            self->step = next;
          }
          next.state()->add_continuation(
              [weak = std::weak_ptr(self), weak_result = std::weak_ptr(result), chunk = next.state().get()] {
                const auto reading = weak.lock();
                const auto waiting = weak_result.lock();
                if (!reading || !waiting) return;
                if (reading->take(*chunk, *waiting)) run(reading, waiting);
              });
          return;
        }
        if (!self->take(*next.state(), *result)) return;
      }
    } catch (...) {
      if (result->claim()) result->publish(std::current_exception());
    }
  }

 private:
  /// False: that was the end.
  bool take(const TaskState<std::optional<std::string>>& chunk, Result& result) {
    if (chunk.error()) {
      if (result.claim()) result.publish(chunk.error());
      return false;
    }
    if (const auto& bytes = chunk.value()) {
      collected += *bytes;
      return true;
    }
    result.set_value(std::move(collected));
    return false;
  }
};

}  // namespace

task<std::string> read_all(StreamReader<std::string> reader) {
  auto result = std::make_shared<ReadAll::Result>(reader.loop().loop());
  auto self = std::make_shared<ReadAll>(std::move(reader));
  result->set_cancel_hook([self, weak = std::weak_ptr(result)] {
    const auto waiting = weak.lock();
    if (!waiting || !waiting->claim()) return false;
    task<std::optional<std::string>> step;
    {
      std::lock_guard lock(self->mutex);
      step = self->step;
    }
    if (step.valid()) step.cancel();
    waiting->publish(detail::cancelled_error());
    return true;
  });
  ReadAll::run(self, result);
  return task<std::string>(std::move(result));
}

}  // namespace detail

struct LineReader::State {
  State(StreamReader<std::string> r, std::size_t most) : reader(std::move(r)), max_line(most) {}
  StreamReader<std::string> reader;
  std::size_t max_line;
  std::string buffer;        // read, not given out yet
  std::size_t start = 0;     // where the next line begins
  std::size_t searched = 0;  // no '\n' between start and here
  bool ended = false;
  std::exception_ptr error;  // after the last line (SR-3)
  std::mutex mutex;
  std::weak_ptr<Pending> pending;

  /// The next line if the buffer holds one.
  [[nodiscard]] bool take(std::optional<std::string>& line) {
    const void* found = buffer.size() > searched ? std::memchr(buffer.data() + searched, '\n', buffer.size() - searched) : nullptr;
    if (found) {
      const auto end = static_cast<std::size_t>(static_cast<const char*>(found) - buffer.data());
      check(end - start);
      line.emplace(buffer, start, end - start);
      start = searched = end + 1;
      return true;
    }
    searched = buffer.size();
    check(buffer.size() - start);
    if (!ended) return false;
    if (start < buffer.size()) {
      line.emplace(buffer, start);
      start = searched = buffer.size();
      return true;
    }
    if (error) std::rethrow_exception(std::exchange(error, nullptr));
    line.reset();
    return true;
  }
  void add(std::string_view chunk) {
    buffer.erase(0, start);
    searched -= start;
    start = 0;
    buffer += chunk;
  }

 private:
  void check(std::size_t length) const {
    if (length > max_line) throw std::length_error("cwsandbox: a line is longer than " + std::to_string(max_line) + " bytes");
  }
};

LineReader::LineReader(StreamReader<std::string> reader, std::size_t max_line)
    : state_(std::make_shared<State>(std::move(reader), max_line)) {}

void LineReader::pump(const std::shared_ptr<State>& state, const std::shared_ptr<Pending>& pending) {
  try {
    std::optional<std::string> line;
    while (!state->take(line)) {
      auto next = state->reader.next();
      if (!next.done()) {
        // The hook owns the step: when nobody waits for the line any more, no chunk is taken. It is set first, because the
        // continuation may run at once and set the next one.
        pending->set_cancel_hook([weak = std::weak_ptr(pending), next] {
          const auto waiting = weak.lock();
          if (!waiting || !next.cancel() || !waiting->claim()) return false;
          waiting->publish(detail::cancelled_error());
          return true;
        });
        next.state()->add_continuation([state, weak = std::weak_ptr(pending), chunk = next.state().get()] {
          take_chunk(*state, *chunk);
          if (const auto waiting = weak.lock(); waiting && !waiting->done()) pump(state, waiting);
        });
        return;
      }
      take_chunk(*state, *next.state());
    }
    pending->set_value(std::move(line));
  } catch (...) {
    if (pending->claim()) pending->publish(std::current_exception());
  }
}

void LineReader::take_chunk(State& state, const Pending& chunk) {
  try {
    if (const auto& bytes = chunk.value())
      state.add(*bytes);
    else
      state.ended = true;
  } catch (const CancelledError&) {  // this wait was given up, the stream goes on
  } catch (...) {
    state.ended = true;
    state.error = std::current_exception();
  }
}

task<std::optional<std::string>> LineReader::next() const {
  auto pending = std::make_shared<Pending>(state_->reader.loop().loop());
  {
    std::lock_guard lock(state_->mutex);
    if (auto other = state_->pending.lock(); other && !other->done())
      throw std::logic_error("cwsandbox: these lines have another consumer (one at a time)");
    state_->pending = pending;
  }
  pump(state_, pending);
  return task<std::optional<std::string>>(std::move(pending));
}

LineReader::iterator& LineReader::iterator::operator++() {
  line_ = reader_->next().result();
  if (!line_) reader_ = nullptr;
  return *this;
}

}  // namespace cwsandbox
