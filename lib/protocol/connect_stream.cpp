#include "protocol/connect_stream.hpp"

#include "messages/fields.hpp"
#include "protocol/json_shape.hpp"
#include "protocol/json_util.hpp"

namespace cwsandbox::protocol {
namespace {

using json_util::Json;

constexpr std::size_t kHead = 5;
constexpr std::uint8_t kCompressed = 0x01;
constexpr std::uint8_t kEnd = 0x02;

void append(std::string& out, std::uint8_t flags, std::string_view json) {
  const auto size = static_cast<std::uint32_t>(json.size());
  out.reserve(out.size() + kHead + json.size());
  out += static_cast<char>(flags);
  for (const unsigned shift : {24U, 16U, 8U, 0U}) out += static_cast<char>(static_cast<std::uint8_t>(size >> shift));
  out += json;
}

[[noreturn]] void fail(std::uint64_t position, const std::string& why) {
  const std::string where = "byte " + std::to_string(position);
  throw messages::ParseError(where, "the stream is malformed at " + where + ": " + why);
}

}  // namespace

void append_envelope(std::string& out, std::string_view json) { append(out, 0, json); }

void append_end_of_stream(std::string& out, const ConnectError* error) {
  append(out, kEnd, error == nullptr ? "{}" : "{\"error\":" + encode_error(*error) + "}");
}

void EnvelopeReader::put(std::string_view bytes) {
  // What has been taken goes when it is most of the buffer: each byte is moved once or twice in its life.
  if (front_ > buffer_.size() / 2) {
    buffer_.erase(0, front_);
    front_ = 0;
  }
  buffer_ += bytes;
}

std::optional<EnvelopeReader::Message> EnvelopeReader::next() {
  const std::string_view ready = std::string_view(buffer_).substr(front_);
  if (ready.empty()) return std::nullopt;
  if (ended_) fail(position_, "there are bytes behind its end");
  const auto byte = [&](std::size_t at) { return static_cast<std::uint8_t>(ready[at]); };
  const std::uint8_t flags = byte(0);
  if ((flags & ~(kCompressed | kEnd)) != 0) fail(position_, "the flags of a message are unknown");
  if ((flags & kCompressed) != 0) fail(position_, "a message is compressed, which nobody asked for");
  if (ready.size() < kHead) return std::nullopt;
  std::size_t size = 0;
  for (std::size_t i = 1; i < kHead; ++i) size = size << 8 | byte(i);
  if (size > max_message_)
    fail(position_, "a message of " + std::to_string(size) + " bytes is larger than " + std::to_string(max_message_));
  if (ready.size() - kHead < size) return std::nullopt;

  Message out;
  out.bytes = ready.substr(kHead, size);
  out.end = (flags & kEnd) != 0;
  if (out.end) {
    const Json json = nests_deeper(out.bytes, json_util::kMaxDepth) ? Json() : Json::parse(out.bytes, nullptr, false);
    if (!json.is_object()) fail(position_, "its end is not a JSON object");
    if (const Json* error = json_util::find(json, "error")) {
      if (!error->is_object()) fail(position_, "the error in its end is not a JSON object");
      auto& read = out.error.emplace();
      read.message = "the stream ended with an error";
      json_util::read_error(*error, read);
    }
  }
  ended_ = out.end;
  front_ += kHead + size;
  position_ += kHead + size;
  return out;
}

}  // namespace cwsandbox::protocol
