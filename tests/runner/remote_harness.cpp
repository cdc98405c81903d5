#include "remote_harness.hpp"

#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/local/connect_pair.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/system/system_error.hpp>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <vector>

namespace cwsandbox::test {

namespace {

class SocketLink final : public remote::Link {
 public:
  SocketLink(asio::local::stream_protocol::socket socket, std::uint64_t budget) : socket_(std::move(socket)), budget_(budget) {}

  asio::awaitable<std::string_view> read() override {
    if (budget_ == 0) fail();
    if (buffer_.empty()) buffer_.resize(64 << 10);
    const auto most = static_cast<std::size_t>(std::min<std::uint64_t>(buffer_.size(), budget_));
    runner::error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    const std::size_t n = co_await socket_.async_read_some(asio::buffer(buffer_.data(), most), token);
    if (ec == asio::error::eof) co_return std::string_view();
    if (ec) throw boost::system::system_error(ec);
    spend(n);
    co_return std::string_view(buffer_.data(), n);
  }

  asio::awaitable<void> write(std::string_view head, std::string_view body) override {
    std::array<asio::const_buffer, 2> both{asio::buffer(head), asio::buffer(body)};
    const std::size_t all = head.size() + body.size();
    const auto most = static_cast<std::size_t>(std::min<std::uint64_t>(all, budget_));
    if (most < all) {  // in the middle of it
      both[0] = asio::buffer(head.data(), std::min(most, head.size()));
      both[1] = asio::buffer(body.data(), most > head.size() ? most - head.size() : 0);
    }
    runner::error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    co_await asio::async_write(socket_, both, token);
    if (ec) throw boost::system::system_error(ec);
    spend(most);
    if (most < all) fail();
  }

  void close() noexcept override {
    runner::error_code ignored;
    socket_.close(ignored);
  }

 private:
  void spend(std::uint64_t n) {
    if (budget_ != kUnlimited) budget_ -= std::min(n, budget_);
  }
  [[noreturn]] void fail() {
    close();
    throw boost::system::system_error(asio::error::connection_reset);
  }

  asio::local::stream_protocol::socket socket_;
  std::uint64_t budget_;
  std::vector<char> buffer_;
};

asio::awaitable<std::unique_ptr<remote::Link>> dial_once(asio::any_io_executor executor,
                                                         std::weak_ptr<remote::SandboxServer> server, Budget budget,
                                                         std::shared_ptr<std::uint64_t> links) {
  const auto there = server.lock();
  if (!there) throw runner::RunnerError(base::ErrorCode::unavailable, "", "nobody listens");
  if (links) ++*links;
  auto [ours, theirs] = link_pair(executor, budget ? budget() : kUnlimited);
  there->accept(std::move(theirs));
  co_return std::move(ours);
}

// A server lives until its sandbox is over.
asio::awaitable<void> serve(std::shared_ptr<remote::SandboxServer> server) {
  auto finishing = server->finished();
  (void)co_await std::move(finishing);
}

asio::awaitable<std::unique_ptr<runner::Sandbox>> create_remote(asio::any_io_executor executor, runner::Runner& inner,
                                                                Budget budget, std::shared_ptr<std::uint64_t> links,
                                                                runner::SandboxSpec spec) {
  auto server = std::make_shared<remote::SandboxServer>(executor, inner, server_options());
  auto sandbox = remote::RemoteSandbox::make(executor, dial_to(executor, server, budget, links), remote_options());
  auto creating = sandbox->create(std::move(spec));
  co_await std::move(creating);
  asio::co_spawn(executor, serve(std::move(server)), asio::detached);
  co_return std::move(sandbox);
}

}  // namespace

std::pair<std::unique_ptr<remote::Link>, std::unique_ptr<remote::Link>> link_pair(asio::any_io_executor executor,
                                                                                  std::uint64_t budget) {
  asio::local::stream_protocol::socket one(executor), two(executor);
  asio::local::connect_pair(one, two);
  return {std::make_unique<SocketLink>(std::move(one), budget), std::make_unique<SocketLink>(std::move(two), kUnlimited)};
}

std::string session_name() {
  static int count = 0;
  return "session-" + std::to_string(++count);
}

remote::RemoteOptions remote_options() {
  remote::RemoteOptions options;
  options.session = session_name();
  options.key = kKey;
  return options;
}

remote::ServerOptions server_options() {
  remote::ServerOptions options;
  options.key = kKey;
  return options;
}

remote::Dial dial_to(asio::any_io_executor executor, std::weak_ptr<remote::SandboxServer> server, Budget budget,
                     std::shared_ptr<std::uint64_t> links) {
  return [executor, server, budget, links] { return dial_once(executor, server, budget, links); };
}

RemoteRunner::RemoteRunner(asio::any_io_executor executor, runner::Runner& inner, Budget budget)
    : executor_(std::move(executor)), inner_(&inner), budget_(std::move(budget)) {}

asio::awaitable<std::unique_ptr<runner::Sandbox>> RemoteRunner::create(runner::SandboxSpec spec) {
  return create_remote(executor_, *inner_, budget_, links_, std::move(spec));
}

asio::awaitable<void> RawEnd::send(std::uint32_t stream, std::string message) {
  std::string head(8, '\0');
  remote::write_frame_header(head.data(), message.size(), stream);
  co_await link_->write(head, message);
}

asio::awaitable<void> RawEnd::send(const remote::Control& control) {
  std::string message = remote::encode_control(control);
  auto sending = send(remote::kTunnelStream, std::move(message));
  co_await std::move(sending);
}

asio::awaitable<void> RawEnd::send_bytes(std::string bytes) { co_await link_->write(bytes, std::string_view()); }

asio::awaitable<std::optional<std::pair<std::uint32_t, std::string>>> RawEnd::receive() {
  for (;;) {
    if (const auto frame = frames_.next()) {
      std::string message(1, static_cast<char>(frame->channel));
      message += frame->payload;
      co_return std::make_optional(std::make_pair(frame->stream, std::move(message)));
    }
    std::string_view bytes;
    try {
      bytes = co_await link_->read();
    } catch (const boost::system::system_error&) {
    }
    if (bytes.empty()) co_return std::nullopt;
    stored_ = bytes;
    frames_.feed(stored_);
  }
}

asio::awaitable<remote::Control> RawEnd::receive_control() {
  auto receiving = receive();
  const auto got = co_await std::move(receiving);
  if (!got || got->first != 0 || got->second.front() != 0) throw std::runtime_error("no control came");
  co_return remote::decode_control(std::string_view(got->second).substr(1));
}

asio::awaitable<void> RawEnd::drain() {
  for (;;) {
    auto receiving = receive();
    const auto got = co_await std::move(receiving);
    if (!got) co_return;
  }
}

remote::Control hello(std::string session, std::string key) {
  remote::Control control;
  control.type = remote::Control::Type::hello;
  control.session = std::move(session);
  control.key = std::move(key);
  control.grace = std::chrono::milliseconds(1000);
  return control;
}

}  // namespace cwsandbox::test
