// Errors of the wire as the exceptions that users see (ER-1 to ER-5).
#pragma once

#include <cwsandbox/errors.hpp>

#include "base/error_code.hpp"
#include "protocol/connect.hpp"
#include "protocol/exec_stream.hpp"

#include <exception>

namespace cwsandbox::client {

using base::ErrorCode;

/// The exception for an error that a server sent. The reason decides under our own domain only; else the code does (ER-3, ER-4).
[[nodiscard]] std::exception_ptr make_error(const protocol::ConnectError& error);
[[nodiscard]] std::exception_ptr make_error(const protocol::StatusError& error);

/// Turns what net:: throws (TransportError, UpgradeRefused) into the tree; anything else stays as it is.
[[nodiscard]] std::exception_ptr from_transport(const std::exception_ptr& error);

/// "rm -rf x" for a message: what was asked for, shortened and printable.
[[nodiscard]] std::string describe_command(const std::vector<std::string>& command);

}  // namespace cwsandbox::client
