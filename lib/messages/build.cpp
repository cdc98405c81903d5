#include "messages/build.hpp"

namespace cwsandbox::messages {
namespace {

constexpr std::array<std::string_view, 2> kSandboxFileTypeNames = {"SANDBOX_FILE_TYPE_UNSPECIFIED", "SANDBOX_FILE_TYPE_COMPOSE"};
constexpr EnumType kSandboxFileType{"coreweave.sandbox.v1.SandboxFileType", kSandboxFileTypeNames};

constexpr Field kCreateSandboxFromFileRequest[] = {
    field<&CreateSandboxFromFileRequest::type>(1, "type"),
    field<&CreateSandboxFromFileRequest::contents>(2, "contents").bytes(),
    field<&CreateSandboxFromFileRequest::primary_service>(3, "primary_service"),
    field<&CreateSandboxFromFileRequest::image_overrides>(4, "image_overrides"),
    field<&CreateSandboxFromFileRequest::build_contexts>(5, "build_contexts").bytes(),
    field<&CreateSandboxFromFileRequest::default_resources>(6, "default_resources"),
    field<&CreateSandboxFromFileRequest::mode>(7, "mode"),
    field<&CreateSandboxFromFileRequest::max_lifetime_seconds>(8, "max_lifetime_seconds"),
    field<&CreateSandboxFromFileRequest::tags>(9, "tags"),
    field<&CreateSandboxFromFileRequest::network>(10, "network"),
    field<&CreateSandboxFromFileRequest::network_ids>(11, "network_ids"),
    field<&CreateSandboxFromFileRequest::object_storage_access>(12, "object_storage_access"),
    field<&CreateSandboxFromFileRequest::annotations>(13, "annotations"),
    field<&CreateSandboxFromFileRequest::runner_ids>(14, "runner_ids"),
    field<&CreateSandboxFromFileRequest::request_id>(15, "request_id"),
    field<&CreateSandboxFromFileRequest::display_name>(16, "display_name"),
    field<&CreateSandboxFromFileRequest::builder_sizes>(18, "builder_sizes"),
    field<&CreateSandboxFromFileRequest::control>(19, "control"),
    field<&CreateSandboxFromFileRequest::image_pull_credentials>(20, "image_pull_credentials"),
};

constexpr Field kGetSandboxBuildLogsRequest[] = {
    field<&GetSandboxBuildLogsRequest::sandbox_id>(1, "sandbox_id"),
    field<&GetSandboxBuildLogsRequest::service>(2, "service"),
};

constexpr Field kGetSandboxBuildLogsResponse[] = {
    field<&GetSandboxBuildLogsResponse::url>(1, "url"),
    field<&GetSandboxBuildLogsResponse::expire_time>(2, "expire_time"),
};

}  // namespace

const EnumType& describe(SandboxFileType) noexcept { return kSandboxFileType; }

constinit const Type CreateSandboxFromFileRequest::kType =
    table<CreateSandboxFromFileRequest>("coreweave.sandbox.v1.CreateSandboxFromFileRequest", kCreateSandboxFromFileRequest);
constinit const Type GetSandboxBuildLogsRequest::kType =
    table<GetSandboxBuildLogsRequest>("coreweave.sandbox.v1.GetSandboxBuildLogsRequest", kGetSandboxBuildLogsRequest);
constinit const Type GetSandboxBuildLogsResponse::kType =
    table<GetSandboxBuildLogsResponse>("coreweave.sandbox.v1.GetSandboxBuildLogsResponse", kGetSandboxBuildLogsResponse);

}  // namespace cwsandbox::messages
