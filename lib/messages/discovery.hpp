// coreweave.sandbox.v1, discovery.proto: which runners there are.
#pragma once

#include "messages/fields.hpp"
#include "messages/sandbox.hpp"

namespace cwsandbox::messages {

enum class RunnerView : std::uint8_t { unspecified, basic, full };
[[nodiscard]] const EnumType& describe(RunnerView) noexcept;

struct RunnerCapabilitySummary {
  std::int64_t max_cpu_millicores = 0;
  std::int64_t max_memory_bytes = 0;
  std::int64_t max_gpu_count = 0;
  std::vector<std::string> supported_gpu_types;
  std::vector<std::string> supported_architectures;
  bool supports_privileged = false;
  std::vector<std::string> available_storage_classes;
  std::vector<Visibility> supported_service_visibilities;

  static const Type kType;
};

struct RunnerResourceSummary {
  std::int64_t available_cpu_millicores = 0;
  std::int64_t available_memory_bytes = 0;
  std::int64_t available_gpu_count = 0;
  std::int32_t running_sandboxes = 0;

  static const Type kType;
};

struct AvailableRunner {
  std::string runner_id;
  std::string runner_group_id;
  std::vector<std::string> tags;
  bool healthy = false;
  std::optional<RunnerCapabilitySummary> capabilities;
  std::optional<RunnerResourceSummary> resources;
  Timestamp connected_at;
  bool is_shared = false;
  std::string organization_id;

  static const Type kType;
};

struct ListAvailableRunnersRequest {
  std::string runner_group_id;
  std::string gpu_type;
  std::string architecture;
  bool healthy_only = false;
  std::int32_t page_size = 0;
  std::string page_token;
  RunnerView view = RunnerView::unspecified;
  Visibility service_visibility = Visibility::unspecified;

  static const Type kType;
};

struct ListAvailableRunnersResponse {
  std::vector<AvailableRunner> runners;
  std::string next_page_token;

  static const Type kType;
};

struct GetAvailableRunnerRequest {
  std::string runner_id;
  RunnerView view = RunnerView::unspecified;
  std::string organization_id;

  static const Type kType;
};

}  // namespace cwsandbox::messages
