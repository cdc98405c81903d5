#include "messages/json.hpp"

#include "base/base64.hpp"
#include "base/text.hpp"
#include "base/time.hpp"
#include "messages/json_text.hpp"

#include <algorithm>
#include <charconv>
#include <limits>
#include <utility>

namespace cwsandbox::messages {
namespace {

using json_text::Cursor;
using json_text::Value;
using JsonKind = json_text::Value::Kind;
using SystemTime = std::chrono::system_clock::time_point;

// ---- writing ----

class JsonWriter {
 public:
  JsonWriter(std::string& out, bool exact) : out_(out), exact_(exact) {}

  void message(const Type& type, const void* message, const Path& path) {
    out_ += '{';
    bool first = true;
    for (const Field& field : type.fields) {
      if (!is_set(field, message)) continue;
      const Path here(path, field.json_name());
      if (!std::exchange(first, false)) out_ += ',';
      out_ += '"';
      out_ += field.json_name();
      if (field.shape == Shape::list) {
        out_ += "\":[";
        for (std::size_t i = 0; i < field.access.size(message); ++i) {
          if (i > 0) out_ += ',';
          value(field, field.access.at(message, i), Path(here, i));
        }
        out_ += ']';
        continue;
      }
      const void* member = field.access.find(message);
      if (field.kind == Kind::any_text && !base::is_utf8(as<std::string>(member))) {
        out_ += "Bytes\":";
        base64(as<std::string>(member));
        continue;
      }
      out_ += "\":";
      value(field, member, here);
    }
    out_ += '}';
  }

 private:
  void value(const Field& field, const void* value, const Path& path) {
    switch (field.kind) {
      case Kind::boolean:
        out_ += as<bool>(value) ? "true" : "false";
        return;
      case Kind::int32:
        return number(as<std::int32_t>(value));
      case Kind::uint32:
        return number(as<std::uint32_t>(value));
      case Kind::int64:
        return quoted_number(as<std::int64_t>(value));
      case Kind::uint64:
        return quoted_number(as<std::uint64_t>(value));
      case Kind::enumeration:
        return plain(enum_name(field.values(), as<std::uint8_t>(value)));
      case Kind::text:
      case Kind::any_text:
        return text(as<std::string>(value), path);
      case Kind::bytes:
        return base64(as<std::string>(value));
      case Kind::timestamp:
        return plain(base::format_timestamp(as<SystemTime>(value)));
      case Kind::field_mask:
        return mask(as<FieldMask>(value), path);
      case Kind::text_map:
      case Kind::bytes_map:
        return map(field, as<TextMap>(value), path);
      case Kind::message:
        return message(*field.type, value, path);
    }
  }

  template <class Number>
  void number(Number value) {
    char digits[24];
    out_.append(digits, std::to_chars(std::begin(digits), std::end(digits), value).ptr);
  }
  template <class Number>
  void quoted_number(Number value) {
    out_ += '"';
    number(value);
    out_ += '"';
  }
  /// What needs no escape.
  void plain(std::string_view text) { out_.append("\"").append(text) += '"'; }
  void base64(const std::string& bytes) {
    out_ += '"';
    base::append_base64(out_, bytes);
    out_ += '"';
  }

  void text(std::string_view text, const Path& path) {
    if (exact_ && !base::is_utf8(text)) path.fail("is not valid UTF-8");
    json_text::append_string(out_, text);
  }

  void map(const Field& field, const TextMap& entries, const Path& path) {
    out_ += '{';
    bool first = true;
    for (const auto& [key, value] : entries) {
      if (!std::exchange(first, false)) out_ += ',';
      const Path here = Path::entry(path, key);
      if (exact_ && !base::is_utf8(key)) here.fail("has a name that is not valid UTF-8");
      json_text::append_string(out_, key);
      out_ += ':';
      if (field.kind == Kind::bytes_map) {
        base64(value);
      } else {
        text(value, here);
      }
    }
    out_ += '}';
  }

  void mask(const FieldMask& mask, const Path& path) {
    std::string joined;
    for (const std::string& one : mask.paths) {
      if (!joined.empty()) joined += ',';
      bool up = false;
      for (const char c : one) {
        if (c != '_') joined += up && c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
        up = c == '_';
      }
    }
    text(joined, path);
  }

