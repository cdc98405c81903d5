#include "net/http_server.hpp"

#include "base/error_code.hpp"
#include "core/descriptor_limit.hpp"
#include "net/any_byte_stream.hpp"
#include "net/http_body.hpp"
#include "net/http_wire.hpp"
#include "net/sizes.hpp"
#include "net/tls.hpp"
#include "net/watchdog.hpp"
#include "net/websocket_stream.hpp"

#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <list>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

namespace cwsandbox::net {

using base::ErrorCode;

namespace {

using Acceptor = asio::basic_socket_acceptor<asio::generic::stream_protocol>;

// What is read and dropped of a request that was answered early, so that its connection can be kept.
constexpr std::size_t kMaxSkippedBody = 64 * 1024;
// Connections over the limit that are being told so, at once; further ones are just closed.
constexpr std::size_t kMaxRefusals = 64;
// A client is refused a hundred times a second without having to wait for it, and waits for a second at most.
constexpr std::chrono::milliseconds kRefusal{10};
constexpr std::chrono::nanoseconds kRefusalsAhead = std::chrono::seconds(1);
// How long accepting rests when the process or the system has run out of something, and after how long those who wait are told.
constexpr std::chrono::milliseconds kAcceptRest{100};
constexpr std::chrono::seconds kAcceptPatience{1};

[[noreturn]] void fail(int error, const std::string& what) {
  throw std::system_error(error, std::system_category(), what + core::descriptor_hint(error));
}

// A descriptor that is kept for the day when there is no other: with it, one who waits can be told so.
class SpareDescriptor {
 public:
  SpareDescriptor() { static_cast<void>(take()); }
  SpareDescriptor(const SpareDescriptor&) = delete;
  SpareDescriptor& operator=(const SpareDescriptor&) = delete;
  ~SpareDescriptor() { static_cast<void>(give()); }
  /// False when there is none.
  [[nodiscard]] bool take() noexcept {
    if (fd_ < 0) fd_ = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    return fd_ >= 0;
  }
  /// False when there is none to give.
  [[nodiscard]] bool give() noexcept {
    if (fd_ < 0) return false;
    ::close(std::exchange(fd_, -1));
    return true;
  }

 private:
  int fd_ = -1;
};

bool somebody_listens(const std::string& path, const asio::any_io_executor& executor) {
  Socket probe(executor);
  const asio::generic::stream_protocol::endpoint to = asio::local::stream_protocol::endpoint(path);
  error_code ec;
  if (probe.open(to.protocol(), ec); ec) return true;
  probe.non_blocking(true, ec);  // a full backlog would block; it means that somebody listens
  const int rc = ::connect(probe.native_handle(), to.data(), static_cast<socklen_t>(to.size()));
  return rc == 0 || (errno != ECONNREFUSED && errno != ENOENT);
}

}  // namespace

struct HttpServer::Impl : std::enable_shared_from_this<HttpServer::Impl> {
  struct Session;
  using Sessions = std::list<std::shared_ptr<Session>>;

  Impl(asio::any_io_executor ex, HttpHandler& h, const ServerLimits& l)
      : executor(std::move(ex)), handler(&h), limits(l), drained(executor) {
    stranger_memory.set_limit(limits.max_stranger_memory);
    client_memory->set_limit(limits.max_client_memory);
  }

  // ---- Who may stay -------------------------------------------------------------------------------------------------------

  static void move_to(Session& session, Sessions& list) noexcept {
    if (session.list == nullptr) return;  // the server is gone
    list.splice(list.end(), *session.list, session.place);
    session.list = &list;
  }

  // Ends a connection for the sake of others. Its seat is free at once; what belongs to it goes when its coroutine has seen it.
  void shed(const std::shared_ptr<Session>& session) noexcept {
    move_to(*session, working);
    give_back(*session);
    if (session->seat) session->seat->leave();
    if (session->transport) session->transport->close();
  }

  bool make_room() noexcept {
    Sessions& from = strangers.empty() ? idle : strangers;
    if (from.empty()) return false;
    const auto session = from.front();
    shed(session);
    return true;
  }

  bool make_room_of(const std::shared_ptr<ClientAccount>& account) noexcept {
    const auto mine = [&account](const auto& session) { return session->seat && session->seat->account == account; };
    const auto at = std::find_if(idle.begin(), idle.end(), mine);
    if (at == idle.end()) return false;
    const auto session = *at;
    shed(session);
    return true;
  }

  // Counts the connection as that client's. False when it has too many.
  bool belongs_to(Session& session, std::shared_ptr<ClientAccount> account) {
    Seat& seat = *session.seat;
    if (!seat.counted) return true;  // shed; it sees that soon enough
    give_back(session);
    if (seat.account != account) {
      if (account && account->connections >= limits.connections_of_one() && !make_room_of(account)) return false;
      if (account) {
        account->memory.set_limit(limits.memory_of_one());
        account->memory.make_part_of(client_memory);
      }
      seat.assign(std::move(account));
    }
    move_to(session, seat.account ? working : strangers);
    return true;
  }

  // What to tell a client of this connection that has reached a limit of its own.
  [[nodiscard]] HttpResponse at_limit(const Session& session, HttpHandler::ClientLimit limit, HttpResponse usual) const {
    const auto& account = session.seat->account;
    return handler == nullptr || !account ? usual : handler->at_limit(*account, limit, std::move(usual));
  }

