#include "pump.hpp"

#include "escape.hpp"
#include "output.hpp"
#include "terminal_mode.hpp"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include <unistd.h>

namespace cli {

namespace {

/// How long a session that was left has to hear of it.
constexpr std::chrono::seconds kHangUp(2);
/// What is typed into a session that does not take it. More is not read, and with that no escape either.
constexpr std::size_t kMostTyped = std::size_t{1} << 20U;

// What the exit code does not say.
void say_reason(cwsandbox::EndReason reason) {
  using cwsandbox::EndReason;
  switch (reason) {
    case EndReason::none:
    case EndReason::timeout:
      return;
    case EndReason::sandbox_stopped:
      return print_note("the command ended because its sandbox was stopped");
    case EndReason::lifetime:
      return print_note("the command ended because its sandbox's maximum lifetime has passed");
    case EndReason::out_of_memory:
      return print_note("the command was killed: its sandbox has used all the memory that it may have");
    case EndReason::main_ended:
      return print_note("the command ended with its sandbox, whose main command has ended");
    case EndReason::gateway_shutdown:
      return print_note("the command ended because the gateway was shut down");
    case EndReason::other:
      return print_note("the command was ended, and not by itself");
  }
}

void say_more(const cwsandbox::ProcessResult& result) {
  say_reason(result.reason);
  if (!result.stdout_left_open && !result.stderr_left_open) return;
  const std::string which = !result.stderr_left_open ? "stdout" : !result.stdout_left_open ? "stderr" : "stdout and stderr";
  print_note("a process in the background still holds " + which + " of the command; what it writes from now on is lost (--drain)");
}
void say_more(const cwsandbox::TerminalResult& result) { say_reason(result.reason); }

/// Each stream has a thread of its own, so that none holds up another or a signal.
template <typename Running>
class Pump {
 public:
  Pump(const Running& running, const Signals& signals) : running_(running), signals_(signals) {}
  Pump(const Pump&) = delete;
  Pump& operator=(const Pump&) = delete;

 protected:
  using Chunk = cwsandbox::task<std::optional<std::string>>;

  void drain(const cwsandbox::StreamReader<std::string>& reader, int fd) { drain(reader, reader.next(), fd, nullptr); }
  /// From the chunk that was asked for on. `fd` is standard output or error. `over` ends what waits there, too.
  void drain(const cwsandbox::StreamReader<std::string>& reader, Chunk next, int fd, const Event* over) {
    try {
      for (; const auto chunk = next.result(); next = reader.next()) {
        if (over != nullptr ? write_all(fd, *chunk, *over) : write_all(fd, *chunk)) continue;
        const int error = errno;
        if (fd == STDOUT_FILENO && error == EPIPE) {
          broken_pipe_ = true;  // as a local process would get SIGPIPE: it ends, and without a word
        } else if (error != EPIPE && error != ECANCELED) {
          fail(std::string("cannot write to standard ") + (fd == STDOUT_FILENO ? "output: " : "error: ") + std::strerror(error));
        }
        if (fd == STDOUT_FILENO) running_.cancel();
        reader.close();
        return;
      }
    } catch (const std::exception&) {  // the result says it
    }
  }

  void feed(const cwsandbox::StreamWriter& writer) {
    try {
      for (;;) {
        pollfd ready[2] = {{STDIN_FILENO, POLLIN, 0}, {over_.fd(), POLLIN, 0}};
        if (::poll(ready, 2, -1) < 0) {
          if (errno == EINTR) continue;
          return input_failed();
        }
        if (ready[1].revents != 0) return;
        std::string chunk(cwsandbox::ByteChannel::SLOT_SIZE, '\0');
        const ssize_t n = ::read(STDIN_FILENO, chunk.data(), chunk.size());
        if (n < 0) {
          if (errno == EINTR || errno == EAGAIN) continue;
          return input_failed();
        }
        if (n == 0) break;
        chunk.resize(static_cast<std::size_t>(n));
        writer.write(std::move(chunk)).result();  // waits for room: nothing is read ahead of the process
      }
      writer.close().result();
    } catch (
        const std::exception&) {  // the process has closed its stdin, or has ended: its exit code says all that there is to say
    }
  }

