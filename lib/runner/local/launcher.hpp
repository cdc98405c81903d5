// Starts bubblewrap with the agent inside.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runner/local/child.hpp"
#include "runner/local/control_groups.hpp"
#include "runner/local/local_runner.hpp"
#include "runner/local/syscall_filter.hpp"
#include "runner/local/unique_fd.hpp"
#include "runner/work_queue.hpp"

namespace cwsandbox::runner::local {

/// What has to be known of a sandbox when it is launched; all else comes when it is used.
struct Shape {
  ResourceSpec resources;
  std::string owner;  ///< see SandboxSpec
  friend bool operator==(const Shape&, const Shape&) = default;
};

/// What a launch leaves in the caller's hands.
struct Launched {
  UniqueFd control;                     ///< the socket to the agent
  UniqueFd monitor;                     ///< a pidfd of bubblewrap, a child of this process
  UniqueFd errors;                      ///< what bubblewrap complains of, nonblocking
  std::unique_ptr<ControlGroup> group;  ///< in which all of it runs; null: in none
  uid_t uid = 0;                        ///< who the sandbox's user is outside it
};

/// Not thread safe: on its executor alone.
class Launcher {
 public:
  Launcher(const asio::any_io_executor& executor, LocalRunnerOptions options);

  /// Starts a sandbox; whether it succeeds shows at the agent's first note. Its control group and the child are made on another
  /// thread: joining a group takes the kernel 10 ms and more, and meanwhile nobody can make or remove any. Throws RunnerError when
  /// not even bubblewrap could be started, or for a limit that cannot be kept here. What is done once for all sandboxes is done at
  /// the first call.
  [[nodiscard]] static asio::awaitable<Launched> launch(std::shared_ptr<Launcher> self, Shape shape);

  /// Sets what bubblewrap cannot: how many files a sandbox may have. After its agent has come up and before anything else runs in
  /// it. `agent` is its number here. On another thread, too.
  [[nodiscard]] static asio::awaitable<void> limit_files(std::shared_ptr<Launcher> self, pid_t agent, ResourceSpec resources);

  /// Removes a group that a launch has made, on another thread. False: somebody is in it yet, or the kernel has not noticed that
  /// nobody is.
  [[nodiscard]] static asio::awaitable<bool> remove(std::shared_ptr<Launcher> self, ControlGroup& group);

  /// The group of a sandbox's user outside it.
  [[nodiscard]] gid_t gid() const noexcept;

  /// What this host cannot do, after a launch with this `complaint` of bubblewrap failed. True when the next launch does without
  /// it.
  [[nodiscard]] bool adapt(std::string_view complaint);

  /// The error for a sandbox that did not come up, for which `why` is what was seen from outside: what is wrong with this host, as
  /// far as can be told, and how to mend it.
  [[nodiscard]] RunnerError failure(std::string_view complaint, std::string_view why) const;

 private:
  class Launch;
  class Remount;
  class Removal;
  void prepare();
  /// All that a child needs.
  void plan(Launch& launch, const ResourceSpec& resources);
  /// What has become of it.
  [[nodiscard]] Launched take(Launch& launch);
  /// As whom sandboxes run.
  void find_user();
  [[nodiscard]] uid_t next_user() const noexcept;
  void say(const std::string& what) const;
  [[nodiscard]] GroupLimits group_limits(const ResourceSpec& resources);
  [[nodiscard]] std::uint64_t disk(const ResourceSpec& resources) const noexcept;
  [[nodiscard]] std::vector<std::string> arguments(const std::vector<std::string>& copied, const ResourceSpec& resources) const;

  asio::any_io_executor executor_;
  std::shared_ptr<WorkQueue> threads_;  // null until the first launch
  LocalRunnerOptions options_;
  bool prepared_ = false;
  bool drop_privileges_ = false;  // sandboxes are another user's than this process, which is root
  bool own_users_ = false;        // and each of them is one of its own
  bool as_root_ = false;          // they are those of the machine's root, who is nobody else here
  bool image_as_data_ = false;    // the host does not run programs from memory in a sandbox
  bool helper_ = true;            // nor outside one
  bool disable_userns_ = true;    // bubblewrap ≥ 0.8
  std::string program_;
  UniqueFd image_;
  SyscallFilters filters_;
  std::unique_ptr<ControlGroups> groups_;
  std::string said_[ControlGroups::kControllers];  // what has been said of limits that cannot be kept
  bool own_pid_limits_ = false;                    // a sandbox's processes are counted apart from those of others
  std::string said_files_;
  std::string oom_score_;
  UniqueFd self_;  // a pidfd of this process
  std::vector<std::string> system_arguments_;
  std::vector<std::string> copied_;  // files of the host
};

}  // namespace cwsandbox::runner::local
