#include "core/output_buffer.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace cwsandbox::detail {

OutputStorage::~OutputStorage() { std::free(data_); }

void OutputStorage::append(std::string_view bytes) {
  if (bytes.empty()) return;
  if (capacity_ - size_ < bytes.size()) {
    const std::size_t needed = size_ + bytes.size();
    // Small outputs stay tight; large blocks double, which costs address space only: untouched pages take no memory.
    const std::size_t wanted = std::max(needed, capacity_ * 2);
    void* grown = std::realloc(data_, wanted);
    if (!grown) throw std::bad_alloc();
    data_ = static_cast<char*>(grown);
    capacity_ = wanted;
  }
  std::memcpy(data_ + size_, bytes.data(), bytes.size());
  size_ += bytes.size();
}

}  // namespace cwsandbox::detail

namespace cwsandbox::core {

namespace {
constexpr std::size_t kMaxItem = 64 * 1024;  // what one next() gives at most when it is copied out of the kept bytes

std::exception_ptr missed(std::uint64_t bytes) {
  return std::make_exception_ptr(SandboxStreamTruncatedError("Cannot read the stream: " + std::to_string(bytes) +
                                                             " bytes had been dropped by the capture rule before reading began"));
}
}  // namespace

OutputBuffer::OutputBuffer(Capture capture, std::function<void(std::size_t)> on_consumed)
    : capture_(capture), on_consumed_(std::move(on_consumed)), kept_(std::make_shared<detail::OutputStorage>()) {}

bool OutputBuffer::flows() const noexcept {
  if (closed_) return true;
  switch (capture_.kind()) {
    case Capture::Kind::all:
      return true;
    case Capture::Kind::head_tail:
      return !reading_;
    case Capture::Kind::none:
      return draining_ && !reading_;
  }
  return true;
}

void OutputBuffer::keep(std::string_view bytes) {
  if (capture_.kind() == Capture::Kind::none) return;
  if (capture_.kind() == Capture::Kind::all) {
    kept_->append(bytes);
    return;
  }
  const std::string_view head = kept_->view();
  const auto to_head = static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), capture_.head() - head.size()));
  kept_->append(bytes.substr(0, to_head));
  bytes.remove_prefix(to_head);
  if (capture_.tail() == 0) return;
  if (bytes.size() > capture_.tail()) bytes.remove_prefix(bytes.size() - static_cast<std::size_t>(capture_.tail()));
  const std::size_t surplus = tail_.size() + bytes.size();
  if (surplus > capture_.tail())
    tail_.erase(tail_.begin(), tail_.begin() + static_cast<std::ptrdiff_t>(surplus - static_cast<std::size_t>(capture_.tail())));
  tail_.insert(tail_.end(), bytes.begin(), bytes.end());
}

std::size_t OutputBuffer::append(std::string_view bytes) {
  if (copies()) {
    std::function<void()> wake;
    {
      std::lock_guard lock(mutex_);
      received_ += bytes.size();
      keep(bytes);
      wake = take_wake();
    }
    if (wake) wake();
    return bytes.size();
  }
  return append(std::string(bytes));
}

std::size_t OutputBuffer::append(std::string&& bytes) {
  if (bytes.empty()) return 0;
  if (copies()) return append(std::string_view(bytes));
  std::function<void()> wake;
  {
    std::lock_guard lock(mutex_);
    received_ += bytes.size();
    keep(bytes);
    if (flows()) return bytes.size();
    queued_ += bytes.size();
    // Small chunks share a string: a chunk of one byte must not cost the memory of sixty.
    if (!queue_.empty() && queue_.back().size() + bytes.size() <= 4096)
      queue_.back() += bytes;
    else
      queue_.push_back(std::move(bytes));
    wake = take_wake();
  }
  if (wake) wake();
  return 0;
}

void OutputBuffer::end(std::exception_ptr error, std::uint64_t produced) {
  std::function<void()> wake;
  {
    std::lock_guard lock(mutex_);
    if (ended_) return;
    ended_ = true;
    error_ = std::move(error);
    produced_ = std::max(produced, received_);
    wake = take_wake();
  }
  if (wake) wake();
}

