// A remote sandbox where links break at every place, with several who use it, and with another end that does not keep to the rules.
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <csignal>
#include <cstdlib>
#include <random>

#include "remote_harness.hpp"
#include "runner/local/local_runner.hpp"
#include "support/catch.hpp"

namespace cwsandbox::test {

using remote::Control;
using remote::RemoteSandbox;
using remote::SandboxServer;
using runner::ExitInfo;
using runner::ProcessSpec;
using runner::RunnerError;
using runner::SandboxSpec;
using std::chrono::milliseconds;

namespace {

// With a sanitizer, or where the machine is slow, a part of the full size.
[[nodiscard]] std::size_t part_of(std::size_t full) {
  const char* parts = std::getenv("CWSANDBOX_TEST_PARTS");
  const int by = parts == nullptr ? 1 : std::atoi(parts);
  return by > 1 ? full / static_cast<std::size_t>(by) : full;
}

// One sandbox of the local runner with its server, for as many as want to use it.
struct Place {
  asio::io_context loop;
  std::unique_ptr<runner::Runner> local = runner::local::make_local_runner(loop.get_executor());
  std::shared_ptr<SandboxServer> server;

  explicit Place(remote::ServerOptions options = server_options())
      : server(std::make_shared<SandboxServer>(loop.get_executor(), *local, std::move(options))) {}

