/// \file
/// How to make a sandbox: SandboxOptions and the types of its parts.
///
/// Every type here is a value: it says what is wanted and checks nothing itself. `Sandbox::run` and `Session::sandbox` check
/// all of it at once and throw `std::invalid_argument` that names the option at fault (LC-20). What a server or runner cannot give,
/// it refuses; nothing is silently ignored.
///
/// \par Thread safety
/// As a `std::string`: distinct objects are safe, shared ones while nobody writes.
#pragma once

#include <cwsandbox/duration.hpp>
#include <cwsandbox/export.hpp>

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace cwsandbox {

// Each setter comes for an object that stays and for one that goes. The macros keep the second out of the page; nothing of them is
// left behind.
#define CWSANDBOX_DETAIL_SET(Class, name, Argument, member)                        \
  Class& with_##name(Argument value)& { return member = std::move(value), *this; } \
  Class&& with_##name(Argument value)&& { return member = std::move(value), std::move(*this); }
#define CWSANDBOX_DETAIL_ADD(Class, name, Argument, member)                                 \
  Class& with_##name(Argument value)& { return member.push_back(std::move(value)), *this; } \
  Class&& with_##name(Argument value)&& { return member.push_back(std::move(value)), std::move(*this); }
#define CWSANDBOX_DETAIL_PUT(Class, name, member)                            \
  Class& with_##name(std::string key, std::string value)& {                  \
    return member.insert_or_assign(std::move(key), std::move(value)), *this; \
  }                                                                          \
  Class&& with_##name(std::string key, std::string value)&& { return std::move(with_##name(std::move(key), std::move(value))); }

/// Graphics processors: how many, and which.
class CWSANDBOX_EXPORT Gpu {
 public:
  /// So many of them.
  explicit Gpu(std::int64_t how_many = 1) : count_(how_many) {}
  /// The kind, such as "H100".
  CWSANDBOX_DETAIL_SET(Gpu, type, std::string, type_)
  /// Any that has this much memory, instead of a type.
  CWSANDBOX_DETAIL_SET(Gpu, memory_gb, std::int64_t, memory_gb_)

  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] std::int64_t count() const noexcept { return count_; }
  [[nodiscard]] const std::string& type() const noexcept { return type_; }
  [[nodiscard]] const std::optional<std::int64_t>& memory_gb() const noexcept { return memory_gb_; }
  ///@}

 private:
  std::int64_t count_;
  std::string type_;
  std::optional<std::int64_t> memory_gb_;
};

/// Amounts of CPU and memory, as Kubernetes writes quantities: "500m", "2", "512Mi", "4G". Empty: the server's choice.
class CWSANDBOX_EXPORT ResourceAmounts {
 public:
  ResourceAmounts() {}
  /// Processors: "2", "500m".
  CWSANDBOX_DETAIL_SET(ResourceAmounts, cpu, std::string, cpu_)
  /// Memory: "512Mi", "4G".
  CWSANDBOX_DETAIL_SET(ResourceAmounts, memory, std::string, memory_)
  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] const std::string& cpu() const noexcept { return cpu_; }
  [[nodiscard]] const std::string& memory() const noexcept { return memory_; }
  ///@}

 private:
  std::string cpu_, memory_;
};

