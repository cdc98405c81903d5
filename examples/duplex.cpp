// Reads output while input is still being written: two coroutines, one process. Prints what came back, upper-cased.
#include <cwsandbox/cwsandbox.hpp>
#include <cwsandbox/sandbox.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include <iostream>

namespace asio = boost::asio;
using cwsandbox::argv;

namespace {

void rethrow(const std::exception_ptr& error) {
  if (error) std::rethrow_exception(error);
}

asio::awaitable<void> write(cwsandbox::StreamWriter writer) {
  for (int i = 1; i <= 3; ++i) co_await writer.writeline("line " + std::to_string(i));
  co_await writer.close();
}

asio::awaitable<void> run(cwsandbox::Client client) {
  auto sandbox = cwsandbox::Sandbox::run(client);
  auto upper = sandbox.exec(argv("tr", "a-z", "A-Z"), cwsandbox::ExecOptions().with_stdin());
  asio::co_spawn(co_await asio::this_coro::executor, write(*upper.std_in()), rethrow);
  auto lines = upper.std_out().lines();
  while (auto line = co_await lines.next()) std::cout << *line << "\n";
  co_await upper;
}

}  // namespace

int main() {
  asio::io_context context;
  asio::co_spawn(context, run(cwsandbox::Client(context.get_executor())), rethrow);
  context.run();
}
