// Gateways over a place that outlives them: several at once, one after another, and what they make of what the place tells.
#include "gateway/context.hpp"
#include "gateway_support.hpp"
#include "runner/local/local_runner.hpp"
#include "support/catch.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>

#include <algorithm>
#include <set>
#include <utility>

using namespace gateway_test;
using Catch::Matchers::Contains;
using runner::ErrorCode;
using runner::Found;
using runner::RunnerError;

namespace {

// ---- the place ----

/// What a main command has written so far, for any number of readers from its beginning.
struct Output {
  std::string data;
  bool ended = false;
  std::vector<runner::IoHandler> waiting;
  void wake(const asio::any_io_executor& executor) {
    for (auto& handler : std::exchange(waiting, {}))
      asio::post(executor, [handler = std::move(handler)]() mutable { std::move(handler)(boost::system::error_code()); });
  }
};

class OutputView final : public runner::ByteSource {
 public:
  OutputView(asio::any_io_executor executor, std::shared_ptr<Output> output)
      : executor_(std::move(executor)), output_(std::move(output)) {}
  std::size_t try_read(asio::mutable_buffer into, boost::system::error_code& ec) override {
    ec = {};
    const std::size_t n = std::min(into.size(), output_->data.size() - at_);
    if (n == 0) ec = output_->ended ? boost::system::error_code(asio::error::eof) : asio::error::would_block;
    std::copy_n(output_->data.data() + at_, n, static_cast<char*>(into.data()));
    at_ += n;
    return n;
  }
  void async_wait(runner::IoHandler handler) override {
    output_->waiting.push_back(std::move(handler));
    if (at_ < output_->data.size() || output_->ended) output_->wake(executor_);
  }
  void close() noexcept override {}

 private:
  asio::any_io_executor executor_;
  std::shared_ptr<Output> output_;
  std::size_t at_ = 0;
};

class DurableRunner;

/// One sandbox of the place: a real one of this machine.
struct Placed {
  std::string id, record;
  Found::State state = Found::State::creating;
  std::optional<runner::ExitInfo> exit;
  std::string reason;
  int maker = 0;  // the runner object that made it
  std::shared_ptr<runner::Sandbox> sandbox;
  std::array<std::shared_ptr<Output>, 2> outputs{std::make_shared<Output>(), std::make_shared<Output>()};
  std::vector<std::function<void(const runner::ExitInfo&)>> on_exit;
};

/// Where sandboxes live, whatever becomes of gateways. All of it on the loop.
class Place : public std::enable_shared_from_this<Place> {
 public:
  explicit Place(const asio::any_io_executor& ex) : executor(ex), local(runner::local::make_local_runner(ex)), changed(ex) {}

  void announce(const Placed& placed);
  void announce_to(int watcher, const std::function<void(Found)>& handler, const Placed& placed);
  void set(const std::shared_ptr<Placed>& placed, Found::State state) {
    placed->state = state;
    announce(*placed);
    changed.notify();
  }
  void remove(const std::shared_ptr<Placed>& placed, const std::string& reason) {
    if (placed->state == Found::State::gone) return;
    placed->reason = reason;
    sandboxes.erase(placed->id);
    set(placed, Found::State::gone);
  }
  void ended(const std::shared_ptr<Placed>& placed, const runner::ExitInfo& info) {
    if (placed->exit) return;
    placed->exit = info;
    if (placed->state == Found::State::creating || placed->state == Found::State::running) set(placed, Found::State::ended);
    for (auto& handler : std::exchange(placed->on_exit, {})) {
      std::function<void()> call = [handler = std::move(handler), info] { handler(info); };
      asio::post(executor, std::move(call));
    }
  }
  /// A node dies: nothing there is heard of again.
  void lose(const std::string& id, const std::string& reason) {
    const auto placed = sandboxes.at(id);
    remove(placed, reason);
    placed->sandbox.reset();
  }
  static asio::awaitable<void> pump(std::shared_ptr<Place> self, std::weak_ptr<runner::Sandbox> weak,
                                    std::shared_ptr<Output> output, std::size_t which);
  static asio::awaitable<void> begin(std::shared_ptr<Place> self, std::shared_ptr<Placed> placed, runner::SandboxSpec spec);
  static asio::awaitable<void> stop(std::shared_ptr<Place> self, std::shared_ptr<Placed> placed, std::chrono::milliseconds grace);
  static asio::awaitable<void> wait(std::shared_ptr<Place> self) {
    const auto deadline = std::chrono::steady_clock::now() + kLong;
    co_await self->changed.wait_until(deadline);
  }
  /// What the loop waits for is let go of.
  void shut() {
    over = true;
    sandboxes.clear();
    local.reset();
    changed.notify();
  }

