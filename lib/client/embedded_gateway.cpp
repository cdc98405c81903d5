// Glue: the only file of this room that knows the gateway and the local runner.
#include "client/embedded_gateway.hpp"

#include "base/descriptor_limit.hpp"
#include "base/random.hpp"
#include "client/rpc.hpp"
#include "gateway/gateway.hpp"
#include "gateway/nameless_file.hpp"
#include "runner/local/local_runner.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/post.hpp>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string_view>

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace cwsandbox::client {

namespace {

// What the start of a sandbox takes for a moment (32 to bubblewrap at most), with the gateway's own and a few connections.
constexpr std::size_t kDescriptors = 48;
constexpr const char kSocketName[] = "/gateway.sock";
constexpr const char kLockName[] = "/lock";
constexpr const char kNewLockName[] = "/lock.new";

/// A directory that only we may enter; removed with its socket. Its owner holds a lock on a file in it for as long as it lives, so
/// that what one leaves behind that was killed can be told, and is removed by the next.
class PrivateDirectory {
 public:
  PrivateDirectory() : owner_(::getpid()) {
    for (const char* variable : {"XDG_RUNTIME_DIR", "TMPDIR"}) {
      const char* value = std::getenv(variable);
      if (value && *value == '/' && make(value)) return;
    }
    if (!make("/tmp"))
      throw SandboxUnavailableError(
          std::string("Cannot make a directory for the local gateway's socket in XDG_RUNTIME_DIR, TMPDIR or /tmp: ") +
          std::strerror(errno));
  }
  ~PrivateDirectory() { remove(); }
  PrivateDirectory(const PrivateDirectory&) = delete;
  PrivateDirectory& operator=(const PrivateDirectory&) = delete;

  [[nodiscard]] const std::string& socket() const noexcept { return socket_; }
  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  void remove() noexcept {
    if (path_.empty() || owner_ != ::getpid()) return;  // the child of a fork: the parent still uses it
    empty(path_);
    if (lock_ >= 0) ::close(lock_);
    path_.clear();
  }

 private:
  bool make(const std::string& parent) {
    std::string name = parent + "/cwsandbox-XXXXXX";
    // Longer than this and no socket can be bound there.
    if (name.size() + sizeof kSocketName > sizeof(sockaddr_un::sun_path)) return false;
    remove_left_behind(parent);
    if (!::mkdtemp(name.data())) return false;  // mode 0700
    path_ = name;
    socket_ = path_ + kSocketName;
    // It appears under its name with the lock on it: whoever finds it free knows that nobody is there.
    const std::string fresh = path_ + kNewLockName;
    lock_ = ::open(fresh.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (lock_ >= 0 && ::flock(lock_, LOCK_EX | LOCK_NB) == 0) ::rename(fresh.c_str(), (path_ + kLockName).c_str());
    return true;
  }

  static void empty(const std::string& path) noexcept {
    for (const char* name : {kSocketName, kNewLockName, kLockName}) ::unlink((path + name).c_str());
    ::rmdir(path.c_str());
  }

  static void remove_left_behind(const std::string& parent) {
    const std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(parent.c_str()), &::closedir);
    if (!directory) return;
    while (const dirent* entry = ::readdir(directory.get())) {
      const std::string_view name = entry->d_name;
      if (name.size() != std::strlen("cwsandbox-XXXXXX") || name.substr(0, 10) != "cwsandbox-") continue;
      const std::string path = parent + "/" + entry->d_name;
      struct stat info{};
      if (::lstat(path.c_str(), &info) != 0 || !S_ISDIR(info.st_mode) || info.st_uid != ::geteuid() || (info.st_mode & 077) != 0)
        continue;
      const int lock = ::open((path + kLockName).c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
      if (lock < 0) continue;
      if (::flock(lock, LOCK_EX | LOCK_NB) == 0) empty(path);
      ::close(lock);
    }
  }

  int lock_ = -1;
  pid_t owner_;
  std::string path_, socket_;
};

/// Where the gateway keeps output: the first of these places in which it can. The last is one that we have made.
std::string log_directory(const std::string& own) {
  const char* variable = std::getenv("TMPDIR");
  for (const std::string& directory : {std::string(variable != nullptr && *variable == '/' ? variable : ""), std::string("/tmp")}) {
    if (directory.empty()) continue;
    const int file = gateway::open_nameless(directory);
    if (file < 0) continue;
    ::close(file);
    return directory;
  }
  return own;
}

/// Everything that must be touched on the gateway's executor only.
struct Running : std::enable_shared_from_this<Running> {
  Running(const LoopManager& loop, asio::any_io_executor ex)
      : executor(std::move(ex)), token(base::random_hex(32)), listening(loop), stopped(loop) {}

  PrivateDirectory directory;
  asio::any_io_executor executor;
  std::string token;
  std::unique_ptr<gateway::Gateway> gateway;
  bool stopping = false;
  task_source<void> listening, stopped;

  void start() {
    if (stopping) return;
    try {
      if (const std::string lack = base::lack_of_descriptors(kDescriptors); !lack.empty()) throw std::runtime_error(lack);
      gateway::GatewayOptions options;
      options.tokens.push_back(token);
      options.log_directory = log_directory(directory.path());
      gateway = std::make_unique<gateway::Gateway>(executor, runner::local::make_local_runner(executor), std::move(options));
      net::ListenAddress address;
      address.is_unix = true;
      address.path = directory.socket();
      static_cast<void>(gateway->listen(address));
      listening.set_value();
    } catch (const std::exception& error) {
      gateway.reset();
      listening.set_exception(
          std::make_exception_ptr(SandboxUnavailableError(std::string("The local gateway cannot start: ") + error.what())));
    }
  }

  static asio::awaitable<void> end(std::shared_ptr<Running> self) {
    try {
      // Whoever still wanted these sandboxes has gone: a second for their traps, then SIGKILL.
      if (self->gateway) co_await self->gateway->stop(std::chrono::seconds(1));
    } catch (...) {  // what could not end in good order is dropped below
    }
    self->gateway.reset();
    self->directory.remove();
    self->stopped.set_value();
  }
  void stop() {
    if (std::exchange(stopping, true)) return;
    listening.set_exception(std::make_exception_ptr(SandboxUnavailableError("The local gateway has been stopped")));
    asio::co_spawn(executor, end(shared_from_this()), [](std::exception_ptr) {});
  }
};

class Embedded final : public EmbeddedGateway {
 public:
  explicit Embedded(const LoopManager& loop)
      : running_(std::make_shared<Running>(loop, loop.adopted() ? loop.make_strand() : loop.executor())) {
    // Not from in here: whoever makes it holds locks.
    asio::post(running_->executor, [running = running_] { running->start(); });
  }
  ~Embedded() override {
    try {
      static_cast<void>(stop());
    } catch (...) {  // the loop has ended, and with it everything that ran on it
    }
  }
  Embedded(const Embedded&) = delete;
  Embedded& operator=(const Embedded&) = delete;

  const std::string& socket_path() const noexcept override { return running_->directory.socket(); }
  const std::string& token() const noexcept override { return running_->token; }
  task<void> ready() const override { return running_->listening.get_task(); }
  task<void> stop() override {
    asio::dispatch(running_->executor, [running = running_] { running->stop(); });
    return running_->stopped.get_task();
  }

 private:
  std::shared_ptr<Running> running_;
};

}  // namespace

std::shared_ptr<EmbeddedGateway> EmbeddedGateway::get(const LoopManager& loop) {
  // Never destroyed: objects with static lifetime may still use it. Entries of loops that are gone are dropped on the way.
  static auto& mutex = *new std::mutex;
  static auto& gateways = *new std::map<const detail::Loop*, std::weak_ptr<EmbeddedGateway>>;
  const std::lock_guard lock(mutex);
  std::erase_if(gateways, [](const auto& entry) { return entry.second.expired(); });
  auto& entry = gateways[loop.loop().get()];
  auto gateway = entry.lock();
  if (!gateway) {
    gateway = std::make_shared<Embedded>(loop);
    entry = gateway;
  }
  return gateway;
}

}  // namespace cwsandbox::client
