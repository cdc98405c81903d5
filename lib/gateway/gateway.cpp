#include "gateway/gateway.hpp"

#include "base/ascii.hpp"
#include "base/text.hpp"
#include "gateway/context.hpp"
#include "gateway/errors.hpp"
#include "gateway/exec_table.hpp"
#include "gateway/file_service.hpp"
#include "gateway/memory_bound.hpp"
#include "gateway/sandboxes.hpp"
#include "gateway/service.hpp"
#include "gateway/tokens.hpp"
#include "net/http_wire.hpp"

#include <boost/asio/steady_timer.hpp>
#include <boost/system/system_error.hpp>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

namespace cwsandbox::gateway {

namespace {

// After the sandboxes have ended: how long clients may take to collect what their processes left, and then to close.
constexpr std::chrono::seconds kCollect{2};
constexpr std::chrono::seconds kClose{2};

GatewayOptions checked(GatewayOptions options) {
  if (options.tokens.empty() && !options.no_token)
    throw std::invalid_argument("a gateway needs at least one token (or `no_token`)");
  if (!options.tokens.empty() && options.no_token) throw std::invalid_argument("tokens were given together with `no_token`");
  if (options.default_command.empty() || options.default_command.front().empty())
    throw std::invalid_argument("the default command is empty");
  if (options.log_bytes == 0) throw std::invalid_argument("the size of a log is zero");
  if (options.log_directory.empty()) {
    const char* directory = std::getenv("TMPDIR");
    options.log_directory = directory != nullptr && *directory == '/' ? directory : "/tmp";
  }
  return options;
}

// Options without the tokens: only their digests are kept.
GatewayOptions without_tokens(GatewayOptions options) {
  options.tokens.clear();
  return options;
}

}  // namespace

class Gateway::Impl final : public net::HttpHandler, public std::enable_shared_from_this<Gateway::Impl> {
 public:
  Impl(const asio::any_io_executor& executor, std::unique_ptr<runner::Runner> runner, const GatewayOptions& options)
      : tokens_(std::make_shared<TokenSet>(options.tokens, std::make_shared<BudgetTable>(options))),
        context_(std::make_shared<Context>(executor, without_tokens(options))),
        sandboxes_(std::make_shared<Sandboxes>(context_, tokens_, std::move(runner))),
        exec_(std::make_unique<ExecTable>(context_, sandboxes_)),
        server_(std::make_unique<net::HttpServer>(executor, *this, options.limits)) {
    context_->log(LogLevel::info, memory_text(memory_terms(context_->options, tokens_->owners())));
    Sandboxes::start(sandboxes_);
  }

  net::ListenAddress listen(const net::ListenAddress& address, const net::TlsServerOptions& tls) {
    if (!address.is_unix && !address.loopback()) {
      const bool secure = !tls.certificate_file.empty() && !tls.key_file.empty();
      if (tokens_->open() || !secure) {
        throw std::invalid_argument("refusing to listen on " + base::escaped(address.host, 256) +
                                    ": others can reach this address, so it needs both a token and TLS" +
                                    (tokens_->open() ? " (no token is set)" : "") + (secure ? "" : " (no certificate is set)"));
      }
    }
    const auto bound = server_->listen(address, tls);
    on_network_ = on_network_ || !address.is_unix;
    return bound;
  }

  void set_tokens(const std::vector<Token>& tokens) {
    if (tokens_->open()) throw std::invalid_argument("this gateway serves without tokens");
    if (tokens.empty()) throw std::invalid_argument("a gateway needs at least one token");
    tokens_->replace(tokens);
    exec_->close_revoked();
  }

  void reload_tls(const net::TlsServerOptions& tls) { server_->reload(tls); }

