#include "gateway/log_store.hpp"

#include "base/random.hpp"
#include "gateway/nameless_file.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace cwsandbox::gateway {

namespace {

// How far a line's start is looked for behind a gap; a longer line is cut.
constexpr std::uint64_t kMaxAlign = 1024 * 1024;
// A directory without room is not asked for every chunk.
constexpr std::chrono::seconds kTryAgain{1};

}  // namespace

LogStore::LogStore(const asio::any_io_executor& executor, std::uint64_t capacity, std::string directory)
    : capacity_(std::max<std::uint64_t>(capacity, 1)),
      directory_(std::move(directory)),
      session_(base::random_hex(12)),
      changed_(executor) {}

LogStore::~LogStore() { close(); }

void LogStore::close() noexcept {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

void LogStore::append(std::string_view bytes, Time time) {
  if (finished_ || bytes.empty()) return;
  const std::uint64_t from = end_;
  end_ += bytes.size();
  if (end_ - begin_ > capacity_) begin_ = end_ - capacity_;
  add_mark(from, time);
  int error = discarded_ ? ENOSPC : 0;
  if (fd_ < 0 && little_.size() == from && end_ <= std::min(kLittle, capacity_)) {
    little_.append(bytes);
  } else {
    if (fd_ < 0 && error == 0) error = open_file();
    if (error == 0) {
      const std::uint64_t first = std::max(from, begin_);
      error = write(first, bytes.substr(static_cast<std::size_t>(first - from)));
    }
  }
  if (error != 0) add_hole(from, end_, error);
  while (!holes_.empty() && holes_.front().to <= begin_) holes_.pop_front();
  while (marks_.size() > 1 && marks_[1].offset <= begin_) marks_.pop_front();
  changed_.notify();
}

// 0, or why there is no file.
int LogStore::open_file() {
  const auto now = std::chrono::steady_clock::now();
  if (now < next_try_) return open_error_;
  fd_ = open_nameless(directory_);
  open_error_ = fd_ < 0 ? errno : 0;
  if (fd_ >= 0 && !little_.empty() && little_.size() > begin_) {
    open_error_ = write(begin_, std::string_view(little_).substr(static_cast<std::size_t>(begin_)));
    if (open_error_ != 0) close();
  }
  if (fd_ < 0) {
    next_try_ = now + kTryAgain;
    return open_error_;
  }
  little_ = {};
  return 0;
}

int LogStore::write(std::uint64_t offset, std::string_view bytes) {
  while (!bytes.empty()) {
    const std::uint64_t at = offset % capacity_;
    const std::size_t room = static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), capacity_ - at));
    const ssize_t n = ::pwrite(fd_, bytes.data(), room, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : EIO;
    bytes.remove_prefix(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  return 0;
}

void LogStore::finish() {
  if (finished_) return;
  finished_ = true;
  changed_.notify();
}

void LogStore::discard() {
  discarded_ = true;
  close();
  little_ = {};
  begin_ = end_;
  marks_.clear();
  holes_.clear();
  changed_.notify();
}

// ---- gaps ----

void LogStore::add_hole(std::uint64_t from, std::uint64_t to, int error) {
  if (from >= to) return;
  auto at = std::find_if(holes_.begin(), holes_.end(), [&](const Hole& h) { return h.to >= from; });
  if (at == holes_.end()) {
    if (holes_.size() == kMaxHoles) {  // what lies between the two is given up
      holes_.back().to = to;
    } else {
      holes_.push_back(Hole{from, to, error});
    }
    return;
  }
  if (at->from > to) {
    holes_.insert(at, Hole{from, to, error});
    return;
  }
  at->from = std::min(at->from, from);
  at->to = std::max(at->to, to);
  for (auto next = std::next(at); next != holes_.end() && next->from <= at->to; next = holes_.erase(next)) {
    at->to = std::max(at->to, next->to);
  }
}

const LogStore::Hole* LogStore::hole_at(std::uint64_t offset) const noexcept {
  for (const Hole& hole : holes_) {
    if (offset >= hole.from && offset < hole.to) return &hole;
  }
  return nullptr;
}

std::optional<LogStore::Gap> LogStore::gap_at(std::uint64_t offset) {
  Gap gap;
  gap.to = offset;
  if (offset < begin_) {
    gap.to = begin_;
    gap.why = "older output is no longer kept";
  }
  while (const Hole* hole = hole_at(gap.to)) {
    gap.to = hole->to;
    gap.why = std::string("output could not be kept: ") + std::strerror(hole->error);
  }
  if (gap.to == offset) return std::nullopt;
  gap.to = line_start_from(gap.to);
  return gap;
}

// ---- reading ----

std::size_t LogStore::read(std::uint64_t offset, char* into, std::size_t size) {
  if (offset < begin_ || offset >= end_ || size == 0) return 0;
  std::uint64_t limit = end_;
  for (const Hole& hole : holes_) {
    if (hole.to <= offset) continue;
    if (hole.from <= offset) return 0;
    limit = std::min(limit, hole.from);
    break;
  }
  size = static_cast<std::size_t>(std::min<std::uint64_t>(size, limit - offset));
  if (fd_ < 0) {
    if (offset >= little_.size()) return 0;
    size = std::min(size, little_.size() - static_cast<std::size_t>(offset));
    std::memcpy(into, little_.data() + offset, size);
    return size;
  }
  std::size_t done = 0;
  while (done < size) {
    const std::uint64_t at = (offset + done) % capacity_;
    const std::size_t room = static_cast<std::size_t>(std::min<std::uint64_t>(size - done, capacity_ - at));
    const ssize_t n = ::pread(fd_, into + done, room, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      add_hole(offset + done, offset + size, n < 0 ? errno : EIO);
      break;
    }
    done += static_cast<std::size_t>(n);
  }
  return done;
}

bool LogStore::line_starts_at(std::uint64_t offset) {
  if (offset == 0) return true;
  char before = 0;
  return read(offset - 1, &before, 1) == 1 && before == '\n';
}

std::uint64_t LogStore::line_start_from(std::uint64_t offset) {
  if (offset >= end_ || line_starts_at(offset)) return offset;
  std::array<char, 16 * 1024> block;
  for (std::uint64_t at = offset; at < offset + kMaxAlign;) {
    const std::size_t n = read(at, block.data(), block.size());
    if (n == 0) break;
    if (const void* found = std::memchr(block.data(), '\n', n))
      return at + static_cast<std::uint64_t>(static_cast<const char*>(found) - block.data()) + 1;
    at += n;
  }
  return offset;
}

// ---- times ----

void LogStore::add_mark(std::uint64_t offset, Time time) {
  // The clock may be set back; the order of arrival is that of the offsets.
  if (!marks_.empty() && time < marks_.back().last) time = marks_.back().last;
  if (marks_.size() >= kMaxMarks) {
    const std::size_t half = marks_.size() / 2;
    for (std::size_t i = 0; i < half / 2; ++i) {
      marks_[i] = marks_[2 * i];
      marks_[i].last = marks_[2 * i + 1].last;
    }
    marks_.erase(marks_.begin() + static_cast<std::ptrdiff_t>(half / 2),
                 marks_.begin() + static_cast<std::ptrdiff_t>(half / 2 * 2));
  }
  Mark mark;
  mark.offset = offset;
  mark.first = mark.last = time;
  marks_.push_back(mark);
}

std::deque<LogStore::Mark>::const_iterator LogStore::mark_of(std::uint64_t offset) const noexcept {
  return std::upper_bound(marks_.begin(), marks_.end(), offset, [](std::uint64_t o, const Mark& m) { return o < m.offset; });
}

LogStore::Time LogStore::time_of(std::uint64_t offset) const noexcept {
  const auto next = mark_of(offset);
  return next == marks_.begin() ? Time{} : std::prev(next)->first;
}

std::uint64_t LogStore::next_arrival(std::uint64_t offset) const noexcept {
  const auto next = mark_of(offset);
  return next == marks_.end() ? end_ : next->offset;
}

std::uint64_t LogStore::since(Time time) {
  const auto at = std::partition_point(marks_.begin(), marks_.end(), [&](const Mark& m) { return m.last < time; });
  if (at == marks_.end()) return end_;
  if (at == marks_.begin()) return at->offset;  // as much as there is, or was
  const std::uint64_t from = std::max(at->offset, begin_);
  return line_start_from(from);
}

}  // namespace cwsandbox::gateway
