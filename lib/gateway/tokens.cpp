#include "gateway/tokens.hpp"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <set>
#include <stdexcept>

namespace cwsandbox::gateway {

namespace {

Digest sha256(std::string_view text) {
  Digest out{};
  ::SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), out.data());
  return out;
}

bool scheme_is_bearer(std::string_view scheme) noexcept {
  constexpr std::string_view kBearer = "bearer";
  if (scheme.size() != kBearer.size()) return false;
  for (std::size_t i = 0; i < scheme.size(); ++i) {
    const char c = scheme[i];
    const char lower = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    if (lower != kBearer[i]) return false;
  }
  return true;
}

constexpr std::string_view kNamed = "name:";

// What an owner is told apart by. The kinds cannot meet: a name has no colon.
std::string key_of(const Token& token, const Digest& digest) {
  if (!token.owner.empty()) return std::string(kNamed) + token.owner;
  return "token:" + to_hex(std::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
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
    for (const char c : token.owner) {
      const bool plain =
          (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
      if (!plain) throw std::invalid_argument("the name of a token may hold letters, digits, '-', '_' and '.' only");
    }
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
  if (space == std::string_view::npos || !scheme_is_bearer(authorization.substr(0, space))) return nullptr;
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
