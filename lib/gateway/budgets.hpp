// What one owner may have of a gateway: every such limit, in one table, and how it is taken and given back.
//
// Not here is what is bounded by letting the oldest go, of the owner that has the most: sandboxes that have ended, their logs,
// processes without a client.
#pragma once

#include "base/rate.hpp"
#include "gateway/errors.hpp"
#include "gateway/gateway.hpp"

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace cwsandbox::gateway {

enum class Budget : std::uint8_t { connections, memory, requests, sandboxes, processes, descriptors, watches, capture, log_rate };

struct BudgetEntry {
  Budget budget;
  const char* name;    ///< in errors
  const char* option;  ///< of cwsandboxd, which sets it
  const char* what;    ///< follows "at most N "
};
inline constexpr std::array<BudgetEntry, 9> kBudgets = {{
    // Counted by net::HttpServer, in the owner's account.
    {Budget::connections, "connections", "--max-connections-per-token", "connections at one time"},
    {Budget::memory, "memory", "--max-held-memory-per-owner", "bytes of requests, answers, outputs and large windows"},
    {Budget::requests, "requests", "--max-requests-per-owner", "requests a second"},
    {Budget::sandboxes, "sandboxes", "--max-sandboxes-per-owner", "sandboxes at one time"},
    {Budget::processes, "processes", "--max-processes-per-owner", "processes at one time"},
    {Budget::descriptors, "descriptors", "--max-descriptors-per-owner", "open files of the gateway's"},
    {Budget::watches, "watches", "--max-watches-per-owner", "watches of files at one time"},
    // Nobody is refused for it: what would go beyond it waits.
    {Budget::capture, "capture", "--capture-size-per-owner", "bytes of output without a client"},
    {Budget::log_rate, "log rate", "--max-log-rate-per-owner", "bytes a second of what main commands write"},
}};
[[nodiscard]] inline constexpr const BudgetEntry& entry_of(Budget budget) noexcept {
  return kBudgets[static_cast<std::size_t>(budget)];
}

/// The limits of one gateway, for all of its owners, and what they have together.
class BudgetTable {
 public:
  static constexpr std::uint64_t kNone = std::numeric_limits<std::uint64_t>::max();

  explicit BudgetTable(const GatewayOptions& options);
  /// Of one owner. Where no option says it, three quarters of the whole, so that nobody has all of it; all where there is one
  /// owner.
  [[nodiscard]] std::uint64_t limit(Budget budget) const noexcept;
  /// Of all of them together.
  [[nodiscard]] std::uint64_t whole(Budget budget) const noexcept { return at(budget).whole; }
  void set_several_owners(bool several) noexcept { several_owners_ = several; }
  [[nodiscard]] bool several_owners() const noexcept { return several_owners_; }

 private:
  friend class Budgets;
  struct Line {
    std::uint64_t each = 0, whole = kNone, used = 0;
  };
  [[nodiscard]] Line& at(Budget budget) noexcept { return lines_[static_cast<std::size_t>(budget)]; }
  [[nodiscard]] const Line& at(Budget budget) const noexcept { return lines_[static_cast<std::size_t>(budget)]; }
  std::array<Line, kBudgets.size()> lines_;
  bool several_owners_ = false;
};

/// What one owner has. On the gateway's executor.
class Budgets {
 public:
  explicit Budgets(std::shared_ptr<BudgetTable> table) : table_(std::move(table)) {}
  Budgets(const Budgets&) = delete;
  Budgets& operator=(const Budgets&) = delete;

  /// False, and nothing is taken, when there is not as much left, for the owner or for all.
  [[nodiscard]] bool take(Budget budget, std::uint64_t amount = 1) noexcept;
  /// For what is there already.
  void take_anyway(Budget budget, std::uint64_t amount = 1) noexcept;
  void give(Budget budget, std::uint64_t amount = 1) noexcept;
  [[nodiscard]] std::uint64_t used(Budget budget) const noexcept { return used_[static_cast<std::size_t>(budget)]; }
  [[nodiscard]] bool several_owners() const noexcept { return table_->several_owners(); }
  /// Nobody else has any.
  [[nodiscard]] bool has_all(Budget budget) const noexcept { return used(budget) == table_->at(budget).used; }
  [[nodiscard]] std::uint64_t room(Budget budget) const noexcept;
  /// One request now; set: there were too many in the last second, and how long to wait for the next.
  [[nodiscard]] std::optional<std::chrono::nanoseconds> take_request(std::chrono::steady_clock::time_point now) noexcept;
  /// How long until more of what main commands write may be read; nothing: now.
  [[nodiscard]] std::optional<std::chrono::nanoseconds> log_wait(std::chrono::steady_clock::time_point now) const noexcept;
  void took_log(std::uint64_t bytes, std::chrono::steady_clock::time_point now) noexcept;
  /// What to say when there is not as much: `lead` begins the text, where it is not empty.
  [[nodiscard]] ServiceError exhausted(Budget budget, std::map<std::string, std::string> metadata = {},
                                       const std::string& lead = {}) const;

 private:
  std::shared_ptr<BudgetTable> table_;
  std::array<std::uint64_t, kBudgets.size()> used_{};
  base::Rate requests_, logs_;
};

/// What one thing has of its owner's budget. It goes back when this goes.
class BudgetShare {
 public:
  BudgetShare() = default;
  /// Takes it. Throws ServiceError ("resource_exhausted").
  BudgetShare(std::shared_ptr<Budgets> budgets, Budget budget, std::uint64_t amount = 1,
              std::map<std::string, std::string> metadata = {});
  /// Of what is there already.
  static BudgetShare of_existing(std::shared_ptr<Budgets> budgets, Budget budget, std::uint64_t amount = 1);
  BudgetShare(BudgetShare&& other) noexcept
      : budgets_(std::move(other.budgets_)), budget_(other.budget_), amount_(std::exchange(other.amount_, 0)) {}
  BudgetShare& operator=(BudgetShare&& other) noexcept {
    if (this == &other) return *this;
    reset();
    budgets_ = std::move(other.budgets_);
    budget_ = other.budget_;
    amount_ = std::exchange(other.amount_, 0);
    return *this;
  }
  BudgetShare(const BudgetShare&) = delete;
  BudgetShare& operator=(const BudgetShare&) = delete;
  ~BudgetShare() { reset(); }
  void reset() noexcept {
    if (const auto budgets = std::exchange(budgets_, nullptr)) budgets->give(budget_, std::exchange(amount_, 0));
  }

 private:
  std::shared_ptr<Budgets> budgets_;
  Budget budget_ = Budget::connections;
  std::uint64_t amount_ = 0;
};

// What the gateway has open for each.
inline constexpr std::uint64_t kProcessDescriptors = 3;  // its pipes
inline constexpr std::uint64_t kSandboxDescriptors = 6;  // its agent, the program that holds it, its main command's pipes, its log
inline constexpr std::uint64_t kFileDescriptors = 1;

}  // namespace cwsandbox::gateway
