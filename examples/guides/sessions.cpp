// Sessions, sandboxes that exist, and logs.
#include <cwsandbox/cwsandbox.hpp>

#include <iostream>

using namespace cwsandbox;
using namespace std::chrono_literals;

int main() {
  const Client client;
  {
    // snippet: session
    Session session(client, SandboxDefaults().with_env("MODE", "test").with_tag("nightly"));
    auto one = session.sandbox(SandboxOptions().with_env("SHARD", "1"));  // no network call yet
    auto two = session.sandbox(SandboxOptions().with_env("SHARD", "2"));
    auto first = one.exec({"sh", "-c", "echo $MODE $SHARD"});  // starts it
    auto second = two.exec({"sh", "-c", "echo $MODE $SHARD"});
    std::cout << first.result().std_out << second.result().std_out;
    session.close().result();  // stops all at once; SessionCloseError says which did not
    // end snippet
  }
  {
    // snippet: defaults
    const SandboxDefaults base = SandboxDefaults().with_env("MODE", "test").with_tag("ci");
    const SandboxDefaults nightly = base.with_tag("nightly").with_max_lifetime(30min);  // base stays as it is
    SandboxOptions merged = nightly.merge(SandboxOptions().with_env("MODE", "debug"));  // what is said explicitly wins
    std::cout << merged.env().at("MODE") << ' ' << merged.tags()[0] << ' ' << merged.tags()[1] << '\n';
    // end snippet
  }
  {
    // snippet: find
    auto sandbox = Sandbox::run(client, SandboxOptions().with_tag("findable"));
    sandbox.wait().result();  // until it runs
    auto found = Sandbox::list(client, ListOptions().with_tag("findable")).result();
    auto same = Sandbox::from_id(client, *sandbox.sandbox_id()).result();
    std::cout << found.size() << ' ' << to_string(same.status()) << '\n';
    same.stop().result();  // completes when nothing of it is left
    std::cout << to_string(sandbox.get_status().result()) << '\n';
    // end snippet
  }
  {
    // snippet: main-command
    auto job = Sandbox::run(client, SandboxOptions().with_command({"/bin/sh", "-c", "echo working; exit 3"}));
    try {
      job.wait_until_complete().result();
    } catch (const SandboxFailedError&) {
      std::cout << *job.returncode() << '\n';  // only what was observed, never made up
    }
    // end snippet
    // snippet: logs
    for (const LogLine& line : job.stream_logs()) std::cout << line.text << '\n';  // also when it has ended
    // end snippet
  }
  {
    // snippet: follow
    auto job =
        Sandbox::run(client, SandboxOptions().with_command({"/bin/sh", "-c", "for i in 1 2 3; do echo tick $i; sleep 0.1; done"}));
    auto log = job.stream_logs(LogOptions().with_follow().with_timestamps());
    for (const LogLine& line : log) {
      if (line.is_gap())
        std::cout << "[" << line.lost_bytes << " bytes are missing]\n";
      else
        std::cout << line.text << '\n';
    }
    // end snippet
  }
}
