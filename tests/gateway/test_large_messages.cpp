// Messages that would keep the event loop from everybody else.
#include "gateway/large_messages.hpp"
#include "gateway_support.hpp"
#include "support/catch.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>

#include <filesystem>
#include <fstream>
#include <future>
#include <stdexcept>
#include <string>
#include <thread>

using namespace gateway_test;
using gateway::LargeMessages;

namespace {

std::shared_ptr<gateway::Owner> some_owner() {
  return std::make_shared<gateway::Owner>(std::make_shared<gateway::BudgetTable>(gateway::GatewayOptions()));
}

std::thread::id here() { return std::this_thread::get_id(); }

/// How many threads of this process read or write messages.
std::size_t threads_for_messages() {
  std::size_t n = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::getline(std::ifstream(task.path() / "comm"), name);
    if (name == cwsandbox::runner::kMessageWork.thread_name) ++n;
  }
  return n;
}

}  // namespace

TEST_CASE("a large message is read and written beside the event loop, a small one on it", "[gateway][EV-16]") {
  asio::io_context loop;
  const LargeMessages messages(loop.get_executor(), some_owner());
  bool done = false;
  const auto use = [&]() -> asio::awaitable<void> {
    auto small = LargeMessages::run(messages, LargeMessages::kLarge - 1, here);
    const std::thread::id of_small = co_await std::move(small);
    CHECK(of_small == here());
    auto large = LargeMessages::run(messages, LargeMessages::kLarge, here);
    const std::thread::id of_large = co_await std::move(large);
    CHECK(of_large != here());
    // What is thrown there arrives here.
    std::string thrown;
    try {
      auto wrong = LargeMessages::run(messages, LargeMessages::kLarge, []() -> int { throw std::out_of_range("a field"); });
      co_await std::move(wrong);
    } catch (const std::out_of_range& e) {
      thrown = e.what();
    }
    CHECK(thrown == "a field");
    done = true;
  };
  asio::co_spawn(loop, use, asio::detached);
  loop.run();
  CHECK(done);
}

TEST_CASE("who has many large messages keeps others waiting for none", "[gateway][EV-16]") {
  asio::io_context loop;
  std::promise<void> let_go;
  const std::shared_future<void> gate = let_go.get_future();
  const LargeMessages mine(loop.get_executor(), some_owner()), theirs(loop.get_executor(), some_owner());
  int mine_done = 0, theirs_done = 0;
  const auto use = [](LargeMessages messages, std::shared_future<void> until, int& count) -> asio::awaitable<void> {
    auto run = LargeMessages::run(messages, LargeMessages::kLarge, [until] {
      if (until.valid()) until.wait();
      return 0;
    });
    co_await std::move(run);
    ++count;
  };
  // Ten that do not end, and then somebody else's.
  for (int i = 0; i < 10; ++i) asio::co_spawn(loop, use(mine, gate, mine_done), asio::detached);
  asio::co_spawn(loop, use(theirs, {}, theirs_done), asio::detached);
  while (theirs_done == 0) loop.run_one();
  CHECK(mine_done == 0);
  let_go.set_value();
  loop.run();
  CHECK(mine_done == 10);
}

TEST_CASE("a gateway's large requests and answers are what they are when they are small", "[gateway][EV-16]") {
  Server server;
  const std::string id = server.sandbox();
  CHECK(threads_for_messages() == 0);
  const std::string large(1024 * 1024, 'x');
  const Json write = {{"sandboxId", id}, {"path", "/tmp/large"}, {"content", base64_encode(large)}};
  CHECK(server.call("WriteFile", write).status == 200);
  CHECK(threads_for_messages() > 0);
  const auto bytes = [](const Answer& answer, const char* field) { return base64_decode(answer.json()[field].get<std::string>()); };
  CHECK((bytes(server.call("ReadFile", {{"sandboxId", id}, {"path", "/tmp/large"}}), "content") == large));
  CHECK((bytes(server.call("Exec", {{"sandboxId", id}, {"command", {"cat", "/tmp/large"}}}), "stdout") == large));
  // The same words for what is wrong in one, whatever its size.
  const auto wrong = [&](std::size_t size) {
    return server.call("Exec", {{"sandboxId", id}, {"command", 7}, {"env", {{"A", std::string(size, 'x')}}}});
  };
  const Answer one = wrong(1), other = wrong(LargeMessages::kLarge);
  CHECK(one.status == 400);
  CHECK(one.body == other.body);
}

TEST_CASE("a large start of a process is read beside the event loop, and what follows it is not lost", "[gateway][EV-16]") {
  Server server;
  const std::string id = server.sandbox();
  Peer peer(server.address());
  CHECK(threads_for_messages() == 0);
  constexpr std::uint8_t kStdin = 0, kStart = 5, kClose = 255;
  Json request = start(id, {"sh", "-c", "echo ${#LARGE}; cat"});
  request["stdin"] = true;
  // The kernel takes at most 128 KiB in one variable, with its name.
  request["env"]["LARGE"] = std::string(100'000, 'x');
  request["env"]["MORE"] = std::string(100'000, 'x');
  peer.send(kStart, request);
  peer.send(kStdin, "sent without waiting");
  peer.send(kClose, std::string_view("\0", 1));
  Peer::Outcome outcome = peer.to_exit();
  CHECK(outcome.out == "100000\nsent without waiting");
  CHECK(outcome.exit["code"] == 0);
  CHECK(threads_for_messages() > 0);
  // Whose client goes meanwhile is nobody's.
  for (int i = 0; i < 10; ++i) {
    Peer gone(server.address());
    request["id"] = new_id();
    gone.send(kStart, request);
  }
  CHECK(server.call("Exec", {{"sandboxId", id}, {"command", {"echo", "there"}}}).status == 200);
  // What is wrong in it is said as of a small one.
  for (const std::size_t size : {std::size_t{1}, LargeMessages::kLarge}) {
    Peer wrong(server.address());
    Json bad = start(id, {});
    bad["command"] = 7;
    bad["env"]["A"] = std::string(size, 'x');
    wrong.send(kStart, bad);
    while (wrong.receive()) {
    }
    CHECK(wrong.close_code == 1002);
    CHECK(wrong.close_reason.find("command") != std::string::npos);
  }
}
