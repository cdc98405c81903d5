#include <cwsandbox/stream_reader.hpp>

#include <algorithm>
#include <cstring>
#include <thread>

namespace cwsandbox {

namespace detail {

using TextState = ReaderState<std::string>;

/// The task behind one line. One that goes without anybody having looked at it gives its line back.
class PendingLine final : public TaskState<std::optional<std::string>> {
 public:
  PendingLine(std::shared_ptr<TextState> reader, std::size_t most)
      : TaskState(reader->loop.loop()), max_line(most), reader_(std::move(reader)) {}
  ~PendingLine() override;
  PendingLine(const PendingLine&) = delete;
  PendingLine& operator=(const PendingLine&) = delete;
  [[nodiscard]] bool holds_unseen() const noexcept {
    return done() && !looked_at() && from_stream && (failed || (value_ && *value_));
  }
  [[nodiscard]] const std::shared_ptr<TextState>& reader() const noexcept { return reader_; }

  const std::size_t max_line;
  // Under the reader's mutex.
  task<std::optional<std::string>> step;  // the chunk that it waits for
  bool whole = false;                     // a line feed ended it
  bool moving = false;                    // whoever brought a chunk has it in hands
  // Set by whoever has claimed it for the stream.
  bool from_stream = false, failed = false;
  /// Completes it, after that.
  void give(std::optional<std::string> line, std::exception_ptr error) {
    if (failed || line) reader_->line_held = true;
    if (error)
      publish(std::move(error));
    else
      store(std::move(line));
  }

 private:
  void first_look() const override {
    reader_->line_held = false;
    if (value_ && *value_ && !counted_.exchange(true)) reader_->taken += (*value_)->size() + (whole ? 1 : 0);
  }
  mutable std::atomic<bool> counted_{false};
  const std::shared_ptr<TextState> reader_;
};

struct LineBuffer {
  std::string buffer;        // read, not given out yet
  std::size_t start = 0;     // where the next line begins
  std::size_t searched = 0;  // no '\n' between start and here
  bool ended = false;
  std::exception_ptr error;  // after the last line (SR-3)
  std::weak_ptr<PendingLine> pending;

  void add(std::string_view chunk) {
    buffer.erase(0, start);
    searched -= start;
    start = 0;
    buffer += chunk;
  }
  void put_back(std::string_view line, bool whole) {
    std::string again(line);
    if (whole) again += '\n';
    buffer.replace(0, start, again);
    start = searched = 0;
  }

