#include "runner/local/local_runner.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/descriptor_limit.hpp"
#include "runner/local/agent_sandbox.hpp"
#include "runner/local/launcher.hpp"

namespace cwsandbox::runner::local {

namespace {

// From the start of bubblewrap to the agent's first word.
constexpr std::chrono::seconds kLaunchDeadline{10};

// How long sandboxes are kept ready after the last one was asked for. They have the host's small files as they were at their start.
constexpr std::chrono::minutes kKeepReady{1};

// A control group that cannot be removed yet: how often it is tried again, and when.
constexpr int kRemovals = 500;
constexpr std::chrono::milliseconds kRemoveAgain{2};

// What is kept of bubblewrap's errors.
constexpr std::size_t kMaxComplaint = 4096;

constexpr const char* kPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr const char* kHome = "/home/sandbox";
constexpr const char* kWorkspace = "/workspace";

// One sandbox: bubblewrap, the agent, and what runs there.
class State final : public AgentSandbox {
 public:
  State(asio::any_io_executor executor, std::shared_ptr<Launcher> launcher, Shape shape)
      : AgentSandbox(std::move(executor)), launcher_(std::move(launcher)), shape_(std::move(shape)) {}
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() override;

  static asio::awaitable<void> launch(std::shared_ptr<State> self);
  /// What bubblewrap had to say, when the agent never came up.
  [[nodiscard]] std::string complaint();

  /// Nothing has gone wrong with it since it came up.
  [[nodiscard]] bool usable() const noexcept { return came_up() && !is_lost(); }

  uid_t uid() const noexcept override { return uid_; }
  gid_t gid() const noexcept override { return launcher_->gid(); }
  bool has_room(std::uint64_t bytes) const override { return !group_ || group_->has_room(bytes); }

 private:
  void on_up() override;
  asio::awaitable<void> prepare() override;
  void end_by_force() override;
  void kill_again() override;
  bool is_gone(ExitInfo& main) override;
  std::uint64_t memory_kills() const override;
  void adopt_agent();
  void wait_monitor();
  void wait_complaint();
  void read_complaint();
  void wait_agent();
  static asio::awaitable<void> remove_group(std::shared_ptr<State> self);
  [[nodiscard]] std::shared_ptr<State> self() { return std::static_pointer_cast<State>(shared_from_this()); }

