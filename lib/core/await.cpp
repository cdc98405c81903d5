#include <cwsandbox/asio.hpp>

namespace cwsandbox::detail {

void add_waiter(TaskStateBase& state, AwaitHandler&& handler, std::shared_ptr<void> keep) {
  asio::any_io_executor executor = asio::get_associated_executor(handler, state.default_executor());
  state.add_waiter(WaitHandler(std::move(handler)), std::move(executor), std::move(keep));
}

}  // namespace cwsandbox::detail
