#include "protocol/messages.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <type_traits>
#include <utility>

#include "base/base64.hpp"
#include "base/text.hpp"
#include "protocol/json_shape.hpp"
#include "protocol/json_util.hpp"

namespace cwsandbox::protocol {
namespace {

using json_util::Json;

constexpr std::array<std::string_view, 9> kStates = {"STATE_UNSPECIFIED", "STATE_CREATING", "STATE_RUNNING",
                                                     "STATE_COMPLETED",   "STATE_FAILED",   "STATE_TERMINATING",
                                                     "STATE_TERMINATED",  "STATE_PENDING",  "STATE_PAUSED"};

constexpr std::array<std::string_view, 8> kFileTypes = {
    "FILE_TYPE_UNSPECIFIED", "FILE_TYPE_REGULAR", "FILE_TYPE_DIRECTORY",    "FILE_TYPE_SYMLINK",
    "FILE_TYPE_FIFO",        "FILE_TYPE_SOCKET",  "FILE_TYPE_BLOCK_DEVICE", "FILE_TYPE_CHARACTER_DEVICE"};

constexpr std::array<std::string_view, 11> kFileEventKinds = {
    "FILE_EVENT_KIND_UNSPECIFIED", "FILE_EVENT_KIND_CREATED", "FILE_EVENT_KIND_MODIFIED", "FILE_EVENT_KIND_CLOSED",
    "FILE_EVENT_KIND_ATTRIBUTES",  "FILE_EVENT_KIND_DELETED", "FILE_EVENT_KIND_RENAMED",  "FILE_EVENT_KIND_MOVED_IN",
    "FILE_EVENT_KIND_MOVED_OUT",   "FILE_EVENT_KIND_GONE",    "FILE_EVENT_KIND_OVERFLOW"};

constexpr std::array<std::string_view, 3> kStorageMedia = {"", "STORAGE_MEDIUM_DISK", "STORAGE_MEDIUM_MEMORY"};
constexpr std::array<std::string_view, 4> kServiceProtocols = {"", "SERVICE_PROTOCOL_TCP", "SERVICE_PROTOCOL_UDP",
                                                               "SERVICE_PROTOCOL_SCTP"};
constexpr std::array<std::string_view, 4> kVisibilities = {"", "VISIBILITY_PUBLIC", "VISIBILITY_PRIVATE", "VISIBILITY_CUSTOM"};
constexpr std::array<std::string_view, 3> kEndpointKinds = {"", "ENDPOINT_KIND_HTTPS", "ENDPOINT_KIND_TLS_PASSTHROUGH"};
constexpr std::array<std::string_view, 3> kEndpointAuths = {"", "ENDPOINT_AUTH_OPEN", "ENDPOINT_AUTH_TOKEN"};
constexpr std::array<std::string_view, 4> kTenantScopes = {"", "TENANT_SCOPE_SAME_USER", "TENANT_SCOPE_SAME_ORG",
                                                           "TENANT_SCOPE_SANDBOX_NETWORK"};

// How many elements a list may have: of messages in a request, of strings (arguments, variables), and of messages in a page of an
// answer.
constexpr std::size_t kMaxMessages = 1'000;
constexpr std::size_t kMaxTexts = 65'536;
constexpr std::size_t kMaxPage = 100'000;
// Fields that are asked for and not known here: enough for a text about them.
constexpr std::size_t kMaxUnsupported = 32;

[[noreturn]] void fail(const std::string& path, const std::string& why) {
  throw ParseError(path, path.empty() ? "the message " + why : path + ": " + why);
}

std::string camel(std::string_view snake) {
  std::string out;
  bool up = false;
  for (const char c : snake) {
    if (c == '_') {
      up = true;
    } else {
      out += up && c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
      up = false;
    }
  }
  return out;
}

// ---- reading ----

/// One JSON object and its path from the root. Members are asked for by their snake_case name and found by either.
class Object {
 public:
  Object(const Json& json, std::string path) : json_(json), path_(std::move(path)) {
    if (!json.is_object()) fail(path_, "must be an object");
  }

  [[nodiscard]] std::string path(std::string_view name) const {
    std::string full = path_;
    if (!full.empty()) full += '.';
    return full + camel(name);
  }

  [[nodiscard]] const Json* find(std::string_view name) const {
    if (const Json* value = json_util::find(json_, camel(name).c_str())) return value;
    return json_util::find(json_, std::string(name).c_str());
  }

  void read(const char* name, std::string& out) const {
    if (const Json* value = find(name)) out = text(*value, path(name));
  }

  void read(const char* name, bool& out) const {
    const Json* value = find(name);
    if (value == nullptr) return;
    if (!value->is_boolean()) fail(path(name), "must be true or false");
    out = value->get<bool>();
  }

  void read(const char* name, std::int32_t& out) const { read_integer(name, out); }
  void read(const char* name, std::int64_t& out) const { read_integer(name, out); }
  void read(const char* name, std::uint32_t& out) const { read_integer(name, out); }
  void read(const char* name, std::uint64_t& out) const { read_integer(name, out); }

  void read(const char* name, std::optional<std::int32_t>& out) const { read_integer(name, out); }
  void read(const char* name, std::optional<std::uint32_t>& out) const { read_integer(name, out); }

  void read(const char* name, State& out) const { read_enum(name, kStates, "state", out); }  // unknown: unspecified (LC-10)
  void read(const char* name, FileType& out) const { read_enum(name, kFileTypes, "file type", out); }
  void read(const char* name, FileEventKind& out) const { read_enum(name, kFileEventKinds, "file event kind", out); }

  void read(const char* name, Timestamp& out) const {
    const Json* value = find(name);
    if (value == nullptr) return;
    if (value->is_string()) out = parse_timestamp(value->get_ref<const std::string&>());
    if (!out) fail(path(name), "must be an RFC 3339 time, like 2026-01-31T12:00:00Z");
  }

  void read(const char* name, std::vector<std::string>& out) const {
    each(name, [&](const Json& item, const std::string& where) { out.push_back(text(item, where)); }, kMaxTexts);
  }

  void read(const char* name, std::map<std::string, std::string>& out) const {
    const Json* value = find(name);
    if (value == nullptr) return;
    if (!value->is_object()) fail(path(name), "must be an object");
    check_size(*value, name, kMaxTexts);
    for (const auto& [key, item] : value->items()) {
      out.insert_or_assign(key, text(item, path(name) + "[\"" + base::printable(key, 64) + "\"]"));
    }
  }

  void read(const char* name, std::optional<bool>& out) const {
    bool value = false;
    if (find(name) == nullptr) return;
    read(name, value);
    out = value;
  }

