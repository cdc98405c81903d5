#include "gateway/sandboxes.hpp"

#include "base/hex.hpp"
#include "base/numbers.hpp"
#include "base/random.hpp"
#include "base/text.hpp"
#include "gateway/kept_record.hpp"
#include "gateway/process_run.hpp"
#include "gateway/sandbox_request.hpp"
#include "messages/json.hpp"
#include "messages/protobuf.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <set>
#include <span>
#include <string_view>
#include <utility>

namespace cwsandbox::gateway {

using messages::State;
using Time = std::chrono::system_clock::time_point;

namespace {

constexpr std::int32_t kDefaultPage = 100;
constexpr std::int32_t kMaxPage = 1000;
// A page has no more, but for one sandbox: an answer is built at once.
constexpr std::size_t kMaxPageBytes = 1024 * 1024;
// Each is a descriptor of this process; a process may have 1024 where nobody has said otherwise.
constexpr std::size_t kMaxEndedLogFiles = 128;

constexpr std::chrono::seconds kLater{1};  // when to try again

// Where a request id is known by several gateways, the sandbox's id follows from it: a repetition meets the same one everywhere.
std::string id_of_request(const Owner& owner, const std::string& request_id) {
  const Digest digest = Fingerprint().add(owner.key).add(request_id).digest();
  return kIdPrefix + base::to_hex(std::span(digest).first(kIdBytes));
}

std::string to_text(const Position& position) {
  std::array<char, 16> text{};
  const auto written = std::to_chars(text.data(), text.data() + text.size(), static_cast<std::uint64_t>(position.created), 16);
  return std::string(text.data(), written.ptr) + "." + position.id;
}

bool parse_position(std::string_view text, Position& out) {
  const std::size_t dot = text.find('.');
  if (dot == std::string_view::npos || dot == 0 || text[0] == '-' || dot > 16) return false;
  const auto created = base::parse_number<decltype(out.created)>(text.substr(0, dot), 16);
  if (!created) return false;
  out.created = *created;
  out.id = text.substr(dot + 1);
  return is_sandbox_id(out.id);
}

}  // namespace

// ---- one sandbox ----

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

// ---- all of them ----

Sandboxes::Sandboxes(std::shared_ptr<Context> context, std::shared_ptr<TokenSet> tokens, std::unique_ptr<runner::Runner> runner)
    : context_(std::move(context)),
      runner_(std::move(runner)),
      creations_(std::make_shared<Turns>(context_->executor, runner_->creations_at_once())),
      tokens_(std::move(tokens)),
      durable_(runner_->durable()),
      ready_(!durable_),
      found_(context_->executor),
      overdue_(context_->executor) {}

Sandboxes::~Sandboxes() { drop_all(); }

asio::awaitable<messages::Sandbox> Sandboxes::create(std::shared_ptr<Sandboxes> self, std::shared_ptr<Owner> owner,
                                                     messages::CreateSandboxRequest request) {
  const auto deadline = std::chrono::steady_clock::now() + self->context_->options.start_wait;
  const auto late = [&deadline] { return std::chrono::steady_clock::now() >= deadline; };
  check_served(request);
  messages::CreateSandboxRequest asked;
  asked.sandbox.spec = std::move(request.sandbox.spec);
  std::string key;
  std::optional<Digest> fingerprint;
  if (!request.request_id.empty()) {
    if (request.request_id.size() > 256) throw invalid_field("requestId", "longer than 256 bytes");
    key = id_of_request(*owner, request.request_id);
    fingerprint = Fingerprint().add(messages::to_protobuf(asked)).digest();
  }
  std::shared_ptr<SandboxRecord> record = self->made_for(owner, key, fingerprint);
  if (!record) {
    runner::SandboxSpec spec;
    record = self->make(owner, std::move(asked.sandbox), key, fingerprint, spec);
    messages::Sandbox answer = record->view();
    asio::co_spawn(self->context_->executor, SandboxRecord::create(record, self->runner_, std::move(spec)), asio::detached);
    if (!self->durable_) co_return answer;
  }
  // What was answered is there: not before the place has it.
  const ServiceError not_yet =
      ServiceError(ErrorCode::unavailable, reason::kBackendUnavailable, "the sandbox has not been taken on in time")
          .with_retry(kLater);
  while (self->offered_.contains(record->id()) && !record->refusal_) {
    if (self->context_->dropped) throw shutting_down();
    if (late()) {
      if (key.empty()) {  // nobody will know of it
        record->stop(std::chrono::milliseconds(0), "it was not taken on in time", EndReason::sandbox_stopped);
      }
      throw not_yet;
    }
    co_await record->changed_.wait_until(deadline);
  }
  if (self->context_->dropped) throw shutting_down();
  if (!record->refusal_) co_return record->view();
  if (key.empty() || record->refusal_->error().code != ErrorCode::already_exists) throw ServiceError(*record->refusal_);
  // Another gateway was first. The runner tells of that sandbox, if it has not yet.
  for (;;) {
    if (self->context_->dropped) throw shutting_down();
    if (self->by_id_.contains(key)) co_return self->made_for(owner, key, fingerprint)->view();
    if (late()) throw not_yet;
    co_await self->found_.wait_until(deadline);
  }
}

std::shared_ptr<SandboxRecord> Sandboxes::made_for(const std::shared_ptr<Owner>& owner, const std::string& key,
                                                   const std::optional<Digest>& fingerprint) const {
  if (key.empty()) return nullptr;
  std::shared_ptr<SandboxRecord> record;
  if (const auto at = by_request_.find(key); at != by_request_.end()) {
    record = at->second;
  } else if (durable_) {
    const auto known = by_id_.find(key);
    const auto offered = offered_.find(key);
    if (known != by_id_.end()) {
      record = known->second;
    } else if (offered != offered_.end()) {
      record = offered->second.record;
    }
  }
  if (record && (record->owner_ != owner || record->fingerprint_ != fingerprint)) {
    throw ServiceError(ErrorCode::already_exists, reason::kInvalidRequest,
                       "this request id was used before, for a different sandbox", {{"sandbox_id", record->id()}});
  }
  return record;
}

// Later than the last one's, so that lists are in the order of creation.
std::chrono::system_clock::time_point Sandboxes::next_create_time() {
  using std::chrono::microseconds;
  auto now = std::chrono::floor<microseconds>(std::chrono::system_clock::now());
  if (now <= last_create_time_ && last_create_time_ - now < std::chrono::milliseconds(1))
    now = std::chrono::floor<microseconds>(last_create_time_) + microseconds(1);
  last_create_time_ = now;
  return now;
}

std::shared_ptr<SandboxRecord> Sandboxes::make(const std::shared_ptr<Owner>& owner, messages::Sandbox asked, const std::string& key,
                                               const std::optional<Digest>& fingerprint, runner::SandboxSpec& spec) {
  if (context_->stopping) throw shutting_down();
  spec = check_request(asked.spec, context_->options, *runner_);

  const std::string runner_name(runner_->name());
  const auto& wanted = asked.spec.runner_ids;
  if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), runner_name) == wanted.end()) {
    throw ServiceError(ErrorCode::failed_precondition, reason::kNoSuitableRunner,
                       "none of the runners asked for is here; this gateway has " + runner_name, {{"runner_id", runner_name}});
  }
  if (active_ + offered_.size() >= context_->options.max_sandboxes) {
    throw ServiceError(ErrorCode::resource_exhausted, reason::kCapacityExhausted,
                       "this gateway runs its maximum of " + std::to_string(context_->options.max_sandboxes) + " sandboxes")
        .with_retry(kLater);
  }

  BudgetShare share(budgets_of(owner), Budget::sandboxes);
  BudgetShare descriptors(budgets_of(owner), Budget::descriptors, kSandboxDescriptors);

  asked.sandbox_id = durable_ && !key.empty() ? key : kIdPrefix + base::random_hex(kIdBytes);
  asked.status.state = State::creating;
  asked.status.create_time = next_create_time();
  asked.status.runner_id = runner_name;
  asked.status.effective_runtime_class = asked.spec.runtime_class;
  asked.status.effective_max_lifetime_seconds = asked.spec.max_lifetime_seconds;
  if (const auto most = context_->options.max_lifetime.count(); most > 0) {
    auto& lifetime = asked.status.effective_max_lifetime_seconds;
    const auto bound = static_cast<std::int32_t>(std::min<std::int64_t>(most, std::numeric_limits<std::int32_t>::max()));
    lifetime = lifetime == 0 ? bound : std::min(lifetime, bound);
  }
  messages::ContainerStatus container_status;
  container_status.name = asked.spec.containers[0].name;
  container_status.state = State::creating;
  asked.status.container_statuses.push_back(container_status);

  spec.id = asked.sandbox_id;
  if (owner->budgets.several_owners()) spec.owner = owner->key;
  if (const auto lifetime = asked.status.effective_max_lifetime_seconds; lifetime > 0)
    spec.max_lifetime = std::chrono::seconds(lifetime);
  std::size_t bytes = 0;
  if (durable_) {
    KeptRecord kept;
    kept.owner = owner->key;
    kept.fingerprint = fingerprint;
    kept.view = asked;
    spec.record = to_text(kept);
    bytes = spec.record.size();
  } else {
    bytes = messages::to_json(asked).size();
  }
  if (const std::size_t most = durable_ ? kMaxKeptRecord : kMaxSandbox; bytes > most) {
    throw invalid_field("sandbox.spec", "takes " + std::to_string(bytes) + " bytes without its files, at most " +
                                            std::to_string(most) + " can be kept");
  }
  auto record = std::make_shared<SandboxRecord>(context_, *this, owner, std::move(asked), fingerprint);
  record->bytes_ = bytes;
  record->share_ = std::move(share);
  record->descriptors_ = std::move(descriptors);
  if (durable_) {
    Offered offered;
    offered.record = record;
    offered.text = spec.record;
    offered_.emplace(record->id(), std::move(offered));
  } else {
    if (!key.empty()) {
      record->request_key_ = key;
      by_request_.emplace(key, record);
    }
    insert(record);
  }
  return record;
}

