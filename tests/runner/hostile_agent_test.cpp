// An agent that lies. Its words are written out as docs/decisions/0013-kubernetes-runner.md and docs/exec-stream.md have them, and
// not by our own encoders, which could be wrong in the same way as our decoders.
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/system/system_error.hpp>

#include <algorithm>

#include "remote_harness.hpp"
#include "runner/local/local_runner.hpp"
#include "support/catch.hpp"

namespace cwsandbox::test {

using remote::RemoteSandbox;
using runner::ExitInfo;
using runner::RunnerError;
using std::chrono::milliseconds;

namespace {

constexpr std::uint8_t kControl = 0, kAnswer = 2;                                          // channels of stream 0
constexpr std::uint8_t kStdout = 1, kStatus = 3, kWindow = 6, kResumed = 8, kClose = 255;  // of a process

std::string number32(std::size_t value) {
  std::string out;
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(value >> shift);
  return out;
}

std::string frame(std::uint32_t stream, std::uint8_t channel, const std::string& payload) {
  return number32(4 + 1 + payload.size()) + number32(stream) + static_cast<char>(channel) + payload;
}
std::string control(const std::string& json) { return frame(0, kControl, json); }
std::string answer(const std::string& json, const std::string& bytes = {}) {
  return frame(0, kAnswer, number32(json.size()) + json + bytes);
}
std::string status(const std::string& json) { return frame(2, kStatus, json); }

const std::string kWelcome = control(R"({"type":"welcome","version":1,"calls":[],"state":"running","stdout":0,"stderr":0})");
const std::string kStarted = status(R"({"type":"started","id":"p2","pid":7,"attached":false,"window":{"stdin":65536}})");
const std::string kEntry = R"({"name":"f","type":"regular","size":1,"mode":420,"uid":0,"gid":0,"modified":"0"})";

std::string many(const std::string& one, int count) {
  std::string all = one;
  for (int i = 1; i < count; ++i) all += "," + one;
  return all;
}

// An agent that lets itself be attached to, waits until a file is asked for (call 1) and a process started (stream 2), and then
// says what it is told to.
struct Liar {
  explicit Liar(std::string lie, remote::RemoteOptions options = remote_options()) : says(std::move(lie)) {
    const remote::Dial dial = [this]() -> asio::awaitable<std::unique_ptr<remote::Link>> {
      if (end) throw RunnerError(base::ErrorCode::failed_precondition, "", "once is enough");
      auto pair = link_pair(loop.get_executor());
      end = std::make_shared<RawEnd>(std::move(pair.second));
      asio::co_spawn(loop, lying(end), asio::detached);
      co_return std::move(pair.first);
    };
    object = RemoteSandbox::make(loop.get_executor(), dial, std::move(options));
  }
  ~Liar() {
    object.reset();
    if (end) end->close();
    run_until(loop, [this] { return loop.stopped(); });  // and nothing goes on behind it
  }
  Liar(const Liar&) = delete;
  Liar& operator=(const Liar&) = delete;

  asio::awaitable<void> lying(std::shared_ptr<RawEnd> self) {
    (void)co_await self->receive();
    co_await self->send_bytes(kWelcome);
    for (bool asked = false, starts = false; !asked || !starts;) {
      const auto got = co_await self->receive();
      if (!got) co_return;
      asked = asked || (got->first == 0 && got->second.front() == 1);
      starts = starts || got->first == 2;
    }
    try {
      co_await self->send_bytes(says);
    } catch (const boost::system::system_error&) {  // it has heard enough
    }
    co_await self->drain();
  }

  // How the file and the process fare.
  asio::awaitable<void> opening() {
    try {
      (void)co_await object->files().open("/f");
      of_file = "opened";
    } catch (const RunnerError& e) {
      of_file = base::to_string(e.code());
      file_text = e.what();
    }
  }
  asio::awaitable<void> starting() {
    try {
      process = co_await object->start(command(sh("true")));
      of_process = "started";
    } catch (const RunnerError& e) {
      of_process = base::to_string(e.code());
      process_text = e.what();
    }
  }
  void attach_and_ask() {
    run(loop, object->attach(kHang));
    asio::co_spawn(loop, opening(), asio::detached);
    asio::co_spawn(loop, starting(), asio::detached);
  }

