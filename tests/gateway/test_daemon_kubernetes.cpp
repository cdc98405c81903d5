// What cwsandboxd --runner kubernetes asks a cluster for, and what it refuses, as its options have it: against an API server of a
// few lines.
#include "daemon.hpp"
#include "gateway_support.hpp"
#include "support/catch.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

using namespace gateway_test;
using Catch::Matchers::Contains;

namespace {

/// Knows no pods, takes every pod and refuses every policy, unless told, so that each creation ends there. Keeps what it was sent.
class FakeCluster {
 public:
  explicit FakeCluster(std::string refused = "NetworkPolicy") : refused_(std::move(refused)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE(::bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(::listen(listener_, 64) == 0);
    REQUIRE(::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    std::ofstream(dir_.path("kubeconfig")) << "{apiVersion: v1, kind: Config, current-context: c, users: [{name: u, user: {}}],\n"
                                           << " clusters: [{name: k, cluster: {server: 'http://127.0.0.1:"
                                           << ntohs(address.sin_port) << "'}}],\n"
                                           << " contexts: [{name: c, context: {cluster: k, user: u, namespace: boxes}}]}\n";
    accepting_ = std::thread([this] { accept_all(); });
  }
  ~FakeCluster() {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
      for (const int fd : open_) ::shutdown(fd, SHUT_RDWR);
    }
    ::shutdown(listener_, SHUT_RDWR);
    accepting_.join();
    for (std::thread& thread : serving_) thread.join();
    ::close(listener_);
  }
  FakeCluster(const FakeCluster&) = delete;
  FakeCluster& operator=(const FakeCluster&) = delete;

  [[nodiscard]] std::string kubeconfig() const { return dir_.path("kubeconfig"); }

  /// Methods and the last parts of paths of what was to be changed, in the order in which it came: "POST pods".
  std::vector<std::string> changes() {
    const std::lock_guard lock(mutex_);
    return changes_;
  }

  /// The objects of that kind that were to be made, in the order in which they came.
  std::vector<Json> made(const std::string& kind) {
    const std::lock_guard lock(mutex_);
    std::vector<Json> out;
    for (const Json& object : objects_) {
      if (object["kind"] == kind) out.push_back(object);
    }
    return out;
  }

 private:
  void accept_all() {
    for (;;) {
      const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) return;
      const std::lock_guard lock(mutex_);
      if (over_) {
        ::close(fd);
        return;
      }
      open_.insert(fd);
      serving_.emplace_back([this, fd] {
        serve(fd);
        const std::lock_guard locked(mutex_);
        open_.erase(fd);
        ::close(fd);
      });
    }
  }

  void serve(int fd) {
    std::string buffer;
    const auto more = [&] {
      char part[4096];
      const ssize_t n = ::recv(fd, part, sizeof part, 0);
      if (n > 0) buffer.append(part, static_cast<std::size_t>(n));
      return n > 0;
    };
    for (;;) {
      std::size_t head = std::string::npos;
      while ((head = buffer.find("\r\n\r\n")) == std::string::npos) {
        if (!more()) return;
      }
      const std::string line = buffer.substr(0, buffer.find("\r\n"));
      std::size_t length = 0;
      if (const auto at = buffer.find("Content-Length: "); at < head) length = std::stoul(buffer.substr(at + 16));
      buffer.erase(0, head + 4);
      while (buffer.size() < length) {
        if (!more()) return;
      }
      const std::string body = buffer.substr(0, length);
      buffer.erase(0, length);
      if (!send(fd, answer_to(line, body))) return;
    }
  }

