#include "gateway/service.hpp"

#include "base/ascii.hpp"
#include "base/numbers.hpp"
#include "base/random.hpp"
#include "base/text.hpp"
#include "gateway/errors.hpp"
#include "gateway/file_service.hpp"
#include "gateway/large_messages.hpp"
#include "gateway/log_service.hpp"
#include "gateway/process_run.hpp"
#include "gateway/sandbox_request.hpp"
#include "gateway/server_stream.hpp"
#include "gateway/watch_service.hpp"
#include "messages/exec.hpp"
#include "messages/files.hpp"
#include "messages/json.hpp"
#include "messages/logs.hpp"
#include "messages/sandbox.hpp"
#include "protocol/connect_stream.hpp"

#include <algorithm>
#include <array>
#include <span>
#include <type_traits>
#include <vector>

namespace cwsandbox::gateway {

namespace {

struct Service {
  std::string_view path;
  std::span<const std::string_view> unary, streamed;
  std::span<const std::string_view>
      others;  // known to the API, not to this gateway: named, so that nobody looks for a typing mistake
};

// Constants, with nothing to destroy: an embedded gateway still answers while the program exits.
constexpr std::array<std::string_view, 7> kSandboxUnary = {"CreateSandbox", "GetSandbox", "ListSandboxes", "DeleteSandbox",
                                                           "Exec",          "ReadFile",   "WriteFile"};
constexpr std::array<std::string_view, 1> kSandboxStreamed = {"StreamLogs"};
constexpr std::array<std::string_view, 7> kSandboxOthers = {
    "CreateSandboxFromTemplate", "PurgeSandboxes",          "StreamExec", "CreateFileSystemSnapshot", "GetFileSystemSnapshot",
    "ListFileSystemSnapshots",   "DeleteFileSystemSnapshot"};
constexpr std::array<std::string_view, 4> kFileUnary = {"Stat", "MakeDirectory", "Remove", "Rename"};
constexpr std::array<std::string_view, 2> kFileStreamed = {"List", "Watch"};
constexpr std::array<Service, 2> kServices = {
    Service{"/coreweave.sandbox.v1.SandboxService/", kSandboxUnary, kSandboxStreamed, kSandboxOthers},
    Service{"/cwsandbox.v1.FileService/", kFileUnary, kFileStreamed, {}},
};

const Service* service_of(std::string_view path) noexcept {
  for (const Service& service : kServices) {
    if (path.substr(0, service.path.size()) == service.path) return &service;
  }
  return nullptr;
}

// A command whose caller gave up is not waited for: its group gets this long to end by itself.
constexpr std::chrono::seconds kGraceAfterDeadline{2};
// What a command leaves in the background must not keep its caller, who has no word for how long.
constexpr std::chrono::seconds kDrain{1};

bool contains(std::span<const std::string_view> names, std::string_view name) noexcept {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool is_type(std::string_view content_type, std::string_view wanted) {
  return base::same_but_for_case(base::trimmed(content_type.substr(0, content_type.find(';')), " \t"), wanted);
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

net::HttpResponse json_response(std::string body) {
  net::HttpResponse response;
  response.headers.emplace_back("Content-Type", "application/json");
  response.body = std::move(body);
  return response;
}

/// A process whose output is collected, up to a bound, for one answer.
class CollectedRun final : public ProcessRun {
 public:
  CollectedRun(std::shared_ptr<Context> context, std::shared_ptr<SandboxRecord> sandbox, const std::string& program, Limits limits,
               std::size_t max_bytes)
      : ProcessRun(context, std::move(sandbox), "exec-" + base::random_hex(6), program, limits),
        ended_(context->executor),
        memory_(std::in_place, std::shared_ptr<net::MemoryPool>(this->sandbox()->owner(), &this->sandbox()->owner()->memory)),
        max_bytes_(max_bytes) {}

  [[nodiscard]] static asio::awaitable<void> done(std::shared_ptr<CollectedRun> self,
                                                  std::chrono::steady_clock::time_point deadline) {
    while (!self->status_ && !self->error_ && !self->no_memory_ && std::chrono::steady_clock::now() < deadline)
      co_await self->ended_.wait_until(deadline);
  }

  std::optional<protocol::ExitStatus> status_;
  std::optional<protocol::ConnectError> error_;
  std::array<std::string, 2> kept_;
  std::array<std::uint64_t, 2> produced_{};
  bool no_memory_ = false;  ///< its owner's part is used up

 protected:
  std::size_t room(Output) override { return BufferPool::kSize; }
  void on_started(std::uint64_t) override {}
  void on_output(Output output, std::string chunk) override {
    const auto i = static_cast<std::size_t>(output);
    produced_[i] += chunk.size();
    const std::size_t more = std::min(chunk.size(), max_bytes_ - kept_[i].size());
    if (more == 0 || no_memory_) return;
    if (!memory_->grow_to(kept_[0].size() + kept_[1].size() + more)) {
      // Nobody gets any of it, and the command may take its time to end.
      no_memory_ = true;
      kept_ = {};
      memory_.reset();
      ended_.notify();
      return;
    }
    kept_[i].append(chunk, 0, more);
  }
  void on_output_end(Output, bool) override {}
  void on_stdin_consumed(std::size_t, std::uint64_t) override {}
  void on_stdin_closed(std::uint64_t) override {}
  void on_refused(const protocol::ConnectError& error) override {
    error_ = error;
    ended_.notify();
  }
  void on_finished(const protocol::ExitStatus& status) override {
    status_ = status;
    ended_.notify();
  }

 private:
  runner::TimedWaiters ended_;
  std::optional<net::MemoryShare> memory_;  // until there is no more
  std::size_t max_bytes_;
};

asio::awaitable<messages::ExecResponse> exec(std::shared_ptr<Context> context, std::shared_ptr<OwnSandboxes> sandboxes,
                                             messages::ExecRequest request, std::optional<std::chrono::milliseconds> timeout) {
  if (context->stopping) throw shutting_down();
  if (request.sandbox_id.empty()) throw invalid_field("sandboxId", "is required");
  Violations violations;
  check_command(request.command, "command", violations);
  check_environment(request.env, "env", violations);
  if (!violations.empty()) throw invalid_fields(violations);
  if (request.max_output_bytes < 0) throw invalid_field("maxOutputBytes", "is negative");
  std::shared_ptr<SandboxRecord> sandbox = sandboxes->find(request.sandbox_id);
  if (!sandbox) throw sandbox_not_found(request.sandbox_id);
  if (!request.container.empty() && request.container != sandbox->view().spec.containers[0].name)
    throw invalid_field("container", "the sandbox has no container of this name");
  std::size_t bytes = context->options.default_output_bytes;
  if (request.max_output_bytes > 0) bytes = static_cast<std::size_t>(request.max_output_bytes);
  bytes = std::min(bytes, context->options.max_output_bytes);

  const auto deadline = std::chrono::steady_clock::now() + timeout.value_or(context->options.unary_timeout);
  ProcessRun::Limits limits;
  limits.grace = context->options.default_grace;
  limits.drain = kDrain;
  auto run = std::make_shared<CollectedRun>(context, sandbox, request.command.front(), limits, bytes);
  // However this call ends, also by being destroyed with its connection: the command does not outlive it for long.
  struct Guard {
    std::shared_ptr<CollectedRun> run;
    std::shared_ptr<Context> context;
    ~Guard() {
      if (!run->finished() && !context->dropped) run->cancel(kGraceAfterDeadline);
    }
  };
  Guard guard{run, context};
  runner::ProcessSpec spec;
  spec.command = std::move(request.command);
  spec.env = std::move(request.env);
  run->start(std::move(spec));
  co_await CollectedRun::done(run, deadline);

  if (run->error_) throw ServiceError(*run->error_);
  if (run->no_memory_) {
    throw sandbox->owner()->budgets.exhausted(
        Budget::memory, {{"sandbox_id", sandbox->id()}},
        "there is no memory left for the output of this command, with what else is held for you here; it was killed");
  }
  if (!run->status_) {
    if (context->dropped) throw shutting_down();
    throw ServiceError("deadline_exceeded", reason::kCommandTimeout, "the command did not end in time and was killed",
                       {{"sandbox_id", sandbox->id()}});
  }
  const protocol::ExitStatus& status = *run->status_;
  if (status.outcome == protocol::ExitStatus::Outcome::failed) {
    throw ServiceError("failed_precondition", reason::kCommandNotStarted, status.message,
                       {{"errno", status.error_name}, {"what", status.error_what}});
  }
  if (!status.code && !status.signal) {
    throw ServiceError("unavailable", reason::kBackendUnavailable, "the sandbox ended, and nobody knows how the command did",
                       {{"sandbox_id", sandbox->id()}});
  }
  messages::ExecResponse response;
  response.exit_code = status.code ? *status.code : 128 + *status.signal;
  response.stdout_bytes_produced = static_cast<std::int64_t>(run->produced_[0]);
  response.stderr_bytes_produced = static_cast<std::int64_t>(run->produced_[1]);
  response.stdout_truncated = run->produced_[0] > run->kept_[0].size();
  response.stderr_truncated = run->produced_[1] > run->kept_[1].size();
  response.std_out = std::move(run->kept_[0]);
  response.std_err = std::move(run->kept_[1]);
  co_return response;
}

// Bytes of an answer that are encoded into its JSON.
std::size_t bytes_of(const messages::ExecResponse& answer) { return answer.std_out.size() + answer.std_err.size(); }
std::size_t bytes_of(const messages::ReadFileResponse& answer) { return answer.content.size(); }
template <class Answer>
std::size_t bytes_of(const Answer&) {
  return 0;  // within the bound of a page of a list
}

/// The answer to a request, as JSON. `handle` is a coroutine that gets the request; one without a result has an empty answer.
template <class Request, class Handle>
asio::awaitable<std::string> answered(LargeMessages large, const std::string& body, Request (*parse)(std::string_view),
                                      Handle handle) {
  auto reading = LargeMessages::run(large, body.size(), [&body, parse] { return parse(body); });
  Request request = co_await std::move(reading);
  auto handling = handle(std::move(request));
  if constexpr (std::is_same_v<decltype(handling), asio::awaitable<void>>) {
    co_await std::move(handling);
    co_return "{}";
  } else {
    const auto answer = co_await std::move(handling);
    auto writing = LargeMessages::run(large, bytes_of(answer), [&answer] { return to_json(answer); });
    co_return co_await std::move(writing);
  }
}

/// `request` outlives it.
asio::awaitable<std::string> answer(std::string_view method, const std::shared_ptr<Context>& context,
                                    const std::shared_ptr<OwnSandboxes>& sandboxes, const net::HttpRequest& request) {
  const auto with = [&](auto parse, auto handle) {
    return answered(LargeMessages(context->executor, sandboxes->owner()), request.body, parse, std::move(handle));
  };
  if (method == "CreateSandbox")
    return with(messages::from_json<messages::CreateSandboxRequest>,
                [sandboxes](auto parsed) { return sandboxes->create(std::move(parsed)); });
  if (method == "GetSandbox") {
    return with(messages::from_json<messages::GetSandboxRequest>,
                [sandboxes](auto parsed) -> asio::awaitable<messages::Sandbox> { co_return sandboxes->get(parsed); });
  }
  if (method == "ListSandboxes") {
    return with(
        messages::from_json<messages::ListSandboxesRequest>,
        [sandboxes](auto parsed) -> asio::awaitable<messages::ListSandboxesResponse> { co_return sandboxes->list(parsed); });
  }
  if (method == "DeleteSandbox") {
    return with(
        messages::from_json<messages::DeleteSandboxRequest>,
        [sandboxes](auto parsed) -> asio::awaitable<messages::DeleteSandboxResponse> { co_return sandboxes->remove(parsed); });
  }
  if (method == "Exec") {
    return with(messages::from_json<messages::ExecRequest>,
                [context, sandboxes, timeout = timeout_of(request.headers)](auto parsed) {
                  return exec(context, sandboxes, std::move(parsed), timeout);
                });
  }
  const FileService files(context, sandboxes);
  if (method == "ReadFile")
    return with(messages::from_json<messages::ReadFileRequest>,
                [files](auto parsed) { return FileService::read(files, std::move(parsed)); });
  if (method == "Stat")
    return with(messages::from_json<messages::StatFileRequest>,
                [files](auto parsed) { return FileService::stat(files, std::move(parsed)); });
  if (method == "WriteFile")
    return with(messages::from_json<messages::WriteFileRequest>,
                [files](auto parsed) { return FileService::write(files, std::move(parsed)); });
  if (method == "MakeDirectory") {
    return with(messages::from_json<messages::MakeDirectoryRequest>,
                [files](auto parsed) { return FileService::make_directory(files, std::move(parsed)); });
  }
  if (method == "Remove")
    return with(messages::from_json<messages::RemoveFileRequest>,
                [files](auto parsed) { return FileService::remove(files, std::move(parsed)); });
  return with(messages::from_json<messages::RenameFileRequest>,
              [files](auto parsed) { return FileService::rename(files, std::move(parsed)); });
}

}  // namespace

net::HttpResponse error_response(const protocol::ConnectError& error) {
  net::HttpResponse response = json_response(protocol::encode_error(error));
  response.status = protocol::http_status(error.code);
  if (error.code == "unauthenticated") response.headers.emplace_back("WWW-Authenticate", "Bearer");
  if (error.retry_delay) {
    const auto seconds = std::chrono::ceil<std::chrono::seconds>(*error.retry_delay).count();
    response.headers.emplace_back("Retry-After", std::to_string(seconds));
  }
  return response;
}

std::optional<net::HttpResponse> check_service_request(const net::HttpRequest& request) {
  try {
    const std::string_view path = net::path_of(request.target);
    const Service& service = *service_of(path);
    const std::string_view method = path.substr(service.path.size());
    const bool streamed = contains(service.streamed, method);
    if (!streamed && !contains(service.unary, method)) {
      const std::string name = std::string(service.path.substr(1)) + base::escaped(method, 64);
      throw ServiceError("unimplemented", reason::kNotImplemented,
                         contains(service.others, method) ? "this gateway does not serve " + name : "there is no method " + name);
    }
    if (request.method != "POST") {
      net::HttpResponse response =
          error_response(ServiceError("unimplemented", reason::kInvalidRequest, "methods are called with POST").error());
      response.status = 405;
      response.headers.emplace_back("Allow", "POST");
      return response;
    }
    const std::string type(streamed ? protocol::kConnectStreamType : "application/json");
    if (!is_type(net::find_header(request.headers, "Content-Type"), type)) {
      net::HttpResponse response =
          error_response(ServiceError("unknown", reason::kInvalidRequest, "the content type must be " + type).error());
      response.status = 415;
      response.headers.emplace_back("Accept-Post", type);
      return response;
    }
    for (const char* header : {"Content-Encoding", "Connect-Content-Encoding"}) {
      const std::string_view encoding = net::find_header(request.headers, header);
      if (!encoding.empty() && !base::same_but_for_case(encoding, "identity"))
        throw ServiceError("unimplemented", reason::kInvalidRequest, "bodies may not be compressed; supported encodings: identity");
    }
    const std::string_view version = net::find_header(request.headers, "Connect-Protocol-Version");
    if (!version.empty() && version != "1") throw invalid_field("Connect-Protocol-Version", "must be \"1\"");
    static_cast<void>(timeout_of(request.headers));
  } catch (const ServiceError& e) {
    return error_response(e.error());
  }
  return std::nullopt;
}

bool is_service_path(std::string_view path) noexcept { return service_of(path) != nullptr; }

bool is_streamed_path(std::string_view path) noexcept {
  const Service* service = service_of(path);
  return service != nullptr && contains(service->streamed, path.substr(service->path.size()));
}

asio::awaitable<net::HttpResponse> serve(std::shared_ptr<Context> context, std::shared_ptr<OwnSandboxes> sandboxes,
                                         const net::HttpRequest& request) {
  const std::string_view path = net::path_of(request.target);
  const std::string_view method = path.substr(path.rfind('/') + 1);
  net::HttpResponse response;
  try {
    auto answering = answer(method, context, sandboxes, request);
    response = json_response(co_await std::move(answering));
  } catch (...) {
    response = error_response(error_in_flight([&](const std::string& text) { log_internal(*context, method, text); }));
  }
  co_return response;
}

asio::awaitable<std::uint64_t> serve_stream(std::shared_ptr<Context> context, std::shared_ptr<OwnSandboxes> sandboxes,
                                            net::ServerExchange& exchange) {
  const std::string path(net::path_of(exchange.request().target));
  ServerStream stream(exchange);
  std::optional<protocol::ConnectError> error;
  try {
    auto deadline = std::chrono::steady_clock::time_point::max();
    if (const auto timeout = timeout_of(exchange.request().headers)) deadline = std::chrono::steady_clock::now() + *timeout;
    const std::string json = co_await stream.request();
    if (path.ends_with("/StreamLogs")) {
      messages::StreamLogsRequest parsed = messages::from_json<messages::StreamLogsRequest>(json);
      co_await stream_logs(context, sandboxes, std::move(parsed), stream, deadline);
    } else if (path.ends_with("/Watch")) {
      messages::WatchFileRequest parsed = messages::from_json<messages::WatchFileRequest>(json);
      co_await watch_file(context, sandboxes, std::move(parsed), stream, deadline);
    } else {
      const FileService files(context, sandboxes);
      messages::ListFilesRequest parsed = messages::from_json<messages::ListFilesRequest>(json);
      co_await FileService::list(files, std::move(parsed), stream);
    }
  } catch (...) {
    error = error_in_flight([&](const std::string& text) { log_internal(*context, path, text); });
  }
  co_await stream.end(error ? &*error : nullptr);
  co_return stream.sent();
}

}  // namespace cwsandbox::gateway
