// Envelopes of Connect's streams, from bytes written down here.
#include "messages/fields.hpp"
#include "protocol/connect_stream.hpp"
#include "support/catch.hpp"

#include <string>
#include <vector>

using namespace cwsandbox::protocol;
using namespace std::string_literals;
using cwsandbox::messages::ParseError;

namespace {

std::string fault_of(const std::string& bytes, std::size_t max = 100) {
  EnvelopeReader reader(max);
  reader.put(bytes);
  try {
    while (reader.next()) {
    }
  } catch (const ParseError& e) {
    CHECK(std::string(e.what()).find(e.field) != std::string::npos);
    CHECK_THROWS_AS(reader.next(), ParseError);  // it does not go on behind a fault
    return e.field;
  }
  return "";
}

}  // namespace

TEST_CASE("a stream is written as the protocol says", "[stream]") {
  std::string out;
  append_envelope(out, R"({"a":1})");
  append_envelope(out, "");
  append_end_of_stream(out);
  CHECK(out == "\0\0\0\0\x07{\"a\":1}\0\0\0\0\0\x02\0\0\0\x02{}"s);
  std::string large;
  append_envelope(large, std::string(0x010203, 'x'));
  CHECK(large.substr(0, 5) == "\0\0\x01\x02\x03"s);
}

TEST_CASE("a stream is read wherever it is split", "[stream]") {
  ConnectError error;
  error.code = ErrorCode::not_found;
  error.message = "gone";
  std::string bytes;
  append_envelope(bytes, R"({"a":1})");
  append_envelope(bytes, std::string(300, 'y'));
  append_envelope(bytes, "");
  append_end_of_stream(bytes, &error);
  for (std::size_t piece = 1; piece <= bytes.size(); ++piece) {
    EnvelopeReader reader(1000);
    std::vector<EnvelopeReader::Message> messages;
    for (std::size_t at = 0; at < bytes.size(); at += piece) {
      CHECK_FALSE(reader.ended());
      reader.put(std::string_view(bytes).substr(at, piece));
      while (auto message = reader.next()) messages.push_back(std::move(*message));
    }
    REQUIRE(messages.size() == 4);
    CHECK(messages[0].bytes == R"({"a":1})");
    CHECK(messages[1].bytes == std::string(300, 'y'));
    CHECK(messages[2].bytes.empty());
    CHECK(messages[3].end);
    REQUIRE(messages[3].error);
    CHECK(messages[3].error->code == ErrorCode::not_found);
    CHECK(messages[3].error->message == "gone");
    CHECK(reader.ended());
    CHECK_FALSE(reader.next());
  }
}

TEST_CASE("what is wrong with a stream is said with its place", "[stream]") {
  CHECK(fault_of("\x04"s) == "byte 0");
  CHECK(fault_of("\x80\0\0\0\0"s) == "byte 0");
  CHECK(fault_of("\x01\0\0\0\0"s) == "byte 0");      // compressed
  CHECK(fault_of("\x03\0\0\0\x02{}"s) == "byte 0");  // a compressed end
  CHECK(fault_of("\0\0\0\0\x65"s) == "byte 0");      // 101 bytes, seen from the header alone
  CHECK(fault_of("\0\xff\xff\xff\xff"s) == "byte 0");
  CHECK(fault_of("\0\0\0\0\x02{}\x07"s) == "byte 7");
  CHECK(fault_of("\x02\0\0\0\x02{}\0"s) == "byte 7");  // bytes behind the end
  CHECK(fault_of("\x02\0\0\0\0"s) == "byte 0");        // an end that says nothing
  CHECK(fault_of("\x02\0\0\0\x02[]"s) == "byte 0");
  CHECK(fault_of("\x02\0\0\0\x02{{"s) == "byte 0");
  CHECK(fault_of("\x02\0\0\0\x0b{\"error\":1}"s) == "byte 0");
  CHECK(fault_of("\0\0\0\0\x64"s + std::string(100, 'x')).empty());  // exactly the bound
}

TEST_CASE("an end whose error has no known code is an error all the same", "[stream]") {
  EnvelopeReader reader(100);
  reader.put("\x02\0\0\0\x1c{\"error\":{\"code\":\"foreign\"}}"s);
  const auto message = reader.next();
  REQUIRE(message);
  REQUIRE(message->error);
  CHECK(message->error->code == ErrorCode::unknown);
  CHECK_FALSE(message->error->message.empty());
}