/// What a sandbox may use: what is set aside for it (requests) and what it must not exceed (limits).
class CWSANDBOX_EXPORT Resources {
 public:
  Resources() {}
  /// The flat form: requests and limits alike.
  Resources& with_cpu(std::string amount) & { return requests_.with_cpu(amount), limits_.with_cpu(std::move(amount)), *this; }
  Resources&& with_cpu(std::string amount) && { return std::move(with_cpu(std::move(amount))); }
  /// The same for memory.
  Resources& with_memory(std::string amount) & {
    return requests_.with_memory(amount), limits_.with_memory(std::move(amount)), *this;
  }
  Resources&& with_memory(std::string amount) && { return std::move(with_memory(std::move(amount))); }
  /// What is set aside for it.
  CWSANDBOX_DETAIL_SET(Resources, requests, ResourceAmounts, requests_)
  /// What it must not exceed.
  CWSANDBOX_DETAIL_SET(Resources, limits, ResourceAmounts, limits_)
  /// Graphics processors.
  CWSANDBOX_DETAIL_SET(Resources, gpu, Gpu, gpu_)

  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] const ResourceAmounts& requests() const noexcept { return requests_; }
  [[nodiscard]] const ResourceAmounts& limits() const noexcept { return limits_; }
  [[nodiscard]] const std::optional<Gpu>& gpu() const noexcept { return gpu_; }
  ///@}

 private:
  ResourceAmounts requests_, limits_;
  std::optional<Gpu> gpu_;
};

/// A file that is there when the sandbox starts. `path` is absolute.
class CWSANDBOX_EXPORT FileMount {
 public:
  /// Its path and its content.
  FileMount(std::string path, std::string content) : path_(std::move(path)), content_(std::move(content)) {}
  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] const std::string& content() const noexcept { return content_; }
  ///@}

 private:
  std::string path_, content_;
};

/// A value of a secret store as an environment variable. The value itself never passes through this client.
class CWSANDBOX_EXPORT Secret {
 public:
  /// From its place in a store.
  /// \param store,name which secret; the variable bears its name unless `with_env_var` says otherwise.
  Secret(std::string store, std::string name) : store_(std::move(store)), name_(std::move(name)), env_var_(name_) {}
  /// Which part of a secret that has several.
  CWSANDBOX_DETAIL_SET(Secret, field, std::string, field_)
  /// The variable that holds it.
  CWSANDBOX_DETAIL_SET(Secret, env_var, std::string, env_var_)
  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] const std::string& store() const noexcept { return store_; }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] const std::string& field() const noexcept { return field_; }
  [[nodiscard]] const std::string& env_var() const noexcept { return env_var_; }
  ///@}
  friend bool operator==(const Secret&, const Secret&) = default;

 private:
  std::string store_, name_, field_, env_var_;
};

/// How to get an image from a registry that wants credentials; they stay in the secret store.
class CWSANDBOX_EXPORT ImagePullCredentials {
 public:
  /// Which registry, and which secret has the credentials.
  ImagePullCredentials(std::string registry, std::string store, std::string name)
      : registry_(std::move(registry)), store_(std::move(store)), name_(std::move(name)) {}
  /// A part of a secret that has several.
  CWSANDBOX_DETAIL_SET(ImagePullCredentials, field, std::string, field_)
  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] const std::string& registry() const noexcept { return registry_; }
  [[nodiscard]] const std::string& store() const noexcept { return store_; }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] const std::string& field() const noexcept { return field_; }
  ///@}

 private:
  std::string registry_, store_, name_, field_;
};

/// Where scratch space is.
enum class StorageMedium : std::uint8_t {
  unspecified,  ///< as the runner has it
  disk,         ///< on a disk
  memory        ///< in memory, which counts as the sandbox's
};

