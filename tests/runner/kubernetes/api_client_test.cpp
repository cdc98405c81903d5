#include "runner/kubernetes/api_client.hpp"

#include "support.hpp"
#include "support/certs.hpp"

#include <sys/stat.h>

using namespace cwsandbox::runner::kubernetes;
using namespace cwsandbox::runner::kubernetes::test;
using cwsandbox::runner::ErrorCode;
using cwsandbox::runner::RunnerError;

namespace {

const char* const kPod = "/api/v1/namespaces/ns/pods/p";

// Answers in this order; the last one again and again.
FakeApi::On scripted(std::vector<std::string> answers) {
  auto left = std::make_shared<std::vector<std::string>>(std::move(answers));
  return [left](Raw& raw, const Seen&) -> asio::awaitable<void> {
    std::string next = left->front();
    if (left->size() > 1) left->erase(left->begin());
    if (next.empty()) {
      raw.socket().close();
      co_return;
    }
    co_await raw.send(std::move(next));
  };
}

Outcome ask(FakeApi& api, std::function<asio::awaitable<Json>(ApiClient&)> what, std::shared_ptr<ApiClient> client = {}) {
  if (!client) client = api.client();
  Outcome out;
  auto body = [&]() -> asio::awaitable<void> {
    auto call = what(*client);
    out = co_await outcome(std::move(call));
  };
  run(api.context, body);
  return out;
}

asio::awaitable<Json> get_pod(ApiClient& client) { return client.get(kPod); }
asio::awaitable<Json> post_pod(ApiClient& client) { return client.post("/api/v1/namespaces/ns/pods", Json{{"kind", "Pod"}}); }

std::string status(int code, const std::string& reason, const std::string& message, const std::string& details = "{}") {
  return R"({"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":")" + message + R"(","reason":")" +
         reason + R"(","details":)" + details + R"(,"code":)" + std::to_string(code) + "}";
}

}  // namespace

TEST_CASE("requests as the API has them") {
  FakeApi api(scripted({answer(200, R"({"kind":"Pod"})")}));
  api.access.token = "t0ken";
  api.access.path_prefix = "/k8s/c-1";
  auto client = api.client();
  CHECK(ask(api, get_pod, client).json["kind"] == "Pod");
  ask(api, post_pod, client);
  ask(api, [](ApiClient& c) { return c.put(kPod, Json{{"a", 1}}); }, client);
  ask(api, [](ApiClient& c) { return c.patch(kPod, PatchType::merge, Json{{"a", nullptr}}); }, client);
  ask(api, [](ApiClient& c) { return c.patch(kPod, PatchType::strategic, Json{{"a", 2}}); }, client);
  ask(api, [](ApiClient& c) { return c.remove(kPod, DeleteOptions{"Background", 0, "u-1"}); }, client);
  ask(api, [](ApiClient& c) { return c.remove(kPod, DeleteOptions{}); }, client);
  const std::vector<std::string> lines = {
      "GET /k8s/c-1/api/v1/namespaces/ns/pods/p",   "POST /k8s/c-1/api/v1/namespaces/ns/pods",
      "PUT /k8s/c-1/api/v1/namespaces/ns/pods/p",   "PATCH /k8s/c-1/api/v1/namespaces/ns/pods/p",
      "PATCH /k8s/c-1/api/v1/namespaces/ns/pods/p", "DELETE /k8s/c-1/api/v1/namespaces/ns/pods/p",
      "DELETE /k8s/c-1/api/v1/namespaces/ns/pods/p"};
  CHECK(api.lines() == lines);
  CHECK(api.connections() == 1);
  for (const auto& one : api.seen) {
    CHECK(one.header("Authorization") == "Bearer t0ken");
    CHECK(one.header("Accept") == "application/json");
    CHECK(one.header("User-Agent").starts_with("cwsandboxd/"));
  }
  CHECK(api.seen[1].body == R"({"kind":"Pod"})");
  CHECK(api.seen[1].header("Content-Type") == "application/json");
  CHECK(api.seen[3].body == R"({"a":null})");
  CHECK(api.seen[3].header("Content-Type") == "application/merge-patch+json");
  CHECK(api.seen[4].header("Content-Type") == "application/strategic-merge-patch+json");
  CHECK(
      Json::parse(api.seen[5].body) ==
      Json::parse(
          R"({"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Background","gracePeriodSeconds":0,"preconditions":{"uid":"u-1"}})"));
  CHECK(Json::parse(api.seen[6].body) == Json::parse(R"({"kind":"DeleteOptions","apiVersion":"v1"})"));
  const ApiClient::Calls calls = {
      {{"get", "pods"}, 1}, {{"create", "pods"}, 1}, {{"update", "pods"}, 1}, {{"patch", "pods"}, 2}, {{"delete", "pods"}, 2}};
  CHECK(client->calls() == calls);
}

