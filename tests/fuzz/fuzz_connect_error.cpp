// Error bodies from anywhere (ER-5): always an error with a code, never an exception, and what was read can be written.
#include "base/base64.hpp"
#include "protocol/connect.hpp"
#include "script.hpp"

using namespace cwsandbox::protocol;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Script script(data, size);
  const unsigned status = script.word();
  const std::uint8_t how = script.byte();
  std::string body(script.rest());
  if (how % 4 != 0) {  // straight to the protobuf readers
    const char* types[] = {"google.rpc.ErrorInfo", "google.rpc.RetryInfo", "google.rpc.BadRequest"};
    body = std::string(R"({"code":"aborted","details":[{"type":")") + types[how % 3] + R"(","value":")" +
           cwsandbox::base::base64_encode(body, false) + "\"}]}";
  }
  const ConnectError error = decode_error(status, body);
  FUZZ_CHECK(cwsandbox::base::parse_error_code(cwsandbox::base::to_string(error.code)) == error.code);
  FUZZ_CHECK(error.violations.size() <= 256);
  FUZZ_CHECK(!error.info || error.info->metadata.size() <= 256);
  FUZZ_CHECK(!error.retry_delay || error.retry_delay->count() >= 0);
  const ConnectError again = decode_error(http_status(error.code), encode_error(error));
  FUZZ_CHECK(again.code == error.code);
  return 0;
}
