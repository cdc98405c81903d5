#include <cwsandbox/errors.hpp>
#include <cwsandbox/process.hpp>

namespace cwsandbox {

CWSandboxError::CWSandboxError(const std::string& message, ErrorFields fields)
    : std::runtime_error(message), fields_(std::make_shared<const ErrorFields>(std::move(fields))) {}
CWSandboxError::CWSandboxError(const CWSandboxError&) noexcept = default;
CWSandboxError& CWSandboxError::operator=(const CWSandboxError&) noexcept = default;
CWSandboxError::~CWSandboxError() = default;

const std::string& CWSandboxError::code() const noexcept { return fields_->code; }
const std::string& CWSandboxError::reason() const noexcept { return fields_->reason; }
const std::map<std::string, std::string>& CWSandboxError::metadata() const noexcept { return fields_->metadata; }
std::optional<std::chrono::milliseconds> CWSandboxError::retry_delay() const noexcept { return fields_->retry_delay; }
const ProcessResult* CWSandboxError::result() const noexcept { return fields_->result.get(); }
const ErrorFields& CWSandboxError::fields() const noexcept { return *fields_; }

// Destructors live here so that each class's type information is emitted once, in the library.
CWSandboxAuthenticationError::~CWSandboxAuthenticationError() = default;
CWSandboxConfigurationError::~CWSandboxConfigurationError() = default;
SandboxError::~SandboxError() = default;
SandboxNotRunningError::~SandboxNotRunningError() = default;
SandboxUnavailableError::~SandboxUnavailableError() = default;
SandboxTimeoutError::~SandboxTimeoutError() = default;
SandboxRequestTimeoutError::~SandboxRequestTimeoutError() = default;
SandboxCommandTimeoutError::~SandboxCommandTimeoutError() = default;
SandboxTerminatedError::~SandboxTerminatedError() = default;
SandboxFailedError::~SandboxFailedError() = default;
SandboxNotFoundError::~SandboxNotFoundError() = default;
SandboxFileError::~SandboxFileError() = default;
SandboxResourceExhaustedError::~SandboxResourceExhaustedError() = default;
SandboxTerminalStateUnavailableError::~SandboxTerminalStateUnavailableError() = default;
SandboxSnapshotError::~SandboxSnapshotError() = default;
DiscoveryError::~DiscoveryError() = default;
RunnerNotFoundError::~RunnerNotFoundError() = default;
SandboxExecutionError::~SandboxExecutionError() = default;
SandboxStreamBackpressureError::~SandboxStreamBackpressureError() = default;
SandboxStreamTruncatedError::~SandboxStreamTruncatedError() = default;
SandboxConnectionLostError::~SandboxConnectionLostError() = default;
CWSandboxValidationError::~CWSandboxValidationError() = default;
SessionCloseError::~SessionCloseError() = default;
TimeoutError::~TimeoutError() = default;
CancelledError::~CancelledError() = default;

namespace {
const std::string& metadata_value(const std::map<std::string, std::string>& metadata, const char* key) {
  static const std::string empty;
  const auto it = metadata.find(key);
  return it == metadata.end() ? empty : it->second;
}
}  // namespace

const std::string& SandboxFileError::path() const noexcept { return metadata_value(metadata(), "filepath"); }
const std::string& SandboxFileError::error_name() const noexcept { return metadata_value(metadata(), "errno"); }
const std::string& SandboxExecutionError::stream_code() const noexcept { return metadata_value(metadata(), "stream_code"); }
const std::string& SandboxExecutionError::error_name() const noexcept { return metadata_value(metadata(), "errno"); }

CWSandboxValidationError::CWSandboxValidationError(const std::string& message, std::vector<Violation> violations,
                                                   ErrorFields fields)
    : CWSandboxError(message, std::move(fields)),
      violations_(std::make_shared<const std::vector<Violation>>(std::move(violations))) {}

SessionCloseError::SessionCloseError(const std::string& message, std::vector<std::exception_ptr> causes)
    : SandboxError(message), causes_(std::make_shared<const std::vector<std::exception_ptr>>(std::move(causes))) {}

CancelledError::CancelledError(const std::string& message, std::shared_ptr<const ProcessResult> result)
    : std::runtime_error(message), result_(std::move(result)) {}

}  // namespace cwsandbox
