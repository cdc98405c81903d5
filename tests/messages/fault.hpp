// What a parser refuses, and what a writer writes.
#pragma once

#include "messages/fields.hpp"
#include "support/catch.hpp"

#include <nlohmann/json.hpp>

#include <functional>
#include <string>

/// The field that a ParseError names.
inline std::string fault_of(const std::function<void()>& parse) {
  try {
    parse();
  } catch (const cwsandbox::messages::ParseError& e) {
    CHECK(std::string(e.what()).size() > 4);
    return e.field;
  }
  return "(no error)";
}

/// JSON with the members of each object in the order of their names, for comparisons.
inline std::string sorted(const std::string& json) { return nlohmann::json::parse(json).dump(); }
