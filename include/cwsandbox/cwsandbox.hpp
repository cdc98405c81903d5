/// \file
/// Everything: one include for users.
#pragma once

#include <cwsandbox/asio.hpp>
#include <cwsandbox/channel.hpp>
#include <cwsandbox/client.hpp>
#include <cwsandbox/defaults.hpp>
#include <cwsandbox/duration.hpp>
#include <cwsandbox/errors.hpp>
#include <cwsandbox/exec_options.hpp>
#include <cwsandbox/files.hpp>
#include <cwsandbox/io.hpp>
#include <cwsandbox/logs.hpp>
#include <cwsandbox/loop_manager.hpp>
#include <cwsandbox/process.hpp>
#include <cwsandbox/sandbox.hpp>
#include <cwsandbox/sandbox_options.hpp>
#include <cwsandbox/session.hpp>
#include <cwsandbox/stream_reader.hpp>
#include <cwsandbox/stream_writer.hpp>
#include <cwsandbox/task.hpp>
#include <cwsandbox/terminal.hpp>
#include <cwsandbox/trace.hpp>
#include <cwsandbox/version.hpp>
#include <cwsandbox/wait.hpp>

/// \namespace cwsandbox
/// All names of the library. What is in `detail`, and what is marked as being for the library's own parts, may change at any time.