  // Counts bytes that a request makes us hold, until give_back. False when there is no room for them, or none for this connection.
  bool charge(Session& session, std::size_t bytes) noexcept {
    Seat& seat = *session.seat;
    if (!seat.counted) return false;
    if (seat.account) {
      if (!seat.account->memory.take(bytes)) return false;
      session.payer = seat.account;
    } else {
      while (!stranger_memory.take(bytes)) {
        if (strangers.empty()) return false;
        const auto oldest = strangers.front();
        shed(oldest);
        if (!seat.counted) return false;
      }
    }
    session.held += bytes;
    return true;
  }

  void give_back(Session& session, std::size_t most = std::numeric_limits<std::size_t>::max()) noexcept {
    const std::size_t bytes = std::min(session.held, most);
    session.held -= bytes;
    if (session.payer) {
      session.payer->memory.give(bytes);
      if (session.held == 0) session.payer.reset();
    } else {
      stranger_memory.give(bytes);
    }
  }

  [[nodiscard]] std::vector<std::shared_ptr<Session>> all_sessions() const {
    std::vector<std::shared_ptr<Session>> all;
    for (const Sessions* list : {&strangers, &idle, &working}) all.insert(all.end(), list->begin(), list->end());
    return all;
  }
  [[nodiscard]] bool no_sessions() const noexcept { return strangers.empty() && idle.empty() && working.empty(); }

  struct Listener {
    explicit Listener(const asio::any_io_executor& executor) : acceptor(executor), rest(executor) {}
    Acceptor acceptor;
    asio::steady_timer rest;
    std::shared_ptr<TlsContext> tls;
    bool tcp = false;
    std::string path;  // of a Unix socket, with what identifies the file as ours
    dev_t device = 0;
    ino_t inode = 0;
  };

  // Counts as a connection for as long as it lives, or until it is given up; a WebSocket takes it along.
  struct Seat {
    explicit Seat(std::shared_ptr<Impl> s) : server(std::move(s)) { ++server->seats; }
    ~Seat() { leave(); }
    Seat(const Seat&) = delete;
    Seat& operator=(const Seat&) = delete;
    void assign(std::shared_ptr<ClientAccount> to) noexcept {
      if (account) --account->connections;
      account = std::move(to);
      if (account) ++account->connections;
    }
    void leave() noexcept {
      assign(nullptr);
      if (counted) --server->seats;
      counted = false;
    }
    std::shared_ptr<Impl> server;
    std::shared_ptr<ClientAccount> account;  // null: a stranger's
    bool counted = true;
  };

  struct Session {
    std::shared_ptr<Transport> transport;
    std::shared_ptr<Seat> seat;
    std::optional<Watchdog> watchdog;
    boost::beast::flat_buffer buffer;
    asio::cancellation_signal cancel;
    bool idle = false;         // between requests: may be closed without loss
    bool gentle = false;       // a deadline ends the read under way, not the connection
    Sessions* list = nullptr;  // the one that it stands in; null once the server is gone
    Sessions::iterator place;
    std::shared_ptr<ClientAccount> payer;  // of `held`; null: the strangers
    std::size_t held = 0;                  // bytes of the request under way
  };

  const asio::any_io_executor executor;
  HttpHandler* handler;  // null once the server is gone
  const ServerLimits limits;
  std::list<std::shared_ptr<Listener>> listeners;
  // By who is the first to go when there are too many. The oldest stands in front: of the strangers the one that has been here
  // longest, of the idle ones the one that has been silent longest.
  Sessions strangers, idle, working;
  std::size_t seats = 0, refusals = 0;
  MemoryPool stranger_memory;
  ClientTurns stranger_turns;  // they share one
  const std::shared_ptr<MemoryPool> client_memory = std::make_shared<MemoryPool>();
  bool stopping = false;
  asio::steady_timer drained;  // cancelled when the last session has gone

  // ---- Listening ----------------------------------------------------------------------------------------------------------

  ListenAddress listen(const ListenAddress& address, const TlsServerOptions& tls) {
    const auto shown = address.is_unix ? "unix:" + address.path : "tcp:" + address.host + ":" + std::to_string(address.port);
    auto listener = std::make_shared<Listener>(executor);
    if (!tls.certificate_file.empty() || !tls.key_file.empty()) listener->tls = make_tls_server_context(tls);
    ListenAddress bound = address;
    if (address.is_unix) {
      bind_unix(*listener, address.path, shown);
    } else {
      bind_tcp(*listener, bound, shown);
    }
    error_code ec;
    if (listener->acceptor.listen(asio::socket_base::max_listen_connections, ec); ec) fail(ec.value(), "cannot listen on " + shown);
    listeners.push_back(listener);
    asio::co_spawn(executor, accept_loop(shared_from_this(), listener), [](const std::exception_ptr&) {});
    return bound;
  }

  void reload(const TlsServerOptions& tls) const {
    const auto fresh = make_tls_server_context(tls);
    for (const auto& listener : listeners)
      if (listener->tls) listener->tls = fresh;
  }

  static void bind_tcp(Listener& listener, ListenAddress& address, const std::string& shown) {
    error_code ec;
    const auto ip = asio::ip::make_address(address.host, ec);
    if (ec) fail(EINVAL, "cannot listen on " + shown);
    const asio::generic::stream_protocol::endpoint at = asio::ip::tcp::endpoint(ip, address.port);
    if (listener.acceptor.open(at.protocol(), ec); ec) fail(ec.value(), "cannot listen on " + shown);
    keep_from_children(listener.acceptor.native_handle());
    listener.acceptor.set_option(asio::socket_base::reuse_address(true), ec);
    if (listener.acceptor.bind(at, ec); ec) fail(ec.value(), "cannot listen on " + shown);
    const auto local = listener.acceptor.local_endpoint(ec);
    if (ec) fail(ec.value(), "cannot listen on " + shown);
    asio::ip::tcp::endpoint exact;
    exact.resize(local.size());
    std::copy_n(static_cast<const char*>(static_cast<const void*>(local.data())), local.size(),
                static_cast<char*>(static_cast<void*>(exact.data())));
    address.port = exact.port();
    listener.tcp = true;
  }

