// Files of a local sandbox: what must not get out of it or in, and an agent that lies.
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "room.hpp"
#include "runner/local/local_files.hpp"
#include "support/catch.hpp"

namespace cwsandbox::test {

namespace fs = std::filesystem;
using runner::FileFailed;
using runner::FileInfo;
using runner::Files;
using runner::FileWriteSpec;
using runner::RunnerError;
using runner::local::UniqueFd;

namespace {

FileWriteSpec to(std::string path) {
  FileWriteSpec spec;
  spec.path = std::move(path);
  return spec;
}

struct FileRoom : Room {
  using Room::Room;
  Files& files() { return sandbox->files(); }

  // The errno that it fails with; 0 when it does not.
  template <class Work>
  int error(Work work) {
    try {
      static_cast<void>(run(loop, work()));
    } catch (const FileFailed& failure) {
      return failure.error();
    }
    return 0;
  }
  int open_error(const std::string& path) {
    return error([&] { return files().open(path); });
  }
  int create_error(const std::string& path) {
    return error([&] { return files().create(to(path)); });
  }
  int stat_error(const std::string& path) {
    return error([&] { return files().stat(path, true); });
  }
  int list_error(const std::string& path) {
    return error([&] { return files().list(path); });
  }
  int remove_error(const std::string& path) {
    try {
      run(loop, files().remove(path, true));
    } catch (const FileFailed& failure) {
      return failure.error();
    }
    return 0;
  }
  std::string read(const std::string& path) {
    const auto reader = run(loop, files().open(path));
    std::string text(reader->info().size + 1, '\0');
    const asio::mutable_buffer into(text.data(), text.size());
    text.resize(run(loop, reader->read(0, into)));
    return text;
  }
  void write(const std::string& path, const std::string& text) {
    const auto writer = run(loop, files().create(to(path)));
    run(loop, writer->write(asio::buffer(text)));
    run(loop, writer->commit());
  }
};

// An agent that answers with whatever descriptor it is told to.
class LyingAgent final : public runner::local::FileAgent {
 public:
  explicit LyingAgent(asio::any_io_executor executor) : executor_(std::move(executor)) {}
  std::function<UniqueFd()> make;
  int refused = 0, aborted = 0;
  std::size_t reserved = 0;

  asio::awaitable<Answer> ask(const Question&) override {
    Answer answer;
    answer.fd = make();
    co_return answer;
  }
  asio::awaitable<Answer> commit(std::uint64_t) override {
    Answer answer;
    answer.fd = make();
    co_return answer;
  }
  asio::awaitable<Answer> reserve(std::uint64_t, std::int32_t bytes) override {
    reserved += static_cast<std::size_t>(bytes);
    co_return Answer();
  }
  void abort(std::uint64_t) noexcept override { ++aborted; }
  void refuse() override {
    ++refused;
    throw RunnerError(base::ErrorCode::unavailable, "", "refused");
  }
  const asio::any_io_executor& executor() const noexcept override { return executor_; }
  uid_t uid() const noexcept override { return 1; }
  gid_t gid() const noexcept override { return 1; }

