#include "protocol/json_shape.hpp"

#include <algorithm>

namespace cwsandbox::protocol {

JsonShape shape_of(std::string_view json, std::size_t max_depth) noexcept {
  // What a tree of values takes for each: the value and its place in a list; the map or list of an object or array; the node and
  // the name of a member.
  constexpr std::size_t kValue = 64, kContainer = 96, kMember = 96;
  constexpr std::size_t kLeastBudget = 4u << 20;
  constexpr std::size_t kTimesText = 6;
  std::size_t depth = 0, memory = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
      continue;
    }
    switch (c) {
      case '"':
        in_string = true;
        break;
      case '{':
      case '[':
        if (++depth > max_depth) return JsonShape::too_deep;
        memory += kContainer;
        break;
      case '}':
      case ']':
        if (depth > 0) --depth;
        break;
      case ',':
        memory += kValue;
        break;
      case ':':
        memory += kMember;
        break;
      default:
        break;
    }
  }
  return memory > std::max(kLeastBudget, kTimesText * json.size()) ? JsonShape::too_many_values : JsonShape::fits;
}

}  // namespace cwsandbox::protocol
