// PID 1's end of what relays connect to.
#pragma once

#include <functional>
#include <memory>

#include "runner/local/unique_fd.hpp"
#include "runner/remote/link.hpp"

namespace cwsandbox::runner::pod {

/// The socket, listening. Throws std::system_error.
[[nodiscard]] local::UniqueFd listen_for_relays();

/// Makes a link of the descriptors of every relay that comes. Whoever talks over it has yet to say who it is: programs in the
/// sandbox can come here too, but cannot keep those from getting in that come from outside.
class RelayListener {
 public:
  using LinkHandler = std::function<void(std::unique_ptr<remote::Link>)>;
  RelayListener(asio::any_io_executor executor, local::UniqueFd socket, LinkHandler on_link);
  ~RelayListener();
  RelayListener(const RelayListener&) = delete;
  RelayListener& operator=(const RelayListener&) = delete;

 private:
  class State;
  std::shared_ptr<State> state_;
};

}  // namespace cwsandbox::runner::pod
