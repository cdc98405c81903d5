// What the machine can do without us: the bare counterparts of the figures in figures.cpp, each as plain and as well tuned as it
// can be.
//
//   bench-baseline ws-down BYTES        Beast WebSocket over a Unix socket, server to client, 64 KiB binary messages: MB/s
//   bench-baseline ws-up BYTES          the same, client to server (masked): MB/s
//   bench-baseline ws-down-head BYTES   as ws-down, where the server reads what it sends from `head -c BYTES /dev/zero`: MB/s
//   bench-baseline ws-up-cat BYTES      as ws-up, where the server writes what it gets to `cat >/dev/null`: MB/s
//   bench-baseline head-alone BYTES     `head -c BYTES /dev/zero` into a pipe that is emptied without looking at it: MB/s
//   bench-baseline spawn N              posix_spawn and waitpid of /bin/true, one after the other: median in µs
//   bench-baseline spawn-rate N FLIGHT  the same with FLIGHT children at once: per second
//   bench-baseline bwrap N              a bare `bwrap … /bin/true` in namespaces of its own: median in µs
//   bench-baseline echo-ws N            64 bytes to a WebSocket server over a Unix socket and back: median in µs
//   bench-baseline echo-pipe N          64 bytes through cat and back: median in µs
//
// and of any command line, for a comparison of programs that run commands elsewhere (scripts/compare):
//   bench-baseline command N CMD…              CMD, one after the other, start to end: median and 99th percentile in µs
//   bench-baseline command-rate N FLIGHT CMD…  CMD, FLIGHT at once: per second
//   bench-baseline command-out BYTES CMD…      CMD, which writes BYTES to its stdout: MB/s
//   bench-baseline command-in BYTES CHUNK CMD… BYTES into CMD's stdin, CHUNK at a time, until CMD has ended: MB/s
//   bench-baseline command-echo N CMD…         64 bytes to CMD, which sends back what it gets: median in µs
//
// Prints numbers. The WebSocket server is a process of its own, as a gateway is.
#include "statistics.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/websocket.hpp>

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

extern char** environ;  // NOLINT: POSIX declares it nowhere

namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace websocket = beast::websocket;
using unix_socket = asio::local::stream_protocol;
using boost::system::error_code;
using cwsandbox::bench::Clock;
using cwsandbox::bench::median;
using cwsandbox::bench::micros_since;
using cwsandbox::bench::percentile;
using cwsandbox::bench::seconds_since;

constexpr std::size_t kMessage = 64 * 1024;
constexpr std::size_t kEcho = 64;

[[noreturn]] void fail(const std::string& what) { throw std::system_error(errno, std::generic_category(), what); }

using Words = std::vector<std::string>;

/// With `in` and `out` as its stdin and stdout where they are not -1.
pid_t start(Words words, int in = -1, int out = -1) {
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (in >= 0) posix_spawn_file_actions_adddup2(&actions, in, 0);
  if (out >= 0) posix_spawn_file_actions_adddup2(&actions, out, 1);
  pid_t pid = 0;
  const int error = posix_spawnp(&pid, arguments.front(), &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    errno = error;
    fail(words.front());
  }
  return pid;
}

void must_succeed(pid_t pid) {
  int status = 0;
  if (waitpid(pid, &status, 0) != pid || status != 0) throw std::runtime_error("the command failed");
}

struct Pipe {
  Pipe() {
    if (pipe2(ends, O_CLOEXEC) != 0) fail("pipe2");
  }
  ~Pipe() {
    drop(0);
    drop(1);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  void drop(int end) {
    if (ends[end] >= 0) close(std::exchange(ends[end], -1));
  }
  int ends[2] = {-1, -1};
};

/// One end of a WebSocket, tuned for large messages: no fragmenting, no compression, buffers as large as a message, and the fast
/// (not secret) generator for masks, since nothing here crosses a proxy.
struct Peer {
  asio::io_context context{1};  // one thread: Asio may leave out its locks
  websocket::stream<unix_socket::socket> stream{context};
  beast::flat_buffer buffer;
  std::vector<char> chunk = std::vector<char>(kMessage, 'x');

  void tune() {
    stream.binary(true);
    stream.auto_fragment(false);
    stream.write_buffer_bytes(kMessage + 64);
    stream.read_message_max(kMessage);
    stream.secure_prng(false);
    websocket::permessage_deflate off;
    off.client_enable = off.server_enable = false;
    stream.set_option(off);
    buffer.reserve(2 * kMessage);
  }

