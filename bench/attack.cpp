// Peers and owners that mean harm, against the gateway on the Unix socket that CWSANDBOX_BASE_URL names:
//
//   bench-attack TOKEN [MODE…]
//
// TOKEN is not that of the client that is measured beside it. Each mode does its worst to one resource; without one it is `peers`,
// which is figure B10. CWSANDBOX_HOSTILE names the program of tests/hostile, for those that run it in sandboxes. Prints
// "ready" once all are at work, and ends with its standard input, or after --seconds N, 120 unless told; the sandboxes that it has
// made go with it. What the gateway closes is opened again. `bench-attack --list` prints the modes.
#include "attack_line.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace {

using namespace bench;
using Clock = std::chrono::steady_clock;

constexpr std::string_view kService = "/coreweave.sandbox.v1.SandboxService/";
constexpr std::string_view kFiles = "/cwsandbox.v1.FileService/";
constexpr const char* kProgram = "/run/hostile";
// What is more than its share is closed again and again, so that not all of it ever stands: then this is long enough.
constexpr std::chrono::seconds kReady{3};

/// What all modes need: the gateway, the attacker's token, and sandboxes.
class Owner {
 public:
  explicit Owner(std::string token) : to_(gateway_address()), token_(std::move(token)) {}

  [[nodiscard]] const sockaddr_un& to() const noexcept { return to_; }
  [[nodiscard]] std::string request(std::string_view method, std::string_view path, std::string_view body,
                                    std::string_view type = "application/json") const {
    std::string text(method);
    text.append(" ").append(path).append(" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ").append(token_);
    text.append("\r\nContent-Type: ").append(type).append("\r\nContent-Length: ").append(std::to_string(body.size()));
    return text.append("\r\n\r\n").append(body);
  }
  [[nodiscard]] std::string call(std::string_view method, std::string_view body) const {
    return request("POST", std::string(kService).append(method), body);
  }
  /// A method whose answer is a stream: the request is one envelope.
  [[nodiscard]] std::string stream(std::string_view path, std::string_view body) const {
    std::string envelope(5, '\0');
    for (int i = 0; i < 4; ++i) envelope[static_cast<std::size_t>(4 - i)] = static_cast<char>(body.size() >> (8 * i));
    return request("POST", path, envelope.append(body), "application/connect+json");
  }
  [[nodiscard]] std::string upgrade() const {
    return "GET /v1/exec HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
           "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v1.exec.cwsandbox\r\nAuthorization: Bearer " +
           token_ + "\r\n\r\n";
  }

  /// The id of a sandbox that runs, whose main command is this script; environment of so many bytes.
  std::string sandbox(const std::string& script = "exec sleep 1000", std::size_t environment = 0) {
    std::string container = R"({"command":"/bin/sh","args":["-c",")" + script + "\"]";
    if (environment > 0) container += R"(,"environmentVariables":{"LARGE":")" + std::string(environment, 'x') + "\"}";
    const std::string id =
        word_of(answer(to_, call("CreateSandbox", R"({"sandbox":{"spec":{"containers":[)" + container + "}]}}}")), "sandboxId");
    for (const auto until = Clock::now() + std::chrono::seconds(30);;) {
      if (answer(to_, call("GetSandbox", R"({"sandboxId":")" + id + "\"}")).find("STATE_RUNNING") != std::string::npos) return id;
      if (id.empty() || Clock::now() > until) throw std::runtime_error("the attacker's sandbox does not come to run");
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
  /// The same with the hostile program in it, for which the script's `H` stands.
  std::string program(const std::string& script) {
    std::string wait = std::string("H=") + kProgram + "; while [ ! -x $H ]; do sleep 0.05; done; ";
    const std::string id = sandbox(wait + script);
    const char* path = std::getenv("CWSANDBOX_HOSTILE");
    std::ifstream file(path != nullptr ? path : "");
    std::stringstream bytes;
    bytes << file.rdbuf();
    if (bytes.str().empty()) throw std::runtime_error("CWSANDBOX_HOSTILE must name the program of tests/hostile");
    const std::string target = "/v1/files?sandbox=" + id + "&mode=0755&path=" + kProgram;
    const std::string said = answer(to_, request("PUT", target, bytes.str(), "application/octet-stream"));
    if (said.find(" 200 ") == std::string::npos) throw std::runtime_error("the program cannot be put: " + said.substr(0, 200));
    return id;
  }
  /// Ends all that it has.
  void give_up() noexcept {
    try {
      for (int round = 0; round < 300; ++round) {
        const std::string list = answer(to_, call("ListSandboxes", R"({"pageSize":100})"));
        if (!list.starts_with("HTTP/1.1 200")) {  // its own part may still be used up
          std::this_thread::sleep_for(std::chrono::milliseconds(100));
          continue;
        }
        const std::vector<std::string> ids = words_of(list, "sandboxId");
        if (ids.empty()) return;
        for (const std::string& id : ids)
          static_cast<void>(
              answer(to_, call("DeleteSandbox", R"({"sandboxId":")" + id + R"(","gracePeriodSeconds":1,"allowMissing":true})")));
      }
    } catch (const std::exception& error) {
      std::fprintf(stderr, "bench-attack: %s\n", error.what());
    }
  }

 private:
  sockaddr_un to_;
  std::string token_;
};

