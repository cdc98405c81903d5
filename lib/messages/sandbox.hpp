// coreweave.sandbox.v1, sandbox.proto: sandboxes, and what one is asked to be. In the structs, fields have the names that the API
// gives them; their numbers and bounds are in the tables of the source file.
#pragma once

#include "messages/fields.hpp"

namespace cwsandbox::messages {

enum class SandboxMode : std::uint8_t { unspecified, serverless, cks };
[[nodiscard]] const EnumType& describe(SandboxMode) noexcept;

enum class State : std::uint8_t {
  unspecified,
  creating,
  running,
  completed,
  failed,
  terminating,
  terminated,
  pending,
  paused,
  preparing
};
[[nodiscard]] const EnumType& describe(State) noexcept;
/// COMPLETED, FAILED or TERMINATED: the state changes no more.
[[nodiscard]] constexpr bool is_terminal(State state) noexcept {
  return state == State::completed || state == State::failed || state == State::terminated;
}

enum class ServiceProtocol : std::uint8_t { unspecified, tcp, udp, sctp };
[[nodiscard]] const EnumType& describe(ServiceProtocol) noexcept;

enum class EndpointKind : std::uint8_t { unspecified, https, tls_passthrough };
[[nodiscard]] const EnumType& describe(EndpointKind) noexcept;

enum class EndpointAuth : std::uint8_t { unspecified, open, share_token };
[[nodiscard]] const EnumType& describe(EndpointAuth) noexcept;

enum class Visibility : std::uint8_t { unspecified, public_, private_, custom };
[[nodiscard]] const EnumType& describe(Visibility) noexcept;

enum class DnsEgressMode : std::uint8_t { unspecified, allow, deny };
[[nodiscard]] const EnumType& describe(DnsEgressMode) noexcept;

enum class TenantScope : std::uint8_t { unspecified, same_user, same_org, sandbox_network };
[[nodiscard]] const EnumType& describe(TenantScope) noexcept;

enum class StorageMedium : std::uint8_t { unspecified, disk, memory };
[[nodiscard]] const EnumType& describe(StorageMedium) noexcept;

enum class ObjectStoragePermission : std::uint8_t { unspecified, read, read_write };
[[nodiscard]] const EnumType& describe(ObjectStoragePermission) noexcept;

enum class Control : std::uint8_t { unspecified, platform, container_engine };
[[nodiscard]] const EnumType& describe(Control) noexcept;

enum class SortDirection : std::uint8_t { unspecified, descending, ascending };
[[nodiscard]] const EnumType& describe(SortDirection) noexcept;

enum class RuntimeClass : std::uint8_t { unspecified, cpu_default, cpu_nested_virt, cpu_snapshot_restore, gpu_default };
[[nodiscard]] const EnumType& describe(RuntimeClass) noexcept;

struct Gpu {
  std::int64_t count = 0;
  std::optional<std::string> type;
  std::optional<std::int64_t> memory_gb;

  static const Type kType;
};

struct Resources {
  std::string cpu;
  std::string memory;
  std::optional<Gpu> gpu;

  static const Type kType;
};

struct FileMount {
  std::string path;
  std::string content;

  static const Type kType;
};

struct VolumeMount {
  std::string volume;
  std::string mount_path;
  bool read_only = false;
  std::string sub_path;

  static const Type kType;
};

struct SecretMapping {
  std::string path;
  std::string field;
  std::string env_var;

  static const Type kType;
};

struct SecretStoreReference {
  std::string store_name;
  std::vector<SecretMapping> secrets;

  static const Type kType;
};

struct ResourceRequirements {
  std::optional<Resources> requests;
  std::optional<Resources> limits;

  static const Type kType;
};

struct SecurityContext {
  std::optional<std::uint32_t> run_as_user;
  std::optional<std::uint32_t> run_as_group;
  std::optional<bool> privileged;
  std::optional<bool> allow_privilege_escalation;
  std::optional<bool> read_only_root_filesystem;
  std::vector<std::string> capabilities_add;
  std::vector<std::string> capabilities_drop;
  std::string seccomp_profile;

  static const Type kType;
};

struct SecretSource {
  std::string store_name;
  std::string path;
  std::string field;

  static const Type kType;
};

struct ImagePullCredentials {
  std::string registry;
  std::optional<SecretSource> credentials;

  static const Type kType;
};

struct Probe {
  std::vector<std::string> exec;
  std::int32_t period_seconds = 0;
  std::int32_t timeout_seconds = 0;
  std::int32_t failure_threshold = 0;
  std::int32_t initial_delay_seconds = 0;

