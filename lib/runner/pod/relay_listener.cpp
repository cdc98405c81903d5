#include "runner/pod/relay_listener.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/system/system_error.hpp>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "runner/local/descriptor_io.hpp"
#include "runner/pod/relay_socket.hpp"

namespace cwsandbox::runner::pod {

namespace {

using asio::posix::stream_descriptor;
using local::UniqueFd;

// Relays at one time: a gateway has one, or a few while it resumes. Those that programs in the sandbox make themselves are kept to
// fewer.
constexpr int kBacklog = 16;
constexpr std::size_t kMaxRelays = 64;
constexpr std::size_t kMaxFromInside = 8;
// From a relay's connection to its descriptors.
constexpr std::chrono::seconds kHandOver{5};
// For what is still in a pipe whose relay has ended.
constexpr std::chrono::seconds kDrain{1};
// Bytes after which others get their turn.
constexpr std::size_t kTurnBytes = 1u << 20;
// How long accepting rests when this process or the system has run out of something.
constexpr std::chrono::milliseconds kAcceptRest{100};

// PID 1's last word on a relay; its socket is to be closed then. What the relay has sent is dropped first: a socket that is closed
// with something unread in it is an error at the other end, and that comes before what was said.
void dismiss(int socket, char word, std::string_view why = {}) noexcept {
  char packet[1 + kMaxReason];
  packet[0] = word;
  const std::size_t size = std::min(why.size(), kMaxReason);
  std::memcpy(packet + 1, why.data(), size);
  static_cast<void>(::send(socket, packet, 1 + size, MSG_NOSIGNAL | MSG_DONTWAIT));
  ::shutdown(socket, SHUT_RD);  // from here on nothing more gets in
  char dropped = 0;
  for (ssize_t n = 1; n > 0 || (n < 0 && errno == EINTR);) n = ::recv(socket, &dropped, 1, MSG_DONTWAIT);
}

[[nodiscard]] boost::system::system_error failure(int error) {
  return boost::system::system_error(error_code(error, boost::system::system_category()));
}

// One that nobody else can make block again, where that can be had: those who passed it have the same one open.
[[nodiscard]] UniqueFd nonblocking(UniqueFd fd, int access) {
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0) return UniqueFd();
  if (S_ISFIFO(status.st_mode)) {
    const std::string path = "/proc/self/fd/" + std::to_string(fd.get());
    if (UniqueFd own(::open(path.c_str(), access | O_NONBLOCK | O_CLOEXEC)); own) return own;
  } else if (!S_ISSOCK(status.st_mode)) {
    return UniqueFd();  // it cannot be waited for
  }
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) != 0) return UniqueFd();
  return fd;
}

// Whoever has no parent that can be seen from here was put here from outside: pods/exec starts such ones, no program of the
// sandbox's can.
[[nodiscard]] bool is_from_outside(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  for (std::string word; file >> word;) {
    int parent = -1;
    if (word == "PPid:") return static_cast<bool>(file >> parent) && parent == 0;
  }
  return false;
}

class RelayLink final : public remote::Link {
 public:
  /// Holds `place` for as long as it lives.
  RelayLink(const asio::any_io_executor& executor, UniqueFd in, UniqueFd out, UniqueFd relay, std::shared_ptr<void> place)
      : state_(std::make_shared<State>(executor, std::move(in), std::move(out), std::move(relay))), place_(std::move(place)) {
    State::wait_relay(state_);
  }
  RelayLink(const RelayLink&) = delete;
  RelayLink& operator=(const RelayLink&) = delete;
  ~RelayLink() override { state_->close(); }

  asio::awaitable<std::string_view> read() override { return State::read(state_); }
  asio::awaitable<void> write(std::string_view head, std::string_view body) override { return State::write(state_, head, body); }
  void close() noexcept override { state_->close(); }
  void refuse(std::string_view why) noexcept override { state_->close(kRefused, why); }

 private:
  struct State {
    State(const asio::any_io_executor& executor, UniqueFd in_fd, UniqueFd out_fd, UniqueFd relay_fd)
        : in(executor, in_fd.release()), out(executor, out_fd.release()), relay(executor, relay_fd.release()), drain(executor) {}