class Mode {
 public:
  explicit Mode(Owner& owner) : owner_(owner) {}
  Mode(const Mode&) = delete;
  Mode& operator=(const Mode&) = delete;
  virtual ~Mode() = default;
  virtual void begin() {}
  /// Every pace(). False while not all of it has begun.
  virtual bool tick() { return true; }
  [[nodiscard]] virtual std::chrono::milliseconds pace() const { return std::chrono::milliseconds(10); }

 protected:
  [[nodiscard]] Owner& owner() const noexcept { return owner_; }
  /// Opens again what has been closed, so many at most. True when there was none.
  bool reopen(std::vector<Line>& lines, std::size_t most) const {
    std::size_t opened = 0;
    for (Line& line : lines)
      if (opened < most && line.closed()) {
        line.open(owner_.to());
        ++opened;
      }
    return opened == 0;
  }

 private:
  Owner& owner_;
};

/// B10: 1,000 connections that say nothing; 500 that send a byte of a header every 100 ms; 20 headers of 60 KiB a second that do
/// not end; 500 requests a second with a wrong token; and 50 WebSockets that send 20 pings every 100 ms and read nothing.
/// Everything is paced, so that what is measured is the gateway and not who gets the processor.
class Peers final : public Mode {
 public:
  using Mode::Mode;
  void begin() override {
    for (int i = 0; i < 1000; ++i) silent_.emplace_back();
    for (int i = 0; i < 500; ++i) slow_.emplace_back("GET / HTTP/1.1\r\nHost: x\r\nX: ");
    for (int i = 0; i < 50; ++i) sockets_.emplace_back(owner().upgrade());
    for (int i = 0; i < 20; ++i) pings_ += std::string("\x89\x84\0\0\0\0ping", 10);
  }
  [[nodiscard]] std::chrono::milliseconds pace() const override { return std::chrono::milliseconds(100); }
  bool tick() override {
    bool all = true;
    for (auto* lines : {&sockets_, &slow_, &silent_}) all = reopen(*lines, 50) && all;
    for (Line& line : slow_) line.send("x");
    for (Line& line : sockets_) line.send(pings_);
    again(floods_, 2, flood_);
    again(wrongs_, 50, wrong_);
    return all;
  }

 private:
  struct Round {
    std::vector<Line> lines = std::vector<Line>(100);
    std::size_t next = 0;
  };
  void again(Round& round, int count, const std::string& bytes) {
    for (int i = 0; i < count; ++i) {
      Line& line = round.lines[round.next++ % round.lines.size()];
      line.open(owner().to());
      line.send(bytes);
    }
  }
  std::vector<Line> silent_, slow_, sockets_;
  Round floods_, wrongs_;
  std::string pings_;
  const std::string flood_ = "GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + std::string(60 * 1024, 'x');
  const std::string wrong_ =
      "POST /coreweave.sandbox.v1.SandboxService/ListSandboxes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\n"
      "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
};

/// Memory of the gateway: requests of nearly 8 MiB that do not end, and some that do and are wrong all over.
class Requests final : public Mode {
 public:
  using Mode::Mode;
  void begin() override {
    std::string wrong = R"({"sandbox":{"spec":{"containers":[{})";
    while (wrong.size() < 4'000'000) wrong += ",{}";
    wrong_ = owner().call("CreateSandbox", wrong + "]}}}");
    whole_ = owner().call("CreateSandbox",
                          R"({"sandbox":{"spec":{"containers":[{"args":[")" + std::string(8'000'000, 'x') + R"("]}]}}})");
    unfinished_ = std::string_view(whole_).substr(0, whole_.size() - 10);
    for (int i = 0; i < 40; ++i) senders_.emplace_back(unfinished_, true);
    for (int i = 0; i < 4; ++i) senders_.emplace_back(wrong_, false);
  }
  bool tick() override {
    for (Sender& sender : senders_) sender.go_on(owner().to());
    return true;
  }

 private:
  std::string wrong_, whole_;
  std::string_view unfinished_;
  std::vector<Sender> senders_;
};