  asio::any_io_executor executor;
  std::shared_ptr<runner::Runner> local;
  runner::TimedWaiters changed;
  std::map<std::string, std::shared_ptr<Placed>> sandboxes;
  std::map<int, std::function<void(Found)>> watchers;
  int runners = 0;
  bool over = false;
  // faults
  bool hold_accept = false, hold_start = false, hold_find = false;
  int fail_finds = 0, fail_adoptions = 0, fail_creates = 0, fail_stops = 0;
  // what was seen
  int finds = 0, adoptions = 0, creates = 0;
  std::set<std::string> abandoned;
};

void Place::announce_to(int watcher, const std::function<void(Found)>& handler, const Placed& placed) {
  const bool own = placed.maker == watcher;
  if (own && placed.state != Found::State::stopping && placed.state != Found::State::gone) return;
  Found found;
  found.id = placed.id;
  found.record = placed.record;
  found.state = placed.state;
  found.exit = placed.exit;
  found.reason = placed.reason;
  std::function<void()> call = [handler, found] { handler(found); };
  asio::post(executor, std::move(call));
}

void Place::announce(const Placed& placed) {
  for (const auto& [watcher, handler] : watchers) announce_to(watcher, handler, placed);
}

// Does not keep the sandbox: when that goes, so does this.
asio::awaitable<void> Place::pump(std::shared_ptr<Place> self, std::weak_ptr<runner::Sandbox> weak, std::shared_ptr<Output> output,
                                  std::size_t which) {
  const auto source = [which](runner::Sandbox& of) -> runner::ByteSource& {
    return which == 0 ? of.main_stdout() : of.main_stderr();
  };
  std::string buffer(4096, '\0');
  while (!self->over) {
    boost::system::error_code ec;
    std::size_t n = 0;
    if (const auto sandbox = weak.lock()) {
      n = source(*sandbox).try_read(asio::buffer(buffer), ec);
    } else {
      break;
    }
    if (n > 0) {
      output->data.append(buffer, 0, n);
    } else if (ec == asio::error::would_block) {
      auto initiate = [&weak, &source](auto handler) {
        if (const auto sandbox = weak.lock()) source(*sandbox).async_wait(runner::IoHandler(std::move(handler)));
      };
      auto readable =
          asio::async_initiate<const asio::use_awaitable_t<>, void(boost::system::error_code)>(initiate, asio::use_awaitable);
      try {
        co_await std::move(readable);
      } catch (const std::exception&) {
        break;
      }
    } else {
      break;
    }
    output->wake(self->executor);
  }
  output->ended = true;
  output->wake(self->executor);
}

asio::awaitable<void> Place::begin(std::shared_ptr<Place> self, std::shared_ptr<Placed> placed, runner::SandboxSpec spec) {
  std::unique_ptr<runner::Sandbox> made = co_await self->local->create(std::move(spec));
  placed->sandbox = std::move(made);
  placed->sandbox->on_exit([self, weak = std::weak_ptr(placed)](const runner::ExitInfo& info) {
    if (const auto still = weak.lock()) self->ended(still, info);
  });
  asio::co_spawn(self->executor, pump(self, placed->sandbox, placed->outputs[0], 0), asio::detached);
  asio::co_spawn(self->executor, pump(self, placed->sandbox, placed->outputs[1], 1), asio::detached);
  if (placed->state == Found::State::creating) self->set(placed, Found::State::running);
}

asio::awaitable<void> Place::stop(std::shared_ptr<Place> self, std::shared_ptr<Placed> placed, std::chrono::milliseconds grace) {
  if (placed->state == Found::State::gone) co_return;
  if (self->fail_stops > 0) {
    --self->fail_stops;
    throw RunnerError(ErrorCode::unavailable, "CWSANDBOX_RUNNER_UNAVAILABLE", "the place does not answer");
  }
  self->set(placed, Found::State::stopping);
  const std::shared_ptr<runner::Sandbox> sandbox = placed->sandbox;
  if (sandbox) co_await sandbox->stop(grace);
  self->remove(placed, "");
}

class DurableSandbox final : public runner::Sandbox {
 public:
  DurableSandbox(std::shared_ptr<Place> place, std::shared_ptr<Placed> placed, std::shared_ptr<bool> let_go)
      : place_(std::move(place)),
        placed_(std::move(placed)),
        sandbox_(placed_->sandbox),
        let_go_(std::move(let_go)),
        out_(place_->executor, placed_->outputs[0]),
        err_(place_->executor, placed_->outputs[1]) {}
  ~DurableSandbox() override {
    if (*let_go_ || place_->over || placed_->exit) return;  // what has ended is remembered
    place_->remove(placed_, "destroyed");
    placed_->sandbox.reset();
  }
  runner::ByteSource& main_stdout() noexcept override { return out_; }
  runner::ByteSource& main_stderr() noexcept override { return err_; }
  runner::Files& files() noexcept override { return sandbox_->files(); }
  asio::awaitable<std::unique_ptr<runner::Process>> start(runner::ProcessSpec spec) override {
    return sandbox_->start(std::move(spec));
  }
  void on_exit(std::function<void(const runner::ExitInfo&)> handler) override {
    if (placed_->exit) {
      std::function<void()> call = [handler = std::move(handler), info = *placed_->exit] { handler(info); };
      asio::post(place_->executor, std::move(call));
    } else {
      placed_->on_exit.push_back(std::move(handler));
    }
  }
  asio::awaitable<void> stop(std::chrono::milliseconds grace) override { return Place::stop(place_, placed_, grace); }

 private:
  std::shared_ptr<Place> place_;
  std::shared_ptr<Placed> placed_;
  std::shared_ptr<runner::Sandbox> sandbox_;
  std::shared_ptr<bool> let_go_;
  OutputView out_, err_;
};

class DurableRunner final : public runner::Runner {
 public:
  explicit DurableRunner(std::shared_ptr<Place> place) : place_(std::move(place)), id_(++place_->runners) {}
  ~DurableRunner() override { place_->watchers.erase(id_); }
  std::string_view name() const noexcept override { return "durable"; }
  bool durable() const noexcept override { return true; }
  void let_go() noexcept override { *let_go_ = true; }
  asio::awaitable<std::unique_ptr<runner::Sandbox>> create(runner::SandboxSpec spec) override {
    return create(place_, id_, let_go_, std::move(spec));
  }
  asio::awaitable<void> find(std::function<void(Found)> handler) override { return find(place_, id_, std::move(handler)); }
  asio::awaitable<std::unique_ptr<runner::Sandbox>> adopt(std::string id) override { return adopt(place_, let_go_, std::move(id)); }

