// One output stream of a process on the client's side: what the reader has not read yet, and what the result keeps.
#pragma once

#include <cwsandbox/exec_options.hpp>
#include <cwsandbox/process.hpp>

#include <atomic>
#include <deque>
#include <mutex>

namespace cwsandbox::detail {

/// Bytes in one growing block. Grown by realloc, which moves pages instead of bytes once the block is large, so that a gigabyte is
/// held once also while it grows.
class OutputStorage {
 public:
  OutputStorage() = default;
  OutputStorage(const OutputStorage&) = delete;
  OutputStorage& operator=(const OutputStorage&) = delete;
  ~OutputStorage();
  void append(std::string_view bytes);
  [[nodiscard]] std::string_view view() const noexcept { return {data_, size_}; }

  std::size_t head_size = 0;  ///< where head ends and tail begins; `view().size()` when nothing was dropped
  std::uint64_t received = 0, produced = 0;

 private:
  char* data_ = nullptr;
  std::size_t size_ = 0, capacity_ = 0;
};

}  // namespace cwsandbox::detail

namespace cwsandbox::core {

/// Applies the capture rule (see Capture) to one stream.
///
/// The producer's calls come from one strand, the reader's from any thread. Bytes count as consumed when the rule no longer holds
/// them back: the producer then grants the peer more window.
class OutputBuffer final : public detail::Source<std::string> {
 public:
  /// \param on_consumed called with bytes that the reader (or the start of draining) has freed; from any thread, outside locks.
  OutputBuffer(Capture capture, std::function<void(std::size_t)> on_consumed);

  /// Whether `append` would only copy, so that the caller may keep its storage.
  [[nodiscard]] bool copies() const noexcept { return capture_.kind() == Capture::Kind::all; }
  /// Adds bytes; returns how many of them are consumed already.
  [[nodiscard]] std::size_t append(std::string_view bytes);
  [[nodiscard]] std::size_t append(std::string&& bytes);
  /// The end; `produced` is the peer's count.
  void finish(std::uint64_t produced);
  /// The stream broke: the reader gets `error` after the data.
  void fail(std::exception_ptr error, std::uint64_t produced);
  /// Somebody waits for the result: if nobody reads, bytes flow from now on.
  void drain();
  [[nodiscard]] std::uint64_t received() const;
  /// Where in the process's output this one begins: one that was attached to behind the first byte.
  void begin_at(std::uint64_t offset) noexcept { origin_ = offset; }
  /// What is kept. To be called after `finish` or `fail`, or for a partial result.
  [[nodiscard]] Output output() const;

  // Source: the reader's side
  Poll poll(std::optional<std::string>& item) override;
  void arm(std::function<void()> wake) override;
  void close() override;
  void on_read() override;
  [[nodiscard]] std::uint64_t origin() const override { return origin_; }

 private:
  void keep(std::string_view bytes);
  void end(std::exception_ptr error, std::uint64_t produced);
  [[nodiscard]] bool flows() const noexcept;  // bytes are not held back for a reader
  void queue_kept();
  [[nodiscard]] std::function<void()> take_wake() { return std::exchange(wake_, nullptr); }

  const Capture capture_;
  std::atomic<std::uint64_t> origin_{0};
  std::function<void(std::size_t)> on_consumed_;
  mutable std::mutex mutex_;
  std::shared_ptr<detail::OutputStorage> kept_;           // all: everything; head_tail: the head
  std::deque<char> tail_;                                 // head_tail: the last bytes
  std::deque<std::string> queue_;                         // not `all`: for the reader
  std::size_t queued_ = 0;                                // bytes in queue_ that are not consumed yet
  std::uint64_t received_ = 0, produced_ = 0, read_ = 0;  // read_: the reader's offset (all)
  std::function<void()> wake_;
  std::exception_ptr error_;
  bool reading_ = false, closed_ = false, draining_ = false, ended_ = false;
};

}  // namespace cwsandbox::core
