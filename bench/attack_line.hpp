// Connections of the attacker's, by hand: a client would be too well-behaved.
#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bench {

inline sockaddr_un gateway_address() {
  const char* url = std::getenv("CWSANDBOX_BASE_URL");
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  if (url == nullptr || std::strncmp(url, "unix:", 5) != 0 || std::strlen(url + 5) >= sizeof to.sun_path)
    throw std::invalid_argument("CWSANDBOX_BASE_URL must be unix:PATH");
  std::strncpy(to.sun_path, url + 5, sizeof to.sun_path - 1);
  return to;
}

/// One connection. Nothing but wait_for_head() ever waits: what does not go at once is not sent.
class Line {
 public:
  explicit Line(std::string greeting = {}) : greeting_(std::move(greeting)) {}
  Line(Line&& other) noexcept : greeting_(std::move(other.greeting_)), fd_(std::exchange(other.fd_, -1)) {}
  Line& operator=(Line&& other) noexcept {
    std::swap(greeting_, other.greeting_);
    std::swap(fd_, other.fd_);
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
  /// How much of it went.
  std::size_t send(std::string_view bytes) {
    if (fd_ < 0) return 0;
    const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) end();
    return n > 0 ? static_cast<std::size_t>(n) : 0;
  }
  /// What has come, at most 64 KiB.
  std::string_view take() {
    static char block[64 * 1024];
    if (fd_ < 0) return {};
    const ssize_t n = ::recv(fd_, block, sizeof block, 0);
    if (n == 0 || (n < 0 && errno != EAGAIN)) end();
    return {block, n > 0 ? static_cast<std::size_t>(n) : 0};
  }
  /// Until the head of an answer is there, at most 10 s.
  void wait_for_head() {
    std::string seen;
    while (fd_ >= 0 && seen.find("\r\n\r\n") == std::string::npos) {
      pollfd look{fd_, POLLIN, 0};
      if (::poll(&look, 1, 10000) != 1) return end();
      seen += take();
    }
  }
  /// Looks whether the gateway has closed it, without reading what it has sent.
  [[nodiscard]] bool closed() {
    if (fd_ < 0) return true;
    pollfd look{fd_, POLLRDHUP, 0};
    if (::poll(&look, 1, 0) > 0 && (look.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0) end();
    return fd_ < 0;
  }
  [[nodiscard]] bool is_open() const noexcept { return fd_ >= 0; }
  void end() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  std::string greeting_;
  int fd_ = -1;
};

/// Sends `bytes`, which must outlive it, as fast as they go; then holds the connection, or begins anew.
class Sender {
 public:
  Sender(std::string_view bytes, bool hold) : bytes_(bytes), hold_(hold) {}
  void go_on(const sockaddr_un& to) {
    if (line_.closed() || (sent_ == bytes_.size() && !hold_)) {
      line_.open(to);
      sent_ = 0;
    }
    sent_ += line_.send(bytes_.substr(sent_));
  }

 private:
  std::string_view bytes_;
  bool hold_;
  Line line_;
  std::size_t sent_ = 0;
};

/// Sends a request over and over, four on their way at once, and drops the answers.
class Asker {
 public:
  explicit Asker(std::string request) : request_(std::move(request)) {}
  void go_on(const sockaddr_un& to) {
    if (!line_.is_open()) {
      line_.open(to);
      under_way_ = 0;
      tail_.clear();
    }
    constexpr std::string_view kAnswer = "HTTP/1.1 ";
    for (std::string_view came = line_.take(); !came.empty(); came = line_.take()) {
      tail_.append(came);
      std::size_t at = 0;
      for (std::size_t found = 0; (found = tail_.find(kAnswer, at)) != std::string::npos; at = found + kAnswer.size())
        if (under_way_ > 0) --under_way_;
      tail_.erase(0, std::max(at, tail_.size() - std::min(tail_.size(), kAnswer.size() - 1)));
    }
    for (; under_way_ < 4 && line_.is_open(); ++under_way_)
      if (line_.send(request_) != request_.size()) return line_.end();
  }

 private:
  std::string request_, tail_;
  Line line_;
  int under_way_ = 0;
};

/// A binary message of WebSocket, masked with zeros.
inline std::string web_socket_frame(std::string_view payload) {
  std::string frame("\x82\xfe", 2);
  frame += static_cast<char>(payload.size() >> 8);
  frame += static_cast<char>(payload.size() & 0xff);
  return frame.append(4, '\0').append(payload);
}

/// The whole answer to one request on a connection of its own; every wait ends after 30 s. Empty when there is none.
inline std::string answer_once(const sockaddr_un& to, const std::string& request) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const timeval most{30, 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most);
  ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &most, sizeof most);
  std::string text;
  bool good = ::connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0;
  for (std::size_t at = 0; good && at < request.size();) {
    const ssize_t n = ::send(fd, request.data() + at, request.size() - at, MSG_NOSIGNAL);
    if (n <= 0) break;  // it may have been refused before its end
    at += static_cast<std::size_t>(n);
  }
  char block[16 * 1024];
  for (ssize_t n = 0; good && (n = ::recv(fd, block, sizeof block, 0)) > 0;) text.append(block, static_cast<std::size_t>(n));
  ::close(fd);
  return text;
}

/// The same, tried some times: what the attacker does besides may have used up its own part.
inline std::string answer(const sockaddr_un& to, std::string request) {
  request.insert(request.find("\r\n") + 2, "Connection: close\r\n");
  for (int i = 0; i < 5; ++i) {
    std::string text = answer_once(to, request);
    if (!text.empty()) return text;
  }
  throw std::runtime_error("the gateway does not answer the attacker");
}

/// The strings of all members of this name. Good enough for ids, which hold no quotes.
inline std::vector<std::string> words_of(const std::string& json, const std::string& name) {
  std::vector<std::string> words;
  const std::string key = "\"" + name + "\"";
  for (std::size_t at = 0; (at = json.find(key, at)) != std::string::npos;) {
    const std::size_t begin = json.find('"', at + key.size()) + 1;
    at = json.find('"', begin);
    words.push_back(json.substr(begin, at - begin));
  }
  return words;
}
inline std::string word_of(const std::string& json, const std::string& name) {
  const std::vector<std::string> words = words_of(json, name);
  return words.empty() ? std::string() : words.front();
}

}  // namespace bench
