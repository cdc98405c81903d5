// The Kubernetes API: requests with JSON in and out, errors as the API tells them, and the way to its streams.
#pragma once

#include "net/http_client.hpp"
#include "runner/kubernetes/kubeconfig.hpp"
#include "runner/runner.hpp"

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cwsandbox::runner::kubernetes {

using Json = nlohmann::json;

[[nodiscard]] inline RunnerError unavailable(const std::string& what) { return {ErrorCode::unavailable, kUnavailable, what}; }

/// What the API server answered, or that it did not. Its code is a Connect code: not_found, already_exists (reason AlreadyExists),
/// aborted (409 else), permission_denied, unauthenticated, invalid_argument (400, 422), resource_exhausted (403 for a quota),
/// unavailable (429, 5xx, no answer), failed_precondition (410), internal.
class ApiError : public RunnerError {
 public:
  ApiError(ErrorCode code, unsigned status, std::string reason, std::optional<std::chrono::seconds> retry_after,
           const std::string& message);
  [[nodiscard]] unsigned status() const noexcept { return status_; }  ///< of HTTP; 0: there was no answer
  /// Kubernetes' own word: "NotFound", "Expired", …; may be empty.
  [[nodiscard]] const std::string& kubernetes_reason() const noexcept { return kubernetes_reason_; }
  [[nodiscard]] std::optional<std::chrono::seconds> retry_after() const noexcept { return retry_after_; }

 private:
  unsigned status_;
  std::string kubernetes_reason_;
  std::optional<std::chrono::seconds> retry_after_;
};

/// From an answer that is none of success; `what` says what was asked ("GET /api/v1/…").
[[nodiscard]] ApiError make_api_error(const net::HttpResponse& response, const std::string& what);
/// From a Status object, as an event of a watch carries one.
[[nodiscard]] ApiError make_api_error(const Json& status, const std::string& what);

/// Where a resource is: `resource_path("v1", "ns", "pods", "name", "exec")` is "/api/v1/namespaces/ns/pods/name/exec", and
/// `resource_path("networking.k8s.io/v1", "ns", "networkpolicies")` a collection. Without a namespace: the whole cluster's. Parts
/// are percent-encoded.
[[nodiscard]] std::string resource_path(std::string_view group_version, std::string_view name_space, std::string_view resource,
                                        std::string_view name = {}, std::string_view subresource = {});

using Query = std::vector<std::pair<std::string, std::string>>;

/// `path` with a query, percent-encoded.
[[nodiscard]] std::string with_query(std::string path, const Query& query);

enum class PatchType : std::uint8_t { merge, strategic };

struct DeleteOptions {
  std::string propagation_policy;  ///< "Background", "Foreground", "Orphan"; empty: the server's default
  std::optional<std::int64_t> grace_period_seconds;
  std::string uid;  ///< only the object of that uid (409 for another of the same name); empty: any
};

struct ApiClientOptions {
  std::chrono::steady_clock::duration request_timeout = std::chrono::seconds(30);  ///< one attempt, from the connecting on
  std::chrono::steady_clock::duration plugin_timeout = std::chrono::seconds(60);
  std::size_t max_answer = std::size_t{64} * 1024 * 1024;
  std::size_t max_idle_connections = 8;
  unsigned get_attempts = 5;  ///< a GET that the server or the network fails is tried so often
  std::chrono::milliseconds retry_base{100};
  std::chrono::milliseconds retry_max{5000};  ///< also the longest Retry-After that is waited for
};

/// Requests to one API server over pooled connections. Not thread safe: everything on its executor, which is serialised; coroutines
/// under way keep what they need. A request whose credential is refused (401) is made once more with a fresh one, if there can be
/// one. Every request throws ApiError, or RunnerError ("unauthenticated") when there is no credential.
class ApiClient {
 public:
  /// Throws RunnerError ("invalid_argument") for certificates that cannot be used.
  ApiClient(asio::any_io_executor executor, ClusterAccess access, ApiClientOptions options = {});
  ~ApiClient();
  ApiClient(const ApiClient&) = delete;
  ApiClient& operator=(const ApiClient&) = delete;

  /// Tried again, with back-off and by the server's Retry-After, for 429, 5xx and when there was no answer.
  [[nodiscard]] asio::awaitable<Json> get(std::string target);
  /// May reach the server twice when a connection dies under it, as `put`, `patch` and `remove` may: AlreadyExists can then be the
  /// answer to one's own object. Not tried again otherwise, but for 429, which says that nothing has been done.
  [[nodiscard]] asio::awaitable<Json> post(std::string target, Json body);
  [[nodiscard]] asio::awaitable<Json> put(std::string target, Json body);
  [[nodiscard]] asio::awaitable<Json> patch(std::string target, PatchType type, Json body);
  /// The answer: the object as it is now, or a Status.
  [[nodiscard]] asio::awaitable<Json> remove(std::string target, DeleteOptions options);

  /// A GET whose answer is read piece by piece; its header was 200. Not tried again.
  [[nodiscard]] asio::awaitable<std::unique_ptr<net::ClientExchange>> stream(std::string target,
                                                                             std::chrono::steady_clock::duration idle_timeout);
  /// A WebSocket on `executor()`.
  [[nodiscard]] asio::awaitable<std::unique_ptr<net::WebSocket>> upgrade(std::string target, std::string subprotocols,
                                                                         net::WebSocket::Limits limits);

  [[nodiscard]] asio::any_io_executor executor() const;
  [[nodiscard]] const std::string& default_namespace() const noexcept;
  /// Requests that have been sent, by verb and resource as RBAC names them: {"create", "pods"}, {"get", "pods/exec"}, …
  using Calls = std::map<std::pair<std::string, std::string>, std::uint64_t>;
  [[nodiscard]] const Calls& calls() const noexcept;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace cwsandbox::runner::kubernetes