  /// An enum that is kept by its name, empty for the unspecified one, whose name `names` leaves out. False for a value that is none
  /// of them.
  template <std::size_t Count>
  [[nodiscard]] bool read_enum_name(const char* name, const std::array<std::string_view, Count>& names, std::string& out) const {
    const Json* value = find(name);
    if (value == nullptr) return true;
    if (value->is_string()) {
      const auto& text = value->get_ref<const std::string&>();
      if (text.empty() || text.ends_with("_UNSPECIFIED")) return true;
      out = text;
      return std::find(names.begin(), names.end(), text) != names.end();
    }
    if (!value->is_number_integer()) fail(path(name), "must be the name or the number of an enum's value");
    std::int32_t number = 0;
    read_integer(name, number);
    if (number < 0 || number >= static_cast<std::int32_t>(Count)) return false;
    out = names[static_cast<std::size_t>(number)];
    return true;
  }

  void read_bytes(const char* name, std::string& out) const {
    const Json* value = find(name);
    if (value == nullptr) return;
    std::optional<std::string> bytes;
    if (value->is_string()) bytes = base::base64_decode(value->get_ref<const std::string&>());
    if (!bytes) fail(path(name), "must be base64");
    out = std::move(*bytes);
  }

  /// Text that need not be UTF-8: `name`, or `name` + "Bytes" in base64. False when there is neither.
  bool read_any_text(const std::string& name, std::string& out) const {
    const std::string bytes_name = name + "_bytes";
    const bool as_text = find(name) != nullptr, as_bytes = find(bytes_name) != nullptr;
    if (as_text && as_bytes) fail(path(bytes_name), "excludes " + camel(name));
    read(name.c_str(), out);
    read_bytes(bytes_name.c_str(), out);
    return as_text || as_bytes;
  }

  void read(const char* name, FilePath& out) const {
    if (!read_any_text(name, out.bytes) || out.bytes.empty()) fail(path(name), "must be there and not be empty");
  }

  /// The names of the members that are none of `known`, as they are written.
  [[nodiscard]] std::vector<std::string> others(std::initializer_list<const char*> known) const {
    std::vector<std::string> out;
    for (const auto& [key, value] : json_.items()) {
      const bool is_known =
          std::any_of(known.begin(), known.end(), [&key = key](const char* name) { return key == name || key == camel(name); });
      if (!is_known && !value.is_null()) out.push_back(key);
    }
    return out;
  }

  /// Of at most `most` elements: looked at before the first one is read.
  template <class Function>
  void each(const char* name, Function function, std::size_t most = kMaxMessages) const {
    const Json* value = find(name);
    if (value == nullptr) return;
    if (!value->is_array()) fail(path(name), "must be an array");
    check_size(*value, name, most);
    std::size_t index = 0;
    for (const auto& item : *value) {
      const std::string where = path(name) + "[" + std::to_string(index++) + "]";
      if (item.is_null()) fail(where, "must not be null");
      function(item, where);
    }
  }

 private:
  void check_size(const Json& list, const char* name, std::size_t most) const {
    if (list.size() > most) fail(path(name), "has " + std::to_string(list.size()) + " elements, at most " + std::to_string(most));
  }

  static std::string text(const Json& json, const std::string& where) {
    if (!json.is_string()) fail(where, "must be a string");
    return json.get<std::string>();
  }

  template <class Integer>
  void read_integer(const char* name, std::optional<Integer>& out) const {
    Integer value = 0;
    if (find(name) == nullptr) return;
    read_integer(name, value);
    out = value;
  }

  template <class Integer>
  void read_integer(const char* name, Integer& out) const {
    const Json* value = find(name);
    if (value == nullptr) return;
    std::optional<Integer> number;
    const auto take = [&number](auto wide) {
      if (std::in_range<Integer>(wide)) number = static_cast<Integer>(wide);
    };
    if (value->is_number_unsigned()) {
      take(value->get<std::uint64_t>());
    } else if (value->is_number_integer()) {
      take(value->get<std::int64_t>());
    } else if (value->is_number_float()) {  // 1.0 and 1e3 are integers to proto3 JSON; only exact ones can be converted
      const double d = value->get<double>();
      if (d >= -9007199254740991.0 && d <= 9007199254740991.0 && d == static_cast<double>(static_cast<std::int64_t>(d)))
        take(static_cast<std::int64_t>(d));
    } else if (value->is_string()) {
      const auto& digits = value->get_ref<const std::string&>();
      Integer parsed = 0;
      const auto [end, ec] = std::from_chars(digits.data(), digits.data() + digits.size(), parsed);
      if (ec == std::errc() && end == digits.data() + digits.size() && !digits.empty()) number = parsed;
    }
    if (!number) {
      using Limits = std::numeric_limits<Integer>;
      fail(path(name), "must be an integer from " + std::to_string(Limits::min()) + " to " + std::to_string(Limits::max()));
    }
    out = *number;
  }

  /// By name or by number; an unknown one is the unspecified value, never an error.
  template <class Enum, std::size_t Count>
  void read_enum(const char* name, const std::array<std::string_view, Count>& names, const char* what, Enum& out) const {
    const Json* value = find(name);
    if (value == nullptr) return;
    out = Enum{};
    if (value->is_string()) {
      const auto it = std::find(names.begin(), names.end(), value->get_ref<const std::string&>());
      if (it != names.end()) out = static_cast<Enum>(it - names.begin());
    } else if (value->is_number_integer()) {
      std::int32_t number = 0;
      read_integer(name, number);
      if (number >= 0 && number < static_cast<std::int32_t>(Count)) out = static_cast<Enum>(number);
    } else {
      fail(path(name), std::string("must be the name or the number of a ") + what);
    }
  }

