#include "gateway/sandbox_request.hpp"

#include "base/ascii.hpp"
#include "base/dns_name.hpp"
#include "base/text.hpp"
#include "gateway/errors.hpp"
#include "gateway/resources.hpp"
#include "runner/address_block.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

namespace cwsandbox::gateway {

namespace {

constexpr std::size_t kMaxTags = 256;
constexpr std::size_t kMaxPath = 4095;  // PATH_MAX without its NUL

std::string in_quotes(const std::string& text) { return base::in_quotes(text, 128); }
std::string at(const std::string& list, std::size_t index) { return list + "[" + std::to_string(index) + "]"; }

}  // namespace

void check_environment(const std::map<std::string, std::string>& env, const std::string& field, Violations& violations) {
  for (const auto& [name, value] : env) {
    const char* wrong = name.empty()                            ? "the name of an environment variable is empty"
                        : name.find('=') != std::string::npos   ? "the name of an environment variable may not hold '='"
                        : name.find('\0') != std::string::npos  ? "an environment variable may not hold a NUL byte"
                        : value.find('\0') != std::string::npos ? "an environment variable may not hold a NUL byte"
                                                                : nullptr;
    if (wrong != nullptr) violations.add(field + "[" + in_quotes(name) + "]", wrong);
  }
}

void check_command(const std::vector<std::string>& command, const std::string& field, Violations& violations) {
  if (command.empty()) return violations.add(field, "the command is empty");
  if (command[0].empty()) violations.add(at(field, 0), "the program's name is empty");
  for (std::size_t i = 0; i < command.size(); ++i) {
    if (command[i].find('\0') != std::string::npos) violations.add(at(field, i), "an argument may not hold a NUL byte");
  }
}

void check_directory(const std::string& directory, const std::string& field, Violations& violations) {
  if (directory.empty()) return;
  if (directory.front() != '/') {
    violations.add(field, "not an absolute path: " + in_quotes(directory));
  } else if (directory.find('\0') != std::string::npos) {
    violations.add(field, "a path may not hold a NUL byte");
  }
}

namespace {

constexpr const char* kLabelRule = "not a name of at most 63 lower-case letters, digits and inner hyphens: ";

// ---- volumes ----

std::vector<runner::ScratchVolume> check_volumes(const std::vector<messages::SandboxVolume>& volumes, Violations& violations) {
  std::vector<runner::ScratchVolume> out;
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < volumes.size(); ++i) {
    const messages::SandboxVolume& volume = volumes[i];
    const std::string field = at("sandbox.spec.volumes", i);
    if (!base::is_dns_label(volume.name)) {
      violations.add(field + ".name", kLabelRule + in_quotes(volume.name));
    } else if (!names.insert(volume.name).second) {
      violations.add(field + ".name", "is given twice");
    }
    runner::ScratchVolume& made = out.emplace_back();
    made.name = volume.name;
    const std::string& size = volume.scratch->size;
    made.in_memory = volume.scratch->medium == messages::StorageMedium::memory;
    if (size.empty()) continue;
    made.size_limit = parse_quantity(size, 1);
    if (!made.size_limit) violations.add(field + ".scratch.size", "not a quantity like 512Mi or 4G: " + in_quotes(size));
  }
  return out;
}

/// Without empty parts, "." and ".."; `path` has no slash at its ends.
bool is_plain(std::string_view path) {
  for (;;) {
    const auto part = path.substr(0, path.find('/'));
    if (part.empty() || part == "." || part == "..") return false;
    if (part.size() == path.size()) return true;
    path.remove_prefix(part.size() + 1);
  }
}

std::vector<runner::VolumeMount> check_mounts(const std::vector<messages::VolumeMount>& mounts,
                                              const std::vector<messages::SandboxVolume>& volumes, const std::string& list,
                                              Violations& violations) {
  std::vector<runner::VolumeMount> out;
  std::set<std::string> paths;
  for (std::size_t i = 0; i < mounts.size(); ++i) {
    const messages::VolumeMount& mount = mounts[i];
    const std::string field = at(list, i);
    const auto has_name = [&mount](const messages::SandboxVolume& volume) { return volume.name == mount.volume; };
    if (std::none_of(volumes.begin(), volumes.end(), has_name))
      violations.add(field + ".volume", "names no volume of the sandbox: " + in_quotes(mount.volume));
    runner::VolumeMount& made = out.emplace_back();
    made.volume = mount.volume;
    made.path = mount.mount_path;
    if (made.path.size() > 1 && made.path.back() == '/') made.path.pop_back();
    made.sub_path = mount.sub_path;
    made.read_only = mount.read_only;
    // A colon has a meaning of its own to container runtimes.
    if (made.path.size() < 2 || made.path.front() != '/' || !is_plain(std::string_view(made.path).substr(1)) ||
        made.path.size() > kMaxPath || made.path.find_first_of(std::string_view("\0:", 2)) != std::string::npos) {
      violations.add(field + ".mountPath",
                     "not an absolute path below /, without \".\", \"..\" and colons: " + in_quotes(mount.mount_path));
    } else if (!paths.insert(made.path).second) {
      violations.add(field + ".mountPath", "is given twice");
    }
    if (!made.sub_path.empty() &&
        (!is_plain(made.sub_path) || made.sub_path.size() > kMaxPath || made.sub_path.find('\0') != std::string::npos))
      violations.add(field + ".subPath", "not a relative path without \".\" and \"..\": " + in_quotes(mount.sub_path));
  }
  return out;
}

// ---- secrets ----

// The one store that there is: what the cluster of the runner keeps as Secrets, under the names that Kubernetes gives them.
constexpr std::string_view kSecretStore = "kubernetes";

std::vector<runner::SecretVariable> check_secrets(const messages::Container& container, const std::string& list,
                                                  Violations& violations) {
  std::vector<runner::SecretVariable> out;
  std::set<std::string> variables;
  for (std::size_t i = 0; i < container.secret_stores.size(); ++i) {
    const messages::SecretStoreReference& store = container.secret_stores[i];
    if (store.store_name != kSecretStore)
      violations.add(at(list, i) + ".storeName", "there is no store but \"kubernetes\": " + in_quotes(store.store_name));
    for (std::size_t j = 0; j < store.secrets.size(); ++j) {
      const messages::SecretMapping& secret = store.secrets[j];
      const std::string field = at(at(list, i) + ".secrets", j);
      if (!base::is_dns_name(secret.path)) violations.add(field + ".path", "not the name of a Secret: " + in_quotes(secret.path));
      if (secret.field.empty() || secret.field.size() > 253 || !base::only_letters_digits_and("-._", secret.field))
        violations.add(field + ".field", "not the name of a value in a Secret: " + in_quotes(secret.field));
      runner::SecretVariable& made = out.emplace_back();
      made.env_var = secret.env_var.empty() ? secret.field : secret.env_var;
      made.secret = secret.path;
      made.key = secret.field;
      if (made.env_var.empty() || !base::only_letters_digits_and("-._", made.env_var) || base::is_digit(made.env_var.front())) {
        violations.add(field + ".envVar", "not the name of an environment variable: " + in_quotes(made.env_var));
      } else if (container.environment_variables.contains(made.env_var)) {
        violations.add(field + ".envVar", "is one of environmentVariables too: " + in_quotes(made.env_var));
      } else if (!variables.insert(made.env_var).second) {
        violations.add(field + ".envVar", "is wanted by two secrets: " + in_quotes(made.env_var));
      }
    }
  }
  return out;
}

// ---- the network ----

std::vector<runner::ServicePort> check_services(const std::vector<messages::Service>& services, Violations& violations) {
  std::vector<runner::ServicePort> out;
  std::set<std::pair<std::int32_t, runner::PortProtocol>> ports;
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < services.size(); ++i) {
    const messages::Service& service = services[i];
    const std::string field = at("sandbox.spec.services", i);
    runner::ServicePort& made = out.emplace_back();
    made.name = service.name;
    made.protocol = service.protocol == messages::ServiceProtocol::udp ? runner::PortProtocol::udp : runner::PortProtocol::tcp;
    if (!std::in_range<std::uint16_t>(service.port) || service.port == 0) {
      violations.add(field + ".port", "not a port from 1 to 65535: " + std::to_string(service.port));
    } else if (!ports.emplace(service.port, made.protocol).second) {
      violations.add(field + ".port", "is given twice: " + std::to_string(service.port));
    }
    made.port = static_cast<std::uint16_t>(service.port);
    if (service.name.empty()) continue;
    if (!base::is_dns_label(service.name)) {
      violations.add(field + ".name", kLabelRule + in_quotes(service.name));
    } else if (!names.insert(service.name).second) {
      violations.add(field + ".name", "is given twice");
    }
  }
  return out;
}

