// Base URLs and listen addresses, as they come from an environment or a command line: an endpoint or std::invalid_argument. What
// was read is written as text that reads as the same endpoint, and no refusal repeats what stands before an '@'.
#include "net/endpoint.hpp"

#include <stdexcept>
#include <string>

#include "script.hpp"

using namespace cwsandbox::net;

namespace {

void base_url(std::string_view text) {
  Endpoint endpoint;
  try {
    endpoint = parse_base_url(text);
  } catch (const std::invalid_argument& e) {
    const std::string_view why = e.what();
    FUZZ_CHECK(why.starts_with("base URL: ") && why.size() < 256);
    return;
  }
  for (const char c : endpoint.authority()) FUZZ_CHECK(c > ' ' && c != '\x7f' && c != '/' && c != '@');
  switch (endpoint.scheme) {
    case Endpoint::Scheme::http:
    case Endpoint::Scheme::https:
      FUZZ_CHECK(!endpoint.host.empty() && endpoint.port != 0);
      break;
    case Endpoint::Scheme::unix_socket:
      FUZZ_CHECK(endpoint.path.starts_with('/') && endpoint.path.size() <= 107);
      FUZZ_CHECK(endpoint.path.find('\0') == std::string::npos);
      break;
    case Endpoint::Scheme::local:
      break;
  }
  FUZZ_CHECK(parse_base_url(endpoint.to_string()) == endpoint);
}

void user_information(std::string_view text) {
  // Whatever surrounds it, a password is refused and not repeated.
  const std::string secret = "hunter2hunter2";
  const auto half = text.size() / 2;
  const std::string url = std::string(text.substr(0, half)) + secret + "@" + std::string(text.substr(half));
  try {
    const Endpoint endpoint = parse_base_url(url);
    FUZZ_CHECK(endpoint.scheme == Endpoint::Scheme::unix_socket);  // there it is part of a file's name
  } catch (const std::invalid_argument& e) {
    FUZZ_CHECK(std::string_view(e.what()).find(secret) == std::string_view::npos);
  }
}

void listen(std::string_view text) {
  ListenAddress address;
  try {
    address = parse_listen(text);
  } catch (const std::invalid_argument& e) {
    FUZZ_CHECK(std::string_view(e.what()).starts_with("listen address: "));
    return;
  }
  if (address.is_unix) {
    FUZZ_CHECK(!address.path.empty() && address.path.size() <= 107 && address.loopback());
    return;
  }
  const bool v6 = address.host.find(':') != std::string::npos;
  const ListenAddress again =
      parse_listen("tcp:" + (v6 ? "[" + address.host + "]" : address.host) + ":" + std::to_string(address.port));
  FUZZ_CHECK(again.host == address.host && again.port == address.port && again.loopback() == address.loopback());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Script script(data, size);
  const std::uint8_t which = script.byte();
  const std::string_view text = script.rest();
  switch (which % 3) {
    case 0:
      base_url(text);
      break;
    case 1:
      user_information(text);
      break;
    default:
      listen(text);
      break;
  }
  return 0;
}
