/// \file
/// StreamReader: the items of a stream, one after the other.
#pragma once

#include <cwsandbox/channel.hpp>

#include <atomic>
#include <concepts>
#include <deque>
#include <iterator>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>

namespace cwsandbox {

class LineReader;

namespace detail {

struct ReaderParts;
struct LineBuffer;  // what was read for lines and is not given out yet

/// What all readers of one stream share.
template <typename T>
class ReaderState : public std::enable_shared_from_this<ReaderState<T>> {
 public:
  using Item = std::optional<T>;
  /// The task behind one `next()`. One that goes without anybody having looked at it gives its item back.
  class Pending final : public TaskState<Item> {
   public:
    Pending(std::shared_ptr<ReaderState> reader, bool is_for_lines)
        : TaskState<Item>(reader->loop.loop()), for_lines(is_for_lines), reader_(std::move(reader)) {}
    ~Pending() override {
      if (holds_unseen())
        reader_->give_back(failed ? Item() : std::move(*this->value_), failed ? this->error() : nullptr);
      else if (from_stream && !this->looked_at())
        reader_->held = false;
    }
    Pending(const Pending&) = delete;
    Pending& operator=(const Pending&) = delete;
    /// Completed with an item, or the stream's error, that nobody has looked at.
    [[nodiscard]] bool holds_unseen() const noexcept {
      return this->done() && !this->looked_at() && from_stream && (failed || (this->value_ && *this->value_));
    }
    const bool for_lines;  // behind what lines have left over
    /// Completes it, after a claim for the stream.
    void give(Item item, std::exception_ptr error) {
      from_stream = true;
      failed = error != nullptr;
      if (error || item) reader_->held = true;
      if (error)
        this->publish(std::move(error));
      else
        this->store(std::move(item));
    }
    // Set by whoever has claimed it for the stream.
    std::atomic<bool> from_stream{false};
    bool failed = false;

   private:
    friend class ReaderState;
    void first_look() const override {
      reader_->held = false;
      if constexpr (std::same_as<T, std::string>)
        if (!for_lines && this->value_ && *this->value_ && !counted_.exchange(true)) reader_->taken += (*this->value_)->size();
    }
    mutable std::atomic<bool> counted_{false};
    const std::shared_ptr<ReaderState> reader_;
  };

  ReaderState(std::shared_ptr<Source<T>> s, LoopManager l) : source(std::move(s)), loop(std::move(l)) {
    if (!source) throw std::invalid_argument("cwsandbox: the reader's source is null");
  }
  [[nodiscard]] std::shared_ptr<Pending> next(bool for_lines = false);
  /// Puts an item in front of the stream again.
  void give_back(Item item, const std::exception_ptr& error) noexcept;

  const std::shared_ptr<Source<T>> source;
  const LoopManager loop;
  /// The last next(), or line, holds an item that nobody has looked at. When it is not there any more all the same, its end is
  /// under way on another thread, which is about to give the item back.
  std::atomic<bool> held{false}, line_held{false};
  std::atomic<std::uint64_t> taken{0};  // bytes that somebody has looked at, of a stream of text
  std::mutex mutex;
  std::shared_ptr<LineBuffer> lines;  // of text; null before the first line is asked for. Under the mutex

 private:
  using Poll = typename Source<T>::Poll;
  struct Returned {
    Item item;
    std::exception_ptr error;
  };
  [[nodiscard]] Poll poll(Item& item, bool for_lines);
  [[nodiscard]] bool poll_lines(Item& item);
  void pump(const std::shared_ptr<Pending>& pending, bool claimed);
  /// Claims the one that waits, for the stream; given one, that one alone. Null: nobody waits.
  [[nodiscard]] std::shared_ptr<Pending> claim_waiting(const Pending* only = nullptr);

  std::weak_ptr<Pending> pending_;  // weak: a next() that nobody waits for any more takes no item
  std::deque<Returned> returned_;   // ahead of what the source gives
};

}  // namespace detail

/// Reads a stream. Items are chunks as they arrived (SR-7); `lines()` gives lines. Bytes are never altered or decoded, so text that
/// was cut anywhere comes out whole (SR-11).
///
/// A handle: copies read the same stream, of which there is one consumer at a time (SR-13).
///
/// \par Giving up
/// An item is taken by whoever looks at it (`result()`, `get()`, `co_await`), not by a wait. One that nobody has looked at stays: a
/// wait that is cancelled or loses against a timer, a task that is dropped or cancelled, lose nothing, and the next `next()` gives
/// that item (SR-14).
///
/// \par Lifetime
/// The tasks of a reader keep what it reads: a process, say, whose own handle was a temporary.
///
/// \par Errors
/// An error comes once, after all data before it; then the end, again and again (SR-2, SR-3).
///
/// \par Thread safety
/// `close()` may be called from any thread and wakes a consumer that waits (SR-9). The rest: one call at a time, from any thread
/// and any executor (SR-10).
template <typename T>
class StreamReader {
 public:
  StreamReader() = default;  ///< empty: only assignment and `valid()` are allowed
  /// Reads from a Channel<T>, or from a source of the library's. `guard` lives as long as any handle or task of it does.
  /// \throws std::invalid_argument for a source that is null.
  explicit StreamReader(std::shared_ptr<detail::Source<T>> source, LoopManager loop = LoopManager(),
                        std::shared_ptr<void> guard = nullptr)
      : state_(std::make_shared<State>(std::move(source), std::move(loop))), guard_(std::move(guard)) {}

