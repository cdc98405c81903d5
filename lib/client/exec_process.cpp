#include "client/exec_process.hpp"

#include "base/numbers.hpp"
#include "client/errors.hpp"
#include "client/unary_exec.hpp"
#include "core/process_status.hpp"
#include "net/http_client.hpp"
#include "protocol/signals.hpp"

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/post.hpp>

#include <algorithm>

namespace cwsandbox::client {

using protocol::Channel;
using std::make_exception_ptr;

namespace {

// Beyond the grace time, before a cancel counts as unconfirmed.
constexpr std::chrono::seconds kCancelMargin{5};
// A quiet stdin is acknowledged after this, so that flush() completes; a busy one by its windows.
constexpr std::chrono::milliseconds kFlushDelay{2};
// A connection that lasted so long was of some use, also when the process had nothing to say.
constexpr std::chrono::seconds kUsefulTime{1};
constexpr std::uint64_t kMinWindow = 64 * 1024;
constexpr std::uint64_t kMostRest = protocol::kMaxWindow;

std::chrono::system_clock::time_point from_ms(std::uint64_t ms) {
  return std::chrono::system_clock::time_point(std::chrono::milliseconds(static_cast<std::int64_t>(ms)));
}

EndReason reason_of(protocol::ExitStatus::Reason reason) {
  using Wire = protocol::ExitStatus::Reason;
  switch (reason) {
    case Wire::none:
      return EndReason::none;
    case Wire::timeout:
      return EndReason::timeout;
    case Wire::sandbox_stopped:
      return EndReason::sandbox_stopped;
    case Wire::lifetime:
      return EndReason::lifetime;
    case Wire::out_of_memory:
      return EndReason::out_of_memory;
    case Wire::main_ended:
      return EndReason::main_ended;
    case Wire::gateway_shutdown:
      return EndReason::gateway_shutdown;
    case Wire::other:
      break;
  }
  return EndReason::other;
}

}  // namespace

void ExecCounters::started() {
  const std::lock_guard lock(mutex_);
  ++counts_.exec_count;
}
void ExecCounters::ended(Outcome outcome, std::optional<int> code, bool failed) {
  const std::lock_guard lock(mutex_);
  if (outcome == Outcome::exited && code == 0)
    ++counts_.completed_ok;
  else if (outcome == Outcome::exited || (outcome == Outcome::signaled && !failed))
    ++counts_.completed_nonzero;
  else
    ++counts_.failures;
}
ExecCounters::Snapshot ExecCounters::snapshot() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

/// What all handles and waits share; its end means that nobody is interested any more. It does not own the process: a wait owns
/// this, and belongs to the process, which is owned by its handles and by what it has under way.
struct ExecProcess::Guard {
  Guard(const std::shared_ptr<ExecProcess>& p, std::shared_ptr<void> k) : process_(p), keeps(std::move(k)) {}
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;
  ~Guard() {
    const auto process = process_.lock();
    if (!process || process->over_ || process->detached_) return;
    try {
      process->check_loop();
      asio::post(process->strand_, [process] { process->cancel(true); });
    } catch (...) {  // nothing runs any more that could be cancelled
    }
  }
  std::weak_ptr<ExecProcess> process_;
  std::shared_ptr<void> keeps;
};

ExecProcess::ExecProcess(LoopManager loop, ExecOptions options, std::shared_ptr<ExecCounters> counters)
    : loop_(std::move(loop)), options_(std::move(options)), counters_(std::move(counters)) {}

std::shared_ptr<ExecProcess> ExecProcess::prepare(LoopManager loop, std::vector<std::string> command, ExecOptions options,
                                                  std::shared_ptr<ExecCounters> counters) {
  if (command.empty()) throw std::invalid_argument("cwsandbox: the command is empty");
  if (options.cwd() && options.cwd()->empty()) throw std::invalid_argument("cwsandbox: cwd is empty; it must be an absolute path");
  if (options.timeout() && *options.timeout() < std::chrono::milliseconds(1))
    throw std::invalid_argument("cwsandbox: the timeout must be at least 1 ms");

  auto self = std::make_shared<ExecProcess>(std::move(loop), std::move(options), std::move(counters));
  const ExecOptions& opts = self->options_;
  auto& request = self->request_;
  request.id = make_uuid();
  request.sandbox_id = "-";  // known at launch
  request.command = command;
  request.env = opts.env();
  request.cwd = opts.cwd().value_or("");
  request.use_stdin = opts.use_stdin();
  if (opts.timeout()) request.timeout_ms = static_cast<std::uint64_t>(opts.timeout()->count());
  request.grace_ms = static_cast<std::uint64_t>(opts.grace_period().count());
  request.drain_ms = static_cast<std::uint64_t>(opts.drain().count());
  const std::uint64_t window = std::clamp(opts.window(), kMinWindow, protocol::kMaxWindow);
  request.stdout_limit = request.stderr_limit = window;
  if (const auto error = protocol::validate(request)) throw std::invalid_argument("cwsandbox: " + error->message);
  self->command_ = std::move(command);
  return self;
}

std::shared_ptr<ExecProcess> ExecProcess::create(LoopManager loop, std::vector<std::string> command, ExecOptions options,
                                                 std::shared_ptr<ExecCounters> counters) {
  auto self = prepare(std::move(loop), std::move(command), std::move(options), std::move(counters));
  self->make_ends();
  return self;
}

std::shared_ptr<ExecProcess> ExecProcess::create_shell(LoopManager loop, const ShellOptions& options) {
  const auto side = [](int value, const char* name) {
    if (value < 1 || value > 65535)
      throw std::invalid_argument(std::string("cwsandbox: the terminal's ") + name + " must be from 1 to 65535");
    return static_cast<std::uint16_t>(value);
  };
  const std::uint16_t width = side(options.width(), "width"), height = side(options.height(), "height");
  auto env = options.env();
  env.try_emplace("TERM", options.term());
  ExecOptions plain;
  plain.with_stdin().with_capture(Capture::none()).with_env(std::move(env)).with_window(options.window());
  plain.with_grace_period(options.grace_period());
  if (options.resume_grace()) plain.with_resume_grace(*options.resume_grace());
  if (options.cwd()) plain.with_cwd(*options.cwd());
  auto self = prepare(std::move(loop), options.command(), std::move(plain), nullptr);
  self->request_.tty = true;
  self->request_.tty_width = width;
  self->request_.tty_height = height;
  self->make_ends();
  return self;
}

std::shared_ptr<ExecProcess> ExecProcess::create_attached(LoopManager loop, std::string process_id, const AttachOptions& options,
                                                          bool terminal) {
  if (!protocol::is_process_id(process_id))
    throw std::invalid_argument("cwsandbox: the process id must be 1 to 64 letters, digits, '-' or '_'");
  if (std::max(options.stdout_offset(), options.stderr_offset()) > protocol::kMaxInteger - protocol::kMaxWindow)
    throw std::invalid_argument("cwsandbox: an offset is larger than any stream can be");
  ExecOptions plain;
  plain.with_stdin(terminal || options.use_stdin()).with_check(options.check() && !terminal).with_window(options.window());
  plain.with_capture(terminal ? Capture::none() : options.capture()).with_grace_period(options.grace_period());
  if (options.resume_grace()) plain.with_resume_grace(*options.resume_grace());
  auto self = std::make_shared<ExecProcess>(std::move(loop), std::move(plain), nullptr);
  self->request_.id = std::move(process_id);
  self->request_.tty = terminal;
  self->request_.stdout_limit = self->request_.stderr_limit = std::clamp(options.window(), kMinWindow, protocol::kMaxWindow);
  self->attach_.emplace();
  self->attach_->stdout_from = options.stdout_offset();
  self->attach_->stderr_from = options.stderr_offset();
  self->attach_->from_held = options.from_held().value_or(terminal);
  self->make_ends();
  self->begin_outputs();
  return self;
}

void ExecProcess::make_ends() {
  consume_step_ = static_cast<std::size_t>(request_.stdout_limit / 4);
  request_id_ = request_.id;
  const std::weak_ptr<ExecProcess> weak = weak_from_this();
  out_ = std::make_shared<core::OutputBuffer>(options_.capture(), [weak](std::size_t n) {
    if (const auto p = weak.lock()) p->on_consumed(Channel::std_out, n);
  });
  err_ = std::make_shared<core::OutputBuffer>(options_.capture(), [weak](std::size_t n) {
    if (const auto p = weak.lock()) p->on_consumed(Channel::std_err, n);
  });
  if (options_.use_stdin()) {
    stdin_ = std::make_shared<ByteChannel>(StreamWriter::QUEUE_SIZE, loop_);
    writer_.emplace(stdin_, loop_);
  } else {
    stdin_done_ = true;
  }
  const auto wire = [&](const auto& source) {
    source.on_cancel([weak] {
      const auto p = weak.lock();
      return p && p->request_cancel();
    });
    source.on_wait([out = out_, err = err_] {
      out->drain();
      err->drain();
    });
  };
  if (is_terminal())
    wire(terminal_source_.emplace(loop_));
  else
    wire(source_.emplace(loop_));
}

/// Closing a terminal's output ends the session (SR-6).
class ExecProcess::TerminalOutput final : public detail::Source<std::string> {
 public:
  TerminalOutput(std::shared_ptr<core::OutputBuffer> buffer, std::weak_ptr<ExecProcess> process)
      : buffer_(std::move(buffer)), process_(std::move(process)) {}
  Poll poll(std::optional<std::string>& item) override { return buffer_->poll(item); }
  void arm(std::function<void()> wake) override { buffer_->arm(std::move(wake)); }
  void on_read() override { buffer_->on_read(); }
  [[nodiscard]] std::uint64_t origin() const override { return buffer_->origin(); }
  void close() override {
    buffer_->close();
    if (const auto process = process_.lock()) static_cast<void>(process->request_cancel());
  }

