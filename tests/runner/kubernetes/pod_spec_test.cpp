// A sandbox as a pod and its policy, and what a pod says of its sandbox: against objects written by hand from the API's reference.
#include "runner/kubernetes/pod_spec.hpp"
#include "runner/kubernetes/pod_view.hpp"
#include "support/catch.hpp"

#include <chrono>
#include <functional>
#include <string>

using namespace cwsandbox::runner;
using namespace cwsandbox::runner::kubernetes;
using namespace std::chrono_literals;
using Strings = std::vector<std::string>;
using Rules = std::vector<EgressRule>;

namespace {

constexpr const char* kKey = "00112233445566778899aabbccddeeff";

PodOptions options() {
  PodOptions out;
  out.name_space = "boxes";
  out.agent_image = "agent:1";
  out.default_image = "debian:12";
  return out;
}

SandboxSpec sandbox() {
  SandboxSpec out;
  out.id = "sb-1";
  out.command = {"sleep", "1"};
  out.env = {{"PLAIN", "value"}};
  out.record = R"({"v":1})";
  return out;
}

Json make(const SandboxSpec& spec, const PodOptions& with = options()) { return make_pod(spec, kKey, with); }

Json main_of(const Json& pod) { return pod["spec"]["containers"][0]; }

std::string code_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const RunnerError& error) {
    return std::string(cwsandbox::base::to_string(error.code()));
  }
  return "";
}

}  // namespace

TEST_CASE("a plain sandbox is a restricted pod that runs the agent", "[kubernetes]") {
  CHECK(make(sandbox()) == Json::parse(R"({
    "apiVersion": "v1", "kind": "Pod",
    "metadata": {
      "name": "sb-1", "namespace": "boxes",
      "labels": {"app.kubernetes.io/managed-by": "cwsandbox", "cwsandbox.dev/sandbox": "sb-1"},
      "annotations": {"cwsandbox.dev/record": "{\"v\":1}", "cwsandbox.dev/key": "00112233445566778899aabbccddeeff"}
    },
    "spec": {
      "restartPolicy": "Never", "automountServiceAccountToken": false, "enableServiceLinks": false, "terminationGracePeriodSeconds": 30,
      "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
                          "seccompProfile": {"type": "RuntimeDefault"}},
      "initContainers": [{
        "name": "cwsandbox-agent", "image": "agent:1", "args": ["install", "/.cwsandbox"],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}},
        "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "cwsandbox-agent", "mountPath": "/.cwsandbox"}]
      }],
      "containers": [{
        "name": "main", "image": "debian:12",
        "command": ["/.cwsandbox/cwsandbox-agent", "serve", "--key", "00112233445566778899aabbccddeeff", "--stop-grace", "25000"],
        "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "cwsandbox-agent", "mountPath": "/.cwsandbox", "readOnly": true},
                         {"name": "cwsandbox-workspace", "mountPath": "/workspace"},
                         {"name": "cwsandbox-home", "mountPath": "/home/sandbox"},
                         {"name": "cwsandbox-tmp", "mountPath": "/tmp"}]
      }],
      "volumes": [{"name": "cwsandbox-agent", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
                  {"name": "cwsandbox-workspace", "emptyDir": {"sizeLimit": "1073741824"}},
                  {"name": "cwsandbox-home", "emptyDir": {"sizeLimit": "1073741824"}},
                  {"name": "cwsandbox-tmp", "emptyDir": {"sizeLimit": "1073741824"}}]
    }
  })"));
}

