// Types that behave, with sandboxes: see tests/core/test_types.cpp for those that need none.
#include "support.hpp"

#include <map>
#include <sstream>

using namespace cwsandbox;

TEST_CASE("the results of a list of processes, and of handles in maps", "[TY-4][TY-5]") {
  std::map<std::string, Sandbox> sandboxes;
  std::map<std::string, Process> processes;
  sandboxes["one"] = Sandbox::run(Client("local:"));
  processes["a"] = sandboxes["one"].exec(argv("seq", 2));
  processes["b"] = sandboxes["one"].exec(argv("sh", "-c", "exit $1", "sh", 3));
  const auto both = results({processes["a"], processes["b"]}).result();
  REQUIRE(both.size() == 2);
  CHECK(both[0].std_out.starts_with("1\n"));
  std::ostringstream printed;
  printed << both[1] << ", " << SandboxStatus::running;
  CHECK(printed.str() == "exited, exit code 3, running");
  sandboxes["one"].stop().result();
}

TEST_CASE("a client by its address", "[TY-5]") {
  CHECK(Client("http://127.0.0.1:1").base_url() == "http://127.0.0.1:1");
  CHECK(Client(std::string("unix:/nowhere/at.sock")).base_url().find("/nowhere/at.sock") != std::string::npos);
  CHECK_THROWS_AS(Client("nonsense"), std::invalid_argument);
  CHECK_THROWS_AS(Client(static_cast<const char*>(nullptr)), std::invalid_argument);
}