  static asio::awaitable<void> stop(std::shared_ptr<Impl> self, std::chrono::milliseconds grace) {
    Context& context = *self->context_;
    context.stopping = true;
    context.log(LogLevel::info, "stopping");
    self->exec_->close_idle();
    const bool durable = self->sandboxes_->durable();
    if (durable) {
      // Others have the sandboxes from now on, but for the creations and deletions that were begun here.
      self->sandboxes_->let_go();
      for (const auto& run : self->runs()) run->shut_down(grace);
    } else {
      self->sandboxes_->stop_all(grace, "the gateway is shutting down");
    }
    const auto left = [&] { return durable ? self->sandboxes_->busy() || !context.runs.empty() : self->sandboxes_->active() > 0; };
    const auto now = std::chrono::steady_clock::now();
    // A runner kills what ignores SIGTERM; the margin is for a kernel that takes its time.
    auto deadline = now + grace + std::chrono::seconds(10);
    while (left() && std::chrono::steady_clock::now() < deadline) co_await context.changed.wait_until(deadline);
    deadline = std::chrono::steady_clock::now() + kCollect;
    while (self->exec_->busy_connections() > 0 && std::chrono::steady_clock::now() < deadline)
      co_await context.changed.wait_until(deadline);
    self->exec_->close_all();
    deadline = std::chrono::steady_clock::now() + kClose;
    while (self->exec_->connections() > 0 && std::chrono::steady_clock::now() < deadline)
      co_await context.changed.wait_until(deadline);
    if (context.dropped) co_return;
    co_await self->server_->stop(kClose);
    self->drop();
    context.log(LogLevel::info, "stopped");
  }

  void drop() noexcept {
    if (context_->dropped) return;
    context_->stopping = true;
    context_->dropped = true;
    sandboxes_->let_go();
    exec_->drop_all();
    for (const auto& run : runs()) run->drop();
    context_->runs.clear();
    sandboxes_->drop_all();
    context_->changed.notify();
  }

  void shut() noexcept {
    drop();
    server_.reset();
  }

  [[nodiscard]] Counts counts() const noexcept {
    Counts out;
    out.sandboxes = sandboxes_->active();
    out.processes = context_->runs.size();
    out.connections = exec_->connections();
    out.orphans = exec_->orphans();
    return out;
  }

  // ---- HTTP ----

  std::shared_ptr<net::ClientAccount> client_of(const net::HttpRequest& request) override {
    const auto credential = credential_of(request);
    return credential ? credential->owner : nullptr;
  }

  net::HttpResponse at_limit(const net::ClientAccount& client, ClientLimit limit, net::HttpResponse usual) override {
    const auto& owner = static_cast<const Owner&>(client);  // client_of() gives no others
    const auto [budget, lead] =
        limit == ClientLimit::connections ? std::pair(Budget::connections, "there are too many connections")
        : limit == ClientLimit::request
            ? std::pair(Budget::memory, "too much is being sent here at once; try again later")
            : std::pair(Budget::memory, "the request was carried out, but too many answers wait here to be read");
    protocol::ConnectError error = owner.budgets.exhausted(budget, {}, lead).error();
    if (limit == ClientLimit::request) error.code = ErrorCode::unavailable;  // nothing was done
    if (limit == ClientLimit::answer) error.retry_delay.reset();             // it was
    net::HttpResponse out = error_response(error);
    out.status = usual.status;
    return out;
  }

  std::optional<net::HttpResponse> early_answer(const net::HttpRequest& request) override {
    const auto begin = std::chrono::steady_clock::now();
    std::optional<net::HttpResponse> answer = judge(request);
    if (!answer && net::path_of(request.target) != "/healthz") answer = count(request);
    if (answer) log_request(request, *answer, begin);
    return answer;
  }

  asio::awaitable<net::HttpResponse> handle(const net::HttpRequest& request) override {
    return handle(shared_from_this(), request);
  }

  bool streams(const net::HttpRequest& request) override {
    const std::string_view path = net::path_of(request.target);
    return path == kFilesPath || is_streamed_path(path);
  }

  asio::awaitable<void> stream(net::ServerExchange& exchange) override { return stream(shared_from_this(), exchange); }

  UpgradeDecision on_upgrade(const net::HttpRequest& request, const std::vector<std::string>& offered) override {
    UpgradeDecision decision;
    decision.refusal = judge_upgrade(request, offered);
    decision.subprotocol = std::string(protocol::kExecSubprotocol);
    decision.limits.max_message = protocol::kMaxMessage;
    decision.limits.idle_timeout = context_->options.idle_timeout;
    if (decision.refusal) log_request(request, *decision.refusal, std::chrono::steady_clock::now());
    return decision;
  }

  void on_websocket(const net::HttpRequest& request, std::unique_ptr<net::WebSocket> socket) override {
    if (context_->dropped) return;
    // Asked again: the token may have been taken away during the handshake.
    if (auto credential = credential_of(request)) exec_->accept(std::move(credential), std::move(socket));
  }

 private:
  /// A copy: a process that ends takes itself out of the table.
  [[nodiscard]] std::vector<std::shared_ptr<ProcessRun>> runs() const {
    std::vector<std::shared_ptr<ProcessRun>> out;
    for (const auto& [key, run] : context_->runs) out.push_back(run);
    return out;
  }

