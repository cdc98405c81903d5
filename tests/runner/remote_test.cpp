// A sandbox behind a byte stream, through the checks that hold for every runner: over links that hold, and over links that break.
#include <boost/asio/io_context.hpp>

#include <random>

#include "conformance.hpp"
#include "remote_harness.hpp"
#include "runner/local/local_runner.hpp"
#include "support/catch.hpp"

namespace cwsandbox::test {

namespace {

// A message is sent as one: a link that is to do any good carries at least one. Of most checks they are small.
constexpr std::uint64_t kLeast = 3000, kMost = 200'000;

void check_all(const std::vector<RunnerCheck>& checks, const std::function<Budget(const RunnerCheck&)>& budget) {
  for (const RunnerCheck& check : checks) {
    DYNAMIC_SECTION(check.name) {
      asio::io_context loop;
      auto local = runner::local::make_local_runner(loop.get_executor());
      RemoteRunner runner(loop.get_executor(), *local, budget(check));
      run(loop, check.run(runner));
      run_until(loop, [&] { return loop.stopped(); });  // nothing goes on behind it
    }
  }
}

// Seeded, so that a failure can be had again.
Budget breaking(std::uint64_t from, std::uint64_t to) {
  auto random = std::make_shared<std::mt19937_64>(11);
  return [random, from, to] { return std::uniform_int_distribution<std::uint64_t>(from, to)(*random); };
}

Budget breaking_for(const RunnerCheck& check) {
  const bool long_start = check.name == "long arguments" || check.name == "what cannot be started says why";
  return long_start ? breaking(2u << 20, 4u << 20) : breaking(kLeast, kMost);
}

}  // namespace

TEST_CASE("a remote sandbox does what every sandbox must",
          "[runner][remote][EX-2][EX-8][EX-16][IO-4][IO-5][IO-6][IO-8][IO-9][P8]") {
  check_all(runner_checks(), [](const RunnerCheck&) { return Budget(); });
}

TEST_CASE("a remote sandbox handles files as every sandbox must", "[runner][remote][files][FI-1][FI-3][FI-6][FI-8]") {
  check_all(file_checks(), [](const RunnerCheck&) { return Budget(); });
}

TEST_CASE("a remote sandbox does so over links that break", "[runner][remote]") { check_all(runner_checks(), breaking_for); }

TEST_CASE("files of a remote sandbox over links that break", "[runner][remote][files]") { check_all(file_checks(), breaking_for); }

}  // namespace cwsandbox::test
