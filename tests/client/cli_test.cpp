// The built command-line client, in real pipes.
#include "cli_support.hpp"

#include <csignal>
#include <thread>

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

using namespace support;

namespace {

Ran cli(std::vector<std::string> arguments, const std::string& input = "", const std::vector<std::string>& env = {}) {
  arguments.insert(arguments.begin(), environment("CWSANDBOX_CLI"));
  return run_program(arguments, input, env);
}

}  // namespace

TEST_CASE("run behaves as the command does", "[CL-1]") {
  const auto both = cli({"run", "--", "sh", "-c", "echo out; echo err >&2; exit 7"});
  CHECK(both.out == "out\n");
  CHECK(both.err == "err\n");
  CHECK(code(both) == 7);
  CHECK(code(cli({"run", "--", "true"})) == 0);
  CHECK(code(cli({"run", "--", "sh", "-c", "kill -TERM $$"})) == 128 + SIGTERM);
  CHECK(cli({"run", "--env", "A=1", "-e", "B=two words", "--cwd", "/tmp", "--", "sh", "-c", "echo $A $B; pwd"}).out ==
        "1 two words\n/tmp\n");
  CHECK(cli({"run", "--", "echo", "--not-an-option", "-x"}).out == "--not-an-option -x\n");
}

TEST_CASE("what a command leaves in the background does not keep it", "[CL-1][EX-19]") {
  // Nobody would live to see the end of these sleeps.
  const auto ended = cli({"run", "--", "sh", "-c", "sleep 100000 & echo done; exit 3"});
  CHECK(ended.out == "done\n");
  CHECK(code(ended) == 3);
  CHECK(ended.err.find("still holds stdout and stderr") != std::string::npos);
  const auto redirected = cli({"run", "--drain", "100000", "--", "sh", "-c", "sleep 100000 >/dev/null 2>&1 & echo done"});
  CHECK(redirected.out == "done\n");
  CHECK(redirected.err.empty());
  // To the last, with 0.
  const auto last = cli({"run", "--drain", "0", "--", "sh", "-c", "(sleep 1.5; echo late) & echo done"});
  CHECK(last.out == "done\nlate\n");
  CHECK(last.err.empty());
  CHECK(code(cli({"run", "--drain", "-1", "--", "true"})) == 125);
}

TEST_CASE("a command that its sandbox took with it says so", "[CL-1][EX-18]") {
  Daemon daemon;
  const std::vector<std::string> env = {"CWSANDBOX_BASE_URL=" + daemon.url(), "CWSANDBOX_API_KEY=" + daemon.token()};
  const auto made = cli({"run", "-d", "--", "sh", "-c", "while [ ! -e /tmp/go ]; do sleep 0.01; done"}, "", env);
  const std::string id = made.out.substr(0, made.out.find('\n'));
  const auto ended = cli({"exec", id, "--", "sh", "-c", "touch /tmp/go; exec sleep 1000"}, "", env);
  CHECK(code(ended) == 128 + SIGTERM);
  CHECK(ended.err.find("main command has ended") != std::string::npos);
}

TEST_CASE("errors: one line, documented codes", "[CL-1]") {
  const auto missing = cli({"run", "--", "no-such-program"});
  CHECK(code(missing) == 127);
  CHECK(missing.err.rfind("cwsandbox: ", 0) == 0);
  CHECK(std::count(missing.err.begin(), missing.err.end(), '\n') == 1);
  CHECK(code(cli({"run", "--", "/etc/passwd"})) == 126);
  CHECK(code(cli({"run", "--cwd", "/no/such/place", "--", "true"})) == 126);
  CHECK(code(cli({"run", "--cwd", "relative", "--", "true"})) == 125);
  CHECK(code(cli({"run", "--env", "nonsense", "--", "true"})) == 125);
  CHECK(code(cli({"run", "--timeout", "0.3", "--", "sleep", "1000"})) == 124);
  CHECK(code(cli({"run", "--image", "other", "--", "true"})) == 125);
  CHECK(code(cli({"--base-url", "ftp://x", "ls"})) == 125);
  CHECK(code(cli({"run"})) == 125);
  CHECK(code(cli({"nonsense"})) == 125);
  CHECK(code(cli({"--version"})) == 0);
}

TEST_CASE("run --detach: a sandbox that stays, its id to work with", "[CL-1]") {
  Daemon daemon;
  const std::vector<std::string> env = {"CWSANDBOX_BASE_URL=" + daemon.url(), "CWSANDBOX_API_KEY=" + daemon.token()};
  const auto made =
      cli({"run", "-d", "-e", "WHO=me", "-C", "/tmp", "--tag", "nightly", "--", "sh", "-c", "echo $WHO in $PWD; exec sleep 1000"},
          "", env);
  REQUIRE(code(made) == 0);
  REQUIRE(std::count(made.out.begin(), made.out.end(), '\n') == 1);
  const std::string id = made.out.substr(0, made.out.size() - 1);
  CHECK(cli({"ls", "--tag", "nightly", "--output", "ids"}, "", env).out == id + "\n");
  CHECK(cli({"exec", id, "--", "cat"}, "through\n", env).out == "through\n");
  CHECK(code(cli({"stop", id}, "", env)) == 0);
  CHECK(cli({"logs", id}, "", env).out == "me in /tmp\n");

  const auto json = cli({"run", "--detach", "-o", "json", "--", "sleep", "1000"}, "", env);
  CHECK(json.out.find("\"sandbox_id\": \"") != std::string::npos);
  CHECK(code(cli({"run", "-d", "--", "no-such-program"}, "", env)) == 125);
  CHECK(code(cli({"run", "-d", "-i", "--", "cat"}, "", env)) == 125);
  // A sandbox of the program's own would end with it.
  const auto local = cli({"--base-url", "local:", "run", "-d", "--", "sleep", "1"});
  CHECK(code(local) == 125);
  CHECK(local.err.find("gateway") != std::string::npos);
}

