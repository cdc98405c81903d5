// What a writer hears of a process that does not read all that it is given.
#include "resume_support.hpp"

#include <algorithm>

using namespace support;
using namespace cwsandbox;

namespace {

/// The text of what lies under a failed write's or flush's error.
std::string cause_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const SandboxExecutionError& error) {
    CHECK(std::string(error.what()) == "Cannot write to stdin: stream has failed");
    try {
      std::rethrow_if_nested(error);
    } catch (const std::exception& cause) {
      return cause.what();
    }
    return "(no cause)";
  }
  return "(no error)";
}

const std::string kClosed = "The process has closed its stdin";
const std::string kExited = "Process has exited";
const std::string kBlock(64 * 1024, 'x');

// What may be taken before anybody can know that nobody reads it: 16 slots, a window, and what a pipe holds.
constexpr std::size_t kMostInFlight = 16 * 64 * 1024 + 1024 * 1024 + 1024 * 1024;

/// Lets go of its stdin on SIGUSR1, and of nothing else.
std::vector<std::string> closes_when_told() {
  return shell("trap 'exec 0<&-' USR1; echo ready; while :; do (trap '' USR1; exec sleep 0.05 </dev/null); done");
}

}  // namespace

TEST_CASE("writes to a process that has closed its stdin fail after what fits on the way", "[SW-19]") {
  const auto process = shared_sandbox().exec(shell("head -c 100000 >/dev/null; exec 0<&-; sleep 1000"), ExecOptions().with_stdin());
  std::size_t written = 0;
  const std::string cause = cause_of([&] {
    while (written < 100 * kMostInFlight) {
      process.std_in()->write(kBlock).result(60s);
      written += kBlock.size();
    }
  });
  CHECK(cause == kClosed);
  CHECK(written <= 100'000 + kMostInFlight);
  CHECK(cause_of([&] { process.std_in()->write("more"); }) == kClosed);
  CHECK(cause_of([&] { process.std_in()->flush(); }) == kClosed);
  CHECK_NOTHROW(process.std_in()->close().result(60s));  // SW-13
  CHECK_FALSE(process.done());
  process.signal("KILL");
  CHECK(process.result(60s).signal == 9);
  CHECK(cause_of([&] { process.std_in()->write("more"); }) == kExited);
}

TEST_CASE("what waits when a process closes its stdin ends at once, with nothing written since", "[SW-18][SW-19]") {
  const auto process = shared_sandbox().exec(closes_when_told(), ExecOptions().with_stdin());
  static_cast<void>(process.std_out().next().result(60s));
  // In the pipe, unread: a flush asks for no more.
  process.std_in()->write("first").result(60s);
  process.std_in()->flush().result(60s);
  const auto fits = process.std_in()->write(std::string(512 * 1024, 'x'));
  const auto flushed = process.std_in()->flush();
  const auto waits = process.std_in()->write(std::string(8 * 1024 * 1024, 'x'));
  fits.result(60s);
  CHECK_THROWS_AS(flushed.result(300ms), TimeoutError);  // the gateway has it, nobody else
  process.signal("USR1");
  CHECK(cause_of([&] { waits.result(60s); }) == kClosed);
  CHECK(cause_of([&] { flushed.result(60s); }) == kClosed);
  CHECK_FALSE(process.done());
  process.signal("KILL");
  CHECK(process.result(60s).signal == 9);
}

TEST_CASE("what waits when a process ends fails, and no flush is done for what it did not take", "[SW-14][SW-18]") {
  for (int i = 0; i < 20; ++i) {
    const auto process = shared_sandbox().exec({"sleep", i % 2 == 0 ? "0" : "0.1"}, ExecOptions().with_stdin());
    std::vector<task<void>> writes;
    std::optional<task<void>> flushed;
    const std::string cause = cause_of([&] {
      for (int n = 0; n < 60; ++n) writes.push_back(process.std_in()->write(kBlock));
      flushed.emplace(process.std_in()->flush());
    });
    CHECK((cause == "(no error)" || cause == kExited || cause == kClosed));  // it may end while they are made
    CHECK(process.wait() == 0);
    std::size_t done = 0;
    for (const auto& write : writes) {
      const std::string why = cause_of([&] { write.result(60s); });
      if (why == "(no error)")
        ++done;
      else
        CHECK((why == kExited || why == kClosed));
    }
    CHECK(done * kBlock.size() <= kMostInFlight);
    if (flushed) CHECK(cause_of([&] { flushed->result(60s); }) != "(no error)");
    // One that has ended before more than a pipe holds was written to it may have taken all of that.
    if (writes.size() * kBlock.size() > 1024 * 1024) CHECK(cause_of([&] { process.std_in()->flush(); }) == kExited);
    CHECK(cause_of([&] { process.std_in()->write("more"); }) == kExited);
  }
}

TEST_CASE("a flush of what was taken is done, also after the end", "[SW-18]") {
  const auto process = shared_sandbox().exec({"head", "-c", "4"}, ExecOptions().with_stdin());
  process.std_in()->write("ping").result(60s);
  CHECK(process.result(60s).std_out == "ping");
  process.std_in()->flush().result(60s);
  CHECK(cause_of([&] { process.std_in()->write("more"); }) == kExited);
  // Its end too is after it.
  const auto all = shared_sandbox().exec({"wc", "-c"}, ExecOptions().with_stdin());
  const auto write = all.std_in()->write(std::string(3'000'000, 'x'));
  const auto flush = all.std_in()->flush();
  const auto close = all.std_in()->close();
  flush.result(60s);
  CHECK(all.result(60s).std_out == "3000000\n");
}

TEST_CASE("a child that still has stdin keeps it open", "[SW-19]") {
  const auto process = shared_sandbox().exec(shell("exec 3<&0; { read word <&3; echo \"got $word\"; } & exec 0<&- 3<&-; wait"),
                                             ExecOptions().with_stdin());
  process.std_in()->writeline("it").result(60s);
  CHECK(process.result(60s).std_out == "got it\n");
}

TEST_CASE("what waits when a terminal's session ends fails", "[SW-12][SW-14][TS-10]") {
  const auto session =
      shared_sandbox().shell(ShellOptions().with_command(shell("stty raw -echo; echo ready; read word </dev/null; sleep 0.1")));
  std::string text;
  while (text.find("ready") == std::string::npos) text += session.output().next().result(60s).value_or("ready");
  std::vector<task<void>> writes;
  std::optional<task<void>> flushed;
  static_cast<void>(cause_of([&] {
    for (int n = 0; n < 60; ++n) writes.push_back(session.input().write(kBlock));
    flushed.emplace(session.input().flush());
  }));
  CHECK(session.result(60s).returncode == 0);
  for (const auto& write : writes) {
    const std::string why = cause_of([&] { write.result(60s); });
    CHECK((why == "(no error)" || why == "Terminal session has ended"));
  }
  if (flushed) CHECK(cause_of([&] { flushed->result(60s); }) == "Terminal session has ended");
  CHECK(cause_of([&] { session.input().write("x"); }) == "Terminal session has ended");
}

TEST_CASE("that stdin is closed is heard over a new connection", "[P6][SW-19]") {
  Stage stage;
  const auto process = stage.through.exec(closes_when_told(), ExecOptions().with_stdin());
  static_cast<void>(read_until(process.std_out(), "ready\n"));
  process.std_in()->write(std::string(512 * 1024, 'x')).result(60s);
  const auto flushed = process.std_in()->flush();
  stage.proxy.refuse(true);
  stage.proxy.cut_all();
  const auto pid = std::to_string(process.pid().result(60s));
  CHECK(stage.owner.exec(shell("kill -USR1 " + pid)).wait() == 0);
  stage.proxy.refuse(false);
  CHECK(cause_of([&] { flushed.result(60s); }) == kClosed);
  // And by who takes it over.
  const auto other = stage.elsewhere().attach(process.id(), AttachOptions().with_from_held().with_stdin());
  CHECK(cause_of([&] {
          for (;;) other.std_in()->write(kBlock).result(60s);
        }) == kClosed);
  other.signal("KILL");
  CHECK(other.result(60s).signal == 9);
}
