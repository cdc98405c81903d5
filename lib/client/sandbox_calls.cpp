#include "client/sandbox_calls.hpp"

#include "base/text.hpp"
#include "client/rpc.hpp"
#include "client/sandbox_state.hpp"
#include "messages/json.hpp"

#include <set>
#include <string_view>
#include <utility>

namespace cwsandbox::client {

namespace {

constexpr int kMaxPages = 100;
constexpr std::int32_t kPageSize = 1000;  // the most that the published service gives at once

messages::State state_of(SandboxStatus status) noexcept {
  for (const auto state :
       {messages::State::creating, messages::State::running, messages::State::completed, messages::State::failed,
        messages::State::terminating, messages::State::terminated, messages::State::pending, messages::State::paused})
    if (status_of(state) == status) return state;
  return messages::State::unspecified;
}

}  // namespace

SandboxStatus status_of(messages::State state) noexcept {
  switch (state) {
    case messages::State::creating:
    case messages::State::preparing:  // its image is being fetched
      return SandboxStatus::creating;
    case messages::State::running:
      return SandboxStatus::running;
    case messages::State::completed:
      return SandboxStatus::completed;
    case messages::State::failed:
      return SandboxStatus::failed;
    case messages::State::terminating:
      return SandboxStatus::terminating;
    case messages::State::terminated:
      return SandboxStatus::terminated;
    case messages::State::pending:
      return SandboxStatus::pending;
    case messages::State::paused:
      return SandboxStatus::paused;
    case messages::State::unspecified:
      break;
  }
  return SandboxStatus::unspecified;
}

asio::awaitable<messages::Sandbox> fetch_sandbox(std::shared_ptr<Backend> backend, std::string id,
                                                 std::chrono::milliseconds timeout) {
  messages::GetSandboxRequest request;
  request.sandbox_id = id;
  auto json = messages::to_json(request);
  try {
    auto answer = co_await call(std::move(backend), "GetSandbox", std::move(json), timeout);
    co_return parse_answer(messages::from_json<messages::Sandbox>, answer);
  } catch (const SandboxNotFoundError& error) {
    // Whatever the server says: which one is not there (LC-14).
    if (std::string_view(error.what()).find(id) != std::string_view::npos) throw;
    throw SandboxNotFoundError("The sandbox " + base::printable(id, 80) + " was not found: " + error.what(), error.fields());
  }
}

asio::awaitable<Sandbox> find_sandbox(std::shared_ptr<detail::ClientCore> core, std::string id) {
  const auto backend = core->backend();
  const auto sandbox = co_await fetch_sandbox(backend, std::move(id), core->settings().request_timeout);
  co_return Sandbox(std::make_shared<detail::SandboxState>(core, backend, sandbox));
}

asio::awaitable<std::vector<Sandbox>> find_sandboxes(std::shared_ptr<detail::ClientCore> core, ListOptions options) {
  const auto backend = core->backend();
  std::vector<Sandbox> found;
  std::set<std::string> seen_tokens;
  messages::ListSandboxesRequest request;
  request.tags = options.tags();
  request.runner_ids = options.runner_ids();
  request.volume_ids = options.volume_ids();
  request.page_size = kPageSize;
  request.state = state_of(options.status());
  request.show_terminated = options.include_stopped() || is_terminal(options.status());
  for (int page = 0; page < kMaxPages; ++page) {
    auto json = messages::to_json(request);
    auto answer = co_await call(backend, "ListSandboxes", std::move(json));
    const auto response = parse_answer(messages::from_json<messages::ListSandboxesResponse>, answer);
    for (const auto& sandbox : response.sandboxes)
      found.emplace_back(std::make_shared<detail::SandboxState>(core, backend, sandbox));
    if (response.next_page_token.empty()) co_return found;
    if (!seen_tokens.insert(response.next_page_token).second)
      throw CWSandboxError("The server repeats a page of its list of sandboxes");
    request.page_token = response.next_page_token;
  }
  throw CWSandboxError("The server's list of sandboxes has more than " + std::to_string(kMaxPages) + " pages");
}

asio::awaitable<void> remove_sandbox(std::shared_ptr<detail::ClientCore> core, std::string id, bool missing_ok) {
  const PendingWork pending(core->loop());
  messages::DeleteSandboxRequest request;
  request.sandbox_id = id;
  request.allow_missing = missing_ok;
  request.request_id = make_uuid();
  auto json = messages::to_json(request);
  auto backend = core->backend();
  try {
    static_cast<void>(co_await call(std::move(backend), "DeleteSandbox", std::move(json)));
  } catch (const SandboxNotFoundError&) {
    if (!missing_ok) throw;
  }
}

}  // namespace cwsandbox::client