  static bool send(int fd, std::string_view text) {
    while (!text.empty()) {
      const ssize_t n = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      text.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
  }

  std::string answer_to(const std::string& line, const std::string& body) {
    const std::string json = "Content-Type: application/json\r\n";
    if (line.find("watch=") != std::string::npos) return "HTTP/1.1 200 OK\r\n" + json + "Transfer-Encoding: chunked\r\n\r\n";
    const std::string path = line.substr(0, std::min(line.find('?'), line.rfind(' ')));
    const bool by_name = !path.ends_with("/pods") && !path.ends_with("/networkpolicies");
    Json out = {{"kind", "PodList"}, {"items", Json::array()}, {"metadata", {{"resourceVersion", "1"}}}};
    std::string status = "200 OK";
    if (!line.starts_with("GET")) {
      std::string what = path.substr(0, by_name ? path.rfind('/') : path.size());
      what.erase(0, what.rfind('/') + 1);
      const std::lock_guard lock(mutex_);
      changes_.push_back(line.substr(0, line.find(' ') + 1) + what);
      if (line.starts_with("PATCH")) objects_.emplace_back(Json::parse(body))["kind"] = "Patch";
    }
    if (by_name) {
      const bool get = line.starts_with("GET");
      if (get) status = "404 Not Found";
      out = {{"kind", "Status"}, {"code", get ? 404 : 200}, {"reason", get ? "NotFound" : ""}, {"message", "by name"}};
    }
    if (line.starts_with("POST")) {
      const std::lock_guard lock(mutex_);
      out = objects_.emplace_back(Json::parse(body));
      status = "201 Created";
      out["metadata"]["uid"] = "u-" + std::to_string(objects_.size());
      out["metadata"]["resourceVersion"] = "2";
      if (out["kind"] == refused_) {
        status = "403 Forbidden";
        out = {{"kind", "Status"}, {"code", 403}, {"reason", "Forbidden"}, {"message", "not here"}};
      }
    }
    const std::string text = out.dump();
    return "HTTP/1.1 " + status + "\r\n" + json + "Content-Length: " + std::to_string(text.size()) + "\r\n\r\n" + text;
  }

  TempDir dir_;
  const std::string refused_;  // the kind of what nobody may make
  std::vector<std::string> changes_;
  int listener_ = -1;
  std::mutex mutex_;
  bool over_ = false;
  std::set<int> open_;
  std::vector<Json> objects_;
  std::vector<std::thread> serving_;
  std::thread accepting_;
};

std::vector<std::string> with_cluster(const FakeCluster& cluster, std::vector<std::string> more) {
  if (std::find(more.begin(), more.end(), "--plain-exec") == more.end()) more.insert(more.begin(), {"--agent-image", "agent:1"});
  more.insert(more.begin(), {"--runner", "kubernetes", "--kubeconfig", cluster.kubeconfig(), "--default-image", "debian:12"});
  return more;
}

struct Gatekeeper {
  explicit Gatekeeper(std::vector<std::string> options, const std::string& environment = "",
                      const std::string& refused = "NetworkPolicy")
      : cluster(refused), daemon(with_cluster(cluster, std::move(options)), environment) {
    // Until it has heard which pods there are it answers nothing.
    REQUIRE(eventually([&] { return daemon.call("ListSandboxes", Json::object()).status == 200; }));
  }
  Answer create(const char* spec) { return daemon.call("CreateSandbox", {{"sandbox", {{"spec", Json::parse(spec)}}}}); }
  /// What the pod of a sandbox that asks for that is to be, and its policy's spec.
  std::pair<Json, Json> made(const char* spec) {
    const std::size_t before = cluster.made("NetworkPolicy").size();
    const Answer answer = create(spec);
    INFO(answer.body);
    REQUIRE(answer.status == 200);
    REQUIRE(eventually([&] { return cluster.made("NetworkPolicy").size() > before; }));
    return {cluster.made("Pod").back(), cluster.made("NetworkPolicy").back()["spec"]};
  }
  void refuses(const char* spec, int status, const std::string& field) {
    const Answer answer = create(spec);
    INFO(spec << " " << answer.body);
    CHECK(answer.status == static_cast<unsigned>(status));
    const std::string message = answer.json()["message"].get<std::string>();
    bool named = message.find(field) != std::string::npos;
    for (const std::string& text : detail_strings(answer.json(), "BadRequest")) named = named || text == field;
    CHECK(named);
  }

  FakeCluster cluster;
  Daemon daemon;
};

constexpr const char* kNothing = "{}";

}  // namespace

TEST_CASE("on a cluster the maxima are the limits of sandboxes that ask for none", "[gateway][daemon][kubernetes][KU-1]") {
  Gatekeeper gate({"--max-memory", "64MiB", "--max-cpu", "1.5", "--max-disk", "2MiB", "--max-volume-size", "3MiB"});
  const auto [pod, policy] = gate.made(kNothing);
  CHECK(pod["spec"]["containers"][0]["resources"] == Json::parse(R"({"limits": {"memory": "67108864", "cpu": "1500m"},
                                                                     "requests": {"memory": "33554432", "cpu": "10m"}})"));
  for (const Json& volume : pod["spec"]["volumes"]) {
    if (volume["name"] != "cwsandbox-agent") CHECK(volume["emptyDir"]["sizeLimit"] == "2097152");
  }
  CHECK(policy["egress"] == Json::array());
  const auto [asks, same] = gate.made(R"({"volumes": [{"name": "v", "scratch": {}}],
      "containers": [{"resourceRequirements": {"requests": {"memory": "16Mi", "cpu": "20m"}}}]})");
  CHECK(asks["spec"]["containers"][0]["resources"] == Json::parse(R"({"limits": {"memory": "67108864", "cpu": "1500m"},
                                                                      "requests": {"memory": "16777216", "cpu": "20m"}})"));
  CHECK(asks["spec"]["volumes"].back()["emptyDir"]["sizeLimit"] == "3145728");
  gate.refuses(R"({"containers": [{"resources": {"memory": "65Mi"}}]})", 400, "sandbox.spec.containers[0].resources.memory");
  gate.refuses(R"({"containers": [{"resourceRequirements": {"requests": {"cpu": "2"}}}]})", 400,
               "sandbox.spec.containers[0].resourceRequirements.requests.cpu");
  gate.refuses(R"({"volumes": [{"name": "u", "scratch": {}}, {"name": "v", "scratch": {"size": "4Mi"}}]})", 501,
               "sandbox.spec.volumes[1].scratch.size");
}

