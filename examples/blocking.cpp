// From a plain thread: calls that block, nothing to set up.
#include <cwsandbox/cwsandbox.hpp>

#include <iostream>

int main() {
  auto sandbox = cwsandbox::Sandbox::run();
  auto result = sandbox.exec({"sh", "-c", "echo hello from $(id -un); exit 3"}).result();  // blocks
  std::cout << result.std_out << "exit code " << *result.returncode << '\n';
  for (std::string_view line : sandbox.exec({"seq", "3"}).std_out().lines()) std::cout << "line " << line << '\n';
}
