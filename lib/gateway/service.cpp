#include "gateway/service.hpp"

#include "base/ascii.hpp"
#include "base/numbers.hpp"
#include "base/text.hpp"
#include "gateway/errors.hpp"
#include "gateway/file_service.hpp"
#include "gateway/large_messages.hpp"
#include "gateway/log_service.hpp"
#include "gateway/server_stream.hpp"
#include "gateway/unary_exec.hpp"
#include "gateway/watch_service.hpp"
#include "messages/encoding.hpp"
#include "messages/services.hpp"
#include "protocol/connect_stream.hpp"

#include <algorithm>
#include <string>
#include <type_traits>

namespace cwsandbox::gateway {

namespace {

using Deadline = std::chrono::steady_clock::time_point;
using messages::Encoding;

/// What a method gets beside its request.
struct Call {
  std::shared_ptr<Context> context;
  std::shared_ptr<OwnSandboxes> sandboxes;
  std::optional<std::chrono::milliseconds> timeout;
};

// ---- the methods ----

asio::awaitable<messages::Sandbox> create_sandbox(Call call, messages::CreateSandboxRequest request) {
  return call.sandboxes->create(std::move(request));
}

asio::awaitable<messages::Sandbox> get_sandbox(Call call, messages::GetSandboxRequest request) {
  co_return call.sandboxes->get(request);
}

asio::awaitable<messages::ListSandboxesResponse> list_sandboxes(Call call, messages::ListSandboxesRequest request) {
  co_return call.sandboxes->list(request);
}

asio::awaitable<messages::DeleteSandboxResponse> delete_sandbox(Call call, messages::DeleteSandboxRequest request) {
  co_return call.sandboxes->remove(request);
}

asio::awaitable<messages::ExecResponse> exec(Call call, messages::ExecRequest request) {
  return exec_unary(call.context, call.sandboxes, std::move(request), call.timeout);
}

asio::awaitable<void> stream_logs_of(Call call, messages::StreamLogsRequest request, ServerStream& stream, Deadline deadline) {
  return stream_logs(call.context, call.sandboxes, std::move(request), stream, deadline);
}

asio::awaitable<void> watch(Call call, messages::WatchFileRequest request, ServerStream& stream, Deadline deadline) {
  return watch_file(call.context, call.sandboxes, std::move(request), stream, deadline);
}

asio::awaitable<void> list_files(Call call, messages::ListFilesRequest request, ServerStream& stream, Deadline) {
  return FileService::list(FileService(call.context, call.sandboxes), std::move(request), stream);
}

/// A method of FileService.
template <auto Function, class Request>
auto file_method(Call call, Request request) {
  return Function(FileService(call.context, call.sandboxes), std::move(request));
}

// ---- from bytes to a method and back ----

// Bytes of an answer that are encoded into its JSON.
std::size_t bytes_of(const messages::ExecResponse& answer) { return answer.std_out.size() + answer.std_err.size(); }
std::size_t bytes_of(const messages::ReadFileResponse& answer) { return answer.content.size(); }
template <class Answer>
std::size_t bytes_of(const Answer&) {
  return 0;  // within the bound of a page of a list
}

/// What a method's function takes and gives.
template <class Function>
struct Signature;
template <class A, class R>
struct Signature<asio::awaitable<A> (*)(Call, R)> {
  using Request = R;
  using Answer = A;
};
template <class R>
struct Signature<asio::awaitable<void> (*)(Call, R, ServerStream&, Deadline)> {
  using Request = R;
};

/// `body` outlives it.
template <auto Function>
asio::awaitable<std::string> answered(Call call, const std::string& body, Encoding encoding) {
  using Request = typename Signature<decltype(Function)>::Request;
  using Answer = typename Signature<decltype(Function)>::Answer;
  const LargeMessages large(call.context->executor, call.sandboxes->owner());
  auto reading = LargeMessages::run(large, body.size(), [&body, encoding] { return messages::decode<Request>(encoding, body); });
  Request request = co_await std::move(reading);
  auto handling = Function(std::move(call), std::move(request));
  if constexpr (std::is_void_v<Answer>) {
    co_await std::move(handling);
    co_return messages::encode(encoding, messages::Empty{});
  } else {
    const Answer answer = co_await std::move(handling);
    auto writing = LargeMessages::run(large, bytes_of(answer), [&answer, encoding] { return messages::encode(encoding, answer); });
    co_return co_await std::move(writing);
  }
}

template <auto Function>
asio::awaitable<void> streamed(Call call, std::string body, ServerStream& stream, Deadline deadline) {
  using Request = typename Signature<decltype(Function)>::Request;
  return Function(std::move(call), messages::decode<Request>(stream.encoding(), body), stream, deadline);
}

/// A method that this gateway serves: one of the two, by the way it answers.
struct Method {
  std::string_view path;
  asio::awaitable<std::string> (*answer)(Call, const std::string& body, Encoding) = nullptr;
  asio::awaitable<void> (*stream)(Call, std::string body, ServerStream&, Deadline) = nullptr;
};

template <auto Function>
constexpr Method unary(std::string_view path) {
  return {path, answered<Function>, nullptr};
}
template <auto Function, class Request>
constexpr Method file(std::string_view path) {
  return {path, answered<file_method<Function, Request>>, nullptr};
}
template <auto Function>
constexpr Method streaming(std::string_view path) {
  return {path, nullptr, streamed<Function>};
}

// Constants, with nothing to destroy: an embedded gateway still answers while the program exits.
constexpr Method kMethods[] = {
    unary<create_sandbox>("/coreweave.sandbox.v1.SandboxService/CreateSandbox"),
    unary<get_sandbox>("/coreweave.sandbox.v1.SandboxService/GetSandbox"),
    unary<list_sandboxes>("/coreweave.sandbox.v1.SandboxService/ListSandboxes"),
    unary<delete_sandbox>("/coreweave.sandbox.v1.SandboxService/DeleteSandbox"),
    unary<exec>("/coreweave.sandbox.v1.SandboxService/Exec"),
    streaming<stream_logs_of>("/coreweave.sandbox.v1.SandboxService/StreamLogs"),
    file<FileService::read, messages::ReadFileRequest>("/coreweave.sandbox.v1.SandboxService/ReadFile"),
    file<FileService::write, messages::WriteFileRequest>("/coreweave.sandbox.v1.SandboxService/WriteFile"),
    file<FileService::stat, messages::StatFileRequest>("/cwsandbox.v1.FileService/Stat"),
    file<FileService::make_directory, messages::MakeDirectoryRequest>("/cwsandbox.v1.FileService/MakeDirectory"),
    file<FileService::remove, messages::RemoveFileRequest>("/cwsandbox.v1.FileService/Remove"),
    file<FileService::rename, messages::RenameFileRequest>("/cwsandbox.v1.FileService/Rename"),
    streaming<list_files>("/cwsandbox.v1.FileService/List"),
    streaming<watch>("/cwsandbox.v1.FileService/Watch"),
};

const Method* served(std::string_view path) noexcept {
  const auto found = std::find_if(std::begin(kMethods), std::end(kMethods), [path](const Method& one) { return one.path == path; });
  return found == std::end(kMethods) ? nullptr : found;
}

/// The service that a path is of, and the name behind it.
const messages::ServiceType* service_of(std::string_view path, std::string_view& method) noexcept {
  const std::size_t slash = path.rfind('/');
  if (slash == 0 || slash == std::string_view::npos) return nullptr;
  method = path.substr(slash + 1);
  for (const messages::ServiceType& service : messages::services()) {
    if (path.substr(1, slash - 1) == service.name) return &service;
  }
  return nullptr;
}

/// Whether the API has it, served here or not: it is named, so that nobody looks for a typing mistake.
bool is_method(std::string_view path) noexcept {
  std::string_view name;
  const messages::ServiceType* service = service_of(path, name);
  return service != nullptr && std::any_of(service->methods.begin(), service->methods.end(),
                                           [name](const messages::MethodType& method) { return method.name == name; });
}

// ---- requests ----

std::string_view path_of(std::string_view target) noexcept { return target.substr(0, target.find('?')); }

/// The encoding that a content type says; parameters play no part.
std::optional<Encoding> encoding_of(std::string_view content_type, bool streamed) {
  const std::string_view type = base::trimmed(content_type.substr(0, content_type.find(';')), " \t");
  for (const Encoding encoding : {Encoding::json, Encoding::protobuf}) {
    if (base::same_but_for_case(type, streamed ? protocol::stream_type(encoding) : protocol::unary_type(encoding))) return encoding;
  }
  return std::nullopt;
}

/// Precondition: check_service_request has let the request pass.
Encoding encoding_of(const net::HttpRequest& request, bool streamed) {
  return encoding_of(net::find_header(request.headers, "Content-Type"), streamed).value_or(Encoding::json);
}

// Connect-Timeout-Ms: a positive integer of at most ten digits.
std::optional<std::chrono::milliseconds> timeout_of(const net::Headers& headers) {
  const std::string_view text = net::find_header(headers, "Connect-Timeout-Ms");
  if (text.empty()) return std::nullopt;
  const auto value = base::parse_number<std::uint64_t>(text);
  if (!value || *value == 0 || text.size() > 10)
    throw invalid_field("Connect-Timeout-Ms", "not a positive number of at most ten digits");
  return std::chrono::milliseconds(*value);
}

void log_internal(const Context& context, std::string_view where, const std::string& text) {
  context.log(LogLevel::error, "internal error in " + base::escaped(where, 64) + ": " + base::escaped(text, 256));
}

net::HttpResponse response_of(std::string body, std::string_view type) {
  net::HttpResponse response;
  response.headers.emplace_back("Content-Type", std::string(type));
  response.body = std::move(body);
  return response;
}

}  // namespace

net::HttpResponse error_response(const protocol::ConnectError& error) {
  // JSON, whichever encoding the request has.
  net::HttpResponse response = response_of(protocol::encode_error(error), protocol::unary_type(Encoding::json));
  response.status = protocol::http_status(error.code);
  if (error.code == ErrorCode::unauthenticated) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  if (error.retry_delay) {
    const auto seconds = std::chrono::ceil<std::chrono::seconds>(*error.retry_delay).count();
    response.headers.emplace_back("Retry-After", std::to_string(seconds));
  }
  return response;
}

std::optional<net::HttpResponse> check_service_request(const net::HttpRequest& request) {
  try {
    const std::string_view path = net::path_of(request.target);
    const Method* method = served(path);
    if (method == nullptr) {
      const std::string name = base::printable(path.substr(1), 128);
      throw ServiceError(ErrorCode::unimplemented, reason::kNotImplemented,
                         is_method(path) ? "this gateway does not serve " + name : "there is no method " + name);
    }
    const bool streamed = method->stream != nullptr;
    if (request.method != "POST") {
      net::HttpResponse response =
          error_response(ServiceError(ErrorCode::unimplemented, reason::kInvalidRequest, "methods are called with POST").error());
      response.status = 405;
      response.headers.emplace_back("Allow", "POST");
      return response;
    }
    if (!encoding_of(net::find_header(request.headers, "Content-Type"), streamed)) {
      const auto type = streamed ? protocol::stream_type : protocol::unary_type;
      const std::string json(type(Encoding::json)), binary(type(Encoding::protobuf));
      net::HttpResponse response = error_response(
          ServiceError(ErrorCode::unknown, reason::kInvalidRequest, "the content type must be " + json + " or " + binary).error());
      response.status = 415;
      response.headers.emplace_back("Accept-Post", json + ", " + binary);
      return response;
    }
    for (const char* header : {"Content-Encoding", "Connect-Content-Encoding"}) {
      const std::string_view encoding = net::find_header(request.headers, header);
      if (!encoding.empty() && !base::same_but_for_case(encoding, "identity"))
        throw ServiceError(ErrorCode::unimplemented, reason::kInvalidRequest,
                           "bodies may not be compressed; supported encodings: identity");
    }
    const std::string_view version = net::find_header(request.headers, "Connect-Protocol-Version");
    if (!version.empty() && version != "1") throw invalid_field("Connect-Protocol-Version", "must be \"1\"");
    static_cast<void>(timeout_of(request.headers));
  } catch (const ServiceError& e) {
    return error_response(e.error());
  }
  return std::nullopt;
}

bool is_service_path(std::string_view path) noexcept {
  std::string_view method;
  return service_of(path, method) != nullptr;
}

bool is_streamed_path(std::string_view path) noexcept {
  const Method* method = served(path);
  return method != nullptr && method->stream != nullptr;
}

asio::awaitable<net::HttpResponse> serve(std::shared_ptr<Context> context, std::shared_ptr<OwnSandboxes> sandboxes,
                                         const net::HttpRequest& request) {
  const std::string_view path = path_of(request.target);
  net::HttpResponse response;
  try {
    Call call{context, sandboxes, timeout_of(request.headers)};
    const Encoding encoding = encoding_of(request, false);
    auto answering = served(path)->answer(std::move(call), request.body, encoding);
    response = response_of(co_await std::move(answering), protocol::unary_type(encoding));
  } catch (...) {
    const std::string_view name = path.substr(path.rfind('/') + 1);
    response = error_response(error_in_flight([&](const std::string& text) { log_internal(*context, name, text); }));
  }
  co_return response;
}

asio::awaitable<std::uint64_t> serve_stream(std::shared_ptr<Context> context, std::shared_ptr<OwnSandboxes> sandboxes,
                                            net::ServerExchange& exchange) {
  const std::string path(path_of(exchange.request().target));
  ServerStream stream(exchange, encoding_of(exchange.request(), true));
  std::optional<protocol::ConnectError> error;
  try {
    auto deadline = Deadline::max();
    if (const auto timeout = timeout_of(exchange.request().headers)) deadline = std::chrono::steady_clock::now() + *timeout;
    std::string body = co_await stream.request();
    Call call{context, sandboxes, std::nullopt};
    auto streaming = served(path)->stream(std::move(call), std::move(body), stream, deadline);
    co_await std::move(streaming);
  } catch (...) {
    error = error_in_flight([&](const std::string& text) { log_internal(*context, path, text); });
  }
  co_await stream.end(error ? &*error : nullptr);
  co_return stream.sent();
}

}  // namespace cwsandbox::gateway
