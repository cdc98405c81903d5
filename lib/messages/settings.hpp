// coreweave.sandbox.v1, settings.proto: secret stores and object storage.
#pragma once

#include "messages/fields.hpp"
#include "messages/sandbox.hpp"

namespace cwsandbox::messages {

enum class FileSystemSnapshotBucketMode : std::uint8_t { unspecified, cw_managed, bring_your_own };
[[nodiscard]] const EnumType& describe(FileSystemSnapshotBucketMode) noexcept;

enum class SecretStoreProviderType : std::uint8_t { unspecified, wandb };
[[nodiscard]] const EnumType& describe(SecretStoreProviderType) noexcept;

enum class BuildStorageMode : std::uint8_t { unspecified, managed, customer_owned };
[[nodiscard]] const EnumType& describe(BuildStorageMode) noexcept;

struct ObjectStorageWifConfig {
  std::string wif_config_id;
  bool enabled = false;
  std::vector<std::string> allowed_buckets;
  ObjectStoragePermission max_permission = ObjectStoragePermission::unspecified;
  Timestamp create_time;
  Timestamp update_time;

  static const Type kType;
};

struct GetObjectStorageWifConfigRequest {
  static const Type kType;
};

struct UpdateObjectStorageWifConfigRequest {
  std::optional<ObjectStorageWifConfig> object_storage_wif_config;
  std::optional<FieldMask> update_mask;

  static const Type kType;
};

struct DeleteObjectStorageWifConfigRequest {
  bool allow_missing = false;

  static const Type kType;
};

struct FileSystemSnapshotBucketConfig {
  std::string bucket_name;
  std::string region;
  FileSystemSnapshotBucketMode mode = FileSystemSnapshotBucketMode::unspecified;
  std::string effective_bucket_name;

  static const Type kType;
};

struct GetFileSystemSnapshotBucketConfigRequest {
  static const Type kType;
};

struct UpdateFileSystemSnapshotBucketConfigRequest {
  std::optional<FileSystemSnapshotBucketConfig> file_system_snapshot_bucket_config;
  std::optional<FieldMask> update_mask;

  static const Type kType;
};

struct WandBStoreConfig {
  std::string api_url;
  std::string team;

  static const Type kType;
};

struct SecretStore {
  std::string name;
  SecretStoreProviderType provider_type = SecretStoreProviderType::unspecified;
  std::optional<WandBStoreConfig> wandb;
  Timestamp create_time;
  Timestamp update_time;

  static const Type kType;
};

struct CreateSecretStoreRequest {
  std::optional<SecretStore> secret_store;
  std::string request_id;

  static const Type kType;
};

struct GetSecretStoreRequest {
  std::string name;

  static const Type kType;
};

struct ListSecretStoresRequest {
  std::int32_t page_size = 0;
  std::string page_token;

  static const Type kType;
};

struct ListSecretStoresResponse {
  std::vector<SecretStore> secret_stores;
  std::string next_page_token;

  static const Type kType;
};

struct UpdateSecretStoreRequest {
  std::optional<SecretStore> secret_store;
  std::optional<FieldMask> update_mask;

  static const Type kType;
};

struct DeleteSecretStoreRequest {
  std::string name;
  bool allow_missing = false;

  static const Type kType;
};

struct BuildStorageConfig {
  bool enabled = false;
  BuildStorageMode mode = BuildStorageMode::unspecified;
  std::string bucket_name;
  std::string location;
  std::string registry_namespace;
  std::string billing_reference;
  std::string etag;
  std::int64_t revision = 0;
  std::string effective_bucket_name;

  static const Type kType;
};

struct GetBuildStorageConfigRequest {
  static const Type kType;
};

struct UpdateBuildStorageConfigRequest {
  std::optional<BuildStorageConfig> build_storage_config;
  std::optional<FieldMask> update_mask;

  static const Type kType;
};

}  // namespace cwsandbox::messages
