#include "runner/kubernetes/kubeconfig.hpp"

#include "support.hpp"

#include <sys/stat.h>

using namespace cwsandbox::runner::kubernetes;
using namespace cwsandbox::runner::kubernetes::test;
using cwsandbox::runner::ErrorCode;
using cwsandbox::runner::RunnerError;

namespace {

// "authority", "certificate" and "private key" in base64.
constexpr const char* kWhole = R"(apiVersion: v1
kind: Config
current-context: work
preferences: {}
clusters:
- name: main
  cluster:
    server: https://10.0.0.1:6443
    certificate-authority-data: YXV0aG9yaXR5
    tls-server-name: api.internal
- name: plain
  cluster: {server: "http://localhost:8001/k8s/clusters/c-1/"}
- name: open
  cluster:
    server: https://[fd00::1]
    insecure-skip-tls-verify: true
users:
- name: me
  user:
    client-certificate-data: Y2VydGlmaWNhdGU=
    client-key-data: cHJpdmF0ZSBrZXk=
- name: bearer
  user: {token: secret-token}
- name: plugin
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: cloud
      args: [get-token, "--cluster", main]
      env:
      - {name: PROFILE, value: work}
      installHint: install the cloud's tool
      provideClusterInfo: true
      interactiveMode: IfAvailable
contexts:
- name: work
  context: {cluster: main, user: me, namespace: sandboxes}
- name: proxy
  context: {cluster: plain, user: bearer}
- name: cloud
  context: {cluster: open, user: plugin}
- name: nobody
  context: {cluster: main}
)";

std::string refusal(const std::function<void()>& what) {
  try {
    what();
  } catch (const RunnerError& e) {
    CHECK(e.code() == ErrorCode::invalid_argument);
    return e.what();
  }
  return "accepted";
}

struct Place {
  TemporaryFolder folder;
  ClusterAccess load(const std::string& text, const std::string& context = {}, const std::string& name_space = {}) {
    write_file(folder / "config", text);
    KubeconfigOptions options;
    options.file = folder / "config";
    options.context = context;
    options.name_space = name_space;
    return load_kubeconfig(options);
  }
  std::string complaint(const std::string& text, const std::string& context = {}) {
    return refusal([&] { load(text, context); });
  }
};

// A file of one cluster, one user and one context, with these lines in the first two.
std::string one(const std::string& cluster, const std::string& user) {
  return "current-context: c\ncontexts:\n- {name: c, context: {cluster: k, user: u}}\nclusters:\n- name: k\n  cluster:\n" +
         cluster + "users:\n- name: u\n  user:\n" + user;
}

}  // namespace

TEST_CASE("a kubeconfig's contexts, with what they name") {
  Place place;
  const auto work = place.load(kWhole);
  CHECK(work.endpoint.to_string() == "https://10.0.0.1:6443");
  CHECK(work.path_prefix.empty());
  CHECK(work.ca == "authority");
  CHECK(work.tls_server_name == "api.internal");
  CHECK(work.client_certificate == "certificate");
  CHECK(work.client_key == "private key");
  CHECK(work.default_namespace == "sandboxes");
  CHECK(holds(work.origin, "\"work\""));
  CHECK(holds(work.origin, place.folder / "config"));

  const auto proxy = place.load(kWhole, "proxy");
  CHECK(proxy.endpoint.to_string() == "http://localhost:8001");
  CHECK(proxy.path_prefix == "/k8s/clusters/c-1");
  CHECK(proxy.token == "secret-token");
  CHECK(proxy.default_namespace == "default");
  CHECK(place.load(kWhole, "proxy", "other").default_namespace == "other");
  CHECK(place.load(kWhole, "work", "other").default_namespace == "other");

  const auto cloud = place.load(kWhole, "cloud");
  CHECK(cloud.insecure_skip_tls_verify);
  CHECK(cloud.endpoint.to_string() == "https://[fd00::1]");
  REQUIRE(cloud.exec);
  CHECK(cloud.exec->command == "cloud");
  CHECK(cloud.exec->args == std::vector<std::string>{"get-token", "--cluster", "main"});
  CHECK(cloud.exec->env == std::vector<std::pair<std::string, std::string>>{{"PROFILE", "work"}});
  CHECK(cloud.exec->api_version == "client.authentication.k8s.io/v1");
  CHECK(cloud.exec->install_hint == "install the cloud's tool");
  CHECK(cloud.exec->provide_cluster_info);

  const auto nobody = place.load(kWhole, "nobody");
  CHECK(nobody.token.empty());
  CHECK(nobody.client_certificate.empty());
}

