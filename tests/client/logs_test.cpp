// Logs: of real sandboxes, and from a scripted server for what only a fault can show. The scripted streams are written here by hand
// from the Connect protocol's text: a flag byte, a 32-bit big-endian length, that many bytes of JSON; flag 2 is the end.
#include "scripted_server.hpp"
#include "support.hpp"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

using namespace support;
using namespace cwsandbox;
using nlohmann::json;
namespace asio = boost::asio;

namespace {

/// Everything a reader gives, one line each; "<gap N>" for a gap.
std::string all_of(const StreamReader<LogLine>& reader) {
  std::string text;
  for (const auto& line : reader) text += (line.is_gap() ? "<gap " + std::to_string(line.lost_bytes) + ">" : line.text) + "\n";
  return text;
}

/// A sandbox whose main command is a script; ended or not.
Sandbox running(const std::string& script) { return Sandbox::run(SandboxOptions().with_command(shell(script))); }
Sandbox ended(const std::string& script) {
  auto sandbox = running(script);
  static_cast<void>(sandbox.wait_until_complete().result(60s));
  return sandbox;
}

std::string base64(const std::string& bytes) {
  static constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    unsigned word = 0;
    for (std::size_t j = 0; j < 3; ++j)
      word = (word << 8U) | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0U);
    for (std::size_t j = 0; j < 4; ++j)
      text += j <= std::min<std::size_t>(3, bytes.size() - i) ? kDigits[(word >> (18 - 6 * j)) & 63U] : '=';
  }
  return text;
}

std::string envelope(const json& message, unsigned flags = 0) {
  const std::string text = message.dump();
  std::string out(1, static_cast<char>(flags));
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>((text.size() >> static_cast<unsigned>(shift)) & 255U);
  return out + text;
}
std::string end() { return envelope(json::object(), 2); }
std::string end_with(const std::string& code) { return envelope({{"error", {{"code", code}, {"message", "as told"}}}}, 2); }

/// An entry as the protocol has it; 64-bit numbers are strings.
std::string entry(const std::string& data, std::uint64_t next, const std::string& session = "s1", const std::string& time = "") {
  json message = {{"data", base64(data)}, {"logSessionId", session}, {"nextLogOffset", std::to_string(next)}};
  if (!time.empty()) message["timestamp"] = time;
  return envelope(message);
}
std::string in_band(const std::string& code, std::uint64_t next = 0, const std::string& session = "") {
  json message = {{"error", {{"code", code}, {"message", "said " + code}}}};
  if (next > 0) message["nextLogOffset"] = std::to_string(next);
  if (!session.empty()) message["logSessionId"] = session;
  return envelope(message);
}

ScriptedServer::Answer stream(const std::string& body, bool cut = false) {
  ScriptedServer::Answer answer;
  answer.content_type = "application/connect+json";
  answer.body = body;
  answer.missing = cut ? 100 : 0;
  return answer;
}

struct ScriptedLogs {
  ScriptedServer server;
  Sandbox sandbox;
  explicit ScriptedLogs(std::vector<ScriptedServer::Answer> streams) {
    server.reply("CreateSandbox", ScriptedServer::sandbox("sb-1", "STATE_RUNNING"));
    server.reply("DeleteSandbox", json::object());
    server.reply_each("StreamLogs", std::move(streams));
    sandbox = Sandbox::run(Client(server.options().with_retry_budget(0ms)));
    sandbox.release();  // the server goes first
  }
  [[nodiscard]] std::string follow() const { return all_of(sandbox.stream_logs(LogOptions().with_follow())); }
  /// What the request said, behind its envelope's five bytes.
  [[nodiscard]] json asked(std::size_t i) const { return json::parse(server.requests("StreamLogs").at(i).body.substr(5)); }
};

}  // namespace

TEST_CASE("whole lines, and a last one that nothing ends", "[LG-1][LG-12]") {
  const auto errors = ended("echo one >&2; printf two >&2");
  CHECK(all_of(errors.stream_logs()) == "one\ntwo\n");
  const auto sandbox = ended("echo one; echo two; echo; printf 'no end'");
  CHECK(all_of(sandbox.stream_logs()) == "one\ntwo\n\nno end\n");
  CHECK(all_of(sandbox.stream_logs(LogOptions().with_follow())) == "one\ntwo\n\nno end\n");
  CHECK(all_of(sandbox.stream_logs(LogOptions().with_tail_lines(2))) == "\nno end\n");
  CHECK(all_of(sandbox.stream_logs(LogOptions().with_since(std::chrono::system_clock::now() + 1h))).empty());
  for (const auto& line : sandbox.stream_logs()) CHECK_FALSE(line.timestamp);
  CHECK_THROWS_AS(sandbox.stream_logs(LogOptions().with_tail_lines(0)), std::invalid_argument);
}

