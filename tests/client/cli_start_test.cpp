// How `cwsandbox` is started: by shells that close its streams, by systems that let it open few files, by a root who is nobody.
#include "cli_support.hpp"
#include "support/sanitizers.hpp"

#include <boost/asio/io_context.hpp>

#include <csignal>

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

using namespace support;

namespace {

/// As long as a hang takes: then it is killed, with 137.
constexpr const char* kBounded = "timeout -s KILL 100 ";

bool holds(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("a closed stdin is an empty one", "[CL-8]") {
  Place place;
  for (const std::string command : {"run", "run -i", "exec $ID", "exec -i $ID"}) {
    CAPTURE(command);
    const auto ran = place.shell(kBounded + ("$CLI " + command + " -- sh -c 'cat; echo end' <&-"));
    CHECK(code(ran) == 0);
    CHECK(ran.out == "end\n");
    CHECK(ran.err.empty());
  }
}

TEST_CASE("what is written to a closed stdout is an error, to a closed stderr is lost", "[CL-8]") {
  Place place;
  for (const std::string command : {"run", "exec $ID"}) {
    CAPTURE(command);
    const std::string cli = kBounded + ("$CLI " + command);
    const auto written = place.shell(cli + " -- echo text >&-");
    CHECK(code(written) == 125);
    CHECK(holds(written.err, "cwsandbox: cannot write to standard output: Bad file descriptor"));
    CHECK(code(place.shell(cli + " -- sh -c 'exit 3' >&-")) == 3);
    const auto errors = place.shell(cli + " -- sh -c 'echo out; echo err >&2; exit 4' 2>&-");
    CHECK(errors.out == "out\n");
    CHECK(code(errors) == 4);
    CHECK(code(place.shell(cli + " -- sh -c 'exit 5' <&- >&- 2>&-")) == 5);
  }
  CHECK(code(place.shell("$CLI ls >&-")) == 125);
  CHECK(code(place.shell("$CLI --version >&-")) == 125);
  CHECK(place.shell("$CLI exec $ID -- sh -c 'cat >/tmp/all; echo x >>/tmp/all' <&- >&- 2>&-").out.empty());
  CHECK(place.cli({"exec", place.id, "--", "cat", "/tmp/all"}).out == "x\n");
}

TEST_CASE("with closed streams a signal is still a signal", "[CL-8]") {
  Place place;
  // What would be read as the command's input, were descriptor 0 one of the program's own, is in the file.
  const auto ran = place.shell(
      "$CLI exec -i $ID -- sh -c 'trap \"exit 7\" TERM; cat >/tmp/got; echo >/tmp/ready; sleep 1000 & wait' <&- >&- & p=$!; "
      "$CLI exec $ID -- sh -c 'until [ -e /tmp/ready ]; do sleep 0.01; done'; kill -TERM $p; wait $p; echo $?");
  CHECK(ran.out == "7\n");
  CHECK(place.cli({"exec", place.id, "--", "cat", "/tmp/got"}).out.empty());
}

TEST_CASE("with few open files it works or says what it lacks", "[CL-9]") {
  Place place;
  std::size_t worked = 0, refused = 0;
  const auto check = [&](const Ran& ran, const std::string& expected) {
    CAPTURE(ran.out);
    CAPTURE(ran.err);
    if (code(ran) == 127 && holds(ran.err, "loading shared libraries")) return;  // it does not get as far as that
    if (code(ran) == 0) {
      CHECK(ran.out == expected);
      ++worked;
    } else {
      CHECK(code(ran) == 125);
      CHECK(holds(ran.err, "RLIMIT_NOFILE"));
      ++refused;
    }
  };
  for (int limit = 4; limit <= 64; limit += limit < 20 ? 4 : 1) {
    CAPTURE(limit);
    const std::string few = "ulimit -n " + std::to_string(limit) + "; " + kBounded;
    if (limit % 4 == 0) check(place.shell(few + "$CLI run -- echo hi"), "hi\n");
    check(place.shell(few + "$CLI exec $ID -- echo hi"), "hi\n");
  }
  CHECK(worked > 16);
  CHECK(refused > 16);
  // The program raises its own limit as far as it may.
  check(place.shell(std::string("ulimit -Sn 10; ") + kBounded + "$CLI run -- echo hi"), "hi\n");
}

TEST_CASE("a tree is copied with few open files, or what lacks is said", "[CL-9]") {
  Place place;
  REQUIRE(place
              .cli({"exec", place.id, "--", "sh", "-c",
                    "mkdir /tmp/t; for i in $(seq 60); do mkdir -p /tmp/t/$i/a; echo $i >/tmp/t/$i/a/f; done"})
              .status == 0);
  for (const int limit : {36, 37, 38, 40, 48, 64}) {
    CAPTURE(limit);
    const std::string to = place.here("copy-" + std::to_string(limit));
    const auto ran = place.shell("ulimit -n " + std::to_string(limit) + "; " + kBounded + "$CLI cp -r $ID:/tmp/t " + to);
    CAPTURE(ran.err);
    CHECK(code(ran) == 0);
    CHECK(read(to + "/60/a/f") == "60\n");
    const auto back = place.shell("ulimit -n " + std::to_string(limit) + "; " + kBounded + "$CLI cp -r " + to + " $ID:/tmp/u" +
                                  std::to_string(limit));
    CAPTURE(back.err);
    CHECK(code(back) == 0);
  }
}

TEST_CASE("a gateway of a program's own says that it has too few open files, and leaves the limit alone", "[CL-9]") {
  boost::asio::io_context loop;
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  rlimit few = before;
  const int probe = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  ::close(probe);
  few.rlim_cur = static_cast<rlim_t>(probe) + 30;
  std::string what;
  {
    const cwsandbox::Client client(cwsandbox::ClientOptions().with_base_url("local:").with_executor(loop.get_executor()));
    const auto sandbox = Sandbox::run(client);
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &few) == 0);
    const auto started = sandbox.start();
    while (!started.done()) loop.run_one_for(1s);
    rlimit after{};
    ::getrlimit(RLIMIT_NOFILE, &after);
    CHECK(after.rlim_cur == few.rlim_cur);
    try {
      started.result();
    } catch (const cwsandbox::SandboxUnavailableError& error) {
      what = error.what();
    }
  }
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
  CAPTURE(what);
  CHECK(holds(what, "The local gateway cannot start: 48 more open files are needed"));
  CHECK(holds(what, "RLIMIT_NOFILE"));
  loop.restart();
  loop.run_for(10ms);
}

TEST_CASE("it runs where there is one user, who is root", "[CL-10]") {
  if (std::system("unshare -U -r true") != 0) {
    WARN("SKIPPED: no user namespaces can be made here");
    return;
  }
  if (test_support::kThreadSanitizer) {
    WARN("SKIPPED: the thread sanitizer has a thread of its own, which keeps a forked child from entering a user namespace");
    return;
  }
  const auto ran = run_program({"unshare", "-U", "-r", environment("CWSANDBOX_CLI"), "run", "--", "id", "-u"});
  CAPTURE(ran.err);
  CHECK(ran.out == "1000\n");
  CHECK(code(ran) == 0);
}
