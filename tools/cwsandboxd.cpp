// cwsandboxd: the gateway as a daemon. Options, signals and log lines; everything else is in lib/.
#include "base/ascii.hpp"
#include "base/descriptor_limit.hpp"
#include "base/standard_streams.hpp"
#include "core/loop_watch.hpp"
#include "gateway/budgets.hpp"
#include "gateway/gateway.hpp"
#include "gateway/nameless_file.hpp"
#include "net/endpoint.hpp"
#ifdef CWSANDBOX_KUBERNETES
#include "runner/kubernetes/kubernetes_runner.hpp"
#endif
#include "log_sink.hpp"
#include "runner/local/local_memory.hpp"
#include "runner/local/local_runner.hpp"

#include <cwsandbox/version.hpp>

#include <spdlog/spdlog.h>
#include <CLI/CLI.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

namespace asio = boost::asio;
namespace base = cwsandbox::base;
namespace gateway = cwsandbox::gateway;
namespace net = cwsandbox::net;

constexpr int kFailed = 1;
constexpr int kUsage = 2;
// However many processes want the CPU in a sandbox that has asked for none, together they weigh what one core does (thousandths).
constexpr std::uint32_t kCpuShare = 1000;
// Half of them are for connections; the start of a sandbox takes up to 48 for a moment.
constexpr std::size_t kDescriptors = 128;
constexpr std::size_t kMaxTokenFile = 1024 * 1024;

constexpr const char* kFooter = R"(Example:
  umask 077; head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > token
  cwsandboxd --listen tcp:127.0.0.1:8080 --token-file token

The token file holds one token a line, with the name of its owner before it where logs should tell who ("alice: TOKEN"); blank lines and
lines that start with # are ignored. Every owner has sandboxes of their own. Several tokens of one name have one owner.
SIGHUP reads the token file and the certificates again; a file that is broken changes nothing.
SIGTERM and SIGINT stop gracefully: no new work, processes get their grace time, nothing is left running but sandboxes in a cluster, which
another gateway finds. A second one exits at once.

Exit codes: 0 stopped by a signal; 1 could not start (address in use, bad certificate, ...); 2 wrong options or token file;
128+n a second signal n.)";

class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// How long whoever writes the tokens into a pipe may take.
constexpr std::chrono::seconds kTokenPipeWait{10};

enum class ReadFrom : std::uint8_t { anything, regular_files };

std::string read_private_file(const std::string& path, ReadFrom from) {
  // A FIFO without a writer must not stop us, the less where the gateway is at work.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) throw UsageError("cannot open the token file " + path + ": " + std::strerror(errno));
  const auto deadline = std::chrono::steady_clock::now() + kTokenPipeWait;
  const auto wait = [&] {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    pollfd look{fd, POLLIN, 0};
    return ::poll(&look, 1, static_cast<int>(std::max<std::int64_t>(left, 0)));
  };
  std::string text;
  struct stat info{};
  std::string problem;
  if (::fstat(fd, &info) != 0) {
    problem = std::strerror(errno);
  } else if (S_ISREG(info.st_mode) && (info.st_mode & S_IRWXO) != 0) {
    problem = "everybody on this machine can access it; chmod 600 " + path;
  } else if (!S_ISREG(info.st_mode) && from == ReadFrom::regular_files) {
    problem = "it is no regular file, and such a one is read at the start only";
  } else {
    char buffer[4096];
    for (;;) {
      // Also before the first read: that of a FIFO which nobody has opened yet finds its end.
      if (!S_ISREG(info.st_mode)) {
        const int ready = wait();
        if (ready < 0 && errno == EINTR) continue;
        if (ready <= 0) problem = ready < 0 ? std::strerror(errno) : "nothing came from it for 10 seconds";
        if (ready <= 0) break;
      }
      const ssize_t n = ::read(fd, buffer, sizeof buffer);
      if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (n < 0) problem = std::strerror(errno);
      if (n <= 0) break;
      text.append(buffer, static_cast<std::size_t>(n));
      if (text.size() > kMaxTokenFile) {
        problem = "larger than 1 MiB";
        break;
      }
    }
  }
  ::close(fd);
  if (!problem.empty()) throw UsageError("the token file " + path + ": " + problem);
  return text;
}

// "TOKEN" or "NAME: TOKEN". A token has no blanks, so the blank behind the colon tells a name from a token that holds a colon.
std::vector<gateway::Token> read_tokens(const std::string& path, ReadFrom from) {
  const std::string text = read_private_file(path, from);
  std::vector<gateway::Token> tokens;
  std::size_t line = 1;
  for (std::size_t at = 0; at < text.size(); ++line) {
    std::size_t end = text.find('\n', at);
    if (end == std::string::npos) end = text.size();
    std::string token(base::trimmed(std::string_view(text).substr(at, end - at)));
    at = end + 1;
    if (token.empty() || token.starts_with('#')) continue;
    const std::string where = "the token file " + path + ", line " + std::to_string(line) + ": ";
    std::string name;
    if (const auto blank = token.find_first_of(" \t"); blank != std::string::npos && blank > 1 && token[blank - 1] == ':') {
      name = token.substr(0, blank - 1);
      token = token.substr(token.find_first_not_of(" \t", blank));
    } else if (token.find(':') != std::string::npos) {
      spdlog::warn("{}a token without a name, which holds a colon; a name is followed by a colon and a blank", where);
    }
    for (const char c : token) {
      if (c <= ' ' || c > '~')  // the token itself is never shown
        throw UsageError(where + "a token may hold printable ASCII only, no spaces (a name before it ends with a colon)");
    }
    tokens.emplace_back(std::move(token), std::move(name));
    try {
      gateway::check_tokens({tokens.back()});
    } catch (const std::invalid_argument& e) {
      throw UsageError(where + e.what());
    }
  }
  try {
    gateway::check_tokens(tokens);
  } catch (const std::invalid_argument& e) {
    throw UsageError("the token file " + path + ": " + e.what());
  }
  if (tokens.empty()) throw UsageError("the token file " + path + " holds no token");
  return tokens;
}

