// What the command line may say; and standard input and output that are not what they should be.
#include "cli_support.hpp"

#include <csignal>

using namespace support;

TEST_CASE("-- before operands", "[CL-1][CL-7]") {
  const Place place(cwsandbox::SandboxOptions().with_command(shell("echo line; exec sleep 1000")));
  write(place.here("-dash"), "dashed");
  CHECK(code(place.shell("cd '" + place.here("") + "' && \"$CLI\" cp -- -dash \"$ID:/tmp/x\"")) == 0);
  CHECK(place.sandbox.read_file("/tmp/x").result() == "dashed");
  CHECK(place.cli({"cp", "--", place.there("/tmp/x"), "-"}).out == "dashed");
  CHECK(place.cli({"get", "--", place.id}).out.find(place.id) != std::string::npos);
  CHECK(place.cli({"logs", "--tail", "1", "--", place.id}).out == "line\n");
  CHECK(place.cli({"--base-url", place.daemon.url(), "ls", "-o", "ids", "--"}).out == place.id + "\n");
  CHECK(place.cli({"completion", "--", "zsh"}).out.rfind("#compdef", 0) == 0);
  CHECK(place.cli({"exec", place.id, "--", "echo", "--", "-n"}).out == "-- -n\n");  // the first is ours, the rest is the command's
  CHECK(code(place.cli({"ls", "--", "more"})) == 125);
  CHECK(code(place.cli({"get", "--"})) == 125);
  CHECK(code(place.cli({"exec", place.id, "--"})) == 125);
  CHECK(code(place.cli({"stop", "--grace", "0", "--", place.id})) == 0);
  CHECK(code(place.cli({"delete", "--missing-ok", "--", "sb-unknown"})) == 0);
}

TEST_CASE("seconds are finite numbers within bounds, and what is wrong with one is said", "[CL-1][CL-7]") {
  const auto cli = [](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), environment("CWSANDBOX_CLI"));
    return run_program(arguments);
  };
  for (const char* wrong : {"0", "-1", "nan", "inf", "-nan", "1e300", "1e999", "0x10", "ten", "1s", "", "0.0001"}) {
    INFO(wrong);
    const auto ran = cli({"run", "--timeout", wrong, "--", "true"});
    CHECK(code(ran) == 125);
    CHECK(ran.err.find("--timeout") != std::string::npos);
    CHECK(ran.err.size() < 160);
  }
  for (const char* wrong : {"-1", "nan", "inf", "86401"}) {
    CHECK(cli({"stop", "--grace", wrong, "sb-unknown"}).err.find("--grace") != std::string::npos);
    CHECK(cli({"run", "--resume-grace", wrong, "--", "true"}).err.find("--resume-grace") != std::string::npos);
  }
  CHECK(code(cli({"run", "--timeout", "1e9", "--", "true"})) == 0);
  CHECK(code(cli({"run", "--timeout", "0.25", "--", "sleep", "1000"})) == 124);
  for (const char* wrong : {"", "ab", "^^^", "NONE"}) CHECK(code(cli({"run", "--escape-char", wrong, "--", "true"})) == 125);
  for (const char* right : {"none", "^]", "%", "^"}) CHECK(code(cli({"run", "--escape-char", right, "--", "true"})) == 0);
}

TEST_CASE("exec -n leaves standard input to others; a device is passed on", "[CL-1][CL-7]") {
  const Place place;
  const auto loop = place.shell("printf 'a\\nb\\nc\\n' | while read line; do \"$CLI\" exec -n \"$ID\" -- echo \"got $line\"; done");
  CHECK(loop.out == "got a\ngot b\ngot c\n");
  CHECK(place.shell("printf x | \"$CLI\" exec --no-stdin \"$ID\" -- cat").out == "");
  CHECK(place.shell("printf x | \"$CLI\" run -n -- cat").out == "");
  CHECK(code(place.cli({"exec", "-n", "-i", place.id, "--", "true"})) == 125);
  CHECK(code(place.cli({"exec", "-n", "-t", place.id, "--", "true"})) == 125);
  CHECK(place.shell("\"$CLI\" exec \"$ID\" -- head -c 3 </dev/zero | od -An -tx1 | tr -d ' \\n'").out == "000000");
  CHECK(place.shell("\"$CLI\" exec \"$ID\" -- cat </dev/null").out == "");
}