  /// Half of an input must not pass for all of it: the process does not get its end, but ends.
  void input_failed() {
    fail(std::string("cannot read standard input: ") + std::strerror(errno));
    running_.cancel();
  }

  /// Something on this side went wrong; the first is what is said.
  void fail(const std::string& text) {
    const std::lock_guard lock(mutex_);
    if (failure_.empty()) failure_ = text;
  }

  /// Calls `handle` with each signal until it is over.
  template <typename Handle>
  void watch_signals(Handle handle) {
    for (;;) {
      pollfd ready[2] = {{signals_.fd(), POLLIN, 0}, {over_.fd(), POLLIN, 0}};
      if (::poll(ready, 2, -1) < 0 && errno != EINTR) return;
      if (ready[0].revents != 0) {
        if (const int signal = signals_.read(); signal != 0) handle(signal);
        continue;
      }
      if (ready[1].revents != 0) return;
    }
  }

  /// When all is over: what this program ends with.
  int exit_code() {
    std::string failure;
    {
      const std::lock_guard lock(mutex_);
      failure = failure_;
    }
    const int gave_up = gave_up_;
    const bool quiet = broken_pipe_ || gave_up != 0 || !failure.empty();
    const auto code = result(quiet);
    if (broken_pipe_) return 128 + SIGPIPE;
    if (!failure.empty()) {
      print_error(failure);
      return kOwnError;
    }
    // Its own code, if it has one: what it made of a signal is its business.
    if (gave_up != 0 && !code.second) return 128 + gave_up;
    return code.first;
  }

  const Running& running_;
  const Signals& signals_;
  Event over_;
  std::atomic<int> gave_up_{0};  ///< the signal that is not left to the process
  std::atomic<bool> broken_pipe_{false};

 private:
  /// An exit code, and whether it is the command's.
  std::pair<int, bool> result(bool quiet) const {
    try {
      const auto& ended = running_.result();
      if (!quiet) say_more(ended);
      const auto code = ended.returncode;
      return {code.value_or(kOwnError), code.has_value()};
    } catch (const cwsandbox::SandboxCommandTimeoutError& error) {
      if (!quiet) print_error(error);
      return {kTimedOut, false};
    } catch (const cwsandbox::SandboxExecutionError& error) {
      if (!quiet) print_error(error);
      if (error.error_name().empty()) return {kOwnError, false};
      const auto failed = error.metadata().find("failed");
      const bool program = failed == error.metadata().end() || failed->second == "program";
      return {program && error.error_name() == "ENOENT" ? kNotFound : kCannotExecute, false};
    } catch (const std::exception& error) {
      if (!quiet) print_error(error);
      return {kOwnError, false};
    }
  }

  std::mutex mutex_;
  std::string failure_;
};

class ProcessPump : public Pump<cwsandbox::Process> {
 public:
  using Pump::Pump;

  int run() {
    std::thread err([this] { drain(running_.std_err(), STDERR_FILENO); });
    std::thread in;
    if (running_.std_in()) in = std::thread([this] { feed(*running_.std_in()); });
    std::thread signals([this] { forward_signals(); });
    drain(running_.std_out(), STDOUT_FILENO);
    err.join();
    wait_for_end();
    over_.set();
    if (in.joinable()) in.join();
    signals.join();
    return exit_code();
  }

 private:
  void wait_for_end() const {
    try {
      static_cast<void>(running_.result());
    } catch (const std::exception&) {  // said by exit_code
    }
  }

  void forward_signals() {
    watch_signals([this, count = 0](int signal) mutable {
      try {
        // The process decides what to make of the first; whoever asks again means it.
        if (++count == 1) {
          running_.signal(signal);
        } else if (count == 2) {
          gave_up_ = signal;
          running_.cancel();
        } else {
          ::_exit(128 + signal);
        }
      } catch (const std::exception&) {  // it has ended
      }
    });
  }
};

class TerminalPump : public Pump<cwsandbox::TerminalSession> {
 public:
  TerminalPump(const cwsandbox::TerminalSession& running, const Signals& signals, std::optional<char> escape)
      : Pump(running, signals), filter_(escape) {}

