// What a file holds, out of a sandbox: as a whole, as a stream, or into a file of this machine.
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

#include <algorithm>
#include <charconv>
#include <chrono>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

namespace cwsandbox::client::files {

using Clock = std::chrono::steady_clock;

namespace {

constexpr const char* kTruncated = "CWSANDBOX_FILE_TRUNCATED";

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

}  // namespace

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

}  // namespace cwsandbox::client::files
