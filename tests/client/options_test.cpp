// What a sandbox can be asked to have: exact JSON, value rules, defaults.
#include "scripted_server.hpp"
#include "support.hpp"

using namespace support;
using namespace cwsandbox;
using nlohmann::json;

namespace {

/// The spec that a server gets.
json spec_of(const SandboxOptions& options) {
  ScriptedServer server;
  server.reply("CreateSandbox", ScriptedServer::sandbox("sb-1", "STATE_RUNNING"));
  const auto sandbox = Sandbox::run(Client(server.options()), options);
  sandbox.start().result();
  sandbox.release();
  return server.requests("CreateSandbox").at(0).json()["sandbox"]["spec"];
}
json container_of(const SandboxOptions& options) { return spec_of(options)["containers"][0]; }

/// What is said about options that cannot be right.
std::string refusal(const SandboxOptions& options) {
  try {
    static_cast<void>(Session(Client(ClientOptions().with_base_url("local:"))).sandbox(options));
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "(accepted)";
}
bool refused(const SandboxOptions& options, const std::string& field) { return refusal(options).find(field) != std::string::npos; }
bool accepted(const SandboxOptions& options) { return refusal(options) == "(accepted)"; }

SandboxOptions egress(NetworkRule rule) { return SandboxOptions().with_network(NetworkOptions().with_egress(std::move(rule))); }

}  // namespace

TEST_CASE("the plain options on the wire", "[LC-20]") {
  auto options = SandboxOptions().with_image("img").with_command({"a", "b", "c"}).with_env("K", "V").with_working_dir("/w");
  options.with_tag("t").with_annotation("n", "v").with_max_lifetime(90s).with_runner_id("r").with_instance_type("big");
  options.with_mode(SandboxMode::cks).with_runtime_class("kata");
  CHECK(spec_of(options) == json::parse(R"({
    "containers": [{"name": "main", "image": "img", "command": "a", "args": ["b", "c"], "environmentVariables": {"K": "V"},
                    "workingDir": "/w"}],
    "primaryContainer": "main", "tags": ["t"], "annotations": {"n": "v"}, "maxLifetimeSeconds": 90, "runnerIds": ["r"],
    "instanceType": "big", "mode": "SANDBOX_MODE_CKS", "runtimeClass": "kata"})"));
}

TEST_CASE("resources: flat, or requests and limits apart", "[LC-20]") {
  CHECK(container_of(SandboxOptions().with_resources(Resources().with_cpu("2").with_memory("512Mi")))["resourceRequirements"] ==
        json::parse(R"({"requests": {"cpu": "2", "memory": "512Mi"}, "limits": {"cpu": "2", "memory": "512Mi"}})"));
  auto apart = Resources().with_requests(ResourceAmounts().with_cpu("500m")).with_limits(ResourceAmounts().with_memory("1.5G"));
  apart.with_gpu(Gpu(2).with_type("H100"));
  CHECK(container_of(SandboxOptions().with_resources(apart))["resourceRequirements"] == json::parse(R"({
    "requests": {"cpu": "500m", "gpu": {"count": "2", "type": "H100"}},
    "limits": {"memory": "1.5G", "gpu": {"count": "2", "type": "H100"}}})"));
  for (const char* bad : {"two", "-1", "0", "1 G", "1Q", "1.2.3", ".", "1e", "Mi", "0.0"}) {
    INFO(bad);
    CHECK(refused(SandboxOptions().with_resources(Resources().with_cpu(bad)), "resources.requests.cpu"));
    CHECK(refused(SandboxOptions().with_resources(Resources().with_limits(ResourceAmounts().with_memory(bad))),
                  "resources.limits.memory"));
  }
  for (const char* good : {"1", ".5", "1e3", "2E-1", "100m", "3Ki", "7E"}) {
    INFO(good);
    CHECK(accepted(SandboxOptions().with_resources(Resources().with_cpu(good))));
  }
  CHECK(refused(SandboxOptions().with_resources(Resources().with_gpu(Gpu(0))), "gpu.count"));
  CHECK(refused(SandboxOptions().with_resources(Resources().with_gpu(Gpu().with_type("A").with_memory_gb(80))), "resources.gpu"));
}

TEST_CASE("files at the start, secrets, image credentials, security", "[LC-20]") {
  auto options = SandboxOptions().with_file(FileMount("/etc/motd", std::string("a\0b", 3)));
  options.with_secret(Secret("vault", "TOKEN")).with_secret(Secret("other", "x").with_field("f").with_env_var("X"));
  options.with_secret(Secret("vault", "b").with_env_var("B"));
  options.with_image_pull_credentials(ImagePullCredentials("ghcr.io", "vault", "pull").with_field("p"));
  options.with_security_context(
      SecurityContext().with_run_as_user(0).with_privileged(false).with_capability_dropped("ALL").with_seccomp_profile("x"));
  const auto container = container_of(options);
  CHECK(container["files"] == json::parse(R"([{"path": "/etc/motd", "content": "YQBi"}])"));
  CHECK(container["secretStores"] == json::parse(R"([
    {"storeName": "vault", "secrets": [{"path": "TOKEN", "envVar": "TOKEN"}, {"path": "b", "envVar": "B"}]},
    {"storeName": "other", "secrets": [{"path": "x", "field": "f", "envVar": "X"}]}])"));
  CHECK(container["imagePullCredentials"] ==
        json::parse(R"({"registry": "ghcr.io", "credentials": {"storeName": "vault", "path": "pull", "field": "p"}})"));
  CHECK(container["securityContext"] ==
        json::parse(R"({"runAsUser": 0, "privileged": false, "capabilitiesDrop": ["ALL"], "seccompProfile": "x"})"));

  for (const char* bad : {"", "relative", "/dir/"}) CHECK(refused(SandboxOptions().with_file(FileMount(bad, "")), "files[0].path"));
  CHECK(refused(SandboxOptions().with_file(FileMount("/a", "")).with_file(FileMount("/a", "")), "files[1].path"));
  CHECK(refused(SandboxOptions().with_secret(Secret("", "n")), "secrets[0].store"));
  CHECK(refused(SandboxOptions().with_secret(Secret("s", "")), "secrets[0].name"));
  CHECK(refused(SandboxOptions().with_secret(Secret("s", "n").with_env_var("")), "secrets[0].env_var"));
  CHECK(refused(SandboxOptions().with_image_pull_credentials(ImagePullCredentials("", "s", "n")), "credentials.registry"));
  CHECK(refused(SandboxOptions().with_image_pull_credentials(ImagePullCredentials("r", "", "n")), "credentials.store"));
  CHECK(refused(SandboxOptions().with_image_pull_credentials(ImagePullCredentials("r", "s", "")), "credentials.name"));
}

TEST_CASE("services", "[LC-20]") {
  auto options = SandboxOptions().with_service(Service(8080).with_name("web").with_visibility(Visibility::public_).with_endpoint());
  options.with_service(Service(53).with_protocol(ServiceProtocol::udp));
  CHECK(spec_of(options)["services"] == json::parse(R"([
    {"port": 8080, "name": "web", "visibility": "VISIBILITY_PUBLIC",
     "endpoint": {"kind": "ENDPOINT_KIND_HTTPS", "auth": "ENDPOINT_AUTH_OPEN"}},
    {"port": 53, "protocol": "SERVICE_PROTOCOL_UDP"}])"));
  for (const int bad : {0, -1, 65536}) CHECK(refused(SandboxOptions().with_service(Service(bad)), "services[0].port"));
  CHECK(accepted(SandboxOptions().with_service(Service(1)).with_service(Service(65535))));
  CHECK(refused(SandboxOptions().with_service(Service(80).with_endpoint()), "services[0].endpoint needs the visibility"));
  CHECK(refused(SandboxOptions().with_service(Service(80).with_visibility(Visibility::private_).with_endpoint()), "visibility"));
  CHECK(refused(SandboxOptions().with_service(
                    Service(80).with_visibility(Visibility::public_).with_protocol(ServiceProtocol::udp).with_endpoint()),
                "services[0].endpoint needs the protocol"));
  CHECK(accepted(SandboxOptions().with_service(
      Service(80).with_visibility(Visibility::public_).with_protocol(ServiceProtocol::tcp).with_endpoint())));
}

TEST_CASE("the network", "[LC-20]") {
  auto network = NetworkOptions().with_egress_name("*.PyPI.org").with_egress(NetworkRule::block("10.0.0.0/8", {"10.1.0.0/16"}));
  network.with_egress(NetworkRule::any().with_port(PortRange(443).with_protocol("TCP")));
  network.with_egress(NetworkRule::selector({{"app", "db"}}, {}));
  network.with_ingress(NetworkRule::tenant(TenantScope::same_org).with_port(PortRange(8000, 9000)));
  network.with_deny_egress(false);
  CHECK(spec_of(SandboxOptions().with_network(network))["network"] == json::parse(R"({
    "egress": [{"httpsHostname": "*.pypi.org"}, {"cidr": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
               {"any": true, "ports": [{"protocol": "TCP", "port": 443}]}, {"selector": {"podLabels": {"app": "db"}}}],
    "ingress": [{"tenant": "TENANT_SCOPE_SAME_ORG", "ports": [{"port": 8000, "endPort": 9000}]}],
    "denyEgress": false})"));
  const std::string label(63, 'a');
  const std::string longest = label + "." + label + "." + label + "." + std::string(61, 'a');
  for (const std::string& good : {std::string("a"), std::string("a-b.c1"), std::string("*.a"), longest})
    CHECK(accepted(egress(NetworkRule::name(good))));
  for (const std::string& bad : {std::string(), std::string("*"), std::string("*."), std::string("a.*.b"), std::string("**.a"),
                                 std::string("-a"), std::string("a-"), std::string("a..b"), std::string("a."), std::string("a_b"),
                                 std::string(64, 'a'), longest + "a", "*." + longest})
    CHECK(refused(egress(NetworkRule::name(bad)), "network.egress[0].dns_name"));
  for (const char* bad : {"", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "::/129", "x/8", "10.0.0.0/-1"})
    CHECK(refused(egress(NetworkRule::block(bad)), "network.egress[0].cidr"));
  CHECK(accepted(egress(NetworkRule::block("fd00::/8"))));
  CHECK(refused(egress(NetworkRule::any().with_port(PortRange(0))), "network.egress[0].ports"));
  CHECK(refused(egress(NetworkRule::any().with_port(PortRange(9, 8))), "network.egress[0].ports"));
  CHECK(refused(SandboxOptions().with_network(NetworkOptions().with_deny_egress(true).with_egress_name("a.b")), "deny_egress"));
  CHECK(refused(SandboxOptions().with_network(NetworkOptions().with_ingress(NetworkRule::name("a.b"))), "network.ingress[0]"));
  CHECK(spec_of(SandboxOptions().with_network(NetworkOptions().with_deny_egress(true)))["network"] == json({{"denyEgress", true}}));
}

TEST_CASE("volumes", "[LC-20]") {
  auto options =
      SandboxOptions().with_volume(Volume::scratch("tmp", "/scratch").with_size("10Gi").with_medium(StorageMedium::memory));
  options.with_volume(Volume::existing("vol-1", "data", "/data").with_read_only(true).with_sub_path("in"));
  options.with_volume(Volume::scratch("plain", "/plain"));
  const auto spec = spec_of(options);
  CHECK(spec["volumes"] == json::parse(R"([
    {"name": "tmp", "scratch": {"size": "10Gi", "medium": "STORAGE_MEDIUM_MEMORY"}}, {"name": "data", "volumeId": "vol-1"},
    {"name": "plain", "scratch": {}}])"));
  CHECK(spec["containers"][0]["volumeMounts"] == json::parse(R"([
    {"volume": "tmp", "mountPath": "/scratch"}, {"volume": "data", "mountPath": "/data", "readOnly": true, "subPath": "in"},
    {"volume": "plain", "mountPath": "/plain"}])"));
  CHECK(refused(SandboxOptions().with_volume(Volume::scratch("", "/a")), "volumes[0].name"));
  for (const char* bad : {"", "relative", "/", "//"})
    CHECK(refused(SandboxOptions().with_volume(Volume::scratch("a", bad)), "volumes[0].mount_path"));
  CHECK(refused(SandboxOptions().with_volume(Volume::existing("", "a", "/a")), "volumes[0].volume_id"));
  CHECK(refused(SandboxOptions().with_volume(Volume::existing("v", "a", "/a").with_size("1G")), "volumes[0] exists"));
  CHECK(refused(SandboxOptions().with_volume(Volume::scratch("a", "/a").with_size("big")), "volumes[0].size"));
  CHECK(refused(SandboxOptions().with_volume(Volume::scratch("a", "/a").with_sub_path("x/../..")), "volumes[0].sub_path"));
  CHECK(
      refused(SandboxOptions().with_volume(Volume::scratch("a", "/a")).with_volume(Volume::scratch("a", "/b")), "volumes[1].name"));
}

TEST_CASE("what the local runner cannot give is refused by name", "[LC-20]") {
  const auto sandbox = Sandbox::run(SandboxOptions().with_service(Service(80)));
  try {
    sandbox.start().result();
    FAIL("accepted");
  } catch (const CWSandboxError& error) {
    CHECK(error.code() == "unimplemented");
    CHECK(std::string(error.what()).find("services") != std::string::npos);
  }
}

TEST_CASE("defaults merge", "[LC-17]") {
  const SandboxDefaults base(SandboxOptions().with_image("base").with_env("A", "1").with_env("B", "1").with_working_dir("/w"));
  const auto more =
      base.with_tag("t1").with_tag("t2").with_annotation("x", "1").with_secret(Secret("s", "TOKEN")).with_max_lifetime(60s);
  CHECK(base.options().tags().empty());  // immutable
  auto explicit_options = SandboxOptions().with_env("B", "2").with_env("C", "2").with_tag("t2").with_tag("t3");
  explicit_options.with_annotation("x", "2")
      .with_annotation("y", "2")
      .with_secret(Secret("s", "TOKEN"))
      .with_secret(Secret("s", "KEY"));
  const auto merged = more.merge(explicit_options.with_command({"run"}));
  CHECK(merged.image() == "base");
  CHECK(merged.command() == std::vector<std::string>{"run"});
  CHECK(merged.env() == SandboxOptions::Map{{"A", "1"}, {"B", "2"}, {"C", "2"}});
  CHECK(merged.annotations() == SandboxOptions::Map{{"x", "2"}, {"y", "2"}});
  CHECK(merged.tags() == std::vector<std::string>{"t1", "t2", "t3"});
  CHECK(merged.secrets().size() == 2);
  CHECK(merged.max_lifetime() == 60s);
  CHECK(merged.working_dir() == "/w");
  CHECK(more.merge(SandboxOptions().with_image("mine").with_max_lifetime(5s)).image() == "mine");
  CHECK_THROWS_AS(more.merge(SandboxOptions().with_secret(Secret("other", "TOKEN"))), std::invalid_argument);
  CHECK(refused(SandboxOptions().with_secret(Secret("a", "x").with_env_var("V")).with_secret(Secret("b", "x").with_env_var("V")),
                "wanted by two"));
}
