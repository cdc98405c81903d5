#include "runner/remote/tunnel.hpp"

#include "base/errno_text.hpp"
#include "base/text.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>

#include <algorithm>
#include <cerrno>

namespace cwsandbox::runner::remote {

namespace {

using std::chrono::milliseconds;

// The first link is waited for by whoever makes the sandbox, and its place comes up within a second or so: what the last pause
// before it is too long, a creation takes longer. Hence some tries, close together, before the pauses begin to grow.
constexpr int kEagerTries = 16;
constexpr milliseconds kEagerPause{50}, kFirstPause{100}, kLongestPause{5000};
// Between the end of the sandbox and the last word on each of its processes.
constexpr std::chrono::seconds kEnds{10};
// Stops beyond the calls that may wait, so that none of those holds one up.
constexpr std::size_t kStops = 16;
constexpr std::size_t kStagedAhead = 8;
constexpr std::size_t kShown = 256;

}  // namespace

// What is asked, on its way.
class Tunnel::CallSender final : public Sender {
 public:
  CallSender() : Sender(kTunnelStream) {}

  void add(const std::shared_ptr<Call>& call) {
    if (call->op == Op::stop) {
      waiting_.push_front(call);
    } else {
      waiting_.push_back(call);
    }
  }
  void on_answered(Call& call) noexcept {
    --under_way_;
    if (in_flight_.get() != &call) drop_request(call);  // one that answers before it can have read all is no reason to free it
  }
  /// Over a new link: all that have not been taken, in their order.
  void restart(const std::map<std::uint64_t, std::shared_ptr<Call>>& calls, const std::vector<std::uint64_t>& taken) {
    waiting_.clear();
    under_way_ = 0;
    for (const auto& [id, call] : calls) {
      if (call->sent && std::find(taken.begin(), taken.end(), id) != taken.end()) {
        ++under_way_;
        continue;
      }
      call->sent = false;
      add(call);
    }
  }

  std::optional<protocol::OutMessage> next_message() override {
    if (in_flight_) return std::nullopt;
    while (!waiting_.empty()) {
      const std::shared_ptr<Call> call = waiting_.front();
      if (!call->done && under_way_ >= (call->op == Op::stop ? kMaxCalls + kStops : kMaxCalls)) break;
      waiting_.pop_front();
      if (call->done) continue;
      call->sent = true;
      ++under_way_;
      in_flight_ = call;
      return protocol::OutMessage{call->head, call->tail};
    }
    return std::nullopt;
  }
  void on_sent() override {
    if (in_flight_ && in_flight_->done) drop_request(*in_flight_);
    in_flight_.reset();
  }

 private:
  static void drop_request(Call& call) noexcept { call.head = call.tail = std::string(); }

