// What a request may ask for: fields that no runner is asked for are refused by their paths, and what is left becomes a runner's
// specification.
#include "gateway/errors.hpp"
#include "gateway/resources.hpp"
#include "gateway/sandbox_request.hpp"
#include "messages/json.hpp"
#include "support/catch.hpp"

#include <string>

using namespace cwsandbox;

namespace {

/// The fields that are refused, as the answer names them.
std::string refused(const std::string& spec) {
  const auto request = messages::from_json<messages::CreateSandboxRequest>(R"({"sandbox":{"spec":)" + spec + "}}");
  try {
    gateway::check_served(request);
  } catch (const gateway::ServiceError& e) {
    CHECK(e.error().code == base::ErrorCode::unimplemented);
    return e.error().info.value().metadata.at("fields");
  }
  return {};
}

}  // namespace

TEST_CASE("fields that are not served are refused by path, defaults are not", "[gateway][LC-20]") {
  const std::string container = "sandbox.spec.containers[1].", network = "sandbox.spec.network.";
  CHECK(refused(
            R"({"containers":[{},{"resources":{"cpu":"1","gpu":{"count":1,"memoryGb":80}},"files":[{"path":"/x","content":"Yf8="}],
    "resourceRequirements":{"requests":{"memory":"1Gi"},"limits":{"gpu":{"memory_gb":"2"}}},
    "securityContext":{"privileged":false},"imagePullCredentials":{"registry":"r"},"startupProbe":{"exec":["true"]}}]})") ==
        container + "resources.gpu.memoryGb, " + container + "resourceRequirements.limits.gpu.memoryGb, " + container +
            "securityContext, " + container + "imagePullCredentials, " + container + "startupProbe");
  CHECK(refused(R"({"volumes":[{},{"volume_id":"v"},{"scratch":{"restoreFromSnapshotId":"s","medium":7}}]})") ==
        "sandbox.spec.volumes[1].volumeId, sandbox.spec.volumes[2].scratch.restoreFromSnapshotId, "
        "sandbox.spec.volumes[2].scratch.medium, sandbox.spec.volumes[0]");
  CHECK(refused(R"({"services":[{"visibility":"VISIBILITY_PUBLIC","endpoint":{"kind":"ENDPOINT_KIND_HTTPS"}},{"protocol":3},
    {"endpoint":{}}]})") ==
        "sandbox.spec.services[0].visibility, sandbox.spec.services[0].endpoint, sandbox.spec.services[1].protocol, "
        "sandbox.spec.services[2].endpoint");
  CHECK(refused(R"({"network":{"denyIngress":false,"ingress":[{"any":true}],"mesh":1,"dnsEgress":2}})") ==
        network + "ingress, " + network + "denyIngress, " + network + "dnsEgress, " + network + "mesh");
  // No peer is not any peer, and neither is one that is not known here.
  CHECK(refused(R"({"network":{"egress":[{"dnsName":"a.b"},{"tenant":1},{"selector":{}},{},{"any":false},{"asn":7},{"any":true},
    {"cidr":{"cidr":"10.0.0.0/8"}}]}})") == network + "egress[0].httpsHostname, " + network + "egress[1].tenant, " + network +
                                                "egress[2].selector, " + network + "egress[5].asn, " + network + "egress[3], " +
                                                network + "egress[4], " + network + "egress[5]");
  CHECK(refused(R"({"networkIds":["n"],"objectStorageAccess":{"buckets":[]},"init_containers":[{}],"instanceType":"i","mode":1,
    "networkConfigId":"c","runtimeClassSelection":1})") ==
        "sandbox.spec.networkIds, sandbox.spec.objectStorageAccess, sandbox.spec.initContainers, sandbox.spec.instanceType, "
        "sandbox.spec.mode, sandbox.spec.networkConfigId, sandbox.spec.runtimeClassSelection");
  CHECK(refused(R"({"containers":[{"resources":null,"files":[],"resources":{"gpu":{}},"volumeMounts":[],"secretStores":null,
    "securityContext":null}],"volumes":[],"services":[],"network":null,"instanceType":"","mode":"SANDBOX_MODE_UNSPECIFIED"})")
            .empty());
}

TEST_CASE("resources are asked for in one of two forms, of which an empty one is none", "[gateway]") {
  const auto limit = [](const std::string& container) {
    const auto asked = messages::from_json<messages::Container>(container);
    gateway::Violations violations;
    const auto made = gateway::check_resources(asked, {}, "c", violations);
    return violations.empty() ? std::to_string(made.memory_limit.value_or(0)) : violations.found().front().field;
  };
  CHECK(limit(R"({"resources":{"memory":"64Mi"}})") == "67108864");
  CHECK(limit(R"({"resources":{"gpu":{}},"resourceRequirements":{"limits":{"memory":"64Mi"}}})") == "67108864");
  CHECK(limit(R"({"resources":{"memory":"64Mi"},"resourceRequirements":{"limits":{},"requests":{"gpu":{}}}})") == "67108864");
  CHECK(limit(R"({"resources":{"memory":"64Mi"},"resourceRequirements":{"limits":{"memory":"64Mi"}}})") == "c.resources");
  CHECK(limit(R"({"resourceRequirements":{"limits":{"memory":"64Mi","gpu":{"count":0,"type":"x"}}}})") ==
        "c.resourceRequirements.limits.gpu.count");
}
