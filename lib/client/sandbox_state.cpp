#include "client/sandbox_state.hpp"

#include "client/rpc.hpp"
#include "client/sandbox_calls.hpp"
#include "core/spawn.hpp"
#include "messages/json.hpp"

#include <boost/asio/co_spawn.hpp>

#include <algorithm>

namespace cwsandbox::detail {

using client::Backend;
using client::ExecProcess;

namespace {

// How often the status is asked for, and for how long at most each time. On one machine a sandbox may be there in a millisecond,
// and somebody waits.
constexpr std::chrono::milliseconds kFirstPoll{1}, kLongestPoll{2000};
std::chrono::milliseconds after(std::chrono::milliseconds delay) {
  return std::min(delay + std::max(kFirstPoll, delay / 2), kLongestPoll);
}
constexpr std::chrono::seconds kPollTimeout{15};
// How long a server may not know what it has just stopped (ST-7).
constexpr std::chrono::seconds kMissingAfterStop{2};

/// The order in which states are passed; a sandbox may be paused and run again.
constexpr int rank(SandboxStatus status) {
  switch (status) {
    case SandboxStatus::unspecified:
      return 0;
    case SandboxStatus::pending:
      return 1;
    case SandboxStatus::creating:
      return 2;
    case SandboxStatus::running:
    case SandboxStatus::paused:
      return 3;
    case SandboxStatus::terminating:
      return 4;
    case SandboxStatus::completed:
    case SandboxStatus::failed:
    case SandboxStatus::terminated:
      return 5;
  }
  return 0;
}

std::exception_ptr stopped_error(const std::string& id) {
  return std::make_exception_ptr(SandboxNotRunningError("The sandbox " + id + " has been stopped"));
}

}  // namespace

SandboxState::SandboxState(std::shared_ptr<ClientCore> core, std::string create_json)
    : core_(std::move(core)), create_json_(std::move(create_json)), owned_(true) {}
SandboxState::SandboxState(std::shared_ptr<ClientCore> core, std::shared_ptr<Backend> backend, const messages::Sandbox& sandbox)
    : core_(std::move(core)), backend_(std::move(backend)), started_(make_ready_task()), id_(sandbox.sandbox_id) {
  learn(sandbox);
}

SandboxState::~SandboxState() {
  // A stop that failed is tried once more.
  const bool stopped = stopped_.valid() && !(stopped_.done() && stopped_.error());
  if (!owned_ || stopped || !id_ || !backend_ || is_terminal(status_)) return;
  try {
    messages::DeleteSandboxRequest request;
    request.sandbox_id = *id_;
    request.grace_period_seconds = 10;
    request.allow_missing = true;
    request.request_id = client::make_uuid();
    asio::co_spawn(core_->loop().make_strand(), stop_quietly(backend_, messages::to_json(request)), [](std::exception_ptr) {});
  } catch (...) {  // the loop has ended: an embedded gateway with its sandboxes has, too
  }
}

// Before any lock is taken: in the child of a fork the loop's thread, which is not there, may hold it (EV-7).
void SandboxState::check_loop() const { static_cast<void>(core_->loop().executor()); }

task<void> SandboxState::start() {
  check_loop();
  task_source<void> source(core_->loop());
  {
    const std::lock_guard lock(mutex_);
    if (started_.valid()) return started_;
    source.on_cancel([] { return false; });  // shared by all: stop() is the way back
    started_ = source.get_task();
  }
  asio::co_spawn(core_->loop().make_strand(), create(shared_from_this(), source), [](std::exception_ptr) {});
  return source.get_task();
}

task<void> SandboxState::wait() {
  return core::spawn_task<void>(core_->loop(), core_->loop().make_strand(), until_running(shared_from_this()));
}

task<SandboxStatus> SandboxState::wait_until_complete(const WaitOptions& options) {
  return core::spawn_task<SandboxStatus>(core_->loop(), core_->loop().make_strand(), until_complete(shared_from_this(), options));
}

task<void> SandboxState::stop(const StopOptions& options) {
  if (options.grace_period() < std::chrono::milliseconds::zero())
    throw std::invalid_argument("cwsandbox: the grace period is negative");
  check_loop();
  task_source<void> source(core_->loop());
  {
    const std::lock_guard lock(mutex_);
    if (!started_.valid() || is_terminal(status_)) return make_ready_task();  // ST-3, LC-11
    if (stopped_.valid() && (!stopped_.done() || !stopped_.error())) return stopped_;
    stopping_ = true;
    source.on_cancel([] { return false; });
    stopped_ = source.get_task();
  }
  wake();  // whoever waits for it to run waits in vain (ST-8)
  asio::co_spawn(core_->loop().make_strand(), complete(stop_and_confirm(shared_from_this(), options), source),
                 [](std::exception_ptr) {});
  return source.get_task();
}

task<void> SandboxState::close(const StopOptions& options) {
  const task_source<void> never(core_->loop());
  never.set_exception(std::make_exception_ptr(SandboxNotRunningError("The sandbox's session was closed before it started")));
  {
    const std::lock_guard lock(mutex_);
    if (!started_.valid()) {
      started_ = never.get_task();
      return make_ready_task();
    }
  }
  return stop(options);
}

task<void> SandboxState::close_at_exit() {
  // An embedded gateway ends its sandboxes with itself.
  if (core_->settings().endpoint.scheme == net::Endpoint::Scheme::local) return make_ready_task();
  {
    const std::lock_guard lock(mutex_);
    if (!owned_) return make_ready_task();
  }
  // What ignores SIGTERM is killed in the middle of the time that exit has.
  return stop(StopOptions().with_grace_period(std::chrono::seconds(5)).with_missing_ok());
}

void SandboxState::let_backend_go() {
  if (!core_->loop().adopted()) return;
  std::shared_ptr<Backend> backend;  // ends outside the lock
  const std::lock_guard lock(mutex_);
  backend.swap(backend_);
}

task<SandboxStatus> SandboxState::get_status() {
  const auto status = get(&SandboxState::status_);
  if (is_terminal(status)) return make_ready_task(status, core_->loop());  // LC-11
  return core::spawn_task<SandboxStatus>(core_->loop(), core_->loop().make_strand(), ask_status(shared_from_this()));
}

template <typename HandOut>
auto SandboxState::run(std::shared_ptr<ExecProcess> process, HandOut hand_out) {
  check_loop();
  std::shared_ptr<Backend> backend;
  std::string id;
  bool stopping = false;
  {
    const std::lock_guard lock(mutex_);
    backend = backend_;
    if (id_) id = *id_;
    stopping = stopping_ || is_terminal(status_);
  }
  process->reserve(backend && !stopping ? backend->pool()->take() : nullptr);
  auto handle = hand_out(*process, shared_from_this());
  if (stopping) {
    process->refuse(stopped_error(id));
  } else if (!id.empty()) {
    process->launch(std::move(backend), std::move(id));
  } else {
    const auto started = start();
    // Weak: a sandbox that nobody holds any more is stopped as soon as it is there, whatever still waits for it.
    started.state()->add_continuation([process, weak = weak_from_this(), started = std::weak_ptr(started.state())] {
      const auto outcome = started.lock();
      if (outcome && outcome->error()) return process->refuse(outcome->error());
      const auto self = weak.lock();
      if (!self) return process->refuse(std::make_exception_ptr(CancelledError("The sandbox is no longer wanted")));
      std::shared_ptr<Backend> ready;
      std::string sandbox_id;
      bool stopped = false;
      {
        const std::lock_guard lock(self->mutex_);
        ready = self->backend_;
        sandbox_id = self->id_.value_or("");
        stopped = self->stopping_;
      }
      if (stopped) return process->refuse(stopped_error(sandbox_id));
      process->launch(std::move(ready), std::move(sandbox_id));
    });
  }
  return handle;
}

namespace {
// Named, so that both kinds of handle come from one place.
constexpr auto as_process = [](ExecProcess& p, std::shared_ptr<void> keeps) { return p.handle(std::move(keeps)); };
constexpr auto as_terminal = [](ExecProcess& p, std::shared_ptr<void> keeps) { return p.terminal_handle(std::move(keeps)); };
}  // namespace

Process SandboxState::exec(std::vector<std::string> command, ExecOptions options) {
  return run(ExecProcess::create(core_->loop(), std::move(command), std::move(options), counters_), as_process);
}

TerminalSession SandboxState::shell(const ShellOptions& options) {
  return run(ExecProcess::create_shell(core_->loop(), options), as_terminal);
}

Process SandboxState::attach(std::string process_id, const AttachOptions& options) {
  return run(ExecProcess::create_attached(core_->loop(), std::move(process_id), options, false), as_process);
}

TerminalSession SandboxState::attach_terminal(std::string session_id, const AttachOptions& options) {
  return run(ExecProcess::create_attached(core_->loop(), std::move(session_id), options, true), as_terminal);
}

void SandboxState::set_owned(bool owned) {
  const std::lock_guard lock(mutex_);
  owned_ = owned;
}

void SandboxState::describe(const SandboxOptions& options) {
  const std::lock_guard lock(mutex_);
  image_ = options.image();
  command_ = options.command();
  tags_ = options.tags();
}

void SandboxState::learn(const messages::Sandbox& sandbox) {
  bool changed = false;
  {
    const std::lock_guard lock(mutex_);
    const auto status = client::status_of(sandbox.status.state);
    // An answer that was overtaken by a later one, or a state that nobody knows, takes nothing back (LC-9, LC-10).
    if (!is_terminal(status_) && status != SandboxStatus::unspecified && rank(status) >= rank(status_)) {
      changed = status_ != status;
      status_ = status;
      reason_ = sandbox.status.state_reason;
      status_updated_ = std::chrono::system_clock::now();
    }
    // Only what was observed: a sandbox that is stopped may end without (LC-7).
    if (is_terminal(status_) && status_ == status && sandbox.status.exit_code) returncode_ = *sandbox.status.exit_code;
    if (sandbox.status.create_time) created_ = *sandbox.status.create_time;
    if (sandbox.status.start_time) started_at_ = *sandbox.status.start_time;
    if (sandbox.status.end_time) ended_at_ = *sandbox.status.end_time;
    if (!sandbox.status.runner_id.empty()) runner_id_ = sandbox.status.runner_id;
    if (!sandbox.status.runner_group_id.empty()) runner_group_id_ = sandbox.status.runner_group_id;
    if (!sandbox.spec.tags.empty()) tags_ = sandbox.spec.tags;
    const auto& containers = sandbox.spec.containers;
    const auto primary = std::find_if(containers.begin(), containers.end(),
                                      [&](const auto& one) { return one.name == sandbox.spec.primary_container; });
    if (primary != containers.end() || !containers.empty()) {
      const auto& container = primary != containers.end() ? *primary : containers.front();
      if (!container.image.empty()) image_ = container.image;
      if (!container.command.empty()) {
        command_.assign(1, container.command);
        command_.insert(command_.end(), container.args.begin(), container.args.end());
      }
    }
  }
  if (changed) wake();
  if (is_terminal(get(&SandboxState::status_))) let_backend_go();
}

std::shared_ptr<Backend> SandboxState::backend() {
  {
    const std::lock_guard lock(mutex_);
    if (backend_) return backend_;
  }
  auto backend = core_->backend();
  const std::lock_guard lock(mutex_);
  // Of one that has ended, a call may be under way, and keeps it.
  const bool may_keep = !core_->loop().adopted() || !is_terminal(status_);
  if (!backend_ && may_keep) backend_ = backend;
  return backend;
}

asio::awaitable<void> SandboxState::complete(asio::awaitable<void> work, task_source<void> source) {
  try {
    co_await std::move(work);
  } catch (...) {
    source.set_exception(std::current_exception());
    co_return;
  }
  source.set_value();
}

asio::awaitable<void> SandboxState::create(std::shared_ptr<SandboxState> self, task_source<void> source) {
  // Last to go: the end of the state below may start a stop, which exit waits for as well.
  const client::PendingWork pending(self->core_->loop());
  auto mine = std::move(self);
  try {
    auto backend = mine->backend();
    auto answer = co_await client::call(std::move(backend), "CreateSandbox", mine->create_json_);
    const auto sandbox = client::parse_answer(messages::from_json<messages::Sandbox>, answer);
    if (sandbox.sandbox_id.empty()) throw CWSandboxError("The server's answer to CreateSandbox holds no id");
    mine->learn(sandbox);
    const std::lock_guard lock(mine->mutex_);
    mine->id_ = sandbox.sandbox_id;
  } catch (...) {
    mine->let_backend_go();
    source.set_exception(std::current_exception());
    co_return;
  }
  source.set_value();
}

asio::awaitable<SandboxStatus> SandboxState::ask_status(std::shared_ptr<SandboxState> self) {
  Ready there = co_await located(self);
  const auto sandbox = co_await client::fetch_sandbox(std::move(there.backend), std::move(there.id), kPollTimeout);
  self->learn(sandbox);
  co_return self->get(&SandboxState::status_);
}

/// Counts those who wait for a change. The first one does not wait for a poll that was put off for others.
class SandboxState::Watching {
 public:
  explicit Watching(std::shared_ptr<SandboxState> state) : state_(std::move(state)) {
    const std::lock_guard lock(state_->mutex_);
    if (state_->watchers_++ == 0) state_->look_delay_ = std::chrono::milliseconds::zero();
  }
  ~Watching() {
    const std::lock_guard lock(state_->mutex_);
    --state_->watchers_;
  }
  Watching(const Watching&) = delete;
  Watching& operator=(const Watching&) = delete;

