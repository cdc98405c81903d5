#include "messages/protobuf.hpp"

#include "base/text.hpp"

#include <protozero/pbf_reader.hpp>
#include <protozero/pbf_writer.hpp>

#include <algorithm>
#include <utility>

namespace cwsandbox::messages {
namespace {

using protozero::pbf_reader;
using protozero::pbf_wire_type;
using protozero::pbf_writer;
using SystemTime = std::chrono::system_clock::time_point;
using Nanoseconds = std::chrono::nanoseconds;
using Seconds = std::chrono::seconds;

// Of google.protobuf.Timestamp, of google.protobuf.FieldMask, and of the entries of a map.
constexpr std::uint32_t kSeconds = 1, kNanos = 2, kPaths = 1, kKey = 1, kValue = 2;

// ---- writing ----

class ProtobufWriter {
 public:
  explicit ProtobufWriter(bool exact) : exact_(exact) {}

  void message(pbf_writer& out, const Type& type, const void* message, const Path& path) const {
    for (const Field& field : type.fields) {
      const Path here(path, field.json_name());
      if (field.shape == Shape::list) {
        list(out, field, message, here);
      } else if (is_set(field, message)) {
        value(out, field, field.access.find(message), here);
      }
    }
  }

 private:
  void list(pbf_writer& out, const Field& field, const void* message, const Path& path) const {
    const std::size_t count = field.access.size(message);
    if (field.kind != Kind::enumeration) {
      for (std::size_t i = 0; i < count; ++i) value(out, field, field.access.at(message, i), Path(path, i));
    } else if (count != 0) {  // numbers are packed
      std::vector<std::int32_t> numbers(count);
      for (std::size_t i = 0; i < count; ++i) numbers[i] = as<std::uint8_t>(field.access.at(message, i));
      out.add_packed_enum(field.number, numbers.begin(), numbers.end());
    }
  }

  void value(pbf_writer& out, const Field& field, const void* value, const Path& path) const {
    switch (field.kind) {
      case Kind::boolean:
        return out.add_bool(field.number, as<bool>(value));
      case Kind::int32:
        return out.add_int32(field.number, as<std::int32_t>(value));
      case Kind::int64:
        return out.add_int64(field.number, as<std::int64_t>(value));
      case Kind::uint32:
        return out.add_uint32(field.number, as<std::uint32_t>(value));
      case Kind::uint64:
        return out.add_uint64(field.number, as<std::uint64_t>(value));
      case Kind::enumeration:
        return out.add_enum(field.number, as<std::uint8_t>(value));
      case Kind::text:
        return text(out, field.number, as<std::string>(value), path);
      case Kind::bytes:
        return out.add_bytes(field.number, as<std::string>(value));
      case Kind::any_text:
        return base::is_utf8(as<std::string>(value)) ? out.add_string(field.number, as<std::string>(value))
                                                     : out.add_bytes(field.bytes_number, as<std::string>(value));
      case Kind::timestamp: {
        const auto since = as<SystemTime>(value).time_since_epoch();
        const auto seconds = std::chrono::floor<Seconds>(since);
        if (since.count() == 0) return empty(out, field);
        pbf_writer part(out, field.number);
        if (seconds.count() != 0) part.add_int64(kSeconds, seconds.count());
        if (since != seconds)
          part.add_int32(kNanos, static_cast<std::int32_t>(std::chrono::duration_cast<Nanoseconds>(since - seconds).count()));
        return;
      }
      case Kind::field_mask: {
        if (as<FieldMask>(value).paths.empty()) return empty(out, field);
        pbf_writer part(out, field.number);
        for (const std::string& one : as<FieldMask>(value).paths) text(part, kPaths, one, path);
        return;
      }
      case Kind::text_map:
      case Kind::bytes_map:
        for (const auto& [name, entry] : as<TextMap>(value)) {
          const Path here = Path::entry(path, name);
          if (exact_ && !base::is_utf8(name)) here.fail("has a name that is not valid UTF-8");
          pbf_writer part(out, field.number);
          text(part, kKey, name, here);
          if (field.kind == Kind::bytes_map) {
            part.add_bytes(kValue, entry);
          } else {
            text(part, kValue, entry, here);
          }
        }
        return;
      case Kind::message: {
        if (is_empty(*field.type, value)) return empty(out, field);
        pbf_writer part(out, field.number);
        return message(part, *field.type, value, path);
      }
    }
  }

  /// A part that is there and has nothing in it: protozero would take it back.
  static void empty(pbf_writer& out, const Field& field) { out.add_bytes(field.number, nullptr, 0); }

