// coreweave.sandbox.v1, sandbox.proto: the way to a sandbox beside the gateway.
#pragma once

#include "messages/fields.hpp"

namespace cwsandbox::messages {

enum class SandboxDataPermission : std::uint8_t { unspecified, exec, stream_exec, stream_logs, write_file, read_file };
[[nodiscard]] const EnumType& describe(SandboxDataPermission) noexcept;

enum class SandboxDataTransport : std::uint8_t { unspecified, direct_mtls };
[[nodiscard]] const EnumType& describe(SandboxDataTransport) noexcept;

enum class SandboxDataProtocol : std::uint8_t { unspecified, connect_h2_v1 };
[[nodiscard]] const EnumType& describe(SandboxDataProtocol) noexcept;

struct ConnectSandboxRequest {
  std::string sandbox_id;
  std::string csr_der;
  std::vector<SandboxDataPermission> requested_permissions;

  static const Type kType;
};

struct SandboxConnection {
  std::string endpoint_uri;
  std::string client_certificate_chain_pem;
  std::string server_ca_bundle_pem;
  Timestamp expires_at;
  std::string endpoint_id;
  SandboxDataTransport transport = SandboxDataTransport::unspecified;
  SandboxDataProtocol protocol = SandboxDataProtocol::unspecified;
  std::vector<SandboxDataPermission> granted_permissions;

  static const Type kType;
};

}  // namespace cwsandbox::messages
