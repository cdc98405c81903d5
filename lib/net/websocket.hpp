// One WebSocket connection, client or server, over TCP, TLS or a Unix socket. Beast stays behind this header.
#pragma once

#include "net/memory_pool.hpp"

#include <boost/asio/any_completion_handler.hpp>
#include <boost/asio/any_io_executor.hpp>
#include <boost/system/error_code.hpp>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace cwsandbox::net {

namespace asio = boost::asio;
using boost::system::error_code;
using IoHandler = asio::any_completion_handler<void(error_code)>;

/// A received binary message, split into its first byte and the rest. Reused from read to read, so that a small message costs
/// no allocation; `take` hands the bytes over without a copy when they fill their storage well.
class IncomingMessage {
 public:
  [[nodiscard]] bool empty() const noexcept { return empty_; }  ///< a message of no bytes at all
  [[nodiscard]] bool is_text() const noexcept { return text_; }
  [[nodiscard]] std::uint8_t channel() const noexcept { return channel_; }
  [[nodiscard]] std::string_view payload() const noexcept { return {storage_.data(), size_}; }
  /// The payload as a string of its own: moved out when it is large, copied when small.
  [[nodiscard]] std::string take();

 private:
  friend class WebSocket;
  std::string storage_;  // sized to capacity; size_ bytes are valid
  std::size_t size_ = 0;
  std::uint8_t channel_ = 0;
  bool empty_ = true, text_ = false;
};

/// Not thread safe: every call and every completion on `executor()`, which must be serialised. At most one read and one write under
/// way, and a close beside them. It may be destroyed with operations under way: they complete with an error, and an IncomingMessage
/// need not live until then; what is being written must.
class WebSocket {
 public:
  struct Limits {
    std::size_t max_message = 0;  ///< bytes; a larger one fails the read with websocket::error::message_too_big
    /// Silence after which the peer is lost; pings go out at half of it. Zero: never. Only reading hears the peer, so keep a read
    /// under way: a connection that nobody reads counts as silent.
    std::chrono::steady_clock::duration idle_timeout{};
    /// What a large message counts against while it is read; the read fails with no_buffer_space when there is no more. Null:
    /// nothing.
    std::shared_ptr<MemoryPool> memory{};
  };
  virtual ~WebSocket() = default;
  [[nodiscard]] virtual asio::any_io_executor executor() = 0;
  /// Reads one whole message. Completes with an error when the connection is closed or lost; `close_code` and `close_reason`
  /// then say what the peer said (1005: it closed without a code; 0: it did not close, it was lost).
  virtual void async_read(IncomingMessage& into, IoHandler handler) = 0;
  /// Writes one binary message made of `head` and `body`, which must stay valid until completion. A frame of at most 64 KiB with
  /// its header (10 bytes, 14 from a client) goes out in one system call; one byte more takes two.
  virtual void async_write(std::string_view head, std::string_view body, IoHandler handler) = 0;
  /// Sends a close frame (code 0: an empty one; `reason` is cut to 123 bytes) and waits for the peer's, at most `deadline`.
  /// Completes once the socket is closed, whatever happened: no error when the peer answered, beast::error::timeout, or another.
  virtual void async_close(std::uint16_t code, std::string_view reason, std::chrono::steady_clock::duration deadline,
                           IoHandler handler) = 0;
  /// Drops the connection now; operations under way complete with an error.
  virtual void abort() noexcept = 0;
  [[nodiscard]] virtual std::uint16_t close_code() const = 0;
  [[nodiscard]] virtual std::string close_reason() const = 0;
  [[nodiscard]] virtual std::string subprotocol() const = 0;

 protected:
  // For the implementation only: IncomingMessage befriends this class, not its descendants.
  static std::string& storage(IncomingMessage& m) noexcept { return m.storage_; }
  static std::size_t& size(IncomingMessage& m) noexcept { return m.size_; }
  static std::uint8_t& channel(IncomingMessage& m) noexcept { return m.channel_; }
  static void set_kind(IncomingMessage& m, bool empty, bool text) noexcept {
    m.empty_ = empty;
    m.text_ = text;
  }
};

}  // namespace cwsandbox::net
