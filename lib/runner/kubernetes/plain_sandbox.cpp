#include "runner/kubernetes/plain_sandbox.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>
#include <utility>

#include "base/ascii.hpp"
#include "base/numbers.hpp"
#include "base/text.hpp"
#include "runner/kubernetes/backoff.hpp"
#include "runner/kubernetes/pod_exec.hpp"
#include "runner/kubernetes/pod_spec.hpp"
#include "runner/local/agent_sandbox.hpp"
#include "runner/waiting.hpp"

namespace cwsandbox::runner::kubernetes {

namespace {

using Clock = std::chrono::steady_clock;

// Of one stream, in this process. Beyond it, nothing more is read from the cluster.
constexpr std::size_t kBuffer = std::size_t{256} * 1024;
constexpr std::size_t kReadSize = std::size_t{64} * 1024;
constexpr std::chrono::seconds kStartTime{30};  // until the shell has answered
constexpr std::chrono::seconds kSignalTime{30};
constexpr std::chrono::seconds kStopSlack{60};
constexpr std::size_t kMaxAnswer = 64;  // the shell's line
// A log that broke is read again from its beginning, up to where it broke. Beyond this the cluster may have begun a new file.
constexpr std::uint64_t kLogReadAgain = std::uint64_t{4} * 1024 * 1024;
constexpr std::chrono::hours kLogSilence{1};

[[nodiscard]] RunnerError unimplemented(const std::string& what) {
  return {ErrorCode::unimplemented, "CWSANDBOX_NOT_IMPLEMENTED", what};
}

// For a shell, whatever is in it.
[[nodiscard]] std::string shell_quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'') {
      out += "'\\''";
    } else {
      out += c;
    }
  }
  return out + "'";
}

// A line that ends the script, and cannot be in it.
[[nodiscard]] std::string random_line() {
  std::random_device device;
  std::string out = ".";
  for (int i = 0; i < 4; ++i) out += std::to_string(device());
  return out;
}

// What no process could have; a shell's variables have its names.
void check(const ProcessSpec& spec) {
  SandboxSpec like;
  like.command = spec.command;
  like.env = spec.env;
  like.working_dir = spec.cwd;
  local::check_spec(like);
  for (const auto& [name, value] : spec.env) {
    if (base::is_digit(name.front()) || !base::only_letters_digits_and("_", name))
      throw unimplemented("the environment variable '" + base::printable(name, 100) +
                          "' is none of a shell's, which starts processes in pods without the agent (--plain-exec)");
  }
}

// Reads lines until the one that it was given, so that half a script is never run; then becomes what they say.
constexpr const char* kReadScript =
    "s=;while IFS= read -r l;do if [ \"$l\" = \"$1\" ];then set --;eval \"$s\";exit;fi;s=\"$s$l\n\";done;exit 127";

/// An output, of a process or of the main command, filled by whoever reads it from the cluster.
class Output final : public ByteSource {
 public:
  explicit Output(asio::any_io_executor executor) : executor_(std::move(executor)) {}

  [[nodiscard]] bool full() const noexcept { return !closed_ && bytes_.size() - at_ >= kBuffer; }
  void put(std::string_view bytes) {
    if (closed_ || ended_ || bytes.empty()) return;
    if (at_ > 0 && at_ >= bytes_.size() / 2) {
      bytes_.erase(0, at_);
      at_ = 0;
    }
    bytes_ += bytes;
    readers_.resume_all(executor_);
  }
  void end() {
    if (std::exchange(ended_, true)) return;
    readers_.resume_all(executor_);
    room_.resume_all();
  }
  [[nodiscard]] Waiters& room() noexcept { return room_; }

