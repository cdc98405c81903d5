#include "gateway/file_service.hpp"

#include "base/hex.hpp"
#include "base/numbers.hpp"
#include "base/text.hpp"
#include "base/time.hpp"
#include "gateway/errors.hpp"
#include "gateway/service.hpp"
#include "messages/json.hpp"

#include <algorithm>
#include <cerrno>
#include <map>
#include <optional>
#include <vector>

namespace cwsandbox::gateway {

namespace {

// A piece of a body on its way between a socket and a file.
constexpr std::size_t kSlice = 512 * 1024;
// What ReadFile, whose answer is one JSON document, gives at most.
constexpr std::uint64_t kMaxReadFile = 1024 * 1024;
constexpr std::size_t kListed = 128;  // entries of one message
constexpr std::uint32_t kModeBits = 07777;

/// Runs a file operation; what the sandbox's system refuses becomes an error that names the file.
template <class T>
asio::awaitable<T> refused_as(asio::awaitable<T> work, std::string sandbox_id) {
  try {
    co_return co_await std::move(work);
  } catch (const runner::FileFailed& e) {
    throw from_file(e, sandbox_id);
  }
}

void check_path(const std::string& path, const char* field) {
  if (path.empty()) throw invalid_field(field, "is required");
  if (path.find('\0') != std::string::npos) throw invalid_field(field, "a path may not hold a NUL byte");
}

struct Query {
  std::string sandbox, path;
  std::optional<std::uint32_t> mode;
  messages::Timestamp modified;
  bool parents = false, append = false;
};

bool truth_of(const std::string& text, const char* name) {
  if (text != "true" && text != "false") throw invalid_field(name, "must be true or false");
  return text == "true";
}

Query query_of(std::string_view target, bool writing) {
  Query query;
  std::map<std::string, std::string, std::less<>> values;
  const std::size_t mark = target.find('?');
  std::string_view rest = mark == std::string_view::npos ? std::string_view() : target.substr(mark + 1);
  while (!rest.empty()) {
    const std::string_view pair = rest.substr(0, rest.find('&'));
    rest.remove_prefix(std::min(rest.size(), pair.size() + 1));
    if (pair.empty()) continue;
    const std::size_t equals = std::min(pair.find('='), pair.size());
    const std::string name(pair.substr(0, equals));
    const bool known = name == "sandbox" || name == "path" ||
                       (writing && (name == "mode" || name == "parents" || name == "modified" || name == "append"));
    if (!known) throw invalid_field(base::escaped(name, 64), "no such parameter");
    auto value = base::percent_decode(pair.substr(std::min(equals + 1, pair.size())));
    if (!value) throw invalid_field(name, "a '%' must be followed by two hexadecimal digits");
    if (!values.emplace(name, std::move(*value)).second) throw invalid_field(name, "is given twice");
  }
  query.sandbox = values["sandbox"];
  query.path = values["path"];
  if (query.sandbox.empty()) throw invalid_field("sandbox", "is required");
  check_path(query.path, "path");
  if (const auto mode = values.find("mode"); mode != values.end()) {
    query.mode = base::parse_number<std::uint32_t>(mode->second, 8);
    if (!query.mode || *query.mode > kModeBits) throw invalid_field("mode", "not an octal number of at most 7777");
  }
  if (const auto modified = values.find("modified"); modified != values.end()) {
    query.modified = base::parse_timestamp(modified->second);
    if (!query.modified) throw invalid_field("modified", "not a time as RFC 3339 has it");
  }
  if (const auto parents = values.find("parents"); parents != values.end()) query.parents = truth_of(parents->second, "parents");
  if (const auto append = values.find("append"); append != values.end()) query.append = truth_of(append->second, "append");
  if (query.append && query.modified) throw invalid_field("modified", "does not go with append");
  return query;
}

struct Range {
  std::uint64_t from = 0, length = 0;
};

/// The one range of a Range header; nothing when it is not one or lies outside.
std::optional<Range> range_of(std::string_view text, std::uint64_t size) {
  constexpr std::string_view unit = "bytes=";
  if (text.substr(0, unit.size()) != unit) return std::nullopt;
  text.remove_prefix(unit.size());
  const std::size_t dash = text.find('-');
  if (dash == std::string_view::npos) return std::nullopt;
  const std::string_view first = text.substr(0, dash), last = text.substr(dash + 1);
  Range range;
  if (first.empty()) {
    const auto suffix = base::parse_number<std::uint64_t>(last);
    if (!suffix || *suffix == 0 || size == 0) return std::nullopt;
    range.length = std::min(*suffix, size);
    range.from = size - range.length;
    return range;
  }
  const auto from = base::parse_number<std::uint64_t>(first);
  if (!from || *from >= size) return std::nullopt;
  std::uint64_t to = size - 1;
  if (!last.empty()) {
    const auto end = base::parse_number<std::uint64_t>(last);
    if (!end || *end < *from) return std::nullopt;
    to = std::min(to, *end);
  }
  range.from = *from;
  range.length = to - *from + 1;
  return range;
}

messages::FileType wire_type(runner::FileType type) noexcept {
  switch (type) {
    case runner::FileType::regular:
      return messages::FileType::regular;
    case runner::FileType::directory:
      return messages::FileType::directory;
    case runner::FileType::symlink:
      return messages::FileType::symlink;
    case runner::FileType::fifo:
      return messages::FileType::fifo;
    case runner::FileType::socket:
      return messages::FileType::socket;
    case runner::FileType::block_device:
      return messages::FileType::block_device;
    case runner::FileType::character_device:
      return messages::FileType::character_device;
    case runner::FileType::unknown:
      break;
  }
  return messages::FileType::unspecified;
}

messages::FileInfo wire_info(runner::FileInfo info) {
  messages::FileInfo out;
  out.name = std::move(info.name);
  out.type = wire_type(info.type);
  out.size = info.size;
  out.mode = info.mode;
  out.uid = info.uid;
  out.gid = info.gid;
  out.modify_time = info.modified;
  out.link_target = std::move(info.link_target);
  return out;
}

ServiceError too_large(const std::string& path, const std::string& id) {
  return ServiceError(ErrorCode::resource_exhausted, reason::kFileTooLarge,
                      "the file is larger than ReadFile gives: GET " + std::string(kFilesPath) + " has no limit",
                      {{"filepath", path}, {"errno", "EFBIG"}, {"sandbox_id", id}});
}

}  // namespace

asio::awaitable<std::shared_ptr<runner::Sandbox>> FileService::sandbox(FileService self, std::string id, std::string container) {
  if (id.empty()) throw invalid_field("sandboxId", "is required");
  if (self.context_->stopping) throw shutting_down();
  const std::shared_ptr<SandboxRecord> record = self.sandboxes_->find(id);
  if (!record) throw sandbox_not_found(id);
  if (!container.empty() && container != record->view().spec.containers[0].name)
    throw invalid_field("container", "the sandbox has no container of this name");
  const auto deadline = std::chrono::steady_clock::now() + self.context_->options.start_wait;
  co_return co_await SandboxRecord::running(record, deadline);
}

// ---- bodies ----

asio::awaitable<void> FileService::transfer(FileService self, net::ServerExchange& exchange, Transfer& done) {
  const bool writing = exchange.request().method == "PUT";
  Query query = query_of(exchange.request().target, writing);
  if (!writing) {
    co_await get(self, exchange, std::move(query.sandbox), std::move(query.path), done);
    co_return;
  }
  runner::FileWriteSpec spec;
  spec.path = std::move(query.path);
  spec.mode = query.mode;
  spec.make_parents = query.parents;
  spec.modified = query.modified;
  spec.append = query.append;
  co_await put(self, exchange, std::move(query.sandbox), std::move(spec), done);
}

asio::awaitable<void> FileService::get(FileService self, net::ServerExchange& exchange, std::string id, std::string path,
                                       Transfer& done) {
  const std::shared_ptr<runner::Sandbox> place = co_await sandbox(self, id, "");
  const BudgetShare file(self.sandboxes_->budgets(), Budget::descriptors, kFileDescriptors);
  const std::unique_ptr<runner::FileReader> reader = co_await refused_as(place->files().open(std::move(path)), id);
  const runner::FileInfo& info = reader->info();
  Range range;
  range.length = info.size;
  net::HttpResponse head;
  if (const std::string_view asked = net::find_header(exchange.request().headers, "Range"); !asked.empty()) {
    const auto found = range_of(asked, info.size);
    if (!found) {
      const std::string size = std::to_string(info.size);
      head = error_response(
          ServiceError(ErrorCode::out_of_range, reason::kInvalidRequest, "Range: not one range of bytes within the file's " + size)
              .error());
      head.status = 416;
      head.headers.emplace_back("Content-Range", "bytes */" + size);
      done.status = head.status;
      const std::uint64_t length = head.body.size();
      co_await exchange.start(std::move(head), length);
      co_await exchange.finish();
      co_return;
    }
    range = *found;
    head.status = 206;
    head.headers.emplace_back("Content-Range", "bytes " + std::to_string(range.from) + "-" +
                                                   std::to_string(range.from + range.length - 1) + "/" + std::to_string(info.size));
  }
  head.headers.emplace_back("Content-Type", "application/octet-stream");
  head.headers.emplace_back("Accept-Ranges", "bytes");
  head.headers.emplace_back("Cwsandbox-File-Size", std::to_string(info.size));
  head.headers.emplace_back("Cwsandbox-File-Mode", base::to_octal(info.mode & kModeBits, 4));
  head.headers.emplace_back("Cwsandbox-File-Modified", base::format_timestamp(info.modified, base::Fraction::nine));
  done.status = head.status;
  co_await exchange.start(std::move(head), range.length);
  if (range.length > 0 && reader->native_handle() >= 0) {
    done.bytes = co_await exchange.write_file(reader->native_handle(), range.from, range.length);
  } else if (range.length > 0) {
    std::vector<char> slice(exchange.buffer_size(static_cast<std::size_t>(std::min<std::uint64_t>(kSlice, range.length))));
    while (done.bytes < range.length) {
      const std::size_t most = static_cast<std::size_t>(std::min<std::uint64_t>(slice.size(), range.length - done.bytes));
      const std::size_t n = co_await reader->read(range.from + done.bytes, asio::buffer(slice.data(), most));
      if (n == 0) break;
      co_await exchange.write(asio::buffer(slice.data(), n));
      done.bytes += n;
    }
  }
  // The file has shrunk: without `finish` the connection is cut, and the client sees that it did not get what was announced.
  if (done.bytes < range.length) co_return;
  co_await exchange.finish();
}

asio::awaitable<void> FileService::put(FileService self, net::ServerExchange& exchange, std::string id, runner::FileWriteSpec spec,
                                       Transfer& done) {
  const std::shared_ptr<runner::Sandbox> place = co_await sandbox(self, id, "");
  const BudgetShare file(self.sandboxes_->budgets(), Budget::descriptors, kFileDescriptors);
  const std::unique_ptr<runner::FileWriter> writer = co_await refused_as(place->files().create(std::move(spec)), id);
  const std::uint64_t announced = exchange.content_length().value_or(kSlice);
  std::vector<char> slice(exchange.buffer_size(static_cast<std::size_t>(std::clamp<std::uint64_t>(announced, 1, kSlice))));
  for (;;) {
    const std::size_t n = co_await exchange.read(asio::buffer(slice));
    if (n == 0) break;
    co_await refused_as(writer->write(asio::buffer(slice.data(), n)), id);
    done.bytes += n;
  }
  co_await refused_as(writer->commit(), id);
  net::HttpResponse head;
  head.headers.emplace_back("Content-Type", "application/json");
  head.body = "{}";
  done.status = head.status;
  co_await exchange.start(std::move(head), 2);
  co_await exchange.finish();
}

// ---- methods ----

asio::awaitable<messages::ReadFileResponse> FileService::read(FileService self, messages::ReadFileRequest request) {
  check_path(request.path, "path");
  const std::shared_ptr<runner::Sandbox> place = co_await sandbox(self, request.sandbox_id, request.container);
  const BudgetShare file(self.sandboxes_->budgets(), Budget::descriptors, kFileDescriptors);
  const std::unique_ptr<runner::FileReader> reader = co_await refused_as(place->files().open(request.path), request.sandbox_id);
  if (reader->info().size > kMaxReadFile) throw too_large(request.path, request.sandbox_id);
  messages::ReadFileResponse response;
  // To its end, whatever size it says: a file of /proc says 0.
  std::string& content = response.content;
  content.resize(std::max<std::size_t>(4096, static_cast<std::size_t>(reader->info().size) + 1));
  std::size_t have = 0;
  for (;;) {
    const std::size_t n =
        co_await refused_as(reader->read(have, asio::buffer(content.data() + have, content.size() - have)), request.sandbox_id);
    if (n == 0) break;
    have += n;
    if (have > kMaxReadFile) throw too_large(request.path, request.sandbox_id);
    if (have == content.size()) content.resize(2 * have);
  }
  response.content.resize(have);
  co_return response;
}

asio::awaitable<void> FileService::write(FileService self, messages::WriteFileRequest request) {
  check_path(request.path, "path");
  const std::shared_ptr<runner::Sandbox> place = co_await sandbox(self, request.sandbox_id, request.container);
  runner::FileWriteSpec spec;
  spec.path = request.path;
  const BudgetShare file(self.sandboxes_->budgets(), Budget::descriptors, kFileDescriptors);
  const std::unique_ptr<runner::FileWriter> writer =
      co_await refused_as(place->files().create(std::move(spec)), request.sandbox_id);
  if (!request.content.empty()) co_await refused_as(writer->write(asio::buffer(request.content)), request.sandbox_id);
  co_await refused_as(writer->commit(), request.sandbox_id);
}

asio::awaitable<messages::FileInfo> FileService::stat(FileService self, messages::StatFileRequest request) {
  check_path(request.path, "path");
  const std::shared_ptr<runner::Sandbox> place = co_await sandbox(self, request.sandbox_id, "");
  runner::FileInfo info =
      co_await refused_as(place->files().stat(std::move(request.path), request.follow_symlinks), request.sandbox_id);
  co_return wire_info(std::move(info));
}

asio::awaitable<void> FileService::make_directory(FileService self, messages::MakeDirectoryRequest request) {
  check_path(request.path, "path");
  const std::uint32_t mode = request.mode.value_or(0755);
  if (mode > kModeBits) throw invalid_field("mode", "has bits beyond 07777");
  const std::shared_ptr<runner::Sandbox> place = co_await sandbox(self, request.sandbox_id, "");
  co_await refused_as(place->files().make_directory(std::move(request.path), mode, request.parents), request.sandbox_id);
}

asio::awaitable<void> FileService::remove(FileService self, messages::RemoveFileRequest request) {
  check_path(request.path, "path");
  const std::shared_ptr<runner::Sandbox> place = co_await sandbox(self, request.sandbox_id, "");
  try {
    co_await place->files().remove(std::move(request.path), request.recursive);
  } catch (const runner::FileFailed& e) {
    if (e.error() != ENOENT || !request.allow_missing) throw from_file(e, request.sandbox_id);
  }
}

asio::awaitable<void> FileService::rename(FileService self, messages::RenameFileRequest request) {
  check_path(request.from, "from");
  check_path(request.to, "to");
  const std::shared_ptr<runner::Sandbox> place = co_await sandbox(self, request.sandbox_id, "");
  co_await refused_as(place->files().rename(std::move(request.from), std::move(request.to)), request.sandbox_id);
}

asio::awaitable<void> FileService::list(FileService self, messages::ListFilesRequest request, ServerStream& stream) {
  check_path(request.path, "path");
  const std::shared_ptr<runner::Sandbox> place = co_await sandbox(self, request.sandbox_id, "");
  const std::unique_ptr<runner::DirectoryReader> reader =
      co_await refused_as(place->files().list(std::move(request.path)), request.sandbox_id);
  for (;;) {
    std::vector<runner::FileInfo> entries = co_await refused_as(reader->next(kListed), request.sandbox_id);
    if (entries.empty()) co_return;
    messages::ListFilesResponse response;
    for (runner::FileInfo& entry : entries) response.files.push_back(wire_info(std::move(entry)));
    co_await stream.send(response);
  }
}

}  // namespace cwsandbox::gateway
