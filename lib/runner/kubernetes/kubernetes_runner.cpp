#include "runner/kubernetes/kubernetes_runner.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <exception>
#include <map>
#include <optional>
#include <utility>

#include "base/random.hpp"
#include "runner/kubernetes/api_client.hpp"
#include "runner/kubernetes/backoff.hpp"
#include "runner/kubernetes/early_policy.hpp"
#include "runner/kubernetes/plain_sandbox.hpp"
#include "runner/kubernetes/pod_exec.hpp"
#include "runner/kubernetes/pod_view.hpp"
#include "runner/kubernetes/watcher.hpp"
#include "runner/remote/remote_sandbox.hpp"
#include "runner/waiting.hpp"

namespace cwsandbox::runner::kubernetes {

namespace {

using Clock = std::chrono::steady_clock;
using remote::RemoteSandbox;

// Beyond a pod's grace: what PID 1 needs to report how all of it ended before the kubelet kills it.
constexpr std::chrono::seconds kReportTime{15};
// Less than it takes a node to start a container (0.2 s was measured).
constexpr std::chrono::milliseconds kContainerStart{100};
// With none at all the API forgets a pod before its node has ended it.
constexpr std::chrono::seconds kRemovalGrace{1};
// A pod that is deleted may take this long beyond its grace before it is deleted without asking its node.
constexpr std::chrono::seconds kDeleteSlack{30};
// How often it is looked for pods that have been kept long enough.
constexpr std::chrono::seconds kSweep{30};

// A pod that this object knows of: from the watch, or because it made it.
struct Entry {
  Entry(asio::any_io_executor executor, std::string pod_name) : name(std::move(pod_name)), changed(std::move(executor)) {}

  std::string name;
  std::optional<PodView> pod;  // as last seen; of a sandbox of ours
  bool gone = false;           // deleted, for good
  bool here = false;           // there is, or is about to be, a Sandbox of this object's for it
  bool over = false;           // what is in it has ended, and the pod ends by itself
  std::optional<Clock::time_point> ended;
  std::optional<std::chrono::seconds> removal;  // its grace, once it is being removed
  std::function<void()> on_end;                 // told when the pod has ended or gone; keeps nothing alive
  TimedWaiters changed;
};

// What the runner and its sandboxes share.
class Cluster final : public std::enable_shared_from_this<Cluster> {
 public:
  Cluster(asio::any_io_executor executor, KubernetesOptions options)
      : executor_(executor),
        options_(std::move(options)),
        pods_(resource_path("v1", options_.access.default_namespace, "pods")),
        policies_(resource_path("networking.k8s.io/v1", options_.access.default_namespace, "networkpolicies")),
        api_(std::make_shared<ApiClient>(executor, options_.access)),
        synced_changed_(executor),
        dials_changed_(executor),
        sweep_(executor) {
    options_.pods.name_space = options_.access.default_namespace;
  }

  [[nodiscard]] const asio::any_io_executor& executor() const noexcept { return executor_; }
  [[nodiscard]] const KubernetesOptions& options() const noexcept { return options_; }

  void watch();
  void close();
  void let_go() noexcept { let_go_ = true; }
  [[nodiscard]] bool lets_go() const noexcept { return let_go_; }
  void on_found(std::function<void(Found)> handler) { handler_ = std::move(handler); }

  static asio::awaitable<void> synced(std::shared_ptr<Cluster> self, Clock::time_point deadline);
  static asio::awaitable<std::unique_ptr<Sandbox>> create(std::shared_ptr<Cluster> self, SandboxSpec spec);
  static asio::awaitable<std::unique_ptr<Sandbox>> adopt(std::shared_ptr<Cluster> self, std::string id);
  static asio::awaitable<void> stop(std::shared_ptr<Cluster> self, std::shared_ptr<Entry> entry, std::shared_ptr<Sandbox> inside,
                                    std::chrono::milliseconds grace);
  /// Deletes the pod, with time for what is in it, and what was made for it; tries until it is gone or nobody is left to try.
  static asio::awaitable<void> remove(std::shared_ptr<Cluster> self, std::string name, std::string uid, std::chrono::seconds grace);
  /// The same without waiting for it.
  void remove_later(Entry& entry, std::chrono::seconds grace);