/// A directory of its own: scratch space that goes with the sandbox, or a volume that exists.
class CWSANDBOX_EXPORT Volume {
 public:
  /// Scratch space that goes with the sandbox.
  /// \param mount_path absolute, not "/"
  [[nodiscard]] static Volume scratch(std::string name, std::string mount_path) {
    return Volume(std::move(name), std::move(mount_path), std::nullopt);
  }
  /// One that exists, by its id.
  [[nodiscard]] static Volume existing(std::string volume_id, std::string name, std::string mount_path) {
    return Volume(std::move(name), std::move(mount_path), std::move(volume_id));
  }
  /// Nobody in the sandbox may write to it.
  CWSANDBOX_DETAIL_SET(Volume, read_only, bool, read_only_)
  /// Mounts only this directory of it, a relative path.
  CWSANDBOX_DETAIL_SET(Volume, sub_path, std::string, sub_path_)
  /// How much it may hold, such as "1Gi"; scratch only.
  CWSANDBOX_DETAIL_SET(Volume, size, std::string, size_)
  /// Where it is kept; scratch only.
  CWSANDBOX_DETAIL_SET(Volume, medium, StorageMedium, medium_)
  /// Begins with what a snapshot holds; scratch only.
  CWSANDBOX_DETAIL_SET(Volume, snapshot, std::string, snapshot_)

  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] const std::string& mount_path() const noexcept { return mount_path_; }
  [[nodiscard]] const std::optional<std::string>& volume_id() const noexcept { return volume_id_; }
  [[nodiscard]] bool read_only() const noexcept { return read_only_; }
  [[nodiscard]] const std::string& sub_path() const noexcept { return sub_path_; }
  [[nodiscard]] const std::string& size() const noexcept { return size_; }
  [[nodiscard]] StorageMedium medium() const noexcept { return medium_; }
  [[nodiscard]] const std::string& snapshot() const noexcept { return snapshot_; }
  ///@}

 private:
  Volume(std::string name, std::string mount_path, std::optional<std::string> volume_id)
      : name_(std::move(name)), mount_path_(std::move(mount_path)), volume_id_(std::move(volume_id)) {}
  std::string name_, mount_path_;
  std::optional<std::string> volume_id_;
  bool read_only_ = false;
  std::string sub_path_, size_;
  StorageMedium medium_ = StorageMedium::unspecified;
  std::string snapshot_;
};

/// What a port speaks.
enum class ServiceProtocol : std::uint8_t {
  unspecified,  ///< TCP
  tcp,          ///< TCP
  udp,          ///< UDP
  sctp          ///< SCTP
};
/// Who may reach a port.
enum class Visibility : std::uint8_t {
  unspecified,  ///< as the service has it
  public_,      ///< everybody
  private_,     ///< not the public
  custom        ///< by a policy of the runner's own
};
/// What kind of address a port gets on the outside.
enum class EndpointKind : std::uint8_t {
  unspecified,     ///< as the service has it
  https,           ///< an address for HTTPS, whose TLS ends before the sandbox
  tls_passthrough  ///< an address whose TLS ends in the sandbox
};
/// Who may use that address.
enum class EndpointAuth : std::uint8_t {
  unspecified,  ///< as the service has it
  open,         ///< everybody
  token         ///< who brings a token of the service's
};

/// A port of the sandbox that others can reach.
class CWSANDBOX_EXPORT Service {
 public:
  /// At a port, 1 to 65535.
  explicit Service(int port) : port_(port) {}
  /// Its name.
  CWSANDBOX_DETAIL_SET(Service, name, std::string, name_)
  /// What it speaks.
  CWSANDBOX_DETAIL_SET(Service, protocol, ServiceProtocol, protocol_)
  /// Who may reach it.
  CWSANDBOX_DETAIL_SET(Service, visibility, Visibility, visibility_)
  /// An address for it on the outside. Needs visibility public and protocol TCP (or none said).
  Service& with_endpoint(EndpointKind kind = EndpointKind::https, EndpointAuth auth = EndpointAuth::open) & {
    return endpoint_kind_ = kind, endpoint_auth_ = auth, *this;
  }
  Service&& with_endpoint(EndpointKind kind = EndpointKind::https, EndpointAuth auth = EndpointAuth::open) && {
    return std::move(with_endpoint(kind, auth));
  }
  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] int port() const noexcept { return port_; }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] ServiceProtocol protocol() const noexcept { return protocol_; }
  [[nodiscard]] Visibility visibility() const noexcept { return visibility_; }
  ///@}
  /// Whether it has an address on the outside.
  [[nodiscard]] bool has_endpoint() const noexcept { return endpoint_kind_ != EndpointKind::unspecified; }
  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] EndpointKind endpoint_kind() const noexcept { return endpoint_kind_; }
  [[nodiscard]] EndpointAuth endpoint_auth() const noexcept { return endpoint_auth_; }
  ///@}

 private:
  int port_;
  std::string name_;
  ServiceProtocol protocol_ = ServiceProtocol::unspecified;
  Visibility visibility_ = Visibility::unspecified;
  EndpointKind endpoint_kind_ = EndpointKind::unspecified;
  EndpointAuth endpoint_auth_ = EndpointAuth::unspecified;
};

