// Pods without the agent: against a server that runs what it is asked to for real, as the API server and a node would.
#include "runner/kubernetes/plain_sandbox.hpp"

#include <boost/asio/posix/stream_descriptor.hpp>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <deque>

#include "runner/harness.hpp"
#include "support.hpp"

using namespace cwsandbox::runner;
using namespace cwsandbox::runner::kubernetes;
using namespace cwsandbox::runner::kubernetes::test;
using cwsandbox::net::HttpRequest;
using cwsandbox::net::HttpResponse;
using cwsandbox::net::IncomingMessage;
using cwsandbox::net::WebSocket;
using cwsandbox::test::command;
using cwsandbox::test::communicate;
using cwsandbox::test::sh;
using cwsandbox::test::wait_exit;

namespace {

std::string decoded(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size()) {
      out += static_cast<char>(std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

// The values of one name in a query.
std::vector<std::string> values(const std::string& target, const std::string& name) {
  std::vector<std::string> out;
  std::istringstream query(target.substr(target.find('?') + 1));
  for (std::string pair; std::getline(query, pair, '&');) {
    if (pair.starts_with(name + "=")) out.push_back(decoded(pair.substr(name.size() + 1)));
  }
  return out;
}

struct Child {
  pid_t pid = -1;
  int in = -1, out = -1, err = -1;
};

// As a container's runtime does: the leader of a session of its own.
Child spawn(const std::vector<std::string>& words) {
  std::vector<char*> argv;
  for (const auto& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  int in[2], out[2], err[2];
  REQUIRE(::pipe2(in, O_CLOEXEC) == 0);
  REQUIRE(::pipe2(out, O_CLOEXEC) == 0);
  REQUIRE(::pipe2(err, O_CLOEXEC) == 0);
  Child child;
  child.pid = ::fork();
  if (child.pid == 0) {
    ::setsid();
    ::dup2(in[0], 0);
    ::dup2(out[1], 1);
    ::dup2(err[1], 2);
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  ::close(in[0]);
  ::close(out[1]);
  ::close(err[1]);
  child.in = in[1];
  child.out = out[0];
  child.err = err[0];
  return child;
}

using Descriptor = asio::posix::stream_descriptor;

// An API server and a node: execs are run, the log is what `log` says so far.
struct Node : Site {
  explicit Node(std::string speaks) : protocol(std::move(speaks)) {
    hooks.decide = [this](const HttpRequest& request, const std::vector<std::string>&) {
      targets.push_back(request.target);
      waiting.push_back(request.target);
      cwsandbox::net::HttpHandler::UpgradeDecision out;
      out.subprotocol = protocol;
      out.limits = hooks.limits;
      return out;
    };
    hooks.opened = [this](std::unique_ptr<WebSocket> socket) {
      const std::string target = waiting.front();
      waiting.pop_front();
      auto executor = socket->executor();
      asio::co_spawn(executor, serve(std::move(socket), target, missing_shell), asio::detached);
    };
    hooks.on_request = [this](const HttpRequest& request) -> asio::awaitable<HttpResponse> {
      logs.push_back(request.target);
      HttpResponse out;
      if (log.empty()) out.status = 500;
      out.body = log;
      co_return out;
    };
    ClusterAccess access;
    access.endpoint = endpoint_of(address);
    client = std::make_shared<ApiClient>(context.get_executor(), access);
  }

  static asio::awaitable<void> feed(std::shared_ptr<WebSocket> socket, int fd) {
    Descriptor in(socket->executor(), fd);
    IncomingMessage message;
    for (;;) {
      if (co_await read(*socket, message)) co_return;
      if (message.empty()) continue;
      if (message.channel() == 255) in.close();
      if (message.channel() != 0) continue;
      const std::string bytes = message.take();
      error_code ec;
      auto token = asio::redirect_error(asio::use_awaitable, ec);
      const auto buffer = asio::buffer(bytes);
      co_await asio::async_write(in, buffer, token);
    }
  }
  static asio::awaitable<void> pass_on(WebSocket& socket, int fd, char channel) {
    Descriptor from(socket.executor(), fd);
    std::string bytes(32768, '\0');
    for (;;) {
      error_code ec;
      auto token = asio::redirect_error(asio::use_awaitable, ec);
      const auto buffer = asio::buffer(bytes);
      const std::size_t n = co_await from.async_read_some(buffer, token);
      if (ec) co_return;
      const std::string_view head(&channel, 1);
      if (co_await write(socket, head, std::string_view(bytes).substr(0, n))) co_return;
    }
  }
  static asio::awaitable<void> serve(std::unique_ptr<WebSocket> one, std::string target, bool no_shell) {
    const std::shared_ptr<WebSocket> socket = std::move(one);
    std::string status(1, '\3');
    if (no_shell) {
      status +=
          R"({"metadata":{},"status":"Failure","message":"exec: \"sh\": executable file not found","reason":"InternalError"})";
    } else {
      const Child child = spawn(values(target, "command"));
      asio::co_spawn(socket->executor(), feed(socket, child.in), asio::detached);
      co_await write(*socket, "\1");
      co_await pass_on(*socket, child.out, 1);
      co_await pass_on(*socket, child.err, 2);
      int ended = 0;
      ::waitpid(child.pid, &ended, 0);
      const int code = WIFEXITED(ended) ? WEXITSTATUS(ended) : 128 + WTERMSIG(ended);
      status +=
          code == 0
              ? std::string(R"({"metadata":{},"status":"Success"})")
              : R"({"metadata":{},"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":")" +
                    std::to_string(code) + R"("}]}})";
    }
    co_await write(*socket, status);
    co_await close(*socket, 1000, "");
  }

  std::unique_ptr<PlainSandbox> sandbox() {
    return std::make_unique<PlainSandbox>(client, "ns", "p", [this](const std::string& line) { said += line + "\n"; });
  }

  std::string protocol, log, said;
  bool missing_shell = false;
  std::vector<std::string> targets, logs;
  std::deque<std::string> waiting;
  std::shared_ptr<ApiClient> client;
};