std::vector<runner::PortRange> check_ports(const std::vector<messages::PortRange>& ranges, const std::string& list,
                                           Violations& violations) {
  std::vector<runner::PortRange> out;
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    const messages::PortRange& range = ranges[i];
    const std::string field = at(list, i);
    runner::PortRange& made = out.emplace_back();
    if (range.protocol == "UDP") {
      made.protocol = runner::PortProtocol::udp;
    } else if (!range.protocol.empty() && range.protocol != "TCP") {
      violations.add(field + ".protocol", "neither TCP nor UDP: " + in_quotes(range.protocol));
    }
    const std::int32_t last = range.end_port == 0 ? range.port : range.end_port;
    if (!std::in_range<std::uint16_t>(range.port) || range.port == 0) {
      violations.add(field + ".port", "not a port from 1 to 65535: " + std::to_string(range.port));
    } else if (!std::in_range<std::uint16_t>(last) || last < range.port) {
      violations.add(field + ".endPort", "not a port from " + std::to_string(range.port) + " to 65535: " + std::to_string(last));
    }
    made.first = static_cast<std::uint16_t>(range.port);
    made.last = static_cast<std::uint16_t>(last);
  }
  return out;
}

runner::EgressRule check_egress_rule(const messages::EgressRule& rule, const std::string& field, Violations& violations) {
  runner::EgressRule made;
  made.ports = check_ports(rule.ports, field + ".ports", violations);
  if (!rule.cidr) return made;  // to any: nothing else is served
  const messages::CidrBlock& block = *rule.cidr;
  made.cidr = block.cidr;
  made.except = block.except;
  const auto whole = runner::parse_block(block.cidr);
  if (!whole) {
    violations.add(field + ".cidr.cidr", "not a block of addresses like 10.0.0.0/8: " + in_quotes(block.cidr));
    return made;
  }
  for (std::size_t i = 0; i < block.except.size(); ++i) {
    const auto part = runner::parse_block(block.except[i]);
    if (!part) {
      violations.add(at(field + ".cidr.except", i), "not a block of addresses like 10.0.0.0/8: " + in_quotes(block.except[i]));
    } else if (!runner::is_strictly_inside(*part, *whole)) {
      violations.add(at(field + ".cidr.except", i), "not a part of " + block.cidr + ": " + in_quotes(block.except[i]));
    }
  }
  return made;
}

