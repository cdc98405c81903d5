#include "runner/kubernetes/kubeconfig.hpp"

#include "base/base64.hpp"
#include "base/errno_text.hpp"
#include "base/text.hpp"
#include "runner/local/unique_fd.hpp"

#include <yaml-cpp/yaml.h>

#include <fcntl.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>

namespace cwsandbox::runner::kubernetes {

namespace {

namespace fs = std::filesystem;

// A kubeconfig of a thousand clusters with their certificates is below it.
constexpr std::size_t kMaxKubeconfig = std::size_t{4} * 1024 * 1024;
constexpr std::size_t kMaxPem = std::size_t{1024} * 1024;
constexpr std::size_t kMaxFiles = 64;
constexpr std::size_t kRead = std::size_t{16} * 1024;

[[noreturn]] void refuse(const std::string& why) { throw RunnerError(ErrorCode::invalid_argument, "", why); }

std::string in_quotes(const std::string& text) { return "\"" + base::printable_utf8(text) + "\""; }

// A node of a file, with what an error about it says: the file, the line, and the way to the field.
class Field {
 public:
  Field(const YAML::Node& node, std::string file, std::string path) : node_(node), file_(std::move(file)), path_(std::move(path)) {}

  [[nodiscard]] bool present() const { return node_.IsDefined() && !node_.IsNull(); }
  [[nodiscard]] const std::string& file() const noexcept { return file_; }

  [[noreturn]] void complain(const std::string& why) const {
    const auto mark = node_.IsDefined() ? node_.Mark() : YAML::Mark::null_mark();
    refuse(file_ + (mark.is_null() ? std::string() : ":" + std::to_string(mark.line + 1)) + ": " +
           (path_.empty() ? std::string("the file") : path_) + " " + why);
  }

  [[nodiscard]] Field member(const std::string& name) const {
    std::string path = path_.empty() ? name : path_ + "." + name;
    if (!present()) return {YAML::Node(YAML::NodeType::Undefined), file_, std::move(path)};
    if (!node_.IsMap()) complain("is not a map");
    return {node_[name], file_, std::move(path)};
  }

  [[nodiscard]] std::string text() const {
    if (!present()) return {};
    if (!node_.IsScalar()) complain("is not text");
    return node_.Scalar();
  }
  [[nodiscard]] std::string needed_text() const {
    auto out = text();
    if (out.empty()) complain("is missing");
    return out;
  }
  [[nodiscard]] bool flag() const {
    const auto value = text();
    if (value.empty() || value == "false" || value == "False" || value == "FALSE") return false;
    if (value != "true" && value != "True" && value != "TRUE") complain("is neither true nor false");
    return true;
  }
  [[nodiscard]] std::vector<Field> list() const {
    std::vector<Field> out;
    if (!present()) return out;
    if (!node_.IsSequence()) complain("is not a list");
    for (std::size_t i = 0; i < node_.size(); ++i) out.emplace_back(node_[i], file_, path_ + "[" + std::to_string(i) + "]");
    return out;
  }
  void renamed(std::string path) { path_ = std::move(path); }

  // Paths in a kubeconfig are relative to where it is.
  [[nodiscard]] std::string resolved(const std::string& path) const {
    return fs::path(path).is_absolute() ? path : (fs::absolute(file_).parent_path() / path).lexically_normal().string();
  }
  // `NAME-data` goes before the file `NAME`, as for kubectl.
  [[nodiscard]] std::string pem(const std::string& name) const {
    const Field data = member(name + "-data");
    if (const auto encoded = data.text(); !encoded.empty()) {
      const auto decoded = base::base64_decode(encoded);
      if (!decoded) data.complain("is not base64");
      return *decoded;
    }
    const auto path = member(name).text();
    if (path.empty()) return {};
    const Field where = member(name);
    try {
      return read_small_file(resolved(path), kMaxPem, "the file");
    } catch (const RunnerError& e) {
      where.complain(std::string("cannot be used: ") + e.what());
    }
  }

