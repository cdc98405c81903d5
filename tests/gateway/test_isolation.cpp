// What a sandbox gets of the machine, and what it must not get of the gateway, over real sockets.
#include "gateway/resources.hpp"
#include "gateway_support.hpp"
#include "support/catch.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <optional>

using namespace gateway_test;
using Catch::Matchers::Contains;
using cwsandbox::gateway::parse_quantity;

namespace {

Json with(const Json& container) { return {{"sandbox", {{"spec", {{"containers", {container}}}}}}}; }

std::string said(const Answer& answer) { return base64_decode(answer.json().value("stdout", "")); }

Answer run(const Server& server, const std::string& id, const std::string& script) {
  return server.call("Exec", {{"sandboxId", id}, {"command", {"sh", "-c", script}}});
}

// What the nameless files in `directory` that this process has open take of the disk.
std::uint64_t nameless_bytes(const std::filesystem::path& directory) {
  std::uint64_t total = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code ec;
    const std::string target = std::filesystem::read_symlink(entry.path(), ec).native();
    struct stat status{};
    if (!target.starts_with(directory.native() + "/") || ::stat(entry.path().c_str(), &status) != 0) continue;
    total += static_cast<std::uint64_t>(status.st_blocks) * 512;
  }
  return total;
}

}  // namespace

