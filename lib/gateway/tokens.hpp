// Which bearer tokens are accepted, and whose they are.
#pragma once

#include "gateway/budgets.hpp"
#include "gateway/fingerprint.hpp"
#include "gateway/gateway.hpp"
#include "net/http_server.hpp"
#include "runner/work_queue.hpp"

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace cwsandbox::gateway {

/// Who owns sandboxes: all tokens of one name, or one token without a name. While anything holds it there is one object for each,
/// so that pointers may be compared.
struct Owner : net::ClientAccount {
  explicit Owner(std::shared_ptr<BudgetTable> table) : budgets(std::move(table)) {}
  std::string key;   ///< tells owners apart; empty where there are no tokens
  std::string name;  ///< for logs; empty when the token has none
  Budgets budgets;
  std::shared_ptr<runner::WorkQueue> messages;  ///< for large_messages.hpp; null until there is one
};
[[nodiscard]] inline std::shared_ptr<Budgets> budgets_of(const std::shared_ptr<Owner>& owner) { return {owner, &owner->budgets}; }

/// What a request was let in with. It outlives its token.
struct Credential {
  Digest digest{};
  std::shared_ptr<Owner> owner;
  bool revoked = false;  ///< the token has been taken away meanwhile
};

/// Keeps digests only. Comparing takes the same time whatever is presented: digests have one size, and all of them are looked at.
class TokenSet {
 public:
  /// No tokens: everybody is let in, as one owner. Throws as `check_tokens`.
  TokenSet(const std::vector<Token>& tokens, std::shared_ptr<BudgetTable> budgets);
  /// These from now on. What stays keeps its credential, what is gone has it revoked. Throws as `check_tokens`, and changes
  /// nothing.
  void replace(const std::vector<Token>& tokens);

  /// Whom the value of an Authorization header lets in; null: nobody, also for another scheme or none.
  [[nodiscard]] std::shared_ptr<const Credential> admit(std::string_view authorization) const;
  /// The owner that this key tells apart, whether or not there is a token of theirs: one that comes later leads to them.
  [[nodiscard]] std::shared_ptr<Owner> owner_of_key(const std::string& key);
  /// How many have tokens.
  [[nodiscard]] std::size_t owners() const;
  /// Whether there are no tokens.
  [[nodiscard]] bool open() const noexcept { return anybody_ != nullptr; }

 private:
  std::shared_ptr<Owner> owner_of(const std::string& key, const std::string& name);

  std::shared_ptr<BudgetTable> budgets_;
  std::vector<std::shared_ptr<Credential>> credentials_;
  std::shared_ptr<Credential> anybody_;
  std::map<std::string, std::weak_ptr<Owner>> owners_;
};

}  // namespace cwsandbox::gateway