std::optional<std::vector<runner::EgressRule>> check_egress(const std::optional<messages::NetworkOptions>& network,
                                                            Violations& violations) {
  if (!network || (network->egress.empty() && !network->deny_egress)) return std::nullopt;
  if (network->deny_egress.value_or(false) && !network->egress.empty())
    violations.add("sandbox.spec.network.denyEgress", "excludes a list of what may be reached");
  std::vector<runner::EgressRule> rules;
  for (std::size_t i = 0; i < network->egress.size(); ++i)
    rules.push_back(check_egress_rule(network->egress[i], at("sandbox.spec.network.egress", i), violations));
  // Said to be open, and not to what: to everything, whatever sandboxes have by default.
  if (rules.empty() && !*network->deny_egress) rules.emplace_back();
  return rules;
}

void check_files(const std::vector<messages::FileMount>& files, std::size_t most, const std::string& field,
                 Violations& violations) {
  std::set<std::string_view> seen;
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < files.size(); ++i) {
    const std::string& path = files[i].path;
    bytes += files[i].content.size();
    const auto wrong = [&](std::string why) { violations.add(at(field, i) + ".path", std::move(why)); };
    if (path.empty()) {
      wrong("is required");
    } else if (path.front() != '/') {
      wrong("not an absolute path: " + in_quotes(path));
    } else if (path.back() == '/') {
      wrong("not the path of a file: " + in_quotes(path));
    } else if (path.find('\0') != std::string::npos) {
      wrong("a path may not hold a NUL byte");
    } else if (path.size() > kMaxPath) {
      wrong("longer than " + std::to_string(kMaxPath) + " bytes");
    } else if (!seen.insert(path).second) {
      wrong("is given twice");
    }
  }
  if (bytes > most)
    violations.add(field, std::to_string(bytes) + " bytes in all, at most " + std::to_string(most) + " are allowed");
}

}  // namespace

