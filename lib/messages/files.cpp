#include "messages/files.hpp"

namespace cwsandbox::messages {
namespace {

constexpr Field kWriteFileRequest[] = {
    field<&WriteFileRequest::sandbox_id>(1, "sandbox_id"),
    field<&WriteFileRequest::path>(2, "path"),
    field<&WriteFileRequest::content>(3, "content").bytes(),
    field<&WriteFileRequest::container>(4, "container"),
};

constexpr Field kReadFileRequest[] = {
    field<&ReadFileRequest::sandbox_id>(1, "sandbox_id"),
    field<&ReadFileRequest::path>(2, "path"),
    field<&ReadFileRequest::container>(3, "container"),
};

constexpr Field kReadFileResponse[] = {
    field<&ReadFileResponse::content>(1, "content").bytes(),
};

constexpr std::array<std::string_view, 8> kFileTypeNames = {
    "FILE_TYPE_UNSPECIFIED", "FILE_TYPE_REGULAR", "FILE_TYPE_DIRECTORY",    "FILE_TYPE_SYMLINK",
    "FILE_TYPE_FIFO",        "FILE_TYPE_SOCKET",  "FILE_TYPE_BLOCK_DEVICE", "FILE_TYPE_CHARACTER_DEVICE"};
constexpr EnumType kFileType{"cwsandbox.v1.FileType", kFileTypeNames};

constexpr std::array<std::string_view, 11> kFileEventKindNames = {
    "FILE_EVENT_KIND_UNSPECIFIED", "FILE_EVENT_KIND_CREATED", "FILE_EVENT_KIND_MODIFIED", "FILE_EVENT_KIND_CLOSED",
    "FILE_EVENT_KIND_ATTRIBUTES",  "FILE_EVENT_KIND_DELETED", "FILE_EVENT_KIND_RENAMED",  "FILE_EVENT_KIND_MOVED_IN",
    "FILE_EVENT_KIND_MOVED_OUT",   "FILE_EVENT_KIND_GONE",    "FILE_EVENT_KIND_OVERFLOW"};
constexpr EnumType kFileEventKind{"cwsandbox.v1.FileEventKind", kFileEventKindNames};

constexpr Field kFileInfo[] = {
    field<&FileInfo::name>(1, "name").or_bytes(2),
    field<&FileInfo::type>(3, "type"),
    field<&FileInfo::size>(4, "size"),
    field<&FileInfo::mode>(5, "mode"),
    field<&FileInfo::uid>(6, "uid"),
    field<&FileInfo::gid>(7, "gid"),
    field<&FileInfo::modify_time>(8, "modify_time"),
    field<&FileInfo::link_target>(9, "link_target").or_bytes(10),
};

constexpr Field kStatFileRequest[] = {
    field<&StatFileRequest::sandbox_id>(1, "sandbox_id"),
    field<&StatFileRequest::path>(2, "path").or_bytes(3).needed(),
    field<&StatFileRequest::follow_symlinks>(4, "follow_symlinks"),
};

constexpr Field kListFilesRequest[] = {
    field<&ListFilesRequest::sandbox_id>(1, "sandbox_id"),
    field<&ListFilesRequest::path>(2, "path").or_bytes(3).needed(),
};

constexpr Field kListFilesResponse[] = {
    field<&ListFilesResponse::files>(1, "files").at_most(kMaxPage),
};

constexpr Field kWatchFileRequest[] = {
    field<&WatchFileRequest::sandbox_id>(1, "sandbox_id"),
    field<&WatchFileRequest::path>(2, "path").or_bytes(3).needed(),
};

constexpr Field kFileEvent[] = {
    field<&FileEvent::kind>(1, "kind"),
    field<&FileEvent::name>(2, "name").or_bytes(3),
    field<&FileEvent::old_name>(4, "old_name").or_bytes(5),
    field<&FileEvent::directory>(6, "directory"),
};

constexpr Field kWatchFileResponse[] = {
    field<&WatchFileResponse::events>(1, "events").at_most(kMaxPage),
};

constexpr Field kMakeDirectoryRequest[] = {
    field<&MakeDirectoryRequest::sandbox_id>(1, "sandbox_id"),
    field<&MakeDirectoryRequest::path>(2, "path").or_bytes(3).needed(),
    field<&MakeDirectoryRequest::mode>(4, "mode"),
    field<&MakeDirectoryRequest::parents>(5, "parents"),
};

constexpr Field kRemoveFileRequest[] = {
    field<&RemoveFileRequest::sandbox_id>(1, "sandbox_id"),
    field<&RemoveFileRequest::path>(2, "path").or_bytes(3).needed(),
    field<&RemoveFileRequest::recursive>(4, "recursive"),
    field<&RemoveFileRequest::allow_missing>(5, "allow_missing"),
};

constexpr Field kRenameFileRequest[] = {
    field<&RenameFileRequest::sandbox_id>(1, "sandbox_id"),
    field<&RenameFileRequest::from>(2, "from").or_bytes(3).needed(),
    field<&RenameFileRequest::to>(4, "to").or_bytes(5).needed(),
};

}  // namespace

const EnumType& describe(FileType) noexcept { return kFileType; }
const EnumType& describe(FileEventKind) noexcept { return kFileEventKind; }

constinit const Type WriteFileRequest::kType = table<WriteFileRequest>("coreweave.sandbox.v1.WriteFileRequest", kWriteFileRequest);
constinit const Type WriteFileResponse::kType = table<WriteFileResponse>("coreweave.sandbox.v1.WriteFileResponse", {});
constinit const Type ReadFileRequest::kType = table<ReadFileRequest>("coreweave.sandbox.v1.ReadFileRequest", kReadFileRequest);
constinit const Type ReadFileResponse::kType = table<ReadFileResponse>("coreweave.sandbox.v1.ReadFileResponse", kReadFileResponse);
constinit const Type FileInfo::kType = table<FileInfo>("cwsandbox.v1.FileInfo", kFileInfo);
constinit const Type StatFileRequest::kType = table<StatFileRequest>("cwsandbox.v1.StatFileRequest", kStatFileRequest);
constinit const Type ListFilesRequest::kType = table<ListFilesRequest>("cwsandbox.v1.ListFilesRequest", kListFilesRequest);
constinit const Type ListFilesResponse::kType = table<ListFilesResponse>("cwsandbox.v1.ListFilesResponse", kListFilesResponse);
constinit const Type WatchFileRequest::kType = table<WatchFileRequest>("cwsandbox.v1.WatchFileRequest", kWatchFileRequest);
constinit const Type FileEvent::kType = table<FileEvent>("cwsandbox.v1.FileEvent", kFileEvent);
constinit const Type WatchFileResponse::kType = table<WatchFileResponse>("cwsandbox.v1.WatchFileResponse", kWatchFileResponse);
constinit const Type MakeDirectoryRequest::kType =
    table<MakeDirectoryRequest>("cwsandbox.v1.MakeDirectoryRequest", kMakeDirectoryRequest);
constinit const Type MakeDirectoryResponse::kType = table<MakeDirectoryResponse>("cwsandbox.v1.MakeDirectoryResponse", {});
constinit const Type RemoveFileRequest::kType = table<RemoveFileRequest>("cwsandbox.v1.RemoveFileRequest", kRemoveFileRequest);
constinit const Type RemoveFileResponse::kType = table<RemoveFileResponse>("cwsandbox.v1.RemoveFileResponse", {});
constinit const Type RenameFileRequest::kType = table<RenameFileRequest>("cwsandbox.v1.RenameFileRequest", kRenameFileRequest);
constinit const Type RenameFileResponse::kType = table<RenameFileResponse>("cwsandbox.v1.RenameFileResponse", {});

}  // namespace cwsandbox::messages
