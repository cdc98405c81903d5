// How an ended process's outcome reads as a status.
#pragma once

#include <cwsandbox/process.hpp>

namespace cwsandbox::core {

[[nodiscard]] ProcessStatus status_of(Outcome outcome) noexcept;

}  // namespace cwsandbox::core
