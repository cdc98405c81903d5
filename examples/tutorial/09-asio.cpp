// The same in coroutines, on an io_context of your own: the library starts no thread.
#include <cwsandbox/cwsandbox.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include <iostream>

using namespace cwsandbox;

void rethrow(const std::exception_ptr& error) {
  if (error) std::rethrow_exception(error);
}

asio::awaitable<void> ask(StreamWriter input) {
  for (const char* line : {"one", "two", "three"}) co_await input.writeline(line);
  co_await input.close();
}

asio::awaitable<void> converse(Client client) {
  auto sandbox = Sandbox::run(client);
  auto upper = sandbox.exec(argv("tr", "a-z", "A-Z"), ExecOptions().with_stdin());
  asio::co_spawn(co_await asio::this_coro::executor, ask(*upper.std_in()), rethrow);  // writes while this coroutine reads

  auto lines = upper.std_out().lines();
  while (auto line = co_await lines.next()) std::cout << *line << '\n';

  auto result = co_await upper;
  std::cout << "exit code: " << *result.returncode << '\n';
}

int main() {
  asio::io_context context;
  asio::co_spawn(context, converse(Client(context.get_executor())), rethrow);
  context.run();  // returns by itself when everything has ended
}
