// A caller's executor: no thread of ours, and run() that returns by itself.
#include "support.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_future.hpp>

#include <array>
#include <atomic>
#include <filesystem>
#include <optional>
#include <thread>

#include <sys/wait.h>
#include <unistd.h>

using namespace support;
namespace asio = boost::asio;

namespace {

std::size_t threads() {
  std::size_t n = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) static_cast<void>(entry), ++n;
  return n;
}

// What one client saw. Looked at when all are through: Catch's checks are for one thread.
struct Seen {
  std::string text;
  std::optional<int> code;
  bool refused_to_block = false, failed = false;
  void check() const {
    CHECK(text == "hello");
    CHECK(code == 0);
    CHECK(refused_to_block);
    CHECK(failed);
  }
};

asio::awaitable<void> work(cwsandbox::Client client, Seen& seen) {
  auto sandbox = Sandbox::run(client);
  auto options = ExecOptions().with_stdin();
  auto process = sandbox.exec(argv("cat"), std::move(options));
  co_await process.std_in()->write("hello");
  co_await process.std_in()->close();
  while (auto chunk = co_await process.std_out().next()) seen.text += *chunk;
  auto result = co_await process;
  seen.code = result.returncode;
  try {
    sandbox.exec(argv("true")).result();  // would never end
  } catch (const std::logic_error&) {
    seen.refused_to_block = true;
  }
  auto failing = sandbox.exec(argv("no-such-program"));
  try {
    co_await failing;
  } catch (const cwsandbox::SandboxExecutionError& error) {
    seen.failed = error.error_name() == "ENOENT";
  }
}

}  // namespace

TEST_CASE("an adopted executor: no thread, and run() returns", "[EV-6][EV-2][OR-4][SR-10][SR-12]") {
  const auto before = threads();
  asio::io_context context;
  std::array<Seen, 3> seen;
  std::size_t during = 0;
  for (auto& one : seen)
    asio::co_spawn(context, work(cwsandbox::Client(context.get_executor()), one), [&](const std::exception_ptr& error) {
      during = std::max(during, threads());
      rethrow(error);
    });
  context.run();
  for (const auto& one : seen) one.check();
  CHECK(during == before);
}

TEST_CASE("an executor that several threads run", "[EV-4][EV-6]") {
  asio::thread_pool pool(3);
  std::array<Seen, 4> seen;
  {
    const cwsandbox::Client client(pool.get_executor());
    std::vector<std::future<void>> all;
    for (auto& one : seen) all.push_back(asio::co_spawn(pool, work(client, one), asio::use_future));
    for (auto& future : all) future.get();
  }
  pool.join();
  for (const auto& one : seen) one.check();
}

TEST_CASE("an io_context that is dropped in the middle of it all", "[EV-7]") {
  cwsandbox::task<cwsandbox::ProcessResult> result;
  {
    asio::io_context context;
    const cwsandbox::Client client(context.get_executor());
    const auto sandbox = Sandbox::run(client);
    const auto process = sandbox.exec({"sleep", "1000"});
    const auto pid = process.pid();
    while (!pid.done()) context.run_one();
  }
  SUCCEED("nothing crashed and nothing hung");
}

TEST_CASE("the child of a fork gets an error, not a hang", "[EV-7]") {
  const auto& sandbox = shared_sandbox();
  CHECK(sandbox.exec({"true"}).wait() == 0);
  // The loop's thread is busy meanwhile, so that some of the children inherit its locks in its hands.
  std::atomic<bool> enough{false};
  std::thread busy([&] {
    while (!enough) static_cast<void>(sandbox.exec({"true"}).wait());
  });
  const auto sleeper = sandbox.exec({"sleep", "1000"});
  static_cast<void>(sleeper.pid().result());
  for (int i = 0; i < 20; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::alarm(60);  // a hang is told from the rest by its signal
      int refused = 0;
      const auto refuses = [&refused](auto use) {
        try {
          use();
        } catch (const cwsandbox::CWSandboxError&) {
          ++refused;
        }
      };
      refuses([&] { sandbox.exec({"true"}).result(); });
      refuses([&] { sleeper.signal("TERM"); });
      refuses([&] { sandbox.stop().result(); });
      refuses([&] { sleeper.result(); });
      if (sleeper.cancel()) refused = 0;
      ::_exit(refused == 4 ? 0 : 1);
    }
    int status = -1;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
  }
  enough = true;
  busy.join();
  CHECK(!sleeper.done());
  CHECK(sandbox.exec({"true"}).wait() == 0);  // the parent goes on
}