    void close(char word = kOver, std::string_view why = {}) noexcept {
      error_code ignored;
      if (relay.is_open()) dismiss(relay.native_handle(), word, why);
      for (stream_descriptor* one : {&in, &out, &relay}) one->close(ignored);
      drain.cancel();
    }

    // The kernel says that it has gone by closing its socket.
    static void wait_relay(const std::shared_ptr<State>& state) {
      state->relay.async_wait(stream_descriptor::wait_read, [weak = std::weak_ptr(state)](const error_code& ec) {
        const auto self = weak.lock();
        if (!self || ec) return;
        self->drain.expires_after(kDrain);
        self->drain.async_wait([weak](const error_code& cancelled) {
          const auto drained = weak.lock();
          if (drained && !cancelled) drained->close();
        });
      });
    }

    static asio::awaitable<void> next_turn(State& state) {
      state.in_turn = 0;
      auto turn = asio::post(state.in.get_executor(), asio::use_awaitable);
      co_await std::move(turn);
    }

    static asio::awaitable<std::string_view> read(std::shared_ptr<State> state) {
      if (state->in_turn >= kTurnBytes) co_await next_turn(*state);
      for (;;) {
        if (!state->in.is_open()) throw boost::system::system_error(asio::error::operation_aborted);
        const ssize_t n = ::read(state->in.native_handle(), state->buffer.data(), state->buffer.size());
        if (n >= 0) {
          const auto size = static_cast<std::size_t>(n);
          state->in_turn += size;
          state->in_growth.count(state->in.native_handle(), size);
          co_return std::string_view(state->buffer.data(), size);
        }
        if (errno == EINTR) continue;
        if (errno != EAGAIN) throw failure(errno);
        auto wait = state->in.async_wait(stream_descriptor::wait_read, asio::use_awaitable);
        co_await std::move(wait);
      }
    }

    static asio::awaitable<void> write(std::shared_ptr<State> state, std::string_view head, std::string_view body) {
      if (state->in_turn >= kTurnBytes) co_await next_turn(*state);
      while (!head.empty() || !body.empty()) {
        if (!state->out.is_open()) throw boost::system::system_error(asio::error::operation_aborted);
        const iovec parts[2] = {{const_cast<char*>(head.data()), head.size()}, {const_cast<char*>(body.data()), body.size()}};
        // PID 1 has every signal blocked, so a broken pipe is an error and no more.
        const ssize_t n = ::writev(state->out.native_handle(), parts, 2);
        if (n >= 0) {
          const auto size = static_cast<std::size_t>(n);
          state->in_turn += size;
          state->out_growth.count(state->out.native_handle(), size);
          const std::size_t of_head = std::min(size, head.size());
          head.remove_prefix(of_head);
          body.remove_prefix(size - of_head);
          continue;
        }
        if (errno == EINTR) continue;
        if (errno != EAGAIN) throw failure(errno);
        auto wait = state->out.async_wait(stream_descriptor::wait_write, asio::use_awaitable);
        co_await std::move(wait);
      }
    }

    stream_descriptor in, out, relay;
    asio::steady_timer drain;
    local::PipeGrowth in_growth, out_growth;
    std::size_t in_turn = 0;
    std::array<char, 64 << 10> buffer;
  };

  std::shared_ptr<State> state_;
  std::shared_ptr<void> place_;
};

}  // namespace

UniqueFd listen_for_relays() {
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const SocketAddress address;
  if (!socket || ::bind(socket.get(), address.get(), address.length) != 0 || ::listen(socket.get(), kBacklog) != 0) {
    throw std::system_error(errno, std::generic_category(), "cannot listen for connections from outside");
  }
  return socket;
}

class RelayListener::State : public std::enable_shared_from_this<RelayListener::State> {
 public:
  State(const asio::any_io_executor& executor, UniqueFd socket, LinkHandler on_link)
      : socket_(executor, socket.release()), rest_(executor), on_link_(std::move(on_link)) {}

  void wait() {
    socket_.async_wait(stream_descriptor::wait_read, [weak = weak_from_this()](const error_code& ec) {
      const auto self = weak.lock();
      if (!self || ec) return;
      if (self->accept_some()) {
        self->wait();
      } else {
        self->rest();
      }
    });
  }
  void close() noexcept {
    error_code ignored;
    socket_.close(ignored);
    rest_.cancel();
  }

