// Several commands at once.
#include <cwsandbox/cwsandbox.hpp>

#include <iostream>

using namespace cwsandbox;

int main() {
  auto sandbox = Sandbox::run();

  // All results, in the order of the list; the first failure in that order would be thrown.
  std::vector<Process> squares;
  for (int i = 1; i <= 4; ++i) squares.push_back(sandbox.exec({"sh", "-c", "echo $(($0 * $0))", std::to_string(i)}));
  for (const ProcessResult& result : results(squares).result()) std::cout << result.std_out;

  // Every outcome, whatever it is: nothing is thrown.
  std::vector<Process> mixed{sandbox.exec({"true"}), sandbox.exec({"no-such-program"})};
  for (const Process& process : settle(mixed).result())
    std::cout << process.command()[0] << ": " << to_string(process.status()) << '\n';

  // The first to finish.
  auto slow = sandbox.exec({"sleep", "60"});
  auto quick = sandbox.exec({"true"});
  auto found = wait({slow, quick}, WaitManyOptions().with_num_returns(1)).result();
  std::cout << found.done.front().process()->command()[0] << " is done, " << found.pending.size() << " goes on\n";
}