void Sandboxes::insert(const std::shared_ptr<SandboxRecord>& record) {
  by_position_.emplace(record->position(), record);
  by_id_.emplace(record->id(), record);
  ++active_;
}

void Sandboxes::accepted(SandboxRecord& record) {
  const auto at = offered_.find(record.id());
  if (at == offered_.end() || at->second.record.get() != &record) return;
  insert(at->second.record);
  offered_.erase(at);
  record.arm_lifetime();
  record.changed_.notify();
}

void Sandboxes::refused(SandboxRecord& record) {
  const auto self = record.shared_from_this();
  offered_.erase(record.id());
  record.drop();
}

std::shared_ptr<SandboxRecord> Sandboxes::find(const std::shared_ptr<Owner>& owner, const std::string& id) const {
  const auto at = by_id_.find(id);
  return at == by_id_.end() || at->second->owner() != owner ? nullptr : at->second;
}

messages::Sandbox Sandboxes::get(const std::shared_ptr<Owner>& owner, const messages::GetSandboxRequest& request) {
  if (request.sandbox_id.empty()) throw invalid_field("sandboxId", "is required");
  const auto record = find(owner, request.sandbox_id);
  if (!record) throw sandbox_not_found(request.sandbox_id);
  return record->view();
}

messages::ListSandboxesResponse Sandboxes::list(const std::shared_ptr<Owner>& owner,
                                                const messages::ListSandboxesRequest& request) {
  if (request.page_size < 0) throw invalid_field("pageSize", "is negative");
  const std::int32_t page = request.page_size == 0 ? kDefaultPage : std::min(request.page_size, kMaxPage);

  // A page token is the last position shown and the filter that it belongs to.
  Fingerprint filter;
  filter.add(owner->key);
  filter.add(std::uint64_t{request.tags.size()});
  for (const auto& tag : request.tags) filter.add(tag);
  filter.add(static_cast<std::uint64_t>(request.state)).add(std::uint64_t{request.show_terminated ? 1u : 0u});
  for (const auto& id : request.runner_ids) filter.add(id);
  const Digest digest = filter.digest();
  const std::string mark = base::to_hex(std::span(digest).first(8));
  Position after;
  if (!request.page_token.empty()) {
    const std::string_view token = request.page_token;
    if (!token.starts_with(mark) || !parse_position(token.substr(mark.size()), after))
      throw invalid_field("pageToken", "not a token of this list, or of another filter");
  }

  const bool with_terminal = request.show_terminated || messages::is_terminal(request.state);
  const std::string runner_name(runner_->name());
  messages::ListSandboxesResponse response;
  if (!request.volume_ids.empty()) return response;  // no sandbox of this gateway has a volume
  const Position* last = nullptr;
  std::size_t bytes = 0;
  for (auto at = by_position_.upper_bound(after); at != by_position_.end(); ++at) {
    if (at->second->owner() != owner) continue;
    const messages::Sandbox& sandbox = at->second->view();
    if (!with_terminal && messages::is_terminal(sandbox.status.state)) continue;
    if (request.state != State::unspecified && sandbox.status.state != request.state) continue;
    if (!request.runner_ids.empty() &&
        std::find(request.runner_ids.begin(), request.runner_ids.end(), runner_name) == request.runner_ids.end())
      continue;
    const auto& tags = sandbox.spec.tags;
    const bool tagged = std::all_of(request.tags.begin(), request.tags.end(),
                                    [&tags](const std::string& t) { return std::find(tags.begin(), tags.end(), t) != tags.end(); });
    if (!tagged) continue;
    if (response.sandboxes.size() == static_cast<std::size_t>(page) || bytes >= kMaxPageBytes) {
      response.next_page_token = mark + to_text(*last);
      break;
    }
    response.sandboxes.push_back(sandbox);
    bytes += at->second->bytes_;
    last = &at->first;
  }
  return response;
}

