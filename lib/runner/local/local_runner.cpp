#include "runner/local/local_runner.hpp"

#include <boost/asio/async_result.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <exception>
#include <list>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>

#include "runner/local/agent_connection.hpp"
#include "runner/local/agent_protocol.hpp"
#include "runner/local/descriptor_io.hpp"
#include "runner/local/errno_text.hpp"
#include "runner/local/launcher.hpp"
#include "runner/local/local_files.hpp"

namespace cwsandbox::runner::local {

namespace {

using agent::Note;
using agent::Stage;
using agent::Type;
using Clock = std::chrono::steady_clock;
using WaitHandler = asio::any_completion_handler<void()>;

// From the start of bubblewrap to the agent's first word.
constexpr std::chrono::seconds kLaunchDeadline{10};
// For the agent's answer to a start: it waits while the kernel reads the program, which can be slow but not this slow.
constexpr std::chrono::seconds kStartDeadline{30};
// For a file operation that takes long; the agent itself gives it up before.
constexpr std::chrono::seconds kLongDeadline{300};
// How long a sandbox may take to go after its grace before everything in it is killed from outside.
constexpr std::chrono::seconds kStopSlack{2};
// How long a killed one may take before it is killed again, bubblewrap included.
constexpr std::chrono::seconds kKillAgain{2};

// A control group that cannot be removed yet: how often it is tried again, and when.
constexpr int kRemovals = 500;
constexpr std::chrono::milliseconds kRemoveAgain{2};

// What is kept of bubblewrap's errors.
constexpr std::size_t kMaxComplaint = 4096;

// The main command is the first process that is asked for.
constexpr std::uint64_t kMainSeq = 1;

constexpr const char* kPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr const char* kHome = "/home/sandbox";
constexpr const char* kWorkspace = "/workspace";
constexpr const char* kInvalid = "CWSANDBOX_INVALID_REQUEST";

[[nodiscard]] RunnerError invalid(const std::string& what) { return {"invalid_argument", kInvalid, what}; }
[[nodiscard]] RunnerError gone(std::string_view why) {
  return {"unavailable", "CWSANDBOX_RUNNER_UNAVAILABLE", "the sandbox has ended: " + std::string(why)};
}

void check_command(const std::vector<std::string>& command) {
  if (command.empty() || command.front().empty()) throw invalid("the command is empty");
  for (const std::string& word : command) {
    if (word.find('\0') != std::string::npos) throw invalid("an argument of the command holds a NUL byte");
  }
}

void check_env(const std::map<std::string, std::string>& env) {
  for (const auto& [name, value] : env) {
    if (name.empty() || name.find('=') != std::string::npos || name.find('\0') != std::string::npos) {
      throw invalid("an environment variable's name is empty or holds '=' or a NUL byte");
    }
    if (value.find('\0') != std::string::npos) throw invalid("the environment variable " + name + " holds a NUL byte");
  }
}

void check_directory(const std::string& path) {
  if (path.empty()) return;
  if (path.front() != '/') throw invalid("the working directory must be absolute: '" + path + "'");
  if (path.find('\0') != std::string::npos) throw invalid("the working directory holds a NUL byte");
}

[[nodiscard]] std::string note_frame(Type type, const Note& note) {
  char frame[agent::kNoteFrame];
  agent::write_note(frame, type, note);
  return {frame, sizeof frame};
}

template <class Number>
void append(std::string& to, Number number) {
  to.append(reinterpret_cast<const char*>(&number), sizeof number);
}

[[nodiscard]] const char* stage_name(Stage stage) {
  switch (stage) {
    case Stage::cwd:
      return "cwd";
    case Stage::stdio:
      return "stdio";
    case Stage::fork:
    case Stage::stopping:
      return "fork";
    case Stage::program:
      break;
  }
  return "program";
}

[[nodiscard]] StartFailed start_failed(int error, Stage stage, const std::string& program, const std::string& cwd) {
  std::string what;
  switch (stage) {
    case Stage::cwd:
      what = "cannot enter the working directory '" + cwd + "'";
      break;
    case Stage::program:
      what = "cannot run '" + program + "'";
      break;
    case Stage::stdio:
      what = "cannot make the streams of '" + program + "'";
      break;
    case Stage::fork:
    case Stage::stopping:
      what = "cannot start a process for '" + program + "'";
      break;
  }
  return {error, stage_name(stage), what + ": " + error_text(error)};
}

[[nodiscard]] ExitInfo exit_info(int status) {
  ExitInfo info;
  info.time = std::chrono::system_clock::now();
  if (WIFEXITED(status)) {
    info.kind = ExitInfo::Kind::exited;
    info.value = WEXITSTATUS(status);
  } else if (WIFSIGNALED(status)) {
    info.kind = ExitInfo::Kind::signaled;
    info.value = WTERMSIG(status);
  }
  return info;
}

[[nodiscard]] ExitInfo lost_info() {
  ExitInfo info;
  info.time = std::chrono::system_clock::now();
  return info;
}

// A handler that is called at most once, whichever comes first: the event or the handler.
class ExitEvent {
 public:
  void set(const ExitInfo& info) {
    if (!info_) info_ = info;
  }
  [[nodiscard]] bool is_set() const noexcept { return info_.has_value(); }
  void listen(std::function<void(const ExitInfo&)> handler) { handler_ = std::move(handler); }
  void forget() noexcept { handler_ = nullptr; }
  void fire() {
    if (!info_ || !handler_) return;
    const auto handler = std::exchange(handler_, nullptr);
    handler(*info_);
  }

