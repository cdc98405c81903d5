// Where more is asked for than is done at once, owners take turns.
#include "gateway/turns.hpp"
#include "gateway_support.hpp"
#include "support/catch.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>

#include <deque>
#include <memory>
#include <string>

using cwsandbox::gateway::Turns;
namespace asio = boost::asio;

namespace {

/// Those that are at it stay until they are told to end.
struct Room {
  explicit Room(std::size_t most) : turns(std::make_shared<Turns>(loop.get_executor(), most)) {}
  asio::io_context loop;
  std::shared_ptr<Turns> turns;
  std::string begun;  // one letter of each, in order
  std::deque<Turns::Turn> held;

  void want(char name, const void* owner, std::size_t most = 0) {
    asio::co_spawn(loop, wanting(*this, name, owner, most), asio::detached);
    run();
  }
  void end_one() {
    held.pop_front();
    run();
  }
  void run() {
    loop.restart();
    loop.poll();
  }
  static asio::awaitable<void> wanting(Room& room, char name, const void* owner, std::size_t most) {
    const std::shared_ptr<Turns> turns = room.turns;
    auto taking = turns->take(owner, most);
    Turns::Turn turn = co_await std::move(taking);
    room.begun += name;
    room.held.push_back(std::move(turn));
  }
};

const int first = 0, second = 0, third = 0;

}  // namespace

TEST_CASE("each owner has a turn before anybody has a second one", "[gateway][turns][EV-15]") {
  Room room(2);
  for (const char name : {'a', 'b', 'c', 'd', 'e'}) room.want(name, &first);
  CHECK(room.begun == "ab");
  CHECK(room.turns->waiting() == 3);
  room.want('X', &second);
  room.want('Y', &second);
  room.want('Z', &third);
  CHECK(room.begun == "ab");
  while (!room.held.empty()) room.end_one();
  // Who came first is asked first, and then the others, each once before anybody again.
  CHECK(room.begun == "abcXZdYe");
  CHECK(room.turns->waiting() == 0);
  room.want('f', &first);
  CHECK(room.begun == "abcXZdYef");
}

TEST_CASE("no more are at it than may be, and any number where none is said", "[gateway][turns]") {
  Room few(3), any(0);
  for (int i = 0; i < 20; ++i) {
    few.want('x', &first);
    any.want('x', &first);
  }
  CHECK(few.held.size() == 3);
  CHECK(any.held.size() == 20);
  for (int i = 0; i < 17; ++i) {
    few.end_one();
    REQUIRE(few.held.size() == 3);
  }
  any.held.clear();
  any.want('x', &first);
  CHECK(any.held.size() == 1);
}

TEST_CASE("an owner who may have fewer at one time leaves room for the others", "[gateway][turns][EV-20]") {
  Room room(4);
  for (const char name : {'a', 'b', 'c', 'd'}) room.want(name, &first, 1);
  CHECK(room.begun == "a");
  for (const char name : {'W', 'X', 'Y', 'Z'}) room.want(name, &second, 2);
  CHECK(room.begun == "aWX");
  room.want('3', &third);
  CHECK(room.begun == "aWX3");
  room.end_one();  // a: its owner's next, and nobody else's
  CHECK(room.begun == "aWX3b");
  room.end_one();
  CHECK(room.begun == "aWX3bY");
  // Alone again, it may have all.
  room.want('e', &first, 4);
  while (!room.held.empty()) room.end_one();
  CHECK(room.begun.substr(0, 6) == "aWX3bY");
  CHECK(room.begun.size() == 10);
  room.want('f', &first, 4);
  room.want('g', &first, 4);
  CHECK(room.held.size() == 2);
}

TEST_CASE("who waits when the turns are dropped is destroyed", "[gateway][turns]") {
  Room room(1);
  const auto witness = std::make_shared<int>();
  room.want('a', &first);
  const auto waits = [](Turns& turns, std::shared_ptr<int>) -> asio::awaitable<void> {
    auto taking = turns.take(&second);
    const Turns::Turn turn = co_await std::move(taking);
    FAIL_CHECK("a turn of what was dropped");
  };
  asio::co_spawn(room.loop, waits(*room.turns, witness), asio::detached);
  room.run();
  REQUIRE(room.turns->waiting() == 1);
  REQUIRE(witness.use_count() == 2);
  room.turns->drop();
  room.run();  // Asio posts the end of a coroutine
  CHECK(witness.use_count() == 1);
  CHECK(room.turns->waiting() == 0);
  // A turn may last longer.
  room.turns.reset();
  room.end_one();
  CHECK(room.begun == "a");
}
