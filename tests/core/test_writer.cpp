// StreamWriter over a ByteChannel.
#include "support/catch.hpp"

#include <cwsandbox/asio.hpp>
#include <cwsandbox/stream_writer.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>

#include <future>
#include <thread>

using namespace cwsandbox;
using namespace std::chrono_literals;

namespace {

struct Pair {
  std::shared_ptr<ByteChannel> channel = std::make_shared<ByteChannel>();
  StreamWriter writer{channel};
  std::string drain() {
    std::string all, chunk;
    while (channel->try_receive(chunk) == ByteChannel::Poll::chunk) {
      CHECK(chunk.size() <= ByteChannel::SLOT_SIZE);
      all += chunk;
    }
    return all;
  }
};

template <typename Call>
std::string message_of(Call call) {
  try {
    call();
  } catch (const SandboxExecutionError& error) {
    return error.what();
  }
  return "no SandboxExecutionError";
}

}  // namespace

TEST_CASE("a write completes when it is queued, without an allocation of its own", "[SW-1]") {
  Pair pair;
  auto first = pair.writer.write("abc");
  CHECK(first.done());
  CHECK(first.state() == pair.writer.write("def").state());  // the shared completed state
  CHECK(pair.drain() == "abcdef");
}

TEST_CASE("writeline appends a newline and encodes", "[SW-2]") {
  Pair pair;
  (void)pair.writer.writeline("pear");
  (void)pair.writer.writeline("");
  CHECK(pair.drain() == "pear\n\n");
  (void)pair.writer.writeline("gr\xC3\xBC\xC3\x9F", "latin-1");
  CHECK(pair.drain() == "gr\xFC\xDF\n");
  (void)pair.writer.writeline("a", "utf-16-le");
  CHECK(pair.drain() == std::string("a\0\n\0", 4));
}

TEST_CASE("writeline knows encodings by the names that Python has for them", "[SW-2]") {
  Pair pair;
  const auto sent = [&](std::string_view text, const char* encoding) {
    INFO(encoding);
    CHECK_NOTHROW((void)pair.writer.writeline(text, encoding));
    return pair.drain();
  };
  for (const char* name : {"utf-8-sig", "UTF_8_SIG", "utf_8_sig"})
    CHECK(sent("a\xC3\xBC", name) ==
          "\xEF\xBB\xBF"
          "a\xC3\xBC\n");
  for (const char* name : {"U8", "utf", "cp65001", "utf_8"}) CHECK(sent("\xC3\xBC", name) == "\xC3\xBC\n");
  for (const char* name : {"8859", "latin", "latin_1", "L1", "iso_8859_1_1987"}) CHECK(sent("\xC3\xBC", name) == "\xFC\n");
  for (const char* name : {"1252", "cp1252", "windows_1252"}) CHECK(sent("\xE2\x82\xAC", name) == "\x80\n");
  for (const char* name : {"l9", "iso8859_15", "latin9"}) CHECK(sent("\xE2\x82\xAC", name) == "\xA4\n");
  for (const char* name : {"mac_roman", "macroman", "Mac-Roman"}) CHECK(sent("\xC3\xBC", name) == "\x9F\n");
  for (const char* name : {"shift_jis", "shiftjis", "932", "ms-kanji"}) CHECK(sent("\xE3\x81\x82", name) == "\x82\xA0\n");
  for (const char* name : {"euc_jp", "ujis"}) CHECK(sent("\xE3\x81\x82", name) == "\xA4\xA2\n");
  for (const char* name : {"gb2312", "chinese", "936"}) CHECK(sent("\xE4\xB8\xAD", name) == "\xD6\xD0\n");
  for (const char* name : {"big5hkscs", "hkscs", "big5_tw"}) CHECK(sent("\xE4\xB8\xAD", name) == "\xA4\xA4\n");
  for (const char* name : {"korean", "ks_c_5601_1987", "949"}) CHECK(sent("\xEA\xB0\x80", name) == "\xB0\xA1\n");
  CHECK(sent("a", "utf_16_le") == std::string("a\0\n\0", 4));
  for (const char* name : {"mac_greek", "99999", "rot13", "-"}) {
    INFO(name);
    try {
      (void)pair.writer.writeline("x", name);
      FAIL("an encoding that there is none of");
    } catch (const std::invalid_argument& error) {
      CHECK(std::string(error.what()) == "unknown encoding '" + std::string(name) + "'");
    }
  }
  CHECK(pair.drain().empty());
}

