// A watch in a local sandbox: the agent makes the inotify descriptor, the runner reads it.
#pragma once

#include <boost/asio/any_io_executor.hpp>

#include <memory>

#include "runner/local/unique_fd.hpp"
#include "runner/runner.hpp"

namespace cwsandbox::runner::local {

/// Null when `fd` is no inotify descriptor: reading another one may wait, or give anything.
[[nodiscard]] std::unique_ptr<FileWatch> make_local_watch(const asio::any_io_executor& executor, UniqueFd fd);

}  // namespace cwsandbox::runner::local
