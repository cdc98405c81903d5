#include "messages/volume.hpp"

namespace cwsandbox::messages {
namespace {

constexpr std::array<std::string_view, 5> kVolumeStateNames = {"VOLUME_STATE_UNSPECIFIED", "VOLUME_STATE_VALIDATING",
                                                               "VOLUME_STATE_READY", "VOLUME_STATE_ERROR", "VOLUME_STATE_DELETING"};
constexpr EnumType kVolumeState{"coreweave.sandbox.v1.VolumeState", kVolumeStateNames};

constexpr std::array<std::string_view, 3> kVolumeLocalityNames = {"VOLUME_LOCALITY_UNSPECIFIED", "VOLUME_LOCALITY_CLUSTER_LOCAL",
                                                                  "VOLUME_LOCALITY_GLOBAL"};
constexpr EnumType kVolumeLocality{"coreweave.sandbox.v1.VolumeLocality", kVolumeLocalityNames};

constexpr Field kPvcVolumeSource[] = {
    field<&PvcVolumeSource::runner_id>(1, "runner_id"),
    field<&PvcVolumeSource::namespace_>(2, "namespace"),
    field<&PvcVolumeSource::claim_name>(3, "claim_name"),
    field<&PvcVolumeSource::sub_path>(4, "sub_path"),
};

constexpr Field kVolumeSpec[] = {
    field<&VolumeSpec::pvc>(1, "pvc").one_of("source"),
    field<&VolumeSpec::read_only>(2, "read_only"),
    field<&VolumeSpec::description>(3, "description"),
};

constexpr Field kVolumeStatus[] = {
    field<&VolumeStatus::state>(1, "state"),
    field<&VolumeStatus::state_reason>(2, "state_reason"),
    field<&VolumeStatus::locality>(3, "locality"),
    field<&VolumeStatus::create_time>(4, "create_time"),
    field<&VolumeStatus::update_time>(5, "update_time"),
    field<&VolumeStatus::last_validated_time>(6, "last_validated_time"),
    field<&VolumeStatus::access_modes>(7, "access_modes"),
    field<&VolumeStatus::capacity>(8, "capacity"),
    field<&VolumeStatus::attached_sandbox_count>(9, "attached_sandbox_count"),
};

constexpr Field kVolume[] = {
    field<&Volume::volume_id>(1, "volume_id"),
    field<&Volume::spec>(2, "spec"),
    field<&Volume::status>(3, "status"),
};

constexpr Field kCreateVolumeRequest[] = {
    field<&CreateVolumeRequest::volume>(1, "volume"),
    field<&CreateVolumeRequest::request_id>(2, "request_id"),
};

constexpr Field kGetVolumeRequest[] = {
    field<&GetVolumeRequest::volume_id>(1, "volume_id"),
};

constexpr Field kListVolumesRequest[] = {
    field<&ListVolumesRequest::page_size>(1, "page_size"),
    field<&ListVolumesRequest::page_token>(2, "page_token"),
    field<&ListVolumesRequest::states>(3, "states"),
    field<&ListVolumesRequest::runner_ids>(4, "runner_ids"),
};

constexpr Field kListVolumesResponse[] = {
    field<&ListVolumesResponse::volumes>(1, "volumes").at_most(kMaxPage),
    field<&ListVolumesResponse::next_page_token>(2, "next_page_token"),
};

constexpr Field kUpdateVolumeRequest[] = {
    field<&UpdateVolumeRequest::volume_id>(1, "volume_id"),
    field<&UpdateVolumeRequest::volume>(2, "volume"),
    field<&UpdateVolumeRequest::update_mask>(3, "update_mask"),
};

constexpr Field kDeleteVolumeRequest[] = {
    field<&DeleteVolumeRequest::volume_id>(1, "volume_id"),
    field<&DeleteVolumeRequest::allow_missing>(2, "allow_missing"),
    field<&DeleteVolumeRequest::force>(3, "force"),
};

constexpr Field kValidateVolumeRequest[] = {
    field<&ValidateVolumeRequest::volume_id>(1, "volume_id"),
};

}  // namespace

const EnumType& describe(VolumeState) noexcept { return kVolumeState; }
const EnumType& describe(VolumeLocality) noexcept { return kVolumeLocality; }

constinit const Type PvcVolumeSource::kType = table<PvcVolumeSource>("coreweave.sandbox.v1.PvcVolumeSource", kPvcVolumeSource);
constinit const Type VolumeSpec::kType = table<VolumeSpec>("coreweave.sandbox.v1.VolumeSpec", kVolumeSpec);
constinit const Type VolumeStatus::kType = table<VolumeStatus>("coreweave.sandbox.v1.VolumeStatus", kVolumeStatus);
constinit const Type Volume::kType = table<Volume>("coreweave.sandbox.v1.Volume", kVolume);
constinit const Type CreateVolumeRequest::kType =
    table<CreateVolumeRequest>("coreweave.sandbox.v1.CreateVolumeRequest", kCreateVolumeRequest);
constinit const Type GetVolumeRequest::kType = table<GetVolumeRequest>("coreweave.sandbox.v1.GetVolumeRequest", kGetVolumeRequest);
constinit const Type ListVolumesRequest::kType =
    table<ListVolumesRequest>("coreweave.sandbox.v1.ListVolumesRequest", kListVolumesRequest);
constinit const Type ListVolumesResponse::kType =
    table<ListVolumesResponse>("coreweave.sandbox.v1.ListVolumesResponse", kListVolumesResponse);
constinit const Type UpdateVolumeRequest::kType =
    table<UpdateVolumeRequest>("coreweave.sandbox.v1.UpdateVolumeRequest", kUpdateVolumeRequest);
constinit const Type DeleteVolumeRequest::kType =
    table<DeleteVolumeRequest>("coreweave.sandbox.v1.DeleteVolumeRequest", kDeleteVolumeRequest);
constinit const Type ValidateVolumeRequest::kType =
    table<ValidateVolumeRequest>("coreweave.sandbox.v1.ValidateVolumeRequest", kValidateVolumeRequest);

}  // namespace cwsandbox::messages