  const Json& json_;
  std::string path_;
};

Json parse(std::string_view text) {
  switch (shape_of(text, json_util::kMaxDepth)) {
    case JsonShape::fits:
      break;
    case JsonShape::too_deep:
      fail("", "nests too deeply");
    case JsonShape::too_many_values:
      fail("", "holds too many values for its size");
  }
  try {
    return Json::parse(text);
  } catch (const Json::parse_error& e) {
    throw ParseError("byte " + std::to_string(e.byte), "not JSON: error at byte " + std::to_string(e.byte));
  } catch (const Json::exception&) {
    throw ParseError("", "not JSON");  // a number that nothing can hold, say
  }
}

/// Whether anything is asked for: defaults are the same as absence, an optional that is present is not.
bool is_set(const Json* value) {
  if (value == nullptr || value->is_null()) return false;
  if (value->is_array() || value->is_object()) return !value->empty();
  if (value->is_string()) return !value->get_ref<const std::string&>().empty();
  if (value->is_boolean()) return value->get<bool>();
  if (value->is_number()) return value->get<double>() != 0;
  return true;
}

void note(std::vector<std::string>& unsupported, std::string path) {
  if (unsupported.size() < kMaxUnsupported) unsupported.push_back(std::move(path));
}

void note_unsupported(const Object& object, std::initializer_list<const char*> names, std::vector<std::string>& out) {
  for (const char* name : names) {
    if (is_set(object.find(name))) note(out, object.path(name));
  }
}

/// Where a field that is unknown here would change what is given (another kind of volume, another limit on the network), it is not
/// ignored like others.
void note_others(const Object& object, std::initializer_list<const char*> known, std::vector<std::string>& out) {
  for (const std::string& name : object.others(known)) note(out, object.path(name));
}

template <std::size_t Count>
void read_enum_name(const Object& object, const char* name, const std::array<std::string_view, Count>& names, std::string& out,
                    std::vector<std::string>& unsupported) {
  if (!object.read_enum_name(name, names, out)) note(unsupported, object.path(name));
}

std::optional<Gpu> read_gpu(const Object& object, std::vector<std::string>& unsupported) {
  const Json* value = object.find("gpu");
  if (!is_set(value)) return std::nullopt;
  const Object gpu(*value, object.path("gpu"));
  Gpu out;
  gpu.read("count", out.count);
  gpu.read("type", out.type);
  gpu.read("memory_gb", out.memory_gb);
  note_unsupported(gpu, {"memory_gb"}, unsupported);
  note_others(gpu, {"count", "type", "memory_gb"}, unsupported);
  if (out.count == 0 && out.type.empty() && out.memory_gb == 0) return std::nullopt;
  return out;
}

std::optional<ResourceList> read_resources(const Object& object, const char* name, std::vector<std::string>& unsupported) {
  const Json* value = object.find(name);
  if (value == nullptr || value->is_null()) return std::nullopt;
  const Object list(*value, object.path(name));
  ResourceList out;
  list.read("cpu", out.cpu);
  list.read("memory", out.memory);
  out.gpu = read_gpu(list, unsupported);
  if (out.cpu.empty() && out.memory.empty() && !out.gpu) return std::nullopt;
  return out;
}

VolumeMount read_volume_mount(const Object& object, std::vector<std::string>& unsupported) {
  VolumeMount out;
  object.read("volume", out.volume);
  object.read("mount_path", out.mount_path);
  object.read("read_only", out.read_only);
  object.read("sub_path", out.sub_path);
  note_others(object, {"volume", "mount_path", "read_only", "sub_path"}, unsupported);
  return out;
}

SecretStoreReference read_secret_store(const Object& object, std::vector<std::string>& unsupported) {
  SecretStoreReference out;
  object.read("store_name", out.store_name);
  object.each("secrets", [&](const Json& item, const std::string& path) {
    const Object secret(item, path);
    SecretMapping& mapping = out.secrets.emplace_back();
    secret.read("path", mapping.path);
    secret.read("field", mapping.field);
    secret.read("env_var", mapping.env_var);
    note_others(secret, {"path", "field", "env_var"}, unsupported);
  });
  note_others(object, {"store_name", "secrets"}, unsupported);
  return out;
}

SandboxVolume read_volume(const Object& object, const std::string& path, std::vector<std::string>& unsupported) {
  SandboxVolume out;
  object.read("name", out.name);
  const Json* scratch = object.find("scratch");
  object.read("volume_id", out.volume_id);
  if (scratch != nullptr && !out.volume_id.empty()) fail(path, "has more than one source");
  note_others(object, {"name", "scratch", "volume_id"}, unsupported);
  if (scratch == nullptr) {
    out.scratch = false;
    // Of a source that is not known here, only the absence of the others shows.
    note(unsupported, out.volume_id.empty() ? path : object.path("volume_id"));
    return out;
  }
  const Object of_scratch(*scratch, object.path("scratch"));
  of_scratch.read("size", out.size);
  read_enum_name(of_scratch, "medium", kStorageMedia, out.medium, unsupported);
  of_scratch.read("restore_from_snapshot_id", out.restore_from_snapshot_id);
  note_unsupported(of_scratch, {"restore_from_snapshot_id"}, unsupported);
  note_others(of_scratch, {"size", "medium", "restore_from_snapshot_id"}, unsupported);
  return out;
}

Service read_service(const Object& object, std::vector<std::string>& unsupported) {
  Service out;
  object.read("port", out.port);
  object.read("name", out.name);
  read_enum_name(object, "protocol", kServiceProtocols, out.protocol, unsupported);
  if (out.protocol == "SERVICE_PROTOCOL_SCTP") note(unsupported, object.path("protocol"));
  read_enum_name(object, "visibility", kVisibilities, out.visibility, unsupported);
  // Only those around the sandbox can reach it: nothing here opens it to the outside.
  if (out.visibility == "VISIBILITY_PUBLIC" || out.visibility == "VISIBILITY_CUSTOM") note(unsupported, object.path("visibility"));
  if (const Json* endpoint = object.find("endpoint")) {
    const Object of_endpoint(*endpoint, object.path("endpoint"));
    std::vector<std::string> named_already;
    read_enum_name(of_endpoint, "kind", kEndpointKinds, out.endpoint_kind, named_already);
    read_enum_name(of_endpoint, "auth", kEndpointAuths, out.endpoint_auth, named_already);
    note(unsupported, object.path("endpoint"));
  }
  note_others(object, {"port", "name", "protocol", "visibility", "endpoint"}, unsupported);
  return out;
}

NetworkRule read_network_rule(const Object& object, const std::string& path, std::vector<std::string>& unsupported) {
  using Peer = NetworkRule::Peer;
  NetworkRule out;
  bool any = false;
  object.read("any", any);
  int peers = any ? 1 : 0;
  const auto is = [&](const char* name, Peer peer) {
    const Json* value = object.find(name);
    // A message is there also when it is empty.
    if (value == nullptr || (!value->is_object() && !is_set(value))) return false;
    out.peer = peer;
    ++peers;
    if (peer != Peer::cidr) note(unsupported, object.path(name));
    return true;
  };
  if (is("cidr", Peer::cidr)) {
    const Object block(*object.find("cidr"), object.path("cidr"));
    block.read("cidr", out.value);
    block.read("except", out.except);
    note_others(block, {"cidr", "except"}, unsupported);
  }
  if (is("dns_name", Peer::dns_name)) object.read("dns_name", out.value);
  if (is("tenant", Peer::tenant)) {
    (void)object.read_enum_name("tenant", kTenantScopes, out.value);
    if (out.value.empty()) out.peer = Peer::none;
  }
  if (is("selector", Peer::selector)) {
    const Object labels(*object.find("selector"), object.path("selector"));
    labels.read("pod_labels", out.pod_labels);
    labels.read("namespace_labels", out.namespace_labels);
  }
  if (peers > 1) fail(path, "has more than one peer");
  if (peers == 0) {  // not "any": there may be one that is not known here
    out.peer = Peer::none;
    note(unsupported, path);
  }
  object.each("ports", [&](const Json& item, const std::string& where) {
    const Object of_range(item, where);
    PortRange& range = out.ports.emplace_back();
    of_range.read("protocol", range.protocol);
    of_range.read("port", range.port);
    of_range.read("end_port", range.end_port);
    note_others(of_range, {"protocol", "port", "end_port"}, unsupported);
  });
  note_others(object, {"cidr", "dns_name", "tenant", "any", "selector", "ports"}, unsupported);
  return out;
}

std::optional<NetworkOptions> read_network(const Object& object, std::vector<std::string>& unsupported) {
  const Json* value = object.find("network");
  if (!is_set(value)) return std::nullopt;
  const Object network(*value, object.path("network"));
  NetworkOptions out;
  network.each("egress", [&](const Json& item, const std::string& path) {
    out.egress.push_back(read_network_rule(Object(item, path), path, unsupported));
  });
  std::vector<std::string> named_already;
  network.each("ingress", [&](const Json& item, const std::string& path) {
    out.ingress.push_back(read_network_rule(Object(item, path), path, named_already));
  });
  network.read("deny_egress", out.deny_egress);
  network.read("deny_ingress", out.deny_ingress);
  note_unsupported(network, {"ingress"}, unsupported);
  if (out.deny_ingress) note(unsupported, network.path("deny_ingress"));
  note_others(network, {"egress", "ingress", "deny_egress", "deny_ingress"}, unsupported);
  return out;
}

Container read_container(const Object& object, std::vector<std::string>& unsupported) {
  Container out;
  object.read("name", out.name);
  object.read("image", out.image);
  object.read("command", out.command);
  object.read("args", out.args);
  object.read("environment_variables", out.environment_variables);
  object.read("working_dir", out.working_dir);
  object.each("files", [&out](const Json& item, const std::string& path) {
    const Object mount(item, path);
    FileMount file;
    mount.read("path", file.path);
    mount.read_bytes("content", file.content);
    out.files.push_back(std::move(file));
  });
  out.resources = read_resources(object, "resources", unsupported);
  if (const Json* value = object.find("resource_requirements"); value != nullptr && !value->is_null()) {
    const Object requirements(*value, object.path("resource_requirements"));
    out.requests = read_resources(requirements, "requests", unsupported);
    out.limits = read_resources(requirements, "limits", unsupported);
  }
  object.each("volume_mounts", [&](const Json& item, const std::string& path) {
    out.volume_mounts.push_back(read_volume_mount(Object(item, path), unsupported));
  });
  object.each("secret_stores", [&](const Json& item, const std::string& path) {
    out.secret_stores.push_back(read_secret_store(Object(item, path), unsupported));
  });
  note_unsupported(object, {"security_context", "image_pull_credentials"}, unsupported);
  return out;
}

SandboxSpec read_spec(const Object& object) {
  SandboxSpec out;
  object.each("containers", [&](const Json& item, const std::string& path) {
    out.containers.push_back(read_container(Object(item, path), out.unsupported));
  });
  object.read("primary_container", out.primary_container);
  object.read("max_lifetime_seconds", out.max_lifetime_seconds);
  object.read("tags", out.tags);
  object.read("runner_ids", out.runner_ids);
  object.read("annotations", out.annotations);
  object.read("runtime_class", out.runtime_class);
  object.each("volumes", [&](const Json& item, const std::string& path) {
    out.volumes.push_back(read_volume(Object(item, path), path, out.unsupported));
  });
  object.each("services", [&](const Json& item, const std::string& path) {
    out.services.push_back(read_service(Object(item, path), out.unsupported));
  });
  out.network = read_network(object, out.unsupported);
  note_unsupported(object, {"network_ids", "object_storage_access", "init_containers", "instance_type"}, out.unsupported);
  const Json* mode = object.find("mode");
  if (is_set(mode) && *mode != "SANDBOX_MODE_UNSPECIFIED") note(out.unsupported, object.path("mode"));
  return out;
}

SandboxStatus read_status(const Object& object) {
  SandboxStatus out;
  object.read("state", out.state);
  object.read("state_reason", out.state_reason);
  object.read("create_time", out.create_time);
  object.read("start_time", out.start_time);
  object.read("end_time", out.end_time);
  object.read("exit_code", out.exit_code);
  object.read("effective_max_lifetime_seconds", out.effective_max_lifetime_seconds);
  object.each("container_statuses", [&](const Json& item, const std::string& path) {
    const Object container(item, path);
    ContainerStatus& status = out.container_statuses.emplace_back();
    container.read("name", status.name);
    container.read("state", status.state);
    container.read("exit_code", status.exit_code);
    container.read("restart_count", status.restart_count);
  });
  object.read("runner_id", out.runner_id);
  object.read("runner_group_id", out.runner_group_id);
  object.read("effective_runtime_class", out.effective_runtime_class);
  return out;
}

Sandbox read_sandbox(const Object& object) {
  Sandbox out;
  object.read("sandbox_id", out.sandbox_id);
  if (const Json* spec = object.find("spec")) out.spec = read_spec(Object(*spec, object.path("spec")));
  if (const Json* status = object.find("status")) out.status = read_status(Object(*status, object.path("status")));
  object.read("source_template_id", out.source_template_id);
  object.read("source_template_revision", out.source_template_revision);
  return out;
}

FileInfo read_file_info(const Object& object) {
  FileInfo out;
  (void)object.read_any_text("name", out.name);
  object.read("type", out.type);
  object.read("size", out.size);
  object.read("mode", out.mode);
  object.read("uid", out.uid);
  object.read("gid", out.gid);
  object.read("modify_time", out.modify_time);
  (void)object.read_any_text("link_target", out.link_target);
  return out;
}

// ---- writing ----

/// Writes members that are set, under their lowerCamelCase names.
class Writer {
 public:
  void put(const char* name, const std::string& value) {
    if (!value.empty()) json_[camel(name)] = value;
  }
  void put(const char* name, bool value) {
    if (value) json_[camel(name)] = true;
  }
  void put(const char* name, std::int32_t value) {
    if (value != 0) json_[camel(name)] = value;
  }
  void put(const char* name, const std::optional<std::int32_t>& value) {
    if (value) json_[camel(name)] = *value;
  }
  void put(const char* name, std::uint32_t value) {
    if (value != 0) json_[camel(name)] = value;
  }
  void put(const char* name, std::uint64_t value) {
    if (value != 0) json_[camel(name)] = std::to_string(value);
  }
  void put(const char* name, FileType value) {
    if (value != FileType::unspecified) json_[camel(name)] = to_string(value);
  }
  void put(const char* name, const FilePath& value) { put_any_text(name, value.bytes); }
  void put_any_text(const std::string& name, const std::string& value) {
    if (base::is_utf8(value)) {
      put(name.c_str(), value);
    } else {
      put_bytes((name + "_bytes").c_str(), value);
    }
  }
  void put(const char* name, std::int64_t value) {
    if (value != 0) json_[camel(name)] = std::to_string(value);
  }
  void put(const char* name, FileEventKind value) {
    if (value != FileEventKind::unspecified) json_[camel(name)] = to_string(value);
  }
  void put(const char* name, State value) {
    if (value != State::unspecified) json_[camel(name)] = to_string(value);
  }
  void put(const char* name, const Timestamp& value) {
    if (value) json_[camel(name)] = format_timestamp(*value);
  }
  void put(const char* name, const std::vector<std::string>& value) {
    if (!value.empty()) json_[camel(name)] = value;
  }
  void put(const char* name, const std::map<std::string, std::string>& value) {
    if (!value.empty()) json_[camel(name)] = value;
  }
  void put(const char* name, const std::optional<bool>& value) {
    if (value) json_[camel(name)] = *value;
  }
  void put(const char* name, const std::optional<std::uint32_t>& value) {
    if (value) json_[camel(name)] = *value;
  }
  template <typename T, typename Function>
  void put_each(const char* name, const std::vector<T>& values, Function function) {
    Json array = Json::array();
    for (const T& value : values) array.push_back(function(value));
    put_json(name, std::move(array));
  }
  void put_bytes(const char* name, const std::string& value) {
    if (!value.empty()) json_[camel(name)] = base::base64_encode(value);
  }
  void put_json(const char* name, Json value) {
    if (!value.empty()) json_[camel(name)] = std::move(value);
  }
  /// A message that is there also when it is empty: which one of several it is says something.
  void put_present(const char* name, Json value) { json_[camel(name)] = std::move(value); }
  [[nodiscard]] Json take() { return std::move(json_); }