TEST_CASE("what a sandbox asks for is in its pod", "[kubernetes]") {
  SandboxSpec spec = sandbox();
  spec.image = "mine:2";
  spec.resources.memory_limit = 512u << 20;
  spec.resources.memory_request = 256u << 20;
  spec.resources.cpu_limit = 2000;
  spec.resources.cpu_request = 250;
  spec.resources.gpus = 2;
  spec.max_lifetime = 60s;
  spec.runtime_class = "gvisor";
  spec.volumes = {{"data", 1u << 20, false}, {"fast", std::nullopt, true}};
  spec.mounts = {{"data", "/workspace", "", false}, {"fast", "/fast", "in/out", true}};
  spec.secrets = {{"PASSWORD", "db", "password"}};
  spec.ports = {{80, "web", PortProtocol::tcp}, {53, "a-name-that-is-too-long", PortProtocol::udp}};
  spec.tags = {"a b", "c"};
  spec.annotations = {{"team", "x y"}};
  PodOptions with = options();
  with.runtime_classes = {"gvisor"};
  with.secrets = {"db"};
  with.image_pull_policy = with.agent_pull_policy = "Never";
  with.image_pull_secrets = {"registry"};
  with.labels = {{"cost", "research"}, {"app.kubernetes.io/managed-by", "somebody else"}};
  with.max_volume_size = 1ull << 30;
  with.scheduling = {{"nodeSelector", {{"pool", "sandboxes"}}}};
  CHECK(refused(spec, with).empty());
  const Json pod = make(spec, with);
  CHECK(pod["metadata"]["labels"] == Json::parse(R"({"cost": "research", "app.kubernetes.io/managed-by": "cwsandbox",
    "cwsandbox.dev/sandbox": "sb-1"})"));
  CHECK(pod["metadata"]["annotations"]["cwsandbox.dev/tags"] == R"(["a b","c"])");
  CHECK(pod["metadata"]["annotations"]["annotations.cwsandbox.dev/team"] == "x y");
  CHECK(pod["spec"]["nodeSelector"] == Json::parse(R"({"pool": "sandboxes"})"));
  CHECK(pod["spec"]["activeDeadlineSeconds"] == 660);
  CHECK(pod["spec"]["runtimeClassName"] == "gvisor");
  CHECK(pod["spec"]["imagePullSecrets"] == Json::parse(R"([{"name": "registry"}])"));
  CHECK(pod["spec"]["initContainers"][0]["imagePullPolicy"] == "Never");
  // The sandbox's own volume takes the place of ours.
  CHECK(pod["spec"]["volumes"] == Json::parse(R"([
    {"name": "cwsandbox-agent", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
    {"name": "cwsandbox-home", "emptyDir": {"sizeLimit": "1073741824"}},
    {"name": "cwsandbox-tmp", "emptyDir": {"sizeLimit": "1073741824"}},
    {"name": "data", "emptyDir": {"sizeLimit": "1048576"}},
    {"name": "fast", "emptyDir": {"medium": "Memory", "sizeLimit": "1073741824"}}])"));
  CHECK(main_of(pod) == Json::parse(R"({
    "name": "main", "image": "mine:2", "imagePullPolicy": "Never",
    "command": ["/.cwsandbox/cwsandbox-agent", "serve", "--key", "00112233445566778899aabbccddeeff", "--stop-grace", "25000"],
    "env": [{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}],
    "ports": [{"containerPort": 80, "protocol": "TCP", "name": "web"}, {"containerPort": 53, "protocol": "UDP"}],
    "resources": {"limits": {"memory": "536870912", "cpu": "2000m", "nvidia.com/gpu": "2"},
                  "requests": {"memory": "268435456", "cpu": "250m", "nvidia.com/gpu": "2"}},
    "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
    "volumeMounts": [{"name": "cwsandbox-agent", "mountPath": "/.cwsandbox", "readOnly": true},
                     {"name": "cwsandbox-home", "mountPath": "/home/sandbox"}, {"name": "cwsandbox-tmp", "mountPath": "/tmp"},
                     {"name": "data", "mountPath": "/workspace"},
                     {"name": "fast", "mountPath": "/fast", "subPath": "in/out", "readOnly": true}]
  })"));
}

TEST_CASE("the maxima are the limits of who asks for none, and the requests are for who asks for nothing", "[kubernetes][KU-1]") {
  PodOptions with = options();
  with.resources.memory_limit = 4u << 20;
  with.resources.memory_request = 1u << 20;
  with.resources.cpu_limit = 2000;
  with.resources.cpu_request = 100;
  with.runtime_class = "kata";
  SandboxSpec spec = sandbox();
  CHECK(main_of(make(spec, with))["resources"] == Json::parse(R"({"limits": {"memory": "4194304", "cpu": "2000m"},
                                                                  "requests": {"memory": "1048576", "cpu": "100m"}})"));
  CHECK(make(spec, with)["spec"]["runtimeClassName"] == "kata");
  // Who asks for a part to be set aside has a limit all the same; the limit of who asks for one is set aside by the cluster.
  spec.resources.memory_request = 2u << 20;
  spec.resources.cpu_limit = 50;
  CHECK(main_of(make(spec, with))["resources"] ==
        Json::parse(R"({"limits": {"memory": "4194304", "cpu": "50m"}, "requests": {"memory": "2097152"}})"));
  CHECK(refused(spec, with).empty());
  with.resources.memory_limit = 1u << 19;
  spec.resources.memory_request.reset();
  CHECK(main_of(make(spec, with))["resources"]["requests"]["memory"] == "524288");
  // Without maxima a pod asks for nothing.
  CHECK_FALSE(main_of(make(sandbox())).contains("resources"));
  with.gpu_resources = {{"h100", "nvidia.com/h100"}};
  spec.resources.gpus = 1;
  spec.resources.gpu_type = "h100";
  CHECK(main_of(make(spec, with))["resources"]["limits"]["nvidia.com/h100"] == "1");

  const auto beyond = [](const std::function<void(ResourceSpec&)>& ask) {
    PodOptions bounded = options();
    bounded.resources.memory_limit = 4u << 20;
    bounded.resources.cpu_limit = 2000;
    SandboxSpec greedy = sandbox();
    ask(greedy.resources);
    return refused(greedy, bounded);
  };
  CHECK(beyond([](auto& asked) { asked.memory_limit = 4u << 20, asked.cpu_request = 2000; }).empty());
  CHECK(beyond([](auto& asked) { asked.memory_limit = (4u << 20) + 1; }) == Strings{"resources.memory_limit"});
  CHECK(beyond([](auto& asked) { asked.memory_request = (4u << 20) + 1; }) == Strings{"resources.memory_request"});
  CHECK(beyond([](auto& asked) { asked.cpu_limit = 2001; }) == Strings{"resources.cpu_limit"});
  CHECK(beyond([](auto& asked) { asked.cpu_request = 2001; }) == Strings{"resources.cpu_request"});
}

TEST_CASE("what a pod cannot have is refused by the member's name", "[kubernetes][KU-3]") {
  const auto refusals = [](const std::function<void(SandboxSpec&, PodOptions&)>& change) {
    SandboxSpec spec = sandbox();
    PodOptions with = options();
    change(spec, with);
    return refused(spec, with);
  };
  CHECK(refusals([](auto&, auto&) {}).empty());
  CHECK(refusals([](auto&, auto& with) { with.default_image.clear(); }) == Strings{"image"});
  CHECK(refusals([](auto& spec, auto&) { spec.resources.gpus = 1, spec.resources.gpu_type = "h100"; }) ==
        Strings{"resources.gpu_type"});
  CHECK(refusals([](auto& spec, auto& with) { spec.resources.gpus = 1, with.gpu_resources.clear(); }) == Strings{"resources.gpus"});
  CHECK(refusals([](auto& spec, auto&) { spec.volumes = {{"cwsandbox-agent", std::nullopt, false}}; }) ==
        Strings{"volumes[0].name"});
  CHECK(refusals([](auto& spec, auto& with) { spec.volumes = {{"u", 1, false}, {"v", 2, false}}, with.max_volume_size = 1; }) ==
        Strings{"volumes[1].size_limit"});
  for (const char* path : {"/.cwsandbox", "/.cwsandbox/x", "/dev/shm", "/proc", "/sys/fs"})
    CHECK(refusals([path](auto& spec, auto&) { spec.mounts = {{"v", path, "", false}}; }) == Strings{"mounts"});
  CHECK(refusals([](auto& spec, auto&) { spec.mounts = {{"v", "/device", "", false}}; }).empty());
  // Nobody names a Secret that the operator has not named first.
  CHECK(refusals([](auto& spec, auto&) { spec.secrets = {{"A", "any", "k"}}; }) == Strings{"secrets[0]"});
  CHECK(refusals([](auto& spec, auto& with) { spec.secrets = {{"A", "any", "k"}}, with.secrets.reset(); }).empty());
  CHECK(refusals([](auto& spec, auto& with) { spec.secrets = {{"A", "a", "k"}, {"B", "b", "k"}}, with.secrets = {"a"}; }) ==
        Strings{"secrets[1]"});
  CHECK(refusals([](auto& spec, auto& with) {
          spec.egress = Rules{EgressRule{"10.0.0.0/8", {}, {}}, EgressRule{"11.0.0.0/8", {}, {}}},
          with.egress_ceiling = parse_ceiling({"10.0.0.0/8"}, {});
        }) == Strings{"egress[1]"});
  // What makes no sense at all the gateway says in other words.
  CHECK(refusals([](auto& spec, auto&) {
          spec.egress = Rules{EgressRule{"no block", {}, {}}, EgressRule{"", {}, {{PortProtocol::tcp, 9, 1}}}};
        }).empty());
  CHECK(refusals([](auto& spec, auto& with) { spec.egress.emplace(), with.network_policies = false; }) == Strings{"egress"});
  const EgressRule port = {"", {}, {{PortProtocol::tcp, 80, 80}}}, range = {"", {}, {{PortProtocol::tcp, 80, 90}}};
  const auto old_cluster = [&](const EgressRule& rule) {
    return refusals([&](auto& spec, auto& with) { spec.egress = {rule}, with.port_ranges = false; });
  };
  CHECK(old_cluster(port).empty());
  CHECK(old_cluster(range) == Strings{"egress"});
  CHECK(refusals([](auto& spec, auto&) { spec.runtime_class = "runc"; }) == Strings{"runtime_class"});
  CHECK(refusals([](auto& spec, auto& with) { spec.runtime_class = with.runtime_class = "kata"; }).empty());
  for (const char* name : {"", "a/b", "-a", "a b", "a."})
    CHECK(refusals([name](auto& spec, auto&) { spec.annotations = {{name, ""}}; }) == Strings{"annotations"});
  CHECK(refusals([](auto& spec, auto&) { spec.annotations = {{"big", std::string(256 * 1024, 'x')}}; }) == Strings{"annotations"});

  for (const char* id : {"", "-a", "a-", "A", "a.b", "a/b"}) CHECK(code_of([id] { (void)object_name(id); }) == "invalid_argument");
  CHECK(code_of([] { (void)object_name(std::string(64, 'a')); }) == "invalid_argument");
  CHECK(object_name("sb-0123") == "sb-0123");
  CHECK(code_of([] { check_scheduling({{"hostNetwork", true}}); }) == "invalid_argument");
  CHECK(code_of([] { check_scheduling(Json::array()); }) == "invalid_argument");
  CHECK_NOTHROW(check_scheduling({{"tolerations", Json::array()}, {"nodeSelector", Json::object()}}));
}

TEST_CASE("a policy says who may talk to whom", "[kubernetes][KU-2]") {
  SandboxSpec spec = sandbox();
  PodOptions with = options();
  // Nothing was asked for: nothing gets in or out.
  CHECK(make_network_policy(spec, "u-1", with) == Json::parse(R"({
    "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
    "metadata": {"name": "sb-1", "namespace": "boxes",
                 "labels": {"app.kubernetes.io/managed-by": "cwsandbox", "cwsandbox.dev/sandbox": "sb-1"},
                 "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "sb-1", "uid": "u-1"}]},
    "spec": {"podSelector": {"matchLabels": {"cwsandbox.dev/sandbox": "sb-1"}}, "policyTypes": ["Ingress", "Egress"],
             "ingress": [], "egress": []}
  })"));
  const Json all = Json::parse(R"([
    {"to": [{"namespaceSelector": {}}]},
    {"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32"]}}]},
    {"to": [{"ipBlock": {"cidr": "::/0", "except": ["fe80::/10", "64:ff9b::a9fe:0/112", "fd00:ec2::/32", "fd20:ce::254/128"]}}]}])");
  spec.ports = {{80, "web", PortProtocol::tcp}};
  spec.egress = Rules{EgressRule{"10.0.0.0/8", {"10.1.0.0/16"}, {{PortProtocol::udp, 53, 53}, {PortProtocol::tcp, 80, 90}}}};
  CHECK((*make_network_policy(spec, "u-1", with))["spec"] == Json::parse(R"({
    "podSelector": {"matchLabels": {"cwsandbox.dev/sandbox": "sb-1"}}, "policyTypes": ["Ingress", "Egress"],
    "ingress": [{"ports": [{"protocol": "TCP", "port": 80}]}],
    "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
                "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 80, "endPort": 90}]}]
  })"));
  spec.egress = Rules(1);
  CHECK((*make_network_policy(spec, "u-1", with))["spec"]["egress"] == all);
  spec.egress.reset();
  with.egress = Rules(1);  // the operator's default: all that there may be
  CHECK((*make_network_policy(spec, "u-1", with))["spec"]["egress"] == all);
  with.egress_ceiling = parse_ceiling({"10.0.0.0/8=tcp:443"}, {"10.1.0.0/16"});
  const Json ceiling = Json::parse(R"([{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
                                        "ports": [{"protocol": "TCP", "port": 443}]}])");
  CHECK((*make_network_policy(spec, "u-1", with))["spec"]["egress"] == ceiling);
  spec.egress = Rules(1);
  CHECK((*make_network_policy(spec, "u-1", with))["spec"]["egress"] == ceiling);
  // Should anything come here that was refused, it gets nobody out.
  spec.egress = Rules{EgressRule{"11.0.0.0/8", {}, {}}};
  CHECK((*make_network_policy(spec, "u-1", with))["spec"]["egress"] == Json::array());
  with.network_policies = false;
  CHECK_FALSE(make_network_policy(spec, "u-1", with));
}

