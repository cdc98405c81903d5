// Against a real cluster, which CWSANDBOX_TEST_KUBECONFIG names: with a pod default/box of busybox, which has containers main and
// another, and contexts admin, exec-get (may only get pods/exec) and nobody.
#include "runner/kubernetes/pod_exec.hpp"
#include "runner/kubernetes/watcher.hpp"
#include "support.hpp"

#include <openssl/evp.h>
#include <boost/asio/steady_timer.hpp>

#include <random>

using namespace cwsandbox::runner::kubernetes;
using namespace cwsandbox::runner::kubernetes::test;

namespace {

struct Real {
  Real() {
    if (const char* file = std::getenv("CWSANDBOX_TEST_KUBECONFIG")) kubeconfig = file;
  }
  // False, and said: there is no cluster.
  [[nodiscard]] bool there() const {
    if (kubeconfig.empty()) WARN("skipped: CWSANDBOX_TEST_KUBECONFIG names no cluster");
    return !kubeconfig.empty();
  }
  std::shared_ptr<ApiClient> client(const std::string& name = {}) {
    KubeconfigOptions options;
    options.file = kubeconfig;
    options.context = name;
    return std::make_shared<ApiClient>(context.get_executor(), load_kubeconfig(options));
  }
  asio::io_context context{1};
  std::string kubeconfig;
};

std::string random_name() {
  std::random_device random;
  return "cwsandbox-test-" + std::to_string(random());
}

ExecRequest in_box(std::vector<std::string> command) {
  ExecRequest out;
  out.name_space = "default";
  out.pod = "box";
  out.container = "main";
  out.command = std::move(command);
  return out;
}

struct Ran {
  std::string out, err, code, text;
  std::optional<ExecStatus> status;
};

// To its end; the input goes first.
asio::awaitable<Ran> ran(std::shared_ptr<ApiClient> client, ExecRequest request, std::string input = {}) {
  Ran out;
  try {
    request.std_in = !input.empty();
    const auto exec = co_await PodExec::open(client, std::move(request));
    if (!input.empty()) co_await exec->write(input, {});
    for (;;) {
      const auto message = co_await exec->read();
      if (!message) break;
      if (message->channel == PodExec::std_out) out.out += message->payload;
      if (message->channel == PodExec::std_err) out.err += message->payload;
      if (message->channel == PodExec::status) out.status = parse_exec_status(message->payload);
    }
  } catch (const cwsandbox::runner::RunnerError& e) {
    out.code = cwsandbox::base::to_string(e.code());
    out.text = e.what();
  }
  co_return out;
}

std::string sha256(std::string_view bytes) {
  unsigned char hash[32];
  unsigned size = 0;
  EVP_Digest(bytes.data(), bytes.size(), hash, &size, EVP_sha256(), nullptr);
  std::string out;
  for (const unsigned char byte : hash) {
    out += "0123456789abcdef"[byte >> 4U];
    out += "0123456789abcdef"[byte & 15U];
  }
  return out;
}

}  // namespace

