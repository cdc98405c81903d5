// A command on a terminal of its own.
#include <cwsandbox/cwsandbox.hpp>

#include <iostream>

using namespace cwsandbox;
using namespace std::chrono_literals;

int main() {
  auto sandbox = Sandbox::run();
  {
    // snippet: session
    auto shell = sandbox.shell(ShellOptions().with_command({"sh"}).with_size(100, 30).with_env("PS1", "$ "));
    shell.input().write("stty size; exit 5\n").result();      // what is typed
    std::string screen = shell.output().read_all().result();  // what the terminal shows: echo, prompt, output, all in one
    std::cout << (screen.find("30 100") != std::string::npos) << '\n';
    std::cout << *shell.result().returncode << '\n';
    // end snippet
  }
  {
    // snippet: expect
    auto shell = sandbox.shell(ShellOptions().with_command({"sh"}).with_env("PS1", "ready> "));
    expect(shell.output(), "ready> ", 30s).result();
    shell.input().write("echo $((6 * 7))\n").result();
    std::string answer = expect(shell.output(), "ready> ", 30s).result();  // echo, answer and the next prompt
    std::cout << (answer.find("\n42\r\n") != std::string::npos) << '\n';
    // end snippet
  }
  {
    // snippet: resize
    auto shell = sandbox.shell(
        ShellOptions().with_command({"sh", "-c", "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.1; done"}));
    for (std::string_view line : shell.output().lines()) {
      if (line == "ready\r") shell.resize(120, 40);  // fire and forget; the last one counts
      if (line == "40 120\r") std::cout << "resized\n";
    }
    // end snippet
  }
  {
    // snippet: reattach
    std::string id;
    {
      auto shell = sandbox.shell(ShellOptions().with_command({"sh"}));
      shell.input().write("echo first\n").result();
      shell.pid().result();  // it has started
      shell.detach();        // goes on when this handle goes
      id = shell.id();
    }
    auto again = sandbox.attach_terminal(id, AttachOptions().with_stdin());
    again.input().write("echo again; exit\n").result();
    std::string screen = again.output().read_all().result();  // from the first byte on, as far as the gateway holds it
    std::cout << (screen.find("first\r\n") < screen.find("again\r\n")) << '\n';
    // end snippet
  }
}
