// The sandboxes of a gateway, and what is remembered of those that have ended.
//
// With a durable runner the place has them, and a gateway knows them: those that it creates and those that the runner finds, which
// others create (docs/decisions/0014-gateways-without-state.md). What is about found ones is in found_sandboxes.cpp.
#pragma once

#include "gateway/context.hpp"
#include "gateway/fingerprint.hpp"
#include "gateway/sandbox_record.hpp"
#include "gateway/tokens.hpp"
#include "gateway/turns.hpp"
#include "messages/sandbox.hpp"
#include "runner/runner.hpp"
#include "runner/waiting.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>

#include <chrono>
#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>

namespace cwsandbox::gateway {

/// What is asked for a sandbox, in bytes of JSON and without its files. A durable one's is bounded by what can be kept with it.
inline constexpr std::size_t kMaxSandbox = 256 * 1024;

/// All of them. What a request may see and touch of them goes through OwnSandboxes.
class Sandboxes {
 public:
  Sandboxes(std::shared_ptr<Context> context, std::shared_ptr<TokenSet> tokens, std::unique_ptr<runner::Runner> runner);
  ~Sandboxes();
  Sandboxes(const Sandboxes&) = delete;
  Sandboxes& operator=(const Sandboxes&) = delete;

  /// Asks a durable runner which sandboxes there are, until it has told. Once.
  static void start(const std::shared_ptr<Sandboxes>& self);
  /// Whether it is known which sandboxes there are: before that no request about them can be answered.
  [[nodiscard]] bool ready() const noexcept { return ready_; }
  [[nodiscard]] bool durable() const noexcept { return durable_; }

  [[nodiscard]] std::size_t active() const noexcept { return active_; }
  /// Whether a creation or a deletion that was asked for here is under way.
  [[nodiscard]] bool busy() const noexcept;
  void stop_all(std::chrono::milliseconds grace, const std::string& why);
  /// From now on dropping a sandbox leaves it running, where the runner is durable.
  void let_go() noexcept { runner_->let_go(); }
  void drop_all() noexcept;

 private:
  friend class SandboxRecord;
  friend class OwnSandboxes;
  [[nodiscard]] static asio::awaitable<messages::Sandbox> create(std::shared_ptr<Sandboxes> self, std::shared_ptr<Owner> owner,
                                                                 messages::CreateSandboxRequest request);
  [[nodiscard]] messages::Sandbox get(const std::shared_ptr<Owner>& owner, const messages::GetSandboxRequest& request);
  [[nodiscard]] messages::ListSandboxesResponse list(const std::shared_ptr<Owner>& owner,
                                                     const messages::ListSandboxesRequest& request);
  [[nodiscard]] messages::DeleteSandboxResponse remove(const std::shared_ptr<Owner>& owner,
                                                       const messages::DeleteSandboxRequest& request);
  [[nodiscard]] std::shared_ptr<SandboxRecord> find(const std::shared_ptr<Owner>& owner, const std::string& id) const;
  /// One of a request that was made before; null when there is none. Throws when that asked for something else.
  [[nodiscard]] std::shared_ptr<SandboxRecord> made_for(const std::shared_ptr<Owner>& owner, const std::string& key,
                                                        const std::optional<Digest>& fingerprint) const;
  [[nodiscard]] std::shared_ptr<SandboxRecord> make(const std::shared_ptr<Owner>& owner, messages::Sandbox asked,
                                                    const std::string& key, const std::optional<Digest>& fingerprint,
                                                    runner::SandboxSpec& spec);
  [[nodiscard]] std::chrono::system_clock::time_point next_create_time();
  void insert(const std::shared_ptr<SandboxRecord>& record);
  void accepted(SandboxRecord& record);
  void refused(SandboxRecord& record);

  static asio::awaitable<void> look(std::weak_ptr<Sandboxes> weak);
  void on_found(const runner::Found& found);

  void on_ended(SandboxRecord& record);
  void forget(const SandboxRecord& record);
  void forget_one(bool by_count);
  void trim_logs();
  std::shared_ptr<Context> context_;
  std::shared_ptr<runner::Runner> runner_;  // shared: a creation under way may outlive the gateway
  std::shared_ptr<Turns> creations_;        // for the same reason
  std::shared_ptr<TokenSet> tokens_;
  const bool durable_;
  std::map<Position, std::shared_ptr<SandboxRecord>> by_position_;
  std::unordered_map<std::string, std::shared_ptr<SandboxRecord>> by_id_;
  // By id_of_request(). Empty with a durable runner, where that is the sandbox's id.
  std::unordered_map<std::string, std::shared_ptr<SandboxRecord>> by_request_;
  std::deque<std::shared_ptr<SandboxRecord>> ended_;  // oldest first
  std::size_t ended_bytes_ = 0;
  std::chrono::system_clock::time_point last_create_time_{};
  std::size_t active_ = 0;

  // With a durable runner.
  struct Offered {
    std::shared_ptr<SandboxRecord> record;
    std::string text;  // of its KeptRecord
  };
  std::unordered_map<std::string, Offered> offered_;  // by id: the place has not taken them on yet, and nobody sees them
  bool ready_;
  runner::TimedWaiters found_;               // notified when one is found
  std::unordered_set<std::string> foreign_;  // ids whose records cannot be read
  asio::steady_timer overdue_;
};

/// The sandboxes of one owner, and the only way to any: those of others are as if they were not there.
class OwnSandboxes {
 public:
  OwnSandboxes(std::shared_ptr<Sandboxes> all, std::shared_ptr<Owner> owner) : all_(std::move(all)), owner_(std::move(owner)) {}

  // The methods of SandboxService. All throw ServiceError.
  [[nodiscard]] asio::awaitable<messages::Sandbox> create(messages::CreateSandboxRequest request) {
    return Sandboxes::create(all_, owner_, std::move(request));
  }
  [[nodiscard]] messages::Sandbox get(const messages::GetSandboxRequest& request) { return all_->get(owner_, request); }
  [[nodiscard]] messages::ListSandboxesResponse list(const messages::ListSandboxesRequest& request) {
    return all_->list(owner_, request);
  }
  [[nodiscard]] messages::DeleteSandboxResponse remove(const messages::DeleteSandboxRequest& request) {
    return all_->remove(owner_, request);
  }
  [[nodiscard]] std::shared_ptr<SandboxRecord> find(const std::string& id) const { return all_->find(owner_, id); }
  [[nodiscard]] std::shared_ptr<Budgets> budgets() const { return budgets_of(owner_); }
  [[nodiscard]] const std::shared_ptr<Owner>& owner() const noexcept { return owner_; }

 private:
  std::shared_ptr<Sandboxes> all_;
  std::shared_ptr<Owner> owner_;
};

}  // namespace cwsandbox::gateway
