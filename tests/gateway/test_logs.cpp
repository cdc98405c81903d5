// StreamLogs over real sockets, of real sandboxes.
#include "gateway_support.hpp"
#include "support/catch.hpp"

#include <algorithm>

using namespace gateway_test;
using Catch::Matchers::Contains;

namespace {

std::string make(Server& server, const std::string& script, const Json& env = Json::object()) {
  const Json spec = {
      {"containers", {{{"name", "main"}, {"command", "/bin/sh"}, {"args", {"-c", script}}, {"environmentVariables", env}}}}};
  const Answer answer = server.call("CreateSandbox", {{"sandbox", {{"spec", spec}}}});
  if (answer.status != 200) throw std::runtime_error(answer.body);
  return answer.json()["sandboxId"];
}

std::uint64_t offset_of(const Json& entry) { return std::stoull(entry.value("nextLogOffset", "0")); }
std::string data_of(const Json& entry) { return base64_decode(entry.value("data", "")); }

/// Reads to the end and checks that offsets follow from each other.
struct Read {
  std::string data, session;
  std::vector<Json> gaps;
  std::size_t entries = 0, silent = 0;
  std::uint64_t offset = 0;
  void take(const Json& entry) {
    if (session.empty()) session = entry.value("logSessionId", "");
    if (entry.value("logSessionId", "") != session) throw std::runtime_error("another session");
    if (entry.contains("error")) {
      gaps.push_back(entry);
      offset = offset_of(entry);
      return;
    }
    const std::string piece = data_of(entry);
    if (piece.size() > 64 * 1024) throw std::runtime_error("an entry of " + std::to_string(piece.size()));
    if (piece.empty()) ++silent;
    ++entries;
    data += piece;
    if (offset + piece.size() != offset_of(entry))
      throw std::runtime_error("offsets do not add up: " + entry.dump().substr(0, 200));
    offset = offset_of(entry);
  }
};

Read read_all(StreamCall call, std::uint64_t from = 0) {
  Read read;
  read.offset = from;
  while (const auto entry = call.next()) read.take(*entry);
  if (call.end != Json::object()) throw std::runtime_error("ended with " + call.end.dump());
  return read;
}

std::string numbers(int count) {
  std::string out;
  for (int i = 1; i <= count; ++i) out += std::to_string(i) + "\n";
  return out;
}

}  // namespace

TEST_CASE("the main command's output is there, with follow, without, and after the end", "[gateway][logs][LG-1][LG-12]") {
  Server server;
  const std::string id =
      make(server, "echo one; echo two >&2; printf three; while [ ! -e /tmp/go ]; do sleep 0.01; done; printf ' end'");
  REQUIRE(server.wait_state(id, "STATE_RUNNING") == "STATE_RUNNING");
  StreamCall follow = server.logs({{"sandboxId", id}, {"follow", true}});
  CHECK(follow.status == 200);
  CHECK(follow.headers["content-type"] == "application/connect+json");
  Read live;
  while (live.data.size() < 13) {
    const auto entry = follow.next();
    REQUIRE(entry);
    live.take(*entry);
  }
  const Read now = read_all(server.logs({{"sandboxId", id}}));
  CHECK(now.data == live.data);
  CHECK(now.session == live.session);
  CHECK(server.call("Exec", {{"sandboxId", id}, {"command", {"touch", "/tmp/go"}}}).status == 200);
  while (const auto entry = follow.next()) live.take(*entry);
  CHECK(follow.end == Json::object());
  CHECK(server.wait_state(id, "STATE_COMPLETED") == "STATE_COMPLETED");
  std::string sorted = live.data;
  CHECK((sorted == "one\ntwo\nthree end" || sorted == "one\nthreetwo\n end" || sorted == "two\none\nthree end"));
  for (const bool again : {false, true}) {
    const Read stopped = read_all(server.logs({{"sandboxId", id}, {"follow", again}, {"container", "main"}}));
    CHECK(stopped.data == live.data);
    CHECK(stopped.gaps.empty());
  }
}