std::string shown(const net::ListenAddress& address) {
  if (address.is_unix) return "unix:" + address.path;
  const bool v6 = address.host.find(':') != std::string::npos;
  return "tcp:" + (v6 ? "[" + address.host + "]" : address.host) + ":" + std::to_string(address.port);
}

spdlog::level::level_enum level_of(gateway::LogLevel level) {
  switch (level) {
    case gateway::LogLevel::debug:
      return spdlog::level::debug;
    case gateway::LogLevel::info:
      return spdlog::level::info;
    case gateway::LogLevel::warning:
      return spdlog::level::warn;
    case gateway::LogLevel::error:
      break;
  }
  return spdlog::level::err;
}

std::uint64_t half_of_memory() {
  const long pages = ::sysconf(_SC_PHYS_PAGES);
  const long size = ::sysconf(_SC_PAGESIZE);
  return pages > 0 && size > 0 ? static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(size) / 2 : 0;
}

// A machine has so many process numbers (kernel.pid_max), and one sandbox must not have most of them.
std::uint32_t default_pids() {
  constexpr std::uint32_t kPart = 32, kLeast = 128;
  const auto otherwise = cwsandbox::runner::local::LocalLimits().pids;
  std::ifstream file("/proc/sys/kernel/pid_max");
  std::uint32_t all = 0;
  return file >> all ? std::min(otherwise, std::max(kLeast, all / kPart)) : otherwise;
}

struct Settings {
  Settings() { limits.pids = default_pids(); }

  std::vector<std::string> listen;
  std::string token_file, certificate, key, client_ca, log_level = "info", bwrap = "bwrap";
  std::vector<std::string> origins;
  std::size_t max_connections = 4096, max_client_connections = 0;
  bool no_token = false;
  std::size_t max_sandboxes = 1000, max_processes = 4096;
  std::size_t max_owner_sandboxes = 0, max_owner_processes = 0, max_owner_requests = 0, max_owner_descriptors = 0;
  std::size_t max_owner_watches = gateway::GatewayOptions().max_watches_per_owner;
  std::size_t max_stranger_memory = net::ServerLimits().max_stranger_memory,
              max_held_memory = net::ServerLimits().max_client_memory;
  std::size_t max_owner_memory = 0;
  std::uint64_t owner_capture_size = 0, owner_log_rate = gateway::GatewayOptions().max_log_rate_per_owner;
  unsigned orphan_grace = 60, idle_timeout = 60, stop_grace = 10, max_lifetime = 0;
  unsigned report_turns = static_cast<unsigned>(cwsandbox::core::kDefaultTurnLimit.count());
  std::uint64_t log_size = 16ull << 20, ended_log_size = 1ull << 30, capture_size = 64ull << 20, total_capture_size = 1ull << 30;
  std::string log_dir;
  double max_cpu = 0;
  std::optional<std::uint64_t> max_memory;
  cwsandbox::runner::local::LocalLimits limits;
  std::uint32_t ready_sandboxes = 4;
  std::string runner = "local";
#ifdef CWSANDBOX_KUBERNETES
  cwsandbox::runner::kubernetes::KubeconfigOptions cluster;
  cwsandbox::runner::kubernetes::KubernetesOptions kubernetes;
  unsigned create_timeout = 300;
  std::string default_egress = "none";
  std::vector<std::string> secrets, runtime_classes, allowed_egress, denied_egress, gpu_resources, pod_labels;
  std::string scheduling_file;
  bool no_network_policies = false, no_port_ranges = false;
  unsigned termination_grace = 30;
  std::uint64_t max_volume_size = 10ull << 30;
  std::optional<std::uint64_t> request_memory;
  std::optional<double> request_cpu;
#endif
};

// A connection takes a descriptor, and so do the pipes of processes: connections may have half of what there is.
std::size_t allowed_connections(std::size_t wanted) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return wanted;
  const rlim_t needed = 2 * static_cast<rlim_t>(wanted);
  if (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= needed) return wanted;
  const auto allowed = std::max<std::size_t>(1, static_cast<std::size_t>(limit.rlim_cur / 2));
  spdlog::warn("at most {} connections at once, not {}: this process may have {} open files (RLIMIT_NOFILE, ulimit -n)", allowed,
               wanted, static_cast<unsigned long long>(limit.rlim_cur));
  return allowed;
}

// What is left for everything else: without what starts take for a moment, and the logs of sandboxes that have ended. 0: enough.
std::size_t other_descriptors(std::size_t connections) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return 0;
  const auto all = static_cast<std::size_t>(limit.rlim_cur);
  const std::size_t reserve = std::min<std::size_t>(all / 4, 64) + std::min<std::size_t>(all / 8, 128);
  return all - std::min(all - 1, connections + reserve);
}

