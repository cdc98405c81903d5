// Peers that mean harm: other owners' tokens, web pages, connections that never come to an end, floods, and clients that take
// nothing. What is asserted is what they get, what the gateway holds meanwhile, and that others are served.
#include "daemon.hpp"
#include "gateway_support.hpp"
#include "support/catch.hpp"
#include "support/sanitizers.hpp"

#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

using namespace gateway_test;
using Catch::Matchers::Contains;

namespace {

constexpr const char* kAlice = "alice-token-0123456789";
constexpr const char* kAliceNext = "alice-next-0123456789";
constexpr const char* kBob = "bob-token-0123456789";

void several_owners(gateway::GatewayOptions& options) {
  options.tokens = {kToken};
  options.tokens.emplace_back(kAlice, "alice");
  options.tokens.emplace_back(kAliceNext, "alice");
  options.tokens.emplace_back(kBob, "bob");
}

Answer call(const net::ListenAddress& address, const std::string& token, const std::string& method, const Json& body) {
  return http(address, "POST", "/" + method, {{"Authorization", "Bearer " + token}, {"Content-Type", "application/json"}},
              body.dump());
}
Answer call_service(const net::ListenAddress& address, const std::string& token, const std::string& method, const Json& body) {
  return call(address, token, "coreweave.sandbox.v1.SandboxService/" + method, body);
}

std::string sandbox_of(const Server& server, const std::string& token, const Json& spec = Json::object()) {
  const Answer answer = call_service(server.address(), token, "CreateSandbox", {{"sandbox", {{"spec", spec}}}});
  REQUIRE(answer.status == 200);
  const std::string id = answer.json()["sandboxId"];
  REQUIRE(eventually([&] {
    return call_service(server.address(), token, "GetSandbox", {{"sandboxId", id}}).json()["status"]["state"] == "STATE_RUNNING";
  }));
  return id;
}

/// What an answer says, with `id` taken out wherever it stands.
std::string said(const Answer& answer, const std::string& id) {
  Json json = answer.json();
  std::string text = std::to_string(answer.status) + " " + json.value("code", "") + " " + json.value("message", "");
  for (const std::string& part : detail_strings(json, "ErrorInfo")) text += "|" + part;
  for (std::size_t at = 0; (at = text.find(id)) != std::string::npos;) text.replace(at, id.size(), "ID");
  return text;
}

/// A plain connection that does what it is told and nothing else.
class Line {
 public:
  explicit Line(const net::ListenAddress& address) : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    REQUIRE(fd_ >= 0);
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    std::strncpy(to.sun_path, address.path.c_str(), sizeof to.sun_path - 1);
    REQUIRE(::connect(fd_, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0);
  }
  Line(Line&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Line& operator=(Line&&) = delete;
  ~Line() {
    if (fd_ >= 0) ::close(fd_);
  }
  /// As much as goes in at once. False when the gateway has closed.
  bool put(std::string_view bytes) const {
    return ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT) >= 0 || errno == EAGAIN;
  }
  /// Reads the head of an answer.
  void head() const {
    std::string seen;
    char byte = 0;
    while (seen.find("\r\n\r\n") == std::string::npos) {
      pollfd look{fd_, POLLIN, 0};
      REQUIRE(::poll(&look, 1, static_cast<int>(std::chrono::milliseconds(kLong).count())) == 1);
      REQUIRE(::recv(fd_, &byte, 1, 0) == 1);
      seen += byte;
    }
  }
  /// Whether the gateway has closed the connection; what it has sent is dropped.
  [[nodiscard]] bool closed() const {
    char block[4096];
    for (;;) {
      const ssize_t n = ::recv(fd_, block, sizeof block, MSG_DONTWAIT);
      if (n > 0) continue;
      return n == 0 || errno != EAGAIN;
    }
  }

 private:
  int fd_;
};

std::size_t open_lines(const std::vector<Line>& lines) {
  return static_cast<std::size_t>(std::count_if(lines.begin(), lines.end(), [](const Line& line) { return !line.closed(); }));
}

std::uint64_t resident(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("VmRSS:")) return std::stoull(line.substr(6)) * 1024;
  return 0;
}

/// The kernel may have taken pages away meanwhile: then it is none.
std::uint64_t growth(pid_t pid, std::uint64_t before) {
  const std::uint64_t now = resident(pid);
  return now - std::min(now, before);
}

std::size_t descriptors(pid_t pid) {
  std::error_code ec;
  std::size_t n = 0;
  for (auto at = std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd", ec); at != std::filesystem::end(at);
       ++at)
    ++n;
  return n;
}

