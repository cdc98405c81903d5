/// \file
/// Client and ClientOptions: where sandboxes run, and how to reach that place.
#pragma once

#include <cwsandbox/duration.hpp>
#include <cwsandbox/loop_manager.hpp>
#include <cwsandbox/trace.hpp>

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace cwsandbox {

namespace detail {
class ClientCore;
}

/// The header fields that say who asks, and how long they hold.
class CWSANDBOX_EXPORT AuthHeaders {
 public:
  AuthHeaders() {}
  /// Adds a field.
  AuthHeaders& with_header(std::string name, std::string value) & {
    return headers_.emplace_back(std::move(name), std::move(value)), *this;
  }
  AuthHeaders&& with_header(std::string name, std::string value) && {
    return std::move(with_header(std::move(name), std::move(value)));
  }
  /// Used again until then; unset: asked for with every request.
  AuthHeaders& with_expiry(std::chrono::system_clock::time_point expiry) & { return expiry_ = expiry, *this; }
  AuthHeaders&& with_expiry(std::chrono::system_clock::time_point expiry) && { return std::move(with_expiry(expiry)); }
  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] const std::vector<std::pair<std::string, std::string>>& headers() const noexcept { return headers_; }
  [[nodiscard]] const std::optional<std::chrono::system_clock::time_point>& expiry() const noexcept { return expiry_; }
  ///@}

 private:
  std::vector<std::pair<std::string, std::string>> headers_;
  std::optional<std::chrono::system_clock::time_point> expiry_;
};

/// Gives the header fields for a request. Called on a thread of the client's loop, from several at once if that has several; it
/// should not take long. What it throws comes out of the call that needed it, unchanged.
using AuthProvider = std::function<AuthHeaders()>;

/// Registers a way to authenticate, to be chosen with `ClientOptions::with_auth_mode` or `CWSANDBOX_AUTH_MODE`. Replaces one of the
/// same name for clients that are made from now on (AU-1). Any thread. \throws std::invalid_argument for an empty name or an empty
/// function.
CWSANDBOX_EXPORT void register_auth_mode(const std::string& name, AuthProvider provider);

/// Options of a Client. What is not set comes from the environment or has a default.
class CWSANDBOX_EXPORT ClientOptions {
 public:
  ClientOptions() {}

  /// `http:` or `https:` with a host and perhaps a port, `unix:/path`, or `local:` (a gateway inside this process, sandboxes on
  /// this machine).
  ClientOptions& with_base_url(std::string url) & { return base_url_ = std::move(url), *this; }
  /// Sent as a bearer token; never printed, never part of an error.
  ClientOptions& with_api_key(std::string key) & { return api_key_ = std::move(key), *this; }
  /// A registered way to authenticate, instead of a key.
  ClientOptions& with_auth_mode(std::string name) & { return auth_mode_ = std::move(name), *this; }
  /// Adopts an executor: no thread is started, work is done whenever the caller runs it. The context behind it must outlive every
  /// handle made with this client.
  ClientOptions& with_executor(asio::any_io_executor executor) & { return loop_ = LoopManager(std::move(executor)), *this; }
  /// Where the work is done; default: the shared background thread.
  ClientOptions& with_loop(LoopManager loop) & { return loop_ = std::move(loop), *this; }
  /// Limit of one request, default 300 s.
  ClientOptions& with_request_timeout(Duration timeout) & {
    return request_timeout_ = detail::to_milliseconds(timeout, "request timeout"), *this;
  }
  /// Limit of resolving, connecting and TLS together, default 10 s.
  ClientOptions& with_connect_timeout(Duration timeout) & {
    return connect_timeout_ = detail::to_milliseconds(timeout, "connect timeout"), *this;
  }
  /// How long a failing request is tried again, counted from its first failure; default 30 s, 0 for not at all (RT-2).
  ClientOptions& with_retry_budget(Duration budget) & {
    return retry_budget_ = detail::to_milliseconds(budget, "retry budget"), *this;
  }
  /// How long the connection of a process may stay lost before the process counts as lost; default 60 s, 0 for not at all. Within
  /// it processes go on from the exact byte, and nobody sees anything but time pass.
  ClientOptions& with_resume_grace(Duration grace) & {
    return resume_grace_ = detail::to_milliseconds(grace, "resume grace"), *this;
  }
  /// How long the connection of a process may be silent before it is taken for lost and replaced; default 60 s. Pings go out at
  /// half of it, so that only a peer that is gone, or stopped, is that silent.
  ClientOptions& with_idle_timeout(Duration timeout) & {
    return idle_timeout_ = detail::to_milliseconds(timeout, "idle timeout"), *this;
  }
  /// Certificates that are trusted instead of the system's: a PEM file.
  ClientOptions& with_ca_file(std::string path) & { return ca_file_ = std::move(path), *this; }
  /// A certificate that identifies this client: PEM files.
  ClientOptions& with_client_certificate(std::string certificate, std::string key) & {
    return certificate_file_ = std::move(certificate), key_file_ = std::move(key), *this;
  }
  /// Off: the server's certificate is not checked. For tests only.
  ClientOptions& with_verify(bool on) & { return verify_ = on, *this; }
  /// The proxy that an `http:` or `https:` gateway is reached through, `http://[USER[:PASSWORD]@]HOST[:PORT]` (percent-encoded,
  /// port 80), whatever the environment says and wherever the gateway is; empty: none. See Client, Proxies (NW-2).
  ClientOptions& with_proxy(std::string url) & { return proxy_ = std::move(url), *this; }