  static asio::awaitable<net::HttpResponse> handle(std::shared_ptr<Impl> self, const net::HttpRequest& request) {
    const auto begin = std::chrono::steady_clock::now();
    net::HttpResponse response;
    if (net::path_of(request.target) == "/healthz") {
      response.headers.emplace_back("Content-Type", "application/json");
      const char* status = self->context_->stopping ? "stopping" : self->sandboxes_->ready() ? "ok" : "starting";
      response.status = std::string_view(status) == "ok" ? 200 : 503;
      response.body = std::string(R"({"status":")") + status + R"("})";
      if (request.method == "HEAD") response.body.clear();
    } else if (auto early = self->judge(request)) {
      response = std::move(*early);
    } else {
      const auto sandboxes = std::make_shared<OwnSandboxes>(self->sandboxes_, self->credential_of(request)->owner);
      response = co_await serve(self->context_, sandboxes, request);
    }
    self->log_request(request, response, begin);
    co_return response;
  }

  static asio::awaitable<void> stream(std::shared_ptr<Impl> self, net::ServerExchange& exchange) {
    const auto begin = std::chrono::steady_clock::now();
    // It was there a moment ago, in early_answer, and nothing else has run since.
    const auto credential = self->credential_of(exchange.request());
    if (!credential) throw std::logic_error("a stream without a credential");
    const auto sandboxes = std::make_shared<OwnSandboxes>(self->sandboxes_, credential->owner);
    Watched watched(exchange, credential);
    if (net::path_of(exchange.request().target) != kFilesPath) {
      StreamLog line(*self, exchange.request(), begin);
      line.done.status = 200;
      line.done.bytes = co_await serve_stream(self->context_, sandboxes, watched);
      line.whole = true;
      co_return;
    }
    StreamLog line(*self, exchange.request(), begin);
    std::optional<protocol::ConnectError> error;
    try {
      const FileService files(self->context_, sandboxes);
      co_await FileService::transfer(files, watched, line.done);
    } catch (...) {
      if (line.done.status != 0) throw;  // the answer is under way: it is cut
      error = error_in_flight([&](const std::string& text) {
        self->context_->log(LogLevel::error, "internal error in " + std::string(kFilesPath) + ": " + base::escaped(text, 256));
      });
    }
    if (error) {
      net::HttpResponse answer = error_response(*error);
      line.done.status = answer.status;
      const std::uint64_t length = answer.body.size();
      co_await exchange.start(std::move(answer), length);
      co_await exchange.finish();
    }
    line.whole = true;
  }

  /// An exchange that ends with the token that it began with.
  class Watched final : public net::ServerExchange {
   public:
    Watched(net::ServerExchange& exchange, std::shared_ptr<const Credential> credential)
        : exchange_(exchange), credential_(std::move(credential)) {}
    [[nodiscard]] const net::HttpRequest& request() const noexcept override { return exchange_.request(); }
    [[nodiscard]] std::optional<std::uint64_t> content_length() const noexcept override { return exchange_.content_length(); }
    [[nodiscard]] asio::awaitable<std::size_t> read(asio::mutable_buffer into) override {
      check();
      return exchange_.read(into);
    }
    [[nodiscard]] asio::awaitable<void> start(net::HttpResponse head, std::optional<std::uint64_t> length) override {
      check();
      return exchange_.start(std::move(head), length);
    }
    [[nodiscard]] asio::awaitable<void> write(asio::const_buffer from) override {
      check();
      return exchange_.write(from);
    }
    [[nodiscard]] asio::awaitable<std::uint64_t> write_file(int fd, std::uint64_t offset, std::uint64_t length) override {
      check();
      return exchange_.write_file(fd, offset, length);
    }
    [[nodiscard]] asio::awaitable<void> finish() override { return exchange_.finish(); }
    [[nodiscard]] bool client_gone() noexcept override { return credential_->revoked || exchange_.client_gone(); }
    [[nodiscard]] std::size_t buffer_size(std::size_t wanted) override { return exchange_.buffer_size(wanted); }

   private:
    void check() const {
      if (credential_->revoked) throw boost::system::system_error(asio::error::operation_aborted);
    }
    net::ServerExchange& exchange_;
    std::shared_ptr<const Credential> credential_;
  };

  /// Writes the line of a streamed answer, however it ends.
  struct StreamLog {
    StreamLog(const Impl& impl, const net::HttpRequest& request, std::chrono::steady_clock::time_point start)
        : context(impl.context_), begin(start), who(impl.who(request)) {
      if (context->options.log) what = base::escaped(request.method, 16) + " " + base::escaped(net::path_of(request.target), 128);
    }
    ~StreamLog() {
      if (!context->options.log) return;
      const auto elapsed = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begin).count();
      try {
        context->log(LogLevel::info, what + " " + std::to_string(done.status) + " " + std::to_string(elapsed) + " ms, " +
                                         std::to_string(done.bytes) + " bytes" + (whole ? "" : ", cut") + who);
      } catch (const std::exception&) {  // a line less
      }
    }
    StreamLog(const StreamLog&) = delete;
    StreamLog& operator=(const StreamLog&) = delete;
    std::shared_ptr<Context> context;
    std::chrono::steady_clock::time_point begin;
    std::string what, who;
    FileService::Transfer done;
    bool whole = false;
  };