  void text(pbf_writer& out, std::uint32_t number, const std::string& text, const Path& path) const {
    if (base::is_utf8(text)) return out.add_string(number, text);
    if (exact_) path.fail("is not valid UTF-8");
    out.add_string(number, base::repaired_utf8(text));
  }

  const bool exact_;
};

// ---- reading ----

class ProtobufReader {
 public:
  explicit ProtobufReader(std::size_t size) : budget_(size) {}

  void message(protozero::data_view bytes, const Type& type, void* out, const Path& path) {
    if (++depth_ > kMaxDepth) Path().fail("nests too deeply");
    std::vector<std::string>* const above = unknown_;
    if (type.unknown != nullptr) unknown_ = &type.unknown(out);
    guarded(path, [&] {
      std::uint64_t counted = 0;  // lists, by their places in the table
      for (pbf_reader in(bytes); in.next();) {
        const auto field = std::find_if(type.fields.begin(), type.fields.end(), [&in](const Field& one) {
          return one.number == in.tag() || (one.bytes_number == in.tag() && one.bytes_number != 0);
        });
        if (field == type.fields.end() || !fits(*field, in.wire_type())) {
          if (type.strict) unknown(Path(path, "#" + std::to_string(in.tag())));
          in.skip();
          continue;
        }
        for (const Field& other : type.fields) {
          if (!field->oneof.empty() && other.oneof == field->oneof && &other != &*field) other.access.clear(out);
        }
        const Path here(path, field->json_name());
        if (field->shape != Shape::list) {
          value(in, *field, field->access.make(out), here);
          continue;
        }
        const std::uint64_t bit = std::uint64_t{1} << (field - type.fields.begin());
        if ((counted & bit) == 0) make_room(in, *field, out, here);
        counted |= bit;
        if (field->kind == Kind::enumeration && in.wire_type() == pbf_wire_type::length_delimited) {
          for (const std::int32_t number : in.get_packed_enum()) enumeration(number, *field, field->access.append(out), here);
        } else {
          const Path element(here, field->access.size(out));
          value(in, *field, field->access.append(out), element);
        }
      }
    });
    for (const Field& field : type.fields) {
      if (field.required && !is_set(field, out)) Path(path, field.json_name()).fail("must be there and not be empty");
    }
    unknown_ = above;
    --depth_;
  }

 private:
  /// What protozero finds wrong with the bytes belongs to the message that it was reading.
  template <class Work>
  static void guarded(const Path& path, Work work) {
    try {
      work();
    } catch (const protozero::exception& e) {
      path.fail(std::string("is not protobuf: ") + e.what());
    }
  }

  /// Another wire type than its own makes a field an unknown one.
  static bool fits(const Field& field, pbf_wire_type wire) noexcept {
    switch (field.kind) {
      case Kind::boolean:
      case Kind::int32:
      case Kind::int64:
      case Kind::uint32:
      case Kind::uint64:
        return wire == pbf_wire_type::varint;
      case Kind::enumeration:
        return wire == pbf_wire_type::varint || (field.shape == Shape::list && wire == pbf_wire_type::length_delimited);
      default:
        return wire == pbf_wire_type::length_delimited;
    }
  }

  void unknown(const Path& path) {
    if (unknown_ != nullptr && unknown_->size() < kMaxUnknown) unknown_->push_back(path.text());
  }

  /// For all elements that are still to come, before the first of them is built.
  void make_room(pbf_reader in, const Field& field, void* out, const Path& path) {
    const std::uint32_t number = in.tag();
    std::size_t count = 0;
    do {
      if (field.kind == Kind::enumeration && in.wire_type() == pbf_wire_type::length_delimited) {
        count += in.get_packed_enum().size();
      } else {
        in.skip();
        ++count;
      }
    } while (in.next(number));
    const std::size_t all = count + field.access.size(out);
    if (all > field.most) path.fail("has more than " + std::to_string(field.most) + " elements");
    budget_.take(count, field.access.element_size, path);
    field.access.reserve(out, all);
  }

  void value(pbf_reader& in, const Field& field, void* out, const Path& path) {
    switch (field.kind) {
      case Kind::boolean:
        as<bool>(out) = in.get_uint64() != 0;  // its get_bool looks at a byte before it knows that there is one
        return;
      case Kind::int32:
        as<std::int32_t>(out) = in.get_int32();
        return;
      case Kind::int64:
        as<std::int64_t>(out) = in.get_int64();
        return;
      case Kind::uint32:
        as<std::uint32_t>(out) = in.get_uint32();
        return;
      case Kind::uint64:
        as<std::uint64_t>(out) = in.get_uint64();
        return;
      case Kind::enumeration:
        return enumeration(in.get_enum(), field, out, path);
      case Kind::text:
        as<std::string>(out) = text(in.get_view(), field, path);
        return;
      case Kind::bytes:
        as<std::string>(out) = bytes(in.get_view(), field, path);
        return;
      case Kind::any_text:
        as<std::string>(out) = in.tag() == field.number ? text(in.get_view(), field, path) : bytes(in.get_view(), field, path);
        return;
      case Kind::timestamp:
        return timestamp(in.get_view(), as<SystemTime>(out), path);
      case Kind::field_mask:
        return mask(in.get_view(), field, as<FieldMask>(out), path);
      case Kind::text_map:
      case Kind::bytes_map:
        return entry(in.get_view(), field, as<TextMap>(out), path);
      case Kind::message:
        return message(in.get_view(), *field.type, out, path);
    }
  }