namespace {

[[noreturn]] void not_supported(const std::vector<std::string>& fields) {
  std::string names;
  for (std::size_t i = 0; i < fields.size() && i < 16; ++i) {
    if (i > 0) names += ", ";
    names += base::escaped(fields[i], 128);
  }
  throw ServiceError(ErrorCode::unimplemented, reason::kNotImplemented,
                     "this gateway does not support, or its operator does not allow, " + names, {{"fields", names}});
}

// What no runner is asked for.
constexpr std::array<std::string_view, 22> kNotServed = {
    "sandbox.spec.containers[].resources.gpu.memoryGb",
    "sandbox.spec.containers[].resourceRequirements.limits.gpu.memoryGb",
    "sandbox.spec.containers[].resourceRequirements.requests.gpu.memoryGb",
    "sandbox.spec.containers[].securityContext",
    "sandbox.spec.containers[].imagePullCredentials",
    "sandbox.spec.containers[].startupProbe",
    "sandbox.spec.initContainers",
    "sandbox.spec.instanceType",
    "sandbox.spec.mode",
    "sandbox.spec.networkConfigId",
    "sandbox.spec.networkIds",
    "sandbox.spec.objectStorageAccess",
    "sandbox.spec.runtimeClassSelection",
    "sandbox.spec.network.denyIngress",
    "sandbox.spec.network.dnsEgress",
    "sandbox.spec.network.ingress",
    "sandbox.spec.network.egress[].httpsHostname",
    "sandbox.spec.network.egress[].httpsHostnameExcept",
    "sandbox.spec.network.egress[].selector",
    "sandbox.spec.network.egress[].tenant",
    "sandbox.spec.volumes[].scratch.restoreFromSnapshotId",
    "sandbox.spec.volumes[].volumeId",
};

std::vector<std::string> not_served(const messages::CreateSandboxRequest& request) {
  const messages::SandboxSpec& spec = request.sandbox.spec;
  std::vector<std::string> out = messages::set_paths(messages::CreateSandboxRequest::kType, &request, kNotServed);
  out.insert(out.end(), request.unknown.begin(), request.unknown.end());
  if (request.sandbox.control == messages::Control::container_engine) out.emplace_back("sandbox.control");
  for (std::size_t i = 0; i < spec.volumes.size(); ++i) {
    // Without a source: or with one that is not known here.
    if (!spec.volumes[i].scratch && !spec.volumes[i].volume_id) out.push_back(at("sandbox.spec.volumes", i));
  }
  for (std::size_t i = 0; i < spec.services.size(); ++i) {
    const messages::Service& service = spec.services[i];
    const std::string field = at("sandbox.spec.services", i);
    if (service.protocol == messages::ServiceProtocol::sctp) out.push_back(field + ".protocol");
    // Only those around the sandbox can reach it: nothing here opens it to the outside.
    if (service.visibility == messages::Visibility::public_ || service.visibility == messages::Visibility::custom)
      out.push_back(field + ".visibility");
    if (service.endpoint) out.push_back(field + ".endpoint");
  }
  if (!spec.network) return out;
  for (std::size_t i = 0; i < spec.network->egress.size(); ++i) {
    const messages::EgressRule& rule = spec.network->egress[i];
    // No peer is not any peer: there may be one that is not known here.
    const bool named = rule.cidr || rule.https_hostname || rule.tenant || rule.selector || rule.any.value_or(false);
    if (!named) out.push_back(at("sandbox.spec.network.egress", i));
  }
  return out;
}

// What a runner may refuse, by the names of runner::SandboxSpec, and the fields of the JSON that ask for it.
constexpr std::array<std::pair<std::string_view, std::string_view>, 9> kFields = {{{"image", "containers[0].image"},
                                                                                   {"volumes", "volumes"},
                                                                                   {"mounts", "containers[0].volumeMounts"},
                                                                                   {"secrets", "containers[0].secretStores"},
                                                                                   {"ports", "services"},
                                                                                   {"egress", "network"},
                                                                                   {"runtime_class", "runtimeClass"},
                                                                                   {"tags", "tags"},
                                                                                   {"annotations", "annotations"}}};

/// The fields under which a resource was asked for.
void add_resource_fields(const messages::Container& container, std::string_view member, std::vector<std::string>& fields) {
  const auto asked_in = [&](const std::optional<messages::Resources>& list, const std::string& field) {
    if (!list) return;
    if (member == "gpus" && list->gpu) fields.push_back(field + ".gpu");
    if (member == "gpu_type" && list->gpu && !list->gpu->type.value_or("").empty()) fields.push_back(field + ".gpu.type");
    if (member.starts_with("memory") && !list->memory.empty()) fields.push_back(field + ".memory");
    if (member.starts_with("cpu") && !list->cpu.empty()) fields.push_back(field + ".cpu");
  };
  const bool limit = member.ends_with("_limit"), request = member.ends_with("_request");
  asked_in(container.resources, "sandbox.spec.containers[0].resources");
  if (!container.resource_requirements) return;
  const std::string requirements = "sandbox.spec.containers[0].resourceRequirements";
  if (!request) asked_in(container.resource_requirements->limits, requirements + ".limits");
  if (!limit) asked_in(container.resource_requirements->requests, requirements + ".requests");
}

/// The field of the secret that is the one of that index among all of the container's.
std::string secret_field(const messages::Container& container, std::size_t index) {
  const std::string list = "sandbox.spec.containers[0].secretStores";
  for (std::size_t i = 0; i < container.secret_stores.size(); ++i) {
    const std::size_t count = container.secret_stores[i].secrets.size();
    if (index < count) return at(at(list, i) + ".secrets", index) + ".path";
    index -= count;
  }
  return list;
}

/// The field of one element ("volumes[1].size_limit") of a list, if the member names one.
std::optional<std::string> element_field(std::string_view member, const messages::Container& container) {
  const auto bracket = member.find('[');
  if (bracket == std::string_view::npos) return std::nullopt;
  const std::string_view list = member.substr(0, bracket);
  std::size_t index = 0;
  const auto [end, ec] = std::from_chars(member.data() + bracket + 1, member.data() + member.size(), index);
  if (ec != std::errc()) return std::nullopt;
  if (list == "secrets") return secret_field(container, index);
  if (list == "egress") return at("sandbox.spec.network.egress", index);
  if (list == "volumes") return at("sandbox.spec.volumes", index) + (member.ends_with("].size_limit") ? ".scratch.size" : ".name");
  return std::nullopt;
}

std::vector<std::string> fields_of(const std::vector<std::string>& members, const messages::Container& container) {
  constexpr std::string_view kResources = "resources.";
  std::vector<std::string> fields;
  for (const std::string& member : members) {
    if (auto field = element_field(member, container)) {
      fields.push_back(std::move(*field));
      continue;
    }
    if (member.starts_with(kResources)) {
      add_resource_fields(container, std::string_view(member).substr(kResources.size()), fields);
      continue;
    }
    const auto known = std::find_if(kFields.begin(), kFields.end(), [&](const auto& field) { return field.first == member; });
    fields.push_back(known == kFields.end() ? member : "sandbox.spec." + std::string(known->second));
  }
  return fields;
}

}  // namespace