TEST_CASE("writeline refuses what cannot be encoded and sends nothing", "[SW-2]") {
  Pair pair;
  CHECK_THROWS_AS(pair.writer.writeline("x", "no-such-encoding"), std::invalid_argument);
  CHECK_THROWS_AS(pair.writer.writeline("x", ""), std::invalid_argument);
  CHECK_THROWS_AS(pair.writer.writeline("x", "ascii//TRANSLIT"), std::invalid_argument);
  CHECK_THROWS_AS(pair.writer.writeline("\xE2\x82\xAC", "latin-1"), std::invalid_argument);
  CHECK_THROWS_AS(pair.writer.writeline("\xFF", "utf-16"), std::invalid_argument);
  CHECK(pair.drain().empty());
}

TEST_CASE("order is kept over write, writeline and close", "[SW-3][SW-7]") {
  Pair pair;
  std::string expected;
  std::vector<task<void>> pending;
  for (int i = 0; i < 50; ++i) {
    const auto text = std::to_string(i);
    pending.push_back(i % 2 == 0 ? pair.writer.write(text) : pair.writer.writeline(text));
    expected += text + (i % 2 == 0 ? "" : "\n");
  }
  pending.push_back(pair.writer.close());
  CHECK_FALSE(pending.back().done());
  std::string all;
  while (auto chunk = pair.channel->receive().result()) all += *chunk;
  CHECK(all == expected);
  for (auto& write : pending) CHECK(write.done());
}

TEST_CASE("the seventeenth chunk waits", "[SW-4]") {
  Pair pair;
  CHECK(StreamWriter::QUEUE_SIZE == 16);
  const std::string slot(ByteChannel::SLOT_SIZE, 'x');
  for (std::size_t i = 0; i < 16; ++i) CHECK(pair.writer.write(slot).done());
  auto waits = pair.writer.write("one more");
  CHECK_FALSE(waits.done());
  CHECK_THROWS_AS(waits.result(1ms), TimeoutError);
  std::string chunk;
  CHECK(pair.channel->try_receive(chunk) == ByteChannel::Poll::chunk);
  CHECK(waits.done());
}

TEST_CASE("a large write takes as many slots as it has chunks", "[SW-4]") {
  Pair pair;
  std::string big(ByteChannel::SLOT_SIZE * 40 + 5, 'b');
  auto write = pair.writer.write(std::move(big));
  CHECK(pair.channel->size() == 16);
  CHECK_FALSE(write.done());
  CHECK(pair.drain().size() == ByteChannel::SLOT_SIZE * 40 + 5);
  CHECK(write.done());
}

TEST_CASE("an empty write sends nothing and is not the end", "[SW-5]") {
  Pair pair;
  CHECK(pair.writer.write("").done());
  CHECK(pair.writer.write(std::string()).done());
  std::string chunk;
  CHECK(pair.channel->try_receive(chunk) == ByteChannel::Poll::pending);
  (void)pair.writer.write("x");
  CHECK(pair.drain() == "x");
}

TEST_CASE("closing: seen at once, one end ever, writes refused", "[SW-6][SW-8][SW-9]") {
  Pair pair;
  (void)pair.writer.write("last");
  CHECK_FALSE(pair.writer.closed());
  CHECK(pair.writer.close().done());
  CHECK(pair.writer.closed());
  CHECK(pair.writer.close().done());
  const std::string closed = "Cannot write to stdin: stream is closed";
  CHECK(message_of([&] { (void)pair.writer.write("x"); }) == closed);
  CHECK(message_of([&] { (void)pair.writer.write(""); }) == closed);
  CHECK(message_of([&] { (void)pair.writer.writeline("x"); }) == closed);
  CHECK(pair.drain() == "last");
  std::string chunk;
  CHECK(pair.channel->try_receive(chunk) == ByteChannel::Poll::end);
  CHECK(pair.channel->try_receive(chunk) == ByteChannel::Poll::end);
}

