// The sandboxes of a gateway: their states, from CREATING to the end, and what is remembered of those that have ended.
#pragma once

#include "gateway/context.hpp"
#include "gateway/errors.hpp"
#include "gateway/log_store.hpp"
#include "gateway/main_output.hpp"
#include "gateway/text.hpp"
#include "gateway/tokens.hpp"
#include "protocol/messages.hpp"
#include "runner/runner.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>

namespace cwsandbox::gateway {

class ProcessRun;
class Sandboxes;

/// One sandbox. States only move forward: CREATING → RUNNING → COMPLETED or FAILED, or → TERMINATING → TERMINATED.
class SandboxRecord : public std::enable_shared_from_this<SandboxRecord> {
 public:
  SandboxRecord(std::shared_ptr<Context> context, Sandboxes& all, std::shared_ptr<Owner> owner, std::uint64_t sequence,
                protocol::Sandbox view);
  ~SandboxRecord();

  [[nodiscard]] const std::string& id() const noexcept { return view_.sandbox_id; }
  [[nodiscard]] const std::shared_ptr<Owner>& owner() const noexcept { return owner_; }
  [[nodiscard]] std::uint64_t sequence() const noexcept { return sequence_; }
  [[nodiscard]] const protocol::Sandbox& view() const noexcept { return view_; }
  [[nodiscard]] protocol::State state() const noexcept { return view_.status.state; }
  [[nodiscard]] bool terminal() const noexcept { return protocol::is_terminal(state()); }

  /// The sandbox once it is RUNNING. Throws ServiceError when it has ended, is ending, or is not ready by the deadline.
  [[nodiscard]] static asio::awaitable<std::shared_ptr<runner::Sandbox>> running(std::shared_ptr<SandboxRecord> self,
                                                                                 std::chrono::steady_clock::time_point deadline);

  /// What its main command has written; also of a sandbox that has ended.
  [[nodiscard]] const std::shared_ptr<LogStore>& logs() const noexcept { return logs_; }

  /// SIGTERM now, SIGKILL after `grace`; returns at once, the end shows in the state. A second call can only shorten the grace.
  void stop(std::chrono::milliseconds grace, const std::string& why);
  /// Everything in it dies now; no state is kept.
  void drop() noexcept;

  // processes that live in it
  void add(ProcessRun& run) { runs_.insert(&run); }
  void remove(ProcessRun& run) { runs_.erase(&run); }
  [[nodiscard]] std::size_t processes() const noexcept { return runs_.size(); }

 private:
  friend class Sandboxes;
  static asio::awaitable<void> create(std::shared_ptr<SandboxRecord> self, std::shared_ptr<runner::Runner> runner,
                                      runner::SandboxSpec spec);
  static asio::awaitable<void> stop_runner(std::shared_ptr<SandboxRecord> self, std::shared_ptr<runner::Sandbox> sandbox,
                                           std::chrono::milliseconds grace);
  void began(std::unique_ptr<runner::Sandbox> sandbox);
  void main_exited(const runner::ExitInfo& info);
  void end_when_read(protocol::State state, const std::string& why);
  void end(protocol::State state, const std::string& why);
  void arm_lifetime();

  std::shared_ptr<Context> context_;
  Sandboxes* all_;  // outlives its records' work: null once dropped
  std::shared_ptr<Owner> owner_;
  std::uint64_t sequence_;
  protocol::Sandbox view_;
  std::shared_ptr<runner::Sandbox> sandbox_;
  std::shared_ptr<LogStore> logs_;
  std::shared_ptr<MainOutput> output_;  // before `sandbox_` is let go, it stops
  bool ending_ = false;                 // the end is known, and what the main command wrote is being read
  std::unordered_set<ProcessRun*> runs_;
  Waiters changed_;
  asio::steady_timer lifetime_;
  std::optional<std::chrono::milliseconds> stop_grace_;  // set: a stop was asked for
};

/// All of them. What a request may see and touch of them goes through OwnSandboxes.
class Sandboxes {
 public:
  Sandboxes(std::shared_ptr<Context> context, std::unique_ptr<runner::Runner> runner);
  ~Sandboxes();
  Sandboxes(const Sandboxes&) = delete;
  Sandboxes& operator=(const Sandboxes&) = delete;