void check_served(const messages::CreateSandboxRequest& request) {
  if (const auto fields = not_served(request); !fields.empty()) not_supported(fields);
}

runner::SandboxSpec check_request(messages::SandboxSpec& asked, const GatewayOptions& options, const runner::Runner& runner) {
  if (asked.containers.size() > 1) {
    throw ServiceError(ErrorCode::unimplemented, reason::kNotImplemented,
                       "this gateway runs one container in a sandbox (sandbox.spec.containers)",
                       {{"fields", "sandbox.spec.containers"}});
  }
  if (asked.containers.empty()) asked.containers.emplace_back();
  messages::Container& container = asked.containers[0];
  if (container.name.empty()) container.name = asked.primary_container.empty() ? "main" : asked.primary_container;

  Violations violations;
  const auto violation = [&violations](const char* field, const char* why) { violations.add(field, why); };
  if (!asked.primary_container.empty() && asked.primary_container != container.name)
    violation("sandbox.spec.primaryContainer", "names no container of the sandbox");
  if (asked.max_lifetime_seconds < 0) violation("sandbox.spec.maxLifetimeSeconds", "is negative");
  if (asked.tags.size() > kMaxTags) violation("sandbox.spec.tags", "more than 256 tags");
  if (std::find(asked.tags.begin(), asked.tags.end(), "") != asked.tags.end()) violation("sandbox.spec.tags", "a tag is empty");
  std::vector<std::string> command;
  if (!container.command.empty()) command.push_back(container.command);
  if (container.command.empty() && !container.args.empty())
    violation("sandbox.spec.containers[0].command", "arguments without a command");
  command.insert(command.end(), container.args.begin(), container.args.end());
  if (command.empty()) command = options.default_command;
  check_command(command, "sandbox.spec.containers[0].command", violations);
  check_environment(container.environment_variables, "sandbox.spec.containers[0].environmentVariables", violations);
  check_directory(container.working_dir, "sandbox.spec.containers[0].workingDir", violations);
  check_files(container.files, options.max_initial_files, "sandbox.spec.containers[0].files", violations);

  runner::SandboxSpec spec;
  spec.image = container.image;
  spec.command = std::move(command);
  spec.env = container.environment_variables;
  spec.working_dir = container.working_dir;
  spec.resources = check_resources(container, options, "sandbox.spec.containers[0]", violations);
  spec.volumes = check_volumes(asked.volumes, violations);
  spec.mounts = check_mounts(container.volume_mounts, asked.volumes, "sandbox.spec.containers[0].volumeMounts", violations);
  spec.secrets = check_secrets(container, "sandbox.spec.containers[0].secretStores", violations);
  spec.ports = check_services(asked.services, violations);
  spec.egress = check_egress(asked.network, violations);
  spec.runtime_class = asked.runtime_class;
  spec.tags = asked.tags;
  spec.annotations = asked.annotations;
  // Their content is not kept: an answer names the files only.
  for (messages::FileMount& file : container.files) {
    runner::InitialFile initial;
    initial.path = file.path;
    initial.content = std::exchange(file.content, {});
    spec.files.push_back(std::move(initial));
  }
  // First what no other value would help.
  if (const auto refused = runner.refuses(spec); !refused.empty()) not_supported(fields_of(refused, container));
  if (!violations.empty()) throw invalid_fields(violations);
  return spec;
}

}  // namespace cwsandbox::gateway
