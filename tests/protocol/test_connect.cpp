// Connect errors. The bytes of the details are written out from google.rpc's field numbers, not made by our encoder.
#include "base/base64.hpp"
#include "protocol/connect.hpp"
#include "support/catch.hpp"

#include <random>
#include <string>

using namespace cwsandbox::protocol;
using cwsandbox::base::base64_encode;
using namespace std::chrono_literals;

TEST_CASE("Connect codes have the HTTP statuses of the reference", "[connect][ER-4]") {
  CHECK(http_status(ErrorCode::canceled) == 499);
  CHECK(http_status(ErrorCode::unknown) == 500);
  CHECK(http_status(ErrorCode::invalid_argument) == 400);
  CHECK(http_status(ErrorCode::deadline_exceeded) == 504);
  CHECK(http_status(ErrorCode::not_found) == 404);
  CHECK(http_status(ErrorCode::already_exists) == 409);
  CHECK(http_status(ErrorCode::permission_denied) == 403);
  CHECK(http_status(ErrorCode::resource_exhausted) == 429);
  CHECK(http_status(ErrorCode::failed_precondition) == 400);
  CHECK(http_status(ErrorCode::aborted) == 409);
  CHECK(http_status(ErrorCode::out_of_range) == 400);
  CHECK(http_status(ErrorCode::unimplemented) == 501);
  CHECK(http_status(ErrorCode::internal) == 500);
  CHECK(http_status(ErrorCode::unavailable) == 503);
  CHECK(http_status(ErrorCode::data_loss) == 500);
  CHECK(http_status(ErrorCode::unauthenticated) == 401);
}

TEST_CASE("a response without a Connect body is mapped from its status", "[connect][ER-4]") {
  const auto code = [](unsigned status) { return decode_error(status, "<html>").code; };
  CHECK(code(400) == ErrorCode::internal);
  CHECK(code(401) == ErrorCode::unauthenticated);
  CHECK(code(403) == ErrorCode::permission_denied);
  CHECK(code(404) == ErrorCode::unimplemented);
  CHECK(code(429) == ErrorCode::unavailable);
  CHECK(code(502) == ErrorCode::unavailable);
  CHECK(code(503) == ErrorCode::unavailable);
  CHECK(code(504) == ErrorCode::unavailable);
  CHECK(code(418) == ErrorCode::unknown);
  CHECK(code(500) == ErrorCode::unknown);
  CHECK(decode_error(502, "").message == "HTTP status 502");
}

TEST_CASE("an error with all three details is read", "[connect][ER-2]") {
  // ErrorInfo{1: "R", 2: "cwsandbox.com", 3: {1: "k", 2: "v"}}
  const std::string info(
      "\x0a\x01R\x12\x0d"
      "cwsandbox.com\x1a\x06\x0a\x01k\x12\x01v",
      26);
  // RetryInfo{1: {1: 2, 2: 500000000}}
  const std::string retry("\x0a\x08\x08\x02\x10\x80\xca\xb5\xee\x01", 10);
  // BadRequest{1: {1: "f", 2: "d"}}
  const std::string bad(
      "\x0a\x06\x0a\x01"
      "f\x12\x01"
      "d",
      8);
  const std::string body = R"({"code":"not_found","message":"no such sandbox","details":[)"
                           R"({"type":"google.rpc.ErrorInfo","value":")" +
                           base64_encode(info, false) +
                           R"("},)"
                           R"({"type":"type.googleapis.com/google.rpc.RetryInfo","value":")" +
                           base64_encode(retry, true) +
                           R"("},)"
                           R"({"type":"google.rpc.BadRequest","value":")" +
                           base64_encode(bad, false) + R"(","debug":{}}]})";
  const ConnectError error = decode_error(404, body);
  CHECK(error.code == ErrorCode::not_found);
  CHECK(error.message == "no such sandbox");
  REQUIRE(error.info);
  CHECK(error.info->reason == "R");
  CHECK(error.info->domain == kErrorDomain);
  CHECK(error.info->metadata == std::map<std::string, std::string>{{"k", "v"}});
  CHECK(error.retry_delay == 2500ms);
  REQUIRE(error.violations.size() == 1);
  CHECK(error.violations[0].field == "f");
  CHECK(error.violations[0].description == "d");
}

TEST_CASE("an error is written as the protocol says", "[connect][ER-2]") {
  ConnectError error;
  error.code = ErrorCode::unavailable;
  error.message = "later";
  CHECK(encode_error(error) == R"({"code":"unavailable","message":"later"})");
  error.info = ErrorInfo{"R", "cwsandbox.com", {{"k", "v"}}};
  error.retry_delay = 2500ms;
  error.violations.push_back({"f", "d"});
  CHECK(encode_error(error) ==
        R"({"code":"unavailable","details":[{"type":"google.rpc.ErrorInfo","value":"CgFSEg1jd3NhbmRib3guY29tGgYKAWsSAXY"},)"
        R"({"type":"google.rpc.RetryInfo","value":"CggIAhCAyrXuAQ"},{"type":"google.rpc.BadRequest","value":"CgYKAWYSAWQ"}],)"
        R"("message":"later"})");
  const ConnectError back = decode_error(503, encode_error(error));
  CHECK(back.info->metadata.at("k") == "v");
  CHECK(back.retry_delay == 2500ms);
  error.message = "\xff\xfe";
  CHECK(decode_error(500, encode_error(error)).message == "\xef\xbf\xbd\xef\xbf\xbd");
}

