#include "runner/local/local_watch.hpp"

#include <fcntl.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runner/local/descriptor_io.hpp"
#include "runner/waiting.hpp"

namespace cwsandbox::runner::local {

namespace {

using Clock = std::chrono::steady_clock;
using Kind = FileEvent::Kind;

// What one call gives: some hundred events, at least one with the longest name.
constexpr std::size_t kTurnBytes = 8 * 1024;
// How long the old name of a move waits for the new one, when nothing else happens in the directory meanwhile. The kernel tells
// both in one system call; what can lie between is only that whoever makes it has to wait for the CPU.
constexpr std::chrono::milliseconds kSecondHalf{500};

// The half of a move that tells what has left.
struct Left {
  std::uint32_t cookie = 0;
  std::string name;
  bool directory = false;
  Clock::time_point until;
};

struct Watching {
  Watching(const asio::any_io_executor& executor, UniqueFd descriptor) : fd(executor, std::move(descriptor)), readable(executor) {}
  WaitableFd fd;
  runner::TimedWaiters readable;
  bool waiting = false;  // for the descriptor
  bool over = false;
  std::optional<Left> left;
};

[[nodiscard]] FileEvent event_of(Kind kind, bool directory, std::string name = {}) {
  FileEvent event;
  event.kind = kind;
  event.name = std::move(name);
  event.directory = directory;
  return event;
}

// It has gone elsewhere after all.
void flush_left(Watching& self, std::vector<FileEvent>& events) {
  if (!self.left) return;
  events.push_back(event_of(Kind::moved_out, self.left->directory, std::move(self.left->name)));
  self.left.reset();
}

void take(Watching& self, const inotify_event& told, std::string name, std::vector<FileEvent>& events) {
  const bool directory = (told.mask & IN_ISDIR) != 0;
  if ((told.mask & IN_UNMOUNT) != 0) {
    // Nothing has been deleted: its place goes with the sandbox, of whose end others tell.
    self.over = true;
    return;
  }
  if ((told.mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_IGNORED)) != 0) {
    flush_left(self, events);
    events.push_back(event_of(Kind::gone, false));  // not every kernel says whether it was a directory
    self.over = true;
    return;
  }
  if ((told.mask & IN_MODIFY) != 0) return events.push_back(event_of(Kind::modified, directory, std::move(name)));
  if ((told.mask & IN_CLOSE_WRITE) != 0) return events.push_back(event_of(Kind::closed, directory, std::move(name)));
  if ((told.mask & IN_ATTRIB) != 0) return events.push_back(event_of(Kind::attributes, directory, std::move(name)));
  // The directory is locked for the whole of a move within it: when another of its names changes, no second half comes any more.
  if (self.left && (told.mask & IN_MOVED_TO) != 0 && told.cookie == self.left->cookie) {
    FileEvent event = event_of(Kind::renamed, directory, std::move(name));
    event.old_name = std::move(self.left->name);
    self.left.reset();
    return events.push_back(std::move(event));
  }
  flush_left(self, events);
  if ((told.mask & IN_Q_OVERFLOW) != 0) {
    events.push_back(event_of(Kind::overflow, false));
  } else if ((told.mask & IN_CREATE) != 0) {
    events.push_back(event_of(Kind::created, directory, std::move(name)));
  } else if ((told.mask & IN_DELETE) != 0) {
    events.push_back(event_of(Kind::deleted, directory, std::move(name)));
  } else if ((told.mask & IN_MOVED_TO) != 0) {
    events.push_back(event_of(Kind::moved_in, directory, std::move(name)));
  } else if ((told.mask & IN_MOVED_FROM) != 0) {
    Left left;
    left.cookie = told.cookie;
    left.name = std::move(name);
    left.directory = directory;
    left.until = Clock::now() + kSecondHalf;
    self.left = std::move(left);
  }
}

void read_some(Watching& self, std::vector<FileEvent>& events) {
  alignas(inotify_event) char bytes[kTurnBytes];
  ssize_t n = 0;
  do {
    n = ::read(self.fd.get(), bytes, sizeof bytes);
  } while (n < 0 && errno == EINTR);
  if (n < 0 && errno == EAGAIN) return;
  if (n <= 0) {
    // Nothing that a kernel is known to say; the worst that can be is that something is missing.
    flush_left(self, events);
    events.push_back(event_of(Kind::overflow, false));
    events.push_back(event_of(Kind::gone, false));
    self.over = true;
    return;
  }
  std::string_view rest(bytes, static_cast<std::size_t>(n));
  while (!self.over && rest.size() >= sizeof(inotify_event)) {
    inotify_event told{};
    std::memcpy(&told, rest.data(), sizeof told);
    rest.remove_prefix(sizeof told);
    const std::string_view name = rest.substr(0, told.len);
    rest.remove_prefix(name.size());
    take(self, told, std::string(name.substr(0, name.find('\0'))), events);
  }
}

class LocalFileWatch final : public FileWatch {
 public:
  explicit LocalFileWatch(std::shared_ptr<Watching> watching) : watching_(std::move(watching)) {}
  LocalFileWatch(const LocalFileWatch&) = delete;
  LocalFileWatch& operator=(const LocalFileWatch&) = delete;
  ~LocalFileWatch() override { watching_->fd.close(); }
  asio::awaitable<std::vector<FileEvent>> next(Clock::time_point deadline) override { return next_of(watching_, deadline); }

 private:
  static asio::awaitable<std::vector<FileEvent>> next_of(std::shared_ptr<Watching> self, Clock::time_point deadline) {
    std::vector<FileEvent> events;
    for (;;) {
      if (!self->over && self->fd.is_open()) read_some(*self, events);
      const auto now = Clock::now();
      if (self->left && events.empty() && now >= self->left->until) flush_left(*self, events);
      if (!events.empty() || now >= deadline) break;
      if (!self->over) wait(self);
      const auto until = self->left ? std::min(deadline, self->left->until) : deadline;
      co_await self->readable.wait_until(until);
    }
    co_return events;
  }

  static void wait(const std::shared_ptr<Watching>& self) {
    if (std::exchange(self->waiting, true)) return;
    self->fd.async_wait(asio::posix::stream_descriptor::wait_read, [weak = std::weak_ptr(self)](error_code) {
      const auto watching = weak.lock();
      if (!watching) return;
      watching->waiting = false;
      watching->readable.notify();
    });
  }

  std::shared_ptr<Watching> watching_;
};

[[nodiscard]] bool is_inotify(int fd) {
  char target[64];
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t n = ::readlink(link.c_str(), target, sizeof target);
  if (n < 0 || std::string_view(target, static_cast<std::size_t>(n)) != "anon_inode:inotify") return false;
  const int flags = ::fcntl(fd, F_GETFL);
  return flags >= 0 && ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
}

}  // namespace

std::unique_ptr<FileWatch> make_local_watch(const asio::any_io_executor& executor, UniqueFd fd) {
  if (!fd || !is_inotify(fd.get())) return nullptr;
  return std::make_unique<LocalFileWatch>(std::make_shared<Watching>(executor, std::move(fd)));
}

}  // namespace cwsandbox::runner::local
