// File operations in the sandbox, by its user and with its view. Each gives an errno, 0 when it was done.
//
// What a path leads to is looked at through a descriptor that can do nothing (O_PATH), and then that very file is opened: opening
// a device has effects, and opening a FIFO waits. Links that only the kernel can follow (/proc/PID/root, /proc/PID/fd/N, …) are
// never followed: they lead to what is open in a process, this one included.
#pragma once

#include <sys/types.h>

#include "runner/local/agent_protocol.hpp"
#include "runner/local/unique_fd.hpp"

namespace cwsandbox::runner::local::agent {

/// The descriptor that `open`, `stat`, `list` ask for. `pseudo` is set by `open` when the file's content is made while it is read,
/// as in /proc and /sys: its size says nothing, and reading it may wait.
[[nodiscard]] int open_file(const FileRequest& request, UniqueFd& out, bool& pseudo);
[[nodiscard]] int stat_file(const FileRequest& request, UniqueFd& out);
[[nodiscard]] int list_directory(const FileRequest& request, UniqueFd& out);

/// An inotify descriptor that watches the file, or the directory and its direct entries.
[[nodiscard]] int watch_file(const FileRequest& request, UniqueFd& out);

[[nodiscard]] int make_directory(const FileRequest& request);
[[nodiscard]] int rename_file(const FileRequest& request);

/// Begins a file; `out` is a descriptor to be given away and closed. Keeps what `commit_file` and `abort_file` need, by the
/// request's number.
[[nodiscard]] int create_file(const FileRequest& request, UniqueFd& out);
/// Takes the memory for its next bytes, if it is one in memory, so that it is the sandbox's: later it would be that of whoever
/// writes them. What is too much by the end is given back.
[[nodiscard]] int reserve_file(std::uint64_t seq, std::int32_t bytes);
[[nodiscard]] int commit_file(std::uint64_t seq);
void abort_file(std::uint64_t seq);

/// Removes what can be removed at once. ENOTEMPTY with `recursive` asked for: `remove_tree` goes on, in a process of its own.
[[nodiscard]] int remove_file(const FileRequest& request);
/// Takes as long as it takes. Follows no symlink; what others do in the tree meanwhile does not lead out of it.
[[nodiscard]] int remove_tree(const FileRequest& request);
/// A pseudo file's content as it is now. Takes as long as it takes.
[[nodiscard]] int copy_pseudo(int from, int to);

}  // namespace cwsandbox::runner::local::agent