  /// Sends `bytes` in messages of 64 KiB, or as they come out of `pipe`, then waits for the peer's word (any message) that it has
  /// them.
  void send_all(std::uint64_t bytes, int pipe = -1) {
    std::function<void()> next = [&] {
      if (bytes == 0) {
        stream.async_read(buffer, [](error_code ec, std::size_t) {
          if (ec) throw boost::system::system_error(ec, "waiting for the peer");
        });
        return;
      }
      std::size_t n = bytes < kMessage ? static_cast<std::size_t>(bytes) : kMessage;
      if (pipe >= 0) {
        const ssize_t got = read(pipe, chunk.data(), n);
        if (got <= 0) fail("read");
        n = static_cast<std::size_t>(got);
      }
      bytes -= n;
      stream.async_write(asio::buffer(chunk.data(), n), [&](error_code ec, std::size_t) {
        if (ec) throw boost::system::system_error(ec, "write");
        next();
      });
    };
    next();
    context.run();
    context.restart();
  }

  /// Reads messages until `bytes` have come, writes them to `pipe` if there is one, then says so.
  void receive_all(std::uint64_t bytes, int pipe = -1) {
    std::function<void()> next = [&] {
      if (bytes == 0) {
        stream.async_write(asio::buffer(chunk.data(), 1), [](error_code ec, std::size_t) {
          if (ec) throw boost::system::system_error(ec, "answering");
        });
        return;
      }
      stream.async_read(buffer, [&](error_code ec, std::size_t n) {
        if (ec) throw boost::system::system_error(ec, "read");
        const auto data = buffer.cdata();
        for (std::size_t put = 0; pipe >= 0 && put < n;) {
          const ssize_t some = write(pipe, static_cast<const char*>(data.data()) + put, n - put);
          if (some < 0) fail("write");
          put += static_cast<std::size_t>(some);
        }
        buffer.consume(n);
        bytes -= n;
        next();
      });
    };
    next();
    context.run();
    context.restart();
  }

  /// Sends back whatever comes until the peer closes.
  void echo() {
    std::function<void()> next = [&] {
      stream.async_read(buffer, [&](error_code ec, std::size_t) {
        if (ec) return;
        stream.async_write(buffer.data(), [&](error_code write_error, std::size_t n) {
          if (write_error) return;
          buffer.consume(n);
          next();
        });
      });
    };
    next();
    context.run();
  }

  double ping_pong(std::size_t count) {
    std::vector<double> times;
    times.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      const auto began = Clock::now();
      // Waiting for both through the event loop, as a program that does more than one thing must.
      stream.async_write(asio::buffer(chunk.data(), kEcho), [&](error_code ec, std::size_t) {
        if (ec) throw boost::system::system_error(ec, "write");
        stream.async_read(buffer, [](error_code read_error, std::size_t) {
          if (read_error) throw boost::system::system_error(read_error, "read");
        });
      });
      context.run();
      context.restart();
      buffer.clear();
      times.push_back(micros_since(began));
    }
    return median(times);
  }
};

/// Forks a server that accepts one connection and does `serve`; runs `client` connected to it, and returns what that returns.
double with_server(const std::function<void(Peer&)>& serve, const std::function<double(Peer&)>& client) {
  char folder[] = "/tmp/cwsandbox-bench-XXXXXX";
  if (mkdtemp(folder) == nullptr) fail("mkdtemp");
  const std::string path = std::string(folder) + "/socket";
  asio::io_context setup;
  unix_socket::acceptor acceptor(setup, unix_socket::endpoint(path));

  const pid_t server = fork();
  if (server < 0) fail("fork");
  if (server == 0) {
    try {
      Peer peer;
      // The acceptor's loop was made before the fork and is not used after it: only its descriptor is.
      const int fd = accept(acceptor.native_handle(), nullptr, nullptr);
      if (fd < 0) fail("accept");
      peer.stream.next_layer().assign(unix_socket(), fd);
      peer.tune();
      peer.stream.accept();
      serve(peer);
      _exit(0);
    } catch (const std::exception& e) {
      std::fprintf(stderr, "bench-baseline, server: %s\n", e.what());
      _exit(1);
    }
  }
  double result = 0;
  try {
    Peer peer;
    peer.stream.next_layer().connect(unix_socket::endpoint(path));
    peer.tune();
    peer.stream.handshake("localhost", "/");
    result = client(peer);
    error_code ignored;  // the server leaves when it is done
    peer.stream.close(websocket::close_code::normal, ignored);
  } catch (...) {
    kill(server, SIGKILL);
    waitpid(server, nullptr, 0);
    unlink(path.c_str());
    rmdir(folder);
    throw;
  }
  int status = 0;
  waitpid(server, &status, 0);
  unlink(path.c_str());
  rmdir(folder);
  if (status != 0) throw std::runtime_error("the server failed");
  return result;
}