 private:
  const std::shared_ptr<core::OutputBuffer> buffer_;
  const std::weak_ptr<ExecProcess> process_;
};

void ExecProcess::reserve(std::shared_ptr<ExecConnection> connection) {
  strand_ = connection ? connection->strand() : loop_.make_strand();
  reserved_ = std::move(connection);
}

std::shared_ptr<ExecProcess::Guard> ExecProcess::guard(std::shared_ptr<void> keeps) {
  keeps_ = keeps;
  return std::make_shared<Guard>(shared_from_this(), std::move(keeps));
}

Process ExecProcess::handle(std::shared_ptr<void> keeps) {
  if (counters_) counters_->started();
  const auto shared = guard(std::move(keeps));
  task<ProcessResult> result(source_->state(), shared);
  StreamReader<std::string> std_out(out_, loop_, shared), std_err(err_, loop_, shared);
  std::optional<StreamWriter> std_in;
  if (stdin_) std_in.emplace(stdin_, loop_, shared);
  return Process(std::move(result), command_, std::move(std_out), std::move(std_err), std::move(std_in), shared_from_this());
}

TerminalSession ExecProcess::terminal_handle(std::shared_ptr<void> keeps) {
  const auto shared = guard(std::move(keeps));
  task<TerminalResult> result(terminal_source_->state(), shared);
  StreamReader<std::string> out(std::make_shared<TerminalOutput>(out_, weak_from_this()), loop_, shared);
  StreamWriter in(stdin_, loop_, shared);
  return TerminalSession(std::move(result), command_, std::move(out), std::move(in), shared_from_this());
}

std::string ExecProcess::name() const { return command_.empty() ? request_id_ : describe_command(command_); }

std::exception_ptr ExecProcess::has_ended() const {
  return make_exception_ptr(SandboxExecutionError(is_terminal() ? "Terminal session has ended" : "Process has exited"));
}

// ---- from any thread ----

// Before anything of the loop's is locked: in the child of a fork its thread may hold the lock forever (EV-7).
void ExecProcess::check_loop() const { static_cast<void>(loop_.executor()); }

void ExecProcess::launch(std::shared_ptr<Backend> backend, std::string sandbox_id) {
  // Runs at once when this is a thread of the loop: a warm exec from a coroutine costs no turn of it.
  asio::dispatch(strand_, [self = shared_from_this(), backend = std::move(backend), id = std::move(sandbox_id)]() mutable {
    if (self->finished_) return;
    self->backend_ = std::move(backend);
    self->request_.sandbox_id = std::move(id);
    self->connect();
  });
}

void ExecProcess::refuse(std::exception_ptr error) {
  asio::post(strand_, [self = shared_from_this(), error = std::move(error)] {
    if (!self->finished_) self->fail(error);
  });
}

void ExecProcess::signal(std::string_view name) {
  const auto number = protocol::signal_number(name);
  if (!number) throw std::invalid_argument("cwsandbox: unknown signal " + std::string(name.substr(0, 32)));
  if (over_) throw SandboxExecutionError("Cannot signal: the process has ended");
  if (unary_) std::rethrow_exception(needs_exec_stream("a signal"));
  check_loop();
  asio::post(strand_, [self = shared_from_this(), text = std::to_string(*number)]() mutable {
    self->signalled_ = true;
    if (self->finished_ || self->unary_) return;
    if (!self->machine_) {
      if (self->early_signals_.size() < protocol::kMaxKeptSignals) self->early_signals_.push_back(std::move(text));
      return;
    }
    self->machine_->request_signal(text);
    self->pump();
  });
}

void ExecProcess::resize(std::uint16_t width, std::uint16_t height) {
  if (over_) std::rethrow_exception(has_ended());
  check_loop();
  asio::post(strand_, [self = shared_from_this(), width, height] {
    if (self->finished_) return;
    self->request_.tty_width = width;
    self->request_.tty_height = height;
    if (!self->machine_) return;
    self->machine_->request_resize(width, height);
    self->pump();
  });
}

task<std::uint64_t> ExecProcess::pid() {
  std::optional<task_source<std::uint64_t>> source;
  std::optional<std::uint64_t> known;
  std::exception_ptr unknown;
  {
    const std::lock_guard lock(mutex_);
    if (!pid_source_) pid_source_.emplace(loop_);
    source = pid_source_;
    known = pid_;
    unknown = no_pid_;
  }
  if (known)
    source->set_value(*known);
  else if (unknown)
    source->set_exception(unknown);
  return source->get_task();
}

const std::vector<std::string>* ExecProcess::told_command() const noexcept {
  return command_told_.load(std::memory_order_acquire) ? &command_ : nullptr;
}

void ExecProcess::detach(Detach how) {
  const bool leaves = how == Detach::let_go && !over_;
  if (leaves) {
    if (unary_) std::rethrow_exception(needs_exec_stream("letting go of a process"));
    check_loop();
  }
  {
    const std::lock_guard lock(mutex_);
    detached_ = true;
    if (!over_) kept_ = keeps_.lock();
  }
  if (leaves) asio::post(strand_, [self = shared_from_this()] { self->leave(); });
}

bool ExecProcess::request_cancel() {
  if (over_) return false;
  try {
    check_loop();
  } catch (const CWSandboxError&) {
    return false;
  }
  asio::post(strand_, [self = shared_from_this()] { self->cancel(false); });
  return true;
}

void ExecProcess::on_consumed(Channel stream, std::size_t n) {
  auto& counter = consumed_[stream == Channel::std_err ? 1 : 0];
  // Only what may move the window is worth a turn of the loop.
  if (counter.fetch_add(n, std::memory_order_acq_rel) + n < consume_step_) return;
  if (consume_posted_.exchange(true, std::memory_order_acq_rel)) return;
  asio::post(strand_, [self = shared_from_this()] { self->take_consumed(); });
}

// ---- connecting ----

void ExecProcess::connect() {
  if (finished_) return;
  if (backend_->lacks_exec_stream() && !ours_) return start_unary();
  if (!machine_) {
    if (attach_) {
      machine_ = std::make_shared<protocol::ExecClientStream>(resume_request());
      if (request_.tty_width > 0) machine_->request_resize(request_.tty_width, request_.tty_height);
    } else {
      machine_ = std::make_shared<protocol::ExecClientStream>(request_);
    }
    for (const auto& name : early_signals_) machine_->request_signal(name);
    early_signals_.clear();
  }
  if (auto warm = std::exchange(reserved_, nullptr)) {
    if (warm->alive()) return use(std::move(warm), true);
  }
  opening_ = true;
  asio::co_spawn(strand_, open(shared_from_this()), [](std::exception_ptr) {});
}

asio::awaitable<void> ExecProcess::open(std::shared_ptr<ExecProcess> self) {
  const auto backend = self->backend_;
  std::exception_ptr error;
  bool no_stream = false;
  std::unique_ptr<net::WebSocket> socket;
  try {
    const auto ready = backend->ready();
    co_await wait_for(ready);
    net::WebSocket::Limits limits;
    limits.max_message = 1 + std::max(protocol::kMaxDataPayload, protocol::kMaxControlPayload);
    net::Headers headers;
    backend->authorize(headers);
    const auto& settings = backend->settings();
    limits.idle_timeout = settings.idle_timeout;
    auto deadline =
        std::chrono::steady_clock::now() + std::min(settings.request_timeout, settings.connect_timeout + std::chrono::seconds(10));
    if (self->lost_since_) deadline = std::min(deadline, *self->lost_since_ + self->resume_grace());
    std::string path(protocol::kExecPath), subprotocol(protocol::kExecSubprotocol);
    socket = co_await backend->http().upgrade(self->strand_, std::move(path), std::move(headers), std::move(subprotocol), limits,
                                              deadline);
  } catch (const net::UpgradeRefused& refused) {
    no_stream = means_no_exec_stream(refused.response());
    error = from_transport(std::current_exception());
  } catch (...) {
    error = from_transport(std::current_exception());
  }
  self->opening_ = false;
  if (no_stream && !self->ours_ && !self->attached_) {
    backend->note_no_exec_stream();
    if (!self->finished_) self->start_unary();
    co_return;
  }
  if (error) {
    self->on_open_failed(error);
    co_return;
  }
  auto connection = std::make_shared<ExecConnection>(std::move(socket), backend->pool());
  if (self->finished_)
    connection->close(protocol::CloseCode::normal, "");
  else
    self->use(std::move(connection), false);
}

void ExecProcess::on_open_failed(const std::exception_ptr& error) {
  if (finished_) return;
  if (cancelling_ && !ours_) return end_unconfirmed("the connection was lost");
  if (try_again(error)) return;
  if (!ours_) return fail(error);
  std::string why = "the gateway could not be reached again";
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    why += std::string(": ") + e.what();
  } catch (...) {  // no text
  }
  lose(why);
}