TEST_CASE("paths and queries are encoded, and calls are counted by what RBAC calls them") {
  CHECK(resource_path("v1", "ns", "pods", "p", "exec") == "/api/v1/namespaces/ns/pods/p/exec");
  CHECK(resource_path("v1", "", "nodes", "n") == "/api/v1/nodes/n");
  CHECK(resource_path("networking.k8s.io/v1", "ns", "networkpolicies") ==
        "/apis/networking.k8s.io/v1/namespaces/ns/networkpolicies");
  CHECK(resource_path("v1", "a/b", "pods", "..%2f x") == "/api/v1/namespaces/a%2Fb/pods/..%252f%20x");
  CHECK(with_query("/p", {{"a", "x=y,z in (1)"}, {"b", ""}}) == "/p?a=x%3Dy%2Cz%20in%20%281%29&b=");
  FakeApi api(scripted({answer(200, "{}")}));
  auto client = api.client();
  for (const char* target : {"/api/v1/pods", "/api/v1/namespaces/ns/pods/p/log", "/api/v1/namespaces/ns", "/version",
                             "/apis/apps/v1/namespaces/ns/deployments?limit=1"})
    ask(api, [target](ApiClient& c) { return c.get(target); }, client);
  const ApiClient::Calls calls = {{{"list", "pods"}, 1},
                                  {{"get", "pods/log"}, 1},
                                  {{"get", "namespaces"}, 1},
                                  {{"get", "/version"}, 1},
                                  {{"list", "deployments"}, 1}};
  CHECK(client->calls() == calls);
}

TEST_CASE("what the API refuses keeps its status, reason and message") {
  struct Case {
    int status;
    std::string body, code, reason, part;
  };
  const std::vector<Case> cases = {
      {404, status(404, "NotFound", "pods \\\"p\\\" not found"), "not_found", "NotFound",
       "POST /api/v1/namespaces/ns/pods: pods \"p\" not found"},
      {409, status(409, "AlreadyExists", "exists"), "already_exists", "AlreadyExists", "exists"},
      {409, status(409, "Conflict", "changed"), "aborted", "Conflict", "changed"},
      {403, status(403, "Forbidden", "no rights"), "permission_denied", "Forbidden", "no rights"},
      {403, status(403, "Forbidden", "pods is forbidden: exceeded quota: q"), "resource_exhausted", "Forbidden", "exceeded quota"},
      {401, status(401, "Unauthorized", "Unauthorized"), "unauthenticated", "Unauthorized", "Unauthorized"},
      {400, status(400, "BadRequest", "bad"), "invalid_argument", "BadRequest", "bad"},
      {422, status(422, "Invalid", "invalid value"), "invalid_argument", "Invalid", "invalid value"},
      {410, status(410, "Expired", "too old"), "failed_precondition", "Expired", "too old"},
      {500, status(500, "InternalError", "oops"), "unavailable", "InternalError", "oops"},
      {504, status(504, "Timeout", "slow"), "unavailable", "Timeout", "slow"},
      {503, "<html>secret</html>", "unavailable", "", "HTTP status 503"},
      {302, "", "internal", "", "HTTP status 302"},
      {404, "[1,2", "not_found", "", "HTTP status 404"},
      {404, R"({"kind":"Status","message":["x"],"reason":7,"details":"x","code":"y"})", "not_found", "", "HTTP status 404"},
  };
  for (const auto& one : cases) {
    FakeApi api(scripted({answer(one.status, one.body)}));
    const auto got = ask(api, post_pod);
    INFO(one.body << " " << got.text);
    REQUIRE(got.error);
    CHECK(got.code == one.code);
    CHECK(got.error->status() == static_cast<unsigned>(one.status));
    CHECK(got.error->kubernetes_reason() == one.reason);
    CHECK(holds(got.text, one.part));
    CHECK_FALSE(holds(got.text, "secret"));
    CHECK(api.seen.size() == 1);
  }
}