  asio::io_context loop;
  const std::string says;
  std::shared_ptr<RawEnd> end;
  std::unique_ptr<RemoteSandbox> object;
  std::unique_ptr<runner::Process> process;
  std::string of_file, file_text, of_process, process_text;
};

bool printable_text(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
}

}  // namespace

TEST_CASE("whatever lie an agent tells, its sandbox is given up, and the lie is named", "[runner][remote][hostile][KU-6]") {
  struct Lie {
    const char* name;
    std::string bytes;
    const char* named;
  };
  const std::string data = frame(2, kStdout, "x");
  const std::vector<Lie> lies = {
      {"an end of the session out of nothing", control(R"({"type":"bye"})"), "not asked for"},
      {"a gateway's own word", control(R"({"type":"hello","version":1,"session":"x","key":"y"})"), "not for this end"},
      {"a refusal after the welcome", control(R"({"type":"refused","code":"internal","message":"no"})"), "not for this end"},
      {"another welcome", kWelcome, "not for this end"},
      {"control that nests", control(std::string(60'000, '[')), "JSON"},
      {"control of no type", control("{}"), "type"},
      {"control that is too large", control(std::string((64 << 10) + 1, ' ')), "at most"},
      {"a frame without a channel", number32(4) + number32(0) + static_cast<char>(kControl), "a frame of 4 bytes"},
      {"a frame of 2 GiB", number32(0x7fffffff) + number32(0) + static_cast<char>(kAnswer), "at most"},
      {"a channel that there is not", frame(0, 9, "x"), "no such channel"},
      {"an answer to nothing", answer(R"({"id":99,"handle":1})"), "not asked"},
      {"an answer to a call that is not a number", answer(R"({"id":"1"})"), "id"},
      {"an answer with a negative number", answer(R"({"id":-1})"), "id"},
      {"an answer shorter than it says", frame(0, kAnswer, number32(1000) + R"({"id":1})"), "longer than its frame"},
      {"an answer without its length", frame(0, kAnswer, "x"), "without its length"},
      {"an answer twice", answer(R"({"id":1,"handle":1,"entries":[)" + kEntry + "]}") + answer(R"({"id":1,"handle":1})"),
       "not asked"},
      {"bytes that nobody asked for", answer(R"({"id":1,"handle":1})", "bytes"), "more bytes"},
      {"a file that leads elsewhere", answer(R"({"id":1,"handle":1,"entries":[{"name":"../f","type":"regular"}]})"), "name"},
      {"a file of no known type", answer(R"({"id":1,"handle":1,"entries":[{"name":"f","type":"gate"}]})"), "type"},
      {"more entries than an answer has", answer(R"({"id":1,"entries":[)" + many(kEntry, 101) + "]}"), "entries"},
      {"more events than an answer has", answer(R"({"id":1,"events":[)" + many(R"({"kind":"created"})", 101) + "]}"), "events"},
      {"an event that leads elsewhere", answer(R"({"id":1,"events":[{"kind":"created","name":"a/b"}]})"), "name"},
      {"a failure without a code", answer(R"({"id":1,"failure":{"kind":"runner","message":"x"}})"), "failure"},
      {"an end with an exit code that no process has",
       control(R"({"type":"ended","exit":{"kind":"exited","value":256,"time":"0"}})"), "an exit code of 256"},
      {"an end by no signal", control(R"({"type":"ended","exit":{"kind":"signaled","value":0,"time":"0"}})"), "a signal of 0"},
      {"an end at no time", control(R"({"type":"ended","exit":{"kind":"exited","value":0,"time":"noon"}})"), "time"},
      {"a process that nobody has started", frame(3, kStatus, "{}"), "stream 3"},
      {"another process's start", status(R"({"type":"started","id":"p3","pid":7,"window":{"stdin":1}})"), "id"},
      {"a start twice", kStarted + kStarted, "started"},
      {"a start that is a resume", frame(2, kResumed, R"({"type":"resumed","window":{"stdin":1}})"), "resume"},
      {"output before the start", data, "before started"},
      {"output after its end", kStarted + frame(2, kClose, "\x01") + data, "after its end"},
      {"an end of the input", kStarted + frame(2, kClose, std::string(1, '\0')), "stdin"},
      {"input that was never sent", kStarted + frame(2, kWindow, R"({"type":"window","stdin":{"received":9,"limit":9}})"),
       "received 9"},
      {"an exit with an impossible code",
       kStarted + status(R"({"type":"exit","outcome":"exited","code":256,"stdout":0,"stderr":0})"), "an exit code of 256"},
      {"an exit by an impossible signal",
       kStarted + status(R"({"type":"exit","outcome":"signaled","signalNumber":65,"stdout":0,"stderr":0})"), "a signal of 65"},
      {"an exit with output that did not come",
       kStarted + status(R"({"type":"exit","outcome":"exited","code":0,"stdout":5,"stderr":0})"), "stdout has 5"},
      {"an exit twice",
       kStarted + status(R"({"type":"exit","outcome":"exited","code":0,"stdout":0,"stderr":0})") +
           status(R"({"type":"exit","outcome":"exited","code":0,"stdout":0,"stderr":0})"),
       "after the exit"},
      {"an exit of what has not started", status(R"({"type":"exit","outcome":"exited","stdout":0,"stderr":0})"), "code is missing"},
      {"input for a gateway's program", frame(1, kStdout, "x") + frame(1, 0, "x"), "stream 1"},
  };
  for (const Lie& lie : lies) {
    DYNAMIC_SECTION(lie.name) {
      Liar liar(lie.bytes);
      liar.attach_and_ask();
      const ExitInfo end = run(liar.loop, wait_exit(*liar.object));
      run_until(liar.loop, [&] { return !liar.of_file.empty() && !liar.of_process.empty(); });
      const std::string why = liar.object->last_trouble();
      INFO(why);
      CHECK(end.kind == ExitInfo::Kind::lost);
      CHECK(why.find("the other end broke the protocol: ") == 0);
      CHECK(why.find(lie.named) != std::string::npos);
      CHECK(printable_text(why));
      CHECK(why.size() < 1000);
      // Whoever waits is told, and so is who comes later.
      CHECK((liar.of_file == "unavailable" || liar.of_file == "opened"));
      CHECK((liar.of_process == "unavailable" || liar.of_process == "started"));
      if (liar.process) CHECK(run(liar.loop, wait_exit(*liar.process)).kind != ExitInfo::Kind::signaled);
      liar.of_process.clear();
      run(liar.loop, liar.starting());
      CHECK(liar.of_process == "unavailable");
      CHECK(liar.process_text.find(lie.named) != std::string::npos);
    }
  }
}

TEST_CASE("what an agent says of a failure can be shown", "[runner][remote][hostile][KU-6]") {
  const std::string nasty = R"(\u001b]0;owned\u0007\u009b31m\u202eabc)";
  const std::string refusal = R"({"type":"error","code":"UNAVAILABLE; DROP","message":")" + nasty + R"(","reason":"no such word"})";
  Liar liar(answer(R"({"id":1,"failure":{"kind":"runner","code":"ok\n200","reason":"<b>","message":")" + nasty +
                   R"(","metadata":{"a\nb":")" + nasty + R"("}}})") +
            status(refusal));
  liar.attach_and_ask();
  run_until(liar.loop, [&] { return !liar.of_file.empty() && !liar.of_process.empty(); });
  CHECK(liar.of_file == "unknown");
  CHECK(liar.of_process == "unknown");
  for (const std::string& text : {liar.file_text, liar.process_text}) {
    CHECK(text.find("abc") != std::string::npos);
    CHECK(printable_text(text));
  }
  CHECK(liar.object->last_trouble().empty());  // a failure is none of the link's
}

TEST_CASE("an agent that keeps its link alive and answers nothing keeps nobody waiting", "[runner][remote][hostile][KU-7]") {
  remote::RemoteOptions options = remote_options();
  options.answer_deadline = milliseconds(50);
  // Pings enough that each could be somebody's turn.
  std::string pings;
  for (int i = 0; i < 5000; ++i) pings += control(R"({"type":"ping"})");
  Liar liar(pings, options);
  liar.attach_and_ask();
  run_until(liar.loop, [&] { return !liar.of_file.empty() && !liar.of_process.empty(); });
  CHECK(liar.of_file == "deadline_exceeded");
  CHECK(liar.of_process == "deadline_exceeded");
  CHECK(liar.object->connected());
  // What comes too late is taken, and ended: the file is closed and the process killed.
  const auto late = [&]() -> asio::awaitable<void> {
    const std::string words = answer(R"({"id":1,"handle":5,"entries":[)" + kEntry + "]}") + kStarted;
    co_await liar.end->send_bytes(words);
  };
  run(liar.loop, late());
  run(liar.loop, liar.opening());
  CHECK(liar.of_file == "deadline_exceeded");
  CHECK(liar.object->connected());
  CHECK(liar.object->last_trouble().empty());
}

TEST_CASE("an agent that has made a sandbox and never says that it runs is not waited for", "[runner][remote][hostile][KU-7]") {
  asio::io_context loop;
  std::shared_ptr<RawEnd> end;
  const auto making = [](std::shared_ptr<RawEnd> self) -> asio::awaitable<void> {
    (void)co_await self->receive();
    const std::string words = control(R"({"type":"welcome","version":1,"calls":[],"state":"empty","stdout":0,"stderr":0})");
    co_await self->send_bytes(words);
    (void)co_await self->receive();  // create
    const std::string made = answer(R"({"id":1})");
    co_await self->send_bytes(made);
    co_await self->drain();
  };
  const remote::Dial dial = [&]() -> asio::awaitable<std::unique_ptr<remote::Link>> {
    if (end) throw RunnerError(base::ErrorCode::failed_precondition, "", "once is enough");
    auto pair = link_pair(loop.get_executor());
    end = std::make_shared<RawEnd>(std::move(pair.second));
    asio::co_spawn(loop, making(end), asio::detached);
    co_return std::move(pair.first);
  };
  remote::RemoteOptions options = remote_options();
  options.answer_deadline = milliseconds(200);
  auto object = RemoteSandbox::make(loop.get_executor(), dial, options);
  std::string code;
  const auto test = [&]() -> asio::awaitable<void> {
    try {
      co_await object->create(sandbox_spec());
    } catch (const RunnerError& e) {
      code = base::to_string(e.code());
    }
  };
  run(loop, test());
  CHECK(code == "deadline_exceeded");
  object.reset();
  end->close();
  run_until(loop, [&] { return loop.stopped(); });
}

TEST_CASE("an agent that stops within a frame is not waited for, but dialled again", "[runner][remote][hostile][KU-7]") {
  asio::io_context loop;
  int dials = 0;
  std::vector<std::shared_ptr<RawEnd>> ends;
  const std::string cuts[] = {kWelcome.substr(0, 3), kWelcome.substr(0, 8), kWelcome.substr(0, kWelcome.size() - 1), std::string()};
  const auto cutting = [](std::shared_ptr<RawEnd> end, std::string bytes, bool silent) -> asio::awaitable<void> {
    (void)co_await end->receive();
    try {
      if (!bytes.empty()) co_await end->send_bytes(bytes);
    } catch (const boost::system::system_error&) {  // on a slow day it was given up before
    }
    if (!silent) end->close();
  };
  const remote::Dial dial = [&]() -> asio::awaitable<std::unique_ptr<remote::Link>> {
    auto pair = link_pair(loop.get_executor());
    ends.push_back(std::make_shared<RawEnd>(std::move(pair.second)));
    // Every second one is silent then.
    asio::co_spawn(loop, cutting(ends.back(), cuts[static_cast<std::size_t>(dials) / 2 % 4], dials % 2 == 1), asio::detached);
    ++dials;
    co_return std::move(pair.first);
  };
  remote::RemoteOptions options = remote_options();
  options.hello_deadline = milliseconds(10);
  options.connect_deadline = kHang;
  auto object = RemoteSandbox::make(loop.get_executor(), dial, options);
  std::string code;
  const auto test = [&]() -> asio::awaitable<void> {
    try {
      co_await object->create(sandbox_spec());
    } catch (const RunnerError& e) {
      code = base::to_string(e.code());
    }
  };
  asio::co_spawn(loop, test(), asio::detached);
  run_until(loop, [&] { return dials == 9; });  // each of them
  CHECK(code.empty());
  object->place_gone("enough", std::nullopt);
  run_until(loop, [&] { return !code.empty(); });
  CHECK(code == "unavailable");
  object.reset();
  ends.clear();
  run_until(loop, [&] { return loop.stopped(); });
}

TEST_CASE("an agent that lies harms no other sandbox", "[runner][remote][hostile][KU-6]") {
  asio::io_context loop;
  auto local = runner::local::make_local_runner(loop.get_executor());
  RemoteRunner honest(loop.get_executor(), *local);
  auto neighbour = run(loop, honest.create(sandbox_spec()));
  const std::vector<std::string> lies = {control(R"({"type":"bye"})"), std::string(100'000, '\xff'),
                                         answer(R"({"id":18446744073709551615})"),
                                         frame(1, kStatus, R"({"type":"exit","outcome":"exited","code":-1})"), kStarted + kStarted};
  for (const std::string& lie : lies) {
    // On the same loop as the neighbour.
    std::shared_ptr<RawEnd> end;
    const auto lying = [&](std::shared_ptr<RawEnd> self) -> asio::awaitable<void> {
      (void)co_await self->receive();
      const std::string words = kWelcome + lie;
      try {
        co_await self->send_bytes(words);
      } catch (const boost::system::system_error&) {
      }
      co_await self->drain();
    };
    const remote::Dial dial = [&]() -> asio::awaitable<std::unique_ptr<remote::Link>> {
      if (end) throw RunnerError(base::ErrorCode::failed_precondition, "", "once is enough");
      auto pair = link_pair(loop.get_executor());
      end = std::make_shared<RawEnd>(std::move(pair.second));
      asio::co_spawn(loop, lying(end), asio::detached);
      co_return std::move(pair.first);
    };
    auto object = RemoteSandbox::make(loop.get_executor(), dial, remote_options());
    asio::co_spawn(loop, object->attach(kHang), [](const std::exception_ptr&) {});
    const ExitInfo ended = run(loop, wait_exit(*object));
    CHECK(ended.kind == ExitInfo::Kind::lost);
    const Outcome works = run(loop, exec_sh(*neighbour, "echo still here"));
    CHECK(works.out == "still here\n");
    object.reset();
  }
  neighbour.reset();
  run_until(loop, [&] { return loop.stopped(); });
}

}  // namespace cwsandbox::test
