// What goes wrong with the files of a sandbox, told with the path as the caller has it.
#pragma once

#include <cwsandbox/errors.hpp>

#include "base/error_code.hpp"

#include <exception>
#include <string>

namespace cwsandbox::client::files {

inline constexpr const char* kTooLarge = "CWSANDBOX_FILE_TOO_LARGE";

/// "Cannot read '/etc/x'": how a message begins.
[[nodiscard]] std::string doing(const char* verb, const std::string& path);

[[nodiscard]] SandboxFileError file_error(const std::string& text, const std::string& path, base::ErrorCode code,
                                          const char* reason);

/// The error under way, about `path`: a file's error gets the path as the caller has it (FI-2).
[[nodiscard]] std::exception_ptr about(const char* verb, const std::string& path);

/// Whether `error` says that the server does not know what it was asked to do.
[[nodiscard]] bool is_unimplemented(const std::exception_ptr& error);

}  // namespace cwsandbox::client::files