TEST_CASE("on a cluster sandboxes get what the operator has allowed, and no more", "[gateway][daemon][kubernetes][KU-2][KU-3]") {
  Gatekeeper gate({"--allow-secret", "db", "--allow-secret", "cache", "--allow-runtime-class", "gvisor", "--egress", "any",
                   "--allow-egress", "10.0.0.0/8=tcp:443", "--allow-egress", "pods=udp:53", "--deny-egress", "10.9.0.0/16",
                   "--gpu-resource", "h100=nvidia.com/h100", "--request-memory", "8MiB"});
  constexpr const char* kReach = R"([
      {"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.9.0.0/16"]}}], "ports": [{"protocol": "TCP", "port": 443}]},
      {"to": [{"namespaceSelector": {}}], "ports": [{"protocol": "UDP", "port": 53}]}])";
  const auto [plain, of_default] = gate.made(kNothing);
  CHECK(of_default["egress"] == Json::parse(kReach));
  CHECK(plain["spec"]["containers"][0]["resources"] == Json::parse(R"({"requests": {"memory": "8388608"}})"));
  const auto [pod, policy] = gate.made(R"({"runtimeClass": "gvisor", "network": {"egress": [{"any": true}]}, "containers": [{
      "resources": {"gpu": {"count": 1, "type": "h100"}},
      "secretStores": [{"storeName": "kubernetes", "secrets": [{"path": "cache", "field": "K"}]}]}]})");
  CHECK(policy["egress"] == Json::parse(kReach));
  CHECK(pod["spec"]["runtimeClassName"] == "gvisor");
  CHECK(pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/h100"] == "1");
  CHECK(pod["spec"]["containers"][0]["env"][0]["valueFrom"]["secretKeyRef"]["name"] == "cache");

  gate.refuses(R"({"containers": [{"secretStores": [{"storeName": "kubernetes", "secrets": [{"path": "db", "field": "K"}]},
      {"storeName": "kubernetes", "secrets": [{"path": "cache", "field": "L"}, {"path": "default-token", "field": "token"}]}]}]})",
               501, "sandbox.spec.containers[0].secretStores[1].secrets[1].path");
  gate.refuses(R"({"runtimeClass": "runc"})", 501, "sandbox.spec.runtimeClass");
  gate.refuses(
      R"({"network": {"egress": [{"cidr": {"cidr": "10.1.0.0/16"}, "ports": [{"port": 443}]}, {"cidr": {"cidr": "10.1.0.0/16"}}]}})",
      501, "sandbox.spec.network.egress[1]");
  gate.refuses(R"({"network": {"egress": [{"cidr": {"cidr": "169.254.169.254/32"}, "ports": [{"port": 443}]}]}})", 501,
               "sandbox.spec.network.egress[0]");
  gate.refuses(R"({"network": {"egress": [{"cidr": {"cidr": "10.0.0.1/8"}}]}})", 400, "sandbox.spec.network.egress[0].cidr.cidr");
}

TEST_CASE("without a word of its operator's a gateway keeps sandboxes from Secrets and metadata",
          "[gateway][daemon][kubernetes][KU-2][KU-3]") {
  Gatekeeper gate({});
  CHECK_THAT(gate.daemon.log(), Contains("--max-memory"));
  gate.refuses(R"({"containers": [{"secretStores": [{"storeName": "kubernetes", "secrets": [{"path": "db", "field": "K"}]}]}]})",
               501, "sandbox.spec.containers[0].secretStores[0].secrets[0].path");
  gate.refuses(R"({"network": {"egress": [{"cidr": {"cidr": "169.254.169.254/32"}}]}})", 501, "sandbox.spec.network.egress[0]");
  gate.refuses(R"({"volumes": [{"name": "v", "scratch": {"size": "11Gi"}}]})", 501, "sandbox.spec.volumes[0].scratch.size");
  const auto [pod, policy] = gate.made(R"({"network": {"denyEgress": false}})");
  REQUIRE(policy["egress"].size() == 3);
  CHECK(policy["egress"][1]["to"][0]["ipBlock"]["cidr"] == "0.0.0.0/0");
  CHECK(policy["egress"][1]["to"][0]["ipBlock"]["except"][0] == "169.254.0.0/16");
}

