#include "pod_room.hpp"

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/system/system_error.hpp>

#include <fcntl.h>
#include <grp.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <utility>

#include "room.hpp"

namespace cwsandbox::test {

using runner::RunnerError;
using runner::local::UniqueFd;
using runner::remote::Link;

namespace {

constexpr unsigned kNobody = 65534;

struct Pipe {
  UniqueFd read, write;
  Pipe() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
    read.reset(fds[0]);
    write.reset(fds[1]);
  }
};

int wait_for(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Into the namespaces of `pid`. Those of a container belong to the first user namespace that bubblewrap made, in which its second
// one lies.
bool enter_namespaces(pid_t pid) {
  const std::string directory = "/proc/" + std::to_string(pid) + "/ns/";
  const auto open = [&directory](const char* name) { return UniqueFd(::open((directory + name).c_str(), O_RDONLY | O_CLOEXEC)); };
  const UniqueFd net = open("net"), processes = open("pid"), mounts = open("mnt"), user = open("user");
  const UniqueFd owner(::ioctl(net.get(), NS_GET_USERNS));
  return ::setns(owner.get(), CLONE_NEWUSER) == 0 && ::setns(net.get(), CLONE_NEWNET) == 0 &&
         ::setns(processes.get(), CLONE_NEWPID) == 0 && ::setns(mounts.get(), CLONE_NEWNS) == 0 &&
         ::setns(user.get(), CLONE_NEWUSER) == 0;
}

// `fds` become 0, 1, 2, …; -1 is /dev/null. Never as root, whose user is the one that owns what is closed to others. Inside the
// namespaces of `where`, when there is one, as a process that has no parent there.
pid_t spawn(const std::vector<std::string>& words, const std::vector<int>& fds, pid_t where = 0) {
  std::vector<char*> argv;
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  constexpr int kApart = 100;  // beyond all that they become
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (std::size_t i = 0; i < fds.size(); ++i) ::dup2(fds[i] < 0 ? null : fds[i], kApart + static_cast<int>(i));
  for (std::size_t i = 0; i < fds.size(); ++i) ::dup2(kApart + static_cast<int>(i), static_cast<int>(i));
  ::close_range(static_cast<unsigned>(fds.size()), ~0u, 0);
  if (::geteuid() == 0 && (::setgroups(0, nullptr) != 0 || ::setresgid(kNobody, kNobody, kNobody) != 0 ||
                           ::setresuid(kNobody, kNobody, kNobody) != 0)) {
    ::_exit(126);
  }
  if (where > 0) {
    if (!enter_namespaces(where)) ::_exit(125);
    if (const pid_t inner = ::fork(); inner != 0) {
      ::close_range(0, ~0u, 0);  // they are the inner one's
      ::_exit(inner < 0 ? 125 : wait_for(inner));
    }
  }
  ::signal(SIGPIPE, SIG_DFL);
  if (::chdir("/") != 0) ::_exit(126);
  char* env[] = {const_cast<char*>("PATH=/usr/bin:/bin:/usr/sbin:/sbin"), nullptr};
  ::execvpe(argv[0], argv.data(), env);
  ::_exit(127);
}

std::string read_to_end(int fd) {
  std::string text;
  std::array<char, 4096> part;
  for (ssize_t n = 0; (n = ::read(fd, part.data(), part.size())) > 0;) text.append(part.data(), static_cast<std::size_t>(n));
  return text;
}

// In memory, because the user who starts it may not get to where it was built.
UniqueFd program() {
  const char* path = std::getenv("CWSANDBOX_POD_AGENT");
  const std::string bytes = path != nullptr ? content_of(path) : std::string();
  if (bytes.empty()) throw std::runtime_error("CWSANDBOX_POD_AGENT must name the program of lib/runner/pod");
  UniqueFd file(::memfd_create("agent", MFD_CLOEXEC));
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t n = ::write(file.get(), bytes.data() + done, bytes.size() - done);
    if (n <= 0) throw std::runtime_error("no memory for the program");
    done += static_cast<std::size_t>(n);
  }
  ::lseek(file.get(), 0, SEEK_SET);
  return file;
}

// The gateway's end of what pods/exec carries.
class PipeLink final : public Link {
 public:
  PipeLink(const asio::any_io_executor& executor, UniqueFd in, UniqueFd out, pid_t relay)
      : in_(executor, in.release()), out_(executor, out.release()), relay_(relay) {
    in_.non_blocking(true);
    out_.non_blocking(true);
    ::signal(SIGPIPE, SIG_IGN);  // of one that was killed
  }
  PipeLink(const PipeLink&) = delete;
  PipeLink& operator=(const PipeLink&) = delete;
  ~PipeLink() override {
    close();
    wait_for(relay_);  // it goes when nobody can write to it any more
  }
  asio::awaitable<std::string_view> read() override {
    boost::system::error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    auto some = in_.async_read_some(asio::buffer(buffer_), token);
    const std::size_t n = co_await std::move(some);
    if (ec && ec != asio::error::eof) throw boost::system::system_error(ec);
    co_return std::string_view(buffer_.data(), n);
  }
  asio::awaitable<void> write(std::string_view head, std::string_view body) override {
    const std::array<asio::const_buffer, 2> all{asio::buffer(head), asio::buffer(body)};
    auto done = asio::async_write(out_, all, asio::use_awaitable);
    co_await std::move(done);
  }
  void close() noexcept override {
    boost::system::error_code ignored;
    in_.close(ignored);
    out_.close(ignored);
  }

