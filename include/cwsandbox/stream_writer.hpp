/// \file
/// StreamWriter: an awaitable channel with back-pressure, towards a process's stdin.
#pragma once

#include <cwsandbox/task.hpp>

#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace cwsandbox {

namespace detail {
/// An array of char or unsigned char that is no text: nothing says that it ends where a string would.
template <typename T>
concept Bytes = std::is_class_v<T> && !std::is_convertible_v<const T&, std::string_view> &&
                (std::is_same_v<typename T::value_type, char> || std::is_same_v<typename T::value_type, unsigned char>) &&
                std::is_convertible_v<const T&, std::span<const typename T::value_type>>;
}  // namespace detail

/// The bounded channel under a StreamWriter: slots of at most 64 KiB each, then the end of the stream (in the published client, a
/// bounded queue of `bytes | None`).
///
/// The consumer's side is public so that you can build sinks of your own: `receive()` until it gives an empty optional.
///
/// \par Thread safety
/// Shared objects: safe; one consumer.
class CWSANDBOX_EXPORT ByteChannel {
 public:
  static constexpr std::size_t SLOT_SIZE = 64 * 1024;  ///< bytes

  /// An empty queue, whose waiting writers are served on `loop`.
  /// \param slots chunks that fit before writes wait; at least 1.
  explicit ByteChannel(std::size_t slots = 16, LoopManager loop = LoopManager());
  ByteChannel(const ByteChannel&) = delete;
  ByteChannel& operator=(const ByteChannel&) = delete;
  ~ByteChannel();

  /// Takes the next chunk, or an empty optional for the end of the stream, again and again. A chunk that nobody has looked at (a
  /// task that was cancelled or dropped, a wait that lost against a timer) stays for the next one; while its task is still held,
  /// that is the same task again.
  [[nodiscard]] task<std::optional<std::string>> receive();

  /// What there is: a chunk, the end, or nothing yet.
  enum class Poll {
    chunk,   ///< there was one
    end,     ///< the stream has ended
    pending  ///< there is nothing yet
  };
  /// The same without waiting. `chunk` is set for Poll::chunk.
  [[nodiscard]] Poll try_receive(std::string& chunk);
  /// Calls `wake` once, from any thread, when `try_receive` would give something (at once if it would now).
  void arm(std::function<void()> wake);
  /// What was taken has reached whom it is for, up to here: completes flushes (SW-18). Counts bytes taken since the
  /// start.
  void acknowledge(std::uint64_t bytes);

  /// Slots in use now.
  [[nodiscard]] std::size_t size() const;

 private:
  friend class StreamWriter;
  struct Impl;
  class Received;
  std::shared_ptr<Impl> impl_;
};

/// Writes to a stream, usually a process's stdin. Queued data goes out in order; the 17th chunk of 64 KiB waits until there is room
/// (SW-3, SW-4). A larger write takes as many slots as it has chunks of 64 KiB, so that memory is bounded by bytes.
///
/// A handle: copies write to the same stream.
///
/// \par Errors
/// `write`, `writeline` and `flush` throw SandboxExecutionError from the call itself: "Cannot write to stdin: stream is closed"
/// after `close()` (SW-9), and "Cannot write to stdin: stream has failed" with the cause nested (`std::rethrow_if_nested`) after
/// the stream has failed, which wins (SW-10, SW-11). Writes that wait when the stream fails end with the same error at once
/// (SW-14).
///
/// \par Cancellation
/// `cancel()` on the task of a write that waits withdraws it if none of its bytes have been queued; otherwise it is false.
///
/// \par Thread safety
/// Shared objects: safe. Each single write is contiguous.
///
/// Source: the published client's %StreamWriter; conformance SW-*.
class CWSANDBOX_EXPORT StreamWriter {
 public:
  static constexpr std::size_t QUEUE_SIZE = 16;  ///< slots of at most ByteChannel::SLOT_SIZE bytes

  /// Writes to a channel of your own; waiters are served on `loop`.
  /// \param guard lives as long as any handle does.
  /// \throws std::invalid_argument for a channel that is null.
  explicit StreamWriter(std::shared_ptr<ByteChannel> channel, LoopManager loop = LoopManager(),
                        std::shared_ptr<void> guard = nullptr);

  /// True as soon as `close()` has been called (SW-6).
  [[nodiscard]] bool closed() const;

  ///@{
  /// Queues bytes (one copy); completes when all are queued. An empty write is accepted and sends nothing (SW-1, SW-5).
  task<void> write(std::span<const std::byte> data) const;
  task<void> write(std::string_view data) const;
  task<void> write(const char* text) const;  ///< throws std::invalid_argument for a null pointer
  /// Any array of char or unsigned char: a vector, a std::array, a span.
  template <typename Bytes>
    requires detail::Bytes<Bytes>
  task<void> write(const Bytes& data) const {
    return write(std::as_bytes(std::span<const typename Bytes::value_type>(data)));
  }
  /// What is a string_view as well as a string, as Output is.
  template <typename Text>
    requires(std::is_class_v<Text> && std::is_convertible_v<const Text&, std::string_view>)
  task<void> write(const Text& text) const {
    return write(static_cast<std::string_view>(text));
  }
  ///@}
  /// The same without a copy for up to 64 KiB.
  task<void> write(std::string&& data) const;
  /// Appends a line feed, then encodes `text` (UTF-8) in `encoding`, by a name of
  /// iconv's or of Python's (SW-2).
  /// \throws std::invalid_argument for an unknown encoding or a text that it cannot hold; nothing is sent then.
  task<void> writeline(std::string_view text, const std::string& encoding = "utf-8") const;
  /// Completes when the process's pipe has everything that was written before (SW-18), also when it has ended since; fails when the
  /// process ends, or closes its stdin, without having taken all of it. In a pod without the agent (`--plain-exec`) nobody knows
  /// the pipe: there it completes when the cluster has it.
  task<void> flush() const;
  /// Queues the end of the stream after pending data; completes when it is queued. Idempotent (SW-7, SW-8). Does not throw after
  /// the stream has failed (SW-13).
  task<void> close() const;
  /// The stream has failed: further writes throw, those that wait end at once. A later call changes the cause that further writes
  /// get. For whoever consumes the channel.
  /// \throws std::invalid_argument for a null pointer.
  void set_exception(std::exception_ptr error) const;

 private:
  /// The task, with what the stream belongs to.
  [[nodiscard]] task<void> kept(task<void> work) const;
  std::shared_ptr<ByteChannel> channel_;
  std::shared_ptr<void> guard_;
};

}  // namespace cwsandbox
