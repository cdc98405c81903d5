// Asio integration: executors, completion tokens, cancellation slots, other coroutines.
#include <cwsandbox/cwsandbox.hpp>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>

#include <iostream>

using namespace cwsandbox;
using namespace std::chrono_literals;

namespace {

// snippet: rethrow
void rethrow(const std::exception_ptr& error) {
  if (error) std::rethrow_exception(error);  // out of run(), instead of getting lost
}
// end snippet

// snippet: own-context
asio::awaitable<void> greet(Client client) {
  auto sandbox = Sandbox::run(client);
  auto result = co_await sandbox.exec(argv("echo", "hello"));
  std::cout << result.std_out;
}

void on_a_context_of_your_own() {
  asio::io_context context;
  asio::co_spawn(context, greet(Client(context.get_executor())), rethrow);
  context.run();
}
// end snippet

// snippet: thread-pool
void on_a_thread_pool() {
  asio::thread_pool pool(2);
  Client client(pool.get_executor());
  for (int i = 0; i < 2; ++i) asio::co_spawn(pool, greet(client), rethrow);
  pool.join();
}
// end snippet

// snippet: default-loop
asio::awaitable<void> on_the_default_loop() {
  auto sandbox = Sandbox::run();                               // its work is done by the library's own thread
  auto result = co_await sandbox.exec(argv("echo", "hello"));  // this coroutine goes on where it was
  std::cout << result.std_out;
}
// end snippet

asio::awaitable<void> tokens(Client client) {
  auto sandbox = Sandbox::run(client);
  // snippet: tokens
  auto process = sandbox.exec({"echo", "tokens"});
  co_await process.async_wait(asio::use_awaitable);  // any completion token: void(error_code)
  std::cout << process.get().std_out;                // the value, or the exception
  // end snippet
}

asio::awaitable<void> deadline(Client client) {
  auto sandbox = Sandbox::run(client);
  // snippet: operators
  using namespace asio::experimental::awaitable_operators;
  auto process = sandbox.exec({"sleep", "60"});
  asio::steady_timer timer(co_await asio::this_coro::executor, 100ms);
  auto first = co_await (process.async_wait(asio::use_awaitable) || timer.async_wait(asio::use_awaitable));
  if (first.index() == 1) std::cout << "not yet; ended: " << process.done() << '\n';  // only the wait was dropped
  process.cancel();                                                                   // now the process goes
  // end snippet
}

// snippet: values
asio::awaitable<void> values(Client client) {
  using namespace asio::experimental::awaitable_operators;
  auto sandbox = Sandbox::run(client);
  auto process = sandbox.exec(argv("sh", "-c", "sleep 0.1; echo first"));
  asio::steady_timer timer(co_await asio::this_coro::executor, 60s);
  auto first = co_await (process.std_out().next().async_get(asio::use_awaitable) || timer.async_wait(asio::use_awaitable));
  if (first.index() == 0) std::cout << *std::get<0>(first);  // the chunk; the timer was dropped
  ProcessResult result = co_await process.async_get(asio::use_awaitable);
  std::cout << *result.returncode << '\n';
}
// end snippet

}  // namespace

int main() {
  on_a_context_of_your_own();
  on_a_thread_pool();

  asio::io_context context;
  asio::co_spawn(context, on_the_default_loop(), rethrow);
  context.run();
  for (auto* part : {tokens, deadline, values}) {
    context.restart();
    asio::co_spawn(context, part(Client(context.get_executor())), rethrow);
    context.run();
  }

  {
    // snippet: future
    auto sandbox = Sandbox::run();
    std::future<ProcessResult> later = sandbox.exec({"echo", "from a future"}).async_get(asio::use_future);
    std::cout << later.get().std_out;
    // end snippet
  }

  // snippet: slot
  asio::io_context mine;
  Client client(mine.get_executor());
  auto sandbox = Sandbox::run(client);
  auto process = sandbox.exec({"echo", "done all the same"});
  asio::cancellation_signal stop_waiting;
  process.async_wait(asio::bind_cancellation_slot(stop_waiting.slot(), [](boost::system::error_code error) {
    std::cout << "the wait: " << error.message() << '\n';  // Operation canceled
  }));
  stop_waiting.emit(asio::cancellation_type::terminal);
  while (!process.done()) mine.run_one();
  std::cout << process.get().std_out;
  // end snippet
}
