#include "runner/kubernetes/pod_spec.hpp"

#include "base/ascii.hpp"
#include "base/dns_name.hpp"
#include "runner/address_block.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

namespace cwsandbox::runner::kubernetes {

namespace {

constexpr const char* kManager = "cwsandbox";
constexpr const char* kAgentVolume = "cwsandbox-agent";
constexpr std::string_view kOwnVolumes = "cwsandbox-";  // what names of ours begin with, and none of a sandbox's may
constexpr const char* kAgentVolumeSize = "16Mi";
// Of all annotations of an object, names and values (apimachinery's TotalAnnotationSizeLimitB). The record may have its 64 KiB.
constexpr std::size_t kMaxAnnotations = 256 * 1024;
constexpr std::size_t kMaxRecord = 64 * 1024;
constexpr std::size_t kMaxName = 63;
// How much longer than its sandbox a pod may live: it is counted from before its image has been fetched.
constexpr std::chrono::seconds kLifetimeSlack{600};

struct OwnDirectory {
  const char* volume;
  const char* path;
  std::uint64_t PodOptions::* size;
};
// The same as a sandbox of the local runner has for its own.
constexpr const char* kWorkspace = "/workspace";
constexpr const char* kHome = "/home/sandbox";
constexpr std::array<OwnDirectory, 3> kOwnDirectories = {{{"cwsandbox-workspace", kWorkspace, &PodOptions::workspace_size},
                                                          {"cwsandbox-home", kHome, &PodOptions::home_size},
                                                          {"cwsandbox-tmp", "/tmp", &PodOptions::tmp_size}}};

// Whoever mounts something here takes away what the agent or the container's runtime needs.
constexpr std::array<std::string_view, 4> kReserved = {kAgentDirectory, "/dev", "/proc", "/sys"};

constexpr std::array<std::string_view, 8> kSchedulingMembers = {
    "nodeSelector",      "tolerations",   "affinity",  "topologySpreadConstraints",
    "priorityClassName", "schedulerName", "dnsPolicy", "dnsConfig"};

/// The part behind the slash of a label's or an annotation's name; also what a label's value can be, if it is not empty.
bool is_qualified_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxName && base::is_letter_or_digit(name.front()) &&
         base::is_letter_or_digit(name.back()) && base::only_letters_digits_and("-_.", name);
}

/// A service name of RFC 6335, which is all that a container's port can be called.
bool is_port_name(std::string_view name) {
  return base::is_dns_label(name) && name.size() <= 15 && name.find("--") == std::string_view::npos &&
         std::any_of(name.begin(), name.end(), base::is_lower);
}

bool is_at_or_below(std::string_view path, std::string_view directory) {
  return path.starts_with(directory) && (path.size() == directory.size() || path[directory.size()] == '/');
}

/// A tag or an annotation may hold bytes that are no text; JSON cannot.
std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

Json tags_json(const SandboxSpec& spec) {
  Json tags = Json::array();
  for (const auto& tag : spec.tags) tags.push_back(tag);
  return tags;
}

bool annotations_fit(const SandboxSpec& spec) {
  std::size_t bytes = kMaxRecord + 1024 + dump(tags_json(spec)).size();  // beside the names and the key
  for (const auto& [name, value] : spec.annotations) {
    if (!is_qualified_name(name)) return false;
    bytes += kUserAnnotationPrefix.size() + name.size() + value.size();
  }
  return bytes <= kMaxAnnotations;
}

Json metadata(const SandboxSpec& spec, const PodOptions& options) {
  Json labels = Json::object();
  for (const auto& [name, value] : options.labels) labels[name] = value;
  labels[std::string(kManagedByLabel)] = kManager;
  labels[std::string(kSandboxLabel)] = spec.id;
  Json out = Json::object();
  out["name"] = object_name(spec.id);
  out["namespace"] = options.name_space;
  out["labels"] = std::move(labels);
  return out;
}

Json annotations(const SandboxSpec& spec, const std::string& key, const PodOptions& options) {
  Json out = Json::object();
  for (const auto& [name, value] : spec.annotations) out[std::string(kUserAnnotationPrefix) + name] = value;
  if (!spec.tags.empty()) out[std::string(kTagsAnnotation)] = dump(tags_json(spec));
  out[std::string(kRecordAnnotation)] = spec.record;
  if (options.plain) {
    out[std::string(kAgentAnnotation)] = kNoAgent;
  } else {
    out[std::string(kKeyAnnotation)] = key;
  }
  return out;
}

// ---- volumes ----

Json empty_directory(const std::string& name, const std::optional<std::uint64_t>& size, bool in_memory) {
  Json directory = Json::object();
  if (size) directory["sizeLimit"] = std::to_string(*size);
  if (in_memory) directory["medium"] = "Memory";
  Json out = Json::object();
  out["name"] = name;
  out["emptyDir"] = std::move(directory);
  return out;
}

Json mount(const std::string& volume, std::string_view path) {
  Json out = Json::object();
  out["name"] = volume;
  out["mountPath"] = path;
  return out;
}

/// Those of the sandbox's own directories that it has not put a volume of its own at.
std::vector<OwnDirectory> own_directories(const SandboxSpec& spec) {
  std::vector<OwnDirectory> out;
  for (const OwnDirectory& own : kOwnDirectories) {
    const auto is_here = [&own](const VolumeMount& mounted) { return mounted.path == own.path; };
    if (std::none_of(spec.mounts.begin(), spec.mounts.end(), is_here)) out.push_back(own);
  }
  return out;
}

Json volumes(const SandboxSpec& spec, const PodOptions& options) {
  Json out = Json::array();
  if (!options.plain) {
    Json agent = empty_directory(kAgentVolume, std::nullopt, true);
    agent["emptyDir"]["sizeLimit"] = kAgentVolumeSize;
    out.push_back(std::move(agent));
  }
  for (const OwnDirectory& own : own_directories(spec)) out.push_back(empty_directory(own.volume, options.*own.size, false));
  for (const ScratchVolume& volume : spec.volumes) {
    const auto size = volume.size_limit ? volume.size_limit : options.max_volume_size;
    out.push_back(empty_directory(volume.name, size, volume.in_memory));
  }
  return out;
}

Json mounts(const SandboxSpec& spec, const PodOptions& options) {
  Json out = Json::array();
  if (!options.plain) {
    out.push_back(mount(kAgentVolume, kAgentDirectory));
    out.back()["readOnly"] = true;
  }
  for (const OwnDirectory& own : own_directories(spec)) out.push_back(mount(own.volume, own.path));
  for (const VolumeMount& wanted : spec.mounts) {
    Json one = mount(wanted.volume, wanted.path);
    if (!wanted.sub_path.empty()) one["subPath"] = wanted.sub_path;
    if (wanted.read_only) one["readOnly"] = true;
    out.push_back(std::move(one));
  }
  return out;
}

// ---- containers ----

/// What the "restricted" level of the Pod Security Standards asks of a container.
Json security_context() {
  Json out = Json::object();
  out["allowPrivilegeEscalation"] = false;
  out["readOnlyRootFilesystem"] = true;
  out["capabilities"]["drop"] = Json::array({"ALL"});
  return out;
}

Json resources(const SandboxSpec& spec, const PodOptions& options) {
  Json limits = Json::object(), requests = Json::object();
  const auto put = [&](const char* name, const auto& limit, const auto& request, const auto& most, const auto& otherwise,
                       const char* unit) {
    // What asks for a request alone has a limit all the same, and one that asks for a limit alone has that set aside.
    const auto bound = limit ? limit : most;
    const auto aside = request || limit ? request : otherwise;
    if (bound) limits[name] = std::to_string(*bound) + unit;
    if (aside) requests[name] = std::to_string(bound ? std::min(*aside, *bound) : *aside) + unit;
  };
  const ResourceSpec& asked = spec.resources;
  const ResourceSpec& given = options.resources;
  put("memory", asked.memory_limit, asked.memory_request, given.memory_limit, given.memory_request, "");
  put("cpu", asked.cpu_limit, asked.cpu_request, given.cpu_limit, given.cpu_request, "m");
  if (asked.gpus > 0) {
    const std::string& name = options.gpu_resources.at(asked.gpu_type);
    limits[name] = requests[name] = std::to_string(asked.gpus);  // of extended resources both, and alike
  }
  Json out = Json::object();
  if (!limits.empty()) out["limits"] = std::move(limits);
  if (!requests.empty()) out["requests"] = std::move(requests);
  return out;
}

Json agent_container(const PodOptions& options) {
  Json out = Json::object();
  out["name"] = kAgentContainer;
  out["image"] = options.agent_image;
  if (!options.agent_pull_policy.empty()) out["imagePullPolicy"] = options.agent_pull_policy;
  out["args"] = Json::array({"install", kAgentDirectory});
  // The volume is memory, and counts as that of who writes it.
  out["resources"]["requests"] = {{"cpu", "10m"}, {"memory", "32Mi"}};
  out["resources"]["limits"] = {{"cpu", "1"}, {"memory", "64Mi"}};
  out["securityContext"] = security_context();
  out["volumeMounts"] = Json::array({mount(kAgentVolume, kAgentDirectory)});
  return out;
}

/// How long the agent may take over the end of its sandbox. It needs some of the pod's grace to tell how that went.
std::chrono::milliseconds stop_grace(std::chrono::seconds of_pod) {
  constexpr std::chrono::seconds kToTell{5};
  return of_pod > 2 * kToTell ? std::chrono::milliseconds(of_pod - kToTell) : std::chrono::milliseconds(of_pod) / 2;
}

/// The cluster would put variables in for $(NAME), and takes $$ for a dollar.
std::string unexpanded(std::string_view text) {
  std::string out;
  for (const char c : text) out.append(c == '$' ? 2 : 1, c);
  return out;
}

Json main_container(const SandboxSpec& spec, const std::string& key, const PodOptions& options) {
  Json out = Json::object();
  out["name"] = kMainContainer;
  out["image"] = spec.image.empty() ? options.default_image : spec.image;
  if (!options.image_pull_policy.empty()) out["imagePullPolicy"] = options.image_pull_policy;
  Json command, env = Json::array();
  if (options.plain) {
    command = Json::array();
    for (const std::string& word : spec.command) command.push_back(unexpanded(word));
    out["workingDir"] = spec.working_dir.empty() ? kWorkspace : spec.working_dir;
    std::map<std::string, std::string> all = spec.env;
    all.emplace("HOME", kHome);
    for (const auto& [name, value] : all) env.push_back({{"name", name}, {"value", unexpanded(value)}});
  } else {
    command = Json::array(
        {kAgentProgram, "serve", "--key", key, "--stop-grace", std::to_string(stop_grace(options.termination_grace).count())});
  }
  for (const SecretVariable& variable : spec.secrets) {
    Json one = Json::object();
    one["name"] = variable.env_var;
    one["valueFrom"]["secretKeyRef"] = {{"name", variable.secret}, {"key", variable.key}};
    env.push_back(std::move(one));
  }
  out["command"] = std::move(command);
  if (!env.empty()) out["env"] = std::move(env);
  Json ports = Json::array();
  for (const ServicePort& port : spec.ports) {
    Json one = Json::object();
    one["containerPort"] = port.port;
    one["protocol"] = port.protocol == PortProtocol::udp ? "UDP" : "TCP";
    if (is_port_name(port.name)) one["name"] = port.name;
    ports.push_back(std::move(one));
  }
  if (!ports.empty()) out["ports"] = std::move(ports);
  if (Json wanted = resources(spec, options); !wanted.empty()) out["resources"] = std::move(wanted);
  out["securityContext"] = security_context();
  out["volumeMounts"] = mounts(spec, options);
  return out;
}

// ---- the network ----

Json policy_port(PortProtocol protocol, std::uint16_t first, std::uint16_t last) {
  Json out = Json::object();
  out["protocol"] = protocol == PortProtocol::udp ? "UDP" : "TCP";
  out["port"] = first;
  if (last != first) out["endPort"] = last;
  return out;
}

bool has_port_range(const std::vector<EgressRule>& rules) {
  const auto is_range = [](const PortRange& range) { return range.first != range.last; };
  return std::any_of(rules.begin(), rules.end(),
                     [&](const EgressRule& rule) { return std::any_of(rule.ports.begin(), rule.ports.end(), is_range); });
}

Json egress_rule(const Reachable& to) {
  const EgressRule& rule = to.rule;
  Json peer = Json::object();
  if (to.pods) {
    peer["namespaceSelector"] = Json::object();
  } else {
    Json block = Json::object();
    block["cidr"] = rule.cidr;
    if (!rule.except.empty()) block["except"] = rule.except;
    peer["ipBlock"] = std::move(block);
  }
  Json out = Json::object();
  out["to"] = Json::array({std::move(peer)});
  for (const PortRange& range : rule.ports) out["ports"].push_back(policy_port(range.protocol, range.first, range.last));
  return out;
}

/// What makes no sense, the gateway has another word for.
bool makes_sense(const EgressRule& rule) {
  return (rule.cidr.empty() || parse_block(rule.cidr)) && std::all_of(rule.ports.begin(), rule.ports.end(), [](const auto& range) {
           return range.first != 0 && range.first <= range.last;
         });
}

std::string at(const char* list, std::size_t index) { return std::string(list) + "[" + std::to_string(index) + "]"; }

/// Which of the resources are more than a sandbox may have.
void add_excessive(const ResourceSpec& asked, const ResourceSpec& most, std::vector<std::string>& names) {
  const auto check = [&names](const char* name, const auto& value, const auto& bound) {
    if (value && bound && *value > *bound) names.emplace_back(name);
  };
  check("resources.memory_limit", asked.memory_limit, most.memory_limit);
  check("resources.memory_request", asked.memory_request, most.memory_limit);
  check("resources.cpu_limit", asked.cpu_limit, most.cpu_limit);
  check("resources.cpu_request", asked.cpu_request, most.cpu_limit);
}

}  // namespace