/// A port or a range of them.
class CWSANDBOX_EXPORT PortRange {
 public:
  /// One port.
  explicit PortRange(int port) : first_(port), last_(port) {}
  /// From the first to the last.
  PortRange(int first, int last) : first_(first), last_(last) {}
  /// "TCP" or "UDP"; unset: the server's choice.
  CWSANDBOX_DETAIL_SET(PortRange, protocol, std::string, protocol_)
  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] int first() const noexcept { return first_; }
  [[nodiscard]] int last() const noexcept { return last_; }
  [[nodiscard]] const std::string& protocol() const noexcept { return protocol_; }
  ///@}

 private:
  int first_, last_;
  std::string protocol_;
};

/// Whose sandboxes.
enum class TenantScope : std::uint8_t {
  unspecified,     ///< as the service has it
  same_user,       ///< those of the same user
  same_org,        ///< those of the same organisation
  sandbox_network  ///< those on the same network of sandboxes
};

/// A peer that may be reached (egress), or that may reach the sandbox (ingress).
class CWSANDBOX_EXPORT NetworkRule {
 public:
  /// Labels of a cluster, by name.
  using Labels = std::map<std::string, std::string>;
  /// How a rule says who it is about.
  enum class Peer : std::uint8_t {
    any,       ///< everybody: any()
    block,     ///< addresses: block()
    name,      ///< a DNS name: name()
    tenant,    ///< other sandboxes: tenant()
    selector,  ///< labels of a cluster: selector()
  };

  /// Anybody.
  [[nodiscard]] static NetworkRule any() { return NetworkRule(Peer::any); }
  /// Addresses, as "10.0.0.0/8", without some.
  [[nodiscard]] static NetworkRule block(std::string cidr, std::vector<std::string> except = {}) {
    NetworkRule rule(Peer::block);
    rule.value_ = std::move(cidr), rule.except_ = std::move(except);
    return rule;
  }
  /// A DNS name, or all below one ("*.pypi.org"); egress only.
  [[nodiscard]] static NetworkRule name(std::string dns_name) {
    NetworkRule rule(Peer::name);
    rule.value_ = std::move(dns_name);
    return rule;
  }
  /// Sandboxes of the same user, organisation or network.
  [[nodiscard]] static NetworkRule tenant(TenantScope scope) {
    NetworkRule rule(Peer::tenant);
    rule.scope_ = scope;
    return rule;
  }
  /// By labels of a cluster; egress only.
  [[nodiscard]] static NetworkRule selector(Labels pods, Labels namespaces) {
    NetworkRule rule(Peer::selector);
    rule.pods_ = std::move(pods), rule.namespaces_ = std::move(namespaces);
    return rule;
  }
  /// Only these ports.
  CWSANDBOX_DETAIL_ADD(NetworkRule, port, PortRange, ports_)

  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] Peer peer() const noexcept { return peer_; }
  [[nodiscard]] const std::string& value() const noexcept { return value_; }
  [[nodiscard]] const std::vector<std::string>& except() const noexcept { return except_; }
  [[nodiscard]] TenantScope scope() const noexcept { return scope_; }
  [[nodiscard]] const Labels& pods() const noexcept { return pods_; }
  [[nodiscard]] const Labels& namespaces() const noexcept { return namespaces_; }
  [[nodiscard]] const std::vector<PortRange>& ports() const noexcept { return ports_; }
  ///@}

 private:
  explicit NetworkRule(Peer peer) : peer_(peer) {}
  Peer peer_;
  std::string value_;
  std::vector<std::string> except_;
  TenantScope scope_ = TenantScope::unspecified;
  Labels pods_, namespaces_;
  std::vector<PortRange> ports_;
};

