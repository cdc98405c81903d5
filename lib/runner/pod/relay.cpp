#include "runner/pod/relay.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "runner/local/unique_fd.hpp"
#include "runner/pod/relay_socket.hpp"

namespace cwsandbox::runner::pod {

namespace {

constexpr timeval kDeadline{10, 0};  // of each step until PID 1 has the descriptors

int fail(const char* what, int error) {
  std::fprintf(stderr, "cwsandbox-agent: %s%s%s\n", what, error != 0 ? ": " : "", error != 0 ? std::strerror(error) : "");
  return 1;
}

[[nodiscard]] bool can_be_waited_for(int fd) {
  struct stat status{};
  return ::fstat(fd, &status) == 0 && (S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode));
}

[[nodiscard]] bool pass_descriptors(int socket) {
  char byte = kHereTheyAre;
  iovec part{&byte, 1};
  const int fds[2] = {0, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fds)] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fds);
  std::memcpy(CMSG_DATA(header), fds, sizeof fds);
  ssize_t n = 0;
  while ((n = ::sendmsg(socket, &message, MSG_NOSIGNAL)) < 0 && errno == EINTR) {
  }
  return n == 1;
}

// What PID 1 says when it is done with us. That it has closed the socket before it read all of it (ECONNRESET) is told before what
// it has said, and once only; it can also be that it was killed.
int last_word(int socket, const char* trouble, int error) {
  char word[1 + kMaxReason + 1] = {};
  ssize_t n = 0;
  bool reset = false;
  do {
    reset = n < 0 && errno == ECONNRESET;
    n = ::recv(socket, word, sizeof word - 1, MSG_DONTWAIT);
  } while (n < 0 && (errno == EINTR || (errno == ECONNRESET && !reset)));
  if (n > 1 && word[0] == kRefused) return fail(word + 1, 0);
  if (n == 1 && word[0] == kOver) return 0;
  return fail(trouble, error);
}

// Until PID 1 is done with us or nobody is left who could write to our stdin.
int wait_for_end(int socket) {
  pollfd fds[2] = {{socket, POLLIN, 0}, {0, POLLRDHUP, 0}};
  for (;;) {
    if (::poll(fds, 2, -1) < 0) {
      if (errno == EINTR) continue;
      return fail("cannot wait", errno);
    }
    if (fds[0].revents != 0) return last_word(socket, "the agent has gone", 0);
    if (fds[1].revents != 0) return 0;
  }
}

}  // namespace

int run_relay() {
  // Programs in the sandbox run as the same user: they must not get at what it has open. They can end it, which is a connection
  // that breaks; not by what they send to everybody, though.
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return fail("cannot be closed to others", errno);
  for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGPIPE}) ::signal(number, SIG_IGN);
  if (!can_be_waited_for(0) || !can_be_waited_for(1)) return fail("stdin and stdout must be pipes or sockets", 0);
  const local::UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket) return fail("cannot make a socket", errno);
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &kDeadline, sizeof kDeadline);
  const SocketAddress address;
  if (::connect(socket.get(), address.get(), address.length) != 0) {
    return errno == EAGAIN ? fail("the agent takes nobody in", 0) : fail("there is no agent here", errno);
  }
  ucred peer{};
  socklen_t length = sizeof peer;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 || peer.pid != 1) {
    return fail("the agent here is not PID 1", 0);
  }
  if (!pass_descriptors(socket.get())) return last_word(socket.get(), "cannot reach the agent", errno);
  return wait_for_end(socket.get());
}

}  // namespace cwsandbox::runner::pod
