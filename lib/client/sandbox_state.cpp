#include "client/sandbox_state.hpp"

#include "client/errors.hpp"
#include "client/rpc.hpp"
#include "core/spawn.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <set>

namespace cwsandbox::detail {

using client::Backend;
using client::ExecProcess;

namespace {

// How often the status is asked for, and for how long at most each time.
constexpr std::chrono::milliseconds kFirstPoll{200}, kLongestPoll{2000};
// A sandbox that is being stopped is usually gone in no time, and somebody waits.
constexpr std::chrono::milliseconds kFirstStopPoll{10};
constexpr std::chrono::seconds kPollTimeout{15};
constexpr int kMaxPages = 100;

SandboxStatus from_wire(protocol::State state) {
  switch (state) {
    case protocol::State::creating:
      return SandboxStatus::creating;
    case protocol::State::running:
      return SandboxStatus::running;
    case protocol::State::completed:
      return SandboxStatus::completed;
    case protocol::State::failed:
      return SandboxStatus::failed;
    case protocol::State::terminating:
      return SandboxStatus::terminating;
    case protocol::State::terminated:
      return SandboxStatus::terminated;
    case protocol::State::pending:
      return SandboxStatus::pending;
    case protocol::State::paused:
      return SandboxStatus::paused;
    case protocol::State::unspecified:
      break;
  }
  return SandboxStatus::unspecified;
}

protocol::State to_wire(SandboxStatus status) {
  for (const auto state :
       {protocol::State::creating, protocol::State::running, protocol::State::completed, protocol::State::failed,
        protocol::State::terminating, protocol::State::terminated, protocol::State::pending, protocol::State::paused})
    if (from_wire(state) == status) return state;
  return protocol::State::unspecified;
}

}  // namespace

SandboxState::SandboxState(std::shared_ptr<ClientCore> core, std::string create_json)
    : core_(std::move(core)), create_json_(std::move(create_json)), owned_(true) {}
SandboxState::SandboxState(std::shared_ptr<ClientCore> core, std::shared_ptr<Backend> backend, const protocol::Sandbox& sandbox)
    : core_(std::move(core)), backend_(std::move(backend)), started_(make_ready_task()), id_(sandbox.sandbox_id) {
  learn(sandbox);
}

SandboxState::~SandboxState() {
  if (!owned_ || released_ || stopping_ || !id_ || is_terminal(status_)) return;
  try {
    protocol::DeleteSandboxRequest request;
    request.sandbox_id = *id_;
    request.grace_period_seconds = 10;
    request.allow_missing = true;
    request.request_id = client::make_uuid();
    asio::co_spawn(core_->loop().make_strand(), stop_quietly(backend_, protocol::to_json(request)), [](std::exception_ptr) {});
  } catch (...) {  // the loop has ended: an embedded gateway with its sandboxes has, too
  }
}

task<void> SandboxState::start() {
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
  task_source<void> source(core_->loop());
  {
    const std::lock_guard lock(mutex_);
    if (running_.valid() && (!running_.done() || !running_.error())) return running_;
    source.on_cancel([] { return false; });  // one poll serves all who wait (LC-5)
    running_ = source.get_task();
  }
  asio::co_spawn(core_->loop().make_strand(), complete(poll_until_running(shared_from_this()), source), [](std::exception_ptr) {});
  return source.get_task();
}

task<void> SandboxState::stop(const StopOptions& options) {
  if (options.grace_period() < std::chrono::milliseconds::zero())
    throw std::invalid_argument("cwsandbox: the grace period is negative");
  task_source<void> source(core_->loop());
  {
    const std::lock_guard lock(mutex_);
    if (!started_.valid()) return make_ready_task();  // ST-3
    if (stopped_.valid() && (!stopped_.done() || !stopped_.error())) return stopped_;
    stopping_ = true;
    source.on_cancel([] { return false; });
    stopped_ = source.get_task();
  }
  asio::co_spawn(core_->loop().make_strand(), complete(stop_and_confirm(shared_from_this(), options), source),
                 [](std::exception_ptr) {});
  return source.get_task();
}

task<SandboxStatus> SandboxState::refresh() {
  return core::spawn_task<SandboxStatus>(core_->loop(), core_->loop().make_strand(), ask_status(shared_from_this()));
}

Process SandboxState::exec(std::vector<std::string> command, ExecOptions options) {
  auto process = ExecProcess::create(core_->loop(), std::move(command), std::move(options), counters_);
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
  auto handle = process->handle(shared_from_this());
  if (stopping) {
    process->refuse(std::make_exception_ptr(SandboxNotRunningError("The sandbox " + id + " has been stopped")));
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
      if (stopped)
        return process->refuse(std::make_exception_ptr(SandboxNotRunningError("The sandbox " + sandbox_id + " has been stopped")));
      process->launch(std::move(ready), std::move(sandbox_id));
    });
  }
  return handle;
}

