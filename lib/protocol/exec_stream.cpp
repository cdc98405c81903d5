// The two halves of a byte stream.
#include "protocol/exec_stream.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

namespace cwsandbox::protocol {
namespace {

constexpr std::size_t kSmallChunk = 4 * 1024;  // copying this much costs less than keeping a chunk of its own

}  // namespace

// ---- OutboundStream ----

void OutboundStream::push(std::string chunk) {
  assert(!finished_);
  if (finished_ || chunk.empty()) return;
  if (chunk.size() <= kSmallChunk || chunk.size() < chunk.capacity() / 2) {
    push_copy(chunk);
    return;
  }
  end_ += chunk.size();
  chunks_.push_back(std::move(chunk));
}

void OutboundStream::push_copy(std::string_view bytes) {
  assert(!finished_);
  if (finished_ || bytes.empty()) return;
  end_ += bytes.size();
  if (!chunks_.empty()) {
    std::string& last = chunks_.back();
    const std::size_t size = last.size() + bytes.size();
    // Bytes in flight must not move: only an append within the capacity leaves them where they are.
    const bool in_flight_here = in_flight_ && pinned_end_ > end_ - size;
    if (size <= kMaxDataPayload && (!in_flight_here || size <= last.capacity())) {
      last.append(bytes);
      return;
    }
  }
  chunks_.emplace_back(bytes);
}

void OutboundStream::abandon() noexcept {
  finished_ = true;
  end_ = sent_;
  const std::uint64_t keep = in_flight_ ? std::max(pinned_end_, end_) : end_;
  std::uint64_t offset = released_;
  std::size_t kept = 0;
  while (kept < chunks_.size() && offset < keep) offset += chunks_[kept++].size();
  while (chunks_.size() > kept) chunks_.pop_back();
  if (cursor_ >= chunks_.size()) cursor_ = 0, cursor_offset_ = released_;
  release();
}

void OutboundStream::discard() noexcept {
  discarded_ = true;
  abandon();
}

std::string_view OutboundStream::take(std::size_t max) {
  if (!has_data_to_send() || in_flight_) return {};
  while (sent_ >= cursor_offset_ + chunks_[cursor_].size()) cursor_offset_ += chunks_[cursor_++].size();
  const std::string& chunk = chunks_[cursor_];
  const auto from = static_cast<std::size_t>(sent_ - cursor_offset_);
  std::uint64_t n = chunk.size() - from;
  n = std::min({n, static_cast<std::uint64_t>(max), end_ - sent_, limit_ - sent_});
  pinned_ = sent_;
  sent_ += n;
  pinned_end_ = sent_;
  in_flight_ = true;
  return std::string_view(chunk).substr(from, static_cast<std::size_t>(n));
}

void OutboundStream::on_sent() noexcept {
  in_flight_ = false;
  release();
}

bool OutboundStream::on_window(std::uint64_t received, std::uint64_t limit) {
  if (received > sent_) return false;
  if (received > acknowledged_) {
    acknowledged_ = received;
    release();
  }
  set_limit(limit);
  return true;
}

bool OutboundStream::rewind(std::uint64_t received) {
  if (received < acknowledged_ || received > sent_) return false;
  acknowledged_ = received;
  sent_ = received;
  end_sent_ = false;
  cursor_ = 0;
  cursor_offset_ = released_;
  release();
  return true;
}

std::string OutboundStream::recycle() {
  std::string spare;
  if (!spares_.empty()) {
    spare = std::move(spares_.back());
    spares_.pop_back();
  }
  return spare;
}

void OutboundStream::recycle_later(std::string&& storage) {
  if (!finished_ && spares_.size() < most_spares_ && storage.capacity() >= kSmallChunk) spares_.push_back(std::move(storage));
}

void OutboundStream::release() {
  const std::uint64_t free = discarded_ ? end_ : acknowledged_;
  const std::uint64_t upto = in_flight_ ? std::min(free, pinned_) : free;
  while (!chunks_.empty() && released_ + chunks_.front().size() <= upto) {
    const std::size_t size = chunks_.front().size();
    released_ += size;
    recycle_later(std::move(chunks_.front()));
    chunks_.pop_front();
    if (cursor_ > 0) {
      --cursor_;
    } else {
      cursor_offset_ += size;
    }
  }
  if (finished_ && !in_flight_ && free == end_) {  // also what abandon() left of the last chunk
    chunks_.clear();
    spares_.clear();
    released_ = end_;
    cursor_ = 0;
    cursor_offset_ = released_;
  }
}

// ---- InboundStream ----

std::optional<std::string> InboundStream::on_data(std::size_t n, std::string_view stream_name) {
  if (n == 0) return std::nullopt;
  if (ended_) return std::string(stream_name) + ": data after its end";
  if (n > limit_ || received_ > limit_ - n) {
    return std::string(stream_name) + ": data up to " + std::to_string(received_ + n) + ", limit is " + std::to_string(limit_);
  }
  received_ += n;
  return std::nullopt;
}

bool InboundStream::on_end() noexcept { return !std::exchange(ended_, true); }

bool InboundStream::grant_due() const noexcept {
  if (ended_) return false;
  const std::uint64_t next = consumed_ + window_;
  return next > limit_ && next - limit_ >= std::max<std::uint64_t>(1, window_ / 2);
}

bool InboundStream::window_due() const noexcept {
  if (grant_due()) return true;
  if (wanted_ > said_received_ && received_ >= wanted_) return true;
  return ended_ && said_received_ != received_;
}

InboundStream::Word InboundStream::say() noexcept {
  limit_ = std::max(limit_, consumed_ + window_);
  said_received_ = received_;
  return {received_, limit_};
}

}  // namespace cwsandbox::protocol
