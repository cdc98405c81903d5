#include "gateway/server_stream.hpp"

#include "gateway/errors.hpp"
#include "protocol/connect_stream.hpp"

#include <array>
#include <optional>

namespace cwsandbox::gateway {

namespace {
constexpr std::size_t kMaxRequest = 256 * 1024;
}

asio::awaitable<std::string> ServerStream::request() {
  protocol::EnvelopeReader reader(kMaxRequest);
  std::optional<std::string> bytes;
  std::array<char, 4096> block;
  for (;;) {
    const std::size_t n = co_await exchange_.read(asio::buffer(block));
    if (n == 0) break;
    reader.put(std::string_view(block.data(), n));
    while (auto message = reader.next()) {
      if (message->end || bytes) throw invalid_field("", "the request of a server stream is one message");
      bytes = std::move(message->bytes);
    }
  }
  if (!bytes) throw invalid_field("", "the request ends before its message is complete");
  co_return std::move(*bytes);
}

asio::awaitable<void> ServerStream::flush() {
  sent_ += buffer_.size();
  if (started_) {
    co_await exchange_.write(asio::buffer(buffer_));
  } else {
    started_ = true;
    net::HttpResponse head;
    head.headers.emplace_back("Content-Type", std::string(protocol::stream_type(encoding_)));
    head.body = std::move(buffer_);
    co_await exchange_.start(std::move(head), std::nullopt);
  }
  buffer_.clear();
}

asio::awaitable<void> ServerStream::send_bytes(std::string bytes) {
  protocol::append_envelope(buffer_, bytes);
  co_await flush();
}

asio::awaitable<void> ServerStream::end(const protocol::ConnectError* error) {
  protocol::append_end_of_stream(buffer_, error);
  co_await flush();
  co_await exchange_.finish();
}

}  // namespace cwsandbox::gateway