 private:
  using Made = std::unique_ptr<runner::Sandbox>;
  static asio::awaitable<Made> create(std::shared_ptr<Place> place, int maker, std::shared_ptr<bool> let_go,
                                      runner::SandboxSpec spec) {
    ++place->creates;
    if (place->fail_creates > 0) {
      --place->fail_creates;
      throw RunnerError(ErrorCode::unavailable, "CWSANDBOX_RUNNER_UNAVAILABLE", "the place does not answer");
    }
    while (place->hold_accept && !place->over) co_await Place::wait(place);
    if (place->sandboxes.contains(spec.id)) throw RunnerError(ErrorCode::already_exists, "", "there is a sandbox of this id");
    auto placed = std::make_shared<Placed>();
    placed->id = spec.id;
    placed->record = spec.record;
    placed->maker = maker;
    place->sandboxes.emplace(spec.id, placed);
    place->announce(*placed);
    if (spec.on_accepted) spec.on_accepted();
    while (place->hold_start && !place->over) co_await Place::wait(place);
    if (place->over || placed->state == Found::State::gone) throw RunnerError(ErrorCode::unavailable, "", "the place is gone");
    co_await Place::begin(place, placed, std::move(spec));
    co_return std::make_unique<DurableSandbox>(place, placed, let_go);
  }
  static asio::awaitable<void> find(std::shared_ptr<Place> place, int watcher, std::function<void(Found)> handler) {
    ++place->finds;
    if (place->fail_finds > 0) {
      --place->fail_finds;
      throw RunnerError(ErrorCode::unavailable, "CWSANDBOX_RUNNER_UNAVAILABLE", "the place cannot be asked");
    }
    place->watchers[watcher] = handler;
    for (const auto& [id, placed] : place->sandboxes) place->announce_to(watcher, handler, *placed);
    auto told = asio::post(place->executor, asio::use_awaitable);
    co_await std::move(told);
    while (place->hold_find && !place->over) co_await Place::wait(place);
  }
  static asio::awaitable<Made> adopt(std::shared_ptr<Place> place, std::shared_ptr<bool> let_go, std::string id) {
    ++place->adoptions;
    place->changed.notify();
    if (place->fail_adoptions > 0) {
      --place->fail_adoptions;
      throw RunnerError(ErrorCode::unavailable, "CWSANDBOX_RUNNER_UNAVAILABLE", "the tunnel broke");
    }
    const auto at = place->sandboxes.find(id);
    if (at == place->sandboxes.end()) throw RunnerError(ErrorCode::not_found, "", "there is no such sandbox");
    const std::shared_ptr<Placed> placed = at->second;
    while (placed->state == Found::State::creating && !place->over) {
      if (place->abandoned.contains(id)) throw RunnerError(ErrorCode::failed_precondition, "", "nobody creates it any more");
      co_await Place::wait(place);
    }
    if (!placed->sandbox) throw RunnerError(ErrorCode::failed_precondition, "", "it has ended");
    co_return std::make_unique<DurableSandbox>(place, placed, let_go);
  }

  std::shared_ptr<Place> place_;
  int id_;
  std::shared_ptr<bool> let_go_ = std::make_shared<bool>(false);
};

// ---- gateways over it ----

constexpr const char* kOther = "another-token-0123456789";

/// Gateways, and the place, on one loop.
class Site {
 public:
  Site() : guard_(asio::make_work_guard(io_)), place_(std::make_shared<Place>(io_.get_executor())) {
    thread_ = std::thread([this] { io_.run(); });
  }
  ~Site() {
    asio::post(io_, [this] {
      gateways_.clear();
      place_->shut();
      guard_.reset();
    });
    thread_.join();  // returns only when nothing is left to do
  }
  Site(const Site&) = delete;
  Site& operator=(const Site&) = delete;

  template <class F>
  auto on_loop(F f) {
    auto task = std::make_shared<std::packaged_task<decltype(f())()>>(std::move(f));
    auto future = task->get_future();
    asio::post(io_, [task] { (*task)(); });
    return future.get();
  }
  template <class F>
  auto place(F f) {
    return on_loop([this, f] { return f(*place_); });
  }

  /// Starts one that is named `name`, and waits until it serves unless told not to.
  void open(const std::string& name, const std::function<void(gateway::GatewayOptions&)>& change = {}, bool wait = true) {
    on_loop([&] {
      gateway::GatewayOptions options;
      options.tokens = {kToken};
      options.log = [this, name](gateway::LogLevel, const std::string& line) {
        const std::lock_guard lock(log_mutex_);
        logs_[name] += line + "\n";
      };
      if (change) change(options);
      auto runner = std::make_unique<DurableRunner>(place_);
      auto made = std::make_unique<gateway::Gateway>(io_.get_executor(), std::move(runner), std::move(options));
      net::ListenAddress address;
      address.is_unix = true;
      address.path = dir_.path(name + std::to_string(opened_++));
      addresses_[name] = made->listen(address);
      gateways_[name] = std::move(made);
    });
    if (wait) REQUIRE(eventually([&] { return health(name).status == 200; }));
  }
  /// Without a word to anybody.
  void crash(const std::string& name) {
    on_loop([&] { gateways_.erase(name); });
  }
  void stop(const std::string& name, std::chrono::milliseconds grace) {
    gateway::Gateway* gone = on_loop([&] { return gateways_.at(name).get(); });
    auto done = asio::co_spawn(io_, gone->stop(grace), asio::use_future);
    if (done.wait_for(3 * kLong) != std::future_status::ready) throw std::runtime_error("stop did not complete");
    done.get();
  }
  void set_tokens(const std::string& name, const std::vector<gateway::Token>& tokens) {
    on_loop([&] { gateways_.at(name)->set_tokens(tokens); });
  }
  gateway::Gateway::Counts counts(const std::string& name) {
    return on_loop([&] { return gateways_.at(name)->counts(); });
  }

  [[nodiscard]] const net::ListenAddress& address(const std::string& name) const { return addresses_.at(name); }
  [[nodiscard]] Answer health(const std::string& name) const { return http(address(name), "GET", "/healthz", {}, ""); }
  [[nodiscard]] Answer call(const std::string& name, const std::string& method, const Json& body,
                            const std::string& token = kToken) const {
    return http(address(name), "POST", "/coreweave.sandbox.v1.SandboxService/" + method,
                {{"Authorization", "Bearer " + token}, {"Content-Type", "application/json"}}, body.dump());
  }
  [[nodiscard]] Answer file(const std::string& name, const std::string& method, const std::string& id, const std::string& path,
                            const std::string& body = "", const std::string& token = kToken) const {
    return http(address(name), method, "/v1/files?sandbox=" + id + "&path=" + percent_encode(path),
                {{"Authorization", "Bearer " + token}}, body);
  }
  [[nodiscard]] Json get(const std::string& name, const std::string& id) const {
    const Answer answer = call(name, "GetSandbox", {{"sandboxId", id}});
    return answer.status == 200 ? answer.json() : Json{{"status", {{"state", answer.body}}}};
  }
  [[nodiscard]] std::string state(const std::string& name, const std::string& id) const { return get(name, id)["status"]["state"]; }
  bool becomes(const std::string& name, const std::string& id, const std::string& wanted) const {
    const bool is = eventually([&] { return state(name, id) == wanted; });
    if (!is) UNSCOPED_INFO(get(name, id).dump());
    return is;
  }
  std::string create(const std::string& name, const Json& spec = Json::object(), const std::string& token = kToken) const {
    const Answer answer = call(name, "CreateSandbox", {{"sandbox", {{"spec", spec}}}}, token);
    if (answer.status != 200) throw std::runtime_error("CreateSandbox: " + answer.body);
    return answer.json()["sandboxId"];
  }
  /// One that runs, by what both gateways say.
  std::string create_known(const std::string& at, const std::string& other, const Json& spec = Json::object()) const {
    const std::string id = create(at, spec);
    REQUIRE(becomes(at, id, "STATE_RUNNING"));
    REQUIRE(becomes(other, id, "STATE_RUNNING"));
    return id;
  }
  [[nodiscard]] Answer exec(const std::string& name, const std::string& id, const std::string& script) const {
    return call(name, "Exec", {{"sandboxId", id}, {"command", {"sh", "-c", script}}});
  }
  [[nodiscard]] std::vector<std::string> list(const std::string& name, Json request = Json::object(),
                                              const std::string& token = kToken) const {
    std::vector<std::string> out;
    const Answer answer = call(name, "ListSandboxes", request, token);
    if (answer.status != 200) throw std::runtime_error("ListSandboxes: " + answer.body);
    const Json json = answer.json();
    if (json.contains("sandboxes"))
      for (const auto& sandbox : json["sandboxes"]) out.push_back(sandbox["sandboxId"]);
    return out;
  }
  std::string log(const std::string& name) {
    const std::lock_guard lock(log_mutex_);
    return logs_[name];
  }

