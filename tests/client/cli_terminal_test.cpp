// cwsandbox sh on a real terminal: a pty of which this test holds both ends.
#include "on_terminal.hpp"
#include "support/sanitizers.hpp"

#include <csignal>
#include <fstream>

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace support;

namespace {

// Signals that a program does not ask for. The thread sanitizer takes most of them for a fault of the line that runs and calls
// their handlers at once: of one from outside that may be while it holds a lock of its own, for which the handler then waits for
// ever.
const std::vector<int> kUnasked =
    test_support::kThreadSanitizer ? std::vector{SIGQUIT, SIGXCPU} : std::vector{SIGQUIT, SIGXCPU, SIGSEGV, SIGABRT, SIGBUS};

}  // namespace

TEST_CASE("sh: a shell as on this machine: size, keys, job control, exit code", "[CL-1]") {
  OnTerminal terminal(plain_shell());
  terminal.expect("box> ");
  CHECK(terminal.raw());
  terminal.type("echo $(stty size) $TERM\r");
  terminal.expect("31 101 xterm\r\n");
  terminal.resize(77, 22);
  // The shell learns of it in its own time; asked until it has.
  terminal.type("until [ \"$(stty size)\" = '22 77' ]; do sleep 0.05; done; echo re''sized\r");
  terminal.expect("resized\r\n");
  // Ctrl-C interrupts what runs there, not us.
  // What runs there says itself that it does: between two commands of a list, bash may lose one.
  terminal.type("sh -c 'echo go\"\"es; exec sleep 1000'\r");
  terminal.expect("goes\r\n");
  terminal.type("\x03");
  terminal.expect("box> ");
  terminal.type("echo code=$?\r");
  terminal.expect("code=130\r\n");
  // Ctrl-Z, jobs, fg; the trap says that it is the program's turn again.
  terminal.type(
      "bash -c 'trap \"exit 130\" INT; trap \"echo con\"\"tinued\" CONT; echo st\"\"arted; while :; do sleep 0.05; done'\r");
  terminal.expect("started\r\n");
  terminal.type("\x1a");
  terminal.expect("Stopped");
  terminal.expect("box> ");
  terminal.type("fg\r");
  terminal.expect("continued\r\n");
  terminal.type("\x03");
  terminal.expect("box> ");
  // Ctrl-D at the prompt ends the shell with the code of its last command.
  terminal.type("(exit 9)\r");
  terminal.expect("box> ");
  terminal.type("\x04");
  CHECK(terminal.wait() == 9);
  CHECK(terminal.restored());
}

TEST_CASE("sh: full-screen programs draw, and bytes pass unchanged", "[CL-1]") {
  OnTerminal terminal(sh({"--", "/bin/sh", "-c", "stty raw -echo; printf 'ready'; head -c 256 | od -An -v -tx1 | tr -d ' \\n'"}));
  terminal.expect("ready");
  std::string keys, hex;
  for (int i = 0; i < 256; ++i) {
    keys += static_cast<char>(i);
    constexpr std::string_view digits = "0123456789abcdef";
    hex += digits[static_cast<std::size_t>(i) >> 4U];
    hex += digits[static_cast<std::size_t>(i) & 15U];
  }
  terminal.type(keys);
  terminal.expect(hex);
  CHECK(terminal.wait() == 0);
  CHECK(terminal.restored());
}

TEST_CASE("sh: the terminal comes back however it ends", "[CL-1]") {
  const auto opened = [](OnTerminal& terminal) {
    terminal.expect("box> ");
    REQUIRE(terminal.becomes_raw());
  };
  SECTION("by signals that ask") {
    for (const int signal : {SIGTERM, SIGHUP, SIGINT}) {
      OnTerminal terminal(plain_shell());
      opened(terminal);
      ::kill(terminal.pid(), signal);
      CHECK(terminal.wait() == 128 + signal);
      CHECK(terminal.restored());
    }
  }
  SECTION("by signals that do not") {
    for (const int signal : kUnasked) {
      OnTerminal terminal(plain_shell());
      opened(terminal);
      ::kill(terminal.pid(), signal);
      CHECK(terminal.wait() != 0);  // 128 + signal, but for a sanitizer's say
      CHECK(terminal.restored());
    }
  }
  SECTION("stopped and continued") {
    OnTerminal terminal(plain_shell());
    opened(terminal);
    ::kill(terminal.pid(), SIGTSTP);
    REQUIRE(terminal.wait_stopped());
    CHECK(terminal.restored());
    ::kill(terminal.pid(), SIGCONT);
    CHECK(terminal.becomes_raw());
    terminal.type("exit 4\r");
    CHECK(terminal.wait() == 4);
    CHECK(terminal.restored());
  }
  SECTION("the connection is lost") {
    Daemon daemon;
    OnTerminal terminal(sh({"--resume-grace", "0.5", "-e", "PS1=box> ", "--", "/bin/bash", "--norc"}),
                        {"CWSANDBOX_BASE_URL=" + daemon.url(), "CWSANDBOX_API_KEY=" + daemon.token()});
    opened(terminal);
    daemon.kill(SIGKILL);
    terminal.expect("connection was lost");
    CHECK(terminal.wait() == 125);
    CHECK(terminal.restored());
  }
  SECTION("its sandbox is stopped") {
    Daemon daemon;
    const cwsandbox::Client client(daemon.options());
    const auto sandbox = Sandbox::run(client);
    sandbox.start().result();
    OnTerminal terminal(sh({*sandbox.sandbox_id(), "-e", "PS1=box> ", "--", "/bin/bash", "--norc"}),
                        {"CWSANDBOX_BASE_URL=" + daemon.url(), "CWSANDBOX_API_KEY=" + daemon.token()});
    opened(terminal);
    auto options = cwsandbox::StopOptions().with_grace_period(0s);
    sandbox.stop(std::move(options)).result();
    CHECK(terminal.wait() != 0);
    CHECK(terminal.restored());
  }
}