  /// The next item, or an empty optional at the end. Completes at once when an item is there. While there is one that nobody has
  /// looked at, in a task that is still held, it is the same task again.
  /// Cancelling the task leaves the stream as it was.
  /// \throws std::logic_error from the call when another `next()` is under way (SR-13).
  [[nodiscard]] task<std::optional<T>> next() const { return task<std::optional<T>>(state().next(), guard_); }

  /// Everything up to the end, as one string (for readers of chunks). Cancelled, or given up before it completes, it leaves what
  /// it has read to the next one.
  [[nodiscard]] task<T> read_all() const
    requires std::same_as<T, std::string>;

  /// How far it has come, in bytes: where the next chunk or line begins. What nobody has looked at is not counted, nor what is left
  /// over behind a line; a line counts with its feed. It begins at 0, for an attached process where AttachOptions::with_offsets had
  /// it begin (or as far behind as `with_from_held` had to go), for a file at ReadFileOptions::with_offset. For
  /// AttachOptions::with_offsets: with it, another program goes on behind what was read here (SR-17). Never blocks.
  [[nodiscard]] std::uint64_t offset() const
    requires std::same_as<T, std::string>
  {
    return state().source->origin() + state().taken;
  }

  /// Ends the stream now: what is unread is dropped, a waiting consumer gets the end. Idempotent (SR-4, SR-5). A command goes on
  /// when its reader is closed, its output is then discarded; a terminal, a log or a file ends (SR-6).
  void close() const { state().source->close(); }

  /// Lines without their line feed, the last one also when nothing ends it. A carriage return is kept. What is left over between
  /// two lines stays with the stream: other lines(), and `next()`, go on there.
  /// \param max_line bytes; a longer line throws std::length_error.
  [[nodiscard]] LineReader lines(std::size_t max_line = 16 * 1024 * 1024) const
    requires std::same_as<T, std::string>;
  /// The next line, or an empty optional at the end: the same as `lines().next()`.
  [[nodiscard]] task<std::optional<std::string>> next_line(std::size_t max_line = 16 * 1024 * 1024) const
    requires std::same_as<T, std::string>;

  /// Blocking iteration: `for (const auto& chunk : reader)`.
  class iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = T;
    using difference_type = std::ptrdiff_t;
    using pointer = const T*;
    using reference = const T&;
    iterator() = default;
    explicit iterator(const StreamReader* reader) : reader_(reader) { ++*this; }
    reference operator*() const noexcept { return *item_; }
    pointer operator->() const noexcept { return &*item_; }
    iterator& operator++() {
      item_ = reader_->next().result();
      if (!item_) reader_ = nullptr;
      return *this;
    }
    void operator++(int) { ++*this; }
    friend bool operator==(const iterator& a, const iterator& b) noexcept { return a.reader_ == b.reader_; }

   private:
    const StreamReader* reader_ = nullptr;
    std::optional<T> item_;
  };
  ///@{
  /// For range-for, which blocks.
  [[nodiscard]] iterator begin() const { return iterator(this); }
  [[nodiscard]] iterator end() const { return iterator(); }
  ///@}

  /// Whether it reads anything at all.
  [[nodiscard]] bool valid() const noexcept { return state_ != nullptr; }
  /// Where waiters are served.
  [[nodiscard]] const LoopManager& loop() const noexcept { return state_->loop; }

 private:
  friend class LineReader;
  friend struct detail::ReaderParts;
  using State = detail::ReaderState<T>;
  [[nodiscard]] State& state() const {
    if (!state_) throw std::invalid_argument("cwsandbox: an empty StreamReader");
    return *state_;
  }
  std::shared_ptr<State> state_;
  std::shared_ptr<void> guard_;
};

/// The lines of a StreamReader, blocking (`for (std::string_view line : reader.lines())`) or awaited (`co_await lines.next()`).
/// A view from the iterator is valid until the next step. One consumer, like the StreamReader that they come from, with which it
/// shares everything: it has no state of its own.
class CWSANDBOX_EXPORT LineReader {
 public:
  /// For the lines of any reader of chunks.
  /// \throws std::invalid_argument for an empty reader.
  LineReader(StreamReader<std::string> reader, std::size_t max_line);
  /// The next line, or an empty optional at the end. As with `StreamReader::next()`, a line that nobody has looked at stays.
  [[nodiscard]] task<std::optional<std::string>> next() const;

  /// Blocking iteration: `for (std::string_view line : reader.lines())`.
  class CWSANDBOX_EXPORT iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = std::string_view;
    using difference_type = std::ptrdiff_t;
    using pointer = const std::string_view*;
    using reference = std::string_view;
    iterator() = default;
    explicit iterator(const LineReader* reader) : reader_(reader) { ++*this; }
    std::string_view operator*() const noexcept { return *line_; }
    iterator& operator++();
    void operator++(int) { ++*this; }
    friend bool operator==(const iterator& a, const iterator& b) noexcept { return a.reader_ == b.reader_; }

