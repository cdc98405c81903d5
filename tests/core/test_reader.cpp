// StreamReader, LineReader and Channel.
#include "support/catch.hpp"

#include <cwsandbox/asio.hpp>
#include <cwsandbox/io.hpp>
#include <cwsandbox/stream_reader.hpp>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <future>
#include <numeric>
#include <thread>

using namespace cwsandbox;
using namespace std::chrono_literals;
using TextChannel = Channel<std::string>;

namespace {
std::shared_ptr<TextChannel> filled(std::initializer_list<const char*> items) {
  auto channel = std::make_shared<TextChannel>(64);
  for (const char* item : items) (void)channel->send(item);
  channel->finish();
  return channel;
}
std::vector<std::string> all(const StreamReader<std::string>& reader) {
  std::vector<std::string> items;
  for (const auto& item : reader) items.push_back(item);
  return items;
}
}  // namespace

TEST_CASE("items in order, then the end, again and again", "[SR-1][SR-2]") {
  StreamReader<std::string> reader(filled({"a", "b", "c"}));
  CHECK(all(reader) == std::vector<std::string>{"a", "b", "c"});
  for (int i = 0; i < 3; ++i) {
    auto end = reader.next();
    CHECK(end.done());
    CHECK_FALSE(end.result().has_value());
  }
}

