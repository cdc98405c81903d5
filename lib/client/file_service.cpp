// Questions about files and directories, and making, removing and renaming them: the calls of cwsandbox.v1.FileService.
#include "client/errors.hpp"
#include "client/file_errors.hpp"
#include "client/files.hpp"
#include "client/rpc.hpp"
#include "client/server_stream.hpp"
#include "messages/files.hpp"
#include "messages/json.hpp"

#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace cwsandbox::client::files {

namespace {

constexpr const char* kService = "/cwsandbox.v1.FileService/";
constexpr const char* kNotFound = "CWSANDBOX_FILE_NOT_FOUND";
constexpr std::size_t kMaxListMessage = 4 * 1024 * 1024;
constexpr std::size_t kMaxListed = 4'000'000;  // entries of one directory

FileInfo from_wire(messages::FileInfo&& info, std::string path) {
  FileInfo out;
  out.path = std::move(path);
  out.name = std::move(info.name);
  if (out.name.empty()) {
    const std::string_view whole = out.path;
    const auto last = whole.find_last_not_of('/');
    const auto part = whole.substr(0, last == std::string_view::npos ? 0 : last + 1);
    out.name = std::string(part.empty() ? std::string_view("/") : part.substr(part.rfind('/') + 1));
  }
  out.type = static_cast<FileType>(info.type);
  out.size = info.size;
  out.mode = info.mode;
  out.modified = info.modify_time;
  out.link_target = std::move(info.link_target);
  return out;
}
static_assert(static_cast<int>(FileType::character_device) == static_cast<int>(messages::FileType::character_device));

/// One of FileService's operations.
asio::awaitable<std::string> ask(Ready there, const char* method, std::string json, Repeat repeat) {
  const auto timeout = there.backend->settings().request_timeout;
  co_return co_await call(there.backend, std::string(kService) + method, std::move(json), timeout, repeat);
}

/// The error under way; a server without FileService is named as such.
std::exception_ptr about_service(const char* verb, const std::string& path) {
  const auto error = about(verb, path);
  if (!is_unimplemented(error)) return error;
  return std::make_exception_ptr(
      file_error(doing(verb, path) + ": the server has no cwsandbox.v1.FileService", path, ErrorCode::unimplemented, ""));
}

bool has_reason(const std::exception_ptr& error, const char* reason) {
  try {
    std::rethrow_exception(error);
  } catch (const CWSandboxError& e) {
    return e.reason() == reason;
  } catch (...) {
    return false;
  }
}

}  // namespace

asio::awaitable<FileInfo> stat(State state, std::string path) {
  std::exception_ptr error;
  try {
    Ready there = co_await detail::SandboxState::ready(state);
    messages::StatFileRequest request;
    request.sandbox_id = there.id;
    request.path = path;
    auto json = messages::to_json(request);
    const auto answer = co_await ask(std::move(there), "Stat", std::move(json), Repeat::always);
    auto info = parse_answer(messages::from_json<messages::FileInfo>, answer);
    co_return from_wire(std::move(info), path);
  } catch (...) {
    error = about_service("look at", path);
  }
  std::rethrow_exception(error);
}

asio::awaitable<std::vector<FileInfo>> list(State state, std::string path) {
  std::exception_ptr error;
  try {
    const Ready there = co_await detail::SandboxState::ready(state);
    messages::ListFilesRequest request;
    request.sandbox_id = there.id;
    request.path = path;
    const auto json = messages::to_json(request);
    const std::string below = path.back() == '/' ? path : path + '/';
    Retries retries(*there.backend, "listing a directory", there.id);
    for (;;) {
      try {
        std::vector<FileInfo> found;
        const auto stream = co_await ServerStream::open(there.backend, std::string(kService) + "List", json, kMaxListMessage);
        while (auto message = co_await stream->next()) {
          auto part = parse_answer(messages::from_json<messages::ListFilesResponse>, *message);
          for (auto& info : part.files) {
            auto whole = below + info.name;
            found.push_back(from_wire(std::move(info), std::move(whole)));
          }
          if (found.size() > kMaxListed)
            throw file_error(doing("list", path) + ": it has more than " + std::to_string(kMaxListed) + " entries", path,
                             ErrorCode::resource_exhausted, kTooLarge);
        }
        co_return found;
      } catch (...) {
        error = std::current_exception();
      }
      const auto delay = retries.next(error);
      if (!delay) std::rethrow_exception(error);
      co_await pause(*delay);
    }
  } catch (...) {
    error = about_service("list", path);
  }
  std::rethrow_exception(error);
}

asio::awaitable<void> make_directory(State state, std::string path, bool parents, std::optional<std::uint32_t> mode) {
  std::exception_ptr error;
  try {
    Ready there = co_await detail::SandboxState::ready(state);
    messages::MakeDirectoryRequest request;
    request.sandbox_id = there.id;
    request.path = path;
    request.mode = mode;
    request.parents = parents;
    auto json = messages::to_json(request);
    const auto repeat = parents ? Repeat::always : Repeat::if_unsent;
    static_cast<void>(co_await ask(std::move(there), "MakeDirectory", std::move(json), repeat));
    co_return;
  } catch (...) {
    error = about_service("make the directory", path);
  }
  std::rethrow_exception(error);
}

asio::awaitable<void> remove(State state, std::string path, bool recursive, bool missing_ok) {
  std::exception_ptr error;
  try {
    Ready there = co_await detail::SandboxState::ready(state);
    messages::RemoveFileRequest request;
    request.sandbox_id = there.id;
    request.path = path;
    request.recursive = recursive;
    request.allow_missing = missing_ok;
    auto json = messages::to_json(request);
    const auto repeat = missing_ok ? Repeat::always : Repeat::if_unsent;
    static_cast<void>(co_await ask(std::move(there), "Remove", std::move(json), repeat));
    co_return;
  } catch (...) {
    error = about_service("remove", path);
  }
  if (missing_ok && has_reason(error, kNotFound)) co_return;
  std::rethrow_exception(error);
}

asio::awaitable<void> rename(State state, std::string from, std::string to) {
  std::exception_ptr error;
  try {
    Ready there = co_await detail::SandboxState::ready(state);
    messages::RenameFileRequest request;
    request.sandbox_id = there.id;
    request.from = from;
    request.to = std::move(to);
    auto json = messages::to_json(request);
    static_cast<void>(co_await ask(std::move(there), "Rename", std::move(json), Repeat::if_unsent));
    co_return;
  } catch (...) {
    error = about_service("rename", from);
  }
  std::rethrow_exception(error);
}

}  // namespace cwsandbox::client::files