  static const Type kType;
};

struct Container {
  std::string name;
  std::string image;
  std::string command;
  std::vector<std::string> args;
  TextMap environment_variables;
  std::optional<Resources> resources;
  std::vector<FileMount> files;
  std::vector<VolumeMount> volume_mounts;
  std::vector<SecretStoreReference> secret_stores;
  std::string working_dir;
  std::optional<ResourceRequirements> resource_requirements;
  std::optional<SecurityContext> security_context;
  std::optional<ImagePullCredentials> image_pull_credentials;
  std::optional<bool> primary;
  std::optional<Probe> startup_probe;

  static const Type kType;
};

struct ScratchVolume {
  std::string size;
  StorageMedium medium = StorageMedium::unspecified;
  std::string restore_from_snapshot_id;

  static const Type kType;
};

struct SandboxVolume {
  std::string name;
  std::optional<ScratchVolume> scratch;
  std::optional<std::string> volume_id;

  static const Type kType;
};

struct EndpointSpec {
  EndpointKind kind = EndpointKind::unspecified;
  EndpointAuth auth = EndpointAuth::unspecified;
  std::int32_t request_timeout_seconds = 0;

  static const Type kType;
};

struct Service {
  std::int32_t port = 0;
  std::string name;
  ServiceProtocol protocol = ServiceProtocol::unspecified;
  Visibility visibility = Visibility::unspecified;
  std::optional<EndpointSpec> endpoint;

  static const Type kType;
};

struct ObjectStorageAccess {
  std::vector<std::string> buckets;
  ObjectStoragePermission permission = ObjectStoragePermission::unspecified;
  std::string object_prefix;

  static const Type kType;
};

struct CidrBlock {
  std::string cidr;
  std::vector<std::string> except;

  static const Type kType;
};

struct PortRange {
  std::string protocol;
  std::int32_t port = 0;
  std::int32_t end_port = 0;

  static const Type kType;
};

struct IngressRule {
  std::optional<CidrBlock> cidr;
  std::optional<TenantScope> tenant;
  std::optional<bool> any;
  std::vector<PortRange> ports;

  static const Type kType;
};

struct SelectorBlock {
  TextMap pod_labels;
  TextMap namespace_labels;

  static const Type kType;
};

struct EgressRule {
  std::optional<CidrBlock> cidr;
  std::optional<std::string> https_hostname;
  std::optional<TenantScope> tenant;
  std::optional<bool> any;
  std::optional<SelectorBlock> selector;
  std::vector<PortRange> ports;
  std::vector<std::string> https_hostname_except;

  static const Type kType;
};

struct NetworkOptions {
  std::vector<IngressRule> ingress;
  std::vector<EgressRule> egress;
  std::optional<bool> deny_egress;
  std::optional<bool> deny_ingress;
  DnsEgressMode dns_egress = DnsEgressMode::unspecified;

  static const Type kType;
};

struct SandboxSpec {
  std::vector<Container> containers;
  std::string primary_container;
  std::vector<SandboxVolume> volumes;
  std::vector<Service> services;
  std::int32_t max_lifetime_seconds = 0;
  std::vector<std::string> network_ids;
  std::optional<ObjectStorageAccess> object_storage_access;
  std::vector<std::string> tags;
  std::vector<std::string> runner_ids;
  std::optional<NetworkOptions> network;
  TextMap annotations;
  std::vector<Container> init_containers;
  std::string instance_type;
  SandboxMode mode = SandboxMode::unspecified;
  std::string runtime_class;
  std::string network_config_id;
  RuntimeClass runtime_class_selection = RuntimeClass::unspecified;

  static const Type kType;
};

struct EndpointStatus {
  EndpointKind kind = EndpointKind::unspecified;
  EndpointAuth auth = EndpointAuth::unspecified;
  std::string url;
  std::int32_t request_timeout_seconds = 0;
  std::string address;

  static const Type kType;
};

struct ServiceStatus {
  std::int32_t port = 0;
  std::string name;
  ServiceProtocol protocol = ServiceProtocol::unspecified;
  Visibility visibility = Visibility::unspecified;
  std::optional<EndpointStatus> endpoint;
  std::string url;

  static const Type kType;
};

struct ResourceUsage {
  std::int64_t cpu_millicores = 0;
  std::int64_t memory_mb = 0;
  std::int64_t gpu_count = 0;

  static const Type kType;
};

struct ContainerStatus {
  std::string name;
  State state = State::unspecified;
  std::int32_t exit_code = 0;
  std::int32_t restart_count = 0;