TEST_CASE("quantities are read as Kubernetes writes them", "[gateway][resources]") {
  using Value = std::optional<std::uint64_t>;
  CHECK(parse_quantity("500m", 1000) == Value(500));
  CHECK(parse_quantity("0.1", 1000) == Value(100));
  CHECK(parse_quantity("2", 1000) == Value(2000));
  CHECK(parse_quantity("1.5", 1000) == Value(1500));
  CHECK(parse_quantity("1u", 1000) == Value(1));  // rounded up
  CHECK(parse_quantity("512Mi", 1) == Value(512ull << 20));
  CHECK(parse_quantity("1.5Gi", 1) == Value(3ull << 29));
  CHECK(parse_quantity("4G", 1) == Value(4'000'000'000));
  CHECK(parse_quantity("4e9", 1) == Value(4'000'000'000));
  CHECK(parse_quantity("4E9", 1) == Value(4'000'000'000));
  CHECK(parse_quantity("4e+9", 1) == Value(4'000'000'000));
  CHECK(parse_quantity("4000m", 1) == Value(4));
  CHECK(parse_quantity("15E", 1) == Value(15'000'000'000'000'000'000u));
  CHECK(parse_quantity(".5", 1000) == Value(500));
  CHECK(parse_quantity("5.", 1000) == Value(5000));
  for (const char* bad : {"",     "0",   "0Gi", "Gi", "-1",      "+1",   "1.2.3", "1 Gi", " 1",
                          "1gi",  "1K",  "e9",  "4e", "4e99999", "1e37", "16Ei",  "99Ei", "9999999999999999999",
                          "0x10", "1e+", "."}) {
    INFO(bad);
    CHECK(!parse_quantity(bad, 1));
  }
}

TEST_CASE("resources that make no sense, or are more than there may be, are refused by name", "[gateway][resources]") {
  Server server([](auto& options) {
    options.max_memory = 1ull << 30;
    options.max_cpu = 2000;
  });
  const auto refused = [&](const Json& container, const std::string& field, const std::string& text) {
    const Answer answer = server.call("CreateSandbox", with(container));
    INFO(answer.body);
    CHECK(answer.status == 400);
    CHECK(answer.json()["code"] == "invalid_argument");
    CHECK_THAT(answer.json()["message"].get<std::string>(), Contains("sandbox.spec.containers[0]." + field) && Contains(text));
  };
  const auto limits = [](const Json& value) { return Json{{"resourceRequirements", {{"limits", value}}}}; };
  const auto requests = [](const Json& value) { return Json{{"resourceRequirements", {{"requests", value}}}}; };
  refused(limits({{"memory", "lots"}}), "resourceRequirements.limits.memory", "not a quantity");
  refused(limits({{"memory", "1"}}), "resourceRequirements.limits.memory", "less than 8388608 bytes");
  refused(limits({{"memory", "2Gi"}}), "resourceRequirements.limits.memory", "more than the 1073741824 bytes");
  refused(limits({{"cpu", "2001m"}}), "resourceRequirements.limits.cpu", "more than the 2000m");
  refused(limits({{"cpu", "1m"}}), "resourceRequirements.limits.cpu", "less than 10m");
  refused(requests({{"memory", "2Gi"}}), "resourceRequirements.requests.memory", "more than the");
  refused({{"resources", {{"cpu", "3"}}}}, "resources.cpu", "more than the 2000m");
  refused({{"resources", {{"cpu", "1"}}}, {"resourceRequirements", {{"limits", {{"cpu", "1"}}}}}}, "resources",
          "excludes resourceRequirements");
  refused({{"resourceRequirements",
            {{"requests", {{"cpu", "2"}, {"memory", "1Gi"}}}, {"limits", {{"cpu", "1"}, {"memory", "512Mi"}}}}}},
          "resourceRequirements.requests.cpu", "more than the limit");
  CHECK(server.counts().sandboxes == 0);
}

TEST_CASE("what a sandbox asks for of memory is what it gets, or it fails and says why", "[gateway][resources]") {
  Server server;
  const Json asked = {{"requests", {{"memory", "32Mi"}, {"cpu", "100m"}}}, {"limits", {{"memory", "64Mi"}, {"cpu", "1"}}}};
  const Answer made = server.call("CreateSandbox", with({{"resourceRequirements", asked}}));
  REQUIRE(made.status == 200);
  CHECK(made.json()["spec"]["containers"][0]["resourceRequirements"] == asked);
  const std::string id = made.json()["sandboxId"];
  if (server.wait_state(id, "STATE_RUNNING") != "STATE_RUNNING") {
    CHECK(std::getenv("CWSANDBOX_TEST_CONTROL_GROUPS") == nullptr);  // set where they can be had
    const Json status = server.call("GetSandbox", {{"sandboxId", id}}).json()["status"];
    CHECK(status["state"] == "STATE_FAILED");
    CHECK_THAT(status["stateReason"].get<std::string>(), Contains("this machine cannot limit the memory of a sandbox"));
    return;
  }
  // Half of it for each writable place.
  CHECK(said(run(server, id, "df -k /workspace | tail -n 1 | tr -s ' ' | cut -d' ' -f2")) == "32768\n");
  const Answer hog = run(server, id, "head -c 200m /dev/zero | tail -n 1 | wc -c; echo still here");
  CHECK_THAT(said(hog), Contains("still here") && !Contains("209715200"));
}

TEST_CASE("a sandbox whose main command takes too much memory says so when it has failed", "[gateway][resources]") {
  Server server;
  const Answer made = server.call(
      "CreateSandbox", with({{"resources", {{"memory", "64Mi"}}}, {"command", "tail"}, {"args", {"-n", "1", "/dev/zero"}}}));
  REQUIRE(made.status == 200);
  const std::string id = made.json()["sandboxId"];
  server.wait_state(id, "STATE_FAILED");
  const Json status = server.call("GetSandbox", {{"sandboxId", id}}).json()["status"];
  CHECK(status["state"] == "STATE_FAILED");
  const std::string why = status["stateReason"];
  INFO(why);
  const bool known = why == "the main command was killed by signal 9 (it has used all the memory that it may have)" ||
                     (why.starts_with("this machine cannot limit the memory of a sandbox") &&
                      std::getenv("CWSANDBOX_TEST_CONTROL_GROUPS") == nullptr);
  CHECK(known);
}

TEST_CASE("a log flooder is held to its log while a neighbour works", "[gateway][logs][limits]") {
  constexpr std::uint64_t kLog = 1 << 20;
  const TempDir directory;
  const std::string logs = directory.path("logs");
  REQUIRE(std::filesystem::create_directory(logs));
  Server server([&logs](auto& options) {
    options.log_bytes = kLog;
    options.log_directory = logs;
  });
  const Answer made = server.call("CreateSandbox", with({{"command", "yes"}, {"args", {std::string(1000, 'x')}}}));
  const std::string flooder = made.json()["sandboxId"];
  REQUIRE(server.wait_state(flooder, "STATE_RUNNING") == "STATE_RUNNING");
  const std::string neighbour = server.sandbox();
  std::uint64_t most = 0;
  // Until the flood has gone over its log many times, and at least so many turns of the neighbour's.
  std::uint64_t written = 0;
  for (int i = 0; i < 20 || (written < 16 * kLog && i < 2000); ++i) {
    CHECK(said(run(server, neighbour, "echo $((20 + 22))")) == "42\n");
    most = std::max(most, nameless_bytes(logs));
    StreamCall log = server.logs({{"sandboxId", flooder}, {"tailLines", 1}});
    while (const auto entry = log.next())
      written = std::max<std::uint64_t>(written, std::stoull(entry->value("nextLogOffset", "0")));
  }
  CHECK(written >= 16 * kLog);
  CHECK(most > 0);
  CHECK(most <= kLog + 64 * 1024);  // a file system counts in blocks
}

TEST_CASE("neither the gateway's token, its socket nor its environment can be found in a sandbox", "[gateway][escape]") {
  ::setenv("CWSANDBOX_TEST_SECRET", "of-the-gateway", 1);
  {
    Server server;
    const std::string id = server.sandbox();
    const std::string socket = server.address().path;
    // Read here, because whoever searches for it there has it on its own command line.
    const std::string found =
        said(run(server, id,
                 "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline; find /run /tmp /var /home /workspace /dev/shm "
                 "-xdev -type f -exec cat {} +"));
    CHECK(found.find("PATH=") != std::string::npos);
    CHECK(found.find(kToken) == std::string::npos);
    CHECK(found.find("of-the-gateway") == std::string::npos);
    CHECK(run(server, id, "test -e " + socket + " || test -e " + socket.substr(0, socket.rfind('/'))).json().value("exitCode", 0) !=
          0);
    CHECK(run(server, id, "grep -c . /proc/net/unix").json().value("stdout", "") == base64_encode("1\n"));  // the heading
  }
  ::unsetenv("CWSANDBOX_TEST_SECRET");
}