 private:
  TempDir dir_;
  asio::io_context io_{1};
  asio::executor_work_guard<asio::io_context::executor_type> guard_;
  std::shared_ptr<Place> place_;
  std::mutex log_mutex_;
  std::map<std::string, std::string> logs_;
  std::map<std::string, std::unique_ptr<gateway::Gateway>> gateways_;
  std::map<std::string, net::ListenAddress> addresses_;
  int opened_ = 0;
  std::thread thread_;
};

std::string said(const Answer& answer) {
  return answer.status == 200 ? base64_decode(answer.json().value("stdout", "")) : answer.body;
}

Json with_command(const std::string& script) { return {{"containers", {{{"command", "sh"}, {"args", {"-c", script}}}}}}; }

std::size_t count_of(const std::string& text, const std::string& piece) {
  std::size_t n = 0;
  for (std::size_t at = text.find(piece); at != std::string::npos; at = text.find(piece, at + 1)) ++n;
  return n;
}

Json request_of(const std::string& request_id, const std::string& tag) {
  return {{"sandbox", {{"spec", {{"tags", {tag}}}}}}, {"requestId", request_id}};
}

}  // namespace

TEST_CASE("a sandbox of one gateway is served by another", "[gateway][durable]") {
  Site site;
  site.open("a");
  site.open("b");
  Json spec = with_command("echo from the start; trap 'exit 0' TERM; sleep infinity & wait");
  spec["tags"] = {"blue"};
  spec["annotations"] = {{"team", "red"}};
  const std::string id = site.create_known("a", "b", spec);

  Json at_a = site.get("a", id), at_b = site.get("b", id);
  CHECK(at_a["spec"] == at_b["spec"]);
  CHECK(at_a["status"]["createTime"] == at_b["status"]["createTime"]);
  CHECK(site.list("b", {{"tags", {"blue"}}}) == std::vector<std::string>{id});
  CHECK(said(site.exec("b", id, "echo hello")) == "hello\n");
  CHECK(site.file("b", "PUT", id, "/tmp/x", "written at b").status == 200);
  CHECK(said(site.exec("a", id, "cat /tmp/x")) == "written at b");
  CHECK(site.file("b", "GET", id, "/tmp/x").body == "written at b");
  {
    Peer peer(site.address("b"));
    peer.send(5, start(id, {"sh", "-c", "echo over the stream"}));
    CHECK(peer.to_exit().out == "over the stream\n");
  }
  StreamCall logs(site.address("b"), "coreweave.sandbox.v1.SandboxService/StreamLogs", {{"sandboxId", id}, {"follow", true}});
  auto entry = logs.next();
  while (entry && !entry->contains("data")) entry = logs.next();
  REQUIRE(entry);
  CHECK(base64_decode((*entry)["data"].get<std::string>()) == "from the start\n");

  CHECK(site.call("b", "DeleteSandbox", {{"sandboxId", id}}).json()["sandbox"]["status"]["state"] == "STATE_TERMINATING");
  CHECK(site.becomes("a", id, "STATE_TERMINATED"));
  CHECK(site.becomes("b", id, "STATE_TERMINATED"));
  CHECK(site.place([](Place& place) { return place.sandboxes.empty(); }));
  static_cast<void>(logs.rest());
  CHECK(logs.end == Json::object());
}

TEST_CASE("a gateway that is killed is succeeded by one that knows its sandboxes", "[gateway][durable]") {
  Site site;
  const auto two = [](gateway::GatewayOptions& options) { options.tokens = {kToken, kOther}; };
  site.open("a", two);
  const std::string id = site.create("a");
  const std::string others = site.create("a", Json::object(), kOther);
  REQUIRE(site.becomes("a", id, "STATE_RUNNING"));
  const std::string marker = unique_marker();
  Peer peer(site.address("a"));
  const Json begun = start(id, {"sh", "-c", "sleep 1000; : " + marker});
  peer.send(5, begun);
  static_cast<void>(peer.expect_status("started"));
  // `started` may come a moment before: vfork returns when exec has left the old memory, before it sets the command line.
  CHECK(eventually([&] { return processes_with(marker) > 0; }));

  site.crash("a");
  CHECK(eventually([&] { return processes_with(marker) == 0; }));
  site.open("a", two);
  CHECK(site.state("a", id) == "STATE_RUNNING");
  CHECK(said(site.exec("a", id, "echo still here")) == "still here\n");
  // What is another's is not there, as before.
  CHECK(site.list("a") == std::vector<std::string>{id});
  CHECK(site.list("a", Json::object(), kOther) == std::vector<std::string>{others});
  CHECK(site.call("a", "GetSandbox", {{"sandboxId", others}}).status == 404);
  CHECK(site.call("a", "DeleteSandbox", {{"sandboxId", id}}, kOther).status == 404);
  CHECK(site.file("a", "GET", id, "/etc/passwd", "", kOther).status == 404);
  // Processes were the former gateway's.
  Peer again(site.address("a"));
  again.send(8, Json{{"type", "resume"},
                     {"id", begun["id"]},
                     {"sandboxId", id},
                     {"stdout", {{"received", 0}, {"limit", 65536}}},
                     {"stderr", {{"received", 0}, {"limit", 65536}}},
                     {"attempt", 2}});
  const Json refusal = again.expect_status("error");
  CHECK(refusal["reason"] == "CWSANDBOX_PROCESS_NOT_FOUND");
}

