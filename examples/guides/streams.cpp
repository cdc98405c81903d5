// Streams, back-pressure, and what is kept of the output.
#include <cwsandbox/cwsandbox.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include <iostream>
#include <sstream>

using namespace cwsandbox;
using namespace std::chrono_literals;

namespace {

void rethrow(const std::exception_ptr& error) {
  if (error) std::rethrow_exception(error);
}

// snippet: duplex
asio::awaitable<void> feed(StreamWriter input, int lines) {
  for (int i = 0; i < lines; ++i) co_await input.writeline("line " + std::to_string(i));
  co_await input.close();
}

asio::awaitable<void> through_a_filter(Client client) {
  auto sandbox = Sandbox::run(client);
  auto filter = sandbox.exec(argv("grep", "7"), ExecOptions().with_stdin().with_capture(Capture::none()));
  asio::co_spawn(co_await asio::this_coro::executor, feed(*filter.std_in(), 1'000), rethrow);
  std::size_t count = 0;
  auto lines = filter.std_out().lines();
  while (auto line = co_await lines.next()) ++count;
  std::cout << count << '\n';
}
// end snippet

// snippet: fake
Process fake(const std::vector<std::string>& chunks) {
  auto out = std::make_shared<Channel<std::string>>(16);
  auto err = std::make_shared<Channel<std::string>>(1);
  std::string text;
  for (const std::string& chunk : chunks) {
    text += chunk;
    out->send(chunk).result();
  }
  out->finish();
  err->finish();
  ProcessResult result;
  result.std_out = Output(text);
  result.outcome = Outcome::exited;
  result.returncode = 0;
  return Process(make_ready_task(result), {"fake"}, StreamReader<std::string>(out), StreamReader<std::string>(err));
}
// end snippet

}  // namespace

int main() {
  {
    asio::io_context context;
    asio::co_spawn(context, through_a_filter(Client(context.get_executor())), rethrow);
    context.run();
  }
  auto sandbox = Sandbox::run();
  {
    // snippet: read
    auto process = sandbox.exec({"sh", "-c", "echo out; echo err >&2"});
    std::cout << process.std_err().read_all().result();                     // everything, as one string
    for (const std::string& chunk : process.std_out()) std::cout << chunk;  // chunks as they arrive
    std::cout << process.result().std_out;                                  // the result has it all the same
    // end snippet
  }
  {
    // snippet: copy
    std::istringstream source(std::string(1'000'000, 'x'));  // any std::istream: a file, std::cin
    auto count = sandbox.exec({"wc", "-c"}, ExecOptions().with_stdin());
    std::string chunk(64 * 1024, '\0');
    while (source.read(chunk.data(), static_cast<std::streamsize>(chunk.size())), source.gcount() > 0)
      count.std_in()->write(std::string_view(chunk).substr(0, static_cast<std::size_t>(source.gcount()))).result();
    count.std_in()->close().result();
    std::cout << count.result().std_out;
    // end snippet
  }
  {
    // snippet: flush
    auto cat = sandbox.exec({"cat"}, ExecOptions().with_stdin());
    cat.std_in()->writeline("one").result();  // queued
    cat.std_in()->flush().result();           // it is in the process's pipe
    std::cout << *cat.std_out().next().result();
    // end snippet
  }
  {
    // snippet: writer-error
    auto quits = sandbox.exec({"true"}, ExecOptions().with_stdin());
    quits.result();
    try {
      quits.std_in()->write("too late").result();
    } catch (const SandboxExecutionError& error) {
      std::cout << error.what() << '\n';
    }
    // end snippet
  }
  {
    // snippet: pipe
    auto numbers = sandbox.exec({"seq", "1000"}, ExecOptions().with_capture(Capture::none()));
    auto sum = sandbox.exec({"awk", "{ s += $1 } END { print s }"}, ExecOptions().with_stdin());
    auto bytes = pipe(numbers.std_out(), sum.std_in()).result();  // to the end of seq's output; then awk's input is closed
    std::cout << bytes << " bytes, sum " << sum.result().std_out;
    std::cout << sandbox.sh("seq 1000 | tail -n 1").result().std_out;   // the same within the sandbox: by its shell
    std::cout << sandbox.check_output({"echo", "only this"}).result();  // throws for an exit other than 0
    // end snippet
  }
  {
    // snippet: with-timeout
    auto slow = sandbox.exec({"sh", "-c", "sleep 0.5; echo late"});
    try {
      std::cout << *with_timeout(slow.std_out().next(), 50ms).result();
    } catch (const TimeoutError& error) {
      std::cout << error.what() << '\n';
    }
    std::cout << *slow.std_out().next().result();  // it has lost nothing
    // end snippet
  }
  {
    // snippet: none
    auto dump = sandbox.exec({"head", "-c", "5000000", "/dev/zero"}, ExecOptions().with_capture(Capture::none()));
    std::uint64_t bytes = 0;
    for (const std::string& chunk : dump.std_out()) bytes += chunk.size();  // a slow reader slows the process
    std::cout << bytes << " bytes, " << dump.result().std_out.size() << " of them kept\n";
    // end snippet
  }
  {
    // snippet: head-tail
    auto log = sandbox.exec({"seq", "1000000"}, ExecOptions().with_capture(Capture::head_tail(6, 8))).result();
    std::cout << log.std_out.head() << "… " << log.std_out.dropped() << " bytes …\n" << log.std_out.tail();
    // end snippet
  }
  {
    // snippet: text
    auto nap = sandbox.exec(argv("sh", "-c", "sleep $1; echo rested", "sh", 0.1)).result();
    std::string said = nap.std_out;
    if (nap.std_out.starts_with("rested")) std::cout << nap << ": " << said;  // exited, exit code 0: rested
    // end snippet
  }
  {
    // snippet: drain
    auto start = sandbox.exec({"sh", "-c", "sleep 60 & echo started"}, ExecOptions().with_drain(100ms)).result();
    std::cout << start.std_out << "exit code " << *start.returncode
              << (start.stdout_left_open ? ", somebody holds stdout\n" : "\n");
    // end snippet
  }
  {
    // snippet: use-fake
    auto process = fake({"split ", "anywhere\n", "and whole again\n"});
    for (std::string_view line : process.std_out().lines()) std::cout << line << '\n';
    // end snippet
  }
}