TEST_CASE("a GET is tried again for what may pass, by the server's word; what changes something only when nothing was done") {
  const auto busy = answer(429, status(429, "TooManyRequests", "busy", R"({"retryAfterSeconds":1})"));
  SECTION("GET") {
    FakeApi api(scripted({answer(503, "", "Retry-After: 1\r\n"), "", busy, answer(200, R"({"a":1})")}));
    const auto got = ask(api, get_pod);
    INFO(got.text);
    CHECK(got.json["a"] == 1);
    CHECK(api.seen.size() >= 4);
  }
  SECTION("it gives up") {
    FakeApi api(scripted({answer(500, status(500, "InternalError", "oops"))}));
    const auto got = ask(api, get_pod);
    CHECK(got.code == "unavailable");
    CHECK(api.seen.size() == api.options.get_attempts);
  }
  SECTION("whoever wants to be left alone for long is not waited for") {
    FakeApi api(scripted({answer(429, status(429, "TooManyRequests", "busy", R"({"retryAfterSeconds":3600})"))}));
    const auto got = ask(api, get_pod);
    REQUIRE(got.error);
    CHECK(got.error->retry_after() == std::chrono::seconds(3600));
    CHECK(api.seen.size() == 1);
  }
  SECTION("POST and 429") {
    FakeApi api(scripted({busy, answer(201, R"({"a":1})")}));
    CHECK(ask(api, post_pod).json["a"] == 1);
    CHECK(api.seen.size() == 2);
  }
  SECTION("POST and no answer") {
    FakeApi api(scripted({""}));
    const auto got = ask(api, post_pod);
    REQUIRE(got.error);
    CHECK(got.code == "unavailable");
    CHECK(got.error->status() == 0);
    CHECK(api.seen.size() == 1);
  }
}

TEST_CASE("answers that are no objects") {
  for (const std::string& body : {std::string("{"), std::string(), std::string(3000, '[') + std::string(3000, ']')}) {
    FakeApi api(scripted({answer(200, body)}));
    const auto got = ask(api, post_pod);
    CHECK(got.code == "unavailable");
    CHECK(holds(got.text, "not JSON"));
  }
  FakeApi api(scripted({answer(200, "{\"a\":\"" + std::string(4096, 'x') + "\"}")}));
  api.options.max_answer = 1024;
  CHECK(holds(ask(api, post_pod).text, "larger than 1024 bytes"));
}

TEST_CASE("a deadline") {
  FakeApi api([](Raw& raw, const Seen&) -> asio::awaitable<void> { co_await raw.read_all(); });
  api.options.request_timeout = std::chrono::milliseconds(50);
  const auto got = ask(api, post_pod);
  CHECK(got.code == "unavailable");
  CHECK(holds(got.text, "the deadline has passed"));
}

