// Mapping of errors, the retry rule, the choice of an endpoint: no network.
#include "client/errors.hpp"
#include "client/rpc.hpp"
#include "support.hpp"

using namespace cwsandbox;
using namespace std::chrono_literals;

namespace {

using base::ErrorCode;

protocol::ConnectError error_of(ErrorCode code, std::string reason = "", std::string domain = "cwsandbox.com") {
  protocol::ConnectError error;
  error.code = code;
  error.message = "what happened";
  if (!reason.empty()) {
    error.info.emplace();
    error.info->reason = std::move(reason);
    error.info->domain = std::move(domain);
    error.info->metadata["k"] = "v";
  }
  return error;
}

template <typename Expected>
bool becomes(const protocol::ConnectError& error) {
  try {
    std::rethrow_exception(client::make_error(error));
  } catch (const CWSandboxError& e) {
    return typeid(e) == typeid(Expected) && std::string(e.what()) == "what happened" && e.code() == base::to_string(error.code);
  }
}

}  // namespace

TEST_CASE("codes decide without a reason of ours", "[ER-4]") {
  CHECK(becomes<SandboxNotFoundError>(error_of(ErrorCode::not_found)));
  CHECK(becomes<SandboxNotRunningError>(error_of(ErrorCode::canceled)));
  CHECK(becomes<SandboxRequestTimeoutError>(error_of(ErrorCode::deadline_exceeded)));
  CHECK(becomes<SandboxUnavailableError>(error_of(ErrorCode::unavailable)));
  CHECK(becomes<SandboxResourceExhaustedError>(error_of(ErrorCode::resource_exhausted)));
  CHECK(becomes<CWSandboxAuthenticationError>(error_of(ErrorCode::unauthenticated)));
  CHECK(becomes<CWSandboxAuthenticationError>(error_of(ErrorCode::permission_denied)));
  CHECK(becomes<SandboxError>(error_of(ErrorCode::internal)));
  CHECK(becomes<SandboxError>(error_of(ErrorCode::invalid_argument)));
  auto invalid = error_of(ErrorCode::invalid_argument);
  invalid.violations.push_back({"sandbox.spec", "is missing"});
  CHECK(becomes<CWSandboxValidationError>(invalid));
  try {
    std::rethrow_exception(client::make_error(invalid));
  } catch (const CWSandboxValidationError& e) {
    REQUIRE(e.violations().size() == 1);
    CHECK(e.violations()[0].field == "sandbox.spec");
  }
}

TEST_CASE("a reason decides under our domain only", "[ER-2][ER-3]") {
  CHECK(becomes<SandboxNotFoundError>(error_of(ErrorCode::internal, "CWSANDBOX_SANDBOX_NOT_FOUND")));
  CHECK(becomes<SandboxError>(error_of(ErrorCode::internal, "CWSANDBOX_SANDBOX_NOT_FOUND", "example.com")));
  CHECK(becomes<SandboxUnavailableError>(error_of(ErrorCode::internal, "CWSANDBOX_RUNNER_UNAVAILABLE")));
  CHECK(becomes<SandboxCommandTimeoutError>(error_of(ErrorCode::deadline_exceeded, "CWSANDBOX_COMMAND_TIMEOUT")));
  CHECK(becomes<SandboxFileError>(error_of(ErrorCode::not_found, "CWSANDBOX_FILE_NOT_FOUND")));
  CHECK(becomes<SandboxSnapshotError>(error_of(ErrorCode::not_found, "CWSANDBOX_FSS_NOT_FOUND")));
  CHECK(becomes<SandboxNotRunningError>(error_of(ErrorCode::failed_precondition, "CWSANDBOX_SANDBOX_NOT_RUNNING")));
  CHECK(becomes<SandboxUnavailableError>(error_of(ErrorCode::unavailable, "SOMETHING_NEW")));
  auto hinted = error_of(ErrorCode::unavailable, "CWSANDBOX_BACKEND_UNAVAILABLE");
  hinted.retry_delay = 1500ms;
  try {
    std::rethrow_exception(client::make_error(hinted));
  } catch (const CWSandboxError& e) {
    CHECK(e.reason() == "CWSANDBOX_BACKEND_UNAVAILABLE");
    CHECK(e.metadata().at("k") == "v");
    CHECK(e.retry_delay() == 1500ms);
  }
}

