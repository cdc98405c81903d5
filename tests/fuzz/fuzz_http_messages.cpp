// HTTP messages and bodies from anywhere: the same outcome however the bytes are split, bounds that hold, and nothing in a
// request's headers that could break the framing of what is made of them.
#include "net/http_body.hpp"
#include "net/http_wire.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "script.hpp"

using namespace cwsandbox::net;

namespace {

constexpr std::size_t kHeader = 2048, kBody = 4096;

struct Outcome {
  bool header = false;     // it is complete and has been accepted
  bool malformed = false;  // which fault is met first may depend on the pieces
  bool done = false;
  HttpRequest request;
  bool operator==(const Outcome& other) const {
    // A header that has not ended is refused at once or later, as its pieces come; it is accepted never.
    if (!header && !other.header) return true;
    return header == other.header && malformed == other.malformed && done == other.done && request.method == other.request.method &&
           request.target == other.request.target && request.headers == other.request.headers && request.body == other.request.body;
  }
};

// Feeds as the server does: what is not consumed comes again, with more behind it.
template <typename Reader>
ParseResult feed(Reader& reader, std::string& buffer) {
  for (;;) {
    if (buffer.empty() || reader.done()) return ParseResult::need_more;
    const bool had_header = reader.header_done();
    std::size_t consumed = 0;
    const ParseResult result = reader.put(buffer, consumed);
    FUZZ_CHECK(consumed <= buffer.size());
    buffer.erase(0, consumed);
    if (result != ParseResult::progress || consumed == 0 || (!had_header && reader.header_done())) return result;
  }
}

bool failed(ParseResult result) { return result != ParseResult::need_more && result != ParseResult::progress; }

Outcome request(std::string_view bytes, std::size_t piece) {
  Outcome out;
  RequestReader reader(kHeader, kBody);
  std::string buffer;
  bool body = false;
  while (!bytes.empty() && !out.malformed && !reader.done()) {
    const auto part = bytes.substr(0, piece);
    bytes.remove_prefix(part.size());
    buffer += part;
    out.malformed = failed(feed(reader, buffer));
    if (!out.malformed && reader.header_done() && !reader.done() && !body) {
      body = true;
      reader.read_body();
      out.malformed = failed(feed(reader, buffer));
    }
  }
  out.header = reader.header_done();
  out.done = !out.malformed && reader.done();
  if (out.header && reader.complaint().empty()) {
    out.request = reader.head();
    FUZZ_CHECK(reader.version() == 10 || reader.version() == 11);
    for (const auto& [name, value] : reader.all_headers()) check_header(name, value);
    FUZZ_CHECK(out.request.target.starts_with('/') || out.request.target == "*");
    for (const auto& item : header_list(out.request.headers, "Sec-WebSocket-Protocol"))
      FUZZ_CHECK(!item.empty() && item.find(',') == std::string::npos);
    if (reader.has_body() && reader.content_length()) FUZZ_CHECK(*reader.content_length() > 0);
  }
  if (out.done) {
    out.request.body = reader.take_body();
    FUZZ_CHECK(out.request.body.size() <= kBody);
  }
  return out;
}

void response(std::string_view bytes, std::size_t piece, bool head) {
  ResponseReader reader(kBody, head);
  std::string buffer;
  ParseResult result = ParseResult::need_more;
  while (!bytes.empty() && !failed(result) && !reader.done()) {
    const auto part = bytes.substr(0, piece);
    bytes.remove_prefix(part.size());
    buffer += part;
    std::size_t consumed = 0;
    do {
      consumed = 0;
      result = reader.put(buffer, consumed);
      FUZZ_CHECK(consumed <= buffer.size());
      buffer.erase(0, consumed);
    } while (!failed(result) && consumed > 0 && !buffer.empty() && !reader.done());
  }
  if (failed(result)) return;
  if (!reader.done() && failed(reader.put_eof())) return;
  if (reader.done()) FUZZ_CHECK(reader.take().body.size() <= kBody);
}

struct BodyOutcome {
  bool sound = true, done = false;
  std::string bytes, behind;
  bool operator==(const BodyOutcome&) const = default;
};

// A body as an exchange reads it, into rooms of `room` bytes from a peer that sends `piece` at once.
BodyOutcome body(std::string_view bytes, std::size_t piece, std::size_t room, BodyReader reader) {
  BodyOutcome out;
  boost::beast::flat_buffer buffer;
  std::string into(room, '\0');
  while (out.sound && !reader.done()) {
    std::size_t taken = 0;
    out.sound = reader.take(buffer, boost::asio::buffer(into), taken);
    out.bytes.append(into, 0, taken);
    if (!out.sound || taken > 0 || reader.done()) continue;
    if (bytes.empty()) {
      out.done = reader.end();
      return out;
    }
    const auto space = reader.space(buffer, boost::asio::buffer(into));
    const std::size_t some = std::min({piece, bytes.size(), space[0].size() + space[1].size()});
    FUZZ_CHECK(some > 0);
    const std::size_t first = std::min(some, space[0].size());
    if (first > 0) std::memcpy(space[0].data(), bytes.data(), first);
    if (some > first) std::memcpy(space[1].data(), bytes.data() + first, some - first);
    bytes.remove_prefix(some);
    out.sound = reader.commit(buffer, space, some, taken);
    FUZZ_CHECK(taken <= room);
    out.bytes.append(into, 0, taken);
  }
  if (!out.sound) return BodyOutcome{false, false, {}, {}};
  out.done = reader.done();
  if (out.done) {  // the next request begins here
    const auto left = buffer.cdata();
    out.behind.assign(static_cast<const char*>(left.data()), left.size());
    out.behind += bytes;
  }
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Script script(data, size);
  const std::uint8_t which = script.byte();
  const std::size_t piece = 1U + script.byte(), room = 1U + script.word() % 1024;
  const std::string_view bytes = script.rest();
  switch (which % 4) {
    case 0:
      FUZZ_CHECK(request(bytes, bytes.size() + 1) == request(bytes, piece));
      break;
    case 1:
      response(bytes, piece, (which & 4) != 0);
      break;
    case 2:
      FUZZ_CHECK(body(bytes, bytes.size() + 1, 65536, BodyReader::in_chunks()) ==
                 body(bytes, piece, room, BodyReader::in_chunks()));
      break;
    default:
      FUZZ_CHECK(body(bytes, bytes.size() + 1, 65536, BodyReader::of_length(room)) ==
                 body(bytes, piece, room, BodyReader::of_length(room)));
      break;
  }
  return 0;
}
