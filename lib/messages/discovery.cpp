#include "messages/discovery.hpp"

namespace cwsandbox::messages {
namespace {

constexpr std::array<std::string_view, 3> kRunnerViewNames = {"RUNNER_VIEW_UNSPECIFIED", "RUNNER_VIEW_BASIC", "RUNNER_VIEW_FULL"};
constexpr EnumType kRunnerView{"coreweave.sandbox.v1.RunnerView", kRunnerViewNames};

constexpr Field kRunnerCapabilitySummary[] = {
    field<&RunnerCapabilitySummary::max_cpu_millicores>(1, "max_cpu_millicores"),
    field<&RunnerCapabilitySummary::max_memory_bytes>(2, "max_memory_bytes"),
    field<&RunnerCapabilitySummary::max_gpu_count>(3, "max_gpu_count"),
    field<&RunnerCapabilitySummary::supported_gpu_types>(4, "supported_gpu_types"),
    field<&RunnerCapabilitySummary::supported_architectures>(5, "supported_architectures"),
    field<&RunnerCapabilitySummary::supports_privileged>(6, "supports_privileged"),
    field<&RunnerCapabilitySummary::available_storage_classes>(7, "available_storage_classes"),
    field<&RunnerCapabilitySummary::supported_service_visibilities>(8, "supported_service_visibilities"),
};

constexpr Field kRunnerResourceSummary[] = {
    field<&RunnerResourceSummary::available_cpu_millicores>(1, "available_cpu_millicores"),
    field<&RunnerResourceSummary::available_memory_bytes>(2, "available_memory_bytes"),
    field<&RunnerResourceSummary::available_gpu_count>(3, "available_gpu_count"),
    field<&RunnerResourceSummary::running_sandboxes>(4, "running_sandboxes"),
};

constexpr Field kAvailableRunner[] = {
    field<&AvailableRunner::runner_id>(1, "runner_id"),
    field<&AvailableRunner::runner_group_id>(2, "runner_group_id"),
    field<&AvailableRunner::tags>(3, "tags"),
    field<&AvailableRunner::healthy>(4, "healthy"),
    field<&AvailableRunner::capabilities>(5, "capabilities"),
    field<&AvailableRunner::resources>(6, "resources"),
    field<&AvailableRunner::connected_at>(7, "connected_at"),
    field<&AvailableRunner::is_shared>(8, "is_shared"),
    field<&AvailableRunner::organization_id>(9, "organization_id"),
};

constexpr Field kListAvailableRunnersRequest[] = {
    field<&ListAvailableRunnersRequest::runner_group_id>(1, "runner_group_id"),
    field<&ListAvailableRunnersRequest::gpu_type>(2, "gpu_type"),
    field<&ListAvailableRunnersRequest::architecture>(3, "architecture"),
    field<&ListAvailableRunnersRequest::healthy_only>(4, "healthy_only"),
    field<&ListAvailableRunnersRequest::page_size>(5, "page_size"),
    field<&ListAvailableRunnersRequest::page_token>(6, "page_token"),
    field<&ListAvailableRunnersRequest::view>(7, "view"),
    field<&ListAvailableRunnersRequest::service_visibility>(8, "service_visibility"),
};

constexpr Field kListAvailableRunnersResponse[] = {
    field<&ListAvailableRunnersResponse::runners>(1, "runners").at_most(kMaxPage),
    field<&ListAvailableRunnersResponse::next_page_token>(2, "next_page_token"),
};

constexpr Field kGetAvailableRunnerRequest[] = {
    field<&GetAvailableRunnerRequest::runner_id>(1, "runner_id"),
    field<&GetAvailableRunnerRequest::view>(2, "view"),
    field<&GetAvailableRunnerRequest::organization_id>(3, "organization_id"),
};

}  // namespace

const EnumType& describe(RunnerView) noexcept { return kRunnerView; }

constinit const Type RunnerCapabilitySummary::kType =
    table<RunnerCapabilitySummary>("coreweave.sandbox.v1.RunnerCapabilitySummary", kRunnerCapabilitySummary);
constinit const Type RunnerResourceSummary::kType =
    table<RunnerResourceSummary>("coreweave.sandbox.v1.RunnerResourceSummary", kRunnerResourceSummary);
constinit const Type AvailableRunner::kType = table<AvailableRunner>("coreweave.sandbox.v1.AvailableRunner", kAvailableRunner);
constinit const Type ListAvailableRunnersRequest::kType =
    table<ListAvailableRunnersRequest>("coreweave.sandbox.v1.ListAvailableRunnersRequest", kListAvailableRunnersRequest);
constinit const Type ListAvailableRunnersResponse::kType =
    table<ListAvailableRunnersResponse>("coreweave.sandbox.v1.ListAvailableRunnersResponse", kListAvailableRunnersResponse);
constinit const Type GetAvailableRunnerRequest::kType =
    table<GetAvailableRunnerRequest>("coreweave.sandbox.v1.GetAvailableRunnerRequest", kGetAvailableRunnerRequest);

}  // namespace cwsandbox::messages
