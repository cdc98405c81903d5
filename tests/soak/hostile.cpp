// One owner does its worst in every way that bench/attack.cpp knows, one or two at once, for a long time; another one works on as
// if nothing were. It may lose nothing, and at the end nothing may be left. See scripts/soak --hostile.
#include "client/support.hpp"
#include "holds.hpp"

#include <atomic>
#include <cinttypes>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <mutex>
#include <optional>
#include <sstream>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

using namespace soak_test;
using namespace support;
using namespace cwsandbox;
namespace fs = std::filesystem;

namespace {

constexpr auto kLong = 120s;
// What the gateway may have at the worst, and keep when all is over: see scripts/bench, GATEWAY_MOST; the allocator gives little of
// what was in small pieces back.
constexpr std::int64_t kMiB = 1024 * 1024, kMostPeak = 512 * kMiB, kMostKept = 96 * kMiB;
// Each has a queue for large messages, once it has had one.
constexpr std::size_t kOwners = 2;
constexpr const char* kBad = "token-of-the-one-who-means-harm";

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }
void expect(bool condition, const char* what) {
  if (!condition) fail(what);
}
template <typename Task>
decltype(auto) get(const Task& task) {
  return task.result(kLong);
}

std::int64_t peak_of(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6)) * 1024;
  return 0;
}

