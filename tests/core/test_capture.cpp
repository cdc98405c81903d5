// The capture rule: what a result keeps, and what holds the producer back.
#include "support/catch.hpp"

#include "core/output_buffer.hpp"

#include <cwsandbox/stream_reader.hpp>

#include <thread>

using namespace cwsandbox;
using core::OutputBuffer;

namespace {

struct Stream {
  explicit Stream(Capture capture)
      : buffer(std::make_shared<OutputBuffer>(capture, [this](std::size_t n) { consumed += n; })), reader(buffer) {}
  void add(std::string bytes) { consumed += buffer->append(std::move(bytes)); }
  std::atomic<std::size_t> consumed{0};
  std::shared_ptr<OutputBuffer> buffer;
  StreamReader<std::string> reader;
};

}  // namespace

TEST_CASE("all: flows and is kept, read or not, once", "[RES-2]") {
  Stream stream(Capture::all());
  stream.add("one ");
  CHECK(stream.consumed == 4);
  CHECK(stream.reader.next().result() == "one ");
  stream.add("two");
  CHECK(stream.consumed == 7);
  stream.buffer->finish(7);
  CHECK(stream.reader.read_all().result() == "two");
  const Output output = stream.buffer->output();
  CHECK(output == "one two");
  CHECK(output.dropped() == 0);
  CHECK(output.produced() == 7);
  CHECK(output.view().data() == stream.buffer->output().view().data());  // one copy, however often it is asked for
}

TEST_CASE("all: a late reader gets everything from the start", "[RES-2][RES-3]") {
  Stream stream(Capture::all());
  for (int i = 0; i < 1000; ++i) stream.add(std::string(1000, static_cast<char>('a' + i % 26)));
  stream.buffer->finish(1'000'000);
  const auto all = stream.reader.read_all().result();
  CHECK(all.size() == 1'000'000);
  CHECK(all == stream.buffer->output());
}

TEST_CASE("head_tail: at most that much is kept, the rest counted", "[RES-3]") {
  Stream stream(Capture::head_tail(4, 3));
  stream.add("abcdefgh");
  stream.add("ij");
  CHECK(stream.consumed == 10);  // nobody reads: it flows
  stream.buffer->finish(10);
  const Output output = stream.buffer->output();
  CHECK(output.head() == "abcd");
  CHECK(output.tail() == "hij");
  CHECK(output == "abcdhij");
  CHECK(output.dropped() == 3);
  CHECK(output.received() == 10);
}

TEST_CASE("head_tail: what fits is whole", "[RES-3]") {
  Stream stream(Capture::head_tail(4, 4));
  stream.add("abcdefg");
  stream.buffer->finish(7);
  const Output output = stream.buffer->output();
  CHECK(output == "abcdefg");
  CHECK(output.dropped() == 0);
  CHECK(output.head() == "abcdefg");
  CHECK(output.tail().empty());
  CHECK(stream.reader.read_all().result() == "abcdefg");
}

TEST_CASE("head_tail: a reader holds the producer back and loses nothing", "[RES-3]") {
  Stream stream(Capture::head_tail(2, 2));
  auto first = stream.reader.next();
  stream.add("abcdef");
  CHECK(first.result() == "abcdef");
  CHECK(stream.consumed == 6);
  stream.add("ghi");
  CHECK(stream.consumed == 6);  // waits for the reader
  CHECK(stream.reader.next().result() == "ghi");
  CHECK(stream.consumed == 9);
  stream.buffer->finish(9);
  CHECK_FALSE(stream.reader.next().result());
  CHECK(stream.buffer->output() == "abhi");
}

TEST_CASE("head_tail: a reader that comes too late is told what it missed", "[RES-3]") {
  Stream stream(Capture::head_tail(2, 2));
  stream.add("abcdef");
  CHECK(stream.reader.next().result() == "ab");
  CHECK_THROWS_AS(stream.reader.next().result(), SandboxStreamTruncatedError);
  CHECK_FALSE(stream.reader.next().result());
}

