#include <cwsandbox/client.hpp>

#include "base/ascii.hpp"
#include "base/text.hpp"
#include "client/backend.hpp"
#include "client/exec_connection.hpp"
#include "client/observer.hpp"
#include "client/rpc.hpp"
#include "net/tls.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include <openssl/crypto.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <future>
#include <iterator>
#include <map>
#include <string_view>
#include <thread>
#include <vector>

#include <unistd.h>

namespace cwsandbox {

namespace client {

namespace {
constexpr const char* kPublicEndpoint = "https://api.cwsandbox.com";

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

/// Never destroyed: objects with static lifetime may still make clients.
struct AuthModes {
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<const AuthProvider>> providers;
  static AuthModes& instance() {
    static auto* const modes = new AuthModes;
    return *modes;
  }
};

bool is_token(std::string_view name) { return !name.empty() && base::only_letters_digits_and("-_", name); }

/// Nothing of them may end up in the text: they are secret.
void check_headers(const AuthHeaders& headers, const std::string& mode) {
  for (const auto& [name, value] : headers.headers())
    if (!is_token(name) || std::any_of(value.begin(), value.end(), [](char c) { return (c < ' ' && c != '\t') || c == 127; }))
      throw CWSandboxAuthenticationError("The auth mode '" + mode + "' gives a header field that cannot be sent");
}

/// `use` reads the files that the settings name.
template <typename Use>
auto with_files(const Use& use) {
  try {
    return use();
  } catch (const net::TlsFileError& error) {
    ErrorFields fields;
    switch (error.role) {
      case net::TlsFileError::Role::ca:
        fields.metadata.emplace("option", "ca_file");
        break;
      case net::TlsFileError::Role::certificate:
        fields.metadata.emplace("option", "certificate_file");
        break;
      case net::TlsFileError::Role::key:
        fields.metadata.emplace("option", "key_file");
        break;
    }
    const std::string text = "The option " + fields.metadata["option"] + " cannot be used: " + error.what();
    fields.metadata.emplace("path", error.path);
    throw CWSandboxConfigurationError(text, std::move(fields));
  }
}

void warn_about(const Settings& settings) {
  const auto& endpoint = settings.endpoint;
  const bool keyed = !settings.api_key.empty() || settings.auth_provider;
  if (endpoint.scheme == net::Endpoint::Scheme::http && keyed && (!endpoint.loopback() || settings.proxy))
    settings.observer->log(LogLevel::warning, "The key goes to " + endpoint.to_string() + " unencrypted: use https");
  if (endpoint.tls() && !settings.tls.verify)
    settings.observer->log(LogLevel::warning, "The certificate of " + endpoint.to_string() + " is not checked (verify is off)");
}

std::shared_ptr<const Settings> make_settings(const ClientOptions& options) {
  auto settings = std::make_shared<Settings>();
  const std::string key = environment("CWSANDBOX_API_KEY");
  std::string url = options.base_url() ? *options.base_url() : environment("CWSANDBOX_BASE_URL");
  std::string mode = options.auth_mode() ? *options.auth_mode() : options.api_key() ? "" : environment("CWSANDBOX_AUTH_MODE");
  if (options.auth_mode() && options.api_key())
    throw std::invalid_argument("cwsandbox: both an API key and an auth mode: one of them says who asks");
  if (!options.base_url() && url.empty()) url = key.empty() && mode.empty() ? "local:" : kPublicEndpoint;
  settings->endpoint = net::parse_base_url(url);
  settings->api_key = options.api_key().value_or(key);
  for (const char c : settings->api_key)
    if (c <= ' ' || c >= 127) throw std::invalid_argument("cwsandbox: the API key holds a character that cannot be part of one");
  if (!mode.empty()) {
    auto& modes = AuthModes::instance();
    const std::lock_guard lock(modes.mutex);
    const auto found = modes.providers.find(mode);
    if (found == modes.providers.end())
      throw std::invalid_argument("cwsandbox: no auth mode is registered as '" + base::printable(mode, 80) + "'");
    settings->auth_provider = found->second;
    settings->auth_mode = std::move(mode);
    settings->api_key.clear();
  }
  if (options.request_timeout() <= std::chrono::milliseconds::zero() ||
      options.connect_timeout() <= std::chrono::milliseconds::zero() || options.idle_timeout() <= std::chrono::milliseconds::zero())
    throw std::invalid_argument("cwsandbox: a timeout must be more than 0");
  if (options.certificate_file().empty() != options.key_file().empty())
    throw std::invalid_argument("cwsandbox: a client certificate needs both its file and its key's");
  settings->request_timeout = options.request_timeout();
  settings->connect_timeout = options.connect_timeout();
  settings->retry_budget = options.retry_budget();
  settings->resume_grace = options.resume_grace();
  settings->idle_timeout = options.idle_timeout();
  settings->tls.verify = options.verify();
  settings->tls.ca_file = options.ca_file();
  settings->tls.certificate_file = options.certificate_file();
  settings->tls.key_file = options.key_file();
  if (!options.proxy()) {
    settings->proxy = net::proxy_from_environment(settings->endpoint, environment);
  } else if (!options.proxy()->empty()) {
    settings->proxy = net::parse_proxy(*options.proxy(), "the option proxy");
  }
  if (options.trace() || options.logger()) settings->observer = std::make_shared<Observer>(options.trace(), options.logger());
  if (settings->observer) warn_about(*settings);
  // Read now, and again when they are used: whoever named them is here to hear of it.
  const bool files = !settings->tls.ca_file.empty() || !settings->tls.certificate_file.empty();
  if (settings->endpoint.tls() && files) with_files([&] { return net::make_tls_client_context(settings->tls); });
  return settings;
}

bool same(const Settings& a, const Settings& b) {
  return a.endpoint == b.endpoint && a.api_key == b.api_key && a.request_timeout == b.request_timeout &&
         a.connect_timeout == b.connect_timeout && a.retry_budget == b.retry_budget && a.resume_grace == b.resume_grace &&
         a.idle_timeout == b.idle_timeout && a.tls.verify == b.tls.verify && a.tls.ca_file == b.tls.ca_file &&
         a.tls.certificate_file == b.tls.certificate_file && a.tls.key_file == b.tls.key_file && a.proxy == b.proxy &&
         a.auth_provider == b.auth_provider && a.observer == b.observer;
}

}  // namespace

/// What the default loop keeps until exit, and what is done with it then. Never destroyed: nothing may depend on the order in which
/// static objects go.
class Exit {
 public:
  static Exit& instance() {
    static auto* const exit = new Exit;
    return *exit;
  }

