#include "runner/kubernetes/credentials.hpp"

#include "support.hpp"
#include "support/certs.hpp"

#include <sys/stat.h>

#include <csignal>

using namespace cwsandbox::runner::kubernetes;
using namespace cwsandbox::runner::kubernetes::test;
using cwsandbox::runner::ErrorCode;
using cwsandbox::runner::RunnerError;

namespace {

struct Plugin {
  explicit Plugin(const std::string& script, std::chrono::steady_clock::duration timeout = 60s) {
    write_file(folder / "plugin", "#!/bin/sh\necho run >>\"$0.runs\"\n" + script);
    ::chmod((folder / "plugin").c_str(), 0755);
    ExecPlugin plugin;
    plugin.api_version = "client.authentication.k8s.io/v1";
    plugin.command = folder / "plugin";
    plugin.args = {"a b", "c"};
    plugin.env = {{"CWSANDBOX_TEST_MORE", "more"}};
    plugin.install_hint = "install it";
    access.exec = plugin;
    access.endpoint = cwsandbox::net::parse_base_url("https://h");
    access.ca = "authority";
    timeout_ = timeout;
  }
  Credentials& credentials() {
    if (!credentials_) credentials_.emplace(context.get_executor(), access, timeout_);
    return *credentials_;
  }
  std::string token() {
    std::string out;
    auto body = [&]() -> asio::awaitable<void> {
      const auto credential = co_await credentials().get(soon());
      last = credential;
      out = credential->token;
    };
    run(context, body);
    return out;
  }
  std::string refusal() {
    try {
      token();
    } catch (const RunnerError& e) {
      CHECK(e.code() == ErrorCode::unauthenticated);
      return e.what();
    }
    return "accepted";
  }
  [[nodiscard]] std::size_t runs() const { return read_file(folder / "plugin.runs").size() / 4; }

  TemporaryFolder folder;
  asio::io_context context{1};
  ClusterAccess access;
  std::shared_ptr<const Credential> last;

 private:
  std::chrono::steady_clock::duration timeout_{};
  std::optional<Credentials> credentials_;
};

// A plugin that gives this status.
std::string gives(const std::string& status) {
  return "cat <<'END'\n{\"kind\":\"ExecCredential\",\"apiVersion\":\"client.authentication.k8s.io/v1\",\"status\":" + status +
         "}\nEND\n";
}

}  // namespace