TEST_CASE("a kubeconfig may be JSON") {
  Place place;
  const auto access = place.load(
      R"({"current-context":"c","contexts":[{"name":"c","context":{"cluster":"k","user":"u"}}],
          "clusters":[{"name":"k","cluster":{"server":"https://h"}}],"users":[{"name":"u","user":{"token":"12345"}}]})");
  CHECK(access.endpoint.to_string() == "https://h");
  CHECK(access.token == "12345");
}

TEST_CASE("paths are relative to the kubeconfig, and data goes before a file") {
  Place place;
  std::filesystem::create_directory(place.folder / "pki");
  write_file(place.folder / "pki/ca.pem", "ca of a file");
  write_file(place.folder / "pki/me.pem", "certificate of a file");
  write_file(place.folder / "pki/me.key", "key of a file");
  const auto access =
      place.load(one("    server: https://h\n    certificate-authority: pki/ca.pem\n",
                     "    client-certificate: pki/../pki/me.pem\n    client-key: pki/me.key\n    tokenFile: pki/token\n"));
  CHECK(access.ca == "ca of a file");
  CHECK(access.client_certificate == "certificate of a file");
  CHECK(access.client_key == "key of a file");
  CHECK(access.token_file == place.folder / "pki/token");  // read where it is used
  const auto both = place.load(
      one("    server: https://h\n    certificate-authority: pki/missing.pem\n    certificate-authority-data: YXV0aG9yaXR5\n",
          "    token: t\n    tokenFile: /run/token\n"));
  CHECK(both.ca == "authority");
  CHECK(both.token_file == "/run/token");
  CHECK(both.token.empty());
  const std::string plugin = "    exec:\n      apiVersion: client.authentication.k8s.io/v1beta1\n      command: ./bin/plugin\n";
  CHECK(place.load(one("    server: https://h\n", plugin)).exec->command == place.folder / "bin/plugin");
}

TEST_CASE("$KUBECONFIG may name several files: the first that says something wins, missing ones are left out") {
  TemporaryFolder folder;
  write_file(folder / "a",
             "contexts:\n- {name: one, context: {cluster: k, user: u, namespace: of-a}}\nclusters:\n- {name: k, cluster: {server: "
             "'https://a'}}\n");
  write_file(folder / "b",
             "current-context: one\ncontexts:\n- {name: one, context: {cluster: k, user: u, namespace: of-b}}\n- {name: two, "
             "context: {cluster: only-b, user: u}}\n"
             "clusters:\n- {name: k, cluster: {server: 'https://b'}}\n- {name: only-b, cluster: {server: 'https://only-b'}}\n"
             "users:\n- {name: u, user: {tokenFile: t}}\n");
  const std::string list = (folder / "missing") + ":" + (folder / "a") + "::" + (folder / "b");
  const Variable variable("KUBECONFIG", list.c_str());
  const auto first = load_kubeconfig({});
  CHECK(first.endpoint.host == "a");
  CHECK(first.default_namespace == "of-a");
  CHECK(first.token_file == folder / "t");
  KubeconfigOptions two;
  two.context = "two";
  CHECK(load_kubeconfig(two).endpoint.host == "only-b");
  // A file that is named goes before the variable.
  KubeconfigOptions named;
  named.file = folder / "b";
  CHECK(load_kubeconfig(named).endpoint.host == "b");
  const Variable nowhere("KUBECONFIG", (folder / "missing").c_str());
  CHECK(holds(refusal([] { (void)load_kubeconfig({}); }), folder / "missing"));
}