messages::DeleteSandboxResponse Sandboxes::remove(const std::shared_ptr<Owner>& owner,
                                                  const messages::DeleteSandboxRequest& request) {
  if (request.sandbox_id.empty()) throw invalid_field("sandboxId", "is required");
  if (request.grace_period_seconds < 0) throw invalid_field("gracePeriodSeconds", "is negative");
  if (!request.snapshot_volumes.empty()) {
    throw ServiceError(ErrorCode::unimplemented, reason::kNotImplemented, "this gateway does not support snapshotVolumes",
                       {{"fields", "snapshotVolumes"}});
  }
  messages::DeleteSandboxResponse response;
  const auto record = find(owner, request.sandbox_id);
  if (!record) {
    if (!request.allow_missing) throw sandbox_not_found(request.sandbox_id);
    return response;
  }
  std::chrono::milliseconds grace = std::chrono::seconds(request.grace_period_seconds);
  if (request.grace_period_seconds == 0) grace = context_->options.default_grace;  // proto3 cannot tell 0 from unset
  record->stop(std::min(grace, context_->options.max_grace), "deleted", EndReason::sandbox_stopped);
  response.sandbox = record->view();
  return response;
}

void Sandboxes::on_ended(SandboxRecord& record) {
  if (active_ > 0) --active_;
  record.share_.reset();
  record.descriptors_.reset();
  ended_.push_back(record.shared_from_this());
  ended_bytes_ += record.bytes_;
  for (;;) {
    const bool too_many = ended_.size() > context_->options.max_remembered;
    if (!too_many && ended_bytes_ <= context_->options.max_remembered_bytes) break;
    forget_one(too_many);
  }
  trim_logs();
}

