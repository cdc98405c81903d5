// Calls about sandboxes by their ids, which need none of the state that the handles to one share.
#pragma once

#include <cwsandbox/sandbox.hpp>

#include "client/backend.hpp"
#include "messages/sandbox.hpp"

#include <boost/asio/awaitable.hpp>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

namespace cwsandbox::client {

/// What users see of a state; unspecified for one that this version does not know.
[[nodiscard]] SandboxStatus status_of(messages::State state) noexcept;

/// What the server says of a sandbox. Whatever it says of one that is not there, the SandboxNotFoundError names it (LC-14).
[[nodiscard]] asio::awaitable<messages::Sandbox> fetch_sandbox(std::shared_ptr<Backend> backend, std::string id,
                                                               std::chrono::milliseconds timeout);

/// A handle to one that exists. It is not owned: its end does not stop the sandbox.
[[nodiscard]] asio::awaitable<Sandbox> find_sandbox(std::shared_ptr<detail::ClientCore> core, std::string id);
/// The same for all that `options` describe.
[[nodiscard]] asio::awaitable<std::vector<Sandbox>> find_sandboxes(std::shared_ptr<detail::ClientCore> core, ListOptions options);
/// Has the server stop one; completes when that is accepted.
[[nodiscard]] asio::awaitable<void> remove_sandbox(std::shared_ptr<detail::ClientCore> core, std::string id, bool missing_ok);

}  // namespace cwsandbox::client
