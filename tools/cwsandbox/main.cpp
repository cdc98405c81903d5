// The command-line client: arguments in, bytes and exit codes out. What it does is in the library.
//
// Exit codes of `run`, `exec` and `sh`: the command's own; 128 + n after death by signal n; 124 when --timeout killed it; 125 for
// errors of cwsandbox itself; 126 when the command cannot be executed, 127 when it does not exist; 130 and 143 when Ctrl-C or
// SIGTERM ended it. Everything else: 0, or 125, or 128 + n by a signal.
#include "completions.hpp"
#include "copy.hpp"
#include "output.hpp"
#include "pump.hpp"
#include "system.hpp"
#include "terminal_mode.hpp"
#include "time.hpp"

#include <cwsandbox/cwsandbox.hpp>

#include <CLI/CLI.hpp>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <optional>

#include <sys/stat.h>
#include <unistd.h>

namespace cli {
namespace {

using cwsandbox::Sandbox;

/// What the command line says, for all commands.
class Arguments {
 public:
  std::vector<std::string> command, env, ids, tags;
  std::string base_url, image, id, cwd, status, since, shell;
  std::string output = "text";
  double timeout = 0, grace = 10, resume_grace = 60;
  int tail = 0;
  bool use_stdin = false, tty = false, all = false, follow = false, timestamps = false, missing_ok = false, detach = false;
  CopyArguments copy;

