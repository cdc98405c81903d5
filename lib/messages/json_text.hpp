// JSON read and written where it lies: messages pass without a tree of values, an allocation for each and a copy of every string.
// What is rare (escapes, text that is not UTF-8) is nlohmann/json's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace cwsandbox::messages::json_text {

/// A value inside text that `parse` has found to be JSON; valid as long as that text is.
class Value {
 public:
  enum class Kind : std::uint8_t { null, boolean, number, string, array, object };

  Value(Kind kind, std::string_view raw) noexcept : raw_(raw), kind_(kind) {}
  [[nodiscard]] bool is(Kind kind) const noexcept { return kind_ == kind; }
  /// As it was written, with its quotes or brackets.
  [[nodiscard]] std::string_view raw() const noexcept { return raw_; }
  /// A number without sign, fraction and exponent, that fits.
  [[nodiscard]] std::optional<std::uint64_t> as_unsigned() const noexcept;
  /// Precondition: a boolean.
  [[nodiscard]] bool as_bool() const noexcept { return raw_.front() == 't'; }
  /// Precondition: a string.
  [[nodiscard]] std::string as_string() const;
  /// What is between its quotes, as it was written. Precondition: a string.
  [[nodiscard]] std::string_view inner() const noexcept { return raw_.substr(1, raw_.size() - 2); }
  /// Precondition: an array.
  [[nodiscard]] std::vector<Value> elements() const;

 private:
  std::string_view raw_;
  Kind kind_;
};

/// Why text is not JSON.
struct Fault {
  std::size_t at = 0;  ///< the byte where it ceases to be, from 0
  bool too_deep = false;
};

/// The whole text as one value; nothing when it is not JSON (RFC 8259, UTF-8), or nests deeper than `max_depth` levels.
[[nodiscard]] std::optional<Value> parse(std::string_view text, std::size_t max_depth, Fault* fault = nullptr);

/// Goes through text that `parse` has found to be JSON, once.
class Cursor {
 public:
  explicit Cursor(const Value& value) noexcept : at_(value.raw().data()), end_(at_ + value.raw().size()) {}
  /// Of the value that it stands before.
  [[nodiscard]] Value::Kind kind() const noexcept;
  /// Passes over that value.
  Value take() noexcept;
  /// Enters the array or object that it stands before.
  void enter() noexcept { ++at_; }
  /// Whether there is one more element, or name of a member; the value of that comes next. Leaves the array or object when there is
  /// none.
  [[nodiscard]] bool more() noexcept;

 private:
  void skip_between() noexcept;
  void skip_string() noexcept;

  const char* at_;
  const char* end_;
};

/// The members of an object.
class Object {
 public:
  /// Precondition: an object.
  explicit Object(const Value& object);
  /// The member's value; null when there is none or it is JSON's null. Of several with this name the last one counts.
  [[nodiscard]] const Value* find(std::string_view name) const;

  struct Member {
    Value name, value;  // the name is a string
  };
  [[nodiscard]] const std::vector<Member>& members() const& noexcept { return members_; }
  const std::vector<Member>& members() && = delete;  // a loop over a temporary's would outlive it

 private:
  std::vector<Member> members_;
};

void append_number(std::string& out, std::uint64_t value);
/// With its quotes. What is not UTF-8 is repaired with U+FFFD.
void append_string(std::string& out, std::string_view text);
/// JSON strings are Unicode, arguments and paths are bytes: those that are not UTF-8 travel as {"base64": "..."}.
void append_bytes(std::string& out, std::string_view bytes);

/// Writes an object, member by member.
class ObjectWriter {
 public:
  explicit ObjectWriter(std::string& out) : out_(out) { out_ += '{'; }
  ObjectWriter(const ObjectWriter&) = delete;
  ObjectWriter& operator=(const ObjectWriter&) = delete;

  /// The name, behind which the caller writes a value. It must need no escape.
  std::string& key(std::string_view name);
  void text(std::string_view name, std::string_view value) { append_string(key(name), value); }
  void number(std::string_view name, std::uint64_t value) { append_number(key(name), value); }
  void boolean(std::string_view name, bool value) { key(name) += value ? "true" : "false"; }
  void end() { out_ += '}'; }

 private:
  std::string& out_;
  bool first_ = true;
};

}  // namespace cwsandbox::messages::json_text
