#include "runner/remote/server_session.hpp"

#include "base/errno_text.hpp"
#include "base/text.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>

#include <algorithm>
#include <cerrno>

namespace cwsandbox::runner::remote {

namespace {

constexpr const char* kExhausted = "CWSANDBOX_CAPACITY_EXHAUSTED";

[[nodiscard]] RunnerError not_there() {
  return {ErrorCode::unavailable, kUnavailable, "the sandbox has ended, or does not run yet"};
}

asio::awaitable<void> nobody_there() {
  throw not_there();
  co_return;
}

}  // namespace

// The answers that are to be written.
class Session::AnswerSender final : public Sender {
 public:
  AnswerSender() : Sender(kTunnelStream) {}
  void add(const std::shared_ptr<Taken>& taken) { waiting_.push_back(taken); }
  void clear() noexcept { waiting_.clear(); }
  std::optional<protocol::OutMessage> next_message() override {
    if (in_flight_ || waiting_.empty()) return std::nullopt;
    in_flight_ = waiting_.front();
    waiting_.pop_front();
    return protocol::OutMessage{in_flight_->head, in_flight_->tail};
  }
  void on_sent() override { in_flight_.reset(); }

 private:
  std::deque<std::shared_ptr<Taken>> waiting_;
  std::shared_ptr<Taken> in_flight_;
};

Session::Session(std::shared_ptr<ServerState> server, std::string id, std::chrono::milliseconds grace)
    : server_(server),
      executor_(server->executor()),
      id_(std::move(id)),
      grace_(grace),
      grace_timer_(executor_),
      answer_sender_(std::make_shared<AnswerSender>()) {}

// ---- Links ----

void Session::take_over(const std::shared_ptr<Wire>& wire, const Control& hello) {
  wire->hand_to(shared_from_this());
  wire->established();
  if (!wire_) return attach(wire, hello);
  if (next_wire_) next_wire_->close("a newer link has this session");
  next_wire_ = wire;
  next_hello_ = hello;
  wire_->close("a newer link has this session");
}

void Session::attach(std::shared_ptr<Wire> wire, Control hello) {
  wire_ = std::move(wire);
  grace_timer_.cancel();
  std::sort(hello.calls.begin(), hello.calls.end());
  std::erase_if(taken_,
                [&](const auto& entry) { return !std::binary_search(hello.calls.begin(), hello.calls.end(), entry.first); });
  for (const auto& [id, taken] : taken_) {
    if (taken->answered) answer_sender_->add(taken);
  }
  outbox_.add(answer_sender_);
  welcome_due_ = true;
  wire_->wake();
}

void Session::on_gone(Wire& wire, const std::string& why, bool violated) {
  const auto self = shared_from_this();
  if (&wire == next_wire_.get()) {
    next_wire_.reset();
    return;
  }
  if (&wire != wire_.get()) return;
  wire_.reset();
  outbox_.clear();
  answer_sender_->clear();
  welcome_due_ = false;
  if (main_) main_->on_link_gone();
  for (const auto& [number, process] : processes_) process->on_link_gone();
  if (violated) {
    if (const auto server = server_.lock()) server->log("a session broke the protocol: " + base::printable(why, 256));
    return drop("it broke the protocol");
  }
  if (next_wire_) {
    auto next = std::exchange(next_wire_, nullptr);
    return attach(std::move(next), std::exchange(next_hello_, Control()));
  }
  grace_timer_.expires_after(grace_);
  grace_timer_.async_wait([weak = weak_from_this()](const error_code& ec) {
    const auto session = weak.lock();
    if (session && !ec && !session->wire_) session->drop("it was not taken up again in time");
  });
}

void Session::drop(const char* why) {
  if (std::exchange(dropped_, true)) return;
  const auto self = shared_from_this();
  grace_timer_.cancel();
  outbox_.clear();
  const auto processes = std::exchange(processes_, {});
  for (const auto& [number, process] : processes) process->kill();
  handles_.clear();
  taken_.clear();
  staged_.clear();
  main_.reset();
  if (wire_) wire_->close(why);
  if (next_wire_) next_wire_->close(why);
  if (const auto server = server_.lock()) server->over(*this);
}

std::optional<OutFrame> Session::next_frame(Wire& wire) {
  if (&wire != wire_.get() || dropped_) return std::nullopt;
  const auto server = server_.lock();
  if (!server) return std::nullopt;
  Control control;
  if (std::exchange(welcome_due_, false)) {
    control.type = Control::Type::welcome;
    control.appends = true;
    control.watches = true;
    control.resumed = std::exchange(resumed_, true);
    control.state = server->phase();
    control.exit = server->exit();
    for (const auto& [id, taken] : taken_) control.calls.push_back(id);
    running_due_ = ended_due_ = false;
  } else if (std::exchange(running_due_, false)) {
    control.type = Control::Type::running;
  } else if (std::exchange(ended_due_, false)) {
    control.type = Control::Type::ended;
    control.exit = server->exit();
  } else {
    return outbox_.next();
  }
  if (main_) {
    control.main.out = main_->machine().outbound(protocol::Channel::std_out).acknowledged();
    control.main.err = main_->machine().outbound(protocol::Channel::std_err).acknowledged();
  }
  control_ = encode_control(control);
  control_in_flight_ = true;
  return OutFrame{kTunnelStream, {control_, {}}};
}

void Session::on_frame_sent(Wire& /*wire*/) noexcept {
  if (std::exchange(control_in_flight_, false)) {
    control_ = std::string();
  } else {
    outbox_.on_sent();
  }
}

void Session::wake(const std::shared_ptr<Sender>& sender) {
  if (!wire_ || dropped_ || !sender) return;
  outbox_.add(sender);
  wire_->wake();
}

void Session::begin_main() {
  const auto server = server_.lock();
  if (!server || main_ || dropped_) return;
  main_ = server->main_stream(shared_from_this());
  running_due_ = true;
  if (wire_) wire_->wake();
}

void Session::on_ended() {
  ended_due_ = true;
  if (wire_) wire_->wake();
}

void Session::pump_main() {
  if (const auto server = server_.lock()) server->pump();
}

void Session::forget(std::uint32_t stream) { processes_.erase(stream); }

// ---- What comes ----

void Session::on_control(Wire& wire, Control control) {
  if (dropped_) return;
  if (&wire != wire_.get()) throw Violation("control before the welcome");
  if (control.type == Control::Type::ack) {
    for (const std::uint64_t id : control.calls) {
      const auto at = taken_.find(id);
      if (at != taken_.end() && at->second->answered) taken_.erase(at);
    }
  } else if (control.type == Control::Type::bye) {
    const auto server = server_.lock();
    const auto self = shared_from_this();
    const auto last = std::exchange(wire_, nullptr);
    if (server) server->see_off(last, control, "the session is over");
    drop("it is over");
  } else {
    throw Violation("control that is not for this end");
  }
}

void Session::on_frame(Wire& wire, const Frame& frame) {
  if (dropped_) return;
  if (&wire != wire_.get()) throw Violation("a frame before the welcome");
  if (frame.stream != kTunnelStream) return on_stream_frame(frame);
  if (frame.channel != kRequestChannel) throw Violation("an answer is not for this end");
  on_request(frame.payload);
}

void Session::on_stream_frame(const Frame& frame) {
  if (frame.stream == kMainStream) {
    if (!main_) throw Violation("the main command does not run yet");
    const auto main = main_;
    return main->on_message(frame);
  }
  const auto at = processes_.find(frame.stream);
  if (at == processes_.end()) return start_process(frame.stream, frame);
  const auto process = at->second;
  process->on_message(frame);
}

void Session::start_process(std::uint32_t stream, const Frame& frame) {
  const auto server = server_.lock();
  if (!server) return;
  const protocol::FirstMessage first = protocol::parse_first_message(frame.channel, frame.payload);
  if (const auto* violation = std::get_if<protocol::ProtocolError>(&first)) {
    throw Violation("stream " + std::to_string(stream) + ": " + violation->reason);
  }
  std::optional<protocol::StatusError> error;
  protocol::StartRequest request;
  if (const auto* start = std::get_if<protocol::StartRequest>(&first)) {
    request = *start;
    error = protocol::validate(request);
    const auto sandbox = server->sandbox();
    if (!error && (!sandbox || server->phase() != Control::State::running)) {
      error = protocol::StatusError{ErrorCode::unavailable, not_there().what(), kUnavailable, {}, std::nullopt};
    }
    if (!error && processes_.size() >= server->options().max_processes) {
      error = protocol::StatusError{ErrorCode::resource_exhausted, "too many processes", kExhausted, {}, std::nullopt};
    }
  } else {
    // What was released and then taken up again, since nobody knew whether the release had come.
    request.id = std::get<protocol::ResumeRequest>(first).id;
    error = protocol::StatusError{ErrorCode::not_found, "this process is not known here", kUnavailable, {}, std::nullopt};
  }
  // Refusals, too, stay until they have been seen; with so many of them somebody only asks.
  if (processes_.size() >= 2 * server->options().max_processes) throw Violation("too many processes");
  const auto process =
      std::make_shared<ServerProcess>(shared_from_this(), executor_, stream, request, server->options().stdin_window);
  processes_.emplace(stream, process);
  if (error) return process->refuse(*error);
  ProcessSpec spec;
  spec.command = std::move(request.command);
  spec.env = std::move(request.env);
  spec.cwd = std::move(request.cwd);
  spec.use_stdin = request.use_stdin;
  spec.tty = request.tty;
  spec.tty_width = request.tty_width;
  spec.tty_height = request.tty_height;
  asio::co_spawn(executor_, ServerProcess::run(process, server->sandbox(), std::move(spec)), asio::detached);
}

// ---- Calls ----

void Session::on_request(std::string_view payload) {
  Decoded<Request> decoded = decode_request(payload);
  const std::uint64_t id = decoded.message.id;
  if (taken_.contains(id)) throw Violation("a call that was taken already");
  if (taken_.size() >= kMaxCallsTaken) throw Violation("too many calls at once");
  const auto taken = std::make_shared<Taken>();
  taken->id = id;
  taken_.emplace(id, taken);
  try {
    perform(taken, std::move(decoded.message), decoded.bytes);
  } catch (const RunnerError&) {
    fail(taken, std::current_exception());
  }
}

void Session::perform(const std::shared_ptr<Taken>& taken, Request request, std::string_view bytes) {
  const auto server = server_.lock();
  const auto self = shared_from_this();
  if (!server) return;
  switch (request.op) {
    case Op::stage:
      stage(std::move(request), bytes);
      return answer(taken, {});
    case Op::create:
      asio::co_spawn(executor_, create(self, taken, std::move(request)), asio::detached);
      return;
    case Op::stop:
      asio::co_spawn(executor_, stop(self, taken, request.grace), asio::detached);
      return;
    case Op::signal:
    case Op::close_output:
    case Op::forget: {
      const auto at = processes_.find(request.stream);
      if (at != processes_.end()) {
        const auto process = at->second;
        if (request.op == Op::signal) {
          process->signal(request.number);
        } else if (request.op == Op::forget) {
          processes_.erase(at);
          process->kill();
        } else if (request.number == 1 || request.number == 2) {
          process->close_output(static_cast<protocol::Channel>(request.number));
        }
      }
      return answer(taken, {});
    }
    case Op::read:
      if (request.size > kFileChunk) throw Violation("a read of " + std::to_string(request.size) + " bytes");
      return perform_on_handle(taken, std::move(request), bytes);
    case Op::write:
    case Op::commit:
    case Op::next:
    case Op::events:
    case Op::close:
      return perform_on_handle(taken, std::move(request), bytes);
    case Op::open:
    case Op::create_file:
    case Op::list:
    case Op::watch:
    case Op::stat:
    case Op::make_directory:
    case Op::remove:
    case Op::rename:
      asio::co_spawn(executor_, look_after(self, taken, std::move(request)), asio::detached);
      return;
  }
}

void Session::answer(const std::shared_ptr<Taken>& taken, Answer answer, std::string tail) {
  const auto at = taken_.find(taken->id);
  if (at == taken_.end() || at->second != taken) return;
  answer.id = taken->id;
  taken->head = encode_answer(answer);
  taken->tail = std::move(tail);
  taken->answered = true;
  if (!wire_) return;  // the next link begins with all that has been answered
  answer_sender_->add(taken);
  wake(answer_sender_);
}

void Session::fail(const std::shared_ptr<Taken>& taken, const std::exception_ptr& error) {
  Answer failed;
  failed.failure = Failure::of(error);
  answer(taken, std::move(failed));
}

std::shared_ptr<Sandbox> Session::sandbox() const {
  const auto server = server_.lock();
  if (!server || !server->sandbox()) throw not_there();
  return server->sandbox();
}

// ---- The sandbox ----

void Session::stage(Request request, std::string_view bytes) {
  const auto server = server_.lock();
  if (staged_bytes_ + bytes.size() + request.path.size() > server->options().max_initial_files) {
    throw RunnerError(ErrorCode::resource_exhausted, kExhausted, "the initial files are too large");
  }
  if (!request.flag) {
    staged_bytes_ += request.path.size() + sizeof(InitialFile);
    staged_.push_back({std::move(request.path), {}});
  }
  if (staged_.empty()) throw Violation("more of no file");
  staged_.back().content += bytes;
  staged_bytes_ += bytes.size();
}

asio::awaitable<void> Session::create(std::shared_ptr<Session> self, std::shared_ptr<Taken> taken, Request request) {
  SandboxSpec spec;
  spec.id = std::move(request.path);
  spec.command = std::move(request.command);
  spec.env = std::move(request.env);
  spec.working_dir = std::move(request.second);
  spec.files = std::exchange(self->staged_, {});
  self->staged_bytes_ = 0;
  const auto server = self->server_.lock();
  auto creating = server ? ServerState::create(server, std::move(spec)) : nobody_there();
  auto answered = answer_after(std::move(self), std::move(taken), std::move(creating));
  co_await std::move(answered);
}

asio::awaitable<void> Session::stop(std::shared_ptr<Session> self, std::shared_ptr<Taken> taken, std::chrono::milliseconds grace) {
  const auto server = self->server_.lock();
  auto stopping = server ? ServerState::stop(server, grace) : nobody_there();
  auto answered = answer_after(std::move(self), std::move(taken), std::move(stopping));
  co_await std::move(answered);
}

asio::awaitable<void> Session::answer_after(std::shared_ptr<Session> self, std::shared_ptr<Taken> taken,
                                            asio::awaitable<void> work) {
  std::exception_ptr error;
  try {
    co_await std::move(work);
  } catch (const std::exception&) {
    error = std::current_exception();
  }
  if (error) {
    self->fail(taken, error);
  } else {
    self->answer(taken, Answer());
  }
}

// ---- Files ----

void Session::check_handles() const {
  const auto server = server_.lock();
  if (server && handles_.size() >= server->options().max_handles) {
    throw FileFailed(EMFILE, "-", "too many files are open: " + base::errno_name(EMFILE));
  }
}

std::uint64_t Session::keep(std::shared_ptr<OpenHandle> handle) {
  if (dropped_) return 0;
  handles_.emplace(next_handle_, std::move(handle));
  return next_handle_++;
}

asio::awaitable<void> Session::look_after(std::shared_ptr<Session> self, std::shared_ptr<Taken> taken, Request request) {
  Answer result;
  std::exception_ptr error;
  try {
    const std::shared_ptr<Sandbox> sandbox = self->sandbox();
    Files& files = sandbox->files();
    const auto handle = std::make_shared<OpenHandle>();
    switch (request.op) {
      case Op::open: {
        self->check_handles();
        auto opening = files.open(std::move(request.path));
        handle->reader = co_await std::move(opening);
        result.entries.push_back(handle->reader->info());
        result.handle = self->keep(handle);
        break;
      }
      case Op::create_file: {
        self->check_handles();
        FileWriteSpec spec;
        spec.path = std::move(request.path);
        spec.mode = request.mode;
        spec.make_parents = request.flag;
        spec.modified = request.modified;
        spec.append = request.append;
        auto creating = files.create(std::move(spec));
        handle->writer = co_await std::move(creating);
        result.handle = self->keep(handle);
        break;
      }
      case Op::list: {
        self->check_handles();
        auto listing = files.list(std::move(request.path));
        handle->directory = co_await std::move(listing);
        result.handle = self->keep(handle);
        break;
      }
      case Op::watch: {
        self->check_handles();
        auto watching = files.watch(std::move(request.path));
        handle->watch = co_await std::move(watching);
        result.handle = self->keep(handle);
        break;
      }
      case Op::stat: {
        auto looking = files.stat(std::move(request.path), request.flag);
        FileInfo info = co_await std::move(looking);
        result.entries.push_back(std::move(info));
        break;
      }
      case Op::make_directory: {
        auto making = files.make_directory(std::move(request.path), request.mode.value_or(0), request.flag);
        co_await std::move(making);
        break;
      }
      case Op::remove: {
        auto removing = files.remove(std::move(request.path), request.flag);
        co_await std::move(removing);
        break;
      }
      default: {
        auto renaming = files.rename(std::move(request.path), std::move(request.second));
        co_await std::move(renaming);
        break;
      }
    }
  } catch (const std::exception&) {
    error = std::current_exception();
  }
  if (error) {
    self->fail(taken, error);
  } else {
    self->answer(taken, std::move(result));
  }
}

void Session::perform_on_handle(const std::shared_ptr<Taken>& taken, Request request, std::string_view bytes) {
  const auto at = handles_.find(request.handle);
  if (at == handles_.end()) {
    if (request.op == Op::close) return answer(taken, {});
    throw RunnerError(ErrorCode::unavailable, kUnavailable, "the file is not open any more");
  }
  const auto handle = at->second;
  if (request.op == Op::close) {
    // What is under way keeps it; what waits has nobody who wants it.
    handles_.erase(at);
    for (const auto& asked : handle->waiting) fail(asked.taken, std::make_exception_ptr(not_there()));
    handle->waiting.clear();
    return answer(taken, {});
  }
  const std::uint64_t number = request.handle;
  const bool fits = request.op == Op::read     ? handle->reader != nullptr
                    : request.op == Op::next   ? handle->directory != nullptr
                    : request.op == Op::events ? handle->watch != nullptr
                                               : handle->writer != nullptr;
  if (!fits) throw Violation("a handle of another kind");
  handle->waiting.push_back({std::move(request), std::string(bytes), taken});
  if (std::exchange(handle->busy, true)) return;
  asio::co_spawn(executor_, work_off(shared_from_this(), number, handle), asio::detached);
}

asio::awaitable<void> Session::work_off(std::shared_ptr<Session> self, std::uint64_t number, std::shared_ptr<OpenHandle> handle) {
  while (!handle->waiting.empty() && !self->dropped_) {
    OpenHandle::Asked asked = std::move(handle->waiting.front());
    handle->waiting.pop_front();
    Answer result;
    std::string tail;
    std::exception_ptr error;
    try {
      (void)self->sandbox();
      if (asked.request.op == Op::read) {
        tail.resize(static_cast<std::size_t>(asked.request.size));
        const asio::mutable_buffer into(tail.data(), tail.size());
        auto reading = handle->reader->read(asked.request.offset, into);
        const std::size_t n = co_await std::move(reading);
        tail.resize(n);
      } else if (asked.request.op == Op::write) {
        const asio::const_buffer from(asked.bytes.data(), asked.bytes.size());
        auto writing = handle->writer->write(from);
        co_await std::move(writing);
      } else if (asked.request.op == Op::commit) {
        self->handles_.erase(number);
        auto committing = handle->writer->commit();
        co_await std::move(committing);
      } else if (asked.request.op == Op::events) {
        if (handle->events.empty()) {
          auto waiting = handle->watch->next(std::chrono::steady_clock::now() + std::min(asked.request.grace, kLongestWait));
          handle->events = co_await std::move(waiting);
        }
        const auto end = handle->events.begin() + static_cast<std::ptrdiff_t>(std::min(handle->events.size(), kMaxEntries));
        result.events.assign(std::make_move_iterator(handle->events.begin()), std::make_move_iterator(end));
        handle->events.erase(handle->events.begin(), end);
      } else {
        auto reading =
            handle->directory->next(std::clamp<std::size_t>(static_cast<std::size_t>(asked.request.size), 1, kMaxEntries));
        result.entries = co_await std::move(reading);
        if (result.entries.size() > kMaxEntries) result.entries.resize(kMaxEntries);
      }
    } catch (const std::exception&) {
      error = std::current_exception();
    }
    if (error) {
      self->fail(asked.taken, error);
    } else {
      self->answer(asked.taken, std::move(result), std::move(tail));
    }
  }
  handle->busy = false;
}

}  // namespace cwsandbox::runner::remote
