// What a file is to hold, into a sandbox: as a whole, as a stream, or from a file of this machine.
#include "base/hex.hpp"
#include "base/numbers.hpp"
#include "base/text.hpp"
#include "base/time.hpp"
#include "client/errors.hpp"
#include "client/file_endpoint.hpp"
#include "client/file_errors.hpp"
#include "client/files.hpp"
#include "client/local_files.hpp"
#include "client/rpc.hpp"
#include "client/server_stream.hpp"
#include "messages/files.hpp"
#include "messages/json.hpp"

#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

namespace cwsandbox::client::files {

using Clock = std::chrono::steady_clock;

namespace {

constexpr std::size_t kSmallWrite = 256 * 1024;          // up to here a write is one RPC
constexpr std::size_t kFallbackWrite = 8 * 1024 * 1024;  // what is put into one RPC where a server has nothing else
constexpr std::uint64_t kSlice = 8 * 1024 * 1024;        // between two calls of a progress function

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

/// Whether the error under way, of an upload, may be met by another upload: what was appended once must not be appended twice.
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

}  // namespace cwsandbox::client::files
