#include "client/sandbox_request.hpp"

#include "base/ascii.hpp"
#include "base/dns_name.hpp"
#include "client/rpc.hpp"
#include "protocol/messages.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <set>
#include <stdexcept>
#include <string_view>

#include <arpa/inet.h>

namespace cwsandbox::client {

namespace {

[[noreturn]] void refuse(const std::string& field, const std::string& why) {
  throw std::invalid_argument("cwsandbox: " + field + " " + why);
}

std::string at(const char* list, std::size_t index, const char* member = "") {
  return std::string(list) + "[" + std::to_string(index) + "]" + member;
}

const std::string& text(const std::string& value, const std::string& field) {
  if (value.find('\0') != std::string::npos) refuse(field, "holds a NUL");
  return value;
}

const std::string& not_empty(const std::string& value, const std::string& field) {
  if (value.empty()) refuse(field, "is empty");
  return text(value, field);
}

const std::string& absolute(const std::string& value, const std::string& field) {
  if (value.empty() || value.front() != '/') refuse(field, "must be an absolute path");
  return text(value, field);
}

/// As Kubernetes writes them: a decimal number, then a suffix (SI, binary) or a decimal exponent.
const std::string& quantity(const std::string& value, const std::string& field) {
  static constexpr std::array<std::string_view, 16> kSuffixes = {"",  "n", "u",  "m",  "k",  "M",  "G",  "T",
                                                                 "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
  std::string_view rest = value;
  std::size_t digits = 0, positive = 0, points = 0;
  while (!rest.empty() && (base::is_digit(rest.front()) || (rest.front() == '.' && points++ == 0))) {
    if (base::is_digit(rest.front())) ++digits, positive += rest.front() != '0' ? 1U : 0U;
    rest.remove_prefix(1);
  }
  bool good = digits > 0 && positive > 0 && std::find(kSuffixes.begin(), kSuffixes.end(), rest) != kSuffixes.end();
  if (!good && digits > 0 && positive > 0 && rest.size() > 1 && (rest.front() == 'e' || rest.front() == 'E')) {
    rest.remove_prefix(1);
    if (rest.front() == '+' || rest.front() == '-') rest.remove_prefix(1);
    good = !rest.empty() && std::all_of(rest.begin(), rest.end(), base::is_digit);
  }
  if (!good) refuse(field, "must be a quantity above 0, like 500m, 2, 512Mi or 4G");
  return value;
}

std::string egress_name(const std::string& given, const std::string& field) {
  std::string name = base::to_lower(given);
  std::string_view plain = name;
  if (plain.substr(0, 2) == "*.") plain.remove_prefix(2);
  if (name.size() > 253 || !base::is_dns_name(plain))
    refuse(field, "must be a DNS name of at most 253 characters, or *. in front of one");
  return name;
}

const std::string& cidr(const std::string& value, const std::string& field) {
  const auto slash = value.find('/');
  const std::string address = value.substr(0, slash), bits = slash == std::string::npos ? "" : value.substr(slash + 1);
  std::array<unsigned char, 16> parsed{};
  int most = -1;
  if (::inet_pton(AF_INET, address.c_str(), parsed.data()) == 1) most = 32;
  if (::inet_pton(AF_INET6, address.c_str(), parsed.data()) == 1) most = 128;
  const bool number = !bits.empty() && bits.size() <= 3 && std::all_of(bits.begin(), bits.end(), base::is_digit);
  if (value.find('\0') != std::string::npos || most < 0 || !number || std::stoi(bits) > most)
    refuse(field, "must be a block of addresses like 10.0.0.0/8");
  return value;
}

void port(int value, const std::string& field) {
  if (value < 1 || value > 65535) refuse(field, "must be 1 to 65535");
}

// ---- enums by their names on the wire ----

template <typename Enum, std::size_t N>
std::string name_of(Enum value, const std::array<const char*, N>& names, const std::string& field) {
  const auto index = static_cast<std::size_t>(value);
  if (index >= N) refuse(field, "is none of the known values");
  return names[index];
}
constexpr std::array<const char*, 3> kMedia = {"", "STORAGE_MEDIUM_DISK", "STORAGE_MEDIUM_MEMORY"};
constexpr std::array<const char*, 4> kProtocols = {"", "SERVICE_PROTOCOL_TCP", "SERVICE_PROTOCOL_UDP", "SERVICE_PROTOCOL_SCTP"};
constexpr std::array<const char*, 4> kVisibilities = {"", "VISIBILITY_PUBLIC", "VISIBILITY_PRIVATE", "VISIBILITY_CUSTOM"};
constexpr std::array<const char*, 3> kEndpointKinds = {"", "ENDPOINT_KIND_HTTPS", "ENDPOINT_KIND_TLS_PASSTHROUGH"};
constexpr std::array<const char*, 3> kEndpointAuths = {"", "ENDPOINT_AUTH_OPEN", "ENDPOINT_AUTH_TOKEN"};
constexpr std::array<const char*, 4> kScopes = {"", "TENANT_SCOPE_SAME_USER", "TENANT_SCOPE_SAME_ORG",
                                                "TENANT_SCOPE_SANDBOX_NETWORK"};
constexpr std::array<const char*, 3> kModes = {"", "SANDBOX_MODE_SERVERLESS", "SANDBOX_MODE_CKS"};

// ---- the parts ----

std::optional<protocol::ResourceList> resource_list(const ResourceAmounts& amounts, const std::optional<Gpu>& gpu,
                                                    const std::string& field) {
  protocol::ResourceList list;
  if (!amounts.cpu().empty()) list.cpu = quantity(amounts.cpu(), field + ".cpu");
  if (!amounts.memory().empty()) list.memory = quantity(amounts.memory(), field + ".memory");
  if (gpu) {
    protocol::Gpu one;
    if (gpu->count() < 1) refuse("resources.gpu.count", "must be at least 1");
    one.count = gpu->count();
    one.type = text(gpu->type(), "resources.gpu.type");
    if (gpu->memory_gb()) {
      if (!one.type.empty()) refuse("resources.gpu", "has both a type and a size of memory: one of them chooses");
      if (*gpu->memory_gb() < 1) refuse("resources.gpu.memory_gb", "must be at least 1");
      one.memory_gb = *gpu->memory_gb();
    }
    list.gpu = std::move(one);
  }
  if (list.cpu.empty() && list.memory.empty() && !list.gpu) return std::nullopt;
  return list;
}

std::vector<protocol::FileMount> file_mounts(const std::vector<FileMount>& files) {
  std::vector<protocol::FileMount> mounts;
  std::set<std::string> paths;
  for (std::size_t i = 0; i < files.size(); ++i) {
    const std::string field = at("files", i, ".path");
    absolute(files[i].path(), field);
    if (files[i].path().back() == '/') refuse(field, "names a directory");
    if (!paths.insert(files[i].path()).second) refuse(field, "is there twice");
    mounts.push_back({files[i].path(), files[i].content()});
  }
  return mounts;
}

std::vector<protocol::SecretStoreReference> secret_stores(const std::vector<Secret>& secrets) {
  std::vector<protocol::SecretStoreReference> stores;
  std::map<std::string, const Secret*> variables;
  for (std::size_t i = 0; i < secrets.size(); ++i) {
    const Secret& secret = secrets[i];
    not_empty(secret.store(), at("secrets", i, ".store"));
    not_empty(secret.name(), at("secrets", i, ".name"));
    text(secret.field(), at("secrets", i, ".field"));
    const std::string field = at("secrets", i, ".env_var");
    not_empty(secret.env_var(), field);
    if (secret.env_var().find('=') != std::string::npos) refuse(field, "holds a '='");
    const auto [known, is_new] = variables.emplace(secret.env_var(), &secret);
    if (!is_new) {
      if (*known->second == secret) continue;
      refuse(field, "is wanted by two secrets");
    }
    auto store = std::find_if(stores.begin(), stores.end(), [&](const auto& s) { return s.store_name == secret.store(); });
    if (store == stores.end()) {
      stores.emplace_back().store_name = secret.store();
      store = stores.end() - 1;
    }
    store->secrets.push_back({secret.name(), secret.field(), secret.env_var()});
  }
  return stores;
}

void volumes(const std::vector<Volume>& wanted, protocol::SandboxSpec& spec, protocol::Container& container) {
  std::set<std::string> names, paths;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const Volume& volume = wanted[i];
    const std::string field = at("volumes", i);
    not_empty(volume.name(), field + ".name");
    if (!names.insert(volume.name()).second) refuse(field + ".name", "is there twice");
    absolute(volume.mount_path(), field + ".mount_path");
    if (volume.mount_path().find_first_not_of('/') == std::string::npos) refuse(field + ".mount_path", "must not be /");
    if (!paths.insert(volume.mount_path()).second) refuse(field + ".mount_path", "is there twice");
    text(volume.sub_path(), field + ".sub_path");
    if (!volume.sub_path().empty() &&
        (volume.sub_path().front() == '/' || ("/" + volume.sub_path() + "/").find("/../") != std::string::npos))
      refuse(field + ".sub_path", "must be a relative path without ..");
    protocol::SandboxVolume one;
    one.name = volume.name();
    one.scratch = !volume.volume_id();
    if (volume.volume_id()) {
      one.volume_id = not_empty(*volume.volume_id(), field + ".volume_id");
      if (!volume.size().empty() || volume.medium() != StorageMedium::unspecified || !volume.snapshot().empty())
        refuse(field, "exists: its size, medium and snapshot cannot be chosen");
    } else {
      if (!volume.size().empty()) one.size = quantity(volume.size(), field + ".size");
      one.medium = name_of(volume.medium(), kMedia, field + ".medium");
      one.restore_from_snapshot_id = text(volume.snapshot(), field + ".snapshot");
    }
    spec.volumes.push_back(std::move(one));
    container.volume_mounts.push_back({volume.name(), volume.mount_path(), volume.read_only(), volume.sub_path()});
  }
}

protocol::Service service(const Service& wanted, const std::string& field) {
  protocol::Service one;
  port(wanted.port(), field + ".port");
  one.port = wanted.port();
  one.name = text(wanted.name(), field + ".name");
  one.protocol = name_of(wanted.protocol(), kProtocols, field + ".protocol");
  one.visibility = name_of(wanted.visibility(), kVisibilities, field + ".visibility");
  if (wanted.has_endpoint()) {
    if (wanted.visibility() != Visibility::public_) refuse(field + ".endpoint", "needs the visibility public");
    if (wanted.protocol() != ServiceProtocol::tcp && wanted.protocol() != ServiceProtocol::unspecified)
      refuse(field + ".endpoint", "needs the protocol TCP");
    one.endpoint_kind = name_of(wanted.endpoint_kind(), kEndpointKinds, field + ".endpoint.kind");
    one.endpoint_auth = name_of(wanted.endpoint_auth(), kEndpointAuths, field + ".endpoint.auth");
  }
  return one;
}

protocol::NetworkRule network_rule(const NetworkRule& wanted, const std::string& field, bool egress) {
  using Peer = protocol::NetworkRule::Peer;
  protocol::NetworkRule rule;
  switch (wanted.peer()) {
    case NetworkRule::Peer::any:
      rule.peer = Peer::any;
      break;
    case NetworkRule::Peer::block:
      rule.peer = Peer::cidr;
      rule.value = cidr(wanted.value(), field + ".cidr");
      for (const auto& part : wanted.except()) rule.except.push_back(cidr(part, field + ".except"));
      break;
    case NetworkRule::Peer::name:
      if (!egress) refuse(field, "cannot be a name: those are for egress");
      rule.peer = Peer::dns_name;
      rule.value = egress_name(wanted.value(), field + ".dns_name");
      break;
    case NetworkRule::Peer::tenant:
      rule.peer = Peer::tenant;
      rule.value = name_of(wanted.scope(), kScopes, field + ".tenant");
      if (rule.value.empty()) refuse(field + ".tenant", "is unspecified");
      break;
    case NetworkRule::Peer::selector:
      if (!egress) refuse(field, "cannot be a selector: those are for egress");
      if (wanted.pods().empty() && wanted.namespaces().empty()) refuse(field + ".selector", "has no labels");
      rule.peer = Peer::selector;
      rule.pod_labels = wanted.pods();
      rule.namespace_labels = wanted.namespaces();
      break;
  }
  for (const PortRange& range : wanted.ports()) {
    port(range.first(), field + ".ports");
    port(range.last(), field + ".ports");
    if (range.last() < range.first()) refuse(field + ".ports", "has a range that ends before it begins");
    rule.ports.push_back(
        {text(range.protocol(), field + ".ports"), range.first(), range.last() == range.first() ? 0 : range.last()});
  }
  return rule;
}

protocol::NetworkOptions network(const NetworkOptions& wanted) {
  protocol::NetworkOptions options;
  if (wanted.deny_egress().value_or(false) && !wanted.egress().empty())
    refuse("network.deny_egress", "excludes a list of what may be reached");
  if (wanted.deny_ingress().value_or(false) && !wanted.ingress().empty())
    refuse("network.deny_ingress", "excludes a list of who may reach it");
  for (std::size_t i = 0; i < wanted.egress().size(); ++i)
    options.egress.push_back(network_rule(wanted.egress()[i], at("network.egress", i), true));
  for (std::size_t i = 0; i < wanted.ingress().size(); ++i)
    options.ingress.push_back(network_rule(wanted.ingress()[i], at("network.ingress", i), false));
  options.deny_egress = wanted.deny_egress();
  options.deny_ingress = wanted.deny_ingress();
  return options;
}

protocol::SecurityContext security_context(const SecurityContext& wanted) {
  protocol::SecurityContext context;
  context.run_as_user = wanted.run_as_user();
  context.run_as_group = wanted.run_as_group();
  context.privileged = wanted.privileged();
  context.allow_privilege_escalation = wanted.allow_privilege_escalation();
  context.read_only_root_filesystem = wanted.read_only_root_filesystem();
  for (const auto& name : wanted.capabilities_added())
    context.capabilities_add.push_back(not_empty(name, "security_context.capabilities_add"));
  for (const auto& name : wanted.capabilities_dropped())
    context.capabilities_drop.push_back(not_empty(name, "security_context.capabilities_drop"));
  context.seccomp_profile = text(wanted.seccomp_profile(), "security_context.seccomp_profile");
  return context;
}

protocol::Container main_container(const SandboxOptions& options, const Settings& settings) {
  protocol::Container container;
  container.name = "main";
  container.image = text(options.image(), "the image");
  std::vector<std::string> command = options.command();
  // Our gateway has defaults of its own; the public service wants to be told.
  if (settings.endpoint.tls() && settings.endpoint.host == "api.cwsandbox.com") {
    if (container.image.empty()) container.image = "python:3.11";
    if (command.empty()) command = {"/bin/sh", "-c", "trap \"exit 0\" TERM INT; sleep infinity & wait"};
  }
  for (const auto& part : command) text(part, "the command");
  if (!command.empty()) {
    if (command.front().empty()) refuse("the command's first part", "is empty: it names the program");
    container.command = command.front();
    container.args.assign(command.begin() + 1, command.end());
  }
  for (const auto& [name, value] : options.env()) {
    if (name.empty() || name.find('=') != std::string::npos) refuse("an environment name", "is empty or holds a '='");
    text(name, "an environment name");
    text(value, "an environment value");
  }
  container.environment_variables = options.env();
  if (options.working_dir()) container.working_dir = absolute(*options.working_dir(), "the working directory");
  if (options.resources()) {
    const Resources& resources = *options.resources();
    container.requests = resource_list(resources.requests(), resources.gpu(), "resources.requests");
    container.limits = resource_list(resources.limits(), resources.gpu(), "resources.limits");
  }
  container.files = file_mounts(options.files());
  container.secret_stores = secret_stores(options.secrets());
  if (options.security_context()) container.security_context = security_context(*options.security_context());
  if (options.image_pull_credentials()) {
    const auto& wanted = *options.image_pull_credentials();
    container.image_pull_credentials = protocol::ImagePullCredentials{
        not_empty(wanted.registry(), "image_pull_credentials.registry"), not_empty(wanted.store(), "image_pull_credentials.store"),
        not_empty(wanted.name(), "image_pull_credentials.name"), text(wanted.field(), "image_pull_credentials.field")};
  }
  return container;
}

protocol::CreateSandboxRequest make_request(const SandboxOptions& options, const Settings& settings) {
  protocol::CreateSandboxRequest request;
  request.request_id = make_uuid();
  auto& spec = request.sandbox.spec;
  auto container = main_container(options, settings);
  volumes(options.volumes(), spec, container);
  spec.containers.push_back(std::move(container));
  spec.primary_container = "main";
  if (options.max_lifetime()) {
    if (options.max_lifetime()->count() <= 0 || options.max_lifetime()->count() > INT32_MAX)
      refuse("the maximal lifetime", "must be between 1 s and 2^31 s");
    spec.max_lifetime_seconds = static_cast<std::int32_t>(options.max_lifetime()->count());
  }
  for (std::size_t i = 0; i < options.tags().size(); ++i) spec.tags.push_back(not_empty(options.tags()[i], at("tags", i)));
  for (const auto& annotation : options.annotations()) not_empty(annotation.first, "an annotation's name");
  spec.annotations = options.annotations();
  for (std::size_t i = 0; i < options.services().size(); ++i)
    spec.services.push_back(service(options.services()[i], at("services", i)));
  if (options.network()) spec.network = network(*options.network());
  for (std::size_t i = 0; i < options.runner_ids().size(); ++i)
    spec.runner_ids.push_back(not_empty(options.runner_ids()[i], at("runner_ids", i)));
  spec.instance_type = text(options.instance_type(), "instance_type");
  spec.mode = name_of(options.mode(), kModes, "mode");
  spec.runtime_class = text(options.runtime_class(), "runtime_class");
  return request;
}

}  // namespace

std::string make_create_request(const SandboxOptions& options, const Settings& settings) {
  try {
    return protocol::to_json(make_request(options, settings));
  } catch (const protocol::ParseError& error) {
    throw std::invalid_argument("cwsandbox: " + (error.field.empty() ? std::string() : error.field + ": ") + error.what());
  }
}

}  // namespace cwsandbox::client