  [[nodiscard]] std::shared_ptr<const Credential> credential_of(const net::HttpRequest& request) const {
    return tokens_->admit(net::find_header(request.headers, "Authorization"));
  }

  /// For a line of the log: whose request it is, when its token has a name.
  [[nodiscard]] std::string who(const net::HttpRequest& request) const {
    const auto credential = credential_of(request);
    return credential && !credential->owner->name.empty() ? ", for " + credential->owner->name : std::string();
  }

  /// A browser says which page makes it send a request, and may hold what lets it in: no page may, unless it is allowed to.
  [[nodiscard]] std::optional<net::HttpResponse> judge_origin(const net::HttpRequest& request) const {
    for (const auto& [name, value] : request.headers) {
      if (!base::same_but_for_case(name, "Origin")) continue;
      const auto& allowed = context_->options.allowed_origins;
      const auto is_it = [&value = value](const std::string& origin) { return base::same_but_for_case(origin, value); };
      if (std::any_of(allowed.begin(), allowed.end(), is_it)) continue;
      const std::string shown = base::escaped(value, 128);
      return error_response(ServiceError(ErrorCode::permission_denied, reason::kOriginNotAllowed,
                                         "requests from pages of the origin \"" + shown + "\" are not allowed here",
                                         {{"origin", shown}})
                                .error());
    }
    return judge_host(request);
  }

  /// Without tokens whoever reaches an address of this machine is let in. A page can have its own name lead there, and its browser
  /// then takes the gateway for the page's server: what it asks for bears that name.
  [[nodiscard]] std::optional<net::HttpResponse> judge_host(const net::HttpRequest& request) const {
    if (!on_network_ || !tokens_->open()) return std::nullopt;
    const std::string host(net::find_header(request.headers, "Host"));
    try {
      if (net::parse_base_url("http://" + host).loopback()) return std::nullopt;
    } catch (const std::invalid_argument&) {  // no name at all
    }
    const std::string shown = base::escaped(host, 128);
    return error_response(
        ServiceError(
            ErrorCode::permission_denied, reason::kHostNotAllowed,
            "without tokens only names of this machine are answered to (localhost, 127.0.0.1, [::1]), not \"" + shown + "\"",
            {{"host", shown}})
            .error());
  }

  [[nodiscard]] static net::HttpResponse unauthenticated() {
    return error_response(
        ServiceError(ErrorCode::unauthenticated, nullptr, "a valid token is required: Authorization: Bearer <token>").error());
  }

  [[nodiscard]] std::optional<net::HttpResponse> judge(const net::HttpRequest& request) const {
    const std::string_view path = net::path_of(request.target);
    if (path == "/healthz") {
      if (request.method == "GET" || request.method == "HEAD") return std::nullopt;
      return wrong_method("GET");
    }
    if (auto refusal = judge_origin(request)) return refusal;
    if (!credential_of(request)) return unauthenticated();
    const bool served = is_service_path(path) || path == kFilesPath;
    if (served && !sandboxes_->ready()) return error_response(starting().error());
    if (is_service_path(path)) return check_service_request(request);
    if (path == kFilesPath) {
      if (request.method == "GET" || request.method == "PUT") return std::nullopt;
      return wrong_method("GET, PUT");
    }
    if (path == protocol::kExecPath) {
      if (request.method != "GET") return wrong_method("GET");
      net::HttpResponse response = error_response(
          ServiceError(ErrorCode::failed_precondition, reason::kInvalidRequest, "this path takes a WebSocket upgrade only")
              .error());
      response.status = 426;
      response.headers.emplace_back("Upgrade", "websocket");
      return response;
    }
    net::HttpResponse response = error_response(
        ServiceError(ErrorCode::unimplemented, reason::kNotImplemented, "nothing is served at " + base::escaped(path, 128))
            .error());
    response.status = 404;
    return response;
  }

