// Sandboxes that are kept ready: who gets them, how many there are, and that nothing is left of them.
#include <boost/asio/io_context.hpp>

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include "harness.hpp"
#include "runner/local/local_runner.hpp"
#include "support/catch.hpp"

namespace cwsandbox::test {

namespace {

namespace fs = std::filesystem;

using Numbers = std::set<pid_t>;

// This process's children: each is a sandbox.
Numbers bubblewraps() {
  Numbers found;
  for (const auto& task : fs::directory_iterator("/proc/self/task")) {
    std::ifstream children(task.path() / "children");
    for (pid_t pid = 0; children >> pid;) {
      std::ifstream name("/proc/" + std::to_string(pid) + "/comm");
      std::string text;
      if (std::getline(name, text) && text == "bwrap") found.insert(pid);
    }
  }
  return found;
}

std::size_t descriptors() {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator()));
}

Numbers without(Numbers all, const Numbers& some) {
  for (const pid_t pid : some) all.erase(pid);
  return all;
}

struct Place {
  explicit Place(std::size_t ready) {
    runner::local::LocalRunnerOptions options;
    options.ready = ready;
    runner = runner::local::make_local_runner(loop.get_executor(), options);
  }
  std::unique_ptr<runner::Sandbox> create(runner::SandboxSpec spec = sandbox_spec()) {
    return run(loop, runner->create(std::move(spec)));
  }
  void until(std::size_t sandboxes) {
    run_until(loop, [&] { return bubblewraps().size() == sandboxes; });
  }
  asio::io_context loop;
  std::unique_ptr<runner::Runner> runner;
};

}  // namespace

TEST_CASE("sandboxes are kept ready, and given to who asks for one like them", "[runner][LC-18]") {
  const std::size_t before = descriptors();
  {
    Place place(2);
    auto first = place.create();
    // With all that a sandbox asks for beside limits.
    auto spec = sandbox_spec("second");
    spec.env["WORD"] = "from its spec";
    spec.working_dir = "/tmp";
    spec.files.push_back({"/workspace/file", "written"});
    // One that is there has not come up yet, perhaps, and then is not given away.
    bool given = false;
    for (int i = 0; i < 100 && !given; ++i) {
      run_until(place.loop, [] { return bubblewraps().size() > 1; });
      const Numbers known = bubblewraps();
      auto second = place.create(spec);
      const Outcome outcome = run(place.loop, exec_sh(*second, "echo \"$WORD\"; pwd; cat /workspace/file"));
      REQUIRE(outcome.out == "from its spec\n/tmp\nwritten");
      run(place.loop, second->stop(std::chrono::milliseconds(0)));
      given = !without(known, bubblewraps()).empty();
    }
    CHECK(given);
    place.until(3);

    // With other limits than those that are ready it is made; they are there until others like it are.
    const Numbers known = bubblewraps();
    spec = sandbox_spec("third");
    spec.resources.memory_request = 1 << 20;
    auto third = place.create(spec);
    CHECK(without(known, bubblewraps()).empty());
    run_until(place.loop, [&] { return without(known, bubblewraps()).size() == 2; });
    place.until(4);
  }
  CHECK(bubblewraps().empty());
  CHECK(descriptors() == before);
}

TEST_CASE("a sandbox that ends while it is kept ready is not given away", "[runner][LC-18]") {
  Place place(1);
  auto first = place.create();
  const Numbers of_first = bubblewraps();
  place.until(2);
  const Numbers ready = without(bubblewraps(), of_first);
  REQUIRE(ready.size() == 1);
  SECTION("and has been seen to") {
    REQUIRE(::kill(*ready.begin(), SIGKILL) == 0);
    place.until(1);
  }
  SECTION("in this moment") {
    // Its agent, so that nobody can have noticed; the next one then says that it has gone, or is another.
    REQUIRE(::kill(*ready.begin(), SIGKILL) == 0);
  }
  bool made = false;
  for (int i = 0; i < 2 && !made; ++i) {
    try {
      auto second = place.create(sandbox_spec("second"));
      const Outcome outcome = run(place.loop, exec_sh(*second, "echo x"));
      made = outcome.out == "x\n";
    } catch (const runner::RunnerError&) {  // it has been given away before its end was seen
    }
  }
  CHECK(made);
}

TEST_CASE("with the runner those go that are ready, and none is made any more", "[runner][LC-18]") {
  const std::size_t before = descriptors();
  for (const bool filled : {false, true}) {
    Place place(3);
    auto first = place.create();
    if (filled) place.until(2);
    place.runner.reset();
    run(place.loop, first->stop(std::chrono::milliseconds(0)));
    first.reset();
    run_until(place.loop, [&] { return place.loop.stopped(); });
    CHECK(bubblewraps().empty());
  }
  CHECK(descriptors() == before);
}

}  // namespace cwsandbox::test
