#include "gateway/watch_service.hpp"

#include "gateway/errors.hpp"
#include "messages/json.hpp"

#include <boost/asio/error.hpp>
#include <boost/system/system_error.hpp>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

namespace cwsandbox::gateway {

namespace {

using Clock = std::chrono::steady_clock;

// How often a watch to which nothing happens looks whether its client and its sandbox are still there.
constexpr std::chrono::seconds kLook{1};

/// A place among the watches that may stand.
class Place {
 public:
  Place(const GatewayOptions& options, std::shared_ptr<SandboxRecord> sandbox) : sandbox_(std::move(sandbox)) {
    const std::map<std::string, std::string> where = {{"sandbox_id", sandbox_->id()}};
    if (const std::size_t most = options.max_watches_per_sandbox; sandbox_->watches >= most) {
      throw ServiceError(ErrorCode::resource_exhausted, reason::kCapacityExhausted,
                         "the sandbox has at most " + std::to_string(most) + " watches of files at one time", where)
          .with_retry(std::chrono::seconds(1));
    }
    watch_ = BudgetShare(budgets_of(sandbox_->owner()), Budget::watches, 1, where);
    file_ = BudgetShare(budgets_of(sandbox_->owner()), Budget::descriptors, kFileDescriptors, where);
    ++sandbox_->watches;
  }
  ~Place() { --sandbox_->watches; }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;

 private:
  std::shared_ptr<SandboxRecord> sandbox_;
  BudgetShare watch_, file_;
};

messages::FileEventKind wire_kind(runner::FileEvent::Kind kind) noexcept {
  using From = runner::FileEvent::Kind;
  using To = messages::FileEventKind;
  switch (kind) {
    case From::created:
      return To::created;
    case From::modified:
      return To::modified;
    case From::closed:
      return To::closed;
    case From::attributes:
      return To::attributes;
    case From::deleted:
      return To::deleted;
    case From::renamed:
      return To::renamed;
    case From::moved_in:
      return To::moved_in;
    case From::moved_out:
      return To::moved_out;
    case From::gone:
      return To::gone;
    case From::overflow:
      break;
  }
  return To::overflow;
}

/// The watch, once the sandbox runs. Does not keep the sandbox.
asio::awaitable<std::unique_ptr<runner::FileWatch>> begin(std::shared_ptr<SandboxRecord> record, std::string path,
                                                          Clock::time_point until) {
  auto there = SandboxRecord::running(record, until);
  const std::shared_ptr<runner::Sandbox> place = co_await std::move(there);
  try {
    auto watching = place->files().watch(std::move(path));
    co_return co_await std::move(watching);
  } catch (const runner::FileFailed& e) {
    throw from_file(e, record->id());
  }
}

}  // namespace

asio::awaitable<void> watch_file(std::shared_ptr<Context> context, std::shared_ptr<OwnSandboxes> sandboxes,
                                 messages::WatchFileRequest request, ServerStream& stream, Clock::time_point deadline) {
  if (request.sandbox_id.empty()) throw invalid_field("sandboxId", "is required");
  if (request.path.find('\0') != std::string::npos) throw invalid_field("path", "a path may not hold a NUL byte");
  if (context->stopping) throw shutting_down();
  const std::shared_ptr<SandboxRecord> record = sandboxes->find(request.sandbox_id);
  if (!record) throw sandbox_not_found(request.sandbox_id);
  const Place place(context->options, record);
  auto beginning = begin(record, std::move(request.path), std::min(deadline, Clock::now() + context->options.start_wait));
  const std::unique_ptr<runner::FileWatch> watch = co_await std::move(beginning);

  messages::WatchFileResponse response;
  bool say = true;  // at once that the watch stands
  auto keep_alive = Clock::now();
  for (;;) {
    if (say) {
      co_await stream.send(response);
      if (!response.events.empty() && response.events.back().kind == messages::FileEventKind::gone) co_return;
      response.events.clear();
      keep_alive = Clock::now() + context->options.log_keep_alive;
    }
    if (context->dropped) throw boost::system::system_error(asio::error::operation_aborted);
    if (Clock::now() >= deadline)
      throw ServiceError(ErrorCode::deadline_exceeded, nullptr, "the time that the request allows has passed");
    auto next = watch->next(std::min({deadline, keep_alive, Clock::now() + kLook}));
    std::vector<runner::FileEvent> events = co_await std::move(next);
    for (runner::FileEvent& event : events) {
      messages::FileEvent& out = response.events.emplace_back();
      out.kind = wire_kind(event.kind);
      out.name = std::move(event.name);
      out.old_name = std::move(event.old_name);
      out.directory = event.directory;
    }
    const auto now = Clock::now();
    say = !events.empty() || now >= keep_alive;
    if (!events.empty()) continue;
    if (stream.client_gone()) throw boost::system::system_error(asio::error::connection_reset);
    if (context->stopping) throw shutting_down();
    if (!record->terminal()) continue;  // what is written while it is being ended is told, too
    auto still = SandboxRecord::running(record, now);
    static_cast<void>(co_await std::move(still));  // throws what says how it ended
  }
}

}  // namespace cwsandbox::gateway