TEST_CASE("sh: what does not begin leaves the terminal alone", "[CL-1]") {
  OnTerminal missing(sh({"--", "no-such-program"}));
  missing.expect("cwsandbox:");
  CHECK(missing.wait() == 127);
  CHECK(missing.restored());
  OnTerminal unknown(sh({"sb-unknown"}));
  unknown.expect("cwsandbox:");
  CHECK(unknown.wait() == 125);
  CHECK(unknown.restored());
  const auto piped = run_program(sh(), "exit\n");
  CHECK(WEXITSTATUS(piped.status) == 125);
  CHECK(piped.err.find("exec") != std::string::npos);
}

TEST_CASE("run -t gives a command a terminal, also out of a pipe", "[CL-1]") {
  const auto ran = run_program({environment("CWSANDBOX_CLI"), "run", "-t", "--", "sh", "-c",
                                "stty -echo; test -t 0 && test -t 1 && read line && echo got $line; exit 5"},
                               "typed\n");
  CHECK(ran.out.find("got typed\r\n") != std::string::npos);
  CHECK(WEXITSTATUS(ran.status) == 5);
}

TEST_CASE("a table has colours on a terminal, and NO_COLOR takes them away", "[CL-1]") {
  Daemon daemon;
  const cwsandbox::Client client(daemon.options());
  const auto sandbox = Sandbox::run(client);
  sandbox.wait().result();
  std::vector<std::string> env = {"CWSANDBOX_BASE_URL=" + daemon.url(), "CWSANDBOX_API_KEY=" + daemon.token()};
  OnTerminal coloured({environment("CWSANDBOX_CLI"), "ls"}, env);
  coloured.expect("\033[32mrunning\033[0m");
  CHECK(coloured.wait() == 0);
  env.emplace_back("NO_COLOR=1");
  OnTerminal plain({environment("CWSANDBOX_CLI"), "ls"}, env);
  plain.expect("  running  ");
  CHECK(plain.wait() == 0);
}

TEST_CASE("cp shows how far it is on a terminal, unless it is to be quiet", "[CL-1]") {
  Daemon daemon;
  const cwsandbox::Client client(daemon.options());
  const auto sandbox = Sandbox::run(client);
  sandbox.wait().result();
  const std::vector<std::string> env = {"CWSANDBOX_BASE_URL=" + daemon.url(), "CWSANDBOX_API_KEY=" + daemon.token()};
  const TemporaryDirectory directory;
  const std::string rest = directory.path() + "/rest";
  REQUIRE(::mkfifo(rest.c_str(), 0600) == 0);
  const std::string copy = " | " + environment("CWSANDBOX_CLI") + " cp \"$@\" - " + *sandbox.sandbox_id() + ":/tmp/x";
  OnTerminal shown({"/bin/sh", "-c", "(printf abc; cat '" + rest + "')" + copy, "sh"}, env);
  shown.expect("B/s\033[K");
  std::ofstream(rest) << "def";  // only now: the line is drawn while there is something to wait for
  CHECK(shown.wait() == 0);
  const std::string script = "(printf abc; sleep 1; printf def)" + copy;
  OnTerminal quiet({"/bin/sh", "-c", script, "sh", "-q"}, env);
  CHECK(quiet.wait() == 0);
  CHECK(quiet.rest() == "");
  CHECK(sandbox.read_file("/tmp/x").result() == "abcdef");
}