 private:
  [[nodiscard]] std::shared_ptr<Entry> entry(const std::string& name);
  [[nodiscard]] std::string pod_target(const std::string& name) const {
    return resource_path("v1", options_.access.default_namespace, "pods", name);
  }
  void on_pod(WatchEvent event, const Json& object);
  void take(Entry& entry, PodView view);
  void vanish(Entry& entry);
  void tell(const Entry& entry);
  void arm_sweep();
  void say(const std::string& what) const {
    if (options_.log) options_.log(what);
  }

  static asio::awaitable<std::shared_ptr<Entry>> make(std::shared_ptr<Cluster> self, const SandboxSpec& spec);
  static asio::awaitable<std::unique_ptr<EarlyPolicy>> policy_first(std::shared_ptr<Cluster> self, const SandboxSpec& spec);
  static asio::awaitable<void> wait_up(std::shared_ptr<Cluster> self, std::shared_ptr<Entry> entry, Clock::time_point deadline);
  static asio::awaitable<std::unique_ptr<remote::Link>> dial(std::shared_ptr<Cluster> self, std::shared_ptr<Entry> entry);
  [[nodiscard]] std::shared_ptr<RemoteSandbox> make_remote(const std::shared_ptr<Entry>& entry);
  [[nodiscard]] std::shared_ptr<PlainSandbox> make_plain(const std::shared_ptr<Entry>& entry);