 private:
  std::optional<ExitInfo> info_;
  std::function<void(const ExitInfo&)> handler_;
};

// Coroutines that wait for one thing.
class Waiters {
 public:
  void add(WaitHandler handler) { handlers_.push_back(std::move(handler)); }
  void resume_all(const asio::any_io_executor& executor) {
    std::list<WaitHandler> handlers = std::move(handlers_);
    handlers_.clear();
    for (WaitHandler& handler : handlers) {
      asio::post(executor, asio::bind_executor(executor, std::move(handler)));
    }
  }

 private:
  std::list<WaitHandler> handlers_;  // any_completion_handler may not be move-assigned
};

[[nodiscard]] asio::awaitable<void> wait_for(Waiters& waiters) {
  auto initiate = [&waiters](auto handler) { waiters.add(WaitHandler(std::move(handler))); };
  auto operation = asio::async_initiate<const asio::use_awaitable_t<>, void()>(initiate, asio::use_awaitable);
  co_await std::move(operation);
}

struct ProcessState {
  std::uint64_t seq = 0;
  std::uint32_t pid = 0;
  ExitEvent exit;
};

// A start that the agent has not answered yet.
struct PendingStart {
  Clock::time_point deadline;
  bool answered = false;
  std::optional<Note> failure;
  std::array<UniqueFd, agent::kMaxDescriptors> fds;
  std::size_t fd_count = 0;
  std::shared_ptr<ProcessState> process;  // null: failed, or the sandbox has gone
  Waiters waiters;
};

// The same of a file operation.
struct PendingFile {
  Clock::time_point deadline;
  bool takes_long = false;  // then a late answer is no reason to give up the sandbox
  bool answered = false;
  std::optional<int> error;  // none: the sandbox has gone
  UniqueFd fd;
  Waiters waiters;
};

[[nodiscard]] bool is_pipe(int fd) {
  struct stat status{};
  return ::fstat(fd, &status) == 0 && S_ISFIFO(status.st_mode);
}

[[nodiscard]] bool is_terminal(int fd) {
  struct stat status{};
  return ::fstat(fd, &status) == 0 && S_ISCHR(status.st_mode) && ::isatty(fd) == 1;
}

// One sandbox: bubblewrap, the agent, and what runs there. Kept alive by its handle, its processes, and until bubblewrap has
// been waited for by the operation that waits.
class State final : public FileAgent, public std::enable_shared_from_this<State> {
 public:
  State(asio::any_io_executor executor, const Launcher& launcher)
      : executor_(std::move(executor)), uid_(launcher.uid()), gid_(launcher.gid()), deadline_(executor_), watchdog_(executor_) {}
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() override;

  void launch(Launcher& launcher, const ResourceSpec& resources);
  /// Until the agent has said its first word, or never will.
  [[nodiscard]] asio::awaitable<void> wait_up();
  /// Its number, as long as that is its own; else 0.
  [[nodiscard]] pid_t agent_pid() const noexcept { return agent_ ? connection_->peer() : 0; }
  [[nodiscard]] asio::awaitable<std::shared_ptr<PendingStart>> request(ProcessSpec spec, std::uint8_t flags);
  [[nodiscard]] asio::awaitable<void> wait_ended();
  void stop(std::chrono::milliseconds grace);
  void kill();
  void signal(const ProcessState& process, int number);
  void on_exit(std::function<void(const ExitInfo&)> handler);
  void forget_exit() noexcept { main_exit_.forget(); }

  void set_defaults(std::map<std::string, std::string> env, std::string cwd);
  [[nodiscard]] const std::string& default_cwd() const noexcept { return cwd_; }
  void lose(std::string_view why);

  asio::awaitable<Answer> ask(agent::FileOp op, std::uint8_t flags, std::uint32_t mode, std::string path,
                              std::string second) override;
  asio::awaitable<Answer> commit(std::uint64_t seq) override;
  void abort(std::uint64_t seq) noexcept override;
  [[noreturn]] void refuse() override;
  uid_t uid() const noexcept override { return uid_; }
  gid_t gid() const noexcept override { return gid_; }