bool ExecProcess::try_again(const std::exception_ptr& error) {
  if (!retries_) {
    retries_.emplace(*backend_, lost_since_ ? "the connection" : "the start", request_.sandbox_id, request_.id);
    if (lost_since_) retries_->set_budget(*lost_since_ + resume_grace() - std::chrono::steady_clock::now());
  }
  const auto delay = retries_->next(error);
  if (!delay) return false;
  retry_timer_.emplace(strand_, *delay);
  // It holds itself: what must be told to a process that runs (a cancel) is told, also when no handle is left; and a wait may be
  // all that is interested in one that has not started.
  retry_timer_->async_wait(asio::bind_executor(strand_, [self = shared_from_this()](boost::system::error_code ec) {
    if (!ec && !self->finished_) self->connect();
  }));
  return true;
}

std::chrono::milliseconds ExecProcess::resume_grace() const {
  return options_.resume_grace().value_or(backend_->settings().resume_grace);
}

protocol::ResumeRequest ExecProcess::resume_request() {
  // The clock says who is the newest: whoever had the process before counted its connections from 0, or took a clock that read
  // less.
  const auto now = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch());
  request_.attempt = std::max(request_.attempt + 1, static_cast<std::uint64_t>(now.count()));
  protocol::ResumeRequest request;
  request.id = request_.id;
  request.sandbox_id = request_.sandbox_id;
  request.stdout_received = attach_->stdout_from;
  request.stderr_received = attach_->stderr_from;
  request.stdout_limit = attach_->stdout_from + request_.stdout_limit;
  request.stderr_limit = attach_->stderr_from + request_.stderr_limit;
  request.attempt = request_.attempt;
  request.describe = true;
  return request;
}

