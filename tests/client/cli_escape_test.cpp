// How somebody gets out of a terminal session, whatever is at its other end.
#include "../../tools/cwsandbox/escape.hpp"
#include "on_terminal.hpp"

#include <csignal>

using namespace support;
using cli::EscapeFilter;
using cli::Patience;

namespace {

/// What goes to the sandbox, and the actions as letters, when `typed` comes in pieces of `step` bytes.
std::string through(EscapeFilter filter, const std::string& typed, std::size_t step) {
  std::string out;
  for (std::size_t at = 0; at < typed.size(); at += step) {
    const std::string piece = typed.substr(at, step);
    std::string_view rest = piece;
    while (!rest.empty()) {
      switch (filter.take(rest, out)) {
        case EscapeFilter::Action::leave:
          out += "<leave>";
          break;
        case EscapeFilter::Action::help:
          out += "<help>";
          break;
        case EscapeFilter::Action::suspend:
          out += "<suspend>";
          break;
        case EscapeFilter::Action::none:
          break;
      }
    }
  }
  return out;
}

}  // namespace

TEST_CASE("escapes are found where a line begins, and nowhere else", "[CL-6]") {
  struct Case {
    const char *typed, *out;
  };
  const Case cases[] = {
      {"~.", "<leave>"},
      {"ls\r~.", "ls\r<leave>"},
      {"ls\n~.", "ls\n<leave>"},
      {"ls ~.", "ls ~."},
      {"cd ~\r~/x", "cd ~\r~/x"},
      {"~~.", "~."},
      {"~~~.", "~~."},
      {"~?~.", "<help><leave>"},
      {"~\x1a~.", "<suspend><leave>"},
      {"~\r~.", "~\r<leave>"},
      {"\x03~.", "\x03~."},
      {"~x~.", "~x~."},
      {"", ""},
  };
  for (const Case& one : cases) {
    INFO(one.typed);
    for (const std::size_t step : {std::size_t{1}, std::size_t{2}, std::size_t{100}}) {
      CHECK(through(EscapeFilter('~'), one.typed, step) == one.out);
      CHECK(through(EscapeFilter(std::nullopt), one.typed, step) == one.typed);
    }
  }
  CHECK(through(EscapeFilter('\x1d'), "~.\r\x1d.", 1) == "~.\r<leave>");
}