  [[nodiscard]] bool is_lost() const noexcept { return lost_; }
  [[nodiscard]] bool came_up() const noexcept { return came_up_; }
  [[nodiscard]] const std::string& why_lost() const noexcept { return why_; }
  [[nodiscard]] std::string complaint();
  const asio::any_io_executor& executor() const noexcept override { return executor_; }

 private:
  void on_note(Type type, const Note& note, std::span<UniqueFd> fds);
  void adopt_agent();
  void on_started(const Note& note, std::span<UniqueFd> fds);
  void on_file_done(const Note& note, std::span<UniqueFd> fds);
  template <class Pending>
  void answer(Pending& pending);
  [[nodiscard]] asio::awaitable<Answer> ask_agent(std::string frame, std::uint64_t seq, bool takes_long);
  [[nodiscard]] Clock::time_point next_deadline() const;
  void check_deadlines();
  void wait_monitor();
  void wait_complaint();
  void read_complaint();
  void wait_agent();
  void finish_when_over();
  void arm_deadline(Clock::time_point when);
  void arm_watchdog();
  [[nodiscard]] std::string encode(std::uint64_t seq, const ProcessSpec& spec, std::uint8_t flags) const;

  asio::any_io_executor executor_;
  uid_t uid_;
  gid_t gid_;
  std::shared_ptr<AgentConnection> connection_;
  std::optional<asio::posix::stream_descriptor> monitor_, agent_;
  std::optional<asio::posix::stream_descriptor> errors_;  // bubblewrap's, until the agent has come up
  std::string complaint_;
  asio::steady_timer deadline_;  // of the launch, then of stopping
  asio::steady_timer watchdog_;  // of what the agent was asked, one timer for all
  bool watching_ = false;
  bool came_up_ = false, lost_ = false, monitor_reaped_ = false, agent_gone_ = false, ended_ = false, killed_ = false;
  std::optional<Clock::time_point> stop_deadline_;
  std::string why_;