  std::size_t try_read(asio::mutable_buffer into, error_code& ec) override {
    ec = {};
    if (into.size() == 0) return 0;
    const std::size_t n = closed_ ? 0 : std::min(into.size(), bytes_.size() - at_);
    if (n == 0) {
      ec = closed_ || ended_ ? error_code(asio::error::eof) : error_code(asio::error::would_block);
      return 0;
    }
    const bool was_full = full();
    std::memcpy(into.data(), bytes_.data() + at_, n);
    at_ += n;
    if (at_ == bytes_.size()) {
      bytes_ = std::string();
      at_ = 0;
    }
    if (was_full && !full()) room_.resume_all();
    return n;
  }
  void async_wait(IoHandler handler) override {
    if (closed_) return IoWaiters::post(executor_, std::move(handler), asio::error::operation_aborted);
    if (at_ < bytes_.size() || ended_) return IoWaiters::post(executor_, std::move(handler), {});
    readers_.add(std::move(handler));
  }
  [[nodiscard]] std::uint64_t unread() const noexcept override { return bytes_.size() - at_; }
  /// What comes later is thrown away: an exec has no way to tell the process that nobody reads.
  void close() noexcept override {
    if (std::exchange(closed_, true)) return;
    bytes_ = std::string();
    at_ = 0;
    readers_.resume_all(executor_, asio::error::operation_aborted);
    room_.resume_all();
  }

 private:
  asio::any_io_executor executor_;
  std::string bytes_;
  std::size_t at_ = 0;
  bool ended_ = false, closed_ = false;
  IoWaiters readers_;
  Waiters room_;
};

class NoFiles final : public Files {
 public:
  asio::awaitable<std::unique_ptr<FileReader>> open(std::string /*path*/) override { refuse(); }
  asio::awaitable<std::unique_ptr<FileWriter>> create(FileWriteSpec /*spec*/) override { refuse(); }
  asio::awaitable<FileInfo> stat(std::string /*path*/, bool /*follow_symlinks*/) override { refuse(); }
  asio::awaitable<std::unique_ptr<DirectoryReader>> list(std::string /*path*/) override { refuse(); }
  asio::awaitable<void> make_directory(std::string /*path*/, std::uint32_t /*mode*/, bool /*parents*/) override { refuse(); }
  asio::awaitable<void> remove(std::string /*path*/, bool /*recursive*/) override { refuse(); }
  asio::awaitable<void> rename(std::string /*from*/, std::string /*to*/) override { refuse(); }

 private:
  // Not "unimplemented": clients would take that for a server without the file service, and try other ways.
  [[noreturn]] static void refuse() {
    throw RunnerError(ErrorCode::failed_precondition, "CWSANDBOX_NOT_IMPLEMENTED",
                      "files need the agent, and this gateway's pods have none (--plain-exec)");
  }
};

struct Place {
  std::shared_ptr<ApiClient> client;
  std::string name_space, pod;

  [[nodiscard]] ExecRequest exec(std::vector<std::string> command) const {
    ExecRequest out;
    out.name_space = name_space;
    out.pod = pod;
    out.container = kMainContainer;
    out.command = std::move(command);
    return out;
  }
};

asio::awaitable<std::unique_ptr<PodExec>> open_exec(Place place, ExecRequest request) {
  try {
    auto opened = PodExec::open(place.client, std::move(request));
    co_return co_await std::move(opened);
  } catch (const ApiError& e) {
    throw unavailable(std::string("cannot reach the sandbox's pod: ") + e.what());
  }
}

// Drops an exec that takes too long.
class Deadline {
 public:
  Deadline(const asio::any_io_executor& executor, std::shared_ptr<PodExec> exec, Clock::duration time) : timer_(executor, time) {
    timer_.async_wait([exec = std::move(exec)](const error_code& ec) {
      if (!ec) exec->abort();
    });
  }

 private:
  asio::steady_timer timer_;
};

// From its start until its status, or until the connection breaks. Kept by its Process and by the coroutines that read and write.
struct Run : std::enable_shared_from_this<Run> {
  Run(Place where, std::shared_ptr<PodExec> socket)
      : place(std::move(where)), executor(place.client->executor()), exec(std::move(socket)), out(executor), err(executor) {}

  Place place;
  asio::any_io_executor executor;
  std::shared_ptr<PodExec> exec;
  Output out, err;
  std::uint64_t pid = 0;
  bool tty = false;
  std::optional<ExecStatus> status;
  ExitEvent exit;

  // ---- input ----
  std::string input;  // not sent yet
  std::uint64_t input_written = 0, input_sent = 0, input_wanted = 0;
  bool input_closed = false, input_broken = false;
  bool in_line = false;  // what was sent last is no end of a line
  bool size_changed = false;
  std::uint16_t width = 0, height = 0;
  IoWaiters input_room, input_arrival, input_break;
  Waiters input_there;

