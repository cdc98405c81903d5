#include "support.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

namespace support {

namespace {
[[noreturn]] void fail(const char* what) { throw std::runtime_error(std::string(what) + ": " + std::strerror(errno)); }

pid_t start(const std::vector<std::string>& command, const std::vector<std::string>& env, int in, int out, int err) {
  std::vector<char*> arguments, variables;
  for (const auto& part : command) arguments.push_back(const_cast<char*>(part.c_str()));
  arguments.push_back(nullptr);
  for (char** v = environ; *v; ++v) variables.push_back(*v);
  for (const auto& v : env) variables.push_back(const_cast<char*>(v.c_str()));
  variables.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in, 0);
  posix_spawn_file_actions_adddup2(&actions, out, 1);
  posix_spawn_file_actions_adddup2(&actions, err, 2);
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, arguments[0], &actions, nullptr, arguments.data(), variables.data());
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) errno = error, fail(command[0].c_str());
  return pid;
}
}  // namespace

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  if (!value) throw std::runtime_error(std::string(name) + " is not set: run this through meson test");
  return value;
}

Ran run_program(const std::vector<std::string>& command, const std::string& input, const std::vector<std::string>& env) {
  int in[2], out[2], err[2];
  if (::pipe2(in, O_CLOEXEC) || ::pipe2(out, O_CLOEXEC) || ::pipe2(err, O_CLOEXEC)) fail("pipe2");
  const pid_t pid = start(command, env, in[0], out[1], err[1]);
  ::close(in[0]), ::close(out[1]), ::close(err[1]);
  std::signal(SIGPIPE, SIG_IGN);
  std::thread feeder([&] {
    std::string_view rest = input;
    while (!rest.empty()) {
      const ssize_t n = ::write(in[1], rest.data(), rest.size());
      if (n <= 0) break;
      rest.remove_prefix(static_cast<std::size_t>(n));
    }
    ::close(in[1]);
  });
  Ran ran;
  const auto collect = [](int fd, std::string& into) {
    char buffer[65536];
    for (ssize_t n; (n = ::read(fd, buffer, sizeof buffer)) > 0;) into.append(buffer, static_cast<std::size_t>(n));
    ::close(fd);
  };
  std::thread errors([&] { collect(err[0], ran.err); });
  collect(out[0], ran.out);
  errors.join();
  ::waitpid(pid, &ran.status, 0);
  feeder.join();
  return ran;
}

std::uint64_t part_of(std::uint64_t full, std::uint64_t least) {
  const char* parts = std::getenv("CWSANDBOX_TEST_PARTS");
  return std::max(least, parts ? full / std::max<std::uint64_t>(1, std::strtoull(parts, nullptr, 10)) : full);
}

TemporaryDirectory::TemporaryDirectory() {
  std::string name = "/tmp/cwsandbox-test-XXXXXX";
  if (!::mkdtemp(name.data())) fail("mkdtemp");
  path_ = name;
}
TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}
std::size_t TemporaryDirectory::entries() const {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(path_), std::filesystem::directory_iterator()));
}

// A test that runs for long is not about the memory that this takes.
constexpr std::size_t kKeptLog = 256 * 1024;

struct Daemon::Log {
  std::mutex mutex;
  std::string text;
};

Daemon::Daemon(const std::vector<std::string>& arguments)
    : socket_(directory_.path() + "/socket"), token_("test-token-that-must-not-be-seen"), log_(std::make_shared<Log>()) {
  const std::string file = directory_.path() + "/token";
  std::ofstream(file) << token_ << "\n";
  ::chmod(file.c_str(), 0600);
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  int ready[2];
  if (::pipe2(ready, O_CLOEXEC)) fail("pipe2");
  std::vector<std::string> command{environment("CWSANDBOXD"), "--listen", "unix:" + socket_, "--token-file", file};
  command.insert(command.end(), arguments.begin(), arguments.end());
  pid_ = start(command, {}, null, ready[1], ready[1]);
  ::close(ready[1]);
  ::close(null);
  // Its first words come when it listens.
  std::string words;
  char c = 0;
  while (words.find("listening") == std::string::npos && ::read(ready[0], &c, 1) == 1) words += c;
  if (words.find("listening") == std::string::npos) throw std::runtime_error("cwsandboxd: " + words);
  log_->text = words;
  std::thread([fd = ready[0], log = log_] {
    char buffer[4096];
    for (ssize_t n; (n = ::read(fd, buffer, sizeof buffer)) > 0;) {
      const std::lock_guard lock(log->mutex);
      log->text.append(buffer, static_cast<std::size_t>(n));
      if (log->text.size() > 2 * kKeptLog) log->text.erase(0, log->text.size() - kKeptLog);
    }
    ::close(fd);
  }).detach();
}