TEST_CASE("a gateway that stops ends its processes and leaves the sandboxes", "[gateway][durable]") {
  Site site;
  site.open("a");
  site.open("b");
  const std::string id = site.create_known("a", "b");
  Peer at_a(site.address("a")), at_b(site.address("b"));
  at_a.send(5, start(id, {"sleep", "1000"}));
  static_cast<void>(at_a.expect_status("started"));
  at_b.send(5, start(id, {"sleep", "1000"}));  // to be there afterwards
  static_cast<void>(at_b.expect_status("started"));
  auto outcome = std::async(std::launch::async, [&] { return at_a.to_exit(); });
  site.stop("a", std::chrono::seconds(5));
  const Json exit = outcome.get().exit;
  CHECK(exit["outcome"] == "signaled");
  CHECK(exit["signal"] == "SIGTERM");
  CHECK(site.state("b", id) == "STATE_RUNNING");
  CHECK(site.counts("b").processes == 1);
  CHECK(said(site.exec("b", id, "echo hello")) == "hello\n");
}

TEST_CASE("a gateway that stops carries through what was begun", "[gateway][durable]") {
  Site site;
  site.open("a");
  site.open("b");
  const std::string deleted = site.create_known("a", "b", with_command("trap 'exit 0' TERM; sleep infinity & wait"));
  site.place([](Place& place) { place.hold_start = true; });
  const std::string created = site.create("a");
  CHECK(site.call("a", "DeleteSandbox", {{"sandboxId", deleted}}).status == 200);
  auto stopped = std::async(std::launch::async, [&] { site.stop("a", std::chrono::seconds(5)); });
  CHECK(eventually([&] { return site.health("a").status == 503; }));
  site.place([](Place& place) {
    place.hold_start = false;
    place.changed.notify();
  });
  stopped.get();
  CHECK(site.becomes("b", created, "STATE_RUNNING"));
  CHECK(site.becomes("b", deleted, "STATE_TERMINATED"));
}

TEST_CASE("a request id means the same sandbox at every gateway", "[gateway][durable]") {
  Site site;
  site.open("a");
  site.open("b");
  const std::string request = new_id();
  const Answer first = site.call("a", "CreateSandbox", request_of(request, "blue"));
  REQUIRE(first.status == 200);
  const std::string id = first.json()["sandboxId"];
  // Also before the other gateway has heard of it.
  CHECK(site.call("b", "CreateSandbox", request_of(request, "blue")).json()["sandboxId"] == id);
  CHECK(site.call("a", "CreateSandbox", request_of(request, "blue")).json()["sandboxId"] == id);
  const Answer conflict = site.call("b", "CreateSandbox", request_of(request, "red"));
  CHECK(conflict.status == 409);
  CHECK(conflict.json()["code"] == "already_exists");
  REQUIRE(site.becomes("b", id, "STATE_RUNNING"));
  site.crash("a");
  site.open("a");
  CHECK(site.call("a", "CreateSandbox", request_of(request, "blue")).json()["sandboxId"] == id);
  CHECK(site.call("a", "CreateSandbox", request_of(request, "red")).status == 409);
  CHECK(site.place([](Place& place) { return place.sandboxes.size(); }) == 1);
  // Without one, every request is another.
  CHECK(site.create("a") != site.create("a"));
}

TEST_CASE("creations with one request id at two gateways at once make one sandbox", "[gateway][durable]") {
  Site site;
  site.open("a");
  site.open("b");
  const bool conflict = GENERATE(false, true);
  const std::string request = new_id();
  site.place([](Place& place) { place.hold_accept = true; });
  const auto at = [&](const char* name, const char* tag) {
    return std::async(std::launch::async,
                      [&site, name, tag, request] { return site.call(name, "CreateSandbox", request_of(request, tag)); });
  };
  auto at_a = at("a", "blue");
  auto also_at_a = at("a", "blue");
  auto at_b = at("b", conflict ? "red" : "blue");
  REQUIRE(eventually([&] { return site.place([](Place& place) { return place.creates == 2; }); }));
  CHECK(site.list("a").empty());  // nobody has taken it on
  site.place([](Place& place) {
    place.hold_accept = false;
    place.changed.notify();
  });
  const std::vector<Answer> answers{at_a.get(), also_at_a.get(), at_b.get()};
  REQUIRE(eventually([&] { return site.place([](Place& place) { return place.sandboxes.size(); }) == 1; }));
  const std::string id = site.place([](Place& place) { return place.sandboxes.begin()->first; });
  std::size_t good = 0;
  for (const Answer& answer : answers) {
    INFO(answer.body);
    if (answer.status == 200) {
      ++good;
      CHECK(answer.json()["sandboxId"] == id);
    } else {
      CHECK(answer.status == 409);
    }
  }
  CHECK((conflict ? good == 1 || good == 2 : good == 3));
  CHECK(site.becomes("a", id, "STATE_RUNNING"));
  CHECK(site.becomes("b", id, "STATE_RUNNING"));
  CHECK(site.get("a", id)["spec"] == site.get("b", id)["spec"]);
  CHECK(site.get("a", id)["status"]["createTime"] == site.get("b", id)["status"]["createTime"]);
}

TEST_CASE("a request that is repeated after its sandbox is forgotten makes a new one, which all see", "[gateway][durable]") {
  Site site;
  site.open("a");
  site.open("b");
  const std::string request = new_id();
  const std::string id = site.call("a", "CreateSandbox", request_of(request, "blue")).json()["sandboxId"];
  REQUIRE(site.becomes("b", id, "STATE_RUNNING"));
  CHECK(site.call("a", "DeleteSandbox", {{"sandboxId", id}}).status == 200);
  REQUIRE(site.becomes("b", id, "STATE_TERMINATED"));
  REQUIRE(site.becomes("a", id, "STATE_TERMINATED"));
  CHECK(site.call("a", "CreateSandbox", request_of(request, "blue")).json()["status"]["state"] == "STATE_TERMINATED");
  site.crash("b");
  site.open("b");
  CHECK(site.call("b", "CreateSandbox", request_of(request, "blue")).json()["sandboxId"] == id);
  CHECK(site.becomes("b", id, "STATE_RUNNING"));
  CHECK(site.becomes("a", id, "STATE_RUNNING"));
}

