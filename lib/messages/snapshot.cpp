#include "messages/snapshot.hpp"

namespace cwsandbox::messages {
namespace {

constexpr std::array<std::string_view, 5> kSnapshotStateNames = {"SNAPSHOT_STATE_UNSPECIFIED", "SNAPSHOT_STATE_CREATING",
                                                                 "SNAPSHOT_STATE_READY", "SNAPSHOT_STATE_FAILED",
                                                                 "SNAPSHOT_STATE_DELETING"};
constexpr EnumType kSnapshotState{"coreweave.sandbox.v1.SnapshotState", kSnapshotStateNames};

constexpr std::array<std::string_view, 3> kSnapshotTriggerNames = {"SNAPSHOT_TRIGGER_UNSPECIFIED", "SNAPSHOT_TRIGGER_MANUAL",
                                                                   "SNAPSHOT_TRIGGER_ON_DELETE"};
constexpr EnumType kSnapshotTrigger{"coreweave.sandbox.v1.SnapshotTrigger", kSnapshotTriggerNames};

constexpr Field kFileSystemSnapshot[] = {
    field<&FileSystemSnapshot::file_system_snapshot_id>(1, "file_system_snapshot_id"),
    field<&FileSystemSnapshot::state>(2, "state"),
    field<&FileSystemSnapshot::state_reason>(3, "state_reason"),
    field<&FileSystemSnapshot::size_bytes>(4, "size_bytes"),
    field<&FileSystemSnapshot::source_sandbox_id>(5, "source_sandbox_id"),
    field<&FileSystemSnapshot::trigger>(6, "trigger"),
    field<&FileSystemSnapshot::create_time>(7, "create_time"),
    field<&FileSystemSnapshot::complete_time>(8, "complete_time"),
    field<&FileSystemSnapshot::source_volume_name>(9, "source_volume_name"),
    field<&FileSystemSnapshot::object_bucket>(10, "object_bucket"),
    field<&FileSystemSnapshot::updated_at>(11, "updated_at"),
    field<&FileSystemSnapshot::request_id>(12, "request_id"),
};

constexpr Field kCreateFileSystemSnapshotRequest[] = {
    field<&CreateFileSystemSnapshotRequest::sandbox_id>(1, "sandbox_id"),
    field<&CreateFileSystemSnapshotRequest::request_id>(2, "request_id"),
    field<&CreateFileSystemSnapshotRequest::scratch_volume_name>(3, "scratch_volume_name"),
};

constexpr Field kGetFileSystemSnapshotRequest[] = {
    field<&GetFileSystemSnapshotRequest::file_system_snapshot_id>(1, "file_system_snapshot_id"),
};

constexpr Field kListFileSystemSnapshotsRequest[] = {
    field<&ListFileSystemSnapshotsRequest::page_size>(1, "page_size"),
    field<&ListFileSystemSnapshotsRequest::page_token>(2, "page_token"),
    field<&ListFileSystemSnapshotsRequest::source_sandbox_id>(3, "source_sandbox_id"),
};

constexpr Field kListFileSystemSnapshotsResponse[] = {
    field<&ListFileSystemSnapshotsResponse::file_system_snapshots>(1, "file_system_snapshots").at_most(kMaxPage),
    field<&ListFileSystemSnapshotsResponse::next_page_token>(2, "next_page_token"),
};

constexpr Field kDeleteFileSystemSnapshotRequest[] = {
    field<&DeleteFileSystemSnapshotRequest::file_system_snapshot_id>(1, "file_system_snapshot_id"),
    field<&DeleteFileSystemSnapshotRequest::allow_missing>(2, "allow_missing"),
};

}  // namespace

const EnumType& describe(SnapshotState) noexcept { return kSnapshotState; }
const EnumType& describe(SnapshotTrigger) noexcept { return kSnapshotTrigger; }

constinit const Type FileSystemSnapshot::kType =
    table<FileSystemSnapshot>("coreweave.sandbox.v1.FileSystemSnapshot", kFileSystemSnapshot);
constinit const Type CreateFileSystemSnapshotRequest::kType = table<CreateFileSystemSnapshotRequest>(
    "coreweave.sandbox.v1.CreateFileSystemSnapshotRequest", kCreateFileSystemSnapshotRequest);
constinit const Type GetFileSystemSnapshotRequest::kType =
    table<GetFileSystemSnapshotRequest>("coreweave.sandbox.v1.GetFileSystemSnapshotRequest", kGetFileSystemSnapshotRequest);
constinit const Type ListFileSystemSnapshotsRequest::kType =
    table<ListFileSystemSnapshotsRequest>("coreweave.sandbox.v1.ListFileSystemSnapshotsRequest", kListFileSystemSnapshotsRequest);
constinit const Type ListFileSystemSnapshotsResponse::kType = table<ListFileSystemSnapshotsResponse>(
    "coreweave.sandbox.v1.ListFileSystemSnapshotsResponse", kListFileSystemSnapshotsResponse);
constinit const Type DeleteFileSystemSnapshotRequest::kType = table<DeleteFileSystemSnapshotRequest>(
    "coreweave.sandbox.v1.DeleteFileSystemSnapshotRequest", kDeleteFileSystemSnapshotRequest);

}  // namespace cwsandbox::messages