TEST_CASE("stdin, through and through", "[CL-1][IO-8]") {
  std::string input;
  for (int i = 0; i < 3'000'000; ++i) input += static_cast<char>(i * 31 + i / 256);
  const auto ran = cli({"run", "--stdin", "--", "cat"}, input);
  CHECK(code(ran) == 0);
  CHECK((ran.out == input));
  // One that does not read all of it.
  const auto some = cli({"run", "-i", "--", "head", "-c", "10"}, input);
  CHECK(code(some) == 0);
  CHECK((some.out == input.substr(0, 10)));
}

TEST_CASE("a process that reads no more stops the reading, and is no failure", "[CL-1][SW-19]") {
  Daemon daemon;
  const cwsandbox::Client client(daemon.options());
  const auto sandbox = Sandbox::run(client);
  sandbox.start().result();
  const std::vector<std::string> env = {"CWSANDBOX_BASE_URL=" + daemon.url(), "CWSANDBOX_API_KEY=" + daemon.token()};
  const std::string exec = environment("CWSANDBOX_CLI") + " exec " + *sandbox.sandbox_id() + " -- ";
  // It ends by itself: so does this.
  const auto head = run_program({"/bin/sh", "-c", "yes 2>/dev/null | " + exec + "head -n 1; echo $? >&2"}, "", env);
  CHECK(head.out == "y\n");
  CHECK(head.err == "0\n");
  // It goes on without its stdin: what comes is not read only to be dropped. Whoever writes it stands still, and is not done.
  const auto closes = run_program({"/bin/sh", "-c",
                                   "{ head -c 1000000000 /dev/zero 2>/dev/null; echo writer $? >&2; } | " + exec +
                                       "sh -c 'exec <&-; sleep 1; exit 3'; echo $? >&2"},
                                  "", env);
  CHECK(closes.out.empty());
  CHECK(closes.err.find("writer 0\n") == std::string::npos);
  CHECK(closes.err.find("writer ") != std::string::npos);
  CHECK(closes.err.find("\n3\n") != std::string::npos);
  CHECK(closes.err.find("cwsandbox:") == std::string::npos);
}

TEST_CASE("a pipeline around exec; ls and stop", "[CL-1]") {
  Daemon daemon;
  const cwsandbox::Client client(daemon.options());
  const auto sandbox = Sandbox::run(client, cwsandbox::SandboxOptions().with_tag("cli"));
  sandbox.start().result();
  const std::string id = *sandbox.sandbox_id();
  const std::vector<std::string> env = {"CWSANDBOX_BASE_URL=" + daemon.url(), "CWSANDBOX_API_KEY=" + daemon.token()};
  const std::string program = environment("CWSANDBOX_CLI");

  const auto piped = run_program(
      {"/bin/sh", "-c", "printf 'b\\na\\nb\\n' | " + program + " exec " + id + " -- sort | uniq -c | tr -s ' '"}, "", env);
  CHECK(piped.out == " 1 a\n 2 b\n");
  // A reader that goes away ends it all, quietly.
  const auto broken = run_program({"/bin/sh", "-c", "(" + program + " exec " + id + " -- yes; echo $? >&2) | head -n 1"}, "", env);
  CHECK(broken.out == "y\n");
  CHECK(broken.err == "141\n");

  const auto list = cli({"ls"}, "", env);
  CHECK(list.out.find(id) != std::string::npos);
  CHECK(list.out.find(daemon.token()) == std::string::npos);
  const auto json = cli({"ls", "--output", "json", "--tag", "cli"}, "", env);
  CHECK(json.out.find("\"sandbox_id\": \"" + id + "\"") != std::string::npos);
  CHECK(cli({"ls", "--output", "json", "--tag", "other"}, "", env).out == "[]\n");
  CHECK(code(cli({"exec", "sb-unknown", "--", "true"}, "", env)) == 125);
  CHECK(code(cli({"stop", id, "sb-unknown"}, "", env)) == 125);
  CHECK(cli({"ls"}, "", env).out == "");
  CHECK(code(cli({"ls"}, "", {"CWSANDBOX_BASE_URL=" + daemon.url(), "CWSANDBOX_API_KEY=wrong"})) == 125);
}

TEST_CASE("Ctrl-C reaches the process", "[CL-1]") {
  for (const int signal : {SIGINT, SIGTERM}) {
    int out[2];
    REQUIRE(::pipe2(out, O_CLOEXEC) == 0);
    const std::string program = environment("CWSANDBOX_CLI");
    const std::string script =
        "trap 'echo got INT; exit 3' INT; trap 'echo got TERM; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    std::vector<const char*> arguments{program.c_str(), "run", "--", "sh", "-c", script.c_str(), nullptr};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    pid_t pid = -1;
    REQUIRE(::posix_spawn(&pid, program.c_str(), &actions, nullptr, const_cast<char**>(arguments.data()), environ) == 0);
    posix_spawn_file_actions_destroy(&actions);
    ::close(out[1]);
    std::string text;
    char c = 0;
    while (text.find('\n') == std::string::npos && ::read(out[0], &c, 1) == 1) text += c;
    CHECK(text == "ready\n");
    ::kill(pid, signal);
    while (::read(out[0], &c, 1) == 1) text += c;
    ::close(out[0]);
    int status = -1;
    ::waitpid(pid, &status, 0);
    CHECK(text == (signal == SIGINT ? "ready\ngot INT\n" : "ready\ngot TERM\n"));
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 3);  // it made something of it, and ended by itself
  }
}