// Each has some files open: where there may be few, they are for what is asked for.
std::size_t ready_sandboxes(std::size_t wanted) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return wanted;
  return std::min(wanted, static_cast<std::size_t>(limit.rlim_cur) / 256);
}

std::string checked_origin(const std::string& text) {
  const auto scheme = text.find("://");
  const bool plain = text.find_first_of(" \t,\"\\") == std::string::npos;
  const bool whole = scheme != std::string::npos && scheme > 0 && scheme + 3 < text.size() &&
                     text.find_first_of("/?#@", scheme + 3) == std::string::npos;
  if (!plain || (!whole && text != "null"))
    throw UsageError("--allow-origin: \"" + text + "\" is not an origin; expected SCHEME://HOST[:PORT]");
  return text;
}

/// Where output is kept. That none can be is said now, and not as gaps in the logs of all sandboxes.
std::string checked_log_directory(const std::string& asked) {
  const char* variable = std::getenv("TMPDIR");
  const bool by_variable = asked.empty() && variable != nullptr && *variable == '/';
  const std::string directory = !asked.empty() ? asked : by_variable ? variable : "/tmp";
  const int file = gateway::open_nameless(directory);
  if (file < 0) {
    const std::string why = directory + ": no file can be made there for the output of sandboxes: " + std::strerror(errno);
    if (!asked.empty()) throw std::runtime_error("--log-dir " + why);
    throw std::runtime_error((by_variable ? "TMPDIR " : "") + why + "; --log-dir names another directory");
  }
  ::close(file);
  return directory;
}

/// Reading a pipe would stop the gateway until somebody writes into it.
void check_regular(const std::string& file) {
  struct stat info{};
  if (!file.empty() && ::stat(file.c_str(), &info) == 0 && !S_ISREG(info.st_mode))
    throw std::runtime_error(file + " is no regular file, and such a one is read at the start only");
}

/// What SIGHUP reads again. Each file by itself: one that is broken leaves what it is for as it was.
void reload(gateway::Gateway& gateway, const Settings& settings, const net::TlsServerOptions& tls) {
  const auto attempt = [](const char* what, const auto& work) {
    try {
      work();
      spdlog::info("reloaded the {}", what);
    } catch (const std::exception& e) {
      spdlog::error("cannot reload the {}, the old ones stay: {}", what, e.what());
    }
  };
  if (!settings.token_file.empty())
    attempt("tokens", [&] { gateway.set_tokens(read_tokens(settings.token_file, ReadFrom::regular_files)); });
  if (!tls.certificate_file.empty()) {
    attempt("certificates", [&] {
      for (const auto* file : {&tls.certificate_file, &tls.key_file, &tls.client_ca_file}) check_regular(*file);
      gateway.reload_tls(tls);
    });
  }
  if (settings.token_file.empty() && tls.certificate_file.empty()) spdlog::info("there is nothing to reload");
}

void on_hangup(asio::signal_set& hangups, gateway::Gateway& gateway, const Settings& settings, const net::TlsServerOptions& tls) {
  hangups.async_wait([&](const boost::system::error_code& ec, int) {
    if (ec) return;
    reload(gateway, settings, tls);
    on_hangup(hangups, gateway, settings, tls);
  });
}

asio::awaitable<void> stop_then_exit(gateway::Gateway& gateway, asio::io_context& loop, std::chrono::seconds grace) {
  co_await gateway.stop(grace);
  loop.stop();
}

std::unique_ptr<cwsandbox::runner::Runner> local_runner(asio::io_context& loop, const Settings& settings,
                                                        const gateway::GatewayOptions& gateway_options) {
  cwsandbox::runner::local::LocalRunnerOptions options;
  options.bwrap = settings.bwrap;
  options.limits = settings.limits;
  options.limits.memory = gateway_options.max_memory;
  options.limits.cpu = gateway_options.max_cpu;
  options.limits.cpu_share = kCpuShare;
  options.ready = ready_sandboxes(settings.ready_sandboxes);
  options.log = [](const std::string& text) { spdlog::warn("{}", text); };
  return cwsandbox::runner::local::make_local_runner(loop.get_executor(), options);
}

#ifdef CWSANDBOX_KUBERNETES
// What is set aside for a sandbox that asks for nothing. Without it the cluster would set its limits aside, which are what a
// sandbox may have at most: a node would be full with a few.
constexpr std::uint64_t kRequestMemory = 32ull << 20;
constexpr double kRequestCpu = 0.01;

