#include "client/sandbox_request.hpp"

#include "base/ascii.hpp"
#include "base/dns_name.hpp"
#include "client/rpc.hpp"
#include "messages/json.hpp"
#include "messages/sandbox.hpp"

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

/// The message's enum of the same name has the same numbers.
template <class Wire, class Enum>
Wire on_the_wire(Enum value, const std::string& field) {
  if (static_cast<std::size_t>(value) >= describe(Wire{}).values.size()) refuse(field, "is none of the known values");
  return static_cast<Wire>(value);
}

// ---- the parts ----

std::optional<messages::Resources> resource_list(const ResourceAmounts& amounts, const std::optional<Gpu>& gpu,
                                                 const std::string& field) {
  messages::Resources list;
  if (!amounts.cpu().empty()) list.cpu = quantity(amounts.cpu(), field + ".cpu");
  if (!amounts.memory().empty()) list.memory = quantity(amounts.memory(), field + ".memory");
  if (gpu) {
    messages::Gpu one;
    if (gpu->count() < 1) refuse("resources.gpu.count", "must be at least 1");
    one.count = gpu->count();
    if (!gpu->type().empty()) one.type = text(gpu->type(), "resources.gpu.type");
    if (gpu->memory_gb()) {
      if (one.type) refuse("resources.gpu", "has both a type and a size of memory: one of them chooses");
      if (*gpu->memory_gb() < 1) refuse("resources.gpu.memory_gb", "must be at least 1");
      one.memory_gb = *gpu->memory_gb();
    }
    list.gpu = std::move(one);
  }
  if (list.cpu.empty() && list.memory.empty() && !list.gpu) return std::nullopt;
  return list;
}