void ExecProcess::resume(const std::string& why) {
  machine_->on_reconnected();
  const auto grace = resume_grace();
  if (grace == std::chrono::milliseconds::zero()) return lose(why);
  if (!lost_since_) {
    lost_since_ = std::chrono::steady_clock::now();
    grace_timer_.emplace(strand_, *lost_since_ + std::min<std::chrono::milliseconds>(grace, std::chrono::hours(24 * 365)));
    grace_timer_->async_wait(asio::bind_executor(strand_, [weak = weak_from_this(), why](boost::system::error_code ec) {
      const auto self = weak.lock();
      if (!ec && self && !self->finished_) self->lose(why);
    }));
  }
  // At once where the last connection was of some use, then with growing delays.
  const auto resumed = std::exchange(resumed_at_, std::nullopt);
  const bool lasted = resumed && std::chrono::steady_clock::now() - *resumed >= kUsefulTime;
  if (std::exchange(progressed_, false) || lasted) {
    retries_.reset();
    return connect();
  }
  on_open_failed(make_exception_ptr(SandboxUnavailableError(why)));
}

void ExecProcess::tell(TraceEvent::Kind kind, std::chrono::steady_clock::time_point since, std::string_view outcome,
                       const std::exception_ptr& failure) const {
  const auto* const observer = backend_ ? backend_->observer() : nullptr;
  if (!observer) return;
  TraceEvent event;
  event.kind = kind;
  event.duration = std::chrono::steady_clock::now() - since;
  if (!command_.empty()) event.operation = command_.front();
  event.sandbox_id = request_.sandbox_id;
  event.process_id = request_.id;
  event.outcome = outcome;
  if (failure) {
    event.error = text_of(failure);
    // The command stands in the texts of errors, and what stands in a command may be secret.
    const std::string whole = name();
    for (std::size_t at = 0; !command_.empty() && (at = event.error.find(whole, at)) != std::string::npos;
         at += event.operation.size())
      event.error.replace(at, whole.size(), event.operation);
  }
  observer->tell(event);
}

void ExecProcess::on_resumed(const protocol::Resumed& resumed) {
  if (lost_since_) tell(TraceEvent::Kind::resume, *lost_since_);
  lost_since_.reset();
  resumed_at_ = std::chrono::steady_clock::now();
  grace_timer_.reset();
  if (attach_ && !std::exchange(ours_, true)) {
    stdin_from_ = resumed.stdin_received;
    retries_.reset();
    auto expected = ProcessStatus::starting;
    status_.compare_exchange_strong(expected, ProcessStatus::running);
    if (!resumed.command.empty()) {
      command_ = resumed.command;
      command_told_.store(true, std::memory_order_release);
    }
    if (resumed.pid)
      set_pid(*resumed.pid);
    else
      set_no_pid(
          make_exception_ptr(SandboxExecutionError("No pid: the gateway does not tell that of a process started elsewhere")));
    if (stdin_ && machine_->std_in().limit() == 0) {
      writer_->set_exception(make_exception_ptr(SandboxExecutionError("The process was started without stdin")));
      stdin_done_ = true;
    }
  }
  stdin_moved();
  if (leaving_) leave();
}

void ExecProcess::acknowledge_stdin() {
  const auto taken = machine_->stdin_taken();
  if (stdin_ && taken > stdin_from_) stdin_->acknowledge(taken - stdin_from_);
}

void ExecProcess::stdin_moved() {
  acknowledge_stdin();
  if (!machine_->stdin_closed()) return pump_stdin();
  stdin_done_ = true;
  if (std::exchange(stdin_cut_, true) || !writer_) return;
  writer_->set_exception(machine_->ended() ? has_ended()
                                           : make_exception_ptr(SandboxExecutionError("The process has closed its stdin")));
}