  void bind_unix(Listener& listener, const std::string& path, const std::string& shown) const {
    sockaddr_un limit{};
    if (path.empty() || path.size() >= sizeof(limit.sun_path)) fail(ENAMETOOLONG, "cannot listen on " + shown);
    struct stat info{};
    if (::lstat(path.c_str(), &info) == 0) {
      if (!S_ISSOCK(info.st_mode)) fail(EEXIST, "cannot listen on " + shown + ": the path exists and is not a socket");
      if (somebody_listens(path, executor)) fail(EADDRINUSE, "cannot listen on " + shown);
      ::unlink(path.c_str());  // left behind by a process that is gone
    }
    error_code ec;
    const asio::generic::stream_protocol::endpoint at = asio::local::stream_protocol::endpoint(path);
    if (listener.acceptor.open(at.protocol(), ec); ec) fail(ec.value(), "cannot listen on " + shown);
    keep_from_children(listener.acceptor.native_handle());
    // The file takes the socket's own mode, so there is no moment in which others could connect. Nobody can before `listen` anyway.
    ::fchmod(listener.acceptor.native_handle(), S_IRUSR | S_IWUSR);
    if (listener.acceptor.bind(at, ec); ec) fail(ec.value(), "cannot listen on " + shown);
    if (::chmod(path.c_str(), S_IRUSR | S_IWUSR) != 0 || ::lstat(path.c_str(), &info) != 0) {
      const int error = errno;
      ::unlink(path.c_str());
      fail(error, "cannot listen on " + shown);
    }
    listener.path = path;
    listener.device = info.st_dev;
    listener.inode = info.st_ino;
  }

  void close_listeners() noexcept {
    error_code ignored;
    for (const auto& listener : listeners) {
      struct stat info{};
      // Only our own file: another server may have taken the path over.
      if (!listener->path.empty() && ::lstat(listener->path.c_str(), &info) == 0 && info.st_dev == listener->device &&
          info.st_ino == listener->inode)
        ::unlink(listener->path.c_str());
      listener->acceptor.close(ignored);
      listener->rest.cancel();
    }
    listeners.clear();
  }

  static asio::awaitable<void> accept_loop(std::shared_ptr<Impl> self, std::shared_ptr<Listener> listener) {
    error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    SpareDescriptor spare;
    bool given = false;  // what is accepted next takes the descriptor that was kept for it
    std::optional<Watchdog::Clock::time_point> out_since;
    while (listener->acceptor.is_open()) {
      Socket socket(self->executor);
      co_await listener->acceptor.async_accept(socket, token);
      if (!listener->acceptor.is_open()) break;
      const bool on_spare = std::exchange(given, false) && !spare.take();
      if (ec == asio::error::connection_aborted || ec == boost::system::errc::protocol_error || ec == asio::error::interrupted)
        continue;
      if (ec && self->make_room()) continue;  // somebody who matters less gives a descriptor back
      if (ec) {
        // Out of descriptors or memory, most likely: others give some back meanwhile. Not for ever, though.
        if (!out_since) out_since = Watchdog::Clock::now();
        given = !on_spare && Watchdog::Clock::now() - *out_since >= kAcceptPatience && spare.give();
        if (given) continue;
        listener->rest.expires_after(kAcceptRest);
        co_await listener->rest.async_wait(token);
        static_cast<void>(spare.take());
        continue;
      }
      if (on_spare) {
        // Behind TLS nothing can be said before a handshake.
        if (!listener->tls) {
          auto told = refuse(make_plain_transport(std::move(socket)), "as many files are open here as this gateway may have");
          co_await std::move(told);
        }
        socket.close(ec);
        static_cast<void>(spare.take());
        continue;
      }
      out_since.reset();
      if (listener->tcp) socket.set_option(asio::ip::tcp::no_delay(true), ec);
      self->admit(std::move(socket), listener->tls);
    }
  }

  void admit(Socket socket, const std::shared_ptr<TlsContext>& tls) {
    if (seats >= limits.max_connections && !make_room()) {
      // Behind TLS nothing can be said before a handshake, which is what there is no room for.
      if (tls || refusals >= kMaxRefusals) return;
      ++refusals;
      auto self = shared_from_this();
      asio::co_spawn(executor, refuse(make_plain_transport(std::move(socket)), "too many connections"),
                     [self](const std::exception_ptr&) { --self->refusals; });
      return;
    }
    auto session = std::make_shared<Session>();
    session->seat = std::make_shared<Seat>(shared_from_this());
    std::shared_ptr<TlsTransport> secure;
    if (tls) {
      secure = make_tls_transport(std::move(socket), tls);
      session->transport = secure;
    } else {
      session->transport = make_plain_transport(std::move(socket));
    }
    Session* raw = session.get();  // the watchdog belongs to the session
    session->watchdog.emplace(executor, [raw] {
      if (!raw->transport) return;
      if (raw->gentle) {
        raw->transport->cancel();
      } else {
        raw->transport->close();
      }
    });
    session->list = &strangers;
    session->place = strangers.insert(strangers.end(), session);
    auto self = shared_from_this();
    auto ended = [self, session](const std::exception_ptr&) {
      // A WebSocket has taken the transport along; else this is the end of it.
      session->watchdog.reset();
      if (session->transport) session->transport->close();
      session->transport.reset();
      self->give_back(*session);
      session->seat.reset();
      if (self->handler == nullptr) return;  // the server is gone, and its lists with it
      session->list->erase(session->place);
      if (self->no_sessions()) self->drained.cancel();
    };
    asio::co_spawn(executor, serve(self, session, secure), asio::bind_cancellation_slot(session->cancel.slot(), std::move(ended)));
  }

