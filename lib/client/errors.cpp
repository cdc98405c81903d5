#include "client/errors.hpp"

#include "base/text.hpp"
#include "net/http_client.hpp"

#include <array>
#include <string_view>

namespace cwsandbox::client {

namespace {

using std::make_exception_ptr;

enum class Type : std::uint8_t {
  by_code,
  authentication,
  validation,
  sandbox,
  not_running,
  unavailable,
  request_timeout,
  command_timeout,
  not_found,
  execution,
  backpressure,
  truncated,
  file,
  resource_exhausted,
  snapshot,
};

struct Row {
  std::string_view reason;
  Type type;
};

constexpr std::string_view kPrefix = "CWSANDBOX_";

constexpr std::array kReasons{
    Row{"SANDBOX_NOT_FOUND", Type::not_found},
    Row{"SANDBOX_NOT_RUNNING", Type::not_running},
    Row{"COMMAND_TIMEOUT", Type::command_timeout},
    Row{"COMMAND_NOT_STARTED", Type::execution},
    Row{"PROCESS_NOT_FOUND", Type::execution},
    Row{"RUNNER_UNAVAILABLE", Type::unavailable},
    Row{"BACKEND_UNAVAILABLE", Type::unavailable},
    Row{"STREAM_BACKPRESSURE", Type::backpressure},
    Row{"STREAM_TRUNCATED", Type::truncated},
    Row{"EXEC_REPLAY_GAP", Type::truncated},
    Row{"FILE_NOT_FOUND", Type::file},
    Row{"FILE_IS_DIRECTORY", Type::file},
    Row{"FILE_IO_FAILED", Type::file},
    Row{"FILE_PERMISSION_DENIED", Type::file},
    Row{"FILE_TOO_LARGE", Type::file},
    Row{"FILE_TRUNCATED", Type::file},
    Row{"FSS_NOT_FOUND", Type::snapshot},
    Row{"FSS_NOT_READY", Type::snapshot},
    Row{"FSS_NOT_SUPPORTED", Type::snapshot},
    Row{"FSS_SIZE_EXCEEDED", Type::snapshot},
    Row{"FSS_QUOTA_EXCEEDED", Type::snapshot},
    Row{"FSS_BUCKET_MISMATCH", Type::snapshot},
    Row{"FSS_WAIT_TIMEOUT", Type::snapshot},
    Row{"FSS_BACKEND_THROTTLED", Type::snapshot},
    Row{"FSS_INFLIGHT_LIMIT", Type::snapshot},
};

Type type_of_reason(std::string_view reason) {
  if (reason.starts_with(kPrefix)) reason.remove_prefix(kPrefix.size());
  for (const Row& row : kReasons)
    if (row.reason == reason) return row.type;
  return Type::by_code;
}

Type type_of_code(ErrorCode code) {
  switch (code) {
    case ErrorCode::not_found:
      return Type::not_found;
    case ErrorCode::canceled:
      return Type::not_running;
    case ErrorCode::deadline_exceeded:
      return Type::request_timeout;
    case ErrorCode::unavailable:
      return Type::unavailable;
    case ErrorCode::resource_exhausted:
      return Type::resource_exhausted;
    case ErrorCode::unauthenticated:
    case ErrorCode::permission_denied:
      return Type::authentication;
    default:
      return Type::sandbox;
  }
}

Type type_of(const protocol::ConnectError& error) {
  if (error.info && error.info->domain == protocol::kErrorDomain) {
    const Type type = type_of_reason(error.info->reason);
    if (type != Type::by_code) return type;
  }
  if (error.code == ErrorCode::invalid_argument && !error.violations.empty()) return Type::validation;
  return type_of_code(error.code);
}

}  // namespace

std::exception_ptr make_error(const protocol::ConnectError& error) {
  ErrorFields fields;
  fields.code = base::to_string(error.code);
  if (error.info) {
    fields.reason = error.info->reason;
    fields.metadata = error.info->metadata;
  }
  fields.retry_delay = error.retry_delay;
  const std::string text = error.message.empty() ? "The server answered: " + fields.code : error.message;
  switch (type_of(error)) {
    case Type::authentication:
      return make_exception_ptr(CWSandboxAuthenticationError(text, fields));
    case Type::validation: {
      std::vector<CWSandboxValidationError::Violation> violations;
      violations.reserve(error.violations.size());
      for (const auto& one : error.violations) violations.emplace_back(one.field, one.description);
      return make_exception_ptr(CWSandboxValidationError(text, std::move(violations), fields));
    }
    case Type::not_running:
      return make_exception_ptr(SandboxNotRunningError(text, fields));
    case Type::unavailable:
      return make_exception_ptr(SandboxUnavailableError(text, fields));
    case Type::request_timeout:
      return make_exception_ptr(SandboxRequestTimeoutError(text, fields));
    case Type::command_timeout:
      return make_exception_ptr(SandboxCommandTimeoutError(text, fields));
    case Type::not_found:
      return make_exception_ptr(SandboxNotFoundError(text, fields));
    case Type::execution:
      return make_exception_ptr(SandboxExecutionError(text, fields));
    case Type::backpressure:
      fields.metadata.insert_or_assign("stream_code", "STREAM_BACKPRESSURE");
      return make_exception_ptr(SandboxStreamBackpressureError(text, fields));
    case Type::truncated:
      fields.metadata.insert_or_assign("stream_code", "STREAM_TRUNCATED");
      return make_exception_ptr(SandboxStreamTruncatedError(text, fields));
    case Type::file:
      return make_exception_ptr(SandboxFileError(text, fields));
    case Type::resource_exhausted:
      return make_exception_ptr(SandboxResourceExhaustedError(text, fields));
    case Type::snapshot:
      return make_exception_ptr(SandboxSnapshotError(text, fields));
    case Type::by_code:
    case Type::sandbox:
      break;
  }
  return make_exception_ptr(SandboxError(text, fields));
}

std::exception_ptr make_error(const protocol::StatusError& error) {
  protocol::ConnectError connect;
  connect.code = error.code;
  connect.message = error.message;
  if (!error.reason.empty() || !error.metadata.empty()) {
    connect.info.emplace();
    connect.info->reason = error.reason;
    connect.info->domain = std::string(protocol::kErrorDomain);  // the exec stream carries our own reasons only
    connect.info->metadata = error.metadata;
  }
  if (error.retry_delay_ms) connect.retry_delay = std::chrono::milliseconds(static_cast<std::int64_t>(*error.retry_delay_ms));
  return make_error(connect);
}

std::exception_ptr from_transport(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const net::UpgradeRefused& refused) {
    auto connect = protocol::decode_error(refused.response().status, refused.response().body);
    if (connect.message.empty()) connect.message = refused.what();
    return make_error(connect);
  } catch (const net::TransportError& transport) {
    using Kind = net::TransportError::Kind;
    ErrorFields fields;
    switch (transport.kind()) {
      case Kind::timeout:
        return make_exception_ptr(SandboxRequestTimeoutError(transport.what(), fields));
      case Kind::resolve:
      case Kind::connect:
      case Kind::closed:
        return make_exception_ptr(SandboxUnavailableError(transport.what(), fields));
      case Kind::tls:
      case Kind::protocol:
      case Kind::upgrade_refused:
      case Kind::proxy_refused:
        // Trying again would not help: the peer is not what it should be.
        return make_exception_ptr(CWSandboxError(transport.what(), fields));
    }
    return error;
  } catch (...) {
    return error;
  }
}

std::string describe_command(const std::vector<std::string>& command) {
  std::string text;
  for (const auto& part : command) {
    if (!text.empty()) text += ' ';
    text += part;
    if (text.size() > 120) break;
  }
  return "'" + base::printable(text, 120) + "'";
}

}  // namespace cwsandbox::client
