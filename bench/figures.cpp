// The figures B1 to B6, B8 to B14, through the public API, against the gateway that the environment names
// (CWSANDBOX_BASE_URL, CWSANDBOX_API_KEY).
//
//   bench-figures stdout BYTES [CHUNK]      written in pieces of CHUNK by dd, without it by head: MB/s
//   bench-figures stdin BYTES [CHUNK]       written in pieces of CHUNK, 64 KiB without it: MB/s
//   bench-figures exec N                    median and 99th percentile in µs, from the call to the result
//   bench-figures echo N                    median in µs
//   bench-figures memory-none BYTES PID     growth of the peak in bytes while BYTES of stdout pass: this process, the gateway PID
//   bench-figures memory-all BYTES PID      the same with everything captured
//   bench-figures held N PID                growth in bytes with N processes held open: this process, the gateway PID
//   bench-figures rate N FLIGHT             /bin/true per second, FLIGHT at once
//   bench-figures file-write FILE PID       FILE into a sandbox: MB/s, and growth as above
//   bench-figures file-read FILE PID        FILE out of a sandbox, to FILE.copy: the same
//   bench-figures create N [PAUSE]          median in µs, from the call until the sandbox runs; so many milliseconds between two
//   bench-figures list N PID                with N sandboxes there: median in ms of processor time of the gateway for listing them
//   bench-figures create-many N             seconds until N that are asked for at once run
//   bench-figures bystander N               99th percentiles in µs: of N execs, of N/4 files of 1 MiB into a sandbox and back, of
//   N/10
//                                           creations; that nothing is lost meanwhile, of a process held open all the time neither
//   bench-figures logs N                    the main command prints N lines, 100,000 a second: lines missed, lines a second
//
// Prints numbers, nothing else. One thread runs everything here, as it would in an Asio application.
#include "statistics.hpp"

#include <cwsandbox/cwsandbox.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

namespace asio = boost::asio;
using namespace cwsandbox;
using bench::Clock;
using bench::median;
using bench::micros_since;
using bench::percentile;
using bench::seconds_since;
using Numbers = std::vector<double>;

constexpr std::size_t kChunk = 64 * 1024;

/// A line of /proc/PID/status, in bytes.
double status_of(const std::string& pid, const std::string& name) {
  std::ifstream file("/proc/" + pid + "/status");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(name + ":")) return std::stod(line.substr(name.size() + 1)) * 1024;
  throw std::runtime_error("/proc/" + pid + "/status has no " + name);
}

/// How much a process's memory grows from here on.
class Growth {
 public:
  explicit Growth(std::string pid) : pid_(std::move(pid)) {
    std::ofstream("/proc/" + pid_ + "/clear_refs") << "5";  // the peak starts anew from what is resident now
    before_ = status_of(pid_, "VmRSS");
  }
  [[nodiscard]] double peak() const { return status_of(pid_, "VmHWM") - before_; }
  [[nodiscard]] double now() const { return status_of(pid_, "VmRSS") - before_; }

 private:
  std::string pid_;
  double before_ = 0;
};

double megabytes_per_second(std::uint64_t bytes, Clock::time_point began) {
  return static_cast<double>(bytes) / 1e6 / seconds_since(began);
}

void must_be(bool right, const char* what) {
  if (!right) throw std::runtime_error(what);
}

asio::awaitable<void> run_true(const Sandbox& sandbox) {
  auto result = co_await sandbox.exec(argv("/bin/true"));
  must_be(result.ok(), "/bin/true failed");
}

/// Everything that only the first command pays for: the sandbox's start, the connection, caches.
asio::awaitable<Sandbox> warm_sandbox(Client client) {
  auto sandbox = Sandbox::run(client);
  for (int i = 0; i < 20; ++i) co_await run_true(sandbox);
  co_return sandbox;
}

asio::awaitable<void> read_output(const Sandbox& sandbox, std::uint64_t bytes, Capture capture, std::size_t piece = 0) {
  ExecOptions options;
  options.with_capture(capture);
  auto command = argv("head", "-c", std::to_string(bytes), "/dev/zero");
  if (piece > 0)
    command = argv("dd", "if=/dev/zero", "bs=" + std::to_string(piece), "count=" + std::to_string(bytes / piece), "status=none");
  auto process = sandbox.exec(command, options);
  if (capture.kind() == Capture::Kind::none) {
    std::uint64_t got = 0;
    while (auto chunk = co_await process.std_out().next()) got += chunk->size();
    must_be(got == bytes, "bytes are missing");
  }
  auto result = co_await process;
  must_be(result.ok() && result.std_out.received() == bytes, "head failed");
}

