#include "gateway/kept_record.hpp"

#include "base/hex.hpp"
#include "messages/json.hpp"
#include "messages/json_text.hpp"

#include <charconv>
#include <stdexcept>

namespace cwsandbox::gateway {

namespace {

namespace json_text = messages::json_text;
using Kind = json_text::Value::Kind;

constexpr std::uint64_t kVersion = 1;
constexpr std::size_t kMaxDepth = 64;

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

std::string string_at(const json_text::Object& object, const char* name) {
  const json_text::Value* value = object.find(name);
  if (value == nullptr || !value->is(Kind::string)) throw std::invalid_argument(std::string("it has no ") + name);
  return value->as_string();
}

}  // namespace

bool is_sandbox_id(std::string_view text) noexcept {
  if (!text.starts_with(kIdPrefix)) return false;
  text.remove_prefix(std::string_view(kIdPrefix).size());
  return text.size() == 2 * kIdBytes && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::string to_text(const KeptRecord& record) {
  std::string out = "{\"version\":";
  json_text::append_number(out, kVersion);
  out += ",\"owner\":";
  json_text::append_string(out, record.owner);
  if (record.fingerprint) {
    out += ",\"fingerprint\":";
    const auto* bytes = reinterpret_cast<const char*>(record.fingerprint->data());
    json_text::append_string(out, base::to_hex(std::string_view(bytes, record.fingerprint->size())));
  }
  out += ",\"sandbox\":" + messages::to_json(record.view) + "}";
  return out;
}

KeptRecord parse_kept_record(std::string_view text) {
  if (text.size() > kMaxKeptRecord) throw std::invalid_argument("it is too long");
  const auto root = json_text::parse(text, kMaxDepth);
  if (!root || !root->is(Kind::object)) throw std::invalid_argument("it is no JSON object");
  const json_text::Object object(*root);
  const json_text::Value* version = object.find("version");
  if (version == nullptr || !version->is(Kind::number)) throw std::invalid_argument("it has no version");
  if (version->as_unsigned() != kVersion)
    throw std::invalid_argument("it has version " + std::string(version->raw().substr(0, 16)));
  KeptRecord out;
  out.owner = string_at(object, "owner");
  if (object.find("fingerprint") != nullptr) out.fingerprint = digest_of(string_at(object, "fingerprint"));
  const json_text::Value* sandbox = object.find("sandbox");
  if (sandbox == nullptr || !sandbox->is(Kind::object)) throw std::invalid_argument("it has no sandbox");
  try {
    out.view = messages::from_json<messages::Sandbox>(sandbox->raw());
  } catch (const messages::ParseError& e) {
    throw std::invalid_argument("its sandbox cannot be read: " + std::string(e.what()));
  }
  if (!is_sandbox_id(out.view.sandbox_id)) throw std::invalid_argument("its sandbox has another kind of id");
  if (!out.view.status.create_time) throw std::invalid_argument("its sandbox has no time of creation");
  if (out.view.spec.containers.empty()) throw std::invalid_argument("its sandbox has no container");
  return out;
}

}  // namespace cwsandbox::gateway
