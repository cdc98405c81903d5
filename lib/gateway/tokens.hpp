// Which bearer tokens are accepted.
#pragma once

#include "gateway/text.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace cwsandbox::gateway {

/// Keeps digests only. Comparing takes the same time whatever is presented: digests have one size, and all of them are looked at.
class TokenSet {
 public:
  /// Throws std::invalid_argument when a token is empty or cannot stand in a header.
  explicit TokenSet(const std::vector<std::string>& tokens);
  [[nodiscard]] bool empty() const noexcept { return digests_.empty(); }
  [[nodiscard]] bool accepts(std::string_view token) const;
  /// The value of an Authorization header. False also for another scheme or none.
  [[nodiscard]] bool accepts_header(std::string_view authorization) const;

 private:
  std::vector<Digest> digests_;
};

}  // namespace cwsandbox::gateway
