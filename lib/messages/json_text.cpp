#include "messages/json_text.hpp"

#include "base/ascii.hpp"
#include "base/base64.hpp"
#include "base/text.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <charconv>

namespace cwsandbox::messages::json_text {
namespace {

using Json = nlohmann::json;
using base::is_digit;

bool is_space(char c) noexcept { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

/// Characters that stand for themselves in a string, ASCII that is neither a quote nor a backslash.
constexpr std::array<bool, 256> kPlain = [] {
  std::array<bool, 256> plain{};
  for (std::size_t c = 0x20; c < 0x80; ++c) plain[c] = c != '"' && c != '\\';
  return plain;
}();
bool is_plain(char c) noexcept { return kPlain[static_cast<unsigned char>(c)]; }

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
  /// Where it stands, which after a fault is the byte at fault.
  [[nodiscard]] const char* at() const noexcept { return at_; }
  [[nodiscard]] bool too_deep() const noexcept { return too_deep_; }

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
    return std::all_of(word.begin(), word.end(), [this](char c) { return take(c); });
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
    if (*at_ != 'u' && std::string_view("\"\\/bfnrt").find(*at_) == std::string_view::npos) return false;
    if (*at_++ != 'u') return true;
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
    for (;;) {
      while (at_ != end_ && is_plain(*at_)) ++at_;
      if (at_ == end_) return false;
      const char c = *at_;
      if (static_cast<unsigned char>(c) < 0x20) return false;
      ++at_;
      if (c == '"') return ascii || all_utf8(from, at_ - 1);
      if (c == '\\') {
        if (!escape()) return false;
      } else if (static_cast<unsigned char>(c) >= 0x80) {
        ascii = false;
      }
    }
  }

  bool all_utf8(const char* from, const char* to) noexcept {
    if (base::is_utf8(std::string_view(from, static_cast<std::size_t>(to - from)))) return true;
    at_ = from;  // as far as it is
    while (const std::size_t size = base::utf8_character(std::string_view(at_, static_cast<std::size_t>(to - at_)))) at_ += size;
    return false;
  }

  bool descend() noexcept {
    too_deep_ = levels_ == 0;
    if (too_deep_) return false;
    --levels_;
    ++at_;
    return true;
  }

  bool elements() noexcept {
    if (!descend()) return false;
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
    if (!descend()) return false;
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
  bool too_deep_ = false;
};

bool is_between(char c) noexcept { return is_space(c) || c == ',' || c == ':'; }

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
  if (raw_.find('\\') == std::string_view::npos) return std::string(inner());
  return Json::parse(raw_).get<std::string>();
}

std::vector<Value> Value::elements() const {
  std::vector<Value> found;
  Cursor cursor(*this);
  for (cursor.enter(); cursor.more();) found.push_back(cursor.take());
  return found;
}

std::optional<Value> parse(std::string_view text, std::size_t max_depth, Fault* fault) {
  Checker checker(text, max_depth);
  if (!checker.whole()) {
    if (fault != nullptr) *fault = {static_cast<std::size_t>(checker.at() - text.data()), checker.too_deep()};
    return std::nullopt;
  }
  while (is_space(text.front())) text.remove_prefix(1);
  while (is_space(text.back())) text.remove_suffix(1);
  return Value(kind_of(text.front()), text);
}

Value::Kind Cursor::kind() const noexcept { return kind_of(*at_); }

Value Cursor::take() noexcept {
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
    while (at_ != end_ && !is_between(*at_) && *at_ != '}' && *at_ != ']') ++at_;
  }
  const Value found(kind, std::string_view(from, static_cast<std::size_t>(at_ - from)));
  skip_between();
  return found;
}

bool Cursor::more() noexcept {
  skip_between();
  if (*at_ != '}' && *at_ != ']') return true;
  ++at_;
  skip_between();
  return false;
}

void Cursor::skip_between() noexcept {
  while (at_ != end_ && is_between(*at_)) ++at_;
}

void Cursor::skip_string() noexcept {
  for (++at_;; ++at_) {
    while (is_plain(*at_)) ++at_;
    if (*at_ == '"') break;
    if (*at_ == '\\') ++at_;
  }
  ++at_;
}

Object::Object(const Value& object) {
  constexpr std::size_t usual = 12;
  members_.reserve(usual);
  Cursor cursor(object);
  for (cursor.enter(); cursor.more();) {
    const Value name = cursor.take();
    members_.push_back({name, cursor.take()});
  }
}

const Value* Object::find(std::string_view name) const {
  const auto is_it = [name](const Member& member) {
    const std::string_view written = member.name.inner();
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
  const auto needs_no_escape = [](char c) { return is_plain(c) || static_cast<unsigned char>(c) >= 0x80; };
  if (std::all_of(text.begin(), text.end(), needs_no_escape) && base::is_utf8(text)) {
    out += '"';
    out += text;
    out += '"';
  } else {
    out += Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
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

}  // namespace cwsandbox::messages::json_text
