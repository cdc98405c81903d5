// From an Asio application: the same with co_await.
#include <cwsandbox/cwsandbox.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>

#include <iostream>

boost::asio::awaitable<void> sort_fruit(cwsandbox::Client client) {
  auto sandbox = cwsandbox::Sandbox::run(client);
  auto sort = sandbox.exec(cwsandbox::argv("sort"), cwsandbox::ExecOptions().with_stdin());
  co_await sort.std_in()->writeline("pear");
  co_await sort.std_in()->writeline("apple");
  co_await sort.std_in()->close();                                          // sort sees the end of its input
  while (auto chunk = co_await sort.std_out().next()) std::cout << *chunk;  // apple, pear, as they arrive
  auto result = co_await sort;
  std::cout << "exit code " << *result.returncode << '\n';
}

int main() {
  boost::asio::io_context context;  // yours; the library starts no thread of its own then
  boost::asio::co_spawn(context, sort_fruit(cwsandbox::Client(context.get_executor())), boost::asio::detached);
  context.run();
}