 private:
  // Gives its place back when it has gone, in whatever way.
  struct Place {
    std::shared_ptr<State> listener;
    bool from_outside;
    Place(std::shared_ptr<State> l, bool outside) : listener(std::move(l)), from_outside(outside) {
      ++(from_outside ? listener->from_outside_ : listener->from_inside_);
    }
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;
    ~Place() { --(from_outside ? listener->from_outside_ : listener->from_inside_); }
  };

  void rest() {
    rest_.expires_after(kAcceptRest);
    rest_.async_wait([weak = weak_from_this()](const error_code& ec) {
      const auto self = weak.lock();
      if (self && !ec) self->wait();
    });
  }

  // False when something has run out that others give back meanwhile: the socket stays ready to be accepted from.
  bool accept_some() {
    for (int i = 0; i < kBacklog; ++i) {
      UniqueFd relay(::accept4(socket_.native_handle(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (!relay) return errno != EMFILE && errno != ENFILE && errno != ENOMEM && errno != ENOBUFS;
      ucred peer{};
      socklen_t length = sizeof peer;
      const bool outside = ::getsockopt(relay.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && is_from_outside(peer.pid);
      if ((outside ? from_outside_ : from_inside_) >= (outside ? kMaxRelays : kMaxFromInside)) {
        dismiss(relay.get(), kRefused, "there are too many connections");
        continue;
      }
      auto place = std::make_shared<Place>(shared_from_this(), outside);
      asio::co_spawn(socket_.get_executor(), take(std::move(place), std::move(relay)), asio::detached);
    }
    return true;
  }

  static asio::awaitable<void> take(std::shared_ptr<Place> place, UniqueFd fd) {
    const auto executor = place->listener->socket_.get_executor();
    auto relay = std::make_shared<stream_descriptor>(executor, fd.release());
    asio::steady_timer deadline(executor, kHandOver);
    deadline.async_wait([weak = std::weak_ptr(relay)](const error_code& ec) {
      error_code ignored;
      const auto late = weak.lock();
      if (!late || ec || !late->is_open()) return;
      dismiss(late->native_handle(), kRefused, "nothing came in time");
      late->close(ignored);
    });
    error_code ec;
    auto token = asio::redirect_error(asio::use_awaitable, ec);
    auto wait = relay->async_wait(stream_descriptor::wait_read, token);
    co_await std::move(wait);
    deadline.cancel();
    if (ec || !relay->is_open()) co_return;
    std::array<UniqueFd, 2> fds;
    if (!receive(relay->native_handle(), fds)) co_return dismiss(relay->native_handle(), kRefused, "this is not what a relay says");
    UniqueFd in = nonblocking(std::move(fds[0]), O_RDONLY);
    UniqueFd out = nonblocking(std::move(fds[1]), O_WRONLY);
    if (!in || !out) co_return dismiss(relay->native_handle(), kRefused, "stdin and stdout cannot be used");
    auto link = std::make_unique<RelayLink>(executor, std::move(in), std::move(out), UniqueFd(relay->release()), place);
    place->listener->on_link_(std::move(link));
  }

  // Whatever else comes is closed.
  static bool receive(int socket, std::array<UniqueFd, 2>& fds) {
    char byte = 0;
    iovec part{&byte, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 2)];
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    if (::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != 1) return false;
    std::size_t count = 0;
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
      if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
      const std::size_t given = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (std::size_t i = 0; i < given; ++i) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
        UniqueFd owned(fd);
        if (count < fds.size()) fds[count] = std::move(owned);
        ++count;
      }
    }
    return byte == kHereTheyAre && count == fds.size() && (message.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) == 0;
  }

  stream_descriptor socket_;
  asio::steady_timer rest_;
  LinkHandler on_link_;
  std::size_t from_outside_ = 0, from_inside_ = 0;
};

RelayListener::RelayListener(asio::any_io_executor executor, UniqueFd socket, LinkHandler on_link)
    : state_(std::make_shared<State>(executor, std::move(socket), std::move(on_link))) {
  state_->wait();
}
RelayListener::~RelayListener() { state_->close(); }

}  // namespace cwsandbox::runner::pod
