// coreweave.sandbox.v1, volume.proto: volumes that outlive a sandbox.
#pragma once

#include "messages/fields.hpp"

namespace cwsandbox::messages {

enum class VolumeState : std::uint8_t { unspecified, validating, ready, error, deleting };
[[nodiscard]] const EnumType& describe(VolumeState) noexcept;

enum class VolumeLocality : std::uint8_t { unspecified, cluster_local, global };
[[nodiscard]] const EnumType& describe(VolumeLocality) noexcept;

struct PvcVolumeSource {
  std::string runner_id;
  std::string namespace_;
  std::string claim_name;
  std::string sub_path;

  static const Type kType;
};

struct VolumeSpec {
  std::optional<PvcVolumeSource> pvc;
  bool read_only = false;
  std::string description;

  static const Type kType;
};

struct VolumeStatus {
  VolumeState state = VolumeState::unspecified;
  std::string state_reason;
  VolumeLocality locality = VolumeLocality::unspecified;
  Timestamp create_time;
  Timestamp update_time;
  Timestamp last_validated_time;
  std::vector<std::string> access_modes;
  std::string capacity;
  std::int32_t attached_sandbox_count = 0;

  static const Type kType;
};

struct Volume {
  std::string volume_id;
  std::optional<VolumeSpec> spec;
  std::optional<VolumeStatus> status;

  static const Type kType;
};

struct CreateVolumeRequest {
  std::optional<Volume> volume;
  std::string request_id;

  static const Type kType;
};

struct GetVolumeRequest {
  std::string volume_id;

  static const Type kType;
};

struct ListVolumesRequest {
  std::int32_t page_size = 0;
  std::string page_token;
  std::vector<VolumeState> states;
  std::vector<std::string> runner_ids;

  static const Type kType;
};

struct ListVolumesResponse {
  std::vector<Volume> volumes;
  std::string next_page_token;

  static const Type kType;
};

struct UpdateVolumeRequest {
  std::string volume_id;
  std::optional<Volume> volume;
  std::optional<FieldMask> update_mask;

  static const Type kType;
};

struct DeleteVolumeRequest {
  std::string volume_id;
  bool allow_missing = false;
  bool force = false;

  static const Type kType;
};

struct ValidateVolumeRequest {
  std::string volume_id;

  static const Type kType;
};

}  // namespace cwsandbox::messages
