#include "gateway/budgets.hpp"

#include <algorithm>

namespace cwsandbox::gateway {

namespace {

constexpr std::chrono::seconds kLater{1};
// What main commands write is read ahead of its rate by as much as comes in that time.
constexpr std::chrono::milliseconds kLogAhead{10};

constexpr bool in_order() {
  for (std::size_t i = 0; i < kBudgets.size(); ++i)
    if (kBudgets[i].budget != static_cast<Budget>(i)) return false;
  return true;
}
static_assert(in_order(), "the table is looked up by position");

std::uint64_t or_none(std::uint64_t most) noexcept { return most == 0 ? BudgetTable::kNone : most; }

}  // namespace

BudgetTable::BudgetTable(const GatewayOptions& options) {
  const auto set = [this](Budget budget, std::uint64_t each, std::uint64_t whole) {
    at(budget).each = each;
    at(budget).whole = whole;
  };
  set(Budget::connections, options.limits.connections_of_one(), options.limits.max_connections);
  set(Budget::memory, options.limits.memory_of_one(), options.limits.max_client_memory);
  set(Budget::requests, or_none(options.max_requests_per_owner), kNone);
  set(Budget::sandboxes, options.max_sandboxes_per_owner, options.max_sandboxes);
  set(Budget::processes, or_none(options.max_processes_per_owner), kNone);
  set(Budget::descriptors, options.max_descriptors_per_owner, or_none(options.max_descriptors));
  set(Budget::watches, options.max_watches_per_owner, kNone);
  set(Budget::capture, options.max_capture_per_owner, options.total_capture_bytes);
  set(Budget::log_rate, or_none(options.max_log_rate_per_owner), kNone);
}

std::uint64_t BudgetTable::limit(Budget budget) const noexcept {
  const Line& line = at(budget);
  if (line.each != 0) return std::min(line.each, line.whole);
  return several_owners_ && line.whole != kNone ? line.whole - line.whole / 4 : line.whole;
}

std::uint64_t Budgets::room(Budget budget) const noexcept {
  const std::uint64_t limit = table_->limit(budget), mine = used(budget);
  const BudgetTable::Line& line = table_->at(budget);
  return std::min(limit - std::min(limit, mine), line.whole - std::min(line.whole, line.used));
}

bool Budgets::take(Budget budget, std::uint64_t amount) noexcept {
  if (room(budget) < amount) return false;
  take_anyway(budget, amount);
  return true;
}

void Budgets::take_anyway(Budget budget, std::uint64_t amount) noexcept {
  used_[static_cast<std::size_t>(budget)] += amount;
  table_->at(budget).used += amount;
}

void Budgets::give(Budget budget, std::uint64_t amount) noexcept {
  used_[static_cast<std::size_t>(budget)] -= amount;
  table_->at(budget).used -= amount;
}

std::optional<std::chrono::nanoseconds> Budgets::take_request(std::chrono::steady_clock::time_point now) noexcept {
  const std::uint64_t most = table_->limit(Budget::requests);
  if (most == BudgetTable::kNone) return std::nullopt;
  constexpr std::chrono::nanoseconds kSecond = std::chrono::seconds(1);
  const std::chrono::duration<double> apart(1.0 / static_cast<double>(most));
  const auto due =
      std::max(requests_.early(now), std::chrono::nanoseconds(0)) + std::chrono::duration_cast<std::chrono::nanoseconds>(apart);
  if (due > kSecond) return due - kSecond;
  requests_.took(apart, now);
  return std::nullopt;
}

std::optional<std::chrono::nanoseconds> Budgets::log_wait(std::chrono::steady_clock::time_point now) const noexcept {
  const auto early = logs_.early(now);
  return early > kLogAhead ? std::optional<std::chrono::nanoseconds>(early - kLogAhead) : std::nullopt;
}

void Budgets::took_log(std::uint64_t bytes, std::chrono::steady_clock::time_point now) noexcept {
  const std::uint64_t most = table_->limit(Budget::log_rate);
  if (most == BudgetTable::kNone) return;
  logs_.took(std::chrono::duration<double>(static_cast<double>(bytes) / static_cast<double>(most)), now);
}

ServiceError Budgets::exhausted(Budget budget, std::map<std::string, std::string> metadata, const std::string& lead) const {
  const BudgetEntry& entry = entry_of(budget);
  const std::uint64_t limit = table_->limit(budget);
  const bool own = limit - std::min(limit, used(budget)) <= room(budget);
  const std::string most = std::to_string(own ? limit : table_->whole(budget));
  metadata.emplace("budget", entry.name);
  metadata.emplace("option", entry.option);
  metadata.emplace("limit", most);
  std::string text = lead.empty() ? std::string() : lead + ": ";
  text += std::string(own ? "one owner may have" : "all owners together may have") + " at most " + most + " " + entry.what + " (" +
          entry.option + ")";
  return ServiceError(ErrorCode::resource_exhausted, reason::kCapacityExhausted, text, std::move(metadata)).with_retry(kLater);
}

BudgetShare::BudgetShare(std::shared_ptr<Budgets> budgets, Budget budget, std::uint64_t amount,
                         std::map<std::string, std::string> metadata)
    : budget_(budget) {
  if (!budgets->take(budget, amount)) throw budgets->exhausted(budget, std::move(metadata));
  budgets_ = std::move(budgets);
  amount_ = amount;
}

BudgetShare BudgetShare::of_existing(std::shared_ptr<Budgets> budgets, Budget budget, std::uint64_t amount) {
  BudgetShare out;
  budgets->take_anyway(budget, amount);
  out.budgets_ = std::move(budgets);
  out.budget_ = budget;
  out.amount_ = amount;
  return out;
}

}  // namespace cwsandbox::gateway