/// Memory of the gateway: pages of a list that nobody reads.
class Answers final : public Mode {
 public:
  using Mode::Mode;
  void begin() override {
    for (int i = 0; i < 4; ++i) owner().sandbox("exec sleep 1000", 120'000);
    for (int i = 0; i < 300; ++i) lines_.emplace_back(owner().call("ListSandboxes", "{}"));
  }
  bool tick() override { return reopen(lines_, 50); }

 private:
  std::vector<Line> lines_;
};

/// Memory of the gateway: processes whose output nobody acknowledges, with windows as large as there are.
class Windows final : public Mode {
 public:
  using Mode::Mode;
  void begin() override {
    const std::string id = owner().sandbox();
    for (int i = 0; i < 48; ++i) {
      const std::string process = "attack-" + std::to_string(::getpid()) + "-" + std::to_string(i);
      std::string start = R"({"type":"start","id":")" + process + R"(","sandboxId":")" + id + R"(","command":["cat","/dev/zero"])";
      if (i % 2 == 0) start += R"(,"window":{"stdout":8388608,"stderr":8388608})";
      sockets_.emplace_back(owner().upgrade());
      sockets_.back().open(owner().to());
      sockets_.back().wait_for_head();
      sockets_.back().send(web_socket_frame(std::string(1, '\5') + start + "}"));
    }
  }

 private:
  std::vector<Line> sockets_;
};

/// Descriptors: as many on their way between sockets of sandboxes as there may be, and connections up to its share and beyond.
class Descriptors final : public Mode {
 public:
  using Mode::Mode;
  void begin() override {
    for (int i = 0; i < 3; ++i) owner().program("while :; do $H descriptors-in-flight; done");
    for (int i = 0; i < 3500; ++i) lines_.emplace_back(owner().call("GetSandbox", R"({"sandboxId":"sb-0"})"));
  }
  bool tick() override { return reopen(lines_, 100); }

 private:
  std::vector<Line> lines_;
};

/// Sandboxes whose main command does the harm by itself.
class Programs final : public Mode {
 public:
  Programs(Owner& owner, std::vector<std::string> scripts) : Mode(owner), scripts_(std::move(scripts)) {}
  void begin() override {
    for (const std::string& script : scripts_) owner().program(script);
  }

 private:
  std::vector<std::string> scripts_;
};

/// The gateway's loop: requests as fast as they are answered, four on their way on each connection.
class Calls final : public Mode {
 public:
  Calls(Owner& owner, std::vector<std::string> requests, bool with_sandbox)
      : Mode(owner), requests_(std::move(requests)), with_sandbox_(with_sandbox) {}
  void begin() override {
    const std::string id = with_sandbox_ ? owner().sandbox() : std::string();
    for (const std::string& request : requests_) {
      const std::size_t space = request.find(' ');
      std::string body = request.substr(space + 1);
      if (const std::size_t at = body.find("ID"); at != std::string::npos) body.replace(at, 2, id);
      for (int i = 0; i < 16; ++i) askers_.emplace_back(owner().call(request.substr(0, space), body));
    }
  }
  bool tick() override {
    for (Asker& asker : askers_) asker.go_on(owner().to());
    return true;
  }
  [[nodiscard]] std::chrono::milliseconds pace() const override { return std::chrono::milliseconds(1); }

 private:
  std::vector<std::string> requests_;
  bool with_sandbox_;
  std::vector<Asker> askers_;
};

/// Streams that nobody reads: logs of a main command that writes all the time, or what happens in a directory where much does.
class Followers final : public Mode {
 public:
  Followers(Owner& owner, bool logs) : Mode(owner), logs_(logs) {}
  void begin() override {
    for (int s = 0; s < 4; ++s) {
      const std::string churn = "$H inotify >/dev/null & while :; do $H inodes /tmp; rm -f /tmp/[0-9]*; done";
      const std::string id = owner().program(logs_ ? std::string("exec $H flood") : churn);
      const std::string ask =
          logs_ ? owner().stream(std::string(kService) + "StreamLogs", R"({"sandboxId":")" + id + R"(","follow":true})")
                : owner().stream(std::string(kFiles) + "Watch", R"({"sandboxId":")" + id + R"(","path":"/tmp"})");
      for (int i = 0; i < 16; ++i) lines_.emplace_back(ask);
    }
  }
  bool tick() override { return reopen(lines_, 10); }

 private:
  bool logs_;
  std::vector<Line> lines_;
};

/// Not an attack: 20 sandboxes a second, which end by themselves.
class Creations final : public Mode {
 public:
  using Mode::Mode;
  [[nodiscard]] std::chrono::milliseconds pace() const override { return std::chrono::milliseconds(50); }
  bool tick() override {
    static_cast<void>(lines_[next_].take());
    lines_[next_].open(owner().to());
    next_ = (next_ + 1) % lines_.size();
    return true;
  }

 private:
  const std::string create_ = owner().call("CreateSandbox", R"({"sandbox":{"spec":{"containers":[{"command":"true"}]}}})");
  std::vector<Line> lines_ = lines(20);
  std::size_t next_ = 0;

