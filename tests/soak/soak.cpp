// Everything at once, with faults, for a long time; and then nothing may be left over. See scripts/soak.
//
// A gateway in a process of its own is reached through a proxy that breaks connections, another one runs inside this process.
// Workers do one thing after another on both: execs with every shape of stdin, cancels, timeouts, files, logs, terminals, sessions,
// processes that are left and taken over. What each of them sees is checked. Twice everything is let come to rest: after the
// warm-up, and at the end; between the two neither side may have grown.
#include "client/support.hpp"
#include "holds.hpp"
#include "support/fault_proxy.hpp"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>

#include <algorithm>
#include <atomic>
#include <cinttypes>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <sstream>
#include <thread>
#include <utility>

#include <malloc.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace soak_test;
using namespace support;
using namespace cwsandbox;
namespace fs = std::filesystem;

namespace {

constexpr int kWorkers = 6;
constexpr auto kLong = 120s;
// Growth between the two rests that is no leak: the allocator's arenas, one a thread, are never as empty as they could be, and the
// gateway remembers 1000 ended sandboxes and 4096 process ids by design, which a short warm-up does not fill: about 2 KiB each.
constexpr std::int64_t kMostGrowth = 16 * 1024 * 1024;
// Of this process it is known what it has allocated and not freed, whatever pages the allocator keeps: that says what a leak would
// be. Its pages are looked at too, but dozens of threads that come and go leave them in a state of their own.
constexpr std::int64_t kMostInUse = 2 * 1024 * 1024, kMostOwnPages = 64 * 1024 * 1024;

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }
void expect(bool condition, const char* what) {
  if (!condition) fail(what);
}

// ---- the work ----

struct Place {
  const Sandbox& sandbox;
  const Client& client;
  const Client& other;  // of the same gateway, with connections of its own
  bool faulty;          // what has no resume (files, logs) may break
};

template <typename Task>
decltype(auto) get(const Task& task) {
  return task.result(kLong);
}

std::string drain(const StreamReader<std::string>& reader) {
  std::string out;
  while (const auto chunk = get(reader.next())) out += *chunk;
  return out;
}