TEST_CASE("items awaited on any executor", "[SR-1][SR-10]") {
  asio::thread_pool pool(3);
  auto channel = std::make_shared<Channel<int>>(4);
  StreamReader<int> reader(channel);
  std::promise<long> sum;
  asio::co_spawn(
      pool,
      [&]() -> asio::awaitable<void> {
        long total = 0;
        while (auto item = co_await reader.next()) total += *item;
        sum.set_value(total);
      },
      asio::detached);
  for (int i = 1; i <= 1000; ++i) channel->send(i).result();
  channel->finish();
  CHECK(sum.get_future().get() == 500'500);
  pool.join();
}

TEST_CASE("an error comes once, after the data, then the end", "[SR-3]") {
  auto channel = std::make_shared<TextChannel>();
  (void)channel->send("data");
  channel->fail(std::make_exception_ptr(SandboxConnectionLostError("gone")));
  StreamReader<std::string> reader(channel);
  CHECK(reader.next().result() == "data");
  CHECK_THROWS_AS(reader.next().result(), SandboxConnectionLostError);
  CHECK_FALSE(reader.next().result().has_value());
  CHECK_FALSE(reader.next().result().has_value());
}

TEST_CASE("close ends at once, drops what is unread, calls the hook once", "[SR-4][SR-5]") {
  int closes = 0;
  auto channel = std::make_shared<TextChannel>(4, LoopManager(), [&] { ++closes; });
  (void)channel->send("unread");
  StreamReader<std::string> reader(channel);
  reader.close();
  reader.close();
  CHECK_FALSE(reader.next().result().has_value());
  CHECK(closes == 1);
  CHECK_THROWS_AS(channel->send("late").result(), SandboxExecutionError);
}

TEST_CASE("close from another thread wakes a blocked consumer", "[SR-9]") {
  auto channel = std::make_shared<TextChannel>();
  StreamReader<std::string> reader(channel);
  auto waiting = reader.next();
  auto blocked = std::async(std::launch::async, [&] { return waiting.result(); });
  reader.close();
  CHECK_FALSE(blocked.get().has_value());
}

TEST_CASE("a bounded channel holds its producer back", "[SR-8]") {
  auto channel = std::make_shared<TextChannel>(2);
  CHECK(channel->send("1").done());
  CHECK(channel->send("2").done());
  auto third = channel->send("3");
  CHECK_FALSE(third.done());
  std::string fourth = "4";
  CHECK_FALSE(channel->try_send(fourth));
  StreamReader<std::string> reader(channel);
  CHECK(reader.next().result() == "1");
  CHECK(third.done());
  channel->finish();
  CHECK(all(reader) == std::vector<std::string>{"2", "3"});
}

TEST_CASE("a send that was withdrawn is not delivered", "[SR-1][OR-7]") {
  auto channel = std::make_shared<TextChannel>(1);
  CHECK(channel->send("1").done());
  const auto second = channel->send("2"), third = channel->send("3"), fourth = channel->send("4");
  CHECK(third.cancel());
  CHECK_FALSE(third.cancel());
  CHECK_THROWS_AS(third.result(), CancelledError);
  StreamReader<std::string> reader(channel);
  CHECK(reader.next().result() == "1");
  CHECK(second.done());
  CHECK_FALSE(second.cancel());  // too late: it is in the queue
  channel->finish();
  CHECK(all(reader) == std::vector<std::string>{"2", "4"});
  fourth.result();

  auto gone = std::make_shared<TextChannel>(1);
  (void)gone->send("1");
  const auto waiting = gone->send("2");
  gone.reset();
  CHECK_THROWS_AS(waiting.result(), CancelledError);
  CHECK_FALSE(waiting.cancel());
}

TEST_CASE("a second concurrent consumer is refused", "[SR-13]") {
  auto channel = std::make_shared<TextChannel>();
  StreamReader<std::string> reader(channel);
  auto first = reader.next();
  CHECK_THROWS_AS(reader.next(), std::logic_error);
  auto copy = reader;
  CHECK_THROWS_AS(copy.next(), std::logic_error);
  (void)channel->send("x");
  CHECK(first.result() == "x");
  (void)reader.next();  // allowed again
}

TEST_CASE("blocking iteration on the loop's own thread throws", "[SR-12]") {
  LoopManager loop;
  StreamReader<std::string> reader(std::make_shared<TextChannel>(4, loop), loop);
  std::promise<bool> threw;
  asio::post(loop.executor(), [&] {
    try {
      for ([[maybe_unused]] const auto& item : reader) {
      }
      threw.set_value(false);
    } catch (const std::logic_error&) {
      threw.set_value(true);
    }
  });
  CHECK(threw.get_future().get());
}

TEST_CASE("a read that is given up takes nothing", "[SR-1]") {
  auto channel = std::make_shared<TextChannel>();
  StreamReader<std::string> reader(channel);
  SECTION("cancelled") {
    auto abandoned = reader.next();
    CHECK(abandoned.cancel());
    CHECK_THROWS_AS(abandoned.result(), CancelledError);
    (void)channel->send("kept");
    CHECK(reader.next().result() == "kept");
  }
  SECTION("dropped") {
    (void)reader.next();
    (void)channel->send("kept");
    CHECK(reader.next().result() == "kept");
  }
  SECTION("lost a race against a timer") {
    using namespace asio::experimental::awaitable_operators;
    asio::io_context io;
    std::string got;
    asio::co_spawn(
        io,
        [&]() -> asio::awaitable<void> {
          auto read = [](StreamReader<std::string> from) -> asio::awaitable<std::optional<std::string>> {
            co_return co_await from.next();
          };
          asio::steady_timer timer(io, 1ms);
          auto either = co_await (read(reader) || timer.async_wait(asio::use_awaitable));
          CHECK(either.index() == 1);
          (void)channel->send("kept");
          got = (co_await reader.next()).value_or("");
        },
        asio::detached);
    io.run();
    CHECK(got == "kept");
  }
}

TEST_CASE("lines, however the chunks were cut", "[SR-7]") {
  StreamReader<std::string> reader(filled({"one\ntw", "o\n", "\n", "thr", "ee\r\nlast"}));
  std::vector<std::string> lines;
  for (std::string_view line : reader.lines()) lines.emplace_back(line);
  CHECK(lines == std::vector<std::string>{"one", "two", "", "three\r", "last"});

  StreamReader<std::string> empty(filled({}));
  CHECK_FALSE(empty.lines().next().result().has_value());
  StreamReader<std::string> ended(filled({"a\n"}));
  auto ended_lines = ended.lines();
  CHECK(ended_lines.next().result() == "a");
  CHECK_FALSE(ended_lines.next().result().has_value());
}

TEST_CASE("a line over the limit is an error, not unbounded memory", "[SR-7]") {
  StreamReader<std::string> reader(filled({"short\n", "much longer than that"}));
  auto lines = reader.lines(8);
  CHECK(lines.next().result() == "short");
  CHECK_THROWS_AS(lines.next().result(), std::length_error);
}

TEST_CASE("lines awaited while they arrive, errors after the last one", "[SR-3][SR-7][SR-8]") {
  asio::io_context io;
  auto channel = std::make_shared<TextChannel>(1);
  StreamReader<std::string> reader(channel, LoopManager(io.get_executor()));
  std::vector<std::string> lines;
  bool failed = false;
  asio::co_spawn(
      io,
      [&]() -> asio::awaitable<void> {
        auto source = reader.lines();
        try {
          while (auto line = co_await source.next()) lines.push_back(*line);
        } catch (const SandboxConnectionLostError&) {
          failed = true;
        }
      },
      asio::detached);
  asio::co_spawn(
      io,
      [&]() -> asio::awaitable<void> {
        for (int i = 0; i < 100; ++i) co_await channel->send("line " + std::to_string(i) + (i % 2 == 0 ? "\npart" : "\n"));
        channel->fail(std::make_exception_ptr(SandboxConnectionLostError("gone")));
      },
      asio::detached);
  io.run();
  CHECK(failed);
  REQUIRE(lines.size() == 100);
  CHECK(lines[1] == "partline 1");
}

TEST_CASE("text cut between the bytes of a character comes out whole", "[SR-11]") {
  const std::string text = "gr\xC3\xBC\xC3\x9F\x65 \xE2\x82\xAC \xF0\x9F\x8C\x8D\n";
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    StreamReader<std::string> reader(filled({text.substr(0, cut).c_str(), text.substr(cut).c_str()}));
    CHECK(reader.lines().next().result().value() + "\n" == text);
    StreamReader<std::string> again(filled({text.substr(0, cut).c_str(), text.substr(cut).c_str()}));
    CHECK(again.read_all().result() == text);
  }
}

