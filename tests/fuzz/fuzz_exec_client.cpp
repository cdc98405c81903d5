// A hostile server: any messages, in any order, between any moves of the application.
#include "protocol/exec_stream.hpp"

#include <optional>
#include <string>

#include "script.hpp"

using namespace cwsandbox::protocol;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Script script(data, size);
  StartRequest request;
  request.id = "a";
  request.command = {"x"};
  request.use_stdin = (script.byte() & 1) != 0;
  request.stdout_limit = script.word();
  request.stderr_limit = script.word();
  ExecClientStream client(request);
  bool broken = false;
  OutMessage message;
  std::string copy;
  bool in_flight = false;
  std::uint64_t pushed = 0;
  int exits = 0;
  std::optional<std::uint64_t> closed_at;
  const auto completes = [&] {
    if (!in_flight) return;
    FUZZ_CHECK(std::string(message.head) + std::string(message.body) == copy);
    client.on_sent();
    in_flight = false;
  };
  while (!script.empty()) {
    switch (script.byte() % 9) {
      case 0:
      case 1:
      case 2: {
        const std::uint8_t channel = script.byte();
        const auto event = client.on_message(channel, script.bytes(script.word()));
        if (const auto* error = std::get_if<ProtocolError>(&event)) {
          FUZZ_CHECK(!broken && !error->reason.empty() && error->reason.size() <= 123);
          broken = true;
        } else if (broken) {
          FUZZ_CHECK(std::holds_alternative<Nothing>(event));
        }
        if (std::holds_alternative<Exited>(event) || std::holds_alternative<Refused>(event)) FUZZ_CHECK(++exits == 1);
        FUZZ_CHECK(client.stdin_taken() <= client.std_in().sent_offset());
        FUZZ_CHECK(!closed_at || (client.stdin_closed() && client.stdin_taken() == *closed_at));
        if (client.stdin_closed()) closed_at = client.stdin_taken();
        for (const Channel stream : {Channel::std_out, Channel::std_err}) {
          FUZZ_CHECK(client.inbound(stream).received() <= client.inbound(stream).limit());
        }
        break;
      }
      case 3:
        if (!in_flight) {
          if (const auto out = client.next_message()) {
            FUZZ_CHECK(!broken && !out->head.empty() && out->body.size() <= kMaxDataPayload);
            message = *out;
            copy = std::string(message.head) + std::string(message.body);
            in_flight = true;
          }
        }
        break;
      case 4:
        completes();
        break;
      case 5: {
        OutboundStream& in = client.std_in();
        const std::size_t n = script.word();
        if (!in.finished() && pushed < 4'000'000) {
          pushed += n;
          in.push(std::string(n, 'x'));
        }
        if (script.byte() % 16 == 0) in.finish();
        FUZZ_CHECK(in.buffered() <= pushed);
        break;
      }
      case 6:
        client.on_consumed(script.byte() % 2 == 0 ? Channel::std_out : Channel::std_err, script.word());
        break;
      case 7:
        switch (script.byte() % 5) {
          case 0:
            client.request_signal(std::to_string(1 + script.byte() % 31));
            break;
          case 1:
            client.request_cancel(script.byte());
            break;
          case 2:
            client.request_resize(1, 1);
            break;
          case 3:
            client.request_flush();
            break;
          default:
            client.release();
            break;
        }
        break;
      default:
        client.on_reconnected();
        broken = false;
        break;
    }
  }
  completes();
  return 0;
}