TEST_CASE("a token file is read again when it changes, and when the server refuses its token") {
  TemporaryFolder folder;
  asio::io_context context(1);
  ClusterAccess access;
  access.token_file = folder / "token";
  Credentials credentials(context.get_executor(), access, 60s);
  std::shared_ptr<const Credential> last;
  const auto token = [&] {
    auto body = [&]() -> asio::awaitable<void> { last = co_await credentials.get(soon()); };
    run(context, body);
    return last->token;
  };
  const auto refusal = [&] {
    try {
      token();
    } catch (const RunnerError& e) {
      CHECK(e.code() == ErrorCode::unauthenticated);
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  CHECK(holds(refusal(), folder / "token"));
  write_file(folder / "token", " first\n");
  CHECK(token() == "first");
  const auto first = last;
  CHECK(token() == "first");
  CHECK(last == first);
  // As a kubelet does it: another file under the same name.
  write_file(folder / "next", "second");
  std::filesystem::rename(folder / "next", folder / "token");
  CHECK(token() == "second");
  CHECK(last->generation != first->generation);
  CHECK(credentials.refused(*last));
  CHECK(token() == "second");  // there is no other
  write_file(folder / "token", "two words\n");
  CHECK(holds(refusal(), "more than a token"));
  CHECK_FALSE(holds(refusal(), "two words"));
  write_file(folder / "token", "\n");
  CHECK(holds(refusal(), "empty"));
  write_file(folder / "token", std::string(70 * 1024, 'x'));
  CHECK(holds(refusal(), "larger than 65536 bytes"));
}

TEST_CASE("a token that cannot change is all there is, and a broken one is refused without being told") {
  asio::io_context context(1);
  ClusterAccess access;
  access.token = "fixed";
  Credentials credentials(context.get_executor(), access, 60s);
  auto body = [&]() -> asio::awaitable<void> {
    const auto credential = co_await credentials.get(soon());
    CHECK(credential->token == "fixed");
    CHECK_FALSE(credentials.refused(*credential));
  };
  run(context, body);
  access.token = "secret\r\nX-Header: 1";
  try {
    const Credentials broken(context.get_executor(), access, 60s);
    FAIL("accepted");
  } catch (const RunnerError& e) {
    CHECK_FALSE(holds(e.what(), "secret"));
  }
}

TEST_CASE("a plugin's token is kept until it expires or is refused") {
  Plugin plugin("test \"$1,$2,$CWSANDBOX_TEST_MORE\" = 'a b,c,more' || exit 3\nprintf %s \"$KUBERNETES_EXEC_INFO\" >\"$0.info\"\n" +
                gives(R"({"token":"from-plugin","expirationTimestamp":"2200-01-01T00:00:00Z"})"));
  plugin.access.exec->provide_cluster_info = true;
  REQUIRE(plugin.token() == "from-plugin");
  CHECK(plugin.token() == "from-plugin");
  CHECK(plugin.runs() == 1);
  const auto info = Json::parse(read_file(plugin.folder / "plugin.info"));
  CHECK(info["apiVersion"] == "client.authentication.k8s.io/v1");
  CHECK(info["kind"] == "ExecCredential");
  CHECK(info["spec"]["interactive"] == false);
  CHECK(info["spec"]["cluster"]["server"] == "https://h");
  CHECK(info["spec"]["cluster"]["certificate-authority-data"] == "YXV0aG9yaXR5");
  CHECK(plugin.credentials().refused(*plugin.last));
  CHECK(plugin.token() == "from-plugin");
  CHECK(plugin.runs() == 2);

  Plugin expired(gives(R"({"token":"t","expirationTimestamp":"2001-01-01T00:00:00+02:00"})"));
  CHECK(expired.token() == "t");
  CHECK(expired.token() == "t");
  CHECK(expired.runs() == 2);
}

TEST_CASE("a plugin may give a client certificate") {
  Plugin plugin(gives(R"({"clientCertificateData":"certificate","clientKeyData":"key"})"));
  REQUIRE(plugin.token().empty());
  CHECK(plugin.last->certificate == "certificate");
  CHECK(plugin.last->key == "key");
}

TEST_CASE("one run of a plugin serves all who wait for it") {
  Plugin plugin(gives(R"({"token":"t"})"));
  int done = 0;
  auto one = [&]() -> asio::awaitable<void> {
    const auto credential = co_await plugin.credentials().get(soon());
    CHECK(credential->token == "t");
    ++done;
  };
  for (int i = 0; i < 20; ++i) asio::co_spawn(plugin.context, one(), asio::detached);
  auto body = [&]() -> asio::awaitable<void> { return one(); };
  run(plugin.context, body);
  settle(plugin.context);
  CHECK(done == 21);
  CHECK(plugin.runs() == 1);
}

TEST_CASE("a plugin that fails is named, with the last line of its stderr and without its output") {
  struct Case {
    std::string script;
    std::vector<std::string> parts;
  };
  const std::vector<Case> cases = {
      {"echo secret\necho first >&2\necho 'log in first' >&2\nexit 7\n", {"plugin\" failed with exit code 7: log in first"}},
      {"kill -9 $$\n", {"plugin\" was ended by signal 9"}},
      {"echo secret\n", {"did not write a JSON object"}},
      {"echo '[1]'\n", {"did not write a JSON object"}},
      {"head -c 100000 /dev/zero | tr '\\0' '['\n", {"did not write a JSON object"}},
      {"cat /dev/zero\n", {"writes more than a credential"}},
      {"echo '{\"kind\":\"Other\",\"token\":\"secret\"}'\n", {"did not write an ExecCredential"}},
      {"echo '{\"kind\":\"ExecCredential\",\"apiVersion\":\"client.authentication.k8s.io/v1beta1\"}'\n",
       {"another apiVersion than client.authentication.k8s.io/v1"}},
      {gives("null"), {"without a status"}},
      {gives("{}"), {"neither a token nor a client certificate"}},
      {gives(R"({"clientKeyData":"secret"})"), {"only one of"}},
      {gives(R"({"token":"secret secret"})"), {"blanks or control characters"}},
      {gives(R"({"token":"secret","expirationTimestamp":"tomorrow"})"), {"no time"}},
  };
  for (const auto& [script, parts] : cases) {
    Plugin plugin(script);
    const auto said = plugin.refusal();
    INFO(script << said);
    for (const auto& part : parts) CHECK(holds(said, part));
    CHECK_FALSE(holds(said, "secret"));
  }
  Plugin missing("");
  missing.access.exec->command = missing.folder / "nowhere";
  CHECK(holds(missing.refusal(), "cannot be started: No such file or directory (ENOENT); install it"));
}

TEST_CASE("a plugin that does not end is ended with what it has started, and the next call runs it anew") {
  Plugin plugin("echo $$ >\"$0.pid\"\nsleep 1000 & echo waiting >&2\nwait\n", 300ms);
  CHECK(holds(plugin.refusal(), "did not end in time"));
  CHECK(holds(plugin.refusal(), "did not end in time"));
  CHECK(plugin.runs() == 2);
  // Its group has gone; a killed sleep may still be in the table until init has looked.
  const auto group = std::stoi(read_file(plugin.folder / "plugin.pid"));
  auto body = [&]() -> asio::awaitable<void> {
    asio::steady_timer turn(plugin.context);
    for (auto until = soon(); ::kill(-group, 0) == 0 && Clock::now() < until;) {
      turn.expires_after(1ms);
      co_await turn.async_wait(asio::use_awaitable);
    }
  };
  run(plugin.context, body);
  CHECK(::kill(-group, 0) != 0);
}

TEST_CASE("however a plugin hangs or floods, it is ended and named", "[kubernetes][KU-8]") {
  struct Case {
    std::string script;
    std::chrono::milliseconds deadline;
    std::string named;
  };
  const std::vector<Case> cases = {
      {"exec >&- 2>&-\nsleep 1000\n", 300ms, "did not end in time"},  // without an output that could end
      {"trap '' TERM INT HUP\nwhile :; do sleep 1; done\n", 300ms, "did not end in time"},
      {"kill -STOP $$\n", 300ms, "did not end in time"},
      {"while :; do printf '{'; sleep 0.01; done\n", 300ms, "did not end in time"},
      {"exec cat /dev/zero >&2\n", 300ms, "did not end in time"},
      {"yes '{' | cat\n", 60s, "writes more than a credential"},
      {"yes '{' & sleep 1000\n", 60s, "writes more than a credential"},
  };
  for (const auto& [script, deadline, named] : cases) {
    Plugin plugin("echo $$ >\"$0.pid\"\n" + script, deadline);
    const std::string said = plugin.refusal();
    INFO(script << said);
    CHECK(holds(said, named));
    CHECK(said.size() < 1000);
    const std::string group = read_file(plugin.folder / "plugin.pid");
    if (group.empty()) continue;  // it had not come that far
    auto gone = [&]() -> asio::awaitable<void> {
      asio::steady_timer turn(plugin.context);
      for (auto until = soon(); ::kill(-std::stoi(group), 0) == 0 && Clock::now() < until;) {
        turn.expires_after(1ms);
        co_await turn.async_wait(asio::use_awaitable);
      }
    };
    run(plugin.context, gone);
    CHECK(::kill(-std::stoi(group), 0) != 0);
  }
}

TEST_CASE("a plugin's background children keep nobody waiting, and its stderr is emptied") {
  Plugin plugin("sleep 1000 & echo $! >\"$0.pid\"\nhead -c 300000 /dev/zero >&2\n" + gives(R"({"token":"t"})"));
  CHECK(plugin.token() == "t");
  const auto left = std::stoi(read_file(plugin.folder / "plugin.pid"));
  CHECK(::kill(left, SIGKILL) == 0);
}

TEST_CASE("destroyed while a plugin runs") {
  Plugin plugin("echo $$ >\"$0.pid\"\nexec sleep 1000\n");
  asio::co_spawn(plugin.context, [&]() -> asio::awaitable<void> { co_await plugin.credentials().get(soon()); }, asio::detached);
  auto body = [&]() -> asio::awaitable<void> {
    asio::steady_timer turn(plugin.context);
    for (auto until = soon(); read_file(plugin.folder / "plugin.pid").empty() && Clock::now() < until;) {
      turn.expires_after(1ms);
      co_await turn.async_wait(asio::use_awaitable);
    }
  };
  run(plugin.context, body);
  CHECK_FALSE(read_file(plugin.folder / "plugin.pid").empty());
}
