#include "client/unary_exec.hpp"

#include "base/error_code.hpp"
#include "client/rpc.hpp"
#include "messages/json.hpp"
#include "protocol/connect.hpp"

#include <array>

namespace cwsandbox::client {

namespace {
// Beyond the command's timeout, for the server to say that it has passed.
constexpr std::chrono::seconds kMargin{10};
}  // namespace

bool means_no_exec_stream(const net::HttpResponse& answer) {
  switch (answer.status) {
    case 404:  // no such path
    case 405:  // none for GET
    case 415:  // a GET without a Connect message
    case 426:  // another protocol is wanted
    case 501:
      return true;
    default:
      return protocol::decode_error(answer.status, answer.body).code == base::ErrorCode::unimplemented;
  }
}

std::exception_ptr needs_exec_stream(const std::string& what) {
  ErrorFields fields;
  fields.code = base::to_string(base::ErrorCode::unimplemented);
  fields.reason = "CWSANDBOX_EXEC_STREAM_UNAVAILABLE";
  return std::make_exception_ptr(SandboxExecutionError(
      "The server has no exec stream (" + std::string(protocol::kExecPath) + "), and " + what + " needs it", fields));
}

asio::awaitable<messages::ExecResponse> exec_unary(std::shared_ptr<Backend> backend, protocol::StartRequest request) {
  messages::ExecRequest message;
  message.sandbox_id = request.sandbox_id;
  message.env = request.env;
  if (!request.cwd.empty()) {
    // The message has no place for a directory.
    const std::array<std::string, 5> wrapper{"/bin/sh", "-c", "cd -- \"$1\" && shift && exec \"$@\"", "sh", request.cwd};
    message.command.assign(wrapper.begin(), wrapper.end());
  }
  message.command.insert(message.command.end(), request.command.begin(), request.command.end());
  std::string json;
  try {
    json = messages::to_json(message);
  } catch (const messages::ParseError& error) {
    throw std::invalid_argument("cwsandbox: " + (error.field.empty() ? std::string() : error.field + ": ") + error.what());
  }
  auto timeout = backend->settings().request_timeout;
  if (request.timeout_ms > 0) timeout = std::chrono::milliseconds(static_cast<std::int64_t>(request.timeout_ms));
  const auto answer = co_await call(std::move(backend), "Exec", std::move(json), timeout, Repeat::if_unsent, kMargin);
  co_return parse_answer(messages::from_json<messages::ExecResponse>, answer);
}

}  // namespace cwsandbox::client