TEST_CASE("read_all waits for the end, gives errors, and can be given up", "[SR-1][SR-3]") {
  auto channel = std::make_shared<TextChannel>(4);
  StreamReader<std::string> reader(channel);
  auto everything = reader.read_all();
  std::thread producer([&] {
    for (int i = 0; i < 1000; ++i) channel->send("x").result();
    channel->finish();
  });
  CHECK(everything.result().size() == 1000);
  producer.join();

  auto broken = std::make_shared<TextChannel>();
  broken->fail(std::make_exception_ptr(SandboxError("broken")));
  CHECK_THROWS_AS(StreamReader<std::string>(broken).read_all().result(), SandboxError);

  auto slow = std::make_shared<TextChannel>();
  StreamReader<std::string> slow_reader(slow);
  auto waiting = slow_reader.read_all();
  CHECK(waiting.cancel());
  CHECK_THROWS_AS(waiting.result(), CancelledError);
  (void)slow->send("kept");
  CHECK(slow_reader.next().result() == "kept");
}

TEST_CASE("an item is taken by who looks at it, not by who waits", "[SR-14]") {
  using namespace asio::experimental::awaitable_operators;
  asio::io_context io;
  auto channel = std::make_shared<TextChannel>(8, LoopManager(io.get_executor()));
  const StreamReader<std::string> reader(channel, LoopManager(io.get_executor()));
  SECTION("the wait lost against a timer, or won and was all that was there") {
    std::vector<std::string> got;
    asio::co_spawn(
        io,
        [&]() -> asio::awaitable<void> {
          asio::steady_timer timer(io);
          for (const bool item_first : {false, true, true}) {
            if (item_first) (void)channel->send("x" + std::to_string(got.size()));
            timer.expires_after(item_first ? 1h : 1ms);
            const auto either = co_await (reader.next().async_wait(asio::use_awaitable) || timer.async_wait(asio::use_awaitable));
            CHECK(either.index() == (item_first ? 0 : 1));
            if (item_first) got.push_back((co_await reader.next()).value_or(""));
          }
          channel->finish();
          CHECK_FALSE(co_await reader.next());
        },
        asio::detached);
    io.run();
    CHECK(got == std::vector<std::string>{"x0", "x1"});
  }
  SECTION("the item came between the cancellation and its handler") {
    asio::cancellation_signal signal;
    std::optional<boost::system::error_code> saw;
    reader.next().async_wait(asio::bind_cancellation_slot(
        signal.slot(), asio::bind_executor(io.get_executor(), [&](boost::system::error_code error) { saw = error; })));
    (void)channel->send("kept");
    signal.emit(asio::cancellation_type::terminal);
    io.run();
    REQUIRE(saw);
    CHECK(*saw == asio::error::operation_aborted);
    CHECK(reader.next().result() == "kept");
  }
  SECTION("the task was dropped with its item") {
    (void)channel->send("1");
    (void)channel->send("2");
    (void)reader.next();
    {
      const auto unseen = reader.next();
      CHECK(unseen.done());
      CHECK(reader.next().state() == unseen.state());  // nobody has looked at it
    }
    CHECK(reader.next().result() == "1");
    CHECK(reader.next().result() == "2");
  }
  SECTION("somebody else waits already when it is given back") {
    (void)channel->send("1");
    auto first = reader.next();
    CHECK(first.result() == "1");
    auto second = reader.next();
    (void)channel->send("2");
    first = {};
    CHECK(second.result() == "2");
  }
  SECTION("an error") {
    channel->fail(std::make_exception_ptr(SandboxConnectionLostError("gone")));
    (void)reader.next();
    CHECK_THROWS_AS(reader.next().result(), SandboxConnectionLostError);
    CHECK_FALSE(reader.next().result().has_value());
  }
}

