// What a client tells of what it does.
#include "resume_support.hpp"
#include "scripted_server.hpp"

#include <map>
#include <mutex>

using namespace support;
using namespace cwsandbox;

namespace {

using Kind = TraceEvent::Kind;

/// Keeps what it is told.
class Observed {
 public:
  [[nodiscard]] TraceCallback trace() const {
    return [kept = kept_](const TraceEvent& event) {
      const std::lock_guard lock(kept->mutex);
      kept->events.push_back(event);
    };
  }
  [[nodiscard]] Logger logger() const {
    return [kept = kept_](LogLevel level, std::string_view line) {
      const std::lock_guard lock(kept->mutex);
      kept->lines.emplace_back(level, line);
    };
  }
  [[nodiscard]] std::vector<TraceEvent> events(Kind kind) const {
    const std::lock_guard lock(kept_->mutex);
    std::vector<TraceEvent> found;
    for (const auto& event : kept_->events)
      if (event.kind == kind) found.push_back(event);
    return found;
  }
  [[nodiscard]] std::vector<std::string> lines(LogLevel level) const {
    const std::lock_guard lock(kept_->mutex);
    std::vector<std::string> found;
    for (const auto& [its, line] : kept_->lines)
      if (its == level) found.push_back(line);
    return found;
  }
  [[nodiscard]] bool tells(const std::string& text) const {
    const std::lock_guard lock(kept_->mutex);
    for (const auto& event : kept_->events)
      if ((event.operation + event.error + event.sandbox_id).find(text) != std::string::npos) return true;
    for (const auto& [level, line] : kept_->lines)
      if (line.find(text) != std::string::npos) return true;
    return false;
  }

 private:
  struct Kept {
    std::mutex mutex;
    std::vector<TraceEvent> events;
    std::vector<std::pair<LogLevel, std::string>> lines;
  };
  std::shared_ptr<Kept> kept_ = std::make_shared<Kept>();
};

/// As of ScriptedServer::error, for a request that may be tried again at once.
ScriptedServer::Answer busy() { return ScriptedServer::error("unavailable", "busy\x1b[2J", "", 1ms); }

}  // namespace

TEST_CASE("requests and processes are told, and nothing secret", "[OB-1]") {
  const Daemon daemon;
  const Observed observed;
  auto options = daemon.options().with_trace(observed.trace()).with_logger(observed.logger());
  const auto sandbox = Sandbox::run(Client(options), SandboxOptions().with_env("PASSWORD", "hunter2"));
  const auto process = sandbox.exec({"sh", "-c", "exit 3", "hunter2"});
  CHECK(process.wait() == 3);
  const auto failing = sandbox.exec({"/no/such", "hunter2"});
  CHECK_THROWS_AS(failing.result(), SandboxExecutionError);
  CHECK_THROWS_AS(sandbox.exec({"false", "hunter2"}, ExecOptions().with_check()).result(), SandboxExecutionError);
  sandbox.write_file("/tmp/hunter2", "hunter2", WriteFileOptions().with_mode(0600)).result();
  CHECK_THROWS_AS(sandbox.read_file("/tmp/none/hunter2").result(), SandboxFileError);
  sandbox.stop().result();

  std::map<std::string, TraceEvent> requests;
  for (const auto& event : observed.events(Kind::request)) requests[event.operation] = event;
  REQUIRE(requests.contains("POST /coreweave.sandbox.v1.SandboxService/CreateSandbox"));
  CHECK(requests["POST /coreweave.sandbox.v1.SandboxService/CreateSandbox"].http_status == 200);
  CHECK(requests["POST /coreweave.sandbox.v1.SandboxService/CreateSandbox"].duration > 0ns);
  REQUIRE(requests.contains("PUT /v1/files"));
  CHECK(requests["PUT /v1/files"].http_status == 200);
  CHECK(requests["GET /v1/exec"].http_status == 101);
  const auto ended = observed.events(Kind::exec);
  REQUIRE(ended.size() == 3);
  CHECK(ended[0].operation == "sh");
  CHECK(ended[0].process_id == process.id());
  CHECK(ended[0].sandbox_id == *sandbox.sandbox_id());
  CHECK(ended[0].outcome == "exited");
  CHECK(ended[0].error.empty());
  CHECK(ended[1].outcome == "failed");
  CHECK(ended[1].error.find("ENOENT") != std::string::npos);
  CHECK(ended[2].error.find("exit code 1") != std::string::npos);
  CHECK_FALSE(observed.tells("hunter2"));
  CHECK_FALSE(observed.tells(daemon.token()));
  CHECK_FALSE(observed.lines(LogLevel::debug).empty());
  CHECK(observed.lines(LogLevel::warning).empty());
}