  std::shared_ptr<Launcher> launcher_;
  Shape shape_;
  uid_t uid_ = 0;
  std::optional<asio::posix::stream_descriptor> monitor_, agent_;
  std::optional<asio::posix::stream_descriptor> errors_;  // bubblewrap's, until the agent has come up
  std::string complaint_;
  bool monitor_reaped_ = false, agent_gone_ = false, removing_ = false;
  std::unique_ptr<ControlGroup> group_;
};

State::~State() {
  // Only when the event loop was destroyed with the sandbox in it: nobody will ever run our handlers, so wait here. Both have
  // been killed, so it is short; the bound is for a kernel that is stuck.
  if (ended() || !monitor_) return;
  close_connection();
  if (agent_) kill_pidfd(agent_->native_handle(), SIGKILL);
  kill_pidfd(monitor_->native_handle(), SIGKILL);
  if (!monitor_reaped_ && has_ended(monitor_->native_handle(), 1000)) static_cast<void>(reap(monitor_->native_handle()));
  if (agent_) static_cast<void>(has_ended(agent_->native_handle(), 1000));
  for (int i = 0; group_ && !group_->remove() && i < kRemovals; ++i) ::poll(nullptr, 0, 2);
}

asio::awaitable<void> State::launch(std::shared_ptr<State> self) {
  auto launching = Launcher::launch(self->launcher_, self->shape_);
  Launched launched = co_await std::move(launching);
  self->group_ = std::move(launched.group);
  self->uid_ = launched.uid;
  self->errors_.emplace(self->executor(), launched.errors.release());
  self->monitor_.emplace(self->executor(), launched.monitor.release());
  self->connect(std::move(launched.control), kLaunchDeadline);
  self->wait_monitor();
  self->wait_complaint();
}

void State::on_up() {
  errors_.reset();
  adopt_agent();
}

// Its number is its own for as long as bubblewrap has not waited for it. When that has happened it needs no watching.
void State::adopt_agent() {
  if (agent_ || monitor_reaped_ || agent_number() <= 0) return;
  UniqueFd agent = open_pidfd(agent_number());
  const int error = errno;
  if (agent && !has_ended(monitor_->native_handle(), 0)) {
    agent_.emplace(executor(), agent.release());
  } else if (!agent && (error == EMFILE || error == ENFILE || error == ENOMEM)) {
    // One that cannot be watched, nor held to its limits, is none.
    lose(std::string("it cannot be watched: ") + std::strerror(error) + base::descriptor_hint(error));
  }
}

asio::awaitable<void> State::prepare() {
  return agent_ ? Launcher::limit_files(launcher_, agent_number(), shape_.resources) : AgentSandbox::prepare();
}

// The signal is for an agent that is stuck. When it has gone, bubblewrap goes.
void State::end_by_force() {
  adopt_agent();
  if (agent_) kill_pidfd(agent_->native_handle(), SIGKILL);
}

void State::kill_again() {
  if (agent_gone_) return finish_when_over();
  if (agent_) kill_pidfd(agent_->native_handle(), SIGKILL);
  if (monitor_) kill_pidfd(monitor_->native_handle(), SIGKILL);
}

void State::wait_monitor() {
  monitor_->async_wait(asio::posix::stream_descriptor::wait_read, [self = self()](const error_code& ec) {
    if (ec) return;
    if (!reap(self->monitor_->native_handle())) return self->wait_monitor();
    self->monitor_reaped_ = true;
    self->wait_agent();
  });
}

// Bubblewrap is gone, which it is by itself only after the agent; but somebody may have killed it.
void State::wait_agent() {
  if (agent_ && !has_ended(agent_->native_handle(), 0)) {
    kill_pidfd(agent_->native_handle(), SIGKILL);
    return agent_->async_wait(asio::posix::stream_descriptor::wait_read, [self = self()](const error_code& ec) {
      if (!ec) self->wait_agent();
    });
  }
  agent_gone_ = true;
  finish_when_over();
}

std::uint64_t State::memory_kills() const { return group_ ? group_->killed_for_memory() : 0; }

// Bubblewrap has been waited for, and the agent, with all that was in its namespace, is gone. Then the group that they were in
// goes.
bool State::is_gone(ExitInfo& main) {
  if (!monitor_reaped_ || !agent_gone_) return false;
  if (!group_) return true;
  if (!std::exchange(removing_, true)) {
    const bool killed = main.kind == ExitInfo::Kind::lost || (main.kind == ExitInfo::Kind::signaled && main.value == SIGKILL);
    main.out_of_memory = killed && group_->killed_for_memory() > 0;
    asio::co_spawn(executor(), remove_group(self()), asio::detached);
  }
  return false;
}

// After all of it has ended the kernel may need a moment. What is not gone then is removed when the next sandbox is made.
asio::awaitable<void> State::remove_group(std::shared_ptr<State> self) {
  asio::steady_timer again(self->executor());
  for (int i = 0; i < kRemovals; ++i) {
    bool gone = false;
    try {
      auto removed = Launcher::remove(self->launcher_, *self->group_);
      gone = co_await std::move(removed);
    } catch (const RunnerError&) {  // no thread
      gone = self->group_->remove();
    }
    if (gone) break;
    again.expires_after(kRemoveAgain);
    error_code ignored;
    co_await again.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }
  self->group_.reset();
  self->finish_when_over();
}

void State::read_complaint() {
  char part[1024];
  for (int i = 0; i < 64 && errors_; ++i) {
    const ssize_t n = ::read(errors_->native_handle(), part, sizeof part);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return errors_.reset();
    complaint_.append(part, std::min(static_cast<std::size_t>(n), kMaxComplaint - complaint_.size()));
  }
}

// Read as it comes, and to the end, so that nobody waits for room to complain.
void State::wait_complaint() {
  errors_->async_wait(asio::posix::stream_descriptor::wait_read, [weak = std::weak_ptr(self())](const error_code& ec) {
    const auto self = weak.lock();
    if (!self || ec || !self->errors_) return;
    self->read_complaint();
    if (self->errors_) self->wait_complaint();
  });
}

std::string State::complaint() {
  read_complaint();
  errors_.reset();
  return complaint_;
}

/// Sandboxes that have come up and in which nothing runs yet. On the runner's executor.
class ReadySandboxes : public std::enable_shared_from_this<ReadySandboxes> {
 public:
  ReadySandboxes(asio::any_io_executor executor, std::shared_ptr<Launcher> launcher, std::size_t most)
      : executor_(executor), launcher_(std::move(launcher)), most_(most), rest_(executor) {}
  ReadySandboxes(const ReadySandboxes&) = delete;
  ReadySandboxes& operator=(const ReadySandboxes&) = delete;