TEST_CASE("without $KUBECONFIG it is the one of the home directory") {
  TemporaryFolder folder;
  std::filesystem::create_directory(folder / ".kube");
  const Variable home("HOME", (folder / "").c_str()), none("KUBECONFIG", nullptr);
  CHECK(holds(refusal([] { (void)load_kubeconfig({}); }), "~/.kube/config is not there"));
  write_file(folder / ".kube/config", kWhole);
  CHECK(load_kubeconfig({}).endpoint.host == "10.0.0.1");
}

TEST_CASE("what is wrong with a kubeconfig is told by file, line and field, without a secret") {
  Place place;
  const std::string server = "    server: https://h\n";
  struct Case {
    std::string text;
    std::vector<std::string> parts;
  };
  const std::vector<Case> cases = {
      {"a: [\n", {"config:", "not YAML"}},
      {"%YAML secret\n---\na: b\n", {"config:1: it is not YAML: bad YAML version"}},
      {"a: *secret\n", {"config:1: it is not YAML: the referenced anchor is not defined"}},
      {"", {"current-context is missing"}},
      {"- a\n- b\n", {"config:1: the file is not a map"}},
      {"current-context: c\n", {"contexts has none that is named \"c\""}},
      {"current-context: [c]\n", {"config:1: current-context is not text"}},
      {"current-context: c\ncontexts: {c: {}}\n", {"config:2: contexts is not a list"}},
      {"current-context: c\ncontexts:\n- {name: c, context: {cluster: k}}\n",
       {"config:3: contexts[c].context.cluster", "\"k\"", "clusters does not have"}},
      {"current-context: c\ncontexts:\n- {name: c, context: {user: k}}\n", {"contexts[c].context.cluster is missing"}},
      {"current-context: c\ncontexts:\n- {name: c, context: {cluster: k, user: x}}\nclusters:\n- {name: k, cluster: {server: "
       "'https://h'}}\n",
       {"config:3: contexts[c].context.user", "\"x\"", "users does not have"}},
      {one("    server: ''\n", "    token: t\n"), {"config:7: clusters[k].cluster.server is missing"}},
      {one("    server: ftp://h\n", "    token: t\n"), {"config:7: clusters[k].cluster.server cannot be used", "unknown scheme"}},
      {one("    server: unix:/run/x\n", "    token: t\n"), {"neither https:// nor http://"}},
      {one("    server: https://me:secret@h\n", "    token: t\n"), {"config:7: clusters[k].cluster.server", "user information"}},
      {one("    server: https://h/a?secret=1\n", "    token: t\n"), {"config:7: clusters[k].cluster.server", "query"}},
      {one(server + "    proxy-url: http://secret@p\n", "    token: t\n"),
       {"config:8: clusters[k].cluster.proxy-url is not supported"}},
      {one(server + "    certificate-authority-data: '*secret*'\n", "    token: t\n"),
       {"config:8: clusters[k].cluster.certificate-authority-data is not base64"}},
      {one(server + "    certificate-authority: nowhere.pem\n", "    token: t\n"),
       {"config:8: clusters[k].cluster.certificate-authority cannot be used", "nowhere.pem", "ENOENT"}},
      {one(server + "    certificate-authority-data: YQ==\n    insecure-skip-tls-verify: true\n", "    token: t\n"),
       {"config:9: clusters[k].cluster.insecure-skip-tls-verify"}},
      {one(server + "    insecure-skip-tls-verify: perhaps\n", "    token: t\n"),
       {"config:8: clusters[k].cluster.insecure-skip-tls-verify is neither true nor false"}},
      {one(server, "    username: secret\n"), {"config:11: users[u].user.username is not supported"}},
      {one(server, "    password: secret\n"), {"config:11: users[u].user.password is not supported"}},
      {one(server, "    auth-provider: {name: secret}\n"), {"config:11: users[u].user.auth-provider is not supported"}},
      {one(server, "    as: somebody\n"), {"config:11: users[u].user.as is not supported"}},
      {one(server, "    token: [secret]\n"), {"config:11: users[u].user.token is not text"}},
      {one(server, "    client-certificate-data: YQ==\n"), {"users[u].user.client-key is missing"}},
      {one(server, "    client-key-data: YQ==\n"), {"users[u].user.client-certificate is missing"}},
      {one(server, "    client-certificate-data: YQ==\n    client-key-data: '*secret*'\n"),
       {"config:12: users[u].user.client-key-data is not base64"}},
      {one(server, "    exec: {apiVersion: client.authentication.k8s.io/v1}\n"), {"users[u].user.exec.command is missing"}},
      {one(server, "    exec: {apiVersion: client.authentication.k8s.io/v1alpha1, command: x}\n"),
       {"config:11: users[u].user.exec.apiVersion is neither"}},
      {one(server, "    exec: {apiVersion: client.authentication.k8s.io/v1, command: x, interactiveMode: Always}\n"),
       {"config:11: users[u].user.exec.interactiveMode"}},
      {one(server, "    token: secret\n    exec: {apiVersion: client.authentication.k8s.io/v1, command: x}\n"),
       {"config:12: users[u].user.exec stands beside a token"}},
  };
  for (const auto& [text, parts] : cases) {
    const auto complaint = place.complaint(text);
    INFO(text << "\n" << complaint);
    for (const auto& part : parts) CHECK(holds(complaint, part));
    CHECK_FALSE(holds(complaint, "secret"));
  }
  CHECK(holds(place.complaint(kWhole, "other"), "contexts has none that is named \"other\""));
}