void ExecProcess::begin_outputs() {
  out_->begin_at(attach_->stdout_from);
  err_->begin_at(attach_->stderr_from);
}

bool ExecProcess::take_what_is_held(const protocol::StatusError& refusal) {
  constexpr int most_tries = 20;
  if (!attach_->from_held || refusal.reason != protocol::kReplayGap || ++attach_->tries > most_tries) return false;
  const auto offset = [&](const char* name) {
    const auto found = refusal.metadata.find(name);
    auto value = found == refusal.metadata.end() ? std::nullopt : base::parse_number<std::uint64_t>(found->second);
    if (value && *value > protocol::kMaxInteger / 2) value.reset();
    return value;
  };
  const auto out_from = offset("stdout_from"), err_from = offset("stderr_from");
  if (!out_from || !err_from) return false;
  // Never back: an offset that lies beyond what there is stays an error.
  const bool farther = *out_from > attach_->stdout_from || *err_from > attach_->stderr_from;
  attach_->skipped += std::max(*out_from, attach_->stdout_from) - attach_->stdout_from;
  attach_->stdout_from = std::max(attach_->stdout_from, *out_from);
  attach_->stderr_from = std::max(attach_->stderr_from, *err_from);
  begin_outputs();
  return farther;
}

// ---- without an exec stream ----

void ExecProcess::start_unary() {
  machine_.reset();  // nothing of it was sent
  if (attach_) return fail(needs_exec_stream("taking over a process"));
  if (is_terminal()) return fail(needs_exec_stream("a terminal"));
  if (options_.use_stdin()) return fail(needs_exec_stream("stdin"));
  if (signalled_) return fail(needs_exec_stream("a signal"));
  unary_ = true;
  attached_ = true;
  auto expected = ProcessStatus::starting;
  status_.compare_exchange_strong(expected, ProcessStatus::running);
  set_no_pid(needs_exec_stream("the pid"));
  auto done = [self = shared_from_this()](const std::exception_ptr& error, const messages::ExecResponse& response) {
    if (self->finished_) return;
    if (error)
      self->on_unary_failed(error);
    else
      self->on_unary(response);
  };
  asio::co_spawn(strand_, exec_unary(backend_, request_), asio::bind_cancellation_slot(unary_cancel_.slot(), std::move(done)));
}

void ExecProcess::on_unary_failed(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const SandboxRequestTimeoutError& timeout) {
    if (request_.timeout_ms > 0 && timeout.code() == base::to_string(ErrorCode::deadline_exceeded)) {
      protocol::ExitStatus status;
      status.outcome = protocol::ExitStatus::Outcome::timed_out;
      return on_exited(status);
    }
  } catch (...) {  // as it is
  }
  fail(error);
}

void ExecProcess::on_unary(const messages::ExecResponse& response) {
  protocol::ExitStatus status;
  status.code = response.exit_code;
  std::exception_ptr gap;
  const auto take = [&](core::OutputBuffer& into, const std::string& bytes, bool truncated, std::int64_t says, const char* stream) {
    const std::uint64_t produced =
        std::max<std::uint64_t>(bytes.size(), static_cast<std::uint64_t>(std::max<std::int64_t>(0, says)));
    static_cast<void>(into.append(std::string_view(bytes)));
    if (!truncated && produced == bytes.size()) return into.finish(produced);
    // Whoever reads it meets the gap where it is.
    const std::string text = std::string("The server cut ") + stream + " of " + name() + " short: " + std::to_string(bytes.size()) +
                             " bytes of " + (produced > bytes.size() ? std::to_string(produced) : "more");
    ErrorFields fields;
    fields.metadata.emplace("stream", stream);
    fields.metadata.emplace("received", std::to_string(bytes.size()));
    fields.metadata.emplace("produced", std::to_string(produced));
    into.fail(make_exception_ptr(SandboxStreamTruncatedError(text, fields)), produced);
    if (!gap) gap = make_exception_ptr(SandboxStreamTruncatedError(text, fields));
  };
  take(*out_, response.std_out, response.stdout_truncated, response.stdout_bytes_produced, "stdout");
  take(*err_, response.std_err, response.stderr_truncated, response.stderr_bytes_produced, "stderr");
  if (!gap || options_.capture().kind() != Capture::Kind::all) return on_exited(status);
  // Everything was asked for, and this is not everything.
  const MakeError error = [&](std::shared_ptr<const ProcessResult> result) {
    try {
      std::rethrow_exception(gap);
    } catch (const SandboxStreamTruncatedError& told) {
      auto fields = told.fields();
      fields.result = std::move(result);
      return make_exception_ptr(SandboxStreamTruncatedError(told.what(), std::move(fields)));
    }
  };
  end(Outcome::exited, &status, error, false);
}

// Whoever waits for the pid may go on at once, on this thread, and come back here: not under the lock.
void ExecProcess::set_pid(std::uint64_t pid) {
  std::optional<task_source<std::uint64_t>> source;
  {
    const std::lock_guard lock(mutex_);
    pid_ = pid;
    source = pid_source_;
  }
  if (source) source->set_value(pid);
}

void ExecProcess::set_no_pid(const std::exception_ptr& why) {
  std::optional<task_source<std::uint64_t>> source;
  {
    const std::lock_guard lock(mutex_);
    if (pid_) return;
    no_pid_ = why;
    source = pid_source_;
  }
  if (source) source->set_exception(why);
}

// ---- the connection ----

void ExecProcess::use(std::shared_ptr<ExecConnection> connection, bool warm) {
  if (finished_) return;
  connection_ = std::move(connection);
  warm_ = warm;
  attached_ = true;
  connection_->attach(machine_, shared_from_this());
  pump_stdin();
}

void ExecProcess::pump() {
  if (connection_) connection_->pump();
}

