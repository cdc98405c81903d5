#include "gateway/errors.hpp"

#include "base/errno_text.hpp"
#include "base/text.hpp"
#include "messages/fields.hpp"

#include <boost/system/system_error.hpp>

#include <cerrno>

namespace cwsandbox::gateway {

ServiceError::ServiceError(ErrorCode code, const char* why, std::string message, std::map<std::string, std::string> metadata) {
  error_.code = code;
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

void Violations::add(std::string field, std::string description) {
  if (found_.size() == kMost) return;
  protocol::FieldViolation& one = found_.emplace_back();
  one.field = std::move(field);
  one.description = std::move(description);
}

ServiceError invalid_fields(const Violations& violations) {
  std::string message;
  for (const auto& v : violations.found()) {
    if (!message.empty()) message += "; ";
    message += v.field.empty() ? v.description : v.field + ": " + v.description;
  }
  ServiceError made(ErrorCode::invalid_argument, reason::kInvalidRequest, message);
  protocol::ConnectError error = made.error();
  error.violations = violations.found();
  return ServiceError(std::move(error));
}

ServiceError invalid_field(std::string field, std::string description) {
  Violations violations;
  violations.add(std::move(field), std::move(description));
  return invalid_fields(violations);
}

ServiceError sandbox_not_found(const std::string& id) {
  return ServiceError(ErrorCode::not_found, reason::kSandboxNotFound, "no sandbox has the id " + base::in_quotes(id, 128),
                      {{"sandbox_id", id.substr(0, 256)}});
}

ServiceError shutting_down() {
  return ServiceError(ErrorCode::unavailable, reason::kBackendUnavailable, "the gateway is shutting down")
      .with_retry(std::chrono::seconds(1));
}

ServiceError starting() {
  return ServiceError(ErrorCode::unavailable, reason::kBackendUnavailable,
                      "the gateway is starting: it does not know yet which sandboxes there are")
      .with_retry(std::chrono::seconds(1));
}

ServiceError from_runner(const runner::RunnerError& error) {
  return ServiceError(error.code(), error.reason().c_str(), error.what(), error.metadata());
}

ServiceError from_file(const runner::FileFailed& error, const std::string& sandbox_id) {
  ErrorCode code = ErrorCode::failed_precondition;
  const char* why = reason::kFileIoFailed;
  switch (error.error()) {
    case ENOENT:
      code = ErrorCode::not_found;
      why = reason::kFileNotFound;
      break;
    case EACCES:
    case EPERM:
    case EROFS:
      code = ErrorCode::permission_denied;
      why = reason::kFilePermissionDenied;
      break;
    case EFBIG:
      why = reason::kFileTooLarge;
      [[fallthrough]];
    case ENOSPC:
    case EDQUOT:
      code = ErrorCode::resource_exhausted;
      break;
    case EISDIR:
      why = reason::kFileIsDirectory;
      break;
    case EEXIST:
      code = ErrorCode::already_exists;
      break;
    case EIO:
      code = ErrorCode::internal;
      break;
    default:
      break;
  }
  return ServiceError(code, why, error.what(),
                      {{"filepath", error.path()}, {"errno", base::errno_name(error.error())}, {"sandbox_id", sandbox_id}});
}

protocol::ConnectError error_in_flight(const std::function<void(const std::string&)>& log) {
  try {
    throw;
  } catch (const messages::ParseError& e) {
    std::string_view text = e.what();
    if (text.starts_with(e.field + ": ")) text.remove_prefix(e.field.size() + 2);  // the violation names the field already
    return invalid_field(e.field, std::string(text)).error();
  } catch (const ServiceError& e) {
    return e.error();
  } catch (const runner::RunnerError& e) {
    return from_runner(e).error();
  } catch (const boost::system::system_error&) {
    throw;  // nobody waits for an answer
  } catch (const std::exception& e) {
    log(e.what());
    return ServiceError(ErrorCode::internal, nullptr, "internal error").error();
  }
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

}  // namespace cwsandbox::gateway