 private:
  asio::any_io_executor executor_;
};

}  // namespace

TEST_CASE("files of the host's and of the agent's are out of reach", "[runner][isolation][files]") {
  char directory[] = "/tmp/cwsandbox-test-XXXXXX";
  REQUIRE(::mkdtemp(directory) != nullptr);
  const std::string secret = std::string(directory) + "/secret";
  std::ofstream(secret) << "of the host";
  {
    FileRoom in;
    const std::string host = std::to_string(::getpid());
    std::vector<std::string> paths = {secret, "../../../../.." + secret, "/proc/" + host + "/root" + secret, "/etc/shadow",
                                      "/proc/" + host + "/environ"};
    for (const char* self : {"/proc/1", "/proc/self", "/proc/thread-self", "/proc/self/task/1"}) {
      for (const char* what : {"/root/etc/passwd", "/root", "/cwd/etc/passwd", "/exe", "/fd/0", "/fd/3", "/fd/4", "/fd/5", "/mem",
                               "/environ", "/maps", "/map_files", "/fd", "/ns/pid"}) {
        paths.push_back(std::string(self) + what);
      }
    }
    const std::size_t count = paths.size();
    for (std::size_t i = 0; i < count; ++i) {
      const std::string link = "/tmp/link" + std::to_string(i);
      REQUIRE(in("ln -s '" + paths[i] + "' " + link).exit.value == 0);
      paths.push_back(link);
    }
    for (const std::string& path : paths) {
      INFO(path);
      CHECK(in.open_error(path) != 0);
      CHECK(in.list_error(path) != 0);
    }
    // Writing may make a file inside, where a dangling link leads to a place of the sandbox's; never outside.
    for (const std::string& path : paths) static_cast<void>(in.create_error(path));
    CHECK(in.open_error("/dev/stdin") != 0);
    CHECK(in.open_error("/dev/fd/3") != 0);
    CHECK(in("echo alive").out == "alive\n");
    for (const auto& entry : fs::directory_iterator(directory)) CHECK(entry.path() == secret);
    std::string text;
    std::ifstream(secret) >> text;
    CHECK(text == "of");
    // What it shares with everybody can be read, whole, though it has no size.
    const std::string memory = in.read("/proc/meminfo");
    CHECK(memory.find("MemTotal:") != std::string::npos);
    CHECK(memory.size() > 500);
    CHECK(in.read("/proc/version") == in("cat /proc/version").out);
    CHECK(in.list_error("/proc") == 0);
  }
  fs::remove_all(directory);
}

TEST_CASE("a path that changes while it is used never blocks, and leads only to regular files", "[runner][isolation][files]") {
  FileRoom in;
  REQUIRE(in("cd /tmp; mkdir keep work; echo kept > keep/file; echo good > regular; mkfifo fifo").exit.value == 0);
  const auto process = run(
      in.loop,
      in.sandbox->start(command(sh("cd /tmp; echo ready; while :; do ln -sfn regular t && mv -T t x; ln -sfn fifo t && mv -T t x; "
                                   "ln -sfn /dev/zero t && mv -T t x; ln -sfn /proc/1/root/etc/passwd t && mv -T t x; "
                                   "ln -sfn keep t && mv -T t x; done"))));
  REQUIRE(run(in.loop, read_line(process->std_out())) == "ready");
  int good = 0;
  for (int i = 0; i < 2000; ++i) {
    try {
      const auto reader = run(in.loop, in.files().open("/tmp/x"));
      CHECK(reader->info().type == runner::FileType::regular);
      std::string text(100, '\0');
      const asio::mutable_buffer into(text.data(), text.size());
      text.resize(run(in.loop, reader->read(0, into)));
      CHECK(text == "good\n");
      ++good;
    } catch (const FileFailed& failure) {
      const int error = failure.error();
      CHECK((error == EINVAL || error == EISDIR || error == ELOOP || error == ENOENT));
    }
  }
  CHECK(good > 0);
  process->signal_group(SIGKILL);
  run(in.loop, wait_exit(*process));

  // A directory that is a symlink to another one half of the time, while the tree above is removed.
  const auto swapping =
      run(in.loop,
          in.sandbox->start(command(sh("cd /tmp; echo ready; while :; do mkdir -p work/sub/deep; touch work/sub/deep/f work/sub/f; "
                                       "mv work/sub other && ln -s /tmp/keep work/sub; rm -rf work/sub other; done 2>/dev/null"))));
  REQUIRE(run(in.loop, read_line(swapping->std_out())) == "ready");
  for (int i = 0; i < 300; ++i) {
    const int error = in.remove_error("/tmp/work");
    CHECK((error == 0 || error == ENOENT || error == ENOTEMPTY));
  }
  swapping->signal_group(SIGKILL);
  run(in.loop, wait_exit(*swapping));
  CHECK(in("cat /tmp/keep/file").out == "kept\n");
}

TEST_CASE("files under way are nobody's descriptors but the gateway's", "[runner][isolation][files]") {
  FileRoom in;
  in.write("/tmp/file", "x");
  const auto reader = run(in.loop, in.files().open("/tmp/file"));
  const auto list = run(in.loop, in.files().list("/tmp"));
  std::vector<std::unique_ptr<runner::FileWriter>> writers;
  for (int i = 0; i < 20; ++i) writers.push_back(run(in.loop, in.files().create(to("/tmp/new" + std::to_string(i)))));
  CHECK(in("i=0; while [ $i -lt 200 ]; do [ -e /proc/$$/fd/$i ] && echo $i; i=$((i+1)); done").out == "0\n1\n2\n");
}

TEST_CASE("who kills the agent's helpers gets an error and nothing else", "[runner][isolation][files]") {
  FileRoom in;
  // It is there before: a process that has not executed its program yet looks like the agent's, and would be killed too.
  auto making =
      command(sh("while read -r go; do mkdir -p /tmp/tree/a; cd /tmp/tree/a; i=0; "
                 "while [ $i -lt 300 ]; do : > $i; i=$((i+1)); done; echo made; done"));
  making.use_stdin = true;
  const auto maker = run(in.loop, in.sandbox->start(making));
  const auto killer = run(
      in.loop, in.sandbox->start(command(sh("echo ready; while :; do for p in /proc/[0-9]*; do read name < $p/comm && "
                                            "[ \"$name\" = cwsandbox-agent ] && kill -KILL ${p#/proc/}; done; done 2>/dev/null"))));
  REQUIRE(run(in.loop, read_line(killer->std_out())) == "ready");
  for (int i = 0; i < 20; ++i) {
    run(in.loop, write_all(*maker->std_in(), "go\n"));
    REQUIRE(run(in.loop, read_line(maker->std_out())) == "made");
    const int error = in.remove_error("/tmp/tree");
    CHECK((error == 0 || error == EIO));
    const int opened = in.open_error("/proc/version");
    CHECK((opened == 0 || opened == EIO));
  }
  killer->signal_group(SIGKILL);
  run(in.loop, wait_exit(*killer));
  CHECK(in.open_error("/proc/version") == 0);
}

TEST_CASE("nothing of a file operation stays open", "[runner][files]") {
  const auto open_here = [] { return std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator()); };
  FileRoom in;
  in.write("/tmp/file", "x");
  const auto before = open_here();
  for (int i = 0; i < 400; ++i) {  // in all more than the agent may have open
    in.write("/tmp/file", std::to_string(i));
    CHECK(in.read("/tmp/file") == std::to_string(i));
    CHECK(in.stat_error("/tmp") == 0);
    CHECK(in.list_error("/tmp") == 0);
    CHECK(in.open_error("/tmp") == EISDIR);
    CHECK(in.create_error("/dev/null") == EINVAL);
    CHECK(in.create_error("/tmp/given-up") == 0);
  }
  for (int i = 0; i < 50; ++i) {
    REQUIRE(in("mkdir -p /tmp/tree/a/b; touch /tmp/tree/a/b/c").exit.value == 0);
    CHECK(in.remove_error("/tmp/tree") == 0);
    CHECK_FALSE(in.read("/proc/version").empty());
  }
  CHECK(open_here() == before);
  CHECK(in("ls -A /tmp; cat /proc/[0-9]*/comm | grep -c cwsandbox-agent").out == "file\n1\n");  // no worker either
}

