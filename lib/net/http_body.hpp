// Bodies of HTTP messages piece by piece, for the client and the server of this folder: what is read goes straight into the
// caller's memory, what is written comes straight from it.
#pragma once

#include "net/any_byte_stream.hpp"
#include "net/watchdog.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace cwsandbox::net {

/// The framing of a body in chunks. Strict, because what two peers read differently is a way to smuggle a request.
class ChunkFraming {
 public:
  /// Takes framing from the front of `bytes` until data is due, the body is over, or more bytes are needed. False: malformed.
  [[nodiscard]] bool put(std::string_view bytes, std::size_t& consumed);
  /// Bytes of data that come next.
  [[nodiscard]] std::uint64_t data() const noexcept { return state_ == State::data ? left_ : 0; }
  void took(std::uint64_t bytes) noexcept {
    left_ -= bytes;
    if (left_ == 0) state_ = State::data_cr;
  }
  [[nodiscard]] bool done() const noexcept { return state_ == State::done; }

 private:
  enum class State : std::uint8_t { size, extension, size_lf, data, data_cr, data_lf, line, trailer, trailer_lf, end_lf, done };
  State state_ = State::size;
  std::uint64_t left_ = 0;
  std::size_t digits_ = 0, framing_ = 0;
};

/// What is still to come of a body. It does no I/O itself.
class BodyReader {
 public:
  static BodyReader of_length(std::uint64_t length) { return BodyReader(Kind::length, length); }
  static BodyReader in_chunks() { return BodyReader(Kind::chunks, 0); }
  static BodyReader until_end() { return BodyReader(Kind::end, 0); }

  [[nodiscard]] bool done() const noexcept;
  /// Bytes that are left when announced.
  [[nodiscard]] std::optional<std::uint64_t> left() const noexcept;

  /// Takes framing from the front of `bytes`, then what follows of the body, which is `data`: empty when more bytes are needed or
  /// the body is over. False: malformed.
  [[nodiscard]] bool next(std::string_view& bytes, std::string_view& data);
  /// Moves what has been read already into `into`. False: malformed.
  [[nodiscard]] bool take(boost::beast::flat_buffer& buffer, asio::mutable_buffer into, std::size_t& taken);
  /// Where to read more when `take` took nothing: data into the caller's memory, framing into the buffer. `size` bytes of it are
  /// data at most; what is read goes to `commit`.
  [[nodiscard]] std::array<asio::mutable_buffer, 2> space(boost::beast::flat_buffer& buffer, asio::mutable_buffer into) const;
  /// `read` bytes came into `space`. False: malformed. `taken` of them are data in the caller's memory.
  [[nodiscard]] bool commit(boost::beast::flat_buffer& buffer, const std::array<asio::mutable_buffer, 2>& space, std::size_t read,
                            std::size_t& taken);
  /// The connection has ended in good order. False: within the body.
  [[nodiscard]] bool end() noexcept;

 private:
  enum class Kind : std::uint8_t { length, chunks, end };
  BodyReader(Kind kind, std::uint64_t length) : kind_(kind), left_(length) {}
  [[nodiscard]] bool unframe(std::string_view& bytes);
  [[nodiscard]] bool frame(boost::beast::flat_buffer& buffer);
  [[nodiscard]] std::size_t due(std::size_t room) const noexcept;
  void took(std::size_t bytes) noexcept;

  Kind kind_;
  std::uint64_t left_;
  bool ended_ = false;
  ChunkFraming chunks_;
};

/// The line before a chunk of that many bytes.
[[nodiscard]] std::string chunk_head(std::size_t size);
inline constexpr std::string_view kChunkEnd = "\r\n";
inline constexpr std::string_view kLastChunk = "0\r\n\r\n";

/// How a body goes out. Everything on the transport's executor.
struct BodySink {
  std::shared_ptr<Transport> transport;
  Watchdog* watchdog;              ///< armed anew whenever bytes move
  Watchdog::Clock::duration idle;  ///< for how long nothing may move
  bool chunked = false;
  const bool* enough = nullptr;  ///< becomes true when no more is wanted
};

/// Sends all of `from`: as one chunk when the body is chunked (nothing for no bytes).
[[nodiscard]] asio::awaitable<error_code> send_data(BodySink sink, asio::const_buffer from);
/// Sends these bytes as they are.
[[nodiscard]] asio::awaitable<error_code> send_raw(BodySink sink, std::string_view bytes);

struct FileSent {
  std::uint64_t bytes = 0;
  error_code connection;  ///< why the connection failed
  int file = 0;           ///< errno of the file
};
/// Sends `length` bytes of a regular file, fewer when it ends before or there is enough of it.
[[nodiscard]] asio::awaitable<FileSent> send_file(BodySink sink, int fd, std::uint64_t offset, std::uint64_t length);

}  // namespace cwsandbox::net
