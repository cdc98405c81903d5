// The binary encoding of protocol buffers, of the messages of this room.
//
// On input: fields in any order, unknown ones skipped, the last of several counts, lists of enums packed or not; an enum's value
// that is not known is the unspecified one. On output: in the order of the table, unset fields left out.
#pragma once

#include "messages/fields.hpp"

namespace cwsandbox::messages {

void append_protobuf(std::string& out, const Type& type, const void* message);
void read_protobuf(std::string_view bytes, const Type& type, void* message);

/// Throws ParseError when text of a request is not UTF-8; in other messages it is repaired with U+FFFD.
template <class M>
[[nodiscard]] std::string to_protobuf(const M& message) {
  std::string out;
  append_protobuf(out, M::kType, &message);
  return out;
}

/// Throws ParseError, and nothing else, for bad input. Its nesting is bounded, and what it takes of memory by its size, which the
/// caller bounds.
template <class M>
[[nodiscard]] M from_protobuf(std::string_view bytes) {
  M message;
  read_protobuf(bytes, M::kType, &message);
  return message;
}

}  // namespace cwsandbox::messages