void ExecProcess::on_connection_lost(const ConnectionLoss& loss) {
  connection_.reset();
  if (finished_) return;
  if (cancelling_ && !ours_) return end_unconfirmed("the connection was lost");
  if (!ours_) {
    // Nothing has come of it yet, as far as we know: the same start again attaches to the process if there is one (P7).
    machine_->on_reconnected();
    if (std::exchange(warm_, false)) return connect();  // it had been closed while it was idle
    const auto error = make_exception_ptr(SandboxUnavailableError("The connection to the gateway was lost: " + loss.why));
    if (!try_again(error)) fail(error);
    return;
  }
  switch (loss.kind) {
    case ConnectionLoss::Kind::broken:
      return resume(loss.why);
    case ConnectionLoss::Kind::taken_over:
      return lose("somebody else took the process over: " + loss.why, "CWSANDBOX_PROCESS_TAKEN_OVER");
    case ConnectionLoss::Kind::fault:
      return lose(loss.why);
  }
}

void ExecProcess::lose(const std::string& why, const std::string& reason) {
  if (cancelling_) return end_unconfirmed("the connection was lost (" + why + ")");
  const auto& std_out = machine_->inbound(Channel::std_out);
  const auto& std_err = machine_->inbound(Channel::std_err);
  ErrorFields fields;
  fields.reason = reason;
  fields.metadata.emplace("process_id", request_id_);
  fields.metadata.emplace("stdout_received", std::to_string(std_out.received()));
  fields.metadata.emplace("stderr_received", std::to_string(std_err.received()));
  fields.metadata.emplace("stdin_acknowledged", std::to_string(machine_->std_in().acknowledged()));
  fields.metadata.emplace("stdin_sent", std::to_string(machine_->std_in().sent_offset()));
  const std::string text = "The connection was lost while " + name() + " ran (" + why + "): received " +
                           std::to_string(std_out.received()) + " bytes of stdout and " + std::to_string(std_err.received()) +
                           " of stderr; nobody knows how it ended";
  const MakeError error = [&](std::shared_ptr<const ProcessResult> result) {
    fields.result = std::move(result);
    return make_exception_ptr(SandboxConnectionLostError(text, fields));
  };
  end(Outcome::lost, nullptr, error, true);
}

// ---- the stream ----

void ExecProcess::on_event(const protocol::ClientEvent& event, net::IncomingMessage& message) {
  if (finished_) return;
  warm_ = false;
  if (const auto* resumed = std::get_if<protocol::Resumed>(&event)) {
    on_resumed(*resumed);
    return;
  }
  progressed_ = true;
  if (const auto* data = std::get_if<protocol::Data>(&event)) {
    on_data(*data, message);
  } else if (std::holds_alternative<protocol::Acknowledged>(event)) {
    stdin_moved();
  } else if (const auto* end_of = std::get_if<protocol::EndOfStream>(&event)) {
    // Of one that is being cancelled it is no end of its own: that comes with the exit, as an error.
    if (!cancelling_) output(end_of->stream).finish(machine_->inbound(end_of->stream).received());
  } else if (const auto* started = std::get_if<protocol::Started>(&event)) {
    auto expected = ProcessStatus::starting;
    status_.compare_exchange_strong(expected, ProcessStatus::running);
    ours_ = true;
    retries_.reset();
    stdin_moved();
    set_pid(started->pid);
    if (leaving_) return leave();
  } else if (const auto* exited = std::get_if<protocol::Exited>(&event)) {
    on_exited(exited->status);
    return;
  } else if (const auto* refused = std::get_if<protocol::Refused>(&event)) {
    on_refused(refused->error);
    return;
  }
  let_rest_come();
  // The end is known, but output waits for a reader who may never come: a cancel does not wait for that.
  if (cancelling_ && machine_->ended() && !machine_->exited()) {
    const auto status = *machine_->ended();
    on_exited(status);
  }
}

void ExecProcess::on_data(const protocol::Data& data, net::IncomingMessage& message) {
  auto& buffer = output(data.stream);
  const std::size_t consumed = buffer.copies() ? buffer.append(data.bytes) : buffer.append(message.take());
  if (consumed > 0) machine_->on_consumed(data.stream, consumed);
}

void ExecProcess::take_consumed() {
  // Acquires, too: whoever found it set has counted before that, and must be seen below.
  consume_posted_.exchange(false, std::memory_order_acq_rel);
  if (!machine_) return;
  for (const auto stream : {Channel::std_out, Channel::std_err}) {
    const std::size_t n = consumed_[stream == Channel::std_err ? 1 : 0].exchange(0, std::memory_order_acq_rel);
    if (n > 0) machine_->on_consumed(stream, n);
  }
  if (!finished_) pump();
}

void ExecProcess::let_rest_come() {
  // A terminal's command has ended, its last output waits for a reader who may never come: it is taken in, as far as one command
  // can leave in a terminal behind it, so that the session ends.
  if (!is_terminal() || !machine_->ended() || machine_->exited()) return;
  const auto& in = machine_->inbound(Channel::std_out);
  const std::uint64_t more = std::min(in.received() - in.consumed(), kMostRest - std::min(kMostRest, rest_granted_));
  rest_granted_ += more;
  machine_->on_consumed(Channel::std_out, static_cast<std::size_t>(more));
}

void ExecProcess::pump_stdin() {
  if (stdin_done_ || finished_ || !connection_) return;
  auto& out = machine_->std_in();
  std::string chunk;
  while (out.room() > 0) {
    switch (stdin_->try_receive(chunk)) {
      case ByteChannel::Poll::chunk:
        out.push(std::move(chunk));
        chunk.clear();
        // One goes out while the next is fetched.
        pump();
        continue;
      case ByteChannel::Poll::end:
        stdin_done_ = true;
        out.finish();
        pump();
        return;
      case ByteChannel::Poll::pending:
        ask_for_acknowledgement();
        if (std::exchange(stdin_armed_, true)) return;
        stdin_->arm([weak = weak_from_this()] {
          const auto self = weak.lock();
          if (!self) return;
          asio::post(self->strand_, [self] {
            self->stdin_armed_ = false;
            self->pump_stdin();
          });
        });
        return;
    }
  }
}

