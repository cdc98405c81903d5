#include "fault_proxy.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <list>
#include <mutex>
#include <stdexcept>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace support {

namespace {

[[noreturn]] void fail(const char* what) { throw std::runtime_error(std::string(what) + ": " + std::strerror(errno)); }

sockaddr_un unix_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  return address;
}

int dial(const std::string& path) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const auto address = unix_address(path);
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
  ::close(fd);
  return -1;
}

/// Finds the ends of data messages in a stream of WebSocket frames (RFC 6455, section 5.2).
class Frames {
 public:
  /// Looks at bytes up to the end of a data message at most; how many that were. `ended`: a message ends there.
  std::size_t feed(std::string_view bytes, bool& ended) {
    ended = false;
    for (std::size_t at = 0; at < bytes.size();) {
      if (rest_ > 0) {
        const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(rest_, bytes.size() - at));
        rest_ -= n;
        at += n;
      } else {
        header_ += bytes[at++];
        const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(header_[i]); };
        if (header_.size() < 2) continue;
        const unsigned length = byte(1) & 0x7fU;
        const std::size_t extended = length == 126 ? 2 : length == 127 ? 8 : 0;
        const std::size_t needed = 2 + extended + ((byte(1) & 0x80U) != 0 ? 4 : 0);
        if (header_.size() < needed) continue;
        rest_ = extended == 0 ? length : 0;
        for (std::size_t i = 0; i < extended; ++i) rest_ = rest_ << 8U | byte(2 + i);
        last_ = (byte(0) & 0x80U) != 0 && (byte(0) & 0x08U) == 0;
        header_.clear();
      }
      if (rest_ == 0 && header_.empty() && std::exchange(last_, false)) {
        ended = true;
        return at;
      }
    }
    return bytes.size();
  }

 private:
  std::string header_;
  std::uint64_t rest_ = 0;
  bool last_ = false;  // the frame under way ends a data message
};

}  // namespace

struct FaultProxy::Impl {
  struct Link {
    int client = -1, server = -1, stop = -1;
    std::atomic<bool> over{false}, upgraded{false}, reset{false};
    std::mutex descriptors;  // against closing them while somebody cuts
    std::mutex mutex;        // the rest
    Plan plan;
    int number = -1;
    std::uint64_t messages = 0;
    std::array<std::uint64_t, 2> passed_messages{};  // to the server, to the client
    std::thread up, down;
    std::atomic<int> running{2};