  static const Type kType;
};

struct SandboxStatus {
  State state = State::unspecified;
  std::string state_reason;
  Timestamp create_time;
  Timestamp start_time;
  Timestamp end_time;
  std::vector<ServiceStatus> services;
  std::optional<ResourceUsage> resource_usage;
  std::optional<std::int32_t> exit_code;
  std::optional<Resources> effective_resources;
  std::int32_t effective_max_lifetime_seconds = 0;
  std::vector<ContainerStatus> container_statuses;
  std::string runner_id;
  std::string runner_group_id;
  std::vector<IngressRule> effective_ingress;
  std::vector<EgressRule> effective_egress;
  std::optional<ResourceRequirements> effective_resource_requirements;
  std::vector<std::string> attached_volume_ids;
  std::string effective_runtime_class;
  DnsEgressMode effective_dns_egress = DnsEgressMode::unspecified;

  static const Type kType;
};

struct Sandbox {
  std::string sandbox_id;
  SandboxSpec spec;
  SandboxStatus status;
  std::string source_template_id;
  std::int64_t source_template_revision = 0;
  std::string display_name;
  std::string endpoint_share_token;
  Control control = Control::unspecified;

  static const Type kType;
};

struct PartialContainer {
  std::string name;
  std::string image;
  std::string command;
  std::vector<std::string> args;
  TextMap environment_variables;
  std::optional<Resources> resources;
  std::vector<FileMount> files;
  std::vector<VolumeMount> volume_mounts;
  std::vector<SecretStoreReference> secret_stores;
  std::string working_dir;
  std::optional<ResourceRequirements> resource_requirements;
  std::optional<SecurityContext> security_context;
  std::optional<ImagePullCredentials> image_pull_credentials;
  std::optional<bool> primary;
  std::optional<Probe> startup_probe;

  static const Type kType;
};

struct PartialSandboxSpec {
  std::vector<PartialContainer> containers;
  std::string primary_container;
  std::vector<SandboxVolume> volumes;
  std::vector<Service> services;
  std::int32_t max_lifetime_seconds = 0;
  std::vector<std::string> network_ids;
  std::optional<ObjectStorageAccess> object_storage_access;
  std::vector<std::string> tags;
  std::vector<std::string> runner_ids;
  std::optional<NetworkOptions> network;
  TextMap annotations;
  std::vector<PartialContainer> init_containers;
  std::string instance_type;
  SandboxMode mode = SandboxMode::unspecified;
  std::string runtime_class;
  std::string network_config_id;
  std::optional<RuntimeClass> runtime_class_selection;

  static const Type kType;
};

struct CreateSandboxRequest {
  Sandbox sandbox;
  std::string request_id;
  /// Paths of what was asked for and is not known here, in the parts where ignoring it would give something else than was asked for
  /// (volumes, mounts, secrets, services, GPUs, the network). Filled by reading.
  std::vector<std::string> unknown;

  static const Type kType;
};

struct CreateSandboxFromTemplateRequest {
  std::string template_id;
  std::optional<PartialSandboxSpec> overrides;
  std::string request_id;
  std::string display_name;

  static const Type kType;
};

struct GetSandboxRequest {
  std::string sandbox_id;

  static const Type kType;
};

struct ListSandboxesRequest {
  std::int32_t page_size = 0;
  std::string page_token;
  std::vector<std::string> tags;
  State state = State::unspecified;
  bool show_terminated = false;
  std::vector<std::string> runner_ids;
  std::vector<std::string> volume_ids;
  SortDirection sort_direction = SortDirection::unspecified;

  static const Type kType;
};

struct ListSandboxesResponse {
  std::vector<Sandbox> sandboxes;
  std::string next_page_token;

  static const Type kType;
};

struct DeleteSandboxRequest {
  std::string sandbox_id;
  std::int32_t grace_period_seconds = 0;
  std::vector<std::string> snapshot_volumes;
  std::string request_id;
  bool allow_missing = false;

  static const Type kType;
};

struct DeleteSandboxResponse {
  std::optional<Sandbox> sandbox;
  std::vector<std::string> file_system_snapshot_ids;

  static const Type kType;
};

struct PurgeSandboxesRequest {
  std::vector<std::string> tags;
  bool dry_run = false;
  std::string request_id;
  bool purge_all = false;

  static const Type kType;
};

struct PurgeSandboxesResponse {
  std::int32_t purge_count = 0;
  std::vector<std::string> failed_sandbox_ids;
  std::vector<std::string> retryable_failed_sandbox_ids;

  static const Type kType;
};

}  // namespace cwsandbox::messages
