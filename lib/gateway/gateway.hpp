// The gateway: the control plane and the exec stream over HTTP, served from one runner.
//
// Everything runs on one serialised executor (docs/decisions/0001-gateway-single-threaded.md): a strand, or an io_context that one
// thread runs. No member may be called from anywhere else.
#pragma once

#include "net/endpoint.hpp"
#include "net/http_server.hpp"
#include "runner/runner.hpp"

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/system/error_code.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace cwsandbox::gateway {

namespace asio = boost::asio;
using boost::system::error_code;

enum class LogLevel : std::uint8_t { debug, info, warning, error };

/// Called on the gateway's executor, a line at a time. No line holds a token, an environment or an argument beyond argv[0].
using LogHook = std::function<void(LogLevel, const std::string&)>;

/// An accepted bearer token, and whose it is. Every owner has sandboxes of their own: what belongs to another is not found.
struct Token {
  Token(std::string secret, std::string name = {}) : value(std::move(secret)), owner(std::move(name)) {}
  Token(const char* secret) : value(secret) {}
  std::string value;
  /// All tokens of one name have one owner, which is how a token is replaced by another. Empty: the token is an owner by itself.
  std::string owner;
};

/// Throws std::invalid_argument, which does not repeat the token, for one that is empty or cannot stand in a header, for a name
/// that could not be told in a log, and for one token under two names.
void check_tokens(const std::vector<Token>& tokens);

struct GatewayOptions {
  /// Only their digests are kept. At least one, unless `no_token` is set.
  std::vector<Token> tokens;
  /// Serve without authentication. `listen` then refuses TCP addresses that others can reach.
  bool no_token = false;

  /// Web origins ("https://host:port") whose pages may make requests. One that names another `Origin` gets 403.
  std::vector<std::string> allowed_origins;

  net::ServerLimits limits;
  /// Silence on an exec connection after which its peer is taken for lost.
  std::chrono::milliseconds idle_timeout = std::chrono::seconds(60);
  /// How long a process outlives its connection, so that a repeated start or a resume finds it (P6, P7).
  std::chrono::milliseconds orphan_grace = std::chrono::seconds(60);
  std::size_t max_orphans = 1024;  ///< processes without a connection; beyond it the oldest is killed
  /// Ids that each owner's given up processes leave behind, which never start anything again; the newest are remembered (P7).
  std::size_t max_used_ids = 4096;
  std::size_t max_sandboxes = 1000;
  std::size_t max_processes_per_sandbox = 4096;
  /// Watches of files that stand at one time. The kernel allows one user 128 as a rule, for all sandboxes and what runs in them.
  std::size_t max_watches_per_sandbox = 16;
  std::size_t max_watches_per_owner = 64;
  /// Of one owner (gateway/budgets.hpp has all of these). 0: all of `max_sandboxes`; three quarters of it where there are several
  /// owners.
  std::size_t max_sandboxes_per_owner = 0;
  std::size_t max_processes_per_owner = 0;  ///< in all their sandboxes; 0: no bound
  std::size_t max_requests_per_owner = 0;   ///< a second, also starts of processes on a connection that is there; 0: no bound
  /// Bytes a second of what main commands write, of one owner; beyond it they wait. 0: no bound.
  std::uint64_t max_log_rate_per_owner = 128 * 1024 * 1024;
  /// Files that the gateway may have open for processes, sandboxes, watches and transfers; 0: not counted. Of one owner; 0: all of
  /// them, three quarters where there are several owners.
  std::size_t max_descriptors = 0;
  std::size_t max_descriptors_per_owner = 0;
  /// Ended sandboxes that Get and List still know, and bytes of what was asked for them; beyond either the oldest of the owner that
  /// has the most of it is forgotten.
  std::size_t max_remembered = 1000;
  std::size_t max_remembered_bytes = 32 * 1024 * 1024;
  /// The main command of a sandbox that asks for none.
  std::vector<std::string> default_command = {"/bin/sh", "-c", "trap \"exit 0\" TERM INT; sleep infinity & wait"};
  /// Between SIGTERM and SIGKILL when the request does not say.
  std::chrono::milliseconds default_grace = std::chrono::seconds(10);
  /// The longest grace time that a request may ask for.
  std::chrono::milliseconds max_grace = std::chrono::minutes(10);
  /// How long a process waits for its sandbox to leave CREATING.
  std::chrono::milliseconds start_wait = std::chrono::seconds(60);
  /// How long a durable runner may take to tell which sandboxes there are until the log complains. Requests get 503 until it has.
  std::chrono::milliseconds find_wait = std::chrono::seconds(30);
  /// Time limit of a unary Exec without Connect-Timeout-Ms.
  std::chrono::milliseconds unary_timeout = std::chrono::seconds(300);
  /// Output that a unary Exec returns per stream: default and upper bound.
  std::size_t default_output_bytes = 1024 * 1024;
  std::size_t max_output_bytes = 16 * 1024 * 1024;
  /// The longest lifetime of a sandbox, also of one that asks for none; 0: no bound.
  std::chrono::seconds max_lifetime{0};
  /// What a sandbox may ask for at most: memory in bytes, CPU in thousandths of a core; 0: no bound of the gateway's.
  std::uint64_t max_memory = 0;
  std::uint32_t max_cpu = 0;
  /// Files that a sandbox may be created with, in all.
  std::size_t max_initial_files = 4 * 1024 * 1024;
  /// Bytes kept of what a main command writes; older output gives way.
  std::uint64_t log_bytes = 16 * 1024 * 1024;
  /// Bytes kept of the output of sandboxes that have ended, in all; the logs of the oldest give way.
  std::uint64_t ended_log_bytes = 1024ull * 1024 * 1024;
  /// Output of one process that is kept on disk while no client is connected to it; beyond it the process waits. 0: none.
  std::uint64_t capture_bytes = 64 * 1024 * 1024;
  /// The same for all processes together.
  std::uint64_t total_capture_bytes = 1024ull * 1024 * 1024;
  /// The same for those of one owner; 0: all of it, three quarters where there are several owners.
  std::uint64_t max_capture_per_owner = 0;
  /// What the runner holds in memory at most, and for each sandbox besides; for the bound that is told at the start.
  std::uint64_t runner_memory = 0, runner_memory_per_sandbox = 0;
  /// Where logs and such output are kept, in files without names. Empty: $TMPDIR, else /tmp.
  std::string log_directory;
  /// A log stream, or a watch, says at least this often that it is still there.
  std::chrono::milliseconds log_keep_alive = std::chrono::seconds(10);
  LogHook log;
};

class Gateway {
 public:
  /// Throws std::invalid_argument for options that contradict each other.
  Gateway(asio::any_io_executor executor, std::unique_ptr<runner::Runner> runner, GatewayOptions options);
  /// Drops everything at once: connections, processes, sandboxes; those of a durable runner run on.
  ~Gateway();
  Gateway(const Gateway&) = delete;
  Gateway& operator=(const Gateway&) = delete;

  /// Binds and starts to serve; returns the address bound. With a durable runner all but /healthz gets 503 until the runner has
  /// told which sandboxes there are. Throws std::invalid_argument for a TCP address that others can reach unless there are both a
  /// token and TLS; otherwise what net::HttpServer::listen throws.
  net::ListenAddress listen(const net::ListenAddress& address, const net::TlsServerOptions& tls = {});

  /// These tokens from now on. Exec connections made with a token that is gone are closed, streams under way end, and requests that
  /// have begun are finished; processes and sandboxes stay their owners'. Throws std::invalid_argument as `check_tokens` does, for
  /// none at all, and on a gateway without tokens, and changes nothing then.
  void set_tokens(const std::vector<Token>& tokens);
  /// New TLS connections use these files; see net::HttpServer::reload.
  void reload_tls(const net::TlsServerOptions& tls);

  /// Refuses new work, stops every sandbox (SIGTERM, SIGKILL after `grace`), lets clients collect what their processes left, then
  /// closes everything. Completes when nothing is left; at most a few seconds after `grace`. With a durable runner the sandboxes
  /// run on, and only processes are ended that way.
  [[nodiscard]] asio::awaitable<void> stop(std::chrono::milliseconds grace);

  struct Counts {
    std::size_t sandboxes = 0;    ///< not ended
    std::size_t processes = 0;    ///< started or starting, not finished
    std::size_t connections = 0;  ///< exec connections
    std::size_t orphans = 0;      ///< processes kept for a client that may come back
  };
  [[nodiscard]] Counts counts() const noexcept;

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace cwsandbox::gateway