  void enumeration(std::int32_t number, const Field& field, void* out, const Path& path) {
    const bool known = number >= 0 && static_cast<std::size_t>(number) < field.values().values.size();
    as<std::uint8_t>(out) = known ? static_cast<std::uint8_t>(number) : std::uint8_t{0};
    if (!known) unknown(path);
  }

  static std::string bytes(protozero::data_view view, const Field& field, const Path& path) {
    if (view.size() > field.most_bytes) path.fail("is longer than " + std::to_string(field.most_bytes) + " bytes");
    return view.to_string();
  }

  static std::string text(protozero::data_view view, const Field& field, const Path& path) {
    std::string out = bytes(view, field, path);
    if (!base::is_utf8(out)) path.fail("is not valid UTF-8");
    return out;
  }

  static void timestamp(protozero::data_view view, SystemTime& out, const Path& path) {
    std::int64_t seconds = 0;
    std::int32_t nanos = 0;
    guarded(path, [&] {
      for (pbf_reader in(view); in.next();) {
        if (in.tag() == kSeconds && in.wire_type() == pbf_wire_type::varint) {
          seconds = in.get_int64();
        } else if (in.tag() == kNanos && in.wire_type() == pbf_wire_type::varint) {
          nanos = in.get_int32();
        } else {
          in.skip();
        }
      }
    });
    // What system_clock holds in 64 bits of nanoseconds, a day less at either end.
    constexpr std::int64_t most = 9'223'286'400, nanos_of_a_second = 1'000'000'000;
    if (seconds < -most || seconds > most) path.fail("must be a time in the years 1678 to 2261");
    if (nanos < 0 || nanos >= nanos_of_a_second) path.fail("has nanoseconds that are no part of a second");
    out = SystemTime(std::chrono::duration_cast<SystemTime::duration>(Seconds(seconds) + Nanoseconds(nanos)));
  }

  void mask(protozero::data_view view, const Field& field, FieldMask& out, const Path& path) {
    guarded(path, [&] {
      for (pbf_reader in(view); in.next();) {
        if (in.tag() != kPaths || in.wire_type() != pbf_wire_type::length_delimited) {
          in.skip();
          continue;
        }
        if (out.paths.size() == kMaxMessages) path.fail("has more than " + std::to_string(kMaxMessages) + " elements");
        budget_.take(1, sizeof(std::string), path);
        out.paths.push_back(text(in.get_view(), field, path));
      }
    });
  }

  void entry(protozero::data_view view, const Field& field, TextMap& out, const Path& path) {
    protozero::data_view key("", 0), value("", 0);  // left out where they are empty
    guarded(path, [&] {
      for (pbf_reader in(view); in.next();) {
        if (in.tag() == kKey && in.wire_type() == pbf_wire_type::length_delimited) {
          key = in.get_view();
        } else if (in.tag() == kValue && in.wire_type() == pbf_wire_type::length_delimited) {
          value = in.get_view();
        } else {
          in.skip();
        }
      }
    });
    if (out.size() >= field.most) path.fail("has more than " + std::to_string(field.most) + " elements");
    budget_.take(1, kMapNode, path);
    std::string name = text(key, field, path);
    const Path here = Path::entry(path, name);
    std::string of_name = field.kind == Kind::bytes_map ? bytes(value, field, here) : text(value, field, here);
    out.insert_or_assign(std::move(name), std::move(of_name));
  }

  Budget budget_;
  std::size_t depth_ = 0;
  std::vector<std::string>* unknown_ = nullptr;
};

}  // namespace

void append_protobuf(std::string& out, const Type& type, const void* message) {
  pbf_writer writer(out);
  ProtobufWriter(type.is_request()).message(writer, type, message, {});
}

void read_protobuf(std::string_view bytes, const Type& type, void* message) {
  ProtobufReader(bytes.size()).message({bytes.data(), bytes.size()}, type, message, {});
}

}  // namespace cwsandbox::messages