TEST_CASE("Ctrl-C in vain: the third in a row, when none has been taken for two seconds", "[CL-6]") {
  const Patience::Clock::time_point start{};
  const auto at = [&](int milliseconds) { return start + std::chrono::milliseconds(milliseconds); };
  SECTION("in vain") {
    Patience patience;
    CHECK_FALSE(patience.typed("\x03", 10, 10, at(0)));
    CHECK_FALSE(patience.typed("\x03\x03\x03", 11, 10, at(100)));  // however many: the network may be slow
    CHECK_FALSE(patience.typed("\x03", 14, 10, at(1999)));
    CHECK(patience.typed("\x03", 15, 10, at(2000)));
  }
  SECTION("not the second") {
    Patience patience;
    CHECK_FALSE(patience.typed("\x03", 0, 0, at(0)));
    CHECK_FALSE(patience.typed("\x03", 1, 0, at(60'000)));
    CHECK(patience.typed("\x03", 2, 0, at(60'001)));
  }
  SECTION("taken") {
    Patience patience;
    for (int i = 0; i < 100; ++i)
      CHECK_FALSE(patience.typed("\x03", static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(i), at(i * 1000)));
    // The first of them was taken, what followed was not: it counts from there.
    CHECK_FALSE(patience.typed("\x03", 100, 100, at(200'000)));
    CHECK_FALSE(patience.typed("\x03", 101, 101, at(203'000)));
    CHECK_FALSE(patience.typed("\x03", 102, 101, at(204'000)));
    CHECK(patience.typed("\x03", 103, 101, at(206'000)));
  }
  SECTION("another key between") {
    Patience patience;
    CHECK_FALSE(patience.typed("\x03\x03x\x03", 0, 0, at(0)));
    CHECK_FALSE(patience.typed("\x03", 4, 0, at(5000)));
    CHECK(patience.typed("\x03", 5, 0, at(5000)));
  }
}

TEST_CASE("sh: ~. leaves a session, whatever runs there", "[CL-1][CL-6]") {
  Daemon daemon;
  const cwsandbox::Client client(daemon.options());
  const auto sandbox = Sandbox::run(client);
  sandbox.start().result();
  const std::vector<std::string> env = {"CWSANDBOX_BASE_URL=" + daemon.url(), "CWSANDBOX_API_KEY=" + daemon.token()};
  // It takes no key for what it is meant, and no signal.
  const std::string deaf = "trap '' HUP INT TERM QUIT; stty raw -echo; printf deaf; while :; do sleep 1; done";
  SECTION("of its own sandbox, which ends") {
    OnTerminal terminal(sh({"--", "/bin/sh", "-c", deaf}), env);
    terminal.expect("deaf");
    terminal.type("~.");
    CHECK(terminal.wait() == 128 + SIGHUP);
    CHECK(terminal.restored());
    CHECK(Sandbox::list(client).result().size() == 1);
  }
  SECTION("the server does not answer") {
    OnTerminal terminal(sh({*sandbox.sandbox_id(), "--", "/bin/sh", "-c", deaf}), env);
    terminal.expect("deaf");
    ::kill(daemon.pid(), SIGSTOP);
    terminal.type("x\r~.");
    const int code = terminal.wait();
    ::kill(daemon.pid(), SIGCONT);
    CHECK(code == 128 + SIGHUP);
    CHECK(terminal.restored());
  }
  SECTION("by Ctrl-C, when nothing that is typed arrives") {
    OnTerminal terminal(sh({*sandbox.sandbox_id(), "--escape-char", "none", "--", "/bin/sh", "-c", deaf}), env);
    terminal.expect("deaf");
    ::kill(daemon.pid(), SIGSTOP);
    int code = -1;
    while ((code = terminal.ended()) < 0) terminal.type("\x03");
    ::kill(daemon.pid(), SIGCONT);
    CHECK(code == 128 + SIGINT);
    CHECK(terminal.restored());
  }
  SECTION("its output cannot be written any further") {
    int full[2];
    REQUIRE(::pipe2(full, O_CLOEXEC) == 0);
    OnTerminal terminal(
        {"/bin/sh", "-c", "exec \"$0\" \"$@\" >/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(full[1]),
         environment("CWSANDBOX_CLI"), "exec", "-t", *sandbox.sandbox_id(), "--", "yes"},
        env);
    REQUIRE(terminal.becomes_raw());
    terminal.type("~.");
    CHECK(terminal.wait() == 128 + SIGHUP);
    CHECK(terminal.restored());
    ::close(full[0]), ::close(full[1]);
  }
}

TEST_CASE("sh: the other escapes; none with --escape-char none", "[CL-1][CL-6]") {
  OnTerminal terminal(plain_shell());
  terminal.expect("box> ");
  terminal.type("~?");
  terminal.expect("~.   leaves the session");
  terminal.type("~~\x15");  // typed, and the line cleared
  terminal.type("echo typed\r");
  terminal.expect("typed\r\n");
  terminal.expect("box> ");
  terminal.type("~\x1a");
  REQUIRE(terminal.wait_stopped());
  CHECK(terminal.restored());
  ::kill(terminal.pid(), SIGCONT);
  CHECK(terminal.becomes_raw());
  terminal.type("exit 4\r");
  CHECK(terminal.wait() == 4);

  OnTerminal plain(
      sh({"--escape-char", "none", "--", "/bin/sh", "-c", "stty raw -echo; printf ready; head -c 6 | od -An -tx1 | tr -d ' '"}));
  plain.expect("ready");
  plain.type("~.\x03\x03\x03\x03");  // and what takes Ctrl-C as a key gets as many as there are
  plain.expect("7e2e03030303");
  CHECK(plain.wait() == 0);
}

TEST_CASE("-t out of a pipe takes every byte as it is", "[CL-1][CL-6]") {
  const auto ran = run_program(
      {environment("CWSANDBOX_CLI"), "run", "-t", "--", "sh", "-c", "stty -echo -icanon; printf ready; head -c 2 | od -An -tx1"},
      "~.");
  CHECK(ran.out.find("7e 2e") != std::string::npos);
  CHECK(WEXITSTATUS(ran.status) == 0);
}