asio::awaitable<Numbers> std_out(Client client, std::uint64_t bytes, std::size_t chunk) {
  auto sandbox = co_await warm_sandbox(client);
  const auto began = Clock::now();
  co_await read_output(sandbox, bytes, Capture::none(), chunk);
  co_return Numbers(1, megabytes_per_second(bytes, began));
}

asio::awaitable<Numbers> std_in(Client client, std::uint64_t bytes, std::size_t size) {
  auto sandbox = co_await warm_sandbox(client);
  const std::string chunk(size, 'x');
  ExecOptions options;
  options.with_stdin();
  const auto began = Clock::now();
  auto process = sandbox.exec(argv("sh", "-c", "cat >/dev/null"), options);
  for (std::uint64_t left = bytes; left > 0;) {
    const auto n = left < chunk.size() ? static_cast<std::size_t>(left) : chunk.size();
    co_await process.std_in()->write(std::string_view(chunk).substr(0, n));
    left -= n;
  }
  co_await process.std_in()->close();
  auto result = co_await process;
  must_be(result.ok(), "cat failed");
  co_return Numbers(1, megabytes_per_second(bytes, began));
}

asio::awaitable<Numbers> exec(Client client, std::size_t count) {
  auto sandbox = co_await warm_sandbox(client);
  Numbers times;
  for (std::size_t i = 0; i < count; ++i) {
    const auto began = Clock::now();
    co_await run_true(sandbox);
    times.push_back(micros_since(began));
  }
  Numbers figures;
  figures.push_back(median(times));
  figures.push_back(percentile(times, 0.99));
  co_return figures;
}

asio::awaitable<Numbers> echo(Client client, std::size_t count) {
  auto sandbox = co_await warm_sandbox(client);
  const std::string bytes(64, 'x');
  ExecOptions options;
  options.with_stdin().with_capture(Capture::none());
  auto cat = sandbox.exec(argv("cat"), options);
  Numbers times;
  for (std::size_t i = 0; i < count; ++i) {
    const auto began = Clock::now();
    co_await cat.std_in()->write(std::string_view(bytes));
    for (std::size_t got = 0; got < bytes.size();) {
      auto chunk = co_await cat.std_out().next();
      must_be(chunk.has_value(), "cat ended early");
      got += chunk->size();
    }
    times.push_back(micros_since(began));
  }
  co_await cat.std_in()->close();
  auto result = co_await cat;
  must_be(result.ok(), "cat failed");
  co_return Numbers(1, median(times));
}

asio::awaitable<Numbers> memory(Client client, std::uint64_t bytes, std::string gateway_pid, Capture capture) {
  auto sandbox = co_await warm_sandbox(client);
  const Growth here("self");
  const Growth gateway(gateway_pid);
  co_await read_output(sandbox, bytes, capture);
  co_return Numbers({here.peak(), gateway.peak()});
}

asio::awaitable<Numbers> held(Client client, std::size_t count, std::string gateway_pid) {
  auto sandbox = co_await warm_sandbox(client);
  const Growth here("self");
  const Growth gateway(gateway_pid);
  ExecOptions options;
  options.with_stdin();
  std::vector<Process> processes;
  for (std::size_t i = 0; i < count; ++i) processes.push_back(sandbox.exec(argv("cat"), options));
  for (auto& process : processes) (void)co_await process.pid();  // until it runs
  Numbers grown;
  grown.push_back(here.now());
  grown.push_back(gateway.now());
  for (auto& process : processes) co_await process.std_in()->close();
  for (auto& process : processes) {
    auto result = co_await process;
    must_be(result.ok(), "cat failed");
  }
  co_return grown;
}

asio::awaitable<void> run_some(const Sandbox& sandbox, std::size_t& left) {
  while (left > 0) {
    --left;  // all on one thread
    co_await run_true(sandbox);
  }
}

