// The files of a sandbox over HTTP: plain bodies at /v1/files, the rest as methods (docs/gateway.md).
#pragma once

#include "gateway/context.hpp"
#include "gateway/sandboxes.hpp"
#include "gateway/server_stream.hpp"
#include "messages/files.hpp"
#include "net/http_server.hpp"

#include <boost/asio/awaitable.hpp>

#include <cstdint>
#include <memory>
#include <string_view>

namespace cwsandbox::gateway {

inline constexpr std::string_view kFilesPath = "/v1/files";

/// What all of these need. All throw ServiceError, and boost::system::system_error when the connection is lost; a sandbox that is
/// being created is waited for.
class FileService {
 public:
  FileService(std::shared_ptr<Context> context, std::shared_ptr<OwnSandboxes> sandboxes)
      : context_(std::move(context)), sandboxes_(std::move(sandboxes)) {}

  struct Transfer {
    unsigned status = 0;
    std::uint64_t bytes = 0;  ///< of the file
  };
  /// Answers a GET or PUT of kFilesPath. `done` is kept up to date, for the log.
  [[nodiscard]] static asio::awaitable<void> transfer(FileService self, net::ServerExchange& exchange, Transfer& done);

  [[nodiscard]] static asio::awaitable<messages::ReadFileResponse> read(FileService self, messages::ReadFileRequest request);
  [[nodiscard]] static asio::awaitable<void> write(FileService self, messages::WriteFileRequest request);
  [[nodiscard]] static asio::awaitable<messages::FileInfo> stat(FileService self, messages::StatFileRequest request);
  [[nodiscard]] static asio::awaitable<void> make_directory(FileService self, messages::MakeDirectoryRequest request);
  [[nodiscard]] static asio::awaitable<void> remove(FileService self, messages::RemoveFileRequest request);
  [[nodiscard]] static asio::awaitable<void> rename(FileService self, messages::RenameFileRequest request);
  /// Sends the entries; the caller ends the stream.
  [[nodiscard]] static asio::awaitable<void> list(FileService self, messages::ListFilesRequest request, ServerStream& stream);

 private:
  [[nodiscard]] static asio::awaitable<std::shared_ptr<runner::Sandbox>> sandbox(FileService self, std::string id,
                                                                                 std::string container);
  static asio::awaitable<void> get(FileService self, net::ServerExchange& exchange, std::string id, std::string path,
                                   Transfer& done);
  static asio::awaitable<void> put(FileService self, net::ServerExchange& exchange, std::string id, runner::FileWriteSpec spec,
                                   Transfer& done);

  std::shared_ptr<Context> context_;
  std::shared_ptr<OwnSandboxes> sandboxes_;
};

}  // namespace cwsandbox::gateway