/// What an operator allows sandboxes in a cluster, and gives to those that ask for nothing.
void set_ceilings(const Settings& settings, const gateway::GatewayOptions& gateway_options,
                  cwsandbox::runner::kubernetes::PodOptions& pods) {
  namespace kubernetes = cwsandbox::runner::kubernetes;
  const std::uint64_t max_memory = gateway_options.max_memory;
  const std::uint32_t max_cpu = gateway_options.max_cpu;
  if (max_memory != 0) pods.resources.memory_limit = max_memory;
  if (max_memory != 0 || settings.request_memory) pods.resources.memory_request = settings.request_memory.value_or(kRequestMemory);
  if (max_cpu != 0) pods.resources.cpu_limit = max_cpu;
  if (max_cpu != 0 || settings.request_cpu)
    pods.resources.cpu_request = static_cast<std::uint32_t>(settings.request_cpu.value_or(kRequestCpu) * 1000 + 0.5);
  if (max_memory != 0 && settings.request_memory > max_memory) throw UsageError("--request-memory is more than --max-memory");
  if (max_cpu != 0 && settings.request_cpu && pods.resources.cpu_request > max_cpu)
    throw UsageError("--request-cpu is more than --max-cpu");
  if (!settings.max_memory)
    spdlog::warn("sandboxes that ask for no memory have no limit but those of their namespace: set --max-memory");
  pods.workspace_size = pods.home_size = pods.tmp_size = settings.limits.disk;
  pods.max_volume_size.reset();
  if (settings.max_volume_size != 0) pods.max_volume_size = settings.max_volume_size;
  pods.secrets.emplace(settings.secrets.begin(), settings.secrets.end());
  if (pods.secrets->contains("*")) pods.secrets.reset();
  pods.runtime_classes = {settings.runtime_classes.begin(), settings.runtime_classes.end()};
  for (const std::string& text : settings.gpu_resources) {
    const auto equals = text.find('=');
    if (equals == std::string::npos || text.find('/', equals) == std::string::npos)
      throw UsageError("--gpu-resource: \"" + text + "\": expected TYPE=RESOURCE, e.g. h100=nvidia.com/gpu");
    pods.gpu_resources[text.substr(0, equals)] = text.substr(equals + 1);
  }
  try {
    pods.egress_ceiling = kubernetes::parse_ceiling(settings.allowed_egress, settings.denied_egress);
  } catch (const cwsandbox::runner::RunnerError& e) {
    throw UsageError(std::string("--allow-egress, --deny-egress: ") + e.what());
  }
  if (settings.default_egress == "any") pods.egress.emplace_back();
}

/// Where an operator wants pods to run, and what else of theirs is a matter of the cluster.
void set_placement(const Settings& settings, cwsandbox::runner::kubernetes::PodOptions& pods) {
  namespace kubernetes = cwsandbox::runner::kubernetes;
  for (const std::string& text : settings.pod_labels) {
    const auto equals = text.find('=');
    if (equals == std::string::npos) throw UsageError("--pod-label: \"" + text + "\": expected NAME=VALUE");
    try {
      kubernetes::check_label(text.substr(0, equals), text.substr(equals + 1));
    } catch (const cwsandbox::runner::RunnerError& e) {
      throw UsageError(std::string("--pod-label: ") + e.what());
    }
    pods.labels[text.substr(0, equals)] = text.substr(equals + 1);
  }
  if (!settings.scheduling_file.empty()) {
    std::ifstream file(settings.scheduling_file);
    if (!file) throw UsageError("--scheduling: cannot open " + settings.scheduling_file + ": " + std::strerror(errno));
    pods.scheduling = kubernetes::Json::parse(file, nullptr, false);
    if (pods.scheduling.is_discarded()) throw UsageError("--scheduling: " + settings.scheduling_file + " is not JSON");
    try {
      kubernetes::check_scheduling(pods.scheduling);
    } catch (const cwsandbox::runner::RunnerError& e) {
      throw UsageError("--scheduling: " + settings.scheduling_file + ": " + e.what());
    }
  }
  pods.network_policies = !settings.no_network_policies;
  pods.port_ranges = !settings.no_port_ranges;
  pods.termination_grace = std::chrono::seconds(settings.termination_grace);
  if (!pods.network_policies)
    spdlog::warn("no network policies are made (--no-network-policies): sandboxes reach what any pod reaches");
}
#endif

std::unique_ptr<cwsandbox::runner::Runner> kubernetes_runner([[maybe_unused]] asio::io_context& loop,
                                                             [[maybe_unused]] const Settings& settings,
                                                             [[maybe_unused]] const gateway::GatewayOptions& gateway_options) {
#ifdef CWSANDBOX_KUBERNETES
  namespace kubernetes = cwsandbox::runner::kubernetes;
  kubernetes::KubernetesOptions options = settings.kubernetes;
  options.create_timeout = std::chrono::seconds(settings.create_timeout);
  set_ceilings(settings, gateway_options, options.pods);
  set_placement(settings, options.pods);
  options.pods.agent_pull_policy = options.pods.image_pull_policy;
  options.log = [](const std::string& text) { spdlog::warn("{}", text); };
  try {
    options.access = kubernetes::find_cluster(settings.cluster);
  } catch (const cwsandbox::runner::RunnerError& e) {
    throw UsageError(e.what());
  }
  spdlog::info("sandboxes are pods in the namespace {} of {} ({})", options.access.default_namespace,
               options.access.endpoint.to_string(), options.access.origin);
  return kubernetes::make_kubernetes_runner(loop.get_executor(), std::move(options));
#else
  throw UsageError("--runner: this cwsandboxd was built without Kubernetes");
#endif
}

