// The shortest way: blocking calls from a plain thread. Prints "4".
#include <cwsandbox/cwsandbox.hpp>
#include <cwsandbox/sandbox.hpp>

#include <iostream>

int main() {
  auto sandbox = cwsandbox::Sandbox::run();  // returns at once; stopped when `sandbox` goes
  auto result = sandbox.exec({"sh", "-c", "echo $((2 + 2))"}).result();
  std::cout << result.std_out;
  return result.returncode.value_or(1);
}