  static asio::awaitable<void> refuse(std::shared_ptr<Transport> transport, std::string why) {
    const auto response = error_response(503, ErrorCode::unavailable, why);
    const auto text = write_response_head(response, false, 11) + response.body;
    AnyByteStream stream(transport);
    error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    const auto buffer = asio::buffer(text);
    co_await stream.async_write_some(buffer, token);  // fits a fresh socket's buffer
    co_await end_gently(transport);
  }

  static asio::awaitable<void> end_gently(std::shared_ptr<Transport> transport) {
    error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    auto initiate = [&transport](auto done) { transport->async_linger(IoHandler(std::move(done))); };
    co_await asio::async_initiate<decltype(token)&, void(error_code)>(initiate, token);
  }

  // ---- A connection -------------------------------------------------------------------------------------------------------

  // Reads more; false when the connection is over.
  static asio::awaitable<bool> fill(std::shared_ptr<Session> session, std::size_t most) {
    AnyByteStream stream(session->transport);
    error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    const auto space = session->buffer.prepare(most);
    const std::size_t n = co_await stream.async_read_some(space, token);
    session->buffer.commit(n);
    co_return !ec && n > 0;
  }

  static asio::awaitable<bool> send(std::shared_ptr<Impl> self, std::shared_ptr<Session> session, std::string head,
                                    std::string body) {
    session->watchdog->expires_after(self->limits.write_timeout);
    AnyByteStream stream(session->transport);
    error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    const std::array<asio::const_buffer, 2> message{asio::buffer(head), asio::buffer(body)};
    co_await asio::async_write(stream, message, token);
    co_return !ec;
  }

  static BodySink sink_of(const Impl& self, Session& session) {
    BodySink out;
    out.transport = session.transport;
    out.watchdog = &*session.watchdog;
    out.idle = self.limits.write_timeout;
    return out;
  }

  // Who is refused and asks again at once gets the answer later, when that has happened often: else it costs others as much as what
  // was refused.
  static asio::awaitable<void> rest(std::shared_ptr<Impl> self, std::shared_ptr<Session> session) {
    const auto account = session->seat->account;
    if (!account) co_return;
    const auto now = core::Rate::Clock::now();
    if (account->refusals.early(now) < 2 * kRefusalsAhead) account->refusals.took(kRefusal, now);
    const auto wait = account->refusals.early(now) - kRefusalsAhead;
    if (wait <= wait.zero()) co_return;
    session->watchdog->disarm();
    error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    asio::steady_timer timer(self->executor, std::min<std::chrono::nanoseconds>(wait, kRefusalsAhead));
    co_await timer.async_wait(token);
  }

  static asio::awaitable<bool> answer(std::shared_ptr<Impl> self, std::shared_ptr<Session> session, HttpResponse response,
                                      bool keep_alive, unsigned version, bool head_only) {
    if (response.status == 429 || response.status == 503) co_await rest(self, session);
    const auto bodiless = [&] { return head_only || response.status == 204 || response.status == 304; };
    // What nobody reads is held as what nobody sends the end of. Errors are small: they are always said.
    std::size_t charged = !bodiless() && response.body.size() > kSmallAnswer ? response.body.size() : 0;
    if (charged > 0 && !self->charge(*session, charged)) {
      if (!session->seat->counted) co_return false;
      charged = 0;
      // Not "unavailable", which says that nothing was done.
      response = error_response(429, ErrorCode::resource_exhausted,
                                "the request was carried out, but too many answers wait here to be read");
      response = self->at_limit(*session, HttpHandler::ClientLimit::answer, std::move(response));
    }
    std::string head;
    bool sound = true;
    try {
      head = write_response_head(response, keep_alive, version);
    } catch (const std::invalid_argument&) {
      sound = false;  // a header of the owner's would have broken the framing
    }
    if (!sound) {
      response = error_response(500, ErrorCode::internal, "internal error");
      head = write_response_head(response, keep_alive, version);
    }
    if (bodiless()) response.body.clear();
    const bool sent = co_await send(self, session, std::move(head), std::move(response.body));
    self->give_back(*session, charged);
    co_return sent;
  }

  // The last answer on this connection.
  static asio::awaitable<void> answer_and_end(std::shared_ptr<Impl> self, std::shared_ptr<Session> session, HttpResponse response) {
    const bool sent = co_await answer(self, session, std::move(response), false, 11, false);
    if (sent) co_await end_gently(session->transport);
  }

  // Feeds the reader with what has been read; true when a complaint is due, which it stores.
  static bool complains(RequestReader& reader, Session& session, std::optional<HttpResponse>& complaint) {
    while (session.buffer.size() > 0 && !reader.done()) {
      const bool had_header = reader.header_done();
      std::size_t consumed = 0;
      const auto data = session.buffer.cdata();
      const auto result = reader.put({static_cast<const char*>(data.data()), data.size()}, consumed);
      session.buffer.consume(consumed);
      if (result == ParseResult::malformed) complaint = error_response(400, ErrorCode::invalid_argument, "malformed HTTP request");
      if (result == ParseResult::header_too_large)
        complaint = error_response(431, ErrorCode::resource_exhausted, "the request header is too large");
      if (result == ParseResult::body_too_large)
        complaint = error_response(413, ErrorCode::resource_exhausted, "the request body is too large");
      if (result != ParseResult::progress || consumed == 0 || (!had_header && reader.header_done())) break;
    }
    return complaint.has_value();
  }