  std::string& out_;
  const bool exact_;
};

/// What makes a text grow again and again where it is not known beforehand: the large members of the message itself.
std::size_t large_parts(const Type& type, const void* message) {
  std::size_t size = 0;
  for (const Field& field : type.fields) {
    const bool is_text = field.kind == Kind::bytes || field.kind == Kind::text;
    if (!is_text || field.shape == Shape::list) continue;
    if (const void* value = field.access.find(message)) size += as<std::string>(value).size() / 3 * 4;
  }
  return size;
}

// ---- reading ----

/// The number of a value, whichever way JSON has it. Nothing when it does not fit.
template <class Integer>
std::optional<Integer> integer_of(const Value& value) {
  std::string unescaped;
  std::string_view digits;
  if (value.is(JsonKind::number)) {
    digits = value.raw();
  } else if (value.is(JsonKind::string)) {
    digits = value.inner();
    if (digits.find('\\') != std::string_view::npos) digits = unescaped = value.as_string();
  }
  const char* const end = digits.data() + digits.size();
  Integer number = 0;
  const auto parsed = std::from_chars(digits.data(), end, number);
  if (!digits.empty() && parsed.ec == std::errc() && parsed.ptr == end) return number;
  if (!value.is(JsonKind::number)) return std::nullopt;
  // 1.0 and 1e3 are integers to proto3 JSON, too; beyond this a double is not exact.
  constexpr double most = 9007199254740991.0;
  double real = 0;
  const auto as_real = std::from_chars(digits.data(), end, real);
  if (as_real.ec != std::errc() || as_real.ptr != end || !(real >= -most && real <= most)) return std::nullopt;
  const auto wide = static_cast<std::int64_t>(real);
  if (static_cast<double>(wide) != real || !std::in_range<Integer>(wide)) return std::nullopt;
  return static_cast<Integer>(wide);
}

class JsonReader {
 public:
  explicit JsonReader(std::size_t size) : budget_(size) {}

  void message(Cursor& json, const Type& type, void* out, const Path& path) {
    if (json.kind() != JsonKind::object) path.fail("must be an object");
    std::vector<std::string>* const above = unknown_;
    if (type.unknown != nullptr) unknown_ = &type.unknown(out);
    std::uint64_t seen = 0, seen_bytes = 0;  // by the fields' places in the table
    std::string unescaped;
    for (json.enter(); json.more();) {
      const Value written = json.take();
      std::string_view name = written.inner();
      if (name.find('\\') != std::string_view::npos) name = unescaped = written.as_string();
      const auto [index, as_bytes] = find(type, name);
      if (index == type.fields.size()) {
        if (type.strict && json.kind() != JsonKind::null) unknown(Path(path, base::printable(name, 64)));
        json.take();
        continue;
      }
      const Field& field = type.fields[index];
      const std::uint64_t bit = std::uint64_t{1} << index;
      std::uint64_t& seen_so = as_bytes ? seen_bytes : seen;
      if ((seen_so & bit) != 0) field.access.clear(out);  // of several the last one counts
      seen_so &= ~bit;
      if (json.kind() == JsonKind::null) {
        json.take();
        continue;
      }
      seen_so |= bit;
      const std::string of_bytes = as_bytes ? std::string(field.json_name()) + "Bytes" : std::string();
      const Path here(path, as_bytes ? std::string_view(of_bytes) : field.json_name());
      if (field.kind == Kind::any_text) {
        std::string text = as_bytes ? bytes(json.take(), field, here) : this->text(json.take(), field.most_bytes, here);
        if (text.empty()) {  // it is not there: some write all fields
          seen_so &= ~bit;
          continue;
        }
        if ((seen & seen_bytes & bit) != 0) here.fail("excludes " + std::string(field.json_name()) + (as_bytes ? "" : "Bytes"));
        as<std::string>(field.access.make(out)) = std::move(text);
      } else {
        read_field(json, field, out, here);
      }
    }
    check(type, out, path);
    unknown_ = above;
  }

