// Files: into the sandbox and out of it.
#include <cwsandbox/cwsandbox.hpp>

#include <iostream>

using namespace cwsandbox;

int main() {
  auto sandbox = Sandbox::run();
  sandbox.write_file("/workspace/src/main.sh", "echo \"it is $1\" > result.txt\n", WriteFileOptions().with_make_parents()).result();
  sandbox.exec({"sh", "src/main.sh", "done"}, ExecOptions().with_cwd("/workspace").with_check()).result();
  std::cout << sandbox.read_file("/workspace/result.txt").result();

  for (const FileInfo& file : sandbox.list_files("/workspace/src").result())
    std::cout << file.name << ", " << file.size << " bytes\n";

  try {
    sandbox.read_file("/workspace/other.txt").result();
  } catch (const SandboxFileError& error) {
    std::cout << error.path() << ": " << error.error_name() << '\n';
  }
}
