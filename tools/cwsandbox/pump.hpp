// Moves bytes between our own stdin, stdout and stderr and those of a process or a terminal, and signals with them.
#pragma once

#include "system.hpp"

#include <cwsandbox/sandbox.hpp>

#include <optional>

namespace cli {

/// Until the process has ended; the exit code that this program is to have. SIGINT and SIGTERM go to the process.
int pump_process(const cwsandbox::Process& process, const Signals& signals);
/// The same for a terminal. When ours is one, it is in raw mode from when the command has started until it has ended: Ctrl-C and
/// the like go through as bytes, but for `escape`, see EscapeFilter, and what Patience says. SIGWINCH becomes a resize; SIGTERM,
/// SIGINT and SIGHUP, sent from elsewhere, hang up.
int pump_terminal(const cwsandbox::TerminalSession& session, const Signals& signals, std::optional<char> escape);

}  // namespace cli