double megabytes_per_second(std::uint64_t bytes, Clock::time_point began) {
  return static_cast<double>(bytes) / 1e6 / seconds_since(began);
}

// As large as those of the gateway's busy processes.
void enlarge(const Pipe& pipe) {
  if (fcntl(pipe.ends[0], F_SETPIPE_SZ, 256 * 1024) < 0) fail("F_SETPIPE_SZ");
}

void serve_head(Peer& peer, std::uint64_t bytes) {
  Pipe pipe;
  enlarge(pipe);
  const pid_t head = start({"head", "-c", std::to_string(bytes), "/dev/zero"}, -1, pipe.ends[1]);
  pipe.drop(1);
  peer.send_all(bytes, pipe.ends[0]);
  must_succeed(head);
}

void serve_cat(Peer& peer, std::uint64_t bytes) {
  Pipe pipe;
  enlarge(pipe);
  const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
  const pid_t cat = start({"cat"}, pipe.ends[0], null);
  close(null);
  pipe.drop(0);
  peer.receive_all(bytes, pipe.ends[1]);
  pipe.drop(1);
  must_succeed(cat);
}

double ws_down(std::uint64_t bytes, bool from_head) {
  return with_server([&](Peer& peer) { from_head ? serve_head(peer, bytes) : peer.send_all(bytes); },
                     [&](Peer& peer) {
                       const auto began = Clock::now();
                       peer.receive_all(bytes);
                       return megabytes_per_second(bytes, began);
                     });
}

/// What no reader can beat: the kernel drops the pipe's pages as they are, none is copied out.
double head_alone(std::uint64_t bytes) {
  Pipe pipe;
  enlarge(pipe);
  const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (null < 0) fail("/dev/null");
  const auto began = Clock::now();
  const pid_t head = start({"head", "-c", std::to_string(bytes), "/dev/zero"}, -1, pipe.ends[1]);
  pipe.drop(1);
  for (std::uint64_t dropped = 0; dropped < bytes;) {
    const ssize_t n = splice(pipe.ends[0], nullptr, null, nullptr, 1024 * 1024, 0);
    if (n <= 0) fail("splice");
    dropped += static_cast<std::uint64_t>(n);
    // `head` writes 8 KiB at a time: who takes each at once wakes up for each. This is how long the gateway lets the pipe fill.
    if (dropped < bytes) usleep(50);
  }
  const double rate = megabytes_per_second(bytes, began);
  close(null);
  must_succeed(head);
  return rate;
}

double ws_up(std::uint64_t bytes, bool into_cat) {
  return with_server([&](Peer& peer) { into_cat ? serve_cat(peer, bytes) : peer.receive_all(bytes); },
                     [&](Peer& peer) {
                       const auto began = Clock::now();
                       peer.send_all(bytes);
                       return megabytes_per_second(bytes, began);
                     });
}

double echo_ws(std::size_t count) {
  return with_server([](Peer& peer) { peer.echo(); }, [&](Peer& peer) { return peer.ping_pong(count); });
}

std::vector<double> command_times(std::size_t count, const Words& command) {
  std::vector<double> times;
  for (std::size_t i = 0; i < count; ++i) {
    const auto began = Clock::now();
    must_succeed(start(command));
    times.push_back(micros_since(began));
  }
  return times;
}

double command_rate(std::size_t count, std::size_t in_flight, const Words& command) {
  const auto began = Clock::now();
  std::size_t started = 0;
  std::size_t ended = 0;
  while (ended < count) {
    for (; started < count && started - ended < in_flight; ++started) start(command);
    if (waitpid(-1, nullptr, 0) > 0) ++ended;
  }
  return static_cast<double>(count) / seconds_since(began);
}

