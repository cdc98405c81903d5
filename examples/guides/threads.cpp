// Blocking use and threads.
#include <cwsandbox/cwsandbox.hpp>

#include <boost/asio/post.hpp>

#include <future>
#include <iostream>
#include <thread>

using namespace cwsandbox;
using namespace std::chrono_literals;

int main() {
  auto sandbox = Sandbox::run();
  {
    // snippet: forms
    task<std::string> text = sandbox.read_file("/etc/hostname");  // under way from here on
    text.result();                                                // blocks; throws what went wrong
    std::cout << text.done() << '\n';                             // 1
    std::cout << (text.result() == text.result()) << '\n';        // 1: any number of times, by any number of waiters
    // end snippet
  }
  {
    // snippet: limit
    auto process = sandbox.exec({"sleep", "60"});
    try {
      process.wait(50ms);
    } catch (const TimeoutError&) {
      std::cout << "your patience is at its end, the process goes on\n";
    }
    // end snippet
  }
  {
    // snippet: threads
    auto process = sandbox.exec({"sh", "-c", "read line; echo got $line"}, ExecOptions().with_stdin());
    std::thread writer([process] { process.std_in()->writeline("a line from another thread").result(); });
    std::cout << process.result().std_out;  // handles are cheap to copy and safe to share
    writer.join();
    // end snippet
  }
  {
    // snippet: callback
    auto process = sandbox.exec({"echo", "called back"});
    std::promise<void> printed;
    process.async_wait([process, &printed](boost::system::error_code) {  // on the library's thread
      std::cout << process.get().std_out;
      printed.set_value();
    });
    printed.get_future().wait();
    // end snippet
  }
  {
    // snippet: loop-thread
    std::promise<void> tried;
    asio::post(LoopManager().executor(), [&] {
      try {
        sandbox.exec({"true"}).result();  // would wait for work that only this thread can do
      } catch (const std::logic_error&) {
        std::cout << "refused\n";
      }
      tried.set_value();
    });
    tried.get_future().wait();
    // end snippet
  }
}