TEST_CASE("a deployment sets the same in its environment", "[gateway][daemon][kubernetes]") {
  Gatekeeper gate(
      {},
      "export CWSANDBOXD_MAX_MEMORY=64MiB CWSANDBOXD_MAX_CPU=1.5 CWSANDBOXD_REQUEST_MEMORY=8MiB CWSANDBOXD_REQUEST_CPU=0.1 "
      "CWSANDBOXD_ALLOW_SECRET='db cache' CWSANDBOXD_ALLOW_RUNTIME_CLASS=gvisor CWSANDBOXD_MAX_VOLUME_SIZE=1MiB "
      "CWSANDBOXD_EGRESS=any CWSANDBOXD_ALLOW_EGRESS='10.0.0.0/8=tcp:443,udp:53 pods' CWSANDBOXD_DENY_EGRESS=10.9.0.0/16 "
      "CWSANDBOXD_GPU_RESOURCE=h100=nvidia.com/h100");
  const auto [pod, policy] = gate.made(R"({"runtimeClass": "gvisor", "containers": [{
      "secretStores": [{"storeName": "kubernetes", "secrets": [{"path": "db", "field": "K"}, {"path": "cache", "field": "L"}]}]}]})");
  CHECK(pod["spec"]["containers"][0]["resources"] == Json::parse(R"({"limits": {"memory": "67108864", "cpu": "1500m"},
                                                                     "requests": {"memory": "8388608", "cpu": "100m"}})"));
  CHECK(policy["egress"] == Json::parse(R"([
      {"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.9.0.0/16"]}}],
       "ports": [{"protocol": "TCP", "port": 443}, {"protocol": "UDP", "port": 53}]},
      {"to": [{"namespaceSelector": {}}]}])"));
  gate.refuses(R"({"volumes": [{"name": "v", "scratch": {"size": "2Mi"}}]})", 501, "sandbox.spec.volumes[0].scratch.size");
}

TEST_CASE("a pod that runs its command by itself has its policy before", "[gateway][daemon][kubernetes][KU-4]") {
  using Changes = std::vector<std::string>;
  SECTION("and is not made without it") {
    Gatekeeper gate({"--plain-exec"});
    CHECK(gate.create(kNothing).status == 403);
    CHECK(gate.cluster.changes() == Changes{"POST networkpolicies"});
  }
  SECTION("which is the pod's as soon as that is there") {
    Gatekeeper gate({"--plain-exec"}, "", "nothing");
    REQUIRE(gate.create(kNothing).status == 200);
    REQUIRE(eventually([&] { return gate.cluster.changes().size() >= 3; }));
    CHECK(gate.cluster.changes() == Changes{"POST networkpolicies", "POST pods", "PATCH networkpolicies"});
    const Json policy = gate.cluster.made("NetworkPolicy").at(0), pod = gate.cluster.made("Pod").at(0);
    CHECK_FALSE(policy["metadata"].contains("ownerReferences"));
    CHECK(policy["spec"]["podSelector"]["matchLabels"]["cwsandbox.dev/sandbox"] == pod["metadata"]["name"]);
    const Json owner = gate.cluster.made("Patch").at(0)["metadata"]["ownerReferences"].at(0);
    CHECK(owner["kind"] == "Pod");
    CHECK(owner["name"] == pod["metadata"]["name"]);
    CHECK(owner["uid"] == "u-2");  // of the second object that was made
  }
  SECTION("which goes when the pod cannot be") {
    Gatekeeper gate({"--plain-exec"}, "", "Pod");
    CHECK(gate.create(kNothing).status == 403);
    REQUIRE(eventually([&] { return gate.cluster.changes().size() >= 3; }));
    CHECK(gate.cluster.changes() == Changes{"POST networkpolicies", "POST pods", "DELETE networkpolicies"});
  }
}