  /// Told of every request, process, retry and resume as it happens. Clients with one share no connections with others.
  ClientOptions& with_trace(TraceCallback callback) & { return trace_ = std::move(callback), *this; }
  /// Gets the same as lines for people, and warnings: a key that goes over plain `http:` to another machine, certificates that are
  /// not checked. Without it the library writes nothing anywhere.
  ClientOptions& with_logger(Logger logger) & { return logger_ = std::move(logger), *this; }

  ClientOptions&& with_trace(TraceCallback callback) && { return std::move(with_trace(std::move(callback))); }
  ClientOptions&& with_logger(Logger logger) && { return std::move(with_logger(std::move(logger))); }
  ClientOptions&& with_base_url(std::string url) && { return std::move(with_base_url(std::move(url))); }
  ClientOptions&& with_api_key(std::string key) && { return std::move(with_api_key(std::move(key))); }
  ClientOptions&& with_auth_mode(std::string name) && { return std::move(with_auth_mode(std::move(name))); }
  ClientOptions&& with_executor(asio::any_io_executor executor) && { return std::move(with_executor(std::move(executor))); }
  ClientOptions&& with_loop(LoopManager loop) && { return std::move(with_loop(std::move(loop))); }
  ClientOptions&& with_request_timeout(Duration timeout) && { return std::move(with_request_timeout(timeout)); }
  ClientOptions&& with_connect_timeout(Duration timeout) && { return std::move(with_connect_timeout(timeout)); }
  ClientOptions&& with_retry_budget(Duration budget) && { return std::move(with_retry_budget(budget)); }
  ClientOptions&& with_resume_grace(Duration grace) && { return std::move(with_resume_grace(grace)); }
  ClientOptions&& with_idle_timeout(Duration timeout) && { return std::move(with_idle_timeout(timeout)); }
  ClientOptions&& with_ca_file(std::string path) && { return std::move(with_ca_file(std::move(path))); }
  ClientOptions&& with_client_certificate(std::string certificate, std::string key) && {
    return std::move(with_client_certificate(std::move(certificate), std::move(key)));
  }
  ClientOptions&& with_verify(bool on) && { return std::move(with_verify(on)); }
  ClientOptions&& with_proxy(std::string url) && { return std::move(with_proxy(std::move(url))); }

  ///@{
  /// What was asked for, or the default.
  [[nodiscard]] const std::optional<std::string>& base_url() const noexcept { return base_url_; }
  [[nodiscard]] const std::optional<std::string>& api_key() const noexcept { return api_key_; }
  [[nodiscard]] const std::optional<std::string>& auth_mode() const noexcept { return auth_mode_; }
  [[nodiscard]] const LoopManager& loop() const noexcept { return loop_; }
  [[nodiscard]] std::chrono::milliseconds request_timeout() const noexcept { return request_timeout_; }
  [[nodiscard]] std::chrono::milliseconds connect_timeout() const noexcept { return connect_timeout_; }
  [[nodiscard]] std::chrono::milliseconds retry_budget() const noexcept { return retry_budget_; }
  [[nodiscard]] std::chrono::milliseconds resume_grace() const noexcept { return resume_grace_; }
  [[nodiscard]] std::chrono::milliseconds idle_timeout() const noexcept { return idle_timeout_; }
  [[nodiscard]] const std::string& ca_file() const noexcept { return ca_file_; }
  [[nodiscard]] const std::string& certificate_file() const noexcept { return certificate_file_; }
  [[nodiscard]] const std::string& key_file() const noexcept { return key_file_; }
  [[nodiscard]] bool verify() const noexcept { return verify_; }
  [[nodiscard]] const std::optional<std::string>& proxy() const noexcept { return proxy_; }
  [[nodiscard]] const TraceCallback& trace() const noexcept { return trace_; }
  [[nodiscard]] const Logger& logger() const noexcept { return logger_; }
  ///@}