  static asio::awaitable<void> serve(std::shared_ptr<Impl> self, std::shared_ptr<Session> session,
                                     std::shared_ptr<TlsTransport> secure) {
    if (secure) {
      session->watchdog->expires_after(self->limits.header_timeout);
      error_code ec;
      auto token = asio::redirect_error(asio::use_awaitable, ec);
      const std::string no_host;
      auto initiate = [&secure, &no_host](auto handler) { secure->async_handshake(no_host, IoHandler(std::move(handler))); };
      co_await asio::async_initiate<decltype(token)&, void(error_code)>(initiate, token);
      if (ec) {
        // The alert that says what is wrong is to arrive.
        co_await end_gently(session->transport);
        co_return;
      }
      secure.reset();
    }
    bool first = true;
    for (;;) {
      if (!co_await serve_one(self, session, first)) co_return;
      first = false;
    }
  }

  // Reads the rest of a request's header or body. True when `reader` has what is asked for; else `complaint` holds the last answer
  // on this connection, if there can be one.
  static asio::awaitable<bool> read_on(std::shared_ptr<Impl> self, std::shared_ptr<Session> session, RequestReader& reader,
                                       bool whole, std::optional<HttpResponse>& complaint) {
    // A deadline here ends the read only: the peer is told.
    session->gentle = true;
    std::size_t chunk = kSmallRead;
    for (;;) {
      if (complains(reader, *session, complaint)) break;
      if (whole ? reader.done() : reader.header_done()) break;
      const auto before = session->buffer.size();
      // Between two reads there was none for the deadline to end.
      const bool late = session->watchdog->fired();
      if (late || !co_await fill(session, chunk)) {
        if (session->watchdog->fired())
          complaint = error_response(408, ErrorCode::deadline_exceeded,
                                     whole ? "the request body came too slowly" : "the request header came too slowly");
        session->gentle = false;
        co_return false;
      }
      std::size_t more = session->buffer.size() - before;
      if (more == chunk && chunk < kLargeRead) more += chunk = kLargeRead;  // the buffer stays that large
      if (!self->charge(*session, more)) {
        if (session->seat->counted) {
          auto refusal = error_response(503, ErrorCode::unavailable, "too much is being sent here at once; try again later");
          complaint = self->at_limit(*session, HttpHandler::ClientLimit::request, std::move(refusal));
        }
        break;
      }
      if (const auto& account = session->seat->account; whole && account && !account->turns.take_now(self->executor)) {
        auto turn = account->turns.take(self->executor);
        co_await std::move(turn);
        if (self->handler == nullptr) break;
      }
    }
    session->gentle = false;
    co_return !complaint && session->seat->counted;
  }

  // One request and its answer. False when the connection has ended or has become a WebSocket.
  static asio::awaitable<bool> serve_one(std::shared_ptr<Impl> self, std::shared_ptr<Session> session, bool first) {
    const auto& limits = self->limits;
    if (session->buffer.size() == 0) {
      if (self->stopping || self->handler == nullptr) co_return false;
      session->buffer.shrink_to_fit();
      session->idle = true;
      if (session->seat->account) move_to(*session, self->idle);
      session->watchdog->expires_after(first ? limits.header_timeout : limits.keep_alive);
      const bool more = co_await fill(session, kSmallRead);
      session->idle = false;
      if (!more) co_return false;
      if (session->seat->account) move_to(*session, self->working);
    }

    RequestReader reader(limits.max_header, limits.max_body);
    std::optional<HttpResponse> complaint;
    session->watchdog->expires_after(limits.header_timeout);
    if (!co_await read_on(self, session, reader, false, complaint)) {
      if (complaint) co_await answer_and_end(self, session, std::move(*complaint));
      co_return false;
    }
    if (const auto why = reader.complaint(); !why.empty()) {
      auto response = error_response(400, ErrorCode::invalid_argument, why);
      co_await answer_and_end(self, session, std::move(response));
      co_return false;
    }

    auto request = std::make_shared<HttpRequest>(reader.head());
    if (self->handler == nullptr) co_return false;
    const auto account = self->handler->client_of(*request);
    const bool seated = self->belongs_to(*session, account);
    // Before anything is said about it, also that it is refused.
    if (ClientTurns& turns = account ? account->turns : self->stranger_turns; !turns.take_now(self->executor)) {
      session->watchdog->disarm();
      auto turn = turns.take(self->executor);
      co_await std::move(turn);
      if (self->handler == nullptr) co_return false;
      session->watchdog->expires_after(limits.header_timeout);
    }
    if (!seated) {
      auto response = error_response(429, ErrorCode::resource_exhausted, "this client has as many connections here as it may");
      response.headers.emplace_back("Retry-After", "1");
      response = self->handler->at_limit(*account, HttpHandler::ClientLimit::connections, std::move(response));
      co_await answer_and_end(self, session, std::move(response));
      co_return false;
    }
    // However this request ends: what it made us hold is no longer held.
    struct Held {
      std::shared_ptr<Impl> self;
      std::shared_ptr<Session> session;
      ~Held() { self->give_back(*session); }
    };
    const Held held{self, session};
    if (reader.websocket_upgrade() && request->method == "GET") co_return co_await upgrade(self, session, reader, request);

    const bool head_only = request->method == "HEAD";
    std::optional<HttpResponse> response;
    if (self->handler == nullptr) co_return false;
    try {
      response = self->handler->early_answer(*request);
    } catch (...) {
      response = error_response(500, ErrorCode::internal, "internal error");
    }
    if (response) {
      const auto length = reader.content_length();
      const bool skip = length && *length <= kMaxSkippedBody && !reader.expects_continue();
      const bool keep = reader.keep_alive() && !self->stopping && (!reader.has_body() || skip);
      if (!co_await answer(self, session, std::move(*response), keep, reader.version(), head_only)) co_return false;
      if (!keep) {
        co_await end_gently(session->transport);
        co_return false;
      }
      if (reader.done()) co_return true;
      reader.read_body();
      session->watchdog->expires_after(limits.body_timeout);
      co_return co_await read_on(self, session, reader, true, complaint);
    }

    bool streams = false;
    try {
      streams = self->handler->streams(*request);
    } catch (...) {
      complaint = error_response(500, ErrorCode::internal, "internal error");
    }
    if (streams) co_return co_await serve_stream(self, session, reader, request);
    if (const auto length = reader.content_length(); length && *length > limits.max_body && !complaint)
      complaint = error_response(413, ErrorCode::resource_exhausted, "the request body is too large");
    if (complaint) {
      co_await answer_and_end(self, session, std::move(*complaint));
      co_return false;
    }

    if (!reader.done()) {
      reader.read_body();
      if (reader.expects_continue() && session->buffer.size() == 0) {
        std::string go_on = "HTTP/1.1 100 Continue\r\n\r\n";
        std::string nothing;
        if (!co_await send(self, session, std::move(go_on), std::move(nothing))) co_return false;
      }
      session->watchdog->expires_after(limits.body_timeout);
      if (!co_await read_on(self, session, reader, true, complaint)) {
        if (complaint) {
          // Not held any more while the peer reads the refusal, nor while it goes on sending.
          static_cast<void>(reader.take_body());
          self->give_back(*session);
          co_await answer_and_end(self, session, std::move(*complaint));
        }
        co_return false;
      }
    }
    request->body = reader.take_body();

    session->watchdog->disarm();
    if (self->handler == nullptr) co_return false;
    try {
      response = co_await self->handler->handle(*request);
    } catch (...) {
      response = error_response(500, ErrorCode::internal, "internal error");
    }
    if (self->handler == nullptr) co_return false;
    const bool keep = reader.keep_alive() && !self->stopping;
    if (!co_await answer(self, session, std::move(*response), keep, reader.version(), head_only)) co_return false;
    if (!keep) co_await end_gently(session->transport);
    co_return keep;
  }

