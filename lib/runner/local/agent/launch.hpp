// What the agent's program does before there is a sandbox: steps that change the rights of who takes them. The gateway would need a
// copy of its memory for each, and then pays for every page of it that it touches meanwhile; this program is small.
#pragma once

namespace cwsandbox::runner::local::agent {

/// True for the arguments of such a step (see kBecome and kRemount).
[[nodiscard]] bool is_launch_step(int argc, char** argv);

/// Takes it: is another program afterwards, or ends. What failed is written to the descriptor that the arguments name.
[[noreturn]] void take_launch_step(int argc, char** argv);

}  // namespace cwsandbox::runner::local::agent
