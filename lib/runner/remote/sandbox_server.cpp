#include "runner/remote/sandbox_server.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/error.hpp>

#include <algorithm>
#include <stdexcept>

#include "base/text.hpp"
#include "runner/remote/server_session.hpp"

namespace cwsandbox::runner::remote {

namespace {

using protocol::Channel;

constexpr std::size_t kScratch = 64 * 1024;

// Whoever guesses learns nothing from how long it took.
[[nodiscard]] bool same_key(std::string_view given, std::string_view key) noexcept {
  unsigned difference = given.size() == key.size() ? 0 : 1;
  for (std::size_t i = 0; i < given.size(); ++i) {
    difference |= static_cast<unsigned>(static_cast<unsigned char>(given[i])) ^ static_cast<unsigned char>(key[i % key.size()]);
  }
  return difference == 0;
}

}  // namespace

ServerState::ServerState(asio::any_io_executor executor, Runner& runner, ServerOptions options)
    : executor_(std::move(executor)), runner_(&runner), options_(std::move(options)), end_timer_(executor_) {
  if (options_.key.empty()) throw std::invalid_argument("a sandbox server needs a key");
}

asio::mutable_buffer ServerState::scratch() {
  if (scratch_.empty()) scratch_.resize(kScratch);
  return asio::buffer(scratch_);
}

void ServerState::log(const std::string& line) const {
  if (options_.log) options_.log(line);
}

// ---- Links ----

void ServerState::accept(std::unique_ptr<Link> link) {
  if (!link) return;
  if (down_) return link->refuse("the sandbox was given up");
  if (strangers_.size() >= options_.max_strangers) {
    log("a link was closed: too many that have not said who they are");
    return link->refuse("there are too many connections that have not said who they are");
  }
  const auto wire = std::make_shared<Wire>(executor_, std::move(link), options_.hello_deadline, options_.keep_alive);
  strangers_.emplace(wire.get(), wire);
  wire->start(shared_from_this());
}

void ServerState::on_control(Wire& wire, Control control) {
  const auto at = strangers_.find(&wire);
  if (at == strangers_.end()) return;
  if (control.type != Control::Type::hello) throw Violation("control before hello");
  const auto known = at->second;
  if (!same_key(control.key, options_.key)) return refuse(wire, ErrorCode::permission_denied, "the key is another one");
  if (control.version != kVersion) {
    return refuse(wire, ErrorCode::failed_precondition, "version " + std::to_string(control.version) + " is not spoken here");
  }
  if (!protocol::is_process_id(control.session)) return refuse(wire, ErrorCode::invalid_argument, "the session's name is none");
  auto session = sessions_.find(control.session);
  if (session == sessions_.end()) {
    if (control.resumed) return refuse(wire, ErrorCode::not_found, "this session is not known any more");
    if (sessions_.size() >= options_.max_sessions) return refuse(wire, ErrorCode::resource_exhausted, "too many sessions");
    const auto grace = std::min(control.grace, options_.max_grace);
    auto made = std::make_shared<Session>(shared_from_this(), control.session, grace);
    session = sessions_.emplace(control.session, std::move(made)).first;
    if (phase_ == Phase::running || phase_ == Phase::ended) session->second->begin_main();
  }
  strangers_.erase(at);
  session->second->take_over(known, control);
}

void ServerState::on_frame(Wire& wire, const Frame& /*frame*/) {
  if (strangers_.contains(&wire)) throw Violation("a frame before hello");
}

void ServerState::on_gone(Wire& wire, const std::string& why, bool violated) {
  if (violated) log("a link was closed: " + base::printable(why, 256));
  strangers_.erase(&wire);
  leaving_.erase(&wire);
  changed_.resume_all();
}

void ServerState::refuse(Wire& wire, ErrorCode code, const std::string& message) {
  log("a link was refused: " + message);
  Control refused;
  refused.type = Control::Type::refused;
  refused.code = code;
  refused.message = message;
  wire.close_with(refused, message);
}

void ServerState::see_off(const std::shared_ptr<Wire>& wire, const Control& last, const char* why) {
  if (!wire) return;
  wire->hand_to(shared_from_this());
  leaving_.emplace(wire.get(), wire);
  wire->close_with(last, why);
}

// ---- The sandbox ----

asio::awaitable<void> ServerState::create(std::shared_ptr<ServerState> self, SandboxSpec spec) {
  if (self->phase_ != Phase::empty) {
    throw RunnerError(ErrorCode::already_exists, "CWSANDBOX_INVALID_REQUEST", "the sandbox is there already, or is being made");
  }
  self->phase_ = Phase::creating;
  std::exception_ptr error;
  std::shared_ptr<Sandbox> made;
  try {
    auto creating = self->runner_->create(std::move(spec));
    made = co_await std::move(creating);
  } catch (const std::exception&) {
    error = std::current_exception();
  }
  if (!error && self->down_)
    error = std::make_exception_ptr(RunnerError(ErrorCode::unavailable, kUnavailable, "the sandbox was given up"));
  if (error) {
    self->phase_ = Phase::empty;
    self->changed_.resume_all();
    std::rethrow_exception(error);
  }
  self->sandbox_ = std::move(made);
  self->phase_ = Phase::running;
  self->rings_[0].source = &self->sandbox_->main_stdout();
  self->rings_[1].source = &self->sandbox_->main_stderr();
  self->sandbox_->on_exit([weak = std::weak_ptr(self)](const ExitInfo& info) {
    if (const auto server = weak.lock()) server->on_exit(info);
  });
  for (const auto& [id, session] : self->sessions_) session->begin_main();
  self->pump();
  self->changed_.resume_all();
}

asio::awaitable<void> ServerState::stop(std::shared_ptr<ServerState> self, std::chrono::milliseconds grace) {
  while (self->phase_ == Phase::creating && !self->down_) co_await wait_for(self->changed_);
  const std::shared_ptr<Sandbox> sandbox = self->sandbox_;
  if (!sandbox) co_return;
  auto stopping = sandbox->stop(grace);
  co_await std::move(stopping);
}

void ServerState::on_exit(const ExitInfo& info) {
  if (down_ || exit_) return;
  exit_ = info;
  phase_ = Phase::ended;
  std::chrono::milliseconds patience{};
  for (const auto& [id, session] : sessions_) {
    patience = std::max(patience, session->grace());
    session->on_ended();
  }
  end_timer_.expires_after(patience);
  end_timer_.async_wait([weak = weak_from_this()](const error_code& ec) {
    const auto self = weak.lock();
    if (!self || ec) return;
    const auto sessions = self->sessions_;
    for (const auto& [id, session] : sessions) session->drop("it has not seen the end in time");
  });
  end_main();
  changed_.resume_all();
}

void ServerState::over(Session& session) {
  const auto at = sessions_.find(session.id());
  if (at != sessions_.end() && at->second.get() == &session) sessions_.erase(at);
  changed_.resume_all();
  pump();  // perhaps it was the one that held the main command up
}

asio::awaitable<ExitInfo> ServerState::finished(std::shared_ptr<ServerState> self) {
  while (!self->down_ && !(self->exit_ && self->sessions_.empty() && self->leaving_.empty())) co_await wait_for(self->changed_);
  self->end_timer_.cancel();
  co_return self->exit_.value_or(ExitInfo());
}

void ServerState::shut_down() noexcept {
  if (std::exchange(down_, true)) return;
  end_timer_.cancel();
  const auto sessions = std::exchange(sessions_, {});
  for (const auto& [id, session] : sessions) session->drop("the sandbox was given up");
  for (const auto* wires : {&strangers_, &leaving_}) {
    const auto all = *wires;
    for (const auto& [key, wire] : all) wire->close("the sandbox was given up");
  }
  for (Ring& ring : rings_) ring.source = nullptr;
  sandbox_.reset();
  changed_.resume_all();
}

// ---- What the main command writes ----

std::shared_ptr<MainStream> ServerState::main_stream(const std::shared_ptr<Session>& session) {
  protocol::StartRequest request;
  request.id = "main";
  request.sandbox_id = "main";
  request.stdout_limit = rings_[0].begin;  // the session says how far it may go when it takes the stream up
  request.stderr_limit = rings_[1].begin;
  auto stream = std::make_shared<MainStream>(session, request);
  protocol::ExecServerStream& machine = stream->machine();
  machine.on_started(1);
  for (const Channel channel : {Channel::std_out, Channel::std_err}) {
    const Ring& ring = rings_[channel == Channel::std_err ? 1 : 0];
    protocol::OutboundStream& out = machine.outbound(channel);
    out.start_at(ring.begin);
    for (const std::string& chunk : ring.chunks) out.push_copy(chunk);
    if (ring.ended) out.finish();
  }
  if (main_over_) machine.on_exited(exit_status(*exit_));
  return stream;
}

void ServerState::pump() {
  if (pumping_ || down_ || !sandbox_) return;
  pumping_ = true;
  bool more = false;
  for (const Channel channel : {Channel::std_out, Channel::std_err}) more = pump(channel) || more;
  pumping_ = false;
  if (more) {
    asio::post(executor_, [weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->pump();
    });
  }
}

// Whether there may be more at once. Whoever is there must have room for it; when nobody is, the oldest goes.
bool ServerState::pump(Channel channel) {
  Ring& ring = rings_[channel == Channel::std_err ? 1 : 0];
  if (ring.source == nullptr || ring.ended || ring.waiting) return false;
  const asio::mutable_buffer into = scratch();
  for (int i = 0; i < kPiecesPerTurn; ++i) {
    std::uint64_t room = into.size();
    for (const auto& [id, session] : sessions_) {
      if (session->main()) room = std::min(room, session->main()->machine().outbound(channel).room());
    }
    if (room == 0) return false;
    error_code ec;
    const std::size_t n = ring.source->try_read(asio::buffer(into, static_cast<std::size_t>(room)), ec);
    const std::string_view bytes(static_cast<const char*>(into.data()), n);
    if (n > 0) keep(ring, bytes);
    if (ec && ec != asio::error::would_block) ring.ended = true;
    for (const auto& [id, session] : sessions_) {
      const auto& main = session->main();
      if (!main || (n == 0 && !ring.ended)) continue;
      main->machine().outbound(channel).push_copy(bytes);
      if (ring.ended) main->machine().outbound(channel).finish();
      session->wake(main);
    }
    if (ring.ended) {
      end_main();
      return false;
    }
    if (ec) {
      ring.waiting = true;
      ring.source->async_wait([weak = weak_from_this(), channel](error_code) {
        const auto self = weak.lock();
        if (!self) return;
        self->rings_[channel == Channel::std_err ? 1 : 0].waiting = false;
        self->pump();
      });
      return false;
    }
  }
  return true;
}

void ServerState::keep(Ring& ring, std::string_view bytes) {
  ring.end += bytes.size();
  if (!ring.chunks.empty() && ring.chunks.back().size() + bytes.size() <= kScratch) {
    ring.chunks.back() += bytes;
  } else {
    ring.chunks.emplace_back(bytes);
  }
  while (ring.end - ring.begin > options_.main_ring && !ring.chunks.empty()) {
    ring.begin += ring.chunks.front().size();
    ring.chunks.pop_front();
  }
}

void ServerState::end_main() {
  if (main_over_ || !exit_ || !rings_[0].ended || !rings_[1].ended) return;
  main_over_ = true;
  for (const auto& [id, session] : sessions_) {
    if (!session->main()) continue;
    session->main()->machine().on_exited(exit_status(*exit_));
    session->wake(session->main());
  }
}

// ---- SandboxServer ----

SandboxServer::SandboxServer(asio::any_io_executor executor, Runner& runner, ServerOptions options)
    : state_(std::make_shared<ServerState>(std::move(executor), runner, std::move(options))) {}

SandboxServer::~SandboxServer() { state_->shut_down(); }

void SandboxServer::accept(std::unique_ptr<Link> link) { state_->accept(std::move(link)); }

asio::awaitable<ExitInfo> SandboxServer::finished() { return ServerState::finished(state_); }

}  // namespace cwsandbox::runner::remote
