// The command-line client: arguments in, bytes and exit codes out. What it does is in the library.
//
// Exit codes of `run`, `exec` and `sh`: the command's own; 128 + n after death by signal n; 124 when --timeout killed it; 125 for
// errors of cwsandbox itself; 126 when the command cannot be executed, 127 when it does not exist; 130 and 143 when Ctrl-C or
// SIGTERM, sent again, ended it for sure. Everything else: 0, or 125, or 128 + n by a signal.
#include "base/descriptor_limit.hpp"
#include "base/standard_streams.hpp"
#include "completions.hpp"
#include "copy.hpp"
#include "options.hpp"
#include "output.hpp"
#include "pump.hpp"
#include "system.hpp"
#include "terminal_mode.hpp"
#include "time.hpp"

#include <cwsandbox/cwsandbox.hpp>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

namespace cli {
namespace {

using cwsandbox::Sandbox;

std::chrono::milliseconds milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000));
}

/// The variables of --env.
template <typename Options>
void set_env(Options& options, const Arguments& arguments) {
  for (const auto& setting : arguments.env) {
    const auto equals = setting.find('=');
    if (equals == std::string::npos || equals == 0) throw std::invalid_argument("--env needs NAME=VALUE, not '" + setting + "'");
    options.with_env(setting.substr(0, equals), setting.substr(equals + 1));
  }
}

/// The same, and the directory of --cwd.
template <typename Options>
void set_place(Options& options, const Arguments& arguments) {
  if (!arguments.cwd.empty()) options.with_cwd(arguments.cwd);
  set_env(options, arguments);
}

cwsandbox::SandboxOptions sandbox_options(const Arguments& arguments) {
  cwsandbox::SandboxOptions options;
  if (!arguments.image.empty()) options.with_image(arguments.image);
  for (const auto& tag : arguments.tags) options.with_tag(tag);
  return options;
}

/// Whatever it is, it is passed on as to any process, also what cannot be read, which is then said; a terminal only with --stdin,
/// because reading it has side effects. /dev/null is nothing.
bool wants_stdin(const Arguments& arguments) {
  if (arguments.use_stdin || arguments.no_stdin) return arguments.use_stdin;
  struct stat status{};
  if (::fstat(STDIN_FILENO, &status) != 0 || ::isatty(STDIN_FILENO) == 1) return false;
  return !S_ISCHR(status.st_mode) || status.st_rdev != ::makedev(1, 3);
}

cwsandbox::ExecOptions exec_options(const Arguments& arguments) {
  cwsandbox::ExecOptions options;
  options.with_capture(cwsandbox::Capture::none()).with_stdin(wants_stdin(arguments));
  set_place(options, arguments);
  if (arguments.timeout) options.with_timeout(milliseconds(*arguments.timeout));
  if (arguments.drain) {
    // 0 is another thing than very little.
    const std::chrono::milliseconds least(*arguments.drain > 0 ? 1 : 0);
    options.with_drain(std::max(milliseconds(*arguments.drain), least));
  }
  return options;
}

cwsandbox::ShellOptions shell_options(const Arguments& arguments) {
  cwsandbox::ShellOptions options;
  if (!arguments.command.empty()) options.with_command(arguments.command);
  set_place(options, arguments);
  if (const auto size = terminal_size()) options.with_size(size->first, size->second);
  if (const char* term = std::getenv("TERM"); term != nullptr && *term != '\0') options.with_term(term);
  return options;
}

/// The command of run, exec and sh, in a sandbox that is there or is about to be.
class Command {
 public:
  /// Bad arguments are found before a sandbox is made.
  explicit Command(const Arguments& arguments) : command_(arguments.command), escape_(arguments.escape) {
    if (!arguments.tty) {
      exec_ = exec_options(arguments);
    } else {
      if (arguments.timeout) throw std::invalid_argument("--timeout does not go with a terminal");
      if (arguments.drain) throw std::invalid_argument("--drain does not go with a terminal, which ends with its command");
      shell_ = shell_options(arguments);
    }
  }
  int run(const Sandbox& sandbox, const Signals& signals) const {
    if (shell_) return pump_terminal(sandbox.shell(*shell_), signals, escape_);
    return pump_process(sandbox.exec(command_, *exec_), signals);
  }

 private:
  std::vector<std::string> command_;
  std::optional<char> escape_;
  std::optional<cwsandbox::ExecOptions> exec_;
  std::optional<cwsandbox::ShellOptions> shell_;
};

/// Waits until a sandbox is gone of which nothing is used any more: there is no time for its traps.
void stop_unused(const Sandbox& sandbox, const Signals& signals) {
  auto options = cwsandbox::StopOptions().with_grace_period(std::chrono::seconds(0)).with_missing_ok();
  const auto stopped = sandbox.stop(std::move(options));
  wait_or_signal(stopped, signals);
}

