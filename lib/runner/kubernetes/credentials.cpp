#include "runner/kubernetes/credentials.hpp"

#include "base/ascii.hpp"
#include "base/base64.hpp"
#include "base/errno_text.hpp"
#include "base/text.hpp"
#include "base/time.hpp"
#include "protocol/json_shape.hpp"
#include "protocol/json_util.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <sys/stat.h>

#include <exception>
#include <optional>
#include <vector>

namespace cwsandbox::runner::kubernetes {

namespace {

using Clock = std::chrono::steady_clock;
using Json = protocol::json_util::Json;

constexpr std::size_t kMaxToken = 64 * 1024;
// For file systems whose times say nothing.
constexpr std::chrono::seconds kTokenFileAge{60};
// A credential that is about to expire might do so on its way.
constexpr std::chrono::seconds kExpiryMargin{5};

[[nodiscard]] RunnerError unauthenticated(const std::string& why) { return {ErrorCode::unauthenticated, kUnavailable, why}; }

// A header carries it.
bool sound_token(std::string_view token) {
  for (const char c : token)
    if (c <= 0x20 || c >= 0x7f) return false;
  return true;
}

// What tells that a file is another one, or another text.
struct FileState {
  dev_t device = 0;
  ino_t inode = 0;
  off_t size = 0;
  std::int64_t seconds = 0, nanos = 0;
  bool operator==(const FileState&) const = default;
};

std::optional<FileState> look_at(const std::string& path) {
  struct stat info{};
  if (::stat(path.c_str(), &info) != 0) return std::nullopt;
  return FileState{info.st_dev, info.st_ino, info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec};
}

}  // namespace

struct Credentials::State : std::enable_shared_from_this<State> {
  State(asio::any_io_executor ex, const ClusterAccess& access, Clock::duration timeout)
      : executor(std::move(ex)), token_file(access.token_file), plugin(access.exec), plugin_timeout(timeout) {
    base.token = access.token;
    base.certificate = access.client_certificate;
    base.key = access.client_key;
    if (!sound_token(base.token))
      throw RunnerError(ErrorCode::invalid_argument, "", access.origin + ": the token holds blanks or control characters");
    if (plugin && plugin->provide_cluster_info) {
      cluster_info["server"] = access.endpoint.to_string() + access.path_prefix;
      if (!access.tls_server_name.empty()) cluster_info["tls-server-name"] = access.tls_server_name;
      if (access.insecure_skip_tls_verify) cluster_info["insecure-skip-tls-verify"] = true;
      if (!access.ca.empty()) cluster_info["certificate-authority-data"] = base::base64_encode(access.ca);
    }
    // Without a file or a program this is all there is.
    if (token_file.empty() && !plugin) current = std::make_shared<const Credential>(base);
  }

  const asio::any_io_executor executor;
  const std::string token_file;
  const std::optional<ExecPlugin> plugin;
  const Clock::duration plugin_timeout;
  Json cluster_info;
  Credential base;

  std::shared_ptr<const Credential> current;
  unsigned generation = 0;
  bool stale = false;  // the server has refused it

  // The token file.
  std::optional<FileState> file_state;
  Clock::time_point read_at;

  // The plugin.
  std::optional<std::chrono::system_clock::time_point> expires;
  bool running = false;
  std::exception_ptr failure;                                // of the last run
  std::vector<std::shared_ptr<asio::steady_timer>> waiters;  // cancelled when a run has ended

  void adopt(Credential next) {
    stale = false;
    if (current && current->token == next.token && current->certificate == next.certificate && current->key == next.key) return;
    next.generation = ++generation;
    current = std::make_shared<const Credential>(std::move(next));
  }

  void read_token_file() {
    const auto now = Clock::now();
    const auto state = look_at(token_file);
    if (current && !stale && state && state == file_state && now - read_at < kTokenFileAge) return;
    Credential next = base;
    try {
      const auto text = read_small_file(token_file, kMaxToken, "the token file");
      next.token = std::string(base::trimmed(text));
    } catch (const RunnerError& e) {
      throw unauthenticated(e.what());
    }
    // It may be caught while it is written anew.
    if (next.token.empty()) throw unauthenticated("the token file: " + token_file + ": it is empty");
    if (!sound_token(next.token)) throw unauthenticated("the token file: " + token_file + ": it holds more than a token");
    file_state = state;
    read_at = now;
    adopt(std::move(next));
  }

  [[nodiscard]] bool plugin_due() const {
    return !current || stale || (expires && std::chrono::system_clock::now() + kExpiryMargin >= *expires);
  }