 private:
  std::shared_ptr<SandboxState> state_;
};

task<void> SandboxState::next_look() {
  task_source<void> source(core_->loop());
  std::chrono::milliseconds delay;
  {
    const std::lock_guard lock(mutex_);
    if (look_) return look_->get_task();
    source.on_cancel([] { return false; });
    look_ = source;
    delay = look_delay_;
    look_delay_ = after(delay);
  }
  asio::co_spawn(core_->loop().make_strand(), look(weak_from_this(), source, delay), [](std::exception_ptr) {});
  return source.get_task();
}

asio::awaitable<void> SandboxState::look(std::weak_ptr<SandboxState> weak, task_source<void> source,
                                         std::chrono::milliseconds delay) {
  if (delay > std::chrono::milliseconds::zero()) co_await client::pause(delay);
  // Weak until here: a sandbox that nobody holds any more is not kept by a poll.
  const auto self = weak.lock();
  if (!self || source.state()->done()) co_return;
  std::exception_ptr error;
  try {
    static_cast<void>(co_await ask_status(self));
  } catch (...) {
    error = std::current_exception();
  }
  {
    const std::lock_guard lock(self->mutex_);
    if (self->look_ && self->look_->state() == source.state()) self->look_.reset();
  }
  if (error)
    source.set_exception(error);
  else
    source.set_value();
}

void SandboxState::wake() {
  std::optional<task_source<void>> look;
  {
    const std::lock_guard lock(mutex_);
    look.swap(look_);
    look_delay_ = kFirstPoll;
  }
  if (look) look->set_value();
}

asio::awaitable<void> SandboxState::until_running(std::shared_ptr<SandboxState> self) {
  const Ready there = co_await located(self);
  const Watching watching(self);
  for (;;) {
    if (self->get(&SandboxState::stopping_)) std::rethrow_exception(stopped_error(there.id));
    const std::string reason = self->get(&SandboxState::reason_);
    const std::string why = reason.empty() ? "" : ": " + reason;
    switch (self->get(&SandboxState::status_)) {
      case SandboxStatus::running:
      case SandboxStatus::paused:
      case SandboxStatus::completed:
        co_return;
      case SandboxStatus::failed:
        throw SandboxFailedError("The sandbox " + there.id + " failed" + why);
      case SandboxStatus::terminated:
      case SandboxStatus::terminating:
        throw SandboxTerminatedError("The sandbox " + there.id + " was terminated" + why);
      case SandboxStatus::unspecified:
      case SandboxStatus::pending:
      case SandboxStatus::creating:
        break;
    }
    const auto look = self->next_look();
    co_await client::wait_for(look);
  }
}

asio::awaitable<SandboxStatus> SandboxState::until_complete(std::shared_ptr<SandboxState> self, WaitOptions options) {
  const Ready there = co_await located(self);
  const Watching watching(self);
  auto status = self->get(&SandboxState::status_);
  for (; !is_terminal(status); status = self->get(&SandboxState::status_)) {
    if (self->get(&SandboxState::stopping_)) {
      const auto stopped = self->get(&SandboxState::stopped_);
      co_await client::wait_for(stopped);
      status = self->get(&SandboxState::status_);
      if (!is_terminal(status)) status = SandboxStatus::terminated;  // gone without a word
      break;
    }
    const auto look = self->next_look();
    co_await client::wait_for(look);
  }
  const std::string reason = self->get(&SandboxState::reason_);
  const std::string why = reason.empty() ? "" : ": " + reason;
  if (status == SandboxStatus::failed) throw SandboxFailedError("The sandbox " + there.id + " failed" + why);
  const bool terminated = status == SandboxStatus::terminated || self->get(&SandboxState::stopping_);
  if (terminated && options.raise_on_termination())
    throw SandboxTerminatedError("The sandbox " + there.id + " was terminated" + why);
  co_return status;
}

asio::awaitable<void> SandboxState::stop_and_confirm(std::shared_ptr<SandboxState> self, StopOptions options) {
  const client::PendingWork pending(self->core_->loop());
  const auto started = self->get(&SandboxState::started_);
  try {
    co_await client::wait_for(started);
  } catch (...) {
    co_return;  // never came to be
  }
  const std::string id = *self->get(&SandboxState::id_);
  auto backend = self->backend();
  messages::DeleteSandboxRequest request;
  request.sandbox_id = id;
  // At least one: on the wire 0 means the server's choice.
  const auto seconds = std::max(std::chrono::seconds(1), std::chrono::ceil<std::chrono::seconds>(options.grace_period()));
  request.grace_period_seconds = static_cast<std::int32_t>(std::min<std::int64_t>(seconds.count(), INT32_MAX));
  request.allow_missing = options.missing_ok();
  request.request_id = client::make_uuid();
  auto json = messages::to_json(request);
  // The server may answer once the grace time is over.
  const auto timeout = backend->settings().request_timeout + seconds;
  auto answer = co_await client::call(backend, "DeleteSandbox", std::move(json), timeout);
  const auto response = client::parse_answer(messages::from_json<messages::DeleteSandboxResponse>, answer);
  if (response.sandbox) self->learn(*response.sandbox);
  std::chrono::milliseconds delay = kFirstPoll;
  std::optional<std::chrono::steady_clock::time_point> missing_since;
  while (!is_terminal(self->get(&SandboxState::status_))) {
    bool missing = false;
    try {
      const auto sandbox = co_await client::fetch_sandbox(backend, id, kPollTimeout);
      self->learn(sandbox);
      if (is_terminal(self->get(&SandboxState::status_))) break;
    } catch (const SandboxNotFoundError&) {
      if (options.missing_ok()) {
        self->let_backend_go();
        co_return;
      }
      missing = true;
    }
    // A server may forget a sandbox before it has told how it ended.
    const auto now = std::chrono::steady_clock::now();
    if (!missing)
      missing_since.reset();
    else if (!missing_since)
      missing_since = now;
    else if (now - *missing_since > kMissingAfterStop)
      throw SandboxTerminalStateUnavailableError("The sandbox " + id + " was stopped, but the server does not say how it ended");
    co_await client::pause(delay);
    delay = after(delay);
  }
}

asio::awaitable<void> SandboxState::stop_quietly(std::shared_ptr<Backend> backend, std::string json) {
  const client::PendingWork pending(backend->loop());
  auto mine = std::move(backend);
  try {
    static_cast<void>(co_await client::call(mine, "DeleteSandbox", std::move(json)));
  } catch (...) {  // nobody is left to hear of it
  }
}

asio::awaitable<SandboxState::Ready> SandboxState::located(std::shared_ptr<SandboxState> self) {
  const auto started = self->start();
  co_await client::wait_for(started);
  auto backend = self->backend();
  std::string id = *self->get(&SandboxState::id_);
  co_return Ready(std::move(backend), std::move(id));
}

asio::awaitable<SandboxState::Ready> SandboxState::ready(std::shared_ptr<SandboxState> self) {
  Ready ready = co_await located(self);
  if (self->get(&SandboxState::stopping_) || is_terminal(self->get(&SandboxState::status_)))
    std::rethrow_exception(stopped_error(ready.id));
  co_return ready;
}

}  // namespace cwsandbox::detail