  /// Clients of the same endpoint and settings share connections.
  std::shared_ptr<detail::ClientCore> core(const std::shared_ptr<const Settings>& settings, const LoopManager& loop) {
    std::shared_ptr<detail::ClientCore> oldest;  // goes outside the lock
    const std::lock_guard lock(mutex_);
    arm();
    for (const auto& core : cores_)
      if (core->loop() == loop && same(core->settings(), *settings)) return core;
    auto core = std::make_shared<detail::ClientCore>(settings, loop);
    cores_.push_back(core);
    // A program that makes ever new clients must not collect them for ever.
    if (cores_.size() > kMaxCores) {
      oldest = std::move(cores_.front());
      cores_.erase(cores_.begin());
    }
    return core;
  }

  void keep(const std::shared_ptr<Backend>& backend) {
    std::vector<std::shared_ptr<Backend>> unused;  // go outside the lock: their gateways end with them
    const std::lock_guard lock(mutex_);
    if (backends_.size() > kMaxCores) {
      const auto first =
          std::stable_partition(backends_.begin(), backends_.end(), [](const auto& kept) { return kept.use_count() > 1; });
      unused.assign(std::make_move_iterator(first), std::make_move_iterator(backends_.end()));
      backends_.erase(first, backends_.end());
    }
    backends_.push_back(backend);
  }

  /// Before anything is started on the loop. Throws once exit has begun.
  void enter(const LoopManager& loop) {
    const std::lock_guard lock(mutex_);
    if (over_) throw CWSandboxError("cwsandbox: the process is exiting");
    if (executor_) return;
    executor_ = loop.executor();
    loop_ = loop;
  }

  void add_hook(const LoopManager& loop, const std::weak_ptr<ExitHook>& hook) {
    const std::lock_guard lock(mutex_);
    if (hooks_.size() >= prune_at_) {
      std::erase_if(hooks_, [](const auto& known) { return known.hook.expired(); });
      prune_at_ = std::max<std::size_t>(64, hooks_.size() * 2);
    }
    hooks_.push_back({hook, loop.adopted()});
  }
  [[nodiscard]] std::vector<std::shared_ptr<ExitHook>> hooks(bool adopted_too) {
    const std::lock_guard lock(mutex_);
    std::vector<std::shared_ptr<ExitHook>> found;
    for (const auto& known : hooks_)
      if (auto hook = known.hook.lock(); hook && (adopted_too || !known.adopted)) found.push_back(std::move(hook));
    return found;
  }

