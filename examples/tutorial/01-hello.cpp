// A command in a sandbox, what it printed, and how it ended.
#include <cwsandbox/cwsandbox.hpp>

#include <iostream>

int main() {
  auto sandbox = cwsandbox::Sandbox::run();  // returns at once; stopped when `sandbox` goes
  auto result = sandbox.exec({"sh", "-c", "echo hello; echo trouble >&2; exit 3"}).result();  // blocks
  std::cout << "stdout: " << result.std_out;
  std::cout << "stderr: " << result.std_err;
  std::cout << "exit code: " << *result.returncode << '\n';
}
