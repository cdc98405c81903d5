// Children of this process from clone to exec, and the descriptors by which they are known.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>

#include "runner/local/unique_fd.hpp"

namespace cwsandbox::runner::local {

/// How many descriptors a child may get.
inline constexpr int kMaxInherited = 32;

/// What a child executes, and as what. All of it is made before, because the child may share this process's memory while other
/// threads run on.
struct ChildPlan {
  const char* program = nullptr;
  char* const* argv = nullptr;  ///< there is no environment
  const int* fds = nullptr;     ///< where 0, 1, 2, … come from
  int fd_count = 0;             ///< at most kMaxInherited
  const int* doors = nullptr;   ///< of the control group to join
  std::size_t door_count = 0;
  const char* oom_score = nullptr;
  std::size_t oom_score_size = 0;
  /// Which of `fds` is the agent's program, by which the child changes its user; -1: by itself, in a copy of this process.
  int helper = -1;
  bool drop = false;  ///< become `uid` and `gid`, with no other groups
  uid_t uid = 0;
  gid_t gid = 0;
};

/// Where a child failed before it executed what it is for; no error: it did not.
struct ChildFailure {
  int error = 0;
  const char* step = nullptr;
};
/// The step of executing the agent's program: this host runs nothing from memory. Another way is left.
inline constexpr char kHelperStep[] = "helper";

/// A pidfd of the program; none, and why, when it could not be executed.
[[nodiscard]] UniqueFd start_child(const ChildPlan& plan, ChildFailure& failure);

/// Whether a child can become that user and that group, with no others: tried in one. Where there is one user only (`unshare -U
/// -r`, and many a container), or without the capabilities, not even root can.
[[nodiscard]] ChildFailure try_to_become(uid_t uid, gid_t gid);

/// Sets the options of mounts at `places` in those namespaces, with no more rights than there are in them. By the agent's program
/// behind `helper`; -1: by a copy of this process.
[[nodiscard]] ChildFailure remount(int user_namespace, int mount_namespace, std::span<const char* const> places,
                                   const char* options, int helper);

/// The pid-independent wait for a child of ours: true when it has ended. Never touches other children of this process.
[[nodiscard]] bool reap(int pidfd) noexcept;
void kill_pidfd(int pidfd, int number) noexcept;
/// True when the process behind `pidfd` has ended, within `timeout_ms`.
[[nodiscard]] bool has_ended(int pidfd, int timeout_ms) noexcept;
[[nodiscard]] UniqueFd open_pidfd(pid_t pid) noexcept;

}  // namespace cwsandbox::runner::local