TEST_CASE("a sandbox that another gateway is creating is waited for", "[gateway][durable]") {
  Site site;
  site.open("a");
  site.open("b");
  site.place([](Place& place) { place.hold_start = true; });
  const std::string request = new_id();
  const std::string id = site.call("a", "CreateSandbox", request_of(request, "blue")).json()["sandboxId"];
  REQUIRE(site.becomes("b", id, "STATE_CREATING"));
  CHECK(site.call("b", "CreateSandbox", request_of(request, "blue")).json()["status"]["state"] == "STATE_CREATING");
  auto answer = std::async(std::launch::async, [&] { return site.exec("b", id, "echo hello"); });
  REQUIRE(eventually([&] { return site.counts("b").processes == 1; }));

  SECTION("until it runs") {
    site.place([](Place& place) {
      place.hold_start = false;
      place.changed.notify();
    });
    CHECK(said(answer.get()) == "hello\n");
    CHECK(site.state("b", id) == "STATE_RUNNING");
    CHECK(site.get("b", id)["status"].contains("startTime"));
  }
  SECTION("until nobody creates it any more") {
    site.place([id](Place& place) {
      place.abandoned.insert(id);
      place.changed.notify();
    });
    CHECK(answer.get().json()["code"] == "failed_precondition");
    CHECK(site.state("b", id) == "STATE_FAILED");
    CHECK(site.get("b", id)["status"]["stateReason"] == "nobody creates it any more");
  }
  SECTION("until it is deleted") {
    CHECK(site.call("b", "DeleteSandbox", {{"sandboxId", id}}).json()["sandbox"]["status"]["state"] == "STATE_TERMINATING");
    CHECK(answer.get().json()["code"] == "failed_precondition");
    site.place([](Place& place) {
      place.hold_start = false;
      place.changed.notify();
    });
    CHECK(site.becomes("b", id, "STATE_TERMINATED"));
    CHECK(site.becomes("a", id, "STATE_TERMINATED"));
  }
}

TEST_CASE("lists have one order at every gateway", "[gateway][durable]") {
  Site site;
  site.open("a");
  site.open("b");
  std::vector<std::string> made;
  for (int i = 0; i < 5; ++i) made.push_back(site.create(i % 2 == 0 ? "a" : "b", {{"tags", {"n" + std::to_string(i)}}}));
  REQUIRE(eventually([&] { return site.list("a").size() == 5 && site.list("b").size() == 5; }));
  CHECK(site.list("a") == made);
  CHECK(site.list("b") == made);
  const Json first = site.call("a", "ListSandboxes", {{"pageSize", 2}}).json();
  const Json second = site.call("b", "ListSandboxes", {{"pageSize", 2}, {"pageToken", first["nextPageToken"]}}).json();
  CHECK(second["sandboxes"][0]["sandboxId"] == made[2]);
  CHECK(second["sandboxes"][1]["sandboxId"] == made[3]);
  site.crash("a");
  site.open("a");
  const Json third = site.call("a", "ListSandboxes", {{"pageSize", 2}, {"pageToken", second["nextPageToken"]}}).json();
  CHECK(third["sandboxes"].size() == 1);
  CHECK(third["sandboxes"][0]["sandboxId"] == made[4]);
  CHECK_FALSE(third.contains("nextPageToken"));
  const std::string token = first["nextPageToken"];
  const std::string mark = token.substr(0, 16);
  for (const std::string& bad :
       {mark, mark + "1", mark + ".", mark + ".sb-1", mark + "-1.sb-1", mark + "xyz.sb-1", mark + "1.SB", token + "/",
        token.substr(1), mark + "1." + std::string(80, 'a'), mark + "11111111111111111.sb-1"}) {
    INFO(bad);
    CHECK(site.call("a", "ListSandboxes", {{"pageSize", 2}, {"pageToken", bad}}).status == 400);
  }
  CHECK(site.call("a", "ListSandboxes", {{"pageSize", 2}, {"pageToken", token}, {"tags", {"n1"}}}).status == 400);
}

TEST_CASE("a lifetime counts from the creation, whoever finds the sandbox", "[gateway][durable]") {
  Site site;
  site.open("a");
  const std::string id = site.create("a", {{"maxLifetimeSeconds", 3600}});
  REQUIRE(site.becomes("a", id, "STATE_RUNNING"));
  site.crash("a");
  // As if it had been made two hours ago.
  site.place([&](Place& place) {
    Json record = Json::parse(place.sandboxes.at(id)->record);
    CHECK(record["sandbox"]["status"]["effectiveMaxLifetimeSeconds"] == 3600);
    record["sandbox"]["status"]["createTime"] = "2020-01-01T00:00:00.000001Z";
    place.sandboxes.at(id)->record = record.dump();
  });
  site.open("a");
  CHECK(site.becomes("a", id, "STATE_TERMINATED"));
  CHECK(site.get("a", id)["status"]["stateReason"] == "its maximum lifetime has passed");
  CHECK(site.place([](Place& place) { return place.sandboxes.empty(); }));
}

TEST_CASE("the end of a sandbox is seen by all", "[gateway][durable]") {
  Site site;
  site.open("a");
  site.open("b");
  const std::string id =
      site.create_known("a", "b", with_command("cat /tmp/code 2>/dev/null; while ! test -e /tmp/go; do sleep 0.05; done; exit 3"));
  CHECK(site.file("b", "PUT", id, "/tmp/go", "").status == 200);
  for (const char* name : {"a", "b"}) {
    CHECK(site.becomes(name, id, "STATE_FAILED"));
    CHECK(site.get(name, id)["status"]["exitCode"] == 3);
  }
  // The place still knows it, and so does whoever comes later.
  site.open("c");
  CHECK(site.state("c", id) == "STATE_FAILED");
  CHECK(site.get("c", id)["status"]["exitCode"] == 3);
  CHECK(site.get("c", id)["status"]["endTime"].get<std::string>().substr(0, 19) ==
        site.get("b", id)["status"]["endTime"].get<std::string>().substr(0, 19));
  CHECK(site.list("c").empty());
  CHECK(site.list("c", {{"showTerminated", true}}) == std::vector<std::string>{id});
  CHECK(site.counts("c").sandboxes == 0);
}

