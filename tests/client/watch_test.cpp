// Watching files: of real sandboxes through a gateway, and from a scripted server for what only another server can show.
#include "scripted_server.hpp"
#include "support.hpp"

#include <algorithm>

#include <signal.h>

#include "client/watch.hpp"

using namespace support;
using namespace cwsandbox;
using nlohmann::json;

namespace {

using Events = StreamReader<FileEvent>;

/// "renamed a -> b"; a slash behind what is a directory.
std::string text_of(const FileEvent& event) {
  std::string text(to_string(event.kind));
  if (!event.old_name.empty()) text += " " + event.old_name + " ->";
  if (!event.name.empty()) text += " " + event.name;
  return event.is_directory ? text + "/" : text;
}

FileEvent next_of(const Events& events) {
  auto event = events.next().result(60s);
  if (!event) throw std::runtime_error("the watch has ended");
  return *event;
}

void run(const Sandbox& sandbox, const std::string& script) {
  const auto result = sandbox.exec(shell(script)).result(60s);
  INFO(result.std_err);
  REQUIRE(result.returncode == 0);
}

/// What a script does in the directory that is watched, told up to a last file that it makes there. Without changes of attributes:
/// how many of them there are is the kernel's affair.
std::vector<std::string> told(const Sandbox& sandbox, const Events& events, const std::string& directory,
                              const std::string& script) {
  run(sandbox, "cd " + directory + " && " + script + " && mkdir end-of-test");
  std::vector<std::string> all;
  for (;;) {
    const auto event = next_of(events);
    if (event.name == "end-of-test") return all;
    if (event.kind != FileEventKind::attributes) all.push_back(text_of(event));
  }
}

using Texts = std::vector<std::string>;

template <typename T>
SandboxFileError file_error(const task<T>& operation) {
  try {
    static_cast<void>(operation.result(60s));
  } catch (const SandboxFileError& error) {
    return error;
  }
  throw std::runtime_error("no SandboxFileError came");
}

std::string envelope(const json& message, unsigned flags = 0) {
  const std::string text = message.dump();
  std::string out(1, static_cast<char>(flags));
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>((text.size() >> static_cast<unsigned>(shift)) & 255U);
  return out + text;
}

constexpr const char* kMethod = "/cwsandbox.v1.FileService/Watch";

struct Scripted {
  ScriptedServer server;
  Sandbox sandbox;
  Scripted() {
    server.reply("CreateSandbox", ScriptedServer::sandbox("sb-1", "STATE_RUNNING"));
    server.reply("DeleteSandbox", json::object());
    sandbox = Sandbox::run(Client(server.options().with_retry_budget(0ms)));
    sandbox.release();  // the server goes first
  }
  void streams(const std::string& body) {
    ScriptedServer::Answer answer;
    answer.content_type = "application/connect+json";
    answer.body = body;
    server.reply_each(kMethod, {answer});
  }
};

}  // namespace

TEST_CASE("what happens in a directory is told in its order", "[FI-16]") {
  const auto& sandbox = shared_sandbox();
  run(sandbox, "mkdir -p /tmp/order /tmp/elsewhere");
  const auto events = sandbox.watch("/tmp/order").result(60s);
  CHECK(told(sandbox, events, "/tmp/order",
             "echo one >a && mv a b && echo more >>b && rm b && mkdir d && touch d/not-told && mv d e && mv e /tmp/elsewhere && "
             "echo x >/tmp/elsewhere/in && mv /tmp/elsewhere/in in && ln -s in link && rm link") ==
        Texts{"created a", "modified a", "closed a", "renamed a -> b", "modified b", "closed b", "deleted b", "created d/",
              "renamed d -> e/", "moved_out e/", "moved_in in", "created link", "deleted link"});
}

TEST_CASE("a file that is written by the library is there whole, and replaces another with a rename", "[FI-16]") {
  const auto& sandbox = shared_sandbox();
  run(sandbox, "mkdir /tmp/written");
  const auto events = sandbox.watch("/tmp/written").result(60s);
  const auto named = [&] {
    for (;;) {
      auto event = next_of(events);
      if (event.name == "file" && event.kind != FileEventKind::attributes) return event;
    }
  };
  sandbox.write_file("/tmp/written/file", "content").result(60s);
  // It takes its name at the end or, where a file system has no files without one, changes it.
  const auto first = named();
  CHECK((first.kind == FileEventKind::created || first.kind == FileEventKind::renamed));
  sandbox.write_file("/tmp/written/file", "other content").result(60s);
  const auto second = named();
  CHECK(second.kind == FileEventKind::renamed);
  CHECK_FALSE(second.old_name.empty());
}

