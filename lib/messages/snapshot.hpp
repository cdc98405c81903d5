// coreweave.sandbox.v1, sandbox.proto: snapshots of file systems.
#pragma once

#include "messages/fields.hpp"

namespace cwsandbox::messages {

enum class SnapshotState : std::uint8_t { unspecified, creating, ready, failed, deleting };
[[nodiscard]] const EnumType& describe(SnapshotState) noexcept;

enum class SnapshotTrigger : std::uint8_t { unspecified, manual, on_delete };
[[nodiscard]] const EnumType& describe(SnapshotTrigger) noexcept;

struct FileSystemSnapshot {
  std::string file_system_snapshot_id;
  SnapshotState state = SnapshotState::unspecified;
  std::string state_reason;
  std::int64_t size_bytes = 0;
  std::string source_sandbox_id;
  SnapshotTrigger trigger = SnapshotTrigger::unspecified;
  Timestamp create_time;
  Timestamp complete_time;
  std::string source_volume_name;
  std::string object_bucket;
  Timestamp updated_at;
  std::string request_id;

  static const Type kType;
};

struct CreateFileSystemSnapshotRequest {
  std::string sandbox_id;
  std::string request_id;
  std::string scratch_volume_name;

  static const Type kType;
};

struct GetFileSystemSnapshotRequest {
  std::string file_system_snapshot_id;

  static const Type kType;
};

struct ListFileSystemSnapshotsRequest {
  std::int32_t page_size = 0;
  std::string page_token;
  std::string source_sandbox_id;

  static const Type kType;
};

struct ListFileSystemSnapshotsResponse {
  std::vector<FileSystemSnapshot> file_system_snapshots;
  std::string next_page_token;

  static const Type kType;
};

struct DeleteFileSystemSnapshotRequest {
  std::string file_system_snapshot_id;
  bool allow_missing = false;

  static const Type kType;
};

}  // namespace cwsandbox::messages
