#pragma once

#include <string>

namespace cwsandbox::runner::pod {

/// Puts this program into `directory` as `cwsandbox-agent`: whole, or not at all. An exit code; what is wrong goes to stderr.
[[nodiscard]] int install(const std::string& directory);

}  // namespace cwsandbox::runner::pod
