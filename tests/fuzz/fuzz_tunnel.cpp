// What comes over the link of a remote sandbox, at either end: the same frames however the bytes are split, and of each call and
// each control message either a Violation or what is the same when it is written and read again.
#include "runner/remote/frames.hpp"
#include "runner/remote/messages.hpp"
#include "script.hpp"

#include <string>
#include <vector>

using namespace cwsandbox::runner::remote;

namespace {

struct Seen {
  std::vector<std::string> frames;  // of a process's data one for all that follow one another
  bool broken = false;
  bool operator==(const Seen&) const = default;
};

Seen cut(std::string_view bytes, std::size_t step) {
  Seen seen;
  FrameReader reader;
  std::uint64_t last = 0;
  try {
    while (!bytes.empty()) {
      // Storage of its own, so that a look beyond it is found.
      const std::string part(bytes.substr(0, step));
      bytes.remove_prefix(part.size());
      reader.feed(part);
      while (const auto frame = reader.next()) {
        FUZZ_CHECK(frame->payload.size() <= max_frame_payload(frame->stream, frame->channel));
        const std::uint64_t name = std::uint64_t{frame->stream} << 8 | frame->channel;
        const bool data = frame->stream != kTunnelStream && frame->channel <= 2;
        if (data && !seen.frames.empty() && last == name) {
          seen.frames.back() += frame->payload;
        } else {
          seen.frames.push_back(std::to_string(name) + " " + std::string(frame->payload));
        }
        last = name;
      }
    }
  } catch (const Violation&) {
    seen.broken = true;
  }
  return seen;
}

void look_at(std::string_view payload) {
  try {
    const Control control = decode_control(payload);
    const std::string once = encode_control(control);
    FUZZ_CHECK(encode_control(decode_control(std::string_view(once).substr(1))) == once);
  } catch (const Violation&) {
  }
  try {
    const auto request = decode_request(payload);
    FUZZ_CHECK(request.bytes.size() <= payload.size());
    const std::string once = encode_request(request.message);
    FUZZ_CHECK(encode_request(decode_request(std::string_view(once).substr(1)).message) == once);
  } catch (const Violation&) {
  }
  try {
    const auto answer = decode_answer(payload);
    if (answer.message.failure) (void)answer.message.failure->to_exception();
    const std::string once = encode_answer(answer.message);
    FUZZ_CHECK(encode_answer(decode_answer(std::string_view(once).substr(1)).message) == once);
  } catch (const Violation&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Script script(data, size);
  const std::size_t step = 1 + script.byte();
  const std::string_view bytes = script.rest();
  FUZZ_CHECK(cut(bytes, step) == cut(bytes, std::string_view::npos));
  look_at(bytes);
  FrameReader reader;
  reader.feed(bytes);
  try {
    while (const auto frame = reader.next()) {
      if (frame->stream == kTunnelStream) look_at(std::string(frame->payload));
    }
  } catch (const Violation&) {
  }
  return 0;
}
