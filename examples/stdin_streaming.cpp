// Streams far more than fits in memory limits into a process: a write completes when there is room, so this side never runs ahead
// of the process by more than a mebibyte or two. Prints the number of bytes that arrived.
#include <cwsandbox/cwsandbox.hpp>
#include <cwsandbox/sandbox.hpp>

#include <iostream>

int main() {
  auto sandbox = cwsandbox::Sandbox::run();
  auto count = sandbox.exec({"wc", "-c"}, cwsandbox::ExecOptions().with_stdin());
  const std::string block(64 * 1024, 'x');
  for (int i = 0; i < 512; ++i) count.std_in()->write(block).result();  // waits while the process is behind
  count.std_in()->close().result();
  std::cout << count.result().std_out;
}