/// What a sandbox may reach, and what may reach it.
class CWSANDBOX_EXPORT NetworkOptions {
 public:
  NetworkOptions() {}
  /// A peer that may be reached; with one, only those given may.
  CWSANDBOX_DETAIL_ADD(NetworkOptions, egress, NetworkRule, egress_)
  /// The same as `with_egress(NetworkRule::name(value))`.
  NetworkOptions& with_egress_name(std::string value) & { return with_egress(NetworkRule::name(std::move(value))); }
  NetworkOptions&& with_egress_name(std::string value) && { return std::move(with_egress_name(std::move(value))); }
  /// A peer that may reach the sandbox.
  CWSANDBOX_DETAIL_ADD(NetworkOptions, ingress, NetworkRule, ingress_)
  /// Nothing may be reached; excludes a list.
  CWSANDBOX_DETAIL_SET(NetworkOptions, deny_egress, bool, deny_egress_)
  /// Nothing may reach it; excludes a list.
  CWSANDBOX_DETAIL_SET(NetworkOptions, deny_ingress, bool, deny_ingress_)
  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] const std::vector<NetworkRule>& egress() const noexcept { return egress_; }
  [[nodiscard]] const std::vector<NetworkRule>& ingress() const noexcept { return ingress_; }
  [[nodiscard]] const std::optional<bool>& deny_egress() const noexcept { return deny_egress_; }
  [[nodiscard]] const std::optional<bool>& deny_ingress() const noexcept { return deny_ingress_; }
  ///@}

 private:
  std::vector<NetworkRule> egress_, ingress_;
  std::optional<bool> deny_egress_, deny_ingress_;
};

/// As whom and with what rights the container runs; what is unset is the server's choice.
class CWSANDBOX_EXPORT SecurityContext {
 public:
  SecurityContext() {}
  /// The user's number.
  CWSANDBOX_DETAIL_SET(SecurityContext, run_as_user, std::uint32_t, run_as_user_)
  /// The group's number.
  CWSANDBOX_DETAIL_SET(SecurityContext, run_as_group, std::uint32_t, run_as_group_)
  /// With all rights of the machine.
  CWSANDBOX_DETAIL_SET(SecurityContext, privileged, bool, privileged_)
  /// Whether a process may get more rights than the one that started it.
  CWSANDBOX_DETAIL_SET(SecurityContext, allow_privilege_escalation, bool, allow_privilege_escalation_)
  /// Nobody may write to the image's files.
  CWSANDBOX_DETAIL_SET(SecurityContext, read_only_root_filesystem, bool, read_only_root_filesystem_)
  /// A capability in addition to those that are usual.
  CWSANDBOX_DETAIL_ADD(SecurityContext, capability_added, std::string, capabilities_add_)
  /// One of the usual capabilities less.
  CWSANDBOX_DETAIL_ADD(SecurityContext, capability_dropped, std::string, capabilities_drop_)
  /// The name of a system call filter.
  CWSANDBOX_DETAIL_SET(SecurityContext, seccomp_profile, std::string, seccomp_profile_)
  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] const std::optional<std::uint32_t>& run_as_user() const noexcept { return run_as_user_; }
  [[nodiscard]] const std::optional<std::uint32_t>& run_as_group() const noexcept { return run_as_group_; }
  [[nodiscard]] const std::optional<bool>& privileged() const noexcept { return privileged_; }
  [[nodiscard]] const std::optional<bool>& allow_privilege_escalation() const noexcept { return allow_privilege_escalation_; }
  [[nodiscard]] const std::optional<bool>& read_only_root_filesystem() const noexcept { return read_only_root_filesystem_; }
  [[nodiscard]] const std::vector<std::string>& capabilities_added() const noexcept { return capabilities_add_; }
  [[nodiscard]] const std::vector<std::string>& capabilities_dropped() const noexcept { return capabilities_drop_; }
  [[nodiscard]] const std::string& seccomp_profile() const noexcept { return seccomp_profile_; }
  ///@}

 private:
  std::optional<std::uint32_t> run_as_user_, run_as_group_;
  std::optional<bool> privileged_, allow_privilege_escalation_, read_only_root_filesystem_;
  std::vector<std::string> capabilities_add_, capabilities_drop_;
  std::string seccomp_profile_;
};

