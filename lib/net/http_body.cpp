#include "net/http_body.hpp"

#include "base/hex.hpp"
#include "net/storage.hpp"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <limits>

namespace cwsandbox::net {

namespace {

// Bytes of one chunk's head, or of all trailers: they mean nothing to us.
constexpr std::size_t kMaxFraming = 16 * 1024;
// What is read behind a chunk's data, for the head of the next.
constexpr std::size_t kFramingRead = 512;
constexpr std::size_t kFileRead = 256 * 1024;
// What is sent of a file at once: the deadline is looked at in between.
constexpr std::size_t kFileSlice = 4 * 1024 * 1024;

}  // namespace

bool ChunkFraming::put(std::string_view bytes, std::size_t& consumed) {
  consumed = 0;
  for (const char c : bytes) {
    if (state_ == State::done || state_ == State::data) return true;
    ++consumed;
    if (++framing_ > kMaxFraming) return false;
    // A line break is CR LF, nothing else.
    if (c == '\n' && state_ != State::size_lf && state_ != State::data_lf && state_ != State::trailer_lf && state_ != State::end_lf)
      return false;
    switch (state_) {
      case State::size:
        if (const int digit = base::hex_value(c); digit >= 0) {
          if (++digits_ > 16 || left_ > std::numeric_limits<std::uint64_t>::max() >> 4U) return false;
          left_ = left_ << 4U | static_cast<std::uint64_t>(digit);
        } else if (digits_ == 0) {
          return false;
        } else if (c == '\r') {
          state_ = State::size_lf;
        } else if (c == ';' || c == ' ' || c == '\t') {
          state_ = State::extension;
        } else {
          return false;
        }
        break;
      case State::extension:
        if (c == '\r') state_ = State::size_lf;
        break;
      case State::size_lf:
        if (c != '\n') return false;
        state_ = left_ == 0 ? State::line : State::data;
        framing_ = 0;
        break;
      case State::data_cr:
        if (c != '\r') return false;
        state_ = State::data_lf;
        break;
      case State::data_lf:
        if (c != '\n') return false;
        state_ = State::size;
        left_ = 0;
        digits_ = 0;
        break;
      case State::line:
        state_ = c == '\r' ? State::end_lf : State::trailer;
        break;
      case State::trailer:
        if (c == '\r') state_ = State::trailer_lf;
        break;
      case State::trailer_lf:
        if (c != '\n') return false;
        state_ = State::line;
        break;
      case State::end_lf:
        if (c != '\n') return false;
        state_ = State::done;
        break;
      case State::data:
      case State::done:
        break;
    }
  }
  return true;
}

bool BodyReader::done() const noexcept {
  switch (kind_) {
    case Kind::length:
      return left_ == 0;
    case Kind::chunks:
      return chunks_.done();
    case Kind::end:
      return ended_;
  }
  return true;
}

std::optional<std::uint64_t> BodyReader::left() const noexcept {
  if (kind_ == Kind::length) return left_;
  return std::nullopt;
}

std::size_t BodyReader::due(std::size_t room) const noexcept {
  if (kind_ == Kind::end) return ended_ ? 0 : room;
  const std::uint64_t data = kind_ == Kind::length ? left_ : chunks_.data();
  return static_cast<std::size_t>(std::min<std::uint64_t>(room, data));
}

void BodyReader::took(std::size_t bytes) noexcept {
  if (bytes == 0) return;
  if (kind_ == Kind::length) left_ -= bytes;
  if (kind_ == Kind::chunks) chunks_.took(bytes);
}

bool BodyReader::unframe(std::string_view& bytes) {
  if (kind_ != Kind::chunks) return true;
  std::size_t consumed = 0;
  const bool sound = chunks_.put(bytes, consumed);
  bytes.remove_prefix(consumed);
  return sound;
}

bool BodyReader::frame(boost::beast::flat_buffer& buffer) {
  const auto data = buffer.cdata();
  std::string_view bytes(static_cast<const char*>(data.data()), data.size());
  const bool sound = unframe(bytes);
  buffer.consume(data.size() - bytes.size());
  return sound;
}

bool BodyReader::next(std::string_view& bytes, std::string_view& data) {
  data = {};
  if (!unframe(bytes)) return false;
  data = bytes.substr(0, due(bytes.size()));
  bytes.remove_prefix(data.size());
  took(data.size());
  return true;
}

bool BodyReader::take(boost::beast::flat_buffer& buffer, asio::mutable_buffer into, std::size_t& taken) {
  taken = 0;
  for (;;) {
    if (!frame(buffer)) return false;
    const std::size_t n = std::min(due(into.size()), buffer.size());
    if (n == 0) return true;
    std::memcpy(into.data(), buffer.cdata().data(), n);
    buffer.consume(n);
    took(n);
    into += n;
    taken += n;
  }
}

std::array<asio::mutable_buffer, 2> BodyReader::space(boost::beast::flat_buffer& buffer, asio::mutable_buffer into) const {
  std::array<asio::mutable_buffer, 2> out;
  const std::size_t direct = due(into.size());
  out[0] = asio::buffer(into, direct);
  // Only behind a whole chunk: what comes after its data must not overtake data for which there is no room.
  if (kind_ == Kind::chunks && direct == chunks_.data()) out[1] = buffer.prepare(kFramingRead);
  return out;
}

bool BodyReader::commit(boost::beast::flat_buffer& buffer, const std::array<asio::mutable_buffer, 2>& space, std::size_t read,
                        std::size_t& taken) {
  taken = std::min(read, space[0].size());
  took(taken);
  if (read > taken) buffer.commit(read - taken);
  return frame(buffer);  // now, so that a body whose end has come is known to be over
}

bool BodyReader::end() noexcept {
  if (kind_ == Kind::end) ended_ = true;
  return done();
}

std::string chunk_head(std::size_t size) {
  std::array<char, 20> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), size, 16).ptr;
  std::string out(text.data(), end);
  out += "\r\n";
  return out;
}

