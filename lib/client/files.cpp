#include "client/files.hpp"

#include "base/hex.hpp"
#include "base/numbers.hpp"
#include "base/text.hpp"
#include "base/time.hpp"
#include "client/errors.hpp"
#include "client/local_files.hpp"
#include "client/rpc.hpp"
#include "client/server_stream.hpp"
#include "core/spawn.hpp"
#include "messages/files.hpp"
#include "messages/json.hpp"

#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <limits>
#include <vector>

namespace cwsandbox::client::files {

using Clock = std::chrono::steady_clock;
using Ready = detail::SandboxState::Ready;

namespace {

constexpr std::size_t kSmallWrite = 256 * 1024;    // up to here a write is one RPC
constexpr std::size_t kChunk = 256 * 1024;         // of a stream
constexpr std::size_t kChunksAhead = 3;            // and so many wait for a slow reader
constexpr std::size_t kBlock = 1024 * 1024;        // of a copy from or to a local file
constexpr std::uint64_t kSlice = 8 * 1024 * 1024;  // between two calls of a progress function
constexpr std::size_t kMaxErrorBody = 1024 * 1024;
constexpr std::size_t kFallbackWrite = 8 * 1024 * 1024;  // what is put into one RPC where a server has nothing else
constexpr std::size_t kMaxListMessage = 4 * 1024 * 1024;
constexpr std::size_t kMaxListed = 4'000'000;  // entries of one directory
constexpr const char* kNotFound = "CWSANDBOX_FILE_NOT_FOUND";
constexpr const char* kTooLarge = "CWSANDBOX_FILE_TOO_LARGE";
constexpr const char* kTruncated = "CWSANDBOX_FILE_TRUNCATED";
constexpr const char* kService = "/cwsandbox.v1.FileService/";
constexpr std::string_view kInQuery = "/";  // needs no escape in a query, and paths are full of it

/// "read 'etc/x'" for a message.
std::string doing(const char* verb, const std::string& path) {
  return std::string("Cannot ") + verb + " '" + base::printable(path, 200) + "'";
}

SandboxFileError file_error(const std::string& text, const std::string& path, ErrorCode code, const char* reason) {
  ErrorFields fields;
  fields.code = base::to_string(code);
  fields.reason = reason;
  fields.metadata.emplace("filepath", path);
  return SandboxFileError(text, fields);
}

/// The error under way, about `path`: a file's error gets the path as the caller has it (FI-2).
std::exception_ptr about(const char* verb, const std::string& path) {
  const auto error = from_transport(std::current_exception());
  try {
    std::rethrow_exception(error);
  } catch (const SandboxFileError& failed) {
    auto fields = failed.fields();
    fields.metadata.insert_or_assign("filepath", path);
    const std::string_view text = failed.what();
    const bool said = text.starts_with("Cannot ");
    return std::make_exception_ptr(
        SandboxFileError(said ? std::string(text) : doing(verb, path) + ": " + std::string(text), fields));
  } catch (...) {
    return error;
  }
}

/// Whether the error under way says that the server does not know what it was asked to do.
bool is_unimplemented(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const CWSandboxError& e) {
    return e.code() == base::to_string(ErrorCode::unimplemented);
  } catch (...) {
    return false;
  }
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

std::string target_of(const Ready& there, const std::string& path) {
  return "/v1/files?sandbox=" + base::percent_encode(there.id, kInQuery) + "&path=" + base::percent_encode(path, kInQuery);
}

asio::awaitable<void> pause(Clock::duration delay) {
  asio::steady_timer timer(co_await asio::this_coro::executor, delay);
  co_await timer.async_wait(asio::use_awaitable);
}

// ---- reading ----

/// A file whose bytes are coming.
class Download {
 public:
  Download(std::unique_ptr<net::ClientExchange> its_exchange, std::string its_path)
      : exchange(std::move(its_exchange)), path(std::move(its_path)) {}

