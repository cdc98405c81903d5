// An Asio application on its own io_context: several sandboxes at once, no hidden thread. Prints three lines.
#include <cwsandbox/cwsandbox.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include <iostream>
#include <map>

namespace asio = boost::asio;
using cwsandbox::argv;

namespace {

asio::awaitable<void> work(cwsandbox::Client client, int number, std::map<int, std::string>& results) {
  auto sandbox = cwsandbox::Sandbox::run(client);
  auto sort = sandbox.exec(argv("sort", "-n"), cwsandbox::ExecOptions().with_stdin());
  co_await sort.std_in()->writeline(std::to_string(number * 10));
  co_await sort.std_in()->writeline(std::to_string(number));
  co_await sort.std_in()->close();
  std::string text;
  while (auto chunk = co_await sort.std_out().next()) text += *chunk;
  auto result = co_await sort;
  if (!result.ok()) throw std::runtime_error("sort has failed");
  text.resize(text.size() - 1);
  text[text.find('\n')] = ' ';
  results[number] = text;
}

}  // namespace

int main() {
  asio::io_context context;
  std::map<int, std::string> results;
  {
    const cwsandbox::Client client(context.get_executor());
    for (int number = 1; number <= 3; ++number)
      asio::co_spawn(context, work(client, number, results), [](const std::exception_ptr& error) {
        if (error) std::rethrow_exception(error);
      });
  }
  context.run();  // returns by itself once the last sandbox is gone
  for (const auto& [number, text] : results) std::cout << "sandbox " << number << ": " << text << "\n";
}
