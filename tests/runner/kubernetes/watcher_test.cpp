#include "runner/kubernetes/watcher.hpp"

#include "runner/kubernetes/watch_lines.hpp"
#include "support.hpp"

#include <boost/asio/steady_timer.hpp>

using namespace cwsandbox::runner::kubernetes;
using namespace cwsandbox::runner::kubernetes::test;

namespace {

std::string pod(const std::string& name, const std::string& version, const std::string& uid = "u") {
  return R"({"metadata":{"namespace":"ns","name":")" + name + R"(","uid":")" + uid + R"(","resourceVersion":")" + version +
         R"("}})";
}
std::string list(const std::string& version, const std::string& items, const std::string& next = "") {
  return answer(200, R"({"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":")" + version + R"(","continue":")" +
                         next + R"("},"items":[)" + items + "]}");
}
std::string event(const std::string& type, const std::string& object) {
  return R"({"type":")" + type + R"(","object":)" + object + "}\n";
}
const char* const kGone =
    R"x({"kind":"Status","apiVersion":"v1","status":"Failure","message":"too old resource version: 5 (9)","reason":"Expired","code":410})x";

// A watcher of a scripted server: the answers in order, and what came of them in words.
struct Watched {
  // Each answer is the whole text of one; `…` at its end: the connection stays, silent; `cut`: it is closed.
  explicit Watched(std::vector<std::string> script)
      : answers(std::move(script)), api([this](Raw& raw, const Seen&) { return reply(raw); }) {
    options.collection = "/api/v1/namespaces/ns/pods";
    options.label_selector = "app=x";
    options.retry_base = std::chrono::milliseconds(1);
    options.retry_max = std::chrono::milliseconds(10);
  }
  asio::awaitable<void> reply(Raw& raw) {
    const std::string text = at < answers.size() ? answers[at++] : std::string("…");
    const bool hold = text.ends_with("…"), cut = text.ends_with("cut");
    std::string bytes = text.substr(0, text.size() - (hold || cut ? 3 : 0));
    co_await raw.send(std::move(bytes));
    if (hold) {
      ++held;
      co_await raw.read_all();
      ++released;
    } else if (cut) {
      raw.socket().close();
    }
  }
  void start() {
    WatchHandlers handlers;
    handlers.on_object = [this](WatchEvent event, Json&& object) {
      const char* const names[] = {"added ", "modified ", "deleted "};
      const auto& metadata = object["metadata"];
      told.push_back(names[static_cast<int>(event)] + metadata["name"].get<std::string>() +
                     (metadata.contains("resourceVersion") ? "@" + metadata["resourceVersion"].get<std::string>() : std::string()));
      if (on_told) on_told();
    };
    handlers.on_synced = [this] { told.push_back("synced"); };
    handlers.on_error = [this](std::exception_ptr e) {
      try {
        std::rethrow_exception(e);
      } catch (const std::exception& what) {
        errors.push_back(what.what());
      }
    };
    watcher.emplace(api.client(), options, std::move(handlers));
  }
  // Until the script has been used up and its end is held.
  void play(int holds = 1) {
    start();
    wait([&] { return held >= holds; });
    settle(api.context);
  }
  void wait(const std::function<bool()>& what) {
    auto body = [&]() -> asio::awaitable<void> {
      asio::steady_timer turn(api.context);
      for (auto until = soon(); !what() && Clock::now() < until;) {
        turn.expires_after(1ms);
        co_await turn.async_wait(asio::use_awaitable);
      }
    };
    run(api.context, body);
    REQUIRE(what());
  }

  std::vector<std::string> answers;
  std::size_t at = 0;
  int held = 0, released = 0;
  FakeApi api;
  WatcherOptions options;
  std::vector<std::string> told, errors;
  std::function<void()> on_told;
  std::optional<Watcher> watcher;
};

using Words = std::vector<std::string>;
const char* const kList = "GET /api/v1/namespaces/ns/pods?labelSelector=app%3Dx&limit=500";
std::string watch_from(const std::string& version) {
  return "GET /api/v1/namespaces/ns/pods?labelSelector=app%3Dx&watch=true&allowWatchBookmarks=true&resourceVersion=" + version +
         "&timeoutSeconds=300";
}

}  // namespace

