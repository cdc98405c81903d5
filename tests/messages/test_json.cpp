// Control-plane messages: the proto3 JSON mapping, from literals.
#include "fault.hpp"
#include "messages/exec.hpp"
#include "messages/json.hpp"
#include "messages/sandbox.hpp"
#include "support/catch.hpp"

#include <random>
#include <string>

using namespace cwsandbox::messages;
using namespace std::chrono;

namespace {

std::string create_fault(const std::string& json) {
  return fault_of([&] { (void)from_json<CreateSandboxRequest>(json); });
}

}  // namespace

TEST_CASE("a CreateSandboxRequest is read under either naming", "[messages]") {
  const std::string camel = R"({"sandbox":{"spec":{"containers":[{"name":"main","image":"python:3.11","command":"/bin/sh",
    "args":["-c","true"],"environmentVariables":{"A":"1","B":""},"workingDir":"/w"}],"primaryContainer":"main",
    "maxLifetimeSeconds":60,"tags":["t","u"],"runnerIds":["r"],"annotations":{"x":"y"},"runtimeClass":"rc"}},"requestId":"q","later":{"x":[1]}})";
  const std::string snake = R"({"sandbox":{"spec":{"containers":[{"name":"main","image":"python:3.11","command":"/bin/sh",
    "args":["-c","true"],"environment_variables":{"A":"1","B":""},"working_dir":"/w"}],"primary_container":"main",
    "max_lifetime_seconds":"60","tags":["t","u"],"runner_ids":["r"],"annotations":{"x":"y"},"runtime_class":"rc"}},"request_id":"q"})";
  for (const auto& json : {camel, snake}) {
    const CreateSandboxRequest request = from_json<CreateSandboxRequest>(json);
    CHECK(request.request_id == "q");
    const SandboxSpec& spec = request.sandbox.spec;
    REQUIRE(spec.containers.size() == 1);
    CHECK(spec.containers[0].name == "main");
    CHECK(spec.containers[0].image == "python:3.11");
    CHECK(spec.containers[0].command == "/bin/sh");
    CHECK(spec.containers[0].args == std::vector<std::string>{"-c", "true"});
    CHECK(spec.containers[0].environment_variables == std::map<std::string, std::string>{{"A", "1"}, {"B", ""}});
    CHECK(spec.containers[0].working_dir == "/w");
    CHECK(spec.primary_container == "main");
    CHECK(spec.max_lifetime_seconds == 60);
    CHECK(spec.tags == std::vector<std::string>{"t", "u"});
    CHECK(spec.runner_ids == std::vector<std::string>{"r"});
    CHECK(spec.annotations.at("x") == "y");
    CHECK(spec.runtime_class == "rc");
    CHECK(request.unknown.empty());
    CHECK(
        sorted(to_json(request)) ==
        R"({"requestId":"q","sandbox":{"spec":{"annotations":{"x":"y"},"containers":[{"args":["-c","true"],"command":"/bin/sh",)"
        R"("environmentVariables":{"A":"1","B":""},"image":"python:3.11","name":"main","workingDir":"/w"}],"maxLifetimeSeconds":60,)"
        R"("primaryContainer":"main","runnerIds":["r"],"runtimeClass":"rc","tags":["t","u"]}}})");
  }
}