void SandboxState::release() {
  const std::lock_guard lock(mutex_);
  released_ = true;
}

void SandboxState::learn(const protocol::Sandbox& sandbox) {
  const std::lock_guard lock(mutex_);
  const auto status = from_wire(sandbox.status.state);
  if (!is_terminal(status_) && status != SandboxStatus::unspecified &&
      !(status_ == SandboxStatus::terminating && !is_terminal(status))) {
    status_ = status;
    reason_ = sandbox.status.state_reason;
  }
  if (sandbox.status.create_time) created_ = *sandbox.status.create_time;
  tags_ = sandbox.spec.tags;
  for (const auto& container : sandbox.spec.containers)
    if (image_.empty() || container.name == sandbox.spec.primary_container) image_ = container.image;
}

std::shared_ptr<Backend> SandboxState::backend() {
  {
    const std::lock_guard lock(mutex_);
    if (backend_) return backend_;
  }
  auto backend = core_->backend();
  const std::lock_guard lock(mutex_);
  if (!backend_) backend_ = backend;
  return backend_;
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
    const auto sandbox = client::parse_answer(protocol::parse_sandbox, answer);
    if (sandbox.sandbox_id.empty()) throw CWSandboxError("The server's answer to CreateSandbox holds no id");
    mine->learn(sandbox);
    const std::lock_guard lock(mine->mutex_);
    mine->id_ = sandbox.sandbox_id;
  } catch (...) {
    source.set_exception(std::current_exception());
    co_return;
  }
  source.set_value();
}

asio::awaitable<protocol::Sandbox> SandboxState::fetch(std::shared_ptr<Backend> backend, std::string id,
                                                       std::chrono::milliseconds timeout) {
  protocol::GetSandboxRequest request;
  request.sandbox_id = std::move(id);
  auto json = protocol::to_json(request);
  auto answer = co_await client::call(std::move(backend), "GetSandbox", std::move(json), timeout);
  co_return client::parse_answer(protocol::parse_sandbox, answer);
}

asio::awaitable<SandboxStatus> SandboxState::ask_status(std::shared_ptr<SandboxState> self) {
  const auto started = self->start();
  co_await client::wait_for(started);
  std::string id = *self->get(&SandboxState::id_);
  auto backend = self->backend();
  const auto sandbox = co_await fetch(std::move(backend), std::move(id), kPollTimeout);
  self->learn(sandbox);
  co_return self->get(&SandboxState::status_);
}

