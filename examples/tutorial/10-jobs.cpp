// All of it together: a small job runner. Each job gets a sandbox of its own, limits and a bounded amount of kept output.
#include <cwsandbox/cwsandbox.hpp>

#include <iostream>

using namespace cwsandbox;
using namespace std::chrono_literals;

struct Job {
  std::string name, script;
  std::chrono::seconds limit = 60s;
};

int main() {
  const std::vector<Job> jobs{
      {"sum", "seq 1 100 | awk '{ s += $1 } END { print s }'"},
      {"talkative", "yes | head -c 1000000"},
      {"broken", "echo about to fail; exit 7"},
      {"endless", "while :; do sleep 1; done", 1s},
  };

  // What all sandboxes have in common; close() stops them all.
  Session session(Client(), SandboxDefaults().with_tag("jobs").with_env("LC_ALL", "C"));

  std::vector<Process> running;
  for (const Job& job : jobs) {
    auto sandbox = session.sandbox(SandboxOptions().with_env("JOB", job.name));  // no network call yet
    sandbox.write_file("/workspace/job.sh", job.script).result();                // starts it
    running.push_back(
        sandbox.exec({"sh", "/workspace/job.sh"}, ExecOptions().with_timeout(job.limit).with_capture(Capture::head_tail(16, 16))));
  }

  settle(running).result();  // waits for all, throws for none
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    std::cout << jobs[i].name << ": ";
    try {
      const ProcessResult& result = running[i].result();
      std::cout << "exit code " << *result.returncode << ", " << result.std_out.received() << " bytes";
      if (result.std_out.dropped() == 0)
        std::cout << ": " << result.std_out;
      else
        std::cout << " of which " << result.std_out.size() << " were kept\n";
    } catch (const SandboxCommandTimeoutError&) {
      std::cout << "took too long\n";
    }
  }
  session.close().result();
}
