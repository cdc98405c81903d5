// Connections that break at every place and in every way, hosts that stop, networks that lose: the caller sees nothing but time.
#include "resume_support.hpp"

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <thread>

#include <fcntl.h>
#include <net/if.h>
#include <openssl/evp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>

using namespace support;
using namespace cwsandbox;

namespace {

constexpr std::size_t kMiB = 1024 * 1024;

/// Bytes that differ everywhere, made again by whoever checks them: quick, since there are gigabytes of them.
class Pattern {
 public:
  std::string next(std::size_t size) {
    std::string bytes(size, '\0');
    for (std::size_t at = 0; at < size; at += sizeof state_) {
      state_ = state_ * 6364136223846793005U + 1442695040888963407U;
      std::memcpy(bytes.data() + at, &state_, std::min(sizeof state_, size - at));
    }
    return bytes;
  }

 private:
  std::uint64_t state_ = 0x9e3779b97f4a7c15U;
};

class Sha256 {
 public:
  Sha256() { EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr); }
  void add(std::string_view bytes) { EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()); }
  /// Once.
  std::array<unsigned char, 32> digest() {
    std::array<unsigned char, 32> out{};
    EVP_DigestFinal_ex(context_.get(), out.data(), nullptr);
    return out;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_{EVP_MD_CTX_new(), &EVP_MD_CTX_free};
};

/// Sends a pattern through `cat` and hashes both ways.
struct Transfer {
  explicit Transfer(const Sandbox& sandbox, std::size_t size, const std::function<void(std::size_t)>& at = {}) {
    const auto process = sandbox.exec({"cat"}, ExecOptions().with_stdin().with_capture(Capture::none()));
    Sha256 sent, received;
    std::thread writer([&] {
      try {
        Pattern pattern;
        for (std::size_t done = 0; done < size; done += kChunk) {
          auto bytes = pattern.next(std::min(kChunk, size - done));
          sent.add(bytes);
          process.std_in()->write(std::move(bytes)).result();
          if (at) at(done + kChunk);
        }
        process.std_in()->close().result();
      } catch (const std::exception& error) {  // the reader meets it as well
        failure = error.what();
        process.cancel();
      }
    });
    try {
      while (const auto bytes = process.std_out().next().result()) received.add(*bytes);
      produced = process.result(60s).std_out.received();
      returncode = process.result(60s).returncode;
    } catch (const std::exception& error) {
      failure += std::string(" / ") + error.what();
    }
    writer.join();
    same = sent.digest() == received.digest();
  }
  static constexpr std::size_t kChunk = 64 * 1024;
  std::string failure;
  bool same = false;
  std::uint64_t produced = 0;
  std::optional<int> returncode;
};

void check(const Transfer& transfer, std::size_t size) {
  CHECK(transfer.failure.empty());
  CHECK(transfer.same);
  CHECK(transfer.produced == size);
  CHECK(transfer.returncode == 0);
}

}  // namespace

// The whole size without sanitizers; with one, CWSANDBOX_TEST_PARTS makes size and cuts smaller alike.
TEST_CASE("five hundred cuts in 1 GiB both ways lose nothing and double nothing", "[P6]") {
  Stage stage(FaultProxy::Listen::tcp);
  const auto cuts = static_cast<int>(part_of(500, 20));
  const auto total = static_cast<std::size_t>(cuts) * (1024 * kMiB / 500) / Transfer::kChunk * Transfer::kChunk + Transfer::kChunk;
  // What a connection may carry before it is cut: between nothing at all and what takes a while. Twice as many cuts are planned as
  // are asked for, so that it is the transfer that ends them.
  std::mt19937_64 random(1);
  stage.proxy.set_planner([&random, cuts](int number) {
    FaultProxy::Plan plan;
    if (number >= 2 * cuts) return plan;
    const auto bytes = random() % (number % 8 == 0 ? 1000 : 3 * kMiB);
    (random() % 2 == 0 ? plan.bytes_to_server : plan.bytes_to_client) = bytes;
    plan.reset = random() % 2 == 0;
    return plan;
  });
  check(Transfer(stage.through, total), total);
  CHECK(stage.proxy.cuts() >= cuts);
}