  [[nodiscard]] std::optional<net::HttpResponse> judge_upgrade(const net::HttpRequest& request,
                                                               const std::vector<std::string>& offered) const {
    if (auto refusal = judge_origin(request)) return refusal;
    if (!credential_of(request)) return unauthenticated();
    if (net::path_of(request.target) != protocol::kExecPath) {
      net::HttpResponse response = error_response(ServiceError(ErrorCode::unimplemented, reason::kNotImplemented,
                                                               "WebSockets are served at " + std::string(protocol::kExecPath))
                                                      .error());
      response.status = 404;
      return response;
    }
    if (std::find(offered.begin(), offered.end(), protocol::kExecSubprotocol) == offered.end()) {
      return error_response(
          invalid_field("Sec-WebSocket-Protocol", "must offer " + std::string(protocol::kExecSubprotocol)).error());
    }
    if (context_->stopping) return error_response(shutting_down().error());
    if (!sandboxes_->ready()) return error_response(starting().error());
    return count(request);
  }

  /// A request that is let in counts as one of its owner's in this second. Set: there were too many.
  [[nodiscard]] std::optional<net::HttpResponse> count(const net::HttpRequest& request) const {
    if (context_->options.max_requests_per_owner == 0) return std::nullopt;  // and no token is hashed once more
    const auto credential = credential_of(request);
    if (!credential) return unauthenticated();
    Budgets& budgets = credential->owner->budgets;
    const auto wait = budgets.take_request(std::chrono::steady_clock::now());
    if (!wait) return std::nullopt;
    return error_response(
        budgets.exhausted(Budget::requests).with_retry(std::chrono::ceil<std::chrono::milliseconds>(*wait)).error());
  }

  [[nodiscard]] static net::HttpResponse wrong_method(const char* allowed) {
    net::HttpResponse response = error_response(
        ServiceError(ErrorCode::unimplemented, reason::kInvalidRequest, std::string("this path takes ") + allowed + " only")
            .error());
    response.status = 405;
    response.headers.emplace_back("Allow", allowed);
    return response;
  }

  void log_request(const net::HttpRequest& request, const net::HttpResponse& response,
                   std::chrono::steady_clock::time_point begin) const {
    if (!context_->options.log) return;
    const auto elapsed = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin).count();
    // Never the query: whatever a client puts there is its own.
    context_->log(LogLevel::info, base::escaped(request.method, 16) + " " + base::escaped(net::path_of(request.target), 128) + " " +
                                      std::to_string(response.status) + " " + std::to_string(elapsed / 1000) + "." +
                                      std::to_string(elapsed / 100 % 10) + " ms, " + std::to_string(request.body.size()) +
                                      " bytes in, " + std::to_string(response.body.size()) + " out" + who(request));
  }

  std::shared_ptr<TokenSet> tokens_;
  std::shared_ptr<Context> context_;
  std::shared_ptr<Sandboxes> sandboxes_;
  std::unique_ptr<ExecTable> exec_;
  std::unique_ptr<net::HttpServer> server_;
  bool on_network_ = false;  // listens on more than Unix sockets
};

Gateway::Gateway(asio::any_io_executor executor, std::unique_ptr<runner::Runner> runner, GatewayOptions options) {
  if (!runner) throw std::invalid_argument("a gateway needs a runner");
  const GatewayOptions good = checked(std::move(options));
  impl_ = std::make_shared<Impl>(executor, std::move(runner), good);
}

Gateway::~Gateway() { impl_->shut(); }

net::ListenAddress Gateway::listen(const net::ListenAddress& address, const net::TlsServerOptions& tls) {
  return impl_->listen(address, tls);
}

void Gateway::set_tokens(const std::vector<Token>& tokens) { impl_->set_tokens(tokens); }

void Gateway::reload_tls(const net::TlsServerOptions& tls) { impl_->reload_tls(tls); }

asio::awaitable<void> Gateway::stop(std::chrono::milliseconds grace) { return Impl::stop(impl_, grace); }

Gateway::Counts Gateway::counts() const noexcept { return impl_->counts(); }

}  // namespace cwsandbox::gateway