  // A request under way that is read and answered piece by piece; it lives in serve_stream's frame.
  class Exchange final : public ServerExchange {
   public:
    Exchange(std::shared_ptr<Impl> self, std::shared_ptr<Session> session, const RequestReader& reader,
             std::shared_ptr<const HttpRequest> request)
        : self_(std::move(self)),
          session_(std::move(session)),
          request_(std::move(request)),
          length_(reader.content_length()),
          body_(length_ ? BodyReader::of_length(*length_) : BodyReader::in_chunks()),
          version_(reader.version()),
          keep_(reader.keep_alive()),
          owes_continue_(reader.expects_continue() && reader.has_body()) {}

    [[nodiscard]] const HttpRequest& request() const noexcept override { return *request_; }
    [[nodiscard]] std::optional<std::uint64_t> content_length() const noexcept override { return length_; }

    [[nodiscard]] asio::awaitable<std::size_t> read(asio::mutable_buffer into) override {
      if (body_.done() || into.size() == 0) co_return 0;
      check();
      if (broken_) throw boost::system::system_error(asio::error::not_connected);
      if (owes_continue_ && !started_ && session_->buffer.size() == 0) {
        const BodySink sink = sink_of(*self_, *session_);
        if (const auto ec = co_await send_raw(sink, "HTTP/1.1 100 Continue\r\n\r\n")) lose(ec);
      }
      owes_continue_ = false;
      std::size_t n = 0;
      bool sound = body_.take(session_->buffer, into, n);
      if (sound && (n != 0 || body_.done())) co_return n;
      if (const auto& account = session_->seat->account; account && !account->turns.take_now(self_->executor)) {
        auto turn = account->turns.take(self_->executor);
        co_await std::move(turn);
        check();
      }
      AnyByteStream stream(session_->transport);
      error_code ec;
      auto token = asio::redirect_error(asio::use_awaitable, ec);
      session_->gentle = true;  // a deadline ends the read only: the client is told
      while (sound && n == 0 && !body_.done()) {
        session_->watchdog->expires_after(self_->limits.body_timeout);
        const auto space = body_.space(session_->buffer, into);
        const std::size_t got = co_await stream.async_read_some(space, token);
        if (ec && got == 0) break;
        sound = body_.commit(session_->buffer, space, got, n);
        if (sound && n == 0) sound = body_.take(session_->buffer, into, n);
      }
      session_->gentle = false;
      const bool late = session_->watchdog->fired();
      session_->watchdog->rest();
      if (!sound) {
        fault_ = error_response(400, ErrorCode::invalid_argument, "malformed HTTP request");
        broken_ = true;
        throw boost::system::system_error(boost::system::errc::make_error_code(boost::system::errc::bad_message));
      }
      if (n == 0 && !body_.done()) {
        if (!late || self_->handler == nullptr) lose(ec);
        fault_ = error_response(408, ErrorCode::deadline_exceeded, "the request body came too slowly");
        broken_ = true;
        throw boost::system::system_error(asio::error::timed_out);
      }
      co_return n;
    }

