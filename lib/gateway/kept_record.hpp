// What a durable runner keeps for the gateway beside each sandbox, so that another one, or the next, knows it too.
#pragma once

#include "gateway/fingerprint.hpp"
#include "messages/sandbox.hpp"

#include <optional>
#include <string>
#include <string_view>

namespace cwsandbox::gateway {

struct KeptRecord {
  std::string owner;                  ///< an Owner's key
  std::optional<Digest> fingerprint;  ///< of the request, when it had an id
  messages::Sandbox view;             ///< as it was at its creation, without the content of files
};

// What the id of a sandbox is made of; a runner, and a list's page token, get no other.
inline constexpr const char* kIdPrefix = "sb-";
inline constexpr std::size_t kIdBytes = 12;  // twice as many digits
[[nodiscard]] bool is_sandbox_id(std::string_view text) noexcept;

/// The largest that a runner keeps (runner::SandboxSpec::record).
inline constexpr std::size_t kMaxKeptRecord = std::size_t{64} * 1024;

[[nodiscard]] std::string to_text(const KeptRecord& record);
/// Throws std::invalid_argument, which says what is wrong, for what no gateway has written or a later one has.
[[nodiscard]] KeptRecord parse_kept_record(std::string_view text);

}  // namespace cwsandbox::gateway