TEST_CASE("a sandbox that is gone fails what is under way in it", "[gateway][durable]") {
  Site site;
  site.open("a");
  site.open("b");
  const std::string id = site.create_known("a", "b");
  auto answer = std::async(std::launch::async, [&] { return site.exec("b", id, "sleep 1000"); });
  REQUIRE(eventually([&] { return site.counts("b").processes == 1; }));
  site.place([&](Place& place) { place.lose(id, "the node does not answer"); });
  const Answer failed = answer.get();
  INFO(failed.body);
  CHECK(failed.status == 503);
  CHECK(failed.json()["code"] == "unavailable");
  for (const char* name : {"a", "b"}) {
    CHECK(site.becomes(name, id, "STATE_FAILED"));
    CHECK_THAT(site.get(name, id)["status"]["stateReason"].get<std::string>(), Contains("the node does not answer"));
  }
  CHECK(site.exec("b", id, "true").json()["code"] == "failed_precondition");
  site.crash("b");
  site.open("b");
  CHECK(site.call("b", "GetSandbox", {{"sandboxId", id}}).status == 404);
}

TEST_CASE("no request is served before the sandboxes are known", "[gateway][durable]") {
  Site site;
  site.open("a");
  const std::string id = site.create("a");
  site.place([](Place& place) { place.hold_find = true; });
  site.open("b", [](gateway::GatewayOptions& options) { options.find_wait = std::chrono::milliseconds(1); }, false);
  CHECK(site.health("b").status == 503);
  CHECK(site.health("b").body == R"({"status":"starting"})");
  const Answer refused = site.call("b", "GetSandbox", {{"sandboxId", id}});
  CHECK(refused.status == 503);
  CHECK(refused.headers.at("retry-after") == "1");
  CHECK(site.file("b", "GET", id, "/etc/passwd").status == 503);
  CHECK(Peer::refused(site.address("b"), "v1.exec.cwsandbox", kToken).status == 503);
  CHECK(Peer::refused(site.address("b"), "v1.exec.cwsandbox", "wrong").status == 401);
  CHECK(eventually([&] { return count_of(site.log("b"), "has not told yet") == 1; }));
  site.open("c", {}, false);  // never served, and goes away all the same
  site.place([](Place& place) {
    place.hold_find = false;
    place.changed.notify();
  });
  REQUIRE(eventually([&] { return site.health("b").status == 200; }));
  CHECK(site.becomes("b", id, "STATE_RUNNING"));
}

TEST_CASE("a gateway goes away while the runner still looks", "[gateway][durable]") {
  Site site;
  site.place([](Place& place) { place.hold_find = true; });
  site.open("a", {}, false);
  site.open("b", {}, false);
  CHECK(eventually([&] { return site.place([](Place& place) { return place.finds == 2; }); }));
  site.crash("a");
  site.stop("b", std::chrono::milliseconds(0));
}

TEST_CASE("a place that cannot be asked is asked again", "[gateway][durable]") {
  Site site;
  site.open("a");
  const std::string id = site.create("a");
  site.place([](Place& place) { place.fail_finds = 2; });
  site.open("b");
  CHECK(count_of(site.log("b"), "the place cannot be asked") == 2);
  CHECK(site.becomes("b", id, "STATE_RUNNING"));
}

TEST_CASE("a sandbox that cannot be reached is tried again", "[gateway][durable]") {
  Site site;
  site.open("a");
  const std::string id = site.create("a");
  REQUIRE(site.becomes("a", id, "STATE_RUNNING"));
  SECTION("until it can") {
    site.place([](Place& place) { place.fail_adoptions = 2; });
    site.open("b");
    CHECK(site.state("b", id) == "STATE_RUNNING");
    CHECK(said(site.exec("b", id, "echo hello")) == "hello\n");
    CHECK(count_of(site.log("b"), "cannot be reached: the tunnel broke") == 1);
  }
  SECTION("but not for ever") {
    site.place([](Place& place) { place.fail_adoptions = 1000000; });
    site.open("b", [](gateway::GatewayOptions& options) { options.start_wait = std::chrono::milliseconds(50); });
    const Answer answer = site.exec("b", id, "echo hello");
    CHECK(answer.status == 503);
    CHECK_THAT(answer.json()["message"].get<std::string>(), Contains("cannot be reached: the tunnel broke"));
    // Its deletion is carried through when it can be reached.
    CHECK(site.call("b", "DeleteSandbox", {{"sandboxId", id}}).status == 200);
    site.place([](Place& place) { place.fail_adoptions = 0; });
    CHECK(site.becomes("b", id, "STATE_TERMINATED"));
    CHECK(site.becomes("a", id, "STATE_TERMINATED"));
  }
}

TEST_CASE("a deletion that fails is tried again", "[gateway][durable]") {
  Site site;
  site.open("a");
  site.open("b");
  const std::string id = site.create_known("a", "b");
  REQUIRE(said(site.exec("b", id, "echo adopted")) == "adopted\n");
  site.place([](Place& place) { place.fail_stops = 2; });
  CHECK(site.call("b", "DeleteSandbox", {{"sandboxId", id}}).status == 200);
  CHECK(site.becomes("b", id, "STATE_TERMINATED"));
  CHECK(site.becomes("a", id, "STATE_TERMINATED"));
  CHECK(count_of(site.log("b"), "did not stop cleanly: the place does not answer") == 2);
  CHECK(site.place([](Place& place) { return place.sandboxes.empty(); }));
}