  asio::any_io_executor executor_;
  KubernetesOptions options_;
  std::string pods_, policies_;
  std::shared_ptr<ApiClient> api_;
  std::unique_ptr<Watcher> watcher_;
  bool synced_ = false, closed_ = false, let_go_ = false;
  std::string trouble_;  // why the watch does not go on, while it does not
  TimedWaiters synced_changed_;
  std::map<std::string, std::shared_ptr<Entry>, std::less<>> entries_;
  std::function<void(Found)> handler_;
  std::size_t dials_ = 0;
  TimedWaiters dials_changed_;
  asio::steady_timer sweep_;
};

// ---- what the cluster tells ----

void Cluster::watch() {
  if (watcher_ || closed_) return;
  WatcherOptions watched;
  watched.collection = pods_;
  watched.label_selector = std::string(kManagedByLabel) + "=cwsandbox";
  const std::weak_ptr<Cluster> weak = weak_from_this();
  WatchHandlers handlers;
  handlers.on_object = [weak](WatchEvent event, Json&& object) {
    if (const auto self = weak.lock()) self->on_pod(event, object);
  };
  handlers.on_synced = [weak] {
    const auto self = weak.lock();
    if (!self) return;
    self->synced_ = true;
    self->trouble_.clear();
    self->synced_changed_.notify();
  };
  handlers.on_error = [weak](const std::exception_ptr& error) {
    const auto self = weak.lock();
    if (!self) return;
    try {
      std::rethrow_exception(error);
    } catch (const std::exception& e) {
      if (self->trouble_ != e.what()) self->say(std::string("cannot watch the pods: ") + e.what());
      self->trouble_ = e.what();
    }
    self->synced_changed_.notify();
  };
  watcher_ = std::make_unique<Watcher>(api_, std::move(watched), std::move(handlers));
  arm_sweep();
}

void Cluster::close() {
  closed_ = true;
  handler_ = nullptr;
  watcher_.reset();
  sweep_.cancel();
  synced_changed_.notify();
  dials_changed_.notify();
  for (const auto& [name, known] : entries_) known->changed.notify();
}

asio::awaitable<void> Cluster::synced(std::shared_ptr<Cluster> self, Clock::time_point deadline) {
  self->watch();
  while (!self->synced_ && !self->closed_) {
    if (Clock::now() >= deadline) {
      throw unavailable("the cluster cannot be asked for its pods: " +
                        (self->trouble_.empty() ? std::string("no answer in time") : self->trouble_));
    }
    co_await self->synced_changed_.wait_until(deadline);
  }
}

std::shared_ptr<Entry> Cluster::entry(const std::string& name) {
  std::shared_ptr<Entry>& known = entries_[name];
  if (!known) known = std::make_shared<Entry>(executor_, name);
  return known;
}

void Cluster::on_pod(WatchEvent event, const Json& object) {
  if (closed_) return;
  std::string name;
  try {
    PodView view = read_pod(object);
    name = view.name;
    if (event != WatchEvent::deleted && view.sandbox.empty()) return;
    if (event != WatchEvent::deleted) return take(*entry(name), std::move(view));
    const auto known = entries_.find(name);
    if (known == entries_.end()) return;
    const auto kept = known->second;
    // Another of the same name may be there already.
    if (kept->pod && kept->pod->uid != view.uid) return;
    entries_.erase(known);
    vanish(*kept);
  } catch (const std::exception& e) {
    say("a pod that cannot be read: " + std::string(e.what()));
  }
}

void Cluster::take(Entry& known, PodView view) {
  known.pod = std::move(view);
  if (known.pod->state == Found::State::ended && !known.ended) known.ended = Clock::now();
  if (known.pod->state == Found::State::ended && known.on_end) known.on_end();
  known.changed.notify();
  tell(known);
}

void Cluster::vanish(Entry& known) {
  known.gone = true;
  if (known.on_end) known.on_end();
  known.changed.notify();
  tell(known);
}

void Cluster::tell(const Entry& known) {
  if (!handler_ || !known.pod) return;
  Found found;
  found.id = known.pod->sandbox;
  found.record = known.pod->record;
  found.state = known.gone ? Found::State::gone : known.pod->state;
  found.exit = known.pod->exit;
  found.reason = known.pod->reason;
  // Those that are ours say by themselves how they come up and end.
  if (known.here && (found.state == Found::State::creating || found.state == Found::State::running)) return;
  handler_(std::move(found));
}

void Cluster::arm_sweep() {
  sweep_.expires_after(std::min<std::chrono::seconds>(kSweep, std::max(options_.keep_ended, std::chrono::seconds(1))));
  sweep_.async_wait([weak = weak_from_this()](const error_code& ec) {
    const auto self = weak.lock();
    if (!self || ec || self->closed_) return;
    const auto now = Clock::now();
    for (const auto& [name, known] : self->entries_) {
      if (known->ended && now - *known->ended >= self->options_.keep_ended) self->remove_later(*known, kRemovalGrace);
    }
    self->arm_sweep();
  });
}

// ---- creation ----

asio::awaitable<std::unique_ptr<remote::Link>> Cluster::dial(std::shared_ptr<Cluster> self, std::shared_ptr<Entry> entry) {
  while (self->dials_ >= self->options_.max_dials && !self->closed_) {
    const auto deadline = Clock::now() + std::chrono::seconds(60);
    co_await self->dials_changed_.wait_until(deadline);
  }
  if (entry->gone || !entry->pod || entry->pod->state == Found::State::ended)
    throw RunnerError(ErrorCode::failed_precondition, kUnavailable, "the sandbox's pod is no longer there");
  if (self->closed_) throw RunnerError(ErrorCode::failed_precondition, kUnavailable, "the gateway is ending");
  struct Turn {
    explicit Turn(Cluster& cluster) : all(cluster) { ++all.dials_; }
    ~Turn() {
      --all.dials_;
      all.dials_changed_.notify();
    }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    Cluster& all;
  };
  const Turn turn(*self);
  ExecRequest request;
  request.name_space = self->options_.access.default_namespace;
  request.pod = entry->name;
  request.container = kMainContainer;
  request.command.emplace_back(kAgentProgram);
  request.command.emplace_back("connect");
  request.std_in = true;
  std::unique_ptr<PodExec> exec;
  try {
    auto opened = PodExec::open(self->api_, std::move(request));
    exec = co_await std::move(opened);
  } catch (const ApiError& e) {
    // Whether the pod is still there the watch says. An API server that has just come up refuses what it will soon allow.
    throw unavailable(std::string("cannot reach the sandbox's pod: ") + e.what());
  }
  co_return std::make_unique<ExecLink>(std::move(exec));
}

std::shared_ptr<RemoteSandbox> Cluster::make_remote(const std::shared_ptr<Entry>& known) {
  remote::RemoteOptions options;
  options.session = base::random_hex(16);
  options.key = known->pod->key;
  options.grace = options_.link_grace;
  remote::Dial dialler = [self = shared_from_this(), known] { return dial(self, known); };
  std::shared_ptr<RemoteSandbox> made = RemoteSandbox::make(executor_, std::move(dialler), std::move(options));
  // PID 1 goes last: whoever has a link has heard it all from there.
  known->on_end = [entry = known.get(), weak = std::weak_ptr<RemoteSandbox>(made)] {
    const auto there = weak.lock();
    if (!there) return;
    std::string why = entry->gone ? "its pod was deleted" : "";
    if (!entry->pod->reason.empty()) why += (why.empty() ? "" : ": ") + entry->pod->reason;
    there->place_gone(std::move(why), entry->pod->exit);
  };
  return made;
}

std::shared_ptr<PlainSandbox> Cluster::make_plain(const std::shared_ptr<Entry>& known) {
  auto made = std::make_shared<PlainSandbox>(api_, options_.access.default_namespace, known->name, options_.log);
  known->on_end = [entry = known.get(), weak = std::weak_ptr<PlainSandbox>(made)] {
    if (const auto there = weak.lock()) there->place_gone(entry->pod->exit);
  };
  if (known->gone || known->pod->state == Found::State::ended) known->on_end();
  return made;
}

asio::awaitable<std::shared_ptr<Entry>> Cluster::make(std::shared_ptr<Cluster> self, const SandboxSpec& spec) {
  const std::string name = object_name(spec.id);
  const std::string key = base::random_hex(32);
  Json pod = make_pod(spec, key, self->options_.pods);
  Json made;
  bool there = false;
  try {
    auto posted = self->api_->post(self->pods_, std::move(pod));
    made = co_await std::move(posted);
  } catch (const ApiError& e) {
    if (e.code() != ErrorCode::already_exists) throw;
    there = true;
  }
  if (there) {
    auto asked = self->api_->get(self->pod_target(name));
    made = co_await std::move(asked);
  }
  PodView view = read_pod(made);
  if (there && (view.sandbox != spec.id || view.record != spec.record))
    throw RunnerError(ErrorCode::already_exists, "CWSANDBOX_INVALID_REQUEST", "there is another sandbox " + spec.id,
                      {{"sandbox_id", spec.id}});
  // Else the creation is repeated, and somebody else's. A pod without the agent has no key to be known by.
  const bool ours = !there || (!view.plain && view.key == key);
  const auto known = self->entry(name);
  if (ours) known->here = true;
  if (ours && spec.on_accepted) spec.on_accepted();
  if (!known->pod || known->pod->uid != view.uid) self->take(*known, std::move(view));
  co_return known;
}

// Of a plain pod, whose command runs when its node has it, and not when we say so; else none.
asio::awaitable<std::unique_ptr<EarlyPolicy>> Cluster::policy_first(std::shared_ptr<Cluster> self, const SandboxSpec& spec) {
  if (!self->options_.pods.plain) co_return nullptr;
  std::optional<Json> policy = make_network_policy(spec, std::nullopt, self->options_.pods);
  if (!policy) co_return nullptr;
  auto posting = EarlyPolicy::post(self->api_, self->policies_, self->pod_target(object_name(spec.id)), std::move(*policy));
  co_return co_await std::move(posting);
}

// Until its agent can be reached. What the cluster tries again we let it, for a while.
asio::awaitable<void> Cluster::wait_up(std::shared_ptr<Cluster> self, std::shared_ptr<Entry> entry, Clock::time_point deadline) {
  std::optional<Clock::time_point> failing, first_try;
  for (;;) {
    if (self->closed_) throw unavailable("the gateway is ending");
    if (entry->gone)
      throw RunnerError(ErrorCode::aborted, kUnavailable, "the sandbox's pod was deleted while it was being created");
    const PodView& pod = *entry->pod;
    const std::string why = pod.reason.empty() ? std::string() : ": " + pod.reason;
    // Without the agent a command that is through at once is the pod's end.
    if (pod.plain && pod.state == Found::State::ended && pod.exit && pod.exit->kind != ExitInfo::Kind::lost) co_return;
    if (pod.state == Found::State::ended)
      throw RunnerError(ErrorCode::failed_precondition, kUnavailable, "the sandbox's pod ended before it ran" + why);
    if (pod.deleting) throw RunnerError(ErrorCode::aborted, kUnavailable, "the sandbox's pod is being deleted" + why);
    // That it runs the cluster says up to a second later. Hence it is tried before, but not as long as it cannot run yet: a try is
    // a connection to the node, which is just starting it.
    if (pod.agent_installed && !first_try) first_try = Clock::now() + kContainerStart;
    if (pod.main_running || (first_try && Clock::now() >= *first_try)) co_return;
    if (pod.wait == PodView::Wait::final)
      throw RunnerError(ErrorCode::failed_precondition, kUnavailable, "the sandbox's pod cannot start" + why);
    auto until = std::min(deadline, first_try.value_or(deadline));
    if (pod.wait == PodView::Wait::failing) {
      if (!failing) failing = Clock::now();
      until = std::min(until, *failing + self->options_.patience);
      if (Clock::now() >= until)
        throw RunnerError(ErrorCode::failed_precondition, kUnavailable, "the sandbox's pod cannot start" + why);
    } else {
      failing.reset();
    }
    if (Clock::now() >= deadline)
      throw RunnerError(ErrorCode::deadline_exceeded, kUnavailable, "the sandbox's pod did not start in time" + why);
    co_await entry->changed.wait_until(until);
  }
}

// Ends a pod whose creation was given up, in whatever way.
class RemoveUnlessKept {
 public:
  RemoveUnlessKept(std::shared_ptr<Cluster> cluster, std::shared_ptr<Entry> entry)
      : cluster_(std::move(cluster)), entry_(std::move(entry)) {}
  RemoveUnlessKept(const RemoveUnlessKept&) = delete;
  RemoveUnlessKept& operator=(const RemoveUnlessKept&) = delete;
  ~RemoveUnlessKept() {
    if (cluster_) cluster_->remove_later(*entry_, kRemovalGrace);
  }
  void keep() noexcept { cluster_.reset(); }