TEST_CASE("what is no kubeconfig at all") {
  Place place;
  KubeconfigOptions options;
  options.file = place.folder / "missing";
  CHECK(holds(refusal([&] { (void)load_kubeconfig(options); }), "missing: No such file"));
  options.file = place.folder / ".";
  CHECK(holds(refusal([&] { (void)load_kubeconfig(options); }), "not a regular file"));
  REQUIRE(::mkfifo((place.folder / "fifo").c_str(), 0600) == 0);
  options.file = place.folder / "fifo";
  CHECK(holds(refusal([&] { (void)load_kubeconfig(options); }), "not a regular file"));
  CHECK(holds(place.complaint(std::string(5 * 1024 * 1024, '#')), "larger than 4194304 bytes"));
  std::string deep(100000, '[');
  CHECK(holds(place.complaint(deep), "not YAML"));
}

TEST_CASE("in a pod the service account is found, unless there is a kubeconfig") {
  TemporaryFolder folder;
  std::filesystem::create_directory(folder / "account");
  const Variable home("HOME", (folder / "").c_str()), none("KUBECONFIG", nullptr);
  {
    const Variable host("KUBERNETES_SERVICE_HOST", nullptr);
    CHECK(holds(refusal([&] { (void)find_cluster({}, folder / "account"); }), "this is no pod"));
    CHECK(holds(refusal([&] { (void)service_account_access(folder / "account"); }), "not in a pod"));
  }
  const Variable host("KUBERNETES_SERVICE_HOST", "fd00::a"), port("KUBERNETES_SERVICE_PORT", "443");
  CHECK(holds(refusal([&] { (void)find_cluster({}, folder / "account"); }), "ca.crt"));
  write_file(folder / "account/ca.crt", "authority");
  CHECK(holds(refusal([&] { (void)find_cluster({}, folder / "account"); }), "account/token"));
  write_file(folder / "account/token", "t");
  write_file(folder / "account/namespace", "gateways\n");
  const auto access = find_cluster({}, folder / "account");
  CHECK(access.endpoint.to_string() == "https://[fd00::a]");
  CHECK(access.ca == "authority");
  CHECK(access.token_file == folder / "account/token");
  CHECK(access.default_namespace == "gateways");
  KubeconfigOptions options;
  options.name_space = "sandboxes";
  CHECK(find_cluster(options, folder / "account").default_namespace == "sandboxes");
  options.context = "c";
  CHECK(holds(refusal([&] { (void)find_cluster(options, folder / "account"); }), "no kubeconfig"));
  std::filesystem::create_directory(folder / ".kube");
  write_file(folder / ".kube/config", kWhole);
  CHECK(find_cluster({}, folder / "account").endpoint.host == "10.0.0.1");
}
