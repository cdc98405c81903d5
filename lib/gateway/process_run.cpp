#include "gateway/process_run.hpp"

#include "base/errno_text.hpp"
#include "base/text.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>

#include <csignal>
#include <cstring>

namespace cwsandbox::gateway {

namespace {

// Chunks read in one go, so that one busy pipe does not keep the executor from everybody else.
constexpr int kChunksPerTurn = 8;
constexpr std::size_t kMaxEarlySignals = 16;
// Payload of a full data message. A little less than the protocol's 64 KiB, so that it goes out with its headers in one write:
// Asio cuts a write after 64 KiB.
constexpr std::size_t kChunk = 64 * 1024 - 16;

std::uint64_t milliseconds_of(std::chrono::system_clock::time_point time) {
  const auto count = std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
  return count > 0 ? static_cast<std::uint64_t>(count) : 0;
}

const char* name_of(protocol::ExitStatus::Outcome outcome) noexcept {
  using Outcome = protocol::ExitStatus::Outcome;
  switch (outcome) {
    case Outcome::exited:
      return "exited";
    case Outcome::signaled:
      return "signaled";
    case Outcome::timed_out:
      return "timed_out";
    case Outcome::cancelled:
      return "cancelled";
    case Outcome::failed:
      return "failed";
    case Outcome::lost:
      break;
  }
  return "lost";
}

}  // namespace

ProcessRun::ProcessRun(std::shared_ptr<Context> context, std::shared_ptr<SandboxRecord> sandbox, std::string id,
                       std::string program, Limits limits)
    : context_(std::move(context)),
      record_(std::move(sandbox)),
      id_(std::move(id)),
      program_(std::move(program)),
      limits_(limits),
      end_(limits.drain),
      begin_(std::chrono::steady_clock::now()),
      timeout_timer_(context_->executor),
      end_timer_(context_->executor) {
  const std::map<std::string, std::string> where = {{"sandbox_id", record_->id()}};
  if (const std::size_t most = context_->options.max_processes_per_sandbox; record_->processes() >= most) {
    throw ServiceError(ErrorCode::resource_exhausted, reason::kCapacityExhausted,
                       "the sandbox runs its maximum of " + std::to_string(most) + " processes", where)
        .with_retry(std::chrono::seconds(1));
  }
  counted_ = BudgetShare(budgets_of(record_->owner()), Budget::processes, 1, where);
  descriptors_ = BudgetShare(budgets_of(record_->owner()), Budget::descriptors, kProcessDescriptors, where);
  record_->add(*this);
}

void ProcessRun::leave() noexcept {
  record_->remove(*this);
  counted_.reset();
  descriptors_.reset();
}

ProcessRun::~ProcessRun() {
  if (phase_ != Phase::finished) leave();
}

void ProcessRun::start(runner::ProcessSpec spec) {
  stdin_wanted_ = spec.use_stdin || spec.tty;
  context_->runs.emplace(this, shared_from_this());
  asio::co_spawn(context_->executor, run(shared_from_this(), std::move(spec)), asio::detached);
}

asio::awaitable<void> ProcessRun::run(std::shared_ptr<ProcessRun> self, runner::ProcessSpec spec) {
  std::unique_ptr<runner::Process> process;
  std::optional<protocol::ConnectError> refusal;
  std::optional<protocol::ExitStatus> failure;
  try {
    const auto deadline = std::chrono::steady_clock::now() + self->context_->options.start_wait;
    std::shared_ptr<runner::Sandbox> sandbox = co_await SandboxRecord::running(self->record_, deadline);
    if (self->phase_ == Phase::finished) co_return;  // cancelled while it waited
    self->phase_ = Phase::launching;
    self->sandbox_ = sandbox;
    process = co_await sandbox->start(std::move(spec));
  } catch (const runner::StartFailed& e) {
    failure.emplace();
    failure->outcome = protocol::ExitStatus::Outcome::failed;
    failure->error_name = base::errno_name(e.error());
    failure->error_what = e.what_failed();
    failure->message = e.what();
  } catch (const runner::RunnerError& e) {
    refusal = from_runner(e).error();
  } catch (const ServiceError& e) {
    refusal = e.error();
  } catch (const std::exception&) {
    refusal = ServiceError(ErrorCode::internal, nullptr, "the process could not be started").error();
  }
  if (self->phase_ == Phase::finished || self->context_->dropped) {
    if (process) process->signal_group(SIGKILL);
    co_return;
  }
  if (failure) {
    failure->end_time_ms = milliseconds_of(std::chrono::system_clock::now());
    for (OutputState& output : self->outputs_) output.ended = true;
    self->on_output_end(Output::std_out, false);
    self->on_output_end(Output::std_err, false);
    self->finish(*failure);
  } else if (refusal) {
    self->refuse(*refusal);
  } else {
    self->began(std::move(process));
  }
}

void ProcessRun::began(std::unique_ptr<runner::Process> process) {
  process_ = std::move(process);
  phase_ = Phase::running;
  start_time_ = std::chrono::system_clock::now();
  state(Output::std_out).source = &process_->std_out();
  state(Output::std_err).source = process_->std_err();
  const auto self = shared_from_this();
  on_started(process_->pid());
  if (state(Output::std_err).source == nullptr) {
    state(Output::std_err).ended = true;
    on_output_end(Output::std_err, false);
  }
  std::weak_ptr<ProcessRun> weak = weak_from_this();
  process_->on_exit([weak](const runner::ExitInfo& info) {
    if (auto run = weak.lock()) run->leader_exited(info);
  });
  process_->on_group_gone([weak] {
    const auto run = weak.lock();
    if (run && run->phase_ == Phase::running) run->take(run->end_.group_gone());
  });
  if (phase_ != Phase::running) return;
  if (early_size_) process_->resize(early_size_->first, early_size_->second);
  for (const int number : early_signals_) process_->signal_group(number);
  early_signals_ = {};
  if (early_kill_) {
    kill(early_kill_->first, early_kill_->second);
  } else if (limits_.timeout.count() > 0) {
    timeout_timer_.expires_after(limits_.timeout);
    timeout_timer_.async_wait([weak](error_code ec) {
      if (ec) return;
      if (auto run = weak.lock()) run->kill(Why::timeout, run->limits_.grace);
    });
  }
  // A process that has just started has written nothing yet: waiting first spares a read that finds nothing.
  for (const Output output : {Output::std_out, Output::std_err}) {
    if (phase_ == Phase::running && !state(output).ended && !state(output).waiting) wait_readable(output);
  }
  if (phase_ != Phase::running) return;
  watch_stdin();
  flush_stdin();
}

// ---- output ----

void ProcessRun::pump() {
  const auto self = shared_from_this();
  pump(Output::std_out);
  pump(Output::std_err);
}

void ProcessRun::pump(Output output) {
  OutputState& s = state(output);
  for (int turn = 0; phase_ == Phase::running && !s.ended && !s.waiting; ++turn) {
    const std::size_t space = std::min(room(output), kChunk);
    if (space == 0) return;
    if (turn == kChunksPerTurn) {
      wait_readable(output);
      return;
    }
    std::string buffer = context_->buffers.get();
    error_code ec;
    const std::size_t n = s.source->try_read(asio::buffer(buffer.data(), space), ec);
    if (n == 0) {
      context_->buffers.put(std::move(buffer));
      if (ec != asio::error::would_block) {
        end_output(output, false);  // the end, or a broken pipe or terminal: nothing more can come
        return;
      }
      if (!end_.settled() || s.bytes < s.last) {
        wait_for_more(output);
        return;
      }
      s.left_open = true;
      end_output(output, false);
      return;
    }
    s.bytes += n;
    s.pace.count(n);
    const bool past_its_end = end_.settled() && s.bytes > s.last;
    if (n >= BufferPool::kSize / 2) {
      buffer.resize(n);
      on_output(output, std::move(buffer));
    } else {
      // A small piece gets storage of its size, or a window full of single bytes would hold a large buffer each.
      std::string piece(buffer.data(), n);
      context_->buffers.put(std::move(buffer));
      on_output(output, std::move(piece));
      if (n < space && !end_.settled()) {
        if (phase_ == Phase::running && !s.ended && !s.waiting) wait_for_more(output);
        return;
      }
    }
    if (past_its_end && phase_ == Phase::running && !s.ended) {
      s.left_open = true;
      end_output(output, false);
    }
  }
}

void ProcessRun::wait_for_more(Output output) {
  OutputState& s = state(output);
  const auto pause = s.pace.pause(std::chrono::steady_clock::now());
  if (pause.count() == 0) return wait_readable(output);
  s.waiting = true;
  if (!s.gather) s.gather.emplace(context_->executor);
  s.gather->expires_after(pause);
  s.gather->async_wait([weak = weak_from_this(), output](error_code) {
    if (const auto run = weak.lock()) run->on_readable(output, {});
  });
}

void ProcessRun::wait_readable(Output output) {
  OutputState& s = state(output);
  s.waiting = true;
  s.source->async_wait([weak = weak_from_this(), output](error_code ec) {
    if (const auto run = weak.lock()) run->on_readable(output, ec);
  });
}

void ProcessRun::on_readable(Output output, error_code ec) {
  OutputState& s = state(output);
  if (phase_ != Phase::running || s.ended) return;
  s.waiting = false;
  if (ec) {
    end_output(output, false);
  } else {
    pump(output);
  }
}

void ProcessRun::end_output(Output output, bool abandoned) {
  OutputState& s = state(output);
  if (s.ended) return;
  s.ended = true;
  s.waiting = false;
  s.source->close();
  // One that is being killed did not end its output itself. Its client's readers learn that from the exit, which is then the first
  // to say so: behind an end they would have had a whole output.
  const auto why = end_.why();
  s.untold = !exit_ && !abandoned && (why == Why::cancel || why == Why::timeout);
  if (!s.untold) on_output_end(output, abandoned);
  finish_if_done();
}

// ---- input ----

void ProcessRun::write_stdin(std::string_view bytes) {
  if (stdin_closed_ || phase_ == Phase::finished || !stdin_wanted_) {
    on_stdin_consumed(bytes.size(), arrived());  // nobody will read it: the client was told, or knows it
    return;
  }
  if (phase_ == Phase::running && stdin_.empty() && process_->std_in() != nullptr) {
    while (!bytes.empty()) {
      error_code ec;
      const std::size_t n = process_->std_in()->try_write(asio::buffer(bytes.data(), bytes.size()), ec);
      if (n > 0) {
        bytes.remove_prefix(n);
        stdin_bytes_ += n;
        on_stdin_consumed(n, arrived());
      } else if (ec == asio::error::would_block) {
        break;
      } else {
        stdin_broken();
        return;
      }
    }
    if (bytes.empty()) return;
  }
  // Bounded by the stream's window, which counts what is written, not what has arrived.
  while (!bytes.empty()) {
    if (stdin_.empty() || stdin_.back().size() == BufferPool::kSize) {
      stdin_.push_back(context_->buffers.get());
      stdin_.back().clear();
    }
    std::string& block = stdin_.back();
    const std::size_t n = std::min(bytes.size(), BufferPool::kSize - block.size());
    block.append(bytes.substr(0, n));
    bytes.remove_prefix(n);
  }
  if (phase_ == Phase::running) flush_stdin();
}

void ProcessRun::end_stdin() {
  if (stdin_ended_) return;
  stdin_ended_ = true;
  arrival_wanted_ = true;
  if (phase_ == Phase::running) flush_stdin();
}

void ProcessRun::want_arrival() {
  arrival_wanted_ = true;
  wait_arrival();
}

std::uint64_t ProcessRun::arrived() const noexcept {
  return process_ && process_->std_in() != nullptr ? process_->std_in()->arrived() : 0;
}

void ProcessRun::wait_arrival() {
  if (!arrival_wanted_ || arrival_waiting_ || phase_ != Phase::running || stdin_broken_) return;
  if (arrived() >= stdin_bytes_) {
    if (stdin_.empty()) arrival_wanted_ = false;
    return;
  }
  arrival_waiting_ = true;
  process_->std_in()->async_wait_arrived([weak = weak_from_this()](error_code ec) {
    const auto run = weak.lock();
    if (!run || run->phase_ != Phase::running) return;
    run->arrival_waiting_ = false;
    if (ec) return run->stdin_broken();
    run->on_stdin_consumed(0, run->arrived());
    run->wait_arrival();
  });
}

// A process may let go of its input and run on. Whoever writes to it hears of it without a write.
void ProcessRun::watch_stdin() {
  if (stdin_closed_ || process_->std_in() == nullptr) return;
  process_->std_in()->async_wait_broken([weak = weak_from_this()](error_code ec) {
    const auto run = weak.lock();
    if (run && run->phase_ == Phase::running && ec != asio::error::operation_aborted) run->stdin_broken();
  });
}

void ProcessRun::flush_stdin() {
  runner::ByteSink* sink = process_ ? process_->std_in() : nullptr;
  if (sink == nullptr) {
    stdin_broken();
    return;
  }
  if (stdin_closed_ || sink_waiting_) return;
  while (!stdin_.empty()) {
    const std::string& block = stdin_.front();
    error_code ec;
    const std::size_t n = sink->try_write(asio::buffer(block.data() + stdin_front_, block.size() - stdin_front_), ec);
    if (n > 0) {
      stdin_front_ += n;
      stdin_bytes_ += n;
      if (stdin_front_ == block.size()) {
        context_->buffers.put(std::move(stdin_.front()));
        stdin_.pop_front();
        stdin_front_ = 0;
      }
      on_stdin_consumed(n, arrived());
      continue;
    }
    if (ec != asio::error::would_block) {
      stdin_broken();
      return;
    }
    sink_waiting_ = true;
    std::weak_ptr<ProcessRun> weak = weak_from_this();
    sink->async_wait([weak](error_code wait_ec) {
      const auto run = weak.lock();
      if (!run || run->phase_ != Phase::running) return;
      run->sink_waiting_ = false;
      if (wait_ec) {
        run->stdin_broken();
      } else {
        run->flush_stdin();
      }
    });
    break;
  }
  if (stdin_.empty() && stdin_ended_ && !stdin_closed_) {
    stdin_closed_ = true;
    sink->close();
  }
  wait_arrival();
}

// Also when it has been ended before: some of it may never have arrived.
void ProcessRun::stdin_broken() {
  if (!stdin_wanted_ || std::exchange(stdin_broken_, true)) return;
  stdin_closed_ = true;
  for (std::string& block : stdin_) context_->buffers.put(std::move(block));
  stdin_.clear();
  stdin_front_ = 0;
  if (process_ && process_->std_in() != nullptr) process_->std_in()->close();
  on_stdin_closed(arrived());
}

// ---- control ----

void ProcessRun::signal(int number) {
  if (phase_ == Phase::running) {
    process_->signal_group(number);
  } else if (phase_ != Phase::finished && early_signals_.size() < kMaxEarlySignals) {
    early_signals_.push_back(number);
  }
}

void ProcessRun::resize(std::uint16_t width, std::uint16_t height) {
  if (phase_ == Phase::running) {
    process_->resize(width, height);
  } else if (phase_ != Phase::finished) {
    early_size_.emplace(width, height);
  }
}

void ProcessRun::kill(Why why, std::chrono::milliseconds grace) {
  if (phase_ == Phase::finished) return;
  const auto self = shared_from_this();
  grace = std::min(grace, context_->options.max_grace);
  if (phase_ == Phase::waiting) {  // there is no process yet, and there will be none
    for (const Output output : {Output::std_out, Output::std_err}) {
      state(output).ended = true;
      on_output_end(output, false);
    }
    protocol::ExitStatus status;
    status.outcome = protocol::ExitStatus::Outcome::cancelled;
    status.end_time_ms = milliseconds_of(std::chrono::system_clock::now());
    finish(status);
    return;
  }
  if (phase_ == Phase::launching) {
    early_kill_.emplace(early_kill_ ? early_kill_->first : why, grace);
    return;
  }
  timeout_timer_.cancel();
  const auto left = end_timer_.expiry() - std::chrono::steady_clock::now();
  take(end_.end(why, grace, std::chrono::duration_cast<std::chrono::milliseconds>(left)));
}

void ProcessRun::take(const ProcessEnd::Steps& steps) {
  const auto self = shared_from_this();
  if (steps.signal != 0) process_->signal_group(steps.signal);
  if (steps.lost && !exit_) note_exit(runner::ExitInfo());
  if (steps.disarm) end_timer_.cancel();
  if (steps.arm >= std::chrono::milliseconds(0)) {
    end_timer_.expires_after(steps.arm);
    end_timer_.async_wait([weak = weak_from_this()](error_code ec) {
      const auto run = weak.lock();
      if (ec || !run || run->phase_ != Phase::running) return;
      // It may have been armed anew when this call was on its way already: that one's time has not come.
      if (run->end_timer_.expiry() <= std::chrono::steady_clock::now()) run->take(run->end_.timer());
    });
  }
  if (steps.settle) settle();
  if (steps.abandon && phase_ == Phase::running) abandon();
}

// What has come by now still counts, and the pump ends what is read that far. What has no reader's room stays open until it has.
void ProcessRun::settle() {
  for (const Output output : {Output::std_out, Output::std_err}) {
    OutputState& s = state(output);
    if (s.ended) continue;
    const auto i = static_cast<std::size_t>(output);
    s.last = s.bytes + s.source->unread();
    if (exit_ && exit_->written) s.last = std::max(s.last, (*exit_->written)[i]);
    if (s.waiting && s.bytes < s.last) continue;
    s.waiting = false;
    pump(output);
    if (phase_ != Phase::running) return;
  }
  finish_if_done();
}

void ProcessRun::abandon() {
  for (const Output output : {Output::std_out, Output::std_err}) {
    if (phase_ == Phase::running && !state(output).ended) end_output(output, true);
  }
}

void ProcessRun::sandbox_ended() {
  const auto self = shared_from_this();
  if (phase_ != Phase::running) return;  // `running` or the runner says it
  timeout_timer_.cancel();
  take(end_.sandbox_ended());
}

void ProcessRun::note_exit(const runner::ExitInfo& info) {
  exit_ = info;
  switch (end_.why()) {
    case Why::timeout:
      reason_ = EndReason::timeout;
      return;
    case Why::cancel:
      return;
    case Why::none:
    case Why::shutdown:
      break;
  }
  if (info.out_of_memory) {
    reason_ = EndReason::out_of_memory;
  } else if (record_->end_reason() != EndReason::none) {
    reason_ = record_->end_reason();
  } else if (info.main_ended) {
    reason_ = EndReason::main_ended;
  } else if (end_.why() == Why::shutdown) {
    reason_ = EndReason::gateway_shutdown;
  }
}

void ProcessRun::leader_exited(const runner::ExitInfo& info) {
  if (exit_ || phase_ == Phase::finished) return;
  const auto self = shared_from_this();
  note_exit(info);
  const auto steps = end_.leader_ended(info.written.has_value());
  finish_if_done();
  if (phase_ == Phase::running) on_ended(status());
  if (phase_ == Phase::running) take(steps);
}

protocol::ExitStatus ProcessRun::status() const {
  protocol::ExitStatus status;
  switch (exit_->kind) {
    case runner::ExitInfo::Kind::exited:
      status.outcome = protocol::ExitStatus::Outcome::exited;
      status.code = exit_->value;
      break;
    case runner::ExitInfo::Kind::signaled:
      status.outcome = protocol::ExitStatus::Outcome::signaled;
      status.signal = exit_->value;
      break;
    case runner::ExitInfo::Kind::lost:
      status.outcome = protocol::ExitStatus::Outcome::lost;
      break;
  }
  if (end_.why() == Why::timeout) status.outcome = protocol::ExitStatus::Outcome::timed_out;
  if (end_.why() == Why::cancel) status.outcome = protocol::ExitStatus::Outcome::cancelled;
  status.reason = reason_;
  if (exit_->kind != runner::ExitInfo::Kind::lost) {
    status.stdout_open = outputs_[0].left_open;
    status.stderr_open = outputs_[1].left_open;
  }
  status.start_time_ms = milliseconds_of(start_time_);
  status.end_time_ms = milliseconds_of(exit_->time);
  if (status.end_time_ms == 0) status.end_time_ms = milliseconds_of(std::chrono::system_clock::now());
  return status;
}

void ProcessRun::finish_if_done() {
  if (phase_ != Phase::running || !exit_) return;
  for (const OutputState& s : outputs_) {
    if (!s.ended) return;
  }
  // Who was told to go and let go of the outputs may still be there: after a cancel or a timeout nothing of the group is left.
  if (end_.must_kill()) process_->signal_group(SIGKILL);
  finish(status());
}

void ProcessRun::finish(const protocol::ExitStatus& status) {
  const auto self = shared_from_this();
  stdin_broken();
  std::string outcome = name_of(status.outcome);
  if (status.code) outcome += " " + std::to_string(*status.code);
  if (status.signal) outcome += " signal " + std::to_string(*status.signal);
  if (!status.error_name.empty()) outcome += " " + status.error_name;
  retire();
  for (const Output output : {Output::std_out, Output::std_err})
    if (std::exchange(state(output).untold, false)) on_output_end(output, false);
  on_finished(status);  // first: somebody waits for it
  log_end(outcome);
}

void ProcessRun::refuse(const protocol::ConnectError& error) {
  const auto self = shared_from_this();
  stdin_broken();
  retire();
  on_refused(error);
  log_end("refused " + std::string(base::to_string(error.code)));
}

void ProcessRun::retire() {
  phase_ = Phase::finished;
  timeout_timer_.cancel();
  end_timer_.cancel();
  leave();
  context_->runs.erase(this);
  // Not destroyed here: we may be inside one of its own calls.
  if (process_ || sandbox_) {
    asio::post(context_->executor, [sandbox = std::move(sandbox_), process = std::move(process_)]() mutable {
      process.reset();
      sandbox.reset();
    });
  }
  context_->changed.notify();
}

void ProcessRun::log_end(const std::string& outcome) const {
  const auto elapsed = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin_).count();
  context_->log(LogLevel::info, "process " + base::escaped(id_, 64) + " sandbox " + record_->id() + " \"" +
                                    base::escaped(program_, 128) + "\" " + outcome + ", " + std::to_string(elapsed / 1000) + "." +
                                    std::to_string(elapsed / 100 % 10) + " ms, stdin " + std::to_string(stdin_bytes_) +
                                    ", stdout " + std::to_string(outputs_[0].bytes) + ", stderr " +
                                    std::to_string(outputs_[1].bytes) + " bytes");
}

void ProcessRun::drop() noexcept {
  if (phase_ == Phase::finished) return;
  const auto self = shared_from_this();
  phase_ = Phase::finished;
  timeout_timer_.cancel();
  end_timer_.cancel();
  leave();
  context_->runs.erase(this);
  if (process_) process_->signal_group(SIGKILL);
  process_.reset();
  sandbox_.reset();
}

}  // namespace cwsandbox::gateway
