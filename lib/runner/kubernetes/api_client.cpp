#include "runner/kubernetes/api_client.hpp"

#include "base/hex.hpp"
#include "base/numbers.hpp"
#include "base/text.hpp"
#include "cwsandbox/version.hpp"
#include "protocol/json_shape.hpp"
#include "protocol/json_util.hpp"
#include "runner/kubernetes/backoff.hpp"
#include "runner/kubernetes/credentials.hpp"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <exception>

namespace cwsandbox::runner::kubernetes {

namespace {

using Clock = std::chrono::steady_clock;

// Objects of the API nest some twenty levels deep; more is no object of its.
constexpr std::size_t kMaxDepth = 200;
constexpr std::size_t kMaxMessage = 500;

ErrorCode code_of(unsigned status, const std::string& reason, const std::string& message) {
  switch (status) {
    case 400:
    case 413:
    case 415:
    case 422:
      return ErrorCode::invalid_argument;
    case 401:
      return ErrorCode::unauthenticated;
    case 403:
      // The API has no reason of its own for it.
      return message.find("exceeded quota") != std::string::npos ? ErrorCode::resource_exhausted : ErrorCode::permission_denied;
    case 404:
      return ErrorCode::not_found;
    case 409:
      return reason == "AlreadyExists" ? ErrorCode::already_exists : ErrorCode::aborted;
    case 410:
      return ErrorCode::failed_precondition;
    default:
      return status == 429 || status >= 500 ? ErrorCode::unavailable : ErrorCode::internal;
  }
}

std::optional<std::chrono::seconds> seconds_of(std::string_view text) {
  const auto value = base::parse_number<unsigned>(text);
  return value ? std::optional(std::chrono::seconds(*value)) : std::nullopt;
}

std::optional<Json> parse(const std::string& text) {
  if (protocol::nests_deeper(text, kMaxDepth)) return std::nullopt;
  Json out = Json::parse(text, nullptr, false);
  if (out.is_discarded()) return std::nullopt;
  return out;
}

ApiError error_from(const Json& status, unsigned http_status, std::optional<std::chrono::seconds> retry_after,
                    const std::string& what) {
  std::string reason = protocol::json_util::text_member(status, "reason"),
              message = protocol::json_util::text_member(status, "message");
  if (const Json* details = protocol::json_util::find(status, "details"); details != nullptr && details->is_object()) {
    const Json* seconds = protocol::json_util::find(*details, "retryAfterSeconds");
    if (seconds != nullptr && seconds->is_number_unsigned() && seconds->get<std::uint64_t>() > 0)
      retry_after = std::chrono::seconds(std::min<std::uint64_t>(seconds->get<std::uint64_t>(), 24 * 3600));
  }
  const auto code = code_of(http_status, reason, message);
  std::string said = what + ": ";
  if (message.empty()) {
    said +=
        "HTTP status " + std::to_string(http_status) + (reason.empty() ? std::string() : " (" + base::printable(reason, 100) + ")");
  } else {
    said += base::printable(message, kMaxMessage);
  }
  return {code, http_status, std::move(reason), retry_after, said};
}

// "pods", "pods/exec" from a path below /api/v1 or /apis/GROUP/VERSION; what is no resource is named by its path.
std::pair<std::string, bool> resource_of(const std::string& target) {
  const auto path = net::path_of(target);
  std::vector<std::string_view> parts;
  for (std::size_t from = 1; from < path.size();) {
    const auto end = std::min(path.find('/', from), path.size());
    parts.push_back(path.substr(from, end - from));
    from = end + 1;
  }
  std::size_t at = parts.empty() ? 0 : parts.front() == "api" ? 2 : parts.front() == "apis" ? 3 : 0;
  if (at == 0 || parts.size() <= at) return {std::string(path), true};
  if (parts[at] == "namespaces" && parts.size() > at + 2) at += 2;
  std::string out(parts[at]);
  if (parts.size() > at + 2) out += "/" + std::string(parts[at + 2]);
  return {out, parts.size() > at + 1};
}

std::pair<std::string, std::string> call_of(const std::string& method, const std::string& target) {
  auto [resource, named] = resource_of(target);
  std::string verb;
  if (method == "GET") {
    verb = target.find("watch=true") != std::string::npos ? "watch" : named ? "get" : "list";
  } else if (method == "POST") {
    verb = "create";
  } else if (method == "PUT") {
    verb = "update";
  } else if (method == "PATCH") {
    verb = "patch";
  } else {
    verb = named ? "delete" : "deletecollection";
  }
  return {std::move(verb), std::move(resource)};
}

ApiError no_answer(const net::TransportError& e, const std::string& what) {
  return {ErrorCode::unavailable, 0, "", std::nullopt, what + ": " + e.what()};
}

bool worth_another(const ApiError& e) { return e.status() == 0 || e.status() == 429 || e.status() >= 500; }

net::HttpRequest make_request(const std::string& method, std::string target, std::string body, const char* content_type) {
  net::HttpRequest out;
  out.method = method;
  out.target = std::move(target);
  out.body = std::move(body);
  // Not for WebSockets: a kubelet answers it with 406 there.
  out.headers.emplace_back("Accept", "application/json");
  if (content_type != nullptr) out.headers.emplace_back("Content-Type", content_type);
  return out;
}

}  // namespace

ApiError::ApiError(ErrorCode code, unsigned status, std::string reason, std::optional<std::chrono::seconds> retry_after,
                   const std::string& message)
    : RunnerError(code, kUnavailable, message), status_(status), kubernetes_reason_(std::move(reason)), retry_after_(retry_after) {}

ApiError make_api_error(const net::HttpResponse& response, const std::string& what) {
  const auto retry_after = seconds_of(net::find_header(response.headers, "Retry-After"));
  const auto json = parse(response.body);
  if (json && json->is_object() && protocol::json_util::text_member(*json, "kind") == "Status")
    return error_from(*json, response.status, retry_after, what);
  // A proxy's answer, or the plain text of an older server's streams.
  Json plain = Json::object();
  const auto type = net::find_header(response.headers, "Content-Type");
  if (type.starts_with("text/plain")) {
    auto text = std::string_view(response.body);
    while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
    if (!text.empty()) plain["message"] = base::printable(text, kMaxMessage);
  }
  return error_from(plain, response.status, retry_after, what);
}

ApiError make_api_error(const Json& status, const std::string& what) {
  const Json* code = status.is_object() ? protocol::json_util::find(status, "code") : nullptr;
  const bool known = code != nullptr && code->is_number_unsigned() && code->get<std::uint64_t>() < 1000;
  return error_from(status.is_object() ? status : Json::object(), known ? code->get<unsigned>() : 500U, std::nullopt, what);
}

std::string resource_path(std::string_view group_version, std::string_view name_space, std::string_view resource,
                          std::string_view name, std::string_view subresource) {
  std::string out = group_version.find('/') == std::string_view::npos ? "/api/" : "/apis/";
  out += group_version;
  if (!name_space.empty()) {
    out += "/namespaces/";
    out += base::percent_encode(name_space);
  }
  for (const auto part : {resource, name, subresource}) {
    if (part.empty()) break;
    out += '/';
    out += base::percent_encode(part);
  }
  return out;
}

std::string with_query(std::string path, const Query& query) {
  char separator = path.find('?') == std::string::npos ? '?' : '&';
  for (const auto& [name, value] : query) {
    path += std::exchange(separator, '&');
    path += base::percent_encode(name);
    path += '=';
    path += base::percent_encode(value);
  }
  return path;
}

struct ApiClient::State : std::enable_shared_from_this<State> {
  State(asio::any_io_executor ex, ClusterAccess a, ApiClientOptions o)
      : executor(std::move(ex)), access(std::move(a)), options(o), credentials(executor, access, options.plugin_timeout) {
    // What cannot be used is an error now and not with the first request.
    if (!access.exec) http_for(Credential{access.token, access.client_certificate, access.client_key, 0});
  }