 private:
  std::shared_ptr<Cluster> cluster_;
  std::shared_ptr<Entry> entry_;
};

// A pod, and what is in it: reached through its agent, or without one.
class KubernetesSandbox final : public Sandbox {
 public:
  KubernetesSandbox(std::shared_ptr<Cluster> cluster, std::shared_ptr<Entry> entry, std::shared_ptr<Sandbox> inside)
      : cluster_(std::move(cluster)), entry_(std::move(entry)), inside_(std::move(inside)) {}
  KubernetesSandbox(const KubernetesSandbox&) = delete;
  KubernetesSandbox& operator=(const KubernetesSandbox&) = delete;
  ~KubernetesSandbox() override {
    entry_->here = false;
    // Who has ended is kept for a while, for other gateways to see how.
    if (!cluster_->lets_go() && !entry_->ended && !entry_->over) cluster_->remove_later(*entry_, kRemovalGrace);
  }

  ByteSource& main_stdout() noexcept override { return inside_->main_stdout(); }
  ByteSource& main_stderr() noexcept override { return inside_->main_stderr(); }
  Files& files() noexcept override { return inside_->files(); }
  asio::awaitable<std::unique_ptr<Process>> start(ProcessSpec spec) override { return inside_->start(std::move(spec)); }
  void on_exit(std::function<void(const ExitInfo&)> handler) override {
    inside_->on_exit([entry = entry_, handler = std::move(handler)](const ExitInfo& exit) {
      if (exit.kind != ExitInfo::Kind::lost) entry->over = true;
      handler(exit);
    });
  }
  asio::awaitable<void> stop(std::chrono::milliseconds grace) override { return Cluster::stop(cluster_, entry_, inside_, grace); }

