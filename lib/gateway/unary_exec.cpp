#include "gateway/unary_exec.hpp"

#include "base/random.hpp"
#include "gateway/errors.hpp"
#include "gateway/process_run.hpp"
#include "gateway/sandbox_request.hpp"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

namespace cwsandbox::gateway {

namespace {

// A command whose caller gave up is not waited for: its group gets this long to end by itself.
constexpr std::chrono::seconds kGraceAfterDeadline{2};
// What a command leaves in the background must not keep its caller, who has no word for how long.
constexpr std::chrono::seconds kDrain{1};

/// A process whose output is collected, up to a bound, for one answer.
class CollectedRun final : public ProcessRun {
 public:
  CollectedRun(std::shared_ptr<Context> context, std::shared_ptr<SandboxRecord> sandbox, const std::string& program, Limits limits,
               std::size_t max_bytes)
      : ProcessRun(context, std::move(sandbox), "exec-" + base::random_hex(6), program, limits),
        ended_(context->executor),
        memory_(std::in_place, std::shared_ptr<net::MemoryPool>(this->sandbox()->owner(), &this->sandbox()->owner()->memory)),
        max_bytes_(max_bytes) {}

  [[nodiscard]] static asio::awaitable<void> done(std::shared_ptr<CollectedRun> self,
                                                  std::chrono::steady_clock::time_point deadline) {
    while (!self->status_ && !self->error_ && !self->no_memory_ && std::chrono::steady_clock::now() < deadline)
      co_await self->ended_.wait_until(deadline);
  }

  std::optional<protocol::ExitStatus> status_;
  std::optional<protocol::ConnectError> error_;
  std::array<std::string, 2> kept_;
  std::array<std::uint64_t, 2> produced_{};
  bool no_memory_ = false;  ///< its owner's part is used up

 protected:
  std::size_t room(Output) override { return BufferPool::kSize; }
  void on_started(std::uint64_t) override {}
  void on_output(Output output, std::string chunk) override {
    const auto i = static_cast<std::size_t>(output);
    produced_[i] += chunk.size();
    const std::size_t more = std::min(chunk.size(), max_bytes_ - kept_[i].size());
    if (more == 0 || no_memory_) return;
    if (!memory_->grow_to(kept_[0].size() + kept_[1].size() + more)) {
      // Nobody gets any of it, and the command may take its time to end.
      no_memory_ = true;
      kept_ = {};
      memory_.reset();
      ended_.notify();
      return;
    }
    kept_[i].append(chunk, 0, more);
  }
  void on_output_end(Output, bool) override {}
  void on_stdin_consumed(std::size_t, std::uint64_t) override {}
  void on_stdin_closed(std::uint64_t) override {}
  void on_refused(const protocol::ConnectError& error) override {
    error_ = error;
    ended_.notify();
  }
  void on_finished(const protocol::ExitStatus& status) override {
    status_ = status;
    ended_.notify();
  }

 private:
  runner::TimedWaiters ended_;
  std::optional<net::MemoryShare> memory_;  // until there is no more
  std::size_t max_bytes_;
};

}  // namespace

asio::awaitable<messages::ExecResponse> exec_unary(std::shared_ptr<Context> context, std::shared_ptr<OwnSandboxes> sandboxes,
                                                   messages::ExecRequest request,
                                                   std::optional<std::chrono::milliseconds> timeout) {
  if (context->stopping) throw shutting_down();
  if (request.sandbox_id.empty()) throw invalid_field("sandboxId", "is required");
  Violations violations;
  check_command(request.command, "command", violations);
  check_environment(request.env, "env", violations);
  if (!violations.empty()) throw invalid_fields(violations);
  if (request.max_output_bytes < 0) throw invalid_field("maxOutputBytes", "is negative");
  std::shared_ptr<SandboxRecord> sandbox = sandboxes->find(request.sandbox_id);
  if (!sandbox) throw sandbox_not_found(request.sandbox_id);
  if (!request.container.empty() && request.container != sandbox->view().spec.containers[0].name)
    throw invalid_field("container", "the sandbox has no container of this name");
  std::size_t bytes = context->options.default_output_bytes;
  if (request.max_output_bytes > 0) bytes = static_cast<std::size_t>(request.max_output_bytes);
  bytes = std::min(bytes, context->options.max_output_bytes);

  const auto deadline = std::chrono::steady_clock::now() + timeout.value_or(context->options.unary_timeout);
  ProcessRun::Limits limits;
  limits.grace = context->options.default_grace;
  limits.drain = kDrain;
  auto run = std::make_shared<CollectedRun>(context, sandbox, request.command.front(), limits, bytes);
  // However this call ends, also by being destroyed with its connection: the command does not outlive it for long.
  struct Guard {
    std::shared_ptr<CollectedRun> run;
    std::shared_ptr<Context> context;
    ~Guard() {
      if (!run->finished() && !context->dropped) run->cancel(kGraceAfterDeadline);
    }
  };
  Guard guard{run, context};
  runner::ProcessSpec spec;
  spec.command = std::move(request.command);
  spec.env = std::move(request.env);
  run->start(std::move(spec));
  co_await CollectedRun::done(run, deadline);

  if (run->error_) throw ServiceError(*run->error_);
  if (run->no_memory_) {
    throw sandbox->owner()->budgets.exhausted(
        Budget::memory, {{"sandbox_id", sandbox->id()}},
        "there is no memory left for the output of this command, with what else is held for you here; it was killed");
  }
  if (!run->status_) {
    if (context->dropped) throw shutting_down();
    throw ServiceError(ErrorCode::deadline_exceeded, reason::kCommandTimeout, "the command did not end in time and was killed",
                       {{"sandbox_id", sandbox->id()}});
  }
  const protocol::ExitStatus& status = *run->status_;
  if (status.outcome == protocol::ExitStatus::Outcome::failed) {
    throw ServiceError(ErrorCode::failed_precondition, reason::kCommandNotStarted, status.message,
                       {{"errno", status.error_name}, {"what", status.error_what}});
  }
  if (!status.code && !status.signal) {
    throw ServiceError(ErrorCode::unavailable, reason::kBackendUnavailable,
                       "the sandbox ended, and nobody knows how the command did", {{"sandbox_id", sandbox->id()}});
  }
  messages::ExecResponse response;
  response.exit_code = status.code ? *status.code : 128 + *status.signal;
  response.stdout_bytes_produced = static_cast<std::int64_t>(run->produced_[0]);
  response.stderr_bytes_produced = static_cast<std::int64_t>(run->produced_[1]);
  response.stdout_truncated = run->produced_[0] > run->kept_[0].size();
  response.stderr_truncated = run->produced_[1] > run->kept_[1].size();
  response.std_out = std::move(run->kept_[0]);
  response.std_err = std::move(run->kept_[1]);
  co_return response;
}

}  // namespace cwsandbox::gateway
