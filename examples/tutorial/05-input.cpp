// Input for a command: write, then end the input and read on.
#include <cwsandbox/cwsandbox.hpp>

#include <iostream>

using namespace cwsandbox;

int main() {
  auto sandbox = Sandbox::run();
  auto sort = sandbox.exec({"sort"}, ExecOptions().with_stdin());
  const StreamWriter& input = *sort.std_in();
  for (const char* fruit : {"pear", "apple", "fig"}) input.writeline(fruit).result();  // waits while the queue is full
  input.close().result();                                                              // sort sees the end of its input
  std::cout << sort.result().std_out;

  // Input of any size passes through bounded queues: this program never holds more than a mebibyte or two of it.
  auto count = sandbox.exec({"wc", "-c"}, ExecOptions().with_stdin());
  const std::string block(64 * 1024, 'x');
  for (int i = 0; i < 256; ++i) count.std_in()->write(block).result();
  count.std_in()->close().result();
  std::cout << count.result().std_out;
}
