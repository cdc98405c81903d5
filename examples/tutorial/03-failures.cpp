// What can go wrong with a command: an exit code, a signal, a program that is not there.
#include <cwsandbox/cwsandbox.hpp>

#include <iostream>

using namespace cwsandbox;

int main() {
  auto sandbox = Sandbox::run();

  // An exit code other than 0 is a result like any other …
  auto grep = sandbox.exec({"grep", "needle", "/etc/passwd"}).result();
  std::cout << to_string(grep.outcome) << ' ' << *grep.returncode << '\n';

  // … unless you ask for an exception.
  try {
    sandbox.exec({"sh", "-c", "echo trouble >&2; exit 2"}, ExecOptions().with_check()).result();
  } catch (const SandboxExecutionError& error) {
    std::cout << error.what() << '\n';
    std::cout << "it had written: " << error.result()->std_err;
  }

  auto killed = sandbox.exec({"sh", "-c", "kill -KILL $$"}).result();
  std::cout << to_string(killed.outcome) << ' ' << *killed.signal << '\n';

  // A program that cannot be started never has an exit code, so this always throws.
  try {
    sandbox.exec({"no-such-program"}).result();
  } catch (const SandboxExecutionError& error) {
    std::cout << to_string(error.result()->outcome) << ' ' << error.error_name() << '\n';
  }
}