 private:
  YAML::Node node_;
  std::string file_, path_;
};

Field parse(const std::string& file) {
  auto text = read_small_file(file, kMaxKubeconfig, "the kubeconfig");
  try {
    return {YAML::Load(text), file, ""};
  } catch (const YAML::Exception& e) {
    // What follows a colon is a piece of the file: the name of an anchor is a token that begins with "*".
    refuse(file + (e.mark.is_null() ? std::string() : ":" + std::to_string(e.mark.line + 1)) +
           ": it is not YAML: " + e.msg.substr(0, e.msg.find(": ")));
  }
}

// The entry of that name in the list `kind`, of the first file that has one.
std::optional<Field> find_entry(const std::vector<Field>& files, const std::string& kind, const std::string& name) {
  const auto member = kind == "clusters" ? "cluster" : kind == "users" ? "user" : "context";
  for (const Field& file : files) {
    for (const Field& entry : file.member(kind).list()) {
      if (entry.member("name").text() != name) continue;
      Field out = entry.member(member);
      out.renamed(kind + "[" + base::printable_utf8(name) + "]." + member);
      return out;
    }
  }
  return std::nullopt;
}

std::string file_names(const std::vector<Field>& files) {
  std::string out;
  for (const Field& file : files) out += (out.empty() ? "" : ", ") + file.file();
  return out;
}

void read_server(const Field& cluster, ClusterAccess& out) {
  const Field server = cluster.member("server");
  std::string url = server.needed_text();
  while (url.ends_with('/')) url.pop_back();
  const auto scheme = url.find("://");
  if (scheme != std::string::npos) {
    if (const auto slash = url.find('/', scheme + 3); slash != std::string::npos) {
      out.path_prefix = url.substr(slash);
      url.resize(slash);
      const bool plain = std::all_of(out.path_prefix.begin(), out.path_prefix.end(), [](unsigned char c) {
        return c > 0x20 && c < 0x7f && std::string_view("?#\"<>\\^`{|}").find(static_cast<char>(c)) == std::string_view::npos;
      });
      if (!plain) server.complain("has a query, or a path that cannot stand in a URL");
    }
  }
  try {
    out.endpoint = net::parse_base_url(url);
  } catch (const std::invalid_argument& e) {
    server.complain(std::string("cannot be used: ") + e.what());
  }
  if (out.endpoint.scheme != net::Endpoint::Scheme::https && out.endpoint.scheme != net::Endpoint::Scheme::http)
    server.complain("is neither https:// nor http://");
}

void read_cluster(const Field& cluster, ClusterAccess& out) {
  read_server(cluster, out);
  out.tls_server_name = cluster.member("tls-server-name").text();
  out.insecure_skip_tls_verify = cluster.member("insecure-skip-tls-verify").flag();
  out.ca = cluster.pem("certificate-authority");
  if (out.insecure_skip_tls_verify && !out.ca.empty())
    cluster.member("insecure-skip-tls-verify").complain("is true beside a certificate authority: only one of them can be meant");
  if (cluster.member("proxy-url").present())
    cluster.member("proxy-url").complain("is not supported: the gateway goes to the cluster directly");
}

void read_exec(const Field& exec, ClusterAccess& out) {
  ExecPlugin plugin;
  plugin.api_version = exec.member("apiVersion").needed_text();
  if (plugin.api_version != "client.authentication.k8s.io/v1" && plugin.api_version != "client.authentication.k8s.io/v1beta1")
    exec.member("apiVersion").complain("is neither client.authentication.k8s.io/v1 nor client.authentication.k8s.io/v1beta1");
  plugin.command = exec.member("command").needed_text();
  if (plugin.command.find('/') != std::string::npos) plugin.command = exec.resolved(plugin.command);
  for (const Field& arg : exec.member("args").list()) plugin.args.push_back(arg.text());
  for (const Field& variable : exec.member("env").list())
    plugin.env.emplace_back(variable.member("name").needed_text(), variable.member("value").text());
  plugin.install_hint = base::printable(exec.member("installHint").text(), 500);
  plugin.provide_cluster_info = exec.member("provideClusterInfo").flag();
  if (exec.member("interactiveMode").text() == "Always")
    exec.member("interactiveMode").complain("is \"Always\": nobody is there to answer a gateway's plugin");
  out.exec = std::move(plugin);
}

void read_user(const Field& user, ClusterAccess& out) {
  for (const char* name : {"username", "password"})
    if (user.member(name).present())
      user.member(name).complain("is not supported: clusters take a token, a client certificate or an exec plugin");
  if (user.member("auth-provider").present()) user.member("auth-provider").complain("is not supported: use an exec plugin");
  for (const char* name : {"as", "as-uid", "as-groups", "as-user-extra"})
    if (user.member(name).present()) user.member(name).complain("is not supported: the gateway acts as itself");
  out.client_certificate = user.pem("client-certificate");
  out.client_key = user.pem("client-key");
  if (!out.client_certificate.empty() && out.client_key.empty())
    user.member("client-key").complain("is missing beside the client certificate");
  if (out.client_certificate.empty() && !out.client_key.empty())
    user.member("client-certificate").complain("is missing beside the client key");
  out.token_file = user.member("tokenFile").text();
  if (!out.token_file.empty()) out.token_file = user.resolved(out.token_file);
  // As for client-go, the file goes before the text: it is what can change.
  if (out.token_file.empty()) out.token = user.member("token").text();
  const Field exec = user.member("exec");
  if (!exec.present()) return;
  if (!out.token.empty() || !out.token_file.empty()) exec.complain("stands beside a token: only one of them can be meant");
  read_exec(exec, out);
}

// $KUBECONFIG's files, those that are there.
std::vector<std::string> named_files(const std::string& list) {
  std::vector<std::string> out;
  std::size_t from = 0;
  while (from <= list.size()) {
    const auto end = std::min(list.find(':', from), list.size());
    if (std::string name = list.substr(from, end - from); !name.empty() && std::find(out.begin(), out.end(), name) == out.end())
      out.push_back(std::move(name));
    from = end + 1;
  }
  if (out.size() > kMaxFiles) refuse("$KUBECONFIG names more than " + std::to_string(kMaxFiles) + " files");
  std::error_code ignored;
  std::erase_if(out, [&](const std::string& name) { return !fs::exists(name, ignored); });
  return out;
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : value;
}

std::string home_kubeconfig() {
  auto home = environment("HOME");
  if (home.empty()) {
    const passwd* entry = ::getpwuid(::getuid());
    if (entry != nullptr) home = entry->pw_dir;
  }
  return home.empty() ? std::string() : home + "/.kube/config";
}

// Empty: there is none.
std::vector<std::string> kubeconfig_files(const KubeconfigOptions& options) {
  if (!options.file.empty()) return {options.file};
  if (const auto list = environment("KUBECONFIG"); !list.empty()) {
    auto out = named_files(list);
    if (out.empty()) refuse("none of the files that $KUBECONFIG names is there: " + base::printable_utf8(list));
    return out;
  }
  std::error_code ignored;
  const auto home = home_kubeconfig();
  if (!home.empty() && fs::exists(home, ignored)) return {home};
  return {};
}

ClusterAccess load(const std::vector<std::string>& names, const KubeconfigOptions& options) {
  std::vector<Field> files;
  files.reserve(names.size());
  for (const auto& name : names) files.push_back(parse(name));
  std::string context = options.context;
  for (const Field& file : files) {
    if (context.empty()) context = file.member("current-context").text();
  }
  if (context.empty()) refuse(file_names(files) + ": current-context is missing, and no context was asked for");
  const auto entry = find_entry(files, "contexts", context);
  if (!entry) refuse(file_names(files) + ": contexts has none that is named " + in_quotes(context));

  ClusterAccess out;
  const Field cluster_name = entry->member("cluster");
  const auto cluster = find_entry(files, "clusters", cluster_name.needed_text());
  if (!cluster) cluster_name.complain("names " + in_quotes(cluster_name.text()) + ", which clusters does not have");
  if (!cluster->present()) cluster->complain("is missing");
  read_cluster(*cluster, out);
  const Field user_name = entry->member("user");
  if (const auto name = user_name.text(); !name.empty()) {
    const auto user = find_entry(files, "users", name);
    if (!user) user_name.complain("names " + in_quotes(name) + ", which users does not have");
    read_user(*user, out);
  }
  if (const auto name = entry->member("namespace").text(); !name.empty()) out.default_namespace = name;
  if (!options.name_space.empty()) out.default_namespace = options.name_space;
  out.origin = "context " + in_quotes(context) + " of " + entry->file();
  return out;
}

}  // namespace

std::string read_small_file(const std::string& path, std::size_t limit, const std::string& what) {
  const auto fail = [&](const std::string& why) { refuse(what + ": " + base::printable_utf8(path) + ": " + why); };
  // Neither a FIFO nor a device is waited for.
  const local::UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat info{};
  if (!fd || ::fstat(fd.get(), &info) != 0) fail(base::error_text(errno));
  if (!S_ISREG(info.st_mode)) fail("it is not a regular file");
  std::string out;
  std::size_t size = 0;
  for (;;) {
    if (size > limit) fail("it is larger than " + std::to_string(limit) + " bytes");
    out.resize(std::min(limit + 1, std::max<std::size_t>(size + kRead, static_cast<std::size_t>(info.st_size) + 1)));
    const ssize_t n = ::read(fd.get(), out.data() + size, out.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(base::error_text(errno));
    if (n == 0) break;
    size += static_cast<std::size_t>(n);
  }
  out.resize(size);
  return out;
}

ClusterAccess load_kubeconfig(const KubeconfigOptions& options) {
  const auto files = kubeconfig_files(options);
  if (files.empty()) refuse("there is no kubeconfig: none was named, $KUBECONFIG is not set, and ~/.kube/config is not there");
  return load(files, options);
}

ClusterAccess service_account_access(const std::string& directory) {
  const auto host = environment("KUBERNETES_SERVICE_HOST");
  const auto port = environment("KUBERNETES_SERVICE_PORT");
  if (host.empty() || port.empty()) refuse("not in a pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set");
  ClusterAccess out;
  try {
    out.endpoint = net::parse_base_url("https://" + (host.find(':') == std::string::npos ? host : "[" + host + "]") + ":" + port);
  } catch (const std::invalid_argument& e) {
    refuse(std::string("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT: ") + e.what());
  }
  out.ca = read_small_file(directory + "/ca.crt", kMaxPem, "the service account's authority");
  out.token_file = directory + "/token";
  // A missing one is an error now and not with the first request.
  static_cast<void>(read_small_file(out.token_file, kMaxPem, "the service account's token"));
  auto name_space = read_small_file(directory + "/namespace", 4096, "the service account's namespace");
  while (!name_space.empty() && (name_space.back() == '\n' || name_space.back() == ' ')) name_space.pop_back();
  if (!name_space.empty()) out.default_namespace = std::move(name_space);
  out.origin = "the service account in " + directory;
  return out;
}

ClusterAccess find_cluster(const KubeconfigOptions& options, const std::string& directory) {
  const auto files = kubeconfig_files(options);
  if (!files.empty()) return load(files, options);
  if (environment("KUBERNETES_SERVICE_HOST").empty())
    refuse("no cluster: no kubeconfig was named, $KUBECONFIG is not set, ~/.kube/config is not there, and this is no pod");
  if (!options.context.empty()) refuse("a context was asked for, and there is no kubeconfig that could have it");
  auto out = service_account_access(directory);
  if (!options.name_space.empty()) out.default_namespace = options.name_space;
  return out;
}

}  // namespace cwsandbox::runner::kubernetes