  void end() {
    if (owner_ != ::getpid()) return;  // the child of a fork: the parent still uses it all
    {
      const std::lock_guard lock(mutex_);
      if (!executor_) over_ = true;  // never used: and now never will be
      if (over_) return;
    }
    if (loop_.running_in_this_thread()) return at_exit();
    std::promise<void> done;
    asio::post(executor_, [&] {
      at_exit();
      done.set_value();
    });
    done.get_future().wait();
  }

  /// True once exit has begun: nothing may be started any more.
  [[nodiscard]] bool over() const noexcept { return over_; }

  std::atomic<int> pending{0};

 private:
  static constexpr std::size_t kMaxCores = 16;

  void arm() {
    if (owner_ != 0) return;
    owner_ = ::getpid();
    // OpenSSL takes itself down at exit. Handlers run last come, first served: ours has to come after its own, so that what runs on
    // the loop ends while it still has a cryptographic library. Here, because a client is made before anything can run.
    // Some option has to be asked for: with none the call does nothing.
    OPENSSL_init_crypto(OPENSSL_INIT_ADD_ALL_DIGESTS, nullptr);
    static_cast<void>(std::atexit([] { instance().end(); }));
  }

  // On the loop, which does nothing else any more: its work is done from in here until all is in order or time is up.
  void at_exit() {
    const auto* const executor = executor_.target<asio::io_context::executor_type>();
    if (!executor) return;
    auto& context = executor->context();
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    const auto run_until = [&](const auto& done) {
      while (!done() && std::chrono::steady_clock::now() < deadline) context.run_one_for(std::chrono::milliseconds(100));
    };
    // From other threads: what a handler posts on its own thread stays out of sight of a loop that runs inside of it.
    std::vector<task<void>> closes;
    std::thread([&] {
      for (const auto& hook : hooks(false)) {
        try {
          closes.push_back(hook->close_at_exit());
        } catch (...) {  // out of memory: the rest still has its turn
        }
      }
    }).join();
    run_until([&] { return std::all_of(closes.begin(), closes.end(), [](const auto& close) { return close.done(); }); });
    run_until([this] { return pending == 0; });
    over_ = true;
    bool told = false;
    std::vector<task<void>> stops;
    std::thread([&] { asio::post(context, [&] { told = true, end_all(stops); }); }).join();
    run_until([&] { return told && std::all_of(stops.begin(), stops.end(), [](const auto& stop) { return stop.done(); }); });
    context.poll();  // last words of connections
    // What OpenSSL keeps for this thread: the thread itself ends only after OpenSSL has.
    OPENSSL_thread_stop();
  }

  void end_all(std::vector<task<void>>& stops) {
    std::vector<std::shared_ptr<Backend>> backends;
    {
      const std::lock_guard lock(mutex_);
      backends.swap(backends_);
      cores_.clear();
    }
    for (const auto& backend : backends) {
      backend->pool()->close();
      backend->http().close_idle();
      if (backend->embedded_) stops.push_back(backend->embedded_->stop());
    }
  }

