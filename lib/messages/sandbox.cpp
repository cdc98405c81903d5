#include "messages/sandbox.hpp"

namespace cwsandbox::messages {
namespace {

constexpr std::array<std::string_view, 3> kSandboxModeNames = {"SANDBOX_MODE_UNSPECIFIED", "SANDBOX_MODE_SERVERLESS",
                                                               "SANDBOX_MODE_CKS"};
constexpr EnumType kSandboxMode{"coreweave.sandbox.v1.SandboxMode", kSandboxModeNames};

constexpr std::array<std::string_view, 10> kStateNames = {
    "STATE_UNSPECIFIED", "STATE_CREATING",   "STATE_RUNNING", "STATE_COMPLETED", "STATE_FAILED",
    "STATE_TERMINATING", "STATE_TERMINATED", "STATE_PENDING", "STATE_PAUSED",    "STATE_PREPARING"};
constexpr EnumType kState{"coreweave.sandbox.v1.State", kStateNames};

constexpr std::array<std::string_view, 4> kServiceProtocolNames = {"SERVICE_PROTOCOL_UNSPECIFIED", "SERVICE_PROTOCOL_TCP",
                                                                   "SERVICE_PROTOCOL_UDP", "SERVICE_PROTOCOL_SCTP"};
constexpr EnumType kServiceProtocol{"coreweave.sandbox.v1.ServiceProtocol", kServiceProtocolNames};

constexpr std::array<std::string_view, 3> kEndpointKindNames = {"ENDPOINT_KIND_UNSPECIFIED", "ENDPOINT_KIND_HTTPS",
                                                                "ENDPOINT_KIND_TLS_PASSTHROUGH"};
constexpr EnumType kEndpointKind{"coreweave.sandbox.v1.EndpointKind", kEndpointKindNames};

constexpr std::array<std::string_view, 3> kEndpointAuthNames = {"ENDPOINT_AUTH_UNSPECIFIED", "ENDPOINT_AUTH_OPEN",
                                                                "ENDPOINT_AUTH_SHARE_TOKEN"};
constexpr EnumType kEndpointAuth{"coreweave.sandbox.v1.EndpointAuth", kEndpointAuthNames};

constexpr std::array<std::string_view, 4> kVisibilityNames = {"VISIBILITY_UNSPECIFIED", "VISIBILITY_PUBLIC", "VISIBILITY_PRIVATE",
                                                              "VISIBILITY_CUSTOM"};
constexpr EnumType kVisibility{"coreweave.sandbox.v1.Visibility", kVisibilityNames};

constexpr std::array<std::string_view, 3> kDnsEgressModeNames = {"DNS_EGRESS_MODE_UNSPECIFIED", "DNS_EGRESS_MODE_ALLOW",
                                                                 "DNS_EGRESS_MODE_DENY"};
constexpr EnumType kDnsEgressMode{"coreweave.sandbox.v1.DNSEgressMode", kDnsEgressModeNames};

constexpr std::array<std::string_view, 4> kTenantScopeNames = {"TENANT_SCOPE_UNSPECIFIED", "TENANT_SCOPE_SAME_USER",
                                                               "TENANT_SCOPE_SAME_ORG", "TENANT_SCOPE_SANDBOX_NETWORK"};
constexpr EnumType kTenantScope{"coreweave.sandbox.v1.TenantScope", kTenantScopeNames};

constexpr std::array<std::string_view, 3> kStorageMediumNames = {"STORAGE_MEDIUM_UNSPECIFIED", "STORAGE_MEDIUM_DISK",
                                                                 "STORAGE_MEDIUM_MEMORY"};
constexpr EnumType kStorageMedium{"coreweave.sandbox.v1.StorageMedium", kStorageMediumNames};

constexpr std::array<std::string_view, 3> kObjectStoragePermissionNames = {
    "OBJECT_STORAGE_PERMISSION_UNSPECIFIED", "OBJECT_STORAGE_PERMISSION_READ", "OBJECT_STORAGE_PERMISSION_READ_WRITE"};
constexpr EnumType kObjectStoragePermission{"coreweave.sandbox.v1.ObjectStoragePermission", kObjectStoragePermissionNames};

constexpr std::array<std::string_view, 3> kControlNames = {"CONTROL_UNSPECIFIED", "CONTROL_PLATFORM", "CONTROL_CONTAINER_ENGINE"};
constexpr EnumType kControl{"coreweave.sandbox.v1.Control", kControlNames};

constexpr std::array<std::string_view, 3> kSortDirectionNames = {"SORT_DIRECTION_UNSPECIFIED", "SORT_DIRECTION_DESCENDING",
                                                                 "SORT_DIRECTION_ASCENDING"};
constexpr EnumType kSortDirection{"coreweave.sandbox.v1.SortDirection", kSortDirectionNames};

constexpr std::array<std::string_view, 5> kRuntimeClassNames = {"RUNTIME_CLASS_UNSPECIFIED", "RUNTIME_CLASS_CPU_DEFAULT",
                                                                "RUNTIME_CLASS_CPU_NESTED_VIRT",
                                                                "RUNTIME_CLASS_CPU_SNAPSHOT_RESTORE", "RUNTIME_CLASS_GPU_DEFAULT"};
constexpr EnumType kRuntimeClass{"coreweave.sandbox.v1.RuntimeClass", kRuntimeClassNames};

constexpr Field kGpu[] = {
    field<&Gpu::count>(1, "count"),
    field<&Gpu::type>(2, "type").one_of("selector"),
    field<&Gpu::memory_gb>(3, "memory_gb").one_of("selector"),
};

constexpr Field kResources[] = {
    field<&Resources::cpu>(1, "cpu"),
    field<&Resources::memory>(2, "memory"),
    field<&Resources::gpu>(3, "gpu"),
};

constexpr Field kFileMount[] = {
    field<&FileMount::path>(1, "path"),
    field<&FileMount::content>(2, "content").bytes(),
};

constexpr Field kVolumeMount[] = {
    field<&VolumeMount::volume>(1, "volume"),
    field<&VolumeMount::mount_path>(2, "mount_path"),
    field<&VolumeMount::read_only>(3, "read_only"),
    field<&VolumeMount::sub_path>(4, "sub_path"),
};

constexpr Field kSecretMapping[] = {
    field<&SecretMapping::path>(1, "path"),
    field<&SecretMapping::field>(2, "field"),
    field<&SecretMapping::env_var>(3, "env_var"),
};

constexpr Field kSecretStoreReference[] = {
    field<&SecretStoreReference::store_name>(1, "store_name"),
    field<&SecretStoreReference::secrets>(2, "secrets"),
};

constexpr Field kResourceRequirements[] = {
    field<&ResourceRequirements::requests>(1, "requests"),
    field<&ResourceRequirements::limits>(2, "limits"),
};

constexpr Field kSecurityContext[] = {
    field<&SecurityContext::run_as_user>(1, "run_as_user"),
    field<&SecurityContext::run_as_group>(2, "run_as_group"),
    field<&SecurityContext::privileged>(3, "privileged"),
    field<&SecurityContext::allow_privilege_escalation>(4, "allow_privilege_escalation"),
    field<&SecurityContext::read_only_root_filesystem>(5, "read_only_root_filesystem"),
    field<&SecurityContext::capabilities_add>(6, "capabilities_add"),
    field<&SecurityContext::capabilities_drop>(7, "capabilities_drop"),
    field<&SecurityContext::seccomp_profile>(8, "seccomp_profile"),
};

constexpr Field kSecretSource[] = {
    field<&SecretSource::store_name>(1, "store_name"),
    field<&SecretSource::path>(2, "path"),
    field<&SecretSource::field>(3, "field"),
};

constexpr Field kImagePullCredentials[] = {
    field<&ImagePullCredentials::registry>(1, "registry"),
    field<&ImagePullCredentials::credentials>(2, "credentials"),
};

constexpr Field kProbe[] = {
    field<&Probe::exec>(1, "exec"),
    field<&Probe::period_seconds>(2, "period_seconds"),
    field<&Probe::timeout_seconds>(3, "timeout_seconds"),
    field<&Probe::failure_threshold>(4, "failure_threshold"),
    field<&Probe::initial_delay_seconds>(5, "initial_delay_seconds"),
};

constexpr Field kContainer[] = {
    field<&Container::name>(1, "name"),
    field<&Container::image>(2, "image"),
    field<&Container::command>(3, "command"),
    field<&Container::args>(4, "args"),
    field<&Container::environment_variables>(5, "environment_variables"),
    field<&Container::resources>(6, "resources"),
    field<&Container::files>(7, "files"),
    field<&Container::volume_mounts>(8, "volume_mounts"),
    field<&Container::secret_stores>(9, "secret_stores"),
    field<&Container::working_dir>(10, "working_dir"),
    field<&Container::resource_requirements>(11, "resource_requirements"),
    field<&Container::security_context>(12, "security_context"),
    field<&Container::image_pull_credentials>(13, "image_pull_credentials"),
    field<&Container::primary>(14, "primary"),
    field<&Container::startup_probe>(15, "startup_probe"),
};

constexpr Field kScratchVolume[] = {
    field<&ScratchVolume::size>(1, "size"),
    field<&ScratchVolume::medium>(2, "medium"),
    field<&ScratchVolume::restore_from_snapshot_id>(3, "restore_from_snapshot_id"),
};

constexpr Field kSandboxVolume[] = {
    field<&SandboxVolume::name>(1, "name"),
    field<&SandboxVolume::scratch>(2, "scratch").one_of("source"),
    field<&SandboxVolume::volume_id>(3, "volume_id").one_of("source"),
};

constexpr Field kEndpointSpec[] = {
    field<&EndpointSpec::kind>(1, "kind"),
    field<&EndpointSpec::auth>(2, "auth"),
    field<&EndpointSpec::request_timeout_seconds>(3, "request_timeout_seconds"),
};

constexpr Field kService[] = {
    field<&Service::port>(1, "port"),         field<&Service::name>(2, "name"),
    field<&Service::protocol>(3, "protocol"), field<&Service::visibility>(4, "visibility"),
    field<&Service::endpoint>(5, "endpoint"),
};

constexpr Field kObjectStorageAccess[] = {
    field<&ObjectStorageAccess::buckets>(1, "buckets"),
    field<&ObjectStorageAccess::permission>(2, "permission"),
    field<&ObjectStorageAccess::object_prefix>(3, "object_prefix"),
};

constexpr Field kCidrBlock[] = {
    field<&CidrBlock::cidr>(1, "cidr"),
    field<&CidrBlock::except>(2, "except"),
};

constexpr Field kPortRange[] = {
    field<&PortRange::protocol>(1, "protocol"),
    field<&PortRange::port>(2, "port"),
    field<&PortRange::end_port>(3, "end_port"),
};

constexpr Field kIngressRule[] = {
    field<&IngressRule::cidr>(1, "cidr").one_of("source"),
    field<&IngressRule::tenant>(2, "tenant").one_of("source"),
    field<&IngressRule::any>(3, "any").one_of("source"),
    field<&IngressRule::ports>(4, "ports"),
};

constexpr Field kSelectorBlock[] = {
    field<&SelectorBlock::pod_labels>(1, "pod_labels"),
    field<&SelectorBlock::namespace_labels>(2, "namespace_labels"),
};

constexpr Field kEgressRule[] = {
    field<&EgressRule::cidr>(1, "cidr").one_of("destination"),
    field<&EgressRule::https_hostname>(2, "https_hostname").one_of("destination").formerly("dns_name"),
    field<&EgressRule::tenant>(3, "tenant").one_of("destination"),
    field<&EgressRule::any>(4, "any").one_of("destination"),
    field<&EgressRule::selector>(6, "selector").one_of("destination"),
    field<&EgressRule::ports>(5, "ports"),
    field<&EgressRule::https_hostname_except>(7, "https_hostname_except"),
};

constexpr Field kNetworkOptions[] = {
    field<&NetworkOptions::ingress>(1, "ingress"),         field<&NetworkOptions::egress>(2, "egress"),
    field<&NetworkOptions::deny_egress>(3, "deny_egress"), field<&NetworkOptions::deny_ingress>(4, "deny_ingress"),
    field<&NetworkOptions::dns_egress>(5, "dns_egress"),
};

constexpr Field kSandboxSpec[] = {
    field<&SandboxSpec::containers>(1, "containers"),
    field<&SandboxSpec::primary_container>(2, "primary_container"),
    field<&SandboxSpec::volumes>(3, "volumes"),
    field<&SandboxSpec::services>(4, "services"),
    field<&SandboxSpec::max_lifetime_seconds>(5, "max_lifetime_seconds"),
    field<&SandboxSpec::network_ids>(6, "network_ids"),
    field<&SandboxSpec::object_storage_access>(7, "object_storage_access"),
    field<&SandboxSpec::tags>(8, "tags"),
    field<&SandboxSpec::runner_ids>(9, "runner_ids"),
    field<&SandboxSpec::network>(10, "network"),
    field<&SandboxSpec::annotations>(11, "annotations"),
    field<&SandboxSpec::init_containers>(12, "init_containers"),
    field<&SandboxSpec::instance_type>(13, "instance_type"),
    field<&SandboxSpec::mode>(14, "mode"),
    field<&SandboxSpec::runtime_class>(15, "runtime_class"),
    field<&SandboxSpec::network_config_id>(16, "network_config_id"),
    field<&SandboxSpec::runtime_class_selection>(17, "runtime_class_selection"),
};

constexpr Field kEndpointStatus[] = {
    field<&EndpointStatus::kind>(1, "kind"),       field<&EndpointStatus::auth>(2, "auth"),
    field<&EndpointStatus::url>(3, "url"),         field<&EndpointStatus::request_timeout_seconds>(4, "request_timeout_seconds"),
    field<&EndpointStatus::address>(5, "address"),
};

constexpr Field kServiceStatus[] = {
    field<&ServiceStatus::port>(1, "port"),         field<&ServiceStatus::name>(2, "name"),
    field<&ServiceStatus::protocol>(3, "protocol"), field<&ServiceStatus::visibility>(4, "visibility"),
    field<&ServiceStatus::endpoint>(5, "endpoint"), field<&ServiceStatus::url>(6, "url"),
};

constexpr Field kResourceUsage[] = {
    field<&ResourceUsage::cpu_millicores>(1, "cpu_millicores"),
    field<&ResourceUsage::memory_mb>(2, "memory_mb"),
    field<&ResourceUsage::gpu_count>(3, "gpu_count"),
};

constexpr Field kContainerStatus[] = {
    field<&ContainerStatus::name>(1, "name"),
    field<&ContainerStatus::state>(2, "state"),
    field<&ContainerStatus::exit_code>(3, "exit_code"),
    field<&ContainerStatus::restart_count>(4, "restart_count"),
};

constexpr Field kSandboxStatus[] = {
    field<&SandboxStatus::state>(1, "state"),
    field<&SandboxStatus::state_reason>(2, "state_reason"),
    field<&SandboxStatus::create_time>(3, "create_time"),
    field<&SandboxStatus::start_time>(4, "start_time"),
    field<&SandboxStatus::end_time>(5, "end_time"),
    field<&SandboxStatus::services>(6, "services"),
    field<&SandboxStatus::resource_usage>(8, "resource_usage"),
    field<&SandboxStatus::exit_code>(9, "exit_code"),
    field<&SandboxStatus::effective_resources>(10, "effective_resources"),
    field<&SandboxStatus::effective_max_lifetime_seconds>(11, "effective_max_lifetime_seconds"),
    field<&SandboxStatus::container_statuses>(12, "container_statuses"),
    field<&SandboxStatus::runner_id>(13, "runner_id"),
    field<&SandboxStatus::runner_group_id>(14, "runner_group_id"),
    field<&SandboxStatus::effective_ingress>(15, "effective_ingress"),
    field<&SandboxStatus::effective_egress>(16, "effective_egress"),
    field<&SandboxStatus::effective_resource_requirements>(17, "effective_resource_requirements"),
    field<&SandboxStatus::attached_volume_ids>(18, "attached_volume_ids"),
    field<&SandboxStatus::effective_runtime_class>(19, "effective_runtime_class"),
    field<&SandboxStatus::effective_dns_egress>(20, "effective_dns_egress"),
};

constexpr Field kSandbox[] = {
    field<&Sandbox::sandbox_id>(1, "sandbox_id"),
    field<&Sandbox::spec>(2, "spec"),
    field<&Sandbox::status>(3, "status"),
    field<&Sandbox::source_template_id>(4, "source_template_id"),
    field<&Sandbox::source_template_revision>(5, "source_template_revision"),
    field<&Sandbox::display_name>(6, "display_name"),
    field<&Sandbox::endpoint_share_token>(7, "endpoint_share_token"),
    field<&Sandbox::control>(8, "control"),
};

constexpr Field kPartialContainer[] = {
    field<&PartialContainer::name>(1, "name"),
    field<&PartialContainer::image>(2, "image"),
    field<&PartialContainer::command>(3, "command"),
    field<&PartialContainer::args>(4, "args"),
    field<&PartialContainer::environment_variables>(5, "environment_variables"),
    field<&PartialContainer::resources>(6, "resources"),
    field<&PartialContainer::files>(7, "files"),
    field<&PartialContainer::volume_mounts>(8, "volume_mounts"),
    field<&PartialContainer::secret_stores>(9, "secret_stores"),
    field<&PartialContainer::working_dir>(10, "working_dir"),
    field<&PartialContainer::resource_requirements>(11, "resource_requirements"),
    field<&PartialContainer::security_context>(12, "security_context"),
    field<&PartialContainer::image_pull_credentials>(13, "image_pull_credentials"),
    field<&PartialContainer::primary>(14, "primary"),
    field<&PartialContainer::startup_probe>(15, "startup_probe"),
};

constexpr Field kPartialSandboxSpec[] = {
    field<&PartialSandboxSpec::containers>(1, "containers"),
    field<&PartialSandboxSpec::primary_container>(2, "primary_container"),
    field<&PartialSandboxSpec::volumes>(3, "volumes"),
    field<&PartialSandboxSpec::services>(4, "services"),
    field<&PartialSandboxSpec::max_lifetime_seconds>(5, "max_lifetime_seconds"),
    field<&PartialSandboxSpec::network_ids>(6, "network_ids"),
    field<&PartialSandboxSpec::object_storage_access>(7, "object_storage_access"),
    field<&PartialSandboxSpec::tags>(8, "tags"),
    field<&PartialSandboxSpec::runner_ids>(9, "runner_ids"),
    field<&PartialSandboxSpec::network>(10, "network"),
    field<&PartialSandboxSpec::annotations>(11, "annotations"),
    field<&PartialSandboxSpec::init_containers>(12, "init_containers"),
    field<&PartialSandboxSpec::instance_type>(13, "instance_type"),
    field<&PartialSandboxSpec::mode>(14, "mode"),
    field<&PartialSandboxSpec::runtime_class>(15, "runtime_class"),
    field<&PartialSandboxSpec::network_config_id>(16, "network_config_id"),
    field<&PartialSandboxSpec::runtime_class_selection>(17, "runtime_class_selection"),
};

constexpr Field kCreateSandboxRequest[] = {
    field<&CreateSandboxRequest::sandbox>(1, "sandbox"),
    field<&CreateSandboxRequest::request_id>(2, "request_id"),
};

constexpr Field kCreateSandboxFromTemplateRequest[] = {
    field<&CreateSandboxFromTemplateRequest::template_id>(1, "template_id"),
    field<&CreateSandboxFromTemplateRequest::overrides>(2, "overrides"),
    field<&CreateSandboxFromTemplateRequest::request_id>(3, "request_id"),
    field<&CreateSandboxFromTemplateRequest::display_name>(4, "display_name"),
};

constexpr Field kGetSandboxRequest[] = {
    field<&GetSandboxRequest::sandbox_id>(1, "sandbox_id"),
};

constexpr Field kListSandboxesRequest[] = {
    field<&ListSandboxesRequest::page_size>(1, "page_size"),
    field<&ListSandboxesRequest::page_token>(2, "page_token"),
    field<&ListSandboxesRequest::tags>(3, "tags"),
    field<&ListSandboxesRequest::state>(4, "state"),
    field<&ListSandboxesRequest::show_terminated>(5, "show_terminated"),
    field<&ListSandboxesRequest::runner_ids>(6, "runner_ids"),
    field<&ListSandboxesRequest::volume_ids>(7, "volume_ids"),
    field<&ListSandboxesRequest::sort_direction>(8, "sort_direction"),
};

constexpr Field kListSandboxesResponse[] = {
    field<&ListSandboxesResponse::sandboxes>(1, "sandboxes").at_most(kMaxPage),
    field<&ListSandboxesResponse::next_page_token>(2, "next_page_token"),
};

constexpr Field kDeleteSandboxRequest[] = {
    field<&DeleteSandboxRequest::sandbox_id>(1, "sandbox_id"),
    field<&DeleteSandboxRequest::grace_period_seconds>(2, "grace_period_seconds"),
    field<&DeleteSandboxRequest::snapshot_volumes>(3, "snapshot_volumes"),
    field<&DeleteSandboxRequest::request_id>(4, "request_id"),
    field<&DeleteSandboxRequest::allow_missing>(5, "allow_missing"),
};

constexpr Field kDeleteSandboxResponse[] = {
    field<&DeleteSandboxResponse::sandbox>(1, "sandbox"),
    field<&DeleteSandboxResponse::file_system_snapshot_ids>(2, "file_system_snapshot_ids"),
};

constexpr Field kPurgeSandboxesRequest[] = {
    field<&PurgeSandboxesRequest::tags>(1, "tags"),
    field<&PurgeSandboxesRequest::dry_run>(2, "dry_run"),
    field<&PurgeSandboxesRequest::request_id>(3, "request_id"),
    field<&PurgeSandboxesRequest::purge_all>(4, "purge_all"),
};

constexpr Field kPurgeSandboxesResponse[] = {
    field<&PurgeSandboxesResponse::purge_count>(1, "purge_count"),
    field<&PurgeSandboxesResponse::failed_sandbox_ids>(2, "failed_sandbox_ids"),
    field<&PurgeSandboxesResponse::retryable_failed_sandbox_ids>(3, "retryable_failed_sandbox_ids"),
};

}  // namespace

const EnumType& describe(SandboxMode) noexcept { return kSandboxMode; }
const EnumType& describe(State) noexcept { return kState; }
const EnumType& describe(ServiceProtocol) noexcept { return kServiceProtocol; }
const EnumType& describe(EndpointKind) noexcept { return kEndpointKind; }
const EnumType& describe(EndpointAuth) noexcept { return kEndpointAuth; }
const EnumType& describe(Visibility) noexcept { return kVisibility; }
const EnumType& describe(DnsEgressMode) noexcept { return kDnsEgressMode; }
const EnumType& describe(TenantScope) noexcept { return kTenantScope; }
const EnumType& describe(StorageMedium) noexcept { return kStorageMedium; }
const EnumType& describe(ObjectStoragePermission) noexcept { return kObjectStoragePermission; }
const EnumType& describe(Control) noexcept { return kControl; }
const EnumType& describe(SortDirection) noexcept { return kSortDirection; }
const EnumType& describe(RuntimeClass) noexcept { return kRuntimeClass; }

constinit const Type Gpu::kType = table<Gpu>("coreweave.sandbox.v1.Gpu", kGpu).strictly();
constinit const Type Resources::kType = table<Resources>("coreweave.sandbox.v1.Resources", kResources);
constinit const Type FileMount::kType = table<FileMount>("coreweave.sandbox.v1.FileMount", kFileMount);
constinit const Type VolumeMount::kType = table<VolumeMount>("coreweave.sandbox.v1.VolumeMount", kVolumeMount).strictly();
constinit const Type SecretMapping::kType = table<SecretMapping>("coreweave.sandbox.v1.SecretMapping", kSecretMapping).strictly();
constinit const Type SecretStoreReference::kType =
    table<SecretStoreReference>("coreweave.sandbox.v1.SecretStoreReference", kSecretStoreReference).strictly();
constinit const Type ResourceRequirements::kType =
    table<ResourceRequirements>("coreweave.sandbox.v1.ResourceRequirements", kResourceRequirements);
constinit const Type SecurityContext::kType = table<SecurityContext>("coreweave.sandbox.v1.SecurityContext", kSecurityContext);
constinit const Type SecretSource::kType = table<SecretSource>("coreweave.sandbox.v1.SecretSource", kSecretSource);
constinit const Type ImagePullCredentials::kType =
    table<ImagePullCredentials>("coreweave.sandbox.v1.ImagePullCredentials", kImagePullCredentials);
constinit const Type Probe::kType = table<Probe>("coreweave.sandbox.v1.Probe", kProbe);
constinit const Type Container::kType = table<Container>("coreweave.sandbox.v1.Container", kContainer);
constinit const Type ScratchVolume::kType = table<ScratchVolume>("coreweave.sandbox.v1.ScratchVolume", kScratchVolume).strictly();
constinit const Type SandboxVolume::kType = table<SandboxVolume>("coreweave.sandbox.v1.SandboxVolume", kSandboxVolume).strictly();
constinit const Type EndpointSpec::kType = table<EndpointSpec>("coreweave.sandbox.v1.EndpointSpec", kEndpointSpec);
constinit const Type Service::kType = table<Service>("coreweave.sandbox.v1.Service", kService).strictly();
constinit const Type ObjectStorageAccess::kType =
    table<ObjectStorageAccess>("coreweave.sandbox.v1.ObjectStorageAccess", kObjectStorageAccess);
constinit const Type CidrBlock::kType = table<CidrBlock>("coreweave.sandbox.v1.CidrBlock", kCidrBlock).strictly();
constinit const Type PortRange::kType = table<PortRange>("coreweave.sandbox.v1.PortRange", kPortRange).strictly();
constinit const Type IngressRule::kType = table<IngressRule>("coreweave.sandbox.v1.IngressRule", kIngressRule).strictly();
constinit const Type SelectorBlock::kType = table<SelectorBlock>("coreweave.sandbox.v1.SelectorBlock", kSelectorBlock);
constinit const Type EgressRule::kType = table<EgressRule>("coreweave.sandbox.v1.EgressRule", kEgressRule).strictly();
constinit const Type NetworkOptions::kType =
    table<NetworkOptions>("coreweave.sandbox.v1.NetworkOptions", kNetworkOptions).strictly();
constinit const Type SandboxSpec::kType = table<SandboxSpec>("coreweave.sandbox.v1.SandboxSpec", kSandboxSpec);
constinit const Type EndpointStatus::kType = table<EndpointStatus>("coreweave.sandbox.v1.EndpointStatus", kEndpointStatus);
constinit const Type ServiceStatus::kType = table<ServiceStatus>("coreweave.sandbox.v1.ServiceStatus", kServiceStatus);
constinit const Type ResourceUsage::kType = table<ResourceUsage>("coreweave.sandbox.v1.ResourceUsage", kResourceUsage);
constinit const Type ContainerStatus::kType = table<ContainerStatus>("coreweave.sandbox.v1.ContainerStatus", kContainerStatus);
constinit const Type SandboxStatus::kType = table<SandboxStatus>("coreweave.sandbox.v1.SandboxStatus", kSandboxStatus);
constinit const Type Sandbox::kType = table<Sandbox>("coreweave.sandbox.v1.Sandbox", kSandbox);
constinit const Type PartialContainer::kType = table<PartialContainer>("coreweave.sandbox.v1.PartialContainer", kPartialContainer);
constinit const Type PartialSandboxSpec::kType =
    table<PartialSandboxSpec>("coreweave.sandbox.v1.PartialSandboxSpec", kPartialSandboxSpec);
constinit const Type CreateSandboxRequest::kType =
    table<CreateSandboxRequest>("coreweave.sandbox.v1.CreateSandboxRequest", kCreateSandboxRequest)
        .keeping(unknown_of<&CreateSandboxRequest::unknown>);
constinit const Type CreateSandboxFromTemplateRequest::kType = table<CreateSandboxFromTemplateRequest>(
    "coreweave.sandbox.v1.CreateSandboxFromTemplateRequest", kCreateSandboxFromTemplateRequest);
constinit const Type GetSandboxRequest::kType =
    table<GetSandboxRequest>("coreweave.sandbox.v1.GetSandboxRequest", kGetSandboxRequest);
constinit const Type ListSandboxesRequest::kType =
    table<ListSandboxesRequest>("coreweave.sandbox.v1.ListSandboxesRequest", kListSandboxesRequest);
constinit const Type ListSandboxesResponse::kType =
    table<ListSandboxesResponse>("coreweave.sandbox.v1.ListSandboxesResponse", kListSandboxesResponse);
constinit const Type DeleteSandboxRequest::kType =
    table<DeleteSandboxRequest>("coreweave.sandbox.v1.DeleteSandboxRequest", kDeleteSandboxRequest);
constinit const Type DeleteSandboxResponse::kType =
    table<DeleteSandboxResponse>("coreweave.sandbox.v1.DeleteSandboxResponse", kDeleteSandboxResponse);
constinit const Type PurgeSandboxesRequest::kType =
    table<PurgeSandboxesRequest>("coreweave.sandbox.v1.PurgeSandboxesRequest", kPurgeSandboxesRequest);
constinit const Type PurgeSandboxesResponse::kType =
    table<PurgeSandboxesResponse>("coreweave.sandbox.v1.PurgeSandboxesResponse", kPurgeSandboxesResponse);

}  // namespace cwsandbox::messages