TEST_CASE("what a watch has no room for is missing, and it says so", "[runner][files][FI-17]") {
  FileRoom in;
  std::ifstream limit("/proc/sys/fs/inotify/max_queued_events");
  int most = 0;
  REQUIRE(limit >> most);
  REQUIRE(in("mkdir /tmp/d").exit.value == 0);
  const auto open_here = [] { return std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator()); };
  const auto before = open_here();
  {
    const auto watch = run(in.loop, in.files().watch("/tmp/d"));
    // Twice as many as the kernel keeps; nobody takes any meanwhile.
    REQUIRE(in("cd /tmp/d; i=0; while [ $i -lt " + std::to_string(most) + " ]; do : >f$i; i=$((i+1)); done").exit.value == 0);
    int told = 0;
    bool overflow = false;
    while (!overflow) {
      const auto events = run(in.loop, watch->next(std::chrono::steady_clock::now() + std::chrono::seconds(60)));
      REQUIRE_FALSE(events.empty());
      CHECK(events.size() <= 1024);
      for (const auto& event : events) {
        overflow = event.kind == runner::FileEvent::Kind::overflow;
        told += overflow ? 0 : 1;
      }
    }
    CHECK(told == most);
    REQUIRE(in("mkdir /tmp/d/after").exit.value == 0);
    const auto events = run(in.loop, watch->next(std::chrono::steady_clock::now() + std::chrono::seconds(60)));
    REQUIRE(events.size() == 1);
    CHECK(events[0].name == "after");
  }
  CHECK(open_here() == before);
}

TEST_CASE("a file that has left is told also when nothing else happens", "[runner][files][FI-16]") {
  FileRoom in;
  REQUIRE(in("mkdir /tmp/d /tmp/e; touch /tmp/d/f").exit.value == 0);
  const auto watch = run(in.loop, in.files().watch("/tmp/d"));
  REQUIRE(in("mv /tmp/d/f /tmp/e").exit.value == 0);
  const auto events = run(in.loop, watch->next(std::chrono::steady_clock::now() + std::chrono::seconds(60)));
  REQUIRE(events.size() == 1);
  CHECK(events[0].kind == runner::FileEvent::Kind::moved_out);
  CHECK(events[0].name == "f");
}