TEST_CASE("what a runner may have is read under either naming", "[messages][LC-20]") {
  const std::string camel =
      R"({"sandbox":{"spec":{"containers":[{"resourceRequirements":{"limits":{"gpu":{"count":"2","type":"h100"}},)"
      R"("requests":{"memory":"1Gi"}},"secretStores":[{"secrets":[{"envVar":"PW","field":"password","path":"db"}],)"
      R"("storeName":"kubernetes"}],"volumeMounts":[{"mountPath":"/data","readOnly":true,"subPath":"in","volume":"d"}]}],)"
      R"("network":{"denyEgress":false,"egress":[{"any":true,"ports":[{"endPort":90,"port":80,"protocol":"TCP"}]},)"
      R"({"cidr":{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}}]},)"
      R"("services":[{"name":"web","port":80,"protocol":"SERVICE_PROTOCOL_TCP","visibility":"VISIBILITY_PRIVATE"}],)"
      R"("volumes":[{"name":"d","scratch":{"medium":"STORAGE_MEDIUM_MEMORY","size":"1Gi"}},{"name":"e","scratch":{}}]}}})";
  const std::string snake =
      R"({"sandbox":{"spec":{"containers":[{"resource_requirements":{"limits":{"gpu":{"count":2,"type":"h100"}},
      "requests":{"memory":"1Gi"}},"secret_stores":[{"secrets":[{"env_var":"PW","field":"password","path":"db"}],
      "store_name":"kubernetes"}],"volume_mounts":[{"mount_path":"/data","read_only":true,"sub_path":"in","volume":"d"}]}],
      "network":{"deny_egress":false,"egress":[{"any":true,"ports":[{"end_port":90,"port":80,"protocol":"TCP"}]},
      {"cidr":{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}}]},
      "services":[{"name":"web","port":80,"protocol":1,"visibility":2}],
      "volumes":[{"name":"d","scratch":{"medium":2,"size":"1Gi"}},{"name":"e","scratch":{"medium":"STORAGE_MEDIUM_UNSPECIFIED"}}]}}})";
  for (const auto& json : {camel, snake}) {
    const auto request = from_json<CreateSandboxRequest>(json);
    const SandboxSpec& spec = request.sandbox.spec;
    CHECK(request.unknown.empty());
    REQUIRE(spec.containers.size() == 1);
    const Container& container = spec.containers[0];
    REQUIRE(container.resource_requirements);
    const auto& [requests, limits] = *container.resource_requirements;
    REQUIRE(limits);
    REQUIRE(limits->gpu);
    CHECK(limits->gpu->count == 2);
    CHECK(limits->gpu->type == "h100");
    REQUIRE(requests);
    CHECK(requests->memory == "1Gi");
    CHECK_FALSE(requests->gpu);
    REQUIRE(spec.network);
    CHECK(spec.network->deny_egress == false);
    CHECK_FALSE(spec.network->deny_ingress);
    REQUIRE(spec.network->egress.size() == 2);
    CHECK(spec.network->egress[0].any == true);
    CHECK(spec.network->egress[1].cidr);
    CHECK(sorted(to_json(request)) == camel);
  }
}

TEST_CASE("what is not known is kept by its path where ignoring it would give something else", "[messages]") {
  const auto request = from_json<CreateSandboxRequest>(R"({"sandbox":{"later":1,"spec":{"later":{},"containers":[{"later":1,
    "volumeMounts":[{"propagation":"both"}],"secretStores":[{"secrets":[{"version":2}]}],"resources":{"gpu":{"slices":1}}}],
    "volumes":[{"name":"v","scratch":{"medium":7,"fast":true,"slow":null}},{"nfs":{}}],"services":[{"protocol":"SERVICE_PROTOCOL_QUIC"}],
    "network":{"mesh":1,"egress":[{"asn":1,"ports":[{"icmp":true}]}]}}},"later":1})");
  const std::string container = "sandbox.spec.containers[0].", network = "sandbox.spec.network.";
  const std::vector<std::string> expected = {container + "volumeMounts[0].propagation",
                                             container + "secretStores[0].secrets[0].version",
                                             container + "resources.gpu.slices",
                                             "sandbox.spec.volumes[0].scratch.medium",
                                             "sandbox.spec.volumes[0].scratch.fast",
                                             "sandbox.spec.volumes[1].nfs",
                                             "sandbox.spec.services[0].protocol",
                                             network + "mesh",
                                             network + "egress[0].asn",
                                             network + "egress[0].ports[0].icmp"};
  CHECK(request.unknown == expected);
  CHECK(from_json<CreateSandboxRequest>(to_json(request)).unknown.empty());
}

TEST_CASE("what is set is found by patterns of its path", "[messages]") {
  constexpr std::string_view patterns[] = {"sandbox.spec.volumes[].volumeId", "sandbox.spec.network.egress[].selector",
                                           "sandbox.spec.containers[].securityContext", "sandbox.spec.network.denyIngress",
                                           "sandbox.spec.mode"};
  const auto found = [&patterns](const std::string& json) {
    const auto request = from_json<CreateSandboxRequest>(json);
    return set_paths(CreateSandboxRequest::kType, &request, patterns);
  };
  CHECK(found(R"({"sandbox":{"spec":{"containers":[{},{"securityContext":{"privileged":false}},{"securityContext":null}],"mode":2,
    "volumes":[{"volumeId":"a"},{"scratch":{}},{"volumeId":""}],"network":{"denyIngress":false,"egress":[{"selector":{}},{"any":true}]}}}})") ==
        std::vector<std::string>{"sandbox.spec.containers[1].securityContext", "sandbox.spec.volumes[0].volumeId",
                                 "sandbox.spec.volumes[2].volumeId", "sandbox.spec.network.egress[0].selector",
                                 "sandbox.spec.network.denyIngress", "sandbox.spec.mode"});
  CHECK(found(R"({"sandbox":{"spec":{"mode":"SANDBOX_MODE_UNSPECIFIED","containers":[{}],"volumes":[]}}})").empty());
}

