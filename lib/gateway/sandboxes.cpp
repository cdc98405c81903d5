#include "gateway/sandboxes.hpp"

#include "gateway/process_run.hpp"
#include "gateway/resources.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>

#include <algorithm>
#include <charconv>
#include <limits>
#include <set>
#include <string_view>
#include <utility>

namespace cwsandbox::gateway {

using protocol::State;

namespace {

constexpr std::int32_t kDefaultPage = 100;
constexpr std::int32_t kMaxPage = 1000;
constexpr std::size_t kMaxTags = 256;
constexpr std::size_t kMaxPath = 4095;  // PATH_MAX without its NUL
// Each is a descriptor of this process; a process may have 1024 where nobody has said otherwise.
constexpr std::size_t kMaxEndedLogFiles = 128;

std::string quoted(const std::string& text) { return "\"" + printable(text, 128) + "\""; }

}  // namespace

void check_environment(const std::map<std::string, std::string>& env, const std::string& field,
                       std::vector<protocol::FieldViolation>& violations) {
  for (const auto& [name, value] : env) {
    protocol::FieldViolation v;
    v.field = field + "[" + quoted(name) + "]";
    if (name.empty()) {
      v.description = "the name of an environment variable is empty";
    } else if (name.find('=') != std::string::npos) {
      v.description = "the name of an environment variable may not hold '='";
    } else if (name.find('\0') != std::string::npos || value.find('\0') != std::string::npos) {
      v.description = "an environment variable may not hold a NUL byte";
    } else {
      continue;
    }
    violations.push_back(std::move(v));
  }
}

void check_command(const std::vector<std::string>& command, const std::string& field,
                   std::vector<protocol::FieldViolation>& violations) {
  protocol::FieldViolation v;
  if (command.empty()) {
    v.field = field;
    v.description = "the command is empty";
    violations.push_back(std::move(v));
    return;
  }
  if (command[0].empty()) {
    v.field = field + "[0]";
    v.description = "the program's name is empty";
    violations.push_back(v);
  }
  for (std::size_t i = 0; i < command.size(); ++i) {
    if (command[i].find('\0') == std::string::npos) continue;
    v.field = field + "[" + std::to_string(i) + "]";
    v.description = "an argument may not hold a NUL byte";
    violations.push_back(v);
  }
}

void check_directory(const std::string& directory, const std::string& field, std::vector<protocol::FieldViolation>& violations) {
  protocol::FieldViolation v;
  v.field = field;
  if (directory.empty()) return;
  if (directory.front() != '/') {
    v.description = "not an absolute path: " + quoted(directory);
  } else if (directory.find('\0') != std::string::npos) {
    v.description = "a path may not hold a NUL byte";
  } else {
    return;
  }
  violations.push_back(std::move(v));
}

namespace {

void check_files(const std::vector<protocol::FileMount>& files, std::size_t most, const std::string& field,
                 std::vector<protocol::FieldViolation>& violations) {
  std::set<std::string_view> seen;
  std::size_t bytes = 0;
  protocol::FieldViolation v;
  for (std::size_t i = 0; i < files.size(); ++i) {
    const std::string& path = files[i].path;
    bytes += files[i].content.size();
    v.field = field + "[" + std::to_string(i) + "].path";
    if (path.empty()) {
      v.description = "is required";
    } else if (path.front() != '/') {
      v.description = "not an absolute path: " + quoted(path);
    } else if (path.back() == '/') {
      v.description = "not the path of a file: " + quoted(path);
    } else if (path.find('\0') != std::string::npos) {
      v.description = "a path may not hold a NUL byte";
    } else if (path.size() > kMaxPath) {
      v.description = "longer than " + std::to_string(kMaxPath) + " bytes";
    } else if (!seen.insert(path).second) {
      v.description = "is given twice";
    } else {
      continue;
    }
    violations.push_back(v);
  }
  if (bytes > most) {
    v.field = field;
    v.description = std::to_string(bytes) + " bytes in all, at most " + std::to_string(most) + " are allowed";
    violations.push_back(v);
  }
}

}  // namespace

// ---- one sandbox ----

SandboxRecord::SandboxRecord(std::shared_ptr<Context> context, Sandboxes& all, std::shared_ptr<Owner> owner, std::uint64_t sequence,
                             protocol::Sandbox view)
    : context_(std::move(context)),
      all_(&all),
      owner_(std::move(owner)),
      sequence_(sequence),
      view_(std::move(view)),
      logs_(std::make_shared<LogStore>(context_->executor, context_->options.log_bytes, context_->options.log_directory)),
      changed_(context_->executor),
      lifetime_(context_->executor) {}

SandboxRecord::~SandboxRecord() = default;

asio::awaitable<std::shared_ptr<runner::Sandbox>> SandboxRecord::running(std::shared_ptr<SandboxRecord> self,
                                                                         std::chrono::steady_clock::time_point deadline) {
  while (self->state() == State::creating) {
    if (std::chrono::steady_clock::now() >= deadline) {
      throw ServiceError("unavailable", reason::kBackendUnavailable, "the sandbox " + self->id() + " is still being created",
                         {{"sandbox_id", self->id()}})
          .with_retry(std::chrono::seconds(1));
    }
    co_await self->changed_.wait_until(deadline);
  }
  if (self->state() != State::running || !self->sandbox_) {
    std::string text = "the sandbox " + self->id() + " is not running: " + std::string(protocol::to_string(self->state()));
    if (!self->view_.status.state_reason.empty()) text += " (" + self->view_.status.state_reason + ")";
    throw ServiceError("failed_precondition", reason::kSandboxNotRunning, text,
                       {{"sandbox_id", self->id()}, {"state", std::string(protocol::to_string(self->state()))}});
  }
  co_return self->sandbox_;
}

asio::awaitable<void> SandboxRecord::create(std::shared_ptr<SandboxRecord> self, std::shared_ptr<runner::Runner> runner,
                                            runner::SandboxSpec spec) {
  std::unique_ptr<runner::Sandbox> made;
  std::string failure;
  try {
    made = co_await runner->create(std::move(spec));
  } catch (const std::exception& e) {
    failure = e.what();
    if (failure.empty()) failure = "the sandbox could not be created";
  }
  if (self->context_->dropped || self->all_ == nullptr) co_return;  // `made` takes the sandbox with it
  if (!made) {
    self->end(self->stop_grace_ ? State::terminated : State::failed, failure);
    co_return;
  }
  self->began(std::move(made));
}

void SandboxRecord::began(std::unique_ptr<runner::Sandbox> sandbox) {
  sandbox_ = std::move(sandbox);
  view_.status.start_time = std::chrono::system_clock::now();
  std::weak_ptr<SandboxRecord> weak = weak_from_this();
  sandbox_->on_exit([weak](const runner::ExitInfo& info) {
    if (auto self = weak.lock()) self->main_exited(info);
  });
  if (terminal()) return;  // it ended while the handler was being set
  output_ = std::make_shared<MainOutput>(context_, logs_);
  output_->start(sandbox_->main_stdout(), sandbox_->main_stderr());
  if (stop_grace_) {  // deleted while it was being created: nobody can have used it
    asio::co_spawn(context_->executor, stop_runner(shared_from_this(), sandbox_, std::chrono::milliseconds(0)), asio::detached);
    return;
  }
  view_.status.state = State::running;
  for (auto& c : view_.status.container_statuses) c.state = State::running;
  context_->log(LogLevel::info, "sandbox " + id() + " running");
  arm_lifetime();
  changed_.notify();
}

void SandboxRecord::arm_lifetime() {
  if (view_.status.effective_max_lifetime_seconds <= 0) return;
  lifetime_.expires_after(std::chrono::seconds(view_.status.effective_max_lifetime_seconds));
  std::weak_ptr<SandboxRecord> weak = weak_from_this();
  lifetime_.async_wait([weak](error_code ec) {
    if (ec) return;
    if (auto self = weak.lock()) self->stop(self->context_->options.default_grace, "its maximum lifetime has passed");
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
  if (info.out_of_memory) how += " (it has used all the memory that it may have)";
  if (stop_grace_) return;  // TERMINATED follows when nothing is left of it
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
  view_.status.end_time = std::chrono::system_clock::now();
  if (view_.status.state_reason.empty()) view_.status.state_reason = why;
  for (auto& c : view_.status.container_statuses) {
    c.state = state;
    if (view_.status.exit_code) c.exit_code = *view_.status.exit_code;
  }
  lifetime_.cancel();
  std::string line = "sandbox " + id() + " " + std::string(protocol::to_string(state));
  if (!view_.status.state_reason.empty()) line += ": " + printable(view_.status.state_reason, 512);
  context_->log(state == State::failed ? LogLevel::warning : LogLevel::info, line);
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

void SandboxRecord::stop(std::chrono::milliseconds grace, const std::string& why) {
  if (terminal() || ending_) return;
  const bool first = !stop_grace_;
  if (!first && *stop_grace_ <= grace) return;
  stop_grace_ = grace;
  if (first) {
    view_.status.state = State::terminating;
    view_.status.state_reason = why;
    for (auto& c : view_.status.container_statuses) c.state = State::terminating;
    lifetime_.cancel();
    context_->log(LogLevel::info, "sandbox " + id() + " terminating: " + why);
    changed_.notify();
  }
  if (sandbox_) asio::co_spawn(context_->executor, stop_runner(shared_from_this(), sandbox_, grace), asio::detached);
}

asio::awaitable<void> SandboxRecord::stop_runner(std::shared_ptr<SandboxRecord> self, std::shared_ptr<runner::Sandbox> sandbox,
                                                 std::chrono::milliseconds grace) {
  std::string failure;
  try {
    co_await sandbox->stop(grace);
  } catch (const std::exception& e) {
    failure = e.what();
  }
  if (!failure.empty()) {
    self->context_->log(LogLevel::error, "sandbox " + self->id() + " did not stop cleanly: " + printable(failure, 512));
  }
  if (self->all_ != nullptr) self->end_when_read(State::terminated, "");
}

void SandboxRecord::drop() noexcept {
  all_ = nullptr;
  lifetime_.cancel();
  if (stop_grace_ && sandbox_) {
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

Sandboxes::Sandboxes(std::shared_ptr<Context> context, std::unique_ptr<runner::Runner> runner)
    : context_(std::move(context)), runner_(std::move(runner)) {}

Sandboxes::~Sandboxes() { drop_all(); }

protocol::Sandbox Sandboxes::create(const std::shared_ptr<Owner>& owner, const protocol::CreateSandboxRequest& request) {
  protocol::Sandbox asked;
  asked.spec = request.sandbox.spec;
  Digest fingerprint{};
  const std::string request_key = owner->key + "\n" + request.request_id;
  if (!request.request_id.empty()) {
    if (request.request_id.size() > 256) throw invalid_field("requestId", "longer than 256 bytes");
    protocol::CreateSandboxRequest body;
    body.sandbox = asked;
    fingerprint = Fingerprint().add(protocol::to_json(body)).digest();
    if (const auto made = by_request_.find(request_key); made != by_request_.end()) {
      if (made->second.fingerprint != fingerprint) {
        throw ServiceError("already_exists", reason::kInvalidRequest, "this request id was used before, for a different sandbox",
                           {{"sandbox_id", made->second.sandbox_id}});
      }
      return by_id_.at(made->second.sandbox_id)->view();
    }
  }
  if (context_->stopping) throw shutting_down();

  if (!asked.spec.unsupported.empty()) {
    std::string names;
    for (std::size_t i = 0; i < asked.spec.unsupported.size() && i < 16; ++i) {
      if (i > 0) names += ", ";
      names += printable(asked.spec.unsupported[i], 128);
    }
    throw ServiceError("unimplemented", reason::kNotImplemented, "this gateway does not support " + names, {{"fields", names}});
  }
  if (!asked.spec.runtime_class.empty()) {
    throw ServiceError("unimplemented", reason::kNotImplemented, "this gateway does not support sandbox.spec.runtimeClass",
                       {{"fields", "sandbox.spec.runtimeClass"}});
  }
  if (asked.spec.containers.size() > 1) {
    throw ServiceError("unimplemented", reason::kNotImplemented,
                       "this gateway runs one container in a sandbox (sandbox.spec.containers)",
                       {{"fields", "sandbox.spec.containers"}});
  }
  if (asked.spec.containers.empty()) asked.spec.containers.emplace_back();
  protocol::Container& container = asked.spec.containers[0];
  if (container.name.empty()) container.name = asked.spec.primary_container.empty() ? "main" : asked.spec.primary_container;

  std::vector<protocol::FieldViolation> violations;
  const auto violation = [&violations](const char* field, const char* text) {
    protocol::FieldViolation v;
    v.field = field;
    v.description = text;
    violations.push_back(std::move(v));
  };
  if (!asked.spec.primary_container.empty() && asked.spec.primary_container != container.name)
    violation("sandbox.spec.primaryContainer", "names no container of the sandbox");
  if (asked.spec.max_lifetime_seconds < 0) violation("sandbox.spec.maxLifetimeSeconds", "is negative");
  if (asked.spec.tags.size() > kMaxTags) violation("sandbox.spec.tags", "more than 256 tags");
  if (std::find(asked.spec.tags.begin(), asked.spec.tags.end(), "") != asked.spec.tags.end())
    violation("sandbox.spec.tags", "a tag is empty");
  std::vector<std::string> command;
  if (!container.command.empty()) command.push_back(container.command);
  if (container.command.empty() && !container.args.empty())
    violation("sandbox.spec.containers[0].command", "arguments without a command");
  command.insert(command.end(), container.args.begin(), container.args.end());
  if (command.empty()) command = context_->options.default_command;
  check_command(command, "sandbox.spec.containers[0].command", violations);
  check_environment(container.environment_variables, "sandbox.spec.containers[0].environmentVariables", violations);
  check_directory(container.working_dir, "sandbox.spec.containers[0].workingDir", violations);
  check_files(container.files, context_->options.max_initial_files, "sandbox.spec.containers[0].files", violations);
  const runner::ResourceSpec resources = check_resources(container, context_->options, "sandbox.spec.containers[0]", violations);
  if (!violations.empty()) throw invalid_fields(std::move(violations));

  const std::string runner_name(runner_->name());
  const auto& wanted = asked.spec.runner_ids;
  if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), runner_name) == wanted.end()) {
    throw ServiceError("failed_precondition", reason::kNoSuitableRunner,
                       "none of the runners asked for is here; this gateway has " + runner_name, {{"runner_id", runner_name}});
  }
  if (active_ >= context_->options.max_sandboxes) {
    throw ServiceError("resource_exhausted", reason::kCapacityExhausted,
                       "this gateway runs its maximum of " + std::to_string(context_->options.max_sandboxes) + " sandboxes")
        .with_retry(std::chrono::seconds(1));
  }

  asked.sandbox_id = "sb-" + random_hex(12);
  asked.status.state = State::creating;
  asked.status.create_time = std::chrono::system_clock::now();
  asked.status.runner_id = runner_name;
  asked.status.effective_max_lifetime_seconds = asked.spec.max_lifetime_seconds;
  if (const auto most = context_->options.max_lifetime.count(); most > 0) {
    auto& lifetime = asked.status.effective_max_lifetime_seconds;
    const auto bound = static_cast<std::int32_t>(std::min<std::int64_t>(most, std::numeric_limits<std::int32_t>::max()));
    lifetime = lifetime == 0 ? bound : std::min(lifetime, bound);
  }
  protocol::ContainerStatus container_status;
  container_status.name = container.name;
  container_status.state = State::creating;
  asked.status.container_statuses.push_back(container_status);

  runner::SandboxSpec spec;
  spec.id = asked.sandbox_id;
  spec.image = container.image;
  spec.command = std::move(command);
  spec.env = container.environment_variables;
  spec.working_dir = container.working_dir;
  spec.resources = resources;
  // Their content is not kept: an answer names the files only.
  for (protocol::FileMount& file : asked.spec.containers[0].files) {
    runner::InitialFile initial;
    initial.path = file.path;
    initial.content = std::exchange(file.content, {});
    spec.files.push_back(std::move(initial));
  }

  const std::uint64_t sequence = next_sequence_++;
  auto record = std::make_shared<SandboxRecord>(context_, *this, owner, sequence, std::move(asked));
  by_sequence_.emplace(sequence, record);
  by_id_.emplace(record->id(), record);
  if (!request.request_id.empty()) {
    Made made;
    made.sandbox_id = record->id();
    made.fingerprint = fingerprint;
    by_request_.emplace(request_key, std::move(made));
    request_of_.emplace(record->id(), request_key);
  }
  ++active_;
  protocol::Sandbox answer = record->view();
  asio::co_spawn(context_->executor, SandboxRecord::create(record, runner_, std::move(spec)), asio::detached);
  return answer;
}

std::shared_ptr<SandboxRecord> Sandboxes::find(const std::shared_ptr<Owner>& owner, const std::string& id) const {
  const auto at = by_id_.find(id);
  return at == by_id_.end() || at->second->owner() != owner ? nullptr : at->second;
}

protocol::Sandbox Sandboxes::get(const std::shared_ptr<Owner>& owner, const protocol::GetSandboxRequest& request) {
  if (request.sandbox_id.empty()) throw invalid_field("sandboxId", "is required");
  const auto record = find(owner, request.sandbox_id);
  if (!record) throw sandbox_not_found(request.sandbox_id);
  return record->view();
}

protocol::ListSandboxesResponse Sandboxes::list(const std::shared_ptr<Owner>& owner,
                                                const protocol::ListSandboxesRequest& request) {
  if (request.page_size < 0) throw invalid_field("pageSize", "is negative");
  const std::int32_t page = request.page_size == 0 ? kDefaultPage : std::min(request.page_size, kMaxPage);

  // A page token is the last sequence number shown and the filter that it belongs to.
  Fingerprint filter;
  filter.add(owner->key);
  filter.add(std::uint64_t{request.tags.size()});
  for (const auto& tag : request.tags) filter.add(tag);
  filter.add(static_cast<std::uint64_t>(request.state)).add(std::uint64_t{request.show_terminated ? 1u : 0u});
  for (const auto& id : request.runner_ids) filter.add(id);
  const Digest digest = filter.digest();
  const std::string mark = to_hex(std::string_view(reinterpret_cast<const char*>(digest.data()), 8));
  std::uint64_t after = 0;
  if (!request.page_token.empty()) {
    const std::string& token = request.page_token;
    const char* end = token.data() + token.size();
    const bool shaped = token.size() > mark.size() && token.size() <= mark.size() + 16 && token.compare(0, mark.size(), mark) == 0;
    const auto parsed = shaped ? std::from_chars(token.data() + mark.size(), end, after, 16) : std::from_chars_result{};
    if (!shaped || parsed.ec != std::errc() || parsed.ptr != end)
      throw invalid_field("pageToken", "not a token of this list, or of another filter");
  }

  const bool with_terminal = request.show_terminated || protocol::is_terminal(request.state);
  const std::string runner_name(runner_->name());
  protocol::ListSandboxesResponse response;
  if (!request.volume_ids.empty()) return response;  // no sandbox of this gateway has a volume
  std::uint64_t last = 0;
  for (auto at = by_sequence_.upper_bound(after); at != by_sequence_.end(); ++at) {
    if (at->second->owner() != owner) continue;
    const protocol::Sandbox& sandbox = at->second->view();
    if (!with_terminal && protocol::is_terminal(sandbox.status.state)) continue;
    if (request.state != State::unspecified && sandbox.status.state != request.state) continue;
    if (!request.runner_ids.empty() &&
        std::find(request.runner_ids.begin(), request.runner_ids.end(), runner_name) == request.runner_ids.end())
      continue;
    const auto& tags = sandbox.spec.tags;
    const bool tagged = std::all_of(request.tags.begin(), request.tags.end(),
                                    [&tags](const std::string& t) { return std::find(tags.begin(), tags.end(), t) != tags.end(); });
    if (!tagged) continue;
    if (response.sandboxes.size() == static_cast<std::size_t>(page)) {
      char text[17] = {};
      const auto written = std::to_chars(text, text + 16, last, 16);
      response.next_page_token = mark + std::string(text, written.ptr);
      break;
    }
    response.sandboxes.push_back(sandbox);
    last = at->first;
  }
  return response;
}

protocol::DeleteSandboxResponse Sandboxes::remove(const std::shared_ptr<Owner>& owner,
                                                  const protocol::DeleteSandboxRequest& request) {
  if (request.sandbox_id.empty()) throw invalid_field("sandboxId", "is required");
  if (request.grace_period_seconds < 0) throw invalid_field("gracePeriodSeconds", "is negative");
  if (!request.snapshot_volumes.empty()) {
    throw ServiceError("unimplemented", reason::kNotImplemented, "this gateway does not support snapshotVolumes",
                       {{"fields", "snapshotVolumes"}});
  }
  protocol::DeleteSandboxResponse response;
  const auto record = find(owner, request.sandbox_id);
  if (!record) {
    if (!request.allow_missing) throw sandbox_not_found(request.sandbox_id);
    return response;
  }
  std::chrono::milliseconds grace = std::chrono::seconds(request.grace_period_seconds);
  if (request.grace_period_seconds == 0) grace = context_->options.default_grace;  // proto3 cannot tell 0 from unset
  record->stop(std::min(grace, context_->options.max_grace), "deleted");
  response.sandbox = record->view();
  return response;
}

void Sandboxes::on_ended(SandboxRecord& record) {
  if (active_ > 0) --active_;
  ended_.push_back(record.sequence());
  while (ended_.size() > context_->options.max_remembered) {
    const auto at = by_sequence_.find(ended_.front());
    ended_.pop_front();
    if (at == by_sequence_.end()) continue;
    const std::string id = at->second->id();
    if (const auto request = request_of_.find(id); request != request_of_.end()) {
      by_request_.erase(request->second);
      request_of_.erase(request);
    }
    by_id_.erase(id);
    by_sequence_.erase(at);
  }
  trim_logs();
}

// From the newest to the oldest: what no longer fits is given up.
void Sandboxes::trim_logs() {
  std::uint64_t bytes = 0;
  std::size_t files = 0;
  for (auto sequence = ended_.rbegin(); sequence != ended_.rend(); ++sequence) {
    LogStore& log = *by_sequence_.at(*sequence)->logs();
    if (log.held() == 0) continue;
    bytes += log.held();
    if (log.has_file()) ++files;
    if (bytes <= context_->options.ended_log_bytes && files <= kMaxEndedLogFiles) continue;
    bytes -= log.held();
    if (log.has_file()) --files;
    log.discard();
  }
}

void Sandboxes::stop_all(std::chrono::milliseconds grace, const std::string& why) {
  std::vector<std::shared_ptr<SandboxRecord>> all;
  for (const auto& [sequence, record] : by_sequence_) all.push_back(record);
  for (const auto& record : all) record->stop(grace, why);
}

void Sandboxes::drop_all() noexcept {
  for (const auto& [sequence, record] : by_sequence_) record->drop();
  by_id_.clear();
  by_request_.clear();
  request_of_.clear();
  ended_.clear();
  by_sequence_.clear();
  active_ = 0;
}

}  // namespace cwsandbox::gateway