  void break_input() {
    input_broken = true;
    input_room.resume_all(executor);
    tell_arrival();
    input_break.resume_all(executor, asio::error::broken_pipe);
    input_there.resume_all();
  }

  void tell_arrival() {
    if (input_sent >= input_wanted) return input_arrival.resume_all(executor);
    if (input_broken) input_arrival.resume_all(executor, asio::error::broken_pipe);
  }

  void finish() {
    out.end();
    err.end();
    break_input();
    if (exit.is_set()) return;
    ExitInfo info = lost_now();
    if (status && status->kind != ExecStatus::Kind::failed) {
      info.kind = ExitInfo::Kind::exited;
      info.value = status->code;
    }
    exit.set(info);
    asio::post(executor, [self = shared_from_this()] { self->exit.fire(); });
  }

  // Ends the reading and the writing: nobody will tell of the process any more.
  void drop() {
    exec->abort();
    out.close();
    err.close();
    break_input();
  }

  void take(const PodExec::Message& message) {
    if (message.channel == PodExec::std_out) {
      out.put(message.payload);
    } else if (message.channel == PodExec::std_err) {
      err.put(message.payload);
    } else if (message.channel == PodExec::status) {
      status = parse_exec_status(message.payload);
    }
  }
};

asio::awaitable<void> read_all(std::shared_ptr<Run> run) {
  try {
    for (;;) {
      // One socket carries both outputs: an unread one holds up the other.
      while (run->out.full()) co_await wait_for(run->out.room());
      while (run->err.full()) co_await wait_for(run->err.room());
      const auto message = co_await run->exec->read();
      if (!message) break;
      run->take(*message);
      if (run->status) break;
    }
  } catch (const boost::system::system_error&) {
    // Without a status nobody knows how it ended, and that is what is told.
  }
  run->finish();
}

asio::awaitable<void> write_all(std::shared_ptr<Run> run) {
  try {
    std::string sending;
    while (!run->input_broken) {
      if (std::exchange(run->size_changed, false)) {
        co_await run->exec->resize(run->width, run->height);
      } else if (!run->input.empty()) {
        sending.clear();
        std::swap(sending, run->input);
        run->in_line = sending.back() != '\n' && sending.back() != '\r';
        run->input_room.resume_all(run->executor);
        co_await run->exec->write(sending, {});
        run->input_sent += sending.size();
        run->tell_arrival();
      } else if (run->input_closed) {
        // A terminal has a character for it, which behind an unfinished line only hands that out; its connection stays for what it
        // still says. Which mode it is in cannot be seen from here.
        if (run->tty) {
          co_await run->exec->write(run->in_line ? "\x04\x04" : "\x04", {});
        } else {
          co_await run->exec->close_stdin();
        }
        break;
      } else {
        co_await wait_for(run->input_there);
      }
    }
  } catch (const std::exception&) {
    run->break_input();  // the reader hears of the same break
  }
}

asio::awaitable<void> send_signal(Place place, std::uint64_t pid, int number) {
  const std::string kill = "kill -" + std::to_string(number) + " ";
  const std::string process = std::to_string(pid);
  // A shell that runtimes start by exec leads a session, and so a group.
  std::vector<std::string> command;
  command.emplace_back("sh");
  command.emplace_back("-c");
  command.push_back(kill + "-" + process + " 2>/dev/null || " + kill + process);
  try {
    auto request = place.exec(std::move(command));
    auto opening = open_exec(place, std::move(request));
    const std::shared_ptr<PodExec> exec = co_await std::move(opening);
    const Deadline deadline(place.client->executor(), exec, kSignalTime);
    for (;;) {
      const auto message = co_await exec->read();
      if (!message || message->channel == PodExec::status) break;
    }
  } catch (const std::exception&) {
    // As one that the process did not notice: whoever waits for its end has a deadline.
  }
}

class PlainProcess final : public Process {
 public:
  explicit PlainProcess(std::shared_ptr<Run> run, bool use_stdin) : run_(std::move(run)), input_(*run_), use_stdin_(use_stdin) {}
  PlainProcess(const PlainProcess&) = delete;
  PlainProcess& operator=(const PlainProcess&) = delete;
  ~PlainProcess() override {
    run_->exit.forget();
    run_->drop();
  }

