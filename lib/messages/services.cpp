#include "messages/services.hpp"

#include "messages/build.hpp"
#include "messages/data_plane.hpp"
#include "messages/discovery.hpp"
#include "messages/exec.hpp"
#include "messages/files.hpp"
#include "messages/logs.hpp"
#include "messages/sandbox.hpp"
#include "messages/sandbox_template.hpp"
#include "messages/settings.hpp"
#include "messages/snapshot.hpp"
#include "messages/volume.hpp"

#include <algorithm>

namespace cwsandbox::messages {
namespace {

constexpr MethodType kSandboxService[] = {
    {"CreateSandbox", &CreateSandboxRequest::kType, &Sandbox::kType},
    {"CreateSandboxFromTemplate", &CreateSandboxFromTemplateRequest::kType, &Sandbox::kType},
    {"CreateSandboxFromFile", &CreateSandboxFromFileRequest::kType, &Sandbox::kType},
    {"GetSandbox", &GetSandboxRequest::kType, &Sandbox::kType},
    {"GetSandboxBuildLogs", &GetSandboxBuildLogsRequest::kType, &GetSandboxBuildLogsResponse::kType},
    {"ListSandboxes", &ListSandboxesRequest::kType, &ListSandboxesResponse::kType},
    {"DeleteSandbox", &DeleteSandboxRequest::kType, &DeleteSandboxResponse::kType},
    {"PurgeSandboxes", &PurgeSandboxesRequest::kType, &PurgeSandboxesResponse::kType},
    {"ConnectSandbox", &ConnectSandboxRequest::kType, &SandboxConnection::kType},
    {"Exec", &ExecRequest::kType, &ExecResponse::kType},
    {"StreamExec", &ExecStreamRequest::kType, &ExecStreamResponse::kType, Streaming::both},
    {"StreamLogs", &StreamLogsRequest::kType, &LogEntry::kType, Streaming::server},
    {"WriteFile", &WriteFileRequest::kType, &WriteFileResponse::kType},
    {"ReadFile", &ReadFileRequest::kType, &ReadFileResponse::kType},
    {"CreateFileSystemSnapshot", &CreateFileSystemSnapshotRequest::kType, &FileSystemSnapshot::kType},
    {"GetFileSystemSnapshot", &GetFileSystemSnapshotRequest::kType, &FileSystemSnapshot::kType},
    {"ListFileSystemSnapshots", &ListFileSystemSnapshotsRequest::kType, &ListFileSystemSnapshotsResponse::kType},
    {"DeleteFileSystemSnapshot", &DeleteFileSystemSnapshotRequest::kType, &FileSystemSnapshot::kType},
};

constexpr MethodType kSandboxDataPlaneService[] = {
    {"Exec", &ExecRequest::kType, &ExecResponse::kType},
    {"StreamExec", &ExecStreamRequest::kType, &ExecStreamResponse::kType, Streaming::both},
    {"StreamLogs", &StreamLogsRequest::kType, &LogEntry::kType, Streaming::server},
    {"WriteFile", &WriteFileRequest::kType, &WriteFileResponse::kType},
    {"ReadFile", &ReadFileRequest::kType, &ReadFileResponse::kType},
};

constexpr MethodType kDiscoveryService[] = {
    {"ListAvailableRunners", &ListAvailableRunnersRequest::kType, &ListAvailableRunnersResponse::kType},
    {"GetAvailableRunner", &GetAvailableRunnerRequest::kType, &AvailableRunner::kType},
};

constexpr MethodType kSandboxTemplateService[] = {
    {"CreateSandboxTemplate", &CreateSandboxTemplateRequest::kType, &SandboxTemplate::kType},
    {"GetSandboxTemplate", &GetSandboxTemplateRequest::kType, &SandboxTemplate::kType},
    {"ListSandboxTemplates", &ListSandboxTemplatesRequest::kType, &ListSandboxTemplatesResponse::kType},
    {"UpdateSandboxTemplate", &UpdateSandboxTemplateRequest::kType, &SandboxTemplate::kType},
    {"DeleteSandboxTemplate", &DeleteSandboxTemplateRequest::kType, &Empty::kType},
};

constexpr MethodType kSettingsService[] = {
    {"GetBuildStorageConfig", &GetBuildStorageConfigRequest::kType, &BuildStorageConfig::kType},
    {"UpdateBuildStorageConfig", &UpdateBuildStorageConfigRequest::kType, &BuildStorageConfig::kType},
    {"GetObjectStorageWifConfig", &GetObjectStorageWifConfigRequest::kType, &ObjectStorageWifConfig::kType},
    {"UpdateObjectStorageWifConfig", &UpdateObjectStorageWifConfigRequest::kType, &ObjectStorageWifConfig::kType},
    {"DeleteObjectStorageWifConfig", &DeleteObjectStorageWifConfigRequest::kType, &Empty::kType},
    {"GetFileSystemSnapshotBucketConfig", &GetFileSystemSnapshotBucketConfigRequest::kType, &FileSystemSnapshotBucketConfig::kType},
    {"UpdateFileSystemSnapshotBucketConfig", &UpdateFileSystemSnapshotBucketConfigRequest::kType,
     &FileSystemSnapshotBucketConfig::kType},
    {"CreateSecretStore", &CreateSecretStoreRequest::kType, &SecretStore::kType},
    {"GetSecretStore", &GetSecretStoreRequest::kType, &SecretStore::kType},
    {"ListSecretStores", &ListSecretStoresRequest::kType, &ListSecretStoresResponse::kType},
    {"UpdateSecretStore", &UpdateSecretStoreRequest::kType, &SecretStore::kType},
    {"DeleteSecretStore", &DeleteSecretStoreRequest::kType, &Empty::kType},
};

constexpr MethodType kVolumeService[] = {
    {"CreateVolume", &CreateVolumeRequest::kType, &Volume::kType},
    {"GetVolume", &GetVolumeRequest::kType, &Volume::kType},
    {"ListVolumes", &ListVolumesRequest::kType, &ListVolumesResponse::kType},
    {"UpdateVolume", &UpdateVolumeRequest::kType, &Volume::kType},
    {"DeleteVolume", &DeleteVolumeRequest::kType, &Volume::kType},
    {"ValidateVolume", &ValidateVolumeRequest::kType, &Volume::kType},
};

constexpr MethodType kFileService[] = {
    {"Stat", &StatFileRequest::kType, &FileInfo::kType},
    {"List", &ListFilesRequest::kType, &ListFilesResponse::kType, Streaming::server},
    {"Watch", &WatchFileRequest::kType, &WatchFileResponse::kType, Streaming::server},
    {"MakeDirectory", &MakeDirectoryRequest::kType, &MakeDirectoryResponse::kType},
    {"Remove", &RemoveFileRequest::kType, &RemoveFileResponse::kType},
    {"Rename", &RenameFileRequest::kType, &RenameFileResponse::kType},
};

constexpr ServiceType kServices[] = {
    {"coreweave.sandbox.v1.SandboxService", kSandboxService},
    {"coreweave.sandbox.v1.SandboxDataPlaneService", kSandboxDataPlaneService},
    {"coreweave.sandbox.v1.DiscoveryService", kDiscoveryService},
    {"coreweave.sandbox.v1.SandboxTemplateService", kSandboxTemplateService},
    {"coreweave.sandbox.v1.SettingsService", kSettingsService},
    {"coreweave.sandbox.v1.VolumeService", kVolumeService},
    {"cwsandbox.v1.FileService", kFileService},
};

void add(const Type& type, std::vector<const Type*>& out) {
  if (std::find(out.begin(), out.end(), &type) != out.end()) return;
  for (const Field& field : type.fields) {
    if (field.kind == Kind::message) add(*field.type, out);
  }
  out.push_back(&type);
}

}  // namespace

std::span<const ServiceType> services() noexcept { return kServices; }

std::vector<const Type*> all_types(std::span<const ServiceType> of) {
  std::vector<const Type*> out;
  for (const ServiceType& service : of) {
    for (const MethodType& method : service.methods) {
      add(*method.request, out);
      add(*method.answer, out);
    }
  }
  return out;
}

}  // namespace cwsandbox::messages