TEST_CASE("a real cluster: a pod is created, watched, patched and deleted") {
  Real real;
  if (!real.there()) return;
  const auto client = real.client();
  const auto name = random_name();
  const auto pods = resource_path("v1", "default", "pods");
  std::vector<std::string> told;
  bool synced = false;
  WatcherOptions options;
  options.collection = pods;
  options.label_selector = "cwsandbox-test=" + name;
  WatchHandlers handlers;
  handlers.on_object = [&](WatchEvent event, Json&& object) {
    CHECK(object["metadata"]["name"] == name);
    const std::string word = event == WatchEvent::added ? "added" : event == WatchEvent::modified ? "modified" : "deleted";
    if (told.empty() || told.back() != word) told.push_back(word);
  };
  handlers.on_synced = [&] { synced = true; };
  handlers.on_error = [&](std::exception_ptr e) {
    try {
      std::rethrow_exception(e);
    } catch (const std::exception& what) {
      FAIL_CHECK(what.what());
    }
  };
  const Watcher watcher(client, options, handlers);
  const auto until = [&](std::function<bool()> what) -> asio::awaitable<void> {
    asio::steady_timer turn(real.context);
    for (auto limit = soon(); !what() && Clock::now() < limit;) {
      turn.expires_after(5ms);
      co_await turn.async_wait(asio::use_awaitable);
    }
  };
  auto body = [&]() -> asio::awaitable<void> {
    std::function<bool()> is_synced = [&] { return synced; };
    co_await until(is_synced);
    Json pod = Json::parse(
        R"({"apiVersion":"v1","kind":"Pod","spec":{"restartPolicy":"Never","terminationGracePeriodSeconds":0,"automountServiceAccountToken":false,
      "containers":[{"name":"main","image":"k8srig.local/pause:1","imagePullPolicy":"Never"}]}})");
    pod["metadata"] = {{"name", name}, {"labels", {{"cwsandbox-test", name}}}};
    const Json created = co_await client->post(pods, pod);
    CHECK(created["metadata"]["name"] == name);
    auto again = client->post(pods, pod);
    auto got = co_await outcome(std::move(again));
    CHECK(got.code == "already_exists");
    const auto path = pods + "/" + name;
    Json patch = Json::parse(R"({"metadata":{"annotations":{"cwsandbox-test":"1"}}})");
    const Json patched = co_await client->patch(path, PatchType::merge, patch);
    CHECK(patched["metadata"]["annotations"]["cwsandbox-test"] == "1");
    const Json one = co_await client->get(path);
    CHECK(one["metadata"]["uid"] == created["metadata"]["uid"]);
    DeleteOptions wrong;
    wrong.uid = "another";
    auto refused = client->remove(path, wrong);
    got = co_await outcome(std::move(refused));
    CHECK(got.code == "aborted");
    DeleteOptions right;
    right.uid = created["metadata"]["uid"].get<std::string>();
    right.grace_period_seconds = 0;
    right.propagation_policy = "Background";
    const Json deleted = co_await client->remove(path, right);
    CHECK(deleted.is_object());
    std::function<bool()> is_gone = [&] { return !told.empty() && told.back() == "deleted"; };
    co_await until(is_gone);
    auto missing = client->get(path);
    got = co_await outcome(std::move(missing));
    CHECK(got.code == "not_found");
    CHECK(got.error->kubernetes_reason() == "NotFound");
  };
  run(real.context, body);
  CHECK(told == std::vector<std::string>{"added", "modified", "deleted"});
}

TEST_CASE("a real cluster: a watch from a version that it no longer has is 410") {
  Real real;
  if (!real.there()) return;
  const auto client = real.client();
  std::string code;
  auto body = [&]() -> asio::awaitable<void> {
    const Query query{{"watch", "true"}, {"resourceVersion", "1"}, {"timeoutSeconds", "1"}};
    std::string target = with_query(resource_path("v1", "default", "pods"), query);
    try {
      const auto stream = co_await client->stream(std::move(target), 30s);
      const std::string text = co_await stream->read_rest(64 * 1024);
      const auto event = Json::parse(text.substr(0, text.find('\n')), nullptr, false);
      if (event.is_object() && event["type"] == "ERROR")
        code = cwsandbox::base::to_string(make_api_error(event["object"], "watch").code());
    } catch (const ApiError& e) {
      code = cwsandbox::base::to_string(e.code());
    }
  };
  run(real.context, body);
  // A cluster that is young still has it.
  if (code.empty()) {
    WARN("the cluster still has version 1");
  } else {
    CHECK(code == "failed_precondition");
  }
}

TEST_CASE("a real cluster: exit codes and both outputs") {
  Real real;
  if (!real.there()) return;
  const auto client = real.client();
  auto body = [&]() -> asio::awaitable<void> {
    auto seven = in_box({"sh", "-c", "echo out; echo err >&2; exit 7"});
    auto got = co_await ran(client, std::move(seven));
    INFO(got.text);
    CHECK(got.out == "out\n");
    CHECK(got.err == "err\n");
    REQUIRE(got.status);
    CHECK(got.status->kind == ExecStatus::Kind::exited);
    CHECK(got.status->code == 7);
    auto good = in_box({"true"});
    got = co_await ran(client, std::move(good));
    REQUIRE(got.status);
    CHECK(got.status->kind == ExecStatus::Kind::success);
    auto killed = in_box({"sh", "-c", "kill -9 $$"});
    got = co_await ran(client, std::move(killed));
    REQUIRE(got.status);
    CHECK(got.status->code == 137);
    auto missing = in_box({"/no/such/program"});
    got = co_await ran(client, std::move(missing));
    REQUIRE(got.status);
    CHECK(got.status->kind == ExecStatus::Kind::failed);
    CHECK(holds(got.status->message, "/no/such/program"));
  };
  run(real.context, body);
}

