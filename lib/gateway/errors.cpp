#include "gateway/errors.hpp"

#include "gateway/text.hpp"

#include <cstring>

namespace cwsandbox::gateway {

ServiceError::ServiceError(std::string code, const char* why, std::string message, std::map<std::string, std::string> metadata) {
  error_.code = std::move(code);
  error_.message = std::move(message);
  if (why != nullptr && *why != '\0') {
    protocol::ErrorInfo info;
    info.reason = why;
    info.domain = std::string(protocol::kErrorDomain);
    info.metadata = std::move(metadata);
    error_.info = std::move(info);
  }
}

ServiceError ServiceError::with_retry(std::chrono::milliseconds delay) const {
  ServiceError copy(*this);
  copy.error_.retry_delay = delay;
  return copy;
}

ServiceError invalid_fields(std::vector<protocol::FieldViolation> violations) {
  std::string message;
  for (const auto& v : violations) {
    if (!message.empty()) message += "; ";
    message += v.field.empty() ? v.description : v.field + ": " + v.description;
  }
  ServiceError made("invalid_argument", reason::kInvalidRequest, message);
  protocol::ConnectError error = made.error();
  error.violations = std::move(violations);
  return ServiceError(std::move(error));
}

ServiceError invalid_field(std::string field, std::string description) {
  std::vector<protocol::FieldViolation> violations(1);
  violations[0].field = std::move(field);
  violations[0].description = std::move(description);
  return invalid_fields(std::move(violations));
}

ServiceError sandbox_not_found(const std::string& id) {
  return ServiceError("not_found", reason::kSandboxNotFound, "no sandbox has the id \"" + printable(id, 128) + "\"",
                      {{"sandbox_id", id.substr(0, 256)}});
}

ServiceError shutting_down() {
  return ServiceError("unavailable", reason::kBackendUnavailable, "the gateway is shutting down")
      .with_retry(std::chrono::seconds(1));
}

ServiceError from_runner(const runner::RunnerError& error) {
  return ServiceError(error.code(), error.reason().c_str(), error.what(), error.metadata());
}

protocol::StatusError to_status_error(const protocol::ConnectError& error) {
  protocol::StatusError out;
  out.code = error.code;
  out.message = error.message;
  if (error.info) {
    out.reason = error.info->reason;
    out.metadata = error.info->metadata;
  }
  if (error.retry_delay) out.retry_delay_ms = static_cast<std::uint64_t>(error.retry_delay->count());
  return out;
}

std::string errno_name(int number) {
#ifdef __GLIBC__
  if (const char* name = ::strerrorname_np(number)) return name;
#endif
  return "errno " + std::to_string(number);
}

}  // namespace cwsandbox::gateway