    [[nodiscard]] asio::awaitable<void> start(HttpResponse head, std::optional<std::uint64_t> length) override {
      if (started_) throw std::logic_error("an answer starts once");
      check();
      const bool bodiless = request_->method == "HEAD" || head.status == 204 || head.status == 304;
      if (!bodiless && length && head.body.size() > *length) throw std::logic_error("the answer is longer than announced");
      chunked_ = !length && version_ != 10;
      // What is left of the request must be read before the next one; there is a limit to that, and a client that waits for
      // "100 Continue" sends it or not.
      const auto left = body_.left();
      keep_ = keep_ && !self_->stopping && !broken_ && (length || chunked_ || bodiless) &&
              (body_.done() || (left && *left <= kMaxSkippedBody && !owes_continue_));
      std::string text = write_response_head(head, keep_, version_, length);
      const std::string body = std::move(head.body);
      started_ = true;
      if (bodiless) {
        bodiless_ = true;
      } else {
        left_ = length;
        if (left_) *left_ -= body.size();
        if (chunked_ && !body.empty()) text.append(chunk_head(body.size())).append(body).append(kChunkEnd);
        if (!chunked_) text += body;
      }
      const BodySink sink = sink_of(*self_, *session_);
      const auto ec = co_await send_raw(sink, text);
      session_->watchdog->rest();
      if (ec) lose(ec);
    }

    [[nodiscard]] asio::awaitable<void> write(asio::const_buffer from) override {
      ready_to_write(from.size());
      if (bodiless_) co_return;
      BodySink sink = sink_of(*self_, *session_);
      sink.chunked = chunked_;
      const auto ec = co_await send_data(std::move(sink), from);
      session_->watchdog->rest();
      if (ec) lose(ec);
      if (left_) *left_ -= from.size();
    }

    [[nodiscard]] asio::awaitable<std::uint64_t> write_file(int fd, std::uint64_t offset, std::uint64_t length) override {
      ready_to_write(length);
      if (bodiless_) co_return length;
      BodySink sink = sink_of(*self_, *session_);
      sink.chunked = chunked_;
      const FileSent sent = co_await send_file(std::move(sink), fd, offset, length);
      session_->watchdog->rest();
      if (sent.connection) lose(sent.connection);
      if (left_) *left_ -= sent.bytes;
      if (sent.file != 0) throw std::system_error(sent.file, std::generic_category(), "reading the file");
      co_return sent.bytes;
    }

    [[nodiscard]] asio::awaitable<void> finish() override {
      if (!started_ || finished_) throw std::logic_error("an answer ends once, after its start");
      check();
      if (left_ && *left_ != 0) {  // an answer that is shorter than announced can only be cut
        lost_ = true;
        session_->transport->close();
        co_return;
      }
      if (chunked_ && !bodiless_) {
        const BodySink sink = sink_of(*self_, *session_);
        const auto ec = co_await send_raw(sink, kLastChunk);
        session_->watchdog->rest();
        if (ec) lose(ec);
      }
      finished_ = true;
    }

    [[nodiscard]] bool client_gone() noexcept override { return lost_ || !session_->transport || session_->transport->peer_gone(); }

    [[nodiscard]] std::size_t buffer_size(std::size_t wanted) override {
      if (wanted > kLeastBuffer && session_->seat && self_->charge(*session_, wanted)) return wanted;
      return std::min(wanted, kLeastBuffer);
    }

    [[nodiscard]] bool started() const noexcept { return started_; }
    [[nodiscard]] bool finished() const noexcept { return finished_; }
    [[nodiscard]] bool lost() const noexcept { return lost_; }
    [[nodiscard]] bool keep() const noexcept { return keep_; }
    [[nodiscard]] std::optional<HttpResponse> take_fault() { return std::move(fault_); }

    // Reads and drops the little that is left of a request that was answered before its end.
    [[nodiscard]] asio::awaitable<bool> skip_rest() {
      std::array<char, 4096> dropped;
      const auto into = asio::buffer(dropped);
      bool sound = true;
      try {
        while (!body_.done()) (void)co_await read(into);
      } catch (const boost::system::system_error&) {
        sound = false;
      }
      co_return sound;
    }

   private:
    void check() const {
      if (lost_ || self_->handler == nullptr || !session_->transport) throw boost::system::system_error(asio::error::not_connected);
    }
    [[noreturn]] void lose(error_code ec) {
      lost_ = true;
      if (session_->watchdog) {
        if (session_->watchdog->fired()) ec = asio::error::timed_out;
        session_->watchdog->rest();
      }
      if (session_->transport) session_->transport->close();
      throw boost::system::system_error(ec ? ec : error_code(asio::error::connection_reset));
    }
    void ready_to_write(std::uint64_t size) const {
      if (!started_ || finished_) throw std::logic_error("an answer's body stands between its start and its end");
      check();
      if (left_ && size > *left_) throw std::logic_error("the answer is longer than announced");
    }

    std::shared_ptr<Impl> self_;
    std::shared_ptr<Session> session_;
    std::shared_ptr<const HttpRequest> request_;
    std::optional<std::uint64_t> length_;
    BodyReader body_;
    unsigned version_;
    bool keep_, owes_continue_;
    bool started_ = false, finished_ = false, chunked_ = false, bodiless_ = false;
    bool lost_ = false;                  // the connection has ended
    bool broken_ = false;                // the request cannot be read on; it can be answered
    std::optional<std::uint64_t> left_;  // of the answer
    std::optional<HttpResponse> fault_;  // what to answer when the handler does not
  };