  int run() {
    const bool ours = ::isatty(STDIN_FILENO) == 1;
    if (ours) {
      // Until there is somebody to type to, Ctrl-C is for this program.
      const auto started = running_.pid();
      try {
        wait_or_signal(started, signals_);
      } catch (const Interrupted&) {
        running_.cancel();
        throw;
      }
    }
    int code = 0;  // once it has been left
    {
      std::optional<TerminalMode> mode;
      if (ours && !running_.done()) mode.emplace(STDIN_FILENO);
      resize();  // what it is by now
      std::thread in([this, ours] {
        if (ours)
          feed_keys(running_.input());
        else
          feed(running_.input());
      });
      std::thread signals([this, &mode] { take_signals(mode); });
      // Asked for before the result is: what nobody reads by then is dropped.
      std::thread out([this, first = running_.output().next()] {
        drain(running_.output(), first, STDOUT_FILENO, &over_);
        drained_.set();
      });
      running_.async_wait([ended = ended_](boost::system::error_code) { ended->set(); });
      wait(drained_, -1);
      wait(*ended_, -1);
      code = left_;
      if (code != 0) {
        // The other end is told, if it can be. Whoever leaves does not wait for what it makes of that.
        running_.cancel();
        wait_told();
        running_.output().close();
      }
      over_.set();
      out.join();
      in.join();
      signals.join();
      if ((code != 0 || running_.error()) && mode && ::isatty(STDOUT_FILENO) == 1) {
        // What a full-screen program would have undone: alternate screen, mouse, bracketed paste, hidden cursor, colours.
        static_cast<void>(write_all(
            STDOUT_FILENO, "\033[?47l\033[?1000l\033[?1002l\033[?1003l\033[?1006l\033[?2004l\033[?1l\033>\033[?25h\033[0m\r\n"));
      }
    }
    if (code == 0) return exit_code();  // says what is wrong on a terminal that is itself again
    print_note(code == 128 + SIGHUP ? "the session was left" : "the session was left: what was typed did not arrive");
    return code;
  }

 private:
  /// Until `event` is set or the session was left.
  void wait(const Event& event, int milliseconds) const {
    pollfd ready[2] = {{event.fd(), POLLIN, 0}, {leaving_.fd(), POLLIN, 0}};
    while (::poll(ready, 2, milliseconds) < 0 && errno == EINTR) {
    }
  }
  void wait_told() const {
    pollfd ready{ended_->fd(), POLLIN, 0};
    while (::poll(&ready, 1, static_cast<int>(std::chrono::milliseconds(kHangUp).count())) < 0 && errno == EINTR) {
    }
  }
  void leave(int code) {
    left_ = code;
    leaving_.set();
  }

  void resize() const {
    try {
      if (const auto size = terminal_size()) running_.resize(size->first, size->second);
    } catch (const std::exception&) {  // it has ended
    }
  }

