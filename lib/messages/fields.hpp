// What a message is made of, said once: a table of its fields beside its struct, from which both encodings come (json.hpp,
// protobuf.hpp). A table is constant data; no code is instantiated for a message but a few one-line functions that reach its
// members.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace cwsandbox::messages {

/// google.protobuf.Timestamp, to the nanosecond; none where it is unset.
using Timestamp = std::optional<std::chrono::system_clock::time_point>;
using TextMap = std::map<std::string, std::string>;

/// google.protobuf.FieldMask: names of fields, as they are in a .proto file.
struct FieldMask {
  std::vector<std::string> paths;
};

/// A message that cannot be read, or (of a request) not be written: a string that is not UTF-8.
struct ParseError : std::runtime_error {
  ParseError(std::string field_path, const std::string& what) : std::runtime_error(what), field(std::move(field_path)) {}
  /// The path of the field at fault by its names in JSON, e.g. "sandbox.spec.containers[0].args[1]"; "byte 17" where the text is
  /// not JSON; empty when the message as a whole is at fault.
  std::string field;
};

struct Type;

/// An enum of the API. C++ has it as `enum class … : std::uint8_t` with the same numbers; 0 is the unspecified value.
struct EnumType {
  std::string_view name;                     ///< qualified with its package
  std::span<const std::string_view> values;  ///< by number; every number has one
};

enum class Kind : std::uint8_t {
  boolean,
  int32,
  int64,
  uint32,
  uint64,
  enumeration,
  text,      ///< UTF-8
  bytes,     ///< base64 in JSON
  any_text,  ///< text, or bytes under another name and number where it is not UTF-8: the names of files are
  timestamp,
  field_mask,
  message,
  text_map,
  bytes_map,  ///< of bytes by text
};

enum class Shape : std::uint8_t {
  plain,     ///< its default value is its absence
  optional,  ///< std::optional: it may be there and have its default value
  list,
};

/// How many elements a list may have, and how long a text may be, where the table says nothing else. They are checked before
/// anything is built.
inline constexpr std::uint32_t kMaxMessages = 1'000, kMaxTexts = 65'536, kMaxPage = 100'000;
inline constexpr std::uint32_t kMaxTextBytes = 1u << 20, kMaxBytes = 64u << 20;
/// How deep messages may nest, in either encoding; none of ours needs ten.
inline constexpr std::size_t kMaxDepth = 32;

/// A field's name in lowerCamelCase, ended by a zero.
using JsonName = std::array<char, 40>;
[[nodiscard]] consteval JsonName json_name_of(std::string_view name) {
  JsonName out{};
  std::size_t size = 0;
  bool up = false;
  for (const char c : name) {
    if (c != '_') out.at(size++) = up && c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
    up = c == '_';
  }
  out.at(size) = '\0';
  return out;
}

/// What a field's Access gave, as the type that the field's Kind has.
template <class T>
[[nodiscard]] T& as(void* value) {
  return *static_cast<T*>(value);
}
template <class T>
[[nodiscard]] const T& as(const void* value) {
  return *static_cast<const T*>(value);
}

/// Reaches one member of a message. `find` is null where an optional is unset.
struct Access {
  const void* (*find)(const void* message);
  void* (*make)(void* message);
  void (*clear)(void* message);
  // Of lists only.
  std::size_t (*size)(const void* message);
  const void* (*at)(const void* message, std::size_t index);
  void* (*append)(void* message);
  void (*reserve)(void* message, std::size_t count);
  std::size_t element_size;
};

struct Field {
  std::uint32_t number = 0;
  std::uint32_t bytes_number = 0;  ///< of any_text: the field that holds it where it is not UTF-8
  std::string_view name;           ///< as in a .proto file
  JsonName json{};
  std::string_view former_name;  ///< what JSON may call it, too: it had another name once
  JsonName former_json{};
  Kind kind = Kind::text;
  Shape shape = Shape::plain;
  bool required = false;         ///< must be there and not be empty
  std::string_view oneof;        ///< at most one of the fields that share this name is set
  std::uint32_t most = 0;        ///< elements of a list or map
  std::uint32_t most_bytes = 0;  ///< of one text
  Access access{};
  const Type* type = nullptr;             ///< of a message
  const EnumType& (*values)() = nullptr;  ///< of an enumeration

  [[nodiscard]] constexpr std::string_view json_name() const noexcept { return json.data(); }