TEST_CASE("what was written last is not lost with the main command", "[gateway][logs][LG-1]") {
  Server server;
  const std::string id = make(server, "seq 1 20000; printf last");
  CHECK(read_all(server.logs({{"sandboxId", id}, {"follow", true}})).data == numbers(20000) + "last");
  CHECK(read_all(server.logs({{"sandboxId", id}})).data == numbers(20000) + "last");
}

TEST_CASE("a follower that keeps up loses none of 300,000 lines, each written by itself", "[gateway][logs][LG-1]") {
  Server server;
  const std::string id = make(server, "while [ ! -e /tmp/go ]; do sleep 0.01; done; stdbuf -oL seq 1 300000");
  REQUIRE(server.wait_state(id, "STATE_RUNNING") == "STATE_RUNNING");
  auto one = std::async(std::launch::async, [&] { return read_all(server.logs({{"sandboxId", id}, {"follow", true}})); });
  auto other = std::async(std::launch::async,
                          [&] { return read_all(server.logs({{"sandboxId", id}, {"follow", true}, {"timestamps", true}})); });
  CHECK(server.call("Exec", {{"sandboxId", id}, {"command", {"touch", "/tmp/go"}}}).status == 200);
  const std::string all = numbers(300000);
  for (auto* follower : {&one, &other}) {
    const Read read = follower->get();
    CHECK(read.gaps.empty());
    CHECK(read.data.size() == all.size());
    CHECK((read.data == all));
  }
}

TEST_CASE("a follower that reads nothing holds up nobody, and is told what it has missed", "[gateway][logs][LG-4]") {
  Server server([](auto& options) { options.log_bytes = 64 * 1024; });
  const std::string id = make(server, "while [ ! -e /tmp/go ]; do sleep 0.01; done; seq 1 300000");
  REQUIRE(server.wait_state(id, "STATE_RUNNING") == "STATE_RUNNING");
  StreamCall slow = server.logs({{"sandboxId", id}, {"follow", true}});
  CHECK(server.call("Exec", {{"sandboxId", id}, {"command", {"touch", "/tmp/go"}}}).status == 200);
  CHECK(server.wait_state(id, "STATE_COMPLETED") == "STATE_COMPLETED");
  const std::string all = numbers(300000);
  CHECK(read_all(server.logs({{"sandboxId", id}, {"follow", true}})).offset == all.size());
  // It gets what was on its way, is told about the gap, and gets the rest.
  Read late;
  std::string expected;
  while (const auto entry = slow.next()) {
    const std::uint64_t before = late.offset;
    late.take(*entry);
    if (entry->contains("error")) {
      CHECK((*entry)["error"]["code"] == "REPLAY_GAP");
      CHECK(all[late.offset - 1] == '\n');
    } else {
      expected += all.substr(before, late.offset - before);
    }
  }
  CHECK(slow.end == Json::object());
  CHECK(!late.gaps.empty());
  CHECK((late.data == expected));
  CHECK(late.offset == all.size());
}