asio::awaitable<void> SandboxState::poll_until_running(std::shared_ptr<SandboxState> self) {
  const auto started = self->start();
  co_await client::wait_for(started);
  const std::string id = *self->get(&SandboxState::id_);
  std::chrono::milliseconds delay = kFirstPoll;
  SandboxStatus status = self->get(&SandboxState::status_);
  for (bool first = true;; first = false) {
    if (!first || status != SandboxStatus::running) status = co_await ask_status(self);
    if (self->get(&SandboxState::stopping_)) throw SandboxNotRunningError("The sandbox " + id + " has been stopped");
    const std::string reason = self->get(&SandboxState::reason_);
    const std::string why = reason.empty() ? "" : ": " + reason;
    switch (status) {
      case SandboxStatus::running:
      case SandboxStatus::paused:
      case SandboxStatus::completed:
        co_return;
      case SandboxStatus::failed:
        throw SandboxFailedError("The sandbox " + id + " failed" + why);
      case SandboxStatus::terminated:
      case SandboxStatus::terminating:
        throw SandboxTerminatedError("The sandbox " + id + " was terminated" + why);
      case SandboxStatus::unspecified:
      case SandboxStatus::pending:
      case SandboxStatus::creating:
        break;
    }
    asio::steady_timer timer(co_await asio::this_coro::executor, delay);
    co_await timer.async_wait(asio::use_awaitable);
    delay = std::min(delay * 3 / 2, kLongestPoll);
  }
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
  protocol::DeleteSandboxRequest request;
  request.sandbox_id = id;
  // At least one: on the wire 0 means the server's choice.
  const auto seconds = std::max(std::chrono::seconds(1), std::chrono::ceil<std::chrono::seconds>(options.grace_period()));
  request.grace_period_seconds = static_cast<std::int32_t>(std::min<std::int64_t>(seconds.count(), INT32_MAX));
  request.allow_missing = options.missing_ok();
  request.request_id = client::make_uuid();
  auto json = protocol::to_json(request);
  // The server may answer once the grace time is over.
  const auto timeout = backend->settings().request_timeout + seconds;
  auto answer = co_await client::call(backend, "DeleteSandbox", std::move(json), timeout);
  const auto response = client::parse_answer(protocol::parse_delete_sandbox_response, answer);
  if (response.sandbox) self->learn(*response.sandbox);
  if (options.missing_ok() && !response.sandbox) co_return;
  std::chrono::milliseconds delay = kFirstStopPoll;
  std::optional<std::chrono::steady_clock::time_point> missing_since;
  while (!is_terminal(self->get(&SandboxState::status_))) {
    bool missing = false;
    try {
      const auto sandbox = co_await fetch(backend, id, kPollTimeout);
      self->learn(sandbox);
      if (is_terminal(self->get(&SandboxState::status_))) break;
    } catch (const SandboxNotFoundError&) {
      missing = true;
    }
    // A server may forget a sandbox before it has told how it ended (ST-7).
    const auto now = std::chrono::steady_clock::now();
    if (!missing)
      missing_since.reset();
    else if (!missing_since)
      missing_since = now;
    else if (now - *missing_since > std::chrono::seconds(2))
      throw SandboxTerminalStateUnavailableError("The sandbox " + id + " was stopped, but the server does not say how it ended");
    asio::steady_timer timer(co_await asio::this_coro::executor, delay);
    co_await timer.async_wait(asio::use_awaitable);
    delay = std::min(delay * 2, kLongestPoll);
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

asio::awaitable<Sandbox> SandboxState::find(std::shared_ptr<ClientCore> core, std::string id) {
  auto backend = core->backend();
  auto keep = backend;
  const auto sandbox = co_await fetch(std::move(backend), std::move(id), core->settings().request_timeout);
  co_return Sandbox(std::make_shared<SandboxState>(core, keep, sandbox));
}

asio::awaitable<std::vector<Sandbox>> SandboxState::find_all(std::shared_ptr<ClientCore> core, ListOptions options) {
  const auto backend = core->backend();
  std::vector<Sandbox> found;
  std::set<std::string> seen_tokens;
  protocol::ListSandboxesRequest request;
  request.tags = options.tags();
  request.state = to_wire(options.status());
  request.show_terminated = options.include_stopped() || is_terminal(options.status());
  for (int page = 0; page < kMaxPages; ++page) {
    auto json = protocol::to_json(request);
    auto answer = co_await client::call(backend, "ListSandboxes", std::move(json));
    const auto response = client::parse_answer(protocol::parse_list_sandboxes_response, answer);
    for (const auto& sandbox : response.sandboxes) found.emplace_back(std::make_shared<SandboxState>(core, backend, sandbox));
    if (response.next_page_token.empty()) co_return found;
    if (!seen_tokens.insert(response.next_page_token).second)
      throw CWSandboxError("The server repeats a page of its list of sandboxes");
    request.page_token = response.next_page_token;
  }
  throw CWSandboxError("The server's list of sandboxes has more than " + std::to_string(kMaxPages) + " pages");
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
    throw SandboxNotRunningError("The sandbox " + ready.id + " has been stopped");
  co_return ready;
}

}  // namespace cwsandbox::detail