TEST_CASE("names that are not UTF-8, a symlink and a relative path", "[FI-16]") {
  const auto& sandbox = shared_sandbox();
  run(sandbox, "mkdir /tmp/bytes && ln -s bytes /tmp/bytes-link");
  const auto events = sandbox.watch("/tmp/bytes-link").result(60s);
  CHECK(told(sandbox, events, "/tmp/bytes", "mkdir \"$(printf 'a\\377b')\" && rmdir \"$(printf 'a\\377b')\"") ==
        Texts{"created a\377b/", "deleted a\377b/"});
  run(sandbox, "mkdir relative");
  const auto relative = sandbox.watch("relative").result(60s);
  CHECK(told(sandbox, relative, "relative", "mkdir here") == Texts{"created here/"});
}

TEST_CASE("a file by itself, until it is gone", "[FI-16][FI-18]") {
  const auto& sandbox = shared_sandbox();
  run(sandbox, "echo one >/tmp/single && mkfifo /tmp/single-pipe");
  const auto events = sandbox.watch("/tmp/single").result(60s);
  run(sandbox, "echo two >>/tmp/single && rm /tmp/single");
  Texts all;
  while (const auto event = events.next().result(60s)) {
    CHECK(event->name.empty());
    if (event->kind != FileEventKind::attributes) all.push_back(text_of(*event));
  }
  CHECK(all == Texts{"modified", "closed", "gone"});
  CHECK_FALSE(events.next().result(60s));

  // Nothing is opened: neither is a pipe's other end waited for, nor does a program that waits for it go on.
  CHECK_NOTHROW(sandbox.watch("/tmp/single-pipe").result(60s));
}

TEST_CASE("what is watched gets another name, or is replaced, or its directory goes", "[FI-18]") {
  const auto& sandbox = shared_sandbox();
  run(sandbox, "mkdir -p /tmp/leaving/deep && touch /tmp/leaving/moved /tmp/leaving/old /tmp/leaving/new");
  const auto last = [](const Events& events) {
    std::string text;
    while (const auto event = events.next().result(60s)) text = text_of(*event);
    return text;
  };
  const auto moved = sandbox.watch("/tmp/leaving/moved").result(60s);
  const auto replaced = sandbox.watch("/tmp/leaving/old").result(60s);
  const auto directory = sandbox.watch("/tmp/leaving/deep").result(60s);
  run(sandbox, "cd /tmp/leaving && mv moved elsewhere && mv new old && rmdir deep");
  CHECK(last(moved) == "gone");
  CHECK(last(replaced) == "gone");
  CHECK(last(directory) == "gone");
}

TEST_CASE("what cannot be watched", "[FI-2][FI-16]") {
  const auto& sandbox = shared_sandbox();
  const auto missing = file_error(sandbox.watch("/tmp/no/such/file"));
  CHECK(missing.path() == "/tmp/no/such/file");
  CHECK(missing.error_name() == "ENOENT");
  CHECK(missing.reason() == "CWSANDBOX_FILE_NOT_FOUND");
  run(sandbox, "touch /tmp/closed-to-all && chmod 0 /tmp/closed-to-all");
  CHECK(file_error(sandbox.watch("/tmp/closed-to-all")).error_name() == "EACCES");
  CHECK_THROWS_AS(sandbox.watch(""), std::invalid_argument);
  CHECK_THROWS_AS(sandbox.watch(std::string("a\0b", 3)), std::invalid_argument);
  CHECK_THROWS_AS(Sandbox().watch("/tmp"), std::invalid_argument);
}

TEST_CASE("a flood overflows for who reads slowly, and the watch goes on", "[FI-17]") {
  const auto& sandbox = shared_sandbox();
  run(sandbox, "mkdir /tmp/flood");
  const auto events = sandbox.watch("/tmp/flood").result(60s);
  {
    const auto flood = sandbox.exec(shell("cd /tmp/flood; while :; do : >a; : >b; done"));
    // Some events for each command that is run, while which many more come.
    for (int i = 1; next_of(events).kind != FileEventKind::overflow; ++i) {
      if (i % 64 == 0) REQUIRE(sandbox.exec({"true"}).wait() == 0);
    }
  }  // which is killed here
  // More may be missing while the rest of the flood comes; a change behind it is told.
  int round = 0;
  const auto name = [&] { return "after-" + std::to_string(round); };
  run(sandbox, "mkdir /tmp/flood/" + name());
  for (;;) {
    const auto event = next_of(events);
    if (event.name == name()) break;
    if (event.kind != FileEventKind::overflow) continue;
    ++round;
    run(sandbox, "mkdir /tmp/flood/" + name());
  }
  SUCCEED();
}

