#include "runner/output_pace.hpp"
#include "support/catch.hpp"

#include <chrono>

using cwsandbox::runner::OutputPace;
using namespace std::chrono_literals;

namespace {

constexpr std::size_t kKiB = 1024;

/// An output whose reader is told by its pace when to look again.
class Output {
 public:
  /// `step` later it is read empty of `bytes`.
  std::chrono::nanoseconds read(std::size_t bytes, std::chrono::nanoseconds step) {
    now_ += step;
    pace_.count(bytes);
    return pace_.pause(now_);
  }
  /// `count` pieces of `bytes`, `step` apart.
  std::chrono::nanoseconds read(std::size_t bytes, std::chrono::nanoseconds step, int count) {
    auto pause = 0ns;
    for (int i = 0; i < count; ++i) pause = read(bytes, step);
    return pause;
  }

 private:
  OutputPace pace_;
  OutputPace::Clock::time_point now_ = OutputPace::Clock::now();
};

}  // namespace

TEST_CASE("an output that comes slowly is read as soon as there is something") {
  Output output;
  CHECK(output.read(64 * kKiB, 5ms, 100) == 0ns);
}

TEST_CASE("one that has just begun is read as soon as there is something, however fast it is") {
  Output output;
  CHECK(output.read(4 * kKiB, 1us, 64) == 0ns);  // of which it cannot be known yet
}

TEST_CASE("one that comes fast is left alone for as long as 32 KiB of it take") {
  Output output;
  CHECK(output.read(4 * kKiB, 100us, 200) == 800us);  // 40 MiB/s
  CHECK(output.read(32 * kKiB, 800us, 20) == 800us);
  INFO("half as fast, and too slow to be left alone");
  CHECK(output.read(32 * kKiB, 1600us, 20) == 1600us);
  CHECK(output.read(32 * kKiB, 2001us, 20) == 0ns);
  INFO("so fast that less than a timer's worth is left");
  CHECK(output.read(64 * kKiB, 10us, 20) == 50us);
}

TEST_CASE("one that pauses is read as soon as there is something again, until it has shown that it still comes fast") {
  Output output;
  REQUIRE(output.read(32 * kKiB, 800us, 20) == 800us);
  CHECK(output.read(0, 800us) == 0ns);
  CHECK(output.read(1, 10s) == 0ns);
  CHECK(output.read(1, 1us) == 0ns);
  CHECK(output.read(32 * kKiB, 800us, 20) == 800us);
}
