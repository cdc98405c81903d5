#include "runner/local/agent_sandbox.hpp"

#include <boost/asio/async_result.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <exception>
#include <utility>

#include "base/descriptor_limit.hpp"
#include "base/errno_text.hpp"
#include "base/text.hpp"
#include "runner/local/agent_connection.hpp"
#include "runner/local/descriptor_io.hpp"
#include "runner/local/terminal_io.hpp"

namespace cwsandbox::runner::local {

using agent::Note;
using agent::Stage;
using agent::Type;

namespace {

// For the agent's answer to a start: it waits while the kernel reads the program, which can be slow but not this slow.
constexpr std::chrono::seconds kStartDeadline{30};
// For a file operation that takes long; the agent itself gives it up before.
constexpr std::chrono::seconds kLongDeadline{300};
// How long a sandbox may take to go after its grace before everything in it is killed from outside.
constexpr std::chrono::seconds kStopSlack{2};
// How long a killed one may take before it is killed again.
constexpr std::chrono::seconds kKillAgain{2};

// The main command is the first process that is asked for.
constexpr std::uint64_t kMainSeq = 1;

constexpr const char* kInvalid = "CWSANDBOX_INVALID_REQUEST";

[[nodiscard]] RunnerError invalid(const std::string& what) { return {ErrorCode::invalid_argument, kInvalid, what}; }
[[nodiscard]] RunnerError gone(std::string_view why) {
  return {ErrorCode::unavailable, kUnavailable, "the sandbox has ended: " + std::string(why)};
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
  return {error, stage_name(stage), what + ": " + base::error_text(error)};
}

[[nodiscard]] RunnerError untaken(const std::string& program) {
  return {ErrorCode::resource_exhausted, kUnavailable,
          "cannot take the streams of '" + program + "': " + base::error_text(EMFILE) + base::descriptor_hint(EMFILE)};
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

}  // namespace

struct AgentSandbox::ProcessState {
  std::uint64_t seq = 0;
  std::uint32_t pid = 0;
  std::uint64_t memory_kills = 0;  // when it was started, as far as known
  ExitEvent exit;
  ExitEvent group_gone;  // what it is told with means nothing
};

// A start that the agent has not answered yet.
struct AgentSandbox::PendingStart {
  Clock::time_point deadline;
  bool answered = false;
  std::optional<Note> failure;
  bool untaken = false;  // it has started, and this process had no descriptors left for its streams
  std::array<UniqueFd, agent::kMaxDescriptors> fds;
  std::size_t fd_count = 0;
  std::shared_ptr<ProcessState> process;  // null: failed, or the sandbox has gone
  Waiters waiters;
};

// The same of a file operation.
struct AgentSandbox::PendingFile {
  Clock::time_point deadline;
  bool takes_long = false;  // then a late answer is no reason to give up the sandbox
  bool answered = false;
  std::optional<int> error;  // none: the sandbox has gone
  UniqueFd fd;
  Waiters waiters;
};

void check_spec(const SandboxSpec& spec) {
  check_command(spec.command);
  check_env(spec.env);
  check_directory(spec.working_dir);
  for (const InitialFile& file : spec.files) {
    if (file.path.empty() || file.path.front() != '/')
      throw invalid("a file's path must be absolute: '" + base::printable_utf8(file.path) + "'");
  }
}

AgentSandbox::AgentSandbox(asio::any_io_executor executor)
    : executor_(std::move(executor)), deadline_(executor_), watchdog_(executor_), next_seq_(kMainSeq) {}
AgentSandbox::~AgentSandbox() = default;

void AgentSandbox::connect(UniqueFd control, std::chrono::milliseconds deadline) {
  connection_ = std::make_shared<AgentConnection>(executor_, std::move(control));
  const std::weak_ptr<AgentSandbox> weak = weak_from_this();
  connection_->open(
      [weak](Type type, const Note& note, std::span<UniqueFd> fds) {
        if (const auto self = weak.lock()) self->on_note(type, note, fds);
      },
      [weak](std::string_view why) {
        if (const auto self = weak.lock()) self->lose(why);
      });
  arm_deadline(Clock::now() + deadline);
}

pid_t AgentSandbox::agent_number() const noexcept { return connection_->peer(); }

void AgentSandbox::close_connection() noexcept {
  if (connection_) connection_->close();
}

void AgentSandbox::set_defaults(std::map<std::string, std::string> env, std::string cwd) {
  env_ = std::move(env);
  cwd_ = std::move(cwd);
}

std::string AgentSandbox::encode(std::uint64_t seq, const ProcessSpec& spec, std::uint8_t flags) const {
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

asio::awaitable<std::shared_ptr<AgentSandbox::PendingStart>> AgentSandbox::request(ProcessSpec spec, std::uint8_t flags) {
  const auto self = shared_from_this();
  if (lost_) throw gone(why_);
  const std::uint64_t seq = next_seq_++;
  const std::string frame = encode(seq, spec, flags);
  // The kernel's limit is lower, so what does not fit here it would refuse with the same error.
  if (frame.size() > agent::kMaxRequest) throw start_failed(E2BIG, Stage::program, spec.command.front(), spec.cwd);
  auto pending = std::make_shared<PendingStart>();
  pending->deadline = Clock::now() + kStartDeadline;
  if (!connection_->send(frame))
    throw RunnerError(ErrorCode::resource_exhausted, "", "too many processes are being started in this sandbox");
  pending_.emplace(seq, pending);
  arm_watchdog();
  while (!pending->answered) co_await wait_for(pending->waiters);
  co_return pending;
}

template <class Pending>
void AgentSandbox::answer(Pending& pending) {
  pending.answered = true;
  pending.waiters.resume_all();
}

asio::awaitable<FileAgent::Answer> AgentSandbox::ask(const Question& question) {
  const std::uint64_t seq = next_file_++;
  const std::size_t strings = cwd_.size() + question.path.size() + question.second.size() + 3;
  std::string frame;
  frame.reserve(agent::kFrameHead + agent::kFileHead + strings);
  append(frame, static_cast<std::uint32_t>(1 + agent::kFileHead + strings));
  append(frame, Type::file);
  append(frame, seq);
  append(frame, question.op);
  append(frame, question.flags);
  append(frame, question.mode);
  append(frame, question.modified);
  const std::string* const all[] = {&cwd_, &question.path, &question.second};
  for (const std::string* string : all) frame.append(string->c_str(), string->size() + 1);
  const bool takes_long =
      question.op == agent::FileOp::open || (question.op == agent::FileOp::remove && (question.flags & agent::kRecursive) != 0);
  return ask_agent(std::move(frame), seq, takes_long);
}

asio::awaitable<FileAgent::Answer> AgentSandbox::commit(std::uint64_t seq) {
  Note note;
  note.seq = seq;
  return ask_agent(note_frame(Type::commit, note), seq, false);
}

asio::awaitable<FileAgent::Answer> AgentSandbox::reserve(std::uint64_t seq, std::int32_t bytes) {
  Note note;
  note.seq = seq;
  note.value = bytes;
  return ask_agent(note_frame(Type::reserve, note), seq, false);
}

void AgentSandbox::abort(std::uint64_t seq) noexcept {
  if (lost_) return;
  Note note;
  note.seq = seq;
  if (!connection_->send(note_frame(Type::abort, note))) lose("its agent does not answer");
}

void AgentSandbox::refuse() {
  lose("the agent broke the protocol");
  throw gone(why_);
}

asio::awaitable<FileAgent::Answer> AgentSandbox::ask_agent(std::string frame, std::uint64_t seq, bool takes_long) {
  const auto self = shared_from_this();
  if (lost_) throw gone(why_);
  if (!connection_->send(frame))
    throw RunnerError(ErrorCode::resource_exhausted, "", "too many files are being opened in this sandbox");
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

void AgentSandbox::on_file_done(const Note& note, std::span<UniqueFd> fds) {
  const auto found = files_.find(note.seq);
  if (!came_up_ || found == files_.end() || fds.size() > 1 || note.value < 0) return lose("the agent broke the protocol");
  const auto pending = found->second;
  files_.erase(found);
  if (pending->answered) return;  // too late
  pending->error = note.value;
  if (!fds.empty()) pending->fd = std::move(fds.front());
  if (fds.size() < note.detail) {
    pending->error = EMFILE;
    abort(note.seq);
    if (lost_) return;
  }
  answer(*pending);
}

AgentSandbox::Clock::time_point AgentSandbox::next_deadline() const {
  auto next = pending_.empty() ? Clock::time_point::max() : pending_.begin()->second->deadline;
  for (const auto& [seq, file] : files_) next = std::min(next, file->deadline);
  return next;
}

void AgentSandbox::check_deadlines() {
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

void AgentSandbox::arm_watchdog() {
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

void AgentSandbox::on_note(Type type, const Note& note, std::span<UniqueFd> fds) {
  switch (type) {
    case Type::hello:
      if (came_up_ || note.value != agent::kVersion) return lose("the agent broke the protocol");
      came_up_ = true;
      if (!stop_deadline_) deadline_.cancel();
      on_up();
      return up_waiters_.resume_all();
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
    case Type::exited:
      return on_exited(note);
    case Type::group_gone:
      return on_group_gone(note);
    default:
      return lose("the agent broke the protocol");
  }
}

void AgentSandbox::on_started(const Note& note, std::span<UniqueFd> fds) {
  const auto found = pending_.find(note.seq);
  if (!came_up_ || found == pending_.end()) return lose("the agent broke the protocol");
  const auto pending = found->second;
  pending_.erase(found);
  const auto process = std::make_shared<ProcessState>();
  process->seq = note.seq;
  process->pid = note.pid;
  process->memory_kills = memory_kills_;
  processes_.emplace(note.seq, process);
  if (fds.size() < note.detail) {
    pending->untaken = true;
    signal(*process, SIGKILL);
    if (lost_) return;
  } else {
    for (std::size_t i = 0; i < fds.size(); ++i) pending->fds[i] = std::move(fds[i]);
    pending->fd_count = fds.size();
    pending->process = process;
  }
  answer(*pending);
}

void AgentSandbox::on_exited(const Note& note) {
  const auto found = processes_.find(note.seq);
  if (found == processes_.end() || found->second->pid != note.pid) return lose("the agent broke the protocol");
  const auto process = found->second;
  processes_.erase(found);
  ExitInfo info = exit_info(note.value);
  // A shell says so of its last command, which is whom the kernel takes.
  const bool killed = info.value == (info.kind == ExitInfo::Kind::exited ? 128 + SIGKILL : SIGKILL);
  if (killed) {
    memory_kills_ = memory_kills();
    info.out_of_memory = memory_kills_ > process->memory_kills;
  }
  if (main_info_ && main_info_->out_of_memory) info.out_of_memory = true;
  if (note.seq == kMainSeq) {
    main_info_ = info;
  } else {
    info.main_ended = main_info_.has_value();
  }
  const bool alone = note.detail == 0;
  // Whoever has no handle will not ask.
  if (!alone && process.use_count() > 1) groups_.emplace(note.seq, process);
  if (alone) process->group_gone.set(info);
  process->exit.set(info);
  process->exit.fire();  // nobody listens yet when the answer to the start is still on its way
  process->group_gone.fire();
}

void AgentSandbox::on_group_gone(const Note& note) {
  const auto found = groups_.find(note.seq);
  if (found == groups_.end()) return;
  const auto process = found->second.lock();
  groups_.erase(found);
  if (!process) return;
  process->group_gone.set(lost_now());
  process->group_gone.fire();
}

void AgentSandbox::forget_group(const ProcessState& process) noexcept { groups_.erase(process.seq); }

void AgentSandbox::lose(std::string_view why) {
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
    ExitInfo info = lost_now();
    info.main_ended = main_info_.has_value();
    info.out_of_memory = info.main_ended && main_info_->out_of_memory;
    process->exit.set(info);
    // Not from inside a call of the listener's own.
    asio::post(executor_, [process = process] { process->exit.fire(); });
  }
  up_waiters_.resume_all();
  finish_when_over();
}

void AgentSandbox::kill() {
  killed_ = true;
  if (ended_) return;
  // Closing the socket ends an agent that runs or that is still to come, and with it all else in its namespace.
  if (!lost_) return lose("it was stopped");
  end_by_force();
  arm_deadline(Clock::now() + kKillAgain);
}

void AgentSandbox::arm_deadline(Clock::time_point when) {
  deadline_.expires_at(when);
  deadline_.async_wait([weak = weak_from_this()](const error_code& ec) {
    const auto self = weak.lock();
    if (!self || ec || self->ended_) return;
    if (!self->came_up_ && !self->lost_) return self->lose("it did not come up in time");
    if (!self->killed_) return self->kill();
    self->arm_deadline(Clock::now() + kKillAgain);
    self->kill_again();
  });
}

// The end has two parts: what the agent said last has been read up to the end of its socket, and all else is gone.
void AgentSandbox::finish_when_over() {
  if (ended_ || !lost_) return;
  if (!main_info_) main_info_ = lost_now();
  if (!is_gone(*main_info_)) return;
  ended_ = true;
  deadline_.cancel();
  main_exit_.set(*main_info_);
  asio::post(executor_, [self = shared_from_this()] { self->main_exit_.fire(); });
  ended_waiters_.resume_all();
}

asio::awaitable<void> AgentSandbox::wait_up() {
  const auto self = shared_from_this();
  while (!came_up_ && !lost_) co_await wait_for(up_waiters_);
}

asio::awaitable<void> AgentSandbox::wait_ended() {
  const auto self = shared_from_this();
  while (!ended_) co_await wait_for(ended_waiters_);
}

void AgentSandbox::stop(std::chrono::milliseconds grace) {
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

void AgentSandbox::signal(const ProcessState& process, int number) {
  if (lost_ || number < 1 || number > 64) return;
  Note note;
  note.seq = process.seq;
  note.pid = process.pid;
  note.value = number;
  // With a full queue the agent has not read for very long: what was asked for cannot be had any more.
  if (!connection_->send(note_frame(Type::signal, note))) lose("its agent does not answer");
}

void AgentSandbox::on_exit(std::function<void(const ExitInfo&)> handler) {
  main_exit_.listen(std::move(handler));
  if (main_exit_.is_set()) asio::post(executor_, [self = shared_from_this()] { self->main_exit_.fire(); });
}

namespace {

[[nodiscard]] bool is_pipe(int fd) {
  struct stat status{};
  return ::fstat(fd, &status) == 0 && S_ISFIFO(status.st_mode);
}

[[nodiscard]] bool is_terminal(int fd) {
  struct stat status{};
  return ::fstat(fd, &status) == 0 && S_ISCHR(status.st_mode) && ::isatty(fd) == 1;
}

class AgentProcess final : public Process {
 public:
  AgentProcess(std::shared_ptr<AgentSandbox> sandbox, std::shared_ptr<AgentSandbox::ProcessState> process,
               std::unique_ptr<FdSink> in, std::unique_ptr<FdSource> out, std::unique_ptr<FdSource> err)
      : AgentProcess(std::move(sandbox), std::move(process)) {
    pipes_ = {out.get(), err.get()};
    in_ = std::move(in);
    out_ = std::move(out);
    err_ = std::move(err);
  }
  AgentProcess(std::shared_ptr<AgentSandbox> sandbox, std::shared_ptr<AgentSandbox::ProcessState> process,
               std::shared_ptr<Terminal> terminal)
      : AgentProcess(std::move(sandbox), std::move(process)) {
    terminal_ = std::move(terminal);
    in_ = std::make_unique<TerminalSink>(terminal_);
    out_ = std::make_unique<TerminalSource>(terminal_);
  }
  AgentProcess(const AgentProcess&) = delete;
  AgentProcess& operator=(const AgentProcess&) = delete;
  ~AgentProcess() override {
    process_->exit.forget();
    process_->group_gone.forget();
    sandbox_->forget_group(*process_);
    exit_->forget();
  }

  std::uint64_t pid() const noexcept override { return process_->pid; }
  ByteSink* std_in() noexcept override { return in_.get(); }
  ByteSource& std_out() noexcept override { return *out_; }
  ByteSource* std_err() noexcept override { return err_.get(); }
  void on_exit(std::function<void(const ExitInfo&)> handler) override {
    exit_->listen(std::move(handler));
    if (exit_->is_set()) asio::post(sandbox_->executor(), [exit = exit_] { exit->fire(); });
  }
  void on_group_gone(std::function<void()> handler) override {
    process_->group_gone.listen([handler = std::move(handler)](const ExitInfo&) { handler(); });
    // Behind the exit's, which may have been posted just now.
    if (process_->group_gone.is_set()) asio::post(sandbox_->executor(), [process = process_] { process->group_gone.fire(); });
  }
  void signal_group(int number) override { sandbox_->signal(*process_, number); }
  void resize(std::uint16_t width, std::uint16_t height) override {
    if (terminal_) terminal_->resize(width, height);
  }

 private:
  AgentProcess(std::shared_ptr<AgentSandbox> sandbox, std::shared_ptr<AgentSandbox::ProcessState> process)
      : sandbox_(std::move(sandbox)), process_(std::move(process)), exit_(std::make_shared<ExitEvent>()) {
    process_->exit.listen([this](const ExitInfo& info) { ended(info); });
    if (process_->exit.is_set()) asio::post(sandbox_->executor(), [process = process_] { process->exit.fire(); });
  }

  void ended(ExitInfo info) {
    if (terminal_) {
      terminal_->leader_ended();
    } else if (info.kind != ExitInfo::Kind::lost) {
      info.written.emplace();
      for (std::size_t i = 0; i < pipes_.size(); ++i) (*info.written)[i] = pipes_[i]->taken() + pipes_[i]->unread();
    }
    exit_->set(info);
    const auto exit = exit_;  // the handler may destroy this object
    exit->fire();
  }

  std::shared_ptr<AgentSandbox> sandbox_;
  std::shared_ptr<AgentSandbox::ProcessState> process_;
  std::shared_ptr<ExitEvent> exit_;  // as it is told
  std::unique_ptr<ByteSink> in_;
  std::unique_ptr<ByteSource> out_, err_;
  std::array<FdSource*, 2> pipes_{};
  std::shared_ptr<Terminal> terminal_;
};

using StreamFds = std::array<std::shared_ptr<WaitableFd>, agent::kMaxDescriptors>;

// False when the descriptors are not what was asked for. Reading and writing must not be able to block, so only pipes and
// terminals will do.
[[nodiscard]] bool take_streams(const AgentSandbox& sandbox, AgentSandbox::PendingStart& start, std::size_t wanted, bool tty,
                                StreamFds& fds) {
  if (start.fd_count != wanted) return false;
  for (std::size_t i = 0; i < wanted; ++i) {
    const int fd = start.fds[i].get();
    if (!(tty ? is_terminal(fd) : is_pipe(fd)) || ::fcntl(fd, F_SETFL, O_NONBLOCK) != 0) return false;
    fds[i] = std::make_shared<WaitableFd>(sandbox.executor(), std::move(start.fds[i]));
  }
  return true;
}

// Null when the agent broke the protocol.
std::unique_ptr<Process> make_process(const std::shared_ptr<AgentSandbox>& sandbox, AgentSandbox::PendingStart& start,
                                      const ProcessSpec& spec) {
  const std::size_t wanted = spec.tty ? 1 : spec.use_stdin ? 3 : 2;
  StreamFds fds;
  if (!take_streams(*sandbox, start, wanted, spec.tty, fds)) return nullptr;
  if (spec.tty)
    return std::make_unique<AgentProcess>(sandbox, start.process, std::make_shared<Terminal>(sandbox->executor(), fds[0]));
  std::unique_ptr<FdSink> in;
  if (spec.use_stdin) in = std::make_unique<FdSink>(fds[0]);
  return std::make_unique<AgentProcess>(sandbox, start.process, std::move(in), std::make_unique<FdSource>(fds[wanted - 2]),
                                        std::make_unique<FdSource>(fds[wanted - 1]));
}

class RunningSandbox final : public Sandbox {
 public:
  RunningSandbox(std::shared_ptr<AgentSandbox> state, const StreamFds& main)
      : state_(std::move(state)), out_(main[0]), err_(main[1]), files_(make_local_files(state_)) {}
  RunningSandbox(const RunningSandbox&) = delete;
  RunningSandbox& operator=(const RunningSandbox&) = delete;
  ~RunningSandbox() override {
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
  static asio::awaitable<std::unique_ptr<Process>> start_in(std::shared_ptr<AgentSandbox> state, ProcessSpec spec) {
    check_command(spec.command);
    check_env(spec.env);
    check_directory(spec.cwd);
    std::uint8_t flags = 0;
    if (spec.use_stdin) flags |= agent::kWithStdin;
    if (spec.tty) flags |= agent::kWithTty;
    const auto answer = co_await state->request(spec, flags);
    if (answer->failure) throw_failure(*answer->failure, spec, *state);
    if (answer->untaken) throw untaken(spec.command.front());
    if (!answer->process) throw gone(state->why_lost());
    std::unique_ptr<Process> process = make_process(state, *answer, spec);
    if (!process) {
      state->lose("the agent broke the protocol");
      throw gone(state->why_lost());
    }
    co_return process;
  }

  static asio::awaitable<void> stop_in(std::shared_ptr<AgentSandbox> state, std::chrono::milliseconds grace) {
    state->stop(grace);
    co_await state->wait_ended();
  }

  [[noreturn]] static void throw_failure(const Note& failure, const ProcessSpec& spec, const AgentSandbox& state) {
    const auto stage = static_cast<Stage>(failure.detail);
    if (stage == Stage::stopping) throw gone("it is being stopped");
    throw start_failed(failure.value, stage, spec.command.front(), spec.cwd.empty() ? state.default_cwd() : spec.cwd);
  }

  std::shared_ptr<AgentSandbox> state_;
  FdSource out_, err_;
  std::unique_ptr<Files> files_;
};

// Ends a sandbox whose creation was given up, in whatever way.
class KillUnlessKept {
 public:
  explicit KillUnlessKept(std::shared_ptr<AgentSandbox> state) : state_(std::move(state)) {}
  KillUnlessKept(const KillUnlessKept&) = delete;
  KillUnlessKept& operator=(const KillUnlessKept&) = delete;
  ~KillUnlessKept() {
    if (state_) state_->kill();
  }
  void keep() noexcept { state_.reset(); }

 private:
  std::shared_ptr<AgentSandbox> state_;
};

}  // namespace

asio::awaitable<bool> AgentSandbox::come_up(std::shared_ptr<AgentSandbox> self) {
  co_await self->wait_up();
  if (!self->came_up_) co_return false;
  if (!std::exchange(self->prepared_, true)) {
    auto preparing = self->prepare();
    co_await std::move(preparing);
  }
  co_return true;
}

asio::awaitable<std::unique_ptr<Sandbox>> AgentSandbox::begin(std::shared_ptr<AgentSandbox> self, const SandboxSpec& spec) {
  KillUnlessKept guard(self);
  ProcessSpec main;
  main.command = spec.command;
  std::shared_ptr<PendingStart> answer;
  std::exception_ptr error;
  try {
    auto coming = come_up(self);
    if (co_await std::move(coming)) {
      for (const InitialFile& file : spec.files) co_await write_whole_file(self, file.path, file.content);
      answer = co_await self->request(main, agent::kMain);
    }
  } catch (...) {
    error = std::current_exception();
  }
  if (answer && answer->process) {
    StreamFds streams;
    if (take_streams(*self, *answer, 2, false, streams)) {
      guard.keep();
      co_return std::make_unique<RunningSandbox>(std::move(self), streams);
    }
    self->lose("the agent broke the protocol");
  }
  const std::string why = self->why_lost();
  self->kill();
  co_await self->wait_ended();
  if (error) std::rethrow_exception(error);
  if (answer && answer->failure) {
    throw start_failed(answer->failure->value, static_cast<Stage>(answer->failure->detail), main.command.front(), self->cwd_);
  }
  if (answer && answer->untaken) throw untaken(main.command.front());
  if (self->came_up_) throw gone(why);
  co_return nullptr;
}

}  // namespace cwsandbox::runner::local
