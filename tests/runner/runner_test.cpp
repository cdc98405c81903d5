// The local runner through the checks that hold for every runner.
#include <boost/asio/io_context.hpp>

#include "conformance.hpp"
#include "runner/local/local_runner.hpp"
#include "support/catch.hpp"

namespace cwsandbox::test {

TEST_CASE("the local runner does what every runner must", "[runner][EX-2][EX-8][EX-16][IO-4][IO-5][IO-6][IO-8][IO-9][P8]") {
  for (const RunnerCheck& check : runner_checks()) {
    DYNAMIC_SECTION(check.name) {
      asio::io_context loop;
      auto runner = runner::local::make_local_runner(loop.get_executor());
      run(loop, check.run(*runner));
      run_until(loop, [&] { return loop.stopped(); });  // nothing goes on behind it
    }
  }
}

TEST_CASE("the local runner handles files as every runner must", "[runner][files][FI-1][FI-3][FI-6][FI-8]") {
  for (const RunnerCheck& check : file_checks()) {
    DYNAMIC_SECTION(check.name) {
      asio::io_context loop;
      auto runner = runner::local::make_local_runner(loop.get_executor());
      run(loop, check.run(*runner));
      run_until(loop, [&] { return loop.stopped(); });
    }
  }
}

}  // namespace cwsandbox::test