  [[nodiscard]] Format format() const { return output == "json" ? Format::json : output == "ids" ? Format::ids : Format::text; }
};

std::chrono::milliseconds milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(std::min(seconds, 1e9) * 1000));
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

int print(const std::string& text) {
  if (write_all(STDOUT_FILENO, text)) return 0;
  if (errno == EPIPE) return 128 + SIGPIPE;
  throw std::runtime_error(std::string("cannot write to stdout: ") + std::strerror(errno));
}

/// A pipe, a file or a socket is passed on as to any process; a terminal only with --stdin, because reading it has side effects.
bool wants_stdin(const Arguments& arguments) {
  if (arguments.use_stdin) return true;
  struct stat status{};
  if (::fstat(STDIN_FILENO, &status) != 0) return false;
  return S_ISFIFO(status.st_mode) || S_ISREG(status.st_mode) || S_ISSOCK(status.st_mode);
}

cwsandbox::ExecOptions exec_options(const Arguments& arguments) {
  cwsandbox::ExecOptions options;
  options.with_capture(cwsandbox::Capture::none()).with_stdin(wants_stdin(arguments));
  set_place(options, arguments);
  if (arguments.timeout > 0) options.with_timeout(std::max(milliseconds(arguments.timeout), std::chrono::milliseconds(1)));
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
  explicit Command(const Arguments& arguments) : command_(arguments.command) {
    if (!arguments.tty) {
      exec_ = exec_options(arguments);
    } else {
      if (arguments.timeout > 0) throw std::invalid_argument("--timeout does not go with a terminal");
      shell_ = shell_options(arguments);
    }
  }
  int run(const Sandbox& sandbox, const Signals& signals) const {
    if (shell_) return pump_terminal(sandbox.shell(*shell_), signals);
    return pump_process(sandbox.exec(command_, *exec_), signals);
  }

 private:
  std::vector<std::string> command_;
  std::optional<cwsandbox::ExecOptions> exec_;
  std::optional<cwsandbox::ShellOptions> shell_;
};

int run_in_new(const cwsandbox::Client& client, const Arguments& arguments, const Signals& signals) {
  const Command command(arguments);
  const auto sandbox = Sandbox::run(client, sandbox_options(arguments));
  const int code = command.run(sandbox, signals);
  // Nothing of it is used any more: no time for its traps.
  auto stop = cwsandbox::StopOptions().with_grace_period(std::chrono::seconds(0)).with_missing_ok();
  const auto stopped = sandbox.stop(std::move(stop));
  wait_or_signal(stopped, signals);
  return code;
}

/// The command becomes the main command of a sandbox that stays; what it writes is in its logs.
int run_detached(const cwsandbox::Client& client, const Arguments& arguments, const Signals& signals) {
  if (client.base_url() == "local:") {
    throw std::invalid_argument(
        "--detach needs a gateway (cwsandboxd) at --base-url or CWSANDBOX_BASE_URL: a sandbox of this program's own ends with it");
  }
  if (arguments.use_stdin || arguments.tty || arguments.timeout > 0)
    throw std::invalid_argument("--stdin, --tty and --timeout do not go with --detach");
  auto options = sandbox_options(arguments);
  options.with_command(arguments.command);
  if (!arguments.cwd.empty()) options.with_working_dir(arguments.cwd);
  set_env(options, arguments);
  const auto sandbox = Sandbox::run(client, std::move(options));
  // Given up before it runs, by an error or a signal, it is stopped: nobody would know its id.
  result_or_signal(sandbox.wait(), signals);
  const int code = print(created_text(*sandbox.sandbox_id(), arguments.format()));
  if (code == 0) sandbox.release();
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

// ---- the command line ----

void add_output(CLI::App& app, Arguments& arguments, const std::vector<std::string>& values) {
  std::string text = "What is printed:";
  for (const auto& value : values) text += (value == values.front() ? " " : value == values.back() ? " or " : ", ") + value;
  app.add_option("-o,--output", arguments.output, text + "; with json, errors are JSON as well")
      ->check(CLI::IsMember(values))
      ->type_name("FORMAT");
}

void add_tags(CLI::App& app, Arguments& arguments, const char* text) {
  app.add_option("--tag", arguments.tags, text)->allow_extra_args(false)->type_name("TAG");
}

void add_place(CLI::App& app, Arguments& arguments) {
  app.add_option("-e,--env", arguments.env, "Environment variable; may be given several times")
      ->allow_extra_args(false)
      ->type_name("NAME=VALUE");
  app.add_option("-C,--cwd", arguments.cwd, "Working directory, absolute")->type_name("PATH");
  app.add_option("--resume-grace", arguments.resume_grace, "Seconds that a lost connection may stay lost before this gives up")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str()
      ->type_name("SECONDS");
}

void add_command(CLI::App& app, Arguments& arguments) {
  add_place(app, arguments);
  app.add_option("--timeout", arguments.timeout, "Seconds after which the command is killed (exit code 124)")
      ->check(CLI::PositiveNumber)
      ->type_name("SECONDS");
  app.add_flag("-i,--stdin", arguments.use_stdin, "Pass on standard input, also when it is a terminal");
  app.add_flag("-t,--tty", arguments.tty, "Give the command a terminal of its own, as sh does");
  add_output(app, arguments, {"text", "json"});
  app.add_option("command", arguments.command, "The command and its arguments, after --")->type_name("COMMAND");
  app.positionals_at_end();
}

constexpr const char* kFooter =
    "Example:\n"
    "  echo hello | cwsandbox run -- tr a-z A-Z\n\n"
    "Where sandboxes run: --base-url, else CWSANDBOX_BASE_URL, else https://api.cwsandbox.com when CWSANDBOX_API_KEY or\n"
    "CWSANDBOX_AUTH_MODE is set, else local: (this machine, as long as this command runs). The API key comes from\n"
    "CWSANDBOX_API_KEY, never from the command line.\n\n"
    "run, exec and sh exit as the command does (128+n after signal n); 124: timed out, 125: an error of cwsandbox itself,\n"
    "126: the command cannot be executed, 127: there is no such command, 130: Ctrl-C, 141: nobody reads the output,\n"
    "143: SIGTERM. The others exit with 0, 125, 130, 141 or 143.";

class Parser {
 public:
  explicit Parser(Arguments& arguments) : app("Runs commands in sandboxes.", "cwsandbox") {
    app.require_subcommand(1);
    app.set_version_flag("--version", "cwsandbox " + std::string(cwsandbox::version()));
    app.footer(kFooter);
    app.add_option("--base-url", arguments.base_url, "http://HOST:PORT, https://HOST[:PORT], unix:/PATH or local:")
        ->type_name("URL");
    app.fallthrough();  // so that --base-url may also stand behind the command's name

    run = add("run", "Runs one command in a sandbox of its own", "cat log | cwsandbox run -- sort | uniq -c");
    run->add_option("--image", arguments.image, "Image of the sandbox")->type_name("IMAGE");
    run->add_flag("-d,--detach", arguments.detach,
                  "Print the id and return: the command goes on as the sandbox's main command, and its output is in the logs");
    add_tags(*run, arguments, "A tag of the sandbox; may be given several times");
    add_command(*run, arguments);

    exec = add("exec", "Runs a command in a sandbox that exists", "cwsandbox exec 7f6c… -e MODE=test -- make check");
    exec->add_option("id", arguments.id, "The sandbox")->required()->type_name("ID");
    add_command(*exec, arguments);

    sh = add("sh", "Opens a shell, or another command, on a terminal; without ID in a new sandbox",
             "cwsandbox sh 7f6c…\n  cwsandbox sh -- vi /etc/hosts");
    sh->add_option("id", arguments.id, "The sandbox; without it, a new one that ends with the shell")->type_name("ID");
    sh->add_option("--image", arguments.image, "Image of the new sandbox")->type_name("IMAGE");
    add_tags(*sh, arguments, "A tag of the new sandbox; may be given several times");
    add_place(*sh, arguments);
    add_output(*sh, arguments, {"text", "json"});

    logs = add("logs", "Prints what the main command of a sandbox wrote", "cwsandbox logs -f --tail 100 --timestamps 7f6c…");
    logs->add_option("id", arguments.id, "The sandbox")->required()->type_name("ID");
    logs->add_flag("-f,--follow", arguments.follow, "Go on until the main command has ended");
    logs->add_option("-n,--tail", arguments.tail, "Only the last N lines of what is there")
        ->check(CLI::Range(1, 2147483647))
        ->type_name("N");
    logs->add_option("--since", arguments.since, "Only what was written since: 90s, 15m, 2h, 1d ago, or 2026-01-31T12:00:00Z")
        ->type_name("TIME");
    logs->add_flag("--timestamps", arguments.timestamps, "Begin each line with the time when it was written");
    add_output(*logs, arguments, {"text", "json"});

    ls = add("ls", "Lists sandboxes", "cwsandbox ls --tag nightly --output json");
    ls->add_flag("-a,--all", arguments.all, "Also those that have ended");
    add_tags(*ls, arguments, "Only those with this tag; may be given several times");
    ls->add_option("--status", arguments.status, "Only those that are in this state")
        ->check(CLI::IsMember({"pending", "creating", "running", "paused", "terminating", "completed", "failed", "terminated"}))
        ->type_name("STATUS");
    add_output(*ls, arguments, {"table", "text", "json", "ids"});

    get = add("get", "Prints all that is known of a sandbox", "cwsandbox get 7f6c… --output json");
    get->add_option("id", arguments.id, "The sandbox")->required()->type_name("ID");
    add_output(*get, arguments, {"text", "json"});

    stop = add("stop", "Stops sandboxes, and waits until nothing is left of them",
               "cwsandbox stop $(cwsandbox ls --tag nightly --output ids)");
    stop->add_option("id", arguments.ids, "The sandboxes")->required()->type_name("ID");
    stop->add_option("--grace", arguments.grace, "Seconds between SIGTERM and SIGKILL")
        ->check(CLI::Range(0.0, 86400.0))
        ->capture_default_str()
        ->type_name("SECONDS");
    add_output(*stop, arguments, {"text", "json"});

    remove = add("delete", "Has the server stop sandboxes, and does not wait for that", "cwsandbox delete --missing-ok 7f6c…");
    remove->add_option("id", arguments.ids, "The sandboxes")->required()->type_name("ID");
    remove->add_flag("--missing-ok", arguments.missing_ok, "One that the server does not know is no error");
    add_output(*remove, arguments, {"text", "json"});

    cp = add("cp", "Copies files to and from sandboxes",
             "cwsandbox cp -r src 7f6c…:/workspace\n  cwsandbox cp 7f6c…:/workspace/result.tar - | tar t");
    cp->add_option("source", arguments.copy.source, "A local path, ID:/path in a sandbox, or - for standard input")
        ->required()
        ->type_name("SRC");
    cp->add_option("destination", arguments.copy.destination, "The same; - for standard output")->required()->type_name("DST");
    cp->add_flag("-r,--recursive", arguments.copy.recursive, "Directories with all that is in them");
    cp->add_flag("-q,--quiet", arguments.copy.quiet, "No progress, also when stderr is a terminal");
    add_output(*cp, arguments, {"text", "json"});

    completion = add("completion", "Prints a completion script for a shell", "source <(cwsandbox completion bash)");
    completion->add_option("shell", arguments.shell, "bash or zsh")
        ->required()
        ->check(CLI::IsMember({"bash", "zsh"}))
        ->type_name("SHELL");
  }

  CLI::App app;
  CLI::App *run, *exec, *sh, *logs, *ls, *get, *stop, *remove, *cp, *completion;

 private:
  CLI::App* add(const std::string& name, const std::string& text, const std::string& example) {
    auto* command = app.add_subcommand(name, text);
    command->footer("Example:\n  " + example);
    return command;
  }
};

int run_main(int argc, char** argv) {
  Arguments arguments;
  Parser parser(arguments);

  // What follows -- is the command's alone, whatever it looks like.
  int own = 1;
  while (own < argc && std::strcmp(argv[own], "--") != 0) ++own;
  // Errors of the command line are said in the way that it asks for, as far as can be told.
  bool json = false;
  for (int i = 1; i < own; ++i) {
    const std::string_view word(argv[i]), next(i + 1 < own ? argv[i + 1] : "");
    if (word == "--output=json" || word == "-ojson" || ((word == "--output" || word == "-o") && next == "json")) json = true;
  }
  if (json) set_error_format(Format::json);
  try {
    parser.app.parse(own, argv);
    for (int i = own + 1; i < argc; ++i) arguments.command.emplace_back(argv[i]);
    if ((*parser.run || *parser.exec) && arguments.command.empty())
      throw CLI::RequiredError(std::string("the command to ") + (*parser.run ? "run" : "execute") + ", after --,");
    if (!*parser.run && !*parser.exec && !*parser.sh && own < argc) throw CLI::ExtrasError(arguments.command);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return parser.app.exit(error);
    print_error(std::string(error.what()) + (json ? "" : " (--help says more)"), "invalid_argument");
    return kOwnError;
  }
  if (*parser.completion) return print(arguments.shell == "bash" ? kBashCompletion : kZshCompletion);

  if (*parser.sh) {
    arguments.tty = true;
    if (::isatty(STDIN_FILENO) != 1) {
      print_error("sh needs a terminal as its standard input; for scripts and pipes there is: cwsandbox exec ID -- COMMAND",
                  "invalid_argument");
      return kOwnError;
    }
  }

  // On a terminal, signals that concern it are taken in order, too. A program that is stopped or hung up gives it back first.
  const Signals signals = arguments.tty ? Signals({SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGTSTP}) : Signals({SIGINT, SIGTERM});
  try {
    cwsandbox::ClientOptions options;
    if (!arguments.base_url.empty()) options.with_base_url(arguments.base_url);
    // Somebody waits at the other end: a gateway that is not there is worth a few seconds, not half a minute.
    options.with_retry_budget(std::chrono::seconds(5));
    options.with_resume_grace(milliseconds(arguments.resume_grace));
    const cwsandbox::Client client(std::move(options));
    if (*parser.run && arguments.detach) return run_detached(client, arguments, signals);
    if (*parser.run) return run_in_new(client, arguments, signals);
    if (*parser.exec) return run_in(client, arguments, signals);
    if (*parser.sh) return arguments.id.empty() ? run_in_new(client, arguments, signals) : run_in(client, arguments, signals);
    if (*parser.logs) return logs(client, arguments, signals);
    if (*parser.get) return get(client, arguments, signals);
    if (*parser.stop) return stop(client, arguments, signals);
    if (*parser.remove) return remove(client, arguments, signals);
    if (*parser.cp) return copy(client, arguments.copy, arguments.format(), signals);
    return ls(client, arguments, signals);
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
  try {
    return cli::run_main(argc, argv);
  } catch (const std::exception& error) {
    cli::print_error(error);
    return cli::kOwnError;
  }
}