double command_out(std::uint64_t bytes, const Words& command) {
  Pipe out;
  const auto began = Clock::now();
  const pid_t pid = start(command, -1, out.ends[1]);
  out.drop(1);
  std::vector<char> buffer(kMessage);
  std::uint64_t got = 0;
  for (;;) {
    const ssize_t n = read(out.ends[0], buffer.data(), buffer.size());
    if (n < 0) fail("read");
    if (n == 0) break;
    got += static_cast<std::uint64_t>(n);
  }
  const double rate = megabytes_per_second(bytes, began);
  must_succeed(pid);
  if (got != bytes) throw std::runtime_error("the command wrote " + std::to_string(got) + " bytes");
  return rate;
}

double command_in(std::uint64_t bytes, std::size_t chunk, const Words& command) {
  Pipe in;
  const auto began = Clock::now();
  const pid_t pid = start(command, in.ends[0], -1);
  in.drop(0);
  const std::vector<char> buffer(chunk, 'x');
  for (std::uint64_t left = bytes; left > 0;) {
    const ssize_t n = write(in.ends[1], buffer.data(), left < chunk ? static_cast<std::size_t>(left) : chunk);
    if (n < 0) fail("write");
    left -= static_cast<std::uint64_t>(n);
  }
  in.drop(1);
  must_succeed(pid);
  return megabytes_per_second(bytes, began);
}

double command_echo(std::size_t count, const Words& command) {
  Pipe to;
  Pipe from;
  const pid_t pid = start(command, to.ends[0], from.ends[1]);
  to.drop(0);
  from.drop(1);
  std::vector<double> times;
  times.reserve(count);
  char bytes[kEcho] = {};
  // The first goes uncounted: it waits until the command runs.
  for (std::size_t i = 0; i <= count; ++i) {
    const auto began = Clock::now();
    if (write(to.ends[1], bytes, sizeof bytes) != static_cast<ssize_t>(sizeof bytes)) fail("write");
    for (std::size_t got = 0; got < sizeof bytes;) {
      const ssize_t n = read(from.ends[0], bytes, sizeof bytes - got);
      if (n <= 0) fail("read");
      got += static_cast<std::size_t>(n);
    }
    if (i > 0) times.push_back(micros_since(began));
  }
  to.drop(1);
  from.drop(0);
  must_succeed(pid);
  return median(times);
}

const Words kTrue = {"/bin/true"};
const Words kBareSandbox = {"bwrap", "--unshare-all", "--ro-bind", "/",       "/",    "--proc",
                            "/proc", "--dev",         "/dev",      "--tmpfs", "/tmp", "/bin/true"};

std::vector<double> run(const Words& arguments) {
  const auto number = [&](std::size_t i) { return std::stoull(arguments.at(i)); };
  const auto command = [&](std::size_t from) {
    return Words(arguments.begin() + static_cast<std::ptrdiff_t>(from), arguments.end());
  };
  const auto one = [](double value) { return std::vector<double>(1, value); };
  const std::string& what = arguments.at(0);
  if (what == "ws-down") return one(ws_down(number(1), false));
  if (what == "ws-up") return one(ws_up(number(1), false));
  if (what == "head-alone") return one(head_alone(number(1)));
  if (what == "ws-down-head") return one(ws_down(number(1), true));
  if (what == "ws-up-cat") return one(ws_up(number(1), true));
  if (what == "spawn") return one(median(command_times(number(1), kTrue)));
  if (what == "bwrap") return one(median(command_times(number(1), kBareSandbox)));
  if (what == "spawn-rate") return one(command_rate(number(1), number(2), kTrue));
  if (what == "echo-ws") return one(echo_ws(number(1)));
  if (what == "echo-pipe") return one(command_echo(number(1), {"cat"}));
  if (what == "command") {
    const auto times = command_times(number(1), command(2));
    return {median(times), percentile(times, 0.99)};
  }
  if (what == "command-rate") return one(command_rate(number(1), number(2), command(3)));
  if (what == "command-out") return one(command_out(number(1), command(2)));
  if (what == "command-in") return one(command_in(number(1), number(2), command(3)));
  if (what == "command-echo") return one(command_echo(number(1), command(2)));
  throw std::invalid_argument("unknown baseline: " + what);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    for (const double number : run(Words(argv + 1, argv + argc))) std::printf("%.6g\n", number);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench-baseline: %s\n", e.what());
    return 1;
  }
}
