#include "pump.hpp"

#include "output.hpp"
#include "terminal_mode.hpp"

#include <atomic>
#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include <unistd.h>

namespace cli {

namespace {

/// Each stream has a thread of its own, so that none holds up another or a signal.
template <typename Running>
class Pump {
 public:
  Pump(const Running& running, const Signals& signals) : running_(running), signals_(signals) {}
  Pump(const Pump&) = delete;
  Pump& operator=(const Pump&) = delete;

 protected:
  /// False: nobody reads `fd` any more.
  bool drain(const cwsandbox::StreamReader<std::string>& reader, int fd) {
    try {
      while (const auto chunk = reader.next().result()) {
        if (write_all(fd, *chunk)) continue;
        // As a local process would get SIGPIPE: it ends, and without a word.
        if (fd == STDOUT_FILENO) {
          broken_pipe_ = true;
          running_.cancel();
        }
        reader.close();
        return false;
      }
    } catch (const std::exception&) {  // the result says it
    }
    return true;
  }

  void feed(const cwsandbox::StreamWriter& writer) {
    try {
      for (;;) {
        pollfd ready[2] = {{STDIN_FILENO, POLLIN, 0}, {over_.fd(), POLLIN, 0}};
        if (::poll(ready, 2, -1) < 0) {
          if (errno == EINTR) continue;
          break;
        }
        if (ready[1].revents != 0) return;
        std::string chunk(cwsandbox::ByteChannel::SLOT_SIZE, '\0');
        const ssize_t n = ::read(STDIN_FILENO, chunk.data(), chunk.size());
        if (n < 0) {
          if (errno == EINTR || errno == EAGAIN) continue;
          break;
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

  int exit_code() {
    try {
      return running_.result().returncode.value_or(kOwnError);
    } catch (const cwsandbox::SandboxCommandTimeoutError& error) {
      print_error(error);
      return kTimedOut;
    } catch (const cwsandbox::CancelledError& error) {
      if (!broken_pipe_ && signal_ == 0) print_error(error);
      return kOwnError;
    } catch (const cwsandbox::SandboxExecutionError& error) {
      print_error(error);
      if (error.error_name().empty()) return kOwnError;
      const auto failed = error.metadata().find("failed");
      const bool program = failed == error.metadata().end() || failed->second == "program";
      return program && error.error_name() == "ENOENT" ? kNotFound : kCannotExecute;
    } catch (const std::exception& error) {
      if (signal_ == 0) print_error(error);
      return kOwnError;
    }
  }

  int code_for_all(int code) const {
    if (broken_pipe_) return 128 + SIGPIPE;
    if (const int signal = signal_; signal != 0) return 128 + signal;
    return code;
  }

  const Running& running_;
  const Signals& signals_;
  Event over_;
  std::atomic<int> signal_{0};
  std::atomic<bool> broken_pipe_{false};
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
    const int code = exit_code();
    over_.set();
    if (in.joinable()) in.join();
    signals.join();
    return code_for_all(code);
  }

 private:
  void forward_signals() {
    watch_signals([this, count = 0](int signal) mutable {
      signal_ = signal;
      try {
        // The process decides what to make of the first; whoever asks again means it.
        if (++count == 1)
          running_.signal(signal);
        else if (count == 2)
          running_.cancel();
        else
          ::_exit(128 + signal);
      } catch (const std::exception&) {  // it has ended
      }
    });
  }
};

class TerminalPump : public Pump<cwsandbox::TerminalSession> {
 public:
  using Pump::Pump;

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
    int code = kOwnError;
    {
      std::optional<TerminalMode> mode;
      if (ours && !running_.done()) mode.emplace(STDIN_FILENO);
      resize();  // what it is by now
      std::thread in([this] { feed(running_.input()); });
      std::thread signals([this, &mode] { take_signals(mode); });
      drain(running_.output(), STDOUT_FILENO);
      running_.async_wait([ended = ended_](boost::system::error_code) { ended->set(); });
      wait_for_end();
      over_.set();
      in.join();
      signals.join();
      if (running_.error() && mode && ::isatty(STDOUT_FILENO) == 1) {
        // What a full-screen program would have undone: alternate screen, mouse, bracketed paste, hidden cursor, colours.
        static_cast<void>(write_all(
            STDOUT_FILENO, "\033[?47l\033[?1000l\033[?1002l\033[?1003l\033[?1006l\033[?2004l\033[?1l\033>\033[?25h\033[0m\r\n"));
      }
    }
    code = exit_code();  // says what is wrong on a terminal that is itself again
    return code_for_all(code);
  }

 private:
  void wait_for_end() {
    for (;;) {
      pollfd ready{ended_->fd(), POLLIN, 0};
      if (::poll(&ready, 1, -1) > 0) return;
    }
  }

  void resize() const {
    try {
      if (const auto size = terminal_size()) running_.resize(size->first, size->second);
    } catch (const std::exception&) {  // it has ended
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
      if (signal_.exchange(signal) != 0) {
        mode.reset();
        ::_exit(128 + signal);
      }
      running_.cancel();
    });
  }

  // Shared: the loop's thread may still be in set() when this one goes on.
  const std::shared_ptr<Event> ended_ = std::make_shared<Event>();
};

}  // namespace

int pump_process(const cwsandbox::Process& process, const Signals& signals) { return ProcessPump(process, signals).run(); }
int pump_terminal(const cwsandbox::TerminalSession& session, const Signals& signals) {
  return TerminalPump(session, signals).run();
}

}  // namespace cli
