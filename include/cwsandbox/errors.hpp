/// \file
/// The exceptions of cwsandbox: one tree with the names of the published client.
///
/// Every error that a sandbox, the gateway or the connection causes derives from CWSandboxError. TimeoutError and CancelledError
/// concern the waiter or the operation as such and stand beside the tree. Misuse (an empty command, a size below 1, blocking on the
/// loop's own thread) throws `std::invalid_argument` or `std::logic_error` at the call.
///
/// \par Thread safety
/// Exceptions are immutable after construction and may be shared between threads.
///
/// Source: conformance ids ER-1 to ER-5.
#pragma once

#include <cwsandbox/export.hpp>

#include <chrono>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace cwsandbox {

class ProcessResult;

/// The machine-readable part of an error: what the peer said beside its text.
class ErrorFields {
 public:
  ErrorFields() {}
  std::string code;                                      ///< Connect code, e.g. "not_found"; empty when no peer was involved
  std::string reason;                                    ///< e.g. "CWSANDBOX_SANDBOX_NOT_FOUND"; empty when none was given
  std::map<std::string, std::string> metadata;           ///< the reason's metadata
  std::optional<std::chrono::milliseconds> retry_delay;  ///< how long the server asks to wait before a retry
  /// The output received so far and how the process ended, when the error ended a process.
  std::shared_ptr<const ProcessResult> result;
};

/// The root of the tree.
class CWSANDBOX_EXPORT CWSandboxError : public std::runtime_error {
 public:
  /// With its text, and what else is known.
  explicit CWSandboxError(const std::string& message, ErrorFields fields = ErrorFields());
  /// Copies share the fields.
  CWSandboxError(const CWSandboxError&) noexcept;
  /// As the copy.
  CWSandboxError& operator=(const CWSandboxError&) noexcept;
  ~CWSandboxError() override;

  /// Connect code, e.g. "not_found"; empty when no peer was involved.
  [[nodiscard]] const std::string& code() const noexcept;
  /// The reason for programs, e.g. "CWSANDBOX_SANDBOX_NOT_FOUND"; empty when none was given.
  [[nodiscard]] const std::string& reason() const noexcept;
  /// The reason's metadata.
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const noexcept;
  /// How long the server asks to wait before a retry.
  [[nodiscard]] std::optional<std::chrono::milliseconds> retry_delay() const noexcept;
  /// Null unless the error ended a process.
  [[nodiscard]] const ProcessResult* result() const noexcept;
  /// All of it.
  [[nodiscard]] const ErrorFields& fields() const noexcept;

 private:
  std::shared_ptr<const ErrorFields> fields_;
};

// The macro keeps forty near-identical class bodies out of the page; nothing of it is left behind.
#define CWSANDBOX_DETAIL_ERROR(name, base)    \
  class CWSANDBOX_EXPORT name : public base { \
   public:                                    \
    using base::base;                         \
    ~name() override;                         \
  }

/// Missing, wrong or insufficient credentials.
CWSANDBOX_DETAIL_ERROR(CWSandboxAuthenticationError, CWSandboxError);
/// Something that the client was told to use cannot be used: a file with certificates or a key. `metadata()` names it: `option`
/// ("ca_file", "certificate_file", "key_file") and `path`.
CWSANDBOX_DETAIL_ERROR(CWSandboxConfigurationError, CWSandboxError);
/// Anything about one sandbox.
CWSANDBOX_DETAIL_ERROR(SandboxError, CWSandboxError);
/// The sandbox is not running (any more).
CWSANDBOX_DETAIL_ERROR(SandboxNotRunningError, SandboxError);
/// The service, a runner or the network cannot serve this now; a retry may help.
CWSANDBOX_DETAIL_ERROR(SandboxUnavailableError, SandboxNotRunningError);
/// A limit of time passed: a request's or a command's.
CWSANDBOX_DETAIL_ERROR(SandboxTimeoutError, SandboxError);
/// A request's deadline passed.
CWSANDBOX_DETAIL_ERROR(SandboxRequestTimeoutError, SandboxTimeoutError);
/// A command ran into its timeout and was killed where it ran; `result()` holds the output until then.
CWSANDBOX_DETAIL_ERROR(SandboxCommandTimeoutError, SandboxTimeoutError);
/// The sandbox was terminated: by a stop, or at the end of its lifetime.
CWSANDBOX_DETAIL_ERROR(SandboxTerminatedError, SandboxError);
/// The sandbox has failed: it could not be made, or its main command did not exit with 0.
CWSANDBOX_DETAIL_ERROR(SandboxFailedError, SandboxError);
/// The server knows no such sandbox.
CWSANDBOX_DETAIL_ERROR(SandboxNotFoundError, SandboxError);
/// A limit of the server or the sandbox is reached; a retry may help.
CWSANDBOX_DETAIL_ERROR(SandboxResourceExhaustedError, SandboxError);
/// It is stopped, but the server does not say how it ended (ST-7).
CWSANDBOX_DETAIL_ERROR(SandboxTerminalStateUnavailableError, SandboxError);
/// A snapshot could not be made or used.
CWSANDBOX_DETAIL_ERROR(SandboxSnapshotError, SandboxError);
/// Anything about finding runners.
CWSANDBOX_DETAIL_ERROR(DiscoveryError, CWSandboxError);
/// There is no such runner.
CWSANDBOX_DETAIL_ERROR(RunnerNotFoundError, DiscoveryError);

