#include "client/server_stream.hpp"

#include "client/errors.hpp"
#include "messages/fields.hpp"

namespace cwsandbox::client {

namespace {
constexpr std::size_t kReadSize = 128 * 1024;
}  // namespace

asio::awaitable<std::unique_ptr<ServerStream>> ServerStream::open(std::shared_ptr<Backend> backend, std::string target,
                                                                  std::string json, std::size_t max_message) {
  const auto ready = backend->ready();
  co_await wait_for(ready);
  std::string body;
  protocol::append_envelope(body, json);
  net::HttpRequest request;
  request.target = std::move(target);
  request.headers.emplace_back("Content-Type", std::string(protocol::stream_type(messages::Encoding::json)));
  request.headers.emplace_back("Connect-Protocol-Version", "1");
  backend->authorize(request.headers);
  std::exception_ptr error;
  try {
    const auto deadline = std::chrono::steady_clock::now() + backend->settings().request_timeout;
    auto exchange = co_await backend->http().open(std::move(request), body.size(), false, deadline, kTransferIdle);
    const auto bytes = asio::buffer(std::as_const(body));
    static_cast<void>(co_await exchange->write(bytes));
    const auto head = co_await exchange->head();
    if (head.status == 200) co_return std::make_unique<ServerStream>(std::move(exchange), max_message);
    const auto text = co_await exchange->read_rest(kMaxErrorBody);
    error = make_error(protocol::decode_error(head.status, text));
  } catch (...) {
    error = from_transport(std::current_exception());
  }
  std::rethrow_exception(error);
}

asio::awaitable<std::optional<std::string>> ServerStream::next() {
  std::exception_ptr error;
  try {
    for (;;) {
      if (auto message = reader_.next()) {
        if (!message->end) co_return std::move(message->bytes);
        // The end of the body comes with it as a rule; having read that, the connection can be used again.
        buffer_.resize(kReadSize);
        const auto space = asio::buffer(buffer_);
        if (co_await exchange_->read(space) > 0) throw messages::ParseError("", "bytes behind the end of the stream");
        exchange_.reset();
        if (!message->error) co_return std::nullopt;
        error = make_error(*message->error);
        break;
      }
      buffer_.resize(kReadSize);
      const auto space = asio::buffer(buffer_);
      const auto n = co_await exchange_->read(space);
      if (n == 0) throw SandboxUnavailableError("The server ended its answer before the stream's end");
      reader_.put(std::string_view(buffer_.data(), n));
    }
  } catch (const messages::ParseError& unreadable) {
    error = std::make_exception_ptr(CWSandboxError(std::string("The server's stream cannot be read: ") + unreadable.what()));
  } catch (...) {
    error = from_transport(std::current_exception());
  }
  std::rethrow_exception(error);
}

}  // namespace cwsandbox::client