  std::deque<std::shared_ptr<Call>> waiting_;
  std::shared_ptr<Call> in_flight_;
  std::size_t under_way_ = 0;
};

Tunnel::Tunnel(asio::any_io_executor executor, Dial dial, RemoteOptions options)
    : executor_(std::move(executor)),
      dial_(std::move(dial)),
      options_(std::move(options)),
      pause_(executor_),
      patience_(executor_),
      overdue_(executor_),
      ends_(executor_),
      random_(std::random_device{}()),
      call_sender_(std::make_shared<CallSender>()) {}

RunnerError Tunnel::gone() const {
  return {ErrorCode::unavailable, kUnavailable, "the sandbox has ended" + (trouble_.empty() ? std::string() : ": " + trouble_)};
}

// ---- Links ----

void Tunnel::connect() {
  if (std::exchange(connecting_, true) || over_) return;
  arm(options_.connect_deadline, "it could not be reached");
  asio::co_spawn(executor_, keep_connected(shared_from_this()), asio::detached);
}

void Tunnel::arm(milliseconds patience, const char* why) {
  patience_.expires_after(patience);
  patience_.async_wait([weak = weak_from_this(), why](const error_code& ec) {
    const auto self = weak.lock();
    if (self && !ec && !self->welcomed_) self->lose(self->trouble_.empty() ? why : why + (": " + self->trouble_));
  });
}

asio::awaitable<void> Tunnel::keep_connected(std::shared_ptr<Tunnel> self) {
  milliseconds pause = kEagerPause;
  int eager = kEagerTries;
  while (!self->done_with_links()) {
    std::unique_ptr<Link> link;
    std::optional<RunnerError> refused;
    try {
      auto dialling = self->dial_();
      link = co_await std::move(dialling);
    } catch (const RunnerError& e) {
      self->trouble_ = e.what();
      if (e.code() != ErrorCode::unavailable) refused = e;
    } catch (const std::exception& e) {
      self->trouble_ = e.what();
    }
    if (self->done_with_links()) break;
    if (refused) {
      self->lose(refused->what(), refused);
      break;
    }
    self->useful_ = false;
    if (link) {
      self->wire_ =
          std::make_shared<Wire>(self->executor_, std::move(link), self->options_.hello_deadline, self->options_.keep_alive);
      self->hello_due_ = true;
      self->wire_->start(self);
      while (self->wire_) co_await wait_for(self->changed_);
      if (self->done_with_links()) break;
    }
    // A link that was of use may be had again at once; one that was not is a reason to wait.
    if (self->useful_) {
      pause = kFirstPause;
      continue;
    }
    std::uniform_int_distribution<milliseconds::rep> some(pause.count() / 2, pause.count());
    self->pause_.expires_after(milliseconds(some(self->random_)));
    if (self->known_ || --eager < 0) pause = std::min(2 * pause, kLongestPause);
    error_code ignored;
    auto token = asio::redirect_error(asio::use_awaitable, ignored);
    co_await self->pause_.async_wait(token);
  }
  self->patience_.cancel();
  self->overdue_.cancel();
  self->ends_.cancel();
}

std::optional<OutFrame> Tunnel::next_frame(Wire& wire) {
  if (&wire != wire_.get()) return std::nullopt;
  Control control;
  if (hello_due_) {
    hello_due_ = false;
    control.type = Control::Type::hello;
    control.session = options_.session;
    control.key = options_.key;
    control.resumed = known_;
    control.grace = options_.grace;
    for (const auto& [id, call] : calls_) {
      if (call->sent) control.calls.push_back(id);
    }
  } else if (!welcomed_) {
    return std::nullopt;
  } else if (!acks_.empty()) {
    control.type = Control::Type::ack;
    control.calls = std::move(acks_);
    acks_.clear();
  } else if (bye_due_) {
    bye_due_ = false;
    control.type = Control::Type::bye;
  } else if (over_) {
    return std::nullopt;
  } else {
    return outbox_.next();
  }
  control_ = encode_control(control);
  control_in_flight_ = true;
  return OutFrame{kTunnelStream, {control_, {}}};
}

void Tunnel::on_frame_sent(Wire& /*wire*/) noexcept {
  if (std::exchange(control_in_flight_, false)) {
    control_ = std::string();
  } else {
    outbox_.on_sent();
  }
}

void Tunnel::on_gone(Wire& wire, const std::string& why, bool violated) {
  if (&wire != wire_.get()) return;
  wire_.reset();
  outbox_.clear();
  hello_due_ = bye_due_ = bye_said_ = false;
  if (!why.empty()) trouble_ = why;
  if (violated) {
    lose("the other end broke the protocol: " + why);
  } else if (std::exchange(welcomed_, false) && !over_) {
    arm(options_.grace, "the link to it broke and could not be had again");
  }
  changed_.resume_all();
}

void Tunnel::wake(const std::shared_ptr<Sender>& sender) {
  if (!welcomed_ || !wire_ || over_) return;  // a new link takes all of them up
  outbox_.add(sender);
  wire_->wake();
}

// ---- What comes ----

void Tunnel::on_control(Wire& wire, Control control) {
  if (&wire != wire_.get()) return;
  using Type = Control::Type;
  if (control.type == Type::refused && !welcomed_) {
    const std::string why = "refused: " + base::printable(control.message, kShown);
    if (leaving_ || control.code == ErrorCode::unavailable) {
      trouble_ = why;
      finished_ = leaving_;
      wire.close(why);
    } else {
      lose(why, told_error(control.code, kUnavailable, why));
    }
    return;
  }
  if (control.type == Type::welcome && !welcomed_) return on_welcome(wire, control);
  if (!welcomed_) throw Violation("control before the welcome");
  if (over_ && control.type != Type::bye) return;
  switch (control.type) {
    case Type::running:
      if (!main_) begin_main(control.main);
      return;
    case Type::ended:
      return on_ended(*control.exit);
    case Type::bye:
      // Whoever leaves without being asked to would leave everybody waiting.
      if (!bye_said_ && !leaving_) throw Violation("an end of the session that was not asked for");
      finished_ = true;
      wire.close("the session is over");
      pause_.cancel();
      return;
    default:
      throw Violation("control that is not for this end");
  }
}

void Tunnel::on_welcome(Wire& wire, const Control& welcome) {
  if (welcome.version != kVersion) {
    const std::string why = "the other end speaks version " + std::to_string(welcome.version);
    return lose(why, RunnerError(ErrorCode::failed_precondition, kUnavailable, why));
  }
  if (known_ && !welcome.resumed) return lose("the other end has given this session up");
  known_ = welcomed_ = true;
  appends_ = welcome.appends;
  watches_ = welcome.watches;
  patience_.cancel();
  wire.established();
  trouble_.clear();
  acks_.clear();  // the hello has said as much
  if (leaving_) {
    bye_due_ = true;
    wire.wake();
    return;
  }
  if (main_) main_->on_link();
  for (auto at = streams_.begin(); at != streams_.end();) {
    const auto stream = at->second;
    if (!stream->failed()) {
      stream->on_link();
      ++at;
      continue;
    }
    // It has never run, and must not be started again by being taken up: only the other end's memory of it has to go.
    at = streams_.erase(at);
    Request request;
    request.op = Op::forget;
    request.stream = stream->stream();
    ask(std::move(request));
  }
  if (!main_ && (welcome.state == Control::State::running || welcome.state == Control::State::ended)) begin_main(welcome.main);
  if (welcome.exit) on_ended(*welcome.exit);
  std::erase_if(calls_, [&](const auto& entry) {  // given up, and never taken
    return entry.second->done && std::find(welcome.calls.begin(), welcome.calls.end(), entry.first) == welcome.calls.end();
  });
  call_sender_->restart(calls_, welcome.calls);
  outbox_.add(call_sender_);
  if (main_) outbox_.add(main_);
  for (const auto& [number, stream] : streams_) outbox_.add(stream);
  say_bye_when_done();
  wire.wake();
  changed_.resume_all();
}

void Tunnel::on_frame(Wire& wire, const Frame& frame) {
  if (&wire != wire_.get() || over_) return;
  if (!welcomed_) throw Violation("a frame before the welcome");
  useful_ = true;
  if (frame.stream == kTunnelStream) {
    if (frame.channel != kAnswerChannel) throw Violation("a request is not for this end");
    return on_answer(frame.payload);
  }
  std::shared_ptr<RemoteStream> stream = main_;
  if (frame.stream != kMainStream) {
    const auto at = streams_.find(frame.stream);
    stream = at == streams_.end() ? nullptr : at->second;
  }
  if (!stream) throw Violation("stream " + std::to_string(frame.stream) + " is not there");
  stream->on_message(frame);
}

void Tunnel::begin_main(const Offsets& offsets) {
  protocol::ResumeRequest request;
  request.id = "main";
  request.sandbox_id = "main";
  request.stdout_received = offsets.out;
  request.stderr_received = offsets.err;
  request.stdout_limit = offsets.out + options_.output_window;
  request.stderr_limit = offsets.err + options_.output_window;
  main_ = std::make_shared<RemoteStream>(weak_from_this(), executor_, request);
  main_->on_link();
  if (abandoned_) main_->forget();
  wake(main_);
  changed_.resume_all();
}

// ---- Ends ----

void Tunnel::on_ended(const ExitInfo& exit) {
  if (ended_) return;
  ended_ = exit;
  ends_.expires_after(kEnds);
  ends_.async_wait([weak = weak_from_this()](const error_code& ec) {
    const auto self = weak.lock();
    if (!self || ec) return;
    const auto streams = self->streams_;
    for (const auto& [number, stream] : streams) {
      if (!stream->end_known()) stream->lose(std::make_exception_ptr(self->gone()));
    }
    self->tell_end();
  });
  tell_end();
  changed_.resume_all();
}

void Tunnel::on_stream_end() {
  tell_end();
  say_bye_when_done();
}

// Each process gets its end before the sandbox gets its own.
void Tunnel::tell_end() {
  if (!ended_ || main_exit_.is_set()) return;
  const auto unknown = [](const auto& entry) { return !entry.second->end_known(); };
  if (std::any_of(streams_.begin(), streams_.end(), unknown)) return;
  ends_.cancel();
  main_exit_.set(*ended_);
  asio::post(executor_, [self = shared_from_this()] { self->main_exit_.fire(); });
}

void Tunnel::say_bye_when_done() {
  if (bye_said_ || !ended_ || over_ || !main_ || !main_->all_seen() || !calls_.empty() || !welcomed_) return;
  for (const auto& [number, stream] : streams_) {
    if (!stream->all_seen()) return;
  }
  bye_due_ = bye_said_ = true;
  if (wire_) wire_->wake();
}

void Tunnel::on_stream_over(std::uint32_t stream) {
  streams_.erase(stream);
  on_stream_end();
}

void Tunnel::lose(std::string why, std::optional<RunnerError> error) {
  if (over_) return;
  over_ = true;
  trouble_ = std::move(why);
  over_error_ = std::move(error);
  patience_.cancel();
  pause_.cancel();
  overdue_.cancel();
  ends_.cancel();
  const auto lost = std::make_exception_ptr(gone());
  const auto streams = streams_;
  for (const auto& [number, stream] : streams) stream->lose(lost);
  streams_.clear();
  if (main_) main_->lose(lost);
  const auto calls = std::exchange(calls_, {});
  for (const auto& [id, call] : calls) {
    call->done = true;
    call->error = lost;
    call->waiters.resume_all();
  }
  if (!ended_) {
    end_lost_ = true;
    ended_ = ExitInfo();
    ended_->time = std::chrono::system_clock::now();
  }
  tell_end();
  if (wire_ && !leaving_) wire_->close(trouble_);
  changed_.resume_all();
}

ExitInfo Tunnel::lost_process() const {
  ExitInfo info = lost_now();
  if (ended_) {
    info.main_ended = ended_->kind != ExitInfo::Kind::lost;
    info.out_of_memory = ended_->out_of_memory;
  }
  return info;
}

void Tunnel::place_gone(std::string why, std::optional<ExitInfo> exit) {
  place_gone_ = true;
  if (exit && !ended_ && !over_) ended_ = exit;
  lose(std::move(why));
}

void Tunnel::on_exit(std::function<void(const ExitInfo&)> handler) {
  main_exit_.listen(std::move(handler));
  if (main_exit_.is_set()) asio::post(executor_, [self = shared_from_this()] { self->main_exit_.fire(); });
}

void Tunnel::abandon(bool let_go) {
  abandoned_ = true;
  main_exit_.forget();
  if (main_) main_->forget();
  if (over_ || !connecting_) return lose("it was given up");
  if (finished_) return;
  if (let_go || (!created_ && !main_)) return leave();
  asio::co_spawn(executor_, end_it(shared_from_this()), asio::detached);
}

// Nothing more is wanted here. Only the last word still goes out, by another link if need be, so that the other end keeps nothing.
void Tunnel::leave() {
  leaving_ = true;
  lose("it was let go");
  bye_due_ = welcomed_;
  if (wire_) wire_->wake();
  ends_.expires_after(options_.end_deadline);
  ends_.async_wait([weak = weak_from_this()](const error_code& ec) {
    const auto self = weak.lock();
    if (!self || ec) return;
    self->leaving_ = false;
    self->pause_.cancel();
    if (self->wire_) self->wire_->close("it was let go");
  });
}

asio::awaitable<void> Tunnel::end_it(std::shared_ptr<Tunnel> self) {
  asio::steady_timer bound(self->executor_, self->options_.end_deadline);
  bound.async_wait([weak = std::weak_ptr(self)](const error_code& ec) {
    const auto tunnel = weak.lock();
    if (tunnel && !ec) tunnel->lose("it was ended");
  });
  try {
    auto stopping = stop(self, milliseconds(0));
    co_await std::move(stopping);
  } catch (const RunnerError&) {  // nobody is there who wants to know
  }
  while (!self->over_ && !self->finished_) co_await wait_for(self->changed_);
  self->lose("it was ended");
}

// ---- Calls ----

std::shared_ptr<Call> Tunnel::ask(Request request, std::string tail, std::size_t most) {
  auto call = std::make_shared<Call>();
  request.id = call->id = next_call_++;
  call->op = request.op;
  call->most = most;
  if (over_ || ended_) {
    call->done = true;
    call->error = std::make_exception_ptr(gone());
    return call;
  }
  call->head = encode_request(request);
  call->tail = std::move(tail);
  if (call->head.size() + call->tail.size() > kMaxCall) {
    call->done = true;
    if (request.op == Op::create) {
      call->error = std::make_exception_ptr(StartFailed(
          E2BIG, "program", "cannot run '" + base::printable(request.command.front(), kShown) + "': " + base::errno_name(E2BIG)));
    } else {
      const std::string shown = base::printable(request.path, kShown);
      call->error =
          std::make_exception_ptr(FileFailed(ENAMETOOLONG, request.path, "'" + shown + "': " + base::errno_name(ENAMETOOLONG)));
    }
    return call;
  }
  call->due = Clock::now() + options_.answer_deadline + request.grace;
  calls_.emplace(call->id, call);
  call_sender_->add(call);
  wake(call_sender_);
  watch_answers();
  return call;
}

// That the link is alive says nothing of whether anybody answers.
void Tunnel::watch_answers() {
  if (over_ || std::exchange(watching_answers_, true)) return;
  overdue_.expires_after(options_.answer_deadline / 4);
  overdue_.async_wait([weak = weak_from_this()](const error_code& ec) {
    const auto self = weak.lock();
    if (!self) return;
    self->watching_answers_ = false;
    if (!ec) self->look_for_overdue();
  });
}

void Tunnel::look_for_overdue() {
  const auto now = Clock::now();
  const auto late =
      std::make_exception_ptr(RunnerError(ErrorCode::deadline_exceeded, kUnavailable, "the sandbox's agent does not answer"));
  bool more = false;
  for (const auto& [id, call] : calls_) {
    if (call->done) continue;
    if (now < call->due) {
      more = true;
      continue;
    }
    call->done = true;
    call->error = late;
    call->waiters.resume_all();
  }
  // The others may still be answered.
  std::erase_if(calls_, [](const auto& entry) { return entry.second->done && !entry.second->sent; });
  const auto streams = streams_;
  for (const auto& [number, stream] : streams) {
    if (!stream->starting()) continue;
    if (now < stream->asked_at() + options_.answer_deadline) {
      more = true;
    } else {
      stream->give_up(late);
    }
  }
  if (more) watch_answers();
}

asio::awaitable<void> Tunnel::wait(std::shared_ptr<Call> call) {
  while (!call->done) co_await wait_for(call->waiters);
  if (call->error) std::rethrow_exception(call->error);
}

void Tunnel::on_answer(std::string_view payload) {
  Decoded<Answer> answer = decode_answer(payload);
  const auto at = calls_.find(answer.message.id);
  if (at == calls_.end() || !at->second->sent) throw Violation("an answer to what was not asked");
  const std::shared_ptr<Call> call = at->second;
  if (answer.bytes.size() > call->most) throw Violation("an answer of more bytes than were asked for");
  calls_.erase(at);
  acks_.push_back(call->id);
  const bool late = std::exchange(call->done, true);
  call->bytes = answer.bytes;
  if (answer.message.failure && !late) call->error = answer.message.failure->to_exception();
  call->answer = std::move(answer.message);
  if (call->answer.handle != 0 && (late || call.use_count() == 1)) {  // whoever asked has gone meanwhile
    Request request;
    request.op = Op::close;
    request.handle = call->answer.handle;
    ask(std::move(request));
  }
  call_sender_->on_answered(*call);
  call->waiters.resume_all();
  say_bye_when_done();
  wake(call_sender_);
}

// ---- What is asked for ----

asio::awaitable<void> Tunnel::create(std::shared_ptr<Tunnel> self, SandboxSpec spec) {
  self->connect();
  std::exception_ptr error;
  try {
    auto staging = stage(self, spec.files);
    co_await std::move(staging);
    Request request;
    request.op = Op::create;
    request.path = spec.id;
    request.second = spec.working_dir;
    request.command = std::move(spec.command);
    request.env = std::move(spec.env);
    auto creating = wait(self->ask(std::move(request)));
    self->created_ = true;
    co_await std::move(creating);
  } catch (const RunnerError&) {
    error = std::current_exception();
  }
  if (error) {
    self->created_ = false;
    if (self->over_error_) throw RunnerError(*self->over_error_);
    std::rethrow_exception(error);
  }
  auto running = attach(self, self->options_.answer_deadline);
  co_await std::move(running);
}

asio::awaitable<void> Tunnel::stage(std::shared_ptr<Tunnel> self, const std::vector<InitialFile>& files) {
  std::deque<std::shared_ptr<Call>> behind;
  for (const InitialFile& file : files) {
    std::size_t done = 0;
    do {
      Request part;
      part.op = Op::stage;
      part.flag = done > 0;  // more of the one before
      if (done == 0) part.path = file.path;
      std::string bytes = file.content.substr(done, kFileChunk);
      done += bytes.size();
      behind.push_back(self->ask(std::move(part), std::move(bytes)));
      // Some ahead, so that it is quick, and not all, so that they are not here twice.
      if (behind.size() < kStagedAhead) continue;
      auto first = wait(behind.front());
      co_await std::move(first);
      behind.pop_front();
    } while (done < file.content.size());
  }
  for (const auto& call : behind) {
    auto part = wait(call);
    co_await std::move(part);
  }
}

asio::awaitable<void> Tunnel::attach(std::shared_ptr<Tunnel> self, milliseconds deadline) {
  self->connect();
  asio::steady_timer bound(self->executor_, deadline);
  const auto late = std::make_shared<bool>(false);
  bound.async_wait([late, weak = std::weak_ptr(self)](const error_code& ec) {
    if (ec) return;
    *late = true;
    if (const auto tunnel = weak.lock()) tunnel->changed_.resume_all();
  });
  while (!self->main_ && !self->over_ && !*late) co_await wait_for(self->changed_);
  if (self->main_) {
    self->created_ = true;
    co_return;
  }
  if (!self->over_) {
    throw RunnerError(ErrorCode::deadline_exceeded, kUnavailable,
                      "the main command does not run" + (self->trouble_.empty() ? std::string() : ": " + self->trouble_));
  }
  if (self->over_error_) throw RunnerError(*self->over_error_);
  throw self->gone();
}

asio::awaitable<std::shared_ptr<RemoteStream>> Tunnel::start(std::shared_ptr<Tunnel> self, ProcessSpec spec) {
  protocol::StartRequest request;
  std::size_t bytes = 0;
  for (const std::string& word : spec.command) bytes += word.size();
  for (const auto& [name, value] : spec.env) bytes += name.size() + value.size();
  if (bytes > protocol::kMaxStartPayload) {  // the kernel's own limit is lower
    throw StartFailed(E2BIG, "program",
                      "cannot run '" + base::printable(spec.command.empty() ? std::string() : spec.command.front(), kShown) +
                          "': Argument list too long (E2BIG)");
  }
  request.command = std::move(spec.command);
  request.env = std::move(spec.env);
  request.cwd = std::move(spec.cwd);
  request.use_stdin = spec.use_stdin || spec.tty;
  request.tty = spec.tty;
  if (spec.tty) {
    request.tty_width = spec.tty_width;
    request.tty_height = spec.tty_height;
  }
  request.stdout_limit = request.stderr_limit = self->options_.output_window;
  request.sandbox_id = "main";
  request.id = "p" + std::to_string(self->next_stream_);
  if (const auto error = protocol::validate(request)) throw RunnerError(error->code, error->reason, error->message);
  if (self->over_ || self->ended_) throw self->gone();
  if (self->next_stream_ == 0)
    throw RunnerError(ErrorCode::resource_exhausted, kUnavailable, "the sandbox has started too many processes");
  auto stream = std::make_shared<RemoteStream>(std::weak_ptr(self), self->executor_, self->next_stream_++, request);
  self->streams_.emplace(stream->stream(), stream);
  if (self->welcomed_) {
    stream->on_link();
    self->wake(stream);
  }
  self->watch_answers();
  auto started = RemoteStream::wait_started(stream);
  co_await std::move(started);
  co_return stream;
}

asio::awaitable<void> Tunnel::stop(std::shared_ptr<Tunnel> self, milliseconds grace) {
  grace = std::clamp(grace, milliseconds(0), milliseconds(std::chrono::hours(24)));
  if (!self->ended_ && !self->over_) {
    const auto when = Clock::now() + grace;
    if (!self->stop_call_ || when < self->stop_deadline_) {
      Request request;
      request.op = Op::stop;
      request.grace = grace;
      self->stop_deadline_ = when;
      self->stop_call_ = self->ask(std::move(request));
    }
    try {
      auto stopping = wait(self->stop_call_);
      co_await std::move(stopping);
    } catch (const RunnerError&) {
      if (!self->ended_) throw;
    }
  }
  while (!self->ended_ && !self->over_) co_await wait_for(self->changed_);
  if (self->end_lost_ && !self->place_gone_) throw self->gone();
}

const std::shared_ptr<RemoteStream>& Tunnel::main() { return main_; }

}  // namespace cwsandbox::runner::remote
