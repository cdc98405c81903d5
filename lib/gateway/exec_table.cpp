#include "gateway/exec_table.hpp"

#include "base/text.hpp"
#include "gateway/errors.hpp"
#include "gateway/fingerprint.hpp"
#include "gateway/stream_host.hpp"

#include <algorithm>
#include <chrono>

namespace cwsandbox::gateway {

using protocol::CloseCode;

namespace {

// Ids are their owner's: what others call theirs is nobody's business.
std::string table_key(const Owner& owner, const std::string& id) { return owner.key + "\n" + id; }

Digest fingerprint_of(const protocol::StartRequest& request) {
  Fingerprint f;
  f.add(request.sandbox_id).add(std::uint64_t{request.command.size()});
  for (const auto& argument : request.command) f.add(argument);
  f.add(std::uint64_t{request.env.size()});
  for (const auto& [name, value] : request.env) f.add(name).add(value);
  f.add(request.cwd).add(std::uint64_t{request.use_stdin}).add(std::uint64_t{request.tty});
  f.add(request.timeout_ms).add(request.grace_ms).add(request.drain_ms);
  return f.digest();
}

}  // namespace

void UsedIds::insert(const std::string& id, std::size_t most) {
  if (!ids_.insert(id).second) return;
  order_.push_back(id);
  if (order_.size() <= most) return;
  ids_.erase(order_.front());
  order_.pop_front();
}

ExecTable::~ExecTable() { drop_all(); }

void ExecTable::accept(std::shared_ptr<const Credential> credential, std::unique_ptr<net::WebSocket> socket) {
  auto connection = std::make_shared<ExecConnection>(context_, *this, std::move(credential), std::move(socket));
  connections_.emplace(connection.get(), connection);
  connection->start();
}

void ExecTable::refuse(const std::shared_ptr<ExecConnection>& connection, const protocol::StartRequest& request,
                       const protocol::StatusError& error) {
  context_->log(LogLevel::info, "process " + base::escaped(request.id, 64) + " refused: " +
                                    std::string(base::to_string(error.code)) + ": " + base::escaped(error.message, 256));
  connection->set_host(std::make_shared<Refusal>(request, error));
}

void ExecTable::on_start(const std::shared_ptr<ExecConnection>& connection, const protocol::StartRequest& request) {
  try {
    if (const auto fault = protocol::validate(request)) {
      refuse(connection, request, *fault);
      return;
    }
    const std::shared_ptr<Owner>& owner = connection->credential().owner;
    const std::string key = table_key(*owner, request.id);
    if (const auto known = processes_.find(key); known != processes_.end()) {
      if (known->second->fingerprint_ != fingerprint_of(request)) {
        throw ServiceError(ErrorCode::already_exists, reason::kInvalidRequest, "this process id is in use, for a different request",
                           {{"id", request.id}});
      }
      ExecProcess::Attach how;
      how.request.stdout_limit = request.stdout_limit;
      how.request.stderr_limit = request.stderr_limit;
      how.request.attempt = request.attempt;
      const auto process = known->second;
      process->attach(connection, how);
      return;
    }
    if (const auto used = used_.find(owner); used != used_.end() && used->second.contains(request.id)) {
      throw ServiceError(ErrorCode::failed_precondition, reason::kProcessNotFound,
                         "the process with this id was given up; it is not started again", {{"id", request.id}});
    }
    if (context_->stopping) throw shutting_down();
    auto sandbox = OwnSandboxes(sandboxes_, owner).find(request.sandbox_id);
    if (!sandbox) throw sandbox_not_found(request.sandbox_id);
    if (owner->budgets.take_request(std::chrono::steady_clock::now())) throw owner->budgets.exhausted(Budget::requests);
    runner::ProcessSpec spec;
    spec.command = request.command;
    spec.env = request.env;
    spec.cwd = request.cwd;
    spec.use_stdin = request.use_stdin;
    spec.tty = request.tty;
    spec.tty_width = request.tty_width;
    spec.tty_height = request.tty_height;
    auto process = std::make_shared<ExecProcess>(context_, *this, std::move(sandbox), request);
    if (const auto error = process->reserve({})) {
      refuse(connection, request, *error);
      return;
    }
    processes_.emplace(key, process);
    process->attach_first(connection);
    process->start(std::move(spec));
    process->fingerprint_ = fingerprint_of(request);  // now that the runner is at work
  } catch (const ServiceError& e) {
    refuse(connection, request, to_status_error(e.error()));
  }
}

void ExecTable::on_resume(const std::shared_ptr<ExecConnection>& connection, const protocol::ResumeRequest& request) {
  const auto known = processes_.find(table_key(*connection->credential().owner, request.id));
  if (known == processes_.end() || known->second->sandbox()->id() != request.sandbox_id) {
    protocol::StartRequest named;
    named.id = request.id;
    named.sandbox_id = request.sandbox_id;
    refuse(connection, named,
           to_status_error(ServiceError(ErrorCode::not_found, reason::kProcessNotFound,
                                        "no process has this id here: it has ended and is forgotten, or it never was",
                                        {{"id", request.id}, {"sandbox_id", request.sandbox_id}})
                               .error()));
    return;
  }
  ExecProcess::Attach how;
  how.request = request;
  how.resume = true;
  const auto process = known->second;
  process->attach(connection, how);
}

void ExecTable::forget(ExecProcess& process, bool released) {
  remove_orphan(process);
  process.orphan_timer_.cancel();
  process.table_ = nullptr;
  for (OutputSpill& spill : process.spills_) spill.clear();
  const std::string id = table_key(*process.sandbox()->owner(), process.run_id());
  if (const auto at = processes_.find(id); at != processes_.end() && at->second.get() == &process) {
    const auto keep = std::move(at->second);
    processes_.erase(at);
  }
  if (released) return;
  const auto [used, fresh] = used_.try_emplace(process.sandbox()->owner());
  used->second.insert(process.run_id(), context_->options.max_used_ids);
  // Whose tokens and sandboxes have all gone cannot repeat anything.
  if (fresh) std::erase_if(used_, [](const auto& entry) { return entry.first.expired(); });
}

void ExecTable::add_orphan(ExecProcess& process) {
  process.orphan_at_ = orphans_.insert(orphans_.end(), &process);
  if (orphans_.size() > context_->options.max_orphans) {
    // The oldest of whoever has the most, so that nobody can drive out the processes of others.
    std::unordered_map<const Owner*, std::size_t> count;
    const Owner* most = nullptr;
    for (const ExecProcess* orphan : orphans_) {
      const Owner* owner = orphan->sandbox()->owner().get();
      const std::size_t of_owner = ++count[owner];
      if (most == nullptr || of_owner > count[most]) most = owner;
    }
    const auto at = std::find_if(orphans_.begin(), orphans_.end(),
                                 [most](const ExecProcess* orphan) { return orphan->sandbox()->owner().get() == most; });
    const auto oldest = (*at)->self();
    context_->log(LogLevel::warning,
                  "process " + base::escaped(oldest->run_id(), 64) + ": given up, too many processes without a client");
    forget(*oldest, false);
    oldest->cancel(std::chrono::milliseconds(0));
  }
}

void ExecTable::remove_orphan(ExecProcess& process) {
  if (!process.orphan_at_) return;
  orphans_.erase(*process.orphan_at_);
  process.orphan_at_.reset();
}

void ExecTable::remove(ExecConnection& connection) { connections_.erase(&connection); }

std::size_t ExecTable::busy_connections() const noexcept {
  return static_cast<std::size_t>(
      std::count_if(connections_.begin(), connections_.end(), [](const auto& c) { return c.second->open() && !c.second->idle(); }));
}

void ExecTable::close_idle() {
  const auto all = connections_;
  for (const auto& [key, connection] : all) {
    if (connection->idle()) connection->close(CloseCode::going_away, "the gateway is shutting down");
  }
}

void ExecTable::close_all() {
  const auto all = connections_;
  for (const auto& [key, connection] : all) connection->close(CloseCode::going_away, "the gateway is shutting down");
}

void ExecTable::close_revoked() {
  const auto all = connections_;
  for (const auto& [key, connection] : all) {
    if (connection->credential().revoked)
      connection->close(CloseCode::policy, "the token of this connection is no longer accepted");
  }
}

void ExecTable::drop_all() noexcept {
  orphans_.clear();
  for (const auto& [id, process] : processes_) {
    process->orphan_at_.reset();
    process->orphaned_for_good();
  }
  processes_.clear();
  for (const auto& [key, connection] : connections_) connection->abort();
  connections_.clear();
}

}  // namespace cwsandbox::gateway
