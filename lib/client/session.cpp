#include <cwsandbox/session.hpp>

#include "client/backend.hpp"
#include "client/sandbox_calls.hpp"
#include "client/sandbox_request.hpp"
#include "client/sandbox_state.hpp"
#include "core/spawn.hpp"

#include <boost/asio/co_spawn.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <iterator>
#include <system_error>
#include <thread>

#include <fcntl.h>
#include <unistd.h>

namespace cwsandbox {

namespace detail {

class SessionState final : public client::ExitHook, public std::enable_shared_from_this<SessionState> {
 public:
  using Member = std::shared_ptr<SandboxState>;

  SessionState(Client client, SandboxDefaults defaults) : client_(std::move(client)), defaults_(std::move(defaults)) {}
  ~SessionState() override {
    for (const auto& member : members_) {
      try {
        static_cast<void>(member->close(StopOptions().with_missing_ok()));
      } catch (...) {  // the loop has ended: an embedded gateway with its sandboxes has, too
      }
    }
  }
  SessionState(const SessionState&) = delete;
  SessionState& operator=(const SessionState&) = delete;

  [[nodiscard]] const Client& client() const noexcept { return client_; }
  [[nodiscard]] const SandboxDefaults& defaults() const noexcept { return defaults_; }

  void check_open() const {
    if (closed_) throw SandboxError("The session is closed");
  }
  [[nodiscard]] bool closed() const noexcept { return closed_; }

  void add(const Member& member) {
    std::vector<Member> ended;  // go outside the lock: their ends may complete something
    const std::lock_guard lock(mutex_);
    check_open();
    if (std::find(members_.begin(), members_.end(), member) != members_.end()) return;
    // A session that makes ever new sandboxes must not collect those that have ended.
    if (members_.size() >= prune_at_) {
      const auto first = std::stable_partition(
          members_.begin(), members_.end(), [](const Member& known) { return !is_terminal(known->get(&SandboxState::status_)); });
      ended.assign(std::make_move_iterator(first), std::make_move_iterator(members_.end()));
      members_.erase(first, members_.end());
      prune_at_ = std::max<std::size_t>(64, members_.size() * 2);
    }
    members_.push_back(member);
  }
  void adopt(const Sandbox& sandbox) {
    add(sandbox.state());
    sandbox.state()->set_owned(true);
  }

  [[nodiscard]] std::size_t size() const {
    const std::lock_guard lock(mutex_);
    return static_cast<std::size_t>(std::count_if(
        members_.begin(), members_.end(), [](const Member& one) { return !is_terminal(one->get(&SandboxState::status_)); }));
  }

  task<void> close(StopOptions options) {
    if (options.grace_period() < std::chrono::milliseconds::zero())
      throw std::invalid_argument("cwsandbox: the grace period is negative");
    const auto& loop = client_.loop();
    task_source<void> source(loop);
    std::vector<Member> members;
    {
      const std::lock_guard lock(mutex_);
      if (closing_.valid() && (!closing_.done() || !closing_.error())) return closing_;
      closed_ = true;
      source.on_cancel([] { return false; });  // shared by all
      closing_ = source.get_task();
      members.swap(members_);
    }
    // All at once; each says later how it went.
    std::vector<task<void>> stops;
    options.with_missing_ok();
    for (const auto& member : members) {
      try {
        stops.push_back(member->close(options));
      } catch (...) {
        const task_source<void> failed(loop);
        failed.set_exception(std::current_exception());
        stops.push_back(failed.get_task());
      }
    }
    asio::co_spawn(loop.make_strand(), confirm(shared_from_this(), std::move(members), std::move(stops), source),
                   [](std::exception_ptr) {});
    return source.get_task();
  }
  // Within the time that exit has: what ignores SIGTERM is killed in the middle of it.
  task<void> close_at_exit() override { return close(StopOptions().with_grace_period(std::chrono::seconds(5))); }

  static asio::awaitable<Sandbox> find(std::shared_ptr<SessionState> self, std::string id, bool adopt) {
    auto sandbox = co_await client::find_sandbox(self->client_.core(), std::move(id));
    if (adopt) self->adopt(sandbox);
    co_return sandbox;
  }
  static asio::awaitable<std::vector<Sandbox>> find_all(std::shared_ptr<SessionState> self, ListOptions options, bool adopt) {
    auto sandboxes = co_await client::find_sandboxes(self->client_.core(), std::move(options));
    if (adopt)
      for (const auto& sandbox : sandboxes) self->adopt(sandbox);
    co_return sandboxes;
  }

 private:
  static asio::awaitable<void> confirm(std::shared_ptr<SessionState> self, std::vector<Member> members,
                                       std::vector<task<void>> stops, task_source<void> source) {
    std::vector<Member> left;
    std::vector<std::exception_ptr> causes;
    std::string message;
    for (std::size_t i = 0; i < stops.size(); ++i) {
      try {
        const auto stop = stops[i];
        co_await client::wait_for(stop);
      } catch (const std::exception& error) {
        message += std::string(message.empty() ? ": " : "; ") + error.what();
        causes.push_back(std::current_exception());
        left.push_back(members[i]);
      }
    }
    {
      const std::lock_guard lock(self->mutex_);
      self->members_.insert(self->members_.end(), left.begin(), left.end());
    }
    if (causes.empty()) {
      source.set_value();
      co_return;
    }
    const std::string counts = std::to_string(causes.size()) + " of " + std::to_string(stops.size());
    const SessionCloseError error(counts + " sandboxes could not be stopped" + message, std::move(causes));
    source.set_exception(std::make_exception_ptr(error));
  }

