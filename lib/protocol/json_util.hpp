// Reading and writing JSON, for the .cpp files of this room only: nlohmann/json stays out of every header that others include.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace cwsandbox::protocol {
struct ConnectError;
}

namespace cwsandbox::protocol::json_util {

using Json = nlohmann::json;

/// No message of ours nests deeper than a handful of levels.
inline constexpr std::size_t kMaxDepth = 32;

/// Text that is not UTF-8 is repaired with U+FFFD: dumping never throws.
inline std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

/// The member's value; null when there is none or it is null.
inline const Json* find(const Json& object, const char* name) {
  const auto it = object.find(name);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

/// The member's text; empty when there is none.
inline std::string text_member(const Json& object, const char* name) {
  const Json* value = find(object, name);
  return value != nullptr && value->is_string() ? value->get<std::string>() : std::string();
}

/// Takes over what a Connect error's object says; `error` holds what stands without it.
void read_error(const Json& object, ConnectError& error);

}  // namespace cwsandbox::protocol::json_util
