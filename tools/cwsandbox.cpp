// The command-line client: arguments in, bytes and exit codes out. What it does is in the library.
//
// Exit codes of `run` and `exec`: the command's own; 128 + n after death by signal n; 124 when --timeout killed it; 125 for errors
// of cwsandbox itself; 126 when the command cannot be executed, 127 when it does not exist; 130 and 143 when Ctrl-C or SIGTERM
// ended it. Everything else: 0, or 125.
#include <cwsandbox/cwsandbox.hpp>
#include <cwsandbox/sandbox.hpp>
#include <cwsandbox/version.hpp>

#include <CLI/CLI.hpp>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <iostream>
#include <thread>

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

constexpr int kOwnError = 125;
constexpr int kTimedOut = 124;

/// What `run` and `exec` have in common.
struct CommandArguments {
  std::vector<std::string> command;
  std::vector<std::string> env;
  std::string cwd;
  double timeout = 0;
  bool use_stdin = false;
};

cwsandbox::ExecOptions exec_options(const CommandArguments& arguments, bool with_stdin) {
  cwsandbox::ExecOptions options;
  options.with_capture(cwsandbox::Capture::none()).with_stdin(with_stdin);
  if (!arguments.cwd.empty()) options.with_cwd(arguments.cwd);
  for (const auto& setting : arguments.env) {
    const auto equals = setting.find('=');
    if (equals == std::string::npos || equals == 0) throw std::invalid_argument("--env needs NAME=VALUE, not '" + setting + "'");
    options.with_env(setting.substr(0, equals), setting.substr(equals + 1));
  }
  if (arguments.timeout > 0)
    options.with_timeout(std::chrono::milliseconds(std::max<std::int64_t>(1, static_cast<std::int64_t>(arguments.timeout * 1000))));
  return options;
}

/// A pipe, a file or a socket is passed on as to any process; a terminal only with --stdin, because reading it has side effects.
bool wants_stdin(const CommandArguments& arguments) {
  if (arguments.use_stdin) return true;
  struct stat status{};
  if (::fstat(STDIN_FILENO, &status) != 0) return false;
  return S_ISFIFO(status.st_mode) || S_ISREG(status.st_mode) || S_ISSOCK(status.st_mode);
}