void check_scheduling(const Json& fragment) {
  if (!fragment.is_object()) throw RunnerError(ErrorCode::invalid_argument, "", "the scheduling of pods must be a JSON object");
  for (const auto& [name, value] : fragment.items()) {
    if (std::find(kSchedulingMembers.begin(), kSchedulingMembers.end(), name) != kSchedulingMembers.end()) continue;
    throw RunnerError(ErrorCode::invalid_argument, "", "the scheduling of pods may not set \"" + name.substr(0, 64) + "\"");
  }
}

void check_label(const std::string& name, const std::string& value) {
  const auto refuse = [&](const char* why) {
    throw RunnerError(ErrorCode::invalid_argument, "", "the label \"" + name.substr(0, 64) + "\" " + why);
  };
  constexpr std::size_t kMaxPrefix = 253;
  const auto slash = name.find('/');
  const std::string_view prefix = slash == std::string::npos ? std::string_view() : std::string_view(name).substr(0, slash);
  const bool dns = std::all_of(prefix.begin(), prefix.end(),
                               [](char c) { return base::is_lower(c) || base::is_digit(c) || c == '-' || c == '.'; });
  const std::string_view last = slash == std::string::npos ? std::string_view(name) : std::string_view(name).substr(slash + 1);
  if (slash == 0 || !dns || prefix.size() > kMaxPrefix || !is_qualified_name(last)) refuse("has a name that is none");
  if (!value.empty() && !is_qualified_name(value)) refuse("has a value that is none");
  if (name == kManagedByLabel || name == kSandboxLabel) refuse("is set by the gateway");
}