std::string Daemon::log() const {
  const std::lock_guard lock(log_->mutex);
  return log_->text;
}

Daemon::~Daemon() { kill(SIGTERM); }

int Daemon::kill(int signal) {
  if (pid_ < 0) return 0;
  int status = 0;
  ::kill(pid_, signal);
  ::waitpid(std::exchange(pid_, -1), &status, 0);
  return status;
}

cwsandbox::ClientOptions Daemon::options() const {
  cwsandbox::ClientOptions options;
  options.with_base_url(url()).with_api_key(token_);
  return options;
}

// ---- Proxy ----

struct Proxy::Impl {
  std::string target;
  TemporaryDirectory directory;
  int listener = -1;
  std::thread thread;
  std::mutex mutex;
  std::condition_variable changed;
  std::map<int, int> pairs;  // both directions
  int to_cut = 0;
  std::atomic<int> cuts{0};
  std::atomic<bool> stop{false};

  int dial(const std::string& path) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
      ::close(fd);
      return -1;
    }
    return fd;
  }

  void serve() {
    struct Half {
      int peer;
      bool from_server;
      bool upgraded = false;  // the answer to the upgrade has passed
    };
    std::map<int, Half> halves;
    const auto drop = [&](int fd) {
      const int peer = halves.at(fd).peer;
      for (const int one : {fd, peer}) {
        halves.erase(one);
        ::close(one);
      }
    };
    while (!stop) {
      std::vector<pollfd> polled{{listener, POLLIN, 0}};
      for (const auto& [fd, half] : halves) polled.push_back({fd, POLLIN, 0});
      if (::poll(polled.data(), polled.size(), 50) < 0) continue;
      {
        const std::lock_guard lock(mutex);
        if (to_cut < 0) {
          while (!halves.empty()) drop(halves.begin()->first);
          to_cut = 0;
          continue;
        }
      }
      for (const auto& one : polled) {
        if (one.revents == 0) continue;
        if (one.fd == listener) {
          const int client = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
          const int server = dial(target);
          if (client < 0 || server < 0) {
            if (client >= 0) ::close(client);
            continue;
          }
          halves[client] = {server, false};
          halves[server] = {client, true};
          continue;
        }
        const auto half = halves.find(one.fd);
        if (half == halves.end()) continue;
        char buffer[65536];
        const ssize_t n = ::read(one.fd, buffer, sizeof buffer);
        if (n <= 0) {
          drop(one.fd);
          continue;
        }
        const std::string_view bytes(buffer, static_cast<std::size_t>(n));
        if (half->second.from_server) {
          if (half->second.upgraded) {
            const std::lock_guard lock(mutex);
            if (to_cut > 0) {
              --to_cut;
              ++cuts;
              drop(one.fd);
              continue;
            }
          } else if (bytes.substr(0, 12) == "HTTP/1.1 101") {
            half->second.upgraded = true;
          }
        }
        for (std::size_t done = 0; done < bytes.size();) {
          const ssize_t written = ::send(half->second.peer, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
          if (written <= 0) break;
          done += static_cast<std::size_t>(written);
        }
      }
    }
    while (!halves.empty()) drop(halves.begin()->first);
  }
};

Proxy::Proxy(const std::string& target) : impl_(std::make_shared<Impl>()) {
  impl_->target = target;
  impl_->listener = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, (impl_->directory.path() + "/proxy").c_str(), sizeof address.sun_path - 1);
  if (::bind(impl_->listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) fail("bind");
  if (::listen(impl_->listener, 16) != 0) fail("listen");
  impl_->thread = std::thread([impl = impl_.get()] { impl->serve(); });
}
Proxy::~Proxy() {
  impl_->stop = true;
  impl_->thread.join();
  ::close(impl_->listener);
}
std::string Proxy::url() const { return "unix:" + impl_->directory.path() + "/proxy"; }
void Proxy::cut_answers(int times) {
  const std::lock_guard lock(impl_->mutex);
  impl_->to_cut = times;
}
int Proxy::cuts() const { return impl_->cuts; }
void Proxy::cut_all() {
  const std::lock_guard lock(impl_->mutex);
  impl_->to_cut = -1;
}

}  // namespace support
