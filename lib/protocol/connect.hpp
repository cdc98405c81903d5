// Errors of the Connect protocol: one value on both sides of the wire.
//
// The details that this API uses (google.rpc.ErrorInfo, RetryInfo, BadRequest) are fields here; on the wire they are protobuf
// messages in unpadded base64 inside the JSON body.
#pragma once

#include "base/error_code.hpp"

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace cwsandbox::protocol {

using base::ErrorCode;

/// The domain under which an ErrorInfo's reason has a meaning to us (ER-3).
inline constexpr std::string_view kErrorDomain = "cwsandbox.com";

/// google.rpc.ErrorInfo: what happened, for programs.
struct ErrorInfo {
  std::string reason;  ///< e.g. "CWSANDBOX_SANDBOX_NOT_FOUND"
  std::string domain;  ///< kErrorDomain when it is one of ours
  std::map<std::string, std::string> metadata;
};

/// One entry of google.rpc.BadRequest.
struct FieldViolation {
  std::string field;  ///< JSON path, e.g. "sandbox.spec.containers[0].image"
  std::string description;
};

/// An error as the Connect protocol carries it.
struct ConnectError {
  ErrorCode code = ErrorCode::unknown;
  std::string message;
  std::optional<ErrorInfo> info;
  std::optional<std::chrono::milliseconds> retry_delay;  ///< google.rpc.RetryInfo; never negative
  std::vector<FieldViolation> violations;
};

/// The HTTP status of a Connect code.
[[nodiscard]] unsigned http_status(ErrorCode code) noexcept;

/// The Connect code of a response that has no Connect error body.
[[nodiscard]] ErrorCode code_of_status(unsigned http_status) noexcept;

/// The JSON body of an error response. Text that is not UTF-8 is repaired with U+FFFD.
[[nodiscard]] std::string encode_error(const ConnectError& error);

/// What a response other than 200 says. Never throws for what the peer sent: a body that is no Connect error is mapped from the
/// status, a detail that cannot be read is left out, and what is kept is bounded (1 MiB of body looked at, 64 details, 256
/// violations and metadata entries).
[[nodiscard]] ConnectError decode_error(unsigned http_status, std::string_view body);

}  // namespace cwsandbox::protocol