constexpr std::uint64_t kMiB = 1024 * 1024;
constexpr std::uint64_t kSanitizer = test_support::kSanitizerMemory;

/// This process may open that many files at least; how many it may.
std::size_t allow_descriptors(std::size_t wanted) {
  rlimit limit{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
  if (limit.rlim_cur < wanted) {
    limit.rlim_cur = std::min<rlim_t>(wanted, limit.rlim_max);
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &limit) == 0);
  }
  return static_cast<std::size_t>(std::min<rlim_t>(limit.rlim_cur, wanted));
}

/// A client that does nothing wrong gets its command run.
void check_served(const Daemon& daemon, const std::string& id, const std::string& token = kToken) {
  const Answer answer = daemon.call("Exec", {{"sandboxId", id}, {"command", {"echo", "served"}}}, token);
  REQUIRE(answer.status == 200);
  CHECK(base64_decode(answer.json()["stdout"].get<std::string>()) == "served\n");
  Peer peer(daemon.address, "v1.exec.cwsandbox", token);
  peer.send(5, start(id, {"echo", "streamed"}));
  CHECK(peer.to_exit().out == "streamed\n");
}

}  // namespace

// ---- owners ----

TEST_CASE("what is another's is not there", "[gateway][hostile]") {
  Server server(several_owners);
  const auto& address = server.address();
  const std::string id = sandbox_of(server, kAlice), unknown = "sb-000000000000000000000000";
  REQUIRE(unknown.size() == id.size());

  const std::string service = "coreweave.sandbox.v1.SandboxService/", files = "cwsandbox.v1.FileService/";
  const std::vector<std::pair<std::string, Json>> methods = {
      {service + "GetSandbox", Json::object()},
      {service + "DeleteSandbox", Json::object()},
      {service + "Exec", {{"command", {"true"}}}},
      {service + "ReadFile", {{"path", "/etc/passwd"}}},
      {service + "WriteFile", {{"path", "/tmp/x"}, {"content", "eA=="}}},
      {files + "Stat", {{"path", "/tmp"}}},
      {files + "MakeDirectory", {{"path", "/tmp/d"}}},
      {files + "Remove", {{"path", "/tmp/d"}}},
      {files + "Rename", {{"from", "/tmp/a"}, {"to", "/tmp/b"}}},
  };
  for (const auto& [name, more] : methods) {
    INFO(name);
    Json body = more;
    body["sandboxId"] = id;
    const Answer others = call(address, kBob, name, body);
    body["sandboxId"] = unknown;
    const Answer nobodys = call(address, kBob, name, body);
    CHECK(others.status == 404);
    CHECK(others.json()["code"] == "not_found");
    CHECK(said(others, id) == said(nobodys, unknown));
  }
  for (const char* method : {"GET", "PUT"}) {
    const std::map<std::string, std::string> headers{{"Authorization", std::string("Bearer ") + kBob}};
    const Answer others = http(address, method, "/v1/files?sandbox=" + id + "&path=/etc/passwd", headers, "");
    const Answer nobodys = http(address, method, "/v1/files?sandbox=" + unknown + "&path=/etc/passwd", headers, "");
    CHECK(others.status == 404);
    CHECK(said(others, id) == said(nobodys, unknown));
  }
  for (const std::string& method : {service + "StreamLogs", files + "List"}) {
    StreamCall stream(address, method, {{"sandboxId", id}, {"path", "/"}}, {{"Authorization", std::string("Bearer ") + kBob}});
    CHECK(stream.rest().empty());
    CHECK(stream.end["error"]["code"] == "not_found");
  }
  CHECK(call_service(address, kBob, "DeleteSandbox", {{"sandboxId", id}, {"allowMissing", true}}).body == "{}");

  // Exec: a start in it, a start with the id of a process in it, and a resume.
  Peer alice(address, "v1.exec.cwsandbox", kAlice);
  const Json running = start(id, {"sh", "-c", "echo mine; exec cat"});
  Json with_input = running;
  with_input["stdin"] = true;
  alice.send(5, with_input);
  alice.expect_status("started");
  const std::string own = sandbox_of(server, kBob);
  Peer bob(address, "v1.exec.cwsandbox", kBob);
  bob.send(5, start(id, {"true"}));
  CHECK(bob.expect_status("error")["code"] == "not_found");
  bob.release();
  Json resume{{"type", "resume"}, {"id", running["id"]}, {"sandboxId", id}, {"attempt", 9}};
  resume["stdout"] = resume["stderr"] = {{"received", 0}, {"limit", 1000}};
  bob.send(8, resume);
  const Json refused = bob.expect_status("error");
  CHECK(refused["code"] == "not_found");
  CHECK(refused["reason"] == "CWSANDBOX_PROCESS_NOT_FOUND");
  bob.release();
  Json same_id = start(own, {"echo", "bob's"});
  same_id["id"] = running["id"];
  bob.send(5, same_id);
  CHECK(bob.to_exit().out == "bob's\n");

  const Json listed = call_service(address, kBob, "ListSandboxes", Json::object()).json();
  REQUIRE(listed["sandboxes"].size() == 1);
  CHECK(listed["sandboxes"][0]["sandboxId"] == own);
  CHECK(call_service(address, kAliceNext, "ListSandboxes", Json::object()).json()["sandboxes"][0]["sandboxId"] == id);
  CHECK(server.call("ListSandboxes", Json::object()).json().value("sandboxes", Json::array()).empty());

  // None of it has touched alice's.
  alice.send(0, "through");
  alice.send(255, std::string(1, '\0'));
  CHECK(alice.to_exit().out == "mine\nthrough");
  CHECK(call_service(address, kAliceNext, "GetSandbox", {{"sandboxId", id}}).json()["status"]["state"] == "STATE_RUNNING");
  CHECK_THAT(server.log(), Contains(", for alice") && Contains(", for bob") && !Contains(kAlice) && !Contains(kBob));
}

