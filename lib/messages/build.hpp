// coreweave.sandbox.v1, sandbox.proto: sandboxes that are made from a file which says how to build them.
//
// `build_context_objects` of CreateSandboxFromFileRequest, a map of messages, is not among the fields.
#pragma once

#include "messages/fields.hpp"
#include "messages/sandbox.hpp"

namespace cwsandbox::messages {

enum class SandboxFileType : std::uint8_t { unspecified, compose };
[[nodiscard]] const EnumType& describe(SandboxFileType) noexcept;

struct CreateSandboxFromFileRequest {
  SandboxFileType type = SandboxFileType::unspecified;
  std::string contents;
  std::string primary_service;
  TextMap image_overrides;
  TextMap build_contexts;
  std::optional<ResourceRequirements> default_resources;
  SandboxMode mode = SandboxMode::unspecified;
  std::int32_t max_lifetime_seconds = 0;
  std::vector<std::string> tags;
  std::optional<NetworkOptions> network;
  std::vector<std::string> network_ids;
  std::optional<ObjectStorageAccess> object_storage_access;
  TextMap annotations;
  std::vector<std::string> runner_ids;
  std::string request_id;
  std::string display_name;
  TextMap builder_sizes;
  Control control = Control::unspecified;
  std::vector<ImagePullCredentials> image_pull_credentials;

  static const Type kType;
};

struct GetSandboxBuildLogsRequest {
  std::string sandbox_id;
  std::string service;

  static const Type kType;
};

struct GetSandboxBuildLogsResponse {
  std::string url;
  Timestamp expire_time;

  static const Type kType;
};

}  // namespace cwsandbox::messages
