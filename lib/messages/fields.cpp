#include "messages/fields.hpp"

#include "base/text.hpp"

#include <algorithm>

namespace cwsandbox::messages {
namespace {

using SystemTime = std::chrono::system_clock::time_point;

bool is_default(const Field& field, const void* value) {
  switch (field.kind) {
    case Kind::boolean:
      return !as<bool>(value);
    case Kind::int32:
      return as<std::int32_t>(value) == 0;
    case Kind::int64:
      return as<std::int64_t>(value) == 0;
    case Kind::uint32:
      return as<std::uint32_t>(value) == 0;
    case Kind::uint64:
      return as<std::uint64_t>(value) == 0;
    case Kind::enumeration:
      return as<std::uint8_t>(value) == 0;
    case Kind::text:
    case Kind::bytes:
    case Kind::any_text:
      return as<std::string>(value).empty();
    case Kind::timestamp:
      return as<SystemTime>(value) == SystemTime{};
    case Kind::field_mask:
      return as<FieldMask>(value).paths.empty();
    case Kind::text_map:
    case Kind::bytes_map:
      return as<TextMap>(value).empty();
    case Kind::message:
      return is_empty(*field.type, value);
  }
  return true;
}

bool leads_to(std::string_view pattern, std::string_view part) {
  return pattern.size() > part.size() && pattern.starts_with(part) && (pattern[part.size()] == '.' || pattern[part.size()] == '[');
}

void add_set_paths(const Type& type, const void* message, std::span<const std::string_view> patterns, const Path& path,
                   const std::string& prefix, std::vector<std::string>& out) {
  for (const Field& field : type.fields) {
    if (!is_set(field, message)) continue;
    const std::string name = prefix + (prefix.empty() ? "" : ".") + std::string(field.json_name());
    const Path here(path, field.json_name());
    if (std::find(patterns.begin(), patterns.end(), name) != patterns.end()) {
      if (out.size() < kMaxUnknown) out.push_back(here.text());
    } else if (field.kind == Kind::message &&
               std::any_of(patterns.begin(), patterns.end(), [&name](std::string_view one) { return leads_to(one, name); })) {
      if (field.shape != Shape::list) {
        add_set_paths(*field.type, field.access.find(message), patterns, here, name, out);
        continue;
      }
      for (std::size_t i = 0; i < field.access.size(message) && out.size() < kMaxUnknown; ++i)
        add_set_paths(*field.type, field.access.at(message, i), patterns, Path(here, i), name + "[]", out);
    }
  }
}

}  // namespace

constinit const Type Empty::kType = table<Empty>("google.protobuf.Empty", {});

bool is_empty(const Type& type, const void* message) {
  return std::none_of(type.fields.begin(), type.fields.end(), [message](const Field& field) { return is_set(field, message); });
}

bool is_set(const Field& field, const void* message) {
  if (field.shape == Shape::list) return field.access.size(message) != 0;
  const void* value = field.access.find(message);
  return field.shape == Shape::optional ? value != nullptr : !is_default(field, value);
}

std::string_view enum_name(const EnumType& type, std::uint8_t number) noexcept {
  return type.values[number < type.values.size() ? number : 0];
}

std::vector<std::string> set_paths(const Type& type, const void* message, std::span<const std::string_view> patterns) {
  std::vector<std::string> out;
  add_set_paths(type, message, patterns, {}, {}, out);
  return out;
}

std::string Path::text() const {
  if (above_ == nullptr) return {};
  std::string out = above_->text();
  switch (kind_) {
    case Kind::member:
      if (!out.empty()) out += '.';
      return out.append(name_);
    case Kind::element:
      return out + "[" + std::to_string(index_) + "]";
    case Kind::entry:
      return out + "[\"" + base::printable(name_, 64) + "\"]";
  }
  return out;
}

void Path::fail(const std::string& why) const {
  const std::string path = text();
  throw ParseError(path, path.empty() ? "the message " + why : path + ": " + why);
}

void Budget::take(std::size_t count, std::size_t each, const Path& path) {
  if (each != 0 && count > left_ / each) path.fail("holds too many values for its size");
  left_ -= count * each;
}

}  // namespace cwsandbox::messages
