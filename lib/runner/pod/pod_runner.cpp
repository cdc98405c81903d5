#include "runner/pod/pod_runner.hpp"

#include <boost/asio/posix/stream_descriptor.hpp>

#include <limits.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <optional>
#include <string_view>
#include <utility>

#include "runner/local/agent_sandbox.hpp"
#include "runner/pod/agent_thread.hpp"

namespace cwsandbox::runner::pod {

namespace {

constexpr std::chrono::seconds kUpDeadline{10};

constexpr const char* kPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr const char* kWorkspace = "/workspace";
constexpr const char* kHome = "/home/sandbox";

[[nodiscard]] bool is_directory(const char* path) {
  struct stat status{};
  return ::stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

// The image's and the pod's, in which a runtime has put "/" as the home of a user that the image does not know.
[[nodiscard]] std::map<std::string, std::string> environment() {
  std::map<std::string, std::string> env;
  for (char** e = environ; *e != nullptr; ++e) {
    const std::string_view setting = *e;
    const std::size_t sign = setting.find('=');
    if (sign != std::string_view::npos && sign > 0)
      env.insert_or_assign(std::string(setting.substr(0, sign)), setting.substr(sign + 1));
  }
  env.try_emplace("PATH", kPath);
  env.try_emplace("LANG", "C.UTF-8");
  env.try_emplace("SHELL", "/bin/sh");
  std::string& home = env["HOME"];
  if (is_directory(kHome)) {
    home = kHome;
  } else if (home.size() < 2 || ::access(home.c_str(), W_OK | X_OK) != 0) {
    home = "/tmp";
  }
  return env;
}

// Where files are meant to be, else the image's.
[[nodiscard]] std::string working_directory() {
  if (is_directory(kWorkspace)) return kWorkspace;
  std::string path(PATH_MAX, '\0');
  return ::getcwd(path.data(), path.size()) != nullptr ? path.c_str() : "/";
}

// How often the container's limit on memory has killed, as its control group is seen from inside (version 2, then 1).
[[nodiscard]] std::uint64_t container_memory_kills() {
  for (const char* path : {"/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"}) {
    std::ifstream file(path);
    std::string name;
    std::uint64_t count = 0;
    while (file >> name >> count) {
      if (name == "oom_kill") return count;
    }
  }
  return 0;
}

}  // namespace

class PodSandbox final : public local::AgentSandbox {
 public:
  using AgentSandbox::AgentSandbox;

  void open() {
    AgentThread thread = start_agent_thread();
    finished_.emplace(executor(), thread.finished.release());
    connect(std::move(thread.control), kUpDeadline);
    wait_finished();
  }
  [[nodiscard]] bool take() noexcept { return !std::exchange(taken_, true); }
  [[nodiscard]] ExitInfo exit() const noexcept { return exit_; }

  uid_t uid() const noexcept override { return ::getuid(); }
  gid_t gid() const noexcept override { return ::getgid(); }
  bool shares_users() const noexcept override { return true; }

 private:
  void wait_finished() {
    const auto self = std::static_pointer_cast<PodSandbox>(shared_from_this());
    finished_->async_wait(asio::posix::stream_descriptor::wait_read, [self](const error_code& ec) {
      if (ec) return;
      self->gone_ = true;
      self->finish_when_over();
    });
  }
  bool is_gone(ExitInfo& main) override {
    if (!gone_) return false;
    const bool killed = main.kind == ExitInfo::Kind::lost || (main.kind == ExitInfo::Kind::signaled && main.value == SIGKILL);
    main.out_of_memory = killed && memory_kills() > 0;
    exit_ = main;
    return true;
  }

  std::uint64_t memory_kills() const override { return container_memory_kills() - kills_before_; }

  std::optional<asio::posix::stream_descriptor> finished_;
  bool gone_ = false;
  bool taken_ = false;
  std::uint64_t kills_before_ = container_memory_kills();
  ExitInfo exit_;
};

PodRunner::PodRunner(asio::any_io_executor executor) : sandbox_(std::make_shared<PodSandbox>(std::move(executor))) {
  sandbox_->open();
}
PodRunner::~PodRunner() = default;

asio::awaitable<std::unique_ptr<Sandbox>> PodRunner::create(SandboxSpec spec) {
  const auto sandbox = sandbox_;
  local::check_spec(spec);
  if (!sandbox->take()) throw RunnerError(ErrorCode::failed_precondition, "", "this pod has had its sandbox");
  std::map<std::string, std::string> env = environment();
  for (const auto& [name, value] : spec.env) env.insert_or_assign(name, value);
  sandbox->set_defaults(std::move(env), spec.working_dir.empty() ? working_directory() : spec.working_dir);
  auto begun = local::AgentSandbox::begin(sandbox, spec);
  std::unique_ptr<Sandbox> made = co_await std::move(begun);
  if (!made) {
    throw RunnerError(ErrorCode::unavailable, kUnavailable, "the pod's agent did not come up: " + sandbox->why_lost());
  }
  co_return made;
}

asio::awaitable<void> PodRunner::stop(std::chrono::milliseconds grace) {
  const auto sandbox = sandbox_;
  if (sandbox->take()) {
    sandbox->kill();
  } else {
    sandbox->stop(grace);
  }
  co_await sandbox->wait_ended();
}

void PodRunner::end_unless_begun() {
  if (sandbox_->take()) sandbox_->kill();
}

asio::awaitable<void> PodRunner::wait_ended() { return sandbox_->wait_ended(); }

ExitInfo PodRunner::exit() const noexcept { return sandbox_->exit(); }

}  // namespace cwsandbox::runner::pod
