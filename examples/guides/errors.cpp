// Errors, outcomes and retries.
#include <cwsandbox/cwsandbox.hpp>

#include <iostream>

using namespace cwsandbox;
using namespace std::chrono_literals;

int main() {
  auto sandbox = Sandbox::run();
  {
    // snippet: check
    try {
      sandbox.exec({"sh", "-c", "echo why >&2; exit 4"}, ExecOptions().with_check()).result();
    } catch (const SandboxExecutionError& error) {
      std::cout << *error.result()->returncode << ", " << error.result()->std_err;
    }
    // end snippet
  }
  {
    // snippet: fields
    try {
      Sandbox::from_id(Client(), "no-such-sandbox").result();
    } catch (const SandboxNotFoundError& error) {
      std::cout << error.code() << ' ' << error.reason() << '\n';
    }
    // end snippet
  }
  {
    // snippet: outcome
    auto describe = [&](std::vector<std::string> command, std::chrono::seconds limit = 60s) -> std::string {
      auto process = sandbox.exec(std::move(command), ExecOptions().with_timeout(limit));
      try {
        const ProcessResult& result = process.result();
        if (result.ok()) return "fine";
        if (result.signal) return "killed by signal " + std::to_string(*result.signal);
        return "exit code " + std::to_string(*result.returncode);
      } catch (const SandboxCommandTimeoutError&) {
        return "took too long";
      } catch (const SandboxConnectionLostError&) {
        return "nobody knows";  // never taken for success
      } catch (const SandboxExecutionError& error) {
        return "could not be started: " + error.error_name();
      }
    };
    for (const char* script : {"true", "exit 3", "kill -SEGV $$"}) std::cout << describe({"sh", "-c", script}) << '\n';
    std::cout << describe({"sleep", "60"}, 1s) << '\n';
    std::cout << describe({"no-such-program"}) << '\n';
    // end snippet
  }
  {
    // snippet: no-exceptions
    auto process = sandbox.exec({"no-such-program"});
    settle(std::vector{process}).result();  // waits, throws nothing for it
    if (process.error()) std::cout << to_string(process.status()) << '\n';
    // end snippet
  }
  {
    // snippet: retries
    Client client(ClientOptions()
                      .with_base_url("http://127.0.0.1:1")  // nobody listens there
                      .with_connect_timeout(2s)
                      .with_retry_budget(200ms));  // default 30 s; 0: not at all
    try {
      Sandbox::run(client).wait().result();
    } catch (const SandboxUnavailableError&) {
      std::cout << "unavailable, after some attempts\n";
    }
    // end snippet
  }
  {
    // snippet: observe
    Client client(ClientOptions()
                      .with_trace([](const TraceEvent& event) {
                        if (event.kind == TraceEvent::Kind::exec) std::cout << event.operation << ' ' << event.outcome << '\n';
                      })
                      .with_logger([](LogLevel level, std::string_view line) {
                        if (level >= LogLevel::warning) std::cerr << to_string(level) << ": " << line << '\n';
                      }));
    Sandbox::run(client).exec({"sh", "-c", "exit 3"}).result();
    // end snippet
  }
}
