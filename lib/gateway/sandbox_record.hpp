// One sandbox of a gateway: its state, from CREATING to the end, and what lives in it.
//
// What is about one that a durable runner has found is in found_sandboxes.cpp.
#pragma once

#include "gateway/budgets.hpp"
#include "gateway/context.hpp"
#include "gateway/errors.hpp"
#include "gateway/fingerprint.hpp"
#include "gateway/log_store.hpp"
#include "gateway/main_output.hpp"
#include "gateway/tokens.hpp"
#include "messages/sandbox.hpp"
#include "protocol/exec_stream.hpp"
#include "runner/runner.hpp"
#include "runner/waiting.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>

#include <chrono>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>

namespace cwsandbox::gateway {

class ProcessRun;
class Sandboxes;
using EndReason = protocol::ExitStatus::Reason;

// Between two tries, while the place cannot be asked or a sandbox in it cannot be reached.
inline constexpr std::chrono::milliseconds kFirstRest{250};
inline constexpr std::chrono::milliseconds kLongestRest = std::chrono::seconds(10);

/// Where a sandbox stands in a list: the same at every gateway that knows it.
struct Position {
  std::int64_t created = 0;  ///< microseconds since 1970
  std::string id;
  auto operator<=>(const Position&) const = default;
};

/// One sandbox. States only move forward: CREATING → RUNNING → COMPLETED or FAILED, or → TERMINATING → TERMINATED.
class SandboxRecord : public std::enable_shared_from_this<SandboxRecord> {
 public:
  /// \param fingerprint of the request that it was made for, when that had an id
  SandboxRecord(std::shared_ptr<Context> context, Sandboxes& all, std::shared_ptr<Owner> owner, messages::Sandbox view,
                std::optional<Digest> fingerprint);
  ~SandboxRecord();

  [[nodiscard]] const std::string& id() const noexcept { return view_.sandbox_id; }
  [[nodiscard]] const std::shared_ptr<Owner>& owner() const noexcept { return owner_; }
  [[nodiscard]] Position position() const;
  [[nodiscard]] const messages::Sandbox& view() const noexcept { return view_; }
  [[nodiscard]] messages::State state() const noexcept { return view_.status.state; }
  [[nodiscard]] bool terminal() const noexcept { return messages::is_terminal(state()); }

  /// The sandbox once it is RUNNING. Throws ServiceError when it has ended, is ending, or is not ready by the deadline.
  [[nodiscard]] static asio::awaitable<std::shared_ptr<runner::Sandbox>> running(std::shared_ptr<SandboxRecord> self,
                                                                                 std::chrono::steady_clock::time_point deadline);

  /// What its main command has written, as far as this gateway has heard of it; also of a sandbox that has ended.
  [[nodiscard]] const std::shared_ptr<LogStore>& logs() const noexcept { return logs_; }

  /// SIGTERM now, SIGKILL after `grace`; returns at once, the end shows in the state. A second call can only shorten the grace.
  void stop(std::chrono::milliseconds grace, const std::string& why, EndReason reason);
  /// What ended it, or is ending it: for the processes that end with it. `none` while it is to go on.
  [[nodiscard]] EndReason end_reason() const noexcept { return end_reason_; }
  /// Everything in it dies now; no state is kept.
  void drop() noexcept;

  // processes that live in it
  void add(ProcessRun& run) { runs_.insert(&run); }
  void remove(ProcessRun& run) { runs_.erase(&run); }
  [[nodiscard]] std::size_t processes() const noexcept { return runs_.size(); }

  std::size_t watches = 0;  ///< of its files, that stand

 private:
  friend class Sandboxes;
  static asio::awaitable<void> create(std::shared_ptr<SandboxRecord> self, std::shared_ptr<runner::Runner> runner,
                                      runner::SandboxSpec spec);
  void take_up();
  static asio::awaitable<void> adopt(std::shared_ptr<SandboxRecord> self,
                                     asio::awaitable<std::unique_ptr<runner::Sandbox>> adopting);
  static asio::awaitable<void> stop_runner(std::shared_ptr<SandboxRecord> self, std::shared_ptr<runner::Sandbox> sandbox,
                                           std::chrono::milliseconds grace);
  void found(const runner::Found& now);
  void adoption_failed(const std::string& why, bool for_good);
  void began(std::unique_ptr<runner::Sandbox> sandbox);
  void set_state(messages::State state);
  void begin_terminating(const std::string& why, EndReason reason);
  void main_exited(const runner::ExitInfo& info);
  void end_when_read(messages::State state, const std::string& why);
  void end(messages::State state, const std::string& why);
  void arm_lifetime();

  std::shared_ptr<Context> context_;
  Sandboxes* all_;  // outlives its records' work: null once dropped
  std::shared_ptr<Owner> owner_;
  messages::Sandbox view_;
  std::optional<Digest> fingerprint_;
  std::string request_key_;              // in Sandboxes::by_request_
  std::size_t bytes_ = 0;                // about what it takes in memory, and in an answer
  BudgetShare share_, descriptors_;      // of its owner's, until it has ended
  bool making_ = false;                  // our own creation is under way
  std::optional<ServiceError> refusal_;  // it never came to be
  // Of one that another gateway has created, or this one in a former life.
  enum class Adoption : std::uint8_t { not_ours, none, under_way, resting };
  Adoption adoption_ = Adoption::not_ours;
  std::string unreachable_;  // why the last adoption failed
  std::chrono::milliseconds rest_{0};
  std::optional<asio::steady_timer> resting_;
  std::shared_ptr<runner::Sandbox> sandbox_;
  std::shared_ptr<LogStore> logs_;
  std::shared_ptr<MainOutput> output_;  // before `sandbox_` is let go, it stops
  bool ending_ = false;                 // the end is known, and what the main command wrote is being read
  std::unordered_set<ProcessRun*> runs_;
  runner::TimedWaiters changed_;
  asio::steady_timer lifetime_;
  std::optional<std::chrono::milliseconds> stop_grace_;  // set: a stop was asked for
  EndReason end_reason_ = EndReason::none;
};

}  // namespace cwsandbox::gateway