TEST_CASE("request ids and pages belong to their owner", "[gateway][hostile]") {
  Server server(several_owners);
  const auto& address = server.address();
  const auto create = [&](const char* token) {
    const Answer answer =
        call_service(address, token, "CreateSandbox", {{"requestId", "r-1"}, {"sandbox", {{"spec", Json::object()}}}});
    REQUIRE(answer.status == 200);
    return answer.json()["sandboxId"].get<std::string>();
  };
  const std::string alice = create(kAlice), bob = create(kBob);
  CHECK(alice != bob);
  CHECK(create(kAliceNext) == alice);
  CHECK(create(kBob) == bob);
  sandbox_of(server, kAlice);
  const Json page = call_service(address, kAlice, "ListSandboxes", {{"pageSize", 1}}).json();
  const std::string token = page["nextPageToken"];
  CHECK(call_service(address, kAliceNext, "ListSandboxes", {{"pageSize", 1}, {"pageToken", token}}).status == 200);
  CHECK(call_service(address, kBob, "ListSandboxes", {{"pageSize", 1}, {"pageToken", token}}).status == 400);
}

TEST_CASE("processes without a client are not driven out by those of another owner", "[gateway][hostile]") {
  Server server([](auto& options) {
    several_owners(options);
    options.max_orphans = 2;
  });
  const auto& address = server.address();
  const auto leave = [&](const char* token, const std::string& id) {
    Peer peer(address, "v1.exec.cwsandbox", token);
    const Json request = start(id, {"sh", "-c", "echo here; exec sleep 1000"});
    const auto orphans = server.counts().orphans;
    peer.send(5, request);
    peer.expect_status("started");
    peer.expect(1);
    peer.cut();
    CHECK(eventually([&] { return server.counts().orphans > orphans || orphans == 2; }));
    return request["id"].get<std::string>();
  };
  const std::string alice = sandbox_of(server, kAlice), bob = sandbox_of(server, kBob);
  const std::string kept = leave(kAlice, alice);
  for (int i = 0; i < 4; ++i) {
    leave(kBob, bob);
    if (i > 0) CHECK(eventually([&] { return server.counts().processes == 2; }));
  }
  Peer peer(address, "v1.exec.cwsandbox", kAlice);
  Json resume{{"type", "resume"}, {"id", kept}, {"sandboxId", alice}, {"attempt", 1}};
  resume["stdout"] = resume["stderr"] = {{"received", 0}, {"limit", 1000}};
  peer.send(8, resume);
  CHECK(peer.expect(8).json()["type"] == "resumed");
}

