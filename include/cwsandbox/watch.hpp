/// \file
/// What happens to a file or a directory of a sandbox.
#pragma once

#include <cwsandbox/export.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace cwsandbox {

/// What has happened to what is watched, or to an entry of it.
enum class FileEventKind : std::uint8_t {
  unspecified,  ///< what this version does not know
  created,      ///< a new entry of the directory
  modified,     ///< its content has changed; whoever writes may go on. Several changes in a row may be told once
  closed,       ///< somebody who had opened it for writing has closed it
  attributes,   ///< its permissions, owner, times or number of names have changed
  deleted,      ///< an entry has lost its name
  renamed,      ///< an entry has another name in the same directory, in place of what had that before
  moved_in,     ///< an entry has come from another directory
  moved_out,    ///< an entry has gone to another directory
  gone,         ///< what is watched has been deleted or moved: the last event
  overflow      ///< more has happened than could be kept: some events are missing here
};
/// "created", "modified" and so on.
[[nodiscard]] CWSANDBOX_EXPORT std::string_view to_string(FileEventKind kind) noexcept;

/// Something that has happened, as `Sandbox::watch()` tells it.
class FileEvent {
 public:
  FileEvent() {}
  FileEventKind kind = FileEventKind::unspecified;  ///< what it was
  std::string name;                                 ///< of the entry of the directory, bytes; empty: what is watched itself
  std::string old_name;                             ///< `renamed`: what it was before
  bool is_directory = false;                        ///< whether it happened to a directory; not known of `gone`
};

}  // namespace cwsandbox
