// A Connect stream from anywhere: messages or a ParseError, and the same ones however the bytes are split.
#include "messages/fields.hpp"
#include "protocol/connect_stream.hpp"
#include "script.hpp"

#include <vector>

using namespace cwsandbox::protocol;

namespace {

struct Outcome {
  std::vector<std::string> messages;
  std::string fault;
  bool ended = false;
};

Outcome read(std::string_view bytes, std::size_t piece) {
  Outcome out;
  EnvelopeReader reader(4096);
  try {
    while (!bytes.empty()) {
      const auto part = bytes.substr(0, piece);
      bytes.remove_prefix(part.size());
      reader.put(part);
      while (const auto message = reader.next()) out.messages.push_back(message->bytes);
    }
  } catch (const cwsandbox::messages::ParseError& e) {
    out.fault = e.field;
  }
  out.ended = reader.ended();
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Script script(data, size);
  const std::size_t piece = 1U + script.byte();
  const std::string_view bytes = script.rest();
  const Outcome whole = read(bytes, bytes.size() + 1), split = read(bytes, piece);
  FUZZ_CHECK(whole.messages == split.messages);
  FUZZ_CHECK(whole.fault == split.fault);
  FUZZ_CHECK(whole.ended == split.ended);
  return 0;
}
