#include "gateway/stream_host.hpp"

#include "gateway/exec_connection.hpp"

#include <variant>

namespace cwsandbox::gateway {

Refusal::Refusal(const protocol::StartRequest& request, const protocol::StatusError& error) : StreamHost(request) {
  stream_.on_stdin_closed();
  stream_.on_refused(error);
}

void Refusal::on_message(ExecConnection& connection, std::uint8_t channel, std::string_view payload) {
  const protocol::ServerEvent event = stream_.on_message(channel, payload);
  if (const auto* violation = std::get_if<protocol::ProtocolError>(&event)) {
    connection.close(violation->code, violation->reason);
  } else if (const auto* data = std::get_if<protocol::Data>(&event)) {
    stream_.on_stdin_consumed(data->bytes.size());  // sent before the refusal arrived
  } else if (std::holds_alternative<protocol::Released>(event)) {
    connection.drop_host();
  }
}

}  // namespace cwsandbox::gateway