/// The code that `use` gives. The sandbox is gone when it throws instead; a signal leaves that to the exit, which has no such time.
template <typename Use>
int stopped_when_it_fails(const Sandbox& sandbox, const Signals& signals, const Use& use) {
  try {
    return use();
  } catch (const Interrupted&) {
    throw;
  } catch (...) {
    stop_unused(sandbox, signals);
    throw;
  }
}

int run_in_new(const cwsandbox::Client& client, const Arguments& arguments, const Signals& signals) {
  const Command command(arguments);
  const auto sandbox = Sandbox::run(client, sandbox_options(arguments));
  const int code = stopped_when_it_fails(sandbox, signals, [&] { return command.run(sandbox, signals); });
  stop_unused(sandbox, signals);
  return code;
}

/// The command becomes the main command of a sandbox that stays; what it writes is in its logs.
int run_detached(const cwsandbox::Client& client, const Arguments& arguments, const Signals& signals) {
  if (client.base_url() == "local:") {
    throw std::invalid_argument(
        "--detach needs a gateway (cwsandboxd) at --base-url or CWSANDBOX_BASE_URL: a sandbox of this program's own ends with it");
  }
  if (arguments.use_stdin || arguments.tty || arguments.timeout || arguments.drain)
    throw std::invalid_argument("--stdin, --tty, --timeout and --drain do not go with --detach");
  auto options = sandbox_options(arguments);
  options.with_command(arguments.command);
  if (!arguments.cwd.empty()) options.with_working_dir(arguments.cwd);
  set_env(options, arguments);
  const auto sandbox = Sandbox::run(client, std::move(options));
  // Given up before it runs, or when its id cannot be said, it is stopped: nobody would know it.
  const int code = stopped_when_it_fails(sandbox, signals, [&] {
    result_or_signal(sandbox.wait(), signals);
    return print(created_text(*sandbox.sandbox_id(), arguments.format()));
  });
  if (code == 0) {
    sandbox.release();
  } else {
    stop_unused(sandbox, signals);
  }
  return code;
}

int run_in(const cwsandbox::Client& client, const Arguments& arguments, const Signals& signals) {
  const Command command(arguments);
  return command.run(result_or_signal(Sandbox::from_id(client, arguments.id), signals), signals);
}

int logs(const cwsandbox::Client& client, const Arguments& arguments, const Signals& signals) {
  cwsandbox::LogOptions options;
  options.with_follow(arguments.follow).with_timestamps(arguments.timestamps);
  if (arguments.tail > 0) options.with_tail_lines(arguments.tail);
  if (!arguments.since.empty()) options.with_since(parse_since(arguments.since, std::chrono::system_clock::now()));
  const auto format = arguments.format();
  const auto sandbox = result_or_signal(Sandbox::from_id(client, arguments.id), signals);
  const auto reader = sandbox.stream_logs(std::move(options));
  // As many lines in one write as there are, but none held back while the next is waited for.
  constexpr std::size_t kEnough = 64 * 1024;
  std::string out;
  const auto flush = [&out] {
    const int code = out.empty() ? 0 : print(out);
    out.clear();
    return code;
  };
  for (;;) {
    const auto next = reader.next();
    if (!next.done() || out.size() >= kEnough) {
      if (const int code = flush(); code != 0) return code;
      check_signals(signals);
      wait_or_signal(next, signals);
    }
    std::optional<cwsandbox::LogLine> line;
    try {
      line = next.result();
    } catch (...) {
      static_cast<void>(flush());
      throw;
    }
    if (!line) return flush();
    if (line->is_gap()) {
      if (const int code = flush(); code != 0) return code;  // it stands where it was
      print_note(line->lost_bytes > 0 ? std::to_string(line->lost_bytes) + " bytes of the log are missing here"
                                      : "the log began afresh here: lines may be missing, or come again");
      if (format != Format::json) continue;
    }
    append_log_line(out, *line, format);
  }
}

int ls(const cwsandbox::Client& client, const Arguments& arguments, const Signals& signals) {
  cwsandbox::ListOptions options;
  options.with_include_stopped(arguments.all);
  for (const auto& tag : arguments.tags) options.with_tag(tag);
  if (!arguments.status.empty()) {
    for (auto status = cwsandbox::SandboxStatus::pending; status <= cwsandbox::SandboxStatus::terminated;
         status = static_cast<cwsandbox::SandboxStatus>(static_cast<int>(status) + 1)) {
      if (to_string(status) != arguments.status) continue;
      options.with_status(status);
      if (is_terminal(status)) options.with_include_stopped();
    }
  }
  return print(list_text(result_or_signal(Sandbox::list(client, std::move(options)), signals), arguments.format()));
}

int get(const cwsandbox::Client& client, const Arguments& arguments, const Signals& signals) {
  return print(sandbox_text(result_or_signal(Sandbox::from_id(client, arguments.id), signals), arguments.format()));
}