  const Client client_;
  const SandboxDefaults defaults_;
  mutable std::mutex mutex_;
  std::vector<Member> members_;
  std::size_t prune_at_ = 64;
  std::atomic<bool> closed_{false};  // changed under the lock
  task<void> closing_;
};

}  // namespace detail

Session::Session(Client client, SandboxDefaults defaults)
    : state_(std::make_shared<detail::SessionState>(std::move(client), std::move(defaults))) {
  client::add_exit_hook(state_->client().loop(), state_);
}

Sandbox Session::sandbox(SandboxOptions options) const {
  state_->check_open();
  const auto merged = state_->defaults().merge(options);
  const auto& core = state_->client().core();
  auto sandbox = std::make_shared<detail::SandboxState>(core, client::make_create_request(merged, core->settings()));
  sandbox->describe(merged);
  state_->add(sandbox);
  return Sandbox(std::move(sandbox));
}

task<std::vector<Sandbox>> Session::list(ListOptions options, bool adopt) const {
  state_->check_open();
  const auto& loop = client().loop();
  return core::spawn_task<std::vector<Sandbox>>(loop, loop.make_strand(),
                                                detail::SessionState::find_all(state_, std::move(options), adopt));
}

task<Sandbox> Session::from_id(std::string sandbox_id, bool adopt) const {
  state_->check_open();
  if (sandbox_id.empty()) throw std::invalid_argument("cwsandbox: the sandbox id is empty");
  const auto& loop = client().loop();
  return core::spawn_task<Sandbox>(loop, loop.make_strand(), detail::SessionState::find(state_, std::move(sandbox_id), adopt));
}

void Session::adopt(const Sandbox& sandbox) const {
  if (!sandbox.valid()) throw std::invalid_argument("cwsandbox: an empty sandbox cannot be adopted");
  state_->adopt(sandbox);
}

std::size_t Session::size() const { return state_->size(); }
const SandboxDefaults& Session::defaults() const noexcept { return state_->defaults(); }
const Client& Session::client() const noexcept { return state_->client(); }
bool Session::closed() const noexcept { return state_->closed(); }
task<void> Session::close(StopOptions options) const { return state_->close(options); }

// ---- signals ----

namespace {

constexpr std::chrono::seconds kTimeToClose{10};

std::atomic<int> signals_seen{0};
int signal_pipe[2] = {-1, -1};
pid_t signal_owner = -1;

void let_take_its_course(int signal) {
  struct sigaction action{};
  action.sa_handler = SIG_DFL;
  ::sigaction(signal, &action, nullptr);
}

extern "C" void on_signal(int signal) {
  const int saved = errno;
  // A second one, or one in the child of a fork, where nobody reads the pipe.
  if (signals_seen.fetch_add(1) > 0 || ::getpid() != signal_owner) {
    let_take_its_course(signal);
    static_cast<void>(::raise(signal));  // comes through when this handler returns
  } else {
    const auto number = static_cast<unsigned char>(signal);
    static_cast<void>(!::write(signal_pipe[1], &number, 1));
  }
  errno = saved;
}

/// A thread of its own: the loop that the program runs may be the one that is stuck.
void serve_signals() {
  unsigned char number = 0;
  while (::read(signal_pipe[0], &number, 1) != 1)
    if (errno != EINTR) return;
  const auto deadline = std::chrono::steady_clock::now() + kTimeToClose;
  std::vector<task<void>> closes;
  for (const auto& hook : client::exit_hooks()) {
    try {
      closes.push_back(hook->close_at_exit());
    } catch (...) {  // its loop has ended
    }
  }
  for (const auto& close : closes) {
    try {
      close.result(deadline - std::chrono::steady_clock::now());
    } catch (...) {  // nobody is left to hear of it
    }
  }
  client::end_default_loop();
  let_take_its_course(number);
  ::kill(::getpid(), number);
}

}  // namespace

void Session::handle_signals() {
  static const bool once = [] {
    if (::pipe2(signal_pipe, O_CLOEXEC) != 0) throw std::system_error(errno, std::generic_category(), "cwsandbox: pipe2");
    signal_owner = ::getpid();
    sigset_t all, before;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);  // the thread inherits this: signals are for the program's own threads
    std::thread(serve_signals).detach();
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    for (const int signal : {SIGINT, SIGTERM}) {
      struct sigaction known{};
      if (::sigaction(signal, nullptr, &known) == 0 && known.sa_handler == SIG_IGN) continue;
      struct sigaction action{};
      action.sa_handler = on_signal;
      action.sa_flags = SA_RESTART;
      sigfillset(&action.sa_mask);
      ::sigaction(signal, &action, nullptr);
    }
    return true;
  }();
  static_cast<void>(once);
}

}  // namespace cwsandbox