TEST_CASE("a list in pages, then a watch, which goes on from its last bookmark") {
  Watched w({list("5", pod("a", "1") + "," + pod("b", "2"), "next page"), list("5", pod("c", "3")),
             stream_head() + chunk(event("MODIFIED", pod("a", "6")) + event("DELETED", pod("b", "7"))) +
                 chunk(event("ADDED", pod("d", "8"))) +
                 chunk(event("BOOKMARK", R"({"kind":"Pod","metadata":{"resourceVersion":"20"}})")) + last_chunk(),
             stream_head() + chunk(event("ADDED", pod("e", "21"))) + "…"});
  w.play();
  CHECK(w.told == Words{"added a@1", "added b@2", "added c@3", "synced", "modified a@6", "deleted b@7", "added d@8", "added e@21"});
  CHECK(w.errors.empty());
  CHECK(w.api.lines() == Words{kList, std::string(kList) + "&continue=next%20page", watch_from("5"), watch_from("20")});
}

TEST_CASE("events that come in pieces, and many at once") {
  std::string many;
  for (int i = 10; i < 500; ++i) many += event("ADDED", pod("p" + std::to_string(i), std::to_string(i)));
  std::string stream = stream_head();
  for (std::size_t i = 0; i < many.size(); i += 37) stream += chunk(many.substr(i, 37));
  Watched w({list("5", ""), stream + "…"});
  w.play();
  CHECK(w.told.size() == 491);
  CHECK(w.told.back() == "added p499@499");
}

TEST_CASE("a version that has gone is listed anew, and what was missed is told") {
  const auto again = list("9", pod("b", "8") + "," + pod("c", "3") + "," + pod("d", "9", "another"));
  const auto first = list("5", pod("a", "1") + "," + pod("b", "2") + "," + pod("c", "3") + "," + pod("d", "4"));
  const Words told = {"added a@1",    "added b@2", "added c@3", "added d@4", "synced",
                      "modified b@8", "deleted d", "added d@9", "deleted a", "synced"};
  SECTION("as an answer") {
    Watched w({first, answer(410, kGone), again, stream_head() + "…"});
    w.play();
    CHECK(w.told == told);
    CHECK(w.errors.empty());
    CHECK(w.api.lines() == Words{kList, watch_from("5"), kList, watch_from("9")});
  }
  SECTION("as an event") {
    Watched w({first, stream_head() + chunk(event("ERROR", kGone)) + last_chunk(), again, stream_head() + "…"});
    w.play();
    CHECK(w.told == told);
    CHECK(w.errors.empty());
    CHECK(w.api.lines() == Words{kList, watch_from("5"), kList, watch_from("9")});
  }
}

TEST_CASE("a list whose pages expire is begun again") {
  Watched w(
      {list("5", pod("a", "1"), "next"), answer(410, kGone), list("6", pod("a", "1") + "," + pod("b", "6")), stream_head() + "…"});
  w.play();
  CHECK(w.told == Words{"added a@1", "added b@6", "synced"});
  CHECK(w.errors.size() == 1);
  CHECK(w.api.lines() == Words{kList, std::string(kList) + "&continue=next", kList, watch_from("6")});
}

TEST_CASE("a watch that breaks goes on from the last event") {
  const auto first = list("5", pod("a", "1"));
  const auto some = stream_head() + chunk(event("MODIFIED", pod("a", "6")));
  struct Case {
    std::string answer, error;
  };
  const auto half = event("MODIFIED", pod("a", "7")).substr(0, 20);
  const std::vector<Case> cases = {
      {some + chunk(half) + last_chunk(), "cut within an event"},
      {some + chunk(half) + "cut", "closed the connection within its answer"},
      {some + chunk("garbage\n") + last_chunk(), "no event"},
      {some + chunk("{\"type\":7}\n[]\n") + last_chunk(), "no event"},
      {some + chunk(std::string(5000, '[') + "\n") + last_chunk(), "no event"},
      {some + chunk(event("MODIFIED", "{}")) + last_chunk(), "without a resourceVersion"},
      {some + chunk(event("ERROR", R"({"kind":"Status","message":"etcd is away","code":500})")) + last_chunk(), "etcd is away"},
      {some + chunk(std::string(200000, 'x')) + "…", "an event of more than 100000 bytes"},
  };
  for (const auto& one : cases) {
    Watched w({first, one.answer, stream_head() + chunk(event("MODIFIED", pod("a", "8"))) + "…"});
    w.options.max_line = 100000;
    w.play(one.answer.ends_with("…") ? 2 : 1);
    INFO(one.answer.substr(0, 300));
    CHECK(w.told == Words{"added a@1", "synced", "modified a@6", "modified a@8"});
    REQUIRE(w.errors.size() == 1);
    CHECK(holds(w.errors.front(), one.error));
    CHECK(w.api.lines() == Words{kList, watch_from("5"), watch_from("6")});
  }
}

