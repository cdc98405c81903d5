// Files: the published small ones, and cwsandbox.v1.FileService, which is this project's own (docs/gateway.md).
#pragma once

#include "messages/fields.hpp"

namespace cwsandbox::messages {

struct WriteFileRequest {
  std::string sandbox_id;
  std::string path;
  std::string content;
  std::string container;

  static const Type kType;
};

struct WriteFileResponse {
  static const Type kType;
};

struct ReadFileRequest {
  std::string sandbox_id;
  std::string path;
  std::string container;

  static const Type kType;
};

struct ReadFileResponse {
  std::string content;

  static const Type kType;
};

// ---- cwsandbox.v1.FileService ----
//
// Names of files are bytes: `path` when they are UTF-8, else `path_bytes`. One of them must be there.

enum class FileType : std::uint8_t { unspecified, regular, directory, symlink, fifo, socket, block_device, character_device };
[[nodiscard]] const EnumType& describe(FileType) noexcept;

struct FileInfo {
  std::string name;  ///< `name`, or `name_bytes`
  FileType type = FileType::unspecified;
  std::uint64_t size = 0;
  std::uint32_t mode = 0;  ///< permission bits
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  Timestamp modify_time;
  std::string link_target;  ///< `link_target`, or `link_target_bytes`

  static const Type kType;
};

/// The answer is a FileInfo.
struct StatFileRequest {
  std::string sandbox_id;
  std::string path;
  bool follow_symlinks = false;

  static const Type kType;
};

/// The answer is a stream of ListFilesResponse, so that a directory of any size is listed in bounded memory.
struct ListFilesRequest {
  std::string sandbox_id;
  std::string path;

  static const Type kType;
};

struct ListFilesResponse {
  std::vector<FileInfo> files;

  static const Type kType;
};

/// The answer is a stream of WatchFileResponse. The first one says that the watch stands; one without events says that it still
/// does.
struct WatchFileRequest {
  std::string sandbox_id;
  std::string path;

  static const Type kType;
};

enum class FileEventKind : std::uint8_t {
  unspecified,
  created,
  modified,
  closed,
  attributes,
  deleted,
  renamed,
  moved_in,
  moved_out,
  gone,
  overflow
};
[[nodiscard]] const EnumType& describe(FileEventKind) noexcept;

struct FileEvent {
  FileEventKind kind = FileEventKind::unspecified;
  std::string name;      ///< `name`, or `name_bytes`
  std::string old_name;  ///< `old_name`, or `old_name_bytes`
  bool directory = false;

  static const Type kType;
};

struct WatchFileResponse {
  std::vector<FileEvent> events;

  static const Type kType;
};

struct MakeDirectoryRequest {
  std::string sandbox_id;
  std::string path;
  std::optional<std::uint32_t> mode;  ///< permission bits; unset: 0755
  bool parents = false;

  static const Type kType;
};

struct MakeDirectoryResponse {
  static const Type kType;
};

struct RemoveFileRequest {
  std::string sandbox_id;
  std::string path;
  bool recursive = false;
  bool allow_missing = false;

  static const Type kType;
};

struct RemoveFileResponse {
  static const Type kType;
};

struct RenameFileRequest {
  std::string sandbox_id;
  std::string from;  ///< `from`, or `from_bytes`
  std::string to;    ///< `to`, or `to_bytes`

  static const Type kType;
};

struct RenameFileResponse {
  static const Type kType;
};

}  // namespace cwsandbox::messages
