// What a sandbox has when it starts, and what one command has in addition.
#include <cwsandbox/cwsandbox.hpp>

#include <iostream>

using namespace cwsandbox;

int main() {
  auto sandbox = Sandbox::run(SandboxOptions()
                                  .with_env("GREETING", "hello")
                                  .with_file(FileMount("/workspace/names.txt", "ann\nbob\n"))
                                  .with_working_dir("/workspace")
                                  .with_tag("tutorial")
                                  .with_max_lifetime(std::chrono::minutes(5)));

  // The program is found and run as it is. A shell takes part only where you ask for one.
  auto count = sandbox.exec({"wc", "-l", "names.txt"}).result();
  std::cout << count.std_out;

  auto greet = sandbox.exec({"sh", "-c", "while read name; do echo $GREETING, $name$MARK; done < names.txt"},
                            ExecOptions().with_env("MARK", "!"));
  std::cout << greet.result().std_out;

  auto where = sandbox.exec({"pwd"}, ExecOptions().with_cwd("/tmp"));
  std::cout << where.result().std_out;
}
