// A program that ends takes everything along that it started.
#include "support.hpp"

#include <filesystem>
#include <fstream>
#include <iterator>

#include <sys/wait.h>
#include <unistd.h>

using namespace support;

namespace {

/// Processes on this machine whose arguments bear the mark.
int bearers(const std::string& mark) {
  int found = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::ifstream file(entry.path() / "cmdline");
    const std::string line{std::istreambuf_iterator<char>(file), {}};
    if (line.find("sleep 1000; : " + mark) != std::string::npos) ++found;
  }
  return found;
}

}  // namespace

TEST_CASE("at exit nothing is left", "[EV-7][SE-11]") {
  for (const char* how : {"leak", "scope", "static"}) {
    const TemporaryDirectory directory;
    const std::string mark = "mark-" + std::to_string(::getpid()) + "-" + how;
    const auto ran = run_program({environment("LEAK_HELPER"), mark, how}, "",
                                 {"XDG_RUNTIME_DIR=" + directory.path(), "TMPDIR=" + directory.path()});
    CHECK(ran.out == "ready\n");
    CHECK(ran.err == "");
    CHECK(WIFEXITED(ran.status));
    CHECK(WEXITSTATUS(ran.status) == 0);
    CHECK(bearers(mark) == 0);
    CHECK(directory.entries() == 0);
  }
}

TEST_CASE("at exit a sandbox elsewhere that is still owned is stopped", "[SE-12]") {
  const Daemon daemon;
  const cwsandbox::Client client(daemon.options());
  const std::vector<std::string> reach{"CWSANDBOX_BASE_URL=" + daemon.url(), "CWSANDBOX_API_KEY=" + daemon.token()};
  for (const char* how : {"namespace", "stack", "leak", "static"}) {
    const auto ran = run_program({environment("LEAK_HELPER"), "mark-exit", how}, "", reach);
    CHECK(ran.out == "ready\n");
    CHECK(ran.err == "");
    CHECK(WIFEXITED(ran.status));
    CHECK(WEXITSTATUS(ran.status) == 0);
    for (const auto& left : Sandbox::list(client).result()) {
      INFO(how << ": " << to_string(left.status()));
      // One that was stopped in its destructor has been told to end, and that is all that exit waits for.
      CHECK(left.status() == cwsandbox::SandboxStatus::terminating);
    }
  }
  const auto ran = run_program({environment("LEAK_HELPER"), "mark-exit", "released"}, "", reach);
  CHECK(ran.out == "ready\n");
  // Those that were told to end are listed until they have.
  const auto running = cwsandbox::ListOptions().with_status(cwsandbox::SandboxStatus::running);
  const auto left = Sandbox::list(client, running).result();
  REQUIRE(left.size() == 1);
  left.front().stop().result();
}

TEST_CASE("what a program that was killed left behind goes with the next", "[EV-7]") {
  const TemporaryDirectory directory;
  const std::vector<std::string> places{"XDG_RUNTIME_DIR=" + directory.path(), "TMPDIR=" + directory.path()};
  const std::string mark = "mark-" + std::to_string(::getpid());
  const auto killed = run_program({environment("LEAK_HELPER"), mark + "-die", "die"}, "", places);
  CHECK(WEXITSTATUS(killed.status) == 3);
  CHECK(directory.entries() == 1);
  // What looks like it and is in use, or is somebody's own, stays.
  const std::string own = directory.path() + "/cwsandbox-abcdef";
  std::filesystem::create_directory(own);
  std::filesystem::permissions(own, std::filesystem::perms::owner_all);
  const auto ran = run_program({environment("LEAK_HELPER"), mark + "-leak", "leak"}, "", places);
  CHECK(WEXITSTATUS(ran.status) == 0);
  CHECK(directory.entries() == 1);
  CHECK(std::filesystem::remove(own));
}