 private:
  std::optional<std::string> base_url_, api_key_, auth_mode_;
  LoopManager loop_;
  std::chrono::milliseconds request_timeout_ = std::chrono::seconds(300);
  std::chrono::milliseconds connect_timeout_ = std::chrono::seconds(10);
  std::chrono::milliseconds retry_budget_ = std::chrono::seconds(30);
  std::chrono::milliseconds resume_grace_ = std::chrono::seconds(60);
  std::chrono::milliseconds idle_timeout_ = std::chrono::seconds(60);
  std::string ca_file_, certificate_file_, key_file_;
  bool verify_ = true;
  std::optional<std::string> proxy_;
  TraceCallback trace_;
  Logger logger_;
};

/// A cheap handle to an endpoint: copies share connections.
///
/// \par Which endpoint
/// The option `base_url`; else the environment variable `CWSANDBOX_BASE_URL`; else `https://api.cwsandbox.com` when
/// `CWSANDBOX_API_KEY` or `CWSANDBOX_AUTH_MODE` is set; else `local:`.
///
/// \par Who asks
/// The auth mode that the option or `CWSANDBOX_AUTH_MODE` names; else the key, which is the option `api_key`, else
/// `CWSANDBOX_API_KEY` (NW-1, AU-1). `local:` needs neither.
///
/// \par Proxies
/// The option `proxy`; else, unless the gateway is a Unix socket, `localhost` or a loopback address, or is in `no_proxy` or
/// `NO_PROXY`: `https_proxy` or `HTTPS_PROXY` for `https:`, `http_proxy` (in lower case only) for `http:`, `all_proxy` or
/// `ALL_PROXY` for either. The proxy is asked with CONNECT for each connection, and resolves the gateway's name; its user and
/// password are in no error (NW-2, NW-3). One that refuses with a status of 4xx is not asked again: CWSandboxError.
///
/// \par Connections
/// Nothing is opened until it is needed. Connections are kept and used again. On the default loop they (and the embedded gateway of
/// `local:`) stay until exit.
///
/// \par Outstanding work
/// On an adopted executor, what keeps the caller's `io_context::run()` from returning is what is under way: calls, processes that
/// have not ended, streams that are fed, and for a quarter of a second the connection of a process that has ended. A handle does
/// not. With `local:` the gateway is part of the program and is under way as long as it has sandboxes: until they have been stopped
/// or have ended, or their last handles are gone; and what it had of them, their logs, goes with it.
///
/// \par Errors
/// `std::invalid_argument` from the constructor for a malformed base URL, a key that cannot be sent, an auth mode that nobody has
/// registered, a proxy that is malformed or of another kind (its text names the option or variable), or both a key and a mode among
/// the options; CWSandboxConfigurationError for a file with certificates or a key that cannot be used, which names the file and the
/// option.
///
/// \par Thread safety
/// Distinct objects: safe. Shared objects: safe.
class CWSANDBOX_EXPORT Client {
 public:
  /// From the environment, on the default loop.
  Client();
  /// From the environment, on the caller's executor; starts no thread (EV-6).
  explicit Client(asio::any_io_executor executor);
  ///@{
  /// By address, as ClientOptions::with_base_url takes it: `Client("unix:/run/cwsandboxd.sock")`. The rest is from the environment.
  explicit Client(const std::string& base_url);
  explicit Client(const char* base_url);  ///< throws std::invalid_argument for a null pointer, too
  ///@}
  /// From options; what they leave open comes from the environment.
  explicit Client(ClientOptions options);

  /// The endpoint, for messages; holds no secret.
  [[nodiscard]] std::string base_url() const;
  /// Where its work is done.
  [[nodiscard]] const LoopManager& loop() const noexcept;

  /// For the library's own parts.
  [[nodiscard]] const std::shared_ptr<detail::ClientCore>& core() const noexcept { return core_; }

 private:
  std::shared_ptr<detail::ClientCore> core_;
};

}  // namespace cwsandbox