  const asio::any_io_executor executor;
  const ClusterAccess access;
  const ApiClientOptions options;
  Credentials credentials;
  std::shared_ptr<net::HttpClient> http;
  std::string certificate, key;  // that `http` shows
  Calls calls;

  // A client certificate belongs to connections: another one means other connections.
  const std::shared_ptr<net::HttpClient>& http_for(const Credential& credential) {
    if (http && certificate == credential.certificate && key == credential.key) return http;
    net::HttpClientOptions settings;
    settings.max_idle_connections = options.max_idle_connections;
    settings.max_response_body = options.max_answer;
    settings.tls.verify = !access.insecure_skip_tls_verify;
    settings.tls.ca = access.ca;
    settings.tls.certificate = credential.certificate;
    settings.tls.key = credential.key;
    settings.tls.server_name = access.tls_server_name;
    try {
      http = std::make_shared<net::HttpClient>(executor, access.endpoint, settings);
    } catch (const std::runtime_error& e) {
      throw RunnerError(ErrorCode::invalid_argument, "", access.origin + ": " + e.what());
    }
    certificate = credential.certificate;
    key = credential.key;
    return http;
  }

  void authorize(net::Headers& headers, const Credential& credential) const {
    headers.emplace_back("User-Agent", "cwsandboxd/" + std::string(kVersion));
    if (!credential.token.empty()) headers.emplace_back("Authorization", "Bearer " + credential.token);
  }