TEST_CASE("the peer's stream codes are types of their own", "[EX-10]") {
  protocol::StatusError status;
  status.code = ErrorCode::aborted;
  status.message = "too slow";
  status.reason = "STREAM_BACKPRESSURE";
  try {
    std::rethrow_exception(client::make_error(status));
  } catch (const SandboxStreamBackpressureError& e) {
    CHECK(e.stream_code() == "STREAM_BACKPRESSURE");
  }
  status.reason = "CWSANDBOX_STREAM_TRUNCATED";
  try {
    std::rethrow_exception(client::make_error(status));
  } catch (const SandboxStreamTruncatedError& e) {
    CHECK(e.stream_code() == "STREAM_TRUNCATED");
  }
}

TEST_CASE("only what time mends is retried, within the budget", "[RT-1][RT-2][RT-3]") {
  const client::RetryPolicy policy;
  client::RetryAttempt attempt;
  attempt.random = 0.5;
  const auto delay = [&](const auto& error) { return client::next_retry(policy, attempt, std::make_exception_ptr(error)); };
  CHECK(delay(SandboxUnavailableError("x")).has_value());
  CHECK(delay(SandboxRequestTimeoutError("x")).has_value());
  CHECK(delay(SandboxResourceExhaustedError("x")).has_value());
  CHECK_FALSE(delay(SandboxNotRunningError("x")).has_value());
  CHECK_FALSE(delay(SandboxNotFoundError("x")).has_value());
  CHECK_FALSE(delay(SandboxCommandTimeoutError("x")).has_value());
  CHECK_FALSE(delay(CWSandboxAuthenticationError("x")).has_value());
  CHECK_FALSE(delay(std::runtime_error("x")).has_value());

  ErrorFields fields;
  fields.retry_delay = 3s;
  CHECK(delay(SandboxUnavailableError("x", fields)) == 3s);
  fields.retry_delay = 3600s;
  CHECK(delay(SandboxUnavailableError("x", fields)) == 10s);

  attempt.previous_delay = 1s;
  attempt.random = 0;
  CHECK(delay(SandboxUnavailableError("x")) == 100ms);
  attempt.random = 0.999;
  CHECK(*delay(SandboxUnavailableError("x")) > 2900ms);
  attempt.previous_delay = 100s;
  CHECK(delay(SandboxUnavailableError("x")) == 5s);
  attempt.since_first_failure = 29s;
  CHECK_FALSE(delay(SandboxUnavailableError("x")).has_value());
}

TEST_CASE("the endpoint comes from the option, the environment, the key, or is local", "[NW-1][AU-1]") {
  const auto url = [](ClientOptions options = ClientOptions()) { return Client(std::move(options)).base_url(); };
  ::unsetenv("CWSANDBOX_BASE_URL");
  ::unsetenv("CWSANDBOX_API_KEY");
  CHECK(url() == "local:");
  ::setenv("CWSANDBOX_API_KEY", "k-123", 1);
  CHECK(url() == "https://api.cwsandbox.com");
  ::setenv("CWSANDBOX_BASE_URL", "unix:/run/somewhere", 1);
  CHECK(url() == "unix:/run/somewhere");
  CHECK(url(ClientOptions().with_base_url("http://localhost:8080")) == "http://localhost:8080");
  ::unsetenv("CWSANDBOX_BASE_URL");
  ::unsetenv("CWSANDBOX_API_KEY");
  for (const char* bad :
       {"ftp://host", "http://", "http://host/path", "http://user:secret@host", "http://host:99999", "unix:", "nonsense", ""})
    CHECK_THROWS_AS(Client(ClientOptions().with_base_url(bad)), std::invalid_argument);
  try {
    const Client client(ClientOptions().with_base_url("local:").with_api_key("top\nsecret"));
    FAIL("taken");
  } catch (const std::invalid_argument& error) {
    CHECK(std::string(error.what()).find("secret") == std::string::npos);
  }
}

TEST_CASE("UUIDs are UUIDs", "[P7]") {
  const auto id = client::make_uuid();
  CHECK(id.size() == 36);
  CHECK(id[14] == '4');
  CHECK(id != client::make_uuid());
}