  std::map<std::string, std::string> env_;
  std::string cwd_;
  std::uint64_t next_seq_ = kMainSeq;
  std::map<std::uint64_t, std::shared_ptr<PendingStart>> pending_;  // oldest first
  std::uint64_t next_file_ = 1;
  std::unordered_map<std::uint64_t, std::shared_ptr<PendingFile>> files_;
  std::unordered_map<std::uint64_t, std::shared_ptr<ProcessState>> processes_;
  std::optional<ExitInfo> main_info_;
  ExitEvent main_exit_;
  Waiters ended_waiters_, up_waiters_;
  std::unique_ptr<ControlGroup> group_;
  int removals_ = 0;  // of the group, that came too early
};

State::~State() {
  // Only when the event loop was destroyed with the sandbox in it: nobody will ever run our handlers, so wait here. Both have
  // been killed, so it is short; the bound is for a kernel that is stuck.
  if (ended_ || !monitor_) return;
  if (connection_) connection_->close();
  if (agent_) kill_pidfd(agent_->native_handle(), SIGKILL);
  kill_pidfd(monitor_->native_handle(), SIGKILL);
  if (!monitor_reaped_ && has_ended(monitor_->native_handle(), 1000)) static_cast<void>(reap(monitor_->native_handle()));
  if (agent_) static_cast<void>(has_ended(agent_->native_handle(), 1000));
  for (int i = 0; group_ && !group_->remove() && i < kRemovals; ++i) ::poll(nullptr, 0, 2);
}

void State::launch(Launcher& launcher, const ResourceSpec& resources) {
  Launched launched = launcher.launch(resources);
  group_ = std::move(launched.group);
  errors_.emplace(executor_, launched.errors.release());
  monitor_.emplace(executor_, launched.monitor.release());
  connection_ = std::make_shared<AgentConnection>(executor_, std::move(launched.control));
  const std::weak_ptr<State> weak = weak_from_this();
  connection_->open(
      [weak](Type type, const Note& note, std::span<UniqueFd> fds) {
        if (const auto self = weak.lock()) self->on_note(type, note, fds);
      },
      [weak](std::string_view why) {
        if (const auto self = weak.lock()) self->lose(why);
      });
  wait_monitor();
  wait_complaint();
  arm_deadline(Clock::now() + kLaunchDeadline);
}

void State::set_defaults(std::map<std::string, std::string> env, std::string cwd) {
  env_ = {{"PATH", kPath}, {"HOME", kHome}, {"USER", "sandbox"}, {"LOGNAME", "sandbox"}, {"LANG", "C.UTF-8"}, {"SHELL", "/bin/sh"}};
  for (auto& [name, value] : env) env_.insert_or_assign(name, std::move(value));
  cwd_ = cwd.empty() ? kWorkspace : std::move(cwd);
}

std::string State::encode(std::uint64_t seq, const ProcessSpec& spec, std::uint8_t flags) const {
  const std::string& cwd = spec.cwd.empty() ? cwd_ : spec.cwd;
  std::string strings = cwd;
  strings += '\0';
  for (const std::string& word : spec.command) strings.append(word.c_str(), word.size() + 1);
  std::uint32_t envc = 0;
  const auto set = [&strings, &envc](const std::string& name, const std::string& value) {
    strings.append(name);
    strings += '=';
    strings.append(value.c_str(), value.size() + 1);
    ++envc;
  };
  const auto given = [this, &spec](const char* name) { return spec.env.contains(name) || env_.contains(name); };
  for (const auto& [name, value] : env_) {
    if (!spec.env.contains(name)) set(name, value);
  }
  for (const auto& [name, value] : spec.env) set(name, value);
  if (!given("PWD")) set("PWD", cwd);
  if (spec.tty && !given("TERM")) set("TERM", "xterm");

  std::string frame;
  frame.reserve(agent::kFrameHead + agent::kStartHead + strings.size());
  append(frame, static_cast<std::uint32_t>(1 + agent::kStartHead + strings.size()));
  append(frame, Type::start);
  append(frame, seq);
  append(frame, flags);
  append(frame, spec.tty_width);
  append(frame, spec.tty_height);
  append(frame, static_cast<std::uint32_t>(spec.command.size()));
  append(frame, envc);
  frame += strings;
  return frame;
}

asio::awaitable<std::shared_ptr<PendingStart>> State::request(ProcessSpec spec, std::uint8_t flags) {
  const auto self = shared_from_this();
  if (lost_) throw gone(why_);
  const std::uint64_t seq = next_seq_++;
  const std::string frame = encode(seq, spec, flags);
  // The kernel's limit is lower, so what does not fit here it would refuse with the same error.
  if (frame.size() > agent::kMaxRequest) throw start_failed(E2BIG, Stage::program, spec.command.front(), spec.cwd);
  auto pending = std::make_shared<PendingStart>();
  pending->deadline = Clock::now() + kStartDeadline;
  if (!connection_->send(frame))
    throw RunnerError("resource_exhausted", "", "too many processes are being started in this sandbox");
  pending_.emplace(seq, pending);
  arm_watchdog();
  while (!pending->answered) co_await wait_for(pending->waiters);
  co_return pending;
}

template <class Pending>
void State::answer(Pending& pending) {
  pending.answered = true;
  pending.waiters.resume_all(executor_);
}

asio::awaitable<FileAgent::Answer> State::ask(agent::FileOp op, std::uint8_t flags, std::uint32_t mode, std::string path,
                                              std::string second) {
  const std::uint64_t seq = next_file_++;
  const std::size_t strings = cwd_.size() + path.size() + second.size() + 3;
  std::string frame;
  frame.reserve(agent::kFrameHead + agent::kFileHead + strings);
  append(frame, static_cast<std::uint32_t>(1 + agent::kFileHead + strings));
  append(frame, Type::file);
  append(frame, seq);
  append(frame, op);
  append(frame, flags);
  append(frame, mode);
  for (const std::string* string : {&cwd_, &path, &second}) frame.append(string->c_str(), string->size() + 1);
  const bool takes_long = op == agent::FileOp::open || (op == agent::FileOp::remove && (flags & agent::kRecursive) != 0);
  return ask_agent(std::move(frame), seq, takes_long);
}

asio::awaitable<FileAgent::Answer> State::commit(std::uint64_t seq) {
  Note note;
  note.seq = seq;
  return ask_agent(note_frame(Type::commit, note), seq, false);
}

void State::abort(std::uint64_t seq) noexcept {
  if (lost_) return;
  Note note;
  note.seq = seq;
  if (!connection_->send(note_frame(Type::abort, note))) lose("its agent does not answer");
}

void State::refuse() {
  lose("the agent broke the protocol");
  throw gone(why_);
}

asio::awaitable<FileAgent::Answer> State::ask_agent(std::string frame, std::uint64_t seq, bool takes_long) {
  const auto self = shared_from_this();
  if (lost_) throw gone(why_);
  if (!connection_->send(frame)) throw RunnerError("resource_exhausted", "", "too many files are being opened in this sandbox");
  auto pending = std::make_shared<PendingFile>();
  pending->deadline = Clock::now() + (takes_long ? kLongDeadline : kStartDeadline);
  pending->takes_long = takes_long;
  files_.emplace(seq, pending);
  arm_watchdog();
  while (!pending->answered) co_await wait_for(pending->waiters);
  if (!pending->error) throw gone(why_);
  if (*pending->error == ECANCELED) throw gone("it is being stopped");
  Answer answer;
  answer.seq = seq;
  answer.error = *pending->error;
  answer.fd = std::move(pending->fd);
  co_return answer;
}

void State::on_file_done(const Note& note, std::span<UniqueFd> fds) {
  const auto found = files_.find(note.seq);
  if (!came_up_ || found == files_.end() || fds.size() > 1 || note.value < 0) return lose("the agent broke the protocol");
  const auto pending = found->second;
  files_.erase(found);
  if (pending->answered) return;  // too late
  pending->error = note.value;
  if (!fds.empty()) pending->fd = std::move(fds.front());
  answer(*pending);
}

Clock::time_point State::next_deadline() const {
  auto next = pending_.empty() ? Clock::time_point::max() : pending_.begin()->second->deadline;
  for (const auto& [seq, file] : files_) next = std::min(next, file->deadline);
  return next;
}

void State::check_deadlines() {
  const auto now = Clock::now();
  if (!pending_.empty() && pending_.begin()->second->deadline <= now) return lose("its agent does not answer");
  for (const auto& [seq, file] : files_) {
    if (file->deadline > now) continue;
    if (!file->takes_long) return lose("its agent does not answer");
    file->deadline = Clock::time_point::max();
    file->error = ETIMEDOUT;
    answer(*file);
  }
}

void State::arm_watchdog() {
  if (watching_) return;
  const auto next = next_deadline();
  if (next == Clock::time_point::max()) return;
  watching_ = true;
  // Never later than a start's: what comes while it waits does not shorten it.
  watchdog_.expires_at(std::min(next, Clock::now() + kStartDeadline));
  // Not cancelled when the answer comes: a timer for each start would cost more than the start's own bookkeeping.
  watchdog_.async_wait([weak = weak_from_this()](const error_code& ec) {
    const auto self = weak.lock();
    if (!self || ec) return;
    self->watching_ = false;
    self->check_deadlines();
    if (!self->lost_) self->arm_watchdog();
  });
}

void State::on_note(Type type, const Note& note, std::span<UniqueFd> fds) {
  switch (type) {
    case Type::hello:
      if (came_up_ || note.value != agent::kVersion) return lose("the agent broke the protocol");
      came_up_ = true;
      if (!stop_deadline_) deadline_.cancel();
      errors_.reset();
      adopt_agent();
      return up_waiters_.resume_all(executor_);
    case Type::started:
      return on_started(note, fds);
    case Type::start_failed: {
      const auto found = pending_.find(note.seq);
      if (found == pending_.end()) return lose("the agent broke the protocol");
      const auto pending = found->second;
      pending_.erase(found);
      pending->failure = note;
      return answer(*pending);
    }
    case Type::file_done:
      return on_file_done(note, fds);
    case Type::exited: {
      const auto found = processes_.find(note.seq);
      if (found == processes_.end() || found->second->pid != note.pid) return lose("the agent broke the protocol");
      const auto process = found->second;
      processes_.erase(found);
      const ExitInfo info = exit_info(note.value);
      if (note.seq == kMainSeq) main_info_ = info;
      process->exit.set(info);
      return process->exit.fire();  // nobody listens yet when the answer to the start is still on its way
    }
    default:
      return lose("the agent broke the protocol");
  }
}

// Its number is its own for as long as bubblewrap has not waited for it. When that has happened it needs no watching.
void State::adopt_agent() {
  if (agent_ || monitor_reaped_ || connection_->peer() <= 0) return;
  if (UniqueFd agent = open_pidfd(connection_->peer()); agent && !has_ended(monitor_->native_handle(), 0)) {
    agent_.emplace(executor_, agent.release());
  }
}

void State::on_started(const Note& note, std::span<UniqueFd> fds) {
  const auto found = pending_.find(note.seq);
  if (!came_up_ || found == pending_.end()) return lose("the agent broke the protocol");
  const auto pending = found->second;
  pending_.erase(found);
  for (std::size_t i = 0; i < fds.size(); ++i) pending->fds[i] = std::move(fds[i]);
  pending->fd_count = fds.size();
  pending->process = std::make_shared<ProcessState>();
  pending->process->seq = note.seq;
  pending->process->pid = note.pid;
  processes_.emplace(note.seq, pending->process);
  answer(*pending);
}

void State::lose(std::string_view why) {
  if (lost_) return;
  lost_ = true;
  why_ = why;
  connection_->close();
  watchdog_.cancel();
  kill();
  auto pending = std::exchange(pending_, {});
  for (auto& [seq, start] : pending) answer(*start);
  auto files = std::exchange(files_, {});
  for (auto& [seq, file] : files) answer(*file);
  auto processes = std::exchange(processes_, {});
  for (auto& [seq, process] : processes) {
    process->exit.set(lost_info());
    // Not from inside a call of the listener's own.
    asio::post(executor_, [process = process] { process->exit.fire(); });
  }
  up_waiters_.resume_all(executor_);
  finish_when_over();
}

void State::kill() {
  killed_ = true;
  if (ended_) return;
  // Closing the socket ends an agent that runs or that is still to come; the signal one that is stuck. All else in its
  // namespace ends with it, and then bubblewrap does.
  if (!lost_) return lose("it was stopped");
  adopt_agent();
  if (agent_) kill_pidfd(agent_->native_handle(), SIGKILL);
  arm_deadline(Clock::now() + kKillAgain);
}

void State::arm_deadline(Clock::time_point when) {
  deadline_.expires_at(when);
  deadline_.async_wait([weak = weak_from_this()](const error_code& ec) {
    const auto self = weak.lock();
    if (!self || ec || self->ended_) return;
    if (self->agent_gone_) return self->finish_when_over();
    if (!self->came_up_ && !self->lost_) return self->lose("it did not come up in time");
    if (!self->killed_) return self->kill();
    // Killed once already.
    if (self->agent_) kill_pidfd(self->agent_->native_handle(), SIGKILL);
    if (self->monitor_) kill_pidfd(self->monitor_->native_handle(), SIGKILL);
    self->arm_deadline(Clock::now() + kKillAgain);
  });
}

void State::wait_monitor() {
  monitor_->async_wait(asio::posix::stream_descriptor::wait_read, [self = shared_from_this()](const error_code& ec) {
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
    return agent_->async_wait(asio::posix::stream_descriptor::wait_read, [self = shared_from_this()](const error_code& ec) {
      if (!ec) self->wait_agent();
    });
  }
  agent_gone_ = true;
  finish_when_over();
}

// The end has three parts: what the agent said last has been read up to the end of its socket, bubblewrap has been waited for,
// and the agent, with all that was in its namespace, is gone. Then the group that they were in goes.
void State::finish_when_over() {
  if (ended_ || !lost_ || !monitor_reaped_ || !agent_gone_) return;
  if (!main_info_) main_info_ = lost_info();
  if (group_) {
    const bool killed =
        main_info_->kind == ExitInfo::Kind::lost || (main_info_->kind == ExitInfo::Kind::signaled && main_info_->value == SIGKILL);
    if (removals_ == 0) main_info_->out_of_memory = killed && group_->killed_for_memory() > 0;
    // After all of it has ended the kernel may need a moment. What is not gone then is removed when the next sandbox is made.
    if (!group_->remove() && removals_++ < kRemovals) return arm_deadline(Clock::now() + kRemoveAgain);
    group_.reset();
  }
  ended_ = true;
  deadline_.cancel();
  main_exit_.set(*main_info_);
  asio::post(executor_, [self = shared_from_this()] { self->main_exit_.fire(); });
  ended_waiters_.resume_all(executor_);
}

asio::awaitable<void> State::wait_up() {
  const auto self = shared_from_this();
  while (!came_up_ && !lost_) co_await wait_for(up_waiters_);
}

asio::awaitable<void> State::wait_ended() {
  const auto self = shared_from_this();
  while (!ended_) co_await wait_for(ended_waiters_);
}

void State::stop(std::chrono::milliseconds grace) {
  if (lost_) return;
  grace = std::clamp(grace, std::chrono::milliseconds(0), std::chrono::milliseconds(std::chrono::hours(24)));
  const auto when = Clock::now() + grace;
  if (stop_deadline_ && *stop_deadline_ <= when) return;
  stop_deadline_ = when;
  Note note;
  note.value = static_cast<std::int32_t>(grace.count());
  if (!connection_->send(note_frame(Type::stop, note))) return kill();
  arm_deadline(when + kStopSlack);
}

void State::signal(const ProcessState& process, int number) {
  if (lost_ || number < 1 || number > 64) return;
  Note note;
  note.seq = process.seq;
  note.pid = process.pid;
  note.value = number;
  // With a full queue the agent has not read for very long: what was asked for cannot be had any more.
  if (!connection_->send(note_frame(Type::signal, note))) lose("its agent does not answer");
}

void State::on_exit(std::function<void(const ExitInfo&)> handler) {
  main_exit_.listen(std::move(handler));
  if (main_exit_.is_set()) asio::post(executor_, [self = shared_from_this()] { self->main_exit_.fire(); });
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
  errors_->async_wait(asio::posix::stream_descriptor::wait_read, [weak = weak_from_this()](const error_code& ec) {
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

class LocalProcess final : public Process {
 public:
  LocalProcess(std::shared_ptr<State> sandbox, std::shared_ptr<ProcessState> process, std::unique_ptr<ByteSink> in,
               std::unique_ptr<ByteSource> out, std::unique_ptr<ByteSource> err, std::shared_ptr<WaitableFd> terminal)
      : sandbox_(std::move(sandbox)),
        process_(std::move(process)),
        in_(std::move(in)),
        out_(std::move(out)),
        err_(std::move(err)),
        terminal_(std::move(terminal)) {}
  LocalProcess(const LocalProcess&) = delete;
  LocalProcess& operator=(const LocalProcess&) = delete;
  ~LocalProcess() override { process_->exit.forget(); }

  std::uint64_t pid() const noexcept override { return process_->pid; }
  ByteSink* std_in() noexcept override { return in_.get(); }
  ByteSource& std_out() noexcept override { return *out_; }
  ByteSource* std_err() noexcept override { return err_.get(); }
  void on_exit(std::function<void(const ExitInfo&)> handler) override {
    process_->exit.listen(std::move(handler));
    if (process_->exit.is_set()) asio::post(sandbox_->executor(), [process = process_] { process->exit.fire(); });
  }
  void signal_group(int number) override { sandbox_->signal(*process_, number); }
  void resize(std::uint16_t width, std::uint16_t height) override {
    if (!terminal_ || !terminal_->is_open()) return;
    const winsize size{height, width, 0, 0};
    ::ioctl(terminal_->get(), TIOCSWINSZ, &size);
  }

 private:
  std::shared_ptr<State> sandbox_;
  std::shared_ptr<ProcessState> process_;
  std::unique_ptr<ByteSink> in_;
  std::unique_ptr<ByteSource> out_, err_;
  std::shared_ptr<WaitableFd> terminal_;
};

using StreamFds = std::array<std::shared_ptr<WaitableFd>, agent::kMaxDescriptors>;

// False when the descriptors are not what was asked for. Reading and writing must not be able to block, so only pipes and
// terminals will do.
[[nodiscard]] bool take_streams(const State& sandbox, PendingStart& start, std::size_t wanted, bool tty, StreamFds& fds) {
  if (start.fd_count != wanted) return false;
  for (std::size_t i = 0; i < wanted; ++i) {
    const int fd = start.fds[i].get();
    if (!(tty ? is_terminal(fd) : is_pipe(fd)) || ::fcntl(fd, F_SETFL, O_NONBLOCK) != 0) return false;
    fds[i] = std::make_shared<WaitableFd>(sandbox.executor(), std::move(start.fds[i]));
  }
  return true;
}

// Null when the agent broke the protocol.
std::unique_ptr<Process> make_process(const std::shared_ptr<State>& sandbox, PendingStart& start, const ProcessSpec& spec) {
  const std::size_t wanted = spec.tty ? 1 : spec.use_stdin ? 3 : 2;
  StreamFds fds;
  if (!take_streams(*sandbox, start, wanted, spec.tty, fds)) return nullptr;
  if (spec.tty) {
    return std::make_unique<LocalProcess>(sandbox, start.process, std::make_unique<FdSink>(fds[0], true),
                                          std::make_unique<FdSource>(fds[0], true), nullptr, fds[0]);
  }
  std::unique_ptr<ByteSink> in;
  if (spec.use_stdin) in = std::make_unique<FdSink>(fds[0], false);
  return std::make_unique<LocalProcess>(sandbox, start.process, std::move(in), std::make_unique<FdSource>(fds[wanted - 2], false),
                                        std::make_unique<FdSource>(fds[wanted - 1], false), nullptr);
}

class LocalSandbox final : public Sandbox {
 public:
  LocalSandbox(std::shared_ptr<State> state, const StreamFds& main)
      : state_(std::move(state)), out_(main[0], false), err_(main[1], false), files_(make_local_files(state_)) {}
  LocalSandbox(const LocalSandbox&) = delete;
  LocalSandbox& operator=(const LocalSandbox&) = delete;
  ~LocalSandbox() override {
    state_->forget_exit();
    state_->kill();
  }

  ByteSource& main_stdout() noexcept override { return out_; }
  ByteSource& main_stderr() noexcept override { return err_; }
  Files& files() noexcept override { return *files_; }
  asio::awaitable<std::unique_ptr<Process>> start(ProcessSpec spec) override { return start_in(state_, std::move(spec)); }
  void on_exit(std::function<void(const ExitInfo&)> handler) override { state_->on_exit(std::move(handler)); }
  asio::awaitable<void> stop(std::chrono::milliseconds grace) override { return stop_in(state_, grace); }

 private:
  // The state, not this object, is what they need for as long as they take.
  static asio::awaitable<std::unique_ptr<Process>> start_in(std::shared_ptr<State> state, ProcessSpec spec) {
    check_command(spec.command);
    check_env(spec.env);
    check_directory(spec.cwd);
    std::uint8_t flags = 0;
    if (spec.use_stdin) flags |= agent::kWithStdin;
    if (spec.tty) flags |= agent::kWithTty;
    const auto answer = co_await state->request(spec, flags);
    if (answer->failure) throw_failure(*answer->failure, spec, *state);
    if (!answer->process) throw gone(state->why_lost());
    std::unique_ptr<Process> process = make_process(state, *answer, spec);
    if (!process) {
      state->lose("the agent broke the protocol");
      throw gone(state->why_lost());
    }
    co_return process;
  }

  static asio::awaitable<void> stop_in(std::shared_ptr<State> state, std::chrono::milliseconds grace) {
    state->stop(grace);
    co_await state->wait_ended();
  }

  [[noreturn]] static void throw_failure(const Note& failure, const ProcessSpec& spec, const State& state) {
    const auto stage = static_cast<Stage>(failure.detail);
    if (stage == Stage::stopping) throw gone("it is being stopped");
    throw start_failed(failure.value, stage, spec.command.front(), spec.cwd.empty() ? state.default_cwd() : spec.cwd);
  }

  std::shared_ptr<State> state_;
  FdSource out_, err_;
  std::unique_ptr<Files> files_;
};

// Ends a sandbox whose creation was given up, in whatever way.
class KillUnlessKept {
 public:
  explicit KillUnlessKept(std::shared_ptr<State> state) : state_(std::move(state)) {}
  KillUnlessKept(const KillUnlessKept&) = delete;
  KillUnlessKept& operator=(const KillUnlessKept&) = delete;
  ~KillUnlessKept() {
    if (state_) state_->kill();
  }
  void keep() noexcept { state_.reset(); }

 private:
  std::shared_ptr<State> state_;
};

class LocalRunner final : public Runner {
 public:
  LocalRunner(asio::any_io_executor executor, LocalRunnerOptions options)
      : executor_(std::move(executor)), launcher_(std::make_shared<Launcher>(std::move(options))) {}

  std::string_view name() const noexcept override { return "local"; }
  asio::awaitable<std::unique_ptr<Sandbox>> create(SandboxSpec spec) override {
    return create_with(executor_, launcher_, std::move(spec));
  }

 private:
  static asio::awaitable<std::unique_ptr<Sandbox>> create_with(asio::any_io_executor executor, std::shared_ptr<Launcher> launcher,
                                                               SandboxSpec spec) {
    if (!spec.image.empty() && spec.image != "host") {
      throw invalid("the image '" + spec.image +
                    "' cannot be had: a local sandbox has this machine's own system, the image named 'host' (or none given)");
    }
    check_command(spec.command);
    check_env(spec.env);
    check_directory(spec.working_dir);
    for (const InitialFile& file : spec.files) {
      if (file.path.empty() || file.path.front() != '/')
        throw invalid("a file's path must be absolute: '" + printable(file.path) + "'");
    }
    ProcessSpec main;
    main.command = spec.command;
    // Each further round does without something that this host does not have.
    for (;;) {
      auto state = std::make_shared<State>(executor, *launcher);
      state->set_defaults(spec.env, spec.working_dir);
      state->launch(*launcher, spec.resources);
      KillUnlessKept guard(state);
      std::shared_ptr<PendingStart> answer;
      std::exception_ptr error;
      try {
        co_await state->wait_up();
        if (const pid_t agent = state->agent_pid(); agent > 0) launcher->limit_files(agent, spec.resources);
        for (const InitialFile& file : spec.files) co_await write_whole_file(state, file.path, file.content);
        answer = co_await state->request(main, agent::kMain);
      } catch (...) {
        // One that never came up has a better reason than that it has gone.
        if (state->came_up() || !state->is_lost()) error = std::current_exception();
      }
      if (answer && answer->process) {
        StreamFds streams;
        if (take_streams(*state, *answer, 2, false, streams)) {
          guard.keep();
          co_return std::make_unique<LocalSandbox>(std::move(state), streams);
        }
        state->lose("the agent broke the protocol");
      }
      const bool came_up = state->came_up();
      const std::string why = state->why_lost();
      state->kill();
      co_await state->wait_ended();
      if (error) std::rethrow_exception(error);
      if (answer && answer->failure) {
        throw start_failed(answer->failure->value, static_cast<Stage>(answer->failure->detail), main.command.front(),
                           state->default_cwd());
      }
      if (came_up) throw gone(why);
      const std::string complaint = state->complaint();
      if (!launcher->adapt(complaint)) throw launcher->failure(complaint, why);
    }
  }

  asio::any_io_executor executor_;
  std::shared_ptr<Launcher> launcher_;
};

}  // namespace

std::unique_ptr<Runner> make_local_runner(asio::any_io_executor executor, LocalRunnerOptions options) {
  return std::make_unique<LocalRunner>(std::move(executor), std::move(options));
}

}  // namespace cwsandbox::runner::local