TEST_CASE("cut, reset, truncated, delayed and stalled in turn", "[P6]") {
  const auto listen = GENERATE(FaultProxy::Listen::unix_socket, FaultProxy::Listen::tcp);
  Stage stage(listen);
  const std::size_t total = part_of(48, 6) * kMiB;
  std::mt19937_64 random(2);
  stage.proxy.set_planner([&random](int number) {
    FaultProxy::Plan plan;
    (random() % 2 == 0 ? plan.bytes_to_server : plan.bytes_to_client) = random() % (600 * 1000);
    plan.reset = number % 4 == 1;
    plan.truncate = number % 4 == 2;
    if (number % 4 == 3) plan.delay = std::chrono::milliseconds(1 + random() % 4);
    return plan;
  });
  int stalls = 0;
  const Transfer transfer(stage.through, total, [&](std::size_t done) {
    if (done % (4 * kMiB) != 0) return;
    stage.proxy.stall(true);
    std::this_thread::sleep_for(2ms);  // what else would a stall be
    stage.proxy.stall(false);
    ++stalls;
  });
  check(transfer, total);
  CHECK(stage.proxy.cuts() >= static_cast<int>(total / kMiB));
  CHECK(stalls > 0);
}

namespace {

/// One kind of exec, to be cut everywhere. `run` checks all that the caller sees, and leaves a line in /tmp/runs for each run.
struct Shape {
  const char* name;
  bool runs;                     // there is a program
  std::uint64_t least_messages;  // that it takes at least, both directions together
  void (*run)(const Sandbox&);
};

void run_plain(const Sandbox& sandbox) {
  const auto process = sandbox.exec(shell("echo run >> /tmp/runs; echo out; echo err >&2; exit 3"));
  const auto& result = process.result(60s);
  CHECK(result.outcome == Outcome::exited);
  CHECK(result.returncode == 3);
  CHECK(result.std_out == "out\n");
  CHECK(result.std_err == "err\n");
}
void run_stdin(const Sandbox& sandbox) {
  const auto process = sandbox.exec(shell("echo run >> /tmp/runs; while read -r line; do echo \"got $line\"; done; exit 4"),
                                    ExecOptions().with_stdin());
  for (const auto* word : {"one", "two"}) {
    process.std_in()->writeline(word).result();
    CHECK(read_until(process.std_out(), std::string(word) + "\n") == "got " + std::string(word) + "\n");
    process.std_in()->flush().result(60s);
  }
  process.std_in()->close().result();
  const auto& result = process.result(60s);
  CHECK(result.returncode == 4);
  CHECK(result.std_out == "got one\ngot two\n");
}
void run_signal(const Sandbox& sandbox) {
  const auto process =
      sandbox.exec(shell("trap 'echo signal; exit 5' USR1; echo run >> /tmp/runs; echo ready; while :; do sleep 0.01; done"));
  CHECK(read_until(process.std_out(), "ready\n") == "ready\n");
  process.signal("USR1");
  const auto& result = process.result(60s);
  CHECK(result.returncode == 5);
  CHECK(result.std_out == "ready\nsignal\n");
}
void run_cancel(const Sandbox& sandbox) {
  const auto process = sandbox.exec(shell("echo run >> /tmp/runs; echo ready; exec sleep 1000"));
  CHECK(read_until(process.std_out(), "ready\n") == "ready\n");
  process.cancel();
  try {
    process.result(60s);
    FAIL("a result");
  } catch (const CancelledError& error) {
    REQUIRE(error.result() != nullptr);
    CHECK(error.result()->signal == SIGTERM);  // confirmed
    CHECK(error.result()->std_out == "ready\n");
  }
}
void run_failed(const Sandbox& sandbox) {
  const auto process = sandbox.exec({"no-such-program"});
  try {
    process.result(60s);
    FAIL("a result");
  } catch (const SandboxExecutionError& error) {
    CHECK(error.reason() == "CWSANDBOX_COMMAND_NOT_STARTED");
    CHECK(error.error_name() == "ENOENT");
  }
}
void run_terminal(const Sandbox& sandbox) {
  const auto session = sandbox.shell(ShellOptions().with_command(
      shell("echo run >> /tmp/runs; stty -echo -onlcr; echo ready; read -r line; stty size; echo \"got $line\"; exit 6")));
  static_cast<void>(read_until(session.output(), "ready\n"));
  session.resize(70, 20);
  session.input().write("word\n").result();
  CHECK(read_until(session.output(), "got word\n") == "20 70\ngot word\n");
  const auto& result = session.result(60s);
  CHECK(result.outcome == Outcome::exited);
  CHECK(result.returncode == 6);
}

const Shape kShapes[] = {
    {"plain", true, 4, run_plain},      {"with stdin", true, 8, run_stdin},     {"with a signal", true, 6, run_signal},
    {"cancelled", true, 5, run_cancel}, {"failed start", false, 3, run_failed}, {"terminal", true, 7, run_terminal},
};

/// Runs a shape over a first connection with this plan. True: the cut that it asks for came.
bool run_with(const Stage& stage, const Shape& shape, const FaultProxy::Plan& plan, FaultProxy::Traffic* traffic = nullptr) {
  FaultProxy proxy(stage.daemon.socket());
  proxy.set_planner([&plan](int number) { return number == 0 ? plan : FaultProxy::Plan(); });
  const auto sandbox =
      Sandbox::from_id(Client(stage.daemon.options().with_base_url(proxy.url())), *stage.owner.sandbox_id()).result();
  shape.run(sandbox);
  if (traffic) {
    // The last message, the release, may still be under way.
    wait_until([&] { return proxy.traffic(0).messages_to_server + proxy.traffic(0).messages_to_client >= shape.least_messages; });
    *traffic = proxy.traffic(0);
  }
  return proxy.cuts() == 1;
}

}  // namespace