asio::awaitable<Numbers> rate(Client client, std::size_t count, std::size_t in_flight) {
  auto sandbox = co_await warm_sandbox(client);
  // Opens the connections: what is measured is the work, not how fast sockets open.
  std::vector<Process> warm;
  for (std::size_t i = 0; i < in_flight; ++i) warm.push_back(sandbox.exec(argv("/bin/true")));
  for (auto& process : warm) (void)co_await process;

  const auto executor = co_await asio::this_coro::executor;
  std::size_t left = count;
  std::size_t running = in_flight;
  task_source<void> all_done;
  std::exception_ptr failed;
  const auto began = Clock::now();
  for (std::size_t i = 0; i < in_flight; ++i)
    asio::co_spawn(executor, run_some(sandbox, left), [&](std::exception_ptr error) {
      if (error) failed = error;
      if (--running == 0) all_done.set_value();
    });
  co_await all_done.get_task();
  if (failed) std::rethrow_exception(failed);
  co_return Numbers(1, static_cast<double>(count) / seconds_since(began));
}

asio::awaitable<Numbers> copy_file(Client client, std::string local, bool into_sandbox, std::string gateway_pid) {
  auto sandbox = co_await warm_sandbox(client);
  const std::string remote = "/workspace/file";
  const auto bytes = std::filesystem::file_size(local);
  if (!into_sandbox) co_await sandbox.upload_file(local, remote);
  const Growth here("self");
  const Growth gateway(gateway_pid);
  const auto began = Clock::now();
  if (into_sandbox)
    co_await sandbox.upload_file(local, remote);
  else
    co_await sandbox.download_file(remote, local + ".copy");
  const double rate = megabytes_per_second(bytes, began);
  Numbers figures;
  figures.push_back(rate);
  figures.push_back(here.peak());
  figures.push_back(gateway.peak());
  auto info = co_await sandbox.stat_file(remote);
  must_be(info.size == bytes, "the file in the sandbox has another size");
  must_be(into_sandbox || std::filesystem::file_size(local + ".copy") == bytes, "the copy has another size");
  co_return figures;
}

asio::awaitable<Numbers> create(Client client, std::size_t count, std::chrono::milliseconds pause) {
  Numbers times;
  asio::steady_timer rest(co_await asio::this_coro::executor);
  for (std::size_t i = 0; i < count; ++i) {
    rest.expires_after(pause);
    co_await rest.async_wait(asio::use_awaitable);
    const auto began = Clock::now();
    auto sandbox = Sandbox::run(client);
    co_await sandbox.wait();
    times.push_back(micros_since(began));
    co_await sandbox.stop();
  }
  co_return Numbers(1, median(times));
}

asio::awaitable<Numbers> create_many(Client client, std::size_t count) {
  const auto began = Clock::now();
  std::vector<Sandbox> sandboxes;
  for (std::size_t i = 0; i < count; ++i) sandboxes.push_back(Sandbox::run(client));
  for (Sandbox& sandbox : sandboxes) co_await sandbox.wait();
  Numbers figures(1, seconds_since(began));
  for (Sandbox& sandbox : sandboxes) co_await sandbox.stop();
  co_return figures;
}

asio::awaitable<Numbers> bystander(Client client, std::size_t count) {
  auto sandbox = co_await warm_sandbox(client);
  ExecOptions options;
  options.with_stdin();
  auto held = sandbox.exec(argv("cat"), options);
  co_await held.std_in()->write(std::string_view("before "));
  Numbers figures;
  const auto add = [&figures](Numbers& times) { figures.push_back(percentile(times, 0.99)); };
  Numbers times;
  for (std::size_t i = 0; i < count; ++i) {
    const auto began = Clock::now();
    co_await run_true(sandbox);
    times.push_back(micros_since(began));
  }
  add(times);
  times.clear();
  std::string content(1 << 20, 'x');
  for (std::size_t i = 0; i < std::max<std::size_t>(1, count / 4); ++i) {
    content.replace(0, 8, std::to_string(10000000 + i));
    const auto began = Clock::now();
    co_await sandbox.write_file("/workspace/file", content);
    const auto back = co_await sandbox.read_file("/workspace/file");
    times.push_back(micros_since(began));
    must_be(back == content, "a file came back as another");
  }
  add(times);
  times.clear();
  for (std::size_t i = 0; i < std::max<std::size_t>(1, count / 10); ++i) {
    const auto began = Clock::now();
    auto another = Sandbox::run(client);
    co_await another.wait();
    times.push_back(micros_since(began));
    co_await another.stop();
  }
  add(times);
  co_await held.std_in()->write(std::string_view("after"));
  co_await held.std_in()->close();
  auto result = co_await held;
  must_be(result.ok() && result.std_out.str() == "before after", "a process that was held open lost something");
  co_await sandbox.stop();
  co_return figures;
}