TEST_CASE("events that nobody reads are kept up to a bound, and what is missing is said in its place", "[FI-17]") {
  client::EventQueue queue(nullptr);
  const auto put = [&queue](FileEventKind kind, const std::string& name) {
    FileEvent event;
    event.kind = kind;
    event.name = name;
    queue.put(std::move(event));
  };
  const auto poll = [&queue] {
    std::optional<FileEvent> event;
    REQUIRE(queue.poll(event) == client::EventQueue::Poll::item);
    return text_of(*event);
  };
  constexpr std::size_t most = client::EventQueue::kMost;
  for (std::size_t i = 0; i < 3 * most; ++i) put(FileEventKind::created, std::to_string(i));
  for (std::size_t i = 0; i < most / 2; ++i) CHECK(poll() == "created " + std::to_string(i));
  put(FileEventKind::created, "still too early");
  CHECK(poll() == "created " + std::to_string(most / 2));
  put(FileEventKind::created, "later");
  for (std::size_t i = most / 2 + 1; i < most; ++i) CHECK(poll() == "created " + std::to_string(i));
  CHECK(poll() == "overflow");
  CHECK(poll() == "created later");
  // The last word is never among what is missing.
  for (std::size_t i = 0; i < 2 * most; ++i) put(FileEventKind::created, std::to_string(i));
  put(FileEventKind::gone, "");
  queue.finish();
  for (std::size_t i = 0; i < most; ++i) CHECK(poll() == "created " + std::to_string(i));
  CHECK(poll() == "overflow");
  CHECK(poll() == "gone");
  std::optional<FileEvent> event;
  CHECK(queue.poll(event) == client::EventQueue::Poll::end);
}

TEST_CASE("a next() that is given up takes no event", "[FI-16][SR-14]") {
  const auto& sandbox = shared_sandbox();
  run(sandbox, "mkdir /tmp/given-up");
  const auto events = sandbox.watch("/tmp/given-up").result(60s);
  {
    const auto waiting = events.next();
    CHECK_THROWS_AS(waiting.result(20ms), TimeoutError);
    CHECK(waiting.cancel());
  }
  {
    const auto dropped = events.next();
    CHECK_FALSE(dropped.done());
  }
  run(sandbox, "mkdir /tmp/given-up/one /tmp/given-up/two");
  CHECK(text_of(next_of(events)) == "created one/");
  {
    const auto unseen = events.next();
    CHECK(eventually([&] { return unseen.done(); }));
  }
  CHECK(text_of(next_of(events)) == "created two/");
}

TEST_CASE("close() ends a watch, also for who waits", "[FI-16][SR-9]") {
  const auto& sandbox = shared_sandbox();
  const auto events = sandbox.watch("/tmp").result(60s);
  const auto waiting = events.next();
  events.close();
  CHECK_FALSE(waiting.result(60s));
  CHECK_FALSE(events.next().result(60s));
  CHECK(sandbox.watch("/tmp").cancel());
}

TEST_CASE("watches are counted, and one that nobody holds any more counts no longer", "[FI-20]") {
  Daemon daemon;
  const Client client(daemon.options().with_retry_budget(0ms));
  const auto sandbox = Sandbox::run(client);
  std::vector<Events> all;
  for (int i = 0; i < 16; ++i) all.push_back(sandbox.watch("/tmp").result(60s));
  CHECK_THROWS_AS(sandbox.watch("/tmp").result(60s), SandboxResourceExhaustedError);
  CHECK(sandbox.exec({"true"}).wait() == 0);
  // One is dropped, another closed, a third ends by itself; none that failed to begin counts.
  CHECK_THROWS_AS(sandbox.watch("/tmp/missing").result(60s), SandboxError);
  all.erase(all.begin());
  all.front().close();
  all.erase(all.begin());
  CHECK(eventually([&] {
    try {
      while (all.size() < 16) all.push_back(sandbox.watch("/tmp").result(60s));
      return true;
    } catch (const SandboxResourceExhaustedError&) {
      return false;
    }
  }));
  CHECK_THROWS_AS(sandbox.watch("/tmp").result(60s), SandboxResourceExhaustedError);
  // All of them still tell.
  run(sandbox, "mkdir /tmp/told-to-all");
  for (const auto& events : all) CHECK(text_of(next_of(events)) == "created told-to-all/");
  // And another sandbox has its own.
  const auto other = Sandbox::run(client);
  CHECK_NOTHROW(other.watch("/tmp").result(60s));
}