  std::uint64_t pid() const noexcept override { return run_->pid; }
  ByteSink* std_in() noexcept override { return use_stdin_ ? &input_ : nullptr; }
  ByteSource& std_out() noexcept override { return run_->out; }
  ByteSource* std_err() noexcept override { return run_->tty ? nullptr : &run_->err; }
  void on_exit(std::function<void(const ExitInfo&)> handler) override {
    run_->exit.listen(std::move(handler));
    asio::post(run_->executor, [run = run_] { run->exit.fire(); });
  }
  void signal_group(int number) override {
    asio::co_spawn(run_->executor, send_signal(run_->place, run_->pid, number), asio::detached);
  }
  void resize(std::uint16_t width, std::uint16_t height) override {
    if (!run_->tty) return;
    run_->width = width;
    run_->height = height;
    run_->size_changed = true;
    run_->input_there.resume_all();
  }

 private:
  class Input final : public ByteSink {
   public:
    explicit Input(Run& run) : run_(run) {}
    std::size_t try_write(asio::const_buffer from, error_code& ec) override {
      ec = {};
      if (run_.input_broken || run_.input_closed) {
        ec = asio::error::broken_pipe;
        return 0;
      }
      const std::size_t n = std::min(from.size(), kBuffer - std::min(kBuffer, run_.input.size()));
      if (n == 0 && from.size() > 0) {
        ec = asio::error::would_block;
        return 0;
      }
      run_.input.append(static_cast<const char*>(from.data()), n);
      run_.input_written += n;
      run_.input_there.resume_all();
      return n;
    }
    void async_wait(IoHandler handler) override {
      if (run_.input_broken || run_.input.size() < kBuffer) return IoWaiters::post(run_.executor, std::move(handler), {});
      run_.input_room.add(std::move(handler));
    }
    void close() noexcept override {
      if (std::exchange(run_.input_closed, true)) return;
      run_.input_break.resume_all(run_.executor, asio::error::operation_aborted);
      run_.input_there.resume_all();
    }
    // pods/exec does not say what becomes of the input, nor that a process has closed its own: what the cluster has is all that
    // can be known while the process runs.
    std::uint64_t arrived() const noexcept override { return run_.input_sent; }
    void async_wait_arrived(IoHandler handler) override {
      run_.input_arrival.add(std::move(handler));
      run_.input_wanted = run_.input_written;
      run_.tell_arrival();
    }
    void async_wait_broken(IoHandler handler) override {
      run_.input_break.add(std::move(handler));
      if (run_.input_broken) return run_.input_break.resume_all(run_.executor, asio::error::broken_pipe);
      if (run_.input_closed) run_.input_break.resume_all(run_.executor, asio::error::operation_aborted);
    }

   private:
    Run& run_;
  };

  std::shared_ptr<Run> run_;
  Input input_;
  bool use_stdin_;
};

// The shell's first line; what came behind it is the process's already.
asio::awaitable<void> read_answer(std::shared_ptr<Run> run, std::string program) {
  std::string line;
  for (;;) {
    const auto message = co_await run->exec->read();
    if (!message || message->channel == PodExec::status) {
      std::string why = message ? parse_exec_status(message->payload).message : std::string();
      if (why.empty()) why = "the connection ended";
      throw StartFailed(ENOENT, "program", "cannot start a process in the pod, which takes a shell (sh) in its image: " + why);
    }
    if (message->channel != PodExec::std_out) continue;  // a shell's complaint; its status follows
    line += message->payload;
    const auto end = line.find('\n');
    if (end == std::string::npos) {
      if (line.size() > kMaxAnswer) throw unavailable("the pod's shell answered something else than a process's number");
      continue;
    }
    run->out.put(std::string_view(line).substr(end + 1));
    line.resize(end);
    if (!line.empty() && line.back() == '\r') line.pop_back();  // a terminal's
    break;
  }
  if (line == "!cwd") throw StartFailed(ENOENT, "cwd", "cannot change to the process's working directory");
  if (line == "!program") throw StartFailed(ENOENT, "program", "there is no program '" + base::printable(program, 200) + "'");
  if (line.starts_with('=')) run->pid = base::parse_number<decltype(run->pid)>(std::string_view(line).substr(1)).value_or(0);
  if (run->pid == 0) throw unavailable("the pod's shell answered something else than a process's number");
}

}  // namespace

