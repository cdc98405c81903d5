// Limits of a sandbox as a whole, by the kernel's control groups: version 2 where this process may make groups below its own, else
// version 1 where its hierarchies can be written. See docs/decisions/0005-resource-limits.md.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "runner/local/unique_fd.hpp"

namespace cwsandbox::runner::local {

/// 0: no limit.
struct GroupLimits {
  std::uint64_t memory = 0;       ///< bytes; what the kernel uses for it, and files in memory, count
  std::uint32_t cpu = 0;          ///< thousandths of a core
  std::uint32_t cpu_request = 0;  ///< the same: what it gets of the CPU when others want it too
  std::uint32_t pids = 0;         ///< processes and threads
  [[nodiscard]] bool any() const noexcept { return memory != 0 || cpu != 0 || cpu_request != 0 || pids != 0; }
};

/// The group of one sandbox.
class ControlGroup {
 public:
  ControlGroup() = default;
  ControlGroup(const ControlGroup&) = delete;
  ControlGroup& operator=(const ControlGroup&) = delete;
  /// Removes it, if nobody is in it any more. Else this is tried again when the next one is made, and by the next gateway to start
  /// here.
  ~ControlGroup();

  /// Whoever writes "0" to each of them is in the group, with all that it starts from then on.
  [[nodiscard]] const std::vector<UniqueFd>& doors() const noexcept { return doors_; }
  /// No more is to join.
  void close_doors() noexcept { doors_.clear(); }
  /// How many of its processes the kernel has killed because of the limit on memory.
  [[nodiscard]] std::uint64_t killed_for_memory() const;
  /// Whether so many bytes more leave some of the limit on memory free, and nobody has to be killed for them.
  [[nodiscard]] bool has_room(std::uint64_t bytes) const;
  /// True when it is gone. The kernel may need a moment after the end of its last process.
  [[nodiscard]] bool remove() noexcept;

 private:
  friend class ControlGroups;
  std::vector<std::string> directories_;
  std::vector<UniqueFd> doors_;
  std::uint64_t memory_limit_ = 0;
  std::string memory_events_, memory_usage_, memory_stat_;
};

class ControlGroups {
 public:
  enum Controller : std::uint8_t { memory, cpu, pids, kControllers };

  /// Looks at where this process is, and removes groups that gateways left behind which have been killed. `proc` and `controllers`
  /// are other than the kernel's in tests only.
  explicit ControlGroups(const std::string& proc = "/proc",
                         std::array<std::string, kControllers> controllers = {"memory", "cpu", "pids"});
  ControlGroups(const ControlGroups&) = delete;
  ControlGroups& operator=(const ControlGroups&) = delete;
  ~ControlGroups();

  /// Why there can be no limit of this kind here; empty when there can. The first question may move this process into a group of
  /// its own, where version 2 wants it so.
  [[nodiscard]] const std::string& why_not(Controller controller);
  /// Throws RunnerError. Only for limits for which `why_not` is empty. Groups with a word on the CPU stand together with those of
  /// the same `owner`, and owners weigh the same beside each other, however many sandboxes they have; without one, each stands
  /// alone. Thread safe.
  [[nodiscard]] std::unique_ptr<ControlGroup> make(const GroupLimits& limits, const std::string& owner = {});

 private:
  struct Place {
    std::string directory;  // in which groups are made; empty: nowhere
    bool v2 = false;
    bool tried = false;
    std::string why;
  };
  void try_out(Controller controller);
  [[nodiscard]] std::string enable(const std::string& directory, const std::string& controller) const;
  [[nodiscard]] std::string probe(Controller controller, const Place& place) const;
  /// Where that owner's groups are made.
  [[nodiscard]] std::string directory_of_owner(const std::string& owner);

  std::array<std::string, kControllers> names_;
  std::array<Place, kControllers> places_;
  std::string prefix_;  // of the names of this process's groups
  std::mutex mutex_;
  std::map<std::string, std::string> owners_;  // their directories, which stay: there are no more than owners
};

}  // namespace cwsandbox::runner::local