TEST_CASE("the sandbox ends while its files are watched", "[FI-18]") {
  const auto sandbox = Sandbox::run();
  const auto events = sandbox.watch("/tmp").result(60s);
  run(sandbox, "mkdir /tmp/before");
  sandbox.stop(StopOptions().with_grace_period(1s)).result(60s);
  CHECK(text_of(next_of(events)) == "created before/");
  const auto ended = [&] {
    while (events.next().result(60s)) continue;
  };
  CHECK_THROWS_AS(ended(), SandboxNotRunningError);
  CHECK_FALSE(events.next().result(60s));
}

TEST_CASE("the gateway goes while files are watched", "[FI-19]") {
  Daemon daemon;
  const Client client(daemon.options().with_retry_budget(0ms).with_resume_grace(0ms));
  const auto sandbox = Sandbox::run(client);
  const auto events = sandbox.watch("/tmp").result(60s);
  run(sandbox, "mkdir /tmp/before");
  CHECK(text_of(next_of(events)) == "created before/");
  daemon.kill(SIGKILL);
  try {
    static_cast<void>(events.next().result(60s));
    FAIL("an event, or an end");
  } catch (const SandboxUnavailableError& error) {
    CHECK(std::string(error.what()).find("The watch of '/tmp' broke off") == 0);
  }
  CHECK_FALSE(events.next().result(60s));
}

TEST_CASE("the connection of a watch is lost", "[FI-19]") {
  Daemon daemon;
  Proxy proxy(daemon.socket());
  const Client client(daemon.options().with_base_url(proxy.url()).with_retry_budget(0ms));
  const auto sandbox = Sandbox::run(client);
  const auto events = sandbox.watch("/tmp").result(60s);
  proxy.cut_all();
  CHECK_THROWS_AS(events.next().result(60s), SandboxUnavailableError);
  // The sandbox is there, and can be watched anew.
  const auto again = sandbox.watch("/tmp").result(60s);
  CHECK(told(sandbox, again, "/tmp", "mkdir anew") == Texts{"created anew/"});
}

TEST_CASE("a server that cannot watch", "[FI-16]") {
  Scripted it;
  const auto error = file_error(it.sandbox.watch("/data"));
  CHECK(error.code() == "unimplemented");
  CHECK(error.path() == "/data");
  CHECK(std::string(error.what()).find("Cannot watch '/data': the server cannot watch files") == 0);
}

TEST_CASE("what another server may send", "[FI-16][FI-19]") {
  Scripted it;
  const json events = {{{"kind", "FILE_EVENT_KIND_OF_TOMORROW"}, {"name", "x"}},
                       {{"kind", "FILE_EVENT_KIND_RENAMED"}, {"nameBytes", "/w=="}, {"oldName", "y"}}};
  SECTION("an end that nothing explains is an error") {
    it.streams(envelope(json::object()) + envelope({{"events", events}}) + envelope(json::object(), 2));
    const auto reader = it.sandbox.watch("/data").result(60s);
    const auto unknown = next_of(reader);
    CHECK(unknown.kind == FileEventKind::unspecified);
    CHECK(unknown.name == "x");
    CHECK(text_of(next_of(reader)) == "renamed y -> \377");
    CHECK_THROWS_AS(reader.next().result(60s), SandboxUnavailableError);
    const auto asked = json::parse(it.server.requests(kMethod).at(0).body.substr(5));
    CHECK(asked == json{{"sandboxId", "sb-1"}, {"path", "/data"}});
  }
  SECTION("the last event, and the end") {
    it.streams(envelope(json::object()) + envelope({{"events", {{{"kind", "FILE_EVENT_KIND_GONE"}}}}}) +
               envelope(json::object(), 2));
    const auto reader = it.sandbox.watch("/data").result(60s);
    CHECK(next_of(reader).kind == FileEventKind::gone);
    CHECK_FALSE(reader.next().result(60s));
  }
  SECTION("an end before the watch stands") {
    it.streams(envelope(json::object(), 2));
    CHECK_THROWS_AS(it.sandbox.watch("/data").result(60s), SandboxUnavailableError);
  }
  SECTION("an error of the server's") {
    it.streams(envelope(json::object()) + envelope({{"error", {{"code", "unavailable"}, {"message", "as told"}}}}, 2));
    const auto reader = it.sandbox.watch("/data").result(60s);
    CHECK_THROWS_AS(reader.next().result(60s), SandboxUnavailableError);
  }
}