TEST_CASE("answers that are no list are tried again") {
  Watched w({answer(200, "{}"), answer(200, R"({"items":[1,{"metadata":7}],"metadata":[]})"), answer(403, ""), list("5", ""),
             stream_head() + "…"});
  w.play();
  CHECK(w.told == Words{"synced"});
  CHECK(w.errors.size() == 3);
}

TEST_CASE("a watch that is silent for longer than it may be is lost") {
  Watched w({list("5", ""), stream_head() + "…", stream_head() + chunk(event("ADDED", pod("a", "6"))) + "…"});
  w.options.timeout = std::chrono::seconds(1);
  w.options.slack = std::chrono::seconds(0);
  w.play(2);
  CHECK(w.told == Words{"synced", "added a@6"});
  REQUIRE(w.errors.size() == 1);
  CHECK(holds(w.errors.front(), "deadline"));
}

TEST_CASE("a watcher that is destroyed calls nobody and leaves no connection") {
  SECTION("while it watches") {
    Watched w({list("5", ""), stream_head() + "…"});
    w.play();
    w.watcher.reset();
    w.wait([&] { return w.released == 1; });
    CHECK(w.told == Words{"synced"});
    CHECK(w.errors.empty());
  }
  SECTION("while it lists") {
    Watched w({"…"});
    w.play();
    w.watcher.reset();
    w.wait([&] { return w.released == 1; });
    CHECK(w.told.empty());
    CHECK(w.errors.empty());
  }
  SECTION("while it waits for the answer to a watch") {
    Watched w({list("5", ""), "…"});
    w.play();
    w.watcher.reset();
    w.wait([&] { return w.released == 1; });
    CHECK(w.errors.empty());
  }
  SECTION("by what it calls") {
    Watched w({list("5", pod("a", "1") + "," + pod("b", "2"))});
    w.on_told = [&] { w.watcher.reset(); };
    w.start();
    w.wait([&] { return !w.told.empty(); });
    settle(w.api.context);
    CHECK(w.told == Words{"added a@1"});
    CHECK(w.errors.empty());
  }
  SECTION("by somebody outside of the loop, when its next turn is due") {
    // After so many objects it lets others run. What ends it there must not be there when its cancellation arrives.
    std::string many;
    for (int i = 0; i < 64; ++i) many += (i > 0 ? "," : "") + pod("p" + std::to_string(i), "1");
    Watched w({list("5", many)});
    w.start();
    for (auto until = soon(); w.told.size() < 64 && Clock::now() < until;) w.api.context.run_one_for(1s);
    REQUIRE(w.told.size() == 64);
    w.watcher.reset();
    settle(w.api.context);
    CHECK(w.told.size() == 64);
    CHECK(w.errors.empty());
  }
  SECTION("before it has begun") {
    Watched w({list("5", "")});
    w.start();
    w.watcher.reset();
    settle(w.api.context);
    CHECK(w.told.empty());
    CHECK(w.api.seen.empty());
  }
}

TEST_CASE("lines out of a stream, at every cut") {
  const std::string text = "one\n\ntwo\nthree\n";
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    WatchLines lines(100);
    Words out;
    const auto take = [&](std::string_view piece) {
      lines.put(piece);
      while (const auto line = lines.next()) out.emplace_back(*line);
    };
    take(std::string_view(text).substr(0, cut));
    take(std::string_view(text).substr(cut));
    CHECK(out == Words{"one", "two", "three"});
    CHECK(lines.empty());
  }
  WatchLines lines(4);
  lines.put("abcd");
  CHECK_FALSE(lines.next());
  CHECK_FALSE(lines.too_long());
  lines.put("e");
  CHECK_FALSE(lines.next());
  CHECK(lines.too_long());
}
