// What the machine can do without us: the bare counterparts of the figures in figures.cpp, each as plain and as well tuned as it
// can be.
//
//   bench-baseline ws-down BYTES        Beast WebSocket over a Unix socket, server to client, 64 KiB binary messages: MB/s
//   bench-baseline ws-up BYTES          the same, client to server (masked): MB/s
//   bench-baseline spawn N              posix_spawn and waitpid of /bin/true, one after the other: median in µs
//   bench-baseline spawn-rate N FLIGHT  the same with FLIGHT children at once: per second
//   bench-baseline echo-ws N            64 bytes to a WebSocket server over a Unix socket and back: median in µs
//   bench-baseline echo-pipe N          64 bytes through cat and back: median in µs
//
// Prints one number. The WebSocket server is a process of its own, as a gateway is.
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
using cwsandbox::bench::seconds_since;

constexpr std::size_t kMessage = 64 * 1024;
constexpr std::size_t kEcho = 64;

[[noreturn]] void fail(const std::string& what) { throw std::system_error(errno, std::generic_category(), what); }

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

  /// Sends `bytes` in messages of 64 KiB, then waits for the peer's word (any message) that it has them.
  void send_all(std::uint64_t bytes) {
    std::function<void()> next = [&] {
      if (bytes == 0) {
        stream.async_read(buffer, [](error_code ec, std::size_t) {
          if (ec) throw boost::system::system_error(ec, "waiting for the peer");
        });
        return;
      }
      const std::size_t n = bytes < kMessage ? static_cast<std::size_t>(bytes) : kMessage;
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

  /// Reads messages until `bytes` have come, then says so.
  void receive_all(std::uint64_t bytes) {
    std::function<void()> next = [&] {
      if (bytes == 0) {
        stream.async_write(asio::buffer(chunk.data(), 1), [](error_code ec, std::size_t) {
          if (ec) throw boost::system::system_error(ec, "answering");
        });
        return;
      }
      stream.async_read(buffer, [&](error_code ec, std::size_t n) {
        if (ec) throw boost::system::system_error(ec, "read");
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

double ws_down(std::uint64_t bytes) {
  return with_server([&](Peer& peer) { peer.send_all(bytes); },
                     [&](Peer& peer) {
                       const auto began = Clock::now();
                       peer.receive_all(bytes);
                       return megabytes_per_second(bytes, began);
                     });
}

double ws_up(std::uint64_t bytes) {
  return with_server([&](Peer& peer) { peer.receive_all(bytes); },
                     [&](Peer& peer) {
                       const auto began = Clock::now();
                       peer.send_all(bytes);
                       return megabytes_per_second(bytes, began);
                     });
}

double echo_ws(std::size_t count) {
  return with_server([](Peer& peer) { peer.echo(); }, [&](Peer& peer) { return peer.ping_pong(count); });
}

pid_t spawn_true() {
  char program[] = "/bin/true";
  char* arguments[] = {program, nullptr};
  pid_t pid = 0;
  if (const int error = posix_spawn(&pid, program, nullptr, nullptr, arguments, environ); error != 0) {
    errno = error;
    fail("posix_spawn");
  }
  return pid;
}

double spawn(std::size_t count) {
  std::vector<double> times;
  times.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    const auto began = Clock::now();
    waitpid(spawn_true(), nullptr, 0);
    times.push_back(micros_since(began));
  }
  return median(times);
}

double spawn_rate(std::size_t count, std::size_t in_flight) {
  const auto began = Clock::now();
  std::size_t started = 0;
  std::size_t ended = 0;
  while (ended < count) {
    for (; started < count && started - ended < in_flight; ++started) spawn_true();
    if (waitpid(-1, nullptr, 0) > 0) ++ended;
  }
  return static_cast<double>(count) / seconds_since(began);
}

double echo_pipe(std::size_t count) {
  int to[2];
  int from[2];
  if (pipe2(to, O_CLOEXEC) != 0 || pipe2(from, O_CLOEXEC) != 0) fail("pipe2");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, to[0], 0);
  posix_spawn_file_actions_adddup2(&actions, from[1], 1);
  char program[] = "/bin/cat";
  char* arguments[] = {program, nullptr};
  pid_t cat = 0;
  if (posix_spawn(&cat, program, &actions, nullptr, arguments, environ) != 0) fail("posix_spawn");
  posix_spawn_file_actions_destroy(&actions);
  close(to[0]);
  close(from[1]);

  std::vector<double> times;
  times.reserve(count);
  char bytes[kEcho] = {};
  for (std::size_t i = 0; i < count; ++i) {
    const auto began = Clock::now();
    if (write(to[1], bytes, sizeof bytes) != static_cast<ssize_t>(sizeof bytes)) fail("write");
    for (std::size_t got = 0; got < sizeof bytes;) {
      const ssize_t n = read(from[0], bytes, sizeof bytes - got);
      if (n <= 0) fail("read");
      got += static_cast<std::size_t>(n);
    }
    times.push_back(micros_since(began));
  }
  close(to[1]);
  close(from[0]);
  waitpid(cat, nullptr, 0);
  return median(times);
}

double run(const std::vector<std::string>& arguments) {
  const auto number = [&](std::size_t i) { return std::stoull(arguments.at(i)); };
  const std::string& what = arguments.at(0);
  if (what == "ws-down") return ws_down(number(1));
  if (what == "ws-up") return ws_up(number(1));
  if (what == "spawn") return spawn(number(1));
  if (what == "spawn-rate") return spawn_rate(number(1), number(2));
  if (what == "echo-ws") return echo_ws(number(1));
  if (what == "echo-pipe") return echo_pipe(number(1));
  throw std::invalid_argument("unknown baseline: " + what);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::printf("%.6g\n", run(std::vector<std::string>(argv + 1, argv + argc)));
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench-baseline: %s\n", e.what());
    return 1;
  }
}
