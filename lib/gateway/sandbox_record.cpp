#include "gateway/sandbox_record.hpp"

#include "base/text.hpp"
#include "gateway/process_run.hpp"
#include "gateway/sandboxes.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

namespace cwsandbox::gateway {

using messages::State;
using Time = std::chrono::system_clock::time_point;

SandboxRecord::SandboxRecord(std::shared_ptr<Context> context, Sandboxes& all, std::shared_ptr<Owner> owner, messages::Sandbox view,
                             std::optional<Digest> fingerprint)
    : context_(std::move(context)),
      all_(&all),
      owner_(std::move(owner)),
      view_(std::move(view)),
      fingerprint_(fingerprint),
      logs_(std::make_shared<LogStore>(context_->executor, context_->options.log_bytes, context_->options.log_directory)),
      changed_(context_->executor),
      lifetime_(context_->executor) {}

SandboxRecord::~SandboxRecord() = default;

Position SandboxRecord::position() const {
  Position out;
  out.created =
      std::chrono::duration_cast<std::chrono::microseconds>(view_.status.create_time.value_or(Time()).time_since_epoch()).count();
  out.id = id();
  return out;
}

asio::awaitable<std::shared_ptr<runner::Sandbox>> SandboxRecord::running(std::shared_ptr<SandboxRecord> self,
                                                                         std::chrono::steady_clock::time_point deadline) {
  const auto awaited = [&self] { return self->state() == State::creating || (self->state() == State::running && !self->sandbox_); };
  while (awaited()) {
    self->take_up();
    if (!awaited()) break;  // that was quick
    if (std::chrono::steady_clock::now() >= deadline) {
      std::string text = "the sandbox " + self->id();
      if (self->state() == State::creating) {
        text += " is still being created";
      } else {
        text += " cannot be reached";
        if (!self->unreachable_.empty()) text += ": " + self->unreachable_;
      }
      throw ServiceError(ErrorCode::unavailable, reason::kBackendUnavailable, text, {{"sandbox_id", self->id()}})
          .with_retry(std::chrono::seconds(1));
    }
    co_await self->changed_.wait_until(deadline);
  }
  if (self->state() != State::running || !self->sandbox_) {
    std::string text = "the sandbox " + self->id() + " is not running: " + std::string(messages::to_string(self->state()));
    if (!self->view_.status.state_reason.empty()) text += " (" + self->view_.status.state_reason + ")";
    throw ServiceError(ErrorCode::failed_precondition, reason::kSandboxNotRunning, text,
                       {{"sandbox_id", self->id()}, {"state", std::string(messages::to_string(self->state()))}});
  }
  co_return self->sandbox_;
}

asio::awaitable<void> SandboxRecord::create(std::shared_ptr<SandboxRecord> self, std::shared_ptr<runner::Runner> runner,
                                            runner::SandboxSpec spec) {
  std::unique_ptr<runner::Sandbox> made;
  std::string failure;
  std::optional<ServiceError> refusal;
  self->making_ = true;
  spec.on_accepted = [weak = self->weak_from_this()] {
    const auto record = weak.lock();
    if (record && record->all_ != nullptr) record->all_->accepted(*record);
  };
  const auto dropped = [&self] { return self->context_->dropped || self->all_ == nullptr; };
  if (dropped()) co_return;
  // Each is much work for the kernel, which no limit of the sandbox counts: where others have sandboxes, one owner keeps no more
  // than a quarter of the processors busy with it.
  const std::size_t all = runner->creations_at_once();
  const bool alone = self->owner_->budgets.has_all(Budget::sandboxes);
  auto waiting = self->all_->creations_->take(self->owner_.get(), alone ? all : (all + 3) / 4);
  std::optional<Turns::Turn> turn(co_await std::move(waiting));
  if (dropped()) co_return;
  // Deleted before it was its turn. Where sandboxes outlive this process, the place has to be told.
  if (self->stop_grace_ && !self->all_->durable()) {
    self->making_ = false;
    co_return self->end(State::terminated, {});
  }
  try {
    made = co_await runner->create(std::move(spec));
  } catch (const runner::RunnerError& e) {
    refusal = from_runner(e);
    failure = e.what();
  } catch (const std::exception& e) {
    failure = e.what();
  }
  turn.reset();
  self->making_ = false;
  self->context_->changed.notify();
  if (dropped()) co_return;  // `made` takes the sandbox with it, unless it was let go
  if (failure.empty()) failure = "the sandbox could not be created";
  if (made) {
    self->all_->accepted(*self);
    if (!self->terminal()) self->began(std::move(made));
  } else if (self->all_->offered_.contains(self->id())) {
    self->refusal_ = refusal ? *refusal : ServiceError(ErrorCode::internal, nullptr, "the sandbox could not be created");
    self->context_->log(LogLevel::warning, "sandbox " + self->id() + " was not created: " + base::escaped(failure, 512));
    self->all_->refused(*self);
  } else {
    self->end(self->state() == State::terminating ? State::terminated : State::failed, failure);
  }
}

void SandboxRecord::began(std::unique_ptr<runner::Sandbox> sandbox) {
  sandbox_ = std::move(sandbox);
  const bool adopted = adoption_ != Adoption::not_ours;
  // Of one that was found running nobody here knows since when.
  if (!adopted || state() == State::creating) view_.status.start_time = std::chrono::system_clock::now();
  std::weak_ptr<SandboxRecord> weak = weak_from_this();
  sandbox_->on_exit([weak](const runner::ExitInfo& info) {
    if (auto self = weak.lock()) self->main_exited(info);
  });
  if (terminal()) return;  // it ended while the handler was being set
  output_ = std::make_shared<MainOutput>(context_, budgets_of(owner_), logs_);
  output_->start(sandbox_->main_stdout(), sandbox_->main_stderr());
  if (stop_grace_) {  // deleted while it was being created: nobody can have used it
    const auto grace = adopted ? *stop_grace_ : std::chrono::milliseconds(0);
    asio::co_spawn(context_->executor, stop_runner(shared_from_this(), sandbox_, grace), asio::detached);
    return;
  }
  if (state() == State::terminating) return;  // by somebody else
  if (state() != State::running) {
    set_state(State::running);
    context_->log(LogLevel::info, "sandbox " + id() + " running");
  }
  if (!all_->durable()) arm_lifetime();
  changed_.notify();
}

void SandboxRecord::set_state(State state) {
  view_.status.state = state;
  for (auto& c : view_.status.container_statuses) c.state = state;
}

// From its creation where others know it too: all gateways must mean the same time, and what it says of its start is theirs alone.
void SandboxRecord::arm_lifetime() {
  if (view_.status.effective_max_lifetime_seconds <= 0) return;
  std::chrono::system_clock::duration left = std::chrono::seconds(view_.status.effective_max_lifetime_seconds);
  if (all_->durable()) left -= std::chrono::system_clock::now() - view_.status.create_time.value_or(Time());
  lifetime_.expires_after(left);
  std::weak_ptr<SandboxRecord> weak = weak_from_this();
  lifetime_.async_wait([weak](error_code ec) {
    if (ec) return;
    if (auto self = weak.lock())
      self->stop(self->context_->options.default_grace, "its maximum lifetime has passed", EndReason::lifetime);
  });
}

void SandboxRecord::main_exited(const runner::ExitInfo& info) {
  if (terminal()) return;
  std::string how;
  State state = State::failed;
  switch (info.kind) {
    case runner::ExitInfo::Kind::exited:
      view_.status.exit_code = info.value;
      if (info.value == 0)
        state = State::completed;
      else
        how = "the main command exited with code " + std::to_string(info.value);
      break;
    case runner::ExitInfo::Kind::signaled:
      view_.status.exit_code = 128 + info.value;  // as container runtimes report it
      how = "the main command was killed by signal " + std::to_string(info.value);
      break;
    case runner::ExitInfo::Kind::lost:
      how = "the sandbox was lost";
      break;
  }
  if (end_reason_ == EndReason::none) {
    if (info.out_of_memory) {
      end_reason_ = EndReason::out_of_memory;
    } else if (info.kind != runner::ExitInfo::Kind::lost) {
      end_reason_ = EndReason::main_ended;
    }
  }
  if (info.out_of_memory) how += " (it has used all the memory that it may have)";
  if (stop_grace_ && sandbox_) return;  // TERMINATED follows when nothing is left of it
  if (this->state() == State::terminating) return end_when_read(State::terminated, "");
  end_when_read(state, how);
}

void SandboxRecord::end_when_read(State state, const std::string& why) {
  if (terminal() || ending_) return;
  if (!output_) return end(state, why);
  ending_ = true;
  output_->drain([weak = weak_from_this(), state, why] {
    if (const auto self = weak.lock()) self->end(state, why);
  });
}

void SandboxRecord::end(State state, const std::string& why) {
  if (terminal()) return;
  view_.status.state = state;
  if (!view_.status.end_time) view_.status.end_time = std::chrono::system_clock::now();
  if (view_.status.state_reason.empty()) view_.status.state_reason = why;
  for (auto& c : view_.status.container_statuses) {
    c.state = state;
    if (view_.status.exit_code) c.exit_code = *view_.status.exit_code;
  }
  lifetime_.cancel();
  if (resting_) resting_->cancel();
  std::string line = "sandbox " + id() + " " + std::string(messages::to_string(state));
  if (!view_.status.state_reason.empty()) line += ": " + base::escaped(view_.status.state_reason, 512);
  const bool news = all_ == nullptr || all_->ready();  // what ended before this gateway began is none
  context_->log(!news ? LogLevel::debug : state == State::failed ? LogLevel::warning : LogLevel::info, line);
  const auto self = shared_from_this();
  // A copy: a process that ends takes itself out of the set.
  const std::vector<ProcessRun*> runs(runs_.begin(), runs_.end());
  for (ProcessRun* run : runs) {
    if (runs_.contains(run)) run->sandbox_ended();
  }
  if (output_) output_->stop();
  logs_->finish();
  // Not destroyed here: we may be inside one of its own calls.
  if (sandbox_) asio::post(context_->executor, [gone = std::move(sandbox_)]() mutable { gone.reset(); });
  sandbox_.reset();
  changed_.notify();
  if (all_ != nullptr) all_->on_ended(*this);
  context_->changed.notify();
}

void SandboxRecord::stop(std::chrono::milliseconds grace, const std::string& why, EndReason reason) {
  if (terminal() || ending_) return;
  if (stop_grace_ && *stop_grace_ <= grace) return;
  stop_grace_ = grace;
  begin_terminating(why, reason);
  if (sandbox_) {
    asio::co_spawn(context_->executor, stop_runner(shared_from_this(), sandbox_, grace), asio::detached);
  } else {
    take_up();
  }
}

void SandboxRecord::begin_terminating(const std::string& why, EndReason reason) {
  if (state() == State::terminating) return;
  if (end_reason_ == EndReason::none) end_reason_ = reason;
  set_state(State::terminating);
  view_.status.state_reason = why;
  lifetime_.cancel();
  context_->log(LogLevel::info, "sandbox " + id() + " terminating: " + base::escaped(why, 512));
  changed_.notify();
}

asio::awaitable<void> SandboxRecord::stop_runner(std::shared_ptr<SandboxRecord> self, std::shared_ptr<runner::Sandbox> sandbox,
                                                 std::chrono::milliseconds grace) {
  for (auto rest = kFirstRest;; rest = std::min(2 * rest, kLongestRest)) {
    std::string failure;
    try {
      co_await sandbox->stop(grace);
    } catch (const std::exception& e) {
      failure = e.what();
    }
    if (!failure.empty()) {
      self->context_->log(LogLevel::error, "sandbox " + self->id() + " did not stop cleanly: " + base::escaped(failure, 512));
    }
    if (self->all_ == nullptr) co_return;
    if (failure.empty() || !self->all_->durable()) break;
    // It is there for all others still.
    const auto until = std::chrono::steady_clock::now() + rest;
    while (!self->terminal() && self->all_ != nullptr && std::chrono::steady_clock::now() < until)
      co_await self->changed_.wait_until(until);
    if (self->terminal() || self->all_ == nullptr) co_return;
  }
  self->end_when_read(State::terminated, "");
}

void SandboxRecord::drop() noexcept {
  const bool durable = all_ != nullptr && all_->durable();
  all_ = nullptr;
  lifetime_.cancel();
  if (resting_) resting_->cancel();
  if (stop_grace_ && sandbox_ && !durable) {
    // A stop under way holds the sandbox: it ends now, not after its grace time.
    try {
      asio::co_spawn(context_->executor, stop_runner(shared_from_this(), sandbox_, std::chrono::milliseconds(0)), asio::detached);
    } catch (const std::exception&) {  // no memory: then it ends with its grace time
    }
  }
  if (output_) output_->stop();
  logs_->finish();
  sandbox_.reset();
  view_.status.state = State::terminated;
  changed_.notify();
}

}  // namespace cwsandbox::gateway
