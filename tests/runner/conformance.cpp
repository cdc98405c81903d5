#include "conformance.hpp"

#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <cerrno>
#include <csignal>
#include <random>

#include "support/catch.hpp"

namespace cwsandbox::test {

using runner::ByteSink;
using runner::ByteSource;
using runner::error_code;
using runner::ExitInfo;
using runner::Process;
using runner::ProcessSpec;
using runner::Runner;
using runner::RunnerError;
using runner::Sandbox;
using runner::SandboxSpec;
using runner::StartFailed;
using std::chrono::milliseconds;

namespace {

using Kind = ExitInfo::Kind;

// Not a braced list, which GCC 12 cannot have in an expression with co_await.
template <class... Words>
std::vector<std::string> words(Words... list) {
  return {std::string(list)...};
}

asio::awaitable<void> exits(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  Outcome outcome = co_await exec(*sandbox, command(words("true")));
  REQUIRE(outcome.exit.kind == Kind::exited);
  REQUIRE(outcome.exit.value == 0);
  outcome = co_await exec(*sandbox, command(words("/bin/false")));
  REQUIRE(outcome.exit.value == 1);
  for (const char* code : {"2", "77", "126", "127", "128", "255"}) {
    outcome = co_await exec_sh(*sandbox, std::string("exit ") + code);
    REQUIRE(outcome.exit.kind == Kind::exited);
    REQUIRE(outcome.exit.value == std::stoi(code));
  }
  for (const int number : {SIGTERM, SIGKILL, SIGSEGV, SIGHUP}) {
    outcome = co_await exec_sh(*sandbox, "kill -" + std::to_string(number) + " $$");
    REQUIRE(outcome.exit.kind == Kind::signaled);
    REQUIRE(outcome.exit.value == number);
  }
}

asio::awaitable<void> streams_apart(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  const Outcome outcome =
      co_await exec_sh(*sandbox, "echo one; echo two >&2; echo three; echo four >/dev/stderr; echo five >/dev/stdout");
  REQUIRE(outcome.out == "one\nthree\nfive\n");
  REQUIRE(outcome.err == "two\nfour\n");
}

asio::awaitable<void> no_stdin_is_eof(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  const Outcome outcome = co_await exec(*sandbox, command(words("cat")));
  REQUIRE(outcome.out.empty());
  REQUIRE(outcome.exit.value == 0);
}

asio::awaitable<void> half_close(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  const Outcome outcome = co_await exec(*sandbox, command(words("sort")), "pear\napple\n");
  REQUIRE(outcome.out == "apple\npear\n");
}

asio::awaitable<void> echo(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  ProcessSpec spec = command(words("cat"));
  spec.use_stdin = true;
  auto process = co_await sandbox->start(spec);
  for (int i = 0; i < 20; ++i) {
    const std::string said = "line " + std::to_string(i);
    co_await write_all(*process->std_in(), said + "\n");
    const std::string heard = co_await read_line(process->std_out());
    REQUIRE(heard == said);
  }
  process->std_in()->close();
  const Outcome outcome = co_await communicate(*process);
  REQUIRE(outcome.exit.value == 0);
}

asio::awaitable<void> large(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  std::string data(16 << 20, '\0');
  std::mt19937_64 random(7);
  for (std::size_t i = 0; i < data.size(); i += 8) {
    const std::uint64_t value = random();
    std::copy_n(reinterpret_cast<const char*>(&value), 8, data.data() + i);
  }
  const Outcome outcome = co_await exec(*sandbox, command(words("cat")), data);
  REQUIRE((outcome.out == data));
  REQUIRE(outcome.exit.value == 0);
}

asio::awaitable<void> all_bytes(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  std::string data;
  for (int i = 0; i < 256; ++i) data += static_cast<char>(i);
  const Outcome outcome = co_await exec(*sandbox, command(words("cat")), data);
  REQUIRE((outcome.out == data));
}

asio::awaitable<void> unread_stdin(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  const Outcome outcome = co_await exec(*sandbox, command(sh("exit 3")), std::string(4 << 20, 'x'));
  REQUIRE(outcome.exit.kind == Kind::exited);
  REQUIRE(outcome.exit.value == 3);
}

// Without a write, and whatever else the process goes on to do.
asio::awaitable<void> closed_stdin(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  ProcessSpec spec = command(sh("exec 0<&-; echo closed; sleep 1000"));
  spec.use_stdin = true;
  auto process = co_await sandbox->start(spec);
  ByteSink& in = *process->std_in();
  error_code ec = co_await wait_broken(in);
  REQUIRE(ec == asio::error::broken_pipe);
  REQUIRE(in.arrived() == 0);
  REQUIRE(in.try_write(asio::buffer("x", 1), ec) == 0);
  REQUIRE(ec == asio::error::broken_pipe);
  const std::string line = co_await read_line(process->std_out());
  REQUIRE(line == "closed");
  process->signal_group(SIGKILL);
  const ExitInfo exit = co_await wait_exit(*process);
  REQUIRE(exit.value == SIGKILL);
}

asio::awaitable<void> arrival(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  // Somebody else has it too: it is not closed when the first lets go of it.
  ProcessSpec spec = command(sh("exec 3<&0; { read go <&3; exec 3<&-; sleep 1000; } & exec 0<&- 3<&-; echo ready; wait"));
  spec.use_stdin = true;
  auto process = co_await sandbox->start(spec);
  ByteSink& in = *process->std_in();
  std::string line = co_await read_line(process->std_out());
  REQUIRE(line == "ready");
  // Nobody reads it yet; the pipe has it.
  co_await write_all(in, "abc");
  error_code ec = co_await wait_arrived(in);
  REQUIRE(!ec);
  REQUIRE(in.arrived() == 3);
  co_await write_all(in, "\n");
  ec = co_await wait_broken(in);
  REQUIRE(ec == asio::error::broken_pipe);
  REQUIRE(in.arrived() == 4);
  ec = co_await wait_arrived(in);
  REQUIRE(!ec);
  process->signal_group(SIGKILL);
  const ExitInfo exit = co_await wait_exit(*process);
  REQUIRE(exit.value == SIGKILL);
}

// What is on its way when nobody reads any more has not arrived.
asio::awaitable<void> lost_input(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  ProcessSpec spec = command(words("sleep", "1000"));
  spec.use_stdin = true;
  auto process = co_await sandbox->start(spec);
  ByteSink& in = *process->std_in();
  const std::string data(4 << 20, 'x');
  std::size_t written = 0;
  error_code ec;
  while (!ec && written < data.size()) written += in.try_write(asio::buffer(data) + written, ec);
  REQUIRE(ec == asio::error::would_block);
  process->signal_group(SIGKILL);
  const error_code arrived = co_await wait_arrived(in);
  const ExitInfo exit = co_await wait_exit(*process);
  REQUIRE(exit.value == SIGKILL);
  ec = co_await wait_broken(in);
  REQUIRE(ec == asio::error::broken_pipe);
  REQUIRE(in.arrived() <= written);
  REQUIRE(in.arrived() <= (1u << 20));  // no pipe that a user may have holds more
  if (in.arrived() < written) {
    REQUIRE(arrived == asio::error::broken_pipe);
  } else {
    REQUIRE(!arrived);
  }
}

asio::awaitable<void> closed_output(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  auto process = co_await sandbox->start(command(words("cat", "/dev/zero")));
  process->std_out().close();
  const ExitInfo exit = co_await wait_exit(*process);
  REQUIRE(exit.kind == Kind::signaled);
  REQUIRE(exit.value == SIGPIPE);
}

asio::awaitable<void> environment(Runner& runner) {
  SandboxSpec made = sandbox_spec();
  made.env["FROM_SANDBOX"] = "s";
  made.env["BOTH"] = "sandbox";
  auto sandbox = co_await runner.create(made);
  ProcessSpec spec = command(words("env"));
  spec.env["BOTH"] = "process";
  spec.env["ODD"] = "a = b\nc";
  Outcome outcome = co_await exec(*sandbox, spec);
  REQUIRE(outcome.out.find("FROM_SANDBOX=s\n") != std::string::npos);
  REQUIRE(outcome.out.find("BOTH=process\n") != std::string::npos);
  REQUIRE(outcome.out.find("BOTH=sandbox") == std::string::npos);
  REQUIRE(outcome.out.find("ODD=a = b\nc\n") != std::string::npos);
  REQUIRE(outcome.out.find("PATH=") != std::string::npos);
  // What one process is given is not the next one's.
  outcome = co_await exec(*sandbox, command(words("env")));
  REQUIRE(outcome.out.find("BOTH=sandbox\n") != std::string::npos);
}

asio::awaitable<void> working_directory(Runner& runner) {
  SandboxSpec made = sandbox_spec();
  made.working_dir = "/tmp";
  auto sandbox = co_await runner.create(made);
  Outcome outcome = co_await exec(*sandbox, command(words("pwd")));
  REQUIRE(outcome.out == "/tmp\n");
  ProcessSpec spec = command(words("pwd"));
  spec.cwd = "/usr";
  outcome = co_await exec(*sandbox, spec);
  REQUIRE(outcome.out == "/usr\n");
}

asio::awaitable<StartFailed> failure_of(Sandbox& sandbox, ProcessSpec spec) {
  try {
    auto process = co_await sandbox.start(spec);
  } catch (const StartFailed& error) {
    co_return error;
  }
  throw std::runtime_error("it was started");
}

asio::awaitable<void> start_failures(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  StartFailed error = co_await failure_of(*sandbox, command(words("/no/such/program")));
  REQUIRE(error.error() == ENOENT);
  REQUIRE(error.what_failed() == "program");
  REQUIRE(std::string(error.what()).find("ENOENT") != std::string::npos);
  error = co_await failure_of(*sandbox, command(words("no-such-program")));
  REQUIRE(error.error() == ENOENT);
  error = co_await failure_of(*sandbox, command(words("/etc/passwd")));
  REQUIRE(error.error() == EACCES);
  error = co_await failure_of(*sandbox, command(words("/etc/passwd/x")));
  REQUIRE(error.error() == ENOTDIR);
  error = co_await failure_of(*sandbox, command(words("/tmp")));
  REQUIRE(error.error() == EACCES);
  Outcome made = co_await exec_sh(*sandbox, "echo nonsense > /tmp/text; chmod 755 /tmp/text");
  error = co_await failure_of(*sandbox, command(words("/tmp/text")));
  REQUIRE(error.error() == ENOEXEC);

  ProcessSpec spec = command(words("true"));
  spec.cwd = "/no/such/directory";
  error = co_await failure_of(*sandbox, spec);
  REQUIRE(error.error() == ENOENT);
  REQUIRE(error.what_failed() == "cwd");
  REQUIRE(std::string(error.what()).find("/no/such/directory") != std::string::npos);
  spec.cwd = "/etc/passwd";
  error = co_await failure_of(*sandbox, spec);
  REQUIRE(error.error() == ENOTDIR);
  REQUIRE(error.what_failed() == "cwd");

  ProcessSpec one_too_long = command(words("true"));
  one_too_long.command.emplace_back(200 << 10, 'x');  // MAX_ARG_STRLEN is 128 KiB
  error = co_await failure_of(*sandbox, one_too_long);
  REQUIRE(error.error() == E2BIG);
  REQUIRE(error.what_failed() == "program");
  ProcessSpec too_many = command(words("true"));
  too_many.command.insert(too_many.command.end(), 60, std::string(100 << 10, 'x'));
  error = co_await failure_of(*sandbox, too_many);
  REQUIRE(error.error() == E2BIG);

  // None of it has hurt the sandbox.
  const Outcome outcome = co_await exec_sh(*sandbox, "echo fine");
  REQUIRE(outcome.out == "fine\n");
}

asio::awaitable<void> long_arguments(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  ProcessSpec spec = command(sh("echo $#; printf %s \"$2\" | wc -c"));
  spec.command.emplace_back("sh");
  for (int i = 0; i < 15; ++i) spec.command.emplace_back(100 << 10, 'x');
  const Outcome outcome = co_await exec(*sandbox, spec);
  REQUIRE(outcome.out == "15\n102400\n");
}

asio::awaitable<std::string> refusal(Runner& runner, SandboxSpec spec) {
  try {
    auto sandbox = co_await runner.create(std::move(spec));
  } catch (const RunnerError& error) {
    co_return std::string(base::to_string(error.code()));
  }
  co_return std::string("made");
}

asio::awaitable<std::string> refusal(Sandbox& sandbox, ProcessSpec spec) {
  try {
    auto process = co_await sandbox.start(std::move(spec));
  } catch (const RunnerError& error) {
    co_return std::string(base::to_string(error.code()));
  }
  co_return std::string("started");
}

asio::awaitable<void> bad_requests(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  ProcessSpec spec;
  std::string code = co_await refusal(*sandbox, spec);
  REQUIRE(code == "invalid_argument");
  spec = command(words("true"));
  spec.command.emplace_back("a\0b", 3);
  code = co_await refusal(*sandbox, spec);
  REQUIRE(code == "invalid_argument");
  spec = command(words("true"));
  spec.cwd = "relative";
  code = co_await refusal(*sandbox, spec);
  REQUIRE(code == "invalid_argument");
  spec.cwd.clear();
  spec.env["A=B"] = "c";
  code = co_await refusal(*sandbox, spec);
  REQUIRE(code == "invalid_argument");
  SandboxSpec made = sandbox_spec();
  made.command.clear();
  code = co_await refusal(runner, made);
  REQUIRE(code == "invalid_argument");
}

asio::awaitable<void> main_cannot_start(Runner& runner) {
  SandboxSpec spec = sandbox_spec();
  spec.command = words("no-such-main");
  bool failed = false;
  try {
    auto sandbox = co_await runner.create(spec);
  } catch (const StartFailed& error) {
    failed = true;
    REQUIRE(error.error() == ENOENT);
    REQUIRE(error.what_failed() == "program");
  }
  REQUIRE(failed);
}

asio::awaitable<void> signals(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  auto process = co_await sandbox->start(command(
      sh("trap 'echo got; exit 5' USR1; sleep infinity & until grep -q sleep /proc/$!/comm; do :; done; echo ready; wait")));
  std::string line = co_await read_line(process->std_out());
  REQUIRE(line == "ready");
  process->signal_group(SIGUSR1);  // ends the sleep too
  const Outcome outcome = co_await communicate(*process);
  REQUIRE(outcome.out == "got\n");
  REQUIRE(outcome.exit.kind == Kind::exited);
  REQUIRE(outcome.exit.value == 5);
  process->signal_group(SIGKILL);  // to nobody: nothing happens
  process->signal_group(1000);
  process->signal_group(0);
}

asio::awaitable<void> group_kill(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  auto process = co_await sandbox->start(command(sh("(sleep infinity; true) & (sh -c 'sleep infinity; true') & echo ready; wait")));
  const std::string line = co_await read_line(process->std_out());
  REQUIRE(line == "ready");
  process->signal_group(SIGKILL);
  // The output ends only when every member of the group has gone.
  const Outcome outcome = co_await communicate(*process);
  REQUIRE(outcome.exit.kind == Kind::signaled);
  REQUIRE(outcome.exit.value == SIGKILL);
}

asio::awaitable<void> background_outlives_leader(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  ProcessSpec spec = command(sh("exec 3<&0; (read line; echo late $line; read line) <&3 & echo early; exit 4"));
  spec.use_stdin = true;
  auto process = co_await sandbox->start(spec);
  const std::string early = co_await read_line(process->std_out());
  REQUIRE(early == "early");
  const ExitInfo exit = co_await wait_exit(*process);
  REQUIRE(exit.value == 4);
  co_await write_all(*process->std_in(), "word\n");
  const std::string late = co_await read_line(process->std_out());
  REQUIRE(late == "late word");
  // A signal still reaches what is left of the group.
  process->signal_group(SIGKILL);
  const std::string rest = co_await read_all(process->std_out());
  REQUIRE(rest.empty());
}

asio::awaitable<void> stop_is_graceful(Runner& runner) {
  auto sandbox = co_await runner.create(graceful_spec());
  co_await main_is_ready(*sandbox);
  auto process = co_await sandbox->start(command(sh("trap 'echo bye; exit 6' TERM; sleep infinity & echo ready; wait")));
  const std::string ready = co_await read_line(process->std_out());
  REQUIRE(ready == "ready");
  co_await sandbox->stop(kHang);  // ends long before
  const Outcome outcome = co_await communicate(*process);
  REQUIRE(outcome.out == "bye\n");
  REQUIRE(outcome.exit.kind == Kind::exited);
  REQUIRE(outcome.exit.value == 6);
  const ExitInfo exit = co_await wait_exit(*sandbox);
  REQUIRE(exit.kind == Kind::exited);
  REQUIRE(exit.value == 0);
  const std::string code = co_await refusal(*sandbox, command(words("true")));
  REQUIRE(code == "unavailable");
  co_await sandbox->stop(milliseconds(0));  // again: done already
}

asio::awaitable<void> stop_escalates(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  auto process = co_await sandbox->start(command(sh("trap '' TERM; echo ready; while :; do sleep 1; done")));
  const std::string ready = co_await read_line(process->std_out());
  REQUIRE(ready == "ready");
  co_await sandbox->stop(milliseconds(100));
  const ExitInfo exit = co_await wait_exit(*process);
  REQUIRE(exit.kind == Kind::signaled);
  REQUIRE(exit.value == SIGKILL);
}

asio::awaitable<void> shorter_grace_wins(Runner& runner) {
  using namespace asio::experimental::awaitable_operators;
  SandboxSpec spec = sandbox_spec();
  spec.command = sh("trap '' TERM; touch /tmp/ready; while :; do sleep 1; done");
  auto sandbox = co_await runner.create(spec);
  const Outcome ready = co_await exec_sh(*sandbox, "while [ ! -e /tmp/ready ]; do sleep 0.01; done");
  auto both = sandbox->stop(std::chrono::hours(1)) && sandbox->stop(milliseconds(1));
  co_await std::move(both);
  const ExitInfo exit = co_await wait_exit(*sandbox);
  REQUIRE(exit.kind == Kind::signaled);
  REQUIRE(exit.value == SIGKILL);
}

asio::awaitable<void> main_ends_sandbox(Runner& runner) {
  SandboxSpec spec = sandbox_spec();
  spec.command = sh("while [ ! -e /tmp/go ]; do sleep 0.01; done; exit 9");
  auto sandbox = co_await runner.create(spec);
  auto process = co_await sandbox->start(command(words("sleep", "infinity")));
  const Outcome go = co_await exec_sh(*sandbox, "touch /tmp/go");
  const ExitInfo exit = co_await wait_exit(*sandbox);
  REQUIRE(exit.kind == Kind::exited);
  REQUIRE(exit.value == 9);
  const ExitInfo other = co_await wait_exit(*process);
  REQUIRE(other.kind != Kind::exited);
}

asio::awaitable<void> short_main(Runner& runner) {
  SandboxSpec spec = sandbox_spec();
  spec.command = words("true");
  auto sandbox = co_await runner.create(spec);
  const ExitInfo exit = co_await wait_exit(*sandbox);
  REQUIRE(exit.kind == Kind::exited);
  REQUIRE(exit.value == 0);
}

asio::awaitable<void> destroyed_while_running(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  ProcessSpec spec = command(words("sleep", "infinity"));  // that its input ends is not what ends it
  spec.use_stdin = true;
  auto process = co_await sandbox->start(spec);
  sandbox.reset();
  const Outcome outcome = co_await communicate(*process);  // both outputs end
  REQUIRE(outcome.exit.kind != Kind::exited);
}

asio::awaitable<void> count_one(Sandbox& sandbox, int& good) {
  ProcessSpec spec = command(words("cat"));
  spec.use_stdin = true;
  auto process = co_await sandbox.start(spec);
  const Outcome outcome = co_await communicate(*process, "hello");
  if (outcome.out == "hello" && outcome.exit.value == 0) ++good;
}

asio::awaitable<void> hundred_at_once(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  auto executor = co_await asio::this_coro::executor;
  std::vector<std::unique_ptr<Process>> processes;
  for (int i = 0; i < 100; ++i) {
    ProcessSpec spec = command(words("cat"));
    spec.use_stdin = true;
    processes.push_back(co_await sandbox->start(spec));
  }
  for (int i = 0; i < 100; ++i) {
    auto& process = processes[static_cast<std::size_t>(i)];
    const std::string said = std::to_string(i);
    co_await write_all(*process->std_in(), said + "\n");
    const std::string heard = co_await read_line(process->std_out());
    REQUIRE(heard == said);
  }
  for (auto& process : processes) {
    process->std_in()->close();
    const ExitInfo exit = co_await wait_exit(*process);
    REQUIRE(exit.value == 0);
  }
  // And started all at once, none waiting for another.
  int good = 0, left = 100;
  asio::steady_timer done(executor, asio::steady_timer::time_point::max());
  std::exception_ptr error;
  auto finished = [&](std::exception_ptr e) {
    if (e) error = e;
    if (--left == 0) done.cancel();
  };
  for (int i = 0; i < 100; ++i) asio::co_spawn(executor, count_one(*sandbox, good), finished);
  error_code ignored;
  auto token = asio::redirect_error(asio::use_awaitable, ignored);
  while (left > 0) co_await done.async_wait(token);
  if (error) std::rethrow_exception(error);
  REQUIRE(good == 100);
}

asio::awaitable<void> sandboxes_are_apart(Runner& runner) {
  auto one = co_await runner.create(sandbox_spec("one"));
  auto two = co_await runner.create(sandbox_spec("two"));
  Outcome outcome = co_await exec_sh(*one, "echo secret > /tmp/file; cat /tmp/file");
  REQUIRE(outcome.out == "secret\n");
  outcome = co_await exec_sh(*two, "cat /tmp/file");
  REQUIRE(outcome.exit.value != 0);
  REQUIRE(outcome.out.empty());
}

asio::awaitable<void> terminal(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  ProcessSpec spec =
      // A trapped signal ends the shell's read with nothing: it is asked again.
      command(sh("test -t 0 && test -t 1 && test -t 2 && echo tty; stty size; trap 'stty size' WINCH; echo ready; line=; "
                 "until [ -n \"$line\" ]; do read line; done; echo \"[$line]\"; "
                 "read line || echo end; echo x >/dev/tty"));
  spec.tty = true;
  spec.use_stdin = true;
  spec.tty_width = 81;
  spec.tty_height = 25;
  auto process = co_await sandbox->start(spec);
  REQUIRE(process->std_err() == nullptr);
  std::string line = co_await read_line(process->std_out());
  REQUIRE(line == "tty\r");
  line = co_await read_line(process->std_out());
  REQUIRE(line == "25 81\r");
  line = co_await read_line(process->std_out());
  REQUIRE(line == "ready\r");
  process->resize(100, 30);
  co_await write_all(*process->std_in(), "word\n");
  // Echo, the new size and the answer, in an order that is the terminal's.
  std::string text;
  while (text.find("[word]") == std::string::npos) {
    line = co_await read_line(process->std_out());
    text += line;
  }
  REQUIRE(text.find("word") != std::string::npos);
  process->std_in()->close();
  const std::string rest = co_await read_all(process->std_out());
  text += rest;
  REQUIRE(text.find("30 100") != std::string::npos);
  REQUIRE(text.find("end\r\nx\r\n") != std::string::npos);
  const ExitInfo exit = co_await wait_exit(*process);
  REQUIRE(exit.value == 0);
}

ProcessSpec on_terminal(std::string script) {
  ProcessSpec spec = command(sh(std::move(script)));
  spec.tty = spec.use_stdin = true;
  spec.tty_width = 80;
  spec.tty_height = 24;
  return spec;
}

asio::awaitable<void> terminal_ends_with_leader(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  // Nobody has it open, but its leader lives.
  auto process = co_await sandbox->start(on_terminal("exec 0<&- 1>&- 2>&-; sleep 0.1; echo y >/dev/tty; exit 7"));
  std::string text = co_await read_all(process->std_out());
  ExitInfo exit = co_await wait_exit(*process);
  REQUIRE(text == "y\r\n");
  REQUIRE(exit.kind == Kind::exited);
  REQUIRE(exit.value == 7);
  // Its leader has ended, but others have it open, and one of them goes on writing.
  process = co_await sandbox->start(on_terminal("trap '' HUP; sleep 1000 & echo up; exit 3"));
  text = co_await read_all(process->std_out());
  exit = co_await wait_exit(*process);
  REQUIRE(text == "up\r\n");
  REQUIRE(exit.value == 3);
  process = co_await sandbox->start(on_terminal("trap '' HUP; yes & exit 4"));
  text = co_await read_all(process->std_out());
  exit = co_await wait_exit(*process);
  REQUIRE(exit.value == 4);
}

asio::awaitable<void> terminal_end_of_input(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  for (const char* script :
       {"stty -echo; echo ready; cat", "stty raw -echo; echo ready; cat", "stty -echo; echo ready; cat; cat"}) {
    auto process = co_await sandbox->start(on_terminal(script));
    static_cast<void>(co_await read_line(process->std_out()));
    co_await write_all(*process->std_in(), "x");
    process->std_in()->close();
    const std::string text = co_await read_all(process->std_out());
    const ExitInfo exit = co_await wait_exit(*process);
    REQUIRE(text.find('x') != std::string::npos);
    REQUIRE(exit.kind == Kind::exited);
    REQUIRE(exit.value == 0);
  }
}

// What was written is known at the end, and when the group is gone, also while somebody outside of it holds the outputs.
asio::awaitable<void> what_is_left(Runner& runner) {
  auto sandbox = co_await runner.create(sandbox_spec());
  auto executor = co_await asio::this_coro::executor;
  auto process = co_await sandbox->start(
      command(sh("setsid sh -c 'touch /tmp/left; exec sleep 1000' & sleep 1000 & while [ ! -e /tmp/left ]; do sleep 0.01; done; "
                 "head -c 29999 /dev/zero | tr '\\0' x; echo; echo err >&2; exit 5")));
  bool gone = false;
  asio::steady_timer told(executor, asio::steady_timer::time_point::max());
  process->on_group_gone([&] {
    gone = true;
    told.cancel();
  });
  const ExitInfo exit = co_await wait_exit(*process);
  REQUIRE(exit.value == 5);
  REQUIRE(exit.written.has_value());
  REQUIRE((*exit.written)[0] == 30000);
  REQUIRE((*exit.written)[1] == 4);
  REQUIRE_FALSE(gone);
  process->signal_group(SIGKILL);
  error_code ignored;
  auto token = asio::redirect_error(asio::use_awaitable, ignored);
  while (!gone) co_await told.async_wait(token);
  const std::string out = co_await read_line(process->std_out());
  REQUIRE(out == std::string(29999, 'x'));
}

}  // namespace

const std::vector<RunnerCheck>& runner_checks() {
  static const std::vector<RunnerCheck> checks = {
      {"exit codes and signals", exits},
      {"stdout and stderr apart, and their names", streams_apart},
      {"without stdin, its end at once", no_stdin_is_eof},
      {"end of input is a half-close", half_close},
      {"echo, line by line", echo},
      {"16 MiB through cat", large},
      {"all byte values", all_bytes},
      {"an exit without reading stdin is a normal end", unread_stdin},
      {"a closed stdin is noticed without a write", closed_stdin},
      {"input has arrived when the process's pipe has it", arrival},
      {"input that nobody can read any more has not arrived", lost_input},
      {"a closed output is a broken pipe", closed_output},
      {"environment", environment},
      {"working directory", working_directory},
      {"what cannot be started says why", start_failures},
      {"long arguments", long_arguments},
      {"bad requests", bad_requests},
      {"a main command that cannot be started", main_cannot_start},
      {"signals", signals},
      {"a signal reaches the whole group", group_kill},
      {"what was left in the background", background_outlives_leader},
      {"stop is graceful", stop_is_graceful},
      {"stop escalates", stop_escalates},
      {"the shorter grace wins", shorter_grace_wins},
      {"the main command's end is the sandbox's", main_ends_sandbox},
      {"a main command that ends at once", short_main},
      {"a sandbox destroyed while it runs", destroyed_while_running},
      {"a hundred processes at once", hundred_at_once},
      {"sandboxes are apart", sandboxes_are_apart},
      {"terminal", terminal},
      {"a terminal ends with its leader", terminal_ends_with_leader},
      {"the end of a terminal's input", terminal_end_of_input},
      {"what is left when a process has ended", what_is_left},
  };
  return checks;
}

}  // namespace cwsandbox::test
