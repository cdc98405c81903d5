// A hostile client: any messages, in any order, between any moves of the process and its owner.
#include "protocol/exec_stream.hpp"

#include <optional>
#include <string>

#include "script.hpp"

using namespace cwsandbox::protocol;

namespace {

ExitStatus ended_with(ExitStatus::Outcome outcome, std::optional<int> code, std::optional<int> signal) {
  ExitStatus status;
  status.outcome = outcome;
  status.code = code;
  status.signal = signal;
  return status;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Script script(data, size);
  StartRequest request;
  request.id = "a";
  request.use_stdin = (script.byte() & 1) != 0;
  request.stdout_limit = script.word();
  request.stderr_limit = script.word();
  ExecServerStream server(request);
  bool broken = false, exited = false;
  OutMessage message;
  std::string copy;
  bool in_flight = false;
  std::uint64_t pushed = 0, unread = 0;
  const auto completes = [&] {
    if (!in_flight) return;
    FUZZ_CHECK(std::string(message.head) + std::string(message.body) == copy);
    server.on_sent();
    in_flight = false;
  };
  while (!script.empty()) {
    switch (script.byte() % 10) {
      case 0:
      case 1:
      case 2: {
        const std::uint8_t channel = script.byte();
        const auto event = server.on_message(channel, script.bytes(script.word()));
        if (const auto* error = std::get_if<ProtocolError>(&event)) {
          FUZZ_CHECK(!broken && !error->reason.empty() && error->reason.size() <= 123);
          broken = true;
        } else if (broken) {
          FUZZ_CHECK(std::holds_alternative<Nothing>(event));
        }
        if (const auto* bytes = std::get_if<Data>(&event)) unread += bytes->bytes.size();
        FUZZ_CHECK(unread <= kDefaultWindow);
        break;
      }
      case 3:
        if (!in_flight) {
          if (const auto out = server.next_message()) {
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
      case 5:
        server.on_started(script.byte());
        break;
      case 6: {
        OutboundStream& out = server.outbound(script.byte() % 2 == 0 ? Channel::std_out : Channel::std_err);
        const std::size_t n = script.word();
        if (!out.finished() && pushed < 4'000'000) {
          pushed += n;
          if (n % 2 == 0) {
            out.push(std::string(n, 'x'));
          } else {
            out.push_copy(std::string(n, 'x'));
          }
        }
        if (script.byte() % 16 == 0) out.finish();
        if (script.byte() % 64 == 0) out.abandon();
        FUZZ_CHECK(out.buffered() <= pushed);
        break;
      }
      case 7: {
        const std::uint64_t n = script.word() < unread ? script.word() : unread;
        server.on_stdin_consumed(static_cast<std::size_t>(n));
        unread -= std::min(n, unread);
        break;
      }
      case 8:
        switch (script.byte() % 8) {
          case 0:
            exited = true;
            server.on_exited(ended_with(ExitStatus::Outcome::exited, 0, {}));
            break;
          case 1:
            server.on_ended(ended_with(ExitStatus::Outcome::signaled, {}, 9));
            break;
          case 2:
            server.on_stdin_closed();
            break;
          case 3:
            server.hold_ends(script.byte() % 2 == 0);
            break;
          case 5:
            server.on_stdin_taken(script.word());
            FUZZ_CHECK(!server.stdin_awaited() || server.std_in().received() > 0);
            break;
          case 4:
            if (!exited) server.on_refused(StatusError{ErrorCode::not_found, "m", "", {}, {}});
            break;
          default:
            break;
        }
        break;
      default:
        if (!server.released() && !server.on_reconnected(script.word(), script.word(), script.byte() % 2 == 0)) broken = false;
        break;
    }
  }
  completes();
  return 0;
}