  // What the table adds to a field.
  consteval Field bytes() const {
    Field out = *this;
    out.kind = kind == Kind::text_map ? Kind::bytes_map : Kind::bytes;
    out.most_bytes = kMaxBytes;
    return out;
  }
  consteval Field or_bytes(std::uint32_t with_number) const {
    Field out = *this;
    out.kind = Kind::any_text;
    out.bytes_number = with_number;
    return out;
  }
  consteval Field one_of(std::string_view group) const {
    Field out = *this;
    out.oneof = group;
    return out;
  }
  consteval Field at_most(std::uint32_t elements) const {
    Field out = *this;
    out.most = elements;
    return out;
  }
  consteval Field formerly(std::string_view other_name) const {
    Field out = *this;
    out.former_name = other_name;
    out.former_json = json_name_of(other_name);
    return out;
  }
  consteval Field needed() const {
    Field out = *this;
    out.required = true;
    return out;
  }
};

/// A message of any type, for what is done to all of them alike.
using AnyMessage = std::unique_ptr<void, void (*)(void*)>;

/// The table of one message, `M::kType`.
struct Type {
  std::string_view name;  ///< qualified with its package
  std::span<const Field> fields;
  AnyMessage (*make)() = nullptr;
  /// A field that is not known here would change what is given (another source of a volume, another limit on the network): its path
  /// is kept by the message that is read, instead of being ignored like others.
  bool strict = false;
  std::vector<std::string>& (*unknown)(void* message) = nullptr;

  /// Text is sent as it was meant or not at all, for a repaired one would name another program, file or sandbox. In answers, text
  /// that is not UTF-8 is repaired.
  [[nodiscard]] constexpr bool is_request() const noexcept { return name.ends_with("Request"); }

  // What a message adds to its table.
  consteval Type strictly() const {
    Type out = *this;
    out.strict = true;
    return out;
  }
  consteval Type keeping(std::vector<std::string>& (*paths)(void*)) const {
    Type out = *this;
    out.unknown = paths;
    return out;
  }
};

template <class M>
consteval Type table(std::string_view name, std::span<const Field> fields) {
  Type out;
  out.name = name;
  out.fields = fields;
  out.make = []() { return AnyMessage(new M, [](void* at) { delete static_cast<M*>(at); }); };
  return out;
}

/// google.protobuf.Empty
struct Empty {
  static const Type kType;
};

/// How many unknown fields are kept: enough for a text about them.
inline constexpr std::size_t kMaxUnknown = 32;

namespace detail {

template <class T>
inline constexpr bool is_optional = false;
template <class T>
inline constexpr bool is_optional<std::optional<T>> = true;
template <class T>
inline constexpr bool is_list = false;
template <class T>
inline constexpr bool is_list<std::vector<T>> = true;

template <class V>
consteval Kind kind_of() {
  if constexpr (std::is_same_v<V, bool>)
    return Kind::boolean;
  else if constexpr (std::is_same_v<V, std::int32_t>)
    return Kind::int32;
  else if constexpr (std::is_same_v<V, std::int64_t>)
    return Kind::int64;
  else if constexpr (std::is_same_v<V, std::uint32_t>)
    return Kind::uint32;
  else if constexpr (std::is_same_v<V, std::uint64_t>)
    return Kind::uint64;
  else if constexpr (std::is_enum_v<V>)
    return Kind::enumeration;
  else if constexpr (std::is_same_v<V, std::string>)
    return Kind::text;
  else if constexpr (std::is_same_v<V, std::chrono::system_clock::time_point>)
    return Kind::timestamp;
  else if constexpr (std::is_same_v<V, FieldMask>)
    return Kind::field_mask;
  else if constexpr (std::is_same_v<V, TextMap>)
    return Kind::text_map;
  else
    return Kind::message;
}

template <auto Member>
struct MemberOf;
template <class M, class V, V M::* Member>
struct MemberOf<Member> {
  using Message = M;
  using Value = V;
};

template <auto Member>
struct Reach {
  using M = typename MemberOf<Member>::Message;
  using V = typename MemberOf<Member>::Value;

  static const V& of(const void* message) { return static_cast<const M*>(message)->*Member; }
  static V& of(void* message) { return static_cast<M*>(message)->*Member; }

  static const void* find(const void* message) {
    if constexpr (is_optional<V>)
      return of(message) ? &*of(message) : nullptr;
    else
      return &of(message);
  }
  static void* make(void* message) {
    if constexpr (is_optional<V>)
      return of(message) ? &*of(message) : &of(message).emplace();
    else
      return &of(message);
  }
  static void clear(void* message) { of(message) = V{}; }
  static std::size_t size(const void* message) { return of(message).size(); }
  static const void* at(const void* message, std::size_t index) { return &of(message)[index]; }
  static void* append(void* message) { return &of(message).emplace_back(); }
  static void reserve(void* message, std::size_t count) { of(message).reserve(count); }
};

template <class V>
struct Inner {
  using type = V;
};
template <class V>
struct Inner<std::optional<V>> {
  using type = V;
};
template <class V>
struct Inner<std::vector<V>> {
  using type = V;
};

}  // namespace detail