void ExecProcess::ask_for_acknowledgement() {
  if (flush_armed_ || machine_->stdin_taken() >= machine_->std_in().end_offset()) return;
  flush_armed_ = true;
  if (!flush_timer_) flush_timer_.emplace(strand_);
  flush_timer_->expires_after(kFlushDelay);
  flush_timer_->async_wait(asio::bind_executor(strand_, [weak = weak_from_this()](boost::system::error_code ec) {
    const auto self = weak.lock();
    if (!self) return;
    self->flush_armed_ = false;
    if (ec || self->finished_) return;
    self->machine_->request_flush();
    self->pump();
  }));
}

// ---- the end ----

void ExecProcess::on_exited(const protocol::ExitStatus& status) {
  using Wire = protocol::ExitStatus::Outcome;
  const std::string what = name();
  ErrorFields fields;
  const auto with = [&fields](std::shared_ptr<const ProcessResult> result) {
    fields.result = std::move(result);
    return fields;
  };
  // A cancel that was asked for ends as one, also when the process was quicker than the signal, except by its own exit.
  const bool cancelled = status.outcome == Wire::cancelled || (cancelling_ && status.outcome == Wire::signaled);
  if (cancelled) {
    const MakeError error = [&](std::shared_ptr<const ProcessResult> result) {
      return make_exception_ptr(CancelledError("The process " + what + " was cancelled", std::move(result)));
    };
    return end(Outcome::cancelled, &status, error, true);
  }
  switch (status.outcome) {
    case Wire::exited:
    case Wire::signaled: {
      if (cancelling_) {
        const MakeError error = [&](std::shared_ptr<const ProcessResult> result) {
          return make_exception_ptr(
              CancelledError("The process " + what + " was cancelled; it had ended by itself", std::move(result)));
        };
        return end(Outcome::cancelled, &status, error, true);
      }
      const bool by_signal = status.outcome == Wire::signaled;
      const int code = by_signal ? 128 + status.signal.value_or(0) : status.code.value_or(0);
      MakeError error;
      if ((by_signal && !status.signal) || (!by_signal && !status.code)) {
        error = [&](std::shared_ptr<const ProcessResult> result) {
          return make_exception_ptr(
              SandboxConnectionLostError("The gateway did not say how " + what + " ended", with(std::move(result))));
        };
        return end(Outcome::lost, nullptr, error, true);
      }
      if (options_.check() && code != 0)
        error = [&](std::shared_ptr<const ProcessResult> result) {
          return make_exception_ptr(
              SandboxExecutionError("Command " + what + " failed with exit code " + std::to_string(code), with(std::move(result))));
        };
      return end(by_signal ? Outcome::signaled : Outcome::exited, &status, error, false);
    }
    case Wire::timed_out: {
      const MakeError error = [&](std::shared_ptr<const ProcessResult> result) {
        return make_exception_ptr(SandboxCommandTimeoutError(
            "Command " + what + " was killed after its timeout of " + std::to_string(request_.timeout_ms) + " ms",
            with(std::move(result))));
      };
      return end(Outcome::timed_out, &status, error, true);
    }
    case Wire::failed: {
      if (!status.error_name.empty()) fields.metadata.emplace("errno", status.error_name);
      if (!status.error_what.empty()) fields.metadata.emplace("failed", status.error_what);
      fields.reason = "CWSANDBOX_COMMAND_NOT_STARTED";
      std::string text = "Command " + what + " could not be started";
      if (!status.message.empty()) text += ": " + status.message;
      if (!status.error_name.empty() && text.find(status.error_name) == std::string::npos) text += " (" + status.error_name + ")";
      const MakeError error = [&](std::shared_ptr<const ProcessResult> result) {
        return make_exception_ptr(SandboxExecutionError(text, with(std::move(result))));
      };
      return end(Outcome::failed, &status, error, true);
    }
    case Wire::lost:
    case Wire::cancelled: {
      const MakeError error = [&](std::shared_ptr<const ProcessResult> result) {
        std::string text = "The sandbox ended while " + what + " ran; nobody knows how it ended";
        if (!status.message.empty()) {
          text += ": " + status.message;
        } else if (status.reason != protocol::ExitStatus::Reason::none) {
          text += " (" + std::string(to_string(reason_of(status.reason))) + ")";
        }
        return make_exception_ptr(SandboxConnectionLostError(text, with(std::move(result))));
      };
      return end(Outcome::lost, &status, error, true);
    }
  }
}

void ExecProcess::on_refused(const protocol::StatusError& refusal) {
  const auto error = make_error(refusal);
  if (cancelling_) return end_unconfirmed("there is no such process");
  if (ours_) {
    let_connection_go();
    return lose("the gateway no longer has it: " + refusal.message, refusal.reason);
  }
  if (attach_) {
    let_connection_go();
    if (take_what_is_held(refusal)) {
      machine_.reset();
      return connect();
    }
    if (!try_again(error)) return fail(error);
    machine_.reset();
    return;
  }
  // What was taken from stdin cannot be sent to another start.
  if (machine_->std_in().end_offset() == 0) {
    let_connection_go();
    if (try_again(error)) {
      ++request_.attempt;
      machine_.reset();
      return;
    }
  }
  fail(error);
}

void ExecProcess::let_connection_go() {
  const auto connection = std::exchange(connection_, nullptr);
  machine_->release();
  connection->let_go();
}

void ExecProcess::leave() {
  if (finished_ || cancelling_) return;
  leaving_ = true;
  if (unary_) return fail(needs_exec_stream("letting go of a process"));
  if (!ours_) return;  // nobody could attach to it yet
  lose("this program has let go of it", "CWSANDBOX_PROCESS_DETACHED");
}

