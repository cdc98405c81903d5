#include "gateway/tokens.hpp"

#include "base/ascii.hpp"
#include "base/hex.hpp"

#include <openssl/crypto.h>

#include <algorithm>
#include <set>
#include <stdexcept>

namespace cwsandbox::gateway {

namespace {

constexpr std::string_view kNamed = "name:";

// What an owner is told apart by. The kinds cannot meet: a name has no colon.
std::string key_of(const Token& token, const Digest& digest) {
  if (!token.owner.empty()) return std::string(kNamed) + token.owner;
  return "token:" + base::to_hex(digest);
}

}  // namespace

void check_tokens(const std::vector<Token>& tokens) {
  std::map<Digest, std::string_view> seen;
  for (const Token& token : tokens) {
    if (token.value.empty()) throw std::invalid_argument("a token is empty");
    for (const char c : token.value) {
      if (c <= ' ' || c > '~') throw std::invalid_argument("a token holds a space or a character that cannot stand in a header");
    }
    if (token.owner.size() > 64) throw std::invalid_argument("the name of a token is longer than 64 characters");
    if (!base::only_letters_digits_and("-_.", token.owner))
      throw std::invalid_argument("the name of a token may hold letters, digits, '-', '_' and '.' only");
    const auto [at, fresh] = seen.emplace(sha256(token.value), token.owner);
    if (!fresh && at->second != token.owner) throw std::invalid_argument("one token is given to two names");
  }
}

TokenSet::TokenSet(const std::vector<Token>& tokens, std::shared_ptr<BudgetTable> budgets) : budgets_(std::move(budgets)) {
  if (tokens.empty()) {
    anybody_ = std::make_shared<Credential>();
    anybody_->owner = owner_of({}, {});
  } else {
    replace(tokens);
  }
}

std::shared_ptr<Owner> TokenSet::owner_of(const std::string& key, const std::string& name) {
  std::weak_ptr<Owner>& known = owners_[key];
  auto owner = known.lock();
  if (!owner) {
    owner = std::make_shared<Owner>(budgets_);
    owner->key = key;
    owner->name = name;
    known = owner;
  }
  return owner;
}

std::shared_ptr<Owner> TokenSet::owner_of_key(const std::string& key) {
  std::erase_if(owners_, [](const auto& entry) { return entry.second.expired(); });
  return owner_of(key, key.starts_with(kNamed) ? key.substr(kNamed.size()) : std::string());
}

void TokenSet::replace(const std::vector<Token>& tokens) {
  check_tokens(tokens);
  std::map<Digest, std::shared_ptr<Credential>> old, fresh;
  for (const auto& credential : credentials_) old.emplace(credential->digest, credential);
  for (const Token& token : tokens) {
    const Digest digest = sha256(token.value);
    std::shared_ptr<Credential>& credential = fresh[digest];
    if (credential) continue;  // a line twice
    auto owner = owner_of(key_of(token, digest), token.owner);
    if (const auto at = old.find(digest); at != old.end() && at->second->owner == owner) {
      credential = at->second;
      old.erase(at);
    } else {
      credential = std::make_shared<Credential>();
      credential->digest = digest;
      credential->owner = std::move(owner);
    }
  }
  credentials_.clear();
  for (auto& [digest, credential] : fresh) credentials_.push_back(std::move(credential));
  for (auto& [digest, credential] : old) credential->revoked = true;
  budgets_->set_several_owners(owners() > 1);
  std::erase_if(owners_, [](const auto& entry) { return entry.second.expired(); });
}

std::size_t TokenSet::owners() const {
  std::set<const Owner*> all;
  for (const auto& credential : credentials_) all.insert(credential->owner.get());
  return std::max<std::size_t>(1, all.size());
}

std::shared_ptr<const Credential> TokenSet::admit(std::string_view authorization) const {
  if (anybody_) return anybody_;
  const std::size_t space = authorization.find(' ');
  if (space == std::string_view::npos || !base::same_but_for_case(authorization.substr(0, space), "bearer")) return nullptr;
  std::string_view token = authorization.substr(space);
  while (!token.empty() && token.front() == ' ') token.remove_prefix(1);
  while (!token.empty() && (token.back() == ' ' || token.back() == '\t')) token.remove_suffix(1);
  const Digest given = sha256(token);
  std::shared_ptr<const Credential> found;
  for (const auto& known : credentials_)
    if (::CRYPTO_memcmp(known->digest.data(), given.data(), given.size()) == 0) found = known;
  return found;
}

}  // namespace cwsandbox::gateway