namespace {

Json pod_with(const std::string& status) {
  Json pod = make(sandbox());
  pod["metadata"]["uid"] = "u-1";
  pod["metadata"]["resourceVersion"] = "17";
  pod["metadata"]["creationTimestamp"] = "2026-11-22T00:30:00Z";
  pod["status"] = Json::parse(status);
  return pod;
}

constexpr const char* kInstalled =
    R"("initContainerStatuses":[{"name":"cwsandbox-agent","state":{"terminated":{"exitCode":0,"reason":"Completed"}}}])";

/// A pod whose main container has ended, its termination message that.
PodView ended_with(const std::string& message, int code, const std::string& reason) {
  Json terminated = {{"exitCode", code}, {"reason", reason}, {"finishedAt", "2026-11-22T00:31:00Z"}};
  if (!message.empty()) terminated["message"] = message;
  Json pod = pod_with(std::string(R"({"phase":"Failed",)") + kInstalled + "}");
  const Json state = {{"terminated", terminated}};
  pod["status"]["containerStatuses"] = Json::array({{{"name", "main"}, {"state", state}}});
  return read_pod(pod);
}

}  // namespace

TEST_CASE("a pod without the agent runs the command itself, with nothing put in for its dollars", "[kubernetes]") {
  PodOptions plain = options();
  plain.plain = true;
  SandboxSpec spec = sandbox();
  spec.command = {"sh", "-c", "echo $(PLAIN) $$ $HOME"};
  spec.env["PRICE"] = "$(PLAIN)";
  const Json pod = make(spec, plain);
  CHECK_FALSE(pod["spec"].contains("initContainers"));
  CHECK(pod["metadata"]["annotations"] == Json::parse(R"({"cwsandbox.dev/record": "{\"v\":1}", "cwsandbox.dev/agent": "none"})"));
  const Json main = main_of(pod);
  CHECK(main["command"] == Json::parse(R"(["sh", "-c", "echo $$(PLAIN) $$$$ $$HOME"])"));
  CHECK(main["workingDir"] == "/workspace");
  CHECK(main["env"] == Json::parse(R"j([{"name": "HOME", "value": "/home/sandbox"}, {"name": "PLAIN", "value": "value"},
                                               {"name": "PRICE", "value": "$$(PLAIN)"}])j"));
  for (const Json& volume : pod["spec"]["volumes"]) CHECK(volume["name"] != "cwsandbox-agent");
  for (const Json& mounted : main["volumeMounts"]) CHECK(mounted["name"] != "cwsandbox-agent");
  CHECK(refused(spec, plain).empty());
  spec.files.push_back({"/workspace/f", "x"});
  CHECK(refused(spec, plain) == Strings{"files"});
  CHECK(refused(spec, options()).empty());
}

TEST_CASE("a pod without the agent ends as its container did", "[kubernetes]") {
  const auto ended = [](const char* terminated) {
    Json pod = make(sandbox());
    pod["metadata"]["annotations"]["cwsandbox.dev/agent"] = "none";
    pod["status"] = Json::parse(std::string(R"({"phase":"Failed","containerStatuses":[{"name":"main","state":{"terminated":)") +
                                terminated + "}}]}");
    return read_pod(pod);
  };
  const PodView three =
      ended(R"({"exitCode":3,"reason":"Error","finishedAt":"2026-11-22T00:31:00Z","message":"{\"kind\":\"exited\",\"value\":0}"})");
  CHECK(three.plain);
  REQUIRE(three.exit);
  CHECK(three.exit->kind == ExitInfo::Kind::exited);
  CHECK(three.exit->value == 3);
  CHECK(three.exit->time == std::chrono::sys_days(std::chrono::year(2026) / 11 / 22) + 31min);
  const PodView killed = ended(R"({"exitCode":137,"reason":"OOMKilled"})");
  REQUIRE(killed.exit);
  CHECK(killed.exit->kind == ExitInfo::Kind::signaled);
  CHECK(killed.exit->out_of_memory);
  const PodView never = ended(R"({"exitCode":128,"reason":"StartError","message":"no such file"})");
  REQUIRE(never.exit);
  CHECK(never.exit->kind == ExitInfo::Kind::lost);
  CHECK(never.reason == "StartError: no such file");
}

TEST_CASE("a pod on its way says what it waits for", "[kubernetes]") {
  using Wait = PodView::Wait;
  const PodView fresh = read_pod(pod_with(R"({"phase":"Pending"})"));
  CHECK(fresh.name == "sb-1");
  CHECK(fresh.uid == "u-1");
  CHECK(fresh.resource_version == "17");
  CHECK(fresh.sandbox == "sb-1");
  CHECK(fresh.record == R"({"v":1})");
  CHECK(fresh.key == kKey);
  CHECK(fresh.phase == "Pending");
  CHECK(fresh.node.empty());
  CHECK(fresh.created == std::chrono::sys_days(std::chrono::year(2026) / 11 / 22) + 30min);
  CHECK(fresh.state == Found::State::creating);
  CHECK(fresh.wait == Wait::normal);
  CHECK_FALSE(fresh.exit);

  const PodView homeless = read_pod(pod_with(R"({"phase":"Pending","conditions":[{"type":"PodScheduled","status":"False",
    "reason":"Unschedulable","message":"0/1 nodes are available:\n1 Insufficient cpu."}]})"));
  CHECK(homeless.wait == Wait::failing);
  CHECK(homeless.reason == "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu.");

  const auto waiting = [](const std::string& of, const std::string& reason) {
    const std::string state = R"("state":{"waiting":{"reason":")" + reason + R"(","message":"m"}}}])";
    if (of == "main")
      return read_pod(
          pod_with(std::string(R"({"phase":"Pending",)") + kInstalled + R"(,"containerStatuses":[{"name":"main",)" + state + "}"));
    return read_pod(pod_with(R"({"phase":"Pending","initContainerStatuses":[{"name":"cwsandbox-agent",)" + state +
                             R"(,"containerStatuses":[{"name":"main","state":{"waiting":{"reason":"PodInitializing"}}}]})"));
  };
  CHECK(waiting("init", "PodInitializing").wait == Wait::normal);
  CHECK(waiting("init", "ErrImagePull").wait == Wait::failing);
  CHECK(waiting("main", "PodInitializing").wait == Wait::normal);
  CHECK(waiting("main", "PodInitializing").agent_installed);
  for (const char* reason : {"ErrImagePull", "ImagePullBackOff", "CreateContainerConfigError"}) {
    CHECK(waiting("main", reason).wait == Wait::failing);
    CHECK(waiting("main", reason).reason == std::string(reason) + ": m");
  }
  CHECK(waiting("main", "InvalidImageName").wait == Wait::final);
  CHECK(waiting("main", "ErrImageNeverPull").wait == Wait::final);
}

