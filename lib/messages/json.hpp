// The proto3 JSON mapping of the messages of this room.
//
// On input: lowerCamelCase and snake_case names, 64-bit integers as strings or numbers, enums by name or number (an unknown one is
// the unspecified value), null is unset, unknown fields are skipped. On output: lowerCamelCase, unset fields left out.
#pragma once

#include "messages/fields.hpp"

namespace cwsandbox::messages {

void append_json(std::string& out, const Type& type, const void* message);
void read_json(std::string_view json, const Type& type, void* message);

/// Throws ParseError when text of a request is not UTF-8; in other messages it is repaired with U+FFFD.
template <class M>
[[nodiscard]] std::string to_json(const M& message) {
  std::string out;
  append_json(out, M::kType, &message);
  return out;
}

/// Throws ParseError, and nothing else, for bad input. Its nesting is bounded, and what it takes of memory by its size, which the
/// caller bounds.
template <class M>
[[nodiscard]] M from_json(std::string_view json) {
  M message;
  read_json(json, M::kType, &message);
  return message;
}

}  // namespace cwsandbox::messages