TEST_CASE("a cut before and behind each message of a short exec", "[P6][P7]") {
  const auto& shape = GENERATE(from_range(std::begin(kShapes), std::end(kShapes)));
  CAPTURE(shape.name);
  Stage stage;
  FaultProxy::Traffic whole;
  CHECK_FALSE(run_with(stage, shape, FaultProxy::Plan(), &whole));
  const std::uint64_t messages = whole.messages_to_server + whole.messages_to_client;
  CAPTURE(messages, whole.messages_to_server, whole.messages_to_client);
  std::uint64_t runs = 1;
  // Goes on until nothing is left to be cut; messages are joined differently each time, so that their number varies a little.
  const auto everywhere = [&](const char* what, std::uint64_t expected, const auto& plan_for) {
    CAPTURE(what);
    std::uint64_t at = 0;
    for (int missed = 0; missed < 2 && at < 60; ++at) {
      CAPTURE(at);
      missed = run_with(stage, shape, plan_for(at)) ? 0 : missed + 1;
      ++runs;
    }
    CHECK(at + 2 >= expected);
    CHECK(at < 60);
  };
  everywhere("behind each, of both directions", messages, [](std::uint64_t at) { return after_messages(at); });
  everywhere("before each to the server", whole.messages_to_server, [](std::uint64_t at) {
    FaultProxy::Plan plan;
    plan.messages_to_server = at;
    plan.late = true;
    return plan;
  });
  everywhere("before each to the client", whole.messages_to_client, [](std::uint64_t at) {
    FaultProxy::Plan plan;
    plan.messages_to_client = at;
    plan.late = true;
    return plan;
  });
  // Each ran once, whatever was cut.
  if (shape.runs) CHECK(stage.owner.exec(shell("wc -l < /tmp/runs")).result().std_out == std::to_string(runs) + "\n");
}

TEST_CASE("a cut at every byte of a short exec", "[P6][P7]") {
  Stage stage;
  const auto& shape = kShapes[0];
  FaultProxy::Traffic whole;
  static_cast<void>(run_with(stage, shape, FaultProxy::Plan(), &whole));
  // A cut in a start that the server has not got whole costs a wait before the next attempt, so those are not all of them.
  const std::uint64_t step = 8 / part_of(8);
  std::uint64_t runs = 1;
  for (std::uint64_t at = whole.bytes_to_server % step; at < whole.bytes_to_server; at += at < 300 ? 60 : step) {
    FaultProxy::Plan plan;
    plan.bytes_to_server = at;
    static_cast<void>(run_with(stage, shape, plan));
    ++runs;
  }
  for (std::uint64_t at = 0; at < whole.bytes_to_client; at += step) {
    FaultProxy::Plan plan;
    plan.bytes_to_client = at;
    plan.truncate = at % 3 == 0;
    static_cast<void>(run_with(stage, shape, plan));
    ++runs;
  }
  CHECK(stage.owner.exec(shell("wc -l < /tmp/runs")).result().std_out == std::to_string(runs) + "\n");
}