// Who has many that have ended, or large ones, does not drive out another's few.
void Sandboxes::forget_one(bool by_count) {
  std::map<const Owner*, std::size_t> held;
  for (const auto& record : ended_) held[record->owner().get()] += by_count ? 1 : record->bytes_;
  const auto most = std::max_element(held.begin(), held.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  const auto at =
      std::find_if(ended_.begin(), ended_.end(), [&most](const auto& record) { return record->owner().get() == most->first; });
  const auto oldest = *at;
  ended_.erase(at);
  ended_bytes_ -= oldest->bytes_;
  forget(*oldest);
}

void Sandboxes::forget(const SandboxRecord& record) {
  by_request_.erase(record.request_key_);
  by_id_.erase(record.id());
  by_position_.erase(record.position());
}

// Here, too, it is the oldest of the owner that has the most.
void Sandboxes::trim_logs() {
  struct Held {
    std::uint64_t bytes = 0, files = 0;
  };
  for (;;) {
    std::map<const Owner*, Held> held;
    Held all;
    for (const auto& record : ended_) {
      const LogStore& log = *record->logs();
      Held& of_owner = held[record->owner().get()];
      for (Held* sum : {&of_owner, &all}) {
        sum->bytes += log.held();
        if (log.has_file()) ++sum->files;
      }
    }
    const bool by_bytes = all.bytes > context_->options.ended_log_bytes;
    if (!by_bytes && all.files <= kMaxEndedLogFiles) return;
    const auto size = [by_bytes](const auto& entry) { return by_bytes ? entry.second.bytes : entry.second.files; };
    const auto most =
        std::max_element(held.begin(), held.end(), [&size](const auto& one, const auto& two) { return size(one) < size(two); });
    const auto oldest = std::find_if(ended_.begin(), ended_.end(), [&](const auto& record) {
      return record->owner().get() == most->first && (by_bytes ? record->logs()->held() > 0 : record->logs()->has_file());
    });
    (*oldest)->logs()->discard();
  }
}

bool Sandboxes::busy() const noexcept {
  return !offered_.empty() || std::any_of(by_id_.begin(), by_id_.end(), [](const auto& entry) {
    return !entry.second->terminal() && (entry.second->making_ || entry.second->stop_grace_);
  });
}

void Sandboxes::stop_all(std::chrono::milliseconds grace, const std::string& why) {
  std::vector<std::shared_ptr<SandboxRecord>> all;
  for (const auto& [position, record] : by_position_) all.push_back(record);
  for (const auto& record : all) record->stop(grace, why, EndReason::gateway_shutdown);
}

void Sandboxes::drop_all() noexcept {
  creations_->drop();
  for (const auto& [position, record] : by_position_) record->drop();
  for (const auto& [id, offered] : offered_) offered.record->drop();
  overdue_.cancel();
  by_id_.clear();
  by_request_.clear();
  offered_.clear();
  ended_.clear();
  ended_bytes_ = 0;
  by_position_.clear();
  active_ = 0;
  found_.notify();
}

}  // namespace cwsandbox::gateway