 private:
  asio::posix::stream_descriptor in_, out_;
  pid_t relay_;
  std::array<char, 64 << 10> buffer_;
};

asio::awaitable<std::unique_ptr<Link>> dial_once(std::shared_ptr<PodContainer> container, asio::any_io_executor executor) {
  auto link = container->connect(executor);
  co_return link;
}

asio::awaitable<std::unique_ptr<runner::Sandbox>> create_in(asio::any_io_executor executor, std::shared_ptr<PodContainer> container,
                                                            runner::SandboxSpec spec) {
  auto sandbox = remote_sandbox(executor, std::move(container));
  auto made = sandbox->create(std::move(spec));
  co_await std::move(made);
  co_return sandbox;
}

}  // namespace

PodContainer::PodContainer(std::vector<std::string> arguments) {
  directory_ = (std::filesystem::temp_directory_path() / "cwsandbox-pod-XXXXXX").string();
  if (::mkdtemp(directory_.data()) == nullptr) throw std::runtime_error("no directory");
  const std::string log = directory_ + "/termination-log";
  UniqueFd(::open(log.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0666));
  ::chmod(directory_.c_str(), 0755);
  ::chmod(log.c_str(), 0666);
  // What containers have: a system that cannot be written, some places that can.
  std::vector<std::string> words{"bwrap", "--die-with-parent", "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc"};
  const auto add = [&words](std::initializer_list<const char*> more) { words.insert(words.end(), more.begin(), more.end()); };
  add({"--as-pid-1", "--cap-drop", "ALL", "--uid", "1000", "--gid", "1000", "--proc", "/proc", "--dev", "/dev"});
  for (const char* path :
       {"/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/passwd", "/etc/group", "/etc/alternatives", "/etc/ld.so.cache"}) {
    std::error_code ec;
    const auto target = std::filesystem::read_symlink(path, ec);
    if (!ec) {
      words.insert(words.end(), {"--symlink", target.string(), path});
    } else if (std::filesystem::exists(path)) {
      words.insert(words.end(), {"--ro-bind", path, path});
    }
  }
  add({"--tmpfs", "/tmp", "--tmpfs", "/workspace", "--dir", "/home", "--tmpfs", "/home/sandbox", "--perms", "0755"});
  add({"--ro-bind-data", "3", kAgentInPod});
  words.insert(words.end(), {"--bind", log, "/dev/termination-log", "--info-fd", "4", "--remount-ro", "/", "--", kAgentInPod,
                             "serve", "--key", kPodKey});
  words.insert(words.end(), arguments.begin(), arguments.end());
  const UniqueFd agent = program();
  Pipe info;
  bwrap_ = spawn(words, {-1, -1, 2, agent.get(), info.write.get()});
  info.write.reset();
  const std::string told = read_to_end(info.read.get());
  const std::size_t at = told.find("\"child-pid\": ");
  if (at == std::string::npos) throw std::runtime_error("bubblewrap made no container: " + told);
  first_ = static_cast<pid_t>(std::atoi(told.c_str() + at + 13));
}

PodContainer::~PodContainer() {
  if (bwrap_ > 0) {
    ::kill(bwrap_, SIGKILL);
    wait_for(bwrap_);
  }
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

std::unique_ptr<Link> PodContainer::connect(const asio::any_io_executor& executor) const {
  Pipe to, from;
  const pid_t relay = spawn({kAgentInPod, "connect"}, {to.read.get(), from.write.get(), -1}, first_);
  return std::make_unique<PipeLink>(executor, std::move(from.read), std::move(to.write), relay);
}

Finished PodContainer::enter(const std::vector<std::string>& command) const {
  Pipe out, err;
  const pid_t pid = spawn(command, {-1, out.write.get(), err.write.get()}, first_);
  out.write.reset();
  err.write.reset();
  Finished finished;
  finished.out = read_to_end(out.read.get());
  finished.err = read_to_end(err.read.get());
  finished.code = wait_for(pid);
  return finished;
}

void PodContainer::wait_until_served() const {
  const auto deadline = std::chrono::steady_clock::now() + kHang;
  while (enter({"/bin/grep", "-q", "@cwsandbox-agent", "/proc/net/unix"}).code != 0) {
    if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error("the container does not come up");
  }
}

void PodContainer::signal(int number) const { ::kill(first_, number); }

int PodContainer::wait() { return wait_for(std::exchange(bwrap_, -1)); }

std::string PodContainer::termination_message() const { return content_of(directory_ + "/termination-log"); }

std::unique_ptr<runner::remote::RemoteSandbox> remote_sandbox(const asio::any_io_executor& executor,
                                                              std::shared_ptr<PodContainer> container, std::string key) {
  static std::atomic<unsigned> sessions{0};
  runner::remote::RemoteOptions options;
  options.session = "test-" + std::to_string(::getpid()) + "-" + std::to_string(++sessions);
  options.key = std::move(key);
  auto dial = [executor, container = std::move(container)] { return dial_once(container, executor); };
  return runner::remote::RemoteSandbox::make(executor, std::move(dial), std::move(options));
}

asio::awaitable<std::unique_ptr<runner::Sandbox>> PodTestRunner::create(runner::SandboxSpec spec) {
  containers_.push_back(std::make_shared<PodContainer>());
  return create_in(executor_, containers_.back(), std::move(spec));
}

}  // namespace cwsandbox::test