  // Whether the request is to be made again because its credential was refused and there may be another.
  static asio::awaitable<bool> renewed(std::shared_ptr<State> self, std::shared_ptr<const Credential> credential,
                                       Clock::time_point deadline) {
    if (!self->credentials.refused(*credential)) co_return false;
    const auto next = co_await self->credentials.get(deadline);
    co_return next->generation != credential->generation;
  }

  static asio::awaitable<Json> once(std::shared_ptr<State> self, std::shared_ptr<const net::HttpRequest> draft, std::string what) {
    const auto deadline = Clock::now() + self->options.request_timeout;
    for (bool again = false;; again = true) {
      const auto credential = co_await self->credentials.get(deadline);
      const auto http = self->http_for(*credential);
      net::HttpRequest request = *draft;
      request.target = self->access.path_prefix + request.target;
      self->authorize(request.headers, *credential);
      ++self->calls[call_of(draft->method, draft->target)];
      net::HttpResponse response;
      std::optional<ApiError> failed;
      try {
        response = co_await http->request(std::move(request), deadline);
      } catch (const net::TransportError& e) {
        failed = no_answer(e, what);
      }
      if (failed) throw std::move(*failed);
      if (response.status == 401 && !again) {
        if (co_await renewed(self, credential, deadline)) continue;
      }
      if (response.status < 200 || response.status > 299) throw make_api_error(response, what);
      auto json = parse(response.body);
      if (!json) throw ApiError(ErrorCode::unavailable, response.status, "", std::nullopt, what + ": the answer is not JSON");
      co_return std::move(*json);
    }
  }

  // `repeatable`: for anything that did not succeed, else only when nothing has been done.
  static asio::awaitable<Json> call(std::shared_ptr<State> self, std::string method, std::string target, std::string body,
                                    const char* content_type, bool repeatable) {
    const std::string what = method + " " + std::string(net::path_of(target));
    auto draft = std::make_shared<const net::HttpRequest>(make_request(method, std::move(target), std::move(body), content_type));
    Backoff backoff(self->options.retry_base, self->options.retry_max);
    for (unsigned attempt = 1;; ++attempt) {
      Clock::duration delay{};
      try {
        co_return co_await once(self, draft, what);
      } catch (const ApiError& e) {
        const bool another = repeatable ? worth_another(e) : e.status() == 429;
        if (!another || attempt >= self->options.get_attempts) throw;
        delay = backoff.next();
        if (const auto hint = e.retry_after()) {
          // Whoever asks to be left alone for long is not waited for here.
          if (*hint > self->options.retry_max) throw;
          delay = std::max<Clock::duration>(delay, *hint);
        }
      }
      asio::steady_timer timer(self->executor, delay);
      co_await timer.async_wait(asio::use_awaitable);
    }
  }