std::string start_script(const ProcessSpec& spec) {
  std::string out;
  if (!spec.cwd.empty()) out += "cd -- " + shell_quoted(spec.cwd) + " 2>/dev/null||{ echo '!cwd';exit 0;}\n";
  for (const auto& [name, value] : spec.env) out += "export " + name + "=" + shell_quoted(value) + "\n";
  out += "command -v " + shell_quoted(spec.command.front()) + " >/dev/null 2>&1||{ echo '!program';exit 0;}\necho \"=$$\"\nexec";
  for (const std::string& word : spec.command) out += " " + shell_quoted(word);
  if (!spec.use_stdin && !spec.tty) out += " </dev/null";
  return out + "\n";
}

struct PlainSandbox::State : std::enable_shared_from_this<State> {
  State(Place where, std::function<void(const std::string&)> say)
      : place(std::move(where)),
        executor(place.client->executor()),
        log(std::move(say)),
        out(executor),
        err(executor),
        ended(executor) {
    err.end();
  }

  static asio::awaitable<void> follow(std::shared_ptr<State> self);
  static asio::awaitable<void> follow_once(std::shared_ptr<State> self);
  static asio::awaitable<std::unique_ptr<Process>> start(std::shared_ptr<State> self, ProcessSpec spec);
  static asio::awaitable<void> wait_ended(std::shared_ptr<State> self, Clock::time_point deadline);

  Place place;
  asio::any_io_executor executor;
  std::function<void(const std::string&)> log;
  Output out, err;
  NoFiles files;
  std::uint64_t seen = 0;  // bytes of the log
  std::shared_ptr<net::ClientExchange> exchange;
  bool gone = false, dropped = false;
  std::vector<std::weak_ptr<Run>> runs;
  ExitEvent exit;
  TimedWaiters ended;
};

// One connection's worth of the main command's output.
asio::awaitable<void> PlainSandbox::State::follow_once(std::shared_ptr<State> self) {
  Query query{{"container", std::string(kMainContainer)}, {"follow", "true"}};
  std::uint64_t skip = self->seen;
  if (skip > kLogReadAgain) {
    skip = 0;
    query.emplace_back("tailLines", "0");
    if (self->log) self->log("the log of " + self->place.pod + " broke; some of what it says may be missing");
  }
  std::string target = with_query(resource_path("v1", self->place.name_space, "pods", self->place.pod, "log"), query);
  auto opening = self->place.client->stream(std::move(target), kLogSilence);
  self->exchange = co_await std::move(opening);
  std::string chunk(kReadSize, '\0');
  while (!self->dropped) {
    while (self->out.full()) co_await wait_for(self->out.room());
    const std::size_t n = co_await self->exchange->read(asio::buffer(chunk));
    if (n == 0) break;
    const auto again = static_cast<std::size_t>(std::min<std::uint64_t>(skip, n));
    skip -= again;
    self->seen += n - again;
    self->out.put(std::string_view(chunk).substr(again, n - again));
  }
}

asio::awaitable<void> PlainSandbox::State::follow(std::shared_ptr<State> self) {
  Backoff backoff(std::chrono::milliseconds(200), std::chrono::seconds(10));
  std::string trouble;
  for (bool last = false; !self->dropped && !last;) {
    // Once more after its end: what it said last may have come after the connection broke.
    last = self->gone;
    try {
      auto once = follow_once(self);
      co_await std::move(once);
      if (self->gone) break;
      trouble.clear();
    } catch (const RunnerError& e) {
      trouble = e.what();
      if (e.code() == ErrorCode::not_found) break;
    } catch (const std::exception& e) {
      trouble = e.what();
    }
    self->exchange.reset();
    if (self->dropped || last) break;
    const auto pause = Clock::now() + backoff.next();
    co_await self->ended.wait_until(pause);
  }
  self->exchange.reset();
  if (!trouble.empty() && !self->dropped && self->log) self->log("the log of " + self->place.pod + ": " + trouble);
  self->out.end();
}