  // Throws RunnerError; of the output only what is a credential is used.
  void take_plugin_result(const ProgramResult& result) {
    const std::string name = "the credential plugin \"" + base::printable(plugin->command, 200) + "\" ";
    const std::string said = result.last_error_line.empty() ? std::string() : ": " + result.last_error_line;
    if (result.start_error != 0) {
      throw unauthenticated(name + "cannot be started: " + base::error_text(result.start_error) +
                            (plugin->install_hint.empty() ? std::string() : "; " + plugin->install_hint));
    }
    if (result.timed_out) throw unauthenticated(name + "did not end in time" + said);
    if (result.too_long) throw unauthenticated(name + "writes more than a credential");
    // Nobody knows its status: its output says.
    if (result.status > 0) {
      throw unauthenticated(name +
                            (result.status > 128 ? "was ended by signal " + std::to_string(result.status - 128)
                                                 : "failed with exit code " + std::to_string(result.status)) +
                            said);
    }
    const bool deep = protocol::nests_deeper(result.output, protocol::json_util::kMaxDepth);
    const Json json = deep ? Json() : Json::parse(result.output, nullptr, false);
    if (!json.is_object()) throw unauthenticated(name + "did not write a JSON object" + said);
    if (protocol::json_util::text_member(json, "kind") != "ExecCredential")
      throw unauthenticated(name + "did not write an ExecCredential");
    if (protocol::json_util::text_member(json, "apiVersion") != plugin->api_version)
      throw unauthenticated(name + "wrote another apiVersion than " + plugin->api_version);
    const Json* status = protocol::json_util::find(json, "status");
    if (status == nullptr || !status->is_object()) throw unauthenticated(name + "wrote an ExecCredential without a status");
    Credential next = base;
    next.token = protocol::json_util::text_member(*status, "token");
    if (!sound_token(next.token)) throw unauthenticated(name + "wrote a token that holds blanks or control characters");
    const auto certificate = protocol::json_util::text_member(*status, "clientCertificateData"),
               key = protocol::json_util::text_member(*status, "clientKeyData");
    if (certificate.empty() != key.empty())
      throw unauthenticated(name + "wrote only one of clientCertificateData and clientKeyData");
    if (!certificate.empty()) {
      next.certificate = certificate;
      next.key = key;
    }
    if (next.token.empty() && certificate.empty()) throw unauthenticated(name + "wrote neither a token nor a client certificate");
    const auto until = protocol::json_util::text_member(*status, "expirationTimestamp");
    const auto when = base::parse_timestamp(until);
    if (!until.empty() && !when) throw unauthenticated(name + "wrote an expirationTimestamp that is no time");
    expires = when;
    adopt(std::move(next));
  }

  static asio::awaitable<void> run_plugin(std::shared_ptr<State> self) {
    Json info{{"apiVersion", self->plugin->api_version}, {"kind", "ExecCredential"}};
    info["spec"]["interactive"] = false;
    if (!self->cluster_info.is_null()) info["spec"]["cluster"] = self->cluster_info;
    Program program;
    program.argv.push_back(self->plugin->command);
    for (const auto& arg : self->plugin->args) program.argv.push_back(arg);
    program.env = self->plugin->env;
    program.env.emplace_back("KUBERNETES_EXEC_INFO", protocol::json_util::dump(info));
    try {
      const auto result = co_await run_program(self->executor, std::move(program), Clock::now() + self->plugin_timeout);
      self->take_plugin_result(result);
      self->failure = nullptr;
    } catch (...) {
      self->failure = std::current_exception();
    }
  }

  static asio::awaitable<std::shared_ptr<const Credential>> fresh(std::shared_ptr<State> self, Clock::time_point deadline) {
    if (!self->token_file.empty()) self->read_token_file();
    if (!self->plugin || !self->plugin_due()) co_return self->current;
    if (!self->running) {
      self->running = true;
      asio::co_spawn(self->executor, run_plugin(self), [self](std::exception_ptr failed) {
        if (failed) self->failure = std::move(failed);
        self->running = false;
        for (const auto& waiter : self->waiters) waiter->cancel();
        self->waiters.clear();
      });
    }
    // Each waits with a deadline of its own.
    auto timer = std::make_shared<asio::steady_timer>(self->executor, deadline);
    self->waiters.push_back(timer);
    boost::system::error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    co_await timer->async_wait(token);
    if (ec != asio::error::operation_aborted)
      throw RunnerError(ErrorCode::unavailable, kUnavailable, "the credential plugin has not ended before the deadline");
    if (self->failure) std::rethrow_exception(self->failure);
    if (!self->current) throw RunnerError(ErrorCode::unavailable, kUnavailable, "the wait for the credential plugin was given up");
    co_return self->current;
  }
};

Credentials::Credentials(asio::any_io_executor executor, const ClusterAccess& access, Clock::duration plugin_timeout)
    : state_(std::make_shared<State>(std::move(executor), access, plugin_timeout)) {}
Credentials::~Credentials() = default;

asio::awaitable<std::shared_ptr<const Credential>> Credentials::get(Clock::time_point deadline) {
  return State::fresh(state_, deadline);
}

bool Credentials::refused(const Credential& credential) {
  State& state = *state_;
  if (state.token_file.empty() && !state.plugin) return false;
  // Another request may have brought a newer one already.
  if (state.current && state.current->generation == credential.generation) state.stale = true;
  return true;
}

}  // namespace cwsandbox::runner::kubernetes
