// What a user pays for the library in compile time (B7): the whole of it, and one co_await.
#include <cwsandbox/cwsandbox.hpp>

boost::asio::awaitable<int> exit_code(cwsandbox::Process process) {
  auto result = co_await process;
  co_return result.returncode.value_or(-1);
}
