/// \file
/// Tasks and streams put together: with_timeout(), expect() and pipe().
#pragma once

#include <cwsandbox/stream_reader.hpp>
#include <cwsandbox/stream_writer.hpp>

#include <cstdint>

namespace cwsandbox {

namespace detail {

/// Takes the value when somebody looks at it: what nobody has looked at, a stream's item say, stays where it is.
template <typename T>
class TimedState final : public TaskState<T> {
 public:
  using TaskState<T>::TaskState;
  void complete(std::shared_ptr<TaskState<T>> inner) {
    auto error = inner->peek_error();
    inner_ = std::move(inner);
    this->publish(std::move(error));
  }

 private:
  void first_look() const override {
    const std::lock_guard lock(mutex_);
    auto inner = std::exchange(inner_, nullptr);
    if (inner && !inner->error()) this->value_.emplace(TaskState<T>::take(std::move(inner)));
  }
  mutable std::mutex mutex_;
  mutable std::shared_ptr<TaskState<T>> inner_;
};

/// Gives `outer` the end of `inner` by `complete`, or cancels `inner` when the time is up. `guard` is kept until then.
CWSANDBOX_EXPORT void limit(const std::shared_ptr<TaskStateBase>& outer, const std::shared_ptr<TaskStateBase>& inner,
                            std::shared_ptr<void> guard, double seconds,
                            void (*complete)(TaskStateBase& outer, const std::shared_ptr<TaskStateBase>& inner));

[[nodiscard]] CWSANDBOX_EXPORT task<std::string> expect(const StreamReader<std::string>& reader, std::string text, double seconds,
                                                        std::size_t max_bytes);

}  // namespace detail

/// The same operation with a time limit, as a task of its own (OR-10). One that ends in time gives its value or its error; at the
/// limit it is cancelled, for everybody who waits for it, and the task ends with TimeoutError at once: it does not wait for what
/// the cancelled operation still has to do (a process has its grace time). A process times out here because of a slow network, too;
/// one that shall be killed where it runs has ExecOptions::with_timeout.
///
/// Nothing is lost: an item of a stream that comes too late, or that nobody has looked at, stays in the stream (SR-14). An
/// operation that can no longer be cancelled, such as a write of which a part is queued, goes on.
/// \param timeout 0 or less: it must have completed already.
/// \throws std::invalid_argument for an empty task.
/// \par Cancellation
/// `cancel()` cancels the operation. When the last handle goes, so does this handle to the operation.
template <typename T, typename Rep, typename Period>
[[nodiscard]] task<T> with_timeout(const task<T>& operation, std::chrono::duration<Rep, Period> timeout) {
  const auto& inner = operation.state();
  if (!inner) detail::throw_empty();
  const double seconds = std::chrono::duration<double>(timeout).count();
  if constexpr (std::is_void_v<T>) {
    auto outer = std::make_shared<detail::TaskState<void>>(inner->loop());
    detail::limit(outer, inner, operation.guard(), seconds,
                  [](detail::TaskStateBase& to, const std::shared_ptr<detail::TaskStateBase>& from) { to.publish(from->error()); });
    return task<void>(std::move(outer));
  } else {
    auto outer = std::make_shared<detail::TimedState<T>>(inner->loop());
    detail::limit(outer, inner, operation.guard(), seconds,
                  [](detail::TaskStateBase& to, const std::shared_ptr<detail::TaskStateBase>& from) {
                    static_cast<detail::TimedState<T>&>(to).complete(std::static_pointer_cast<detail::TaskState<T>>(from));
                  });
    return task<T>(std::move(outer), operation.guard());
  }
}

/// Reads until `text` has come and gives everything up to and including it: for prompts of a terminal, and any dialogue. What comes
/// behind it stays in the reader, for the next read of whatever kind (SR-15). The bytes are compared as they are: a terminal makes
/// "\r\n" of a "\n", and puts colours between.
///
/// \param max_bytes most that is gathered without `text` in it; default 1 MiB.
/// \par Errors
/// TimeoutError at the time limit, SandboxExecutionError when the stream ends before `text`, std::length_error when `max_bytes` are
/// exceeded: each shows the last of what came. The stream's own error as it is. Whichever it is, what was read is back in the
/// reader.
/// \throws std::invalid_argument for an empty reader, an empty `text`, or one that is longer than `max_bytes`; std::logic_error
/// when another read is under way (SR-13).
/// \par Cancellation
/// Cancelled, given up, or not looked at, it leaves what it has read to the next read.
template <typename Rep, typename Period>
[[nodiscard]] task<std::string> expect(const StreamReader<std::string>& reader, std::string text,
                                       std::chrono::duration<Rep, Period> timeout, std::size_t max_bytes = 1024 * 1024) {
  return detail::expect(reader, std::move(text), std::chrono::duration<double>(timeout).count(), max_bytes);
}

/// Writes to `to` what `from` gives, to its end, then closes `to`; gives the number of bytes (SR-16). It takes the next chunk when
/// the last one is queued, so that a slow consumer slows the producer and memory stays bounded.
///
/// It goes on until it is done or cancelled, whoever holds the task, and keeps both streams, and so their processes, until then.
/// \par Errors
/// When `from` fails, `to` is closed and the error is that one. When `to` fails (its process has ended or closed its stdin), the
/// error is that, noticed with the next chunk, as of a pipe: that chunk and what was queued are gone with the writer, the rest
/// stays in `from`, which can be read on or closed.
/// \throws std::invalid_argument for an empty reader, or a null pointer: a process that was started without stdin.
/// \par Cancellation
/// `cancel()` stops between two chunks and leaves both open: what is not queued for `to` is still in `from`.
[[nodiscard]] CWSANDBOX_EXPORT task<std::uint64_t> pipe(const StreamReader<std::string>& from, const StreamWriter& to);
/// The same for `Process::std_in()`.
[[nodiscard]] CWSANDBOX_EXPORT task<std::uint64_t> pipe(const StreamReader<std::string>& from, const StreamWriter* to);

}  // namespace cwsandbox
