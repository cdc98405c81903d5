// Names for the addresses of a stack.
#pragma once

#include <span>
#include <string>

namespace cwsandbox::core {

/// A line for each address that a call returns to: the function's name, where the program still has its table of symbols, and the
/// place in the file, which addr2line knows: "  name (/path/program+0x1234)\n". Frames of Boost and of the standard library are
/// left out, but for the innermost.
[[nodiscard]] std::string stack_text(std::span<void* const> addresses);

}  // namespace cwsandbox::core
