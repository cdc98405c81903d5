#include "gateway/tokens.hpp"

#include <openssl/crypto.h>
#include <openssl/sha.h>

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

}  // namespace

TokenSet::TokenSet(const std::vector<std::string>& tokens) {
  for (const std::string& token : tokens) {
    if (token.empty()) throw std::invalid_argument("a token is empty");
    for (const char c : token) {
      if (c <= ' ' || c > '~') throw std::invalid_argument("a token holds a space or a character that cannot stand in a header");
    }
    digests_.push_back(sha256(token));
  }
}

bool TokenSet::accepts(std::string_view token) const {
  const Digest given = sha256(token);
  int found = 0;
  for (const Digest& known : digests_) found |= ::CRYPTO_memcmp(known.data(), given.data(), given.size()) == 0 ? 1 : 0;
  return found != 0;
}

bool TokenSet::accepts_header(std::string_view authorization) const {
  const std::size_t space = authorization.find(' ');
  if (space == std::string_view::npos || !scheme_is_bearer(authorization.substr(0, space))) return false;
  std::string_view token = authorization.substr(space);
  while (!token.empty() && token.front() == ' ') token.remove_prefix(1);
  while (!token.empty() && (token.back() == ' ' || token.back() == '\t')) token.remove_suffix(1);
  return accepts(token);
}

}  // namespace cwsandbox::gateway