TEST_CASE("a request whose token is refused is made again with the new one, once") {
  TemporaryFolder folder;
  write_file(folder / "token", "old");
  FakeApi api([&](Raw& raw, const Seen& one) -> asio::awaitable<void> {
    const bool good = one.header("Authorization") == "Bearer new";
    // The token changes while the old one is on its way, in a way that its file's state may not show.
    if (!good) write_file(folder / "token", "new");
    std::string text = good ? answer(200, R"({"a":1})") : answer(401, status(401, "Unauthorized", "Unauthorized"));
    co_await raw.send(std::move(text));
  });
  api.access.token_file = folder / "token";
  CHECK(ask(api, post_pod).json["a"] == 1);
  CHECK(api.seen.size() == 2);

  FakeApi never([](Raw& raw, const Seen&) -> asio::awaitable<void> {
    std::string text = answer(401, "");
    co_await raw.send(std::move(text));
  });
  never.access.token_file = folder / "token";
  CHECK(ask(never, get_pod).code == "unauthenticated");
  CHECK(never.seen.size() == 1);  // the file has no other
}

TEST_CASE("a client certificate from a plugin is shown, and another one means another connection") {
  Site site;
  TemporaryFolder folder;
  const cwsandbox::test::Authority authority, users("users");
  authority.write_certificate(folder / "ca.pem");
  authority.issue(folder / "server.pem", "DNS:api.internal");
  users.write_certificate(folder / "users.pem");
  users.issue(folder / "me.pem", "DNS:me");
  cwsandbox::net::TlsServerOptions tls;
  tls.certificate_file = tls.key_file = folder / "server.pem";
  tls.client_ca_file = folder / "users.pem";
  const auto secure = site.server.listen(any_tcp_port(), tls);
  site.hooks.on_request = [](const cwsandbox::net::HttpRequest&) -> asio::awaitable<cwsandbox::net::HttpResponse> {
    cwsandbox::net::HttpResponse out;
    out.body = "{}";
    co_return out;
  };
  write_file(folder / "plugin",
             "#!/bin/sh\npem=$(awk '{printf \"%s\\\\n\", $0}' <\"${0%/*}/me.pem\")\n"
             "printf '%s\\n' "
             "'{\"kind\":\"ExecCredential\",\"apiVersion\":\"client.authentication.k8s.io/"
             "v1\",\"status\":{\"expirationTimestamp\":\"2001-01-01T00:00:00Z\","
             "\"clientCertificateData\":\"'\"$pem\"'\",\"clientKeyData\":\"'\"$pem\"'\"}}'\n");
  ::chmod((folder / "plugin").c_str(), 0755);
  ClusterAccess access;
  access.endpoint = endpoint_of(secure, true);
  access.ca = read_file(folder / "ca.pem");
  access.tls_server_name = "api.internal";
  ExecPlugin plugin;
  plugin.api_version = "client.authentication.k8s.io/v1";
  plugin.command = folder / "plugin";
  access.exec = plugin;
  ApiClientOptions options;
  options.get_attempts = 1;
  ApiClient client(site.context.get_executor(), access, options);
  auto body = [&]() -> asio::awaitable<void> {
    for (int i = 0; i < 2; ++i) {
      auto call = client.get("/version");
      const auto got = co_await outcome(std::move(call));
      INFO(got.text);
      CHECK(got.code.empty());
    }
    // Another user's, whom the server does not know.
    authority.issue(folder / "me.pem", "DNS:other");
    auto call = client.get("/version");
    const auto got = co_await outcome(std::move(call));
    CHECK(got.code == "unavailable");
    CHECK(holds(got.text, "unknown ca"));
  };
  run(site.context, body);
  CHECK(site.hooks.requests == 2);
}

TEST_CASE("certificates that cannot be used are an error at once") {
  asio::io_context context(1);
  ClusterAccess access;
  access.origin = "context \"c\" of file";
  access.endpoint = cwsandbox::net::parse_base_url("https://h");
  access.ca = "no certificate";
  try {
    const ApiClient client(context.get_executor(), access);
    FAIL("accepted");
  } catch (const RunnerError& e) {
    CHECK(e.code() == ErrorCode::invalid_argument);
    CHECK(holds(e.what(), "context \"c\" of file: cannot use the CA certificate that is given as text"));
  }
}