 private:
  std::shared_ptr<Cluster> cluster_;
  std::shared_ptr<Entry> entry_;
  std::shared_ptr<Sandbox> inside_;
};

asio::awaitable<std::unique_ptr<Sandbox>> Cluster::create(std::shared_ptr<Cluster> self, SandboxSpec spec) {
  const auto deadline = Clock::now() + self->options_.create_timeout;
  auto watched = synced(self, deadline);
  co_await std::move(watched);
  auto before = policy_first(self, spec);
  const std::unique_ptr<EarlyPolicy> early = co_await std::move(before);
  auto making = make(self, spec);
  const auto known = co_await std::move(making);
  std::optional<RemoveUnlessKept> guard;
  if (known->here) guard.emplace(self, known);
  if (early) {
    auto given = early->give_to(pod_as_owner(spec, known->pod->uid));
    co_await std::move(given);
  }
  if (!known->here) {
    auto adopted = adopt(self, spec.id);
    co_return co_await std::move(adopted);
  }
  if (std::optional<Json> policy = early ? std::nullopt : make_network_policy(spec, known->pod->uid, self->options_.pods)) {
    auto posted = self->api_->post(self->policies_, std::move(*policy));
    static_cast<void>(co_await std::move(posted));
  }
  auto up = wait_up(self, known, deadline);
  co_await std::move(up);
  std::shared_ptr<Sandbox> inside;
  if (known->pod->plain) {
    inside = self->make_plain(known);
  } else {
    const auto there = self->make_remote(known);
    inside = there;
    auto begun = there->create(std::move(spec));
    co_await std::move(begun);
    there->let_go();  // the pod is what ends it
  }
  guard->keep();
  co_return std::make_unique<KubernetesSandbox>(self, known, std::move(inside));
}

asio::awaitable<std::unique_ptr<Sandbox>> Cluster::adopt(std::shared_ptr<Cluster> self, std::string id) {
  const auto deadline = Clock::now() + self->options_.create_timeout;
  const auto at = self->entries_.find(object_name(id));
  if (at == self->entries_.end()) throw RunnerError(ErrorCode::not_found, "CWSANDBOX_SANDBOX_NOT_FOUND", "there is no pod " + id);
  const auto known = at->second;
  known->here = true;
  std::exception_ptr failed;
  std::shared_ptr<Sandbox> inside;
  try {
    auto up = wait_up(self, known, deadline);
    co_await std::move(up);
    if (known->pod->plain) {
      inside = self->make_plain(known);
    } else {
      const auto there = self->make_remote(known);
      inside = there;
      auto attached = there->attach(std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()));
      co_await std::move(attached);
      there->let_go();  // the pod is what ends it
    }
  } catch (const RunnerError& e) {
    failed = std::current_exception();
    known->here = false;
    // Nobody starts its main command any more: whoever was creating it has gone.
    if (e.code() == ErrorCode::deadline_exceeded) self->remove_later(*known, kRemovalGrace);
  }
  if (failed) std::rethrow_exception(failed);
  co_return std::make_unique<KubernetesSandbox>(self, known, std::move(inside));
}

// ---- the end ----

asio::awaitable<void> Cluster::stop(std::shared_ptr<Cluster> self, std::shared_ptr<Entry> entry, std::shared_ptr<Sandbox> inside,
                                    std::chrono::milliseconds grace) {
  grace = std::clamp(grace, std::chrono::milliseconds(0), std::chrono::milliseconds(std::chrono::hours(24)));
  // The API hears of it at once, so that other gateways see it end and it ends also without us; the agent hears of it too, and
  // tells how everything ended.
  self->remove_later(*entry,
                     std::chrono::ceil<std::chrono::seconds>(grace) + (entry->pod->plain ? std::chrono::seconds(0) : kReportTime));
  auto ended = inside->stop(grace);
  co_await std::move(ended);
}

void Cluster::remove_later(Entry& known, std::chrono::seconds grace) {
  if (known.gone || (known.removal && *known.removal <= grace)) return;
  known.removal = grace;
  asio::co_spawn(executor_, remove(shared_from_this(), known.name, known.pod->uid, grace), asio::detached);
}

asio::awaitable<void> Cluster::remove(std::shared_ptr<Cluster> self, std::string name, std::string uid,
                                      std::chrono::seconds grace) {
  Backoff backoff(std::chrono::milliseconds(200), std::chrono::seconds(10));
  const auto deadline = Clock::now() + grace + kDeleteSlack;
  DeleteOptions options;
  options.grace_period_seconds = grace.count();
  options.uid = uid;
  std::string trouble;
  do {
    try {
      auto removed = self->api_->remove(self->pod_target(name), options);  // its policy goes with it
      static_cast<void>(co_await std::move(removed));
      co_return;
    } catch (const RunnerError& e) {
      if (e.code() == ErrorCode::not_found || e.code() == ErrorCode::aborted) co_return;  // it has gone, or another bears its name
      trouble = e.what();
    }
    asio::steady_timer pause(self->executor_, backoff.next());
    error_code ignored;
    co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  } while (Clock::now() < deadline);
  self->say("the pod " + name + " could not be deleted: " + trouble);
}

class KubernetesRunner final : public Runner {
 public:
  KubernetesRunner(asio::any_io_executor executor, KubernetesOptions options)
      : cluster_(std::make_shared<Cluster>(std::move(executor), std::move(options))) {}
  KubernetesRunner(const KubernetesRunner&) = delete;
  KubernetesRunner& operator=(const KubernetesRunner&) = delete;
  ~KubernetesRunner() override { cluster_->close(); }

