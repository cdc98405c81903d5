// Errors on their way to a client: one value that both the control plane and the exec stream can send.
#pragma once

#include "base/error_code.hpp"
#include "protocol/connect.hpp"
#include "protocol/exec_stream.hpp"
#include "runner/runner.hpp"

#include <exception>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace cwsandbox::gateway {

using base::ErrorCode;

namespace reason {
inline constexpr const char* kSandboxNotFound = "CWSANDBOX_SANDBOX_NOT_FOUND";
inline constexpr const char* kSandboxNotRunning = "CWSANDBOX_SANDBOX_NOT_RUNNING";
inline constexpr const char* kProcessNotFound = "CWSANDBOX_PROCESS_NOT_FOUND";
inline constexpr const char* kCommandTimeout = "CWSANDBOX_COMMAND_TIMEOUT";
inline constexpr const char* kCommandNotStarted = "CWSANDBOX_COMMAND_NOT_STARTED";
inline constexpr const char* kInvalidRequest = "CWSANDBOX_INVALID_REQUEST";
inline constexpr const char* kNotImplemented = "CWSANDBOX_NOT_IMPLEMENTED";
inline constexpr const char* kOriginNotAllowed = "CWSANDBOX_ORIGIN_NOT_ALLOWED";
inline constexpr const char* kHostNotAllowed = "CWSANDBOX_HOST_NOT_ALLOWED";
inline constexpr const char* kCapacityExhausted = "CWSANDBOX_RUNNER_CAPACITY_EXHAUSTED";
inline constexpr const char* kNoSuitableRunner = "CWSANDBOX_NO_SUITABLE_RUNNER";
inline constexpr const char* kBackendUnavailable = "CWSANDBOX_BACKEND_UNAVAILABLE";
inline constexpr const char* kFileNotFound = "CWSANDBOX_FILE_NOT_FOUND";
inline constexpr const char* kFileIsDirectory = "CWSANDBOX_FILE_IS_DIRECTORY";
inline constexpr const char* kFilePermissionDenied = "CWSANDBOX_FILE_PERMISSION_DENIED";
inline constexpr const char* kFileTooLarge = "CWSANDBOX_FILE_TOO_LARGE";
inline constexpr const char* kFileIoFailed = "CWSANDBOX_FILE_IO_FAILED";
}  // namespace reason

class ServiceError : public std::exception {
 public:
  explicit ServiceError(protocol::ConnectError error) : error_(std::move(error)) {}
  ServiceError(ErrorCode code, const char* why, std::string message, std::map<std::string, std::string> metadata = {});
  [[nodiscard]] const char* what() const noexcept override { return error_.message.c_str(); }
  [[nodiscard]] const protocol::ConnectError& error() const noexcept { return error_; }
  [[nodiscard]] ServiceError with_retry(std::chrono::milliseconds delay) const;

 private:
  protocol::ConnectError error_;
};

[[nodiscard]] ServiceError invalid_field(std::string field, std::string description);
/// What is wrong with the fields of a request: of as many as one answer tells at most. Whoever mends these asks again.
class Violations {
 public:
  static constexpr std::size_t kMost = 32;
  void add(std::string field, std::string description);
  [[nodiscard]] bool empty() const noexcept { return found_.empty(); }
  [[nodiscard]] const std::vector<protocol::FieldViolation>& found() const noexcept { return found_; }

 private:
  std::vector<protocol::FieldViolation> found_;
};
[[nodiscard]] ServiceError invalid_fields(const Violations& violations);
[[nodiscard]] ServiceError sandbox_not_found(const std::string& id);
[[nodiscard]] ServiceError shutting_down();
[[nodiscard]] ServiceError starting();
[[nodiscard]] ServiceError from_runner(const runner::RunnerError& error);
[[nodiscard]] ServiceError from_file(const runner::FileFailed& error, const std::string& sandbox_id);
/// The exception being handled, as an answer; called inside a `catch`. One that is nobody's business is an internal error and its
/// text stays here: `log` gets it. Throws again what says that a connection is lost.
[[nodiscard]] protocol::ConnectError error_in_flight(const std::function<void(const std::string&)>& log);
[[nodiscard]] protocol::StatusError to_status_error(const protocol::ConnectError& error);

}  // namespace cwsandbox::gateway