TEST_CASE("what is left over between lines belongs to the stream", "[SR-7][SR-14]") {
  StreamReader<std::string> reader(filled({"1\n2\n3\n4", "\n5\nrest"}));
  CHECK(reader.lines().next().result() == "1");
  for (std::string_view line : reader.lines()) {
    CHECK(line == "2");
    break;
  }
  CHECK(reader.next_line().result() == "3");
  (void)reader.next_line();  // nobody looks at it
  {
    const auto unseen = reader.next_line();
    CHECK(reader.lines().next().state() == unseen.state());
  }
  CHECK(reader.next_line().result() == "4");
  CHECK(reader.next_line().result() == "5");
  (void)reader.next_line();
  CHECK(reader.next_line().result() == "rest");
  CHECK_FALSE(reader.next_line().result().has_value());

  StreamReader<std::string> mixed(filled({"line\nand the rest", " of it"}));
  CHECK(mixed.next_line().result() == "line");
  CHECK(mixed.next().result() == "and the rest");
  CHECK(mixed.read_all().result() == " of it");

  // A line that is too long for one is not lost to another.
  StreamReader<std::string> strict(filled({"too long\nshort\n"}));
  CHECK_THROWS_AS(strict.next_line(3).result(), std::length_error);
  CHECK(strict.next_line().result() == "too long");
  CHECK(strict.next_line().result() == "short");
}

TEST_CASE("a line that was given up is not lost, nor is what broke the stream", "[SR-3][SR-14]") {
  auto channel = std::make_shared<TextChannel>(8);
  StreamReader<std::string> reader(channel);
  (void)channel->send("half a ");
  auto given_up = reader.next_line();
  CHECK_FALSE(given_up.done());
  CHECK(given_up.cancel());
  (void)channel->send("line\nand");
  CHECK(reader.next_line().result() == "half a line");
  {
    const auto waits = reader.next_line();
    CHECK_FALSE(waits.done());
  }
  (void)channel->send(" more");
  // A process that was cancelled breaks its streams with this one.
  channel->fail(std::make_exception_ptr(CancelledError("the process was cancelled")));
  CHECK(reader.next_line().result() == "and more");
  (void)reader.next_line();  // the error, which nobody looks at
  CHECK_THROWS_AS(reader.lines().next().result(), CancelledError);
  CHECK_FALSE(reader.next_line().result().has_value());
}

TEST_CASE("a read_all that was given up leaves what it had", "[SR-14]") {
  auto channel = std::make_shared<TextChannel>(8);
  StreamReader<std::string> reader(channel);
  (void)channel->send("one ");
  (void)channel->send("two ");
  CHECK(reader.read_all().cancel());
  (void)channel->send("three");
  {
    const auto dropped = reader.read_all();
  }
  channel->finish();
  CHECK(reader.read_all().result() == "one two three");
}