  std::string_view name() const noexcept override { return "kubernetes"; }
  std::vector<std::string> refuses(const SandboxSpec& spec) const override { return refused(spec, cluster_->options().pods); }
  asio::awaitable<std::unique_ptr<Sandbox>> create(SandboxSpec spec) override { return Cluster::create(cluster_, std::move(spec)); }

  bool durable() const noexcept override { return true; }
  asio::awaitable<void> find(std::function<void(Found)> handler) override { return find_in(cluster_, std::move(handler)); }
  asio::awaitable<std::unique_ptr<Sandbox>> adopt(std::string id) override { return Cluster::adopt(cluster_, std::move(id)); }
  void let_go() noexcept override { cluster_->let_go(); }

 private:
  static asio::awaitable<void> find_in(std::shared_ptr<Cluster> cluster, std::function<void(Found)> handler) {
    cluster->on_found(std::move(handler));
    auto watched = Cluster::synced(cluster, Clock::now() + std::chrono::seconds(60));
    co_await std::move(watched);
  }

  std::shared_ptr<Cluster> cluster_;
};

}  // namespace

std::unique_ptr<Runner> make_kubernetes_runner(asio::any_io_executor executor, KubernetesOptions options) {
  return std::make_unique<KubernetesRunner>(std::move(executor), std::move(options));
}

}  // namespace cwsandbox::runner::kubernetes