TEST_CASE("a gateway inside keeps output elsewhere when it cannot in TMPDIR", "[LG-1][EV-14]") {
  const char* before = std::getenv("TMPDIR");
  const std::string old = before != nullptr ? before : "";
  ::setenv("TMPDIR", "/no/such/place", 1);
  {
    asio::io_context context;
    const auto work = asio::make_work_guard(context);
    std::thread thread([&context] { context.run(); });
    {
      const LoopManager loop(context.get_executor());
      const Client client(ClientOptions().with_base_url("local:").with_loop(loop));
      const auto sandbox = Sandbox::run(client, SandboxOptions().with_command(shell("seq 1 100000")));
      std::string expected;
      for (int i = 1; i <= 100000; ++i) expected += std::to_string(i) + "\n";
      CHECK((all_of(sandbox.stream_logs(LogOptions().with_follow())) == expected));
    }
    context.stop();
    thread.join();
  }
  if (before != nullptr)
    ::setenv("TMPDIR", old.c_str(), 1);
  else
    ::unsetenv("TMPDIR");
}

TEST_CASE("a sandbox that was stopped still has its log", "[LG-12]") {
  const auto sandbox = running("echo before; exec sleep 1000");
  const auto reader = sandbox.stream_logs(LogOptions().with_follow());
  CHECK(reader.next().result(30s)->text == "before");
  sandbox.stop(StopOptions().with_grace_period(1s)).result(30s);
  CHECK(all_of(sandbox.stream_logs()) == "before\n");
  CHECK(all_of(reader).empty());  // a follow ends with the command
}

TEST_CASE("a follow gives lines as they are written, with their times", "[LG-1][SR-8]") {
  const auto before = std::chrono::system_clock::now() - 1s;
  const auto sandbox = running("echo ready; exec sleep 1000");
  const auto reader = sandbox.stream_logs(LogOptions().with_follow().with_timestamps());
  const auto first = reader.next().result(30s);
  REQUIRE(first);
  CHECK(first->text == "ready");
  REQUIRE(first->timestamp);
  CHECK(*first->timestamp > before);
  CHECK(*first->timestamp < std::chrono::system_clock::now() + 1s);
}

TEST_CASE("a follow goes on while the command is silent, and gets what comes then", "[LG-1]") {
  const auto sandbox = running("mkfifo /tmp/pipe; echo ready; cat /tmp/pipe");
  const auto reader = sandbox.stream_logs(LogOptions().with_follow());
  CHECK(reader.next().result(30s)->text == "ready");
  const auto next = reader.next();
  CHECK_THROWS_AS(next.result(50ms), TimeoutError);
  sandbox.exec(shell("echo now > /tmp/pipe")).wait();
  CHECK(next.result(30s)->text == "now");
  CHECK_FALSE(reader.next().result(30s));
}