TEST_CASE("a foreign or missing code falls back to the status", "[connect][ER-5]") {
  CHECK(decode_error(503, R"({"code":"whatever","message":"m"})").code == ErrorCode::unavailable);
  CHECK(decode_error(503, R"({"code":"whatever","message":"m"})").message == "m");
  CHECK(decode_error(403, R"({"code":7})").code == ErrorCode::permission_denied);
  CHECK(decode_error(403, R"({"message":"go away"})").message == "go away");
  CHECK(decode_error(404, R"(["code"])").code == ErrorCode::unimplemented);
  CHECK(decode_error(404, R"("code")").code == ErrorCode::unimplemented);
  CHECK(decode_error(404, "null").code == ErrorCode::unimplemented);
  CHECK(decode_error(404, R"({"code":"not_found","message":5})").code == ErrorCode::not_found);
}

TEST_CASE("hostile details never throw and leave the error itself intact", "[connect][ER-5]") {
  const auto with_detail = [](const std::string& type, const std::string& value) {
    return decode_error(404,
                        R"({"code":"not_found","message":"m","details":[{"type":")" + type + R"(","value":")" + value + R"("}]})");
  };
  const std::string types[] = {"google.rpc.ErrorInfo", "google.rpc.RetryInfo", "google.rpc.BadRequest"};
  const std::string values[] = {
      "",
      "!!!!",
      "A",
      "CgFS=",
      base64_encode(std::string("\x0a\x7f"
                                "short",
                                7),
                    false),                                                                            // length beyond the end
      base64_encode(std::string(11, '\xff'), false),                                                   // endless varint
      base64_encode(std::string("\x00\x01", 2), false),                                                // field number 0
      base64_encode(std::string("\x0b\x0c", 2), false),                                                // groups
      base64_encode(std::string("\x0a\x02\x0a\xff", 4), false),                                        // bad inside
      base64_encode(std::string("\x08\x01\x10\x01\x18\x01", 6), false),                                // wrong wire types
      base64_encode(std::string("\x0a\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 13), false)};  // seconds: -1
  for (const auto& type : types) {
    for (const auto& value : values) {
      const ConnectError error = with_detail(type, value);
      CHECK(error.code == ErrorCode::not_found);
      CHECK(error.message == "m");
      CHECK(!error.retry_delay);
    }
  }
  for (const char* details :
       {"7", "{}", "[7,null,[],{}]", R"([{"type":7,"value":"AA"}])", R"([{"type":"google.rpc.ErrorInfo","value":{}}])"}) {
    CHECK(decode_error(404, R"({"code":"not_found","details":)" + std::string(details) + "}").code == ErrorCode::not_found);
  }
  // 2^63-1 seconds: bounded, not overflowed
  const ConnectError forever = with_detail(
      "google.rpc.RetryInfo", base64_encode(std::string("\x0a\x0a\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 12), false));
  REQUIRE(forever.retry_delay);
  CHECK(*forever.retry_delay <= std::chrono::hours(24 * 366));
  CHECK(decode_error(404, std::string(100'000, '[')).code == ErrorCode::unimplemented);
  CHECK(decode_error(404, R"({"code":"not_found","details":)" + std::string(100'000, '[') + "}").code == ErrorCode::unimplemented);
  CHECK(decode_error(404, R"({"code":"not_found","message":")" + std::string(2'000'000, 'x') + "\"}").code ==
        ErrorCode::unimplemented);
}

TEST_CASE("what an error keeps is bounded", "[connect][ER-5]") {
  std::string violations;
  for (int i = 0; i < 10'000; ++i)
    violations += std::string(
        "\x0a\x03\x0a\x01"
        "f",
        5);
  std::string metadata;
  for (int i = 0; i < 10'000; ++i) {
    const std::string key = std::to_string(100'000 + i);
    metadata += std::string("\x1a\x0b\x0a\x06", 4) + key + std::string("\x12\x01v", 3);
  }
  const std::string body = R"({"code":"aborted","details":[{"type":"google.rpc.BadRequest","value":")" +
                           base64_encode(violations, false) + R"("},{"type":"google.rpc.ErrorInfo","value":")" +
                           base64_encode(metadata, false) + R"("}]})";
  const ConnectError error = decode_error(409, body);
  CHECK(error.violations.size() == 256);
  REQUIRE(error.info);
  CHECK(error.info->metadata.size() == 256);
}

TEST_CASE("random and mutated bodies never throw", "[connect][ER-5]") {
  std::mt19937 random(7);
  ConnectError error;
  error.code = ErrorCode::internal;
  error.message = "m";
  error.info = ErrorInfo{"R", "cwsandbox.com", {{"k", "v"}}};
  error.retry_delay = 1500ms;
  error.violations.push_back({"f", "d"});
  const std::string good = encode_error(error);
  for (int i = 0; i < 20'000; ++i) {
    std::string body = good;
    for (int k = 0; k < 3; ++k) body[random() % body.size()] = static_cast<char>(random());
    const ConnectError back = decode_error(500, body);
    CHECK_FALSE(cwsandbox::base::to_string(back.code).empty());
  }
}

TEST_CASE("ours wins over another domain's ErrorInfo", "[connect][ER-3]") {
  const auto detail = [](const std::string& reason, const std::string& domain) {
    std::string info = "\x0a" + std::string(1, static_cast<char>(reason.size())) + reason + "\x12" +
                       std::string(1, static_cast<char>(domain.size())) + domain;
    return R"({"type":"google.rpc.ErrorInfo","value":")" + base64_encode(info, false) + R"("})";
  };
  const ConnectError error = decode_error(503, R"({"code":"unavailable","details":[)" + detail("X", "other.com") + "," +
                                                   detail("Y", "cwsandbox.com") + "," + detail("Z", "cwsandbox.com") + "]}");
  REQUIRE(error.info);
  CHECK(error.info->reason == "Y");
}