 private:
  static std::pair<std::size_t, bool> find(const Type& type, std::string_view name) noexcept {
    for (std::size_t i = 0; i < type.fields.size(); ++i) {
      const Field& field = type.fields[i];
      if (name == field.json_name() || name == field.name) return {i, false};
      if (!field.former_name.empty() && (name == field.former_name || name == field.former_json.data())) return {i, false};
      if (field.kind != Kind::any_text) continue;
      if (name.ends_with("Bytes") && name.substr(0, name.size() - 5) == field.json_name()) return {i, true};
      if (name.ends_with("_bytes") && name.substr(0, name.size() - 6) == field.name) return {i, true};
    }
    return {type.fields.size(), false};
  }

  static void check(const Type& type, void* out, const Path& path) {
    for (std::size_t i = 0; i < type.fields.size(); ++i) {
      const Field& field = type.fields[i];
      if (field.required && !is_set(field, out)) Path(path, field.json_name()).fail("must be there and not be empty");
      if (field.oneof.empty() || !is_set(field, out)) continue;
      for (std::size_t j = 0; j < i; ++j) {
        if (type.fields[j].oneof == field.oneof && is_set(type.fields[j], out))
          path.fail("has more than one " + std::string(field.oneof));
      }
    }
  }

  void unknown(const Path& path) {
    if (unknown_ != nullptr && unknown_->size() < kMaxUnknown) unknown_->push_back(path.text());
  }

  void read_field(Cursor& json, const Field& field, void* out, const Path& path) {
    if (field.shape != Shape::list) return value(json, field, field.access.make(out), path);
    if (json.kind() != JsonKind::array) path.fail("must be an array");
    const std::size_t count = count_of(json, field.most, path);
    budget_.take(count, field.access.element_size, path);
    field.access.reserve(out, count);
    std::size_t index = 0;
    for (json.enter(); json.more(); ++index) {
      const Path here(path, index);
      if (json.kind() == JsonKind::null) here.fail("must not be null");
      value(json, field, field.access.append(out), here);
    }
  }

  /// Of the elements of an array or the members of an object, before the first of them is built.
  static std::size_t count_of(Cursor json, std::size_t most, const Path& path) {
    const bool members = json.kind() == JsonKind::object;
    std::size_t count = 0;
    for (json.enter(); json.more(); json.take()) {
      if (count++ == most) path.fail("has more than " + std::to_string(most) + " elements");
      if (members) json.take();
    }
    return count;
  }

  void value(Cursor& json, const Field& field, void* out, const Path& path) {
    switch (field.kind) {
      case Kind::text_map:
      case Kind::bytes_map:
        return map(json, field, as<TextMap>(out), path);
      case Kind::message:
        return message(json, *field.type, out, path);
      default:
        return scalar(json.take(), field, out, path);
    }
  }

  void scalar(const Value& json, const Field& field, void* out, const Path& path) {
    switch (field.kind) {
      case Kind::boolean:
        if (!json.is(JsonKind::boolean)) path.fail("must be true or false");
        as<bool>(out) = json.as_bool();
        return;
      case Kind::int32:
        return integer(json, as<std::int32_t>(out), path);
      case Kind::int64:
        return integer(json, as<std::int64_t>(out), path);
      case Kind::uint32:
        return integer(json, as<std::uint32_t>(out), path);
      case Kind::uint64:
        return integer(json, as<std::uint64_t>(out), path);
      case Kind::enumeration:
        return enumeration(json, field, as<std::uint8_t>(out), path);
      case Kind::text:
      case Kind::any_text:
        as<std::string>(out) = text(json, field.most_bytes, path);
        return;
      case Kind::bytes:
        as<std::string>(out) = bytes(json, field, path);
        return;
      case Kind::timestamp: {
        const Timestamp time = json.is(JsonKind::string) ? base::parse_timestamp(json.inner()) : std::nullopt;
        if (!time) path.fail("must be an RFC 3339 time, like 2026-01-31T12:00:00Z");
        as<SystemTime>(out) = *time;
        return;
      }
      case Kind::field_mask:
        return mask(text(json, field.most_bytes, path), as<FieldMask>(out), path);
      case Kind::text_map:
      case Kind::bytes_map:
      case Kind::message:
        return;  // read where they stand
    }
  }

