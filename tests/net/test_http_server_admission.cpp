// Who has to go when there are too many connections, and what each of them counts as. No sockets.
#include "net/http_server_admission.hpp"
#include "support/catch.hpp"

#include <algorithm>

using namespace cwsandbox::net;

namespace {

class Guest final : public Admission::Connection {
 public:
  void drop() noexcept override { dropped = true; }
  bool dropped = false;
};

ServerLimits few(std::size_t connections, std::size_t of_one) {
  ServerLimits out;
  out.max_connections = connections;
  out.max_client_connections = of_one;
  out.max_stranger_memory = 100;
  out.max_client_memory = 100;
  out.max_one_client_memory = 60;
  return out;
}

struct House {
  explicit House(const ServerLimits& limits) : admission(std::make_shared<Admission>(limits)) {}
  ~House() {
    if (admission) admission->forget();  // as the server does at its end: until then each keeps the other
  }
  House(const House&) = delete;
  House& operator=(const House&) = delete;
  std::shared_ptr<Guest> enter() {
    auto guest = std::make_shared<Guest>();
    admission->enter(guest);
    return guest;
  }
  std::shared_ptr<Guest> enter(const std::shared_ptr<ClientAccount>& account) {
    auto guest = enter();
    REQUIRE(admission->belongs_to(*guest, account));
    return guest;
  }
  std::shared_ptr<Admission> admission;
};

}  // namespace

TEST_CASE("for one connection more a stranger's gives way, then the one that is idle for longest, and none at work") {
  House house(few(5, 5));
  auto& admission = *house.admission;
  const auto account = std::make_shared<ClientAccount>();
  const auto busy = house.enter(account);
  const auto idle = house.enter(account), idle_later = house.enter(account);
  admission.between_requests(*idle_later);
  admission.within_request(*idle_later);
  admission.between_requests(*idle);
  admission.between_requests(*idle_later);
  const auto stranger = house.enter(), stranger_later = house.enter();
  CHECK(admission.seats() == 5);
  CHECK(admission.all().size() == 5);

  for (const auto& next : {stranger, stranger_later, idle, idle_later}) {
    CHECK_FALSE(next->dropped);
    CHECK(admission.room_for_one());
    CHECK(next->dropped);
    CHECK_FALSE(next->seated());
    CHECK(admission.seats() == 4);  // free at once
    CHECK(admission.all().size() == 5);
    admission.leave(*next);
    const auto worker = house.enter(account);
  }
  CHECK_FALSE(admission.room_for_one());
  CHECK_FALSE(busy->dropped);
  CHECK(admission.seats() == 5);
  CHECK(account->connections == 5);
}

TEST_CASE("a stranger's connection gives way also within a request, unless a WebSocket has become of it") {
  House house(few(2, 2));
  auto& admission = *house.admission;
  const auto first = house.enter(), second = house.enter();
  admission.within_request(*first);
  admission.between_requests(*second);
  admission.keep(*first);
  CHECK(admission.make_room());
  CHECK(second->dropped);
  CHECK_FALSE(admission.make_room());
  CHECK_FALSE(first->dropped);
}

TEST_CASE("a connection too many of a client takes the place of its own idle one, or has none") {
  House house(few(10, 2));
  auto& admission = *house.admission;
  const auto account = std::make_shared<ClientAccount>(), other = std::make_shared<ClientAccount>();
  const auto others = house.enter(other);
  admission.between_requests(*others);
  const auto first = house.enter(account), second = house.enter(account);
  admission.between_requests(*first);

  const auto third = house.enter(account);
  CHECK(first->dropped);
  CHECK(account->connections == 2);
  const auto fourth = house.enter();
  CHECK_FALSE(admission.belongs_to(*fourth, account));
  CHECK(fourth->seated());
  CHECK(fourth->account() == nullptr);  // the next request on it may be another's
  CHECK(admission.belongs_to(*fourth, other));
  CHECK(other->connections == 2);
  CHECK_FALSE(others->dropped);

  // Whose a connection is may change with each request.
  CHECK(admission.belongs_to(*second, nullptr));
  CHECK(account->connections == 1);
  CHECK(second->account() == nullptr);

  // What was dropped belongs to nobody, but that is not for its request to be told.
  CHECK(admission.belongs_to(*first, account));
  CHECK(account->connections == 1);
}

TEST_CASE("bytes of strangers cost the oldest of them its connection, bytes of a client are refused") {
  House house(few(10, 10));
  auto& admission = *house.admission;
  const auto oldest = house.enter(), middle = house.enter(), youngest = house.enter();
  CHECK(admission.charge(*oldest, 10));
  CHECK(admission.charge(*middle, 50));
  CHECK(admission.charge(*youngest, 40));
  CHECK(admission.charge(*youngest, 5));
  CHECK(oldest->dropped);
  CHECK_FALSE(middle->dropped);
  CHECK_FALSE(admission.charge(*oldest, 1));
  // Whoever needs more than there is ends with itself.
  CHECK_FALSE(admission.charge(*youngest, 80));
  CHECK(middle->dropped);
  CHECK(youngest->dropped);

  const auto account = std::make_shared<ClientAccount>(), other = std::make_shared<ClientAccount>();
  const auto first = house.enter(account), second = house.enter(account), others = house.enter(other);
  CHECK(admission.charge(*first, 50));
  CHECK_FALSE(admission.charge(*second, 11));  // of one client
  CHECK(admission.charge(*second, 10));
  CHECK_FALSE(admission.charge(*others, 41));  // of all clients
  CHECK(admission.charge(*others, 40));
  CHECK_FALSE(first->dropped);
  CHECK(admission.memory_of(*first)->used() == 60);

  admission.give_back(*first, 20);
  CHECK(account->memory.used() == 40);
  admission.give_back(*first, 31);
  CHECK(account->memory.used() == 10);
  admission.leave(*second);
  CHECK(account->memory.used() == 0);
  CHECK(admission.memory_of(*house.enter())->used() == 40);
}

TEST_CASE("what a connection holds goes back to whoever it was counted for") {
  House house(few(10, 10));
  auto& admission = *house.admission;
  const auto account = std::make_shared<ClientAccount>();
  const auto one = house.enter();
  CHECK(admission.charge(*one, 100));
  CHECK(admission.belongs_to(*one, account));  // the header that said so is no stranger's any more
  CHECK(account->memory.used() == 0);
  const auto another = house.enter();
  CHECK(admission.charge(*another, 100));
  CHECK(admission.charge(*one, 60));
  CHECK(admission.belongs_to(*one, nullptr));
  CHECK(account->memory.used() == 0);
  CHECK_FALSE(another->dropped);
}

TEST_CASE("a seat counts until whoever took it along has gone, also beyond the server") {
  const auto account = std::make_shared<ClientAccount>();
  House house(few(2, 2));
  auto& admission = *house.admission;
  auto left = house.enter(account);
  auto seat = left->seat();
  admission.leave(*left);
  left.reset();
  CHECK(admission.empty());
  CHECK(admission.seats() == 1);
  CHECK(account->connections == 1);

  auto here = house.enter();
  const std::weak_ptr<Admission> weak = house.admission;
  admission.forget();
  CHECK(admission.empty());
  house.admission.reset();
  CHECK_FALSE(here->dropped);
  {
    const auto still = weak.lock();
    REQUIRE(still);
    still->keep(*here);  // these find no list any more
    still->leave(*here);
    CHECK(still->empty());
    CHECK(still->seats() == 1);
    seat.reset();
    CHECK(still->seats() == 0);
  }
  CHECK(account->connections == 0);
  CHECK(weak.expired());
}
