// Starts a sandbox with a process in it, gives up neither, and exits. Prints a mark that the process bears in its arguments.
#include <cwsandbox/cwsandbox.hpp>
#include <cwsandbox/sandbox.hpp>

#include <csignal>
#include <cstdlib>
#include <iostream>

#include <unistd.h>

namespace {

cwsandbox::Sandbox at_namespace_scope;

/// Ends the process while a sandbox and a process of it are on the stack.
[[noreturn]] void exit_from_below(const cwsandbox::Sandbox& sandbox, const cwsandbox::Process& process) {
  const cwsandbox::Sandbox mine = sandbox;
  const cwsandbox::Process running = process;
  std::exit(0);
}

}  // namespace

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
  if (how == "namespace" || how == "stack" || how == "released") {
    auto made = cwsandbox::Sandbox::run();
    const auto running = made.exec({"/bin/sh", "-c", "echo ready; sleep 1000; : " + mark});
    std::cout << *running.std_out().next().result() << std::flush;
    if (how == "released") made.release();
    if (how == "stack") exit_from_below(made, running);
    at_namespace_scope = made;
    return 0;
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