  [[nodiscard]] std::size_t active() const noexcept { return active_; }
  void stop_all(std::chrono::milliseconds grace, const std::string& why);
  void drop_all() noexcept;

 private:
  friend class SandboxRecord;
  friend class OwnSandboxes;
  [[nodiscard]] protocol::Sandbox create(const std::shared_ptr<Owner>& owner, const protocol::CreateSandboxRequest& request);
  [[nodiscard]] protocol::Sandbox get(const std::shared_ptr<Owner>& owner, const protocol::GetSandboxRequest& request);
  [[nodiscard]] protocol::ListSandboxesResponse list(const std::shared_ptr<Owner>& owner,
                                                     const protocol::ListSandboxesRequest& request);
  [[nodiscard]] protocol::DeleteSandboxResponse remove(const std::shared_ptr<Owner>& owner,
                                                       const protocol::DeleteSandboxRequest& request);
  [[nodiscard]] std::shared_ptr<SandboxRecord> find(const std::shared_ptr<Owner>& owner, const std::string& id) const;
  void on_ended(SandboxRecord& record);
  void trim_logs();
  std::shared_ptr<Context> context_;
  std::shared_ptr<runner::Runner> runner_;  // shared: a creation under way may outlive the gateway
  std::map<std::uint64_t, std::shared_ptr<SandboxRecord>> by_sequence_;
  std::unordered_map<std::string, std::shared_ptr<SandboxRecord>> by_id_;
  struct Made {
    std::string sandbox_id;
    Digest fingerprint;
  };
  std::unordered_map<std::string, Made> by_request_;         // by owner and request id
  std::unordered_map<std::string, std::string> request_of_;  // sandbox id → key of by_request_
  std::deque<std::uint64_t> ended_;                          // oldest first
  std::uint64_t next_sequence_ = 1;
  std::size_t active_ = 0;
};

/// The sandboxes of one owner, and the only way to any: those of others are as if they were not there.
class OwnSandboxes {
 public:
  OwnSandboxes(std::shared_ptr<Sandboxes> all, std::shared_ptr<Owner> owner) : all_(std::move(all)), owner_(std::move(owner)) {}

  // The methods of SandboxService. All throw ServiceError.
  [[nodiscard]] protocol::Sandbox create(const protocol::CreateSandboxRequest& request) { return all_->create(owner_, request); }
  [[nodiscard]] protocol::Sandbox get(const protocol::GetSandboxRequest& request) { return all_->get(owner_, request); }
  [[nodiscard]] protocol::ListSandboxesResponse list(const protocol::ListSandboxesRequest& request) {
    return all_->list(owner_, request);
  }
  [[nodiscard]] protocol::DeleteSandboxResponse remove(const protocol::DeleteSandboxRequest& request) {
    return all_->remove(owner_, request);
  }
  [[nodiscard]] std::shared_ptr<SandboxRecord> find(const std::string& id) const { return all_->find(owner_, id); }

 private:
  std::shared_ptr<Sandboxes> all_;
  std::shared_ptr<Owner> owner_;
};

/// Rules for what may be run; the field names are those of the JSON.
void check_environment(const std::map<std::string, std::string>& env, const std::string& field,
                       std::vector<protocol::FieldViolation>& violations);
void check_command(const std::vector<std::string>& command, const std::string& field,
                   std::vector<protocol::FieldViolation>& violations);
void check_directory(const std::string& directory, const std::string& field, std::vector<protocol::FieldViolation>& violations);

}  // namespace cwsandbox::gateway
