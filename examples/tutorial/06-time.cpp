// Three ways to stop waiting: a limit for the command, a limit for yourself, and cancelling.
#include <cwsandbox/cwsandbox.hpp>

#include <iostream>

using namespace cwsandbox;
using namespace std::chrono_literals;

int main() {
  auto sandbox = Sandbox::run();

  // The command's own limit: its process group is killed where it runs, and the error holds what it had written.
  try {
    sandbox.exec({"sh", "-c", "echo working; sleep 60"}, ExecOptions().with_timeout(2s)).result();
  } catch (const SandboxCommandTimeoutError& error) {
    std::cout << "killed; it had written: " << error.result()->std_out;
  }

  // Your own limit: nothing happens to the command, and you may ask again.
  auto slow = sandbox.exec({"sh", "-c", "read line; echo got $line"}, ExecOptions().with_stdin());
  try {
    slow.result(100ms);
  } catch (const TimeoutError&) {
    std::cout << "not yet\n";
  }
  slow.std_in()->writeline("it").result();
  std::cout << slow.result().std_out;

  // Cancelling: SIGTERM to the process group, SIGKILL after a grace time, and a confirmed end.
  auto server = sandbox.exec({"sleep", "3600"});
  server.cancel();
  try {
    server.result();
  } catch (const CancelledError& error) {
    std::cout << to_string(error.result()->outcome) << '\n';
  }
}