  /// What is typed, as it comes: however slowly the other end takes it, every key is seen.
  void feed_keys(const cwsandbox::StreamWriter& writer) {
    Typed typed(writer);
    Patience patience;
    for (;;) {
      typed.go_on();
      const bool full = typed.waiting() >= kMostTyped;
      pollfd ready[3] = {{full ? -1 : STDIN_FILENO, POLLIN, 0}, {over_.fd(), POLLIN, 0}, {typed.wake().fd(), POLLIN, 0}};
      if (::poll(ready, 3, -1) < 0) {
        if (errno == EINTR) continue;
        return input_failed();
      }
      if (ready[1].revents != 0) return;
      if (ready[2].revents != 0) typed.wake().clear();
      if (ready[0].revents == 0) continue;
      char keys[4096];
      const ssize_t n = ::read(STDIN_FILENO, keys, sizeof keys);
      if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (n < 0) return input_failed();
      if (n == 0) return typed.end();
      std::string_view rest(keys, static_cast<std::size_t>(n));
      while (!rest.empty()) {
        std::string out;
        const auto action = filter_.take(rest, out);
        typed.go_on();
        if (patience.typed(out, typed.sent(), typed.taken(), Patience::Clock::now())) return leave(128 + SIGINT);
        typed.add(out);
        if (action == EscapeFilter::Action::leave) return leave(128 + SIGHUP);
        if (action == EscapeFilter::Action::help) static_cast<void>(write_all(STDOUT_FILENO, filter_.help(), over_));
        if (action == EscapeFilter::Action::suspend) ::kill(::getpid(), SIGTSTP);  // taken as any other
      }
    }
  }

  void take_signals(std::optional<TerminalMode>& mode) {
    watch_signals([this, &mode](int signal) {
      if (signal == SIGWINCH) return resize();
      if (signal == SIGTSTP) {
        if (mode)
          mode->suspend();
        else
          ::raise(SIGSTOP);
        return resize();
      }
      if (gave_up_.exchange(signal) != 0) {
        mode.reset();
        ::_exit(128 + signal);
      }
      running_.cancel();
    });
  }

  /// Keys on their way, which never makes anybody wait.
  class Typed {
   public:
    explicit Typed(const cwsandbox::StreamWriter& writer) : writer_(writer) {}

    void add(const std::string& keys) {
      pending_ += keys;
      sent_ += keys.size();
    }
    /// Hands on what can be handed on.
    void go_on() {
      if (failed_) return pending_.clear();
      try {
        if (take(write_) && !pending_.empty()) {
          write_ = writer_.write(std::exchange(pending_, {}));
          handed_ = sent_;
          watch(*write_);
        }
        if (take(flush_)) {
          taken_ = flushed_;
          if (handed_ > taken_) {
            flush_ = writer_.flush();
            flushed_ = handed_;
            watch(*flush_);
          }
        }
      } catch (const std::exception&) {  // nobody takes anything any more; whether that is the end is not for us to say
        failed_ = true;
      }
    }
    void end() const {
      try {
        static_cast<void>(writer_.close());
      } catch (const std::exception&) {  // it has ended
      }
    }
    [[nodiscard]] std::size_t waiting() const { return pending_.size(); }
    [[nodiscard]] std::uint64_t sent() const { return sent_; }
    [[nodiscard]] std::uint64_t taken() const { return taken_; }
    [[nodiscard]] const Event& wake() const { return *wake_; }

   private:
    /// Whether there is nothing to wait for.
    static bool take(std::optional<cwsandbox::task<void>>& step) {
      if (!step) return true;
      if (!step->done()) return false;
      const auto done = *std::exchange(step, std::nullopt);
      done.result();
      return true;
    }
    void watch(const cwsandbox::task<void>& step) const {
      step.state()->add_continuation([wake = wake_] { wake->set(); });
    }

    const cwsandbox::StreamWriter& writer_;
    std::string pending_;
    std::uint64_t sent_ = 0, handed_ = 0, flushed_ = 0, taken_ = 0;
    std::optional<cwsandbox::task<void>> write_, flush_;
    bool failed_ = false;
    const std::shared_ptr<Event> wake_ = std::make_shared<Event>();
  };

  EscapeFilter filter_;
  Event drained_, leaving_;
  std::atomic<int> left_{0};  ///< the exit code of somebody who has left
  // Shared: the loop's thread may still be in set() when this one goes on.
  const std::shared_ptr<Event> ended_ = std::make_shared<Event>();
};

}  // namespace

int pump_process(const cwsandbox::Process& process, const Signals& signals) { return ProcessPump(process, signals).run(); }
int pump_terminal(const cwsandbox::TerminalSession& session, const Signals& signals, std::optional<char> escape) {
  return TerminalPump(session, signals, escape).run();
}

}  // namespace cli