TEST_CASE("an old start of a small log is a gap that says where it goes on", "[gateway][logs][LG-4]") {
  Server server([](auto& options) { options.log_bytes = 50'000; });
  const std::string id = make(server, "seq 1 50000");
  CHECK(server.wait_state(id, "STATE_COMPLETED") == "STATE_COMPLETED");
  const std::string all = numbers(50000);
  for (const bool follow : {false, true}) {
    const Read read = read_all(server.logs({{"sandboxId", id}, {"follow", follow}}));
    REQUIRE(read.gaps.size() == 1);
    CHECK(read.gaps[0]["error"]["code"] == "REPLAY_GAP");
    const std::uint64_t from = offset_of(read.gaps[0]);
    CHECK(from >= all.size() - 50'000);
    CHECK(from < all.size() - 49'900);
    CHECK((read.data == all.substr(from)));
  }
  // A tail that is there needs nothing of what is gone; one that is not, does.
  CHECK(read_all(server.logs({{"sandboxId", id}, {"tailLines", 2}}), all.size() - 12).gaps.empty());
  CHECK(read_all(server.logs({{"sandboxId", id}, {"tailLines", 40000}})).gaps.size() == 1);
}

TEST_CASE("a log is resumed by its session and an offset", "[gateway][logs][LG-3]") {
  Server server;
  const std::string id = make(server, "seq 1 1000");
  CHECK(server.wait_state(id, "STATE_COMPLETED") == "STATE_COMPLETED");
  const Read whole = read_all(server.logs({{"sandboxId", id}}));
  const std::string all = numbers(1000);
  REQUIRE(whole.data == all);
  for (const std::uint64_t offset : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1000}, std::uint64_t{all.size()}}) {
    const Json request = {{"sandboxId", id},
                          {"follow", true},
                          {"resumeLogSessionId", whole.session},
                          {"resumeLogOffset", std::to_string(offset)},
                          {"tailLines", 1}};
    CHECK(read_all(server.logs(request), offset).data == all.substr(offset));
  }
  StreamCall other = server.logs({{"sandboxId", id}, {"resumeLogSessionId", "someone-elses"}});
  CHECK(other.next().value()["error"]["code"] == "SESSION_NOT_FOUND");
  CHECK(!other.next());
  CHECK(other.end == Json::object());
  StreamCall beyond = server.logs({{"sandboxId", id}, {"resumeLogSessionId", whole.session}, {"resumeLogOffset", 99999}});
  CHECK(beyond.next().value()["error"]["code"] == "INVALID_RESUME_OFFSET");
  CHECK(!beyond.next());
}

TEST_CASE("tail, since and timestamps", "[gateway][logs]") {
  Server server;
  const std::string id = make(server, "seq 1 5; sleep 0.3; seq 6 9; printf ten");
  CHECK(server.wait_state(id, "STATE_COMPLETED") == "STATE_COMPLETED");
  const auto text = [&](Json more) {
    more["sandboxId"] = id;
    StreamCall call = server.logs(more);
    std::string out;
    while (const auto entry = call.next()) out += data_of(*entry);
    CHECK(call.end == Json::object());
    return out;
  };
  const std::string all = numbers(9) + "ten";
  CHECK(text({{"tailLines", 1}}) == "ten");
  CHECK(text({{"tailLines", 3}}) == "8\n9\nten");
  CHECK(text({{"tailLines", 10}}) == all);
  CHECK(text({{"tailLines", 1000000}}) == all);
  CHECK(text({{"timestamps", true}}) == all);

  StreamCall timed = server.logs({{"sandboxId", id}, {"timestamps", true}});
  std::string second;
  for (const Json& entry : timed.rest()) {
    const std::string data = data_of(entry);
    CHECK(!(data.find("5\n") != std::string::npos && data.find("6\n") != std::string::npos));  // two arrivals, two entries
    if (data.starts_with("6\n")) second = entry["timestamp"];
  }
  REQUIRE(!second.empty());
  CHECK(text({{"sinceTime", second}}) == "6\n7\n8\n9\nten");
  CHECK(text({{"sinceTime", second}, {"tailLines", 2}}) == "9\nten");
  CHECK(text({{"sinceTime", "2001-01-01T00:00:00Z"}}) == all);
  CHECK(text({{"sinceTime", "2199-01-01T00:00:00Z"}}).empty());
}

TEST_CASE("a silent follow says that it lives, ends in its time, and lets go of a client that has gone", "[gateway][logs]") {
  Server server([](auto& options) { options.log_keep_alive = std::chrono::milliseconds(20); });
  const std::string id = server.sandbox();
  StreamCall call = server.logs({{"sandboxId", id}, {"follow", true}});
  for (int i = 0; i < 3; ++i) {
    const auto entry = call.next();
    REQUIRE(entry);
    CHECK(entry->value("data", "").empty());
    CHECK(!entry->value("logSessionId", "").empty());
  }
  call.cut();
  CHECK(eventually([&] { return server.log().find("StreamLogs 200") != std::string::npos; }));
  CHECK_THAT(server.log(), Contains(", cut"));

  StreamCall timed(server.address(), "coreweave.sandbox.v1.SandboxService/StreamLogs", {{"sandboxId", id}, {"follow", true}},
                   {{"Connect-Timeout-Ms", "100"}});
  timed.rest();
  CHECK(timed.end["error"]["code"] == "deadline_exceeded");

  StreamCall last = server.logs({{"sandboxId", id}, {"follow", true}});
  REQUIRE(last.next());
  server.call("DeleteSandbox", {{"sandboxId", id}});
  last.rest();
  CHECK(last.end == Json::object());
}

TEST_CASE("a log stream that cannot be is refused, and says why", "[gateway][logs][ER-4]") {
  Server server;
  const std::string id = server.sandbox();
  struct Case {
    Json request;
    std::string code, text;
  };
  const std::vector<Case> cases = {
      {{{"sandboxId", "sb-nope"}}, "not_found", "sb-nope"},
      {Json::object(), "invalid_argument", "sandboxId"},
      {{{"sandboxId", id}, {"tailLines", -1}}, "invalid_argument", "tailLines"},
      {{{"sandboxId", id}, {"container", "other"}}, "invalid_argument", "container"},
      {{{"sandboxId", id}, {"resumeLogOffset", 5}}, "invalid_argument", "resumeLogOffset"},
      {{{"sandboxId", 5}}, "invalid_argument", "sandboxId"},
  };
  for (const Case& c : cases) {
    INFO(c.request.dump());
    StreamCall call = server.logs(c.request);
    CHECK(call.status == 200);
    CHECK(!call.next());
    CHECK(call.end["error"]["code"] == c.code);
    CHECK_THAT(call.end["error"]["message"].get<std::string>(), Contains(c.text));
  }
  const std::string method = "coreweave.sandbox.v1.SandboxService/StreamLogs";
  CHECK(StreamCall(server.address(), method, {}, {{"Content-Type", "application/json"}}).status == 415);
  CHECK(StreamCall(server.address(), method, {}, {{"Authorization", "Bearer wrong"}}).status == 401);
  CHECK(StreamCall(server.address(), method, {}, {{"Connect-Content-Encoding", "gzip"}}).status == 501);
  CHECK(server.call("ListSandboxes", Json::object()).status == 200);
}

TEST_CASE("a disk that fails is said in the log, and the main command goes on", "[gateway][logs][LG-4]") {
  Server server([](auto& options) { options.log_directory = "/nonexistent/place"; });
  const std::string id = make(server, "seq 1 100000; exit 3");
  CHECK(server.wait_state(id, "STATE_FAILED") == "STATE_FAILED");
  CHECK(server.call("GetSandbox", {{"sandboxId", id}}).json()["status"]["exitCode"] == 3);
  const Read read = read_all(server.logs({{"sandboxId", id}}));
  REQUIRE(!read.gaps.empty());
  CHECK_THAT(read.gaps[0]["error"]["message"].get<std::string>(), Contains("No such file or directory"));
  CHECK(read.offset == numbers(100000).size());
}

TEST_CASE("the logs of ended sandboxes are bounded in all, the oldest go first", "[gateway][logs]") {
  Server server([](auto& options) { options.ended_log_bytes = 100'000; });
  std::vector<std::string> ids;
  for (int i = 0; i < 3; ++i) {
    ids.push_back(make(server, "seq 1 8000"));
    REQUIRE(server.wait_state(ids.back(), "STATE_COMPLETED") == "STATE_COMPLETED");
  }
  const std::string all = numbers(8000);
  const Read oldest = read_all(server.logs({{"sandboxId", ids[0]}}));
  CHECK(oldest.data.empty());
  CHECK(oldest.gaps.size() == 1);
  CHECK(oldest.offset == all.size());
  CHECK(read_all(server.logs({{"sandboxId", ids[1]}})).data == all);
  CHECK(read_all(server.logs({{"sandboxId", ids[2]}})).data == all);
}