TEST_CASE("a real cluster: large input and large output arrive whole") {
  Real real;
  if (!real.there()) return;
  const auto client = real.client();
  auto body = [&]() -> asio::awaitable<void> {
    // More than one message of input, so that pieces would show.
    std::string input(3 * 1024 * 1024, '\0');
    std::minstd_rand random(7);
    for (char& c : input) c = static_cast<char>(random());
    auto hash = in_box({"sh", "-c", "head -c " + std::to_string(input.size()) + " | sha256sum"});
    auto got = co_await ran(client, std::move(hash), input);
    CHECK(holds(got.out, sha256(input)));
    auto large = in_box({"sh", "-c",
                         "head -c 8000000 /dev/urandom >/tmp/cwsandbox-test; sha256sum </tmp/cwsandbox-test >&2; cat "
                         "/tmp/cwsandbox-test; rm /tmp/cwsandbox-test"});
    got = co_await ran(client, std::move(large));
    CHECK(got.out.size() == 8000000);
    CHECK(holds(got.err, sha256(got.out)));
  };
  run(real.context, body);
}

TEST_CASE("a real cluster: who may not, and what is not there") {
  Real real;
  if (!real.there()) return;
  auto body = [&]() -> asio::awaitable<void> {
    const auto get_only = real.client("exec-get"), nobody = real.client("nobody"), admin = real.client();
    auto allowed = in_box({"true"});
    auto got = co_await ran(get_only, std::move(allowed));
    INFO(got.text);
    CHECK(got.status.has_value());
    auto call = get_only->get(resource_path("v1", "default", "pods"));
    auto refused = co_await outcome(std::move(call));
    CHECK(refused.code == "permission_denied");
    auto forbidden = in_box({"true"});
    got = co_await ran(nobody, std::move(forbidden));
    CHECK(got.code == "permission_denied");
    auto no_pod = in_box({"true"});
    no_pod.pod = "no-such-pod";
    got = co_await ran(admin, std::move(no_pod));
    CHECK(got.code == "not_found");
    CHECK(holds(got.text, "no-such-pod"));
    auto no_container = in_box({"true"});
    no_container.container = "no-such-container";
    got = co_await ran(admin, std::move(no_container));
    CHECK(got.code == "invalid_argument");
    auto which = in_box({"true"});
    which.container.clear();
    got = co_await ran(admin, std::move(which));
    CHECK(got.code == "invalid_argument");
    CHECK(holds(got.text, "container"));
  };
  run(real.context, body);
}

TEST_CASE("a real cluster: a token that it does not know") {
  Real real;
  if (!real.there()) return;
  KubeconfigOptions options;
  options.file = real.kubeconfig;
  auto access = load_kubeconfig(options);
  access.client_certificate.clear();
  access.client_key.clear();
  access.exec.reset();
  access.token_file.clear();
  access.token = "not-a-token";
  const auto client = std::make_shared<ApiClient>(real.context.get_executor(), access);
  auto body = [&]() -> asio::awaitable<void> {
    auto call = client->get(resource_path("v1", "default", "pods"));
    const auto refused = co_await outcome(std::move(call));
    CHECK(refused.code == "unauthenticated");
    CHECK_FALSE(holds(refused.text, "not-a-token"));
    auto wanted = in_box({"true"});
    const auto got = co_await ran(client, std::move(wanted));
    CHECK(got.code == "unauthenticated");
  };
  run(real.context, body);
}

TEST_CASE("a real cluster: a link over an exec") {
  Real real;
  if (!real.there()) return;
  const auto client = real.client();
  auto body = [&]() -> asio::awaitable<void> {
    auto wanted = in_box({"sh", "-c", "head -c 5; echo ' to you too'; echo why >&2; exit 3"});
    wanted.std_in = true;
    auto exec = co_await PodExec::open(client, std::move(wanted));
    ExecLink link(std::move(exec));
    co_await link.write("hel", "lo");
    std::string all;
    for (;;) {
      const auto bytes = co_await link.read();
      if (bytes.empty()) break;
      all += bytes;
    }
    CHECK(all == "hello to you too\n");
    CHECK(link.why() == "it has ended with exit code 3: why");
  };
  run(real.context, body);
}