  /// One of this shape, which is the caller's from now on; null: there is none.
  [[nodiscard]] std::shared_ptr<State> take(const Shape& shape) {
    const auto ready =
        std::find_if(all_.begin(), all_.end(), [&](const Ready& r) { return r.shape == shape && r.state->usable(); });
    if (ready == all_.end()) return nullptr;
    const auto state = std::move(ready->state);
    all_.erase(ready);
    state->forget_exit();
    return state;
  }

  /// One is made at this moment for somebody who waits for it: nothing is made ahead meanwhile.
  void launch_begins() noexcept { ++launching_; }
  void launch_ends() noexcept { --launching_; }

  /// Another of this shape has been asked for and has come up.
  void used(const Shape& shape) {
    if (most_ == 0 || dropped_) return;
    wanted_ = std::min(wanted_ + 1, most_);
    shape_ = shape;
    rest_.expires_after(kKeepReady);
    rest_.async_wait([weak = weak_from_this()](const error_code& ec) {
      const auto self = weak.lock();
      if (!self || ec) return;
      self->wanted_ = 0;
      self->end_all();
    });
    if (!std::exchange(filling_, true)) asio::co_spawn(executor_, fill(shared_from_this()), asio::detached);
  }

  /// Ends all of them, and makes no more.
  void drop() {
    dropped_ = true;
    rest_.cancel();
    end_all();
  }

 private:
  struct Ready {
    std::shared_ptr<State> state;
    Shape shape;
  };

  void end_all() {
    for (const Ready& ready : std::exchange(all_, {})) ready.state->kill();
  }

  [[nodiscard]] bool wants_more() const {
    const auto same = std::count_if(all_.begin(), all_.end(), [this](const Ready& r) { return r.shape == shape_; });
    return !dropped_ && launching_ == 0 && static_cast<std::size_t>(same) < wanted_;
  }

  static asio::awaitable<void> fill(std::shared_ptr<ReadySandboxes> self) {
    while (self->wants_more()) {
      const Shape shape = self->shape_;
      auto state = std::make_shared<State>(self->executor_, self->launcher_, shape);
      bool launched = false, up = false;
      try {
        auto launching = State::launch(state);
        co_await std::move(launching);
        launched = true;
        auto coming = State::come_up(state);
        up = co_await std::move(coming);
      } catch (const std::exception&) {  // whoever asks for one is told what is wrong
      }
      if (!up || self->wanted_ == 0 || self->dropped_) {
        if (launched) state->kill();
        break;
      }
      self->put(std::move(state), shape);
    }
    self->filling_ = false;
  }

  void put(std::shared_ptr<State> state, const Shape& shape) {
    // Of others than are asked for now the oldest goes.
    if (all_.size() >= most_) {
      all_.front().state->kill();
      all_.erase(all_.begin());
    }
    state->on_exit([weak = weak_from_this(), which = state.get()](const ExitInfo&) {
      if (const auto self = weak.lock()) std::erase_if(self->all_, [which](const Ready& r) { return r.state.get() == which; });
    });
    all_.push_back({std::move(state), shape});
  }