TEST_CASE("an id that was given up stays used up, whatever other owners give up", "[gateway][hostile][P7]") {
  Server server([](auto& options) {
    several_owners(options);
    options.max_used_ids = 2;
  });
  const auto& address = server.address();
  const std::string alice = sandbox_of(server, kAlice), bob = sandbox_of(server, kBob);
  const auto give_up = [&](const char* token, const std::string& sandbox) {
    Peer peer(address, "v1.exec.cwsandbox", token);
    const Json request = start(sandbox, {"sleep", "1000"});
    peer.send(5, request);
    peer.expect_status("started");
    peer.send(42, Json::object());  // a fault: the process is killed and its id forgotten
    CHECK(eventually([&] { return server.counts().processes == 0; }));
    return request;
  };
  const Json alices = give_up(kAlice, alice);
  for (int i = 0; i < 3; ++i) give_up(kBob, bob);
  Peer again(address, "v1.exec.cwsandbox", kAlice);
  again.send(5, alices);
  CHECK(again.expect_status("error")["code"] == "failed_precondition");
}

TEST_CASE("a token that is taken away ends its connections; its owner's processes go on", "[gateway][hostile]") {
  Server server(several_owners);
  const auto& address = server.address();
  const std::string id = sandbox_of(server, kAlice);
  Peer alice(address, "v1.exec.cwsandbox", kAlice), idle(address, "v1.exec.cwsandbox", kAlice),
      bob(address, "v1.exec.cwsandbox", kBob);
  Json request = start(id, {"sh", "-c", "echo before; read line; echo \"$line\""});
  request["stdin"] = true;
  alice.send(5, request);
  alice.expect_status("started");
  CHECK(alice.expect(1).payload == "before\n");
  StreamCall follow(address, "coreweave.sandbox.v1.SandboxService/StreamLogs", {{"sandboxId", id}, {"follow", true}},
                    {{"Authorization", std::string("Bearer ") + kAlice}});
  CHECK(follow.status == 200);

  // What cannot be used changes nothing.
  CHECK_THROWS_AS(server.set_tokens({}), std::invalid_argument);
  CHECK_THROWS_AS(server.set_tokens({gateway::Token("two words")}), std::invalid_argument);
  CHECK_THROWS_AS(server.set_tokens({gateway::Token(kAlice, "alice"), gateway::Token(kAlice, "bob")}), std::invalid_argument);
  CHECK_THROWS_AS(server.set_tokens({gateway::Token("x", "a:b")}), std::invalid_argument);
  CHECK(call_service(address, kAlice, "ListSandboxes", Json::object()).status == 200);

  server.set_tokens({gateway::Token(kToken), gateway::Token(kAliceNext, "alice"), gateway::Token(kBob, "bob")});
  CHECK(!alice.receive());
  CHECK(alice.close_code == 1008);
  CHECK_THAT(alice.close_reason, Contains("token"));
  CHECK(!idle.receive());
  CHECK(idle.close_code == 1008);
  follow.rest();  // comes to an end
  CHECK(call_service(address, kAlice, "ListSandboxes", Json::object()).status == 401);
  CHECK(Peer::refused(address, "v1.exec.cwsandbox", kAlice).status == 401);

  // The process waits for its owner.
  Peer again(address, "v1.exec.cwsandbox", kAliceNext);
  Json resume{{"type", "resume"}, {"id", request["id"]}, {"sandboxId", id}, {"attempt", 1}};
  resume["stdout"] = {{"received", 7}, {"limit", 100000}};
  resume["stderr"] = {{"received", 0}, {"limit", 100000}};
  again.send(8, resume);
  CHECK(again.expect(8).json()["type"] == "resumed");
  again.out = "before\n";
  again.send(0, "after\n");
  CHECK(again.to_exit().out == "before\nafter\n");
  bob.send(5, start(id, {"true"}));
  CHECK(bob.expect_status("error")["code"] == "not_found");

  // A token that comes back finds what its owner has.
  server.set_tokens({gateway::Token(kAlice, "alice")});
  CHECK(call_service(address, kAlice, "GetSandbox", {{"sandboxId", id}}).status == 200);
}

// ---- web pages ----