namespace {

asio::awaitable<error_code> send_buffers(BodySink sink, std::array<asio::const_buffer, 3> from) {
  AnyByteStream stream(sink.transport);
  error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  sink.watchdog->expires_after(sink.idle);
  for (;;) {
    // All that is left at once: the socket takes what it has room for, however much that is.
    std::size_t n = co_await stream.async_write_some(from, token);
    if (ec) co_return ec;
    if (n != 0) sink.watchdog->expires_after(sink.idle);
    bool more = false;
    for (auto& part : from) {
      const std::size_t gone = std::min(n, part.size());
      part += gone;
      n -= gone;
      more = more || part.size() != 0;
    }
    if (!more) co_return ec;
    if (sink.enough != nullptr && *sink.enough) co_return asio::error::operation_aborted;
  }
}

}  // namespace

asio::awaitable<error_code> send_data(BodySink sink, asio::const_buffer from) {
  if (from.size() == 0) co_return error_code{};
  std::array<asio::const_buffer, 3> parts{asio::const_buffer(), from, asio::const_buffer()};
  std::string head;
  if (sink.chunked) {
    head = chunk_head(from.size());
    parts[0] = asio::buffer(head);
    parts[2] = asio::buffer(kChunkEnd);
  }
  co_return co_await send_buffers(std::move(sink), parts);
}

asio::awaitable<error_code> send_raw(BodySink sink, std::string_view bytes) {
  if (bytes.empty()) co_return error_code{};
  const std::array<asio::const_buffer, 3> parts{asio::buffer(bytes), asio::const_buffer(), asio::const_buffer()};
  co_return co_await send_buffers(std::move(sink), parts);
}

asio::awaitable<FileSent> send_file(BodySink sink, int fd, std::uint64_t offset, std::uint64_t length) {
  FileSent out;
  const auto enough = [&sink] { return sink.enough != nullptr && *sink.enough; };
  if (!sink.chunked && sink.transport->sends_files()) {
    error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    sink.watchdog->expires_after(sink.idle);
    bool able = true;
    while (out.bytes < length && !enough()) {
      const auto slice = static_cast<std::size_t>(std::min<std::uint64_t>(length - out.bytes, kFileSlice));
      const std::uint64_t at = offset + out.bytes;
      auto initiate = [&sink, fd, at, slice](auto handler) {
        sink.transport->send_file_some(fd, at, slice, SizeHandler(std::move(handler)));
      };
      const std::size_t n = co_await asio::async_initiate<decltype(token)&, void(error_code, std::size_t)>(initiate, token);
      if (ec == asio::error::operation_not_supported) {
        able = false;  // not every file system can: go on by copying
        break;
      }
      if (ec) {
        out.connection = ec;
        co_return out;
      }
      if (n == 0) co_return out;
      out.bytes += n;
      sink.watchdog->expires_after(sink.idle);
    }
    if (able) co_return out;
  }
  std::string piece;
  while (out.bytes < length && !enough()) {
    const auto want = static_cast<std::size_t>(std::min<std::uint64_t>(length - out.bytes, kFileRead));
    if (piece.size() < want) piece = make_storage(want);
    const ssize_t n = ::pread(fd, piece.data(), want, static_cast<off_t>(offset + out.bytes));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      out.file = errno;
      co_return out;
    }
    if (n == 0) co_return out;
    const asio::const_buffer data(piece.data(), static_cast<std::size_t>(n));
    out.connection = co_await send_data(sink, data);
    if (out.connection) co_return out;
    out.bytes += static_cast<std::uint64_t>(n);
  }
  co_return out;
}

}  // namespace cwsandbox::net
