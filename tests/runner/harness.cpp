#include "harness.hpp"

#include <boost/asio/error.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/system/system_error.hpp>

namespace cwsandbox::test {

using runner::ByteSink;
using runner::ByteSource;
using runner::error_code;
using runner::ExitInfo;
using runner::IoHandler;
using runner::Process;
using runner::ProcessSpec;
using runner::Sandbox;

std::vector<std::string> sh(std::string script) {
  std::vector<std::string> words;
  words.emplace_back("/bin/sh");
  words.emplace_back("-c");
  words.push_back(std::move(script));
  return words;
}

ProcessSpec command(std::vector<std::string> words) {
  ProcessSpec spec;
  spec.command = std::move(words);
  return spec;
}

runner::SandboxSpec sandbox_spec(std::string id) {
  runner::SandboxSpec spec;
  spec.id = std::move(id);
  spec.command = sh("trap 'exit 0' TERM INT; sleep infinity & wait");
  return spec;
}

runner::SandboxSpec graceful_spec() {
  runner::SandboxSpec spec = sandbox_spec();
  spec.command = sh("trap 'exit 0' TERM; touch /tmp/ready; sleep infinity & wait");
  return spec;
}

asio::awaitable<void> main_is_ready(runner::Sandbox& sandbox) {
  const Outcome ready = co_await exec_sh(sandbox, "while [ ! -e /tmp/ready ]; do sleep 0.01; done");
  REQUIRE(ready.exit.value == 0);
}

namespace {

template <class End>
asio::awaitable<void> wait_ready(End& end) {
  auto initiate = [&end](auto handler) { end.async_wait(IoHandler(std::move(handler))); };
  auto operation = asio::async_initiate<const asio::use_awaitable_t<>, void(error_code)>(initiate, asio::use_awaitable);
  co_await std::move(operation);
}

template <class Subject>
asio::awaitable<ExitInfo> wait_exit_of(Subject& subject) {
  auto executor = co_await asio::this_coro::executor;
  asio::steady_timer done(executor, asio::steady_timer::time_point::max());
  std::optional<ExitInfo> exit;
  subject.on_exit([&](const ExitInfo& info) {
    exit = info;
    done.cancel();
  });
  error_code ignored;
  auto token = asio::redirect_error(asio::use_awaitable, ignored);
  while (!exit) co_await done.async_wait(token);
  co_return *exit;
}

asio::awaitable<void> feed(ByteSink* sink, std::string input) {
  if (sink == nullptr) co_return;
  co_await write_all(*sink, std::move(input));
  sink->close();
}

asio::awaitable<std::string> read_if(ByteSource* source) {
  if (source == nullptr) co_return std::string();
  std::string text = co_await read_all(*source);
  co_return text;
}

}  // namespace

asio::awaitable<ExitInfo> wait_exit(Process& process) { return wait_exit_of(process); }
asio::awaitable<ExitInfo> wait_exit(Sandbox& sandbox) { return wait_exit_of(sandbox); }

asio::awaitable<std::string> read_all(ByteSource& source) {
  std::string text;
  std::string part(64 << 10, '\0');
  for (;;) {
    error_code ec;
    const std::size_t n = source.try_read(asio::buffer(part), ec);
    text.append(part, 0, n);
    if (ec == asio::error::eof) co_return text;
    if (ec == asio::error::would_block) {
      co_await wait_ready(source);
    } else if (ec) {
      throw boost::system::system_error(ec);
    }
  }
}

asio::awaitable<std::string> read_line(ByteSource& source) {
  std::string line;
  for (;;) {
    char c = 0;
    error_code ec;
    const std::size_t n = source.try_read(asio::buffer(&c, 1), ec);
    if (n == 1) {
      if (c == '\n') co_return line;
      line += c;
    } else if (ec == asio::error::would_block) {
      co_await wait_ready(source);
    } else {
      throw std::runtime_error("the output ended within a line: " + line);
    }
  }
}

asio::awaitable<void> write_all(ByteSink& sink, std::string data) {
  std::size_t done = 0;
  while (done < data.size()) {
    error_code ec;
    done += sink.try_write(asio::buffer(data) + done, ec);
    if (ec == asio::error::broken_pipe) co_return;
    if (ec == asio::error::would_block) {
      co_await wait_ready(sink);
    } else if (ec) {
      throw boost::system::system_error(ec);
    }
  }
}

asio::awaitable<error_code> wait_arrived(ByteSink& sink) {
  error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  auto initiate = [&sink](auto handler) { sink.async_wait_arrived(IoHandler(std::move(handler))); };
  auto operation = asio::async_initiate<decltype(token)&, void(error_code)>(initiate, token);
  co_await std::move(operation);
  co_return ec;
}

asio::awaitable<error_code> wait_broken(ByteSink& sink) {
  error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  auto initiate = [&sink](auto handler) { sink.async_wait_broken(IoHandler(std::move(handler))); };
  auto operation = asio::async_initiate<decltype(token)&, void(error_code)>(initiate, token);
  co_await std::move(operation);
  co_return ec;
}

asio::awaitable<Outcome> communicate(Process& process, std::string input) {
  using namespace asio::experimental::awaitable_operators;
  auto all = feed(process.std_in(), std::move(input)) && read_all(process.std_out()) && read_if(process.std_err());
  auto [out, err] = co_await std::move(all);
  Outcome outcome;
  outcome.out = std::move(out);
  outcome.err = std::move(err);
  outcome.exit = co_await wait_exit(process);
  co_return outcome;
}

asio::awaitable<Outcome> exec(Sandbox& sandbox, ProcessSpec spec, std::string input) {
  if (!input.empty()) spec.use_stdin = true;
  auto process = co_await sandbox.start(std::move(spec));
  Outcome outcome = co_await communicate(*process, std::move(input));
  co_return outcome;
}

asio::awaitable<Outcome> exec_sh(Sandbox& sandbox, std::string script) {
  Outcome outcome = co_await exec(sandbox, command(sh(std::move(script))));
  co_return outcome;
}

}  // namespace cwsandbox::test