  static asio::awaitable<std::unique_ptr<net::ClientExchange>> stream(std::shared_ptr<State> self, std::string target,
                                                                      Clock::duration idle_timeout) {
    const std::string what = "GET " + std::string(net::path_of(target));
    const auto deadline = Clock::now() + self->options.request_timeout;
    for (bool again = false;; again = true) {
      const auto credential = co_await self->credentials.get(deadline);
      const auto http = self->http_for(*credential);
      net::HttpRequest request = make_request("GET", self->access.path_prefix + target, {}, nullptr);
      self->authorize(request.headers, *credential);
      ++self->calls[call_of("GET", target)];
      std::unique_ptr<net::ClientExchange> exchange;
      net::HttpResponse head;
      std::optional<ApiError> failed;
      try {
        exchange = co_await http->open(std::move(request), 0, false, deadline, idle_timeout);
        head = co_await exchange->head();
        constexpr std::size_t kMaxErrorBody = 64 * 1024;
        if (head.status != 200) head.body = co_await exchange->read_rest(kMaxErrorBody);
      } catch (const net::TransportError& e) {
        failed = no_answer(e, what);
      }
      if (failed) throw std::move(*failed);
      if (head.status == 401 && !again) {
        if (co_await renewed(self, credential, deadline)) continue;
      }
      if (head.status != 200) throw make_api_error(head, what);
      co_return exchange;
    }
  }

  static asio::awaitable<std::unique_ptr<net::WebSocket>> upgrade(std::shared_ptr<State> self, std::string target,
                                                                  std::string subprotocols, net::WebSocket::Limits limits) {
    const std::string what = "GET " + std::string(net::path_of(target));
    const auto deadline = Clock::now() + self->options.request_timeout;
    for (bool again = false;; again = true) {
      const auto credential = co_await self->credentials.get(deadline);
      const auto http = self->http_for(*credential);
      net::Headers headers;
      self->authorize(headers, *credential);
      ++self->calls[call_of("GET", target)];
      std::optional<ApiError> failed;
      std::string full = self->access.path_prefix + target;
      try {
        co_return co_await http->upgrade(self->executor, std::move(full), std::move(headers), subprotocols, limits, deadline);
      } catch (const net::UpgradeRefused& e) {
        failed = make_api_error(e.response(), what);
      } catch (const net::TransportError& e) {
        failed = no_answer(e, what);
      }
      if (failed->status() == 401 && !again) {
        if (co_await renewed(self, credential, deadline)) continue;
      }
      throw std::move(*failed);
    }
  }
};

ApiClient::ApiClient(asio::any_io_executor executor, ClusterAccess access, ApiClientOptions options)
    : state_(std::make_shared<State>(std::move(executor), std::move(access), options)) {}
ApiClient::~ApiClient() = default;

asio::awaitable<Json> ApiClient::get(std::string target) {
  return State::call(state_, "GET", std::move(target), {}, nullptr, true);
}
asio::awaitable<Json> ApiClient::post(std::string target, Json body) {
  return State::call(state_, "POST", std::move(target), protocol::json_util::dump(body), "application/json", false);
}
asio::awaitable<Json> ApiClient::put(std::string target, Json body) {
  return State::call(state_, "PUT", std::move(target), protocol::json_util::dump(body), "application/json", false);
}
asio::awaitable<Json> ApiClient::patch(std::string target, PatchType type, Json body) {
  const char* content_type = type == PatchType::merge ? "application/merge-patch+json" : "application/strategic-merge-patch+json";
  return State::call(state_, "PATCH", std::move(target), protocol::json_util::dump(body), content_type, false);
}
asio::awaitable<Json> ApiClient::remove(std::string target, DeleteOptions options) {
  Json body{{"kind", "DeleteOptions"}, {"apiVersion", "v1"}};
  if (!options.propagation_policy.empty()) body["propagationPolicy"] = options.propagation_policy;
  if (options.grace_period_seconds) body["gracePeriodSeconds"] = *options.grace_period_seconds;
  if (!options.uid.empty()) body["preconditions"]["uid"] = options.uid;
  return State::call(state_, "DELETE", std::move(target), protocol::json_util::dump(body), "application/json", false);
}
asio::awaitable<std::unique_ptr<net::ClientExchange>> ApiClient::stream(std::string target, Clock::duration idle_timeout) {
  return State::stream(state_, std::move(target), idle_timeout);
}
asio::awaitable<std::unique_ptr<net::WebSocket>> ApiClient::upgrade(std::string target, std::string subprotocols,
                                                                    net::WebSocket::Limits limits) {
  return State::upgrade(state_, std::move(target), std::move(subprotocols), std::move(limits));
}
asio::any_io_executor ApiClient::executor() const { return state_->executor; }
const std::string& ApiClient::default_namespace() const noexcept { return state_->access.default_namespace; }
const ApiClient::Calls& ApiClient::calls() const noexcept { return state_->calls; }

}  // namespace cwsandbox::runner::kubernetes