std::vector<messages::FileMount> file_mounts(const std::vector<FileMount>& files) {
  std::vector<messages::FileMount> mounts;
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

std::vector<messages::SecretStoreReference> secret_stores(const std::vector<Secret>& secrets) {
  std::vector<messages::SecretStoreReference> stores;
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

void volumes(const std::vector<Volume>& wanted, messages::SandboxSpec& spec, messages::Container& container) {
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
    messages::SandboxVolume one;
    one.name = volume.name();
    if (volume.volume_id()) {
      one.volume_id = not_empty(*volume.volume_id(), field + ".volume_id");
      if (!volume.size().empty() || volume.medium() != StorageMedium::unspecified || !volume.snapshot().empty())
        refuse(field, "exists: its size, medium and snapshot cannot be chosen");
    } else {
      messages::ScratchVolume& scratch = one.scratch.emplace();
      if (!volume.size().empty()) scratch.size = quantity(volume.size(), field + ".size");
      scratch.medium = on_the_wire<messages::StorageMedium>(volume.medium(), field + ".medium");
      scratch.restore_from_snapshot_id = text(volume.snapshot(), field + ".snapshot");
    }
    spec.volumes.push_back(std::move(one));
    container.volume_mounts.push_back({volume.name(), volume.mount_path(), volume.read_only(), volume.sub_path()});
  }
}

messages::Service service(const Service& wanted, const std::string& field) {
  messages::Service one;
  port(wanted.port(), field + ".port");
  one.port = wanted.port();
  one.name = text(wanted.name(), field + ".name");
  one.protocol = on_the_wire<messages::ServiceProtocol>(wanted.protocol(), field + ".protocol");
  one.visibility = on_the_wire<messages::Visibility>(wanted.visibility(), field + ".visibility");
  if (wanted.has_endpoint()) {
    if (wanted.visibility() != Visibility::public_) refuse(field + ".endpoint", "needs the visibility public");
    if (wanted.protocol() != ServiceProtocol::tcp && wanted.protocol() != ServiceProtocol::unspecified)
      refuse(field + ".endpoint", "needs the protocol TCP");
    messages::EndpointSpec& endpoint = one.endpoint.emplace();
    endpoint.kind = on_the_wire<messages::EndpointKind>(wanted.endpoint_kind(), field + ".endpoint.kind");
    endpoint.auth = on_the_wire<messages::EndpointAuth>(wanted.endpoint_auth(), field + ".endpoint.auth");
  }
  return one;
}

/// What rules of both directions have.
template <class Rule>
Rule network_rule(const NetworkRule& wanted, const std::string& field) {
  Rule rule;
  switch (wanted.peer()) {
    case NetworkRule::Peer::any:
      rule.any = true;
      break;
    case NetworkRule::Peer::block: {
      messages::CidrBlock& block = rule.cidr.emplace();
      block.cidr = cidr(wanted.value(), field + ".cidr");
      for (const auto& part : wanted.except()) block.except.push_back(cidr(part, field + ".except"));
      break;
    }
    case NetworkRule::Peer::tenant:
      rule.tenant = on_the_wire<messages::TenantScope>(wanted.scope(), field + ".tenant");
      if (rule.tenant == messages::TenantScope::unspecified) refuse(field + ".tenant", "is unspecified");
      break;
    case NetworkRule::Peer::name:
    case NetworkRule::Peer::selector:
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

messages::EgressRule egress_rule(const NetworkRule& wanted, const std::string& field) {
  auto rule = network_rule<messages::EgressRule>(wanted, field);
  if (wanted.peer() == NetworkRule::Peer::name) rule.https_hostname = egress_name(wanted.value(), field + ".dns_name");
  if (wanted.peer() == NetworkRule::Peer::selector) {
    if (wanted.pods().empty() && wanted.namespaces().empty()) refuse(field + ".selector", "has no labels");
    rule.selector = messages::SelectorBlock{wanted.pods(), wanted.namespaces()};
  }
  return rule;
}

messages::IngressRule ingress_rule(const NetworkRule& wanted, const std::string& field) {
  if (wanted.peer() == NetworkRule::Peer::name) refuse(field, "cannot be a name: those are for egress");
  if (wanted.peer() == NetworkRule::Peer::selector) refuse(field, "cannot be a selector: those are for egress");
  return network_rule<messages::IngressRule>(wanted, field);
}

messages::NetworkOptions network(const NetworkOptions& wanted) {
  messages::NetworkOptions options;
  if (wanted.deny_egress().value_or(false) && !wanted.egress().empty())
    refuse("network.deny_egress", "excludes a list of what may be reached");
  if (wanted.deny_ingress().value_or(false) && !wanted.ingress().empty())
    refuse("network.deny_ingress", "excludes a list of who may reach it");
  for (std::size_t i = 0; i < wanted.egress().size(); ++i)
    options.egress.push_back(egress_rule(wanted.egress()[i], at("network.egress", i)));
  for (std::size_t i = 0; i < wanted.ingress().size(); ++i)
    options.ingress.push_back(ingress_rule(wanted.ingress()[i], at("network.ingress", i)));
  options.deny_egress = wanted.deny_egress();
  options.deny_ingress = wanted.deny_ingress();
  return options;
}

messages::SecurityContext security_context(const SecurityContext& wanted) {
  messages::SecurityContext context;
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

messages::Container main_container(const SandboxOptions& options, const Settings& settings) {
  messages::Container container;
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
    messages::ResourceRequirements required;
    required.requests = resource_list(resources.requests(), resources.gpu(), "resources.requests");
    required.limits = resource_list(resources.limits(), resources.gpu(), "resources.limits");
    if (!messages::is_empty(required)) container.resource_requirements = std::move(required);
  }
  container.files = file_mounts(options.files());
  container.secret_stores = secret_stores(options.secrets());
  if (options.security_context()) container.security_context = security_context(*options.security_context());
  if (options.image_pull_credentials()) {
    const auto& wanted = *options.image_pull_credentials();
    messages::ImagePullCredentials& credentials = container.image_pull_credentials.emplace();
    credentials.registry = not_empty(wanted.registry(), "image_pull_credentials.registry");
    messages::SecretSource& source = credentials.credentials.emplace();
    source.store_name = not_empty(wanted.store(), "image_pull_credentials.store");
    source.path = not_empty(wanted.name(), "image_pull_credentials.name");
    source.field = text(wanted.field(), "image_pull_credentials.field");
  }
  return container;
}

messages::CreateSandboxRequest make_request(const SandboxOptions& options, const Settings& settings) {
  messages::CreateSandboxRequest request;
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
  spec.mode = on_the_wire<messages::SandboxMode>(options.mode(), "mode");
  spec.runtime_class = text(options.runtime_class(), "runtime_class");
  return request;
}

}  // namespace

std::string make_create_request(const SandboxOptions& options, const Settings& settings) {
  try {
    return messages::to_json(make_request(options, settings));
  } catch (const messages::ParseError& error) {
    throw std::invalid_argument("cwsandbox: " + (error.field.empty() ? std::string() : error.field + ": ") + error.what());
  }
}

}  // namespace cwsandbox::client
