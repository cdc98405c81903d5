#include "runner/kubernetes/pod_exec.hpp"

#include "support.hpp"

using namespace cwsandbox::runner::kubernetes;
using namespace cwsandbox::runner::kubernetes::test;
using cwsandbox::net::IncomingMessage;
using cwsandbox::net::WebSocket;
using cwsandbox::runner::ErrorCode;
using cwsandbox::runner::RunnerError;

namespace {

// As the API server sends them.
const char* const kSuccess = R"({"metadata":{},"status":"Success"})";
const char* const kExit7 =
    R"({"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: exit status 7","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}})";
const char* const kMissing =
    R"({"metadata":{},"status":"Failure","message":"Internal error occurred: error executing command in container: exec: \"nope\": not found","reason":"InternalError","details":{"causes":[{"message":"exec: not found"}]},"code":500})";

// What the server does with a socket, and what came of it.
struct Cluster : Site {
  explicit Cluster(std::string protocol) {
    hooks.decide = [this, protocol](const cwsandbox::net::HttpRequest& request, const std::vector<std::string>& offered) {
      target = request.target;
      offers = offered;
      cwsandbox::net::HttpHandler::UpgradeDecision out;
      out.subprotocol = protocol;
      out.limits = hooks.limits;
      return out;
    };
    hooks.opened = [this](std::unique_ptr<WebSocket> socket) {
      auto executor = socket->executor();
      asio::co_spawn(executor, serve(std::move(socket)), asio::detached);
    };
  }
  asio::awaitable<void> serve(std::unique_ptr<WebSocket> socket) { co_await script(*socket); }
  std::shared_ptr<ApiClient> client() {
    ClusterAccess access;
    access.endpoint = endpoint_of(address);
    return std::make_shared<ApiClient>(context.get_executor(), access);
  }
  asio::awaitable<std::unique_ptr<PodExec>> open(ExecRequest request) { return PodExec::open(client(), std::move(request)); }

  std::function<asio::awaitable<void>(WebSocket&)> script;
  std::string target;
  std::vector<std::string> offers;
};

std::string on(char channel, std::string_view payload) { return channel + std::string(payload); }
asio::awaitable<void> say(WebSocket& socket, std::string message) { co_await write(socket, message); }

ExecRequest request(std::vector<std::string> command) {
  ExecRequest out;
  out.name_space = "ns";
  out.pod = "p";
  out.command = std::move(command);
  return out;
}

std::string as_text(const IncomingMessage& message) { return on(static_cast<char>(message.channel()), message.payload()); }

}  // namespace

TEST_CASE("an exec over v4: output, errors, the status, and the empty message before them") {
  Cluster cluster("v4.channel.k8s.io");
  cluster.script = [](WebSocket& socket) -> asio::awaitable<void> {
    co_await say(socket, on(1, ""));
    co_await say(socket, on(3, ""));
    co_await say(socket, on(1, "out"));
    co_await say(socket, on(2, "err"));
    co_await say(socket, on(3, kExit7));
    co_await close(socket, 1000, "");
  };
  auto body = [&]() -> asio::awaitable<void> {
    auto wanted = request({"sh", "-c", "echo \"ü\" & exit 7"});
    wanted.container = "main";
    const auto exec = co_await cluster.open(std::move(wanted));
    CHECK(exec->protocol() == "v4.channel.k8s.io");
    CHECK_FALSE(exec->half_closes());
    std::string seen;
    for (;;) {
      const auto message = co_await exec->read();
      if (!message) break;
      if (message->channel == PodExec::status) {
        const auto status = parse_exec_status(message->payload);
        CHECK(status.kind == ExecStatus::Kind::exited);
        CHECK(status.code == 7);
      } else {
        seen += std::to_string(message->channel) + std::string(message->payload) + ";";
      }
    }
    CHECK(seen == "1out;2err;");
  };
  run(cluster.context, body);
  CHECK(cluster.target ==
        "/api/v1/namespaces/ns/pods/p/"
        "exec?container=main&stdin=false&stdout=true&stderr=true&tty=false&command=sh&command=-c&command=echo%20%22%C3%BC%22%20%26%"
        "20exit%207");
  CHECK(cluster.offers == std::vector<std::string>{"v5.channel.k8s.io", "v4.channel.k8s.io"});
}