TEST_CASE("what else of pods is a matter of the cluster, its operator says", "[gateway][daemon][kubernetes][KU-5]") {
  TempDir dir;
  std::ofstream(dir.path("scheduling")) << R"({"nodeSelector": {"pool": "boxes"}, "priorityClassName": "low"})";
  Gatekeeper gate({"--image-pull-secret", "registry", "--image-pull-secret", "mirror", "--pod-label", "team=a", "--pod-label",
                   "example.com/cost-center=7", "--scheduling", dir.path("scheduling"), "--run-as-user", "1234", "--run-as-group",
                   "5678", "--termination-grace", "60", "--no-port-ranges"});
  const auto [pod, policy] = gate.made(kNothing);
  const Json& spec = pod["spec"];
  CHECK(spec["imagePullSecrets"] == Json::parse(R"([{"name": "registry"}, {"name": "mirror"}])"));
  CHECK(spec["nodeSelector"]["pool"] == "boxes");
  CHECK(spec["priorityClassName"] == "low");
  CHECK(spec["securityContext"]["runAsUser"] == 1234);
  CHECK(spec["securityContext"]["runAsGroup"] == 5678);
  CHECK(spec["terminationGracePeriodSeconds"] == 60);
  for (const char* kind : {"Pod", "NetworkPolicy"}) {
    const Json labels = gate.cluster.made(kind).back()["metadata"]["labels"];
    CHECK(labels["team"] == "a");
    CHECK(labels["example.com/cost-center"] == "7");
    CHECK(labels["app.kubernetes.io/managed-by"] == "cwsandbox");
  }
  constexpr const char* kRange = R"({"network": {"egress": [{"any": true, "ports": [{"port": 443, "endPort": 444}]}]}})";
  gate.refuses(kRange, 501, "sandbox.spec.network");

  Gatekeeper open({"--no-network-policies"}, "export CWSANDBOXD_POD_LABEL='team=a tier=b' CWSANDBOXD_RUN_AS_USER=77");
  CHECK_THAT(open.daemon.log(), Contains("--no-network-policies"));
  open.refuses(R"({"network": {"egress": [{"any": true}]}})", 501, "sandbox.spec.network");
  REQUIRE(open.create(kNothing).status == 200);
  REQUIRE(eventually([&] { return !open.cluster.made("Pod").empty(); }));
  const Json made = open.cluster.made("Pod").back();
  CHECK(made["metadata"]["labels"]["tier"] == "b");
  CHECK(made["spec"]["securityContext"]["runAsUser"] == 77);
  CHECK(open.cluster.made("NetworkPolicy").empty());
}

TEST_CASE("ceilings that make no sense stop the start, by the option's name", "[gateway][daemon][kubernetes]") {
  FakeCluster cluster;
  const auto complains = [&](const std::vector<std::string>& options, const std::string& what) {
    TempDir dir;
    std::vector<std::string> all = with_cluster(cluster, options);
    all.insert(all.begin(), {program(), "--listen", "unix:" + dir.path("socket"), "--no-token"});
    Child child(all, dir.path("log"));
    CHECK(child.wait() == 2);
    CHECK_THAT(read_file(dir.path("log")), Contains(what));
  };
  complains({"--allow-egress", "10.0.0.1/8"}, "--allow-egress");
  complains({"--deny-egress", "metadata"}, "\"metadata\": not a block of addresses");
  complains({"--gpu-resource", "h100"}, "--gpu-resource");
  complains({"--max-volume-size", "much"}, "--max-volume-size");
  complains({"--max-memory", "64MiB", "--request-memory", "65MiB"}, "--request-memory is more than --max-memory");
  complains({"--max-cpu", "1", "--request-cpu", "2"}, "--request-cpu is more than --max-cpu");
  complains({"--pod-label", "team"}, "--pod-label: \"team\": expected NAME=VALUE");
  complains({"--pod-label", "a*b=c"}, "the label \"a*b\" has a name that is none");
  complains({"--pod-label", "a=b*c"}, "the label \"a\" has a value that is none");
  complains({"--pod-label", "cwsandbox.dev/sandbox=x"}, "is set by the gateway");
  complains({"--run-as-user", "0"}, "--run-as-user");
  complains({"--no-network-policies", "--egress", "any"}, "--egress");
  TempDir dir;
  complains({"--scheduling", dir.path("nowhere")}, "--scheduling: cannot open");
  std::ofstream(dir.path("text")) << "nodeSelector: {}";
  complains({"--scheduling", dir.path("text")}, "is not JSON");
  std::ofstream(dir.path("more")) << R"({"hostNetwork": true})";
  complains({"--scheduling", dir.path("more")}, "the scheduling of pods may not set \"hostNetwork\"");
}
