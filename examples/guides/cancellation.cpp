// Cancellation and timeouts.
#include <cwsandbox/cwsandbox.hpp>

#include <iostream>

using namespace cwsandbox;
using namespace std::chrono_literals;

int main() {
  auto sandbox = Sandbox::run();
  {
    // snippet: command
    try {
      sandbox.exec({"sh", "-c", "echo so far; sleep 60"}, ExecOptions().with_timeout(2s).with_grace_period(0.5s)).result();
    } catch (const SandboxCommandTimeoutError& error) {
      std::cout << error.result()->std_out;  // what it had written until then
    }
    // end snippet
  }
  {
    // snippet: signal
    auto process = sandbox.exec({"sh", "-c", "trap 'echo interrupted; exit 0' INT; echo ready; while :; do sleep 0.05; done"});
    auto lines = process.std_out().lines();
    for (std::string_view line : lines) {
      std::cout << line << '\n';
      if (line == "ready") process.signal("SIGINT");  // to its process group; passes even while streams are stuck
    }
    // end snippet
  }
  {
    // snippet: cancel
    auto process = sandbox.exec({"sleep", "3600"});
    std::cout << process.cancel() << '\n';  // 1: it took effect
    try {
      process.result();  // ends when the gateway has confirmed the end: nothing is left then
    } catch (const CancelledError& error) {
      std::cout << to_string(error.result()->outcome) << '\n';
    }
    // end snippet
  }
  {
    // snippet: scope
    {
      auto process = sandbox.exec({"sleep", "3600"});
    }  // its last handle goes here, and so does the process
    std::string id;
    {
      auto process = sandbox.exec({"sh", "-c", "echo $$ > /tmp/pid; sleep 3600"});
      process.pid().result();  // it has started
      process.detach();        // goes on without a handle
      id = process.id();
    }
    auto again = sandbox.attach(id);  // and can be taken over by its id, from another program too
    again.cancel();
    // end snippet
  }
  {
    // snippet: take-over
    auto first = sandbox.exec({"sh", "-c", "echo one; echo two; sleep 3600"}, ExecOptions().with_capture(Capture::none()));
    std::cout << *first.std_out().next_line().result() << '\n';
    auto next = sandbox.attach(first.id(), AttachOptions().with_offsets(first.std_out().offset()));  // behind what was read
    std::cout << *next.std_out().next_line().result() << '\n';
    next.pid().result();  // it is ours, and the gateway has said what it is
    std::cout << next.command().back() << '\n';
    next.cancel();
    // end snippet
  }
  {
    // snippet: wait-many
    auto slow = sandbox.exec({"sleep", "60"});
    auto quick = sandbox.exec({"true"});
    quick.result();
    auto found = wait({slow, quick}, WaitManyOptions().with_timeout(100ms)).result();  // one deadline over all
    std::cout << found.done.size() << " done, " << found.pending.size() << " pending\n";
    // end snippet
  }
}