TEST_CASE("a full place is an error, and the old file stays", "[runner][files][FI-6]") {
  runner::local::LocalRunnerOptions options;
  options.limits.disk = 1 << 20;
  FileRoom in(options);
  in.write("/tmp/file", "old");
  const std::string large(3 << 20, 'x');
  {
    const auto writer = run(in.loop, in.files().create(to("/tmp/file")));
    int error = 0;
    try {
      run(in.loop, writer->write(asio::buffer(large)));
    } catch (const FileFailed& failure) {
      error = failure.error();
      CHECK(failure.path() == "/tmp/file");
      CHECK(std::string(failure.what()).find("ENOSPC") != std::string::npos);
    }
    CHECK(error == ENOSPC);
    error = 0;
    try {
      run(in.loop, writer->commit());  // half a file is none
    } catch (const FileFailed& failure) {
      error = failure.error();
    }
    CHECK(error == ENOSPC);
  }
  CHECK(in.read("/tmp/file") == "old");
  CHECK(in("ls -A /tmp").out == "file\n");
  in.write("/tmp/file", "new");
  CHECK(in.read("/tmp/file") == "new");

  auto spec = sandbox_spec();
  spec.files.push_back({"/workspace/fits", "x"});
  spec.files.push_back({"/workspace/too-large", large});
  std::string path;
  try {
    run(in.loop, in.runner->create(spec));
  } catch (const FileFailed& failure) {
    path = failure.path();
    CHECK(failure.error() == ENOSPC);
  }
  CHECK(path == "/workspace/too-large");
}

TEST_CASE("a file may be larger than a turn of the loop, which goes on meanwhile", "[runner][files][FI-3]") {
  FileRoom in;
  const std::string data(40 << 20, 'd');
  const auto writer = run(in.loop, in.files().create(to("/tmp/large")));
  int others = 0;
  bool done = false;
  std::function<void()> tick = [&] {
    ++others;
    if (!done) asio::post(in.loop, tick);
  };
  asio::post(in.loop, tick);
  run(in.loop, writer->write(asio::buffer(data)));
  done = true;
  CHECK(others >= 39);
  run(in.loop, writer->commit());
  CHECK(in("stat -c %s /tmp/large").out == std::to_string(data.size()) + "\n");
}

TEST_CASE("nobody in the sandbox can open a file that is being written", "[runner][isolation][files][FI-15]") {
  FileRoom in;
  in.write("/tmp/old", "old");
  const std::string content(100'000, 'n');
  for (const char* name : {"/tmp/new", "/tmp/old"}) {
    INFO(name);
    const auto writer = run(in.loop, in.files().create(to(name)));
    run(in.loop, writer->write(asio::buffer(content)));
    // No name, and no process that lets others look at what it has open.
    CHECK(in("ls -A /tmp").out == (std::string(name) == "/tmp/new" ? "old\n" : "new\nold\n"));
    CHECK(in("cat /tmp/old").out == "old");
    CHECK(in("for p in /proc/[0-9]*; do ls -l $p/fd 2>/dev/null | grep deleted; done").out.empty());
    run(in.loop, writer->commit());
    CHECK(in(std::string("wc -c < ") + name).out == "100000\n");
  }
  CHECK(in("ls -A /tmp").out == "new\nold\n");
  {
    const auto given_up = run(in.loop, in.files().create(to("/tmp/old")));
    run(in.loop, given_up->write(asio::buffer(content)));
  }
  CHECK(in("ls -A /tmp; stat -c %s /tmp/old").out == "new\nold\n100000\n");
}

TEST_CASE("a file whose lock somebody holds holds up its own calls and nothing else", "[runner][files][FI-15]") {
  // A write whose bytes are in a page that nobody gives: it waits for them with the file's lock in its hands.
  const UniqueFd faults(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC)));
  if (!faults) {
    WARN("SKIPPED: this process may not hold a page back (userfaultfd)");
    return;
  }
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  void* const held = ::mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(held != MAP_FAILED);
  uffdio_api api{};
  api.api = UFFD_API;
  REQUIRE(::ioctl(faults.get(), UFFDIO_API, &api) == 0);
  uffdio_register range{};
  range.range.start = reinterpret_cast<std::uintptr_t>(held);
  range.range.len = page;
  range.mode = UFFDIO_REGISTER_MODE_MISSING;
  REQUIRE(::ioctl(faults.get(), UFFDIO_REGISTER, &range) == 0);
  const UniqueFd file(static_cast<int>(::syscall(SYS_memfd_create, "test", 0x0001u)));
  REQUIRE(static_cast<bool>(file));

  FileRoom in;
  const auto agent = std::make_shared<LyingAgent>(in.loop.get_executor());
  agent->make = [&file] { return UniqueFd(::fcntl(file.get(), F_DUPFD_CLOEXEC, 3)); };
  const std::unique_ptr<Files> files = runner::local::make_local_files(agent);
  const auto writer = run(in.loop, files->create(to("x")));
  ssize_t held_written = 0;
  std::thread holder([&] { held_written = ::pwrite(file.get(), held, page, 0); });
  uffd_msg fault{};
  CHECK(::read(faults.get(), &fault, sizeof fault) == static_cast<ssize_t>(sizeof fault));  // it waits

  bool written = false;
  const std::string text(100'000, 'b');  // more than an agent takes memory for at once
  const auto write = [&]() -> asio::awaitable<void> {
    co_await writer->write(asio::buffer(text));
    written = true;
  };
  asio::co_spawn(in.loop, write, asio::detached);
  // Others do what they like meanwhile, on the same loop.
  in.write("/tmp/other", "other");
  CHECK(in.read("/tmp/other") == "other");
  CHECK(in.list_error("/tmp") == 0);
  CHECK(in("cat /tmp/other").out == "other");
  CHECK_FALSE(written);
  uffdio_zeropage give{};
  give.range = range.range;
  CHECK(::ioctl(faults.get(), UFFDIO_ZEROPAGE, &give) == 0);
  run_until(in.loop, [&written] { return written; });
  holder.join();
  CHECK(held_written == static_cast<ssize_t>(page));
  CHECK(written);
  CHECK(agent->reserved + runner::local::agent::kFirstReserved == text.size());
  ::munmap(held, page);
}

