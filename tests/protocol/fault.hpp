// What a parser refuses.
#pragma once

#include "protocol/messages.hpp"
#include "support/catch.hpp"

#include <functional>
#include <string>

/// The field that a ParseError names.
inline std::string fault_of(const std::function<void()>& parse) {
  try {
    parse();
  } catch (const cwsandbox::protocol::ParseError& e) {
    CHECK(std::string(e.what()).size() > 4);
    return e.field;
  }
  return "(no error)";
}
