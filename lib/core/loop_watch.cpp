#include "core/loop_watch.hpp"

#include "core/stack_text.hpp"

#include <boost/asio/steady_timer.hpp>

#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <span>
#include <string_view>
#include <thread>
#include <utility>

namespace cwsandbox::core {

TurnJudge::Verdict TurnJudge::look(const Look& look) noexcept {
  // While no turn ends, a loop that has been seen in one is still in it.
  if (!in_turn_ || look.idle || look.turns != last_.turns) {
    const bool ended = std::exchange(told_, false);
    if (!ended) taken_ = computed_ = Duration::zero();
    // What the one that has been told of took is kept for whoever asks now.
    in_turn_ = !look.idle && !ended;
    last_ = look;
    return ended ? Verdict::ended : Verdict::fine;
  }
  const Duration computed = std::max(look.computed - last_.computed, Duration::zero());
  computed_ += computed;
  taken_ += look.blocked && last_.blocked ? std::max(look.now - last_.now, Duration::zero()) : computed;
  last_ = look;
  if (told_ || taken_ <= limit_) return Verdict::fine;
  told_ = true;
  return Verdict::too_long;
}

namespace {

constexpr int kSignal = SIGURG;  // ignored where nobody handles it: one that comes late does no harm
// The handler, and what the kernel calls it by; a sanitizer has one more in between.
constexpr std::size_t kOwnFrames = 2;
constexpr std::chrono::seconds kStackWait{2};
// Where code has no word on how to unwind it, as the jumps into other libraries have, a stack ends at once; a moment later the
// thread is somewhere else.
constexpr int kAttempts = 20;

// One stack at a time, in memory that is always there: a handler may run late.
std::mutex stack_mutex;
std::array<void*, 64> frames;
std::atomic<bool> wanted{false};
std::atomic<const std::atomic<std::uint64_t>*> turns{nullptr};  // of the loop that is asked
std::atomic<std::uint64_t> turn_of_frames{0};
std::atomic<std::uintptr_t> interrupted{0};  // where the thread was; 0: not known on this machine
std::atomic<int> frame_count{-1};

std::uintptr_t place_in([[maybe_unused]] const void* context) noexcept {
#if defined(__x86_64__)
  return static_cast<std::uintptr_t>(static_cast<const ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
#elif defined(__aarch64__)
  return static_cast<const ucontext_t*>(context)->uc_mcontext.pc;
#else
  return 0;
#endif
}

void write_stack(int, siginfo_t*, void* context) {
  const int error = errno;
  if (wanted.exchange(false)) {
    turn_of_frames = turns.load()->load();
    interrupted = place_in(context);
    frame_count = ::backtrace(frames.data(), static_cast<int>(frames.size()));
  }
  errno = error;
}

bool handle_signal() {
  static const bool handled = [] {
    // The first call loads a library, which a handler must not.
    void* ignored = nullptr;
    static_cast<void>(::backtrace(&ignored, 1));
    struct sigaction now{};
    if (::sigaction(kSignal, nullptr, &now) != 0 || (now.sa_handler != SIG_DFL && now.sa_handler != SIG_IGN)) return false;
    struct sigaction ours{};
    ours.sa_sigaction = &write_stack;
    ours.sa_flags = SA_RESTART | SA_SIGINFO;
    sigemptyset(&ours.sa_mask);
    return ::sigaction(kSignal, &ours, nullptr) == 0;
  }();
  return handled;
}

/// Writes down where the thread is; how many frames that is.
std::size_t ask(pthread_t thread) {
  frame_count = -1;
  wanted = true;
  const auto deadline = std::chrono::steady_clock::now() + kStackWait;
  if (::pthread_kill(thread, kSignal) == 0) {
    while (frame_count < 0 && std::chrono::steady_clock::now() < deadline)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  // A handler that has begun ends soon; one that has not is not to begin any more.
  if (!wanted.exchange(false)) {
    while (frame_count < 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return static_cast<std::size_t>(std::max(frame_count.load(), 0));
}

/// How many of the frames are those of the handler.
std::size_t own_frames(std::size_t count) {
  for (std::size_t i = kOwnFrames; i < count && i <= kOwnFrames + 1; ++i)
    if (reinterpret_cast<std::uintptr_t>(frames[i]) == interrupted) return i;
  return kOwnFrames;
}

// Of this turn: one that has ended meanwhile has no stack any more.
std::string stack_of(pthread_t thread, const std::atomic<std::uint64_t>& counter, std::uint64_t turn) {
  const std::lock_guard lock(stack_mutex);
  turns = &counter;
  std::size_t count = ask(thread);
  for (int i = 1; i < kAttempts && count == own_frames(count) + 1 && turn_of_frames == turn && counter == turn; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    count = ask(thread);
  }
  const std::size_t own = own_frames(count);
  if (count <= own) return "  (its stack cannot be had)\n";
  if (turn_of_frames != turn) return "  (it ended before its stack could be had)\n";
  // Where it was interrupted is no return address, of which the call before is looked for.
  if (const auto at = reinterpret_cast<std::uintptr_t>(frames[own]); at == interrupted)
    frames[own] = static_cast<char*>(frames[own]) + 1;
  return stack_text(std::span<void* const>(frames).subspan(own, count - own));
}

std::chrono::nanoseconds time_of(clockid_t clock) noexcept {
  timespec now{};
  if (::clock_gettime(clock, &now) != 0) return {};
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

std::string in_ms(std::chrono::nanoseconds time) {
  return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(time).count()) + " ms";
}

}  // namespace

/// The thread that looks, for as long as this lives; made on the thread that runs the loop.
class LoopWatch::Looker {
 public:
  explicit Looker(LoopWatch& watch) : watch_(watch), judge_(watch.limit_), thread_(::pthread_self()) {
    const std::string file = "/proc/self/task/" + std::to_string(::syscall(SYS_gettid)) + "/syscall";
    calls_ = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
    if (calls_ < 0 || ::pthread_getcpuclockid(thread_, &clock_) != 0 || !handle_signal()) {
      watch_.report_("turns of the event loop cannot be watched here: " + file + ": " + std::strerror(errno) + "\n");
      return;
    }
    sigset_t unblocked;
    sigemptyset(&unblocked);
    sigaddset(&unblocked, kSignal);
    ::pthread_sigmask(SIG_UNBLOCK, &unblocked, &mask_);
    unblocked_ = true;
    // Signals are for the program's own threads.
    sigset_t all, before;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      looking_ = std::thread([this] { look_on(); });
    } catch (const std::exception& e) {
      watch_.report_(std::string("turns of the event loop cannot be watched here: ") + e.what() + "\n");
    }
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  ~Looker() {
    {
      const std::lock_guard lock(mutex_);
      done_ = true;
    }
    changed_.notify_all();
    if (looking_.joinable()) looking_.join();
    if (unblocked_) ::pthread_sigmask(SIG_SETMASK, &mask_, nullptr);
    if (calls_ >= 0) ::close(calls_);
  }
  Looker(const Looker&) = delete;
  Looker& operator=(const Looker&) = delete;

 private:
  void look_on() {
    ::pthread_setname_np(::pthread_self(), "loop-watch");
    const auto rest = std::max<std::chrono::nanoseconds>(std::chrono::nanoseconds(watch_.limit_) / 8, std::chrono::milliseconds(1));
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, rest, [this] { return done_; })) {
      lock.unlock();
      tell(judge_.look(look()));
      lock.lock();
    }
  }

  [[nodiscard]] TurnJudge::Look look() const {
    TurnJudge::Look out;
    out.turns = watch_.turns_;
    // "running", or the number of the call that the thread is in; -1 while it waits for a page of memory.
    char text[32];
    const ssize_t n = ::pread(calls_, text, sizeof text - 1, 0);
    text[std::max<ssize_t>(n, 0)] = '\0';
    out.blocked = n > 0 && std::string_view(text).substr(0, 7) != "running";
    if (out.blocked) {
      const long call = std::strtol(text, nullptr, 10);
#ifdef SYS_epoll_wait
      out.idle = call == SYS_epoll_wait;
#endif
      out.idle = out.idle || call == SYS_epoll_pwait;
    }
    out.now = time_of(CLOCK_MONOTONIC);
    out.computed = time_of(clock_);
    return out;
  }

  void tell(TurnJudge::Verdict verdict) {
    try {
      if (verdict == TurnJudge::Verdict::too_long) {
        // What it took until now, before its stack is written.
        const std::string head = "a turn of the event loop has taken " + in_ms(judge_.taken()) + " so far, and computed for " +
                                 in_ms(judge_.computed()) + " of them, in:\n";
        watch_.report_(head + stack_of(thread_, watch_.turns_, judge_.turn()));
      } else if (verdict == TurnJudge::Verdict::ended) {
        watch_.report_("that turn took about " + in_ms(judge_.taken()) + ", and computed for " + in_ms(judge_.computed()) +
                       " of them\n");
      }
    } catch (const std::exception&) {  // one report less
    }
  }

  LoopWatch& watch_;
  TurnJudge judge_;  // the looking thread's
  const pthread_t thread_;
  clockid_t clock_{};
  int calls_ = -1;
  sigset_t mask_{};
  bool unblocked_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  std::thread looking_;
};

void LoopWatch::run(boost::asio::io_context& io) {
  if (limit_ <= limit_.zero()) {
    io.run();
    return;
  }
  // With a timer the loop waits for events in epoll from the start; without, on a condition variable, which tells nothing.
  const boost::asio::steady_timer timer(io);
  const Looker looker(*this);
  while (io.run_one() != 0) ++turns_;
}

}  // namespace cwsandbox::core
