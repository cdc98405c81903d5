// The log of a main command by itself: the ring, its gaps and its times.
#include "gateway/log_store.hpp"
#include "support/catch.hpp"

#include <boost/asio/io_context.hpp>

#include <random>

namespace asio = boost::asio;
using Catch::Matchers::Contains;
using cwsandbox::gateway::LogStore;

namespace {

LogStore::Time at(int milliseconds) { return LogStore::Time(std::chrono::milliseconds(1'000'000 + milliseconds)); }

std::string read_all(LogStore& store, std::uint64_t from, std::size_t piece) {
  std::string out, block(piece, '\0');
  while (from < store.end()) {
    const std::size_t n = store.read(from, block.data(), block.size());
    if (n == 0) break;
    out.append(block, 0, n);
    from += n;
  }
  return out;
}

}  // namespace

TEST_CASE("a log keeps the newest bytes, at the offsets that they always had", "[gateway][logs]") {
  asio::io_context io;
  std::mt19937 random(7);
  for (const std::uint64_t capacity : {1u, 10u, 1000u, 100'000u}) {
    LogStore store(io.get_executor(), capacity, "/tmp");
    std::string all;
    for (int i = 0; i < 400; ++i) {
      std::string piece(1 + random() % (i % 50 == 0 ? 60'000 : 90), '\0');
      for (char& c : piece) c = random() % 20 == 0 ? '\n' : static_cast<char>('a' + random() % 26);
      store.append(piece, at(i));
      all += piece;
      REQUIRE(store.end() == all.size());
      REQUIRE(store.begin() == all.size() - std::min<std::uint64_t>(all.size(), capacity));
      REQUIRE(store.time_of(all.size() - 1) == at(i));
    }
    CHECK(read_all(store, store.begin(), 777) == all.substr(store.begin()));
    const auto gap = store.gap_at(0);
    REQUIRE(gap);
    CHECK(gap->to >= store.begin());
    CHECK(gap->to < store.begin() + 1000);
    if (gap->to > store.begin()) CHECK(all[gap->to - 1] == '\n');
    CHECK(!store.gap_at(gap->to));
    CHECK(!store.gap_at(store.end()));
  }
}

TEST_CASE("the times of a log are bounded in number, and none is lost to since", "[gateway][logs]") {
  asio::io_context io;
  LogStore store(io.get_executor(), 16 << 20, "/tmp");
  constexpr int lines = 50'000;
  for (int i = 0; i < lines; ++i) store.append("0123456789\n", at(i));
  int marks = 0;
  for (std::uint64_t offset = 0; offset < store.end(); offset = store.next_arrival(offset)) ++marks;
  CHECK(marks <= 4096);
  CHECK(marks > 1000);
  for (const int i : {0, 1, 17, 4096, 25'000, lines - 1000, lines - 1}) {
    const std::uint64_t from = store.since(at(i));
    CHECK(from <= static_cast<std::uint64_t>(i) * 11);  // nothing that arrived later is left out
    CHECK(from % 11 == 0);
    CHECK(store.time_of(static_cast<std::uint64_t>(i) * 11) <= at(i));
  }
  CHECK(store.since(at(lines - 1)) == (lines - 1) * 11);  // the newest are exact
  CHECK(store.since(at(lines)) == store.end());
}

TEST_CASE("a log that cannot be written says so, and goes on when it can", "[gateway][logs][LG-4]") {
  asio::io_context io;
  LogStore store(io.get_executor(), 1 << 20, "/nonexistent/place");
  store.append("kept in memory\n", at(0));
  const std::string much(100'000, 'x');
  store.append(much, at(1));
  store.append(much, at(2));
  CHECK(!store.has_file());
  CHECK(read_all(store, 0, 4096) == "kept in memory\n");
  const auto gap = store.gap_at(15);
  REQUIRE(gap);
  CHECK(gap->to == store.end());
  CHECK_THAT(gap->why, Contains("No such file or directory"));
  store.discard();
  REQUIRE(store.gap_at(0));
  CHECK(store.gap_at(0)->to == store.end());
}

TEST_CASE("little output needs no file", "[gateway][logs]") {
  asio::io_context io;
  LogStore store(io.get_executor(), 1 << 20, "/tmp");
  store.append(std::string(1000, 'a'), at(0));
  CHECK(!store.has_file());
  store.append(std::string(30'000, 'b'), at(1));
  CHECK(store.has_file());
  CHECK(read_all(store, 0, 512) == std::string(1000, 'a') + std::string(30'000, 'b'));
  store.finish();
  store.append("late", at(2));
  CHECK(store.end() == 31'000);
}