/// Where the public service places a sandbox.
enum class SandboxMode : std::uint8_t {
  unspecified,  ///< the service chooses
  serverless,   ///< on machines of the service's own
  cks           ///< on a Kubernetes cluster of the user's (CKS)
};

/// How to make a sandbox. What is unset is the server's choice.
class CWSANDBOX_EXPORT SandboxOptions {
 public:
  /// Names and values.
  using Map = std::map<std::string, std::string>;

  SandboxOptions() {}

  /// Image; unset: the server's default (locally `host`, the system directories of this machine).
  CWSANDBOX_DETAIL_SET(SandboxOptions, image, std::string, image_)
  /// The main command: the sandbox ends with it. Unset: it waits until it is stopped.
  CWSANDBOX_DETAIL_SET(SandboxOptions, command, std::vector<std::string>, command_)
  /// Adds a variable for the main command and every process.
  CWSANDBOX_DETAIL_PUT(SandboxOptions, env, env_)
  /// These, instead of what was added so far.
  CWSANDBOX_DETAIL_SET(SandboxOptions, env, Map, env_)
  /// Working directory, absolute.
  CWSANDBOX_DETAIL_SET(SandboxOptions, working_dir, std::string, working_dir_)
  /// Adds a tag, to find it by.
  CWSANDBOX_DETAIL_ADD(SandboxOptions, tag, std::string, tags_)
  /// These, instead of what was added so far.
  CWSANDBOX_DETAIL_SET(SandboxOptions, tags, std::vector<std::string>, tags_)
  /// Adds an annotation.
  CWSANDBOX_DETAIL_PUT(SandboxOptions, annotation, annotations_)
  /// These, instead of what was added so far.
  CWSANDBOX_DETAIL_SET(SandboxOptions, annotations, Map, annotations_)
  ///@{
  /// The server stops the sandbox after this long, in whole seconds, rounded up; 1 s to 2^31 s.
  SandboxOptions& with_max_lifetime(Duration lifetime) & {
    return max_lifetime_ = detail::to_seconds(lifetime, "maximum lifetime"), *this;
  }
  SandboxOptions&& with_max_lifetime(Duration lifetime) && { return std::move(with_max_lifetime(lifetime)); }
  ///@}
  /// CPU, memory and graphics processors.
  CWSANDBOX_DETAIL_SET(SandboxOptions, resources, Resources, resources_)
  /// A file that is there at the start.
  CWSANDBOX_DETAIL_ADD(SandboxOptions, file, FileMount, files_)
  /// Adds a secret.
  CWSANDBOX_DETAIL_ADD(SandboxOptions, secret, Secret, secrets_)
  /// These, instead of what was added so far.
  CWSANDBOX_DETAIL_SET(SandboxOptions, secrets, std::vector<Secret>, secrets_)
  /// Adds a directory of its own.
  CWSANDBOX_DETAIL_ADD(SandboxOptions, volume, Volume, volumes_)
  /// Adds a port that others can reach.
  CWSANDBOX_DETAIL_ADD(SandboxOptions, service, Service, services_)
  /// What it may reach, and what may reach it.
  CWSANDBOX_DETAIL_SET(SandboxOptions, network, NetworkOptions, network_)
  /// For an image whose registry wants them.
  CWSANDBOX_DETAIL_SET(SandboxOptions, image_pull_credentials, ImagePullCredentials, image_pull_credentials_)
  /// As whom and with what rights it runs.
  CWSANDBOX_DETAIL_SET(SandboxOptions, security_context, SecurityContext, security_context_)
  /// Adds a runner; with any, only those given are used.
  CWSANDBOX_DETAIL_ADD(SandboxOptions, runner_id, std::string, runner_ids_)
  /// These, instead of what was added so far.
  CWSANDBOX_DETAIL_SET(SandboxOptions, runner_ids, std::vector<std::string>, runner_ids_)
  /// The kind of machine that it runs on.
  CWSANDBOX_DETAIL_SET(SandboxOptions, instance_type, std::string, instance_type_)
  /// Where the public service places it.
  CWSANDBOX_DETAIL_SET(SandboxOptions, mode, SandboxMode, mode_)
  /// How the cluster runs its containers.
  CWSANDBOX_DETAIL_SET(SandboxOptions, runtime_class, std::string, runtime_class_)

  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] const std::string& image() const noexcept { return image_; }
  [[nodiscard]] const std::vector<std::string>& command() const noexcept { return command_; }
  [[nodiscard]] const Map& env() const noexcept { return env_; }
  [[nodiscard]] const std::optional<std::string>& working_dir() const noexcept { return working_dir_; }
  [[nodiscard]] const std::vector<std::string>& tags() const noexcept { return tags_; }
  [[nodiscard]] const Map& annotations() const noexcept { return annotations_; }
  [[nodiscard]] const std::optional<std::chrono::seconds>& max_lifetime() const noexcept { return max_lifetime_; }
  [[nodiscard]] const std::optional<Resources>& resources() const noexcept { return resources_; }
  [[nodiscard]] const std::vector<FileMount>& files() const noexcept { return files_; }
  [[nodiscard]] const std::vector<Secret>& secrets() const noexcept { return secrets_; }
  [[nodiscard]] const std::vector<Volume>& volumes() const noexcept { return volumes_; }
  [[nodiscard]] const std::vector<Service>& services() const noexcept { return services_; }
  [[nodiscard]] const std::optional<NetworkOptions>& network() const noexcept { return network_; }
  [[nodiscard]] const std::optional<ImagePullCredentials>& image_pull_credentials() const noexcept {
    return image_pull_credentials_;
  }
  [[nodiscard]] const std::optional<SecurityContext>& security_context() const noexcept { return security_context_; }
  [[nodiscard]] const std::vector<std::string>& runner_ids() const noexcept { return runner_ids_; }
  [[nodiscard]] const std::string& instance_type() const noexcept { return instance_type_; }
  [[nodiscard]] SandboxMode mode() const noexcept { return mode_; }
  [[nodiscard]] const std::string& runtime_class() const noexcept { return runtime_class_; }
  ///@}

 private:
  friend class SandboxDefaults;
  std::string image_;
  std::vector<std::string> command_;
  Map env_;
  std::optional<std::string> working_dir_;
  std::vector<std::string> tags_;
  Map annotations_;
  std::optional<std::chrono::seconds> max_lifetime_;
  std::optional<Resources> resources_;
  std::vector<FileMount> files_;
  std::vector<Secret> secrets_;
  std::vector<Volume> volumes_;
  std::vector<Service> services_;
  std::optional<NetworkOptions> network_;
  std::optional<ImagePullCredentials> image_pull_credentials_;
  std::optional<SecurityContext> security_context_;
  std::vector<std::string> runner_ids_;
  std::string instance_type_, runtime_class_;
  SandboxMode mode_ = SandboxMode::unspecified;
};

#undef CWSANDBOX_DETAIL_SET
#undef CWSANDBOX_DETAIL_ADD
#undef CWSANDBOX_DETAIL_PUT

}  // namespace cwsandbox
