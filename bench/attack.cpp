// Hostile peers for figure B10, against the gateway on the Unix socket that CWSANDBOX_BASE_URL names:
//
//   bench-attack TOKEN
//
// 1,000 connections that say nothing; 500 that send a byte of a header every 100 ms; 20 headers of 60 KiB a second that do not end;
// 500 requests a second with a wrong token; and, with TOKEN (not that of the client that is measured), 50 WebSockets that send 20
// pings every 100 ms and read nothing. What the gateway closes is opened again. Prints "ready" once all are there, and ends with
// its standard input, or after 120 s. Everything is paced, so that what is measured is the gateway and not who gets the processor.
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kSilent = 1000, kSlow = 500, kSockets = 50;
constexpr std::size_t kWrongPerTick = 50, kFloodsPerTick = 2, kReopenedPerTick = 50;
constexpr std::chrono::milliseconds kTick{100};
constexpr std::chrono::seconds kMost{120};

sockaddr_un where() {
  const char* url = std::getenv("CWSANDBOX_BASE_URL");
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  if (url == nullptr || std::strncmp(url, "unix:", 5) != 0 || std::strlen(url + 5) >= sizeof to.sun_path) {
    std::fputs("bench-attack: CWSANDBOX_BASE_URL must be unix:PATH\n", stderr);
    std::exit(2);
  }
  std::strncpy(to.sun_path, url + 5, sizeof to.sun_path - 1);
  return to;
}

/// One connection. Nothing here ever waits: what does not go at once is not sent.
class Line {
 public:
  explicit Line(std::string greeting = {}) : greeting_(std::move(greeting)) {}
  Line(Line&& other) noexcept : greeting_(std::move(other.greeting_)), fd_(std::exchange(other.fd_, -1)) {}
  Line& operator=(Line&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(greeting_, other.greeting_);
    return *this;
  }
  ~Line() { end(); }
  void open(const sockaddr_un& to) {
    end();
    fd_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd_ < 0) return;
    if (::connect(fd_, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) return end();
    if (!greeting_.empty()) send(greeting_);
  }
  void send(std::string_view bytes) {
    if (fd_ >= 0 && ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0 && errno != EAGAIN) end();
  }
  /// Looks whether the gateway has closed it, without reading what it has sent.
  [[nodiscard]] bool closed() {
    if (fd_ < 0) return true;
    pollfd look{fd_, POLLRDHUP, 0};
    if (::poll(&look, 1, 0) > 0 && (look.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0) end();
    return fd_ < 0;
  }
  void end() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  std::string greeting_;
  int fd_ = -1;
};

bool told_to_end() {
  pollfd input{0, POLLIN | POLLHUP, 0};
  char byte = 0;
  return ::poll(&input, 1, 0) > 0 && ::read(0, &byte, 1) <= 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: bench-attack TOKEN\n", stderr);
    return 2;
  }
  const sockaddr_un to = where();
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
  const std::string upgrade =
      "GET /v1/exec HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v1.exec.cwsandbox\r\nAuthorization: Bearer " +
      std::string(argv[1]) + "\r\n\r\n";
  const std::string wrong =
      "POST /coreweave.sandbox.v1.SandboxService/ListSandboxes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\n"
      "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
  const std::string flood = "GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + std::string(60 * 1024, 'x');
  std::string pings;
  for (int i = 0; i < 20; ++i) pings += std::string("\x89\x84\0\0\0\0ping", 10);

  std::vector<Line> silent, slow, sockets, floods(100), wrongs(100);
  for (std::size_t i = 0; i < kSilent; ++i) silent.emplace_back();
  for (std::size_t i = 0; i < kSlow; ++i) slow.emplace_back("GET / HTTP/1.1\r\nHost: x\r\nX: ");
  for (std::size_t i = 0; i < kSockets; ++i) sockets.emplace_back(upgrade);
  const auto until = Clock::now() + kMost;
  bool ready = false;
  std::size_t next_flood = 0, next_wrong = 0;
  while (Clock::now() < until && !told_to_end()) {
    const auto next = Clock::now() + kTick;
    std::size_t reopened = 0;
    for (auto* lines : {&sockets, &slow, &silent})
      for (Line& line : *lines)
        if (reopened < kReopenedPerTick && line.closed()) {
          line.open(to);
          ++reopened;
        }
    if (reopened == 0 && !ready) {
      ready = true;
      std::puts("ready");
      std::fflush(stdout);
    }
    for (Line& line : slow) line.send("x");
    for (Line& line : sockets) line.send(pings);
    for (std::size_t i = 0; i < kFloodsPerTick; ++i) {
      Line& line = floods[next_flood++ % floods.size()];
      line.open(to);
      line.send(flood);
    }
    for (std::size_t i = 0; i < kWrongPerTick; ++i) {
      Line& line = wrongs[next_wrong++ % wrongs.size()];
      line.open(to);
      line.send(wrong);
    }
    std::this_thread::sleep_until(next);
  }
  return 0;
}
