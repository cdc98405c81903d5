// Output while the command runs, line by line.
#include <cwsandbox/cwsandbox.hpp>

#include <iostream>

using namespace cwsandbox;

int main() {
  auto sandbox = Sandbox::run();
  auto build = sandbox.exec({"sh", "-c", "for i in 1 2 3; do echo compiling file $i; sleep 0.2; done; echo 1 warning >&2"});
  for (std::string_view line : build.std_out().lines()) std::cout << "> " << line << '\n';  // as they come

  // Nobody has read stderr; the result holds all of both streams.
  auto result = build.result();
  std::cout << "stderr: " << result.std_err;
  std::cout << "stdout: " << result.std_out.size() << " bytes\n";
}