TEST_CASE("input goes out in whole messages, and only v5 can end it") {
  const bool v5 = GENERATE(true, false);
  Cluster cluster(v5 ? "v5.channel.k8s.io" : "v4.channel.k8s.io");
  std::vector<std::string> got;
  cluster.script = [&](WebSocket& socket) -> asio::awaitable<void> {
    IncomingMessage message;
    for (;;) {
      if (co_await read(socket, message)) co_return;
      got.push_back(as_text(message));
    }
  };
  const std::string large(PodExec::kMaxMessage * 2, 'x');
  auto body = [&]() -> asio::awaitable<void> {
    auto wanted = request({"cat"});
    wanted.std_in = wanted.tty = true;
    const auto exec = co_await cluster.open(std::move(wanted));
    co_await exec->write("head", "body");
    co_await exec->write("", "");
    co_await exec->write("only", {});
    co_await exec->resize(100, 40);
    co_await exec->write("head", large);
    std::string refusal;
    try {
      co_await exec->close_stdin();
    } catch (const RunnerError& e) {
      refusal = e.what();
      CHECK(e.code() == ErrorCode::unimplemented);
    }
    CHECK(refusal.empty() == v5);
    if (!v5) CHECK(holds(refusal, "v4.channel.k8s.io"));
    const std::size_t all = v5 ? 7 : 6;
    asio::steady_timer turn(cluster.context);
    for (auto until = soon(); got.size() < all && Clock::now() < until;) {
      turn.expires_after(1ms);
      co_await turn.async_wait(asio::use_awaitable);
    }
    REQUIRE(got.size() == all);
  };
  run(cluster.context, body);
  CHECK(holds(cluster.target, "stdin=true&stdout=true&stderr=false&tty=true"));
  CHECK(got[0] == on(0, "headbody"));
  CHECK(got[1] == on(0, "only"));
  CHECK(got[2] == on(4, R"({"Width":100,"Height":40})"));
  std::string joined;
  for (std::size_t i = 3; i < 6; ++i) {
    CHECK(got[i].front() == '\0');
    CHECK(got[i].size() <= PodExec::kMaxMessage);
    joined += got[i].substr(1);
  }
  CHECK((joined == "head" + large));
  if (v5) CHECK(got[6] == std::string("\xff\0", 2));
}

TEST_CASE("a refused exec tells why") {
  struct Case {
    unsigned status;
    std::string type, body, code, part;
  };
  const std::vector<Case> cases = {
      {403, "", "", "permission_denied", "HTTP status 403"},  // no protocol in common
      {404, "application/json",
       R"({"kind":"Status","status":"Failure","message":"pods \"p\" not found","reason":"NotFound","code":404})", "not_found",
       "pods \"p\" not found"},
      {400, "application/json",
       R"({"kind":"Status","status":"Failure","message":"container x is not valid for pod p","reason":"BadRequest","code":400})",
       "invalid_argument", "container x is not valid for pod p"},
      {401, "application/json",
       R"({"kind":"Status","status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401})", "unauthenticated",
       "Unauthorized"},
      {403, "application/json",
       R"({"kind":"Status","status":"Failure","message":"cannot create resource \"pods/exec\"","reason":"Forbidden","code":403})",
       "permission_denied", "pods/exec"},
      {500, "text/plain; charset=utf-8", "dial tcp 10.0.0.9:10250: connect: connection refused\n", "unavailable",
       "connection refused"},
      {502, "text/html", "<html>secret</html>", "unavailable", "HTTP status 502"},
  };
  Cluster cluster("");
  for (const auto& one : cases) {
    cluster.hooks.decide = [&](const cwsandbox::net::HttpRequest&, const std::vector<std::string>&) {
      cwsandbox::net::HttpHandler::UpgradeDecision out;
      out.refusal.emplace();
      out.refusal->status = one.status;
      if (!one.type.empty()) out.refusal->headers.emplace_back("Content-Type", one.type);
      out.refusal->body = one.body;
      return out;
    };
    std::string code, text;
    auto body = [&]() -> asio::awaitable<void> {
      auto wanted = request({"true"});
      try {
        const auto exec = co_await cluster.open(std::move(wanted));
      } catch (const ApiError& e) {
        code = cwsandbox::base::to_string(e.code());
        text = e.what();
        CHECK(e.status() == one.status);
      }
    };
    run(cluster.context, body);
    INFO(text);
    CHECK(code == one.code);
    CHECK(holds(text, one.part));
    CHECK(holds(text, "/api/v1/namespaces/ns/pods/p/exec: "));
    CHECK_FALSE(holds(text, "secret"));
    CHECK_FALSE(holds(text, "command"));
  }
}

TEST_CASE("a server that takes none of the protocols is refused") {
  Cluster cluster("");
  cluster.script = [](WebSocket& socket) -> asio::awaitable<void> {
    IncomingMessage message;
    co_await read(socket, message);
  };
  std::string text;
  auto body = [&]() -> asio::awaitable<void> {
    auto wanted = request({"true"});
    try {
      const auto exec = co_await cluster.open(std::move(wanted));
    } catch (const ApiError& e) {
      text = e.what();
      CHECK(e.code() == ErrorCode::unavailable);
    }
  };
  run(cluster.context, body);
  CHECK(holds(text, "no WebSocket subprotocol"));
}