asio::awaitable<std::unique_ptr<Process>> PlainSandbox::State::start(std::shared_ptr<State> self, ProcessSpec spec) {
  check(spec);
  if (self->gone) throw unavailable("the sandbox has ended");
  if (spec.tty && !spec.env.empty())
    throw unimplemented(
        "a process with a terminal and variables of its own needs the agent, and this gateway's pods have none "
        "(--plain-exec)");
  std::string script = start_script(spec);
  std::vector<std::string> command;
  command.emplace_back("sh");
  command.emplace_back("-c");
  if (spec.tty) {
    command.push_back(std::move(script));
  } else {
    // What it is does not belong into a URL: that is written into logs, and is too short for some.
    const std::string end = random_line();
    command.emplace_back(kReadScript);
    command.emplace_back("sh");
    command.push_back(end);
    script += end + "\n";
  }
  ExecRequest request = self->place.exec(std::move(command));
  request.std_in = true;
  request.tty = spec.tty;
  auto opening = open_exec(self->place, std::move(request));
  std::shared_ptr<PodExec> exec = co_await std::move(opening);
  const auto run = std::make_shared<Run>(self->place, std::move(exec));
  run->tty = spec.tty;
  if (spec.use_stdin && !spec.tty && !run->exec->half_closes()) {
    throw unimplemented("the end of a process's input cannot be told over " + run->exec->protocol() +
                        ", which is all that this cluster speaks, and without the agent in its pods (--plain-exec)");
  }
  {
    const Deadline deadline(self->executor, run->exec, kStartTime);
    try {
      if (spec.tty) {
        co_await run->exec->resize(spec.tty_width, spec.tty_height);
      } else {
        co_await run->exec->write(script, {});
      }
      auto answered = read_answer(run, spec.command.front());
      co_await std::move(answered);
    } catch (const boost::system::system_error& e) {
      throw unavailable(std::string("the sandbox's pod did not answer: ") + e.what());
    }
  }
  if (self->gone) throw unavailable("the sandbox has ended");
  std::erase_if(self->runs, [](const std::weak_ptr<Run>& old) { return old.expired(); });
  self->runs.push_back(run);
  asio::co_spawn(self->executor, read_all(run), asio::detached);
  if (spec.use_stdin || spec.tty) asio::co_spawn(self->executor, write_all(run), asio::detached);
  co_return std::make_unique<PlainProcess>(run, spec.use_stdin);
}

asio::awaitable<void> PlainSandbox::State::wait_ended(std::shared_ptr<State> self, Clock::time_point deadline) {
  while (!self->gone && Clock::now() < deadline) co_await self->ended.wait_until(deadline);
}

PlainSandbox::PlainSandbox(std::shared_ptr<ApiClient> client, std::string name_space, std::string pod,
                           std::function<void(const std::string&)> log)
    : state_(std::make_shared<State>(Place{std::move(client), std::move(name_space), std::move(pod)}, std::move(log))) {
  asio::co_spawn(state_->executor, State::follow(state_), asio::detached);
}

PlainSandbox::~PlainSandbox() {
  state_->dropped = true;
  state_->exit.forget();
  state_->out.close();
  if (state_->exchange) state_->exchange->abort();
  state_->ended.notify();
}

void PlainSandbox::place_gone(const std::optional<ExitInfo>& exit) {
  if (std::exchange(state_->gone, true)) return;
  // An exec's status may still be on its way; whoever has none when its connection ends is lost. Nothing of them is left to signal.
  for (const auto& weak : state_->runs) {
    const auto run = weak.lock();
    if (!run || run->exit.is_set()) continue;
    run->finish();
    run->exec->abort();
  }
  state_->exit.set(exit ? *exit : lost_now());
  asio::post(state_->executor, [state = state_] { state->exit.fire(); });
  state_->ended.notify();
}

ByteSource& PlainSandbox::main_stdout() noexcept { return state_->out; }
ByteSource& PlainSandbox::main_stderr() noexcept { return state_->err; }
Files& PlainSandbox::files() noexcept { return state_->files; }
asio::awaitable<std::unique_ptr<Process>> PlainSandbox::start(ProcessSpec spec) { return State::start(state_, std::move(spec)); }
void PlainSandbox::on_exit(std::function<void(const ExitInfo&)> handler) {
  state_->exit.listen(std::move(handler));
  asio::post(state_->executor, [state = state_] { state->exit.fire(); });
}
asio::awaitable<void> PlainSandbox::stop(std::chrono::milliseconds grace) {
  return State::wait_ended(state_, Clock::now() + grace + kStopSlack);
}

}  // namespace cwsandbox::runner::kubernetes