TEST_CASE("closed() is true while the end still waits for room", "[SW-6][SW-7]") {
  Pair pair;
  auto big = pair.writer.write(std::string(ByteChannel::SLOT_SIZE * 17, 'x'));
  auto close = pair.writer.close();
  auto again = pair.writer.close();
  CHECK(pair.writer.closed());
  CHECK_FALSE(close.done());
  CHECK_FALSE(close.cancel());
  (void)pair.drain();
  CHECK(close.done());
  CHECK(again.done());
}

TEST_CASE("a failed stream says so, with the cause nested, and wins over closed", "[SW-10][SW-11][SW-13]") {
  Pair pair;
  (void)pair.writer.close();
  pair.writer.set_exception(std::make_exception_ptr(SandboxExecutionError("Process has exited")));
  CHECK(message_of([&] { (void)pair.writer.write("x"); }) == "Cannot write to stdin: stream has failed");
  CHECK(message_of([&] { (void)pair.writer.writeline("x"); }) == "Cannot write to stdin: stream has failed");
  try {
    (void)pair.writer.write("x");
  } catch (const SandboxExecutionError& error) {
    CHECK(message_of([&] { std::rethrow_if_nested(error); }) == "Process has exited");
  }
  pair.writer.close().result();  // does not throw
}

TEST_CASE("what waits when the stream fails ends at once", "[SW-14]") {
  Pair pair;
  auto write = pair.writer.write(std::string(ByteChannel::SLOT_SIZE * 20, 'x'));
  auto flush = pair.writer.flush();
  auto close = pair.writer.close();
  auto blocked = std::async(std::launch::async, [&] { return message_of([&] { write.result(); }); });
  pair.writer.set_exception(std::make_exception_ptr(SandboxExecutionError("Process has exited")));
  CHECK(blocked.get() == "Cannot write to stdin: stream has failed");
  CHECK_THROWS_AS(flush.result(), SandboxExecutionError);
  close.result();
}

TEST_CASE("flush completes when the peer has it", "[SW-18]") {
  Pair pair;
  CHECK(pair.writer.flush().done());
  (void)pair.writer.write("12345");
  auto flush = pair.writer.flush();
  (void)pair.drain();
  CHECK_FALSE(flush.done());
  pair.channel->acknowledge(4);
  CHECK_FALSE(flush.done());
  pair.channel->acknowledge(5);
  CHECK(flush.done());
}

TEST_CASE("after a failure a flush is done for what had come, and for nothing else", "[SW-10][SW-18]") {
  Pair pair;
  const auto fail = [&](const char* why) { pair.writer.set_exception(std::make_exception_ptr(SandboxExecutionError(why))); };
  (void)pair.writer.write("12345");
  (void)pair.drain();
  pair.channel->acknowledge(5);
  fail("The process has closed its stdin");
  CHECK(pair.writer.flush().done());
  fail("Process has exited");
  try {
    (void)pair.writer.write("x");
    FAIL("no error");
  } catch (const SandboxExecutionError& error) {
    CHECK(message_of([&] { std::rethrow_if_nested(error); }) == "Process has exited");  // the last word counts
  }
  Pair other;
  (void)other.writer.write("12345");
  (void)other.drain();
  other.channel->acknowledge(4);
  other.writer.set_exception(std::make_exception_ptr(SandboxExecutionError("Process has exited")));
  CHECK(message_of([&] { (void)other.writer.flush(); }) == "Cannot write to stdin: stream has failed");
}

TEST_CASE("a waiting write can be withdrawn while none of it is queued", "[SW-4]") {
  Pair pair;
  auto first = pair.writer.write(std::string(ByteChannel::SLOT_SIZE * 17, 'a'));
  auto second = pair.writer.write("withdrawn");
  CHECK_FALSE(first.cancel());  // its beginning is under way
  CHECK(second.cancel());
  CHECK_THROWS_AS(second.result(), CancelledError);
  (void)pair.writer.write("kept");
  const auto all = pair.drain();
  CHECK(all.size() == ByteChannel::SLOT_SIZE * 17 + 4);
  pair.channel->acknowledge(all.size());
  CHECK(pair.writer.flush().done());
}