TEST_CASE("output that cannot be written is said by every command, with the reason", "[CL-1][CL-4]") {
  const Place place(cwsandbox::SandboxOptions().with_command(shell("seq 200000; exec sleep 1000")));
  // More of it than a pipe takes.
  const auto logs = place.sandbox.stream_logs(cwsandbox::LogOptions().with_follow());
  while (logs.next().result(60s)->text != "200000") continue;
  place.sandbox.write_file("/tmp/x", "content").result();
  for (const char* command :
       {"exec \"$ID\" -- seq 100000", "exec \"$ID\" -- echo", "exec -t \"$ID\" -- seq 100000", "run -- echo", "ls", "ls -o json",
        "get \"$ID\"", "logs \"$ID\"", "logs -o json \"$ID\"", "cp \"$ID:/tmp/x\" -",
        "cp -o json \"$ID:/tmp/x\" /dev/../tmp/cws-full", "delete -o json --missing-ok sb-unknown", "run -d -- sleep 1000",
        "run -d -- sh -c 'trap \"\" TERM; while :; do sleep 1; done'", "completion bash", "--help", "cp --help", "--version"}) {
    INFO(command);
    const auto ran =
        place.shell("\"$CLI\" " + std::string(command) + " >/dev/full </dev/null; code=$?; rm -f /tmp/cws-full; exit $code");
    CHECK(code(ran) == 125);
    CHECK(ran.err.find("cannot write to standard output: No space left on device") != std::string::npos);
    CHECK(std::count(ran.err.begin(), ran.err.end(), '\n') == 1);
  }
  // The sandboxes whose ids could not be said are gone, whatever they do about it.
  CHECK(place.cli({"ls", "-o", "ids"}).out == place.id + "\n");
  // What the command says on standard error is lost, and nothing is left to say it with; the exit code does.
  CHECK(code(place.shell("\"$CLI\" exec \"$ID\" -- sh -c 'echo out; seq 100000 >&2; exit 3' 2>/dev/full")) == 125);
  // Nobody who reads is another matter: that is quiet.
  for (const char* command : {"exec \"$ID\" -- yes", "logs \"$ID\"", "exec -t \"$ID\" -- yes"}) {
    INFO(command);
    const auto ran = place.shell("(\"$CLI\" " + std::string(command) + " </dev/null; echo $? >&2) | head -n 1 | wc -l");
    CHECK(ran.err == "141\n");
  }
}

TEST_CASE("input that cannot be read is said, and does not pass for one that ends", "[CL-1][CL-4]") {
  const Place place;
  for (const char* command : {"exec \"$ID\" -- sh -c 'cat >/tmp/in; echo all >/tmp/all'", "run -- cat", "cp - \"$ID:/tmp/in\""}) {
    INFO(command);
    const auto ran = place.shell("\"$CLI\" " + std::string(command) + " </");
    CHECK(code(ran) == 125);
    CHECK(ran.err == "cwsandbox: cannot read standard input: Is a directory\n");
  }
  const auto left = place.sandbox.exec(shell("ls /tmp/all /tmp/in 2>/dev/null; true")).result().std_out.str();
  CHECK(left.find("all") == std::string::npos);
}

TEST_CASE("a command that makes something of a signal has its own exit code", "[CL-1][CL-5]") {
  const Place place;
  // The command sends it to this program by way of the shell that started it.
  const auto with = [&](const std::string& script, const std::string& signals) {
    return place.shell("mkfifo '" + place.here("pipe") + "'; \"$CLI\" exec -n \"$ID\" -- sh -c '" + script + "' >'" +
                       place.here("pipe") + "' & pid=$!; exec 3<'" + place.here("pipe") + "'; read ready <&3; for s in " + signals +
                       "; do kill -$s $pid; read more <&3; done; wait $pid; code=$?; rm '" + place.here("pipe") + "'; exit $code");
  };
  for (const char* signal : {"INT", "TERM"}) {
    CHECK(code(with("trap \"exit 0\" INT TERM; echo ready; while :; do sleep 0.05; done", signal)) == 0);
    CHECK(code(with("trap \"exit 7\" INT TERM; echo ready; while :; do sleep 0.05; done", signal)) == 7);
  }
  CHECK(code(with("echo ready; exec sleep 1000", "INT")) == 128 + SIGINT);
  CHECK(code(with("echo ready; exec sleep 1000", "TERM")) == 128 + SIGTERM);
  // The second is not for the command to decide.
  CHECK(code(with("trap \"echo no\" INT; echo ready; while :; do sleep 0.05; done", "INT INT")) == 128 + SIGINT);
}