/// Processor time of all threads of a process, in milliseconds. /proc/PID/stat has it in hundredths of a second only.
double processor_ms(const std::string& pid) {
  double ns = 0;
  for (const auto& thread : std::filesystem::directory_iterator("/proc/" + pid + "/task")) {
    std::ifstream file(thread.path() / "schedstat");
    double mine = 0;
    must_be(static_cast<bool>(file >> mine), "no schedstat in /proc");
    ns += mine;
  }
  return ns / 1e6;
}

asio::awaitable<Numbers> list(Client client, std::size_t count, std::string gateway_pid) {
  std::vector<Sandbox> sandboxes;
  for (std::size_t i = 0; i < count; ++i) sandboxes.push_back(Sandbox::run(client));
  for (auto& sandbox : sandboxes) co_await sandbox.wait();
  Numbers times;
  for (int i = 0; i < 11; ++i) {
    const double before = processor_ms(gateway_pid);
    auto listed = co_await Sandbox::list(client);
    times.push_back(processor_ms(gateway_pid) - before);
    must_be(listed.size() == count, "not all sandboxes are listed");
  }
  std::vector<task<void>> stops;
  for (auto& sandbox : sandboxes) stops.push_back(sandbox.stop());
  for (auto& stop : stops) co_await stop;
  co_return Numbers(1, median(times));
}

asio::awaitable<Numbers> logs(Client client, std::size_t count) {
  // As many lines as are due by the clock, a hundred times a second.
  const std::string program =
      "use Time::HiRes qw(time sleep); $| = 1; my ($n, $i, $t) = (shift, 0, time); "
      "while ($i < $n) { my $due = int((time - $t) * 100000); $due = $n if $due > $n; my $out = ''; "
      "$out .= \"line $i\\n\", $i++ while $i < $due; print $out; sleep 0.01 }";
  SandboxOptions options;
  options.with_command(argv("perl", "-e", program, std::to_string(count)));
  const auto began = Clock::now();
  auto sandbox = Sandbox::run(client, options);
  LogOptions follow;
  follow.with_follow();
  auto lines = sandbox.stream_logs(follow);
  std::size_t right = 0;
  while (auto line = co_await lines.next()) {
    if (!line->is_gap() && line->text == "line " + std::to_string(right)) ++right;
  }
  Numbers figures;
  figures.push_back(static_cast<double>(count - right));
  figures.push_back(static_cast<double>(count) / seconds_since(began));
  co_return figures;
}

asio::awaitable<Numbers> choose(Client client, std::vector<std::string> arguments) {
  const auto number = [&](std::size_t i) { return static_cast<std::size_t>(std::stoull(arguments.at(i))); };
  const std::string& what = arguments.at(0);
  const auto chunk = [&](std::size_t otherwise) { return arguments.size() > 2 ? number(2) : otherwise; };
  if (what == "stdout") return std_out(client, number(1), chunk(0));
  if (what == "stdin") return std_in(client, number(1), chunk(kChunk));
  if (what == "exec") return exec(client, number(1));
  if (what == "echo") return echo(client, number(1));
  if (what == "memory-none") return memory(client, number(1), arguments.at(2), Capture::none());
  if (what == "memory-all") return memory(client, number(1), arguments.at(2), Capture::all());
  if (what == "held") return held(client, number(1), arguments.at(2));
  if (what == "rate") return rate(client, number(1), number(2));
  if (what == "file-write" || what == "file-read") return copy_file(client, arguments.at(1), what == "file-write", arguments.at(2));
  if (what == "create") return create(client, number(1), std::chrono::milliseconds(chunk(0)));
  if (what == "create-many") return create_many(client, number(1));
  if (what == "list") return list(client, number(1), arguments.at(2));
  if (what == "bystander") return bystander(client, number(1));
  if (what == "logs") return logs(client, number(1));
  throw std::invalid_argument("unknown figure: " + what);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    asio::io_context context(1);
    const Client client(context.get_executor());
    auto numbers = asio::co_spawn(context, choose(client, std::vector<std::string>(argv + 1, argv + argc)), asio::use_future);
    context.run();
    for (const double number : numbers.get()) std::printf("%.6g\n", number);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench-figures: %s\n", e.what());
    return 1;
  }
}