TEST_CASE("none of 300,000 lines is lost, however fast they come", "[LG-1][LG-3]") {
  const auto sandbox = running("seq 1 300000");
  const auto reader = sandbox.stream_logs(LogOptions().with_follow());
  std::uint64_t expected = 1;
  bool right = true;
  for (const auto& line : reader) right = right && !line.is_gap() && line.text == std::to_string(expected++);
  CHECK(right);
  CHECK(expected == 300'001);
}

TEST_CASE("a reader that is slow holds the server up; closing it ends the stream", "[LG-3][SR-6]") {
  const auto sandbox = running("while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done");
  const auto reader = sandbox.stream_logs(LogOptions().with_follow());
  for (int i = 0; i < 1000; ++i) REQUIRE(reader.next().result(30s));
  reader.close();
  CHECK_FALSE(reader.next().result());
  {
    const auto dropped = sandbox.stream_logs(LogOptions().with_follow());
    REQUIRE(dropped.next().result(30s));
  }
  const auto waiting = sandbox.stream_logs(LogOptions().with_follow());
  std::thread closer([&] { waiting.close(); });
  static_cast<void>(all_of(waiting));
  closer.join();
}

TEST_CASE("a line of more than 1 MiB", "[LG-2]") {
  const std::string half(700'000, 'x');
  SECTION("in pieces") {
    const ScriptedLogs scripted({stream(entry("ok\n" + half, 700'003) + entry(half, 1'400'003) + end())});
    const auto reader = scripted.sandbox.stream_logs(LogOptions().with_follow());
    CHECK(reader.next().result(30s)->text == "ok");
    CHECK_THROWS_AS(reader.next().result(30s), SandboxStreamTruncatedError);
    CHECK_FALSE(reader.next().result(30s));
    CHECK(scripted.server.count("StreamLogs") == 1);
  }
  SECTION("in one") {
    const ScriptedLogs scripted({stream(entry(half + half + "\n", 1'400'001) + end())});
    CHECK_THROWS_AS(all_of(scripted.sandbox.stream_logs()), SandboxStreamTruncatedError);
  }
  SECTION("exactly 1 MiB is no error") {
    const std::string line(1024 * 1024, 'y');
    const ScriptedLogs scripted(
        {stream(entry(line.substr(0, 500'000), 500'000) + entry(line.substr(500'000) + "\n", 1'048'577) + end())});
    CHECK((all_of(scripted.sandbox.stream_logs()) == line + "\n"));
  }
  SECTION("of a real one") {
    const auto sandbox = ended("echo first; head -c 1500000 /dev/zero | tr '\\0' x; echo; echo last");
    const auto reader = sandbox.stream_logs();
    CHECK(reader.next().result(30s)->text == "first");
    CHECK_THROWS_AS(reader.next().result(30s), SandboxStreamTruncatedError);
  }
}

TEST_CASE("a follow that breaks goes on by session and offset, also within a line", "[LG-3]") {
  const ScriptedLogs scripted({stream(entry("one\ntw", 6), true), stream(entry("o\nthree\n", 14)),
                               stream(in_band("STREAM_INTERRUPTED")), stream(entry("four", 18) + end())});
  CHECK(scripted.follow() == "one\ntwo\nthree\nfour\n");
  REQUIRE(scripted.server.count("StreamLogs") == 4);
  CHECK(scripted.asked(0) == json{{"sandboxId", "sb-1"}, {"follow", true}});
  CHECK(scripted.asked(1) == json{{"sandboxId", "sb-1"}, {"follow", true}, {"resumeLogSessionId", "s1"}, {"resumeLogOffset", "6"}});
  CHECK(scripted.asked(2).at("resumeLogOffset") == "14");
  CHECK(scripted.asked(3).at("resumeLogOffset") == "14");
}

TEST_CASE("what was asked for at first is not asked for again", "[LG-3]") {
  const ScriptedLogs scripted({stream(entry("one\n", 4), true), stream(end())});
  const auto since = std::chrono::system_clock::time_point(1'700'000'000s);
  CHECK(all_of(scripted.sandbox.stream_logs(LogOptions().with_follow().with_tail_lines(7).with_since(since).with_timestamps())) ==
        "one\n");
  CHECK(scripted.asked(0).at("tailLines") == 7);
  CHECK(scripted.asked(0).at("sinceTime") == "2023-11-14T22:13:20Z");
  CHECK(scripted.asked(0).at("timestamps") == true);
  CHECK_FALSE(scripted.asked(1).contains("tailLines"));
  CHECK_FALSE(scripted.asked(1).contains("sinceTime"));
}

TEST_CASE("a gap is an item", "[LG-4]") {
  SECTION("from a server that goes on behind it") {
    const ScriptedLogs scripted(
        {stream(entry("one\npart", 8), true), stream(in_band("REPLAY_GAP", 1008, "s1") + entry("two\n", 1012) + end())});
    CHECK(scripted.follow() == "one\npart\n<gap 1000>\ntwo\n");
    CHECK(scripted.server.count("StreamLogs") == 2);
  }
  SECTION("at the start") {
    const ScriptedLogs scripted({stream(in_band("REPLAY_GAP", 500, "s1") + entry("two\n", 504) + end())});
    CHECK(all_of(scripted.sandbox.stream_logs()) == "<gap 500>\ntwo\n");
  }
  SECTION("where the log begins afresh, nobody knows how much") {
    const auto code = GENERATE(as<std::string>(), "SESSION_NOT_FOUND", "REPLAY_GAP", "RUNNER_UNAVAILABLE", "RUNNER_DRAINING");
    CAPTURE(code);
    const ScriptedLogs scripted({stream(entry("one\n", 4, "s1", "2023-11-14T22:13:20Z"), true), stream(in_band(code)),
                                 stream(entry("two\n", 4, "s2") + end())});
    CHECK(scripted.follow() == "one\n<gap 0>\ntwo\n");
    CHECK_FALSE(scripted.asked(2).contains("resumeLogSessionId"));
    CHECK_FALSE(scripted.asked(2).contains("resumeLogOffset"));
    CHECK(scripted.asked(2).at("sinceTime") == "2023-11-14T22:13:20Z");
  }
  SECTION("afresh before anything has come is no gap") {
    const ScriptedLogs scripted({stream(in_band("RUNNER_UNAVAILABLE")), stream(entry("one\n", 4) + end())});
    CHECK(scripted.follow() == "one\n");
  }
}

TEST_CASE("codes that end a follow", "[LG-3]") {
  SECTION("of the stream itself") {
    const ScriptedLogs scripted({stream(entry("one\n", 4) + in_band("SANDBOX_NOT_FOUND"))});
    const auto reader = scripted.sandbox.stream_logs(LogOptions().with_follow());
    CHECK(reader.next().result(30s)->text == "one");
    CHECK_THROWS_AS(reader.next().result(30s), SandboxNotFoundError);
    CHECK(scripted.server.count("StreamLogs") == 1);
  }
  SECTION("permission") {
    const ScriptedLogs scripted({stream(in_band("PERMISSION_DENIED"))});
    CHECK_THROWS_AS(scripted.follow(), CWSandboxAuthenticationError);
  }
  SECTION("one that nobody knows") {
    const ScriptedLogs scripted({stream(in_band("INVALID_RESUME_OFFSET")), stream(end())});
    try {
      static_cast<void>(scripted.follow());
      FAIL("no error");
    } catch (const SandboxError& error) {
      CHECK(error.metadata().at("stream_code") == "INVALID_RESUME_OFFSET");
      CHECK(std::string(error.what()).find("said INVALID_RESUME_OFFSET") != std::string::npos);
    }
    CHECK(scripted.server.count("StreamLogs") == 1);
  }
  SECTION("the protocol's own end") {
    const ScriptedLogs scripted({stream(entry("one\n", 4) + end_with("permission_denied"))});
    CHECK_THROWS_AS(scripted.follow(), CWSandboxAuthenticationError);
  }
  SECTION("an answer that is an error") {
    const ScriptedLogs scripted({ScriptedServer::error("not_found", "no such sandbox", "CWSANDBOX_SANDBOX_NOT_FOUND")});
    CHECK_THROWS_AS(scripted.follow(), SandboxNotFoundError);
    CHECK(scripted.server.count("StreamLogs") == 1);
  }
}

TEST_CASE("three attempts without data, then the cause", "[LG-7]") {
  // Data sets the count back: the second stream brings some, the three after it do not.
  const ScriptedLogs scripted({stream(entry("one\n", 4), true), stream(entry("two\n", 8) + end_with("unavailable")),
                               ScriptedServer::error("unavailable", "the runner is on fire")});
  const auto reader = scripted.sandbox.stream_logs(LogOptions().with_follow());
  CHECK(reader.next().result(30s)->text == "one");
  CHECK(reader.next().result(30s)->text == "two");
  try {
    static_cast<void>(reader.next().result(30s));
    FAIL("no error");
  } catch (const SandboxUnavailableError& error) {
    CHECK(std::string(error.what()).find("the runner is on fire") != std::string::npos);
    CHECK(error.code() == "unavailable");
    bool nested = false;
    try {
      std::rethrow_if_nested(error);
    } catch (const SandboxUnavailableError& cause) {
      nested = std::string(cause.what()) == "the runner is on fire";
    }
    CHECK(nested);
  }
  CHECK_FALSE(reader.next().result(30s));
  CHECK(scripted.server.count("StreamLogs") == 5);
}

TEST_CASE("without follow nothing is connected again", "[LG-8]") {
  const auto answer = GENERATE(0, 1, 2, 3);
  const std::vector<ScriptedServer::Answer> answers = {stream(entry("one\n", 4), true), stream(entry("one\n", 4)),
                                                       stream(entry("one\n", 4) + in_band("STREAM_INTERRUPTED")),
                                                       ScriptedServer::error("unavailable", "busy")};
  const ScriptedLogs scripted({answers[static_cast<std::size_t>(answer)]});
  CHECK_THROWS_AS(all_of(scripted.sandbox.stream_logs()), SandboxUnavailableError);
  CHECK(scripted.server.count("StreamLogs") == 1);
}

TEST_CASE("closing a follow that waits to go on ends it", "[LG-3][SR-6]") {
  const ScriptedLogs scripted({ScriptedServer::error("unavailable", "busy")});
  const auto reader = scripted.sandbox.stream_logs(LogOptions().with_follow());
  CHECK(eventually([&] { return scripted.server.count("StreamLogs") > 0; }));
  reader.close();
  CHECK_FALSE(reader.next().result(30s));
}