std::vector<std::string> refused(const SandboxSpec& spec, const PodOptions& options) {
  std::vector<std::string> names;
  if (spec.image.empty() && options.default_image.empty()) names.emplace_back("image");
  if (options.plain && !spec.files.empty()) names.emplace_back("files");
  if (spec.resources.gpus > 0 && !options.gpu_resources.contains(spec.resources.gpu_type))
    names.emplace_back(spec.resources.gpu_type.empty() ? "resources.gpus" : "resources.gpu_type");
  add_excessive(spec.resources, options.resources, names);
  for (std::size_t i = 0; i < spec.volumes.size(); ++i) {
    if (spec.volumes[i].name.starts_with(kOwnVolumes)) names.push_back(at("volumes", i) + ".name");
    if (options.max_volume_size && spec.volumes[i].size_limit > options.max_volume_size)
      names.push_back(at("volumes", i) + ".size_limit");
  }
  const auto bad_mount = [](const VolumeMount& wanted) {
    return std::any_of(kReserved.begin(), kReserved.end(),
                       [&](std::string_view reserved) { return is_at_or_below(wanted.path, reserved); });
  };
  if (std::any_of(spec.mounts.begin(), spec.mounts.end(), bad_mount)) names.emplace_back("mounts");
  for (std::size_t i = 0; i < spec.secrets.size(); ++i) {
    if (options.secrets && !options.secrets->contains(spec.secrets[i].secret)) names.push_back(at("secrets", i));
  }
  if (spec.egress && (!options.network_policies || (!options.port_ranges && has_port_range(*spec.egress)))) {
    names.emplace_back("egress");
  } else if (spec.egress) {
    for (std::size_t i = 0; i < spec.egress->size(); ++i) {
      const EgressRule& rule = (*spec.egress)[i];
      if (makes_sense(rule) && !reach_within(rule, options.egress_ceiling)) names.push_back(at("egress", i));
    }
  }
  if (!spec.runtime_class.empty() && spec.runtime_class != options.runtime_class &&
      !options.runtime_classes.contains(spec.runtime_class))
    names.emplace_back("runtime_class");
  if (!annotations_fit(spec)) names.emplace_back("annotations");
  return names;
}