TEST_CASE("an exec whose connection is lost, or closed for a reason, fails; it does not end") {
  const bool lost = GENERATE(true, false);
  Cluster cluster("v4.channel.k8s.io");
  cluster.script = [lost](WebSocket& socket) -> asio::awaitable<void> {
    co_await say(socket, on(1, "out"));
    if (lost) {
      socket.abort();
    } else {
      co_await close(socket, 1011, "");
    }
  };
  auto body = [&]() -> asio::awaitable<void> {
    auto wanted = request({"true"});
    ExecLink link(co_await cluster.open(std::move(wanted)));
    const auto first = co_await link.read();
    CHECK(first == "out");
    bool failed = false;
    try {
      co_await link.read();
    } catch (const boost::system::system_error& e) {
      failed = true;
      if (!lost) CHECK(holds(e.what(), "1011"));
    }
    CHECK(failed);
  };
  run(cluster.context, body);
}

TEST_CASE("a link over an exec: stdout is the stream, stderr and the status say why it has ended") {
  struct Case {
    std::string errors, status, why;
  };
  const std::vector<Case> cases = {
      {"", kSuccess, "it has ended"},
      {"noise\nno such socket\n", kExit7, "it has ended with exit code 7: no such socket"},
      {"", kMissing, "Internal error occurred: error executing command in container: exec: \"nope\": not found"},
      {"last words", "", "last words"},
      {std::string(100000, 'x') + "\nthe last line", kSuccess, "it has ended: the last line"},
  };
  for (const auto& one : cases) {
    Cluster cluster("v4.channel.k8s.io");
    std::string got;
    cluster.script = [&](WebSocket& socket) -> asio::awaitable<void> {
      co_await say(socket, on(1, ""));
      IncomingMessage message;
      if (co_await read(socket, message)) co_return;
      got = as_text(message);
      co_await say(socket, on(1, "re"));
      if (!one.errors.empty()) co_await say(socket, on(2, one.errors));
      co_await say(socket, on(1, "ply"));
      if (!one.status.empty()) co_await say(socket, on(3, one.status));
      co_await close(socket, 1000, "");
    };
    auto body = [&]() -> asio::awaitable<void> {
      auto wanted = request({"relay"});
      wanted.std_in = true;
      ExecLink link(co_await cluster.open(std::move(wanted)));
      CHECK(link.why().empty());
      co_await link.write("as", "k");
      std::string all;
      for (;;) {
        const auto bytes = co_await link.read();
        if (bytes.empty()) break;
        all += bytes;
      }
      CHECK(all == "reply");
      CHECK(link.why() == one.why);
      const auto after = co_await link.read();
      CHECK(after.empty());
    };
    run(cluster.context, body);
    CHECK(got == on(0, "ask"));
  }
}

TEST_CASE("a link that is closed fails what is under way") {
  Cluster cluster("v5.channel.k8s.io");
  cluster.script = [](WebSocket& socket) -> asio::awaitable<void> {
    IncomingMessage message;
    co_await read(socket, message);
  };
  auto body = [&]() -> asio::awaitable<void> {
    auto wanted = request({"relay"});
    ExecLink link(co_await cluster.open(std::move(wanted)));
    asio::post(cluster.context, [&link] { link.close(); });
    bool failed = false;
    try {
      co_await link.read();
    } catch (const boost::system::system_error&) {
      failed = true;
    }
    CHECK(failed);
    link.close();
  };
  run(cluster.context, body);
}

TEST_CASE("what a status says") {
  const auto success = parse_exec_status(kSuccess);
  CHECK(success.kind == ExecStatus::Kind::success);
  CHECK(success.code == 0);
  const auto exited = parse_exec_status(kExit7);
  CHECK(exited.kind == ExecStatus::Kind::exited);
  CHECK(exited.code == 7);
  CHECK(exited.reason == "NonZeroExitCode");
  const auto killed = parse_exec_status(
      R"({"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"Other"},{"reason":"ExitCode","message":"137"}]}})");
  CHECK(killed.code == 137);
  for (const char* text : {kMissing, "plain words\n", "", "[]", "{}",
                           R"({"status":"Failure","details":{"causes":[{"reason":"ExitCode","message":"7x"}]}})",
                           R"({"status":["Success"],"details":[],"message":7})",
                           R"({"status":"Failure","details":{"causes":{"reason":"ExitCode"}}})"}) {
    const auto failed = parse_exec_status(text);
    CHECK(failed.kind == ExecStatus::Kind::failed);
    CHECK(failed.code == -1);
  }
  CHECK(parse_exec_status("plain words\n").message == "plain words");
  CHECK(parse_exec_status(std::string(100000, '[')).kind == ExecStatus::Kind::failed);
}
