// Sandboxes that a durable runner finds: those of other gateways, and of this one in its former lives.
#include "base/text.hpp"
#include "gateway/kept_record.hpp"
#include "gateway/sandboxes.hpp"
#include "messages/sandbox.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>

#include <algorithm>
#include <stdexcept>

namespace cwsandbox::gateway {

using messages::State;

// ---- all of them ----

void Sandboxes::start(const std::shared_ptr<Sandboxes>& self) {
  if (!self->durable_) return;
  self->overdue_.expires_after(self->context_->options.find_wait);
  self->overdue_.async_wait([weak = std::weak_ptr<Sandboxes>(self)](error_code ec) {
    const auto all = weak.lock();
    if (ec || !all || all->ready_ || all->context_->dropped) return;
    all->context_->log(LogLevel::error, "the runner has not told yet which sandboxes there are; no request is served until it has");
  });
  asio::co_spawn(self->context_->executor, look(self), asio::detached);
}

// Holds nothing while it waits: a runner that never answers must not keep itself alive.
asio::awaitable<void> Sandboxes::look(std::weak_ptr<Sandboxes> weak) {
  for (auto rest = kFirstRest;; rest = std::min(2 * rest, kLongestRest)) {
    auto self = weak.lock();
    if (!self || self->context_->dropped) co_return;
    std::function<void(runner::Found)> handler = [weak](const runner::Found& found) {
      const auto all = weak.lock();
      if (all && !all->context_->dropped) all->on_found(found);
    };
    std::string failure;
    try {
      asio::awaitable<void> finding = self->runner_->find(std::move(handler));
      self.reset();
      co_await std::move(finding);
    } catch (const std::exception& e) {
      failure = "the runner cannot tell which sandboxes there are: " + base::escaped(e.what(), 512);
    }
    self = weak.lock();
    if (!self || self->context_->dropped) co_return;
    if (failure.empty()) {
      self->ready_ = true;
      self->overdue_.cancel();
      self->context_->log(LogLevel::info, "serving: " + std::to_string(self->active_) + " sandboxes are there");
      co_return;
    }
    self->context_->log(LogLevel::warning, failure);
    const auto until = std::chrono::steady_clock::now() + rest;
    // Notified by what was found before the failure, too, and when all is dropped.
    while (!self->context_->dropped && std::chrono::steady_clock::now() < until) co_await self->found_.wait_until(until);
  }
}

void Sandboxes::on_found(const runner::Found& found) {
  using Now = runner::Found::State;
  const auto at = by_id_.find(found.id);
  const std::shared_ptr<SandboxRecord> known = at == by_id_.end() ? nullptr : at->second;
  if (known && !known->terminal()) return known->found(found);
  if (known && found.state != Now::creating && found.state != Now::running) return;
  if (found.state == Now::gone) {
    foreign_.erase(found.id);
    return;
  }
  // Our own, before we have heard that it was taken on: `create` says the rest.
  if (const auto offered = offered_.find(found.id); offered != offered_.end() && offered->second.text == found.record) return;
  KeptRecord kept;
  try {
    kept = parse_kept_record(found.record);
    if (kept.view.sandbox_id != found.id) throw std::invalid_argument("it is of another sandbox");
  } catch (const std::invalid_argument& e) {
    if (foreign_.insert(found.id).second) {
      context_->log(LogLevel::warning,
                    "sandbox " + base::escaped(found.id, 64) + " is left alone: of its record, " + base::escaped(e.what(), 256));
    }
    return;
  }
  if (known) {
    // A request of before was repeated where nobody knew any more what had become of it: there is another sandbox of this id.
    if (kept.view.status.create_time <= known->view().status.create_time) return;
    ended_bytes_ -= std::erase(ended_, known) * known->bytes_;
    forget(*known);
  }
  kept.view.status.state = State::creating;
  auto record =
      std::make_shared<SandboxRecord>(context_, *this, tokens_->owner_of_key(kept.owner), std::move(kept.view), kept.fingerprint);
  record->bytes_ = found.record.size();
  record->adoption_ = SandboxRecord::Adoption::none;
  record->share_ = BudgetShare::of_existing(budgets_of(record->owner()), Budget::sandboxes);
  record->descriptors_ = BudgetShare::of_existing(budgets_of(record->owner()), Budget::descriptors, kSandboxDescriptors);
  insert(record);
  record->arm_lifetime();
  record->found(found);
  found_.notify();
}

// ---- one sandbox ----

// Told again and again, in whatever order: what is older than what is known already changes nothing.
void SandboxRecord::found(const runner::Found& now) {
  if (terminal() || ending_) return;
  const auto self = shared_from_this();
  switch (now.state) {
    case runner::Found::State::creating:
      break;
    case runner::Found::State::running:
      if (state() == State::creating && adoption_ != Adoption::not_ours) {
        set_state(State::running);
        if (adoption_ == Adoption::under_way) view_.status.start_time = std::chrono::system_clock::now();  // seen to begin
        if (all_->ready()) context_->log(LogLevel::info, "sandbox " + id() + " running");
        changed_.notify();
      }
      break;
    case runner::Found::State::stopping:
      begin_terminating(now.reason.empty() ? "it is being stopped" : now.reason, EndReason::sandbox_stopped);
      break;
    case runner::Found::State::ended:
      if (!now.exit) {
        end_when_read(state() == State::terminating ? State::terminated : State::failed,
                      now.reason.empty() ? "nobody knows how the main command ended" : now.reason);
        break;
      }
      if (now.exit->time != std::chrono::system_clock::time_point()) view_.status.end_time = now.exit->time;
      main_exited(*now.exit);
      break;
    case runner::Found::State::gone:
      if (state() == State::terminating) {
        end_when_read(State::terminated, now.reason);
      } else {
        end_when_read(State::failed, "the sandbox is gone" + (now.reason.empty() ? std::string() : ": " + now.reason));
      }
      break;
  }
}

// Only when somebody wants something of it: a gateway beside a hundred thousand sandboxes has connections to those that it is asked
// about.
void SandboxRecord::take_up() {
  if (adoption_ != Adoption::none || sandbox_ || terminal() || all_ == nullptr) return;
  adoption_ = Adoption::under_way;
  asio::co_spawn(context_->executor, adopt(shared_from_this(), all_->runner_->adopt(id())), asio::detached);
}

asio::awaitable<void> SandboxRecord::adopt(std::shared_ptr<SandboxRecord> self,
                                           asio::awaitable<std::unique_ptr<runner::Sandbox>> adopting) {
  std::unique_ptr<runner::Sandbox> sandbox;
  std::string failure = "it could not be adopted";
  bool for_good = false;
  try {
    sandbox = co_await std::move(adopting);
  } catch (const runner::RunnerError& e) {
    failure = e.what();
    for_good = e.code() != ErrorCode::unavailable;
  } catch (const std::exception& e) {
    failure = e.what();
  }
  if (self->context_->dropped || self->all_ == nullptr) co_return;
  self->adoption_ = Adoption::none;
  if (self->terminal() || self->ending_) co_return;
  if (sandbox) {
    self->unreachable_.clear();
    self->rest_ = {};
    self->began(std::move(sandbox));
  } else {
    self->adoption_failed(failure, for_good);
  }
}

void SandboxRecord::adoption_failed(const std::string& why, bool for_good) {
  if (for_good && state() == State::creating) return end(State::failed, why);
  // It is there, by all that the runner tells, and only cannot be reached now.
  if (unreachable_ != why) context_->log(LogLevel::warning, "sandbox " + id() + " cannot be reached: " + base::escaped(why, 512));
  unreachable_ = why;
  rest_ = std::clamp(2 * rest_, kFirstRest, kLongestRest);
  adoption_ = Adoption::resting;
  if (!resting_) resting_.emplace(context_->executor);
  resting_->expires_after(rest_);
  resting_->async_wait([weak = weak_from_this()](error_code ec) {
    const auto self = weak.lock();
    if (ec || !self || self->all_ == nullptr || self->terminal()) return;
    self->adoption_ = Adoption::none;
    if (self->stop_grace_) self->take_up();
    self->changed_.notify();  // who waits for it asks again
  });
}

}  // namespace cwsandbox::gateway