  std::mutex mutex_;
  asio::any_io_executor executor_;
  LoopManager loop_;
  pid_t owner_ = 0;
  std::atomic<bool> over_{false};
  std::vector<std::shared_ptr<detail::ClientCore>> cores_;
  std::vector<std::shared_ptr<Backend>> backends_;
  struct Hook {
    std::weak_ptr<ExitHook> hook;
    bool adopted;
  };
  std::vector<Hook> hooks_;
  std::size_t prune_at_ = 64;
};

PendingWork::PendingWork(const LoopManager& loop) : counted_(!loop.adopted()) {
  if (counted_) ++Exit::instance().pending;
}
PendingWork::~PendingWork() {
  if (counted_) --Exit::instance().pending;
}

Backend::Backend(std::shared_ptr<const Settings> settings, LoopManager loop)
    : settings_(std::move(settings)), loop_(std::move(loop)) {
  net::Endpoint endpoint = settings_->endpoint;
  token_ = settings_->api_key;
  if (endpoint.scheme == net::Endpoint::Scheme::local) {
    embedded_ = EmbeddedGateway::get(loop_);
    endpoint.scheme = net::Endpoint::Scheme::unix_socket;
    endpoint.path = embedded_->socket_path();
    token_ = embedded_->token();
  }
  net::HttpClientOptions options;
  options.connect_timeout = settings_->connect_timeout;
  options.tls = settings_->tls;
  options.proxy = settings_->proxy;
  if (settings_->observer) {
    options.on_answer = [observer = settings_->observer](const net::RequestReport& report) {
      TraceEvent event;
      event.operation = std::string(report.method) + ' ' + std::string(report.path);
      event.http_status = report.status;
      event.duration = report.duration;
      if (report.error) event.error = text_of(report.error);
      observer->tell(event);
    };
  }
  http_ = with_files([&] { return std::make_unique<net::HttpClient>(loop_.make_strand(), endpoint, options); });
  // What waits on a caller's executor keeps it from running out of work.
  pool_ = std::make_shared<ExecPool>(loop_.make_strand(), loop_.adopted() ? ExecPool::kAdoptedLifetime : ExecPool::kIdleLifetime);
}

Backend::~Backend() {
  try {
    pool_->close();
    http_->close_idle();
  } catch (...) {  // out of memory: what is left goes with its sockets
  }
}

task<void> Backend::ready() const {
  if (!loop_.adopted() && Exit::instance().over()) throw CWSandboxError("cwsandbox: the process is exiting");
  return embedded_ ? embedded_->ready() : make_ready_task();
}

void add_exit_hook(const LoopManager& loop, const std::weak_ptr<ExitHook>& hook) { Exit::instance().add_hook(loop, hook); }
std::vector<std::shared_ptr<ExitHook>> exit_hooks() { return Exit::instance().hooks(true); }
void end_default_loop() { Exit::instance().end(); }

void Backend::authorize(net::Headers& headers) const {
  if (settings_->auth_provider && !embedded_) {
    std::optional<AuthHeaders> mine;
    {
      const std::lock_guard lock(auth_mutex_);
      if (auth_headers_ && std::chrono::system_clock::now() < *auth_headers_->expiry()) mine = auth_headers_;
    }
    if (!mine) {
      mine = (*settings_->auth_provider)();
      check_headers(*mine, settings_->auth_mode);
      const std::lock_guard lock(auth_mutex_);
      if (mine->expiry()) auth_headers_ = mine;
    }
    for (const auto& header : mine->headers()) headers.push_back(header);
    return;
  }
  if (!token_.empty()) headers.emplace_back("Authorization", "Bearer " + token_);
}

RetryPolicy Backend::retry_policy() const {
  RetryPolicy policy;
  policy.budget = settings_->retry_budget;
  return policy;
}

}  // namespace client

namespace detail {

std::shared_ptr<client::Backend> ClientCore::backend() {
  const std::lock_guard lock(mutex_);
  auto backend = backend_.lock();
  if (backend) return backend;
  if (!loop_.adopted()) client::Exit::instance().enter(loop_);
  backend = std::make_shared<client::Backend>(settings_, loop_);
  backend_ = backend;
  if (!loop_.adopted()) client::Exit::instance().keep(backend);
  return backend;
}

}  // namespace detail

void register_auth_mode(const std::string& name, AuthProvider provider) {
  if (name.empty()) throw std::invalid_argument("cwsandbox: an auth mode needs a name");
  if (!provider) throw std::invalid_argument("cwsandbox: an auth mode needs a function");
  auto& modes = client::AuthModes::instance();
  const std::lock_guard lock(modes.mutex);
  modes.providers.insert_or_assign(name, std::make_shared<const AuthProvider>(std::move(provider)));
}

Client::Client() : Client(ClientOptions()) {}
Client::Client(asio::any_io_executor executor) : Client(ClientOptions().with_executor(std::move(executor))) {}
Client::Client(const std::string& base_url) : Client(ClientOptions().with_base_url(base_url)) {}
Client::Client(const char* base_url)
    : Client(std::string(base_url ? base_url : throw std::invalid_argument("cwsandbox: the base URL is a null pointer"))) {}
Client::Client(ClientOptions options) {
  const auto settings = client::make_settings(options);
  if (options.loop().adopted())
    core_ = std::make_shared<detail::ClientCore>(settings, options.loop());
  else
    core_ = client::Exit::instance().core(settings, options.loop());
}

std::string Client::base_url() const { return core_->settings().endpoint.to_string(); }
const LoopManager& Client::loop() const noexcept { return core_->loop(); }

}  // namespace cwsandbox