void plain(const Place& at, Random&) {
  const auto process = at.sandbox.exec(shell("echo out; echo err >&2; exit 3"));
  const auto& result = get(process);
  expect(result.std_out == "out\n" && result.std_err == "err\n" && result.returncode == 3, "plain: output or code");
}
void through_cat(const Place& at, Random& random) {
  const auto process = at.sandbox.exec({"cat"}, ExecOptions().with_stdin().with_capture(Capture::none()));
  std::string sent;
  for (auto n = 1 + random.below(40); n > 0; --n) sent += random.bytes(random.below(64 * 1024));
  std::thread writer([&] {
    try {
      for (std::size_t done = 0; done < sent.size(); done += 50'000) get(process.std_in()->write(sent.substr(done, 50'000)));
      get(process.std_in()->close());
    } catch (const std::exception&) {  // the reader says it
    }
  });
  std::string received, failure;
  try {
    received = drain(process.std_out());
  } catch (const std::exception& error) {
    failure = error.what();
  }
  writer.join();
  if (!failure.empty()) fail(failure);
  expect(received == sent, "cat: not what was sent");
  expect(get(process).returncode == 0, "cat: code");
}
void half_closed(const Place& at, Random&) {
  const auto process = at.sandbox.exec(shell("sort; echo end"), ExecOptions().with_stdin());
  get(process.std_in()->write("b\na\n"));
  get(process.std_in()->close());
  expect(get(process).std_out == "a\nb\nend\n", "sort");
}
void unread_stdin(const Place& at, Random& random) {
  const auto process = at.sandbox.exec(shell("exec 0<&-; echo closed"), ExecOptions().with_stdin());
  try {
    for (int i = 0; i < 20; ++i) get(process.std_in()->write(random.bytes(30'000)));
  } catch (const SandboxExecutionError&) {  // it has ended
  }
  expect(get(process).std_out == "closed\n", "unread stdin");
}
void much_output(const Place& at, Random& random) {
  const auto size = 1 + random.below(4'000'000);
  const auto process = at.sandbox.exec({"head", "-c", std::to_string(size), "/dev/zero"});
  expect(get(process).std_out.received() == size, "much output: size");
}
void cancelled(const Place& at, Random& random) {
  const auto process = at.sandbox.exec(shell("trap '' TERM; echo x; sleep 1000 & wait; sleep 1000"),
                                       ExecOptions().with_grace_period(std::chrono::milliseconds(random.below(50))));
  if (random.one_in(2)) static_cast<void>(get(process.std_out().next()));
  process.cancel();
  try {
    get(process);
    fail("cancelled: a result");
  } catch (const CancelledError&) {
  }
}
void timed_out(const Place& at, Random& random) {
  const auto process =
      at.sandbox.exec({"sleep", "1000"}, ExecOptions().with_timeout(std::chrono::milliseconds(1 + random.below(30))));
  try {
    get(process);
    fail("timed out: a result");
  } catch (const SandboxCommandTimeoutError&) {
  }
}
void not_started(const Place& at, Random&) {
  try {
    get(at.sandbox.exec({"no-such-program"}));
    fail("not started: a result");
  } catch (const SandboxExecutionError& error) {
    expect(error.error_name() == "ENOENT", "not started: errno");
  }
}
void dropped(const Place& at, Random& random) {
  const auto process = at.sandbox.exec(shell("cat; sleep 1000"), ExecOptions().with_stdin());
  if (random.one_in(2)) get(process.std_in()->write("x"));
  if (random.one_in(3)) static_cast<void>(get(process.pid()));
}
void signalled(const Place& at, Random&) {
  const auto process = at.sandbox.exec(shell("echo ready; exec sleep 1000"));
  static_cast<void>(get(process.std_out().next()));
  process.signal("KILL");
  expect(get(process).signal == 9, "signalled");
}
void terminal(const Place& at, Random& random) {
  const auto session =
      at.sandbox.shell(ShellOptions().with_command(shell("stty -echo; while read -r l; do echo \"<$l>\"; done; exit 5")));
  get(session.input().write("word\n"));
  std::string seen;
  while (seen.find("<word>") == std::string::npos) {
    const auto chunk = get(session.output().next());
    expect(chunk.has_value(), "terminal: ended early");
    seen += *chunk;
  }
  session.resize(static_cast<int>(1 + random.below(200)), 50);
  switch (random.below(3)) {
    case 0:
      get(session.input().write("\x04"));
      expect(get(session).returncode == 5, "terminal: code");
      break;
    case 1:
      session.cancel();
      try {
        get(session);
        fail("terminal: a result");
      } catch (const CancelledError&) {
      }
      break;
    default:  // hung up with the last handle
      break;
  }
}
void left_and_taken(const Place& at, Random& random) {
  std::string id;
  const auto size = random.below(3'000'000);
  {
    const auto process =
        at.sandbox.exec(shell("read -r go; head -c " + std::to_string(size) + " /dev/zero; exit 8"), ExecOptions().with_stdin());
    static_cast<void>(get(process.pid()));
    id = process.id();
    if (random.one_in(2)) process.detach();
    const auto there = get(Sandbox::from_id(at.other, *at.sandbox.sandbox_id()));
    const auto taken = there.attach(id, AttachOptions().with_stdin().with_from_held());
    get(taken.std_in()->writeline("go"));
    const auto& result = get(taken);
    expect(result.returncode == 8 && result.std_out.produced() == size, "taken over: output or code");
    try {
      get(process);
      fail("taken over: the first has a result");
    } catch (const SandboxConnectionLostError& error) {
      expect(error.reason() == "CWSANDBOX_PROCESS_TAKEN_OVER" || error.reason() == "CWSANDBOX_PROCESS_NOT_FOUND",
             "taken over: reason");
    }
  }
}
void files(const Place& at, Random& random) {
  const auto name = "/tmp/soak-" + std::to_string(random.below(1'000'000'000));
  const auto content = random.bytes(random.below(500'000));
  try {
    get(at.sandbox.write_file(name, content));
    expect(get(at.sandbox.read_file(name)) == content, "files: content");
    static_cast<void>(get(at.sandbox.list_files("/tmp")));
    const auto reader = at.sandbox.read_file_stream(name);
    static_cast<void>(get(reader.next()));  // and no more
    get(at.sandbox.remove_file(name, false, true));
  } catch (const SandboxError&) {
    if (!at.faulty) throw;
  }
}
void logs(const Place& at, Random& random) {
  SandboxOptions options;
  options.with_command({"/bin/sh", "-c", "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); done; exec sleep 1000"});
  const auto sandbox = Sandbox::run(at.client, options);
  try {
    const auto reader = sandbox.stream_logs(LogOptions().with_follow());
    for (int i = 0; i < 200; ++i) {
      const auto line = get(reader.next());
      expect(line.has_value() && line->text == "line " + std::to_string(i), "logs: line");
      if (random.one_in(300)) break;
    }
  } catch (const SandboxError&) {
    if (!at.faulty) throw;
  }
  if (random.one_in(2)) get(sandbox.stop(StopOptions().with_grace_period(0s)));
}
void session(const Place& at, Random& random) {
  const Session session(at.client);
  for (auto n = 1 + random.below(2); n > 0; --n)
    expect(get(session.sandbox().exec({"echo", "x"})).std_out == "x\n", "session: output");
  if (random.one_in(2)) get(session.close(StopOptions().with_grace_period(0s)));
}

struct Kind {
  const char* name;
  void (*run)(const Place&, Random&);
  unsigned weight;
};
const Kind kKinds[] = {
    {"plain", plain, 10},
    {"through cat", through_cat, 10},
    {"half closed", half_closed, 5},
    {"unread stdin", unread_stdin, 5},
    {"much output", much_output, 5},
    {"cancelled", cancelled, 6},
    {"timed out", timed_out, 6},
    {"not started", not_started, 4},
    {"dropped", dropped, 6},
    {"signalled", signalled, 4},
    {"terminal", terminal, 6},
    {"left and taken", left_and_taken, 6},
    {"files", files, 6},
    {"logs", logs, 2},
    {"session", session, 2},
};

/// Lets the workers run for a time, then waits until all of them rest.
class Crew {
 public:
  explicit Crew(std::uint64_t seed) : seed_(seed) {}
  void run(std::chrono::steady_clock::time_point until, const std::function<Place(int)>& place) {
    std::vector<std::thread> threads;
    for (int i = 0; i < kWorkers; ++i)
      threads.emplace_back([&, i] {
        Random random(seed_ * 1000 + static_cast<std::uint64_t>(i) + 100 * static_cast<std::uint64_t>(rounds_));
        while (std::chrono::steady_clock::now() < until && failures_ < 20) one(place(i), random);
      });
    for (auto& thread : threads) thread.join();
    ++rounds_;
  }
  [[nodiscard]] std::uint64_t done() const { return done_; }
  [[nodiscard]] int failures() const { return failures_; }
  void report() const {
    for (const auto& kind : kKinds) {
      const auto found = counts_.find(kind.name);
      std::printf("  %-16s %8" PRIu64 "\n", kind.name, found == counts_.end() ? 0 : found->second);
    }
  }

 private:
  void one(const Place& place, Random& random) {
    unsigned all = 0;
    for (const auto& kind : kKinds) all += kind.weight;
    auto pick = random.below(all);
    const Kind* chosen = kKinds;
    while (pick >= chosen->weight) pick -= (chosen++)->weight;
    try {
      chosen->run(place, random);
    } catch (const std::exception& error) {
      ++failures_;
      const std::lock_guard lock(mutex_);
      std::fprintf(stderr, "soak: %s%s: %s\n", chosen->name, place.faulty ? " (through the proxy)" : "", error.what());
    }
    ++done_;
    const std::lock_guard lock(mutex_);
    ++counts_[chosen->name];
  }

  const std::uint64_t seed_;
  int rounds_ = 0;
  std::atomic<std::uint64_t> done_{0};
  std::atomic<int> failures_{0};
  std::mutex mutex_;
  std::map<std::string, std::uint64_t> counts_;
};

/// Disturbs the proxy's connections until it goes.
class Trouble {
 public:
  Trouble(FaultProxy& proxy, std::uint64_t seed) : proxy_(proxy), thread_([this, seed] { run(seed); }) {}
  ~Trouble() {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Trouble(const Trouble&) = delete;
  Trouble& operator=(const Trouble&) = delete;

 private:
  bool wait(std::chrono::milliseconds time) {
    std::unique_lock lock(mutex_);
    return !changed_.wait_for(lock, time, [this] { return over_; });
  }
  void run(std::uint64_t seed) {
    Random random(seed);
    while (wait(std::chrono::milliseconds(200 + random.below(2000)))) {
      switch (random.below(3)) {
        case 0:
          proxy_.cut_all();
          break;
        case 1:
          proxy_.stall(true);
          static_cast<void>(wait(std::chrono::milliseconds(random.below(300))));
          proxy_.stall(false);
          break;
        default:
          proxy_.refuse(true);
          proxy_.cut_all();
          static_cast<void>(wait(std::chrono::milliseconds(random.below(300))));
          proxy_.refuse(false);
          break;
      }
    }
  }
  FaultProxy& proxy_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  std::thread thread_;
};

FaultProxy::Planner planner(std::uint64_t seed) {
  const auto random = std::make_shared<Random>(seed);
  const auto mutex = std::make_shared<std::mutex>();
  return [random, mutex](int) {
    const std::lock_guard lock(*mutex);
    FaultProxy::Plan plan;
    switch (random->below(6)) {
      case 0:
        plan.bytes_to_server = random->below(300'000);
        break;
      case 1:
        plan.bytes_to_client = random->below(300'000);
        plan.truncate = random->one_in(2);
        break;
      case 2:
        plan.messages = random->below(30);
        plan.reset = true;
        break;
      case 3:
        plan.delay = std::chrono::milliseconds(1 + random->below(3));
        break;
      default:
        break;
    }
    return plan;
  };
}

/// One run of the whole thing; what it holds goes with it.
class Soak {
 public:
  explicit Soak(std::uint64_t seed)
      : seed_(seed),
        work_(boost::asio::make_work_guard(context_)),
        daemon_({"--orphan-grace", "20", "--idle-timeout", "10"}),
        proxy_(daemon_.socket(), FaultProxy::Listen::tcp) {
    for (int i = 0; i < 2; ++i) loop_.emplace_back([this] { context_.run(); });
  }
  ~Soak() {
    work_.reset();
    for (auto& thread : loop_) thread.join();
  }
  Soak(const Soak&) = delete;
  Soak& operator=(const Soak&) = delete;

  /// Works for this long, then gives everything up and looks at what is left.
  void phase(Crew& crew, std::chrono::seconds time, Holds& own, Holds& gateway) {
    proxy_.set_planner(planner(seed_));
    {
      const LoopManager loop(context_.get_executor());
      const Client direct(daemon_.options().with_loop(loop));
      const Client second(daemon_.options().with_loop(loop).with_retry_budget(29s));
      const Client faulty(daemon_.options().with_base_url(proxy_.url()).with_loop(loop).with_idle_timeout(10s));
      const Client embedded(ClientOptions().with_base_url("local:").with_loop(loop));
      const Client embedded_second(ClientOptions().with_base_url("local:").with_loop(loop).with_retry_budget(29s));
      const auto remote = Sandbox::run(direct);
      get(remote.wait());
      const auto through = get(Sandbox::from_id(faulty, *remote.sandbox_id()));
      const auto inside = Sandbox::run(embedded);
      get(inside.wait());
      {
        const Trouble trouble(proxy_, seed_ + 1);
        crew.run(std::chrono::steady_clock::now() + time, [&](int worker) {
          // Half of the work goes through the proxy.
          if (worker % 2 == 0) return Place{through, faulty, second, true};
          if (worker == 1) return Place{remote, direct, second, false};
          return Place{inside, embedded, embedded_second, false};
        });
      }
      proxy_.set_planner({});
      get(inside.stop(StopOptions().with_grace_period(0s)));
      get(remote.stop(StopOptions().with_grace_period(0s)));
    }
    // What was given up is killed within the grace times; idle connections end with their clients.
    const auto pid = daemon_.pid();
    static_cast<void>(comes([&] { return held_by(::getpid()).descriptors <= base_own_; }));
    static_cast<void>(comes([&] { return held_by(pid).descriptors <= base_gateway_; }));
    // The gateway inside has ended: what is there now is what nobody else waits for.
    const bool alone = comes([&] {
      while (::waitpid(-1, nullptr, WNOHANG) > 0) {
      }
      return descendants(::getpid(), pid) == 0 && descendants(pid) == 0;
    });
    ::malloc_trim(0);
    own = held_by(::getpid(), pid);
    const auto allocated = ::mallinfo2();
    own.in_use = static_cast<std::int64_t>(allocated.uordblks + allocated.hblkhd);
    gateway = held_by(pid);
    if (!alone)
      std::fprintf(stderr, "soak: processes are left: %d below this one, %d below the gateway\n", own.processes, gateway.processes);
  }
  /// Descriptors that both hold when a first sandbox has come and gone: what a runner makes once, its agent for one, stays.
  void take_base() {
    {
      const LoopManager loop(context_.get_executor());
      for (const auto& options : {daemon_.options(), ClientOptions().with_base_url("local:")}) {
        const auto sandbox = Sandbox::run(Client(ClientOptions(options).with_loop(loop)));
        get(sandbox.wait());
        get(sandbox.stop(StopOptions().with_grace_period(0s)));
      }
    }
    base_own_ = settled(::getpid());
    base_gateway_ = settled(daemon_.pid());
  }
  [[nodiscard]] int base_own() const { return base_own_; }
  [[nodiscard]] int base_gateway() const { return base_gateway_; }
  [[nodiscard]] int cuts() const { return proxy_.cuts(); }
  [[nodiscard]] int websockets() const { return proxy_.websockets(); }
  /// How it ended, as waitpid says it.
  int stop_daemon() { return daemon_.kill(SIGTERM); }

 private:
  /// The fewest descriptors that it holds within a while: connections take a moment to end.
  static int settled(pid_t pid) {
    int fewest = held_by(pid).descriptors;
    static_cast<void>(comes(
        [&] {
          fewest = std::min(fewest, held_by(pid).descriptors);
          return false;
        },
        3s));
    return fewest;
  }

  const std::uint64_t seed_;
  boost::asio::io_context context_;
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_;
  std::vector<std::thread> loop_;
  Daemon daemon_;
  FaultProxy proxy_;
  int base_own_ = 0, base_gateway_ = 0;
};

void say(const char* when, const Holds& own, const Holds& gateway) {
  std::printf("%-12s this process %" PRId64 " KiB (%" PRId64 " in use), %d descriptors, %d processes; gateway %" PRId64
              " KiB, %d descriptors, %d processes\n",
              when, own.resident / 1024, own.in_use / 1024, own.descriptors, own.processes, gateway.resident / 1024,
              gateway.descriptors, gateway.processes);
  std::fflush(stdout);
}

int soak(std::chrono::seconds time, std::uint64_t seed, bool measure_memory) {
  std::printf("soak: %lld s, seed %" PRIu64 "\n", static_cast<long long>(time.count()), seed);
  std::fflush(stdout);
  // Orphans of whatever depth come to us, so that none is missed.
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  TemporaryDirectory directory;
  ::setenv("TMPDIR", directory.path().c_str(), 1);
  ::unsetenv("XDG_RUNTIME_DIR");
  const auto shm = entries("/dev/shm");
  const auto groups = control_groups();
  std::vector<std::string> left;
  const auto check = [&](bool good, const std::string& what) {
    if (!good) left.push_back(what);
  };
  {
    Soak all(seed);
    all.take_base();
    Crew crew(seed);
    Holds own, gateway, own_end, gateway_end;
    all.phase(crew, time / 2, own, gateway);
    say("warmed up:", own, gateway);
    all.phase(crew, time - time / 2, own_end, gateway_end);
    say("at the end:", own_end, gateway_end);
    crew.report();
    std::printf("%" PRIu64 " pieces of work, %d of %d connections broken as planned, %d failures\n", crew.done(), all.cuts(),
                all.websockets(), crew.failures());
    check(crew.failures() == 0, "work failed");
    check(all.cuts() > 0, "no connection was broken");
    for (const auto* holds : {&own, &own_end}) {
      check(holds->processes == 0, "processes of this one");
      check(holds->descriptors <= all.base_own(),
            "descriptors of this process: " + std::to_string(holds->descriptors) + ", at first " + std::to_string(all.base_own()));
    }
    for (const auto* holds : {&gateway, &gateway_end}) {
      check(holds->processes == 0, "processes of the gateway");
      check(holds->descriptors <= all.base_gateway(), "descriptors of the gateway: " + std::to_string(holds->descriptors) +
                                                          ", at first " + std::to_string(all.base_gateway()));
    }
    if (measure_memory) {
      check(own_end.in_use - own.in_use <= kMostInUse, "memory of this process");
      check(own_end.resident - own.resident <= kMostOwnPages, "pages of this process");
      check(gateway_end.resident - gateway.resident <= kMostGrowth, "memory of the gateway");
    }
    const int status = all.stop_daemon();
    check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the gateway ended with status " + std::to_string(status));
  }
  check(::waitpid(-1, nullptr, WNOHANG) == -1 && errno == ECHILD, "a child");
  for (const auto& path : entries(directory.path())) left.push_back("file " + path);
  check(comes([&] { return entries("/dev/shm") == shm; }, 10s), "something in /dev/shm");
  check(comes(
            [&] {
              const auto now = control_groups();
              return std::includes(groups.begin(), groups.end(), now.begin(), now.end());
            },
            10s),
        "control groups");
  for (const auto& what : left) std::printf("left over: %s\n", what.c_str());
  std::printf("%s\n", left.empty() ? "nothing is left over" : "FAILED");
  return left.empty() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  const auto number = [&](int at, std::uint64_t otherwise) { return argc > at ? std::strtoull(argv[at], nullptr, 10) : otherwise; };
  try {
    // Sanitizers keep freed memory for a while: then only their own leak check says something.
    return soak(std::chrono::seconds(number(1, 600)), number(2, std::random_device{}()),
                std::getenv("CWSANDBOX_TEST_PARTS") == nullptr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "soak: %s\n", error.what());
    return 1;
  }
}