std::string object_name(const std::string& sandbox_id) {
  if (!base::is_dns_label(sandbox_id))
    throw RunnerError(ErrorCode::invalid_argument, "", "a sandbox's id must be a label of DNS to be the name of a pod");
  return sandbox_id;
}

Json make_pod(const SandboxSpec& spec, const std::string& key, const PodOptions& options) {
  Json pod = options.scheduling;
  pod["restartPolicy"] = "Never";
  pod["automountServiceAccountToken"] = false;
  pod["enableServiceLinks"] = false;
  pod["terminationGracePeriodSeconds"] = options.termination_grace.count();
  if (spec.max_lifetime) pod["activeDeadlineSeconds"] = (*spec.max_lifetime + kLifetimeSlack).count();
  if (const auto& name = spec.runtime_class.empty() ? options.runtime_class : spec.runtime_class; !name.empty())
    pod["runtimeClassName"] = name;
  for (const auto& name : options.image_pull_secrets) {
    Json one = Json::object();
    one["name"] = name;
    pod["imagePullSecrets"].push_back(std::move(one));
  }
  Json& security = pod["securityContext"];
  security["runAsNonRoot"] = true;
  security["runAsUser"] = options.run_as_user;
  security["runAsGroup"] = options.run_as_group;
  security["seccompProfile"]["type"] = "RuntimeDefault";
  if (!options.plain) pod["initContainers"] = Json::array({agent_container(options)});
  pod["containers"] = Json::array({main_container(spec, key, options)});
  pod["volumes"] = volumes(spec, options);

  Json out = Json::object();
  out["apiVersion"] = "v1";
  out["kind"] = "Pod";
  out["metadata"] = metadata(spec, options);
  out["metadata"]["annotations"] = annotations(spec, key, options);
  out["spec"] = std::move(pod);
  return out;
}

