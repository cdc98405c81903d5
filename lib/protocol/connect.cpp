#include "protocol/connect.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <protozero/pbf_reader.hpp>
#include <protozero/pbf_writer.hpp>
#include <utility>

#include "base/base64.hpp"
#include "protocol/json_shape.hpp"
#include "protocol/json_util.hpp"

namespace cwsandbox::protocol {
namespace {

using json_util::Json;

constexpr std::string_view kErrorInfoType = "google.rpc.ErrorInfo";
constexpr std::string_view kRetryInfoType = "google.rpc.RetryInfo";
constexpr std::string_view kBadRequestType = "google.rpc.BadRequest";

// What a peer can make us keep.
constexpr std::size_t kMaxBody = 1024 * 1024;
constexpr std::size_t kMaxDetails = 64;
constexpr std::size_t kMaxEntries = 256;
constexpr std::int64_t kMaxDelaySeconds = 365LL * 24 * 3600;  // longer than anybody waits, far from any overflow

// ---- details: protobuf ----
// Field numbers are google.rpc's: see the reference. protozero checks every length and throws its own exceptions.

std::string encode_info(const ErrorInfo& info) {
  std::string out;
  protozero::pbf_writer writer(out);
  if (!info.reason.empty()) writer.add_string(1, info.reason);
  if (!info.domain.empty()) writer.add_string(2, info.domain);
  for (const auto& [key, value] : info.metadata) {
    protozero::pbf_writer entry(writer, 3);
    entry.add_string(1, key);
    entry.add_string(2, value);
  }
  return out;
}

std::string encode_retry(std::chrono::milliseconds delay) {
  const auto count = std::max<std::int64_t>(0, delay.count());
  std::string out;
  protozero::pbf_writer writer(out);
  protozero::pbf_writer duration(writer, 1);
  if (count / 1000 != 0) duration.add_int64(1, count / 1000);
  if (count % 1000 != 0) duration.add_int32(2, static_cast<std::int32_t>(count % 1000 * 1'000'000));
  duration.commit();
  return out;
}

std::string encode_violations(const std::vector<FieldViolation>& violations) {
  std::string out;
  protozero::pbf_writer writer(out);
  for (const auto& violation : violations) {
    protozero::pbf_writer entry(writer, 1);
    if (!violation.field.empty()) entry.add_string(1, violation.field);
    if (!violation.description.empty()) entry.add_string(2, violation.description);
  }
  return out;
}

using protozero::pbf_wire_type;

std::string text_of(protozero::pbf_reader& reader) { return reader.get_string(); }

bool is(const protozero::pbf_reader& reader, protozero::pbf_tag_type tag, pbf_wire_type type) {
  return reader.tag() == tag && reader.wire_type() == type;
}

ErrorInfo decode_info(const std::string& bytes) {
  ErrorInfo info;
  protozero::pbf_reader reader(bytes);
  while (reader.next()) {
    if (is(reader, 1, pbf_wire_type::length_delimited)) {
      info.reason = text_of(reader);
    } else if (is(reader, 2, pbf_wire_type::length_delimited)) {
      info.domain = text_of(reader);
    } else if (is(reader, 3, pbf_wire_type::length_delimited)) {
      protozero::pbf_reader entry = reader.get_message();
      std::string key, value;
      while (entry.next()) {
        if (is(entry, 1, pbf_wire_type::length_delimited)) {
          key = text_of(entry);
        } else if (is(entry, 2, pbf_wire_type::length_delimited)) {
          value = text_of(entry);
        } else {
          entry.skip();
        }
      }
      if (info.metadata.size() < kMaxEntries) info.metadata.insert_or_assign(std::move(key), std::move(value));
    } else {
      reader.skip();
    }
  }
  return info;
}

std::optional<std::chrono::milliseconds> decode_retry(const std::string& bytes) {
  std::optional<std::chrono::milliseconds> delay;
  protozero::pbf_reader reader(bytes);
  while (reader.next()) {
    if (!is(reader, 1, pbf_wire_type::length_delimited)) {
      reader.skip();
      continue;
    }
    protozero::pbf_reader duration = reader.get_message();
    std::int64_t seconds = 0;
    std::int64_t nanos = 0;
    while (duration.next()) {
      if (is(duration, 1, pbf_wire_type::varint)) {
        seconds = duration.get_int64();
      } else if (is(duration, 2, pbf_wire_type::varint)) {
        nanos = duration.get_int32();
      } else {
        duration.skip();
      }
    }
    if (seconds < 0 || nanos < 0 || nanos > 999'999'999) continue;  // no time to wait for
    seconds = std::min(seconds, kMaxDelaySeconds);
    // Rounded up: coming back a moment too early would be refused again.
    delay = std::chrono::milliseconds(seconds * 1000 + (nanos + 999'999) / 1'000'000);
  }
  return delay;
}

std::vector<FieldViolation> decode_violations(const std::string& bytes) {
  std::vector<FieldViolation> violations;
  protozero::pbf_reader reader(bytes);
  while (reader.next()) {
    if (!is(reader, 1, pbf_wire_type::length_delimited)) {
      reader.skip();
      continue;
    }
    protozero::pbf_reader entry = reader.get_message();
    FieldViolation violation;
    while (entry.next()) {
      if (is(entry, 1, pbf_wire_type::length_delimited)) {
        violation.field = text_of(entry);
      } else if (is(entry, 2, pbf_wire_type::length_delimited)) {
        violation.description = text_of(entry);
      } else {
        entry.skip();
      }
    }
    if (violations.size() < kMaxEntries) violations.push_back(std::move(violation));
  }
  return violations;
}

void read_detail(ConnectError& error, const Json& detail) {
  if (!detail.is_object()) return;
  const Json* type = json_util::find(detail, "type");
  const Json* value = json_util::find(detail, "value");
  if (type == nullptr || value == nullptr || !type->is_string() || !value->is_string()) return;
  std::string_view name = type->get_ref<const std::string&>();
  if (const auto slash = name.rfind('/'); slash != std::string_view::npos) name.remove_prefix(slash + 1);  // a type URL
  const auto bytes = base::base64_decode(value->get_ref<const std::string&>());
  if (!bytes) return;
  try {
    if (name == kErrorInfoType) {
      ErrorInfo info = decode_info(*bytes);
      // Ours wins over another's; otherwise the first stands.
      if (!error.info || (error.info->domain != kErrorDomain && info.domain == kErrorDomain)) error.info = std::move(info);
    } else if (name == kRetryInfoType) {
      if (const auto delay = decode_retry(*bytes)) error.retry_delay = delay;
    } else if (name == kBadRequestType) {
      for (auto& violation : decode_violations(*bytes)) {
        if (error.violations.size() < kMaxEntries) error.violations.push_back(std::move(violation));
      }
    }
  } catch (const protozero::exception&) {
    // A detail that cannot be read is no reason to lose the error itself (ER-5).
  }
}

}  // namespace

unsigned http_status(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::invalid_argument:
    case ErrorCode::failed_precondition:
    case ErrorCode::out_of_range:
      return 400;
    case ErrorCode::unauthenticated:
      return 401;
    case ErrorCode::permission_denied:
      return 403;
    case ErrorCode::not_found:
      return 404;
    case ErrorCode::already_exists:
    case ErrorCode::aborted:
      return 409;
    case ErrorCode::resource_exhausted:
      return 429;
    case ErrorCode::canceled:
      return 499;
    case ErrorCode::unknown:
    case ErrorCode::internal:
    case ErrorCode::data_loss:
      break;
    case ErrorCode::unimplemented:
      return 501;
    case ErrorCode::unavailable:
      return 503;
    case ErrorCode::deadline_exceeded:
      return 504;
  }
  return 500;
}

ErrorCode code_of_status(unsigned http_status) noexcept {
  switch (http_status) {
    case 400:
      return ErrorCode::internal;
    case 401:
      return ErrorCode::unauthenticated;
    case 403:
      return ErrorCode::permission_denied;
    case 404:
      return ErrorCode::unimplemented;
    case 429:
    case 502:
    case 503:
    case 504:
      return ErrorCode::unavailable;
    default:
      return ErrorCode::unknown;
  }
}

void json_util::read_error(const Json& json, ConnectError& error) {
  const Json* code = json_util::find(json, "code");
  const Json* message = json_util::find(json, "message");
  // Without a known code it is somebody else's JSON (a proxy's, say): the status speaks. Its message may still help.
  const auto known =
      code != nullptr && code->is_string() ? base::parse_error_code(code->get_ref<const std::string&>()) : std::nullopt;
  const bool ours = known.has_value();
  if (ours) error.code = *known;
  if (message != nullptr && message->is_string()) {
    error.message = message->get<std::string>();
  } else if (ours) {
    error.message.clear();
  }
  if (!ours) return;
  if (const Json* details = json_util::find(json, "details"); details != nullptr && details->is_array()) {
    std::size_t count = 0;
    for (const auto& detail : *details) {
      if (++count > kMaxDetails) break;
      read_detail(error, detail);
    }
  }
}

std::string encode_error(const ConnectError& error) {
  Json json{{"code", base::to_string(error.code)}};
  if (!error.message.empty()) json["message"] = error.message;
  Json details = Json::array();
  const auto add = [&](std::string_view type, const std::string& bytes) {
    details.push_back(Json{{"type", type}, {"value", base::base64_encode(bytes, false)}});
  };
  if (error.info) add(kErrorInfoType, encode_info(*error.info));
  if (error.retry_delay) add(kRetryInfoType, encode_retry(*error.retry_delay));
  if (!error.violations.empty()) add(kBadRequestType, encode_violations(error.violations));
  if (!details.empty()) json["details"] = std::move(details);
  return json_util::dump(json);
}

ConnectError decode_error(unsigned http_status, std::string_view body) {
  ConnectError error;
  error.code = code_of_status(http_status);
  error.message = "HTTP status " + std::to_string(http_status);
  if (body.size() > kMaxBody || nests_deeper(body, json_util::kMaxDepth)) return error;
  const Json json = Json::parse(body, nullptr, false);
  if (!json.is_object()) return error;
  json_util::read_error(json, error);
  return error;
}

}  // namespace cwsandbox::protocol