  std::vector<Line> lines(int count) const {
    std::vector<Line> all;
    for (int i = 0; i < count; ++i) all.emplace_back(create_);
    return all;
  }
};

const std::string kFill =
    "while :; do for d in /tmp /var/tmp /dev/shm /home/sandbox /workspace; do $H fill $d/full; done; "
    "$H inodes /workspace; rm -rf /tmp/full /var/tmp/full /dev/shm/full /home/sandbox/full /workspace/*; done >/dev/null";

struct Named {
  const char* name;
  std::unique_ptr<Mode> (*make)(Owner&);
};
template <class M>
std::unique_ptr<Mode> plain(Owner& owner) {
  return std::make_unique<M>(owner);
}
std::unique_ptr<Mode> three(Owner& owner, const std::string& script) {
  return std::make_unique<Programs>(owner, std::vector<std::string>(3, script));
}
const Named kModes[] = {
    {"creations", plain<Creations>},
    {"peers", plain<Peers>},
    {"requests", plain<Requests>},
    {"answers", plain<Answers>},
    {"windows", plain<Windows>},
    {"descriptors", plain<Descriptors>},
    {"processes", [](Owner& owner) { return three(owner, "$H fork-bomb"); }},
    {"memory", [](Owner& owner) { return three(owner, "while :; do $H memory; done"); }},
    {"disk", [](Owner& owner) { return three(owner, kFill); }},
    {"cpu", [](Owner& owner) { return three(owner, "$H burn"); }},
    {"calls",
     [](Owner& owner) -> std::unique_ptr<Mode> {
       return std::make_unique<Calls>(owner, std::vector<std::string>{"ListSandboxes {}", R"(GetSandbox {"sandboxId":"ID"})"},
                                      true);
     }},
    {"starts",
     [](Owner& owner) -> std::unique_ptr<Mode> {
       return std::make_unique<Calls>(
           owner,
           std::vector<std::string>{R"(Exec {"sandboxId":"ID","command":["true"]})",
                                    R"(CreateSandbox {"sandbox":{"spec":{"containers":[{"command":"true"}]}}})"},
           true);
     }},
    {"logs", [](Owner& owner) -> std::unique_ptr<Mode> { return std::make_unique<Followers>(owner, true); }},
    {"watches", [](Owner& owner) -> std::unique_ptr<Mode> { return std::make_unique<Followers>(owner, false); }},
};

bool told_to_end() {
  pollfd input{0, POLLIN | POLLHUP, 0};
  char byte = 0;
  return ::poll(&input, 1, 0) > 0 && ::read(0, &byte, 1) <= 0;
}

int attack(const std::string& token, const std::vector<std::string>& names, std::chrono::seconds most) {
  Owner owner(token);
  std::vector<std::unique_ptr<Mode>> modes;
  for (const std::string& name : names) {
    const std::size_t before = modes.size();
    for (const Named& mode : kModes)
      if (name == mode.name) modes.push_back(mode.make(owner));
    if (modes.size() == before) throw std::invalid_argument("no such mode: " + name);
  }
  std::vector<Clock::time_point> next(modes.size(), Clock::now());
  std::vector<bool> ready(modes.size());
  bool said = false;
  const auto until = Clock::now() + most;
  try {
    for (auto& mode : modes) mode->begin();
    const auto enough = Clock::now() + kReady;
    while (Clock::now() < until && !told_to_end()) {
      const auto now = Clock::now();
      for (std::size_t i = 0; i < modes.size(); ++i) {
        if (now < next[i]) continue;
        next[i] = now + modes[i]->pace();
        ready[i] = modes[i]->tick() || now > enough || ready[i];
      }
      if (!said && std::find(ready.begin(), ready.end(), false) == ready.end()) {
        said = true;
        std::puts("ready");
        std::fflush(stdout);
      }
      std::this_thread::sleep_until(*std::min_element(next.begin(), next.end()));
    }
  } catch (...) {
    modes.clear();
    owner.give_up();
    throw;
  }
  modes.clear();
  owner.give_up();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() == 1 && words[0] == "--list") {
    for (const Named& mode : kModes) std::puts(mode.name);
    return 0;
  }
  std::chrono::seconds most(120);
  if (words.size() > 1 && words[0] == "--seconds") {
    most = std::chrono::seconds(std::atoi(words[1].c_str()));
    words.erase(words.begin(), words.begin() + 2);
  }
  if (words.empty() || words[0].starts_with("--")) {
    std::fputs("usage: bench-attack [--seconds N] TOKEN [MODE…]\n", stderr);
    return 2;
  }
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
  const std::string token = words[0];
  words.erase(words.begin());
  if (words.empty()) words.emplace_back("peers");
  try {
    return attack(token, words, most);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench-attack: %s\n", error.what());
    return 1;
  }
}
