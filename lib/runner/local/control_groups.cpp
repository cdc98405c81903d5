#include "runner/local/control_groups.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <mutex>
#include <optional>
#include <sstream>
#include <string_view>

#include "runner/runner.hpp"

namespace cwsandbox::runner::local {

namespace {

constexpr std::string_view kName = "cwsandbox-";
// Where this process moves to when version 2 wants no processes beside groups with limits.
constexpr std::string_view kLeaf = "cwsandbox-gateway";
// Of the kernel's scheduler: a limit of 1500 thousandths is 150 ms in every 100 ms. It takes no quota below 1 ms.
constexpr std::uint64_t kPeriodUs = 100000;
constexpr std::uint64_t kMinQuotaUs = 1000;
// This part of the memory is not for files that are sent, so that programs find some.
constexpr std::uint64_t kKeptFree = 16;
// Version 1 counts what lies unread in TCP connections apart from all else: so it may be this part of the memory, besides.
constexpr std::uint64_t kUnreadPart = 8;
// Bubblewrap, which waits outside, and the agent are in the group too.
constexpr std::uint32_t kOwnProcesses = 2;

[[nodiscard]] std::string read_file(const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  char part[4096];
  for (;;) {
    const ssize_t n = file ? ::read(file.get(), part, sizeof part) : 0;
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return text;
    text.append(part, static_cast<std::size_t>(n));
  }
}

// 0 or an errno.
[[nodiscard]] int write_file(const std::string& path, const std::string& text) {
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file) return errno;
  for (;;) {
    if (::write(file.get(), text.data(), text.size()) >= 0) return 0;
    if (errno != EINTR) return errno;
  }
}

[[nodiscard]] std::vector<std::string> words_of(const std::string& text, char between = '\0') {
  std::istringstream in(text);
  std::vector<std::string> words;
  std::string word;
  if (between == '\0') {
    while (in >> word) words.push_back(word);
  } else {
    while (std::getline(in, word, between)) words.push_back(word);
  }
  return words;
}

[[nodiscard]] std::uint64_t number_of(const std::string& text) {
  std::uint64_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

// Of lines of a name and a number; 0 when there is no such.
[[nodiscard]] std::uint64_t value_in(const std::vector<std::string>& words, const std::string& name) {
  const auto found = std::find(words.begin(), words.end(), name);
  return found == words.end() || found + 1 == words.end() ? 0 : number_of(found[1]);
}

[[nodiscard]] bool contains(const std::vector<std::string>& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

// mountinfo writes a space as \040, and so on.
[[nodiscard]] std::string unescaped(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    if (text[i] == '\\' && i + 3 < text.size() && std::from_chars(&text[i + 1], &text[i + 4], value, 8).ptr == &text[i + 4]) {
      out += static_cast<char>(value);
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

struct Mount {
  std::string root, point;
  bool v2 = false;
  std::vector<std::string> controllers;  // version 1
};

[[nodiscard]] std::vector<Mount> cgroup_mounts(const std::string& mountinfo) {
  std::vector<Mount> mounts;
  for (const std::string& line : words_of(mountinfo, '\n')) {
    const std::vector<std::string> fields = words_of(line);
    const auto dash = std::find(fields.begin(), fields.end(), "-");
    if (fields.size() < 10 || fields.end() - dash < 4) continue;
    if (dash[1] != "cgroup" && dash[1] != "cgroup2") continue;
    Mount mount;
    mount.root = unescaped(fields[3]);
    mount.point = unescaped(fields[4]);
    mount.v2 = dash[1] == "cgroup2";
    if (!mount.v2) mount.controllers = words_of(dash[3], ',');
    mounts.push_back(std::move(mount));
  }
  return mounts;
}

// The directory of the group `path` (as /proc/self/cgroup has it), when the mount shows it.
[[nodiscard]] std::string directory_of(const Mount& mount, const std::string& path) {
  if (path.empty() || path.starts_with("/..")) return {};
  std::string rest = path;
  if (mount.root != "/") {
    if (!path.starts_with(mount.root) || (path.size() > mount.root.size() && path[mount.root.size()] != '/')) return {};
    rest = path.substr(mount.root.size());
  }
  if (rest == "/") rest.clear();
  return mount.point + rest;
}

// When a process began, in the kernel's ticks: with its number, a name that no other process will ever have.
[[nodiscard]] std::string start_of(const std::string& proc, const std::string& pid) {
  std::string stat = read_file(proc + "/" + pid + "/stat");
  const std::size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos) return {};
  const std::vector<std::string> fields = words_of(stat.substr(name_end + 1));
  return fields.size() > 19 ? fields[19] : std::string();
}

[[nodiscard]] std::string pid_namespace(const std::string& proc) {
  struct stat status{};
  return ::stat((proc + "/self/ns/pid").c_str(), &status) == 0 ? std::to_string(status.st_ino) : "0";
}

// Groups of gateways that have ended. Nobody is in them, for sandboxes end with their gateway; and where somebody is, rmdir fails.
// What lives in another PID namespace cannot be seen from here, so its groups are left alone.
// An owner's are in a group of their own.
void remove_leftovers(const std::string& directory, const std::string& proc, const std::string& space) {
  DIR* entries = ::opendir(directory.c_str());
  if (entries == nullptr) return;
  std::vector<std::string> left;
  const std::string prefix = std::string(kName) + space + "-";
  while (const dirent* entry = ::readdir(entries)) {
    const std::string name = entry->d_name;
    if (!name.starts_with(prefix)) continue;
    const std::vector<std::string> parts = words_of(name.substr(prefix.size()), '-');  // pid, its start, a number
    if (parts.size() == 3 && start_of(proc, parts[0]) != parts[1]) left.push_back(name);
  }
  ::closedir(entries);
  for (const std::string& name : left) {
    const std::string group = directory + "/" + name;
    if (::rmdir(group.c_str()) == 0 || errno != EBUSY) continue;
    remove_leftovers(group, proc, space);
    ::rmdir(group.c_str());
  }
}

// The files in which a limit is written; each must be there for the controller to be of use.
struct Files {
  const char *v1, *v2;
};
constexpr Files kFiles[] = {{"memory.limit_in_bytes", "memory.max"}, {"cpu.cfs_quota_us", "cpu.max"}, {"pids.max", "pids.max"}};

// Groups of this process that were given up while somebody was still in them: on a busy machine even killed processes take a while.
struct Late {
  std::mutex mutex;
  std::vector<std::string> directories;
};

[[nodiscard]] Late& late() {
  static Late* const all = new Late;  // also for sandboxes that outlive static objects
  return *all;
}

void remove_late() noexcept {
  const std::scoped_lock lock(late().mutex);
  std::erase_if(late().directories,
                [](const std::string& directory) { return ::rmdir(directory.c_str()) == 0 || errno == ENOENT; });
}

[[nodiscard]] std::string next_name(const std::string& prefix) {
  static std::atomic<std::uint64_t> number{0};
  return prefix + std::to_string(++number);
}

}  // namespace

// ---- One ----

std::uint64_t ControlGroup::killed_for_memory() const {
  return memory_events_.empty() ? 0 : value_in(words_of(read_file(memory_events_)), "oom_kill");
}

bool ControlGroup::has_room(std::uint64_t bytes) const {
  if (memory_limit_ == 0) return true;
  const std::uint64_t most = memory_limit_ - memory_limit_ / kKeptFree;
  const std::uint64_t used = number_of(read_file(memory_usage_));
  if (used + bytes <= most) return true;
  // What the kernel keeps of files on disks it gives up for others.
  const std::vector<std::string> stat = words_of(read_file(memory_stat_));
  const std::uint64_t cached = value_in(stat, "inactive_file") + value_in(stat, "active_file");
  return used - std::min(used, cached) + bytes <= most;
}

ControlGroup::~ControlGroup() {
  if (remove()) return;
  try {
    const std::scoped_lock lock(late().mutex);
    late().directories.insert(late().directories.end(), directories_.begin(), directories_.end());
  } catch (const std::exception&) {  // no memory: the next gateway removes them
  }
}

bool ControlGroup::remove() noexcept {
  doors_.clear();
  std::erase_if(directories_, [](const std::string& directory) { return ::rmdir(directory.c_str()) == 0 || errno == ENOENT; });
  return directories_.empty();
}

// ---- All ----

ControlGroups::ControlGroups(const std::string& proc, std::array<std::string, kControllers> controllers)
    : names_(std::move(controllers)) {
  const std::vector<Mount> mounts = cgroup_mounts(read_file(proc + "/self/mountinfo"));
  const std::string space = pid_namespace(proc);
  const std::string pid = std::to_string(::getpid());
  prefix_ = std::string(kName) + space + "-" + pid + "-" + start_of(proc, pid) + "-";

  std::vector<std::string> seen;
  for (std::size_t c = 0; c < kControllers; ++c) {
    Place& place = places_[c];
    for (const std::string& line : words_of(read_file(proc + "/self/cgroup"), '\n')) {
      // number:controllers:path, where the path may hold anything
      const std::size_t first = line.find(':');
      const std::size_t second = line.find(':', first + 1);
      if (first == std::string::npos || second == std::string::npos) continue;
      const std::vector<std::string> bound = words_of(line.substr(first + 1, second - first - 1), ',');
      const std::string path = line.substr(second + 1);
      for (const Mount& mount : mounts) {
        if (!place.directory.empty()) break;
        std::string directory;
        if (bound.empty() && mount.v2) {
          directory = directory_of(mount, path);
          const std::string leaf = "/" + std::string(kLeaf);
          if (directory.ends_with(leaf)) directory.resize(directory.size() - leaf.size());
          if (directory.empty() || !contains(words_of(read_file(directory + "/cgroup.controllers")), names_[c])) continue;
          place.v2 = true;
        } else if (contains(bound, names_[c]) && contains(mount.controllers, names_[c])) {
          directory = directory_of(mount, path);
        }
        place.directory = directory;
      }
    }
    if (!place.directory.empty() && !contains(seen, place.directory)) {
      remove_leftovers(place.directory, proc, space);
      seen.push_back(place.directory);
    }
  }
}

ControlGroups::~ControlGroups() {
  remove_late();
  for (const auto& [owner, directory] : owners_) {
    if (::rmdir(directory.c_str()) == 0 || errno == ENOENT) continue;
    const std::scoped_lock lock(late().mutex);
    late().directories.push_back(directory);
  }
}

const std::string& ControlGroups::why_not(Controller controller) {
  if (!places_[controller].tried) try_out(controller);
  return places_[controller].why;
}

void ControlGroups::try_out(Controller controller) {
  Place& place = places_[controller];
  place.tried = true;
  const std::string& name = names_[controller];
  if (place.directory.empty()) {
    place.why = "the kernel's control groups have no controller '" + name + "' for this process";
  } else {
    if (place.v2) place.why = enable(place.directory, name);
    if (place.why.empty()) place.why = probe(controller, place);
  }
  if (!place.why.empty()) {
    place.why +=
        ". Start the gateway in a control group of its own that it may write: with systemd, Delegate=yes in its unit, or "
        "systemd-run --user --scope -p Delegate=yes";
  }
}

// Makes the controller one of those that groups in `directory` have.
std::string ControlGroups::enable(const std::string& directory, const std::string& controller) const {
  const std::string file = directory + "/cgroup.subtree_control";
  const std::string processes = directory + "/cgroup.procs";
  // The kernel says EBUSY, but not for the CPU and processes alone: then the groups in there can be made, and nobody can join them.
  // The first group of all, which has no type, may have both.
  const bool in_the_way = ::access((directory + "/cgroup.type").c_str(), F_OK) == 0 && !read_file(processes).empty();
  if (!in_the_way && contains(words_of(read_file(file)), controller)) return {};
  int error = in_the_way ? EBUSY : write_file(file, "+" + controller);
  if (error == EBUSY) {
    // Groups with limits may not lie beside processes. This process can go into one of its own; others are not ours to move.
    const std::string own = std::to_string(::getpid());
    for (const std::string& pid : words_of(read_file(processes))) {
      if (pid != own) return "other processes share the control group " + directory;
    }
    const std::string leaf = directory + "/" + std::string(kLeaf);
    if (::mkdir(leaf.c_str(), 0755) != 0 && errno != EEXIST) return "cannot make " + leaf + ": " + std::strerror(errno);
    error = write_file(leaf + "/cgroup.procs", "0");
    if (error != 0) return "cannot move into " + leaf + ": " + std::strerror(error);
    error = write_file(file, "+" + controller);
  }
  return error == 0 ? std::string() : "cannot write " + file + ": " + std::strerror(error);
}

std::string ControlGroups::probe(Controller controller, const Place& place) const {
  const std::string directory = place.directory + "/" + next_name(prefix_);
  if (::mkdir(directory.c_str(), 0755) != 0)
    return "cannot make a control group in " + place.directory + ": " + std::strerror(errno);
  const std::string file = directory + "/" + (place.v2 ? kFiles[controller].v2 : kFiles[controller].v1);
  const bool there = ::access(file.c_str(), W_OK) == 0;
  const int error = errno;
  ::rmdir(directory.c_str());
  return there ? std::string() : "cannot write " + file + ": " + std::strerror(error);
}

std::string ControlGroups::directory_of_owner(const std::string& owner) {
  const std::scoped_lock lock(mutex_);
  if (const auto known = owners_.find(owner); known != owners_.end()) return known->second;
  const Place& place = places_[cpu];
  const std::string directory = place.directory + "/" + next_name(prefix_);
  const auto fail = [&directory](const char* what, int error) -> RunnerError {
    return {
        ErrorCode::resource_exhausted, kUnavailable,
        "cannot limit what the sandbox's owner uses: cannot " + std::string(what) + " " + directory + ": " + std::strerror(error)};
  };
  if (::mkdir(directory.c_str(), 0755) != 0) throw fail("make", errno);
  // All owners have the weight that a group has at first.
  for (std::size_t c = 0; c < kControllers && place.v2; ++c) {
    if (places_[c].directory != place.directory || !places_[c].tried || !places_[c].why.empty()) continue;
    if (const int error = write_file(directory + "/cgroup.subtree_control", "+" + names_[c]); error != 0) {
      ::rmdir(directory.c_str());
      throw fail("prepare", error);
    }
  }
  owners_.emplace(owner, directory);
  return directory;
}

std::unique_ptr<ControlGroup> ControlGroups::make(const GroupLimits& limits, const std::string& owner) {
  remove_late();
  auto group = std::make_unique<ControlGroup>();
  const std::string name = next_name(prefix_);
  const auto fail = [](const std::string& what, int error) -> RunnerError {
    return {ErrorCode::resource_exhausted, kUnavailable,
            "cannot limit what the sandbox uses: " + what + ": " + std::strerror(error)};
  };
  const std::string place = places_[cpu].directory;
  const std::string together = !owner.empty() && (limits.cpu != 0 || limits.cpu_request != 0) ? directory_of_owner(owner) : place;
  const auto open = [&](Controller controller) {
    const std::string& around = places_[controller].directory;
    std::string directory = (around == place ? together : around) + "/" + name;
    if (!contains(group->directories_, directory)) {
      if (::mkdir(directory.c_str(), 0755) != 0) throw fail("cannot make " + directory, errno);
      group->directories_.push_back(directory);
      UniqueFd door(::open((directory + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC));
      if (!door) throw fail("cannot open " + directory + "/cgroup.procs", errno);
      group->doors_.push_back(std::move(door));
    }
    return directory;
  };
  const auto set = [&](const std::string& directory, const char* file, const std::string& value, bool optional = false) {
    const std::string path = directory + "/" + file;
    const int error = write_file(path, value);
    if (error != 0 && !(optional && error == ENOENT)) throw fail("cannot write " + path, error);
  };
  if (limits.memory != 0) {
    const std::string directory = open(memory);
    const std::string bytes = std::to_string(limits.memory);
    group->memory_limit_ = limits.memory;
    group->memory_stat_ = directory + "/memory.stat";
    group->memory_usage_ = directory + (places_[memory].v2 ? "/memory.current" : "/memory.usage_in_bytes");
    if (places_[memory].v2) {
      set(directory, "memory.max", bytes);
      set(directory, "memory.swap.max", "0", true);
      group->memory_events_ = directory + "/memory.events";
    } else {
      set(directory, "memory.limit_in_bytes", bytes);
      set(directory, "memory.memsw.limit_in_bytes", bytes, true);
      // Not there, or without an effect, where the kernel does not count them so.
      static_cast<void>(write_file(directory + "/memory.kmem.tcp.limit_in_bytes", std::to_string(limits.memory / kUnreadPart)));
      group->memory_events_ = directory + "/memory.oom_control";
    }
  }
  if (limits.cpu != 0 || limits.cpu_request != 0) {
    const std::string directory = open(cpu);
    const bool v2 = places_[cpu].v2;
    if (limits.cpu != 0) {
      const std::string quota = std::to_string(std::max(kMinQuotaUs, limits.cpu * kPeriodUs / 1000));
      const std::string period = std::to_string(kPeriodUs);
      if (v2) {
        set(directory, "cpu.max", quota + " " + period);
      } else {
        set(directory, "cpu.cfs_period_us", period);
        set(directory, "cpu.cfs_quota_us", quota);
      }
    }
    if (limits.cpu_request != 0) {
      // A core weighs what a group does that asks for nothing, in both versions: who asks for one must not get less for it.
      if (v2) {
        set(directory, "cpu.weight", std::to_string(std::clamp<std::uint64_t>(limits.cpu_request * 100ull / 1000, 1, 10000)));
      } else {
        set(directory, "cpu.shares", std::to_string(std::clamp<std::uint64_t>(limits.cpu_request * 1024ull / 1000, 2, 262144)));
      }
    }
  }
  if (limits.pids != 0) set(open(pids), "pids.max", std::to_string(limits.pids + kOwnProcesses));
  return group;
}

}  // namespace cwsandbox::runner::local