TEST_CASE("items come once and in order, however their waits are cancelled", "[SR-14][SR-10]") {
  using namespace asio::experimental::awaitable_operators;
  // A producer and a timer on threads of their own, so that both come at any time.
  asio::thread_pool pool(3);
  auto channel = std::make_shared<Channel<int>>(4);
  const StreamReader<int> reader(channel);
  constexpr int kItems = 3000;
  std::promise<std::vector<int>> seen;
  auto consume = [](StreamReader<int> from, std::promise<std::vector<int>>* out) -> asio::awaitable<void> {
    std::vector<int> items;
    asio::steady_timer timer(co_await asio::this_coro::executor);
    try {
      for (;;) {
        timer.expires_after(std::chrono::microseconds(20));
        auto wait = from.next();
        static_cast<void>(co_await (wait.async_wait(asio::use_awaitable) || timer.async_wait(asio::use_awaitable)));
        if (!wait.done() || items.size() % 3 == 0) {
          wait = {};
          wait = from.next();
        }
        const auto item = co_await wait;
        if (!item) break;
        items.push_back(*item);
      }
    } catch (...) {
      out->set_exception(std::current_exception());
      co_return;
    }
    out->set_value(std::move(items));
  };
  asio::co_spawn(asio::make_strand(pool.get_executor()), consume(reader, &seen), asio::detached);
  for (int i = 0; i < kItems; ++i) channel->send(i).result();
  channel->finish();
  std::vector<int> expected(kItems);
  std::iota(expected.begin(), expected.end(), 0);
  CHECK(seen.get_future().get() == expected);
  pool.join();
}

TEST_CASE("a reader of nothing is misuse, not a crash", "[SR-1]") {
  CHECK_THROWS_AS(StreamReader<std::string>(nullptr), std::invalid_argument);
  const StreamReader<std::string> empty;
  CHECK_THROWS_AS(empty.next(), std::invalid_argument);
  CHECK_THROWS_AS(empty.lines(), std::invalid_argument);
  CHECK_THROWS_AS(empty.read_all(), std::invalid_argument);
  CHECK_THROWS_AS(empty.close(), std::invalid_argument);
  TextChannel channel;
  CHECK_THROWS_AS(channel.fail(nullptr), std::invalid_argument);
}

TEST_CASE("the offset counts what was looked at, in chunks, lines and whatever else", "[SR-17]") {
  const StreamReader<std::string> reader(filled({"one\ntw", "o\nthree\n", "rest", "> tail", "end"}));
  CHECK(reader.offset() == 0);
  {
    const auto dropped = reader.next();
    CHECK(dropped.done());
    CHECK(reader.offset() == 0);  // nobody has looked
  }
  CHECK(reader.next_line().result() == "one");
  CHECK(reader.offset() == 4);  // not what is left over behind it
  {
    const auto unseen = reader.next_line();
    CHECK(reader.offset() == 4);
  }
  CHECK(reader.next_line().result() == "two");
  CHECK(reader.offset() == 8);
  const auto line = reader.next_line();
  CHECK(line.result() == "three");
  CHECK(line.result() == "three");  // once more is not more
  CHECK(reader.offset() == 14);
  CHECK(reader.next().result() == "rest");
  CHECK(reader.offset() == 18);
  {
    const auto unseen = expect(reader, "> ", std::chrono::seconds(10));
    CHECK(unseen.done());
    CHECK(reader.offset() == 18);
  }
  CHECK(expect(reader, "> ", std::chrono::seconds(10)).result() == "> ");
  CHECK(reader.offset() == 20);
  CHECK_THROWS_AS(expect(reader, "never", std::chrono::seconds(10)).result(), SandboxExecutionError);
  CHECK(reader.offset() == 20);
  CHECK(reader.read_all().result() == "tailend");
  CHECK(reader.offset() == 27);
  CHECK_FALSE(reader.next().result().has_value());
  CHECK(reader.offset() == 27);
  // Whatever way lines end.
  const StreamReader<std::string> lines(filled({"a\r\n\nlast"}));
  for (const auto line_of : lines.lines()) static_cast<void>(line_of);
  CHECK(lines.offset() == 8);
  CHECK_THROWS_AS(StreamReader<std::string>().offset(), std::invalid_argument);
}

TEST_CASE("what is gathered and given up is not counted", "[SR-17]") {
  const auto channel = std::make_shared<TextChannel>();
  const StreamReader<std::string> reader(channel);
  channel->send("begun").result();
  {
    const auto all_of_it = reader.read_all();
    CHECK_FALSE(all_of_it.done());
    CHECK(reader.offset() == 0);
    all_of_it.cancel();
  }
  CHECK(reader.offset() == 0);
  channel->send("more").result();
  channel->finish();
  CHECK(reader.read_all().result() == "begunmore");
  CHECK(reader.offset() == 9);
}