  [[nodiscard]] std::unique_ptr<RemoteSandbox> object(remote::RemoteOptions options = remote_options(), Budget budget = {},
                                                      std::shared_ptr<std::uint64_t> links = nullptr) {
    return RemoteSandbox::make(loop.get_executor(), dial_to(loop.get_executor(), server, std::move(budget), std::move(links)),
                               std::move(options));
  }
  /// The sandbox was ended: until everybody has seen it. Then nothing goes on behind it.
  ExitInfo finish() {
    const ExitInfo exit = run(loop, server->finished());
    end();
    return exit;
  }
  void end() {
    server.reset();
    run_until(loop, [this] { return loop.stopped(); });
  }
};

asio::awaitable<void> cat_says(runner::Sandbox& sandbox, std::string said) {
  std::vector<std::string> words(1, "cat");
  const Outcome outcome = co_await exec(sandbox, command(std::move(words)), said);
  REQUIRE((outcome.out == said));
  REQUIRE(outcome.exit.kind == ExitInfo::Kind::exited);
  REQUIRE(outcome.exit.value == 0);
}

asio::awaitable<std::string> code_of(asio::awaitable<void> work) {
  try {
    co_await std::move(work);
  } catch (const RunnerError& error) {
    co_return std::string(base::to_string(error.code()));
  }
  co_return std::string("done");
}

asio::awaitable<std::string> code_of_start(runner::Sandbox& sandbox) {
  try {
    auto process = co_await sandbox.start(command(sh("true")));
  } catch (const RunnerError& error) {
    co_return std::string(base::to_string(error.code()));
  }
  co_return std::string("started");
}

[[nodiscard]] std::string message(std::uint8_t channel, std::string_view payload) {
  return static_cast<char>(channel) + std::string(payload);
}

}  // namespace

// ---- Links that break ----

TEST_CASE("a link that breaks anywhere costs a process nothing", "[runner][remote]") {
  Place place;
  auto owner = place.object();
  run(place.loop, owner->create(sandbox_spec()));
  // Byte for byte through the first link; from where all of it fits, nothing is cut any more.
  const std::uint64_t step = part_of(1) == 1 ? 7 : 23;
  std::size_t cut = 0;
  for (std::uint64_t at = 1;; at += step) {
    INFO(at);
    const auto links = std::make_shared<std::uint64_t>(0);
    const Budget budget = [links, at] { return *links == 1 ? at : kUnlimited; };
    auto object = place.object(remote_options(), budget, links);
    run(place.loop, object->attach(kHang));
    run(place.loop, cat_says(*object, "hello"));
    object->let_go();
    object.reset();
    if (*links == 1) break;
    ++cut;
  }
  REQUIRE(cut > 30);
  owner.reset();
  place.finish();
}

TEST_CASE("64 MiB there and back over more than a hundred links", "[runner][remote]") {
  Place place;
  const auto links = std::make_shared<std::uint64_t>(0);
  const auto random = std::make_shared<std::mt19937_64>(3);
  const Budget budget = [random] { return std::uniform_int_distribution<std::uint64_t>(500'000, 1'500'000)(*random); };
  auto object = place.object(remote_options(), budget, links);
  run(place.loop, object->create(sandbox_spec()));
  std::string data(part_of(64u << 20), '\0');
  for (std::size_t i = 0; i + 8 <= data.size(); i += 8) {
    const std::uint64_t value = (*random)();
    std::copy_n(reinterpret_cast<const char*>(&value), 8, data.data() + i);
  }
  const auto begin = std::chrono::steady_clock::now();
  const auto both = [&]() -> asio::awaitable<void> { co_await cat_says(*object, data); };
  bool done = false;
  std::exception_ptr error;
  asio::co_spawn(place.loop, both(), [&](std::exception_ptr e) {
    error = e;
    done = true;
  });
  while (!done && std::chrono::steady_clock::now() - begin < 10 * kHang) place.loop.run_one_for(std::chrono::seconds(1));
  if (error) std::rethrow_exception(error);
  REQUIRE(done);
  REQUIRE(*links >= part_of(100));
  object.reset();
  place.finish();
}

TEST_CASE("without a link for longer than the grace time, all is lost and said to be", "[runner][remote]") {
  Place place;
  remote::RemoteOptions options = remote_options();
  options.grace = milliseconds(200);
  bool reachable = true;
  const remote::Dial inner = dial_to(place.loop.get_executor(), place.server, [] { return std::uint64_t{20'000}; });
  const remote::Dial dial = [&]() -> asio::awaitable<std::unique_ptr<remote::Link>> {
    if (!reachable) throw RunnerError(base::ErrorCode::unavailable, "", "the cable is cut");
    return inner();
  };
  auto object = RemoteSandbox::make(place.loop.get_executor(), dial, options);
  run(place.loop, object->create(sandbox_spec()));
  const auto test = [&]() -> asio::awaitable<void> {
    auto process = co_await object->start(command(sh("echo $$; exec cat /dev/zero")));
    const std::string pid = co_await read_line(process->std_out());
    reachable = false;  // and the link breaks under what it writes
    const std::string rest = co_await read_all(process->std_out());
    const ExitInfo exit = co_await wait_exit(*process);
    REQUIRE(exit.kind == ExitInfo::Kind::lost);
    const ExitInfo end = co_await wait_exit(*object);
    REQUIRE(end.kind == ExitInfo::Kind::lost);
    const std::string code = co_await code_of_start(*object);
    REQUIRE(code == "unavailable");
    REQUIRE(object->last_trouble().find("the cable is cut") != std::string::npos);
    // The sandbox runs on, and what the lost one has started there is killed.
    auto other = place.object();
    co_await other->attach(kHang);
    const Outcome outcome = co_await exec_sh(*other, "while kill -0 " + pid + " 2>/dev/null; do sleep 0.01; done; echo gone");
    REQUIRE(outcome.out == "gone\n");
  };
  run(place.loop, test());
  object.reset();
  place.finish();
}

TEST_CASE("what is answered while there is no link is answered once", "[runner][remote]") {
  Place place;
  bool reachable = true;
  remote::Link* link = nullptr;
  const remote::Dial inner = dial_to(place.loop.get_executor(), place.server);
  const remote::Dial dial = [&]() -> asio::awaitable<std::unique_ptr<remote::Link>> {
    if (!reachable) throw RunnerError(base::ErrorCode::unavailable, "", "the cable is cut");
    auto dialling = inner();
    std::unique_ptr<remote::Link> made = co_await std::move(dialling);
    link = made.get();
    co_return made;
  };
  auto object = RemoteSandbox::make(place.loop.get_executor(), dial, remote_options());
  run(place.loop, object->create(graceful_spec()));
  const auto test = [&]() -> asio::awaitable<void> {
    auto other = place.object();
    co_await other->attach(kHang);
    co_await main_is_ready(*other);
    auto process =
        co_await object->start(command(sh("trap 'echo asked' TERM; sleep infinity & echo ready; while :; do wait; done")));
    const std::string ready = co_await read_line(process->std_out());
    REQUIRE(ready == "ready");
    bool stopped = false;
    asio::co_spawn(place.loop, object->stop(std::chrono::seconds(3)), [&](const std::exception_ptr& error) { stopped = !error; });
    const std::string asked = co_await read_line(process->std_out());
    REQUIRE(asked == "asked");
    reachable = false;
    link->close();
    const ExitInfo end = co_await wait_exit(*other);  // all of it has ended, and only the other knows
    REQUIRE(end.kind == ExitInfo::Kind::exited);
    REQUIRE(!stopped);
    reachable = true;
    const ExitInfo exit = co_await wait_exit(*process);
    REQUIRE(exit.kind == ExitInfo::Kind::signaled);
    REQUIRE(exit.value == SIGKILL);
    const ExitInfo same = co_await wait_exit(*object);
    REQUIRE(same.kind == ExitInfo::Kind::exited);
    REQUIRE(stopped);
  };
  run(place.loop, test());
  object.reset();
  place.finish();
}

TEST_CASE("the place's own word on the end reaches everybody", "[runner][remote]") {
  Place place;
  auto object = place.object();
  run(place.loop, object->create(sandbox_spec()));
  const auto test = [&]() -> asio::awaitable<void> {
    auto process = co_await object->start(command(sh("exec sleep infinity")));
    ExitInfo known;
    known.kind = ExitInfo::Kind::signaled;
    known.value = SIGKILL;
    known.out_of_memory = true;
    std::string order;
    process->on_exit([&](const ExitInfo& info) { order += info.kind == ExitInfo::Kind::lost ? 'l' : '?'; });
    object->place_gone("the pod was evicted", known);
    const ExitInfo end = co_await wait_exit(*object);
    REQUIRE(order == "l");  // before
    REQUIRE(end.kind == ExitInfo::Kind::signaled);
    REQUIRE(end.out_of_memory);
    const std::string out = co_await read_all(object->main_stdout());
    REQUIRE(out.empty());
    co_await object->stop(milliseconds(0));  // there is nothing left
    process.reset();
  };
  run(place.loop, test());
  object.reset();
  place.end();
}

// ---- Several who use it ----

TEST_CASE("two sessions use one sandbox, and both see what the main command writes", "[runner][remote]") {
  Place place;
  auto one = place.object();
  SandboxSpec spec = sandbox_spec();
  spec.command = sh("echo first; while [ ! -e /tmp/go ]; do sleep 0.01; done; echo second; exit 3");
  run(place.loop, one->create(spec));
  const auto test = [&]() -> asio::awaitable<void> {
    auto two = place.object();
    co_await two->attach(kHang);
    co_await cat_says(*one, "one");
    co_await cat_says(*two, "two");
    std::string line = co_await read_line(one->main_stdout());
    REQUIRE(line == "first");
    line = co_await read_line(two->main_stdout());  // though it came later
    REQUIRE(line == "first");
    // Of another's own nothing is left behind when it is let go.
    auto process = co_await two->start(command(sh("echo $$; exec sleep infinity")));
    const std::string pid = co_await read_line(process->std_out());
    process.reset();
    two->let_go();
    two.reset();
    const Outcome gone = co_await exec_sh(*one, "while kill -0 " + pid + " 2>/dev/null; do sleep 0.01; done; echo gone");
    REQUIRE(gone.out == "gone\n");
    auto three = place.object();
    co_await three->attach(kHang);
    co_await exec_sh(*one, "touch /tmp/go");
    for (RemoteSandbox* object : {one.get(), three.get()}) {
      const std::string rest = co_await read_all(object->main_stdout());
      REQUIRE(rest.substr(rest.size() - 7) == "second\n");
      const ExitInfo exit = co_await wait_exit(*object);
      REQUIRE(exit.value == 3);
    }
  };
  run(place.loop, test());
  one.reset();
  REQUIRE(place.finish().value == 3);
}

TEST_CASE("of the main command's output the last is kept for who comes later", "[runner][remote]") {
  remote::ServerOptions options = server_options();
  options.main_ring = 64u << 10;
  Place place(options);
  auto one = place.object();
  SandboxSpec spec = sandbox_spec();
  spec.command = sh("head -c 3000000 /dev/zero; echo; echo end; exec sleep infinity");
  run(place.loop, one->create(spec));
  const auto last_of = [](RemoteSandbox& object) -> asio::awaitable<std::size_t> {
    std::string line, zeros;
    while (line != "end") {
      zeros = std::move(line);
      line = co_await read_line(object.main_stdout());
    }
    co_return zeros.size();
  };
  const auto test = [&]() -> asio::awaitable<void> {
    std::size_t all = co_await last_of(*one);
    REQUIRE(all == 3'000'000);
    auto two = place.object();
    co_await two->attach(kHang);
    all = co_await last_of(*two);
    REQUIRE(all > 0);
    REQUIRE(all < 64u << 10);
    two->let_go();
  };
  run(place.loop, test());
  one.reset();
  REQUIRE(place.finish().kind == ExitInfo::Kind::signaled);
}

TEST_CASE("a main command whose output nobody takes does not wait", "[runner][remote]") {
  Place place;
  auto object = place.object();
  SandboxSpec spec = sandbox_spec();
  spec.command = sh("while [ ! -e /tmp/go ]; do sleep 0.01; done; head -c 8000000 /dev/zero; exit 5");
  run(place.loop, object->create(spec));
  const auto test = [&]() -> asio::awaitable<void> {
    co_await exec_sh(*object, "touch /tmp/go");
    object->let_go();
    object.reset();
  };
  run(place.loop, test());
  REQUIRE(place.finish().value == 5);
}

TEST_CASE("a second hello takes the session over", "[runner][remote]") {
  Place place;
  const auto test = [&]() -> asio::awaitable<void> {
    auto [ours, theirs] = link_pair(place.loop.get_executor());
    place.server->accept(std::move(theirs));
    RawEnd first(std::move(ours));
    Control named = hello("same");
    co_await first.send(named);
    Control answer = co_await first.receive_control();
    REQUIRE(answer.type == Control::Type::welcome);
    REQUIRE(!answer.resumed);
    auto [ours2, theirs2] = link_pair(place.loop.get_executor());
    place.server->accept(std::move(theirs2));
    RawEnd second(std::move(ours2));
    named.resumed = true;
    co_await second.send(named);
    answer = co_await second.receive_control();
    REQUIRE(answer.type == Control::Type::welcome);
    REQUIRE(answer.resumed);
    co_await first.drain();  // closed
  };
  run(place.loop, test());
  place.end();
}

// ---- Ends that do not keep to the rules ----

TEST_CASE("a server closes what breaks the rules, and serves the others", "[runner][remote]") {
  remote::ServerOptions options = server_options();
  options.hello_deadline = milliseconds(100);
  options.max_strangers = 4;
  Place place(options);
  auto owner = place.object();
  run(place.loop, owner->create(sandbox_spec()));
  using Frames = std::vector<std::pair<std::uint32_t, std::string>>;
  const std::string start = R"({"type":"start","id":"p2","sandboxId":"main","command":["cat"],"stdin":true})";
  const std::vector<std::pair<std::string, Frames>> after_hello = {
      {"a second hello on the same link", {{0, remote::encode_control(hello("x"))}}},
      {"control that is none", {{0, message(0, "nonsense")}}},
      {"control for the other end", {{0, message(0, R"({"type":"running"})")}}},
      {"an answer", {{0, message(2, std::string(4, '\0'))}}},
      {"a call without a length", {{0, message(1, "x")}}},
      {"a call longer than its frame", {{0, message(1, std::string("\0\0\1\0{}", 6))}}},
      {"a call that is not JSON", {{0, message(1, std::string("\0\0\0\2{]", 6))}}},
      {"a call of no known kind", {{0, message(1, std::string("\0\0\0\x14", 4) + R"({"id":1,"op":"jump"})")}}},
      {"a channel that there is not", {{0, message(77, "")}}},
      {"a channel of a process that there is not", {{5, message(99, "")}}},
      {"data for what was not started", {{5, message(0, "data")}}},
      {"a window that grows beyond what was sent",
       {{2, message(5, start)}, {2, message(6, R"({"type":"window","stdout":{"received":9,"limit":9}})")}}},
      {"more data than the window",
       {{2, message(5, start)},
        {2, message(0, std::string(60'000, 'x'))},
        {2, message(0, std::string(60'000, 'x'))},
        {2, message(0, "")},
        {2, message(7, R"({"type":"cancel"})")}}},
      {"the main command's input", {{1, message(0, "x")}}},
  };
  const auto test = [&]() -> asio::awaitable<void> {
    int number = 0;
    for (const auto& [name, frames] : after_hello) {
      INFO(name);
      auto [ours, theirs] = link_pair(place.loop.get_executor());
      place.server->accept(std::move(theirs));
      RawEnd end(std::move(ours));
      const Control named = hello("bad-" + std::to_string(++number));
      co_await end.send(named);
      const Control welcome = co_await end.receive_control();
      REQUIRE(welcome.type == Control::Type::welcome);
      for (const auto& [stream, text] : frames) {
        try {
          co_await end.send(stream, text);
        } catch (const boost::system::system_error&) {  // closed already
        }
      }
      co_await end.drain();
    }
    // Before hello.
    const std::vector<std::string> garbage = {
        std::string(64, '\xff'),
        std::string("\0\0\0\1\0\0\0\0\0", 9),
        std::string("\x7f\xff\xff\xff\0\0\0\0\0", 9),
        std::string("GET / HTTP/1.1\r\n\r\n"),
        std::string("\0\0\0\x07\0\0\0\0\0{}", 11),
    };
    for (const std::string& bytes : garbage) {
      auto [ours, theirs] = link_pair(place.loop.get_executor());
      place.server->accept(std::move(theirs));
      RawEnd end(std::move(ours));
      co_await end.send_bytes(bytes);
      co_await end.drain();
    }
    // Another key; no hello at all; too many of those.
    auto [ours, theirs] = link_pair(place.loop.get_executor());
    place.server->accept(std::move(theirs));
    RawEnd wrong(std::move(ours));
    const Control unknown = hello("wrong", "another key");
    co_await wrong.send(unknown);
    const Control refused = co_await wrong.receive_control();
    REQUIRE(refused.type == Control::Type::refused);
    REQUIRE(refused.code == base::ErrorCode::permission_denied);
    REQUIRE(refused.message.find("key of the test") == std::string::npos);
    co_await wrong.drain();
    std::vector<std::unique_ptr<RawEnd>> silent;
    for (int i = 0; i < 20; ++i) {
      auto pair = link_pair(place.loop.get_executor());
      place.server->accept(std::move(pair.second));
      silent.push_back(std::make_unique<RawEnd>(std::move(pair.first)));
    }
    for (const auto& end : silent) co_await end->drain();
    co_await cat_says(*owner, "still here");
  };
  run(place.loop, test());
  owner.reset();
  place.finish();
}

TEST_CASE("a wrong key is the end, and says so", "[runner][remote]") {
  Place place;
  remote::RemoteOptions options = remote_options();
  options.key = "another";
  auto object = place.object(options);
  const std::string code = run(place.loop, code_of(object->create(sandbox_spec())));
  REQUIRE(code == "permission_denied");
  object.reset();
  place.end();
}

TEST_CASE("a server that lies is left, with an error", "[runner][remote]") {
  asio::io_context loop;
  const std::string started = R"({"type":"started","id":"p2","pid":7,"attached":false,"window":{"stdin":65536}})";
  const std::string exit = R"({"type":"exit","outcome":"exited","code":0,"stdout":0,"stderr":0})";
  struct Lie {
    const char* name;
    std::vector<std::pair<std::uint32_t, std::string>> frames;
  };
  const std::vector<Lie> lies = {
      {"a stream that nobody has started", {{9, message(3, started)}}},
      {"more than the window",
       {{2, message(3, started)}, {2, message(1, std::string(60'000, 'x'))}, {2, message(1, std::string(60'000, 'x'))}}},
      {"an exit twice", {{2, message(3, started)}, {2, message(3, exit)}, {2, message(3, exit)}}},
      {"an exit with other totals", {{2, message(3, started)}, {2, message(1, "x")}, {2, message(3, exit)}}},
      {"an exit without a code",
       {{2, message(3, started)}, {2, message(3, R"({"type":"exit","outcome":"exited","stdout":0,"stderr":0})")}}},
      {"an answer to nothing", {{0, message(2, std::string("\0\0\0\x0a", 4) + R"({"id":999})")}}},
      {"a request", {{0, message(1, std::string("\0\0\0\2{}", 6))}}},
      {"a welcome twice", {{0, message(0, R"({"type":"welcome","version":1,"state":"running"})")}}},
      {"an end without how", {{0, message(0, R"({"type":"ended"})")}}},
      {"a frame that is too large", {{0, message(0, std::string(70'000, ' '))}}},
      {"data of no process before it has started", {{2, message(1, "x")}}},
  };
  for (const Lie& lie : lies) {
    DYNAMIC_SECTION(lie.name) {
      std::vector<std::shared_ptr<RawEnd>> ends;
      const auto lying = [&](std::shared_ptr<RawEnd> end) -> asio::awaitable<void> {
        const Control asked = co_await end->receive_control();
        REQUIRE(asked.type == Control::Type::hello);
        Control welcome;
        welcome.type = Control::Type::welcome;
        welcome.state = Control::State::running;
        co_await end->send(welcome);
        for (int started_or_main = 0; started_or_main < 2; ++started_or_main) (void)co_await end->receive();
        for (const auto& [stream, text] : lie.frames) {
          try {
            co_await end->send(stream, text);
          } catch (const boost::system::system_error&) {
          }
        }
        co_await end->drain();
      };
      const remote::Dial dial = [&]() -> asio::awaitable<std::unique_ptr<remote::Link>> {
        if (!ends.empty()) throw RunnerError(base::ErrorCode::unavailable, "", "once is enough");
        auto pair = link_pair(loop.get_executor());
        ends.push_back(std::make_shared<RawEnd>(std::move(pair.second)));
        asio::co_spawn(loop, lying(ends.back()), asio::detached);
        co_return std::move(pair.first);
      };
      remote::RemoteOptions options = remote_options();
      options.output_window = 100'000;
      auto object = RemoteSandbox::make(loop.get_executor(), dial, options);
      const auto test = [&]() -> asio::awaitable<void> {
        co_await object->attach(kHang);
        std::unique_ptr<runner::Process> process;
        try {
          process = co_await object->start(command(sh("true")));
        } catch (const RunnerError& error) {
          REQUIRE(error.code() == base::ErrorCode::unavailable);
        }
        const ExitInfo end = co_await wait_exit(*object);
        REQUIRE(end.kind == ExitInfo::Kind::lost);
        REQUIRE(object->last_trouble().find("broke the protocol") != std::string::npos);
        const std::string code = co_await code_of_start(*object);
        REQUIRE(code == "unavailable");
      };
      run(loop, test());
      object.reset();
      run_until(loop, [&] { return loop.stopped(); });
    }
  }
}

TEST_CASE("an agent that is older than watches is not asked for one", "[runner][remote][FI-16]") {
  asio::io_context loop;
  std::shared_ptr<RawEnd> end;
  const auto older = [](std::shared_ptr<RawEnd> self) -> asio::awaitable<void> {
    (void)co_await self->receive_control();
    Control welcome;
    welcome.type = Control::Type::welcome;
    welcome.state = Control::State::running;
    co_await self->send(welcome);
    co_await self->drain();
  };
  const remote::Dial dial = [&]() -> asio::awaitable<std::unique_ptr<remote::Link>> {
    if (end) throw RunnerError(base::ErrorCode::unavailable, "", "once is enough");
    auto pair = link_pair(loop.get_executor());
    end = std::make_shared<RawEnd>(std::move(pair.second));
    asio::co_spawn(loop, older(end), asio::detached);
    co_return std::move(pair.first);
  };
  auto object = RemoteSandbox::make(loop.get_executor(), dial, remote_options());
  const auto test = [&]() -> asio::awaitable<void> {
    co_await object->attach(kHang);
    std::string code;
    try {
      (void)co_await object->files().watch("/tmp");
    } catch (const RunnerError& error) {
      code = base::to_string(error.code());
    }
    REQUIRE(code == "unimplemented");
    REQUIRE(object->last_trouble().empty());
  };
  run(loop, test());
  object.reset();
  run_until(loop, [&] { return loop.stopped(); });
}

TEST_CASE("a link whose other end is silent is given up", "[runner][remote]") {
  asio::io_context loop;
  std::vector<std::unique_ptr<remote::Link>> silent;
  int dials = 0;
  const remote::Dial dial = [&]() -> asio::awaitable<std::unique_ptr<remote::Link>> {
    ++dials;
    auto pair = link_pair(loop.get_executor());
    silent.push_back(std::move(pair.second));
    co_return std::move(pair.first);
  };
  remote::RemoteOptions options = remote_options();
  options.hello_deadline = milliseconds(20);
  options.connect_deadline = milliseconds(300);
  auto object = RemoteSandbox::make(loop.get_executor(), dial, options);
  const std::string code = run(loop, code_of(object->create(sandbox_spec())));
  REQUIRE(code == "unavailable");
  REQUIRE(dials > 1);
  object.reset();
  run_until(loop, [&] { return loop.stopped(); });
}

}  // namespace cwsandbox::test