    ~Link() {
      if (up.joinable()) up.join();
      if (down.joinable()) down.join();
    }
    /// One of the two threads is done with it.
    void leave() {
      cut();
      if (--running > 0) return;
      const std::lock_guard lock(descriptors);
      if (reset) {
        const linger now{1, 0};
        ::setsockopt(client, SOL_SOCKET, SO_LINGER, &now, sizeof now);
      }
      for (const int fd : {client, server, stop}) ::close(fd);
    }
    void cut() {
      const std::lock_guard lock(descriptors);
      if (over.exchange(true)) return;
      const std::uint64_t one = 1;
      static_cast<void>(::write(stop, &one, sizeof one));
      // FIN now, the rest when the threads are done; a reset comes from closing alone.
      if (!reset) ::shutdown(client, SHUT_RDWR);
      ::shutdown(server, SHUT_RDWR);
    }
    /// False: cut.
    bool wait(int fd, short events) const {
      pollfd polled[2] = {{fd, events, 0}, {stop, POLLIN, 0}};
      while (::poll(polled, 2, -1) < 0) {
      }
      return !over;
    }
    /// False: cut meanwhile.
    bool pause(std::chrono::milliseconds delay) const {
      pollfd polled{stop, POLLIN, 0};
      const auto until = std::chrono::steady_clock::now() + delay;
      while (!over) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
        if (left.count() <= 0) return true;
        ::poll(&polled, 1, static_cast<int>(left.count()));
      }
      return false;
    }
    bool send(int fd, std::string_view bytes) const {
      while (!bytes.empty()) {
        const ssize_t n = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
          bytes.remove_prefix(static_cast<std::size_t>(n));
        } else if (errno != EAGAIN || !wait(fd, POLLOUT)) {
          return false;
        }
      }
      return true;
    }
  };

  std::string directory, target;
  std::string path;
  int listener = -1, stop = -1;
  std::uint16_t port = 0;
  std::thread acceptor;
  std::mutex mutex, planning;
  std::condition_variable changed;
  Planner planner;
  bool refusing = false, stalling = false;
  std::list<std::shared_ptr<Link>> links;
  std::atomic<int> cuts{0}, websockets{0}, connections{0};
  std::vector<Traffic> traffic;
  std::atomic<bool> over{false};

  void accept_all() {
    for (;;) {
      pollfd polled[2] = {{listener, POLLIN, 0}, {stop, POLLIN, 0}};
      if (::poll(polled, 2, -1) < 0) continue;
      if (over) return;
      const int client = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
      if (client < 0) continue;
      ++connections;
      std::string to;
      {
        const std::lock_guard lock(mutex);
        links.remove_if([](const auto& link) { return link->running == 0; });
        if (!refusing) to = target;
      }
      const int server = to.empty() ? -1 : dial(to);
      if (server < 0) {
        ::close(client);
        continue;
      }
      const int on = 1;  // refused by Unix sockets, which need it not
      static_cast<void>(::setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
      auto link = std::make_shared<Link>();
      link->client = client;
      link->server = server;
      link->stop = ::eventfd(0, EFD_CLOEXEC);
      link->up = std::thread([this, one = link.get()] { pass(*one, true); });
      link->down = std::thread([this, one = link.get()] { pass(*one, false); });
      const std::lock_guard lock(mutex);
      links.push_back(std::move(link));
    }
  }

  void pass(Link& link, bool to_server) {
    const int from = to_server ? link.client : link.server, to = to_server ? link.server : link.client;
    Frames frames;
    std::string head;          // of HTTP, until the upgrade has passed
    std::uint64_t passed = 0;  // behind the upgrade
    char buffer[64 * 1024];
    while (link.wait(from, POLLIN)) {
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return !stalling || over || link.over; });
      }
      const ssize_t n = ::read(from, buffer, sizeof buffer);
      if (n <= 0) break;
      std::string_view bytes(buffer, static_cast<std::size_t>(n));
      if (!link.upgraded) {
        if (!to_server) {
          // The first answer says whether this is a WebSocket; what the server sends behind it may be in the same read.
          head += bytes.substr(0, 64 * 1024);
          const auto end = head.find("\r\n\r\n");
          if (head.compare(0, 12, "HTTP/1.1 101") == 0 && end != std::string::npos) {
            const std::size_t own = bytes.size() - (head.size() - end - 4);
            begin(link);
            if (!link.send(to, bytes.substr(0, own))) break;
            bytes.remove_prefix(own);
          } else if (end != std::string::npos) {
            head.clear();
          }
        }
        if (!link.upgraded) {
          if (!link.send(to, bytes)) break;
          continue;
        }
      }
      if (!forward(link, to_server, from, to, bytes, frames, passed)) break;
    }
    link.leave();
  }

  void begin(Link& link) {
    Planner plan;
    {
      const std::lock_guard lock(mutex);
      plan = planner;
    }
    const int number = websockets++;
    {
      const std::lock_guard lock(mutex);
      traffic.resize(static_cast<std::size_t>(std::max<int>(number + 1, static_cast<int>(traffic.size()))));
    }
    {
      const std::lock_guard lock(link.mutex);
      const std::lock_guard one_at_a_time(planning);
      link.number = number;
      if (plan) link.plan = plan(number);
    }
    link.upgraded = true;
  }

  void count(const Link& link, bool to_server, std::uint64_t bytes, bool message) {
    const std::lock_guard lock(mutex);
    auto& passed = traffic[static_cast<std::size_t>(link.number)];
    (to_server ? passed.bytes_to_server : passed.bytes_to_client) += bytes;
    if (message) ++(to_server ? passed.messages_to_server : passed.messages_to_client);
  }

  /// Reads on and forgets, until the other side has had enough as well.
  static void swallow(Link& link, int from, int to) {
    ::shutdown(to, SHUT_WR);
    char buffer[4096];
    while (link.wait(from, POLLIN) && ::read(from, buffer, sizeof buffer) > 0) {
    }
  }

  /// False: the link is over, as far as this direction goes.
  bool forward(Link& link, bool to_server, int from, int to, std::string_view bytes, Frames& frames, std::uint64_t& passed) {
    while (!bytes.empty()) {
      bool ended = false, cut = false, together = false, truncate = false;
      std::size_t n = 0;
      std::chrono::milliseconds delay{0};
      {
        // Held over the sending where messages of both directions are counted, so that none slips through beside the one that the
        // cut comes after.
        const std::lock_guard lock(link.mutex);
        const Plan& plan = link.plan;
        std::uint64_t& messages = link.passed_messages[to_server ? 0 : 1];
        const std::uint64_t most = to_server ? plan.bytes_to_server : plan.bytes_to_client;
        const std::uint64_t most_messages = to_server ? plan.messages_to_server : plan.messages_to_client;
        const auto reached = [&] { return passed >= most || messages >= most_messages || link.messages >= plan.messages; };
        if (link.over) return false;
        cut = reached();
        if (!cut) {
          const auto allowed = static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), most - passed));
          n = frames.feed(bytes.substr(0, allowed), ended);
          passed += n;
          count(link, to_server, n, ended);
          if (ended) ++link.messages, ++messages;
          cut = reached() && !plan.late;
        }
        truncate = plan.truncate;
        delay = plan.delay;
        together = plan.messages != kNever;
        if (cut) {
          link.reset = plan.reset;
          static_cast<void>(link.send(to, bytes.substr(0, n)));
          ++cuts;
          if (!truncate) {
            link.cut();
            return false;
          }
        } else if (together) {
          if (!link.send(to, bytes.substr(0, n))) return false;
        }
      }
      if (cut) {
        swallow(link, from, to);
        return false;
      }
      if (!together) {
        if (delay.count() > 0 && !link.pause(delay)) return false;
        if (!link.send(to, bytes.substr(0, n))) return false;
      }
      bytes.remove_prefix(n);
    }
    return true;
  }
};