void OutputBuffer::finish(std::uint64_t produced) { end(nullptr, produced); }
void OutputBuffer::fail(std::exception_ptr error, std::uint64_t produced) { end(std::move(error), produced); }

void OutputBuffer::drain() {
  std::size_t freed = 0;
  {
    std::lock_guard lock(mutex_);
    draining_ = true;
    if (capture_.kind() != Capture::Kind::none || reading_ || ended_) return;  // ended: what waits may still be read
    freed = std::exchange(queued_, 0);
    queue_.clear();
  }
  if (freed > 0 && on_consumed_) on_consumed_(freed);
}

void OutputBuffer::queue_kept() {
  // head_tail, a reader that comes late: the bytes before the gap are still there.
  const std::string_view head = kept_->view();
  const std::uint64_t held = head.size() + tail_.size();
  std::size_t position = 0;
  while (position < head.size()) {
    queue_.emplace_back(head.substr(position, kMaxItem));
    position += queue_.back().size();
  }
  if (held == received_) {
    if (!tail_.empty()) queue_.emplace_back(tail_.begin(), tail_.end());
  } else if (!error_) {
    error_ = missed(received_ - held);
    ended_ = true;
  }
}

void OutputBuffer::on_read() {
  std::lock_guard lock(mutex_);
  if (reading_ || closed_) return;
  reading_ = true;
  if (capture_.kind() == Capture::Kind::head_tail) queue_kept();
  if (capture_.kind() == Capture::Kind::none) {
    std::uint64_t waiting = 0;
    for (const auto& chunk : queue_) waiting += chunk.size();
    if (waiting < received_ && !error_) {
      error_ = missed(received_ - waiting);
      queue_.clear();  // what is left does not follow on what was dropped
    }
  }
}

OutputBuffer::Poll OutputBuffer::poll(std::optional<std::string>& item) {
  std::size_t freed = 0;
  {
    std::lock_guard lock(mutex_);
    if (closed_) return Poll::end;
    bool found = false;
    if (copies()) {
      const std::string_view kept = kept_->view();
      if (read_ < kept.size()) {
        item.emplace(kept.substr(static_cast<std::size_t>(read_), kMaxItem));
        read_ += item->size();
        found = true;
      }
    } else if (!queue_.empty()) {
      item.emplace(std::move(queue_.front()));
      queue_.pop_front();
      // What queue_kept() put there was consumed when it arrived.
      freed = std::min(queued_, item->size());
      queued_ -= freed;
      found = true;
    }
    if (!found) {
      if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
      return ended_ ? Poll::end : Poll::pending;
    }
  }
  if (freed > 0 && on_consumed_) on_consumed_(freed);
  return Poll::item;
}

void OutputBuffer::arm(std::function<void()> wake) {
  {
    std::lock_guard lock(mutex_);
    const bool ready = closed_ || ended_ || error_ || (copies() ? read_ < kept_->view().size() : !queue_.empty());
    if (!ready) {
      wake_.swap(wake);  // an old one goes outside the lock
      return;
    }
  }
  wake();
}

void OutputBuffer::close() {
  std::size_t freed = 0;
  std::function<void()> wake;
  {
    std::lock_guard lock(mutex_);
    if (closed_) return;
    closed_ = true;
    freed = std::exchange(queued_, 0);
    queue_.clear();
    wake = take_wake();
  }
  if (wake) wake();
  if (freed > 0 && on_consumed_) on_consumed_(freed);
}

std::uint64_t OutputBuffer::received() const {
  std::lock_guard lock(mutex_);
  return received_;
}

Output OutputBuffer::output() const {
  std::lock_guard lock(mutex_);
  auto storage = kept_;
  if (!ended_ || !copies()) {
    // A snapshot while bytes may still come, or head and tail put together: small by the capture rule, except for a partial result
    // of `all`, which only a lost connection asks for, after which nothing comes.
    storage = std::make_shared<detail::OutputStorage>();
    storage->append(kept_->view());
    storage->head_size = storage->view().size();
    const std::string tail(tail_.begin(), tail_.end());
    storage->append(tail);
  }
  const std::size_t size = storage->view().size();
  storage->received = received_;
  storage->produced = std::max(produced_, received_);
  if (copies() || size == received_) storage->head_size = size;
  return Output(std::move(storage));
}

}  // namespace cwsandbox::core
