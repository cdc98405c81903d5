// The daemon's log on standard error. Whoever reads it, or does not, never makes the gateway wait.
#pragma once

#include <spdlog/sinks/base_sink.h>

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

namespace cwsandbox::tools {

/// What is written at once where there is room, and otherwise waits for a thread that writes it, so that lines come in their order.
/// Further ones are lost once too many wait, which a line says when they can be written again.
class LogSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  static constexpr std::size_t kMostWaiting = 1024 * 1024;

  explicit LogSink(int fd) : state_(std::make_shared<State>(fd)) {}
  ~LogSink() override {
    // What waits may still be written, for a moment; a thread that is held up ends with the process.
    std::unique_lock lock(state_->mutex);
    state_->written.wait_for(lock, kLastWait, [this] { return state_->idle(); });
    state_->done = true;
    state_->changed.notify_all();
  }
  LogSink(const LogSink&) = delete;
  LogSink& operator=(const LogSink&) = delete;

 private:
  static constexpr std::chrono::seconds kLastWait{1};
  // A pipe that has room for anything has it for so much.
  static constexpr std::size_t kPiece = 4096;

  struct State {
    explicit State(int to) : fd(to) {}
    [[nodiscard]] bool idle() const { return waiting.empty() && !writing; }
    const int fd;
    std::mutex mutex;
    std::condition_variable changed, written;
    std::deque<std::string> waiting;
    std::size_t bytes = 0, lost = 0;
    bool writing = false, started = false, done = false;
  };

  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t buffer;
    formatter_->format(message, buffer);
    put({buffer.data(), buffer.size()});
  }
  void flush_() override {}

  void put(std::string_view line) {
    const std::lock_guard lock(state_->mutex);
    if (state_->idle()) {
      while (!line.empty() && has_room(state_->fd)) {
        const ssize_t n = ::write(state_->fd, line.data(), std::min(line.size(), kPiece));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return;  // nobody will ever read it
        line.remove_prefix(static_cast<std::size_t>(n));
      }
      if (line.empty()) return;
    }
    if (state_->bytes + line.size() > kMostWaiting) {
      ++state_->lost;
      return;
    }
    state_->bytes += line.size();
    state_->waiting.emplace_back(line);
    if (!state_->started) start();
    state_->changed.notify_all();
  }

  static bool has_room(int fd) noexcept {
    pollfd look{fd, POLLOUT, 0};
    return ::poll(&look, 1, 0) > 0;
  }

  void start() {
    sigset_t all, before;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      std::thread([state = state_] { write_on(*state); }).detach();
      state_->started = true;
    } catch (const std::exception&) {  // the next line tries again
    }
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  static void write_on(State& state) {
    std::unique_lock lock(state.mutex);
    for (;;) {
      state.changed.wait(lock, [&] { return state.done || !state.waiting.empty(); });
      if (state.waiting.empty()) return;
      std::string line = std::move(state.waiting.front());
      state.waiting.pop_front();
      state.bytes -= line.size();
      if (state.waiting.empty() && state.lost > 0)
        line += std::to_string(std::exchange(state.lost, 0)) + " lines of the log are missing here: nobody read it\n";
      state.writing = true;
      lock.unlock();
      for (std::string_view rest = line; !rest.empty();) {
        const ssize_t n = ::write(state.fd, rest.data(), rest.size());
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        rest.remove_prefix(static_cast<std::size_t>(n));
      }
      lock.lock();
      state.writing = false;
      state.written.notify_all();
    }
  }

  std::shared_ptr<State> state_;
};

}  // namespace cwsandbox::tools
