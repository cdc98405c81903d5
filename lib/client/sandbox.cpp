#include <cwsandbox/sandbox.hpp>

#include "client/sandbox_calls.hpp"
#include "client/sandbox_request.hpp"
#include "client/sandbox_state.hpp"
#include "core/spawn.hpp"

#include <ostream>

namespace cwsandbox {

std::string_view to_string(SandboxStatus status) noexcept {
  switch (status) {
    case SandboxStatus::unspecified:
      return "unspecified";
    case SandboxStatus::pending:
      return "pending";
    case SandboxStatus::creating:
      return "creating";
    case SandboxStatus::running:
      return "running";
    case SandboxStatus::paused:
      return "paused";
    case SandboxStatus::terminating:
      return "terminating";
    case SandboxStatus::completed:
      return "completed";
    case SandboxStatus::failed:
      return "failed";
    case SandboxStatus::terminated:
      return "terminated";
  }
  return "unspecified";
}

std::ostream& operator<<(std::ostream& out, SandboxStatus status) { return out << to_string(status); }

using detail::SandboxState;

namespace {
const std::shared_ptr<SandboxState>& checked(const std::shared_ptr<SandboxState>& state) {
  if (!state) throw std::invalid_argument("cwsandbox: an empty Sandbox");
  return state;
}
}  // namespace

Sandbox Sandbox::run(SandboxOptions options) { return run(Client(), std::move(options)); }

Sandbox Sandbox::run(const Client& client, SandboxOptions options) {
  auto state = std::make_shared<SandboxState>(client.core(), client::make_create_request(options, client.core()->settings()));
  state->describe(options);
  client::add_exit_hook(client.loop(), state);
  static_cast<void>(state->start());
  return Sandbox(std::move(state));
}

task<Sandbox> Sandbox::from_id(const Client& client, std::string sandbox_id) {
  if (sandbox_id.empty()) throw std::invalid_argument("cwsandbox: the sandbox id is empty");
  const auto& core = client.core();
  return core::spawn_task<Sandbox>(core->loop(), core->loop().make_strand(), client::find_sandbox(core, std::move(sandbox_id)));
}

task<std::vector<Sandbox>> Sandbox::list(const Client& client, ListOptions options) {
  const auto& core = client.core();
  return core::spawn_task<std::vector<Sandbox>>(core->loop(), core->loop().make_strand(),
                                                client::find_sandboxes(core, std::move(options)));
}

task<void> Sandbox::remove(const Client& client, std::string sandbox_id, bool missing_ok) {
  if (sandbox_id.empty()) throw std::invalid_argument("cwsandbox: the sandbox id is empty");
  const auto& core = client.core();
  return core::spawn_task<void>(core->loop(), core->loop().make_strand(),
                                client::remove_sandbox(core, std::move(sandbox_id), missing_ok));
}

Process Sandbox::exec(std::vector<std::string> command, ExecOptions options) const {
  return checked(state_)->exec(std::move(command), std::move(options));
}
Process Sandbox::sh(std::string script, ExecOptions options) const {
  return exec({"sh", "-c", std::move(script)}, std::move(options));
}
task<Output> Sandbox::check_output(std::vector<std::string> command, ExecOptions options) const {
  const Process process = exec(std::move(command), std::move(options.with_check()));
  auto output = std::make_shared<detail::TaskState<Output>>(process.state()->loop());
  // The hook has the process, and goes with the task: a process whose output nobody can get any more is not kept.
  output->set_cancel_hook([process] { return process.cancel(); });
  process.state()->note_wait();
  process.state()->add_continuation([weak = std::weak_ptr(output), ended = process.state().get()] {
    const auto waiting = weak.lock();
    if (!waiting || !waiting->claim()) return;
    if (auto error = ended->error())
      waiting->publish(std::move(error));
    else
      waiting->store(ended->value().std_out);
  });
  return task<Output>(std::move(output));
}
TerminalSession Sandbox::shell(ShellOptions options) const { return checked(state_)->shell(options); }
Process Sandbox::attach(std::string process_id, AttachOptions options) const {
  return checked(state_)->attach(std::move(process_id), options);
}
TerminalSession Sandbox::attach_terminal(std::string session_id, AttachOptions options) const {
  return checked(state_)->attach_terminal(std::move(session_id), options);
}
task<void> Sandbox::start() const { return checked(state_)->start(); }
task<void> Sandbox::wait() const { return checked(state_)->wait(); }
task<void> Sandbox::stop(StopOptions options) const { return checked(state_)->stop(options); }
task<SandboxStatus> Sandbox::wait_until_complete(WaitOptions options) const {
  return checked(state_)->wait_until_complete(options);
}
task<SandboxStatus> Sandbox::get_status() const { return checked(state_)->get_status(); }
std::optional<std::string> Sandbox::sandbox_id() const { return checked(state_)->get(&SandboxState::id_); }
SandboxStatus Sandbox::status() const { return checked(state_)->get(&SandboxState::status_); }
std::chrono::system_clock::time_point Sandbox::status_updated_at() const {
  return checked(state_)->get(&SandboxState::status_updated_);
}
std::string Sandbox::status_reason() const { return checked(state_)->get(&SandboxState::reason_); }
std::string Sandbox::image() const { return checked(state_)->get(&SandboxState::image_); }
std::vector<std::string> Sandbox::command() const { return checked(state_)->get(&SandboxState::command_); }
std::vector<std::string> Sandbox::tags() const { return checked(state_)->get(&SandboxState::tags_); }
std::string Sandbox::runner_id() const { return checked(state_)->get(&SandboxState::runner_id_); }
std::string Sandbox::runner_group_id() const { return checked(state_)->get(&SandboxState::runner_group_id_); }
std::chrono::system_clock::time_point Sandbox::created_at() const { return checked(state_)->get(&SandboxState::created_); }
std::chrono::system_clock::time_point Sandbox::started_at() const { return checked(state_)->get(&SandboxState::started_at_); }
std::chrono::system_clock::time_point Sandbox::ended_at() const { return checked(state_)->get(&SandboxState::ended_at_); }
std::optional<int> Sandbox::returncode() const { return checked(state_)->get(&SandboxState::returncode_); }
void Sandbox::release() const { checked(state_)->set_owned(false); }

ExecStats Sandbox::exec_stats() const {
  const auto counts = checked(state_)->counters_->snapshot();
  ExecStats stats;
  stats.exec_count = counts.exec_count;
  stats.completed_ok = counts.completed_ok;
  stats.completed_nonzero = counts.completed_nonzero;
  stats.failures = counts.failures;
  return stats;
}

}  // namespace cwsandbox