TEST_CASE("web pages are refused unless they are allowed", "[gateway][hostile]") {
  Server server([](auto& options) {
    options.tokens.clear();
    options.no_token = true;
    options.allowed_origins = {"https://good.example", "http://localhost:3000"};
  });
  net::ListenAddress loopback;
  loopback.host = "127.0.0.1";
  const net::ListenAddress tcp = server.listen(loopback);
  std::string host = "localhost:8000";
  const auto upgrade = [&](const std::string& origin) {
    Socket socket(tcp);
    socket.write("GET /v1/exec HTTP/1.1\r\nHost: " + host +
                 "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                 "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v1.exec.cwsandbox\r\n" +
                 origin + "\r\n");
    const std::string head = socket.read_until("\r\n\r\n");
    const auto length = head.find("Content-Length: ");
    return head + (length == std::string::npos ? "" : socket.read_exactly(std::stoul(head.substr(length + 16))));
  };
  const std::string refused = upgrade("Origin: https://evil.example\r\n");
  CHECK_THAT(refused, Contains("HTTP/1.1 403") && Contains("permission_denied") && Contains("https://evil.example"));
  CHECK_THAT(upgrade("Origin: null\r\n"), Contains("HTTP/1.1 403"));
  CHECK_THAT(upgrade("Origin: https://good.example.evil.example\r\n"), Contains("HTTP/1.1 403"));
  CHECK_THAT(upgrade("Origin: https://good.example\r\nOrigin: https://evil.example\r\n"), Contains("HTTP/1.1 403"));
  host = "evil.example";  // its name may lead here: then the page is of the same origin, and some browsers do not say so
  CHECK_THAT(upgrade("Origin: http://evil.example\r\n"), Contains("HTTP/1.1 403"));
  CHECK_THAT(upgrade(""), Contains("HTTP/1.1 403") && Contains("evil.example"));
  for (const char* wrong : {"localhost.evil.example", "127.0.0.1.evil.example:80", "192.168.1.2", "a b", "evil@localhost", ""}) {
    CAPTURE(wrong);
    host = wrong;
    CHECK_THAT(upgrade(""), Contains("HTTP/1.1 40"));
  }
  for (const char* right : {"localhost", "LocalHost:80", "cws.localhost", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000"}) {
    CAPTURE(right);
    host = right;
    CHECK_THAT(upgrade(""), Contains("HTTP/1.1 101"));
  }
  CHECK_THAT(upgrade(""), Contains("HTTP/1.1 101"));
  CHECK_THAT(upgrade("Origin: https://good.example\r\n"), Contains("HTTP/1.1 101"));
  CHECK_THAT(upgrade("origin: HTTP://LOCALHOST:3000\r\n"), Contains("HTTP/1.1 101"));

  const Answer post = http(server.address(), "POST", "/coreweave.sandbox.v1.SandboxService/ListSandboxes",
                           {{"Content-Type", "application/json"}, {"Origin", "https://evil.example"}}, "{}");
  CHECK(post.status == 403);
  const auto details = detail_strings(post.json(), "ErrorInfo");
  CHECK(std::find(details.begin(), details.end(), "CWSANDBOX_ORIGIN_NOT_ALLOWED") != details.end());
}

// ---- connections without end, floods, clients that take nothing ----

TEST_CASE("ten thousand idle connections: the limit holds, and clients are served", "[gateway][hostile][P10]") {
  const std::size_t wanted = 10000;
  const std::size_t most = allow_descriptors(wanted + 200) - 200;
  const Daemon daemon;
  const std::string id = daemon.sandbox();
  // One that has shown its token stays, however many come.
  Peer early(daemon.address);
  early.send(5, start(id, {"echo", "early"}));
  CHECK(early.to_exit().out == "early\n");
  const auto before = resident(daemon.child->pid());
  std::vector<Line> lines;
  for (std::size_t i = 0; i < std::min(wanted, most); ++i) lines.emplace_back(daemon.address);
  WARN(lines.size() << " connections");
  check_served(daemon, id);
  CHECK(eventually([&] { return open_lines(lines) <= 4096; }));
  CHECK(descriptors(daemon.child->pid()) < 4096 + 200);
  const auto grown = growth(daemon.child->pid(), before);
  WARN("grown by " << grown / 1024 << " KiB");
  CHECK(grown < 128 * kMiB + kSanitizer);
  early.send(5, start(id, {"echo", "still"}));
  CHECK(early.to_exit().out == "still\n");
  lines.clear();
  check_served(daemon, id);
  CHECK(eventually([&] { return descriptors(daemon.child->pid()) < 100; }));
}

TEST_CASE("headers without end take bounded memory, and clients are served", "[gateway][hostile][P10]") {
  const std::size_t most = allow_descriptors(3200) - 200;
  const Daemon daemon;
  const std::string id = daemon.sandbox();
  const auto before = resident(daemon.child->pid());
  std::vector<Line> lines;
  const std::string header = "GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + std::string(60 * 1024, 'x');
  for (std::size_t i = 0; i < std::min<std::size_t>(3000, most); ++i) {
    lines.emplace_back(daemon.address);
    lines.back().put(header);
    if (i % 500 == 0) check_served(daemon, id);
  }
  check_served(daemon, id);
  CHECK(eventually([&] { return open_lines(lines) < 1000; }));
  const auto grown = growth(daemon.child->pid(), before);
  WARN("grown by " << grown / 1024 << " KiB");
  CHECK(grown < 160 * kMiB + kSanitizer);
}

TEST_CASE("who is slow with a header, a body, an upgrade or a frame is let go in time", "[gateway][hostile][P10]") {
  Server server([](auto& options) {
    options.limits.header_timeout = std::chrono::milliseconds(300);
    options.limits.body_timeout = std::chrono::milliseconds(300);
    options.idle_timeout = std::chrono::milliseconds(300);
  });
  const std::string auth = std::string("Authorization: Bearer ") + kToken + "\r\n";
  const std::string upgrade =
      "GET /v1/exec HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v1.exec.cwsandbox\r\n" +
      auth;
  const std::vector<std::pair<std::string, std::string>> slow = {
      // what comes at once, what then comes byte by byte, as long as anybody listens
      {"GET / HTTP/1.1\r\nX: ", "x"},
      {"POST /coreweave.sandbox.v1.SandboxService/GetSandbox HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + auth +
           "Content-Length: 100000\r\n\r\n{",
       " "},
      {upgrade, "X: x\r\n"},
      {upgrade + "\r\n", ""},  // and half a frame behind the answer
  };
  std::vector<Line> lines;
  std::vector<std::size_t> kinds;
  for (std::size_t kind = 0; kind < slow.size(); ++kind) {
    for (int i = 0; i < 20; ++i) {
      lines.emplace_back(server.address());
      kinds.push_back(kind);
      CHECK(lines.back().put(slow[kind].first));
      if (kind == 3) {
        lines.back().head();
        lines.back().put(std::string("\x82\xff\0\0\0\0\0\x10", 8));
      }
    }
  }
  const std::string id = server.sandbox();
  CHECK(eventually([&] {
    bool all = true;
    for (std::size_t i = 0; i < lines.size(); ++i) {
      const std::string& drip = slow[kinds[i]].second;
      if (!drip.empty()) lines[i].put(drip.substr(0, 1));
      all = lines[i].closed() && all;
    }
    return all;
  }));
  CHECK(eventually([&] { return server.counts().connections == 0; }));
  const Answer answer = server.call("Exec", {{"sandboxId", id}, {"command", {"true"}}});
  CHECK(answer.status == 200);
}

TEST_CASE("a request that is wrong all over gets a short answer", "[gateway][hostile][P10]") {
  Server server(several_owners);
  Json files = Json::array(), variables = Json::object();
  for (int i = 0; i < 1000; ++i) files.push_back({{"path", "no/absolute/path"}});
  for (int i = 0; i < 60'000; ++i) variables["a=" + std::to_string(i)] = "";
  const Json container{{"files", files}, {"environmentVariables", variables}};
  const Answer answer = call_service(server.address(), kAlice, "CreateSandbox",
                                     {{"sandbox", {{"spec", {{"containers", Json::array({container})}}}}}});
  CHECK(answer.status == 400);
  CHECK(answer.body.size() < 64 * 1024);
  const std::string many = R"({"sandbox":{"spec":{"containers":[{})" + [] {
    std::string out;
    for (int i = 0; i < 2'700'000; ++i) out += ",{}";
    return out;
  }() + "]}}}";
  const Answer flooded = http(server.address(), "POST", "/coreweave.sandbox.v1.SandboxService/CreateSandbox",
                              {{"Authorization", std::string("Bearer ") + kAlice}, {"Content-Type", "application/json"}}, many);
  CHECK(flooded.status == 400);
  CHECK_THAT(flooded.json()["message"].get<std::string>(), Contains("sandbox.spec.containers: has more than 1000 elements"));
}

TEST_CASE("clients that never read, or grant no window, cost their window and no more", "[gateway][hostile][P10]") {
  const std::size_t count = 40;
  const Daemon daemon;
  const std::string id = daemon.sandbox();
  check_served(daemon, id);
  const auto before = resident(daemon.child->pid());
  std::vector<Peer> peers;
  const bool grants = GENERATE(true, false);
  for (std::size_t i = 0; i < count; ++i) {
    Json request = start(id, {"sh", "-c", "yes & exec yes >&2"});
    request["window"] = {{"stdout", grants ? 1ull << 50 : 0}, {"stderr", grants ? 1ull << 50 : 0}};
    peers.emplace_back(daemon.address);
    peers.back().send(5, request);
  }
  // Served while all of them want to be written to.
  for (int i = 0; i < 5; ++i) check_served(daemon, id);
  const auto grown = growth(daemon.child->pid(), before);
  WARN((grants ? "never read: " : "no window: ") << grown / 1024 << " KiB");
  CHECK(grown < count * (grants ? 3 : 1) * kMiB + kSanitizer);
}

TEST_CASE("floods of frames are no more than work", "[gateway][hostile][P10]") {
  const Daemon daemon;
  const std::string id = daemon.sandbox();
  std::vector<Line> lines;
  const std::string upgrade =
      "GET /v1/exec HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v1.exec.cwsandbox\r\nAuthorization: Bearer " +
      std::string(kToken) + "\r\n\r\n";
  for (int i = 0; i < 50; ++i) {
    lines.emplace_back(daemon.address);
    REQUIRE(lines.back().put(upgrade));
  }
  CHECK(eventually([&] { return descriptors(daemon.child->pid()) >= 50; }));
  check_served(daemon, id);
  const auto before = resident(daemon.child->pid());
  // Pings, whose answers are not read; and the first quarter of a 4 MiB message.
  std::string pings, large("\x82\xff\0\0\0\0\0\x3f\xff\xff\0\0\0\0", 14);
  for (int i = 0; i < 2000; ++i) pings += std::string("\x89\x84\0\0\0\0ping", 10);
  large += std::string(256 * 1024, 'x');
  for (int round = 0; round < 20; ++round) {
    for (std::size_t i = 0; i < lines.size(); ++i) {
      if (i % 2 == 0 && !lines[i].closed()) lines[i].put(round == 0 ? large : "x");
      if (i % 2 == 1) lines[i].put(pings);
    }
    if (round % 5 == 0) check_served(daemon, id);
  }
  const auto grown = growth(daemon.child->pid(), before);
  WARN("grown by " << grown / 1024 << " KiB");
  CHECK(grown < 64 * kMiB + kSanitizer);
}

TEST_CASE("one token has so many connections; another has its own", "[gateway][hostile][P10]") {
  const Daemon daemon({"--max-connections", "40", "--max-connections-per-token", "10"});
  const std::string id = daemon.sandbox();
  std::vector<Peer> peers;
  for (int i = 0; i < 10; ++i) {
    CHECK(eventually([&] {
      try {
        peers.emplace_back(daemon.address);
        return true;
      } catch (const std::runtime_error&) {
        return false;  // the connection of a call that is over counts until it has ended
      }
    }));
  }
  const Answer refused = Peer::refused(daemon.address, "v1.exec.cwsandbox", kToken);
  CHECK(refused.status == 429);
  CHECK(refused.json()["code"] == "resource_exhausted");
  CHECK(daemon.call("ListSandboxes", Json::object()).status == 429);
  CHECK(daemon.call("ListSandboxes", Json::object(), "second-token").status == 200);
  Peer other(daemon.address, "v1.exec.cwsandbox", "second-token");
  peers.clear();
  CHECK(eventually([&] { return daemon.call("ListSandboxes", Json::object()).status == 200; }));
  check_served(daemon, id);
}

TEST_CASE("with few descriptors there are fewer connections, and clients are served", "[gateway][hostile][P10]") {
  const Daemon daemon({}, "ulimit -n 256");
  CHECK_THAT(daemon.log(), Contains("at most 128 connections at once, not 4096"));
  const std::string id = daemon.sandbox();
  std::vector<Line> lines;
  for (int i = 0; i < 600; ++i) lines.emplace_back(daemon.address);
  for (int i = 0; i < 3; ++i) check_served(daemon, id);
  CHECK(eventually([&] { return open_lines(lines) <= 128; }));
  CHECK(descriptors(daemon.child->pid()) < 200);
}

// ---- files that change ----

TEST_CASE("SIGHUP reads the tokens again; a broken file changes nothing", "[gateway][hostile][daemon]") {
  const Daemon daemon;
  CHECK(daemon.call("ListSandboxes", Json::object()).status == 200);
  const auto reload = [&](const std::string& text, const std::string& mark) {
    const std::size_t before = daemon.log().size();
    daemon.write_tokens(text);
    daemon.child->signal(SIGHUP);
    CHECK(eventually([&] { return daemon.log().find(mark, before) != std::string::npos; }));
  };
  reload("bad to ken\n", "cannot reload the tokens, the old ones stay: the token file");
  CHECK(daemon.call("ListSandboxes", Json::object()).status == 200);
  reload("", "holds no token");
  reload("a/b: x\n", "the name of a token may hold");
  reload("a: x\nb: x\n", "one token is given to two names");
  CHECK(daemon.call("ListSandboxes", Json::object(), "second-token").status == 200);

  reload("carol: fresh-token-1\ncarol:\t fresh-token-2\nplain\nno:name\n", "reloaded the tokens");
  CHECK(daemon.call("ListSandboxes", Json::object()).status == 401);
  for (const char* token : {"fresh-token-1", "fresh-token-2", "plain", "no:name"}) {
    INFO(token);
    CHECK(daemon.call("ListSandboxes", Json::object(), token).status == 200);
  }
  CHECK(daemon.call("ListSandboxes", Json::object(), "name").status == 401);
  CHECK(eventually([&] { return daemon.log().find(", for carol") != std::string::npos; }));
  CHECK_THAT(daemon.log(), Contains("line 4: a token without a name, which holds a colon") && !Contains("fresh-token") &&
                               !Contains("no:name") && !Contains("to ken"));
}

TEST_CASE("SIGHUP waits for no file that is a pipe", "[gateway][hostile][daemon]") {
  const Daemon daemon;
  REQUIRE(std::remove(daemon.dir.path("token").c_str()) == 0);
  REQUIRE(::mkfifo(daemon.dir.path("token").c_str(), 0600) == 0);
  daemon.child->signal(SIGHUP);
  CHECK(eventually(
      [&] { return daemon.log().find("cannot reload the tokens, the old ones stay: the token file") != std::string::npos; }));
  CHECK_THAT(daemon.log(), Contains("no regular file"));
  CHECK(daemon.call("ListSandboxes", Json::object()).status == 200);
}

TEST_CASE("at its start the gateway reads its tokens from a pipe too", "[gateway][hostile][daemon]") {
  const Daemon daemon({}, "eval \"file=\\${$#}\"; rm \"$file\"; mkfifo -m 600 \"$file\"; echo piped-token-1 >\"$file\" & :");
  CHECK(daemon.call("ListSandboxes", Json::object(), "piped-token-1").status == 200);
  CHECK(daemon.call("ListSandboxes", Json::object()).status == 401);
}

TEST_CASE("SIGHUP reads the certificates again; clients may have to show theirs", "[gateway][hostile][daemon]") {
  if (std::system("command -v curl >/dev/null 2>&1 && command -v openssl >/dev/null 2>&1") != 0) {
    WARN("curl or openssl is not installed");
    return;
  }
  TempDir dir;
  const auto shell = [&](const std::string& command) {
    return std::system(("cd " + dir.path("") + " && { " + command + "; } >>out 2>&1").c_str());
  };
  const std::string make =
      "new() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -keyout $1.key -out $1.pem -subj "
      "/CN=$1 "
      "-addext subjectAltName=IP:127.0.0.1; }; ";
  REQUIRE(shell(make + "new one && new two && new user && new other && cp one.pem cert.pem && cp one.key cert.key") == 0);
  const Daemon daemon({"--listen", "tcp:127.0.0.1:0", "--tls-cert", dir.path("cert.pem"), "--tls-key", dir.path("cert.key"),
                       "--tls-client-ca", dir.path("user.pem")});
  const std::string mark = "listening on tcp:";
  REQUIRE(eventually([&] { return daemon.log().find(" (TLS)") != std::string::npos; }));
  const std::string log = daemon.log();
  const auto at = log.find(mark) + mark.size();
  const std::string url = "https://" + log.substr(at, log.find(' ', at) - at) + "/healthz";
  const auto curl = [&](const std::string& ca, const std::string& user) {
    return shell("curl -sS --max-time 20 --cacert " + ca + ".pem --cert " + user + ".pem --key " + user + ".key " + url) == 0;
  };
  CHECK(curl("one", "user"));
  CHECK(!curl("two", "user"));
  CHECK(!curl("one", "other"));
  CHECK(shell("curl -sS --max-time 20 --cacert one.pem " + url) != 0);

  REQUIRE(shell("echo broken > cert.pem") == 0);
  daemon.child->signal(SIGHUP);
  CHECK(eventually([&] {
    return daemon.log().find("cannot reload the certificates, the old ones stay: cannot use the TLS certificate") !=
           std::string::npos;
  }));
  CHECK(curl("one", "user"));
  REQUIRE(shell("cp two.pem cert.pem && cp two.key cert.key") == 0);
  daemon.child->signal(SIGHUP);
  CHECK(eventually([&] { return daemon.log().find("reloaded the certificates") != std::string::npos; }));
  CHECK(curl("two", "user"));
  CHECK(!curl("one", "user"));
}