#ifdef CWSANDBOX_KUBERNETES
void add_kubernetes_options(CLI::App& app, Settings& settings) {
  const auto group = [](CLI::Option* option) { option->group("Sandboxes on Kubernetes (--runner kubernetes)"); };
  // Repeated, or several with blanks between them, as in a variable of the environment.
  const auto list = [&group](CLI::Option* option) {
    option->delimiter(' ')->expected(1)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    group(option);
    return option;
  };
  auto& pods = settings.kubernetes.pods;
  group(app.add_option("--kubeconfig", settings.cluster.file,
                       "where the cluster is and how to be let in (default: $KUBECONFIG, ~/.kube/config, a pod's service account)")
            ->type_name("FILE"));
  group(app.add_option("--context", settings.cluster.context, "a context of that file (default: its current one)")
            ->type_name("NAME"));
  group(app.add_option("--namespace", settings.cluster.name_space, "where the pods are (default: the context's, the pod's)")
            ->type_name("NAME"));
  group(app.add_option("--agent-image", pods.agent_image, "the image that carries the agent into the pods")
            ->envname("CWSANDBOXD_AGENT_IMAGE")
            ->type_name("IMAGE")
            ->capture_default_str());
  group(app.add_flag(
               "--plain-exec", pods.plain,
               "pods without the agent: their processes have no input on older clusters, no files, and do not outlive a connection")
            ->envname("CWSANDBOXD_PLAIN_EXEC")
            ->excludes("--agent-image"));
  group(app.add_option("--default-image", pods.default_image, "the image of sandboxes that ask for none")
            ->envname("CWSANDBOXD_DEFAULT_IMAGE")
            ->type_name("IMAGE")
            ->capture_default_str());
  group(app.add_option("--pull-policy", pods.image_pull_policy, "when images are pulled")
            ->envname("CWSANDBOXD_PULL_POLICY")
            ->check(CLI::IsMember({"Always", "IfNotPresent", "Never"}))
            ->capture_default_str());
  group(app.add_option("--runtime-class", pods.runtime_class, "the RuntimeClass of sandboxes that ask for none, e.g. gvisor")
            ->envname("CWSANDBOXD_RUNTIME_CLASS")
            ->type_name("NAME"));
  list(app.add_option("--allow-runtime-class", settings.runtime_classes, "another that sandboxes may ask for; may be repeated"))
      ->envname("CWSANDBOXD_ALLOW_RUNTIME_CLASS")
      ->type_name("NAME");
  list(app.add_option("--allow-secret", settings.secrets,
                      "a Secret of the namespace that sandboxes may name, or * for all of them; may be repeated (default: none)"))
      ->envname("CWSANDBOXD_ALLOW_SECRET")
      ->type_name("NAME");
  group(app.add_option("--request-memory", settings.request_memory,
                       "bytes set aside for a sandbox that asks for none (default: 32MiB with --max-memory)")
            ->envname("CWSANDBOXD_REQUEST_MEMORY")
            ->transform(CLI::AsSizeValue(false))
            ->check(CLI::Range(std::uint64_t{1} << 20, std::uint64_t{1} << 50)));
  group(app.add_option("--request-cpu", settings.request_cpu,
                       "cores set aside for one that asks for none (default: 0.01 with --max-cpu)")
            ->envname("CWSANDBOXD_REQUEST_CPU")
            ->check(CLI::Range(0.001, 100000.0)));
  group(app.add_option("--max-volume-size", settings.max_volume_size,
                       "bytes of a scratch volume at most, and of one that names no size; 0: no bound")
            ->envname("CWSANDBOXD_MAX_VOLUME_SIZE")
            ->transform(CLI::AsSizeValue(false))
            ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 50))
            ->capture_default_str());
  list(app.add_option("--gpu-resource", settings.gpu_resources,
                      "the extended resource for a type of GPU; may be repeated (default: any type's is nvidia.com/gpu)"))
      ->envname("CWSANDBOXD_GPU_RESOURCE")
      ->type_name("TYPE=RESOURCE");
  group(
      app.add_option("--egress", settings.default_egress,
                     "connections to the outside of sandboxes that say nothing of it; any: what --allow-egress allows. A cluster's "
                     "network plugin must keep to it")
          ->envname("CWSANDBOXD_EGRESS")
          ->check(CLI::IsMember({"none", "any"}))
          ->capture_default_str());
  list(app.add_option("--allow-egress", settings.allowed_egress,
                      "what sandboxes may ask to reach at most: a block of addresses, pods or any, with ports as in "
                      "10.0.0.0/8=tcp:443,udp:5000-5010; may be repeated (default: all but link-local and metadata services)"))
      ->envname("CWSANDBOXD_ALLOW_EGRESS")
      ->type_name("BLOCK");
  list(app.add_option("--deny-egress", settings.denied_egress, "a block of addresses taken out of that; may be repeated"))
      ->envname("CWSANDBOXD_DENY_EGRESS")
      ->type_name("BLOCK");
  group(app.add_flag("--no-network-policies", settings.no_network_policies,
                     "the cluster's network does not keep to NetworkPolicies: none are made, and what needs one is refused")
            ->envname("CWSANDBOXD_NO_NETWORK_POLICIES")
            ->excludes("--egress")
            ->excludes("--allow-egress")
            ->excludes("--deny-egress"));
  group(app.add_flag("--no-port-ranges", settings.no_port_ranges,
                     "the cluster is older than Kubernetes 1.22: rules with ranges of ports are refused")
            ->envname("CWSANDBOXD_NO_PORT_RANGES"));
  list(app.add_option("--image-pull-secret", pods.image_pull_secrets,
                      "a Secret of the namespace with which images are pulled; may be repeated"))
      ->envname("CWSANDBOXD_IMAGE_PULL_SECRET")
      ->type_name("NAME");
  list(app.add_option("--pod-label", settings.pod_labels, "a label of every object that is made; may be repeated"))
      ->envname("CWSANDBOXD_POD_LABEL")
      ->type_name("NAME=VALUE");
  group(app.add_option("--scheduling", settings.scheduling_file,
                       "JSON with nodeSelector, tolerations, affinity and the like, for every pod")
            ->envname("CWSANDBOXD_SCHEDULING")
            ->type_name("FILE"));
  group(app.add_option("--run-as-user", pods.run_as_user, "the user that sandboxes run as")
            ->envname("CWSANDBOXD_RUN_AS_USER")
            ->check(CLI::Range(std::int64_t{1}, std::int64_t{2147483647}))
            ->capture_default_str());
  group(app.add_option("--run-as-group", pods.run_as_group, "and their group")
            ->envname("CWSANDBOXD_RUN_AS_GROUP")
            ->check(CLI::Range(std::int64_t{1}, std::int64_t{2147483647}))
            ->capture_default_str());
  group(app.add_option("--termination-grace", settings.termination_grace,
                       "seconds from SIGTERM to SIGKILL when the cluster ends a pod by itself, to drain a node, say")
            ->envname("CWSANDBOXD_TERMINATION_GRACE")
            ->check(CLI::Range(1, 86400))
            ->capture_default_str());
  group(app.add_option("--create-timeout", settings.create_timeout, "seconds until a pod must run")
            ->check(CLI::Range(1, 86400))
            ->capture_default_str());
}
#endif

