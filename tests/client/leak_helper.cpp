// Starts a sandbox with a process in it, gives up neither, and exits. Prints a mark that the process bears in its arguments.
#include <cwsandbox/cwsandbox.hpp>
#include <cwsandbox/sandbox.hpp>

#include <csignal>
#include <iostream>

#include <unistd.h>

int main(int argc, char** argv) {
  const std::string mark = argc > 1 ? argv[1] : "mark";
  const std::string how = argc > 2 ? argv[2] : "leak";
  if (how == "session" || how == "signal" || how == "no-signal") {
    // A session that nobody closes.
    static auto* session = new cwsandbox::Session;
    if (how == "signal") cwsandbox::Session::handle_signals();
    session->sandbox(cwsandbox::SandboxOptions().with_tag(std::to_string(::getpid()))).start().result();
    std::cout << "ready" << std::endl;
    if (how == "session") return 0;
    ::kill(::getpid(), SIGTERM);
    for (;;) ::pause();
  }
  // Static: still reachable at exit, so that a leak checker takes them for wanted.
  static auto* sandbox = new cwsandbox::Sandbox(cwsandbox::Sandbox::run());
  static auto* process = new cwsandbox::Process(sandbox->exec({"/bin/sh", "-c", "echo ready; sleep 1000; : " + mark}));
  std::cout << *process->std_out().next().result() << std::flush;
  if (how == "scope") {
    delete process;
    delete sandbox;
  }
  if (how == "static") {
    static const cwsandbox::Sandbox kept = *sandbox;
    static const cwsandbox::Process running = *process;
    delete process;
    delete sandbox;
  }
  if (how == "die") ::_exit(3);
  return 0;
}
