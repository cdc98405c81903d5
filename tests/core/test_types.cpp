// Types that behave: what can be written with an Output, a status, a command of numbers, an empty Process.
#include "support/catch.hpp"

#include <cwsandbox/client.hpp>
#include <cwsandbox/exec_options.hpp>
#include <cwsandbox/io.hpp>
#include <cwsandbox/process.hpp>
#include <cwsandbox/wait.hpp>

#include <array>
#include <clocale>
#include <limits>
#include <map>
#include <span>
#include <sstream>

using namespace cwsandbox;

namespace {
std::string printed(const auto& value) {
  std::ostringstream out;
  out << value;
  return out.str();
}
std::size_t length(std::string_view text) { return text.size(); }
std::size_t length_of_string(const std::string& text) { return text.size(); }
}  // namespace

TEST_CASE("an output is text wherever text is wanted", "[TY-1]") {
  const Output output("4 lines\n");
  const std::string copied = output;
  CHECK(copied == "4 lines\n");
  const std::string made(output), braced{output};
  CHECK(made == copied);
  CHECK(braced == copied);
  std::string assigned;
  assigned = output;
  assigned += output;
  CHECK(assigned == "4 lines\n4 lines\n");
  const std::string_view view = output;
  CHECK(view.data() == output.view().data());
  CHECK(length(output) == 8);
  CHECK(length_of_string(output) == 8);
  CHECK(std::stoi(output) == 4);
  const std::optional<std::string> perhaps = output;
  CHECK(perhaps == "4 lines\n");

  CHECK(output == "4 lines\n");
  CHECK("4 lines\n" == output);
  CHECK(output == copied);
  CHECK(copied == output);
  CHECK(output == view);
  CHECK(output == Output(view));
  CHECK(output != "5 lines\n");

  CHECK(output.find("lines") == 2);
  CHECK(output.find("none") == Output::npos);
  CHECK(output.contains("line"));
  CHECK_FALSE(output.contains("Line"));
  CHECK(output.starts_with("4"));
  CHECK(output.ends_with("\n"));
  CHECK(output.substr(2, 5) == "lines");

  CHECK(output + "x" == "4 lines\nx");
  CHECK("x" + output == "x4 lines\n");
  CHECK(copied + output == output + copied);
  CHECK(view + output == output + output);
  CHECK(printed(output) == copied);
  CHECK(Output() + Output() == "");
}

TEST_CASE("an output can be written to a process, and so can vectors of bytes", "[TY-1]") {
  const auto channel = std::make_shared<ByteChannel>();
  const StreamWriter writer(channel);
  const std::string text = "string,";
  writer.write(Output("output,")).result();
  writer.write(text).result();
  writer.write(std::vector<char>{'c', ','}).result();
  writer.write(std::vector<unsigned char>{'u', ','}).result();
  writer.write(std::vector<std::byte>{std::byte{'b'}}).result();
  std::string sent, chunk;
  while (channel->try_receive(chunk) == ByteChannel::Poll::chunk) sent += chunk;
  CHECK(sent == "output,string,c,u,b");
}

TEST_CASE("statuses and results are printed as words", "[TY-2]") {
  CHECK(printed(Outcome::timed_out) == "timed_out");
  CHECK(printed(EndReason::out_of_memory) == "out_of_memory");
  CHECK(printed(ProcessStatus::starting) == "starting");

  ProcessResult result;
  CHECK(printed(result) == "lost, no exit code");
  result.outcome = Outcome::exited;
  result.returncode = 0;
  CHECK(printed(result) == "exited, exit code 0");
  result.outcome = Outcome::signaled;
  result.returncode = 137;
  result.signal = 9;
  CHECK(printed(result) == "signaled by 9");
  result.reason = EndReason::out_of_memory;
  CHECK(result.summary() == "signaled by 9 (out_of_memory)");
  result.outcome = Outcome::timed_out;
  result.reason = EndReason::timeout;
  CHECK(result.summary() == "timed_out, signal 9 (timeout)");
}

TEST_CASE("a command has numbers", "[TY-3]") {
  using Command = std::vector<std::string>;
  CHECK(argv("sleep", 5) == Command{"sleep", "5"});
  CHECK(argv("sleep", 0.1, 0.1F, 1e300, -2.5) == Command{"sleep", "0.1", "0.1", "1e+300", "-2.5"});
  const std::string text = "t";
  CHECK(argv(text, std::string_view("v"), Output("o")) == Command{"t", "v", "o"});
  CHECK(argv(std::uint8_t{65}, std::int64_t{-1} << 63, ~std::uint64_t{0}) ==
        Command{"65", "-9223372036854775808", "18446744073709551615"});
  // Where the machine has one with a decimal comma; a number is the same without.
  const std::string before = std::setlocale(LC_ALL, nullptr);
  std::setlocale(LC_ALL, "de_DE.UTF-8");
  CHECK(argv(1234567.5) == Command{"1234567.5"});
  std::setlocale(LC_ALL, before.c_str());
}

