#include "client/watch.hpp"

#include "base/text.hpp"
#include "client/errors.hpp"
#include "client/files.hpp"
#include "client/rpc.hpp"
#include "client/server_stream.hpp"
#include "core/spawn.hpp"
#include "messages/files.hpp"
#include "messages/json.hpp"

#include <memory>
#include <optional>
#include <utility>

namespace cwsandbox::client {

// ---- EventQueue ----

void EventQueue::put(FileEvent event) {
  feed([this, &event](std::deque<FileEvent>& events) {
    const bool last = event.kind == FileEventKind::gone;  // it fits always
    if (full_ && events.size() <= kMost / 2) full_ = false;
    if (full_ && !last) return false;
    if (!full_ && events.size() >= kMost) {
      full_ = true;
      FileEvent overflow;
      overflow.kind = FileEventKind::overflow;
      events.push_back(std::move(overflow));
    }
    if (!full_ || last) events.push_back(std::move(event));
    return true;
  });
}

bool EventQueue::take(std::deque<FileEvent>& events, std::optional<FileEvent>& item) {
  item.emplace(std::move(events.front()));
  events.pop_front();
  return false;
}

// ---- the stream ----

namespace {

constexpr std::size_t kMaxMessage = 1024 * 1024;  // of JSON; our own gateway sends some hundred events at most
constexpr const char* kMethod = "/cwsandbox.v1.FileService/Watch";

FileEventKind from_wire(messages::FileEventKind kind) noexcept {
  using From = messages::FileEventKind;
  switch (kind) {
    case From::created:
      return FileEventKind::created;
    case From::modified:
      return FileEventKind::modified;
    case From::closed:
      return FileEventKind::closed;
    case From::attributes:
      return FileEventKind::attributes;
    case From::deleted:
      return FileEventKind::deleted;
    case From::renamed:
      return FileEventKind::renamed;
    case From::moved_in:
      return FileEventKind::moved_in;
    case From::moved_out:
      return FileEventKind::moved_out;
    case From::gone:
      return FileEventKind::gone;
    case From::overflow:
      return FileEventKind::overflow;
    case From::unspecified:
      break;
  }
  return FileEventKind::unspecified;
}

/// False behind the last event.
bool take(const std::string& message, EventQueue& into) {
  auto response = parse_answer(messages::from_json<messages::WatchFileResponse>, message);
  for (auto& told : response.events) {
    FileEvent event;
    event.kind = from_wire(told.kind);
    event.name = std::move(told.name);
    event.old_name = std::move(told.old_name);
    event.is_directory = told.directory;
    const bool last = event.kind == FileEventKind::gone;
    into.put(std::move(event));
    if (last) return false;
  }
  return true;
}

std::string about(const char* what, const std::string& path) { return std::string(what) + " '" + base::printable(path, 200) + "'"; }

/// The error under way, of a watch that does not stand.
std::exception_ptr not_begun(const std::string& path) {
  const auto error = from_transport(std::current_exception());
  try {
    std::rethrow_exception(error);
  } catch (const CWSandboxError& failed) {
    const bool unable = failed.code() == base::to_string(ErrorCode::unimplemented);
    if (!unable && dynamic_cast<const SandboxFileError*>(&failed) == nullptr) return error;
    auto fields = failed.fields();
    fields.metadata.insert_or_assign("filepath", path);
    std::string text = about("Cannot watch", path) + ": ";
    if (unable) text += "the server cannot watch files: ";
    return std::make_exception_ptr(SandboxFileError(text + failed.what(), fields));
  } catch (...) {
    return error;
  }
}

/// The error under way, of one that stood.
std::exception_ptr broken(const std::string& path) {
  const auto error = from_transport(std::current_exception());
  try {
    std::rethrow_exception(error);
  } catch (const SandboxUnavailableError& lost) {
    return std::make_exception_ptr(SandboxUnavailableError(
        about("The watch of", path) + " broke off, and what has happened since is not known: " + lost.what(), lost.fields()));
  } catch (...) {
    return error;
  }
}

asio::awaitable<void> feed(std::unique_ptr<ServerStream> stream, std::shared_ptr<EventQueue> into, std::string path) {
  try {
    bool more = true;
    while (auto message = co_await stream->next()) {
      if (more) more = take(*message, *into);
    }
    if (more) throw SandboxUnavailableError("the server ended it");
    into->finish();
  } catch (...) {
    into->finish(broken(path));
  }
}

/// A stream whose first message has come: the watch stands.
asio::awaitable<std::unique_ptr<ServerStream>> begin(detail::SandboxState::Ready there, std::string path,
                                                     std::shared_ptr<EventQueue> into) {
  messages::WatchFileRequest request;
  request.sandbox_id = there.id;
  request.path = std::move(path);
  const auto json = messages::to_json(request);
  Retries retries(*there.backend, "watching a file", there.id);
  for (;;) {
    std::exception_ptr error;
    try {
      auto stream = co_await ServerStream::open(there.backend, kMethod, json, kMaxMessage);
      const auto first = co_await stream->next();
      if (!first) throw SandboxUnavailableError("The server ended the watch before it stood");
      static_cast<void>(take(*first, *into));
      co_return stream;
    } catch (...) {
      error = std::current_exception();
    }
    const auto delay = retries.next(error);
    if (!delay) std::rethrow_exception(error);
    co_await pause(*delay);
  }
}

asio::awaitable<StreamReader<FileEvent>> watch(std::shared_ptr<detail::SandboxState> state, std::string path,
                                               asio::any_io_executor strand) {
  const LoopManager loop = state->core()->loop();
  std::exception_ptr error;
  try {
    auto there = co_await detail::SandboxState::ready(state);
    // Closing the queue cancels what feeds it, which is only known once it has the queue.
    auto feeder = std::make_shared<task<void>>();
    auto queue = std::make_shared<EventQueue>([feeder] { feeder->cancel(); });
    auto stream = co_await begin(std::move(there), path, queue);
    *feeder = core::spawn_task<void>(loop, strand, feed(std::move(stream), queue, std::move(path)));
    co_return StreamReader<FileEvent>(queue, loop, std::make_shared<QueueGuard<detail::SandboxState, EventQueue>>(state, queue));
  } catch (...) {
    error = not_begun(path);
  }
  std::rethrow_exception(error);
}

}  // namespace

}  // namespace cwsandbox::client

namespace cwsandbox {

std::string_view to_string(FileEventKind kind) noexcept {
  switch (kind) {
    case FileEventKind::created:
      return "created";
    case FileEventKind::modified:
      return "modified";
    case FileEventKind::closed:
      return "closed";
    case FileEventKind::attributes:
      return "attributes";
    case FileEventKind::deleted:
      return "deleted";
    case FileEventKind::renamed:
      return "renamed";
    case FileEventKind::moved_in:
      return "moved_in";
    case FileEventKind::moved_out:
      return "moved_out";
    case FileEventKind::gone:
      return "gone";
    case FileEventKind::overflow:
      return "overflow";
    case FileEventKind::unspecified:
      break;
  }
  return "unspecified";
}

task<StreamReader<FileEvent>> Sandbox::watch(std::string path) const {
  client::files::check_path(path);
  if (!state_) throw std::invalid_argument("cwsandbox: an empty Sandbox");
  const auto& loop = state_->core()->loop();
  const auto strand = loop.make_strand();
  return core::spawn_task<StreamReader<FileEvent>>(loop, strand, client::watch(state_, std::move(path), strand));
}

}  // namespace cwsandbox