FaultProxy::FaultProxy(std::string target_socket, Listen listen) : impl_(std::make_shared<Impl>()) {
  impl_->target = std::move(target_socket);
  impl_->stop = ::eventfd(0, EFD_CLOEXEC);
  if (listen == Listen::tcp) {
    impl_->listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (::bind(impl_->listener, reinterpret_cast<sockaddr*>(&address), size) != 0) fail("bind");
    if (::getsockname(impl_->listener, reinterpret_cast<sockaddr*>(&address), &size) != 0) fail("getsockname");
    impl_->port = ntohs(address.sin_port);
  } else {
    std::string name = "/tmp/cwsandbox-proxy-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) fail("mkdtemp");
    impl_->directory = name;
    impl_->path = name + "/socket";
    impl_->listener = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const auto address = unix_address(impl_->path);
    if (::bind(impl_->listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) fail("bind");
  }
  if (::listen(impl_->listener, 64) != 0) fail("listen");
  impl_->acceptor = std::thread([impl = impl_.get()] { impl->accept_all(); });
}

FaultProxy::~FaultProxy() {
  impl_->over = true;
  const std::uint64_t one = 1;
  static_cast<void>(::write(impl_->stop, &one, sizeof one));
  impl_->acceptor.join();
  cut_all();
  impl_->links.clear();
  ::close(impl_->listener);
  ::close(impl_->stop);
  if (!impl_->path.empty()) {
    ::unlink(impl_->path.c_str());
    ::rmdir(impl_->directory.c_str());
  }
}

std::string FaultProxy::url() const {
  return impl_->path.empty() ? "http://127.0.0.1:" + std::to_string(impl_->port) : "unix:" + impl_->path;
}
void FaultProxy::set_planner(Planner planner) {
  const std::lock_guard lock(impl_->mutex);
  impl_->planner = std::move(planner);
}
void FaultProxy::set_target(std::string target_socket) {
  const std::lock_guard lock(impl_->mutex);
  impl_->target = std::move(target_socket);
}
void FaultProxy::refuse(bool on) {
  const std::lock_guard lock(impl_->mutex);
  impl_->refusing = on;
}
void FaultProxy::stall(bool on) {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stalling = on;
  }
  impl_->changed.notify_all();
}
void FaultProxy::cut_all() {
  {
    const std::lock_guard lock(impl_->mutex);
    for (const auto& link : impl_->links) link->cut();
  }
  impl_->changed.notify_all();
}
int FaultProxy::cuts() const { return impl_->cuts; }
int FaultProxy::websockets() const { return impl_->websockets; }
int FaultProxy::connections() const { return impl_->connections; }
FaultProxy::Traffic FaultProxy::traffic(int websocket) const {
  const std::lock_guard lock(impl_->mutex);
  const auto number = static_cast<std::size_t>(websocket);
  return number < impl_->traffic.size() ? impl_->traffic[number] : Traffic();
}

}  // namespace support
