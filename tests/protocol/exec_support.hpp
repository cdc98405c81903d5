// What the tests of the exec stream's machines share: literal messages in and out.
#pragma once

#include "protocol/exec_stream.hpp"
#include "support/catch.hpp"

#include <nlohmann/json.hpp>

#include <string>

namespace exec_test {

using namespace cwsandbox::protocol;
using Json = nlohmann::json;

inline constexpr const char* kId = "6f1c6f1e-0c6e-4c4b-9d0e-2b7b3a1f0c55";

inline StartRequest request(bool use_stdin = false) {
  StartRequest start;
  start.id = kId;
  start.sandbox_id = "sb-1";
  start.command = {"cat"};
  start.use_stdin = use_stdin;
  return start;
}

struct Message {
  int channel = -1;
  std::string payload;
  [[nodiscard]] Json json() const { return Json::parse(payload); }
};

/// The next message as the peer would see it; channel -1 when there is none.
template <class Machine>
Message next(Machine& machine, bool sent = true) {
  const auto out = machine.next_message();
  if (!out) return {};
  std::string bytes(out->head);
  bytes += out->body;
  if (sent) machine.on_sent();
  REQUIRE(!bytes.empty());
  return {static_cast<unsigned char>(bytes[0]), bytes.substr(1)};
}

template <class Machine>
bool quiet(Machine& machine) {
  return !machine.next_message().has_value();
}

template <class Event, class Machine>
Event expect(Machine& machine, int channel, const std::string& payload) {
  auto event = machine.on_message(static_cast<std::uint8_t>(channel), payload);
  const auto* error = std::get_if<ProtocolError>(&event);
  INFO((error ? error->reason : ""));
  REQUIRE(std::holds_alternative<Event>(event));
  return std::get<Event>(event);
}

template <class Machine>
std::string fault(Machine& machine, int channel, const std::string& payload) {
  const auto event = machine.on_message(static_cast<std::uint8_t>(channel), payload);
  if (!std::holds_alternative<ProtocolError>(event)) return "(no fault)";
  const auto& error = std::get<ProtocolError>(event);
  CHECK(error.reason.size() <= 123);
  // Exactly one: after it the machine is silent.
  CHECK(std::holds_alternative<Nothing>(machine.on_message(200, "")));
  CHECK(quiet(machine));
  return error.reason;
}

inline const std::string kStarted =
    std::string(R"({"type":"started","id":")") + kId + R"(","pid":7,"attached":false,"window":{"stdin":1048576}})";

/// A client whose process runs.
inline ExecClientStream running_client(bool use_stdin = false) {
  ExecClientStream client(request(use_stdin));
  CHECK(next(client).channel == 5);
  CHECK(expect<Started>(client, 3, kStarted).pid == 7);
  return client;
}

inline ExecServerStream running_server(bool use_stdin = false) {
  ExecServerStream server(request(use_stdin));
  server.on_started(7);
  CHECK(next(server).json()["type"] == "started");
  return server;
}

inline ExitStatus exited(int code) {
  ExitStatus status;
  status.code = code;
  return status;
}

}  // namespace exec_test