   private:
    const LineReader* reader_ = nullptr;
    std::optional<std::string> line_;
  };
  ///@{
  /// For range-for, which blocks.
  [[nodiscard]] iterator begin() const { return iterator(this); }
  [[nodiscard]] iterator end() const { return iterator(); }
  ///@}

 private:
  StreamReader<std::string> reader_;
  std::size_t max_line_;
};

namespace detail {
[[nodiscard]] CWSANDBOX_EXPORT task<std::string> read_all(StreamReader<std::string> reader,
                                                          std::shared_ptr<ReaderState<std::string>> state);
/// What lines have left over, as a chunk, or the error that they have met. False: nothing.
[[nodiscard]] CWSANDBOX_EXPORT bool take_left_over(LineBuffer& lines, std::optional<std::string>& item);
}  // namespace detail

// ---- implementation ----

namespace detail {

template <typename T>
std::shared_ptr<typename ReaderState<T>::Pending> ReaderState<T>::next(bool for_lines) {
  auto pending = std::make_shared<Pending>(this->shared_from_this(), for_lines);
  for (;; std::this_thread::yield()) {
    std::shared_ptr<Pending> last;  // ends outside the lock
    const std::lock_guard lock(mutex);
    last = pending_.lock();
    // Completed, or about to be by whoever has the item in hands: nobody has looked at it.
    if (last && (last->done() ? last->holds_unseen() : last->from_stream.load())) return last;
    if (last && !last->done()) throw std::logic_error("cwsandbox: this stream has another consumer (one at a time)");
    if (!last && held) continue;
    pending_ = pending;
    break;
  }
  source->on_read();
  pump(pending, false);
  return pending;
}

template <typename T>
std::shared_ptr<typename ReaderState<T>::Pending> ReaderState<T>::claim_waiting(const Pending* only) {
  std::shared_ptr<Pending> waiting;  // ends outside the lock
  const std::lock_guard lock(mutex);
  waiting = pending_.lock();
  if (!waiting || (only != nullptr && waiting.get() != only) || !waiting->claim()) return nullptr;
  waiting->from_stream = true;
  return waiting;
}

template <typename T>
void ReaderState<T>::give_back(Item item, const std::exception_ptr& error) noexcept {
  try {
    {
      const std::lock_guard lock(mutex);
      returned_.push_front({std::move(item), error});
      held = false;
    }
    if (const auto waiting = claim_waiting()) pump(waiting, true);
  } catch (...) {  // out of memory
    held = false;
  }
}

template <typename T>
bool ReaderState<T>::poll_lines(Item& item) {
  if constexpr (std::same_as<T, std::string>)
    return lines && take_left_over(*lines, item);
  else
    return static_cast<void>(item), false;
}

template <typename T>
typename ReaderState<T>::Poll ReaderState<T>::poll(Item& item, bool for_lines) {
  {
    const std::lock_guard lock(mutex);
    if (!for_lines && poll_lines(item)) return Poll::item;  // older than what was given back
    if (!returned_.empty()) {
      auto first = std::move(returned_.front());
      returned_.pop_front();
      if (first.error) std::rethrow_exception(first.error);
      item = std::move(first.item);
      return Poll::item;
    }
  }
  return source->poll(item);
}

template <typename T>
void ReaderState<T>::pump(const std::shared_ptr<Pending>& pending, bool claimed) {
  Item item;
  std::exception_ptr error;
  try {
    if (poll(item, pending->for_lines) == Poll::pending) {
      // Claimed before the item is taken: a next() that was cancelled meanwhile leaves the item where it is.
      // The task owns the reader while it waits, and the source owns neither: what nobody waits for any more is freed.
      source->arm([weak_self = this->weak_from_this(), weak = std::weak_ptr(pending), claimed] {
        const auto self = weak_self.lock();
        const auto mine = weak.lock();
        // Only this one: a later next() may be asking the source itself just now, and of two items the older would come back last.
        if (self && mine && (claimed || self->claim_waiting(mine.get()))) self->pump(mine, true);
      });
      return;
    }
  } catch (...) {
    error = std::current_exception();
  }
  if (!claimed && !pending->claim()) {
    if (item || error) give_back(std::move(item), error);
    return;
  }
  pending->give(std::move(item), std::move(error));
}

}  // namespace detail

template <typename T>
task<T> StreamReader<T>::read_all() const
  requires std::same_as<T, std::string>
{
  static_cast<void>(state());
  return detail::read_all(*this, state_);
}

template <typename T>
LineReader StreamReader<T>::lines(std::size_t max_line) const
  requires std::same_as<T, std::string>
{
  return LineReader(*this, max_line);
}

template <typename T>
task<std::optional<std::string>> StreamReader<T>::next_line(std::size_t max_line) const
  requires std::same_as<T, std::string>
{
  return LineReader(*this, max_line).next();
}

}  // namespace cwsandbox