int serve(const Settings& settings) {
  if (const std::string lack = cwsandbox::base::lack_of_descriptors(kDescriptors); !lack.empty()) throw std::runtime_error(lack);
  gateway::GatewayOptions options;
  if (!settings.token_file.empty()) options.tokens = read_tokens(settings.token_file, ReadFrom::anything);
  options.no_token = settings.no_token;
  if (options.tokens.empty() && !options.no_token)
    throw UsageError("--token-file is required (or --no-token, for addresses of this machine only)");
  if (settings.certificate.empty() != settings.key.empty()) throw UsageError("--tls-cert and --tls-key go together");
  if (!settings.client_ca.empty() && settings.certificate.empty())
    throw UsageError("--tls-client-ca needs --tls-cert and --tls-key");
  for (const std::string& origin : settings.origins) options.allowed_origins.push_back(checked_origin(origin));
  if (settings.max_client_connections > settings.max_connections)
    throw UsageError("--max-connections-per-token is more than --max-connections");
  options.limits.max_connections = allowed_connections(settings.max_connections);
  options.limits.max_client_connections = std::min(settings.max_client_connections, options.limits.max_connections);
  options.limits.max_stranger_memory = settings.max_stranger_memory;
  options.limits.max_client_memory = settings.max_held_memory;
  options.limits.max_one_client_memory = settings.max_owner_memory;
  options.max_sandboxes_per_owner = settings.max_owner_sandboxes;
  options.max_processes_per_owner = settings.max_owner_processes;
  options.max_requests_per_owner = settings.max_owner_requests;
  options.max_descriptors_per_owner = settings.max_owner_descriptors;
  options.max_watches_per_owner = settings.max_owner_watches;
  options.max_capture_per_owner = settings.owner_capture_size;
  options.max_log_rate_per_owner = settings.owner_log_rate;
  options.max_sandboxes = settings.max_sandboxes;
  options.max_processes_per_sandbox = settings.max_processes;
  options.orphan_grace = std::chrono::seconds(settings.orphan_grace);
  options.idle_timeout = std::chrono::seconds(settings.idle_timeout);
  options.max_lifetime = std::chrono::seconds(settings.max_lifetime);
  const bool local = settings.runner == "local";
  // In a cluster the streams of a pod share a connection.
  if (local) {
    const std::size_t ready = ready_sandboxes(settings.ready_sandboxes);
    options.max_descriptors = other_descriptors(options.limits.max_connections + ready * gateway::kSandboxDescriptors);
    options.runner_memory = cwsandbox::runner::local::kMostMemory + ready * cwsandbox::runner::local::kMostMemoryPerSandbox;
    options.runner_memory_per_sandbox = cwsandbox::runner::local::kMostMemoryPerSandbox;
  }
  options.max_memory = settings.max_memory ? *settings.max_memory : local ? half_of_memory() : 0;
  options.max_cpu = static_cast<std::uint32_t>(settings.max_cpu * 1000);
  options.log_bytes = settings.log_size;
  options.ended_log_bytes = settings.ended_log_size;
  options.capture_bytes = settings.capture_size;
  options.total_capture_bytes = settings.total_capture_size;
  options.log_directory = checked_log_directory(settings.log_dir);
  options.log = [](gateway::LogLevel level, const std::string& text) { spdlog::log(level_of(level), "{}", text); };
  std::vector<net::ListenAddress> addresses;
  for (const std::string& text : settings.listen) {
    try {
      addresses.push_back(net::parse_listen(text));
    } catch (const std::invalid_argument& e) {
      throw UsageError(std::string("--listen: ") + e.what());
    }
  }

  asio::io_context loop(1);
  auto runner = local ? local_runner(loop, settings, options) : kubernetes_runner(loop, settings, options);
  gateway::Gateway gateway(loop.get_executor(), std::move(runner), std::move(options));
  net::TlsServerOptions tls;
  tls.certificate_file = settings.certificate;
  tls.key_file = settings.key;
  tls.client_ca_file = settings.client_ca;
  // Before anybody can see that we are there: a signal that comes at once must not be one that nobody handles.
  asio::signal_set hangups(loop, SIGHUP);
  on_hangup(hangups, gateway, settings, tls);
  asio::signal_set signals(loop, SIGTERM, SIGINT);
  signals.async_wait([&](const boost::system::error_code& ec, int) {
    if (ec) return;
    asio::co_spawn(loop, stop_then_exit(gateway, loop, std::chrono::seconds(settings.stop_grace)), asio::detached);
    // The sandboxes die with this process, however it ends.
    signals.async_wait([](const boost::system::error_code& again, int number) {
      if (!again) ::_exit(128 + number);
    });
  });
  for (const auto& address : addresses) {
    net::ListenAddress bound;
    try {
      bound = gateway.listen(address, address.is_unix ? net::TlsServerOptions() : tls);
    } catch (const std::invalid_argument& e) {
      throw UsageError(e.what());
    }
    spdlog::info("listening on {}{}", shown(bound), !address.is_unix && !tls.certificate_file.empty() ? " (TLS)" : "");
  }

  // On a thread of its own, so that what holds the loop up does not hold up the report.
  cwsandbox::core::LoopWatch watch(std::chrono::milliseconds(settings.report_turns),
                                   [](const std::string& text) { spdlog::warn("{}", text.substr(0, text.rfind('\n'))); });
  watch.run(loop);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (!cwsandbox::base::fill_standard_streams()) return kFailed;
  // When nobody reads the log any more, the gateway goes on. A handler, unlike a signal that is ignored, is not inherited.
  struct sigaction no_reader{};
  no_reader.sa_handler = [](int) {};
  no_reader.sa_flags = SA_RESTART;
  ::sigaction(SIGPIPE, &no_reader, nullptr);
  cwsandbox::base::raise_descriptor_limit();
  Settings settings;
  CLI::App app("The cwsandbox gateway: serves sandboxes of this machine over HTTP and WebSocket.", "cwsandboxd");
  app.footer(kFooter);
  app.set_version_flag("--version", std::string(cwsandbox::version()));
  app.add_option("--listen", settings.listen, "tcp:ADDRESS:PORT (port 0 takes a free one) or unix:PATH; may be repeated")
      ->required()
      ->type_name("ADDRESS")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  auto* file =
      app.add_option("--token-file", settings.token_file,
                     "accepted bearer tokens, one a line, each after its owner's name and a colon or alone; not readable by others")
          ->type_name("FILE");
  app.add_flag("--no-token", settings.no_token, "serve without authentication, on Unix sockets and loopback addresses only")
      ->excludes(file);
  app.add_option("--tls-cert", settings.certificate, "certificate chain, PEM (TCP addresses)")->type_name("FILE");
  app.add_option("--tls-key", settings.key, "its private key, PEM")->type_name("FILE");
  app.add_option("--tls-client-ca", settings.client_ca,
                 "authorities, PEM: clients on TCP addresses must show a certificate of one of them")
      ->type_name("FILE");
  app.add_option("--allow-origin", settings.origins, "a web origin whose pages may make requests; may be repeated")
      ->type_name("ORIGIN")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option("--max-connections", settings.max_connections, "connections at once")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app.add_option("--max-connections-per-token", settings.max_client_connections,
                 "of them, those of one token or name; 0: three quarters of all")
      ->check(CLI::Range(0, 1000000))
      ->capture_default_str();
  app.add_option("--log-level", settings.log_level, "debug, info, warning, error or off")
      ->check(CLI::IsMember({"debug", "info", "warning", "error", "off"}))
      ->capture_default_str();
  app.add_option("--max-sandboxes", settings.max_sandboxes, "sandboxes at once")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app.add_option("--max-processes", settings.max_processes, "processes at once in one sandbox")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app.add_option("--max-sandboxes-per-owner", settings.max_owner_sandboxes,
                 "of them, those of one owner; 0: all where there is one owner, else three quarters")
      ->check(CLI::Range(0, 1000000))
      ->capture_default_str();
  app.add_option("--max-processes-per-owner", settings.max_owner_processes,
                 "processes at once in all sandboxes of one owner; 0: no bound")
      ->check(CLI::Range(0, 1000000000))
      ->capture_default_str();
  app.add_option("--max-requests-per-owner", settings.max_owner_requests,
                 "requests and starts of processes a second of one owner; 0: no bound")
      ->check(CLI::Range(0, 1000000000))
      ->capture_default_str();
  app.add_option(
         "--max-descriptors-per-owner", settings.max_owner_descriptors,
         "of the files that the gateway may have open beside connections, those for one owner; 0: all where there is one owner, "
         "else three quarters")
      ->check(CLI::Range(0, 1000000000))
      ->capture_default_str();
  app.add_option("--max-watches-per-owner", settings.max_owner_watches, "watches of files at once in all sandboxes of one owner")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  const auto memory = [&app](const char* name, std::size_t& value, const char* text) {
    app.add_option(name, value, text)
        ->transform(CLI::AsSizeValue(false))
        ->check(CLI::Range(std::size_t{0}, std::size_t{1} << 50))
        ->capture_default_str();
  };
  memory("--max-stranger-memory", settings.max_stranger_memory, "bytes held of what strangers send");
  memory("--max-held-memory", settings.max_held_memory,
         "bytes held for clients: requests, answers that were not read, outputs of Exec, large windows");
  memory("--max-held-memory-per-owner", settings.max_owner_memory, "of them, those for one owner; 0: three quarters");
  app.add_option("--max-lifetime", settings.max_lifetime,
                 "seconds that a sandbox may live at most, whatever it asks for; 0: no bound")
      ->check(CLI::Range(0, 1000000000))
      ->capture_default_str();
  app.add_option("--max-memory", settings.max_memory,
                 "bytes of memory that a sandbox may use at most, the files that it writes included; 0: no bound (default: half of "
                 "this machine's; on Kubernetes no bound)")
      ->envname("CWSANDBOXD_MAX_MEMORY")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 50));
  app.add_option("--max-cpu", settings.max_cpu, "cores that a sandbox may use at most, e.g. 1.5; 0: no bound")
      ->envname("CWSANDBOXD_MAX_CPU")
      ->check(CLI::Range(0.0, 100000.0))
      ->capture_default_str();
  app.add_option("--max-pids", settings.limits.pids, "processes and threads in one sandbox; 0: no bound")
      ->check(CLI::Range(0, 4000000))
      ->capture_default_str();
  app.add_option("--max-open-files", settings.limits.open_files, "files that one process may have open")
      ->check(CLI::Range(16, 1000000000))
      ->capture_default_str();
  app.add_option("--max-disk", settings.limits.disk, "bytes in each place that a sandbox can write, e.g. 1GiB")
      ->envname("CWSANDBOXD_MAX_DISK")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(std::uint64_t{1} << 20, std::uint64_t{1} << 50))
      ->capture_default_str();
  app.add_option("--max-files", settings.limits.files, "files and directories in each of them")
      ->check(CLI::Range(std::uint64_t{16}, std::uint64_t{1} << 40))
      ->capture_default_str();
  app.add_option(
         "--ready-sandboxes", settings.ready_sandboxes,
         "sandboxes kept ready at most, for a minute after the last one with the same limits was asked for; they are given away "
         "in a few milliseconds; 0: none")
      ->envname("CWSANDBOXD_READY_SANDBOXES")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  app.add_option("--log-size", settings.log_size, "bytes kept of what a main command writes, e.g. 16MiB")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(std::uint64_t{4096}, std::uint64_t{1} << 40))
      ->capture_default_str();
  app.add_option("--ended-log-size", settings.ended_log_size, "bytes kept of the output of all sandboxes that have ended")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  app.add_option("--capture-size", settings.capture_size,
                 "bytes kept of the output of a process while no client is connected to it; then it waits; 0: none")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 40))
      ->capture_default_str();
  app.add_option("--total-capture-size", settings.total_capture_size, "the same for all processes together")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 50))
      ->capture_default_str();
  app.add_option("--capture-size-per-owner", settings.owner_capture_size,
                 "the same for all processes of one owner; 0: all where there is one owner, else three quarters")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 50))
      ->capture_default_str();
  app.add_option("--max-log-rate-per-owner", settings.owner_log_rate,
                 "bytes a second that the main commands of one owner's sandboxes may write; beyond it they wait; 0: no bound")
      ->transform(CLI::AsSizeValue(false))
      ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 50))
      ->capture_default_str();
  app.add_option("--log-dir", settings.log_dir,
                 "where all such output is kept, in files without names (default: $TMPDIR, else /tmp)")
      ->type_name("DIRECTORY")
      ->check(CLI::ExistingDirectory);
  app.add_option("--orphan-grace", settings.orphan_grace, "seconds that a process outlives its client's connection")
      ->check(CLI::Range(0, 86400))
      ->capture_default_str();
  app.add_option("--idle-timeout", settings.idle_timeout, "seconds of silence after which an exec connection counts as lost")
      ->check(CLI::Range(1, 86400))
      ->capture_default_str();
  app.add_option("--stop-grace", settings.stop_grace, "seconds between SIGTERM and SIGKILL when the daemon stops")
      ->check(CLI::Range(0, 86400))
      ->capture_default_str();
  app.add_option(
         "--report-turns", settings.report_turns,
         "the log tells, with the stack, what holds up the event loop, and so everybody, for more than so many milliseconds; "
         "0: nothing")
      ->envname("CWSANDBOXD_REPORT_TURNS")
      ->check(CLI::Range(0, 3600000))
      ->capture_default_str();
  app.add_option("--bwrap", settings.bwrap, "bubblewrap, name or path")->type_name("PROGRAM")->capture_default_str();
  app.add_option("--runner", settings.runner, "where sandboxes run: local (this machine) or kubernetes (pods of a cluster)")
      ->check(CLI::IsMember({"local", "kubernetes"}))
      ->capture_default_str();
#ifdef CWSANDBOX_KUBERNETES
  add_kubernetes_options(app, settings);
#endif
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : kUsage;
  }
  try {
    spdlog::set_default_logger(std::make_shared<spdlog::logger>("", std::make_shared<cwsandbox::tools::LogSink>(STDERR_FILENO)));
    spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
    spdlog::set_level(spdlog::level::from_str(settings.log_level));
    spdlog::flush_on(spdlog::level::trace);
    return serve(settings);
  } catch (const UsageError& e) {
    std::fprintf(stderr, "cwsandboxd: %s\n", e.what());
    return kUsage;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "cwsandboxd: %s\n", e.what());
    return kFailed;
  }
}
