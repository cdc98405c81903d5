/// \file
/// StreamReader: the items of a stream, one after the other.
#pragma once

#include <cwsandbox/channel.hpp>

#include <concepts>
#include <iterator>
#include <string>
#include <string_view>

namespace cwsandbox {

class LineReader;

/// Reads a stream. Items are chunks as they arrived (SR-7); `lines()` gives lines. Bytes are never altered or decoded, so text that
/// was cut anywhere comes out whole (SR-11).
///
/// A handle: copies read the same stream, of which there is one consumer at a time (SR-13).
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
  StreamReader() = default;
  /// Reads from a Channel<T>, or from a source of the library's. `guard` lives as long as any handle does.
  explicit StreamReader(std::shared_ptr<detail::Source<T>> source, LoopManager loop = LoopManager(),
                        std::shared_ptr<void> guard = nullptr)
      : state_(std::make_shared<State>(std::move(source), std::move(loop))), guard_(std::move(guard)) {}

  /// The next item, or an empty optional at the end. Completes at once when an item is there.
  /// Cancelling the task leaves the stream as it was.
  /// \throws std::logic_error from the call when another `next()` is under way (SR-13).
  [[nodiscard]] task<std::optional<T>> next() const { return State::next(state_); }

  /// Everything up to the end, as one string (for readers of chunks).
  [[nodiscard]] task<T> read_all() const
    requires std::same_as<T, std::string>;

  /// Ends the stream now: what is unread is dropped, a waiting consumer gets the end. Idempotent (SR-4, SR-5). A command goes on
  /// when its reader is closed, its output is then discarded; a terminal, a log or a file ends (SR-6).
  void close() const { state_->source->close(); }

  /// Lines without their line feed, the last one also when nothing ends it. A carriage return is kept.
  /// \param max_line bytes; a longer line throws std::length_error.
  [[nodiscard]] LineReader lines(std::size_t max_line = 16 * 1024 * 1024) const
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
  struct State {
    State(std::shared_ptr<detail::Source<T>> s, LoopManager l) : source(std::move(s)), loop(std::move(l)) {}
    using Pending = detail::TaskState<std::optional<T>>;
    static task<std::optional<T>> next(const std::shared_ptr<State>& self);
    static void pump(const std::shared_ptr<State>& self, const std::shared_ptr<Pending>& pending, bool claimed);
    std::shared_ptr<detail::Source<T>> source;
    LoopManager loop;
    std::mutex mutex;
    std::weak_ptr<Pending> pending;  // weak: a next() that nobody waits for any more takes no item
  };
  std::shared_ptr<State> state_;
  std::shared_ptr<void> guard_;
};

/// The lines of a StreamReader, blocking (`for (std::string_view line : reader.lines())`) or awaited (`co_await lines.next()`).
/// A view from the iterator is valid until the next step. One consumer, like the StreamReader that they come from.
class CWSANDBOX_EXPORT LineReader {
 public:
  /// For the lines of any reader of chunks.
  LineReader(StreamReader<std::string> reader, std::size_t max_line);
  /// The next line, or an empty optional at the end.
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
  struct State;
  using Pending = detail::TaskState<std::optional<std::string>>;
  static void pump(const std::shared_ptr<State>& state, const std::shared_ptr<Pending>& pending);
  static void take_chunk(State& state, const Pending& chunk);
  std::shared_ptr<State> state_;
};

namespace detail {
[[nodiscard]] CWSANDBOX_EXPORT task<std::string> read_all(StreamReader<std::string> reader);
}

// ---- implementation ----

template <typename T>
task<std::optional<T>> StreamReader<T>::State::next(const std::shared_ptr<State>& self) {
  auto pending = std::make_shared<Pending>(self->loop.loop());
  {
    std::lock_guard lock(self->mutex);
    if (auto other = self->pending.lock(); other && !other->done())
      throw std::logic_error("cwsandbox: this stream has another consumer (one at a time)");
    self->pending = pending;
  }
  self->source->on_read();
  pump(self, pending, false);
  return task<std::optional<T>>(std::move(pending));
}

template <typename T>
void StreamReader<T>::State::pump(const std::shared_ptr<State>& self, const std::shared_ptr<Pending>& pending, bool claimed) {
  using Poll = typename detail::Source<T>::Poll;
  std::optional<T> item;
  try {
    if (self->source->poll(item) == Poll::pending) {
      // The task owns the reader while it waits, and the source owns neither: what nobody waits for any more is freed.
      const std::weak_ptr<Pending> weak = pending;
      pending->set_cancel_hook([self, weak] {
        const auto waiting = weak.lock();
        if (!waiting || !waiting->claim()) return false;
        waiting->publish(detail::cancelled_error());
        return true;
      });
      // Claimed before the item is taken: a next() that was cancelled meanwhile leaves the item where it is.
      self->source->arm([weak_self = std::weak_ptr<State>(self), weak, claimed] {
        const auto state = weak_self.lock();
        const auto waiting = weak.lock();
        if (state && waiting && (claimed || waiting->claim())) pump(state, waiting, true);
      });
      return;
    }
  } catch (...) {
    if (claimed || pending->claim()) pending->publish(std::current_exception());
    return;
  }
  if (claimed || pending->claim()) pending->store(std::move(item));
}

template <typename T>
task<T> StreamReader<T>::read_all() const
  requires std::same_as<T, std::string>
{
  return detail::read_all(*this);
}

template <typename T>
LineReader StreamReader<T>::lines(std::size_t max_line) const
  requires std::same_as<T, std::string>
{
  return LineReader(*this, max_line);
}

}  // namespace cwsandbox