/// False: nobody reads `fd` any more, or it broke.
bool write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n > 0) {
      bytes.remove_prefix(static_cast<std::size_t>(n));
    } else if (errno == EAGAIN) {
      pollfd waiting{fd, POLLOUT, 0};
      ::poll(&waiting, 1, -1);
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

/// Wakes threads that wait in poll.
class Event {
 public:
  Event() : fd_(::eventfd(0, EFD_CLOEXEC)) {
    if (fd_ < 0) throw std::runtime_error(std::string("eventfd: ") + std::strerror(errno));
  }
  ~Event() { ::close(fd_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void set() const {
    const std::uint64_t one = 1;
    static_cast<void>(!::write(fd_, &one, sizeof one));
  }
  [[nodiscard]] int fd() const noexcept { return fd_; }

 private:
  int fd_;
};

/// SIGINT and SIGTERM as a descriptor. Made first of all, so that every thread has them blocked.
class Signals {
 public:
  Signals() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
    std::signal(SIGPIPE, SIG_IGN);  // write() says EPIPE instead
    fd_ = ::signalfd(-1, &set, SFD_CLOEXEC);
    if (fd_ < 0) throw std::runtime_error(std::string("signalfd: ") + std::strerror(errno));
  }
  ~Signals() { ::close(fd_); }
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;
  [[nodiscard]] int fd() const noexcept { return fd_; }
  [[nodiscard]] int read() const {
    signalfd_siginfo info{};
    return ::read(fd_, &info, sizeof info) == static_cast<ssize_t>(sizeof info) ? static_cast<int>(info.ssi_signo) : 0;
  }

 private:
  int fd_ = -1;
};

void print_error(const std::string& text) {
  const std::string prefix = "cwsandbox: ";  // which misuse of the library bears already
  std::string line = text.rfind(prefix, 0) == 0 ? text : prefix + text;
  for (char& c : line)
    if (c == '\n' || c == '\r') c = ' ';
  static_cast<void>(write_all(STDERR_FILENO, line + "\n"));
}

/// Moves bytes between our own stdin, stdout and stderr and those of a process, each stream on a thread of its own, so that none
/// holds up another or a signal.
class Pump {
 public:
  Pump(const cwsandbox::Process& process, const Signals& signals) : process_(process), signals_(signals) {}

  int run() {
    std::thread err([this] { drain(process_.std_err(), STDERR_FILENO); });
    std::thread in;
    if (process_.std_in()) in = std::thread([this] { feed(); });
    std::thread signals([this] { forward_signals(); });
    drain(process_.std_out(), STDOUT_FILENO);
    err.join();
    std::exception_ptr error;
    int code = kOwnError;
    try {
      code = exit_code();
    } catch (...) {
      error = std::current_exception();
    }
    over_.set();
    if (in.joinable()) in.join();
    signals.join();
    if (broken_pipe_) return 128 + SIGPIPE;
    if (const int signal = signal_; signal != 0) return 128 + signal;
    if (error) std::rethrow_exception(error);
    return code;
  }

 private:
  void drain(const cwsandbox::StreamReader<std::string>& reader, int fd) {
    try {
      while (const auto chunk = reader.next().result()) {
        if (write_all(fd, *chunk)) continue;
        // As a local process would get SIGPIPE: it ends, and without a word.
        if (fd == STDOUT_FILENO) {
          broken_pipe_ = true;
          process_.cancel();
        }
        reader.close();
        return;
      }
    } catch (const std::exception&) {  // the result says it
    }
  }

  void feed() {
    try {
      const auto& writer = *process_.std_in();
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
    } catch (const std::exception&) {  // the process no longer reads
    }
  }

  void forward_signals() {
    int count = 0;
    for (;;) {
      pollfd ready[2] = {{signals_.fd(), POLLIN, 0}, {over_.fd(), POLLIN, 0}};
      if (::poll(ready, 2, -1) < 0 && errno != EINTR) return;
      if (ready[0].revents != 0) {
        const int signal = signals_.read();
        signal_ = signal;
        try {
          // The process decides what to make of the first; whoever asks again means it.
          if (++count == 1)
            process_.signal(signal);
          else if (count == 2)
            process_.cancel();
          else
            ::_exit(128 + signal);
        } catch (const std::exception&) {  // it has ended
        }
        continue;
      }
      if (ready[1].revents != 0) return;
    }
  }

  int exit_code() {
    try {
      const auto result = process_.result();
      return result.returncode.value_or(kOwnError);
    } catch (const cwsandbox::SandboxCommandTimeoutError& error) {
      print_error(error.what());
      return kTimedOut;
    } catch (const cwsandbox::CancelledError& error) {
      if (!broken_pipe_ && signal_ == 0) print_error(error.what());
      return kOwnError;
    } catch (const cwsandbox::SandboxExecutionError& error) {
      print_error(error.what());
      if (error.error_name().empty()) return kOwnError;
      const auto failed = error.metadata().find("failed");
      const bool program = failed == error.metadata().end() || failed->second == "program";
      return program && error.error_name() == "ENOENT" ? 127 : 126;
    }
  }

  const cwsandbox::Process& process_;
  const Signals& signals_;
  Event over_;
  std::atomic<int> signal_{0};
  std::atomic<bool> broken_pipe_{false};
};

/// Waits for a call, but not longer than until Ctrl-C or SIGTERM; then the call is left alone.
template <typename T>
void wait_or_signal(const cwsandbox::task<T>& task, const Signals& signals) {
  auto done = std::make_shared<Event>();
  task.state()->add_continuation([done] { done->set(); });
  for (;;) {
    pollfd ready[2] = {{done->fd(), POLLIN, 0}, {signals.fd(), POLLIN, 0}};
    if (::poll(ready, 2, -1) < 0) continue;
    if (ready[1].revents != 0) throw signals.read();
    if (ready[0].revents != 0) return;
  }
}

void add_command_arguments(CLI::App& app, CommandArguments& arguments) {
  app.add_option("-e,--env", arguments.env, "Environment variable NAME=VALUE; may be given several times")->allow_extra_args(false);
  app.add_option("-C,--cwd", arguments.cwd, "Working directory, absolute");
  app.add_option("--timeout", arguments.timeout, "Seconds after which the command is killed (exit code 124)")
      ->check(CLI::PositiveNumber);
  app.add_flag("-i,--stdin", arguments.use_stdin, "Pass on standard input, also when it is a terminal");
  app.add_option("command", arguments.command, "The command and its arguments, after --");
}

std::string json_string(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      constexpr std::string_view digits = "0123456789abcdef";
      out += "\\u00";
      out += digits[static_cast<unsigned char>(c) >> 4U];
      out += digits[static_cast<unsigned char>(c) & 15U];
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string list_text(const std::vector<cwsandbox::Sandbox>& sandboxes, bool json) {
  std::string out;
  if (!json) {
    if (sandboxes.empty()) return out;
    out = "ID                                    STATUS       TAGS\n";
    for (const auto& sandbox : sandboxes) {
      std::string id = sandbox.sandbox_id().value_or("");
      std::string status(to_string(sandbox.status()));
      id.resize(std::max<std::size_t>(id.size(), 36), ' ');
      status.resize(std::max<std::size_t>(status.size(), 11), ' ');
      out += id + "  " + status + "  ";
      const auto tags = sandbox.tags();
      for (std::size_t i = 0; i < tags.size(); ++i) out += (i == 0 ? "" : ",") + tags[i];
      out += '\n';
    }
    return out;
  }
  out = "[";
  for (const auto& sandbox : sandboxes) {
    if (out.size() > 1) out += ",";
    out += "\n  {\"sandbox_id\": " + json_string(sandbox.sandbox_id().value_or("")) +
           ", \"status\": " + json_string(to_string(sandbox.status())) + ", \"image\": " + json_string(sandbox.image()) +
           ", \"tags\": [";
    const auto tags = sandbox.tags();
    for (std::size_t i = 0; i < tags.size(); ++i) out += (i == 0 ? "" : ", ") + json_string(tags[i]);
    out += "]}";
  }
  return out + (sandboxes.empty() ? "]\n" : "\n]\n");
}

int run_command(const cwsandbox::Client& client, const CommandArguments& arguments, const std::string& image,
                const Signals& signals) {
  auto options = exec_options(arguments, wants_stdin(arguments));
  cwsandbox::SandboxOptions sandbox_options;
  if (!image.empty()) sandbox_options.with_image(image);
  const auto sandbox = cwsandbox::Sandbox::run(client, std::move(sandbox_options));
  int code = kOwnError;
  {
    const auto process = sandbox.exec(arguments.command, std::move(options));
    code = Pump(process, signals).run();
  }
  // Nothing of it is used any more: no time for its traps.
  auto stop = cwsandbox::StopOptions().with_grace_period(std::chrono::seconds(0)).with_missing_ok();
  const auto stopped = sandbox.stop(std::move(stop));
  wait_or_signal(stopped, signals);
  return code;
}

int exec_command(const cwsandbox::Client& client, const CommandArguments& arguments, const std::string& id,
                 const Signals& signals) {
  auto options = exec_options(arguments, wants_stdin(arguments));
  const auto found = cwsandbox::Sandbox::from_id(client, id);
  wait_or_signal(found, signals);
  const auto process = found.result().exec(arguments.command, std::move(options));
  return Pump(process, signals).run();
}

int stop_all(const cwsandbox::Client& client, const std::vector<std::string>& ids, const Signals& signals) {
  std::vector<cwsandbox::task<cwsandbox::Sandbox>> found;
  for (const auto& id : ids) found.push_back(cwsandbox::Sandbox::from_id(client, id));
  std::vector<cwsandbox::task<void>> stops;
  int code = 0;
  const auto tell = [&code](const std::exception& error) {
    print_error(error.what());
    code = kOwnError;
  };
  for (const auto& task : found) {
    try {
      wait_or_signal(task, signals);
      stops.push_back(task.result().stop());
    } catch (const std::exception& error) {
      tell(error);
    }
  }
  for (const auto& task : stops) {
    try {
      wait_or_signal(task, signals);
      task.result();
    } catch (const std::exception& error) {
      tell(error);
    }
  }
  return code;
}

int run_main(int argc, char** argv) {
  CLI::App app("Runs commands in sandboxes.", "cwsandbox");
  app.require_subcommand(1);
  app.set_version_flag("--version", "cwsandbox " + std::string(cwsandbox::version()));
  app.footer(
      "Where sandboxes run: --base-url, else CWSANDBOX_BASE_URL, else https://api.cwsandbox.com when CWSANDBOX_API_KEY is set,\n"
      "else local: (this machine, as long as this command runs). The API key comes from CWSANDBOX_API_KEY.\n"
      "run and exec exit as the command does (128+n after signal n); 124: timed out, 125: an error of cwsandbox itself,\n"
      "126: the command cannot be executed, 127: there is no such command, 130: Ctrl-C, 143: SIGTERM.");
  std::string base_url;
  app.add_option("--base-url", base_url, "http://HOST:PORT, https://HOST[:PORT], unix:/PATH or local:");

  CommandArguments arguments;
  std::string image, id, output = "text";
  std::vector<std::string> ids;
  bool all = false;
  std::vector<std::string> tags;

  auto* run = app.add_subcommand("run", "Runs one command in a sandbox of its own");
  run->add_option("--image", image, "Image of the sandbox");
  add_command_arguments(*run, arguments);
  run->positionals_at_end();

  auto* exec = app.add_subcommand("exec", "Runs a command in a sandbox that exists");
  exec->add_option("id", id, "The sandbox")->required();
  add_command_arguments(*exec, arguments);
  exec->positionals_at_end();

  auto* ls = app.add_subcommand("ls", "Lists sandboxes");
  ls->add_option("-o,--output", output, "text or json")->check(CLI::IsMember({"text", "json"}));
  ls->add_flag("-a,--all", all, "Also those that have ended");
  ls->add_option("--tag", tags, "Only those with this tag; may be given several times")->allow_extra_args(false);

  auto* stop = app.add_subcommand("stop", "Stops sandboxes");
  stop->add_option("id", ids, "The sandboxes")->required();

  // What follows -- is the command's alone, whatever it looks like.
  int own = 1;
  while (own < argc && std::strcmp(argv[own], "--") != 0) ++own;
  try {
    app.parse(own, argv);
    for (int i = own + 1; i < argc; ++i) arguments.command.emplace_back(argv[i]);
    if ((*run || *exec) && arguments.command.empty()) throw CLI::RequiredError("command");
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kOwnError;
  }

  const Signals signals;
  try {
    cwsandbox::ClientOptions options;
    if (!base_url.empty()) options.with_base_url(base_url);
    // Somebody waits at the other end: a gateway that is not there is worth a few seconds, not half a minute.
    options.with_retry_budget(std::chrono::seconds(5));
    const cwsandbox::Client client(std::move(options));
    if (*run) return run_command(client, arguments, image, signals);
    if (*exec) return exec_command(client, arguments, id, signals);
    if (*stop) return stop_all(client, ids, signals);
    cwsandbox::ListOptions list;
    list.with_include_stopped(all);
    for (const auto& tag : tags) list.with_tag(tag);
    const auto found = cwsandbox::Sandbox::list(client, std::move(list));
    wait_or_signal(found, signals);
    return write_all(STDOUT_FILENO, list_text(found.result(), output == "json")) ? 0 : 128 + SIGPIPE;
  } catch (const int signal) {
    return 128 + signal;
  } catch (const std::exception& error) {
    print_error(error.what());
    return kOwnError;
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run_main(argc, argv);
  } catch (const std::exception& error) {
    print_error(error.what());
    return kOwnError;
  }
}
