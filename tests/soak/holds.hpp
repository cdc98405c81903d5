// What processes hold, and what is left of them: for programs that let everything go on at once and then look.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <thread>

#include <sys/types.h>
#include <unistd.h>

namespace soak_test {

struct Holds {
  std::int64_t resident = 0;  // bytes
  std::int64_t in_use = 0;    // bytes of this process that were allocated and not freed
  int descriptors = 0, processes = 0;
};

inline std::multimap<pid_t, pid_t> children_by_parent() {
  std::multimap<pid_t, pid_t> out;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const auto name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream file(entry.path() / "stat");
    std::stringstream text;
    text << file.rdbuf();
    const auto stat = text.str();
    const auto end = stat.rfind(')');
    if (end == std::string::npos) continue;
    char state = 0;
    int parent = 0;
    if (std::sscanf(stat.c_str() + end + 1, " %c %d", &state, &parent) == 2) out.emplace(parent, std::atoi(name.c_str()));
  }
  return out;
}

/// All below `pid`, `except` and what is below it left out.
inline int descendants(pid_t pid, pid_t except = -1) {
  const auto all = children_by_parent();
  const std::function<int(pid_t)> below = [&](pid_t one) {
    int n = 0;
    for (auto [at, end] = all.equal_range(one); at != end; ++at)
      if (at->second != except) n += 1 + below(at->second);
    return n;
  };
  return below(pid);
}

inline Holds held_by(pid_t pid, pid_t except = -1) {
  Holds holds;
  const std::string directory = "/proc/" + std::to_string(pid);
  std::ifstream statm(directory + "/statm");
  std::int64_t total = 0, pages = 0;
  statm >> total >> pages;
  holds.resident = pages * ::sysconf(_SC_PAGESIZE);
  std::error_code ec;
  for (auto at = std::filesystem::directory_iterator(directory + "/fd", ec); !ec && at != std::filesystem::directory_iterator();
       at.increment(ec))
    ++holds.descriptors;
  holds.processes = descendants(pid, except);
  return holds;
}

inline std::set<std::string> entries(const std::string& directory, bool deep = false) {
  std::set<std::string> out;
  std::error_code ec;
  if (deep) {
    for (auto at = std::filesystem::recursive_directory_iterator(directory,
                                                                 std::filesystem::directory_options::skip_permission_denied, ec);
         !ec && at != std::filesystem::recursive_directory_iterator(); at.increment(ec))
      if (at->is_directory(ec)) out.insert(at->path().string());
  } else {
    for (auto at = std::filesystem::directory_iterator(directory, ec); !ec && at != std::filesystem::directory_iterator();
         at.increment(ec))
      out.insert(at->path().string());
  }
  return out;
}

/// Control groups of sandboxes, whatever they are called.
inline std::set<std::string> control_groups() {
  std::set<std::string> out;
  for (const auto& path : entries("/sys/fs/cgroup", true))
    if (path.find("cwsandbox") != std::string::npos) out.insert(path);
  return out;
}

template <typename Condition>
bool comes(const Condition& condition, std::chrono::seconds limit = std::chrono::seconds(60)) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return true;
}

class Random {
 public:
  explicit Random(std::uint64_t seed) : generator_(seed) {}
  std::uint64_t below(std::uint64_t n) { return generator_() % n; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }
  std::string bytes(std::size_t size) {
    std::string out(size, '\0');
    for (std::size_t at = 0; at < size; at += 8) {
      const std::uint64_t word = generator_();
      std::memcpy(out.data() + at, &word, std::min<std::size_t>(8, size - at));
    }
    return out;
  }

 private:
  std::mt19937_64 generator_;
};

}  // namespace soak_test
