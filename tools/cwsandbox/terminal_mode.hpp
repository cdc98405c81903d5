// The local terminal in raw mode, given back however this program ends.
#pragma once

#include <optional>
#include <utility>

namespace cli {

/// Puts the terminal on `fd` into raw mode as long as it lives: every key is a byte, nothing is echoed, nothing becomes a signal.
/// One at a time. Given back by the destructor, by exit(), by std::terminate, and by a signal that ends the program at once (all
/// but SIGKILL); signals that the caller takes as a descriptor are the caller's.
class TerminalMode {
 public:
  explicit TerminalMode(int fd);
  ~TerminalMode();
  TerminalMode(const TerminalMode&) = delete;
  TerminalMode& operator=(const TerminalMode&) = delete;

  /// Stops this program as Ctrl-Z does any other: the terminal is the shell's meanwhile.
  void suspend();
};

/// Columns and rows of the first of stdin, stdout and stderr that is a terminal and knows them.
[[nodiscard]] std::optional<std::pair<int, int>> terminal_size();

}  // namespace cli