 private:
  Json json_ = Json::object();
};

Json resources_json(const ResourceList& message) {
  Writer out;
  out.put("cpu", message.cpu);
  out.put("memory", message.memory);
  if (message.gpu) {
    Writer gpu;
    gpu.put("count", message.gpu->count);
    gpu.put("type", message.gpu->type);
    gpu.put("memory_gb", message.gpu->memory_gb);
    out.put_json("gpu", gpu.take());
  }
  return out.take();
}

Json file_mount_json(const FileMount& message) {
  Writer out;
  out.put("path", message.path);
  out.put_bytes("content", message.content);
  return out.take();
}

Json volume_mount_json(const VolumeMount& message) {
  Writer out;
  out.put("volume", message.volume);
  out.put("mount_path", message.mount_path);
  out.put("read_only", message.read_only);
  out.put("sub_path", message.sub_path);
  return out.take();
}

Json secret_store_json(const SecretStoreReference& message) {
  Writer out;
  out.put("store_name", message.store_name);
  out.put_each("secrets", message.secrets, [](const SecretMapping& secret) {
    Writer one;
    one.put("path", secret.path);
    one.put("field", secret.field);
    one.put("env_var", secret.env_var);
    return one.take();
  });
  return out.take();
}

Json security_context_json(const SecurityContext& message) {
  Writer out;
  out.put("run_as_user", message.run_as_user);
  out.put("run_as_group", message.run_as_group);
  out.put("privileged", message.privileged);
  out.put("allow_privilege_escalation", message.allow_privilege_escalation);
  out.put("read_only_root_filesystem", message.read_only_root_filesystem);
  out.put("capabilities_add", message.capabilities_add);
  out.put("capabilities_drop", message.capabilities_drop);
  out.put("seccomp_profile", message.seccomp_profile);
  return out.take();
}

Json pull_credentials_json(const ImagePullCredentials& message) {
  Writer source, out;
  source.put("store_name", message.store_name);
  source.put("path", message.path);
  source.put("field", message.field);
  out.put("registry", message.registry);
  out.put_json("credentials", source.take());
  return out.take();
}

Json volume_json(const SandboxVolume& message) {
  Json out = {{"name", message.name}};
  if (!message.scratch) {
    out["volumeId"] = message.volume_id;
    return out;
  }
  Writer scratch;
  scratch.put("size", message.size);
  scratch.put("medium", message.medium);
  scratch.put("restore_from_snapshot_id", message.restore_from_snapshot_id);
  out["scratch"] = scratch.take();  // also when it is empty: its presence says which kind it is
  return out;
}

Json service_json(const Service& message) {
  Writer endpoint, out;
  endpoint.put("kind", message.endpoint_kind);
  endpoint.put("auth", message.endpoint_auth);
  out.put("port", message.port);
  out.put("name", message.name);
  out.put("protocol", message.protocol);
  out.put("visibility", message.visibility);
  out.put_json("endpoint", endpoint.take());
  return out.take();
}

Json network_rule_json(const NetworkRule& message) {
  using Peer = NetworkRule::Peer;
  Writer peer, out;
  switch (message.peer) {
    case Peer::any:
      out.put("any", true);
      break;
    case Peer::cidr:
      peer.put("cidr", message.value);
      peer.put("except", message.except);
      out.put_present("cidr", peer.take());
      break;
    case Peer::dns_name:
      out.put("dns_name", message.value);
      break;
    case Peer::tenant:
      out.put("tenant", message.value);
      break;
    case Peer::selector:
      peer.put("pod_labels", message.pod_labels);
      peer.put("namespace_labels", message.namespace_labels);
      out.put_present("selector", peer.take());
      break;
    case Peer::none:
      break;
  }
  out.put_each("ports", message.ports, [](const PortRange& range) {
    Writer one;
    one.put("protocol", range.protocol);
    one.put("port", range.port);
    one.put("end_port", range.end_port);
    return one.take();
  });
  return out.take();
}

Json network_json(const NetworkOptions& message) {
  Writer out;
  out.put_each("ingress", message.ingress, network_rule_json);
  out.put_each("egress", message.egress, network_rule_json);
  out.put("deny_egress", message.deny_egress);
  out.put("deny_ingress", message.deny_ingress);
  return out.take();
}

Json container_json(const Container& message) {
  Writer out;
  out.put("name", message.name);
  out.put("image", message.image);
  out.put("command", message.command);
  out.put("args", message.args);
  out.put("environment_variables", message.environment_variables);
  out.put("working_dir", message.working_dir);
  if (message.resources) out.put_json("resources", resources_json(*message.resources));
  Writer requirements;
  if (message.requests) requirements.put_json("requests", resources_json(*message.requests));
  if (message.limits) requirements.put_json("limits", resources_json(*message.limits));
  out.put_json("resource_requirements", requirements.take());
  out.put_each("files", message.files, file_mount_json);
  out.put_each("volume_mounts", message.volume_mounts, volume_mount_json);
  out.put_each("secret_stores", message.secret_stores, secret_store_json);
  if (message.security_context) out.put_json("security_context", security_context_json(*message.security_context));
  if (message.image_pull_credentials)
    out.put_json("image_pull_credentials", pull_credentials_json(*message.image_pull_credentials));
  return out.take();
}

Json sandbox_json(const Sandbox& message) {
  Writer spec;
  Json containers = Json::array();
  for (const auto& container : message.spec.containers) containers.push_back(container_json(container));
  spec.put_json("containers", std::move(containers));
  spec.put("primary_container", message.spec.primary_container);
  spec.put("max_lifetime_seconds", message.spec.max_lifetime_seconds);
  spec.put("tags", message.spec.tags);
  spec.put("runner_ids", message.spec.runner_ids);
  spec.put("annotations", message.spec.annotations);
  spec.put("runtime_class", message.spec.runtime_class);
  spec.put_each("volumes", message.spec.volumes, volume_json);
  spec.put_each("services", message.spec.services, service_json);
  if (message.spec.network) spec.put_json("network", network_json(*message.spec.network));
  spec.put("instance_type", message.spec.instance_type);
  spec.put("mode", message.spec.mode);

  Writer status;
  status.put("state", message.status.state);
  status.put("state_reason", message.status.state_reason);
  status.put("create_time", message.status.create_time);
  status.put("start_time", message.status.start_time);
  status.put("end_time", message.status.end_time);
  status.put("exit_code", message.status.exit_code);
  status.put("effective_max_lifetime_seconds", message.status.effective_max_lifetime_seconds);
  Json statuses = Json::array();
  for (const auto& container : message.status.container_statuses) {
    Writer one;
    one.put("name", container.name);
    one.put("state", container.state);
    one.put("exit_code", container.exit_code);
    one.put("restart_count", container.restart_count);
    statuses.push_back(one.take());
  }
  status.put_json("container_statuses", std::move(statuses));
  status.put("runner_id", message.status.runner_id);
  status.put("runner_group_id", message.status.runner_group_id);
  status.put("effective_runtime_class", message.status.effective_runtime_class);

  Writer out;
  out.put("sandbox_id", message.sandbox_id);
  out.put_json("spec", spec.take());
  out.put_json("status", status.take());
  out.put("source_template_id", message.source_template_id);
  out.put("source_template_revision", message.source_template_revision);
  return out.take();
}

Json file_info_json(const FileInfo& message) {
  Writer out;
  out.put_any_text("name", message.name);
  out.put("type", message.type);
  out.put("size", message.size);
  out.put("mode", message.mode);
  out.put("uid", message.uid);
  out.put("gid", message.gid);
  out.put("modify_time", message.modify_time);
  out.put_any_text("link_target", message.link_target);
  return out.take();
}

Json file_event_json(const FileEvent& message) {
  Writer out;
  out.put("kind", message.kind);
  out.put_any_text("name", message.name);
  out.put_any_text("old_name", message.old_name);
  out.put("directory", message.directory);
  return out.take();
}

/// A request is sent as it was meant or not at all: repaired text would name another program, file or sandbox.
void require_utf8(const Json& json, const std::string& path) {
  if (json.is_string()) {
    if (!base::is_utf8(json.get_ref<const std::string&>())) fail(path, "is not valid UTF-8");
  } else if (json.is_array()) {
    for (std::size_t i = 0; i < json.size(); ++i) require_utf8(json[i], path + "[" + std::to_string(i) + "]");
  } else if (json.is_object()) {
    for (const auto& [key, value] : json.items()) {
      const std::string member = (path.empty() ? "" : path + ".") + base::printable(key, 64);
      if (!base::is_utf8(key)) fail(member, "has a name that is not valid UTF-8");
      require_utf8(value, member);
    }
  }
}

std::string dump_request(const Json& json) {
  require_utf8(json, "");
  return json_util::dump(json);
}

}  // namespace

std::string_view to_string(State state) noexcept {
  const auto index = static_cast<std::size_t>(state);
  return kStates[index < kStates.size() ? index : 0];
}

std::string_view to_string(FileType type) noexcept {
  const auto index = static_cast<std::size_t>(type);
  return kFileTypes[index < kFileTypes.size() ? index : 0];
}

std::string_view to_string(FileEventKind kind) noexcept {
  const auto index = static_cast<std::size_t>(kind);
  return kFileEventKinds[index < kFileEventKinds.size() ? index : 0];
}

// ---- requests ----

std::string to_json(const CreateSandboxRequest& message) {
  Writer out;
  out.put_json("sandbox", sandbox_json(message.sandbox));
  out.put("request_id", message.request_id);
  return dump_request(out.take());
}

CreateSandboxRequest parse_create_sandbox_request(std::string_view json) {
  const Json root = parse(json);
  const Object object(root, "");
  CreateSandboxRequest out;
  if (const Json* sandbox = object.find("sandbox")) out.sandbox = read_sandbox(Object(*sandbox, "sandbox"));
  object.read("request_id", out.request_id);
  return out;
}

std::string to_json(const GetSandboxRequest& message) {
  Writer out;
  out.put("sandbox_id", message.sandbox_id);
  return dump_request(out.take());
}

GetSandboxRequest parse_get_sandbox_request(std::string_view json) {
  const Json root = parse(json);
  const Object object(root, "");
  GetSandboxRequest out;
  object.read("sandbox_id", out.sandbox_id);
  return out;
}

std::string to_json(const ListSandboxesRequest& message) {
  Writer out;
  out.put("page_size", message.page_size);
  out.put("page_token", message.page_token);
  out.put("tags", message.tags);
  out.put("state", message.state);
  out.put("show_terminated", message.show_terminated);
  out.put("runner_ids", message.runner_ids);
  out.put("volume_ids", message.volume_ids);
  return dump_request(out.take());
}

ListSandboxesRequest parse_list_sandboxes_request(std::string_view json) {
  const Json root = parse(json);
  const Object object(root, "");
  ListSandboxesRequest out;
  object.read("page_size", out.page_size);
  object.read("page_token", out.page_token);
  object.read("tags", out.tags);
  object.read("state", out.state);
  object.read("show_terminated", out.show_terminated);
  object.read("runner_ids", out.runner_ids);
  object.read("volume_ids", out.volume_ids);
  return out;
}

std::string to_json(const DeleteSandboxRequest& message) {
  Writer out;
  out.put("sandbox_id", message.sandbox_id);
  out.put("grace_period_seconds", message.grace_period_seconds);
  out.put("snapshot_volumes", message.snapshot_volumes);
  out.put("request_id", message.request_id);
  out.put("allow_missing", message.allow_missing);
  return dump_request(out.take());
}

DeleteSandboxRequest parse_delete_sandbox_request(std::string_view json) {
  const Json root = parse(json);
  const Object object(root, "");
  DeleteSandboxRequest out;
  object.read("sandbox_id", out.sandbox_id);
  object.read("grace_period_seconds", out.grace_period_seconds);
  object.read("snapshot_volumes", out.snapshot_volumes);
  object.read("request_id", out.request_id);
  object.read("allow_missing", out.allow_missing);
  return out;
}

std::string to_json(const ExecRequest& message) {
  Writer out;
  out.put("sandbox_id", message.sandbox_id);
  out.put("command", message.command);
  out.put("env", message.env);
  out.put("max_output_bytes", message.max_output_bytes);
  out.put("container", message.container);
  return dump_request(out.take());
}

ExecRequest parse_exec_request(std::string_view json) {
  const Json root = parse(json);
  const Object object(root, "");
  ExecRequest out;
  object.read("sandbox_id", out.sandbox_id);
  object.read("command", out.command);
  object.read("env", out.env);
  object.read("max_output_bytes", out.max_output_bytes);
  object.read("container", out.container);
  return out;
}

// ---- responses ----

std::string to_json(const Sandbox& message) { return json_util::dump(sandbox_json(message)); }

Sandbox parse_sandbox(std::string_view json) {
  const Json root = parse(json);
  return read_sandbox(Object(root, ""));
}

std::string to_json(const ListSandboxesResponse& message) {
  Writer out;
  Json sandboxes = Json::array();
  for (const auto& sandbox : message.sandboxes) sandboxes.push_back(sandbox_json(sandbox));
  out.put_json("sandboxes", std::move(sandboxes));
  out.put("next_page_token", message.next_page_token);
  return json_util::dump(out.take());
}

ListSandboxesResponse parse_list_sandboxes_response(std::string_view json) {
  const Json root = parse(json);
  const Object object(root, "");
  ListSandboxesResponse out;
  object.each(
      "sandboxes", [&](const Json& item, const std::string& path) { out.sandboxes.push_back(read_sandbox(Object(item, path))); },
      kMaxPage);
  object.read("next_page_token", out.next_page_token);
  return out;
}

std::string to_json(const DeleteSandboxResponse& message) {
  Json json = Json::object();
  if (message.sandbox) json["sandbox"] = sandbox_json(*message.sandbox);
  if (!message.file_system_snapshot_ids.empty()) json["fileSystemSnapshotIds"] = message.file_system_snapshot_ids;
  return json_util::dump(json);
}

DeleteSandboxResponse parse_delete_sandbox_response(std::string_view json) {
  const Json root = parse(json);
  const Object object(root, "");
  DeleteSandboxResponse out;
  if (const Json* sandbox = object.find("sandbox")) out.sandbox = read_sandbox(Object(*sandbox, "sandbox"));
  object.read("file_system_snapshot_ids", out.file_system_snapshot_ids);
  return out;
}

std::string to_json(const ExecResponse& message) {
  Writer out;
  out.put_bytes("stdout", message.std_out);
  out.put_bytes("stderr", message.std_err);
  out.put("exit_code", message.exit_code);
  out.put("stdout_truncated", message.stdout_truncated);
  out.put("stderr_truncated", message.stderr_truncated);
  out.put("stdout_bytes_produced", message.stdout_bytes_produced);
  out.put("stderr_bytes_produced", message.stderr_bytes_produced);
  return json_util::dump(out.take());
}

ExecResponse parse_exec_response(std::string_view json) {
  const Json root = parse(json);
  const Object object(root, "");
  ExecResponse out;
  object.read_bytes("stdout", out.std_out);
  object.read_bytes("stderr", out.std_err);
  object.read("exit_code", out.exit_code);
  object.read("stdout_truncated", out.stdout_truncated);
  object.read("stderr_truncated", out.stderr_truncated);
  object.read("stdout_bytes_produced", out.stdout_bytes_produced);
  object.read("stderr_bytes_produced", out.stderr_bytes_produced);
  return out;
}

// ---- files ----

std::string to_json(const WriteFileRequest& message) {
  Writer out;
  out.put("sandbox_id", message.sandbox_id);
  out.put("path", message.path);
  out.put_bytes("content", message.content);
  out.put("container", message.container);
  return dump_request(out.take());
}

WriteFileRequest parse_write_file_request(std::string_view json) {
  const Json root = parse(json);
  const Object object(root, "");
  WriteFileRequest out;
  object.read("sandbox_id", out.sandbox_id);
  object.read("path", out.path);
  object.read_bytes("content", out.content);
  object.read("container", out.container);
  return out;
}

std::string to_json(const ReadFileRequest& message) {
  Writer out;
  out.put("sandbox_id", message.sandbox_id);
  out.put("path", message.path);
  out.put("container", message.container);
  return dump_request(out.take());
}

ReadFileRequest parse_read_file_request(std::string_view json) {
  const Json root = parse(json);
  const Object object(root, "");
  ReadFileRequest out;
  object.read("sandbox_id", out.sandbox_id);
  object.read("path", out.path);
  object.read("container", out.container);
  return out;
}

std::string to_json(const ReadFileResponse& message) {
  Writer out;
  out.put_bytes("content", message.content);
  return json_util::dump(out.take());
}

ReadFileResponse parse_read_file_response(std::string_view json) {
  const Json root = parse(json);
  const Object object(root, "");
  ReadFileResponse out;
  object.read_bytes("content", out.content);
  return out;
}

std::string to_json(const StatFileRequest& message) {
  Writer out;
  out.put("sandbox_id", message.sandbox_id);
  out.put("path", message.path);
  out.put("follow_symlinks", message.follow_symlinks);
  return dump_request(out.take());
}

StatFileRequest parse_stat_file_request(std::string_view json) {
  const Json root = parse(json);
  const Object object(root, "");
  StatFileRequest out;
  object.read("sandbox_id", out.sandbox_id);
  object.read("path", out.path);
  object.read("follow_symlinks", out.follow_symlinks);
  return out;
}

std::string to_json(const FileInfo& message) { return json_util::dump(file_info_json(message)); }

FileInfo parse_file_info(std::string_view json) {
  const Json root = parse(json);
  return read_file_info(Object(root, ""));
}

std::string to_json(const ListFilesRequest& message) {
  Writer out;
  out.put("sandbox_id", message.sandbox_id);
  out.put("path", message.path);
  return dump_request(out.take());
}

ListFilesRequest parse_list_files_request(std::string_view json) {
  const Json root = parse(json);
  const Object object(root, "");
  ListFilesRequest out;
  object.read("sandbox_id", out.sandbox_id);
  object.read("path", out.path);
  return out;
}

std::string to_json(const ListFilesResponse& message) {
  Writer out;
  out.put_each("files", message.files, file_info_json);
  return json_util::dump(out.take());
}

ListFilesResponse parse_list_files_response(std::string_view json) {
  const Json root = parse(json);
  const Object object(root, "");
  ListFilesResponse out;
  object.each(
      "files", [&](const Json& item, const std::string& path) { out.files.push_back(read_file_info(Object(item, path))); },
      kMaxPage);
  return out;
}

std::string to_json(const WatchFileRequest& message) {
  Writer out;
  out.put("sandbox_id", message.sandbox_id);
  out.put("path", message.path);
  return dump_request(out.take());
}

WatchFileRequest parse_watch_file_request(std::string_view json) {
  const Json root = parse(json);
  const Object object(root, "");
  WatchFileRequest out;
  object.read("sandbox_id", out.sandbox_id);
  object.read("path", out.path);
  return out;
}

std::string to_json(const WatchFileResponse& message) {
  Writer out;
  out.put_each("events", message.events, file_event_json);
  return json_util::dump(out.take());
}

WatchFileResponse parse_watch_file_response(std::string_view json) {
  const Json root = parse(json);
  const Object object(root, "");
  WatchFileResponse out;
  const auto read_event = [&out](const Json& item, const std::string& path) {
    const Object event(item, path);
    FileEvent one;
    event.read("kind", one.kind);
    (void)event.read_any_text("name", one.name);
    (void)event.read_any_text("old_name", one.old_name);
    event.read("directory", one.directory);
    out.events.push_back(std::move(one));
  };
  object.each("events", read_event, kMaxPage);
  return out;
}

std::string to_json(const MakeDirectoryRequest& message) {
  Writer out;
  out.put("sandbox_id", message.sandbox_id);
  out.put("path", message.path);
  out.put("mode", message.mode);
  out.put("parents", message.parents);
  return dump_request(out.take());
}

MakeDirectoryRequest parse_make_directory_request(std::string_view json) {
  const Json root = parse(json);
  const Object object(root, "");
  MakeDirectoryRequest out;
  object.read("sandbox_id", out.sandbox_id);
  object.read("path", out.path);
  object.read("mode", out.mode);
  object.read("parents", out.parents);
  return out;
}

std::string to_json(const RemoveFileRequest& message) {
  Writer out;
  out.put("sandbox_id", message.sandbox_id);
  out.put("path", message.path);
  out.put("recursive", message.recursive);
  out.put("allow_missing", message.allow_missing);
  return dump_request(out.take());
}

RemoveFileRequest parse_remove_file_request(std::string_view json) {
  const Json root = parse(json);
  const Object object(root, "");
  RemoveFileRequest out;
  object.read("sandbox_id", out.sandbox_id);
  object.read("path", out.path);
  object.read("recursive", out.recursive);
  object.read("allow_missing", out.allow_missing);
  return out;
}

std::string to_json(const RenameFileRequest& message) {
  Writer out;
  out.put("sandbox_id", message.sandbox_id);
  out.put("from", message.from);
  out.put("to", message.to);
  return dump_request(out.take());
}

RenameFileRequest parse_rename_file_request(std::string_view json) {
  const Json root = parse(json);
  const Object object(root, "");
  RenameFileRequest out;
  object.read("sandbox_id", out.sandbox_id);
  object.read("from", out.from);
  object.read("to", out.to);
  return out;
}

// ---- logs ----

std::string to_json(const StreamLogsRequest& message) {
  Writer out;
  out.put("sandbox_id", message.sandbox_id);
  out.put("follow", message.follow);
  out.put("tail_lines", message.tail_lines);
  out.put("since_time", message.since_time);
  out.put("container", message.container);
  out.put("timestamps", message.timestamps);
  out.put("resume_log_session_id", message.resume_log_session_id);
  out.put("resume_log_offset", message.resume_log_offset);
  return dump_request(out.take());
}

StreamLogsRequest parse_stream_logs_request(std::string_view json) {
  const Json root = parse(json);
  const Object object(root, "");
  StreamLogsRequest out;
  object.read("sandbox_id", out.sandbox_id);
  object.read("follow", out.follow);
  object.read("tail_lines", out.tail_lines);
  object.read("since_time", out.since_time);
  object.read("container", out.container);
  object.read("timestamps", out.timestamps);
  object.read("resume_log_session_id", out.resume_log_session_id);
  object.read("resume_log_offset", out.resume_log_offset);
  return out;
}

std::string to_json(const LogEntry& message) {
  Writer out;
  out.put_bytes("data", message.data);
  out.put("timestamp", message.timestamp);
  out.put("log_session_id", message.log_session_id);
  out.put("next_log_offset", message.next_log_offset);
  Json json = out.take();
  if (message.error) {  // also when it says nothing: its presence is what counts
    Writer error;
    error.put("message", message.error->message);
    error.put("code", message.error->code);
    json["error"] = error.take();
  }
  return json_util::dump(json);
}

LogEntry parse_log_entry(std::string_view json) {
  const Json root = parse(json);
  const Object object(root, "");
  LogEntry out;
  object.read_bytes("data", out.data);
  object.read("timestamp", out.timestamp);
  object.read("log_session_id", out.log_session_id);
  object.read("next_log_offset", out.next_log_offset);
  if (const Json* error = object.find("error")) {
    const Object fault(*error, object.path("error"));
    auto& read = out.error.emplace();
    fault.read("message", read.message);
    fault.read("code", read.code);
  }
  return out;
}

}  // namespace cwsandbox::protocol
