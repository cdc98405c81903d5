#include "proto_text.hpp"

#include "messages/services.hpp"

#include <algorithm>
#include <set>

namespace cwsandbox::messages {
namespace {

std::string_view package_of(std::string_view name) {
  // A nested enum is named like a member of its message, which begins in upper case.
  std::size_t end = 0;
  for (std::size_t dot = name.find('.'); dot != std::string_view::npos; dot = name.find('.', dot + 1)) {
    if (name[end == 0 ? 0 : end + 1] >= 'A' && name[end == 0 ? 0 : end + 1] <= 'Z') break;
    end = dot;
  }
  return name.substr(0, end);
}

std::string_view local_name(std::string_view name) { return name.substr(package_of(name).size() + 1); }

/// As a file of `package` names it.
std::string reference(std::string_view name, std::string_view package) {
  return std::string(package_of(name) == package ? local_name(name) : name);
}

class File {
 public:
  explicit File(std::string_view package) : package_(package) {}

  void add(const ServiceType& service) {
    std::string out = "service " + std::string(local_name(service.name)) + " {\n";
    for (const MethodType& method : service.methods) {
      const bool in = method.streaming == Streaming::both, streamed = method.streaming != Streaming::none;
      out += "  rpc " + std::string(method.name) + "(" + (in ? "stream " : "") + used(*method.request) + ") returns (" +
             (streamed ? "stream " : "") + used(*method.answer) + ");\n";
    }
    text_ += out + "}\n\n";
  }

  void add(const Type& type) {
    std::string out = "message " + std::string(local_name(type.name)) + " {\n";
    for (std::size_t i = 0; i < type.fields.size(); ++i) {
      const Field& field = type.fields[i];
      if (field.kind == Kind::enumeration) out += enum_of(field.values(), type);
      if (field.oneof.empty()) {
        out += line(field, "  ");
        continue;
      }
      const auto in_group = [&field](const Field& other) { return other.oneof == field.oneof; };
      if (std::any_of(type.fields.begin(), type.fields.begin() + static_cast<std::ptrdiff_t>(i), in_group)) continue;
      out += "  oneof " + std::string(field.oneof) + " {\n";
      for (const Field& other : type.fields) {
        if (in_group(other)) out += line(other, "    ");
      }
      out += "  }\n";
    }
    text_ += out + "}\n\n";
  }

  [[nodiscard]] std::string text() const {
    std::string out = "// Written from the tables of lib/messages/ by scripts/proto.\nsyntax = \"proto3\";\n\npackage " +
                      std::string(package_) + ";\n\n";
    for (const std::string& path : imports_) out += "import \"" + path + "\";\n";
    if (!imports_.empty()) out += "\n";
    out += text_;
    out.pop_back();
    return out;
  }

 private:
  std::string used(const Type& type) {
    if (type.name == Empty::kType.name) imports_.insert("google/protobuf/empty.proto");
    return reference(type.name, package_);
  }

  /// Written where it is used first; one that is nested is part of its message.
  std::string enum_of(const EnumType& type, const Type& within) {
    if (!enums_.insert(type.name).second) return {};
    std::string name(local_name(type.name));
    const std::string outer = std::string(local_name(within.name)) + ".";
    const bool nested = name.starts_with(outer);
    const std::string indent = nested ? "  " : "";
    if (nested) name.erase(0, outer.size());
    std::string out = indent + "enum " + name + " {\n";
    for (std::size_t i = 0; i < type.values.size(); ++i)
      out += indent + "  " + std::string(type.values[i]) + " = " + std::to_string(i) + ";\n";
    out += indent + "}\n";
    if (nested) return out;
    text_ += out + "\n";
    return {};
  }

  std::string type_of(const Field& field) {
    switch (field.kind) {
      case Kind::boolean:
        return "bool";
      case Kind::int32:
        return "int32";
      case Kind::int64:
        return "int64";
      case Kind::uint32:
        return "uint32";
      case Kind::uint64:
        return "uint64";
      case Kind::enumeration:
        return reference(field.values().name, package_);
      case Kind::text:
      case Kind::any_text:
        return "string";
      case Kind::bytes:
        return "bytes";
      case Kind::timestamp:
        imports_.insert("google/protobuf/timestamp.proto");
        return "google.protobuf.Timestamp";
      case Kind::field_mask:
        imports_.insert("google/protobuf/field_mask.proto");
        return "google.protobuf.FieldMask";
      case Kind::text_map:
        return "map<string, string>";
      case Kind::bytes_map:
        return "map<string, bytes>";
      case Kind::message:
        return used(*field.type);
    }
    return {};
  }

  std::string line(const Field& field, const std::string& indent) {
    const bool is_message = field.kind == Kind::message || field.kind == Kind::timestamp || field.kind == Kind::field_mask;
    const bool optional = field.shape == Shape::optional && field.oneof.empty() && !is_message;
    std::string out = indent +
                      (field.shape == Shape::list ? "repeated "
                       : optional                 ? "optional "
                                                  : "") +
                      type_of(field) + " " + std::string(field.name) + " = " + std::to_string(field.number) + ";\n";
    if (field.bytes_number != 0) {
      out += indent + "bytes " + std::string(field.name) + "_bytes = " + std::to_string(field.bytes_number) + ";  // instead of " +
             std::string(field.name) + ", where that is not UTF-8\n";
    }
    return out;
  }

  std::string_view package_;
  std::set<std::string> imports_;
  std::set<std::string_view> enums_;
  std::string text_;
};

}  // namespace

std::map<std::string, std::string> proto_files() {
  std::map<std::string_view, File> files;
  const auto file_of = [&files](std::string_view name) -> File& {
    return files.try_emplace(package_of(name), package_of(name)).first->second;
  };
  for (const ServiceType& service : services()) file_of(service.name).add(service);
  for (const Type* type : all_types()) {
    if (type != &Empty::kType) file_of(type->name).add(*type);
  }
  std::map<std::string, std::string> out;
  for (const auto& [package, file] : files) {
    std::string path(package);
    std::replace(path.begin(), path.end(), '.', '/');
    const std::size_t dot = package.find_last_of('.');
    const std::size_t before = package.find_last_of('.', dot - 1);
    const std::size_t from = before == std::string_view::npos ? 0 : before + 1;
    out[path + "/" + std::string(package.substr(from, dot - from)) + ".proto"] = file.text();
  }
  return out;
}

}  // namespace cwsandbox::messages
