#include "runner/pod/serve.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <fcntl.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <system_error>
#include <utility>

#include "base/descriptor_limit.hpp"
#include "runner/local/agent/agent.hpp"
#include "runner/local/unique_fd.hpp"
#include "runner/pod/pod_runner.hpp"
#include "runner/pod/relay_listener.hpp"
#include "runner/remote/sandbox_server.hpp"

namespace cwsandbox::runner::pod {

namespace {

constexpr const char* kTerminationLog = "/dev/termination-log";  // what the kubelet shows in the container's status
constexpr int kNobodyKnows = 255;
// Its loop and its agent, a gateway that comes with some links, and a few processes with their pipes at both ends.
constexpr std::size_t kDescriptors = 64;
// For those who have not seen the end when the pod is being deleted, or when there was no beginning.
constexpr std::chrono::seconds kShortFarewell{8};
// Beyond what the server itself waits for.
constexpr std::chrono::seconds kFarewellSlack{30};

[[nodiscard]] int exit_code(const ExitInfo& exit) {
  switch (exit.kind) {
    case ExitInfo::Kind::exited:
      return exit.value;
    case ExitInfo::Kind::signaled:
      return 128 + exit.value;
    case ExitInfo::Kind::lost:
      break;
  }
  return kNobodyKnows;
}

[[nodiscard]] const char* kind_name(ExitInfo::Kind kind) {
  return kind == ExitInfo::Kind::exited ? "exited" : kind == ExitInfo::Kind::signaled ? "signaled" : "lost";
}

// Where there is such a file: a container engine without Kubernetes makes none.
void write_termination_message(const ExitInfo& exit) {
  const local::UniqueFd file(::open(kTerminationLog, O_WRONLY | O_TRUNC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (!file) return;
  const auto since = std::chrono::duration_cast<std::chrono::milliseconds>(exit.time.time_since_epoch());
  ::dprintf(file.get(),
            R"({"kind":"%s","value":%d%s,"timeMs":%lld})"
            "\n",
            kind_name(exit.kind), exit.value, exit.out_of_memory ? R"(,"oom":true)" : "", static_cast<long long>(since.count()));
}

// What the sandbox's programs write goes to whoever reads it, and what is wrong with PID 1 itself to the container's log.
class Log {
 public:
  Log() : fd_(::fcntl(2, F_DUPFD_CLOEXEC, 3)) {}
  void operator()(const std::string& line) const {
    if (fd_) ::dprintf(fd_.get(), "cwsandbox-agent: %s\n", line.c_str());
  }

 private:
  local::UniqueFd fd_;
};

class FirstProcess {
 public:
  FirstProcess(ServeOptions options, std::shared_ptr<Log> log)
      : options_(std::move(options)),
        listening_(listen_for_relays()),
        runner_(loop_.get_executor()),
        server_(loop_.get_executor(), runner_, server_options(options_, std::move(log))),
        listener_(loop_.get_executor(), std::move(listening_),
                  [this](std::unique_ptr<remote::Link> link) { server_.accept(std::move(link)); }),
        terminate_(loop_.get_executor(), termination_signal()) {}

  int run() {
    asio::co_spawn(loop_, watch_signal(), asio::detached);
    begin_.expires_after(options_.begin_deadline);
    begin_.async_wait([this](const error_code&) { runner_.end_unless_begun(); });
    std::exception_ptr error;
    auto ended = [this, &error](std::exception_ptr e) {
      error = e;
      loop_.stop();
    };
    asio::co_spawn(loop_, live(), ended);
    loop_.run();
    if (error) std::rethrow_exception(error);
    return exit_code(runner_.exit());
  }

 private:
  static remote::ServerOptions server_options(const ServeOptions& options, std::shared_ptr<Log> log) {
    remote::ServerOptions given;
    given.key = options.key;
    given.max_grace = options.session_grace;
    given.log = [log = std::move(log)](const std::string& line) { (*log)(line); };
    return given;
  }

  // It is blocked, as all of them are, and stays at its default: PID 1 gets only what it waits for, and the processes that are
  // being started have no handler of ours.
  static int termination_signal() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    const int fd = ::signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (fd < 0) throw std::system_error(errno, std::generic_category(), "cannot wait for signals");
    return fd;
  }

  asio::awaitable<void> watch_signal() {
    auto asked = terminate_.async_wait(asio::posix::stream_descriptor::wait_read, asio::use_awaitable);
    co_await std::move(asked);
    deleted_ = true;
    limit_.cancel();
    auto stopped = runner_.stop(options_.stop_grace);
    co_await std::move(stopped);
  }

  asio::awaitable<void> live() {
    auto ended = runner_.wait_ended();
    co_await std::move(ended);
    const ExitInfo exit = runner_.exit();
    write_termination_message(exit);
    bool all_seen = false;
    auto seen = [this, &all_seen](const std::exception_ptr&, const ExitInfo&) {
      all_seen = true;
      limit_.cancel();
    };
    asio::co_spawn(loop_, server_.finished(), seen);
    const auto now = std::chrono::steady_clock::now();
    const auto longest = now + options_.session_grace + kFarewellSlack;
    const auto shortest = now + kShortFarewell;
    error_code ignored;
    auto token = asio::redirect_error(asio::use_awaitable, ignored);
    for (;;) {
      // Nobody has anything to see when there was no beginning; and who deletes the pod does not wait for long.
      const auto until = deleted_ || exit.kind == ExitInfo::Kind::lost ? shortest : longest;
      if (all_seen || std::chrono::steady_clock::now() >= until) co_return;
      limit_.expires_at(until);
      auto wait = limit_.async_wait(token);
      co_await std::move(wait);
    }
  }

  ServeOptions options_;
  asio::io_context loop_{1};
  local::UniqueFd listening_;
  PodRunner runner_;
  remote::SandboxServer server_;
  RelayListener listener_;
  asio::posix::stream_descriptor terminate_;
  asio::steady_timer limit_{loop_};
  asio::steady_timer begin_{loop_};
  bool deleted_ = false;
};

}  // namespace

int serve(ServeOptions options) {
  const auto log = std::make_shared<Log>();
  // What is left is killed with kill(-1): elsewhere that would be somebody else's.
  if (::getpid() != 1) {
    (*log)("serve must be PID 1 of its container (shareProcessNamespace must be off)");
    return kNobodyKnows;
  }
  if (!local::agent::prepare_process()) {
    (*log)("cannot be PID 1: there is no /dev/null");
    return kNobodyKnows;
  }
  if (const std::string lack = base::lack_of_descriptors(kDescriptors); !lack.empty()) {
    (*log)("cannot serve a sandbox: " + lack);
    return kNobodyKnows;
  }
  try {
    // Not destroyed: the loop's end is the process's, and the agent's thread has no other.
    return (new FirstProcess(std::move(options), log))->run();
  } catch (const std::exception& error) {
    (*log)(error.what());
    return kNobodyKnows;
  }
}

}  // namespace cwsandbox::runner::pod