// Why a start was refused.
asio::awaitable<std::string> refusal(PlainSandbox& sandbox, ProcessSpec spec, std::string& code) {
  std::string text;
  try {
    auto started = sandbox.start(std::move(spec));
    static_cast<void>(co_await std::move(started));
  } catch (const RunnerError& e) {
    code = cwsandbox::base::to_string(e.code());
    text = e.what();
  }
  co_return text;
}

}  // namespace

TEST_CASE("a plain pod: a process has its words, variables and directory exactly, and none of them is in a URL", "[kubernetes]") {
  Node node("v5.channel.k8s.io");
  auto sandbox = node.sandbox();
  const std::vector<std::string> words = {"it's", "$(echo no) `echo no` $HOME", "two\nlines\n.\n", "", "-n", "\xff\x01 \\"};
  auto body = [&]() -> asio::awaitable<void> {
    ProcessSpec spec = command(sh("printf '%s\\0' \"$@\" \"$SECRET\" \"$PWD\"; echo complaint >&2; exit 7"));
    spec.command.emplace_back("sh");
    spec.command.insert(spec.command.end(), words.begin(), words.end());
    spec.env["SECRET"] = "s3cret 'x'\n$y";
    spec.cwd = "/usr/share";
    auto starting = sandbox->start(std::move(spec));
    const auto process = co_await std::move(starting);
    CHECK(process->pid() > 1);
    CHECK(process->std_in() == nullptr);
    auto talking = communicate(*process);
    const auto outcome = co_await std::move(talking);
    std::string expected;
    for (const auto& word : words) expected += word + '\0';
    expected += "s3cret 'x'\n$y" + std::string(1, '\0') + "/usr/share" + '\0';
    CHECK((outcome.out == expected));
    CHECK(outcome.err == "complaint\n");
    CHECK(outcome.exit.kind == ExitInfo::Kind::exited);
    CHECK(outcome.exit.value == 7);
  };
  run(node.context, body);
  REQUIRE(node.targets.size() == 1);
  CHECK_FALSE(holds(decoded(node.targets[0]), "s3cret"));
  CHECK_FALSE(holds(decoded(node.targets[0]), "complaint"));
}

TEST_CASE("a plain pod: input of any size goes in and ends, and a process without input reads its end", "[kubernetes]") {
  Node node("v5.channel.k8s.io");
  auto sandbox = node.sandbox();
  std::string data(3'000'001, 'x');
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 7 + i / 251);
  auto body = [&]() -> asio::awaitable<void> {
    ProcessSpec spec = command({"cat"});
    spec.use_stdin = true;
    auto starting = sandbox->start(std::move(spec));
    const auto process = co_await std::move(starting);
    auto talking = communicate(*process, data);
    const auto outcome = co_await std::move(talking);
    CHECK((outcome.out == data));
    CHECK(outcome.exit.value == 0);
    ProcessSpec none = command({"cat"});
    auto again = sandbox->start(std::move(none));
    const auto other = co_await std::move(again);
    auto listening = communicate(*other);
    const auto nothing = co_await std::move(listening);
    CHECK(nothing.out.empty());
    CHECK(nothing.exit.kind == ExitInfo::Kind::exited);
  };
  run(node.context, body);
}

