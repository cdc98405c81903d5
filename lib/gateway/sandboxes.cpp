#include "gateway/sandboxes.hpp"

#include "base/hex.hpp"
#include "base/numbers.hpp"
#include "base/random.hpp"
#include "gateway/errors.hpp"
#include "gateway/kept_record.hpp"
#include "gateway/sandbox_request.hpp"
#include "messages/json.hpp"
#include "messages/protobuf.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace cwsandbox::gateway {

using messages::State;

namespace {

constexpr std::int32_t kDefaultPage = 100;
constexpr std::int32_t kMaxPage = 1000;
// A page has no more, but for one sandbox: an answer is built at once.
constexpr std::size_t kMaxPageBytes = 1024 * 1024;
// Each is a descriptor of this process; a process may have 1024 where nobody has said otherwise.
constexpr std::size_t kMaxEndedLogFiles = 128;

constexpr std::chrono::seconds kCreateLater{1};  // when to try again

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
          .with_retry(kCreateLater);
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
        .with_retry(kCreateLater);
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
