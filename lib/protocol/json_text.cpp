#include "protocol/json_text.hpp"

#include "base/ascii.hpp"
#include "base/base64.hpp"
#include "base/text.hpp"
#include "protocol/json_util.hpp"

#include <algorithm>
#include <array>
#include <charconv>

namespace cwsandbox::protocol::json_text {
namespace {

bool is_space(char c) noexcept { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

Value::Kind kind_of(char first) noexcept {
  switch (first) {
    case '{':
      return Value::Kind::object;
    case '[':
      return Value::Kind::array;
    case '"':
      return Value::Kind::string;
    case 't':
    case 'f':
      return Value::Kind::boolean;
    case 'n':
      return Value::Kind::null;
    default:
      return Value::Kind::number;
  }
}

/// Walks over text once and finds whether it is JSON.
class Checker {
 public:
  Checker(std::string_view text, std::size_t max_depth) noexcept
      : at_(text.data()), end_(text.data() + text.size()), levels_(max_depth) {}

  [[nodiscard]] bool whole() noexcept {
    skip_space();
    if (!value()) return false;
    skip_space();
    return at_ == end_;
  }

 private:
  void skip_space() noexcept {
    while (at_ != end_ && is_space(*at_)) ++at_;
  }
  bool take(char c) noexcept {
    if (at_ == end_ || *at_ != c) return false;
    ++at_;
    return true;
  }
  bool take_word(std::string_view word) noexcept {
    if (static_cast<std::size_t>(end_ - at_) < word.size() || std::string_view(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  bool digits() noexcept {
    const char* const from = at_;
    while (at_ != end_ && base::is_digit(*at_)) ++at_;
    return at_ != from;
  }

  bool value() noexcept {
    if (at_ == end_) return false;
    switch (*at_) {
      case '{':
        return members();
      case '[':
        return elements();
      case '"':
        return string();
      case 't':
        return take_word("true");
      case 'f':
        return take_word("false");
      case 'n':
        return take_word("null");
      default:
        return number();
    }
  }

  bool number() noexcept {
    take('-');
    if (!take('0') && !digits()) return false;
    if (take('.') && !digits()) return false;
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      if (!digits()) return false;
    }
    return true;
  }

  /// The four digits of an escape; -1 when they are none.
  int code_unit() noexcept {
    if (end_ - at_ < 4) return -1;
    int unit = 0;
    const auto parsed = std::from_chars(at_, at_ + 4, unit, 16);
    if (parsed.ec != std::errc() || parsed.ptr != at_ + 4 || *at_ == '-') return -1;
    at_ += 4;
    return unit;
  }

  bool escape() noexcept {
    if (at_ == end_) return false;
    const char c = *at_++;
    if (c != 'u') return std::string_view("\"\\/bfnrt").find(c) != std::string_view::npos;
    const int unit = code_unit();
    if (unit < 0 || (unit >= 0xdc00 && unit <= 0xdfff)) return false;
    if (unit < 0xd800 || unit > 0xdbff) return true;
    if (!take_word("\\u")) return false;
    const int low = code_unit();
    return low >= 0xdc00 && low <= 0xdfff;
  }

  bool string() noexcept {
    const char* const from = ++at_;
    bool ascii = true;
    while (at_ != end_) {
      const char c = *at_++;
      if (c == '"') return ascii || base::is_utf8(std::string_view(from, static_cast<std::size_t>(at_ - 1 - from)));
      if (c == '\\') {
        if (!escape()) return false;
      } else if (static_cast<unsigned char>(c) < 0x20) {
        return false;
      } else if (static_cast<unsigned char>(c) >= 0x80) {
        ascii = false;
      }
    }
    return false;
  }

  bool elements() noexcept {
    if (levels_ == 0) return false;
    --levels_;
    ++at_;
    skip_space();
    if (!take(']')) {
      do {
        skip_space();
        if (!value()) return false;
        skip_space();
      } while (take(','));
      if (!take(']')) return false;
    }
    ++levels_;
    return true;
  }

  bool members() noexcept {
    if (levels_ == 0) return false;
    --levels_;
    ++at_;
    skip_space();
    if (!take('}')) {
      do {
        skip_space();
        if (at_ == end_ || *at_ != '"' || !string()) return false;
        skip_space();
        if (!take(':')) return false;
        skip_space();
        if (!value()) return false;
        skip_space();
      } while (take(','));
      if (!take('}')) return false;
    }
    ++levels_;
    return true;
  }

  const char* at_;
  const char* end_;
  std::size_t levels_;
};

/// Walks over the parts of an array or object that is known to be JSON.
class Walker {
 public:
  explicit Walker(std::string_view raw) noexcept : at_(raw.data() + 1), end_(raw.data() + raw.size() - 1) { skip_between(); }
  [[nodiscard]] bool done() const noexcept { return at_ == end_; }

  Value next() noexcept {
    const char* const from = at_;
    const auto kind = kind_of(*from);
    if (kind == Value::Kind::string) {
      skip_string();
    } else if (kind == Value::Kind::array || kind == Value::Kind::object) {
      int depth = 0;
      do {
        if (*at_ == '"') {
          skip_string();
          continue;
        }
        if (*at_ == '{' || *at_ == '[') ++depth;
        if (*at_ == '}' || *at_ == ']') --depth;
        ++at_;
      } while (depth > 0);
    } else {
      while (at_ != end_ && !is_between(*at_)) ++at_;
    }
    const Value found(kind, std::string_view(from, static_cast<std::size_t>(at_ - from)));
    skip_between();
    return found;
  }

 private:
  static bool is_between(char c) noexcept { return is_space(c) || c == ',' || c == ':'; }
  void skip_between() noexcept {
    while (at_ != end_ && is_between(*at_)) ++at_;
  }
  void skip_string() noexcept {
    for (++at_; *at_ != '"'; ++at_) {
      if (*at_ == '\\') ++at_;
    }
    ++at_;
  }

  const char* at_;
  const char* end_;
};

/// Between the quotes.
std::string_view inner(const Value& string) noexcept { return string.raw().substr(1, string.raw().size() - 2); }

}  // namespace

std::optional<std::uint64_t> Value::as_unsigned() const noexcept {
  std::uint64_t number = 0;
  const char* const end = raw_.data() + raw_.size();
  if (kind_ != Kind::number) return std::nullopt;
  const auto parsed = std::from_chars(raw_.data(), end, number);
  if (parsed.ec != std::errc() || parsed.ptr != end) return std::nullopt;
  return number;
}

std::string Value::as_string() const {
  if (raw_.find('\\') == std::string_view::npos) return std::string(inner(*this));
  return json_util::Json::parse(raw_).get<std::string>();
}

std::vector<Value> Value::elements() const {
  std::vector<Value> found;
  for (Walker walker(raw_); !walker.done();) found.push_back(walker.next());
  return found;
}

std::optional<Value> parse(std::string_view text, std::size_t max_depth) {
  if (!Checker(text, max_depth).whole()) return std::nullopt;
  while (is_space(text.front())) text.remove_prefix(1);
  while (is_space(text.back())) text.remove_suffix(1);
  return Value(kind_of(text.front()), text);
}

Object::Object(const Value& object) {
  constexpr std::size_t usual = 12;
  members_.reserve(usual);
  for (Walker walker(object.raw()); !walker.done();) {
    const Value name = walker.next();
    members_.push_back({name, walker.next()});
  }
}

const Value* Object::find(std::string_view name) const {
  const auto is_it = [name](const Member& member) {
    const std::string_view written = inner(member.name);
    return written == name || (written.find('\\') != std::string_view::npos && member.name.as_string() == name);
  };
  const auto found = std::find_if(members_.rbegin(), members_.rend(), is_it);
  return found == members_.rend() || found->value.is(Value::Kind::null) ? nullptr : &found->value;
}

void append_number(std::string& out, std::uint64_t value) {
  std::array<char, 20> digits;
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
  out.append(digits.data(), end);
}

void append_string(std::string& out, std::string_view text) {
  const auto is_plain = [](char c) { return static_cast<unsigned char>(c) >= 0x20 && c != '"' && c != '\\'; };
  if (std::all_of(text.begin(), text.end(), is_plain) && base::is_utf8(text)) {
    out += '"';
    out += text;
    out += '"';
  } else {
    out += json_util::dump(json_util::Json(text));
  }
}

void append_bytes(std::string& out, std::string_view bytes) {
  if (base::is_utf8(bytes)) return append_string(out, bytes);
  ObjectWriter encoded(out);
  encoded.text("base64", base::base64_encode(bytes));
  encoded.end();
}

std::string& ObjectWriter::key(std::string_view name) {
  out_ += first_ ? "\"" : ",\"";
  first_ = false;
  out_ += name;
  return out_ += "\":";
}

}  // namespace cwsandbox::protocol::json_text