void ExecProcess::cancel(bool abandoned) {
  if (finished_) return;
  if (abandoned) {
    if (detached_) return;
    out_->close();
    err_->close();
  }
  if (std::exchange(cancelling_, true)) return;
  if (writer_) writer_->set_exception(make_exception_ptr(CancelledError("The process was cancelled")));
  stdin_done_ = true;
  if (unary_) {
    end_unconfirmed("the server has no exec stream: the request was dropped, and the server may go on with the command");
    return unary_cancel_.emit(asio::cancellation_type::terminal);
  }
  if (!attached_ || !machine_) {
    // Nobody has heard of this process.
    const MakeError error = [](std::shared_ptr<const ProcessResult> result) {
      return make_exception_ptr(CancelledError("The process was cancelled before it was started", std::move(result)));
    };
    return end(Outcome::cancelled, nullptr, error, true);
  }
  if (!connection_ && !opening_ && !ours_) return end_unconfirmed("the connection was lost");
  machine_->request_cancel(static_cast<std::uint64_t>(options_.grace_period().count()));
  if (is_terminal()) {
    // A shell that talks to somebody does not mind SIGTERM. The end of its input wakes one that got the signal just before it
    // began to wait for a key.
    machine_->request_signal("SIGHUP");
    machine_->std_in().finish();
  }
  if (machine_->ended() && !machine_->exited()) {
    const auto status = *machine_->ended();
    return on_exited(status);
  }
  pump();
  const auto limit = std::min<std::chrono::milliseconds>(options_.grace_period(), std::chrono::hours(24)) + kCancelMargin;
  cancel_timer_.emplace(strand_, limit);
  cancel_timer_->async_wait(asio::bind_executor(strand_, [weak = weak_from_this()](boost::system::error_code ec) {
    const auto self = weak.lock();
    if (!ec && self && !self->finished_) self->end_unconfirmed("the gateway has not answered in time");
  }));
}

void ExecProcess::end_unconfirmed(const std::string& why) {
  const MakeError error = [&](std::shared_ptr<const ProcessResult> result) {
    return make_exception_ptr(
        CancelledError("The process " + name() + " was cancelled, but its end could not be confirmed: " + why, std::move(result)));
  };
  end(Outcome::cancelled, nullptr, error, true);
}

void ExecProcess::fail(const std::exception_ptr& failure) {
  const MakeError error = [&](const std::shared_ptr<const ProcessResult>&) { return failure; };
  end(Outcome::failed, nullptr, error, true);
}

void ExecProcess::end(Outcome outcome, const protocol::ExitStatus* status, const MakeError& error, bool breaks) {
  finished_ = true;
  // Readers get an error of their own: one that holds the result would have to be made before the output is complete.
  const auto reader_error = error && breaks ? error(nullptr) : nullptr;
  for (const auto stream : {Channel::std_out, Channel::std_err}) {
    const std::uint64_t produced = machine_ ? machine_->inbound(stream).received() : 0;
    if (reader_error)
      output(stream).fail(reader_error, produced);
    else
      output(stream).finish(produced);
  }
  auto result = std::make_shared<ProcessResult>();
  result->std_out = out_->output();
  result->std_err = err_->output();
  result->outcome = outcome;
  result->command = command_;
  if (status && outcome != Outcome::failed && outcome != Outcome::lost) {
    result->signal = status->signal;
    if (status->signal)
      result->returncode = 128 + *status->signal;
    else
      result->returncode = status->code;
  }
  if (status) {
    result->reason = reason_of(status->reason);
    result->stdout_left_open = status->stdout_open;
    result->stderr_left_open = status->stderr_open;
    result->started_at = from_ms(status->start_time_ms);
    result->ended_at = from_ms(status->end_time_ms);
  }
  if (machine_) acknowledge_stdin();  // first: whose bytes were taken is done, whatever the end is
  if (writer_) writer_->set_exception(reader_error && !is_terminal() ? reader_error : has_ended());
  status_.store(core::status_of(outcome), std::memory_order_release);
  std::shared_ptr<void> kept;
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
    kept = std::move(kept_);
  }
  set_no_pid(reader_error ? reader_error : make_exception_ptr(SandboxExecutionError("The process ended before its pid was known")));
  // For the next process before anybody hears of this one's end, so that whoever starts one then finds the connection.
  const auto connection = std::exchange(connection_, nullptr);
  if (connection) {
    if (machine_->exited()) {
      machine_->release();
      connection->let_go();
    } else if (outcome == Outcome::failed && status == nullptr) {
      machine_->release();  // refused: the connection is idle after the release
      connection->let_go();
    } else {
      connection->close(protocol::CloseCode::normal, "");
    }
  }
  if (const auto unused = std::exchange(reserved_, nullptr); unused && unused->alive()) {
    if (backend_)
      backend_->pool()->put(unused);
    else
      unused->close(protocol::CloseCode::normal, "");
  }
  retry_timer_.reset();
  cancel_timer_.reset();
  grace_timer_.reset();
  flush_timer_.reset();
  early_signals_.clear();
  if (counters_ && !(leaving_ && outcome == Outcome::lost)) counters_->ended(outcome, result->returncode, reader_error != nullptr);
  const auto failure = error ? error(result) : nullptr;
  tell(TraceEvent::Kind::exec, made_at_, to_string(outcome), failure);

  if (terminal_source_) {
    const auto source = std::move(*terminal_source_);
    if (failure) {
      source.set_exception(failure);
    } else {
      TerminalResult ended;
      ended.returncode = result->returncode;
      ended.outcome = outcome;
      ended.reason = result->reason;
      ended.signal = result->signal;
      ended.command = command_;
      if (attach_) ended.skipped = attach_->skipped;
      source.set_value(std::move(ended));
    }
  } else {
    const auto source = std::move(*source_);
    // Let go of, or a callback that holds this very process would keep both for ever.
    const auto callback = options_.stats_callback();
    options_.with_stats_callback(nullptr);
    if (!callback) {
      if (failure)
        source.set_exception(failure);
      else
        source.set_value(std::move(*result));
    } else if (source.state()->claim()) {
      std::optional<ProcessResult> value;
      if (!failure) value = *result;
      source.state()->store_announced(std::move(value), failure, [&] { callback(failure ? nullptr : result.get(), failure); });
    }
  }
  const auto backend = std::move(backend_);  // last: it may be all that keeps the connections
}

}  // namespace cwsandbox::client