TEST_CASE("a plain pod: input has arrived when the cluster has it, and nobody reads it after the process's end", "[kubernetes]") {
  Node node("v5.channel.k8s.io");
  auto sandbox = node.sandbox();
  auto body = [&]() -> asio::awaitable<void> {
    ProcessSpec spec = command({"sleep", "infinity"});
    spec.use_stdin = true;
    auto starting = sandbox->start(spec);
    const auto process = co_await std::move(starting);
    auto& in = *process->std_in();
    auto writing = cwsandbox::test::write_all(in, "abc");
    co_await std::move(writing);
    auto arriving = cwsandbox::test::wait_arrived(in);
    const error_code arrived = co_await std::move(arriving);
    CHECK(!arrived);
    CHECK(in.arrived() == 3);
    process->signal_group(SIGKILL);
    auto breaking = cwsandbox::test::wait_broken(in);
    const error_code broken = co_await std::move(breaking);
    CHECK(broken == asio::error::broken_pipe);
    error_code ec;
    CHECK(in.try_write(asio::buffer("x", 1), ec) == 0);
    CHECK(ec == asio::error::broken_pipe);
    CHECK(in.arrived() == 3);
    // Nobody waits for ever for one that has been ended.
    auto again = sandbox->start(std::move(spec));
    const auto other = co_await std::move(again);
    other->std_in()->close();
    auto closing = cwsandbox::test::wait_broken(*other->std_in());
    const error_code closed = co_await std::move(closing);
    CHECK(closed == asio::error::operation_aborted);
    other->signal_group(SIGKILL);
    auto ending = wait_exit(*other);
    static_cast<void>(co_await std::move(ending));
  };
  run(node.context, body);
}

TEST_CASE("a plain pod: what it cannot do is refused by name", "[kubernetes]") {
  const bool v5 = GENERATE(true, false);
  Node node(v5 ? "v5.channel.k8s.io" : "v4.channel.k8s.io");
  auto sandbox = node.sandbox();
  auto body = [&]() -> asio::awaitable<void> {
    std::string code;
    if (!v5) {
      ProcessSpec input = command({"cat"});
      input.use_stdin = true;
      auto asked = refusal(*sandbox, std::move(input), code);
      const std::string text = co_await std::move(asked);
      CHECK(code == "unimplemented");
      CHECK(holds(text, "v4.channel.k8s.io"));
      CHECK(holds(text, "input"));
    }
    ProcessSpec terminal = command({"cat"});
    terminal.tty = true;
    terminal.env["A"] = "s3cret";
    auto asked = refusal(*sandbox, std::move(terminal), code);
    std::string text = co_await std::move(asked);
    CHECK(code == "unimplemented");
    CHECK(holds(text, "terminal"));
    CHECK_FALSE(holds(text, "s3cret"));
    ProcessSpec odd = command({"true"});
    odd.env["A;touch /tmp/no"] = "";
    asked = refusal(*sandbox, std::move(odd), code);
    text = co_await std::move(asked);
    CHECK(code == "unimplemented");
    ProcessSpec relative = command({"true"});
    relative.cwd = "tmp";
    asked = refusal(*sandbox, std::move(relative), code);
    text = co_await std::move(asked);
    CHECK(code == "invalid_argument");
    std::string files;
    try {
      auto opened = sandbox->files().open("/etc/passwd");
    } catch (const RunnerError& e) {
      files = cwsandbox::base::to_string(e.code());
    }
    CHECK(files == "failed_precondition");
  };
  run(node.context, body);
}

TEST_CASE("a plain pod: what does not start says why", "[kubernetes]") {
  Node node("v4.channel.k8s.io");
  auto sandbox = node.sandbox();
  auto body = [&]() -> asio::awaitable<void> {
    std::string code;
    ProcessSpec missing = command({"/no/such/program"});
    auto asked = refusal(*sandbox, std::move(missing), code);
    std::string text = co_await std::move(asked);
    CHECK(code == "failed_precondition");
    CHECK(holds(text, "/no/such/program"));
    ProcessSpec nowhere = command({"true"});
    nowhere.cwd = "/no/such/folder";
    asked = refusal(*sandbox, std::move(nowhere), code);
    text = co_await std::move(asked);
    CHECK(holds(text, "working directory"));
    node.missing_shell = true;
    ProcessSpec shell_less = command({"true"});
    asked = refusal(*sandbox, std::move(shell_less), code);
    text = co_await std::move(asked);
    CHECK(code == "failed_precondition");
    CHECK(holds(text, "executable file not found"));
    CHECK(holds(text, "a shell (sh)"));
  };
  run(node.context, body);
}