  /// The next line, the end, or the error into `line`, if that is known. False: another chunk is needed.
  [[nodiscard]] bool take(PendingLine& into, std::optional<std::string>& line, std::exception_ptr& failure) {
    const void* found = buffer.size() > searched ? std::memchr(buffer.data() + searched, '\n', buffer.size() - searched) : nullptr;
    if (!found) searched = buffer.size();
    const auto end = found ? static_cast<std::size_t>(static_cast<const char*>(found) - buffer.data()) : buffer.size();
    if (end - start > into.max_line) {
      // Again and again: what is there stays, for somebody with a higher limit or for next().
      searched = start;
      const std::string text = "cwsandbox: a line is longer than " + std::to_string(into.max_line) + " bytes";
      failure = std::make_exception_ptr(std::length_error(text));
      return true;
    }
    if (!found && !ended) return false;
    into.whole = found != nullptr;
    if (found || start < buffer.size()) {
      line.emplace(buffer, start, end - start);
      start = searched = found ? end + 1 : end;
      return true;
    }
    if (error) {
      failure = std::exchange(error, nullptr);
      into.failed = true;
    }
    line.reset();
    return true;
  }
};

PendingLine::~PendingLine() {
  if (!holds_unseen()) return;
  std::shared_ptr<PendingLine> waiting;  // ends outside the lock
  std::optional<std::string> line;
  std::exception_ptr failure;
  try {
    const std::lock_guard lock(reader_->mutex);
    auto& lines = *reader_->lines;
    if (failed)
      lines.error = error();
    else
      lines.put_back(**value_, whole);
    reader_->line_held = false;
    // Somebody may have begun to wait just now.
    waiting = lines.pending.lock();
    if (waiting && (!lines.take(*waiting, line, failure) || !waiting->claim())) waiting = nullptr;
  } catch (...) {  // out of memory
    reader_->line_held = false;
    return;
  }
  if (!waiting) return;
  waiting->from_stream = true;
  waiting->give(std::move(line), std::move(failure));
}

bool take_left_over(LineBuffer& lines, std::optional<std::string>& item) {
  if (lines.start < lines.buffer.size()) {
    item.emplace(lines.buffer, lines.start);
    lines.buffer.clear();
    lines.start = lines.searched = 0;
    return true;
  }
  if (lines.error) std::rethrow_exception(std::exchange(lines.error, nullptr));
  return false;
}

namespace {

void add_chunk(LineBuffer& lines, const TextState::Pending& chunk) {
  if (!chunk.from_stream) return;  // this wait was given up, the stream goes on
  try {
    if (const auto& bytes = chunk.value())
      lines.add(*bytes);
    else
      lines.ended = true;
  } catch (...) {
    lines.ended = true;
    lines.error = std::current_exception();
  }
}

/// Gives `line` what it waits for, as soon as there are chunks enough.
void read_line(const std::shared_ptr<PendingLine>& line) {
  const auto& reader = line->reader();
  try {
    for (;;) {
      std::optional<std::string> text;
      std::exception_ptr failure;
      {
        const std::lock_guard lock(reader->mutex);
        if (reader->lines->take(*line, text, failure)) {
          line->moving = false;
          if (!line->claim()) {
            if (text) reader->lines->put_back(*text, line->whole);
            if (line->failed) reader->lines->error = failure;
            return;
          }
          line->from_stream = true;
        }
      }
      if (line->from_stream) {
        line->give(std::move(text), std::move(failure));
        return;
      }
      const auto chunk = reader->next(true);
      if (!chunk->done()) {
        {
          // When nobody waits for the line any more, no chunk is taken. First, because the continuation may run at once.
          const std::lock_guard lock(reader->mutex);
          line->step = task<std::optional<std::string>>(chunk);
          line->moving = false;
        }
        chunk->add_continuation([weak_reader = std::weak_ptr(reader), chunk = chunk.get()] {
          const auto stream = weak_reader.lock();
          if (!stream) return;
          std::shared_ptr<PendingLine> waiting;  // ends outside the lock
          {
            const std::lock_guard lock(stream->mutex);
            add_chunk(*stream->lines, *chunk);
            waiting = stream->lines->pending.lock();
            if (waiting && waiting->done()) waiting = nullptr;
            if (waiting) waiting->moving = true;
          }
          if (waiting) read_line(waiting);
        });
        return;
      }
      const std::lock_guard lock(reader->mutex);
      add_chunk(*reader->lines, *chunk);
    }
  } catch (...) {
    if (line->claim()) line->publish(std::current_exception());
  }
}

bool cancel_line(const std::weak_ptr<PendingLine>& weak) {
  const auto line = weak.lock();
  if (!line || !line->claim()) return false;
  task<std::optional<std::string>> step;
  {
    const std::lock_guard lock(line->reader()->mutex);
    step = std::exchange(line->step, {});
  }
  if (step.valid()) step.cancel();
  line->publish(cancelled_error());
  return true;
}

}  // namespace

}  // namespace detail

LineReader::LineReader(StreamReader<std::string> reader, std::size_t max_line) : reader_(std::move(reader)), max_line_(max_line) {
  if (!reader_.valid()) throw std::invalid_argument("cwsandbox: the lines of an empty StreamReader");
}

task<std::optional<std::string>> LineReader::next() const {
  const auto& reader = reader_.state_;
  auto line = std::make_shared<detail::PendingLine>(reader, max_line_);
  line->set_cancel_hook([weak = std::weak_ptr(line)] { return detail::cancel_line(weak); });
  for (;; std::this_thread::yield()) {
    std::shared_ptr<detail::PendingLine> last;  // ends outside the lock
    const std::lock_guard lock(reader->mutex);
    if (!reader->lines) reader->lines = std::make_shared<detail::LineBuffer>();
    last = reader->lines->pending.lock();
    // Completed, or about to be by whoever has it in hands: nobody has looked at it.
    if (last && (last->done() ? last->holds_unseen() : last->from_stream || last->moving))
      return task<std::optional<std::string>>(last, reader_.guard_);
    if (last && !last->done()) throw std::logic_error("cwsandbox: these lines have another consumer (one at a time)");
    if (!last && reader->line_held) continue;
    reader->lines->pending = line;
    break;
  }
  detail::read_line(line);
  return task<std::optional<std::string>>(std::move(line), reader_.guard_);
}

LineReader::iterator& LineReader::iterator::operator++() {
  line_ = reader_->next().result();
  if (!line_) reader_ = nullptr;
  return *this;
}

}  // namespace cwsandbox
