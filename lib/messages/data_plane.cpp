#include "messages/data_plane.hpp"

namespace cwsandbox::messages {
namespace {

constexpr std::array<std::string_view, 6> kSandboxDataPermissionNames = {
    "SANDBOX_DATA_PERMISSION_UNSPECIFIED", "SANDBOX_DATA_PERMISSION_EXEC",       "SANDBOX_DATA_PERMISSION_STREAM_EXEC",
    "SANDBOX_DATA_PERMISSION_STREAM_LOGS", "SANDBOX_DATA_PERMISSION_WRITE_FILE", "SANDBOX_DATA_PERMISSION_READ_FILE"};
constexpr EnumType kSandboxDataPermission{"coreweave.sandbox.v1.SandboxDataPermission", kSandboxDataPermissionNames};

constexpr std::array<std::string_view, 2> kSandboxDataTransportNames = {"SANDBOX_DATA_TRANSPORT_UNSPECIFIED",
                                                                        "SANDBOX_DATA_TRANSPORT_DIRECT_MTLS"};
constexpr EnumType kSandboxDataTransport{"coreweave.sandbox.v1.SandboxDataTransport", kSandboxDataTransportNames};

constexpr std::array<std::string_view, 2> kSandboxDataProtocolNames = {"SANDBOX_DATA_PROTOCOL_UNSPECIFIED",
                                                                       "SANDBOX_DATA_PROTOCOL_CONNECT_H2_V1"};
constexpr EnumType kSandboxDataProtocol{"coreweave.sandbox.v1.SandboxDataProtocol", kSandboxDataProtocolNames};

constexpr Field kConnectSandboxRequest[] = {
    field<&ConnectSandboxRequest::sandbox_id>(1, "sandbox_id"),
    field<&ConnectSandboxRequest::csr_der>(2, "csr_der").bytes(),
    field<&ConnectSandboxRequest::requested_permissions>(3, "requested_permissions"),
};

constexpr Field kSandboxConnection[] = {
    field<&SandboxConnection::endpoint_uri>(1, "endpoint_uri"),
    field<&SandboxConnection::client_certificate_chain_pem>(2, "client_certificate_chain_pem").bytes(),
    field<&SandboxConnection::server_ca_bundle_pem>(3, "server_ca_bundle_pem").bytes(),
    field<&SandboxConnection::expires_at>(4, "expires_at"),
    field<&SandboxConnection::endpoint_id>(5, "endpoint_id"),
    field<&SandboxConnection::transport>(6, "transport"),
    field<&SandboxConnection::protocol>(7, "protocol"),
    field<&SandboxConnection::granted_permissions>(8, "granted_permissions"),
};

}  // namespace

const EnumType& describe(SandboxDataPermission) noexcept { return kSandboxDataPermission; }
const EnumType& describe(SandboxDataTransport) noexcept { return kSandboxDataTransport; }
const EnumType& describe(SandboxDataProtocol) noexcept { return kSandboxDataProtocol; }

constinit const Type ConnectSandboxRequest::kType =
    table<ConnectSandboxRequest>("coreweave.sandbox.v1.ConnectSandboxRequest", kConnectSandboxRequest);
constinit const Type SandboxConnection::kType =
    table<SandboxConnection>("coreweave.sandbox.v1.SandboxConnection", kSandboxConnection);

}  // namespace cwsandbox::messages