  /// The next bytes; 0 at the end.
  static asio::awaitable<std::size_t> read(Download& self, asio::mutable_buffer into) {
    if (!self.exchange) co_return 0;
    bool cut = false;
    std::size_t n = 0;
    try {
      n = co_await self.exchange->read(into);
    } catch (const net::TransportError& lost) {
      if (lost.kind() != net::TransportError::Kind::closed) throw;
      cut = true;
    }
    self.done += n;
    if (cut || (n == 0 && self.total && self.done < *self.total)) {
      // Closed short of its length: the file shrank, or the connection broke. Nobody may take that for the whole file (FI-4).
      auto text = doing("read", self.path) + ": it ended after " + std::to_string(self.done);
      if (self.total) text += " of " + std::to_string(*self.total);
      throw file_error(text + " bytes: the file has shrunk meanwhile, or the connection broke", self.path, ErrorCode::data_loss,
                       kTruncated);
    }
    co_return n;
  }

  std::unique_ptr<net::ClientExchange> exchange;  // null: there is nothing to read
  std::string path;
  std::optional<std::uint64_t> total;
  std::uint64_t done = 0;
  std::optional<std::uint32_t> mode;
  messages::Timestamp modified;
};

/// Asks for the file; tried again as long as no byte of it has come.
asio::awaitable<Download> open_download(Ready there, std::string path, ReadFileOptions options) {
  const bool ranged = options.offset() > 0 || options.length();
  std::string range;
  if (ranged) {
    constexpr std::uint64_t kMost = std::numeric_limits<std::int64_t>::max();
    const auto first = std::min(options.offset(), kMost);
    range = "bytes=" + std::to_string(first) + "-";
    if (options.length()) {
      // An empty range cannot be asked for: one byte is, and not read.
      const auto more = std::max<std::uint64_t>(*options.length(), 1) - 1;
      range += std::to_string(first + std::min(more, kMost - first));
    }
  }
  const std::string target = target_of(there, path);
  const auto ready = there.backend->ready();
  co_await wait_for(ready);
  Retries retries(*there.backend, "reading a file", there.id);
  for (;;) {
    std::exception_ptr error;
    try {
      net::HttpRequest request;
      request.method = "GET";
      request.target = target;
      if (ranged) request.headers.emplace_back("Range", range);
      there.backend->authorize(request.headers);
      const auto deadline = Clock::now() + there.backend->settings().request_timeout;
      auto exchange = co_await there.backend->http().open(std::move(request), 0, false, deadline, kTransferIdle);
      const auto head = co_await exchange->head();
      if (head.status == 416) co_return Download(nullptr, path);  // it is no longer than the offset
      if (head.status == (ranged ? 206U : 200U)) {
        Download download(std::move(exchange), path);
        download.total = download.exchange->content_length();
        const auto mode = net::find_header(head.headers, "Cwsandbox-File-Mode");
        std::uint32_t bits = 0;
        if (std::from_chars(mode.data(), mode.data() + mode.size(), bits, 8).ec == std::errc()) download.mode = bits;
        download.modified = base::parse_timestamp(net::find_header(head.headers, "Cwsandbox-File-Modified"));
        if (options.length() == 0U) {
          download.exchange.reset();
          download.total = 0;
        }
        co_return download;
      }
      if (head.status == 200) throw CWSandboxError("The server answers with the whole file where a range of it was asked for");
      const auto text = co_await exchange->read_rest(kMaxErrorBody);
      error = make_error(protocol::decode_error(head.status, text));
    } catch (...) {
      error = from_transport(std::current_exception());
    }
    const auto delay = retries.next(error);
    if (!delay) std::rethrow_exception(error);
    co_await pause(*delay);
  }
}

/// The whole file in one RPC.
asio::awaitable<std::string> read_rpc(Ready there, std::string path) {
  messages::ReadFileRequest request;
  request.sandbox_id = there.id;
  request.path = path;
  auto json = messages::to_json(request);
  const auto timeout = there.backend->settings().request_timeout;
  const auto answer = co_await call(there.backend, "ReadFile", std::move(json), timeout);
  co_return parse_answer(messages::from_json<messages::ReadFileResponse>, answer).content;
}

/// For a server without /v1/files: what ReadFile gives, cut to the range asked for.
asio::awaitable<std::string> read_without_endpoint(Ready there, std::string path, ReadFileOptions options) {
  if (!base::is_utf8(path))
    throw file_error(doing("read", path) + ": the server has no /v1/files, and ReadFile takes only paths in UTF-8", path,
                     ErrorCode::unimplemented, "");
  std::string content;
  try {
    content = co_await read_rpc(std::move(there), path);
  } catch (const SandboxFileError& error) {
    if (error.reason() != kTooLarge) throw;
    throw file_error(doing("read", path) + ": the server has no /v1/files, and it is too large for ReadFile", path,
                     ErrorCode::unimplemented, kTooLarge);
  }
  if (options.offset() > 0 || options.length()) {
    const auto from = static_cast<std::size_t>(std::min<std::uint64_t>(options.offset(), content.size()));
    const auto length = std::min<std::uint64_t>(options.length().value_or(content.size()), content.size() - from);
    content = content.substr(from, static_cast<std::size_t>(length));
  }
  co_return content;
}

asio::awaitable<std::string> read_body(Download download, FileProgress progress) {
  std::string content;
  std::size_t filled = 0;
  // One byte more than announced, so that the end is seen without growing.
  const auto most = download.total ? *download.total + 1 : std::numeric_limits<std::uint64_t>::max();
  for (;;) {
    if (filled == content.size())
      content.resize(static_cast<std::size_t>(std::min<std::uint64_t>(std::max(kBlock, filled * 2), std::max(most, filled + 1))));
    const auto space = asio::buffer(content.data() + filled, content.size() - filled);
    const auto n = co_await Download::read(download, space);
    if (n == 0) break;
    filled += n;
    if (progress) progress(filled, download.total);
  }
  content.resize(filled);
  co_return content;
}

// ---- writing ----

asio::awaitable<std::unique_ptr<net::ClientExchange>> open_upload(Ready there, std::string path, WriteFileOptions options,
                                                                  std::optional<std::uint64_t> length) {
  const auto ready = there.backend->ready();
  co_await wait_for(ready);
  net::HttpRequest request;
  request.method = "PUT";
  request.target = target_of(there, path);
  if (options.mode()) request.target += "&mode=" + base::to_octal(*options.mode());
  if (options.make_parents()) request.target += "&parents=true";
  if (options.append()) request.target += "&append=true";
  if (options.modified())
    request.target += "&modified=" + base::percent_encode(base::format_timestamp(*options.modified()), kInQuery);
  request.headers.emplace_back("Content-Type", "application/octet-stream");
  there.backend->authorize(request.headers);
  const auto deadline = Clock::now() + there.backend->settings().request_timeout;
  co_return co_await there.backend->http().open(std::move(request), length, true, deadline, kTransferIdle);
}

/// The server's word that the file has its name.
asio::awaitable<void> confirm(net::ClientExchange& exchange, bool complete) {
  const auto head = co_await exchange.head();
  const auto text = co_await exchange.read_rest(kMaxErrorBody);
  if (head.status != 200) std::rethrow_exception(make_error(protocol::decode_error(head.status, text)));
  if (!complete) throw CWSandboxError("The server says that the file is written before it has had all of it");
}

asio::awaitable<void> write_rpc(Ready there, std::string path, std::string content) {
  messages::WriteFileRequest request;
  request.sandbox_id = there.id;
  request.path = std::move(path);
  request.content = std::move(content);
  auto json = messages::to_json(request);
  request.content.clear();
  const auto timeout = there.backend->settings().request_timeout;
  static_cast<void>(co_await call(there.backend, "WriteFile", std::move(json), timeout));
}

[[noreturn]] void too_large_without_endpoint(const std::string& path) {
  throw file_error(doing("write", path) + ": the server has no /v1/files, and it is larger than " + std::to_string(kFallbackWrite) +
                       " bytes, which is what is put into a WriteFile",
                   path, ErrorCode::unimplemented, kTooLarge);
}

void check_without_endpoint(const std::string& path, const WriteFileOptions& options) {
  const char* cannot = nullptr;
  if (!base::is_utf8(path)) cannot = "takes only paths in UTF-8";
  if (options.mode()) cannot = "cannot set permission bits";
  if (options.modified()) cannot = "cannot set the time of a file";
  if (options.make_parents()) cannot = "cannot make the directories above it";
  if (options.append()) cannot = "cannot append to a file";
  if (cannot)
    throw file_error(doing("write", path) + ": the server has no /v1/files, and WriteFile " + cannot, path,
                     ErrorCode::unimplemented, "");
}

/// Whether the error under way, of an upload, may be met by another one: what was appended once must not be appended twice.
bool may_send_again(const WriteFileOptions& options) {
  if (!options.append()) return true;
  try {
    throw;
  } catch (const net::TransportError& lost) {
    return !lost.sent();
  } catch (...) {
    return false;
  }
}

/// Makes attempts, each from the start, until one has succeeded: true. False: the server takes the content of files by its RPC
/// alone, which can do what `options` say.
template <typename Attempt>
asio::awaitable<bool> written_by(const Attempt& attempt, Ready there, std::string path, WriteFileOptions options) {
  Retries retries(*there.backend, "writing a file", there.id);
  for (;;) {
    std::exception_ptr error;
    bool again = false;
    try {
      co_await attempt();
      co_return true;
    } catch (...) {
      again = may_send_again(options);
      error = from_transport(std::current_exception());
    }
    if (is_unimplemented(error)) break;
    const auto delay = again ? retries.next(error) : std::nullopt;
    if (!delay) std::rethrow_exception(error);
    co_await pause(*delay);
  }
  check_without_endpoint(path, options);
  co_return false;
}

/// One try; again from the start when it fails.
asio::awaitable<void> put_content(Ready there, std::string path, const std::string& content, WriteFileOptions options) {
  auto exchange = co_await open_upload(std::move(there), std::move(path), options, content.size());
  std::size_t done = 0;
  while (done < content.size()) {
    const auto n = std::min(content.size() - done, kBlock);
    const auto piece = asio::buffer(content.data() + done, n);
    if (!co_await exchange->write(piece)) break;
    done += n;
    if (options.progress()) options.progress()(done, content.size());
  }
  co_await confirm(*exchange, done == content.size());
}

asio::awaitable<void> put_local(Ready there, std::string path, const LocalSource& from, WriteFileOptions options) {
  auto exchange = co_await open_upload(std::move(there), std::move(path), options, from.size);
  const std::uint64_t size = *from.size;
  std::uint64_t done = 0;
  while (done < size) {
    const auto wanted = std::min(size - done, kSlice);
    const auto sent = co_await exchange->write_file(from.file.get(), done, wanted);
    done += sent;
    if (options.progress()) options.progress()(done, size);
    if (sent == wanted) continue;
    char next = 0;
    if (from.read(done, &next, 1) == 0) local_error("read it all, for it has shrunk", from.path, EIO);
    break;  // the server has answered
  }
  co_await confirm(*exchange, done == size);
}

/// As long as there is something to read.
asio::awaitable<void> put_local_to_its_end(Ready there, std::string path, const LocalSource& from, WriteFileOptions options) {
  auto exchange = co_await open_upload(std::move(there), std::move(path), options, std::nullopt);
  const auto block = std::make_unique_for_overwrite<char[]>(kBlock);
  std::uint64_t done = 0;
  bool open = true;
  while (open) {
    const auto n = from.read(done, block.get(), kBlock);
    if (n == 0) break;
    const auto piece = asio::buffer(std::as_const(block).get(), n);
    open = co_await exchange->write(piece);
    if (!open) break;
    done += n;
    if (options.progress()) options.progress()(done, std::nullopt);
  }
  co_await confirm(*exchange, open);
}

// ---- what there is ----

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

}  // namespace

void check_path(const std::string& path, const char* what) {
  if (path.empty()) throw std::invalid_argument(std::string("cwsandbox: the ") + what + " is empty");
  if (path.find('\0') != std::string::npos) throw std::invalid_argument(std::string("cwsandbox: the ") + what + " holds a NUL");
}

void check(const WriteFileOptions& options) {
  if (options.mode().value_or(0) > 07777) throw std::invalid_argument("cwsandbox: mode has more than permission bits (07777)");
  if (options.append() && options.modified()) throw std::invalid_argument("cwsandbox: with_modified does not go with with_append");
}

asio::awaitable<std::string> read(State state, std::string path, ReadFileOptions options) {
  std::exception_ptr error;
  try {
    const Ready there = co_await detail::SandboxState::ready(state);
    // As a body, also where it is small: in JSON a MiB takes ten times as long. One sandbox that has no bodies only changes what is
    // asked for first: others may have them.
    if (there.backend->lacks_file_endpoint() && options.offset() == 0 && !options.length() && base::is_utf8(path)) {
      try {
        auto content = co_await read_rpc(there, path);
        if (options.progress()) options.progress()(content.size(), content.size());
        co_return content;
      } catch (const SandboxFileError& refused) {
        if (refused.reason() != kTooLarge) throw;
      }
    }
    try {
      auto download = co_await open_download(there, path, options);
      co_return co_await read_body(std::move(download), options.progress());
    } catch (...) {
      error = std::current_exception();
    }
    if (!is_unimplemented(error)) std::rethrow_exception(error);
    there.backend->note_no_file_endpoint();
    auto content = co_await read_without_endpoint(there, path, options);
    if (options.progress()) options.progress()(content.size(), content.size());
    co_return content;
  } catch (...) {
    error = about("read", path);
  }
  std::rethrow_exception(error);
}

asio::awaitable<void> read_stream(State state, std::string path, ReadFileOptions options,
                                  std::shared_ptr<Channel<std::string>> into) {
  std::exception_ptr error;
  try {
    const Ready there = co_await detail::SandboxState::ready(state);
    std::optional<Download> download;
    try {
      download.emplace(co_await open_download(there, path, options));
    } catch (...) {
      error = std::current_exception();
    }
    if (error) {
      if (!is_unimplemented(error)) std::rethrow_exception(error);
      auto content = co_await read_without_endpoint(there, path, options);
      const auto size = content.size();
      if (size > 0) static_cast<void>(into->send(std::move(content)));
      if (options.progress()) options.progress()(size, size);
      into->finish();
      co_return;
    }
    for (;;) {
      std::string chunk(kChunk, '\0');
      std::size_t filled = 0, n = 0;
      // A socket gives less at a time than is good to hand on.
      do {
        const auto space = asio::buffer(chunk.data() + filled, chunk.size() - filled);
        n = co_await Download::read(*download, space);
        filled += n;
      } while (n > 0 && filled < kChunk / 2);
      chunk.resize(filled);
      if (filled > 0) {
        if (options.progress()) options.progress()(download->done, download->total);
        const auto sent = into->send(std::move(chunk));
        co_await wait_for(sent);
      }
      if (n == 0) break;
    }
    into->finish();
    co_return;
  } catch (...) {
    error = about("read", path);
  }
  into->fail(error);
}

asio::awaitable<void> write(State state, std::string path, std::string content, WriteFileOptions options) {
  std::exception_ptr error;
  try {
    const Ready there = co_await detail::SandboxState::ready(state);
    const auto size = content.size();
    const bool plain = !options.mode() && !options.modified() && !options.make_parents() && !options.append();
    if (size <= kSmallWrite && plain && base::is_utf8(path)) {
      co_await write_rpc(there, path, std::move(content));
      if (options.progress()) options.progress()(size, size);
      co_return;
    }
    const auto attempt = [&] { return put_content(there, path, content, options); };
    if (co_await written_by(attempt, there, path, options)) co_return;
    if (size > kFallbackWrite) too_large_without_endpoint(path);
    co_await write_rpc(there, path, std::move(content));
    if (options.progress()) options.progress()(size, size);
    co_return;
  } catch (...) {
    error = about("write", path);
  }
  std::rethrow_exception(error);
}

namespace {

/// The next bytes that were written, as many as there are; empty at the end.
asio::awaitable<std::string> gather(std::shared_ptr<ByteChannel> from) {
  std::string bytes;
  auto polled = from->try_receive(bytes);
  if (polled == ByteChannel::Poll::pending) {
    const auto received = from->receive();
    co_await received.async_wait(asio::use_awaitable);
    auto chunk = received.get();
    if (!chunk) co_return std::string();
    bytes = std::move(*chunk);
    polled = ByteChannel::Poll::chunk;
  }
  if (polled == ByteChannel::Poll::end) co_return std::string();
  std::string more;
  while (bytes.size() < kChunk && from->try_receive(more) == ByteChannel::Poll::chunk) bytes += more;
  co_return bytes;
}

asio::awaitable<void> send_stream(State state, std::string path, WriteFileOptions options, std::shared_ptr<ByteChannel> from) {
  const Ready there = co_await detail::SandboxState::ready(state);
  // Asked for only when there is something to send, so that a slow start keeps no connection waiting.
  auto bytes = co_await gather(from);
  std::unique_ptr<net::ClientExchange> exchange;
  bool open = true;
  std::uint64_t done = 0;
  const auto attempt = [&]() -> asio::awaitable<void> {
    open = true;
    exchange = co_await open_upload(there, path, options, std::nullopt);
    const auto piece = asio::buffer(std::as_const(bytes));
    if (!bytes.empty()) open = co_await exchange->write(piece);
    if (!open) co_await confirm(*exchange, false);
  };
  bool endpoint = co_await written_by(attempt, there, path, options);
  // Some servers ask for the whole body before they say that they do not know what it is for: a little is kept for those.
  std::string held;
  while (!bytes.empty()) {
    done += bytes.size();
    if (!endpoint && done > kFallbackWrite) too_large_without_endpoint(path);
    if (!endpoint || done <= kSmallWrite)
      held += bytes;
    else
      held = std::string();
    if (endpoint) from->acknowledge(done);
    if (options.progress()) options.progress()(done, std::nullopt);
    bytes = co_await gather(from);
    if (!endpoint || bytes.empty()) continue;
    const auto piece = asio::buffer(std::as_const(bytes));
    open = co_await exchange->write(piece);
    if (!open) break;
  }
  if (endpoint) {
    std::exception_ptr error;
    try {
      co_await confirm(*exchange, open);
    } catch (...) {
      error = from_transport(std::current_exception());
    }
    if (error && !is_unimplemented(error)) std::rethrow_exception(error);
    if (error) {
      check_without_endpoint(path, options);
      if (held.size() < done || !open) too_large_without_endpoint(path);
      endpoint = false;
    }
  }
  if (!endpoint) co_await write_rpc(there, path, std::move(held));
  from->acknowledge(done);
}

}  // namespace

asio::awaitable<void> write_stream(State state, std::string path, WriteFileOptions options, std::shared_ptr<ByteChannel> from) {
  std::exception_ptr error;
  try {
    co_await send_stream(state, path, options, from);
    co_return;
  } catch (...) {
    error = about("write", path);
  }
  StreamWriter(from, state->core()->loop()).set_exception(error);
  std::rethrow_exception(error);
}

asio::awaitable<void> download(State state, std::string path, std::string local_path, ReadFileOptions options) {
  std::exception_ptr error;
  try {
    const Ready there = co_await detail::SandboxState::ready(state);
    std::optional<Download> source;
    try {
      source.emplace(co_await open_download(there, path, options));
    } catch (...) {
      error = std::current_exception();
    }
    if (error) {
      if (!is_unimplemented(error)) std::rethrow_exception(error);
      if (options.preserve())
        throw file_error(doing("read", path) + ": the server has no /v1/files, which tells permission bits and times", path,
                         ErrorCode::unimplemented, "");
      const auto content = co_await read_without_endpoint(there, path, options);
      LocalFile file(local_path, 0666);
      file.write(content);
      if (options.progress()) options.progress()(content.size(), content.size());
      file.commit();
      co_return;
    }
    LocalFile file(local_path, source->mode.value_or(0666), options.preserve() && source->mode);
    const auto block = std::make_unique_for_overwrite<char[]>(kBlock);
    for (;;) {
      const auto space = asio::buffer(block.get(), kBlock);
      const auto n = co_await Download::read(*source, space);
      if (n == 0) break;
      file.write(std::string_view(block.get(), n));
      if (options.progress()) options.progress()(source->done, source->total);
    }
    if (options.preserve() && source->modified) file.set_modified(*source->modified);
    file.commit();
    co_return;
  } catch (...) {
    error = about("read", path);
  }
  std::rethrow_exception(error);
}

asio::awaitable<void> upload(State state, std::string local_path, std::string path, WriteFileOptions options) {
  std::exception_ptr error;
  try {
    const LocalSource from(std::move(local_path), kSmallWrite);
    WriteFileOptions with_mode = options;
    if (!options.mode()) with_mode.with_mode(from.mode);
    const Ready there = co_await detail::SandboxState::ready(state);
    const auto attempt = [&] {
      if (from.content) return put_content(there, path, *from.content, with_mode);
      return from.size ? put_local(there, path, from, with_mode) : put_local_to_its_end(there, path, from, with_mode);
    };
    if (co_await written_by(attempt, there, path, options)) co_return;
    auto content = from.content ? *from.content : from.read_all(kFallbackWrite);
    const auto size = content.size();
    if (size > kFallbackWrite) too_large_without_endpoint(path);
    co_await write_rpc(there, path, std::move(content));
    if (options.progress()) options.progress()(size, size);
    co_return;
  } catch (...) {
    error = about("write", path);
  }
  std::rethrow_exception(error);
}

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

namespace cwsandbox {

namespace files = client::files;

std::string_view to_string(FileType type) noexcept {
  switch (type) {
    case FileType::regular:
      return "regular";
    case FileType::directory:
      return "directory";
    case FileType::symlink:
      return "symlink";
    case FileType::fifo:
      return "fifo";
    case FileType::socket:
      return "socket";
    case FileType::block_device:
      return "block_device";
    case FileType::character_device:
      return "character_device";
    case FileType::unspecified:
      break;
  }
  return "unspecified";
}

namespace {

template <typename T>
task<T> begin(const files::State& state, asio::awaitable<T> work) {
  const auto& loop = state->core()->loop();
  return core::spawn_task<T>(loop, loop.make_strand(), std::move(work));
}

/// Ends the transfer when nobody can take part in it any more, and keeps the sandbox until then.
struct ReaderGuard {
  ReaderGuard(files::State s, std::shared_ptr<Channel<std::string>> c) : state(std::move(s)), channel(std::move(c)) {}
  ReaderGuard(const ReaderGuard&) = delete;
  ReaderGuard& operator=(const ReaderGuard&) = delete;
  ~ReaderGuard() {
    try {
      channel->close();
    } catch (...) {  // nothing runs any more that could be cancelled
    }
  }
  files::State state;
  std::shared_ptr<Channel<std::string>> channel;
};

/// A file's bytes, from the offset on where it is read.
class FileSource final : public detail::Source<std::string> {
 public:
  FileSource(std::shared_ptr<Channel<std::string>> channel, std::uint64_t offset) : channel_(std::move(channel)), offset_(offset) {}
  Poll poll(std::optional<std::string>& item) override { return channel_->poll(item); }
  void arm(std::function<void()> wake) override { channel_->arm(std::move(wake)); }
  void close() override { channel_->close(); }
  [[nodiscard]] std::uint64_t origin() const override { return offset_; }