TEST_CASE("an empty process can stand in a map, and says what it is", "[TY-4]") {
  std::map<std::string, Process> processes;
  const Process& empty = processes["a"];
  CHECK_FALSE(empty.valid());
  CHECK_FALSE(empty.done());
  CHECK(empty.command().empty());
  CHECK(empty.id().empty());
  CHECK_FALSE(empty.returncode());
  CHECK(empty.std_in() == nullptr);
  CHECK_THROWS_AS(empty.poll(), std::invalid_argument);
  CHECK_THROWS_AS(empty.wait(), std::invalid_argument);
  CHECK_THROWS_AS(empty.result(), std::invalid_argument);
  CHECK_THROWS_AS(empty.status(), std::invalid_argument);
  CHECK_THROWS_AS(empty.signal(15), std::invalid_argument);
  CHECK_THROWS_AS(empty.pid(), std::invalid_argument);
  CHECK_THROWS_AS(empty.detach(), std::invalid_argument);
  CHECK_THROWS_AS(empty.std_out().next(), std::invalid_argument);
}

TEST_CASE("a duration may have any unit and a fraction", "[TY-6]") {
  using namespace std::chrono_literals;
  const auto timeout = [](Duration duration) { return ExecOptions().with_timeout(duration).timeout(); };
  CHECK(timeout(2s) == 2000ms);
  CHECK(timeout(0.5s) == 500ms);
  CHECK(timeout(std::chrono::duration<float>(1.5F)) == 1500ms);
  CHECK(timeout(std::chrono::duration<double, std::ratio<60>>(0.5)) == 30s);
  CHECK(timeout(1h) == 3600s);
  // What is more than nothing stays more than nothing, and a last bit is no fraction.
  CHECK(timeout(1ns) == 1ms);
  CHECK(timeout(1.0001ms) == 2ms);
  for (int tenths = 1; tenths < 2000; ++tenths) CHECK(timeout(std::chrono::duration<double>(tenths / 10.0)) == tenths * 100ms);
  CHECK(timeout(std::chrono::milliseconds(86'399'999)) == 86'399'999ms);
  // Far away is far away, without an overflow on the way.
  constexpr auto infinite = std::chrono::duration<double>(std::numeric_limits<double>::infinity());
  CHECK(timeout(infinite) == std::chrono::hours(24 * 365 * 100));
  CHECK(timeout(std::chrono::hours::max()) == timeout(infinite));
  CHECK(timeout(std::chrono::duration<double>(1e300)) == timeout(infinite));
  CHECK(ClientOptions().with_connect_timeout(0.25s).connect_timeout() == 250ms);
  CHECK(SandboxOptions().with_max_lifetime(90.2s).max_lifetime() == 91s);
  CHECK(WaitManyOptions().with_timeout(-1s).timeout() == 0ms);  // a deadline that has passed
}

TEST_CASE("a duration that is none is refused, by the name of the option", "[TY-6]") {
  using namespace std::chrono_literals;
  const auto refused = [](auto set) {
    try {
      set();
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  constexpr auto nan = std::chrono::duration<double>(std::numeric_limits<double>::quiet_NaN());
  CHECK(refused([&] { ExecOptions().with_timeout(nan); }) == "cwsandbox: the timeout is not a number");
  CHECK(refused([] { ExecOptions().with_drain(-1ms); }) == "cwsandbox: the drain time is negative");
  CHECK(refused([] { ExecOptions().with_grace_period(-1ns); }) == "cwsandbox: the grace period is negative");
  CHECK(refused([] { AttachOptions().with_resume_grace(-0.5s); }) == "cwsandbox: the resume grace is negative");
  CHECK(refused([&] { ShellOptions().with_grace_period(nan); }) == "cwsandbox: the grace period is not a number");
  CHECK(refused([&] { StopOptions().with_grace_period(nan); }) == "cwsandbox: the grace period is not a number");
  CHECK(refused([] { ClientOptions().with_idle_timeout(-1s); }) == "cwsandbox: the idle timeout is negative");
  CHECK(refused([] { ClientOptions().with_retry_budget(-1s); }) == "cwsandbox: the retry budget is negative");
  CHECK(refused([] { SandboxOptions().with_max_lifetime(-1s); }) == "cwsandbox: the maximum lifetime is negative");
  CHECK(refused([&] { WaitManyOptions().with_timeout(nan); }) == "cwsandbox: the timeout is not a number");
  const task_source<int> source;
  const auto task = source.get_task();
  CHECK(refused([&] { static_cast<void>(task.result(nan)); }) == "cwsandbox: the time limit is not a number");
  CHECK(refused([&] { static_cast<void>(with_timeout(task, nan)); }) == "cwsandbox: the time limit is not a number");
  CHECK_THROWS_AS(task.result(std::chrono::duration<double>(-1e300)), TimeoutError);
}

TEST_CASE("any array of bytes can be written", "[TY-7]") {
  const auto channel = std::make_shared<ByteChannel>();
  const StreamWriter writer(channel);
  std::string storage = "span";
  const std::span<char> mutable_span(storage);
  const std::span<const char> span(storage);
  const std::span<const char, 2> fixed(storage.data(), 2);
  const std::array<char, 3> array{'a', 0, 'b'};
  const std::array<unsigned char, 1> octets{255};
  writer.write(mutable_span).result();
  writer.write(span).result();
  writer.write(fixed).result();
  writer.write(array).result();
  writer.write(octets).result();
  writer.write(std::vector<char>{'v'}).result();
  writer.write(Output("o")).result();
  writer.close().result();
  std::string all;
  while (auto chunk = channel->receive().result()) all += *chunk;
  CHECK(all == std::string("spanspanspa\0b\xffvo", 16));
}
