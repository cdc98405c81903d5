// cwsandbox sh on a real terminal: a pty of which this test holds both ends.
#include "support.hpp"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

extern char** environ;

using namespace support;

namespace {

// Signals that a program does not ask for. The thread sanitizer takes most of them for a fault of the line that runs and calls
// their handlers at once: of one from outside that may be while it holds a lock of its own, for which the handler then waits for
// ever.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CWSANDBOX_TEST_THREAD_SANITIZER
#endif
#endif
#ifdef CWSANDBOX_TEST_THREAD_SANITIZER
constexpr int kUnasked[] = {SIGQUIT, SIGXCPU};
#else
constexpr int kUnasked[] = {SIGQUIT, SIGXCPU, SIGSEGV, SIGABRT, SIGBUS};
#endif

/// A program on a terminal of its own. The test's end of the other side stays open, so that the terminal's modes can be seen.
class OnTerminal {
 public:
  OnTerminal(std::vector<std::string> command, const std::vector<std::string>& env = {}) {
    winsize size{};
    size.ws_col = 101, size.ws_row = 31;
    if (::openpty(&master_, &slave_, nullptr, nullptr, &size) != 0) throw std::runtime_error("openpty");
    ::fcntl(master_, F_SETFD, FD_CLOEXEC);
    ::fcntl(slave_, F_SETFD, FD_CLOEXEC);
    before_ = modes();
    std::vector<char*> arguments, variables;
    for (auto& part : command) arguments.push_back(part.data());
    arguments.push_back(nullptr);
    for (char** v = environ; *v; ++v)
      if (std::strncmp(*v, "TERM=", 5) != 0) variables.push_back(*v);
    std::string term = "TERM=xterm";
    variables.push_back(term.data());
    for (const auto& v : env) variables.push_back(const_cast<char*>(v.c_str()));
    variables.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      // Tests may run where some are ignored, as under nohup or behind a shell's `&`; what is ignored stays so.
      for (int number = 1; number < NSIG; ++number) ::signal(number, SIG_DFL);
      ::setsid();
      ::ioctl(slave_, TIOCSCTTY, 0);
      for (const int fd : {0, 1, 2}) ::dup2(slave_, fd);
      ::execve(arguments[0], arguments.data(), variables.data());
      ::_exit(99);
    }
  }
  ~OnTerminal() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    ::close(master_);
    ::close(slave_);
  }
  OnTerminal(const OnTerminal&) = delete;
  OnTerminal& operator=(const OnTerminal&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  void type(const std::string& keys) const {
    if (::write(master_, keys.data(), keys.size()) != static_cast<ssize_t>(keys.size())) throw std::runtime_error("cannot type");
  }
  void resize(unsigned short columns, unsigned short rows) const {
    winsize size{};
    size.ws_col = columns, size.ws_row = rows;
    ::ioctl(master_, TIOCSWINSZ, &size);
  }
  /// Reads on until `what` has come, from where the last call ended.
  void expect(const std::string& what) {
    const auto deadline = std::chrono::steady_clock::now() + 60s;
    for (;;) {
      if (const auto at = screen_.find(what); at != std::string::npos) {
        screen_.erase(0, at + what.size());
        return;
      }
      if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error("no '" + what + "' came; but: " + screen_);
      read_some();
    }
  }
  /// How it ended, as a shell says it.
  int wait() {
    const auto deadline = std::chrono::steady_clock::now() + 60s;
    int status = 0;
    while (::waitpid(pid_, &status, WNOHANG) == 0) {
      if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error("it does not end: " + screen_ + threads());
      read_some();
    }
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  /// Until it has stopped as by Ctrl-Z.
  bool wait_stopped() const {
    int status = 0;
    return ::waitpid(pid_, &status, WUNTRACED) == pid_ && WIFSTOPPED(status);
  }
  [[nodiscard]] bool raw() const { return (modes().c_lflag & (ICANON | ECHO | ISIG)) == 0; }
  bool becomes_raw() {
    const auto deadline = std::chrono::steady_clock::now() + 60s;
    while (!raw()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      read_some();
    }
    return true;
  }
  [[nodiscard]] bool restored() const {
    const termios now = modes();
    return now.c_iflag == before_.c_iflag && now.c_oflag == before_.c_oflag && now.c_cflag == before_.c_cflag &&
           now.c_lflag == before_.c_lflag && std::memcmp(now.c_cc, before_.c_cc, sizeof now.c_cc) == 0;
  }
  [[nodiscard]] std::string rest() {
    read_some();
    return screen_;
  }

 private:
  /// What its threads are at, for whoever looks for the reason why it hangs.
  [[nodiscard]] std::string threads() const {
    std::string found;
    for (const auto& thread : std::filesystem::directory_iterator("/proc/" + std::to_string(pid_) + "/task")) {
      for (const char* name : {"wchan", "syscall", "status"}) {
        std::ifstream file(thread.path() / name);
        found += "\n" + std::string(std::istreambuf_iterator<char>(file), {});
      }
    }
    return found;
  }
  [[nodiscard]] termios modes() const {
    termios now{};
    ::tcgetattr(slave_, &now);
    return now;
  }
  void read_some() {
    pollfd ready{master_, POLLIN, 0};
    if (::poll(&ready, 1, 20) <= 0) return;
    char buffer[4096];
    const ssize_t n = ::read(master_, buffer, sizeof buffer);
    if (n > 0) screen_.append(buffer, static_cast<std::size_t>(n));
  }

  int master_ = -1, slave_ = -1;
  pid_t pid_ = -1;
  termios before_{};
  std::string screen_;
};

std::vector<std::string> sh(std::vector<std::string> rest = {}) {
  rest.insert(rest.begin(), {environment("CWSANDBOX_CLI"), "sh"});
  return rest;
}
/// A shell with a prompt of its own, and nothing of anybody's configuration.
std::vector<std::string> plain_shell() { return sh({"-e", "PS1=box> ", "--", "/bin/bash", "--norc", "--noprofile"}); }

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