TEST_CASE("a field has a name that it had before", "[messages]") {
  for (const char* name : {"httpsHostname", "https_hostname", "dnsName", "dns_name"}) {
    const auto rule = from_json<EgressRule>("{\"" + std::string(name) + "\":\"a.b\"}");
    CHECK(rule.https_hostname == "a.b");
    CHECK(to_json(rule) == R"({"httpsHostname":"a.b"})");
  }
}

TEST_CASE("the order of the table is the order of what is written", "[messages]") {
  Sandbox sandbox;
  sandbox.sandbox_id = "s";
  sandbox.spec.tags = {"t"};
  sandbox.status.state = State::running;
  CHECK(to_json(sandbox) == R"({"sandboxId":"s","spec":{"tags":["t"]},"status":{"state":"STATE_RUNNING"}})");
}

TEST_CASE("faults are named by JSON path", "[messages]") {
  CHECK(create_fault(R"({"sandbox":{"spec":{"containers":[{"files":[{},{"content":"%"}]}]}}})") ==
        "sandbox.spec.containers[0].files[1].content");
  CHECK(create_fault(R"({"sandbox":7})") == "sandbox");
  CHECK(create_fault(R"({"sandbox":{"spec":[]}})") == "sandbox.spec");
  CHECK(create_fault(R"({"sandbox":{"spec":{"containers":{}}}})") == "sandbox.spec.containers");
  CHECK(create_fault(R"({"sandbox":{"spec":{"containers":[7]}}})") == "sandbox.spec.containers[0]");
  CHECK(create_fault(R"({"sandbox":{"spec":{"containers":[null]}}})") == "sandbox.spec.containers[0]");
  CHECK(create_fault(R"({"sandbox":{"spec":{"containers":[{},{"args":["a",7]}]}}})") == "sandbox.spec.containers[1].args[1]");
  CHECK(create_fault(R"({"sandbox":{"spec":{"containers":[{"environment_variables":{"A":7}}]}}})") ==
        "sandbox.spec.containers[0].environmentVariables[\"A\"]");
  CHECK(create_fault(R"({"sandbox":{"spec":{"maxLifetimeSeconds":2147483648}}})") == "sandbox.spec.maxLifetimeSeconds");
  CHECK(create_fault(R"({"sandbox":{"spec":{"maxLifetimeSeconds":1.5}}})") == "sandbox.spec.maxLifetimeSeconds");
  CHECK(create_fault(R"({"sandbox":{"spec":{"maxLifetimeSeconds":"1x"}}})") == "sandbox.spec.maxLifetimeSeconds");
  CHECK(create_fault(R"({"sandbox":{"spec":{"maxLifetimeSeconds":""}}})") == "sandbox.spec.maxLifetimeSeconds");
  CHECK(create_fault(R"({"sandbox":{"spec":{"maxLifetimeSeconds":1e300}}})") == "sandbox.spec.maxLifetimeSeconds");
  CHECK(create_fault(R"({"sandbox":{"spec":{"volumes":[{"scratch":7}]}}})") == "sandbox.spec.volumes[0].scratch");
  CHECK(create_fault(R"({"sandbox":{"spec":{"volumes":[{"scratch":{},"volumeId":"v"}]}}})") == "sandbox.spec.volumes[0]");
  CHECK(create_fault(R"({"sandbox":{"spec":{"services":[{"port":"x"}]}}})") == "sandbox.spec.services[0].port");
  CHECK(create_fault(R"({"sandbox":{"spec":{"services":[{"protocol":{}}]}}})") == "sandbox.spec.services[0].protocol");
  CHECK(create_fault(R"({"sandbox":{"spec":{"network":{"egress":[{"any":true,"cidr":{}}]}}}})") ==
        "sandbox.spec.network.egress[0]");
  CHECK(create_fault(R"({"sandbox":{"spec":{"network":{"egress":[{"cidr":{"except":[7]}}]}}}})") ==
        "sandbox.spec.network.egress[0].cidr.except[0]");
  CHECK(create_fault(R"({"sandbox":{"spec":{"network":{"denyEgress":1}}}})") == "sandbox.spec.network.denyEgress");
  CHECK(create_fault(R"({"requestId":{}})") == "requestId");
  CHECK(create_fault(R"([1])") == "");
  CHECK(create_fault("null") == "");
  CHECK(create_fault("{\"a\":tru}") == "byte 9");
  CHECK(create_fault("") == "byte 1");
  CHECK(create_fault("{}x") == "byte 3");
  CHECK(create_fault("{\"a\":\"\xff\"}") == "byte 7");
  CHECK(create_fault(R"({"a":1e999})") == "(no error)");  // a number like any, of a field that is not known
  CHECK(create_fault(R"({"sandbox":{"spec":{"maxLifetimeSeconds":1e999}}})") == "sandbox.spec.maxLifetimeSeconds");
  CHECK(create_fault(std::string(200'000, '[')) == "");
  CHECK(fault_of([] { (void)from_json<ListSandboxesRequest>(R"({"showTerminated":"true"})"); }) == "showTerminated");
  CHECK(fault_of([] { (void)from_json<ListSandboxesRequest>(R"({"state":{}})"); }) == "state");
  CHECK(fault_of([] { (void)from_json<Sandbox>(R"({"status":{"createTime":"yesterday"}})"); }) == "status.createTime");
  CHECK(fault_of([] { (void)from_json<ExecResponse>(R"({"stdout":"!"})"); }) == "stdout");
}

TEST_CASE("integers come as numbers or strings", "[messages]") {
  const auto revision = [](const std::string& value) {
    return from_json<Sandbox>(R"({"sourceTemplateRevision":)" + value + "}").source_template_revision;
  };
  CHECK(revision("\"9223372036854775807\"") == 9223372036854775807);
  CHECK(revision("9223372036854775807") == 9223372036854775807);
  CHECK(revision("\"-5\"") == -5);
  CHECK(revision("3.0") == 3);
  CHECK(revision("null") == 0);
  CHECK_THROWS_AS(revision("9223372036854775808"), ParseError);
  CHECK_THROWS_AS(revision("18446744073709551616"), ParseError);
  Sandbox sandbox;
  sandbox.source_template_revision = 7;
  CHECK(sorted(to_json(sandbox)) == R"({"sourceTemplateRevision":"7"})");
}

TEST_CASE("states come by name or number, an unknown one is unspecified", "[messages][LC-10]") {
  const auto state = [](const std::string& value) {
    return from_json<Sandbox>(R"({"status":{"state":)" + value + "}}").status.state;
  };
  const char* names[] = {"UNSPECIFIED", "CREATING",   "RUNNING", "COMPLETED", "FAILED",
                         "TERMINATING", "TERMINATED", "PENDING", "PAUSED"};
  for (int i = 0; i < 9; ++i) {
    CHECK(state("\"STATE_" + std::string(names[i]) + "\"") == static_cast<State>(i));
    CHECK(state(std::to_string(i)) == static_cast<State>(i));
    CHECK(to_string(static_cast<State>(i)) == "STATE_" + std::string(names[i]));
  }
  CHECK(state("\"STATE_DREAMING\"") == State::unspecified);
  CHECK(state("99") == State::unspecified);
  CHECK(state("-1") == State::unspecified);
  CHECK(state("null") == State::unspecified);
  CHECK(is_terminal(State::terminated));
  CHECK(!is_terminal(State::terminating));
}

TEST_CASE("a Sandbox is read and written with its times", "[messages]") {
  const std::string json =
      R"({"sandboxId":"s","status":{"containerStatuses":[{"exitCode":3,"name":"main","restartCount":1,"state":"STATE_FAILED"}],)"
      R"("createTime":"2026-11-22T00:30:00Z","effectiveMaxLifetimeSeconds":9,"endTime":"2026-11-22T00:30:01.000000001Z",)"
      R"("exitCode":0,"runnerGroupId":"g","runnerId":"local","startTime":"2026-11-22T00:30:00.500Z",)"
      R"("state":"STATE_COMPLETED","stateReason":"done"}})";
  const Sandbox sandbox = from_json<Sandbox>(json);
  CHECK(sandbox.sandbox_id == "s");
  CHECK(sandbox.status.state == State::completed);
  CHECK(sandbox.status.exit_code == 0);
  const auto create = sys_days(year(2026) / 11 / 22) + minutes(30);
  CHECK(sandbox.status.create_time == create);
  CHECK(sandbox.status.start_time == create + milliseconds(500));
  CHECK(sandbox.status.end_time == create + seconds(1) + nanoseconds(1));
  REQUIRE(sandbox.status.container_statuses.size() == 1);
  CHECK(sandbox.status.container_statuses[0].exit_code == 3);
  CHECK(sorted(to_json(sandbox)) == json);
  CHECK(sorted(to_json(Sandbox{})) == "{}");
}

TEST_CASE("timestamps are RFC 3339 and nothing else", "[messages]") {
  const auto time = [](const std::string& text) {
    return from_json<Sandbox>(R"({"status":{"createTime":")" + text + "\"}}").status.create_time;
  };
  const auto base = sys_days(year(2024) / 2 / 29) + hours(12);
  CHECK(time("2024-02-29T12:00:00Z") == base);
  CHECK(time("2024-02-29t13:30:00+01:30") == base);
  CHECK(time("2024-02-29T07:00:00-05:00") == base);
  CHECK(time("2024-02-29T12:00:00.123456789Z") == base + nanoseconds(123456789));
  CHECK(time("1969-12-31T23:59:59.5Z") == sys_days(year(1970) / 1 / 1) - milliseconds(500));
  Sandbox before;
  before.status.create_time = sys_days(year(1970) / 1 / 1) - milliseconds(500);
  CHECK(sorted(to_json(before)) == R"({"status":{"createTime":"1969-12-31T23:59:59.500Z"}})");
  for (const char* bad : {"", "2024", "2023-02-29T12:00:00Z", "2024-13-01T12:00:00Z", "2024-01-01T24:00:00Z",
                          "2024-01-01T12:60:00Z", "2024-01-01T12:00:00", "2024-01-01 12:00:00Z", "2024-01-01T12:00:00.Z",
                          "2024-01-01T12:00:00.1234567890Z", "2024-01-01T12:00:00+1:00", "2024-01-01T12:00:00Zx",
                          "9999-01-01T12:00:00Z", "0001-01-01T00:00:00Z", "2024-01-01T12:00:00+24:00", "-024-01-01T12:00:00Z"}) {
    INFO(bad);
    CHECK_THROWS_AS(time(bad), ParseError);
  }
  CHECK_THROWS_AS(from_json<Sandbox>(R"({"status":{"createTime":7}})"), ParseError);
}

TEST_CASE("the smaller messages", "[messages]") {
  CHECK(from_json<GetSandboxRequest>(R"({"sandbox_id":"s"})").sandbox_id == "s");
  CHECK(sorted(to_json(GetSandboxRequest{"s"})) == R"({"sandboxId":"s"})");

  const auto list = from_json<ListSandboxesRequest>(
      R"({"pageSize":5,"pageToken":"p","tags":["t"],"state":"STATE_RUNNING","showTerminated":true,"runnerIds":["r"],"volumeIds":["v"]})");
  CHECK(list.page_size == 5);
  CHECK(list.state == State::running);
  CHECK(list.show_terminated);
  CHECK(
      sorted(to_json(list)) ==
      R"({"pageSize":5,"pageToken":"p","runnerIds":["r"],"showTerminated":true,"state":"STATE_RUNNING","tags":["t"],"volumeIds":["v"]})");
  CHECK(sorted(to_json(ListSandboxesRequest{})) == "{}");

  const auto sandboxes = from_json<ListSandboxesResponse>(R"({"sandboxes":[{"sandboxId":"a"},{}],"nextPageToken":"n"})");
  REQUIRE(sandboxes.sandboxes.size() == 2);
  CHECK(sandboxes.sandboxes[0].sandbox_id == "a");
  CHECK(sorted(to_json(sandboxes)) == R"({"nextPageToken":"n","sandboxes":[{"sandboxId":"a"},{}]})");

  const auto del = from_json<DeleteSandboxRequest>(
      R"({"sandboxId":"s","gracePeriodSeconds":3,"snapshotVolumes":["v"],"requestId":"q","allowMissing":true})");
  CHECK(del.grace_period_seconds == 3);
  CHECK(del.allow_missing);
  CHECK(sorted(to_json(del)) ==
        R"({"allowMissing":true,"gracePeriodSeconds":3,"requestId":"q","sandboxId":"s","snapshotVolumes":["v"]})");
  CHECK(sorted(to_json(DeleteSandboxResponse{})) == "{}");
  CHECK(!from_json<DeleteSandboxResponse>("{}").sandbox);
  const auto deleted = from_json<DeleteSandboxResponse>(R"({"sandbox":{"sandboxId":"s"},"fileSystemSnapshotIds":["f"]})");
  REQUIRE(deleted.sandbox);
  CHECK(sorted(to_json(deleted)) == R"({"fileSystemSnapshotIds":["f"],"sandbox":{"sandboxId":"s"}})");

  const auto exec =
      from_json<ExecRequest>(R"({"sandboxId":"s","command":["ls","-l"],"env":{"A":"1"},"maxOutputBytes":10,"container":"c"})");
  CHECK(exec.command == std::vector<std::string>{"ls", "-l"});
  CHECK(sorted(to_json(exec)) == R"({"command":["ls","-l"],"container":"c","env":{"A":"1"},"maxOutputBytes":10,"sandboxId":"s"})");

  const auto response = from_json<ExecResponse>(
      R"({"stdout":"AP/+","stderr":"aGk=","exitCode":7,"stdoutTruncated":true,"stdoutBytesProduced":"5000000000","stderr_bytes_produced":2})");
  CHECK(response.std_out == std::string("\x00\xff\xfe", 3));
  CHECK(response.std_err == "hi");
  CHECK(response.stdout_bytes_produced == 5'000'000'000);
  CHECK(
      sorted(to_json(response)) ==
      R"({"exitCode":7,"stderr":"aGk=","stderrBytesProduced":"2","stdout":"AP/+","stdoutBytesProduced":"5000000000","stdoutTruncated":true})");
}

TEST_CASE("a request that is not UTF-8 is not sent, a response is repaired", "[messages]") {
  ExecRequest request{"s", {"ls", "\xff"}, {}, 0, ""};
  CHECK(fault_of([&] { (void)to_json(request); }) == "command[1]");
  request.command = {"ls"};
  request.env["\xff"] = "";
  CHECK(fault_of([&] { (void)to_json(request); }) == "env[\"?\"]");
  Sandbox sandbox;
  sandbox.status.state_reason = "\xff";
  CHECK(sorted(to_json(sandbox)) == "{\"status\":{\"stateReason\":\"\xef\xbf\xbd\"}}");
}

TEST_CASE("random and mutated messages give a message or a ParseError", "[messages]") {
  std::mt19937 random(11);
  const std::string good =
      R"({"sandbox":{"sandboxId":"s","spec":{"containers":[{"args":["a"],"environmentVariables":{"A":"1"},"resources":{"cpu":"1","gpu":{"count":1}},)"
      R"("volumeMounts":[{"volume":"v","mountPath":"/v"}]}],"volumes":[{"name":"v","scratch":{"size":"1Gi"}}],"services":[{"port":80}],)"
      R"("network":{"egress":[{"cidr":{"cidr":"10.0.0.0/8"}}]},"tags":["t"],)"
      R"("maxLifetimeSeconds":"60"},"status":{"createTime":"2026-11-22T00:30:00.5Z","state":"STATE_RUNNING","exitCode":1}},"requestId":"q"})";
  int parsed = 0;
  for (int i = 0; i < 30'000; ++i) {
    std::string json = good;
    const std::size_t changes = random() % 4;
    for (std::size_t k = 0; k < changes; ++k) {
      const std::size_t at = random() % json.size();
      switch (random() % 3) {
        case 0:
          json[at] = static_cast<char>(random());
          break;
        case 1:
          json.erase(at, 1 + random() % 8);
          break;
        default:
          json.insert(at, 1, "{}[]\",:0-e\\"[random() % 11]);
          break;
      }
      if (json.empty()) json = "x";
    }
    try {
      const auto request = from_json<CreateSandboxRequest>(json);
      (void)to_json(request);
      ++parsed;
    } catch (const ParseError&) {
    }
  }
  CHECK(parsed > 1000);
}
