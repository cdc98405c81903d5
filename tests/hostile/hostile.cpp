// A program that means no good, for tests: it is put into a sandbox and says what it was given. Static, so that it runs wherever
// it is put. `hostile COMMAND ARGUMENTS…`; where a command has a result it prints it with the name of the errno.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string_view>

namespace {

void report(long result) {
  const char* name = result < 0 ? strerrorname_np(errno) : "-";
  printf("%ld %s\n", result, name != nullptr ? name : "?");
  fflush(stdout);
}

long number(const char* text) { return static_cast<long>(strtoull(text, nullptr, 0)); }

[[noreturn]] void wait_for_ever() {
  for (;;) pause();
}

int connect_to(const sockaddr* address, socklen_t size) {
  const int fd = socket(address->sa_family, SOCK_STREAM, 0);
  return fd < 0 ? fd : connect(fd, address, size);
}

char block[1 << 20];

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  const std::string_view command = argv[1];
  const auto argument = [&](int i) { return i + 1 < argc ? argv[i + 1] : argv[argc]; };
  long a[7] = {};
  for (int i = 1; i <= 6 && i + 1 < argc; ++i) a[i] = number(argv[i + 1]);
  // call NUMBER SIX-ARGUMENTS: any system call.
  if (command == "call") {
    long number_and_arguments[7] = {};
    for (int i = 0; i < 7 && i + 2 < argc; ++i) number_and_arguments[i] = number(argv[i + 2]);
    const long* c = number_and_arguments;
    report(syscall(c[0], c[1], c[2], c[3], c[4], c[5], c[6]));
  } else if (command == "clone") {
    // clone FLAGS: as the C library's fork, with flags of one's own.
    const long pid = syscall(SYS_clone, a[1] | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) _exit(0);
    report(pid < 0 ? pid : 0);
#ifdef __x86_64__
  } else if (command == "int80") {
    // A call by the numbers of i386: 20 is its getpid.
    long result = 20;
    asm volatile("int $0x80" : "+a"(result) : : "memory");
    report(result);
#endif
  } else if (command == "fork-until-refused") {
    long count = 0;
    for (;; ++count) {
      const pid_t pid = fork();
      if (pid == 0) wait_for_ever();
      if (pid < 0) break;
    }
    report(-1);
    printf("%ld\n", count);
    fflush(stdout);
    wait_for_ever();
  } else if (command == "fork-bomb") {
    // Whatever is behind it marks its processes.
    for (;;) fork();
  } else if (command == "inotify") {
    // inotify: as many queues of events as there may be.
    long count = 0;
    while (inotify_init1(0) >= 0) ++count;
    report(-1);
    printf("%ld\n", count);
    fflush(stdout);
    wait_for_ever();
  } else if (command == "memory") {
    // memory: takes all that there is.
    for (;;) {
      void* more = mmap(nullptr, sizeof block, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (more == MAP_FAILED) return 3;
      memset(more, 1, sizeof block);
    }
  } else if (command == "fill") {
    // fill FILE: until it is refused; then how much there was.
    const int fd = open(argument(1), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    long total = 0;
    ssize_t n = 0;
    while ((n = write(fd, block, sizeof block)) > 0) total += n;
    report(n);
    printf("%ld\n", total);
  } else if (command == "unread") {
    // unread: how much connections to itself take that nobody reads.
    sockaddr_in address{};
    socklen_t size = sizeof address;
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, reinterpret_cast<sockaddr*>(&address), size) != 0 || listen(listener, 8) != 0 ||
        getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
      report(-1);
      return 3;
    }
    long total = 0;
    for (int i = 0; i < 200; ++i) {
      const int from = socket(AF_INET, SOCK_STREAM, 0);
      if (connect(from, reinterpret_cast<sockaddr*>(&address), size) != 0 || accept(listener, nullptr, nullptr) < 0) break;
      fcntl(from, F_SETFL, O_NONBLOCK);
      // What goes from one end to the other makes room for more.
      for (int quiet = 0; quiet < 3; ++quiet) {
        for (ssize_t n = 0; (n = send(from, block, sizeof block, MSG_NOSIGNAL)) > 0; quiet = 0) total += n;
        usleep(1000);
      }
    }
    report(-1);
    printf("%ld\n", total);
  } else if (command == "inodes") {
    // inodes DIRECTORY: the same by empty files.
    const int directory = open(argument(1), O_RDONLY | O_DIRECTORY);
    long count = 0;
    for (;; ++count) {
      char name[24];
      snprintf(name, sizeof name, "%ld", count);
      const int fd = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL, 0644);
      if (fd < 0) break;
      close(fd);
    }
    report(-1);
    printf("%ld\n", count);
  } else if (command == "flood") {
    memset(block, 'x', sizeof block);
    block[79] = '\n';
    while (write(1, block, sizeof block) > 0) {
    }
  } else if (command == "burn") {
    // Many, so that they want more than their part on a busy machine too.
    puts("ready");
    fflush(stdout);
    for (int i = 0; i < 4; ++i) fork();
    for (;;) asm volatile("");
  } else if (command == "open-until-refused") {
    long count = 0;
    while (open("/dev/null", O_RDONLY) >= 0) ++count;
    report(-1);
    printf("%ld\n", count);
  } else if (command == "descriptors-in-flight") {
    // As many descriptors on their way through sockets as there may be; nobody takes them.
    rlimit files{};
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    constexpr int kAtOnce = 253;  // the kernel's most for one message
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kAtOnce)] = {};
    iovec byte{block, 1};
    msghdr message{};
    message.msg_iov = &byte;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int) * kAtOnce);
    const int standing[1] = {0};
    for (std::size_t i = 0; i < kAtOnce; ++i) memcpy(CMSG_DATA(rights) + i * sizeof(int), standing, sizeof(int));
    long count = 0;
    int pair[2];
    while (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0) {
      ssize_t sent = 0;
      while ((sent = sendmsg(pair[0], &message, MSG_DONTWAIT)) == 1) count += kAtOnce;
      if (sent < 0 && errno != EAGAIN) break;
    }
    report(-1);
    printf("%ld\n", count);
    fflush(stdout);
    wait_for_ever();
  } else if (command == "exchange") {
    // exchange A B: the two names, over and over.
    puts("ready");
    fflush(stdout);
    for (;;) renameat2(AT_FDCWD, argument(1), AT_FDCWD, argument(2), RENAME_EXCHANGE);
  } else if (command == "abstract") {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const size_t length = strlen(argument(1));
    memcpy(address.sun_path + 1, argument(1), length);
    report(connect_to(reinterpret_cast<sockaddr*>(&address), static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + length)));
  } else if (command == "tcp") {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(a[2]));
    inet_pton(AF_INET, argument(1), &address.sin_addr);
    report(connect_to(reinterpret_cast<sockaddr*>(&address), sizeof address));
  } else if (command == "tiocsti") {
    char c = 'x';
    report(ioctl(0, TIOCSTI, &c));
    report(syscall(SYS_ioctl, 0, TIOCSTI | 0x100000000, &c));
    c = 2;  // TIOCL_SETSEL
    report(ioctl(0, TIOCLINUX, &c));
  } else if (command == "setuid") {
    // setuid FILE: a copy of this program for root.
    report(fchmodat(AT_FDCWD, argument(1), 06755, 0));
    report(chown(argument(1), 0, 0));
  } else if (command == "ids") {
    uid_t r, e, s;
    getresuid(&r, &e, &s);
    printf("%u %u %u\n", r, e, s);
  } else {
    return 2;
  }
  return 0;
}
