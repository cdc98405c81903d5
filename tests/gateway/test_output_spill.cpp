// Output that waits on disk for a client.
#include "gateway/output_spill.hpp"

#include "support/catch.hpp"

#include <memory>
#include <random>
#include <string>

#include <fcntl.h>
#include <unistd.h>

using cwsandbox::gateway::Budget;
using cwsandbox::gateway::Budgets;
using cwsandbox::gateway::BudgetTable;
using cwsandbox::gateway::OutputSpill;

namespace {

/// Of an only owner.
std::shared_ptr<Budgets> budget_of(std::uint64_t bytes) {
  cwsandbox::gateway::GatewayOptions options;
  options.total_capture_bytes = bytes;
  return std::make_shared<Budgets>(std::make_shared<BudgetTable>(options));
}

std::string take(OutputSpill& spill, std::size_t size) {
  std::string bytes(size, '\0');
  bytes.resize(spill.read(bytes.data(), size));
  return bytes;
}

/// The lowest descriptor that is free says whether any was left open.
int next_descriptor() {
  const int fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  ::close(fd);
  return fd;
}

}  // namespace

TEST_CASE("bytes come back in their order, however they are taken, within the bounds", "[gateway][TS-14][P2]") {
  const int before = next_descriptor();
  constexpr std::uint64_t capacity = 10'007;
  const auto budget = budget_of(15'000);
  {
    OutputSpill spill(budget, capacity, "/tmp"), other(budget, capacity, "/tmp");
    std::mt19937_64 random(5);
    std::string model;
    std::uint64_t written = 0;
    bool full = false, empty = false;
    for (int step = 0; step < 20'000; ++step) {
      if (random() % 2 == 0) {
        std::string bytes(std::min<std::uint64_t>(random() % 3000, spill.room()), '\0');
        for (auto& byte : bytes) byte = static_cast<char>(written++ * 131 >> 3U);
        spill.append(bytes);
        model += bytes;
      } else {
        const auto bytes = take(spill, random() % 3000);
        REQUIRE(model.compare(0, bytes.size(), bytes) == 0);
        model.erase(0, bytes.size());
      }
      REQUIRE(spill.size() == model.size());
      REQUIRE(spill.size() <= capacity);
      REQUIRE(budget->used(Budget::capture) == model.size());
      full = full || spill.size() == capacity;
      empty = empty || (spill.empty() && written > 0);
    }
    CHECK(full);
    CHECK(empty);
    // What one holds the others cannot.
    spill.append(std::string(spill.room(), 'x'));
    CHECK(spill.room() == 0);
    CHECK(other.room() == 15'000 - spill.size());
    other.append(std::string(other.room(), 'y'));
    CHECK(budget->room(Budget::capture) == 0);
    spill.clear();
    CHECK(spill.empty());
    CHECK(budget->used(Budget::capture) == other.size());
  }
  CHECK(budget->used(Budget::capture) == 0);
  CHECK(next_descriptor() == before);
}

TEST_CASE("bytes that the disk refuses are not lost, and no more are taken", "[gateway][TS-14]") {
  const auto budget = budget_of(1'000'000);
  OutputSpill spill(budget, 100'000, "/no/such/directory");
  CHECK(spill.room() == 100'000);
  spill.append("first");
  CHECK(spill.size() == 5);
  CHECK(spill.room() == 0);
  CHECK(take(spill, 3) == "fir");
  CHECK(take(spill, 3) == "st");
  CHECK(take(spill, 3).empty());
  CHECK(spill.error() == 0);
  CHECK(budget->used(Budget::capture) == 0);
  CHECK(spill.room() == 100'000);  // it is tried again
  OutputSpill none(budget, 0, "/tmp");
  CHECK(none.room() == 0);
  none.append("x");
  CHECK(take(none, 10) == "x");
}