  static std::string text(const Value& json, std::size_t most, const Path& path) {
    if (!json.is(JsonKind::string)) path.fail("must be a string");
    constexpr std::size_t longest_escape = 6;
    if (json.inner().size() > longest_escape * most) too_long(most, path);
    std::string out = json.as_string();
    if (out.size() > most) too_long(most, path);
    return out;
  }

  [[noreturn]] static void too_long(std::size_t most, const Path& path) {
    path.fail("is longer than " + std::to_string(most) + " bytes");
  }

  static std::string bytes(const Value& json, const Field& field, const Path& path) {
    std::optional<std::string> out;
    if (json.is(JsonKind::string)) {
      if (json.inner().size() / 4 * 3 > std::size_t{field.most_bytes} + 2) too_long(field.most_bytes, path);
      const bool escaped = json.inner().find('\\') != std::string_view::npos;  // some write "\/"
      out = escaped ? base::base64_decode(json.as_string()) : base::base64_decode(json.inner());
    }
    if (!out) path.fail("must be base64");
    return std::move(*out);
  }

  template <class Integer>
  static void integer(const Value& json, Integer& out, const Path& path) {
    const auto number = integer_of<Integer>(json);
    if (!number) {
      using Limits = std::numeric_limits<Integer>;
      path.fail("must be an integer from " + std::to_string(Limits::min()) + " to " + std::to_string(Limits::max()));
    }
    out = *number;
  }

  void enumeration(const Value& json, const Field& field, std::uint8_t& out, const Path& path) {
    const EnumType& type = field.values();
    out = 0;
    if (json.is(JsonKind::string)) {
      const auto found = std::find(type.values.begin(), type.values.end(), json.inner());
      if (found != type.values.end()) {
        out = static_cast<std::uint8_t>(found - type.values.begin());
      } else if (!json.inner().empty()) {
        unknown(path);
      }
      return;
    }
    if (!json.is(JsonKind::number)) path.fail("must be the name or the number of a value of " + std::string(type.name));
    std::int32_t number = 0;
    integer(json, number, path);
    if (number >= 0 && static_cast<std::size_t>(number) < type.values.size()) {
      out = static_cast<std::uint8_t>(number);
    } else {
      unknown(path);
    }
  }

  void map(Cursor& json, const Field& field, TextMap& out, const Path& path) {
    if (json.kind() != JsonKind::object) path.fail("must be an object");
    budget_.take(count_of(json, field.most, path), kMapNode, path);
    for (json.enter(); json.more();) {
      std::string key = text(json.take(), kMaxTextBytes, path);
      const Value value = json.take();
      const Path here = Path::entry(path, key);
      std::string entry = field.kind == Kind::bytes_map ? bytes(value, field, here) : text(value, field.most_bytes, here);
      out.insert_or_assign(std::move(key), std::move(entry));
    }
  }

  void mask(const std::string& joined, FieldMask& out, const Path& path) {
    for (std::size_t at = 0; at < joined.size();) {
      const std::size_t end = std::min(joined.find(',', at), joined.size());
      if (out.paths.size() == kMaxMessages) path.fail("has more than " + std::to_string(kMaxMessages) + " elements");
      budget_.take(1, sizeof(std::string), path);
      std::string& one = out.paths.emplace_back();
      for (; at < end; ++at) {
        const char c = joined[at];
        if (c >= 'A' && c <= 'Z') {
          one += '_';
          one += static_cast<char>(c - 'A' + 'a');
        } else {
          one += c;
        }
      }
      at = end + 1;
    }
  }

  Budget budget_;
  std::vector<std::string>* unknown_ = nullptr;
};

}  // namespace

void append_json(std::string& out, const Type& type, const void* message) {
  out.reserve(out.size() + large_parts(type, message) + 256);
  JsonWriter(out, type.is_request()).message(type, message, {});
}

void read_json(std::string_view json, const Type& type, void* message) {
  json_text::Fault fault;
  const auto value = json_text::parse(json, kMaxDepth, &fault);
  if (!value) {
    if (fault.too_deep) Path().fail("nests too deeply");
    const std::string at = "byte " + std::to_string(fault.at + 1);
    throw ParseError(at, "not JSON: error at " + at);
  }
  Cursor cursor(*value);
  JsonReader(json.size()).message(cursor, type, message, {});
}

}  // namespace cwsandbox::messages