TEST_CASE("a plain pod: a signal reaches the process and what it has started", "[kubernetes]") {
  Node node("v4.channel.k8s.io");
  auto sandbox = node.sandbox();
  auto body = [&]() -> asio::awaitable<void> {
    ProcessSpec spec = command(sh("sleep infinity & echo $!; wait"));
    auto starting = sandbox->start(std::move(spec));
    const auto process = co_await std::move(starting);
    auto first = cwsandbox::test::read_line(process->std_out());
    const std::string child = co_await std::move(first);
    CHECK(::kill(std::stoi(child), 0) == 0);
    process->signal_group(SIGKILL);
    auto waiting = wait_exit(*process);
    const auto exit = co_await std::move(waiting);
    CHECK(exit.kind == ExitInfo::Kind::exited);  // all that the cluster says
    CHECK(exit.value == 137);
    // The status came only after the child had let go of its output; nobody reaps it here but init.
    asio::steady_timer turn(node.context);
    bool gone = false;
    for (auto limit = soon(); !gone && Clock::now() < limit;) {
      gone = ::kill(std::stoi(child), 0) != 0 || holds(read_file("/proc/" + child + "/stat"), ") Z ");
      turn.expires_after(1ms);
      co_await turn.async_wait(asio::use_awaitable);
    }
    CHECK(gone);
  };
  run(node.context, body);
}

TEST_CASE("a plain pod: the log is the main command's output, once, however often its connection ends", "[kubernetes]") {
  Node node("v4.channel.k8s.io");
  node.log = "one\n";
  auto sandbox = node.sandbox();
  auto body = [&]() -> asio::awaitable<void> {
    auto reading = cwsandbox::test::read_line(sandbox->main_stdout());
    const std::string one = co_await std::move(reading);
    CHECK(one == "one");
    node.log = "one\ntwo\n";
    auto more = cwsandbox::test::read_line(sandbox->main_stdout());
    const std::string two = co_await std::move(more);
    CHECK(two == "two");
    // What was said while the log could not be had is read when all has ended.
    node.log.clear();
    const auto before = node.logs.size();
    asio::steady_timer turn(node.context);
    for (auto limit = soon(); node.logs.size() < before + 2 && Clock::now() < limit;) {
      turn.expires_after(1ms);
      co_await turn.async_wait(asio::use_awaitable);
    }
    node.log = "one\ntwo\nlast";
    ExitInfo end;
    end.kind = ExitInfo::Kind::exited;
    end.value = 3;
    sandbox->place_gone(end);
    auto rest = cwsandbox::test::read_all(sandbox->main_stdout());
    const std::string last = co_await std::move(rest);
    CHECK(last == "last");
    auto none = cwsandbox::test::read_all(sandbox->main_stderr());
    const std::string errors = co_await std::move(none);
    CHECK(errors.empty());
    auto waiting = wait_exit(*sandbox);
    const auto exit = co_await std::move(waiting);
    CHECK(exit.value == 3);
    auto stopping = sandbox->stop(1s);
    co_await std::move(stopping);
  };
  run(node.context, body);
  CHECK(holds(node.logs.front(), "/pods/p/log?container=main&follow=true"));
}

TEST_CASE("a plain pod that goes takes its processes with it, and they are told first", "[kubernetes]") {
  Node node("v4.channel.k8s.io");
  auto sandbox = node.sandbox();
  auto body = [&]() -> asio::awaitable<void> {
    ProcessSpec spec = command(sh("echo $$; exec sleep infinity"));
    auto starting = sandbox->start(std::move(spec));
    const auto process = co_await std::move(starting);
    auto first = cwsandbox::test::read_line(process->std_out());
    const std::string pid = co_await std::move(first);
    CHECK(std::to_string(process->pid()) == pid);
    std::string order;
    process->on_exit([&](const ExitInfo& info) { order += info.kind == ExitInfo::Kind::lost ? 'l' : '?'; });
    sandbox->place_gone(std::nullopt);
    auto waiting = wait_exit(*sandbox);
    const auto exit = co_await std::move(waiting);
    CHECK(exit.kind == ExitInfo::Kind::lost);
    CHECK(order == "l");
    std::string code;
    ProcessSpec late = command({"true"});
    auto asked = refusal(*sandbox, std::move(late), code);
    static_cast<void>(co_await std::move(asked));
    CHECK(code == "unavailable");
    ::kill(std::stoi(pid), SIGKILL);  // the node would
  };
  run(node.context, body);
}