  asio::any_io_executor executor_;
  std::shared_ptr<Launcher> launcher_;
  std::size_t most_, wanted_ = 0, launching_ = 0;
  Shape shape_;             // of the one that was asked for last
  std::vector<Ready> all_;  // the oldest first
  asio::steady_timer rest_;
  bool filling_ = false, dropped_ = false;
};

class LocalRunner final : public Runner {
 public:
  LocalRunner(asio::any_io_executor executor, LocalRunnerOptions options)
      : executor_(std::move(executor)),
        launcher_(std::make_shared<Launcher>(executor_, options)),
        ready_(std::make_shared<ReadySandboxes>(executor_, launcher_, options.ready)) {}
  LocalRunner(const LocalRunner&) = delete;
  LocalRunner& operator=(const LocalRunner&) = delete;
  ~LocalRunner() override { ready_->drop(); }

  std::string_view name() const noexcept override { return "local"; }
  // Some of a creation is waiting for the kernel.
  std::size_t creations_at_once() const noexcept override {
    return std::size_t{2} * std::max(1u, std::thread::hardware_concurrency());
  }
  asio::awaitable<std::unique_ptr<Sandbox>> create(SandboxSpec spec) override {
    return create_with(executor_, launcher_, ready_, std::move(spec));
  }

 private:
  static asio::awaitable<std::unique_ptr<Sandbox>> create_with(asio::any_io_executor executor, std::shared_ptr<Launcher> launcher,
                                                               std::shared_ptr<ReadySandboxes> ready, SandboxSpec spec) {
    if (!spec.image.empty() && spec.image != "host") {
      throw RunnerError(
          ErrorCode::invalid_argument, "CWSANDBOX_INVALID_REQUEST",
          "the image '" + spec.image +
              "' cannot be had: a local sandbox has this machine's own system, the image named 'host' (or none given)");
    }
    check_spec(spec);
    std::map<std::string, std::string> env = {{"PATH", kPath},        {"HOME", kHome},     {"USER", "sandbox"},
                                              {"LOGNAME", "sandbox"}, {"LANG", "C.UTF-8"}, {"SHELL", "/bin/sh"}};
    for (const auto& [name, value] : spec.env) env.insert_or_assign(name, value);
    const std::string cwd = spec.working_dir.empty() ? kWorkspace : spec.working_dir;
    const Shape shape{spec.resources, spec.owner};
    // Each further round does without something that this host does not have.
    for (;;) {
      auto state = ready->take(shape);
      const Launching launching(state ? nullptr : ready);
      if (!state) {
        state = std::make_shared<State>(executor, launcher, shape);
        auto launched = State::launch(state);
        co_await std::move(launched);
      }
      state->set_defaults(env, cwd);
      auto begun = AgentSandbox::begin(state, spec);
      std::unique_ptr<Sandbox> sandbox = co_await std::move(begun);
      if (sandbox) {
        // Behind what is under way now.
        asio::post(executor, [ready, shape] { ready->used(shape); });
        co_return sandbox;
      }
      const std::string complaint = state->complaint();
      if (!launcher->adapt(complaint)) throw launcher->failure(complaint, state->why_lost());
    }
  }

  struct Launching {
    explicit Launching(std::shared_ptr<ReadySandboxes> r) : ready(std::move(r)) {
      if (ready) ready->launch_begins();
    }
    Launching(const Launching&) = delete;
    Launching& operator=(const Launching&) = delete;
    ~Launching() {
      if (ready) ready->launch_ends();
    }
    std::shared_ptr<ReadySandboxes> ready;
  };

  asio::any_io_executor executor_;
  std::shared_ptr<Launcher> launcher_;
  std::shared_ptr<ReadySandboxes> ready_;
};

}  // namespace

std::unique_ptr<Runner> make_local_runner(asio::any_io_executor executor, LocalRunnerOptions options) {
  return std::make_unique<LocalRunner>(std::move(executor), std::move(options));
}

}  // namespace cwsandbox::runner::local