  // A request that is answered piece by piece. False when the connection has ended.
  static asio::awaitable<bool> serve_stream(std::shared_ptr<Impl> self, std::shared_ptr<Session> session, RequestReader& reader,
                                            std::shared_ptr<HttpRequest> request) {
    Exchange exchange(self, session, reader, request);
    session->watchdog->disarm();
    bool failed = false;
    try {
      co_await self->handler->stream(exchange);
    } catch (...) {
      failed = true;
    }
    if (self->handler == nullptr || !session->transport) co_return false;
    if (!exchange.started() && !exchange.lost()) {
      // Nothing has been said yet: the client is told what went wrong, its own fault first.
      auto response = exchange.take_fault();
      if (!response) response = error_response(500, ErrorCode::internal, "internal error");
      co_await answer_and_end(self, session, std::move(*response));
      co_return false;
    }
    if (failed || !exchange.finished()) {
      // Cut: the missing end is what tells the client.
      session->transport->close();
      co_return false;
    }
    if (!exchange.keep()) {
      co_await end_gently(session->transport);
      co_return false;
    }
    co_return co_await exchange.skip_rest();
  }

  static asio::awaitable<bool> upgrade(std::shared_ptr<Impl> self, std::shared_ptr<Session> session, RequestReader& reader,
                                       std::shared_ptr<HttpRequest> request) {
    std::optional<HttpResponse> refusal;
    HttpHandler::UpgradeDecision decision;
    if (find_header(request->headers, "Sec-WebSocket-Version") != "13") {
      refusal = error_response(426, ErrorCode::invalid_argument, "only WebSocket version 13 is spoken here");
      refusal->headers.emplace_back("Sec-WebSocket-Version", "13");
      refusal->headers.emplace_back("Upgrade", "websocket");
    } else if (find_header(request->headers, "Sec-WebSocket-Key").size() != 24) {
      refusal = error_response(400, ErrorCode::invalid_argument, "the WebSocket key is missing or malformed");
    } else if (reader.has_body() || session->buffer.size() != 0) {
      refusal = error_response(400, ErrorCode::invalid_argument, "nothing may follow a WebSocket handshake before its answer");
    } else {
      if (self->handler == nullptr) co_return false;
      const auto offered = header_list(request->headers, "Sec-WebSocket-Protocol");
      try {
        decision = self->handler->on_upgrade(*request, offered);
        refusal = std::move(decision.refusal);
      } catch (...) {
        refusal = error_response(500, ErrorCode::internal, "internal error");
      }
    }
    if (refusal) {
      const bool keep = reader.keep_alive() && !self->stopping && !reader.has_body();
      if (!co_await answer(self, session, std::move(*refusal), keep, 11, false)) co_return false;
      if (!keep) co_await end_gently(session->transport);
      co_return keep;
    }
    move_to(*session, self->working);  // it is the owner's now
    session->watchdog->expires_after(self->limits.header_timeout);
    const auto& account = session->seat->account;
    decision.limits.memory = account ? std::shared_ptr<MemoryPool>(account, &account->memory) : self->client_memory;
    auto result = co_await accept_websocket(session->transport, request->target, reader.all_headers(), decision.subprotocol,
                                            decision.limits, session->seat);
    session->watchdog->disarm();
    if (result.error || self->handler == nullptr) co_return false;
    session->transport.reset();
    try {
      self->handler->on_websocket(*request, std::move(result.socket));
    } catch (...) {
      // The socket went down with the exception; the server goes on.
    }
    co_return false;
  }

  // ---- Ending -------------------------------------------------------------------------------------------------------------

  void drop_sessions() {
    for (const auto& session : all_sessions()) {
      if (session->transport) session->transport->close();
      // co_spawn (Boost 1.81) forwards a cancellation through the executor with a pointer into the signal: the signal must be
      // emitted on the executor, and stay until what that has queued is through.
      asio::post(executor, [session, ex = executor] {
        session->cancel.emit(asio::cancellation_type::terminal);
        asio::post(ex, [session] {});
      });
    }
  }

  static asio::awaitable<void> stop(std::shared_ptr<Impl> self, Watchdog::Clock::duration deadline) {
    self->stopping = true;
    self->close_listeners();
    for (const auto& session : self->all_sessions())
      if (session->idle && session->transport) session->transport->close();
    error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    const auto until = Watchdog::Clock::now() + deadline;
    while (!self->no_sessions() && Watchdog::Clock::now() < until) {
      self->drained.expires_at(until);
      co_await self->drained.async_wait(token);
    }
    self->drop_sessions();
  }
};

HttpServer::HttpServer(asio::any_io_executor executor, HttpHandler& handler, ServerLimits limits)
    : impl_(std::make_shared<Impl>(std::move(executor), handler, limits)) {}

HttpServer::~HttpServer() {
  impl_->close_listeners();
  impl_->handler = nullptr;
  impl_->drop_sessions();
  for (const auto& session : impl_->all_sessions()) session->list = nullptr;
  for (Impl::Sessions* list : {&impl_->strangers, &impl_->idle, &impl_->working}) list->clear();  // each session holds its server
  impl_->drained.cancel();
}

ListenAddress HttpServer::listen(const ListenAddress& address, const TlsServerOptions& tls) { return impl_->listen(address, tls); }

void HttpServer::reload(const TlsServerOptions& tls) { impl_->reload(tls); }

asio::awaitable<void> HttpServer::stop(std::chrono::steady_clock::duration deadline) { return Impl::stop(impl_, deadline); }

std::size_t HttpServer::connections() const noexcept { return impl_->seats; }

}  // namespace cwsandbox::net
