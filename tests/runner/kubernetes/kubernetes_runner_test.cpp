// The Kubernetes runner on a real cluster: the checks that hold for every runner, and what only pods can do. Runs where
// CWSANDBOX_TEST_KUBECONFIG names a cluster that may be written to, with CWSANDBOX_TEST_AGENT_IMAGE and CWSANDBOX_TEST_IMAGE in it.
#include "runner/kubernetes/kubernetes_runner.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

#include <cstdlib>
#include <deque>
#include <iostream>
#include <random>

#include "runner/conformance.hpp"
#include "support/catch.hpp"

namespace cwsandbox::test {

namespace kubernetes = runner::kubernetes;

namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : value;
}

// Whether there is a cluster to test against; says so when there is not, so that nobody takes silence for success.
bool have_cluster() {
  if (!environment("CWSANDBOX_TEST_KUBECONFIG").empty()) return true;
  WARN("SKIPPED: no cluster (CWSANDBOX_TEST_KUBECONFIG is not set)");
  return false;
}

kubernetes::KubernetesOptions options() {
  kubernetes::KubernetesOptions made;
  kubernetes::KubeconfigOptions file;
  file.file = environment("CWSANDBOX_TEST_KUBECONFIG");
  file.name_space = environment("CWSANDBOX_TEST_NAMESPACE");
  made.access = kubernetes::load_kubeconfig(file);
  made.pods.agent_image = environment("CWSANDBOX_TEST_AGENT_IMAGE");
  made.pods.default_image = environment("CWSANDBOX_TEST_IMAGE");
  made.pods.image_pull_policy = made.pods.agent_pull_policy = "Never";
  made.keep_ended = std::chrono::seconds(1);
  made.log = [](const std::string& text) { std::cerr << text << '\n'; };
  return made;
}

std::string random_name() {
  std::random_device device;
  std::string name = "t-";
  for (int i = 0; i < 12; ++i) name += static_cast<char>('a' + device() % 26);
  return name;
}

// A cluster's names are for all: each sandbox gets its own, whatever the check calls it.
class OwnNames final : public runner::Runner {
 public:
  explicit OwnNames(runner::Runner& inner) : inner_(inner) {}
  std::string_view name() const noexcept override { return inner_.name(); }
  asio::awaitable<std::unique_ptr<runner::Sandbox>> create(runner::SandboxSpec spec) override {
    spec.id = random_name();
    return inner_.create(std::move(spec));
  }

 private:
  runner::Runner& inner_;
};

// All of them, some at a time, since most of a check's time is the cluster's.
void run_checks(const std::vector<RunnerCheck>& checks) {
  constexpr int kAtOnce = 8;
  constexpr std::chrono::minutes kLongest{20};
  asio::io_context loop(1);
  auto cluster = kubernetes::make_kubernetes_runner(loop.get_executor(), options());
  OwnNames names(*cluster);
  std::deque<const RunnerCheck*> waiting;
  for (const RunnerCheck& check : checks) waiting.push_back(&check);
  int running = 0;
  std::size_t done = 0;
  std::function<void()> next = [&] {
    while (running < kAtOnce && !waiting.empty()) {
      const RunnerCheck* check = waiting.front();
      waiting.pop_front();
      ++running;
      asio::co_spawn(loop, check->run(names), [&, check](const std::exception_ptr& error) {
        --running;
        ++done;
        INFO(check->name);
        std::string why;
        try {
          if (error) std::rethrow_exception(error);
        } catch (const std::exception& e) {
          why = e.what();
        } catch (...) {
          why = "a requirement above";
        }
        CHECK(why == "");
        next();
      });
    }
  };
  next();
  const auto deadline = std::chrono::steady_clock::now() + kLongest;
  while (done < checks.size()) {
    REQUIRE(std::chrono::steady_clock::now() < deadline);
    loop.run_one_for(std::chrono::seconds(1));
  }
  cluster.reset();
  run_until(loop, [&] { return loop.stopped(); });  // nothing goes on behind it
}

}  // namespace

TEST_CASE("the Kubernetes runner does what every runner must",
          "[cluster][runner][EX-2][EX-8][EX-16][IO-4][IO-5][IO-6][IO-8][IO-9][P8]") {
  if (have_cluster()) run_checks(runner_checks());
}

TEST_CASE("the Kubernetes runner handles files as every runner must", "[cluster][files][FI-1][FI-3][FI-6][FI-8]") {
  if (have_cluster()) run_checks(file_checks());
}

}  // namespace cwsandbox::test
