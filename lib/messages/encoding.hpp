// A message in either encoding, chosen when it comes.
#pragma once

#include "messages/json.hpp"
#include "messages/protobuf.hpp"

namespace cwsandbox::messages {

enum class Encoding : std::uint8_t { json, protobuf };

template <class M>
[[nodiscard]] std::string encode(Encoding encoding, const M& message) {
  return encoding == Encoding::json ? to_json(message) : to_protobuf(message);
}

template <class M>
[[nodiscard]] M decode(Encoding encoding, std::string_view bytes) {
  return encoding == Encoding::json ? from_json<M>(bytes) : from_protobuf<M>(bytes);
}

}  // namespace cwsandbox::messages
