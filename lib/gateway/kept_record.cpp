#include "gateway/kept_record.hpp"

#include "base/hex.hpp"
#include "messages/json.hpp"

#include <charconv>
#include <cstdint>
#include <stdexcept>

namespace cwsandbox::gateway {

namespace {

constexpr std::uint32_t kVersion = 1;

/// As it is kept.
struct Kept {
  std::uint32_t version = 0;
  std::optional<std::string> owner;  ///< empty where there are no tokens
  std::string fingerprint;           ///< in hexadecimal digits
  std::optional<messages::Sandbox> sandbox;

  static const messages::Type kType;
};

constexpr messages::Field kKept[] = {
    messages::field<&Kept::version>(1, "version"),
    messages::field<&Kept::owner>(2, "owner"),
    messages::field<&Kept::fingerprint>(3, "fingerprint"),
    messages::field<&Kept::sandbox>(4, "sandbox"),
};
constinit const messages::Type Kept::kType = messages::table<Kept>("cwsandbox.Kept", kKept);

Digest digest_of(std::string_view hex) {
  Digest out{};
  if (hex.size() != 2 * out.size()) throw std::invalid_argument("its fingerprint has another length");
  for (std::size_t i = 0; i < out.size(); ++i) {
    const char* at = hex.data() + 2 * i;
    const auto parsed = std::from_chars(at, at + 2, out[i], 16);
    if (parsed.ec != std::errc() || parsed.ptr != at + 2) throw std::invalid_argument("its fingerprint is no hexadecimal number");
  }
  return out;
}

}  // namespace

bool is_sandbox_id(std::string_view text) noexcept {
  if (!text.starts_with(kIdPrefix)) return false;
  text.remove_prefix(std::string_view(kIdPrefix).size());
  return text.size() == 2 * kIdBytes && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::string to_text(const KeptRecord& record) {
  Kept kept{kVersion, record.owner, {}, record.view};
  if (record.fingerprint) kept.fingerprint = base::to_hex(*record.fingerprint);
  return messages::to_json(kept);
}

KeptRecord parse_kept_record(std::string_view text) {
  if (text.size() > kMaxKeptRecord) throw std::invalid_argument("it is too long");
  Kept kept;
  try {
    kept = messages::from_json<Kept>(text);
  } catch (const messages::ParseError& e) {
    throw std::invalid_argument("it cannot be read: " + std::string(e.what()));
  }
  if (kept.version == 0) throw std::invalid_argument("it has no version");
  if (kept.version != kVersion) throw std::invalid_argument("it has version " + std::to_string(kept.version));
  if (!kept.owner) throw std::invalid_argument("it has no owner");
  if (!kept.sandbox) throw std::invalid_argument("it has no sandbox");
  KeptRecord out;
  out.owner = std::move(*kept.owner);
  if (!kept.fingerprint.empty()) out.fingerprint = digest_of(kept.fingerprint);
  out.view = std::move(*kept.sandbox);
  if (!is_sandbox_id(out.view.sandbox_id)) throw std::invalid_argument("its sandbox has another kind of id");
  if (!out.view.status.create_time) throw std::invalid_argument("its sandbox has no time of creation");
  if (out.view.spec.containers.empty()) throw std::invalid_argument("its sandbox has no container");
  return out;
}

}  // namespace cwsandbox::gateway