namespace {

std::size_t count(const std::string& text, const std::string& word) {
  std::size_t n = 0;
  for (auto at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) ++n;
  return n;
}

/// An exec connection is logged when it is over.
std::size_t connections_over(const Daemon& daemon) { return count(daemon.log(), "GET /v1/exec 101"); }

/// A program with pipes, which can be stopped.
class Child {
 public:
  Child(const std::vector<std::string>& command, const std::vector<std::string>& env) {
    int in[2], out[2];
    if (::pipe2(in, O_CLOEXEC) != 0 || ::pipe2(out, O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
    std::vector<char*> arguments, variables;
    for (const auto& part : command) arguments.push_back(const_cast<char*>(part.c_str()));
    for (const auto& part : env) variables.push_back(const_cast<char*>(part.c_str()));
    arguments.push_back(nullptr);
    variables.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(in[0], 0);
      ::dup2(out[1], 1);
      ::execve(arguments[0], arguments.data(), variables.data());
      ::_exit(127);
    }
    ::close(in[0]);
    ::close(out[1]);
    in_ = in[1];
    out_ = out[0];
  }
  ~Child() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    close_in();
    ::close(out_);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  void signal(int number) const { ::kill(pid_, number); }
  void write(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t n = ::write(in_, bytes.data(), bytes.size());
      if (n <= 0) throw std::runtime_error("the child does not read");
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
  }
  void close_in() {
    if (in_ >= 0) ::close(std::exchange(in_, -1));
  }
  /// Up to `most` bytes, fewer at the end.
  std::string read(std::size_t most) const {
    std::string bytes(most, '\0');
    std::size_t done = 0;
    for (ssize_t n; done < most && (n = ::read(out_, bytes.data() + done, most - done)) > 0;) done += static_cast<std::size_t>(n);
    bytes.resize(done);
    return bytes;
  }
  int wait() {
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    return status;
  }

 private:
  pid_t pid_ = -1;
  int in_ = -1, out_ = -1;
};

}  // namespace

TEST_CASE("a client that is stopped longer than its connection lives goes on", "[P6]") {
  Stage stage(FaultProxy::Listen::unix_socket, {"--idle-timeout", "1"});
  Child client({environment("CWSANDBOX_CLI"), "exec", *stage.owner.sandbox_id(), "--", "cat"},
               {"CWSANDBOX_BASE_URL=" + stage.daemon.url(), "CWSANDBOX_API_KEY=" + stage.daemon.token(), "PATH=/usr/bin:/bin"});
  Pattern pattern;
  std::string sent, received;
  for (int round = 0; round < 2; ++round) {
    const auto first = pattern.next(100'000), second = pattern.next(200'000);
    client.write(first);
    received += client.read(first.size());
    const auto before = connections_over(stage.daemon);
    client.signal(SIGSTOP);
    client.write(second.substr(0, 50'000));  // waits in the pipe
    wait_until([&] { return connections_over(stage.daemon) > before; });
    client.signal(SIGCONT);
    std::thread rest([&] { client.write(std::string_view(second).substr(50'000)); });
    received += client.read(second.size());
    rest.join();
    sent += first + second;
  }
  client.close_in();
  received += client.read(kMiB);
  CHECK(received == sent);
  CHECK(client.wait() == 0);
}

TEST_CASE("a gateway that is stopped longer than its connections live goes on", "[P6]") {
  Stage stage;
  const Client client(stage.options().with_idle_timeout(1s));
  const auto sandbox = Sandbox::from_id(client, *stage.owner.sandbox_id()).result();
  const std::size_t total = part_of(32, 8) * kMiB;
  int stops = 0;
  const Transfer transfer(sandbox, total, [&](std::size_t done) {
    if (done % (total / 2) != 0 || done == total) return;
    const int before = stage.proxy.connections();
    ::kill(stage.daemon.pid(), SIGSTOP);
    wait_until([&] { return stage.proxy.connections() > before; });  // it has given the connection up and tries again
    ::kill(stage.daemon.pid(), SIGCONT);
    ++stops;
  });
  check(transfer, total);
  CHECK(stops == 1);
}

namespace {

/// Everything in a network namespace of its own, on this thread and those that it starts. Says why it could not be done.
std::string over_a_bad_network(std::string& how, std::unique_ptr<Transfer>& transfer, std::size_t total) {
  if (::unshare(CLONE_NEWNET) != 0) return std::string("no network namespace of one's own: ") + std::strerror(errno);
  const auto set_loopback = [](bool up) {
    const int fd = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ifreq request{};
    std::strcpy(request.ifr_name, "lo");
    ::ioctl(fd, SIOCGIFFLAGS, &request);
    const short flags = request.ifr_flags;
    request.ifr_mtu = 1500;  // many packets, as elsewhere
    ::ioctl(fd, SIOCSIFMTU, &request);
    request.ifr_flags = static_cast<short>(up ? flags | IFF_UP : flags & ~IFF_UP);
    const bool done = ::ioctl(fd, SIOCSIFFLAGS, &request) == 0;
    ::close(fd);
    return done;
  };
  if (!set_loopback(true)) return "the loopback device cannot be set up";
  const auto works = [](const std::vector<std::string>& command, const std::string& input = "") {
    try {
      return run_program(command, input).status == 0;
    } catch (const std::exception&) {  // there is no such program
      return false;
    }
  };
  if (works({"tc", "qdisc", "add", "dev", "lo", "root", "netem", "loss", "2%", "delay", "2ms", "2ms"})) {
    how = "tc netem: loss and delay";
  } else if (works({"nft", "-f", "-"},
                   "table inet bad { chain in { type filter hook input priority 0; numgen random mod 100 < 3 drop; } }\n")) {
    how = "nftables: loss; this kernel has no netem";
  } else {
    return "neither tc netem (iproute2, CONFIG_NET_SCH_NETEM) nor nftables to lose packets with";
  }
  Daemon daemon({"--listen", "tcp:127.0.0.1:0", "--idle-timeout", "2"});
  std::string port;
  wait_until([&] {
    const auto log = daemon.log();
    const std::string mark = "listening on tcp:127.0.0.1:";
    const auto at = log.find(mark);
    if (at == std::string::npos || log.find('\n', at) == std::string::npos) return false;
    port = log.substr(at + mark.size(), log.find('\n', at) - at - mark.size());
    return true;
  });
  // The default loop's thread is in the other network.
  boost::asio::io_context context;
  auto work = boost::asio::make_work_guard(context);
  std::thread loop([&] { context.run(); });
  {
    const Client client(
        daemon.options().with_base_url("http://127.0.0.1:" + port).with_executor(context.get_executor()).with_idle_timeout(1s));
    const auto sandbox = Sandbox::run(client);
    sandbox.wait().result(60s);
    transfer = std::make_unique<Transfer>(sandbox, total, [&](std::size_t done) {
      if (done != total / 2 / Transfer::kChunk * Transfer::kChunk) return;
      // Not a packet passes until the connection is given up on both sides.
      set_loopback(false);
      wait_until([&] { return connections_over(daemon) > 0; });
      set_loopback(true);
    });
    sandbox.stop().result(60s);
  }
  work.reset();
  loop.join();
  return "";
}

}  // namespace

TEST_CASE("a network that loses and delays packets, and is away for a while", "[P6]") {
  std::string skipped, how, failure;
  std::unique_ptr<Transfer> transfer;
  const std::size_t total = part_of(8, 2) * kMiB;
  std::thread([&] {
    try {
      skipped = over_a_bad_network(how, transfer, total);
    } catch (const std::exception& error) {
      failure = error.what();
    }
  }).join();
  CHECK(failure.empty());
  if (!skipped.empty()) {
    WARN("not tried: " << skipped);
    return;
  }
  CAPTURE(how);
  REQUIRE(transfer);
  check(*transfer, total);
}

namespace {

/// Sizes of the daemon's open files that have no name.
std::vector<std::uint64_t> nameless_files(const Daemon& daemon) {
  std::vector<std::uint64_t> sizes;
  const std::string directory = "/proc/" + std::to_string(daemon.pid()) + "/fd/";
  for (int fd = 0; fd < 256; ++fd) {
    const auto path = directory + std::to_string(fd);
    char target[256];
    const ssize_t n = ::readlink(path.c_str(), target, sizeof target);
    struct stat info{};
    if (n <= 0 || ::stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
    const std::string_view name(target, static_cast<std::size_t>(n));
    if (name.substr(0, 5) == "/tmp/" && name.find("(deleted)") != std::string_view::npos)
      sizes.push_back(static_cast<std::uint64_t>(info.st_size));
  }
  return sizes;
}

std::string repeated(std::string_view word, std::size_t size) {
  std::string text;
  while (text.size() < size) text += word.substr(0, size - text.size());
  return text;
}

// Nothing is written before its client has gone.
const std::string kWhenTold = "; while [ ! -e /tmp/go ]; do sleep 0.02; done; ";

}  // namespace

TEST_CASE("a process without a client goes on to its end, and whoever comes gets all of it", "[TS-14][P6]") {
  Stage stage;
  constexpr std::uint64_t much = 20'000'000;
  std::string id;
  {
    const auto process =
        stage.through.exec(shell("echo begun" + kWhenTold + "yes 0123456789abcdef | head -c " + std::to_string(much) +
                                 "; echo err >&2; yes error | head -c 3000000 >&2; touch /tmp/done; exit 7"));
    static_cast<void>(read_until(process.std_out(), "begun\n"));
    id = process.id();
    stage.proxy.refuse(true);
    stage.proxy.cut_all();
    process.detach();
  }
  stage.owner.write_file("/tmp/go", "").result();
  wait_until([&] { return stage.owner.exec({"test", "-e", "/tmp/done"}).wait() == 0; });
  CHECK(nameless_files(stage.daemon).size() == 2);
  const auto process = stage.elsewhere().attach(id, AttachOptions().with_from_held());
  const auto& result = process.result(60s);
  CHECK(result.returncode == 7);
  CHECK(result.std_out.produced() == much + 6);
  const std::string expected = "begun\n" + repeated("0123456789abcdef\n", much);
  CHECK(std::string_view(expected).substr(expected.size() - result.std_out.received()) == result.std_out.view());
  CHECK(expected.size() - result.std_out.received() <= 6);
  CHECK(result.std_err.received() == 3'000'004);
  CHECK(result.std_err.view().substr(0, 10) == "err\nerror\n");
  wait_until([&] { return nameless_files(stage.daemon).empty(); });
}

TEST_CASE("what is kept for a process without a client is bounded; then it waits, and loses nothing", "[TS-14][P6][P2]") {
  constexpr std::uint64_t bound = 1'000'000, much = 6'000'000;
  Stage stage(FaultProxy::Listen::unix_socket, {"--capture-size", std::to_string(bound)});
  const auto process = stage.through.exec(
      shell("echo begun" + kWhenTold + "yes 0123456789abcdef | head -c " + std::to_string(much) + "; touch /tmp/done"));
  static_cast<void>(read_until(process.std_out(), "begun\n"));
  stage.proxy.refuse(true);
  stage.proxy.cut_all();
  stage.owner.write_file("/tmp/go", "").result();
  wait_until([&] { return nameless_files(stage.daemon) == std::vector{bound}; });
  CHECK(stage.owner.exec({"test", "-e", "/tmp/done"}).wait() == 1);
  stage.proxy.refuse(false);
  const auto& result = process.result(60s);
  CHECK(result.std_out.received() == much + 6);
  CHECK(result.std_out.view() == "begun\n" + repeated("0123456789abcdef\n", much));
  CHECK(nameless_files(stage.daemon).empty());
}

TEST_CASE("each loss has the whole grace time, also for a process that says nothing", "[P6]") {
  Stage stage;
  const auto process = stage.through.exec({"cat"}, ExecOptions().with_stdin().with_resume_grace(3s));
  static_cast<void>(process.pid().result(60s));
  for (int cut = 0; cut < 5; ++cut) {
    const int before = stage.proxy.websockets();
    stage.proxy.cut_all();
    wait_until([&] { return process.done() || stage.proxy.websockets() > before; });
    REQUIRE_FALSE(process.done());
    std::this_thread::sleep_for(1100ms);  // more than the grace time in all, each connection of some use
  }
  process.std_in()->write("still there").result();
  process.std_in()->close().result();
  CHECK(process.result(60s).std_out == "still there");
}

TEST_CASE("a gateway that is away is asked again with growing pauses, not all the time", "[P6]") {
  Stage stage;
  const auto process = stage.through.exec(shell("exec sleep 1000"), ExecOptions().with_resume_grace(2s));
  static_cast<void>(process.pid().result(60s));
  const int before = stage.proxy.connections();
  stage.proxy.refuse(true);
  stage.proxy.cut_all();
  CHECK_THROWS_AS(process.result(60s), SandboxConnectionLostError);
  const int attempts = stage.proxy.connections() - before;
  CHECK(attempts >= 2);
  CHECK(attempts <= 21);  // the shortest pause is 100 ms
}
