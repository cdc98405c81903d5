#include "options.hpp"

#include <cwsandbox/version.hpp>

#include <CLI/CLI.hpp>

#include <charconv>
#include <cmath>
#include <cstring>
#include <sstream>

namespace cli {
namespace {

constexpr double kDay = 86400;
constexpr double kLongest = 1e9;  // seconds: some thirty years

std::string plain(double number) {
  std::ostringstream out;
  out << number;
  return out.str();
}

/// A number of seconds: no nan, nothing infinite, no hexadecimal.
CLI::Validator seconds(double least, double most) {
  return CLI::Validator(
      [least, most](std::string& text) {
        double value = 0;
        const char* const end = text.data() + text.size();
        const auto [stopped, error] = std::from_chars(text.data(), end, value);
        if (error == std::errc() && stopped == end && std::isfinite(value) && value >= least && value <= most) return std::string();
        return "'" + one_line(text).substr(0, 40) + "' is no number of seconds from " + plain(least) + " to " +
               (most == kLongest ? "1000000000" : plain(most));
      },
      "");
}

/// "~", "^]" or "none".
std::optional<char> parse_escape(const std::string& text) {
  if (text == "none") return std::nullopt;
  if (text.size() == 1) return text[0];
  if (text.size() == 2 && text[0] == '^' && text[1] >= '@' && text[1] <= '~') return static_cast<char>(text[1] & 0x1f);
  throw CLI::ValidationError("--escape-char", "is one character, ^ and a letter, or none");
}

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
      ->check(seconds(0, kDay))
      ->capture_default_str()
      ->type_name("SECONDS");
}

void add_escape(CLI::App& app, Arguments& arguments) {
  app.add_option_function<std::string>(
         "--escape-char", [&arguments](const std::string& text) { arguments.escape = parse_escape(text); },
         "On a terminal, this character at the start of a line begins an escape (~. leaves, ~? lists them): ^X, or none")
      ->default_str("~")
      ->type_name("CHAR");
}

void add_command(CLI::App& app, Arguments& arguments) {
  add_place(app, arguments);
  app.add_option("--timeout", arguments.timeout, "Seconds after which the command is killed (exit code 124)")
      ->check(seconds(0.001, kLongest))
      ->type_name("SECONDS");
  app.add_option("--drain", arguments.drain,
                 "Seconds for which output is still read that a process in the background holds when the command has ended; 0: "
                 "until it lets go")
      ->check(seconds(0, kLongest))
      ->default_str("1")
      ->type_name("SECONDS");
  auto* use_stdin = app.add_flag("-i,--stdin", arguments.use_stdin, "Pass on standard input, also when it is a terminal");
  auto* no_stdin = app.add_flag("-n,--no-stdin", arguments.no_stdin, "No standard input: what is there is left to others");
  auto* tty = app.add_flag("-t,--tty", arguments.tty, "Give the command a terminal of its own, as sh does");
  no_stdin->excludes(use_stdin)->excludes(tty);
  add_escape(app, arguments);
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
    add_escape(*sh, arguments);
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
        ->check(seconds(0, kDay))
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
    cp->add_flag("-p,--preserve", arguments.copy.preserve, "Keep the times of files, and permission bits whatever the umask");
    cp->add_flag("-n,--no-clobber", arguments.copy.no_clobber, "Leave files that are there already as they are");
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

constexpr std::pair<const char*, CommandName> kNames[] = {
    {"run", CommandName::run},   {"exec", CommandName::exec},
    {"sh", CommandName::sh},     {"logs", CommandName::logs},
    {"ls", CommandName::ls},     {"get", CommandName::get},
    {"stop", CommandName::stop}, {"delete", CommandName::remove},
    {"cp", CommandName::cp},     {"completion", CommandName::completion},
};

/// The command that is asked for, before anything is known for sure.
std::optional<CommandName> command_of(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--base-url") == 0) {
      ++i;
    } else if (argv[i][0] != '-') {
      for (const auto& [text, name] : kNames)
        if (std::strcmp(argv[i], text) == 0) return name;
      return std::nullopt;
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<int> parse(int argc, char** argv, Arguments& arguments) {
  Parser parser(arguments);
  int own = 1;
  while (own < argc && std::strcmp(argv[own], "--") != 0) ++own;
  // Errors of the command line are said in the way that it asks for, as far as can be told.
  bool json = false;
  for (int i = 1; i < own; ++i) {
    const std::string_view word(argv[i]), next(i + 1 < own ? argv[i + 1] : "");
    if (word == "--output=json" || word == "-ojson" || ((word == "--output" || word == "-o") && next == "json")) json = true;
  }
  if (json) set_error_format(Format::json);
  const auto name = command_of(argc, argv);
  const bool takes_command = name == CommandName::run || name == CommandName::exec || name == CommandName::sh;
  // What follows -- is the command's alone, whatever it looks like. Elsewhere operands follow.
  if (!takes_command) own = argc;
  try {
    parser.app.parse(own, argv);
    for (int i = own + 1; i < argc; ++i) arguments.command.emplace_back(argv[i]);
    if ((name == CommandName::run || name == CommandName::exec) && arguments.command.empty())
      throw CLI::RequiredError(std::string("the command to ") + (name == CommandName::run ? "run" : "execute") + ", after --,");
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {
      std::ostringstream out;
      static_cast<void>(parser.app.exit(error, out, out));
      return print(out.str());
    }
    print_error(std::string(error.what()) + (json ? "" : " (--help says more)"), "invalid_argument");
    return kOwnError;
  }
  arguments.name = name.value_or(CommandName::ls);
  return std::nullopt;
}

}  // namespace cli