/// The attacker: a process of its own, which ends its sandboxes when it is told to end, and leaves them when it is killed.
class Attacker {
 public:
  Attacker(const std::string& url, const std::vector<std::string>& arguments) {
    int in[2], out[2];
    if (::pipe2(in, O_CLOEXEC) != 0 || ::pipe2(out, O_CLOEXEC) != 0) fail("pipe2");
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    ::posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    std::vector<std::string> words{environment("CWSANDBOX_ATTACK")};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (auto& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    ::setenv("CWSANDBOX_BASE_URL", url.c_str(), 1);
    const int error = ::posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ);
    ::unsetenv("CWSANDBOX_BASE_URL");
    ::posix_spawn_file_actions_destroy(&actions);
    ::close(in[0]), ::close(out[1]);
    in_ = in[1], out_ = out[0];
    if (error != 0) fail("the attacker cannot be started");
  }
  Attacker(const Attacker&) = delete;
  Attacker& operator=(const Attacker&) = delete;
  ~Attacker() {
    ::close(out_);
    if (in_ >= 0) ::close(in_);
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  /// Until all that it does has begun. False when it has ended instead.
  bool ready() const {
    pollfd look{out_, POLLIN, 0};
    char line[16];
    return ::poll(&look, 1, 120'000) == 1 && ::read(out_, line, sizeof line) > 0;
  }
  /// True when it ends by itself, with everything of its own.
  bool end() {
    ::close(std::exchange(in_, -1));
    int status = 0;
    const bool ended = comes([&] { return ::waitpid(pid_, &status, WNOHANG) == pid_; }, 120s);
    if (ended) pid_ = -1;
    return ended && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }

 private:
  pid_t pid_ = -1;
  int in_ = -1, out_ = -1;
};

std::vector<std::string> modes_of_attack() {
  const Ran ran = run_program({environment("CWSANDBOX_ATTACK"), "--list"});
  std::vector<std::string> modes;
  std::istringstream lines(ran.out);
  for (std::string line; std::getline(lines, line);) modes.push_back(line);
  expect(!modes.empty(), "the attacker knows no mode");
  return modes;
}

// ---- the one who works on ----

class Bystander {
 public:
  explicit Bystander(Client client) : client_(std::move(client)), sandbox_(Sandbox::run(client_)) {
    get(sandbox_.wait());
    get(sandbox_.write_file("/workspace/kept", "kept"));
  }
  Bystander(const Bystander&) = delete;
  Bystander& operator=(const Bystander&) = delete;

  void begin() {
    worker("execs", [this](Random& random) {
      const auto word = std::to_string(random.below(1'000'000'000));
      expect(get(sandbox_.exec({"echo", word})).std_out == word + "\n", "its output");
    });
    worker("files", [this](Random& random) {
      const auto content = random.bytes(kMiB);
      get(sandbox_.write_file("/workspace/file", content));
      expect(get(sandbox_.read_file("/workspace/file")) == content, "its content");
    });
    worker("creations", [this](Random&) {
      const auto another = Sandbox::run(client_);
      get(another.wait());
      expect(get(another.exec({"echo", "new"})).std_out == "new\n", "its output");
      get(another.stop(StopOptions().with_grace_period(0s)));
    });
    worker("lists", [this](Random&) { expect(!get(Sandbox::list(client_)).empty(), "its own sandboxes"); });
    // Two that go on all the time, and lose no byte.
    threads_.emplace_back([this] { guarded("a process", [this] { held(); }); });
    threads_.emplace_back([this] { guarded("a log", [this] { followed(); }); });
  }
  /// Waits until all rest.
  void end() {
    over_ = true;
    for (auto& thread : threads_) thread.join();
    threads_.clear();
    guarded("what it had", [this] { expect(get(sandbox_.read_file("/workspace/kept")) == "kept", "is not what it was"); });
    guarded("its end", [this] { get(sandbox_.stop(StopOptions().with_grace_period(0s))); });
  }
  [[nodiscard]] int failures() const { return failures_; }
  void report() {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, one] : done_)
      std::printf("  %-10s %8" PRIu64 ", the slowest %5.0f ms\n", name.c_str(), one.count, one.slowest);
  }

 private:
  struct Done {
    std::uint64_t count = 0;
    double slowest = 0;  // ms
  };
  void guarded(const char* name, const std::function<void()>& work) {
    try {
      work();
    } catch (const std::exception& error) {
      ++failures_;
      const std::lock_guard lock(mutex_);
      std::fprintf(stderr, "soak: %s: %s (while %s)\n", name, error.what(), attack_.c_str());
    }
  }
  void worker(const char* name, std::function<void(Random&)> work) {
    threads_.emplace_back([this, name, work = std::move(work)] {
      Random random(threads_seed_++);
      while (!over_ && failures_ < 20) {
        const auto began = std::chrono::steady_clock::now();
        guarded(name, [&] { work(random); });
        const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - began;
        {
          const std::lock_guard lock(mutex_);
          auto& done = done_[name];
          ++done.count;
          done.slowest = std::max(done.slowest, took.count());
        }
        std::this_thread::sleep_for(20ms);  // a user, not a second attacker
      }
    });
  }
  void held() {
    const auto process = sandbox_.exec({"cat"}, ExecOptions().with_stdin());
    std::string sent;
    for (std::uint64_t n = 0; !over_; ++n) {
      const std::string line = "line " + std::to_string(n) + "\n";
      get(process.std_in()->write(line));
      sent += line;
      std::this_thread::sleep_for(50ms);
    }
    get(process.std_in()->close());
    expect(get(process).std_out == sent, "has lost bytes");
  }
  void followed() {
    const auto writer = Sandbox::run(
        client_, SandboxOptions().with_command(
                     {"/bin/sh", "-c", "i=0; while [ ! -e /tmp/over ]; do echo line $i; i=$((i+1)); sleep 0.02; done"}));
    get(writer.wait());
    const auto reader = writer.stream_logs(LogOptions().with_follow());
    bool told = false;
    for (std::uint64_t n = 0;; ++n) {
      const auto line = get(reader.next());
      if (!line) break;
      if (line->is_gap() || line->text != "line " + std::to_string(n)) fail("has lost line " + std::to_string(n));
      if (over_ && !std::exchange(told, true)) get(writer.write_file("/tmp/over", ""));
    }
    expect(told, "ended early");
  }

 public:
  void attacked_by(const std::string& what) {
    const std::lock_guard lock(mutex_);
    attack_ = what;
  }

 private:
  Client client_;
  Sandbox sandbox_;
  std::vector<std::thread> threads_;
  std::atomic<std::uint64_t> threads_seed_{1};
  std::atomic<bool> over_{false};
  std::atomic<int> failures_{0};
  std::mutex mutex_;
  std::string attack_ = "nothing else was going on";
  std::map<std::string, Done> done_;
};

int hostile(std::chrono::seconds time, std::uint64_t seed) {
  std::printf("hostile soak: %lld s, seed %" PRIu64 "\n", static_cast<long long>(time.count()), seed);
  std::fflush(stdout);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);  // orphans come to us, so that none is missed
  TemporaryDirectory directory;
  ::setenv("TMPDIR", directory.path().c_str(), 1);
  ::unsetenv("XDG_RUNTIME_DIR");
  const auto shm = entries("/dev/shm");
  const auto modes = modes_of_attack();
  pid_t gateway = -1;
  std::vector<std::string> left;
  const auto check = [&](bool good, const std::string& what) {
    if (!good) left.push_back(what);
  };
  {
    Daemon daemon({"--orphan-grace", "20", "--idle-timeout", "10", "--max-memory", "256MiB", "--max-disk", "64MiB"});
    const auto pid = gateway = daemon.pid();
    // A second owner.
    const auto tokens = fs::path(daemon.socket()).parent_path() / "token";
    std::ofstream(tokens, std::ios::app) << kBad << "\n";
    ::kill(pid, SIGHUP);
    // Their idle connections go with them.
    std::optional<Client> client(daemon.options()), other(ClientOptions(daemon.options()).with_api_key(kBad));
    expect(comes(
               [&] {
                 try {
                   return get(Sandbox::list(*other)).empty();
                 } catch (const CWSandboxError&) {
                   return false;
                 }
               },
               20s),
           "the second owner is not known");
    {
      const auto sandbox = Sandbox::run(*client);
      get(sandbox.wait());
      get(sandbox.stop(StopOptions().with_grace_period(0s)));
    }
    const Holds base = held_by(pid);
    // What sandboxes have written is kept after their end, in files without names.
    const auto open_but_logs = [&] {
      std::vector<std::string> targets;
      std::error_code gone;
      for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string(pid) + "/fd", gone)) {
        const std::string target = fs::read_symlink(entry.path(), gone);
        if (!target.starts_with(directory.path())) targets.push_back(target);
      }
      return targets;
    };
    const std::size_t open_at_first = open_but_logs().size();
    Random random(seed);
    std::map<std::string, int> attacks;
    {
      Bystander bystander(*client);
      bystander.begin();
      const auto until = std::chrono::steady_clock::now() + time;
      for (std::size_t round = 0; std::chrono::steady_clock::now() < until && bystander.failures() < 20; ++round) {
        // Each in its turn, half of the time beside another one.
        std::vector<std::string> chosen{modes[(round + seed) % modes.size()]};
        if (random.one_in(2)) chosen.push_back(modes[random.below(modes.size())]);
        std::string name = chosen.front();
        if (chosen.size() > 1) name += " with " + chosen.back();
        bystander.attacked_by(name);
        std::vector<std::string> arguments{"--seconds", "60", kBad};
        arguments.insert(arguments.end(), chosen.begin(), chosen.end());
        Attacker attacker(daemon.url(), arguments);
        // What one of two does may leave no room for the other, which is theirs.
        const bool alone = chosen.size() == 1;
        const bool began = attacker.ready();
        check(began || !alone, "the attack by " + name + " did not begin");
        std::this_thread::sleep_for(std::chrono::milliseconds(1500 + random.below(2500)));
        // Or it is killed, and leaves its sandboxes to the next.
        if (!random.one_in(3)) {
          const bool ended = attacker.end();
          check(ended || !alone, "the attack by " + name + " did not end");
        }
        if (began) ++attacks[name];
      }
      bystander.attacked_by("all was over");
      Attacker last(daemon.url(), {"--seconds", "0", kBad});  // ends what those have left
      check(last.end(), "the attacker's sandboxes cannot be ended");
      bystander.end();
      bystander.report();
      check(bystander.failures() == 0, "the other owner lost something, " + std::to_string(bystander.failures()) + " times");
    }
    for (const auto& [name, count] : attacks) std::printf("  %3d × %s\n", count, name.c_str());
    check(!attacks.empty(), "no attack began");
    check(comes([&] { return get(Sandbox::list(*other)).empty(); }), "sandboxes of the attacker");
    {
      const auto sandbox = Sandbox::run(*client);
      check(get(sandbox.exec({"echo", "served"})).std_out == "served\n", "the gateway does not serve");
      get(sandbox.stop(StopOptions().with_grace_period(0s)));
    }
    client.reset();
    other.reset();
    check(comes([&] { return held_by(pid).processes == 0; }), "processes of the gateway");
    if (!comes([&] { return open_but_logs().size() <= open_at_first + kOwners; })) {
      check(false, "descriptors of the gateway");
      for (const auto& target : open_but_logs()) std::printf("  %s\n", target.c_str());
    }
    const Holds now = held_by(pid);
    const std::int64_t peak = peak_of(pid);
    std::printf("gateway: at first %" PRId64 " MiB, at the worst %" PRId64 " MiB, at the end %" PRId64
                " MiB; %d descriptors, at first %d\n",
                base.resident / kMiB, peak / kMiB, now.resident / kMiB, now.descriptors, base.descriptors);
    check(peak <= kMostPeak, "memory of the gateway went over its bound");
    check(now.resident - base.resident <= kMostKept, "memory of the gateway did not come back");
    const int status = daemon.kill(SIGTERM);
    check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the gateway ended with status " + std::to_string(status));
  }
  // Orphans that have ended are ours to wait for.
  check(comes(
            [] {
              pid_t reaped = 0;
              while ((reaped = ::waitpid(-1, nullptr, WNOHANG)) > 0) {
              }
              return reaped < 0;
            },
            30s),
        "a process");
  for (const auto& path : entries(directory.path())) left.push_back("file " + path);
  check(comes([&] { return entries("/dev/shm") == shm; }, 10s), "something in /dev/shm");
  // Others on this machine may have some: the name of each tells whose it is.
  check(comes(
            [mark = "-" + std::to_string(gateway) + "-"] {
              const auto groups = control_groups();
              return std::none_of(groups.begin(), groups.end(),
                                  [&](const auto& group) { return group.find(mark) != std::string::npos; });
            },
            10s),
        "control groups");
  for (const auto& what : left) std::printf("wrong: %s\n", what.c_str());
  std::printf("%s\n", left.empty() ? "nothing was lost, and nothing is left over" : "FAILED");
  return left.empty() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  const auto number = [&](int at, std::uint64_t otherwise) { return argc > at ? std::strtoull(argv[at], nullptr, 10) : otherwise; };
  try {
    return hostile(std::chrono::seconds(number(1, 600)), number(2, std::random_device{}()));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "soak: %s\n", error.what());
    return 1;
  }
}