/// A file of a sandbox could not be read, written or changed (FI-2). `reason()` says why, for programs.
class CWSANDBOX_EXPORT SandboxFileError : public SandboxError {
 public:
  using SandboxError::SandboxError;
  ~SandboxFileError() override;
  /// Which one: as the caller named it, else as the server did.
  [[nodiscard]] const std::string& path() const noexcept;
  /// The errno's name where the server says it (ENOENT, EACCES, ENOSPC, …), or empty.
  [[nodiscard]] const std::string& error_name() const noexcept;
};

/// A command could not be started, failed with `check`, or its streams broke.
class CWSANDBOX_EXPORT SandboxExecutionError : public SandboxError {
 public:
  using SandboxError::SandboxError;
  ~SandboxExecutionError() override;
  /// The peer's in-band code (STREAM_BACKPRESSURE, STREAM_TRUNCATED), or empty (EX-10).
  [[nodiscard]] const std::string& stream_code() const noexcept;
  /// The errno's name when the program could not be started (ENOENT, EACCES, E2BIG, …), or empty (EX-2).
  [[nodiscard]] const std::string& error_name() const noexcept;
};

/// The peer gave a stream up because it was read too slowly (EX-10).
CWSANDBOX_DETAIL_ERROR(SandboxStreamBackpressureError, SandboxExecutionError);
/// Bytes are missing from a stream, and how many is said.
CWSANDBOX_DETAIL_ERROR(SandboxStreamTruncatedError, SandboxExecutionError);
/// The connection broke for good: nobody knows how the process ended. `result()` holds the output until then, its outcome is
/// `lost`.
CWSANDBOX_DETAIL_ERROR(SandboxConnectionLostError, SandboxExecutionError);

#undef CWSANDBOX_DETAIL_ERROR

/// Some sandboxes of a session could not be stopped. They stay with the session, so that `close()` can be called again.
class CWSANDBOX_EXPORT SessionCloseError : public SandboxError {
 public:
  /// With its text and the error of each that was not stopped.
  SessionCloseError(const std::string& message, std::vector<std::exception_ptr> causes);
  ~SessionCloseError() override;
  /// One for each that was not stopped.
  [[nodiscard]] const std::vector<std::exception_ptr>& causes() const noexcept { return *causes_; }

 private:
  std::shared_ptr<const std::vector<std::exception_ptr>> causes_;
};

/// A request that the server finds wrong, field by field.
class CWSANDBOX_EXPORT CWSandboxValidationError : public CWSandboxError {
 public:
  /// One field, and what is wrong with it.
  class Violation {
   public:
    /// From both.
    Violation(std::string field_name, std::string text) : field(std::move(field_name)), description(std::move(text)) {}
    std::string field;        ///< which field, e.g. "spec.services[0].port"
    std::string description;  ///< what is wrong, for people
  };
  /// With its text and each violation.
  CWSandboxValidationError(const std::string& message, std::vector<Violation> violations, ErrorFields fields = ErrorFields());
  ~CWSandboxValidationError() override;
  /// One for each field that is wrong.
  [[nodiscard]] const std::vector<Violation>& violations() const noexcept { return *violations_; }

 private:
  std::shared_ptr<const std::vector<Violation>> violations_;
};

/// A waiter's own timeout passed. The operation goes on; ask again whenever you like (OR-2, PR-4).
class CWSANDBOX_EXPORT TimeoutError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  ~TimeoutError() override;
};

/// The operation was cancelled (OR-6, PR-8).
class CWSANDBOX_EXPORT CancelledError : public std::runtime_error {
 public:
  /// With its text; for a process, what is known of it.
  explicit CancelledError(const std::string& message, std::shared_ptr<const ProcessResult> result = nullptr);
  ~CancelledError() override;
  /// For a process: the output received so far and how it ended; null otherwise.
  [[nodiscard]] const ProcessResult* result() const noexcept { return result_.get(); }

 private:
  std::shared_ptr<const ProcessResult> result_;
};

}  // namespace cwsandbox