/// One line of a table: `field<&VolumeMount::volume>(1, "volume")`.
template <auto Member>
consteval Field field(std::uint32_t number, std::string_view name) {
  using V = typename detail::MemberOf<Member>::Value;
  using T = typename detail::Inner<V>::type;
  using Reach = detail::Reach<Member>;
  Field out;
  out.number = number;
  out.name = name;
  out.json = json_name_of(name);
  out.kind = detail::kind_of<T>();
  out.access = {Reach::find, Reach::make, Reach::clear, nullptr, nullptr, nullptr, nullptr, 0};
  out.most_bytes = kMaxTextBytes;
  if constexpr (detail::is_optional<V>) out.shape = Shape::optional;
  if constexpr (detail::is_list<V>) {
    out.shape = Shape::list;
    out.access.size = Reach::size;
    out.access.at = Reach::at;
    out.access.append = Reach::append;
    out.access.reserve = Reach::reserve;
    out.access.element_size = sizeof(T);
    out.most = detail::kind_of<T>() == Kind::text ? kMaxTexts : kMaxMessages;
  }
  if constexpr (detail::kind_of<T>() == Kind::text_map) out.most = kMaxTexts;
  if constexpr (detail::kind_of<T>() == Kind::message) out.type = &T::kType;
  if constexpr (std::is_enum_v<T>) {
    static_assert(sizeof(T) == 1, "an enum of the API is one byte here");
    out.values = []() -> const EnumType& { return describe(T{}); };
  }
  return out;
}

/// For a table of a message whose unknown fields are kept.
template <auto Member>
std::vector<std::string>& unknown_of(void* message) {
  return static_cast<typename detail::MemberOf<Member>::Message*>(message)->*Member;
}

/// Whether nothing in it is set.
[[nodiscard]] bool is_empty(const Type& type, const void* message);
template <class M>
[[nodiscard]] bool is_empty(const M& message) {
  return is_empty(M::kType, &message);
}

/// Whether a field is there: an optional one that has a value, another one that has not its default value.
[[nodiscard]] bool is_set(const Field& field, const void* message);

/// The value's name ("STATE_RUNNING"); that of the unspecified one for a number that is none.
[[nodiscard]] std::string_view enum_name(const EnumType& type, std::uint8_t number) noexcept;
template <class Enum>
  requires std::is_enum_v<Enum>
[[nodiscard]] std::string_view to_string(Enum value) noexcept {
  return enum_name(describe(value), static_cast<std::uint8_t>(value));
}

/// The paths ("sandbox.spec.volumes[1].volumeId", at most kMaxUnknown) of what is set in the message, of those that are asked for:
/// patterns have no index ("sandbox.spec.volumes[].volumeId"). A message that is there and empty is set only where it is one of
/// several.
[[nodiscard]] std::vector<std::string> set_paths(const Type& type, const void* message, std::span<const std::string_view> patterns);

/// Where a codec is in a message. The text of a path is written only where something is wrong.
class Path {
 public:
  Path() = default;
  Path(const Path& above, std::string_view member) : above_(&above), name_(member) {}
  Path(const Path& above, std::size_t index) : above_(&above), index_(index), kind_(Kind::element) {}
  /// The entry of a map.
  [[nodiscard]] static Path entry(const Path& above, std::string_view key) {
    Path out(above, key);
    out.kind_ = Kind::entry;
    return out;
  }
  [[nodiscard]] std::string text() const;
  /// "sandbox.spec: must be an object".
  [[noreturn]] void fail(const std::string& why) const;

 private:
  enum class Kind : std::uint8_t { member, element, entry };
  const Path* above_ = nullptr;
  std::string_view name_;
  std::size_t index_ = 0;
  Kind kind_ = Kind::member;
};

/// What an entry of a map takes beside its texts.
inline constexpr std::size_t kMapNode = sizeof(TextMap::value_type) + 4 * sizeof(void*);

/// What reading a message may take of memory beside its texts: six times the input, and 4 MiB for small ones.
class Budget {
 public:
  explicit Budget(std::size_t input) noexcept : left_(6 * input + (std::size_t{4} << 20)) {}
  /// Throws ParseError when there is not as much left.
  void take(std::size_t count, std::size_t each, const Path& path);

 private:
  std::size_t left_;
};

}  // namespace cwsandbox::messages
