// Many commands, a bounded number of them at once.
#include <cwsandbox/cwsandbox.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include <iostream>

using namespace cwsandbox;

namespace {

void rethrow(const std::exception_ptr& error) {
  if (error) std::rethrow_exception(error);
}

// snippet: workers
asio::awaitable<void> worker(Sandbox sandbox, int& next, int last, long& sum) {
  while (next <= last) {
    const int number = next++;
    auto result = co_await sandbox.exec(argv("expr", std::to_string(number), "+", "1"), ExecOptions().with_check());
    sum += std::stol(result.std_out.str());
  }
}

long run_all(int last, int at_once) {
  asio::io_context context;  // one thread, so the counters need no lock
  int next = 1;
  long sum = 0;
  {
    auto sandbox = Sandbox::run(Client(context.get_executor()));
    for (int i = 0; i < at_once; ++i) asio::co_spawn(context, worker(sandbox, next, last, sum), rethrow);
  }
  context.run();
  return sum;
}
// end snippet

}  // namespace

int main() { std::cout << run_all(50, 8) << '\n'; }