 private:
  const std::shared_ptr<Channel<std::string>> channel_;
  const std::uint64_t offset_;
};

struct WriterGuard {
  WriterGuard(files::State s, StreamWriter w, task<void> t) : state(std::move(s)), writer(std::move(w)), transfer(std::move(t)) {}
  WriterGuard(const WriterGuard&) = delete;
  WriterGuard& operator=(const WriterGuard&) = delete;
  ~WriterGuard() {
    try {
      if (!writer.closed()) transfer.cancel();
    } catch (...) {  // nothing runs any more that could be cancelled
    }
  }
  files::State state;
  StreamWriter writer;
  task<void> transfer;
};

}  // namespace

task<std::string> Sandbox::read_file(std::string path, ReadFileOptions options) const {
  files::check_path(path);
  return begin(state_, files::read(state_, std::move(path), std::move(options)));
}

task<void> Sandbox::write_file(std::string path, std::string content, WriteFileOptions options) const {
  files::check_path(path);
  files::check(options);
  return begin(state_, files::write(state_, std::move(path), std::move(content), std::move(options)));
}

StreamReader<std::string> Sandbox::read_file_stream(std::string path, ReadFileOptions options) const {
  files::check_path(path);
  const auto& loop = state_->core()->loop();
  // Closing it cancels the transfer, which is only known once it has the channel.
  const auto offset = options.offset();
  auto transfer = std::make_shared<task<void>>();
  auto channel = std::make_shared<Channel<std::string>>(files::kChunksAhead, loop, [transfer] { transfer->cancel(); });
  *transfer = begin(state_, files::read_stream(state_, std::move(path), std::move(options), channel));
  return StreamReader<std::string>(std::make_shared<FileSource>(channel, offset), loop,
                                   std::make_shared<ReaderGuard>(state_, channel));
}

FileWriteStream Sandbox::write_file_stream(std::string path, WriteFileOptions options) const {
  files::check_path(path);
  files::check(options);
  const auto& loop = state_->core()->loop();
  auto channel = std::make_shared<ByteChannel>(StreamWriter::QUEUE_SIZE, loop);
  auto transfer = begin(state_, files::write_stream(state_, std::move(path), std::move(options), channel));
  auto guard = std::make_shared<WriterGuard>(state_, StreamWriter(channel, loop), transfer);
  return FileWriteStream(StreamWriter(channel, loop, std::move(guard)), std::move(transfer));
}

task<void> Sandbox::download_file(std::string path, std::string local_path, ReadFileOptions options) const {
  files::check_path(path);
  files::check_path(local_path, "local path");
  return begin(state_, files::download(state_, std::move(path), std::move(local_path), std::move(options)));
}

task<void> Sandbox::upload_file(std::string local_path, std::string path, WriteFileOptions options) const {
  files::check_path(local_path, "local path");
  files::check_path(path);
  files::check(options);
  return begin(state_, files::upload(state_, std::move(local_path), std::move(path), std::move(options)));
}

task<FileInfo> Sandbox::stat_file(std::string path) const {
  files::check_path(path);
  return begin(state_, files::stat(state_, std::move(path)));
}

task<std::vector<FileInfo>> Sandbox::list_files(std::string path) const {
  files::check_path(path);
  return begin(state_, files::list(state_, std::move(path)));
}

task<void> Sandbox::make_directory(std::string path, bool parents, std::optional<std::uint32_t> mode) const {
  files::check_path(path);
  if (mode.value_or(0) > 07777) throw std::invalid_argument("cwsandbox: mode has more than permission bits (07777)");
  return begin(state_, files::make_directory(state_, std::move(path), parents, mode));
}

task<void> Sandbox::remove_file(std::string path, bool recursive, bool missing_ok) const {
  files::check_path(path);
  return begin(state_, files::remove(state_, std::move(path), recursive, missing_ok));
}

task<void> Sandbox::rename_file(std::string from, std::string to) const {
  files::check_path(from, "path to rename");
  files::check_path(to, "new path");
  return begin(state_, files::rename(state_, std::move(from), std::move(to)));
}

}  // namespace cwsandbox