Json pod_as_owner(const SandboxSpec& spec, const std::string& pod_uid) {
  Json owner = Json::object();
  owner["apiVersion"] = "v1";
  owner["kind"] = "Pod";
  owner["name"] = object_name(spec.id);
  owner["uid"] = pod_uid;
  return owner;
}

std::optional<Json> make_network_policy(const SandboxSpec& spec, const std::optional<std::string>& pod_uid,
                                        const PodOptions& options) {
  if (!options.network_policies) return std::nullopt;
  Json policy = Json::object();
  policy["podSelector"]["matchLabels"][std::string(kSandboxLabel)] = spec.id;
  policy["policyTypes"] = Json::array({"Ingress"});
  policy["ingress"] = Json::array();
  if (!spec.ports.empty()) {
    Json rule = Json::object();
    for (const ServicePort& port : spec.ports) rule["ports"].push_back(policy_port(port.protocol, port.port, port.port));
    policy["ingress"].push_back(std::move(rule));
  }
  // Said in any case: where the namespace has a policy that lets nobody out, not to have one is to get nowhere.
  policy["policyTypes"].push_back("Egress");
  policy["egress"] = Json::array();
  for (const EgressRule& rule : spec.egress ? *spec.egress : options.egress) {
    const auto within = reach_within(rule, options.egress_ceiling);
    if (!within) continue;
    for (const Reachable& part : *within) policy["egress"].push_back(egress_rule(part));
  }
  Json out = Json::object();
  out["apiVersion"] = "networking.k8s.io/v1";
  out["kind"] = "NetworkPolicy";
  out["metadata"] = metadata(spec, options);
  if (pod_uid) out["metadata"]["ownerReferences"] = Json::array({pod_as_owner(spec, *pod_uid)});
  out["spec"] = std::move(policy);
  return out;
}

}  // namespace cwsandbox::runner::kubernetes
