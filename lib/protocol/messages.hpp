// The messages of coreweave.sandbox.v1 that this tree speaks, as plain structs, and their JSON (the proto3 mapping).
//
// On input: lowerCamelCase and snake_case names, 64-bit integers as strings or numbers, enums by name or number (an unknown
// one is the unspecified value), null is unset, unknown fields are ignored. On output: lowerCamelCase, unset fields left out.
#pragma once

#include "base/time.hpp"

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace cwsandbox::protocol {

/// A message that cannot be read, or (from `to_json` of a request) not be written: a string that is not UTF-8.
struct ParseError : std::runtime_error {
  ParseError(std::string field_path, const std::string& what) : std::runtime_error(what), field(std::move(field_path)) {}
  /// The JSON path of the field at fault, e.g. "sandbox.spec.containers[0].args[1]"; "byte 17" where the text is not JSON;
  /// empty when the message as a whole is at fault.
  std::string field;
};

using Timestamp = std::optional<std::chrono::system_clock::time_point>;

using base::format_timestamp;
using base::parse_timestamp;

enum class State : std::uint8_t {
  unspecified = 0,
  creating = 1,
  running = 2,
  completed = 3,
  failed = 4,
  terminating = 5,
  terminated = 6,
  pending = 7,
  paused = 8,
};

/// "STATE_RUNNING" and so on.
[[nodiscard]] std::string_view to_string(State state) noexcept;
/// COMPLETED, FAILED or TERMINATED: the state changes no more.
[[nodiscard]] constexpr bool is_terminal(State state) noexcept {
  return state == State::completed || state == State::failed || state == State::terminated;
}

struct Gpu {
  std::int64_t count = 0;
  std::string type;            ///< one of these two at most
  std::int64_t memory_gb = 0;  ///< 0: unset; parsing notes it as unsupported, see SandboxSpec
};

/// The API's `Resources`: quantities as Kubernetes writes them.
struct ResourceList {
  std::string cpu, memory;
  std::optional<Gpu> gpu;
};

struct FileMount {
  std::string path;
  std::string content;  ///< base64 on the wire
};

struct VolumeMount {
  std::string volume, mount_path;
  bool read_only = false;
  std::string sub_path;
};

struct SecretMapping {
  std::string path, field, env_var;
};

struct SecretStoreReference {
  std::string store_name;
  std::vector<SecretMapping> secrets;
};

struct SecurityContext {
  std::optional<std::uint32_t> run_as_user, run_as_group;
  std::optional<bool> privileged, allow_privilege_escalation, read_only_root_filesystem;
  std::vector<std::string> capabilities_add, capabilities_drop;
  std::string seccomp_profile;
};

struct ImagePullCredentials {
  std::string registry, store_name, path, field;
};

struct Container {
  std::string name;
  std::string image;
  std::string command;  ///< one program, as the API has it; `args` follow it
  std::vector<std::string> args;
  std::map<std::string, std::string> environment_variables;
  std::string working_dir;
  std::vector<FileMount> files;
  std::optional<ResourceList> resources;         ///< requests and limits alike
  std::optional<ResourceList> requests, limits;  ///< `resourceRequirements`
  std::vector<VolumeMount> volume_mounts;
  std::vector<SecretStoreReference> secret_stores;
  // Written only: parsing notes them as unsupported, see SandboxSpec.
  std::optional<SecurityContext> security_context;
  std::optional<ImagePullCredentials> image_pull_credentials;
};

struct SandboxVolume {
  std::string name;
  bool scratch = true;    ///< else `volume_id`, or a source that is not known here
  std::string volume_id;  ///< of a volume that exists
  std::string size, restore_from_snapshot_id;
  std::string medium;  ///< "STORAGE_MEDIUM_DISK" and so on
};

/// Enums by their names on the wire, empty for unset.
struct Service {
  std::int32_t port = 0;
  std::string name, protocol, visibility;
  std::string endpoint_kind, endpoint_auth;
};

struct PortRange {
  std::string protocol;
  std::int32_t port = 0, end_port = 0;
};

/// Both directions; names and selectors are for egress only.
struct NetworkRule {
  enum class Peer : std::uint8_t { any, cidr, dns_name, tenant, selector, none };  ///< none: or one that is not known here
  Peer peer = Peer::any;
  std::string value;                ///< the block, the name, the scope
  std::vector<std::string> except;  ///< of a block
  std::map<std::string, std::string> pod_labels, namespace_labels;
  std::vector<PortRange> ports;
};

struct NetworkOptions {
  std::vector<NetworkRule> ingress, egress;
  std::optional<bool> deny_egress, deny_ingress;
};

struct SandboxSpec {
  std::vector<Container> containers;
  std::string primary_container;
  std::int32_t max_lifetime_seconds = 0;
  std::vector<std::string> tags;
  std::vector<std::string> runner_ids;
  std::map<std::string, std::string> annotations;
  std::string runtime_class;
  std::vector<SandboxVolume> volumes;
  std::vector<Service> services;
  std::optional<NetworkOptions> network;
  // Written only.
  std::string instance_type;
  std::string mode;  ///< "SANDBOX_MODE_SERVERLESS" and so on; empty for unset
  /// JSON paths, from the root of the message, of what was set and no runner is asked for (volumes by id, snapshots, ingress, names
  /// and selectors as peers, public services, SCTP, initContainers, ...; in volumes, mounts, secrets, services, GPUs and the
  /// network also fields that are not known here), in the spec and in the containers. Filled by parsing, so that a gateway can
  /// refuse by name instead of ignoring what was asked for. Not written by `to_json`.
  std::vector<std::string> unsupported;
};

struct ContainerStatus {
  std::string name;
  State state = State::unspecified;
  std::int32_t exit_code = 0;
  std::int32_t restart_count = 0;
};

struct SandboxStatus {
  State state = State::unspecified;
  std::string state_reason;
  Timestamp create_time, start_time, end_time;
  std::optional<std::int32_t> exit_code;
  std::int32_t effective_max_lifetime_seconds = 0;
  std::vector<ContainerStatus> container_statuses;
  std::string runner_id;
  std::string runner_group_id;
  std::string effective_runtime_class;
};

struct Sandbox {
  std::string sandbox_id;
  SandboxSpec spec;
  SandboxStatus status;
  std::string source_template_id;
  std::int64_t source_template_revision = 0;
};

struct CreateSandboxRequest {
  Sandbox sandbox;
  std::string request_id;
};

struct GetSandboxRequest {
  std::string sandbox_id;
};

struct ListSandboxesRequest {
  std::int32_t page_size = 0;  ///< 0: the server's choice
  std::string page_token;
  std::vector<std::string> tags;  ///< all of them
  State state = State::unspecified;
  bool show_terminated = false;
  std::vector<std::string> runner_ids;
  std::vector<std::string> volume_ids;
};

struct ListSandboxesResponse {
  std::vector<Sandbox> sandboxes;
  std::string next_page_token;
};

struct DeleteSandboxRequest {
  std::string sandbox_id;
  std::int32_t grace_period_seconds = 0;
  std::vector<std::string> snapshot_volumes;
  std::string request_id;
  bool allow_missing = false;
};

struct DeleteSandboxResponse {
  std::optional<Sandbox> sandbox;
  std::vector<std::string> file_system_snapshot_ids;
};

struct ExecRequest {
  std::string sandbox_id;
  std::vector<std::string> command;
  std::map<std::string, std::string> env;
  std::int32_t max_output_bytes = 0;  ///< per stream; 0: the server's choice
  std::string container;
};

struct ExecResponse {
  std::string std_out;  ///< `stdout` on the wire, base64 there
  std::string std_err;  ///< `stderr`
  std::int32_t exit_code = 0;
  bool stdout_truncated = false;
  bool stderr_truncated = false;
  std::int64_t stdout_bytes_produced = 0;
  std::int64_t stderr_bytes_produced = 0;
};

// ---- files: the published small ones ----

struct WriteFileRequest {
  std::string sandbox_id;
  std::string path;
  std::string content;  ///< base64 on the wire
  std::string container;
};

struct ReadFileRequest {
  std::string sandbox_id;
  std::string path;
  std::string container;
};

struct ReadFileResponse {
  std::string content;  ///< base64 on the wire
};

// ---- files: cwsandbox.v1.FileService, this project's own (docs/gateway.md) ----

/// A path in JSON: `path` when it is UTF-8, else `pathBytes` in base64. One of them must be there.
struct FilePath {
  std::string bytes;
};

enum class FileType : std::uint8_t { unspecified, regular, directory, symlink, fifo, socket, block_device, character_device };
/// "FILE_TYPE_REGULAR" and so on.
[[nodiscard]] std::string_view to_string(FileType type) noexcept;

struct FileInfo {
  std::string name;  ///< `name` when it is UTF-8, else `nameBytes` in base64
  FileType type = FileType::unspecified;
  std::uint64_t size = 0;
  std::uint32_t mode = 0;  ///< permission bits
  std::uint32_t uid = 0, gid = 0;
  Timestamp modify_time;
  std::string link_target;  ///< `linkTarget` or `linkTargetBytes`
};

struct StatFileRequest {
  std::string sandbox_id;
  FilePath path;
  bool follow_symlinks = false;
};
// The answer is a FileInfo.

/// The answer is a server stream (Connect) of ListFilesResponse, so that a directory of any size is listed in bounded memory.
struct ListFilesRequest {
  std::string sandbox_id;
  FilePath path;
};
struct ListFilesResponse {
  std::vector<FileInfo> files;
};

/// The answer is a server stream (Connect) of WatchFileResponse. The first one says that the watch stands; one without events says
/// that it still does.
struct WatchFileRequest {
  std::string sandbox_id;
  FilePath path;
};
enum class FileEventKind : std::uint8_t {
  unspecified,
  created,
  modified,
  closed,
  attributes,
  deleted,
  renamed,
  moved_in,
  moved_out,
  gone,
  overflow
};
/// "FILE_EVENT_KIND_CREATED" and so on.
[[nodiscard]] std::string_view to_string(FileEventKind kind) noexcept;
struct FileEvent {
  FileEventKind kind = FileEventKind::unspecified;
  std::string name, old_name;  ///< `name`/`nameBytes`, `oldName`/`oldNameBytes`
  bool directory = false;
};
struct WatchFileResponse {
  std::vector<FileEvent> events;
};

struct MakeDirectoryRequest {
  std::string sandbox_id;
  FilePath path;
  std::optional<std::uint32_t> mode;  ///< unset: 0755
  bool parents = false;
};

struct RemoveFileRequest {
  std::string sandbox_id;
  FilePath path;
  bool recursive = false;
  bool allow_missing = false;
};

struct RenameFileRequest {
  std::string sandbox_id;
  FilePath from, to;  ///< `from`/`fromBytes`, `to`/`toBytes`
};
// The answers of the last three are empty messages.

// ---- logs ----

struct StreamLogsRequest {
  std::string sandbox_id;
  bool follow = false;
  std::int32_t tail_lines = 0;  ///< 0: all
  Timestamp since_time;
  std::string container;
  bool timestamps = false;
  std::string resume_log_session_id;
  std::uint64_t resume_log_offset = 0;
};

struct LogStreamError {
  std::string message;
  std::string code;  ///< e.g. "REPLAY_GAP"
};

struct LogEntry {
  std::string data;  ///< base64 on the wire
  Timestamp timestamp;
  std::string log_session_id;
  std::uint64_t next_log_offset = 0;  ///< of the byte after `data`
  std::optional<LogStreamError> error;
};

// Requests: throw ParseError when a string is not valid UTF-8, because a repaired one would ask for something else.
[[nodiscard]] std::string to_json(const CreateSandboxRequest& message);
[[nodiscard]] std::string to_json(const GetSandboxRequest& message);
[[nodiscard]] std::string to_json(const ListSandboxesRequest& message);
[[nodiscard]] std::string to_json(const DeleteSandboxRequest& message);
[[nodiscard]] std::string to_json(const ExecRequest& message);
[[nodiscard]] std::string to_json(const WriteFileRequest& message);
[[nodiscard]] std::string to_json(const ReadFileRequest& message);
[[nodiscard]] std::string to_json(const StatFileRequest& message);
[[nodiscard]] std::string to_json(const ListFilesRequest& message);
[[nodiscard]] std::string to_json(const WatchFileRequest& message);
[[nodiscard]] std::string to_json(const MakeDirectoryRequest& message);
[[nodiscard]] std::string to_json(const RemoveFileRequest& message);
[[nodiscard]] std::string to_json(const RenameFileRequest& message);
[[nodiscard]] std::string to_json(const StreamLogsRequest& message);
// Responses: text that is not UTF-8 is repaired with U+FFFD.
[[nodiscard]] std::string to_json(const Sandbox& message);
[[nodiscard]] std::string to_json(const ListSandboxesResponse& message);
[[nodiscard]] std::string to_json(const DeleteSandboxResponse& message);
[[nodiscard]] std::string to_json(const ExecResponse& message);
[[nodiscard]] std::string to_json(const ReadFileResponse& message);
[[nodiscard]] std::string to_json(const FileInfo& message);
[[nodiscard]] std::string to_json(const ListFilesResponse& message);
[[nodiscard]] std::string to_json(const WatchFileResponse& message);
[[nodiscard]] std::string to_json(const LogEntry& message);

// All of these throw ParseError, and nothing else, for bad input. Nesting is bounded (32 levels); the caller bounds the size.
[[nodiscard]] CreateSandboxRequest parse_create_sandbox_request(std::string_view json);
[[nodiscard]] GetSandboxRequest parse_get_sandbox_request(std::string_view json);
[[nodiscard]] ListSandboxesRequest parse_list_sandboxes_request(std::string_view json);
[[nodiscard]] DeleteSandboxRequest parse_delete_sandbox_request(std::string_view json);
[[nodiscard]] ExecRequest parse_exec_request(std::string_view json);
[[nodiscard]] Sandbox parse_sandbox(std::string_view json);  ///< the response of CreateSandbox and GetSandbox
[[nodiscard]] ListSandboxesResponse parse_list_sandboxes_response(std::string_view json);
[[nodiscard]] DeleteSandboxResponse parse_delete_sandbox_response(std::string_view json);
[[nodiscard]] ExecResponse parse_exec_response(std::string_view json);
[[nodiscard]] WriteFileRequest parse_write_file_request(std::string_view json);
[[nodiscard]] ReadFileRequest parse_read_file_request(std::string_view json);
[[nodiscard]] ReadFileResponse parse_read_file_response(std::string_view json);
[[nodiscard]] StatFileRequest parse_stat_file_request(std::string_view json);
[[nodiscard]] FileInfo parse_file_info(std::string_view json);
[[nodiscard]] ListFilesRequest parse_list_files_request(std::string_view json);
[[nodiscard]] ListFilesResponse parse_list_files_response(std::string_view json);
[[nodiscard]] WatchFileRequest parse_watch_file_request(std::string_view json);
[[nodiscard]] WatchFileResponse parse_watch_file_response(std::string_view json);
[[nodiscard]] MakeDirectoryRequest parse_make_directory_request(std::string_view json);
[[nodiscard]] RemoveFileRequest parse_remove_file_request(std::string_view json);
[[nodiscard]] RenameFileRequest parse_rename_file_request(std::string_view json);
[[nodiscard]] StreamLogsRequest parse_stream_logs_request(std::string_view json);
[[nodiscard]] LogEntry parse_log_entry(std::string_view json);

}  // namespace cwsandbox::protocol
