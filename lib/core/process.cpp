#include <cwsandbox/process.hpp>

#include "core/output_buffer.hpp"
#include "core/process_status.hpp"

#include <charconv>
#include <ostream>
#include <stdexcept>

namespace cwsandbox {

std::string_view to_string(Outcome outcome) noexcept {
  switch (outcome) {
    case Outcome::exited:
      return "exited";
    case Outcome::signaled:
      return "signaled";
    case Outcome::timed_out:
      return "timed_out";
    case Outcome::cancelled:
      return "cancelled";
    case Outcome::failed:
      return "failed";
    case Outcome::lost:
      return "lost";
  }
  return "unknown";
}

std::string_view to_string(EndReason reason) noexcept {
  switch (reason) {
    case EndReason::none:
      return "none";
    case EndReason::timeout:
      return "timeout";
    case EndReason::sandbox_stopped:
      return "sandbox_stopped";
    case EndReason::lifetime:
      return "lifetime";
    case EndReason::out_of_memory:
      return "out_of_memory";
    case EndReason::main_ended:
      return "main_ended";
    case EndReason::gateway_shutdown:
      return "gateway_shutdown";
    case EndReason::other:
      return "other";
  }
  return "unknown";
}

std::string_view to_string(ProcessStatus status) noexcept {
  switch (status) {
    case ProcessStatus::starting:
      return "starting";
    case ProcessStatus::running:
      return "running";
    case ProcessStatus::exited:
      return "exited";
    case ProcessStatus::signaled:
      return "signaled";
    case ProcessStatus::timed_out:
      return "timed_out";
    case ProcessStatus::cancelled:
      return "cancelled";
    case ProcessStatus::failed:
      return "failed";
    case ProcessStatus::lost:
      return "lost";
  }
  return "unknown";
}

namespace core {

ProcessStatus status_of(Outcome outcome) noexcept {
  switch (outcome) {
    case Outcome::exited:
      return ProcessStatus::exited;
    case Outcome::signaled:
      return ProcessStatus::signaled;
    case Outcome::timed_out:
      return ProcessStatus::timed_out;
    case Outcome::cancelled:
      return ProcessStatus::cancelled;
    case Outcome::failed:
      return ProcessStatus::failed;
    case Outcome::lost:
      return ProcessStatus::lost;
  }
  return ProcessStatus::lost;
}

}  // namespace core

namespace detail {
namespace {
template <typename Number>
std::string shortest(Number number) {
  char text[64];  // a long double takes less than half of it
  return std::string(text, std::to_chars(text, text + sizeof text, number).ptr);
}
}  // namespace
std::string number_text(float number) { return shortest(number); }
std::string number_text(double number) { return shortest(number); }
}  // namespace detail

Output::Output() = default;
Output::Output(std::string_view text) {
  auto storage = std::make_shared<detail::OutputStorage>();
  storage->append(text);
  storage->head_size = text.size();
  storage->received = storage->produced = text.size();
  storage_ = std::move(storage);
}
Output::Output(std::shared_ptr<const detail::OutputStorage> storage) noexcept : storage_(std::move(storage)) {}
std::string_view Output::view() const noexcept { return storage_ ? storage_->view() : std::string_view(); }
std::string_view Output::head() const noexcept { return storage_ ? view().substr(0, storage_->head_size) : std::string_view(); }
std::string_view Output::tail() const noexcept { return storage_ ? view().substr(storage_->head_size) : std::string_view(); }
std::uint64_t Output::dropped() const noexcept { return received() - view().size(); }
std::uint64_t Output::received() const noexcept { return storage_ ? storage_->received : 0; }
std::uint64_t Output::produced() const noexcept { return storage_ ? storage_->produced : 0; }
std::ostream& operator<<(std::ostream& out, const Output& output) { return out << output.view(); }

std::ostream& operator<<(std::ostream& out, Outcome outcome) { return out << to_string(outcome); }
std::ostream& operator<<(std::ostream& out, EndReason reason) { return out << to_string(reason); }
std::ostream& operator<<(std::ostream& out, ProcessStatus status) { return out << to_string(status); }

std::string ProcessResult::summary() const {
  std::string text(to_string(outcome));
  // The code of a death by signal is 128 + n by convention only: the signal says it.
  if (signal)
    text += (outcome == Outcome::signaled ? " by " : ", signal ") + std::to_string(*signal);
  else if (returncode)
    text += ", exit code " + std::to_string(*returncode);
  else
    text += ", no exit code";
  if (reason != EndReason::none) text.append(" (").append(to_string(reason)).append(")");
  return text;
}
std::ostream& operator<<(std::ostream& out, const ProcessResult& result) { return out << result.summary(); }

namespace {

/// Runs the stats callback between the end of `inner` and the moment when anybody sees it.
task<ProcessResult> with_stats(task<ProcessResult> inner, StatsCallback callback) {
  if (!inner.valid()) throw std::invalid_argument("cwsandbox: a Process of an empty task");
  if (!callback) return inner;
  auto outer = std::make_shared<detail::TaskState<ProcessResult>>(inner.state()->loop());
  auto state = inner.state();
  outer->set_cancel_hook([state] { return state->cancel(); });
  // Not owned by the hook: somebody waits for the outer task, so the inner one's wait hook is due.
  state->add_continuation([outer, weak = std::weak_ptr(state), callback = std::move(callback)] {
    auto ended = weak.lock();
    if (!ended || !outer->claim()) return;
    const auto error = ended->error();
    std::optional<ProcessResult> result;
    if (!error) result = ended->value();
    const auto* const shown = error ? nullptr : &ended->value();
    outer->store_announced(std::move(result), error, [&] { callback(shown, error); });
  });
  return task<ProcessResult>(std::move(outer), inner.guard());
}

const std::string no_id;

}  // namespace

Process::Process(task<ProcessResult> result, std::vector<std::string> command, StreamReader<std::string> std_out,
                 StreamReader<std::string> std_err, std::optional<StreamWriter> std_in, cwsandbox::StatsCallback stats_callback)
    : task(with_stats(std::move(result), std::move(stats_callback))),
      command_(std::make_shared<const std::vector<std::string>>(std::move(command))),
      std_out_(std::move(std_out)),
      std_err_(std::move(std_err)),
      std_in_(std::move(std_in)) {
  if (!std_out_.valid() || !std_err_.valid()) throw std::invalid_argument("cwsandbox: a Process with an empty reader");
  // Every ending of the process fails the writer (SW-12).
  if (std_in_)
    state()->add_continuation(
        [writer = *std_in_] { writer.set_exception(std::make_exception_ptr(SandboxExecutionError("Process has exited"))); });
}

Process::Process(task<ProcessResult> result, std::vector<std::string> command, StreamReader<std::string> std_out,
                 StreamReader<std::string> std_err, std::optional<StreamWriter> std_in,
                 std::shared_ptr<detail::ProcessControl> control)
    : task(std::move(result)),
      command_(std::make_shared<const std::vector<std::string>>(std::move(command))),
      std_out_(std::move(std_out)),
      std_err_(std::move(std_err)),
      std_in_(std::move(std_in)),
      control_(std::move(control)) {}

namespace {

/// The result that a completed process holds, also inside its error; null while it runs or when there is none.
std::shared_ptr<const ProcessResult> final_result(const detail::TaskState<ProcessResult>& state) {
  if (!state.done()) return nullptr;
  try {
    return std::make_shared<const ProcessResult>(state.value());
  } catch (const CWSandboxError& error) {
    return error.fields().result;
  } catch (const CancelledError& error) {
    return error.result() ? std::make_shared<const ProcessResult>(*error.result()) : nullptr;
  } catch (...) {
    return nullptr;
  }
}

void check_not_empty(const Process& process) {
  if (!process.valid()) throw std::invalid_argument("cwsandbox: an empty Process");
}

}  // namespace

const std::vector<std::string>& Process::command() const noexcept {
  static const std::vector<std::string> nothing;
  if (const auto* told = control_ ? control_->told_command() : nullptr) return *told;
  return command_ ? *command_ : nothing;
}

std::optional<int> Process::returncode() const {
  if (!valid()) return std::nullopt;
  const auto result = final_result(*state());
  return result ? result->returncode : std::nullopt;
}

std::optional<int> Process::poll() const {
  check_not_empty(*this);
  if (!done()) return std::nullopt;
  if (const auto known = returncode()) return known;
  return code_of(result());
}

int Process::code_of(const ProcessResult& result) {
  if (result.returncode) return *result.returncode;
  throw SandboxExecutionError("The process ended without an exit status (outcome: " + std::string(to_string(result.outcome)) + ")");
}

int Process::wait() const { return code_of(result()); }

ProcessStatus Process::status() const {
  check_not_empty(*this);
  if (control_) return control_->status();
  if (!done()) return ProcessStatus::running;
  if (const auto result = final_result(*state())) return core::status_of(result->outcome);
  try {
    std::rethrow_exception(error());
  } catch (const CancelledError&) {
    return ProcessStatus::cancelled;
  } catch (...) {
    return ProcessStatus::failed;
  }
}

void Process::signal(std::string_view name) const {
  check_not_empty(*this);
  if (!control_) throw SandboxExecutionError("Cannot signal: this Process was made from a plain task");
  control_->signal(name);
}

task<std::uint64_t> Process::pid() const {
  check_not_empty(*this);
  if (control_) return task<std::uint64_t>(control_->pid().state(), guard());
  task_source<std::uint64_t> source;
  source.set_exception(std::make_exception_ptr(SandboxExecutionError("No pid: this Process was made from a plain task")));
  return source.get_task();
}

const std::string& Process::id() const noexcept { return control_ ? control_->id() : no_id; }

void Process::detach(Detach how) const {
  check_not_empty(*this);
  if (control_) control_->detach(how);
}

}  // namespace cwsandbox