TEST_CASE("an agent's descriptors are taken only when they cannot hurt", "[runner][agent][files]") {
  asio::io_context loop;
  const auto agent = std::make_shared<LyingAgent>(loop.get_executor());
  const std::unique_ptr<Files> files = runner::local::make_local_files(agent);
  const auto refused = [&](auto work) {
    const int before = agent->refused;
    try {
      static_cast<void>(run(loop, work()));
    } catch (const RunnerError&) {
    }
    return agent->refused == before + 1;
  };
  const auto opened = [](const char* path, int flags) { return [=] { return UniqueFd(::open(path, flags | O_CLOEXEC)); }; };
  const auto a_pipe = [] {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return UniqueFd();
    ::close(ends[1]);
    return UniqueFd(ends[0]);
  };
  char name[] = "/tmp/cwsandbox-test-XXXXXX";
  const UniqueFd file(::mkstemp(name));
  const std::vector<std::function<UniqueFd()>> bad = {[] { return UniqueFd(); },
                                                      a_pipe,
                                                      opened("/dev/zero", O_RDWR),
                                                      opened("/", O_RDONLY),
                                                      opened("/proc/self/maps", O_RDONLY),
                                                      opened("/proc/self/mem", O_RDWR),
                                                      opened(name, O_PATH),
                                                      [] { return UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)); }};
  for (const auto& make : bad) {
    agent->make = make;
    CHECK(refused([&] { return files->open("x"); }));
    CHECK(refused([&] { return files->create(to("x")); }));
  }
  agent->make = opened(name, O_WRONLY);
  CHECK(refused([&] { return files->open("x"); }));
  agent->make = opened(name, O_RDONLY);
  CHECK(refused([&] { return files->create(to("x")); }));
  CHECK_FALSE(refused([&] { return files->open("x"); }));
  CHECK(refused([&] { return files->list("x"); }));
  agent->make = a_pipe;
  CHECK(refused([&] { return files->list("x"); }));
  for (const auto& make : bad) {
    agent->make = make;
    CHECK(refused([&] { return files->watch("x"); }));
  }
  agent->make = [] { return UniqueFd(::inotify_init1(IN_CLOEXEC)); };  // whose read would wait
  CHECK_FALSE(refused([&] { return files->watch("x"); }));
  agent->make = [] { return UniqueFd(); };
  CHECK(refused([&] { return files->stat("x", true); }));
  CHECK(agent->aborted == 0);
  ::unlink(name);
}

}  // namespace cwsandbox::test