TEST_CASE("none: waits until somebody reads", "[RES-3]") {
  Stream stream(Capture::none());
  stream.add("abc");
  stream.add(std::string(100'000, 'x'));
  CHECK(stream.consumed == 0);
  CHECK(stream.reader.next().result() == "abc");
  CHECK(stream.consumed == 3);
  CHECK(stream.reader.next().result()->size() == 100'000);
  CHECK(stream.consumed == 100'003);
  stream.buffer->finish(100'003);
  CHECK_FALSE(stream.reader.next().result());
  CHECK(stream.buffer->output().empty());
  CHECK(stream.buffer->output().dropped() == 100'003);
}

TEST_CASE("none: flows once somebody waits for the result and nobody reads", "[RES-3]") {
  Stream stream(Capture::none());
  stream.add("abc");
  stream.buffer->drain();
  CHECK(stream.consumed == 3);
  stream.add("def");
  CHECK(stream.consumed == 6);
  stream.buffer->finish(6);
  CHECK(stream.buffer->output().received() == 6);
  CHECK_THROWS_AS(stream.reader.next().result(), SandboxStreamTruncatedError);
}

TEST_CASE("none: waiting for the result does not take bytes from a reader", "[RES-3]") {
  Stream stream(Capture::none());
  auto first = stream.reader.next();
  stream.buffer->drain();
  stream.add("abc");
  CHECK(first.result() == "abc");
  stream.add("def");
  CHECK(stream.consumed == 3);
  CHECK(stream.reader.next().result() == "def");
}

TEST_CASE("closing the reader lets the command go on", "[SR-6]") {
  for (const auto& capture : {Capture::none(), Capture::all(), Capture::head_tail(2, 2)}) {
    Stream stream(capture);
    (void)stream.reader.next();
    stream.add("abc");
    stream.reader.close();
    stream.add("def");
    CHECK(stream.consumed == 6);
    CHECK_FALSE(stream.reader.next().result());
    stream.buffer->finish(6);
    CHECK(stream.buffer->output().received() == 6);
  }
}

TEST_CASE("a broken stream: data, then the error, and the counts", "[SR-3][EX-9]") {
  for (const auto& capture : {Capture::none(), Capture::all()}) {
    Stream stream(capture);
    stream.add("abc");
    stream.buffer->fail(std::make_exception_ptr(SandboxConnectionLostError("gone")), 10);
    CHECK(stream.reader.next().result() == "abc");
    CHECK_THROWS_AS(stream.reader.next().result(), SandboxConnectionLostError);
    CHECK_FALSE(stream.reader.next().result());
    CHECK(stream.buffer->output().received() == 3);
    CHECK(stream.buffer->output().produced() == 10);
  }
}

TEST_CASE("small chunks do not cost the memory of large ones", "[RES-3]") {
  Stream stream(Capture::none());
  for (int i = 0; i < 10'000; ++i) stream.add("x");
  std::size_t chunks = 0;
  stream.buffer->finish(10'000);
  for ([[maybe_unused]] const auto& chunk : stream.reader) ++chunks;
  CHECK(chunks <= 4);
}

TEST_CASE("a reader in another thread gets exactly what was appended", "[RES-2][SR-10]") {
  for (const auto& capture : {Capture::none(), Capture::all()}) {
    Stream stream(capture);
    std::string read;
    std::thread reader([&] { read = stream.reader.read_all().result(); });
    std::string expected;
    for (int i = 0; i < 2000; ++i) {
      std::string chunk(static_cast<std::size_t>(i % 700), static_cast<char>('a' + i % 26));
      expected += chunk;
      stream.add(std::move(chunk));
    }
    stream.buffer->finish(expected.size());
    reader.join();
    CHECK(read == expected);
    CHECK(stream.consumed == expected.size());
  }
}