TEST_CASE("a creation that the place refuses is refused", "[gateway][durable]") {
  Site site;
  site.open("a");
  site.place([](Place& place) { place.fail_creates = 1; });
  const std::string request = new_id();
  const Answer answer = site.call("a", "CreateSandbox", request_of(request, "blue"));
  CHECK(answer.status == 503);
  CHECK(answer.json()["message"] == "the place does not answer");
  CHECK(site.list("a", {{"showTerminated", true}}).empty());
  CHECK(site.call("a", "CreateSandbox", request_of(request, "blue")).status == 200);

  site.crash("a");
  site.open("a", [](gateway::GatewayOptions& options) { options.start_wait = std::chrono::milliseconds(50); });
  site.place([](Place& place) { place.hold_accept = true; });
  const Answer late = site.call("a", "CreateSandbox", {{"sandbox", {{"spec", {{"tags", {"late"}}}}}}});
  CHECK(late.status == 503);
  site.place([](Place& place) {
    place.hold_accept = false;
    place.changed.notify();
  });
  // Nobody was told of it, so it does not stay.
  CHECK(eventually([&] {
    const Json list = site.call("a", "ListSandboxes", {{"showTerminated", true}, {"tags", {"late"}}}).json();
    return list.contains("sandboxes") && list["sandboxes"][0]["status"]["state"] == "STATE_TERMINATED";
  }));
  // What cannot be kept is not begun.
  const Answer large =
      site.call("a", "CreateSandbox", {{"sandbox", {{"spec", {{"annotations", {{"x", std::string(70000, 'x')}}}}}}}});
  CHECK(large.status == 400);
  CHECK_THAT(large.json()["message"].get<std::string>(), Contains("at most 65536 can be kept"));
}

TEST_CASE("records that no gateway has written are left alone", "[gateway][durable]") {
  Site site;
  site.open("a");
  const std::string id = site.create("a");
  REQUIRE(site.becomes("a", id, "STATE_RUNNING"));
  const std::vector<std::string> records = site.place([&](Place& place) {
    const Json good = Json::parse(place.sandboxes.at(id)->record);
    Json later = good, other = good, nobody = good, bare = good, odd = good, timeless = good;
    later["version"] = 2;
    nobody.erase("owner");
    bare["sandbox"]["sandboxId"] = "sb-000000000000000000000005";
    bare["sandbox"]["spec"].erase("containers");
    odd["fingerprint"] = "12";
    timeless["sandbox"]["status"].erase("createTime");
    const std::vector<std::string> bad{"",          "hello",       "[]",       later.dump(),    other.dump(),
                                       bare.dump(), nobody.dump(), odd.dump(), timeless.dump(), std::string(100000, ' ')};
    for (std::size_t i = 0; i < bad.size(); ++i) {
      auto placed = std::make_shared<Placed>();
      placed->id = "sb-00000000000000000000000" + std::to_string(i);
      placed->record = bad[i];
      placed->state = Found::State::running;
      place.sandboxes.emplace(placed->id, placed);
    }
    return bad;
  });
  site.open("b");
  site.place([](Place& place) {
    for (const auto& [name, placed] : place.sandboxes) place.announce(*placed);
  });
  CHECK(site.list("b") == std::vector<std::string>{id});
  for (std::size_t i = 0; i < records.size(); ++i) {
    INFO(records[i].substr(0, 100));
    CHECK(count_of(site.log("b"), "sandbox sb-00000000000000000000000" + std::to_string(i) + " is left alone") == 1);
  }
  CHECK(site.place([](Place& place) { return place.sandboxes.size(); }) == records.size() + 1);
}

TEST_CASE("owners are known by their keys, and may come later", "[gateway][durable]") {
  Site site;
  const gateway::Token alice("alice-token-0123456789", "alice"), alice2("alice-second-0123456789", "alice"),
      bob("bob-token-0123456789", "bob");
  site.open("a", [&](gateway::GatewayOptions& options) { options.tokens = {alice, bob}; });
  site.open("b", [&](gateway::GatewayOptions& options) { options.tokens = {alice2}; });
  const std::string of_alice = site.create("a", Json::object(), alice.value), of_bob = site.create("a", Json::object(), bob.value);
  REQUIRE(eventually([&] { return site.counts("b").sandboxes == 2; }));
  CHECK(site.list("b", Json::object(), alice2.value) == std::vector<std::string>{of_alice});
  CHECK(site.call("b", "GetSandbox", {{"sandboxId", of_bob}}, alice2.value).status == 404);
  CHECK(site.call("b", "ListSandboxes", Json::object(), bob.value).status == 401);
  site.set_tokens("b", {alice, bob});
  CHECK(site.list("b", Json::object(), bob.value) == std::vector<std::string>{of_bob});
  CHECK(site.list("b", Json::object(), alice.value) == std::vector<std::string>{of_alice});
  CHECK(site.call("b", "DeleteSandbox", {{"sandboxId", of_alice}}, bob.value).status == 404);
  CHECK(site.call("b", "DeleteSandbox", {{"sandboxId", of_bob}}, bob.value).status == 200);
  // Nobody's token stands in what is kept.
  for (const gateway::Token& token : {alice, alice2, bob}) {
    const std::string secret = token.value;
    CHECK(site.place([secret](Place& place) {
      return std::none_of(place.sandboxes.begin(), place.sandboxes.end(),
                          [&](const auto& entry) { return entry.second->record.find(secret) != std::string::npos; });
    }));
  }
}

TEST_CASE("a gateway without tokens has sandboxes apart from those of owners", "[gateway][durable]") {
  Site site;
  site.open("a");
  site.open("b", [](gateway::GatewayOptions& options) {
    options.tokens.clear();
    options.no_token = true;
  });
  const std::string owned = site.create("a"), open = site.create("b");
  REQUIRE(eventually([&] { return site.counts("a").sandboxes == 2 && site.counts("b").sandboxes == 2; }));
  CHECK(site.list("a") == std::vector<std::string>{owned});
  CHECK(site.list("b") == std::vector<std::string>{open});
  site.crash("b");
  site.open("b", [](gateway::GatewayOptions& options) {
    options.tokens.clear();
    options.no_token = true;
  });
  CHECK(site.list("b") == std::vector<std::string>{open});
}

TEST_CASE("limits count the sandboxes of the place", "[gateway][durable]") {
  Site site;
  site.open("a");
  site.open("b", [](gateway::GatewayOptions& options) { options.max_sandboxes = 2; });
  const std::string one = site.create("a"), two = site.create("a");
  REQUIRE(eventually([&] { return site.counts("b").sandboxes == 2; }));
  CHECK(site.call("b", "CreateSandbox", {{"sandbox", {{"spec", Json::object()}}}}).json()["code"] == "resource_exhausted");
  CHECK(site.call("a", "DeleteSandbox", {{"sandboxId", one}}).status == 200);
  REQUIRE(eventually([&] { return site.counts("b").sandboxes == 1; }));
  CHECK(site.call("b", "CreateSandbox", {{"sandbox", {{"spec", Json::object()}}}}).status == 200);
}
