#include "gateway/output_spill.hpp"

#include "gateway/nameless_file.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace cwsandbox::gateway {

OutputSpill::OutputSpill(std::shared_ptr<Budgets> budgets, std::uint64_t capacity, std::string directory)
    : budgets_(std::move(budgets)), capacity_(capacity), directory_(std::move(directory)) {}

OutputSpill::~OutputSpill() { clear(); }

std::uint64_t OutputSpill::room() const noexcept {
  if (refused_) return 0;
  return std::min(capacity_ - std::min(capacity_, size()), budgets_->room(Budget::capture));
}

void OutputSpill::append(std::string_view bytes) {
  budgets_->take_anyway(Budget::capture, bytes.size());
  if (!refused_) bytes.remove_prefix(write(bytes));
  if (bytes.empty()) return;
  refused_ = true;
  rest_.append(bytes);
}

// How many of them the disk has taken.
std::size_t OutputSpill::write(std::string_view bytes) noexcept {
  if (fd_ < 0 && capacity_ > 0 && budgets_->take(Budget::descriptors, kFileDescriptors)) {
    fd_ = open_nameless(directory_);
    if (fd_ < 0) budgets_->give(Budget::descriptors, kFileDescriptors);
  }
  if (fd_ < 0) return 0;
  const std::size_t wanted = bytes.size();
  while (!bytes.empty()) {
    const std::uint64_t at = end_ % capacity_;
    const auto run = static_cast<std::size_t>(std::min({std::uint64_t{bytes.size()}, capacity_ - at, capacity_ - (end_ - begin_)}));
    if (run == 0) break;
    const ssize_t n = ::pwrite(fd_, bytes.data(), run, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    bytes.remove_prefix(static_cast<std::size_t>(n));
    end_ += static_cast<std::uint64_t>(n);
  }
  return wanted - bytes.size();
}

std::size_t OutputSpill::read(char* into, std::size_t size) {
  std::size_t done = 0;
  while (done < size && begin_ < end_) {
    const std::uint64_t at = begin_ % capacity_;
    const auto run = static_cast<std::size_t>(std::min({std::uint64_t{size - done}, capacity_ - at, end_ - begin_}));
    const ssize_t n = ::pread(fd_, into + done, run, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      read_error_ = n < 0 ? errno : EIO;
      break;
    }
    done += static_cast<std::size_t>(n);
    begin_ += static_cast<std::uint64_t>(n);
  }
  if (begin_ == end_) {
    const std::size_t n = std::min(size - done, rest_.size());
    if (n > 0) std::memcpy(into + done, rest_.data(), n);
    rest_.erase(0, n);
    done += n;
  }
  budgets_->give(Budget::capture, done);
  if (empty()) clear();
  return done;
}

void OutputSpill::clear() noexcept {
  budgets_->give(Budget::capture, size());
  if (fd_ >= 0) {
    ::close(fd_);
    budgets_->give(Budget::descriptors, kFileDescriptors);
  }
  fd_ = -1;
  begin_ = end_ = 0;
  rest_ = {};
  refused_ = false;
}

}  // namespace cwsandbox::gateway