/// Does something to each of the sandboxes, to all at once, and says what became of each.
int for_all(const Arguments& arguments, const Signals& signals,
            const std::function<cwsandbox::task<void>(const std::string&)>& begin) {
  std::vector<std::optional<cwsandbox::task<void>>> tasks;
  Outcomes outcomes;
  int code = 0;
  for (const auto& id : arguments.ids) {
    tasks.emplace_back();
    try {
      tasks.back() = begin(id);
    } catch (const std::exception& error) {
      print_error(error);
    }
  }
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    bool ok = false;
    try {
      if (tasks[i]) {
        wait_or_signal(*tasks[i], signals);
        tasks[i]->result();
        ok = true;
      }
    } catch (const std::exception& error) {
      print_error(error);
    }
    outcomes.add(arguments.ids[i], ok);
    if (!ok) code = kOwnError;
  }
  if (arguments.format() != Format::json) return code;
  const int printed = print(outcomes.json());
  return printed != 0 ? printed : code;
}

int stop(const cwsandbox::Client& client, const Arguments& arguments, const Signals& signals) {
  // All are looked for at once, then all stopped at once.
  std::map<std::string, cwsandbox::task<Sandbox>> found;
  for (const auto& id : arguments.ids) found.emplace(id, Sandbox::from_id(client, id));
  const auto grace = milliseconds(arguments.grace);
  return for_all(arguments, signals, [&](const std::string& id) {
    return result_or_signal(found.at(id), signals).stop(cwsandbox::StopOptions().with_grace_period(grace));
  });
}

int remove(const cwsandbox::Client& client, const Arguments& arguments, const Signals& signals) {
  return for_all(arguments, signals, [&](const std::string& id) { return Sandbox::remove(client, id, arguments.missing_ok); });
}

int run_command(const cwsandbox::Client& client, const Arguments& arguments, const Signals& signals) {
  switch (arguments.name) {
    case CommandName::run:
      return arguments.detach ? run_detached(client, arguments, signals) : run_in_new(client, arguments, signals);
    case CommandName::exec:
      return run_in(client, arguments, signals);
    case CommandName::sh:
      return arguments.id.empty() ? run_in_new(client, arguments, signals) : run_in(client, arguments, signals);
    case CommandName::logs:
      return logs(client, arguments, signals);
    case CommandName::get:
      return get(client, arguments, signals);
    case CommandName::stop:
      return stop(client, arguments, signals);
    case CommandName::remove:
      return remove(client, arguments, signals);
    case CommandName::cp:
      return copy(client, arguments.copy, arguments.format(), signals);
    case CommandName::ls:
    case CommandName::completion:
      break;
  }
  return ls(client, arguments, signals);
}

// Its loop, its signals, what it waits for, some connections, and files that it copies.
constexpr std::size_t kDescriptors = 32;

int run_main(int argc, char** argv) {
  Arguments arguments;
  if (const auto code = parse(argc, argv, arguments)) return *code;
  if (arguments.name == CommandName::completion) return print(arguments.shell == "bash" ? kBashCompletion : kZshCompletion);

  if (arguments.name == CommandName::sh) {
    arguments.tty = true;
    if (::isatty(STDIN_FILENO) != 1) {
      print_error("sh needs a terminal as its standard input; for scripts and pipes there is: cwsandbox exec ID -- COMMAND",
                  "invalid_argument");
      return kOwnError;
    }
  }

  cwsandbox::base::raise_descriptor_limit();
  if (const auto lack = cwsandbox::base::lack_of_descriptors(kDescriptors); !lack.empty()) {
    print_error(lack, "resource_exhausted");
    return kOwnError;
  }

  // On a terminal, signals that concern it are taken in order, too. A program that is stopped or hung up gives it back first.
  const Signals signals = arguments.tty ? Signals({SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGTSTP}) : Signals({SIGINT, SIGTERM});
  try {
    cwsandbox::ClientOptions options;
    if (!arguments.base_url.empty()) options.with_base_url(arguments.base_url);
    // Somebody waits at the other end: a gateway that is not there is worth a few seconds, not half a minute.
    options.with_retry_budget(std::chrono::seconds(5));
    options.with_resume_grace(milliseconds(arguments.resume_grace));
    // What should not be as it is, said once. What is tried again later is not worth a word: it succeeds, or its error is shown.
    auto starting = std::make_shared<std::atomic<bool>>(true);
    options.with_logger([starting](cwsandbox::LogLevel level, std::string_view line) {
      if (*starting && level >= cwsandbox::LogLevel::warning) print_note(std::string(line));
    });
    const cwsandbox::Client client(std::move(options));
    *starting = false;
    return run_command(client, arguments, signals);
  } catch (const Interrupted& interrupted) {
    return 128 + interrupted.signal;
  } catch (const std::exception& error) {
    print_error(error);
    return kOwnError;
  }
}

}  // namespace
}  // namespace cli

int main(int argc, char** argv) {
  if (!cwsandbox::base::fill_standard_streams()) return cli::kOwnError;
  try {
    return cli::run_main(argc, argv);
  } catch (const std::exception& error) {
    cli::print_error(error);
    return cli::kOwnError;
  }
}
