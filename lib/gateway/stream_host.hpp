// What the connection of an exec stream talks to: a process, or in its place an answer that says why there is none.
#pragma once

#include "protocol/exec_stream.hpp"

#include <cstdint>
#include <string_view>

namespace cwsandbox::gateway {

class ExecConnection;

/// What a connection talks to between a start and its release: a process, or a refusal.
class StreamHost {
 public:
  explicit StreamHost(const protocol::StartRequest& request) : stream_(request) {}
  virtual ~StreamHost() = default;
  StreamHost(const StreamHost&) = delete;
  StreamHost& operator=(const StreamHost&) = delete;

  virtual void on_message(ExecConnection& connection, std::uint8_t channel, std::string_view payload) = 0;
  virtual void on_written() {}
  /// The connection is lost or was closed; nothing of ours is being written any more.
  virtual void on_connection_gone(ExecConnection& connection) = 0;
  /// The peer broke the rules of the WebSocket or of the stream.
  virtual void on_violation() {}
  [[nodiscard]] protocol::ExecServerStream& stream() noexcept { return stream_; }

 protected:
  protocol::ExecServerStream stream_;
};

/// An answer to a start or resume that leads to no process.
class Refusal final : public StreamHost {
 public:
  Refusal(const protocol::StartRequest& request, const protocol::StatusError& error);
  void on_message(ExecConnection& connection, std::uint8_t channel, std::string_view payload) override;
  void on_connection_gone(ExecConnection&) override {}
};

}  // namespace cwsandbox::gateway
