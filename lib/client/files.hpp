// The files of a sandbox, over the wire: plain HTTP bodies for what is large, the published RPCs for what is small.
#pragma once

#include <cwsandbox/files.hpp>
#include <cwsandbox/stream_reader.hpp>

#include "client/sandbox_state.hpp"

#include <boost/asio/awaitable.hpp>

namespace cwsandbox::client::files {

using State = std::shared_ptr<detail::SandboxState>;
using Ready = detail::SandboxState::Ready;

/// Throws std::invalid_argument that names `what` for a path that cannot be one.
void check_path(const std::string& path, const char* what = "path");
void check(const WriteFileOptions& options);

// Valid paths and options are a precondition of all that follow. What goes wrong with a file of the sandbox is a SandboxFileError
// with the path as the caller has it; with one of this machine, a std::filesystem::filesystem_error.

// ---- out of the sandbox: file_reading.cpp ----

[[nodiscard]] asio::awaitable<std::string> read(State state, std::string path, ReadFileOptions options);
/// Feeds `into` until the file's end or the cancellation of this coroutine. An error is for the reader.
[[nodiscard]] asio::awaitable<void> read_stream(State state, std::string path, ReadFileOptions options,
                                                std::shared_ptr<Channel<std::string>> into);
[[nodiscard]] asio::awaitable<void> download(State state, std::string path, std::string local_path, ReadFileOptions options);

// ---- into the sandbox: file_writing.cpp ----

[[nodiscard]] asio::awaitable<void> write(State state, std::string path, std::string content, WriteFileOptions options);
/// Writes what comes out of `from` until its end. An error is for the writer, too.
[[nodiscard]] asio::awaitable<void> write_stream(State state, std::string path, WriteFileOptions options,
                                                 std::shared_ptr<ByteChannel> from);
[[nodiscard]] asio::awaitable<void> upload(State state, std::string local_path, std::string path, WriteFileOptions options);

// ---- what there is: file_service.cpp ----

[[nodiscard]] asio::awaitable<FileInfo> stat(State state, std::string path);
[[nodiscard]] asio::awaitable<std::vector<FileInfo>> list(State state, std::string path);
[[nodiscard]] asio::awaitable<void> make_directory(State state, std::string path, bool parents, std::optional<std::uint32_t> mode);
[[nodiscard]] asio::awaitable<void> remove(State state, std::string path, bool recursive, bool missing_ok);
[[nodiscard]] asio::awaitable<void> rename(State state, std::string from, std::string to);

}  // namespace cwsandbox::client::files
