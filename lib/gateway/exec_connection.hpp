// One WebSocket of the exec stream. What comes over it is somebody else's: see StreamHost.
#pragma once

#include "gateway/context.hpp"
#include "gateway/stream_host.hpp"
#include "gateway/tokens.hpp"
#include "net/websocket.hpp"
#include "protocol/exec_stream.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace cwsandbox::gateway {

class ExecTable;

/// One WebSocket: reads without ever waiting for a stream, writes one message at a time, control before data.
class ExecConnection : public std::enable_shared_from_this<ExecConnection> {
 public:
  ExecConnection(std::shared_ptr<Context> context, ExecTable& table, std::shared_ptr<const Credential> credential,
                 std::unique_ptr<net::WebSocket> socket);

  void start() { read(); }
  void set_host(std::shared_ptr<StreamHost> host);
  /// What it talked to was released: ready for the next first message.
  void drop_host() { host_.reset(); }
  void resume_reading();
  void pump();
  /// Says why, then closes. What is being written may finish, for a moment.
  void close(protocol::CloseCode code, std::string_view reason);
  void abort() noexcept;
  [[nodiscard]] bool open() const noexcept { return open_; }
  [[nodiscard]] const Credential& credential() const noexcept { return *credential_; }
  [[nodiscard]] bool idle() const noexcept { return !host_ && !paused_; }
  /// No read until `resume_reading`: the first message cannot be acted on yet.
  void pause() { paused_ = true; }

 private:
  void read();
  void on_read(error_code ec);
  void on_first_message();
  static asio::awaitable<void> read_large_first_message(std::shared_ptr<ExecConnection> self);
  void act_on(const protocol::FirstMessage& first);
  void after_message();
  void on_written(error_code ec);
  void lost();
  void issue_close();
  void release_host();
  void settle();

  std::shared_ptr<Context> context_;
  ExecTable* table_;  // gone once the context is dropped
  std::shared_ptr<const Credential> credential_;
  std::unique_ptr<net::WebSocket> socket_;
  net::IncomingMessage message_;
  std::shared_ptr<StreamHost> host_;
  std::shared_ptr<StreamHost> writing_;  // whose message is being written: its bytes must stay
  asio::steady_timer close_timer_;
  std::optional<std::pair<protocol::CloseCode, std::string>> close_wanted_;
  std::chrono::steady_clock::time_point begin_;
  std::uint64_t bytes_in_ = 0, bytes_out_ = 0;
  bool open_ = true, reading_ = false, paused_ = false, closing_ = false, closed_ = false;
};

}  // namespace cwsandbox::gateway
