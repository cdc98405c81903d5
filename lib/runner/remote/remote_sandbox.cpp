#include "runner/remote/remote_sandbox.hpp"

#include <boost/asio/error.hpp>

#include <utility>

#include "runner/remote/tunnel.hpp"

namespace cwsandbox::runner::remote {

namespace {

using protocol::Channel;

class RemoteSource final : public ByteSource {
 public:
  RemoteSource(std::shared_ptr<RemoteStream> stream, Channel channel) : stream_(std::move(stream)), channel_(channel) {}
  std::size_t try_read(asio::mutable_buffer into, error_code& ec) override { return stream_->try_read(channel_, into, ec); }
  void async_wait(IoHandler handler) override { stream_->wait_readable(channel_, std::move(handler)); }
  void close() noexcept override { stream_->close(channel_); }
  [[nodiscard]] std::uint64_t unread() const noexcept override { return stream_->unread(channel_); }

 private:
  std::shared_ptr<RemoteStream> stream_;
  Channel channel_;
};

class RemoteSink final : public ByteSink {
 public:
  explicit RemoteSink(std::shared_ptr<RemoteStream> stream) : stream_(std::move(stream)) {}
  std::size_t try_write(asio::const_buffer from, error_code& ec) override { return stream_->try_write(from, ec); }
  void async_wait(IoHandler handler) override { stream_->wait_writable(std::move(handler)); }
  void close() noexcept override { stream_->close_input(); }
  std::uint64_t arrived() const noexcept override { return stream_->input_arrived(); }
  void async_wait_arrived(IoHandler handler) override { stream_->wait_arrived(std::move(handler)); }
  void async_wait_broken(IoHandler handler) override { stream_->wait_broken(std::move(handler)); }

 private:
  std::shared_ptr<RemoteStream> stream_;
};

class RemoteProcess final : public Process {
 public:
  // Whose state must stay until it is known how the process ended, is the tunnel.
  RemoteProcess(std::shared_ptr<Tunnel> tunnel, std::shared_ptr<RemoteStream> stream, bool tty)
      : tunnel_(std::move(tunnel)),
        stream_(std::move(stream)),
        in_(stream_),
        out_(stream_, Channel::std_out),
        err_(stream_, Channel::std_err),
        tty_(tty) {}
  RemoteProcess(const RemoteProcess&) = delete;
  RemoteProcess& operator=(const RemoteProcess&) = delete;
  ~RemoteProcess() override { stream_->forget(); }

  std::uint64_t pid() const noexcept override { return stream_->pid(); }
  ByteSink* std_in() noexcept override { return stream_->with_input() ? &in_ : nullptr; }
  ByteSource& std_out() noexcept override { return out_; }
  ByteSource* std_err() noexcept override { return tty_ ? nullptr : &err_; }
  void on_exit(std::function<void(const ExitInfo&)> handler) override { stream_->on_exit(std::move(handler)); }
  void on_group_gone(std::function<void()> handler) override { stream_->on_group_gone(std::move(handler)); }
  void signal_group(int number) override { stream_->signal(number); }
  void resize(std::uint16_t width, std::uint16_t height) override {
    if (tty_) stream_->resize(width, height);
  }

 private:
  std::shared_ptr<Tunnel> tunnel_;
  std::shared_ptr<RemoteStream> stream_;
  RemoteSink in_;
  RemoteSource out_, err_;
  bool tty_;
};

// Until the main command runs there is nothing to read.
class MainSource final : public ByteSource {
 public:
  MainSource(std::shared_ptr<Tunnel> tunnel, Channel channel) : tunnel_(std::move(tunnel)), channel_(channel) {}
  std::size_t try_read(asio::mutable_buffer into, error_code& ec) override {
    if (const auto& main = tunnel_->main()) return main->try_read(channel_, into, ec);
    ec = asio::error::eof;
    return 0;
  }
  void async_wait(IoHandler handler) override {
    if (const auto& main = tunnel_->main()) return main->wait_readable(channel_, std::move(handler));
    IoWaiters::post(tunnel_->executor(), std::move(handler), asio::error::operation_aborted);
  }
  void close() noexcept override {
    if (const auto& main = tunnel_->main()) main->close(channel_);
  }

 private:
  std::shared_ptr<Tunnel> tunnel_;
  Channel channel_;
};

asio::awaitable<std::unique_ptr<Process>> start_in(std::shared_ptr<Tunnel> tunnel, ProcessSpec spec) {
  const bool tty = spec.tty;
  auto starting = Tunnel::start(tunnel, std::move(spec));
  auto stream = co_await std::move(starting);
  co_return std::make_unique<RemoteProcess>(std::move(tunnel), std::move(stream), tty);
}

}  // namespace

std::unique_ptr<RemoteSandbox> RemoteSandbox::make(asio::any_io_executor executor, Dial dial, RemoteOptions options) {
  return std::unique_ptr<RemoteSandbox>(
      new RemoteSandbox(std::make_shared<Tunnel>(std::move(executor), std::move(dial), std::move(options))));
}

RemoteSandbox::RemoteSandbox(std::shared_ptr<Tunnel> tunnel)
    : tunnel_(std::move(tunnel)),
      files_(make_remote_files(tunnel_)),
      out_(std::make_unique<MainSource>(tunnel_, Channel::std_out)),
      err_(std::make_unique<MainSource>(tunnel_, Channel::std_err)) {}

RemoteSandbox::~RemoteSandbox() { tunnel_->abandon(let_go_); }

asio::awaitable<void> RemoteSandbox::create(SandboxSpec spec) { return Tunnel::create(tunnel_, std::move(spec)); }
asio::awaitable<void> RemoteSandbox::attach(std::chrono::milliseconds deadline) { return Tunnel::attach(tunnel_, deadline); }
void RemoteSandbox::place_gone(std::string why, std::optional<ExitInfo> exit) { tunnel_->place_gone(std::move(why), exit); }
void RemoteSandbox::let_go() noexcept { let_go_ = true; }
bool RemoteSandbox::connected() const noexcept { return tunnel_->connected(); }
std::string RemoteSandbox::last_trouble() const { return tunnel_->trouble(); }

ByteSource& RemoteSandbox::main_stdout() noexcept { return *out_; }
ByteSource& RemoteSandbox::main_stderr() noexcept { return *err_; }
Files& RemoteSandbox::files() noexcept { return *files_; }
asio::awaitable<std::unique_ptr<Process>> RemoteSandbox::start(ProcessSpec spec) { return start_in(tunnel_, std::move(spec)); }
void RemoteSandbox::on_exit(std::function<void(const ExitInfo&)> handler) { tunnel_->on_exit(std::move(handler)); }
asio::awaitable<void> RemoteSandbox::stop(std::chrono::milliseconds grace) { return Tunnel::stop(tunnel_, grace); }

}  // namespace cwsandbox::runner::remote