TEST_CASE("retries are told, with the attempt, the delay and the reason", "[OB-1]") {
  ScriptedServer server;
  const Observed observed;
  server.reply_each("CreateSandbox", {busy(), busy(), ScriptedServer::ok(ScriptedServer::sandbox("sb-1", "STATE_RUNNING"))});
  server.reply_each("GetSandbox", {ScriptedServer::ok(ScriptedServer::sandbox("sb-1", "STATE_RUNNING"))});
  const auto sandbox =
      Sandbox::run(Client(server.options().with_trace(observed.trace()).with_logger(observed.logger())), SandboxOptions());
  sandbox.start().result();
  sandbox.release();
  const auto retries = observed.events(Kind::retry);
  REQUIRE(retries.size() == 2);
  CHECK(retries[0].operation == "CreateSandbox");
  CHECK(retries[0].attempt == 1);
  CHECK(retries[0].delay == 1ms);
  CHECK(retries[0].error.find("busy") != std::string::npos);
  CHECK(retries[1].attempt == 2);
  const auto warnings = observed.lines(LogLevel::warning);
  REQUIRE(warnings.size() == 2);
  CHECK(warnings[0].find("CreateSandbox: attempt 1 failed, the next one comes in 1 ms: ") == 0);
  CHECK(warnings[0].find('\x1b') == std::string::npos);  // of others, for a terminal
  unsigned refused = 0;
  for (const auto& event : observed.events(Kind::request)) refused += event.http_status == 503 ? 1 : 0;
  CHECK(refused == 2);
}

TEST_CASE("a lost connection that was replaced is told", "[OB-1]") {
  Stage stage;
  const Observed observed;
  const auto through = Sandbox::from_id(Client(stage.options().with_trace(observed.trace()).with_logger(observed.logger())),
                                        *stage.owner.sandbox_id())
                           .result();
  const auto process = through.exec({"cat"}, ExecOptions().with_stdin());
  process.std_in()->write("a\n").result();
  static_cast<void>(read_until(process.std_out(), "a\n"));
  stage.proxy.cut_all();
  process.std_in()->write("b\n").result();
  static_cast<void>(read_until(process.std_out(), "b\n"));
  const auto resumed = observed.events(Kind::resume);
  REQUIRE(resumed.size() == 1);
  CHECK(resumed[0].process_id == process.id());
  CHECK(resumed[0].operation == "cat");
  CHECK(resumed[0].duration > 0ns);
  REQUIRE(observed.lines(LogLevel::info).size() == 1);
  CHECK(observed.lines(LogLevel::info)[0].find("connected again") != std::string::npos);
  process.std_in()->close().result();
  CHECK(process.result(60s).std_out == "a\nb\n");
}

TEST_CASE("what a callback throws changes nothing; clients with callbacks of their own do not mix", "[OB-1][OB-2]") {
  const Daemon daemon;
  const auto throws = [](auto&&...) { throw std::runtime_error("from the callback"); };
  const auto sandbox = Sandbox::run(Client(daemon.options().with_trace(throws).with_logger(throws)));
  CHECK(sandbox.exec({"true"}).wait() == 0);
  const Observed one, other;
  const Client first(daemon.options().with_trace(one.trace())), second(daemon.options().with_trace(other.trace()));
  CHECK(Sandbox::list(first).result().size() == 1);
  CHECK(one.events(Kind::request).size() == 1);
  CHECK(other.events(Kind::request).empty());
}

TEST_CASE("a key that goes over a network unencrypted is warned of", "[OB-2]") {
  const auto warnings = [](ClientOptions options) {
    const Observed observed;
    const Client client(options.with_logger(observed.logger()));
    return observed.lines(LogLevel::warning);
  };
  const auto to = [](const std::string& url) { return ClientOptions().with_base_url(url).with_api_key("secret-key"); };
  const auto said = warnings(to("http://gateway.example:8000"));
  REQUIRE(said.size() == 1);
  CHECK(said[0].find("http://gateway.example:8000") != std::string::npos);
  CHECK(said[0].find("secret-key") == std::string::npos);
  CHECK(warnings(to("http://192.0.2.1")).size() == 1);
  CHECK(warnings(to("http://127.0.0.1:8000")).empty());
  CHECK(warnings(to("http://[::1]:8000")).empty());
  CHECK(warnings(to("http://localhost:8000")).empty());
  CHECK(warnings(to("https://gateway.example")).empty());
  CHECK(warnings(to("https://gateway.example").with_verify(false)).size() == 1);
  CHECK(warnings(to("unix:/run/none.sock")).empty());
}
