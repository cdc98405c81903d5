// Who is not let in is told why, and hears it whatever else is on its way.
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/system/system_error.hpp>

#include <exception>
#include <optional>
#include <utility>

#include "remote_harness.hpp"
#include "runner/local/local_runner.hpp"
#include "support/catch.hpp"

namespace cwsandbox::test {

using remote::Control;
using remote::RemoteSandbox;
using remote::SandboxServer;
using runner::RunnerError;
using std::chrono::milliseconds;

namespace {

// A server's end of a link that notes why it was refused, as a relay is told.
class NotingLink final : public remote::Link {
 public:
  NotingLink(std::unique_ptr<remote::Link> link, std::shared_ptr<std::string> note)
      : link_(std::move(link)), note_(std::move(note)) {}
  asio::awaitable<std::string_view> read() override { return link_->read(); }
  asio::awaitable<void> write(std::string_view head, std::string_view body) override { return link_->write(head, body); }
  void close() noexcept override { link_->close(); }
  void refuse(std::string_view why) noexcept override {
    *note_ = why;
    link_->close();
  }

 private:
  std::unique_ptr<remote::Link> link_;
  std::shared_ptr<std::string> note_;
};

// A link to `server`, whose other end notes.
struct Caller {
  Caller(asio::io_context& loop, SandboxServer& server) {
    auto pair = link_pair(loop.get_executor());
    end.emplace(std::move(pair.first));
    server.accept(std::make_unique<NotingLink>(std::move(pair.second), note));
  }
  std::shared_ptr<std::string> note = std::make_shared<std::string>();
  std::optional<RawEnd> end;
};

}  // namespace

TEST_CASE("a link that is not let in is refused with the reason", "[runner][remote]") {
  asio::io_context loop;
  const auto local = runner::local::make_local_runner(loop.get_executor());
  remote::ServerOptions options = server_options();
  options.max_strangers = 1;
  auto server = std::make_unique<SandboxServer>(loop.get_executor(), *local, options);
  options.hello_deadline = milliseconds(20);
  auto hasty = std::make_unique<SandboxServer>(loop.get_executor(), *local, options);
  Caller wrong(loop, *server), one_too_many(loop, *server), silent(loop, *hasty);
  const auto test = [&]() -> asio::awaitable<void> {
    co_await one_too_many.end->drain();
    const Control unknown = hello("wrong", "another key");
    co_await wrong.end->send(unknown);
    co_await wrong.end->drain();
    co_await silent.end->drain();
  };
  run(loop, test());
  CHECK(*one_too_many.note == "there are too many connections that have not said who they are");
  CHECK(*wrong.note == "the key is another one");
  CHECK(*silent.note == "no answer to hello in time");
  server.reset();
  hasty.reset();
  run_until(loop, [&] { return loop.stopped(); });
}

TEST_CASE("a refusal is heard when nothing can be written any more", "[runner][remote]") {
  // The other end has said why and gone, and the first to see that is who writes.
  class Gone final : public remote::Link {
   public:
    explicit Gone(const asio::any_io_executor& executor) : written_(executor, asio::steady_timer::time_point::max()) {}
    asio::awaitable<std::string_view> read() override {
      if (std::exchange(told_, true)) co_return std::string_view();
      boost::system::error_code cancelled;
      auto token = asio::redirect_error(asio::use_awaitable, cancelled);
      co_await written_.async_wait(token);
      Control refused;
      refused.type = Control::Type::refused;
      refused.code = base::ErrorCode::permission_denied;
      refused.message = "not today";
      const std::string message = remote::encode_control(refused);
      bytes_.assign(8, '\0');
      remote::write_frame_header(bytes_.data(), message.size(), remote::kTunnelStream);
      bytes_ += message;
      co_return std::string_view(bytes_);
    }
    asio::awaitable<void> write(std::string_view /*head*/, std::string_view /*body*/) override {
      asio::post(written_.get_executor(), [this] { written_.cancel(); });
      throw boost::system::system_error(asio::error::broken_pipe);
      co_return;
    }
    void close() noexcept override {}

   private:
    asio::steady_timer written_;
    bool told_ = false;
    std::string bytes_;
  };
  asio::io_context loop;
  const remote::Dial dial = [&]() -> asio::awaitable<std::unique_ptr<remote::Link>> {
    co_return std::make_unique<Gone>(loop.get_executor());
  };
  auto object = RemoteSandbox::make(loop.get_executor(), dial, remote_options());
  std::string code, what;
  try {
    run(loop, object->create(sandbox_spec()));
  } catch (const RunnerError& error) {
    code = base::to_string(error.code());
    what = error.what();
  }
  CHECK(code == "permission_denied");
  CHECK(what == "refused: not today");
  object.reset();
  run_until(loop, [&] { return loop.stopped(); });
}

TEST_CASE("why a link ended is told as far as what carries it knows", "[runner][remote]") {
  // Ends at once, and says why.
  class Ended final : public remote::Link {
   public:
    asio::awaitable<std::string_view> read() override { co_return std::string_view(); }
    asio::awaitable<void> write(std::string_view, std::string_view) override { co_return; }
    void close() noexcept override {}
    std::string why() const override { return "it has ended with exit code 1: there are too many connections"; }
  };
  asio::io_context loop;
  const remote::Dial dial = []() -> asio::awaitable<std::unique_ptr<remote::Link>> { co_return std::make_unique<Ended>(); };
  auto object = RemoteSandbox::make(loop.get_executor(), dial, remote_options());
  asio::co_spawn(loop, object->create(sandbox_spec()), [](const std::exception_ptr&) {});
  run_until(loop, [&] { return object->last_trouble() == "it has ended with exit code 1: there are too many connections"; });
  object.reset();
  run_until(loop, [&] { return loop.stopped(); });
}

}  // namespace cwsandbox::test