TEST_CASE("a pod says that it runs, and that it goes", "[kubernetes]") {
  const std::string status =
      std::string(R"({"phase":"Running",)") + kInstalled + R"(,"containerStatuses":[{"name":"main","state":{"running":{}}}]})";
  Json pod = pod_with(status);
  pod["spec"]["nodeName"] = "n-1";
  CHECK(read_pod(pod).state == Found::State::running);
  CHECK(read_pod(pod).wait == PodView::Wait::none);
  CHECK(read_pod(pod).node == "n-1");
  pod["metadata"]["deletionTimestamp"] = "2026-11-22T00:30:30Z";
  CHECK(read_pod(pod).deleting);
  CHECK(read_pod(pod).state == Found::State::stopping);
  // Its time has passed: the phase is there before the container's end is.
  Json late = pod_with(status);
  late["status"]["phase"] = "Failed";
  late["status"]["reason"] = "DeadlineExceeded";
  CHECK(read_pod(late).state == Found::State::stopping);
  CHECK(read_pod(late).reason == "DeadlineExceeded");
}

TEST_CASE("a pod says how its sandbox ended", "[kubernetes]") {
  using Kind = ExitInfo::Kind;
  const PodView exited = ended_with(R"({"kind":"exited","value":7,"timeMs":1795307460123})", 7, "Error");
  CHECK(exited.state == Found::State::ended);
  REQUIRE(exited.exit);
  CHECK(exited.exit->kind == Kind::exited);
  CHECK(exited.exit->value == 7);
  CHECK_FALSE(exited.exit->out_of_memory);
  CHECK(exited.exit->time == std::chrono::system_clock::time_point(1795307460123ms));
  CHECK(exited.reason.empty());

  const PodView killed = ended_with(R"({"kind":"signaled","value":9,"oom":true,"timeMs":1})", 137, "Error");
  CHECK(killed.exit->kind == Kind::signaled);
  CHECK(killed.exit->value == 9);
  CHECK(killed.exit->out_of_memory);
  CHECK_FALSE(ended_with(R"({"kind":"signaled","value":9,"timeMs":1})", 137, "Error").exit->out_of_memory);
  CHECK(ended_with(R"({"kind":"signaled","value":9,"timeMs":1})", 137, "OOMKilled").exit->out_of_memory);
  CHECK_FALSE(ended_with(R"({"kind":"exited","value":1,"timeMs":1})", 1, "OOMKilled").exit->out_of_memory);

  // PID 1 was killed before it could tell: the code is its own.
  const PodView lost = ended_with("", 137, "OOMKilled");
  CHECK(lost.exit->kind == Kind::lost);
  CHECK(lost.exit->out_of_memory);
  CHECK(lost.reason == "OOMKilled");
  CHECK(lost.exit->time == std::chrono::sys_days(std::chrono::year(2026) / 11 / 22) + 31min);
  CHECK(ended_with("", 1, "Error").reason == "the agent ended with code 1");
  CHECK(ended_with("no such file", 128, "StartError").reason == "StartError: no such file");

  for (const char* message :
       {"7", "[]", "{", R"({"kind":"exited"})", R"({"kind":"exited","value":256})", R"({"kind":"exited","value":"7"})",
        R"({"kind":"signaled","value":0})", R"({"kind":"slept","value":0})", R"({"kind":"exited","value":1e300})"})
    CHECK(ended_with(message, 7, "Error").exit->kind == Kind::lost);
  CHECK(ended_with(R"({"kind":"exited","value":0,"timeMs":9223372036854775807})", 0, "Completed").exit->time ==
        std::chrono::sys_days(std::chrono::year(2026) / 11 / 22) + 31min);

  // The kubelet has thrown it out, and its containers' states with it.
  const PodView evicted =
      read_pod(pod_with(R"({"phase":"Failed","reason":"Evicted","message":"Usage of EmptyDir volume exceeds the limit."})"));
  CHECK(evicted.state == Found::State::ended);
  CHECK(evicted.exit->kind == Kind::lost);
  CHECK(evicted.reason == "Evicted: Usage of EmptyDir volume exceeds the limit.");
  const PodView bad_agent = read_pod(pod_with(R"({"phase":"Failed","initContainerStatuses":[{"name":"cwsandbox-agent",
    "state":{"terminated":{"exitCode":1,"reason":"Error"}}}]})"));
  CHECK(bad_agent.state == Found::State::ended);
  CHECK(bad_agent.reason == "the agent could not be installed: Error");
}

TEST_CASE("what is no pod is a view of nothing", "[kubernetes]") {
  for (const char* text : {"null", "7", "[]", "{}", R"({"metadata":[],"status":7,"spec":"x"})",
                           R"({"metadata":{"name":7,"labels":[],"annotations":{"cwsandbox.dev/key":1}},"status":{"phase":{}}})",
                           R"({"status":{"containerStatuses":{},"initContainerStatuses":[7,{"name":3}],"conditions":[null]}})"}) {
    const PodView view = read_pod(Json::parse(text));
    CHECK(view.name.empty());
    CHECK(view.sandbox.empty());
    CHECK(view.state == Found::State::creating);
    CHECK_FALSE(view.exit);
  }
  // A message of any length is shown in part, never cut inside a character.
  std::string message;
  while (message.size() < 2000) message += "\xc3\xa9";
  const std::string reason = ended_with(message, 128, "Started").reason;
  CHECK(reason.size() < 600);
  CHECK_NOTHROW(Json(reason).dump());
}