TEST_CASE("back-pressure across threads and coroutines", "[SW-3][SW-4]") {
  Pair pair;
  asio::io_context io;
  std::uint64_t received = 0;
  asio::co_spawn(
      io,
      [&]() -> asio::awaitable<void> {
        while (auto chunk = co_await pair.channel->receive()) received += chunk->size();
      },
      asio::detached);
  std::thread writer([&] {
    for (int i = 0; i < 2000; ++i) pair.writer.write(std::string(10'000, 'x')).result();
    pair.writer.close().result();
  });
  io.run();
  writer.join();
  CHECK(received == 20'000'000);
}

TEST_CASE("a flush does not wait for what was withdrawn", "[SW-18]") {
  Pair pair;
  const std::string chunk(ByteChannel::SLOT_SIZE, 'x');
  for (std::size_t i = 0; i < StreamWriter::QUEUE_SIZE; ++i) CHECK(pair.writer.write(chunk).done());
  const std::uint64_t queued = chunk.size() * StreamWriter::QUEUE_SIZE;
  const auto first = pair.writer.write("first");  // all three wait
  const auto before = pair.writer.flush();
  const auto second = pair.writer.write("second");
  const auto third = pair.writer.write("third");
  const auto after = pair.writer.flush();
  CHECK(second.cancel());
  const auto later = pair.writer.flush();
  CHECK(pair.drain() == std::string(queued, 'x') + "firstthird");
  pair.channel->acknowledge(queued);
  CHECK_FALSE(before.done());
  pair.channel->acknowledge(queued + 5);
  CHECK(before.done());
  CHECK_FALSE(after.done());
  pair.channel->acknowledge(queued + 10);
  CHECK(after.done());
  CHECK(later.done());
  first.result();
  third.result();

  // The last one that a flush waits for.
  for (std::size_t i = 0; i < StreamWriter::QUEUE_SIZE; ++i) CHECK(pair.writer.write(chunk).done());
  const auto last = pair.writer.write("last");
  const auto flush = pair.writer.flush();
  pair.drain();
  pair.channel->acknowledge(2 * queued + 14);
  CHECK(flush.done());
  for (std::size_t i = 0; i < StreamWriter::QUEUE_SIZE; ++i) CHECK(pair.writer.write(chunk).done());
  const auto given_up = pair.writer.write("given up");
  pair.channel->acknowledge(3 * queued + 14);
  const auto flushed = pair.writer.flush();
  CHECK_FALSE(flushed.done());
  CHECK(given_up.cancel());
  CHECK(flushed.done());
  last.result();
}

TEST_CASE("a chunk that nobody has looked at stays in the channel", "[SW-20]") {
  Pair pair;
  (void)pair.writer.write("one");
  (void)pair.writer.write("two");
  (void)pair.channel->receive();
  {
    const auto unseen = pair.channel->receive();
    CHECK(unseen.done());
    CHECK(pair.channel->receive().state() == unseen.state());
  }
  CHECK(pair.channel->receive().result() == "one");
  CHECK(pair.channel->receive().result() == "two");
  auto given_up = pair.channel->receive();
  CHECK(given_up.cancel());
  (void)pair.channel->receive();
  (void)pair.writer.write("three");
  CHECK(pair.channel->receive().result() == "three");
  (void)pair.writer.close();
  (void)pair.channel->receive();
  CHECK_FALSE(pair.channel->receive().result().has_value());
}

TEST_CASE("null pointers are misuse, not a crash", "[SW-1]") {
  CHECK_THROWS_AS(StreamWriter(nullptr), std::invalid_argument);
  const Pair pair;
  CHECK_THROWS_AS(pair.writer.write(static_cast<const char*>(nullptr)), std::invalid_argument);
  CHECK_THROWS_AS(pair.writer.set_exception(nullptr), std::invalid_argument);
  (void)pair.writer.write("goes on");
}
