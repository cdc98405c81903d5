// One type-erased byte stream over TCP, TLS and Unix sockets. It stands below Beast's WebSocket stream, so that Beast is
// instantiated once and not once for each transport.
#pragma once

#include <boost/asio/any_completion_handler.hpp>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/beast/core/role.hpp>
#include <boost/system/error_code.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

namespace cwsandbox::net {

namespace asio = boost::asio;
using boost::system::error_code;
using IoHandler = asio::any_completion_handler<void(error_code)>;
using SizeHandler = asio::any_completion_handler<void(error_code, std::size_t)>;

/// TCP and Unix sockets are one type: nothing above the address differs.
using Socket = asio::generic::stream_protocol::socket;

/// A buffer sequence in a fixed place. What does not fit is left for the next call: the operations move "some" bytes anyway.
template <typename Buffer>
class BufferArray {
 public:
  using value_type = Buffer;
  using const_iterator = const Buffer*;

  BufferArray() = default;
  template <typename Buffers>
  explicit BufferArray(const Buffers& buffers) {
    auto it = asio::buffer_sequence_begin(buffers);
    const auto last = asio::buffer_sequence_end(buffers);
    for (; it != last && size_ != kMax; ++it) {
      const Buffer b(*it);
      if (b.size() != 0) items_[size_++] = b;
    }
  }
  [[nodiscard]] const_iterator begin() const noexcept { return items_.data(); }
  [[nodiscard]] const_iterator end() const noexcept { return items_.data() + size_; }
  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }

 private:
  // Beast writes a frame as header, head, body: three. Eight leaves room for the pieces of an HTTP header.
  static constexpr std::size_t kMax = 8;
  std::array<Buffer, kMax> items_;
  std::size_t size_ = 0;
};
using MutableBuffers = BufferArray<asio::mutable_buffer>;
using ConstBuffers = BufferArray<asio::const_buffer>;

/// What carries the bytes. Shared, so that a deadline can close it from outside whoever owns the stream at that moment. Not
/// thread safe: everything on `executor()`.
class Transport : public std::enable_shared_from_this<Transport> {
 public:
  Transport() = default;
  virtual ~Transport() = default;
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;

  [[nodiscard]] virtual asio::any_io_executor executor() = 0;
  virtual void read_some(const MutableBuffers& into, SizeHandler handler) = 0;
  virtual void write_some(const ConstBuffers& from, SizeHandler handler) = 0;
  /// Drops the connection now. Operations under way complete with an error. May be called again.
  virtual void close() noexcept = 0;
  /// Ends the operations under way with operation_aborted; what has not been sent or read is lost, the connection stays.
  virtual void cancel() noexcept = 0;
  /// Nothing waits to be read and the peer has not closed: fit for one more request.
  [[nodiscard]] virtual bool quiet() noexcept = 0;
  /// Whether the peer has closed the connection or its sending side, whatever still waits to be read. Looks, never waits.
  [[nodiscard]] bool peer_gone() noexcept;

  /// Whether `send_file_some` can do anything.
  [[nodiscard]] virtual bool sends_files() const noexcept { return false; }
  /// Moves up to `count` bytes of a file to the peer inside the kernel, at least one; 0 bytes at the file's end. Fails with
  /// operation_not_supported, nothing sent, for a file that cannot be sent so.
  virtual void send_file_some(int fd, std::uint64_t offset, std::size_t count, SizeHandler handler);

  /// Ends the connection so that what was written last still arrives: closes our direction, reads and drops what the peer still
  /// sends until it closes too (closing a socket with unread bytes would reset it and destroy our last words), at most
  /// `kLinger`. Completes when the socket is closed. Never fails.
  void async_linger(IoHandler handler);

 protected:
  /// TLS says goodbye here.
  [[nodiscard]] virtual asio::awaitable<void> farewell() = 0;
  [[nodiscard]] virtual Socket& socket() noexcept = 0;

 private:
  static asio::awaitable<void> linger(std::shared_ptr<Transport> self);
};

/// A connected TCP or Unix socket as a transport.
[[nodiscard]] std::shared_ptr<Transport> make_plain_transport(Socket socket);

/// Programs that this process starts do not get the socket: Asio opens and accepts sockets that they would. Not atomic with the
/// opening, for which there is no way through Asio.
void keep_from_children(int socket) noexcept;

/// See `Transport::quiet`.
[[nodiscard]] bool socket_is_quiet(Socket& socket) noexcept;

/// The handle that Beast holds: an AsyncStream.
class AnyByteStream {
 public:
  using executor_type = asio::any_io_executor;

  explicit AnyByteStream(std::shared_ptr<Transport> transport) : transport_(std::move(transport)) {}

  [[nodiscard]] executor_type get_executor() const { return transport_->executor(); }
  [[nodiscard]] const std::shared_ptr<Transport>& transport() const noexcept { return transport_; }

  template <typename Buffers, typename Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    return asio::async_initiate<Token, void(error_code, std::size_t)>(InitiateRead{}, token, transport_.get(),
                                                                      MutableBuffers(buffers));
  }
  template <typename Buffers, typename Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    return asio::async_initiate<Token, void(error_code, std::size_t)>(InitiateWrite{}, token, transport_.get(),
                                                                      ConstBuffers(buffers));
  }

 private:
  struct InitiateRead {
    template <typename Handler>
    void operator()(Handler&& handler, Transport* transport, const MutableBuffers& buffers) const {
      transport->read_some(buffers, SizeHandler(std::forward<Handler>(handler)));
    }
  };
  struct InitiateWrite {
    template <typename Handler>
    void operator()(Handler&& handler, Transport* transport, const ConstBuffers& buffers) const {
      transport->write_some(buffers, SizeHandler(std::forward<Handler>(handler)));
    }
  };

  std::shared_ptr<Transport> transport_;
};

// Beast finds these by argument-dependent lookup.
void beast_close_socket(AnyByteStream& stream);
void teardown(boost::beast::role_type role, AnyByteStream& stream, error_code& ec);
template <typename Handler>
void async_teardown(boost::beast::role_type /*role*/, AnyByteStream& stream, Handler&& handler) {
  stream.transport()->async_linger(IoHandler(std::forward<Handler>(handler)));
}

}  // namespace cwsandbox::net
