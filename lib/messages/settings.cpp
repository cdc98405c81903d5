#include "messages/settings.hpp"

namespace cwsandbox::messages {
namespace {

constexpr std::array<std::string_view, 3> kFileSystemSnapshotBucketModeNames = {"FILE_SYSTEM_SNAPSHOT_BUCKET_MODE_UNSPECIFIED",
                                                                                "FILE_SYSTEM_SNAPSHOT_BUCKET_MODE_CW_MANAGED",
                                                                                "FILE_SYSTEM_SNAPSHOT_BUCKET_MODE_BRING_YOUR_OWN"};
constexpr EnumType kFileSystemSnapshotBucketMode{"coreweave.sandbox.v1.FileSystemSnapshotBucketMode",
                                                 kFileSystemSnapshotBucketModeNames};

constexpr std::array<std::string_view, 2> kSecretStoreProviderTypeNames = {"SECRET_STORE_PROVIDER_TYPE_UNSPECIFIED",
                                                                           "SECRET_STORE_PROVIDER_TYPE_WANDB"};
constexpr EnumType kSecretStoreProviderType{"coreweave.sandbox.v1.SecretStoreProviderType", kSecretStoreProviderTypeNames};

constexpr std::array<std::string_view, 3> kBuildStorageModeNames = {"BUILD_STORAGE_MODE_UNSPECIFIED", "BUILD_STORAGE_MODE_MANAGED",
                                                                    "BUILD_STORAGE_MODE_CUSTOMER_OWNED"};
constexpr EnumType kBuildStorageMode{"coreweave.sandbox.v1.BuildStorageMode", kBuildStorageModeNames};

constexpr Field kObjectStorageWifConfig[] = {
    field<&ObjectStorageWifConfig::wif_config_id>(1, "wif_config_id"),
    field<&ObjectStorageWifConfig::enabled>(2, "enabled"),
    field<&ObjectStorageWifConfig::allowed_buckets>(3, "allowed_buckets"),
    field<&ObjectStorageWifConfig::max_permission>(4, "max_permission"),
    field<&ObjectStorageWifConfig::create_time>(5, "create_time"),
    field<&ObjectStorageWifConfig::update_time>(6, "update_time"),
};

constexpr Field kUpdateObjectStorageWifConfigRequest[] = {
    field<&UpdateObjectStorageWifConfigRequest::object_storage_wif_config>(1, "object_storage_wif_config"),
    field<&UpdateObjectStorageWifConfigRequest::update_mask>(2, "update_mask"),
};

constexpr Field kDeleteObjectStorageWifConfigRequest[] = {
    field<&DeleteObjectStorageWifConfigRequest::allow_missing>(1, "allow_missing"),
};

constexpr Field kFileSystemSnapshotBucketConfig[] = {
    field<&FileSystemSnapshotBucketConfig::bucket_name>(1, "bucket_name"),
    field<&FileSystemSnapshotBucketConfig::region>(2, "region"),
    field<&FileSystemSnapshotBucketConfig::mode>(3, "mode"),
    field<&FileSystemSnapshotBucketConfig::effective_bucket_name>(4, "effective_bucket_name"),
};

constexpr Field kUpdateFileSystemSnapshotBucketConfigRequest[] = {
    field<&UpdateFileSystemSnapshotBucketConfigRequest::file_system_snapshot_bucket_config>(1,
                                                                                            "file_system_snapshot_bucket_config"),
    field<&UpdateFileSystemSnapshotBucketConfigRequest::update_mask>(2, "update_mask"),
};

constexpr Field kWandBStoreConfig[] = {
    field<&WandBStoreConfig::api_url>(1, "api_url"),
    field<&WandBStoreConfig::team>(2, "team"),
};

constexpr Field kSecretStore[] = {
    field<&SecretStore::name>(1, "name"),
    field<&SecretStore::provider_type>(2, "provider_type"),
    field<&SecretStore::wandb>(10, "wandb").one_of("provider_config"),
    field<&SecretStore::create_time>(3, "create_time"),
    field<&SecretStore::update_time>(4, "update_time"),
};

constexpr Field kCreateSecretStoreRequest[] = {
    field<&CreateSecretStoreRequest::secret_store>(1, "secret_store"),
    field<&CreateSecretStoreRequest::request_id>(2, "request_id"),
};

constexpr Field kGetSecretStoreRequest[] = {
    field<&GetSecretStoreRequest::name>(1, "name"),
};

constexpr Field kListSecretStoresRequest[] = {
    field<&ListSecretStoresRequest::page_size>(1, "page_size"),
    field<&ListSecretStoresRequest::page_token>(2, "page_token"),
};

constexpr Field kListSecretStoresResponse[] = {
    field<&ListSecretStoresResponse::secret_stores>(1, "secret_stores").at_most(kMaxPage),
    field<&ListSecretStoresResponse::next_page_token>(2, "next_page_token"),
};

constexpr Field kUpdateSecretStoreRequest[] = {
    field<&UpdateSecretStoreRequest::secret_store>(1, "secret_store"),
    field<&UpdateSecretStoreRequest::update_mask>(2, "update_mask"),
};

constexpr Field kDeleteSecretStoreRequest[] = {
    field<&DeleteSecretStoreRequest::name>(1, "name"),
    field<&DeleteSecretStoreRequest::allow_missing>(2, "allow_missing"),
};

constexpr Field kBuildStorageConfig[] = {
    field<&BuildStorageConfig::enabled>(1, "enabled"),
    field<&BuildStorageConfig::mode>(2, "mode"),
    field<&BuildStorageConfig::bucket_name>(3, "bucket_name"),
    field<&BuildStorageConfig::location>(4, "location"),
    field<&BuildStorageConfig::registry_namespace>(5, "registry_namespace"),
    field<&BuildStorageConfig::billing_reference>(6, "billing_reference"),
    field<&BuildStorageConfig::etag>(7, "etag"),
    field<&BuildStorageConfig::revision>(8, "revision"),
    field<&BuildStorageConfig::effective_bucket_name>(9, "effective_bucket_name"),
};

constexpr Field kUpdateBuildStorageConfigRequest[] = {
    field<&UpdateBuildStorageConfigRequest::build_storage_config>(1, "build_storage_config"),
    field<&UpdateBuildStorageConfigRequest::update_mask>(2, "update_mask"),
};

}  // namespace

const EnumType& describe(FileSystemSnapshotBucketMode) noexcept { return kFileSystemSnapshotBucketMode; }
const EnumType& describe(SecretStoreProviderType) noexcept { return kSecretStoreProviderType; }
const EnumType& describe(BuildStorageMode) noexcept { return kBuildStorageMode; }

constinit const Type ObjectStorageWifConfig::kType =
    table<ObjectStorageWifConfig>("coreweave.sandbox.v1.ObjectStorageWifConfig", kObjectStorageWifConfig);
constinit const Type GetObjectStorageWifConfigRequest::kType =
    table<GetObjectStorageWifConfigRequest>("coreweave.sandbox.v1.GetObjectStorageWifConfigRequest", {});
constinit const Type UpdateObjectStorageWifConfigRequest::kType = table<UpdateObjectStorageWifConfigRequest>(
    "coreweave.sandbox.v1.UpdateObjectStorageWifConfigRequest", kUpdateObjectStorageWifConfigRequest);
constinit const Type DeleteObjectStorageWifConfigRequest::kType = table<DeleteObjectStorageWifConfigRequest>(
    "coreweave.sandbox.v1.DeleteObjectStorageWifConfigRequest", kDeleteObjectStorageWifConfigRequest);
constinit const Type FileSystemSnapshotBucketConfig::kType =
    table<FileSystemSnapshotBucketConfig>("coreweave.sandbox.v1.FileSystemSnapshotBucketConfig", kFileSystemSnapshotBucketConfig);
constinit const Type GetFileSystemSnapshotBucketConfigRequest::kType =
    table<GetFileSystemSnapshotBucketConfigRequest>("coreweave.sandbox.v1.GetFileSystemSnapshotBucketConfigRequest", {});
constinit const Type UpdateFileSystemSnapshotBucketConfigRequest::kType = table<UpdateFileSystemSnapshotBucketConfigRequest>(
    "coreweave.sandbox.v1.UpdateFileSystemSnapshotBucketConfigRequest", kUpdateFileSystemSnapshotBucketConfigRequest);
constinit const Type WandBStoreConfig::kType = table<WandBStoreConfig>("coreweave.sandbox.v1.WandBStoreConfig", kWandBStoreConfig);
constinit const Type SecretStore::kType = table<SecretStore>("coreweave.sandbox.v1.SecretStore", kSecretStore);
constinit const Type CreateSecretStoreRequest::kType =
    table<CreateSecretStoreRequest>("coreweave.sandbox.v1.CreateSecretStoreRequest", kCreateSecretStoreRequest);
constinit const Type GetSecretStoreRequest::kType =
    table<GetSecretStoreRequest>("coreweave.sandbox.v1.GetSecretStoreRequest", kGetSecretStoreRequest);
constinit const Type ListSecretStoresRequest::kType =
    table<ListSecretStoresRequest>("coreweave.sandbox.v1.ListSecretStoresRequest", kListSecretStoresRequest);
constinit const Type ListSecretStoresResponse::kType =
    table<ListSecretStoresResponse>("coreweave.sandbox.v1.ListSecretStoresResponse", kListSecretStoresResponse);
constinit const Type UpdateSecretStoreRequest::kType =
    table<UpdateSecretStoreRequest>("coreweave.sandbox.v1.UpdateSecretStoreRequest", kUpdateSecretStoreRequest);
constinit const Type DeleteSecretStoreRequest::kType =
    table<DeleteSecretStoreRequest>("coreweave.sandbox.v1.DeleteSecretStoreRequest", kDeleteSecretStoreRequest);
constinit const Type BuildStorageConfig::kType =
    table<BuildStorageConfig>("coreweave.sandbox.v1.BuildStorageConfig", kBuildStorageConfig);
constinit const Type GetBuildStorageConfigRequest::kType =
    table<GetBuildStorageConfigRequest>("coreweave.sandbox.v1.GetBuildStorageConfigRequest", {});
constinit const Type UpdateBuildStorageConfigRequest::kType = table<UpdateBuildStorageConfigRequest>(
    "coreweave.sandbox.v1.UpdateBuildStorageConfigRequest", kUpdateBuildStorageConfigRequest);

}  // namespace cwsandbox::messages
